//! Members that were killed while their log was ahead of their database: their data directory, read as it lies there, against a server
//! that starts with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::bootstrap;
use super::program::{argument, atrest, audit, cell, private, temporary};
use super::servers::{Release, Server, copy_folder};

fn key(name: &str) -> String {
    format!("/registry/secrets/default/{name}")
}

/// What is in the database when the server is killed; gives the lease that some of its keys hang on.
fn early(server: &Server) -> String {
    let lease = server.grant();
    for index in 0..24 {
        server.put(key(&format!("early-{index:02}")), format!("first {index}").as_bytes());
    }
    for name in ["leased-1", "leased-2", "leased-3", "freed"] {
        assert!(server.succeeds(&["put", &key(name), "on a lease", "--lease", &lease]), "{name}");
    }
    // This one is off its lease again, which only a later record of the database says.
    server.put(key("freed"), b"free");
    server.put(key("early-00"), b"second");
    server.delete(&key("early-01"));
    server.compact(20);
    lease
}

/// What only the log has. Everything that a request can depend on is in the database, in the log, or in both.
fn late(server: &Server, lease: &str) {
    let (first, second) = (key("early-02"), key("new"));
    server.put(&first, b"second");
    server.put(&second, b"first");
    server.put(&second, b"second");
    server.delete(&key("early-03"));
    server.put(key("early-03"), b"again");
    // Version, value and creation as the database has them, and as the log does.
    let tree = key("early-04");
    let holds = |condition: &str, name: &str| {
        let (yes, no) = (format!("put {} yes", key(name)), format!("put {} no", key(name)));
        server.choose(&[condition], &[&yes], &[&no]);
    };
    holds(&format!("ver(\"{tree}\") = \"1\""), "case-1");
    holds(&format!("value(\"{tree}\") = \"first 4\""), "case-2");
    holds(&format!("value(\"{tree}\") > \"first 5\""), "case-3");
    holds(&format!("create(\"{first}\") < \"2\""), "case-4");
    holds(&format!("value(\"{second}\") = \"second\""), "case-5");
    holds(&format!("mod(\"{}\") = \"0\"", key("never")), "case-6");
    holds(&format!("ver(\"{second}\") != \"2\""), "case-7");
    server.choose(&[&format!("mod(\"{}\") > \"0\"", key("never"))], &[&format!("put {} x", key("not"))], &[]);
    server.transact(&[
        &format!("put {} x", key("t-1")),
        &format!("del {}", key("early-05")),
        &format!("put {} y", key("t-2")),
    ]);
    // Leases: one of the database that ends, a new one that stays, and a new one that ends.
    assert!(server.succeeds(&["put", &key("leased-2"), "free", "--lease", "0"]));
    let stays = server.grant();
    assert!(server.succeeds(&["put", &key("leased-3"), "moved", "--lease", &stays]));
    let ends = server.grant();
    for name in ["brief-2", "brief-1"] {
        assert!(server.succeeds(&["put", &key(name), "brief", "--lease", &ends]));
    }
    assert!(server.succeeds(&["lease", "revoke", lease]));
    assert!(server.succeeds(&["lease", "revoke", &ends]));
    // An entry of the log all the same, which changes nothing.
    assert!(!server.succeeds(&["put", &key("refused"), "x", "--lease", "1234"]));
    assert!(server.succeeds(&["put", &key("leased-3"), "kept lease", "--ignore-lease"]));
    assert!(server.succeeds(&["put", &key("early-06"), "--ignore-value", "--lease", &stays]));
    assert!(server.succeeds(&["put", &second, "--ignore-value"]));
    // Ranges over what both have.
    assert!(server.succeeds(&["del", &key("early-10"), &key("early-15")]));
    assert!(server.succeeds(&["del", "--prefix", &key("t-")]));
    assert!(server.succeeds(&["del", "--prefix", &key("nothing-")]));
    server.put(key("early-11"), b"back");
    server.put("compact_rev_key", b"20");
}

/// Holds what is said of a data directory against what a server that starts with it says.
fn agrees(release: Release, data: &Path) {
    let before = listing(data);
    let document = atrest(&["check", argument(data), "--hashkv", "-o", "json"]).json();
    assert_eq!((&document["kind"], &document["fault_count"]), (&"data-dir".into(), &0.into()), "{document:#}");
    let rows = audit(argument(data), &[], &["-o", "csv"]).rows();
    assert_eq!(listing(data), before, "nothing is written");

    let server = Server::again(release, data);
    assert_eq!(document["hashkv"], server.hashkv(), "{release:?}: {document:#}");
    assert_eq!(document["hashkv_revision"], server.revision(), "{document:#}");
    assert_eq!(document["log"]["revision"], server.revision(), "{document:#}");
    let log = &document["log"];
    assert!(log["revision_in_database"].as_i64() < log["revision"].as_i64(), "{document:#}");
    for back in [1, 7, 19] {
        let revision = server.revision() - back;
        let at = revision.to_string();
        let document = atrest(&["check", argument(data), "--hashkv", "--revision", &at, "-o", "json"]).json();
        assert_eq!(document["hashkv"], server.hashkv_at(revision), "{release:?} at {revision}");
    }

    let rows: BTreeMap<_, _> = rows.iter().map(|row| (cell(row, "key").to_owned(), row)).collect();
    let all = server.all();
    assert_eq!(rows.len(), all.len());
    for kv in all {
        let (name, value) = (BASE64_STANDARD.decode(kv.key).unwrap(), BASE64_STANDARD.decode(kv.value).unwrap());
        let name = String::from_utf8(name).unwrap();
        let row = rows.get(&name).unwrap_or_else(|| panic!("no row for {name}"));
        let lease = if kv.lease == 0 { String::new() } else { format!("{:016x}", kv.lease) };
        let digest: String = Sha256::digest(&value).iter().map(|byte| format!("{byte:02x}")).collect();
        let expected =
            [kv.create_revision, kv.mod_revision, kv.version, value.len() as i64].map(|number| number.to_string());
        let columns = ["create_revision", "mod_revision", "version", "value_bytes", "lease", "value_sha256"];
        let found = columns.map(|column| cell(row, column).to_owned());
        let [create, modified, version, bytes] = expected;
        assert_eq!(found, [create, modified, version, bytes, lease, digest], "{name}");
    }
}

/// Every file below a folder with its length and the time of its last change.
fn listing(folder: &Path) -> Vec<(String, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let about = fs::metadata(&path).unwrap();
        found.push((
            argument(&path).to_owned(),
            if path.is_dir() { 0 } else { about.len() },
            about.modified().unwrap(),
        ));
        if path.is_dir() {
            found.extend(listing(&path));
        }
    }
    found.sort();
    found
}

#[test]
fn a_killed_members_data_is_what_a_server_that_starts_with_it_says() {
    for release in super::RELEASES {
        let mut server = Server::lagging(release);
        let lease = early(&server);
        late(&server, &lease);
        server.kill();
        agrees(release, &server.data());
    }
}

#[test]
fn a_compaction_that_only_the_log_has_is_one() {
    for release in super::RELEASES {
        let mut server = Server::lagging(release);
        let lease = early(&server);
        let folder = temporary();
        let old = folder.path().join("db");
        fs::copy(server.database(), &old).unwrap();
        late(&server, &lease);
        let revision = server.revision();
        server.compact(revision - 5);
        server.put(key("early-20"), b"after");
        for index in 0..20 {
            server.put(key("busy"), format!("{index}").as_bytes());
        }
        server.kill();
        let data = folder.path().join("data");
        copy_folder(&server.data(), &data);
        fs::copy(&old, data.join("member/snap/db")).unwrap();
        let document = atrest(&["audit", argument(&data), "-o", "json"]).json();
        assert_eq!(document["source"]["compacted_revision"], revision - 5, "{document:#}");
        agrees(release, &data);
    }
}

#[test]
fn a_member_that_was_killed_at_once_has_everything_in_its_log() {
    for release in super::RELEASES {
        let mut server = Server::lagging(release);
        for index in 0..30 {
            server.put(key(&format!("s-{index:02}")), format!("value {index}").as_bytes());
        }
        server.kill();
        let data = server.data();
        let document = atrest(&["audit", argument(&data), "-o", "json"]).json();
        assert_eq!((&document["source"]["log"]["writes"], &document["source"]["revision"]), (&30.into(), &31.into()));
        assert_eq!(document["totals"]["entries"], 30);
        agrees(release, &data);
    }
}

#[test]
fn a_running_server_is_noticed_and_not_held_up() {
    for release in super::RELEASES {
        let server = Server::start(release);
        server.put(key("a"), br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a","namespace":"default"}}"#);
        let ids = |data: &Path| {
            let document = atrest(&["audit", argument(data), "-o", "json"]).json();
            let findings = document["findings"].as_array().unwrap().clone();
            findings.iter().map(|finding| finding["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert!(ids(&server.data()).contains(&"file.in-use".to_owned()));
        server.put(key("b"), b"x");
        let mut server = server;
        server.kill();
        assert!(!ids(&server.data()).contains(&"file.in-use".to_owned()));
    }
}

#[test]
fn a_record_that_only_the_log_has_gives_its_configuration_and_its_status() {
    let (old, new) = (("aescbckey", 1), ("aescbckey-2026-11-20T10:11:12Z", 2));
    let text = |keys: &[_]| bootstrap::config(&[bootstrap::provider("aescbc", keys), bootstrap::identity()]);
    let (first, second) = (text(&[old]), text(&[new]));
    let record = |text: &str, stage: &str, time: &str| {
        bootstrap::record("pass", text, &bootstrap::state(stage, text), time).into_bytes()
    };
    let node =
        |text: &str, stage: &str| bootstrap::node(1, "server-1", "k3s", Some(&bootstrap::state(stage, text))).value;
    for release in super::RELEASES {
        let mut server = Server::lagging(release);
        server.put(bootstrap::record_key("pass"), &record(&first, "start", "2026-10-01T00:00:00Z"));
        server.put("/registry/minions/server-1", &node(&first, "start"));
        server.put(key("s-1"), &bootstrap::cbc(1, "s-1", old).value);
        server.put(bootstrap::record_key("pass"), &record(&second, "reencrypt_finished", "2026-11-01T00:00:00Z"));
        server.put("/registry/minions/server-1", &node(&second, "reencrypt_finished"));
        server.put(key("s-2"), &bootstrap::cbc(1, "s-2", new).value);
        server.kill();
        let (folder, data) = (temporary(), server.data());
        let alone = atrest(&["recover-config", argument(&server.database())]);
        assert!(alone.failed(3).contains("no bootstrap record"), "it is only in the log: {}", alone.err);
        let token = private(&folder, "token", bootstrap::token("server", "pass").as_bytes());
        let out = folder.path().join("recovered.json");
        let how = ["--token-file", &token, "-o", argument(&out), "--report", "json"];
        let document = atrest(&[&["recover-config", argument(&data)][..], &how].concat()).json();
        let found = document["configurations"].as_array().unwrap();
        let standings: Vec<_> = found.iter().map(|one| one["standing"].as_str().unwrap()).collect();
        assert_eq!(standings, ["entry", "history"], "{document:#}");
        assert_eq!(document["added_keys"][0]["key_name"], "aescbckey");
        let audited = atrest(&["audit", argument(&data), "-c", argument(&out), "-o", "json"]).json();
        assert_eq!(audited["totals"]["unreadable"], 0, "{audited:#}");
        let run = atrest(&["status", argument(&data), "--token-file", &token]);
        let sentence = "reencrypt_finished, but 1 Secret is on the key that was removed (aescbc/aescbckey)\n";
        assert!(run.code == 1 && run.text().contains(sentence), "{}", run.text());
        assert!(run.text().starts_with("Encryption Status: Enabled\nCurrent Rotation Stage: reencrypt_finished\n"));
    }
}
