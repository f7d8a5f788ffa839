//! A new database with another one's schema, into which rows are put in the order of their revisions.
//!
//! Nothing of the old file gets into it but what is put there: tables and indexes are made from their own statements, pages
//! are filled one after the other, as `VACUUM` would, and what SQLite frees meanwhile it clears. Tables of other programs,
//! such as Litestream's, are copied as they are. Statistics of `ANALYZE` are left out: they only help SQLite to plan.
//!
//! Upstream: SQLite's `src/vacuum.c` for what a database has beside its tables.

use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Statement};

use super::schema::COLUMNS;
use super::{Database, KineError};

/// Numbers in the file's header that are somebody's own.
const HEADER_PRAGMAS: [&str; 2] = ["user_version", "application_id"];

/// Objects of a database beside its tables.
const OBJECTS: &str = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid";

/// What a column holds, with its bytes. Text is whatever bytes stand there.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Cell {
    /// Nothing.
    #[default]
    Null,
    /// A number.
    Integer(i64),
    /// A number that kine never writes.
    Real(f64),
    /// Text.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Cell {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(bytes) => Self::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }

    fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }

    /// The bytes; none where it is a number or nothing.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(bytes) | Self::Blob(bytes) => bytes,
            Self::Null | Self::Integer(_) | Self::Real(_) => &[],
        }
    }
}

/// A row with its bytes, in the order of [`COLUMNS`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnedRow {
    cells: [Cell; 9],
}

impl OwnedRow {
    /// Takes a row as SQLite gives it.
    pub fn of(columns: [ValueRef<'_>; 9]) -> Self {
        Self { cells: columns.map(Cell::of) }
    }

    /// The columns as SQLite has them.
    pub fn columns(&self) -> [ValueRef<'_>; 9] {
        self.cells.each_ref().map(Cell::as_ref)
    }

    /// Bytes of its text and blobs.
    pub fn bytes(&self) -> usize {
        self.cells.iter().map(|cell| cell.bytes().len()).sum()
    }

    /// What is in the column of this name.
    pub fn cell(&self, column: &str) -> &Cell {
        let found = COLUMNS.iter().zip(&self.cells).find(|(name, _)| **name == column);
        found.map_or(&Cell::Null, |(_, cell)| cell)
    }

    /// Puts something else into the column of this name.
    pub fn set(&mut self, column: &str, cell: Cell) {
        let place = COLUMNS.iter().zip(&mut self.cells).find(|(name, _)| **name == column);
        if let Some((_, place)) = place {
            *place = cell;
        }
    }
}

/// A database on its way.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
}

impl Writer {
    /// Begins a database in an empty file that nobody else has open, with the tables of `source`.
    pub fn create(path: &Path, source: &Database) -> Result<Self, KineError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // The file is locked by whoever made it, in a way that SQLite's own locks could take for another's.
        let connection = Connection::open_with_flags_and_vfs(path, flags, c"unix-none")?;
        let from = source.connection();
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        for pragma in ["page_size", "auto_vacuum"] {
            let value: i64 = from.pragma_query_value(None, pragma, |row| row.get(0))?;
            connection.pragma_update(None, pragma, value)?;
        }
        let encoding: String = from.pragma_query_value(None, "encoding", |row| row.get(0))?;
        connection.pragma_update(None, "encoding", encoding)?;
        connection.pragma_update(None, "journal_mode", "OFF")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "secure_delete", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        for pragma in HEADER_PRAGMAS {
            let value: i64 = from.pragma_query_value(None, pragma, |row| row.get(0))?;
            connection.pragma_update(None, pragma, value)?;
        }
        connection.execute_batch("BEGIN")?;
        let writer = Self { connection };
        writer.make(source, "table")?;
        Ok(writer)
    }

    /// What is to be put in.
    pub fn rows(&self) -> Result<Rows<'_>, KineError> {
        let marks = vec!["?"; COLUMNS.len()].join(", ");
        let insert = format!("INSERT INTO main.kine ({}) VALUES ({marks})", COLUMNS.join(", "));
        let value = "SELECT value, old_value, deleted FROM main.kine WHERE id = ?1";
        Ok(Rows { insert: self.connection.prepare(&insert)?, value: self.connection.prepare(value)? })
    }

    /// Makes indexes, copies what other tables hold, and ends the file.
    pub fn finish(self, source: &Database) -> Result<(), KineError> {
        for table in other_tables(source)? {
            copy_table(source.connection(), &self.connection, &table)?;
        }
        self.make(source, "index")?;
        if has_sequence(source.connection())? {
            self.connection.execute("DELETE FROM sqlite_sequence", [])?;
            copy_table(source.connection(), &self.connection, "sqlite_sequence")?;
        }
        self.connection.execute_batch("COMMIT")?;
        self.connection.close().map_err(|(_, error)| error.into())
    }

    /// Makes all objects of a kind by their own statements.
    fn make(&self, source: &Database, wanted: &str) -> Result<(), KineError> {
        for object in objects(source)? {
            let Some(sql) = object.sql.filter(|_| object.kind == wanted && !is_internal(&object.name)) else {
                continue;
            };
            self.connection.execute(&sql, [])?;
        }
        Ok(())
    }
}

/// Puts rows in.
#[derive(Debug)]
pub struct Rows<'w> {
    insert: Statement<'w>,
    value: Statement<'w>,
}

impl Rows<'_> {
    /// Puts a row in.
    pub fn push(&mut self, row: &OwnedRow) -> Result<(), KineError> {
        self.insert.execute(rusqlite::params_from_iter(row.columns().map(ToSqlOutput::Borrowed)))?;
        Ok(())
    }

    /// `value` and `old_value` of a row that was put in, and whether it is a deletion.
    pub fn values(&mut self, id: i64) -> Result<Option<(Cell, Cell, bool)>, KineError> {
        let mut rows = self.value.query([id])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let deleted = matches!(row.get_ref(2)?, ValueRef::Integer(1));
        Ok(Some((Cell::of(row.get_ref(0)?), Cell::of(row.get_ref(1)?), deleted)))
    }
}

/// An object of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    kind: String,
    name: String,
    table: String,
    sql: Option<String>,
}

fn objects(database: &Database) -> Result<Vec<Object>, KineError> {
    let mut statement = database.connection().prepare(OBJECTS)?;
    let object = |row: &rusqlite::Row<'_>| {
        Ok(Object { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
    };
    let objects: Vec<_> = statement.query_map([], object)?.collect::<Result<_, _>>()?;
    match objects.iter().find(|object| !["table", "index"].contains(&object.kind.as_str())) {
        Some(other) => Err(KineError::Foreign(format!("the {} `{}`", other.kind, other.name))),
        None => Ok(objects),
    }
}

/// Says what of a database cannot be made anew; nothing if all of it can.
pub fn refusal(source: &Database) -> Result<(), KineError> {
    objects(source)?
        .into_iter()
        .filter_map(|object| object.sql.filter(|_| !is_internal(&object.name)))
        .try_for_each(statement)
}

/// Of tables and indexes only ordinary ones are known.
fn statement(sql: String) -> Result<(), KineError> {
    let begins = |word: &&str| sql.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    match ["CREATE TABLE", "CREATE INDEX", "CREATE UNIQUE INDEX"].iter().any(begins) {
        true => Ok(()),
        false => Err(KineError::Foreign("a virtual table".to_owned())),
    }
}

/// What SQLite makes for itself.
fn is_internal(name: &str) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"))
}

fn is_statistics(name: &str) -> bool {
    name.get(..11).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_stat"))
}

/// Tables that are not kine's.
fn other_tables(database: &Database) -> Result<Vec<String>, KineError> {
    let tables = objects(database)?.into_iter().filter(|object| object.kind == "table").map(|object| object.name);
    Ok(tables.filter(|name| name != "kine" && !is_internal(name)).collect())
}

fn has_sequence(connection: &Connection) -> Result<bool, KineError> {
    Ok(connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'")?.exists([])?)
}

/// Copies all rows of a table.
fn copy_table(from: &Connection, to: &Connection, table: &str) -> Result<(), KineError> {
    let quoted = table.replace('"', "\"\"");
    let mut read = from.prepare(&format!("SELECT * FROM main.\"{quoted}\""))?;
    let columns = read.column_count();
    let marks = vec!["?"; columns].join(", ");
    let mut insert = to.prepare(&format!("INSERT INTO main.\"{quoted}\" VALUES ({marks})"))?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let values: Vec<ValueRef<'_>> = (0..columns).map(|at| row.get_ref(at)).collect::<Result<_, _>>()?;
        let values = values.into_iter().map(ToSqlOutput::Borrowed);
        insert.execute(rusqlite::params_from_iter(values))?;
    }
    Ok(())
}

/// Says in what two databases differ beside the rows of kine's table; nothing if they do not.
pub fn difference(source: &Database, written: &Database) -> Result<Option<String>, KineError> {
    let schema = |database: &Database| -> Result<Vec<Object>, KineError> {
        let mut objects = objects(database)?;
        objects.retain(|object| !is_statistics(&object.name) && !is_statistics(&object.table));
        objects.sort_by(|one, other| (&one.kind, &one.name).cmp(&(&other.kind, &other.name)));
        Ok(objects)
    };
    if schema(source)? != schema(written)? {
        return Ok(Some("its tables or indexes are others".to_owned()));
    }
    let pragmas = ["page_size", "auto_vacuum"].into_iter().chain(HEADER_PRAGMAS);
    for pragma in pragmas {
        let value = |of: &Database| of.connection().pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        if value(source)? != value(written)? {
            return Ok(Some(format!("its {pragma} is another one")));
        }
    }
    let encoding = |of: &Database| of.connection().pragma_query_value(None, "encoding", |row| row.get::<_, String>(0));
    if encoding(source)? != encoding(written)? {
        return Ok(Some("its text has another encoding".to_owned()));
    }
    let mut tables = other_tables(source)?;
    tables.extend(has_sequence(source.connection())?.then(|| "sqlite_sequence".to_owned()));
    for table in tables {
        if content(source.connection(), &table)? != content(written.connection(), &table)? {
            return Ok(Some(format!("its table `{table}` holds something else")));
        }
    }
    Ok(None)
}

/// The rows of a table in any order, as digests.
fn content(connection: &Connection, table: &str) -> Result<Vec<u64>, KineError> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let quoted = table.replace('"', "\"\"");
    let mut read = connection.prepare(&format!("SELECT * FROM main.\"{quoted}\""))?;
    let columns = read.column_count();
    let mut rows = read.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut hash = DefaultHasher::new();
        for at in 0..columns {
            match row.get_ref(at)? {
                ValueRef::Null => 0_u8.hash(&mut hash),
                ValueRef::Integer(value) => (1_u8, value).hash(&mut hash),
                ValueRef::Real(value) => (2_u8, value.to_bits()).hash(&mut hash),
                ValueRef::Text(value) => (3_u8, value).hash(&mut hash),
                ValueRef::Blob(value) => (4_u8, value).hash(&mut hash),
            }
        }
        found.push(hash.finish());
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::database::tests::made;
    use super::*;

    fn rewritten(more: &str) -> Result<(tempfile::TempDir, Database, Database), KineError> {
        let source = made(&format!(
            "INSERT INTO kine VALUES (3, '/a', 1, 0, NULL, 0, 0, x'03', NULL), (9, 'ü', 0, 1, 3, 3, 0, NULL, x'03'); {more}"
        ));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new ü?.db");
        std::fs::File::create(&path).unwrap();
        let writer = Writer::create(&path, &source)?;
        let mut rows = writer.rows()?;
        let outcome = source.rows(&mut |stored| {
            rows.push(&OwnedRow::of(stored.columns)).unwrap();
            ControlFlow::Continue(())
        });
        assert!(outcome.is_ok());
        assert_eq!(rows.values(3)?, Some((Cell::Blob(vec![3]), Cell::Null, false)));
        drop(rows);
        writer.finish(&source)?;
        let written = Database::open_immutable(&path)?;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        Ok((folder, source, written))
    }

    #[test]
    fn schema_header_and_other_tables_are_taken_over() {
        let more = "PRAGMA user_version = 7; CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq); \
                    INSERT INTO _litestream_seq VALUES (1, 'x'), (2, NULL); UPDATE sqlite_sequence SET seq = 40; ANALYZE;";
        let (_folder, source, written) = rewritten(more).unwrap();
        assert_eq!(difference(&source, &written).unwrap(), None);
        assert_eq!(written.count().unwrap(), 2);
        let seq = "SELECT seq FROM sqlite_sequence WHERE name = 'kine'";
        assert_eq!(written.connection().query_row(seq, [], |row| row.get::<_, i64>(0)), Ok(40));
        let same = written.row(9, |stored| OwnedRow::of(stored.columns)).unwrap();
        assert_eq!(same, source.row(9, |stored| OwnedRow::of(stored.columns)).unwrap());
    }

    #[test]
    fn what_kine_never_makes_is_refused() {
        for (made, named) in [
            ("CREATE VIEW v AS SELECT 1;", "the view `v`"),
            ("CREATE TRIGGER t AFTER DELETE ON kine BEGIN SELECT 1; END;", "the trigger `t`"),
        ] {
            let error = rewritten(made).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_difference_is_told() {
        let said = |more: &str| difference(&made(""), &made(more)).unwrap().unwrap_or_default();
        assert_eq!(said(""), "");
        assert_eq!(said("DROP INDEX kine_name_index;"), "its tables or indexes are others");
        assert_eq!(said("PRAGMA user_version = 3;"), "its user_version is another one");
        let sequence = "INSERT INTO kine (name) VALUES ('/a'); DELETE FROM kine;";
        assert_eq!(said(sequence), "its table `sqlite_sequence` holds something else");
    }
}
