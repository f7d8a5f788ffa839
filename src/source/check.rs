//! Is the file whole? Every fault, the digests, and the figures that etcd's own tools print for the same file.

use rayon::prelude::*;

use crate::bbolt::Fault;
use crate::bbolt::page::LeafElement;
use crate::etcd::hash::{Crc, HashKvView};
use crate::etcd::schema;

use super::datadir::replay::Replay;
use super::datadir::{DataDir, LogFacts};
use super::digest::Digests;
use super::scan::Visitor;
use super::shelf::ShelfError;
use super::snapshot::{Pass, PassOptions, ReadError, Snapshot};
use super::trace::{Trace, TraceRoom, Traces, settle};
use super::{Place, Record};

/// Everything that can be said of a file without knowing what its values mean.
#[derive(Debug)]
pub struct Report {
    /// CRC-32C as `etcdutl snapshot status` prints it.
    pub hash: u32,
    /// The main revision of the last record; 0 where there is none.
    pub revision: i64,
    /// Keys that are not deleted.
    pub total_key: u64,
    /// Bytes up to the high-water mark.
    pub total_size: u64,
    /// The storage version as etcd notes it; empty before 3.6.
    pub version: String,
    /// The release that wrote the file, told by what it notes about itself.
    pub written_by: Option<String>,
    /// The revision of the last compaction.
    pub compacted: Option<i64>,
    /// The record of a running downgrade.
    pub downgrade: Option<String>,
    /// Digests of the file; none where they were not asked for.
    pub digests: Option<Digests>,
    /// The file is a snapshot whose appended digest was cut off.
    pub lost_its_trailer: bool,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages up to the high-water mark.
    pub pages: u64,
    /// Pages up to the high-water mark that nothing reaches.
    pub free_pages: u64,
    /// The first faults by place.
    pub faults: Vec<Fault>,
    /// How many faults there are.
    pub fault_count: u64,
    /// Somebody wrote to the file during every try.
    pub unsteady: bool,
    /// The key-value hash, where it was asked for.
    pub hash_kv: Option<HashKv>,
    /// What is known of the log beside a database, where that was read. The key-value hash and the compaction are those of a server
    /// that applied it; all other figures are the database's.
    pub log: Option<LogFacts>,
}

/// What can be checked: pages, and perhaps a log beside them.
pub trait Checkable {
    /// Reads everything once; gives what only the log has, where there is one.
    fn pass_over<V: Visitor>(
        &mut self,
        options: PassOptions<'_>,
        visitor: impl Fn() -> V + Sync,
    ) -> Result<(Pass<V>, Option<Replay>), ReadError>;

    /// The pages.
    fn snapshot(&self) -> &Snapshot;
}

impl Checkable for Snapshot {
    fn pass_over<V: Visitor>(
        &mut self,
        options: PassOptions<'_>,
        visitor: impl Fn() -> V + Sync,
    ) -> Result<(Pass<V>, Option<Replay>), ReadError> {
        Ok((self.pass(options, |_, _| (), |()| visitor())?, None))
    }

    fn snapshot(&self) -> &Snapshot {
        self
    }
}

impl Checkable for DataDir {
    fn pass_over<V: Visitor>(
        &mut self,
        options: PassOptions<'_>,
        visitor: impl Fn() -> V + Sync,
    ) -> Result<(Pass<V>, Option<Replay>), ReadError> {
        let (pass, replay) = self.pass(options, |_| (), |()| visitor())?;
        Ok((pass, Some(replay)))
    }

    fn snapshot(&self) -> &Snapshot {
        self.database()
    }
}

/// The key-value hash at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C as `etcdctl endpoint hashkv` prints it.
    pub hash: u32,
    /// At which revision.
    pub revision: i64,
    /// The revision of the compaction that it takes into account; -1 where there was none.
    pub compacted: i64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file cannot be read at all.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// What each record left cannot be read back.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// The revision was asked for but is gone.
    #[error("revision {asked} was compacted away; the oldest that can be asked for is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: i64,
        /// The compaction's revision.
        oldest: i64,
    },
    /// The revision was asked for but is not reached yet.
    #[error("revision {asked} is in the future; the store is at {current}")]
    Future {
        /// What was asked for.
        asked: i64,
        /// The store's revision.
        current: i64,
    },
}

/// Which key-value hash is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKvAt {
    /// None.
    Not,
    /// At the store's revision.
    Current,
    /// At this revision.
    Revision(i64),
}

/// Reads the whole file and checks it. With a key-value hash its records are read a second time.
pub fn check(store: &mut impl Checkable, options: PassOptions<'_>, hash_kv: HashKvAt) -> Result<Report, CheckError> {
    let room = TraceRoom::random()?;
    let (mut pass, replay) = store.pass_over(options, || Counter::new(room.traces()))?;
    // What only the log has is in none of the figures that etcdutl prints for the database.
    let end = replay.as_ref().map_or(u32::MAX, Replay::first_leaf);
    let segments = pass.visitors.iter_mut().flat_map(|counter| std::mem::take(&mut counter.crc.done));
    let hash = pass.outline.snapshot_hash(join(segments.filter(|segment| segment.first < end).collect()));
    let last = pass.visitors.iter().filter_map(|counter| counter.last).max();
    let log = replay.map(|replay| replay.facts().clone());
    let revision = log.as_ref().map_or(last.map_or(0, |(_, main)| main), |log| log.last_in_database);
    let traces: Vec<_> = pass.visitors.drain(..).map(|counter| counter.traces).collect();
    let current = pass.outline.meta.current_revision(last.map(|(_, main)| main));
    let view = view(hash_kv, current, pass.outline.meta.compacted())?;
    let (total_key, hash_kv) = match view {
        None => (live_keys(traces, end)?, None),
        Some(view) => {
            let (total_key, kept) = live_and_kept(traces, &records_up_to(store, options, view)?, end)?;
            (total_key, Some(hash_kv_of(store, options, view, &kept)?))
        }
    };
    Ok(report(store.snapshot(), pass, Figures { hash, revision, total_key, hash_kv, log }))
}

struct Figures {
    hash: u32,
    revision: i64,
    total_key: u64,
    hash_kv: Option<HashKv>,
    log: Option<LogFacts>,
}

fn report(snapshot: &Snapshot, pass: Pass<Counter>, figures: Figures) -> Report {
    let meta = pass.outline.meta;
    let pages = snapshot.pages();
    let fault_count = pass.faults.total();
    Report {
        hash: figures.hash,
        revision: figures.revision,
        total_key: figures.total_key,
        total_size: pages.used_bytes(),
        written_by: meta.written_by(),
        compacted: meta.compacted(),
        version: meta.storage_version.unwrap_or_default(),
        downgrade: meta.downgrade,
        digests: pass.digests,
        lost_its_trailer: snapshot.lost_its_trailer(),
        page_size: pages.page_size(),
        pages: pages.meta().high_water_mark,
        free_pages: pass.free_pages,
        faults: pass.faults.into_sorted(),
        fault_count,
        unsteady: pass.unsteady,
        hash_kv: figures.hash_kv,
        log: figures.log,
    }
}

fn view(asked: HashKvAt, current: i64, compacted: Option<i64>) -> Result<Option<HashKvView>, CheckError> {
    let at = match asked {
        HashKvAt::Not => return Ok(None),
        HashKvAt::Current => current,
        HashKvAt::Revision(asked) if asked > current => return Err(CheckError::Future { asked, current }),
        HashKvAt::Revision(asked) => match compacted {
            Some(oldest) if asked < oldest => return Err(CheckError::Compacted { asked, oldest }),
            _ => asked,
        },
    };
    Ok(Some(HashKvView { at, compacted }))
}

/// Whether the record of a trace is a tombstone.
const TOMBSTONE: u32 = 1;

/// Counts keys and sums up checksums.
struct Counter {
    traces: Traces,
    crc: Segments,
    /// The last record and its main revision.
    last: Option<(Place, i64)>,
}

impl Counter {
    fn new(traces: Traces) -> Self {
        Self { traces, crc: Segments::default(), last: None }
    }
}

impl Visitor for Counter {
    fn pair(&mut self, place: Place, element: &LeafElement<'_>) {
        self.crc.add(place.leaf, element);
    }

    fn record(&mut self, record: &Record<'_>) {
        let tag = if record.revision.tombstone { TOMBSTONE } else { 0 };
        self.traces.leave(record.kv.key, record.place, tag);
        self.last = self.last.max(Some((record.place, record.revision.revision.main)));
    }
}

/// Checksums over runs of neighbouring leaves.
#[derive(Default)]
struct Segments {
    done: Vec<Segment>,
}

#[derive(Clone, Copy)]
struct Segment {
    first: u32,
    last: u32,
    crc: Crc,
}

impl Segments {
    fn add(&mut self, leaf: u32, element: &LeafElement<'_>) {
        // A nested bucket counts with its key alone, as for bbolt's cursor it has no value.
        let value = if element.is_bucket { &[][..] } else { element.value };
        match self.done.last_mut() {
            Some(segment) if segment.last == leaf || segment.last + 1 == leaf => {
                segment.last = leaf;
                segment.crc.add(element.key);
                segment.crc.add(value);
            }
            _ => {
                let mut crc = Crc::of(element.key);
                crc.add(value);
                self.done.push(Segment { first: leaf, last: leaf, crc });
            }
        }
    }
}

fn join(mut segments: Vec<Segment>) -> Crc {
    segments.par_sort_unstable_by_key(|segment| segment.first);
    let mut whole = Crc::default();
    segments.iter().for_each(|segment| whole.join(segment.crc));
    whole
}

/// Keys that live by what stands before a leaf.
fn live_keys(traces: Vec<Traces>, end: u32) -> Result<u64, ShelfError> {
    let count = |count: &mut u64, records: &[Trace]| *count += u64::from(is_live(newest_before(records, end)));
    Ok(settle(traces, || 0, count)?.into_iter().sum())
}

fn newest_before(records: &[Trace], end: u32) -> Option<&Trace> {
    records.iter().rfind(|trace| trace.place().leaf < end)
}

fn is_live(newest: Option<&Trace>) -> bool {
    newest.is_some_and(|trace| trace.tag() != TOMBSTONE)
}

/// Where the records end that were written at or before a revision.
struct UpTo {
    at: Option<Place>,
    compacted: Option<Place>,
}

/// The keys that live now, and the places of what was live at the view's revision and is as old as the compaction.
fn live_and_kept(traces: Vec<Traces>, up_to: &UpTo, end: u32) -> Result<(u64, Kept), ShelfError> {
    let parts = settle(
        traces,
        || (0_u64, Vec::new(), false),
        |(live, kept, any), records| {
            *live += u64::from(is_live(newest_before(records, end)));
            let newest = records.iter().rfind(|trace| Some(trace.place()) <= up_to.at);
            if is_live(newest) {
                *any = true;
                kept.extend(newest.map(Trace::place).filter(|place| Some(*place) <= up_to.compacted));
            }
        },
    )?;
    let mut kept = Kept { places: Vec::new(), any: false };
    let mut total = 0;
    for (live, places, any) in parts {
        total += live;
        kept.places.extend(places);
        kept.any |= any;
    }
    kept.places.par_sort_unstable();
    Ok((total, kept))
}

/// What keys have at a revision: the places of those records that a compaction would have touched.
struct Kept {
    places: Vec<Place>,
    any: bool,
}

/// Finds the last record at or before the view's revisions.
fn records_up_to(store: &mut impl Checkable, options: PassOptions<'_>, view: HashKvView) -> Result<UpTo, ReadError> {
    let options = PassOptions { digest: false, ..options };
    let (pass, _) = store.pass_over(options, || Boundary { view, at: None, compacted: None })?;
    let mut up_to = UpTo { at: None, compacted: None };
    for boundary in pass.visitors {
        up_to.at = up_to.at.max(boundary.at);
        up_to.compacted = up_to.compacted.max(boundary.compacted);
    }
    Ok(up_to)
}

struct Boundary {
    view: HashKvView,
    at: Option<Place>,
    compacted: Option<Place>,
}

impl Visitor for Boundary {
    fn record(&mut self, record: &Record<'_>) {
        let main = record.revision.revision.main;
        if main <= self.view.at {
            self.at = self.at.max(Some(record.place));
        }
        if Some(main) <= self.view.compacted {
            self.compacted = self.compacted.max(Some(record.place));
        }
    }
}

fn hash_kv_of(
    store: &mut impl Checkable,
    options: PassOptions<'_>,
    view: HashKvView,
    kept: &Kept,
) -> Result<HashKv, ReadError> {
    let options = PassOptions { digest: false, ..options };
    let (pass, _) = store.pass_over(options, || Hasher { view, kept, crc: Segments::default() })?;
    let segments = pass.visitors.into_iter().flat_map(|hasher| hasher.crc.done);
    let mut hash = Crc::of(schema::KEY);
    hash.join(join(segments.collect()));
    Ok(HashKv { hash: hash.value, revision: view.at, compacted: view.compacted.unwrap_or(-1) })
}

struct Hasher<'k> {
    view: HashKvView,
    kept: &'k Kept,
    crc: Segments,
}

impl Visitor for Hasher<'_> {
    fn pair(&mut self, place: Place, element: &LeafElement<'_>) {
        let Some(key) = crate::etcd::RevisionKey::decode(element.key) else { return };
        let main = key.revision.main;
        let kept = || self.kept.places.binary_search(&place).is_ok();
        if self.view.hashes(main, key.tombstone, kept(), self.kept.any) {
            self.crc.add(place.leaf, element);
        }
    }
}
