//! Data directories: a database and the log beside it, whole, damaged, and put together from parts that do not belong together.

mod broken;
mod log;
mod made;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use atrest::bbolt::write::{Fill, Writer};
use atrest::etcd::schema;
use flate2::read::GzDecoder;
use serde_json::Value;
use tempfile::TempDir;

use super::program::{argument, atrest, audit, cell, temporary, testdata};

/// The fixture, unpacked.
pub fn fixture() -> TempDir {
    let folder = temporary();
    let packed = File::open(testdata("datadir/data-dir.tar.gz")).unwrap();
    tar::Archive::new(GzDecoder::new(packed)).unpack(folder.path()).unwrap();
    folder
}

fn json(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(testdata(name)).unwrap()).unwrap()
}

/// The segments of a data directory's log, in their order.
pub fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("member/wal")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "wal")).collect();
    paths.sort();
    paths
}

/// A database of a fresh member, in which nothing was applied.
fn nothing_applied(path: &Path) {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    let mut writer = Writer::new(&file, 4096, 2).unwrap();
    for bucket in schema::BUCKETS {
        writer.bucket(bucket, 0, Fill::APPENDED).unwrap().finish().unwrap();
    }
    writer.finish().unwrap();
}

/// Revision and key-value hash as the restarted server said them.
fn agrees_with_the_server(data: &Path) -> Value {
    let info = json("datadir/info.json");
    let document = atrest(&["check", argument(data), "--hashkv", "-o", "json"]).json();
    assert_eq!(document["hashkv"], info["hashkv"], "{document:#}");
    assert_eq!(document["hashkv_revision"], info["revision"]);
    assert_eq!(document["hashkv_compact_revision"], info["compacted"]);
    document
}

/// Every live object as the log's writer meant it.
fn agrees_with_the_truth(data: &Path) {
    let config = testdata("datadir/encryption-config.json");
    let rows = audit(argument(data), &[&config], &["-o", "csv"]).rows();
    let rows: BTreeMap<_, _> = rows.iter().map(|row| (cell(row, "key").to_owned(), row)).collect();
    let text = fs::read_to_string(testdata("datadir/truth.jsonl")).unwrap();
    let mut seen = 0;
    for line in text.lines() {
        let truth: Value = serde_json::from_str(line).unwrap();
        let key = truth["key"].as_str().unwrap();
        let row = rows.get(key).unwrap_or_else(|| panic!("no row for {key}"));
        assert_eq!(cell(row, "mod_revision"), truth["mod_revision"].to_string(), "{key}");
        assert_eq!(cell(row, "provider"), truth["provider"].as_str().unwrap(), "{key}");
        assert_eq!(cell(row, "key_name"), truth["key_name"].as_str().unwrap(), "{key}");
        assert_eq!(cell(row, "readable"), "yes", "{key}");
        seen += 1;
    }
    let objects = rows.values().filter(|row| !cell(row, "resource").is_empty());
    assert_eq!(objects.count(), seen);
}

#[test]
fn the_database_with_its_log_is_what_the_restarted_server_said() {
    let folder = fixture();
    for path in [folder.path().to_owned(), folder.path().join("member")] {
        let document = atrest(&["check", argument(&path), "--hashkv", "-o", "json"]).json();
        let info = json("datadir/info.json");
        assert_eq!((&document["revision"], &document["hashkv"]), (&info["revision_in_db"], &info["hashkv"]));
    }
    let document = agrees_with_the_server(folder.path());
    let log = &document["log"];
    assert_eq!((&log["writes"], &log["segments"], &log["voters"]), (&132.into(), &3.into(), &1.into()), "{log:#}");
    assert_eq!((&log["consistent_index"], &log["applied"]["last"]), (&291.into(), &438.into()), "{log:#}");
    agrees_with_the_truth(folder.path());
}

#[test]
fn the_log_alone_from_its_first_entry_on_gives_the_same() {
    let folder = fixture();
    nothing_applied(&folder.path().join("member/snap/db"));
    let document = agrees_with_the_server(folder.path());
    assert_eq!(document["log"]["applied"]["first"], 1);
    agrees_with_the_truth(folder.path());
}

#[test]
fn all_commands_take_a_data_directory() {
    let folder = fixture();
    let (data, config) = (argument(folder.path()), testdata("datadir/encryption-config.json"));
    let table = audit(data, &[&config], &[]);
    assert!(table.text().contains("132 writes are only in the log"), "{}", table.text());
    let document = audit(data, &[&config], &["-o", "json"]).json();
    assert_eq!(document["source"]["kind"], "data-dir");
    let ids: Vec<_> = document["findings"].as_array().unwrap().iter().map(|finding| &finding["id"]).collect();
    assert!(ids.contains(&&Value::from("file.log-only")), "{ids:?}");

    let run = atrest(&["get", data, "secrets", "-c", &config, "-o", "name"]);
    // Of 331 names one was deleted by the log, and the last one is only there.
    let names: Vec<_> = run.text().lines().collect();
    assert_eq!((run.code, names.len(), names.last()), (0, 330, Some(&"secret/s-330")), "{}", run.err);
    assert!(!names.contains(&"secret/s-001"));
    let deleted = atrest(&["get", data, "secrets", "-c", &config, "-o", "name", "--deleted"]);
    assert_eq!(deleted.text(), "secret/s-001\n");

    let keys = atrest(&["keys", data, "-c", &config, "-o", "json"]).json();
    let row = keys["keys"].as_array().unwrap().iter().find(|row| row["key_name"] == "k").unwrap().clone();
    assert_eq!(row["entries"], 290, "{row:#}");
    let fit = atrest(&["fit", data, &config, "-o", "json"]);
    assert_eq!((fit.code, &fit.json()["entries"]), (0, &359.into()));

    // As it was when the database was written last, and one write later.
    let at = |revision: &str| audit(data, &[&config], &["-o", "csv", "--revision", revision]).rows().len();
    assert_eq!((at("283"), at("333"), at("334")), (282, 282, 283));
    let history = audit(data, &[&config], &["-o", "csv", "--history"]).rows();
    assert_eq!(history.iter().filter(|row| cell(row, "record") == "history").count(), 51);
    let failure = atrest(&["rewrite", data, "-c", &config, "--strip", "-o", argument(&folder.path().join("new.db"))]);
    assert!(failure.failed(3).contains("is a data directory"), "{}", failure.err);
}

#[test]
fn a_folder_that_is_no_members_is_said_to_be_none() {
    let folder = temporary();
    fs::create_dir_all(folder.path().join("member/wal")).unwrap();
    let failure = atrest(&["audit", argument(folder.path())]);
    assert!(failure.failed(3).contains("no member's data directory"), "{}", failure.err);
    fs::create_dir_all(folder.path().join("member/snap")).unwrap();
    fs::write(folder.path().join("member/snap/db"), b"not a database").unwrap();
    let failure = atrest(&["audit", argument(folder.path())]);
    assert!(failure.failed(3).contains("snap/db"), "{}", failure.err);
}
