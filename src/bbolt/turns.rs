//! Workers hand over their leaves in the order of keys, whichever is done first.
//!
//! Page ids are given in that order, under a lock; the pages are written outside it, by one worker at a time, since a file system
//! lets no two write to one file anyway: what is placed meanwhile is left to the one who writes, and nobody waits.
//! A worker that is far ahead does wait, so that what waits for its turn stays little.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::{Condvar, Mutex, TryLockError};

use super::write::{BucketWriter, Leaves, Packer, Placed, WriteError};
use crate::lock::{into_inner, lock};

/// Larger buffers are given back: few groups have such large values.
const KEPT_BYTES: usize = 2 << 20;

/// Bytes that may wait for the one who writes: now and then the file system has it wait for the disk for some milliseconds. And
/// bytes that may wait for their turn, which a worker that does something else meanwhile, such as hashing, holds up as long.
const WAITING_BYTES: usize = 4 << 20;

/// Bytes that may wait for their turn for each worker, where there are many.
const WAITING_BYTES_EACH: usize = 512 << 10;

/// The bucket that all workers write, and whose turn it is.
pub struct Turns<'t, 'w, 'f> {
    state: Mutex<State<'w, 'f>>,
    changed: Condvar,
    file: &'t File,
    most_waiting: usize,
    written: &'t (dyn Fn(u64) + Sync),
    /// Pages that know their place and are to be written.
    placed: Mutex<VecDeque<Placed>>,
    /// Held by the one who writes.
    writing: Mutex<()>,
    /// Buffers of pages that were written, to be packed into again.
    buffers: Mutex<Vec<Vec<u8>>>,
}

struct State<'w, 'f> {
    bucket: BucketWriter<'w, 'f>,
    /// The group that comes next.
    turn: usize,
    waiting: BTreeMap<usize, Leaves>,
    waiting_bytes: usize,
    /// Somebody failed; nobody waits any more.
    failed: bool,
}

impl<'t, 'w, 'f> Turns<'t, 'w, 'f> {
    /// It is the first group's turn. `written` is told the bytes of what is written.
    pub fn new(
        bucket: BucketWriter<'w, 'f>,
        file: &'t File,
        workers: usize,
        written: &'t (dyn Fn(u64) + Sync),
    ) -> Self {
        let state = State { bucket, turn: 0, waiting: BTreeMap::new(), waiting_bytes: 0, failed: false };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            file,
            most_waiting: WAITING_BYTES.max(workers.saturating_mul(WAITING_BYTES_EACH)),
            written,
            placed: Mutex::default(),
            writing: Mutex::new(()),
            buffers: Mutex::new(Vec::new()),
        }
    }

    /// A packer of this bucket's pages.
    pub fn packer(&self) -> Packer {
        let buffer = lock(&self.buffers).pop().unwrap_or_default();
        lock(&self.state).bucket.packer().with_buffer(buffer)
    }

    /// Hands over the last leaves of a group, and writes all whose turn has come.
    pub fn hand_over(&self, group: usize, leaves: Leaves) -> Result<(), WriteError> {
        let mut state = lock(&self.state);
        while state.turn != group && state.waiting_bytes >= self.most_waiting && !state.failed {
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        if state.failed {
            // What somebody failed at is the answer, not that leaves without their predecessors are out of order.
            return Ok(());
        }
        state.waiting_bytes += leaves.page_bytes();
        state.waiting.insert(group, leaves);
        let mut placed = Vec::new();
        loop {
            let turn = state.turn;
            let Some(leaves) = state.waiting.remove(&turn) else { break };
            state.waiting_bytes -= leaves.page_bytes();
            placed.push(state.bucket.place(leaves)?);
            state.turn += 1;
        }
        drop(state);
        self.changed.notify_all();
        self.write(placed)
    }

    /// Hands over leaves of a group that goes on, as soon as it is its turn.
    pub fn hand_over_part(&self, group: usize, leaves: Leaves) -> Result<(), WriteError> {
        let mut state = lock(&self.state);
        while state.turn != group && !state.failed {
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        if state.failed {
            return Ok(());
        }
        let placed = state.bucket.place(leaves)?;
        drop(state);
        self.write(vec![placed])
    }

    /// Says that a group will never come, so that nobody waits for its turn.
    pub fn fail(&self) {
        lock(&self.state).failed = true;
        self.changed.notify_all();
    }

    /// The bucket, when all workers are done.
    pub fn into_bucket(self) -> BucketWriter<'w, 'f> {
        into_inner(self.state).bucket
    }

    /// Writes pages, or leaves them to somebody who is writing. Who finds too much of it waiting waits, too.
    fn write(&self, placed: Vec<Placed>) -> Result<(), WriteError> {
        let waiting: usize = {
            let mut all = lock(&self.placed);
            all.extend(placed);
            all.iter().map(|pages| pages.bytes().len()).sum()
        };
        let mut must = waiting > WAITING_BYTES;
        // Whoever is writing looks once more after it has said that it does not any more, so nothing is left behind.
        while !lock(&self.placed).is_empty() {
            let writing = match self.writing.try_lock() {
                Ok(writing) => writing,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if must => lock(&self.writing),
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            must = false;
            while let Some(pages) = { lock(&self.placed).pop_front() } {
                self.write_one(pages)?;
            }
            drop(writing);
        }
        Ok(())
    }

    fn write_one(&self, pages: Placed) -> Result<(), WriteError> {
        pages.write(self.file)?;
        (self.written)(pages.bytes().len() as u64);
        let buffer = pages.into_bytes();
        if buffer.capacity() <= KEPT_BYTES {
            lock(&self.buffers).push(buffer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::*;
    use crate::bbolt::write::{Fill, Writer};

    /// Several threads write what one would, with pages of values that are small, large and larger than what is written at once.
    #[test]
    fn what_several_threads_write_is_what_one_does() {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = (0..6000_u32)
            .map(|number| {
                let bytes = match number {
                    _ if number % 499 == 11 => 900_000,
                    _ if number % 100 == 7 => 40_000,
                    _ if number % 10 == 3 => 3000,
                    _ => 700,
                };
                (number.to_be_bytes().to_vec(), number.to_le_bytes().repeat(bytes / 4))
            })
            .collect();
        let groups: Vec<_> = pairs.chunks(37).collect();
        let content = |file: &File| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut { file }, &mut bytes).unwrap();
            bytes
        };
        let write = |threads: usize| {
            let file = tempfile::tempfile().unwrap();
            let mut writer = Writer::new(&file, 4096, 1).unwrap();
            let bucket = writer.bucket(b"key", 0, Fill::APPENDED).unwrap();
            let (told, next) = (AtomicU64::new(0), AtomicUsize::new(0));
            let tell = |bytes| {
                told.fetch_add(bytes, Ordering::Relaxed);
            };
            let turns = Turns::new(bucket, &file, threads, &tell);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        loop {
                            let group = next.fetch_add(1, Ordering::Relaxed);
                            let Some(pairs) = groups.get(group) else { return };
                            let mut packer = turns.packer();
                            for (key, value) in *pairs {
                                packer.push(key, value).unwrap();
                                if packer.packed_bytes() > 1 << 20 {
                                    turns.hand_over_part(group, packer.take()).unwrap();
                                }
                            }
                            turns.hand_over(group, packer.finish()).unwrap();
                        }
                    });
                }
            });
            let bucket = turns.into_bucket();
            let leaves = told.load(Ordering::Relaxed);
            bucket.finish().unwrap();
            writer.finish().unwrap();
            std::io::Seek::rewind(&mut &file).unwrap();
            (content(&file), leaves)
        };
        let (expected, leaves) = write(1);
        assert!(leaves > 12 << 20 && leaves < expected.len() as u64);
        for threads in [2, 5] {
            assert!(write(threads) == (expected.clone(), leaves), "{threads}");
        }
        let pages = crate::bbolt::PageFile::open({
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&expected, 0).unwrap();
            file
        });
        let mut found = Vec::new();
        let pages = pages.unwrap();
        let mut checker = crate::bbolt::check::Checker::new(&pages);
        for (_, bucket) in checker.top_level() {
            checker.bucket(&bucket, &mut |pair, _| {
                found.push((pair.element.key.to_vec(), pair.element.value.to_vec()));
            });
        }
        assert!(found == pairs);
    }

    #[test]
    fn after_a_failure_nobody_waits_and_nothing_is_out_of_order() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(&file, 4096, 1).unwrap();
        let bucket = writer.bucket(b"key", 0, Fill::APPENDED).unwrap();
        let turns = Turns::new(bucket, &file, 1, &|_| ());
        let leaves = |key: &[u8]| {
            let mut packer = turns.packer();
            packer.push(key, b"value").unwrap();
            packer.finish()
        };
        turns.hand_over(0, leaves(b"b")).unwrap();
        turns.fail();
        turns.hand_over_part(7, leaves(b"a")).unwrap();
        turns.hand_over(9, leaves(b"a")).unwrap();
    }
}
