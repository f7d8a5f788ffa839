//! Makes Secrets as kube-apiserver stores them, under the first provider of a configuration: the data of `benches/run`.
//!
//! They go into an etcd server, by the JSON gateway of its own port over plain HTTP, so that no client library is needed; or,
//! where a path is given, into a database of their own, without any server. Keys spread over two hundred namespaces, a thousand
//! Secrets to a transaction, each of some 600 bytes with a random password. Values of KMS v2 are sealed under ten seeds, those
//! of KMS v1 under a DEK each, all wrapped as the stand-in plugin of the tests does, which `plugin` runs at a socket of its own.
//!
//! ```console
//! cargo bench --bench data -- 127.0.0.1:2379 1000000 encryption-config.yaml
//! cargo bench --bench data -- ./store.db 1000000 kms.yaml
//! cargo bench --bench data -- plugin v2 1
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
#[cfg(feature = "kms")]
use std::time::Duration;

use atrest::bbolt::write::{Fill, Writer};
use atrest::config;
use atrest::etcd::wire::put_varint;
use atrest::etcd::{KeyValue, Revision, RevisionKey, schema};
use atrest::provider::aesgcm::AesGcm;
use atrest::provider::chain::Chain;
use atrest::provider::kms::v1;
use atrest::provider::kms::v2::Seed;
use atrest::provider::prefix::SealedKind;
use atrest::provider::spec::{KmsVersion, ProviderSpec};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

#[cfg(feature = "kms")]
#[path = "../tests/it/stand_in.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod stand_in;
#[cfg(feature = "kms")]
use stand_in::{Plugin, honest};

/// What the server must have been told by `--max-txn-ops`.
const SECRETS_OF_A_TRANSACTION: u64 = 1000;
const NAMESPACES: u64 = 200;
/// With this the plaintext has some 600 bytes, and five records fit a page of 4 KiB.
const PASSWORD_BYTES: usize = 465;
/// `2026-01-02T03:04:05Z`
const CREATED_SECONDS: u64 = 1_767_323_045;

/// Values of KMS v2 are under so many seeds.
const SEEDS: usize = 10;
/// The id of the stand-in's key.
const KEY_ID: &str = "1";

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["plugin", version, milliseconds] => plugin(version, milliseconds.parse()?),
        [target, records, config] => {
            let sealer = Sealer::new(&std::fs::read(config)?)?;
            let records: u64 = records.parse()?;
            if target.contains('/') {
                return write_database(target, records, &sealer);
            }
            for first in (0..records).step_by(SECRETS_OF_A_TRANSACTION as usize) {
                let last = records.min(first + SECRETS_OF_A_TRANSACTION);
                commit(target, &transaction(&sealer, first..last)?)?;
            }
            Ok(())
        }
        _ => Err("usage: data HOST:PORT|PATH RECORDS CONFIG, or data plugin v1|v2 MILLISECONDS".into()),
    }
}

/// Runs the tests' stand-in plugin, which takes so long for each DEK, until it is killed.
#[cfg(feature = "kms")]
fn plugin(version: &str, milliseconds: u64) -> Result<(), Box<dyn Error>> {
    let package = if version == "v1" { "v1beta1" } else { "v2" };
    let plugin = Plugin::slow(Duration::from_millis(milliseconds), honest(package, KEY_ID));
    println!("{}", plugin.endpoint());
    loop {
        std::thread::park();
    }
}

#[cfg(not(feature = "kms"))]
fn plugin(_: &str, _: u64) -> Result<(), Box<dyn Error>> {
    Err("there are no plugins without the feature kms".into())
}

/// Writes a database of these Secrets, the first at revision 2.
fn write_database(path: &str, records: u64, sealer: &Sealer) -> Result<(), Box<dyn Error>> {
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    let mut writer = Writer::new(&file, 4096, 7)?;
    for bucket in schema::BUCKETS {
        let mut pairs = writer.bucket(bucket, 0, Fill::APPENDED)?;
        for number in (0..records).take_while(|_| bucket == schema::KEY) {
            let (key, value) = sealer.object(number)?;
            let main = i64::try_from(number / SECRETS_OF_A_TRANSACTION)? + 2;
            let revision = Revision { main, sub: i64::try_from(number % SECRETS_OF_A_TRANSACTION)? };
            let record = KeyValue {
                key: key.as_bytes(),
                create_revision: main,
                mod_revision: main,
                version: 1,
                value: &value,
                lease: 0,
            };
            pairs.push(&RevisionKey { revision, tombstone: false }.encode(), &record.encode())?;
        }
        pairs.finish()?;
    }
    writer.finish()?;
    Ok(())
}

/// Seals with what the first provider of a configuration writes with.
enum Sealer {
    Static(Chain),
    KmsV1 { prefix: Vec<u8> },
    KmsV2 { prefix: Vec<u8>, seeds: Vec<(Seed, Vec<u8>)> },
}

impl Sealer {
    fn new(config: &[u8]) -> Result<Self, Box<dyn Error>> {
        let configuration = config::load(config)?;
        let providers = configuration.entries.first().map(|entry| entry.providers.as_slice()).unwrap_or_default();
        let Some(ProviderSpec::Kms(kms)) = providers.first() else { return Ok(Self::Static(Chain::new(providers)?)) };
        let prefix = |kind: SealedKind| [kind.prefix(), kms.name.as_bytes(), b":"].concat();
        if kms.version == KmsVersion::V1 {
            return Ok(Self::KmsV1 { prefix: prefix(SealedKind::KmsV1) });
        }
        let mut seeds = Vec::new();
        for _ in 0..SEEDS {
            let seed: [u8; 32] = random()?;
            seeds.push((Seed::new(&seed).ok_or("a seed of 32 bytes")?, wrap(&seed)?));
        }
        Ok(Self::KmsV2 { prefix: prefix(SealedKind::KmsV2), seeds })
    }

    /// The key and the stored value of a Secret.
    fn object(&self, number: u64) -> Result<(String, Vec<u8>), Box<dyn Error>> {
        let (namespace, name) = (format!("ns-{:03}", number % NAMESPACES), format!("secret-{number:07}"));
        let key = format!("/registry/secrets/{namespace}/{name}");
        let stored = self.seal(&key, &secret(&namespace, &name, number)?, number)?;
        Ok((key, stored))
    }

    fn seal(&self, key: &str, plaintext: &[u8], number: u64) -> Result<Vec<u8>, Box<dyn Error>> {
        match self {
            Self::Static(chain) => {
                let mut stored = Vec::new();
                let fill = |bytes: &mut [u8]| getrandom::fill(bytes).map_err(std::io::Error::other);
                chain.seal(key.as_bytes(), plaintext, fill, &mut stored)?;
                Ok(stored)
            }
            Self::KmsV1 { prefix } => {
                let dek: [u8; 32] = random()?;
                let cipher = AesGcm::new(&dek).ok_or("a DEK of 32 bytes")?;
                let mut inner = Vec::new();
                cipher.seal(key.as_bytes(), plaintext, &random()?, &mut inner)?;
                let mut stored = prefix.clone();
                let envelope = v1::Envelope { encrypted_dek: &wrap(&dek)?, inner: &inner };
                envelope.write(&mut stored).ok_or("a short DEK")?;
                Ok(stored)
            }
            Self::KmsV2 { prefix, seeds } => {
                let (seed, wrapped) = seeds.get(number as usize % seeds.len()).ok_or("a seed")?;
                let mut data = Vec::new();
                seed.seal(key.as_bytes(), plaintext, &random()?, &random()?, &mut data)?;
                let annotation = fields(&[(1, b"version.oracle.example"), (2, b"1")]);
                let envelope = fields(&[(1, &data), (2, KEY_ID.as_bytes()), (3, wrapped), (4, &annotation)]);
                let is_seed = [5 << 3, 1];
                let stored = [&prefix[..], &envelope, &is_seed].concat();
                Ok(stored)
            }
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// Wraps a DEK or seed as the stand-in does.
fn wrap(dek: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let key: [u8; 32] = Sha256::digest(["oracle-kms-", KEY_ID].concat()).into();
    let nonce = random()?;
    let mut wrapped = Vec::new();
    AesGcm::new(&key).ok_or("a key of 32 bytes")?.seal(b"", dek, &nonce, &mut wrapped)?;
    Ok(wrapped)
}

/// The body of a request that puts these Secrets.
fn transaction(sealer: &Sealer, numbers: std::ops::Range<u64>) -> Result<String, Box<dyn Error>> {
    let mut puts = Vec::new();
    for number in numbers {
        let (key, value) = sealer.object(number)?;
        let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
        puts.push(format!(r#"{{"requestPut":{{"key":"{key}","value":"{value}"}}}}"#));
    }
    Ok(format!(r#"{{"success":[{}]}}"#, puts.join(",")))
}

/// A Secret in storage protobuf. API servers write empty strings, too, and so does this.
fn secret(namespace: &str, name: &str, number: u64) -> Result<Vec<u8>, getrandom::Error> {
    let mut password = [0; PASSWORD_BYTES];
    getrandom::fill(&mut password)?;
    let uid = format!("00000000-0000-4000-8000-{number:012}");
    let mut created = vec![1 << 3];
    put_varint(&mut created, CREATED_SECONDS);

    let generation = [7 << 3, 0];
    let meta = [
        fields(&[(1, name.as_bytes()), (2, b""), (3, namespace.as_bytes()), (4, b""), (5, uid.as_bytes()), (6, b"")]),
        generation.to_vec(),
        fields(&[(8, &created)]),
    ]
    .concat();
    let data = fields(&[(1, b"password"), (2, &password)]);
    let object = fields(&[(1, &meta), (2, &data), (3, b"Opaque")]);
    let kind = fields(&[(1, b"v1"), (2, b"Secret")]);
    Ok([b"k8s\0".to_vec(), fields(&[(1, &kind), (2, &object), (3, b""), (4, b"")])].concat())
}

/// Length-delimited fields, one after another.
fn fields(fields: &[(u64, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, bytes) in fields {
        put_varint(&mut message, number << 3 | 2);
        put_varint(&mut message, bytes.len() as u64);
        message.extend_from_slice(bytes);
    }
    message
}

/// Sends a transaction and waits until the server has it.
fn commit(address: &str, body: &str) -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    let head = format!(
        "POST /v3/kv/txn HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") && answer.contains(r#""succeeded":true"#) {
        return Ok(());
    }
    Err(format!("the server says: {}", answer.chars().take(500).collect::<String>()).into())
}
