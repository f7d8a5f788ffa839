//! A rewritten store, held against its source by SQLite itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rusqlite::types::Value as Cell;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use tempfile::TempDir;

use super::super::program::{argument, atrest, audit};
use super::super::rewrite::{configuration, count_of, rewrite};
use super::{compact, config, content, store};

/// A row: its id, and the other columns in their order.
type Rows = BTreeMap<i64, Vec<Cell>>;

const VALUE: usize = 6;
const OLD_VALUE: usize = 7;

fn rows(path: &Path) -> Rows {
    // As SQLite sees it when it may not touch anything: a file that is whole in itself.
    let uri = format!("file:{}?immutable=1", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    all_rows(&Connection::open_with_flags(uri, flags).unwrap())
}

fn all_rows(connection: &Connection) -> Rows {
    let columns =
        "SELECT id, name, created, deleted, create_revision, prev_revision, lease, value, old_value FROM kine";
    let mut statement = connection.prepare(columns).unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, (1..9).map(|at| row.get(at)).collect::<Result<_, _>>()?));
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

fn schema(path: &Path) -> Vec<(String, Option<String>)> {
    let uri = format!("file:{}?immutable=1", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags).unwrap();
    let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

fn bytes(cell: &Cell) -> &[u8] {
    match cell {
        Cell::Blob(bytes) => bytes,
        Cell::Text(text) => text.as_bytes(),
        _ => &[],
    }
}

struct Rewritten {
    folder: TempDir,
    source: PathBuf,
    output: PathBuf,
    target: String,
    before: Rows,
}

/// Rewrites the store, after `change` was made to it, for a target whose only key for Secrets is a new one.
fn rewritten(change: impl FnOnce(&Connection), more: &[&str]) -> Rewritten {
    let (folder, source) = store();
    let connection = Connection::open(&source).unwrap();
    change(&connection);
    let before = all_rows(&connection);
    drop(connection);
    let target = configuration(&folder, "secretbox", "new", &["secrets"]);
    let output = folder.path().join("new.db");
    let untouched = content(folder.path());
    let run = rewrite(argument(&source), &output, &[&["-c", &config(), "--to", &target][..], more].concat());
    assert_eq!((run.code, &run.json()["proved"]), (0, &json!(true)), "{}{}", run.text(), run.err);
    assert_eq!(run.json()["output"]["form"], json!("kine"));
    let mut after = content(folder.path());
    after.remove(&output).unwrap();
    assert!(after == untouched, "the source, or something beside it, was touched");
    Rewritten { folder, source, output, target, before }
}

#[test]
fn every_row_keeps_everything_but_its_values_and_these_open_with_the_target_alone() {
    let done = rewritten(|_| (), &[]);
    let (before, after) = (&done.before, rows(&done.output));
    assert_eq!(schema(&done.output), schema(&super::merged().1));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (id, row) in before {
        let new = &after[id];
        assert_eq!(row[..VALUE], new[..VALUE], "row {id}");
        let is_secret = bytes(&row[0]).starts_with(b"/registry/secrets/");
        for column in [VALUE, OLD_VALUE] {
            match bytes(&row[column]).is_empty() || !is_secret {
                true => assert_eq!(row[column], new[column], "row {id}"),
                false => assert!(bytes(&new[column]).starts_with(b"k8s:enc:secretbox:v1:new:"), "row {id}"),
            }
        }
        // What was a copy of the row before it still is one.
        let Cell::Integer(prev) = row[4] else { panic!("row {id}") };
        if let Some(older) = before.get(&prev).filter(|older| older[VALUE] == row[OLD_VALUE] && is_secret) {
            assert!(!bytes(&older[VALUE]).is_empty() && after[&prev][VALUE] == new[OLD_VALUE], "row {id}");
        }
    }
    let file = fs::read(&done.output).unwrap();
    assert_eq!((count_of(b"k8s:enc:aescbc", &file), &file[18..20]), (0, &[2, 2][..]));
    assert_eq!(fs::metadata(&done.output).unwrap().permissions().mode() & 0o777, 0o600);
    let found = audit(argument(&done.output), &[&done.target], &["-o", "json"]).json();
    let totals = &found["totals"];
    let counts =
        ["entries", "history", "deleted", "residue", "encrypted", "readable", "stale"].map(|name| &totals[name]);
    assert_eq!(counts, [&json!(63), &json!(40), &json!(20), &json!(0), &json!(60), &json!(63), &json!(0)]);
    // Object by object they are what they were.
    let get = |path: &Path, config: &str| {
        let run = atrest(&["get", argument(path), "secrets", "-A", "-c", config, "-o", "json", "--all-revisions"]);
        assert_eq!(run.code, 0, "{}", run.err);
        run.out
    };
    assert!(get(&done.source, &config()) == get(&done.output, &done.target));
}

#[test]
fn what_a_compaction_took_out_and_rows_still_keep_is_rewritten_too() {
    let done = rewritten(|connection| compact(connection, 124), &[]);
    let after = rows(&done.output);
    let kept: Vec<_> = after.values().filter(|row| !bytes(&row[OLD_VALUE]).is_empty()).collect();
    assert_eq!(kept.len(), 20);
    assert!(kept.iter().all(|row| bytes(&row[OLD_VALUE]).starts_with(b"k8s:enc:secretbox:v1:new:")));
    let found = audit(argument(&done.output), &[&done.target], &["-o", "json"]).json();
    let ids: Vec<_> = found["findings"].as_array().unwrap().iter().map(|finding| finding["id"].clone()).collect();
    assert!(!ids.iter().any(|id| id.as_str().unwrap().starts_with("residue-")), "{ids:?}");
}

#[test]
fn dropping_history_leaves_what_kines_own_compaction_does_and_no_old_value() {
    // The last revision is a deletion, which tells the store's revision and must stay.
    let delete = "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) \
                  SELECT name, 0, 1, 124, 124, 0, value, value FROM kine WHERE id = 124; \
                  INSERT INTO kine VALUES (130, 'gap-130', 0, 1, 0, 0, 0, NULL, NULL);";
    for change in ["", delete] {
        let done = rewritten(|connection| connection.execute_batch(change).unwrap(), &["--drop-history"]);
        let (_folder, model) = store();
        let model = Connection::open(model).unwrap();
        model.execute_batch(change).unwrap();
        let last: i64 = model.query_row("SELECT MAX(id) FROM kine", [], |row| row.get(0)).unwrap();
        compact(&model, last);
        let (expected, after) = (all_rows(&model), rows(&done.output));
        assert_eq!(after.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert_eq!(after[&1][4], Cell::Integer(last));
        for (id, row) in &after {
            assert_eq!(row[..VALUE], expected[id][..VALUE], "row {id}");
            assert_eq!(row[OLD_VALUE], Cell::Null, "row {id}");
        }
        let check = atrest(&["check", argument(&done.output), "-o", "json"]).json();
        assert_eq!((&check["faults"], &check["revision"], &check["free_pages"]), (&json!([]), &json!(last), &json!(0)));
        let file = fs::read(&done.output).unwrap();
        assert_eq!(count_of(b"k8s:enc:aescbc", &file), 0);
        let sealed: usize = after.values().map(|row| count_of(b"k8s:enc:", bytes(&row[VALUE]))).sum();
        assert_eq!(count_of(b"k8s:enc:", &file), sealed);
    }
}

#[test]
fn values_of_deletions_of_older_releases_are_rewritten_as_what_they_are() {
    // Before 0.16 a deletion has what it deleted in both columns, and a key created anew keeps it once more.
    let older = "UPDATE kine SET value = old_value WHERE deleted = 1 AND name NOT LIKE 'gap-%'; \
                 INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) \
                 SELECT name, 1, 0, 0, id, 0, old_value, old_value FROM kine WHERE id = 8;";
    let done = rewritten(|connection| connection.execute_batch(older).unwrap(), &[]);
    let after = rows(&done.output);
    let deletions: Vec<_> = after.values().filter(|row| row[2] == Cell::Integer(1)).collect();
    assert_eq!(deletions.len(), 20);
    for row in deletions {
        assert!(bytes(&row[VALUE]).starts_with(b"k8s:enc:secretbox:v1:new:") && row[VALUE] == row[OLD_VALUE]);
    }
    assert_eq!(after[&125][OLD_VALUE], after[&8][OLD_VALUE]);
    let sealed = fs::read(&done.output).unwrap();
    assert_eq!(count_of(b"k8s:enc:aescbc", &sealed), 0);
    let plain = done.folder.path().join("plain.db");
    let run = rewrite(argument(&done.output), &plain, &["-c", &done.target, "--strip"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(count_of(b"k8s:enc:", &fs::read(&plain).unwrap()), 0);
}

#[test]
fn what_does_not_open_or_is_k3s_own_record_is_refused_and_nothing_is_written() {
    let refused = |change: &str, more: &[&str]| {
        let (folder, source) = store();
        Connection::open(&source).unwrap().execute_batch(change).unwrap();
        let (target, output) = (configuration(&folder, "secretbox", "new", &["secrets"]), folder.path().join("new.db"));
        let run = rewrite(argument(&source), &output, &[&["-c", &config(), "--to", &target][..], more].concat());
        let names: Vec<_> = content(folder.path()).into_keys().collect();
        assert_eq!(output.exists(), matches!(run.code, 0 | 1), "{names:?}");
        assert!(!names.iter().any(|name| name.to_string_lossy().contains("atrest-part")), "{names:?}");
        run
    };
    let bootstrap = "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value) \
                     VALUES ('/bootstrap/fb07916a0e7d', 1, 0, 0, 0, 0, x'00')";
    let run = refused(bootstrap, &[]);
    assert_eq!((run.code, &run.json()["obstacle"]), (4, &json!("bootstrap")));
    assert_eq!(refused(bootstrap, &["--keep-distro-state"]).code, 0);
    // An old value that does not open is as much in the way as a value.
    let broken = "UPDATE kine SET old_value = CAST('k8s:enc:aescbc:v1:aescbckey:' AS BLOB) || x'00' WHERE id = 4";
    let run = refused(broken, &[]);
    let found = run.json();
    assert_eq!((run.code, &found["obstacle"], &found["refused"][0]["revision"]), (4, &json!("values"), &json!(3)));
    assert_eq!(refused(broken, &["--keep-unreadable"]).code, 1);
    assert_eq!(refused(broken, &["--drop-history"]).code, 0);
    assert!(refused("CREATE VIEW v AS SELECT 1", &[]).failed(3).contains("holds the view `v`"));
    assert!(refused("UPDATE kine SET created = 9 WHERE id = 9", &[]).failed(3).contains("row 9"));
    for more in [&["--format", "db"][..], &["--for-etcd", "3.6"]] {
        assert!(refused("", more).failed(2).contains("the source is kine's SQLite"));
    }
}

#[test]
fn neither_the_store_nor_its_log_is_ever_the_new_file() {
    let (folder, source) = store();
    let target = configuration(&folder, "secretbox", "new", &["secrets"]);
    let before = content(folder.path());
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let output = folder.path().join(name);
        let run = rewrite(argument(&source), &output, &["-c", &config(), "--to", &target, "--force"]);
        assert!(run.failed(4).contains("it is the same file as the input"), "{}", run.err);
        assert!(content(folder.path()) == before);
    }
    let plan = atrest(&["rewrite", argument(&source), "-c", &config(), "--to", &target, "--dry-run"]);
    assert!(plan.code == 0 && plan.text().starts_with("[PLAN]"), "{}", plan.text());
}
