//! K3s' and RKE2's state of a test's own making: bootstrap records, nodes, configurations and sealed Secrets.
//!
//! The record is sealed with the ciphers' crates themselves, by the steps that K3s takes, and not by what is tested.

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};

use super::made::{Put, secret, secret_key};

/// A key of a configuration: its name and the number that its secret is made of.
pub type Key<'k> = (&'k str, u8);

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An element of `providers` as K3s writes it.
pub fn provider(kind: &str, keys: &[Key<'_>]) -> String {
    let key = |(name, byte): &Key<'_>| {
        let secret = BASE64_STANDARD.encode(secret_of(*byte));
        format!(r#"{{"name":"{name}","secret":"{secret}"}}"#)
    };
    let keys: Vec<_> = keys.iter().map(key).collect();
    format!(r#"{{"{kind}":{{"keys":[{}]}}}}"#, keys.join(","))
}

/// A secret that does not look weak, and differs by its number.
fn secret_of(number: u8) -> [u8; 32] {
    Sha256::digest([number]).into()
}

/// `encryption-config.json`.
pub fn config(providers: &[String]) -> String {
    format!(
        r#"{{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{{"resources":["secrets"],"providers":[{}]}}]}}"#,
        providers.join(",")
    )
}

pub fn identity() -> String {
    r#"{"identity":{}}"#.to_owned()
}

/// `encryption-state.json`.
pub fn state(stage: &str, config: &str) -> String {
    format!("{stage}-{}", hex(&Sha256::digest(config)))
}

/// The key of a passphrase's record.
pub fn record_key(passphrase: &str) -> String {
    format!("/bootstrap/{}", &hex(&Sha256::digest(passphrase))[..12])
}

/// A record with these members.
pub fn record_of(passphrase: &str, plain: &str, salt: u8) -> String {
    let salt = hex(&[salt; 8]);
    let mut key = [0; 32];
    pbkdf2::pbkdf2_hmac::<sha1::Sha1>(passphrase.as_bytes(), salt.as_bytes(), 4096, &mut key);
    let nonce = [9; 12];
    let cipher = Aes256Gcm::new_from_slice(&key).unwrap();
    let sealed = cipher.encrypt(&Nonce::from(nonce), plain.as_bytes()).unwrap();
    format!("{salt}:{}", BASE64_STANDARD.encode([&nonce[..], &sealed].concat()))
}

/// A member of the record that no answer may show.
pub const CA_KEY: &str = "-----BEGIN EC PRIVATE KEY----- of the cluster's CA";

/// The members of a record.
pub fn members(config: &str, state: &str, time: &str) -> String {
    let file = |content: &str| format!(r#"{{"Timestamp":"{time}","Content":"{}"}}"#, BASE64_STANDARD.encode(content));
    format!(
        "{{\"ServerCAKey\":{},\"EncryptionConfig\":{},\"EncryptionHash\":{}}}\n",
        file(CA_KEY),
        file(config),
        file(state)
    )
}

/// A record of a moment.
pub fn record(passphrase: &str, config: &str, state: &str, time: &str) -> String {
    record_of(passphrase, &members(config, state, time), 0x5a)
}

/// A node with such an annotation of `program`.
pub fn node(revision: i64, name: &str, program: &str, annotation: Option<&str>) -> Put {
    let annotations = annotation
        .map_or(String::new(), |text| format!(r#","annotations":{{"{program}.io/encryption-config-hash":"{text}"}}"#));
    let value = format!(
        r#"{{"kind":"Node","apiVersion":"v1","metadata":{{"name":"{name}","uid":"u-{name}","labels":{{"node-role.kubernetes.io/control-plane":"true"}}{annotations}}}}}"#
    );
    Put::new(revision, format!("/registry/minions/{name}"), value)
}

/// A Secret under AES-CBC.
pub fn cbc(revision: i64, name: &str, key: Key<'_>) -> Put {
    use cbc::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
    let (iv, plain) = ([3; 16], secret(name, "eA=="));
    let encryptor = cbc::Encryptor::<aes::Aes256>::new(&secret_of(key.1).into(), &iv.into());
    let mut sealed = [plain.as_slice(), &[0; 16]].concat();
    let sealed = encryptor.encrypt_padded::<Pkcs7>(&mut sealed, plain.len()).unwrap();
    let value = [format!("k8s:enc:aescbc:v1:{}:", key.0).as_bytes(), &iv, sealed].concat();
    Put::new(revision, secret_key(name), value)
}

/// The token of a server, as its file has it.
pub fn token(user: &str, password: &str) -> String {
    format!("K10{}::{user}:{password}\n", "0123456789abcdef".repeat(4))
}
