//! Trees as text: new elements in the layout around them, and whole files where nothing else will do.

use zeroize::Zeroizing;

use super::super::scalar::{self, Scalar};
use super::super::tree::{Field, Node, Text, Value};
use super::wiped::Wiped;

/// How far a level of a block stands in.
const STEP: usize = 2;

/// The layout of a flow collection: of JSON, or of YAML between brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    /// The spaces before an element and the spaces that a level adds; none where all stands on one line.
    pub lines: Option<(usize, usize)>,
    /// What ends a line.
    pub eol: &'static str,
    /// Whether a space follows colons and commas.
    pub spaced: bool,
    /// Whether everything is quoted, as JSON wants it.
    pub quoted: bool,
}

/// A whole file.
pub(super) fn whole(root: &Node, json: bool) -> Zeroizing<Vec<u8>> {
    let mut out = Wiped::with_capacity(64 << 10);
    if json {
        let layout = Flow { lines: Some((0, STEP)), eol: "\n", spaced: true, quoted: true };
        flow(&mut out, root, &layout);
        out.push("\n");
    } else {
        block(&mut out, root, 0, "\n");
    }
    out.into_bytes()
}

/// A collection as a block, each line ended.
pub(super) fn block(out: &mut Wiped, node: &Node, indent: usize, eol: &str) {
    match &node.value {
        Value::List(items) if !items.is_empty() => {
            for item in items {
                out.spaces(indent);
                element(out, item, indent, 1, eol);
            }
        }
        Value::Map(fields) if !fields.is_empty() => {
            for field in fields {
                out.spaces(indent);
                pair(out, field, indent, eol);
            }
        }
        _ => {
            out.spaces(indent);
            inline(out, node);
            out.push(eol);
        }
    }
}

/// An element of a list from its dash on, at a column, with so many spaces behind the dash.
pub(super) fn element(out: &mut Wiped, item: &Node, column: usize, gap: usize, eol: &str) {
    out.push("-");
    out.spaces(gap);
    let inner = column + 1 + gap;
    match &item.value {
        Value::Map(fields) if !fields.is_empty() => {
            for (number, field) in fields.iter().enumerate() {
                if number > 0 {
                    out.spaces(inner);
                }
                pair(out, field, inner, eol);
            }
        }
        Value::List(items) if !items.is_empty() => {
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    out.spaces(inner);
                }
                element(out, item, inner, 1, eol);
            }
        }
        _ => {
            inline(out, item);
            out.push(eol);
        }
    }
}

fn pair(out: &mut Wiped, field: &Field, indent: usize, eol: &str) {
    scalar_text(out, &field.name, false);
    match &field.value.value {
        Value::Map(fields) if !fields.is_empty() => {
            out.push(":");
            out.push(eol);
            block(out, &field.value, indent + STEP, eol);
        }
        Value::List(items) if !items.is_empty() => {
            out.push(":");
            out.push(eol);
            block(out, &field.value, indent + STEP, eol);
        }
        _ => {
            out.push(": ");
            inline(out, &field.value);
            out.push(eol);
        }
    }
}

fn inline(out: &mut Wiped, node: &Node) {
    flow(out, node, &Flow { lines: None, eol: "\n", spaced: true, quoted: false });
}

/// A node between brackets; its first line goes on where the text is.
pub(super) fn flow(out: &mut Wiped, node: &Node, layout: &Flow) {
    match &node.value {
        Value::Null => out.push("null"),
        Value::Bool(value) => out.push(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push(number),
        Value::Text(text) => scalar_text(out, text, layout.quoted),
        Value::List(items) => {
            let each = |out: &mut Wiped, item: &Node, inner: &Flow| flow(out, item, inner);
            collection(out, ("[", "]"), items, layout, each);
        }
        Value::Map(fields) => {
            let each = |out: &mut Wiped, field: &Field, inner: &Flow| {
                scalar_text(out, &field.name, inner.quoted);
                out.push(if inner.spaced { ": " } else { ":" });
                flow(out, &field.value, inner);
            };
            collection(out, ("{", "}"), fields, layout, each);
        }
    }
}

fn collection<T>(
    out: &mut Wiped,
    (open, close): (&str, &str),
    items: &[T],
    layout: &Flow,
    each: impl Fn(&mut Wiped, &T, &Flow),
) {
    let inner = Flow { lines: layout.lines.map(|(indent, step)| (indent + step, step)), ..layout.clone() };
    out.push(open);
    for (number, item) in items.iter().enumerate() {
        match inner.lines {
            Some((indent, _)) => {
                out.push(if number > 0 { "," } else { "" });
                out.push(layout.eol);
                out.spaces(indent);
            }
            None if number > 0 => out.push(if layout.spaced { ", " } else { "," }),
            None => {}
        }
        each(out, item, &inner);
    }
    if let Some((indent, _)) = layout.lines.filter(|_| !items.is_empty()) {
        out.push(layout.eol);
        out.spaces(indent);
    }
    out.push(close);
}

fn scalar_text(out: &mut Wiped, text: &Text, quoted: bool) {
    if !quoted && is_plain(text) {
        out.push(text);
        return;
    }
    out.push("\"");
    for character in text.chars() {
        match character {
            '"' => out.push("\\\""),
            '\\' => out.push("\\\\"),
            // What YAML's older readers refuse, or take for the end of a line.
            '\u{0}'..' ' | '\u{7f}'..'\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{feff}' | '\u{ffff}' => {
                out.push(&format!("\\u{:04x}", u32::from(character)));
            }
            other => out.push(other.encode_utf8(&mut [0; 4])),
        }
    }
    out.push("\"");
}

/// Whether YAML reads a text as that text although nothing is around it: of harmless characters, and no number, no
/// boolean, no null.
fn is_plain(text: &Text) -> bool {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'+' | b'=' | b'-');
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'+'));
    begins && text.bytes().all(harmless) && matches!(scalar::resolve(text, true, None), Ok(Scalar::Text(_)))
}

#[cfg(test)]
mod tests {
    use super::super::fresh::{Item, KeyKind};
    use super::*;
    use crate::provider::secret::SecretKey;
    use crate::provider::spec::NamedKey;

    fn item(name: &str) -> Node {
        let key = NamedKey { name: name.to_owned(), secret: SecretKey::new(b"0123456789abcdef".to_vec()) };
        Item::Provider(KeyKind::AesGcm, key).node()
    }

    #[test]
    fn an_element_is_laid_out_as_the_documentation_does() {
        let mut out = Wiped::with_capacity(0);
        element(&mut out, &item("key2"), 2, 1, "\n");
        let expected = "- aesgcm:\n      keys:\n        - name: key2\n          secret: MDEyMzQ1Njc4OWFiY2RlZg==\n";
        assert_eq!(out.as_str(), expected);
    }

    #[test]
    fn what_yaml_would_take_for_something_else_is_quoted() {
        for (text, written) in [
            ("key1", "key1"),
            ("no", "\"no\""),
            ("1", "\"1\""),
            ("1e3", "\"1e3\""),
            ("-", "\"-\""),
            ("=", "\"=\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
            ("a\u{2028}\t\"\\", "\"a\\u2028\\u0009\\\"\\\\\""),
            ("+abc/=", "+abc/="),
        ] {
            let mut out = Wiped::with_capacity(0);
            scalar_text(&mut out, &Text::new(text.to_owned()), false);
            assert_eq!(out.as_str(), written);
        }
    }

    #[test]
    fn a_flow_is_laid_out_on_one_line_or_on_many() {
        let layout = Flow { lines: None, eol: "\n", spaced: false, quoted: true };
        let mut out = Wiped::with_capacity(0);
        flow(&mut out, &item("a"), &layout);
        assert_eq!(out.as_str(), r#"{"aesgcm":{"keys":[{"name":"a","secret":"MDEyMzQ1Njc4OWFiY2RlZg=="}]}}"#);
        let mut out = Wiped::with_capacity(0);
        flow(&mut out, &Item::Identity.node(), &Flow { lines: Some((4, 2)), spaced: true, ..layout });
        assert_eq!(out.as_str(), "{\n      \"identity\": {}\n    }");
    }
}
