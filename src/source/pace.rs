//! How far the hashing thread has come, so that the workers do not run away from it.
//!
//! Both read the whole file. Where it does not fit into memory, what one of them reads must still be there when the other
//! one comes to it, or everything is read from the disk twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// So many bytes the workers may be ahead. Much less than any machine has for its page cache, and more than they get
/// ahead while anything is in order.
const LEAD_BYTES: u64 = 64 << 20;

/// How long a worker sleeps that is too far ahead. Hashing takes longer for the lead by far.
const NAP: Duration = Duration::from_millis(1);

/// Told by the hashing thread, asked by the workers.
#[derive(Debug)]
pub struct Pace {
    /// Whether anybody hashes beside the workers.
    hashing: bool,
    hashed: AtomicU64,
}

impl Pace {
    /// Somebody hashes, and begins at the start of the file.
    pub fn hashing() -> Self {
        Self { hashing: true, hashed: AtomicU64::new(0) }
    }

    /// Nobody hashes, so nobody has to wait.
    pub fn free() -> Self {
        Self { hashing: false, hashed: AtomicU64::new(0) }
    }

    /// So many more bytes are hashed.
    pub fn advance(&self, bytes: u64) {
        self.hashed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Hashing has ended, well or not.
    pub fn end(&self) {
        self.hashed.store(u64::MAX, Ordering::Relaxed);
    }

    /// Waits until a reader at `offset` is not too far ahead.
    pub fn wait(&self, offset: u64) {
        while self.hashing && offset > self.hashed.load(Ordering::Relaxed).saturating_add(LEAD_BYTES) {
            thread::sleep(NAP);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_far_ahead_waits_for_the_other() {
        let pace = Pace::hashing();
        pace.wait(LEAD_BYTES);
        thread::scope(|scope| {
            let ahead = scope.spawn(|| pace.wait(LEAD_BYTES + 7));
            pace.advance(6);
            assert!(!ahead.is_finished(), "a byte is missing");
            pace.advance(1);
            ahead.join().unwrap();
            let far_ahead = scope.spawn(|| pace.wait(u64::MAX));
            pace.end();
            far_ahead.join().unwrap();
        });
        Pace::free().wait(u64::MAX);
    }
}
