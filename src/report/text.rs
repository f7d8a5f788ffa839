//! Bytes and texts of a store as text that no terminal and no spreadsheet stumbles over.

use std::borrow::Cow;
use std::fmt::Write;

/// An etcd key: bytes outside 0x20 to 0x7e as `\xNN`, a backslash as `\\`.
pub fn key(bytes: &[u8]) -> Cow<'_, str> {
    let plain = |byte: &u8| (0x20..=0x7e).contains(byte) && *byte != b'\\';
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(plain) => Cow::Borrowed(text),
        _ => {
            let mut escaped = String::with_capacity(bytes.len() + 16);
            for byte in bytes {
                match byte {
                    b'\\' => escaped.push_str("\\\\"),
                    byte if plain(byte) => escaped.push(char::from(*byte)),
                    byte => hex_escape(&mut escaped, *byte),
                }
            }
            Cow::Owned(escaped)
        }
    }
}

/// A text of the store: control characters as `\xNN`, everything that prints as it is.
///
/// Beside the control characters those that turn the direction of writing are escaped, so that nothing on a terminal
/// reads otherwise than it stands.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().for_each(|byte| hex_escape(&mut escaped, byte));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn hex_escape(out: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\\x{byte:02x}");
}

/// Bytes as lower-case hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    text
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Appends bytes as lower-case hexadecimal text.
pub fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Appends a digest as lower-case hexadecimal text, all at once: every row has one.
pub fn push_sha256(text: &mut Vec<u8>, digest: &[u8; 32]) {
    let mut digits = [0; 64];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(digest) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    text.extend_from_slice(&digits);
}

/// Appends a number in decimal digits.
pub fn push_number(text: &mut Vec<u8>, number: i64) {
    // The greatest number of 64 bits has so many digits.
    let mut digits = [0; 20];
    let mut rest = number.unsigned_abs();
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        count += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        text.push(b'-');
    }
    text.extend_from_slice(digits.get(digits.len() - count..).unwrap_or_default());
}

/// A number with thin groups of three digits: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_break_a_line_or_colour_a_terminal() {
        assert_eq!(key(b"/registry/secrets/a"), "/registry/secrets/a");
        assert_eq!(key(b"a\\b\x1b[31m\n\xff\"',"), "a\\\\b\\x1b[31m\\x0a\\xff\"',");
    }

    #[test]
    fn texts_keep_what_prints() {
        assert_eq!(harmless("clé:1"), "clé:1");
        assert_eq!(harmless("a\u{1b}[31m\u{202e}b\u{85}"), "a\\x1b[31m\\xe2\\x80\\xaeb\\xc2\\x85");
    }

    #[test]
    fn digits_are_those_of_the_standard_library() {
        for number in [0, 7, 10, -1, 1_234_567, i64::MAX, i64::MIN] {
            let mut text = Vec::new();
            push_number(&mut text, number);
            assert_eq!(text, number.to_string().into_bytes());
        }
        let digest = std::array::from_fn(|index| (index * 9) as u8);
        let mut text = Vec::new();
        push_sha256(&mut text, &digest);
        assert_eq!(text, hex(&digest).into_bytes());
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }
}
