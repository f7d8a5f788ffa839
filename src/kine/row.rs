//! A row: one revision of one key.
//!
//! | column | says |
//! |---|---|
//! | `id` | the revision |
//! | `name` | the key |
//! | `created` | 1: the key was not there before |
//! | `deleted` | 1: the key is not there any more |
//! | `create_revision` | the `id` of the row that created the key; of that row itself 0 or NULL |
//! | `prev_revision` | the `id` of the key's row before this one, a deletion included; 0 for none |
//! | `lease` | seconds to live; 0 for none |
//! | `value` | the bytes; before 0.16 a deletion has the deleted ones |
//! | `old_value` | the bytes before: of updates, of deletions, before 0.16 also of what was deleted and created anew |
//!
//! Two kinds of rows are no revisions of a user's key: `gap-ID` fills a revision that was given out and never used, and
//! `compact_rev_key` has the compaction's revision in its `prev_revision`.
//!
//! The version of a key is kept nowhere, and kine's API gives 0 for it.

use rusqlite::types::ValueRef;

use super::{COMPACT_REV_KEY, GAP_PREFIX};

/// Revisions are smaller than this. No store counts so far, and what claims to is noise.
pub const MAX_ID: i64 = 1 << 44;

/// A row as it stands in the table, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'r> {
    /// Its revision.
    pub id: i64,
    /// The key.
    pub name: &'r [u8],
    /// The key was not there before.
    pub created: bool,
    /// The key is not there any more.
    pub deleted: bool,
    /// The revision at which the key was created; 0 where the row does not tell.
    pub create_revision: i64,
    /// The revision of the key's row before; 0 for none.
    pub prev_revision: i64,
    /// Seconds to live; 0 for none.
    pub lease: i64,
    /// The bytes; empty where there are none.
    pub value: &'r [u8],
    /// The bytes before; empty where there are none.
    pub old_value: &'r [u8],
}

/// What is wrong with a row. Displays as the end of a sentence that begins with the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// Its id is none that kine gives.
    #[error("has an id that no kine gives")]
    Id,
    /// It has no name.
    #[error("has no name")]
    Name,
    /// A column holds what is never in it.
    #[error("has in its column `{0}` what kine never puts there")]
    Column(&'static str),
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// A revision of a key.
    Record,
    /// It fills a gap.
    Gap,
    /// It says up to where the table was compacted.
    Compaction,
}

impl<'r> Row<'r> {
    /// Reads the nine columns in the order of the table.
    pub fn decode(columns: [ValueRef<'r>; 9]) -> Result<Self, RowFault> {
        let [id, name, created, deleted, create_revision, prev_revision, lease, value, old_value] = columns;
        let ValueRef::Integer(id) = id else { return Err(RowFault::Id) };
        if !(1..MAX_ID).contains(&id) {
            return Err(RowFault::Id);
        }
        let name = match name {
            ValueRef::Text(name) | ValueRef::Blob(name) if !name.is_empty() => name,
            _ => return Err(RowFault::Name),
        };
        let created = flag(created, "created")?;
        let create_revision = number(create_revision, "create_revision")?;
        Ok(Self {
            id,
            name,
            created,
            deleted: flag(deleted, "deleted")?,
            create_revision: if created { id } else { create_revision },
            prev_revision: number(prev_revision, "prev_revision")?,
            lease: number(lease, "lease")?,
            value: bytes(value, "value")?,
            old_value: bytes(old_value, "old_value")?,
        })
    }

    /// What the row is.
    pub fn kind(&self) -> RowKind {
        if self.name == COMPACT_REV_KEY {
            return RowKind::Compaction;
        }
        let fills = |number: &[u8]| std::str::from_utf8(number).ok().and_then(|number| number.parse::<i64>().ok());
        match self.name.strip_prefix(GAP_PREFIX).and_then(fills) {
            Some(id) if id == self.id && self.deleted && !self.created => RowKind::Gap,
            _ => RowKind::Record,
        }
    }
}

/// The value under which SQLite keeps a truth.
fn flag(value: ValueRef<'_>, column: &'static str) -> Result<bool, RowFault> {
    match value {
        ValueRef::Null | ValueRef::Integer(0) => Ok(false),
        ValueRef::Integer(1) => Ok(true),
        _ => Err(RowFault::Column(column)),
    }
}

fn number(value: ValueRef<'_>, column: &'static str) -> Result<i64, RowFault> {
    match value {
        ValueRef::Null => Ok(0),
        ValueRef::Integer(number) if number >= 0 => Ok(number),
        _ => Err(RowFault::Column(column)),
    }
}

fn bytes<'r>(value: ValueRef<'r>, column: &'static str) -> Result<&'r [u8], RowFault> {
    match value {
        ValueRef::Null => Ok(&[]),
        // Somebody may have put it there by hand, as text; to kine it is the same.
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Ok(bytes),
        _ => Err(RowFault::Column(column)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns<'r>(name: &'r str, created: i64, deleted: i64) -> [ValueRef<'r>; 9] {
        let [null, zero] = [ValueRef::Null, ValueRef::Integer(0)];
        let name = ValueRef::Text(name.as_bytes());
        let value = ValueRef::Blob(b"value");
        [
            ValueRef::Integer(7),
            name,
            ValueRef::Integer(created),
            ValueRef::Integer(deleted),
            null,
            zero,
            zero,
            value,
            null,
        ]
    }

    #[test]
    fn a_created_row_is_its_own_create_revision() {
        let row = Row::decode(columns("/registry/a", 1, 0)).unwrap();
        assert_eq!((row.id, row.create_revision, row.prev_revision, row.value), (7, 7, 0, &b"value"[..]));
        assert_eq!(row.kind(), RowKind::Record);
        let mut updated = columns("/registry/a", 0, 0);
        updated[4] = ValueRef::Integer(3);
        assert_eq!(Row::decode(updated).unwrap().create_revision, 3);
    }

    #[test]
    fn only_a_deletion_by_the_name_of_its_own_revision_is_a_gap() {
        let kind = |name, created, deleted| Row::decode(columns(name, created, deleted)).unwrap().kind();
        assert_eq!(kind("gap-7", 0, 1), RowKind::Gap);
        assert_eq!(kind("gap-7", 0, 0), RowKind::Record);
        assert_eq!(kind("gap-8", 0, 1), RowKind::Record);
        assert_eq!(kind("gap-", 0, 1), RowKind::Record);
        assert_eq!(kind("compact_rev_key", 1, 0), RowKind::Compaction);
    }

    #[test]
    fn what_no_kine_writes_is_a_fault_of_its_column() {
        let bad: [(usize, ValueRef<'_>, RowFault); 8] = [
            (0, ValueRef::Integer(0), RowFault::Id),
            (0, ValueRef::Integer(MAX_ID), RowFault::Id),
            (1, ValueRef::Null, RowFault::Name),
            (1, ValueRef::Text(b""), RowFault::Name),
            (2, ValueRef::Integer(2), RowFault::Column("created")),
            (5, ValueRef::Integer(-1), RowFault::Column("prev_revision")),
            (7, ValueRef::Integer(1), RowFault::Column("value")),
            (8, ValueRef::Real(1.0), RowFault::Column("old_value")),
        ];
        for (place, value, fault) in bad {
            let mut columns = columns("/a", 1, 0);
            columns[place] = value;
            assert_eq!(Row::decode(columns), Err(fault));
        }
    }
}
