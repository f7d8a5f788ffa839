//! Every invariant of a kine table: what SQLite holds against the file, and what kine would never have written.
//!
//! Upstream: `k3s-io/kine` `pkg/drivers/generic/generic.go` (how rows are inserted and compacted), `pkg/drivers/sqlite`.

use rusqlite::types::ValueRef;

use super::row::{Row, RowKind};
use super::{Database, Facts, KineError, Said};

/// SQLite's own faults beyond so many are not asked for.
const MAX_INTEGRITY: u32 = 1000;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// SQLite's `PRAGMA integrity_check` complains.
    Integrity,
    /// A row is none that kine writes.
    Row,
    /// Rows of a key do not follow one another.
    Chain,
    /// The compaction's revision does not fit the rows.
    Compaction,
}

/// A fault. The detail has no byte of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which invariant.
    pub kind: FaultKind,
    /// One sentence for a person.
    pub detail: String,
}

/// How many rows of what kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All rows.
    pub rows: u64,
    /// Rows that fill gaps.
    pub gaps: u64,
    /// Rows that have something in `old_value`.
    pub old_values: u64,
    /// Keys that are not deleted.
    pub keys: u64,
}

/// Rows by key, each beside the one before it. Values are left out within, since SQLite keeps what it orders.
const CHAINS: &str = "\
    SELECT id, name, created, deleted, create_revision, prev_revision, lease, value, old_value, kept, \
           LAG(id) OVER keys, LEAD(id) OVER keys \
    FROM (SELECT id, name, created, deleted, create_revision, prev_revision, lease, \
                 CASE typeof(value) WHEN 'blob' THEN x'' WHEN 'text' THEN x'' ELSE value END AS value, \
                 CASE typeof(old_value) WHEN 'blob' THEN x'' WHEN 'text' THEN x'' ELSE old_value END AS old_value, \
                 length(old_value) > 0 AS kept \
          FROM kine) \
    WINDOW keys AS (PARTITION BY name ORDER BY id)";

/// Looks at everything. Faults are given to `found` as they are met.
pub fn check(database: &Database, facts: &Facts, found: &mut dyn FnMut(Fault)) -> Counts {
    integrity(database, found);
    if facts.compacted > facts.revision {
        let (compacted, revision) = (facts.compacted.unwrap_or(0), facts.revision.unwrap_or(0));
        let detail = format!("it is compacted up to {compacted}, which lies behind its last row {revision}");
        found(Fault { kind: FaultKind::Compaction, detail });
    }
    let mut counts = Counts::default();
    if let Err(error) = chains(database, facts.compacted.unwrap_or(0), &mut counts, found) {
        let detail = format!("the rows of keys cannot all be followed: {error}");
        found(Fault { kind: FaultKind::Integrity, detail });
    }
    counts
}

/// SQLite's own check, over all pages, indexes included.
fn integrity(database: &Database, found: &mut dyn FnMut(Fault)) {
    let mut add = |detail: String| found(Fault { kind: FaultKind::Integrity, detail });
    let query = format!("PRAGMA integrity_check({MAX_INTEGRITY})");
    let outcome = database.connection().prepare(&query).and_then(|mut statement| {
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match row.get_ref(0)? {
                ValueRef::Text(b"ok") => {}
                ValueRef::Text(text) => add(String::from_utf8_lossy(text).into_owned()),
                _ => {}
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        add(format!("it cannot be checked to its end: {}", Said(&error)));
    }
}

fn chains(
    database: &Database,
    compacted: i64,
    counts: &mut Counts,
    found: &mut dyn FnMut(Fault),
) -> Result<(), KineError> {
    let mut statement = database.connection().prepare(CHAINS)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        counts.rows += 1;
        let mut columns = [ValueRef::Null; 9];
        for (at, column) in columns.iter_mut().enumerate() {
            *column = row.get_ref(at)?;
        }
        let number = |at| row.get_ref(at).map(|value| if let ValueRef::Integer(id) = value { Some(id) } else { None });
        counts.old_values += u64::from(number(9)? == Some(1));
        let (before, next) = (number(10)?, number(11)?);
        match Row::decode(columns) {
            Err(fault) => {
                let id = number(0)?.unwrap_or(0);
                found(Fault { kind: FaultKind::Row, detail: format!("row {id} {fault}") });
            }
            Ok(row) => {
                counts.gaps += u64::from(row.kind() == RowKind::Gap);
                counts.keys += u64::from(row.kind() == RowKind::Record && next.is_none() && !row.deleted);
                if row.kind() == RowKind::Record {
                    chain(&row, before, compacted, found);
                }
            }
        }
    }
    Ok(())
}

/// Whether a row follows the one before it of its key.
fn chain(row: &Row<'_>, before: Option<i64>, compacted: i64, found: &mut dyn FnMut(Fault)) {
    let Row { id, created, deleted, create_revision, prev_revision, .. } = *row;
    let mut wrong = |kind, what: String| found(Fault { kind, detail: format!("row {id} {what}") });
    // A compaction takes every deletion up to its revision, whatever came after it, and of all else what was replaced by then.
    let taken_by = if created { prev_revision } else { id };
    if created && deleted {
        wrong(FaultKind::Row, "both creates and deletes its key".to_owned());
    }
    if prev_revision >= id {
        wrong(FaultKind::Row, format!("follows row {prev_revision}, which is not before it"));
    } else if create_revision > id {
        wrong(FaultKind::Row, format!("says that its key was created later, at {create_revision}"));
    } else if !created && prev_revision == 0 {
        wrong(FaultKind::Row, "changes a key that it says was not there".to_owned());
    } else if let Some(before) = before.filter(|before| *before != prev_revision) {
        wrong(FaultKind::Chain, format!("follows row {prev_revision}, but its key's row before it is {before}"));
    } else if before.is_none() && prev_revision > 0 && taken_by > compacted {
        let what =
            format!("follows row {prev_revision}, which is missing although nothing behind {compacted} was compacted");
        wrong(FaultKind::Chain, what);
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::tests::made;
    use super::*;

    fn checked(rows: &str) -> (Vec<(FaultKind, String)>, Counts) {
        let database = made(&format!("INSERT INTO kine VALUES {rows};"));
        let mut found = Vec::new();
        let counts = check(&database, &database.facts().unwrap(), &mut |fault| found.push((fault.kind, fault.detail)));
        (found, counts)
    }

    #[test]
    fn a_key_created_anew_outlives_the_deletion_before_it() {
        let anew = |compacted: i64| {
            checked(&format!(
                "(1, 'compact_rev_key', 1, 0, NULL, {compacted}, 0, x'', NULL), (9, '/a', 1, 0, NULL, 5, 0, x'09', NULL)"
            ))
        };
        assert_eq!(anew(5).0, []);
        assert_eq!(anew(4).0.len(), 1);
    }

    const COMPACTED: &str = "(1, 'compact_rev_key', 1, 0, NULL, 4, 0, x'', NULL)";

    #[test]
    fn a_sound_table_has_no_fault_and_is_counted() {
        let (found, counts) = checked(&format!(
            "{COMPACTED}, (4, '/a', 0, 0, 2, 3, 0, x'04', x'03'), (5, '/a', 0, 1, 2, 4, 0, NULL, x'04'), \
             (6, '/a', 1, 0, NULL, 5, 0, x'06', NULL), (7, 'gap-7', 0, 1, 0, 0, 0, NULL, NULL), \
             (8, '/b', 1, 0, 0, 0, 0, x'08', NULL)"
        ));
        assert_eq!(found, []);
        assert_eq!(counts, Counts { rows: 6, gaps: 1, old_values: 2, keys: 2 });
    }

    #[test]
    fn what_kine_never_writes_is_told_with_its_row() {
        let wrong = [
            ("(5, '/a', 1, 1, 0, 0, 0, NULL, NULL)", FaultKind::Row, "row 5 both creates and deletes its key"),
            ("(5, '/a', 1, 0, 0, 5, 0, x'', NULL)", FaultKind::Row, "row 5 follows row 5, which is not before it"),
            ("(5, '/a', 0, 0, 6, 4, 0, x'', NULL)", FaultKind::Row, "row 5 says that its key was created later, at 6"),
            ("(5, '/a', 0, 0, 0, 0, 0, x'', NULL)", FaultKind::Row, "row 5 changes a key that it says was not there"),
            ("(5, NULL, 1, 0, 0, 0, 0, x'', NULL)", FaultKind::Row, "row 5 has no name"),
            (
                "(5, '/a', 7, 0, 0, 0, 0, x'', NULL)",
                FaultKind::Row,
                "row 5 has in its column `created` what kine never puts there",
            ),
            (
                "(2, '/a', 1, 0, 0, 0, 0, x'', NULL), (5, '/a', 0, 0, 2, 3, 0, x'', NULL)",
                FaultKind::Chain,
                "row 5 follows row 3, but its key's row before it is 2",
            ),
            (
                "(5, '/a', 0, 0, 3, 3, 0, x'', NULL)",
                FaultKind::Chain,
                "row 5 follows row 3, which is missing although nothing behind 4 was compacted",
            ),
        ];
        for (rows, kind, detail) in wrong {
            assert_eq!(checked(&format!("{COMPACTED}, {rows}")).0, [(kind, detail.to_owned())]);
        }
        let (found, _) = checked(COMPACTED);
        assert_eq!(found[0].0, FaultKind::Compaction, "{found:?}");
    }
}
