//! SHA-256 over a file by those who read it for something else, so that it is not read once more for that.
//!
//! A digest wants its bytes one after the other. Workers have them piece by piece, mostly in the order of the file and never
//! quite: each offers what it has in hand, first when it was read, and leaves it here when it needs it no more. What comes next is
//! hashed, by whoever comes first; what would come later waits, as far as there is room. Where nobody has what comes next, it is
//! read again, so that pieces in any order, or none at all, give the same digest.
//!
//! It does not know what the bytes mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::digest::READ_BYTES;
use super::sha256::Sha256;
use crate::bbolt::buffer::ReadBuffer;
use crate::lock::lock;

/// So much may lie between what is hashed and a piece: pages that none of the workers wants. It is read at once.
const SMALL_GAP_BYTES: u64 = 64 << 10;

/// So much is read again for the sake of pieces that wait, when there is no room for more.
const LARGE_GAP_BYTES: u64 = 16 << 20;

/// Bytes that may wait to be hashed.
const WAITING_BYTES: usize = 2 << 20;

/// So far hashing may lie behind what is due, before the one who notices reads what is missing.
const LAG_BYTES: u64 = 8 << 20;

/// The digest of a file in the making.
pub struct Relay<'r> {
    file: &'r File,
    /// So many bytes of the file are hashed.
    bytes: u64,
    progress: &'r (dyn Fn(u64) + Sync),
    state: Mutex<State>,
    waiting: Mutex<Waiting>,
}

struct State {
    hash: Sha256,
    /// How many bytes are hashed.
    at: u64,
    /// For what has to be read again.
    buffer: ReadBuffer,
    /// Why it cannot go on.
    failed: Option<io::Error>,
}

/// Pieces that nobody needs for anything else any more.
#[derive(Default)]
struct Waiting {
    /// By their places in the file, each with its length.
    pieces: BTreeMap<u64, (ReadBuffer, usize)>,
    bytes: usize,
    /// Buffers that are free.
    free: Vec<ReadBuffer>,
}

impl std::fmt::Debug for Relay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Relay({} bytes)", self.bytes)
    }
}

impl<'r> Relay<'r> {
    /// Nothing of the first `bytes` bytes of a file is hashed yet. `progress` is told what was.
    pub fn new(file: &'r File, bytes: u64, progress: &'r (dyn Fn(u64) + Sync)) -> Self {
        let state = State { hash: Sha256::new(), at: 0, buffer: ReadBuffer::new(), failed: None };
        Self { file, bytes, progress, state: Mutex::new(state), waiting: Mutex::default() }
    }

    /// Does something that has to be done before anybody has a piece to offer. Another thread, where one is idle, reads and hashes meanwhile.
    pub fn beside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = AtomicBool::new(false);
        let work = || {
            let outcome = work();
            done.store(true, Ordering::Relaxed);
            outcome
        };
        rayon::join(work, || self.go_ahead(&done)).0
    }

    fn go_ahead(&self, done: &AtomicBool) {
        let mut state = lock(&self.state);
        while !done.load(Ordering::Relaxed) && state.at < self.bytes && state.failed.is_none() {
            let end = state.at.saturating_add(READ_BYTES as u64);
            self.read_to(&mut state, end);
        }
    }

    /// Offers what stands in the file from `offset` on. Whether it need not be offered again.
    pub fn offer(&self, offset: u64, piece: &[u8]) -> bool {
        self.try_lock().is_some_and(|mut state| self.take(&mut state, (offset, piece)))
    }

    /// Leaves the first `length` bytes of `buffer` here, which stand in the file from `offset` on, and another buffer in its place.
    /// `part` of `whole` of what all workers read was read by now.
    pub fn leave(&self, offset: u64, (buffer, length): (&mut ReadBuffer, usize), progress: (usize, usize)) {
        {
            let mut waiting = lock(&self.waiting);
            if waiting.bytes < WAITING_BYTES {
                let other = waiting.free.pop().unwrap_or_default();
                waiting.bytes += length;
                let before = waiting.pieces.insert(offset, (std::mem::replace(buffer, other), length));
                waiting.bytes -= before.map_or(0, |(_, length)| length);
            } else {
                drop(waiting);
                return self.let_go(offset, buffer.read(0).get(..length).unwrap_or_default(), progress);
            }
        }
        // Who hashes just now looks once more when it has said that it does not any more.
        while let Some(mut state) = self.try_lock() {
            self.take_waiting(&mut state, SMALL_GAP_BYTES);
            let at = state.at;
            drop(state);
            let next = lock(&self.waiting).pieces.first_key_value().map(|(offset, _)| *offset);
            if next.is_none_or(|next| next > at.saturating_add(SMALL_GAP_BYTES)) {
                break;
            }
        }
    }

    /// Offers a piece for the last time. `part` of `whole` of what all workers read was read by now.
    pub fn let_go(&self, offset: u64, piece: &[u8], (part, whole): (usize, usize)) {
        let mut state = lock(&self.state);
        self.take_waiting(&mut state, SMALL_GAP_BYTES);
        if self.take(&mut state, (offset, piece)) {
            return;
        }
        // There is no room, and what comes next somebody has in hand, or nobody will ever have.
        let first = lock(&self.waiting).pieces.first_key_value().map(|(offset, _)| *offset);
        let first = first.map_or(offset, |first| first.min(offset));
        if first <= state.at.saturating_add(LARGE_GAP_BYTES) {
            self.read_to(&mut state, first);
        }
        // Where pieces come in another order than that of the file, it is read in its own.
        let due = u128::from(self.bytes) * part as u128 / whole.max(1) as u128;
        let due = u64::try_from(due).unwrap_or(u64::MAX).min(self.bytes);
        if due > state.at.saturating_add(LAG_BYTES) {
            self.read_to(&mut state, due);
        }
        self.take_waiting(&mut state, SMALL_GAP_BYTES);
        self.take(&mut state, (offset, piece));
    }

    /// The digest, when all that nobody offered in time has been read.
    ///
    /// # Errors
    ///
    /// What could not be read.
    pub fn finish(self) -> io::Result<Sha256> {
        let mut state = lock(&self.state);
        self.take_waiting(&mut state, u64::MAX);
        self.read_to(&mut state, self.bytes);
        match state.failed.take() {
            Some(error) => Err(error),
            None => Ok(state.hash.clone()),
        }
    }

    /// Hashes what waits, as long as no more than `gap` is missing before it.
    fn take_waiting(&self, state: &mut State, gap: u64) {
        loop {
            let (offset, (buffer, length)) = {
                let mut waiting = lock(&self.waiting);
                let limit = state.at.saturating_add(gap);
                let Some(first) = waiting.pieces.first_entry().filter(|first| *first.key() <= limit) else { return };
                let piece = first.remove_entry();
                waiting.bytes -= piece.1.1;
                piece
            };
            self.read_to(state, offset);
            self.take(state, (offset, buffer.read(0).get(..length).unwrap_or_default()));
            lock(&self.waiting).free.push(buffer);
        }
    }

    /// Hashes a piece, if nothing or little is missing before it. Whether it is of no more use.
    fn take(&self, state: &mut State, (offset, piece): (u64, &[u8])) -> bool {
        let end = offset.saturating_add(piece.len() as u64).min(self.bytes);
        if state.at >= end {
            return true;
        }
        if offset > state.at.saturating_add(SMALL_GAP_BYTES) {
            return false;
        }
        self.read_to(state, offset);
        let place = |at: u64| at.checked_sub(offset).and_then(|place| usize::try_from(place).ok());
        let new = place(state.at).zip(place(end)).and_then(|(known, end)| piece.get(known..end));
        if let Some(new) = new.filter(|_| state.failed.is_none()) {
            state.hash.update(new);
            state.at = end;
            (self.progress)(new.len() as u64);
        }
        true
    }

    /// Reads and hashes what comes next, up to `end`, or to the end of what is hashed.
    fn read_to(&self, state: &mut State, end: u64) {
        let end = end.min(self.bytes);
        while state.at < end && state.failed.is_none() {
            let length = usize::try_from(end - state.at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            let piece = state.buffer.room(length);
            match self.file.read_exact_at(piece, state.at) {
                Ok(()) => {
                    state.hash.update(&*piece);
                    state.at += length as u64;
                    (self.progress)(length as u64);
                }
                Err(error) => state.failed = Some(error),
            }
        }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;

    /// A file of bytes that differ from one place to the next.
    fn file(bytes: usize) -> (File, Vec<u8>) {
        let content: Vec<u8> = (0..bytes as u64).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        (file, content)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_in_any_order_give_the_digest_of_the_file(
            pieces in proptest::collection::vec((0_usize..12 << 20, 0_usize..600_000, any::<bool>()), 0..60),
            sorted: bool,
        ) {
            let length = 12 << 20;
            let (file, content) = file(length);
            let mut pieces = pieces;
            if sorted {
                pieces.sort_unstable();
            }
            let told = AtomicU64::new(0);
            let progress = |bytes| {
                told.fetch_add(bytes, Ordering::Relaxed);
            };
            let relay = Relay::new(&file, length as u64, &progress);
            let whole = pieces.len();
            for (part, (offset, bytes, twice)) in pieces.into_iter().enumerate() {
                let piece = &content[offset..length.min(offset + bytes)];
                if !twice || !relay.offer(offset as u64, piece) {
                    let mut buffer = ReadBuffer::new();
                    buffer.room(piece.len()).copy_from_slice(piece);
                    match bytes % 3 {
                        0 => relay.let_go(offset as u64, piece, (part, whole)),
                        _ => relay.leave(offset as u64, (&mut buffer, piece.len()), (part, whole)),
                    }
                }
            }
            prop_assert_eq!(relay.finish().unwrap().finalize(), Sha256::of(&content));
            prop_assert_eq!(told.into_inner(), length as u64);
        }
    }

    #[test]
    fn what_is_offered_in_order_is_not_read_again() {
        let (_, content) = file(1 << 20);
        // Nothing can be read of this one.
        let empty = tempfile::tempfile().unwrap();
        let relay = Relay::new(&empty, content.len() as u64 - 7, &|_| ());
        for (number, piece) in content.chunks(100_000).enumerate() {
            assert!(relay.offer(number as u64 * 100_000, piece));
        }
        assert_eq!(relay.finish().unwrap().finalize(), Sha256::of(&content[..content.len() - 7]));
        // What stands behind the end is none of its business.
        let relay = Relay::new(&empty, 5, &|_| ());
        assert!(relay.offer(0, &content[..4]));
        relay.let_go(9, &content[9..20], (1, 1));
        assert!(relay.offer(4, &content[4..9]));
        assert!(relay.finish().is_err());
        let relay = Relay::new(&empty, 9, &|_| ());
        relay.let_go(3, &content[3..9], (1, 1));
        assert!(relay.finish().is_err());
    }

    #[test]
    fn who_goes_ahead_stops_when_it_is_told_to_and_at_the_end() {
        let (file, content) = file(1 << 20);
        for done in [true, false] {
            let told = AtomicU64::new(0);
            let progress = |bytes| {
                told.fetch_add(bytes, Ordering::Relaxed);
            };
            let relay = Relay::new(&file, content.len() as u64, &progress);
            relay.go_ahead(&AtomicBool::new(done));
            assert_eq!(told.load(Ordering::Relaxed), if done { 0 } else { content.len() as u64 });
            assert!(relay.offer(0, &content));
            assert_eq!(relay.finish().unwrap().finalize(), Sha256::of(&content));
        }
    }

    #[test]
    fn several_threads_have_one_digest() {
        let (file, content) = file(32 << 20);
        let relay = Relay::new(&file, content.len() as u64, &|_| ());
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut buffer = ReadBuffer::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                        let Some(piece) = content.chunks(200_000).nth(number) else { return };
                        let offset = number as u64 * 200_000;
                        buffer.room(piece.len()).copy_from_slice(piece);
                        if !relay.offer(offset, piece) {
                            relay.leave(offset, (&mut buffer, piece.len()), (number, content.len() / 200_000));
                        }
                    }
                });
            }
        });
        assert_eq!(relay.finish().unwrap().finalize(), Sha256::of(&content));
    }
}
