//! SHA-256 over much: files, what is unpacked or streamed into them, and the values that they store.
//!
//! Where the processor has instructions for it, all implementations are alike. Where it has none, ring's vector code is nearly
//! twice as fast as portable code, and ring is there anyway where TLS is; without the feature `live` the portable one does it.
//! What was kept of the last block is not wiped, so that opened values are hashed elsewhere.

#[cfg(feature = "live")]
use ring::digest::Context;
#[cfg(not(feature = "live"))]
use sha2::Digest as _;

#[cfg(not(feature = "live"))]
type Context = sha2::Sha256;

/// A digest in the making. A copy goes on from where it was made.
#[derive(Clone)]
pub struct Sha256(Context);

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256")
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl Sha256 {
    /// Of nothing yet.
    pub fn new() -> Self {
        #[cfg(feature = "live")]
        let context = Context::new(&ring::digest::SHA256);
        #[cfg(not(feature = "live"))]
        let context = Context::new();
        Self(context)
    }

    /// The digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> [u8; 32] {
        let mut hash = Self::new();
        hash.update(bytes);
        hash.finalize()
    }

    /// Goes on with `bytes`.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// The digest of all that was given.
    pub fn finalize(self) -> [u8; 32] {
        #[cfg(feature = "live")]
        let digest = self.0.finish();
        #[cfg(not(feature = "live"))]
        let digest = self.0.finalize();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest;

    use super::*;

    proptest! {
        #[test]
        fn however_it_is_cut_the_digest_is_that_of_another_implementation(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        ) {
            let mut hash = Sha256::new();
            for piece in &pieces {
                // What is hashed of a copy is nothing to the first one.
                let mut copy = hash.clone();
                copy.update(b"else");
                prop_assert_ne!(copy.finalize(), hash.clone().finalize());
                hash.update(piece);
            }
            prop_assert_eq!(Sha256::of(pieces.concat()), hash.clone().finalize());
            prop_assert_eq!(hash.finalize(), <[u8; 32]>::from(sha2::Sha256::digest(pieces.concat())));
        }
    }
}
