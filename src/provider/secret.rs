//! Key bytes and opened values: types that wipe themselves and never print.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The HMAC key under which secrets are fingerprinted, so that a fingerprint is of no use elsewhere.
const FINGERPRINT_DOMAIN: &[u8] = b"atrest/fingerprint/1";

/// How many bytes of the HMAC a fingerprint shows.
const FINGERPRINT_BYTES: usize = 8;

/// The bytes of a key. They are wiped when dropped, compared in constant time, and never printed.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<Vec<u8>>);

impl SecretKey {
    /// Takes the bytes over; the caller's own copies are the caller's to wipe.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for a cipher's key schedule and nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sixteen hexadecimal digits that tell two secrets apart and give nothing of them away.
    pub fn fingerprint(&self) -> String {
        // An HMAC takes a key of any length, so this cannot fail.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(FINGERPRINT_DOMAIN) else {
            return String::new();
        };
        mac.update(&self.0);
        let digest = mac.finalize().into_bytes();
        digest.iter().take(FINGERPRINT_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let key = SecretKey::new(b"0123456789abcdef".to_vec());
        assert_eq!(format!("{key:?}"), "SecretKey(16 bytes)");
    }

    #[test]
    fn a_fingerprint_tells_secrets_apart() {
        let one = SecretKey::new(vec![1; 32]);
        assert_eq!(one.fingerprint(), SecretKey::new(vec![1; 32]).fingerprint());
        assert_ne!(one.fingerprint(), SecretKey::new(vec![2; 32]).fingerprint());
        assert_eq!(one.fingerprint().len(), 16);
    }
}
