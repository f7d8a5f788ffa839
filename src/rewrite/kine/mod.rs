//! kine's table anew: the rows of the source in the order of their revisions, some at a time; every value and every old value
//! decided and sealed side by side, and put into a database that holds nothing else. Without one it is only planned.
//!
//! What a row keeps of the row before it (`old_value`) is rewritten as that one's value was. Where it is the same bytes it
//! gets the same new bytes, so that it stays a copy. When history is dropped, it is dropped with it.
//!
//! Upstream, for what a compaction leaves: `k3s-io/kine` `pkg/drivers/sqlite/sqlite.go` (`CompactSQL`).

pub mod verify;

use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use rayon::prelude::*;

use crate::audit::survey;
use crate::etcd::{KeyValue, Revision, RevisionKey};
use crate::kine::database::{Copies, Database, Stored};
use crate::kine::row::{Row, RowKind};
use crate::kine::write::{Cell, OwnedRow, Rows, Writer, refusal};
use crate::kine::{KineError, RowFault};
use crate::kube::key::Roots;
use crate::kube::roots::RootFinder;
use crate::lock::{into_inner, lock};
use crate::source::Faults;
use crate::source::kine::{self, KineReadError, KineStore, place_of, record};
use crate::source::snapshot::ReadError;
use crate::source::store::Reader;
use crate::source::trace::{TraceRoom, Traces};

use super::decide::Decision;
use super::judging::{Judging, Noted};
use super::run::Out;
use super::seal::{MakeError, seal_one};
use super::tally::{Kinds, Unsettled};
use super::target::{RandomStream, Target};
use super::write::{Job, RewriteError, Written};

/// Bytes of rows that are judged and sealed together.
const BATCH_BYTES: usize = 4 << 20;
/// Rows that are judged and sealed together.
const BATCH_ROWS: usize = 4096;

/// How much of a database its rows take, the rest being indexes and what pages leave free.
const FILLED: f64 = 0.8;

/// Where a database's header says how it is written and read: 2 is with a log.
const VERSIONS_AT: u64 = 18;
const WITH_LOG: [u8; 2] = [2, 2];

/// Reads all rows and decides about every value; with `out` writes them, too.
///
/// # Errors
///
/// A source that does not hold is refused; refused values are not an error here, since all of them are to be told.
pub fn write(store: &KineStore, job: &Job<'_>, out: Option<&Out<'_>>) -> Result<(Written, Unsettled), RewriteError> {
    sound(store)?;
    let given = job.roots.clone();
    let sampled = || survey::sampled_roots(Reader::Kine(store));
    let roots = Arc::new(given.clone().unwrap_or_else(sampled));
    let (roots, all) = match attempt(store, job, out, &roots)? {
        // A key looks like an object's below a root that was not among the sampled keys.
        all if all.noted.unlisted && given.is_none() => {
            let roots = Arc::new(all_roots(store)?);
            if let Some(out) = out {
                out.file.set_len(0)?;
            }
            let all = attempt(store, job, out, &roots)?;
            (roots, all)
        }
        all => (roots, all),
    };
    Ok(written(store, roots, all))
}

/// Everything that `check` knows must hold, and nothing may be there that cannot be written.
fn sound(store: &KineStore) -> Result<(), RewriteError> {
    refusal(&store.database()).map_err(unreadable)?;
    let report = kine::check::check(store);
    match report.fault_count {
        0 => Ok(()),
        total => Err(RewriteError::Damaged { faults: report.faults, total }),
    }
}

fn unreadable(error: KineError) -> RewriteError {
    ReadError::from(KineReadError::from(error)).into()
}

fn all_roots(store: &KineStore) -> Result<Roots, RewriteError> {
    let mut finder = RootFinder::new();
    let outcome = store.database().rows(&mut |stored| {
        let row = stored.row().ok().filter(|row| row.kind() == RowKind::Record);
        row.iter().for_each(|row| finder.see(row.name));
        ControlFlow::Continue(())
    });
    outcome.map_err(|lost| unreadable(lost.error))?;
    Ok(finder.finish())
}

fn written(store: &KineStore, roots: Arc<Roots>, all: All) -> (Written, Unsettled) {
    let Noted { refused, inside, moves, old_values, .. } = all.noted.sorted();
    let written = Written {
        estimated_bytes: (all.row_bytes as f64 / FILLED) as u64,
        refused,
        inside,
        moves,
        meta: store.meta().clone(),
        revision: store.meta().current_revision(store.facts().revision),
        digests: Some(store.digests()),
        roots,
        written: None,
    };
    (written, Unsettled { kinds: all.kinds, traces: all.traces, old_values })
}

/// What reading all rows gave.
struct All {
    kinds: Kinds,
    traces: Vec<Traces>,
    noted: Noted,
    row_bytes: u64,
}

fn attempt(store: &KineStore, job: &Job<'_>, out: Option<&Out<'_>>, roots: &Arc<Roots>) -> Result<All, RewriteError> {
    if let Target::Configured { sealings, .. } = job.policy.target {
        sealings.restart();
    }
    let kinds = Kinds::default();
    let room = TraceRoom::random()?;
    let source = store.database();
    let writer = match out {
        Some(out) => Some(Writer::create(&std::path::absolute(out.path)?, &source).map_err(RewriteError::Table)?),
        None => None,
    };
    let all = read(store, &source, (job, roots), (&kinds, room), writer.as_ref())?;
    // What is refused is not taken, so it need not be ended.
    if let (Some(writer), Some(out)) = (writer, out.filter(|_| all.noted.refused.is_empty())) {
        writer.finish(&source).map_err(RewriteError::Table)?;
        if store.copied().with_log {
            out.file.write_all_at(&WITH_LOG, VERSIONS_AT)?;
        }
    }
    Ok(All { kinds, ..all })
}

/// Brings all rows before a judge and, where there is a writer, into the new table.
fn read(
    store: &KineStore,
    source: &Database,
    (job, roots): (&Job<'_>, &Arc<Roots>),
    (kinds, room): (&Kinds, TraceRoom),
    writer: Option<&Writer>,
) -> Result<All, RewriteError> {
    let rows = writer.map(Writer::rows).transpose().map_err(RewriteError::Table)?;
    let mut copying = Copying {
        job,
        kinds,
        roots,
        room,
        plan: Plan::of(store, job),
        rows,
        batch: Vec::new(),
        batch_bytes: 0,
        traces: Vec::new(),
        noted: Noted::default(),
        row_bytes: 0,
    };
    copying.all(source)?;
    let Copying { traces, noted, row_bytes, .. } = copying;
    Ok(All { kinds: Kinds::default(), traces, noted, row_bytes })
}

/// Which rows are to be in the new table, and what changes beside their values.
#[derive(Clone, Copy)]
pub(super) struct Plan<'p> {
    job: &'p Job<'p>,
    /// The greatest revision, whose row stays whatever it is: the revision of the store is told by it.
    last: Option<i64>,
    compaction_row: Option<i64>,
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is not in the new table.
    Dropped,
    /// It is there, and keeps nothing of the rows before it. A compaction's row says up to which revision.
    Bare,
    /// It is there.
    Whole,
}

impl<'p> Plan<'p> {
    pub(super) fn of(store: &KineStore, job: &'p Job<'p>) -> Self {
        Self { job, last: store.facts().revision, compaction_row: store.facts().compaction_row }
    }

    pub(super) fn fate(&self, row: &Row<'_>) -> Fate {
        let Some(kept) = self.job.kept else { return Fate::Whole };
        let stays = match row.kind() {
            RowKind::Record => kept.has(place_of(row.id)),
            RowKind::Compaction => Some(row.id) == self.compaction_row,
            RowKind::Gap => false,
        };
        if stays || Some(row.id) == self.last { Fate::Bare } else { Fate::Dropped }
    }

    /// Changes what changes beside values.
    pub(super) fn strip(&self, fate: Fate, row: &mut OwnedRow, kind: RowKind, deleted: bool) {
        let Some(kept) = self.job.kept.filter(|_| fate == Fate::Bare) else { return };
        row.set("old_value", Cell::Null);
        if kind == RowKind::Compaction {
            row.set("prev_revision", Cell::Integer(kept.revision));
        } else if deleted {
            row.set("value", Cell::Null);
        }
    }
}

/// A row on its way into the new table.
struct Item {
    row: OwnedRow,
    prev_revision: i64,
    kind: RowKind,
    deleted: bool,
    /// Where its bytes stand in the row before it, and are to again.
    copies: Copies,
    /// The deletion has the same bytes twice.
    value_is_old_value: bool,
    fate: Fate,
}

/// Goes over all rows.
struct Copying<'c, 'w> {
    job: &'c Job<'c>,
    kinds: &'c Kinds,
    roots: &'c Arc<Roots>,
    room: TraceRoom,
    plan: Plan<'c>,
    rows: Option<Rows<'w>>,
    batch: Vec<Item>,
    batch_bytes: usize,
    /// As many as there were threads at once.
    traces: Vec<Traces>,
    noted: Noted,
    row_bytes: u64,
}

impl Copying<'_, '_> {
    fn all(&mut self, source: &Database) -> Result<(), RewriteError> {
        let mut failed = Ok(());
        let outcome = source.rows(&mut |stored| match self.add(&stored) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Err(error);
                ControlFlow::Break(())
            }
        });
        failed?;
        if let Err(lost) = outcome {
            let mut faults = Faults::new();
            faults.push(kine::lost_fault(&lost));
            return Err(RewriteError::Damaged { faults: faults.into_sorted(), total: 1 });
        }
        self.flush()
    }

    fn add(&mut self, stored: &Stored<'_>) -> Result<(), RewriteError> {
        let row = stored.row().map_err(|fault| damaged(stored.id(), fault))?;
        let fate = self.plan.fate(&row);
        if fate == Fate::Dropped {
            return Ok(());
        }
        let owned = OwnedRow::of(stored.columns);
        self.batch_bytes += owned.bytes();
        (self.job.pass.progress)(owned.bytes() as u64);
        let (prev_revision, kind, deleted) = (row.prev_revision, row.kind(), row.deleted);
        let value_is_old_value = row.deleted && row.value == row.old_value;
        let copies = stored.copies;
        self.batch.push(Item { row: owned, prev_revision, kind, deleted, copies, value_is_old_value, fate });
        match self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_ROWS {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Decides and seals what was gathered, and puts it into the new table.
    fn flush(&mut self) -> Result<(), RewriteError> {
        if self.job.interrupted.load(Ordering::Relaxed) {
            return Err(RewriteError::Interrupted);
        }
        let (mut batch, writes) = (std::mem::take(&mut self.batch), self.rows.is_some());
        self.batch_bytes = 0;
        let share = batch.len().div_ceil(rayon::current_num_threads().max(1)).max(1);
        let traces = Mutex::new(std::mem::take(&mut self.traces));
        let parts = batch.par_chunks_mut(share).map(|items| {
            let known = lock(&traces).pop();
            let traces = known.unwrap_or_else(|| self.room.traces());
            let judging = Judging::new(&self.job.policy, self.kinds, self.roots.clone(), traces);
            let mut worker = Worker { judging, randomness: self.job.randomness.stream(), job: self.job, row_bytes: 0 };
            items.iter_mut().try_for_each(|item| worker.item(item, writes))?;
            Ok((worker.judging.finish(), worker.row_bytes))
        });
        let parts = parts.collect::<Result<Vec<_>, MakeError>>()?;
        self.traces = into_inner(traces);
        for ((traces, noted), bytes) in parts {
            self.traces.push(traces);
            self.noted.absorb(noted);
            self.row_bytes += bytes;
        }
        if !self.noted.refused.is_empty() {
            return Ok(());
        }
        let Some(rows) = &mut self.rows else { return Ok(()) };
        batch.into_iter().try_for_each(|item| put(rows, &self.plan, item)).map_err(RewriteError::Table)
    }
}

fn damaged(id: i64, fault: RowFault) -> RewriteError {
    RewriteError::Damaged { faults: vec![kine::row_fault(id, fault)], total: 1 }
}

/// Puts a row into the new table, copies as copies.
fn put(rows: &mut Rows<'_>, plan: &Plan<'_>, mut item: Item) -> Result<(), KineError> {
    // Asked of what the source has: what was sealed anew is no copy yet.
    let value_is_old_value = item.copies.value && item.value_is_old_value;
    if item.fate == Fate::Whole && (item.copies.old_value || (item.copies.value && !value_is_old_value)) {
        // The row before was put in before. Of a deletion its own old value was copied.
        if let Some((value, old_value, deleted)) = rows.values(item.prev_revision)? {
            if item.copies.old_value {
                item.row.set("old_value", if deleted { old_value } else { value.clone() });
            }
            if item.copies.value && !value_is_old_value {
                item.row.set("value", value);
            }
        }
    }
    if item.fate == Fate::Whole && value_is_old_value {
        let old_value = item.row.cell("old_value").clone();
        item.row.set("value", old_value);
    }
    plan.strip(item.fate, &mut item.row, item.kind, item.deleted);
    rows.push(&item.row)
}

/// Decides about rows and seals what is to be written anew.
struct Worker<'w> {
    judging: Judging<'w>,
    randomness: Box<dyn RandomStream>,
    job: &'w Job<'w>,
    row_bytes: u64,
}

impl Worker<'_> {
    fn item(&mut self, item: &mut Item, writes: bool) -> Result<(), MakeError> {
        let columns = item.row.columns();
        let row = Row::decode(columns).ok().filter(|_| item.kind == RowKind::Record);
        let mut new = (None, None);
        if let Some(row) = row {
            let is_whole = item.fate == Fate::Whole;
            match record(&row).map(|record| record.kv) {
                Some(kv) if !row.deleted => new.0 = self.value(&kv, &row, writes)?,
                _ => {
                    self.judging.deletion(row.name, place_of(row.id));
                    if is_whole && !item.copies.value {
                        new.0 = self.old_value(&row, row.value, 2, writes)?;
                    }
                }
            }
            if is_whole && !item.copies.old_value {
                new.1 = self.old_value(&row, row.old_value, 1, writes)?;
            }
        }
        if let Some(value) = new.0 {
            item.row.set("value", Cell::Blob(value));
        }
        if let Some(value) = new.1 {
            item.row.set("old_value", Cell::Blob(value));
        }
        self.row_bytes += item.row.bytes() as u64;
        Ok(())
    }

    fn value(&mut self, kv: &KeyValue<'_>, row: &Row<'_>, writes: bool) -> Result<Option<Vec<u8>>, MakeError> {
        let (job, randomness) = (self.job, &mut *self.randomness);
        self.judging.value(kv, place_of(row.id), row.id, |decision| seal(job, randomness, decision, row, (0, writes)))
    }

    /// What a row keeps of the row before it; `sub` tells the columns apart for whoever gives nonces.
    fn old_value(&mut self, row: &Row<'_>, value: &[u8], sub: i64, writes: bool) -> Result<Option<Vec<u8>>, MakeError> {
        if value.is_empty() {
            return Ok(None);
        }
        let (job, randomness) = (self.job, &mut *self.randomness);
        let then = |decision: Decision<'_>| seal(job, randomness, decision, row, (sub, writes));
        self.judging.old_value(row.name, value, row.prev_revision, then)
    }
}

fn seal(
    job: &Job<'_>,
    randomness: &mut dyn RandomStream,
    decision: Decision<'_>,
    row: &Row<'_>,
    (sub, writes): (i64, bool),
) -> Result<Option<Vec<u8>>, MakeError> {
    match decision {
        Decision::Rewritten { plaintext, chain, .. } if writes => {
            let key = RevisionKey { revision: Revision { main: row.id, sub }, tombstone: row.deleted };
            let mut sealed = seal_one(job.policy.target, chain, (key, row.name), plaintext, randomness)?;
            Ok(Some(std::mem::take(&mut *sealed)))
        }
        Decision::Replaced(new) if writes => Ok(Some(new.to_vec())),
        _ => Ok(None),
    }
}
