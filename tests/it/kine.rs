//! kine's SQLite as a source: held against SQLite's own view of it, the truth of its makers, and a model.

mod damage;
mod model;
mod rewritten;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{Row, Run, argument, atrest, atrest_reading, audit, cell, program, temporary, testdata};
use super::rows::{expect, hex};

/// A copy of K3s' store as kine left it when it was killed: most of it is only in the log.
pub fn store() -> (TempDir, PathBuf) {
    let folder = temporary();
    let packed = fs::File::open(testdata("kine/db.tar.gz")).unwrap();
    tar::Archive::new(GzDecoder::new(packed)).unpack(folder.path()).unwrap();
    let path = folder.path().join("state.db");
    (folder, path)
}

/// The same with the log brought in and gone.
pub fn merged() -> (TempDir, PathBuf) {
    let (folder, path) = store();
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    connection.close().unwrap();
    (folder, path)
}

pub fn config() -> String {
    testdata("kine/encryption-config.json")
}

fn info() -> Value {
    serde_json::from_str(&fs::read_to_string(testdata("kine/info.json")).unwrap()).unwrap()
}

/// Every name below a folder with its bytes.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

#[test]
fn every_entry_is_what_upstream_sealed() {
    let (_folder, path) = store();
    let rows = audit(argument(&path), &[&config()], &["-o", "csv"]).rows();
    let by_key: BTreeMap<_, _> = rows.iter().map(|row| (cell(row, "key"), row)).collect();
    assert_eq!(by_key.len(), rows.len());
    let truth = fs::read_to_string(testdata("kine/truth.jsonl")).unwrap();
    let truth: Vec<Value> = truth.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The health key is kine's own, and no object.
    assert_eq!((truth.len(), rows.len()), (62, 63));
    for line in truth {
        let text = |field: &str| line[field].as_str().unwrap();
        let row = by_key[text("key")];
        let sealed = text("provider") != "identity";
        expect(
            row,
            &[
                ("record", "entry"),
                ("resource", text("resource")),
                ("mod_revision", &line["mod_revision"].to_string()),
                ("provider", text("provider")),
                ("key_name", text("key_name")),
                ("state", if sealed { "encrypted" } else { "plaintext" }),
                ("readable", "yes"),
                ("version", "0"),
            ],
        );
        if !sealed {
            expect(row, &[("value_sha256", text("plaintext_sha256"))]);
        }
    }
}

#[test]
fn counts_are_those_of_its_makers() {
    let (_folder, path) = store();
    let (info, run) = (info(), atrest(&["check", argument(&path), "-o", "json"]));
    let found = run.json();
    assert_eq!((run.code, &found["faults"], &found["kind"]), (0, &json!([]), &json!("kine")));
    assert_eq!((&found["rows"], &found["revision"]), (&info["rows"], &info["max_id"]));
    assert_eq!((&found["totalKey"], &found["hash"], &found["trailer"]), (&json!(63), &json!(null), &json!(null)));
    let rows = audit(argument(&path), &[&config()], &["-o", "csv", "--history"]).rows();
    let secrets: Vec<_> = rows.iter().filter(|row| cell(row, "resource") == "secrets").collect();
    let count = |record: &str, state: &str| {
        let is = |row: &&&Row| cell(row, "record") == record && cell(row, "state") == state;
        secrets.iter().filter(is).count() as u64
    };
    assert_eq!(json!(secrets.len()), info["secret_rows"]);
    let plaintext = count("entry", "plaintext") + count("history", "plaintext");
    assert_eq!(json!(plaintext), info["secret_rows_plaintext_value"]);
    let old_values = Connection::open(&path).unwrap();
    let kept = "SELECT COUNT(*) FROM kine WHERE length(old_value) > 0";
    assert_eq!(found["old_values"], json!(old_values.query_row(kept, [], |row| row.get::<_, i64>(0)).unwrap()));
}

#[test]
fn without_its_log_next_to_nothing_is_left_and_that_is_said() {
    let (folder, path) = store();
    fs::remove_file(folder.path().join("state.db-wal")).unwrap();
    fs::remove_file(folder.path().join("state.db-shm")).unwrap();
    let found = audit(argument(&path), &[&config()], &["-o", "json"]).json();
    assert_eq!(found["totals"]["entries"], json!(0), "{found:#}");
    let ids: Vec<_> = found["findings"].as_array().unwrap().iter().map(|finding| &finding["id"]).collect();
    assert!(ids.contains(&&json!("file.no-log")), "{ids:?}");
}

#[test]
fn the_original_stays_as_it_is_and_no_copy_is_left() {
    let (folder, path) = store();
    let (before, temporary) = (content(folder.path()), temporary());
    let (source, config, out) = (argument(&path), config(), temporary.path().join("out.db"));
    let target = testdata("kubeadm/target-config.yaml");
    let commands: [&[&str]; 7] = [
        &["audit", source, "-c", &config, "-o", "csv", "--history", "--residue"],
        &["keys", source, "-c", &config],
        &["check", source],
        &["fit", source, &config],
        &["get", source, "secrets", "-A", "-c", &config],
        &["rewrite", source, "-c", &config, "--strip", "-o", argument(&out)],
        // Refused by what is there already.
        &["rewrite", source, "-c", &config, "--to", &target, "-o", argument(&out)],
    ];
    for command in commands {
        let done = program().args(command).env("TMPDIR", temporary.path()).output().unwrap();
        assert!(done.status.code().is_some_and(|code| code <= 4), "{command:?}: {:?}", done.status);
        assert!(content(folder.path()) == before, "{command:?}");
        let left: Vec<_> = fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "out.db"), "{command:?} left {left:?}");
    }
    assert!(out.exists());
}

#[test]
fn a_running_servers_store_is_read_without_a_lock() {
    let (_folder, path) = store();
    let server = Connection::open(&path).unwrap();
    server.execute_batch("PRAGMA journal_mode = WAL; BEGIN IMMEDIATE; DELETE FROM kine").unwrap();
    // The transaction is not committed, so nothing of it is seen.
    let found = audit(argument(&path), &[&config()], &["-o", "json"]).json();
    assert_eq!(found["totals"]["entries"], json!(63));
    server.execute_batch("COMMIT").unwrap();
    let found = audit(argument(&path), &[&config()], &["-o", "json"]).json();
    assert_eq!(found["totals"]["entries"], json!(0));
}

#[test]
fn containers_are_opened_with_the_log_inside() {
    let plain = store();
    let csv = |run: &Run| run.rows();
    let expected = csv(&audit(argument(&plain.1), &[&config()], &["-o", "csv", "--history"]));
    let packed = testdata("kine/db.tar.gz");
    assert_eq!(csv(&audit(&packed, &[&config()], &["-o", "csv", "--history"])), expected);
    let stdin = fs::read(&packed).unwrap();
    let run = atrest_reading(&stdin, &["audit", "-", "-c", &config(), "-o", "csv", "--history"]);
    assert_eq!(csv(&run), expected);
    let found = audit(&packed, &[&config()], &["-o", "json"]).json();
    assert_eq!((&found["source"]["kind"], &found["source"]["container"]), (&json!("kine"), &json!("tar+gzip")));
    assert_eq!(found["source"]["log_bytes"], json!(3_901_672));
    // A database by itself is whole in one file.
    let (_folder, path) = merged();
    let run = atrest_reading(&fs::read(path).unwrap(), &["audit", "-", "-c", &config(), "-o", "csv", "--history"]);
    assert_eq!(csv(&run), expected);
}

#[test]
fn what_kine_compacted_is_still_told_of_by_old_values() {
    let (_folder, path) = store();
    let connection = Connection::open(&path).unwrap();
    compact(&connection, 124);
    drop(connection);
    let found = audit(argument(&path), &[&config()], &["-o", "json"]).json();
    // Forty Secrets were plaintext once. Of twenty the rows that encrypted them still have it; the others were deleted, with their
    // tombstones, and all sixty were written anew once: what is left of those rows is on pages of before.
    let totals = &found["totals"];
    assert_eq!((&totals["history"], &totals["deleted"]), (&json!(0), &json!(0)));
    let findings = found["findings"].as_array().unwrap();
    let residue = findings.iter().find(|finding| finding["id"] == "residue-plaintext").unwrap();
    assert_eq!(residue["count"], json!(40), "{residue:#}");
    assert!(residue["remedy"].as_str().unwrap().contains("old_value"));
    let rows = audit(argument(&path), &[&config()], &["-o", "csv", "--history", "--residue"]).rows();
    let left: Vec<_> = rows.iter().filter(|row| cell(row, "record") == "residue").collect();
    assert_eq!(json!(left.len()), totals["residue"]);
    let source = Connection::open(&path).unwrap();
    let mut kept = 0;
    for row in &left {
        let sql = "SELECT old_value FROM kine WHERE prev_revision = ?1 AND name = ?2";
        let (revision, name): (i64, _) = (cell(row, "mod_revision").parse().unwrap(), cell(row, "key"));
        let old_value: Result<Vec<u8>, _> = source.query_row(sql, (revision, name), |row| row.get(0));
        if let Ok(old_value) = old_value {
            expect(row, &[("state", "plaintext"), ("value_sha256", &hex(&sha256(&old_value)))]);
            kept += 1;
        }
    }
    assert_eq!(kept, 20);
    drop(source);
    // What was there before is what is left, each value once, whatever number of pages it is on.
    let (_before, whole) = store();
    let rows = audit(argument(&whole), &[&config()], &["-o", "csv", "--history"]).rows();
    let value = |row: &Row| (cell(row, "key").to_owned(), cell(row, "value_sha256").to_owned());
    let wrote: BTreeSet<_> = rows.iter().filter(|row| cell(row, "record") != "deleted").map(value).collect();
    let there: BTreeSet<_> = left.iter().map(|row| value(row)).collect();
    assert!(there.len() == left.len() && there.is_subset(&wrote), "{:?}", there.difference(&wrote));
    let gate = |key: &str| atrest(&["keys", argument(&path), "-c", &config(), "--require-unused", key]).code;
    assert_eq!(gate("aescbckey"), 1);
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}

/// As kine does it, but for the last row, which it never reaches since it keeps a thousand.
pub fn compact(connection: &Connection, to: i64) {
    let delete = "DELETE FROM kine AS kv WHERE kv.id IN (\
        SELECT kp.prev_revision FROM kine AS kp WHERE kp.name != 'compact_rev_key' AND kp.prev_revision != 0 AND kp.id <= ?1 \
        UNION ALL SELECT kd.id FROM kine AS kd WHERE kd.deleted != 0 AND kd.id <= ?1) \
        AND kv.id != (SELECT MAX(id) FROM kine)";
    connection.execute(delete, [to]).unwrap();
    connection.execute("UPDATE kine SET prev_revision = ?1 WHERE name = 'compact_rev_key'", [to]).unwrap();
}

#[test]
fn the_store_is_looked_at_as_it_was() {
    let (_folder, path) = store();
    let at = |revision: &str| audit(argument(&path), &[&config()], &["-o", "json", "--revision", revision]).json();
    // Revision 3 created the first Secret in plaintext, 4 encrypted it.
    assert_eq!(at("3")["totals"]["plaintext"], json!(2));
    assert_eq!((&at("4")["totals"]["encrypted"], &at("4")["totals"]["history"]), (&json!(1), &json!(1)));
    audit(argument(&path), &[&config()], &["--revision", "125"]).failed(2);
    let connection = Connection::open(&path).unwrap();
    compact(&connection, 50);
    drop(connection);
    let said = audit(argument(&path), &[&config()], &["--revision", "49"]);
    assert!(said.failed(2).contains("revision 49 was compacted away"), "{}", said.err);
    let found = atrest(&["check", argument(&path), "-o", "json"]).json();
    assert_eq!((&found["compacted_revision"], &found["faults"]), (&json!(50), &json!([])));
}

#[test]
fn objects_come_out_of_it() {
    let (_folder, path) = store();
    let names = atrest(&["get", argument(&path), "secrets", "-A", "-c", &config(), "-o", "name"]);
    assert_eq!((names.code, names.text().lines().count()), (0, 60), "{}", names.err);
    let arguments = ["get", argument(&path), "secret", "s-00", "-c", &config(), "-o", "json"];
    let secret = atrest(&arguments).json();
    assert_eq!((&secret["metadata"]["name"], &secret["metadata"]["resourceVersion"]), (&json!("s-00"), &json!("4")));
    let all = atrest(&[&arguments[..], &["--all-revisions"]].concat());
    assert_eq!(all.code, 0, "{}", all.err);
}

#[test]
fn a_configuration_that_belongs_to_it_is_found() {
    let (_folder, path) = store();
    let other = testdata("k3s/encryption-config.json");
    let fits = atrest(&["fit", argument(&path), &config(), &other, "-o", "json"]);
    assert_eq!(fits.code, 0, "{}", fits.text());
    assert_eq!(atrest(&["fit", argument(&path), &other]).code, 1);
}

#[test]
fn another_programs_database_is_one_sentence() {
    let folder = temporary();
    let path = folder.path().join("places.sqlite");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE places (id INTEGER PRIMARY KEY, url TEXT)").unwrap();
    for command in ["audit", "check", "keys"] {
        let run = atrest(&[command, argument(&path)]);
        let said = run.failed(3);
        assert!(
            said.contains("is an SQLite database, but not kine's: it has no table `kine`, only `places`"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 2, "{said}");
    }
    let (folder, _) = store();
    let log = folder.path().join("state.db-wal");
    assert!(audit(argument(&log), &[], &[]).failed(3).contains("is the log of an SQLite database"));
}

#[test]
fn kine_has_no_key_value_hash() {
    let (_folder, path) = store();
    assert!(atrest(&["check", argument(&path), "--hashkv"]).failed(2).contains("kine has no key-value hash"));
}
