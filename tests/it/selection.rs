//! What is looked at: where input comes from, which records of it, and which of them are shown.

use std::fs;
use std::io::Write;

use serde_json::json;

use super::program::{KUBEADM, Row, argument, atrest, atrest_reading, audit, cell, kubeadm, testdata};
use super::rows::is_the_record;
use super::servers::{Release, Server};
use super::walk;

/// Whether a row is to be shown.
type Wanted<'w> = &'w dyn Fn(&Row) -> bool;

fn keys(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| cell(row, "key")).collect()
}

#[test]
fn rows_are_filtered_by_only_and_totals_verdict_and_exit_are_not() {
    let all = kubeadm(&["-o", "csv"]);
    let rows = all.rows();
    let kinds: [(&str, Wanted); 9] = [
        ("encrypted", &|row| cell(row, "state") == "encrypted"),
        ("plaintext", &|row| cell(row, "state") == "plaintext"),
        ("unrecognised", &|row| cell(row, "state") == "unrecognised"),
        ("empty", &|row| cell(row, "state") == "empty"),
        ("readable", &|row| cell(row, "readable") == "yes"),
        ("unreadable", &|row| cell(row, "readable") == "no"),
        ("unknown", &|row| cell(row, "readable") == "unknown"),
        ("stale", &|row| cell(row, "stale") == "yes"),
        ("findings", &|row| !cell(row, "findings").is_empty()),
    ];
    for (only, wanted) in kinds {
        let run = kubeadm(&["-o", "csv", "--only", only]);
        assert_eq!(run.code, all.code, "{only}");
        let expected: Vec<_> = rows.iter().filter(|row| wanted(row)).cloned().collect();
        assert_eq!(run.rows(), expected, "{only}");
    }
    assert_eq!(rows.iter().filter(|row| cell(row, "readable") == "no").count(), 22);
}

#[test]
fn resources_and_names_are_selected_as_kubectl_does() {
    let rows = kubeadm(&["-o", "csv"]).rows();
    let is = |row: &Row, column: &str, content: &str| cell(row, column) == content;
    let core = |row: &Row, resource: &str| is(row, "group", "") && is(row, "resource", resource);
    let selections: [(&[&str], Wanted); 11] = [
        (&["secret"], &|row| core(row, "secrets")),
        (&["Secrets"], &|row| core(row, "secrets")),
        (&["secrets,cm", "-n", "team-a"], &|row| {
            (core(row, "secrets") || core(row, "configmaps")) && is(row, "namespace", "team-a")
        }),
        (&["secrets", "-n", "team-a", "-n", "payments"], &|row| {
            core(row, "secrets") && (is(row, "namespace", "team-a") || is(row, "namespace", "payments"))
        }),
        (&["secret/moved"], &|row| core(row, "secrets") && is(row, "name", "moved")),
        (&["secret", "moved", "cut"], &|row| {
            core(row, "secrets") && (is(row, "name", "moved") || is(row, "name", "cut"))
        }),
        (&["widgets.example.com"], &|row| is(row, "group", "example.com") && is(row, "resource", "widgets")),
        (&["widget"], &|row| is(row, "group", "example.com") && is(row, "resource", "widgets")),
        (&["deploy"], &|row| is(row, "group", "apps") && is(row, "resource", "deployments")),
        (&["ns,sa"], &|row| core(row, "namespaces") || core(row, "serviceaccounts")),
        (&["-n", "payments"], &|row| is(row, "namespace", "payments")),
    ];
    for (arguments, wanted) in selections {
        let expected: Vec<_> = rows.iter().filter(|row| wanted(row)).cloned().collect();
        assert!(!expected.is_empty(), "{arguments:?}");
        let found = kubeadm(&[&["-o", "csv"], arguments].concat());
        assert_eq!(keys(&found.rows()), keys(&expected), "{arguments:?}");
        let document = kubeadm(&[&["-o", "json"], arguments].concat()).json();
        assert_eq!(document["totals"]["entries"], expected.len(), "{arguments:?}");
    }
}

#[test]
fn a_resource_that_nothing_is_called_is_wrong_usage_and_near_names_are_offered() {
    for (word, near) in [("secretz", "secrets"), ("wigdets", "widgets.example.com"), ("deploymnets", "deployments")] {
        let run = kubeadm(&[word]);
        let message = run.failed(2);
        assert!(message.contains(word) && message.contains(near), "{message}");
    }
    assert!(!kubeadm(&["frobnicators"]).failed(2).contains("did you mean"));
}

#[test]
fn a_store_is_seen_as_it_was_at_every_revision_that_it_has() {
    let path = testdata("versions/etcd-3.5.db");
    let records = walk::records(&path);
    for revision in [261, 262, 281, 300, 315, 316] {
        let number = revision.to_string();
        let rows = audit(&path, &[], &["--revision", &number, "-o", "csv", "--history"]).rows();
        let expected = walk::view(records.clone(), revision);
        assert_eq!(rows.len(), expected.len(), "at {revision}");
        for (row, (kind, record)) in rows.iter().zip(&expected) {
            is_the_record(row, *kind, record);
        }
        let document = audit(&path, &[], &["--revision", &number, "-o", "json"]).json();
        assert_eq!(document["source"]["revision"], revision);
        let entries = expected.iter().filter(|(kind, _)| *kind == walk::Kind::Entry).count();
        assert_eq!(document["totals"]["entries"], entries);
    }
}

#[test]
fn a_revision_that_is_gone_or_not_there_yet_is_told_with_the_one_that_is() {
    let path = testdata("versions/etcd-3.5.db");
    let cases = [("260", "compacted away", "261"), ("317", "in the future", "316")];
    for (revision, said, bound) in cases {
        for run in [
            atrest(&["audit", &path, "--revision", revision]),
            atrest(&["check", &path, "--hashkv", "--revision", revision]),
        ] {
            let message = run.failed(2);
            assert!(message.contains(revision) && message.contains(said) && message.contains(bound), "{message}");
        }
    }
}

// Where input comes from.

#[test]
fn standard_input_is_read_plain_and_packed() {
    let plain = fs::read(testdata(KUBEADM.0)).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut forms = vec![(None, plain.clone()), (Some("gzip"), gzip.finish().unwrap())];
    #[cfg(feature = "zstd")]
    forms.push((Some("zstd"), zstd::encode_all(&plain[..], 1).unwrap()));
    let expected = kubeadm(&["-o", "csv"]);
    for (container, input) in forms {
        let rows = atrest_reading(&input, &["audit", "-", "-c", &testdata(KUBEADM.1), "-o", "csv"]);
        assert_eq!((rows.code, rows.err.as_str()), (1, ""));
        assert!(rows.out == expected.out, "{container:?}");
        let document = atrest_reading(&input, &["check", "-", "-o", "json"]).json();
        assert_eq!((&document["path"], &document["container"]), (&json!("-"), &json!(container)));
        assert_eq!((&document["bytes"], &document["hash"]), (&json!(input.len()), &json!(1_628_387_240)));
    }
    assert!(atrest_reading(b"", &["audit", "-"]).failed(3).contains("empty"));
}

#[test]
fn a_store_under_a_prefix_of_its_own_is_found_by_itself_and_when_it_is_given() {
    let server = Server::start(Release::V3_5);
    let secret = |name: &str| {
        format!(
            r#"{{"kind":"Secret","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default"}},"data":{{}}}}"#
        )
    };
    for name in ["a", "b", "c"] {
        server.put(format!("/clusters/blue/secrets/default/{name}"), secret(name).as_bytes());
    }
    // What only an API server leaves behind, and every one does.
    for key in ["namespaces/default", "namespaces/kube-system", "services/specs/default/kubernetes"] {
        server.put(format!("/clusters/blue/{key}"), b"k8s\0");
    }
    let path = server.snapshot();
    for more in [&[][..], &["--etcd-prefix", "/clusters/blue"], &["--etcd-prefix", "/clusters/blue/"]] {
        let document = audit(argument(&path), &[], &[&["-o", "json"], more].concat()).json();
        assert_eq!(document["source"]["prefixes"], json!(["/clusters/blue"]), "{more:?}");
        let rows = audit(argument(&path), &[], &[&["secrets", "-o", "csv"], more].concat()).rows();
        let places: Vec<_> =
            rows.iter().map(|row| [cell(row, "resource"), cell(row, "namespace"), cell(row, "name")]).collect();
        assert_eq!(places, ["a", "b", "c"].map(|name| ["secrets", "default", name]), "{more:?}");
    }
    let elsewhere = audit(argument(&path), &[], &["-o", "csv", "--etcd-prefix", "/registry"]).rows();
    assert!(elsewhere.iter().all(|row| cell(row, "resource").is_empty()), "{elsewhere:#?}");
}
