//! Every invariant of a file, and all that break it.
//!
//! More than `bbolt check` asks: element bounds, inline buckets, both meta pages and the file's length are looked at
//! too. Upstream: `etcd-io/bbolt` `tx_check.go`.

use super::bucket::Bucket;
use super::cursor::{self, Pair};
use super::fault::{Fault, FaultKind, Faults};
use super::file::PageFile;
use super::freelist;
use super::meta::NO_FREELIST;
use super::page::{PageHeader, PageKind};
use super::reached::Reached;

/// Buckets within buckets deeper than this are given up. etcd nests none at all.
const MAX_NESTING: usize = 16;

/// A check in progress: what was reached so far, and what was wrong with it.
#[derive(Debug)]
pub struct Checker<'f> {
    file: &'f PageFile,
    /// The pages that were reached so far.
    pub reached: Reached,
    /// What was wrong so far.
    pub faults: Faults,
}

/// What a whole check found.
#[derive(Debug)]
pub struct Outcome {
    /// All faults.
    pub faults: Faults,
    /// Pages below the high-water mark that no tree reaches.
    pub free_pages: u64,
}

impl<'f> Checker<'f> {
    /// Looks at what stands outside the trees: metas, the file's length, the freelist's own pages.
    pub fn new(file: &'f PageFile) -> Self {
        let mut checker = Self { file, reached: Reached::new(file.readable_pages().max(2)), faults: Faults::new() };
        checker.metas();
        checker.length();
        checker
    }

    /// The file that is checked.
    pub fn file(&self) -> &'f PageFile {
        self.file
    }

    /// The top-level buckets with their names, in order.
    pub fn top_level(&mut self) -> Vec<(Vec<u8>, Bucket)> {
        let root = self.file.meta().root;
        let root = Bucket { root: super::bucket::BucketRoot::Page(root), sequence: 0, parent_page: 0 };
        let mut buckets = Vec::new();
        cursor::walk(self.file, &root, &self.reached, &mut self.faults, &mut |pair, faults| {
            let Pair { page, element } = pair;
            if !element.is_bucket {
                let detail = "the tree of top-level buckets holds a pair that is no bucket";
                faults.push(Fault::page(page, FaultKind::Bucket, detail));
            } else if let Some(bucket) = faults.note(Bucket::decode(page, element.value)) {
                buckets.push((element.key.to_vec(), bucket));
            }
        });
        buckets
    }

    /// Walks a bucket, gives its own pairs to `visit`, and checks the buckets within it.
    pub fn bucket(&mut self, bucket: &Bucket, visit: &mut dyn FnMut(Pair<'_>, &mut Faults)) {
        let mut nested = Vec::new();
        self.walk(bucket, 1, &mut nested, visit);
        self.nested(nested);
    }

    /// Checks buckets that were found within a bucket, as (depth, bucket), and all within them.
    pub fn nested(&mut self, mut pending: Vec<(usize, Bucket)>) {
        while let Some((depth, bucket)) = pending.pop() {
            if depth > MAX_NESTING {
                let detail = format!("{MAX_NESTING} buckets within one another");
                self.faults.push(Fault::page(bucket.parent_page, FaultKind::Depth, detail));
                continue;
            }
            self.walk(&bucket, depth, &mut pending, &mut |_, _| ());
        }
    }

    /// What is left over once all buckets were walked: the free pages, against the freelist where there is one.
    pub fn finish(mut self) -> Outcome {
        self.freelist();
        let free_pages = self.file.readable_pages().saturating_sub(self.reached.count());
        Outcome { faults: self.faults, free_pages }
    }

    fn walk(
        &mut self,
        bucket: &Bucket,
        depth: usize,
        nested: &mut Vec<(usize, Bucket)>,
        visit: &mut dyn FnMut(Pair<'_>, &mut Faults),
    ) {
        cursor::walk(self.file, bucket, &self.reached, &mut self.faults, &mut |pair, faults| {
            if pair.element.is_bucket
                && let Some(bucket) = faults.note(Bucket::decode(pair.page, pair.element.value))
            {
                nested.push((depth + 1, bucket));
            }
            visit(pair, faults);
        });
    }

    /// Both meta pages need a right header, the older one too: bbolt's own check demands it.
    fn metas(&mut self) {
        for (page, meta) in (0_u64..).zip(self.file.metas()) {
            self.reached.insert(page);
            match meta {
                Err(error) => {
                    let detail = format!("is no valid meta page: {error}; the other one is used");
                    self.faults.push(Fault::page(page, FaultKind::Meta, detail));
                }
                Ok(_) => {
                    let header = self.meta_header(page);
                    self.faults.note(header);
                }
            }
        }
    }

    fn meta_header(&self, page: u64) -> Result<(), Fault> {
        let mut bytes = [0; super::page::PAGE_HEADER_BYTES];
        let unreadable = |error| Fault::page(page, FaultKind::Unreadable, format!("cannot be read: {error}"));
        self.file.read_at(&mut bytes, page * self.file.page_size()).map_err(unreadable)?;
        match PageHeader::decode(&bytes) {
            Some(PageHeader { id, kind: PageKind::Meta, .. }) if id == page => Ok(()),
            _ => Err(Fault::page(page, FaultKind::Meta, "the meta page's header names another page or kind").at(0)),
        }
    }

    fn length(&mut self) {
        let (used, bytes) = (self.file.used_bytes(), self.file.file_bytes());
        if used > bytes {
            let lost = self.file.meta().high_water_mark - self.file.readable_pages();
            let detail =
                format!("the file has {bytes} bytes of the {used} that its pages take: {lost} pages are missing");
            self.faults.push(Fault::file(FaultKind::Truncated, detail));
        }
    }

    fn freelist(&mut self) {
        let id = self.file.meta().freelist;
        if id == NO_FREELIST {
            return;
        }
        let mut buffer = Vec::new();
        let page = self.freelist_page(id, &mut buffer);
        let Some(header) = self.faults.note(page) else { return };
        let Some(ids) = self.faults.note(freelist::decode(id, &header, &buffer)) else { return };
        let listed = Reached::new(self.file.readable_pages());
        for free in ids {
            if free < 2 || free >= self.file.meta().high_water_mark {
                let detail = format!("the freelist names page {free}, which is outside the pages in use");
                self.faults.push(Fault::page(id, FaultKind::Freelist, detail));
            } else if self.reached.contains(free) {
                self.faults.push(Fault::page(free, FaultKind::Freelist, "is in use and on the freelist"));
            } else if free < self.file.readable_pages() && !listed.insert(free) {
                self.faults.push(Fault::page(free, FaultKind::Freelist, "is on the freelist twice"));
            }
        }
        self.unlisted(&listed);
    }

    fn freelist_page(&mut self, id: u64, buffer: &mut Vec<u8>) -> Result<PageHeader, Fault> {
        let header = self.file.page(id, buffer)?;
        if header.kind != PageKind::Freelist {
            let detail = format!("is {} where the freelist belongs", header.kind.describe());
            return Err(Fault::page(id, FaultKind::Freelist, detail).at(8));
        }
        self.reached.claim(id, header.overflow, &mut self.faults);
        Ok(header)
    }

    /// With a freelist on disk every page is either reached or listed.
    fn unlisted(&mut self, listed: &Reached) {
        for page in 2..self.file.readable_pages() {
            if !self.reached.contains(page) && !listed.contains(page) {
                self.faults.push(Fault::page(page, FaultKind::Freelist, "is neither in use nor on the freelist"));
            }
        }
    }
}

/// Checks the whole file, bucket by bucket.
pub fn check(file: &PageFile) -> Outcome {
    let mut checker = Checker::new(file);
    for (_, bucket) in checker.top_level() {
        checker.bucket(&bucket, &mut |_, _| ());
    }
    checker.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bbolt::Fault;
    use crate::bbolt::bucket::encode_header;
    use crate::bbolt::meta::Meta;
    use crate::bbolt::page::{LeafSizes, encode_leaf, finish_page, set_page_id};
    use crate::bbolt::write::Fill;
    use crate::bbolt::write::tests::{Buckets, bytes_of, file_of, numbered, written};

    fn faults_of(bytes: &[u8]) -> Vec<Fault> {
        check(&file_of(bytes).unwrap()).faults.into_sorted()
    }

    /// Appends a leaf page and gives its id.
    fn append_leaf(bytes: &mut Vec<u8>, elements: &[(bool, &[u8], &[u8])]) -> u64 {
        let sizes = |(is_bucket, key, value): &(bool, &[u8], &[u8])| LeafSizes {
            is_bucket: *is_bucket,
            key_bytes: key.len() as u32,
            value_bytes: value.len() as u32,
        };
        let data: Vec<u8> = elements.iter().flat_map(|(_, key, value)| [*key, *value].concat()).collect();
        let start = bytes.len();
        encode_leaf(&elements.iter().map(sizes).collect::<Vec<_>>(), &data, bytes);
        finish_page(bytes, start, 4096);
        let id = (start / 4096) as u64;
        set_page_id(&mut bytes[start..], id);
        id
    }

    /// Has both metas lead to another root and count all pages.
    fn set_root(bytes: &mut [u8], root: u64) {
        let meta = Meta {
            page_size: 4096,
            root,
            freelist: NO_FREELIST,
            high_water_mark: (bytes.len() / 4096) as u64,
            txid: 9,
        };
        bytes[..80].copy_from_slice(&meta.encode(0));
        bytes[4096..4096 + 80].copy_from_slice(&Meta { txid: 8, ..meta }.encode(1));
    }

    fn empty() -> Vec<u8> {
        bytes_of(&written(4096, Fill::ANYWHERE, &Buckets::new()))
    }

    #[test]
    fn buckets_within_buckets_are_checked_to_a_depth() {
        for (depth, sound) in [(1, true), (MAX_NESTING, true), (MAX_NESTING + 1, false), (100, false)] {
            let mut bytes = empty();
            let mut inner = append_leaf(&mut bytes, &[(false, b"k", b"v")]);
            for _ in 0..depth {
                inner = append_leaf(&mut bytes, &[(true, b"b", &encode_header(inner, 0))]);
            }
            set_root(&mut bytes, inner);
            let faults = faults_of(&bytes);
            assert_eq!(faults.is_empty(), sound, "{depth} {faults:?}");
            assert!(faults.iter().all(|fault| fault.kind == FaultKind::Depth && fault.page.is_some()));
        }
    }

    #[test]
    fn two_buckets_cannot_share_a_tree() {
        let mut bytes = empty();
        let shared = append_leaf(&mut bytes, &[(false, b"k", b"v")]);
        let header = encode_header(shared, 0);
        let root = append_leaf(&mut bytes, &[(true, b"a", &header), (true, b"b", &header)]);
        set_root(&mut bytes, root);
        let faults: Vec<_> = faults_of(&bytes).into_iter().map(|fault| (fault.page, fault.kind)).collect();
        assert_eq!(faults, [(Some(shared), FaultKind::ReachedTwice)]);
    }

    #[test]
    fn what_is_no_bucket_has_no_place_among_buckets() {
        let mut bytes = empty();
        let root = append_leaf(&mut bytes, &[(false, b"a", b"v"), (true, b"b", b"short")]);
        set_root(&mut bytes, root);
        let faults: Vec<_> = faults_of(&bytes).into_iter().map(|fault| (fault.page, fault.kind)).collect();
        assert_eq!(faults, [(Some(root), FaultKind::Bucket); 2]);
    }

    #[test]
    fn pages_that_nothing_reaches_are_counted_and_no_fault() {
        let mut bytes =
            bytes_of(&written(4096, Fill::ANYWHERE, &Buckets::from([(b"key".to_vec(), numbered(99, 9, 99))])));
        let root = file_of(&bytes).unwrap().meta().root;
        for _ in 0..5 {
            append_leaf(&mut bytes, &[(false, b"k", b"v")]);
        }
        set_root(&mut bytes, root);
        let outcome = check(&file_of(&bytes).unwrap());
        assert_eq!((outcome.free_pages, outcome.faults.into_sorted()), (5, Vec::new()));
    }

    #[test]
    fn an_inline_bucket_holds_what_it_counts() {
        let pairs = Buckets::from([(b"b".to_vec(), numbered(3, 8, 8))]);
        let whole = bytes_of(&written(4096, Fill::ANYWHERE, &pairs));
        let root = file_of(&whole).unwrap().meta().root as usize * 4096;
        // Page header, one element, the name, the bucket's header, and the inline page's id and flags.
        let count = root + 16 + 16 + 1 + 16 + 10;
        assert_eq!((whole[count], faults_of(&whole)), (3, Vec::new()));
        for wrong in [0, 1, 2, 4, 200] {
            let mut bytes = whole.clone();
            bytes[count] = wrong;
            let faults = faults_of(&bytes);
            assert!(!faults.is_empty() && faults.iter().all(|fault| fault.page == Some(root as u64 / 4096)), "{wrong}");
        }
    }

    #[test]
    fn the_older_meta_needs_a_right_header_too() {
        for (at, byte) in [(0, 7), (8, 2), (4096, 0), (4096 + 8, 0x10)] {
            let mut bytes = empty();
            bytes[at] = byte;
            let faults: Vec<_> = faults_of(&bytes).into_iter().map(|fault| (fault.page, fault.kind)).collect();
            assert_eq!(faults, [(Some(at as u64 / 4096), FaultKind::Meta)]);
        }
    }
}
