//! Salvage of broken files, held against what the whole file is known to hold: each record whose pages are left comes back,
//! and none that was not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use atrest::bbolt::write::{Fill, Writer};
use atrest::etcd::{Revision, RevisionKey, schema};
use atrest::recover::salvage::settle::Include;
use atrest::recover::salvage::{Out, Request, Salvage, SalvageError, salvage};
use atrest::source::Snapshot;
use atrest::source::check::{HashKvAt, check};
use atrest::source::snapshot::PassOptions;
use serde_json::json;
use tempfile::TempDir;

use super::damage::harm::{self, PAGE, Random};
use super::made::Put;
use super::program::{Run, argument, atrest, private, temporary, testdata};
use super::servers::{Release, Server};
use super::walk::{self, Record};

/// A record by its revision.
type Records = BTreeMap<(i64, i64), Record>;

/// The pages of a leaf, and the revisions on it.
type LeafPages = (Vec<usize>, Vec<(i64, i64)>);

/// A whole file and what it holds.
struct Whole {
    bytes: Vec<u8>,
    records: Records,
    /// For each leaf of the bucket `key` its pages, and the revisions on it.
    leaves: Vec<LeafPages>,
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
    // Two at a time are what a small machine takes in its stride.
    std::thread::scope(|scope| {
        for half in 0..2 {
            let whole = &whole;
            scope.spawn(move || a_part_of_them(whole, half));
        }
    });
}

fn a_part_of_them(whole: &Whole, half: u64) {
    let folder = temporary();
    let mut random = Random::new(8 + half);
    for number in 0..500 {
        let (name, damaged) = damage(whole, &mut random);
        let name = format!("{half} {number}, {name}");
        let found = salvaged(&folder, &damaged, Include::default());
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        judge(whole, &name, &damaged, &found);
        if number % 250 == 100 {
            serves(&found);
        }
    }
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

/// Stores of four releases, each compacted while free pages were full of what the compaction took.
const COMPACTED: [&str; 4] =
    ["versions/etcd-3.4.db", "versions/etcd-3.5.db", "versions/etcd-3.6.db", "versions/etcd-3.7.db"];

#[test]
fn of_compacted_stores_nothing_certain_comes_back_that_a_compaction_took() {
    for name in COMPACTED {
        let whole = Whole::load(name);
        let folder = temporary();
        let mut random = Random::new(4);
        for number in 0..150 {
            let (told, damaged) = damage(&whole, &mut random);
            let name = format!("{name} {number}, {told}");
            let doubtful = Include { doubtful: true, ..Include::default() };
            let found = salvaged(&folder, &damaged, doubtful);
            let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
            let never = found.records.iter().filter(|(revision, record)| whole.records.get(revision) != Some(record));
            let never: Vec<_> = never.map(|(revision, _)| revision).collect();
            assert!(never.len() as u64 <= found.salvage.counts.doubtful, "{name}: {never:?}");
            holds(&found.path);
            if !never.is_empty() {
                let only_certain = Include { only_certain: true, ..Include::default() };
                match salvaged(&folder, &damaged, only_certain) {
                    Ok(found) => {
                        let never = found.records.iter().find(|(at, record)| whole.records.get(at) != Some(record));
                        assert_eq!(never, None, "{name}");
                    }
                    Err(error) => assert!(matches!(error, SalvageError::NoRecords), "{name}: {error}"),
                }
            }
        }
    }
}

/// What may be lost of a file without a record being lost.
fn structures(whole: &Whole) -> Vec<(String, Vec<usize>)> {
    let live = harm::live(&whole.bytes);
    let root = live[0].id;
    let branches: Vec<usize> = live.iter().filter(|page| page.is_branch).map(|page| page.id).collect();
    let mut lost = vec![
        ("the first meta page".to_owned(), vec![0]),
        ("the second meta page".to_owned(), vec![1]),
        ("both meta pages".to_owned(), vec![0, 1]),
        ("the root".to_owned(), vec![root]),
        ("metas and root".to_owned(), vec![0, 1, root]),
    ];
    for branch in branches {
        lost.push((format!("branch {branch}"), vec![branch]));
        lost.push((format!("metas and branch {branch}"), vec![0, 1, branch]));
        lost.push((format!("root and branch {branch}"), vec![root, branch]));
        lost.push((format!("metas, root and branch {branch}"), vec![0, 1, root, branch]));
    }
    lost
}

#[test]
fn without_metas_root_and_branches_the_records_are_the_same() {
    let stores = [
        "kubeadm/snapshot.db",
        "apiserver/snapshot.db",
        "kms/snapshot.db",
        "k3s/snapshot.db",
        "openshift3/snapshot.db",
    ];
    for name in stores.into_iter().chain(COMPACTED) {
        let whole = Whole::load(name);
        let folder = temporary();
        for (told, pages) in structures(&whole) {
            let mut damaged = whole.bytes.clone();
            pages.iter().for_each(|page| damaged[page * PAGE..(page + 1) * PAGE].fill(0));
            let doubtful = Include { doubtful: true, ..Include::default() };
            let found = salvaged(&folder, &damaged, doubtful);
            let found = found.unwrap_or_else(|error| panic!("{name} without {told}: {error}"));
            assert!(!found.salvage.is_whole());
            assert!(found.records == whole.records, "{name} without {told}: {:?}", found.salvage.counts);
            holds(&found.path);
            // Nothing that is known to be behind a compaction comes back by itself, and all else does.
            let Ok(plain) = salvaged(&folder, &damaged, Include::default()) else { continue };
            let counts = plain.salvage.counts;
            let behind = plain.salvage.compaction.noted.map_or(0, |noted| i64::try_from(noted).unwrap());
            let missing: Vec<_> = whole.records.keys().filter(|at| !plain.records.contains_key(at)).collect();
            assert!(missing.iter().all(|(main, _)| *main <= behind), "{name} without {told}: {missing:?}");
            assert_eq!(missing.len() as u64, counts.doubtful_left, "{name} without {told}: {counts:?}");
        }
    }
}

#[test]
fn pages_of_16_kib_and_a_wrong_page_size_are_told_by_the_pages_themselves() {
    let path = testdata("versions/etcd-3.6-pages-16k.db");
    let (whole, expected) = (fs::read(&path).unwrap(), by_revision(walk::records(&path)));
    let folder = temporary();
    let mut without_metas = whole.clone();
    without_metas[..32_768].fill(0);
    for damaged in [whole, without_metas] {
        let found = salvaged(&folder, &damaged, Include::default()).unwrap();
        assert_eq!(found.salvage.page_size, 16_384);
        assert!(found.records == expected, "{:?}", found.salvage.counts);
        holds(&found.path);
    }
    let kubeadm = Whole::load("kubeadm/snapshot.db");
    for wrong in [8192_u32, 16_384, 65_536] {
        let mut damaged = kubeadm.bytes.clone();
        harm::metas(&mut damaged, 24, &wrong.to_le_bytes());
        let found = salvaged(&folder, &damaged, Include::default()).unwrap();
        assert!(found.records == kubeadm.records && found.salvage.page_size == 4096, "{wrong}");
    }
}

#[test]
fn of_a_whole_file_everything_is_taken_and_nothing_was_lost() {
    let folder = temporary();
    for name in [
        "kubeadm/snapshot.db",
        "versions/etcd-3.4.db",
        "versions/etcd-3.7.db",
        "versions/etcd-3.6-pages-16k.db",
        "rke2/on-demand-server-1-1763600000.zip",
    ] {
        let output = folder.path().join("same.db");
        let run = atrest(&["salvage", &testdata(name), "-o", argument(&output), "--force", "--report", "json"]);
        assert_eq!((run.code, &run.err[..]), (0, ""), "{name}: {}", run.text());
        let report = run.json();
        assert_eq!(report["whole"], true);
        assert_eq!(report["lost"]["pages"], json!([]));
        assert_eq!((&report["lost"]["missing_revisions"], &report["lost"]["keys"]), (&json!(0), &json!([])), "{name}");
        assert!(report["buckets"].as_array().unwrap().iter().all(|bucket| bucket["origin"] == "whole"));
        let status = |path: &str| {
            let found = atrest(&["check", path, "--hashkv", "-o", "json"]).json();
            ["hash", "revision", "totalKey", "version", "hashkv", "compacted_revision"]
                .map(|field| found[field].clone())
        };
        assert_eq!(status(argument(&output)), status(&testdata(name)), "{name}");
        assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn what_holds_no_page_is_refused_and_leaves_no_file() {
    let folder = temporary();
    let output = folder.path().join("new.db");
    let whole = fs::read(testdata("versions/etcd-3.5.db")).unwrap();
    let noise = Random::new(3).bytes(1 << 20);
    let cases: [(&str, &[u8]); 5] = [
        ("empty", &[]),
        ("noise", &noise),
        ("zeros", &[0; 1 << 16]),
        ("a page of text", &[b'x'; 4096]),
        ("the metas alone", &whole[..8192]),
    ];
    for (name, bytes) in cases {
        let path = private(&folder, "source.db", bytes);
        let run = atrest(&["salvage", &path, "-o", argument(&output)]);
        assert!(run.failed(3).contains("hint: "), "{name}: {}", run.err);
        let run = atrest(&["audit", &path, "--salvage"]);
        assert!(run.failed(3).contains("source.db: "), "{name}: {}", run.err);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{name}");
    }
}

#[test]
fn a_wrong_digest_alone_loses_nothing_and_is_said() {
    let whole = Whole::load("kubeadm/snapshot.db");
    let folder = temporary();
    let mut damaged = whole.bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let found = salvaged(&folder, &damaged, Include::default()).unwrap();
    assert!(found.records == whole.records && !found.salvage.is_whole());
    assert!(found.salvage.faults.is_empty());
}

#[test]
fn reading_commands_read_what_is_left_and_say_that_it_is_not_all() {
    let whole = Whole::load("kubeadm/snapshot.db");
    let folder = temporary();
    let branch = harm::live(&whole.bytes).iter().find(|page| page.is_branch).unwrap().id;
    let mut damaged = whole.bytes.clone();
    for page in [0, 1, branch] {
        damaged[page * PAGE..(page + 1) * PAGE].fill(0);
    }
    let path = private(&folder, "broken.db", &damaged);
    let config = testdata("kubeadm/encryption-config.yaml");
    let said = atrest(&["audit", &path, "-c", &config]);
    assert!(said.failed(3).contains("atrest salvage"), "{}", said.err);

    let of = |source: &str, more: &[&str]| atrest(&[&["audit", source, "-c", &config], more].concat());
    let broken = of(&path, &["--salvage", "-o", "json"]).json();
    let intact = of(&testdata("kubeadm/snapshot.db"), &["-o", "json"]).json();
    for field in ["totals", "coverage"] {
        assert_eq!(broken[field], intact[field], "{field}");
    }
    assert_eq!(broken["verdict"], "incomplete");
    let ids: Vec<&str> = broken["findings"].as_array().unwrap().iter().filter_map(|row| row["id"].as_str()).collect();
    assert!(ids.contains(&"file.damaged") && ids.contains(&"file.trailer-mismatch"), "{ids:?}");
    assert_eq!(of(&path, &["--salvage", "-o", "csv"]).out, of(&testdata("kubeadm/snapshot.db"), &["-o", "csv"]).out);

    let secrets = |source: &str, more: &[&str]| {
        let run = atrest(&[&["get", source, "secrets", "-A", "-o", "name", "-c", &config], more].concat());
        (run.code, run.out)
    };
    let (code, names) = secrets(&path, &["--salvage"]);
    assert_eq!((code, &names), (1, &secrets(&testdata("kubeadm/snapshot.db"), &[]).1));
    let run = atrest(&["check", &path, "--salvage"]);
    assert_eq!(run.code, 1, "{}", run.err);
    let run = atrest(&["fit", &path, &config, "--salvage"]);
    assert!(matches!(run.code, 0 | 1), "{}", run.err);
}

#[test]
fn a_report_says_what_is_lost() {
    let whole = Whole::load("kubeadm/snapshot.db");
    let folder = temporary();
    // One with neighbours on both sides.
    let is_inner = |revisions: &[(i64, i64)]| revisions.len() > 3 && revisions[0].0 > 20 && revisions[0].0 < 200;
    let leaf = whole.leaves.iter().find(|(pages, revisions)| pages.len() == 1 && is_inner(revisions));
    let (pages, revisions) = leaf.unwrap();
    let mut damaged = whole.bytes.clone();
    damaged[pages[0] * PAGE..(pages[0] + 1) * PAGE].fill(0);
    let output = folder.path().join("salvaged.db");
    let run = atrest_salvage(&folder, &damaged, &output, &["--report", "json"]);
    assert_eq!(run.code, 1);
    let report = run.json();
    let lost = json!([{
        "page": pages[0],
        "kind": "leaf",
        "first_revision": revisions[0].0,
        "last_revision": revisions.last().unwrap().0,
    }]);
    assert_eq!(report["lost"]["pages"], lost);
    assert_eq!(report["lost"]["missing_revisions"], revisions.len());
    assert_eq!(report["lost"]["missing"], json!([{"first": revisions[0].0, "last": revisions.last().unwrap().0}]));
    assert_eq!((&report["schema"], &report["proved"]), (&json!("atrest.salvage/1"), &json!(true)));
    let text = atrest_salvage(&folder, &damaged, &output, &["--force"]);
    let line =
        format!("page {}, a leaf, with revisions from {} to {}", pages[0], revisions[0].0, revisions.last().unwrap().0);
    assert!(text.text().contains(&line) && text.text().contains("[FAIL]"), "{}", text.text());
    let again = atrest_salvage(&folder, &damaged, &output, &[]);
    assert!(again.failed(4).contains("exists already"), "{}", again.err);

    let check = atrest(&["check", argument(&folder.path().join("broken.db"))]);
    assert!(check.text().contains("atrest salvage FILE"), "{}", check.text());
}

/// Runs `salvage` on a damaged file.
fn atrest_salvage(folder: &TempDir, damaged: &[u8], output: &Path, more: &[&str]) -> Run {
    let path = private(folder, "broken.db", damaged);
    atrest(&[&["salvage", &path, "-o", argument(output)], more].concat())
}

/// A store of a test's own making: thirty records of five keys in small pages, compacted at revision 20.
struct Made {
    bytes: Vec<u8>,
    /// The branch page and the leaves below it.
    branch: usize,
}

impl Made {
    fn new(folder: &TempDir, mut mains: impl Iterator<Item = i64>) -> Self {
        let path = folder.path().join("made.db");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let mut writer = Writer::new(&file, 4096, 9).unwrap();
        for name in schema::BUCKETS {
            let mut bucket = writer.bucket(name, 0, Fill::APPENDED).unwrap();
            if name == schema::KEY {
                mains.by_ref().for_each(|main| {
                    let (key, value) = Self::record(main, "value");
                    bucket.push(&key, &value).unwrap();
                });
            } else if name == schema::META {
                bucket.push(schema::CONSISTENT_INDEX, &7_u64.to_be_bytes()).unwrap();
                let mark = RevisionKey { revision: Revision { main: 20, sub: 0 }, tombstone: false }.encode();
                bucket.push(schema::FINISHED_COMPACTION, &mark).unwrap();
                bucket.push(schema::SCHEDULED_COMPACTION, &mark).unwrap();
            }
            bucket.finish().unwrap();
        }
        writer.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        let branch = harm::live(&bytes).iter().find(|page| page.is_branch).map_or(0, |page| page.id);
        Self { bytes, branch }
    }

    /// A record of a key of its own.
    fn record(main: i64, value: &str) -> (Vec<u8>, Vec<u8>) {
        let put = Put::new(main, format!("/registry/configmaps/default/{main}"), format!("{value}{}", "x".repeat(500)));
        put.encoded()
    }

    /// Appends a leaf page that nothing leads to.
    fn append(&mut self, records: &[(Vec<u8>, Vec<u8>)]) {
        let id = self.bytes.len() / PAGE;
        let mut page =
            [&(id as u64).to_le_bytes()[..], &[2, 0], &(records.len() as u16).to_le_bytes(), &[0; 4]].concat();
        let mut at = 16 * records.len();
        for (key, value) in records {
            for word in [0, at, key.len(), value.len()] {
                page.extend((word as u32).to_le_bytes());
            }
            at = at + key.len() + value.len() - 16;
        }
        records.iter().for_each(|(key, value)| page.extend([&key[..], value].concat()));
        page.resize(PAGE, 0);
        self.bytes.extend(page);
    }

    fn without_branch(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[self.branch * PAGE..(self.branch + 1) * PAGE].fill(0);
        bytes
    }
}

fn mains(found: &Salvaged) -> Vec<i64> {
    found.records.keys().map(|(main, _)| *main).collect()
}

#[test]
fn what_a_compaction_took_comes_back_only_when_asked_for() {
    let folder = temporary();
    // The compaction at 20 took 6 and 13, each from the middle of a page.
    let left = || (2..=31).filter(|main| ![6, 13].contains(main));
    let mut made = Made::new(&folder, left());
    let record = |main| Made::record(main, "value");
    // Two old versions of a page: one with all of it, and one of the time when 6 was gone already.
    made.append(&[5, 6, 7, 8, 9, 10].map(record));
    made.append(&[7, 8, 9, 10].map(record));
    made.append(&[12, 13, 14].map(record));
    let doubtful = Include { doubtful: true, ..Include::default() };
    let plain = salvaged(&folder, &made.without_branch(), Include::default()).unwrap();
    assert_eq!(mains(&plain), (21..=31).collect::<Vec<_>>(), "the compaction was at 20");
    assert_eq!(plain.salvage.counts.doubtful_left, left().filter(|main| *main <= 20).count() as u64);
    for (damaged, include) in [(made.bytes.clone(), Include::default()), (made.without_branch(), doubtful)] {
        let found = salvaged(&folder, &damaged, include).unwrap();
        assert_eq!(mains(&found), left().collect::<Vec<_>>());
        assert_eq!(found.salvage.counts.compacted, 2, "{:?}", found.salvage.counts);
        let compacted = Include { compacted: true, ..Include::default() };
        let found = salvaged(&folder, &damaged, compacted).unwrap();
        assert_eq!((mains(&found), found.salvage.counts.compacted_taken), ((2..=31).collect(), 2));
    }
}

#[test]
fn what_was_never_committed_stays_out() {
    let folder = temporary();
    let mut made = Made::new(&folder, 2..=31);
    made.append(&[30, 31, 32, 33].map(|main| Made::record(main, "value")));
    let found = salvaged(&folder, &made.bytes, Include::default()).unwrap();
    assert_eq!((mains(&found), found.salvage.counts.uncommitted), ((2..=31).collect(), 2));
}

#[test]
fn a_copy_that_differs_is_a_conflict_and_the_tree_decides() {
    let folder = temporary();
    let mut made = Made::new(&folder, 2..=31);
    made.append(&[Made::record(25, "value"), Made::record(26, "other"), Made::record(27, "value")]);
    let found = salvaged(&folder, &made.bytes, Include::default()).unwrap();
    assert_eq!(mains(&found), (2..=31).collect::<Vec<_>>());
    assert!(found.records[&(26, 0)].value.starts_with(b"value"));
    assert_eq!((found.salvage.conflict_count, found.salvage.conflicts[0].by_tree), (1, true));
    assert_eq!(found.salvage.conflicts[0].revision, (26, 0));

    let doubtful = Include { doubtful: true, ..Include::default() };
    let found = salvaged(&folder, &made.without_branch(), doubtful).unwrap();
    assert_eq!(mains(&found), (2..=31).filter(|main| *main != 26).collect::<Vec<_>>());
    assert_eq!((found.salvage.counts.undecided, found.salvage.conflicts[0].taken), (1, None));
    assert_eq!(found.salvage.holes.ranges, [(26, 26)]);
}

#[test]
fn records_that_stand_inline_are_found_without_metas() {
    let folder = temporary();
    let made = Made::new(&folder, std::iter::once(25));
    assert_eq!(made.branch, 0, "it is so small that it has no page of its own");
    let mut damaged = made.bytes;
    damaged[..2 * PAGE].fill(0);
    let found = salvaged(&folder, &damaged, Include::default()).unwrap();
    assert_eq!(mains(&found), [25]);
    holds(&found.path);
}

#[test]
fn fragments_of_pages_come_back_only_when_asked_for_and_only_whole() {
    let folder = temporary();
    let made = Made::new(&folder, 2..=31);
    let root = harm::root(&made.bytes);
    let is_full_leaf = |page: &&harm::Live| !page.is_branch && page.count > 3 && page.id != root;
    let leaf = harm::live(&made.bytes).iter().find(is_full_leaf).unwrap().id;
    let first = revision(&made.bytes, leaf * PAGE + 16).unwrap().0;
    let mut damaged = made.bytes.clone();
    // The head of the page and a piece of its first record are overwritten.
    damaged[leaf * PAGE..leaf * PAGE + 512].fill(b'#');
    let lost = |found: &Salvaged| -> Vec<i64> { (2..=31).filter(|main| !mains(found).contains(main)).collect() };
    let without = salvaged(&folder, &damaged, Include::default()).unwrap();
    let with = Include { fragments: true, compacted: true, ..Include::default() };
    let with = salvaged(&folder, &damaged, with).unwrap();
    assert!(lost(&without).len() > 3 && lost(&with) == [first], "{:?} {:?}", lost(&without), lost(&with));
    assert_eq!(with.salvage.counts.fragments_taken as usize, lost(&without).len() - 1);
}
