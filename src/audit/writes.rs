//! How often AES-GCM keys were used, as far as a store tells.
//!
//! With random nonces a key is good for so many writes ([`LIMIT`]), and kube-apiserver does not count them. A store shows two
//! bounds: at least one write for each record on the key; and at most as many as the store's keys with such a record went
//! through versions, since some of those may have been on another key.
//!
//! Each record on such a key leaves 16 bytes: a digest of its key and of the revision at which that key was created, its
//! class, and its version. The greatest version of each such pair counts.

use std::collections::HashMap;

use crate::provider::prefix::SealedKind;
use crate::source::KeyValue;

use super::class::Table;
use super::keys::KeyId;
use super::pile::{Pile, gather};
use super::rules::Rules;

/// After so many writes Kubernetes' documentation wants a key of aesgcm rotated.
pub const LIMIT: u64 = 200_000;

const VERSION_BITS: u32 = 44;

/// How often a key was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Records that are on it.
    pub at_least: u64,
    /// Versions that the store's keys with such a record went through.
    pub at_most: u64,
}

/// The writes that a worker met.
#[derive(Debug, Default)]
pub struct Versions {
    pile: Pile,
    /// Those of records outside the tree, with their offsets. Which of them count shows when all were seen.
    outside: Vec<(u64, u64, u64)>,
}

impl Versions {
    /// Takes a record of the tree, with the digest of its key.
    pub fn note(&mut self, kind: Option<SealedKind>, class: u32, kv: &KeyValue<'_>, key: u128) {
        if kind == Some(SealedKind::AesGcm) {
            self.pile.push(generation(kv, key), note(class, kv));
        }
    }

    /// Takes a record outside the tree.
    pub fn note_outside(&mut self, kind: Option<SealedKind>, class: u32, kv: &KeyValue<'_>, key: u128, at: u64) {
        if kind == Some(SealedKind::AesGcm) {
            self.outside.push((generation(kv, key), note(class, kv), at));
        }
    }
}

/// A key that was deleted and made anew begins to count anew.
fn generation(kv: &KeyValue<'_>, key: u128) -> u64 {
    let spread = (kv.create_revision as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key as u64 ^ spread
}

/// Class and version. A version that is more than there were revisions since the key was created is a lie; where there is none,
/// as in kine's table, it may be as many.
fn note(class: u32, kv: &KeyValue<'_>) -> u64 {
    let revisions = kv.mod_revision.saturating_sub(kv.create_revision).saturating_add(1);
    let told = if kv.version == 0 { revisions } else { kv.version };
    let version = told.min(revisions).clamp(1, (1 << VERSION_BITS) - 1);
    u64::from(class) << VERSION_BITS | version as u64
}

/// For each key of aesgcm the versions that the store's keys on it went through. Of the records outside the tree those
/// count whose offsets are among `left`, which ascend.
pub fn versions(workers: Vec<Versions>, left: &[u64], table: &Table, rules: &Rules) -> HashMap<KeyId, u64> {
    let mut piles = Vec::new();
    for mut worker in workers {
        for (digest, note, at) in &worker.outside {
            if left.binary_search(at).is_ok() {
                worker.pile.push(*digest, *note);
            }
        }
        piles.push(worker.pile);
    }
    // Several classes are of one key, so they are told by number first.
    let mut numbers: HashMap<KeyId, usize> = HashMap::new();
    let mut of_class: HashMap<u32, usize> = HashMap::new();
    for (class, described) in table.iter().filter(|(_, class)| class.kind == Some(SealedKind::AesGcm)) {
        if let Some(id) = KeyId::of(described, table, rules) {
            let next = numbers.len();
            of_class.insert(class, *numbers.entry(id).or_insert(next));
        }
    }
    let sums = gather(
        piles,
        || vec![0_u64; numbers.len()],
        |sums, pairs| {
            // Of one key's records the greatest version comes last.
            let mut greatest: Vec<(usize, u64)> = Vec::new();
            for pair in pairs {
                let (class, version) = ((pair.note >> VERSION_BITS) as u32, pair.note & ((1 << VERSION_BITS) - 1));
                let Some(number) = of_class.get(&class) else { continue };
                match greatest.iter_mut().find(|(known, _)| known == number) {
                    Some((_, most)) => *most = version.max(*most),
                    None => greatest.push((*number, version)),
                }
            }
            for (number, version) in greatest {
                if let Some(sum) = sums.get_mut(number) {
                    *sum = sum.saturating_add(version);
                }
            }
        },
    );
    let total = |number: usize| {
        let of_part = |part: &Vec<u64>| part.get(number).copied().unwrap_or(0);
        sums.iter().map(of_part).fold(0, u64::saturating_add)
    };
    numbers.into_iter().map(|(id, number)| (id, total(number))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(create_revision: i64, mod_revision: i64, version: i64) -> KeyValue<'static> {
        KeyValue { key: b"/k", create_revision, mod_revision, version, value: b"", lease: 0 }
    }

    #[test]
    fn a_version_is_never_more_than_the_revisions_allow() {
        let version = |kv| note(3, &kv) & ((1 << VERSION_BITS) - 1);
        assert_eq!(version(record(10, 10, 1)), 1);
        assert_eq!(version(record(10, 200_020, 200_001)), 200_001);
        assert_eq!(version(record(10, 12, i64::MAX)), 3);
        assert_eq!(version(record(10, 12, -7)), 1);
        assert_eq!(version(record(i64::MIN, i64::MAX, i64::MAX)), (1 << VERSION_BITS) - 1);
        assert_eq!(note(3, &record(1, 1, 1)) >> VERSION_BITS, 3);
    }
}
