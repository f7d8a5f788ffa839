//! The two meta pages: their record, its checksum, and which of the two is the current one.
//!
//! Upstream: `etcd-io/bbolt` `internal/common/meta.go`, `db.go` (`getPageSize`). Offsets count from the
//! start of the page, whose header takes the first sixteen bytes:
//!
//! | offset | bytes | field | rule |
//! |--:|--:|---|---|
//! | 16 | 4 | magic | `0xED0CDAED` |
//! | 20 | 4 | version | 2 |
//! | 24 | 4 | page size | bytes |
//! | 28 | 4 | flags | unused |
//! | 32 | 8 | root page id | the tree of top-level buckets |
//! | 40 | 8 | root sequence | 0 |
//! | 48 | 8 | freelist page id | all bits set: none is kept |
//! | 56 | 8 | high-water mark | first page id that was never used |
//! | 64 | 8 | transaction id | of the commit that wrote this |
//! | 72 | 8 | checksum | FNV-1a 64 over bytes 16 to 72 |

use nom::Parser;
use nom::number::complete::{le_u32, le_u64};

use super::page::{PAGE_HEADER_BYTES, PageHeader, PageKind};

/// Bytes of a meta record.
pub const META_BYTES: usize = 64;
/// The magic number, little-endian in every file that can be read here.
pub const MAGIC: u32 = 0xED0C_DAED;
/// The only format version there has been since.
pub const VERSION: u32 = 2;
/// Stands in place of a freelist page id when no freelist is kept on disk, as in every file of etcd.
pub const NO_FREELIST: u64 = u64::MAX;

/// How much of the record its checksum covers.
const CHECKED_BYTES: usize = 56;
/// The smallest and the largest page size that is believed.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=16 << 20;

/// A meta record as it stands in the file, not yet trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RawMeta {
    magic: u32,
    version: u32,
    page_size: u32,
    flags: u32,
    root: u64,
    sequence: u64,
    freelist: u64,
    high_water_mark: u64,
    txid: u64,
    checksum: u64,
}

/// A meta record whose magic, version and checksum hold and whose page size can be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_size: u32,
    /// Page id of the tree of top-level buckets.
    pub root: u64,
    /// Page id of the freelist, or [`NO_FREELIST`].
    pub freelist: u64,
    /// The first page id that was never used; what lies beyond belongs to nothing.
    pub high_water_mark: u64,
    /// The transaction that wrote it; the newer of two valid records counts.
    pub txid: u64,
}

/// Why a meta record is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// There are not enough bytes for one.
    #[error("the file ends before the meta record does")]
    Short,
    /// The first bytes are something else.
    #[error("no bbolt meta record: it begins with {0:#010x} where 0xed0cdaed belongs")]
    Magic(u32),
    /// It was written on a big-endian machine.
    #[error("written by a big-endian machine, which is not supported")]
    BigEndian,
    /// The format has another version.
    #[error("format version {0}, only 2 is known")]
    Version(u32),
    /// The record was damaged.
    #[error("the checksum does not fit the meta record")]
    Checksum,
    /// No machine has such pages.
    #[error("a page size of {0} bytes")]
    PageSize(u32),
}

impl RawMeta {
    fn decode(record: &[u8]) -> Option<Self> {
        let head = (le_u32, le_u32, le_u32, le_u32);
        let tail = (le_u64, le_u64, le_u64, le_u64, le_u64, le_u64);
        let parsed: nom::IResult<&[u8], _> = (head, tail).parse(record);
        let (_, ((magic, version, page_size, flags), (root, sequence, freelist, high_water_mark, txid, checksum))) =
            parsed.ok()?;
        Some(Self { magic, version, page_size, flags, root, sequence, freelist, high_water_mark, txid, checksum })
    }
}

impl Meta {
    /// Reads the record of a meta page and judges it.
    pub fn decode(page: &[u8]) -> Result<Self, MetaError> {
        let record = page.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + META_BYTES).ok_or(MetaError::Short)?;
        let raw = RawMeta::decode(record).ok_or(MetaError::Short)?;
        match raw.magic {
            MAGIC => {}
            other if other.swap_bytes() == MAGIC => return Err(MetaError::BigEndian),
            other => return Err(MetaError::Magic(other)),
        }
        if raw.version != VERSION {
            return Err(MetaError::Version(raw.version));
        }
        if raw.checksum != fnv1a(record.get(..CHECKED_BYTES).unwrap_or_default()) {
            return Err(MetaError::Checksum);
        }
        if !raw.page_size.is_power_of_two() || !PAGE_SIZES.contains(&raw.page_size) {
            return Err(MetaError::PageSize(raw.page_size));
        }
        Ok(Self {
            page_size: raw.page_size,
            root: raw.root,
            freelist: raw.freelist,
            high_water_mark: raw.high_water_mark,
            txid: raw.txid,
        })
    }

    /// The first bytes of meta page `page` (0 or 1): header and record.
    pub fn encode(&self, page: u64) -> [u8; PAGE_HEADER_BYTES + META_BYTES] {
        let mut bytes = [0; PAGE_HEADER_BYTES + META_BYTES];
        let header = PageHeader { id: page, kind: PageKind::Meta, count: 0, overflow: 0 };
        bytes[..PAGE_HEADER_BYTES].copy_from_slice(&header.encode());
        let words = [MAGIC, VERSION, self.page_size, 0];
        for (slot, word) in bytes[PAGE_HEADER_BYTES..].chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let ids = [self.root, 0, self.freelist, self.high_water_mark, self.txid];
        for (slot, id) in bytes[PAGE_HEADER_BYTES + 16..].chunks_exact_mut(8).zip(ids) {
            slot.copy_from_slice(&id.to_le_bytes());
        }
        let checksum = fnv1a(&bytes[PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + CHECKED_BYTES]);
        bytes[PAGE_HEADER_BYTES + CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// Of the two records the newer valid one and its page number; of two equally new ones page 0, as upstream.
pub fn newest(metas: &[Result<Meta, MetaError>; 2]) -> Option<(u64, Meta)> {
    match metas {
        [Ok(first), Ok(second)] if second.txid > first.txid => Some((1, *second)),
        [Ok(first), _] => Some((0, *first)),
        [Err(_), Ok(second)] => Some((1, *second)),
        [Err(_), Err(_)] => None,
    }
}

/// FNV-1a over 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta { page_size: 4096, root: 3, freelist: NO_FREELIST, high_water_mark: 4, txid: 9 };

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        assert_eq!(Meta::decode(&META.encode(1)), Ok(META));
    }

    #[test]
    fn any_flipped_bit_of_the_record_is_noticed() {
        let page = META.encode(0);
        for bit in 8 * PAGE_HEADER_BYTES..8 * page.len() {
            let mut flipped = page;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_other_byte_order_is_named() {
        let mut page = META.encode(0);
        page[16..20].reverse();
        assert_eq!(Meta::decode(&page), Err(MetaError::BigEndian));
    }

    #[test]
    fn the_newer_valid_record_counts() {
        let older = Meta { txid: 8, ..META };
        assert_eq!(newest(&[Ok(older), Ok(META)]), Some((1, META)));
        assert_eq!(newest(&[Ok(META), Ok(META)]), Some((0, META)));
        assert_eq!(newest(&[Ok(older), Err(MetaError::Checksum)]), Some((0, older)));
        assert_eq!(newest(&[Err(MetaError::Checksum), Ok(older)]), Some((1, older)));
        assert_eq!(newest(&[Err(MetaError::Short), Err(MetaError::Short)]), None);
    }
}
