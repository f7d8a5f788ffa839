//! Two stores compared by what they hold.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::made::{Put, secret_key, store};
use super::program::{KUBEADM, Run, argument, atrest, temporary, testdata};
use super::walk;

const APISERVER: (&str, &str) = ("apiserver/snapshot.db", "apiserver/encryption-config.yaml");

fn diff(before: &str, after: &str, more: &[&str]) -> Run {
    atrest(&[&["diff", before, after][..], more].concat())
}

/// The fixture of a rotation gone wrong, rewritten to its target.
fn rotated(folder: &TempDir) -> String {
    let output = folder.path().join("rotated.db");
    let (source, all, target) =
        (testdata(KUBEADM.0), testdata("kubeadm/all-keys.json"), testdata("kubeadm/target-config.yaml"));
    let arguments = ["rewrite", &source, "-c", &all, "--to", &target, "--keep-unreadable", "-o", argument(&output)];
    let run = atrest(&arguments);
    assert_eq!(run.code, 1, "{}{}", run.text(), run.err);
    argument(&output).to_owned()
}

#[test]
fn a_rotation_changes_no_content_and_every_key_that_changed_is_named() {
    let folder = temporary();
    let (before, after) = (testdata(KUBEADM.0), rotated(&folder));
    let (old, new) = (testdata("kubeadm/all-keys.json"), testdata("kubeadm/target-config.yaml"));
    let configs = ["--config-before", &old, "--config-after", &new];
    let run = diff(&before, &after, &[&configs[..], &["-o", "json"]].concat());
    assert_eq!(run.code, 1);
    let document = run.json();
    let differences = document["differences"].as_array().unwrap();
    // What the audit says of both stores is what must have been found.
    let rows = |store: &str, config: &str| -> std::collections::BTreeMap<String, (String, String)> {
        let run = super::program::audit(store, &[config], &["-o", "csv"]);
        let objects = run.rows().into_iter().filter(|row| !row["resource"].is_empty());
        objects.map(|row| (row["key"].clone(), (row["opened_by"].clone(), row["readable"].clone()))).collect()
    };
    let (then, now) = (rows(&before, &old), rows(&after, &new));
    assert_eq!(then.len(), now.len());
    let mut named = 0;
    for (key, (opened_by, readable)) in &then {
        let (now_opened_by, now_readable) = &now[key];
        let found = differences.iter().find(|one| one["before"]["key"] == key.as_str());
        if readable != "yes" || now_readable != "yes" {
            let found = found.unwrap_or_else(|| panic!("{key} is not listed"));
            assert!(found["change"].as_array().unwrap().contains(&json!("closed")), "{found}");
            continue;
        }
        if opened_by == now_opened_by {
            assert!(found.is_none(), "{key}: {found:?}");
            continue;
        }
        let found = found.unwrap_or_else(|| panic!("{key} is not listed"));
        let is_key = found["before"]["provider"] == found["after"]["provider"];
        assert_eq!(found["change"], json!([if is_key { "key" } else { "encryption" }]), "{found}");
        let label = |side: &Value| match side["provider"].as_str().unwrap() {
            "identity" => "identity".to_owned(),
            provider => format!("{provider}/{}", side["key_name"].as_str().unwrap()),
        };
        assert_eq!((&label(&found["before"]), &label(&found["after"])), (opened_by, now_opened_by));
        named += 1;
    }
    assert!(named > 100, "{named}");
    let counts = &document["counts"];
    assert_eq!((&counts["changed"], &counts["added"], &counts["removed"]), (&json!(0), &json!(0), &json!(0)));
    assert_eq!(differences.len() as u64, named + counts["closed"].as_u64().unwrap());
    // Contents alone: only what nobody can open is left, and keeps it from being called equal.
    let content = diff(&before, &after, &[&configs[..], &["--content-only", "-o", "json"]].concat());
    assert_eq!(content.code, 1);
    assert!(content.json()["differences"].as_array().unwrap().iter().all(|one| one["change"][0] == "closed"));
    let sealed = diff(&before, &after, &[&configs[..], &["--content-only", "cm"]].concat());
    assert_eq!(sealed.code, 0, "{}", sealed.text());
    assert_eq!(diff(&before, &after, &[&configs[..], &["cm"]].concat()).code, 1, "the keys differ");
}

#[test]
fn a_store_is_the_same_as_itself_and_what_stays_closed_never_is() {
    let (source, config) = (testdata(APISERVER.0), testdata(APISERVER.1));
    let run = diff(&source, &source, &["-c", &config]);
    assert_eq!((run.code, run.text()), (0, "objects: 306 the same\n"), "{}", run.err);
    let closed = diff(&source, &source, &["-o", "json"]);
    assert_eq!(closed.code, 1);
    assert!(closed.err.contains("-c opens"), "{}", closed.err);
    let closed: Value = serde_json::from_slice(&closed.out).unwrap();
    let differences = closed["differences"].as_array().unwrap();
    assert_eq!(closed["counts"]["closed"], json!(differences.len()));
    assert!(!differences.is_empty());
    for one in differences {
        assert_eq!((&one["change"], &one["same_bytes"]), (&json!(["closed"]), &json!(true)), "{one}");
        assert_eq!(one["before"]["closed"], "no configuration was given");
    }
}

/// A stored object of the core group.
fn object(kind: &str, name: &str, more: Value) -> Vec<u8> {
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}});
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object.to_string().into_bytes()
}

fn two_stores(folder: &TempDir) -> (String, String) {
    let map = |name: &str| format!("/registry/configmaps/default/{name}");
    let touched = |time: &str| {
        let metadata = json!({"name": "touched", "namespace": "default", "managedFields": [{"time": time}]});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}).to_string().into_bytes()
    };
    let before = [
        Put::new(
            2,
            secret_key("db"),
            object("Secret", "db", json!({"data": {"password": "b2xk", "user": "c2FtZQ=="}})),
        ),
        Put::new(3, map("gone"), object("ConfigMap", "gone", json!({}))),
        Put::new(4, map("touched"), touched("1")),
        Put::new(5, map("web"), object("ConfigMap", "web", json!({"data": {"replicas": "1", "lines": "a\nb\nc\n"}}))),
    ];
    let after = [
        Put::new(12, "/kubernetes.io/configmaps/default/new", object("ConfigMap", "new", json!({"data": {"x": "y"}}))),
        Put::new(13, "/kubernetes.io/configmaps/default/touched", touched("2")),
        Put::new(
            14,
            "/kubernetes.io/configmaps/default/web",
            object("ConfigMap", "web", json!({"data": {"replicas": "2", "lines": "a\nB\nc\n"}})),
        ),
        Put::new(
            15,
            "/kubernetes.io/secrets/default/db",
            object("Secret", "db", json!({"data": {"password": "bmV3", "user": "c2FtZQ=="}})),
        ),
    ];
    (store(folder, "before.db", &before, &[]), store(folder, "after.db", &after, &[]))
}

const ROOTS: [&str; 4] = ["--etcd-prefix", "/registry", "--etcd-prefix", "/kubernetes.io"];

#[test]
fn objects_are_found_wherever_a_store_keeps_them_and_managed_fields_do_not_count() {
    let folder = temporary();
    let (before, after) = two_stores(&folder);
    let run = diff(&before, &after, &ROOTS);
    let expected = "CHANGE    NAMESPACE   OBJECT           BEFORE     AFTER      FIELDS\n\
                    removed   default     configmap/gone   identity\n\
                    added     default     configmap/new               identity\n\
                    content   default     configmap/web    identity   identity   data.lines, data.replicas\n\
                    content   default     secret/db        identity   identity   data.password\n\
                    \n\
                    objects: 1 added, 1 removed, 2 changed, 1 the same\n";
    assert_eq!((run.code, run.text()), (1, expected), "{}", run.err);
    let back = diff(&after, &before, &[&ROOTS[..], &["-o", "json"]].concat()).json();
    let changes: Vec<&Value> = back["differences"].as_array().unwrap().iter().map(|one| &one["change"]).collect();
    assert_eq!(changes, [&json!(["added"]), &json!(["removed"]), &json!(["content"]), &json!(["content"])]);
    assert_eq!(back["differences"][2]["fields"], json!(["data.lines", "data.replicas"]));
    let one = diff(&before, &after, &[&["cm", "touched"][..], &ROOTS].concat());
    assert_eq!((one.code, one.text()), (0, "objects: 1 the same\n"));
}

#[test]
fn unified_differences_show_yaml_and_no_value_of_a_secret_unless_asked() {
    let folder = temporary();
    let (before, after) = two_stores(&folder);
    let run = diff(&before, &after, &[&ROOTS[..], &["-o", "unified"]].concat());
    assert_eq!(run.code, 1);
    let text = run.text();
    for part in [
        "--- a/default/configmap/gone.yaml\n+++ /dev/null\n",
        "--- /dev/null\n+++ b/default/configmap/new.yaml\n",
        "--- a/default/configmap/web.yaml\n+++ b/default/configmap/web.yaml\n",
        "-    b\n+    B\n",
        "-  replicas: \"1\"\n+  replicas: \"2\"\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("b2xk") && !text.contains("bmV3") && !text.contains("c2FtZQ"), "{text}");
    let masked: Vec<&str> = text.lines().filter(|line| line.contains("(masked, ")).collect();
    assert!(
        masked.len() == 3 && masked[0].starts_with("-  password: ") && masked[1].starts_with("+  password: "),
        "{masked:?}"
    );
    assert!(masked[0][1..] != masked[1][1..]);
    let shown = diff(&before, &after, &[&ROOTS[..], &["-o", "unified", "--show-secrets", "secrets"]].concat());
    assert!(shown.text().contains("-  password: b2xk\n+  password: bmV3\n"), "{}", shown.text());
}

#[test]
fn another_secret_under_the_same_name_is_another_key() {
    let folder = temporary();
    let seal = |secret: &[u8; 32], name: &str| {
        let value = super::made::sealed("db", "eA==", name, secret, 1);
        let file = format!("{}{}.db", name, secret[0]);
        store(&folder, &file, &[Put::new(2, secret_key("db"), value)], &[])
    };
    let config = |name: &str, secret: &[u8; 32]| {
        let secret = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, secret);
        let provider = json!({"aesgcm": {"keys": [{"name": name, "secret": secret}]}});
        let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
                            "resources": [{"resources": ["secrets"], "providers": [provider]}]});
        super::program::private(&folder, &format!("{name}{secret:.2}.json"), config.to_string().as_bytes())
    };
    let (one, other) = ([1; 32], [2; 32]);
    let (before, after) = (seal(&one, "key1"), seal(&other, "key1"));
    let (old, new) = (config("key1", &one), config("key1", &other));
    let both = ["--config-before", &old, "--config-after", &new, "--etcd-prefix", "/registry"];
    let run = diff(&before, &after, &both);
    assert_eq!(run.code, 1);
    assert!(run.text().contains("key      default") && run.text().contains("aesgcm/key1 ("), "{}", run.text());
    // With only one of the two keys one side stays closed.
    let half = diff(&before, &after, &["-c", &old, "--etcd-prefix", "/registry"]);
    assert_eq!(half.code, 1);
    assert!(half.text().contains("closed after: "), "{}", half.text());
    assert_eq!(diff(&before, &before, &["-c", &old, "--etcd-prefix", "/registry"]).code, 0);
}

#[test]
fn deleted_objects_are_gone_and_older_revisions_do_not_count() {
    let (source, config) = (testdata(APISERVER.0), testdata(APISERVER.1));
    let records = walk::records(&source);
    let deleted = records.iter().filter(|record| record.tombstone).count();
    assert!(deleted > 0 && records.len() > 306);
    let folder = temporary();
    let empty = store(&folder, "empty.db", &[], &[]);
    let run = diff(&source, &empty, &["-c", &config, "-o", "json", "--etcd-prefix", "/registry"]).json();
    assert_eq!((&run["counts"]["removed"], &run["counts"]["same"]), (&json!(306), &json!(0)));
}

#[test]
fn what_cannot_be_read_is_no_difference() {
    let source = testdata(APISERVER.0);
    assert_eq!(diff(&source, "no-such-file", &[]).code, 3);
    assert_eq!(diff("-", "-", &[]).code, 2);
    assert_eq!(diff(&source, &source, &["-o", "yaml"]).code, 2);
    assert_eq!(diff(&source, &source, &["nosuchthing"]).code, 2);
}
