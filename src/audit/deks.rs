//! The data keys that KMS plugins opened, and what they would have to be asked.
//!
//! Names of KMS providers are unique only within a configuration file, so each file has a table of its own. Before a plugin
//! is asked for anything, one pass over the store collects the distinct requests, since a cloud bills each call.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::kube::key::{Address, Roots};
use crate::kube::locator::Locator;
use crate::provider::kms::{DekRequest, DekTable, OwnedDekRequest};
use crate::provider::prefix::{self, Form, SealedKind};
use crate::source::residue::Stray;
use crate::source::scan::Visitor;
use crate::source::snapshot::{PassOptions, ReadError};
use crate::source::store::Reader;
use crate::source::{Record, Store};

use super::rules::{ChainRef, Guard, Rules};
use super::survey;

/// Opened data keys, by the chain whose values they open.
#[derive(Default)]
pub struct Deks {
    tables: Vec<DekTable>,
    /// For each chain the number of its table.
    by_chain: Vec<Option<usize>>,
    nothing: DekTable,
}

impl Deks {
    /// Takes a table for each configuration file, in their order.
    pub fn new(rules: &Rules, tables: Vec<DekTable>) -> Self {
        let by_chain = rules.candidates().map(|chain| rules.file_of(chain)).collect();
        Self { tables, by_chain, nothing: DekTable::new() }
    }

    /// The tables, one for each configuration file; none where nobody was asked.
    pub fn tables_mut(&mut self) -> &mut [DekTable] {
        &mut self.tables
    }

    /// The table for a chain's values; an empty one where nobody was asked.
    pub fn of(&self, chain: ChainRef) -> &DekTable {
        let number = self.by_chain.get(chain.index()).copied().flatten();
        number.and_then(|number| self.tables.get(number)).unwrap_or(&self.nothing)
    }
}

/// The distinct requests of one configuration file, each with the number of values that wait for its answer.
pub type Requests = Vec<(OwnedDekRequest, u64)>;

/// Collects what the plugins of each file would have to be asked, so that no value of the store waits: older revisions and
/// what is left of them included.
pub fn collect(
    store: &mut Store,
    rules: &Rules,
    roots: Option<Roots>,
    pass: PassOptions<'_>,
) -> Result<Vec<Requests>, ReadError> {
    let given = roots.is_some();
    let (visitors, unlisted) = read(store, rules, roots, pass)?;
    let visitors = match unlisted && !given {
        false => visitors,
        // A root was not among the sampled keys, so that its values were passed over.
        true => {
            let roots = survey::roots(store, pass)?;
            read(store, rules, Some(roots), pass)?.0
        }
    };
    Ok(by_file(rules, visitors))
}

/// What the plugins of each file would have to be asked to open the value that is stored at `key`.
pub fn collect_one(rules: &Rules, roots: &Roots, key: &[u8], value: &[u8]) -> Vec<Requests> {
    let files: Vec<_> = rules.candidates().map(|chain| rules.file_of(chain)).collect();
    let mut collector = Collector::new(rules, &files, Arc::new(roots.clone()));
    collector.value(key, value, true);
    by_file(rules, vec![collector.distinct])
}

/// The requests of each file, in order.
fn by_file(rules: &Rules, met: Vec<Distinct>) -> Vec<Requests> {
    let mut all: Vec<HashMap<OwnedDekRequest, u64>> = rules.files().map(|_| HashMap::new()).collect();
    for distinct in met {
        for (file, request, values) in distinct.requests {
            if let Some(requests) = all.get_mut(file) {
                *requests.entry(request).or_default() += values;
            }
        }
    }
    let sorted = |requests: HashMap<OwnedDekRequest, u64>| {
        let mut requests: Vec<_> = requests.into_iter().collect();
        requests.sort();
        requests
    };
    all.into_iter().map(sorted).collect()
}

/// Reads the file once, with the roots of a sample where none are given. Says also whether a key looks like an object's
/// below a root that is not among them.
fn read(
    store: &mut Store,
    rules: &Rules,
    roots: Option<Roots>,
    pass: PassOptions<'_>,
) -> Result<(Vec<Distinct>, bool), ReadError> {
    let pass = PassOptions { digest: false, ..pass };
    let files: Vec<_> = rules.candidates().map(|chain| rules.file_of(chain)).collect();
    let given = roots.map(Arc::new);
    let prepare = |reader: Reader<'_>| given.clone().unwrap_or_else(|| Arc::new(survey::sampled_roots(reader)));
    let collector = |roots: &Arc<Roots>| Collector::new(rules, &files, roots.clone());
    let visitors = store.pass(pass, prepare, collector)?.visitors;
    let unlisted = visitors.iter().any(|collector| collector.unlisted);
    Ok((visitors.into_iter().map(|collector| collector.distinct).collect(), unlisted))
}

struct Collector<'c> {
    rules: &'c Rules,
    files: &'c [Option<usize>],
    locator: Locator,
    /// Who guards what lies in a folder, by the number under which the locator remembers it.
    guards: Vec<Option<Guard>>,
    distinct: Distinct,
    recent: VecDeque<Recent>,
    unlisted: bool,
}

/// A request as it was met lately, told by the bytes that decide it.
struct Recent {
    chain: ChainRef,
    part: Vec<u8>,
    /// Which of the distinct requests it is; none where the value holds no envelope.
    request: Option<usize>,
}

/// So many recent requests are held against a value before its envelope is parsed. A server has one seed at a time.
const RECENT: usize = 16;

/// Guards of folders with greater numbers are not remembered.
const NUMBERED_FOLDERS: usize = 1 << 16;

impl Visitor for Collector<'_> {
    fn record(&mut self, record: &Record<'_>) {
        self.value(record.kv.key, record.kv.value, true);
    }

    const STRAYS: bool = true;

    fn stray(&mut self, stray: &Stray<'_>) {
        self.value(stray.kv.key, stray.kv.value, false);
    }
}

impl<'c> Collector<'c> {
    fn new(rules: &'c Rules, files: &'c [Option<usize>], roots: Arc<Roots>) -> Self {
        Self {
            rules,
            files,
            locator: Locator::new(roots),
            guards: Vec::new(),
            distinct: Distinct::default(),
            recent: VecDeque::new(),
            unlisted: false,
        }
    }

    fn value(&mut self, key: &[u8], value: &[u8], in_tree: bool) {
        let address = self.locator.locate(key);
        self.unlisted |= in_tree && address == Address::Foreign && self.locator.roots().unlisted(key);
        let is_kms = |kind| matches!(kind, SealedKind::KmsV1 | SealedKind::KmsV2);
        if !matches!(prefix::form(value), Form::Sealed(sealed) if is_kms(sealed.kind)) {
            return;
        }
        match self.guard(&address) {
            Guard::Chain(chain) => self.ask(chain, value),
            // Whichever chain it is in the end, it must not wait.
            Guard::Unsettled => self.rules.candidates().for_each(|chain| self.ask(chain, value)),
            Guard::Nobody => {}
        }
    }

    /// Who guards what was located last.
    fn guard(&mut self, address: &Address<'_>) -> Guard {
        let folder = self.locator.folder().map(|folder| folder as usize).filter(|folder| *folder < NUMBERED_FOLDERS);
        let Some(folder) = folder else { return self.rules.guard(address) };
        if self.guards.len() <= folder {
            self.guards.resize(folder + 1, None);
        }
        match self.guards.get_mut(folder) {
            Some(known) => *known.get_or_insert_with(|| self.rules.guard(address)),
            None => self.rules.guard(address),
        }
    }

    fn ask(&mut self, chain: ChainRef, value: &[u8]) {
        let file = self.files.get(chain.index()).copied().flatten();
        let (Some(file), Some(prepared)) = (file, self.rules.chain(chain)) else { return };
        let Some(part) = prepared.dek_part(value) else {
            for request in prepared.dek_requests(value) {
                self.distinct.count(file, &request);
            }
            return;
        };
        if let Some(recent) = self.recent.iter().find(|recent| recent.chain == chain && recent.part == part) {
            self.distinct.count_again(recent.request);
            return;
        }
        let request = prepared.dek_requests(value).map(|request| self.distinct.count(file, &request)).last();
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(Recent { chain, part: part.to_vec(), request });
    }
}

/// Requests that a worker met: looked up by their hash without copying them, copied when they are new.
#[derive(Default)]
struct Distinct {
    hasher: RandomState,
    /// Each with the number of its file, and of the values that wait for its answer.
    requests: Vec<(usize, OwnedDekRequest, u64)>,
    by_hash: HashMap<u64, Vec<usize>>,
}

impl Distinct {
    /// Counts a value, and tells which of the requests it waits for.
    fn count(&mut self, file: usize, request: &DekRequest<'_>) -> usize {
        let bucket = self.by_hash.entry(self.hasher.hash_one((file, request))).or_default();
        for number in bucket.iter() {
            if let Some((of, known, values)) = self.requests.get_mut(*number)
                && *of == file
                && same(known, request)
            {
                *values += 1;
                return *number;
            }
        }
        let number = self.requests.len();
        bucket.push(number);
        self.requests.push((file, request.to_owned(), 1));
        number
    }

    /// Counts a value that waits for the same as another did.
    fn count_again(&mut self, request: Option<usize>) {
        if let Some((.., values)) = request.and_then(|number| self.requests.get_mut(number)) {
            *values += 1;
        }
    }
}

fn same(known: &OwnedDekRequest, request: &DekRequest<'_>) -> bool {
    let owned = known.annotations.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
    known.encrypted_dek == request.encrypted_dek
        && known.key_id == request.key_id
        && known.provider == request.provider
        && known.version == request.version
        && known.source == request.source
        && owned.eq(request.annotations.iter().copied())
}
