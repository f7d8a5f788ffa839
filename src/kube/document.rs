//! A JSON text as a flat list of its values: checked once, then looked into or written anew with its keys sorted.
//!
//! Values are not copied out of the text, so a plaintext stays where its owner wipes it. Nesting is bounded. Numbers keep the
//! digits that they were written with. Of a key that comes twice the last one counts, as in Go.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::schema::{Layout, write};

/// Few values take less of a text, with all that stands around them.
const BYTES_OF_VALUE: usize = 24;

/// Deeper nesting is refused.
pub const MAX_DEPTH: usize = 512;

/// What is no JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub struct Malformed {
    /// Where.
    pub offset: usize,
    /// What.
    pub what: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Bool(bool),
    Number,
    /// With quotes; `true` if there is a backslash in it or it is no UTF-8.
    Text(bool),
    Array,
    Object,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: Kind,
    start: usize,
    end: usize,
    /// The entry after this one and all that it contains.
    next: usize,
}

/// A JSON text that was read.
#[derive(Debug)]
pub struct Document<'d> {
    text: &'d [u8],
    /// The same, where all of it is UTF-8.
    utf8: Option<&'d str>,
    entries: Vec<Entry>,
}

/// One value of a document.
#[derive(Clone, Copy, Debug)]
pub struct Node<'n, 'd> {
    document: &'n Document<'d>,
    at: usize,
}

impl<'d> Document<'d> {
    /// Reads a text that holds one value and nothing else.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for anything else, and for values that are nested deeper than [`MAX_DEPTH`].
    pub fn parse(text: &'d [u8]) -> Result<Self, Malformed> {
        let utf8 = std::str::from_utf8(text).ok();
        let mut parser =
            Parser { text, is_utf8: utf8.is_some(), at: 0, entries: Vec::with_capacity(text.len() / BYTES_OF_VALUE) };
        parser.blanks();
        parser.value(0)?;
        parser.blanks();
        if parser.at < text.len() {
            return Err(parser.fault("something behind the value"));
        }
        Ok(Self { text, utf8, entries: parser.entries })
    }

    /// The value itself.
    pub fn root(&self) -> Node<'_, 'd> {
        Node { document: self, at: 0 }
    }

    fn entry(&self, at: usize) -> Entry {
        self.entries.get(at).copied().unwrap_or(Entry { kind: Kind::Null, start: 0, end: 0, next: usize::MAX })
    }

    fn bytes(&self, at: usize) -> &'d [u8] {
        let entry = self.entry(at);
        self.text.get(entry.start..entry.end).unwrap_or_default()
    }
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'d> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// As it is written.
    Number(&'d str),
    /// Without quotes and escapes.
    Text(Cow<'d, str>),
    /// A list.
    Array,
    /// A mapping.
    Object,
}

impl<'n, 'd> Node<'n, 'd> {
    /// What it is.
    pub fn scalar(self) -> Scalar<'d> {
        let bytes = self.document.bytes(self.at);
        match self.document.entry(self.at).kind {
            Kind::Null => Scalar::Null,
            Kind::Bool(value) => Scalar::Bool(value),
            Kind::Number => Scalar::Number(std::str::from_utf8(bytes).unwrap_or_default()),
            Kind::Text(_) => Scalar::Text(self.text().unwrap_or_default()),
            Kind::Array => Scalar::Array,
            Kind::Object => Scalar::Object,
        }
    }

    /// The string, if it is one.
    pub fn text(self) -> Option<Cow<'d, str>> {
        let Kind::Text(plain) = self.document.entry(self.at).kind else { return None };
        let (document, entry) = (self.document, self.document.entry(self.at));
        let within = entry.start + 1..entry.end.saturating_sub(1);
        if let Some(text) = document.utf8.filter(|_| !plain).and_then(|text| text.get(within.clone())) {
            return Some(Cow::Borrowed(text));
        }
        let inner = document.text.get(within).unwrap_or_default();
        Some(match std::str::from_utf8(inner) {
            Ok(text) if !plain => Cow::Borrowed(text),
            _ => Cow::Owned(unescape(inner)),
        })
    }

    /// The number, if it is a whole one.
    pub fn integer(self) -> Option<i64> {
        match self.scalar() {
            Scalar::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The member of a name, if this is an object that has it.
    pub fn get(self, name: &str) -> Option<Node<'n, 'd>> {
        self.members().filter(|(key, _)| key.text().is_some_and(|key| key == name)).map(|(_, value)| value).last()
    }

    /// What several names, one after the other, lead to.
    pub fn find(self, path: &[&str]) -> Option<Node<'n, 'd>> {
        path.iter().try_fold(self, |node, name| node.get(name))
    }

    /// The values of an array; none of anything else.
    pub fn items(self) -> impl Iterator<Item = Node<'n, 'd>> {
        let is_array = self.document.entry(self.at).kind == Kind::Array;
        self.children(is_array)
    }

    /// Keys and values of an object; none of anything else.
    pub fn members(self) -> impl Iterator<Item = (Node<'n, 'd>, Node<'n, 'd>)> {
        let is_object = self.document.entry(self.at).kind == Kind::Object;
        let mut children = self.children(is_object);
        std::iter::from_fn(move || Some((children.next()?, children.next()?)))
    }

    fn children(self, any: bool) -> impl Iterator<Item = Node<'n, 'd>> {
        let end = if any { self.document.entry(self.at).next } else { 0 };
        let mut at = self.at + 1;
        std::iter::from_fn(move || {
            let node = Node { document: self.document, at };
            (at < end).then(|| {
                at = self.document.entry(at).next;
                node
            })
        })
    }

    /// The members of an object with their keys sorted, each key once.
    pub fn sorted(self) -> Vec<(Cow<'d, str>, Node<'n, 'd>)> {
        let mut members: Vec<_> = self.members().map(|(key, value)| (key.text().unwrap_or_default(), value)).collect();
        if !members.is_sorted_by(|one, next| one.0 < next.0) {
            members.sort_by(|one, other| one.0.cmp(&other.0).then(other.1.at.cmp(&one.1.at)));
            members.dedup_by(|next, kept| next.0 == kept.0);
        }
        members
    }

    /// The value's number in its document, by which it can be told from all others of it.
    pub fn number(self) -> usize {
        self.at
    }

    /// Writes the value with all keys sorted and without blanks.
    pub fn write(self, out: &mut Vec<u8>) {
        self.write_laid_out(Layout::OneLine, out);
    }

    /// Writes the value with all keys sorted, in another layout.
    pub fn write_laid_out(self, layout: Layout, out: &mut Vec<u8>) {
        self.write_all(&BTreeSet::new(), layout, out);
    }

    /// The same without the values of these [numbers](Self::number); a member goes with its key.
    pub fn write_without(self, left_out: &BTreeSet<usize>, out: &mut Vec<u8>) {
        self.write_all(left_out, Layout::OneLine, out);
    }

    fn write_all(self, left_out: &BTreeSet<usize>, layout: Layout, out: &mut Vec<u8>) {
        let inner = layout.inner();
        match self.document.entry(self.at).kind {
            Kind::Text(true) => write::string(self.text().unwrap_or_default().as_bytes(), out),
            Kind::Null | Kind::Bool(_) | Kind::Number | Kind::Text(false) => {
                out.extend_from_slice(self.document.bytes(self.at));
            }
            Kind::Array => {
                out.push(b'[');
                let opening = out.len();
                for item in self.items().filter(|item| !left_out.contains(&item.at)) {
                    inner.next(opening, out);
                    item.write_all(left_out, inner, out);
                }
                layout.close(opening, b']', out);
            }
            Kind::Object => {
                out.push(b'{');
                let opening = out.len();
                for (key, value) in self.sorted().into_iter().filter(|(_, value)| !left_out.contains(&value.at)) {
                    inner.next(opening, out);
                    write::string(key.as_bytes(), out);
                    inner.colon(out);
                    value.write_all(left_out, inner, out);
                }
                layout.close(opening, b'}', out);
            }
        }
    }
}

/// The text between the quotes with its escapes resolved. What no character stands for becomes U+FFFD.
fn unescape(inner: &[u8]) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((first, after)) = rest.split_first() {
        if *first != b'\\' {
            let run = rest.iter().position(|byte| *byte == b'\\').unwrap_or(rest.len());
            let (plain, next) = rest.split_at_checked(run).unwrap_or((rest, &[]));
            push_lossy(plain, &mut out);
            rest = next;
            continue;
        }
        let (letter, after) = after.split_first().unwrap_or((&b'\\', &[]));
        rest = after;
        match letter {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let (unit, after) = unit(rest);
                rest = after;
                let low = rest.strip_prefix(b"\\u").map(self::unit).filter(|(low, _)| (0xdc00..0xe000).contains(low));
                match (unit, low) {
                    (0xd800..0xdc00, Some((low, after))) => {
                        rest = after;
                        let scalar = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        out.push(char::from_u32(scalar).unwrap_or('\u{fffd}'));
                    }
                    _ => out.push(char::from_u32(unit).unwrap_or('\u{fffd}')),
                }
            }
            other => out.push(char::from(*other)),
        }
    }
    out
}

fn push_lossy(bytes: &[u8], out: &mut String) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match std::str::from_utf8(rest) {
            Ok(text) => {
                out.push_str(text);
                return;
            }
            Err(error) => {
                let (valid, bad) = rest.split_at_checked(error.valid_up_to()).unwrap_or((rest, &[]));
                out.push_str(std::str::from_utf8(valid).unwrap_or_default());
                out.push('\u{fffd}');
                rest = bad.get(1..).unwrap_or_default();
            }
        }
    }
}

/// Four hexadecimal digits; they were checked when the text was read.
fn unit(rest: &[u8]) -> (u32, &[u8]) {
    let (digits, after) = rest.split_at_checked(4).unwrap_or((&[], &[]));
    let value = std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok());
    (value.unwrap_or(0xfffd), after)
}

struct Parser<'d> {
    text: &'d [u8],
    is_utf8: bool,
    at: usize,
    entries: Vec<Entry>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn fault(&self, what: &'static str) -> Malformed {
        let what = if self.at >= self.text.len() { "cut off" } else { what };
        Malformed { offset: self.at.min(self.text.len()), what }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(self.fault(what));
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(self.fault("nested too deeply"));
        }
        let (own, start) = (self.entries.len(), self.at);
        self.entries.push(Entry { kind: Kind::Null, start, end: start, next: 0 });
        let kind = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => self.string()?,
            Some(b't') => self.word(b"true", Kind::Bool(true))?,
            Some(b'f') => self.word(b"false", Kind::Bool(false))?,
            Some(b'n') => self.word(b"null", Kind::Null)?,
            _ => self.number()?,
        };
        let (next, end) = (self.entries.len(), self.at);
        if let Some(entry) = self.entries.get_mut(own) {
            *entry = Entry { kind, start, end, next };
        }
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<Kind, Malformed> {
        self.at += 1;
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Kind::Object);
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.fault("no key of an object"));
            }
            self.value(depth + 1)?;
            self.blanks();
            self.expect(b':', "no colon after a key")?;
            self.blanks();
            self.value(depth + 1)?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Kind::Object);
                }
                _ => return Err(self.fault("neither comma nor brace after a member")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Kind, Malformed> {
        self.at += 1;
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Kind::Array);
        }
        loop {
            self.blanks();
            self.value(depth + 1)?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Kind::Array);
                }
                _ => return Err(self.fault("neither comma nor bracket after a value")),
            }
        }
    }

    fn string(&mut self) -> Result<Kind, Malformed> {
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += write::unescaped(self.text.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            let digits = self.text.get(self.at + 1..self.at + 5);
                            if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                                return Err(self.fault("no escape"));
                            }
                            self.at += 5;
                        }
                        _ => return Err(self.fault("no escape")),
                    }
                }
                _ => return Err(self.fault("a control character in a string")),
            }
        }
        self.at += 1;
        let is_utf8 =
            self.is_utf8 || self.text.get(start..self.at).is_some_and(|text| std::str::from_utf8(text).is_ok());
        Ok(Kind::Text(escaped || !is_utf8))
    }

    fn word(&mut self, word: &'static [u8], kind: Kind) -> Result<Kind, Malformed> {
        if !self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return Err(self.fault("no value"));
        }
        self.at += word.len();
        Ok(kind)
    }

    fn number(&mut self) -> Result<Kind, Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.fault("no value")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Kind::Number)
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("no digit of a number")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(text: &str) -> Result<String, Malformed> {
        let document = Document::parse(text.as_bytes())?;
        let mut out = Vec::new();
        document.root().write(&mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn keys_are_sorted_blanks_go_and_digits_stay() {
        let text =
            r#" { "b" : [ 1.50, {"z":1,"a":[] } , "\u00e9\/" ] , "a" : 123456789012345678901234567890 , "c":{ } } "#;
        assert_eq!(
            sorted(text).unwrap(),
            r#"{"a":123456789012345678901234567890,"b":[1.50,{"a":[],"z":1},"é/"],"c":{}}"#
        );
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_counts() {
        assert_eq!(sorted(r#"{"b":0,"a":1,"a":2,"\u0061":3}"#).unwrap(), r#"{"a":3,"b":0}"#);
        let document = Document::parse(br#"{"a":1,"a":2}"#).unwrap();
        assert_eq!(document.root().get("a").and_then(Node::integer), Some(2));
    }

    #[test]
    fn escapes_are_resolved_and_half_surrogates_replaced() {
        let document = Document::parse(br#"["\ud83d\ude00", "\ud83d", "\ude00x", "a\tb\"\\"]"#).unwrap();
        let texts: Vec<_> = document.root().items().map(|item| item.text().unwrap().into_owned()).collect();
        assert_eq!(texts, ["😀", "\u{fffd}", "\u{fffd}x", "a\tb\"\\"]);
    }

    #[test]
    fn strings_that_are_no_utf_8_are_replaced_byte_by_byte() {
        let document = Document::parse(b"\"a\xff\xfeb\"").unwrap();
        assert_eq!(document.root().text().unwrap(), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        for text in [
            "",
            "{",
            "[1,",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "[1 2]",
            "01",
            "1.",
            "-",
            "1e",
            "tru",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"",
            "1 2",
            "[1,]",
            "{\"a\":1,}",
            "\"\n\"",
            "nan",
        ] {
            assert!(sorted(text).is_err(), "{text}");
        }
        assert_eq!(sorted("[1, x]").unwrap_err().offset, 4);
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(sorted(&deep(MAX_DEPTH)).is_ok());
        assert_eq!(sorted(&deep(MAX_DEPTH + 1)).unwrap_err().what, "nested too deeply");
        assert!(sorted(&deep(100_000)).is_err());
    }

    #[test]
    fn members_are_found_by_path() {
        let document = Document::parse(br#"{"metadata":{"labels":{"a/b":"c"}},"n":[1]}"#).unwrap();
        let root = document.root();
        assert_eq!(root.find(&["metadata", "labels", "a/b"]).unwrap().text().unwrap(), "c");
        assert!(root.find(&["metadata", "labels", "x"]).is_none());
        assert!(root.find(&["n", "x"]).is_none());
    }
}
