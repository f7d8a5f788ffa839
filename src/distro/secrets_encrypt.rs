//! What `k3s secrets-encrypt status` says, and `rke2`'s: from the nodes in the store and a configuration.
//!
//! The command asks a server, which reads its own configuration and the nodes' annotations. Everything that it answers with
//! is in the store and the configuration, so the same text and the same JSON can be told of a snapshot.
//!
//! Upstream: `k3s-io/k3s`, `pkg/server/handlers/secrets-encrypt.go` and `pkg/cli/secretsencrypt/secrets_encrypt.go`.

use std::fmt::{self, Write};

use crate::config::Configuration;
use crate::provider::spec::{NamedKey, ProviderSpec};

use super::Distro;
use super::node::Node;
use super::stage::{self, Stage, State};

/// How the command calls the providers.
const AES_CBC: &str = "AES-CBC";
const SECRETBOX: &str = "XSalsa20-POLY1305";

/// Blanks between columns.
const PADDING: usize = 2;

/// A key as the command names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    /// `AES_CBC` or `SECRETBOX`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// As newer releases print it; older ones leave the kind out.
impl fmt::Display for ListedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What the command tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The stage of the node that is asked.
    pub stage: String,
    /// Whether encryption is on; none where there is no configuration that the command understands.
    pub enable: Option<bool>,
    /// What is wrong with the servers' annotations.
    pub hash_error: Option<String>,
    /// The key that writes.
    pub active: Option<ListedKey>,
    /// The others, in their order.
    pub inactive: Vec<ListedKey>,
}

/// Why the command fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// No node is a server.
    #[error("no node has the label of a server")]
    NoServer,
    /// The node is no server.
    #[error("cannot manage secrets encryption on non control-plane node {0}")]
    NotControlPlane(String),
    /// It has no annotation.
    #[error("missing annotation on node {0}")]
    Missing(String),
    /// Its annotation is no stage and hash.
    #[error("invalid hash: {annotation} found on node {node}")]
    Invalid {
        /// The annotation.
        annotation: String,
        /// The node.
        node: String,
    },
}

impl Node {
    /// The annotation of a distribution.
    pub fn annotation(&self, distro: Distro) -> Option<&str> {
        match distro {
            Distro::K3s => self.k3s.as_deref(),
            Distro::Rke2 => self.rke2.as_deref(),
            Distro::OpenShift | Distro::Ack => None,
        }
    }

    /// Stage and hash in it.
    pub fn state(&self, distro: Distro) -> Result<State, StatusError> {
        if !self.control_plane {
            return Err(StatusError::NotControlPlane(self.name.clone()));
        }
        let Some(annotation) = self.annotation(distro) else { return Err(StatusError::Missing(self.name.clone())) };
        let invalid = || StatusError::Invalid { annotation: annotation.to_owned(), node: self.name.clone() };
        State::parse(annotation).ok_or_else(invalid)
    }
}

/// The node to ask: the first whose hash is the configuration's, or else the first that has one, or else the first server.
pub fn node_to_ask<'n>(distro: Distro, nodes: &'n [Node], hash: Option<&str>) -> Option<&'n Node> {
    let servers = || nodes.iter().filter(|node| node.control_plane);
    let has = |node: &&Node| node.state(distro).is_ok_and(|state| Some(state.hash.as_str()) == hash);
    servers()
        .find(has)
        .or_else(|| servers().find(|node| node.annotation(distro).is_some()))
        .or_else(|| servers().next())
}

/// The providers that the command looks at: those of the first element of `resources`.
pub fn providers(configuration: &Configuration) -> &[ProviderSpec] {
    configuration.entries.first().map_or(&[], |entry| entry.providers.as_slice())
}

/// What the command tells when it is run on `node`, whose configuration this is.
///
/// # Errors
///
/// [`StatusError`], where it would fail instead.
pub fn status(
    distro: Distro,
    nodes: &[Node],
    node: &Node,
    configuration: Option<&Configuration>,
) -> Result<Status, StatusError> {
    let Some(configuration) = configuration else { return Ok(Status::default()) };
    let providers = providers(configuration);
    let (active, inactive) = listed(providers);
    Ok(Status {
        stage: node.state(distro)?.stage,
        enable: enabled(providers),
        hash_error: hash_error(distro, nodes),
        active,
        inactive,
    })
}

/// On with keys first and the identity last, off with the identity first.
fn enabled(providers: &[ProviderSpec]) -> Option<bool> {
    match (providers.first()?, providers.last()?) {
        (ProviderSpec::AesCbc(_) | ProviderSpec::Secretbox(_), ProviderSpec::Identity) => Some(true),
        (ProviderSpec::Identity, _) => Some(false),
        _ => None,
    }
}

/// The first two servers whose annotations differ.
pub fn hash_error(distro: Distro, nodes: &[Node]) -> Option<String> {
    let mut annotated = nodes.iter().filter(|node| node.control_plane);
    let mut annotated = annotated.by_ref().filter_map(|node| Some((node, node.annotation(distro)?)));
    let (first, reference) = annotated.next()?;
    let (other, _) = annotated.find(|(_, annotation)| *annotation != reference)?;
    Some(format!("hash does not match between {} and {}", first.name, other.name))
}

fn listed(providers: &[ProviderSpec]) -> (Option<ListedKey>, Vec<ListedKey>) {
    let (mut active, mut inactive, mut may_be_active) = (None, Vec::new(), true);
    for provider in providers {
        let (kind, keys): (_, &[NamedKey]) = match provider {
            ProviderSpec::AesCbc(keys) => (AES_CBC, keys),
            ProviderSpec::Secretbox(keys) => (SECRETBOX, keys),
            ProviderSpec::Identity => {
                may_be_active = false;
                continue;
            }
            ProviderSpec::AesGcm(_) | ProviderSpec::Kms(_) => continue,
        };
        for key in keys {
            let key = ListedKey { kind, name: key.name.clone() };
            if std::mem::take(&mut may_be_active) { active = Some(key) } else { inactive.push(key) }
        }
    }
    (active, inactive)
}

impl Status {
    /// The text, as the command prints it.
    pub fn text(&self) -> String {
        let Some(enable) = self.enable else {
            return "Encryption Status: Disabled, no configuration file found\n".to_owned();
        };
        let word = if enable { "Enabled" } else { "Disabled" };
        let hashes = self.hash_error.as_deref().unwrap_or("All hashes match");
        let mut text = format!("Encryption Status: {word}\nCurrent Rotation Stage: {}\n", self.stage);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "Server Encryption Hashes: {hashes}\n");
        self.table(&mut text);
        text.push('\n');
        text
    }

    fn table(&self, text: &mut String) {
        let rows = self.active.iter().map(|key| (" *", key)).chain(self.inactive.iter().map(|key| ("", key)));
        let rows: Vec<_> = rows.map(|(mark, key)| (mark, key.kind, key.name.as_str())).collect();
        let heads = [("Active", "Key Type", "Name"), ("------", "--------", "----")];
        let width = |cell: fn(&(&'static str, &'static str, &str)) -> &'static str| {
            heads.iter().map(cell).chain(rows.iter().map(cell)).map(str::len).max().unwrap_or_default() + PADDING
        };
        let (first, second) = (width(|row| row.0), width(|row| row.1));
        for (mark, kind, name) in heads.iter().chain(&rows) {
            let _ = writeln!(text, "{mark:first$}{kind:second$}{name}");
        }
    }
}

/// What a node's hash is the hash of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashOf {
    /// Of the configuration that the store is judged by.
    Configuration,
    /// Of its keys, while values are written anew.
    Progress,
    /// Of another configuration.
    Other,
}

impl HashOf {
    /// The word that reports use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Progress => "in-progress",
            Self::Other => "other",
        }
    }
}

/// What a node's hash is the hash of, if the configuration's own is `hash`.
pub fn hash_of(state: &State, hash: &str, providers: &[ProviderSpec]) -> HashOf {
    let in_progress = |stage: Stage| stage::progress_hashes(providers, stage).contains(&state.hash);
    if state.hash == hash {
        HashOf::Configuration
    } else if Stage::of(&state.stage).filter(|stage| stage.in_progress()).is_some_and(in_progress) {
        HashOf::Progress
    } else {
        HashOf::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn configuration(providers: &str) -> Configuration {
        let text = format!(
            r#"{{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{{"resources":["secrets"],"providers":[{providers}]}}]}}"#
        );
        config::load(text.as_bytes()).expect("a configuration")
    }

    fn keys(provider: &str, names: &[&str]) -> String {
        let key =
            |name: &&str| format!(r#"{{"name":"{name}","secret":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}}"#);
        let keys: Vec<_> = names.iter().map(key).collect();
        format!(r#"{{"{provider}":{{"keys":[{}]}}}}"#, keys.join(","))
    }

    fn server(name: &str, annotation: &str) -> Node {
        let k3s = Some(annotation.to_owned()).filter(|text| !text.is_empty());
        Node { name: name.to_owned(), control_plane: true, k3s, ..Node::default() }
    }

    const IDENTITY: &str = r#"{"identity":{}}"#;

    #[test]
    fn a_rotation_on_one_of_two_servers_is_told_as_the_command_tells_it() {
        let providers = [&keys("aescbc", &["aescbckey-2021-12-10T22:54:38Z", "aescbckey"]), IDENTITY].join(",");
        let nodes = [server("node-1", "rotate-00"), server("node-2", "prepare-11")];
        let status = status(Distro::K3s, &nodes, &nodes[0], Some(&configuration(&providers))).expect("a status");
        let text = "Encryption Status: Enabled\nCurrent Rotation Stage: rotate\n\
                    Server Encryption Hashes: hash does not match between node-1 and node-2\n\n\
                    Active  Key Type  Name\n------  --------  ----\n \
                    *      AES-CBC   aescbckey-2021-12-10T22:54:38Z\n        AES-CBC   aescbckey\n\n";
        assert_eq!(status.text(), text);
    }

    #[test]
    fn columns_are_as_wide_as_secretbox_needs_them() {
        let providers =
            [&keys("secretbox", &["secretboxkey"]), &keys("aescbc", &["aescbckey"])[..], IDENTITY].join(",");
        let nodes = [server("n", "reencrypt_active-00")];
        let status = status(Distro::K3s, &nodes, &nodes[0], Some(&configuration(&providers))).expect("a status");
        let text = "Encryption Status: Enabled\nCurrent Rotation Stage: reencrypt_active\n\
                    Server Encryption Hashes: All hashes match\n\n\
                    Active  Key Type           Name\n------  --------           ----\n \
                    *      XSalsa20-POLY1305  secretboxkey\n        AES-CBC            aescbckey\n\n";
        assert_eq!(status.text(), text);
    }

    #[test]
    fn disabled_has_three_forms() {
        let nodes = [server("n", "start-00")];
        let ask = |configuration: Option<&Configuration>| {
            status(Distro::K3s, &nodes, &nodes[0], configuration).expect("a status")
        };
        let behind = ask(Some(&configuration(&[IDENTITY, &keys("aescbc", &["aescbckey"])].join(","))));
        assert!(behind.text().starts_with("Encryption Status: Disabled\nCurrent Rotation Stage: start\n"));
        assert!(behind.text().ends_with("----\n        AES-CBC   aescbckey\n\n"), "{}", behind.text());
        let only = ask(Some(&configuration(IDENTITY)));
        assert!(
            only.text().starts_with("Encryption Status: Disabled\n")
                && only.text().ends_with("------  --------  ----\n\n")
        );
        let none = ask(None);
        assert_eq!(none.text(), "Encryption Status: Disabled, no configuration file found\n");
    }

    #[test]
    fn where_the_command_fails_its_words_are_told() {
        let nodes = [server("a", ""), server("b", "start"), Node { name: "c".to_owned(), ..Node::default() }];
        let configuration = configuration(IDENTITY);
        let error = |node: &Node| {
            status(Distro::K3s, &nodes, node, Some(&configuration)).map_err(|error| error.to_string()).err()
        };
        assert_eq!(error(&nodes[0]).as_deref(), Some("missing annotation on node a"));
        assert_eq!(error(&nodes[1]).as_deref(), Some("invalid hash: start found on node b"));
        assert_eq!(error(&nodes[2]).as_deref(), Some("cannot manage secrets encryption on non control-plane node c"));
    }

    #[test]
    fn the_node_is_asked_whose_hash_is_the_configurations() {
        let nodes = [server("a", ""), server("b", "start-00"), server("c", "start-11")];
        let name = |hash| node_to_ask(Distro::K3s, &nodes, hash).map(|node| node.name.as_str());
        assert_eq!((name(Some("11")), name(Some("22")), name(None)), (Some("c"), Some("b"), Some("b")));
        assert_eq!(node_to_ask(Distro::Rke2, &nodes, None).map(|node| node.name.as_str()), Some("a"));
        assert_eq!(hash_error(Distro::K3s, &nodes).as_deref(), Some("hash does not match between b and c"));
    }
}
