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

use super::trace::Trace;

/// Bytes of a trace in the file: its words, the lowest byte of each first.
const TRACE_BYTES: usize = 24;

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
    fn beyond(room: usize) -> Self {
        let (in_memory, end) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { room, in_memory, file: OnceLock::new(), end, full: AtomicBool::new(false) }
    }

    /// Writes a block and tells where it begins, unless there is room for it in memory, or nowhere else.
    fn put(&self, block: &[Trace]) -> Option<u64> {
        let before = self.in_memory.fetch_add(block.len(), Ordering::Relaxed);
        if before + block.len() <= self.room || self.full.load(Ordering::Relaxed) {
            return None;
        }
        let file = self.file.get_or_init(|| tempfile::tempfile().ok()).as_ref();
        let bytes: Vec<u8> = block.iter().flat_map(Trace::words).flat_map(u64::to_le_bytes).collect();
        let offset = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if file.is_none_or(|file| file.write_all_at(&bytes, offset).is_err()) {
            tracing::debug!("no room for traces in a temporary file; they stay in memory");
            self.full.store(true, Ordering::Relaxed);
            return None;
        }
        self.in_memory.fetch_sub(block.len(), Ordering::Relaxed);
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
    pub fn put(&mut self, shelf: &Shelf, block: &[Trace]) -> bool {
        let put = shelf.put(block);
        self.blocks.extend(put.map(|offset| (offset, block.len())));
        put.is_some()
    }

    /// Appends to `traces` what was put away.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn take(self, shelf: &Shelf, traces: &mut Vec<Trace>) -> Result<(), ShelfError> {
        let mut bytes = Vec::new();
        for (offset, count) in self.blocks {
            bytes.resize(count * TRACE_BYTES, 0);
            shelf.read(offset, &mut bytes)?;
            traces.extend(bytes.chunks_exact(TRACE_BYTES).map(decode));
        }
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Trace {
    let word = |number: usize| {
        let bytes = bytes.get(number * 8..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        u64::from_le_bytes(bytes)
    };
    Trace::from_words([word(0), word(1), word(2)])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Place;
    use super::super::trace::{TraceKey, Traces, settle};
    use super::*;

    /// Three records of each of 20,000 keys, by two workers.
    fn traces(key: TraceKey, shelf: &Arc<Shelf>) -> Vec<Traces> {
        let mut workers = [Traces::new(key, shelf), Traces::new(key, shelf)];
        for leaf in 0..60_000_u32 {
            let name = format!("/registry/{}", leaf % 20_000);
            workers[leaf as usize % 2].leave(name.as_bytes(), Place { leaf, index: 3 }, leaf % 7);
        }
        workers.into()
    }

    /// The records of each key, in the order of digests.
    fn settled(traces: Vec<Traces>) -> Result<Vec<Vec<Trace>>, ShelfError> {
        let parts = settle(traces, Vec::new, |groups, records| groups.push(records.to_vec()))?;
        let mut all: Vec<_> = parts.into_iter().flatten().collect();
        all.sort();
        Ok(all)
    }

    #[test]
    fn what_was_put_away_is_settled_as_if_it_had_stayed() {
        let key = TraceKey::random().unwrap();
        let in_memory = Arc::new(Shelf::beyond(usize::MAX));
        let expected = settled(traces(key, &in_memory)).unwrap();
        assert!(in_memory.file.get().is_none());
        assert_eq!(expected.iter().map(Vec::len).collect::<Vec<_>>(), vec![3; 20_000]);
        for room in [0, 10_000] {
            let shelf = Arc::new(Shelf::beyond(room));
            let traces = traces(key, &shelf);
            let away = shelf.end.load(Ordering::Relaxed) / TRACE_BYTES as u64;
            assert!(away > 30_000, "{away} beyond {room}");
            assert!(shelf.in_memory.load(Ordering::Relaxed) <= room);
            assert_eq!(settled(traces).unwrap(), expected);
        }
    }

    #[test]
    fn what_finds_no_room_in_the_file_stays_in_memory() {
        let shelf = Shelf::beyond(10_000);
        // Nothing can be written to this one.
        shelf.file.set(Some(File::open("/dev/null").unwrap())).unwrap();
        let shelf = Arc::new(shelf);
        let traces = traces(TraceKey::random().unwrap(), &shelf);
        assert!(shelf.full.load(Ordering::Relaxed));
        assert_eq!(settled(traces).unwrap().iter().map(Vec::len).collect::<Vec<_>>(), vec![3; 20_000]);
    }

    #[test]
    fn what_cannot_be_read_back_is_an_error() {
        let shelf = Arc::new(Shelf::beyond(0));
        let traces = traces(TraceKey::random().unwrap(), &shelf);
        shelf.file.get().and_then(Option::as_ref).unwrap().set_len(1000).unwrap();
        assert!(settled(traces).is_err());
    }
}
