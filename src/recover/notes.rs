//! Notes of the records that are wanted: where they stand, what they are sorted by and, for a comparison, a digest of what they hold.
//!
//! Notes go through a file without a name. It holds keys, places and revisions; of a plaintext nothing but a digest under a key that is
//! drawn for the run and kept nowhere.

use std::collections::HashMap;
use std::sync::Arc;

use crate::audit::class::TOMBSTONE;
use crate::audit::rows::{RawRow, RowSink};
use crate::audit::rules::{KeyRef, Rules};
use crate::audit::survey;
use crate::kube::custom::CustomResource;
use crate::kube::key::{Address, ObjectKey, Roots};
use crate::kube::select::Selected;
use crate::provider::plaintext::Plaintext;
use crate::source::scan::Visitor;
use crate::source::trace::TraceKey;
use crate::source::{Place, Record};

use super::get::Wanted;
use super::open::{Opened, open};
use super::phase::phase;
use super::protection::Protection;

/// What a noted record is, in the place of an audit's class.
const STORED: u32 = TOMBSTONE + 1;

/// The same of one that was to be opened and stays closed.
const CLOSED: u32 = TOMBSTONE + 2;

/// Bytes of the number that ends what notes are sorted by where it is not the key alone.
const LENGTH_BYTES: usize = 4;

/// In which order objects come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// That of their keys.
    #[default]
    Key,
    /// That in which they are applied: by [`phase`], then namespace, resource and name.
    Apply,
    /// By namespace, resource and name, wherever a store keeps them.
    Object,
}

/// A note of a record.
pub struct Noted {
    /// The etcd key.
    pub key: Vec<u8>,
    /// What tells the object from all others, but not the roots of its key; empty where notes are in the order of keys.
    pub object: Vec<u8>,
    /// Where it stands.
    pub place: Place,
    /// The revision at which it was written.
    pub mod_revision: i64,
    /// Length of the stored value.
    pub value_bytes: u64,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// What it holds, where that was to be noted.
    pub held: Option<Held>,
}

/// What a value holds, and under what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The digest of the plaintext; none if it stays closed.
    pub plaintext: Option<u128>,
    /// The digest of the stored bytes.
    pub stored: u128,
    /// What it is sealed with.
    pub protection: Protection,
}

impl Noted {
    /// What a row says.
    pub fn of(row: &RawRow<'_>, order: Order, holds: bool) -> Self {
        let (object, key) = if order == Order::Key { (&[][..], row.key) } else { parts(row.key) };
        Self {
            key: key.to_vec(),
            object: object.to_vec(),
            place: row.place,
            mod_revision: row.mod_revision,
            value_bytes: row.value_bytes,
            deleted: row.class == TOMBSTONE,
            held: (holds && row.class != TOMBSTONE).then(|| held(row)),
        }
    }
}

fn held(row: &RawRow<'_>) -> Held {
    let (halves, _) = row.value_sha256.as_chunks::<16>();
    let half = |index: usize| halves.get(index).map_or(0, |half| u128::from_le_bytes(*half));
    Held {
        plaintext: (row.class != CLOSED).then(|| half(0)),
        stored: half(1),
        protection: Protection::decode(row.detail),
    }
}

/// What a note is sorted by so that objects come in another order than that of keys: the phase where it counts, namespace, resource and
/// name, then the key itself and its length, by which it is found again.
fn sort_by(order: Order, object: &ObjectKey<'_>, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    if order == Order::Apply {
        out.push(phase(object));
    }
    for part in [object.namespace.unwrap_or_default(), object.group, object.resource, object.name] {
        out.extend_from_slice(part.as_bytes());
        out.push(0);
    }
    out.extend_from_slice(key);
    // A key is a part of a value that etcd takes, and far from so long.
    out.extend(u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
}

/// What names the object, and the key, in what [`sort_by`] made.
fn parts(sorted_by: &[u8]) -> (&[u8], &[u8]) {
    let Some((rest, length)) = sorted_by.split_last_chunk::<LENGTH_BYTES>() else { return (&[], sorted_by) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    rest.len().checked_sub(length).and_then(|start| rest.split_at_checked(start)).unwrap_or((&[], sorted_by))
}

/// Notes the places of the records that are wanted.
pub struct Noter<'n> {
    wanted: &'n Wanted<'n>,
    selected: &'n Selected,
    rules: &'n Rules,
    /// How the keys of all that is wanted end, where that is known; all others need no look.
    key_ends: Option<Vec<Vec<u8>>>,
    /// Where the API servers keep their objects.
    pub roots: Arc<Roots>,
    rows: RowSink<'n>,
    sorted_by: Vec<u8>,
    /// The custom resources that were met, each with the place of its definition.
    pub definitions: Vec<(Place, CustomResource)>,
    scratch: Plaintext,
    /// Those of keys that opened something.
    fingerprints: HashMap<KeyRef, String>,
    /// The last revision that was met.
    pub last: Option<i64>,
    /// Whether a key looks like an object's below a root that is not among these.
    pub unlisted: bool,
}

impl<'n> Noter<'n> {
    /// Notes go to `rows`.
    pub fn new(
        wanted: &'n Wanted<'n>,
        selected: &'n Selected,
        rules: &'n Rules,
        roots: Arc<Roots>,
        rows: RowSink<'n>,
    ) -> Self {
        Self {
            wanted,
            selected,
            rules,
            key_ends: selected.key_ends(),
            roots,
            rows,
            sorted_by: Vec::new(),
            definitions: Vec::new(),
            scratch: Plaintext::new(),
            fingerprints: HashMap::new(),
            last: None,
            unlisted: false,
        }
    }

    fn wants(&self, object: &ObjectKey<'_>) -> bool {
        let namespace = object.namespace.unwrap_or("");
        let namespaces = &self.wanted.namespaces;
        let in_namespace =
            namespace.is_empty() || namespaces.is_empty() || namespaces.iter().any(|one| one == namespace);
        in_namespace && self.wanted.fields.matches(namespace, object.name) && self.selected.matches(object)
    }

    /// Digests what a value holds: of the plaintext, and of the stored bytes.
    fn hold(&mut self, address: &Address<'_>, record: &Record<'_>, key: TraceKey) -> (u32, [u8; 32], String) {
        let kv = &record.kv;
        let (class, plaintext, protection) =
            match open(self.rules, &self.wanted.deks, address, kv.key, kv.value, &mut self.scratch) {
                Opened::Plain { plaintext, label, opener, .. } => {
                    let fingerprint = opener.map(|opener| {
                        let fresh = || self.rules.named_key(opener).map(|named| named.secret.fingerprint());
                        self.fingerprints.entry(opener).or_insert_with(|| fresh().unwrap_or_default()).as_str()
                    });
                    let protection = Protection::of(kv.value, &label, fingerprint.unwrap_or_default());
                    (STORED, key.digest(plaintext), protection)
                }
                Opened::Closed { sealed, .. } => (CLOSED, 0, Protection::claimed(kv.value, &sealed)),
            };
        let mut digests = [0; 32];
        let halves = [plaintext, key.digest(kv.value)].map(u128::to_le_bytes);
        digests.iter_mut().zip(halves.iter().flatten()).for_each(|(slot, byte)| *slot = *byte);
        (class, digests, protection.encode())
    }
}

impl Visitor for Noter<'_> {
    fn record(&mut self, record: &Record<'_>) {
        let Record { place, revision, kv } = record;
        let main = revision.revision.main;
        self.last = self.last.max(Some(main));
        if self.wanted.revision.is_some_and(|at| main > at) {
            return;
        }
        if self.key_ends.as_ref().is_some_and(|ends| !ends.iter().any(|end| kv.key.ends_with(end))) {
            return;
        }
        let address = self.roots.locate(kv.key);
        self.unlisted |= address == Address::Foreign && self.roots.unlisted(kv.key);
        let Address::Object(object) = address else { return };
        if object.resource == survey::DEFINITIONS && !revision.tombstone {
            let resource = survey::definition(self.rules, &self.wanted.deks, &object, record, &mut self.scratch);
            self.definitions.extend(resource.map(|resource| (*place, resource)));
        }
        if !self.wants(&object) {
            return;
        }
        let order = self.wanted.order;
        if order != Order::Key {
            sort_by(order, &object, kv.key, &mut self.sorted_by);
        }
        let (class, value_sha256, detail) = match self.wanted.digests {
            _ if revision.tombstone => (TOMBSTONE, [0; 32], String::new()),
            Some(key) => self.hold(&address, record, key),
            None => (STORED, [0; 32], String::new()),
        };
        self.rows.push(&RawRow {
            key: if order == Order::Key { kv.key } else { &self.sorted_by },
            place: *place,
            class,
            create_revision: kv.create_revision,
            mod_revision: main,
            version: kv.version,
            lease: kv.lease,
            value_bytes: kv.value.len() as u64,
            encoding: None,
            value_sha256,
            detail: &detail,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_and_its_key_are_found_again_in_what_notes_are_sorted_by() {
        let roots = Roots::given(&["/registry", "/kubernetes.io"]);
        let mut objects = Vec::new();
        for key in [
            "/registry/secrets/a/b",
            "/kubernetes.io/secrets/a/b",
            "/registry/secrets/a/b\0c",
            "/registry/namespaces/a",
        ] {
            let Address::Object(object) = roots.locate(key.as_bytes()) else { panic!("{key}") };
            for order in [Order::Apply, Order::Object] {
                let mut sorted_by = vec![1, 2, 3];
                sort_by(order, &object, key.as_bytes(), &mut sorted_by);
                let (object, found) = parts(&sorted_by);
                assert_eq!(found, key.as_bytes());
                objects.push(object.to_vec());
            }
        }
        assert_eq!(objects[1], objects[3], "one object below two roots");
        assert_eq!(objects[1], b"a\0\0secrets\0b\0");
        assert_ne!(objects[1], objects[5]);
        assert_eq!(parts(&[]), (&[][..], &[][..]));
        assert_eq!(parts(&[1, 255, 255, 255, 255]), (&[][..], &[1, 255, 255, 255, 255][..]));
    }
}
