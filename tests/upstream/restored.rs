//! Stores of `testdata` restored by the newer releases' own tools: the servers say of them what we say of the file.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::program::{argument, atrest, testdata};
use super::servers::{Release, Server};
use super::walk::{self, Kind};

/// Stores, and the releases that take them: 3.6 does not start with what 3.7 has written.
const RESTORED: [(&str, &[Release]); 5] = [
    ("versions/etcd-3.4.db", &Release::ALL),
    ("versions/etcd-3.5.db", &Release::ALL),
    ("versions/etcd-3.6.db", &Release::ALL),
    ("versions/etcd-3.7.db", &[Release::V3_7]),
    ("kubeadm/snapshot.db", &Release::ALL),
];

#[test]
fn a_restored_server_has_every_entry_that_a_plain_walk_finds_and_the_same_hash() {
    for (store, releases) in RESTORED {
        let path = testdata(store);
        let entries = walk::view(walk::records(&path), i64::MAX).into_iter().filter(|(kind, _)| *kind == Kind::Entry);
        let entries: Vec<walk::Record> = entries.map(|(_, record)| record).collect();
        let check = atrest(&["check", &path, "--hashkv", "-o", "json"]).json();
        for &release in releases {
            let server = Server::restore(release, path.as_ref());
            let all = server.all();
            assert_eq!(all.len(), entries.len(), "{store} in {release:?}");
            for (found, entry) in all.iter().zip(&entries) {
                let [key, value] = [&found.key, &found.value].map(|base64| BASE64_STANDARD.decode(base64).unwrap());
                assert_eq!((&key, &value, found.mod_revision), (&entry.key, &entry.value, entry.main), "{store}");
            }
            let revision = check["hashkv_revision"].as_i64().unwrap();
            assert_eq!(check["hashkv"], server.hashkv_at(revision), "{store} in {release:?}");
        }
    }
}

#[test]
fn hashkv_at_an_older_revision_is_the_servers() {
    for release in Release::ALL {
        let server = Server::start(release);
        for round in 0..30 {
            server.put(format!("/registry/secrets/default/s-{}", round % 7), format!("value {round}").as_bytes());
        }
        server.delete("/registry/secrets/default/s-3");
        server.compact(12);
        server.put("/registry/secrets/default/s-3", b"again");
        let path = server.snapshot();
        let ours = |revision: i64| {
            let at = revision.to_string();
            let check = atrest(&["check", argument(&path), "--hashkv", "--revision", &at, "-o", "json"]).json();
            assert_eq!(check["hashkv_compact_revision"], 12);
            check["hashkv"].clone()
        };
        for revision in [13, 20, 31, 32, 33] {
            assert_eq!(ours(revision), server.hashkv_at(revision), "{release:?} at {revision}");
        }
        // At the compaction's own revision a member that has done it answers from memory, with the hash of what was there
        // before. What is in the file is what a member says that has been started since.
        assert_ne!(ours(12), server.hashkv_at(12), "{release:?}");
        assert_eq!(ours(12), Server::restore(release, &path).hashkv_at(12), "{release:?}");
    }
}
