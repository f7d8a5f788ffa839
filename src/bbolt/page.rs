//! The page header, and the elements of branch and leaf pages.
//!
//! Upstream: `etcd-io/bbolt` `internal/common/page.go`, `internal/common/inode.go`. All integers are in the
//! byte order of the machine that wrote the file; only little-endian files are read ([`super::meta`] tells).
//!
//! | offset | bytes | header |           | offset | bytes | branch element | | offset | bytes | leaf element |
//! |--:|--:|---|                         |--:|--:|---|                      |--:|--:|---|
//! | 0 | 8 | page id |                  | 0 | 4 | position of the key |     | 0 | 4 | flags: 1 = a bucket |
//! | 8 | 2 | flags |                    | 4 | 4 | key bytes |               | 4 | 4 | position of the key |
//! | 10 | 2 | elements |                | 8 | 8 | child's page id |         | 8 | 4 | key bytes |
//! | 12 | 4 | overflow pages |          | | | |                             | 12 | 4 | value bytes |
//!
//! A position counts from the start of its own element. The value follows its key at once.

use nom::Parser;
use nom::number::complete::{le_u16, le_u32, le_u64};

use super::fault::{Fault, FaultKind};

/// Bytes of a page header.
pub const PAGE_HEADER_BYTES: usize = 16;
/// Bytes of an element of a branch or a leaf page.
pub const ELEMENT_BYTES: usize = 16;
/// The longest key that bbolt writes.
pub const MAX_KEY_BYTES: usize = 32_768;

const FLAG_BRANCH: u16 = 0x01;
const FLAG_LEAF: u16 = 0x02;
const FLAG_META: u16 = 0x04;
const FLAG_FREELIST: u16 = 0x10;

/// Where a header has the number of overflow pages.
const OVERFLOW_OFFSET: usize = 12;

/// The bit of a leaf element that marks a bucket.
const ELEMENT_BUCKET: u32 = 0x01;

/// What a page's flags say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Keys and the ids of child pages.
    Branch,
    /// Keys and values.
    Leaf,
    /// One of the two meta records.
    Meta,
    /// Ids of free pages.
    Freelist,
    /// None of these, or several: the flags as they stand.
    Unknown(u16),
}

impl PageKind {
    fn from_flags(flags: u16) -> Self {
        match flags {
            FLAG_BRANCH => Self::Branch,
            FLAG_LEAF => Self::Leaf,
            FLAG_META => Self::Meta,
            FLAG_FREELIST => Self::Freelist,
            other => Self::Unknown(other),
        }
    }

    /// The kind in words.
    pub fn describe(self) -> String {
        match self {
            Self::Branch => "a branch page".into(),
            Self::Leaf => "a leaf page".into(),
            Self::Meta => "a meta page".into(),
            Self::Freelist => "a freelist page".into(),
            Self::Unknown(flags) => format!("of no known kind (flags {flags:#06x})"),
        }
    }
}

/// The first sixteen bytes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The page id that the page gives itself.
    pub id: u64,
    /// What it says it is.
    pub kind: PageKind,
    /// Elements (branch, leaf) or ids (freelist).
    pub count: u16,
    /// Further pages that belong to this one; they have no header of their own.
    pub overflow: u32,
}

impl PageHeader {
    /// Reads the header at the start of `page`; none where there are not even sixteen bytes.
    pub fn decode(page: &[u8]) -> Option<Self> {
        let parsed: nom::IResult<&[u8], _> = (le_u64, le_u16, le_u16, le_u32).parse(page);
        let (_, (id, flags, count, overflow)) = parsed.ok()?;
        Some(Self { id, kind: PageKind::from_flags(flags), count, overflow })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; PAGE_HEADER_BYTES] {
        let flags = match self.kind {
            PageKind::Branch => FLAG_BRANCH,
            PageKind::Leaf => FLAG_LEAF,
            PageKind::Meta => FLAG_META,
            PageKind::Freelist => FLAG_FREELIST,
            PageKind::Unknown(flags) => flags,
        };
        let mut bytes = [0; PAGE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }
}

fn branch_element(input: &[u8]) -> nom::IResult<&[u8], (u32, u32, u64)> {
    (le_u32, le_u32, le_u64).parse(input)
}

/// An element as four numbers.
#[inline]
fn words(element: &[u8; ELEMENT_BYTES]) -> [u32; 4] {
    let packed = u128::from_le_bytes(*element);
    [packed as u32, (packed >> 32) as u32, (packed >> 64) as u32, (packed >> 96) as u32]
}

fn leaf_element(input: &[u8]) -> nom::IResult<&[u8], (u32, u32, u32, u32)> {
    (le_u32, le_u32, le_u32, le_u32).parse(input)
}

/// The elements of a branch or leaf page, each checked when it is asked for.
///
/// `bytes` is the whole page with its overflow. Elements may neither overlap the element array nor leave the
/// page; that data ranges ascend is checked too, so a small page cannot name the same bytes many times.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'p> {
    page: u64,
    bytes: &'p [u8],
    count: usize,
}

/// An element of a leaf page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafElement<'p> {
    /// Whether the value is a bucket.
    pub is_bucket: bool,
    /// The key; never empty.
    pub key: &'p [u8],
    /// The value, or a bucket's header and inline page.
    pub value: &'p [u8],
    /// Where the value starts within the page.
    pub value_offset: usize,
}

/// An element of a branch page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchElement<'p> {
    /// No key below the child is smaller.
    pub key: &'p [u8],
    /// Where the key starts within the page.
    pub key_offset: usize,
    /// The child's page id.
    pub child: u64,
}

impl<'p> Elements<'p> {
    /// Takes the page's bytes, header included; `page` only names it in faults.
    pub fn new(page: u64, bytes: &'p [u8], count: u16) -> Result<Self, Fault> {
        let count = usize::from(count);
        let array_end = PAGE_HEADER_BYTES + count * ELEMENT_BYTES;
        if array_end > bytes.len() {
            let detail = format!("{count} elements do not fit into {} bytes", bytes.len());
            return Err(Fault::page(page, FaultKind::Element, detail).at(10));
        }
        Ok(Self { page, bytes, count })
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none, as on the root page of an empty bucket.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The byte behind the last element's data, which is where the unused rest of the page begins.
    ///
    /// Exact for a page whose elements all hold.
    pub fn used_bytes(&self) -> usize {
        let array_end = PAGE_HEADER_BYTES + self.count * ELEMENT_BYTES;
        match self.count.checked_sub(1).map(|last| self.leaf(last)) {
            Some(Ok(element)) => element.value_offset + element.value.len(),
            _ => array_end,
        }
    }

    /// Where data may begin: behind the element array.
    pub fn data_start(&self) -> usize {
        PAGE_HEADER_BYTES + self.count * ELEMENT_BYTES
    }

    /// Looks for data that belong to no element, given the elements' own data in order.
    pub fn packing(&self) -> Packing<'p> {
        self.packing_from(self.data_start())
    }

    /// The same, where everything before `end` was looked through.
    pub fn packing_from(&self, end: usize) -> Packing<'p> {
        Packing { page: self.page, bytes: self.bytes, end: Some(end), told: false }
    }

    /// Leaf element `index` if it is as nearly all are: no bucket, a key of an allowed length, and its data right at `end`,
    /// where those of the element before it end, so that nothing is left between them.
    ///
    /// None is no fault yet; [`leaves_from`](Self::leaves_from) tells.
    #[inline]
    pub fn packed_leaf(&self, index: usize, end: usize) -> Option<LeafElement<'p>> {
        let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let [flags, position, key_bytes, value_bytes] = words(self.bytes.get(at..)?.first_chunk()?);
        let key_bytes = key_bytes as usize;
        let begins = at.checked_add(position as usize)?;
        if flags != 0 || begins != end || key_bytes == 0 || key_bytes > MAX_KEY_BYTES {
            return None;
        }
        let (key, rest) = self.bytes.get(begins..)?.split_at_checked(key_bytes)?;
        let value = rest.get(..value_bytes as usize)?;
        Some(LeafElement { is_bucket: false, key, value, value_offset: begins + key_bytes })
    }

    /// Branch element `index`, if its key is of an allowed length and stands right at `end`, where the one before it ends.
    ///
    /// None is no fault yet; [`branch`](Self::branch) tells.
    #[inline]
    pub fn packed_branch(&self, index: usize, end: usize) -> Option<BranchElement<'p>> {
        let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let [position, key_bytes, low, high] = words(self.bytes.get(at..)?.first_chunk()?);
        let key_bytes = key_bytes as usize;
        if at.checked_add(position as usize)? != end || key_bytes == 0 || key_bytes > MAX_KEY_BYTES {
            return None;
        }
        let key = self.bytes.get(end..)?.get(..key_bytes)?;
        Some(BranchElement { key, key_offset: end, child: u64::from(high) << 32 | u64::from(low) })
    }

    /// The leaf elements in order; a fault stands in the place of an element that does not hold.
    pub fn leaves(&self) -> impl Iterator<Item = Result<LeafElement<'p>, Fault>> + use<'p> {
        self.leaves_from(0, self.data_start())
    }

    /// The leaf elements from `first` on; the data of those before it go up to `floor`.
    pub fn leaves_from(
        &self,
        first: usize,
        floor: usize,
    ) -> impl Iterator<Item = Result<LeafElement<'p>, Fault>> + use<'p> {
        let elements = *self;
        let mut floor = floor;
        (first..self.count).map(move |index| {
            let element = elements.leaf(index)?;
            let start = element.value_offset - element.key.len();
            elements.ascending(index, start, floor)?;
            floor = element.value_offset + element.value.len();
            Ok(element)
        })
    }

    /// The branch elements in order; a fault stands in the place of an element that does not hold.
    pub fn branches(&self) -> impl Iterator<Item = Result<BranchElement<'p>, Fault>> + use<'p> {
        let elements = *self;
        (0..self.count).map(move |index| elements.branch(index))
    }

    /// Leaf element `index`.
    pub fn leaf(&self, index: usize) -> Result<LeafElement<'p>, Fault> {
        let (at, element) = self.element(index, leaf_element)?;
        let (flags, position, key_bytes, value_bytes) = element;
        let key = self.data(at, position, 0, key_bytes)?;
        let value = self.data(at, position, key_bytes, value_bytes)?;
        self.key_length(at, key)?;
        if flags & !ELEMENT_BUCKET != 0 {
            let detail = format!("element {index} has unknown flags {flags:#x}");
            return Err(self.fault(at, detail));
        }
        let value_offset = at + position as usize + key.len();
        Ok(LeafElement { is_bucket: flags & ELEMENT_BUCKET != 0, key, value, value_offset })
    }

    /// Branch element `index`.
    pub fn branch(&self, index: usize) -> Result<BranchElement<'p>, Fault> {
        let (at, (position, key_bytes, child)) = self.element(index, branch_element)?;
        let key = self.data(at, position, 0, key_bytes)?;
        self.key_length(at, key)?;
        Ok(BranchElement { key, key_offset: at + position as usize, child })
    }

    fn element<T>(&self, index: usize, parser: fn(&[u8]) -> nom::IResult<&[u8], T>) -> Result<(usize, T), Fault> {
        let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let parsed = self.bytes.get(at..).and_then(|bytes| parser(bytes).ok());
        match parsed {
            Some((_, element)) if index < self.count => Ok((at, element)),
            _ => Err(self.fault(at, format!("element {index} is not on the page"))),
        }
    }

    /// The bytes of a key or value: `length` bytes, `skip` bytes behind the element's position.
    fn data(&self, at: usize, position: u32, skip: u32, length: u32) -> Result<&'p [u8], Fault> {
        let start = at as u64 + u64::from(position) + u64::from(skip);
        let end = start + u64::from(length);
        let array_end = PAGE_HEADER_BYTES + self.count * ELEMENT_BYTES;
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let bytes = range.filter(|(start, _)| *start >= array_end).and_then(|(start, end)| self.bytes.get(start..end));
        bytes.ok_or_else(|| {
            let detail = format!(
                "an element's data at {start} to {end} lies outside {array_end} to {}, where data belong",
                self.bytes.len()
            );
            self.fault(at, detail)
        })
    }

    fn key_length(&self, at: usize, key: &[u8]) -> Result<(), Fault> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(self.fault(at, format!("a key of {} bytes; 1 to {MAX_KEY_BYTES} are allowed", key.len())));
        }
        Ok(())
    }

    fn ascending(&self, index: usize, start: usize, floor: usize) -> Result<(), Fault> {
        if start < floor {
            let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
            let detail = format!("element {index}'s data begin at {start}, inside what lies before (up to {floor})");
            return Err(self.fault(at, detail));
        }
        Ok(())
    }

    fn fault(&self, at: usize, detail: String) -> Fault {
        Fault::page(self.page, FaultKind::Element, detail).at(at)
    }
}

/// An element of a leaf page that is to be written, but for its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafSizes {
    /// Whether the value is a bucket.
    pub is_bucket: bool,
    /// Bytes of the key.
    pub key_bytes: u32,
    /// Bytes of the value.
    pub value_bytes: u32,
}

impl LeafSizes {
    /// Bytes that the element takes on its page.
    pub fn total(&self) -> usize {
        ELEMENT_BYTES + self.data()
    }

    /// Bytes of key and value.
    pub fn data(&self) -> usize {
        self.key_bytes as usize + self.value_bytes as usize
    }
}

/// Appends a leaf page without id and padding, as inline buckets have it. `data` are the elements' keys and values one
/// behind the other; [`finish_page`] makes a page of its own of it.
pub fn encode_leaf(elements: &[LeafSizes], data: &[u8], out: &mut Vec<u8>) {
    put_header(PageKind::Leaf, elements.len(), out);
    let mut position = elements.len() * ELEMENT_BYTES;
    for element in elements {
        let flags = if element.is_bucket { ELEMENT_BUCKET } else { 0 };
        for word in [flags, position as u32, element.key_bytes, element.value_bytes] {
            out.extend(word.to_le_bytes());
        }
        // Positions count from their own element, which is one further on.
        position = position + element.data() - ELEMENT_BYTES;
    }
    out.extend_from_slice(data);
}

/// Appends a branch page without id and padding. The children come with the keys that none below them is smaller than.
pub fn encode_branch<'k>(children: impl Iterator<Item = (&'k [u8], u64)> + Clone, out: &mut Vec<u8>) {
    let count = children.clone().count();
    put_header(PageKind::Branch, count, out);
    let mut position = count * ELEMENT_BYTES;
    for (key, child) in children.clone() {
        out.extend((position as u32).to_le_bytes());
        out.extend((key.len() as u32).to_le_bytes());
        out.extend(child.to_le_bytes());
        position = position + key.len() - ELEMENT_BYTES;
    }
    children.for_each(|(key, _)| out.extend_from_slice(key));
}

/// Fills the page that begins at `start` of `out` with zeros to whole pages, and notes its overflow.
pub fn finish_page(out: &mut Vec<u8>, start: usize, page_bytes: usize) {
    let pages = out.len().saturating_sub(start).div_ceil(page_bytes).max(1);
    out.resize(start + pages * page_bytes, 0);
    let overflow = (pages - 1) as u32;
    if let Some(field) = out.get_mut(start + OVERFLOW_OFFSET..start + PAGE_HEADER_BYTES) {
        field.copy_from_slice(&overflow.to_le_bytes());
    }
}

/// Gives the page that begins with `bytes` its id.
pub fn set_page_id(bytes: &mut [u8], id: u64) {
    if let Some(field) = bytes.first_chunk_mut() {
        *field = id.to_le_bytes();
    }
}

fn put_header(kind: PageKind, count: usize, out: &mut Vec<u8>) {
    out.extend(PageHeader { id: 0, kind, count: count as u16, overflow: 0 }.encode());
}

/// bbolt packs the elements' data behind the element array without a gap, and fills what is left of the page with zeros.
/// So bytes of no element mean that something was lost: the page counts fewer than it was written with, or one of them is
/// shorter than it was.
#[derive(Clone, Copy, Debug)]
pub struct Packing<'p> {
    page: u64,
    bytes: &'p [u8],
    /// Where the next element's data must begin; none behind an element that does not hold.
    end: Option<usize>,
    told: bool,
}

impl Packing<'_> {
    /// Takes the range of the next element's data. The first gap of a page is a fault.
    pub fn next(&mut self, start: usize, end: usize) -> Result<(), Fault> {
        let before = self.end.replace(end);
        match before {
            Some(before) if before < start && !self.told => {
                self.told = true;
                let detail = format!("the data at {before} to {start} belong to no element: something is lost");
                Err(Fault::page(self.page, FaultKind::Element, detail).at(before))
            }
            _ => Ok(()),
        }
    }

    /// The next element does not hold, so nothing can be said of what lies before the one behind it.
    pub fn skip(&mut self) {
        self.end = None;
    }

    /// There is no further element. On a page without any, bytes must not be either.
    ///
    /// What stands behind the last element of other pages is no fault: releases of bolt before 1.3 did not clear it.
    pub fn finish(self) -> Result<(), Fault> {
        let rest = self.bytes.get(PAGE_HEADER_BYTES..).unwrap_or_default();
        let is_empty = self.end == Some(PAGE_HEADER_BYTES);
        match rest.iter().position(|byte| *byte != 0).filter(|_| is_empty) {
            None => Ok(()),
            Some(at) => {
                let detail = "counts no element, but bytes of some are there: something is lost";
                Err(Fault::page(self.page, FaultKind::Element, detail).at(PAGE_HEADER_BYTES + at))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf_page(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let sizes = |(key, value): &(&[u8], &[u8])| LeafSizes {
            is_bucket: false,
            key_bytes: key.len() as u32,
            value_bytes: value.len() as u32,
        };
        let elements: Vec<_> = pairs.iter().map(sizes).collect();
        let data: Vec<u8> = pairs.iter().flat_map(|(key, value)| [*key, *value].concat()).collect();
        let mut page = Vec::new();
        encode_leaf(&elements, &data, &mut page);
        page
    }

    #[test]
    fn a_leaf_stands_byte_by_byte_where_bbolt_has_it() {
        let mut page = leaf_page(&[(b"a", b"one"), (b"bc", b"")]);
        finish_page(&mut page, 0, 64);
        set_page_id(&mut page, 0x0102);
        let header = [0x02, 0x01, 0, 0, 0, 0, 0, 0, 2, 0, 2, 0, 0, 0, 0, 0];
        let first = [0, 0, 0, 0, 32, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0];
        let second = [0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        let data = *b"aonebc\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(page, [header, first, second, data].concat());
    }

    #[test]
    fn a_branch_reads_back_as_it_was_written() {
        let children: [(&[u8], u64); 2] = [(b"bb", 4), (b"c", u64::MAX)];
        let mut page = Vec::new();
        encode_branch(children.iter().copied(), &mut page);
        finish_page(&mut page, 0, 4096);
        let elements = Elements::new(0, &page, 2).unwrap();
        let read: Vec<_> = elements.branches().map(|branch| branch.unwrap()).map(|b| (b.key, b.child)).collect();
        assert_eq!(read, children);
    }

    #[test]
    fn a_page_that_is_larger_than_one_counts_its_overflow() {
        for (value_bytes, overflow) in [(4096 - 33, 0), (4096 - 32, 1), (2 * 4096 - 33, 1), (9 * 4096, 9)] {
            let mut page = vec![7; 5];
            page.extend(leaf_page(&[(b"k", &vec![1; value_bytes])]));
            finish_page(&mut page, 5, 4096);
            assert_eq!(PageHeader::decode(&page[5..]).unwrap().overflow, overflow);
            assert_eq!(page.len() - 5, (overflow as usize + 1) * 4096);
        }
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let header = PageHeader { id: 0x0102_0304_0506, kind: PageKind::Branch, count: 9, overflow: 3 };
        assert_eq!(PageHeader::decode(&header.encode()), Some(header));
        assert_eq!(PageHeader::decode(&header.encode()[..15]), None);
    }

    #[test]
    fn leaf_elements_come_in_order() {
        let page = leaf_page(&[(b"a", b"one"), (b"b", b""), (b"c", b"three")]);
        let elements = Elements::new(7, &page, 3).unwrap();
        let pairs: Vec<_> = elements.leaves().map(|element| element.unwrap()).map(|e| (e.key, e.value)).collect();
        assert_eq!(pairs, [(&b"a"[..], &b"one"[..]), (b"b", b""), (b"c", b"three")]);
        assert_eq!(elements.used_bytes(), page.len());
    }

    #[test]
    fn an_element_that_leaves_its_page_is_a_fault_with_its_place() {
        let mut page = leaf_page(&[(b"a", b"one"), (b"b", b"two")]);
        page[PAGE_HEADER_BYTES + ELEMENT_BYTES + 12] = 200;
        let elements = Elements::new(7, &page, 2).unwrap();
        let fault = elements.leaves().nth(1).unwrap().unwrap_err();
        assert_eq!((fault.page, fault.offset, fault.kind), (Some(7), Some(32), FaultKind::Element));
    }

    #[test]
    fn two_elements_cannot_share_their_bytes() {
        let mut page = leaf_page(&[(b"a", b"one"), (b"b", b"two")]);
        // The second element's position is moved back onto the first one's key.
        page[PAGE_HEADER_BYTES + ELEMENT_BYTES + 4] -= 4;
        let elements = Elements::new(7, &page, 2).unwrap();
        assert!(elements.leaves().nth(1).unwrap().is_err());
    }

    #[test]
    fn elements_that_are_no_longer_counted_leave_a_gap() {
        let mut page = leaf_page(&[(b"a", b"one"), (b"b", b"two")]);
        page[10] = 1;
        let elements = Elements::new(7, &page, 1).unwrap();
        let element = elements.leaf(0).unwrap();
        let fault = elements.packing().next(element.value_offset - 1, page.len()).unwrap_err();
        assert_eq!((fault.page, fault.offset, fault.kind), (Some(7), Some(32), FaultKind::Element));
    }

    #[test]
    fn a_page_without_elements_has_no_bytes_either() {
        let page = leaf_page(&[(b"a", b"one"), (b"b", b"two")]);
        let none = Elements::new(7, &page, 0).unwrap();
        assert_eq!(none.packing().finish().unwrap_err().offset, Some(16 + 4));
        assert!(Elements::new(7, &[0; 4096], 0).unwrap().packing().finish().is_ok());
    }

    #[test]
    fn what_stands_behind_the_last_element_is_no_fault() {
        let mut page = leaf_page(&[(b"a", b"one"), (b"b", b"two")]);
        page.resize(4096, b'x');
        let elements = Elements::new(7, &page, 2).unwrap();
        let mut packing = elements.packing();
        assert!(packing.next(48, elements.used_bytes()).and_then(|()| packing.finish()).is_ok());
    }

    #[test]
    fn more_elements_than_the_page_has_room_for_are_refused() {
        let page = leaf_page(&[(b"a", b"one")]);
        assert_eq!(Elements::new(7, &page, 500).unwrap_err().kind, FaultKind::Element);
    }
}
