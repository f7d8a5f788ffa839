//! Revisions that are gone from the tree but not from the file: told from copies of what the tree still has, and counted
//! once however often their page was copied.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::kube::key::Roots;
use crate::provider::plaintext::Plaintext;
use crate::source::Revision;
use crate::source::sha256::Sha256;
use crate::source::store::Reader;
use crate::source::trace::TraceKey;

use super::class::Table;
use super::classify::judge;
use super::deks::Deks;
use super::finding::ValueFinding;
use super::first_keys::keep_first;
use super::rows::{RESIDUE, RawRow, RowSink};
use super::rules::Rules;
use super::summary::Tally;

/// Strays that one worker compares with the tree at a time.
const CHUNK: usize = 8192;

/// What is remembered of a record outside the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StrayMark {
    /// Its revision.
    pub revision: Revision,
    /// The digest of its key.
    pub key: u128,
    /// Its class's number.
    pub class: u32,
    /// Where its record starts within the file.
    pub at: u64,
}

/// Keeps of each revision one copy, and none of what the tree still has.
pub fn settle(mut strays: Vec<StrayMark>, reader: Reader<'_>, key: &TraceKey) -> Vec<StrayMark> {
    // One copy counts, and always the same one: the first in the file.
    strays.par_sort_unstable_by_key(|stray| (stray.revision, stray.key, stray.at));
    strays.dedup_by_key(|stray| (stray.revision, stray.key));
    let gone = |strays: &[StrayMark]| {
        let revisions: Vec<_> = strays.iter().map(|stray| stray.revision).collect();
        let mut gone = vec![true; strays.len()];
        reader.find(&revisions, |index, still| {
            let same_key = strays.get(index).is_some_and(|stray| stray.key == key.digest(still));
            if let Some(gone) = gone.get_mut(index).filter(|_| same_key) {
                *gone = false;
            }
        });
        strays.iter().zip(gone).filter(|(_, gone)| *gone).map(|(stray, _)| *stray).collect::<Vec<_>>()
    };
    let mut left: Vec<_> = strays.par_chunks(CHUNK).flat_map_iter(gone).collect();
    left.par_sort_unstable_by_key(|stray| (stray.key, stray.revision));
    left
}

/// Where settled strays stand within the file, ascending.
pub fn offsets(strays: &[StrayMark]) -> Vec<u64> {
    let mut offsets: Vec<_> = strays.iter().map(|stray| stray.at).collect();
    offsets.sort_unstable();
    offsets
}

/// Adds settled strays up, and names the first keys of what is to be said of them.
pub fn tally(
    strays: &[StrayMark],
    reader: Reader<'_>,
    table: &Table,
    tally: &mut Tally,
    first_keys: &mut BTreeMap<ValueFinding, Vec<Vec<u8>>>,
) {
    let mut first: BTreeMap<ValueFinding, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for strays in strays.chunk_by(|one, next| one.key == next.key) {
        tally.add_residue(table, strays.iter().map(|stray| stray.class));
        for stray in strays {
            let findings = table.get(stray.class).map(|class| class.residue_findings()).unwrap_or_default();
            if !findings.is_empty() {
                reader.stray_at(stray.at, |kv| {
                    findings.iter().for_each(|finding| keep_first(first.entry(finding).or_default(), kv.key));
                });
            }
        }
    }
    first_keys.extend(first.into_iter().map(|(finding, keys)| (finding, keys.into_iter().collect())));
}

/// Gives each settled stray a row, for which its value is read and judged again.
pub fn rows(
    strays: &[StrayMark],
    reader: Reader<'_>,
    (rules, deks): (&Rules, &Deks),
    roots: &Roots,
    sink: &mut RowSink<'_>,
) {
    let mut scratch = Plaintext::new();
    for stray in strays {
        reader.stray_at(stray.at, |kv| {
            let address = roots.locate(kv.key);
            let guard = rules.guard(&address);
            let verdict = judge(rules, deks, (&address, guard), kv.key, kv.value, &mut scratch);
            let detail = verdict.reason.as_ref().map_or(String::new(), ToString::to_string);
            sink.push(&RawRow {
                key: kv.key,
                place: RESIDUE,
                class: stray.class,
                create_revision: kv.create_revision,
                mod_revision: stray.revision.main,
                version: kv.version,
                lease: kv.lease,
                value_bytes: kv.value.len() as u64,
                encoding: verdict.encoding,
                value_sha256: Sha256::of(kv.value),
                detail: &detail,
            });
        });
    }
}
