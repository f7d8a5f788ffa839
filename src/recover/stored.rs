//! One stored value as it comes out of `etcdctl get --print-value-only`, a terminal or a ticket: raw, in base64 or in hexadecimal.
//!
//! The forms tell themselves: a stored value begins with a prefix, `k8s\0`, a brace or CBOR's tag, and no text of the other two does.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::kube::payload::{self, Encoding};
use crate::provider::prefix::MARKER;

/// Takes base64 with and without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a value was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// As it is stored.
    Raw,
    /// As base64.
    Base64,
    /// As hexadecimal digits.
    Hex,
}

/// The stored value in an input, and how it was given. What is in no form that is known is given back as it is.
pub fn stored(input: Vec<u8>) -> (Zeroizing<Vec<u8>>, Given) {
    let input = Zeroizing::new(input);
    if is_stored(&input) {
        return (input, Given::Raw);
    }
    let text: Zeroizing<Vec<u8>> =
        Zeroizing::new(input.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    if let Some(bytes) = hex(&text).filter(|bytes| is_stored(bytes)) {
        return (bytes, Given::Hex);
    }
    match BASE64.decode(&*text).map(Zeroizing::new) {
        Ok(bytes) if is_stored(&bytes) => (bytes, Given::Base64),
        _ => (input, Given::Raw),
    }
}

/// The value without the line feed that etcdctl puts behind it; none if there is none.
pub fn without_line_feed(value: &[u8]) -> Option<&[u8]> {
    value.strip_suffix(b"\n")
}

fn is_stored(bytes: &[u8]) -> bool {
    let form = payload::sniff(bytes);
    bytes.starts_with(MARKER) || matches!(form, Some(Encoding::Protobuf | Encoding::Json | Encoding::Cbor))
}

fn hex(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for [high, low] in pairs {
        bytes.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_in_every_form_in_which_it_may_be_given() {
        for value in
            [&b"k8s\0\x0a\x00"[..], b"k8s:enc:aescbc:v1:key1:\x01\xff", b"{\"kind\":\"A\"}", b"\xd9\xd9\xf7\xa0"]
        {
            let encoded = BASE64.encode(value);
            let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            let wrapped = format!("{}\n{}\n", &encoded[..3], &encoded[3..]);
            for (input, given) in [
                (value.to_vec(), Given::Raw),
                (encoded.trim_end_matches('=').as_bytes().to_vec(), Given::Base64),
                (wrapped.into_bytes(), Given::Base64),
                (format!("{digits}\n").into_bytes(), Given::Hex),
                (format!("0x{}", digits.to_uppercase()).into_bytes(), Given::Hex),
            ] {
                let (found, how) = stored(input);
                assert_eq!((found.as_slice(), how), (value, given));
            }
        }
    }

    #[test]
    fn what_is_in_no_form_stays_what_it_is() {
        for input in [&b""[..], b"abc", b"apiVersion: v1\n", b"6b38", b"AAAA"] {
            assert_eq!(stored(input.to_vec()).0.as_slice(), input);
        }
    }
}
