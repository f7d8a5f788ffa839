//! Workers hand over their leaves in the order of keys, whichever is done first.
//!
//! Page ids are given in that order, under a lock; the pages are written outside it, by whoever made the hand-over possible.
//! A worker that is far ahead waits, so that what waits for its turn stays little.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Condvar, Mutex, MutexGuard};

use super::write::{BucketWriter, Leaves, Packer, Placed, WriteError};

/// Larger buffers are given back: few groups have such large values.
const KEPT_BYTES: usize = 2 << 20;

/// Leaves that may wait for each worker.
const WAITING_GROUPS: usize = 2;

/// The bucket that all workers write, and whose turn it is.
pub struct Turns<'t, 'w, 'f> {
    state: Mutex<State<'w, 'f>>,
    changed: Condvar,
    file: &'t File,
    most_waiting: usize,
    written: &'t (dyn Fn(u64) + Sync),
    /// Buffers of pages that were written, to be packed into again.
    buffers: Mutex<Vec<Vec<u8>>>,
}

struct State<'w, 'f> {
    bucket: BucketWriter<'w, 'f>,
    /// The group that comes next.
    turn: usize,
    waiting: BTreeMap<usize, Leaves>,
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
        let state = State { bucket, turn: 0, waiting: BTreeMap::new(), failed: false };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            file,
            most_waiting: workers.max(1) * WAITING_GROUPS,
            written,
            buffers: Mutex::new(Vec::new()),
        }
    }

    /// A packer of this bucket's pages.
    pub fn packer(&self) -> Packer {
        let buffer = lock(&self.buffers).pop().unwrap_or_default();
        self.lock().bucket.packer().with_buffer(buffer)
    }

    /// Hands over the last leaves of a group, and writes all whose turn has come.
    pub fn hand_over(&self, group: usize, leaves: Leaves) -> Result<(), WriteError> {
        let mut state = self.lock();
        while state.turn != group && state.waiting.len() >= self.most_waiting && !state.failed {
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        if state.failed {
            // What somebody failed at is the answer, not that leaves without their predecessors are out of order.
            return Ok(());
        }
        state.waiting.insert(group, leaves);
        let mut placed = Vec::new();
        loop {
            let turn = state.turn;
            let Some(leaves) = state.waiting.remove(&turn) else { break };
            placed.push(state.bucket.place(leaves)?);
            state.turn += 1;
        }
        drop(state);
        self.changed.notify_all();
        self.write(placed)
    }

    /// Hands over leaves of a group that goes on, as soon as it is its turn.
    pub fn hand_over_part(&self, group: usize, leaves: Leaves) -> Result<(), WriteError> {
        let mut state = self.lock();
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
        self.lock().failed = true;
        self.changed.notify_all();
    }

    /// The bucket, when all workers are done.
    pub fn into_bucket(self) -> BucketWriter<'w, 'f> {
        self.state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).bucket
    }

    fn write(&self, placed: Vec<Placed>) -> Result<(), WriteError> {
        for pages in placed {
            pages.write(self.file)?;
            (self.written)(pages.bytes().len() as u64);
            let buffer = pages.into_bytes();
            if buffer.capacity() <= KEPT_BYTES {
                lock(&self.buffers).push(buffer);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State<'w, 'f>> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bbolt::write::{Fill, Writer};

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
