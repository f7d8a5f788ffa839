//! Packs sorted pairs into leaf pages, which have no ids yet; [`super`] gives them their places in the file.
//!
//! It knows neither files nor branches.

use std::ops::Range;

use super::super::page::{ELEMENT_BYTES, LeafSizes, MAX_KEY_BYTES, PAGE_HEADER_BYTES, encode_leaf, finish_page};
use super::{BUFFER_BYTES, Fill, MAX_VALUE_BYTES, WriteError};

/// Bytes of a page of memory; where they are larger, what begins at a multiple of this is as good.
const MEMORY_PAGE_BYTES: usize = 4096;

/// Packs pairs into leaf pages.
#[derive(Debug)]
pub struct Packer {
    page_size: u32,
    fill: Fill,
    waiting: Waiting,
    done: Leaves,
    pub(super) last: Last,
}

impl Packer {
    /// For pages of this size, filled this far.
    pub(super) fn new(page_size: u32, fill: Fill) -> Self {
        Self { page_size, fill, waiting: Waiting::default(), done: Leaves::default(), last: Last::default() }
    }

    /// Uses a buffer again that [`Placed::into_bytes`](super::Placed::into_bytes) gave.
    pub fn with_buffer(mut self, buffer: Vec<u8>) -> Self {
        self.reuse(buffer);
        self
    }

    pub(super) fn reuse(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.reserve(BUFFER_BYTES);
        let lead = buffer.as_ptr().align_offset(MEMORY_PAGE_BYTES).min(MEMORY_PAGE_BYTES);
        buffer.resize(lead, 0);
        self.done = Leaves { bytes: buffer, lead, ..Leaves::default() };
    }

    /// Adds a pair, whose key must be greater than those before it.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.push_element(false, key, value)
    }

    /// Adds pairs whose keys and values stand one behind the other in `data`, with greater keys than those before them, each
    /// greater than the last one.
    pub fn push_all(&mut self, pairs: &[LeafSizes], data: &[u8]) -> Result<(), WriteError> {
        let mut at = 0;
        for pair in pairs {
            let key = data.get(at..at + pair.key_bytes as usize).unwrap_or_default();
            self.judge(key, pair.value_bytes as usize)?;
            self.last.set(key);
            at += pair.data();
        }
        let mut rest = Run { pairs, data };
        while self.waiting.run().bytes() + rest.bytes() - PAGE_HEADER_BYTES > self.page_size as usize
            && self.waiting.pairs.len() + rest.pairs.len() > 1
        {
            let count = filling(self.waiting.pairs.iter().chain(rest.pairs), self.fill.bytes(self.page_size));
            // What waits is less than a page, and hardly ever as much as fills one.
            match self.waiting.pairs.len() {
                0 => {
                    let Run { pairs, data } = rest.take(count);
                    self.done.push(pairs, data, self.page_size as usize);
                }
                waiting => {
                    self.waiting.push_all(rest.take(count.saturating_sub(waiting)));
                    self.waiting.leaf(count, self.page_size as usize, &mut self.done);
                }
            }
        }
        self.waiting.push_all(rest);
        Ok(())
    }

    /// The pages.
    pub fn finish(mut self) -> Leaves {
        let rest = self.waiting.pairs.len();
        if rest > 0 || self.done.firsts.is_empty() {
            self.waiting.leaf(rest, self.page_size as usize, &mut self.done);
        }
        self.done
    }

    pub(super) fn push_element(&mut self, is_bucket: bool, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.judge(key, value.len())?;
        self.last.set(key);
        self.waiting.push(is_bucket, key, value);
        self.split();
        Ok(())
    }

    pub(super) fn judge(&self, key: &[u8], value_bytes: usize) -> Result<(), WriteError> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(WriteError::Key(key.len()));
        }
        if value_bytes > MAX_VALUE_BYTES {
            return Err(WriteError::Value(value_bytes));
        }
        self.last.judge(key)
    }

    /// Makes leaves while more is waiting than a page holds, and more than one pair.
    fn split(&mut self) {
        while self.waiting.run().bytes() > self.page_size as usize && self.waiting.pairs.len() > 1 {
            let count = filling(&self.waiting.pairs, self.fill.bytes(self.page_size));
            self.waiting.leaf(count, self.page_size as usize, &mut self.done);
        }
    }

    /// Bytes of the leaves that are done.
    pub fn packed_bytes(&self) -> usize {
        self.done.bytes.len() - self.done.lead
    }

    /// The leaves that are done; what is waiting goes on waiting.
    pub fn take(&mut self) -> Leaves {
        std::mem::take(&mut self.done)
    }

    /// Whether bbolt would have a bucket of what was pushed so far inline.
    pub(super) fn is_inlineable(&self) -> bool {
        self.done.firsts.is_empty() && self.waiting.run().bytes() <= self.page_size as usize / 4
    }

    /// Appends what was pushed so far as a leaf that stands inline.
    pub(super) fn encode_inline(&self, out: &mut Vec<u8>) {
        encode_leaf(&self.waiting.pairs, &self.waiting.data, out);
    }
}

/// Leaf pages in the order of keys that have no ids yet.
#[derive(Debug, Default)]
pub struct Leaves {
    pub(super) bytes: Vec<u8>,
    /// Bytes in front of the pages, so that these begin at the start of a page of memory: the system copies what is written
    /// several times as fast from there.
    pub(super) lead: usize,
    /// Where within `bytes` each leaf starts, and where its first key is.
    pub(super) firsts: Vec<(usize, Range<usize>)>,
    pub(super) last: Last,
}

impl Leaves {
    /// Bytes of the pages.
    pub fn page_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(self.lead)
    }

    pub(super) fn first_key(&self) -> Option<&[u8]> {
        let (_, key) = self.firsts.first()?;
        self.bytes.get(key.clone())
    }

    /// Adds a leaf of these pairs, whose keys and values are `data`.
    fn push(&mut self, elements: &[LeafSizes], data: &[u8], page_bytes: usize) {
        if let Some(last) = elements.last() {
            let start = data.len().saturating_sub(last.data());
            self.last.set(data.get(start..start + last.key_bytes as usize).unwrap_or_default());
        }
        let start = self.bytes.len();
        let key = start + PAGE_HEADER_BYTES + elements.len() * ELEMENT_BYTES;
        let key_bytes = elements.first().map_or(0, |element| element.key_bytes as usize);
        self.firsts.push((start, key..key + key_bytes));
        encode_leaf(elements, data, &mut self.bytes);
        finish_page(&mut self.bytes, start, page_bytes);
    }
}

/// The greatest key so far, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    key: Vec<u8>,
    pub(super) count: u64,
}

impl Last {
    pub(super) fn judge(&self, key: &[u8]) -> Result<(), WriteError> {
        if self.count > 0 && key <= self.key.as_slice() {
            return Err(WriteError::Order { number: self.count });
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8]) {
        self.key.clear();
        self.key.extend_from_slice(key);
        self.count += 1;
    }
}

/// Pairs whose keys and values stand one behind the other.
#[derive(Clone, Copy)]
struct Run<'r> {
    pairs: &'r [LeafSizes],
    data: &'r [u8],
}

impl Run<'_> {
    /// Bytes of a page with all of them.
    fn bytes(&self) -> usize {
        PAGE_HEADER_BYTES + self.pairs.len() * ELEMENT_BYTES + self.data.len()
    }

    /// Takes the first `count` pairs away.
    fn take(&mut self, count: usize) -> Self {
        let (pairs, other_pairs) = self.pairs.split_at_checked(count).unwrap_or((self.pairs, &[]));
        let bytes = pairs.iter().map(LeafSizes::data).sum();
        let (data, other_data) = self.data.split_at_checked(bytes).unwrap_or((self.data, &[]));
        *self = Self { pairs: other_pairs, data: other_data };
        Self { pairs, data }
    }
}

/// How many pairs fill a page up to `bytes`; one at least.
fn filling<'p>(pairs: impl IntoIterator<Item = &'p LeafSizes>, bytes: usize) -> usize {
    let mut total = PAGE_HEADER_BYTES;
    let fits = |pair: &&LeafSizes| {
        total += pair.total();
        total <= bytes
    };
    pairs.into_iter().take_while(fits).count().max(1)
}

/// Pairs that have no page yet.
#[derive(Debug, Default)]
struct Waiting {
    pairs: Vec<LeafSizes>,
    /// Keys and values one behind the other.
    data: Vec<u8>,
}

impl Waiting {
    fn run(&self) -> Run<'_> {
        Run { pairs: &self.pairs, data: &self.data }
    }

    fn push(&mut self, is_bucket: bool, key: &[u8], value: &[u8]) {
        let (key_bytes, value_bytes) = (key.len() as u32, value.len() as u32);
        self.pairs.push(LeafSizes { is_bucket, key_bytes, value_bytes });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn push_all(&mut self, run: Run<'_>) {
        self.pairs.extend_from_slice(run.pairs);
        self.data.extend_from_slice(run.data);
    }

    /// Moves the first `count` pairs to a leaf of their own.
    fn leaf(&mut self, count: usize, page_bytes: usize, leaves: &mut Leaves) {
        let Run { pairs, data } = self.run().take(count);
        leaves.push(pairs, data, page_bytes);
        let (count, bytes) = (pairs.len(), data.len());
        self.pairs.drain(..count);
        self.data.drain(..bytes);
    }
}
