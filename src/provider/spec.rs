//! A provider as a configuration describes it: kind, keys in their order, or the KMS plugin's address.
//!
//! A spec does nothing by itself; a [chain](super) of specs is what opens and seals values.

use std::time::Duration;

use super::secret::SecretKey;

/// A key of a static-key provider. The name may hold any characters, `:` included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKey {
    /// The name, as it stands in the stored value's prefix.
    pub name: String,
    /// The key itself, base64 already removed.
    pub secret: SecretKey,
}

/// The two envelope formats, which are also two gRPC protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KmsVersion {
    /// `k8s:enc:kms:v1:`, one DEK a write.
    V1,
    /// `k8s:enc:kms:v2:`, one seed for many writes.
    V2,
}

/// A KMS plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsSpec {
    /// Which envelope and which protocol.
    pub version: KmsVersion,
    /// The provider's name, which is part of every stored value's prefix.
    pub name: String,
    /// Where the plugin listens, as the configuration has it: `unix:///path` or `unix:///@abstract`.
    pub endpoint: String,
    /// The deadline of a call.
    pub timeout: Duration,
}

/// One element of a resource's `providers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderSpec {
    /// Plaintext.
    Identity,
    /// AES-CBC with PKCS #7 padding; keys of 16, 24 or 32 bytes.
    AesCbc(Vec<NamedKey>),
    /// AES-GCM with the etcd key as associated data; keys of 16, 24 or 32 bytes.
    AesGcm(Vec<NamedKey>),
    /// XSalsa20-Poly1305; keys of 32 bytes.
    Secretbox(Vec<NamedKey>),
    /// An envelope whose DEK a plugin opens.
    Kms(KmsSpec),
}
