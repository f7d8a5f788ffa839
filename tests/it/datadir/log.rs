//! Logs of a test's own making.

use std::fs;
use std::path::Path;

use atrest::etcd::wire::{put_bytes, put_int64, put_varint};

/// Whose log it is.
pub const NODE: u64 = 7;
pub const CLUSTER: u64 = 9;

/// A log that is written segment by segment.
pub struct Log {
    segments: Vec<(u64, Vec<u8>)>,
    crc: u32,
    node: u64,
    index: u64,
}

impl Log {
    /// A log whose first entry has the number behind `index`.
    pub fn new(node: u64, index: u64) -> Self {
        let mut log = Self { segments: Vec::new(), crc: 0, node, index };
        log.cut();
        log
    }

    /// Begins the next segment.
    pub fn cut(&mut self) {
        let first = if self.segments.is_empty() { 0 } else { self.index + 1 };
        self.segments.push((first, Vec::new()));
        self.frame(4, self.crc, &[]);
        let metadata = [field(1, self.node), field(2, CLUSTER)].concat();
        self.record(1, &metadata);
    }

    fn frame(&mut self, kind: u64, crc: u32, data: &[u8]) {
        let mut record = [field(1, kind), field(2, crc.into())].concat();
        put_bytes(&mut record, 3, data);
        let padding = (8 - record.len() % 8) % 8;
        let mut length = record.len() as u64;
        if padding > 0 {
            length |= (0x80 | padding as u64) << 56;
        }
        let (_, bytes) = self.segments.last_mut().unwrap();
        bytes.extend(length.to_le_bytes());
        bytes.extend(record);
        bytes.resize(bytes.len() + padding, 0);
    }

    /// A record of any type.
    pub fn record(&mut self, kind: u64, data: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, data);
        self.frame(kind, self.crc, data);
    }

    /// The next entry.
    pub fn entry(&mut self, term: u64, request: &[u8]) {
        self.entry_at(term, self.index + 1, request);
    }

    /// An entry with a number of its own, from which the next ones go on.
    pub fn entry_at(&mut self, term: u64, index: u64, request: &[u8]) {
        let mut data = [field(1, 0), field(2, term), field(3, index)].concat();
        put_bytes(&mut data, 4, request);
        self.record(2, &data);
        self.index = index;
    }

    /// Raft's state.
    pub fn state(&mut self, term: u64, commit: u64) {
        self.record(3, &[field(1, term), field(2, NODE), field(3, commit)].concat());
    }

    /// A snapshot record with members.
    pub fn snapshot(&mut self, index: u64, voters: &[u64]) {
        let members: Vec<u8> = voters.iter().flat_map(|voter| field(1, *voter)).collect();
        let mut data = [field(1, index), field(2, 2)].concat();
        put_bytes(&mut data, 3, &members);
        self.record(5, &data);
    }

    /// Writes the segments into a folder, the last one with room behind.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for (sequence, (first, bytes)) in self.segments.iter().enumerate() {
            let mut bytes = bytes.clone();
            if sequence + 1 == self.segments.len() {
                bytes.resize(bytes.len() + 10_000, 0);
            }
            fs::write(folder.join(format!("{sequence:016x}-{first:016x}.wal")), bytes).unwrap();
        }
    }
}

/// A number, which proto2 writes even where it is zero.
fn field(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, u64::from(number) << 3);
    put_varint(&mut out, value);
    out
}

fn message(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, u64::from(number) << 3 | 2);
    put_varint(&mut out, content.len() as u64);
    out.extend_from_slice(content);
    out
}

/// A request that writes a key.
pub fn put(key: &str, value: &[u8]) -> Vec<u8> {
    put_with(key, value, 0)
}

/// The same, on a lease.
pub fn put_with(key: &str, value: &[u8], lease: i64) -> Vec<u8> {
    let mut put = Vec::new();
    put_bytes(&mut put, 1, key.as_bytes());
    put_bytes(&mut put, 2, value);
    put_int64(&mut put, 3, lease);
    [message(100, &field(1, 3)), message(4, &put)].concat()
}

/// A request that ends a lease.
pub fn revoke(lease: i64) -> Vec<u8> {
    message(9, &field(1, lease as u64))
}

/// A request that forgets what was before a revision.
pub fn compact(revision: u64) -> Vec<u8> {
    message(7, &field(1, revision))
}
