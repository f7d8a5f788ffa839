//! Salvage of broken files, held against what the whole file is known to hold: each record whose pages are left comes back,
//! and none that was not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use atrest::recover::salvage::settle::Include;
use atrest::recover::salvage::{Out, Request, Salvage, SalvageError, salvage};
use atrest::source::Snapshot;
use atrest::source::check::{HashKvAt, check};
use atrest::source::snapshot::PassOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::damage::harm::{self, PAGE, Random};
use super::program::{Run, argument, atrest, atrest_reading, private, temporary, testdata};
use super::servers::{Release, Server};
use super::walk::{self, Record};

/// A record by its revision.
type Records = BTreeMap<(i64, i64), Record>;

/// A whole file and what it holds.
struct Whole {
    bytes: Vec<u8>,
    records: Records,
    /// For each leaf of the bucket `key` its pages, and the revisions on it.
    leaves: Vec<(Vec<usize>, Vec<(i64, i64)>)>,
}

impl Whole {
    fn load(name: &str) -> Self {
        let path = testdata(name);
        let bytes = fs::read(&path).unwrap();
        let records: Records = by_revision(walk::records(&path));
        let mut leaves = Vec::new();
        let root = harm::live(&bytes)[0].id;
        for page in harm::live(&bytes).iter().filter(|page| !page.is_branch && page.id != root) {
            let revisions: Vec<(i64, i64)> =
                (0..page.count).filter_map(|index| revision(&bytes, page.element(index))).collect();
            if revisions.len() == page.count {
                leaves.push(((page.id..=page.id + page.overflow).collect(), revisions));
            }
        }
        assert_eq!(leaves.iter().map(|(_, revisions)| revisions.len()).sum::<usize>(), records.len());
        Self { bytes, records, leaves }
    }

    /// The pages that are the overflow of others, in use.
    fn overflow(&self) -> BTreeSet<usize> {
        harm::live(&self.bytes).iter().flat_map(|page| page.id + 1..=page.id + page.overflow).collect()
    }

    fn page(&self, id: usize) -> &[u8] {
        &self.bytes[id * PAGE..(id + 1) * PAGE]
    }

    /// The revisions whose pages a damaged file still has: the first of a leaf's pages anywhere, the others in their places.
    fn left(&self, damaged: &[u8]) -> BTreeSet<(i64, i64)> {
        let pages: BTreeSet<&[u8]> = damaged.chunks_exact(PAGE).collect();
        let in_place = |id: &usize| damaged.get(id * PAGE..(id + 1) * PAGE) == Some(self.page(*id));
        let is_left = |pages_of: &[usize]| pages.contains(self.page(pages_of[0])) && pages_of[1..].iter().all(in_place);
        self.leaves.iter().filter(|(pages, _)| is_left(pages)).flat_map(|(_, revisions)| revisions.clone()).collect()
    }
}

fn by_revision(records: Vec<Record>) -> Records {
    records.into_iter().map(|record| ((record.main, record.sub), record)).collect()
}

/// The revision under which an element of a leaf stands.
fn revision(bytes: &[u8], element: usize) -> Option<(i64, i64)> {
    let at = element + harm::u32_at(bytes, element + 4) as usize;
    let key = bytes.get(at..at + harm::u32_at(bytes, element + 8) as usize)?;
    let number = |at: usize| i64::from_be_bytes(key[at..at + 8].try_into().unwrap());
    (matches!(key.len(), 17 | 18) && key[8] == b'_').then(|| (number(0), number(9)))
}

/// What a salvage through the library came to.
struct Salvaged {
    salvage: Salvage,
    path: PathBuf,
    records: Records,
}

fn salvaged(folder: &TempDir, damaged: &[u8], include: Include) -> Result<Salvaged, SalvageError> {
    let source = folder.path().join("damaged.db");
    fs::write(&source, damaged).unwrap();
    let path = folder.path().join("salvaged.db");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let interrupted = AtomicBool::new(false);
    let pass = PassOptions { digest: true, threads: 2, progress: &|_| () };
    let reopen = || File::open(&path);
    let out = Out { file: &file, reopen: &reopen };
    let salvage = salvage(&File::open(source).unwrap(), &Request { include, pass, interrupted: &interrupted }, &out)?;
    let records = by_revision(walk::records(argument(&path)));
    Ok(Salvaged { salvage, path, records })
}

/// Asserts that a file holds in every way, its digest too.
#[track_caller]
fn holds(path: &Path) {
    let mut snapshot = Snapshot::open(File::open(path).unwrap()).unwrap();
    let pass = PassOptions { digest: true, threads: 1, progress: &|_| () };
    let report = check(&mut snapshot, pass, HashKvAt::Current).unwrap();
    let trailer = report.digests.map(|digests| digests.trailer.word());
    assert_eq!((report.faults, report.free_pages, trailer), (Vec::new(), 0, Some("ok")));
}

/// Asserts that every record that is left came back, and none that was not there.
#[track_caller]
fn judge(whole: &Whole, name: &str, damaged: &[u8], found: &Salvaged) {
    for (revision, record) in &found.records {
        assert_eq!(whole.records.get(revision), Some(record), "{name}: {revision:?} was never so");
    }
    let missing: Vec<_> =
        whole.left(damaged).into_iter().filter(|revision| !found.records.contains_key(revision)).collect();
    assert_eq!(missing, [], "{name}: these are left and did not come back");
    let lost = found.records.len() < whole.records.len();
    assert!(!lost || !found.salvage.is_whole(), "{name}: something was lost, and nobody says so");
    assert_eq!(found.salvage.counts.taken(), found.records.len() as u64, "{name}");
    holds(&found.path);
}

/// Damages a file at random, as an accident does: pages cleared, overwritten, exchanged, and cut off.
///
/// bbolt keeps no checksums, so that a value in whose middle a page of another value stands is as good as any. Only what can
/// be told is done to the middle of values: clearing, and putting pages there that say what they are.
fn damage(whole: &Whole, random: &mut Random) -> (String, Vec<u8>) {
    let mut bytes = whole.bytes.clone();
    let (pages, overflow) = (bytes.len() / PAGE, whole.overflow());
    let mut told = Vec::new();
    for _ in 0..1 + random.below(6) {
        let (page, other) = (random.below(pages), random.below(pages));
        let [is_middle, other_is_middle] = [page, other].map(|page| overflow.contains(&page));
        let (at, from) = (page * PAGE, other * PAGE);
        match random.below(5) {
            0 => {
                told.push(format!("{page} cleared"));
                bytes[at..at + PAGE].fill(0);
            }
            1 if !is_middle => {
                told.push(format!("{page} noise"));
                let noise = random.bytes(PAGE);
                harm::put(&mut bytes, at, &noise);
            }
            2 if !is_middle && !other_is_middle => {
                told.push(format!("{page} and {other} exchanged"));
                let (one, two) = (bytes[at..at + PAGE].to_vec(), bytes[from..from + PAGE].to_vec());
                harm::put(&mut bytes, at, &two);
                harm::put(&mut bytes, from, &one);
            }
            3 if !other_is_middle => {
                told.push(format!("{page} a copy of {other}"));
                bytes.copy_within(from..from + PAGE, at);
            }
            4 if random.below(4) == 0 => {
                let end = PAGE * (pages / 2) + random.below(bytes.len() - PAGE * (pages / 2));
                told.push(format!("cut at {end}"));
                bytes.truncate(end);
                break;
            }
            _ => {}
        }
    }
    (told.join(", "), bytes)
}

#[test]
fn of_a_thousand_random_damages_everything_that_is_left_comes_back() {
    let whole = Whole::load("kubeadm/snapshot.db");
    let folder = temporary();
    let mut random = Random::new(8);
    let mut restored = 0;
    for number in 0..1000 {
        let (name, damaged) = damage(&whole, &mut random);
        let found = salvaged(&folder, &damaged, Include::default());
        let found = found.unwrap_or_else(|error| panic!("{number}, {name}: {error}"));
        judge(&whole, &format!("{number}, {name}"), &damaged, &found);
        if number % 250 == 100 {
            restored += 1;
            serves(&found);
        }
    }
    assert_eq!(restored, 4);
}

/// A real server starts on what was salvaged, and serves it.
#[track_caller]
fn serves(found: &Salvaged) {
    let server = Server::restore(Release::V3_5, &found.path);
    let mut newest: BTreeMap<&[u8], &Record> = BTreeMap::new();
    for record in found.records.values() {
        newest.insert(&record.key, record);
    }
    let live: Vec<i64> = newest.values().filter(|record| !record.tombstone).map(|record| record.main).collect();
    let served: Vec<i64> = server.all().iter().map(|kv| kv.mod_revision).collect();
    assert_eq!(served, live);
    server.put("/registry/afterwards", b"new");
}

#[test]
fn compacted_stores_get_nothing_back_that_a_compaction_took() {
    // The free pages of these are full of records that were compacted away.
    for name in ["versions/etcd-3.4.db", "versions/etcd-3.5.db", "versions/etcd-3.6.db", "versions/etcd-3.7.db"] {
        let whole = Whole::load(name);
        let folder = temporary();
        let mut random = Random::new(4);
        for number in 0..150 {
            let (told, damaged) = damage(&whole, &mut random);
            let Ok(found) = salvaged(&folder, &damaged, Include::default()) else { continue };
            for (revision, record) in &found.records {
                let name = format!("{name} {number}, {told}");
                assert_eq!(whole.records.get(revision), Some(record), "{name}: {revision:?} was not there any more");
            }
            holds(&found.path);
        }
    }
}
