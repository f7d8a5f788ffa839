//! What adds up over all records: totals, coverage, keys, findings, and the verdict.

use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;

use crate::source::trace::{Mark, Trace};

use super::class::{Class, Scope, TOMBSTONE, Table};
use super::classify::{State, Told};
use super::finding::{Finding, FindingSet, Severity, ValueFinding};
pub use super::keys::{KeyId, KeyRow};
use super::nonces::{Repeats, Together};
use super::rules::Rules;
use super::{keys, writes};

/// Records of one class, told apart by what they are to their key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// What the API server reads.
    pub entries: u64,
    /// Older revisions, and what precedes a deletion.
    pub history: u64,
    /// Revisions that are gone from the tree and still in the file.
    pub residue: u64,
}

impl Count {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.entries + self.history + self.residue
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.history += other.history;
        self.residue += other.residue;
    }
}

/// Counts by class. Most stores have few classes, whose numbers are low.
#[derive(Debug, Default)]
struct Counts {
    low: Vec<Count>,
    high: HashMap<u32, Count>,
}

/// Classes below this number are counted in a list.
const LOW_CLASSES: usize = 4096;

impl Counts {
    fn of(&mut self, class: u32) -> &mut Count {
        let index = class as usize;
        if index >= LOW_CLASSES {
            return self.high.entry(class).or_default();
        }
        if index >= self.low.len() {
            self.low.resize(index + 1, Count::default());
        }
        &mut self.low[index]
    }

    fn get(&self, class: u32) -> Count {
        let low = self.low.get(class as usize);
        low.or_else(|| self.high.get(&class)).copied().unwrap_or_default()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (class, count) in (0..).zip(other.low).filter(|(_, count)| *count != Count::default()) {
            *self.of(class) += count;
        }
        for (class, count) in other.high {
            *self.of(class) += count;
        }
    }
}

/// Settled records, added up in any order.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Counts,
    deleted: u64,
    /// Keys with at least one older revision, or residue of one, of which this is to be said.
    other_keys: HashMap<ValueFinding, u64>,
    /// Entries with findings.
    flagged: Vec<Mark>,
    /// For each key with findings in its history, the oldest such record.
    flagged_history: Vec<Mark>,
}

impl Tally {
    /// Adds the records of one key, oldest first.
    pub fn add(&mut self, table: &Table, records: &[Trace]) {
        let (newest, older) = match records.split_last() {
            Some((last, older)) if last.tag() != TOMBSTONE => (Some(last), older),
            _ => (None, records),
        };
        if let Some(newest) = newest {
            self.counts.of(newest.tag()).entries += 1;
            if table.get(newest.tag()).is_some_and(|class| !class.findings.is_empty()) {
                self.flagged.push(newest.mark());
            }
        }
        let mut noticed = FindingSet::default();
        let mut first = None;
        for record in older {
            if record.tag() == TOMBSTONE {
                self.deleted += 1;
                continue;
            }
            self.counts.of(record.tag()).history += 1;
            let findings = table.get(record.tag()).map(|class| class.history_findings).unwrap_or_default();
            if !findings.is_empty() {
                findings.iter().for_each(|finding| noticed.insert(finding));
                first = first.or(Some(record.mark()));
            }
        }
        if let Some(first) = first {
            noticed.iter().for_each(|finding| *self.other_keys.entry(finding).or_default() += 1);
            self.flagged_history.push(first);
        }
    }

    /// Adds what is left of one key's revisions outside the tree, as their classes.
    pub fn add_residue(&mut self, table: &Table, classes: impl Iterator<Item = u32>) {
        let mut noticed = FindingSet::default();
        for class in classes {
            self.counts.of(class).residue += 1;
            let findings = table.get(class).map(|class| class.history_findings).unwrap_or_default();
            findings.iter().for_each(|finding| noticed.insert(finding.of_residue()));
        }
        noticed.iter().for_each(|finding| *self.other_keys.entry(finding).or_default() += 1);
    }

    /// The records whose keys a report names: entries with findings, and for each key with findings in its history one
    /// of its records. Both in the order of places.
    pub fn take_flagged(&mut self) -> (Vec<Mark>, Vec<Mark>) {
        let mut flagged = (std::mem::take(&mut self.flagged), std::mem::take(&mut self.flagged_history));
        flagged.0.sort_unstable();
        flagged.1.sort_unstable();
        flagged
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.counts += other.counts;
        self.deleted += other.deleted;
        for (finding, keys) in other.other_keys {
            *self.other_keys.entry(finding).or_default() += keys;
        }
        self.flagged.extend(other.flagged);
        self.flagged_history.extend(other.flagged_history);
    }
}

/// Totals over the store, or over the selection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What the API server reads.
    pub entries: u64,
    /// Older revisions with a value.
    pub history: u64,
    /// Tombstones.
    pub deleted: u64,
    /// Revisions that are gone from the tree and still in the file.
    pub residue: u64,
    /// Entries by state.
    pub encrypted: u64,
    /// See [`encrypted`](Self::encrypted).
    pub plaintext: u64,
    /// See [`encrypted`](Self::encrypted).
    pub unrecognised: u64,
    /// See [`encrypted`](Self::encrypted).
    pub empty: u64,
    /// Entries that would be served.
    pub readable: u64,
    /// Entries that would not.
    pub unreadable: u64,
    /// Entries of which nobody can say.
    pub unknown: u64,
    /// Entries that would be written otherwise now.
    pub stale: u64,
}

/// How the entries of a resource in a namespace are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoverageRow {
    /// Resource and namespace; empty for what is no API object.
    pub scope: Scope,
    /// `identity`, `aescbc` and so on; empty for what is unrecognised or empty.
    pub provider: &'static str,
    /// `v1` or `v2`; empty where there is none.
    pub provider_version: &'static str,
    /// The key's or KMS provider's name.
    pub key_name: String,
    /// Entries.
    pub entries: u64,
    /// Of them, those that would not be served.
    pub unreadable: u64,
    /// Of them, those that would be written otherwise now.
    pub stale: u64,
}

/// A finding, how many keys of the store it touches, and the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingRow {
    /// Which.
    pub finding: Finding,
    /// Distinct keys of the store.
    pub count: u64,
    /// The first of them in byte order.
    pub keys: Vec<Vec<u8>>,
    /// What else is to be said: about the file, a configuration, or the keys that values are on.
    pub details: Vec<String>,
    /// The first groups of values that share what they should not.
    pub together: Vec<Together>,
}

impl FindingRow {
    /// A finding with nothing to be said of single keys of the store.
    fn new(finding: Finding, details: Vec<String>) -> Self {
        Self { finding, count: 0, keys: Vec::new(), details, together: Vec::new() }
    }
}

/// The audit's answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Everything opens, and nothing is to be done.
    Clean,
    /// See the findings.
    Findings,
    /// Not everything could be read or judged.
    Incomplete,
    /// Without a configuration there is nothing to judge by.
    Unjudged,
}

impl Answer {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Findings => "findings",
            Self::Incomplete => "incomplete",
            Self::Unjudged => "unjudged",
        }
    }
}

/// Everything that adds up.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Totals.
    pub totals: Totals,
    /// Coverage, by resource, namespace, provider and key.
    pub coverage: Vec<CoverageRow>,
    /// Keys.
    pub keys: Vec<KeyRow>,
    /// Findings, weightiest first.
    pub findings: Vec<FindingRow>,
    /// The answer.
    pub answer: Answer,
    /// No API object was found, or selected, at all.
    pub nothing_judged: bool,
    /// Entries of which nobody can say with what was given whether they are readable, and that are objects or encrypted.
    pub unproved: u64,
}

impl Summary {
    /// The weightiest severity among the findings that count: without a configuration values are not judged, and only
    /// what is said of the file does.
    pub fn worst(&self) -> Option<Severity> {
        let counts = |row: &&FindingRow| self.answer != Answer::Unjudged || row.finding.is_about_the_file();
        self.findings.iter().filter(counts).map(|row| row.finding.severity()).max()
    }
}

/// What a summary is made of.
pub struct Parts<'p> {
    /// The configurations.
    pub rules: &'p Rules,
    /// The classes.
    pub table: &'p Table,
    /// The settled records.
    pub tally: &'p Tally,
    /// The oldest and newest main revision of each class.
    pub revisions: &'p HashMap<u32, (i64, i64)>,
    /// The first keys of each finding about values.
    pub first_keys: BTreeMap<ValueFinding, Vec<Vec<u8>>>,
    /// What values share that they should not.
    pub repeats: Repeats,
    /// For each key of aesgcm the versions that the store's keys on it went through.
    pub versions: HashMap<KeyId, u64>,
    /// Findings about the file, with what is to be said.
    pub file: Vec<(Finding, Vec<String>)>,
    /// Whether what was read is not all there is.
    pub gaps: bool,
}

/// Adds everything up.
pub fn summarise(mut parts: Parts<'_>) -> Summary {
    let totals = totals(parts.table, parts.tally);
    let keys = keys::keys(&parts);
    let findings = findings(&mut parts, &keys);
    let unknown = parts.counted().any(|(class, count)| {
        class.kind.is_some() && class.readable == Told::Unknown && count.entries + count.history > 0
    });
    let serious = findings.iter().any(|row| row.finding.severity() > Severity::Note);
    // Where nothing is an API object, or nothing was selected, nothing was judged: a wrong prefix or name, most likely.
    let nothing = !parts.counted().any(|(class, count)| {
        let is_object = parts.table.scope_of(class).is_some_and(|scope| !scope.resource.is_empty());
        is_object && count != Count::default()
    });
    // What is no object and says of no encryption (a distribution's own records, say) has nothing to be proved.
    let unproved = parts.counted().filter(|(class, _)| {
        let is_object = parts.table.scope_of(class).is_some_and(|scope| !scope.resource.is_empty());
        class.readable == Told::Unknown && (is_object || class.kind.is_some())
    });
    let unproved = unproved.map(|(_, count)| count.entries).sum();
    let answer = match parts.rules.given() {
        false => Answer::Unjudged,
        true if parts.gaps || unknown || nothing => Answer::Incomplete,
        true if serious => Answer::Findings,
        true => Answer::Clean,
    };
    Summary { totals, coverage: coverage(&parts), keys, findings, answer, nothing_judged: nothing, unproved }
}

impl Parts<'_> {
    /// The classes with their numbers and counts.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u32, &Class, Count)> {
        self.table.iter().map(|(number, class)| (number, class, self.tally.counts.get(number)))
    }

    fn counted(&self) -> impl Iterator<Item = (&Class, Count)> {
        self.numbered().map(|(_, class, count)| (class, count))
    }

    /// The name that a class's values bear: the opener's, else their own.
    fn key_name(&self, class: &Class) -> String {
        self.table.name_of(class.key_name).into_owned()
    }
}

fn totals(table: &Table, tally: &Tally) -> Totals {
    let mut totals = Totals { deleted: tally.deleted, ..Totals::default() };
    for (number, class) in table.iter() {
        let count = tally.counts.get(number);
        totals.entries += count.entries;
        totals.history += count.history;
        totals.residue += count.residue;
        *match class.state {
            State::Encrypted => &mut totals.encrypted,
            State::Plaintext => &mut totals.plaintext,
            State::Unrecognised => &mut totals.unrecognised,
            State::Empty => &mut totals.empty,
        } += count.entries;
        *match class.readable {
            Told::Yes => &mut totals.readable,
            Told::No => &mut totals.unreadable,
            Told::Unknown => &mut totals.unknown,
        } += count.entries;
        if class.stale == Told::Yes {
            totals.stale += count.entries;
        }
    }
    totals
}

/// Provider and version as columns show them.
pub fn provider_of(state: State, kind: Option<crate::provider::prefix::SealedKind>) -> (&'static str, &'static str) {
    match (kind, state) {
        (Some(kind), _) => (kind.provider(), kind.version()),
        (None, State::Plaintext) => ("identity", ""),
        (None, _) => ("", ""),
    }
}

fn coverage(parts: &Parts<'_>) -> Vec<CoverageRow> {
    let mut rows: BTreeMap<(Scope, &str, &str, String), [u64; 3]> = BTreeMap::new();
    for (class, count) in parts.counted().filter(|(_, count)| count.entries > 0) {
        let (provider, version) = provider_of(class.state, class.kind);
        let scope = parts.table.scope_of(class).cloned().unwrap_or_default();
        let row = rows.entry((scope, provider, version, parts.key_name(class))).or_default();
        let [entries, unreadable, stale] = row;
        *entries += count.entries;
        *unreadable += if class.readable == Told::No { count.entries } else { 0 };
        *stale += if class.stale == Told::Yes { count.entries } else { 0 };
    }
    let rows = rows.into_iter().map(|((scope, provider, provider_version, key_name), counts)| {
        let [entries, unreadable, stale] = counts;
        CoverageRow { scope, provider, provider_version, key_name, entries, unreadable, stale }
    });
    rows.collect()
}

fn findings(parts: &mut Parts<'_>, keys: &[KeyRow]) -> Vec<FindingRow> {
    // What is missing from the file is said before what was found in the rest.
    let file = std::mem::take(&mut parts.file).into_iter();
    let mut rows: Vec<_> = file.map(|(finding, details)| FindingRow::new(finding, details)).collect();
    for finding in ValueFinding::ALL {
        let row = FindingRow::new(Finding::Value(finding), Vec::new());
        let row = match finding.shared(&mut parts.repeats) {
            Some(shared) => FindingRow { count: shared.count, keys: shared.keys, together: shared.groups, ..row },
            None => FindingRow {
                count: count(parts, finding),
                keys: parts.first_keys.remove(&finding).unwrap_or_default(),
                ..row
            },
        };
        rows.extend((row.count > 0).then_some(row));
    }
    rows.extend(worn_keys(keys));
    configuration_findings(parts.rules, &mut rows);
    rows.sort_by_key(|row| std::cmp::Reverse(row.finding.severity()));
    rows
}

/// The keys of the store that a finding touches.
fn count(parts: &Parts<'_>, finding: ValueFinding) -> u64 {
    if !finding.is_of_entries() {
        return parts.tally.other_keys.get(&finding).copied().unwrap_or(0);
    }
    let touched = parts.counted().filter(|(class, _)| class.findings.contains(finding));
    touched.map(|(_, count)| count.entries).sum()
}

/// Keys of aesgcm that may have been used too often.
fn worn_keys(keys: &[KeyRow]) -> Option<FindingRow> {
    let worn = |row: &&KeyRow| row.writes.is_some_and(|writes| writes.at_most > writes::LIMIT);
    let worn: Vec<_> = keys.iter().filter(worn).collect();
    let details = worn.iter().map(|row| {
        let writes = row.writes.unwrap_or_default();
        let has = if writes.at_least > writes::LIMIT { "has" } else { "may have" };
        format!(
            "{}/{} {has} sealed more than {} values: at least {}, at most {}",
            row.id.provider,
            row.id.key_name,
            writes::LIMIT,
            writes.at_least,
            writes.at_most
        )
    });
    let row = FindingRow::new(Finding::GcmWriteLimit, details.collect());
    let count = worn.iter().map(|row| row.count.entries).sum();
    (!worn.is_empty()).then_some(FindingRow { count, ..row })
}

/// What the configurations' lints say. What is said of a key that values are on weighs more; its lint is then a detail.
fn configuration_findings(rules: &Rules, rows: &mut Vec<FindingRow>) {
    let mut by_id: BTreeMap<Finding, Vec<String>> = BTreeMap::new();
    for (path, configuration) in rules.files() {
        for lint in &configuration.lints {
            let place = lint.line.map_or(path.to_owned(), |line| format!("{path}:{line}"));
            by_id.entry(Finding::Config(lint.id)).or_default().push(format!("{place}: {}", lint.message));
        }
    }
    for (finding, details) in by_id {
        match rows.iter_mut().find(|row| row.finding.id() == finding.id()) {
            Some(said) => said.details.extend(details),
            None => rows.push(FindingRow::new(finding, details)),
        }
    }
}
