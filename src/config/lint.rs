//! What kube-apiserver lets pass and people should know.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::kube::resource::{ApiServer, GroupResource};
use crate::provider::secret::SecretKey;

use super::base64;
use super::complaint::{Complaint, quotable};
use super::model::{File, Key, Keys, ProviderConfiguration};
use super::tree::Place;
use super::weak;

/// A stable name for each thing to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LintId {
    /// `config.identity-first`
    IdentityFirst,
    /// `config.no-identity`
    NoIdentity,
    /// `config.duplicate-key-name`
    DuplicateKeyName,
    /// `config.shared-secret`
    SharedSecret,
    /// `config.secrets-not-covered`
    SecretsNotCovered,
    /// `config.readable-by-others`
    ReadableByOthers,
    /// `config.extra-document`
    ExtraDocument,
    /// `config.kms-v1-gate`
    KmsV1Gate,
    /// `config.aescbc`
    AesCbc,
    /// `config.aesgcm`
    AesGcm,
    /// `config.old-kind`
    OldKind,
    /// `config.unknown-field`
    UnknownField,
    /// `config.duplicate-field`
    DuplicateField,
    /// `config.not-a-string`
    NotAString,
    /// `config.newer-rule`
    NewerRule,
    /// `weak-key`
    WeakKey,
    /// `published-key`
    PublishedKey,
    /// `placeholder-key`
    PlaceholderKey,
}

/// How much a [`Lint`] matters as long as nothing is known of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good to know.
    Note,
    /// Should be looked into.
    Warning,
}

impl LintId {
    /// The name that reports and scripts use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdentityFirst => "config.identity-first",
            Self::NoIdentity => "config.no-identity",
            Self::DuplicateKeyName => "config.duplicate-key-name",
            Self::SharedSecret => "config.shared-secret",
            Self::SecretsNotCovered => "config.secrets-not-covered",
            Self::ReadableByOthers => "config.readable-by-others",
            Self::ExtraDocument => "config.extra-document",
            Self::KmsV1Gate => "config.kms-v1-gate",
            Self::AesCbc => "config.aescbc",
            Self::AesGcm => "config.aesgcm",
            Self::OldKind => "config.old-kind",
            Self::UnknownField => "config.unknown-field",
            Self::DuplicateField => "config.duplicate-field",
            Self::NotAString => "config.not-a-string",
            Self::NewerRule => "config.newer-rule",
            Self::WeakKey => "weak-key",
            Self::PublishedKey => "published-key",
            Self::PlaceholderKey => "placeholder-key",
        }
    }

    /// The severity; a weak or published key that guards data weighs more, which is not known here.
    pub fn severity(self) -> Severity {
        match self {
            Self::AesCbc | Self::AesGcm | Self::PlaceholderKey => Severity::Note,
            _ => Severity::Warning,
        }
    }
}

/// Something to know about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// What it is.
    pub id: LintId,
    /// Which field; empty where it is about the whole file.
    pub path: String,
    /// One sentence, without any secret.
    pub message: String,
    /// The line, counted from 1, where there is one.
    pub line: Option<u64>,
}

impl Lint {
    /// About a place.
    pub(super) fn at(id: LintId, path: impl Into<String>, place: Place, message: impl Into<String>) -> Self {
        Self { id, path: path.into(), message: message.into(), line: Some(place.line) }
    }

    /// About the whole file.
    pub(super) fn whole(id: LintId, message: impl Into<String>) -> Self {
        Self { id, path: String::new(), message: message.into(), line: None }
    }

    /// A complaint that only some releases make.
    pub(super) fn from_complaint(id: LintId, complaint: Complaint, message: String) -> Self {
        Self { id, path: complaint.path, message, line: complaint.line }
    }
}

/// A file may have more keys than anybody reads about; memory is bounded by this.
const LINT_LIMIT: usize = 10_000;

/// Everything to know about a file that some release takes, in the order of the file.
pub(super) fn lint(file: &File) -> Vec<Lint> {
    let mut linter = Linter::default();
    let chains = chains(file);
    linter.chains(file, &chains);
    linter.coverage(file, &chains);
    for (index, entry) in file.resources.iter().enumerate() {
        for (number, provider) in entry.providers.iter().enumerate() {
            let path = format!("resources[{index}].providers[{number}]");
            linter.provider(provider, &path, number == 0);
        }
    }
    linter.lints.sort_by_key(|lint| lint.line);
    linter.lints.truncate(LINT_LIMIT);
    linter.lints
}

/// The numbers of the entries whose providers, one after the other, make up a resource's chain.
fn chains(file: &File) -> BTreeMap<GroupResource, Vec<usize>> {
    let mut chains: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, entry) in file.resources.iter().enumerate() {
        for resource in &entry.resources {
            chains.entry(GroupResource::parse(&resource.text)).or_default().push(index);
        }
    }
    chains
}

#[derive(Default)]
struct Linter {
    lints: Vec<Lint>,
    /// Fingerprints of secrets, with the first name of each.
    secrets: HashMap<String, String>,
    told: HashSet<(LintId, String)>,
}

impl Linter {
    fn push(&mut self, id: LintId, path: &str, place: Place, message: String) {
        if self.lints.len() < LINT_LIMIT {
            self.lints.push(Lint::at(id, path, place, message));
        }
    }

    fn once(&mut self, id: LintId, what: &str, path: &str, place: Place, message: impl Into<String>) {
        if self.told.insert((id, what.to_owned())) {
            self.push(id, path, place, message.into());
        }
    }

    /// What holds for a whole chain is told once for each list of entries that makes one.
    fn chains(&mut self, file: &File, chains: &BTreeMap<GroupResource, Vec<usize>>) {
        let mut done = HashSet::new();
        for entries in chains.values().filter(|entries| done.insert(entries.as_slice())) {
            let Some(first) = entries.first() else { continue };
            let providers: Vec<_> = entries
                .iter()
                .filter_map(|index| file.resources.get(*index).map(|entry| (*index, entry)))
                .flat_map(|(index, entry)| {
                    let path = move |number: usize| format!("resources[{index}].providers[{number}]");
                    entry.providers.iter().enumerate().map(move |(number, provider)| (path(number), provider))
                })
                .collect();
            if let Some((path, provider)) = providers.first().filter(|(_, provider)| provider.identity) {
                let message = "identity comes first: values are written as plaintext";
                self.once(LintId::IdentityFirst, path, path, provider.place, message);
            }
            if !providers.iter().any(|(_, provider)| provider.identity)
                && let Some(entry) = file.resources.get(*first)
            {
                let path = format!("resources[{first}].providers");
                let message = "there is no identity provider: a value stored as plaintext could not be read";
                self.once(LintId::NoIdentity, &path, &path, entry.providers_place, message);
            }
            self.names(&providers);
        }
    }

    /// Two keys of one name in a chain have the same prefix.
    fn names(&mut self, providers: &[(String, &ProviderConfiguration)]) {
        let mut seen = HashSet::new();
        for (path, provider) in providers {
            for (kind, keys) in key_lists(provider) {
                for (index, key) in keys.keys.iter().enumerate() {
                    if !seen.insert((kind, key.name.text.as_str())) {
                        let path = format!("{path}.{kind}.keys[{index}].name");
                        let name = quotable(&key.name.text);
                        let message = format!(
                            "an earlier {kind} key of this chain is named {name:?} too: both have the same prefix, and \
                             only the earlier one is ever written with"
                        );
                        self.once(LintId::DuplicateKeyName, &path, &path, key.name.place, message);
                    }
                }
            }
        }
    }

    fn coverage(&mut self, file: &File, chains: &BTreeMap<GroupResource, Vec<usize>>) {
        let kube =
            chains.is_empty() || chains.keys().any(|resource| ApiServer::of_group(&resource.group) == ApiServer::Kube);
        let covers = [("", "secrets"), ("", "*"), ("*", "*")];
        let covered = covers.iter().any(|(group, name)| chains.contains_key(&GroupResource::new(*group, *name)));
        if kube && !covered {
            let message = "no entry covers secrets: they are stored as plaintext, and encrypted ones can't be read";
            self.push(LintId::SecretsNotCovered, "resources", file.place, message.to_owned());
        }
    }

    fn provider(&mut self, provider: &ProviderConfiguration, path: &str, writes: bool) {
        if provider.aescbc.is_some() {
            let message = "AES-CBC is not recommended due to CBC's vulnerability to padding oracle attacks";
            self.once(LintId::AesCbc, "", path, provider.place, message);
        }
        if provider.aesgcm.is_some() {
            let message = "AES-GCM with a random nonce must be rotated every 200,000 writes, and is not recommended \
                           except when an automated key rotation scheme is implemented";
            self.once(LintId::AesGcm, "", path, provider.place, message);
        }
        if provider.kms.as_ref().is_some_and(|kms| kms.api_version.text.as_str() == "v1") {
            let message =
                "KMS v1 is deprecated: since 1.29 kube-apiserver takes it only with --feature-gates=KMSv1=true";
            let path = format!("{path}.kms");
            self.push(LintId::KmsV1Gate, &path, provider.place, message.to_owned());
        }
        for (kind, keys) in key_lists(provider) {
            for (index, key) in keys.keys.iter().enumerate() {
                let path = format!("{path}.{kind}.keys[{index}]");
                self.key(kind, key, &path, writes && index == 0);
            }
        }
    }

    fn key(&mut self, kind: &str, key: &Key, path: &str, writes: bool) {
        let Some(bytes) = base64::decode(&key.secret.text) else { return };
        let name = quotable(&key.name.text);
        let place = key.secret.place;
        let same = format!("{kind}/{}/{}", *key.name.text, fingerprint(&bytes));
        if weak::is_placeholder(&bytes) {
            let message =
                format!("the {kind} key {name:?} is all zeros, as OpenShift writes where there never was a key");
            self.once(LintId::PlaceholderKey, &same, path, place, message);
            if writes {
                let message =
                    format!("the {kind} key {name:?} is all zeros and yet the one that values are written with");
                self.once(LintId::WeakKey, &same, path, place, message);
            }
            return;
        }
        if let Some(source) = weak::published_in(&bytes) {
            let message = format!("the {kind} key {name:?} is published as an example in {source}");
            self.once(LintId::PublishedKey, &same, path, place, message);
        }
        if let Some(weakness) = weak::weakness(&bytes) {
            let message = format!("the {kind} key {name:?} {weakness}");
            self.once(LintId::WeakKey, &same, path, place, message);
        } else if kind == "aescbc" && bytes.len() < 32 {
            let length = bytes.len();
            let message =
                format!("the aescbc key {name:?} has {length} bytes, and Kubernetes' documentation asks for 32");
            self.once(LintId::WeakKey, &same, path, place, message);
        }
        self.shared(&key.name.text, &bytes, path, place);
    }

    fn shared(&mut self, name: &str, bytes: &[u8], path: &str, place: Place) {
        let fingerprint = fingerprint(bytes);
        let earlier = self.secrets.entry(fingerprint).or_insert_with(|| name.to_owned());
        if earlier != name {
            let (name, earlier) = (quotable(name), quotable(earlier));
            let message = format!("the keys {earlier:?} and {name:?} have the same secret");
            self.once(LintId::SharedSecret, &message.clone(), path, place, message);
        }
    }
}

fn fingerprint(bytes: &[u8]) -> String {
    SecretKey::new(bytes.to_vec()).fingerprint()
}

/// The lists of keys that a provider sets, with their fields' names.
fn key_lists(provider: &ProviderConfiguration) -> Vec<(&'static str, &Keys)> {
    [("aesgcm", &provider.aesgcm), ("aescbc", &provider.aescbc), ("secretbox", &provider.secretbox)]
        .into_iter()
        .filter_map(|(kind, keys)| keys.as_ref().map(|keys| (kind, keys)))
        .collect()
}
