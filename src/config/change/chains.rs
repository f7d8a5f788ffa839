//! What a change promises for every resource, and whether a file keeps it.

use std::collections::BTreeMap;

use crate::kube::resource::GroupResource;
use crate::provider::spec::{KmsSpec, NamedKey, ProviderSpec};

use super::super::Configuration;
use super::find::own_keys;
use super::fresh::{Item, KeyKind};
use super::plan::{Plan, Slot};
use super::{Stage, Step};

/// One thing that opens values.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Opener {
    Identity,
    Key(KeyKind, NamedKey),
    Kms(KmsSpec),
}

type Chains = BTreeMap<GroupResource, Vec<Opener>>;

/// What must hold of the changed file.
pub(super) struct Promise {
    before: Chains,
    stage: Stage,
    /// What may be readable that was not.
    added: Vec<Opener>,
    /// The labels of what may write from now on.
    promoted: Vec<String>,
}

impl Promise {
    /// What a plan for a file promises.
    pub(super) fn new(before: &Configuration, plan: &Plan, stage: Stage) -> Self {
        let slots = plan.providers.values().chain(plan.keys.values()).flatten();
        let items = slots.filter_map(|slot| match slot {
            Slot::New(item) => Some(item),
            Slot::Old(_) => None,
        });
        // A key alone is added to a provider whose kind the plan's place tells; it opens what its own kind seals.
        let kind_of = |place: &(usize, usize)| {
            let provider = before.entries.get(place.0)?.providers.get(place.1)?;
            own_keys(provider).map(|(kind, _)| kind)
        };
        let mut added: Vec<_> = items
            .filter_map(|item| match item {
                Item::Identity => Some(Opener::Identity),
                Item::Provider(kind, key) => Some(Opener::Key(*kind, key.clone())),
                Item::Key(_) => None,
            })
            .collect();
        for (place, slots) in &plan.keys {
            for slot in slots {
                if let (Slot::New(Item::Key(key)), Some(kind)) = (slot, kind_of(place)) {
                    added.push(Opener::Key(kind, key.clone()));
                }
            }
        }
        let promoted = plan.steps.iter().filter_map(|step| match step {
            Step::Promoted { key, .. } => Some(key.clone()),
            _ => None,
        });
        Self { before: chains(before), stage, added, promoted: promoted.collect() }
    }

    /// Whether the changed file reads and writes as it should; the reason if not.
    pub(super) fn kept_by(&self, after: &Configuration) -> Result<(), String> {
        let after = chains(after);
        if !after.keys().eq(self.before.keys()) {
            return Err("it would be about other resources".to_owned());
        }
        for ((resource, before), after) in self.before.iter().zip(after.values()) {
            let fault = |what: &str| Err(format!("{resource}: {what}"));
            let (writes, wrote) = (after.first(), before.first());
            if writes != wrote && !writes.is_some_and(|writes| self.promoted.contains(&writes.label())) {
                return fault("another key would write");
            }
            if self.stage != Stage::Promote && writes != wrote {
                return fault("another key would write already");
            }
            if self.stage != Stage::Prune && !before.iter().all(|opener| after.contains(opener)) {
                return fault("something that can be read now could not be read any more");
            }
            if !after.iter().all(|opener| before.contains(opener) || self.added.contains(opener)) {
                return fault("something could be read that was not meant");
            }
        }
        Ok(())
    }
}

impl Opener {
    fn label(&self) -> String {
        match self {
            Self::Identity => "identity".to_owned(),
            Self::Key(kind, key) => format!("{}/{}", kind.as_str(), key.name),
            Self::Kms(kms) => format!("kms/{}", kms.name),
        }
    }
}

/// For every resource that a file names, what opens its values, in order: of all entries that name it.
fn chains(configuration: &Configuration) -> Chains {
    let mut chains = Chains::new();
    for entry in &configuration.entries {
        let openers: Vec<_> = entry.providers.iter().flat_map(openers).collect();
        for resource in &entry.resources {
            chains.entry(resource.clone()).or_default().extend(openers.iter().cloned());
        }
    }
    chains
}

fn openers(provider: &ProviderSpec) -> Vec<Opener> {
    match (provider, own_keys(provider)) {
        (ProviderSpec::Kms(kms), _) => vec![Opener::Kms(kms.clone())],
        (_, Some((kind, keys))) => keys.iter().map(|key| Opener::Key(kind, key.clone())).collect(),
        _ => vec![Opener::Identity],
    }
}
