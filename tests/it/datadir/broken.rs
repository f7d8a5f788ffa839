//! The fixture's log with bits flipped and pieces gone: never a panic, and never a record that was not written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use atrest::source::datadir::DataDir;
use atrest::source::residue::Stray;
use atrest::source::scan::Visitor;
use atrest::source::snapshot::PassOptions;
use atrest::source::{Record, Snapshot};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{fixture, segments};

/// A record's key, tombstone or not, creation, version, lease and digest of its value, by its revision.
type Records = BTreeMap<(i64, i64), (Vec<u8>, bool, i64, i64, i64, [u8; 32])>;

#[derive(Default)]
struct Gather {
    records: Records,
    strays: Vec<(Vec<u8>, [u8; 32])>,
}

impl Visitor for Gather {
    const STRAYS: bool = true;

    fn record(&mut self, record: &Record<'_>) {
        let (revision, kv) = (record.revision.revision, &record.kv);
        let said = (
            kv.key.to_vec(),
            record.revision.tombstone,
            kv.create_revision,
            kv.version,
            kv.lease,
            Sha256::digest(kv.value).into(),
        );
        assert_eq!(self.records.insert((revision.main, revision.sub), said), None);
    }

    fn stray(&mut self, stray: &Stray<'_>) {
        self.strays.push((stray.kv.key.to_vec(), Sha256::digest(stray.kv.value).into()));
    }
}

/// All records, all strays, whether anything is said to be wrong, and whether the last write was torn.
/// Keys and digests of values.
type Digests = Vec<(Vec<u8>, [u8; 32])>;

fn read(data: &Path) -> (Records, Digests, bool, bool) {
    let mut directory = DataDir::open(data).unwrap();
    let options = PassOptions { digest: false, threads: 2, progress: &|_| () };
    let (pass, replay) = directory.pass(options, |_| (), |()| Gather::default()).unwrap();
    let (mut records, mut strays) = (Records::new(), Vec::new());
    for gather in pass.visitors {
        records.extend(gather.records);
        strays.extend(gather.strays);
    }
    (records, strays, !pass.faults.is_empty(), replay.facts().torn.is_some())
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Damages one segment in one of several ways.
fn harm(path: &Path, whole: &[u8], state: &mut u64) -> String {
    let mut bytes = whole.to_vec();
    let at = next(state) as usize % bytes.len();
    let story = match next(state) % 6 {
        0 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            let end = (at + 1 + next(state) as usize % 2000).min(bytes.len());
            bytes[at..end].fill(0);
            format!("{at} to {end} cleared")
        }
        2 => {
            let end = (at + 8 * (1 + next(state) as usize % 40)).min(bytes.len());
            bytes.drain(at..end);
            format!("{at} to {end} taken out")
        }
        3 => {
            let piece: Vec<u8> = (0..16).map(|_| next(state) as u8).collect();
            let end = (at + 16).min(bytes.len());
            bytes[at..end].copy_from_slice(&piece[..end - at]);
            format!("noise at {at}")
        }
        _ => {
            let bit = next(state) % 8;
            bytes[at] ^= 1 << bit;
            format!("bit {bit} at {at} flipped")
        }
    };
    fs::write(path, bytes).unwrap();
    story
}

/// The fixture without the room behind its database, which is all that takes time.
fn ahead() -> TempDir {
    let folder = fixture();
    let path = folder.path().join("member/snap/db");
    let used = Snapshot::open(fs::File::open(&path).unwrap()).unwrap().pages().used_bytes();
    fs::File::options().write(true).open(&path).unwrap().set_len(used).unwrap();
    folder
}

/// The fixture's log beside a database in which nothing was applied, so that all of it counts.
fn alone() -> TempDir {
    let folder = fixture();
    super::nothing_applied(&folder.path().join("member/snap/db"));
    folder
}

#[test]
fn a_thousand_damaged_logs_give_no_record_that_was_not_written() {
    let (ahead, alone) = (ahead(), alone());
    let wholes = [read(ahead.path()), read(alone.path())];
    let mut state = 0x5eed_1234_5678_9abc_u64;
    let (mut shorter, mut told) = (0, 0);
    for round in 0..1000 {
        let (data, whole) = if round % 2 == 0 { (ahead.path(), &wholes[0]) } else { (alone.path(), &wholes[1]) };
        let paths = segments(data);
        let path = &paths[next(&mut state) as usize % paths.len()];
        let bytes = fs::read(path).unwrap();
        let story = harm(path, &bytes, &mut state);
        let (records, strays, faulty, torn) = read(data);
        fs::write(path, bytes).unwrap();
        let here = || format!("round {round}, {}: {story}", path.display());
        for (revision, record) in &records {
            assert_eq!(whole.0.get(revision), Some(record), "{}", here());
        }
        // What a value left behind in the log is of a key and a value that were there.
        for stray in strays {
            let known = whole.1.contains(&stray)
                || whole.0.values().any(|record| (&record.0, &record.5) == (&stray.0, &stray.1));
            assert!(known, "{}", here());
        }
        if records.len() < whole.0.len() {
            shorter += 1;
            told += u32::from(faulty || torn);
            assert!(faulty || torn, "{}", here());
        }
    }
    assert!(shorter > 300 && told == shorter, "{shorter} logs lost something, and {told} said so");
}
