//! Objects as kubectl prints them: JSON and YAML, a `List` of several, one a line, or names.
//!
//! What could not be opened or decoded is no gap in a list: it stands there with its name, and with `$closed` or `$undecodable`,
//! which says why.

use std::borrow::Cow;
use std::io::{self, Write};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::json;
use zeroize::{Zeroize, Zeroizing};

use crate::recover::flow::make_room;
use crate::recover::get::{Content, Item};
use crate::recover::seen::{Holds, Seen};
use crate::recover::{Document, Layout, Node, Scalar};

use super::object::pretty;
use super::text::harmless;
use super::yaml;

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// YAML.
    Yaml,
    /// JSON on several lines.
    Json,
    /// One object a line.
    Jsonl,
    /// `secret/db`, one a line.
    Name,
}

/// So many times the length of an object's JSON is set aside for its text.
const TEXT_OF_JSON: usize = 2;

/// So many times the length of what is stored is set aside for its JSON on several lines, and so many bytes beside it.
const LINES_OF_STORED: (usize, usize) = (4, 4096);

/// How deep the objects of a list are indented in JSON.
const LIST_INDENT: usize = 8;

/// What stands before each object of a list in JSON; before the first one without the comma.
const JSON_SEPARATOR: &[u8] = b",\n        ";

/// How each object is written.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    form: Form,
    /// Whether they are the items of a list.
    list: bool,
    /// Whether the data of Secrets is shown as text.
    decode: bool,
}

/// The text of some objects that follow one another.
#[derive(Default)]
pub struct Piece {
    text: Zeroizing<Vec<u8>>,
    /// One object as JSON and as YAML, on its way into the text.
    json: Zeroizing<Vec<u8>>,
    yaml: Zeroizing<String>,
}

/// What became of an object.
pub enum Written {
    /// It is written; `misplaced` if it is another than its key names.
    Object {
        /// Whether it is.
        misplaced: bool,
    },
    /// What stands in its place is written.
    Instead(Box<Item>),
}

/// Writes objects as they come.
pub struct Objects<'o> {
    out: &'o mut dyn Write,
    style: Style,
    any: bool,
}

impl Style {
    /// Without `list` the one object stands for itself.
    pub fn new(form: Form, list: bool, decode: bool) -> Self {
        Self { form, list: list && matches!(form, Form::Json | Form::Yaml), decode }
    }

    /// Appends an object's text.
    pub fn write(self, seen: &Seen<'_>, piece: &mut Piece) -> Written {
        if let Holds::Plain(plaintext) = &seen.holds
            && self.write_plain(seen, plaintext, piece)
        {
            return Written::Object { misplaced: seen.is_misplaced(plaintext) };
        }
        let item = seen.item(false);
        self.write_item(&item, piece);
        match item.content {
            Content::Object { misplaced, .. } => Written::Object { misplaced },
            Content::Closed { .. } | Content::Undecodable { .. } => Written::Instead(Box::new(item)),
        }
    }

    /// Appends what goes straight into the text; false if something is in the way of that.
    fn write_plain(self, seen: &Seen<'_>, plaintext: &[u8], piece: &mut Piece) -> bool {
        let Piece { text, json, yaml } = piece;
        let (times, more) = LINES_OF_STORED;
        make_room(text, plaintext.len().saturating_mul(times).saturating_add(more));
        let start = text.len();
        let written = match self.form {
            _ if self.decode => false,
            Form::Name => false,
            Form::Json | Form::Jsonl => {
                let layout = match (self.form, self.list) {
                    (Form::Jsonl, _) => Layout::OneLine,
                    (_, true) => Layout::Lines(LIST_INDENT),
                    (_, false) => Layout::Lines(0),
                };
                self.begin(text);
                seen.write(plaintext, layout, text).is_ok()
            }
            Form::Yaml => {
                json.clear();
                make_room(json, plaintext.len().saturating_mul(times).saturating_add(more));
                seen.write(plaintext, Layout::OneLine, json).is_ok() && self.write_yaml(json, yaml, text)
            }
        };
        if written {
            self.end(text);
        } else {
            text.truncate(start);
        }
        written
    }

    /// Appends JSON as YAML.
    fn write_yaml(self, json: &[u8], yaml: &mut Zeroizing<String>, text: &mut Zeroizing<Vec<u8>>) -> bool {
        let Ok(document) = Document::parse(json) else { return false };
        yaml.clear();
        if yaml.capacity() < TEXT_OF_JSON * json.len() {
            // Text that grows is copied, and what it is copied from is not wiped.
            *yaml = Zeroizing::new(String::with_capacity(2 * TEXT_OF_JSON * json.len()));
        }
        if self.list {
            yaml::write_item(document.root(), yaml);
        } else {
            yaml::write(document.root(), yaml);
        }
        make_room(text, yaml.len());
        text.extend_from_slice(yaml.as_bytes());
        true
    }

    /// Appends the text of an object that was decoded, or what stands in its place.
    pub fn write_item(self, item: &Item, piece: &mut Piece) {
        let text = text(self, item);
        make_room(&mut piece.text, text.len() + JSON_SEPARATOR.len());
        self.begin(&mut piece.text);
        piece.text.extend_from_slice(text.as_bytes());
        self.end(&mut piece.text);
    }

    fn begin(self, text: &mut Vec<u8>) {
        if self.list && self.form == Form::Json {
            text.extend_from_slice(JSON_SEPARATOR);
        }
    }

    fn end(self, text: &mut Vec<u8>) {
        if self.form == Form::Jsonl || (self.form == Form::Json && !self.list) {
            text.push(b'\n');
        }
    }

    fn opening(self) -> &'static str {
        match self.form {
            Form::Yaml => "apiVersion: v1\nitems:\n",
            _ => "{\n    \"apiVersion\": \"v1\",\n    \"items\": [",
        }
    }
}

impl<'o> Objects<'o> {
    /// Begins.
    pub fn new(out: &'o mut dyn Write, style: Style) -> Self {
        Self { out, style, any: false }
    }

    /// Writes some more, and leaves the piece empty.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn write(&mut self, piece: &mut Piece) -> io::Result<()> {
        let mut text = piece.text.as_slice();
        if self.style.list && !self.any && !text.is_empty() {
            self.out.write_all(self.style.opening().as_bytes())?;
            if self.style.form == Form::Json {
                text = text.get(1..).unwrap_or_default();
            }
        }
        self.any |= !text.is_empty();
        self.out.write_all(text)?;
        piece.text.clear();
        Ok(())
    }

    /// Writes what stands behind the last object.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn finish(&mut self) -> io::Result<()> {
        if !self.style.list {
            return Ok(());
        }
        if self.style.form == Form::Yaml {
            let empty = if self.any { "" } else { "apiVersion: v1\nitems: []\n" };
            return write!(self.out, "{empty}kind: List\nmetadata:\n  resourceVersion: \"\"\n");
        }
        let head = if self.any { "\n    ]" } else { "{\n    \"apiVersion\": \"v1\",\n    \"items\": []" };
        let tail = ",\n    \"kind\": \"List\",\n    \"metadata\": {\n        \"resourceVersion\": \"\"\n    }\n}\n";
        write!(self.out, "{head}{tail}")
    }
}

/// One object in its form.
fn text(style: Style, item: &Item) -> Zeroizing<String> {
    let Style { form, list, decode } = style;
    let mut text = Zeroizing::new(String::new());
    if form == Form::Name {
        text.push_str(&name(item));
        text.push('\n');
        return text;
    }
    let mut json = json_of(item);
    if decode && let Some(decoded) = decoded_secret(&json) {
        json = Cow::Owned(decoded);
    }
    text.reserve(TEXT_OF_JSON * json.len());
    let Ok(document) = Document::parse(&json) else { return text };
    match form {
        Form::Yaml if list => yaml::write_item(document.root(), &mut text),
        Form::Yaml => yaml::write(document.root(), &mut text),
        Form::Json => pretty(document.root(), if list { LIST_INDENT } else { 0 }, &mut text),
        Form::Jsonl | Form::Name => text.push_str(&String::from_utf8_lossy(&json)),
    }
    text
}

/// `secret/db`, `deployment.apps/web`.
pub fn name(item: &Item) -> String {
    let (kind, group) = kind_and_group(item);
    let kind = kind.to_ascii_lowercase();
    let dot = if group.is_empty() { "" } else { "." };
    harmless(&format!("{kind}{dot}{group}/{}", item.name)).into_owned()
}

/// Kind and group: as key or definition tell; else, where no definition is left, as the object says of itself; else the resource's name.
fn kind_and_group(item: &Item) -> (Cow<'_, str>, Cow<'_, str>) {
    if let Some(kind) = &item.kind {
        return (Cow::Borrowed(kind), Cow::Borrowed(&item.resource.group));
    }
    if let Content::Object { json, .. } = &item.content
        && let Ok(document) = Document::parse(json)
        && let Some(kind) = document.root().get("kind").and_then(Node::text)
    {
        let version = document.root().get("apiVersion").and_then(Node::text).unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        return (Cow::Owned(kind.into_owned()), Cow::Owned(group.to_owned()));
    }
    (Cow::Borrowed(&item.resource.resource), Cow::Borrowed(&item.resource.group))
}

/// The object, or what stands in its place.
fn json_of(item: &Item) -> Cow<'_, Zeroizing<Vec<u8>>> {
    let (key, what) = match &item.content {
        Content::Object { json, .. } => return Cow::Borrowed(json),
        Content::Closed { sealed, reason } => (
            "$closed",
            json!({"key": sealed.name, "provider": sealed.provider, "reason": reason, "version": sealed.version}),
        ),
        Content::Undecodable { payload, error } => {
            ("$undecodable", json!({"payload": BASE64_STANDARD.encode(payload), "reason": error.to_string()}))
        }
    };
    let mut metadata = json!({"name": item.name, "resourceVersion": item.mod_revision.to_string()});
    let mut object = json!({});
    if let (Some(members), false) = (metadata.as_object_mut(), item.namespace.is_empty()) {
        members.insert("namespace".to_owned(), json!(item.namespace));
    }
    if let Some(members) = object.as_object_mut() {
        members.insert(key.to_owned(), what);
        members.insert("metadata".to_owned(), metadata);
        if let Some(kind) = &item.kind {
            members.insert("kind".to_owned(), json!(kind));
        }
    }
    Cow::Owned(Zeroizing::new(object.to_string().into_bytes()))
}

/// A Secret whose data that is text stands in `stringData`, which an API server takes as well; none for what is no Secret.
fn decoded_secret(json: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let document = Document::parse(json).ok()?;
    let root = document.root();
    let text = |name: &str| root.get(name).and_then(Node::text);
    let is_secret =
        text("kind").is_some_and(|kind| kind == "Secret") && text("apiVersion").is_some_and(|version| version == "v1");
    let data = root.get("data").filter(|data| is_secret && data.scalar() == Scalar::Object)?;
    let (mut texts, mut rest) = (Vec::new(), Vec::new());
    for (key, value) in data.sorted() {
        let decoded = value.text().and_then(|value| BASE64_STANDARD.decode(value.as_bytes()).ok());
        match decoded.map(String::from_utf8) {
            Some(Ok(decoded)) => texts.push((key, Zeroizing::new(decoded))),
            Some(Err(error)) => {
                error.into_bytes().zeroize();
                rest.push((key, value));
            }
            None => rest.push((key, value)),
        }
    }
    let mut out = Zeroizing::new(vec![b'{']);
    let write_key = |key: &str, out: &mut Vec<u8>| {
        if !matches!(out.last(), Some(b'{')) {
            out.push(b',');
        }
        out.extend(serde_json::Value::from(key).to_string().into_bytes());
        out.push(b':');
    };
    let write_texts = |texts: &[(_, Zeroizing<String>)], out: &mut Zeroizing<Vec<u8>>| {
        write_key("stringData", out);
        out.push(b'{');
        for (key, text) in texts {
            let key: &Cow<'_, str> = key;
            write_key(key, out);
            let mut quoted = serde_json::to_vec(text.as_str()).unwrap_or_default();
            out.extend_from_slice(&quoted);
            quoted.zeroize();
        }
        out.push(b'}');
    };
    let mut waiting = !texts.is_empty();
    for (key, value) in root.sorted() {
        if waiting && &*key > "stringData" {
            write_texts(&texts, &mut out);
            waiting = false;
        }
        if key == "data" {
            if !rest.is_empty() {
                write_key("data", &mut out);
                out.push(b'{');
                for (key, value) in &rest {
                    write_key(key, &mut out);
                    value.write(&mut out);
                }
                out.push(b'}');
            }
            continue;
        }
        write_key(&key, &mut out);
        value.write(&mut out);
    }
    if waiting {
        write_texts(&texts, &mut out);
    }
    out.push(b'}');
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_a_secret_is_shown_as_text_and_the_rest_stays_data() {
        let json = br#"{"apiVersion":"v1","data":{"a":"eWVz","b":"/w==","c":""},"kind":"Secret","type":"Opaque"}"#;
        let decoded = decoded_secret(json).unwrap();
        assert_eq!(
            std::str::from_utf8(&decoded).unwrap(),
            r#"{"apiVersion":"v1","data":{"b":"/w=="},"kind":"Secret","stringData":{"a":"yes","c":""},"type":"Opaque"}"#
        );
        let last = br#"{"apiVersion":"v1","data":{"a":"eWVz"},"kind":"Secret"}"#;
        assert_eq!(
            std::str::from_utf8(&decoded_secret(last).unwrap()).unwrap(),
            r#"{"apiVersion":"v1","kind":"Secret","stringData":{"a":"yes"}}"#
        );
        assert!(decoded_secret(br#"{"apiVersion":"v1","data":{"a":"eWVz"},"kind":"ConfigMap"}"#).is_none());
    }

    fn item(name: &str, content: Content) -> Item {
        Item {
            key: format!("/registry/secrets/default/{name}").into_bytes(),
            resource: crate::recover::GroupResource::new("", "secrets"),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            kind: Some("Secret".into()),
            mod_revision: 7,
            content,
        }
    }

    fn items() -> Vec<Item> {
        let json = br#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#.to_vec();
        let object = Content::Object { json: Zeroizing::new(json), payload: Zeroizing::default(), misplaced: false };
        let sealed = crate::recover::open::SealedBy { provider: "aescbc", version: "v1", name: "key1".into() };
        vec![item("a", object), item("b", Content::Closed { sealed, reason: "no".to_owned() })]
    }

    fn written(form: Form, list: bool, items: &[Item]) -> String {
        let mut out = Vec::new();
        let style = Style::new(form, list, false);
        let mut objects = Objects::new(&mut out, style);
        // One by one, and with pieces in which nothing is.
        for items in items.chunks(1).chain([&[][..]]) {
            let mut piece = Piece::default();
            items.iter().for_each(|item| style.write_item(item, &mut piece));
            objects.write(&mut piece).unwrap();
        }
        objects.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lists_are_a_list_in_every_form_and_hide_nothing() {
        let expected = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}},
            {"$closed": {"key": "key1", "provider": "aescbc", "version": "v1", "reason": "no"}, "kind": "Secret",
             "metadata": {"name": "b", "namespace": "default", "resourceVersion": "7"}},
        ]});
        let json: serde_json::Value = serde_json::from_str(&written(Form::Json, true, &items())).unwrap();
        assert_eq!(json, expected);
        let yaml = written(Form::Yaml, true, &items());
        assert_eq!(crate::config::yaml_as_json(&yaml).unwrap(), expected);
        assert!(yaml.starts_with("apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Secret\n"), "{yaml}");
        assert_eq!(written(Form::Name, true, &items()), "secret/a\nsecret/b\n");
        assert_eq!(written(Form::Jsonl, true, &items()).lines().count(), 2);
        let empty = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": []});
        let json: serde_json::Value = serde_json::from_str(&written(Form::Json, true, &[])).unwrap();
        assert_eq!(json, empty);
        assert_eq!(crate::config::yaml_as_json(&written(Form::Yaml, true, &[])).unwrap(), empty);
    }

    #[test]
    fn one_object_stands_for_itself() {
        let text = written(Form::Yaml, false, &items()[..1]);
        assert_eq!(text, "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n");
    }
}
