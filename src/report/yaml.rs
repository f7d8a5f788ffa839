//! YAML of objects, as kubectl lays it out: keys in their order, two blanks a level, lists no deeper than their key.
//!
//! Whatever a reader of YAML 1.1 could take for something else than a string (`yes`, `y`, `010`, `1e3`, `~`, a date) is
//! quoted. Texts of several lines are literal blocks where nothing in them could be lost that way.

use std::fmt::Write;

use crate::recover::{Node, Scalar};

/// Longer keys come with a question mark: readers look no further for the colon.
const MAX_SIMPLE_KEY_BYTES: usize = 1000;

/// Words that are no strings for some reader, in lower case.
const RESERVED: [&str; 10] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"];

/// Writes a value as a document, its keys in the order in which they stand.
pub fn write(node: Node<'_, '_>, out: &mut String) {
    match node.scalar() {
        Scalar::Object | Scalar::Array if !is_empty(node) => block(node, 0, true, out),
        _ => {
            leaf(node, 0, out);
            out.push('\n');
        }
    }
}

/// Writes a value as an item of a list that stands at the margin.
pub fn write_item(node: Node<'_, '_>, out: &mut String) {
    out.push_str("- ");
    item(node, 0, out);
}

fn item(node: Node<'_, '_>, indent: usize, out: &mut String) {
    match node.scalar() {
        Scalar::Object | Scalar::Array if !is_empty(node) => block(node, indent + 2, true, out),
        _ => {
            leaf(node, indent, out);
            out.push('\n');
        }
    }
}

fn is_empty(node: Node<'_, '_>) -> bool {
    node.items().next().is_none() && node.members().next().is_none()
}

/// Writes a list or mapping that is not empty. `begun` says that its first line is indented already.
fn block(node: Node<'_, '_>, indent: usize, mut begun: bool, out: &mut String) {
    let mut line = |out: &mut String| {
        if !std::mem::take(&mut begun) {
            blanks(indent, out);
        }
    };
    for one in node.items() {
        line(out);
        out.push_str("- ");
        item(one, indent, out);
    }
    for (key, value) in node.members() {
        line(out);
        let key = key.text().unwrap_or_default();
        if key.len() > MAX_SIMPLE_KEY_BYTES {
            out.push_str("? ");
            quoted(&key, out);
            out.push('\n');
            blanks(indent, out);
        } else if is_plain(&key) {
            out.push_str(&key);
        } else {
            quoted(&key, out);
        }
        out.push(':');
        member(value, indent, out);
    }
}

/// Writes what stands behind a key's colon.
fn member(value: Node<'_, '_>, indent: usize, out: &mut String) {
    match value.scalar() {
        Scalar::Object if !is_empty(value) => {
            out.push('\n');
            block(value, indent + 2, false, out);
        }
        Scalar::Array if !is_empty(value) => {
            out.push('\n');
            block(value, indent, false, out);
        }
        _ => {
            out.push(' ');
            leaf(value, indent, out);
            out.push('\n');
        }
    }
}

fn blanks(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// Writes what has no lines of its own, or is text.
fn leaf(node: Node<'_, '_>, indent: usize, out: &mut String) {
    match node.scalar() {
        Scalar::Null => out.push_str("null"),
        Scalar::Bool(value) => out.push_str(if value { "true" } else { "false" }),
        Scalar::Number(text) => out.push_str(text),
        Scalar::Object => out.push_str("{}"),
        Scalar::Array => out.push_str("[]"),
        Scalar::Text(text) if is_plain(&text) => out.push_str(&text),
        Scalar::Text(text) if is_literal(&text) => literal(&text, indent + 2, out),
        Scalar::Text(text) => quoted(&text, out),
    }
}

/// Whether a text needs no quotes for any reader: it begins with a letter or slash, holds nothing that means something,
/// and is no word of YAML.
fn is_plain(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./@=+,;()*%~$".contains(&byte);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    if !(begins || is_clearly_no_number(text)) || RESERVED.contains(&text.to_ascii_lowercase().as_str()) {
        return false;
    }
    let bytes = text.as_bytes();
    bytes.iter().zip(bytes.iter().skip(1).map(Some).chain([None])).all(|(byte, next)| match byte {
        // A colon or blank within a text, as long as it neither ends it nor begins a value or comment.
        b':' => next.is_some_and(|next| is_inner(*next)),
        b' ' => next.is_some_and(|next| next.is_ascii_alphanumeric() || b"-_./(".contains(next)),
        byte => is_inner(*byte),
    })
}

/// Whether a text that begins with a digit holds a letter that no number, base, exponent or date has.
fn is_clearly_no_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().any(|c| c.is_ascii_alphabetic() && !"abcdefoxtzABCDEFOXTZ".contains(c))
}

/// Whether a text can stand as a block of lines: nothing but printing characters, no line that blanks begin or end.
fn is_literal(text: &str) -> bool {
    let prints = |c: char| match c {
        '\n' | '\t' => true,
        '\u{85}' | '\u{a0}' | '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}' => false,
        c => !c.is_control(),
    };
    let first_is_flush = !text.starts_with([' ', '\t', '\n']);
    let ends_well = |line: &str| !line.ends_with([' ', '\t']);
    text.contains('\n') && first_is_flush && text.chars().all(prints) && text.split('\n').all(ends_well)
}

fn literal(text: &str, indent: usize, out: &mut String) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    let mut lines = text.split('\n').peekable();
    while let Some(line) = lines.next() {
        // What follows the last line feed is no line.
        if lines.peek().is_none() && line.is_empty() {
            break;
        }
        out.push('\n');
        if !line.is_empty() {
            blanks(indent, out);
            out.push_str(line);
        }
    }
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a string cannot fail.
            c if c.is_control()
                || matches!(c, '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c if u32::from(c) & 0xfffe == 0xfffe => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::yaml_as_json;
    use crate::recover::Document;

    fn yaml(json: &str) -> String {
        let document = Document::parse(json.as_bytes()).unwrap();
        let mut out = String::new();
        write(document.root(), &mut out);
        out
    }

    /// What is written must read back as the same, by a reader of YAML 1.1 and by one of YAML 1.2.
    #[track_caller]
    fn reads_back(value: &serde_json::Value) {
        let text = yaml(&value.to_string());
        assert_eq!(yaml_as_json(&text).as_ref(), Some(value), "{text}");
        let newer: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(newer, *value, "{text}");
    }

    #[test]
    fn objects_are_laid_out_as_kubectl_does_it() {
        let json = r#"{"apiVersion":"v1","data":{"a":"1","run.sh":"echo\n  on\n","s":"x\ny"},"l":[{"a":1,"b":[]},[true,null],"z"],"metadata":{"labels":{},"name":"web"}}"#;
        assert_eq!(
            yaml(json),
            "apiVersion: v1\ndata:\n  a: \"1\"\n  run.sh: |\n    echo\n      on\n  s: |-\n    x\n    y\nl:\n- a: 1\n  b: []\n- - true\n  - null\n- z\nmetadata:\n  labels: {}\n  name: web\n"
        );
        for (json, expected) in [("{}", "{}\n"), ("[]", "[]\n"), ("null", "null\n"), ("\"no\"", "\"no\"\n")] {
            assert_eq!(yaml(json), expected);
        }
    }

    #[test]
    fn what_a_reader_could_misread_is_quoted() {
        for text in [
            "",
            "y",
            "N",
            "yes",
            "No",
            "ON",
            "off",
            "true",
            "False",
            "null",
            "~",
            "010",
            "0x1F",
            "0o7",
            "0b1",
            "1e3",
            "1.",
            ".5",
            "-1",
            "+1",
            "1_000",
            "190:20:30",
            "2001-12-14",
            "2001-12-14T21:59:43Z",
            ".inf",
            ".NaN",
            "-",
            "- a",
            "? a",
            "a: b",
            "a #b",
            "#a",
            "a:",
            ":a",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "'a",
            "\"a\"",
            "{a}",
            "[a]",
            " a",
            "a ",
            "---",
            "...",
            "<<",
            "=",
            "a\tb",
            "null ",
            "1234abcd",
        ] {
            assert!(!is_plain(text), "{text}");
            reads_back(&serde_json::json!({ text: text, "list": [text] }));
        }
        for text in [
            "nginx:1.25",
            "registry.k8s.io/pause:3.9",
            "/bin/sh",
            "100m",
            "5Gi",
            "app.kubernetes.io/name",
            "two words",
            "a, b",
            "v1",
        ] {
            assert!(is_plain(text), "{text}");
            reads_back(&serde_json::json!({ text: text }));
        }
    }

    #[test]
    fn texts_of_several_lines_keep_every_byte() {
        for text in [
            "a\n",
            "a\n\n",
            "a\n\n\n",
            "\n",
            "\n\n",
            "\na",
            " a\nb",
            "a\n b\n",
            "a \nb",
            "a\n\tb",
            "\ta\nb",
            "a\r\nb",
            "a\n\u{1}",
            "a\n#b\n- c: d\n",
            "a\n---\nb\n",
            "a\u{85}b\nc",
            "a\u{2028}b\n",
            "\u{feff}a\nb",
            "é\n日本\n😀\n",
            "a\n\n\nb",
        ] {
            reads_back(&serde_json::json!({ "k": text, "l": [text, { "m": text }], text: 1 }));
        }
        reads_back(&serde_json::json!({ "x".repeat(2000): { "a": ["b"] }, "z": 1 }));
    }

    fn any_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            "[ -~\n\t]{0,12}".prop_map(serde_json::Value::from),
            "[a-z0-9:.+_-]{0,8}".prop_map(serde_json::Value::from),
            "\\PC{0,6}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[ -~]{0,6}|[a-z]{1,4}", inner, 0..5)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn whatever_is_written_reads_back(value in any_value()) {
            reads_back(&serde_json::json!({ "value": value }));
        }
    }
}
