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
