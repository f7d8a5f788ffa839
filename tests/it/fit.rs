//! Which of several configurations belongs to a store: what `fit` says of stores of real servers.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::program::{Run, atrest, private, temporary, testdata};

fn fit(store: &str, configs: &[&str], more: &[&str]) -> Run {
    let store = testdata(store);
    let configs: Vec<_> = configs.iter().map(|name| testdata(name)).collect();
    let mut arguments = vec!["fit", &store];
    arguments.extend(configs.iter().map(String::as_str));
    arguments.extend(more);
    atrest(&arguments)
}

/// The JSON document of a run that ended with this code.
#[track_caller]
fn json(code: i32, store: &str, configs: &[&str], more: &[&str]) -> Value {
    let run = fit(store, configs, &[more, &["-o", "json"]].concat());
    assert_eq!(run.code, code, "{}{}", run.text(), run.err);
    run.json()
}

/// Missing keys as `provider/name`, with whether a configuration has one of that name, and their records.
fn missing(document: &Value) -> BTreeMap<String, (bool, u64)> {
    let row = |row: &Value| {
        let name = format!("{}/{}", row["provider"].as_str().unwrap(), row["key_name"].as_str().unwrap());
        (name, (row["configured"].as_bool().unwrap(), row["records"].as_u64().unwrap()))
    };
    document["missing_keys"].as_array().unwrap().iter().map(row).collect()
}

/// Encrypted entries of a store by what its maker wrote down.
fn encrypted(store: &str) -> u64 {
    let lines = std::fs::read_to_string(testdata(&format!("{store}/truth.jsonl"))).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["provider"] != "identity").count() as u64
}

#[test]
fn a_configuration_that_lacks_a_key_misses_it_by_name_and_damage_is_told_from_it() {
    let document = json(1, "kubeadm/snapshot.db", &["kubeadm/encryption-config.yaml"], &[]);
    let expected = [("aescbc/key0", (false, 20)), ("aescbc/key2", (true, 1)), ("aesgcm/g1", (true, 1))];
    assert_eq!(missing(&document), expected.map(|(name, told)| (name.to_owned(), told)).into());
    assert_eq!(document["encrypted"], encrypted("kubeadm"));
    // Twenty entries are on the lost key, and two were tampered with.
    assert_eq!(document["configs"][0]["encrypted"], encrypted("kubeadm") - 22);
    assert_eq!(document["verdict"], "partly");
    let text = fit("kubeadm/snapshot.db", &["kubeadm/encryption-config.yaml"], &[]);
    assert!(text.text().contains("encryption-config.yaml reads 177 of 199\n"), "{}", text.text());
    assert!(text.text().contains("aescbc/key0: 20 records\n"), "{}", text.text());
}

#[test]
fn files_that_only_together_read_the_most_are_named_in_their_order() {
    let names = ["kubeadm/lost-key.json", "rke2/encryption-config.json", "kubeadm/encryption-config.yaml"];
    let document = json(1, "kubeadm/snapshot.db", &names, &[]);
    let paths: Vec<_> =
        document["best"]["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert_eq!(paths, [testdata(names[0]), testdata(names[2])]);
    assert_eq!(document["best"]["encrypted"], encrypted("kubeadm") - 2);
    assert_eq!(missing(&document).len(), 2, "only the two that were tampered with");
}

#[test]
fn one_file_that_reads_as_much_as_several_is_best() {
    let names = ["kubeadm/lost-key.json", "kubeadm/encryption-config.yaml", "kubeadm/all-keys.json"];
    let document = json(1, "kubeadm/snapshot.db", &names, &[]);
    assert_eq!(document["best"]["paths"], serde_json::json!([testdata(names[2])]));
}

#[test]
fn a_key_that_was_removed_too_early_is_missed_by_name() {
    let store = "rke2/on-demand-server-1-1763600000.zip";
    let document = json(1, store, &["rke2/encryption-config.json"], &[]);
    assert_eq!(missing(&document), [("aescbc/aescbckey".to_owned(), (false, 2))].into());
}

#[test]
fn what_is_not_encrypted_makes_no_configuration_belong_to_a_store() {
    let document = json(1, "kubeadm/snapshot.db", &["openshift3/encryption-config.yaml"], &[]);
    let config = &document["configs"][0];
    assert!(config["entries"].as_u64().unwrap() > 0 && config["encrypted"] == 0, "{config}");
    assert_eq!(config["unused_keys"], serde_json::json!(["aescbc/key1", "aescbc/key2"]));
    assert_eq!(document["verdict"], "none");
    let text = fit("kubeadm/snapshot.db", &["openshift3/encryption-config.yaml"], &[]);
    assert!(text.text().starts_with("[FAIL]"), "{}", text.text());
}

#[test]
fn a_store_in_which_nothing_is_an_object_proves_nothing() {
    let document = json(1, "kubeadm/snapshot.db", &["kubeadm/all-keys.json"], &["--etcd-prefix", "/nowhere"]);
    assert_eq!((&document["entries"], &document["verdict"]), (&0.into(), &"nothing".into()));
    assert_eq!(document["configs"][0]["share"], 0.0);
    let text = fit("kubeadm/snapshot.db", &["kubeadm/all-keys.json"], &["--etcd-prefix", "/nowhere"]);
    assert!(text.code == 1 && text.text().starts_with("[FAIL]"), "{}", text.text());
}

#[test]
fn values_of_a_plugin_wait_and_its_provider_is_not_called_unused() {
    let document = json(1, "kms/snapshot.db", &["kms/encryption-config.yaml"], &[]);
    assert!(document["waiting_for_kms"].as_u64().unwrap() > 0);
    assert_eq!(document["configs"][0]["unused_keys"], serde_json::json!([]));
    assert_eq!((document["uncovered"].as_u64(), missing(&document).len()), (Some(0), 0));
}

#[test]
fn values_of_an_api_server_that_no_file_speaks_for_do_not_wait_for_a_plugin() {
    let document = json(1, "openshift3/snapshot.db", &["openshift3/encryption-config.yaml"], &[]);
    assert_eq!(document["waiting_for_kms"], 0);
    // The OAuth server stores its six access tokens as they are, and the file is that of another server.
    assert_eq!(document["uncovered"], 6);
    assert_eq!(document["best"]["encrypted"], document["encrypted"]);
}

#[test]
fn a_name_with_a_colon_is_named_as_the_configuration_has_it_whatever_the_order() {
    // The key's name, in a configuration that has another secret under it.
    let folder = temporary();
    let other = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":
        ["*.*"],"providers":[{"secretbox":{"keys":[{"name":"box:a","secret":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}]}}]}]}"#;
    let (store, other) = (testdata("kubeadm/snapshot.db"), private(&folder, "other.json", other.as_bytes()));
    let lacks = testdata("rke2/encryption-config.json");
    for configs in [[&other, &lacks], [&lacks, &other]] {
        let run = atrest(&["fit", &store, configs[0], configs[1], "-o", "json"]);
        let missing = missing(&run.json());
        assert_eq!(missing.get("secretbox/box:a"), Some(&(true, 20)), "{missing:?}");
        assert!(!missing.contains_key("secretbox/box"), "{missing:?}");
    }
}

#[test]
fn each_file_is_named_with_its_hash() {
    let name = "k3s/encryption-config.json";
    let document = json(0, "k3s/snapshot.db", &["rke2/encryption-config.json", name], &[]);
    let bytes = std::fs::read(testdata(name)).unwrap();
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(document["configs"][1]["sha256"], hash);
    assert_eq!((&document["schema"], &document["verdict"]), (&"atrest.fit/1".into(), &"fits".into()));
    assert_eq!(document["best"]["paths"], serde_json::json!([testdata(name)]));
}

#[test]
fn more_files_than_can_be_compared_are_wrong_usage() {
    let sixteen = ["k3s/encryption-config.json"; 16];
    json(0, "k3s/snapshot.db", &sixteen, &[]);
    fit("k3s/snapshot.db", &["k3s/encryption-config.json"; 17], &[]).failed(2);
}
