//! What every record leaves behind, so that its place among the records of its key can be told at the end.
//!
//! The store is in the order of revisions, read in the order of the file, by several workers: which record is the
//! newest of its key shows only when all were seen. So each leaves a trace of 24 bytes: a digest of its key, its place,
//! and a tag that the reader chose. Traces are settled by sorting them, partition by partition. Of many records most of them lie in
//! a file, so that memory does not grow with the records ([`shelf`](super::shelf)).
//!
//! The digest has 128 bits under a key drawn anew for each run, so nobody can prepare a store in which two keys meet.

use std::fmt;
use std::hash::Hasher;
use std::sync::{Arc, Mutex};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::lock::{into_inner, lock};

use super::Place;
use super::shelf::{Away, Shelf, ShelfError};

/// Tags are smaller than this.
pub const TAGS: u32 = 1 << 20;

/// Traces are settled in so many partitions, so that sorting stays in the processor's cache.
const PARTITIONS: usize = 64;

/// Traces of a partition's first block. The next ones are twice as large each, up to [`LARGEST_BLOCK`]: growing in blocks means that
/// no doubling ever holds twice the memory, and what is not used of the last one was never touched.
const FIRST_BLOCK: usize = 64;

/// Traces of a block at most.
const LARGEST_BLOCK: usize = 4096;

const INDEX_BITS: u32 = 16;
const TAG_BITS: u32 = 20;

/// The key under which keys are digested; one for each run.
#[derive(Clone, Copy)]
pub struct TraceKey(SipHasher13);

impl fmt::Debug for TraceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TraceKey")
    }
}

impl TraceKey {
    /// A key nobody knows.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = [0; 16];
        getrandom::fill(&mut key)?;
        Ok(Self(SipHasher13::new_with_key(&key)))
    }

    /// The digest of a key.
    pub fn digest(&self, key: &[u8]) -> u128 {
        let mut hasher = self.0;
        hasher.write(key);
        hasher.finish128().as_u128()
    }

    /// The digest of a key together with its value.
    pub fn digest_of(&self, key: &[u8], value: &[u8]) -> u128 {
        let mut hasher = self.0;
        hasher.write_usize(key.len());
        hasher.write(key);
        hasher.write(value);
        hasher.finish128().as_u128()
    }
}

/// What a record leaves behind. Traces order by key, then by revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace {
    high: u64,
    low: u64,
    mark: Mark,
}

/// A trace without its key: the leaf's ordinal, the index on it, the tag. Marks order by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

impl Mark {
    fn new(place: Place, tag: u32) -> Self {
        let leaf = u64::from(place.leaf) << (INDEX_BITS + TAG_BITS);
        Self(leaf | u64::from(place.index) << TAG_BITS | u64::from(tag.min(TAGS - 1)))
    }

    /// Where the record stands.
    pub fn place(self) -> Place {
        Place { leaf: (self.0 >> (INDEX_BITS + TAG_BITS)) as u32, index: (self.0 >> TAG_BITS) as u16 }
    }

    /// What the reader said of it.
    pub fn tag(self) -> u32 {
        self.0 as u32 & (TAGS - 1)
    }
}

impl Trace {
    fn new(digest: u128, place: Place, tag: u32) -> Self {
        Self { high: (digest >> 64) as u64, low: digest as u64, mark: Mark::new(place, tag) }
    }

    /// As three numbers.
    fn words(&self) -> [u64; 3] {
        [self.high, self.low, self.mark.0]
    }

    /// What gave these [`words`](Self::words).
    fn from_words([high, low, mark]: [u64; 3]) -> Self {
        Self { high, low, mark: Mark(mark) }
    }

    /// Place and tag.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Where the record stands.
    pub fn place(&self) -> Place {
        self.mark.place()
    }

    /// What the reader said of it.
    pub fn tag(&self) -> u32 {
        self.mark.tag()
    }

    fn same_key(&self, other: &Self) -> bool {
        (self.high, self.low) == (other.high, other.low)
    }
}

/// What all workers of a pass have in common: the key of their digests, and the file for what is too much for memory.
#[derive(Clone, Debug)]
pub struct TraceRoom {
    key: TraceKey,
    shelf: Arc<Shelf>,
}

impl TraceRoom {
    /// Nothing is in it yet.
    pub fn new(key: TraceKey) -> Self {
        Self { key, shelf: Arc::default() }
    }

    /// The same under a key that nobody knows.
    pub fn random() -> Result<Self, getrandom::Error> {
        TraceKey::random().map(Self::new)
    }

    /// For one worker; there are none yet.
    pub fn traces(&self) -> Traces {
        let partitions = (0..PARTITIONS).map(|_| Partition::default()).collect();
        Traces { room: self.clone(), partitions }
    }
}

/// The traces that one worker gathers.
pub struct Traces {
    room: TraceRoom,
    partitions: Vec<Partition>,
}

/// The traces of keys whose digests begin with the same bits.
#[derive(Default)]
struct Partition {
    blocks: Vec<Vec<Trace>>,
    away: Away,
}

impl Traces {
    /// Leaves a trace of a record of `key`. Tags of [`TAGS`] and more count as the greatest one.
    /// Gives the key's digest.
    pub fn leave(&mut self, key: &[u8], place: Place, tag: u32) -> u128 {
        let digest = self.room.key.digest(key);
        let trace = Trace::new(digest, place, tag);
        let Some(partition) = self.partitions.get_mut((trace.high >> 58) as usize) else { return digest };
        match partition.blocks.last_mut() {
            Some(block) if block.len() < block.capacity() => block.push(trace),
            Some(block) if partition.away.put(&self.room.shelf, block.iter().map(Trace::words)) => {
                block.clear();
                block.push(trace);
            }
            last => {
                let size = last.map_or(FIRST_BLOCK, |last| (last.len() * 2).min(LARGEST_BLOCK));
                let mut block = Vec::with_capacity(size);
                block.push(trace);
                partition.blocks.push(block);
            }
        }
        digest
    }
}

/// Puts the workers' traces together and gives each key's records, oldest first, to `visit`.
///
/// The partitions are settled in parallel, each into an accumulator of its own, in no particular order of keys.
///
/// # Errors
///
/// What lies on the shelf cannot be read back.
pub fn settle<A: Send>(
    workers: Vec<Traces>,
    new: impl Fn() -> A + Sync,
    visit: impl Fn(&mut A, &[Trace]) + Sync,
) -> Result<Vec<A>, ShelfError> {
    let mut partitions: Vec<Vec<(Partition, Arc<Shelf>)>> = (0..PARTITIONS).map(|_| Vec::new()).collect();
    for Traces { room, partitions: own } in workers {
        for (all, own) in partitions.iter_mut().zip(own) {
            all.push((own, room.shelf.clone()));
        }
    }
    let settle_one = |traces: &mut Vec<Trace>, parts: Vec<(Partition, Arc<Shelf>)>| {
        traces.clear();
        for (Partition { blocks, away }, shelf) in parts {
            blocks.into_iter().for_each(|block| traces.extend_from_slice(&block));
            away.take(&shelf, |words| traces.push(Trace::from_words(words)))?;
        }
        sort(traces);
        let mut settled = new();
        traces.chunk_by(Trace::same_key).for_each(|records| visit(&mut settled, records));
        Ok(settled)
    };
    // Each thread uses its room again: memory that was never touched before costs more than sorting what is put there.
    let (partitions, settled) = (Mutex::new(partitions), Mutex::new(Vec::with_capacity(PARTITIONS)));
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads().min(PARTITIONS) {
            scope.spawn(|_| {
                let mut room = Vec::new();
                while let Some(parts) = { lock(&partitions).pop() } {
                    let one = settle_one(&mut room, parts);
                    lock(&settled).push(one);
                }
            });
        }
    });
    into_inner(settled).into_iter().collect()
}

/// Sorts by key, then by place. By a single number first, since few traces share one, and numbers sort fastest.
fn sort(traces: &mut [Trace]) {
    traces.sort_unstable_by_key(|trace| trace.high);
    for alike in traces.chunk_by_mut(|one, next| one.high == next.high).filter(|alike| alike.len() > 1) {
        alike.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_alike_in_half_their_digest_are_told_apart() {
        let trace = |low: u128, leaf| Trace::new((7 << 64) | low, Place { leaf, index: 0 }, 0);
        let mut traces = vec![trace(2, 1), trace(1, 2), trace(2, 0), trace(1, 1)];
        traces.push(Trace::new(3 << 64, Place { leaf: 9, index: 0 }, 0));
        sort(&mut traces);
        assert!(traces.is_sorted());
    }

    #[test]
    fn records_come_back_by_key_in_the_order_of_their_places() {
        let room = TraceRoom::random().unwrap();
        let mut workers = [room.traces(), room.traces()];
        for leaf in (0..3000_u32).rev() {
            let name = format!("/registry/{}", leaf % 7);
            workers[leaf as usize % 2].leave(name.as_bytes(), Place { leaf, index: 3 }, leaf % 7);
        }
        let groups = settle(workers.into(), Vec::new, |groups, records| groups.push(records.to_vec()));
        let groups: Vec<_> = groups.unwrap().into_iter().flatten().collect();
        assert_eq!(groups.len(), 7);
        for group in groups {
            assert!(group.is_sorted_by_key(Trace::place));
            assert!(group.iter().all(|trace| trace.tag() == group[0].tag() && trace.place().leaf % 7 == trace.tag()));
        }
    }

    /// Three records of each of 20,000 keys, by two workers.
    fn many(room: &TraceRoom) -> Vec<Traces> {
        let mut workers = [room.traces(), room.traces()];
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
        let room = |records| TraceRoom { key, shelf: Arc::new(Shelf::beyond(records)) };
        let most_blocks = |traces: &[Traces]| {
            traces.iter().flat_map(|traces| &traces.partitions).map(|partition| partition.blocks.len()).max()
        };
        let stayed = many(&room(usize::MAX));
        assert!(most_blocks(&stayed) > Some(2));
        let expected = settled(stayed).unwrap();
        assert_eq!(expected.iter().map(Vec::len).collect::<Vec<_>>(), vec![3; 20_000]);
        for records in [0, 10_000] {
            let traces = many(&room(records));
            assert!(records > 0 || most_blocks(&traces) == Some(1));
            assert_eq!(settled(traces).unwrap(), expected);
        }
    }

    #[test]
    fn a_trace_takes_24_bytes_and_keeps_its_extremes() {
        assert_eq!(size_of::<Trace>(), 24);
        let place = Place { leaf: (1 << 28) - 1, index: u16::MAX };
        let trace = Trace::new(u128::MAX, place, TAGS - 1);
        assert_eq!((trace.place(), trace.tag()), (place, TAGS - 1));
    }
}
