//! Where OpenShift's operators stand with the keys of each API server, against what the values say.
//!
//! An operator makes a key, lets all servers read it, lets them write with it, has every object written anew, notes in the
//! key's Secret when that was done, and a week later begins anew. It never looks into etcd, so what the Secret says can be
//! wrong.

use crate::config::Configuration;
use crate::kube::resource::{ApiServer, GroupResource};
use crate::provider::spec::ProviderSpec;

use super::openshift::{self, Kept, KeySecret};
use super::steps::{Remark, Weight};

/// Entries of a resource on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The resource.
    pub resource: GroupResource,
    /// `aescbc` and so on, or `identity`.
    pub provider: String,
    /// The key's name; empty for plaintext.
    pub key_name: String,
    /// How many.
    pub entries: u64,
    /// Of them, those that the configuration does not open.
    pub unreadable: u64,
}

/// What a configuration does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// New values are on it.
    Write,
    /// Older ones may be.
    Read,
    /// It stands for a number that was no key.
    Placeholder,
    /// It is not there.
    Unused,
    /// No configuration of the component is known.
    Unknown,
}

impl Role {
    /// The word that reports use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Placeholder => "placeholder",
            Self::Unused => "unused",
            Self::Unknown => "unknown",
        }
    }
}

/// A key of a component.
#[derive(Clone, Debug)]
pub struct KeyState {
    /// Its number; its Secret, where there is one.
    pub number: String,
    /// What its Secret says.
    pub secret: Option<KeySecret>,
    /// What the configuration does with it.
    pub role: Role,
    /// Entries on it.
    pub entries: u64,
    /// It is not in use, nothing is on it, and a newer one is migrated.
    pub prunable: bool,
}

/// A component.
#[derive(Clone, Debug)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Where its configuration is from; none where it is not known.
    pub config: Option<String>,
    /// The resources that its configuration encrypts.
    pub resources: Vec<GroupResource>,
    /// What writes: a provider's word, or `unknown`.
    pub mode: &'static str,
    /// Keys, the greatest number first.
    pub keys: Vec<KeyState>,
    /// Entries of its resources in plaintext.
    pub plaintext: u64,
    /// Entries of its resources on other keys, or that do not open.
    pub foreign: u64,
}

/// A component's configuration and where it is from.
pub type Configured<'c> = (String, &'c Configuration);

/// Judges each component of which there is a configuration, a key, or an encrypted value.
pub fn components(
    kept: &Kept,
    configured: &[(ApiServer, Configured<'_>)],
    uses: &[Use],
) -> (Vec<Component>, Vec<Remark>) {
    let mut remarks = Vec::new();
    let mut found = Vec::new();
    for (name, server) in openshift::COMPONENTS {
        let config = configured.iter().find(|(of, _)| *of == server).map(|(_, config)| config);
        let secrets: Vec<_> = kept.keys.iter().filter(|key| key.component == name).collect();
        let mine = |used: &&Use| ApiServer::of_group(&used.resource.group) == server;
        let uses: Vec<_> = uses.iter().filter(mine).collect();
        let is_encrypted = uses.iter().any(|used| used.provider != "identity");
        if config.is_none() && secrets.is_empty() && !is_encrypted {
            continue;
        }
        let component = component(name, config, &secrets, &uses);
        judge(&component, &mut remarks);
        found.push(component);
    }
    (found, remarks)
}

fn component(name: &str, config: Option<&Configured<'_>>, secrets: &[&KeySecret], uses: &[&Use]) -> Component {
    let entries = config.map_or(&[][..], |(_, configuration)| configuration.entries.as_slice());
    let providers = entries.first().map_or(&[][..], |entry| entry.providers.as_slice());
    let resources: Vec<_> = entries.iter().flat_map(|entry| entry.resources.iter().cloned()).collect();
    let is_mine = |used: &&&Use| resources.is_empty() || resources.contains(&used.resource);
    let uses: Vec<_> = uses.iter().filter(is_mine).collect();
    let mut numbers: Vec<String> = secrets.iter().map(|secret| secret.number.to_string()).collect();
    numbers.extend(providers.iter().flat_map(names));
    numbers.sort_by_key(|number| std::cmp::Reverse(number.parse::<u64>().unwrap_or_default()));
    numbers.dedup();
    let on = |number: &str| {
        let sealed = uses.iter().filter(|used| used.provider != "identity" && key_number(&used.key_name) == number);
        sealed.map(|used| used.entries).sum()
    };
    let mut newer_is_migrated = false;
    let mut keys = Vec::new();
    for number in numbers {
        let secret = secrets.iter().find(|secret| secret.number.to_string() == number).map(|secret| (*secret).clone());
        let role = if config.is_some() { role(providers, &number) } else { Role::Unknown };
        let entries = on(&number);
        let prunable = role == Role::Unused && entries == 0 && newer_is_migrated;
        newer_is_migrated |=
            secret.as_ref().and_then(|secret| secret.said.as_ref()).is_some_and(|said| said.migrated.is_some());
        keys.push(KeyState { number, secret, role, entries, prunable });
    }
    // Without a configuration nobody can say which of them should be encrypted.
    let is_plain = |used: &&&&Use| !resources.is_empty() && used.provider == "identity";
    let plaintext: u64 = uses.iter().filter(is_plain).map(|used| used.entries).sum();
    let known: u64 = keys.iter().map(|key| key.entries).sum();
    let all: u64 = uses.iter().filter(|used| used.provider != "identity").map(|used| used.entries).sum();
    Component {
        name: name.to_owned(),
        config: config.map(|(from, _)| from.clone()),
        resources: resources.clone(),
        mode: providers.first().map_or("unknown", word),
        keys,
        plaintext,
        foreign: all.saturating_sub(known),
    }
}

/// A KMS provider's name is `<N>_<resource>`, a key's is N.
fn key_number(name: &str) -> &str {
    name.split_once('_').map_or(name, |(number, _)| number)
}

fn names(provider: &ProviderSpec) -> Vec<String> {
    match provider {
        ProviderSpec::AesCbc(keys) | ProviderSpec::AesGcm(keys) | ProviderSpec::Secretbox(keys) => {
            keys.iter().map(|key| key.name.clone()).collect()
        }
        ProviderSpec::Kms(kms) => vec![key_number(&kms.name).to_owned()],
        ProviderSpec::Identity => Vec::new(),
    }
}

fn word(provider: &ProviderSpec) -> &'static str {
    match provider {
        ProviderSpec::Identity => "identity",
        ProviderSpec::AesCbc(_) => "aescbc",
        ProviderSpec::AesGcm(_) => "aesgcm",
        ProviderSpec::Secretbox(_) => "secretbox",
        ProviderSpec::Kms(_) => "kms",
    }
}

fn role(providers: &[ProviderSpec], number: &str) -> Role {
    let has = |provider: &&ProviderSpec| names(provider).iter().any(|name| name == number);
    let real = providers.iter().position(|provider| !openshift::is_placeholder(provider) && has(&provider));
    let writer = providers.first().and_then(|first| names(first).into_iter().next());
    match real {
        Some(0) if writer.as_deref() == Some(number) => Role::Write,
        Some(_) => Role::Read,
        None if providers.iter().any(|provider| has(&provider)) => Role::Placeholder,
        None => Role::Unused,
    }
}

fn judge(component: &Component, remarks: &mut Vec<Remark>) {
    let name = &component.name;
    if component.config.is_none() {
        // OpenShift 4 has a Secret for each key, 3.x none.
        let file = match component.keys.iter().any(|key| key.secret.is_some()) {
            true => "the backup's static_kuberesources_*.tar.gz",
            false => {
                "the backup's static_kuberesources_*.tar.gz, or of OpenShift 3 the file that master-config.yaml names"
            }
        };
        let text = format!("{name}: its configuration is not known; give {file} with -c");
        remarks.push(Remark::new(Weight::Warning, "status.no-configuration", text));
        return;
    }
    for key in component.keys.iter().filter(|key| key.entries > 0) {
        if matches!(key.role, Role::Unused | Role::Placeholder) {
            let values = values(key.entries);
            let text = format!("{name}: {values} on key {}, which its configuration does not have", key.number);
            remarks.push(Remark::new(Weight::Error, "status.removed-key", text));
        }
    }
    if component.foreign > 0 {
        let text = format!("{name}: {} on keys that nobody knows", values(component.foreign));
        remarks.push(Remark::new(Weight::Error, "status.unknown-key", text));
    }
    let Some(write) = component.keys.iter().find(|key| key.role == Role::Write) else {
        let sealed: u64 = component.keys.iter().map(|key| key.entries).sum();
        if sealed > 0 {
            let text = format!("{name}: writes plaintext now, and {} still encrypted", values(sealed));
            remarks.push(Remark::new(Weight::Note, "status.decrypting", text));
        }
        return;
    };
    let elsewhere = component.plaintext + component.keys.iter().map(|key| key.entries).sum::<u64>() - write.entries;
    let migrated = write.secret.as_ref().and_then(|secret| secret.said.as_ref()).and_then(|said| said.migrated.clone());
    match (migrated, write.secret.as_ref().is_some_and(|secret| secret.said.is_some())) {
        (Some(stamp), _) if elsewhere > 0 => {
            let text = format!(
                "{name}: key {} says that everything was migrated at {stamp}, but {} not on it",
                write.number,
                values(elsewhere)
            );
            remarks.push(Remark::new(Weight::Error, "status.not-rewritten", text));
        }
        (None, true) => {
            let left = match elsewhere {
                0 => "all values are on it, and the operator has not noted that yet".to_owned(),
                _ => format!("{} not on it yet", values(elsewhere)),
            };
            let text = format!("{name}: the migration to key {} is not finished; {left}", write.number);
            remarks.push(Remark::new(Weight::Warning, "status.unfinished", text));
        }
        (None, false) if elsewhere > 0 => {
            let text = format!("{name}: {} not on key {}, which writes", values(elsewhere), write.number);
            remarks.push(Remark::new(Weight::Warning, "status.unfinished", text));
        }
        _ => {}
    }
}

fn values(count: u64) -> String {
    if count == 1 { "1 value is".to_owned() } else { format!("{count} values are") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Entry;
    use crate::distro::openshift::KeySaid;
    use crate::provider::secret::SecretKey;
    use crate::provider::spec::NamedKey;

    fn cbc(name: &str) -> ProviderSpec {
        ProviderSpec::AesCbc(vec![NamedKey { name: name.to_owned(), secret: SecretKey::new(vec![7; 32]) }])
    }

    fn fake(name: &str) -> ProviderSpec {
        ProviderSpec::AesGcm(vec![NamedKey { name: name.to_owned(), secret: SecretKey::new(vec![0; 16]) }])
    }

    fn secret(number: u64, migrated: Option<&str>) -> KeySecret {
        let said = KeySaid {
            mode: "aescbc".to_owned(),
            created: None,
            migrated: migrated.map(str::to_owned),
            migrated_resources: Vec::new(),
            reason: None,
            secret: SecretKey::new(vec![7; 32]),
        };
        KeySecret { component: "openshift-apiserver".to_owned(), number, said: Some(said) }
    }

    fn on(key: &str, entries: u64) -> Use {
        Use {
            resource: GroupResource::new("route.openshift.io", "routes"),
            provider: if key.is_empty() { "identity" } else { "aescbc" }.to_owned(),
            key_name: key.to_owned(),
            entries,
            unreadable: 0,
        }
    }

    fn judged(providers: Vec<ProviderSpec>, keys: Vec<KeySecret>, uses: &[Use]) -> (Component, Vec<&'static str>) {
        let resources = vec![GroupResource::new("route.openshift.io", "routes")];
        let entry = Entry { resources, providers };
        let configuration = Configuration { sha256: [0; 32], entries: vec![entry], lints: Vec::new() };
        let kept = Kept { keys, ..Kept::default() };
        let configured = [(ApiServer::OpenShift, ("x".to_owned(), &configuration))];
        let (mut components, remarks) = components(&kept, &configured, uses);
        (components.pop().expect("a component"), remarks.iter().map(|remark| remark.id).collect())
    }

    #[test]
    fn keys_are_told_by_what_the_configuration_does_with_them() {
        let providers = vec![cbc("4"), cbc("3"), ProviderSpec::Identity, fake("1")];
        let stamp = Some("2026-11-12T04:05:06Z");
        let keys = vec![secret(1, None), secret(2, stamp), secret(3, stamp), secret(4, stamp)];
        let (component, ids) = judged(providers, keys, &[on("4", 8)]);
        let roles: Vec<_> = component
            .keys
            .iter()
            .map(|key| (key.number.as_str(), key.role.word(), key.entries, key.prunable))
            .collect();
        let expected = [
            ("4", "write", 8, false),
            ("3", "read", 0, false),
            ("2", "unused", 0, true),
            ("1", "placeholder", 0, false),
        ];
        assert_eq!((roles.as_slice(), ids.len(), component.mode), (&expected[..], 0, "aescbc"));
    }

    #[test]
    fn without_secrets_what_is_not_on_the_writing_key_is_told() {
        let providers = || vec![cbc("key2"), cbc("key1"), ProviderSpec::Identity];
        let (component, ids) = judged(providers(), Vec::new(), &[on("key2", 7), on("key1", 1), on("", 2)]);
        assert_eq!((ids, component.plaintext), (vec!["status.unfinished"], 2));
        assert_eq!(judged(providers(), Vec::new(), &[on("key2", 7)]).1.len(), 0);
    }

    #[test]
    fn what_a_secret_says_is_held_against_the_values() {
        let providers = || vec![cbc("2"), cbc("1"), ProviderSpec::Identity];
        let stamp = Some("2026-11-12T04:05:06Z");
        let (_, ids) = judged(providers(), vec![secret(1, stamp), secret(2, stamp)], &[on("2", 7), on("1", 1)]);
        assert_eq!(ids, ["status.not-rewritten"]);
        let (_, ids) = judged(providers(), vec![secret(1, stamp), secret(2, None)], &[on("1", 8)]);
        assert_eq!(ids, ["status.unfinished"]);
        let (component, ids) = judged(providers(), vec![secret(1, stamp), secret(2, stamp)], &[on("2", 1), on("9", 3)]);
        assert_eq!((ids, component.foreign), (vec!["status.unknown-key"], 3));
        let (_, ids) =
            judged(vec![cbc("2"), ProviderSpec::Identity], vec![secret(1, stamp), secret(2, stamp)], &[on("1", 2)]);
        assert_eq!(ids, ["status.removed-key", "status.not-rewritten"]);
        let (_, ids) = judged(vec![ProviderSpec::Identity, cbc("1")], vec![secret(1, stamp)], &[on("1", 2), on("", 1)]);
        assert_eq!(ids, ["status.decrypting"]);
    }
}
