//! The messages of both protocols, and the names of their methods.
//!
//! Upstream: `kubernetes/kms`, `apis/v1beta1/api.proto` and `apis/v2/api.proto`. Of responses only those fields are here
//! that kube-apiserver looks at; others are passed over.

use std::collections::BTreeMap;

use prost::Message;
use zeroize::Zeroize;

use crate::provider::kms::OwnedDekRequest;
use crate::provider::secret::SecretKey;

/// The only version of protocol v1.
pub(super) const V1BETA1: &str = "v1beta1";

pub(super) const V1_VERSION: &str = "/v1beta1.KeyManagementService/Version";
pub(super) const V1_ENCRYPT: &str = "/v1beta1.KeyManagementService/Encrypt";
pub(super) const V1_DECRYPT: &str = "/v1beta1.KeyManagementService/Decrypt";
pub(super) const V2_STATUS: &str = "/v2.KeyManagementService/Status";
pub(super) const V2_ENCRYPT: &str = "/v2.KeyManagementService/Encrypt";
pub(super) const V2_DECRYPT: &str = "/v2.KeyManagementService/Decrypt";
pub(super) const V2ALPHA1_STATUS: &str = "/v2alpha1.KeyManagementService/Status";
pub(super) const V2ALPHA1_ENCRYPT: &str = "/v2alpha1.KeyManagementService/Encrypt";
pub(super) const V2ALPHA1_DECRYPT: &str = "/v2alpha1.KeyManagementService/Decrypt";

/// What v1 is asked first, and what it answers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Version {
    #[prost(string, tag = "1")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DecryptV1 {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(bytes = "vec", tag = "2")]
    pub cipher: Vec<u8>,
}

impl From<&OwnedDekRequest> for DecryptV1 {
    fn from(request: &OwnedDekRequest) -> Self {
        Self { version: V1BETA1.to_string(), cipher: request.encrypted_dek.clone() }
    }
}

/// What v2 is asked first.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusResponse {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub healthz: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DecryptV2 {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

impl From<&OwnedDekRequest> for DecryptV2 {
    fn from(request: &OwnedDekRequest) -> Self {
        Self {
            ciphertext: request.encrypted_dek.clone(),
            uid: random_uid(),
            key_id: request.key_id.clone(),
            annotations: request.annotations.iter().cloned().collect(),
        }
    }
}

/// What both protocols answer. The plaintext wipes itself and does not print.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

impl DecryptResponse {
    /// The plaintext, of which no copy stays here.
    pub(super) fn into_key(mut self) -> SecretKey {
        SecretKey::new(std::mem::take(&mut self.plaintext))
    }
}

impl Drop for DecryptResponse {
    fn drop(&mut self) {
        self.plaintext.zeroize();
    }
}

/// What v1 is asked to wrap. It wipes itself and does not print.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct EncryptV1 {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(bytes = "vec", tag = "2")]
    plain: Vec<u8>,
}

impl EncryptV1 {
    pub(super) fn new(dek: &[u8]) -> Self {
        Self { version: V1BETA1.to_string(), plain: dek.to_vec() }
    }
}

impl Drop for EncryptV1 {
    fn drop(&mut self) {
        self.plain.zeroize();
    }
}

/// What v2 is asked to wrap. It wipes itself and does not print.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct EncryptV2 {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

impl EncryptV2 {
    pub(super) fn new(dek: &[u8]) -> Self {
        Self { plaintext: dek.to_vec(), uid: random_uid() }
    }
}

impl Drop for EncryptV2 {
    fn drop(&mut self) {
        self.plaintext.zeroize();
    }
}

/// What both protocols answer to that; v1 has the first field only.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// A random UUID by which the plugin's log can be read beside ours. Nothing depends on it, so without randomness it is
/// merely always the same.
fn random_uid() -> String {
    let mut random = [0; 16];
    if getrandom::fill(&mut random).is_err() {
        random = [0; 16];
    }
    let version_4 = u128::from_be_bytes(random) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let digits = format!("{version_4:032x}");
    let groups = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let groups: Vec<&str> = groups.into_iter().filter_map(|(from, to)| digits.get(from..to)).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_a_uuid_of_version_4() {
        let uid = random_uid();
        let lengths: Vec<usize> = uid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uid.as_bytes()[19]), "{uid}");
        assert_ne!(uid, random_uid());
    }
}
