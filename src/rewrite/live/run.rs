//! Write and prove, until what is proved is what was wanted.
//!
//! An API server that does not have the target configuration yet writes the old form on while we rewrite. What it wrote is found by
//! the proof and written anew a few times; then it is told, since nothing but its configuration mends that.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::kept::Kept;
use super::keyspace::Keyspace;
use super::prove::{Proof, prove};
use super::settle::{Counts, Named, Stop};
use super::transform::Transform;
use super::write::{Writing, write};

/// How often it is written again what others wrote in the old form meanwhile.
const ROUNDS: u32 = 3;

/// What became of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Put in place.
    pub written: u64,
    /// Somebody else wrote the key meanwhile.
    pub conflicts: u64,
    /// ... what the target would write; it was left alone.
    pub theirs: u64,
    /// Somebody deleted the key meanwhile.
    pub gone: u64,
    /// Transactions whose answer did not come.
    pub unanswered: u64,
    /// Changes of those that had been made all the same.
    pub found_written: u64,
    /// Not begun or given up, of those that were read.
    pub left: u64,
    /// Changes whose outcome is not known.
    pub unsettled: u64,
    /// Others write the key faster than we do.
    pub contended: u64,
}

impl Totals {
    fn add(&mut self, counts: &Counts) {
        let add = |total: &mut u64, count: &std::sync::atomic::AtomicU64| *total += count.load(Ordering::Relaxed);
        add(&mut self.written, &counts.written);
        add(&mut self.conflicts, &counts.conflicts);
        add(&mut self.theirs, &counts.theirs);
        add(&mut self.gone, &counts.gone);
        add(&mut self.unanswered, &counts.unanswered);
        add(&mut self.found_written, &counts.found_written);
        add(&mut self.left, &counts.left);
        add(&mut self.unsettled, &counts.unsettled);
        add(&mut self.contended, &counts.contended);
    }
}

/// What came of a rewrite.
#[derive(Debug)]
pub struct Outcome {
    /// What became of changes.
    pub totals: Totals,
    /// How often everything was gone over to write.
    pub rounds: u32,
    /// Keys that cannot be written, the first ones.
    pub named: Vec<Named>,
    /// How many there are.
    pub named_count: u64,
    /// What was proved in the end.
    pub proof: Option<Proof>,
    /// Why it ended before its end.
    pub stop: Option<Stop>,
    /// How often the revision that was read at was compacted away meanwhile.
    pub lost_pins: usize,
    /// How long it took.
    pub took: Duration,
    /// How many times slower than it was asked to it went at worst.
    pub slowest: f64,
}

impl Outcome {
    /// Whether everything is as it was wanted, and that is proved.
    pub fn proved(&self) -> bool {
        self.stop.is_none()
            && self.named_count == 0
            && self.proof.as_ref().is_some_and(|proof| proof.holds() && proof.stale == 0)
    }
}

/// Writes and proves. `first` may renew what is fresh; `rest` does not. What was put aside is not read again the first time.
///
/// # Errors
///
/// Those of a file without a name.
pub fn run<K: Keyspace + ?Sized>(
    writing: &Writing<'_, K>,
    first: &Transform<'_>,
    rest: &Transform<'_>,
    mut kept: Option<Kept>,
) -> std::io::Result<Outcome> {
    let begin = Instant::now();
    let mut outcome = Outcome {
        totals: Totals::default(),
        rounds: 0,
        named: Vec::new(),
        named_count: 0,
        proof: None,
        stop: None,
        lost_pins: 0,
        took: Duration::ZERO,
        slowest: 1.0,
    };
    while outcome.rounds < ROUNDS {
        let transform = if outcome.rounds == 0 { first } else { rest };
        outcome.rounds += 1;
        let (written, witness, pins) = write(writing, transform, kept.take())?;
        outcome.totals.add(&written.counts);
        (outcome.named, outcome.named_count) = (written.named, written.named_count);
        outcome.stop = written.stop;
        outcome.lost_pins += pins.lost();
        if outcome.stop.is_some() {
            break;
        }
        match prove(&writing.asked(), rest, (witness, pins), writing.progress) {
            Ok(proof) => {
                let is_done = !proof.holds() || proof.stale <= outcome.named_count;
                outcome.proof = Some(proof);
                if is_done {
                    break;
                }
            }
            Err(stop) => {
                outcome.stop = Some(stop);
                break;
            }
        }
    }
    if let Some(journal) = writing.journal {
        journal.sync()?;
    }
    outcome.took = begin.elapsed();
    outcome.slowest = writing.pace.slowest();
    Ok(outcome)
}
