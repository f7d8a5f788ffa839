//! Snapshots as real servers write them.

use std::fs;
use std::thread;

use sha2::{Digest, Sha256};

use super::etcdutl;
use super::servers::{Release, Server};

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
    let starts = [Release::V3_4, Release::V3_5, Release::V3_5].map(|release| thread::spawn(move || filled(release)));
    let servers = starts.map(|start| start.join().unwrap());
    for server in &servers {
        assert_eq!(etcdutl::snapshot_status(&server.snapshot()).revision, 6);
    }
}
