//! Stores that a real kube-apiserver writes and reads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use atrest::provider::kms::SealForm;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::kms::{self, FORMS, mint, protocol, system_randomness};
use super::kube::KubeApiserver;
use super::oracle::Kms;
use super::program::{Row, argument, audit, cell, private, temporary};
use super::rows::expect;
use super::servers::{Release, Server};

pub const SECRETS: &str = "/api/v1/namespaces/default/secrets";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": format!("of {name}")}})
}

pub fn populate(server: &KubeApiserver, tag: &str, count: usize) {
    for index in 0..count {
        let name = format!("{tag}-{index}");
        server.post(SECRETS, &secret(&name));
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}});
        server.post(CONFIG_MAPS, &map);
        let widget =
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"n": 1}});
        server.post(WIDGETS, &widget);
    }
}

/// The custom resource of these tests.
pub fn define_widgets(server: &KubeApiserver) {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let names = json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]},
    });
    server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition);
}

/// A configuration for the three kinds of objects, with these providers.
pub fn config(folder: &TempDir, name: &str, providers: &[&Value]) -> PathBuf {
    let resources = ["secrets", "configmaps", "widgets.example.com"];
    let config = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": resources, "providers": providers}],
    });
    PathBuf::from(private(folder, name, config.to_string().as_bytes()))
}

pub fn keys(provider: &str, name: &str) -> Value {
    let mut key = [0; 32];
    system_randomness(&mut key).unwrap();
    json!({provider: {"keys": [{"name": name, "secret": BASE64_STANDARD.encode(key)}]}})
}

/// Rows by resource and object.
fn rows(snapshot: &Path, config: &Path) -> HashMap<(String, String, String), Row> {
    let run = audit(argument(snapshot), &[argument(config)], &["-o", "csv"]);
    let place = |row: &Row| ["resource", "namespace", "name"].map(|column| cell(row, column).to_owned());
    run.rows().into_iter().map(|row| (place(&row).into(), row)).collect()
}

#[test]
fn every_object_that_a_rotating_kube_apiserver_serves_is_readable_and_as_stale_as_it_should_be() {
    let (folder, etcd) = (temporary(), Server::start(Release::V3_6));
    let (cbc, new) = (keys("aescbc", "key1"), keys("secretbox", "key2"));
    let identity = json!({"identity": {}});
    {
        let server = KubeApiserver::start(&etcd, None);
        define_widgets(&server);
        populate(&server, "plain", 4);
    }
    {
        let first = config(&folder, "first.json", &[&cbc, &identity]);
        populate(&KubeApiserver::start(&etcd, Some(&first)), "old", 4);
    }
    let last = config(&folder, "last.json", &[&new, &cbc, &identity]);
    let server = KubeApiserver::start(&etcd, Some(&last));
    populate(&server, "new", 4);
    for touched in ["plain-0", "old-0"] {
        for kind in [SECRETS, CONFIG_MAPS, WIDGETS] {
            server.patch(&format!("{kind}/{touched}"), &json!({"metadata": {"labels": {"touched": "yes"}}}));
        }
    }
    server.delete(&format!("{SECRETS}/old-1"));

    let served = [("secrets", "/api/v1/secrets"), ("configmaps", "/api/v1/configmaps")];
    let served = served.into_iter().chain([("widgets", "/apis/example.com/v1/widgets")]);
    let served: Vec<(&str, Vec<Value>)> = served.map(|(resource, path)| (resource, server.list(path))).collect();
    let snapshot = etcd.snapshot();
    let mut rows = rows(&snapshot, &last);
    let mut ours = 0;
    for (resource, objects) in &served {
        for object in objects {
            let of = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
            let row = rows.remove(&((*resource).to_owned(), of("namespace"), of("name")));
            let row = row.unwrap_or_else(|| panic!("no row for {resource} {object}"));
            expect(&row, &[("readable", "yes"), ("mod_revision", &of("resourceVersion")), ("detail", "")]);
            // The API server's own objects are there since the first start.
            let name = of("name");
            let is_new = name.starts_with("new-") || ["plain-0", "old-0"].contains(&&*name);
            let stored = match (is_new, name.split_once('-')) {
                (true, _) => ("no", "secretbox", "secretbox/key2"),
                (false, Some(("old", _))) => ("yes", "aescbc", "aescbc/key1"),
                (false, Some(("plain", _))) => ("yes", "identity", "identity"),
                _ => continue,
            };
            expect(&row, &[("stale", stored.0), ("provider", stored.1), ("opened_by", stored.2)]);
            ours += 1;
        }
    }
    assert_eq!(ours, 3 * 12 - 1);
    for row in rows.values().filter(|row| !cell(row, "resource").is_empty()) {
        expect(row, &[("readable", "yes"), ("stale", "no"), ("state", "plaintext")]);
    }
    assert!(rows.len() > 100, "{}", rows.len());
}

/// Flags under which kube-apiserver takes a provider of KMS v1.
const WITH_V1: [&str; 2] = ["--feature-gates", "KMSv1=true"];

fn flags(form: SealForm) -> &'static [&'static str] {
    if protocol(form) == "v1" { &WITH_V1 } else { &[] }
}

#[test]
fn what_kube_apiserver_seals_by_a_plugin_opens_by_the_same_plugin_and_is_not_stale() {
    for form in [SealForm::V2Seed, SealForm::V1Gcm] {
        let (folder, etcd) = (temporary(), Server::start(Release::V3_7));
        let kms = Kms::start(protocol(form), "1");
        let config = kms::config(&folder, form, &kms.endpoint());
        let server = KubeApiserver::start_with(&etcd, Some(&config), flags(form));
        (0..5).for_each(|index| drop(server.post(SECRETS, &secret(&format!("s-{index}")))));
        let run = audit(argument(&etcd.snapshot()), &[argument(&config)], &["--kms", "-q", "-o", "csv"]);
        let rows: Vec<Row> = run.rows().into_iter().filter(|row| cell(row, "resource") == "secrets").collect();
        assert_eq!(rows.len(), 5);
        for row in &rows {
            expect(row, &[("readable", "yes"), ("stale", "no"), ("provider", "kms"), ("opened_by", "kms/cloud")]);
        }
    }
}

#[test]
fn kube_apiserver_serves_what_was_sealed_here() {
    let (folder, etcd) = (temporary(), Server::start(Release::V3_7));
    let names: Vec<String> = FORMS.iter().map(|form| format!("{form:?}").to_lowercase()).collect();
    let before: Vec<Value> = {
        let server = KubeApiserver::start(&etcd, None);
        names.iter().map(|name| server.post(SECRETS, &secret(name))).collect()
    };
    for ((form, name), before) in FORMS.into_iter().zip(&names).zip(before) {
        let key = format!("/registry/secrets/default/{name}");
        let all = etcd.all();
        let stored = all.iter().find(|found| BASE64_STANDARD.decode(&found.key).unwrap() == key.as_bytes());
        let plaintext = BASE64_STANDARD.decode(&stored.expect("the Secret is stored").value).unwrap();
        assert!(plaintext.starts_with(b"k8s\0"));

        let kms = Kms::start(protocol(form), "1");
        let mut sealed = Vec::new();
        let sealing = mint(form, 1, &kms.endpoint());
        sealing.seal(0, key.as_bytes(), &plaintext, system_randomness, &mut sealed).unwrap();
        etcd.put(&key, &sealed);
        let config = kms::config(&folder, form, &kms.endpoint());
        let server = KubeApiserver::start_with(&etcd, Some(&config), flags(form));
        let served = server.get(&format!("{SECRETS}/{name}"));
        assert_eq!((&served["data"], &served["metadata"]["uid"]), (&before["data"], &before["metadata"]["uid"]));
        // The next form's server reads this one's value, too, as plaintext.
        etcd.put(&key, &plaintext);
    }
}
