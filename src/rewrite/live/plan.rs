//! What would become of how many entries, and what that takes of the server: one pass that writes nothing.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::etcd::span::{FIRST_KEY, NO_END, behind_parts, farther_ends};
use crate::kube::key::Roots;
use crate::kube::roots::RootFinder;
use crate::lock::{into_inner, lock};
use crate::source::trace::TraceKey;

use super::super::judging::{Inside, Refused};
use super::super::seal::MakeError;
use super::super::tally::{Count, Kind, Kinds};
use super::kept::{Keeps, Kept, Spool};
use super::keyspace::{Entry, Fault, Keyspace, Page};
use super::ordered::ordered;
use super::outline::Outline;
use super::pace::Patience;
use super::pages::{Pages, Pins, ReadPage, Reading, Seen};
use super::settle::Stop;
use super::transform::{Fate, Judged, Transform, Worker};
use super::witness::Witness;

/// Refused entries that are named; of more only the number is told.
const NAMED_REFUSED: usize = 1000;

/// Bytes of a record beside key and value: revision, element and the fields around them.
const RECORD_BYTES: u64 = 17 + 16 + 40;

/// How far leaf pages are filled, in hundredths.
const FILLED: u64 = 90;

/// What a pass over all entries gave.
#[derive(Default)]
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
    /// In which ranges.
    pub outline: Outline,
    /// What was put aside for the writing, where that was wanted and could be done.
    pub kept: Option<Kept>,
    /// A key looks like an object's below a root that is not known.
    pub(super) unlisted: bool,
}

/// A judged page, and what its worker has met so far.
pub(super) struct JudgedPage {
    pub entries: Vec<(Entry, Judged)>,
    pub inside: Inside,
    pub unlisted: bool,
}

/// Whom to ask, how long to wait, and in which ranges to read.
pub struct Asked<'a, K: ?Sized> {
    /// The store.
    pub keyspace: &'a K,
    /// How long to wait for answers, and whether somebody interrupts.
    pub patience: &'a Patience<'a>,
    /// In which ranges it is read; none where they are still to be drawn.
    pub outline: Option<&'a Outline>,
    /// What somebody saw who has looked.
    pub seen: Option<&'a Seen>,
}

/// How a store was read.
#[derive(Default)]
pub(super) struct Swept {
    /// At which revisions.
    pub pins: Pins,
    /// In which pages.
    pub outline: Outline,
}

/// Judges every entry, `seal` with what takes its place, and gives each page in the order of keys to `take` until that says no.
pub(super) fn sweep<K: Keyspace + ?Sized>(
    asked: &Asked<'_, K>,
    transform: &Transform<'_>,
    seal: bool,
    mut take: impl FnMut(JudgedPage) -> Result<bool, Stop>,
) -> Result<Swept, Stop> {
    let Asked { keyspace, patience, outline, seen } = *asked;
    let failed: Mutex<Option<Fault>> = Mutex::new(None);
    let work = |worker: &mut Worker<'_>, page: ReadPage| -> Result<_, MakeError> {
        let place = page.place();
        let judge = |entry: Entry| worker.judge(&entry, seal).map(|judged| (entry, judged));
        let entries = page.entries.into_iter().map(judge).collect::<Result<_, _>>()?;
        Ok((place, JudgedPage { entries, inside: worker.inside, unlisted: worker.unlisted }))
    };
    let (mut outcome, mut swept) = (Ok(()), Swept::default());
    let reading = Reading::new(keyspace, patience).having_seen(seen.cloned());
    let reading = if outline.is_some() { reading.exact() } else { reading };
    reading.in_order(outline, |next_page| {
        let next = || {
            if patience.interrupted.load(Ordering::Relaxed) {
                return None;
            }
            next_page().unwrap_or_else(|fault| {
                *lock(&failed) = Some(fault);
                None
            })
        };
        ordered(
            threads(),
            next,
            || Worker::new(transform),
            work,
            |page| {
                let taken = page.map_err(Stop::from).and_then(|(place, page)| {
                    if keyspace.takes_ranges() {
                        swept.outline.cut(place.0.clone());
                    }
                    swept.pins.note(place);
                    take(page)
                });
                let goes_on = matches!(taken, Ok(true));
                outcome = taken.map(drop);
                goes_on
            },
        );
    });
    outcome?;
    if let Some(fault) = into_inner(failed) {
        return Err(fault.into());
    }
    if patience.interrupted.load(Ordering::Relaxed) {
        return Err(Stop::Interrupted);
    }
    Ok(swept)
}

/// As many workers as there are processors.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get())
}

/// Reads everything and judges it. `transform` makes what is judged by, with the roots; they are found where none are given.
/// What is to be written anew is put aside as `keeps` says, so that it need not be read again at once.
///
/// # Errors
///
/// [`Stop`].
pub fn plan<'t, K: Keyspace + ?Sized>(
    (keyspace, patience): (&K, &Patience<'_>),
    kinds: &'t Kinds,
    (given, keeps): (Option<Roots>, Keeps),
    transform: impl Fn(Arc<Roots>, &'t Kinds) -> Transform<'t>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Plan, Arc<Roots>), Stop> {
    let is_given = given.is_some();
    let (mut roots, seen) = match given {
        Some(roots) => (roots, None),
        None => sampled_roots(&Reading::new(keyspace, patience))?,
    };
    let mut outline = None;
    loop {
        let shared = Arc::new(roots);
        let judged = transform(shared.clone(), kinds);
        let mut plan = Plan::default();
        let mut counts: Vec<u64> = Vec::new();
        let mut keeper = Keeper::new(keeps, judged.digests);
        let swept = sweep(
            &Asked { keyspace, patience, outline: outline.as_ref(), seen: seen.as_ref() },
            &judged,
            keeps == Keeps::Sealed,
            |page| {
                progress(page.entries.len() as u64);
                keeper.keep(&page);
                plan.add(page, &mut counts);
                Ok(true)
            },
        )?;
        if plan.unlisted && !is_given {
            roots = all_roots(&Reading::new(keyspace, patience))?;
            // It may be somebody else's key after all; then these are the roots.
            if roots.iter().eq(shared.iter()) {
                plan.unlisted = false;
            }
            if plan.unlisted {
                outline = Some(swept.outline);
                continue;
            }
        }
        plan.kept = keeper.finish(&swept.pins);
        (plan.pins, plan.outline) = (swept.pins, swept.outline);
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

/// What puts entries aside while a plan is made; nothing, where that is not wanted or does not work.
struct Keeper(Option<Kept>);

impl Keeper {
    fn new(keeps: Keeps, digests: TraceKey) -> Self {
        if keeps == Keeps::Nothing {
            return Self(None);
        }
        let made = Witness::new(digests).and_then(|witness| {
            let (spool, sealed) = (Spool::new()?, keeps == Keeps::Sealed);
            Ok(Kept { witness, pins: Pins::default(), spool, sealed, entries: 0 })
        });
        Self(made.inspect_err(without).ok())
    }

    fn keep(&mut self, page: &JudgedPage) {
        let Some(Kept { witness, spool, sealed, entries, .. }) = &mut self.0 else { return };
        *entries += page.entries.len() as u64;
        let kept = page.entries.iter().try_for_each(|(entry, judged)| {
            let record = witness.read(entry, judged.digest);
            let Fate::Rewritten(new, _) = &judged.fate else { return Ok(()) };
            spool.put((record, judged.digest), entry, if *sealed { new } else { &entry.value })
        });
        if let Err(error) = kept.and_then(|()| witness.flush()) {
            without(&error);
            self.0 = None;
        }
    }

    fn finish(self, pins: &Pins) -> Option<Kept> {
        Some(Kept { pins: pins.clone(), ..self.0? })
    }
}

fn without(error: &std::io::Error) {
    tracing::info!(%error, "what was read cannot be put aside, and is read again");
}

/// The roots as far as some keys tell: the first ones of each folder. And what was seen on the way.
fn sampled_roots<K: Keyspace + ?Sized>(reading: &Reading<'_, K>) -> Result<(Roots, Option<Seen>), Fault> {
    const SAMPLES: usize = 256;
    const KEYS_OF_A_SAMPLE: i64 = 8;
    const PARTS: usize = 2;
    let (mut finder, mut seen) = (RootFinder::new(), None);
    let (mut from, mut ends) = (FIRST_KEY.to_vec(), vec![NO_END.to_vec()]);
    for _ in 0..SAMPLES {
        let (mut entries, mut count) = (Vec::new(), 0);
        for end in &ends {
            Page { entries, count, .. } = reading.page((&from, end), Some(KEYS_OF_A_SAMPLE))?.0;
            if !entries.is_empty() {
                break;
            }
        }
        entries.iter().for_each(|entry| finder.see(&entry.key));
        let Some(last) = entries.last() else { break };
        seen = seen.or_else(|| entries.first().map(|first| Seen { keys: count, first: first.key.clone() }));
        from = behind_parts(&last.key, PARTS);
        if from.is_empty() || !reading.keyspace.takes_ranges() {
            break;
        }
        ends = farther_ends(&from);
    }
    Ok((finder.finish(), seen))
}

/// The roots as all keys tell.
fn all_roots<K: Keyspace + ?Sized>(reading: &Reading<'_, K>) -> Result<Roots, Fault> {
    let mut finder = RootFinder::new();
    let mut pages = Pages::all(reading);
    while let Some(page) = pages.next_page()? {
        page.entries.iter().for_each(|entry| finder.see(&entry.key));
    }
    Ok(finder.finish())
}
