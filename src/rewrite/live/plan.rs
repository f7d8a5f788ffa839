//! What would become of how many entries, and what that takes of the server: one pass that writes nothing.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use crate::kube::key::Roots;
use crate::kube::roots::RootFinder;

use super::super::judging::{Inside, Refused};
use super::super::seal::MakeError;
use super::super::tally::{Count, Kind, Kinds};
use super::keyspace::{Entry, Fault, FaultKind, Keyspace};
use super::ordered::ordered;
use super::pace::Patience;
use super::pages::{Pages, Pins};
use super::settle::Stop;
use super::transform::{Fate, Judged, Transform, Worker};

/// Refused entries that are named; of more only the number is told.
const NAMED_REFUSED: usize = 1000;

/// Bytes of a record beside key and value: revision, element and the fields around them.
const RECORD_BYTES: u64 = 17 + 16 + 40;

/// How far leaf pages are filled, in hundredths.
const FILLED: u64 = 90;

/// What a pass over all entries gave.
#[derive(Debug, Default)]
pub struct Plan {
    /// What becomes of how many.
    pub rows: Vec<(Kind, Count)>,
    /// Entries that are to be written anew.
    pub rewritten: u64,
    /// Bytes that the database has to hold beside what it holds, until it is compacted.
    pub growth: u64,
    /// What is refused: the first ones.
    pub refused: Vec<Refused>,
    /// How many are.
    pub refused_count: u64,
    /// What the distribution keeps inside the store of its own configuration.
    pub inside: Inside,
    /// Whether any value comes to be on another key.
    pub moves: bool,
    /// At which revisions it was read.
    pub pins: Pins,
    /// A key looks like an object's below a root that is not known.
    pub(super) unlisted: bool,
}

/// A judged page, and what its worker has met so far.
pub(super) struct JudgedPage {
    pub entries: Vec<(Entry, Judged)>,
    pub inside: Inside,
    pub unlisted: bool,
}

/// Judges every entry, `seal` with what takes its place, and gives each page in the order of keys to `take` until that says no.
pub(super) fn sweep<K: Keyspace + ?Sized>(
    (keyspace, patience): (&K, &Patience<'_>),
    transform: &Transform<'_>,
    seal: bool,
    mut take: impl FnMut(JudgedPage, &Pins) -> Result<bool, Stop>,
) -> Result<Pins, Stop> {
    let pages = Mutex::new(Pages::new(keyspace, patience));
    let failed: Mutex<Option<Fault>> = Mutex::new(None);
    let lock = || pages.lock().unwrap_or_else(PoisonError::into_inner);
    let next = || {
        if patience.interrupted.load(Ordering::Relaxed) {
            return None;
        }
        let mut pages = lock();
        match pages.next_entries() {
            Ok(entries) => entries.map(|entries| (entries, pages.pins().clone())),
            Err(fault) => {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
                None
            }
        }
    };
    let work = |worker: &mut Worker<'_>, (entries, pins): (Vec<Entry>, Pins)| -> Result<_, MakeError> {
        let judge = |entry: Entry| worker.judge(&entry, seal).map(|judged| (entry, judged));
        let entries = entries.into_iter().map(judge).collect::<Result<_, _>>()?;
        Ok((JudgedPage { entries, inside: worker.inside, unlisted: worker.unlisted }, pins))
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let mut outcome = Ok(());
    ordered(
        threads,
        next,
        || Worker::new(transform),
        work,
        |page| {
            let taken = page.map_err(Stop::from).and_then(|(page, pins)| take(page, &pins));
            let goes_on = matches!(taken, Ok(true));
            outcome = taken.map(drop);
            goes_on
        },
    );
    outcome?;
    if let Some(fault) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(fault.into());
    }
    if patience.interrupted.load(Ordering::Relaxed) {
        return Err(Stop::Interrupted);
    }
    Ok(pages.into_inner().unwrap_or_else(PoisonError::into_inner).pins().clone())
}

/// Reads everything and judges it. `transform` makes what is judged by, with the roots; they are found where none are given.
///
/// # Errors
///
/// [`Stop`].
pub fn plan<'t, K: Keyspace + ?Sized>(
    asked: (&K, &Patience<'_>),
    kinds: &'t Kinds,
    given: Option<Roots>,
    transform: impl Fn(Arc<Roots>, &'t Kinds) -> Transform<'t>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Plan, Arc<Roots>), Stop> {
    let is_given = given.is_some();
    let mut roots = match given {
        Some(roots) => roots,
        None => sampled_roots(asked.0, asked.1)?,
    };
    loop {
        let shared = Arc::new(roots);
        let judged = transform(shared.clone(), kinds);
        let mut plan = Plan::default();
        let mut counts: Vec<u64> = Vec::new();
        let pins = sweep(asked, &judged, false, |page, _| {
            progress(page.entries.len() as u64);
            plan.add(page, &mut counts);
            Ok(true)
        })?;
        if plan.unlisted && !is_given {
            roots = all_roots(asked.0, asked.1)?;
            // It may be somebody else's key after all; then these are the roots.
            if roots.iter().eq(shared.iter()) {
                plan.unlisted = false;
            }
            if plan.unlisted {
                continue;
            }
        }
        plan.pins = pins;
        let count = |(kind, count)| (kind, Count { entries: count, ..Count::default() });
        plan.rows = kinds.table().into_iter().zip(counts).filter(|(_, count)| *count > 0).map(count).collect();
        plan.rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        plan.growth = plan.growth * 100 / FILLED;
        return Ok((plan, shared));
    }
}

impl Plan {
    fn add(&mut self, page: JudgedPage, counts: &mut Vec<u64>) {
        self.inside.bootstrap |= page.inside.bootstrap;
        self.inside.operators |= page.inside.operators;
        self.unlisted |= page.unlisted;
        for (entry, judged) in page.entries {
            let kind = judged.kind as usize;
            if counts.len() <= kind {
                counts.resize(kind + 1, 0);
            }
            counts.get_mut(kind).into_iter().for_each(|count| *count += 1);
            self.moves |= judged.moves;
            match judged.fate {
                Fate::Rewritten(_, bytes) => {
                    self.rewritten += 1;
                    self.growth += (entry.key.len() + bytes) as u64 + RECORD_BYTES;
                }
                Fate::Refused(why) => {
                    self.refused_count += 1;
                    if self.refused.len() < NAMED_REFUSED {
                        let revision = entry.mod_revision;
                        self.refused.push(Refused { key: entry.key, revision, why: why.to_string() });
                    }
                }
                Fate::Stays(_) => {}
            }
        }
    }
}

/// The roots as far as some keys tell: the first ones of each folder, down to the names of namespaces.
fn sampled_roots<K: Keyspace + ?Sized>(keyspace: &K, patience: &Patience<'_>) -> Result<Roots, Fault> {
    const SAMPLES: usize = 256;
    const DEPTH: usize = 3;
    let mut finder = RootFinder::new();
    let mut from = vec![0];
    for _ in 0..SAMPLES {
        let mut waited = std::time::Duration::ZERO;
        let page = loop {
            match keyspace.page(&from, 0, 1) {
                Ok(page) => break page,
                Err(fault) if fault.kind == FaultKind::Unknown => waited = patience.wait(waited, fault)?,
                Err(fault) => return Err(fault),
            }
        };
        let Some(entry) = page.entries.first() else { break };
        finder.see(&entry.key);
        // The first key behind this one's folder.
        let slashes = entry.key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(place, _)| place);
        let end = slashes.skip(1).nth(DEPTH - 2);
        from = match end {
            Some(end) => entry.key.iter().take(end).copied().chain([b'/' + 1]).collect(),
            None => entry.key.iter().copied().chain([0]).collect(),
        };
    }
    Ok(finder.finish())
}

/// The roots as all keys tell.
fn all_roots<K: Keyspace + ?Sized>(keyspace: &K, patience: &Patience<'_>) -> Result<Roots, Fault> {
    let mut finder = RootFinder::new();
    let mut pages = Pages::new(keyspace, patience);
    while let Some(entries) = pages.next_entries()? {
        entries.iter().for_each(|entry| finder.see(&entry.key));
    }
    Ok(finder.finish())
}
