//! New keys: where their bytes come from and what they are called.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::provider::secret::SecretKey;
use crate::provider::spec::NamedKey;

use super::super::tree::{Field, Node, Place, Text, Value};
use super::super::{base64 as go_base64, suspicion};
use super::emit;
use super::wiped::Wiped;
use super::{ChangeError, Stage};

/// Every new key has the most that its provider takes: AES-256, or secretbox's only length.
const KEY_BYTES: usize = 32;

/// A name is part of every stored value; nobody needs one longer than an object's.
const NAME_LIMIT_BYTES: usize = 253;

/// A number with more digits is a date or an identifier and is not counted on.
const COUNTED_DIGITS: usize = 4;

/// A provider with keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// XSalsa20-Poly1305.
    Secretbox,
    /// AES-CBC with PKCS #7 padding, unauthenticated.
    AesCbc,
    /// AES-GCM with a random nonce.
    AesGcm,
}

impl KeyKind {
    /// The field's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secretbox => "secretbox",
            Self::AesCbc => "aescbc",
            Self::AesGcm => "aesgcm",
        }
    }

    /// The provider of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Secretbox, Self::AesCbc, Self::AesGcm].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A key that the file does not have yet, or an element made around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// An element of `keys`.
    Key(NamedKey),
    /// An element of `providers` with one key.
    Provider(KeyKind, NamedKey),
    /// The element of `providers` that reads and writes plaintext.
    Identity,
}

impl Item {
    /// As a tree.
    pub(super) fn node(&self) -> Node {
        match self {
            Self::Key(key) => key_node(key),
            Self::Provider(kind, key) => provider_node(*kind, key),
            Self::Identity => map(vec![("identity", map(Vec::new()))]),
        }
    }
}

fn key_node(key: &NamedKey) -> Node {
    map(vec![("name", text(key.name.clone())), ("secret", secret(&key.secret))])
}

fn provider_node(kind: KeyKind, key: &NamedKey) -> Node {
    map(vec![(kind.as_str(), map(vec![("keys", list(vec![key_node(key)]))]))])
}

fn node(value: Value) -> Node {
    Node { value, place: Place::default() }
}

fn map(fields: Vec<(&str, Node)>) -> Node {
    let field =
        |(name, value): (&str, Node)| Field { name: Text::new(name.to_owned()), place: Place::default(), value };
    node(Value::Map(fields.into_iter().map(field).collect()))
}

fn list(items: Vec<Node>) -> Node {
    node(Value::List(items))
}

fn text(text: String) -> Node {
    node(Value::Text(Text::new(text)))
}

fn secret(secret: &SecretKey) -> Node {
    let bytes = secret.expose();
    // Large enough from the start, so that it never moves and leaves a copy behind.
    let mut encoded = String::with_capacity(bytes.len().div_ceil(3) * 4);
    STANDARD.encode_string(bytes, &mut encoded);
    text(encoded)
}

/// A key of the system's randomness.
pub(super) fn fresh_key(name: String) -> Result<NamedKey, ChangeError> {
    loop {
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
        getrandom::fill(&mut bytes)?;
        let secret = SecretKey::new(bytes.to_vec());
        // It never happens; but a generator that gives zeros must not be believed.
        if suspicion(&secret).is_none() {
            return Ok(NamedKey { name, secret });
        }
    }
}

/// Whether a name can be given to a new key: one that needs no quoting anywhere, and no `:`, which ends the name in a
/// stored value.
pub(super) fn valid_name(name: &str) -> Result<(), ChangeError> {
    let bad = |why| Err(ChangeError::BadName(name.to_owned(), why));
    if name.is_empty() || name.len() > NAME_LIMIT_BYTES {
        return bad("a name has 1 to 253 characters");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
        return bad("only letters, digits, '.', '-' and '_' may stand in it");
    }
    if go_base64::decode(name).is_some_and(|bytes| bytes.len() >= 16) {
        return bad("it looks like a key");
    }
    Ok(())
}

/// Whether the prefix of values on `name` would be one of values on `other`, too.
pub(super) fn overlaps(name: &str, other: &str) -> bool {
    other.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// The name after `old` that is free: `key1`, `key2`, `key3`.
pub(super) fn next_name(old: &str, taken: &[String]) -> String {
    let (stem, number) = match numbered(old) {
        Some((stem, number)) if valid_name(old).is_ok() => (stem, number),
        _ => ("key", 0),
    };
    let width = old.len().saturating_sub(stem.len());
    let padded = old.get(stem.len()..).is_some_and(|digits| digits.starts_with('0'));
    let width = if padded && old.starts_with(stem) { width } else { 0 };
    // There are fewer names than numbers.
    let names = (number + 1..).map(|number| format!("{stem}{number:0width$}"));
    let free = |name: &String| !taken.iter().any(|taken| overlaps(name, taken));
    { names }.find(free).unwrap_or_default()
}

/// A name's end that counts, and what stands before it.
pub(super) fn numbered(name: &str) -> Option<(&str, u64)> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = name.get(stem.len()..)?;
    let number = digits.parse().ok().filter(|_| digits.len() <= COUNTED_DIGITS)?;
    Some((stem, number))
}

/// A whole configuration with one new key, for where there was none.
pub fn fresh_configuration(
    kind: KeyKind,
    name: &str,
    resources: &[String],
    stage: Stage,
) -> Result<Zeroizing<Vec<u8>>, ChangeError> {
    valid_name(name)?;
    let key = Item::Provider(kind, fresh_key(name.to_owned())?).node();
    let identity = Item::Identity.node();
    let providers = match stage {
        Stage::Prepare => vec![identity, key],
        Stage::Promote => vec![key, identity],
        Stage::Prune => vec![key],
    };
    let resources = resources.iter().cloned().map(text).collect();
    let entry = map(vec![("resources", list(resources)), ("providers", list(providers))]);
    let root = map(vec![
        ("apiVersion", text("apiserver.config.k8s.io/v1".to_owned())),
        ("kind", text("EncryptionConfiguration".to_owned())),
        ("resources", list(vec![entry])),
    ]);
    Ok(emit::whole(&root, false))
}

/// One new element of `keys`, as YAML.
pub fn fresh_key_entry(name: &str) -> Result<Zeroizing<Vec<u8>>, ChangeError> {
    valid_name(name)?;
    let node = list(vec![key_node(&fresh_key(name.to_owned())?)]);
    let mut out = Wiped::with_capacity(256);
    emit::block(&mut out, &node, 0, "\n");
    Ok(out.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_name_counts_on_and_is_free() {
        let taken = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (old, names, next) in [
            ("key1", &["key1"][..], "key2"),
            ("key1", &["key1", "key2"], "key3"),
            ("key1", &["key1", "key2:old"], "key3"),
            ("key9", &["key9"], "key10"),
            ("1", &["1"], "2"),
            ("key-007", &["key-007"], "key-008"),
            ("key2025", &["key2025"], "key2026"),
            ("box:1", &["box:1"], "key1"),
            ("key20250131", &["key20250131"], "key1"),
            ("aescbckey-2024-01-02T03:04:05Z", &["aescbckey-2024-01-02T03:04:05Z"], "key1"),
            ("main", &["main", "key1"], "key2"),
            ("", &[""], "key1"),
        ] {
            assert_eq!(next_name(old, &taken(names)), next, "{old}");
        }
    }

    #[test]
    fn a_name_overlaps_what_it_begins_up_to_a_colon() {
        assert!(overlaps("key1", "key1"));
        assert!(overlaps("key1", "key1:a"));
        assert!(!overlaps("key1", "key10"));
        assert!(!overlaps("key10", "key1"));
    }

    #[test]
    fn names_that_need_care_are_refused() {
        for name in ["", "a:b", "a b", "a/b", "kl\u{e9}", "a\n", &"x".repeat(254), "6gYBhZxmqbFUUG9Z80pGN0MotaH1234="] {
            assert!(valid_name(name).is_err(), "{name}");
        }
        for name in ["key1", "2026-11-25", "a.b_c-d"] {
            assert!(valid_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn keys_are_drawn_and_have_32_bytes() {
        let (one, other) = (fresh_key("a".into()).unwrap(), fresh_key("a".into()).unwrap());
        assert_eq!((one.secret.len(), other.secret.len()), (32, 32));
        assert_ne!(one.secret, other.secret);
    }
}
