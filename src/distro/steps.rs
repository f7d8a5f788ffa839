//! What a rotation of K3s or RKE2 would come to: what the stored values and the nodes say of the next step.
//!
//! `secrets-encrypt` compares stages and hashes, and never looks at a stored value. So it takes a key away while values
//! need it, when the API server was not restarted in between, or when writing them anew ended early. Here the values are
//! counted, and the next step is called safe only if nothing speaks against it.

use crate::provider::spec::{NamedKey, ProviderSpec};

use super::Distro;
use super::node::Node;
use super::recovered::Warning;
use super::secrets_encrypt::{self, HashOf};
use super::stage::{Stage, State};

/// How much a remark weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Good to know.
    Note,
    /// Should be looked into.
    Warning,
    /// Data is lost, or the next step would lose it.
    Error,
}

impl Weight {
    /// The word that reports use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// How much it weighs.
    pub weight: Weight,
    /// A stable name.
    pub id: &'static str,
    /// One sentence.
    pub text: String,
}

impl Remark {
    /// A remark.
    pub fn new(weight: Weight, id: &'static str, text: impl Into<String>) -> Self {
        Self { weight, id, text: text.into() }
    }
}

/// A key, and what is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// `aescbc`, `secretbox` and so on.
    pub provider: String,
    /// Its name, as far as it is known.
    pub name: String,
    /// What the API server reads.
    pub entries: u64,
    /// Older revisions.
    pub history: u64,
    /// What is left of others in the file.
    pub residue: u64,
    /// The newest main revision on it.
    pub newest: Option<i64>,
    /// Whether the configuration that is in use has it.
    pub in_config: bool,
    /// Whether it writes.
    pub writes: bool,
}

/// All that is known.
pub struct Facts<'f> {
    /// K3s or RKE2.
    pub distro: Distro,
    /// The nodes.
    pub nodes: &'f [Node],
    /// What the node that is asked says.
    pub state: Option<&'f State>,
    /// The providers of the configuration in use, and the hash of its bytes; none where it is not known.
    pub config: Option<(&'f [ProviderSpec], &'f str)>,
    /// The hash of the configuration that the store has, where it opened.
    pub recorded: Option<&'f str>,
    /// The revision at which the store's record was last saved.
    pub saved: Option<i64>,
    /// The keys that values are on, and those of the configuration.
    pub keys: &'f [KeyUse],
    /// Entries in plaintext that would be encrypted now.
    pub plaintext: u64,
    /// Entries that do not open, whatever the reason.
    pub unreadable: u64,
    /// Whether every record was read.
    pub whole: bool,
    /// What the values are: `Secrets`, if nothing else is encrypted.
    pub noun: &'f str,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// What is to be done.
    pub step: String,
    /// Whether that loses nothing; none where nobody can say.
    pub safe: Option<bool>,
    /// Why not, in half a sentence.
    pub why: Option<String>,
}

/// What is to be said, weightiest first, and the next step.
pub fn judge(facts: &Facts<'_>, warnings: &[Warning]) -> (Vec<Remark>, Next) {
    let mut remarks: Vec<_> = warnings.iter().map(of_record).collect();
    nodes(facts, &mut remarks);
    configuration(facts, &mut remarks);
    values(facts, &mut remarks);
    remarks.sort_by_key(|remark| std::cmp::Reverse(remark.weight));
    let next = next(facts, &remarks);
    (remarks, next)
}

/// What a warning about the bootstrap record weighs.
pub fn of_record(warning: &Warning) -> Remark {
    match warning {
        Warning::EmptyPassphrase { key } => Remark::new(
            Weight::Error,
            "bootstrap.empty-passphrase",
            format!(
                "{key} is sealed with the empty passphrase (CVE-2021-32001): whoever has this store has its CA keys and its \
                 encryption keys; rotate the token, the CAs and the keys"
            ),
        ),
        Warning::AgentToken { key } => Remark::new(
            Weight::Error,
            "bootstrap.agent-token",
            format!(
                "an agent's token opens {key}: servers and agents share one password, so every agent can open this store; \
                 set an agent token of its own and rotate the server's"
            ),
        ),
        Warning::OtherName { key } => Remark::new(
            Weight::Warning,
            "bootstrap.other-name",
            format!("the token opens {key}, whose name is that of another token"),
        ),
        Warning::Several { keys } => Remark::new(
            Weight::Warning,
            "bootstrap.several-records",
            format!(
                "there are {} bootstrap records ({}): whoever has one of their tokens opens its keys",
                keys.len(),
                keys.join(", ")
            ),
        ),
        Warning::Unread { name, why } => {
            Remark::new(Weight::Warning, "bootstrap.unread", format!("{name} gave nothing: {why}"))
        }
        Warning::LeftOut(count) => Remark::new(
            Weight::Warning,
            "bootstrap.left-out",
            format!("{count} revisions of records were too many to look into"),
        ),
    }
}

fn nodes(facts: &Facts<'_>, remarks: &mut Vec<Remark>) {
    let servers = || facts.nodes.iter().filter(|node| node.control_plane);
    if let Some(error) = secrets_encrypt::hash_error(facts.distro, facts.nodes) {
        let says = |node: &Node| Some(format!("{} at {}", node.name, node.state(facts.distro).ok()?.stage));
        let stages: Vec<_> = servers().filter_map(says).collect();
        let in_progress = |node: &Node| {
            let stage = node.state(facts.distro).ok().and_then(|state| Stage::of(&state.stage));
            stage.is_some_and(Stage::in_progress)
        };
        let advice = match servers().any(in_progress) {
            true => "one is writing values anew; when it has finished, restart the others",
            false => "restart the servers that are behind",
        };
        let text = format!("{error} ({}): {advice}", stages.join(", "));
        remarks.push(Remark::new(Weight::Error, "status.hash-mismatch", text));
    }
    let bare: Vec<_> =
        servers().filter(|node| node.annotation(facts.distro).is_none()).map(|node| node.name.as_str()).collect();
    if !bare.is_empty() {
        let text = format!("{} have no annotation: they were not started since encryption was set up", bare.join(", "));
        remarks.push(Remark::new(Weight::Warning, "status.no-annotation", text));
    }
    if let Some((providers, hash)) = facts.config {
        let states: Vec<_> = servers().filter_map(|node| node.state(facts.distro).ok()).collect();
        let known = |state: &State| secrets_encrypt::hash_of(state, hash, providers) != HashOf::Other;
        if !states.is_empty() && !states.iter().any(known) {
            let text = "no server has the hash of this configuration: it is not the one in use";
            remarks.push(Remark::new(Weight::Warning, "status.other-configuration", text));
        }
    }
}

fn configuration(facts: &Facts<'_>, remarks: &mut Vec<Remark>) {
    let Some((providers, hash)) = facts.config else { return };
    if facts.recorded.is_some_and(|recorded| recorded != hash) {
        let text = "the store's own record has another configuration: the next start brings that one back, or the server does \
                    not start";
        remarks.push(Remark::new(Weight::Error, "status.datastore-differs", text));
    }
    let foreign = |provider: &ProviderSpec| matches!(provider, ProviderSpec::AesGcm(_) | ProviderSpec::Kms(_));
    if providers.iter().any(foreign) {
        let text = "the configuration has a provider that secrets-encrypt does not handle; it refuses to work with it";
        remarks.push(Remark::new(Weight::Warning, "status.unsupported-provider", text));
    }
}

fn values(facts: &Facts<'_>, remarks: &mut Vec<Remark>) {
    if !facts.whole {
        let text = "not every record could be read as it was written, so nothing can be said to be unneeded; see `atrest check`";
        remarks.push(Remark::new(Weight::Error, "status.damaged", text));
    }
    let Some((providers, _)) = facts.config else { return };
    let stage = facts.state.map_or("", |state| state.stage.as_str());
    let (noun, before) = (facts.noun, if stage.is_empty() { String::new() } else { format!("{stage}, but ") });
    let mut explained = 0;
    for key in facts.keys.iter().filter(|key| key.entries > 0 && !key.in_config) {
        explained += key.entries;
        let (count, verb) = counted(key.entries, noun);
        let text = format!("{before}{count} {verb} on the key that was removed ({}/{})", key.provider, key.name);
        remarks.push(Remark::new(Weight::Error, "status.removed-key", text));
    }
    let closed = facts.unreadable.saturating_sub(explained);
    if closed > 0 {
        let (count, verb) = counted(closed, noun);
        let text = format!("{count} {verb} not readable with this configuration; `atrest audit` lists them");
        remarks.push(Remark::new(Weight::Error, "status.unreadable", text));
    }
    let stage = Stage::of(stage);
    on_old_keys(facts, stage, &before, remarks);
    if stage.is_some_and(Stage::in_progress) {
        let text = "values are being written anew, or that broke off: until it is finished no key can go";
        remarks.push(Remark::new(Weight::Warning, "status.unfinished", text));
    }
    if facts.plaintext > 0 && !writes_plaintext(providers) {
        let (count, verb) = counted(facts.plaintext, noun);
        // Behind a rotation's other stages `reencrypt` has to be forced, and would take a key away unless it is told not to.
        let step = if stage == Some(Stage::Rotate) { "reencrypt" } else { "reencrypt --force --skip" };
        let text = format!("{count} {verb} plaintext although encryption is on; `{step}` would encrypt them");
        remarks.push(Remark::new(Weight::Warning, "status.plaintext", text));
    }
    let sealed = facts.keys.iter().filter(|key| key.in_config).map(|key| key.entries).sum();
    if sealed > 0 && writes_plaintext(providers) {
        let (count, verb) = counted(sealed, noun);
        let text = format!(
            "encryption is off and {count} {verb} still encrypted: none of these keys can go; `reencrypt --force --skip` would \
             decrypt them"
        );
        remarks.push(Remark::new(Weight::Warning, "status.still-encrypted", text));
    }
}

/// Values that are readable, and not on the key that writes.
fn on_old_keys(facts: &Facts<'_>, stage: Option<Stage>, before: &str, remarks: &mut Vec<Remark>) {
    for key in facts.keys.iter().filter(|key| key.entries > 0 && key.in_config && !key.writes) {
        let (count, verb) = counted(key.entries, facts.noun);
        match (stage, key.newest, facts.saved) {
            (Some(Stage::ReencryptFinished), _, _) => {
                let text = format!(
                    "{before}{count} {verb} still on {}/{}: the API server was not restarted in between, or writing ended early",
                    key.provider, key.name
                );
                remarks.push(Remark::new(Weight::Error, "status.not-rewritten", text));
            }
            (Some(Stage::Rotate), Some(newest), Some(saved)) if newest > saved => {
                let text = format!(
                    "an API server went on writing with {}/{} (up to revision {newest}) after the new key was put first \
                     (revision {saved}): it was not restarted, and `reencrypt` would take away a key that it writes with",
                    key.provider, key.name
                );
                remarks.push(Remark::new(Weight::Error, "status.old-key-still-writes", text));
            }
            _ => {}
        }
    }
}

fn counted(count: u64, noun: &str) -> (String, &'static str) {
    match count {
        1 => (format!("1 {}", noun.strip_suffix('s').unwrap_or(noun)), "is"),
        count => (format!("{count} {noun}"), "are"),
    }
}

fn writes_plaintext(providers: &[ProviderSpec]) -> bool {
    providers.first().is_none_or(|first| *first == ProviderSpec::Identity)
}

fn next(facts: &Facts<'_>, remarks: &[Remark]) -> Next {
    let step = step(facts);
    let worst = remarks.iter().find(|remark| remark.weight == Weight::Error);
    let safe = match (worst, facts.config) {
        (Some(_), _) => Some(false),
        (None, Some(_)) => Some(true),
        (None, None) => None,
    };
    Next { step, safe, why: worst.map(|remark| remark.text.clone()) }
}

fn step(facts: &Facts<'_>) -> String {
    let program = facts.distro.word();
    let Some((providers, _)) = facts.config else {
        return "not to be told without the configuration; give it with -c, or the server's token with --token-file"
            .to_owned();
    };
    if writes_plaintext(providers) && facts.keys.iter().any(|key| key.in_config && key.entries > 0) {
        return format!(
            "restart every server, then `{program} secrets-encrypt reencrypt --force --skip`, which decrypts"
        );
    }
    if writes_plaintext(providers) {
        return format!(
            "`{program} secrets-encrypt enable`, restart every server, `{program} secrets-encrypt reencrypt --force --skip`"
        );
    }
    let has_secretbox = providers.iter().any(|provider| matches!(provider, ProviderSpec::Secretbox(_)));
    let last = providers.iter().rev().find_map(last_key).map_or("", |key| key.name.as_str());
    let stage = facts.state.and_then(|state| Stage::of(&state.stage));
    match stage {
        Some(Stage::Prepare) => format!("restart every server, then `{program} secrets-encrypt rotate`"),
        Some(Stage::Rotate) => format!(
            "restart every server, then `{program} secrets-encrypt reencrypt`, which takes {last} away at its end"
        ),
        Some(Stage::ReencryptRequest | Stage::ReencryptActive) if has_secretbox => {
            format!("wait for reencrypt_finished; if it broke off, `{program} secrets-encrypt rotate-keys --force`")
        }
        Some(Stage::ReencryptRequest | Stage::ReencryptActive) => format!(
            "wait for reencrypt_finished; if it broke off, `{program} secrets-encrypt reencrypt --force`, which takes {last} \
             away at its end"
        ),
        _ if has_secretbox => format!("`{program} secrets-encrypt rotate-keys` for a new key"),
        _ => format!("`{program} secrets-encrypt prepare` (or rotate-keys, from 1.30 on) for a new key"),
    }
}

fn last_key(provider: &ProviderSpec) -> Option<&NamedKey> {
    match provider {
        ProviderSpec::AesCbc(keys) | ProviderSpec::Secretbox(keys) | ProviderSpec::AesGcm(keys) => keys.last(),
        ProviderSpec::Identity | ProviderSpec::Kms(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::secret::SecretKey;

    fn key(name: &str) -> NamedKey {
        NamedKey { name: name.to_owned(), secret: SecretKey::new(vec![1; 32]) }
    }

    fn used(name: &str, entries: u64, newest: i64, (in_config, writes): (bool, bool)) -> KeyUse {
        let newest = Some(newest);
        KeyUse {
            provider: "aescbc".to_owned(),
            name: name.to_owned(),
            entries,
            newest,
            in_config,
            writes,
            ..KeyUse::default()
        }
    }

    /// Ids of remarks, and whether the next step is safe.
    fn judged(stage: &str, providers: &[ProviderSpec], keys: &[KeyUse]) -> (Vec<&'static str>, Next) {
        let state = State { stage: stage.to_owned(), hash: "00".to_owned() };
        let annotation = Some(state.to_string());
        let nodes = [Node { name: "a".to_owned(), control_plane: true, k3s: annotation, ..Node::default() }];
        let facts = Facts {
            distro: Distro::K3s,
            nodes: &nodes,
            state: Some(&state),
            config: Some((providers, "00")),
            recorded: Some("00"),
            saved: Some(100),
            keys,
            plaintext: 0,
            unreadable: 0,
            whole: true,
            noun: "Secrets",
        };
        let (remarks, next) = judge(&facts, &[]);
        (remarks.iter().map(|remark| remark.id).collect(), next)
    }

    #[test]
    fn a_finished_rotation_with_values_on_the_removed_key_is_not_safe() {
        let providers = [ProviderSpec::AesCbc(vec![key("new")]), ProviderSpec::Identity];
        let keys = [used("new", 58, 120, (true, true)), used("old", 2, 110, (false, false))];
        let (ids, next) = judged("reencrypt_finished", &providers, &keys);
        assert_eq!((ids, next.safe), (vec!["status.removed-key"], Some(false)));
        let why = "reencrypt_finished, but 2 Secrets are on the key that was removed (aescbc/old)";
        assert_eq!(next.why.as_deref(), Some(why));
        let (ids, next) = judged("reencrypt_finished", &providers, &keys[..1]);
        assert_eq!((ids.len(), next.safe), (0, Some(true)));
    }

    #[test]
    fn reencrypt_is_not_safe_while_an_api_server_writes_with_the_old_key() {
        let providers = [ProviderSpec::AesCbc(vec![key("new"), key("old")]), ProviderSpec::Identity];
        let keys = |newest| [used("new", 1, 120, (true, true)), used("old", 2, newest, (true, false))];
        let (ids, next) = judged("rotate", &providers, &keys(90));
        assert_eq!((ids.len(), next.safe), (0, Some(true)));
        assert!(next.step.contains("reencrypt`, which takes old away"), "{}", next.step);
        let (ids, next) = judged("rotate", &providers, &keys(101));
        assert_eq!((ids, next.safe), (vec!["status.old-key-still-writes"], Some(false)));
        let (ids, _) = judged("reencrypt_finished", &providers, &keys(90));
        assert_eq!(ids, ["status.not-rewritten"]);
        let (ids, next) = judged("reencrypt_active", &providers, &keys(90));
        assert_eq!((ids, next.safe), (vec!["status.unfinished"], Some(true)));
    }

    #[test]
    fn while_encryption_is_off_and_values_are_encrypted_they_come_first() {
        let off = [ProviderSpec::Identity, ProviderSpec::AesCbc(vec![key("a")])];
        let (ids, next) = judged("start", &off, &[used("a", 3, 90, (true, false))]);
        assert_eq!((ids, next.safe), (vec!["status.still-encrypted"], Some(true)));
        assert!(next.step.contains("reencrypt --force --skip`, which decrypts"), "{}", next.step);
        // What the key of the other kind sealed was dropped with it.
        let (ids, next) = judged("start", &off, &[used("b", 3, 90, (false, false))]);
        assert_eq!((ids, next.safe), (vec!["status.removed-key"], Some(false)));
        let (ids, _) = judged("start", &off, &[used("a", 0, 90, (true, false))]);
        assert_eq!(ids.len(), 0);
    }

    #[test]
    fn servers_differ_while_one_of_them_writes_values_anew() {
        let server = |name: &str, annotation: &str| Node {
            name: name.to_owned(),
            control_plane: true,
            k3s: Some(annotation.to_owned()),
            ..Node::default()
        };
        let said = |first: &str| {
            let nodes = [server("a", first), server("b", "rotate-00")];
            let facts = Facts {
                distro: Distro::K3s,
                nodes: &nodes,
                state: None,
                config: None,
                recorded: None,
                saved: None,
                keys: &[],
                plaintext: 0,
                unreadable: 0,
                whole: true,
                noun: "Secrets",
            };
            judge(&facts, &[]).0.into_iter().map(|remark| remark.text).collect::<Vec<_>>().join("\n")
        };
        assert!(said("reencrypt_active-11").ends_with("when it has finished, restart the others"));
        assert!(said("prepare-11").ends_with("restart the servers that are behind"));
    }

    #[test]
    fn each_stage_has_its_next_step() {
        let cbc = [ProviderSpec::AesCbc(vec![key("a"), key("b")]), ProviderSpec::Identity];
        let secretbox = [ProviderSpec::Secretbox(vec![key("s")]), ProviderSpec::Identity];
        let off = [ProviderSpec::Identity, ProviderSpec::AesCbc(vec![key("a")])];
        for (stage, providers, word) in [
            ("start", &cbc[..], "secrets-encrypt prepare`"),
            ("prepare", &cbc, "secrets-encrypt rotate`"),
            ("rotate", &cbc, "takes b away"),
            ("reencrypt_request", &cbc, "reencrypt --force`"),
            ("reencrypt_active", &secretbox, "rotate-keys --force`"),
            ("reencrypt_finished", &secretbox, "rotate-keys`"),
            ("reencrypt_finished", &off, "enable`"),
        ] {
            let (_, next) = judged(stage, providers, &[]);
            assert!(next.step.contains(word), "{stage}: {}", next.step);
        }
    }
}
