//! Memory to read a file into.
//!
//! The system copies what it reads out of pages of its own, and on processors of today that copy takes five times as
//! long where the bytes land a little behind the place within a page that they come from, as they do in a large vector:
//! its allocator keeps sixteen bytes of its own in front of it. So reading starts at the start of a page.

use std::fmt;

/// Bytes of a page of memory; where they are larger, what begins at a multiple of this is as good.
const MEMORY_PAGE_BYTES: usize = 4096;

/// A buffer that is used again and again, and whose bytes begin at the start of a page of memory.
#[derive(Default)]
pub struct ReadBuffer {
    /// Longer than what is asked for, by what the start may have to be moved.
    bytes: Vec<u8>,
}

impl ReadBuffer {
    /// No room yet; it grows with the first read.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first `bytes` bytes, to be read into. What they hold is of no meaning.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        let needed = bytes.saturating_add(MEMORY_PAGE_BYTES);
        if self.bytes.len() < needed {
            // What was there is of no use, so it is not copied over.
            self.bytes = vec![0; needed];
        }
        let start = self.start();
        self.bytes.get_mut(start..start.saturating_add(bytes)).unwrap_or_default()
    }

    /// The bytes from `from` on, as they were last read.
    pub fn read(&self, from: usize) -> &[u8] {
        self.bytes.get(self.start().saturating_add(from)..).unwrap_or_default()
    }

    fn start(&self) -> usize {
        self.bytes.as_ptr().align_offset(MEMORY_PAGE_BYTES).min(MEMORY_PAGE_BYTES)
    }
}

impl fmt::Debug for ReadBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadBuffer({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_as_much_room_as_asked_for_and_it_begins_with_a_page() {
        let mut buffer = ReadBuffer::new();
        for bytes in [1, 4096, 128 << 10, 300_000, 17, 0] {
            let room = buffer.room(bytes);
            assert_eq!(room.len(), bytes);
            assert_eq!(room.as_ptr().addr() % MEMORY_PAGE_BYTES, 0, "{bytes}");
        }
    }
}
