//! The audit as a whole: one pass over the file, every value judged by the worker that reads it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::kube::key::{Address, Reserved, Roots};
use crate::kube::locator::Locator;
use crate::kube::payload::Encoding;
use crate::kube::select::{SelectError, Selected, Selection};
use crate::provider::plaintext::Plaintext;
use crate::source::datadir::LogFacts;
use crate::source::digest::{Digests, Trailer};
use crate::source::residue::Stray;
use crate::source::scan::Visitor;
use crate::source::sha256::Sha256;
use crate::source::shelf::ShelfError;
use crate::source::snapshot::{PassOptions, ReadError};
use crate::source::store::{Index, Reader, StorePass};
use crate::source::trace::{TAGS, TraceKey, TraceRoom, Traces, settle};
use crate::source::{Fault, Faults, Place, Record, Store, StoreMeta};

use super::class::{Class, Classes, Met, Names, Number, Scope, TOMBSTONE, Table};
use super::classify::{Verdict, judge};
use super::deks::Deks;
use super::finding::Finding;
use super::first_keys::{FirstKeys, first_keys, first_of_classes, keep_first};
use super::merge::Merge;
use super::nonces::{Again, Marked, Met as MetNonces, Nonces};
use super::residue::{self, StrayMark};
use super::rows::{RawRow, RowSink, Spill};
use super::rules::{Guard, Rules};
use super::summary::{Parts, Summary, Tally, summarise};
use super::survey;
use super::writes::{self, Versions};

/// Which rows are wanted beside the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsWanted {
    /// None.
    None,
    /// One for each record in the tree.
    Tree,
    /// Also one for each revision that is gone from the tree and still in the file.
    Residue,
}

/// What to audit, and how.
pub struct Options<'o> {
    /// Hashing, threads and progress.
    pub pass: PassOptions<'o>,
    /// Look at the store as it was at this revision.
    pub revision: Option<i64>,
    /// Where the API servers keep their objects; found by itself where it is not given.
    pub roots: Option<Roots>,
    /// Only these namespaces.
    pub namespaces: Vec<String>,
    /// Only these resources and names.
    pub selection: Selection,
    /// Which rows are wanted.
    pub rows: RowsWanted,
    /// The data keys that KMS plugins opened.
    pub deks: Deks,
    /// The file lies where its newest writes may be only in the log beside it.
    pub log_beside: bool,
}

/// Everything, hashed, with as many threads as there are processors; no rows, and nobody is told how far it is.
impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            pass: PassOptions { digest: true, threads: 0, progress: &|_| () },
            revision: None,
            roots: None,
            namespaces: Vec::new(),
            selection: Selection::default(),
            rows: RowsWanted::None,
            deks: Deks::default(),
            log_beside: false,
        }
    }
}

/// Everything that is known after an audit.
pub struct Audit {
    /// What adds up.
    pub summary: Summary,
    /// What rows are looked up in.
    pub context: Context,
    /// The rows, where they were asked for.
    pub rows: Option<Merge>,
    /// What etcd notes about itself.
    pub meta: StoreMeta,
    /// What is known of the log beside a database, where that was read.
    pub log: Option<LogFacts>,
    /// The revision that was looked at.
    pub revision: i64,
    /// Digests of the file, where they were asked for.
    pub digests: Option<Digests>,
    /// What is wrong with the file: the first faults by place.
    pub faults: Vec<Fault>,
    /// How many faults there are.
    pub fault_count: u64,
    /// Somebody wrote to the file during every try.
    pub unsteady: bool,
    /// What else whoever reads the report should know.
    pub notes: Vec<String>,
}

/// What turns a row's numbers into words again.
pub struct Context {
    /// The configurations.
    pub rules: Rules,
    /// The classes.
    pub table: Table,
    /// Where the API servers keep their objects.
    pub roots: Roots,
    /// What is to be said of single records beyond their class.
    pub marked: Marked,
}

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be read at all.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// Rows are sorted in a temporary file, and that failed.
    #[error("the rows cannot be sorted in a temporary file: {0}; TMPDIR can name another folder")]
    Spill(#[source] io::Error),
    /// What each record left cannot be read back.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// The selection names what nothing is called.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The revision was compacted away.
    #[error("revision {asked} was compacted away; the oldest that can be audited is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: i64,
        /// The compaction's revision.
        oldest: i64,
    },
    /// The revision is not reached yet.
    #[error("revision {asked} is in the future; the store is at {current}")]
    Future {
        /// What was asked for.
        asked: i64,
        /// The store's revision.
        current: i64,
    },
}

/// Audits a store.
pub fn audit(store: &mut Store, rules: Rules, options: &Options<'_>) -> Result<Audit, AuditError> {
    let spill = match options.rows {
        RowsWanted::None => None,
        RowsWanted::Tree | RowsWanted::Residue => Some(Spill::new().map_err(AuditError::Spill)?),
    };
    let (roots, selected) = survey::select(store, &rules, options)?;
    let classes = Classes::default();
    let key = TraceKey::random()?;
    let only_entries = store.gives_only_entries();
    let common =
        Common { rules: &rules, options, selected, spill: spill.as_ref(), classes: &classes, key, only_entries };
    let mut reading = read(store, &common, roots)?;
    let mut nonces = MetNonces::new(std::mem::take(&mut reading.nonces));
    nonces.look_for_originals(store, key, options.pass)?;
    let table = classes.into_table();
    let revision = revision(&reading, options)?;
    let mut tally = Tally::default();
    let traces = std::mem::take(&mut reading.traces);
    for part in settle(traces, Tally::default, |tally, records| tally.add(&table, records))? {
        tally += part;
    }
    let reader = store.reader(&reading.index);
    let mut first_keys = match only_entries {
        true => first_of_classes(std::mem::take(&mut reading.first), &table),
        false => first_keys(reader, &table, &mut tally),
    };
    let strays = residue::settle(std::mem::take(&mut reading.strays), reader, &key);
    residue::tally(&strays, reader, &table, &mut tally, &mut first_keys);
    let left = residue::offsets(&strays);
    let again = Again { reader, rules: &rules, deks: &options.deks, roots: &reading.roots, key };
    let mut repeats = nonces.settle(&left, &again);
    let marked = repeats.marked();
    let versions = writes::versions(std::mem::take(&mut reading.versions), &left, &table, &rules);
    if let (RowsWanted::Residue, Some(spill)) = (options.rows, &spill) {
        residue::rows(&strays, reader, (&rules, &options.deks), &reading.roots, &mut RowSink::new(spill));
    }
    let file = file_findings(store, &reading, options);
    let fault_count = reading.faults.total();
    let summary = summarise(Parts {
        rules: &rules,
        table: &table,
        tally: &tally,
        revisions: &reading.revisions,
        first_keys,
        repeats,
        versions,
        file,
        gaps: fault_count > 0 || reading.unsteady || reading.index.log().is_some_and(LogFacts::may_lack_writes),
    });
    let roots = Arc::unwrap_or_clone(reading.roots);
    Ok(Audit {
        summary,
        context: Context { rules, table, roots, marked },
        rows: spill.map(Spill::merge).transpose().map_err(AuditError::Spill)?,
        log: reading.index.log().cloned(),
        meta: reading.index.into_meta(),
        revision,
        digests: reading.digests,
        faults: reading.faults.into_sorted(),
        fault_count,
        unsteady: reading.unsteady,
        notes: reading.notes,
    })
}

/// What all workers share.
struct Common<'c> {
    rules: &'c Rules,
    options: &'c Options<'c>,
    selected: Option<Selected>,
    spill: Option<&'c Spill>,
    classes: &'c Classes,
    key: TraceKey,
    /// The store gives nothing but entries.
    only_entries: bool,
}

/// What a pass gave, the workers' parts put together.
struct Reading {
    index: Index,
    roots: Arc<Roots>,
    traces: Vec<Traces>,
    revisions: HashMap<u32, (i64, i64)>,
    strays: Vec<StrayMark>,
    nonces: Vec<Nonces>,
    versions: Vec<Versions>,
    /// Where there are only entries: the first keys of each class.
    first: FirstKeys,
    /// The last record's place and main revision, before any was left out.
    last: Option<(Place, i64)>,
    /// A key looks like an object's below a root that was not among the sampled keys.
    unlisted: bool,
    digests: Option<Digests>,
    faults: Faults,
    unsteady: bool,
    notes: Vec<String>,
}

/// Reads the file once; anew where its roots were not all among the sampled keys.
fn read(store: &mut Store, common: &Common<'_>, roots: Option<Roots>) -> Result<Reading, AuditError> {
    let given = roots.is_some();
    let reading = read_once(store, common, roots)?;
    if given || !reading.unlisted {
        return Ok(reading);
    }
    let roots = survey::roots(store, common.options.pass)?;
    if roots == *reading.roots { Ok(reading) } else { read_once(store, common, Some(roots)) }
}

fn read_once(store: &mut Store, common: &Common<'_>, roots: Option<Roots>) -> Result<Reading, AuditError> {
    let (given, room) = (roots.map(Arc::new), TraceRoom::new(common.key));
    let prepare = |reader: Reader<'_>| {
        common.spill.inspect(|spill| spill.clear());
        given.clone().unwrap_or_else(|| Arc::new(survey::sampled_roots(reader)))
    };
    let pass: StorePass<Worker<'_>> =
        store.pass(common.options.pass, prepare, |roots| Worker::new(common, roots.clone(), room.traces()))?;
    let mut reading = Reading {
        index: pass.index,
        roots: Arc::default(),
        traces: Vec::new(),
        revisions: HashMap::new(),
        strays: Vec::new(),
        nonces: Vec::new(),
        versions: Vec::new(),
        first: FirstKeys::new(),
        last: None,
        unlisted: false,
        digests: pass.digests,
        faults: pass.faults,
        unsteady: pass.unsteady,
        notes: pass.notes,
    };
    pass.visitors.into_iter().for_each(|worker| worker.finish(&mut reading));
    Ok(reading)
}

/// Judges what it reads.
struct Worker<'w> {
    common: &'w Common<'w>,
    locator: Locator,
    memory: Memory<'w>,
    traces: Traces,
    scratch: Plaintext,
    rows: Option<RowSink<'w>>,
    strays: Vec<StrayMark>,
    nonces: Nonces,
    versions: Versions,
    first: FirstKeys,
    last: Option<(Place, i64)>,
    unlisted: bool,
}

impl<'w> Worker<'w> {
    fn new(common: &'w Common<'w>, roots: Arc<Roots>, traces: Traces) -> Self {
        Self {
            common,
            locator: Locator::new(roots),
            memory: Memory::new(common.classes),
            traces,
            scratch: Plaintext::new(),
            rows: common.spill.map(RowSink::new),
            strays: Vec::new(),
            nonces: Nonces::new(common.key),
            versions: Versions::default(),
            first: FirstKeys::new(),
            last: None,
            unlisted: false,
        }
    }

    fn finish(self, reading: &mut Reading) {
        for (class, (oldest, newest)) in self.memory.scopes.iter().flat_map(|scope| scope.met.revisions()) {
            let seen = reading.revisions.entry(class).or_insert((oldest, newest));
            *seen = (seen.0.min(oldest), seen.1.max(newest));
        }
        reading.roots = self.locator.roots().clone();
        reading.traces.push(self.traces);
        reading.strays.extend(self.strays);
        reading.nonces.push(self.nonces);
        reading.versions.push(self.versions);
        for (class, keys) in self.first {
            keys.iter().for_each(|key| keep_first(reading.first.entry(class).or_default(), key));
        }
        reading.last = reading.last.max(self.last);
        reading.unlisted |= self.unlisted;
    }
}

impl Common<'_> {
    /// Whether a record's key is wanted at all.
    fn selects(&self, address: &Address<'_>) -> bool {
        let namespaces = &self.options.namespaces;
        if namespaces.is_empty() && self.selected.is_none() {
            return true;
        }
        let Address::Object(object) = address else { return false };
        let in_namespace = |wanted: &String| object.namespace == Some(wanted.as_str());
        (namespaces.is_empty() || namespaces.iter().any(in_namespace))
            && self.selected.as_ref().is_none_or(|selected| selected.matches(object))
    }
}

impl Visitor for Worker<'_> {
    fn record(&mut self, record: &Record<'_>) {
        let Record { place, revision, kv } = record;
        let main = revision.revision.main;
        self.last = self.last.max(Some((*place, main)));
        if self.common.options.revision.is_some_and(|at| main > at) {
            return;
        }
        let address = self.locator.locate(kv.key);
        self.unlisted |= address == Address::Foreign && self.locator.roots().unlisted(kv.key);
        if !self.common.selects(&address) {
            return;
        }
        if revision.tombstone {
            self.traces.leave(kv.key, *place, TOMBSTONE);
            push_row(&mut self.rows, record, TOMBSTONE, None, "");
            return;
        }
        let rules = self.common.rules;
        let memory = &mut self.memory;
        let scope = memory.scope(&address, kv.key, self.locator.folder(), rules);
        let guard = memory.scopes.get(scope).map_or(Guard::Nobody, |scope| scope.guard);
        let verdict = judge(rules, &self.common.options.deks, (&address, guard), kv.key, kv.value, &mut self.scratch);
        let class = memory.class(scope, &verdict, rules, main);
        let key = self.traces.leave(kv.key, *place, class);
        if self.common.only_entries {
            keep_first(self.first.entry(class).or_default(), kv.key);
        }
        self.nonces.note(&verdict, kv.value, *place);
        self.versions.note(verdict.kind, class, kv, key);
        if self.rows.is_some() {
            let detail = verdict.reason.map_or(String::new(), |reason| reason.to_string());
            push_row(&mut self.rows, record, class, verdict.encoding, &detail);
        }
    }

    fn end(&mut self) {
        self.rows.iter_mut().for_each(RowSink::flush);
    }

    const STRAYS: bool = true;

    fn stray(&mut self, stray: &Stray<'_>) {
        let kv = &stray.kv;
        let address = self.locator.locate(kv.key);
        if !self.common.selects(&address) {
            return;
        }
        let rules = self.common.rules;
        let memory = &mut self.memory;
        let scope = memory.scope(&address, kv.key, self.locator.folder(), rules);
        let guard = memory.scopes.get(scope).map_or(Guard::Nobody, |scope| scope.guard);
        let verdict = judge(rules, &self.common.options.deks, (&address, guard), kv.key, kv.value, &mut self.scratch);
        let class = memory.stray_class(scope, &verdict, rules);
        self.nonces.note_outside(&verdict, kv.value, stray.at);
        let key = self.common.key.digest(kv.key);
        self.versions.note_outside(verdict.kind, class, kv, key, stray.at);
        self.strays.push(StrayMark { revision: stray.revision, key, class, at: stray.at });
    }
}

/// What a worker remembers of the scopes it met, so that resolving and counting cost little for each record.
struct Memory<'w> {
    classes: &'w Classes,
    names: Names<'w>,
    /// Numbers of scopes by the part of a key before the object's name.
    folders: HashMap<Vec<u8>, usize>,
    /// The scopes of folders by the numbers under which the locator remembers them.
    numbered: Vec<Option<usize>>,
    scopes: Vec<MetScope>,
    /// Classes of what is outside the tree, whose revisions count for nothing.
    strays: HashMap<Class, u32>,
}

/// A scope that a worker met.
struct MetScope {
    number: Number,
    guard: Guard,
    met: Met,
}

/// Numbers of folders beyond so many are not made use of: a store whose folders oust each other gives one to every record.
const NUMBERED_FOLDERS: usize = 1 << 16;

impl<'w> Memory<'w> {
    fn new(classes: &'w Classes) -> Self {
        Self {
            classes,
            names: Names::new(classes),
            folders: HashMap::new(),
            numbered: Vec::new(),
            scopes: Vec::new(),
            strays: HashMap::new(),
        }
    }

    /// The index of the scope of what a key leads to. `number` is that of its folder, where there is one.
    fn scope(&mut self, address: &Address<'_>, key: &[u8], number: Option<u32>, rules: &Rules) -> usize {
        let number = number.map(|number| number as usize).filter(|number| *number < NUMBERED_FOLDERS);
        if let Some(Some(Some(index))) = number.map(|number| self.numbered.get(number)) {
            return *index;
        }
        let folder = match address {
            // All objects of a resource and namespace share what stands before their names.
            Address::Object(object) => key.get(..key.len().saturating_sub(object.name.len())).unwrap_or(key),
            // Keys that are no objects are few kinds; what they are decides, not what they are called.
            Address::Reserved(Reserved::Bootstrap) | Address::Foreign => b"foreign",
            Address::Reserved(_) => b"reserved",
        };
        let index = match self.folders.get(folder) {
            Some(index) => *index,
            None => {
                let number = self.classes.scope(&Scope::of(address));
                self.scopes.push(MetScope { number, guard: rules.guard(address), met: Met::default() });
                self.folders.insert(folder.to_vec(), self.scopes.len() - 1);
                self.scopes.len() - 1
            }
        };
        if let Some(number) = number {
            if self.numbered.len() <= number {
                self.numbered.resize(number + 1, None);
            }
            if let Some(place) = self.numbered.get_mut(number) {
                *place = Some(index);
            }
        }
        index
    }

    fn stray_class(&mut self, scope: usize, verdict: &Verdict<'_>, rules: &Rules) -> u32 {
        let Some(scope) = self.scopes.get(scope) else { return TAGS - 1 };
        let class = Class::of(scope.number, verdict, rules, &mut self.names);
        *self.strays.entry(class).or_insert_with(|| self.classes.number(class))
    }

    fn class(&mut self, scope: usize, verdict: &Verdict<'_>, rules: &Rules, main: i64) -> u32 {
        let Some(scope) = self.scopes.get_mut(scope) else { return TAGS - 1 };
        scope.met.number_of((scope.number, verdict), main, rules, &mut self.names)
    }
}

fn push_row(rows: &mut Option<RowSink<'_>>, record: &Record<'_>, class: u32, encoding: Option<Encoding>, detail: &str) {
    let Some(rows) = rows else { return };
    let Record { place, revision, kv } = record;
    rows.push(&RawRow {
        key: kv.key,
        place: *place,
        class,
        create_revision: kv.create_revision,
        mod_revision: revision.revision.main,
        version: kv.version,
        lease: kv.lease,
        value_bytes: kv.value.len() as u64,
        encoding,
        value_sha256: Sha256::of(kv.value),
        detail,
    });
}

/// The revision that is looked at, if the store has it.
fn revision(reading: &Reading, options: &Options<'_>) -> Result<i64, AuditError> {
    let current = reading.index.current_revision(reading.last.map(|(_, main)| main));
    let compacted = reading.index.meta().compacted();
    match (options.revision, compacted) {
        (Some(asked), _) if asked > current => Err(AuditError::Future { asked, current }),
        (Some(asked), Some(oldest)) if asked < oldest => Err(AuditError::Compacted { asked, oldest }),
        (asked, _) => Ok(asked.unwrap_or(current)),
    }
}

/// What is to be said of the log beside a database.
fn log_findings(log: &LogFacts, findings: &mut Vec<(Finding, Vec<String>)>) {
    let count = |count: u64, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    };
    if let (Some((first, last)), 1..) = (log.applied, log.writes) {
        let writes = count(log.writes, "write is only in the log", "writes are only in the log");
        let keys = count(log.keys, "key", "keys");
        let mut details = vec![format!("{writes} (entries {first} to {last}), of {keys}")];
        if log.auth {
            details
                .push("users must log in there, and whether each of them was allowed to was not looked at".to_owned());
        }
        findings.push((Finding::LogApplied, details));
    }
    if let Some((first, last, writes)) = log.maybe_committed {
        let writes = count(writes, "change", "changes");
        findings.push((Finding::MaybeCommitted, vec![format!("entries {first} to {last} ask for {writes}")]));
    }
    if log.running {
        findings.push((Finding::InUse, Vec::new()));
    }
}

/// How many faults a finding quotes.
const QUOTED_FAULTS: usize = 5;

fn file_findings(store: &Store, reading: &Reading, options: &Options<'_>) -> Vec<(Finding, Vec<String>)> {
    let mut findings = Vec::new();
    if !reading.faults.is_empty() {
        let faults = reading.faults.clone().into_sorted();
        let quoted = faults.iter().take(QUOTED_FAULTS).map(ToString::to_string);
        let total = reading.faults.total();
        let more = total.saturating_sub(QUOTED_FAULTS as u64);
        let rest = (more > 0).then(|| format!("and {more} more"));
        findings.push((Finding::FileDamaged, quoted.chain(rest).collect()));
    }
    if reading.digests.is_some_and(|digests| digests.trailer == Trailer::Mismatch) {
        findings.push((Finding::TrailerMismatch, Vec::new()));
    }
    if reading.unsteady {
        findings.push((Finding::FileUnsteady, Vec::new()));
    }
    if store.lost_its_trailer() {
        findings.push((Finding::NoTrailer, Vec::new()));
    }
    match reading.index.log() {
        Some(log) if log.found => log_findings(log, &mut findings),
        Some(_) => findings.push((Finding::LogOnly, Vec::new())),
        None if options.log_beside => findings.push((Finding::LogOnly, Vec::new())),
        None => {}
    }
    if store.lost_its_log() {
        findings.push((Finding::NoLog, Vec::new()));
    }
    findings
}
