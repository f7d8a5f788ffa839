//! The segments of a log, read once: where entries and the puts in them stand.
//!
//! Each segment begins with the checksum at which the one before it ended, so segments are read side by side, and put together
//! afterwards. Of an entry only its place is kept, of a put digests of its key and of its content besides.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rayon::prelude::*;

use crate::etcd::raft::EntryKind;
use crate::etcd::request::Request;
use crate::etcd::wal::{self, Item, Metadata, Segment, SegmentName, WalSnapshot};
use crate::source::trace::TraceKey;

/// An open segment. Places in the log count through all segments, as if they were one file.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) file: File,
    pub(super) path_name: String,
    pub(super) name: SegmentName,
    /// Where it starts within the log.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// An entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryAt {
    pub(super) index: u64,
    pub(super) term: u64,
    /// Where its data starts within the log.
    pub(super) at: u64,
    pub(super) bytes: u32,
    pub(super) kind: EntryKind,
}

/// A put of a value, whatever became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PutAt {
    /// A digest of its key.
    pub(super) key: u64,
    /// A digest of key and value.
    pub(super) content: [u64; 2],
    /// Where its message starts within the log.
    pub(super) at: u64,
    pub(super) bytes: u32,
}

/// What was read of one segment.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) segment: Segment,
    pub(super) metadata: Option<Metadata>,
    pub(super) entries: Vec<EntryAt>,
    pub(super) puts: Vec<PutAt>,
    pub(super) snapshots: Vec<WalSnapshot>,
    /// The greatest index that raft's own state said to be committed.
    pub(super) commit: u64,
}

/// Segments and other files of a folder `wal`.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) segments: Vec<SegmentFile>,
    /// Names of what is no segment.
    pub(super) others: Vec<String>,
    /// Names of segments that do not open, and why.
    pub(super) closed: Vec<(String, io::Error)>,
}

/// Opens the segments of a folder, in their order.
pub(super) fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file_name = entry?.file_name();
        let text = file_name.to_string_lossy().into_owned();
        match SegmentName::parse(&text) {
            Some(name) => names.push((name, text)),
            None => listing.others.push(text),
        }
    }
    names.sort();
    listing.others.sort();
    let mut start = 0_u64;
    for (name, path_name) in names {
        let opened = File::open(folder.join(&path_name)).and_then(|file| {
            let metadata = file.metadata()?;
            if metadata.is_file() { Ok((file, metadata.len())) } else { Err(io::ErrorKind::InvalidInput.into()) }
        });
        match opened {
            Ok((file, bytes)) => {
                listing.segments.push(SegmentFile { file, path_name, name, start, bytes });
                start = start.saturating_add(bytes);
            }
            Err(error) => listing.closed.push((path_name, error)),
        }
    }
    Ok(listing)
}

/// Reads all segments.
pub(super) fn parse(segments: &[SegmentFile], key: TraceKey) -> Vec<Parsed> {
    let last = segments.len().saturating_sub(1);
    segments.par_iter().enumerate().map(|(number, segment)| segment.parse(number == last, key)).collect()
}

impl SegmentFile {
    fn parse(&self, is_last: bool, key: TraceKey) -> Parsed {
        let (mut metadata, mut entries, mut puts) = (None, Vec::new(), Vec::new());
        let (mut snapshots, mut commit) = (Vec::new(), 0);
        let segment = wal::read(&self.file, self.bytes, is_last, |item| match item {
            Item::Metadata(found) => metadata = Some(found),
            Item::State(state) => commit = commit.max(state.commit),
            Item::Snapshot(snapshot) => snapshots.push(snapshot),
            Item::Entry(entry, at) => {
                let at = self.start.saturating_add(at);
                let bytes = u32::try_from(entry.data.len()).unwrap_or(u32::MAX);
                entries.push(EntryAt { index: entry.index, term: entry.term, at, bytes, kind: entry.kind });
                if entry.kind == EntryKind::Normal
                    && let Some(request) = Request::decode(entry.data)
                {
                    request.puts(&mut |put| {
                        if !put.key.is_empty() && !put.value.is_empty() {
                            puts.push(PutAt {
                                key: key.digest(put.key) as u64,
                                content: content(key, put.key, put.value),
                                at: at.saturating_add(put.at as u64),
                                bytes: u32::try_from(put.bytes).unwrap_or(u32::MAX),
                            });
                        }
                    });
                }
            }
        });
        Parsed { segment, metadata, entries, puts, snapshots, commit }
    }
}

/// A digest of key and value.
pub(super) fn content(key: TraceKey, name: &[u8], value: &[u8]) -> [u64; 2] {
    let digest = key.digest_of(name, value);
    [(digest >> 64) as u64, digest as u64]
}
