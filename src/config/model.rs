//! A configuration as written: every field with its place, before anything is judged.
//!
//! Upstream: `k8s.io/apiserver/pkg/apis/apiserver/v1/types_encryption.go`, defaults included where they decide.

use super::tree::{Place, Text};

/// A string field. One that is absent or null is empty to upstream and stands where its object begins.
pub(super) struct Written {
    pub text: Text,
    pub place: Place,
}

impl Written {
    /// A field that is not there.
    pub(super) fn absent(place: Place) -> Self {
        Self { text: Text::default(), place }
    }
}

/// `EncryptionConfiguration`.
pub(super) struct File {
    pub resources: Vec<ResourceConfiguration>,
    pub place: Place,
}

/// An element of the file's `resources`.
pub(super) struct ResourceConfiguration {
    pub resources: Vec<Written>,
    pub resources_place: Place,
    pub providers: Vec<ProviderConfiguration>,
    pub providers_place: Place,
}

/// An element of `providers`: should set exactly one, may set several.
pub(super) struct ProviderConfiguration {
    pub aesgcm: Option<Keys>,
    pub aescbc: Option<Keys>,
    pub secretbox: Option<Keys>,
    pub identity: bool,
    pub kms: Option<Kms>,
    pub place: Place,
}

/// `aesgcm`, `aescbc`, `secretbox`.
pub(super) struct Keys {
    pub keys: Vec<Key>,
    pub place: Place,
}

/// A named key, its secret still in base64.
pub(super) struct Key {
    pub name: Written,
    pub secret: Written,
}

/// `kms`.
pub(super) struct Kms {
    /// `v1` unless the file says something else.
    pub api_version: Written,
    pub name: Written,
    /// Absent is 1000 for v1.
    pub cachesize: Option<(i32, Place)>,
    pub endpoint: Written,
    /// In nanoseconds; three seconds unless the file says something else.
    pub timeout: (i64, Place),
    /// Releases 1.8 and 1.9 had this field instead of an endpoint.
    pub has_configfile: bool,
}

/// The timeout of a KMS call where the file names none.
pub(super) const DEFAULT_TIMEOUT_NANOS: i64 = 3_000_000_000;
