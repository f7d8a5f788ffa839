//! A kine database that nobody else has open: its rows in the order of revisions, and single rows again.
//!
//! The file may be anybody's, so SQLite is told to trust nothing in it: no triggers or views run, no schema text calls a
//! function, cells are checked before they are used, and no value may be larger than [`MAX_VALUE_BYTES`]. It is opened
//! for itself alone, so that no shared-memory file comes to be beside it; whoever opens it gives a private copy.
//!
//! Formats: SQLite's database and write-ahead log (`sqlite.org/fileformat2.html`), of which only the header is read here.

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::row::{Row, RowFault};
use super::{KineError, schema};

/// No value is larger. Kubernetes and kine take a few megabytes at most.
pub const MAX_VALUE_BYTES: i32 = 256 << 20;

/// SQLite's page cache, in KiB.
const CACHE_KIB: i32 = 16 << 10;

/// Where rows and their copies are read from. A row stands beside the one that its `prev_revision` names, since what it
/// keeps of that one is a copy only as long as it is the same.
const ROWS: &str = "\
    SELECT k.id, k.name, k.created, k.deleted, k.create_revision, k.prev_revision, k.lease, k.value, k.old_value, \
           CASE WHEN k.old_value IS NULL OR p.name IS NOT k.name THEN 0 \
                WHEN p.deleted = 1 THEN p.old_value IS k.old_value ELSE p.value IS k.old_value END, \
           CASE WHEN k.value IS NULL OR k.deleted IS NOT 1 THEN 0 \
                ELSE k.value IS k.old_value OR (p.name IS k.name AND p.value IS k.value) END \
    FROM kine k LEFT JOIN kine p ON p.id = k.prev_revision";

/// An open database.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
}

/// What of a row's bytes stands elsewhere in the table, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies {
    /// The row before still has what is in `old_value`.
    pub old_value: bool,
    /// What a deletion has in `value` is in its `old_value`, or in the row before.
    pub value: bool,
}

/// What the database says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The greatest revision; none in an empty table.
    pub revision: Option<i64>,
    /// The revision up to which the table was compacted; none where it never was.
    pub compacted: Option<i64>,
    /// The row that says so. An old defect left several, of which the one with the greatest revision counts.
    pub compaction_row: Option<i64>,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages.
    pub pages: u64,
    /// Pages that hold nothing.
    pub free_pages: u64,
}

/// A row as SQLite gives it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'r> {
    /// The columns in the order of [`COLUMNS`](schema::COLUMNS).
    pub columns: [ValueRef<'r>; 9],
    /// What of it stands elsewhere, too.
    pub copies: Copies,
}

impl<'r> Stored<'r> {
    /// The row, read.
    pub fn row(&self) -> Result<Row<'r>, RowFault> {
        Row::decode(self.columns)
    }

    /// Its id; 0 where it has none.
    pub fn id(&self) -> i64 {
        match self.columns {
            [ValueRef::Integer(id), ..] => id,
            _ => 0,
        }
    }

    fn of(row: &'r rusqlite::Row<'_>) -> Result<Self, rusqlite::Error> {
        let mut columns = [ValueRef::Null; 9];
        for (at, column) in columns.iter_mut().enumerate() {
            *column = row.get_ref(at)?;
        }
        let is_true = |at| row.get_ref(at).map(|value| matches!(value, ValueRef::Integer(1)));
        Ok(Self { columns, copies: Copies { old_value: is_true(9)?, value: is_true(10)? } })
    }
}

/// What SQLite is to make of damage that shows when a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// Refuse it.
    Whole,
    /// Go on.
    Damaged,
}

/// What to do with a row.
pub type Visit<'v> = dyn FnMut(Stored<'_>) -> ControlFlow<()> + 'v;

impl Database {
    /// Opens a database that nobody else has open and that may be changed: a log beside it is brought in.
    pub fn open(path: &Path) -> Result<Self, KineError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::of(Connection::open_with_flags(path, flags)?, Care::Whole)
    }

    /// Opens one that SQLite finds too damaged for that, such as a file that was cut, as far as it goes.
    pub fn open_damaged(path: &Path) -> Result<Self, KineError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::of(Connection::open_with_flags(path, flags)?, Care::Damaged)
    }

    /// Opens a database that is whole in itself and nobody changes: it is only read, and nothing comes to be beside it.
    pub fn open_immutable(path: &Path) -> Result<Self, KineError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        Self::of(Connection::open_with_flags(format!("file:{}?immutable=1", encoded(path)), flags)?, Care::Whole)
    }

    fn of(connection: Connection, care: Care) -> Result<Self, KineError> {
        // What lets SQLite go on where a file is shorter than it says is meant for those who write schemas by hand.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, care == Care::Whole)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, care == Care::Damaged)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
        // Must come before the first read, or SQLite makes a file for the memory that it shares with others.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "mmap_size", 0)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        schema::recognise(&connection)?;
        Ok(Self { connection })
    }

    /// The connection, for what lies beside this file.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the database says of itself.
    pub fn facts(&self) -> Result<Facts, KineError> {
        let count = |pragma: &str| -> Result<u64, rusqlite::Error> {
            let count: i64 = self.connection.pragma_query_value(None, pragma, |row| row.get(0))?;
            Ok(u64::try_from(count).unwrap_or(0))
        };
        let compacted = "SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key' AND prev_revision > 0";
        let compaction_row = "SELECT MAX(id) FROM (SELECT id FROM kine WHERE name = 'compact_rev_key' \
                              ORDER BY prev_revision DESC, id DESC LIMIT 1)";
        Ok(Facts {
            revision: self.number("SELECT MAX(id) FROM kine NOT INDEXED")?,
            compacted: self.number(compacted)?,
            compaction_row: self.number(compaction_row)?,
            page_size: count("page_size")?,
            pages: count("page_count")?,
            free_pages: count("freelist_count")?,
        })
    }

    /// A number; none also where the pages that tell it are damaged, which is noticed when all of them are read.
    fn number(&self, query: &str) -> Result<Option<i64>, KineError> {
        match self.connection.query_row(query, [], |row| row.get(0)).map_err(KineError::from) {
            Err(error) if error.is_damage() => Ok(None),
            outcome => outcome,
        }
    }

    /// Gives all rows to `visit`, in the order of revisions, until it has enough.
    ///
    /// Where SQLite cannot go on, the rest is read from the other end, in falling order. What is lost between both is told as an
    /// error, with the last row before it and the first behind it.
    pub fn rows(&self, visit: &mut Visit<'_>) -> Result<(), Lost> {
        let mut last = i64::MIN;
        let forwards = self.scan("WHERE k.id > ?1 ORDER BY k.id", last, &mut |stored| {
            last = stored.id();
            visit(stored)
        });
        let Err(error) = forwards else { return Ok(()) };
        let mut first = None;
        // A row that was read already is where both ends meet: then nothing lies between.
        let backwards = self.scan("WHERE k.id > ?1 ORDER BY k.id DESC", last, &mut |stored| {
            first = Some(stored.id());
            visit(stored)
        });
        // Whatever could be read from behind, a row was lost where the first scan broke off.
        drop(backwards);
        Err(Lost { behind: (last > i64::MIN).then_some(last), before: first, error })
    }

    fn scan(&self, order: &str, from: i64, visit: &mut Visit<'_>) -> Result<(), KineError> {
        let mut statement = self.connection.prepare(&format!("{ROWS} {order}"))?;
        let mut rows = statement.query([from])?;
        while let Some(row) = rows.next()? {
            if visit(Stored::of(row)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Gives the row of a revision to `visit`, if there is one.
    pub fn row<T>(&self, id: i64, visit: impl FnOnce(Stored<'_>) -> T) -> Result<Option<T>, KineError> {
        let mut statement = self.connection.prepare_cached(&format!("{ROWS} WHERE k.id = ?1"))?;
        let mut rows = statement.query([id])?;
        Ok(rows.next()?.map(Stored::of).transpose()?.map(visit))
    }

    /// Whether a name's rows have these bytes, as a value or as an old one.
    pub fn has_value(&self, name: &[u8], value: &[u8]) -> Result<bool, KineError> {
        // Somebody may have put it there by hand, as text.
        let has = "SELECT EXISTS (SELECT 1 FROM kine WHERE name = ?1 \
                   AND (CAST(value AS BLOB) = ?2 OR CAST(old_value AS BLOB) = ?2))";
        let mut statement = self.connection.prepare_cached(has)?;
        Ok(statement.query_row((text(name), value), |row| row.get(0))?)
    }

    /// Whether a row is there: by its id, or where that is not known by the row before it, which no two rows of a name have.
    pub fn has_row(&self, id: Option<i64>, row: &Row<'_>) -> Result<bool, KineError> {
        let (column, number) = id.map_or(("prev_revision", row.prev_revision), |id| ("id", id));
        let has = format!("SELECT EXISTS (SELECT 1 FROM kine WHERE name = ?1 AND {column} = ?2)");
        let mut statement = self.connection.prepare_cached(&has)?;
        Ok(statement.query_row((text(row.name), number), |row| row.get(0))?)
    }

    /// How many rows there are.
    pub fn count(&self) -> Result<u64, KineError> {
        let count: i64 = self.connection.query_row("SELECT COUNT(*) FROM kine", [], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Gives at most so many names to `visit`, spread over all revisions.
    pub fn sample(&self, names: i64, visit: &mut dyn FnMut(&[u8])) -> Result<(), KineError> {
        let newest: Option<i64> = self.connection.query_row("SELECT MAX(id) FROM kine", [], |row| row.get(0))?;
        let Some(newest) = newest else { return Ok(()) };
        let step = (newest / names.max(1)).max(1);
        let next = "SELECT id, name FROM kine WHERE id >= ?1 ORDER BY id LIMIT 1";
        let mut statement = self.connection.prepare(next)?;
        let mut at = 1;
        while at <= newest {
            let mut rows = statement.query([at])?;
            let Some(row) = rows.next()? else { break };
            let id: i64 = row.get(0)?;
            if let ValueRef::Text(name) | ValueRef::Blob(name) = row.get_ref(1)? {
                visit(name);
            }
            at = id.max(at).saturating_add(step);
        }
        Ok(())
    }
}

/// A name as kine binds it.
fn text(name: &[u8]) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(ValueRef::Text(name))
}

/// A path within a URI.
fn encoded(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-');
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    path.as_os_str().as_bytes().iter().map(|byte| encode(*byte)).collect()
}

/// Rows that SQLite does not give.
#[derive(Debug)]
pub struct Lost {
    /// The last row before them; none where it begins with them.
    pub behind: Option<i64>,
    /// The first row behind them; none where it ends with them.
    pub before: Option<i64>,
    /// Why.
    pub error: KineError,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.behind, self.before) {
            (Some(behind), Some(before)) => write!(f, "rows between {behind} and {before}")?,
            (Some(behind), None) => write!(f, "rows behind {behind}")?,
            (None, Some(before)) => write!(f, "rows before {before}")?,
            (None, None) => f.write_str("all rows")?,
        }
        write!(f, " cannot be read: {}", self.error)
    }
}

impl KineError {
    /// Whether SQLite found the file damaged, and not merely something to be in its way.
    pub fn is_damage(&self) -> bool {
        let error = match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. }) => {
                error
            }
            _ => return false,
        };
        matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As kine 0.17 makes it.
    pub const SCHEMA: &str = "\
        CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER, \
            create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB); \
        CREATE INDEX kine_name_index ON kine (name); \
        CREATE INDEX kine_name_id_index ON kine (name,id); \
        CREATE INDEX kine_id_deleted_index ON kine (id,deleted); \
        CREATE INDEX kine_prev_revision_index ON kine (prev_revision); \
        CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);";

    /// A database in memory.
    pub fn made(rows: &str) -> Database {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&format!("{SCHEMA} {rows}")).unwrap();
        Database::of(connection, Care::Whole).unwrap()
    }

    /// A key that is created, updated, deleted and created anew, as kine before 0.16 writes it; what it kept of the
    /// first two rows is gone from the table.
    const OLD_ROWS: &str = "INSERT INTO kine VALUES \
        (1, 'compact_rev_key', 1, 0, 0, 4, 0, x'', NULL), \
        (4, '/a', 0, 0, 2, 3, 0, x'04', x'03'), \
        (5, '/a', 0, 1, 2, 4, 0, x'04', x'04'), \
        (6, '/a', 1, 0, 0, 5, 0, x'06', x'04'), \
        (7, 'gap-7', 0, 1, 0, 0, 0, NULL, NULL), \
        (9, '/a', 0, 0, 6, 6, 60, x'09', x'ff');";

    #[test]
    fn rows_come_in_order_and_know_what_is_a_copy() {
        let database = made(OLD_ROWS);
        let mut found = Vec::new();
        let whole = database.rows(&mut |stored| {
            let (row, copies) = (stored.row().unwrap(), stored.copies);
            found.push((row.id, row.create_revision, row.lease, copies.old_value, copies.value));
            ControlFlow::Continue(())
        });
        assert!(whole.is_ok());
        let expected = [
            (1, 1, 0, false, false),
            (4, 2, 0, false, false),
            (5, 2, 0, true, true),
            (6, 6, 0, true, false),
            (7, 0, 0, false, false),
            (9, 6, 60, false, false),
        ];
        assert_eq!(found, expected);
        let one =
            database.row(9, |stored| stored.row().map(|row| [row.name, row.value, row.old_value].concat())).unwrap();
        assert_eq!(one, Some(Ok(b"/a\x09\xff".to_vec())));
        assert_eq!(database.row(8, |_| ()).unwrap(), None);
    }

    #[test]
    fn the_greatest_compaction_and_the_greatest_row_count() {
        let twice = "INSERT INTO kine VALUES (1, 'compact_rev_key', 1, 0, NULL, 3, 0, x'', NULL), \
                     (2, 'compact_rev_key', 1, 0, NULL, 9, 0, x'', NULL), (12, '/a', 1, 0, NULL, 0, 0, x'01', NULL);";
        let facts = made(twice).facts().unwrap();
        assert_eq!((facts.revision, facts.compacted, facts.compaction_row), (Some(12), Some(9), Some(2)));
        let facts = made("").facts().unwrap();
        assert_eq!((facts.revision, facts.compacted, facts.free_pages), (None, None, 0));
    }

    #[test]
    fn a_sample_takes_names_from_all_over() {
        let rows: String =
            (1..=1000).map(|id| format!("INSERT INTO kine (id, name) VALUES ({id}, '/{id}');")).collect();
        let mut names = Vec::new();
        made(&rows).sample(10, &mut |name| names.push(String::from_utf8(name.to_vec()).unwrap())).unwrap();
        assert!((10..=12).contains(&names.len()), "{names:?}");
        assert_eq!((names.first().map(String::as_str), names.last().map(String::as_str)), (Some("/1"), Some("/901")));
    }
}
