//! A running store as these tests fill and read it: through etcd's own protocol, with values sealed by this crate.

use std::sync::Arc;

use atrest::audit::deks::Deks;
use atrest::audit::rules::{Guard, Rules};
use atrest::config::{ApiServers, load};
use atrest::kube::key::Roots;
use atrest::provider::chain::Answer;
use atrest::provider::plaintext::Plaintext;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use etcd_client::{Client, GetOptions, KeyValue, PutOptions, Txn, TxnOp};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::super::program::private;

/// Configurations with an old and a new key, as files and ready for use.
#[derive(Clone)]
pub struct Keys {
    /// The file with the old key.
    pub old: String,
    /// The file that writes the new key, and reads plaintext.
    pub new: String,
    /// The file that writes the new key and reads the old one.
    pub both: String,
    /// The file with the new key alone.
    pub new_alone: String,
    old_rules: Arc<Rules>,
    /// The new key alone.
    pub new_only: Arc<Rules>,
    /// No key at all.
    pub nothing: Arc<Rules>,
}

/// The key of a Secret in the namespace `default`.
pub fn key(name: &str) -> Vec<u8> {
    format!("/registry/secrets/default/{name}").into_bytes()
}

fn rules(text: &str) -> Arc<Rules> {
    let configuration = load(text.as_bytes()).expect("a configuration");
    let servers = ApiServers::new(vec![("test".to_owned(), configuration)]).expect("one API server");
    Arc::new(Rules::new(servers).expect("keys of the right length"))
}

impl Keys {
    /// Drawn anew.
    pub fn new(folder: &TempDir) -> Self {
        let drawn = |provider: &str, name: &str| {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).expect("randomness");
            json!({provider: {"keys": [{"name": name, "secret": BASE64_STANDARD.encode(secret)}]}})
        };
        let (old, new, identity) = (drawn("aescbc", "old"), drawn("secretbox", "new"), json!({"identity": {}}));
        let text = |providers: &[&serde_json::Value]| {
            json!({
                "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
                "resources": [{"resources": ["secrets"], "providers": providers}],
            })
            .to_string()
        };
        let file = |name: &str, text: &str| private(folder, name, text.as_bytes());
        Self {
            old: file("old.json", &text(&[&old, &identity])),
            new: file("new.json", &text(&[&new, &identity])),
            both: file("both.json", &text(&[&new, &old])),
            new_alone: file("new-alone.json", &text(&[&new])),
            old_rules: rules(&text(&[&old])),
            new_only: rules(&text(&[&new])),
            nothing: rules(&text(&[&identity])),
        }
    }

    /// A Secret under the old key.
    pub fn sealed_old(&self, key: &[u8], data: &str) -> Vec<u8> {
        sealed(&self.old_rules, key, data)
    }

    /// A Secret under the new key.
    pub fn sealed_new(&self, key: &[u8], data: &str) -> Vec<u8> {
        sealed(&self.new_only, key, data)
    }
}

fn plaintext(key: &[u8], data: &str) -> Vec<u8> {
    let name = String::from_utf8_lossy(key).rsplit('/').next().unwrap_or_default().to_owned();
    let secret = json!({
        "kind": "Secret", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"of": data},
    });
    secret.to_string().into_bytes()
}

fn sealed(rules: &Rules, key: &[u8], data: &str) -> Vec<u8> {
    let Guard::Chain(chain) = rules.guard(&Roots::given(&["/registry"]).locate(key)) else { panic!("it is guarded") };
    let fill = |bytes: &mut [u8]| getrandom::fill(bytes).map_err(std::io::Error::other);
    let mut out = Vec::new();
    rules.chain(chain).expect("a chain").seal(key, &plaintext(key, data), fill, &mut out).expect("it can be sealed");
    out
}

/// A connection that waits for its answers.
pub struct Store {
    runtime: Runtime,
    client: Client,
}

impl Store {
    pub fn connect(endpoint: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(Client::connect([endpoint], None)).expect("a connection");
        Self { runtime, client }
    }

    /// Stores a Secret under the old key.
    pub fn put(&self, keys: &Keys, key: &[u8], data: &str, lease: i64) {
        self.put_sealed(key, keys.sealed_old(key, data), lease).expect("the server takes it");
    }

    pub fn put_sealed(&self, key: &[u8], value: Vec<u8>, lease: i64) -> Result<(), etcd_client::Error> {
        let options = PutOptions::new().with_lease(lease);
        self.runtime.block_on(self.client.kv_client().put(key, value, Some(options))).map(drop)
    }

    pub fn delete(&self, key: &[u8]) -> Result<(), etcd_client::Error> {
        self.runtime.block_on(self.client.kv_client().delete(key, None)).map(drop)
    }

    pub fn grant(&self, seconds: i64) -> i64 {
        self.runtime.block_on(self.client.lease_client().grant(seconds, None)).expect("a lease").id()
    }

    /// Stores so many Secrets under the old key, each of which holds its name.
    pub fn fill(&self, keys: &Keys, count: usize) {
        self.fill_by(keys, count, |name| name.to_owned());
    }

    /// The same, but all of them hold this.
    pub fn fill_with(&self, keys: &Keys, count: usize, data: &str) {
        self.fill_by(keys, count, |_| data.to_owned());
    }

    fn fill_by(&self, keys: &Keys, count: usize, data: impl Fn(&str) -> String) {
        let names: Vec<_> = (0..count).map(|number| format!("s{number}")).collect();
        for some in names.chunks(100) {
            let puts = some.iter().map(|name| {
                let key = key(name);
                let value = keys.sealed_old(&key, &data(name));
                TxnOp::put(key, value, None)
            });
            let txn = Txn::new().and_then(puts.collect::<Vec<_>>());
            self.runtime.block_on(self.client.kv_client().txn(txn)).expect("the server takes it");
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<Found> {
        let got = self.runtime.block_on(self.client.kv_client().get(key, None::<GetOptions>)).expect("an answer");
        got.kvs().first().map(Found::of)
    }

    /// Each key holds this, under these rules alone.
    #[track_caller]
    pub fn holds(&self, rules: &Rules, expected: impl IntoIterator<Item = (Vec<u8>, String)>) {
        let (roots, deks) = (Roots::given(&["/registry"]), Deks::default());
        let options = GetOptions::new().with_prefix();
        let mut kv = self.client.kv_client().max_decoding_message_size(1 << 30);
        let all = self.runtime.block_on(kv.get("/registry/", Some(options))).expect("an answer");
        let all: std::collections::HashMap<_, _> =
            all.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec())).collect();
        for (key, data) in expected {
            let name = String::from_utf8_lossy(&key).into_owned();
            let stored = all.get(&key).unwrap_or_else(|| panic!("{name} is there"));
            let Guard::Chain(chain) = rules.guard(&roots.locate(&key)) else { panic!("it is guarded") };
            let mut scratch = Plaintext::new();
            let answer = rules.chain(chain).expect("a chain").open(&key, stored, deks.of(chain), &mut scratch);
            let Answer::Opened { plaintext: held, .. } = answer else {
                panic!("{name} does not open: {}", String::from_utf8_lossy(stored.get(..40).unwrap_or(stored)))
            };
            assert_eq!(String::from_utf8_lossy(held), String::from_utf8_lossy(&plaintext(&key, &data)), "{name}");
        }
    }
}

/// What the tests look at of an entry.
pub struct Found {
    pub lease: i64,
}

impl Found {
    fn of(kv: &KeyValue) -> Self {
        Self { lease: kv.lease() }
    }
}
