//! KMS envelopes: the value is sealed with a DEK, and the DEK is wrapped by a plugin.
//!
//! Nothing here asks a plugin. What has to be asked comes out as a [`DekRequest`], what the plugin answered goes into a
//! [`DekTable`], and a value opens with what the table has. To seal values, [fresh DEKs](FreshDeks) are made here, somebody
//! has the plugin wrap them, and a [`Sealing`] writes with them.

use std::hash::Hash;

use thiserror::Error;

use super::prefix::{Sealed, SealedKind};
use super::spec::KmsVersion;

mod annotations;
mod fresh;
mod sealing;
mod table;
pub mod v1;
pub mod v2;
mod wire;

pub use annotations::Annotations;
pub use fresh::{DEK_BYTES, FreshDeks};
pub use sealing::{SealForm, Sealing, Wrapped};
pub(super) use table::{Dek, Plugin};
pub use table::{DekTable, PluginState};

/// What is wrong with an envelope, in kube-apiserver's words. It is found before the plugin is asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// KMS v1: fewer bytes than the wrapped DEK's length says.
    #[error("invalid data encountered by envelope transformer: failed to read uint16 length prefixed data")]
    Length,
    /// KMS v2: not the protobuf wire format.
    #[error("proto: cannot parse invalid wire-format data")]
    Wire,
    /// KMS v2: a key id or annotation key that is not UTF-8.
    #[error("string field contains invalid UTF-8")]
    Utf8,
    /// KMS v2: a source type that no release has written.
    #[error("unknown encryptedDEKSourceType: {0}")]
    SourceType(i32),
    /// KMS v2: nothing is sealed.
    #[error("encrypted data is empty")]
    NoData,
    /// No wrapped DEK.
    #[error("failed to validate encrypted DEK source: encrypted DEK source is empty")]
    NoDek,
    /// KMS v2: a wrapped DEK of so many bytes.
    #[error(
        "failed to validate encrypted DEK source: \
         encrypted DEK source is {0} bytes, which exceeds the max size of 1024"
    )]
    LongDek(usize),
    /// KMS v1: a wrapped DEK of so many bytes, when it is to be written.
    #[error("encrypted DEK is {0} bytes, which exceeds the max size of 65535")]
    LongDekV1(usize),
    /// KMS v2: no key id.
    #[error("failed to validate key id: keyID is empty")]
    NoKeyId,
    /// KMS v2: a key id of so many bytes.
    #[error("failed to validate key id: keyID is {0} bytes, which exceeds the max size of 1024")]
    LongKeyId(usize),
    /// KMS v2: annotations that upstream does not take, and what it says of them.
    #[error("failed to validate annotations: {0}")]
    Annotations(String),
}

/// What a KMS v2 DEK is used for, and how. KMS v1 knows only keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DekSource {
    /// An AES key that seals the value itself; `AES_GCM_KEY`, number 0.
    Key,
    /// A seed from which a key is derived for every value; `HKDF_SHA256_XNONCE_AES_GCM_SEED`, number 1. What every
    /// release since 1.29 writes.
    Seed,
}

/// What a plugin must be asked to open one value, borrowed from it. Equal requests have equal answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DekRequest<'v> {
    /// The provider's name in the configuration.
    pub provider: &'v str,
    /// The protocol.
    pub version: KmsVersion,
    /// What the answer is used for.
    pub source: DekSource,
    /// The wrapped DEK.
    pub encrypted_dek: &'v [u8],
    /// The plugin's name for the key that wrapped it; empty for KMS v1.
    pub key_id: &'v str,
    /// What the plugin wants back with the wrapped DEK, sorted by key; none for KMS v1.
    pub annotations: Annotations<'v>,
}

impl DekRequest<'_> {
    /// The same request with bytes of its own.
    pub fn to_owned(&self) -> OwnedDekRequest {
        let annotations = self.annotations.iter().map(|&(key, value)| (key.to_string(), value.to_vec()));
        OwnedDekRequest {
            provider: self.provider.to_string(),
            version: self.version,
            source: self.source,
            encrypted_dek: self.encrypted_dek.to_vec(),
            key_id: self.key_id.to_string(),
            annotations: annotations.collect(),
        }
    }
}

/// A [`DekRequest`] that outlives the value it came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnedDekRequest {
    /// The provider's name in the configuration.
    pub provider: String,
    /// The protocol.
    pub version: KmsVersion,
    /// What the answer is used for.
    pub source: DekSource,
    /// The wrapped DEK.
    pub encrypted_dek: Vec<u8>,
    /// The plugin's name for the key that wrapped it; empty for KMS v1.
    pub key_id: String,
    /// What the plugin wants back with the wrapped DEK, sorted by key; none for KMS v1.
    pub annotations: Vec<(String, Vec<u8>)>,
}

/// The request that opens `sealed`, if the provider's name is `name`; `None` if it is not, or if the value is no KMS's.
pub fn dek_request<'v>(sealed: &Sealed<'v>, name: &'v str) -> Option<Result<DekRequest<'v>, EnvelopeError>> {
    let body = sealed.body_under(name.as_bytes());
    match sealed.kind {
        SealedKind::KmsV1 => body.map(|body| Ok(v1::Envelope::parse(body)?.request(name))),
        SealedKind::KmsV2 => body.map(|body| Ok(v2::Envelope::parse(body)?.request(name))),
        SealedKind::AesCbc | SealedKind::AesGcm | SealedKind::Secretbox => None,
    }
}
