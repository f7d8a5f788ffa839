//! The new file, and the proof of it: every record is read again at its place, and once more from what was written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::bbolt::bucket::inline_elements;
use crate::bbolt::check::Checker;
use crate::bbolt::page::Elements;
use crate::bbolt::turns::Turns;
use crate::bbolt::write::{Fill, PAGE_SIZES, WriteError, Writer};
use crate::bbolt::{Fault, FaultKind, Faults};
use crate::etcd::{KeyValue, schema};
use crate::lock::{into_inner, lock};
use crate::source::digest::TRAILER_BYTES;
use crate::source::relay::Relay;
use crate::source::sha256::Sha256;
use crate::source::trace::TraceKey;
use crate::source::{Depth, Snapshot};

use super::buckets::Small;
use super::carve;
use super::mark::{Bit, Mark};
use super::scan::{Roles, inline_bytes};
use super::sheet::Sheet;
use super::{Product, SalvageError};

/// Records that a worker packs before it hands them over.
const GROUP_RECORDS: usize = 1024;

/// Packed pages that are handed over before a group is done, so that large values do not fill the memory.
const PART_BYTES: usize = 4 << 20;

/// Bytes that are read first for a record outside of pages.
const FIRST_READ_BYTES: u64 = 64 << 10;

/// No record is longer.
const MAX_RECORD_BYTES: u64 = 512 << 20;

/// What goes into the new file.
pub struct Content<'c> {
    /// Where the records are.
    pub sheet: &'c Sheet<'c>,
    /// What of which page is its own.
    pub roles: &'c Roles,
    /// The records in order.
    pub taken: &'c [Mark],
    /// Everything else.
    pub buckets: &'c BTreeMap<Vec<u8>, Small>,
    /// Under which keys and records were digested.
    pub key: TraceKey,
    /// The transaction that the new file is of.
    pub txid: u64,
    /// Ends the run as soon as it is true.
    pub interrupted: &'c AtomicBool,
    /// Is told the bytes that are written and read back.
    pub progress: &'c (dyn Fn(u64) + Sync),
}

impl Content<'_> {
    /// Writes all of it to `file`, without a digest.
    pub fn write(&self, file: &File) -> Result<(), SalvageError> {
        let page_size = self.sheet.page_size();
        let page_size = if PAGE_SIZES.contains(&page_size) { page_size } else { *PAGE_SIZES.start() };
        let mut writer = Writer::new(file, page_size, self.txid.max(1))?;
        let names = self.buckets.keys().map(Vec::as_slice);
        let mut names: Vec<&[u8]> = names.chain([schema::KEY]).collect();
        names.sort_unstable();
        for name in names {
            let Some(small) = self.buckets.get(name) else {
                let bucket = writer.bucket(name, 0, Fill::APPENDED)?;
                let turns = Turns::new(bucket, file, rayon::current_num_threads(), self.progress);
                self.records(&turns)?;
                turns.into_bucket().finish()?;
                continue;
            };
            let mut bucket = writer.bucket(name, small.sequence, Fill::ANYWHERE)?;
            small.pairs.iter().try_for_each(|(key, value)| bucket.push(key, value))?;
            bucket.finish()?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Has all workers read and pack records, group by group.
    fn records(&self, turns: &Turns<'_, '_, '_>) -> Result<(), SalvageError> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<SalvageError>> = Mutex::new(None);
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| {
                    if let Err(error) = self.work(turns, &next) {
                        turns.fail();
                        lock(&failed).get_or_insert(error);
                    }
                });
            }
        });
        into_inner(failed).map_or(Ok(()), Err)
    }

    fn work(&self, turns: &Turns<'_, '_, '_>, next: &AtomicUsize) -> Result<(), SalvageError> {
        let mut again = Again::new(self.sheet, self.roles);
        loop {
            let group = next.fetch_add(1, Ordering::Relaxed);
            let start = group.saturating_mul(GROUP_RECORDS);
            let end = self.taken.len().min(start.saturating_add(GROUP_RECORDS));
            let Some(marks) = self.taken.get(start..end).filter(|marks| !marks.is_empty()) else { return Ok(()) };
            let mut packer = turns.packer();
            for mark in marks {
                if self.interrupted.load(Ordering::Relaxed) {
                    return Err(SalvageError::Interrupted);
                }
                let stored = again.record(mark).filter(|stored| self.key.digest(stored) as u64 == mark.content);
                let stored = stored.ok_or(SalvageError::Changing)?;
                let (key, bytes) = mark.rev().key().bytes();
                packer.push(key.get(..bytes).unwrap_or_default(), stored)?;
                if packer.packed_bytes() >= PART_BYTES {
                    turns.hand_over_part(group, packer.take())?;
                }
            }
            turns.hand_over(group, packer.finish())?;
        }
    }

    /// Reads back what was written and holds it against what was to be.
    pub fn verify(&self, file: File) -> Result<Sha256, SalvageError> {
        let unproved = |what: &str| SalvageError::Unproved(what.to_owned());
        let written = Snapshot::open(file).map_err(|error| SalvageError::Unproved(error.to_string()))?;
        let laid = written.lay_out(Depth::Uniform).map_err(|error| SalvageError::Unproved(error.to_string()))?;
        let pages = written.pages();
        let relay = Relay::new(pages.file(), pages.file_bytes(), self.progress);
        let groups = laid.groups().hashed_by(Some(&relay));
        let read = Mutex::new((Faults::new(), 0_usize, true));
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| {
                    let (mut faults, mut records, mut same) = (Faults::new(), 0, true);
                    let mut reader = groups.reader();
                    while let Some((_, leaves)) = groups.take() {
                        for leaf in leaves.clone() {
                            (self.progress)(reader.load(leaf, leaves.end, &mut faults));
                            records += reader.len();
                            same &= self.is_as_taken(&reader);
                            if let Some(offset) = reader.slack() {
                                let detail = "holds bytes behind its last record";
                                faults.push(Fault::page(reader.page(), FaultKind::Element, detail).at(offset));
                            }
                        }
                    }
                    let mut read = lock(&read);
                    read.0.append(faults);
                    read.1 += records;
                    read.2 &= same;
                });
            }
        });
        let (faults, records, same) = into_inner(read);
        if !same || records != self.taken.len() || groups.not_uniform() {
            return Err(unproved("its records are not those that were taken"));
        }
        let outcome = laid.finish(faults);
        if outcome.free_pages > 0 {
            return Err(unproved("it has pages that hold nothing"));
        }
        if let Some(fault) = outcome.faults.into_sorted().into_iter().next() {
            return Err(SalvageError::Unproved(fault.to_string()));
        }
        if !self.has_buckets(&written) {
            return Err(unproved("its other buckets do not hold what they are to hold"));
        }
        Ok(relay.finish()?)
    }

    /// Whether the pairs of a leaf are those that were taken, in their order.
    fn is_as_taken(&self, reader: &crate::source::ordered::LeafReader<'_>) -> bool {
        let rev = |number| reader.pair(number).and_then(|pair| super::tree::rev_of(pair.key));
        let Some(first) = rev(0) else { return reader.is_empty() };
        let at = self.taken.partition_point(|mark| mark.rev() < first);
        let expected = self.taken.get(at..).unwrap_or_default();
        expected.len() >= reader.len()
            && (0..reader.len()).zip(expected).all(|(number, mark)| {
                let content = reader.pair(number).map(|pair| self.key.digest(pair.value) as u64);
                rev(number) == Some(mark.rev()) && content == Some(mark.content)
            })
    }

    fn has_buckets(&self, written: &Snapshot) -> bool {
        let mut checker = Checker::new(written.pages());
        let buckets = checker.top_level();
        let names = buckets.iter().filter(|(name, _)| name != schema::KEY).map(|(name, _)| name);
        let same = names.eq(self.buckets.keys()) && buckets.len() == self.buckets.len() + 1;
        same && buckets.iter().all(|(name, bucket)| {
            let Some(expected) = self.buckets.get(name) else { return true };
            let mut found = BTreeMap::new();
            checker.bucket(bucket, &mut |pair, _| {
                found.insert(pair.element.key.to_vec(), pair.element.value.to_vec());
            });
            found == expected.pairs && bucket.sequence == expected.sequence
        })
    }
}

/// Ends a file of whole pages as a server ends a snapshot: with their digest.
pub fn seal(file: &File, mut hash: Sha256, records: u64) -> io::Result<Product> {
    let pages = file.metadata()?.len();
    let digest = hash.clone().finalize();
    file.write_all_at(&digest, pages)?;
    hash.update(digest);
    Ok(Product { bytes: pages + TRAILER_BYTES, sha256: hash.finalize(), records })
}

/// Reads records again at their places.
pub struct Again<'a> {
    sheet: &'a Sheet<'a>,
    roles: &'a Roles,
    /// The page that was read last.
    page: Option<u32>,
    buffer: Vec<u8>,
}

impl<'a> Again<'a> {
    /// Nothing is read yet.
    pub fn new(sheet: &'a Sheet<'a>, roles: &'a Roles) -> Self {
        Self { sheet, roles, page: None, buffer: Vec::new() }
    }

    /// The record as it is stored.
    pub fn record(&mut self, mark: &Mark) -> Option<&[u8]> {
        if mark.has(Bit::Tail) {
            return self.fragment(carve::start(mark.page, mark.index));
        }
        if self.page != Some(mark.page) {
            self.page = None;
            if mark.has(Bit::Inline) {
                let overflow = self.sheet.note(mark.page).overflow.min(self.sheet.pages());
                self.sheet.bytes_of(mark.page, overflow, &mut self.buffer)?;
            } else {
                self.roles.read(self.sheet, mark.page, &mut self.buffer)?;
            }
            self.page = Some(mark.page);
        }
        let (page, count) = (u64::from(mark.page), self.sheet.note(mark.page).count);
        let mut elements = Elements::new(page, &self.buffer, count).ok()?;
        if mark.has(Bit::Inline) {
            elements = inline_elements(page, inline_bytes(&elements)?).ok()?;
        }
        Some(elements.leaf(usize::from(mark.index)).ok()?.value)
    }

    fn fragment(&mut self, start: u64) -> Option<&[u8]> {
        self.page = None;
        let left = self.sheet.bytes().checked_sub(start)?;
        let mut length = FIRST_READ_BYTES.min(left);
        loop {
            self.buffer.resize(usize::try_from(length).ok()?, 0);
            self.sheet.read_at(&mut self.buffer, start).ok()?;
            if let Some((_, length)) = KeyValue::carve(&self.buffer) {
                return self.buffer.get(..length);
            }
            if length == left || length > MAX_RECORD_BYTES {
                return None;
            }
            length = (length * 8).min(left);
        }
    }
}

impl From<WriteError> for SalvageError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}
