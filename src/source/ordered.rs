//! All pairs of the `key` bucket in their order, by groups of leaf pages that several workers take in turn.
//!
//! [`super::scan`] reads in the order of the file, which is fastest. Whoever writes a store anew, or holds one store
//! against another, needs the order of keys instead. Leaves that follow one another in that order mostly lie near one
//! another in the file too, so neighbours are read together.
//!
//! Groups are the same whatever the number of workers.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::bbolt::bucket::{Bucket, BucketRoot, inline_elements};
use crate::bbolt::buffer::ReadBuffer;
use crate::bbolt::leaf::{self, Bounds};
use crate::bbolt::leaves::BoundsRoom;
use crate::bbolt::page::{Elements, LeafElement};
use crate::bbolt::reached::Reached;
use crate::bbolt::{Fault, Faults, PageFile};

use super::leafpage::{self, Found};
use super::relay::Relay;
use super::scan::{self, Layout};
use super::{Place, Record};

/// Leaf pages of a group.
pub const GROUP_LEAVES: usize = 64;

/// So far apart leaves may begin that are read together; between them lies overflow, or what others wrote meanwhile.
const MAX_GAP_PAGES: u64 = 4;

/// Bytes that are read together at most.
const SPAN_BYTES: u64 = 512 << 10;

/// What the unused rest of a page is held against.
static ZEROS: [u8; 512] = [0; 512];

/// Where the pairs of a `key` bucket are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pages<'g> {
    /// On leaf pages of its own.
    Tree(&'g Layout),
    /// In its parent's page, because they are few; that counts as one leaf.
    Inline(&'g Bucket),
}

/// The leaves of a store's `key` bucket, and which of their groups comes next.
#[derive(Debug)]
pub struct Groups<'g> {
    file: &'g PageFile,
    pages: Pages<'g>,
    reached: &'g Reached,
    relay: Option<&'g Relay<'g>>,
    next: AtomicUsize,
    not_uniform: AtomicBool,
}

impl<'g> Groups<'g> {
    /// Nothing is taken yet. Leaf pages are claimed in `reached` when they are read.
    pub(super) fn new(file: &'g PageFile, pages: Pages<'g>, reached: &'g Reached) -> Self {
        Self { file, pages, reached, relay: None, next: AtomicUsize::new(0), not_uniform: AtomicBool::new(false) }
    }

    /// What is read is given to this on its way, to be hashed.
    pub fn hashed_by(self, relay: Option<&'g Relay<'g>>) -> Self {
        Self { relay, ..self }
    }

    /// How many leaves there are.
    pub fn leaves(&self) -> usize {
        match self.pages {
            Pages::Tree(layout) => layout.leaves().len(),
            Pages::Inline(_) => 1,
        }
    }

    /// The next group that nobody took: its number, and the ordinals of its leaves.
    pub fn take(&self) -> Option<(usize, Range<usize>)> {
        let group = self.next.fetch_add(1, Ordering::Relaxed);
        let leaves = self.leaves();
        let start = group.checked_mul(GROUP_LEAVES).filter(|start| *start < leaves)?;
        Some((group, start..leaves.min(start + GROUP_LEAVES)))
    }

    /// The ordinal of the leaf on which a key would stand.
    pub fn leaf_of(&self, key: &[u8]) -> Option<usize> {
        match self.pages {
            Pages::Tree(layout) => layout.leaves().leaf_of(key),
            Pages::Inline(_) => Some(0),
        }
    }

    /// The least key that may stand on a leaf, as the branches say.
    pub fn first_key(&self, leaf: usize) -> Option<Vec<u8>> {
        match self.pages {
            Pages::Tree(layout) => layout.leaves().first_key(leaf),
            Pages::Inline(_) => None,
        }
    }

    /// Whether a page was a branch where the depth of the tree promised a leaf. What was read is not the whole bucket then:
    /// the store must be laid out anew with [`Depth::Unknown`](crate::bbolt::leaves::Depth).
    pub fn not_uniform(&self) -> bool {
        self.not_uniform.load(Ordering::Relaxed)
    }

    /// A reader of single leaves, for one worker.
    pub fn reader(&self) -> LeafReader<'_> {
        LeafReader {
            groups: self,
            span: ReadBuffer::new(),
            span_pages: 0..0,
            is_hashed: true,
            whole: Vec::new(),
            current: Current::default(),
        }
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u64 {
        self.file.page_size()
    }
}

/// Reads leaves one by one, each with every check that the format allows.
#[derive(Debug)]
pub struct LeafReader<'r> {
    groups: &'r Groups<'r>,
    /// Pages that were read together.
    span: ReadBuffer,
    span_pages: Range<u64>,
    /// Whether these need not be hashed any more.
    is_hashed: bool,
    /// A leaf that is not wholly among them.
    whole: Vec<u8>,
    current: Current,
}

/// The leaf that was read last.
#[derive(Debug, Default)]
struct Current {
    page: u64,
    ordinal: usize,
    /// Where its bytes are within `span`; none if they are in `whole`.
    in_span: Option<Range<usize>>,
    pairs: Vec<Pair>,
    /// For the keys between which its keys lie.
    room: BoundsRoom,
}

/// Where a pair stands on its page.
#[derive(Clone, Copy, Debug)]
struct Pair {
    index: usize,
    is_bucket: bool,
    key_bytes: usize,
    value_offset: usize,
    value_bytes: usize,
}

impl LeafReader<'_> {
    /// Reads the leaf with this ordinal, and perhaps those before `end` with it; gives the bytes that it takes in the file.
    ///
    /// What does not hold is noted and costs its pairs. Each leaf may be read once.
    pub fn load(&mut self, ordinal: usize, end: usize, faults: &mut Faults) -> u64 {
        let (pairs, room) = (std::mem::take(&mut self.current.pairs), std::mem::take(&mut self.current.room));
        self.current = Current { ordinal, pairs, room, ..Current::default() };
        self.current.pairs.clear();
        let result = match self.groups.pages {
            Pages::Tree(layout) => match layout.leaves().page(ordinal) {
                Some(page) => self.load_page(layout, page, end, faults),
                None => return 0,
            },
            Pages::Inline(bucket) => self.load_inline(bucket, faults),
        };
        faults.note(result).unwrap_or_default()
    }

    fn load_inline(&mut self, bucket: &Bucket, faults: &mut Faults) -> Result<u64, Fault> {
        self.current.page = bucket.parent_page;
        let BucketRoot::Inline(bytes) = &bucket.root else { return Ok(0) };
        let elements = inline_elements(bucket.parent_page, bytes)?;
        self.whole.clear();
        self.whole.extend_from_slice(bytes);
        find_pairs(bucket.parent_page, &elements, Bounds::default(), &mut self.current.pairs, faults);
        Ok(bytes.len() as u64)
    }

    fn load_page(&mut self, layout: &Layout, page: u64, end: usize, faults: &mut Faults) -> Result<u64, Fault> {
        let Groups { file, reached, .. } = self.groups;
        self.current.page = page;
        if !self.span_pages.contains(&page) {
            self.read_span(layout, page, end);
        }
        let page_bytes = file.page_size();
        let spanned = self.span_pages.contains(&page).then(|| {
            let start = ((page - self.span_pages.start) * page_bytes) as usize;
            start..start + ((self.span_pages.end - page) * page_bytes) as usize
        });
        let at_hand = match &spanned {
            Some(range) => self.span.read(range.start).get(..range.len()).unwrap_or_default(),
            None => &[],
        };
        let (header, total) = match leafpage::find((file, reached), page, at_hand, &mut self.whole, faults)? {
            Found::Branch => {
                self.groups.not_uniform.store(true, Ordering::Relaxed);
                return Ok(0);
            }
            Found::Leaf { header, bytes, at_hand } => {
                if let Some(relay) = self.groups.relay.filter(|_| !at_hand) {
                    relay.let_go(page * page_bytes, &self.whole, (self.current.ordinal, self.groups.leaves()));
                }
                self.current.in_span = spanned.filter(|_| at_hand).map(|range| range.start..range.start + bytes);
                (header, bytes)
            }
        };
        let mut pairs = std::mem::take(&mut self.current.pairs);
        let mut room = std::mem::take(&mut self.current.room);
        let elements = Elements::new(page, self.bytes(), header.count);
        if let Some(elements) = faults.note(elements) {
            let bounds = layout.leaves().bounds(self.current.ordinal, &mut room);
            find_pairs(page, &elements, bounds, &mut pairs, faults);
        }
        self.current.room = room;
        self.current.pairs = pairs;
        Ok(total as u64)
    }

    /// Reads the pages from a leaf on, as long as the leaves behind it follow closely.
    fn read_span(&mut self, layout: &Layout, first: u64, end: usize) {
        self.let_go();
        let file = self.groups.file;
        let most = (SPAN_BYTES / file.page_size()).max(1);
        let mut last = first;
        for next in (self.current.ordinal + 1..end).map_while(|ordinal| layout.leaves().page(ordinal)) {
            if next <= last || next > last + MAX_GAP_PAGES || next - first >= most {
                break;
            }
            last = next;
        }
        let bytes = usize::try_from((last - first + 1) * file.page_size()).unwrap_or(0);
        // All spans have the same room, since their buffers go from hand to hand.
        self.span.room(bytes.max(SPAN_BYTES as usize));
        let span = self.span.room(bytes);
        let read = last < file.readable_pages() && file.read_at(span, first * file.page_size()).is_ok();
        // What cannot be read as a whole is tried page by page.
        self.span_pages = if read { first..last + 1 } else { 0..0 };
        self.is_hashed = match self.groups.relay {
            Some(relay) if read => {
                relay.offer(first * file.page_size(), self.span.read(0).get(..bytes).unwrap_or_default())
            }
            _ => true,
        };
    }

    /// Leaves the pages that were read together to be hashed, if they still have to be: they will not be at hand any more.
    fn let_go(&mut self) {
        let Some(relay) = self.groups.relay.filter(|_| !std::mem::replace(&mut self.is_hashed, true)) else { return };
        let page_bytes = self.groups.file.page_size();
        let pages = std::mem::replace(&mut self.span_pages, 0..0);
        let bytes = usize::try_from((pages.end - pages.start) * page_bytes).unwrap_or(0);
        let progress = (self.current.ordinal, self.groups.leaves());
        relay.leave(pages.start * page_bytes, (&mut self.span, bytes), progress);
    }

    /// The bytes of the leaf that was read last, with its overflow.
    fn bytes(&self) -> &[u8] {
        match &self.current.in_span {
            Some(range) => self.span.read(range.start).get(..range.len()).unwrap_or_default(),
            None => &self.whole,
        }
    }

    /// How many pairs the leaf has.
    pub fn len(&self) -> usize {
        self.current.pairs.len()
    }

    /// Whether the leaf has no pair.
    pub fn is_empty(&self) -> bool {
        self.current.pairs.is_empty()
    }

    /// A pair of the leaf, counted in their order.
    #[inline]
    pub fn pair(&self, number: usize) -> Option<LeafElement<'_>> {
        let pair = self.current.pairs.get(number)?;
        let bytes = self.bytes();
        let key_offset = pair.value_offset.checked_sub(pair.key_bytes)?;
        Some(LeafElement {
            is_bucket: pair.is_bucket,
            key: bytes.get(key_offset..pair.value_offset)?,
            value: bytes.get(pair.value_offset..pair.value_offset + pair.value_bytes)?,
            value_offset: pair.value_offset,
        })
    }

    /// A pair and its record, if it is one; if not, why.
    #[inline]
    pub fn record(&self, number: usize) -> Option<(LeafElement<'_>, Result<Record<'_>, Fault>)> {
        let index = self.current.pairs.get(number)?.index;
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let place = Place { leaf: u32::try_from(self.current.ordinal).unwrap_or(u32::MAX), index };
        let element = self.pair(number)?;
        Some((element, scan::record_of(self.current.page, place, &element)))
    }

    /// The first byte behind the leaf's last pair that is not zero, counted from the start of the page.
    pub fn slack(&self) -> Option<usize> {
        let used = self.current.pairs.last().map_or(0, |last| last.value_offset + last.value_bytes);
        let rest = self.bytes().get(used..).unwrap_or_default();
        // Nearly always there is none, and that is seen faster of many bytes at once.
        let any = rest.chunks(ZEROS.len()).any(|chunk| ZEROS.get(..chunk.len()) != Some(chunk));
        any.then(|| rest.iter().position(|byte| *byte != 0)).flatten().map(|position| used + position)
    }

    /// The page on which the leaf begins.
    pub fn page(&self) -> u64 {
        self.current.page
    }
}

/// What it read last is not lost.
impl Drop for LeafReader<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn find_pairs(page: u64, elements: &Elements<'_>, bounds: Bounds<'_>, pairs: &mut Vec<Pair>, faults: &mut Faults) {
    leaf::pairs(page, elements, bounds, faults, |index, element| {
        let LeafElement { is_bucket, key, value, value_offset } = element;
        pairs.push(Pair { index, is_bucket, key_bytes: key.len(), value_offset, value_bytes: value.len() });
    });
}
