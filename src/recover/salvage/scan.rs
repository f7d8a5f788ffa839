//! Every copy of a record that stands anywhere in the file, found by several workers that look at each page on its own.
//!
//! A record of a page that the tree leads to is taken as the audit takes it. Of any other page it must be exactly as etcd
//! writes one, so that nothing is made of noise. What belongs to a page as its overflow is not looked at as a page: a value
//! may hold whatever its owner put there, a page of a database too.

use std::collections::HashSet;

use rayon::prelude::*;

use crate::bbolt::bucket::inline_elements;
use crate::bbolt::page::{Elements, LeafElement};
use crate::bbolt::{Fault, FaultKind, Faults};
use crate::etcd::{KeyValue, RevisionKey, schema};
use crate::source::trace::TraceKey;
use crate::source::{RECORD_FAULT, REVISION_KEY_FAULT};

use super::carve;
use super::mark::{Bit, Mark};
use super::rev::Rev;
use super::sheet::{Kind, Sheet};
use super::tree::{Leaf, Tree};

/// Pages that are handed to a worker at a time.
const PAGES_AT_A_TIME: usize = 64;

/// What a page is to the tree: which leaf (smaller numbers), or one of these.
const FREE: u32 = u32::MAX;
/// A page that the trees consist of and that holds no records.
const TAKEN: u32 = u32::MAX - 1;
/// The overflow of a page before it.
const OVERFLOW: u32 = u32::MAX - 2;

/// What the tree says of each page of the file.
#[derive(Debug)]
pub struct Roles(Vec<u32>);

impl Roles {
    /// Gives every page its part: those that the trees lead to, with their overflow, then the overflow of leaves that none
    /// leads to any more.
    pub fn new(sheet: &Sheet<'_>, tree: &Tree, others: impl Iterator<Item = u32>) -> Self {
        let mut roles = Self(vec![FREE; sheet.pages() as usize]);
        let metas = sheet.metas().iter().map(|(position, _)| *position);
        metas.chain(others).chain(tree.branches.iter().copied()).for_each(|page| roles.set(page, TAKEN));
        for (leaf, Leaf { position, .. }) in (0..OVERFLOW).zip(&tree.leaves) {
            roles.set(*position, leaf);
        }
        // A page that was put there later names itself.
        let is_page = |page| {
            let there = sheet.note(page);
            there.is_tree() && there.packed && there.id == page
        };
        for Leaf { position, .. } in &tree.leaves {
            let is_displaced = sheet.note(*position).id != *position;
            roles.claim(sheet, *position, |page| is_displaced && is_page(page));
        }
        for (position, note) in sheet.notes() {
            let is_leaf = note.kind == Kind::Leaf && note.packed && note.first.is_some();
            if is_leaf && roles.of(position) == FREE {
                roles.claim(sheet, position, is_page);
            }
        }
        roles
    }

    fn of(&self, page: u32) -> u32 {
        self.0.get(page as usize).copied().unwrap_or(TAKEN)
    }

    fn set(&mut self, page: u32, role: u32) {
        if let Some(slot) = self.0.get_mut(page as usize) {
            *slot = role;
        }
    }

    /// Takes the overflow of a page, up to the first page that is another's. It lies behind the place where the page belongs,
    /// wherever its head stands.
    fn claim(&mut self, sheet: &Sheet<'_>, position: u32, is_other: impl Fn(u32) -> bool) {
        for page in overflow(sheet, position) {
            if self.of(page) != FREE || is_other(page) {
                return;
            }
            self.set(page, OVERFLOW);
        }
    }

    /// How many of a page's overflow pages are its own.
    fn own_overflow(&self, sheet: &Sheet<'_>, position: u32) -> u32 {
        overflow(sheet, position).take_while(|page| self.of(*page) == OVERFLOW).count() as u32
    }

    /// Reads a page with what of its overflow is its own, and gives how many pages that is.
    pub fn read(&self, sheet: &Sheet<'_>, position: u32, buffer: &mut Vec<u8>) -> Option<u32> {
        let own = self.own_overflow(sheet, position);
        let id = sheet.note(position).id;
        if own == 0 || id == position {
            sheet.bytes_of(position, own, buffer)?;
            return Some(own);
        }
        sheet.bytes_of(position, 0, buffer)?;
        let mut rest = Vec::new();
        sheet.bytes_of(id.saturating_add(1), own - 1, &mut rest)?;
        buffer.append(&mut rest);
        Some(own)
    }
}

/// The places of a page's overflow, as it says.
fn overflow(sheet: &Sheet<'_>, position: u32) -> std::ops::RangeInclusive<u32> {
    let note = sheet.note(position);
    let pages = note.overflow.min(sheet.pages());
    note.id.saturating_add(1)..=note.id.saturating_add(pages)
}

/// What is known before the records are looked for.
pub struct Known<'k> {
    /// The pages.
    pub sheet: &'k Sheet<'k>,
    /// The leaves that are led to.
    pub tree: &'k Tree,
    /// What each page is.
    pub roles: &'k Roles,
    /// The page on which the bucket `key` stands inline, if it does.
    pub inline: Option<u32>,
    /// The leases of the store; none where they are not known.
    pub leases: Option<&'k HashSet<i64>>,
    /// Under which keys and records are digested.
    pub key: TraceKey,
    /// Whether the file's own digest proves every byte of it, so that nothing in a value can be a loss.
    pub is_proved: bool,
}

/// What was found.
#[derive(Default)]
pub struct Found {
    /// Every copy of a record.
    pub marks: Vec<Mark>,
    /// Leaves of the tree of which not everything holds.
    pub broken: Vec<usize>,
    /// What of them does not.
    pub faults: Faults,
    /// Leaf pages with records that nothing leads to.
    pub free_leaves: u64,
}

impl Found {
    fn join(mut self, mut other: Self) -> Self {
        if self.marks.len() < other.marks.len() {
            std::mem::swap(&mut self.marks, &mut other.marks);
        }
        self.marks.append(&mut other.marks);
        self.broken.append(&mut other.broken);
        self.faults.append(other.faults);
        self.free_leaves += other.free_leaves;
        self
    }
}

impl Known<'_> {
    /// Looks at every page. `progress` is told the bytes that were looked at.
    pub fn scan(&self, progress: &(dyn Fn(u64) + Sync)) -> Found {
        let pages = (0..self.sheet.pages()).into_par_iter().with_min_len(PAGES_AT_A_TIME);
        let work = |(mut found, mut buffer): (Found, Vec<u8>), position| {
            self.page(position, &mut buffer, &mut found);
            progress(u64::from(self.sheet.page_size()));
            (found, buffer)
        };
        pages.fold(Default::default, work).map(|(found, _)| found).reduce(Found::default, Found::join)
    }

    fn page(&self, position: u32, buffer: &mut Vec<u8>, found: &mut Found) {
        let note = self.sheet.note(position);
        let is_root = self.inline == Some(position) || note.kind == Kind::Root;
        match self.roles.of(position) {
            FREE | TAKEN if is_root => self.inline(position, buffer, found),
            FREE if note.kind == Kind::Leaf && note.packed && note.first.is_some() => {
                self.free_leaf(position, buffer, found);
            }
            FREE => self.outside(position, 0, buffer, found),
            TAKEN | OVERFLOW => {}
            leaf => self.leaf(position, leaf as usize, buffer, found),
        }
    }

    /// A leaf that the tree leads to.
    fn leaf(&self, position: u32, number: usize, buffer: &mut Vec<u8>, found: &mut Found) {
        let Some(leaf) = self.tree.leaves.get(number) else { return };
        let note = self.sheet.note(position);
        let page = u64::from(position);
        let before = found.faults.total();
        let read = self.roles.read(self.sheet, position, buffer);
        let elements = read.ok_or_else(|| Fault::page(page, FaultKind::Unreadable, "cannot be read"));
        let elements = elements.and_then(|own| Ok((own, Elements::new(page, buffer, note.count)?)));
        if let Some((own, elements)) = found.faults.note(elements) {
            let mut last = None;
            let mut packing = elements.packing();
            for (index, element) in elements.leaves().enumerate() {
                let taken = element.and_then(|element| {
                    let start = element.value_offset - element.key.len();
                    found.faults.note(packing.next(start, element.value_offset + element.value.len()));
                    let mark = self.of_tree((position, index), &element, leaf, last)?;
                    self.whole(position, (start, &element), own, buffer)?;
                    Ok(mark)
                });
                match taken {
                    Ok(mark) => {
                        last = Some(mark.rev());
                        found.marks.push(mark);
                    }
                    Err(fault) => {
                        packing.skip();
                        found.faults.push(fault);
                    }
                }
            }
            found.faults.note(packing.finish());
            self.tail(position, elements.used_bytes(), buffer, found);
        }
        if found.faults.total() > before {
            found.broken.push(number);
        }
    }

    /// The record of an element that the tree leads to.
    fn of_tree(
        &self,
        (position, index): (u32, usize),
        element: &LeafElement<'_>,
        leaf: &Leaf,
        last: Option<Rev>,
    ) -> Result<Mark, Fault> {
        let fault = |kind, detail: String| Fault::page(u64::from(position), kind, detail).at(element.value_offset);
        let rev = RevisionKey::decode(element.key).and_then(|key| Rev::of(&key)).filter(|_| !element.is_bucket);
        let rev = rev.ok_or_else(|| fault(REVISION_KEY_FAULT, format!("the key of element {index} is no revision")))?;
        if last.is_some_and(|last| rev <= last) || rev < leaf.lower || rev >= leaf.upper {
            let detail = format!("revision {} stands where the tree has no place for it", rev.main());
            return Err(fault(FaultKind::KeyOrder, detail));
        }
        let kv = KeyValue::decode(element.value);
        let is_bump = element.value.is_empty() && !rev.is_tombstone();
        let holds = |kv: &KeyValue<'_>| {
            is_bump || (!kv.key.is_empty() && (rev.is_tombstone() || kv.mod_revision == rev.main() as i64))
        };
        let kv = kv.filter(holds).ok_or_else(|| {
            fault(RECORD_FAULT, format!("the value at revision {} is no record of that revision", rev.main()))
        })?;
        Ok(self.mark(rev, &kv, element.value, (position, index), Bit::Tree as u8))
    }

    fn mark(&self, rev: Rev, kv: &KeyValue<'_>, stored: &[u8], (page, index): (u32, usize), bits: u8) -> Mark {
        let digests = (self.key.digest(kv.key) as u64, self.key.digest(stored) as u64);
        let lacks = kv.lease != 0 && self.leases.is_some_and(|leases| !leases.contains(&kv.lease));
        let bits = if lacks { bits | Bit::Leaseless as u8 } else { bits };
        Mark::new(rev, digests, (page, u16::try_from(index).unwrap_or(u16::MAX)), bits)
    }

    /// Whether no page of a record's overflow is visibly another's: cleared, or one that says what it is.
    fn whole(
        &self,
        position: u32,
        (start, element): (usize, &LeafElement<'_>),
        own: u32,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        if own == 0 || self.is_proved {
            return Ok(());
        }
        let page_bytes = self.sheet.page_size() as usize;
        let end = element.value_offset + element.value.len();
        for page in start / page_bytes + 1..=(end.saturating_sub(1)) / page_bytes {
            let from = page * page_bytes;
            let here = bytes.get(from..end.min(from + page_bytes)).unwrap_or_default();
            let there = self.sheet.note(position).id.saturating_add(page as u32);
            let note = self.sheet.note(there);
            let cleared = note.kind == Kind::Zero && here.iter().all(|byte| *byte == 0);
            let is_meta = self.sheet.metas().iter().any(|(position, _)| *position == there);
            let replaced = is_meta || (note.is_tree() && note.packed && note.id < self.sheet.pages());
            if cleared || replaced {
                let what = if cleared { "nothing but zeros" } else { "a page of its own" };
                let detail = format!("is {what} in the middle of a value of page {position}, which is lost with it");
                return Err(Fault::page(u64::from(there), FaultKind::WrongType, detail));
            }
        }
        Ok(())
    }

    /// A leaf that nothing leads to.
    fn free_leaf(&self, position: u32, buffer: &mut Vec<u8>, found: &mut Found) {
        let note = self.sheet.note(position);
        let is_displaced = note.id != position;
        let Some(own) = self.roles.read(self.sheet, position, buffer) else { return };
        let Ok(elements) = Elements::new(u64::from(position), buffer, note.count) else {
            return self.outside(position, 0, buffer, found);
        };
        let first = found.marks.len();
        let mut torn = false;
        for (index, element) in elements.leaves().enumerate() {
            let record = element.ok().and_then(|element| {
                let record = strict(&element)?;
                let start = element.value_offset - element.key.len();
                self.whole(position, (start, &element), own, buffer).ok()?;
                Some((record, element.value))
            });
            match record {
                Some(((rev, kv), stored)) => found.marks.push(self.mark(rev, &kv, stored, (position, index), 0)),
                None => torn = true,
            }
        }
        let bits = [(is_displaced, Bit::Displaced), (torn, Bit::Torn)];
        let bits = bits.iter().filter(|(holds, _)| *holds).fold(0, |bits, (_, bit)| bits | *bit as u8);
        let own_marks = found.marks.get_mut(first..).unwrap_or_default();
        own_marks.iter_mut().for_each(|mark| mark.add(bits));
        found.free_leaves += u64::from(found.marks.len() > first);
        self.tail(position, elements.used_bytes(), buffer, found);
    }

    /// The records of a bucket that is so small that it stands in the root.
    fn inline(&self, position: u32, buffer: &mut Vec<u8>, found: &mut Found) {
        let note = self.sheet.note(position);
        let read = self.sheet.bytes_of(position, note.overflow.min(self.sheet.pages()), buffer);
        let elements = read.and_then(|()| Elements::new(u64::from(position), buffer, note.count).ok());
        let bytes = elements.and_then(|elements| inline_bytes(&elements));
        let Some(elements) = bytes.and_then(|bytes| inline_elements(u64::from(position), bytes).ok()) else { return };
        let is_own = self.inline == Some(position);
        let bits = Bit::Inline as u8 | if is_own { Bit::Tree as u8 } else { 0 };
        for (index, element) in elements.leaves().enumerate() {
            let element = element.ok();
            match element.and_then(|element| Some((strict(&element)?, element.value))) {
                Some(((rev, kv), stored)) => found.marks.push(self.mark(rev, &kv, stored, (position, index), bits)),
                None if is_own => {
                    let detail = format!("element {index} of the inline bucket `key` is no record");
                    found.faults.push(Fault::page(u64::from(position), RECORD_FAULT, detail));
                    found.broken.push(0);
                }
                None => {}
            }
        }
    }

    /// What a leaf page has behind what it uses.
    fn tail(&self, position: u32, used: usize, bytes: &[u8], found: &mut Found) {
        let rest = bytes.get(used..).unwrap_or_default();
        self.carved(position, used, rest, found);
    }

    /// A page that is none any more.
    fn outside(&self, position: u32, from: usize, buffer: &mut Vec<u8>, found: &mut Found) {
        let note = self.sheet.note(position);
        let is_other = note.is_tree() && note.packed;
        if note.kind == Kind::Zero || is_other || self.sheet.bytes_of(position, 0, buffer).is_none() {
            return;
        }
        self.carved(position, from, buffer.get(from..).unwrap_or_default(), found);
    }

    fn carved(&self, position: u32, from: usize, bytes: &[u8], found: &mut Found) {
        carve::records(bytes, &mut |at, rev, kv, stored| {
            let start = u64::from(position) * u64::from(self.sheet.page_size()) + (from + at) as u64;
            if let Some((page, index)) = carve::place(start) {
                found.marks.push(self.mark(rev, &kv, stored, (page, usize::from(index)), Bit::Tail as u8));
            }
        });
    }
}

/// The record of an element, if it is exactly as etcd writes one.
pub fn strict<'r>(element: &LeafElement<'r>) -> Option<(Rev, KeyValue<'r>)> {
    if element.is_bucket {
        return None;
    }
    let rev = RevisionKey::decode(element.key).and_then(|key| Rev::of(&key))?;
    if rev.is_tombstone() {
        let kv = KeyValue::decode(element.value)?;
        let bare = KeyValue { key: kv.key, ..KeyValue::default() };
        return (!kv.key.is_empty() && kv == bare && kv.encode() == element.value).then_some((rev, kv));
    }
    if element.value.is_empty() {
        // The mark that a revision bump leaves.
        return Some((rev, KeyValue::default()));
    }
    let (kv, length) = KeyValue::carve(element.value)?;
    (length == element.value.len() && kv.mod_revision == rev.main() as i64).then_some((rev, kv))
}

/// The page of an inline bucket `key` among the elements of a root.
pub fn inline_bytes<'r>(elements: &Elements<'r>) -> Option<&'r [u8]> {
    use crate::bbolt::bucket::BUCKET_HEADER_BYTES;
    let bucket = elements.leaves().flatten().find(|element| element.is_bucket && element.key == schema::KEY)?;
    let (header, bytes) = bucket.value.split_at_checked(BUCKET_HEADER_BYTES)?;
    header.iter().take(8).all(|byte| *byte == 0).then_some(bytes)
}
