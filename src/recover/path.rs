//! Names of objects as names of files: no two become one, and none leads anywhere.
//!
//! Small letters, digits, `-`, `.` and, but for the first place, `_` stand for themselves; every other byte is `%` and two small hexadecimal
//! digits, as are `-`, `.` and `_` in the first place. So what comes has no slash and no zero byte, is neither hidden nor `.` or `..`, and differs
//! in more than case from every other. A name that would be too long for a file system is cut, and ends in `%-` and its SHA-256, which no
//! other name does.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Longer names are cut. File systems take 255 bytes; a suffix and the mark of an unfinished file need some of them.
const MAX_BYTES: usize = 200;

/// So much of a name that is cut stays readable.
const READABLE_BYTES: usize = 120;

/// A text as the name of one file or folder, without a suffix. The empty text, which no object bears, is `%`.
pub fn component(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_plain = match byte {
            b'a'..=b'z' | b'0'..=b'9' => true,
            b'-' | b'.' | b'_' => !name.is_empty(),
            _ => false,
        };
        if is_plain {
            name.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02x}");
        }
    }
    if name.is_empty() {
        name.push('%');
    }
    if name.len() > MAX_BYTES { cut(&name, text) } else { name }
}

/// The beginning of a long name, whole escapes only, and the digest of the text that it stands for.
fn cut(name: &str, text: &str) -> String {
    let end = (READABLE_BYTES - 2..=READABLE_BYTES).find(|end| !name.get(end - 2..*end).unwrap_or("%").contains('%'));
    let mut short = name.get(..end.unwrap_or(0)).unwrap_or_default().to_owned();
    short.push_str("%-");
    for byte in Sha256::digest(text.as_bytes()) {
        let _ = write!(short, "{byte:02x}");
    }
    short
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_names_stay_and_everything_else_is_spelt_out() {
        for (text, expected) in [
            ("db", "db"),
            ("kube-root-ca.crt", "kube-root-ca.crt"),
            ("my_role", "my_role"),
            ("system:controller:x", "system%3acontroller%3ax"),
            ("DB", "%44%42"),
            ("..", "%2e."),
            (".", "%2e"),
            (".hidden", "%2ehidden"),
            ("-rf", "%2drf"),
            ("_cluster", "%5fcluster"),
            ("a/b\0c", "a%2fb%00c"),
            ("%41", "%2541"),
            ("é", "%c3%a9"),
            ("", "%"),
        ] {
            assert_eq!(component(text), expected);
        }
    }

    #[test]
    fn long_names_are_cut_at_whole_escapes_and_stay_apart() {
        let same = "a".repeat(250);
        let names: Vec<String> = ["a", "b"].map(|end| component(&(same.clone() + end))).into();
        assert_ne!(names[0], names[1]);
        for shift in 0..4 {
            let long = component(&format!("{}{}", "a".repeat(shift), "é:".repeat(100)));
            assert!(long.len() <= MAX_BYTES);
            let (readable, digest) = long.split_once("%-").unwrap();
            assert!(digest.len() == 64 && readable.len() > READABLE_BYTES - 6, "{long}");
            let escapes = readable.split('%').skip(1);
            assert!(escapes.into_iter().all(|escape| escape.len() >= 2), "{long}");
        }
        assert_eq!(component(&"a".repeat(MAX_BYTES)).len(), MAX_BYTES);
    }

    /// Texts in which what matters is likely: dots, slashes, case, escapes, great length.
    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof!["[aAbB./%_:\\-\u{0}0-9é]{0,6}", "\\PC{0,12}", "[aA.]{190,260}", "(%[0-9a-f]{2}|%-|[a-f0-9]){0,80}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_text_has_a_harmless_name_of_its_own(texts in prop::collection::vec(any_text(), 1..40)) {
            let mut seen: HashMap<String, String> = HashMap::new();
            for text in texts {
                let name = component(&text);
                prop_assert!(!name.is_empty() && name.len() <= MAX_BYTES);
                prop_assert!(!name.starts_with(['.', '-', '_']));
                prop_assert!(name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'%')));
                let before = seen.insert(name.clone(), text.clone());
                prop_assert!(before.is_none_or(|before| before == text), "{} for two texts", name);
            }
        }
    }
}
