//! Which records a compaction at the current revision would leave: of each key the newest, if it is no deletion; and the
//! deletions of the current revision itself, as etcd keeps them since 3.4.34, 3.5.16 and 3.6.
//!
//! Upstream: `etcd-io/etcd` `server/storage/mvcc/{index,kvstore_compaction}.go`.

use crate::etcd::meta::StoreMeta;
use crate::source::scan::Visitor;
use crate::source::shelf::ShelfError;
use crate::source::snapshot::{PassOptions, ReadError};
use crate::source::trace::{Trace, TraceRoom, Traces, settle};
use crate::source::{Place, Record, Store};

/// The tag of a put.
const PUT: u32 = 0;
/// The tag of a deletion.
const DELETION: u32 = 1;
/// The tag of a deletion at the current revision.
const LAST_DELETION: u32 = 2;

/// The places of the records that stay.
#[derive(Debug)]
pub struct Kept {
    /// In order.
    places: Vec<Place>,
    /// The main revision at which the store is as if it had been compacted.
    pub revision: i64,
}

impl Kept {
    /// Finds them, in a pass over the file. `highest` is the main revision of its last record.
    pub fn find(
        store: &mut Store,
        meta: &StoreMeta,
        highest: Option<i64>,
        pass: PassOptions<'_>,
    ) -> Result<Self, KeepError> {
        let revision = meta.current_revision(highest);
        let room = TraceRoom::random()?;
        let pass = PassOptions { digest: false, ..pass };
        let worker = |_: &()| Worker { traces: room.traces(), revision };
        let workers = store.pass(pass, |_| (), worker)?.visitors;
        let traces = workers.into_iter().map(|worker| worker.traces).collect();
        let mut places: Vec<_> = settle(traces, Vec::new, keep)?.into_iter().flatten().collect();
        places.sort_unstable();
        Ok(Self { places, revision })
    }

    /// Whether a record stays.
    pub fn has(&self, place: Place) -> bool {
        self.places.binary_search(&place).is_ok()
    }

    /// Those on a leaf.
    pub fn on(&self, leaf: usize) -> &[Place] {
        let leaf = u32::try_from(leaf).unwrap_or(u32::MAX);
        let start = self.places.partition_point(|place| place.leaf < leaf);
        let end = self.places.partition_point(|place| place.leaf <= leaf);
        self.places.get(start..end).unwrap_or_default()
    }
}

/// Why it is not known what would stay.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// What each record left cannot be read back.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

fn keep(places: &mut Vec<Place>, records: &[Trace]) {
    let newest = records.last().filter(|record| record.tag() != DELETION);
    places.extend(newest.map(Trace::place));
}

struct Worker {
    traces: Traces,
    revision: i64,
}

impl Visitor for Worker {
    fn record(&mut self, record: &Record<'_>) {
        let tag = match record.revision.tombstone {
            true if record.revision.revision.main == self.revision => LAST_DELETION,
            true => DELETION,
            false => PUT,
        };
        self.traces.leave(record.kv.key, record.place, tag);
    }
}
