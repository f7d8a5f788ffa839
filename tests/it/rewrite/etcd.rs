//! Rewritten stores in real servers: restored by etcd's own tools, started, read through the API, and written to.

use std::path::Path;
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::super::program::{argument, atrest, temporary};
use super::super::servers::{Release, Server};
use super::super::walk::{self, Record};
use super::stores::{Store, hex, live};
use super::{Opener, configuration, left, rewrite, whole};

/// What is done to a store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    /// Its values are on the target's keys.
    Rotated,
    /// They are plaintext.
    Stripped,
    /// They were plaintext, and are on the target's keys.
    Encrypted,
}

/// A result, and the release that is to start on it.
struct Start {
    store: Store,
    release: Release,
    ways: &'static [&'static str],
    done: Done,
}

impl Start {
    fn new(store: Store, release: Release, ways: &'static [&'static str], done: Done) -> Self {
        Self { store, release, ways, done }
    }

    /// Rewrites, restores, starts, and holds what the server says against the source.
    fn judge(self) {
        let Self { store, release, ways, done } = self;
        let path = match done {
            Done::Rotated => store.rotated("result.db", ways),
            Done::Stripped => store.stripped("result.db", ways),
            Done::Encrypted => store.encrypted("result.db", ways),
        };
        let opener = match done {
            Done::Stripped => Opener::without_configuration(),
            Done::Rotated | Done::Encrypted => Opener::new(std::slice::from_ref(&store.target)),
        };
        let server = Server::restore(release, &path);
        let source = left(walk::records(&store.source), ways.contains(&"--drop-history"));
        let (current, source) = (Opener::new(&store.current), live(&source));
        let said: Vec<Record> = server.all().into_iter().map(record).collect();
        assert_eq!(said.len(), source.len(), "{} in {release:?}", store.source);
        let mut opened_differently = 0;
        for record in &said {
            let before = source[&record.key[..]];
            let numbers = |record: &Record| (record.main, record.create_revision, record.version, record.lease);
            assert_eq!(numbers(record), numbers(before), "{}", walk::shown(&record.key));
            holds_the_same(&store, record, before, (&opener, &current));
            opened_differently += usize::from(record.value != before.value);
        }
        assert!(opened_differently > 5, "{}", store.source);
        lives(&server, said.iter().map(|record| record.main).max().unwrap());
    }
}

/// What a served record holds is what the source held, as the source's configuration opens it and as the truth has it; what
/// nothing opened is the same byte for byte.
fn holds_the_same(store: &Store, served: &Record, before: &Record, (opener, current): (&Opener, &Opener)) {
    let name = walk::shown(&served.key);
    let opened = opener.open(served);
    match current.open(before) {
        Some((plaintext, _)) => assert!(opened == Some((plaintext, false)), "{name}"),
        None if before.value.starts_with(b"k8s:enc:kms:") => assert!(opened.is_some(), "{name}"),
        None => assert!(served.value == before.value, "{name} was closed"),
    }
    let truth = std::str::from_utf8(&served.key).ok().and_then(|key| store.truth.get(key)?.as_ref());
    if let (Some(digest), Some((opened, stale))) = (truth, opened) {
        assert_eq!((&hex(&Sha256::digest(opened)), stale), (digest, false), "{name}");
    }
}

/// The server takes a new write, and a watch tells it.
fn lives(server: &Server, newest: i64) {
    let revision = server.revision();
    assert!(revision >= newest);
    server.put("/registry/secrets/default/afterwards", b"new");
    let told = record(server.watched("/registry/secrets/default/afterwards", revision + 1));
    assert_eq!((told.main, told.version, &told.value[..]), (revision + 1, 1, &b"new"[..]));
}

fn record(said: super::super::servers::KeyValue) -> Record {
    let [key, value] = [&said.key, &said.value].map(|base64| BASE64_STANDARD.decode(base64).unwrap());
    Record {
        main: said.mod_revision,
        create_revision: said.create_revision,
        version: said.version,
        lease: said.lease,
        key,
        value,
        ..Record::default()
    }
}

/// Two servers at a time are what a small machine starts as fast as one.
fn judge_all(starts: Vec<Start>) {
    let mut starts = starts.into_iter();
    while let Some(first) = starts.next() {
        let second = starts.next();
        thread::scope(|scope| {
            scope.spawn(|| first.judge());
            second.map(|second| scope.spawn(|| second.judge()));
        });
    }
}

#[test]
fn etcd_3_4_starts_on_what_older_and_newer_releases_wrote() {
    let start = |store, ways, done| Start::new(store, Release::V3_4, ways, done);
    judge_all(vec![
        start(Store::openshift3(), &[], Done::Rotated),
        start(Store::version("3.4"), &["--drop-history"], Done::Stripped),
        start(Store::version("3.5"), &["--for-etcd", "3.4"], Done::Rotated),
        start(Store::version("3.7"), &["--for-etcd", "3.4", "--drop-history"], Done::Rotated),
        start(Store::kubeadm(), &["--for-etcd", "3.4"], Done::Rotated),
        start(Store::apiserver(), &["--for-etcd", "3.4", "--format", "db"], Done::Stripped),
        start(Store::version("3.4"), &[], Done::Encrypted),
        start(Store::openshift4(), &["--for-etcd", "3.4"], Done::Stripped),
    ]);
}

#[test]
fn etcd_3_5_starts_on_what_older_and_newer_releases_wrote() {
    let start = |store, ways, done| Start::new(store, Release::V3_5, ways, done);
    judge_all(vec![
        start(Store::version("3.4"), &[], Done::Rotated),
        start(Store::version("3.5"), &["--drop-history", "--format", "db"], Done::Rotated),
        start(Store::version("3.6"), &["--for-etcd", "3.5"], Done::Rotated),
        start(Store::version("3.7"), &["--for-etcd", "3.5", "--drop-history"], Done::Stripped),
        start(Store::kubeadm(), &["--for-etcd", "3.5", "--drop-history"], Done::Rotated),
        start(Store::apiserver(), &["--for-etcd", "3.5"], Done::Rotated),
        start(Store::openshift4(), &[], Done::Rotated),
        start(Store::k3s(), &["--drop-history"], Done::Rotated),
        start(Store::kubeadm(), &["--for-etcd", "3.5"], Done::Encrypted),
        start(Store::openshift3(), &["--drop-history"], Done::Encrypted),
        start(Store::version("3.6-pages-16k"), &["--for-etcd", "3.5", "--format", "snapshot"], Done::Rotated),
    ]);
}

#[cfg(feature = "kms")]
#[test]
fn etcd_starts_on_what_was_under_kms() {
    let start = Start::new;
    judge_all(vec![
        start(Store::kms(), Release::V3_4, &["--for-etcd", "3.4"], Done::Rotated),
        start(Store::kms(), Release::V3_5, &["--for-etcd", "3.5", "--drop-history"], Done::Rotated),
        start(Store::kms(), Release::V3_5, &["--for-etcd", "3.5"], Done::Stripped),
        start(Store::kms(), Release::V3_4, &["--for-etcd", "3.4", "--drop-history"], Done::Encrypted),
    ]);
}

/// A store with all that may stand in one; the last thing that happened to it is a deletion.
fn busy(server: &Server) -> i64 {
    let key = |index: usize| format!("store/{index:02}");
    (0..20).for_each(|index| server.put(key(index), format!("value {index}").as_bytes()));
    (0..5).for_each(|index| server.put(key(index), b"again"));
    server.put_with_lease("leased/one", b"for a day");
    server.transact(&["put both/a 1", "put both/b 2", "del store/03", "put store/04 three"]);
    server.compact(12);
    server.transact(&["del both/a", "put both/c 3"]);
    server.put_with_lease("both/a", b"is back with a lease");
    server.delete("store/07");
    server.put("store/08", b"");
    server.delete("store/11");
    server.revision()
}

#[test]
fn without_history_a_store_is_what_the_server_makes_of_it_when_it_compacts() {
    let folder = temporary();
    let identity = configuration(&folder, "identity", "none", &["secrets"]);
    thread::scope(|scope| {
        for release in Release::ALL {
            let (folder, identity) = (&folder, &identity);
            scope.spawn(move || {
                let server = Server::start(release);
                let revision = busy(&server);
                let snapshot = server.snapshot();
                let output = folder.path().join(format!("{release:?}.db"));
                let run = rewrite(argument(&snapshot), &output, &["--to", identity, "--drop-history"]);
                assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
                let report = run.json();
                assert_eq!((report["revision"].as_i64(), report["history"].as_i64()), (Some(revision), Some(0)));

                server.compact(revision);
                let restored = Server::restore(release, &output);
                let numbers = |server: &Server| server.all().into_iter().map(record).collect::<Vec<_>>();
                assert_eq!(numbers(&restored), numbers(&server), "{release:?}");
                assert_eq!(restored.revision(), revision);
                assert_eq!(restored.hashkv(), server.hashkv(), "{release:?}");
                assert_eq!(whole(&output)["hashkv"], restored.hashkv(), "{release:?}");
                the_same_records(&server, &output);
                lives(&restored, revision);
            });
        }
    });
}

/// What the server's own compaction left in the tree; releases before 3.4.34 and 3.5.16 drop the last deletion, too.
fn the_same_records(server: &Server, output: &Path) {
    let compacted = walk::records(argument(&server.snapshot()));
    let mut ours = walk::records(argument(output));
    let deletion = ours.pop().expect("the deletion at the current revision");
    assert!(deletion.tombstone && deletion.key == b"store/11");
    let theirs: Vec<_> = compacted.into_iter().filter(|record| *record != deletion).collect();
    assert_eq!(ours, theirs);
    let check = atrest(&["check", argument(output), "-o", "json"]).json();
    assert_eq!(check["revision"].as_i64(), Some(deletion.main));
}
