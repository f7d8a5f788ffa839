//! From the tree to a configuration as written: kind and version, types, unknown and repeated fields.
//!
//! Upstream: `k8s.io/apimachinery/pkg/runtime/serializer/json/json.go`, whose decoder matches names exactly and, since
//! 1.31, is strict. Releases 1.7 to 1.12 used `encoding/json` by way of `ghodss/yaml`: names in any case, unknown
//! fields passed over, scalars made strings where a string was wanted, the apiVersion never looked at.

use std::collections::HashSet;

use zeroize::Zeroizing;

use super::complaint::{Complaint, Stage, quotable};
use super::goduration;
use super::model::{
    DEFAULT_TIMEOUT_NANOS, File, Key, Keys, Kms, ProviderConfiguration, ResourceConfiguration, Written,
};
use super::scalar::float_text;
use super::tree::{Field, Node, Place, Value};

/// The kind of today, with the group that it belongs to.
const KIND: &str = "EncryptionConfiguration";
const GROUP: &str = "apiserver.config.k8s.io";
/// The kind of 1.7 to 1.12, still taken as another name of the same.
const OLD_KIND: &str = "EncryptionConfig";

/// Other kinds that upstream's decoder knows in the same version, and then has no use for.
const OTHER_KINDS: &[&str] =
    &["AdmissionConfiguration", "AuthenticationConfiguration", "AuthorizationConfiguration", "TracingConfiguration"];

/// Upstream tells no more than this many unknown and repeated fields.
const STRICT_LIMIT: usize = 100;

/// Whose rules the fields are read by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Era {
    /// 1.13 to today; whether what is unknown or repeated is an error is the caller's to say.
    Scheme,
    /// 1.7 to 1.12.
    Loose,
}

/// What `apiVersion` and `kind` say.
pub(super) struct TypeMeta {
    pub api_version: String,
    pub kind: String,
    pub place: Place,
}

/// Finds `apiVersion` and `kind` as Go's `encoding/json` does: in any case, the last one counts.
pub(super) fn type_meta(root: &Node) -> Result<TypeMeta, Complaint> {
    let mut meta = TypeMeta { api_version: String::new(), kind: String::new(), place: root.place };
    let fields = match &root.value {
        Value::Map(fields) => fields.as_slice(),
        Value::Null => &[],
        other => {
            let message = format!("couldn't get version/kind: an object is wanted, not {}", article(other));
            return Err(Complaint::at(Stage::Kind, "", root.place, message));
        }
    };
    for field in fields {
        let (name, target) = match folded(&field.name).as_str() {
            "kind" => ("kind", &mut meta.kind),
            "apiversion" => ("apiVersion", &mut meta.api_version),
            _ => continue,
        };
        match &field.value.value {
            Value::Text(text) => text.as_str().clone_into(target),
            Value::Null => continue,
            other => {
                let message = format!("couldn't get version/kind: a string is wanted, not {}", article(other));
                return Err(Complaint::at(Stage::Kind, name, field.value.place, message));
            }
        }
        if name == "kind" {
            meta.place = field.value.place;
        }
    }
    Ok(meta)
}

/// Go's folding of a name: ASCII letters, and the two characters beyond ASCII whose other case is one.
fn folded(name: &str) -> String {
    let fold = |character: char| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).collect()
}

fn article(value: &Value) -> String {
    match value.type_name() {
        name @ ("array" | "object") => format!("an {name}"),
        name => format!("a {name}"),
    }
}

impl TypeMeta {
    /// Whether the newest release knows the pair, in upstream's words where it doesn't.
    pub(super) fn judge(&self) -> Result<(), Complaint> {
        let complain = |message: String| Err(Complaint::at(Stage::Kind, "", self.place, message));
        let (group, version) = match self.api_version.split('/').collect::<Vec<_>>().as_slice() {
            [version] => ("", *version),
            [group, version] => (*group, *version),
            _ => return complain(format!("unexpected GroupVersion string: {}", quotable(&self.api_version))),
        };
        if self.kind.is_empty() {
            return complain("Object 'Kind' is missing".to_owned());
        }
        if version.is_empty() {
            return complain("Object 'apiVersion' is missing".to_owned());
        }
        match (group, version, self.kind.as_str()) {
            (GROUP, "v1", KIND) | ("", "v1", OLD_KIND) => Ok(()),
            (GROUP, "v1", kind) if OTHER_KINDS.contains(&kind) => {
                complain(format!("got unexpected config type: {GROUP}/v1, Kind={kind}"))
            }
            _ => {
                let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
                let (kind, version) = (quotable(&self.kind), quotable(&version));
                complain(format!("no kind \"{kind}\" is registered for version \"{version}\""))
            }
        }
    }

    /// Whether releases 1.7 to 1.12 took the file, whatever its apiVersion.
    pub(super) fn is_old_kind(&self) -> bool {
        self.kind == OLD_KIND
    }
}

/// A configuration as written, and what is amiss with its fields.
pub(super) struct Decoded {
    pub file: File,
    /// Fields of a wrong type. If there are any, the file is of no use.
    pub types: Vec<Complaint>,
    pub unknown: Vec<Complaint>,
    /// Fields that stand twice in a JSON object.
    pub repeated: Vec<Complaint>,
    /// All unknown and repeated ones, in upstream's order.
    pub strict: Vec<Complaint>,
    /// Numbers and booleans that became strings.
    pub coerced: Vec<Complaint>,
}

/// Takes the tree apart by the rules of an era.
pub(super) fn decode(root: Node, era: Era) -> Decoded {
    let place = root.place;
    let mut decoder = Decoder { era, ..Decoder::default() };
    let mut resources = Vec::new();
    decoder.object(root, "", &["apiVersion", "kind", "resources"], &mut |decoder, name, node, path| {
        // The types of the other two were checked when the kind was looked for.
        if name == "resources" {
            resources = decoder.list(node, path, Decoder::resource_configuration);
        }
    });
    Decoded {
        file: File { resources, place },
        types: decoder.types,
        unknown: decoder.unknown,
        repeated: decoder.repeated,
        strict: decoder.strict,
        coerced: decoder.coerced,
    }
}

struct Decoder {
    era: Era,
    types: Vec<Complaint>,
    unknown: Vec<Complaint>,
    repeated: Vec<Complaint>,
    strict: Vec<Complaint>,
    told: HashSet<(bool, String)>,
    coerced: Vec<Complaint>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            era: Era::Scheme,
            types: Vec::new(),
            unknown: Vec::new(),
            repeated: Vec::new(),
            strict: Vec::new(),
            told: HashSet::new(),
            coerced: Vec::new(),
        }
    }
}

/// What to do with each known field: its name, its value, its path.
type EachField<'a> = &'a mut dyn FnMut(&mut Decoder, &'static str, Node, &str);

impl Decoder {
    /// Goes through an object's fields. False where there is none: null, or another type, which is noted.
    fn object(&mut self, node: Node, path: &str, known: &[&'static str], each: EachField<'_>) -> bool {
        let fields = match node.value {
            Value::Map(fields) => fields,
            Value::Null => return false,
            other => {
                self.wrong_type(path, node.place, &other, "an object");
                return false;
            }
        };
        let mut seen = Vec::new();
        for Field { name, place, value } in fields {
            let found = known
                .iter()
                .find(|known| **known == name.as_str())
                .or_else(|| known.iter().find(|known| self.era == Era::Loose && known.eq_ignore_ascii_case(&name)));
            let Some(field) = found.copied() else {
                let path = join(path, &quotable(&name));
                let complaint = self.strict_complaint(true, path, place, "unknown field");
                self.unknown.extend(complaint);
                continue;
            };
            let path = join(path, field);
            if seen.contains(&field) {
                let complaint = self.strict_complaint(false, path.clone(), place, "duplicate field");
                self.repeated.extend(complaint);
            }
            seen.push(field);
            each(self, field, value, &path);
        }
        true
    }

    /// Notes what strictness refuses, each only once, and hands it back the first time.
    fn strict_complaint(&mut self, unknown: bool, path: String, place: Place, message: &str) -> Option<Complaint> {
        if self.strict.len() >= STRICT_LIMIT || !self.told.insert((unknown, path.clone())) {
            return None;
        }
        let complaint = Complaint::at(Stage::Strict, path, place, message);
        self.strict.push(complaint.clone());
        Some(complaint)
    }

    fn wrong_type(&mut self, path: &str, place: Place, value: &Value, wanted: &str) {
        self.bad_value(path, place, &format!("{wanted} is wanted, not {}", article(value)));
    }

    fn bad_value(&mut self, path: &str, place: Place, message: &str) {
        if self.types.len() < STRICT_LIMIT {
            self.types.push(Complaint::at(Stage::Decode, path, place, message));
        }
    }

    /// Notes a scalar that only the oldest releases made a string.
    fn coerce(&mut self, path: &str, place: Place, message: &str) {
        if self.coerced.len() < STRICT_LIMIT {
            self.coerced.push(Complaint::at(Stage::Decode, path, place, message));
        }
    }

    fn list<T>(&mut self, node: Node, path: &str, element: fn(&mut Self, Node, &str) -> T) -> Vec<T> {
        match node.value {
            Value::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| element(self, item, &format!("{path}[{index}]")))
                .collect(),
            Value::Null => Vec::new(),
            other => {
                self.wrong_type(path, node.place, &other, "a list");
                Vec::new()
            }
        }
    }

    fn string(&mut self, node: Node, path: &str) -> Written {
        let place = node.place;
        let text = match node.value {
            Value::Text(text) => text,
            Value::Null => return Written::absent(place),
            Value::Number(number) if self.era == Era::Loose => {
                self.coerce(path, place, "a number is taken as a string");
                match number.parse() {
                    Ok(float) if number.parse::<i128>().is_err() => Zeroizing::new(float_text(float)),
                    _ => number,
                }
            }
            Value::Bool(value) if self.era == Era::Loose => {
                self.coerce(path, place, "a boolean is taken as a string");
                Zeroizing::new(value.to_string())
            }
            other => {
                self.wrong_type(path, place, &other, "a string");
                return Written::absent(place);
            }
        };
        Written { text, place }
    }

    fn resource_configuration(&mut self, node: Node, path: &str) -> ResourceConfiguration {
        let place = node.place;
        let mut entry = ResourceConfiguration {
            resources: Vec::new(),
            resources_place: place,
            providers: Vec::new(),
            providers_place: place,
        };
        self.object(node, path, &["resources", "providers"], &mut |decoder, name, node, path| match name {
            "resources" => {
                entry.resources_place = node.place;
                entry.resources = decoder.list(node, path, Self::string);
            }
            _ => {
                entry.providers_place = node.place;
                entry.providers = decoder.list(node, path, Self::provider);
            }
        });
        entry
    }

    fn provider(&mut self, node: Node, path: &str) -> ProviderConfiguration {
        let mut provider = ProviderConfiguration {
            aesgcm: None,
            aescbc: None,
            secretbox: None,
            identity: false,
            kms: None,
            place: node.place,
        };
        let known = ["aesgcm", "aescbc", "secretbox", "identity", "kms"];
        self.object(node, path, &known, &mut |decoder, name, node, path| match name {
            "aesgcm" => provider.aesgcm = decoder.keys(node, path),
            "aescbc" => provider.aescbc = decoder.keys(node, path),
            "secretbox" => provider.secretbox = decoder.keys(node, path),
            "identity" => provider.identity = decoder.object(node, path, &[], &mut |_, _, _, _| {}),
            _ => provider.kms = decoder.kms(node, path),
        });
        provider
    }

    fn keys(&mut self, node: Node, path: &str) -> Option<Keys> {
        let mut keys = Keys { keys: Vec::new(), place: node.place };
        let present = self.object(node, path, &["keys"], &mut |decoder, _, node, path| {
            keys.place = node.place;
            keys.keys = decoder.list(node, path, Self::key);
        });
        present.then_some(keys)
    }

    fn key(&mut self, node: Node, path: &str) -> Key {
        let mut key = Key { name: Written::absent(node.place), secret: Written::absent(node.place) };
        self.object(node, path, &["name", "secret"], &mut |decoder, name, node, path| match name {
            "name" => key.name = decoder.string(node, path),
            _ => key.secret = decoder.string(node, path),
        });
        key
    }

    fn kms(&mut self, node: Node, path: &str) -> Option<Kms> {
        let place = node.place;
        let mut kms = Kms {
            api_version: Written::absent(place),
            name: Written::absent(place),
            cachesize: None,
            endpoint: Written::absent(place),
            timeout: (DEFAULT_TIMEOUT_NANOS, place),
            has_configfile: matches!(&node.value, Value::Map(fields)
                if fields.iter().any(|field| field.name.eq_ignore_ascii_case("configfile"))),
        };
        let known = ["apiVersion", "name", "cachesize", "endpoint", "timeout"];
        let present = self.object(node, path, &known, &mut |decoder, name, node, path| match name {
            "apiVersion" => kms.api_version = decoder.string(node, path),
            "name" => kms.name = decoder.string(node, path),
            "endpoint" => kms.endpoint = decoder.string(node, path),
            "cachesize" => kms.cachesize = decoder.int32(node, path),
            _ => kms.timeout = decoder.duration(node, path),
        });
        if kms.api_version.text.is_empty() {
            kms.api_version.text = Zeroizing::new("v1".to_owned());
        }
        present.then_some(kms)
    }

    fn int32(&mut self, node: Node, path: &str) -> Option<(i32, Place)> {
        match node.value {
            Value::Null => None,
            Value::Number(number) => {
                let parsed = number.parse().ok();
                if parsed.is_none() {
                    self.bad_value(path, node.place, "an integer of 32 bits is wanted");
                }
                parsed.map(|number| (number, node.place))
            }
            other => {
                self.wrong_type(path, node.place, &other, "an integer");
                None
            }
        }
    }

    fn duration(&mut self, node: Node, path: &str) -> (i64, Place) {
        let nanos = match node.value {
            Value::Null => Ok(DEFAULT_TIMEOUT_NANOS),
            Value::Text(text) => goduration::parse(&text),
            other => {
                self.wrong_type(path, node.place, &other, "a duration such as \"3s\"");
                Ok(DEFAULT_TIMEOUT_NANOS)
            }
        };
        if let Err(message) = nanos {
            self.bad_value(path, node.place, message);
        }
        (nanos.unwrap_or(DEFAULT_TIMEOUT_NANOS), node.place)
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
