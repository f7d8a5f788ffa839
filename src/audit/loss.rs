//! What a change of configuration would lose: values that something opens now that does not open them any more.
//!
//! It goes by what guards each value, so that a key may go in one place and stay in another. A value that opens needs what
//! opened it; one that does not open, perhaps because a plugin was not asked, needs every key that its name may mean.

use std::collections::HashMap;

use crate::kube::key::Roots;

use super::classify::State;
use super::row::Row;
use super::rules::{ChainRef, Guard, KeyRef, Rules};

/// Compares two configurations, value by value.
pub struct Losses<'r> {
    before: &'r Rules,
    after: &'r Rules,
    roots: &'r Roots,
    /// The keys of each chain.
    before_keys: HashMap<ChainRef, Vec<KeyRef>>,
    after_keys: HashMap<ChainRef, Vec<KeyRef>>,
    kept: HashMap<(KeyRef, ChainRef), bool>,
}

impl<'r> Losses<'r> {
    /// Compares `before`, by which rows were judged, with `after`.
    pub fn new(before: &'r Rules, after: &'r Rules, roots: &'r Roots) -> Self {
        let (before_keys, after_keys) = (by_chain(before), by_chain(after));
        Self { before, after, roots, before_keys, after_keys, kept: HashMap::new() }
    }

    /// What a record needs that is not there any more, as `provider/name` or `identity`; none where it stays as it is.
    pub fn of(&mut self, row: &Row<'_>) -> Option<String> {
        let verdict = row.verdict.as_ref()?;
        let address = self.roots.locate(row.key);
        let guard = self.after.guard(&address);
        let needed = match (verdict.opener, row.state) {
            (Some(opener), _) => vec![opener],
            (None, State::Encrypted) => self.named(self.before.guard(&address), verdict.provider.0, &verdict.key_name),
            (None, _) => Vec::new(),
        };
        let lost = needed.into_iter().find(|key| !self.stays(*key, guard))?;
        self.before.label(lost).map(|label| label.to_string())
    }

    /// The keys that the name in a closed value may mean: of that name, or of one that goes on behind a `:`.
    fn named(&self, guard: Guard, provider: &str, name: &str) -> Vec<KeyRef> {
        let means = |key: &&KeyRef| {
            self.before.label(**key).is_some_and(|label| {
                let rest = label.name.strip_prefix(name);
                label.provider == provider && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            })
        };
        match guard {
            Guard::Chain(chain) => self.before_keys.get(&chain).into_iter().flatten().filter(means).copied().collect(),
            Guard::Unsettled => self.before_keys.values().flatten().filter(means).copied().collect(),
            Guard::Nobody => Vec::new(),
        }
    }

    /// Whether a key opens the same values under the new configuration.
    fn stays(&mut self, key: KeyRef, guard: Guard) -> bool {
        match guard {
            Guard::Chain(chain) => self.is_in(key, chain),
            // Which of them it will be can't be told.
            Guard::Unsettled => self.after.candidates().all(|chain| self.is_in(key, chain)),
            Guard::Nobody => true,
        }
    }

    fn is_in(&mut self, key: KeyRef, chain: ChainRef) -> bool {
        if let Some(kept) = self.kept.get(&(key, chain)) {
            return *kept;
        }
        let (label, secret) = (self.before.label(key), self.before.named_key(key));
        let same = |other: &KeyRef| self.after.label(*other) == label && self.after.named_key(*other) == secret;
        let kept = match chain {
            ChainRef::UNLISTED => label.is_some_and(|label| label.provider == "identity"),
            chain => self.after_keys.get(&chain).into_iter().flatten().any(same),
        };
        self.kept.insert((key, chain), kept);
        kept
    }
}

fn by_chain(rules: &Rules) -> HashMap<ChainRef, Vec<KeyRef>> {
    let mut chains: HashMap<ChainRef, Vec<KeyRef>> = HashMap::new();
    for key in rules.keys() {
        chains.entry(key.chain).or_default().push(key);
    }
    chains
}
