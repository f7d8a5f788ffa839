//! Records that one reader brings, handed to several workers in batches.
//!
//! A page file is read by its workers themselves ([`super::scan`]). What comes through one cursor or one connection cannot
//! be: whoever reads it fills batches, and each worker gives the records in the next one to a visitor of its own. A batch
//! owns its bytes, and only a few are under way at a time, so memory is bounded whatever the store.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::etcd::{KeyValue, Revision, RevisionKey};
use crate::lock::{into_inner, lock};

use super::residue::Stray;
use super::scan::Visitor;
use super::{Place, Record};

/// A batch is handed over when its keys and values have so many bytes. A single record may be larger.
const BATCH_BYTES: usize = 256 << 10;

/// Batches that wait for a worker.
const WAITING: usize = 8;

/// Some records with their bytes.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    kind: Kind,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: i64,
    key: Range<usize>,
    value: Range<usize>,
}

#[derive(Debug)]
enum Kind {
    Record(Place, RevisionKey),
    Stray(Revision, u64),
}

impl Batch {
    /// Adds a record.
    pub fn push(&mut self, record: &Record<'_>) {
        self.add(Kind::Record(record.place, record.revision), &record.kv);
    }

    /// Adds a record that is not in the store any more.
    pub fn push_stray(&mut self, stray: &Stray<'_>) {
        self.add(Kind::Stray(stray.revision, stray.at), &stray.kv);
    }

    fn add(&mut self, kind: Kind, kv: &KeyValue<'_>) {
        let KeyValue { key, value, create_revision, mod_revision, version, lease } = *kv;
        let (key, value) = (self.store(key), self.store(value));
        self.items.push(Item { kind, create_revision, mod_revision, version, lease, key, value });
    }

    fn store(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Whether it is time to hand it over.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Gives what is in it to a visitor.
    fn visit(&self, visitor: &mut impl Visitor) {
        for item in &self.items {
            let bytes = |range: &Range<usize>| self.bytes.get(range.clone()).unwrap_or_default();
            let kv = KeyValue {
                key: bytes(&item.key),
                value: bytes(&item.value),
                create_revision: item.create_revision,
                mod_revision: item.mod_revision,
                version: item.version,
                lease: item.lease,
            };
            match item.kind {
                Kind::Record(place, revision) => visitor.record(&Record { place, revision, kv }),
                Kind::Stray(revision, at) => visitor.stray(&Stray { revision, kv, at }),
            }
        }
    }
}

/// Where the reader puts its records.
#[derive(Debug)]
pub struct Feeder {
    batch: Batch,
    batches: SyncSender<Batch>,
}

impl Feeder {
    /// Hands a record over, at once or with the next ones.
    pub fn record(&mut self, record: &Record<'_>) {
        self.batch.push(record);
        self.hand_over_if(self.batch.is_full());
    }

    /// Hands over a record that is not in the store any more.
    pub fn stray(&mut self, stray: &Stray<'_>) {
        self.batch.push_stray(stray);
        self.hand_over_if(self.batch.is_full());
    }

    /// Hands over a batch that was filled elsewhere.
    pub fn batch(&mut self, batch: Batch) {
        self.hand_over_if(!self.batch.is_empty());
        self.send(batch);
    }

    fn hand_over_if(&mut self, now: bool) {
        if now {
            let batch = std::mem::take(&mut self.batch);
            self.send(batch);
        }
    }

    fn send(&self, batch: Batch) {
        // Only a worker that panicked listens no more, and that is noticed when it is waited for.
        let _ = self.batches.send(batch);
    }
}

/// Lets `read` bring records, and workers with a visitor each take them; gives what `read` returned, and the visitors.
///
/// `threads` counts the workers; 0 = as many as there are processors.
pub fn feed<V: Visitor, T>(
    threads: usize,
    visitor: impl Fn() -> V + Sync,
    read: impl FnOnce(&mut Feeder) -> T,
) -> (T, Vec<V>) {
    let workers = match threads {
        0 => thread::available_parallelism().map_or(1, |threads| threads.get()),
        threads => threads,
    };
    let (batches, waiting) = sync_channel(WAITING);
    let waiting = Mutex::new(waiting);
    let done = Mutex::new(Vec::with_capacity(workers));
    let outcome = thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut own = visitor();
                while let Some(batch) = next(&waiting) {
                    batch.visit(&mut own);
                }
                own.end();
                lock(&done).push(own);
            });
        }
        let mut feeder = Feeder { batch: Batch::default(), batches };
        let outcome = read(&mut feeder);
        feeder.hand_over_if(!feeder.batch.is_empty());
        outcome
    });
    (outcome, into_inner(done))
}

fn next(waiting: &Mutex<Receiver<Batch>>) -> Option<Batch> {
    lock(waiting).recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen {
        records: Vec<(Place, Vec<u8>, Vec<u8>)>,
        strays: Vec<(i64, u64)>,
        ended: bool,
    }

    impl Visitor for Seen {
        const STRAYS: bool = true;

        fn record(&mut self, record: &Record<'_>) {
            self.records.push((record.place, record.kv.key.to_vec(), record.kv.value.to_vec()));
        }

        fn stray(&mut self, stray: &Stray<'_>) {
            self.strays.push((stray.revision.main, stray.at));
        }

        fn end(&mut self) {
            self.ended = true;
        }
    }

    #[test]
    fn every_record_comes_to_one_worker() {
        for threads in [1, 3] {
            let value = vec![7; 10_000];
            let (count, seen) = feed(threads, Seen::default, |feeder| {
                for number in 0..500_u32 {
                    let key = format!("/registry/secrets/a/{number}").into_bytes();
                    let main = i64::from(number) + 2;
                    let revision = RevisionKey { revision: Revision { main, sub: 0 }, tombstone: false };
                    let place = Place { leaf: number, index: 1 };
                    let kv = KeyValue {
                        key: &key,
                        value: &value,
                        create_revision: main,
                        mod_revision: main,
                        version: 1,
                        lease: 0,
                    };
                    feeder.record(&Record { place, revision, kv });
                    feeder.stray(&Stray { revision: revision.revision, kv, at: u64::from(number) });
                }
                500
            });
            assert!(seen.iter().all(|worker| worker.ended) && seen.len() == threads);
            let mut records: Vec<_> = seen.iter().flat_map(|worker| &worker.records).collect();
            records.sort();
            assert_eq!(records.len(), count);
            for (number, (place, key, stored)) in (0_u32..).zip(records) {
                assert_eq!(place.leaf, number);
                assert_eq!(*key, format!("/registry/secrets/a/{number}").into_bytes());
                assert_eq!(*stored, value);
            }
            let mut strays: Vec<_> = seen.iter().flat_map(|worker| &worker.strays).copied().collect();
            strays.sort_unstable();
            assert!(strays.into_iter().eq((0..500).map(|number| (number + 2, number as u64))));
        }
    }
}
