//! Records that are not in the tree any more but whose bytes are still in the file.
//!
//! etcd never clears what it frees: a page keeps its old records until it is used again, and a snapshot carries every page
//! below the high-water mark. So the pages that no tree reaches are read, those beyond the high-water mark, and the unused
//! rest of leaf pages. A page that still is a leaf is read as one; everywhere else records are looked for byte by byte.
//! Both ways a record must be exactly as etcd writes it, so that noise is none.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bbolt::PageFile;
use crate::bbolt::buffer::ReadBuffer;
use crate::bbolt::file::MAX_PAGE_BYTES;
use crate::bbolt::page::{Elements, PageHeader, PageKind};
use crate::bbolt::reached::Reached;
use crate::etcd::revision::REVISION_BYTES;
use crate::etcd::{KeyValue, Revision, RevisionKey};

use super::digest::{TRAILER_BYTES, Trailer};
use super::scan::Visitor;

/// Pages of a stretch, which one worker reads at once.
const STRETCH_PAGES: u64 = 64;

/// Where the separator stands within a revision.
const SEPARATOR_AT: usize = 8;

/// No store counts this far; what claims to is noise.
const MAX_MAIN: i64 = 1 << 48;
const MAX_SUB: i64 = 1 << 32;

/// A record outside the tree.
#[derive(Clone, Copy, Debug)]
pub struct Stray<'s> {
    /// Its revision.
    pub revision: Revision,
    /// What it says.
    pub kv: KeyValue<'s>,
    /// Where its key-value record starts within the file.
    pub at: u64,
}

/// All pages that no tree reaches, which several workers read together once the trees are known.
#[derive(Debug)]
pub struct Residue<'r> {
    file: &'r PageFile,
    reached: &'r Reached,
    /// The end of what may hold pages: the file without its digest.
    end: u64,
    next: AtomicU64,
}

impl<'r> Residue<'r> {
    /// Begins behind the meta pages.
    pub fn new(file: &'r PageFile, reached: &'r Reached) -> Self {
        let bytes = file.file_bytes();
        let end = if Trailer::expected(bytes) { bytes - TRAILER_BYTES } else { bytes };
        Self { file, reached, end, next: AtomicU64::new(0) }
    }

    /// Takes stretches until there are none left; called by each worker with its own visitor.
    pub fn work(&self, visitor: &mut impl Visitor) {
        let pages = self.end.div_ceil(self.file.page_size());
        let mut buffer = ReadBuffer::new();
        loop {
            let first = self.next.fetch_add(STRETCH_PAGES, Ordering::Relaxed).saturating_add(2);
            if first >= pages {
                return;
            }
            for run in self.free_runs(first..first.saturating_add(STRETCH_PAGES).min(pages)) {
                self.run(run, &mut buffer, visitor);
            }
        }
    }

    /// The runs of pages in a stretch that nothing reaches.
    fn free_runs(&self, pages: Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for page in pages.filter(|page| !self.reached.contains(*page)) {
            match runs.last_mut() {
                Some(run) if run.end == page => run.end += 1,
                _ => runs.push(page..page + 1),
            }
        }
        runs
    }

    /// Reads a run of free pages: leaves as such, what lies between them byte by byte.
    fn run(&self, run: Range<u64>, buffer: &mut ReadBuffer, visitor: &mut impl Visitor) {
        let page_bytes = self.file.page_size();
        let start = run.start * page_bytes;
        let length = (run.end * page_bytes).min(self.end).saturating_sub(start);
        let buffer = buffer.room(usize::try_from(length).unwrap_or(0));
        if self.file.read_at(buffer, start).is_err() {
            return;
        }
        let mut raw_from = 0;
        let mut at = 0;
        while at < buffer.len() {
            let page = run.start + at as u64 / page_bytes;
            let here = buffer.get(at..).unwrap_or_default();
            let used = leaf(page, here, page_bytes as usize, start + at as u64, visitor);
            if let Some(used) = used {
                carve(buffer.get(raw_from..at).unwrap_or_default(), start + raw_from as u64, visitor);
                raw_from = at + used;
            }
            at += used.unwrap_or(page_bytes as usize);
        }
        carve(buffer.get(raw_from..).unwrap_or_default(), start + raw_from as u64, visitor);
    }
}

/// Reads a free page that still is a whole leaf, and gives the bytes that it takes; none if it is no such page.
fn leaf(page: u64, bytes: &[u8], page_bytes: usize, start: u64, visitor: &mut impl Visitor) -> Option<usize> {
    let header = PageHeader::decode(bytes).filter(|header| header.id == page && header.kind == PageKind::Leaf)?;
    let total = page_bytes.checked_mul(usize::try_from(header.overflow).ok()?.checked_add(1)?)?;
    let elements = Elements::new(page, bytes.get(..total)?, header.count).ok()?;
    // A page of which a part was used again is no leaf any more: its bytes are looked through one by one.
    if elements.is_empty() || elements.leaves().any(|element| element.is_err()) {
        return None;
    }
    for element in elements.leaves().flatten() {
        if let (Some(key), Some((kv, length))) = (RevisionKey::decode(element.key), KeyValue::carve(element.value))
            && length == element.value.len()
            && is_record(&key, &kv)
        {
            visitor.stray(&Stray { revision: key.revision, kv, at: start + element.value_offset as u64 });
        }
    }
    let used = elements.used_bytes();
    carve(bytes.get(used..total).unwrap_or_default(), start + used as u64, visitor);
    Some(total)
}

/// Looks for records in bytes of which nothing is known; `start` is where they stand within the file.
pub(super) fn carve(bytes: &[u8], start: u64, visitor: &mut impl Visitor) {
    // Nearly all of it was cleared, which is told faster than searched.
    if bytes.iter().fold(0, |all, byte| all | byte) == 0 {
        return;
    }
    let mut from = SEPARATOR_AT;
    while let Some(found) = bytes.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'_')) {
        let separator = from + found;
        from = separator + 1;
        let key_start = separator - SEPARATOR_AT;
        let Some((key, rest)) = bytes.get(key_start..).and_then(|rest| rest.split_at_checked(REVISION_BYTES)) else {
            return;
        };
        if let Some(key) = RevisionKey::decode(key)
            && let Some((kv, length)) = KeyValue::carve(rest)
            && is_record(&key, &kv)
        {
            let at = key_start + REVISION_BYTES;
            visitor.stray(&Stray { revision: key.revision, kv, at: start + at as u64 });
            from = at + length + SEPARATOR_AT;
        }
    }
}

/// Whether key and value are of one put, and of a store that there can be.
fn is_record(key: &RevisionKey, kv: &KeyValue<'_>) -> bool {
    let Revision { main, sub } = key.revision;
    !key.tombstone && kv.mod_revision == main && main < MAX_MAIN && sub < MAX_SUB
}

/// Bytes that are read first for a record of unknown length; they hold nearly every object.
const FIRST_READ_BYTES: u64 = 64 << 10;

/// Reads again the record that a [`Stray`] was found at, and gives it to `visit`.
pub fn record_at<T>(file: &PageFile, at: u64, visit: impl FnOnce(KeyValue<'_>) -> T) -> Option<T> {
    let left = file.file_bytes().saturating_sub(at);
    let mut length = FIRST_READ_BYTES.min(left);
    loop {
        let mut buffer = vec![0; usize::try_from(length).ok()?];
        file.read_at(&mut buffer, at).ok()?;
        if let Some((kv, _)) = KeyValue::carve(&buffer) {
            return Some(visit(kv));
        }
        if length == left || length > MAX_PAGE_BYTES {
            return None;
        }
        length = (length * 8).min(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Found(Vec<(i64, Vec<u8>, u64)>);

    impl Visitor for Found {
        const STRAYS: bool = true;

        fn stray(&mut self, stray: &Stray<'_>) {
            self.0.push((stray.revision.main, stray.kv.key.to_vec(), stray.at));
        }
    }

    fn record(main: i64, key: &[u8]) -> Vec<u8> {
        let mut bytes = RevisionKey { revision: Revision { main, sub: 0 }, tombstone: false }.encode();
        let value = b"_value_with_separators_";
        bytes.extend(KeyValue { key, create_revision: main, mod_revision: main, version: 1, value, lease: 0 }.encode());
        bytes
    }

    #[test]
    fn records_are_found_wherever_they_begin() {
        let mut bytes = b"noise _ and _________ more".to_vec();
        let first = bytes.len() as u64 + REVISION_BYTES as u64;
        bytes.extend(record(7, b"/a"));
        let second = bytes.len() as u64 + REVISION_BYTES as u64;
        bytes.extend(record(9, b"/b"));
        bytes.extend([0; 40]);
        let mut found = Found::default();
        carve(&bytes, 1000, &mut found);
        assert_eq!(found.0, [(7, b"/a".to_vec(), 1000 + first), (9, b"/b".to_vec(), 1000 + second)]);
    }

    #[test]
    fn half_a_record_is_none() {
        let whole = record(7, b"/a");
        for cut in 0..whole.len() {
            let mut found = Found::default();
            let mut bytes = whole[..cut].to_vec();
            bytes.extend([b'x'; 64]);
            carve(&bytes, 0, &mut found);
            assert_eq!(found.0, [], "cut at {cut}");
        }
    }
}
