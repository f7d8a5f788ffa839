//! Text that holds keys while it is being put together.

use zeroize::Zeroizing;

/// A growing text, wiped when dropped; also what it leaves when it has to move to a larger place.
pub(super) struct Wiped(Zeroizing<String>);

impl Wiped {
    /// An empty text that takes so many bytes without moving.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(String::with_capacity(bytes)))
    }

    /// Adds at the end.
    pub(super) fn push(&mut self, more: &str) {
        let needed = self.0.len() + more.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(String::with_capacity(needed * 2));
            larger.push_str(&self.0);
            self.0 = larger;
        }
        self.0.push_str(more);
    }

    /// Adds spaces.
    pub(super) fn spaces(&mut self, count: usize) {
        for _ in 0..count {
            self.push(" ");
        }
    }

    /// What it is by now.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes.
    pub(super) fn into_bytes(mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut *self.0).into_bytes())
    }
}
