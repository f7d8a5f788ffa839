//! One row for each record, in the order of keys and then revisions, however many there are.
//!
//! Records come in the order of the file. Each worker gathers rows up to a fixed size, sorts them and writes them as a run
//! into one private file that has no name; afterwards the runs are merged. So memory stays the same for any store. A row
//! holds nothing of a plaintext: key, revisions, sizes, the class, the digest of the stored bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::kube::payload::Encoding;
use crate::source::Place;

/// Bytes of rows that a worker gathers before it writes a run.
const RUN_BYTES: usize = 12 << 20;
/// Bytes that are read of a run at once while runs are merged.
const READ_BYTES: usize = 128 << 10;

/// Bytes of a row before its key and its detail.
const HEAD_BYTES: usize = 4 + 4 + 4 + 2 + 1 + 4 + 5 * 8 + 32;
/// A detail is cut at this length; kube-apiserver's own errors can list every key of a configuration.
const MAX_DETAIL_BYTES: usize = 4096;

/// The place of what is in no place of the tree any more; it comes after all records of its key.
pub const RESIDUE: Place = Place { leaf: u32::MAX, index: u16::MAX };

/// What a row remembers of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRow<'r> {
    /// The etcd key.
    pub key: &'r [u8],
    /// Where the record stands, which orders a key's records.
    pub place: Place,
    /// The class's number; [`TOMBSTONE`](super::class::TOMBSTONE) for a tombstone.
    pub class: u32,
    /// As etcd has it.
    pub create_revision: i64,
    /// The main revision at which the record was written.
    pub mod_revision: i64,
    /// As etcd has it.
    pub version: i64,
    /// As etcd has it; 0 = none.
    pub lease: i64,
    /// Length of the stored value.
    pub value_bytes: u64,
    /// Form of the plaintext.
    pub encoding: Option<Encoding>,
    /// SHA-256 of the stored value.
    pub value_sha256: [u8; 32],
    /// Why the value is not as it should be.
    pub detail: &'r str,
}

impl<'r> RawRow<'r> {
    /// By key, then by place; what has no place comes by revision.
    fn order(&self) -> (&'r [u8], Place, i64) {
        (self.key, self.place, self.mod_revision)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let detail = self.detail.as_bytes();
        let detail = detail.get(..MAX_DETAIL_BYTES).unwrap_or(detail);
        out.extend((self.key.len() as u32).to_le_bytes());
        out.extend((detail.len() as u32).to_le_bytes());
        out.extend(self.place.leaf.to_le_bytes());
        out.extend(self.place.index.to_le_bytes());
        out.push(encoding_byte(self.encoding));
        out.extend(self.class.to_le_bytes());
        for number in [self.create_revision, self.mod_revision, self.version, self.lease] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.value_bytes.to_le_bytes());
        out.extend(self.value_sha256);
        out.extend_from_slice(self.key);
        out.extend_from_slice(detail);
    }

    /// Reads the row at the start of `bytes`, and its length.
    fn decode(bytes: &'r [u8]) -> Option<(Self, usize)> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let mut head = Fields(head);
        let (key_bytes, detail_bytes) = (head.u32()? as usize, head.u32()? as usize);
        let place = Place { leaf: head.u32()?, index: u16::from_le_bytes(head.take()?) };
        let [encoding] = head.take()?;
        let class = head.u32()?;
        let mut number = || head.take().map(i64::from_le_bytes);
        let (create_revision, mod_revision, version, lease) = (number()?, number()?, number()?, number()?);
        let (value_bytes, value_sha256) = (u64::from_le_bytes(head.take()?), head.take()?);
        let key = rest.get(..key_bytes)?;
        let detail = rest.get(key_bytes..key_bytes.checked_add(detail_bytes)?)?;
        // A detail that was cut may end within a character.
        let detail = detail.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let row = Self {
            key,
            place,
            class,
            create_revision,
            mod_revision,
            version,
            lease,
            value_bytes,
            encoding: encoding_of(encoding),
            value_sha256,
            detail,
        };
        Some((row, HEAD_BYTES + key_bytes + detail_bytes))
    }
}

/// Fixed fields taken one after another.
struct Fields<'f>(&'f [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
}

const ENCODINGS: [Encoding; 4] = [Encoding::Protobuf, Encoding::Json, Encoding::Cbor, Encoding::Other];

fn encoding_byte(encoding: Option<Encoding>) -> u8 {
    encoding.and_then(|encoding| (1..).zip(ENCODINGS).find(|(_, known)| *known == encoding)).map_or(0, |(byte, _)| byte)
}

fn encoding_of(byte: u8) -> Option<Encoding> {
    usize::from(byte).checked_sub(1).and_then(|index| ENCODINGS.get(index)).copied()
}

/// The private file that runs are written to.
#[derive(Debug)]
pub struct Spill {
    file: File,
    end: AtomicU64,
    runs: Mutex<Vec<Run>>,
    failed: Mutex<Option<io::Error>>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    end: u64,
}

impl Spill {
    /// A file without a name in the system's folder for temporary files.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile()?,
            end: AtomicU64::new(0),
            runs: Mutex::new(Vec::new()),
            failed: Mutex::new(None),
        })
    }

    fn write(&self, sorted: &[u8]) {
        let start = self.end.fetch_add(sorted.len() as u64, Ordering::Relaxed);
        match self.file.write_all_at(sorted, start) {
            Ok(()) => lock(&self.runs).push(Run { start, end: start + sorted.len() as u64 }),
            Err(error) => *lock(&self.failed) = Some(error),
        }
    }

    /// Forgets everything, for a pass that is made anew.
    pub fn clear(&self) {
        lock(&self.runs).clear();
        self.end.store(0, Ordering::Relaxed);
    }

    /// Begins to merge the runs.
    ///
    /// # Errors
    /// When a run could not be written, for want of space, say.
    pub fn merge(self) -> io::Result<Merge> {
        if let Some(error) = lock(&self.failed).take() {
            return Err(error);
        }
        let runs = lock(&self.runs).clone();
        Merge::new(self.file, &runs)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A worker's rows until they are a run.
#[derive(Debug)]
pub struct RowSink<'s> {
    spill: &'s Spill,
    rows: Vec<u8>,
    offsets: Vec<u32>,
    sorted: Vec<u8>,
}

impl<'s> RowSink<'s> {
    /// No rows yet.
    pub fn new(spill: &'s Spill) -> Self {
        Self { spill, rows: Vec::with_capacity(RUN_BYTES), offsets: Vec::new(), sorted: Vec::new() }
    }

    /// Takes a row.
    pub fn push(&mut self, row: &RawRow<'_>) {
        let bytes = HEAD_BYTES + row.key.len() + row.detail.len();
        if self.rows.len() + bytes > RUN_BYTES {
            self.flush();
        }
        self.offsets.push(self.rows.len() as u32);
        row.encode(&mut self.rows);
    }

    /// Writes what was gathered as a run.
    pub fn flush(&mut self) {
        let row = |offset: u32| self.rows.get(offset as usize..).and_then(RawRow::decode);
        let mut order: Vec<(u128, u32)> = Vec::with_capacity(self.offsets.len());
        let shared = shared_prefix(self.offsets.iter().filter_map(|offset| row(*offset)).map(|(row, _)| row.key));
        order.extend(self.offsets.iter().filter_map(|offset| Some((sort_word(row(*offset)?.0.key, shared), *offset))));
        order.sort_unstable_by(|(word, offset), (other_word, other)| {
            let rest = || {
                let of = |offset| row(offset).map(|(row, _)| row.order());
                of(*offset).cmp(&of(*other))
            };
            word.cmp(other_word).then_with(rest)
        });
        self.sorted.clear();
        for (_, offset) in &order {
            if let Some((_, length)) = row(*offset) {
                self.sorted.extend_from_slice(&self.rows[*offset as usize..*offset as usize + length]);
            }
        }
        if !self.sorted.is_empty() {
            self.spill.write(&self.sorted);
        }
        self.rows.clear();
        self.offsets.clear();
    }
}

impl Drop for RowSink<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// How many first bytes all keys have in common.
fn shared_prefix<'k>(mut keys: impl Iterator<Item = &'k [u8]>) -> usize {
    let Some(first) = keys.next() else { return 0 };
    keys.fold(first.len(), |shared, key| {
        let same = first.iter().zip(key).take(shared).take_while(|(one, other)| one == other).count();
        same.min(shared)
    })
}

/// The sixteen bytes behind the shared prefix as a number, so that most comparisons look at no key.
///
/// A key that ends before is padded with zeros; where that makes two equal, the keys themselves decide.
fn sort_word(key: &[u8], shared: usize) -> u128 {
    let mut word = [0; 16];
    let rest = key.get(shared..).unwrap_or_default();
    for (slot, byte) in word.iter_mut().zip(rest) {
        *slot = *byte;
    }
    u128::from_be_bytes(word)
}

/// All rows in order, read from the runs.
#[derive(Debug)]
pub struct Merge {
    file: File,
    heap: BinaryHeap<Reverse<Head>>,
}

/// A run's next row.
#[derive(Debug)]
struct Head {
    buffer: Vec<u8>,
    /// Where the next row starts within the buffer.
    at: usize,
    /// What of the run is not in the buffer yet.
    rest: Run,
}

impl Merge {
    fn new(file: File, runs: &[Run]) -> io::Result<Self> {
        let mut heap = BinaryHeap::new();
        for run in runs {
            let mut head = Head { buffer: Vec::new(), at: 0, rest: *run };
            if head.fill(&file)? {
                heap.push(Reverse(head));
            }
        }
        Ok(Self { file, heap })
    }

    /// Appends the bytes of the next row to `out`; false when there is none.
    pub fn next_into(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        let Some(mut top) = self.heap.peek_mut() else { return Ok(false) };
        let length = top.0.row().map_or(0, |(_, length)| length);
        out.extend_from_slice(top.0.buffer.get(top.0.at..top.0.at + length).unwrap_or_default());
        top.0.at += length;
        if length == 0 || !top.0.fill(&self.file)? {
            PeekMut::pop(top);
        }
        Ok(length > 0)
    }
}

/// Reads a row that [`Merge::next_into`] gave.
pub fn decode(bytes: &[u8]) -> Option<(RawRow<'_>, usize)> {
    RawRow::decode(bytes)
}

impl Head {
    fn row(&self) -> Option<(RawRow<'_>, usize)> {
        self.buffer.get(self.at..).and_then(RawRow::decode)
    }

    /// Reads on until a whole row is in the buffer; false at the run's end.
    fn fill(&mut self, file: &File) -> io::Result<bool> {
        while self.row().is_none() {
            let left = usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX);
            if left == 0 {
                return Ok(false);
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            let start = self.buffer.len();
            let more = left.min(READ_BYTES);
            self.buffer.resize(start + more, 0);
            file.read_exact_at(self.buffer.get_mut(start..).unwrap_or_default(), self.rest.start)?;
            self.rest.start += more as u64;
        }
        Ok(true)
    }

    fn order(&self) -> Option<(&[u8], Place, i64)> {
        self.row().map(|(row, _)| row.order())
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'r>(key: &'r [u8], leaf: u32, detail: &'r str) -> RawRow<'r> {
        RawRow {
            key,
            place: Place { leaf, index: 7 },
            class: 3,
            create_revision: 1,
            mod_revision: i64::from(leaf),
            version: 2,
            lease: -1,
            value_bytes: 9,
            encoding: Some(Encoding::Json),
            value_sha256: [5; 32],
            detail,
        }
    }

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        let written = row(b"/registry/secrets/a/b", 12, "why");
        let mut bytes = Vec::new();
        written.encode(&mut bytes);
        assert_eq!(RawRow::decode(&bytes), Some((written, bytes.len())));
        assert_eq!(RawRow::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn rows_of_several_workers_come_in_the_order_of_keys_and_places() {
        let spill = Spill::new().unwrap();
        let mut expected = Vec::new();
        let detail = "x".repeat(900);
        {
            let mut sinks = [RowSink::new(&spill), RowSink::new(&spill)];
            for number in 0..40_000_u32 {
                let key = format!("/k/{}", number.wrapping_mul(2_654_435_761) % 20_000).into_bytes();
                sinks[number as usize % 2].push(&row(&key, number, &detail));
                expected.push((key, number));
            }
        }
        expected.sort();
        assert!(lock(&spill.runs).len() > 2, "one run a worker would prove nothing");
        let mut merge = spill.merge().unwrap();
        let (mut merged, mut buffer) = (Vec::new(), Vec::new());
        while merge.next_into(&mut buffer).unwrap() {
            let (row, _) = decode(&buffer).unwrap();
            merged.push((row.key.to_vec(), row.place.leaf));
            buffer.clear();
        }
        assert!(merged == expected);
    }

    #[test]
    fn keys_with_zero_bytes_are_told_from_shorter_ones() {
        let spill = Spill::new().unwrap();
        let keys: [&[u8]; 4] = [b"a", b"a\0", b"a\0\0", b""];
        let mut sink = RowSink::new(&spill);
        keys.iter().rev().for_each(|key| sink.push(&row(key, 1, "")));
        drop(sink);
        let mut merge = spill.merge().unwrap();
        let mut buffer = Vec::new();
        for key in [&b""[..], b"a", b"a\0", b"a\0\0"] {
            buffer.clear();
            assert!(merge.next_into(&mut buffer).unwrap());
            assert_eq!(decode(&buffer).unwrap().0.key, key);
        }
    }
}
