//! DEKs made here, for a plugin to wrap.
//!
//! Upstream: `GenerateKey` of `kubernetes/apiserver`, `pkg/storage/value/encrypt/aes/aes.go`, whose DEKs and seeds have
//! 32 bytes, too.

use std::fmt;
use std::io;

use zeroize::Zeroizing;

/// The length of a DEK, and of a seed.
pub const DEK_BYTES: usize = 32;

/// DEKs, one after another in memory that wipes itself and is never moved. A million take 32 MB.
pub struct FreshDeks(Zeroizing<Vec<u8>>);

impl FreshDeks {
    /// Makes so many from the bytes that `fill` gives.
    ///
    /// # Errors
    ///
    /// If there is no memory for them, or `fill` fails.
    pub fn generate(count: usize, mut fill: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<Self> {
        let mut bytes = Zeroizing::new(Vec::new());
        let total = count.checked_mul(DEK_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
        // Reserved at once: a buffer that grows leaves its keys behind.
        bytes.try_reserve_exact(total).map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.resize(total, 0);
        fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The DEK at a place, from 0.
    pub fn get(&self, place: usize) -> Option<&[u8; DEK_BYTES]> {
        self.0.as_chunks().0.get(place)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len() / DEK_BYTES
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for FreshDeks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FreshDeks({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deks_are_the_bytes_that_were_given_and_never_print() {
        let mut next = 0;
        let deks = FreshDeks::generate(3, |bytes| {
            bytes.fill_with(|| {
                next += 1;
                next
            });
            Ok(())
        });
        let deks = deks.unwrap();
        assert_eq!(deks.get(1).unwrap()[..3], [33, 34, 35]);
        assert_eq!((deks.len(), deks.get(3)), (3, None));
        assert_eq!(format!("{deks:?}"), "FreshDeks(3)");
    }

    #[test]
    fn without_memory_or_randomness_there_are_none() {
        let dry = || FreshDeks::generate(1, |_| Err(io::Error::other("dry")));
        assert_eq!(dry().unwrap_err().to_string(), "dry");
        for count in [usize::MAX, usize::MAX / DEK_BYTES] {
            assert_eq!(FreshDeks::generate(count, |_| Ok(())).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        }
        assert!(FreshDeks::generate(0, |_| Ok(())).unwrap().is_empty());
    }
}
