//! Where the nonce of a sealed value stands: the bytes that must never come twice under one key.
//!
//! AES-GCM and XSalsa20-Poly1305 encrypt with a key stream that key and nonce decide. Two values under one key and one nonce
//! give away the difference of their plaintexts, and with AES-GCM also what is needed to forge others. AES-CBC's first bytes
//! are random, too, but two equal ones break nothing, so they are no nonce here.
//!
//! | provider | nonce |
//! |---|---|
//! | aesgcm | the first 12 bytes of the body |
//! | secretbox | the first 24 bytes of the body |
//! | KMS v1, AES-GCM form | the first 12 bytes behind the wrapped DEK |
//! | KMS v2, DEK | the first 12 bytes of the encrypted data |
//! | KMS v2, seed | its first 44 bytes: INFO decides the key |

use super::aesgcm;
use super::kms::{v1, v2};
use super::prefix::{Sealed, SealedKind};
use super::secretbox;

/// AES-GCM's and Poly1305's tags.
pub const TAG_BYTES: usize = 16;

/// A name that is longer is not looked for in a value that nothing opens.
const MAX_NAME_BYTES: usize = 1024;

/// The nonce of a value under `name`, and what is sealed with it, tag included; `None` where there is none, or the value is
/// too short.
pub fn split<'v>(sealed: &Sealed<'v>, name: &[u8]) -> Option<(&'v [u8], &'v [u8])> {
    let body = sealed.body_under(name)?;
    let (data, nonce_bytes) = match sealed.kind {
        SealedKind::AesCbc => return None,
        SealedKind::AesGcm => (body, aesgcm::NONCE_BYTES),
        SealedKind::Secretbox => (body, secretbox::NONCE_BYTES),
        SealedKind::KmsV1 => (v1::Envelope::parse(body).ok()?.inner, aesgcm::NONCE_BYTES),
        SealedKind::KmsV2 => match v2::encrypted_data(body)? {
            (data, true) => (data, v2::INFO_BYTES + aesgcm::NONCE_BYTES),
            (data, false) => (data, aesgcm::NONCE_BYTES),
        },
    };
    data.split_at_checked(nonce_bytes).filter(|(_, rest)| rest.len() >= TAG_BYTES)
}

/// The longest name that a value of a static key may bear, as far as its bytes tell: up to the last `:` before which all is
/// text, since names come from a text.
///
/// Who finds name and nonce of two values equal under the longest name knows that they are equal under each shorter one.
pub fn longest_name<'v>(sealed: &Sealed<'v>) -> Option<&'v [u8]> {
    let rest = sealed.rest.get(..MAX_NAME_BYTES).unwrap_or(sealed.rest);
    let text = rest.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
    let colon = rest.iter().take(text).rposition(|byte| *byte == b':')?;
    rest.get(..colon)
}

#[cfg(test)]
mod tests {
    use super::super::prefix::{Form, form};
    use super::*;

    fn sealed(stored: &[u8]) -> Sealed<'_> {
        match form(stored) {
            Form::Sealed(sealed) => sealed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_nonce_is_what_stands_before_the_ciphertext() {
        let body = [&[0xf0; 24][..], &[0xf1; 20]].concat();
        let stored = [b"k8s:enc:aesgcm:v1:a:b:", &body[..]].concat();
        assert_eq!(split(&sealed(&stored), b"a:b"), Some((&body[..12], &body[12..])));
        let stored = [b"k8s:enc:secretbox:v1:k:", &body[..]].concat();
        assert_eq!(split(&sealed(&stored), b"k"), Some((&body[..24], &body[24..])));
        let stored = [b"k8s:enc:kms:v1:k:\0\x02xy", &body[..]].concat();
        assert_eq!(split(&sealed(&stored), b"k"), Some((&body[..12], &body[12..])));
        let stored = [b"k8s:enc:aescbc:v1:k:", &body[..]].concat();
        assert_eq!(split(&sealed(&stored), b"k"), None);
    }

    #[test]
    fn what_is_shorter_than_nonce_and_tag_has_none() {
        let stored = [&b"k8s:enc:aesgcm:v1:k:"[..], &[7; 28]].concat();
        assert!(split(&sealed(&stored), b"k").is_some());
        assert_eq!(split(&sealed(&stored[..stored.len() - 1]), b"k"), None);
    }

    #[test]
    fn a_seeds_info_is_part_of_the_nonce() {
        let data = [&[1; 32][..], &[2; 12], &[3; 16]].concat();
        let mut stored = b"k8s:enc:kms:v2:k:".to_vec();
        let envelope = v2::Envelope {
            encrypted_data: &data,
            key_id: "1",
            encrypted_dek: b"wrapped",
            annotations: super::super::kms::Annotations::none(),
            source: super::super::kms::DekSource::Seed,
        };
        envelope.write(&mut stored);
        assert_eq!(split(&sealed(&stored), b"k"), Some((&data[..44], &data[44..])));
    }

    #[test]
    fn the_longest_name_ends_where_text_ends() {
        for (rest, name) in [
            (&b"key1:\xff\xfe:x"[..], Some(&b"key1"[..])),
            (b"a:b:\xff:", Some(b"a:b")),
            (b"a:b:xyz", Some(b"a:b")),
            (b"none", None),
            (b"\xff:", None),
        ] {
            assert_eq!(longest_name(&Sealed { kind: SealedKind::AesGcm, rest }), name);
        }
    }
}
