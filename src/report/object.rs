//! JSON of objects on several lines, as kubectl prints it.

use crate::recover::{Node, Scalar};

/// Blanks for each level.
const INDENT: usize = 4;

/// Appends a value on as many lines as it takes; its first line is not indented.
pub fn pretty(node: Node<'_, '_>, indent: usize, out: &mut String) {
    let is_object = node.scalar() == Scalar::Object;
    if !is_object && node.scalar() != Scalar::Array {
        return scalar(node, out);
    }
    let inner = indent + INDENT;
    let mut any = false;
    let mut line = |out: &mut String| {
        out.push_str(if std::mem::replace(&mut any, true) { ",\n" } else { "\n" });
        blanks(inner, out);
    };
    out.push(if is_object { '{' } else { '[' });
    for item in node.items() {
        line(out);
        pretty(item, inner, out);
    }
    for (key, value) in node.members() {
        line(out);
        scalar(key, out);
        out.push_str(": ");
        pretty(value, inner, out);
    }
    if any {
        out.push('\n');
        blanks(indent, out);
    }
    out.push(if is_object { '}' } else { ']' });
}

fn blanks(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', count));
}

fn scalar(node: Node<'_, '_>, out: &mut String) {
    let mut bytes = Vec::new();
    node.write(&mut bytes);
    // A node of a document is text, and what was none in it was replaced.
    out.push_str(&String::from_utf8_lossy(&bytes));
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
