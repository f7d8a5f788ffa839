//! The log carried out: the records that a restarted server would have beside those of its database.
//!
//! Of a record only its place in the log is kept, and what the log does not say of it. Its value is read again whenever it is wanted.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::bbolt::page::LeafElement;
use crate::etcd::apply::{Change, Current, Keeper, Outcome, State, ValueAt};
use crate::etcd::request::Request;
use crate::etcd::wal::Window;
use crate::etcd::{KeyValue, Revision, RevisionKey};
use crate::source::residue::Stray;
use crate::source::scan::Visitor;
use crate::source::snapshot::Outline;
use crate::source::{PageFile, Place, Record, StoreMeta};

use super::interest::{Interest, Notes};
use super::log::Log;
use super::segments::EntryAt;

/// So many records of the log are taken for a leaf of the tree.
const LEAF_RECORDS: usize = 256;

/// Strays of the log have places from here on; a file's own bytes lie before.
pub(super) const LOG_STRAYS: u64 = 1 << 62;

/// The records that only the log has, and what the store says of itself with them.
#[derive(Debug)]
pub struct Replay {
    log: Arc<Log>,
    records: Vec<LogRecord>,
    /// Keys of deletions, one behind the other.
    keys: Vec<u8>,
    /// The leaf that the first record is taken to be on. One is left out behind the last one of the tree, so that nobody takes them for
    /// neighbours.
    first_leaf: u32,
    /// Numbers of puts whose content the store has not.
    strays: Vec<u32>,
    pub(super) facts: super::LogFacts,
}

#[derive(Clone, Copy, Debug)]
struct LogRecord {
    revision: Revision,
    body: Body,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Put {
        at: u64,
        bytes: u32,
        current: Current,
    },
    /// Where its key stands.
    Deleted {
        from: usize,
        to: usize,
    },
}

/// Takes what carrying out the log changes.
struct Taken<'t> {
    log: &'t Log,
    pages: &'t PageFile,
    outline: &'t Outline,
    window: Window,
    records: Vec<LogRecord>,
    keys: Vec<u8>,
    touched: std::collections::HashSet<u64>,
    key: crate::source::trace::TraceKey,
}

impl Keeper for Taken<'_> {
    fn compare(&mut self, value: ValueAt, other: &[u8]) -> Option<Ordering> {
        let mut order = None;
        with_value(value, self.log, (self.pages, self.outline), &mut self.window, &mut |found| {
            order = Some(found.cmp(other));
        });
        order
    }

    fn changed(&mut self, change: &Change<'_>) {
        self.touched.insert(self.key.digest(change.key) as u64);
        let body = match (change.current, change.put) {
            (Some(current), Some((at, bytes))) => Body::Put { at, bytes, current },
            _ => {
                let from = self.keys.len();
                self.keys.extend_from_slice(change.key);
                Body::Deleted { from, to: self.keys.len() }
            }
        };
        self.records.push(LogRecord { revision: change.revision, body });
    }
}

/// A place of the tree as a number.
fn number(place: Place) -> u64 {
    u64::from(place.leaf) << 16 | u64::from(place.index)
}

/// Gives a value to `visit`, wherever it stands.
fn with_value(
    value: ValueAt,
    log: &Log,
    (pages, outline): (&PageFile, &Outline),
    window: &mut Window,
    visit: &mut dyn FnMut(&[u8]),
) {
    match value {
        ValueAt::Log(at, bytes) => log.put(window, at, bytes).into_iter().for_each(|put| visit(put.value)),
        ValueAt::Database(number) => {
            let place = Place { leaf: (number >> 16) as u32, index: number as u16 };
            outline.records_at(pages, &[place], |_, kv| visit(kv.value));
        }
    }
}

/// What a replay begins with.
pub(super) struct Base<'b> {
    pub(super) pages: &'b PageFile,
    pub(super) outline: &'b Outline,
    pub(super) interest: &'b Interest,
    pub(super) notes: Notes,
}

impl Replay {
    /// Carries entries out upon a database. What that makes of the store's own notes is put into `meta`.
    pub(super) fn of(
        log: &Arc<Log>,
        entries: &[EntryAt],
        base: Base<'_>,
        mut facts: super::LogFacts,
        meta: &mut StoreMeta,
    ) -> Self {
        let Base { pages, outline, interest, notes } = base;
        facts.revision_in_database = meta.current_revision(notes.last());
        facts.last_in_database = notes.last().unwrap_or(0);
        let mut state = State::new(facts.revision_in_database, meta.compacted());
        let standing = &outline.standing;
        standing.leases.iter().for_each(|lease| state.add_lease(*lease));
        standing.alarms.iter().for_each(|(member, alarm)| state.add_alarm(*member, *alarm));
        for (key, note) in notes.live(interest) {
            let value = ValueAt::Database(number(note.place));
            let (create_revision, mod_revision) = (note.create_revision, note.mod_revision);
            let current = Current { create_revision, mod_revision, version: note.version, lease: note.lease, value };
            state.add_key(key, current);
        }
        let mut taken = Taken {
            log,
            pages,
            outline,
            window: Window::new(),
            records: Vec::new(),
            keys: Vec::new(),
            touched: std::collections::HashSet::new(),
            key: log.key,
        };
        let mut window = Window::new();
        for entry in entries {
            let Some(request) = super::request(log, entry, &mut window) else { break };
            note_cluster(&request, meta);
            match state.apply(&request, entry.at, &mut taken) {
                Outcome::Changed => facts.writes += 1,
                Outcome::Nothing => {}
                Outcome::Refused => facts.refused += 1,
            }
        }
        if let Some(last) = entries.last() {
            meta.consistent_index = Some(last.index);
            meta.term = meta.term.map(|_| last.term);
        }
        if state.compacted > meta.compacted() {
            meta.scheduled_compaction = state.compacted;
        }
        facts.records = taken.records.len() as u64;
        facts.keys = taken.touched.len() as u64;
        facts.revision = state.revision;
        for record in &taken.records {
            if let Body::Put { at, .. } = record.body {
                interest.see_put(at);
            }
        }
        Self {
            log: log.clone(),
            records: taken.records,
            keys: taken.keys,
            first_leaf: outline.leaves().saturating_add(1),
            strays: interest.unseen(),
            facts,
        }
    }

    /// The first leaf that is none of the tree.
    pub fn first_leaf(&self) -> u32 {
        self.first_leaf
    }

    /// Pieces of the work: first the records, then the strays.
    pub(super) fn pieces(&self) -> usize {
        self.records.len().div_ceil(LEAF_RECORDS) + self.strays.len().div_ceil(LEAF_RECORDS)
    }

    /// Gives a piece to a visitor.
    pub(super) fn serve<V: Visitor>(
        &self,
        piece: usize,
        (pages, outline): (&PageFile, &Outline),
        buffers: &mut Buffers,
        visitor: &mut V,
    ) {
        let leaves = self.records.len().div_ceil(LEAF_RECORDS);
        let range = |piece: usize, all: usize| piece * LEAF_RECORDS..((piece + 1) * LEAF_RECORDS).min(all);
        if piece < leaves {
            let mut encoded = Vec::new();
            for number in range(piece, self.records.len()) {
                self.record(number, (pages, outline), buffers, |record| {
                    record.kv.encode_into(&mut encoded);
                    let key = record.revision.encode();
                    let value = encoded.as_slice();
                    visitor.pair(record.place, &LeafElement { is_bucket: false, key: &key, value, value_offset: 0 });
                    visitor.record(record);
                });
            }
        } else if V::STRAYS {
            for number in range(piece - leaves, self.strays.len()) {
                let Some(number) = self.strays.get(number).copied() else { continue };
                let Some(put) = self.log.puts().get(number as usize) else { continue };
                let at = LOG_STRAYS | put.at;
                // The log does not say at which revision a put was carried out.
                let revision = Revision { main: 0, sub: i64::from(number) };
                self.stray(at, &mut buffers.puts, |kv| visitor.stray(&Stray { revision, kv, at }));
            }
        }
    }

    fn place(&self, number: usize) -> Place {
        let leaf = u32::try_from(number / LEAF_RECORDS).unwrap_or(u32::MAX);
        Place { leaf: self.first_leaf.saturating_add(leaf), index: (number % LEAF_RECORDS) as u16 }
    }

    fn record(
        &self,
        number: usize,
        (pages, outline): (&PageFile, &Outline),
        buffers: &mut Buffers,
        visit: impl FnOnce(&Record<'_>),
    ) {
        let Some(record) = self.records.get(number) else { return };
        let place = self.place(number);
        let tombstone = matches!(record.body, Body::Deleted { .. });
        let revision = RevisionKey { revision: record.revision, tombstone };
        match record.body {
            Body::Deleted { from, to } => {
                let key = self.keys.get(from..to).unwrap_or_default();
                visit(&Record { place, revision, kv: KeyValue { key, ..KeyValue::default() } });
            }
            Body::Put { at, bytes, current } => {
                let Buffers { puts, kept, value } = buffers;
                let Some(put) = self.log.put(puts, at, bytes) else { return };
                let stands = if current.value == ValueAt::Log(at, bytes) {
                    put.value
                } else {
                    value.clear();
                    let keep = &mut |found: &[u8]| value.extend_from_slice(found);
                    with_value(current.value, &self.log, (pages, outline), kept, keep);
                    value.as_slice()
                };
                let kv = KeyValue {
                    key: put.key,
                    create_revision: current.create_revision,
                    mod_revision: current.mod_revision,
                    version: current.version,
                    value: stands,
                    lease: current.lease,
                };
                visit(&Record { place, revision, kv });
            }
        }
    }

    /// Reads records of the log again, at places that ascend.
    pub(super) fn records_at(
        &self,
        database: (&PageFile, &Outline),
        places: &[Place],
        mut visit: impl FnMut(Place, KeyValue<'_>),
    ) {
        let mut buffers = Buffers::default();
        for place in places {
            let Some(leaf) = place.leaf.checked_sub(self.first_leaf) else { continue };
            let number = leaf as usize * LEAF_RECORDS + usize::from(place.index);
            self.record(number, database, &mut buffers, |record| visit(record.place, record.kv));
        }
    }

    /// Says of revisions whether the log has a put of them, and of which key.
    pub(super) fn find(&self, revisions: &[Revision], mut visit: impl FnMut(usize, &[u8])) {
        let mut window = Window::new();
        for (index, revision) in revisions.iter().enumerate() {
            let Ok(number) = self.records.binary_search_by_key(revision, |record| record.revision) else { continue };
            if let Some(LogRecord { body: Body::Put { at, bytes, .. }, .. }) = self.records.get(number) {
                self.log.put(&mut window, *at, *bytes).into_iter().for_each(|put| visit(index, put.key));
            }
        }
    }

    /// Reads a stray of the log again.
    pub(super) fn stray_at<T>(&self, at: u64, visit: impl FnOnce(KeyValue<'_>) -> T) -> Option<T> {
        self.stray(at, &mut Window::new(), visit)
    }

    fn stray<T>(&self, at: u64, window: &mut Window, visit: impl FnOnce(KeyValue<'_>) -> T) -> Option<T> {
        let (_, put) = self.log.put_at(at & !LOG_STRAYS)?;
        let put = self.log.put(window, put.at, put.bytes)?;
        Some(visit(KeyValue { key: put.key, value: put.value, lease: put.lease, ..KeyValue::default() }))
    }
}

/// What a worker reads into.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    puts: Window,
    kept: Window,
    value: Vec<u8>,
}

/// What the cluster agreed upon beside its keys.
fn note_cluster(request: &Request<'_>, meta: &mut StoreMeta) {
    match request {
        Request::ClusterVersion(version) => {
            if let Ok(version) = std::str::from_utf8(version) {
                meta.cluster_version = Some(version.to_owned());
            }
        }
        Request::Downgrade { enabled, version } => {
            let version = String::from_utf8_lossy(version);
            let record =
                serde_json::json!({ "target-version": if *enabled { &version } else { "" }, "enabled": enabled });
            meta.downgrade = Some(record.to_string());
        }
        _ => {}
    }
}
