//! XSalsa20-Poly1305 as NaCl's secretbox has it.
//!
//! ```text
//! body := NONCE (24 bytes) || TAG (16 bytes) || CIPHERTEXT
//! ```
//!
//! The tag stands before the ciphertext, and nothing binds a value to its etcd key.
//!
//! Upstream: `kubernetes/apiserver`, `pkg/storage/value/encrypt/secretbox/secretbox.go`.

use dryoc::classic::crypto_secretbox::{crypto_secretbox_detached, crypto_secretbox_open_detached};
use zeroize::Zeroizing;

use super::fault::{Fault, SealError};
use super::plaintext::Plaintext;

/// The length of a key.
pub const KEY_BYTES: usize = 32;

/// The length of the nonce in front of the tag.
pub const NONCE_BYTES: usize = 24;

/// The length of the tag in front of the ciphertext.
const TAG_BYTES: usize = 16;

/// Bytes that a body has beside its plaintext's.
pub(super) const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// A key.
pub struct Secretbox(Zeroizing<[u8; KEY_BYTES]>);

impl Secretbox {
    /// `None` if the key has not 32 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        let mut own = Zeroizing::new([0; KEY_BYTES]);
        own.copy_from_slice(key.first_chunk::<KEY_BYTES>().filter(|_| key.len() == KEY_BYTES)?);
        Some(Self(own))
    }

    /// Opens a body into `scratch` and tells how many bytes there are plaintext.
    ///
    /// # Errors
    ///
    /// [`Fault::TooShort`] without whole nonce and tag, else [`Fault::SecretboxAuthentication`].
    pub fn open(&self, body: &[u8], scratch: &mut Plaintext) -> Result<usize, Fault> {
        let (nonce, sealed) = body.split_first_chunk::<NONCE_BYTES>().ok_or(Fault::TooShort)?;
        let (tag, sealed) = sealed.split_first_chunk::<TAG_BYTES>().ok_or(Fault::TooShort)?;
        let opened = scratch.room(sealed.len());
        crypto_secretbox_open_detached(opened, sealed, tag, nonce, &self.0)
            .map(|()| sealed.len())
            .map_err(|_| Fault::SecretboxAuthentication)
    }

    /// Appends the body for `plaintext` to `out`. A nonce must never serve twice under one key.
    ///
    /// # Errors
    ///
    /// [`SealError::TooLong`] beyond the 256 GiB of the cipher; then `out` is as it was.
    pub fn seal(&self, plaintext: &[u8], nonce: &[u8; NONCE_BYTES], out: &mut Vec<u8>) -> Result<(), SealError> {
        let before = out.len();
        out.extend_from_slice(nonce);
        out.resize(before + NONCE_BYTES + TAG_BYTES + plaintext.len(), 0);
        let mut tag = [0; TAG_BYTES];
        let behind_nonce = out.get_mut(before + NONCE_BYTES..).unwrap_or_default();
        let sealed = behind_nonce.split_first_chunk_mut::<TAG_BYTES>().and_then(|(tag_place, ciphertext)| {
            crypto_secretbox_detached(ciphertext, &mut tag, plaintext, nonce, &self.0).ok()?;
            *tag_place = tag;
            Some(())
        });
        sealed.ok_or_else(|| {
            out.truncate(before);
            SealError::TooLong(plaintext.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xsalsa20poly1305::aead::Aead;
    use xsalsa20poly1305::{KeyInit, XSalsa20Poly1305};

    use super::super::vectors::{KEY_32, hex};
    use super::*;

    fn open(key: &[u8], body: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut scratch = Plaintext::new();
        let bytes = Secretbox::new(key).unwrap().open(body, &mut scratch)?;
        Ok(scratch.opened(bytes).to_vec())
    }

    fn seal(key: &[u8], nonce: &[u8; 24], plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Secretbox::new(key).unwrap().seal(plaintext, nonce, &mut out).unwrap();
        out
    }

    /// The same body by another implementation.
    fn seal_elsewhere(key: &[u8; 32], nonce: &[u8; 24], plaintext: &[u8]) -> Vec<u8> {
        let sealed = XSalsa20Poly1305::new(key.into()).encrypt(nonce.into(), plaintext).unwrap();
        [&nonce[..], &sealed].concat()
    }

    #[test]
    fn a_known_answer_opens_and_seals() {
        let body =
            hex("303132333435363738393a3b3c3d3e3f4041424344454647df8da78ed443be5bdd14279a35b15eccf6550b5ef9ffbbb5925f");
        assert_eq!(open(&KEY_32, &body).unwrap(), b"hello etcd");
        let nonce = body.first_chunk().unwrap();
        assert_eq!(seal(&KEY_32, nonce, b"hello etcd"), body);
        assert_eq!(seal_elsewhere(&KEY_32, nonce, b"hello etcd"), body);
    }

    #[test]
    fn a_body_that_is_cut_is_refused_in_upstreams_words() {
        let body = seal(&KEY_32, &[1; 24], b"");
        assert_eq!(body.len(), 40);
        assert_eq!(open(&KEY_32, &body).unwrap(), b"");
        assert_eq!(open(&KEY_32, &body[..39]), Err(Fault::TooShort));
        assert_eq!(open(&[9; 32], &body), Err(Fault::SecretboxAuthentication));
    }

    #[test]
    fn only_thirty_two_bytes_are_a_key() {
        let lengths: Vec<usize> = (0..64).filter(|&bytes| Secretbox::new(&vec![0; bytes]).is_some()).collect();
        assert_eq!(lengths, [32]);
    }

    proptest! {
        #[test]
        fn both_implementations_seal_to_the_same_bytes(
            key: [u8; 32],
            nonce: [u8; 24],
            plaintext in prop::collection::vec(any::<u8>(), 0..1500),
        ) {
            let body = seal(&key, &nonce, &plaintext);
            prop_assert_eq!(&body, &seal_elsewhere(&key, &nonce, &plaintext));
            prop_assert_eq!(open(&key, &body).unwrap(), plaintext);
        }

        #[test]
        fn a_flipped_bit_is_noticed(plaintext in prop::collection::vec(any::<u8>(), 0..50), at: prop::sample::Index) {
            let mut body = seal(&KEY_32, &[7; 24], &plaintext);
            let at = at.index(body.len() * 8);
            body[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(open(&KEY_32, &body), Err(Fault::SecretboxAuthentication));
        }
    }
}
