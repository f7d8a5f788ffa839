//! JSON text: strings as Go writes them, base64, numbers.

use std::io::Write;

use base64::prelude::{BASE64_STANDARD, Engine};

/// Base64 is made in pieces of so many bytes, a multiple of three.
const BASE64_PIECE: usize = 3 << 10;

/// Writes a string. Bytes that are no UTF-8 become U+FFFD, one for each, as Go does it.
pub(crate) fn string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
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
    out.push(b'"');
}

/// UTF-8 with what JSON does not allow in a string escaped.
fn escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, 0..=0x1f | b'"' | b'\\')) {
        let (plain, special) = rest.split_at_checked(at).unwrap_or((rest, &[]));
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
    out.extend_from_slice(rest);
}

/// Writes bytes as a string of base64.
pub(crate) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut buffer = [0; BASE64_PIECE / 3 * 4];
    for piece in bytes.chunks(BASE64_PIECE) {
        // The buffer has room for every piece.
        let length = BASE64_STANDARD.encode_slice(piece, &mut buffer).unwrap_or(0);
        out.extend_from_slice(buffer.get(..length).unwrap_or_default());
    }
    out.push(b'"');
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
    fn base64_in_pieces_is_base64() {
        for length in [0, 1, 2, 3, BASE64_PIECE - 1, BASE64_PIECE, BASE64_PIECE + 1, 3 * BASE64_PIECE + 2] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut out = Vec::new();
            base64(&bytes, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{}\"", BASE64_STANDARD.encode(&bytes)));
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
