//! The marker in front of a stored value: what it claims to be, told without any configuration.
//!
//! ```text
//! k8s:enc:<provider>:<version>:<name>:<body>
//! ```
//!
//! The prefix ends after the version. Where the name ends, only a configuration can settle: names may hold `:`, and so
//! may the random bytes after them. What is offered here is a guess.
//!
//! Upstream: the prefix constants of `kubernetes/apiserver`, `pkg/server/options/encryptionconfig/config.go`.

use super::kms::v1;

/// What every sealed value begins with.
pub const MARKER: &[u8] = b"k8s:enc:";

/// What a stored value claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'v> {
    /// No bytes at all.
    Empty,
    /// Does not begin with the [marker](MARKER).
    Plain,
    /// Begins with the prefix of a provider and version that some release has written.
    Sealed(Sealed<'v>),
    /// Begins with the marker, but no release has written what follows.
    Unrecognised,
}

/// The provider and version that a sealed value names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SealedKind {
    /// `k8s:enc:aescbc:v1:`
    AesCbc,
    /// `k8s:enc:aesgcm:v1:`
    AesGcm,
    /// `k8s:enc:secretbox:v1:`
    Secretbox,
    /// `k8s:enc:kms:v1:`
    KmsV1,
    /// `k8s:enc:kms:v2:`
    KmsV2,
}

impl SealedKind {
    /// Every kind there is.
    pub const ALL: [SealedKind; 5] = [Self::AesCbc, Self::AesGcm, Self::Secretbox, Self::KmsV1, Self::KmsV2];

    /// The whole prefix, from the marker to the colon after the version.
    #[inline]
    pub fn prefix(self) -> &'static [u8] {
        match self {
            Self::AesCbc => b"k8s:enc:aescbc:v1:",
            Self::AesGcm => b"k8s:enc:aesgcm:v1:",
            Self::Secretbox => b"k8s:enc:secretbox:v1:",
            Self::KmsV1 => b"k8s:enc:kms:v1:",
            Self::KmsV2 => b"k8s:enc:kms:v2:",
        }
    }

    /// `aescbc`, `aesgcm`, `secretbox` or `kms`.
    pub fn provider(self) -> &'static str {
        match self {
            Self::AesCbc => "aescbc",
            Self::AesGcm => "aesgcm",
            Self::Secretbox => "secretbox",
            Self::KmsV1 | Self::KmsV2 => "kms",
        }
    }

    /// `v1` or `v2`.
    pub fn version(self) -> &'static str {
        match self {
            Self::KmsV2 => "v2",
            _ => "v1",
        }
    }
}

/// A value with a known prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed<'v> {
    /// Which provider and version.
    pub kind: SealedKind,
    /// What follows the version's colon: the name, a colon, the body.
    pub rest: &'v [u8],
}

impl<'v> Sealed<'v> {
    /// The key's or KMS provider's name as far as the value alone tells: up to the next `:`. Of a KMS v1 value, whose
    /// name may well be a path or a URN, up to the first `:` behind which a whole envelope stands. `None` where there
    /// is no `:` at all.
    pub fn name_guess(&self) -> Option<&'v [u8]> {
        let shortest = || self.rest.split(|&byte| byte == b':').next().filter(|name| name.len() < self.rest.len());
        match self.kind {
            SealedKind::KmsV1 => v1::name_by_envelope(self.rest).or_else(shortest),
            _ => shortest(),
        }
    }

    /// The body, if `name` is the name.
    pub fn body_under(&self, name: &[u8]) -> Option<&'v [u8]> {
        self.rest.strip_prefix(name)?.strip_prefix(b":")
    }
}

/// Classifies a stored value by its first bytes.
pub fn form(stored: &[u8]) -> Form<'_> {
    if stored.is_empty() {
        return Form::Empty;
    }
    let Some(named) = stored.strip_prefix(MARKER) else { return Form::Plain };
    let sealed = |kind: SealedKind| stored.strip_prefix(kind.prefix()).map(|rest| Form::Sealed(Sealed { kind, rest }));
    // Every value of a store passes here several times: the byte that tells providers apart saves comparing with each, and
    // a prefix that is known where it is compared is compared in a few instructions.
    let form = match named {
        [b'a', b'e', b's', b'c', ..] => sealed(SealedKind::AesCbc),
        [b'a', b'e', b's', b'g', ..] => sealed(SealedKind::AesGcm),
        [b's', ..] => sealed(SealedKind::Secretbox),
        [b'k', ..] => sealed(SealedKind::KmsV2).or_else(|| sealed(SealedKind::KmsV1)),
        _ => None,
    };
    form.unwrap_or(Form::Unrecognised)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(stored: &[u8]) -> Option<&[u8]> {
        match form(stored) {
            Form::Sealed(sealed) => sealed.name_guess(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_is_told_by_its_first_bytes() {
        assert_eq!(form(b""), Form::Empty);
        assert_eq!(form(b"k8s\0\x0a"), Form::Plain);
        assert_eq!(form(b"k8s:enc"), Form::Plain);
        assert_eq!(form(b"k8s:enc:"), Form::Unrecognised);
        assert_eq!(form(b"k8s:enc:aescbc:v2:key:x"), Form::Unrecognised);
        assert_eq!(form(b"k8s:enc:aescbc:v1"), Form::Unrecognised);
        for kind in SealedKind::ALL {
            let prefix = format!("k8s:enc:{}:{}:", kind.provider(), kind.version());
            assert_eq!(prefix.as_bytes(), kind.prefix());
            let stored = [kind.prefix(), b"key1:body"].concat();
            assert_eq!(form(&stored), Form::Sealed(Sealed { kind, rest: b"key1:body" }));
        }
    }

    #[test]
    fn the_guess_of_a_static_key_ends_at_the_next_colon() {
        assert_eq!(guess(b"k8s:enc:aesgcm:v1:a:b:\x00"), Some(&b"a"[..]));
        assert_eq!(guess(b"k8s:enc:aesgcm:v1::b"), Some(&b""[..]));
        assert_eq!(guess(b"k8s:enc:aesgcm:v1:no end"), None);
    }

    #[test]
    fn the_guess_of_a_kms_v1_name_reaches_to_the_envelope() {
        let body = [&[0, 3, 1, 2, 3][..], &[b':'; 28]].concat();
        let stored = [b"k8s:enc:kms:v1:arn:aws:kms:key/1:", &body[..]].concat();
        assert_eq!(guess(&stored), Some(&b"arn:aws:kms:key/1"[..]));
    }

    #[test]
    fn a_damaged_kms_v1_envelope_leaves_the_shortest_guess() {
        assert_eq!(guess(b"k8s:enc:kms:v1:ack-kms:\x00\x20cut"), Some(&b"ack-kms"[..]));
    }

    #[test]
    fn a_body_is_what_follows_the_whole_name() {
        let sealed = Sealed { kind: SealedKind::AesCbc, rest: b"a:b:body" };
        assert_eq!(sealed.body_under(b"a"), Some(&b"b:body"[..]));
        assert_eq!(sealed.body_under(b"a:b"), Some(&b"body"[..]));
        assert_eq!(sealed.body_under(b"a:"), None);
    }
}
