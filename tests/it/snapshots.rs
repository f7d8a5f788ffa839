//! Snapshots as real servers write them.

use std::fs;
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::etcdutl;
use super::program::{argument, atrest, audit, cell};
use super::servers::{Release, Server};
use super::walk;

/// A few revisions: two writes of one key, one that is deleted, and a large value of all bytes.
fn filled(release: Release) -> Server {
    let server = Server::start(release);
    let large: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    server.put("/registry/secrets/default/a", b"first");
    server.put("/registry/secrets/default/a", b"second");
    server.put("/registry/secrets/default/gone", b"x");
    server.put("/registry/secrets/default/large", &large);
    server.delete("/registry/secrets/default/gone");
    server.compact(3);
    server
}

#[test]
fn a_snapshot_begins_with_a_meta_page_and_ends_with_its_digest() {
    for release in Release::ALL {
        let server = filled(release);
        let path = server.snapshot();
        let bytes = fs::read(&path).unwrap();
        let (database, trailer) = bytes.split_at(bytes.len() - 32);
        assert_eq!(bytes.get(16..20), Some(&0xED0C_DAED_u32.to_le_bytes()[..]), "{release:?}");
        assert_eq!(Sha256::digest(database).as_slice(), trailer, "{release:?}");

        let status = etcdutl::snapshot_status(&path);
        assert_eq!(status.revision, 6, "{release:?}");
        assert_eq!(status.total_size, database.len() as u64, "{release:?}");
    }
}

#[test]
fn servers_run_side_by_side() {
    let [older, newer] = Release::ALL;
    let starts = [older, newer, newer].map(|release| thread::spawn(move || filled(release)));
    let servers = starts.map(|start| start.join().unwrap());
    for server in &servers {
        assert_eq!(etcdutl::snapshot_status(&server.snapshot()).revision, 6);
    }
}

/// Writes of every kind: overwrites, deletions, a key that came back, leases, and a compaction in between.
fn busy(release: Release) -> Server {
    let server = Server::start(release);
    let key = |index: usize| format!("/registry/secrets/default/s-{index:02}");
    for index in 0..12 {
        server.put(key(index), format!("value {index}").as_bytes());
    }
    (0..6).for_each(|index| server.put(key(index), b"again"));
    [1, 7, 8].into_iter().for_each(|index| server.delete(&key(index)));
    let lease = server.put_with_lease("/registry/events/default/e", b"short-lived");
    assert_eq!(lease.len(), 16);
    server.compact(15);
    server.put(key(7), b"back again");
    server.put(key(2), b"");
    server.put_with_lease(&key(3), &[0, 255, b'\n']);
    server.delete(&key(11));
    server
}

#[test]
fn rows_equal_what_the_server_itself_says() {
    for release in Release::ALL {
        let server = busy(release);
        let said = server.all();
        let rows = audit(argument(&server.snapshot()), &[], &["-o", "csv"]).rows();
        assert_eq!((rows.len(), said.len()), (10, 10), "{release:?}");
        for (row, said) in rows.iter().zip(&said) {
            let [key, value] = [&said.key, &said.value].map(|base64| BASE64_STANDARD.decode(base64).unwrap());
            let lease = if said.lease == 0 { String::new() } else { format!("{:016x}", said.lease) };
            let digest: String = Sha256::digest(&value).iter().map(|byte| format!("{byte:02x}")).collect();
            let columns = ["key", "create_revision", "mod_revision", "version", "lease", "value_bytes", "value_sha256"];
            let numbers = [said.create_revision, said.mod_revision, said.version].map(|number| number.to_string());
            let [create, modified, version] = numbers;
            let expected = [walk::shown(&key), create, modified, version, lease, value.len().to_string(), digest];
            assert_eq!(columns.map(|column| cell(row, column).to_owned()), expected, "{release:?}");
        }
        assert_eq!(rows.iter().filter(|row| !cell(row, "lease").is_empty()).count(), 2);
    }
}

#[test]
fn history_and_deletions_are_those_that_a_plain_walk_finds() {
    for release in Release::ALL {
        let server = busy(release);
        let path = server.snapshot();
        let rows = audit(argument(&path), &[], &["-o", "csv", "--history"]).rows();
        let expected = walk::view(walk::records(argument(&path)), i64::MAX);
        assert_eq!(rows.len(), expected.len(), "{release:?}");
        for (row, (kind, record)) in rows.iter().zip(&expected) {
            super::rows::is_the_record(row, *kind, record);
        }
        let deleted = rows.iter().filter(|row| cell(row, "record") == "deleted").count();
        assert!(deleted >= 3, "{release:?}");
    }
}

#[test]
fn check_prints_the_hashes_that_etcdutl_and_the_server_print() {
    for release in Release::ALL {
        let server = busy(release);
        let path = server.snapshot();
        let status = etcdutl::snapshot_status(&path);
        let run = atrest(&["check", argument(&path), "--hashkv", "-o", "json"]);
        let found = run.json();
        assert_eq!(run.code, 0, "{found}");
        assert_eq!(found["hash"], status.hash, "{release:?}");
        assert_eq!(found["revision"], status.revision, "{release:?}");
        assert_eq!(found["totalSize"], status.total_size, "{release:?}");
        assert_eq!(found["totalKey"], server.all().len(), "{release:?}");
        assert_eq!(found["hashkv"], server.hashkv(), "{release:?}");
        assert_eq!(found["hashkv_compact_revision"], 15, "{release:?}");
    }
}
