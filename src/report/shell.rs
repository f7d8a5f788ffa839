//! Bytes as words of a shell script, and of what other programs read from one.
//!
//! A key of a store may hold any byte. Whatever it is, a word here stays within its line, is no option unless it stands where
//! options may, and comes out of bash as exactly these bytes.

use std::borrow::Cow;
use std::fmt::Write;

/// Bytes as one word of bash; none if there is a NUL among them, which no argument can hold.
///
/// ```text
/// plain              a/b.c-d
/// printable          'a b'
/// everything else    $'a\x0ab'
/// ```
pub fn word(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-:@%+,=".contains(byte);
    // A leading `=` or `%` means something to some shells, and a leading `-` to most programs.
    let starts_plain = bytes.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'/');
    match std::str::from_utf8(bytes) {
        Ok(text) if starts_plain && bytes.iter().all(is_plain) => Some(Cow::Borrowed(text)),
        Ok(text) if bytes.iter().all(|byte| (0x20..=0x7e).contains(byte) && *byte != b'\'') => {
            Some(Cow::Owned(format!("'{text}'")))
        }
        _ if bytes.contains(&0) => None,
        _ => Some(Cow::Owned(format!("$'{}'", escaped(bytes, b"\\'")))),
    }
}

/// Bytes as a quoted string of Go, for programs that read such strings; in single quotes it is a word of a shell, too.
pub fn go_string(bytes: &[u8]) -> String {
    // What means something to a shell, or to printf, is escaped although Go would take it.
    format!("\"{}\"", escaped(bytes, b"\\'\"$`%"))
}

/// Printable characters as they are, all others and those in `but` as `\xNN`.
fn escaped(bytes: &[u8], but: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    for byte in bytes {
        if (0x20..=0x7e).contains(byte) && !but.contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A segment of a URL's path, so that nothing in it divides, ends or climbs the path; none for what servers take for a step.
pub fn url_segment(text: &str) -> Option<String> {
    if matches!(text, "" | "." | "..") {
        return None;
    }
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(segment, "%{byte:02X}");
        }
    }
    Some(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_as_much_as_it_must_be() {
        for (bytes, text) in [
            (&b"/registry/secrets/a/b.c"[..], "/registry/secrets/a/b.c"),
            (b"", "''"),
            (b"-rf", "'-rf'"),
            (b"a b$(x)`y`;\"", "'a b$(x)`y`;\"'"),
            (b"it's", "$'it\\x27s'"),
            (b"a\nb\\\xff", "$'a\\x0ab\\x5c\\xff'"),
        ] {
            assert_eq!(word(bytes).as_deref(), Some(text));
        }
        assert_eq!(word(b"a\0b"), None);
    }

    #[test]
    fn a_string_of_go_holds_any_byte() {
        assert_eq!(go_string(b"/a'\0\xff\"%s\\"), r#""/a\x27\x00\xff\x22\x25s\x5c""#);
    }

    #[test]
    fn a_segment_of_a_path_is_one() {
        assert_eq!(url_segment("system:node").as_deref(), Some("system:node"));
        assert_eq!(url_segment("a/../b?c=d#e é'").as_deref(), Some("a%2F..%2Fb%3Fc%3Dd%23e%20%C3%A9%27"));
        assert_eq!(url_segment(".."), None);
    }
}
