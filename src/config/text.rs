//! Bytes to characters, the way the YAML library behind kube-apiserver reads its input.
//!
//! Upstream: `go.yaml.in/yaml/v2/readerc.go` and the line breaks of `scannerc.go`. That library takes UTF-8 and, after a
//! byte-order mark, UTF-16; it refuses control characters, but looks only as far as it has to read.

use zeroize::Zeroizing;

use super::tree::{Place, SyntaxError, Text};

/// How much upstream's reader takes in at once: a fault beyond the chunk in which the document ends is never seen.
const READ_BYTES: usize = 512;

/// Characters ready for a parser of newer YAML.
pub(super) struct Source {
    /// The text, its lines ended by line feeds alone.
    pub text: Text,
    /// Where U+2028 and U+2029 stood, counted in characters of `text`, ascending.
    pub separators: Vec<usize>,
}

/// The characters, with YAML 1.1's line breaks as line feeds. What is no UTF-8 becomes U+FFFD; if it matters,
/// [`check_characters`] tells.
pub(super) fn decode(bytes: &[u8]) -> Result<Source, SyntaxError> {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        [0xef, 0xbb, 0xbf, rest @ ..] => super::tree::go_text(rest),
        _ => super::tree::go_text(bytes),
    };
    Ok(normalise(&text))
}

fn utf16(bytes: &[u8], word: fn([u8; 2]) -> u16) -> Result<Text, SyntaxError> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for unit in char::decode_utf16(pairs.iter().map(|pair| word(*pair))) {
        text.push(unit.map_err(|_| SyntaxError::new("a UTF-16 surrogate stands alone"))?);
    }
    if rest.is_empty() { Ok(text) } else { Err(SyntaxError::new("the UTF-16 ends within a character")) }
}

/// CR LF, a lone CR, NEL and the Unicode separators all end a line in YAML 1.1; newer YAML knows only the first two.
fn normalise(text: &str) -> Source {
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut separators = Vec::new();
    let mut characters = text.chars().peekable();
    let mut count = 0;
    while let Some(character) = characters.next() {
        match character {
            '\r' => {
                characters.next_if_eq(&'\n');
                out.push('\n');
            }
            '\u{85}' => out.push('\n'),
            '\u{2028}' | '\u{2029}' => {
                separators.push(count);
                out.push('\n');
            }
            other => out.push(other),
        }
        count += 1;
    }
    Source { text: out, separators }
}

/// Refuses what upstream's reader refuses in the part of the file that it takes in: the document ends at the character
/// `end` of the `source` that came out of `bytes`.
pub(super) fn check_characters(bytes: &[u8], source: &str, end: usize) -> Result<(), SyntaxError> {
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes {
        return check_text(source);
    }
    let content = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let seen = seen_bytes(content, end).saturating_add(bytes.len() - content.len());
    let taken = seen.checked_next_multiple_of(READ_BYTES).unwrap_or(usize::MAX).min(bytes.len());
    // A character that the chunk cuts in two is left for the next chunk.
    let taken =
        (taken..bytes.len()).take(3).find(|at| bytes.get(*at).is_some_and(|b| b & 0xc0 != 0x80)).unwrap_or(taken);
    let whole = content.get(..taken.saturating_sub(bytes.len() - content.len())).unwrap_or(content);
    let mut line = 1;
    for chunk in whole.utf8_chunks() {
        check_text(chunk.valid()).map_err(|fault| moved(fault, line))?;
        line += chunk.valid().matches('\n').count() as u64;
        if !chunk.invalid().is_empty() {
            return Err(SyntaxError::at(Place { line, column: 1 }, "the text is no UTF-8"));
        }
    }
    Ok(())
}

fn moved(fault: SyntaxError, line: u64) -> SyntaxError {
    let place = fault.place.map(|place| Place { line: place.line + line - 1, column: place.column });
    SyntaxError { message: fault.message, place }
}

/// How many bytes make up the first `characters` characters, once the line ends are normalised.
fn seen_bytes(content: &[u8], characters: usize) -> usize {
    let mut left = characters;
    let mut seen = 0;
    for chunk in content.utf8_chunks() {
        let mut text = chunk.valid().chars().peekable();
        while let Some(character) = text.next() {
            if left == 0 {
                return seen;
            }
            left -= 1;
            seen += character.len_utf8();
            if character == '\r' && text.next_if_eq(&'\n').is_some() {
                seen += 1;
            }
        }
        let invalid = chunk.invalid().len();
        left = left.saturating_sub(invalid);
        seen += invalid;
    }
    seen
}

fn check_text(text: &str) -> Result<(), SyntaxError> {
    let allowed = |character| matches!(character, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..);
    for (number, line) in (1..).zip(text.split('\n')) {
        if let Some(column) = line.chars().position(|character| !allowed(character)) {
            let place = Place { line: number, column: column as u64 + 1 };
            return Err(SyntaxError::at(place, "control characters are not allowed"));
        }
    }
    Ok(())
}
