//! What the given configurations mean for each resource: the chain of providers that opens its values, prepared once.

use std::collections::HashMap;

pub use crate::config::Configuration;
use crate::config::{self, ApiServers, ChainId, Coverage, LintId};
use crate::distro::merge::Added;
use crate::kube::key::{Address, Known, ObjectKey, Reserved};
use crate::kube::resource::{ApiServer, GroupResource};
use crate::provider::chain::{Chain, KeyError, Label};
use crate::provider::spec::{KmsSpec, NamedKey, ProviderSpec};

use super::finding::ValueFinding;

/// A prepared chain, by its number in [`Rules`]. Number 0 is what applies where nothing is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainRef(u32);

impl ChainRef {
    /// The identity transformer of a resource that no entry lists.
    pub const UNLISTED: Self = Self(0);

    fn of(id: ChainId) -> Self {
        Self(u32::try_from(id.0 + 1).unwrap_or(0))
    }

    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Who guards the value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// This chain, as kube-apiserver would use it.
    Chain(ChainRef),
    /// The resource's group is not known, and the chain may depend on it.
    Unsettled,
    /// No given configuration speaks for it, or it is no API object.
    Nobody,
}

/// A key of a configuration: chain, provider, key, each by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRef {
    /// The chain.
    pub chain: ChainRef,
    /// The provider's place in it.
    pub provider: u32,
    /// The key's place in the provider.
    pub key: u32,
}

/// The given configurations, ready to open values.
pub struct Rules {
    servers: ApiServers,
    given: bool,
    chains: Vec<Chain>,
    suspicious: HashMap<KeyRef, ValueFinding>,
}

impl Rules {
    /// Prepares every chain of the configurations; none at all is allowed and means that nothing can be judged.
    pub fn new(servers: ApiServers) -> Result<Self, KeyError> {
        let mut chains = vec![Chain::identity()];
        let mut suspicious = HashMap::new();
        for (number, specs) in servers.chains().iter().enumerate() {
            chains.push(Chain::new(specs)?);
            suspicious.extend(suspicious_keys(ChainRef::of(ChainId(number)), specs));
        }
        let given = servers.files().next().is_some();
        Ok(Self { servers, given, chains, suspicious })
    }

    /// Says of keys that a distribution has removed from its configuration: values that open by them are lost to its API
    /// servers.
    pub fn with_removed(mut self, removed: &[Added]) -> Self {
        for key in self.keys() {
            let Some((label, named)) = self.label(key).zip(self.named_key(key)) else { continue };
            let is_removed = removed.iter().any(|gone| gone.provider == label.provider && gone.key == *named);
            if is_removed {
                self.suspicious.insert(key, ValueFinding::RemovedKey);
            }
        }
        self
    }

    /// Whether there is any configuration.
    pub fn given(&self) -> bool {
        self.given
    }

    /// The configurations with their paths, in the order given.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Configuration)> {
        self.servers.files()
    }

    /// What each file says of each resource that it names.
    pub fn rules_of(&self, file: usize) -> Vec<(&GroupResource, &[ProviderSpec])> {
        self.servers.rules_of(file)
    }

    /// The same in words, without secrets.
    pub fn described(&self, file: usize) -> Vec<(String, Vec<DescribedProvider>)> {
        let rules = self.rules_of(file).into_iter();
        rules.map(|(resource, specs)| (resource.to_string(), specs.iter().map(describe).collect())).collect()
    }

    /// The KMS providers of a file, each once, in no order that matters.
    pub fn kms_specs(&self, file: usize) -> Vec<KmsSpec> {
        let mut specs: Vec<KmsSpec> = Vec::new();
        for (_, providers) in self.rules_of(file) {
            for provider in providers {
                if let ProviderSpec::Kms(kms) = provider
                    && !specs.contains(kms)
                {
                    specs.push(kms.clone());
                }
            }
        }
        specs
    }

    /// The file that a chain belongs to; the first where several have the same one, which is none for 0.
    pub fn file_of(&self, chain: ChainRef) -> Option<usize> {
        let specs = self.servers.chains().get(chain.index().checked_sub(1)?)?;
        let has = |file: &usize| self.rules_of(*file).iter().any(|(_, providers)| *providers == specs.as_slice());
        (0..self.files().count()).find(has)
    }

    /// A prepared chain.
    pub fn chain(&self, chain: ChainRef) -> Option<&Chain> {
        self.chains.get(chain.index())
    }

    /// What a key is called.
    pub fn label(&self, key: KeyRef) -> Option<Label<'_>> {
        self.chain(key.chain)?.label(key.provider as usize, key.key as usize)
    }

    /// Every key of every chain, KMS providers and identity included.
    pub fn keys(&self) -> Vec<KeyRef> {
        let mut keys = Vec::new();
        for (number, specs) in self.servers.chains().iter().enumerate() {
            let chain = ChainRef::of(ChainId(number));
            for (provider, spec) in (0..).zip(specs) {
                let count = static_keys(spec).len().max(1);
                keys.extend((0..count as u32).map(|key| KeyRef { chain, provider, key }));
            }
        }
        keys
    }

    /// The key itself, of a static-key provider.
    pub fn named_key(&self, key: KeyRef) -> Option<&NamedKey> {
        let specs = self.servers.chains().get(key.chain.index().checked_sub(1)?)?;
        static_keys(specs.get(key.provider as usize)?).get(key.key as usize)
    }

    /// Whether values on this key are as good as open to everybody.
    pub fn suspicion(&self, key: KeyRef) -> Option<ValueFinding> {
        self.suspicious.get(&key).copied()
    }

    /// Who guards what an address leads to.
    pub fn guard(&self, address: &Address<'_>) -> Guard {
        match address {
            Address::Object(object) if object.known == Known::Unknown => self.guard_of_unknown(object),
            Address::Object(object) => self.guard_of(object.server, &object.group_resource()),
            Address::Reserved(Reserved::Bootstrap) | Address::Foreign => Guard::Nobody,
            // Allocators, leases of masters and the compactor's clock are read as they are, whatever is configured.
            Address::Reserved(_) if self.speaks_for_kube() => Guard::Chain(ChainRef::UNLISTED),
            Address::Reserved(_) => Guard::Nobody,
        }
    }

    /// Who guards a resource.
    pub fn guard_of(&self, server: ApiServer, resource: &GroupResource) -> Guard {
        match self.servers.resolve(server, resource) {
            Coverage::Configured { chain, .. } => Guard::Chain(ChainRef::of(chain)),
            Coverage::Unlisted { .. } => Guard::Chain(ChainRef::UNLISTED),
            Coverage::Uncovered => Guard::Nobody,
        }
    }

    /// The chains that may guard a resource whose group is not known.
    pub fn candidates(&self) -> impl Iterator<Item = ChainRef> {
        (0..self.chains.len()).filter_map(|index| u32::try_from(index).ok().map(ChainRef))
    }

    /// A resource whose group is not known is settled only where no group could make a difference.
    fn guard_of_unknown(&self, object: &ObjectKey<'_>) -> Guard {
        let differs = self.files().any(|(_, configuration)| {
            configuration.entries.iter().flat_map(|entry| &entry.resources).any(|rule| {
                let any_group = rule.group == "*";
                !any_group && (rule.resource == object.resource || rule.resource == "*")
            })
        });
        match self.guard_of(object.server, &GroupResource::new("", object.resource)) {
            Guard::Chain(_) if differs => Guard::Unsettled,
            settled => settled,
        }
    }

    fn speaks_for_kube(&self) -> bool {
        let anything = GroupResource::new("", "secrets");
        self.servers.resolve(ApiServer::Kube, &anything) != Coverage::Uncovered
    }
}

/// A provider in words, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedProvider {
    /// `identity`, `aescbc`, `aesgcm`, `secretbox` or `kms`.
    pub provider: &'static str,
    /// The KMS provider's name.
    pub name: Option<String>,
    /// Where the KMS plugin listens.
    pub endpoint: Option<String>,
    /// Name, fingerprint and length in bytes of each key.
    pub keys: Vec<(String, String, usize)>,
}

fn describe(spec: &ProviderSpec) -> DescribedProvider {
    let provider = match spec {
        ProviderSpec::Identity => "identity",
        ProviderSpec::AesCbc(_) => "aescbc",
        ProviderSpec::AesGcm(_) => "aesgcm",
        ProviderSpec::Secretbox(_) => "secretbox",
        ProviderSpec::Kms(_) => "kms",
    };
    let (name, endpoint) = match spec {
        ProviderSpec::Kms(kms) => (Some(kms.name.clone()), Some(kms.endpoint.clone())),
        _ => (None, None),
    };
    let key = |key: &NamedKey| (key.name.clone(), key.secret.fingerprint(), key.secret.len());
    DescribedProvider { provider, name, endpoint, keys: static_keys(spec).iter().map(key).collect() }
}

/// The keys of a static-key provider; none of others.
pub fn static_keys(spec: &ProviderSpec) -> &[NamedKey] {
    match spec {
        ProviderSpec::AesCbc(keys) | ProviderSpec::AesGcm(keys) | ProviderSpec::Secretbox(keys) => keys,
        ProviderSpec::Identity | ProviderSpec::Kms(_) => &[],
    }
}

fn suspicious_keys(chain: ChainRef, specs: &[ProviderSpec]) -> Vec<(KeyRef, ValueFinding)> {
    let mut suspicious = Vec::new();
    for (provider, spec) in (0..).zip(specs) {
        for (key, named) in (0..).zip(static_keys(spec)) {
            let finding = match config::suspicion(&named.secret) {
                Some(LintId::PublishedKey) => ValueFinding::PublishedKey,
                // Nothing should ever be on a placeholder; what is, is as good as open.
                Some(LintId::WeakKey | LintId::PlaceholderKey) => ValueFinding::WeakKey,
                _ => continue,
            };
            suspicious.push((KeyRef { chain, provider, key }, finding));
        }
    }
    suspicious
}
