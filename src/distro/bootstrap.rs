//! The bootstrap record of K3s and RKE2: certificates, keys and the encryption configuration of a cluster, sealed with
//! the server's token, in the store.
//!
//! ```text
//! key    := "/bootstrap/" <first 12 hex digits of SHA-256(passphrase)>
//! value  := <16 hex digits: the salt> ":" <standard base64 of NONCE (12) || CIPHERTEXT || TAG (16)>
//! secret := PBKDF2-HMAC-SHA1(passphrase, the 16 digits as they are, 4096 rounds, 32 bytes), for AES-256-GCM
//! plain  := { "EncryptionConfig": {"Timestamp": RFC3339, "Content": base64}, "EncryptionHash": .., "ServerCAKey": .., .. }
//! ```
//!
//! Old releases have the base64 text where now `Timestamp` and `Content` stand. An empty value is a lock that a server
//! holds while it starts for the first time. All members are as secret as the keys, and none leaves this module but the
//! two about encryption.
//!
//! Upstream: `k3s-io/k3s`, `pkg/cluster/{encrypt,storage}.go`, `pkg/bootstrap/bootstrap.go`.

use base64::prelude::{BASE64_STANDARD, Engine};
use hmac::Hmac;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::config::base64 as go_base64;
use crate::kube::document::{Document, Node};
use crate::provider::aesgcm::{AesGcm, NONCE_BYTES};
use crate::provider::plaintext::Plaintext;

use super::gojson;
use super::token::Passphrase;

/// Where the records lie.
pub const FOLDER: &[u8] = b"/bootstrap/";

/// Hexadecimal digits of the passphrase's hash in a record's key.
const NAME_DIGITS: usize = 12;

/// Hexadecimal digits of the salt in front of a value.
const SALT_DIGITS: usize = 16;

/// The bytes that they are of.
pub const SALT_BYTES: usize = SALT_DIGITS / 2;

/// Rounds of the derivation.
const ROUNDS: u32 = 4096;

/// Bytes of the derived key.
const KEY_BYTES: usize = 32;

/// The member with the configuration, and the one with stage and hash.
const CONFIG_MEMBER: &str = "EncryptionConfig";
const STATE_MEMBER: &str = "EncryptionHash";

/// Why a record gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It has no content yet.
    #[error("it is empty: a server was about to write it")]
    Lock,
    /// It has not the form of a record.
    #[error("it is no bootstrap record: {0}")]
    Malformed(&'static str),
    /// The passphrase does not open it.
    #[error("the token does not open it")]
    Closed,
    /// It opened, and what came is no JSON of files.
    #[error("it opens, and holds no files: {0}")]
    NoFiles(&'static str),
}

/// The name under which a passphrase's record is stored, behind [`FOLDER`]. K3s calls it the token's hash.
pub fn name(passphrase: &Passphrase) -> String {
    let digest = Sha256::digest(passphrase.expose());
    let mut digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.truncate(NAME_DIGITS);
    digits
}

/// A record's value, its framing read.
pub struct Sealed<'v> {
    salt: &'v [u8],
    body: Vec<u8>,
}

impl<'v> Sealed<'v> {
    /// Reads the framing of a value.
    ///
    /// # Errors
    ///
    /// [`RecordError::Lock`] and [`RecordError::Malformed`].
    pub fn parse(value: &'v [u8]) -> Result<Self, RecordError> {
        if value.is_empty() {
            return Err(RecordError::Lock);
        }
        let (salt, rest) = value.split_at_checked(SALT_DIGITS).ok_or(RecordError::Malformed("it is too short"))?;
        let rest = rest.strip_prefix(b":").filter(|_| salt.iter().all(u8::is_ascii_hexdigit));
        let rest = rest.ok_or(RecordError::Malformed("it does not begin with a salt of 16 hexadecimal digits"))?;
        let text = std::str::from_utf8(rest).ok();
        let body =
            text.and_then(go_base64::decode).ok_or(RecordError::Malformed("what follows the salt is no base64"))?;
        Ok(Self { salt, body: body.to_vec() })
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`RecordError::Closed`], whatever is wrong.
    pub fn open(&self, passphrase: &Passphrase) -> Result<Record, RecordError> {
        let cipher = cipher(passphrase, self.salt).ok_or(RecordError::Closed)?;
        let mut scratch = Plaintext::new();
        let bytes = cipher.open(b"", &self.body, &mut scratch).map_err(|_| RecordError::Closed)?;
        Ok(Record { text: Zeroizing::new(scratch.opened(bytes).to_vec()) })
    }
}

/// Seals a record. A salt and a nonce never serve twice.
///
/// # Errors
///
/// [`RecordError::Malformed`], for more than the cipher takes.
pub fn seal(
    plain: &[u8],
    passphrase: &Passphrase,
    salt: &[u8; SALT_BYTES],
    nonce: &[u8; NONCE_BYTES],
) -> Result<Vec<u8>, RecordError> {
    let salt: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
    let unsealed = RecordError::Malformed("it could not be sealed");
    let mut body = Vec::new();
    let cipher = cipher(passphrase, salt.as_bytes()).ok_or(unsealed)?;
    cipher.seal(b"", plain, nonce, &mut body).map_err(|_| unsealed)?;
    Ok([salt.as_bytes(), b":", BASE64_STANDARD.encode(body).as_bytes()].concat())
}

fn cipher(passphrase: &Passphrase, salt: &[u8]) -> Option<AesGcm> {
    AesGcm::new(&*secret(passphrase, salt)?)
}

fn secret(passphrase: &Passphrase, salt: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut secret = Zeroizing::new([0; KEY_BYTES]);
    pbkdf2::pbkdf2::<Hmac<Sha1>>(passphrase.expose(), salt, ROUNDS, secret.as_mut_slice()).ok()?;
    Some(secret)
}

/// An opened record.
pub struct Record {
    text: Zeroizing<Vec<u8>>,
}

/// A file that a record keeps.
pub struct Kept {
    /// The file's bytes.
    pub content: Zeroizing<Vec<u8>>,
    /// When it was written, as the record says it; none in the old form.
    pub timestamp: Option<String>,
}

/// What a record says of encryption.
pub struct Encryption {
    /// `encryption-config.json`; none where encryption was never on.
    pub config: Option<Kept>,
    /// `encryption-state.json`: stage and hash.
    pub state: Option<Kept>,
}

impl Record {
    /// The two files about encryption.
    ///
    /// # Errors
    ///
    /// [`RecordError::NoFiles`].
    pub fn encryption(&self) -> Result<Encryption, RecordError> {
        let document = Document::parse(&self.text).map_err(|_| RecordError::NoFiles("it is no JSON"))?;
        let root = document.root();
        if root.members().next().is_none() {
            return Err(RecordError::NoFiles("it has no members"));
        }
        Ok(Encryption { config: kept(root, CONFIG_MEMBER)?, state: kept(root, STATE_MEMBER)? })
    }
}

impl Record {
    /// The same record with other files about encryption, written at `now`; all other members as they are.
    ///
    /// # Errors
    ///
    /// [`RecordError::NoFiles`].
    pub fn with_encryption(&self, config: &[u8], state: &[u8], now: &str) -> Result<Zeroizing<Vec<u8>>, RecordError> {
        let document = Document::parse(&self.text).map_err(|_| RecordError::NoFiles("it is no JSON"))?;
        let mut files = [(CONFIG_MEMBER, Some(config)), (STATE_MEMBER, Some(state))];
        // Room for all of it, so that no copy is left behind by growing. Escapes are written anew, at most six bytes for one.
        let room = self.text.len() + 2 * (config.len() + state.len()) + 1024;
        let mut out = Zeroizing::new(Vec::with_capacity(6 * room));
        out.push(b'{');
        for (key, value) in document.root().members() {
            let name = key.text().unwrap_or_default();
            let file = files.iter_mut().find(|(known, _)| name.eq_ignore_ascii_case(known));
            let is_plain = value.text().is_some();
            match file.map(|(_, content)| content.take()) {
                None => member(&mut out, &name, |out| value.write(out)),
                Some(Some(content)) => member(&mut out, &name, |out| file_of(out, content, now, is_plain)),
                // A name that comes twice is written once.
                Some(None) => {}
            }
        }
        for (name, content) in files {
            let Some(content) = content else { continue };
            member(&mut out, name, |out| file_of(out, content, now, false));
        }
        out.extend_from_slice(b"}\n");
        Ok(out)
    }
}

/// Writes a member, with a comma where one stands before it.
fn member(out: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    let mut quoted = String::new();
    gojson::string(name, &mut quoted);
    out.extend_from_slice(quoted.as_bytes());
    out.push(b':');
    value(out);
}

/// Writes a file, in the old form where it was in that.
fn file_of(out: &mut Vec<u8>, content: &[u8], now: &str, is_plain: bool) {
    let content = Zeroizing::new(BASE64_STANDARD.encode(content));
    if !is_plain {
        out.extend_from_slice(b"{\"Timestamp\":\"");
        out.extend_from_slice(now.as_bytes());
        out.extend_from_slice(b"\",\"Content\":");
    }
    out.push(b'"');
    out.extend_from_slice(content.as_bytes());
    out.push(b'"');
    if !is_plain {
        out.push(b'}');
    }
}

/// A member by its name, whose case Go's decoder does not mind.
fn named<'n, 'd>(node: Node<'n, 'd>, name: &str) -> Option<Node<'n, 'd>> {
    let same = |key: Node<'_, '_>| key.text().is_some_and(|key| key.eq_ignore_ascii_case(name));
    node.members().filter(|(key, _)| same(*key)).map(|(_, value)| value).last()
}

/// A file by its member's name; none where it is absent or empty.
fn kept(root: Node<'_, '_>, name: &str) -> Result<Option<Kept>, RecordError> {
    let Some(member) = named(root, name) else { return Ok(None) };
    let (content, timestamp) = match member.text() {
        Some(text) => (Some(text), None),
        None => (
            named(member, "Content").and_then(Node::text),
            named(member, "Timestamp").and_then(Node::text).map(std::borrow::Cow::into_owned),
        ),
    };
    let Some(content) = content.map(|text| Zeroizing::new(text.into_owned())) else { return Ok(None) };
    let content = go_base64::decode(&content).ok_or(RecordError::NoFiles("a file of it is no base64"))?;
    Ok((!content.is_empty()).then_some(Kept { content, timestamp }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &[u8] = b"0011223344556677";

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A value with such a plaintext.
    fn sealed(text: &str, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; 12] = std::array::from_fn(|index| index as u8);
        let mut body = Vec::new();
        let cipher = cipher(&passphrase(text), SALT).expect("a key of 32 bytes");
        cipher.seal(b"", plain, &nonce, &mut body).expect("a short plaintext");
        [SALT, b":", BASE64_STANDARD.encode(body).as_bytes()].concat()
    }

    fn encryption(plain: &str) -> Result<Encryption, RecordError> {
        let value = sealed("t", plain.as_bytes());
        Sealed::parse(&value)?.open(&passphrase("t"))?.encryption()
    }

    #[test]
    fn names_and_keys_are_upstreams() {
        assert_eq!(name(&passphrase("s3cr3t-token")), "fb07916a0e7d");
        assert_eq!(name(&passphrase("secret")), "2bb80d537b1d");
        assert_eq!(name(&Passphrase::empty()), "e3b0c44298fc");
        let secret = secret(&passphrase("s3cr3t-token"), SALT).expect("a key");
        assert_eq!(hex(secret.as_slice()), "415f912a4607add946cb4b8b8297f5e7f619700039fd2bcb8b394f4ea2599d34");
        let value = b"0011223344556677:AAECAwQFBgcICQoLvkIdHFTAVd7GNoNoEO2rU5bs2w==";
        assert_eq!(sealed("s3cr3t-token", b"{}\n"), value);
        let record = Sealed::parse(value).and_then(|sealed| sealed.open(&passphrase("s3cr3t-token"))).ok();
        assert_eq!(record.expect("it opens").text.as_slice(), b"{}\n");
    }

    #[test]
    fn both_forms_of_a_file_are_read_whatever_the_case_of_its_name() {
        let now = r#"{"ServerCAKey":{"Content":"eA=="},"encryptionconfig":{"Timestamp":"2026-11-20T10:12:00.5Z","Content":"e30="}}"#;
        let found = encryption(now).expect("files");
        let config = found.config.expect("a configuration");
        assert_eq!(
            (config.content.as_slice(), config.timestamp.as_deref()),
            (&b"{}"[..], Some("2026-11-20T10:12:00.5Z"))
        );
        assert!(found.state.is_none());
        let old = encryption(r#"{"EncryptionConfig":"e30=","EncryptionHash":"eA=="}"#).expect("files");
        assert_eq!(old.config.map(|kept| (kept.content.to_vec(), kept.timestamp)), Some((b"{}".to_vec(), None)));
        assert_eq!(old.state.map(|kept| kept.content.to_vec()), Some(b"x".to_vec()));
        let none =
            encryption(r#"{"ServerCA":"eA==","EncryptionConfig":{"Timestamp":"0001-01-01T00:00:00Z","Content":null}}"#);
        assert!(none.expect("files").config.is_none());
    }

    #[test]
    fn a_record_is_sealed_anew_with_all_that_is_not_about_encryption() {
        let plain = r#"{"ServerCAKey":{"Timestamp":"t","Content":"eA=="},"new\"member":[1.50,null],"encryptionCONFIG":{"Timestamp":"t","Content":"e30="},"EncryptionHash":"eA=="}"#;
        let value = sealed("t", plain.as_bytes());
        let record = Sealed::parse(&value).and_then(|sealed| sealed.open(&passphrase("t"))).expect("it opens");
        let anew = record.with_encryption(b"C", b"S", "2026-11-25T00:00:00Z").expect("files");
        let text = r#"{"ServerCAKey":{"Content":"eA==","Timestamp":"t"},"new\"member":[1.50,null],"encryptionCONFIG":{"Timestamp":"2026-11-25T00:00:00Z","Content":"Qw=="},"EncryptionHash":"Uw=="}"#;
        assert_eq!(String::from_utf8_lossy(&anew), format!("{text}\n"));
        let value = seal(&anew, &passphrase("t"), &[0x11; 8], &[7; 12]).expect("a record");
        assert!(value.starts_with(b"1111111111111111:"));
        let again = Sealed::parse(&value).and_then(|sealed| sealed.open(&passphrase("t"))).expect("it opens");
        let said = again.encryption().expect("files");
        assert_eq!(said.config.map(|kept| kept.content.to_vec()), Some(b"C".to_vec()));
        let none = sealed("t", br#"{"ServerCA":"eA=="}"#);
        let record = Sealed::parse(&none).and_then(|sealed| sealed.open(&passphrase("t"))).expect("it opens");
        let added = record.with_encryption(b"C", b"S", "n").expect("files");
        let text = "{\"ServerCA\":\"eA==\",\"EncryptionConfig\":{\"Timestamp\":\"n\",\"Content\":\"Qw==\"},\"EncryptionHash\":{\"Timestamp\":\"n\",\"Content\":\"Uw==\"}}\n";
        assert_eq!(String::from_utf8_lossy(&added), text);
    }

    #[test]
    fn what_is_no_record_is_told_by_its_reason() {
        let parse = |value: &[u8]| Sealed::parse(value).err();
        assert_eq!(parse(b""), Some(RecordError::Lock));
        for value in
            [&b"0011"[..], b"00112233445566770123", b"001122334455667x:AAAA", b"0011223344556677:A", b"\xff\xfe"]
        {
            assert!(matches!(parse(value), Some(RecordError::Malformed(_))), "{value:?}");
        }
        let open = |value: &[u8], text: &str| Sealed::parse(value).and_then(|it| it.open(&passphrase(text))).err();
        let mut value = sealed("t", b"{}");
        assert_eq!(open(&value, "t"), None);
        assert_eq!(open(&value, "u"), Some(RecordError::Closed));
        *value.get_mut(20).expect("a byte") ^= 1;
        assert_eq!(open(&value, "t"), Some(RecordError::Closed));
        assert_eq!(open(b"0011223344556677:AAAA", "t"), Some(RecordError::Closed));
        for plain in ["", "{}", "[]", "{\"EncryptionConfig\":{\"Content\":\"*\"}}", "{\"a\":"] {
            assert!(matches!(encryption(plain), Err(RecordError::NoFiles(_))), "{plain}");
        }
    }
}
