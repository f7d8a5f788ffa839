//! The forms that hardly anybody meets: YAML, and base64 text around one of the usual ones.
//!
//! Base64 is what data looks like that went from etcd2 to etcd3 with protobuf on; upstream still reads it as a
//! last resort. YAML is a storage media type that kube-apiserver's flag allows.
//!
//! Either is tried only when the first bytes make it plausible, since noise should cost nothing.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::json::Head;
use super::{Encoding, Identity, PayloadError, cbor, json, protobuf};

/// As Go's `base64.StdEncoding`: padding is needed, stray bits at the end are not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// What YAML of an object may begin with; API servers write the fields in alphabetical order.
const YAML_OPENINGS: [&[u8]; 5] = [b"apiVersion:", b"kind:", b"metadata:", b"---", b"#"];

pub(super) fn looks_like(plain: &[u8]) -> bool {
    is_base64_of_a_form(plain) || is_yaml_opening(plain)
}

fn is_yaml_opening(plain: &[u8]) -> bool {
    YAML_OPENINGS.iter().any(|opening| plain.starts_with(opening))
}

/// Whether this is how base64 of `k8s\0`, of the CBOR tag or of a brace begins.
fn is_base64_of_a_form(plain: &[u8]) -> bool {
    match plain {
        [b'a', b'z', b'h', b'z', b'A', ..] | [b'2', b'd', b'n', b'3', ..] => true,
        [b'e', second, ..] => matches!(second, b'w'..=b'z' | b'0'..=b'9' | b'+' | b'/'),
        _ => false,
    }
}

/// Reads the whole value.
pub(super) fn identify(plain: &[u8]) -> Result<Identity<'static>, PayloadError> {
    if is_base64_of_a_form(plain) { base64_text(plain) } else { yaml(plain) }
}

fn base64_text(plain: &[u8]) -> Result<Identity<'static>, PayloadError> {
    let malformed = |offset, fault| PayloadError::Malformed { encoding: Encoding::Other, offset, fault };
    let joined: Zeroizing<Vec<u8>>;
    let text = if plain.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        joined = Zeroizing::new(plain.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect());
        joined.as_slice()
    } else {
        plain
    };
    let decoded = Zeroizing::new(BASE64.decode(text).map_err(|_| malformed(0, "no base64"))?);
    let identity = if decoded.starts_with(protobuf::MAGIC) {
        protobuf::identify(&decoded).map(|(_, identity)| identity)
    } else if decoded.starts_with(cbor::MAGIC) {
        cbor::identify(&decoded)
    } else if json::looks_like(&decoded) {
        json::identify(&decoded)
    } else {
        Err(malformed(0, "base64 of no form in which objects are stored"))
    };
    identity.map(Identity::into_owned)
}

/// The reader's own budget of events, depth and aliases bounds what a hostile document can cost.
fn yaml(plain: &[u8]) -> Result<Identity<'static>, PayloadError> {
    let malformed = |offset, fault| PayloadError::Malformed { encoding: Encoding::Other, offset, fault };
    let text = std::str::from_utf8(plain).map_err(|error| malformed(error.valid_up_to(), "no UTF-8"))?;
    let head: Head<'_> = serde_saphyr::from_str(text).map_err(|_| malformed(0, "no YAML of an object"))?;
    Ok(Identity::from(head).into_owned())
}
