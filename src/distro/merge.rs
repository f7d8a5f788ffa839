//! One configuration of several: what the newest says, and behind it every key that only an older one has.
//!
//! A resource keeps the providers of the newest configuration that names it, in their order, so that what writes stays
//! what writes. A key is told from another by provider, name and secret: two secrets of one name are both kept.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::config::Configuration;
use crate::kube::resource::GroupResource;
use crate::provider::spec::{NamedKey, ProviderSpec};

use super::gojson;

/// A key that only an older configuration has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// `aescbc`, `aesgcm` or `secretbox`.
    pub provider: &'static str,
    /// The key.
    pub key: NamedKey,
    /// The resources that it is added for.
    pub resources: Vec<GroupResource>,
    /// Which of the configurations has it: the newest of those that do.
    pub from: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Merged {
    chains: BTreeMap<GroupResource, Vec<ProviderSpec>>,
    /// Resources in the order of the newest configuration that names them.
    order: Vec<GroupResource>,
    /// Keys that only an older one has, newest first.
    pub added: Vec<Added>,
    /// Something else differs from the newest: a resource, a KMS provider, or the identity.
    pub otherwise: bool,
}

impl Merged {
    /// Merges configurations, the newest first.
    pub fn of<'c>(configurations: impl IntoIterator<Item = &'c Configuration>) -> Self {
        let mut merged = Self::default();
        for (from, configuration) in configurations.into_iter().enumerate() {
            for (resource, providers) in by_resource(configuration) {
                merged.add(from, resource, providers);
            }
        }
        merged
    }

    /// Adds what guards a resource, older than everything before.
    pub fn add(&mut self, from: usize, resource: &GroupResource, providers: Vec<ProviderSpec>) {
        let Some(chain) = self.chains.get_mut(resource) else {
            self.otherwise |= from > 0;
            self.order.push(resource.clone());
            self.chains.insert(resource.clone(), providers);
            return;
        };
        for provider in providers {
            let keys = keys_of(&provider);
            if keys.is_empty() && !chain.contains(&provider) {
                self.otherwise = true;
                insert(chain, provider.clone());
            }
            for key in keys {
                if add_key(chain, &provider, key) {
                    note(
                        &mut self.added,
                        Added { provider: word(&provider), key: key.clone(), resources: vec![resource.clone()], from },
                    );
                }
            }
        }
    }

    /// Whether nothing had to be added to the newest.
    pub fn is_the_newest(&self) -> bool {
        self.added.is_empty() && !self.otherwise
    }

    /// What is to be written: resources with the same providers together.
    pub fn text(&self) -> Zeroizing<String> {
        let mut entries: Vec<gojson::Entry<'_>> = Vec::new();
        for resource in &self.order {
            let Some(chain) = self.chains.get(resource) else { continue };
            match entries.iter_mut().find(|entry| entry.providers == chain.as_slice()) {
                Some(entry) => entry.resources.push(resource),
                None => entries.push(gojson::Entry { resources: vec![resource], providers: chain }),
            }
        }
        gojson::configuration(&entries)
    }
}

/// What a configuration says of each resource that it names; entries of one resource go together.
fn by_resource(configuration: &Configuration) -> Vec<(&GroupResource, Vec<ProviderSpec>)> {
    let mut found: Vec<(&GroupResource, Vec<ProviderSpec>)> = Vec::new();
    for entry in &configuration.entries {
        for resource in &entry.resources {
            match found.iter_mut().find(|(known, _)| *known == resource) {
                Some((_, providers)) => providers.extend(entry.providers.iter().cloned()),
                None => found.push((resource, entry.providers.clone())),
            }
        }
    }
    found
}

fn note(added: &mut Vec<Added>, new: Added) {
    match added.iter_mut().find(|known| known.provider == new.provider && known.key == new.key) {
        Some(known) => known.resources.extend(new.resources),
        None => added.push(new),
    }
}

fn word(provider: &ProviderSpec) -> &'static str {
    match provider {
        ProviderSpec::AesCbc(_) => "aescbc",
        ProviderSpec::AesGcm(_) => "aesgcm",
        ProviderSpec::Secretbox(_) => "secretbox",
        ProviderSpec::Identity => "identity",
        ProviderSpec::Kms(_) => "kms",
    }
}

fn keys_of(provider: &ProviderSpec) -> &[NamedKey] {
    match provider {
        ProviderSpec::AesCbc(keys) | ProviderSpec::AesGcm(keys) | ProviderSpec::Secretbox(keys) => keys,
        ProviderSpec::Identity | ProviderSpec::Kms(_) => &[],
    }
}

fn keys_mut<'k>(known: &'k mut ProviderSpec, like: &ProviderSpec) -> Option<&'k mut Vec<NamedKey>> {
    match (known, like) {
        (ProviderSpec::AesCbc(keys), ProviderSpec::AesCbc(_))
        | (ProviderSpec::AesGcm(keys), ProviderSpec::AesGcm(_))
        | (ProviderSpec::Secretbox(keys), ProviderSpec::Secretbox(_)) => Some(keys),
        _ => None,
    }
}

/// Adds a key behind the others of its kind; says whether it was not there yet.
fn add_key(chain: &mut Vec<ProviderSpec>, like: &ProviderSpec, key: &NamedKey) -> bool {
    let mut last = None;
    for (place, provider) in chain.iter_mut().enumerate() {
        if let Some(keys) = keys_mut(provider, like) {
            if keys.contains(key) {
                return false;
            }
            last = Some(place);
        }
    }
    match last.and_then(|place| chain.get_mut(place)).and_then(|provider| keys_mut(provider, like)) {
        Some(keys) => keys.push(key.clone()),
        None => insert(chain, with_key(like, key)),
    }
    true
}

fn with_key(like: &ProviderSpec, key: &NamedKey) -> ProviderSpec {
    let keys = vec![key.clone()];
    match like {
        ProviderSpec::AesGcm(_) => ProviderSpec::AesGcm(keys),
        ProviderSpec::Secretbox(_) => ProviderSpec::Secretbox(keys),
        _ => ProviderSpec::AesCbc(keys),
    }
}

/// Puts a provider last, but in front of an identity that is last and does not write.
fn insert(chain: &mut Vec<ProviderSpec>, provider: ProviderSpec) {
    let place = match chain.last() {
        Some(ProviderSpec::Identity) if chain.len() > 1 => chain.len() - 1,
        _ => chain.len(),
    };
    chain.insert(place, provider);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Entry;
    use crate::provider::secret::SecretKey;

    fn key(name: &str, byte: u8) -> NamedKey {
        NamedKey { name: name.to_owned(), secret: SecretKey::new(vec![byte; 32]) }
    }

    fn configuration(entries: &[(&[&str], &[ProviderSpec])]) -> Configuration {
        let entry = |(resources, providers): &(&[&str], &[ProviderSpec])| Entry {
            resources: resources.iter().map(|name| GroupResource::parse(name)).collect(),
            providers: providers.to_vec(),
        };
        Configuration { sha256: [0; 32], entries: entries.iter().map(entry).collect(), lints: Vec::new() }
    }

    fn chain(merged: &Merged, resource: &str) -> Vec<ProviderSpec> {
        merged.chains.get(&GroupResource::parse(resource)).cloned().unwrap_or_default()
    }

    #[test]
    fn keys_of_older_configurations_come_behind_and_the_writer_stays() {
        use ProviderSpec::{AesCbc, Identity};
        let newest = configuration(&[(&["secrets"], &[AesCbc(vec![key("b", 2)]), Identity])]);
        let older = configuration(&[(&["secrets"], &[AesCbc(vec![key("b", 2), key("a", 1)]), Identity])]);
        let oldest = configuration(&[(&["secrets"], &[AesCbc(vec![key("a", 9), key("a", 1)]), Identity])]);
        let merged = Merged::of([&newest, &older, &oldest]);
        let expected = [AesCbc(vec![key("b", 2), key("a", 1), key("a", 9)]), Identity];
        assert_eq!(chain(&merged, "secrets"), expected);
        let added: Vec<_> = merged.added.iter().map(|added| (added.key.clone(), added.from)).collect();
        assert_eq!(added, [(key("a", 1), 1), (key("a", 9), 2)]);
        assert!(Merged::of([&newest, &newest]).is_the_newest() && !merged.is_the_newest());
    }

    #[test]
    fn a_provider_that_is_gone_comes_back_in_front_of_the_last_identity() {
        use ProviderSpec::{AesCbc, Identity, Secretbox};
        let (cbc, sb) = (AesCbc(vec![key("c", 1)]), Secretbox(vec![key("s", 2)]));
        let newest = configuration(&[(&["secrets"], &[sb.clone(), Identity])]);
        let older = configuration(&[(&["secrets"], &[cbc.clone(), Identity])]);
        assert_eq!(chain(&Merged::of([&newest, &older]), "secrets"), [sb, cbc.clone(), Identity]);
        let off = configuration(&[(&["secrets"], &[Identity])]);
        assert_eq!(chain(&Merged::of([&off, &older]), "secrets"), [Identity, cbc.clone()], "identity goes on writing");
        assert_eq!(
            chain(&Merged::of([&configuration(&[(&["secrets"], std::slice::from_ref(&cbc))]), &off]), "secrets"),
            [cbc, Identity]
        );
    }

    #[test]
    fn resources_stay_apart_and_alike_ones_are_written_together() {
        use ProviderSpec::{AesCbc, Identity};
        let one = AesCbc(vec![key("1", 1)]);
        let other = AesCbc(vec![key("1", 2)]);
        let kube = configuration(&[(&["configmaps"], &[one.clone(), Identity]), (&["secrets"], &[one, Identity])]);
        let routes = configuration(&[(&["routes.route.openshift.io"], &[other, Identity])]);
        let merged = Merged::of([&kube, &routes]);
        let loaded = crate::config::load(merged.text().as_bytes()).expect("a configuration");
        let names: Vec<Vec<_>> =
            loaded.entries.iter().map(|entry| entry.resources.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(names, [vec!["configmaps", "secrets"], vec!["routes.route.openshift.io"]]);
        assert_eq!(loaded.entries.first().map(|entry| entry.providers.len()), Some(2));
    }
}
