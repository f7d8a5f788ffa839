//! What a node says of encryption: whether it is a server, and the annotation with stage and hash.
//!
//! Upstream: `k3s-io/k3s`, `pkg/secretsencrypt/config.go` (`EncryptionHashAnnotation`).

use crate::kube::document::{Document, Node as Json};
use crate::kube::schema::{self, Dress};

/// The annotation's name behind the program's.
pub(super) const HASH_ANNOTATION: &str = ".io/encryption-config-hash";

/// What protobuf values begin with.
const PROTOBUF: &[u8] = b"k8s\0";

/// The label of servers.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// The most bytes of an annotation that are kept: a stage and a hash are far shorter.
const KEPT_BYTES: usize = 512;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether it has the label of servers.
    pub control_plane: bool,
    /// Stage and hash by K3s' annotation, as it stands.
    pub k3s: Option<String>,
    /// By RKE2's.
    pub rke2: Option<String>,
    /// It bears other annotations of K3s, or of RKE2.
    pub marks: (bool, bool),
}

impl Node {
    /// Reads a stored Node; none of what is no object.
    pub fn read(value: &[u8]) -> Option<Self> {
        let mut json = Vec::new();
        schema::to_json(value, &Dress { managed_fields: false, ..Dress::STORED }, &mut json).ok()?;
        let document = Document::parse(&json).ok()?;
        let text = |path: &[&str]| document.root().find(path).and_then(Json::text);
        let annotation = |program: &str| {
            let name = format!("{program}{HASH_ANNOTATION}");
            let text = text(&["metadata", "annotations", &name])?;
            Some(text.chars().take(KEPT_BYTES).collect())
        };
        let bears = |prefix: &str| {
            let annotations = document.root().find(&["metadata", "annotations"]);
            let has = |(key, _): (Json<'_, '_>, _)| key.text().is_some_and(|key| key.starts_with(prefix));
            annotations.is_some_and(|annotations| annotations.members().any(has))
        };
        Some(Self {
            name: text(&["metadata", "name"])?.into_owned(),
            control_plane: text(&["metadata", "labels", CONTROL_PLANE]).is_some_and(|value| value == "true"),
            k3s: annotation("k3s"),
            rke2: annotation("rke2"),
            marks: (bears("k3s.io/"), bears("rke2.io/")),
        })
    }
}

/// The same Node with another text in an annotation that it has; none where that is not found exactly once.
pub fn annotated(value: &[u8], name: &str, text: &str) -> Option<Vec<u8>> {
    match value.strip_prefix(PROTOBUF) {
        Some(envelope) => annotated_protobuf(envelope, name, text),
        None => annotated_json(value, name, text),
    }
}

/// `Unknown { 2: raw Node { 1: ObjectMeta { 12: map entry { 1: key, 2: value } } } }`
fn annotated_protobuf(envelope: &[u8], name: &str, text: &str) -> Option<Vec<u8>> {
    let mut changed = 0;
    let out = edited(envelope, 2, &mut |raw| {
        edited(raw, 1, &mut |metadata| {
            edited(metadata, 12, &mut |entry| {
                let mut is_it = false;
                edited(entry, 1, &mut |key| {
                    is_it |= key == name.as_bytes();
                    None
                })?;
                if !is_it {
                    return None;
                }
                changed += 1;
                edited(entry, 2, &mut |_| Some(text.as_bytes().to_vec()))
            })
        })
    })?;
    (changed == 1).then(|| [PROTOBUF, &out].concat())
}

/// A message with the length-delimited fields of a number changed, as far as `edit` gives something. None for what is no message.
fn edited(message: &[u8], number: u64, edit: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(message.len() + 64);
    let mut rest = message;
    while !rest.is_empty() {
        let (tag, after) = varint(rest)?;
        let end = match tag & 7 {
            0 => varint(after)?.1,
            1 => after.get(8..)?,
            2 => {
                let (length, content) = varint(after)?;
                let (content, end) = content.split_at_checked(usize::try_from(length).ok()?)?;
                if tag >> 3 == number
                    && let Some(new) = edit(content)
                {
                    put_varint(tag, &mut out);
                    put_varint(new.len() as u64, &mut out);
                    out.extend_from_slice(&new);
                    rest = end;
                    continue;
                }
                end
            }
            5 => after.get(4..)?,
            _ => return None,
        };
        out.extend_from_slice(rest.get(..rest.len() - end.len())?);
        rest = end;
    }
    Some(out)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(index).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// In JSON the annotation's name, a colon and its text; a name in managedFields has `f:` in front.
fn annotated_json(value: &[u8], name: &str, text: &str) -> Option<Vec<u8>> {
    let json = std::str::from_utf8(value).ok()?;
    let key = format!("\"{name}\"");
    let mut found = json.match_indices(&key).filter_map(|(at, _)| {
        let behind = json.get(at + key.len()..)?.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        let start = json.len() - behind.len();
        let length = behind.find('"')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        behind.get(..length)?.chars().all(plain).then_some(start..start + length)
    });
    let place = found.next().filter(|_| found.next().is_none())?;
    Some([json.get(..place.start)?, text, json.get(place.end..)?].concat().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_and_annotations_are_read() {
        let value = br#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1","uid":"u","labels":
            {"node-role.kubernetes.io/control-plane":"true"},"annotations":{"rke2.io/encryption-config-hash":"start-00"}}}"#;
        let node = Node::read(value).expect("a node");
        assert_eq!((node.name.as_str(), node.control_plane), ("n1", true));
        assert_eq!((node.k3s, node.rke2.as_deref(), node.marks), (None, Some("start-00"), (false, true)));
        let agent = Node::read(br#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n2"}}"#).expect("a node");
        assert_eq!(agent, Node { name: "n2".to_owned(), ..Node::default() });
        assert_eq!(Node::read(b"k8s:enc:aescbc:v1:k:"), None);
    }

    #[test]
    fn an_annotation_is_changed_and_nothing_else() {
        let json = br#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"n","annotations":{"a":"b","k3s.io/encryption-config-hash" : "start-00"},"managedFields":[{"f:k3s.io/encryption-config-hash":{}}]}}"#;
        let changed = annotated(json, "k3s.io/encryption-config-hash", "reencrypt_finished-11").expect("it is there");
        let expected = String::from_utf8_lossy(json).replace("start-00", "reencrypt_finished-11");
        assert_eq!(String::from_utf8_lossy(&changed), expected);
        assert_eq!(annotated(json, "rke2.io/encryption-config-hash", "x"), None);
        let field = |tag: u8, content: &[u8]| {
            let mut out = vec![tag];
            put_varint(content.len() as u64, &mut out);
            out.extend_from_slice(content);
            out
        };
        let entry = |key: &str, value: &str| [field(0x0a, key.as_bytes()), field(0x12, value.as_bytes())].concat();
        let node = |text: &str| {
            let metadata =
                [field(0x0a, b"n"), field(0x2a, b"u"), field(0x62, &entry("a", "b")), field(0x62, &entry("k", text))]
                    .concat();
            let raw = [field(0x0a, &metadata), vec![0x18, 0x07]].concat();
            [b"k8s\0".to_vec(), field(0x0a, b"\x0a\x02v1\x12\x04Node"), field(0x12, &raw), vec![0x1a, 0, 0x22, 0]]
                .concat()
        };
        let long = "x".repeat(300);
        assert_eq!(annotated(&node("start"), "k", &long), Some(node(&long)));
        assert_eq!(annotated(&node("start"), "c", "x"), None);
        assert_eq!(annotated(&node("start")[..20], "k", "x"), None);
        assert_eq!(annotated(b"k8s\0\x0a\xff", "k", "x"), None);
    }
}
