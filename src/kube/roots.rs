//! Finds the roots of a store from its keys.
//!
//! Whoever runs a cluster may choose `--etcd-prefix` freely, clusters may share an etcd, and other software
//! may too. So each key casts a vote for every folder below which it would be the key of a built-in object,
//! and a folder becomes a root when the votes are such as only an API server leaves behind. Custom resources
//! never vote: `<anything>.<anything>/<anything>/<anything>` is too common a shape.
//!
//! Evidence is a set of *different* things that were seen (resources, namespaces that every cluster has),
//! never a count of keys, so that neither the order nor the number of keys matters and a sample does.
//! Knows nothing of values.

use std::collections::BTreeMap;

use crate::kube::key::{Address, Known, Root, Roots, below_root, built_in_below};
use crate::kube::resource::ApiServer;
use crate::kube::table::{self, BUILT_INS, Slot};

/// The roots that kube-apiserver, OpenShift's kube-apiserver and OpenShift's own API servers use unless told
/// otherwise; a single built-in object of the right server proves them.
const WELL_KNOWN_ROOTS: [(&str, bool); 3] = [("/registry", false), ("/kubernetes.io", false), ("/openshift.io", true)];

/// Roots with more segments than this are not found (they can be given).
const MAX_ROOT_SEGMENTS: usize = 8;

/// Longer roots are not found (they can be given).
const MAX_ROOT_BYTES: usize = 256;

/// At most so many folders are kept as candidates, about 2 MB when all are long. The ones with the fewest
/// segments stay, then the first in byte order: a rule without regard to the order of keys.
const MAX_CANDIDATES: usize = 4096;

/// What a folder's evidence has to weigh before it is taken for a root.
const ENOUGH: u32 = 5;

/// Something other than a kind of resource that speaks for a root, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks(u16);

impl Marks {
    /// A namespaced object lies in `default`: weak, others use this word too.
    const IN_DEFAULT: Self = Self(1);
    /// A namespaced object lies in `kube-system`.
    const IN_KUBE_SYSTEM: Self = Self(2);
    /// The namespace `default` itself.
    const DEFAULT: Self = Self(4);
    /// The namespace `kube-system` itself.
    const KUBE_SYSTEM: Self = Self(8);
    /// The Service `kubernetes` in `default`, which every API server keeps alive.
    const SERVICE: Self = Self(16);
    /// `ranges` or a lease of an API server.
    const RESERVED: Self = Self(32);

    fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    /// Each mark, what it weighs, and whether nothing but Kubernetes would leave it.
    const WEIGHTS: [(Self, u32, bool); 6] = [
        (Self::IN_DEFAULT, 1, false),
        (Self::IN_KUBE_SYSTEM, 3, true),
        (Self::DEFAULT, 3, true),
        (Self::KUBE_SYSTEM, 3, true),
        (Self::SERVICE, 5, true),
        (Self::RESERVED, 1, false),
    ];
}

/// What was seen below a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Evidence {
    /// A bit for each resource of [`BUILT_INS`].
    resources: u128,
    marks: Marks,
}

impl Evidence {
    fn of(slot: Slot, namespace: Option<&str>, name: &str) -> Self {
        let Slot::BuiltIn(number) = slot else { return Self { resources: 0, marks: Marks::RESERVED } };
        let resource = table::built_in(number).map_or("", |built_in| built_in.resource);
        let marks = match (resource, namespace, name) {
            ("namespaces", None, "default") => Marks::DEFAULT,
            ("namespaces", None, "kube-system") => Marks::KUBE_SYSTEM,
            ("services", Some("default"), "kubernetes") => Marks::SERVICE,
            (_, Some("default"), _) => Marks::IN_DEFAULT,
            (_, Some("kube-system"), _) => Marks::IN_KUBE_SYSTEM,
            _ => Marks::default(),
        };
        Self { resources: 1_u128.checked_shl(number.into()).unwrap_or(0), marks }
    }

    fn add(&mut self, other: Self) {
        self.resources |= other.resources;
        self.marks.0 |= other.marks.0;
    }

    fn both(self, other: Self) -> Self {
        Self { resources: self.resources & other.resources, marks: Marks(self.marks.0 & other.marks.0) }
    }

    fn built_ins(self) -> impl Iterator<Item = &'static table::BuiltIn> {
        BUILT_INS.iter().enumerate().filter(move |(number, _)| self.resources >> number & 1 == 1).map(|(_, b)| b)
    }

    /// Whether only an API server leaves such traces: enough of them, and not all of them everyday words.
    fn suffices(self) -> bool {
        let mut weight = 0;
        let mut telling = false;
        for built_in in self.built_ins() {
            let everyday = table::is_everyday(built_in);
            weight += if everyday { 1 } else { 2 };
            telling |= !everyday;
        }
        for (mark, mark_weight, is_telling) in Marks::WEIGHTS {
            if self.marks.has(mark) {
                weight += mark_weight;
                telling |= is_telling;
            }
        }
        telling && weight >= ENOUGH
    }

    /// Whether most resources are OpenShift's own.
    fn is_openshift(self) -> bool {
        let own = self.built_ins().filter(|built_in| built_in.server != ApiServer::Kube).count();
        own * 2 > self.built_ins().count()
    }
}

/// The evidence for a folder, and how much of it remains if a folder further up is a root: a key that makes
/// sense below that one as well, as a custom resource does whose plural is `secrets`, says nothing then.
#[derive(Clone, Copy, Debug, Default)]
struct Votes {
    all: Evidence,
    beyond_parent: Evidence,
    beyond_grandparent: Evidence,
}

impl Votes {
    fn add(&mut self, other: Self) {
        self.all.add(other.all);
        self.beyond_parent.add(other.beyond_parent);
        self.beyond_grandparent.add(other.beyond_grandparent);
    }
}

/// Finds the roots of a store from all its keys or a sample of them, in any order.
///
/// Memory is bounded however many keys it sees, and the answer does not depend on their order.
#[derive(Debug, Default)]
pub struct RootFinder {
    well_known: [bool; WELL_KNOWN_ROOTS.len()],
    /// Candidates by their number of segments, then by path.
    candidates: [BTreeMap<String, Votes>; MAX_ROOT_SEGMENTS + 1],
    /// How many candidates there are.
    held: usize,
}

impl RootFinder {
    /// A finder that has seen no key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a key into account.
    pub fn see(&mut self, key: &[u8]) {
        let Ok(text) = std::str::from_utf8(key) else { return };
        if self.see_well_known(text) {
            return;
        }
        let slashes = text.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        for at in slashes.take(MAX_ROOT_SEGMENTS + 1).take_while(|at| *at <= MAX_ROOT_BYTES) {
            let (Some(folder), Some(rest)) = (text.get(..at), text.get(at + 1..)) else { continue };
            if let Some((slot, namespace, name)) = built_in_below(rest) {
                let all = Evidence::of(slot, namespace, name);
                let beyond =
                    |folder: Option<&str>| if makes_sense_below(folder, text) { Evidence::default() } else { all };
                let parent = parent(folder);
                let grandparent = parent.and_then(self::parent);
                self.vote(
                    folder,
                    Votes { all, beyond_parent: beyond(parent), beyond_grandparent: beyond(grandparent) },
                );
            }
        }
    }

    /// Takes into account what another finder has seen.
    pub fn absorb(&mut self, other: Self) {
        for (mine, theirs) in self.well_known.iter_mut().zip(other.well_known) {
            *mine |= theirs;
        }
        for (folder, votes) in other.candidates.into_iter().flatten() {
            self.vote(&folder, votes);
        }
    }

    /// The roots that the keys speak for; none for a store without objects of built-in resources.
    pub fn finish(self) -> Roots {
        let well_known = WELL_KNOWN_ROOTS.iter().zip(self.well_known).filter(|(_, seen)| *seen);
        let mut roots: Vec<Root> = well_known.map(|((path, openshift), _)| Root::new(path, *openshift)).collect();
        // Folders with fewer segments come first, so that the ones above have been judged.
        for (folder, votes) in self.candidates.into_iter().flatten() {
            let is_root =
                |folder: Option<&str>| folder.is_some_and(|folder| roots.iter().any(|root| root.path() == folder));
            let parent = parent(&folder);
            let mut evidence = votes.all;
            if is_root(parent) {
                evidence = evidence.both(votes.beyond_parent);
            }
            if is_root(parent.and_then(self::parent)) {
                evidence = evidence.both(votes.beyond_grandparent);
            }
            if evidence.suffices() && !is_root(Some(&folder)) {
                roots.push(Root::new(&folder, evidence.is_openshift()));
            }
        }
        Roots::of(roots)
    }

    /// Whether the key is a built-in object of the right server below a well-known root.
    fn see_well_known(&mut self, text: &str) -> bool {
        for ((path, openshift), seen) in WELL_KNOWN_ROOTS.iter().zip(&mut self.well_known) {
            let Some(rest) = text.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')) else { continue };
            if let Address::Object(object) = below_root(rest, *openshift)
                && object.known == Known::BuiltIn
                && (object.server != ApiServer::Kube) == *openshift
            {
                *seen = true;
                return true;
            }
        }
        false
    }

    fn vote(&mut self, folder: &str, votes: Votes) {
        let Some(level) = self.candidates.get_mut(segments(folder)) else { return };
        if let Some(held) = level.get_mut(folder) {
            held.add(votes);
            return;
        }
        level.insert(folder.to_owned(), votes);
        self.held += 1;
        if self.held > MAX_CANDIDATES {
            // What is dropped once can never come back: so many that go before it stay for good.
            let last = self.candidates.iter_mut().rev().find(|level| !level.is_empty());
            if last.and_then(BTreeMap::pop_last).is_some() {
                self.held -= 1;
            }
        }
    }
}

fn segments(folder: &str) -> usize {
    folder.split('/').filter(|segment| !segment.is_empty()).count()
}

fn parent(folder: &str) -> Option<&str> {
    folder.rsplit_once('/').map(|(parent, _)| parent)
}

/// Whether the key would be an object's, were this folder a root.
fn makes_sense_below(folder: Option<&str>, key: &str) -> bool {
    let rest = folder.and_then(|folder| key.strip_prefix(folder)).and_then(|rest| rest.strip_prefix('/'));
    rest.is_some_and(|rest| below_root(rest, false) != Address::Foreign)
}

#[cfg(test)]
mod tests;
