//! Objects out of stores and single values: `get` and `decode`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::program::{KUBEADM, Run, atrest, atrest_reading, testdata};
use super::walk;

const APISERVER: (&str, &str) = ("apiserver/snapshot.db", "apiserver/encryption-config.yaml");

/// `get` from a store with its configuration.
fn get((store, config): (&str, &str), more: &[&str]) -> Run {
    let (store, config) = (testdata(store), testdata(config));
    let mut arguments = vec!["get", &store, "-c", &config];
    arguments.extend(more);
    atrest(&arguments)
}

fn lines(name: &str) -> Vec<Value> {
    let mut text = String::new();
    let file = File::open(testdata(name)).unwrap();
    match name.ends_with(".gz") {
        true => GzDecoder::new(file).read_to_string(&mut text).unwrap(),
        false => (&file).read_to_string(&mut text).unwrap(),
    };
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Namespace and name.
fn place(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
    (text("namespace"), text("name"))
}

#[test]
fn every_object_of_a_real_api_server_is_the_one_that_it_served() {
    let mut served: BTreeMap<String, BTreeMap<(String, String), Value>> = BTreeMap::new();
    for line in lines("apiserver/objects.jsonl.gz") {
        let resource = line["resource"].as_str().unwrap().to_owned();
        let mut object = line["object"].clone();
        // The API server adds these two when it serves a StatefulSet; they are stored nowhere.
        let claims = object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
        for claim in claims.into_iter().flatten() {
            claim.as_object_mut().unwrap().retain(|key, _| key != "apiVersion" && key != "kind");
        }
        served.entry(resource).or_default().insert(place(&object), object);
    }
    assert!(served.len() > 25);
    let mut versions = Vec::new();
    for (resource, expected) in &served {
        let run = get(APISERVER, &[resource, "-A", "-o", "json", "--show-managed-fields"]);
        assert_eq!(run.code, 0, "{resource}: {}", run.err);
        let list = run.json();
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("List"), &json!("v1")));
        let found: BTreeMap<_, _> =
            list["items"].as_array().unwrap().iter().map(|object| (place(object), object.clone())).collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{resource}");
        for (place, object) in &found {
            // Definitions are stored in the version that the first API servers had.
            if object["apiVersion"] == expected[place]["apiVersion"] {
                assert_eq!(object, &expected[place], "{resource}");
            } else {
                assert_eq!(object["metadata"], expected[place]["metadata"], "{resource}");
                versions.push(format!("{} {}", object["apiVersion"], object["kind"]));
            }
        }
    }
    versions.dedup();
    assert_eq!(versions, ["\"apiextensions.k8s.io/v1beta1\" \"CustomResourceDefinition\""]);
}

#[test]
fn a_namespace_is_default_unless_told_and_managed_fields_are_hidden() {
    let all = get(APISERVER, &["secrets", "-A", "-o", "json"]).json();
    let names =
        |list: &Value| -> Vec<(String, String)> { list["items"].as_array().unwrap().iter().map(place).collect() };
    let everywhere = names(&all);
    let default = names(&get(APISERVER, &["secrets", "-o", "json"]).json());
    assert_eq!(default, everywhere.iter().filter(|(namespace, _)| namespace == "default").cloned().collect::<Vec<_>>());
    assert!(!default.is_empty() && default.len() <= everywhere.len());
    assert!(all["items"].as_array().unwrap().iter().all(|secret| secret["metadata"].get("managedFields").is_none()));
    let nothing = get(APISERVER, &["secrets", "-n", "nowhere"]);
    assert_eq!((nothing.code, nothing.text()), (1, ""));
    assert!(
        nothing.err.contains("No resources found in nowhere namespace.") && nothing.err.contains("-A"),
        "{}",
        nothing.err
    );
}

#[test]
fn one_object_by_name_stands_for_itself_in_every_form() {
    let list = get(APISERVER, &["secrets", "-o", "json"]).json();
    let secret = &list["items"][0];
    let name = secret["metadata"]["name"].as_str().unwrap();
    let one = get(APISERVER, &["secret", name, "-o", "json"]).json();
    assert_eq!(&one, secret);
    let yaml = get(APISERVER, &[&format!("secret/{name}"), "-o", "yaml"]);
    let read: Value = serde_saphyr::from_str(yaml.text()).unwrap();
    assert_eq!(&read, secret);
    assert_eq!(get(APISERVER, &["secret", name, "-o", "name"]).text(), format!("secret/{name}\n"));
    let custom = get(APISERVER, &["widgets", "box-00", "-o", "name"]);
    assert_eq!(custom.text(), "widget.example.com/box-00\n", "by the kind of its definition, as kubectl does it");
    let missing = get(APISERVER, &["secret", name, "missing", "-o", "name"]);
    assert_eq!((missing.code, missing.text()), (1, format!("secret/{name}\n").as_str()));
    assert!(missing.err.contains("secrets \"missing\" not found"), "{}", missing.err);
    let by_field =
        get(APISERVER, &["secrets", "-A", "--field-selector", &format!("metadata.name={name}"), "-o", "jsonl"]);
    assert_eq!(serde_json::from_str::<Value>(by_field.text()).unwrap(), *secret);
}

#[test]
fn labels_select_and_what_nobody_can_read_is_not_left_out() {
    let all = get(APISERVER, &["secrets", "-A", "-o", "json"]).json();
    let items = all["items"].as_array().unwrap();
    let is_wanted = |secret: &&Value| {
        let labels = &secret["metadata"]["labels"];
        labels["app"] == "plain" && labels.get("touched").is_none()
    };
    let expected: Vec<_> = items.iter().filter(is_wanted).map(place).collect();
    assert!(!expected.is_empty() && expected.len() < items.len());
    let selected =
        get(APISERVER, &["secrets", "-A", "-l", "app in (plain,none)", "-l", "!touched", "-o", "json"]).json();
    assert_eq!(selected["items"].as_array().unwrap().iter().map(place).collect::<Vec<_>>(), expected);
    // Without a configuration the labels of what is encrypted are unknown.
    let closed = atrest(&["get", &testdata(APISERVER.0), "secrets", "-A", "-l", "app=nothing", "-o", "json"]);
    let closed: Value = serde_json::from_slice(&closed.out).unwrap();
    let closed = closed["items"].as_array().unwrap();
    assert!(!closed.is_empty() && closed.iter().all(|item| item.get("$closed").is_some()));
}

#[test]
fn secrets_are_shown_as_text_on_request_and_the_stored_bytes_as_they_are() {
    let list = get(APISERVER, &["secrets", "-o", "json"]).json();
    let secret = list["items"].as_array().unwrap().iter().find(|secret| secret["data"].is_object()).unwrap();
    let name = secret["metadata"]["name"].as_str().unwrap();
    let decoded = get(APISERVER, &["secret", name, "--decode", "-o", "json"]).json();
    let mut known = decoded["data"].as_object().cloned().unwrap_or_default();
    for (key, text) in decoded["stringData"].as_object().unwrap() {
        known.insert(key.clone(), json!(BASE64_STANDARD.encode(text.as_str().unwrap())));
    }
    assert_eq!(Value::Object(known), secret["data"]);
    let raw = get(APISERVER, &["secret", name, "--raw"]);
    assert!(raw.out.starts_with(b"k8s\0"), "{:?}", raw.err);
    let json = atrest_reading(&raw.out, &["decode", "-o", "json", "--quiet"]).json();
    assert_eq!(json["data"], secret["data"]);
    assert_eq!(get(APISERVER, &["secrets", "-A", "--raw"]).failed(2).lines().count(), 2);
}

#[test]
fn tables_have_kubectls_columns() {
    let secrets = get(APISERVER, &["secrets", "-A"]);
    let head: Vec<_> = secrets.text().lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAMESPACE", "NAME", "TYPE", "DATA", "AGE"]);
    let deployments = get(APISERVER, &["deploy,namespaces", "-A", "-o", "wide"]);
    let tables: Vec<_> = deployments.text().split("\n\n").collect();
    assert_eq!(tables.len(), 2, "{}", deployments.text());
    assert!(tables[0].starts_with("NAMESPACE") && tables[0].contains("deployment.apps/"), "{}", tables[0]);
    assert!(tables[1].starts_with("NAME ") && tables[1].contains("namespace/default"), "{}", tables[1]);
}

#[test]
fn each_value_that_opens_gives_the_payload_that_was_put_in_and_none_that_does_not_is_hidden() {
    let truth = lines("kubeadm/truth.jsonl");
    let run = get((KUBEADM.0, "kubeadm/all-keys.json"), &["secrets", "-A", "-o", "jsonl"]);
    let found: Vec<Value> = run.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let secrets: Vec<&Value> = truth.iter().filter(|line| line["resource"] == "secrets").collect();
    assert_eq!(found.len(), secrets.len());
    for (number, line) in secrets.into_iter().enumerate() {
        let key = line["key"].as_str().unwrap();
        let (folder, name) = key.rsplit_once('/').unwrap();
        let namespace = folder.rsplit_once('/').unwrap().1;
        let here = (namespace.to_owned(), name.to_owned());
        let object = found.iter().find(|object| place(object) == here).unwrap();
        assert_eq!(object["metadata"]["resourceVersion"], json!(line["mod_revision"].to_string()));
        if line["readable_all"] == false {
            let told = object.get("$closed").or_else(|| object.get("$undecodable"));
            assert!(told.is_some(), "{key}: {object}");
            continue;
        }
        // Each takes a run of the program.
        if number % 5 > 0 {
            continue;
        }
        let raw = get((KUBEADM.0, "kubeadm/all-keys.json"), &["secret", name, "-n", namespace, "--raw", "--no-digest"]);
        let digest: String = Sha256::digest(&raw.out).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(json!(digest), line["plaintext_sha256"], "{key}");
    }
    assert_eq!(run.code, 1);
}

#[test]
fn without_a_configuration_what_is_encrypted_is_listed_with_its_key() {
    let store = testdata(KUBEADM.0);
    let run = atrest(&["get", &store, "secrets", "-A"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.text().contains("<encrypted: aescbc v1, key key1>"), "{}", run.text());
    assert!(run.text().contains("Opaque"), "plain Secrets are shown whole");
    let json = atrest(&["get", &store, "secrets", "-A", "-o", "json"]);
    let list: Value = serde_json::from_slice(&json.out).unwrap();
    let closed =
        list["items"].as_array().unwrap().iter().find(|item| item["$closed"]["provider"] == "secretbox").unwrap();
    assert_eq!((&closed["kind"], &closed["$closed"]["version"]), (&json!("Secret"), &json!("v1")));
    assert_eq!(closed["$closed"]["reason"], "no configuration was given");
}

#[test]
fn older_revisions_and_deleted_objects_come_from_history() {
    let store = testdata(APISERVER.0);
    let records = walk::records(&store);
    let secret = |key: &[u8]| key.starts_with(b"/registry/secrets/");
    let mut by_key: BTreeMap<&[u8], Vec<&walk::Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| secret(&record.key)) {
        by_key.entry(&record.key).or_default().push(record);
    }
    let puts: usize = by_key.values().flatten().filter(|record| !record.tombstone).count();
    let all = get(APISERVER, &["secrets", "-A", "--all-revisions", "-o", "jsonl"]);
    assert_eq!(all.text().lines().count(), puts);
    let deleted: Vec<_> =
        by_key.values().filter(|records| records.last().unwrap().tombstone && records.len() > 1).collect();
    let gone = get(APISERVER, &["secrets", "-A", "--deleted", "-o", "jsonl"]);
    assert_eq!(gone.text().lines().count(), deleted.len(), "{}", gone.err);
    let changed =
        by_key.values().find(|records| records.iter().filter(|record| !record.tombstone).count() > 1).unwrap();
    let first = changed.iter().find(|record| !record.tombstone).unwrap();
    let name = String::from_utf8(first.key.clone()).unwrap();
    let (folder, name) = name.rsplit_once('/').unwrap();
    let namespace = folder.rsplit_once('/').unwrap().1;
    let then = get(APISERVER, &["secret", name, "-n", namespace, "--revision", &first.main.to_string(), "-o", "json"]);
    assert_eq!(then.json()["metadata"]["resourceVersion"], json!(first.main.to_string()));
    assert!(get(APISERVER, &["secrets", "--revision", "999999"]).failed(2).contains("in the future"));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for arguments in [
        &["secrets", "-l", "a in b"][..],
        &["secrets", "--field-selector", "spec.nodeName=a"],
        &["nosuchthing"],
        &["secrets", "-A", "-n", "default"],
        &["secrets", "--deleted", "--all-revisions"],
        &[],
    ] {
        get(APISERVER, arguments).failed(2);
    }
}

/// Some stored value of a store.
fn stored(store: &str, key: &str) -> Vec<u8> {
    let records = walk::records(&testdata(store));
    records.into_iter().rev().find(|record| record.key == key.as_bytes()).unwrap().value
}

#[test]
fn a_stored_value_is_decoded_however_it_is_given() {
    let value = stored(APISERVER.0, "/registry/deployments/default/web");
    let with_line_feed = [&value[..], b"\n"].concat();
    let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = atrest_reading(&value, &["decode", "-q", "-o", "json"]).json();
    assert_eq!(expected["kind"], "Deployment");
    for input in [with_line_feed, BASE64_STANDARD.encode(&value).into_bytes(), digits.into_bytes()] {
        assert_eq!(atrest_reading(&input, &["decode", "-", "-q", "-o", "json"]).json(), expected);
    }
    let yaml = atrest_reading(&value, &["decode"]);
    assert_eq!(serde_saphyr::from_str::<Value>(yaml.text()).unwrap(), expected);
    assert!(yaml.err.contains("apps/v1 Deployment default/web: protobuf, not encrypted"), "{}", yaml.err);
}

#[test]
fn a_sealed_value_needs_its_configuration_and_its_key() {
    let truth = lines("kubeadm/truth.jsonl");
    let config = testdata("kubeadm/all-keys.json");
    for provider in ["aescbc", "aesgcm", "secretbox"] {
        let is_one = |line: &&Value| {
            line["provider"] == provider && line["readable_all"] == true && line["resource"] == "secrets"
        };
        let line = truth.iter().find(is_one).unwrap();
        let key = line["key"].as_str().unwrap();
        let value = [&stored(KUBEADM.0, key)[..], b"\n"].concat();
        let run = atrest_reading(&value, &["decode", "-c", &config, "--as", key]);
        assert_eq!(run.code, 0, "{}", run.err);
        assert!(
            run.err.contains(&format!("opened by {provider}/{}", line["key_name"].as_str().unwrap())),
            "{}",
            run.err
        );
        assert!(run.text().starts_with("apiVersion: v1\n"), "{}", run.text());
        let closed = atrest_reading(&value, &["decode"]);
        let said = closed.failed(3);
        assert!(said.contains(provider) && said.contains("--as"), "{said}");
        if provider == "aesgcm" {
            let moved = atrest_reading(&value, &["decode", "-c", &config, "--as", "/registry/secrets/other/place"]);
            assert!(moved.failed(3).contains("does not open"));
        }
    }
    for rubbish in [&b""[..], b"rubbish", b"k8s:enc:aescbc:v1:", b"k8s\0\x0a\xff", b"AAAA"] {
        assert_eq!(atrest_reading(rubbish, &["decode"]).code, 3, "{rubbish:?}");
    }
}

#[cfg(feature = "kms")]
#[test]
fn a_value_of_a_kms_provider_is_decoded_once_its_plugin_was_asked() {
    use super::stand_in::{Plugin, honest};

    let config = testdata("kms/encryption-config.yaml");
    let (v1, v2) = (Plugin::start(honest("v1beta1", "1")), Plugin::start(honest("v2", "1")));
    let endpoints = [format!("ack-kms={}", v1.endpoint()), format!("cloud-kms={}", v2.endpoint())];
    let truth = lines("kms/truth.jsonl");
    for name in ["v1-00", "v1cbc-00", "v2-00"] {
        let key = format!("/registry/secrets/default/{name}");
        let value = [&stored("kms/snapshot.db", &key)[..], b"\n"].concat();
        let decode = |more: &[&str]| {
            atrest_reading(&value, &[&["decode", "-c", &config, "--as", &key, "-o", "json"], more].concat())
        };
        let closed = decode(&[]);
        assert!(closed.failed(3).contains("--kms asks the plugin"), "{}", closed.err);
        let ask = ["--kms", "--kms-endpoint", &endpoints[0], "--kms-endpoint", &endpoints[1]];
        let run = decode(&ask);
        assert_eq!(run.code, 0, "{}", run.err);
        let object: Value = serde_json::from_slice(&run.out).unwrap();
        assert_eq!(object["metadata"]["name"], name);
        assert!(run.err.contains("opened by kms/"), "{}", run.err);
        let plan = decode(&["--kms=plan", "--kms-endpoint", &endpoints[0], "--kms-endpoint", &endpoints[1]]);
        assert!(plan.code == 0 && plan.text().contains("1 calls"), "{}{}", plan.text(), plan.err);
        assert!(truth.iter().any(|line| line["key"] == key.as_str()));
    }
    assert_eq!((v1.calls("Decrypt"), v2.calls("Decrypt")), (2, 1), "one value, one data key");
}
