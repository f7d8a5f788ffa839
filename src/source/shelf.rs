//! Where traces lie for which there is no room in memory: a file without a name, so that memory does not grow with the records.
//!
//! Blocks of traces go there as soon as all workers together have filled a fixed share of memory, and come back partition by
//! partition when traces are settled. There are digests of keys in it, under a key that nobody knows, places and tags.
//! Where there is no such file to be had, or no room in it, traces stay in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// A trace as it stands in the file: three words, the lowest byte of each first.
type Words = [u64; 3];

/// Bytes of a trace in the file.
const TRACE_BYTES: usize = size_of::<Words>();

/// Traces in full blocks that stay in memory: 24 MiB.
const ROOM: usize = 1 << 20;

/// What was put away cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("what was read cannot be counted in a temporary file: {0}; TMPDIR can name another folder")]
pub struct ShelfError(#[from] io::Error);

/// The file, for all workers of a run.
#[derive(Debug)]
pub struct Shelf {
    /// How many traces stay in memory.
    room: usize,
    in_memory: AtomicUsize,
    /// Made when it is needed; none if that failed.
    file: OnceLock<Option<File>>,
    end: AtomicU64,
    /// The file takes nothing any more.
    full: AtomicBool,
}

impl Default for Shelf {
    fn default() -> Self {
        Self::beyond(ROOM)
    }
}

impl Shelf {
    /// For what is beyond so many traces.
    pub(super) fn beyond(room: usize) -> Self {
        let (in_memory, end) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { room, in_memory, file: OnceLock::new(), end, full: AtomicBool::new(false) }
    }

    /// Writes a block and tells where it begins, unless there is room for it in memory, or nowhere else.
    fn put(&self, block: impl ExactSizeIterator<Item = Words>) -> Option<u64> {
        let count = block.len();
        let before = self.in_memory.fetch_add(count, Ordering::Relaxed);
        if before + count <= self.room || self.full.load(Ordering::Relaxed) {
            return None;
        }
        let file = self.file.get_or_init(|| tempfile::tempfile().ok()).as_ref();
        let bytes: Vec<u8> = block.flatten().flat_map(u64::to_le_bytes).collect();
        let offset = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if file.is_none_or(|file| file.write_all_at(&bytes, offset).is_err()) {
            tracing::debug!("no room for traces in a temporary file; they stay in memory");
            self.full.store(true, Ordering::Relaxed);
            return None;
        }
        self.in_memory.fetch_sub(count, Ordering::Relaxed);
        Some(offset)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self.file.get() {
            Some(Some(file)) => file.read_exact_at(bytes, offset),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Where blocks lie that were put away.
#[derive(Debug, Default)]
pub struct Away {
    /// Of each the offset, and how many traces there are.
    blocks: Vec<(u64, usize)>,
}

impl Away {
    /// Puts a block away, unless it is to stay in memory.
    pub fn put(&mut self, shelf: &Shelf, block: impl ExactSizeIterator<Item = Words>) -> bool {
        let count = block.len();
        let put = shelf.put(block);
        self.blocks.extend(put.map(|offset| (offset, count)));
        put.is_some()
    }

    /// Gives what was put away to `visit`.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn take(self, shelf: &Shelf, visit: impl FnMut(Words)) -> Result<(), ShelfError> {
        let (mut bytes, mut visit) = (Vec::new(), visit);
        for (offset, count) in self.blocks {
            bytes.resize(count * TRACE_BYTES, 0);
            shelf.read(offset, &mut bytes)?;
            bytes.chunks_exact(TRACE_BYTES).map(decode).for_each(&mut visit);
        }
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Words {
    let word = |number: usize| {
        let bytes = bytes.get(number * 8..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        u64::from_le_bytes(bytes)
    };
    [word(0), word(1), word(2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred blocks of a hundred.
    fn blocks() -> Vec<Vec<Words>> {
        (0..100).map(|block| (0..100).map(|word| [block, word, u64::MAX - word]).collect()).collect()
    }

    /// What of them is put away, and what comes back of that.
    fn away(shelf: &Shelf) -> (Vec<Words>, Vec<Words>) {
        let (mut away, mut put, mut back) = (Away::default(), Vec::new(), Vec::new());
        for block in blocks() {
            if away.put(shelf, block.iter().copied()) {
                put.extend(block);
            }
        }
        away.take(shelf, |words| back.push(words)).unwrap();
        (put, back)
    }

    #[test]
    fn what_is_beyond_the_room_comes_back_as_it_was() {
        for (room, expected) in [(0, 10_000), (100, 9900), (250, 9800), (10_000, 0)] {
            let shelf = Shelf::beyond(room);
            let (put, back) = away(&shelf);
            assert_eq!((put.len(), shelf.file.get().is_some()), (expected, expected > 0));
            assert_eq!(back, put);
            assert!(shelf.in_memory.into_inner() <= room);
        }
    }

    #[test]
    fn what_finds_no_room_in_the_file_stays_in_memory() {
        let shelf = Shelf::beyond(1000);
        // Nothing can be written to this one.
        shelf.file.set(Some(File::open("/dev/null").unwrap())).unwrap();
        assert_eq!(away(&shelf), (Vec::new(), Vec::new()));
        assert!(shelf.full.into_inner());
        assert_eq!(shelf.in_memory.into_inner(), 10_000);
    }

    #[test]
    fn what_cannot_be_read_back_is_an_error() {
        let (shelf, mut away) = (Shelf::beyond(0), Away::default());
        assert!(away.put(&shelf, blocks().concat().into_iter()));
        shelf.file.get().and_then(Option::as_ref).unwrap().set_len(1000).unwrap();
        assert!(away.take(&shelf, |_| ()).is_err());
    }
}
