//! Salvage: what is left of a store whose file is broken, as a new file that holds together.
//!
//! Read in this order: [`sheet`] (every page on its own), [`tree`] (the newest root, and what it still leads to), [`buckets`]
//! (everything but the records), [`scan`] (every copy of a record, in [`mark`]s; [`carve`] where no page is left), [`gaps`]
//! (where the tree leads to nothing any more), [`stale`] and [`settle`] (which copies make up the store), [`mod@write`] (the new
//! file, and its proof).
//!
//! Nothing is invented: what is taken stands in the file as etcd wrote it, and what may not be of the store's last state is
//! left out, or counted apart. `docs/formats/salvage.md` has the rules.

pub mod buckets;
pub mod carve;
pub mod gaps;
pub mod mark;
pub mod rev;
pub mod scan;
pub mod settle;
pub mod sheet;
pub mod stale;
pub mod tree;
pub mod write;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bbolt::bucket::BucketRoot;
use crate::bbolt::write::WriteError;
use crate::bbolt::{Fault, FaultKind, Faults};
use crate::etcd::KeyValue;
use crate::etcd::meta::StoreMeta;
use crate::etcd::schema;
use crate::source::digest::{self, Digests, Trailer};
use crate::source::snapshot::PassOptions;
use crate::source::trace::TraceKey;
use crate::source::{SALVAGE_FAULT, SCHEMA_FAULT};

use buckets::{Origin, Smalls};
use gaps::{Gap, Gaps};
use rev::Rev;
use scan::{Known, Roles};
use settle::{Compaction, Conflict, Counts, Holes, Include, Settled};
use sheet::{Sheet, SheetError};
use tree::{Top, Tree};
use write::{Again, Content};

/// What is wanted.
pub struct Request<'r> {
    /// What else is to come back.
    pub include: Include,
    /// Hashing, threads and progress.
    pub pass: PassOptions<'r>,
    /// Ends the run as soon as it is true.
    pub interrupted: &'r AtomicBool,
}

/// An empty file to write to, and a way to open it once more.
pub struct Out<'o> {
    /// Written through this.
    pub file: &'o File,
    /// Read back through what this gives.
    pub reopen: &'o (dyn Fn() -> io::Result<File> + Sync),
}

/// Why nothing was salvaged.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// There are no pages.
    #[error(transparent)]
    Sheet(#[from] SheetError),
    /// There are pages, and no record on any of them.
    #[error("holds pages of a bbolt database, but no record of etcd on any of them")]
    NoRecords,
    /// The workers could not be started.
    #[error("the worker threads cannot be started: {0}")]
    Workers(#[from] rayon::ThreadPoolBuildError),
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// What was read a moment ago is not there any more.
    #[error("is changed by somebody while it is read; copy it, and salvage the copy")]
    Changing,
    /// The new file could not be written.
    #[error("the new file {0}")]
    Write(WriteError),
    /// What was written is not what it was to be.
    #[error("the new file is not what it was to be: {0}")]
    Unproved(String),
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// The new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Its records, each of which was read back.
    pub records: u64,
}

/// What a small bucket of the new file has, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketRow {
    /// Its name.
    pub name: Vec<u8>,
    /// How many pairs.
    pub pairs: u64,
    /// Where they come from.
    pub origin: Origin,
}

/// A page that the tree leads to and that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostPage {
    /// Which; none where the branch above does not tell any more.
    pub page: Option<u64>,
    /// Whether leaves were below it.
    pub is_branch: bool,
    /// The first revision that was on or below it, as far as the branch above tells.
    pub first: u64,
    /// The last one; none where it went on to the newest.
    pub last: Option<u64>,
}

/// What was found, taken and lost.
#[derive(Debug)]
pub struct Salvage {
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the file.
    pub pages: u32,
    /// Digests of the file, where they were asked for.
    pub digests: Option<Digests>,
    /// Whether a meta record that holds told the root; otherwise it was found by itself.
    pub root_told: bool,
    /// Whether the newest root that is left may not be the last one.
    pub may_be_older: bool,
    /// What etcd notes about itself.
    pub meta: StoreMeta,
    /// What is known of compactions.
    pub compaction: Compaction,
    /// The newest revision that was taken; 0 where none was.
    pub revision: u64,
    /// How many records were taken, and left out.
    pub counts: Counts,
    /// Leaf pages with records that nothing leads to.
    pub free_leaves: u64,
    /// Copies that differ: the first ones.
    pub conflicts: Vec<Conflict>,
    /// How many.
    pub conflict_count: u64,
    /// Revisions above the last compaction that are missing.
    pub holes: Holes,
    /// Between which revisions the tree leads to nothing.
    pub gaps: Vec<Gap>,
    /// Pages of the tree of records that are lost.
    pub lost_pages: Vec<LostPage>,
    /// Keys and revisions of records that are doubtful: the first ones.
    pub doubtful: Vec<(Vec<u8>, u64)>,
    /// Keys of which only records are left that may be out of date, so that nothing of them was taken: the first ones.
    pub lost_keys: Vec<Vec<u8>>,
    /// The other buckets.
    pub buckets: Vec<BucketRow>,
    /// Everything that does not hold.
    pub faults: Faults,
    /// The new file.
    pub product: Product,
}

impl Salvage {
    /// Whether the file holds in every way, so that nothing was lost.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty() && !self.digests.is_some_and(|digests| digests.trailer == Trailer::Mismatch)
    }
}

/// Salvages what `file` holds into a new snapshot.
///
/// # Errors
///
/// [`SalvageError`]. What `out` holds then is of no use.
pub fn salvage(file: &File, request: &Request<'_>, out: &Out<'_>) -> Result<Salvage, SalvageError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(request.pass.threads).build()?;
    pool.install(|| salvage_here(file, request, out))
}

fn salvage_here(file: &File, request: &Request<'_>, out: &Out<'_>) -> Result<Salvage, SalvageError> {
    let length = file.metadata()?.len();
    let progress = request.pass.progress;
    let hash = || request.pass.digest.then(|| digest::digests(file, length, progress)).transpose();
    let (digests, sheet) = rayon::join(hash, || Sheet::read(file, progress));
    let (digests, sheet) = (digests?, sheet?);
    let is_proved = digests.is_some_and(|digests| digests.trailer == Trailer::Ok);
    let top = tree::top(&sheet);
    let tree = match &top.key {
        Some(BucketRoot::Page(root)) => tree::tree(&sheet, *root),
        _ => Tree::default(),
    };
    let smalls = Smalls::gather(&sheet, &top);
    let roles = Roles::new(&sheet, &tree, smalls.pages.iter().copied());
    // An older root does not know the newest leases.
    let leases = smalls.leases().filter(|_| !top.may_be_older);
    let key = TraceKey::random()?;
    let inline = matches!(top.key, Some(BucketRoot::Inline(_))).then_some(top.key_page);
    let known = Known { sheet: &sheet, tree: &tree, roles: &roles, inline, leases: leases.as_ref(), key, is_proved };
    let mut found = known.scan(progress);
    if request.interrupted.load(Ordering::Relaxed) {
        return Err(SalvageError::Interrupted);
    }
    let compaction = compaction(&smalls, &top);
    let goes_by_tree = settle::order(&mut found.marks, !top.is_told, compaction);
    let gaps = if goes_by_tree { gaps(&top, &tree, &found) } else { Gaps::everywhere() };
    let mut faults = faults(&sheet, &top, &tree, &smalls, found.faults);
    let mut settled = settle::settle(&found.marks, &gaps, compaction, request.include);
    if settled.taken.is_empty() && !(top.is_told && faults.is_empty()) {
        return Err(SalvageError::NoRecords);
    }
    drop(found.marks);
    let taken = std::mem::take(&mut settled.taken);
    let content = Content {
        sheet: &sheet,
        roles: &roles,
        taken: &taken,
        buckets: &smalls.buckets,
        key,
        txid: top.txid,
        interrupted: request.interrupted,
        progress,
    };
    content.write(out.file)?;
    out.file.sync_all()?;
    let hash = content.verify((out.reopen)()?)?;
    let product = write::seal(out.file, hash, taken.len() as u64)?;
    let mut again = Again::new(&sheet, &roles);
    let holes = settle::holes(&taken, compaction);
    doubts(&settled, &holes, &mut faults);
    Ok(Salvage {
        page_size: sheet.page_size(),
        pages: sheet.pages(),
        digests,
        root_told: top.is_told,
        may_be_older: top.may_be_older,
        meta: smalls.meta(),
        compaction,
        revision: taken.last().map_or(0, |mark| mark.main()),
        counts: settled.counts,
        free_leaves: found.free_leaves,
        holes,
        doubtful: doubtful(&settled, &mut again),
        lost_keys: lost_keys(&settled, &mut again),
        conflicts: settled.conflicts,
        conflict_count: settled.conflict_count,
        gaps: gaps.all().to_vec(),
        lost_pages: lost_pages(&tree),
        buckets: rows(&smalls),
        faults,
        product,
    })
}

/// What the store says of compactions, as far as that is its last word.
fn compaction(smalls: &Smalls, top: &Top) -> Compaction {
    let meta = smalls.meta();
    let main = |mark: Option<i64>| mark.map_or(0, |main| u64::try_from(main).unwrap_or(0));
    let noted = match smalls.buckets.get(schema::META).map(|bucket| &bucket.origin) {
        Some(Origin::Root | Origin::Pages) => Some(main(meta.compacted())),
        // Of a part only what it says counts, not what it does not say.
        Some(Origin::Partly) => meta.compacted().map(|compacted| main(Some(compacted))),
        _ => None,
    };
    // A newer root might have told of a later compaction. That one was, though, is never taken back.
    let is_last = top.is_told && smalls.is_whole(schema::META);
    Compaction { revision: noted.filter(|_| is_last), finished: noted.map(|_| main(meta.finished_compaction)), noted }
}

fn gaps(top: &Top, tree: &Tree, found: &scan::Found) -> Gaps {
    let newest = found.marks.iter().filter(|mark| mark.has(mark::Bit::Tree)).map(|mark| mark.rev()).max();
    match top.key {
        None => Gaps::everywhere(),
        Some(BucketRoot::Inline(_)) if !found.broken.is_empty() => Gaps::everywhere(),
        _ => Gaps::of(tree, &found.broken, top.may_be_older.then(|| newest.map_or(Rev::FIRST, Rev::next))),
    }
}

/// All that does not hold.
fn faults(sheet: &Sheet<'_>, top: &Top, tree: &Tree, smalls: &Smalls, mut faults: Faults) -> Faults {
    for page in [0, 1] {
        if !sheet.metas().iter().any(|(position, _)| u64::from(*position) == page) {
            faults.push(Fault::page(page, FaultKind::Meta, "is no valid meta page"));
        }
    }
    if !top.is_told {
        let detail = "no meta page leads to a root; the newest one that was found is taken";
        faults.push(Fault::file(FaultKind::Bucket, detail));
    }
    if top.key.is_none() {
        faults.push(Fault::file(SCHEMA_FAULT, "nothing leads to the records; leaf pages are taken as they are found"));
    }
    let mark = sheet.metas().iter().find(|(position, _)| *position < 2).map(|(_, meta)| meta.high_water_mark);
    let whole_pages = sheet.bytes() / u64::from(sheet.page_size());
    if mark.is_some_and(|mark| mark > whole_pages) {
        let missing = mark.unwrap_or_default() - whole_pages;
        faults.push(Fault::file(FaultKind::Truncated, format!("{missing} pages are missing at the end of the file")));
    }
    for lost in &tree.lost {
        let kind = if gaps::is_branch(tree, lost) { "a branch page" } else { "a leaf page" };
        match lost.id {
            Some(id) => faults.push(Fault::page(
                id,
                FaultKind::WrongId,
                format!("is not the page that the tree leads to: {kind} is lost"),
            )),
            None => {
                faults.push(Fault::file(FaultKind::Element, format!("a branch does not tell any more where {kind} is")))
            }
        }
    }
    for leaf in &tree.leaves {
        let id = sheet.note(leaf.position).id;
        if id != leaf.position {
            let detail = format!("is page {id}, which belongs elsewhere; its records are taken from there");
            faults.push(Fault::page(u64::from(leaf.position), FaultKind::WrongId, detail));
        }
    }
    for (name, page) in &smalls.lost {
        let detail = format!("of the bucket {:?} is lost, in whole or in part", String::from_utf8_lossy(name));
        faults.push(Fault::page(*page, FaultKind::Bucket, detail));
    }
    if smalls.nested > 0 {
        faults
            .push(Fault::file(SCHEMA_FAULT, format!("{} buckets within buckets, where etcd has none", smalls.nested)));
    }
    faults
}

/// What is not certain, in words.
fn doubts(settled: &Settled, holes: &Holes, faults: &mut Faults) {
    let Counts { doubtful, compacted_taken, fragments_taken, undecided, .. } = settled.counts;
    let certain = settled.conflict_count - undecided.min(settled.conflict_count);
    let told = [
        (doubtful, "records of pages that nothing leads to are taken, though a compaction may have taken them out"),
        (compacted_taken, "records are taken that were compacted away, or may have been"),
        (fragments_taken, "records are taken from bytes that are no page any more"),
        (undecided, "revisions are left out, since copies of them differ and nothing speaks for one"),
        (certain, "revisions have copies that differ from the one that is taken"),
        (holes.total, "revisions above the last compaction are missing"),
        (holes.partial, "revisions are there in part only"),
    ];
    for (count, words) in told.into_iter().filter(|(count, _)| *count > 0) {
        faults.push(Fault::file(SALVAGE_FAULT, format!("{count} {words}")));
    }
}

fn lost_pages(tree: &Tree) -> Vec<LostPage> {
    let row = |lost: &tree::Lost| LostPage {
        page: lost.id,
        is_branch: gaps::is_branch(tree, lost),
        first: lost.lower.main(),
        last: (lost.upper != Rev::END).then(|| lost.upper.before().main()),
    };
    tree.lost.iter().take(settle::NAMED).map(row).collect()
}

fn lost_keys(settled: &Settled, again: &mut Again<'_>) -> Vec<Vec<u8>> {
    let mut seen = HashSet::new();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for mark in &settled.shadows {
        let key = again.record(mark).and_then(KeyValue::decode).map(|kv| kv.key.to_vec());
        keys.extend(key.filter(|key| !key.is_empty() && seen.insert(key.clone())));
    }
    keys.sort();
    keys
}

fn doubtful(settled: &Settled, again: &mut Again<'_>) -> Vec<(Vec<u8>, u64)> {
    let named = |mark: &mark::Mark| {
        let key = again.record(mark).and_then(KeyValue::decode)?.key.to_vec();
        Some((key, mark.main()))
    };
    settled.doubtful.iter().filter_map(named).collect()
}

fn rows(smalls: &Smalls) -> Vec<BucketRow> {
    let row = |(name, small): (&Vec<u8>, &buckets::Small)| BucketRow {
        name: name.clone(),
        pairs: small.pairs.len() as u64,
        origin: small.origin.clone(),
    };
    smalls.buckets.iter().map(row).collect()
}
