//! What `diff` found: a table, JSON (schema `atrest.diff/1`), or unified differences of the YAML.
//!
//! Values of Secrets are shown by a digest under a key that is drawn for the run: equal values look equal within one answer, and nobody can try
//! out what they are.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use similar::TextDiff;
use zeroize::Zeroizing;

use crate::recover::diff::{Counts, Difference, Holds, Outcome, Side};
use crate::recover::protection::Changed;
use crate::recover::{Document, Node, Scalar};
use crate::source::trace::TraceKey;

use super::json::{TOOL, Tool};
use super::text::{grouped, harmless, key};
use super::yaml;

/// So many fields are named in a row of the table.
const NAMED_FIELDS: usize = 3;

/// Looking for the smallest difference of two huge texts ends after this time; what is then given is right, only longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// How the values of Secrets are shown.
#[derive(Clone, Copy)]
pub enum Values {
    /// As they are.
    Shown,
    /// By a digest under this key.
    Masked(TraceKey),
}

/// The words for what became of an object.
fn words(difference: &Difference) -> Vec<&'static str> {
    let mut words = vec![match difference.content {
        Outcome::Added => "added",
        Outcome::Removed => "removed",
        Outcome::Changed(_) => "content",
        Outcome::Unknown { .. } => "closed",
        Outcome::Same => "",
    }];
    words.push(match difference.protection {
        Changed::No => "",
        Changed::Key => "key",
        Changed::Encryption => "encryption",
    });
    words.retain(|word| !word.is_empty());
    words
}

/// `secret/db`, `deployment.apps/web`.
fn object(difference: &Difference) -> String {
    let kind = difference.kind.as_deref().unwrap_or(&difference.resource.resource).to_ascii_lowercase();
    let group = &difference.resource.group;
    let dot = if group.is_empty() { "" } else { "." };
    harmless(&format!("{kind}{dot}{group}/{}", difference.name)).into_owned()
}

/// What one side is sealed with, told from the other side's where only the secret differs.
fn protection(side: &Side, other: Option<&Side>) -> String {
    let mut text = side.protection.to_string();
    let looks_the_same = other.is_some_and(|other| other.protection.to_string() == text);
    let differs = other.is_some_and(|other| other.protection != side.protection);
    if looks_the_same && differs {
        let own = &side.protection;
        let mark = if own.kms_key_id.is_empty() { &own.fingerprint } else { &own.kms_key_id };
        text.push_str(&format!(" ({mark})"));
    }
    harmless(&text).into_owned()
}

/// Writes a table as differences come.
pub struct Table<'t> {
    out: &'t mut dyn Write,
    any: bool,
}

impl<'t> Table<'t> {
    /// Begins.
    pub fn new(out: &'t mut dyn Write) -> Self {
        Self { out, any: false }
    }

    /// Writes some more rows; widths are those of the rows that come together.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn write(&mut self, differences: &[Difference]) -> io::Result<()> {
        let head = ["CHANGE", "NAMESPACE", "OBJECT", "BEFORE", "AFTER", "FIELDS"].map(str::to_owned);
        let mut rows = vec![head];
        rows.extend(differences.iter().map(row));
        let mut widths = [0; 6];
        for row in &rows {
            widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.chars().count().max(*width));
        }
        for row in rows.iter().skip(usize::from(self.any || differences.is_empty())) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', (width + 3).saturating_sub(cell.chars().count())));
            }
            writeln!(self.out, "{}", line.trim_end())?;
        }
        self.any |= !differences.is_empty();
        Ok(())
    }

    /// Writes the counts.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn finish(self, counts: &Counts) -> io::Result<()> {
        if self.any {
            writeln!(self.out)?;
        }
        writeln!(self.out, "{}", summary(counts))
    }
}

/// The counts in a line.
pub fn summary(counts: &Counts) -> String {
    let parts = [
        (counts.added, "added"),
        (counts.removed, "removed"),
        (counts.changed, "changed"),
        (counts.other_key, "with the same content under another key"),
        (counts.other_encryption, "with the same content under another encryption"),
        (counts.closed, "that cannot be compared, since they stay closed"),
        (counts.same, "the same"),
    ];
    let parts: Vec<_> = parts.iter().filter(|(count, _)| *count > 0).collect();
    let parts: Vec<_> = parts.iter().map(|(count, words)| format!("{} {words}", grouped(*count))).collect();
    if parts.is_empty() { "no objects".to_owned() } else { format!("objects: {}", parts.join(", ")) }
}

fn row(difference: &Difference) -> [String; 6] {
    let (before, after) = (difference.before.as_ref(), difference.after.as_ref());
    let side = |side: Option<&Side>, other| side.map_or(String::new(), |side| protection(side, other));
    let fields = match &difference.content {
        Outcome::Changed(paths) => {
            let named: Vec<_> = paths.iter().take(NAMED_FIELDS).map(|path| harmless(path)).collect();
            let more = paths.len().saturating_sub(named.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{more}", named.join(", "))
        }
        Outcome::Unknown { .. } => closed_words(difference),
        _ => String::new(),
    };
    [
        words(difference).join("+"),
        harmless(&difference.namespace).into_owned(),
        object(difference),
        side(before, after),
        side(after, before),
        fields,
    ]
}

/// On which side it stays closed, and why.
fn closed_words(difference: &Difference) -> String {
    let sides = [("before", &difference.before), ("after", &difference.after)];
    let reasons: Vec<String> = sides
        .iter()
        .filter_map(|(name, side)| match side.as_ref().map(|side| &side.holds) {
            Some(Holds::Closed(reason)) => Some(format!("closed {name}: {}", harmless(reason))),
            _ => None,
        })
        .collect();
    let bytes = match difference.content {
        Outcome::Unknown { same_bytes: true } => "; the stored bytes are the same",
        _ => "",
    };
    format!("{}{bytes}", reasons.join("; "))
}

#[derive(Serialize)]
struct Head {
    schema: &'static str,
    tool: Tool,
    before: String,
    after: String,
}

#[derive(Serialize)]
struct Row<'r> {
    change: Vec<&'static str>,
    group: &'r str,
    resource: &'r str,
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    same_bytes: Option<bool>,
    before: Option<SideOut>,
    after: Option<SideOut>,
}

#[derive(Serialize)]
struct SideOut {
    key: String,
    mod_revision: i64,
    provider: String,
    provider_version: String,
    key_name: String,
    kms_key_id: String,
    fingerprint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undecodable: Option<String>,
}

#[derive(Serialize)]
struct CountsOut {
    same: u64,
    added: u64,
    removed: u64,
    changed: u64,
    other_key: u64,
    other_encryption: u64,
    closed: u64,
}

impl SideOut {
    fn of(side: &Side) -> Self {
        let text = |text: &str| harmless(text).into_owned();
        let Side { protection, holds, .. } = side;
        Self {
            key: key(&side.key).into_owned(),
            mod_revision: side.mod_revision,
            provider: text(&protection.provider),
            provider_version: text(&protection.version),
            key_name: text(&protection.name),
            kms_key_id: text(&protection.kms_key_id),
            fingerprint: text(&protection.fingerprint),
            closed: if let Holds::Closed(reason) = holds { Some(text(reason)) } else { None },
            undecodable: if let Holds::Undecodable(reason) = holds { Some(text(reason)) } else { None },
        }
    }
}

/// Writes one JSON document as differences come.
pub struct Json<'j> {
    out: &'j mut dyn Write,
    any: bool,
}

impl<'j> Json<'j> {
    /// Begins with what is compared.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn begin(out: &'j mut dyn Write, before: &str, after: &str) -> io::Result<Self> {
        let [before, after] = [before, after].map(|path| harmless(path).into_owned());
        let head = serde_json::to_string(&Head { schema: "atrest.diff/1", tool: TOOL, before, after })?;
        write!(out, "{},\"differences\":[", head.strip_suffix('}').unwrap_or(&head))?;
        Ok(Self { out, any: false })
    }

    /// Writes some more, one a line.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn write(&mut self, differences: &[Difference]) -> io::Result<()> {
        for difference in differences {
            self.out.write_all(if self.any { b",\n" } else { b"\n" })?;
            self.any = true;
            let row = Row {
                change: words(difference),
                group: &difference.resource.group,
                resource: &difference.resource.resource,
                namespace: harmless(&difference.namespace).into_owned(),
                name: harmless(&difference.name).into_owned(),
                fields: match &difference.content {
                    Outcome::Changed(paths) => Some(paths.iter().map(|path| harmless(path).into_owned()).collect()),
                    _ => None,
                },
                same_bytes: match difference.content {
                    Outcome::Unknown { same_bytes } => Some(same_bytes),
                    _ => None,
                },
                before: difference.before.as_ref().map(SideOut::of),
                after: difference.after.as_ref().map(SideOut::of),
            };
            serde_json::to_writer(&mut *self.out, &row)?;
        }
        Ok(())
    }

    /// Writes the counts.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn finish(self, counts: &Counts) -> io::Result<()> {
        let Counts { same, added, removed, changed, other_key, other_encryption, closed } = *counts;
        let counts = CountsOut { same, added, removed, changed, other_key, other_encryption, closed };
        let counts = serde_json::to_string(&counts)?;
        writeln!(self.out, "{}],\"counts\":{counts}}}", if self.any { "\n" } else { "" })
    }
}

/// Writes unified differences of the YAML of some objects.
///
/// # Errors
///
/// When they cannot be written.
pub fn unified(out: &mut dyn Write, differences: &[Difference], values: Values) -> io::Result<()> {
    differences.iter().try_for_each(|difference| one_unified(out, difference, values))
}

fn one_unified(out: &mut dyn Write, difference: &Difference, values: Values) -> io::Result<()> {
    let namespace = if difference.namespace.is_empty() { "_cluster" } else { &difference.namespace };
    let place = format!("{}/{}", harmless(namespace), object(difference));
    let protections = match (&difference.before, &difference.after) {
        (Some(before), Some(after)) if difference.protection != Changed::No => {
            format!(": {} -> {}", protection(before, Some(after)), protection(after, Some(before)))
        }
        _ => String::new(),
    };
    match &difference.content {
        Outcome::Same => return writeln!(out, "# {place}: the same content{protections}"),
        Outcome::Unknown { .. } => return writeln!(out, "# {place}: {}{protections}", closed_words(difference)),
        _ if !protections.is_empty() => writeln!(out, "# {place}{protections}")?,
        _ => {}
    }
    let before = difference.before.as_ref().map(|side| text(side, values));
    let after = difference.after.as_ref().map(|side| text(side, values));
    let name = |side: &str, text: &Option<Zeroizing<String>>| match text {
        Some(_) => format!("{side}/{place}.yaml"),
        None => "/dev/null".to_owned(),
    };
    let (from, to) = (name("a", &before), name("b", &after));
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let mut config = TextDiff::configure();
    config.timeout(PATIENCE);
    let lines = config.diff_lines(before.as_str(), after.as_str());
    let mut unified = lines.unified_diff();
    unified.context_radius(CONTEXT_LINES).header(&from, &to);
    unified.to_writer(&mut *out)
}

/// One side as YAML, or what stands in its place.
fn text(side: &Side, values: Values) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    match &side.holds {
        Holds::Object(json) => {
            let json = match values {
                Values::Shown => json.clone(),
                Values::Masked(key) => masked(json, key),
            };
            if let Ok(document) = Document::parse(&json) {
                yaml::write(document.root(), &mut text);
            }
        }
        Holds::Closed(reason) => text.push_str(&format!("# closed: {}\n", harmless(reason))),
        Holds::Undecodable(reason) => text.push_str(&format!("# no object: {}\n", harmless(reason))),
        Holds::Unread => {}
    }
    text
}

/// The annotation in which kubectl keeps a copy of what was applied, data of Secrets included.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A Secret with its values masked; anything else as it is.
fn masked(json: &Zeroizing<Vec<u8>>, key: TraceKey) -> Zeroizing<Vec<u8>> {
    let Ok(document) = Document::parse(json) else { return json.clone() };
    let root = document.root();
    let is = |name: &str, wanted: &str| root.get(name).and_then(Node::text).is_some_and(|text| text == wanted);
    if !is("kind", "Secret") || !is("apiVersion", "v1") {
        return json.clone();
    }
    let mut out = Zeroizing::new(Vec::with_capacity(json.len()));
    mapping(root, &mut out, &mut |name, value, out| match name {
        "data" | "stringData" if value.scalar() == Scalar::Object => {
            mapping(value, out, &mut |_, value, out| mask(value, key, out));
        }
        "metadata" if value.scalar() == Scalar::Object => mapping(value, out, &mut |name, value, out| {
            if name == "annotations" && value.scalar() == Scalar::Object {
                mapping(value, out, &mut |name, value, out| match name {
                    APPLIED => mask(value, key, out),
                    _ => value.write(out),
                });
            } else {
                value.write(out);
            }
        }),
        _ => value.write(out),
    });
    out
}

/// Writes a mapping whose values `write` writes.
fn mapping(node: Node<'_, '_>, out: &mut Vec<u8>, write: &mut dyn FnMut(&str, Node<'_, '_>, &mut Vec<u8>)) {
    out.push(b'{');
    for (index, (name, value)) in node.sorted().into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend(serde_json::Value::from(&*name).to_string().into_bytes());
        out.push(b':');
        write(&name, value, out);
    }
    out.push(b'}');
}

fn mask(value: Node<'_, '_>, key: TraceKey, out: &mut Vec<u8>) {
    let mut bytes = Zeroizing::new(Vec::new());
    value.write(&mut bytes);
    let digest = key.digest(&bytes) >> 80;
    out.extend(format!("\"(masked, {digest:012x})\"").into_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::GroupResource;
    use crate::recover::protection::Protection;

    fn side(key_name: &str, json: Option<&str>) -> Option<Side> {
        let protection = Protection {
            provider: "aescbc".into(),
            version: "v1".into(),
            name: key_name.into(),
            ..Protection::default()
        };
        let holds = json
            .map_or(Holds::Closed("no key".to_owned()), |json| Holds::Object(Zeroizing::new(json.as_bytes().to_vec())));
        Some(Side { key: b"/registry/secrets/a/b".to_vec(), mod_revision: 7, protection, holds })
    }

    fn difference(content: Outcome, protection: Changed, before: Option<Side>, after: Option<Side>) -> Difference {
        Difference {
            resource: GroupResource::new("", "secrets"),
            namespace: "a".to_owned(),
            name: "b".to_owned(),
            kind: Some("Secret".to_owned()),
            content,
            protection,
            before,
            after,
        }
    }

    const OLD: &str = r#"{"apiVersion":"v1","data":{"p":"b2xk","q":"c2FtZQ=="},"kind":"Secret","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"b2xk","x":"y"},"name":"b"}}"#;
    const NEW: &str = r#"{"apiVersion":"v1","data":{"p":"bmV3","q":"c2FtZQ=="},"kind":"Secret","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"b2xk","x":"y"},"name":"b"}}"#;

    fn changed() -> Difference {
        let content = Outcome::Changed(vec!["data.p".to_owned()]);
        difference(content, Changed::Key, side("key1", Some(OLD)), side("key2", Some(NEW)))
    }

    fn shown(values: Values, differences: &[Difference]) -> String {
        let mut out = Vec::new();
        unified(&mut out, differences, values).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_of_secrets_are_masked_and_equal_ones_look_equal() {
        let text = shown(Values::Masked(TraceKey::random().unwrap()), &[changed()]);
        assert!(!text.contains("b2xk") && !text.contains("bmV3") && !text.contains("c2FtZQ"), "{text}");
        assert!(
            text.starts_with(
                "# a/secret/b: aescbc/key1 -> aescbc/key2\n--- a/a/secret/b.yaml\n+++ b/a/secret/b.yaml\n@@"
            ),
            "{text}"
        );
        let lines = |sign: &str| text.lines().filter(|line| line.starts_with(sign)).count();
        assert_eq!((lines("-  p: "), lines("+  p: "), lines("   q: ")), (1, 1, 1), "{text}");
        let text = shown(Values::Shown, &[changed()]);
        assert!(text.contains("-  p: b2xk\n+  p: bmV3\n"), "{text}");
    }

    #[test]
    fn what_only_one_side_has_is_shown_whole_and_what_is_closed_is_said() {
        let added = difference(Outcome::Added, Changed::No, None, side("key2", Some(r#"{"kind":"X"}"#)));
        assert_eq!(shown(Values::Shown, &[added]), "--- /dev/null\n+++ b/a/secret/b.yaml\n@@ -0,0 +1 @@\n+kind: X\n");
        let closed = difference(
            Outcome::Unknown { same_bytes: true },
            Changed::No,
            side("key1", None),
            side("key1", Some("{}")),
        );
        assert_eq!(
            shown(Values::Shown, &[closed]),
            "# a/secret/b: closed before: no key; the stored bytes are the same\n"
        );
    }

    #[test]
    fn tables_and_json_name_what_changed() {
        let mut out = Vec::new();
        let mut table = Table::new(&mut out);
        table.write(&[changed()]).unwrap();
        table.finish(&Counts { changed: 1, same: 2000, ..Counts::default() }).unwrap();
        let expected = "CHANGE        NAMESPACE   OBJECT     BEFORE        AFTER         FIELDS\n\
                        content+key   a           secret/b   aescbc/key1   aescbc/key2   data.p\n\
                        \n\
                        objects: 1 changed, 2,000 the same\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        for differences in [vec![], vec![changed(), changed()]] {
            let mut out = Vec::new();
            let mut json = Json::begin(&mut out, "x.db", "y.db").unwrap();
            json.write(&differences).unwrap();
            json.finish(&Counts::default()).unwrap();
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(
                (&value["schema"], &value["before"], &value["counts"]["same"]),
                (&"atrest.diff/1".into(), &"x.db".into(), &0.into())
            );
            assert_eq!(value["differences"].as_array().unwrap().len(), differences.len());
        }
    }

    #[test]
    fn another_secret_under_the_same_name_is_told_by_its_fingerprint() {
        let with = |fingerprint: &str| {
            let mut side = side("key1", Some("{}")).unwrap();
            side.protection.fingerprint = fingerprint.to_owned();
            Some(side)
        };
        let rotated = difference(Outcome::Same, Changed::Key, with("1111"), with("2222"));
        assert_eq!(
            shown(Values::Shown, &[rotated]),
            "# a/secret/b: the same content: aescbc/key1 (1111) -> aescbc/key1 (2222)\n"
        );
    }
}
