//! Nonces that came twice under one key, and ciphertexts that stand under two keys of the store.
//!
//! Each sealed value leaves 16 bytes: a digest of its nonce, and where it stands. Where two digests meet, both values are read
//! and judged again, and only what they prove is said:
//!
//! * *Reuse*: the same key, the same nonce, and not the same ciphertext. Keys are the same if values open by the same secret,
//!   or have the same wrapped DEK; where nothing opens them, if they bear the same name. A value that does not open by the key
//!   of its name was not sealed with it: it is a damaged or moved copy, and proves nothing. Where nothing opens either, copies
//!   that were cut or changed are told by what damage leaves alone.
//! * *Copy*: the same nonce and the same ciphertext under two keys of the store. No API server writes that.
//!
//! AES-CBC has no nonce (`provider::nonce`). Its copies are found by their last blocks: among values that did not open, and,
//! where a value holds another object than its key says, among all others, for which the file is read once more.

use std::collections::{BTreeSet, HashMap, HashSet};

use rayon::prelude::*;

use crate::kube::key::Roots;
use crate::provider::kms::{DekRequest, OwnedDekRequest, dek_request};
use crate::provider::nonce::{TAG_BYTES, longest_name, split};
use crate::provider::plaintext::Plaintext;
use crate::provider::prefix::{self, Form, Sealed, SealedKind};
use crate::source::residue::Stray;
use crate::source::scan::Visitor;
use crate::source::snapshot::{PassOptions, ReadError};
use crate::source::store::Reader;
use crate::source::trace::TraceKey;
use crate::source::{KeyValue, Place, Record, Store};

use super::classify::{Told, Verdict, judge};
use super::deks::Deks;
use super::finding::{FindingSet, ValueFinding};
use super::first_keys::keep_first;
use super::pile::{Pile, gather};
use super::rules::Rules;

/// So many groups of values are named for each finding, and so many values of a group.
const NAMED: usize = 10;

/// The end of an AES-CBC value that tells it from all others.
const LAST_BLOCKS: usize = 32;

/// Where a value stands: a place of the tree, or an offset within the file. What is in the tree comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Spot(u64);

const OUTSIDE: u64 = 1 << 63;

impl Spot {
    fn in_tree(place: Place) -> Self {
        Self(u64::from(place.leaf) << 16 | u64::from(place.index))
    }

    fn outside(at: u64) -> Self {
        Self(OUTSIDE | at)
    }

    /// The place, or else the offset.
    fn place(self) -> Result<Place, u64> {
        match self.0 & OUTSIDE {
            0 => Ok(Place { leaf: (self.0 >> 16) as u32, index: self.0 as u16 }),
            _ => Err(self.0 & !OUTSIDE),
        }
    }
}

/// The nonces that a worker met.
pub struct Nonces {
    key: TraceKey,
    pile: Pile,
    /// Values outside the tree: digest and offset. Which of them count shows when all were seen.
    outside: Vec<(u64, u64)>,
    /// Digests of AES-CBC values that hold another object than their key says.
    moved: HashSet<u64>,
}

impl Nonces {
    /// None yet.
    pub fn new(key: TraceKey) -> Self {
        Self { key, pile: Pile::default(), outside: Vec::new(), moved: HashSet::new() }
    }

    /// Takes a value of the tree.
    pub fn note(&mut self, verdict: &Verdict<'_>, value: &[u8], place: Place) {
        if let Some(digest) = self.digest(verdict, value) {
            self.pile.push(digest, Spot::in_tree(place).0);
        }
    }

    /// Takes a value outside the tree.
    pub fn note_outside(&mut self, verdict: &Verdict<'_>, value: &[u8], at: u64) {
        if let Some(digest) = self.digest(verdict, value) {
            self.outside.push((digest, at));
        }
    }

    fn digest(&mut self, verdict: &Verdict<'_>, value: &[u8]) -> Option<u64> {
        let moved = verdict.findings.contains(ValueFinding::NameMismatch);
        if verdict.kind == Some(SealedKind::AesCbc) && verdict.opened_by.is_some() && !moved {
            return None;
        }
        let Form::Sealed(sealed) = prefix::form(value) else { return None };
        if sealed.kind == SealedKind::AesCbc {
            let digest = last_blocks(&self.key, value)?;
            if moved {
                self.moved.insert(digest);
            }
            return Some(digest);
        }
        let (nonce, _) = split(&sealed, name(verdict, &sealed)?)?;
        Some(short(self.key.digest(nonce)))
    }
}

fn short(digest: u128) -> u64 {
    digest as u64
}

fn last_blocks(key: &TraceKey, value: &[u8]) -> Option<u64> {
    value.last_chunk::<LAST_BLOCKS>().map(|last| short(key.digest(last)))
}

/// The name under which a value's nonce is looked for.
fn name<'v>(verdict: &'v Verdict<'_>, sealed: &Sealed<'v>) -> Option<&'v [u8]> {
    let is_kms = matches!(sealed.kind, SealedKind::KmsV1 | SealedKind::KmsV2);
    let is_settled = verdict.opened_by.is_some() || verdict.findings.contains(ValueFinding::WrongKey);
    if is_kms || is_settled { verdict.key_name.as_deref() } else { longest_name(sealed) }
}

/// All that is needed to read a value again and to judge it.
pub struct Again<'a> {
    /// Reads records again.
    pub reader: Reader<'a>,
    /// The configurations, and the data keys that were opened.
    pub rules: &'a Rules,
    /// See [`rules`](Self::rules).
    pub deks: &'a Deks,
    /// Where the API servers keep their objects.
    pub roots: &'a Roots,
    /// The key of this run's digests.
    pub key: TraceKey,
}

/// What was proved.
#[derive(Debug, Default)]
pub struct Repeats {
    /// One nonce twice under one key.
    pub reused: Shared,
    /// One ciphertext under two keys of the store.
    pub copied: Shared,
}

/// Values that share what they should not.
#[derive(Debug, Default)]
pub struct Shared {
    /// Distinct keys of the store.
    pub count: u64,
    /// The first of them.
    pub keys: Vec<Vec<u8>>,
    /// The first groups of values.
    pub groups: Vec<Together>,
    /// All values in the tree, and those outside of it by key and revision.
    in_tree: Vec<Place>,
    outside: Vec<(Vec<u8>, i64)>,
}

/// Values that share one nonce or one ciphertext.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Together {
    /// The first of the values.
    pub values: Vec<Named>,
    /// The provider.
    pub provider: &'static str,
    /// The name of the first value's key.
    pub key_name: String,
}

/// A value by its key and revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The etcd key.
    pub key: Vec<u8>,
    /// The main revision.
    pub revision: i64,
}

/// Settled findings by record, for rows.
#[derive(Debug, Default)]
pub struct Marked {
    in_tree: HashMap<Place, FindingSet>,
    outside: HashMap<(Vec<u8>, i64), FindingSet>,
}

impl Marked {
    /// What is to be said of a record in the tree.
    pub fn at(&self, place: Place) -> FindingSet {
        self.in_tree.get(&place).copied().unwrap_or_default()
    }

    /// What is to be said of a record outside the tree.
    pub fn outside(&self, key: &[u8], revision: i64) -> FindingSet {
        if self.outside.is_empty() {
            return FindingSet::default();
        }
        self.outside.get(&(key.to_vec(), revision)).copied().unwrap_or_default()
    }
}

impl Repeats {
    /// The findings by record.
    pub fn marked(&mut self) -> Marked {
        let mut marked = Marked::default();
        for (shared, finding) in
            [(&mut self.reused, ValueFinding::NonceReuse), (&mut self.copied, ValueFinding::CopiedValue)]
        {
            for place in shared.in_tree.drain(..) {
                marked.in_tree.entry(place).or_default().insert(finding);
            }
            for spot in shared.outside.drain(..) {
                marked.outside.entry(spot).or_default().insert(finding);
            }
        }
        marked
    }
}

/// What all workers met, brought together.
pub struct Met {
    piles: Vec<Pile>,
    outside: Vec<(u64, u64)>,
    moved: HashSet<u64>,
}

impl Met {
    /// Puts the workers' parts together.
    pub fn new(workers: Vec<Nonces>) -> Self {
        let mut met = Self { piles: Vec::new(), outside: Vec::new(), moved: HashSet::new() };
        for worker in workers {
            met.piles.push(worker.pile);
            met.outside.extend(worker.outside);
            met.moved.extend(worker.moved);
        }
        met
    }

    /// Reads the file once more for the originals of AES-CBC values that were moved, if there are any.
    pub fn look_for_originals(
        &mut self,
        store: &mut Store,
        key: TraceKey,
        pass: PassOptions<'_>,
    ) -> Result<(), ReadError> {
        if self.moved.is_empty() {
            return Ok(());
        }
        let moved = &self.moved;
        let pass = PassOptions { digest: false, ..pass };
        let finder = |_: &()| Finder { moved, key, pile: Pile::default(), outside: Vec::new() };
        for finder in store.pass(pass, |_| (), finder)?.visitors {
            self.piles.push(finder.pile);
            self.outside.extend(finder.outside);
        }
        Ok(())
    }

    /// Says what is proved. Of the values outside the tree those count whose offsets are among `left`, which ascend.
    pub fn settle(mut self, left: &[u64], again: &Again<'_>) -> Repeats {
        let mut outside = Pile::default();
        for (digest, at) in self.outside.iter().filter(|(_, at)| left.binary_search(at).is_ok()) {
            outside.push(*digest, Spot::outside(*at).0);
        }
        self.piles.push(outside);
        let groups = gather(self.piles, Vec::new, |groups: &mut Vec<Vec<Spot>>, pairs| {
            if pairs.len() > 1 {
                let mut spots: Vec<_> = pairs.iter().map(|pair| Spot(pair.note)).collect();
                spots.dedup();
                groups.extend((spots.len() > 1).then_some(spots));
            }
        });
        let groups: Vec<_> = groups.into_iter().flatten().collect();
        let found: Vec<_> = groups.par_iter().map(|spots| Group::of(spots, again)).collect();
        let (reused, copied): (Vec<_>, Vec<_>) = found.into_iter().map(|group| (group.reused, group.copied)).unzip();
        Repeats { reused: Shared::of(reused), copied: Shared::of(copied) }
    }
}

/// Finds all AES-CBC values with one of these ends.
struct Finder<'f> {
    moved: &'f HashSet<u64>,
    key: TraceKey,
    pile: Pile,
    outside: Vec<(u64, u64)>,
}

impl Finder<'_> {
    fn digest(&self, value: &[u8]) -> Option<u64> {
        let is_cbc = matches!(prefix::form(value), Form::Sealed(sealed) if sealed.kind == SealedKind::AesCbc);
        last_blocks(&self.key, value).filter(|digest| is_cbc && self.moved.contains(digest))
    }
}

impl Visitor for Finder<'_> {
    fn record(&mut self, record: &Record<'_>) {
        if let Some(digest) = self.digest(record.kv.value) {
            self.pile.push(digest, Spot::in_tree(record.place).0);
        }
    }

    const STRAYS: bool = true;

    fn stray(&mut self, stray: &Stray<'_>) {
        if let Some(digest) = self.digest(stray.kv.value) {
            self.outside.push((digest, stray.at));
        }
    }
}

/// Who sealed a value, as far as that is proved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    /// A configured key, by its fingerprint: the value opened by it.
    Secret(SealedKind, String),
    /// A key that nobody has, by its name.
    Name(SealedKind, Vec<u8>),
    /// A DEK, by what a plugin must be asked for it.
    Dek(OwnedDekRequest),
}

/// A value that was read again.
struct Value {
    spot: Spot,
    named: Named,
    /// What stands behind the nonce, tag included; of AES-CBC the whole value.
    sealed: Vec<u8>,
    opened: bool,
}

/// What one group of values with the same digest proves.
#[derive(Default)]
struct Group {
    reused: Part,
    copied: Part,
}

/// Values of a group that share what they should not: the first ones by name, of the others what counts and marks them.
#[derive(Default)]
struct Part {
    provider: &'static str,
    key_name: String,
    values: BTreeSet<Named>,
    first_keys: BTreeSet<Vec<u8>>,
    keys: HashSet<u128>,
    in_tree: HashSet<Place>,
    outside: BTreeSet<(Vec<u8>, i64)>,
}

impl Part {
    fn add(&mut self, value: &Value, again: &Again<'_>, provider: &'static str, key_name: &str) {
        let Named { key, revision } = &value.named;
        let is_new = match value.spot.place() {
            Ok(place) => self.in_tree.insert(place),
            Err(_) => self.outside.insert((key.clone(), *revision)),
        };
        if !is_new {
            return;
        }
        if self.keys.is_empty() {
            self.provider = provider;
            key_name.clone_into(&mut self.key_name);
        }
        self.keys.insert(again.key.digest(key));
        keep_first(&mut self.first_keys, key);
        self.values.insert(value.named.clone());
        if self.values.len() > NAMED {
            self.values.pop_last();
        }
    }
}

impl Group {
    fn of(spots: &[Spot], again: &Again<'_>) -> Self {
        let mut group = Self::default();
        // One value of each key is held against the others of that key; one of each ciphertext against its copies.
        let mut of_owner: HashMap<Owner, Value> = HashMap::new();
        let mut of_ciphertext: HashMap<(SealedKind, u128), Value> = HashMap::new();
        let mut scratch = Plaintext::new();
        for spot in spots {
            again.value(*spot, &mut scratch, |value, owner, kind, nonce, key_name| {
                let ciphertext = [nonce, &value.sealed].concat();
                let first = of_ciphertext.entry((kind, again.key.digest(&ciphertext)));
                let first = first.or_insert_with(|| value.brief());
                if first.named.key != value.named.key {
                    group.copied.add(first, again, kind.provider(), key_name);
                    group.copied.add(&value, again, kind.provider(), key_name);
                }
                let Some(owner) = owner else { return };
                let first = of_owner.entry(owner).or_insert_with(|| value.copy());
                if reused(first, &value) {
                    group.reused.add(first, again, kind.provider(), key_name);
                    group.reused.add(&value, again, kind.provider(), key_name);
                }
            });
        }
        group
    }
}

impl Value {
    fn copy(&self) -> Self {
        Self { sealed: self.sealed.clone(), ..self.brief() }
    }

    /// The value without its bytes.
    fn brief(&self) -> Self {
        Self { spot: self.spot, named: self.named.clone(), sealed: Vec::new(), opened: self.opened }
    }
}

/// Whether two values of one key and one nonce are two messages, and not one message and a damaged copy of it.
fn reused(one: &Value, other: &Value) -> bool {
    let (a, b) = (one.sealed.as_slice(), other.sealed.as_slice());
    if a == b {
        return false;
    }
    // What opened is as it was sealed.
    if one.opened && other.opened {
        return true;
    }
    let parts = |sealed| <[u8]>::split_last_chunk::<TAG_BYTES>(sealed);
    let (Some((body_a, tag_a)), Some((body_b, tag_b))) = (parts(a), parts(b)) else { return false };
    // A tag depends on every bit, so two messages never have the same; one that was cut is the beginning of the other; and
    // one whose tag alone differs, at the same key of the store, is the other with a damaged tag.
    let cut = a.starts_with(b) || b.starts_with(a);
    let damaged = tag_a == tag_b || (body_a == body_b && one.named.key == other.named.key);
    !cut && !damaged
}

impl Again<'_> {
    /// Reads and judges a value again, and gives it to `visit` with its key, its kind, its nonce and the name it bears.
    fn value(
        &self,
        spot: Spot,
        scratch: &mut Plaintext,
        mut visit: impl FnMut(Value, Option<Owner>, SealedKind, &[u8], &str),
    ) {
        let mut judged = |kv: KeyValue<'_>| {
            let address = self.roots.locate(kv.key);
            let guard = self.rules.guard(&address);
            let verdict = judge(self.rules, self.deks, (&address, guard), kv.key, kv.value, scratch);
            let Form::Sealed(sealed) = prefix::form(kv.value) else { return };
            let named = Named { key: kv.key.to_vec(), revision: kv.mod_revision };
            let opened = verdict.opened_by.is_some();
            if sealed.kind == SealedKind::AesCbc {
                let value = Value { spot, named, sealed: kv.value.to_vec(), opened };
                let key_name = verdict.key_name.as_deref().unwrap_or_default();
                visit(value, None, sealed.kind, &[], &String::from_utf8_lossy(key_name));
            } else if let Some(name) = name(&verdict, &sealed)
                && let Some((nonce, rest)) = split(&sealed, name)
            {
                let value = Value { spot, named, sealed: rest.to_vec(), opened };
                let owner = self.owner(&verdict, &sealed, name, rest);
                visit(value, owner, sealed.kind, nonce, &String::from_utf8_lossy(name));
            }
        };
        match spot.place() {
            Ok(place) => self.reader.records_at(&[place], |_, kv| judged(kv)),
            Err(at) => self.reader.stray_at(at, judged).unwrap_or_default(),
        }
    }

    fn owner(&self, verdict: &Verdict<'_>, sealed: &Sealed<'_>, name: &[u8], rest: &[u8]) -> Option<Owner> {
        let secret = verdict.opened_by.and_then(|key| self.rules.named_key(key));
        if let Some(key) = secret {
            return Some(Owner::Secret(sealed.kind, key.secret.fingerprint()));
        }
        // What its own key does not open was not sealed with it.
        let unknown_key = verdict.findings.contains(ValueFinding::UnknownKey);
        if verdict.readable == Told::No && verdict.opened_by.is_none() && !unknown_key {
            return None;
        }
        match sealed.kind {
            SealedKind::AesCbc => None,
            SealedKind::AesGcm | SealedKind::Secretbox => Some(Owner::Name(sealed.kind, name.to_vec())),
            SealedKind::KmsV2 => Some(Owner::Dek(request(sealed, name)?.to_owned())),
            // The old form has an IV there. It is a number of whole blocks; what opened and is not stale is not of that form.
            SealedKind::KmsV1 if !rest_is_blocks(rest) || verdict.stale == Told::No => {
                Some(Owner::Dek(request(sealed, name)?.to_owned()))
            }
            SealedKind::KmsV1 => None,
        }
    }
}

/// Whether what follows 12 bytes could as well follow 16 as whole blocks.
fn rest_is_blocks(rest: &[u8]) -> bool {
    rest.len() % 16 == 4
}

fn request<'v>(sealed: &Sealed<'v>, name: &'v [u8]) -> Option<DekRequest<'v>> {
    dek_request(sealed, std::str::from_utf8(name).ok()?)?.ok()
}

impl Shared {
    fn of(parts: Vec<Part>) -> Self {
        let mut shared = Self::default();
        let (mut keys, mut first, mut groups) = (HashSet::new(), BTreeSet::new(), BTreeSet::new());
        for part in parts.into_iter().filter(|part| !part.keys.is_empty()) {
            keys.extend(part.keys);
            part.first_keys.iter().for_each(|key| keep_first(&mut first, key));
            shared.in_tree.extend(part.in_tree);
            shared.outside.extend(part.outside);
            let values = part.values.into_iter().collect();
            groups.insert(Together { values, provider: part.provider, key_name: part.key_name });
            if groups.len() > NAMED {
                groups.pop_last();
            }
        }
        shared.count = keys.len() as u64;
        shared.keys = first.into_iter().collect();
        shared.groups = groups.into_iter().collect();
        shared
    }
}
