//! All entries, read in the order of keys, made anew and put in their places by several writers.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::lock::{into_inner, lock};

use super::super::seal::MakeError;

use super::journal::Journal;
use super::kept::{Aside, Entries, Kept};
use super::keyspace::{Fault, Keyspace};
use super::ordered::ordered;
use super::outline::Outline;
use super::pace::{Pace, Patience};
use super::pages::Pins;
use super::plan::{Asked, sweep, threads};
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
    /// In which ranges it is read.
    pub outline: &'w Outline,
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

impl<K: ?Sized> Writing<'_, K> {
    /// How it is read.
    pub(super) fn asked(&self) -> Asked<'_, K> {
        Asked { keyspace: self.keyspace, patience: self.patience, outline: Some(self.outline), seen: None }
    }
}

/// Writes everything that the target would write in another form; gives what came of it, and what was read and written.
/// What was put aside is not read again.
///
/// # Errors
///
/// Those of a file without a name.
pub fn write<K: Keyspace + ?Sized>(
    writing: &Writing<'_, K>,
    transform: &Transform<'_>,
    kept: Option<Kept>,
) -> std::io::Result<(Written, Witness, Pins)> {
    let (mut witness, read) = match kept {
        Some(Kept { witness, pins, spool, sealed, entries }) => {
            (witness, Some((pins, spool.into_entries()?, (entries, sealed))))
        }
        None => (Witness::new(transform.digests)?, None),
    };
    let asked = (writing.keyspace, writing.pace, writing.patience);
    let common = Common::new(asked, witness.writer()?, (writing.journal, writing.name), writing.most);
    let (batches, waiting) = sync_channel::<Vec<Item>>(WRITERS);
    let (waiting, under_way) = (Mutex::new(waiting), Mutex::new(0_usize));
    let swept = thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut worker = Worker::new(transform);
                let receive = || lock(&waiting).recv();
                while let Ok(batch) = receive() {
                    settle(&common, &mut worker, batch);
                    *lock(&under_way) -= 1;
                }
            });
        }
        let mut sender = Sender {
            writing,
            common: &common,
            batches,
            under_way: &under_way,
            batch: Vec::new(),
            bytes: 0,
            changes: 0,
        };
        let swept = match read {
            None => from_server(&mut sender, transform, &mut witness),
            Some((pins, mut entries, count)) => from_kept(&mut sender, transform, &mut entries, count).map(|()| pins),
        };
        match swept {
            Ok(_) => sender.send(),
            Err(_) => common.leave(sender.batch.len()),
        }
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

/// Everything as it is in the store now.
fn from_server<K: Keyspace + ?Sized>(
    sender: &mut Sender<'_, '_, K>,
    transform: &Transform<'_>,
    witness: &mut Witness,
) -> Result<Pins, Stop> {
    let writing = sender.writing;
    sweep(&writing.asked(), transform, true, |page| {
        let entries = page.entries.len() as u64;
        let numbered: Vec<_> = page
            .entries
            .into_iter()
            .map(|(entry, judged)| (witness.read(&entry, judged.digest), entry, judged))
            .collect();
        witness.flush()?;
        let journaled = writing.journal.is_some();
        let items =
            numbered.into_iter().filter_map(|(record, entry, judged)| Item::new(entry, judged, record, journaled));
        items.for_each(|item| sender.add(item));
        sender.compact_if_due()?;
        (writing.progress)(entries);
        Ok(!sender.common.ends())
    })
    .map(|swept| swept.pins)
}

/// What was put aside.
fn from_kept<K: Keyspace + ?Sized>(
    sender: &mut Sender<'_, '_, K>,
    transform: &Transform<'_>,
    entries: &mut Entries,
    (count, sealed): (u64, bool),
) -> Result<(), Stop> {
    let (writing, failed) = (sender.writing, Mutex::new(None));
    let next = || {
        let ends = writing.patience.interrupted.load(Ordering::Relaxed);
        let block = if ends { Ok(None) } else { entries.next_block() };
        block.unwrap_or_else(|error| {
            *lock(&failed) = Some(error);
            None
        })
    };
    let journaled = writing.journal.is_some();
    let work = |worker: &mut Worker<'_>, block: Vec<Aside>| -> Result<(usize, Vec<Item>), MakeError> {
        let mut item = |aside: Aside| -> Result<Option<Item>, MakeError> {
            match sealed {
                true => Ok(Some(Item::sealed(aside))),
                false => {
                    let judged = worker.judge(&aside.entry, true)?;
                    Ok(Item::new(aside.entry, judged, aside.record, journaled))
                }
            }
        };
        let entries = block.len();
        let items = block.into_iter().filter_map(|aside| item(aside).transpose()).collect::<Result<_, _>>()?;
        Ok((entries, items))
    };
    let (mut outcome, mut told) = (Ok(()), 0);
    ordered(
        threads(),
        next,
        || Worker::new(transform),
        work,
        |block: Result<_, MakeError>| {
            outcome = block.map_err(Stop::from).and_then(|(entries, items)| {
                let entries = entries as u64;
                items.into_iter().for_each(|item| sender.add(item));
                told += entries;
                (writing.progress)(entries);
                sender.compact_if_due()
            });
            outcome.is_ok() && !sender.common.ends()
        },
    );
    // Where it ends early, these were not begun.
    sender.common.leave(usize::try_from(entries.count().saturating_sub(told)).unwrap_or(usize::MAX));
    outcome?;
    if let Some(error) = into_inner(failed) {
        return Err(error.into());
    }
    if writing.patience.interrupted.load(Ordering::Relaxed) {
        return Err(Stop::Interrupted);
    }
    // What stays as it is was gone over when it was read.
    (writing.progress)(count.saturating_sub(told));
    Ok(())
}

/// Makes batches of changes and hands them to the writers.
struct Sender<'s, 'w, K: ?Sized> {
    writing: &'s Writing<'w, K>,
    common: &'s Common<'s, K>,
    batches: SyncSender<Vec<Item>>,
    under_way: &'s Mutex<usize>,
    batch: Vec<Item>,
    /// What these take in a transaction.
    bytes: usize,
    /// Changes since the store was compacted.
    changes: u64,
}

impl<K: Keyspace + ?Sized> Sender<'_, '_, K> {
    fn add(&mut self, item: Item) {
        if !self.common.has_room(self.bytes, &item) {
            self.send();
        }
        self.bytes += item.bytes();
        self.batch.push(item);
        self.changes += 1;
        if self.common.is_full(self.batch.len(), self.bytes) {
            self.send();
        }
    }

    fn send(&mut self) {
        self.bytes = 0;
        if !self.batch.is_empty() {
            *lock(self.under_way) += 1;
            // Writers listen until this end is dropped.
            let _ = self.batches.send(std::mem::take(&mut self.batch));
        }
    }

    fn compact_if_due(&mut self) -> Result<(), Stop> {
        let Some(rounds) = self.writing.rounds.filter(|rounds| self.changes >= rounds.every) else { return Ok(()) };
        self.send();
        while *lock(self.under_way) > 0 {
            thread::sleep(LOOK);
        }
        (rounds.compact)()?;
        self.changes = 0;
        Ok(())
    }
}
