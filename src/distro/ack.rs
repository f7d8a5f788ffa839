//! Values behind a KMS, as Alibaba's ACK and ASK keep them: which provider, which key version, and what a rewrite costs.
//!
//! A new version of the customer's key makes nothing stale to the API server: KMS v1 knows no key at all, and v2's key id
//! stays the same. So values move only when objects really change, which is what annotating every Secret with
//! `encryption-key-rotation-time` is for. The plugin of v2 notes the key's version beside each value.
//!
//! Upstream: `AliyunContainerService/ack-kms-plugin`.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::kube::document::Document;
use crate::provider::kms::{DekSource, v1, v2};
use crate::provider::prefix::{self, Form, Sealed, SealedKind};
use crate::source::scan::Visitor;
use crate::source::snapshot::{PassOptions, ReadError};
use crate::source::trace::TraceKey;
use crate::source::{Record, Store};

/// What the maker's manual calls the provider.
pub const PROVIDER: &str = "grpc-kms-provider";

/// The domain of the plugin's annotations, and the one with the key's version.
const DOMAIN: &str = ".ack.alibabacloud.com";
const KEY_VERSION: &str = "x-acs-kms-key-version-id.ack.alibabacloud.com";

/// The annotation by which every object is changed.
const ROTATION_TIME: &str = "encryption-key-rotation-time";

/// Kinds of envelope that are told apart; there are a handful.
const FORMS: usize = 4096;

/// How values are sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Envelope {
    /// The provider's name.
    pub provider: String,
    /// `v1` or `v2`.
    pub version: &'static str,
    /// v2's key id.
    pub key_id: String,
    /// The key's version, as the plugin notes it.
    pub key_version: String,
    /// Whether a data key serves for many values by derivation.
    pub seed: bool,
    /// Whether the plugin is Alibaba's, by its annotations.
    pub is_ack: bool,
}

/// Entries that are sealed alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealing {
    /// How.
    pub envelope: Envelope,
    /// How many.
    pub entries: u64,
    /// Distinct wrapped data keys among them.
    pub deks: u64,
}

impl Sealing {
    /// Calls to open them all, each data key once.
    pub fn decrypts(&self) -> u64 {
        self.deks
    }

    /// Calls to write them all anew: one for each value of v1, one for all of them with v2.
    pub fn encrypts(&self) -> u64 {
        match self.envelope.version {
            "v1" => self.entries,
            _ => u64::from(self.entries > 0),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// Reads the store once, and tells of all entries behind a KMS how they are sealed.
///
/// # Errors
///
/// [`SurveyError`].
pub fn survey(store: &mut Store, pass: PassOptions<'_>) -> Result<Vec<Sealing>, SurveyError> {
    let (pass, digests) = (PassOptions { digest: false, ..pass }, TraceKey::random()?);
    let visitor = || Surveyor { digests, newest: HashMap::new(), forms: BTreeMap::new() };
    let visitors = store.pass(pass, |_| (), |()| visitor())?.visitors;
    let mut newest: HashMap<u128, (i64, Option<(Envelope, u128)>)> = HashMap::new();
    for visitor in visitors {
        let names: HashMap<u32, Envelope> = visitor.forms.into_iter().map(|(form, number)| (number, form)).collect();
        for (key, (revision, sealed)) in visitor.newest {
            let sealed = sealed.and_then(|(form, dek)| Some((names.get(&form)?.clone(), dek)));
            let known = newest.entry(key).or_insert((i64::MIN, None));
            if known.0 <= revision {
                *known = (revision, sealed);
            }
        }
    }
    let mut sealings: BTreeMap<Envelope, (u64, HashSet<u128>)> = BTreeMap::new();
    for (envelope, dek) in newest.into_values().filter_map(|(_, sealed)| sealed) {
        let (entries, deks) = sealings.entry(envelope).or_default();
        *entries += 1;
        deks.insert(dek);
    }
    let sealing =
        |(envelope, (entries, deks)): (_, (_, HashSet<_>))| Sealing { envelope, entries, deks: deks.len() as u64 };
    Ok(sealings.into_iter().map(sealing).collect())
}

struct Surveyor {
    digests: TraceKey,
    /// Of each key the newest revision, and how it is sealed if it is: the form's number and the data key's digest.
    newest: HashMap<u128, (i64, Option<(u32, u128)>)>,
    forms: BTreeMap<Envelope, u32>,
}

impl Visitor for Surveyor {
    fn record(&mut self, record: &Record<'_>) {
        let sealed = (!record.revision.tombstone).then(|| self.sealed(record.kv.value)).flatten();
        let digest = self.digests.digest(record.kv.key);
        // Leaves come in no order, so what is newest shows at the end: also keys that are behind no KMS are remembered.
        let main = record.revision.revision.main;
        let known = self.newest.entry(digest).or_insert((i64::MIN, None));
        if known.0 <= main {
            *known = (main, sealed);
        }
    }
}

impl Surveyor {
    fn sealed(&mut self, value: &[u8]) -> Option<(u32, u128)> {
        let Form::Sealed(sealed) = prefix::form(value) else { return None };
        let (envelope, dek) = envelope(&sealed)?;
        let dek = self.digests.digest(dek);
        if let Some(number) = self.forms.get(&envelope) {
            return Some((*number, dek));
        }
        if self.forms.len() >= FORMS {
            return None;
        }
        let number = u32::try_from(self.forms.len()).ok()?;
        self.forms.insert(envelope, number);
        Some((number, dek))
    }
}

/// How a value is sealed, and its wrapped data key; none of what is behind no KMS, or no envelope.
fn envelope<'v>(sealed: &Sealed<'v>) -> Option<(Envelope, &'v [u8])> {
    let version = match sealed.kind {
        SealedKind::KmsV1 => "v1",
        SealedKind::KmsV2 => "v2",
        SealedKind::AesCbc | SealedKind::AesGcm | SealedKind::Secretbox => return None,
    };
    let name = sealed.name_guess()?;
    let body = sealed.body_under(name)?;
    let provider = String::from_utf8_lossy(name).into_owned();
    if sealed.kind == SealedKind::KmsV1 {
        let dek = v1::Envelope::parse(body).ok()?.encrypted_dek;
        return Some((Envelope { is_ack: provider == PROVIDER, provider, version, ..Envelope::default() }, dek));
    }
    let read = v2::Envelope::parse(body).ok()?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let key_version = read.annotations.iter().find(|(key, _)| *key == KEY_VERSION).map(|(_, value)| text(value));
    let envelope = Envelope {
        is_ack: provider == PROVIDER || read.annotations.iter().any(|(key, _)| key.ends_with(DOMAIN)),
        provider,
        version,
        key_id: read.key_id.to_owned(),
        key_version: key_version.unwrap_or_default(),
        seed: read.source == DekSource::Seed,
    };
    Some((envelope, read.encrypted_dek))
}

/// When an object, as JSON, was last changed for the key's sake; none if it never was.
pub fn rotation_time(json: &[u8]) -> Option<String> {
    let document = Document::parse(json).ok()?;
    let node = document.root().find(&["metadata", "annotations", ROTATION_TIME])?;
    node.text().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &[u8]) -> Option<(Envelope, Vec<u8>)> {
        let Form::Sealed(sealed) = prefix::form(value) else { return None };
        envelope(&sealed).map(|(envelope, dek)| (envelope, dek.to_vec()))
    }

    #[test]
    fn envelopes_of_both_versions_tell_their_data_key() {
        let v1 = [&b"k8s:enc:kms:v1:grpc-kms-provider:\0\x03abc"[..], &[7; 40]].concat();
        let (envelope, dek) = read(&v1).expect("an envelope");
        assert_eq!(
            (envelope.provider.as_str(), envelope.version, envelope.is_ack, &dek[..]),
            (PROVIDER, "v1", true, &b"abc"[..])
        );
        let annotations = [(KEY_VERSION, &b"version-1"[..])].into_iter().collect();
        let written = v2::Envelope {
            encrypted_data: &[1; 60],
            key_id: "cmk",
            encrypted_dek: b"dek",
            annotations,
            source: DekSource::Seed,
        };
        let mut value = b"k8s:enc:kms:v2:other:".to_vec();
        written.write(&mut value);
        let (envelope, dek) = read(&value).expect("an envelope");
        assert_eq!(
            (envelope.key_id.as_str(), envelope.key_version.as_str(), &dek[..]),
            ("cmk", "version-1", &b"dek"[..])
        );
        assert!(envelope.seed && envelope.is_ack);
        assert_eq!(read(b"k8s:enc:kms:v2:other:xx"), None);
        assert_eq!(read(b"k8s:enc:aescbc:v1:k:xx"), None);
    }

    #[test]
    fn calls_are_counted_by_version() {
        let sealing =
            |version, entries, deks| Sealing { envelope: Envelope { version, ..Envelope::default() }, entries, deks };
        let (one, two) = (sealing("v1", 10, 10), sealing("v2", 10, 2));
        assert_eq!((one.decrypts(), one.encrypts(), two.decrypts(), two.encrypts()), (10, 10, 2, 1));
    }

    #[test]
    fn the_annotation_is_found() {
        let json = br#"{"metadata":{"annotations":{"encryption-key-rotation-time":"2026-11-01"}}}"#;
        assert_eq!(rotation_time(json).as_deref(), Some("2026-11-01"));
        assert_eq!(rotation_time(b"{\"metadata\":{}}"), None);
    }
}
