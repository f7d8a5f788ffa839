//! The audit of stores that real servers wrote, against what upstream's own code says of every value in them.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::program::{Row, STORES, argument, audit, cell, testdata};
use super::rows::{expect, hex, is_the_record};
use super::walk::{self, Kind};

fn lines(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(testdata(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows by key, after a look at their order.
fn rows_by_key(source: &str, config: &str) -> HashMap<String, Row> {
    let rows = audit(&testdata(source), &[&testdata(config)], &["-o", "csv"]).rows();
    let keys: Vec<_> = rows.iter().map(|row| cell(row, "key").to_owned()).collect();
    assert!(keys.is_sorted(), "{source}: rows are in the order of keys");
    let count = keys.len();
    let by_key: HashMap<_, _> = keys.into_iter().zip(rows).collect();
    assert_eq!(by_key.len(), count, "{source}: one row for each key");
    by_key
}

/// The columns that a line of truth has, whatever the configuration.
fn agrees_as_stored(truth: &Value, row: &Row) {
    let text = |field: &str| truth[field].as_str().unwrap();
    expect(
        row,
        &[
            ("record", "entry"),
            ("group", text("group")),
            ("resource", text("resource")),
            ("mod_revision", &truth["mod_revision"].to_string()),
            ("provider", text("provider")),
            ("provider_version", text("version")),
            ("key_name", text("key_name")),
        ],
    );
    let (namespace, name) = (cell(row, "namespace"), cell(row, "name"));
    let tail = if namespace.is_empty() { format!("/{name}") } else { format!("/{namespace}/{name}") };
    assert!(text("key").ends_with(&tail), "{row:#?}");
    if text("provider") == "identity" {
        expect(row, &[("state", "plaintext"), ("value_sha256", text("plaintext_sha256"))]);
    } else {
        expect(row, &[("state", "encrypted")]);
    }
}

/// What kube-apiserver's own code said with one of the configurations.
fn agrees_as_judged(truth: &Value, row: &Row, suffix: &str) -> bool {
    let told = |field: &str| &truth[format!("{field}_{suffix}")];
    let Some(readable) = told("readable").as_bool() else { return false };
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" };
    expect(row, &[("readable", yes_or_no(readable))]);
    if readable {
        expect(row, &[("stale", yes_or_no(told("stale").as_bool().unwrap())), ("detail", "")]);
    } else {
        let error = told("error").as_str().unwrap();
        expect(row, &[("stale", "unknown")]);
        assert!(cell(row, "detail").contains(error), "upstream says {error:?} of {row:#?}");
    }
    true
}

#[test]
fn kubeadm_agrees_with_kube_apiserver_in_every_field_with_both_configurations() {
    let truth = lines("kubeadm/truth.jsonl");
    for (config, suffix, unreadable) in [("encryption-config.yaml", "user", 22), ("all-keys.json", "all", 2)] {
        let rows = rows_by_key("kubeadm/snapshot.db", &format!("kubeadm/{config}"));
        let mut judged = 0;
        for line in &truth {
            let row = &rows[line["key"].as_str().unwrap()];
            agrees_as_stored(line, row);
            if agrees_as_judged(line, row, suffix) {
                judged += 1;
            } else {
                expect(row, &[("readable", "yes"), ("stale", "no"), ("detail", "")]);
            }
        }
        assert_eq!((truth.len(), judged), (199, 172));
        assert_eq!(rows.values().filter(|row| cell(row, "readable") == "no").count(), unreadable);
        let not_objects: Vec<_> = rows.values().filter(|row| cell(row, "resource").is_empty()).collect();
        assert_eq!(not_objects.len() + truth.len(), rows.len(), "{not_objects:#?}");
    }
}

#[test]
fn the_moved_and_the_truncated_value_are_refused_with_every_key_at_hand() {
    let rows = rows_by_key("kubeadm/snapshot.db", "kubeadm/all-keys.json");
    let refused = [("moved", "undecryptable.wrong-key"), ("cut", "undecryptable.malformed")];
    for (name, finding) in refused {
        let row = &rows[&format!("/registry/secrets/default/{name}")];
        expect(row, &[("readable", "no"), ("opened_by", ""), ("encoding", ""), ("findings", finding)]);
    }
}

#[test]
fn every_record_of_every_store_has_the_row_that_a_plain_walk_of_the_tree_gives_it() {
    let plain = STORES.into_iter().filter(|(source, _)| source.ends_with(".db"));
    for (source, config) in plain {
        let (path, config) = (testdata(source), testdata(config));
        let expected = walk::view(walk::records(&path), i64::MAX);
        let rows = audit(&path, &[&config], &["-o", "csv", "--history"]).rows();
        assert_eq!(rows.len(), expected.len(), "{source}");
        for (row, (kind, record)) in rows.iter().zip(&expected) {
            is_the_record(row, *kind, record);
        }
        let totals = audit(&path, &[&config], &["-o", "json"]).json()["totals"].clone();
        for (kind, total) in [(Kind::Entry, "entries"), (Kind::History, "history"), (Kind::Deleted, "deleted")] {
            let count = expected.iter().filter(|(found, _)| *found == kind).count();
            assert_eq!(totals[total].as_u64(), Some(count as u64), "{source}: {total}");
        }
    }
}

#[test]
fn kubeadm_has_the_history_that_its_story_tells() {
    let path = testdata("kubeadm/snapshot.db");
    let rows = audit(&path, &[&testdata("kubeadm/encryption-config.yaml")], &["-o", "csv", "--history"]).rows();
    let count = |test: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| test(row)).count();
    let is = |row: &Row, column: &str, content: &str| cell(row, column) == content;
    assert_eq!(count(&|row| is(row, "record", "history")), 31);
    assert_eq!(count(&|row| is(row, "record", "deleted")), 3);
    let bare =
        |row: &Row| is(row, "record", "history") && is(row, "state", "plaintext") && is(row, "resource", "secrets");
    assert_eq!(count(&|row| bare(row) && is(row, "findings", "history-plaintext")), count(&bare));
    assert!(count(&bare) > 20);
}

/// A served object's row: where it is, and whether its stored form is the one that would be written now.
#[test]
fn every_object_that_a_real_kube_apiserver_serves_has_its_row() {
    let (source, config) = ("apiserver/snapshot.db", "apiserver/encryption-config.yaml");
    let rows = rows_by_key(source, config);
    let mut by_object = HashMap::new();
    for row in rows.values() {
        let place = ["group", "resource", "namespace", "name"].map(|column| cell(row, column).to_owned());
        assert!(by_object.insert(place, row).is_none(), "two rows for {row:#?}");
    }
    let stored: BTreeMap<_, _> = walk::view(walk::records(&testdata(source)), i64::MAX)
        .into_iter()
        .filter(|(kind, _)| *kind == Kind::Entry)
        .map(|(_, record)| (walk::shown(&record.key), record.value))
        .collect();
    let mut text = String::new();
    let compressed = File::open(testdata("apiserver/objects.jsonl.gz")).unwrap();
    GzDecoder::new(compressed).read_to_string(&mut text).unwrap();
    let mut stale_objects = 0;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let metadata = &line["object"]["metadata"];
        let named = line["resource"].as_str().unwrap();
        let (resource, group) = named.split_once('.').unwrap_or((named, ""));
        let of = |field: &str| metadata[field].as_str().unwrap_or("").to_owned();
        let place = [group.to_owned(), resource.to_owned(), of("namespace"), of("name")];
        let row = by_object.remove(&place).unwrap_or_else(|| panic!("no row for {place:?}"));
        let covered = ["secrets", "configmaps", "widgets.example.com"].contains(&named);
        let value = &stored[cell(row, "key")];
        let stale = covered && !value.starts_with(b"k8s:enc:secretbox:v1:key2:");
        stale_objects += usize::from(stale);
        let expected = if covered { "secretbox/key2" } else { "identity" };
        expect(
            row,
            &[
                ("mod_revision", &of("resourceVersion")),
                ("readable", "yes"),
                ("stale", if stale { "yes" } else { "no" }),
                ("expected", expected),
                ("detail", ""),
            ],
        );
    }
    assert_eq!((text.lines().count(), stale_objects), (306, 69));
    let rest: Vec<_> = by_object.values().map(|row| cell(row, "key")).collect();
    assert_eq!(rest, ["/registry/ranges/servicenodeports"]);
}

#[test]
fn kms_values_are_recognised_and_not_claimed_to_be_proved() {
    let rows = rows_by_key("kms/snapshot.db", "kms/encryption-config.yaml");
    let mut kinds = BTreeMap::new();
    for line in lines("kms/truth.jsonl") {
        let row = &rows[line["key"].as_str().unwrap()];
        agrees_as_stored(&line, row);
        let note = line["note"].as_str().unwrap();
        let kind = (cell(row, "provider").to_owned(), cell(row, "provider_version").to_owned());
        let key_id = if note.contains("key 1") { "1" } else { "2" };
        match (kind.0.as_str(), kind.1.as_str()) {
            ("kms", "v2") => expect(
                row,
                &[("kms_key_id", key_id), ("kms_key_id_hash", &format!("sha256:{}", hex(&Sha256::digest(key_id))))],
            ),
            _ => expect(row, &[("kms_key_id", ""), ("kms_key_id_hash", "")]),
        }
        let secret = line["resource"] == "secrets";
        let (readable, stale) = match kind.0.as_str() {
            "kms" => ("unknown", "unknown"),
            _ => ("yes", if secret { "yes" } else { "no" }),
        };
        expect(row, &[("readable", readable), ("stale", stale)]);
        if kind.0 == "kms" {
            expect(row, &[("opened_by", ""), ("encoding", ""), ("findings", "unverified.kms")]);
        }
        if secret {
            expect(row, &[("expected", "kms/cloud-kms")]);
        }
        if kind.0 == "aescbc" {
            expect(row, &[("opened_by", "aescbc/old")]);
        }
        *kinds.entry(kind).or_insert(0) += 1;
    }
    let counted = [("aescbc", "v1", 8), ("identity", "", 29), ("kms", "v1", 28), ("kms", "v2", 36)];
    let counted = counted.map(|(provider, version, count)| ((provider.to_owned(), version.to_owned()), count));
    assert_eq!(kinds, BTreeMap::from(counted));

    let run = audit(&testdata("kms/snapshot.db"), &[&testdata("kms/encryption-config.yaml")], &["-o", "json"]);
    let document = run.json();
    assert_eq!((run.code, document["verdict"].as_str()), (1, Some("incomplete")));
    assert_eq!(document["totals"]["unknown"], 64);
    let keys: Vec<_> = document["keys"].as_array().unwrap().iter().filter(|key| key["provider"] == "kms").collect();
    for (name, version, key_id, entries) in
        [("cloud-kms", "v2", "1", 24), ("cloud-kms", "v2", "2", 12), ("ack-kms", "v1", "", 28)]
    {
        let of = |key: &&&Value| {
            key["key_name"] == name && key["provider_version"] == version && key["kms_key_id"] == key_id
        };
        assert_eq!(keys.iter().find(of).map(|key| &key["entries"]), Some(&Value::from(entries)), "{name} {key_id}");
    }
}

#[test]
fn k3s_between_rotate_and_reencrypt_opens_and_is_stale_where_it_must_be_rewritten() {
    let newest = "aescbckey-2026-11-20T10:11:12+01:00";
    let rows = rows_by_key("k3s/snapshot.db", "k3s/encryption-config.json");
    for line in lines("k3s/truth.jsonl") {
        let row = &rows[line["key"].as_str().unwrap()];
        agrees_as_stored(&line, row);
        let stale = line["resource"] == "secrets" && line["key_name"] != newest;
        expect(row, &[("readable", "yes"), ("stale", if stale { "yes" } else { "no" }), ("detail", "")]);
    }
}

#[cfg(feature = "zip")]
#[test]
fn the_zip_of_rke2_shows_the_two_secrets_on_the_key_that_was_removed() {
    let rows = rows_by_key("rke2/on-demand-server-1-1763600000.zip", "rke2/encryption-config.json");
    let mut lost = Vec::new();
    for line in lines("rke2/truth.jsonl") {
        let row = &rows[line["key"].as_str().unwrap()];
        agrees_as_stored(&line, row);
        if line["key_name"] == "aescbckey" {
            expect(row, &[("readable", "no"), ("findings", "undecryptable.unknown-key")]);
            lost.push(row);
        } else {
            expect(row, &[("readable", "yes"), ("stale", "no"), ("detail", "")]);
        }
    }
    assert_eq!(lost.len(), 2);
}

#[test]
fn openshift_3_with_its_old_kind_and_its_roots_classifies() {
    let rows = rows_by_key("openshift3/snapshot.db", "openshift3/encryption-config.yaml");
    for line in lines("openshift3/truth.jsonl") {
        let row = &rows[line["key"].as_str().unwrap()];
        agrees_as_stored(&line, row);
        let covered = ["secrets", "configmaps"].contains(&line["resource"].as_str().unwrap());
        if line["group"] == "oauth.openshift.io" {
            expect(row, &[("readable", "unknown")]);
        } else {
            let stale = covered && line["key_name"] != "key2";
            expect(row, &[("readable", "yes"), ("stale", if stale { "yes" } else { "no" })]);
        }
    }
    let document = audit(&testdata("openshift3/snapshot.db"), &[], &["-o", "json"]).json();
    assert_eq!(document["source"]["prefixes"], serde_json::json!(["/kubernetes.io", "/openshift.io"]));
}

#[test]
fn openshift_4_is_judged_by_the_configuration_in_its_tarball_and_no_further() {
    let backup = File::open(testdata("openshift4/static_kuberesources_2026-11-20_040506.tar.gz")).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(backup));
    let wanted = "static-pod-resources/kube-apiserver-pod-12/secrets/encryption-config/encryption-config";
    let mut config = tempfile::NamedTempFile::new().unwrap();
    let mut entry =
        archive.entries().unwrap().map(Result::unwrap).find(|entry| entry.path().unwrap().ends_with(wanted));
    std::io::copy(entry.as_mut().expect("revision 12 is in the backup"), &mut config).unwrap();

    let source = testdata("openshift4/snapshot_2026-11-20_040506.db");
    let run = audit(&source, &[argument(config.path())], &["-o", "csv"]);
    assert_eq!(run.code, 1);
    let rows: HashMap<_, _> = run.rows().into_iter().map(|row| (cell(&row, "key").to_owned(), row)).collect();
    let mut unknown = 0;
    for line in lines("openshift4/truth.jsonl") {
        let row = &rows[line["key"].as_str().unwrap()];
        agrees_as_stored(&line, row);
        if line["group"].as_str().unwrap().ends_with(".openshift.io") {
            expect(row, &[("readable", "unknown"), ("opened_by", "")]);
            if line["provider"] != "identity" {
                expect(row, &[("findings", "unverified.uncovered")]);
                unknown += 1;
            }
            continue;
        }
        let covered = ["secrets", "configmaps"].contains(&line["resource"].as_str().unwrap());
        let stale = covered && line["key_name"] != "3";
        expect(row, &[("readable", "yes"), ("stale", if stale { "yes" } else { "no" }), ("detail", "")]);
    }
    assert_eq!(unknown, 15);
    let document = audit(&source, &[argument(config.path())], &["-o", "json"]).json();
    assert_eq!(document["verdict"], "incomplete");
    let ids: Vec<_> = document["findings"].as_array().unwrap().iter().map(|finding| &finding["id"]).collect();
    assert!(ids.iter().any(|id| **id == "placeholder-key" || **id == "config.placeholder-key"), "{ids:?}");
}

#[test]
fn stores_of_each_release_of_etcd_classify_alike() {
    for version in ["3.4", "3.5", "3.6", "3.7"] {
        let rows = rows_by_key(&format!("versions/etcd-{version}.db"), "versions/encryption-config.json");
        let truth = lines(&format!("versions/truth-{version}.jsonl"));
        assert_eq!((truth.len(), rows.len()), (55, 55));
        for line in truth {
            let row = &rows[line["key"].as_str().unwrap()];
            agrees_as_stored(&line, row);
            expect(row, &[("readable", "yes"), ("stale", "no"), ("detail", "")]);
        }
        let document = audit(&testdata(&format!("versions/etcd-{version}.db")), &[], &["-o", "json"]).json();
        assert_eq!(document["source"]["etcd_version"], version);
    }
}

#[test]
fn pages_of_16_kib_hold_the_same_rows() {
    let rows = |name: &str| {
        let run = audit(&testdata(name), &[&testdata("versions/encryption-config.json")], &["-o", "csv", "--history"]);
        assert_eq!(run.code, 1, "a key that anybody can guess is an error");
        run.out
    };
    assert!(rows("versions/etcd-3.6-pages-16k.db") == rows("versions/etcd-3.6.db"));
}
