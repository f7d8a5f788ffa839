//! Databases that somebody writes to while they are read: told, never silent.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use super::program::{argument, atrest, testdata};
use super::servers::{Release, Server};

fn ids(document: &Value) -> Vec<&str> {
    document["findings"].as_array().unwrap().iter().map(|finding| finding["id"].as_str().unwrap()).collect()
}

/// Runs `body` while `write` is repeated in the background.
fn meanwhile(write: impl Fn(usize) + Sync, body: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| (0..).take_while(|_| !done.load(Ordering::Relaxed)).for_each(&write));
        // The writer ends even if the body fails.
        let _end = Defer(|| done.store(true, Ordering::Relaxed));
        body();
    });
}

struct Defer<F: Fn()>(F);

impl<F: Fn()> Drop for Defer<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_database_that_a_server_writes_to_is_read_cleanly_or_said_to_be_unsteady() {
    for release in Release::ALL {
        let server = Server::start(release);
        let preloaded = 40;
        for index in 0..preloaded {
            server.put(format!("/registry/secrets/default/first-{index:03}"), &[b'x'; 50_000]);
        }
        let path = server.database();
        let mut seen = 0;
        let write = |index| server.put(format!("/registry/secrets/default/then-{index:05}"), &[b'y'; 20_000]);
        meanwhile(write, || {
            for _ in 0..8 {
                let run = atrest(&["audit", argument(&path), "-o", "json"]);
                let document = run.json();
                let ids = ids(&document);
                assert!(ids.contains(&"file.log-only"), "{ids:?}");
                let (entries, revision) =
                    (&document["totals"]["entries"], document["source"]["revision"].as_i64().unwrap());
                if ids.contains(&"file.unsteady") {
                    // Without a configuration nothing is judged; that the reading failed shows in the exit code.
                    assert_eq!((run.code, document["verdict"].as_str()), (1, Some("unjudged")));
                    continue;
                }
                assert_eq!((run.code, &document["fault_count"]), (0, &Value::from(0)), "{document:#}");
                // Every write is a new key and a revision of its own; the first one has revision 2.
                assert_eq!(entries.as_i64(), Some(revision - 1), "{document:#}");
                assert!(revision >= seen, "{revision} after {seen}");
                seen = revision;
            }
        });
    }
}

#[test]
fn a_database_in_a_data_directory_is_said_to_lack_what_only_the_log_has() {
    let server = Server::start(Release::V3_5);
    server.put(
        "/registry/secrets/default/a",
        br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a","namespace":"default"}}"#,
    );
    let (database, snapshot) = (server.database(), server.snapshot());
    let of = |path: &Path| atrest(&["audit", argument(path), "-o", "json"]).json();
    let document = of(&database);
    assert_eq!(document["source"]["kind"], "database");
    assert_eq!(ids(&document), ["file.log-only"]);
    assert_eq!(document["findings"][0]["severity"], "note");
    let table = atrest(&["audit", argument(&database)]);
    assert!(table.text().contains("only in the log"), "{}", table.text());
    assert_eq!(ids(&of(&snapshot)), [""; 0]);
}

/// FNV-1a, with which bbolt checks its meta records.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

#[test]
fn a_database_that_never_stands_still_is_never_judged_as_if_it_did() {
    const PAGE_BYTES: u64 = 16 << 10;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    fs::copy(testdata("versions/etcd-3.6-pages-16k.db"), &path).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let config = testdata("versions/encryption-config.json");
    // What a server does at the end of each transaction: the older meta record gets the next transaction id.
    let commit = |index: usize| {
        let mut meta = [0; 64];
        file.read_exact_at(&mut meta, 16).unwrap();
        let id = 1_000_000 + index as u64;
        meta[48..56].copy_from_slice(&id.to_le_bytes());
        let sum = checksum(&meta[..56]);
        meta[56..].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&meta, id % 2 * PAGE_BYTES + 16).unwrap();
    };
    let (audit, check) = (["audit", argument(&path), "-c", &config], ["check", argument(&path)]);
    let json = |arguments: &[&str]| atrest(&[arguments, &["-o", "json"]].concat());
    // The writer may be held up for so long that all is read in between, but not every time.
    let unsteady = |arguments: &[&str], is_unsteady: &dyn Fn(&Value) -> bool| {
        let mut runs = std::iter::repeat_with(|| json(arguments)).take(100);
        runs.find(|run| is_unsteady(&run.json())).expect("a hundred reads between two writes")
    };
    meanwhile(commit, || {
        let found = |document: &Value| ids(document).contains(&"file.unsteady");
        let run = unsteady(&[&audit[..], &["--fail-on", "none"]].concat(), &found);
        assert_eq!((run.code, run.json()["verdict"].as_str()), (1, Some("incomplete")));
        assert_eq!(ids(&run.json())[0], "file.unsteady", "what is missing is said first");
        let run = unsteady(&check, &|document| document["unsteady"] == true);
        assert_eq!((run.code, &run.json()["fault_count"]), (1, &Value::from(0)));
    });
    let quiet = json(&audit).json();
    assert!(!ids(&quiet).contains(&"file.unsteady"), "{quiet:#}");
    assert_eq!(json(&check).json()["unsteady"], false);
}
