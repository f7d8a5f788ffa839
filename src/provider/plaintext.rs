//! A buffer for opened values: used again and again, wiped when it grows and when it goes.

use std::fmt;

use zeroize::Zeroizing;

/// Room for one opened value at a time. A worker keeps one and opens every value into it, so that a million values cost
/// a handful of allocations; a larger value wipes the smaller room before it is given back.
#[derive(Default)]
pub struct Plaintext {
    // Always initialised to its whole length; how much of it is meant, the caller knows.
    room: Zeroizing<Vec<u8>>,
}

impl Plaintext {
    /// No room yet; it grows with the first value.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first `bytes` bytes, to be written. What they hold is of no meaning.
    pub(super) fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.room.len() < bytes {
            let grown = bytes.checked_next_power_of_two().unwrap_or(bytes);
            // Assigning drops the old room, which wipes it.
            self.room = Zeroizing::new(vec![0; grown]);
        }
        self.room.get_mut(..bytes).unwrap_or_default()
    }

    /// The first `bytes` bytes, as they were last written.
    pub(crate) fn opened(&self, bytes: usize) -> &[u8] {
        self.room.get(..bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext(room for {} bytes)", self.room.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_value_takes_nothing_over_from_a_smaller_one() {
        let mut scratch = Plaintext::new();
        scratch.room(5).copy_from_slice(b"apple");
        assert_eq!(scratch.opened(5), b"apple");
        assert!(scratch.room(100).iter().all(|&byte| byte == 0));
        assert_eq!(scratch.room(7).len(), 7);
    }

    #[test]
    fn what_was_never_written_is_not_shown() {
        let mut scratch = Plaintext::new();
        scratch.room(3).copy_from_slice(b"fig");
        assert_eq!(scratch.opened(1000), b"");
        assert_eq!(format!("{scratch:?}"), "Plaintext(room for 4 bytes)");
    }
}
