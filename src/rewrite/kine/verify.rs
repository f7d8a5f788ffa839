//! The proof of a new table: read back through a connection of its own, and held against the source row by row.
//!
//! * SQLite's own check finds no fault; tables, indexes, header and sequence are the source's.
//! * No row is missing and none is there that the source has not; of each everything but its values is the same, but for what
//!   dropping history changes.
//! * Each value and old value is the source's and was to stay, or opens with the target alone, by its first key, to exactly what
//!   the source's holds.
//! * What begins an encrypted value stands nowhere in the file but in values that were read back: nothing of the old file is
//!   left between them.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use crate::kine::KineError;
use crate::kine::check::check;
use crate::kine::database::{Database, Stored};
use crate::kine::row::{Row, RowKind};
use crate::kine::write::{Cell, OwnedRow, difference};
use crate::kube::key::Roots;
use crate::source::kine::KineStore;
use crate::source::sha256::Sha256;

use super::super::prove::{Proving, Wrong};
use super::super::run::Out;
use super::super::write::{Job, RewriteError};
use super::{BATCH_BYTES, BATCH_ROWS, Fate, Plan};

/// What every encrypted value begins with.
const MARK: &[u8] = b"k8s:enc:";

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// What was proved.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// SHA-256 over all that was read back.
    pub hash: [u8; 32],
    /// How many bytes those are.
    pub bytes: u64,
    /// Rows that were held against the source's.
    pub records: u64,
}

/// Reads back what was written and proves it.
///
/// # Errors
///
/// [`RewriteError::Unproved`] with the first thing that is not as it should be.
pub fn verify(store: &KineStore, job: &Job<'_>, roots: &Arc<Roots>, out: &Out<'_>) -> Result<Proof, RewriteError> {
    let file = (out.reopen)()?;
    let written = Database::open_immutable(&std::path::absolute(out.path)?).map_err(unproved)?;
    sound(&written)?;
    let source = store.database();
    if let Some(difference) = difference(&source, &written).map_err(unproved)? {
        return Err(RewriteError::Unproved(difference));
    }
    let mut held = Held {
        job,
        roots,
        plan: Plan::of(store, job),
        written: &written,
        pairs: Vec::new(),
        pair_bytes: 0,
        records: 0,
        marks: 0,
    };
    held.all(&source)?;
    let Held { records, marks, .. } = held;
    if written.count().map_err(unproved)? != records {
        return Err(RewriteError::Unproved("it holds rows that the source has not".to_owned()));
    }
    let (hash, bytes, found) = search(file, job)?;
    match found <= marks {
        true => Ok(Proof { hash, bytes, records }),
        false => Err(RewriteError::Unproved("encrypted values stand in it outside of its rows".to_owned())),
    }
}

fn unproved(error: KineError) -> RewriteError {
    RewriteError::Unproved(error.to_string())
}

/// Everything that `check` knows must hold, and no page may be free.
fn sound(written: &Database) -> Result<(), RewriteError> {
    let facts = written.facts().map_err(unproved)?;
    let mut first = None;
    check(written, &facts, &mut |fault| {
        first.get_or_insert(fault);
    });
    match first {
        Some(fault) => Err(RewriteError::Unproved(fault.detail)),
        None if facts.free_pages > 0 => Err(RewriteError::Unproved(format!("{} pages are free", facts.free_pages))),
        None => Ok(()),
    }
}

/// Two tables that are held against each other.
struct Held<'h> {
    job: &'h Job<'h>,
    roots: &'h Arc<Roots>,
    plan: Plan<'h>,
    written: &'h Database,
    /// Rows of the source, and what was written of them.
    pairs: Vec<(OwnedRow, OwnedRow, Fate)>,
    pair_bytes: usize,
    records: u64,
    marks: u64,
}

impl Held<'_> {
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
        outcome.map_err(|lost| RewriteError::Unproved(lost.to_string()))?;
        self.flush()
    }

    fn add(&mut self, stored: &Stored<'_>) -> Result<(), RewriteError> {
        let id = stored.id();
        let row = stored.row().map_err(|fault| unlike(id, &fault.to_string()))?;
        let fate = self.plan.fate(&row);
        let found = self.written.row(id, |found| OwnedRow::of(found.columns)).map_err(unproved)?;
        let found = match (fate, found) {
            (Fate::Dropped, None) => return Ok(()),
            (Fate::Dropped, Some(_)) => return Err(unlike(id, "was to be dropped")),
            (_, None) => return Err(unlike(id, "is missing")),
            (_, Some(found)) => found,
        };
        self.records += 1;
        let owned = OwnedRow::of(stored.columns);
        self.pair_bytes += owned.bytes() + found.bytes();
        (self.job.pass.progress)(owned.bytes() as u64);
        self.pairs.push((owned, found, fate));
        match self.pair_bytes >= 2 * BATCH_BYTES || self.pairs.len() >= BATCH_ROWS {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), RewriteError> {
        if self.job.interrupted.load(Ordering::Relaxed) {
            return Err(RewriteError::Interrupted);
        }
        let pairs = std::mem::take(&mut self.pairs);
        self.pair_bytes = 0;
        let share = pairs.len().div_ceil(rayon::current_num_threads().max(1)).max(1);
        let (job, roots, plan) = (self.job, self.roots, &self.plan);
        let parts = pairs.par_chunks(share).map(|pairs| {
            let mut proving = Proving::new(&job.policy, roots.clone());
            pairs.iter().try_fold(0, |marks, (source, found, fate)| {
                pair(plan, &mut proving, (source, found), *fate)?;
                Ok(marks + marks_in(found))
            })
        });
        self.marks += parts.collect::<Result<Vec<u64>, RewriteError>>()?.into_iter().sum::<u64>();
        Ok(())
    }
}

/// Holds a row against what was written of it.
fn pair(
    plan: &Plan<'_>,
    proving: &mut Proving<'_>,
    (source, found): (&OwnedRow, &OwnedRow),
    fate: Fate,
) -> Result<(), RewriteError> {
    let (old, new) = match (Row::decode(source.columns()), Row::decode(found.columns())) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(fault), _) | (_, Err(fault)) => return Err(RewriteError::Unproved(fault.to_string())),
    };
    let mut expected = source.clone();
    plan.strip(fate, &mut expected, old.kind(), old.deleted);
    let columns = [("value", old.value, new.value), ("old_value", old.old_value, new.old_value)];
    for (column, stored, written) in columns {
        // What is nothing, or no revision of a key, is the same to the type.
        if expected.cell(column) == found.cell(column) {
            let decides = old.kind() == RowKind::Record && !is_nothing(&expected, column, old.deleted);
            let outcome = if decides { proving.stayed(old.name, stored) } else { Ok(()) };
            outcome.map_err(|what| unlike(old.id, &format!("in its column `{column}` {what}")))?;
            continue;
        }
        let outcome = match (expected.cell(column), found.cell(column)) {
            (Cell::Text(_) | Cell::Blob(_), Cell::Blob(_)) => proving.written(old.name, stored, || Ok(written)),
            _ => Err("differs in its kind".into()),
        };
        outcome.map_err(|what: Wrong| unlike(old.id, &format!("in its column `{column}` {what}")))?;
        expected.set(column, found.cell(column).clone());
    }
    if expected == *found { Ok(()) } else { Err(unlike(old.id, "differs in more than its values")) }
}

/// Whether there is nothing to decide about in a column: no bytes where only what was left behind would stand.
fn is_nothing(row: &OwnedRow, column: &str, deleted: bool) -> bool {
    row.cell(column).bytes().is_empty() && (deleted || column == "old_value")
}

fn unlike(id: i64, what: &str) -> RewriteError {
    RewriteError::Unproved(format!("row {id} {what}"))
}

/// How often a mark stands in a row.
fn marks_in(row: &OwnedRow) -> u64 {
    let columns = ["name", "value", "old_value"];
    columns.iter().map(|column| count(row.cell(column).bytes())).sum()
}

fn count(bytes: &[u8]) -> u64 {
    let Some(first) = MARK.first() else { return 0 };
    let (mut from, mut found) = (0, 0);
    while let Some(next) = bytes.get(from..).and_then(|rest| rest.iter().position(|byte| byte == first)) {
        let at = from + next;
        found += u64::from(bytes.get(at..).is_some_and(|rest| rest.starts_with(MARK)));
        from = at + 1;
    }
    found
}

/// Reads the whole file: its SHA-256, its length, and how often a mark stands in it.
fn search(mut file: File, job: &Job<'_>) -> Result<([u8; 32], u64, u64), io::Error> {
    let mut hash = Sha256::new();
    let (mut bytes, mut found) = (0, 0);
    // What was read before, as far as a mark may begin in it.
    let mut buffer = Vec::new();
    let mut piece = vec![0; READ_BYTES];
    loop {
        let read = match file.read(&mut piece) {
            Ok(0) => return Ok((hash.finalize(), bytes, found)),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let read = piece.get(..read).unwrap_or_default();
        hash.update(read);
        bytes += read.len() as u64;
        (job.pass.progress)(read.len() as u64);
        buffer.extend_from_slice(read);
        found += count(&buffer);
        let kept = buffer.len().min(MARK.len() - 1);
        buffer.drain(..buffer.len() - kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_also_where_they_overlap_nearly() {
        assert_eq!(count(b""), 0);
        assert_eq!(count(b"kk8s:enc:aescbc:v1:k8s:enc:k8s:en"), 2);
        assert_eq!(count(b"k8s:enc"), 0);
    }
}
