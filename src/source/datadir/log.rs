//! The log as a whole: which entries follow one another without a gap, and which of them a database lacks.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::io;
use std::path::Path;

use crate::etcd::raft::{ConfChange, EntryKind};
use crate::etcd::request::{Put, Request};
use crate::etcd::wal::{End, Metadata, WalSnapshot, Window};
use crate::source::trace::TraceKey;

use super::segments::{EntryAt, Parsed, PutAt, SegmentFile, list, parse};

/// A log that was read once.
#[derive(Debug)]
pub struct Log {
    segments: Vec<SegmentFile>,
    entries: Vec<EntryAt>,
    runs: Vec<Run>,
    puts: Vec<PutAt>,
    /// The first put of each content.
    contents: HashMap<[u64; 2], u32>,
    /// Up to where snapshots were made.
    snapshots: Vec<WalSnapshot>,
    /// The greatest index that raft's own state said to be committed.
    pub(super) commit: u64,
    /// Where the last write was torn, in words.
    pub(super) torn: Option<String>,
    /// What is wrong with it, in words, in the order of the log.
    pub(super) damage: Vec<String>,
    /// Names of files in its folder that are no segments.
    pub(super) others: Vec<String>,
    /// The key of its digests.
    pub(super) key: TraceKey,
}

/// Entries that follow one another in segments that hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    from: usize,
    to: usize,
    metadata: Option<Metadata>,
    /// Why it does not go on, where the log does.
    ends: Option<String>,
}

/// The entries that a database lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    /// The first one and the one behind the last, among all entries.
    pub(super) from: usize,
    /// See [`from`](Self::from).
    pub(super) to: usize,
    /// Why later ones, of which there are, cannot follow.
    pub(super) stops: Option<String>,
    /// Why none of it can be used.
    pub(super) unusable: Option<String>,
}

impl Log {
    /// Reads the log in a folder.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed. What is wrong with segments is among the [`damage`](Self::damage).
    pub(super) fn read(folder: &Path, key: TraceKey) -> io::Result<Self> {
        let listing = list(folder)?;
        let parsed = parse(&listing.segments, key);
        let mut log = Self::nothing(key);
        log.segments = listing.segments;
        log.others = listing.others;
        for (name, error) in listing.closed {
            log.damage.push(format!("wal/{name} cannot be opened: {error}"));
        }
        log.join(parsed);
        Ok(log)
    }

    /// A log without segments.
    pub(super) fn nothing(key: TraceKey) -> Self {
        Self {
            segments: Vec::new(),
            entries: Vec::new(),
            runs: Vec::new(),
            puts: Vec::new(),
            contents: HashMap::new(),
            snapshots: Vec::new(),
            commit: 0,
            torn: None,
            damage: Vec::new(),
            others: Vec::new(),
            key,
        }
    }

    /// Puts the segments together.
    fn join(&mut self, parsed: Vec<Parsed>) {
        let mut before: Option<(u64, u32, bool)> = None;
        for (number, parsed) in parsed.into_iter().enumerate() {
            let Some(file) = self.segments.get(number) else { return };
            let (sequence, name) = (file.name.sequence, file.path_name.clone());
            let begins = parsed.segment.begins;
            let breaks = match before {
                None => None,
                Some((last, ..)) if sequence != last.saturating_add(1) => {
                    let missing = sequence.saturating_sub(last).saturating_sub(1);
                    Some(format!("{missing} segments are missing before wal/{name}"))
                }
                // What is wrong with it was said; no later segment can follow a broken one.
                Some((_, _, true)) => Some(String::new()),
                Some((_, ends, _)) if ends != 0 && begins.is_some_and(|begins| begins != ends) => {
                    Some(format!("wal/{name} does not begin with the checksum at which the segment before it ends"))
                }
                Some(_) => None,
            };
            let metadata = self.runs.last().and_then(|run| run.metadata);
            let another = metadata.is_some() && parsed.metadata.is_some() && metadata != parsed.metadata;
            let breaks = match breaks {
                None if another => {
                    Some(format!("wal/{name} is of another member or cluster than the segment before it"))
                }
                breaks => breaks,
            };
            if let Some(why) = &breaks {
                self.end_run(why);
            }
            if breaks.is_some() || self.runs.is_empty() {
                let at = self.entries.len();
                self.runs.push(Run { from: at, to: at, metadata: parsed.metadata, ends: None });
            }
            self.add(&parsed, &name);
            let broken = self.note_end(&parsed, &name);
            before = Some((sequence, parsed.segment.ends, broken));
            self.commit = self.commit.max(parsed.commit);
            self.snapshots.extend(parsed.snapshots);
            for put in parsed.puts {
                let number = u32::try_from(self.puts.len()).unwrap_or(u32::MAX);
                self.contents.entry(put.content).or_insert(number);
                self.puts.push(put);
            }
        }
    }

    fn add(&mut self, parsed: &Parsed, name: &str) {
        for entry in &parsed.entries {
            let Some(run) = self.runs.last() else { return };
            let from = run.from;
            let last = self.entries.get(from..).and_then(<[EntryAt]>::last).copied();
            let wrong = match last {
                Some(last) if entry.term < last.term => Some("goes back to an older term"),
                Some(last) if entry.index > last.index.saturating_add(1) => Some("does not follow the one before it"),
                _ => None,
            };
            if let Some(wrong) = wrong {
                self.end_run(&format!("entry {} in wal/{name} {wrong}", entry.index));
                let (at, metadata) = (self.entries.len(), parsed.metadata);
                self.runs.push(Run { from: at, to: at, metadata, ends: None });
            } else {
                // A new leader's entries take the place of those that were never committed.
                while self.entries.len() > from && self.entries.last().is_some_and(|last| last.index >= entry.index) {
                    self.entries.pop();
                }
            }
            self.entries.push(*entry);
            let to = self.entries.len();
            if let Some(run) = self.runs.last_mut() {
                run.to = to;
            }
        }
    }

    fn note_end(&mut self, parsed: &Parsed, name: &str) -> bool {
        match &parsed.segment.end {
            End::Whole => false,
            End::Torn(at) => {
                self.torn = Some(format!("wal/{name} ends at byte {at} with a write that was never finished"));
                false
            }
            End::Broken(at, why) => {
                let words = format!("wal/{name}: the record at byte {at} {why}");
                if let Some(run) = self.runs.last_mut() {
                    run.ends = Some(words.clone());
                }
                self.damage.push(words);
                true
            }
        }
    }

    /// The run that was read last does not go on. Nothing is said where that was said before.
    fn end_run(&mut self, why: &str) {
        if why.is_empty() {
            return;
        }
        self.damage.push(why.to_owned());
        if let Some(run) = self.runs.last_mut() {
            run.ends.get_or_insert_with(|| why.to_owned());
        }
    }

    /// The entries that a database lacks whose last one has this index and, where it says so, this term. `known` says whether the
    /// database knows a member.
    pub(super) fn behind(&self, index: u64, term: Option<u64>, known: impl Fn(u64, &[EntryAt]) -> bool) -> Behind {
        let next = index.saturating_add(1);
        let first = |run: &Run| self.entries.get(run.from).filter(|_| run.to > run.from).map(|entry| entry.index);
        let ours: Vec<_> = self.runs.iter().filter(|run| self.is_known(run, next, &known)).collect();
        let foreign = self.runs.iter().find(|run| !self.is_known(run, next, &known));
        if let Some(Metadata { node, cluster }) = foreign.and_then(|run| run.metadata).filter(|_| ours.is_empty()) {
            let words = format!(
                "the log is that of member {node:x} of cluster {cluster:x}, which the database does not know; it was not applied"
            );
            return Behind { unusable: Some(words), ..Behind::default() };
        }
        let later = ours.iter().filter_map(|run| first(run)).find(|first| *first > next);
        let chosen = ours.iter().rev().find(|run| first(run).is_some_and(|first| first <= next));
        let Some(run) = chosen else {
            let unusable = later.map(|first| {
                format!("the log begins with entry {first}, and the database ends with {index}; it was not applied")
            });
            return Behind { unusable, ..Behind::default() };
        };
        let entries = self.entries.get(run.from..run.to).unwrap_or_default();
        if let (Some(term), Some(last)) = (term, entries.iter().find(|entry| entry.index == index))
            && last.term != term
        {
            let words = format!(
                "entry {index}, the database's last one, is of term {term} there and of term {} in the log; the log is another \
                 one's, and was not applied",
                last.term
            );
            return Behind { unusable: Some(words), ..Behind::default() };
        }
        // Where a later run begins, entries were written anew.
        let limit = later.unwrap_or(u64::MAX);
        let from = run.from + entries.partition_point(|entry| entry.index <= index);
        let to = run.from + entries.partition_point(|entry| entry.index < limit);
        Behind { from, to: to.max(from), stops: run.ends.clone(), unusable: None }
    }

    fn is_known(&self, run: &Run, next: u64, known: impl Fn(u64, &[EntryAt]) -> bool) -> bool {
        let entries = self.entries.get(run.from..run.to).unwrap_or_default();
        let behind = entries.partition_point(|entry| entry.index < next);
        run.metadata.is_none_or(|metadata| known(metadata.node, entries.get(behind..).unwrap_or_default()))
    }

    /// Entries by their numbers among all.
    pub(super) fn entries(&self, from: usize, to: usize) -> &[EntryAt] {
        self.entries.get(from..to).unwrap_or_default()
    }

    /// The members that vote after some entries, given who did after the one with this index; none where that cannot be told.
    pub(super) fn voters(&self, mut voters: BTreeSet<u64>, since: u64, upto: usize) -> Option<BTreeSet<u64>> {
        let mut window = Window::new();
        for entry in self.entries.get(..upto)?.iter().filter(|entry| entry.index > since) {
            match entry.kind {
                EntryKind::Normal => {}
                EntryKind::MembersV2 => return None,
                EntryKind::Members => match ConfChange::decode(self.bytes(&mut window, entry.at, entry.bytes)?)? {
                    ConfChange::Add(member) => drop(voters.insert(member)),
                    ConfChange::Remove(member) => drop(voters.remove(&member)),
                    ConfChange::Other(_) => {}
                },
            }
        }
        Some(voters)
    }

    /// The newest snapshot record that names the members.
    pub(super) fn members(&self) -> Option<&WalSnapshot> {
        self.snapshots.iter().filter(|snapshot| snapshot.members.is_some()).max_by_key(|snapshot| snapshot.index)
    }

    /// The newest snapshot record.
    pub(super) fn newest_snapshot(&self) -> u64 {
        self.snapshots.iter().map(|snapshot| snapshot.index).max().unwrap_or(0)
    }

    /// The indexes of the first and the last entry.
    pub(super) fn ends(&self) -> Option<(u64, u64)> {
        let indexes = || self.entries.iter().map(|entry| entry.index);
        indexes().min().zip(indexes().max())
    }

    /// All puts, in the order of the log.
    pub(super) fn puts(&self) -> &[PutAt] {
        &self.puts
    }

    /// The number of the first put with a content.
    pub(super) fn first_with(&self, content: [u64; 2]) -> Option<u32> {
        self.contents.get(&content).copied()
    }

    /// The put whose message starts at a place, with its number.
    pub(super) fn put_at(&self, at: u64) -> Option<(usize, &PutAt)> {
        let number = self.puts.binary_search_by_key(&at, |put| put.at).ok()?;
        self.puts.get(number).map(|put| (number, put))
    }

    /// The number of segments, and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.segments.len(), self.segments.iter().map(|segment| segment.bytes).fold(0, u64::saturating_add))
    }

    /// Bytes of the log; none if they cannot be read any more.
    pub(super) fn bytes<'w>(&self, window: &'w mut Window, at: u64, bytes: u32) -> Option<&'w [u8]> {
        let number = self.segments.partition_point(|segment| segment.start <= at).checked_sub(1)?;
        let segment = self.segments.get(number)?;
        window.bytes((number, &segment.file), segment.bytes, at - segment.start, u64::from(bytes)).ok()
    }

    /// Reads a put again.
    pub(super) fn put<'w>(&self, window: &'w mut Window, at: u64, bytes: u32) -> Option<Put<'w>> {
        Request::decode_put(self.bytes(window, at, bytes)?)
    }

    /// What is said where a log has more than was applied.
    pub(super) fn rest(&self, to: usize, stops: &str) -> String {
        let mut words = stops.to_owned();
        let after = self.entries.get(to.wrapping_sub(1)).map_or(0, |entry| entry.index);
        let _ = write!(words, "; what comes after it was not applied");
        if after > 0 {
            let _ = write!(words, " (the last entry before it is {after})");
        }
        words
    }
}
