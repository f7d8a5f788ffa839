//! JSON of objects on several lines, as kubectl prints it.

use crate::recover::{Node, Scalar};

/// Blanks for each level.
const INDENT: usize = 4;

/// Appends a value on as many lines as it takes; its first line is not indented.
pub fn pretty(node: Node<'_, '_>, indent: usize, out: &mut String) {
    let mut bytes = std::mem::take(out).into_bytes();
    write(node, indent, &mut bytes);
    // A node of a document is text, and what was none in it was replaced.
    *out = String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
}

fn write(node: Node<'_, '_>, indent: usize, out: &mut Vec<u8>) {
    let is_object = node.scalar() == Scalar::Object;
    if !is_object && node.scalar() != Scalar::Array {
        return node.write(out);
    }
    let inner = indent + INDENT;
    let mut any = false;
    let mut line = |out: &mut Vec<u8>| {
        out.extend_from_slice(if std::mem::replace(&mut any, true) { b",\n" } else { b"\n" });
        blanks(inner, out);
    };
    out.push(if is_object { b'{' } else { b'[' });
    for item in node.items() {
        line(out);
        write(item, inner, out);
    }
    for (key, value) in node.members() {
        line(out);
        key.write(out);
        out.extend_from_slice(b": ");
        write(value, inner, out);
    }
    if any {
        out.push(b'\n');
        blanks(indent, out);
    }
    out.push(if is_object { b'}' } else { b']' });
}

fn blanks(count: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + count, b' ');
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use base64::prelude::{BASE64_STANDARD, Engine};
    use flate2::read::GzDecoder;

    use super::*;
    use crate::recover::Document;
    use crate::recover::schema::{Dress, Layout, to_json};

    #[test]
    fn objects_are_laid_out_as_kubectl_does_it() {
        let document = Document::parse(br#"{"a":{},"b":[1,{"c":"d\n"}],"e":[],"f":null}"#).unwrap();
        let mut out = String::new();
        pretty(document.root(), 0, &mut out);
        let expected = "{\n    \"a\": {},\n    \"b\": [\n        1,\n        {\n            \"c\": \"d\\n\"\n        }\n    ],\n    \"e\": [],\n    \"f\": null\n}";
        assert_eq!(out, expected);
    }

    /// What upstream's own code stored of every kind of a release.
    fn payloads(release: &str) -> Vec<Vec<u8>> {
        let path = format!("{}/testdata/payloads/{release}.jsonl.gz", env!("CARGO_MANIFEST_DIR"));
        let mut lines = String::new();
        GzDecoder::new(File::open(path).unwrap()).read_to_string(&mut lines).unwrap();
        let payload = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            BASE64_STANDARD.decode(line["protobuf"].as_str().unwrap()).unwrap()
        };
        lines.lines().map(payload).collect()
    }

    #[test]
    fn what_the_decoder_lays_out_is_what_would_be_laid_out_of_its_text() {
        let mut plains = [payloads("k8s-1.20"), payloads("k8s-1.34-openshift-4.20")].concat();
        // Of kinds that nobody knows nearly everything is shown as unknown fields.
        let strange: Vec<Vec<u8>> = plains.iter().map(|plain| strange(plain)).collect();
        plains.extend(strange);
        plains.push(br#"{"kind":"X","apiVersion":"v1","b":[1,{},[],{"a":"\u00e9\n"}],"metadata":{"managedFields":[],"name":"a"}}"#.to_vec());
        for (plain, revision) in plains.iter().zip(1..) {
            for indent in [0, 8] {
                let dress = Dress { resource_version: Some(revision), managed_fields: false, layout: Layout::OneLine };
                let (mut line, mut lines, mut expected) = (Vec::new(), Vec::new(), String::new());
                to_json(plain, &dress, &mut line).unwrap();
                to_json(plain, &Dress { layout: Layout::Lines(indent), ..dress }, &mut lines).unwrap();
                pretty(Document::parse(&line).unwrap().root(), indent, &mut expected);
                assert_eq!(String::from_utf8(lines).unwrap(), expected);
            }
        }
    }

    /// The same object with another kind. The apiVersion comes first, and then the kind, in a message of some bytes.
    fn strange(plain: &[u8]) -> Vec<u8> {
        let mut strange = plain.to_vec();
        let end = 6 + usize::from(plain[5]);
        strange[end - 1] = b'?';
        strange
    }
}
