//! What only several values together show of a key: nonces used twice, copies, and how often it was used.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use super::made::{Put, sealed, secret_key, store};
use super::program::{STORES, audit, cell, private, temporary, testdata};

const ONE: [u8; 32] = *b"\x83\x01\xf2\x73\x9c\xb1\x25\x5e\x47\xd9\x60\x0a\xee\x1b\x94\x3c\x58\xa7\x12\xcf\x86\x2d\xb9\x44\x0f\xe3\x71\x9a\x35\xc8\x6b\xd0";
const OTHER: [u8; 32] = *b"\x1d\xc4\x59\xa0\x36\xeb\x82\x7f\x90\x05\xdb\x4e\x61\xb8\x23\xf7\xca\x14\x9f\x6a\xd5\x38\x0c\xe1\x77\xb2\x4d\x88\xf3\x2e\x99\x50";

/// A configuration with these keys of aesgcm, the first one writing.
fn config(folder: &TempDir, keys: &[(&str, &[u8])]) -> String {
    let mut text = String::from(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n  - resources: [secrets]\n    \
         providers:\n      - aesgcm:\n          keys:\n",
    );
    for (name, secret) in keys {
        let secret = STANDARD.encode(secret);
        writeln!(text, "            - name: {name:?}\n              secret: {secret}").unwrap();
    }
    text.push_str("      - identity: {}\n");
    private(folder, "config.yaml", text.as_bytes())
}

fn finding<'d>(document: &'d Value, id: &str) -> Option<&'d Value> {
    document["findings"].as_array().unwrap().iter().find(|row| row["id"] == id)
}

/// The values that are named together, as `NAME@REVISION`.
fn together(document: &Value, id: &str) -> Vec<Vec<String>> {
    let Some(finding) = finding(document, id) else { return Vec::new() };
    let value = |value: &Value| {
        let name = value["key"].as_str().unwrap().rsplit('/').next().unwrap();
        format!("{name}@{}", value["mod_revision"])
    };
    let groups = finding["together"].as_array().unwrap().iter();
    groups.map(|group| group["values"].as_array().unwrap().iter().map(value).collect()).collect()
}

fn put(revision: i64, name: &str, value: Vec<u8>) -> Put {
    Put::new(revision, secret_key(name), value)
}

#[test]
fn two_values_with_one_nonce_under_one_key_are_both_named() {
    let folder = temporary();
    let puts = [
        put(2, "a", sealed("a", "one", "key1", &ONE, 1)),
        put(3, "b", sealed("b", "two", "key1", &ONE, 2)),
        put(4, "c", sealed("c", "three", "key1", &ONE, 1)),
    ];
    let path = store(&folder, "store.db", &puts, &[]);
    let config = config(&folder, &[("key1", &ONE)]);
    let run = audit(&path, &[&config], &["-o", "json"]);
    let document = run.json();
    assert_eq!(run.code, 1);
    assert_eq!(together(&document, "nonce-reuse"), [["a@2", "c@4"]]);
    let row = finding(&document, "nonce-reuse").unwrap();
    assert_eq!((&row["severity"], &row["count"]), (&"error".into(), &2.into()));
    assert_eq!(row["keys"], serde_json::json!([secret_key("a"), secret_key("c")]));
    let text = audit(&path, &[&config], &[]);
    assert!(
        text.text().contains("/registry/secrets/default/a at revision 2, /registry/secrets/default/c at revision 4")
    );
    let rows = audit(&path, &[&config], &["-o", "csv"]).rows();
    let found: Vec<_> = rows.iter().map(|row| (cell(row, "name"), cell(row, "findings"))).collect();
    assert_eq!(found, [("a", "nonce-reuse"), ("b", ""), ("c", "nonce-reuse")]);
    // Without a configuration the names and the bytes prove it, too, though nothing is judged.
    let bare = audit(&path, &[], &["-o", "json"]);
    assert_eq!((bare.code, together(&bare.json(), "nonce-reuse")), (0, vec![vec!["a@2".into(), "c@4".into()]]));
}

#[test]
fn older_revisions_and_what_is_left_of_them_count() {
    let folder = temporary();
    let config = config(&folder, &[("key1", &ONE)]);
    let history = [
        put(2, "a", sealed("a", "one", "key1", &ONE, 1)),
        put(3, "a", sealed("a", "two", "key1", &ONE, 1)).again(2, 2),
    ];
    let path = store(&folder, "history.db", &history, &[]);
    let document = audit(&path, &[&config], &["-o", "json"]).json();
    assert_eq!(together(&document, "nonce-reuse"), [["a@2", "a@3"]]);
    assert_eq!(finding(&document, "nonce-reuse").unwrap()["count"], 1);
    let puts = [put(5, "b", sealed("b", "one", "key1", &ONE, 1))];
    let path = store(&folder, "residue.db", &puts, &history);
    let run = audit(&path, &[&config], &["-o", "json"]);
    assert_eq!(together(&run.json(), "nonce-reuse"), [["a@2", "a@3", "b@5"]]);
    let rows = audit(&path, &[&config], &["-o", "csv", "--residue"]).rows();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| cell(row, "findings").contains("nonce-reuse")), "{rows:?}");
}

#[test]
fn one_secret_under_two_names_is_one_key_and_one_name_for_two_secrets_is_two() {
    let folder = temporary();
    let puts = [
        put(2, "a", sealed("a", "one", "key1", &ONE, 1)),
        put(3, "b", sealed("b", "two", "key2", &ONE, 1)),
        put(4, "c", sealed("c", "three", "key1", &OTHER, 1)),
    ];
    let path = store(&folder, "store.db", &puts, &[]);
    let config = config(&folder, &[("key1", &ONE), ("key1", &OTHER), ("key2", &ONE)]);
    let document = audit(&path, &[&config], &["-o", "json"]).json();
    assert_eq!(document["totals"]["readable"], 3);
    assert_eq!(together(&document, "nonce-reuse"), [["a@2", "b@3"]]);
    assert!(finding(&document, "config.shared-secret").is_some());
}

#[test]
fn copies_and_damaged_values_prove_no_reuse() {
    let folder = temporary();
    let original = sealed("a", "a value that is long enough", "key1", &ONE, 1);
    let flipped = |at: usize| {
        let mut value = original.clone();
        let at = if at == 0 { value.len() - 1 } else { at };
        value[at] ^= 1;
        value
    };
    let cut = original[..original.len() - 9].to_vec();
    let config = config(&folder, &[("key1", &ONE)]);
    for (case, copy) in [("moved", original.clone()), ("cut", cut), ("body", flipped(60)), ("tag", flipped(0))] {
        // A tag that was damaged in another key's copy could as well be another message's, if nothing opens.
        let name = if case == "tag" { "a" } else { "b" };
        let puts = [put(2, "a", original.clone()), put(3, name, copy).again(if name == "a" { 2 } else { 3 }, 2)];
        let path = store(&folder, &format!("{case}.db"), &puts, &[]);
        for configs in [&[config.as_str()][..], &[]] {
            let document = audit(&path, configs, &["-o", "json"]).json();
            assert_eq!(together(&document, "nonce-reuse"), Vec::<Vec<String>>::new(), "{case} {configs:?}");
            let copied = if case == "moved" { vec![vec!["a@2".to_owned(), "b@3".to_owned()]] } else { Vec::new() };
            assert_eq!(together(&document, "copied-value"), copied, "{case} {configs:?}");
        }
    }
}

#[test]
fn a_name_that_nobody_knows_is_not_taken_for_a_nonce() {
    let folder = temporary();
    // What follows the first colon of these names is the same in all of them, and longer than a nonce.
    let names = ["team:of-the-production-cluster", "team:of-the-production-clusters"];
    let value = |name: &str, key: &str, nonce| sealed(name, name, key, &ONE, nonce);
    let puts = [
        put(2, "a", value("a", names[0], 1)),
        put(3, "b", value("b", names[0], 2)),
        put(4, "c", value("c", names[1], 1)),
        put(5, "d", value("d", names[1], 1)),
    ];
    let path = store(&folder, "store.db", &puts, &[]);
    let document = audit(&path, &[], &["-o", "json"]).json();
    assert_eq!(together(&document, "nonce-reuse"), [["c@4", "d@5"]]);
}

#[test]
fn a_copy_under_aescbc_is_found_with_its_original() {
    // AES-CBC binds no key of the store: the copy opens, and holds another object.
    let folder = temporary();
    let config = testdata("kubeadm/all-keys.json");
    let records = super::walk::view(super::walk::records(&testdata("kubeadm/snapshot.db")), i64::MAX);
    let sealed = |record: &super::walk::Record| record.value.starts_with(b"k8s:enc:aescbc:v1:key1:");
    let (_, original) = records.iter().find(|(_, record)| sealed(record)).unwrap();
    let key = String::from_utf8(original.key.clone()).unwrap();
    let folder_of_key = key.rsplit_once('/').unwrap().0.to_owned();
    let puts = [
        Put::new(2, key.clone(), original.value.clone()),
        Put::new(3, format!("{folder_of_key}/copy"), original.value.clone()),
    ];
    let path = store(&folder, "store.db", &puts, &[]);
    for configs in [&[config.as_str()][..], &[]] {
        let document = audit(&path, configs, &["-o", "json"]).json();
        assert_eq!(finding(&document, "name-mismatch").is_some(), !configs.is_empty());
        let copied = finding(&document, "copied-value").expect("the copy is found");
        assert_eq!((&copied["count"], &copied["severity"]), (&2.into(), &"warning".into()));
        assert_eq!(copied["together"][0]["values"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn no_store_of_a_real_server_has_a_nonce_twice() {
    for (source, config) in STORES {
        for configs in [&[testdata(config)][..], &[]] {
            let configs: Vec<_> = configs.iter().map(String::as_str).collect();
            let document = audit(&testdata(source), &configs, &["-o", "json"]).json();
            for id in ["nonce-reuse", "copied-value", "gcm-write-limit"] {
                assert!(finding(&document, id).is_none(), "{source} {id}");
            }
        }
    }
}

#[test]
fn a_key_that_may_have_been_used_too_often_is_told_with_both_bounds() {
    let folder = temporary();
    let config = config(&folder, &[("key1", &ONE), ("key2", &OTHER)]);
    let at = |version: i64| {
        let last = put(300_000, "a", sealed("a", "last", "key1", &ONE, 1)).again(2, version);
        let puts = [
            put(3, "b", sealed("b", "one", "key2", &OTHER, 2)),
            // An older revision of the same key of the store, so that its versions must not be counted twice.
            put(299_999, "a", sealed("a", "last but one", "key1", &ONE, 3)).again(2, version - 1),
            last,
        ];
        let path = store(&folder, &format!("{version}.db"), &puts, &[]);
        audit(&path, &[&config], &["-o", "json"]).json()
    };
    let document = at(200_001);
    let row = finding(&document, "gcm-write-limit").expect("it is told");
    assert_eq!((&row["severity"], &row["count"]), (&"warning".into(), &1.into()));
    let detail = row["details"][0].as_str().unwrap();
    assert!(detail.contains("key1 may have sealed") && detail.contains("at least 2, at most 200001"), "{detail}");
    let writes = |name: &str| {
        let mut keys = document["keys"].as_array().unwrap().iter();
        keys.find(|row| row["key_name"] == name).unwrap()["writes"].clone()
    };
    assert_eq!(writes("key1"), serde_json::json!({"at_least": 2, "at_most": 200_001}));
    assert_eq!(writes("key2"), serde_json::json!({"at_least": 1, "at_most": 1}));
    assert!(finding(&at(200_000), "gcm-write-limit").is_none());
    // A version that there were not revisions enough for is a lie.
    let puts = [put(1000, "a", sealed("a", "x", "key1", &ONE, 1)).again(2, i64::MAX)];
    let path = store(&folder, "lie.db", &puts, &[]);
    assert!(finding(&audit(&path, &[&config], &["-o", "json"]).json(), "gcm-write-limit").is_none());
}

#[test]
fn versions_of_deleted_and_compacted_keys_count_as_far_as_the_store_has_them() {
    let folder = temporary();
    let config = config(&folder, &[("key1", &ONE)]);
    // Gone from the tree, but one of its 150,000 versions is still in the file.
    let freed = [put(200_000, "gone", sealed("gone", "x", "key1", &ONE, 1)).again(2, 150_000)];
    let puts = [put(400_000, "a", sealed("a", "x", "key1", &ONE, 2)).again(200_001, 50_001)];
    let path = store(&folder, "store.db", &puts, &freed);
    let document = audit(&path, &[&config], &["-o", "json"]).json();
    let key = &document["keys"][0];
    assert_eq!(key["writes"], serde_json::json!({"at_least": 2, "at_most": 200_001}));
    assert!(finding(&document, "gcm-write-limit").is_some());
}
