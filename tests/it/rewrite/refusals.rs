//! What keeps a result from its name: values that do not open, a distribution's own record, and keys that would be locked out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::program::{Run, argument, temporary, testdata};
use super::super::walk;
use super::stores::Store;
use super::{Opener, configuration, rewrite, whole};

/// Asserts that nothing was written, and gives the report.
#[track_caller]
fn refused(run: &Run, folder: &TempDir) -> Value {
    let report = run.json();
    assert_eq!((run.code, &report["proved"], &report["output"]), (4, &json!(false), &Value::Null), "{report:#}");
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let new: Vec<_> = entries.filter(|name| name.to_string_lossy().ends_with(".db")).collect();
    assert!(new.is_empty(), "{new:?}");
    report
}

fn keys(report: &Value) -> BTreeSet<String> {
    report["refused"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
}

fn kubeadm(folder: &TempDir, more: &[&str]) -> Run {
    let (config, target) = (testdata("kubeadm/all-keys.json"), testdata("kubeadm/target-config.yaml"));
    let arguments = [&["-c", &config, "--to", &target], more].concat();
    rewrite(&testdata("kubeadm/snapshot.db"), &folder.path().join("new.db"), &arguments)
}

#[test]
fn the_two_tampered_values_are_listed_or_kept_or_not_selected() {
    let folder = temporary();
    let tampered = ["/registry/secrets/default/cut", "/registry/secrets/default/moved"].map(str::to_owned);
    for more in [&[][..], &["--drop-history"], &["--dry-run"]] {
        let report = refused(&kubeadm(&folder, more), &folder);
        assert_eq!((keys(&report), &report["obstacle"]), (BTreeSet::from(tampered.clone()), &json!("values")));
        assert_eq!(report["refused_count"], 2);
        assert!(report["refused"].as_array().unwrap().iter().all(|row| !row["why"].as_str().unwrap().is_empty()));
    }

    let kept = kubeadm(&folder, &["--keep-unreadable"]);
    assert_eq!((kept.code, &kept.json()["unreadable"]), (1, &json!(2)));
    let path = folder.path().join("new.db");
    let stored = |path: &str| -> Vec<_> {
        walk::records(path).into_iter().filter(|record| tampered.contains(&walk::shown(&record.key))).collect()
    };
    assert_eq!(stored(argument(&path)), stored(&testdata("kubeadm/snapshot.db")));
    assert_eq!(stored(argument(&path)).len(), 2);
    fs::remove_file(&path).unwrap();

    // The target lacks the keys of what would stay, unless nothing of it stays that is on them.
    let others = kubeadm(&folder, &["configmaps,widgets.example.com"]);
    let report = refused(&others, &folder);
    assert!(report["refused_count"].as_u64().unwrap() > 100, "{report:#}");
    assert!(keys(&report).iter().all(|key| key.starts_with("/registry/secrets/")), "{report:#}");
    assert!(keys(&report).is_disjoint(&tampered.clone().into()), "they are closed before and after");
}

/// The old configuration with a new key in front of everything.
fn with_the_old_keys(folder: &TempDir) -> String {
    let old: Value = serde_json::from_slice(&fs::read(testdata("kubeadm/all-keys.json")).unwrap()).unwrap();
    let mut document = old.clone();
    let secret = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
    let first = json!({"secretbox": {"keys": [{"name": "new-2026", "secret": secret}]}});
    document["resources"][0]["providers"].as_array_mut().unwrap().insert(0, first);
    super::super::program::private(folder, "both.json", document.to_string().as_bytes())
}

#[test]
fn a_selection_that_leaves_the_tampered_values_out_is_written() {
    let folder = temporary();
    let (config, both) = (testdata("kubeadm/all-keys.json"), with_the_old_keys(&folder));
    let source = testdata("kubeadm/snapshot.db");
    let before = walk::records(&source);
    let in_namespace =
        |key: &[u8], namespace: &str| key.starts_with(format!("/registry/secrets/{namespace}/").as_bytes());
    let namespaces: BTreeSet<String> = before
        .iter()
        .filter_map(|record| {
            walk::shown(&record.key).strip_prefix("/registry/secrets/")?.split_once('/').map(|(ns, _)| ns.to_owned())
        })
        .filter(|namespace| namespace != "default")
        .collect();
    let namespace = namespaces.first().expect("a namespace beside the default one");
    let output = folder.path().join("new.db");
    let run = rewrite(&source, &output, &["-c", &config, "--to", &both, "secrets", "-n", namespace]);
    assert_eq!(run.code, 0, "{}", run.text());
    let opener = Opener::new(&[both]);
    whole(&output);
    let mut moved = 0;
    for (record, before) in walk::records(argument(&output)).iter().zip(&before) {
        if in_namespace(&record.key, namespace) && !record.tombstone {
            assert!(record.value.starts_with(b"k8s:enc:secretbox:v1:new-2026:"), "{}", walk::shown(&record.key));
            assert!(opener.open(record).is_some_and(|(_, stale)| !stale));
            moved += 1;
        } else {
            assert_eq!(record, before);
        }
    }
    assert!(moved > 5);
}

#[test]
fn what_would_be_locked_out_is_listed() {
    let folder = temporary();
    let (config, target) =
        (testdata("versions/encryption-config.json"), configuration(&folder, "aesgcm", "x", &["secrets"]));
    let (source, output) = (testdata("versions/etcd-3.6.db"), folder.path().join("new.db"));
    // Its keys would stay on a key that the target has not.
    let run = rewrite(&source, &output, &["-c", &config, "--to", &target, "configmaps"]);
    let report = refused(&run, &folder);
    let on_the_key = |record: &walk::Record| record.value.starts_with(b"k8s:enc:aescbc:v1:key1:");
    let expected =
        walk::records(&source).into_iter().filter(on_the_key).map(|record| walk::shown(&record.key)).collect();
    assert_eq!(keys(&report), expected);
    // Without history there is less to lock out, and it is refused all the same.
    let run = rewrite(&source, &output, &["-c", &config, "--to", &target, "configmaps", "--drop-history"]);
    assert!(!keys(&refused(&run, &folder)).is_empty());

    // Plaintext would stay, and the target has no identity to read it with.
    let plain = temporary();
    let source = plain.path().join("plain.db");
    assert_eq!(rewrite(&testdata("versions/etcd-3.6.db"), &source, &["-c", &config, "--strip"]).code, 0);
    let document = fs::read_to_string(&target).unwrap().replace(r#",{"identity":{}}"#, "");
    let closed = super::super::program::private(&folder, "closed.json", document.as_bytes());
    assert!(!document.contains("identity"));
    let run = rewrite(argument(&source), &output, &["--to", &closed, "secrets", "-n", "no-such-namespace"]);
    let report = refused(&run, &folder);
    let secrets = |record: &walk::Record| record.key.starts_with(b"/registry/secrets/") && !record.tombstone;
    let expected =
        walk::records(argument(&source)).into_iter().filter(secrets).map(|record| walk::shown(&record.key)).collect();
    assert_eq!(keys(&report), expected);
    let without_identity = rewrite(argument(&source), &output, &["--to", &closed]);
    assert_eq!(without_identity.code, 0, "{}", without_identity.text());
}

#[test]
fn a_key_of_the_same_name_with_another_secret_is_no_key_to_stay_on() {
    let folder = temporary();
    let config = testdata("versions/encryption-config.json");
    let other = configuration(&folder, "aescbc", "key1", &["secrets"]);
    let (source, output) = (testdata("versions/etcd-3.6.db"), folder.path().join("new.db"));
    let run = rewrite(&source, &output, &["-c", &config, "--to", &other, "configmaps"]);
    assert!(refused(&run, &folder)["refused_count"].as_u64().unwrap() > 5);
    // Written anew, they are on the other secret, though the prefix is the same.
    assert_eq!(rewrite(&source, &output, &["-c", &config, "--to", &other]).code, 0);
    let opener = Opener::new(&[other]);
    let sealed = walk::records(argument(&output)).into_iter().filter(|record| record.value.starts_with(b"k8s:enc:"));
    assert!(sealed.map(|record| opener.open(&record).unwrap()).all(|(_, stale)| !stale));
}

#[test]
fn a_distributions_own_record_stands_in_the_way_until_it_is_said_that_it_may_stay() {
    for (store, obstacle) in [(Store::openshift4(), "operators"), (Store::k3s(), "bootstrap")] {
        let config = store.current[0].as_str();
        for way in [&["--to", store.target.as_str()][..], &["--strip", "--keep-unreadable"]] {
            let folder = temporary();
            let output = folder.path().join("new.db");
            let arguments = [&["-c", config], way].concat();
            let report = refused(&rewrite(&store.source, &output, &arguments), &folder);
            assert_eq!(report["obstacle"], obstacle);
            let text = super::super::program::atrest(
                &[&["rewrite", &store.source, "-o", argument(&output)], &arguments[..]].concat(),
            );
            assert_eq!(text.code, 4);
            assert!(text.text().contains("--keep-distro-state"), "{}", text.text());
            let run = rewrite(&store.source, &output, &[&arguments[..], &["--keep-distro-state"]].concat());
            assert!(matches!(run.code, 0 | 1), "{}{}", run.text(), run.err);
            assert_eq!(run.json()["notes"].as_array().unwrap().len(), 1, "{}", run.text());
        }
    }
}

#[test]
fn on_the_keys_that_openshifts_operators_write_with_their_secrets_stay_right() {
    use super::super::program::{atrest, testdata};
    let folder = temporary();
    let source = testdata("openshift4/snapshot_2026-11-20_040506.db");
    let tarball = testdata("openshift4/static_kuberesources_2026-11-20_040506.tar.gz");
    let (own, output) = (folder.path().join("own.json"), folder.path().join("new.db"));
    let own = argument(&own);
    assert_eq!(atrest(&["recover-config", &source, "-c", &tarball, "-o", own]).code, 0);
    let run = rewrite(&source, &output, &["-c", &tarball, "--to", own]);
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
    let status = atrest(&["status", argument(&output), "-c", &tarball, "-o", "json"]).json();
    let ids: Vec<_> = status["findings"].as_array().unwrap().iter().map(|finding| &finding["id"]).collect();
    // The operator has not noted yet that its third key is done; all values are on it.
    assert_eq!(ids, ["status.unfinished"], "{status:#}");
    let text = status["findings"][0]["detail"].as_str().unwrap();
    assert!(text.contains("openshift-kube-apiserver") && text.contains("all values are on it"), "{text}");
    // What is only called the operators' may be anything.
    let empty = temporary();
    let other = empty.path().join("other.db");
    let report = refused(&rewrite(&source, &other, &["-c", own, "--to", own]), &empty);
    assert_eq!(report["obstacle"], "operators");
}

#[test]
fn new_nonces_on_the_same_keys_move_nothing_and_are_no_harm_to_a_distribution() {
    let store = Store::k3s();
    let [first, second] = ["first.db", "second.db"].map(|name| store.home.path().join(name));
    let config = store.current[0].as_str();
    // Some Secrets are on the older key of its own configuration.
    let run = rewrite(&store.source, &first, &["-c", config, "--to", config, "--keep-distro-state"]);
    assert_eq!(run.code, 0, "{}", run.text());
    let run = rewrite(argument(&first), &second, &["-c", config, "--to", config, "--all"]);
    assert_eq!(run.code, 0, "{}", run.text());
    let opener = Opener::new(&store.current);
    let mut anew = 0;
    for (record, before) in walk::records(argument(&second)).iter().zip(walk::records(argument(&first))) {
        let is_sealed = before.value.starts_with(b"k8s:enc:");
        if is_sealed {
            let [new, old] = [record, &before].map(|record| opener.open(record).unwrap());
            assert!(new.0 == old.0 && !new.1 && record.value != before.value);
            anew += 1;
        } else if !record.key.starts_with(b"/registry/secrets/") {
            assert_eq!(*record, before);
        }
    }
    assert!(anew > 10);
}

#[test]
fn usage_that_makes_no_sense_is_exit_code_2() {
    let (source, target) = (testdata("versions/etcd-3.6.db"), testdata("kubeadm/target-config.yaml"));
    let output = Path::new("new.db");
    for arguments in [
        &[][..],
        &["--to", &target, "--strip"],
        &["--strip", "no-such-resource"],
        &["--strip", "--for-etcd", "2.3"],
        &["--strip", "--format", "tar"],
    ] {
        assert_eq!(rewrite(&source, output, arguments).code, 2, "{arguments:?}");
        assert!(!output.exists());
    }
    let run = super::super::program::atrest(&["rewrite", &source, "--strip"]);
    assert_eq!(run.code, 2, "{}", run.err);
}
