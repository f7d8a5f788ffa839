//! The keys of a store: those that its values name or open by, and those of the configurations.

use std::collections::{BTreeMap, BTreeSet};

use crate::provider::prefix::SealedKind;
use crate::provider::spec::{KmsVersion, NamedKey, ProviderSpec};

use super::class::{Class, Table};
use super::rules::{Rules, static_keys};
use super::summary::{Count, Parts};
use super::writes::Writes;

/// A key that the data names or a configuration has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Which key.
    pub id: KeyId,
    /// Whether a configuration has it.
    pub in_config: bool,
    /// The resources, as the configuration names them, that are written with it now.
    pub write_key_for: Vec<String>,
    /// Entries that name it or open by it, and older revisions likewise.
    pub count: Count,
    /// The oldest and newest main revision of those records.
    pub revisions: Option<(i64, i64)>,
    /// How often it was used; only of keys of aesgcm, which wear out.
    pub writes: Option<Writes>,
}

impl KeyRow {
    /// For how many revisions of the store values have been on it, at `revision`: the data tell no time.
    pub fn age(&self, revision: i64) -> Option<i64> {
        self.revisions.map(|(oldest, _)| revision.saturating_sub(oldest))
    }

    /// Whether an entry would be lost with it.
    pub fn needed(&self) -> bool {
        self.count.entries > 0
    }
}

/// What tells keys apart. Rows come in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    /// `aescbc`, `aesgcm`, `secretbox` or `kms`.
    pub provider: &'static str,
    /// `v1` or `v2`.
    pub provider_version: &'static str,
    /// The key's or KMS provider's name.
    pub key_name: String,
    /// KMS v2's key id.
    pub kms_key_id: String,
    /// Of the secret; empty where no value opened by it and no configuration has it.
    pub fingerprint: String,
}

impl KeyId {
    /// The key that a class's values are on, if they are encrypted.
    pub(super) fn of(class: &Class, table: &Table, rules: &Rules) -> Option<Self> {
        let kind = class.kind?;
        let secret = class.opened_by.and_then(|key| rules.named_key(key)).map(|key| key.secret.fingerprint());
        Some(Self {
            provider: kind.provider(),
            provider_version: kind.version(),
            key_name: table.name_of(class.key_name).into_owned(),
            kms_key_id: table.name_of(class.kms_key_id).into_owned(),
            fingerprint: secret.unwrap_or_default(),
        })
    }
}

/// A key's row while it is added up.
#[derive(Default)]
struct KeyTally {
    in_config: bool,
    write_key_for: BTreeSet<String>,
    count: Count,
    revisions: Option<(i64, i64)>,
}

/// The rows of all keys, in order.
pub(super) fn keys(parts: &Parts<'_>) -> Vec<KeyRow> {
    let mut rows: BTreeMap<KeyId, KeyTally> = BTreeMap::new();
    for (number, class, count) in parts.numbered().filter(|(_, _, count)| *count != Count::default()) {
        let Some(id) = KeyId::of(class, parts.table, parts.rules) else { continue };
        let row = rows.entry(id).or_default();
        row.count += count;
        row.revisions = match (row.revisions, parts.revisions.get(&number).copied()) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
    }
    configured_keys(parts.rules, &mut rows);
    let row = |(id, tally): (KeyId, KeyTally)| KeyRow {
        writes: (id.provider == SealedKind::AesGcm.provider()).then(|| Writes {
            at_least: tally.count.total(),
            at_most: parts.versions.get(&id).copied().unwrap_or(0).max(tally.count.total()),
        }),
        id,
        in_config: tally.in_config,
        write_key_for: tally.write_key_for.into_iter().collect(),
        count: tally.count,
        revisions: tally.revisions,
    };
    rows.into_iter().map(row).collect()
}

/// Marks the rows of configured keys, and adds those that no data names.
fn configured_keys(rules: &Rules, rows: &mut BTreeMap<KeyId, KeyTally>) {
    for (file, _) in rules.files().enumerate() {
        for (resource, specs) in rules.rules_of(file) {
            for (provider, spec) in specs.iter().enumerate() {
                for (place, id) in key_ids(spec).into_iter().enumerate() {
                    let writes = provider == 0 && place == 0;
                    configure(rows, &id, writes.then(|| resource.to_string()));
                }
            }
        }
    }
}

fn configure(rows: &mut BTreeMap<KeyId, KeyTally>, id: &KeyId, writes: Option<String>) {
    let same_name = |other: &KeyId| {
        (other.provider, other.provider_version, &other.key_name) == (id.provider, id.provider_version, &id.key_name)
    };
    let mark = |row: &mut KeyTally| {
        row.in_config = true;
        row.write_key_for.extend(writes.clone());
    };
    // A KMS provider's row has the key ids of its values, which no configuration knows.
    if id.provider == "kms" {
        let mut found = false;
        for (_, row) in rows.iter_mut().filter(|(other, _)| same_name(other)) {
            mark(row);
            found = true;
        }
        if found {
            return;
        }
    }
    mark(rows.entry(id.clone()).or_default());
    // Values that bear a configured name without opening by it are a row of their own, whose name is configured.
    for (other, row) in rows.iter_mut().filter(|(other, _)| same_name(other)) {
        row.in_config |= other.fingerprint.is_empty();
    }
}

/// The keys of a provider as rows tell them apart.
fn key_ids(spec: &ProviderSpec) -> Vec<KeyId> {
    let (provider, provider_version) = match spec {
        ProviderSpec::Identity => return Vec::new(),
        ProviderSpec::AesCbc(_) => ("aescbc", "v1"),
        ProviderSpec::AesGcm(_) => ("aesgcm", "v1"),
        ProviderSpec::Secretbox(_) => ("secretbox", "v1"),
        ProviderSpec::Kms(kms) => {
            let provider_version = match kms.version {
                KmsVersion::V1 => "v1",
                KmsVersion::V2 => "v2",
            };
            let key_name = kms.name.clone();
            return vec![KeyId { provider: "kms", provider_version, key_name, ..KeyId::default() }];
        }
    };
    let id = |key: &NamedKey| KeyId {
        provider,
        provider_version,
        key_name: key.name.clone(),
        kms_key_id: String::new(),
        fingerprint: key.secret.fingerprint(),
    };
    static_keys(spec).iter().map(id).collect()
}
