//! A keyspace in memory that does what a test tells it: a stand-in for a server whose answers get lost.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::etcd::span::NO_END;

use super::keyspace::{Change, Entry, Fault, FaultKind, Keyspace, Page};
use super::pace::Patience;

/// What happens to one transaction.
#[derive(Clone, Debug)]
pub enum Step {
    /// It is carried out and answered.
    Answer,
    /// It is not carried out.
    Refuse(FaultKind),
    /// It is carried out, and the answer is lost.
    Lose,
    /// It is carried out after the next transaction was, and the answer is lost.
    Delay,
    /// Somebody writes these first; no value deletes.
    First(Vec<(Vec<u8>, Option<Vec<u8>>)>),
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Vec<u8>, Entry>,
    revision: i64,
    steps: VecDeque<Step>,
    delayed: Vec<Vec<Change>>,
    page_faults: HashMap<u64, FaultKind>,
    pages: u64,
    limits: Vec<i64>,
    swaps: Vec<usize>,
}

/// The keyspace.
pub struct Scripted {
    state: Mutex<State>,
    /// More changes than so many are refused.
    pub most: usize,
    /// Larger values are refused.
    pub largest: usize,
    /// What it says of requests that are not applied yet.
    pub backlog: u64,
}

/// Somebody who waits a second and is interrupted by nobody.
pub fn undisturbed() -> Patience<'static> {
    static NEVER: AtomicBool = AtomicBool::new(false);
    Patience::new(Duration::from_secs(1), &NEVER)
}

impl State {
    fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> i64 {
        self.revision += 1;
        self.store(key, value, lease);
        self.revision
    }

    fn store(&mut self, key: &[u8], value: &[u8], lease: i64) {
        let before = self.entries.get(key).map_or((self.revision, 0), |entry| (entry.create_revision, entry.version));
        let entry = Entry {
            key: key.to_vec(),
            value: value.to_vec().into(),
            create_revision: before.0,
            mod_revision: self.revision,
            version: before.1 + 1,
            lease,
        };
        self.entries.insert(key.to_vec(), entry);
    }

    fn delete(&mut self, key: &[u8]) {
        if self.entries.remove(key).is_some() {
            self.revision += 1;
        }
    }

    fn apply(&mut self, changes: &[Change]) -> Option<i64> {
        let fits =
            |change: &Change| self.entries.get(&change.key).map_or(0, |entry| entry.mod_revision) == change.expected;
        if !changes.iter().all(fits) {
            return None;
        }
        self.revision += 1;
        changes.iter().for_each(|change| self.store(&change.key, &change.value, change.lease));
        Some(self.revision)
    }
}

impl Scripted {
    /// Empty, at revision 1.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State { revision: 1, ..State::default() }),
            most: 128,
            largest: usize::MAX,
            backlog: 0,
        }
    }

    pub fn put(&self, key: &[u8], value: &[u8], lease: i64) -> i64 {
        self.state.lock().unwrap().put(key, value, lease)
    }

    pub fn delete(&self, key: &[u8]) {
        self.state.lock().unwrap().delete(key);
    }

    /// What happens to the next transactions.
    pub fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.state.lock().unwrap().steps.extend(steps);
    }

    /// What the pages of these numbers, counted from now on and from 1, come to.
    pub fn fail_pages(&self, faults: impl IntoIterator<Item = (u64, FaultKind)>) {
        let mut state = self.state.lock().unwrap();
        state.pages = 0;
        state.page_faults = faults.into_iter().collect();
    }

    /// How many pages were asked for since it was last said what some come to.
    pub fn pages(&self) -> u64 {
        self.state.lock().unwrap().pages
    }

    /// The limits that pages were asked for with.
    pub fn page_limits(&self) -> Vec<i64> {
        self.state.lock().unwrap().limits.clone()
    }

    /// How many changes each transaction had.
    pub fn swaps(&self) -> Vec<usize> {
        self.state.lock().unwrap().swaps.clone()
    }

    /// Puts other bytes in the place of a value, as a broken disk does.
    pub fn damage(&self, key: &[u8], value: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.entries.get_mut(key).unwrap().value = value.to_vec().into();
    }

    /// How many entries a range has.
    pub fn count(&self, range: (&[u8], &[u8])) -> u64 {
        self.page(range, 0, 1).unwrap().count
    }

    pub fn entry(&self, key: &[u8]) -> Option<Entry> {
        self.state.lock().unwrap().entries.get(key).cloned()
    }
}

fn fault(kind: FaultKind) -> Fault {
    Fault::new(kind, format!("scripted: {kind:?}"))
}

impl Keyspace for Scripted {
    fn page(&self, (from, end): (&[u8], &[u8]), _revision: i64, limit: i64) -> Result<Page, Fault> {
        let mut state = self.state.lock().unwrap();
        state.pages += 1;
        state.limits.push(limit);
        let number = state.pages;
        if let Some(kind) = state.page_faults.remove(&number) {
            return Err(fault(kind));
        }
        let limit = usize::try_from(limit).unwrap();
        let within = |key: &[u8]| end == NO_END || key < end;
        let range = state.entries.range(from.to_vec()..).take_while(|(key, _)| within(key));
        let entries: Vec<_> = range.clone().take(limit).map(|(_, entry)| entry.clone()).collect();
        let count = range.count() as u64;
        Ok(Page { more: count > entries.len() as u64, entries, revision: state.revision, count })
    }

    fn takes_ranges(&self) -> bool {
        true
    }

    fn get(&self, key: &[u8]) -> Result<Option<Entry>, Fault> {
        Ok(self.entry(key))
    }

    fn swap(&self, changes: &[&Change]) -> Result<Option<i64>, Fault> {
        let changes: &[Change] = &changes.iter().map(|change| (*change).clone()).collect::<Vec<_>>();
        let mut state = self.state.lock().unwrap();
        state.swaps.push(changes.len());
        if changes.len() > self.most {
            return Err(fault(FaultKind::TooManyChanges));
        }
        if changes.iter().any(|change| change.value.len() > self.largest) {
            return Err(fault(FaultKind::RequestTooLarge));
        }
        let delayed = std::mem::take(&mut state.delayed);
        let answer = match state.steps.pop_front().unwrap_or(Step::Answer) {
            Step::Answer => Ok(state.apply(changes)),
            Step::Refuse(kind) => Err(fault(kind)),
            Step::Lose => {
                state.apply(changes);
                Err(fault(FaultKind::Unknown))
            }
            Step::Delay => {
                state.delayed.push(changes.to_vec());
                Err(fault(FaultKind::Unknown))
            }
            Step::First(writes) => {
                for (key, value) in writes {
                    match value {
                        Some(value) => drop(state.put(&key, &value, 0)),
                        None => state.delete(&key),
                    }
                }
                Ok(state.apply(changes))
            }
        };
        for changes in delayed {
            state.apply(&changes);
        }
        answer
    }

    fn most_changes(&self) -> usize {
        128
    }

    fn backlog(&self) -> Option<u64> {
        Some(self.backlog)
    }
}
