//! Whether a database is kine's, told by its table.
//!
//! Releases differ in the declared types (`name` was `INTEGER` up to 0.16.2 although text is in it) and in their indexes,
//! which do not matter to a reader: SQLite keeps with each value what it is. So the names of the columns decide.
//!
//! Upstream: `k3s-io/kine` `pkg/drivers/sqlite/sqlite.go`.

use rusqlite::Connection;

use super::KineError;

/// The columns, in the order in which kine makes them.
pub const COLUMNS: [&str; 9] =
    ["id", "name", "created", "deleted", "create_revision", "prev_revision", "lease", "value", "old_value"];

/// Tables of a foreign database that are named.
const NAMED_TABLES: i64 = 5;

/// Says why a database is not kine's; nothing if it is.
pub fn recognise(connection: &Connection) -> Result<(), KineError> {
    // What the database itself says of a table is asked of SQLite, since its text could be anything.
    let kind = "SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = 'kine'";
    let mut kinds = connection.prepare(kind)?;
    let mut found = kinds.query([])?;
    match found.next()?.map(|row| row.get::<_, String>(0)).transpose()?.as_deref() {
        Some("table") => {}
        Some(other) => return Err(KineError::Schema(format!("it is a {other}"))),
        None => return Err(KineError::NotKine { tables: tables(connection)? }),
    }
    let mut columns: Vec<String> = Vec::new();
    let mut statement = connection.prepare("SELECT name, pk, hidden FROM pragma_table_xinfo('kine')")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, key, hidden) = (row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?);
        if hidden != 0 {
            return Err(KineError::Schema(format!("its column `{}` is computed", quotable(&name))));
        }
        if (key != 0) != (name == "id") {
            return Err(KineError::Schema("its primary key is not `id`".to_owned()));
        }
        columns.push(name);
    }
    let missing = COLUMNS.iter().find(|column| !columns.iter().any(|name| name == *column));
    if let Some(missing) = missing {
        return Err(KineError::Schema(format!("it has no column `{missing}`")));
    }
    match columns.iter().find(|name| !COLUMNS.contains(&name.as_str())) {
        Some(other) => Err(KineError::Schema(format!("it has a column `{}`", quotable(other)))),
        None => Ok(()),
    }
}

/// The first tables of a database that is not kine's.
fn tables(connection: &Connection) -> Result<Vec<String>, KineError> {
    let named = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                 ORDER BY name LIMIT ?1";
    let mut statement = connection.prepare(named)?;
    let names = statement.query_map([NAMED_TABLES], |row| row.get::<_, String>(0))?;
    let names = names.collect::<Result<Vec<_>, _>>()?;
    Ok(names.iter().map(|name| format!("`{}`", quotable(name))).collect())
}

/// A name for an error: no more of it than fits, and nothing that a terminal would obey.
fn quotable(name: &str) -> String {
    name.chars().take(40).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(schema: &str) -> String {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(schema).unwrap();
        recognise(&connection).map_or_else(|error| error.to_string(), |()| "kine".to_owned())
    }

    const REST: &str =
        "created INTEGER, deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER";

    #[test]
    fn every_release_of_kine_is_recognised_by_its_columns() {
        for name in ["INTEGER", "TEXT", "TEXT NOT NULL"] {
            let table = format!(
                "CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name {name}, {REST}, value BLOB, old_value BLOB)"
            );
            assert_eq!(said(&table), "kine");
        }
    }

    #[test]
    fn another_programs_database_is_one_sentence() {
        let foreign = "CREATE TABLE moz_places (id INTEGER PRIMARY KEY); CREATE TABLE b (x)";
        assert_eq!(
            said(foreign),
            "is an SQLite database, but not kine's: it has no table `kine`, only `b`, `moz_places`"
        );
        assert_eq!(said(""), "is an SQLite database, but not kine's: it has no table `kine`");
    }

    #[test]
    fn a_table_of_that_name_is_not_enough() {
        let all = "id INTEGER PRIMARY KEY, name TEXT";
        assert!(said("CREATE VIEW kine AS SELECT 1").ends_with("it is a view"));
        assert!(said(&format!("CREATE TABLE kine ({all}, {REST}, value BLOB)")).ends_with("no column `old_value`"));
        let more = format!("CREATE TABLE kine ({all}, {REST}, value BLOB, old_value BLOB, theirs TEXT)");
        assert!(said(&more).ends_with("it has a column `theirs`"));
        let key = format!("CREATE TABLE kine (id INTEGER, name TEXT PRIMARY KEY, {REST}, value BLOB, old_value BLOB)");
        assert!(said(&key).ends_with("primary key is not `id`"));
        let computed = format!("CREATE TABLE kine ({all}, {REST}, old_value BLOB, value AS (old_value))");
        assert!(said(&computed).ends_with("`value` is computed"));
    }
}
