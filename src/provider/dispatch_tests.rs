//! Stored values that kube-apiserver's own provider chains were given, and what they answered.
//!
//! `dispatch.jsonl` has static keys: names that begin like one another, one name twice, several providers of one kind,
//! damaged values. `kms.jsonl` has KMS envelopes of both versions, whole and spoiled, in chains of several KMS
//! providers; the plugins behind them wrapped DEKs by AES-256-GCM under the key SHA-256("oracle-kms-" + key id), the v2
//! plugin's current key id was 2, and v1's key was that of id 1. All keys are for tests only.

use std::collections::BTreeMap;
use std::time::Duration;

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::chain::{Answer, Chain};
use super::kms::{DekSource, DekTable, OwnedDekRequest, PluginState};
use super::plaintext::Plaintext;
use super::secret::SecretKey;
use super::spec::{KmsSpec, KmsVersion, NamedKey, ProviderSpec};

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    config: Option<Config>,
    #[serde(default)]
    resource: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    providers: Vec<Provider>,
    key: String,
    stored: String,
    readable: bool,
    stale: bool,
    error: Option<String>,
    opened_sha256: Option<String>,
}

#[derive(Deserialize)]
struct Config {
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Provider {
    Identity {},
    AesCbc(Keys),
    AesGcm(Keys),
    Secretbox(Keys),
    Kms(Kms),
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    name: String,
    secret: String,
}

#[derive(Deserialize)]
struct Kms {
    #[serde(rename = "apiVersion")]
    version: String,
    name: String,
    endpoint: String,
}

impl Keys {
    fn named(&self) -> Vec<NamedKey> {
        let named = |key: &Key| {
            let secret = SecretKey::new(STANDARD.decode(&key.secret).expect("base64"));
            NamedKey { name: key.name.clone(), secret }
        };
        self.keys.iter().map(named).collect()
    }
}

impl Provider {
    fn spec(&self) -> ProviderSpec {
        match self {
            Self::Identity {} => ProviderSpec::Identity,
            Self::AesCbc(keys) => ProviderSpec::AesCbc(keys.named()),
            Self::AesGcm(keys) => ProviderSpec::AesGcm(keys.named()),
            Self::Secretbox(keys) => ProviderSpec::Secretbox(keys.named()),
            Self::Kms(Kms { version, name, endpoint }) => ProviderSpec::Kms(KmsSpec {
                version: if version == "v2" { KmsVersion::V2 } else { KmsVersion::V1 },
                name: name.clone(),
                endpoint: endpoint.clone(),
                timeout: Duration::from_secs(3),
            }),
        }
    }
}

impl Config {
    /// The providers of a resource: those of its own entries in file order, else of its group's wildcard, else of all.
    fn providers(&self, group: &str, resource: &str) -> Vec<&Provider> {
        let named = |wanted: (&str, &str)| -> Vec<&Provider> {
            let names = |entry: &&Entry| {
                entry.resources.iter().any(|item| item.split_once('.').unwrap_or((item, "")) == wanted)
            };
            self.resources.iter().filter(names).flat_map(|entry| &entry.providers).collect()
        };
        let tried = [(resource, group), ("*", group), ("*", "*")].into_iter().map(named);
        tried.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
    }
}

impl Case {
    fn chain(&self) -> Chain {
        let configured = self.config.as_ref().map(|config| config.providers(&self.group, &self.resource));
        let providers = configured.unwrap_or_else(|| self.providers.iter().collect());
        let specs: Vec<ProviderSpec> = providers.into_iter().map(Provider::spec).collect();
        if specs.is_empty() { Chain::identity() } else { Chain::new(&specs).expect("usable keys") }
    }

    /// Compares one answer; `None` if it agrees.
    fn disagreement(&self, plugins: impl Fn(&Chain, &[u8]) -> DekTable) -> Option<String> {
        let (chain, stored) = (self.chain(), STANDARD.decode(&self.stored).expect("base64"));
        let deks = plugins(&chain, &stored);
        let mut scratch = Plaintext::new();
        let answer = chain.open(self.key.as_bytes(), &stored, &deks, &mut scratch);
        let agrees = match (&answer, &self.error) {
            (Answer::Opened { plaintext, stale, .. }, None) => {
                self.readable && *stale == self.stale && Some(sha256(plaintext)) == self.opened_sha256
            }
            (Answer::Failed(_), Some(error)) if error.starts_with("panic:") => !self.readable,
            (Answer::Failed(failure), Some(error)) => !self.readable && failure.to_string() == *error,
            _ => false,
        };
        (!agrees)
            .then(|| format!("{}: {:?} {:?} {} but {answer:?}", self.key, self.error, self.opened_sha256, self.stale))
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cases(text: &str) -> Vec<Case> {
    text.lines().map(|line| serde_json::from_str(line).expect("a case")).collect()
}

/// What the plugins of `kms.jsonl` answer to everything that the chain would ask about a value.
fn plugins(chain: &Chain, stored: &[u8]) -> DekTable {
    let mut table = DekTable::new();
    for provider in ["cloud", "b"] {
        table.set_state(provider, PluginState::Ready { key_id: "2".to_string(), source: DekSource::Seed });
    }
    for request in chain.dek_requests(stored) {
        let request = request.to_owned();
        let answer = unwrap_dek(&request);
        table.insert(request, answer);
    }
    table
}

fn unwrap_dek(request: &OwnedDekRequest) -> Result<SecretKey, String> {
    let refused = |why: &str| Err(format!("rpc error: code = Unknown desc = {why}"));
    let annotations: BTreeMap<&str, &[u8]> =
        request.annotations.iter().map(|(key, value)| (&**key, &**value)).collect();
    let key_id = match request.version {
        KmsVersion::V1 => "1",
        KmsVersion::V2 if annotations.get("version.oracle.example") != Some(&&b"1"[..]) => {
            return refused("annotation missing");
        }
        KmsVersion::V2 => &request.key_id,
    };
    let Some((nonce, sealed)) = request.encrypted_dek.split_first_chunk::<12>() else {
        return refused("short ciphertext");
    };
    let key = Sha256::digest(["oracle-kms-", key_id].concat());
    match Aes256Gcm::new(&key).decrypt(nonce.into(), sealed) {
        Ok(dek) => Ok(SecretKey::new(dek)),
        Err(_) => refused("cipher: message authentication failed"),
    }
}

#[test]
fn static_keys_answer_as_upstream_did_to_all_nine_hundred_values() {
    let cases = cases(include_str!("../../testdata/dispatch/dispatch.jsonl"));
    assert_eq!(cases.len(), 900);
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.disagreement(|_, _| DekTable::new())).collect();
    assert!(wrong.is_empty(), "{} disagree:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn kms_providers_answer_as_upstream_did_to_every_value() {
    let cases = cases(include_str!("../../testdata/dispatch/kms.jsonl"));
    assert_eq!(cases.len(), 500);
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.disagreement(plugins)).collect();
    assert!(wrong.is_empty(), "{} disagree:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn without_a_plugin_no_kms_value_is_judged_that_upstream_would_ask_about() {
    let mut waiting = 0;
    for case in cases(include_str!("../../testdata/dispatch/kms.jsonl")) {
        let (chain, stored) = (case.chain(), STANDARD.decode(&case.stored).expect("base64"));
        let (table, mut scratch) = (DekTable::new(), Plaintext::new());
        let asks = chain.dek_requests(&stored).next().is_some();
        let answer = chain.open(case.key.as_bytes(), &stored, &table, &mut scratch);
        assert_eq!(matches!(answer, Answer::Waits { .. }), asks, "{}", case.key);
        waiting += usize::from(asks);
    }
    assert!(waiting > 100);
}
