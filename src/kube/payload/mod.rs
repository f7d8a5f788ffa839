//! The forms in which API servers store objects, and the identity of the object inside.
//!
//! ```text
//! protobuf   6B 38 73 00 || runtime.Unknown          built-in resources
//! json       first non-blank byte `{`                custom resources, CRDs, APIServices; everything if told so
//! cbor       D9 D9 F7 || a map                       custom resources, behind a gate of 1.32 and later
//! other      base64 of one of these; YAML            data that came from etcd2; `--storage-media-type`
//! ```
//!
//! Some ciphers do not notice a wrong key, so an opened value has to prove itself: [`identify`] reads a value
//! to its last byte and refuses what no API server would have written. Values come from anyone: nothing here
//! recurses, and nothing is kept but four short strings. Errors name places, never contents, since the value
//! may be a Secret.
//!
//! Upstream: `pkg/runtime/serializer` and `pkg/runtime/generated.proto` of `kubernetes/apimachinery`.

mod cbor;
mod json;
mod other;
mod protobuf;

use std::borrow::Cow;
use std::fmt;

use crate::kube::key::{Known, ObjectKey};

/// The form of a stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// `k8s\0` and a protobuf envelope.
    Protobuf,
    /// JSON.
    Json,
    /// Self-described CBOR.
    Cbor,
    /// YAML, or one of the above as base64 text.
    Other,
}

impl Encoding {
    /// The word that reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Protobuf => "protobuf",
            Self::Json => "json",
            Self::Cbor => "cbor",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a stored object says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity<'p> {
    /// `v1`, `apps/v1`: the version it was stored in. Never empty.
    pub api_version: Cow<'p, str>,
    /// The kind. Never empty.
    pub kind: Cow<'p, str>,
    /// `metadata.name`; empty where there is none, as in a RangeAllocation.
    pub name: Cow<'p, str>,
    /// `metadata.namespace`; empty for an object of the cluster's scope.
    pub namespace: Cow<'p, str>,
}

impl Identity<'_> {
    /// The group of the apiVersion; empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// The same without a tie to the value it was read from.
    pub fn into_owned(self) -> Identity<'static> {
        Identity {
            api_version: Cow::Owned(self.api_version.into_owned()),
            kind: Cow::Owned(self.kind.into_owned()),
            name: Cow::Owned(self.name.into_owned()),
            namespace: Cow::Owned(self.namespace.into_owned()),
        }
    }
}

/// Why a value is no stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It does not begin like any of the forms.
    #[error("no form in which Kubernetes stores objects")]
    NoForm,
    /// It begins like one but breaks that form's rules.
    #[error("not a {encoding} object, at byte {offset}: {fault}")]
    Malformed {
        /// The form it begins like.
        encoding: Encoding,
        /// Where the rule is broken, in bytes from the start of the value (of the decoded one for base64).
        offset: usize,
        /// The rule.
        fault: &'static str,
    },
    /// It is well formed but lacks what every object has.
    #[error("not an object: {encoding} without {field}")]
    Missing {
        /// Its form.
        encoding: Encoding,
        /// `apiVersion`, `kind` or another part.
        field: &'static str,
    },
}

/// Tells from the first bytes which form a value claims to have. Proves nothing: see [`identify`].
pub fn sniff(plain: &[u8]) -> Option<Encoding> {
    if plain.starts_with(protobuf::MAGIC) {
        Some(Encoding::Protobuf)
    } else if json::looks_like(plain) {
        Some(Encoding::Json)
    } else if plain.starts_with(cbor::MAGIC) {
        Some(Encoding::Cbor)
    } else if other::looks_like(plain) {
        Some(Encoding::Other)
    } else {
        None
    }
}

/// Reads a whole value and tells its form and which object it is.
///
/// The value must be complete to its last byte. What is inside a field (a Secret's data, a Pod's spec) is
/// not looked at in protobuf; JSON, CBOR and YAML are read throughout.
///
/// # Errors
///
/// [`PayloadError`] for a value that no API server stores.
pub fn identify(plain: &[u8]) -> Result<(Encoding, Identity<'_>), PayloadError> {
    // Nearly every value is protobuf, and moving an identity about costs as much as reading it.
    if plain.starts_with(protobuf::MAGIC) {
        return protobuf::identify(plain);
    }
    identify_text(plain)
}

/// The forms beside protobuf.
#[inline(never)]
fn identify_text(plain: &[u8]) -> Result<(Encoding, Identity<'_>), PayloadError> {
    let encoding = sniff(plain).ok_or(PayloadError::NoForm)?;
    let identity = match encoding {
        Encoding::Protobuf => return protobuf::identify(plain),
        Encoding::Json => json::identify(plain),
        Encoding::Cbor => cbor::identify(plain),
        Encoding::Other => other::identify(plain),
    }?;
    require(encoding, &identity.api_version, &identity.kind)?;
    Ok((encoding, identity))
}

/// What every object says of itself.
fn require(encoding: Encoding, api_version: &str, kind: &str) -> Result<(), PayloadError> {
    match (api_version, kind) {
        ("", _) => Err(PayloadError::Missing { encoding, field: "apiVersion" }),
        (_, "") => Err(PayloadError::Missing { encoding, field: "kind" }),
        _ => Ok(()),
    }
}

/// In what the object inside a value differs from the one its key addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// It is of another kind, or of another group than the custom resource's.
    Kind,
    /// It lies in another namespace.
    Namespace,
    /// It has another name.
    Name,
}

/// Compares the object inside a value with the one that the key addresses.
///
/// Name and namespace are always compared; every stored object has those of its key. The kind is compared
/// where the resource is built-in, and the group where it is custom: a built-in object may have been stored
/// in an older group (`extensions`). [`Reserved`](crate::kube::key::Reserved) keys address no object, so
/// their values (whose names are empty or made up) have nothing to agree with.
pub fn mismatch(key: &ObjectKey<'_>, identity: &Identity<'_>) -> Option<Mismatch> {
    if key.kind.is_some_and(|kind| kind != identity.kind)
        || (key.known == Known::Custom && key.group != identity.group())
    {
        Some(Mismatch::Kind)
    } else if key.namespace.unwrap_or("") != identity.namespace {
        Some(Mismatch::Namespace)
    } else if key.name != identity.name {
        Some(Mismatch::Name)
    } else {
        None
    }
}

/// Whether the object inside a value is the one that its key addresses; see [`mismatch`].
pub fn agrees(key: &ObjectKey<'_>, identity: &Identity<'_>) -> bool {
    mismatch(key, identity).is_none()
}

/// How many bytes of `whole` were read before `rest`, which is its end.
fn offset(whole: &[u8], rest: &[u8]) -> usize {
    whole.len().saturating_sub(rest.len())
}

#[cfg(test)]
mod tests;
