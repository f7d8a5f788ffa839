//! Every store that a real server wrote: on other keys, decrypted, and encrypted again, with its history and without it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::super::damage::harm;
use super::super::etcdutl;
use super::super::program::{argument, audit, cell, temporary, testdata};
#[cfg(feature = "kms")]
use super::super::stand_in::{Plugin, honest};
use super::super::walk::{self, Record};
use super::{Opener, but_value, configuration, left, nothing_else_is_left, rewrite, whole};

/// A store, and what it is to be put under.
pub struct Store {
    pub source: String,
    /// What its values are under.
    pub current: Vec<String>,
    /// What they are to be under.
    pub target: String,
    /// What the payload of each live object hashes to, by key; none where the value was tampered with.
    pub truth: BTreeMap<String, Option<String>>,
    /// What the store needs beside that.
    pub more: Vec<String>,
    /// The exit codes of a change of keys, and of decrypting.
    pub exits: [i32; 2],
    /// Where the results are.
    pub home: TempDir,
    /// What opens its values, as long as the store is in use.
    #[cfg(feature = "kms")]
    #[expect(dead_code, reason = "they are stopped when they are dropped")]
    plugins: Vec<Plugin>,
}

impl Store {
    fn new(source: &str, current: &str, truth: &str, target: (&str, &[&str])) -> Self {
        let home = temporary();
        let target = configuration(&home, target.0, "new", target.1);
        let current = Vec::from_iter(Some(current).filter(|name| !name.is_empty()).map(testdata));
        Self {
            source: testdata(source),
            current,
            target,
            truth: truth_of(truth),
            more: Vec::new(),
            exits: [0, 0],
            home,
            #[cfg(feature = "kms")]
            plugins: Vec::new(),
        }
    }

    fn with(self, more: &[&str], exits: [i32; 2]) -> Self {
        Self { more: more.iter().map(|more| more.to_string()).collect(), exits, ..self }
    }

    /// etcd 3.6, all of the keys at hand, two values that nobody can open.
    pub fn kubeadm() -> Self {
        let store = Self::new("kubeadm/snapshot.db", "kubeadm/all-keys.json", "kubeadm/truth.jsonl", ("aescbc", &[]));
        Self { target: testdata("kubeadm/target-config.yaml"), ..store }.with(&["--keep-unreadable"], [1, 1])
    }

    /// A real kube-apiserver's, on etcd 3.7.
    pub fn apiserver() -> Self {
        let resources = ["secrets", "configmaps", "widgets.example.com"];
        Self::new("apiserver/snapshot.db", "apiserver/encryption-config.yaml", "", ("aescbc", &resources))
    }

    pub fn openshift3() -> Self {
        let target = ("secretbox", &["secrets", "configmaps"][..]);
        Self::new("openshift3/snapshot.db", "openshift3/encryption-config.yaml", "openshift3/truth.jsonl", target)
    }

    /// Two of its three API servers have configurations that are not given.
    pub fn openshift4() -> Self {
        let target = ("aesgcm", &["secrets", "configmaps"][..]);
        let store = Self::new("openshift4/snapshot_2026-11-20_040506.db", "", "openshift4/truth.jsonl", target);
        let current = store.home.path().join("encryption-config");
        configuration_of_openshift4(&current);
        let exits = [0, 1];
        Self { current: vec![argument(&current).to_owned()], ..store }
            .with(&["--keep-distro-state", "--keep-unreadable"], exits)
    }

    pub fn k3s() -> Self {
        let target = ("secretbox", &["secrets"][..]);
        Self::new("k3s/snapshot.db", "k3s/encryption-config.json", "k3s/truth.jsonl", target)
            .with(&["--keep-distro-state"], [0, 0])
    }

    /// Values of both versions of KMS, their plugins running.
    #[cfg(feature = "kms")]
    pub fn kms() -> Self {
        let plugins = vec![Plugin::start(honest("v2", "1")), Plugin::start(honest("v1beta1", "1"))];
        let endpoints = ["cloud-kms", "ack-kms"].iter().zip(&plugins);
        let endpoints: Vec<_> =
            endpoints.map(|(name, plugin)| format!("--kms-endpoint={name}={}", plugin.endpoint())).collect();
        let store =
            Self::new("kms/snapshot.db", "kms/encryption-config.yaml", "kms/truth.jsonl", ("aescbc", &["secrets"]));
        let more = [&["--kms", "--quiet"][..], &endpoints.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        Self { plugins, ..store }.with(&more, [0, 0])
    }

    /// The small keyspace of this release.
    pub fn version(release: &str) -> Self {
        let truth = format!("versions/truth-{}.jsonl", release.trim_end_matches("-pages-16k"));
        let target = ("aescbc", &["secrets"][..]);
        Self::new(&format!("versions/etcd-{release}.db"), "versions/encryption-config.json", &truth, target)
    }

    /// Where a result is.
    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Its values on the target's keys.
    #[track_caller]
    pub fn rotated(&self, name: &str, more: &[&str]) -> PathBuf {
        self.rewritten(&self.source, name, self.exits[0], &[&self.from()[..], &["--to", &self.target], more].concat())
    }

    /// Its values as plaintext.
    #[track_caller]
    pub fn stripped(&self, name: &str, more: &[&str]) -> PathBuf {
        self.rewritten(&self.source, name, self.exits[1], &[&self.from()[..], &["--strip"], more].concat())
    }

    /// Its values as plaintext, and then under the target.
    #[track_caller]
    pub fn encrypted(&self, name: &str, more: &[&str]) -> PathBuf {
        let stripped = self.stripped(&format!("stripped-{name}"), more);
        self.encrypted_from(&stripped, name, more)
    }

    #[track_caller]
    fn encrypted_from(&self, stripped: &Path, name: &str, more: &[&str]) -> PathBuf {
        // Plaintext needs no plugins.
        let state = self.more.iter().map(String::as_str).filter(|argument| !argument.starts_with("--kms"));
        let arguments: Vec<_> = ["--to", &self.target].into_iter().chain(state).chain(more.iter().copied()).collect();
        self.rewritten(argument(stripped), name, self.exits[1], &arguments)
    }

    fn from(&self) -> Vec<&str> {
        let current = self.current.iter().flat_map(|path| ["-c", path]);
        current.chain(self.more.iter().map(String::as_str)).collect()
    }

    #[track_caller]
    fn rewritten(&self, source: &str, name: &str, exit: i32, arguments: &[&str]) -> PathBuf {
        let output = self.path(name);
        let run = rewrite(source, &output, arguments);
        assert_eq!(run.code, exit, "{name} of {}: {}{}", self.source, run.text(), run.err);
        let report = serde_json::from_slice::<Value>(&run.out).unwrap();
        assert_eq!((&report["proved"], &report["output"]["path"]), (&json!(true), &json!(argument(&output))));
        output
    }

    /// All three, with history and without it.
    fn in_every_way(&self) {
        for drop_history in [false, true] {
            let more = if drop_history { &["--drop-history"][..] } else { &[] };
            let rotated = self.rotated(&format!("rotated-{drop_history}.db"), more);
            self.holds(
                &rotated,
                Path::new(&self.source),
                drop_history,
                &Opener::new(std::slice::from_ref(&self.target)),
            );
            self.is_served(&rotated);

            let stripped = self.stripped(&format!("stripped-{drop_history}.db"), more);
            self.holds(&stripped, Path::new(&self.source), drop_history, &Opener::without_configuration());
            self.is_plaintext(&stripped);

            let encrypted = self.encrypted_from(&stripped, &format!("encrypted-{drop_history}.db"), &[]);
            self.holds(&encrypted, &stripped, drop_history, &Opener::new(std::slice::from_ref(&self.target)));
            self.is_served(&encrypted);
        }
    }

    /// Everything that is the same for whatever a store is rewritten to.
    #[track_caller]
    fn holds(&self, path: &Path, source: &Path, drop_history: bool, opener: &Opener) {
        let check = whole(path);
        let status = etcdutl::snapshot_status(path);
        assert_eq!(
            (&check["hash"], &check["revision"], &check["totalSize"]),
            (&json!(status.hash), &json!(status.revision), &json!(status.total_size)),
            "{}",
            path.display()
        );
        if drop_history {
            assert_eq!(check["hashkv_compact_revision"], check["revision"], "{}", path.display());
        }
        let records = walk::records(argument(path));
        let expected = left(walk::records(argument(source)), drop_history);
        assert_eq!(records.len(), expected.len(), "{}", path.display());
        for (record, expected) in records.iter().zip(&expected) {
            assert_eq!(but_value(record), but_value(expected), "{}", path.display());
        }
        nothing_else_is_left(path);
        if check["page_size"] == json!(harm::PAGE) {
            assert_eq!(read_with_nut(path, &check), records.iter().map(stored).collect(), "{}", path.display());
        }
        self.opens(&records, opener);
    }

    /// Every live object opens to what upstream's code put in, where the truth knows it, and to what the source held.
    #[track_caller]
    fn opens(&self, records: &[Record], opener: &Opener) {
        let (live, sources, current) = (live(records), self.sources(), Opener::new(&self.current));
        for (key, expected) in &self.truth {
            let record = &live[key.as_bytes()];
            let source = &sources[&(record.main, record.sub)];
            let Some(expected) = expected.as_ref() else {
                assert_eq!(record.value, source.value, "{key} stays as it is");
                continue;
            };
            match opener.open(record) {
                Some((opened, stale)) => assert_eq!((hex(&Sha256::digest(opened)), stale), (expected.clone(), false)),
                // No given configuration speaks for it.
                None => assert_eq!(record.value, source.value, "{key} does not open and was changed"),
            }
        }
        for record in records.iter().filter(|record| !record.tombstone) {
            let source = &sources[&(record.main, record.sub)];
            if let Some((opened, _)) = current.open(source) {
                let told = opener.open(record).map(|(opened, _)| opened);
                assert!(told == Some(opened), "{:?} at {}", walk::shown(&record.key), record.main);
            }
        }
    }

    /// The source's records by revision.
    fn sources(&self) -> HashMap<(i64, i64), Record> {
        walk::records(&self.source).into_iter().map(|record| ((record.main, record.sub), record)).collect()
    }

    /// The audit says that a kube-apiserver with the target alone serves what the truth knows, and writes it so.
    #[track_caller]
    fn is_served(&self, path: &Path) {
        let rows = audit(argument(path), &[&self.target], &["-o", "csv"]).rows();
        let rows: HashMap<_, _> = rows.iter().map(|row| (cell(row, "key"), row)).collect();
        let mut served = 0;
        for (key, _) in self.truth.iter().filter(|(_, digest)| digest.is_some()) {
            let row = rows[key.as_str()];
            if cell(row, "readable") != "unknown" {
                assert_eq!((cell(row, "readable"), cell(row, "stale")), ("yes", "no"), "{row:#?}");
                served += 1;
            }
        }
        assert!(served > 0 || self.truth.is_empty());
    }

    /// What opens with the source's configurations is stored as what it holds, history included.
    #[track_caller]
    fn is_plaintext(&self, path: &Path) {
        let (opener, sources) = (Opener::new(&self.current), self.sources());
        let mut opened = 0;
        for record in walk::records(argument(path)).iter().filter(|record| !record.tombstone) {
            if let Some((plaintext, _)) = opener.open(&sources[&(record.main, record.sub)]) {
                assert!(record.value == plaintext, "{}", walk::shown(&record.key));
                opened += usize::from(!record.value.starts_with(b"k8s:enc:"));
            }
        }
        assert!(opened > 20);
    }
}

/// The newest record of each key that is not deleted.
pub fn live(records: &[Record]) -> BTreeMap<&[u8], &Record> {
    let mut live = BTreeMap::new();
    for record in records {
        match record.tombstone {
            true => live.remove(&record.key[..]),
            false => live.insert(&record.key[..], record),
        };
    }
    live
}

/// The digests of payloads by key.
fn truth_of(name: &str) -> BTreeMap<String, Option<String>> {
    let text = if name.is_empty() { String::new() } else { fs::read_to_string(testdata(name)).unwrap() };
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    lines.map(|line| (text(&line["key"]).unwrap(), text(&line["plaintext_sha256"]))).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes kube-apiserver's newest configuration out of the backup.
fn configuration_of_openshift4(path: &Path) {
    let backup = File::open(testdata("openshift4/static_kuberesources_2026-11-20_040506.tar.gz")).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(backup));
    let wanted = "static-pod-resources/kube-apiserver-pod-12/secrets/encryption-config/encryption-config";
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = entries.find(|entry| entry.path().unwrap().ends_with(wanted)).expect("revision 12");
    std::io::copy(&mut entry, &mut File::create(path).unwrap()).unwrap();
}

/// A record as a pair of the bucket `key`.
fn stored(record: &Record) -> (Vec<u8>, Vec<u8>) {
    let mut key = [&record.main.to_be_bytes()[..], b"_", &record.sub.to_be_bytes()].concat();
    key.extend(record.tombstone.then_some(b't'));
    (key, record.value.clone())
}

/// The bucket `key` as the crate `nut` reads it, a port of boltdb. It needs a freelist page, which etcd's files have not;
/// so a copy is given one.
fn read_with_nut(path: &Path, check: &Value) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut bytes = fs::read(path).unwrap();
    let pages = check["pages"].as_u64().unwrap() as usize;
    bytes.resize((pages + 1) * harm::PAGE, 0);
    harm::add_freelist(&mut bytes, pages, 0, &[]);
    harm::metas(&mut bytes, 56, &(pages as u64 + 1).to_le_bytes());
    let copy = temporary();
    fs::write(copy.path().join("copy.db"), bytes).unwrap();
    let database = nut::DBBuilder::new(copy.path().join("copy.db")).read_only(true).build().unwrap();
    let transaction = database.begin_tx().unwrap();
    let bucket = transaction.bucket(b"key").unwrap();
    let mut found = BTreeMap::new();
    let insert = |key: &[u8], value: Option<&[u8]>| {
        found.insert(key.to_vec(), walk::record(key, value.unwrap_or_default()).value);
        Ok::<(), String>(())
    };
    bucket.for_each(Box::new(insert)).unwrap();
    drop(bucket);
    found
}

#[test]
fn kubeadms_rotation_that_went_wrong_is_brought_to_its_end() {
    Store::kubeadm().in_every_way();
}

#[test]
fn what_a_real_kube_apiserver_wrote_goes_to_another_provider_and_back() {
    let store = Store::apiserver();
    store.in_every_way();
    // The truth of this one is what its values hold, which `holds` compares; so all of them must be open to it.
    let records = walk::records(&store.source);
    let opener = Opener::new(&store.current);
    assert!(records.iter().filter(|record| !record.tombstone).all(|record| opener.open(record).is_some()));
}

#[test]
fn openshift_3_with_two_roots_is_rewritten() {
    Store::openshift3().in_every_way();
}

#[test]
fn openshift_4_is_rewritten_as_far_as_configurations_speak_for_it() {
    Store::openshift4().in_every_way();
}

#[test]
fn k3s_is_rewritten_with_its_own_record_as_it_was() {
    let store = Store::k3s();
    store.in_every_way();
    let bootstrap = |path: &str| -> Vec<Record> {
        walk::records(path).into_iter().filter(|record| record.key.starts_with(b"/bootstrap/")).collect()
    };
    let before = bootstrap(&store.source);
    assert_eq!((before.len(), bootstrap(argument(&store.path("rotated-false.db"))) == before), (2, true));
}

#[test]
fn the_stores_of_each_release_of_etcd_are_rewritten() {
    let releases = ["3.4", "3.5", "3.6", "3.7", "3.6-pages-16k"];
    std::thread::scope(|scope| {
        for release in releases {
            scope.spawn(move || Store::version(release).in_every_way());
        }
    });
}

#[cfg(feature = "zip")]
#[test]
fn the_zip_of_rke2_is_rewritten_but_for_the_two_secrets_on_the_key_that_was_removed() {
    let store = Store::new(
        "rke2/on-demand-server-1-1763600000.zip",
        "rke2/encryption-config.json",
        "rke2/truth.jsonl",
        ("secretbox", &["secrets"]),
    );
    let store = store.with(&["--keep-distro-state", "--keep-unreadable"], [1, 1]);
    let rotated = store.rotated("rotated.db", &[]);
    let (records, opener) = (walk::records(argument(&rotated)), Opener::new(std::slice::from_ref(&store.target)));
    whole(&rotated);
    let mut kept = 0;
    for (key, digest) in &store.truth {
        let record = live(&records)[key.as_bytes()].clone();
        match opener.open(&record) {
            Some((opened, stale)) => {
                assert_eq!((Some(hex(&Sha256::digest(opened))), stale), (digest.clone(), false), "{key}");
            }
            None => {
                assert!(record.value.starts_with(b"k8s:enc:aescbc:v1:aescbckey:"), "{key}");
                kept += 1;
            }
        }
    }
    assert_eq!(kept, 2);
}

#[cfg(feature = "kms")]
#[test]
fn values_under_kms_are_decrypted_and_put_under_a_static_key() {
    let store = Store::kms();
    for more in [&[][..], &["--drop-history"]] {
        let drop_history = !more.is_empty();
        let rotated = store.rotated(&format!("rotated-{drop_history}.db"), more);
        let opener = Opener::new(std::slice::from_ref(&store.target));
        store.holds(&rotated, Path::new(&store.source), drop_history, &opener);
        store.is_served(&rotated);
        let stripped = store.stripped(&format!("stripped-{drop_history}.db"), more);
        store.holds(&stripped, Path::new(&store.source), drop_history, &Opener::without_configuration());
        for records in [&rotated, &stripped].map(|path| walk::records(argument(path))) {
            assert!(records.iter().all(|record| !record.value.starts_with(b"k8s:enc:kms:")));
        }
    }
    assert_eq!(store.truth.values().filter(|digest| digest.is_some()).count(), store.truth.len());
}
