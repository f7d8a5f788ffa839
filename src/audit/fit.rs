//! Which of several configurations belongs to this store: one pass, every value tried with each of them.
//!
//! A value's trace carries a bit for each configuration that reads it, so that afterwards any combination of
//! configurations can be counted without reading again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::kube::key::{Address, Roots};
use crate::provider::plaintext::Plaintext;
use crate::source::Record;
use crate::source::scan::Visitor;
use crate::source::snapshot::{PassOptions, Snapshot};
use crate::source::trace::{Trace, TraceKey, Traces, settle};

use super::classify::{Told, Verdict, judge};
use super::deks::Deks;
use super::rules::{KeyRef, Rules};
use super::run::AuditError;
use super::survey;

/// So many configurations are compared at most: each takes a bit of a trace's tag.
pub const MAX_CONFIGURATIONS: usize = 16;

/// Marks what is judged at all, so that a value that nothing reads differs from a tombstone.
const JUDGED: u32 = 1 << 17;
/// Marks values that wait for a KMS plugin.
const WAITS: u32 = 1 << 16;

/// Missing keys beyond so many are not told apart.
const MAX_MISSING: usize = 10_000;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Entries that are API objects.
    pub entries: u64,
    /// Older revisions of such.
    pub history: u64,
    /// Entries that wait for a KMS plugin and that no configuration reads without.
    pub waiting: u64,
    /// For each configuration, in the order given, what it reads.
    pub configurations: Vec<Reads>,
    /// Provider and key name of the records that nothing reads, with their number.
    pub missing_keys: Vec<((&'static str, String), u64)>,
    /// The smallest set of configurations, by their places, that reads as many entries as all of them together; of several
    /// such sets the one that was given first. Empty where nothing reads anything.
    pub best: Vec<usize>,
    /// Entries that the best set reads.
    pub best_reads: u64,
    /// Whether every record of the store was read.
    pub whole: bool,
}

/// What a configuration reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reads {
    /// Entries.
    pub entries: u64,
    /// Older revisions.
    pub history: u64,
    /// Keys of the configuration that no record opens by, as `provider/name`.
    pub unused_keys: Vec<String>,
}

impl Fit {
    /// Whether one configuration reads everything.
    pub fn one_reads_all(&self) -> bool {
        self.whole && self.configurations.iter().any(|reads| reads.entries == self.entries)
    }
}

/// Tries each configuration, given as the rules of one file each, on every value.
pub fn fit(
    snapshot: &mut Snapshot,
    rules: &[Rules],
    pass: PassOptions<'_>,
    roots: Option<Roots>,
) -> Result<Fit, AuditError> {
    let roots = Arc::new(match roots {
        Some(roots) => roots,
        None => survey::roots(snapshot, pass)?,
    });
    let key = TraceKey::random()?;
    let tries = |_: &()| Tries::new(rules, roots.clone(), key);
    let pass = snapshot.pass(pass, |_, _| (), tries)?;
    let whole = pass.faults.is_empty() && !pass.unsteady;
    let (mut traces, mut used, mut missing) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
    for tries in pass.visitors {
        traces.push(tries.traces);
        used.extend(tries.used);
        for (name, records) in tries.missing {
            *missing.entry(name).or_default() += records;
        }
    }
    let counts = counts(traces);
    let sum = |of: fn(&(u64, u64)) -> u64, wanted: &dyn Fn(u32) -> bool| -> u64 {
        counts.iter().filter(|(mask, _)| wanted(**mask)).map(|(_, count)| of(count)).sum()
    };
    let reads = |(place, rules): (usize, &Rules)| Reads {
        entries: sum(|count| count.0, &|mask| mask & 1 << place != 0),
        history: sum(|count| count.1, &|mask| mask & 1 << place != 0),
        unused_keys: unused(place, rules, &used),
    };
    let all_bits = (1 << rules.len().min(MAX_CONFIGURATIONS)) - 1;
    let best = smallest(rules.len(), |set| sum(|count| count.0, &|mask| mask & set != 0));
    Ok(Fit {
        entries: sum(|count| count.0, &|_| true),
        history: sum(|count| count.1, &|_| true),
        waiting: sum(|count| count.0, &|mask| mask & WAITS != 0 && mask & all_bits == 0),
        configurations: rules.iter().take(MAX_CONFIGURATIONS).enumerate().map(reads).collect(),
        missing_keys: missing.into_iter().collect(),
        best_reads: sum(|count| count.0, &|mask| mask & best != 0),
        best: (0..rules.len()).filter(|place| best & 1 << place != 0).collect(),
        whole,
    })
}

/// Entries and older revisions by the configurations that read them.
fn counts(traces: Vec<Traces>) -> HashMap<u32, (u64, u64)> {
    let parts = settle(traces, HashMap::new, |counts: &mut HashMap<u32, (u64, u64)>, records: &[Trace]| {
        let Some((newest, older)) = records.split_last() else { return };
        if newest.tag() & JUDGED != 0 {
            counts.entry(newest.tag()).or_default().0 += 1;
        }
        for record in older.iter().filter(|record| record.tag() & JUDGED != 0) {
            counts.entry(record.tag()).or_default().1 += 1;
        }
    });
    let mut all: HashMap<u32, (u64, u64)> = HashMap::new();
    for (mask, (entries, history)) in parts.into_iter().flatten() {
        let count = all.entry(mask).or_default();
        count.0 += entries;
        count.1 += history;
    }
    all
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

/// The configuration's keys that no record opens by.
fn unused(place: usize, rules: &Rules, used: &BTreeSet<(usize, KeyRef)>) -> Vec<String> {
    let label = |key: KeyRef| rules.label(key).filter(|label| !label.version.is_empty()).map(|label| label.to_string());
    let opened: BTreeSet<_> = used.iter().filter(|(of, _)| *of == place).filter_map(|(_, key)| label(*key)).collect();
    let mut unused: Vec<_> = rules.keys().into_iter().filter_map(label).filter(|name| !opened.contains(name)).collect();
    unused.sort();
    unused.dedup();
    unused
}

struct Tries<'t> {
    rules: &'t [Rules],
    roots: Arc<Roots>,
    deks: Deks,
    traces: Traces,
    scratch: Plaintext,
    used: BTreeSet<(usize, KeyRef)>,
    missing: BTreeMap<(&'static str, String), u64>,
}

impl<'t> Tries<'t> {
    fn new(rules: &'t [Rules], roots: Arc<Roots>, key: TraceKey) -> Self {
        Self {
            rules,
            roots,
            deks: Deks::default(),
            traces: Traces::new(key),
            scratch: Plaintext::new(),
            used: BTreeSet::new(),
            missing: BTreeMap::new(),
        }
    }

    fn miss(&mut self, verdict: Option<&Verdict<'_>>) {
        let Some((kind, name)) = verdict.and_then(|verdict| Some((verdict.kind?, verdict.key_name.as_deref()?))) else {
            return;
        };
        let missing = (kind.provider(), String::from_utf8_lossy(name).into_owned());
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
        let mut last = None;
        for (place, rules) in self.rules.iter().take(MAX_CONFIGURATIONS).enumerate() {
            let guard = rules.guard(&address);
            let verdict = judge(rules, &self.deks, (&address, guard), kv.key, kv.value, &mut self.scratch);
            match verdict.readable {
                Told::Yes => tag |= 1 << place,
                Told::Unknown => tag |= WAITS,
                Told::No => {}
            }
            if let (Told::Yes, Some(key)) = (verdict.readable, verdict.opened_by) {
                self.used.insert((place, key));
            }
            last = Some(verdict);
        }
        if tag == JUDGED {
            self.miss(last.as_ref());
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
