//! Stores of a test's own making: any records, sealed as the test wants them.

use std::fs::File;
use std::io::Write;

use atrest::bbolt::write::{Fill, Writer};
use atrest::etcd::{KeyValue, Revision, RevisionKey, schema};
use atrest::provider::aesgcm::{AesGcm, NONCE_BYTES};
use tempfile::TempDir;

use super::program::argument;

/// A record to be put at its `mod_revision`.
pub struct Put {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
}

impl Put {
    /// A key's first revision.
    pub fn new(revision: i64, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        let (key, value) = (key.into(), value.into());
        Self { key, value, create_revision: revision, mod_revision: revision, version: 1 }
    }

    /// A later version of a key.
    pub fn again(self, create_revision: i64, version: i64) -> Self {
        Self { create_revision, version, ..self }
    }

    /// Revision and record as a page has them.
    pub fn encoded(&self) -> (Vec<u8>, Vec<u8>) {
        let revision = Revision { main: self.mod_revision, sub: 0 };
        let record = KeyValue {
            key: &self.key,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            value: &self.value,
            lease: 0,
        };
        (RevisionKey { revision, tombstone: false }.encode(), record.encode())
    }
}

/// Writes a database with these records, in the order of revisions. Those of `freed` are in no tree, but in a page behind.
pub fn store(folder: &TempDir, name: &str, puts: &[Put], freed: &[Put]) -> String {
    let path = folder.path().join(name);
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("a new file");
    let mut writer = Writer::new(&file, 4096, 7).expect("a writer");
    for bucket in schema::BUCKETS {
        let mut bucket_writer = writer.bucket(bucket, 0, Fill::APPENDED).expect("a bucket");
        if bucket == schema::KEY {
            for put in puts {
                let (key, value) = put.encoded();
                bucket_writer.push(&key, &value).expect("revisions ascend");
            }
        }
        bucket_writer.finish().expect("a bucket");
    }
    writer.finish().expect("a whole file");
    if !freed.is_empty() {
        let mut page = vec![0x2e; 16];
        for put in freed {
            let (key, value) = put.encoded();
            page.extend([key, value].concat());
        }
        page.resize(page.len().next_multiple_of(4096), 0);
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).expect("the end");
        file.write_all(&page).expect("a page behind the last one");
    }
    argument(&path).to_owned()
}

/// A Secret as API servers store it in JSON.
pub fn secret(name: &str, data: &str) -> Vec<u8> {
    format!(
        r#"{{"kind":"Secret","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default"}},"data":{{"x":"{data}"}}}}"#
    )
    .into_bytes()
}

/// The key of a Secret.
pub fn secret_key(name: &str) -> String {
    format!("/registry/secrets/default/{name}")
}

/// A Secret under AES-GCM, with a nonce that a test chose.
pub fn sealed(name: &str, data: &str, key_name: &str, secret_bytes: &[u8], nonce: u8) -> Vec<u8> {
    let mut stored = format!("k8s:enc:aesgcm:v1:{key_name}:").into_bytes();
    let cipher = AesGcm::new(secret_bytes).expect("a key that AES knows");
    // High bytes, so that nothing of a nonce looks like the end of a name.
    let nonce = [nonce | 0x80; NONCE_BYTES];
    cipher.seal(secret_key(name).as_bytes(), &secret(name, data), &nonce, &mut stored).expect("a short plaintext");
    stored
}
