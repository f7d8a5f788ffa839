//! What is read from a running server is what its file says at that revision.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::it::program::{KUBEADM, atrest, audit, cell, private, temporary, testdata};
use crate::it::servers::Release;

use super::server::{Cluster, Member};

/// Stores with a configuration of each, and which release starts with them.
const STORES: [(&str, &str, Release); 7] = [
    ("kubeadm/snapshot.db", "kubeadm/encryption-config.yaml", Release::V3_5),
    ("apiserver/snapshot.db", "apiserver/encryption-config.yaml", Release::V3_5),
    ("kms/snapshot.db", "kms/encryption-config.yaml", Release::V3_4),
    ("k3s/snapshot.db", "k3s/encryption-config.json", Release::V3_5),
    ("openshift3/snapshot.db", "openshift3/encryption-config.yaml", Release::V3_4),
    ("versions/etcd-3.4.db", "versions/encryption-config.json", Release::V3_4),
    ("versions/etcd-3.5.db", "versions/encryption-config.json", Release::V3_5),
];

fn live(endpoint: &str, configs: &[&str], more: &[&str]) -> crate::it::program::Run {
    let mut arguments = vec!["audit", "--endpoints", endpoint];
    configs.iter().for_each(|config| arguments.extend(["-c", config]));
    arguments.extend(more);
    atrest(&arguments)
}

#[test]
fn the_rows_of_a_restored_store_are_those_of_its_file_byte_for_byte() {
    for (store, config, release) in STORES {
        let (store, config) = (testdata(store), testdata(config));
        let server = Cluster::restored(release, Path::new(&store));
        for configs in [&[][..], &[config.as_str()]] {
            for form in ["csv", "jsonl"] {
                let file = audit(&store, configs, &["-o", form]);
                let from_server = live(&server.endpoints(), configs, &["-o", form]);
                assert_eq!((from_server.code, &from_server.err), (file.code, &file.err), "{store}");
                assert!(from_server.out == file.out, "{store} {form}: the rows differ");
                assert!(file.out.len() > 500, "{store}");
            }
        }
    }
}

#[test]
fn a_live_report_says_what_it_is_and_what_it_has_not() {
    let (store, config) = (testdata(KUBEADM.0), testdata(KUBEADM.1));
    let server = Cluster::restored(Release::V3_5, Path::new(&store));
    let document = live(&server.endpoints(), &[&config], &["-o", "json"]).json();
    let source = &document["source"];
    assert_eq!((&source["kind"], &source["revision"]), (&json!("live"), &json!(server.first().revision())));
    assert_eq!((&source["sha256"], &source["trailer"]), (&json!(null), &json!(null)));
    assert_eq!(source["path"], json!(server.endpoints()));
    let of_file = audit(&store, &[&config], &["-o", "json"]).json();
    for total in ["entries", "encrypted", "plaintext", "readable", "unreadable", "unknown", "stale", "empty"] {
        assert_eq!(document["totals"][total], of_file["totals"][total], "{total}");
    }
    assert_eq!(document["coverage"], of_file["coverage"]);
    assert_eq!(document["totals"]["history"], json!(0));
    let text = live(&server.endpoints(), &[&config], &[]);
    assert!(text.text().contains("a running etcd shows nothing older"), "{}", text.text());

    for option in ["--history", "--residue"] {
        let run = live(&server.endpoints(), &[], &["-o", "csv", option]);
        assert!(run.failed(2).contains("snapshot save"), "{}", run.err);
    }
}

/// Everything that a test writes into a fresh server.
fn filled(server: &Member, folder: &TempDir) -> PathBuf {
    for number in 0..40 {
        server.put(&format!("/registry/configmaps/ns-{}/c-{number}", number % 3), b"k8s\0first");
    }
    let granted = server.etcdctl(&["lease", "grant", "86400"]);
    let lease = granted.split(' ').nth(1).expect("the lease's id");
    server.etcdctl(&["put", "--lease", lease, "/registry/events/default/e", "leased"]);
    for number in 0..20 {
        server.put(&format!("/registry/configmaps/ns-{}/c-{number}", number % 3), b"k8s\0second");
    }
    server.etcdctl(&["del", "/registry/configmaps/ns-0/c-0"]);
    server.etcdctl(&["put", "/registry/configmaps/ns-0/c-0", "again"]);
    server.etcdctl(&["del", "/registry/configmaps/ns-1/c-1"]);
    let file = folder.path().join("snapshot.db");
    server.etcdctl(&["snapshot", "save", file.to_str().unwrap()]);
    file
}

#[test]
fn revisions_versions_and_leases_are_those_of_the_snapshot() {
    let folder = temporary();
    for release in Release::ALL {
        let server = Cluster::single(release);
        let file = filled(server.first(), &folder);
        let file = file.to_str().unwrap();
        let rows = live(&server.endpoints(), &[], &["-o", "csv"]);
        assert!(rows.out == audit(file, &[], &["-o", "csv"]).out, "{}", rows.text());
        let leased = rows.rows().into_iter().filter(|row| !cell(row, "lease").is_empty()).count();
        assert_eq!(leased, 1);
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn an_older_revision_is_read_as_it_was() {
    let folder = temporary();
    let server = Cluster::single(Release::V3_5);
    let file = filled(server.first(), &folder);
    let revision = "43";
    let at = live(&server.endpoints(), &[], &["-o", "csv", "--revision", revision]);
    let of_file = audit(file.to_str().unwrap(), &[], &["-o", "csv", "--revision", revision]);
    assert!(at.out == of_file.out && at.rows().len() == 41, "{}\n{}", at.text(), of_file.text());
    server.first().etcdctl(&["compact", "50"]);
    let run = live(&server.endpoints(), &[], &["--revision", revision]);
    assert!(run.failed(3).contains("compacted"), "{}", run.err);
    let run = live(&server.endpoints(), &[], &["--revision", "100000"]);
    assert!(run.failed(3).contains("revision"), "{}", run.err);
}

#[test]
fn keys_fit_and_get_read_a_running_server() {
    let (store, config) = (testdata(KUBEADM.0), testdata(KUBEADM.1));
    let server = Cluster::restored(Release::V3_5, Path::new(&store));
    let endpoint = server.endpoints();
    for (key, code) in [("key0", 1), ("key1", 1), ("g1", 1)] {
        let run = atrest(&["keys", "--endpoints", &endpoint, "-c", &config, "--require-unused", key]);
        assert_eq!((run.code, run.text().contains("values need it")), (code, true), "{key}: {}{}", run.text(), run.err);
    }
    let run = atrest(&["keys", "--endpoints", &endpoint, "--require-unused", "key1", "--including", "history"]);
    assert!(run.failed(2).contains("--including"), "{}", run.err);

    let all = testdata("kubeadm/all-keys.json");
    let fit = |source: &[&str]| atrest(&[&["fit"][..], source, &[&config, &all, "-o", "json"]].concat());
    let (mut from_server, mut of_file) = (fit(&["--endpoints", &endpoint]).json(), fit(&[&store]).json());
    for document in [&mut from_server, &mut of_file] {
        // Only a file has older revisions.
        document["path"].take();
        document["history"].take();
        document["configs"].as_array_mut().unwrap().iter_mut().for_each(|tried| drop(tried["history"].take()));
    }
    assert_eq!(from_server, of_file);

    for more in
        [vec!["secrets", "-A", "-o", "json"], vec!["secret", "s-000", "-o", "yaml", "--decode"], vec!["cm", "-A"]]
    {
        let from_server = atrest(&[&["get", "--endpoints", &endpoint, "-c", &config][..], &more].concat());
        let of_file = atrest(&[&["get", &store, "-c", &config][..], &more].concat());
        let normal = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(from_server.code, of_file.code, "{more:?}: {}", from_server.err);
        if more[0] == "cm" {
            // Ages go on.
            assert_eq!(normal(from_server.text()).len(), normal(of_file.text()).len());
        } else {
            assert!(from_server.out == of_file.out && from_server.out.len() > 100, "{more:?}: {}", from_server.err);
        }
    }
    let run = atrest(&["get", "--endpoints", &endpoint, "secrets", "-A", "--deleted"]);
    assert!(run.failed(2).contains("snapshot"), "{}", run.err);
    assert!(atrest(&["get", "--endpoints", &endpoint]).failed(2).contains("RESOURCE"));
}

#[test]
fn a_selection_and_custom_roots_are_found_in_a_running_server() {
    let server = Cluster::single(Release::V3_5);
    for number in 0..120 {
        server.first().put(&format!("/first/things/{number:04}"), b"x");
    }
    for number in 0..5 {
        server
            .first()
            .put(&format!("/registry/secrets/default/s-{number}"), b"k8s:enc:aescbc:v1:key1:xxxxxxxxxxxxxxxx");
        server.first().put(&format!("/registry/pods/default/p-{number}"), b"x");
    }
    server.first().put("zzz", b"x");
    let document = live(&server.endpoints(), &[], &["-o", "json"]).json();
    assert_eq!(document["source"]["prefixes"], json!(["/registry"]));
    assert_eq!(document["totals"]["entries"], json!(131));
    let rows = live(&server.endpoints(), &[], &["secrets", "-o", "csv"]).rows();
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| cell(row, "resource") == "secrets"));
}

#[test]
fn the_remedy_script_of_a_running_server_is_a_script() {
    let (store, config) = (testdata(KUBEADM.0), testdata(KUBEADM.1));
    let server = Cluster::restored(Release::V3_5, Path::new(&store));
    let folder = temporary();
    let config = private(&folder, "config.yaml", &fs::read(config).unwrap());
    let script = folder.path().join("remedy.sh");
    let run = live(&server.endpoints(), &[&config], &["--remedy", script.to_str().unwrap()]);
    assert_eq!(run.code, 1, "{}", run.err);
    let checked = Command::new("bash").arg("-n").arg(&script).status().expect("bash");
    assert!(checked.success());
}
