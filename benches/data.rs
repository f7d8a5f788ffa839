//! Fills an etcd server with Secrets as kube-apiserver stores them under aescbc: the data of `benches/run`.
//!
//! It speaks the JSON gateway of etcd's own port over plain HTTP, so that no client library is needed. Keys spread over
//! two hundred namespaces, a thousand Secrets to a transaction, each of some 600 bytes with a random password.
//!
//! ```console
//! cargo bench --bench data -- 127.0.0.1:2379 1000000 encryption-config.yaml
//! ```

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;

use atrest::config;
use atrest::etcd::wire::put_varint;
use atrest::provider::aescbc::{AesCbc, IV_BYTES};
use atrest::provider::prefix::SealedKind;
use atrest::provider::spec::ProviderSpec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What the server must have been told by `--max-txn-ops`.
const SECRETS_OF_A_TRANSACTION: u64 = 1000;
const NAMESPACES: u64 = 200;
/// With this the plaintext has some 600 bytes, and five records fit a page of 4 KiB.
const PASSWORD_BYTES: usize = 465;
/// `2026-01-02T03:04:05Z`
const CREATED_SECONDS: u64 = 1_767_323_045;

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [address, records, config] = arguments.as_slice() else {
        return Err("usage: data HOST:PORT RECORDS CONFIG; benches/run does all of it".into());
    };
    let sealer = Sealer::new(&std::fs::read(config)?)?;
    let records: u64 = records.parse()?;
    for first in (0..records).step_by(SECRETS_OF_A_TRANSACTION as usize) {
        let last = records.min(first + SECRETS_OF_A_TRANSACTION);
        commit(address, &transaction(&sealer, first..last)?)?;
    }
    Ok(())
}

/// The first key of a configuration, which is the one that values are written with.
struct Sealer {
    prefix: Vec<u8>,
    cipher: AesCbc,
}

impl Sealer {
    fn new(config: &[u8]) -> Result<Self, Box<dyn Error>> {
        let configuration = config::load(config)?;
        let writer = configuration.entries.first().and_then(|entry| entry.providers.first());
        let Some(ProviderSpec::AesCbc(keys)) = writer else { return Err("the first provider is not aescbc".into()) };
        let key = keys.first().ok_or("there is no key")?;
        let cipher = AesCbc::new(key.secret.expose()).ok_or("the key has a length that AES does not know")?;
        Ok(Self { prefix: [SealedKind::AesCbc.prefix(), key.name.as_bytes(), b":"].concat(), cipher })
    }

    fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        let mut iv = [0; IV_BYTES];
        getrandom::fill(&mut iv)?;
        let mut stored = self.prefix.clone();
        self.cipher.seal(plaintext, &iv, &mut stored);
        Ok(stored)
    }
}

/// The body of a request that puts these Secrets.
fn transaction(sealer: &Sealer, numbers: std::ops::Range<u64>) -> Result<String, getrandom::Error> {
    let mut puts = Vec::new();
    for number in numbers {
        let (namespace, name) = (format!("ns-{:03}", number % NAMESPACES), format!("secret-{number:07}"));
        let key = STANDARD.encode(format!("/registry/secrets/{namespace}/{name}"));
        let value = STANDARD.encode(sealer.seal(&secret(&namespace, &name, number)?)?);
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
