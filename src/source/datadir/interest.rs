//! What of a database must be known to carry out the log, and a visitor that notes it while somebody else reads the database.
//!
//! The database is read once, and its records come in no order. So what the entries of the log touch is gathered first: keys that they
//! name, ranges, leases that they end. Of those the newest record is noted by each worker beside what its own visitor does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bbolt::page::LeafElement;
use crate::etcd::request::{Compare, KeyRange, Operation, Request};
use crate::etcd::wal::Window;
use crate::source::residue::Stray;
use crate::source::scan::Visitor;
use crate::source::trace::TraceKey;
use crate::source::{Place, Record};

use super::log::Log;
use super::segments::{EntryAt, content};

/// What the entries that are to be carried out touch, and which contents the log has.
#[derive(Debug)]
pub(super) struct Interest {
    key: TraceKey,
    /// Keys by a digest: the number of their name, where an entry that is to be carried out names them.
    touched: HashMap<u64, Option<u32>, BuildHasherDefault<AsItIs>>,
    names: Vec<Vec<u8>>,
    /// Ranges that have nothing in common, in their order; the end of the last one may be open.
    ranges: Vec<Range>,
    leases: HashSet<i64>,
    log: Option<Arc<Log>>,
    /// For each put of the log whether the store has its content.
    seen: Vec<AtomicBool>,
}

/// From a key to before another, or to the last one.
type Range = (Vec<u8>, Option<Vec<u8>>);

/// The same keys in ranges that have nothing in common, in their order.
fn apart(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort();
    let mut apart: Vec<Range> = Vec::new();
    for (from, end) in ranges {
        match apart.last_mut() {
            Some((_, None)) => break,
            Some((_, last @ Some(_))) if last.as_ref() >= Some(&from) => {
                // An open end is the greatest, although it sorts as the least.
                *last = match end {
                    Some(end) => last.take().max(Some(end)),
                    None => None,
                };
            }
            _ => apart.push((from, end)),
        }
    }
    apart
}

/// Digests are hashes already.
#[derive(Debug, Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only numbers are hashed; anything else would merely be slow.
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl Interest {
    /// What some entries touch, of which the first one that cannot be read is told. `leases` are those that the database has; with
    /// `strays` the contents of all puts are looked for, too.
    pub(super) fn of(
        log: &Arc<Log>,
        entries: &[EntryAt],
        leases: &HashSet<i64>,
        strays: bool,
    ) -> (Self, Option<usize>) {
        let mut interest = Self {
            key: log.key,
            touched: HashMap::default(),
            names: Vec::new(),
            ranges: Vec::new(),
            leases: HashSet::new(),
            log: strays.then(|| log.clone()),
            seen: Vec::new(),
        };
        if strays {
            interest.touched.extend(log.puts().iter().map(|put| (put.key, None)));
            interest.seen.resize_with(log.puts().len(), AtomicBool::default);
        }
        let mut window = Window::new();
        let unreadable = entries.iter().position(|entry| match super::request(log, entry, &mut window) {
            Some(request) => {
                interest.add(&request, leases);
                false
            }
            None => true,
        });
        interest.ranges = apart(std::mem::take(&mut interest.ranges));
        (interest, unreadable)
    }

    fn add(&mut self, request: &Request<'_>, leases: &HashSet<i64>) {
        match request {
            Request::Put(put) => self.name(put.key),
            Request::DeleteRange(range) => self.range(range),
            Request::LeaseRevoke(lease) if leases.contains(lease) => drop(self.leases.insert(*lease)),
            Request::Txn(txn) => {
                txn.each(&mut |operation| match operation {
                    Operation::Put(put) => self.name(put.key),
                    Operation::DeleteRange(range) => self.range(range),
                    Operation::Range(_) | Operation::Txn(_) | Operation::Nothing => {}
                });
                txn.conditions(&mut |compare: &Compare<'_>| self.range(&compare.keys));
            }
            _ => {}
        }
    }

    fn name(&mut self, key: &[u8]) {
        let number = self.touched.entry(self.key.digest(key) as u64).or_default();
        if number.is_none() {
            *number = u32::try_from(self.names.len()).ok();
            self.names.push(key.to_vec());
        }
    }

    fn range(&mut self, range: &KeyRange<'_>) {
        match range.end {
            None => self.name(range.key),
            Some(end) => {
                self.ranges.push((range.key.to_vec(), Some(end.to_vec()).filter(|end| !end.is_empty())));
            }
        }
    }

    fn is_nothing(&self) -> bool {
        self.touched.is_empty() && self.ranges.is_empty() && self.leases.is_empty()
    }

    fn in_ranges(&self, key: &[u8]) -> bool {
        let behind = self.ranges.partition_point(|(from, _)| from.as_slice() <= key);
        let range = behind.checked_sub(1).and_then(|number| self.ranges.get(number));
        range.is_some_and(|(_, end)| end.as_deref().is_none_or(|end| key < end))
    }

    /// The store has this content.
    pub(super) fn see(&self, key: &[u8], value: &[u8]) {
        if let Some(log) = &self.log
            && !value.is_empty()
            && let Some(number) = log.first_with(content(self.key, key, value))
        {
            self.see_number(number);
        }
    }

    /// The store has the content of a put.
    pub(super) fn see_put(&self, at: u64) {
        let number = self.log.as_ref().and_then(|log| log.first_with(log.put_at(at)?.1.content));
        number.into_iter().for_each(|number| self.see_number(number));
    }

    fn see_number(&self, number: u32) {
        if let Some(seen) = self.seen.get(number as usize) {
            seen.store(true, Ordering::Relaxed);
        }
    }

    /// The numbers of puts whose content the store has not; one of each content.
    pub(super) fn unseen(&self) -> Vec<u32> {
        let Some(log) = &self.log else { return Vec::new() };
        let puts = (0_u32..).zip(log.puts()).zip(&self.seen);
        let unseen = puts.filter(|((number, put), seen)| {
            !seen.load(Ordering::Relaxed) && log.first_with(put.content) == Some(*number)
        });
        unseen.map(|((number, _), _)| number).collect()
    }
}

/// The newest record of a key, as far as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) place: Place,
    pub(super) tombstone: bool,
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
    pub(super) version: i64,
    pub(super) lease: i64,
}

impl Note {
    fn of(record: &Record<'_>) -> Self {
        Self {
            place: record.place,
            tombstone: record.revision.tombstone,
            create_revision: record.kv.create_revision,
            mod_revision: record.revision.revision.main,
            version: record.kv.version,
            lease: record.kv.lease,
        }
    }

    fn newest(known: &mut Option<Self>, note: Self) {
        if known.is_none_or(|known| known.place < note.place) {
            *known = Some(note);
        }
    }
}

/// What the workers noted.
#[derive(Debug, Default)]
pub(super) struct Notes {
    names: HashMap<u32, Option<Note>>,
    ranged: BTreeMap<Vec<u8>, Option<Note>>,
    /// Records on leases that are ended. A later record may have taken the key from its lease.
    leased: BTreeMap<Vec<u8>, Option<Note>>,
    /// Every record's digest and place, where leases are ended.
    places: Vec<(u64, Place)>,
    /// The last record's place and main revision.
    last: Option<(Place, i64)>,
}

impl Notes {
    /// Adds another worker's.
    pub(super) fn absorb(&mut self, other: Self) {
        for (number, note) in other.names {
            note.into_iter().for_each(|note| Note::newest(self.names.entry(number).or_default(), note));
        }
        for (mine, theirs) in [(&mut self.ranged, other.ranged), (&mut self.leased, other.leased)] {
            for (key, note) in theirs {
                if let Some(note) = note {
                    Note::newest(mine.entry(key).or_default(), note);
                }
            }
        }
        self.places.extend(other.places);
        self.last = self.last.max(other.last);
    }

    /// The main revision of the last record.
    pub(super) fn last(&self) -> Option<i64> {
        self.last.map(|(_, main)| main)
    }

    /// Keys that were asked about and are not deleted, with their newest records.
    pub(super) fn live(self, interest: &Interest) -> BTreeMap<Vec<u8>, Note> {
        let mut newest: HashMap<u64, Place> = HashMap::new();
        if !self.leased.is_empty() {
            newest.extend(self.leased.keys().map(|key| (interest.key.digest(key) as u64, Place::default())));
            for (digest, place) in &self.places {
                if let Some(known) = newest.get_mut(digest) {
                    *known = (*known).max(*place);
                }
            }
        }
        let is_newest = |key: &[u8], note: &Note| newest.get(&(interest.key.digest(key) as u64)) == Some(&note.place);
        let leased = self.leased.into_iter().filter(|(key, note)| note.is_some_and(|note| is_newest(key, &note)));
        let named = self.names.into_iter().filter_map(|(number, note)| {
            let name = interest.names.get(number as usize)?;
            Some((name.clone(), note))
        });
        let all = leased.chain(self.ranged).chain(named);
        all.filter_map(|(key, note)| Some((key, note.filter(|note| !note.tombstone)?))).collect()
    }
}

/// A visitor that notes what is of interest before it hands on what it is given.
pub(super) struct Noting<V> {
    pub(super) inner: V,
    pub(super) notes: Notes,
    pub(super) interest: Arc<Interest>,
}

impl<V> Noting<V> {
    pub(super) fn new(inner: V, interest: Arc<Interest>) -> Self {
        Self { inner, notes: Notes::default(), interest }
    }

    fn note(&mut self, record: &Record<'_>) {
        let main = record.revision.revision.main;
        self.notes.last = self.notes.last.max(Some((record.place, main)));
        let interest = &self.interest;
        if interest.is_nothing() {
            return;
        }
        let key = record.kv.key;
        let digest = interest.key.digest(key) as u64;
        if let Some(name) = interest.touched.get(&digest) {
            interest.see(key, record.kv.value);
            if let Some(number) = *name
                && interest.names.get(number as usize).is_some_and(|name| name == key)
            {
                Note::newest(self.notes.names.entry(number).or_default(), Note::of(record));
            }
        }
        if interest.in_ranges(key) {
            note_by_key(&mut self.notes.ranged, record);
        }
        if !interest.leases.is_empty() {
            self.notes.places.push((digest, record.place));
            if interest.leases.contains(&record.kv.lease) {
                note_by_key(&mut self.notes.leased, record);
            }
        }
    }
}

fn note_by_key(notes: &mut BTreeMap<Vec<u8>, Option<Note>>, record: &Record<'_>) {
    match notes.get_mut(record.kv.key) {
        Some(known) => Note::newest(known, Note::of(record)),
        None => drop(notes.insert(record.kv.key.to_vec(), Some(Note::of(record)))),
    }
}

impl<V: Visitor> Visitor for Noting<V> {
    fn pair(&mut self, place: Place, element: &LeafElement<'_>) {
        self.inner.pair(place, element);
    }

    fn record(&mut self, record: &Record<'_>) {
        self.note(record);
        self.inner.record(record);
    }

    // The inner visitor ends behind the records of the log, which come later.

    const STRAYS: bool = V::STRAYS;

    fn stray(&mut self, stray: &Stray<'_>) {
        let interest = &self.interest;
        if !interest.is_nothing() && interest.touched.contains_key(&(interest.key.digest(stray.kv.key) as u64)) {
            interest.see(stray.kv.key, stray.kv.value);
        }
        self.inner.stray(stray);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_meet_become_one() {
        let range =
            |from: &str, end: &str| (from.as_bytes().to_vec(), (!end.is_empty()).then(|| end.as_bytes().to_vec()));
        let check = |ranges: &[(&str, &str)], expected: &[(&str, &str)]| {
            let of = |ranges: &[(&str, &str)]| ranges.iter().map(|(from, end)| range(from, end)).collect::<Vec<_>>();
            assert_eq!(apart(of(ranges)), of(expected));
        };
        check(&[("m", "p"), ("a", "c"), ("b", "d")], &[("a", "d"), ("m", "p")]);
        check(&[("a", "z"), ("b", "d")], &[("a", "z")]);
        check(&[("a", "c"), ("b", ""), ("x", "z")], &[("a", "")]);
        check(&[("a", ""), ("a", "c")], &[("a", "")]);
        check(&[], &[]);
    }
}
