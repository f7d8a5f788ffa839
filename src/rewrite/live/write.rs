//! All entries, read in the order of keys, made anew and put in their places by several writers.

use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::journal::Journal;
use super::keyspace::{Fault, Keyspace};
use super::pace::{Pace, Patience};
use super::pages::Pins;
use super::plan::sweep;
use super::settle::{Common, Counts, Item, Named, Stop, settle};
use super::transform::{Transform, Worker};
use super::witness::Witness;

/// Transactions under way at a time.
const WRITERS: usize = 4;

/// How often it is looked whether everything under way is done.
const LOOK: Duration = Duration::from_millis(2);

/// How it is written.
pub struct Writing<'w, K: ?Sized> {
    /// The store.
    pub keyspace: &'w K,
    /// How fast.
    pub pace: &'w Pace,
    /// How long to wait for answers, and whether somebody interrupts.
    pub patience: &'w Patience<'w>,
    /// The evidence.
    pub journal: Option<&'w Journal>,
    /// How keys are written in the journal.
    pub name: fn(&[u8]) -> String,
    /// The most changes of a transaction.
    pub most: usize,
    /// After so many changes the store is compacted, by this.
    pub rounds: Option<Rounds<'w>>,
    /// Is told how many entries were gone over.
    pub progress: &'w (dyn Fn(u64) + Sync),
}

/// Compaction on the way.
#[derive(Clone, Copy)]
pub struct Rounds<'r> {
    /// After so many changes.
    pub every: u64,
    /// Forgets everything before the newest revision.
    pub compact: &'r (dyn Fn() -> Result<(), Fault> + Sync),
}

/// What came of it.
#[derive(Debug)]
pub struct Written {
    /// What became of changes.
    pub counts: Counts,
    /// Keys that cannot be written, the first ones.
    pub named: Vec<Named>,
    /// How many there are.
    pub named_count: u64,
    /// Why it ended before its end.
    pub stop: Option<Stop>,
}

/// Writes everything that the target would write in another form; gives what came of it, and what was read and written.
///
/// # Errors
///
/// Those of a file without a name.
pub fn write<K: Keyspace + ?Sized>(
    writing: &Writing<'_, K>,
    transform: &Transform<'_>,
) -> std::io::Result<(Written, Witness, Pins)> {
    let mut witness = Witness::new(transform.digests)?;
    let asked = (writing.keyspace, writing.pace, writing.patience);
    let common = Common::new(asked, witness.writer()?, (writing.journal, writing.name), writing.most);
    let (batches, waiting) = sync_channel::<Vec<Item>>(WRITERS);
    let waiting = Mutex::new(waiting);
    let under_way = Mutex::new(0_usize);
    let change = |change: fn(&mut usize)| change(&mut under_way.lock().unwrap_or_else(PoisonError::into_inner));
    let swept = thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut worker = Worker::new(transform);
                let receive = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(batch) = receive() {
                    settle(&common, &mut worker, batch);
                    change(|count| *count -= 1);
                }
            });
        }
        let send = |batch: &mut Vec<Item>| {
            if !batch.is_empty() {
                change(|count| *count += 1);
                // Writers listen until this end is dropped.
                let _ = batches.send(std::mem::take(batch));
            }
        };
        let (mut batch, mut round) = (Vec::new(), 0);
        let swept = sweep((writing.keyspace, writing.patience), transform, true, |page, _| {
            let entries = page.entries.len() as u64;
            let numbered: Vec<_> = page
                .entries
                .into_iter()
                .map(|(entry, judged)| (witness.read(&entry, judged.digest), entry, judged))
                .collect();
            witness.flush()?;
            for (record, entry, judged) in numbered {
                let Some(item) = Item::new(entry, judged, record, writing.journal.is_some()) else { continue };
                if !common.has_room(&batch, &item) {
                    send(&mut batch);
                }
                batch.push(item);
                round += 1;
                if common.is_full(&batch) {
                    send(&mut batch);
                }
            }
            if let Some(rounds) = writing.rounds.filter(|rounds| round >= rounds.every) {
                send(&mut batch);
                while change_of(&under_way) > 0 {
                    thread::sleep(LOOK);
                }
                (rounds.compact)()?;
                round = 0;
            }
            (writing.progress)(entries);
            Ok(!common.ends())
        });
        match swept {
            Ok(_) => send(&mut batch),
            Err(_) => common.leave(batch.len()),
        }
        drop(batches);
        swept
    });
    let (pins, failed) = match swept {
        Ok(pins) => (pins, None),
        Err(stop) => (Pins::default(), Some(stop)),
    };
    let stop = common.why().or(failed);
    let (named, named_count) = common.named();
    Ok((Written { counts: common.counts, named, named_count, stop }, witness, pins))
}

fn change_of(under_way: &Mutex<usize>) -> usize {
    *under_way.lock().unwrap_or_else(PoisonError::into_inner)
}
