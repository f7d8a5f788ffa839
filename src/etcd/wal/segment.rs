//! One segment of the log, from its first frame to where what was written to it ends.

use std::fmt;
use std::fs::File;

use super::window::Window;
use super::{FrameLength, Kind, LENGTH_BYTES, Metadata, WalRecord, WalSnapshot};
use crate::etcd::raft::{Entry, HardState};

/// A record beyond this is not read; etcd's own limit for a request is 1.5 MiB by default, and 2 GiB is what its transport
/// could carry at most.
const MAX_RECORD_BYTES: u64 = 512 << 20;

/// What a torn write leaves is told by a piece of so many bytes that holds nothing: disks write them whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// Behind the end of what was written, so much is looked at for what should not be there.
const LOOKED_AT_BEHIND: u64 = 1 << 20;

/// What a record of a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'i> {
    /// Whose log it is.
    Metadata(Metadata),
    /// An entry, and where its data starts within the segment.
    Entry(Entry<'i>, u64),
    /// Raft's own state.
    State(HardState),
    /// Up to where a snapshot was made.
    Snapshot(WalSnapshot),
}

/// What was learned of a segment beside its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The checksum that it says the one before it ended with.
    pub begins: Option<u32>,
    /// The checksum of all data to its end.
    pub ends: u32,
    /// How it ends.
    pub end: End,
}

/// How a segment ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With its file, or with zeros.
    Whole,
    /// With a write that was never finished, from this byte on.
    Torn(u64),
    /// With a record that does not hold, at this byte. What comes after it cannot be trusted.
    Broken(u64, Why),
}

/// Why a record does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The operating system did not give the bytes.
    Unreadable,
    /// Its length leads beyond the file, or beyond reason.
    Length,
    /// It is no record.
    Record,
    /// Its checksum does not fit.
    Checksum,
    /// What it holds is not what its type says.
    Content,
    /// Segments begin with a checksum and the metadata, and this one does not.
    Head,
    /// It names another member or cluster than the records before it.
    Metadata,
}

/// Why, in words that follow "the record".
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "cannot be read",
            Self::Length => "claims more bytes than there are",
            Self::Record => "is none",
            Self::Checksum => "does not fit its checksum",
            Self::Content => "holds something else than its type says",
            Self::Head => "is not what a segment begins with",
            Self::Metadata => "names another member or cluster than the rest of the log",
        })
    }
}

/// Reads a segment of `bytes` bytes. `is_last` says that no other one follows it, so that its last write may be torn. Items are
/// given to `visit` in their order, all that hold.
pub fn read(file: &File, bytes: u64, is_last: bool, mut visit: impl FnMut(Item<'_>)) -> Segment {
    let mut reader = Reader { file, bytes, window: Window::new(), crc: 0, begins: None, metadata: None };
    let mut at = 0;
    let end = loop {
        match reader.record(at, &mut visit) {
            Ok(Some(length)) => at = at.saturating_add(length),
            Ok(None) if is_last && reader.is_written_behind(at) => break End::Torn(at),
            Ok(None) => break End::Whole,
            Err(_) if is_last && at > 0 && reader.is_torn(at) => break End::Torn(at),
            Err(why) => break End::Broken(at, why),
        }
    };
    Segment { begins: reader.begins, ends: reader.crc, end }
}

struct Reader<'r> {
    file: &'r File,
    bytes: u64,
    window: Window,
    /// The checksum of all data so far.
    crc: u32,
    begins: Option<u32>,
    metadata: Option<Metadata>,
}

impl Reader<'_> {
    /// Reads the frame at a byte, and gives its length; none where nothing was written.
    fn record(&mut self, at: u64, visit: &mut impl FnMut(Item<'_>)) -> Result<Option<u64>, Why> {
        let left = self.bytes.saturating_sub(at);
        if left < LENGTH_BYTES {
            // Frames are of whole words, so a rest of less is no frame's.
            return if at == 0 { Err(Why::Head) } else { Ok(None) };
        }
        let length = self.window.bytes((0, self.file), self.bytes, at, LENGTH_BYTES).map_err(|_| Why::Unreadable)?;
        let length = FrameLength::decode(length).ok_or(Why::Length)?;
        if length.record == 0 && length.padding == 0 {
            return if at == 0 { Err(Why::Head) } else { Ok(None) };
        }
        if length.frame() > left || length.record > MAX_RECORD_BYTES {
            return Err(Why::Length);
        }
        let data_from = at + LENGTH_BYTES;
        let message = self.window.bytes((0, self.file), self.bytes, data_from, length.record);
        let message = message.map_err(|_| Why::Unreadable)?;
        let record = WalRecord::decode(message).ok_or(Why::Record)?;
        if record.kind == Kind::Checksum {
            return match self.begins {
                None if at == 0 && record.data.is_empty() => {
                    (self.begins, self.crc) = (Some(record.crc), record.crc);
                    Ok(Some(length.frame()))
                }
                _ => Err(Why::Content),
            };
        }
        if self.begins.is_none() {
            return Err(Why::Head);
        }
        let crc = crc32c::crc32c_append(self.crc, record.data);
        if crc != record.crc {
            return Err(Why::Checksum);
        }
        let item = item(&record, data_from, message)?;
        match (&item, self.metadata) {
            (Item::Metadata(metadata), None) => self.metadata = Some(*metadata),
            (Item::Metadata(metadata), Some(known)) if *metadata != known => return Err(Why::Metadata),
            (_, None) => return Err(Why::Head),
            _ => {}
        }
        self.crc = crc;
        visit(item);
        Ok(Some(length.frame()))
    }

    /// Whether the frame at a byte, which does not hold, was never written to its end: it goes beyond the file, or a whole
    /// sector of it is empty.
    fn is_torn(&mut self, at: u64) -> bool {
        let left = self.bytes.saturating_sub(at);
        let Ok(length) = self.window.bytes((0, self.file), self.bytes, at, LENGTH_BYTES.min(left)) else {
            return false;
        };
        let frame = FrameLength::decode(length).map_or(left, FrameLength::frame);
        if frame > left {
            return true;
        }
        let mut from = at;
        let end = at + frame;
        while from < end {
            // Sectors are those of the file.
            let to = (from / SECTOR_BYTES + 1).saturating_mul(SECTOR_BYTES).min(end);
            match self.window.bytes((0, self.file), self.bytes, from, to - from) {
                Ok(sector) if sector.iter().all(|byte| *byte == 0) => return true,
                Ok(_) => from = to,
                Err(_) => return false,
            }
        }
        false
    }

    /// Whether something stands behind the zeros at a byte: then a write was torn in its middle.
    fn is_written_behind(&mut self, at: u64) -> bool {
        let length = self.bytes.saturating_sub(at).min(LOOKED_AT_BEHIND);
        let behind = self.window.bytes((0, self.file), self.bytes, at, length);
        behind.is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0))
    }
}

/// What a record holds. `message` is the record, which starts at byte `from` of the segment.
fn item<'i>(record: &WalRecord<'i>, from: u64, message: &[u8]) -> Result<Item<'i>, Why> {
    let item = match record.kind {
        Kind::Metadata => Metadata::decode(record.data).map(Item::Metadata),
        Kind::State => HardState::decode(record.data).map(Item::State),
        Kind::Snapshot => WalSnapshot::decode(record.data).map(Item::Snapshot),
        Kind::Entry => Entry::decode(record.data).map(|entry| {
            let data_at = from + crate::etcd::wire::offset_of(message, entry.data) as u64;
            Item::Entry(entry, data_at)
        }),
        Kind::Checksum => None,
    };
    item.ok_or(Why::Content)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;
    use crate::etcd::wire::{put_bytes, put_int64, put_varint};

    /// Writes segments as etcd does.
    pub(crate) struct Writer {
        pub(crate) bytes: Vec<u8>,
        pub(crate) crc: u32,
    }

    impl Writer {
        pub(crate) fn new(crc: u32, metadata: Metadata) -> Self {
            let mut writer = Self { bytes: Vec::new(), crc };
            writer.frame(4, crc, &[]);
            let mut data = vec![8];
            put_varint(&mut data, metadata.node);
            data.push(16);
            put_varint(&mut data, metadata.cluster);
            writer.record(1, &data);
            writer
        }

        fn frame(&mut self, kind: i64, crc: u32, data: &[u8]) {
            let mut record = Vec::new();
            put_int64(&mut record, 1, kind);
            record.push(16);
            put_varint(&mut record, u64::from(crc));
            put_bytes(&mut record, 3, data);
            let padding = (8 - record.len() % 8) % 8;
            let mut length = record.len() as u64;
            if padding > 0 {
                length |= (0x80 | padding as u64) << 56;
            }
            self.bytes.extend(length.to_le_bytes());
            self.bytes.extend(record);
            self.bytes.extend(vec![0; padding]);
        }

        pub(crate) fn record(&mut self, kind: i64, data: &[u8]) {
            self.crc = crc32c::crc32c_append(self.crc, data);
            self.frame(kind, self.crc, data);
        }

        pub(crate) fn entry(&mut self, term: u64, index: u64, request: &[u8]) {
            let mut data = vec![8, 0, 16];
            put_varint(&mut data, term);
            data.push(24);
            put_varint(&mut data, index);
            put_bytes(&mut data, 4, request);
            self.record(2, &data);
        }

        pub(crate) fn state(&mut self, term: u64, commit: u64) {
            let mut data = vec![8];
            put_varint(&mut data, term);
            data.extend([16, 1, 24]);
            put_varint(&mut data, commit);
            self.record(3, &data);
        }
    }

    const OURS: Metadata = Metadata { node: 7, cluster: 9 };

    fn written() -> Writer {
        let mut writer = Writer::new(0, OURS);
        writer.record(5, &[8, 0, 16, 0]);
        for index in 1..=20 {
            writer.entry(2, index, &vec![index as u8; 300 * index as usize % 1700]);
        }
        writer.state(2, 20);
        writer
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// The indexes of the entries that hold, and how the segment ends.
    fn entries(bytes: &[u8], is_last: bool) -> (Vec<u64>, Segment) {
        let mut indexes = Vec::new();
        let segment = read(&file(bytes), bytes.len() as u64, is_last, |item| {
            if let Item::Entry(entry, at) = item {
                let at = at as usize;
                assert_eq!(bytes.get(at..at + entry.data.len()), Some(entry.data));
                indexes.push(entry.index);
            }
        });
        (indexes, segment)
    }

    #[test]
    fn a_segment_is_read_to_the_zeros_or_to_its_end() {
        let writer = written();
        let (indexes, segment) = entries(&writer.bytes, true);
        assert!(indexes.into_iter().eq(1..=20));
        assert_eq!(segment, Segment { begins: Some(0), ends: writer.crc, end: End::Whole });
        let padded = [&writer.bytes[..], &[0; 5000]].concat();
        assert_eq!(entries(&padded, true).1.end, End::Whole);
        assert_eq!(entries(&padded, false).1.end, End::Whole);
    }

    #[test]
    fn a_cut_is_a_torn_write_in_the_last_segment_and_damage_in_another() {
        let whole = written().bytes;
        for cut in (24..whole.len()).step_by(97) {
            let (indexes, last) = entries(&whole[..cut], true);
            assert!(indexes.iter().copied().eq(1..=indexes.len() as u64), "{cut}");
            assert!(matches!(last.end, End::Torn(_) | End::Whole), "{cut}: {:?}", last.end);
            assert!(!matches!(entries(&whole[..cut], false).1.end, End::Torn(_)));
        }
        // The middle of a large record was never written.
        let mut torn = whole.clone();
        let from = whole.len() - 2048;
        torn[from / 512 * 512..][..1024].fill(0);
        assert!(matches!(entries(&torn, true).1.end, End::Torn(_)));
        assert!(matches!(entries(&torn, false).1.end, End::Broken(..)));
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_nothing_behind_it_is_read() {
        let whole = written().bytes;
        for at in (24..whole.len() - 48).step_by(13) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            let (indexes, segment) = entries(&flipped, false);
            assert!(indexes.iter().copied().eq(1..=indexes.len() as u64), "{at}");
            // Only padding can be another without being noticed.
            if segment.end == End::Whole {
                assert_eq!((whole[at], indexes.len()), (0, 20), "{at}");
            }
        }
    }

    #[test]
    fn another_members_records_are_none_of_this_log() {
        let mut writer = written();
        writer.record(1, &[8, 8, 16, 9]);
        writer.entry(2, 21, b"");
        let (indexes, segment) = entries(&writer.bytes, true);
        assert_eq!((indexes.len(), matches!(segment.end, End::Broken(_, Why::Metadata))), (20, true));
    }

    #[test]
    fn nonsense_has_no_end_but_its_own() {
        for bytes in [vec![0; 4096], vec![0xff; 4096], b"SQLite format 3\0".repeat(64), Vec::new(), vec![1; 7]] {
            let (indexes, segment) = entries(&bytes, true);
            assert_eq!((indexes, segment.begins), (vec![], None));
        }
    }
}
