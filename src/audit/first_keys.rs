//! The first keys that each finding names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;

use crate::source::store::Reader;
use crate::source::trace::Mark;

use super::class::Table;
use super::finding::ValueFinding;
use super::summary::Tally;

/// Of each finding so many keys are named in a summary.
const NAMED_KEYS: usize = 10;

/// The first keys of each finding, read again at the places that were flagged.
pub(super) fn first_keys(reader: Reader<'_>, table: &Table, tally: &mut Tally) -> BTreeMap<ValueFinding, Vec<Vec<u8>>> {
    let (entries, history) = tally.take_flagged();
    let mut first: BTreeMap<ValueFinding, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for (marks, is_history) in [(entries, false), (history, true)] {
        let parts: Vec<_> =
            marks.par_chunks(FLAGGED_CHUNK).map(|marks| named(reader, table, marks, is_history)).collect();
        for (finding, keys) in parts.into_iter().flatten() {
            keys.into_iter().for_each(|key| keep_first(first.entry(finding).or_default(), &key));
        }
    }
    first.into_iter().map(|(finding, keys)| (finding, keys.into_iter().collect())).collect()
}

/// The first keys of each class.
pub(super) type FirstKeys = HashMap<u32, BTreeSet<Vec<u8>>>;

/// The first keys of each finding, of what was noted by class where a store gives only entries: reading them again would mean
/// to ask a server for most of its keyspace twice.
pub(super) fn first_of_classes(noted: FirstKeys, table: &Table) -> BTreeMap<ValueFinding, Vec<Vec<u8>>> {
    let mut first: BTreeMap<ValueFinding, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for (class, keys) in noted {
        for finding in table.get(class).map(|class| class.findings).unwrap_or_default().iter() {
            keys.iter().for_each(|key| keep_first(first.entry(finding).or_default(), key));
        }
    }
    first.into_iter().map(|(finding, keys)| (finding, keys.into_iter().collect())).collect()
}

/// Flagged records that are read again by one worker at a time.
const FLAGGED_CHUNK: usize = 8192;

fn named(
    reader: Reader<'_>,
    table: &Table,
    marks: &[Mark],
    is_history: bool,
) -> BTreeMap<ValueFinding, BTreeSet<Vec<u8>>> {
    let mut first: BTreeMap<ValueFinding, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let places: Vec<_> = marks.iter().map(|mark| mark.place()).collect();
    let mut marks = marks.iter();
    reader.records_at(&places, |place, kv| {
        let Some(class) = marks.find(|mark| mark.place() == place).and_then(|mark| table.get(mark.tag())) else {
            return;
        };
        let findings = if is_history { class.history_findings } else { class.findings };
        findings.iter().for_each(|finding| keep_first(first.entry(finding).or_default(), kv.key));
    });
    first
}

/// Adds a key to the first ones, if it is one of them.
pub(super) fn keep_first(keys: &mut BTreeSet<Vec<u8>>, key: &[u8]) {
    if keys.len() < NAMED_KEYS || keys.last().is_some_and(|last| key < last.as_slice()) {
        keys.insert(key.to_vec());
        if keys.len() > NAMED_KEYS {
            keys.pop_last();
        }
    }
}
