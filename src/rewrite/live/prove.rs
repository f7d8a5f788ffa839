//! The proof: everything is read once more, and held against what was read and written.

use super::keyspace::Keyspace;
use super::pages::Pins;
use super::plan::{Asked, sweep};
use super::settle::{Named, Stop};
use super::transform::{Fate, Transform};
use super::witness::{Known, Witness};

/// Keys that are named; of more only the number is told.
const MAX_NAMED: usize = 100;

/// What the store holds in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The revision at which it was read.
    pub revision: i64,
    /// Entries that were read.
    pub entries: u64,
    /// Entries whose plaintext is what was read before the rewrite wrote them.
    pub ours: u64,
    /// Entries that stand as they were read.
    pub as_read: u64,
    /// Entries that somebody else wrote or made since.
    pub others: u64,
    /// Entries that the target would still write in another form.
    pub stale: u64,
    /// ... the first ones.
    pub stale_keys: Vec<Vec<u8>>,
    /// Entries that do not open, or were not to be touched.
    pub refused: u64,
    /// What is not as it must be: the first ones.
    pub broken: Vec<Named>,
    /// How many are not.
    pub broken_count: u64,
}

impl Proof {
    /// Whether everything is as it must be. Stale entries are no breach, but work left to do.
    pub fn holds(&self) -> bool {
        self.broken_count == 0
    }

    fn breach(&mut self, key: &[u8], revision: i64, why: &str) {
        self.broken_count += 1;
        if self.broken.len() < MAX_NAMED {
            self.broken.push(Named { key: key.to_vec(), revision, why: why.to_owned() });
        }
    }
}

/// Reads everything and holds it against what was read and written before.
///
/// # Errors
///
/// [`Stop`].
pub fn prove<K: Keyspace + ?Sized>(
    asked: &Asked<'_, K>,
    transform: &Transform<'_>,
    (witness, pins): (Witness, Pins),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Proof, Stop> {
    let mut records = witness.into_records(pins)?;
    let mut proof = Proof::default();
    let read = sweep(asked, transform, false, |page| {
        progress(page.entries.len() as u64);
        for (entry, judged) in page.entries {
            proof.entries += 1;
            let known = records.of(&entry)?;
            let is_fresh = matches!(judged.fate, Fate::Stays(_));
            match known {
                Known::Newer | Known::Theirs => proof.others += 1,
                Known::AsRead { digest } if digest == judged.digest => proof.as_read += 1,
                Known::Ours { digest } if digest == judged.digest && is_fresh => proof.ours += 1,
                Known::AsRead { .. } => {
                    proof.breach(&entry.key, entry.mod_revision, "it holds something else at the same revision");
                }
                Known::Ours { .. } if is_fresh => {
                    proof.breach(&entry.key, entry.mod_revision, "it does not hold what was in its place before");
                }
                Known::Ours { .. } => {
                    proof.breach(&entry.key, entry.mod_revision, "what was written does not open with the target");
                }
                Known::Missed => proof.breach(&entry.key, entry.mod_revision, "it was passed over"),
            }
            match judged.fate {
                Fate::Stays(_) => {}
                Fate::Refused(_) => proof.refused += 1,
                Fate::Rewritten(..) => {
                    proof.stale += 1;
                    if proof.stale_keys.len() < MAX_NAMED {
                        proof.stale_keys.push(entry.key);
                    }
                }
            }
        }
        Ok(true)
    })?;
    proof.revision = read.pins.newest();
    Ok(proof)
}
