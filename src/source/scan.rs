//! All pairs of a large bucket, read once in the order of the file by several workers.
//!
//! Nothing is shared between the workers but a counter: each takes the next stretch of the file, reads it into a
//! buffer of its own, and gives the pairs of the leaf pages in it to a visitor of its own. Handing pages from one
//! thread to another was measured to cost more than it saves (`docs/performance.md`).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::bbolt::buffer::ReadBuffer;
use crate::bbolt::leaves::{BoundsRoom, Leaves};
use crate::bbolt::page::{Elements, LeafElement, PageHeader};
use crate::bbolt::reached::Reached;
use crate::bbolt::{Fault, Faults, PageFile, leaf};
use crate::etcd::{KeyValue, RevisionKey};

use super::leafpage::{self, Found};
use super::pace::Pace;
use super::residue::{self, Stray};
use super::{Place, RECORD_FAULT, REVISION_KEY_FAULT, Record, SCHEMA_FAULT};

/// Bytes of a stretch. Between 16 KiB and 1 MiB the size hardly matters.
const STRETCH_BYTES: u64 = 256 << 10;

/// Stands for "no leaf of this bucket begins here".
const NO_LEAF: u32 = u32::MAX;

/// What a worker does with what it reads. Each worker has one of its own; afterwards they are put together.
pub trait Visitor: Send {
    /// A pair of the bucket, whatever it holds, in the order of its leaf. Leaves come in no order.
    fn pair(&mut self, _place: Place, _element: &LeafElement<'_>) {}

    /// A pair that is a record.
    fn record(&mut self, _record: &Record<'_>) {}

    /// There is no further pair. Called by the worker itself, so what is to be done at the end is done in parallel.
    fn end(&mut self) {}

    /// Whether it wants what is not in the tree any more.
    const STRAYS: bool = false;

    /// A record outside the tree, as far as its bytes tell: it may be a copy of one that still is in the tree.
    fn stray(&mut self, _stray: &Stray<'_>) {}
}

/// The leaf pages of the bucket by page id, so that a reader of the file knows which page is which.
#[derive(Debug)]
pub struct Layout {
    leaves: Leaves,
    /// For each page id the ordinal of the leaf that begins there.
    ordinals: Vec<u32>,
}

impl Layout {
    /// Lays out the leaves over the pages of `file`, which has each of them once. One that the file no longer has is a
    /// fault.
    pub fn new(file: &PageFile, leaves: Leaves, faults: &mut Faults) -> Self {
        let pages = usize::try_from(file.readable_pages()).unwrap_or(0);
        let mut ordinals = vec![NO_LEAF; pages];
        for (ordinal, page) in (0..NO_LEAF).zip(leaves.pages()) {
            let slot = usize::try_from(page).ok().and_then(|page| ordinals.get_mut(page));
            match slot {
                Some(slot) => *slot = ordinal,
                None => {
                    // The general complaint about a page id knows whether it is the file or the id that is short.
                    let result = file.page(page, &mut Vec::new());
                    faults.note(result);
                }
            }
        }
        Self { leaves, ordinals }
    }

    /// The leaf pages in key order.
    pub fn leaves(&self) -> &Leaves {
        &self.leaves
    }
}

/// A scan that several workers carry out together.
#[derive(Debug)]
pub struct Scan<'s> {
    file: &'s PageFile,
    layout: &'s Layout,
    reached: &'s Reached,
    pace: &'s Pace,
    next: AtomicUsize,
    not_uniform: AtomicBool,
}

impl<'s> Scan<'s> {
    /// A scan that has not begun. Leaf pages are claimed in `reached`.
    pub(super) fn new(file: &'s PageFile, layout: &'s Layout, reached: &'s Reached, pace: &'s Pace) -> Self {
        Self { file, layout, reached, pace, next: AtomicUsize::new(0), not_uniform: AtomicBool::new(false) }
    }

    /// Whether a page was a branch where the depth of the tree promised a leaf.
    ///
    /// What was scanned is not the whole bucket then: its leaves must be found anew with
    /// [`Depth::Unknown`](crate::bbolt::leaves::Depth).
    pub fn not_uniform(&self) -> bool {
        self.not_uniform.load(Ordering::Relaxed)
    }

    /// Takes stretches until there are none left; called by each worker with its own visitor.
    pub fn work(&self, visitor: &mut impl Visitor, progress: &(dyn Fn(u64) + Sync)) -> Faults {
        let pages_per_stretch = usize::try_from((STRETCH_BYTES / self.file.page_size()).max(1)).unwrap_or(1);
        let mut worker = Worker {
            scan: self,
            stretch: ReadBuffer::new(),
            whole: Vec::new(),
            room: BoundsRoom::default(),
            faults: Faults::new(),
        };
        loop {
            let first = self.next.fetch_add(1, Ordering::Relaxed).saturating_mul(pages_per_stretch);
            let last = first.saturating_add(pages_per_stretch).min(self.layout.ordinals.len());
            if first >= last || self.not_uniform() {
                return worker.faults;
            }
            self.pace.wait(first as u64 * self.file.page_size());
            worker.stretch(first, last, visitor);
            progress((last - first) as u64 * self.file.page_size());
        }
    }
}

struct Worker<'w> {
    scan: &'w Scan<'w>,
    /// The stretch as it was read.
    stretch: ReadBuffer,
    /// A leaf whose overflow leaves the stretch, read again as a whole.
    whole: Vec<u8>,
    /// For the keys between which a leaf's keys lie.
    room: BoundsRoom,
    faults: Faults,
}

impl Worker<'_> {
    fn stretch(&mut self, first: usize, last: usize, visitor: &mut impl Visitor) {
        let ordinals = self.scan.layout.ordinals.get(first..last).unwrap_or_default();
        if ordinals.iter().all(|ordinal| *ordinal == NO_LEAF) {
            return;
        }
        let page_bytes = self.scan.file.page_size() as usize;
        let mut buffer = std::mem::take(&mut self.stretch);
        let stretch = buffer.room((last - first) * page_bytes);
        let read = self.scan.file.read_at(stretch, (first * page_bytes) as u64).is_ok();
        for (index, ordinal) in ordinals.iter().enumerate().filter(|(_, ordinal)| **ordinal != NO_LEAF) {
            let page = (first + index) as u64;
            // Where the stretch cannot be read as a whole, each page is tried for itself.
            let bytes = if read { stretch.get(index * page_bytes..).unwrap_or_default() } else { &[] };
            let result = self.leaf_page(page, *ordinal, bytes, visitor);
            self.faults.note(result);
        }
        self.stretch = buffer;
    }

    /// Visits the leaf that begins with `bytes`, which may hold less than the whole of it.
    fn leaf_page(&mut self, page: u64, ordinal: u32, bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), Fault> {
        let mut whole = std::mem::take(&mut self.whole);
        let store = (self.scan.file, self.scan.reached);
        let result = leafpage::find(store, page, bytes, &mut whole, &mut self.faults).and_then(|found| match found {
            Found::Branch => {
                self.scan.not_uniform.store(true, Ordering::Relaxed);
                Ok(())
            }
            Found::Leaf { header, bytes: total, at_hand: true } => {
                self.leaf(page, ordinal, &header, bytes.get(..total).unwrap_or_default(), visitor)
            }
            Found::Leaf { header, .. } => self.leaf(page, ordinal, &header, &whole, visitor),
        });
        self.whole = whole;
        result
    }

    fn leaf<V: Visitor>(
        &mut self,
        page: u64,
        ordinal: u32,
        header: &PageHeader,
        bytes: &[u8],
        visitor: &mut V,
    ) -> Result<(), Fault> {
        let elements = Elements::new(page, bytes, header.count)?;
        let bounds = self.scan.layout.leaves.bounds(ordinal as usize, &mut self.room);
        let mut content = Faults::new();
        leaf::pairs(page, &elements, bounds, &mut self.faults, |index, element| {
            visit(page, ordinal, index, &element, &mut content, visitor);
        });
        self.faults.append(content);
        if V::STRAYS {
            let used = elements.used_bytes();
            let start = page * self.scan.file.page_size() + used as u64;
            residue::carve(bytes.get(used..).unwrap_or_default(), start, visitor);
        }
        Ok(())
    }
}

/// Gives a pair to the visitor, and the record that it holds.
#[inline]
pub(super) fn visit(
    page: u64,
    ordinal: u32,
    index: usize,
    element: &LeafElement<'_>,
    faults: &mut Faults,
    visitor: &mut impl Visitor,
) {
    let place = Place { leaf: ordinal, index: u16::try_from(index).unwrap_or(u16::MAX) };
    visitor.pair(place, element);
    match record(place, element) {
        Ok(record) => visitor.record(&record),
        Err(lack) => faults.push(lack.fault(page, place, element)),
    }
}

/// What a pair lacks to be a record.
enum Lack {
    Pair,
    Revision,
    Message { main: i64 },
    Key { main: i64 },
    OwnRevision { main: i64, said: i64 },
}

impl Lack {
    #[cold]
    fn fault(self, page: u64, place: Place, element: &LeafElement<'_>) -> Fault {
        let at_key = element.value_offset - element.key.len();
        let (kind, at, detail) = match self {
            Self::Pair => (SCHEMA_FAULT, at_key, String::from("a bucket among the revisions, where etcd has none")),
            Self::Revision => {
                let bytes = element.key.len();
                let detail = format!("element {} has a key of {bytes} bytes that is no revision", place.index);
                (REVISION_KEY_FAULT, at_key, detail)
            }
            Self::Message { main } => {
                let detail = format!("the value at revision {main} is no key-value record");
                (RECORD_FAULT, element.value_offset, detail)
            }
            Self::Key { main } => {
                (RECORD_FAULT, element.value_offset, format!("the record at revision {main} names no key"))
            }
            Self::OwnRevision { main, said } => {
                let detail = format!("the record at revision {main} says that it is of revision {said}");
                (RECORD_FAULT, element.value_offset, detail)
            }
        };
        Fault::page(page, kind, detail).at(at)
    }
}

/// The record that a pair of page `page` is.
pub(super) fn record_of<'r>(page: u64, place: Place, element: &LeafElement<'r>) -> Result<Record<'r>, Fault> {
    record(place, element).map_err(|lack| lack.fault(page, place, element))
}

#[inline]
fn record<'r>(place: Place, element: &LeafElement<'r>) -> Result<Record<'r>, Lack> {
    if element.is_bucket {
        return Err(Lack::Pair);
    }
    let revision = RevisionKey::decode(element.key).ok_or(Lack::Revision)?;
    let main = revision.revision.main;
    let kv = KeyValue::decode(element.value).ok_or(Lack::Message { main })?;
    // A revision bump leaves an empty record, and a tombstone has nothing but its key.
    let is_bump = !revision.tombstone && element.value.is_empty();
    if kv.key.is_empty() && !is_bump {
        // etcd takes no empty key, so it was lost: another field's number stands before it, say.
        return Err(Lack::Key { main });
    }
    let is_put = !revision.tombstone && !is_bump;
    if is_put && kv.mod_revision != main {
        return Err(Lack::OwnRevision { main, said: kv.mod_revision });
    }
    Ok(Record { place, revision, kv })
}
