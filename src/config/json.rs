//! JSON as Go's `encoding/json` reads it, into a tree with places.
//!
//! Own code because the libraries at hand either lose repeated fields and places, or differ from Go: bytes that are no
//! UTF-8 and lone surrogates become U+FFFD instead of being refused, and nothing may follow the value. It knows nothing
//! of configurations. Upstream: Go's `encoding/json/scanner.go` and `decode.go` (`unquote`).

use zeroize::Zeroizing;

use super::tree::{DEPTH_LIMIT, Field, NODE_LIMIT, Node, Place, SyntaxError, Text, Value, go_text};

/// Whether upstream takes these bytes for JSON: the first character that is no space is `{`.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    // What is no UTF-8 is no space either, so the first stretch of text decides.
    bytes.utf8_chunks().next().is_some_and(|chunk| chunk.valid().trim_start().starts_with('{'))
}

/// Reads one JSON value that is the whole text.
pub(super) fn read(bytes: &[u8]) -> Result<Node, SyntaxError> {
    let mut reader = Reader { bytes, at: 0, line: 1, marked: 0, column: 1, nodes: 0 };
    let node = reader.value(0)?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(reader.fault("something follows after the top-level value")),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
    /// Up to here `column` is counted, so that a long line is walked once and not once for each value.
    marked: usize,
    column: u64,
    nodes: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn place(&mut self) -> Place {
        let passed = self.bytes.get(self.marked..self.at).unwrap_or_default();
        // Continuation bytes are no characters of their own.
        self.column += passed.iter().filter(|byte| **byte & 0xc0 != 0x80).count() as u64;
        self.marked = self.at;
        Place { line: self.line, column: self.column }
    }

    fn fault(&mut self, message: &str) -> SyntaxError {
        if self.peek().is_none() {
            SyntaxError::at(self.place(), "unexpected end of JSON input")
        } else {
            SyntaxError::at(self.place(), message)
        }
    }

    fn skip_space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.at += 1;
            if byte == b'\n' {
                self.line += 1;
                self.marked = self.at;
                self.column = 1;
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        self.skip_space();
        let place = self.place();
        self.nodes += 1;
        if depth > DEPTH_LIMIT || self.nodes > NODE_LIMIT {
            return Err(SyntaxError::at(place, "the JSON nests too deep or has too many values"));
        }
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?),
            Some(b't') => self.literal(b"true", Value::Bool(true))?,
            Some(b'f') => self.literal(b"false", Value::Bool(false))?,
            Some(b'n') => self.literal(b"null", Value::Null)?,
            _ => return Err(self.fault("invalid character where a value should begin")),
        };
        Ok(Node { value, place })
    }

    fn literal(&mut self, word: &[u8], value: Value) -> Result<Value, SyntaxError> {
        for expected in word {
            if self.peek() != Some(*expected) {
                return Err(self.fault("invalid character in a literal"));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn object(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut fields = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Map(fields));
        }
        loop {
            self.skip_space();
            let place = self.place();
            if self.peek() != Some(b'"') {
                return Err(self.fault("invalid character where an object's key should begin"));
            }
            let name = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.fault("invalid character after an object's key"));
            }
            self.at += 1;
            fields.push(Field { name, place, value: self.value(depth + 1)? });
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Map(fields));
                }
                _ => return Err(self.fault("invalid character after a key and its value")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(items));
                }
                _ => return Err(self.fault("invalid character after an array's element")),
            }
        }
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.fault("invalid character in a number"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Text, SyntaxError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(go_text(self.bytes.get(start..self.at).unwrap_or_default()))
    }

    fn string(&mut self) -> Result<Text, SyntaxError> {
        self.at += 1;
        // Escapes only ever shrink a text, so that it never moves to a larger buffer and leaves a copy behind.
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'"').unwrap_or(0);
        let mut raw = Zeroizing::new(Vec::with_capacity(length));
        loop {
            match self.peek() {
                None => return Err(self.fault("")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(go_text(&raw));
                }
                Some(b'\\') => self.escape(&mut raw)?,
                Some(0..0x20) => return Err(self.fault("a control character in a string")),
                Some(byte) => {
                    raw.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self, raw: &mut Vec<u8>) -> Result<(), SyntaxError> {
        self.at += 1;
        let byte = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode(raw);
            }
            _ => return Err(self.fault("invalid character in a string's escape")),
        };
        self.at += 1;
        raw.push(byte);
        Ok(())
    }

    fn unicode(&mut self, raw: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let mut code = self.hex4()?;
        if let 0xd800..0xdc00 = code
            && self.bytes.get(self.at..self.at.saturating_add(2)) == Some(b"\\u")
        {
            let after_first = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if let 0xdc00..0xe000 = low {
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            } else {
                // The second escape stands for itself.
                self.at = after_first;
            }
        }
        let character = char::from_u32(code).unwrap_or('\u{fffd}');
        raw.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.fault("invalid character in a \\u escape"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &[u8]) -> String {
        match read(json).unwrap().value {
            Value::Text(text) => text.to_string(),
            _ => panic!("no string"),
        }
    }

    #[test]
    fn strings_are_read_as_go_reads_them() {
        assert_eq!(text(br#""a\u00e9\ud83d\ude00\n""#), "a\u{e9}\u{1f600}\n");
        assert_eq!(text(br#""\ud800x\udc00""#), "\u{fffd}x\u{fffd}");
        assert_eq!(text(br#""\ud800\u0041""#), "\u{fffd}A");
        assert_eq!(text(b"\"\xff\xe2\x82\""), "\u{fffd}\u{fffd}\u{fffd}");
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for bad in
            ["", "{", "{\"a\":1,}", "[1,]", "01", "1.", "-", "tru", "\"\t\"", "\"\\x\"", "{} {}", "{a:1}", "{\"a\" 1}"]
        {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fault_has_its_place() {
        let fault = read(b"{\"\xc3\xa9\": 1,\n  x}").err().unwrap();
        assert_eq!(fault.place, Some(Place { line: 2, column: 3 }));
    }

    #[test]
    fn repeated_fields_are_kept_in_order() {
        let Value::Map(fields) = read(br#"{"b":1,"a":2,"b":3}"#).unwrap().value else { panic!("no object") };
        let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["b", "a", "b"]);
    }

    #[test]
    fn only_a_brace_makes_it_json() {
        assert!(is_json(b" \n\t{}"));
        assert!(is_json("\u{85}\u{a0}{".as_bytes()));
        assert!(!is_json(b"[{}]"));
        assert!(!is_json("\u{feff}{}".as_bytes()));
        assert!(!is_json(b"\xff{"));
        assert!(!is_json(b"  "));
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(read("[".repeat(100_000).as_bytes()).is_err());
    }
}
