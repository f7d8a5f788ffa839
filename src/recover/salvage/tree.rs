//! What is left of the trees: which root is the newest, which leaf pages it still leads to, and between which revisions it
//! leads to nothing any more.
//!
//! A meta record that holds leads to the root. Where none does, every page that looks like one is a candidate: etcd counts
//! the entries of its log in the bucket `meta`, so the greatest count is the newest. Where the root of the bucket `key` is
//! not known either, the branch page that leads to the newest record is taken for it; of several the one with the fewest
//! records, since nothing but a compaction takes any away.

use std::collections::{BTreeMap, HashSet};

use crate::bbolt::bucket::{Bucket, BucketRoot, inline_elements};
use crate::bbolt::page::{Elements, LeafElement};
use crate::etcd::meta::StoreMeta;
use crate::etcd::{RevisionKey, schema};

use super::rev::Rev;
use super::sheet::{Kind, Note, Sheet};

/// No real tree is deeper.
const MAX_DEPTH: usize = 64;

/// Roots that are equally new are held against each other up to this number.
const MAX_TIES: usize = 256;

/// The top-level buckets, by name, as the root has them.
pub type Buckets = BTreeMap<Vec<u8>, Bucket>;

/// Where the trees begin.
#[derive(Debug)]
pub struct Top {
    /// The buckets of the newest root.
    pub buckets: Buckets,
    /// The pages that the root consists of.
    pub pages: Vec<u32>,
    /// The root of the bucket `key`; none where nothing tells.
    pub key: Option<BucketRoot>,
    /// The page on which an inline bucket `key` stands.
    pub key_page: u32,
    /// Whether a meta record that holds leads here.
    pub is_told: bool,
    /// Whether it may be older than what the file had last, so that newer records may stand where it does not lead.
    pub may_be_older: bool,
    /// The transaction of the meta record.
    pub txid: u64,
}

/// A leaf page that the tree leads to.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    /// Where it stands.
    pub position: u32,
    /// No record on it is older.
    pub lower: Rev,
    /// Every record on it is older than this.
    pub upper: Rev,
}

/// A page that the tree leads to and that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which page; none where the branch does not tell any more.
    pub id: Option<u64>,
    /// What was on it or below it was no older.
    pub lower: Rev,
    /// And older than this.
    pub upper: Rev,
    /// How many branches are above it.
    pub depth: usize,
}

/// What is left of the tree of the bucket `key`.
#[derive(Debug, Default)]
pub struct Tree {
    /// In the order of keys.
    pub leaves: Vec<Leaf>,
    /// In the order of keys.
    pub lost: Vec<Lost>,
    /// The branch pages, by position.
    pub branches: Vec<u32>,
    /// How many branches are above a leaf.
    pub leaf_depth: usize,
}

/// Finds the newest root.
pub fn top(sheet: &Sheet<'_>) -> Top {
    let whole = sheet.has_both_metas();
    for (position, meta) in sheet.metas() {
        let (buckets, pages) = root_buckets(sheet, sheet.positions(meta.root).find(|at| may_be_root(sheet.note(*at))));
        if let Some(bucket) = buckets.get(schema::KEY) {
            let (key, key_page) = (Some(bucket.root.clone()), bucket.parent_page as u32);
            let may_be_older = !whole || *position > 1;
            return Top { buckets, pages, key, key_page, is_told: true, may_be_older, txid: meta.txid };
        }
    }
    guessed(sheet)
}

fn may_be_root(note: Note) -> bool {
    matches!(note.kind, Kind::Root | Kind::Branch)
}

/// The root whose log index is the greatest, and the root of the records that leads to the newest one.
fn guessed(sheet: &Sheet<'_>) -> Top {
    let mut best: Option<((bool, u64), Buckets, Vec<u32>)> = None;
    for (position, _) in sheet.notes().filter(|(_, note)| note.kind == Kind::Root) {
        let (buckets, pages) = root_buckets(sheet, Some(position));
        if !buckets.contains_key(schema::KEY) {
            continue;
        }
        let index = store_meta(sheet, &buckets).consistent_index.unwrap_or(0);
        let rank = (sheet.is_in_place(position), index);
        if best.as_ref().is_none_or(|(newest, ..)| rank > *newest) {
            best = Some((rank, buckets, pages));
        }
    }
    let (_, buckets, pages) = best.unwrap_or_default();
    let bucket = buckets.get(schema::KEY);
    let key_page = bucket.map_or(0, |bucket| bucket.parent_page as u32);
    let key = newer_root(sheet, bucket.map(|bucket| bucket.root.clone()));
    Top { buckets, pages, key, key_page, is_told: false, may_be_older: true, txid: 1 }
}

/// The right edge of a tree of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    /// The last key of the lowest branch.
    branch: Rev,
    /// The last record, if its page is there.
    leaf: Option<Rev>,
    height: usize,
}

/// Follows the last element of every branch; none if no page of records stands at `id`.
fn edge(sheet: &Sheet<'_>, id: u64) -> Option<Edge> {
    let (mut id, mut buffer) = (id, Vec::new());
    let mut found: Option<Edge> = None;
    for height in 0..MAX_DEPTH {
        let position = sheet.positions(id).find(|position| {
            let note = sheet.note(*position);
            note.first.is_some() || (note.kind == Kind::Leaf && note.count == 0 && height == 0)
        });
        let Some(position) = position else { break };
        let note = sheet.note(position);
        sheet.bytes_of(position, note.overflow.min(sheet.pages()), &mut buffer)?;
        let Ok(elements) = Elements::new(id, &buffer, note.count) else { break };
        let mut edge = found.unwrap_or(Edge { branch: Rev::FIRST, leaf: None, height });
        edge.height = height;
        if note.kind == Kind::Leaf {
            let last = (0..elements.len()).rev().find_map(|index| rev_of(elements.leaf(index).ok()?.key));
            edge.leaf = Some(last.unwrap_or_default());
            return Some(edge);
        }
        let last = (0..elements.len()).rev().find_map(|index| elements.branch(index).ok());
        let Some(last) = last else { break };
        edge.branch = rev_of(last.key)?;
        id = last.child;
        found = Some(edge);
    }
    found
}

/// The root of the records: the one that is known, unless another branch page leads to newer ones, or to as new ones after
/// a later compaction.
fn newer_root(sheet: &Sheet<'_>, known: Option<BucketRoot>) -> Option<BucketRoot> {
    let own = match &known {
        Some(BucketRoot::Inline(_)) => return known,
        Some(BucketRoot::Page(id)) => edge(sheet, *id),
        None => None,
    };
    let is_as_new = |other: &Edge| match own {
        None => true,
        Some(own) if other.branch != own.branch => other.branch > own.branch,
        Some(own) => own.leaf.is_some() && other.leaf >= own.leaf && other.height >= own.height,
    };
    let mut best: Vec<(Edge, u32)> = Vec::new();
    let is_candidate = |(position, note): &(u32, Note)| {
        note.kind == Kind::Branch && note.first.is_some() && sheet.is_in_place(*position)
    };
    for (_, note) in sheet.notes().filter(is_candidate) {
        let Some(edge) = edge(sheet, u64::from(note.id)).filter(is_as_new) else { continue };
        match best.first() {
            Some((other, _)) if *other > edge => {}
            Some((other, _)) if *other == edge => best.push((edge, note.id)),
            _ => best = vec![(edge, note.id)],
        }
    }
    let mut ties = best.into_iter().take(MAX_TIES).map(|(_, id)| u64::from(id));
    let Some(first) = ties.next() else { return known };
    let mut newest = (first, tree(sheet, first));
    for id in ties {
        let other = tree(sheet, id);
        if is_later(sheet, &other, &newest.1) {
            newest = (id, other);
        }
    }
    Some(BucketRoot::Page(newest.0))
}

/// Whether a tree with as new records is of a later time: after a compaction there are fewer.
fn is_later(sheet: &Sheet<'_>, one: &Tree, other: &Tree) -> bool {
    let others: BTreeMap<Rev, u32> = other.leaves.iter().map(|leaf| (leaf.lower, leaf.position)).collect();
    let (mut own, mut theirs) = (0_u64, 0_u64);
    for leaf in &one.leaves {
        if let Some(position) = others.get(&leaf.lower) {
            own += u64::from(sheet.note(leaf.position).count);
            theirs += u64::from(sheet.note(*position).count);
        }
    }
    (own, one.lost.len()) < (theirs, other.lost.len())
}

/// What etcd notes about itself in these buckets.
pub fn store_meta(sheet: &Sheet<'_>, buckets: &Buckets) -> StoreMeta {
    let mut meta = StoreMeta::default();
    for name in [schema::META, schema::CLUSTER] {
        if let Some(bucket) = buckets.get(name) {
            pairs(sheet, bucket, &mut |_, element| meta.note(name, element.key, element.value));
        }
    }
    meta
}

/// The buckets that the root at a position has, and the pages that it consists of.
fn root_buckets(sheet: &Sheet<'_>, position: Option<u32>) -> (Buckets, Vec<u32>) {
    let mut buckets = Buckets::new();
    let Some(position) = position else { return (buckets, Vec::new()) };
    let walked = walk(sheet, Begin::Position(position), &mut |page, element| {
        if element.is_bucket
            && let Ok(bucket) = Bucket::decode(u64::from(page), element.value)
        {
            buckets.insert(element.key.to_vec(), bucket);
        }
    });
    (buckets, walked.pages)
}

/// What a walk over a small bucket came across.
#[derive(Debug, Default)]
pub struct Walked {
    /// Where its pages stand.
    pub pages: Vec<u32>,
    /// Pages that it leads to and that are not there, or do not hold in all of their elements.
    pub lost: Vec<u64>,
}

/// Gives the pairs of a small bucket to `visit`, in the order of the tree, with the position of their page.
pub fn pairs(sheet: &Sheet<'_>, bucket: &Bucket, visit: &mut dyn FnMut(u32, LeafElement<'_>)) -> Walked {
    match &bucket.root {
        BucketRoot::Page(id) => walk(sheet, Begin::Id(*id), visit),
        BucketRoot::Inline(bytes) => {
            let page = bucket.parent_page;
            let mut walked = Walked::default();
            let Ok(elements) = inline_elements(page, bytes) else {
                walked.lost.push(page);
                return walked;
            };
            for element in elements.leaves() {
                match element {
                    Ok(element) => visit(page as u32, element),
                    Err(_) => walked.lost.push(page),
                }
            }
            walked
        }
    }
}

/// Where a walk begins: a page by its id, or what stands at a position.
enum Begin {
    Id(u64),
    Position(u32),
}

fn walk(sheet: &Sheet<'_>, begin: Begin, visit: &mut dyn FnMut(u32, LeafElement<'_>)) -> Walked {
    let (mut walked, mut seen, mut buffer) = (Walked::default(), HashSet::new(), Vec::new());
    let mut stack = Vec::new();
    let first = match begin {
        Begin::Id(id) => (id, None),
        Begin::Position(position) => (u64::from(sheet.note(position).id), Some(position)),
    };
    stack.push(first);
    while let Some((id, given)) = stack.pop() {
        let position = given.or_else(|| sheet.positions(id).find(|position| !seen.contains(position)));
        let Some(position) = position.filter(|position| seen.insert(*position)) else {
            walked.lost.push(id);
            continue;
        };
        let note = sheet.note(position);
        let read = sheet.bytes_of(position, note.overflow.min(sheet.pages()), &mut buffer);
        let elements = read.and_then(|()| Elements::new(id, &buffer, note.count).ok());
        let Some(elements) = elements else {
            walked.lost.push(id);
            continue;
        };
        walked.pages.push(position);
        if note.kind == Kind::Branch {
            let children: Vec<_> = elements.branches().collect();
            for child in children.into_iter().rev() {
                match child {
                    Ok(child) => stack.push((child.child, None)),
                    Err(_) => walked.lost.push(id),
                }
            }
            continue;
        }
        for element in elements.leaves() {
            match element {
                Ok(element) => visit(position, element),
                Err(_) => walked.lost.push(id),
            }
        }
    }
    walked
}

/// A page that is still to be visited.
#[derive(Clone, Copy)]
struct Pending {
    id: u64,
    depth: usize,
    lower: Rev,
    upper: Rev,
}

/// Goes down the tree of records from page `root`, as far as it leads.
pub fn tree(sheet: &Sheet<'_>, root: u64) -> Tree {
    let (mut tree, mut seen, mut buffer) = (Tree::default(), HashSet::new(), Vec::new());
    let mut stack = vec![Pending { id: root, depth: 0, lower: Rev::FIRST, upper: Rev::END }];
    while let Some(pending) = stack.pop() {
        let position = sheet.positions(pending.id).find(|position| fits(*position, sheet.note(*position), &pending));
        let position = position.filter(|position| pending.depth < MAX_DEPTH && seen.insert(*position));
        let Some(position) = position else {
            tree.lost.push(pending.lost());
            continue;
        };
        let note = sheet.note(position);
        if note.kind == Kind::Leaf {
            tree.leaf_depth = tree.leaf_depth.max(pending.depth);
            tree.leaves.push(Leaf { position, lower: pending.lower, upper: pending.upper });
            continue;
        }
        let read = sheet.bytes_of(position, note.overflow.min(sheet.pages()), &mut buffer);
        let elements = read.and_then(|()| Elements::new(pending.id, &buffer, note.count).ok());
        let children = elements.map(|elements| children(&elements, &pending, &mut tree.lost)).unwrap_or_default();
        if children.is_empty() {
            tree.lost.push(pending.lost());
            continue;
        }
        tree.branches.push(position);
        stack.extend(children.into_iter().rev());
    }
    tree.lost.sort_by_key(|lost| (lost.lower, lost.upper));
    tree
}

impl Pending {
    fn lost(&self) -> Lost {
        Lost { id: Some(self.id), lower: self.lower, upper: self.upper, depth: self.depth }
    }
}

/// Whether the page at a position can be the one that a branch leads to.
fn fits(position: u32, note: Note, pending: &Pending) -> bool {
    match (note.kind, note.first) {
        (Kind::Leaf | Kind::Branch, Some(first)) => (pending.lower.main()..=pending.upper.main()).contains(&first),
        // What has no first key is an empty leaf, or its first element is damaged; then only its place speaks for it.
        (Kind::Leaf, None) => !note.packed && u64::from(position) == pending.id,
        _ => false,
    }
}

/// The children of a branch page in order. An element that does not hold may have led anywhere between its neighbours.
fn children(elements: &Elements<'_>, parent: &Pending, lost: &mut Vec<Lost>) -> Vec<Pending> {
    let mut children: Vec<Pending> = Vec::new();
    let mut broken = false;
    for element in elements.branches() {
        let lower = children.last().map_or(parent.lower, |child| child.lower);
        let found = element.ok().and_then(|element| Some((rev_of(element.key)?, element.child)));
        // Everything that is smaller than the first key belongs to the first child as well.
        let found = found.filter(|(key, _)| children.is_empty() || (*key > lower && *key < parent.upper));
        let Some((key, child)) = found else {
            broken = true;
            continue;
        };
        let key = if children.is_empty() && !broken { parent.lower } else { key };
        if let Some(before) = children.last_mut() {
            before.upper = key;
        }
        if broken {
            lost.push(Lost { id: None, lower, upper: key, depth: parent.depth + 1 });
            broken = false;
        }
        children.push(Pending { id: child, depth: parent.depth + 1, lower: key, upper: parent.upper });
    }
    if broken {
        let lower = children.last().map_or(parent.lower, |child| child.lower);
        lost.push(Lost { id: None, lower, upper: parent.upper, depth: parent.depth + 1 });
    }
    children
}

/// The revision that a key is.
pub fn rev_of(key: &[u8]) -> Option<Rev> {
    RevisionKey::decode(key).and_then(|key| Rev::of(&key))
}
