//! Stored objects as the JSON that an API server serves.
//!
//! Protobuf is walked with a table of all types that Kubernetes 1.17 and later and OpenShift store; JSON, and CBOR of
//! custom resources, need no table. The object comes in the version in which it was stored, with its keys sorted.
//! Nothing is dropped: fields that no release has are shown under [`UNKNOWN`].
//!
//! Read `table` first, then `walk`; `sound` and `swift` look through objects and make nothing of them.

mod cbor;
mod json;
mod layout;
mod quantity;
mod sound;
mod special;
mod steps;
mod swift;
mod table;
mod walk;
mod wire;
pub(crate) mod write;

#[cfg(test)]
mod tests;

use base64::prelude::{BASE64_STANDARD, Engine};
use zeroize::Zeroizing;

use super::document::{Document, Malformed};
use super::payload::{self, Encoding};
use walk::Walker;

pub use layout::Layout;
pub use swift::{Depth, proves};

/// The key under which fields are shown that the table has not: a list with `field` (the number), `type` (of the wire:
/// `varint`, `fixed32`, `fixed64`, `bytes`), `value` (bytes in base64) and, in an inlined struct, its number `within`.
pub const UNKNOWN: &str = "$unknown";

/// What every protobuf value begins with.
const PROTOBUF: &[u8] = b"k8s\0";

/// How an object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dress {
    /// Shown as `resourceVersion`, which is not stored.
    pub resource_version: Option<i64>,
    /// Whether `managedFields` are shown.
    pub managed_fields: bool,
    /// How all of it is laid out.
    pub layout: Layout,
}

impl Dress {
    /// Everything as it was stored.
    pub const STORED: Self = Self { resource_version: None, managed_fields: true, layout: Layout::OneLine };
}

/// What was made of a stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The form in which it was stored.
    pub encoding: Encoding,
    /// Whether its kind is one that the table has; always of JSON and CBOR.
    pub known_kind: bool,
    /// How many fields are shown as unknown.
    pub unknown_fields: u64,
}

/// Why there is no JSON of a stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// In no form in which objects are stored.
    #[error("in no form in which Kubernetes stores objects")]
    NoForm,
    /// It contradicts its form.
    #[error("malformed {}: {what} at byte {offset}", encoding.as_str())]
    Malformed {
        /// The form.
        encoding: Encoding,
        /// Where, in the plaintext.
        offset: usize,
        /// What.
        what: &'static str,
    },
}

/// Appends the JSON of a stored object to `out`. Where that fails `out` is as it was.
///
/// # Errors
///
/// [`DecodeError`] for what an API server could not decode, either.
pub fn to_json(plain: &[u8], dress: &Dress, out: &mut Vec<u8>) -> Result<Decoded, DecodeError> {
    let start = out.len();
    let result = decode(plain, dress, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Looks through an object in protobuf as the API server's decoder does, without making anything of it.
///
/// # Errors
///
/// [`DecodeError::Malformed`] for what that decoder refuses.
pub fn look_through(plain: &[u8]) -> Result<(), DecodeError> {
    sound::envelope(plain).map_err(|fault| DecodeError::Malformed {
        encoding: Encoding::Protobuf,
        offset: offset(plain, fault.at),
        what: fault.what,
    })
}

/// Seconds since 1970 as a stored time is shown: RFC 3339, in UTC.
pub fn moment(seconds: i64) -> String {
    let mut quoted = Vec::new();
    special::rfc3339(seconds, None, &mut quoted);
    String::from_utf8_lossy(&quoted).trim_matches('"').to_owned()
}

fn decode(plain: &[u8], dress: &Dress, out: &mut Vec<u8>) -> Result<Decoded, DecodeError> {
    let decoded = |encoding| Decoded { encoding, known_kind: true, unknown_fields: 0 };
    let encoding = payload::sniff(plain).ok_or(DecodeError::NoForm)?;
    let malformed = |offset, what| DecodeError::Malformed { encoding, offset, what };
    match encoding {
        Encoding::Protobuf => {
            let mut walker = Walker::new(dress, out);
            walker.envelope(plain, 0).map_err(|fault| malformed(offset(plain, fault.at), fault.what))?;
            let (known_kind, unknown_fields) = (walker.known_kind, walker.unknown);
            Ok(Decoded { encoding, known_kind, unknown_fields })
        }
        Encoding::Json => {
            dressed(plain, dress, out).map_err(|fault| malformed(fault.offset, fault.what))?;
            Ok(decoded(encoding))
        }
        Encoding::Cbor => {
            let body = plain.get(cbor::MAGIC.len()..).unwrap_or_default();
            let value = cbor::read(body);
            let value = value.map_err(|fault| malformed(plain.len().saturating_sub(fault.left), fault.what))?;
            via_value(&value, dress, out).map_err(|fault| malformed(0, fault.what))?;
            Ok(decoded(encoding))
        }
        Encoding::Other => other(plain, dress, out),
    }
}

/// Base64 of another form, as etcd's migration from its second version left it, or YAML.
fn other(plain: &[u8], dress: &Dress, out: &mut Vec<u8>) -> Result<Decoded, DecodeError> {
    let encoding = Encoding::Other;
    let malformed = |offset, what| DecodeError::Malformed { encoding, offset, what };
    let text = Zeroizing::new(plain.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<u8>>());
    if let Ok(inner) = BASE64_STANDARD.decode(&*text).map(Zeroizing::new) {
        let is_form = matches!(payload::sniff(&inner), Some(Encoding::Protobuf | Encoding::Json | Encoding::Cbor));
        return if is_form {
            decode(&inner, dress, out).map(|decoded| Decoded { encoding, ..decoded })
        } else {
            Err(DecodeError::NoForm)
        };
    }
    let text = std::str::from_utf8(plain).map_err(|error| malformed(error.valid_up_to(), "no UTF-8"))?;
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|_| malformed(0, "no YAML of an object"))?;
    via_value(&value, dress, out).map_err(|fault| malformed(0, fault.what))?;
    Ok(Decoded { encoding, known_kind: true, unknown_fields: 0 })
}

fn via_value(value: &serde_json::Value, dress: &Dress, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let text = Zeroizing::new(value.to_string());
    dressed(text.as_bytes(), dress, out)
}

fn dressed(text: &[u8], dress: &Dress, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let document = Document::parse(text)?;
    json::dressed(document.root(), dress, dress.layout, out);
    Ok(())
}

/// How far into the whole a part of it lies.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().saturating_sub(whole.as_ptr().addr()).min(whole.len())
}
