//! Damaged sources: what `check` finds a fault in is refused, and what it finds whole is rewritten whole.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use atrest::audit::deks::Deks;
use atrest::bbolt::write::{Fill, Writer};
use atrest::etcd::{KeyValue, Revision, RevisionKey, schema};
use atrest::rewrite::run::{self, End, Out, Request, RunError};
use atrest::rewrite::target::Target;
use atrest::rewrite::write::RewriteError;
use atrest::source::check::{HashKvAt, check};
use atrest::source::digest::Trailer;
use atrest::source::snapshot::{PassOptions, ReadError};
use atrest::source::{Snapshot, Store};
use sha2::{Digest, Sha256};

use super::super::damage::harm::{self, Harm, Random};
use super::super::program::{private, temporary, testdata};
use super::{Opener, rewrite};

/// Where a meta page has its transaction id.
const TXID: usize = 64;

fn pass(threads: usize) -> PassOptions<'static> {
    PassOptions { digest: true, threads, progress: &|_| () }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// Whether `check` calls it whole; none where there is nothing to check.
fn is_whole(bytes: &[u8]) -> Option<bool> {
    let mut snapshot = Snapshot::open(file_of(bytes)).ok()?;
    let report = check(&mut snapshot, pass(1), HashKvAt::Not).ok()?;
    Some(report.fault_count == 0 && report.digests?.trailer != Trailer::Mismatch)
}

/// Strips a store in every thread that there is; whether it came to a result.
fn is_taken(name: &str, bytes: &[u8], current: &Opener, threads: usize, drop_history: bool) -> bool {
    let Ok(snapshot) = Snapshot::open(file_of(bytes)) else { return false };
    let mut store = Store::File(snapshot);
    let named = tempfile::NamedTempFile::new().unwrap();
    let reopen = || File::open(named.path());
    let out = Out { file: named.as_file(), path: named.path(), reopen: &reopen };
    let deks = Deks::default();
    let request = Request {
        keep_unreadable: true,
        drop_history,
        pass: pass(threads),
        ..Request::new(current.rules(), &deks, &Target::Plaintext)
    };
    match run::rewrite(&mut store, &request, Some(&out)) {
        Ok(outcome) => {
            assert!(matches!(outcome.end, End::Proved(_)), "{name}: {:?}", outcome.end);
            true
        }
        Err(RunError::Rewrite(RewriteError::Damaged { .. } | RewriteError::Trailer | RewriteError::Read(_))) => false,
        Err(error) => panic!("{name}: it is not the source's fault: {error}"),
    }
}

struct Case {
    bytes: Vec<u8>,
    current: Opener,
}

impl Case {
    /// Without its digest, so that nothing but the pages themselves can tell what is wrong with them.
    fn bare() -> Self {
        let mut bytes = fs::read(testdata("versions/etcd-3.5.db")).unwrap();
        bytes.truncate(bytes.len() - 32);
        Self { bytes, current: Opener::new(&[testdata("versions/encryption-config.json")]) }
    }

    fn judge(&self, name: &str, bytes: &[u8], number: usize) {
        let (threads, drop_history) = ([1, 2, 8][number % 3], number % 2 == 1);
        let taken = is_taken(name, bytes, &self.current, threads, drop_history);
        assert_eq!(taken, is_whole(bytes) == Some(true), "{name} with {threads} threads");
    }

    fn judge_all(&self, harms: &[(String, Harm)]) {
        for (number, (name, harm)) in harms.iter().enumerate() {
            let mut bytes = self.bytes.clone();
            harm(&mut bytes);
            self.judge(name, &bytes, number);
        }
    }
}

#[test]
fn no_result_comes_of_lost_pages_or_wrong_ways() {
    let case = Case::bare();
    case.judge_all(&harm::lost_pages(&case.bytes));
    case.judge_all(&harm::wrong_ways(&case.bytes));
}

#[test]
fn no_result_comes_of_wrong_fields_or_lying_metas() {
    let case = Case::bare();
    // The check alone is held against all of them; here a fifth of them is enough.
    let fields = harm::wrong_fields(&case.bytes).into_iter().step_by(5).collect::<Vec<_>>();
    case.judge_all(&fields);
    case.judge_all(&harm::lying_metas(&case.bytes));
}

#[test]
fn no_result_comes_of_random_harms_that_the_check_notices() {
    let case = Case::bare();
    let pages = harm::live(&case.bytes);
    for seed in 0..200 {
        let mut bytes = case.bytes.clone();
        harm::at_random(&mut bytes, &pages, &mut Random::new(7000 + seed));
        case.judge(&format!("seed {seed}"), &bytes, seed as usize);
    }
}

#[test]
fn a_damaged_source_is_exit_code_3_and_nothing_is_written() {
    let whole = fs::read(testdata("versions/etcd-3.6.db")).unwrap();
    let bare = whole.len() - 32;
    let config = testdata("versions/encryption-config.json");
    let damaged: [(&str, Vec<u8>, &str); 5] = [
        ("trailer", [&whole[..bare], &[7; 32]].concat(), "digest"),
        (
            "a value",
            {
                let mut bytes = whole.clone();
                bytes[bare - 100] ^= 1;
                bytes
            },
            "digest",
        ),
        (
            "a page",
            {
                let mut bytes = whole[..bare].to_vec();
                bytes[harm::root(&whole) * harm::PAGE + 8] = 0x10;
                bytes
            },
            "",
        ),
        ("cut", whole[..whole.len() / 2].to_vec(), "damaged"),
        ("no database", b"apiVersion: v1\n".to_vec(), "no valid bbolt meta page"),
    ];
    for (name, bytes, words) in damaged {
        let folder = temporary();
        let source = private(&folder, "source", &bytes);
        for more in [&[][..], &["--dry-run"], &["--drop-history"]] {
            let arguments = [&["-c", &config, "--strip"], more].concat();
            let run = rewrite(&source, &folder.path().join("new.db"), &arguments);
            let told = run.failed(3);
            assert!(told.contains(words) && told.contains(&source), "{name}: {told}");
            let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["source"], "{name}");
            assert!(fs::read(&source).unwrap() == bytes, "{name}");
        }
    }
}

/// A store large enough that much of it is still to be read when the first progress is told.
fn large() -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    let mut writer = Writer::new(&file, 4096, 7).unwrap();
    for bucket in schema::BUCKETS {
        let mut pairs = writer.bucket(bucket, 0, Fill::APPENDED).unwrap();
        for main in (2..40_000).take_while(|_| bucket == schema::KEY) {
            let key = format!("/registry/secrets/default/secret-{main:06}");
            let value = format!(
                r#"{{"kind":"Secret","apiVersion":"v1","metadata":{{"name":"secret-{main:06}","namespace":"default"}},"data":{{"a":"{:0400}"}}}}"#,
                main
            );
            let record = KeyValue {
                key: key.as_bytes(),
                create_revision: main,
                mod_revision: main,
                version: 1,
                value: value.as_bytes(),
                lease: 0,
            };
            let at = RevisionKey { revision: Revision { main, sub: 0 }, tombstone: false };
            pairs.push(&at.encode(), &record.encode()).unwrap();
        }
        pairs.finish().unwrap();
    }
    writer.finish().unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Rewrites a store to plaintext while `act` is done to its file, as soon as anything of it was read.
fn meanwhile(bytes: &[u8], threads: usize, act: impl Fn(&File) + Sync) -> Result<run::Outcome, RunError> {
    after(0, bytes, threads, act)
}

/// The same, as soon as more than `read` bytes were read or hashed.
fn after(read: usize, bytes: &[u8], threads: usize, act: impl Fn(&File) + Sync) -> Result<run::Outcome, RunError> {
    let source = tempfile::NamedTempFile::new().unwrap();
    source.as_file().write_all_at(bytes, 0).unwrap();
    let (once, told) = (Once::new(), AtomicUsize::new(0));
    let progress = |bytes: u64| {
        if told.fetch_add(bytes as usize, Ordering::Relaxed) + bytes as usize > read {
            once.call_once(|| act(source.as_file()));
        }
    };
    let mut store = Store::File(Snapshot::open(File::open(source.path()).unwrap()).unwrap());
    let named = tempfile::NamedTempFile::new().unwrap();
    let reopen = || File::open(named.path());
    let out = Out { file: named.as_file(), path: named.path(), reopen: &reopen };
    let (current, deks) = (Opener::without_configuration(), Deks::default());
    let pass = PassOptions { digest: true, threads, progress: &progress };
    let request = Request { pass, ..Request::new(current.rules(), &deks, &Target::Plaintext) };
    let outcome = run::rewrite(&mut store, &request, Some(&out));
    assert!(once.is_completed());
    outcome
}

#[test]
fn a_source_that_changes_or_cannot_be_read_to_its_end_meanwhile_gives_no_result() {
    let bytes = large();
    for threads in [1, 2, 8] {
        assert!(matches!(meanwhile(&bytes, threads, |_| ()).unwrap().end, End::Proved(_)));
        // A transaction that is committed meanwhile: the older meta page becomes the newer one.
        let txid = |page: usize| harm::u64_at(&bytes, page * harm::PAGE + TXID);
        let older = usize::from(txid(0) > txid(1));
        let mut committed = bytes.clone();
        harm::one_meta(&mut committed, older * harm::PAGE, TXID, &(txid(1 - older) + 1).to_le_bytes());
        let page = committed[older * harm::PAGE..(older + 1) * harm::PAGE].to_vec();
        let at = (older * harm::PAGE) as u64;
        let error = meanwhile(&bytes, threads, |file| file.write_all_at(&page, at).unwrap()).unwrap_err();
        assert!(matches!(error, RunError::Rewrite(RewriteError::Read(ReadError::Changing))), "{error}");
        // What was not read yet is gone.
        let half = bytes.len() as u64 / 2;
        let error = meanwhile(&bytes, threads, |file| file.set_len(half).unwrap()).unwrap_err();
        let told = matches!(error, RunError::Rewrite(RewriteError::Read(_) | RewriteError::Damaged { .. }));
        assert!(told, "{error}");
    }
}

#[test]
fn a_source_that_changes_between_writing_and_proof_gives_no_result() {
    let bare = large();
    let digest = Sha256::digest(&bare);
    let snapshot = [&bare[..], digest.as_slice()].concat();
    // In the middle of a page in the middle: within a value, since those are most of it.
    let at = bare.len() / 2 / harm::PAGE * harm::PAGE + harm::PAGE / 2;
    let flip = |file: &File| file.write_all_at(&[bare[at] ^ 1], at as u64).unwrap();
    for threads in [1, 2, 8] {
        // By then all leaves were read once, and next to nothing was read twice.
        let error = after(bare.len(), &bare, threads, flip).unwrap_err();
        assert!(matches!(error, RunError::Rewrite(RewriteError::Unproved(_))), "{error}");
        let error = after(bare.len(), &snapshot, threads, flip).unwrap_err();
        assert!(matches!(error, RunError::Rewrite(RewriteError::Trailer)), "{error}");
    }
}

#[test]
fn a_source_whose_digest_does_not_fit_is_damaged_whatever_else_would_be_refused() {
    let mut bytes = fs::read(testdata("kubeadm/snapshot.db")).unwrap();
    let config = testdata("kubeadm/encryption-config.yaml");
    let folder = temporary();
    for (name, code) in [("whole", 4), ("changed", 3)] {
        let source = private(&folder, name, &bytes);
        for more in [&[][..], &["--dry-run"]] {
            let arguments = [&["-c", &config, "--strip"], more].concat();
            let run = rewrite(&source, &folder.path().join("new.db"), &arguments);
            // What is refused has a report; what is damaged has none.
            assert_eq!((run.code, run.text().is_empty()), (code, code == 3), "{}", run.err);
            assert_eq!(run.err.contains("digest at its end"), code == 3, "{}", run.err);
        }
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    }
}
