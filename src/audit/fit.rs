//! Which of several configurations belongs to this store: one pass, every value tried with each of them.
//!
//! A value's trace carries a bit for each configuration that reads it, so that afterwards any combination of
//! configurations can be counted without reading again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::kube::key::{Address, Roots};
use crate::provider::plaintext::Plaintext;
use crate::source::scan::Visitor;
use crate::source::shelf::ShelfError;
use crate::source::snapshot::PassOptions;
use crate::source::trace::{Trace, TraceRoom, Traces, settle};
use crate::source::{Record, Store};

use super::classify::{Reason, State, Told, Verdict, judge};
use super::deks::Deks;
use super::rules::{Guard, KeyRef, Rules};
use super::run::AuditError;
use super::survey;

/// So many configurations are compared at most: each takes a bit of a trace's tag.
pub const MAX_CONFIGURATIONS: usize = 16;

/// Marks what is judged at all, so that a value that nothing reads differs from a tombstone.
const JUDGED: u32 = 1 << 17;
/// Marks values that wait for a KMS plugin.
const WAITS: u32 = 1 << 16;
/// Marks values of an API server that no configuration speaks for.
const UNCOVERED: u32 = 1 << 18;
/// Marks values that begin with a provider's prefix.
const ENCRYPTED: u32 = 1 << 19;

/// Missing keys beyond so many are not told apart.
const MAX_MISSING: usize = 10_000;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Entries that are API objects.
    pub entries: u64,
    /// Older revisions of such.
    pub history: u64,
    /// Entries that begin with a provider's prefix. Plaintext opens with nearly any configuration and proves nothing of it.
    pub encrypted: u64,
    /// Entries that wait for a KMS plugin and that no configuration reads without.
    pub waiting: u64,
    /// Entries of an API server, encrypted or not, that none of the configurations speaks for.
    pub uncovered: u64,
    /// For each configuration, in the order given, what it reads.
    pub configurations: Vec<Reads>,
    /// The keys that values name which nothing reads.
    pub missing_keys: Vec<MissingKey>,
    /// The smallest set of configurations, by their places, that reads as many entries as all of them together; of several
    /// such sets the one that was given first. Empty where nothing reads anything.
    pub best: Vec<usize>,
    /// Entries that the best set reads.
    pub best_reads: u64,
    /// Encrypted ones among them.
    pub best_reads_encrypted: u64,
    /// Whether every record of the store was read.
    pub whole: bool,
}

/// What a configuration reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reads {
    /// Entries.
    pub entries: u64,
    /// Encrypted ones among them.
    pub encrypted: u64,
    /// Older revisions.
    pub history: u64,
    /// Keys of the configuration that no record opens by, as `provider/name`. KMS providers are not among them: their
    /// plugins are not asked, so nobody knows.
    pub unused_keys: Vec<String>,
}

/// A key that values name which nothing reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingKey {
    /// `aescbc`, `aesgcm`, `secretbox` or `kms`.
    pub provider: &'static str,
    /// The key's name; the KMS provider's.
    pub key_name: String,
    /// Whether a configuration has a key of this name. Then its secret is another one, the values are damaged, or the
    /// configuration does not have it for their resource.
    pub configured: bool,
    /// Entries and older revisions that name it.
    pub records: u64,
}

impl Fit {
    /// Whether one configuration reads everything. Where there is nothing to read, nothing is proved.
    pub fn one_reads_all(&self) -> bool {
        let all = |reads: &Reads| reads.entries == self.entries;
        self.whole && self.entries > 0 && self.configurations.iter().any(all)
    }
}

/// Tries each configuration, given as the rules of one file each, on every value. Those beyond [`MAX_CONFIGURATIONS`] are
/// passed over.
pub fn fit(store: &mut Store, rules: &[Rules], pass: PassOptions<'_>, roots: Option<Roots>) -> Result<Fit, AuditError> {
    let rules = rules.get(..MAX_CONFIGURATIONS).unwrap_or(rules);
    let known = configured_keys(rules);
    let roots = Arc::new(match roots {
        Some(roots) => roots,
        None => survey::roots(store, pass)?,
    });
    let room = TraceRoom::random()?;
    let tries = |_: &()| Tries::new(rules, &known, roots.clone(), room.traces());
    let pass = store.pass(pass, |_| (), tries)?;
    let whole = pass.faults.is_empty() && !pass.unsteady;
    let (mut traces, mut used, mut missing) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
    for tries in pass.visitors {
        traces.push(tries.traces);
        used.extend(tries.used);
        for (name, records) in tries.missing {
            *missing.entry(name).or_default() += records;
        }
    }
    let counts = counts(traces)?;
    let sum = |of: fn(&(u64, u64)) -> u64, wanted: &dyn Fn(u32) -> bool| -> u64 {
        counts.iter().filter(|(mask, _)| wanted(**mask)).map(|(_, count)| of(count)).sum()
    };
    let reads = |(place, rules): (usize, &Rules)| Reads {
        entries: sum(|count| count.0, &|mask| mask & 1 << place != 0),
        encrypted: sum(|count| count.0, &|mask| mask & 1 << place != 0 && mask & ENCRYPTED != 0),
        history: sum(|count| count.1, &|mask| mask & 1 << place != 0),
        unused_keys: unused(place, rules, &used),
    };
    let all_bits = (1 << rules.len()) - 1;
    let missing = missing.into_iter().map(|((provider, key_name), records)| {
        let configured = known.contains(&(provider, key_name.clone()));
        MissingKey { provider, key_name, configured, records }
    });
    let best = smallest(rules.len(), |set| sum(|count| count.0, &|mask| mask & set != 0));
    Ok(Fit {
        entries: sum(|count| count.0, &|_| true),
        history: sum(|count| count.1, &|_| true),
        encrypted: sum(|count| count.0, &|mask| mask & ENCRYPTED != 0),
        waiting: sum(|count| count.0, &|mask| mask & WAITS != 0 && mask & all_bits == 0),
        uncovered: sum(|count| count.0, &|mask| mask & UNCOVERED != 0),
        configurations: rules.iter().enumerate().map(reads).collect(),
        missing_keys: missing.collect(),
        best_reads: sum(|count| count.0, &|mask| mask & best != 0),
        best_reads_encrypted: sum(|count| count.0, &|mask| mask & best != 0 && mask & ENCRYPTED != 0),
        best: (0..rules.len()).filter(|place| best & 1 << place != 0).collect(),
        whole,
    })
}

/// Entries and older revisions by the configurations that read them.
fn counts(traces: Vec<Traces>) -> Result<HashMap<u32, (u64, u64)>, ShelfError> {
    let parts = settle(traces, HashMap::new, |counts: &mut HashMap<u32, (u64, u64)>, records: &[Trace]| {
        let Some((newest, older)) = records.split_last() else { return };
        if newest.tag() & JUDGED != 0 {
            counts.entry(newest.tag()).or_default().0 += 1;
        }
        for record in older.iter().filter(|record| record.tag() & JUDGED != 0) {
            counts.entry(record.tag()).or_default().1 += 1;
        }
    })?;
    let mut all: HashMap<u32, (u64, u64)> = HashMap::new();
    for (mask, (entries, history)) in parts.into_iter().flatten() {
        let count = all.entry(mask).or_default();
        count.0 += entries;
        count.1 += history;
    }
    Ok(all)
}

/// The smallest set that reads as much as all together, as a bit mask; among sets of one size the earliest.
fn smallest(configurations: usize, reads: impl Fn(u32) -> u64) -> u32 {
    let all = (1_u32 << configurations.min(MAX_CONFIGURATIONS)) - 1;
    let most = reads(all);
    // With sixteen configurations there are 65,535 sets, and a store has few distinct masks: trying all is quick.
    let enough = (1..=all).filter(|set| most > 0 && reads(*set) == most);
    // Reversed, the mask with the earlier configuration is the greater number.
    enough.min_by_key(|set| (set.count_ones(), std::cmp::Reverse(set.reverse_bits()))).unwrap_or(0)
}

/// Provider and name of every key that a configuration has, KMS providers included.
fn configured_keys(rules: &[Rules]) -> BTreeSet<(&'static str, String)> {
    let names = |rules: &Rules| -> Vec<_> {
        let labels = rules.keys().into_iter().filter_map(|key| rules.label(key));
        labels.map(|label| (label.provider, label.name.to_owned())).collect()
    };
    rules.iter().flat_map(names).collect()
}

/// The configuration's keys that no record opens by.
fn unused(place: usize, rules: &Rules, used: &BTreeSet<(usize, KeyRef)>) -> Vec<String> {
    // Identity has no key, and whether a KMS provider's is used only its plugin could tell.
    let label = |key: KeyRef| rules.named_key(key).and(rules.label(key)).map(|label| label.to_string());
    let opened: BTreeSet<_> = used.iter().filter(|(of, _)| *of == place).filter_map(|(_, key)| label(*key)).collect();
    let mut unused: Vec<_> = rules.keys().into_iter().filter_map(label).filter(|name| !opened.contains(name)).collect();
    unused.sort();
    unused.dedup();
    unused
}

struct Tries<'t> {
    rules: &'t [Rules],
    known: &'t BTreeSet<(&'static str, String)>,
    roots: Arc<Roots>,
    deks: Deks,
    traces: Traces,
    scratch: Plaintext,
    used: BTreeSet<(usize, KeyRef)>,
    missing: BTreeMap<(&'static str, String), u64>,
}

impl<'t> Tries<'t> {
    fn new(rules: &'t [Rules], known: &'t BTreeSet<(&'static str, String)>, roots: Arc<Roots>, traces: Traces) -> Self {
        Self {
            rules,
            known,
            roots,
            deks: Deks::default(),
            traces,
            scratch: Plaintext::new(),
            used: BTreeSet::new(),
            missing: BTreeMap::new(),
        }
    }

    /// Notes the key of a value that nothing reads. A name may hold the sign that ends it in the value, so one that a
    /// configuration has weighs more than what another guesses.
    fn miss(&mut self, verdicts: &[Verdict<'_>]) {
        let named = |verdict: &Verdict<'_>| {
            let name = String::from_utf8_lossy(verdict.key_name.as_deref()?).into_owned();
            Some((verdict.kind?.provider(), name))
        };
        let names = || verdicts.iter().filter_map(named);
        let Some(missing) = names().find(|name| self.known.contains(name)).or_else(|| names().next()) else { return };
        if self.missing.len() < MAX_MISSING || self.missing.contains_key(&missing) {
            *self.missing.entry(missing).or_default() += 1;
        }
    }
}

impl Visitor for Tries<'_> {
    fn record(&mut self, record: &Record<'_>) {
        let kv = &record.kv;
        let roots = self.roots.clone();
        let address = roots.locate(kv.key);
        if !matches!(address, Address::Object(_)) {
            return;
        }
        if record.revision.tombstone {
            self.traces.leave(kv.key, record.place, 0);
            return;
        }
        let mut tag = JUDGED;
        let mut verdicts = Vec::with_capacity(self.rules.len());
        for (place, rules) in self.rules.iter().enumerate() {
            let guard = rules.guard(&address);
            let verdict = judge(rules, &self.deks, (&address, guard), kv.key, kv.value, &mut self.scratch);
            match (verdict.readable, &verdict.reason) {
                (Told::Yes, _) => tag |= 1 << place,
                (_, Some(Reason::Waits)) => tag |= WAITS,
                _ => {}
            }
            if let (Told::Yes, Some(key)) = (verdict.readable, verdict.opened_by) {
                self.used.insert((place, key));
            }
            verdicts.push(verdict);
        }
        if tag == JUDGED {
            self.miss(&verdicts);
        }
        if verdicts.iter().any(|verdict| verdict.state == State::Encrypted) {
            tag |= ENCRYPTED;
        }
        if self.rules.iter().all(|rules| rules.guard(&address) == Guard::Nobody) {
            tag |= UNCOVERED;
        }
        self.traces.leave(kv.key, record.place, tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_set_is_found_and_of_equals_the_first_given() {
        let reads = |set: u32| -> u64 {
            let parts = [(0b0001, 5), (0b0110, 3), (0b1000, 0)];
            parts.iter().filter(|(mask, _)| set & mask != 0).map(|(_, count)| count).sum()
        };
        assert_eq!(smallest(4, reads), 0b0011);
        assert_eq!(smallest(4, |_| 0), 0);
        assert_eq!(smallest(2, |set| u64::from(set != 0)), 0b01);
    }
}
