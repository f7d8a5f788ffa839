//! Why a provider does not open a value, in kube-apiserver's words, and why one does not seal.
//!
//! Upstream: the error texts of `kubernetes/apiserver`, `pkg/storage/value`, and of Go's `crypto/cipher`.

use std::fmt;
use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::kms::EnvelopeError;

/// What one key or provider has to say against a value. The text is kube-apiserver's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The body ends before the nonce or IV does.
    #[error("the stored data was shorter than the required size")]
    TooShort,
    /// What follows the IV is not whole blocks.
    #[error("the stored data is not a multiple of the block size")]
    NotBlocks,
    /// Nothing follows the IV. Upstream panics here, so the words are those it would have had.
    #[error("invalid PKCS7 data (empty or not padded)")]
    NoBlocks,
    /// The last byte is no padding length.
    #[error("invalid PKCS7 data (empty or not padded)")]
    NotPadded,
    /// The padding's bytes differ.
    #[error("invalid padding on input")]
    Padding,
    /// AES-GCM's tag does not fit key, nonce, associated data and text.
    #[error("cipher: message authentication failed")]
    Authentication,
    /// Poly1305's tag does not fit key, nonce and text; upstream's words mislead.
    #[error("output array was not large enough for encryption")]
    SecretboxAuthentication,
    /// No key of an aescbc or aesgcm provider has a name that the value begins with.
    #[error("no matching key was found for the provided AES transformer")]
    NoAesKey,
    /// No key of a secretbox provider has a name that the value begins with.
    #[error("no matching key was found for the provided Secretbox transformer")]
    NoSecretboxKey,
    /// No provider of the chain has a prefix that the value begins with.
    #[error("no matching prefix found")]
    NoPrefix,
    /// Nothing is configured, and the value is sealed.
    #[error("identity transformer tried to read encrypted data")]
    SealedForIdentity,
    /// The KMS envelope does not parse or does not pass upstream's checks.
    #[error("{0}")]
    Envelope(EnvelopeError),
    /// The KMS plugin's DEK has this many bytes, which no AES key has.
    #[error("crypto/aes: invalid key size {0}")]
    DekLength(usize),
    /// The KMS plugin did not open the DEK, or what it opened is no seed.
    #[error("{0}")]
    Plugin(Arc<str>),
    /// The KMS v2 plugin was asked and never became healthy; then upstream reads nothing through it.
    #[error("got unexpected nil transformer")]
    PluginState,
}

impl Fault {
    fn kind(&self) -> FailureKind {
        match self {
            Self::TooShort | Self::NotBlocks | Self::NoBlocks | Self::Envelope(_) => FailureKind::Malformed,
            Self::NotPadded | Self::Padding | Self::Authentication | Self::SecretboxAuthentication => {
                FailureKind::WrongKey
            }
            Self::NoAesKey | Self::NoSecretboxKey | Self::NoPrefix | Self::SealedForIdentity => FailureKind::UnknownKey,
            Self::DekLength(_) | Self::Plugin(_) | Self::PluginState => FailureKind::Kms,
        }
    }
}

/// What kind of failure it is, for a reader who wants to know what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No key of the value's name is configured for its provider.
    UnknownKey,
    /// A key of that name is configured, but the value does not open with it: another secret, another etcd key, or
    /// damaged bytes. Authenticated ciphers don't tell which.
    WrongKey,
    /// The value can't be what its prefix says, whatever the key.
    Malformed,
    /// Plaintext, and the chain has no identity to read it.
    NoIdentity,
    /// The KMS plugin did not open the DEK.
    Kms,
}

/// Why a chain does not open a value. Displays as the error that kube-apiserver gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    faults: Vec<Fault>,
}

impl Failure {
    /// A failure for a single reason.
    pub(super) fn single(kind: FailureKind, fault: Fault) -> Self {
        Self { kind, faults: vec![fault] }
    }

    /// What kind of failure it is. Of several reasons, the one nearest to opening decides: a key that was tried tells
    /// more than a name that was not found.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The reasons in the order in which upstream collects them.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

impl fmt::Display for Failure {
    /// As upstream's aggregate: equal texts once; one text alone, several in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_aggregate(f, self.faults.iter().map(ToString::to_string))
    }
}

impl std::error::Error for Failure {}

/// Writes texts as upstream's `utilerrors.Aggregate` prints them.
pub(super) fn write_aggregate(out: &mut impl fmt::Write, texts: impl Iterator<Item = String>) -> fmt::Result {
    let mut distinct: Vec<String> = Vec::new();
    for text in texts {
        if !distinct.contains(&text) {
            distinct.push(text);
        }
    }
    match distinct.as_slice() {
        [single] => out.write_str(single),
        several => write!(out, "[{}]", several.join(", ")),
    }
}

/// How many faults are held without allocating. A chain in the middle of a rotation meets one or two for each value.
const FEW: usize = 3;

/// Faults met on the way, in order. The usual few cost no allocation, since most values open in the end; and none, as for most,
/// costs nothing at all.
#[derive(Default)]
pub(super) struct Faults(Option<Met>);

struct Met {
    few: [Option<Fault>; FEW],
    more: Vec<Fault>,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Remembers a fault, unless an equal one is there: the aggregate shows it once anyway.
    pub(super) fn push(&mut self, fault: Fault) {
        let Met { few, more } = self.0.get_or_insert(Met { few: [const { None }; FEW], more: Vec::new() });
        for place in few {
            match place {
                Some(known) if *known == fault => return,
                Some(_) => {}
                None => {
                    *place = Some(fault);
                    return;
                }
            }
        }
        if !more.contains(&fault) {
            more.push(fault);
        }
    }

    /// The failure that they add up to; `None` if there was no fault.
    pub(super) fn into_failure(self) -> Option<Failure> {
        let Met { few, more } = self.0?;
        let faults: Vec<Fault> = few.into_iter().flatten().chain(more).collect();
        let met = |kind| faults.iter().any(|fault| fault.kind() == kind);
        let by_weight = [FailureKind::WrongKey, FailureKind::Kms, FailureKind::Malformed, FailureKind::UnknownKey];
        let kind = by_weight.into_iter().find(|&kind| met(kind))?;
        Some(Failure { kind, faults })
    }
}

/// Why a value is not sealed.
#[derive(Debug, Error)]
pub enum SealError {
    /// Plaintext that begins like a sealed value can't be told from one when it is read again.
    #[error("plaintext that begins with k8s:enc: can't be stored by the identity provider")]
    Ambiguous,
    /// Longer than the cipher can take.
    #[error("{0} bytes are too long for the cipher")]
    TooLong(usize),
    /// A KMS provider writes with a DEK that only its plugin can wrap.
    #[error("the KMS provider {0} writes with a DEK from its plugin")]
    Kms(String),
    /// No DEK was wrapped for the value of this number.
    #[error("the KMS plugin has wrapped no DEK for value {0}")]
    NoDek(usize),
    /// There was no randomness for a nonce or IV.
    #[error("no randomness: {0}")]
    Randomness(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(faults: impl IntoIterator<Item = Fault>) -> Option<Failure> {
        let mut met = Faults::new();
        faults.into_iter().for_each(|fault| met.push(fault));
        met.into_failure()
    }

    #[test]
    fn no_fault_is_no_failure() {
        assert_eq!(failure([]), None);
    }

    #[test]
    fn equal_texts_stand_once_and_a_single_one_stands_alone() {
        let same = failure([Fault::NoBlocks, Fault::NotPadded]).unwrap();
        assert_eq!(same.to_string(), "invalid PKCS7 data (empty or not padded)");
        let two = failure([Fault::NoAesKey, Fault::Padding, Fault::NoAesKey]).unwrap();
        let expected = "[no matching key was found for the provided AES transformer, invalid padding on input]";
        assert_eq!(two.to_string(), expected);
    }

    #[test]
    fn more_faults_than_fit_in_place_are_kept_in_order() {
        let all = [Fault::TooShort, Fault::NotBlocks, Fault::Padding, Fault::NoAesKey, Fault::Authentication];
        let failure = failure(all.iter().cloned().chain(all.clone())).unwrap();
        assert_eq!(failure.faults(), all);
    }

    #[test]
    fn a_key_that_was_tried_tells_more_than_one_that_was_not_found() {
        let kind = |faults: &[Fault]| failure(faults.iter().cloned()).unwrap().kind();
        assert_eq!(kind(&[Fault::NoAesKey, Fault::TooShort, Fault::Padding]), FailureKind::WrongKey);
        assert_eq!(kind(&[Fault::NoAesKey, Fault::TooShort]), FailureKind::Malformed);
        assert_eq!(kind(&[Fault::NoSecretboxKey]), FailureKind::UnknownKey);
        assert_eq!(kind(&[Fault::NoAesKey, Fault::PluginState]), FailureKind::Kms);
    }
}
