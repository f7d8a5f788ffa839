//! kine's SQLite: rows to records.
//!
//! The original is never opened by SQLite, which would write beside it: it is copied together with its log to a private
//! folder (`copy`), opened there, and the copy's names are removed at once, so that it ends with the process. One
//! connection brings the rows, several workers take them ([`super::feed`]).
//!
//! A row's `id` is its revision, and its [`Place`] the same number cut in two. What a row keeps of the one before it
//! (`old_value`, and in deletions of older releases `value`) is a [`Stray`], unless the table still has it as a value: then it is
//! a copy. What free pages, the unused parts of others and the log still have of rows that are gone is one, too (`remains`).

pub mod check;
mod copy;
mod remains;

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::etcd::{Revision, RevisionKey};
use crate::kine::check::Counts;
use crate::kine::database::{Copies, Database, Facts, Lost};
use crate::kine::row::{Row, RowKind};
use crate::kine::{KineError, RowFault, log};
use crate::lock::lock;

use super::digest::{Digests, Trailer};
use super::feed::{Feeder, feed};
use super::residue::Stray;
use super::scan::Visitor;
use super::snapshot::PassOptions;
use super::{Fault, FaultKind, Faults, KeyValue, Place, Record, StoreMeta};

use copy::Copied;
use remains::Leftovers;

/// A row is none that kine writes, or does not follow the rows before it.
pub const ROW_FAULT: FaultKind = FaultKind::Content("row");
/// SQLite finds the file damaged.
pub const SQLITE_FAULT: FaultKind = FaultKind::Content("sqlite");
/// The compaction's revision does not fit the rows.
pub const COMPACTION_FAULT: FaultKind = FaultKind::Content("compaction");
/// Rows of a key do not follow one another.
pub const CHAIN_FAULT: FaultKind = FaultKind::Content("chain");

/// Rows for each leaf page that a sample may look at.
const SAMPLED_ROWS: usize = 64;

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum KineReadError {
    /// It is not kine's, or SQLite does not read it.
    #[error(transparent)]
    Table(#[from] KineError),
    /// It cannot be copied.
    #[error("cannot be copied to a private folder: {0}")]
    Copy(#[from] io::Error),
    /// There is no room for the copy.
    #[error(
        "cannot be copied to a private folder: {needed} bytes are needed in {}, and {available} are free \
         (TMPDIR can name another directory)",
        .folder.display()
    )]
    NoRoom {
        /// The folder for temporary files.
        folder: std::path::PathBuf,
        /// Bytes of the database and its log.
        needed: u64,
        /// Bytes that may be used.
        available: u64,
    },
    /// Its log was begun anew, or it was written to without one, whenever it was copied.
    #[error("is changed by somebody while it is copied; stop K3s, or try again when it writes less")]
    Changing,
}

/// An open kine store.
#[derive(Debug)]
pub struct KineStore {
    database: Mutex<Database>,
    facts: Facts,
    meta: StoreMeta,
    copied: Copied,
    /// Why SQLite did not open it as a whole one.
    damage: Option<Fault>,
    /// Where its log breaks.
    broken: Option<log::Break>,
    /// What a check found. The copy never changes, so that one is enough.
    checked: OnceLock<(Faults, Counts)>,
    /// The copy and its log as bytes.
    bytes: (File, Option<File>),
    /// What is left in them of rows that are gone, once somebody asked; none where it cannot be read.
    leftovers: OnceLock<Option<Leftovers>>,
}

impl KineStore {
    /// Copies a database and the log beside it, and opens the copy. `file` is what the path leads to.
    pub fn open(path: &Path, file: &File) -> Result<Self, KineReadError> {
        Self::of(copy::beside(path, file)?)
    }

    /// The same of files that have no names, such as come out of an archive.
    pub fn open_unpacked(file: &File, log: Option<&File>) -> Result<Self, KineReadError> {
        Self::of(copy::files(file, log)?)
    }

    fn of((folder, copied): (copy::Folder, Copied)) -> Result<Self, KineReadError> {
        let broken = folder.log()?.map(log::broken).transpose()?.flatten();
        let (database, damage) = match Database::open(&folder.database()) {
            Err(error) if error.is_damage() => {
                (Database::open_damaged(&folder.database())?, Some(Fault::file(SQLITE_FAULT, error.to_string())))
            }
            database => (database?, None),
        };
        let facts = database.facts()?;
        let bytes = (File::open(folder.database())?, folder.log()?);
        // From here on the copy is in SQLite's hands only, and ends with them.
        folder.remove()?;
        let meta = StoreMeta { finished_compaction: facts.compacted, ..StoreMeta::default() };
        let database = Mutex::new(database);
        let (checked, leftovers) = (OnceLock::new(), OnceLock::new());
        Ok(Self { database, facts, meta, copied, damage, broken, checked, bytes, leftovers })
    }

    /// What the database says of itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What it notes about itself in etcd's words: its compaction.
    pub fn meta(&self) -> &StoreMeta {
        &self.meta
    }

    /// What was copied.
    pub fn copied(&self) -> &Copied {
        &self.copied
    }

    /// SHA-256 of the database file as it was given, its log not included.
    pub fn digests(&self) -> Digests {
        let sha256 = self.copied.sha256;
        Digests { file: sha256, database: sha256, trailer: Trailer::Missing }
    }

    /// What is wrong with the log, so that what is behind it is missing.
    fn log_fault(&self) -> Option<Fault> {
        let log::Break { frame, lost } = self.broken?;
        let detail = match frame {
            0 => "the head of its log does not hold: nothing that only the log has is read".to_owned(),
            _ => format!("its log breaks at frame {frame}: {lost} transactions behind it are not read"),
        };
        Some(Fault::file(SQLITE_FAULT, detail))
    }

    /// Everything that is wrong with it, and how many rows of what kind there are.
    fn checked(&self) -> &(Faults, Counts) {
        self.checked.get_or_init(|| check::faults(self))
    }

    /// The database, for whoever writes it anew or checks it.
    pub fn database(&self) -> MutexGuard<'_, Database> {
        lock(&self.database)
    }

    /// Reads all rows once; see [`Store::pass`](super::Store::pass).
    pub(super) fn pass<V: Visitor>(
        &self,
        options: PassOptions<'_>,
        visitor: impl Fn() -> V + Sync,
    ) -> (Vec<V>, Faults) {
        let (faults, visitors) = feed(options.threads, visitor, |feeder| {
            let mut faults = Faults::new();
            let outcome = self.database().rows(&mut |stored| {
                // A row that is none is found by the check below.
                if let Ok(row) = stored.row() {
                    (options.progress)((row.name.len() + row.value.len() + row.old_value.len()) as u64);
                    hand_over(&row, stored.copies, V::STRAYS, feeder);
                }
                ControlFlow::Continue(())
            });
            if let Err(lost) = outcome {
                faults.push(lost_fault(&lost));
            }
            if V::STRAYS
                && let Err(fault) = self.hand_over_leftovers(feeder)
            {
                faults.push(fault);
            }
            // A row that its page has lost is missed only by the indexes.
            faults.append(self.checked().0.clone());
            faults
        });
        (visitors, faults)
    }

    /// What is left of rows that are gone.
    fn leftovers(&self) -> Option<&Leftovers> {
        let find = || {
            let (file, log) = (&self.bytes.0, self.bytes.1.as_ref());
            let log = log.map(File::try_clone).transpose()?;
            Leftovers::find(file.try_clone()?, log, self.facts.page_size, &self.database())
        };
        let found = self.leftovers.get_or_init(|| find().inspect_err(|error: &io::Error| tracing::warn!(%error)).ok());
        found.as_ref()
    }

    fn hand_over_leftovers(&self, feeder: &mut Feeder) -> Result<(), Fault> {
        let unread = "what is free in it, and its log, cannot be read for what is left of older rows";
        let leftovers = self.leftovers().ok_or_else(|| Fault::file(SQLITE_FAULT, unread.to_owned()))?;
        leftovers.strays(|stray| feeder.stray(stray));
        Ok(())
    }

    /// Gives some keys to `visit`, spread over all revisions.
    pub(super) fn sample(&self, leaves: usize, mut visit: impl FnMut(&[u8])) {
        let names = i64::try_from(leaves.saturating_mul(SAMPLED_ROWS)).unwrap_or(i64::MAX);
        // What cannot be read is noticed by the pass.
        let _ = self.database().sample(names, &mut visit);
    }

    /// Reads records again.
    pub(super) fn records_at(&self, places: &[Place], mut visit: impl FnMut(Place, KeyValue<'_>)) {
        for place in places {
            // Visitors work long, and others want the connection.
            let read = self.read(id_of(*place), |row| Owned::of(row, record_value(row)));
            if let Some(owned) = read {
                visit(*place, owned.kv());
            }
        }
    }

    /// Reads again what a [`Stray`] was found in.
    pub(super) fn stray_at<T>(&self, at: u64, visit: impl FnOnce(KeyValue<'_>) -> T) -> Option<T> {
        if Leftovers::has(at) {
            return self.leftovers()?.stray_at(at, visit);
        }
        let (id, column) = (i64::try_from(at >> 1).ok()?, Column::of(at));
        let read = self.read(id, |row| {
            let (revision, value) = left_behind(row, column);
            Owned { mod_revision: revision.main, lease: 0, ..Owned::of(row, value) }
        });
        read.map(|owned| visit(owned.kv()))
    }

    fn read<T>(&self, id: i64, visit: impl FnOnce(&Row<'_>) -> T) -> Option<T> {
        let read = self.database().row(id, |stored| stored.row().ok().map(|row| visit(&row)));
        read.ok().flatten().flatten()
    }
}

/// A column that keeps what the row before had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    OldValue = 0,
    /// Of a deletion.
    Value = 1,
}

impl Column {
    fn of(at: u64) -> Self {
        if at & 1 == 0 { Self::OldValue } else { Self::Value }
    }

    fn at(self, id: i64) -> u64 {
        (id as u64) << 1 | self as u64
    }
}

/// The row's revision as a place.
pub fn place_of(id: i64) -> Place {
    Place { leaf: (id >> 16) as u32, index: id as u16 }
}

fn id_of(place: Place) -> i64 {
    i64::from(place.leaf) << 16 | i64::from(place.index)
}

/// The record that a row is; none where it only fills a gap, or notes a compaction.
pub fn record<'r>(row: &Row<'r>) -> Option<Record<'r>> {
    if row.kind() != RowKind::Record {
        return None;
    }
    let revision = RevisionKey { revision: Revision { main: row.id, sub: 0 }, tombstone: row.deleted };
    let kv = KeyValue {
        key: row.name,
        create_revision: row.create_revision,
        mod_revision: row.id,
        version: 0,
        value: record_value(row),
        lease: row.lease,
    };
    Some(Record { place: place_of(row.id), revision, kv })
}

/// What older releases keep in a deletion is the value before it.
fn record_value<'r>(row: &Row<'r>) -> &'r [u8] {
    if row.deleted { &[] } else { row.value }
}

/// What a row has of the one before it, and of which revision that is.
///
/// A deletion may have it twice; the second sub revision tells them apart where they differ.
fn left_behind<'r>(row: &Row<'r>, column: Column) -> (Revision, &'r [u8]) {
    match column {
        Column::OldValue => (Revision { main: row.prev_revision, sub: 0 }, row.old_value),
        Column::Value => (Revision { main: row.prev_revision, sub: 1 }, row.value),
    }
}

fn hand_over(row: &Row<'_>, copies: Copies, strays: bool, feeder: &mut Feeder) {
    let Some(record) = record(row) else { return };
    feeder.record(&record);
    let kept = [
        (Column::OldValue, !row.old_value.is_empty() && !copies.old_value),
        (Column::Value, row.deleted && !row.value.is_empty() && !copies.value),
    ];
    for (column, _) in kept.into_iter().filter(|(_, kept)| strays && *kept) {
        let (revision, value) = left_behind(row, column);
        let kv = KeyValue { value, mod_revision: revision.main, lease: 0, ..record.kv };
        feeder.stray(&Stray { revision, kv, at: column.at(row.id) });
    }
}

/// A row that is none.
pub fn row_fault(id: i64, fault: RowFault) -> Fault {
    Fault::file(ROW_FAULT, format!("row {id} {fault}"))
}

/// Rows that SQLite does not give.
pub fn lost_fault(lost: &Lost) -> Fault {
    Fault::file(SQLITE_FAULT, lost.to_string())
}

/// A record with its bytes.
struct Owned {
    key: Vec<u8>,
    value: Vec<u8>,
    create_revision: i64,
    mod_revision: i64,
    lease: i64,
}

impl Owned {
    fn of(row: &Row<'_>, value: &[u8]) -> Self {
        Self {
            key: row.name.to_vec(),
            value: value.to_vec(),
            create_revision: row.create_revision,
            mod_revision: row.id,
            lease: row.lease,
        }
    }

    fn kv(&self) -> KeyValue<'_> {
        KeyValue {
            key: &self.key,
            value: &self.value,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: 0,
            lease: self.lease,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_revision_cut_in_two() {
        for id in [1, 0xffff, 0x1_0000, 0x1_0001, (1 << 44) - 1] {
            assert_eq!(id_of(place_of(id)), id);
        }
        assert!(place_of(0x1_0000) > place_of(0xffff));
        for column in [Column::OldValue, Column::Value] {
            let at = column.at(0x123);
            assert_eq!((at >> 1, Column::of(at)), (0x123, column));
        }
    }
}
