//! What KMS plugins have answered so far.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::secret::SecretKey;
use super::super::spec::KmsVersion;
use super::v2::{Envelope, Seed};
use super::{Annotations, DekRequest, DekSource, OwnedDekRequest};

/// A KMS v2 plugin's state as kube-apiserver would hold it. Without one it reads nothing through the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginState {
    /// The plugin is healthy: what a write would carry now, by which values are judged stale.
    Ready {
        /// The current key id, which Status and Encrypt agree on.
        key_id: String,
        /// The source type of new DEKs: a seed since 1.29.
        source: DekSource,
    },
    /// It was asked and is not healthy.
    Failed,
}

/// What a plugin made of a wrapped DEK.
pub(in super::super) enum Dek {
    /// The bytes of an AES key. They may be of any length; the cipher refuses them then.
    Key(SecretKey),
    /// A seed.
    Seed(Box<Seed>),
    /// The plugin's words, or what is wrong with its answer, as kube-apiserver would tell it.
    Refused(Arc<str>),
}

/// Opened DEKs and plugin states, by provider name. Names are unique within one configuration file only, so each
/// configuration file has a table of its own.
///
/// Keys wipe themselves when the table goes.
#[derive(Default)]
pub struct DekTable {
    v1: HashMap<String, HashMap<Vec<u8>, Dek>>,
    v2: HashMap<String, Plugin>,
}

/// What is known from one KMS v2 plugin.
#[derive(Default)]
pub(in super::super) struct Plugin {
    state: Option<PluginState>,
    answers: Vec<Answered>,
    // By the wrapped DEK, which can be looked up without building a whole request. Behind it, almost always, one answer.
    by_dek: HashMap<Vec<u8>, Vec<usize>>,
    // By the bytes behind the encrypted data, as the API server writes them: the same once more, without parsing them.
    by_wrapping: HashMap<Vec<u8>, usize>,
}

/// An answer and the rest of the request it belongs to.
pub(in super::super) struct Answered {
    source: DekSource,
    key_id: String,
    annotations: Vec<(String, Vec<u8>)>,
    dek: Dek,
}

impl Answered {
    fn is_to(&self, source: DekSource, key_id: &str, annotations: &Annotations<'_>) -> bool {
        let own = self.annotations.iter().map(|(key, value)| (&**key, &**value));
        self.source == source && self.key_id == key_id && own.eq(annotations.iter().copied())
    }

    /// What the plugin made of the DEK.
    pub(in super::super) fn dek(&self) -> &Dek {
        &self.dek
    }

    /// The plugin's name for the key that wrapped it.
    pub(in super::super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// What it is used for.
    pub(in super::super) fn source(&self) -> DekSource {
        self.source
    }
}

impl Plugin {
    /// What a write would carry now; `None` if it was not asked.
    pub(in super::super) fn state(&self) -> Option<&PluginState> {
        self.state.as_ref()
    }

    /// The answer to an equal request.
    pub(in super::super) fn answer(&self, request: &DekRequest<'_>) -> Option<&Answered> {
        let numbers = self.by_dek.get(request.encrypted_dek)?;
        let mut answers = numbers.iter().filter_map(|number| self.answers.get(*number));
        answers.find(|answer| answer.is_to(request.source, request.key_id, &request.annotations))
    }

    /// The answer to the request that a [wrapping](super::v2::split) stands for, where it is in the API server's form.
    pub(in super::super) fn answer_to_wrapping(&self, wrapping: &[u8]) -> Option<&Answered> {
        self.by_wrapping.get(wrapping).and_then(|number| self.answers.get(*number))
    }

    fn insert(&mut self, encrypted_dek: Vec<u8>, answered: Answered) {
        let annotations: Annotations<'_> = answered.annotations.iter().map(|(key, value)| (&**key, &**value)).collect();
        let (key_id, source) = (answered.key_id.as_str(), answered.source);
        let numbers = self.by_dek.get(&encrypted_dek).map_or(&[][..], Vec::as_slice);
        let known = numbers
            .iter()
            .copied()
            .find(|number| self.answers.get(*number).is_some_and(|known| known.is_to(source, key_id, &annotations)));
        if let Some(place) = known.and_then(|number| self.answers.get_mut(number)) {
            place.dek = answered.dek;
            return;
        }
        let number = self.answers.len();
        let envelope = Envelope {
            encrypted_data: &[],
            key_id,
            encrypted_dek: &encrypted_dek,
            annotations: annotations.clone(),
            source,
        };
        if let Ok(wrapping) = envelope.tail() {
            self.by_wrapping.insert(wrapping, number);
        }
        self.by_dek.entry(encrypted_dek).or_default().push(number);
        self.answers.push(answered);
    }
}

impl DekTable {
    /// Nobody has been asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes what a plugin answered: the DEK, or its error in the words that a gRPC client gives
    /// (`rpc error: code = ... desc = ...`). A later answer to an equal request replaces the earlier.
    pub fn insert(&mut self, request: OwnedDekRequest, answer: Result<SecretKey, String>) {
        match request.version {
            KmsVersion::V1 => {
                let dek = match answer {
                    Ok(key) => Dek::Key(key),
                    Err(words) => Dek::Refused(words.into()),
                };
                self.v1.entry(request.provider).or_default().insert(request.encrypted_dek, dek);
            }
            KmsVersion::V2 => self.insert_v2(request, answer),
        }
    }

    fn insert_v2(&mut self, request: OwnedDekRequest, answer: Result<SecretKey, String>) {
        let OwnedDekRequest { provider, source, encrypted_dek, key_id, mut annotations, .. } = request;
        annotations.sort();
        let dek = match (answer, source) {
            (Ok(key), DekSource::Key) => Dek::Key(key),
            (Ok(key), DekSource::Seed) => match Seed::new(key.expose()) {
                Some(seed) => Dek::Seed(Box::new(seed)),
                None => Dek::Refused(format!("invalid seed length {} used for key generation", key.len()).into()),
            },
            (Err(words), _) => Dek::Refused(format!("failed to decrypt DEK, error: {words}").into()),
        };
        let answered = Answered { source, key_id, annotations, dek };
        self.v2.entry(provider).or_default().insert(encrypted_dek, answered);
    }

    /// Notes the state of a KMS v2 plugin.
    pub fn set_state(&mut self, provider: &str, state: PluginState) {
        self.v2.entry(provider.to_string()).or_default().state = Some(state);
    }

    /// The state of a KMS v2 plugin; `None` if it was not asked.
    pub fn state(&self, provider: &str) -> Option<&PluginState> {
        self.v2.get(provider)?.state.as_ref()
    }

    /// Whether an equal request has been answered, well or badly.
    pub fn has(&self, request: &DekRequest<'_>) -> bool {
        match request.version {
            KmsVersion::V1 => self.dek_v1(request.provider, request.encrypted_dek).is_some(),
            KmsVersion::V2 => self.plugin(request.provider).is_some_and(|plugin| plugin.answer(request).is_some()),
        }
    }

    /// The number of answers, errors included.
    pub fn len(&self) -> usize {
        let v1: usize = self.v1.values().map(HashMap::len).sum();
        let v2: usize = self.v2.values().map(|plugin| plugin.answers.len()).sum();
        v1 + v2
    }

    /// Whether there is no answer; a plugin's state is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(in super::super) fn dek_v1(&self, provider: &str, encrypted_dek: &[u8]) -> Option<&Dek> {
        self.v1.get(provider)?.get(encrypted_dek)
    }

    /// What is known from a KMS v2 plugin.
    pub(in super::super) fn plugin(&self, provider: &str) -> Option<&Plugin> {
        self.v2.get(provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: KmsVersion, provider: &str, key_id: &str, annotations: &[&str]) -> OwnedDekRequest {
        OwnedDekRequest {
            provider: provider.to_string(),
            version,
            source: DekSource::Key,
            encrypted_dek: b"wrapped".to_vec(),
            key_id: key_id.to_string(),
            annotations: annotations.iter().map(|key| (key.to_string(), b"1".to_vec())).collect(),
        }
    }

    fn borrowed(request: &OwnedDekRequest) -> DekRequest<'_> {
        DekRequest {
            provider: &request.provider,
            version: request.version,
            source: request.source,
            encrypted_dek: &request.encrypted_dek,
            key_id: &request.key_id,
            annotations: request.annotations.iter().map(|(key, value)| (&**key, &**value)).collect(),
        }
    }

    fn dek_v2<'t>(table: &'t DekTable, request: &OwnedDekRequest) -> Option<&'t Dek> {
        table.plugin(&request.provider)?.answer(&borrowed(request)).map(Answered::dek)
    }

    #[test]
    fn an_answer_is_found_by_what_stands_behind_the_data() {
        let mut table = DekTable::new();
        let asked = request(KmsVersion::V2, "kms", "1", &["a.b"]);
        let other = OwnedDekRequest { source: DekSource::Seed, ..asked.clone() };
        for request in [&asked, &other] {
            table.insert(request.clone(), Ok(SecretKey::new(vec![1; 32])));
        }
        for request in [&asked, &other] {
            let borrowed = borrowed(request);
            let envelope = Envelope {
                encrypted_data: b"data",
                key_id: borrowed.key_id,
                encrypted_dek: borrowed.encrypted_dek,
                annotations: borrowed.annotations.clone(),
                source: borrowed.source,
            };
            let mut body = Vec::new();
            envelope.write(&mut body);
            let (data, wrapping) = super::super::v2::split(&body).unwrap();
            assert_eq!(data, b"data");
            let plugin = table.plugin("kms").unwrap();
            assert_eq!(plugin.answer_to_wrapping(wrapping).map(Answered::source), Some(request.source));
            assert!(plugin.answer_to_wrapping(&wrapping[1..]).is_none());
        }
    }

    #[test]
    fn an_answer_belongs_to_the_whole_request() {
        let mut table = DekTable::new();
        let asked = request(KmsVersion::V2, "kms", "1", &["b.c", "a.b"]);
        table.insert(asked.clone(), Ok(SecretKey::new(vec![1; 32])));
        assert!(table.has(&borrowed(&asked)));
        for other in [
            request(KmsVersion::V1, "kms", "1", &["b.c", "a.b"]),
            request(KmsVersion::V2, "other", "1", &["b.c", "a.b"]),
            request(KmsVersion::V2, "kms", "2", &["b.c", "a.b"]),
            request(KmsVersion::V2, "kms", "1", &["b.c"]),
            request(KmsVersion::V2, "kms", "1", &[]),
            OwnedDekRequest { source: DekSource::Seed, ..asked.clone() },
            OwnedDekRequest { encrypted_dek: b"wrapped!".to_vec(), ..asked.clone() },
        ] {
            assert!(!table.has(&borrowed(&other)), "{other:?}");
        }
    }

    #[test]
    fn a_later_answer_replaces_the_earlier() {
        let mut table = DekTable::new();
        for version in [KmsVersion::V1, KmsVersion::V2] {
            let asked = request(version, "kms", "1", &["a.b"]);
            table.insert(asked.clone(), Err("not now".to_string()));
            table.insert(asked, Ok(SecretKey::new(vec![1; 32])));
        }
        assert_eq!(table.len(), 2);
        let asked = request(KmsVersion::V2, "kms", "1", &["a.b"]);
        assert!(matches!(dek_v2(&table, &asked), Some(Dek::Key(_))));
        assert!(matches!(table.dek_v1("kms", b"wrapped"), Some(Dek::Key(_))));
    }

    #[test]
    fn a_state_alone_is_no_answer() {
        let mut table = DekTable::new();
        assert_eq!(table.state("kms"), None);
        table.set_state("kms", PluginState::Failed);
        assert_eq!(table.state("kms"), Some(&PluginState::Failed));
        assert!(table.is_empty());
    }

    #[test]
    fn a_seed_that_is_too_short_is_refused_in_upstreams_words() {
        let kept = |bytes| {
            let mut table = DekTable::new();
            let asked = OwnedDekRequest { source: DekSource::Seed, ..request(KmsVersion::V2, "kms", "1", &[]) };
            table.insert(asked.clone(), Ok(SecretKey::new(vec![1; bytes])));
            match dek_v2(&table, &asked) {
                Some(Dek::Refused(words)) => words.to_string(),
                Some(Dek::Seed(_)) => "a seed".to_string(),
                _ => String::new(),
            }
        };
        assert_eq!(kept(31), "invalid seed length 31 used for key generation");
        assert_eq!(kept(33), "a seed");
    }
}
