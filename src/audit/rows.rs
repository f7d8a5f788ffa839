//! One row for each record, in the order of keys and then revisions, however many there are.
//!
//! Records come in the order of the file. Each worker gathers rows up to a fixed size, sorts them and writes them as a run
//! into one private file that has no name; afterwards the runs are merged ([`super::merge`]). So memory stays the same for
//! any store. A row holds nothing of a plaintext: key, revisions, sizes, the class, the digest of the stored bytes.
//!
//! ```text
//! row := bytes that follow (4, little-endian) || key bytes || key || leaf || index || class || encoding || create revision
//!        || mod revision || version || lease || value bytes || SHA-256 (32) || detail, which is the rest
//! ```
//!
//! Numbers have seven bits to a byte, the lowest first, since nearly all of them are small.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::kube::payload::Encoding;
use crate::lock::lock;
use crate::source::Place;

use super::merge::Merge;

/// Bytes of rows that a worker gathers before it writes a run.
const RUN_BYTES: usize = 12 << 20;
/// Bytes of sorted rows to which the place of the first one is remembered. A merge reads at least so much of each run.
const BLOCK_BYTES: usize = 16 << 10;

/// More than a row takes beside its key and its detail.
const MAX_HEAD_BYTES: usize = 128;
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

/// What rows are sorted by: the key, then the place; what has no place comes by revision.
pub(super) type Order<'r> = (&'r [u8], Place, i64);

impl<'r> RawRow<'r> {
    /// What it is sorted by.
    pub(super) fn order(&self) -> Order<'r> {
        (self.key, self.place, self.mod_revision)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let detail = self.detail.as_bytes();
        let detail = detail.get(..MAX_DETAIL_BYTES).unwrap_or(detail);
        let start = out.len();
        out.extend([0; LENGTH_BYTES]);
        put_number(out, self.key.len() as u64);
        out.extend_from_slice(self.key);
        put_number(out, self.place.leaf.into());
        put_number(out, self.place.index.into());
        put_number(out, self.class.into());
        out.push(encoding_byte(self.encoding));
        for number in [self.create_revision, self.mod_revision, self.version, self.lease] {
            put_number(out, number as u64);
        }
        put_number(out, self.value_bytes);
        out.extend(self.value_sha256);
        out.extend_from_slice(detail);
        let length = (out.len() - start).saturating_sub(LENGTH_BYTES) as u32;
        if let Some(field) = out.get_mut(start..).and_then(|row| row.first_chunk_mut()) {
            *field = length.to_le_bytes();
        }
    }

    /// Reads the row at the start of `bytes`.
    pub fn decode(bytes: &'r [u8]) -> Option<Self> {
        let mut rest = Fields(bytes.get(LENGTH_BYTES..length(bytes)?)?);
        let key = rest.key()?;
        let place = Place { leaf: rest.number()? as u32, index: rest.number()? as u16 };
        let class = rest.number()? as u32;
        let [encoding] = rest.take()?;
        let mut number = || rest.number().map(|number| number as i64);
        let (create_revision, mod_revision, version, lease) = (number()?, number()?, number()?, number()?);
        let (value_bytes, value_sha256) = (rest.number()?, rest.take()?);
        // A detail that was cut may end within a character.
        let detail = rest.0.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        Some(Self {
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
        })
    }
}

/// Bytes of a row's own length, which stands in front of it.
const LENGTH_BYTES: usize = 4;

/// The length of the row that `bytes` begin with, its own length included.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?);
    LENGTH_BYTES.checked_add(length as usize)
}

/// The key of the row at the start of `bytes`.
fn key_of(bytes: &[u8]) -> Option<&[u8]> {
    Fields(bytes.get(LENGTH_BYTES..)?).key()
}

/// Fields taken one after another.
struct Fields<'f>(&'f [u8]);

impl<'f> Fields<'f> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    #[inline]
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Some(number)
    }

    fn key(&mut self) -> Option<&'f [u8]> {
        let bytes = usize::try_from(self.number()?).ok()?;
        let (key, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(key)
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
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

/// Sorted rows within the file.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Where each block begins; the first one is the run's own beginning.
    pub blocks: Vec<u64>,
    /// Where the run ends.
    pub end: u64,
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

    /// Writes a run whose blocks begin at these places of it.
    fn write(&self, sorted: &[u8], blocks: &[usize]) {
        let start = self.end.fetch_add(sorted.len() as u64, Ordering::Relaxed);
        let blocks = blocks.iter().map(|block| start + *block as u64).collect();
        match self.file.write_all_at(sorted, start) {
            Ok(()) => lock(&self.runs).push(Run { blocks, end: start + sorted.len() as u64 }),
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
        let runs = std::mem::take(&mut *lock(&self.runs));
        Merge::new(self.file, runs)
    }
}

/// A worker's rows until they are a run.
#[derive(Debug)]
pub struct RowSink<'s> {
    spill: &'s Spill,
    rows: Vec<u8>,
    offsets: Vec<usize>,
    sorted: Vec<u8>,
}

impl<'s> RowSink<'s> {
    /// No rows yet.
    pub fn new(spill: &'s Spill) -> Self {
        Self { spill, rows: Vec::with_capacity(RUN_BYTES), offsets: Vec::new(), sorted: Vec::new() }
    }

    /// Takes a row.
    pub fn push(&mut self, row: &RawRow<'_>) {
        if self.rows.len() + MAX_HEAD_BYTES + row.key.len() + row.detail.len() > RUN_BYTES {
            self.flush();
        }
        self.offsets.push(self.rows.len());
        row.encode(&mut self.rows);
    }

    /// Writes what was gathered as a run.
    pub fn flush(&mut self) {
        sort(&self.rows, &mut self.offsets);
        self.sorted.clear();
        let mut blocks: Vec<usize> = Vec::new();
        for offset in &self.offsets {
            let at = self.sorted.len();
            if blocks.last().is_none_or(|block| at - block >= BLOCK_BYTES) {
                blocks.push(at);
            }
            let row = self.rows.get(*offset..).unwrap_or_default();
            self.sorted.extend_from_slice(length(row).and_then(|length| row.get(..length)).unwrap_or_default());
        }
        if !self.sorted.is_empty() {
            self.spill.write(&self.sorted, &blocks);
        }
        self.rows.clear();
        self.offsets.clear();
    }
}

/// Sorts the offsets of rows within `rows` by the rows' order.
pub(super) fn sort(rows: &[u8], offsets: &mut [usize]) {
    let row = |offset: usize| rows.get(offset..).unwrap_or_default();
    let key = |offset: usize| key_of(row(offset)).unwrap_or_default();
    let shared = shared_prefix(offsets.iter().map(|offset| key(*offset)));
    let mut words: Vec<_> = offsets.iter().map(|offset| (sort_word(key(*offset), shared), *offset)).collect();
    // What is merged consists of a few sorted runs, which a stable sort makes use of.
    words.sort_by(|(word, offset), (other_word, other)| {
        let order = |offset| RawRow::decode(row(offset)).map(|row| row.order());
        word.cmp(other_word).then_with(|| order(*offset).cmp(&order(*other)))
    });
    offsets.iter_mut().zip(words).for_each(|(offset, (_, sorted))| *offset = sorted);
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

    fn merged(spill: Spill) -> Vec<(Vec<u8>, u32)> {
        let mut merge = spill.merge().unwrap();
        let mut rows = Vec::new();
        while let Some(part) = merge.next_part().unwrap() {
            rows.extend(part.read().unwrap().raw().map(|(row, _)| (row.key.to_vec(), row.place.leaf)));
        }
        rows
    }

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        let written = row(b"/registry/secrets/a/b", 12, "why");
        let mut bytes = Vec::new();
        written.encode(&mut bytes);
        assert_eq!((RawRow::decode(&bytes), length(&bytes)), (Some(written), Some(bytes.len())));
        assert!((0..bytes.len()).all(|cut| RawRow::decode(&bytes[..cut]).is_none()));
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
        let merged: Vec<_> = merged(spill);
        assert!(merged == expected);
    }

    #[test]
    fn keys_with_zero_bytes_are_told_from_shorter_ones() {
        let spill = Spill::new().unwrap();
        let keys: [&[u8]; 4] = [b"a", b"a\0", b"a\0\0", b""];
        let mut sink = RowSink::new(&spill);
        keys.iter().rev().for_each(|key| sink.push(&row(key, 1, "")));
        drop(sink);
        let keys: Vec<_> = merged(spill).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [&b""[..], b"a", b"a\0", b"a\0\0"]);
    }
}
