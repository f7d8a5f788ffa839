//! AES-GCM with a random nonce and the etcd key as associated data.
//!
//! ```text
//! body := NONCE (12 bytes) || CIPHERTEXT || TAG (16 bytes)
//! ```
//!
//! Upstream: `kubernetes/apiserver`, `pkg/storage/value/encrypt/aes/aes.go`, type `gcm`.

use aes::Aes192;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};

use super::fault::{Fault, SealError};
use super::plaintext::Plaintext;

/// The length of the nonce in front of the ciphertext.
pub const NONCE_BYTES: usize = 12;

/// The length of the tag behind the ciphertext.
const TAG_BYTES: usize = 16;

/// Bytes that a body has beside its plaintext's.
pub(super) const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

type Aes192Gcm = aes_gcm::AesGcm<Aes192, U12>;

/// A key with its schedule computed.
pub struct AesGcm(Schedule);

enum Schedule {
    Aes128(Aes128Gcm),
    Aes192(Aes192Gcm),
    Aes256(Aes256Gcm),
}

impl AesGcm {
    /// `None` if the key has not 16, 24 or 32 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        let schedule = match key.len() {
            16 => Schedule::Aes128(Aes128Gcm::new_from_slice(key).ok()?),
            24 => Schedule::Aes192(Aes192Gcm::new_from_slice(key).ok()?),
            32 => Schedule::Aes256(Aes256Gcm::new_from_slice(key).ok()?),
            _ => return None,
        };
        Some(Self(schedule))
    }

    /// Opens a body into `scratch` and tells how many bytes there are plaintext. `aad` is the etcd key.
    ///
    /// # Errors
    ///
    /// [`Fault::TooShort`] without a whole nonce, else [`Fault::Authentication`]; a missing tag is the latter too.
    pub fn open(&self, aad: &[u8], body: &[u8], scratch: &mut Plaintext) -> Result<usize, Fault> {
        let (nonce, sealed) = body.split_first_chunk::<NONCE_BYTES>().ok_or(Fault::TooShort)?;
        let (sealed, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(Fault::Authentication)?;
        let buffer = InOutBuf::new(sealed, scratch.room(sealed.len())).map_err(|_| Fault::Authentication)?;
        let (nonce, tag) = (nonce.into(), tag.into());
        match &self.0 {
            Schedule::Aes128(gcm) => gcm.decrypt_inout_detached(nonce, aad, buffer, tag),
            Schedule::Aes192(gcm) => gcm.decrypt_inout_detached(nonce, aad, buffer, tag),
            Schedule::Aes256(gcm) => gcm.decrypt_inout_detached(nonce, aad, buffer, tag),
        }
        .map(|()| sealed.len())
        .map_err(|_| Fault::Authentication)
    }

    /// Appends the body for `plaintext` to `out`. A nonce must never serve twice under one key.
    ///
    /// # Errors
    ///
    /// [`SealError::TooLong`] beyond the 64 GiB of the cipher; then `out` is as it was.
    pub fn seal(
        &self,
        aad: &[u8],
        plaintext: &[u8],
        nonce: &[u8; NONCE_BYTES],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let before = out.len();
        // Reserved beforehand, since a buffer that moves would leave plaintext behind.
        out.reserve(OVERHEAD_BYTES + plaintext.len());
        out.extend_from_slice(nonce);
        let start = out.len();
        out.extend_from_slice(plaintext);
        let buffer = InOutBuf::from(out.get_mut(start..).unwrap_or_default());
        let sealed = match &self.0 {
            Schedule::Aes128(gcm) => gcm.encrypt_inout_detached(nonce.into(), aad, buffer),
            Schedule::Aes192(gcm) => gcm.encrypt_inout_detached(nonce.into(), aad, buffer),
            Schedule::Aes256(gcm) => gcm.encrypt_inout_detached(nonce.into(), aad, buffer),
        };
        match sealed {
            Ok(tag) => {
                out.extend_from_slice(&tag);
                Ok(())
            }
            Err(_) => {
                out.truncate(before);
                Err(SealError::TooLong(plaintext.len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vectors::{KEY_32, hex};
    use super::*;

    const DEMO: &[u8] = b"/registry/secrets/default/demo";

    fn open(key: &[u8], aad: &[u8], body: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut scratch = Plaintext::new();
        let bytes = AesGcm::new(key).unwrap().open(aad, body, &mut scratch)?;
        Ok(scratch.opened(bytes).to_vec())
    }

    #[test]
    fn a_value_of_upstreams_own_tests_opens() {
        let body = "9f27c8fcea8a58c467d8e437dbf2d85955f9b4bd912f4ef967d788a0cb07797dac0a3f0a0845605ca85ac8562b4ae1";
        assert_eq!(open(b"snorlax_awesomes", b"bamboo", &hex(body)).unwrap(), b"pandas are the best");
    }

    #[test]
    fn a_known_answer_opens_and_seals() {
        let body = hex("202122232425262728292a2ba8907ec8e9d01c7dd82c72b4bb4f9d9498604f71ac2e1d8bede1");
        let key = &KEY_32[..16];
        assert_eq!(open(key, DEMO, &body).unwrap(), b"hello etcd");
        let mut out = Vec::new();
        let nonce = body.first_chunk().unwrap();
        AesGcm::new(key).unwrap().seal(DEMO, b"hello etcd", nonce, &mut out).unwrap();
        assert_eq!(out, body);
    }

    #[test]
    fn a_body_that_is_cut_is_refused_in_upstreams_words() {
        assert_eq!(open(&KEY_32, b"", &[0; 11]), Err(Fault::TooShort));
        assert_eq!(open(&KEY_32, b"", &[0; 12]), Err(Fault::Authentication));
        assert_eq!(open(&KEY_32, b"", &[0; 27]), Err(Fault::Authentication));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_under_the_same_etcd_key_only(
            key in prop_oneof![Just(16), Just(24), Just(32)].prop_flat_map(|n| prop::collection::vec(any::<u8>(), n)),
            aad in prop::collection::vec(any::<u8>(), 0..60),
            plaintext in prop::collection::vec(any::<u8>(), 0..700),
            nonce: [u8; 12],
        ) {
            let mut out = Vec::new();
            AesGcm::new(&key).unwrap().seal(&aad, &plaintext, &nonce, &mut out).unwrap();
            prop_assert_eq!(open(&key, &aad, &out).unwrap(), plaintext);
            let moved = [&aad[..], b"x"].concat();
            prop_assert_eq!(open(&key, &moved, &out), Err(Fault::Authentication));
        }

        #[test]
        fn a_flipped_bit_is_noticed(plaintext in prop::collection::vec(any::<u8>(), 0..50), at: prop::sample::Index) {
            let mut out = Vec::new();
            AesGcm::new(&KEY_32).unwrap().seal(DEMO, &plaintext, &[7; 12], &mut out).unwrap();
            let at = at.index(out.len() * 8);
            out[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(open(&KEY_32, DEMO, &out), Err(Fault::Authentication));
        }
    }
}
