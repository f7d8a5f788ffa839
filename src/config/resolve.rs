//! From a resource to the chain of providers that guards it, for each API server.
//!
//! Upstream: `k8s.io/apiserver/pkg/server/options/encryptionconfig/config.go` (`transformerFromOverrides`).
//! Each API server has a configuration of its own; OpenShift has three.

use std::collections::{BTreeMap, HashSet};

use thiserror::Error;

use crate::kube::resource::{ApiServer, GroupResource};
use crate::provider::spec::ProviderSpec;

use super::Configuration;

/// Configurations, and which of them speaks for which API server.
#[derive(Debug)]
pub struct ApiServers {
    files: Vec<File>,
    chains: Vec<Vec<ProviderSpec>>,
}

#[derive(Debug)]
struct File {
    path: String,
    configuration: Configuration,
    rules: BTreeMap<GroupResource, ChainId>,
    speaks_for: HashSet<ApiServer>,
}

/// A chain's number among the distinct ones, counted from 0: an index into [`ApiServers::chains`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub usize);

/// Two files give the same resource to different providers.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{first} and {second} both configure {resource}, with different providers")]
pub struct Conflict {
    /// The path of the file that was given first.
    pub first: String,
    /// The path of the other.
    pub second: String,
    /// The resource, as the files name it.
    pub resource: GroupResource,
}

/// What the configurations say of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage<'a> {
    /// These providers, in this order; the first one writes.
    Configured {
        /// The providers, of all entries that name the resource alike.
        providers: &'a [ProviderSpec],
        /// The file's number in the order given.
        file: usize,
        /// The chain's number.
        chain: ChainId,
    },
    /// A file speaks for the API server and does not list the resource: the plain identity transformer.
    Unlisted {
        /// The file's number in the order given.
        file: usize,
    },
    /// No file speaks for the API server.
    Uncovered,
}

impl ApiServers {
    /// Takes configurations with the paths they were given by.
    pub fn new(files: Vec<(String, Configuration)>) -> Result<Self, Conflict> {
        let mut servers = Self { files: Vec::new(), chains: Vec::new() };
        for (path, configuration) in files {
            let rules = servers.rules(&configuration);
            let speaks_for = speaks_for(&rules);
            let file = File { path, configuration, rules, speaks_for };
            servers.check_conflict(&file)?;
            servers.files.push(file);
        }
        Ok(servers)
    }

    /// The providers of each resource that a file names, concatenated over its entries.
    fn rules(&mut self, configuration: &Configuration) -> BTreeMap<GroupResource, ChainId> {
        let mut entries: BTreeMap<&GroupResource, Vec<usize>> = BTreeMap::new();
        for (index, entry) in configuration.entries.iter().enumerate() {
            for resource in &entry.resources {
                entries.entry(resource).or_default().push(index);
            }
        }
        let mut known: BTreeMap<Vec<usize>, ChainId> = BTreeMap::new();
        let mut rules = BTreeMap::new();
        for (resource, indices) in entries {
            let chain = match known.get(&indices) {
                Some(chain) => *chain,
                None => {
                    let entries = indices.iter().filter_map(|index| configuration.entries.get(*index));
                    let providers = entries.flat_map(|entry| entry.providers.iter().cloned()).collect();
                    let chain = self.intern(providers);
                    known.insert(indices, chain);
                    chain
                }
            };
            rules.insert(resource.clone(), chain);
        }
        rules
    }

    fn intern(&mut self, providers: Vec<ProviderSpec>) -> ChainId {
        let number = self.chains.iter().position(|known| *known == providers).unwrap_or_else(|| {
            self.chains.push(providers);
            self.chains.len() - 1
        });
        ChainId(number)
    }

    fn check_conflict(&self, file: &File) -> Result<(), Conflict> {
        for earlier in &self.files {
            let differs = |(resource, chain): &(&GroupResource, &ChainId)| {
                file.rules.get(*resource).is_some_and(|other| other != *chain)
            };
            if let Some((resource, _)) = earlier.rules.iter().find(differs) {
                return Err(Conflict {
                    first: earlier.path.clone(),
                    second: file.path.clone(),
                    resource: resource.clone(),
                });
            }
        }
        Ok(())
    }

    /// What guards a resource of an API server: the rule of its name, then its group's wildcard, then `*.*`.
    ///
    /// A more exact rule wins over another file's wildcard; among equal ones, which then agree, the first file.
    pub fn resolve(&self, server: ApiServer, resource: &GroupResource) -> Coverage<'_> {
        let group = GroupResource::new(resource.group.as_str(), "*");
        let everything = GroupResource::new("*", "*");
        for rule in [resource, &group, &everything] {
            for (file, candidate) in self.speakers(server) {
                let Some(chain) = candidate.rules.get(rule) else { continue };
                if let Some(providers) = self.chains.get(chain.0) {
                    return Coverage::Configured { providers, file, chain: *chain };
                }
            }
        }
        match self.speakers(server).next() {
            Some((file, _)) => Coverage::Unlisted { file },
            None => Coverage::Uncovered,
        }
    }

    fn speakers(&self, server: ApiServer) -> impl Iterator<Item = (usize, &File)> {
        self.files.iter().enumerate().filter(move |(_, file)| file.speaks_for.contains(&server))
    }

    /// Every distinct chain, by number.
    pub fn chains(&self) -> &[Vec<ProviderSpec>] {
        &self.chains
    }

    /// The files in the order given: path and configuration.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Configuration)> {
        self.files.iter().map(|file| (file.path.as_str(), &file.configuration))
    }

    /// The rules of a file for a report, by resource; none for a number that no file has.
    pub fn rules_of(&self, file: usize) -> Vec<(&GroupResource, &[ProviderSpec])> {
        let rules = self.files.get(file).map(|file| file.rules.iter()).into_iter().flatten();
        rules.filter_map(|(resource, chain)| Some((resource, self.chains.get(chain.0)?.as_slice()))).collect()
    }
}

/// kube-apiserver's, unless it names nothing but OpenShift's groups; the others' only if it names one of theirs.
fn speaks_for(rules: &BTreeMap<GroupResource, ChainId>) -> HashSet<ApiServer> {
    let mut servers: HashSet<_> = rules.keys().map(|resource| ApiServer::of_group(&resource.group)).collect();
    if servers.is_empty() {
        servers.insert(ApiServer::Kube);
    }
    servers
}
