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
    use super::*;
    use crate::recover::Document;

    #[test]
    fn objects_are_laid_out_as_kubectl_does_it() {
        let document = Document::parse(br#"{"a":{},"b":[1,{"c":"d\n"}],"e":[],"f":null}"#).unwrap();
        let mut out = String::new();
        pretty(document.root(), 0, &mut out);
        let expected = "{\n    \"a\": {},\n    \"b\": [\n        1,\n        {\n            \"c\": \"d\\n\"\n        }\n    ],\n    \"e\": [],\n    \"f\": null\n}";
        assert_eq!(out, expected);
    }
}
