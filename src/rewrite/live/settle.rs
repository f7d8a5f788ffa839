//! A batch of changes to its end: whatever the server says, each key ends up written, left to whoever changed it, or named.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lock::lock;
use crate::source::sha256::Sha256;

use super::super::decide::Stays;
use super::super::seal::MakeError;
use super::journal::{Journal, Line};
use super::kept::Aside;
use super::keyspace::{Change, Entry, Fault, FaultKind, Keyspace};
use super::outcome::{Before, Outcome, tell};
use super::pace::{MAX_BACKLOG, Pace, Patience};
use super::transform::{Fate, Judged, Worker};
use super::witness::Written;

/// A key that others write faster than we do is left for later after so many tries.
const MAX_TRIES: u32 = 32;

/// Keys that are named; of more only the number is told.
const MAX_NAMED: usize = 1000;

/// How often it is looked how much the server has before it.
const BACKLOG_MILLISECONDS: u64 = 1000;

/// Bytes of keys and values in one transaction; servers take 1.5 MiB unless told otherwise.
const BATCH_BYTES: usize = 768 << 10;

/// A change, and what is needed to tell what becomes of it.
#[derive(Debug)]
pub struct Item {
    /// The change.
    pub change: Change,
    before: Before,
    digest: u64,
    /// SHA-256 of the value whose place it takes, for the journal.
    old_sha256: Option<[u8; 32]>,
    /// The witness's record of it.
    record: u64,
    tries: u32,
}

impl Item {
    /// The change that puts a judged entry's new value in its place; none where it stays.
    pub fn new(entry: Entry, judged: Judged, record: u64, journaled: bool) -> Option<Self> {
        let Fate::Rewritten(value, _) = judged.fate else { return None };
        let old_sha256 = journaled.then(|| Sha256::of(entry.value.as_slice()));
        let before = Before { create_revision: entry.create_revision, version: entry.version };
        let change = Change { key: entry.key, expected: entry.mod_revision, lease: entry.lease, value };
        Some(Self { change, before, digest: judged.digest, old_sha256, record, tries: 0 })
    }

    /// The change that puts a value in its place that was made when it was put aside.
    pub fn sealed(aside: Aside) -> Self {
        let Aside { record, digest, entry } = aside;
        let before = Before { create_revision: entry.create_revision, version: entry.version };
        let change = Change { key: entry.key, expected: entry.mod_revision, lease: entry.lease, value: entry.value };
        Self { change, before, digest, old_sha256: None, record, tries: 0 }
    }

    /// What it takes in a transaction: its key stands in comparison, put and answer.
    pub(super) fn bytes(&self) -> usize {
        3 * self.change.key.len() + self.change.value.len() + 64
    }
}

/// What became of changes, counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Put in place.
    pub written: AtomicU64,
    /// Somebody else wrote the key meanwhile.
    pub conflicts: AtomicU64,
    /// ... what the target would write; it was left alone.
    pub theirs: AtomicU64,
    /// Somebody deleted the key meanwhile.
    pub gone: AtomicU64,
    /// Transactions whose answer did not come.
    pub unanswered: AtomicU64,
    /// Changes of those that had been made all the same.
    pub found_written: AtomicU64,
    /// Not begun or given up, since the run was to end.
    pub left: AtomicU64,
    /// Changes whose answer did not come before the run was to end.
    pub unsettled: AtomicU64,
    /// Others write the key faster than we do.
    pub contended: AtomicU64,
}

/// What one kind of trouble was with single keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The key.
    pub key: Vec<u8>,
    /// Its revision.
    pub revision: i64,
    /// What the matter is, in a sentence.
    pub why: String,
}

/// What all writers share.
pub struct Common<'c, K: ?Sized> {
    /// The store.
    pub keyspace: &'c K,
    /// How fast.
    pub pace: &'c Pace,
    /// How long to wait for answers, and whether somebody interrupts.
    pub patience: &'c Patience<'c>,
    /// Where to note what was written.
    pub written: Written,
    /// The evidence.
    pub journal: Option<&'c Journal>,
    /// How keys are written in the journal.
    pub name: fn(&[u8]) -> String,
    /// What became of changes.
    pub counts: Counts,
    /// The most changes of a transaction, as the server taught.
    most: AtomicUsize,
    /// No further change is begun.
    stopped: AtomicBool,
    first: Mutex<Option<Stop>>,
    named: Mutex<Vec<Named>>,
    named_count: AtomicU64,
    begin: Instant,
    /// When the backlog was looked at, in milliseconds since the beginning.
    looked: AtomicU64,
}

/// Why a run ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The server.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A value cannot be sealed.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// The journal or the notes cannot be written.
    #[error("what was done cannot be noted: {0}")]
    Note(#[from] io::Error),
}

/// How a key is written down.
pub type Name = fn(&[u8]) -> String;

impl<'c, K: Keyspace + ?Sized> Common<'c, K> {
    /// Nothing was written yet.
    pub fn new(
        (keyspace, pace, patience): (&'c K, &'c Pace, &'c Patience<'c>),
        written: Written,
        (journal, name): (Option<&'c Journal>, Name),
        most: usize,
    ) -> Self {
        Self {
            keyspace,
            pace,
            patience,
            written,
            journal,
            name,
            counts: Counts::default(),
            most: AtomicUsize::new(most.clamp(1, keyspace.most_changes().max(1))),
            stopped: AtomicBool::new(false),
            first: Mutex::default(),
            named: Mutex::default(),
            named_count: AtomicU64::new(0),
            begin: Instant::now(),
            looked: AtomicU64::new(0),
        }
    }

    /// Ends the run; the first reason counts.
    pub fn stop(&self, why: impl Into<Stop>) {
        self.stopped.store(true, Ordering::Relaxed);
        lock(&self.first).get_or_insert(why.into());
    }

    /// Whether nothing is to be begun any more.
    pub fn ends(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.patience.interrupted.load(Ordering::Relaxed)
    }

    /// Why the run ended before its end.
    pub fn why(&self) -> Option<Stop> {
        lock(&self.first).take()
    }

    /// Keys that cannot be written, the first ones, and how many there are.
    pub fn named(&self) -> (Vec<Named>, u64) {
        let named = std::mem::take(&mut *lock(&self.named));
        (named, self.named_count.load(Ordering::Relaxed))
    }

    /// Some changes were left.
    pub fn leave(&self, changes: usize) {
        add(&self.counts.left, changes);
    }

    /// Looks now and then whether the server keeps up with what it has promised, and slows down where it does not.
    fn look_at_the_backlog(&self) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.looked.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(last) >= BACKLOG_MILLISECONDS;
        if !is_due || self.looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        if self.keyspace.backlog().is_some_and(|backlog| backlog > MAX_BACKLOG) {
            self.pace.trouble();
        }
    }

    /// Whether a batch of so many changes with so many bytes has as much as a transaction takes.
    pub fn is_full(&self, changes: usize, bytes: usize) -> bool {
        changes >= self.most.load(Ordering::Relaxed) || bytes >= BATCH_BYTES
    }

    /// Whether another change still goes into a batch of so many bytes.
    pub fn has_room(&self, bytes: usize, item: &Item) -> bool {
        bytes == 0 || bytes + item.bytes() <= BATCH_BYTES
    }

    fn name(&self, item: &Item, why: impl Into<String>) {
        self.named_count.fetch_add(1, Ordering::Relaxed);
        let mut named = lock(&self.named);
        if named.len() < MAX_NAMED {
            named.push(Named { key: item.change.key.clone(), revision: item.change.expected, why: why.into() });
        }
    }
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

/// Carries out the changes of a batch. `worker` judges what somebody else wrote meanwhile.
pub fn settle<K: Keyspace + ?Sized>(common: &Common<'_, K>, worker: &mut Worker<'_>, batch: Vec<Item>) {
    let mut settling = Settling { common, worker, groups: VecDeque::from([batch]), waited: Duration::ZERO };
    while let Some(group) = settling.groups.pop_front() {
        match group.len() {
            0 => {}
            left if common.ends() => add(&common.counts.left, left),
            _ => settling.group(group),
        }
    }
}

struct Settling<'s, 'w, K: ?Sized> {
    common: &'s Common<'s, K>,
    worker: &'s mut Worker<'w>,
    /// What is still to be sent, each in one transaction.
    groups: VecDeque<Vec<Item>>,
    waited: Duration,
}

impl<K: Keyspace + ?Sized> Settling<'_, '_, K> {
    /// Sends a group.
    fn group(&mut self, group: Vec<Item>) {
        let common = self.common;
        common.pace.claim(group.len(), common.patience.interrupted);
        let (begin, changes): (_, Vec<_>) = (Instant::now(), group.iter().map(|item| &item.change).collect());
        match common.keyspace.swap(&changes) {
            Ok(Some(revision)) => {
                common.patience.answered();
                let took = begin.elapsed();
                common.look_at_the_backlog();
                common.pace.written(group.len(), took, common.patience.interrupted);
                self.waited = Duration::ZERO;
                self.done(&group, revision);
            }
            Ok(None) => {
                common.patience.answered();
                self.conflict(group);
            }
            Err(fault) => self.fault(group, fault),
        }
    }

    fn done(&self, group: &[Item], revision: i64) {
        let common = self.common;
        add(&common.counts.written, group.len());
        let noted = common.written.note(group.iter().map(|item| (item.record, item.digest)), revision);
        let journaled = common.journal.map_or(Ok(()), |journal| {
            let line = |item: &'_ Item| -> Option<([u8; 32], [u8; 32])> {
                Some((item.old_sha256?, Sha256::of(item.change.value.as_slice())))
            };
            let lines = group.iter().filter_map(|item| {
                let (old_sha256, new_sha256) = line(item)?;
                let (key, old_mod_revision) = (item.change.key.as_slice(), item.change.expected);
                Some(Line { key, old_mod_revision, new_mod_revision: revision, old_sha256, new_sha256 })
            });
            journal.write(lines, common.name)
        });
        if let Err(error) = noted.and(journaled) {
            common.stop(error);
        }
    }

    /// Somebody else wrote one of the keys: the halves are sent by themselves, until it is alone and read anew.
    fn conflict(&mut self, group: Vec<Item>) {
        match <[Item; 1]>::try_from(group) {
            Ok([item]) => {
                add(&self.common.counts.conflicts, 1);
                match self.read(&item) {
                    // An earlier request with these bytes, given up for lost, came through after all.
                    Ok(now) => match tell(&item.change, item.before, now.as_ref()) {
                        Outcome::Ours(revision) => {
                            add(&self.common.counts.found_written, 1);
                            self.done(std::slice::from_ref(&item), revision);
                        }
                        Outcome::NotYet | Outcome::Theirs | Outcome::Gone => self.anew(item, now),
                    },
                    Err(fault) => {
                        add(&self.common.counts.left, 1);
                        self.common.stop(fault);
                    }
                }
            }
            Err(group) => self.split(group),
        }
    }

    fn split(&mut self, mut group: Vec<Item>) {
        let half = group.split_off(group.len() / 2);
        self.groups.push_front(half);
        self.groups.push_front(group);
    }

    fn fault(&mut self, group: Vec<Item>, fault: Fault) {
        let common = self.common;
        match fault.kind {
            FaultKind::Unknown => {
                add(&common.counts.unanswered, 1);
                common.pace.trouble();
                self.unanswered(group, fault);
            }
            FaultKind::Busy => {
                common.pace.trouble();
                match common.patience.wait(self.waited, fault) {
                    Ok(waited) => {
                        self.waited = waited;
                        self.groups.push_front(group);
                    }
                    Err(fault) => self.give_up(&group, fault),
                }
            }
            FaultKind::TooManyChanges if group.len() > 1 => {
                common.most.fetch_min(group.len() / 2, Ordering::Relaxed);
                self.split(group);
            }
            FaultKind::RequestTooLarge | FaultKind::LeaseGone if group.len() > 1 => self.split(group),
            FaultKind::RequestTooLarge => group.iter().for_each(|item| {
                let bytes = item.change.value.len();
                common.name(item, format!("its new value of {bytes} bytes is refused: {fault}"));
            }),
            // etcd says so also of the transaction that fills the last of the room, and which it has carried out.
            FaultKind::NoSpace => {
                common.stop(fault);
                for item in group {
                    let now = self.read(&item).ok().flatten();
                    match tell(&item.change, item.before, now.as_ref()) {
                        Outcome::Ours(revision) => self.done(std::slice::from_ref(&item), revision),
                        _ => add(&common.counts.left, 1),
                    }
                }
            }
            // The lease takes its keys along. As long as the key is still seen, it is about to go.
            FaultKind::LeaseGone => self.conflict(group),
            _ => self.give_up(&group, fault),
        }
    }

    fn give_up(&self, group: &[Item], fault: Fault) {
        add(&self.common.counts.left, group.len());
        self.common.stop(fault);
    }

    /// The answer did not come: each key is read again and tells what became of its change.
    fn unanswered(&mut self, group: Vec<Item>, fault: Fault) {
        let mut again = Vec::new();
        let mut items = group.into_iter();
        while let Some(item) = items.next() {
            let now = match self.read(&item) {
                Ok(now) => now,
                Err(_) => {
                    add(&self.common.counts.unsettled, 1 + items.len());
                    return self.give_up(&again, fault);
                }
            };
            match tell(&item.change, item.before, now.as_ref()) {
                Outcome::Ours(revision) => {
                    add(&self.common.counts.found_written, 1);
                    self.done(std::slice::from_ref(&item), revision);
                }
                Outcome::NotYet if item.tries < MAX_TRIES => again.push(Item { tries: item.tries + 1, ..item }),
                Outcome::NotYet => {
                    add(&self.common.counts.left, 1);
                    self.common.stop(fault.clone());
                }
                Outcome::Theirs | Outcome::Gone => self.anew(item, now),
            }
        }
        // The same bytes once more: whichever request comes first, the value is ours.
        match self.common.patience.wait(Duration::ZERO, fault.clone()) {
            Ok(_) => self.groups.push_front(again),
            Err(_) if self.common.patience.interrupted.load(Ordering::Relaxed) => {
                add(&self.common.counts.left, again.len());
            }
            Err(fault) => self.give_up(&again, fault),
        }
    }

    /// What a key holds now.
    fn read(&self, item: &Item) -> Result<Option<Entry>, Fault> {
        let patience = self.common.patience;
        // A connection that broke shows so once; the next try makes a new one, and should not come late for that.
        let mut waited = Duration::ZERO;
        loop {
            match self.common.keyspace.get(&item.change.key) {
                Ok(now) => {
                    patience.answered();
                    return Ok(now);
                }
                Err(fault) if matches!(fault.kind, FaultKind::Unknown | FaultKind::Busy) => {
                    waited = patience.wait(waited, fault)?;
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// A value that somebody else wrote meanwhile is judged like any other.
    fn anew(&mut self, item: Item, now: Option<Entry>) {
        let common = self.common;
        let Some(now) = now else { return add(&common.counts.gone, 1) };
        if item.tries >= MAX_TRIES {
            return add(&common.counts.contended, 1);
        }
        if now.mod_revision == item.change.expected {
            // Seen before its lease has taken it along.
            std::thread::sleep(Duration::from_millis(10));
            let item = Item { tries: item.tries + 1, ..item };
            return self.groups.push_front(vec![item]);
        }
        let judged = match self.worker.judge(&now, true) {
            Ok(judged) => judged,
            Err(error) => {
                add(&common.counts.left, 1);
                return common.stop(error);
            }
        };
        match &judged.fate {
            Fate::Stays(Stays::Fresh) => add(&common.counts.theirs, 1),
            Fate::Stays(_) => {}
            Fate::Refused(why) => {
                let changed = Change { expected: now.mod_revision, ..item.change.clone() };
                common.name(&Item { change: changed, ..item }, why.to_string());
            }
            Fate::Rewritten(..) => {
                let again = Item::new(now, judged, item.record, item.old_sha256.is_some());
                self.groups
                    .push_front(again.map(|again| Item { tries: item.tries + 1, ..again }).into_iter().collect());
            }
        }
    }
}
