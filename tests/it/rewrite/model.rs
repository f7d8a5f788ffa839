//! Stores that nobody wrote: random keys, revisions, deletions, leases, values from nothing to many pages under random keys,
//! rewritten in this process and held against a map of what was put in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;

use atrest::audit::deks::Deks;
use atrest::audit::rules::{ChainRef, Guard, Rules};
use atrest::bbolt::write::{Fill, Writer};
use atrest::config::{self, ApiServers};
use atrest::etcd::{KeyValue, Revision, RevisionKey};
use atrest::kube::key::Roots;
use atrest::rewrite::run::{self, End, Form, Out, Outcome, Request};
use atrest::rewrite::target::{RandomStream, Randomness, Target};
use atrest::source::check::{HashKvAt, check};
use atrest::source::snapshot::PassOptions;
use atrest::source::{Snapshot, Store};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::super::program::{argument, temporary, testdata};
use super::super::walk::{self, Record};
use super::{Opener, left};

/// One provider each, in front of identity; the first has nothing else.
const PROVIDERS: [(&str, usize); 5] =
    [("identity", 0), ("aescbc", 32), ("aescbc", 16), ("aesgcm", 24), ("secretbox", 32)];

/// The document of a configuration that writes Secrets with one of the [`PROVIDERS`], and reads with some others.
fn document(writer: usize, readers: &[usize]) -> String {
    let provider = |number: &usize| match PROVIDERS[*number] {
        ("identity", _) => json!({"identity": {}}),
        (kind, bytes) => {
            let secret: Vec<u8> = (0..bytes).map(|byte| (byte * 7 + number * 31 + 1) as u8).collect();
            let secret = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, secret);
            json!({ kind: {"keys": [{"name": format!("k{number}"), "secret": secret}]} })
        }
    };
    let rest = readers.iter().filter(|number| **number != writer);
    let providers: Vec<_> = [&writer].into_iter().chain(rest).map(provider).collect();
    json!({
        "kind": "EncryptionConfiguration",
        "apiVersion": "apiserver.config.k8s.io/v1",
        "resources": [{"resources": ["secrets"], "providers": providers}],
    })
    .to_string()
}

fn rules(documents: &[String]) -> Rules {
    let load = |document: &String| ("random.json".to_owned(), config::load(document.as_bytes()).unwrap());
    Rules::new(ApiServers::new(documents.iter().map(load).collect()).unwrap()).unwrap()
}

fn everything(writer: usize) -> Rules {
    rules(&[document(writer, &[0, 1, 2, 3, 4])])
}

fn chain_of(rules: &Rules, key: &[u8]) -> ChainRef {
    match rules.guard(&Roots::given(&["/registry"]).locate(key)) {
        Guard::Chain(chain) => chain,
        other => panic!("{other:?} of {}", walk::shown(key)),
    }
}

/// The same bytes for the same record, whoever asks and when.
#[derive(Clone, Copy)]
struct ByRevision(u8);

impl Randomness for ByRevision {
    fn stream(&self) -> Box<dyn RandomStream> {
        Box::new(*self)
    }
}

impl RandomStream for ByRevision {
    fn fill(&mut self, revision: &RevisionKey, bytes: &mut [u8]) -> io::Result<()> {
        let (main, sub) = (revision.revision.main as u8, revision.revision.sub as u8);
        let byte_at = |at: u8| at.wrapping_mul(13) ^ main ^ sub.rotate_left(4) ^ self.0;
        (0..).zip(bytes).for_each(|(at, byte)| *byte = byte_at(at));
        Ok(())
    }
}

/// One thing that happens to a key.
#[derive(Clone, Debug)]
struct Step {
    key: usize,
    /// Deleted, if it is there.
    deletes: bool,
    /// The number of a provider.
    provider: usize,
    bytes: usize,
    lease: i64,
    /// Whether it is in the transaction of the step before.
    together: bool,
}

fn any_step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![
        6 => 0..300_usize,
        3 => 0..5000_usize,
        1 => 9_000..40_000_usize,
    ];
    let lease = prop_oneof![3 => Just(0), 1 => any::<i64>().prop_map(|lease| lease | 1)];
    let rest = (bytes, lease, prop::bool::weighted(0.3));
    (0..12_usize, prop::bool::weighted(0.2), 0..PROVIDERS.len(), rest).prop_map(|(key, deletes, provider, rest)| Step {
        key,
        deletes,
        provider,
        bytes: rest.0,
        lease: rest.1,
        together: rest.2,
    })
}

/// What a key is; some address Secrets, others nothing.
fn key_of(number: usize) -> Vec<u8> {
    match number {
        0..8 => format!("/registry/secrets/ns-{}/name-{number}", number % 3).into_bytes(),
        8 => b"compact_rev_key".to_vec(),
        9 => b"\x00\xff\\ any bytes".to_vec(),
        10 => b"/registry/ranges/serviceips".to_vec(),
        _ => vec![b'k'; 700],
    }
}

/// A Secret as JSON, filled to about so many bytes; or any bytes where the key is no object's.
fn payload(number: usize, revision: i64, bytes: usize) -> Vec<u8> {
    let filling: Vec<u8> = (0..bytes).map(|at| b'a' + ((at as i64 * 31 + revision) % 26) as u8).collect();
    match number {
        0..8 => json!({
            "kind": "Secret",
            "apiVersion": "v1",
            "metadata": {"name": format!("name-{number}"), "namespace": format!("ns-{}", number % 3)},
            "stringData": {"filling": String::from_utf8(filling).unwrap()},
        })
        .to_string()
        .into_bytes(),
        _ => filling,
    }
}

/// A store as it was written, with what each value holds by revision.
struct Model {
    records: Vec<Record>,
    plaintexts: BTreeMap<(i64, i64), Vec<u8>>,
}

impl Model {
    fn of(steps: &[Step]) -> Self {
        let sealers: Vec<Rules> = (0..PROVIDERS.len()).map(everything).collect();
        let mut model = Self { records: Vec::new(), plaintexts: BTreeMap::new() };
        // By key: create revision and version, while it is there.
        let mut there: BTreeMap<usize, (i64, i64)> = BTreeMap::new();
        let (mut main, mut sub, mut touched) = (1, 0, BTreeSet::new());
        for step in steps {
            if step.deletes && !there.contains_key(&step.key) {
                continue;
            }
            // A transaction touches a key once.
            (main, sub) =
                if step.together && main > 1 && !touched.contains(&step.key) { (main, sub + 1) } else { (main + 1, 0) };
            if sub == 0 {
                touched.clear();
            }
            touched.insert(step.key);
            let mut record = Record { main, sub, key: key_of(step.key), ..Record::default() };
            if step.deletes {
                there.remove(&step.key);
                record.tombstone = true;
            } else {
                let (created, version) = there.entry(step.key).or_insert((main, 0));
                *version += 1;
                (record.create_revision, record.version, record.lease) = (*created, *version, step.lease);
                let plaintext = payload(step.key, main, step.bytes);
                record.value = match step.key {
                    0..8 => sealed(&sealers[step.provider], &record, &plaintext),
                    _ => plaintext.clone(),
                };
                model.plaintexts.insert((main, sub), plaintext);
            }
            model.records.push(record);
        }
        model
    }

    /// Writes it as a server would send it, but for the digest.
    fn file(&self, page_size: u32) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(&file, page_size, 77).unwrap();
        for name in ["alarm", "auth", "cluster"] {
            writer.bucket(name.as_bytes(), 3, Fill::ANYWHERE).unwrap().finish().unwrap();
        }
        let mut bucket = writer.bucket(b"key", 5, Fill::APPENDED).unwrap();
        for record in &self.records {
            let revision = Revision { main: record.main, sub: record.sub };
            let key = RevisionKey { revision, tombstone: record.tombstone }.encode();
            let mod_revision = if record.tombstone { 0 } else { record.main };
            let value = KeyValue {
                key: &record.key,
                create_revision: record.create_revision,
                mod_revision,
                version: record.version,
                value: &record.value,
                lease: record.lease,
            };
            bucket.push(&key, &value.encode()).unwrap();
        }
        bucket.finish().unwrap();
        let mut bucket = writer.bucket(b"meta", 0, Fill::ANYWHERE).unwrap();
        bucket.push(b"consistent_index", &9_u64.to_be_bytes()).unwrap();
        bucket.push(b"term", &2_u64.to_be_bytes()).unwrap();
        bucket.finish().unwrap();
        writer.finish().unwrap();
        file
    }
}

fn sealed(rules: &Rules, record: &Record, plaintext: &[u8]) -> Vec<u8> {
    let chain = rules.chain(chain_of(rules, &record.key)).unwrap();
    let key = RevisionKey { revision: Revision { main: record.main, sub: record.sub }, tombstone: false };
    let mut out = Vec::new();
    chain.seal(&record.key, plaintext, |bytes| ByRevision(99).fill(&key, bytes), &mut out).unwrap();
    out
}

/// Rewrites a file; gives the outcome and the bytes that were written.
fn rewritten(file: &File, request: &Request<'_>) -> (Outcome, Vec<u8>) {
    let mut store = Store::File(Snapshot::open(file.try_clone().unwrap()).unwrap());
    let named = tempfile::NamedTempFile::new().unwrap();
    let reopen = || File::open(named.path());
    let outcome =
        run::rewrite(&mut store, request, Some(&Out { file: named.as_file(), path: named.path(), reopen: &reopen }))
            .unwrap();
    (outcome, fs::read(named.path()).unwrap())
}

fn pass(threads: usize) -> PassOptions<'static> {
    PassOptions { digest: true, threads, progress: &|_| () }
}

/// Rewrites a store and holds the result against its model.
fn holds(model: &Model, page_size: u32, writer: Option<usize>, drop_history: bool, form: Form) {
    let target = match writer {
        Some(writer) => Target::configured(rules(&[document(writer, &[])])),
        None => Target::Plaintext,
    };
    let (current, deks) = (everything(1), Deks::default());
    let request = Request {
        drop_history,
        form: Some(form),
        pass: pass(2),
        roots: Some(Roots::given(&["/registry"])),
        ..Request::new(&current, &deks, &target)
    };
    let (outcome, bytes) = rewritten(&model.file(page_size), &request);
    let End::Proved(product) = &outcome.end else { panic!("{:?}", outcome.end) };
    assert_eq!(product.bytes, bytes.len() as u64);

    let folder = temporary();
    let path = folder.path().join("result.db");
    fs::write(&path, &bytes).unwrap();
    let mut snapshot = Snapshot::open(File::open(&path).unwrap()).unwrap();
    let report = check(&mut snapshot, pass(1), HashKvAt::Not).unwrap();
    assert_eq!((report.fault_count, snapshot.has_trailer()), (0, form == Form::Snapshot), "{:?}", report.faults);

    let (records, expected) = (walk::records(argument(&path)), left(model.records.clone(), drop_history));
    assert_eq!(records.len(), expected.len());
    assert_eq!(product.records, records.len() as u64);
    let chain_rules = match &target {
        Target::Configured { rules, .. } => Some(rules),
        Target::Plaintext => None,
    };
    for (record, expected) in records.iter().zip(&expected) {
        assert_eq!(super::but_value(record), super::but_value(expected));
        let Some(plaintext) = model.plaintexts.get(&(record.main, record.sub)) else { continue };
        let is_secret = record.key.starts_with(b"/registry/secrets/");
        match chain_rules.filter(|_| is_secret) {
            None => assert!(record.value == *plaintext),
            Some(rules) => {
                let opened = Opener::with(rules, record);
                assert!(opened == Some((plaintext.clone(), false)), "{}", walk::shown(&record.key));
            }
        }
    }
    let entries = walk::view(records, i64::MAX).iter().filter(|(kind, _)| *kind == walk::Kind::Entry).count();
    assert_eq!(outcome.rows.iter().map(|(_, count)| count.entries).sum::<u64>(), entries as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_store_is_what_went_in_whatever_it_is_rewritten_to(
        steps in prop::collection::vec(any_step(), 0..120),
        page_size in select(vec![4096_u32, 16_384, 65_536]),
        writer in prop::option::weighted(0.8, 0..PROVIDERS.len()),
        drop_history in any::<bool>(),
        form in select(vec![Form::Snapshot, Form::Database]),
    ) {
        holds(&Model::of(&steps), page_size, writer, drop_history, form);
    }
}

#[test]
fn values_as_large_as_etcd_takes_them_go_through() {
    let step = |key, bytes, provider| Step { key, deletes: false, provider, bytes, lease: 0, together: false };
    let steps: Vec<_> = [(0, 1_500_000, 1), (1, 10, 2), (2, 1_500_000, 4), (0, 1, 3), (9, 1_400_000, 0), (3, 4_000, 0)]
        .into_iter()
        .cycle()
        .take(12)
        .map(|(key, bytes, provider)| step(key, bytes, provider))
        .collect();
    let model = Model::of(&steps);
    for (writer, drop_history) in [(Some(1), false), (Some(3), true), (Some(4), false), (None, false)] {
        holds(&model, 4096, writer, drop_history, Form::Snapshot);
    }
}

#[test]
fn a_store_that_is_empty_or_holds_nothing_but_deletions_stays_a_store() {
    let put = Step { key: 1, deletes: false, provider: 1, bytes: 20, lease: 0, together: false };
    let delete = Step { deletes: true, ..put.clone() };
    for steps in [vec![], vec![put.clone()], vec![put.clone(), delete.clone()], vec![put.clone(), delete, put]] {
        for drop_history in [false, true] {
            for writer in [None, Some(4)] {
                holds(&Model::of(&steps), 4096, writer, drop_history, Form::Snapshot);
            }
        }
    }
}

#[test]
fn the_same_randomness_gives_the_same_bytes_with_any_number_of_threads() {
    let source = File::open(testdata("kubeadm/snapshot.db")).unwrap();
    let current = Opener::new(&[testdata("kubeadm/all-keys.json")]);
    let steps: Vec<_> = (0..400)
        .map(|n| Step {
            key: n * 7 % 12,
            deletes: n % 11 == 10,
            provider: n % 5,
            bytes: n * 977 % 9000,
            lease: 0,
            together: n % 4 == 0,
        })
        .collect();
    let (random, all) = (Model::of(&steps).file(4096), everything(1));
    let deks = Deks::default();
    for (source, current) in [(&source, current.rules()), (&random, &all)] {
        for (writer, _) in PROVIDERS.iter().enumerate().skip(1) {
            let target = Target::configured(rules(&[document(writer, &[0, 1, 2, 3, 4])]));
            for drop_history in [false, true] {
                let bytes = [1, 2, 8].map(|threads| {
                    let request = Request {
                        all: true,
                        keep_unreadable: true,
                        drop_history,
                        randomness: &ByRevision(0),
                        pass: pass(threads),
                        ..Request::new(current, &deks, &target)
                    };
                    let (outcome, bytes) = rewritten(source, &request);
                    assert!(matches!(outcome.end, End::Proved(_)), "{:?}", outcome.end);
                    (bytes, format!("{:?}", outcome.rows))
                });
                let [one, two, eight] = &bytes;
                assert!(one == two && one == eight, "{:?} {drop_history}", PROVIDERS[writer]);
            }
        }
    }
}
