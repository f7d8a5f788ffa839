//! A bucket's header, and small buckets that live inline in their parent's leaf page.
//!
//! Upstream: `etcd-io/bbolt` `internal/common/bucket.go`. The value of a leaf element that is marked as a bucket:
//!
//! | offset | bytes | field |
//! |--:|--:|---|
//! | 0 | 8 | root page id; 0 = the bucket is inline |
//! | 8 | 8 | sequence |
//! | 16 | … | inline only: a whole leaf page (id 0, no overflow) |

use nom::Parser;
use nom::number::complete::le_u64;

use super::fault::{Fault, FaultKind};
use super::page::{Elements, PageHeader, PageKind};

/// Bytes of a bucket's header.
pub const BUCKET_HEADER_BYTES: usize = 16;

/// Where a bucket's pairs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketRoot {
    /// In a tree of pages, from this page on.
    Page(u64),
    /// In this leaf page, which stands in the parent's leaf.
    Inline(Vec<u8>),
}

/// A bucket as its parent describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Where its pairs are.
    pub root: BucketRoot,
    /// A counter for the user of the bucket; etcd never uses it.
    pub sequence: u64,
    /// The page on which the bucket's header stands, to name it in faults.
    pub parent_page: u64,
}

impl Bucket {
    /// Reads the value of an element that is marked as a bucket, found on `page`.
    pub fn decode(page: u64, value: &[u8]) -> Result<Self, Fault> {
        let fault = |detail: String| Fault::page(page, FaultKind::Bucket, detail);
        let parsed: nom::IResult<&[u8], _> = (le_u64, le_u64).parse(value);
        let Ok((rest, (root, sequence))) = parsed else {
            return Err(fault(format!("a bucket's header of {} bytes, {BUCKET_HEADER_BYTES} belong", value.len())));
        };
        let root = match root {
            0 => {
                inline_elements(page, rest)?;
                BucketRoot::Inline(rest.to_vec())
            }
            id if rest.is_empty() => BucketRoot::Page(id),
            id => return Err(fault(format!("{} bytes behind the header of the bucket at page {id}", rest.len()))),
        };
        Ok(Self { root, sequence, parent_page: page })
    }
}

/// The header of a bucket; `root` 0 where an inline page follows.
pub fn encode_header(root: u64, sequence: u64) -> [u8; BUCKET_HEADER_BYTES] {
    let mut header = [0; BUCKET_HEADER_BYTES];
    header[..8].copy_from_slice(&root.to_le_bytes());
    header[8..].copy_from_slice(&sequence.to_le_bytes());
    header
}

/// The elements of an inline bucket's page, which stands on `parent`.
pub fn inline_elements(parent: u64, bytes: &[u8]) -> Result<Elements<'_>, Fault> {
    let fault = |detail: String| Fault::page(parent, FaultKind::Bucket, detail);
    let header = PageHeader::decode(bytes)
        .ok_or_else(|| fault(format!("an inline bucket of {} bytes has no page header", bytes.len())))?;
    if header.kind != PageKind::Leaf || header.overflow != 0 {
        let kind = header.kind.describe();
        return Err(fault(format!("an inline bucket that is {kind} with {} overflow pages", header.overflow)));
    }
    Elements::new(parent, bytes, header.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let bucket = Bucket::decode(5, &encode_header(77, 9)).unwrap();
        assert_eq!(bucket, Bucket { root: BucketRoot::Page(77), sequence: 9, parent_page: 5 });
    }

    #[test]
    fn a_bucket_of_pages_has_nothing_behind_its_header_and_an_inline_one_a_leaf() {
        let with = |root: u64, rest: &[u8]| Bucket::decode(5, &[&encode_header(root, 0), rest].concat());
        let empty = PageHeader { id: 0, kind: PageKind::Leaf, count: 0, overflow: 0 };
        assert_eq!(with(0, &empty.encode()).unwrap().root, BucketRoot::Inline(empty.encode().to_vec()));
        let wrong = [
            with(77, b"x"),
            with(0, b""),
            with(0, &PageHeader { kind: PageKind::Branch, ..empty }.encode()),
            with(0, &PageHeader { overflow: 1, ..empty }.encode()),
            with(0, &PageHeader { count: 1, ..empty }.encode()),
            Bucket::decode(5, &[0; 15]),
        ];
        for (number, wrong) in wrong.into_iter().enumerate() {
            assert_eq!(wrong.unwrap_err().page, Some(5), "{number}");
        }
    }
}
