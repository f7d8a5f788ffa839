//! JSON text: strings as Go writes them, base64, numbers.

use std::io::Write;

use base64::encoded_len;
use base64::prelude::{BASE64_STANDARD, Engine};

/// Writes a string. Bytes that are no UTF-8 become U+FFFD, one for each, as Go does it.
pub(crate) fn string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    // Nearly all strings are plain, and seeing that takes one look at each byte.
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
    } else {
        any_string(bytes, out);
    }
    out.push(b'"');
}

/// Bytes that are looked at together.
const LANES: usize = 16;

/// Whether a string is ASCII with nothing in it that JSON would have to escape.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<LANES>();
    let is_special = |byte: u8| is_escaped(byte) | (byte >= 0x80);
    // Without a branch for each byte, so that all of a chunk are looked at at once.
    let is_clean = |chunk: &[u8; LANES]| !chunk.iter().fold(false, |special, byte| special | is_special(*byte));
    chunks.iter().all(is_clean) && !rest.iter().fold(false, |special, byte| special | is_special(*byte))
}

/// Whether JSON does not allow a byte of UTF-8 in a string as it is.
#[inline]
fn is_escaped(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// How many bytes of a text come before the first that ends a string in JSON or must be escaped in it.
#[inline]
pub(crate) fn unescaped(text: &[u8]) -> usize {
    let (chunks, _) = text.as_chunks::<LANES>();
    let is_clean = |chunk: &&[u8; LANES]| !chunk.iter().fold(false, |special, byte| special | is_escaped(*byte));
    let clean = chunks.iter().take_while(is_clean).count() * LANES;
    let rest = text.get(clean..).unwrap_or_default();
    clean + rest.iter().position(|byte| is_escaped(*byte)).unwrap_or(rest.len())
}

#[cold]
fn any_string(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match std::str::from_utf8(rest) {
            Ok(text) => {
                escaped(text.as_bytes(), out);
                break;
            }
            Err(error) => {
                let (valid, bad) = rest.split_at_checked(error.valid_up_to()).unwrap_or((rest, &[]));
                escaped(valid, out);
                out.extend_from_slice("\u{fffd}".as_bytes());
                rest = bad.get(1..).unwrap_or_default();
            }
        }
    }
}

/// UTF-8 with what JSON does not allow in a string escaped.
fn escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at_checked(unescaped(rest)).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => number(out, format_args!("\\u{other:04x}")),
        }
        rest = after;
    }
}

/// Writes bytes as a string of base64.
pub(crate) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    // Nothing that is in memory is so long that this overflows.
    out.resize(start + encoded_len(bytes.len(), true).unwrap_or(0), 0);
    let written = BASE64_STANDARD.encode_slice(bytes, out.get_mut(start..).unwrap_or_default());
    out.truncate(start + written.unwrap_or(0));
    out.push(b'"');
}

/// Writes a whole number.
pub(crate) fn integer(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0; 20];
    let (mut rest, mut length) = (value.unsigned_abs(), 0);
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (rest % 10) as u8;
        (rest, length) = (rest / 10, length + 1);
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(digits.get(digits.len() - length..).unwrap_or_default());
}

/// Writes the last two digits of a number that is not negative.
pub(crate) fn two_digits(out: &mut Vec<u8>, value: i64) {
    out.extend([b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]);
}

/// Writes what displays itself as a number or in plain letters.
pub(crate) fn number(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
}

/// Writes a floating-point number. JSON has no infinities.
pub(crate) fn float(out: &mut Vec<u8>, value: f64) {
    match serde_json::Number::from_f64(value) {
        // A whole number is written without a fraction, as Go does it.
        Some(_) if value.fract() == 0.0 && value.abs() < 1e15 => number(out, value as i64),
        Some(value) => number(out, value),
        None => string(value.to_string().as_bytes(), out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        let mut out = Vec::new();
        string(bytes, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn strings_are_escaped_and_what_is_no_utf_8_is_replaced_byte_by_byte() {
        check("a\"b\\c\n\u{1}γ日".as_bytes(), "\"a\\\"b\\\\c\\n\\u0001γ日\"");
        check(b"", "\"\"");
        check(b"a\xff\xfe\xe6\x97b", "\"a\u{fffd}\u{fffd}\u{fffd}\u{fffd}b\"");
    }

    #[test]
    fn bytes_of_any_number_become_base64() {
        for length in [0, 1, 2, 3, 4, 1000, 5000] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut out = Vec::new();
            base64(&bytes, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{}\"", BASE64_STANDARD.encode(&bytes)));
        }
    }

    #[test]
    fn what_is_special_is_seen_wherever_it_stands() {
        for length in 0..50 {
            for at in 0..length {
                for special in [0x1f, b'"', b'\\', 0x80, 0xff] {
                    let mut text = vec![b'a'; length];
                    assert!(is_plain(&text) && unescaped(&text) == length);
                    if let Some(slot) = text.get_mut(at) {
                        *slot = special;
                    }
                    assert!(!is_plain(&text), "{special:x} at {at} of {length}");
                    assert_eq!(unescaped(&text), if special < 0x80 { at } else { length });
                }
            }
        }
    }

    #[test]
    fn whole_numbers_are_written_as_they_display_themselves() {
        for value in [0, 1, -1, 9, 10, 1_234_567_890, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            integer(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }

    #[test]
    fn floats_are_written_as_values() {
        for (value, expected) in [(1.0, "1"), (-0.5, "-0.5"), (1e300, "1e+300"), (0.0, "0"), (f64::NAN, "\"NaN\"")] {
            let mut out = Vec::new();
            float(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
