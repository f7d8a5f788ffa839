//! What a damaged snapshot does to the check and the audit: faults, never a panic, a hang, or a silent loss.
//!
//! Every damaged file is looked at with one, two and eight threads, through the library and in this process, and judged
//! by [`judge`]. `harm` has the ways of damaging, those that have a name and random ones.

pub mod harm;

use std::fs;
use std::io::Write;
use std::path::Path;

use atrest::audit::finding::Finding;
use atrest::audit::rows;
use atrest::audit::rules::Rules;
use atrest::audit::run::{self, Audit, Options, RowsWanted};
use atrest::audit::summary::Answer;
use atrest::bbolt::{Fault, FaultKind};
use atrest::config::{self, ApiServers};
use atrest::source::check::{HashKvAt, check};
use atrest::source::digest::{Digests, Trailer};
use atrest::source::snapshot::PassOptions;
use atrest::source::{self, Snapshot};

use harm::{Harm, Random};

/// Far more than looking at these files takes, and far less than what they claim to hold.
const MEMORY_BOUND_KIB: u64 = 512 << 10;

/// Beside one. Eight are more than there are stretches in the smaller file, and more than most machines have processors.
const THREADS: [usize; 2] = [2, 8];

/// An undamaged snapshot, and what is in it.
struct Store {
    bytes: Vec<u8>,
    configuration: Vec<u8>,
    records: usize,
}

impl Store {
    /// etcd 3.6, four levels of leaves, branches and large values, every static provider.
    fn kubeadm() -> Self {
        Self::load("kubeadm/snapshot.db")
    }

    /// etcd 3.5, small enough for a thousand looks.
    fn small() -> Self {
        Self::load("versions/etcd-3.5.db")
    }

    fn load(snapshot: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let bytes = fs::read(folder.join(snapshot)).unwrap();
        let configuration = fs::read(folder.join("kubeadm/encryption-config.yaml")).unwrap();
        let mut store = Self { bytes, configuration, records: 0 };
        store.records = store.audited(&store.bytes, 1).unwrap().records();
        store
    }

    /// The file without its digest, so that nothing but the pages themselves can tell what is wrong with them.
    fn bare(mut self) -> Self {
        self.bytes.truncate(self.bytes.len() - 32);
        self
    }

    fn rules(&self) -> Rules {
        let configuration = config::load(&self.configuration).unwrap();
        Rules::new(ApiServers::new(vec![("encryption-config.yaml".into(), configuration)]).unwrap()).unwrap()
    }

    fn checked(&self, bytes: &[u8], threads: usize) -> Result<Checked, String> {
        let mut snapshot = open(bytes)?;
        let report = check(&mut snapshot, pass(threads), HashKvAt::Current).map_err(|error| error.to_string())?;
        let all = format!("{report:?}");
        Ok(Checked { all, faults: report.faults, fault_count: report.fault_count, digests: report.digests.unwrap() })
    }

    fn audited(&self, bytes: &[u8], threads: usize) -> Result<Audited, String> {
        let mut store = source::Store::File(open(bytes)?);
        let options = Options { pass: pass(threads), rows: RowsWanted::Residue, ..Options::default() };
        let audit = run::audit(&mut store, self.rules(), &options).map_err(|error| error.to_string())?;
        Ok(Audited::new(audit))
    }
}

fn open(bytes: &[u8]) -> Result<Snapshot, String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Snapshot::open(file).map_err(|error| error.to_string())
}

fn pass(threads: usize) -> PassOptions<'static> {
    PassOptions { digest: true, threads, progress: &|_| () }
}

/// What the check said.
#[derive(Debug, PartialEq)]
struct Checked {
    all: String,
    faults: Vec<Fault>,
    fault_count: u64,
    digests: Digests,
}

/// What the audit said. Numbers that depend on which worker came first are replaced by what they stand for.
#[derive(Debug, PartialEq)]
struct Audited {
    rows: Vec<String>,
    all: String,
    answer: Answer,
    faults: Vec<Fault>,
    fault_count: u64,
    says_damaged: bool,
}

impl Audited {
    /// Rows of records that the tree has.
    fn records(&self) -> usize {
        let residue = format!("{:?}", rows::RESIDUE);
        self.rows.iter().filter(|row| !row.contains(&residue)).count()
    }

    fn new(audit: Audit) -> Self {
        let Audit { summary, context, rows, meta, revision, digests, faults, fault_count, unsteady, notes: _ } = audit;
        let mut lines = Vec::new();
        let mut merge = rows.unwrap();
        let parts = std::iter::from_fn(|| merge.next_part().unwrap()).map(|part| part.read().unwrap());
        for (mut row, _) in parts.collect::<Vec<_>>().iter().flat_map(|batch| batch.raw()) {
            let class = context.table.get(row.class).map(|class| {
                let mut plain = *class;
                (plain.scope, plain.key_name, plain.kms_key_id) = (0, 0, 0);
                let names = [class.key_name, class.kms_key_id].map(|number| context.table.name_of(number));
                (context.table.scope_of(class).cloned(), names, plain)
            });
            row.class = 0;
            lines.push(format!("{row:?} {class:?}"));
        }
        let says_damaged = summary.findings.iter().any(|row| row.finding == Finding::FileDamaged);
        let all = format!("{summary:?} {meta:?} {revision} {digests:?} {unsteady} {:?}", context.roots);
        Self { rows: lines, all, answer: summary.answer, faults, fault_count, says_damaged }
    }
}

/// Looks at a damaged file in every way, and holds what is said against what is true. Gives the check's faults, or why
/// nothing can be read.
fn judge(store: &Store, name: &str, bytes: &[u8]) -> Result<Vec<Fault>, String> {
    judge_with(store, name, bytes, &THREADS)
}

fn judge_with(store: &Store, name: &str, bytes: &[u8], threads: &[usize]) -> Result<Vec<Fault>, String> {
    let (checked, audited) = (store.checked(bytes, 1), store.audited(bytes, 1));
    for &threads in threads {
        assert!(
            store.checked(bytes, threads) == checked,
            "{name}: the check says something else with {threads} threads"
        );
        assert!(
            store.audited(bytes, threads) == audited,
            "{name}: the audit says something else with {threads} threads"
        );
    }
    assert_eq!(checked.as_ref().err(), audited.as_ref().err(), "{name}");
    let (checked, audited) = (checked?, audited.unwrap());
    assert_eq!((&checked.faults, checked.fault_count), (&audited.faults, audited.fault_count), "{name}");
    for fault in &checked.faults {
        let whole_file = matches!(fault.kind, FaultKind::Truncated | FaultKind::Content("schema"));
        assert!(fault.page.is_some() || whole_file, "{name}: no place in {fault:?}");
    }
    let lost = store.records.saturating_sub(audited.records());
    let is_clean = checked.fault_count == 0 && checked.digests.trailer != Trailer::Mismatch;
    assert!(lost == 0 || !is_clean, "{name}: {lost} records are lost, and the check is clean");
    assert_eq!(audited.says_damaged, checked.fault_count > 0, "{name}");
    assert!(checked.fault_count == 0 || audited.answer == Answer::Incomplete, "{name}: {:?}", audited.answer);
    if Trailer::expected(bytes.len() as u64) && bytes != store.bytes {
        assert_eq!(checked.digests.trailer, Trailer::Mismatch, "{name}");
    }
    Ok(checked.faults)
}

fn judge_harm(store: &Store, (name, harm): &(String, Harm)) -> Result<Vec<Fault>, String> {
    let mut bytes = store.bytes.clone();
    harm(&mut bytes);
    judge(store, name, &bytes)
}

/// Every one of these must be noticed by the pages alone.
fn each_is_noticed(store: &Store, harms: Vec<(String, Harm)>) {
    let unnoticed = |harm: &(String, Harm)| judge_harm(store, harm).is_ok_and(|faults| faults.is_empty());
    let unnoticed: Vec<_> = harms.iter().filter(|harm| unnoticed(harm)).map(|(name, _)| name).collect();
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:#?}");
    memory_is_bounded();
}

/// The most that this process ever held. Tests that run beside this one count too.
fn memory_is_bounded() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    assert!(kib < MEMORY_BOUND_KIB, "{kib} KiB at the peak");
}

#[test]
fn an_undamaged_snapshot_has_no_fault() {
    for store in [Store::kubeadm(), Store::small()] {
        assert_eq!(judge(&store, "undamaged", &store.bytes), Ok(Vec::new()));
        assert_eq!(store.checked(&store.bytes, 1).unwrap().digests.trailer, Trailer::Ok);
        assert!(store.records > 100);
    }
}

#[test]
fn what_is_no_database_is_refused_with_the_reason() {
    let store = Store::small();
    let noise: Vec<u8> = Random::new(1).bytes(100_000);
    let cases: [(&[u8], &str); 6] = [
        (b"", "is empty"),
        (b"k", "no valid bbolt meta page"),
        (b"apiVersion: v1\nkind: Secret\n", "no valid bbolt meta page"),
        (&[0; 8192], "no valid bbolt meta page"),
        (&noise, "no valid bbolt meta page"),
        (&store.bytes[8192..], "no valid bbolt meta page"),
    ];
    for (bytes, expected) in cases {
        let error = judge(&store, expected, bytes).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_file_cut_at_any_place_is_read_as_far_as_it_goes() {
    let store = Store::small();
    let length = store.bytes.len();
    let mut random = Random::new(5);
    let edges =
        [16, 79, 80, 128, 4095, 4096, 4175, 4176, 8191, 8192, length - 4128, length - 33, length - 32, length - 1];
    let cuts = edges.into_iter().chain((0..60).map(|_| random.below(length)));
    for cut in cuts {
        let told = judge(&store, &format!("cut at {cut}"), &store.bytes[..cut]);
        // What is cut out of the digest behind the pages harms none of them.
        let pages_are_whole = cut >= length - 32;
        assert_eq!(told.is_ok_and(|faults| faults.is_empty()), pages_are_whole, "cut at {cut}");
    }
}

#[test]
fn a_digest_that_was_cut_off_whole_or_in_part_is_missed() {
    let store = Store::kubeadm();
    for rest in [0, 1, 16, 31] {
        let snapshot = open(&store.bytes[..store.bytes.len() - 32 + rest]).unwrap();
        assert!(snapshot.lost_its_trailer(), "{rest} bytes are left of it");
    }
    assert!(!open(&store.bytes).unwrap().lost_its_trailer());
}

#[test]
fn any_changed_byte_of_the_digest_is_a_mismatch() {
    let store = Store::small();
    let length = store.bytes.len();
    for at in length - 32..length {
        let mut bytes = store.bytes.clone();
        bytes[at] ^= 1;
        assert_eq!(judge(&store, "wrong digest", &bytes), Ok(Vec::new()));
    }
}

#[test]
fn lost_pages_are_noticed() {
    let store = Store::small().bare();
    let harms = harm::lost_pages(&store.bytes);
    each_is_noticed(&store, harms);
}

#[test]
fn wrong_fields_are_noticed() {
    let store = Store::small().bare();
    let harms = harm::wrong_fields(&store.bytes);
    each_is_noticed(&store, harms);
}

#[test]
fn wrong_ways_through_the_tree_are_noticed() {
    let store = Store::small().bare();
    let harms = harm::wrong_ways(&store.bytes);
    each_is_noticed(&store, harms);
}

#[test]
fn meta_records_that_lie_are_noticed() {
    let store = Store::small().bare();
    let harms = harm::lying_metas(&store.bytes);
    each_is_noticed(&store, harms);
}

#[test]
fn roots_that_lie_anywhere_lose_nothing_silently() {
    // With its digest: the root of an older transaction is a whole tree, and nothing in the pages says that it is old.
    let store = Store::small();
    for root in 0..store.bytes.len().div_ceil(harm::PAGE) as u64 {
        let mut bytes = store.bytes.clone();
        harm::metas(&mut bytes, 32, &root.to_le_bytes());
        let told = judge(&store, &format!("root at {root}"), &bytes);
        let is_right = root == harm::root(&store.bytes) as u64;
        assert!(!is_right || told.is_ok_and(|faults| faults.is_empty()), "root at {root}");
    }
}

#[test]
fn overflow_that_runs_into_other_pages_ends_there_and_costs_nothing() {
    let store = Store::kubeadm().bare();
    let pages = harm::live(&store.bytes);
    let last = store.bytes.len() / harm::PAGE - 1;
    let mut bytes = store.bytes.clone();
    for page in &pages {
        harm::put(&mut bytes, page.start() + 12, &((last - page.id) as u32).to_le_bytes());
    }
    let faults = judge(&store, "all pages claim the rest of the file", &bytes).unwrap();
    let told = faults.iter().filter(|fault| fault.kind == FaultKind::ReachedTwice && fault.offset == Some(12));
    assert!(told.count() > pages.len() / 2);
    assert_eq!(store.audited(&bytes, 2).unwrap().records(), store.records);
}

#[test]
fn a_way_into_the_middle_of_a_large_value_takes_nothing_from_it() {
    let store = Store::kubeadm().bare();
    let pages = harm::live(&store.bytes);
    let branch = pages.iter().find(|page| page.is_branch).unwrap();
    let large = pages.iter().find(|page| page.overflow > 3).unwrap();
    let small = pages.iter().rfind(|page| !page.is_branch && page.overflow == 0).unwrap();
    let child = (0..branch.count).find(|index| harm::child(&store.bytes, branch, *index) == small.id).unwrap();
    let mut bytes = store.bytes.clone();
    harm::put(&mut bytes, branch.element(child) + 8, &(large.id as u64 + 2).to_le_bytes());
    assert!(judge(&store, "a stray child", &bytes).is_ok_and(|faults| !faults.is_empty()));
    assert_eq!(store.audited(&bytes, 2).unwrap().records(), store.records - small.count);
}

#[test]
fn a_freelist_is_held_against_the_tree() {
    let store = Store::small().bare();
    let free = harm::free(&store.bytes);
    let (own, listed) = (free[0], free[1..].iter().map(|id| *id as u64).collect::<Vec<_>>());
    let count = listed.len() as u16;
    let with = |count: u16, words: &[u64]| {
        let mut bytes = store.bytes.clone();
        harm::add_freelist(&mut bytes, own, count, words);
        judge(&store, "freelist", &bytes).unwrap()
    };
    let after = |first: u64| [&[first][..], &listed].concat();
    assert_eq!(with(count, &listed), []);
    assert_eq!(with(u16::MAX, &after(u64::from(count))), []);
    let in_use = harm::root(&store.bytes) as u64;
    let lies = [
        (count - 1, listed.clone()),
        (count + 1, after(in_use)),
        (count + 1, after(listed[0])),
        (count + 1, after(own as u64)),
        (count + 1, after(1)),
        (count + 1, after(u64::MAX)),
        (u16::MAX - 1, listed.clone()),
        (u16::MAX, after(u64::MAX)),
        (u16::MAX, after(1 << 61)),
    ];
    for (number, (count, words)) in lies.into_iter().enumerate() {
        let faults = with(count, &words);
        assert!(faults.iter().any(|fault| fault.kind == FaultKind::Freelist), "lie {number}: {faults:?}");
    }
}

#[test]
fn a_record_that_names_no_key_any_more_is_noticed() {
    let store = Store::small().bare();
    let is_full = |page: &&harm::Live| !page.is_branch && page.overflow == 0 && page.count > 4;
    let pages = harm::live(&store.bytes);
    let start = pages[1..].iter().find(is_full).unwrap().start();
    let begins_record = |window: &[u8]| window[0] == 0x0a && window[2..] == *b"/registr";
    let key = store.bytes[start..].windows(10).position(begins_record).unwrap();
    let mut bytes = store.bytes.clone();
    // The same field under a number that no release knows: readers pass over it.
    bytes[start + key] = 0x4a;
    let faults = judge(&store, "a key's field", &bytes).unwrap();
    assert_eq!(faults.iter().map(|fault| fault.kind).collect::<Vec<_>>(), [FaultKind::Content("record")]);
}

#[test]
fn buckets_that_hold_themselves_come_to_an_end() {
    let store = Store::small();
    let free = harm::free(&store.bytes);
    let (root, inner) = (free[0], free[1]);
    for held in [root, inner, harm::root(&store.bytes)] {
        let mut bytes = store.bytes.clone();
        harm::leaf_of_buckets(&mut bytes, root, inner);
        harm::leaf_of_buckets(&mut bytes, inner, held);
        harm::metas(&mut bytes, 32, &(root as u64).to_le_bytes());
        let error = judge(&store, "buckets within buckets", &bytes).unwrap_err();
        assert!(error.contains("has no bucket `key`") && error.contains("is led to twice"), "{error}");
    }
}

#[test]
fn one_meta_record_that_lies_is_outvoted_or_noticed() {
    let store = Store::small();
    for (page, txid) in [(0, 1_u64), (0, u64::MAX), (harm::PAGE, 1), (harm::PAGE, u64::MAX)] {
        let mut bytes = store.bytes.clone();
        harm::one_meta(&mut bytes, page, 64, &txid.to_le_bytes());
        // Both lead to the same tree, as in every snapshot, so it is the digest alone that tells.
        assert_eq!(judge(&store, "transaction id", &bytes), Ok(Vec::new()));
        harm::one_meta(&mut bytes, page, 32, &0_u64.to_le_bytes());
        let told = judge(&store, "transaction id and root", &bytes);
        assert_eq!(told.is_ok(), txid == 1, "meta at {page} of transaction {txid}");
    }
}

#[test]
fn a_thousand_random_harms_lose_nothing_silently() {
    let store = Store::small().bare();
    let pages = harm::live(&store.bytes);
    let (mut noticed, mut refused) = (0, 0);
    for seed in 0..1000 {
        let mut bytes = store.bytes.clone();
        harm::at_random(&mut bytes, &pages, &mut Random::new(seed));
        let threads = THREADS[seed as usize % THREADS.len()];
        match judge_with(&store, &format!("seed {seed}"), &bytes, &[threads]) {
            Ok(faults) => noticed += usize::from(!faults.is_empty()),
            Err(_) => refused += 1,
        }
    }
    assert!(noticed > 400 && refused > 50, "{noticed} and {refused} of a thousand would prove little");
    memory_is_bounded();
}
