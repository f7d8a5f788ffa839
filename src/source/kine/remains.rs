//! What is left in a kine store of values that its table has no more.
//!
//! Whole rows are taken from pages of every age ([`crate::kine::remains`]); what the table still has under the same name, as a value
//! or an old value, is none of it. A value counts once, whatever number of pages it is on. Where a page only has the bytes of a row
//! that is still in the table, it is passed over: SQLite moves cells, and lets others overwrite a part of what it leaves behind.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;

use crate::etcd::Revision;
use crate::kine::database::Database;
use crate::kine::remains::{Remains, Spot};
use crate::kine::row::Row;
use crate::source::residue::Stray;
use crate::source::trace::TraceKey;

use super::{Column, KeyValue};

/// Marks the place of what is left as one of these; what rows keep of others has it not.
const MARK: u64 = 1 << 63;

/// A value that is left.
#[derive(Clone, Copy, Debug)]
struct Left {
    spot: Spot,
    column: Column,
    /// 0 where the row's id is lost.
    main: i64,
    is_listed: bool,
}

/// All that is left.
#[derive(Debug)]
pub(super) struct Leftovers {
    remains: Remains,
    left: Vec<Left>,
}

impl Leftovers {
    /// Looks through the file and its log.
    pub(super) fn find(file: File, log: Option<File>, page_bytes: u64, database: &Database) -> io::Result<Self> {
        let remains = Remains::new(file, log, page_bytes)?;
        let key = TraceKey::random().map_err(io::Error::other)?;
        let mut known: HashMap<u128, Option<usize>> = HashMap::new();
        let mut left: Vec<Left> = Vec::new();
        remains.rows(&mut |spot, cell, row| {
            // Where the table cannot say, it does not give it either.
            if !cell.is_listed && database.has_row(cell.id, row).unwrap_or(false) {
                return;
            }
            for (column, main, value) in values(row, cell.id) {
                let new = Left { spot, column, main, is_listed: cell.is_listed };
                match known.entry(key.digest_of(row.name, value)) {
                    Entry::Occupied(known) => {
                        // Of two copies that one is better whose revision is known.
                        if let Some(old) = known.get().and_then(|index| left.get_mut(index)).filter(|old| old.main == 0)
                        {
                            *old = new;
                        }
                    }
                    Entry::Vacant(place) => {
                        let is_there = database.has_value(row.name, value).unwrap_or(false);
                        place.insert((!is_there).then_some(left.len()));
                        if !is_there {
                            left.push(new);
                        }
                    }
                }
            }
        })?;
        // Of one revision the first counts.
        left.sort_by_key(|left| !left.is_listed);
        Ok(Self { remains, left })
    }

    /// Gives all of it to `visit`.
    pub(super) fn strays(&self, mut visit: impl FnMut(&Stray<'_>)) {
        for index in 0..self.left.len() {
            self.stray(index, &mut visit);
        }
    }

    fn stray(&self, index: usize, visit: &mut impl FnMut(&Stray<'_>)) {
        let Some(left) = self.left.get(index).copied() else { return };
        // Sub revisions keep apart what has no number of its own.
        let sub = if left.main == 0 { index as i64 } else { 0 };
        let revision = Revision { main: left.main, sub };
        self.remains.row_at(left.spot, |cell, row| {
            let kv = kv(row, left, cell.id.is_some());
            visit(&Stray { revision, kv, at: MARK | index as u64 });
        });
    }

    /// Reads again what a stray was found in; none if its place is another's.
    pub(super) fn stray_at<T>(&self, at: u64, visit: impl FnOnce(KeyValue<'_>) -> T) -> Option<T> {
        let left = self.left.get(usize::try_from(at & !MARK).ok()?).copied()?;
        self.remains.row_at(left.spot, |cell, row| visit(kv(row, left, cell.id.is_some())))
    }

    /// Whether a stray's place is one of these.
    pub(super) fn has(at: u64) -> bool {
        at & MARK != 0
    }
}

/// What of a row is a value: in which column, of which revision.
fn values<'r>(row: &Row<'r>, id: Option<i64>) -> impl Iterator<Item = (Column, i64, &'r [u8])> {
    let own = if row.deleted { row.prev_revision } else { id.unwrap_or(0) };
    let both = [(Column::Value, own, row.value), (Column::OldValue, row.prev_revision, row.old_value)];
    both.into_iter().filter(|(_, _, value)| !value.is_empty())
}

fn kv<'r>(row: &Row<'r>, left: Left, has_id: bool) -> KeyValue<'r> {
    let value = match left.column {
        Column::Value => row.value,
        Column::OldValue => row.old_value,
    };
    // A row that creates says so by its id.
    let create_revision = if row.created && !has_id { 0 } else { row.create_revision };
    KeyValue { key: row.name, value, create_revision, mod_revision: left.main, version: 0, lease: 0 }
}
