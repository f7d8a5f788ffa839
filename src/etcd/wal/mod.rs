//! The write-ahead log: what a member was told by raft, before it is in the database.
//!
//! The log is a row of segment files. A segment is a row of frames, all numbers of which are little-endian:
//!
//! ```text
//! frame  := length (8) || record || padding
//! length := bytes of the record, 56 bits || where the topmost bit is set: bytes of padding, in bits 56 to 58
//! ```
//!
//! A length of 0 is the zeros that a segment is made of before it is written to. A record is protobuf:
//!
//! | number | field | type |
//! |--:|---|---|
//! | 1 | type | int64: 1 metadata, 2 entry, 3 state, 4 checksum, 5 snapshot |
//! | 2 | crc | uint32 |
//! | 3 | data | bytes |
//!
//! Checksums are CRC-32C over the data of all records so far, from segment to segment; a segment begins with a record of
//! type 4, whose checksum is that at which the one before it ended, and with the metadata. Since the type is not summed up, what
//! data must look like is read strictly.
//!
//! Nothing here knows what an entry asks for ([`super::request`]). Upstream: `etcd-io/etcd` `server/storage/wal/{wal,decoder}.go`
//! and `walpb/record.proto`; `docs/formats/wal.md` has the tables.

mod segment;
mod window;

pub use segment::{End, Item, Segment, Why, read};
pub use window::Window;

use nom::Parser;
use nom::combinator::map;
use nom::number::complete::le_u64;

use super::raft::{ConfState, HardState};
use super::wire::{self, Field};

/// Bytes of a frame's length.
pub const LENGTH_BYTES: u64 = 8;

/// The end of every segment's name.
pub const SUFFIX: &str = ".wal";

const RECORD_BYTES_MASK: u64 = 0x00ff_ffff_ffff_ffff;
const PADDED: u64 = 1 << 63;
const PADDING_SHIFT: u32 = 56;

/// What the name of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Counts the segments.
    pub sequence: u64,
    /// The least index that an entry in it can have.
    pub index: u64,
}

impl SegmentName {
    /// Reads a file's name: two numbers of sixteen hexadecimal digits; none if it is no segment's.
    pub fn parse(name: &str) -> Option<Self> {
        let (sequence, index) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        Some(Self { sequence: hexadecimal(sequence)?, index: hexadecimal(index)? })
    }
}

/// A number of sixteen lower-case hexadecimal digits, as all names in a data directory have them.
pub fn hexadecimal(digits: &str) -> Option<u64> {
    let plain = digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if plain { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// The length of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLength {
    /// Bytes of the record.
    pub record: u64,
    /// Bytes behind it that say nothing.
    pub padding: u64,
}

impl FrameLength {
    /// Reads the first eight bytes of a frame; none if there are not so many. A length of nothing is the end of what was written.
    pub fn decode(input: &[u8]) -> Option<Self> {
        let length = |word: u64| Self {
            record: word & RECORD_BYTES_MASK,
            padding: if word & PADDED == 0 { 0 } else { word >> PADDING_SHIFT & 7 },
        };
        let (_, length) = map(le_u64::<_, nom::error::Error<_>>, length).parse(input).ok()?;
        Some(length)
    }

    /// Bytes of the whole frame.
    pub fn frame(self) -> u64 {
        LENGTH_BYTES.saturating_add(self.record).saturating_add(self.padding)
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whose log it is.
    Metadata,
    /// An entry of raft's log.
    Entry,
    /// Raft's own state.
    State,
    /// The checksum that goes on.
    Checksum,
    /// Up to where a snapshot was made.
    Snapshot,
}

/// A record as it stands, before its checksum is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRecord<'r> {
    /// What it is.
    pub kind: Kind,
    /// The checksum of all data so far.
    pub crc: u32,
    /// What it holds.
    pub data: &'r [u8],
}

impl<'r> WalRecord<'r> {
    /// Reads a record; none if it is no such message, or of no known type.
    pub fn decode(message: &'r [u8]) -> Option<Self> {
        let (mut kind, mut crc, mut data) = (0, 0, &[][..]);
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, field) = wire::field(rest).ok()?;
            rest = behind;
            match field {
                (1, Field::Varint(value)) => kind = value,
                (2, Field::Varint(value)) => crc = u32::try_from(value).ok()?,
                (3, Field::Bytes(bytes)) => data = bytes,
                _ => return None,
            }
        }
        let kind = match kind {
            1 => Kind::Metadata,
            2 => Kind::Entry,
            3 => Kind::State,
            4 => Kind::Checksum,
            5 => Kind::Snapshot,
            _ => return None,
        };
        Some(Self { kind, crc, data })
    }
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The member's id.
    pub node: u64,
    /// The cluster's id.
    pub cluster: u64,
}

impl Metadata {
    /// Reads it; none if it is no such message. Both numbers are always there.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (mut node, mut cluster) = (None, None);
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, field) = wire::field(rest).ok()?;
            rest = behind;
            match field {
                (1, Field::Varint(value)) => node = Some(value),
                (2, Field::Varint(value)) => cluster = Some(value),
                _ => return None,
            }
        }
        Some(Self { node: node?, cluster: cluster? })
    }
}

/// Up to where raft's state was kept elsewhere when the record was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalSnapshot {
    /// The index of the last entry that it covers.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The members; since 3.5, and not in the record with which a log begins.
    pub members: Option<ConfState>,
}

impl WalSnapshot {
    /// Reads it; none if it is no such message. Both numbers are always there.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (mut index, mut term, mut members) = (None, None, None);
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, field) = wire::field(rest).ok()?;
            rest = behind;
            match field {
                (1, Field::Varint(value)) => index = Some(value),
                (2, Field::Varint(value)) => term = Some(value),
                (3, Field::Bytes(bytes)) => members = Some(ConfState::decode(bytes)?),
                _ => return None,
            }
        }
        Some(Self { index: index?, term: term?, members })
    }
}

impl HardState {
    /// Reads raft's state; none if it is no such message. All three numbers are always there, and no state has the term 0.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (mut term, mut vote, mut commit) = (None, None, None);
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, field) = wire::field(rest).ok()?;
            rest = behind;
            match field {
                (1, Field::Varint(value)) => term = Some(value),
                (2, Field::Varint(value)) => vote = Some(value),
                (3, Field::Varint(value)) => commit = Some(value),
                _ => return None,
            }
        }
        Some(Self { term: term.filter(|term| *term > 0)?, vote: vote?, commit: commit? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_two_numbers_of_sixteen_digits() {
        let name = SegmentName::parse("0000000000000002-0000000000000164.wal");
        assert_eq!(name, Some(SegmentName { sequence: 2, index: 0x164 }));
        for name in ["0.tmp", "2-164.wal", "0000000000000002-0000000000000164.wal.broken", "-.wal", ".wal", ""] {
            assert_eq!(SegmentName::parse(name), None, "{name}");
        }
        assert_eq!(SegmentName::parse("+000000000000002-0000000000000164.wal"), None);
        assert_eq!(SegmentName::parse("000000000000000A-0000000000000164.wal"), None);
    }

    /// The first two records of `server/storage/wal/testdata/TestNew.wal` of etcd 3.7.
    #[test]
    fn a_length_has_its_padding_beside_it() {
        assert_eq!(FrameLength::decode(&[4, 0, 0, 0, 0, 0, 0, 0x84]), Some(FrameLength { record: 4, padding: 4 }));
        assert_eq!(FrameLength::decode(&[18, 0, 0, 0, 0, 0, 0, 0x86]), Some(FrameLength { record: 18, padding: 6 }));
        assert_eq!(FrameLength::decode(&[24, 0, 0, 0, 0, 0, 0, 0]), Some(FrameLength { record: 24, padding: 0 }));
        assert_eq!(FrameLength::decode(&[1; 7]), None);
        assert_eq!(FrameLength::decode(&[0xff; 8]).map(FrameLength::frame), Some(RECORD_BYTES_MASK + 15));
    }

    #[test]
    fn a_record_is_of_a_known_type_and_has_nothing_else() {
        let record = WalRecord::decode(&[8, 4, 16, 0]).unwrap();
        assert_eq!((record.kind, record.crc, record.data), (Kind::Checksum, 0, &b""[..]));
        assert_eq!(WalRecord::decode(&[8, 6, 16, 0]), None);
        assert_eq!(WalRecord::decode(&[8, 2, 16, 0, 0x22, 0]), None);
        assert_eq!(WalRecord::decode(&[]), None);
    }

    #[test]
    fn one_kind_of_data_does_not_pass_for_another() {
        // An entry of 3.6 with data, one without, and one of 3.7, whose type is left out.
        let entries: [&[u8]; 3] = [&[8, 0, 16, 2, 24, 9, 34, 1, b'x'], &[8, 0, 16, 2, 24, 9], &[16, 2, 24, 9]];
        for entry in entries {
            assert_eq!(HardState::decode(entry), None);
            assert_eq!(Metadata::decode(entry), None);
            assert_eq!(WalSnapshot::decode(entry), None);
        }
        let state = HardState { term: 2, vote: 7, commit: 9 };
        assert_eq!(HardState::decode(&[8, 2, 16, 7, 24, 9]), Some(state));
    }
}
