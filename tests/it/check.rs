//! `check` against what etcd's own tools say of the same files.

use std::fs;

use serde_json::Value;

use super::program::{atrest, testdata};

fn document(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(testdata(name)).unwrap()).unwrap()
}

fn check(name: &str, more: &[&str]) -> Value {
    let path = testdata(name);
    let run = atrest(&[&["check", &path, "-o", "json"], more].concat());
    assert_eq!(run.code, 0, "{name}: {}{}", run.text(), run.err);
    run.json()
}

/// Stores with what the newest `etcdutl snapshot status -w json` says of them.
const STATUS: [(&str, &str); 11] = [
    ("apiserver/snapshot.db", "apiserver/snapshot.status.json"),
    ("k3s/snapshot.db", "k3s/snapshot.status.json"),
    ("kms/snapshot.db", "kms/snapshot.status.json"),
    ("kubeadm/snapshot.db", "kubeadm/snapshot.status.json"),
    ("openshift3/snapshot.db", "openshift3/snapshot.status.json"),
    ("openshift4/snapshot_2026-11-20_040506.db", "openshift4/snapshot_2026-11-20_040506.status.json"),
    ("rke2/on-demand-server-1-1763600000.zip", "rke2/snapshot.status.json"),
    ("versions/etcd-3.4.db", "versions/etcd-3.4.status.json"),
    ("versions/etcd-3.5.db", "versions/etcd-3.5.status.json"),
    ("versions/etcd-3.6.db", "versions/etcd-3.6.status.json"),
    ("versions/etcd-3.7.db", "versions/etcd-3.7.status.json"),
];

#[test]
fn the_five_fields_of_etcdutl_are_the_same_in_name_type_and_content() {
    for (store, status) in STATUS {
        let (found, expected) = (check(store, &[]), document(status));
        let fields = expected.as_object().unwrap();
        assert_eq!(fields.len(), 5, "{status}");
        for (field, content) in fields {
            assert_eq!(&found[field], content, "{field} of {store}");
        }
    }
}

#[test]
fn every_status_in_testdata_is_compared() {
    let root = testdata("");
    let folders = fs::read_dir(&root).unwrap().map(|folder| folder.unwrap().path()).filter(|path| path.is_dir());
    let mut found: Vec<String> = folders
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>())
        .filter(|path| path.to_string_lossy().ends_with(".status.json"))
        .map(|path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, STATUS.map(|(_, status)| status.to_owned()));
}

#[test]
fn a_whole_snapshot_has_its_digest_and_no_fault() {
    for (store, _) in STATUS {
        let found = check(store, &[]);
        assert_eq!(found["schema"], "atrest.check/1");
        assert_eq!(found["tool"]["name"], "atrest");
        assert_eq!((&found["trailer"], &found["fault_count"]), (&Value::from("ok"), &Value::from(0)), "{store}");
        assert_eq!(found["faults"], Value::Array(Vec::new()));
        let number = |field: &str| found[field].as_u64().unwrap();
        assert_eq!(number("pages") * number("page_size"), number("totalSize"), "{store}");
        assert!(number("free_pages") < number("pages"));
        assert_eq!(found["sha256"].as_str().map(str::len), Some(64));
    }
}

#[test]
fn hashkv_equals_the_servers_at_the_last_and_at_an_older_revision() {
    for version in ["3.4", "3.5", "3.6", "3.7"] {
        let info = document(&format!("versions/info-{version}.json"));
        let store = format!("versions/etcd-{version}.db");
        let hashes: Vec<_> =
            info.as_object().unwrap().iter().filter_map(|(k, v)| Some((k.strip_prefix("hashkv@")?, v))).collect();
        assert_eq!(hashes.len(), 2);
        for (revision, hash) in hashes {
            let found = check(&store, &["--hashkv", "--revision", revision]);
            assert_eq!(&found["hashkv"], hash, "etcd {version} at {revision}");
            assert_eq!(found["hashkv_revision"].to_string(), revision);
            assert_eq!(found["hashkv_compact_revision"], info["compacted"]);
        }
        let newest = check(&store, &["--hashkv"]);
        assert_eq!(newest["hashkv"], info[format!("hashkv@{}", newest["revision"])], "etcd {version}");
    }
}

#[test]
fn hashkv_of_a_store_that_was_never_compacted_equals_the_servers() {
    let info = document("kubeadm/info.json");
    let found = check("kubeadm/snapshot.db", &["--hashkv"]);
    assert_eq!((&found["hashkv"], &found["hashkv_revision"]), (&info["hashkv"], &info["revision"]));
}

#[test]
fn a_bare_database_with_pages_of_16_kib_reads() {
    let found = check("versions/etcd-3.6-pages-16k.db", &["--hashkv"]);
    let (status, info) = (document("versions/etcd-3.6.status.json"), document("versions/info-3.6.json"));
    for field in ["hash", "revision", "totalKey", "version"] {
        assert_eq!(found[field], status[field], "{field}");
    }
    assert_eq!(found["hashkv"], info["hashkv@316"]);
    assert_eq!((&found["page_size"], &found["kind"]), (&Value::from(16384), &Value::from("database")));
    assert_eq!((&found["trailer"], &found["trailer_expected"]), (&Value::from("missing"), &Value::from(false)));
}
