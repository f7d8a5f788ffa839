//! Base64 as kube-apiserver decodes a key's secret.
//!
//! Upstream: Go's `encoding/base64.StdEncoding`: padding is required, line ends are skipped wherever they stand, and
//! bits left over in the last character are ignored.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

const GO_STANDARD: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The bytes, or nothing if it is no base64.
pub(crate) fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut packed = Zeroizing::new(Vec::with_capacity(text.len()));
    packed.extend(text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
    let mut bytes = Zeroizing::new(vec![0; packed.len().div_ceil(4).saturating_mul(3)]);
    let length = GO_STANDARD.decode_slice(packed.as_slice(), &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_go_reads_it() {
        for (text, bytes) in [
            ("c2VjcmV0", Some(&b"secret"[..])),
            ("c2Vj\r\ncmV0\n", Some(b"secret")),
            ("YQ=\n=", Some(b"a")),
            ("YR==", Some(b"a")),
            ("\n", Some(b"")),
            ("YQ", None),
            ("YQ=", None),
            ("YQ==YQ==", None),
            ("c2Vj cmV0", None),
            ("-_-_", None),
        ] {
            assert_eq!(decode(text).as_ref().map(|found| found.as_slice()), bytes, "{text:?}");
        }
    }
}
