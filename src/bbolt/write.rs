//! The bulk writer: sorted pairs in, packed pages out. It makes a whole new file, and no byte but the given ones and
//! those that the format demands gets into it.
//!
//! Pages come in this order: the two metas, then for each bucket in the order of names its leaves and behind them its
//! branches, level by level, at last the tree of top-level buckets. Nothing is free, and no freelist is written, as in
//! every file of etcd. The same pairs give the same bytes.
//!
//! Leaves are split as bbolt splits a node that was filled at once: while more than a page is waiting, a page is filled
//! to the fill fraction; what fits into one page at the end stays together. Unlike there, a leaf may have a single pair.
//! Small buckets stand inline where bbolt would have them inline.
//!
//! [`BucketWriter`] is for one thread. Several threads pack [`Leaves`] with a [`Packer`] each and hand them over in the
//! order of keys ([`BucketWriter::place`]); then each writes its own ([`Placed::write`]). Memory holds some pages, and for
//! each leaf its first key and page id.
//!
//! Upstream: `etcd-io/bbolt` `node.go` (`split`, `spill`), `bucket.go` (`inlineable`), `compact.go`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::bucket::encode_header;
use super::keys::Keys;
use super::meta::{Meta, NO_FREELIST};
use super::page::{ELEMENT_BYTES, MAX_KEY_BYTES, PAGE_HEADER_BYTES, encode_branch, finish_page, set_page_id};
use pack::Last;
pub use pack::{Leaves, Packer};

mod pack;

/// The longest value that bbolt takes.
pub const MAX_VALUE_BYTES: usize = (1 << 31) - 2;

/// The page sizes that etcd's machines have.
pub const PAGE_SIZES: std::ops::RangeInclusive<u32> = 4096..=65_536;

/// Bytes that are gathered before they are written. More at once was measured to be slower.
const WRITE_BYTES: usize = 256 << 10;

/// Room for these, for a page that goes beyond, and for what the pages are moved by.
const BUFFER_BYTES: usize = 2 * WRITE_BYTES;

/// Pages 0 and 1 are the metas.
const FIRST_PAGE: u64 = 2;

/// A branch page with a single child would be a detour; bbolt makes none.
const MIN_CHILDREN: usize = 2;

/// How full pages become when there is more than one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill(f64);

impl Fill {
    /// For buckets that grow at their end, as etcd's `key` does: revisions only ascend, and nothing is ever put between
    /// two of them. etcd itself fills that bucket so, when it runs and when it defragments.
    pub const APPENDED: Self = Self(0.9);
    /// For buckets whose new keys may belong anywhere. It is bbolt's default, and what etcd leaves all other buckets at.
    pub const ANYWHERE: Self = Self(0.5);
    /// For what is never added to.
    pub const FULL: Self = Self(1.0);

    /// A fraction of the page; fewer than a quarter or more than the whole count as these.
    pub fn new(fraction: f64) -> Self {
        Self(fraction.clamp(0.25, 1.0))
    }

    /// Bytes of a page that are filled.
    fn bytes(self, page_size: u32) -> usize {
        (f64::from(page_size) * self.0) as usize
    }
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The operating system did not take the bytes.
    #[error("cannot be written: {0}")]
    Io(#[from] io::Error),
    /// Nobody has such pages.
    #[error("a page size of {0} bytes; a power of two from 4096 to 65536 is needed")]
    PageSize(u32),
    /// Two meta pages need two transaction ids.
    #[error("transaction id 0; the first meta page is of transaction 1 at least")]
    Transaction,
    /// A key or bucket name is not greater than the one before it.
    #[error("the key or bucket name number {number} is not greater than the one before it")]
    Order {
        /// Counted from 0 within its bucket, or among the buckets.
        number: u64,
    },
    /// A key or bucket name is empty or longer than [`MAX_KEY_BYTES`].
    #[error("a key or bucket name of {0} bytes; 1 to {MAX_KEY_BYTES} are allowed")]
    Key(usize),
    /// A value is longer than [`MAX_VALUE_BYTES`].
    #[error("a value of {0} bytes; {MAX_VALUE_BYTES} are allowed")]
    Value(usize),
    /// There are more pages, or more bytes in the first keys of pages, than the reader can count.
    #[error("more than {} pages, or bytes in their first keys", u32::MAX)]
    Pages,
}

/// A file in the making.
#[derive(Debug)]
pub struct Writer<'f> {
    file: &'f File,
    page_size: u32,
    txid: u64,
    next_page: u64,
    top_level: Packer,
}

impl<'f> Writer<'f> {
    /// Begins with an empty `file`; what it held is gone. The first meta page will be of transaction `txid`, the second
    /// of the one before it, as in a snapshot that a server sends.
    pub fn new(file: &'f File, page_size: u32, txid: u64) -> Result<Self, WriteError> {
        if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size) {
            return Err(WriteError::PageSize(page_size));
        }
        if txid == 0 {
            return Err(WriteError::Transaction);
        }
        file.set_len(0)?;
        Ok(Self { file, page_size, txid, next_page: FIRST_PAGE, top_level: Packer::new(page_size, Fill::FULL) })
    }

    /// Begins a top-level bucket, whose name must be greater than those before it. It is nothing until it is finished.
    pub fn bucket<'w>(
        &'w mut self,
        name: &[u8],
        sequence: u64,
        fill: Fill,
    ) -> Result<BucketWriter<'w, 'f>, WriteError> {
        self.top_level.judge(name, 0)?;
        Ok(BucketWriter {
            packer: Packer::new(self.page_size, fill),
            name: name.to_vec(),
            sequence,
            fill,
            children: Children::default(),
            last: Last::default(),
            writer: self,
        })
    }

    /// Writes the tree of top-level buckets and the metas, and ends the file behind its last page. Gives the newer meta
    /// record. Nothing is synced.
    pub fn finish(mut self) -> Result<Meta, WriteError> {
        let packer = std::mem::replace(&mut self.top_level, Packer::new(self.page_size, Fill::FULL));
        let mut children = Children::default();
        let placed = self.place(packer.finish(), &mut children)?;
        placed.write(self.file)?;
        let root = self.branches(children, Fill::FULL)?;
        let meta = Meta {
            page_size: self.page_size,
            root,
            freelist: NO_FREELIST,
            high_water_mark: self.next_page,
            txid: self.txid,
        };
        self.file.set_len(self.next_page * u64::from(self.page_size))?;
        let mut metas = Vec::new();
        for (page, txid) in [(0, self.txid), (1, self.txid - 1)] {
            let start = metas.len();
            metas.extend(Meta { txid, ..meta }.encode(page));
            finish_page(&mut metas, start, self.page_size as usize);
        }
        self.file.write_all_at(&metas, 0)?;
        Ok(meta)
    }

    /// Gives leaves their page ids, and remembers them as children.
    fn place(&mut self, mut leaves: Leaves, children: &mut Children) -> Result<Placed, WriteError> {
        let offset = self.next_page * u64::from(self.page_size);
        let Leaves { bytes, firsts, lead, .. } = &mut leaves;
        let lead = *lead;
        for (start, key) in firsts.iter() {
            let id = self.next_page + ((start - lead) / self.page_size as usize) as u64;
            set_page_id(bytes.get_mut(*start..).unwrap_or_default(), id);
            children.push(bytes.get(key.clone()).unwrap_or_default(), id)?;
        }
        self.next_page += ((bytes.len() - lead) / self.page_size as usize) as u64;
        Ok(Placed { bytes: leaves.bytes, lead, offset })
    }

    /// Writes the branches above `children`, level by level, and gives the id of the one page at the top.
    fn branches(&mut self, mut children: Children, fill: Fill) -> Result<u64, WriteError> {
        let page_bytes = self.page_size as usize;
        while children.len() > 1 {
            let mut parents = Children::default();
            let mut bytes = Vec::new();
            let mut rest = 0..children.len();
            while !rest.is_empty() {
                let group = rest.start..children.group_end(rest.start, fill.bytes(self.page_size), page_bytes);
                rest.start = group.end;
                let id = self.next_page + (bytes.len() / page_bytes) as u64;
                let group = children.of(group);
                parents.push(group.first().map_or(&[], |(key, _)| key), id)?;
                let start = bytes.len();
                encode_branch(group.iter().map(|(key, page)| (key.as_slice(), *page)), &mut bytes);
                finish_page(&mut bytes, start, page_bytes);
                set_page_id(bytes.get_mut(start..).unwrap_or_default(), id);
                if bytes.len() >= WRITE_BYTES || rest.is_empty() {
                    self.file.write_all_at(&bytes, self.next_page * u64::from(self.page_size))?;
                    self.next_page += (bytes.len() / page_bytes) as u64;
                    bytes.clear();
                }
            }
            children = parents;
        }
        Ok(children.page(0))
    }
}

/// A bucket in the making. What is not finished is not in the file.
#[derive(Debug)]
pub struct BucketWriter<'w, 'f> {
    writer: &'w mut Writer<'f>,
    name: Vec<u8>,
    sequence: u64,
    fill: Fill,
    packer: Packer,
    children: Children,
    /// The last key among the leaves that were placed.
    last: Last,
}

impl BucketWriter<'_, '_> {
    /// Adds a pair, whose key must be greater than those before it.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        if self.packer.last.count == 0 {
            self.last.judge(key)?;
        }
        self.packer.push(key, value)?;
        if self.packer.packed_bytes() >= WRITE_BYTES {
            let done = self.packer.take();
            let placed = self.writer.place(done, &mut self.children)?;
            placed.write(self.writer.file)?;
            self.packer.reuse(placed.into_bytes());
        }
        Ok(())
    }

    /// A packer that fills pages as this bucket wants them, for another thread.
    pub fn packer(&self) -> Packer {
        Packer::new(self.writer.page_size, self.fill)
    }

    /// Takes leaves that were packed elsewhere, all of whose keys are greater than those before them, and tells where they
    /// go. A bucket that takes any never stands inline. Pairs that were pushed before come before them.
    pub fn place(&mut self, leaves: Leaves) -> Result<Placed, WriteError> {
        let Some(first) = leaves.first_key().filter(|_| leaves.last.count > 0) else {
            // Nothing was packed, and an empty page belongs into no tree.
            return Ok(Placed { bytes: Vec::new(), lead: 0, offset: 0 });
        };
        self.flush()?;
        self.last.judge(first)?;
        self.last = leaves.last.clone();
        self.writer.place(leaves, &mut self.children)
    }

    /// Ends the bucket.
    pub fn finish(mut self) -> Result<(), WriteError> {
        let inline = self.children.len() == 0 && self.packer.is_inlineable();
        let value = if inline {
            let mut value = encode_header(0, self.sequence).to_vec();
            self.packer.encode_inline(&mut value);
            value
        } else {
            self.flush()?;
            let root = self.writer.branches(self.children, self.fill)?;
            encode_header(root, self.sequence).to_vec()
        };
        self.writer.top_level.push_element(true, &self.name, &value)
    }

    /// Places and writes what was pushed so far.
    fn flush(&mut self) -> Result<(), WriteError> {
        let packer = std::mem::replace(&mut self.packer, Packer::new(self.writer.page_size, self.fill));
        if packer.last.count > 0 {
            self.last = packer.last.clone();
            let placed = self.writer.place(packer.finish(), &mut self.children)?;
            placed.write(self.writer.file)?;
        }
        Ok(())
    }
}

/// Leaf pages that know their place in the file.
#[derive(Debug)]
pub struct Placed {
    bytes: Vec<u8>,
    lead: usize,
    offset: u64,
}

impl Placed {
    /// Writes them; by any thread, in any order.
    pub fn write(&self, file: &File) -> io::Result<()> {
        file.write_all_at(self.bytes(), self.offset)
    }

    /// The pages' bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.lead..).unwrap_or_default()
    }

    /// The buffer, to be packed into again.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The pages of one level with the first key of each.
#[derive(Debug, Default)]
struct Children {
    pages: Vec<u32>,
    keys: Keys,
}

impl Children {
    fn push(&mut self, key: &[u8], page: u64) -> Result<(), WriteError> {
        let number = u32::try_from(page).map_err(|_| WriteError::Pages)?;
        self.keys.push(key).ok_or(WriteError::Pages)?;
        self.pages.push(number);
        Ok(())
    }

    fn len(&self) -> usize {
        self.pages.len()
    }

    fn page(&self, child: usize) -> u64 {
        self.pages.get(child).copied().map_or(0, u64::from)
    }

    /// Some of them: first key and page id.
    fn of(&self, children: Range<usize>) -> Vec<(Vec<u8>, u64)> {
        let one = |child| {
            let mut key = Vec::new();
            self.keys.get(child, &mut key);
            (key, self.page(child))
        };
        children.map(one).collect()
    }

    /// Where the branch page ends that begins with `start`. It is filled up to `fill_bytes`, but what fits into one page at
    /// the end stays together, and no page is left with one child.
    fn group_end(&self, start: usize, fill_bytes: usize, page_bytes: usize) -> usize {
        let (mut total, mut full) = (PAGE_HEADER_BYTES, 0);
        let mut fits = |child: usize| {
            total += ELEMENT_BYTES + self.keys.bytes_of(child).unwrap_or(0);
            full += usize::from(total <= fill_bytes);
            total <= page_bytes
        };
        if (start..self.len()).all(&mut fits) {
            return self.len();
        }
        let end = start + full.max(MIN_CHILDREN);
        match self.len().saturating_sub(end) {
            0 => self.len(),
            1 if full > MIN_CHILDREN => end - 1,
            1 => self.len(),
            _ => end,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
