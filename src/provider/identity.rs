//! Identity: plaintext, unless it looks sealed.
//!
//! ```text
//! stored := plaintext            which does not begin with k8s:enc:
//! ```
//!
//! Upstream: `kubernetes/apiserver`, `pkg/storage/value/encrypt/identity/identity.go`.

use super::fault::SealError;
use super::prefix::MARKER;

/// The stored bytes, if identity reads them: everything that does not look sealed, no bytes at all included.
pub fn open(stored: &[u8]) -> Option<&[u8]> {
    (!stored.starts_with(MARKER)).then_some(stored)
}

/// Appends the stored form of `plaintext` to `out`.
///
/// # Errors
///
/// [`SealError::Ambiguous`] for plaintext that could not be read again. Upstream writes it all the same.
pub fn seal(plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
    let readable = open(plaintext).ok_or(SealError::Ambiguous)?;
    out.extend_from_slice(readable);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_does_not_look_sealed_is_plaintext() {
        assert_eq!(open(b""), Some(&b""[..]));
        assert_eq!(open(b"k8s\0"), Some(&b"k8s\0"[..]));
        assert_eq!(open(b"k8s:enc:"), None);
        assert_eq!(open(b"k8s:enc:foo:v9:"), None);
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let mut out = b"before".to_vec();
        assert!(matches!(seal(b"k8s:enc:x", &mut out), Err(SealError::Ambiguous)));
        assert_eq!(out, b"before");
        seal(b" and after", &mut out).unwrap();
        assert_eq!(out, b"before and after");
    }
}
