//! Everything but the records: the small buckets, from the newest root, or from pages that are known by their keys.
//!
//! What is lost of them is mostly made anew by `etcdutl snapshot restore`, which writes members, log index and term itself.
//! Without leases keys lose their expiry, and without users nobody can be asked for a password: that is said.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::bbolt::page::Elements;
use crate::etcd::meta::StoreMeta;
use crate::etcd::wire::{self, Field};
use crate::etcd::{RevisionKey, schema};

use super::sheet::{Kind, Sheet};
use super::tree::{self, Top};

/// Keys and values of a bucket.
type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where a bucket's pairs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The root leads to all of it.
    Root,
    /// The root leads to it, but not all of it is there.
    Partly,
    /// From pages that nothing leads to, known by their keys.
    Pages,
    /// Nothing of it was found.
    Anew,
}

impl Origin {
    /// The stable word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Root => "whole",
            Self::Partly => "partly",
            Self::Pages => "found",
            Self::Anew => "anew",
        }
    }
}

/// A small bucket of the new file.
#[derive(Clone, Debug)]
pub struct Small {
    /// Its pairs.
    pub pairs: Pairs,
    /// A counter that etcd never uses.
    pub sequence: u64,
    /// Where they come from.
    pub origin: Origin,
}

/// All small buckets.
#[derive(Debug, Default)]
pub struct Smalls {
    /// By name.
    pub buckets: BTreeMap<Vec<u8>, Small>,
    /// Where their pages stand.
    pub pages: Vec<u32>,
    /// Pages of them that are lost.
    pub lost: Vec<(Vec<u8>, u64)>,
    /// Buckets within a bucket, which etcd never makes; they are left out.
    pub nested: u64,
}

/// Keys of the bucket `meta`.
const META_KEYS: [&[u8]; 6] = [
    schema::CONSISTENT_INDEX,
    schema::TERM,
    schema::CONF_STATE,
    schema::STORAGE_VERSION,
    schema::SCHEDULED_COMPACTION,
    schema::FINISHED_COMPACTION,
];

/// Bytes of a lease's key.
const LEASE_KEY_BYTES: usize = 8;

impl Smalls {
    /// Gathers them. What a server needs to start and no page has is made.
    pub fn gather(sheet: &Sheet<'_>, top: &Top) -> Self {
        let mut smalls = Self { pages: top.pages.clone(), ..Self::default() };
        let names: BTreeSet<&[u8]> = schema::BUCKETS.into_iter().chain(top.buckets.keys().map(Vec::as_slice)).collect();
        for name in names.into_iter().filter(|name| *name != schema::KEY) {
            smalls.read_root(sheet, top, name);
        }
        let lost = [schema::META, schema::LEASE, schema::CLUSTER].map(|name| !smalls.is_whole(name));
        if lost.contains(&true) {
            smalls.search(sheet, lost);
        }
        smalls.needed();
        smalls
    }

    fn read_root(&mut self, sheet: &Sheet<'_>, top: &Top, name: &[u8]) {
        // A release that never had a bucket did not lose it; `meta` every release has.
        let never_was = !top.buckets.is_empty() && name != schema::META;
        let origin = if never_was { Origin::Root } else { Origin::Anew };
        let mut small = Small { pairs: BTreeMap::new(), sequence: 0, origin };
        if let Some(bucket) = top.buckets.get(name) {
            let mut nested = 0;
            let walked = tree::pairs(sheet, bucket, &mut |_, element| {
                if element.is_bucket {
                    nested += 1;
                } else {
                    small.pairs.insert(element.key.to_vec(), element.value.to_vec());
                }
            });
            self.nested += nested;
            self.pages.extend(walked.pages);
            small.sequence = bucket.sequence;
            small.origin = if walked.lost.is_empty() { Origin::Root } else { Origin::Partly };
            self.lost.extend(walked.lost.into_iter().map(|page| (name.to_vec(), page)));
        }
        self.buckets.insert(name.to_vec(), small);
    }

    /// Looks through leaf pages that nothing leads to for pairs of `meta`, `lease` and `cluster`.
    fn search(&mut self, sheet: &Sheet<'_>, [meta, lease, cluster]: [bool; 3]) {
        let known: HashSet<u32> = self.pages.iter().copied().collect();
        let mut newest: Option<(u64, Pairs)> = None;
        let mut buffer = Vec::new();
        for (position, note) in sheet.notes() {
            let may_be = note.kind == Kind::Leaf && note.packed && note.first.is_none();
            if !may_be
                || known.contains(&position)
                || sheet.bytes_of(position, note.overflow.min(sheet.pages()), &mut buffer).is_none()
            {
                continue;
            }
            let Ok(elements) = Elements::new(u64::from(position), &buffer, note.count) else { continue };
            let Ok(elements) = elements.leaves().collect::<Result<Vec<_>, _>>() else { continue };
            let pairs = || elements.iter().map(|element| (element.key.to_vec(), element.value.to_vec()));
            let all = |holds: &dyn Fn(&[u8], &[u8]) -> bool| {
                elements.iter().all(|element| !element.is_bucket && holds(element.key, element.value))
            };
            if meta && all(&|key, _| META_KEYS.contains(&key)) {
                let index = index_of(elements.iter().map(|element| (element.key, element.value)));
                if index > newest.as_ref().map(|(index, _)| *index) {
                    newest = index.map(|index| (index, pairs().collect()));
                }
            } else if lease && all(&is_lease) {
                self.add(schema::LEASE, pairs());
            } else if cluster && all(&|key, _| key == schema::CLUSTER_VERSION || key == schema::DOWNGRADE) {
                self.add(schema::CLUSTER, pairs());
            }
        }
        if let Some((_, pairs)) = newest {
            self.add(schema::META, pairs.into_iter());
        }
    }

    fn add(&mut self, name: &[u8], pairs: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) {
        if let Some(small) = self.buckets.get_mut(name) {
            small.origin = Origin::Pages;
            for (key, value) in pairs {
                small.pairs.entry(key).or_insert(value);
            }
        }
    }

    /// No etcd's tool opens a store without a log index; a restore writes its own.
    fn needed(&mut self) {
        if let Some(meta) = self.buckets.get_mut(schema::META) {
            meta.pairs.entry(schema::CONSISTENT_INDEX.to_vec()).or_insert_with(|| 1_u64.to_be_bytes().to_vec());
        }
    }

    /// What etcd notes about itself in them.
    pub fn meta(&self) -> StoreMeta {
        let mut meta = StoreMeta::default();
        for (name, bucket) in &self.buckets {
            bucket.pairs.iter().for_each(|(key, value)| meta.note(name, key, value));
        }
        meta
    }

    /// Whether a bucket is as it was last, as far as the root is.
    pub fn is_whole(&self, name: &[u8]) -> bool {
        self.buckets.get(name).is_some_and(|bucket| bucket.origin == Origin::Root)
    }

    /// The leases; none where not all of them are known.
    pub fn leases(&self) -> Option<HashSet<i64>> {
        let bucket = self.buckets.get(schema::LEASE).filter(|bucket| bucket.origin == Origin::Root)?;
        Some(bucket.pairs.keys().filter_map(|key| key.as_slice().try_into().ok().map(i64::from_be_bytes)).collect())
    }
}

/// The log index among the pairs of `meta`, if their marks of compactions hold.
fn index_of<'p>(pairs: impl Iterator<Item = (&'p [u8], &'p [u8])>) -> Option<u64> {
    let mut index = None;
    for (key, value) in pairs {
        match key {
            schema::CONSISTENT_INDEX => index = value.try_into().ok().map(u64::from_be_bytes),
            schema::SCHEDULED_COMPACTION | schema::FINISHED_COMPACTION => {
                RevisionKey::decode(value)?;
            }
            _ => {}
        }
    }
    index
}

/// Whether a pair is a lease: its id is its key.
fn is_lease(key: &[u8], value: &[u8]) -> bool {
    let id = key.try_into().ok().filter(|_| key.len() == LEASE_KEY_BYTES).map(u64::from_be_bytes);
    let first = wire::field(value).ok().map(|(_, field)| field);
    id.is_some() && first == id.map(|id| (1, Field::Varint(id)))
}
