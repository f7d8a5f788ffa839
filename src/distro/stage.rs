//! Where a rotation of K3s or RKE2 stands: stage and hash, as a node's annotation and `encryption-state.json` have them.
//!
//! ```text
//! state := <stage> "-" <hash>
//! hash  := lower-case hexadecimal SHA-256 of the bytes of encryption-config.json
//! ```
//!
//! While values are written anew the hash is that of the keys as a list with the stage as a last, made-up key; three
//! generations of K3s count the keys of secretbox and the identity in three ways, and all are told.
//!
//! Upstream: `k3s-io/k3s`, `pkg/secretsencrypt/config.go` and `controller.go`.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::provider::spec::{NamedKey, ProviderSpec};

use super::gojson;

/// Hexadecimal digits of a hash.
const HASH_DIGITS: usize = 64;

/// A stage that K3s knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was ever rotated.
    Start,
    /// A new key was added as the last one.
    Prepare,
    /// It was put first.
    Rotate,
    /// Values are to be written anew; old releases only.
    ReencryptRequest,
    /// Values are being written anew.
    ReencryptActive,
    /// All were, and the old key is gone.
    ReencryptFinished,
}

impl Stage {
    /// All of them, in the order of a rotation.
    pub const ALL: [Self; 6] = [
        Self::Start,
        Self::Prepare,
        Self::Rotate,
        Self::ReencryptRequest,
        Self::ReencryptActive,
        Self::ReencryptFinished,
    ];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Prepare => "prepare",
            Self::Rotate => "rotate",
            Self::ReencryptRequest => "reencrypt_request",
            Self::ReencryptActive => "reencrypt_active",
            Self::ReencryptFinished => "reencrypt_finished",
        }
    }

    /// The stage of a word; none of one that no release has.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.word() == word)
    }

    /// Whether values are being written anew.
    pub fn in_progress(self) -> bool {
        matches!(self, Self::ReencryptRequest | Self::ReencryptActive)
    }
}

/// Stage and hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The stage's word, whether or not it is known.
    pub stage: String,
    /// The hash.
    pub hash: String,
}

impl State {
    /// Splits a text at its `-`; none if there is not exactly one.
    pub fn parse(text: &str) -> Option<Self> {
        let (stage, hash) = text.split_once('-')?;
        (!hash.contains('-')).then(|| Self { stage: stage.to_owned(), hash: hash.to_owned() })
    }

    /// Whether the hash could be one.
    pub fn is_plausible(&self) -> bool {
        self.hash.len() == HASH_DIGITS && self.hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stage, self.hash)
    }
}

/// The hash of a configuration that stands still.
pub fn config_hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The hashes that a node may have while values are written anew with these providers.
pub fn progress_hashes(providers: &[ProviderSpec], stage: Stage) -> Vec<String> {
    let cbc: Vec<_> = providers.iter().filter_map(cbc_keys).flatten().map(Some).collect();
    let secretbox = providers.iter().filter_map(secretbox_keys).flatten().map(Some);
    let identity = providers.contains(&ProviderSpec::Identity).then_some(None);
    let in_order = providers.iter().flat_map(|provider| match provider {
        ProviderSpec::Identity => vec![None],
        provider => cbc_keys(provider).into_iter().flatten().map(Some).collect(),
    });
    let newest = cbc.iter().copied().chain(secretbox).chain(identity);
    let mut hashes = vec![hash_of(&newest.collect::<Vec<_>>(), stage)];
    hashes.push(hash_of(&in_order.collect::<Vec<_>>(), stage));
    hashes.push(hash_of(&cbc, stage));
    hashes.dedup();
    hashes
}

fn cbc_keys(provider: &ProviderSpec) -> Option<&[NamedKey]> {
    match provider {
        ProviderSpec::AesCbc(keys) => Some(keys),
        _ => None,
    }
}

fn secretbox_keys(provider: &ProviderSpec) -> Option<&[NamedKey]> {
    match provider {
        ProviderSpec::Secretbox(keys) => Some(keys),
        _ => None,
    }
}

/// The hash of a list of keys; none among them is the identity.
fn hash_of(keys: &[Option<&NamedKey>], stage: Stage) -> String {
    let room: usize = keys.iter().flatten().map(|key| 6 * key.name.len() + 2 * key.secret.len() + 64).sum();
    let mut list = Zeroizing::new(String::with_capacity(room + 128 + 64 * keys.len()));
    list.push('[');
    for key in keys {
        match key {
            Some(key) => {
                let secret = Zeroizing::new(BASE64_STANDARD.encode(key.secret.expose()));
                gojson::element(&mut list, &key.name, &secret);
            }
            None => gojson::element(&mut list, "identity", "identity"),
        }
        list.push(',');
    }
    gojson::element(&mut list, stage.word(), "12345");
    list.push(']');
    hex(&Sha256::digest(list.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::provider::secret::SecretKey;

    const CONFIG: &str = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"aescbckey","secret":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}]}},{"identity":{}}]}]}"#;

    #[test]
    fn hashes_are_upstreams() {
        assert_eq!(config_hash(CONFIG.as_bytes()), "e3d5a0cbed958c2791904cac5b94581e3975282dfb2e46f066ea26f8f5b5d1aa");
        let loaded = config::load(CONFIG.as_bytes()).expect("a configuration");
        let providers = &loaded.entries.first().expect("an entry").providers;
        let active = progress_hashes(providers, Stage::ReencryptActive);
        let newest = "293ee6bc326b12c5cc43d8b388fc45e975b3fd2a801040b0aaa6b07dd282896d";
        assert!(active.iter().any(|hash| hash == newest), "{active:?}");
        let request = progress_hashes(providers, Stage::ReencryptRequest);
        let oldest = "a77ee1798f601190a1140dc57204300ad1289449c257848ce73b7dea0763582a";
        assert!(request.iter().any(|hash| hash == oldest), "{request:?}");
    }

    #[test]
    fn three_generations_count_keys_in_three_ways() {
        let key = |name: &str, byte| NamedKey { name: name.to_owned(), secret: SecretKey::new(vec![byte; 32]) };
        let providers = [
            ProviderSpec::Identity,
            ProviderSpec::Secretbox(vec![key("s", 1)]),
            ProviderSpec::AesCbc(vec![key("c", 2)]),
        ];
        let hashes = progress_hashes(&providers, Stage::ReencryptActive);
        let one = |name: &str, byte| {
            let secret = BASE64_STANDARD.encode([byte; 32]);
            format!(r#"{{"name":"{name}","secret":"{secret}"}}"#)
        };
        let fake = r#"{"name":"reencrypt_active","secret":"12345"}"#;
        let identity = r#"{"name":"identity","secret":"identity"}"#;
        let expected = [
            format!("[{},{},{identity},{fake}]", one("c", 2), one("s", 1)),
            format!("[{identity},{},{fake}]", one("c", 2)),
            format!("[{},{fake}]", one("c", 2)),
        ];
        assert_eq!(hashes, expected.map(|list| hex(&Sha256::digest(list.as_bytes()))));
    }

    #[test]
    fn a_state_has_one_dash() {
        let state = State::parse("reencrypt_finished-00ff").expect("a state");
        assert_eq!((state.stage.as_str(), state.hash.as_str()), ("reencrypt_finished", "00ff"));
        assert_eq!(state.to_string(), "reencrypt_finished-00ff");
        assert!(!state.is_plausible());
        assert_eq!((State::parse(""), State::parse("start"), State::parse("a-b-c")), (None, None, None));
        assert!(State::parse(&format!("start-{}", "0".repeat(64))).is_some_and(|state| state.is_plausible()));
    }

    #[test]
    fn every_stage_is_known_by_its_word() {
        for stage in Stage::ALL {
            assert_eq!(Stage::of(stage.word()), Some(stage));
        }
        assert_eq!(Stage::of("rotate_keys"), None, "it is only ever asked for");
    }
}
