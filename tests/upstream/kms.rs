//! KMS values between us and upstream's own code: what its plugins wrap we open, and what we seal its transformers open.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use atrest::plugin::{AskOptions, Order, Plugins};
use atrest::provider::kms::{SealForm, Sealing};
use atrest::provider::spec::{KmsSpec, KmsVersion};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::oracle::{Kms, Oracle};
use super::program::{audit, cell, private, temporary, testdata};
use super::rows::{expect, hex};

pub const FORMS: [SealForm; 4] = [SealForm::V2Seed, SealForm::V2Keys, SealForm::V1Gcm, SealForm::V1Cbc];

/// The protocol of a form, as configurations and the stand-in name it.
pub fn protocol(form: SealForm) -> &'static str {
    if form.version() == KmsVersion::V1 { "v1" } else { "v2" }
}

/// A configuration that seals Secrets by one KMS provider named `cloud`, and reads plaintext, too.
pub fn config(folder: &TempDir, form: SealForm, endpoint: &str) -> PathBuf {
    let kms = json!({"apiVersion": protocol(form), "name": "cloud", "endpoint": endpoint, "timeout": "30s"});
    let config = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [{"kms": kms}, {"identity": {}}]}],
    });
    PathBuf::from(private(folder, &format!("{form:?}.json"), config.to_string().as_bytes()))
}

pub fn system_randomness(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::other)
}

/// A sealing for so many values of the provider `cloud`, with DEKs that the plugin has wrapped.
pub fn mint(form: SealForm, values: u64, endpoint: &str) -> Sealing {
    let spec = KmsSpec {
        version: form.version(),
        name: "cloud".to_string(),
        endpoint: endpoint.to_string(),
        timeout: std::time::Duration::from_secs(30),
    };
    let plugins = Plugins::greet(&[spec], &HashMap::new()).unwrap();
    let order = Order { provider: "cloud", form, values };
    plugins.mint(order, &AskOptions::default(), system_randomness).unwrap().sealing
}

#[test]
fn every_value_of_the_kms_store_is_judged_as_upstream_judges_it_whichever_key_is_current() {
    let truth = fs::read_to_string(testdata("kms/truth.jsonl")).unwrap();
    let truth: Vec<Value> = truth.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let v1 = Kms::start("v1", "1");
    for current in ["1", "2"] {
        let v2 = Kms::start("v2", current);
        let endpoints = [format!("cloud-kms={}", v2.endpoint()), format!("ack-kms={}", v1.endpoint())];
        let [cloud, ack] = &endpoints;
        let more = ["--kms", "--kms-endpoint", cloud, "--kms-endpoint", ack, "-q", "-o", "csv"];
        let run = audit(&testdata("kms/snapshot.db"), &[&testdata("kms/encryption-config.yaml")], &more);
        let rows: HashMap<_, _> = run.rows().into_iter().map(|row| (cell(&row, "key").to_owned(), row)).collect();
        let mut judged = 0;
        for line in &truth {
            let row = &rows[line["key"].as_str().unwrap()];
            let told = |field: &str| line[format!("{field}_key{current}")].as_bool();
            let Some(readable) = told("readable") else { continue };
            assert!(readable, "{line}");
            let stale = if told("stale").unwrap() { "yes" } else { "no" };
            expect(row, &[("readable", "yes"), ("stale", stale), ("detail", "")]);
            judged += 1;
        }
        assert_eq!(judged, 72);
    }
}

#[test]
fn what_is_sealed_opens_in_upstreams_transformers_and_only_at_its_key() {
    let folder = temporary();
    let mut oracle = Oracle::start();
    for form in FORMS {
        let kms = Kms::start(protocol(form), "1");
        let config = config(&folder, form, &kms.endpoint());
        let sealing = mint(form, 20, &kms.endpoint());
        for value in 0..20usize {
            let key = format!("/registry/secrets/default/s-{value}");
            let mut plaintext = vec![0; value * value * 37];
            system_randomness(&mut plaintext).unwrap();
            let mut stored = Vec::new();
            sealing.seal(value, key.as_bytes(), &plaintext, system_randomness, &mut stored).unwrap();
            let opened = oracle.open(&config, &key, &stored);
            assert_eq!(opened["sha256"], hex(&Sha256::digest(&plaintext)), "{form:?}: {opened}");
            // Of a form that is no longer written upstream says so.
            let stale = matches!(form, SealForm::V2Keys | SealForm::V1Cbc);
            assert_eq!(opened["stale"].as_bool().unwrap_or(false), stale, "{form:?}: {opened}");
            let moved = oracle.open(&config, "/registry/secrets/default/elsewhere", &stored);
            assert_eq!(moved["ok"].as_bool(), Some(form == SealForm::V1Cbc), "{form:?}: {moved}");
        }
    }
}

#[test]
fn plain_deks_are_fresh_to_api_servers_that_write_them() {
    let folder = temporary();
    let mut oracle = Oracle::start();
    let kms = Kms::start("v2", "1");
    let done = oracle.ask(&json!({"op": "kdf", "config": "cloud", "kdf": false}));
    assert_eq!(done["ok"], true, "{done}");
    let config = config(&folder, SealForm::V2Keys, &kms.endpoint());
    for (form, stale) in [(SealForm::V2Keys, false), (SealForm::V2Seed, true)] {
        let sealing = mint(form, 1, &kms.endpoint());
        let mut stored = Vec::new();
        sealing.seal(0, b"/registry/secrets/default/s", b"plain", system_randomness, &mut stored).unwrap();
        let opened = oracle.open(&config, "/registry/secrets/default/s", &stored);
        assert_eq!(opened["sha256"], hex(&Sha256::digest(b"plain")), "{opened}");
        assert_eq!(opened["stale"].as_bool().unwrap_or(false), stale, "{form:?}: {opened}");
    }
}
