//! The annotations of a KMS v2 envelope: what the plugin wants back when it unwraps the DEK.
//!
//! Upstream: `validateAnnotations` in `kubernetes/apiserver`, `pkg/storage/value/encrypt/envelope/kmsv2/envelope.go`, and
//! `IsFullyQualifiedDomainName` in `kubernetes/apimachinery`, `pkg/util/validation/validation.go`.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

use super::super::fault::write_aggregate;
use super::EnvelopeError;

/// How many annotations are held without allocating. Plugins write none to two.
const FEW: usize = 4;

/// The most bytes that all keys and values together may have.
const MAX_BYTES: usize = 32 * 1024;

/// How many keys are complained of at most. A hostile value could have a hundred thousand; upstream would name them all,
/// in random order.
const MAX_COMPLAINTS: usize = 8;

/// The most characters of a key.
const MAX_SUBDOMAIN_BYTES: usize = 253;

/// The most characters between two dots of a key.
const MAX_LABEL_BYTES: usize = 63;

/// What upstream says of a key that is no lower-case subdomain.
const NO_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Keys and values, each key once, sorted by key: equal annotations are equal however they were written.
#[derive(Clone, Debug)]
pub struct Annotations<'v>(Held<'v>);

#[derive(Clone, Debug)]
enum Held<'v> {
    Few([(&'v str, &'v [u8]); FEW], usize),
    Many(Vec<(&'v str, &'v [u8])>),
}

impl<'v> Annotations<'v> {
    /// No annotations.
    pub fn none() -> Self {
        Self(Held::Few([("", &[]); FEW], 0))
    }

    /// Adds one as it comes from the wire; [`Self::settle`] follows when all are there.
    pub(super) fn push(&mut self, key: &'v str, value: &'v [u8]) {
        match &mut self.0 {
            Held::Few(few, count) => match few.get_mut(*count) {
                Some(place) => {
                    *place = (key, value);
                    *count += 1;
                }
                None => {
                    let mut many = few.to_vec();
                    many.push((key, value));
                    self.0 = Held::Many(many);
                }
            },
            Held::Many(many) => many.push((key, value)),
        }
    }

    /// Sorts by key and keeps of each key the last value, as a protobuf map does.
    pub(super) fn settle(&mut self) {
        match &mut self.0 {
            Held::Few(few, count) => {
                let kept = settle_slice(few.get_mut(..*count).unwrap_or_default());
                *count = kept;
            }
            Held::Many(many) => {
                let kept = settle_slice(many);
                many.truncate(kept);
            }
        }
    }

    /// Checks keys and size as upstream does before it asks the plugin.
    pub(super) fn validate(&self) -> Result<(), EnvelopeError> {
        let total: usize = self.iter().map(|(key, value)| key.len() + value.len()).sum();
        let keys_hold = self.iter().all(|(key, _)| key_complaint(key).is_none());
        if keys_hold && total <= MAX_BYTES {
            return Ok(());
        }
        let oversize = || format!("total size of annotations is {total}, which exceeds the max size of {MAX_BYTES}");
        let complaints = self.iter().filter_map(|(key, _)| key_complaint(key)).take(MAX_COMPLAINTS);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write_aggregate(&mut text, complaints.chain((total > MAX_BYTES).then(oversize)));
        Err(EnvelopeError::Annotations(text))
    }
}

/// Sorts, moves the last of each key to the front part, and tells how long that is.
fn settle_slice(all: &mut [(&str, &[u8])]) -> usize {
    // The sort is stable: of equal keys the last written stays the last.
    all.sort_by_key(|&(key, _)| key);
    let mut kept = 0;
    for at in 0..all.len() {
        let (Some(&this), next) = (all.get(at), all.get(at + 1)) else { break };
        if next.is_some_and(|next| next.0 == this.0) {
            continue;
        }
        if let Some(place) = all.get_mut(kept) {
            *place = this;
        }
        kept += 1;
    }
    kept
}

impl<'v> Deref for Annotations<'v> {
    type Target = [(&'v str, &'v [u8])];

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Held::Few(few, count) => few.get(..*count).unwrap_or_default(),
            Held::Many(many) => many,
        }
    }
}

impl<'v> FromIterator<(&'v str, &'v [u8])> for Annotations<'v> {
    fn from_iter<I: IntoIterator<Item = (&'v str, &'v [u8])>>(pairs: I) -> Self {
        let mut annotations = Self::none();
        pairs.into_iter().for_each(|(key, value)| annotations.push(key, value));
        annotations.settle();
        annotations
    }
}

impl PartialEq for Annotations<'_> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Annotations<'_> {}

impl Hash for Annotations<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

/// What upstream says of an annotation's key; `None` if it is a fully qualified domain name.
fn key_complaint(key: &str) -> Option<String> {
    if key.is_empty() {
        return Some("annotations: Required value".to_string());
    }
    let invalid = |what: &str, why: String| Some(format!("annotations: Invalid value: {}: {why}", go_quoted(what)));
    let name = key.strip_suffix('.').unwrap_or(key);
    let too_long = (name.len() > MAX_SUBDOMAIN_BYTES).then(|| too_long(MAX_SUBDOMAIN_BYTES));
    let malformed = (!name.split('.').all(is_label)).then(|| NO_SUBDOMAIN.to_string());
    let reasons: Vec<String> = too_long.into_iter().chain(malformed).collect();
    if !reasons.is_empty() {
        return invalid(name, reasons.join(","));
    }
    if !name.contains('.') {
        return invalid(name, "should be a domain with at least two segments separated by dots".to_string());
    }
    let label = name.split('.').find(|label| label.len() > MAX_LABEL_BYTES)?;
    invalid(label, self::too_long(MAX_LABEL_BYTES))
}

fn too_long(characters: usize) -> String {
    format!("must be no more than {characters} characters")
}

/// Whether a part between dots is of lower-case letters, digits and inner hyphens.
fn is_label(label: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    !label.is_empty() && label.bytes().all(|byte| inner(&byte)) && !label.starts_with('-') && !label.ends_with('-')
}

/// A text in quotes as Go's `%q` prints it.
fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(control))),
            control if control.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            printable => out.push(printable),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled<'v>(pairs: &[(&'v str, &'v [u8])]) -> Annotations<'v> {
        pairs.iter().copied().collect()
    }

    fn complaint(pairs: &[(&str, &[u8])]) -> Option<String> {
        settled(pairs).validate().err().map(|error| error.to_string())
    }

    #[test]
    fn the_order_of_writing_makes_no_difference_and_the_last_value_counts() {
        let one = settled(&[("b", b"1"), ("a", b"2"), ("b", b"3")]);
        assert_eq!(&one[..], [("a", &b"2"[..]), ("b", b"3")]);
        let many = settled(&[("b", b"0"), ("b", b"1"), ("a", b"0"), ("b", b"2"), ("a", b"2"), ("b", b"3")]);
        assert_eq!(one, many);
    }

    #[test]
    fn keys_are_domain_names_with_a_dot() {
        let long_label = format!("a.{}", "b".repeat(63));
        for key in ["local-kek.kms.kubernetes.io", "a.b.", "0.1", &long_label] {
            assert_eq!(complaint(&[(key, b"")]), None, "{key}");
        }
        for (key, expected) in [
            ("", "annotations: Required value"),
            ("a", "annotations: Invalid value: \"a\": should be a domain with at least two segments separated by dots"),
        ] {
            assert_eq!(complaint(&[(key, b"")]).unwrap(), format!("failed to validate annotations: {expected}"));
        }
        for key in ["A.b", "a..b", "a.b..", ".", "-a.b", "a.b-", "a_b.c", "a.b c"] {
            assert!(complaint(&[(key, b"")]).unwrap().ends_with(NO_SUBDOMAIN), "{key}");
        }
    }

    #[test]
    fn long_keys_and_labels_are_refused() {
        let label = "b".repeat(64);
        let expected = format!(
            "failed to validate annotations: annotations: Invalid value: \"{label}\": must be no more than 63 characters"
        );
        assert_eq!(complaint(&[(&format!("a.{label}"), b"")]).unwrap(), expected);
        let fits = "a.".repeat(126) + "a";
        assert_eq!(complaint(&[(&fits, b"")]), None);
        assert!(complaint(&[(&(fits + "a"), b"")]).unwrap().ends_with("must be no more than 253 characters"));
    }

    #[test]
    fn thirty_two_kibibytes_are_the_limit() {
        let value = vec![0; MAX_BYTES - 3];
        assert_eq!(complaint(&[("a.b", &value)]), None);
        assert_eq!(
            complaint(&[("a.bc", &value), ("", b"")]).unwrap(),
            "failed to validate annotations: [annotations: Required value, \
             total size of annotations is 32769, which exceeds the max size of 32768]"
        );
    }

    #[test]
    fn a_hundred_thousand_bad_keys_make_a_short_complaint() {
        let keys: Vec<String> = (0..100_000).map(|number| format!("K{number}")).collect();
        let pairs: Vec<(&str, &[u8])> = keys.iter().map(|key| (&**key, &b""[..])).collect();
        assert!(complaint(&pairs).unwrap().len() < 4096);
    }

    #[test]
    fn quotes_are_gos() {
        assert_eq!(go_quoted("a\"\\\n\u{1}\u{7f}\u{85}é"), r#""a\"\\\n\x01\x7f\u0085é""#);
    }
}
