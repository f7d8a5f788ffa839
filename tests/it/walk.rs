//! A second reader of etcd's databases, for tests to count with: no checks, no speed, nothing shared with the program.
//!
//! Formats: bbolt `internal/common` (`page.go`, `meta.go`, `bucket.go`), etcd `server/storage/mvcc` (`revision.go`) and
//! `api/mvccpb/kv.proto`.

use std::collections::BTreeMap;
use std::fs;

/// A record of the bucket `key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub main: i64,
    pub sub: i64,
    pub tombstone: bool,
    pub key: Vec<u8>,
    pub create_revision: i64,
    pub version: i64,
    pub value: Vec<u8>,
    pub lease: i64,
}

/// All records of a plain file, in the order of revisions.
pub fn records(path: &str) -> Vec<Record> {
    let file = &fs::read(path).expect("the file is there")[..];
    let magic = |at: usize| file.get(at + 16..at + 20) == Some(&0xED0C_DAED_u32.to_le_bytes()[..]);
    let page_bytes = (12..17).map(|bits| 1 << bits).find(|&bytes| magic(bytes)).expect("a second meta page");
    let newest = [0, page_bytes].into_iter().max_by_key(|&at| u64_at(file, at + 16 + 48)).expect("two meta pages");
    let pages = Pages { file, page_bytes };
    let mut buckets = Vec::new();
    pages.leaves(u64_at(file, newest + 16 + 16), &mut |name, value| buckets.push((name.to_vec(), value.to_vec())));
    let (_, bucket) = buckets.into_iter().find(|(name, _)| name == b"key").expect("a bucket `key`");
    let mut records = Vec::new();
    let mut take = |key: &[u8], value: &[u8]| records.push(record(key, value));
    match u64_at(&bucket, 0) {
        0 => Pages { file: &bucket[16..], page_bytes: 0 }.leaves(0, &mut take),
        root => pages.leaves(root, &mut take),
    }
    records
}

struct Pages<'f> {
    file: &'f [u8],
    page_bytes: usize,
}

impl Pages<'_> {
    /// Shows every pair below a page.
    fn leaves(&self, id: u64, take: &mut dyn FnMut(&[u8], &[u8])) {
        let page = &self.file[id as usize * self.page_bytes..];
        let (flags, count) = (u16_at(page, 8), u16_at(page, 10));
        for element in (0..usize::from(count)).map(|index| 16 + 16 * index) {
            if flags & 1 != 0 {
                self.leaves(u64_at(page, element + 8), take);
            } else {
                let [at, key, value] = [4, 8, 12].map(|field| u32_at(page, element + field) as usize);
                let pair = &page[element + at..][..key + value];
                take(&pair[..key], &pair[key..]);
            }
        }
    }
}

/// A pair of the bucket `key` as a record.
pub fn record(revision: &[u8], mut proto: &[u8]) -> Record {
    let number = |at: usize| i64::from_be_bytes(revision[at..at + 8].try_into().expect("eight bytes"));
    let mut record =
        Record { main: number(0), sub: number(9), tombstone: revision.get(17) == Some(&b't'), ..Record::default() };
    while !proto.is_empty() {
        let tag = varint(&mut proto);
        let number = varint(&mut proto);
        let mut bytes = || {
            let (bytes, rest) = proto.split_at(number as usize);
            proto = rest;
            bytes.to_vec()
        };
        match tag {
            0x0A => record.key = bytes(),
            0x10 => record.create_revision = number as i64,
            0x18 => assert_eq!(number as i64, record.main),
            0x20 => record.version = number as i64,
            0x2A => record.value = bytes(),
            0x30 => record.lease = number as i64,
            other => panic!("field {other:#x} of revision {}", record.main),
        }
    }
    record
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a whole number");
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return number;
        }
    }
    panic!("a number of more than 64 bits");
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What a record is in the view at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Entry,
    History,
    Deleted,
}

impl Kind {
    /// The word for it in a row.
    pub fn word(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::History => "history",
            Self::Deleted => "deleted",
        }
    }
}

/// The records up to a revision, by key and then revision, and what each one is.
pub fn view(mut records: Vec<Record>, revision: i64) -> Vec<(Kind, Record)> {
    records.retain(|record| record.main <= revision);
    records.sort_by(|a, b| (&a.key, a.main, a.sub).cmp(&(&b.key, b.main, b.sub)));
    let newest: BTreeMap<Vec<u8>, (i64, i64)> =
        records.iter().map(|record| (record.key.clone(), (record.main, record.sub))).collect();
    let kind = |record: &Record| match record {
        record if record.tombstone => Kind::Deleted,
        record if newest[&record.key] == (record.main, record.sub) => Kind::Entry,
        _ => Kind::History,
    };
    records.into_iter().map(|record| (kind(&record), record)).collect()
}

/// A key as rows show it.
pub fn shown(key: &[u8]) -> String {
    let byte = |byte: &u8| match byte {
        b'\\' => "\\\\".to_owned(),
        0x20..=0x7E => char::from(*byte).to_string(),
        other => format!("\\x{other:02x}"),
    };
    key.iter().map(byte).collect()
}
