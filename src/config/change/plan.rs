//! What becomes of each list of a configuration, stage by stage.
//!
//! A plan speaks in positions of the file as it was. It changes three kinds of list: the keys of a provider, the providers
//! of an entry, and the entries. *Writing entries* are those that come first for one of their resources: theirs is the
//! provider that writes. The providers of later entries for the same resource only read.

use std::collections::{BTreeMap, HashSet};

use crate::provider::spec::{KmsSpec, KmsVersion, NamedKey, ProviderSpec};

use super::super::Entry;
use super::find::{Found, first_key, label, named, newer, own_keys, prepared};
use super::fresh::{Item, KeyKind, fresh_key, next_name, overlaps, valid_name};
use super::{Change, ChangeError, Note, Stage, Step};

/// What stands at a place of a changed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// What stood at this place.
    Old(usize),
    /// Something new.
    New(Item),
}

/// What becomes of the lists that change; the others are not in it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The file's entries.
    pub entries: Option<Vec<Slot>>,
    /// An entry's providers.
    pub providers: BTreeMap<usize, Vec<Slot>>,
    /// A provider's keys, by entry and provider.
    pub keys: BTreeMap<(usize, usize), Vec<Slot>>,
    /// What is done.
    pub steps: Vec<Step>,
    /// What is not.
    pub notes: Vec<Note>,
}

/// Plans a stage of a change.
pub(super) fn plan(entries: &[Entry], change: &Change, stage: Stage) -> Result<Plan, ChangeError> {
    let mut planner = Planner { entries, writing: writing(entries), plan: Plan::default(), made: Vec::new() };
    match (change, stage) {
        (Change::Rotate { provider, name, keys }, Stage::Prepare) => {
            planner.rotate_prepare(*provider, name.as_deref(), keys)?;
        }
        (Change::Rotate { provider, name, keys }, Stage::Promote) => {
            planner.rotate_promote(*provider, name.as_deref(), keys)?;
        }
        (Change::Rotate { keys, .. }, Stage::Prune) => planner.rotate_prune(keys)?,
        (Change::Enable { provider, name, resources }, _) => {
            let chosen = planner.choose(resources, stage)?;
            match stage {
                Stage::Prepare => planner.enable_prepare(*provider, name.as_deref(), &chosen)?,
                Stage::Promote => planner.enable_promote(*provider, name.as_deref(), &chosen)?,
                Stage::Prune => planner.enable_prune(&chosen),
            }
        }
        (Change::Disable, Stage::Prepare) => planner.disable_prepare(),
        (Change::Disable, Stage::Promote) => planner.disable_promote(),
        (Change::Disable, Stage::Prune) => planner.disable_prune(),
    }
    planner.finish(change, stage)
}

/// The entries that come first for a resource.
fn writing(entries: &[Entry]) -> Vec<bool> {
    let mut seen = HashSet::new();
    // Every name counts as seen, so the whole list is gone through.
    entries.iter().map(|entry| entry.resources.iter().filter(|name| seen.insert(*name)).count() > 0).collect()
}

fn kms_label(kms: &KmsSpec) -> String {
    format!("kms/{}", kms.name)
}

/// What a provider writes with.
fn writer(provider: &ProviderSpec) -> String {
    match provider {
        ProviderSpec::Identity => "identity".to_owned(),
        ProviderSpec::Kms(kms) => kms_label(kms),
        other => own_keys(other).and_then(|(kind, keys)| Some(label(kind, keys.first()?))).unwrap_or_default(),
    }
}

fn old(count: usize) -> impl Iterator<Item = Slot> {
    (0..count).map(Slot::Old)
}

/// All that stood there, with something new at a place.
fn with_new(count: usize, at: usize, item: Item) -> Vec<Slot> {
    let mut slots: Vec<_> = old(count).collect();
    slots.insert(at.min(count), Slot::New(item));
    slots
}

/// All that stood there, one of them first.
fn with_first(count: usize, first: usize) -> Vec<Slot> {
    std::iter::once(Slot::Old(first)).chain(old(count).filter(|slot| *slot != Slot::Old(first))).collect()
}

/// A new key, and the key that it comes after, of entries that write with the same one.
struct Made {
    old: ProviderSpec,
    kind: KeyKind,
    new: NamedKey,
}

struct Planner<'e> {
    entries: &'e [Entry],
    writing: Vec<bool>,
    plan: Plan,
    made: Vec<Made>,
}

impl<'e> Planner<'e> {
    /// The writing entries with what they write with.
    fn writers(&self) -> Vec<(usize, &'e Entry, &'e ProviderSpec)> {
        let writing = self.writing.clone();
        let writes = move |at: &usize| writing.get(*at) == Some(&true);
        let entries = self.entries.iter().enumerate().filter(move |(at, _)| writes(at));
        entries.filter_map(|(at, entry)| Some((at, entry, entry.providers.first()?))).collect()
    }

    fn step(&mut self, step: Step) {
        if !self.plan.steps.contains(&step) {
            self.plan.steps.push(step);
        }
    }

    fn note(&mut self, note: Note) {
        if !self.plan.notes.contains(&note) {
            self.plan.notes.push(note);
        }
    }

    fn note_kms(&mut self, kms: &KmsSpec) {
        self.note(Note::WritesWithKms { name: kms.name.clone(), is_v1: kms.version == KmsVersion::V1 });
    }

    /// The names of all keys and KMS providers, the new ones too.
    fn taken(&self) -> Vec<String> {
        let mut names: Vec<String> = self.made.iter().map(|made| made.new.name.clone()).collect();
        for provider in self.entries.iter().flat_map(|entry| &entry.providers) {
            match provider {
                ProviderSpec::Kms(kms) => names.push(kms.name.clone()),
                other => names.extend(own_keys(other).into_iter().flat_map(|(_, keys)| keys).map(|k| k.name.clone())),
            }
        }
        names
    }

    /// The new key for entries that write like this; the same for all of them, another for others.
    fn made_for(&mut self, old: &ProviderSpec, kind: KeyKind, name: Option<&str>) -> Result<NamedKey, ChangeError> {
        let alike = |made: &&Made| made.kind == kind && writes_alike(&made.old, old);
        if let Some(made) = self.made.iter().find(alike) {
            return Ok(made.new.clone());
        }
        let taken = self.taken();
        let name = match name {
            Some(name) => {
                valid_name(name)?;
                let clash = taken.iter().find(|taken| overlaps(name, taken));
                if clash.is_some() && self.made.is_empty() {
                    let why = "the file has it already, or a name that begins with it and a ':'";
                    return Err(ChangeError::BadName(name.to_owned(), why));
                }
                name.to_owned()
            }
            None => {
                let old = own_keys(old).and_then(|(_, keys)| keys.first()).map_or("", |key| &key.name);
                next_name(old, &taken)
            }
        };
        let new = fresh_key(name)?;
        self.made.push(Made { old: old.clone(), kind, new: new.clone() });
        Ok(new)
    }

    fn check_one_name(&self, name: Option<&str>) -> Result<(), ChangeError> {
        match name {
            Some(_) if self.made.len() > 1 => Err(ChangeError::NameForSeveral(self.made.len())),
            _ => Ok(()),
        }
    }

    /// Leaves the entries that `keys` does not mean, and says why others are left.
    fn rotates(&mut self, first: &ProviderSpec, keys: &[String], with_kms: bool) -> bool {
        match first {
            ProviderSpec::Identity => {
                self.note(Note::WritesPlaintext);
                false
            }
            ProviderSpec::Kms(kms) if !with_kms => {
                self.note_kms(kms);
                false
            }
            ProviderSpec::Kms(kms) => keys.is_empty() || keys.contains(&kms.name),
            other => {
                keys.is_empty() || own_keys(other).is_some_and(|(_, own)| own.first().is_some_and(|k| meant(k, keys)))
            }
        }
    }

    fn rotate_prepare(
        &mut self,
        provider: Option<KeyKind>,
        name: Option<&str>,
        keys: &[String],
    ) -> Result<(), ChangeError> {
        for (at, entry, first) in self.writers() {
            if !self.rotates(first, keys, provider.is_some()) {
                continue;
            }
            let own = own_keys(first);
            let Some(kind) = provider.or(own.map(|(kind, _)| kind)) else { continue };
            let new = self.made_for(first, kind, name)?;
            self.step(Step::Added { key: label(kind, &new), writer: writer(first) });
            match own {
                Some((same, keys)) if same == kind => {
                    self.plan.keys.insert((at, 0), with_new(keys.len(), 1, Item::Key(new)));
                }
                _ => {
                    let slots = with_new(entry.providers.len(), 1, Item::Provider(kind, new));
                    self.plan.providers.insert(at, slots);
                }
            }
        }
        self.check_one_name(name)
    }

    fn rotate_promote(
        &mut self,
        provider: Option<KeyKind>,
        name: Option<&str>,
        keys: &[String],
    ) -> Result<(), ChangeError> {
        let mut missing = name;
        for (at, entry, first) in self.writers() {
            if !self.rotates(first, keys, provider.is_some() || name.is_some()) {
                continue;
            }
            let candidate = match name {
                Some(name) => named(entry, name, provider),
                None => prepared(entry, first, provider)?,
            };
            let Some(found) = candidate else { continue };
            missing = None;
            let key = label(found.kind, found.named);
            if found.provider == 0 && found.key == 0 {
                self.note(Note::WritesAlready { key });
                continue;
            }
            self.step(Step::Promoted { key, instead_of: writer(first), is_new: false });
            self.put_first(at, entry, found);
        }
        missing.map_or(Ok(()), |name| Err(ChangeError::UnknownName(name.to_owned())))
    }

    /// Makes a key the one that writes.
    fn put_first(&mut self, at: usize, entry: &Entry, found: Found<'_>) {
        let keys = entry.providers.get(found.provider).and_then(own_keys).map_or(0, |(_, keys)| keys.len());
        if found.key > 0 {
            self.plan.keys.insert((at, found.provider), with_first(keys, found.key));
        }
        if found.provider > 0 {
            self.plan.providers.insert(at, with_first(entry.providers.len(), found.provider));
        }
    }

    fn rotate_prune(&mut self, keys: &[String]) -> Result<(), ChangeError> {
        let mut kept_entries = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let is_writing = self.writing.get(at) == Some(&true);
            let plaintext = entry.providers.first() == Some(&ProviderSpec::Identity);
            if is_writing && plaintext {
                if entry.providers.len() > 1 {
                    self.note(Note::WritesPlaintext);
                }
                kept_entries.push(at);
                continue;
            }
            if let Some(error) = newer(entry).filter(|_| is_writing && keys.is_empty()) {
                return Err(error);
            }
            if self.prune_entry(at, entry, is_writing, keys) {
                kept_entries.push(at);
            }
        }
        self.keep_entries(&kept_entries);
        let removed = |key: &&String| {
            let bare = |label: &str| label.split_once('/').is_some_and(|(_, name)| name == key.as_str());
            !self
                .plan
                .steps
                .iter()
                .any(|step| matches!(step, Step::Removed { key: label } if label == *key || bare(label)))
        };
        keys.iter().find(removed).map_or(Ok(()), |name| Err(ChangeError::UnknownName(name.clone())))
    }

    /// Takes out of an entry what only reads. False if nothing of it stays.
    fn prune_entry(&mut self, at: usize, entry: &Entry, is_writing: bool, keys: &[String]) -> bool {
        let mut kept = Vec::new();
        for (number, provider) in entry.providers.iter().enumerate() {
            let writes = is_writing && number == 0;
            match (provider, own_keys(provider)) {
                (_, Some((kind, own))) => {
                    let stays = |place: usize, key: &NamedKey| {
                        writes && place == 0 || !keys.is_empty() && !meant_label(&label(kind, key), keys)
                    };
                    let (stay, go): (Vec<_>, Vec<_>) = own.iter().enumerate().partition(|(p, key)| stays(*p, key));
                    go.iter().for_each(|(_, key)| self.step(Step::Removed { key: label(kind, key) }));
                    if !stay.is_empty() {
                        kept.push(number);
                        if !go.is_empty() {
                            let slots = stay.iter().map(|(place, _)| Slot::Old(*place)).collect();
                            self.plan.keys.insert((at, number), slots);
                        }
                    }
                }
                (ProviderSpec::Kms(kms), _) if !writes && (keys.is_empty() || meant_label(&kms_label(kms), keys)) => {
                    self.step(Step::Removed { key: kms_label(kms) });
                }
                _ => kept.push(number),
            }
        }
        if kept.len() < entry.providers.len() && !kept.is_empty() {
            self.plan.providers.insert(at, kept.iter().map(|number| Slot::Old(*number)).collect());
        }
        !kept.is_empty()
    }

    fn keep_entries(&mut self, kept: &[usize]) {
        if kept.len() < self.entries.len() {
            self.plan.entries = Some(kept.iter().map(|at| Slot::Old(*at)).collect());
        }
    }

    /// The entries that `enable` is about.
    fn choose(
        &self,
        resources: &[crate::kube::resource::GroupResource],
        stage: Stage,
    ) -> Result<Vec<(usize, &'e Entry)>, ChangeError> {
        let known = |resource: &_| self.entries.iter().any(|entry| entry.resources.contains(resource));
        if let Some(unknown) = resources.iter().find(|resource| !known(resource)) {
            return Err(ChangeError::UnknownResource(unknown.clone()));
        }
        let plaintext = |first: &ProviderSpec| *first == ProviderSpec::Identity;
        let writers = self.writers();
        let is_mixed = writers.iter().any(|(_, _, first)| !plaintext(first))
            && writers.iter().any(|(_, _, first)| plaintext(first));
        if resources.is_empty() && is_mixed && stage != Stage::Prune {
            return Err(ChangeError::WhichResources);
        }
        let wanted =
            |entry: &Entry| resources.is_empty() || entry.resources.iter().any(|resource| resources.contains(resource));
        let right = |first: &ProviderSpec| plaintext(first) != (stage == Stage::Prune);
        let chosen = writers.into_iter().filter(|(_, entry, first)| wanted(entry) && right(first));
        Ok(chosen.map(|(at, entry, _)| (at, entry)).collect())
    }

    fn enable_prepare(
        &mut self,
        kind: KeyKind,
        name: Option<&str>,
        chosen: &[(usize, &Entry)],
    ) -> Result<(), ChangeError> {
        for (at, entry) in chosen {
            let new = self.made_for(&ProviderSpec::Identity, kind, name)?;
            self.step(Step::Added { key: label(kind, &new), writer: "identity".to_owned() });
            self.plan.providers.insert(*at, with_new(entry.providers.len(), 1, Item::Provider(kind, new)));
        }
        Ok(())
    }

    /// What was prepared goes first and plaintext last; what was not is made now.
    fn enable_promote(
        &mut self,
        kind: KeyKind,
        name: Option<&str>,
        chosen: &[(usize, &'e Entry)],
    ) -> Result<(), ChangeError> {
        for (at, entry) in chosen {
            let found = match name {
                Some(name) => named(entry, name, None),
                None => entry.providers.get(1).and_then(|next| first_key(1, next)),
            };
            let count = entry.providers.len();
            let mut slots = match found {
                Some(found) => {
                    let key = label(found.kind, found.named);
                    self.step(Step::Promoted { key, instead_of: "identity".to_owned(), is_new: false });
                    self.put_first(*at, entry, found);
                    with_first(count, found.provider)
                }
                None => {
                    let new = self.made_for(&ProviderSpec::Identity, kind, name)?;
                    let key = label(kind, &new);
                    self.step(Step::Promoted { key, instead_of: "identity".to_owned(), is_new: true });
                    with_new(count, 0, Item::Provider(kind, new))
                }
            };
            // The first plaintext provider wrote; where it stands now matters only to people, who look for it at the end.
            slots.retain(|slot| *slot != Slot::Old(0));
            slots.push(Slot::Old(0));
            self.plan.providers.insert(*at, slots);
        }
        Ok(())
    }

    fn enable_prune(&mut self, chosen: &[(usize, &Entry)]) {
        for (at, entry) in chosen {
            let sealed = |(_, provider): &(usize, &ProviderSpec)| **provider != ProviderSpec::Identity;
            let kept: Vec<_> = entry.providers.iter().enumerate().filter(sealed).map(|(n, _)| Slot::Old(n)).collect();
            if kept.len() < entry.providers.len() {
                self.step(Step::Removed { key: "identity".to_owned() });
                self.plan.providers.insert(*at, kept);
            }
        }
    }

    fn disable_prepare(&mut self) {
        for (at, entry, _) in self.writers() {
            if !entry.providers.contains(&ProviderSpec::Identity) {
                let count = entry.providers.len();
                self.step(Step::PlaintextReadable);
                self.plan.providers.insert(at, with_new(count, count, Item::Identity));
            }
        }
    }

    fn disable_promote(&mut self) {
        for (at, entry, first) in self.writers() {
            let plaintext = entry.providers.iter().position(|provider| *provider == ProviderSpec::Identity);
            let slots = match plaintext {
                Some(0) => continue,
                Some(place) => with_first(entry.providers.len(), place),
                None => with_new(entry.providers.len(), 0, Item::Identity),
            };
            let is_new = plaintext.is_none();
            self.step(Step::Promoted { key: "identity".to_owned(), instead_of: writer(first), is_new });
            self.plan.providers.insert(at, slots);
        }
    }

    /// Where plaintext is written, nothing else is read any more; later entries that only read go, too.
    fn disable_prune(&mut self) {
        let mut kept_entries = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let is_plain = |provider: &&ProviderSpec| **provider == ProviderSpec::Identity;
            let writes = self.writing.get(at) == Some(&true);
            let first_is_plain = entry.providers.first().is_some_and(|first| is_plain(&first));
            if writes && !first_is_plain {
                if let Some(key) = entry.providers.first().map(writer) {
                    self.note(Note::WritesAlready { key });
                }
                kept_entries.push(at);
                continue;
            }
            let numbers = entry.providers.iter().enumerate();
            let kept: Vec<_> = numbers.filter(|(_, p)| is_plain(p)).map(|(number, _)| Slot::Old(number)).collect();
            for provider in entry.providers.iter().filter(|provider| !is_plain(provider)) {
                self.removed_whole(provider);
            }
            if kept.is_empty() {
                continue;
            }
            kept_entries.push(at);
            if kept.len() < entry.providers.len() {
                self.plan.providers.insert(at, kept);
            }
        }
        self.keep_entries(&kept_entries);
    }

    fn removed_whole(&mut self, provider: &ProviderSpec) {
        match (provider, own_keys(provider)) {
            (ProviderSpec::Kms(kms), _) => self.step(Step::Removed { key: kms_label(kms) }),
            (_, Some((kind, keys))) => {
                keys.iter().for_each(|key| self.step(Step::Removed { key: label(kind, key) }));
            }
            _ => {}
        }
    }

    fn finish(self, change: &Change, stage: Stage) -> Result<Plan, ChangeError> {
        if !self.plan.steps.is_empty() {
            return Ok(self.plan);
        }
        let message = match (change, stage) {
            (Change::Rotate { .. }, Stage::Prepare) => "there is no key in it to rotate",
            (Change::Rotate { .. }, Stage::Promote) => "no prepared key stands behind one that writes",
            (Change::Rotate { .. }, Stage::Prune) => "there is no old key in it",
            (Change::Enable { .. }, Stage::Prune) => "nothing that encrypts reads plaintext beside it",
            (Change::Enable { .. }, _) => "nothing in it writes plaintext",
            (Change::Disable, Stage::Prepare) => "plaintext can be read everywhere in it",
            (Change::Disable, Stage::Promote) => "nothing in it encrypts",
            (Change::Disable, Stage::Prune) => "there is no key in it that only reads",
        };
        Err(ChangeError::Nothing(message, self.plan.notes))
    }
}

fn writes_alike(one: &ProviderSpec, other: &ProviderSpec) -> bool {
    match (own_keys(one), own_keys(other)) {
        (Some((kind, keys)), Some((other_kind, others))) => kind == other_kind && keys.first() == others.first(),
        (None, None) => one == other,
        _ => false,
    }
}

/// Whether the user means a key, by its name.
fn meant(key: &NamedKey, keys: &[String]) -> bool {
    keys.contains(&key.name)
}

/// Whether the user means what bears this label, by its name or as `provider/name`.
fn meant_label(label: &str, keys: &[String]) -> bool {
    keys.iter().any(|key| key == label || label.split_once('/').is_some_and(|(_, name)| name == key))
}
