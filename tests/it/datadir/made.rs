//! Databases and logs of a test's own making, in all the ways in which they fit and do not.

use std::fs::{self, File};
use std::path::PathBuf;

use atrest::bbolt::write::{Fill, Writer};
use atrest::etcd::{KeyValue, Revision, RevisionKey, schema};
use serde_json::Value;
use tempfile::TempDir;

use super::super::made::{secret, secret_key};
use super::super::program::{Row, argument, atrest, audit, cell, private, temporary};
use super::log::{Log, NODE, compact, put, put_with, revoke};
use super::segments;

/// The last entry that is in the databases here, and its term.
const INDEX: u64 = 20;
const TERM: u64 = 2;
const LEASE: i64 = 0x77;

/// A record of a database: key, value, creation, revision, version, lease.
type Record<'r> = (&'r str, &'r [u8], i64, i64, i64, i64);

/// A data directory with a database of these records.
fn directory(records: &[Record<'_>]) -> TempDir {
    let folder = temporary();
    fs::create_dir_all(folder.path().join("member/snap")).unwrap();
    let path = folder.path().join("member/snap/db");
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut writer = Writer::new(&file, 4096, 7).unwrap();
    for bucket in schema::BUCKETS {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        match bucket {
            schema::KEY => {
                for (key, value, create_revision, mod_revision, version, lease) in records.iter().copied() {
                    let revision = Revision { main: mod_revision, sub: 0 };
                    let key = key.as_bytes();
                    let kv = KeyValue { key, create_revision, mod_revision, version, value, lease };
                    pairs.push((RevisionKey { revision, tombstone: false }.encode(), kv.encode()));
                }
            }
            schema::META => {
                pairs.push((schema::CONSISTENT_INDEX.to_vec(), INDEX.to_be_bytes().to_vec()));
                pairs.push((schema::TERM.to_vec(), TERM.to_be_bytes().to_vec()));
            }
            schema::LEASE => pairs.push((LEASE.to_be_bytes().to_vec(), vec![8, 0x77, 16, 60])),
            schema::MEMBERS => pairs.push((format!("{NODE:x}").into_bytes(), br#"{"id":7,"name":"a"}"#.to_vec())),
            _ => {}
        }
        let mut bucket_writer = writer.bucket(bucket, 0, Fill::APPENDED).unwrap();
        pairs.iter().for_each(|(key, value)| bucket_writer.push(key, value).unwrap());
        bucket_writer.finish().unwrap();
    }
    writer.finish().unwrap();
    folder
}

/// One key at revision 5.
fn one_key() -> TempDir {
    directory(&[("/registry/a", b"tree", 3, 5, 2, 0)])
}

/// A log that goes from before the database's last entry to six puts behind it, two in each segment.
fn six_puts() -> Log {
    let mut log = Log::new(NODE, INDEX - 2);
    log.snapshot(INDEX - 4, &[NODE]);
    log.entry(TERM, b"");
    log.entry(TERM, b"");
    for number in 1..=6 {
        if number % 2 == 1 {
            log.cut();
        }
        log.entry(TERM, &put(&format!("/registry/{number}"), b"log"));
        log.state(TERM, INDEX + number - 1);
    }
    log
}

fn wal(folder: &TempDir) -> PathBuf {
    folder.path().join("member/wal")
}

fn rows(folder: &TempDir) -> Vec<Row> {
    audit(argument(folder.path()), &[], &["-o", "csv", "--history"]).rows()
}

fn keys(folder: &TempDir) -> Vec<String> {
    rows(folder).iter().filter(|row| cell(row, "record") == "entry").map(|row| cell(row, "key").to_owned()).collect()
}

/// A configuration that encrypts Secrets.
fn config(folder: &TempDir) -> String {
    private(
        folder,
        "config.json",
        br#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],
            "providers":[{"secretbox":{"keys":[{"name":"k","secret":"Adge2++wPwjkg+zMNQ281iseBpi7pY0sPwsT45vXsE8="}]}},{"identity":{}}]}]}"#,
    )
}

/// What the audit says of the log, and the words of all faults.
fn said(folder: &TempDir) -> (Value, Vec<String>) {
    let document = atrest(&["audit", argument(folder.path()), "-o", "json"]).json();
    let faults = document["faults"].as_array().unwrap().iter();
    let faults = faults.map(|fault| {
        assert_eq!(fault["kind"], "log", "{fault:#}");
        fault["detail"].as_str().unwrap().to_owned()
    });
    (document.clone(), faults.collect())
}

#[test]
fn what_the_log_has_goes_on_from_what_the_database_has() {
    let folder = one_key();
    let mut log = six_puts();
    log.entry(TERM, &put("/registry/a", b"log"));
    log.write(&wal(&folder));
    let (document, faults) = said(&folder);
    assert_eq!((faults.len(), &document["source"]["revision"]), (0, &12.into()), "{document:#}");
    let rows = rows(&folder);
    let of_a: Vec<_> = rows.iter().filter(|row| cell(row, "key") == "/registry/a").collect();
    let columns =
        |row: &Row| ["record", "create_revision", "mod_revision", "version"].map(|name| cell(row, name).to_owned());
    assert_eq!(
        of_a.iter().map(|row| columns(row)).collect::<Vec<_>>(),
        [["history", "3", "5", "2"], ["entry", "3", "12", "3"]]
    );
    assert_eq!(rows.len(), 8);
}

#[test]
fn a_segment_that_is_missing_ends_what_is_applied() {
    let folder = one_key();
    six_puts().write(&wal(&folder));
    fs::remove_file(&segments(folder.path())[2]).unwrap();
    let (document, faults) = said(&folder);
    assert_eq!(document["source"]["log"]["writes"], 2, "{document:#}");
    assert!(
        faults.len() == 1 && faults[0].contains("1 segments are missing") && faults[0].contains("not applied"),
        "{faults:?}"
    );
    assert_eq!(keys(&folder), ["/registry/1", "/registry/2", "/registry/a"]);
    assert_eq!(atrest(&["check", argument(folder.path())]).code, 1);
}

#[test]
fn a_segment_that_is_missing_before_what_is_needed_does_no_harm_and_is_said() {
    let folder = one_key();
    let mut log = Log::new(NODE, INDEX - 6);
    for number in 0..6 {
        log.entry(TERM, b"");
        if number % 2 == 1 {
            log.cut();
        }
    }
    log.entry(TERM, &put("/registry/1", b"log"));
    log.write(&wal(&folder));
    fs::remove_file(&segments(folder.path())[1]).unwrap();
    let (document, faults) = said(&folder);
    assert_eq!(document["source"]["log"]["writes"], 1, "{document:#}");
    assert!(faults.len() == 1 && !faults[0].contains("not applied"), "{faults:?}");
}

#[test]
fn a_log_that_begins_too_late_is_not_applied() {
    let folder = one_key();
    six_puts().write(&wal(&folder));
    segments(folder.path()).iter().take(2).for_each(|path| fs::remove_file(path).unwrap());
    let (document, faults) = said(&folder);
    assert_eq!(document["source"]["log"]["writes"], 0, "{document:#}");
    assert!(faults.len() == 1 && faults[0].contains("begins with entry 23"), "{faults:?}");
    assert_eq!(keys(&folder), ["/registry/a"]);
}

#[test]
fn a_bit_that_flipped_in_the_middle_ends_what_is_applied() {
    let folder = one_key();
    six_puts().write(&wal(&folder));
    let path = &segments(folder.path())[2];
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(3).position(|window| window == b"log").unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
    let (document, faults) = said(&folder);
    assert_eq!(document["source"]["log"]["writes"], 2, "{document:#}");
    assert!(faults[0].contains("does not fit its checksum") && faults[0].contains("not applied"), "{faults:?}");
    assert_eq!(keys(&folder), ["/registry/1", "/registry/2", "/registry/a"]);
}

#[test]
fn a_last_write_that_was_torn_is_no_fault() {
    let folder = one_key();
    six_puts().write(&wal(&folder));
    let path = segments(folder.path()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(11).rposition(|window| window == b"/registry/6").unwrap();
    fs::write(&path, &bytes[..at]).unwrap();
    let (document, faults) = said(&folder);
    assert_eq!((faults.len(), &document["source"]["log"]["writes"]), (0, &5.into()), "{document:#}");
    assert!(document["source"]["log"]["torn"].as_str().unwrap().contains("never finished"));
}

#[test]
fn another_members_log_is_not_applied() {
    let folder = one_key();
    let mut log = Log::new(99, INDEX - 2);
    (0..2).for_each(|_| log.entry(TERM, b""));
    log.entry(TERM, &put("/registry/foreign", b"x"));
    log.write(&wal(&folder));
    let (document, faults) = said(&folder);
    assert!(faults.len() == 1 && faults[0].contains("member 63 of cluster 9"), "{faults:?}");
    assert_eq!((keys(&folder), &document["source"]["log"]["writes"]), (vec!["/registry/a".to_owned()], &0.into()));
}

#[test]
fn a_log_of_another_history_is_not_applied() {
    let folder = one_key();
    let mut log = Log::new(NODE, INDEX - 1);
    log.entry(TERM + 1, b"");
    log.entry(TERM + 1, &put("/registry/foreign", b"x"));
    log.write(&wal(&folder));
    let (_, faults) = said(&folder);
    assert!(faults.len() == 1 && faults[0].contains("entry 20"), "{faults:?}");
    assert_eq!(keys(&folder), ["/registry/a"]);
}

#[test]
fn entries_that_were_written_anew_take_the_place_of_older_ones() {
    let folder = one_key();
    let mut log = Log::new(NODE, INDEX);
    for name in ["kept", "lost-1", "lost-2", "lost-3"] {
        log.entry(TERM, &put(&format!("/registry/{name}"), b"x"));
    }
    log.entry_at(TERM + 1, INDEX + 2, b"");
    log.cut();
    log.entry(TERM + 1, &put("/registry/new", b"x"));
    log.write(&wal(&folder));
    let (_, faults) = said(&folder);
    assert_eq!(faults, [""; 0]);
    assert_eq!(keys(&folder), ["/registry/a", "/registry/kept", "/registry/new"]);
}

#[test]
fn of_several_members_only_what_is_known_to_be_committed_is_applied() {
    let folder = one_key();
    let mut log = Log::new(NODE, INDEX - 1);
    log.snapshot(INDEX - 4, &[NODE, 8, 9]);
    log.entry(TERM, b"");
    for number in 1..=4 {
        log.entry(TERM, &put(&format!("/registry/{number}"), b"log"));
    }
    log.state(TERM, INDEX + 2);
    log.entry(TERM, b"");
    log.write(&wal(&folder));
    let (document, faults) = said(&folder);
    assert_eq!(faults, [""; 0]);
    assert_eq!(keys(&folder), ["/registry/1", "/registry/2", "/registry/a"]);
    let log = &document["source"]["log"];
    assert_eq!(
        (&log["voters"], &log["maybe_committed"]["first"], &log["maybe_committed"]["last"]),
        (&3.into(), &23.into(), &25.into())
    );
    assert_eq!(log["maybe_committed"]["changes"], 2);
    let findings = document["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["id"] == "file.maybe-committed").unwrap();
    // What may be lacking could need any key.
    let gate = atrest(&["keys", argument(folder.path()), "-c", &config(&folder), "--require-unused", "k"]);
    assert_eq!(gate.code, 1, "{}", gate.err);
    assert_eq!(
        (&finding["severity"], &finding["details"][0]),
        (&"warning".into(), &"entries 23 to 25 ask for 2 changes".into())
    );
}

#[test]
fn a_lease_takes_those_keys_that_still_hang_on_it() {
    let folder = directory(&[
        ("/registry/on", b"x", 2, 2, 1, LEASE),
        ("/registry/off", b"x", 3, 3, 1, LEASE),
        ("/registry/off", b"x", 3, 4, 2, 0),
        ("/registry/other", b"x", 5, 5, 1, 0),
        ("/registry/moved", b"x", 6, 6, 1, LEASE),
    ]);
    let mut log = Log::new(NODE, INDEX);
    log.entry(TERM, &put("/registry/moved", b"y"));
    log.entry(TERM, &put_with("/registry/unknown", b"y", 0x1234));
    log.entry(TERM, &revoke(LEASE));
    log.entry(TERM, &compact(7));
    log.write(&wal(&folder));
    assert_eq!(keys(&folder), ["/registry/moved", "/registry/off", "/registry/other"]);
    let (document, _) = said(&folder);
    let log = &document["source"]["log"];
    assert_eq!((&log["writes"], &log["refused"], &log["revision"]), (&2.into(), &1.into(), &8.into()));
    assert_eq!(document["source"]["compacted_revision"], 7);
}

#[test]
fn values_that_only_old_entries_have_are_residue() {
    let key = secret_key("a");
    let (old, new) = (secret("a", "b2xk"), secret("a", "bmV3"));
    let folder = directory(&[(&key, &new, 3, 5, 2, 0)]);
    let mut log = Log::new(NODE, INDEX - 3);
    log.entry(TERM, &put(&key, &old));
    log.entry(TERM, &put(&key, &new));
    log.entry(TERM, &put(&key, &old));
    log.entry(TERM, &put(&secret_key("b"), &secret("b", "bmV3")));
    log.write(&wal(&folder));
    let config = config(&folder);
    let document = audit(argument(folder.path()), &[&config], &["-o", "json"]).json();
    assert_eq!(document["totals"]["residue"], 1, "{document:#}");
    let findings = document["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["id"] == "residue-plaintext").unwrap();
    assert_eq!((&finding["count"], &finding["keys"][0]), (&1.into(), &key.as_str().into()));
    let rows = audit(argument(folder.path()), &[&config], &["-o", "csv", "--residue"]).rows();
    let left: Vec<_> = rows.iter().filter(|row| cell(row, "record") == "residue").collect();
    assert_eq!((left.len(), cell(left[0], "value_bytes")), (1, old.len().to_string().as_str()));
}

#[test]
fn files_that_are_no_segments_change_nothing() {
    let folder = one_key();
    six_puts().write(&wal(&folder));
    for (name, content) in
        [("1.tmp", &b""[..]), ("0000000000000001-0000000000000001.wal.broken", b"x"), ("lost+found", b"")]
    {
        fs::write(wal(&folder).join(name), content).unwrap();
    }
    fs::write(folder.path().join("member/snap/db.tmp.1234"), b"x").unwrap();
    fs::write(folder.path().join("member/snap/0000000000000002-0000000000000010.snap"), b"torn").unwrap();
    let (document, faults) = said(&folder);
    assert_eq!((faults.len(), &document["source"]["log"]["writes"]), (0, &6.into()), "{document:#}");
    assert_eq!(document["source"]["log"]["leftovers"].as_array().unwrap().len(), 5);
}

#[test]
fn an_entry_that_is_no_request_ends_what_is_applied() {
    let folder = one_key();
    let mut log = Log::new(NODE, INDEX);
    log.entry(TERM, &put("/registry/1", b"x"));
    log.entry(TERM, &[0x22, 0xff, 1]);
    log.entry(TERM, &put("/registry/2", b"x"));
    log.write(&wal(&folder));
    let (_, faults) = said(&folder);
    assert!(faults.len() == 1 && faults[0].contains("entry 22"), "{faults:?}");
    assert_eq!(keys(&folder), ["/registry/1", "/registry/a"]);
}

#[test]
fn without_a_log_the_database_is_read_alone_and_that_is_said() {
    let folder = one_key();
    let (document, faults) = said(&folder);
    assert_eq!((faults.len(), document["source"].get("log")), (0, None));
    assert_eq!(document["findings"][0]["id"], "file.log-only", "{document:#}");
    assert_eq!(keys(&folder), ["/registry/a"]);
}

#[test]
fn a_database_that_a_leader_sent_counts_from_when_the_log_says_so() {
    let (folder, sent) = (one_key(), directory(&[("/registry/sent", b"x", 30, 30, 1, 0)]));
    let from = sent.path().join("member/snap/db");
    fs::copy(from, folder.path().join("member/snap/000000000000001e.snap.db")).unwrap();
    let mut log = six_puts();
    log.write(&wal(&folder));
    assert!(keys(&folder).contains(&"/registry/a".to_owned()), "as long as no record of the log says so");
    log.snapshot(30, &[NODE]);
    log.write(&wal(&folder));
    assert!(keys(&folder).contains(&"/registry/sent".to_owned()));
}
