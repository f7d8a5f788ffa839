//! A snapshot or a bare database: one pass over the file that reads everything once.
//!
//! While one thread hashes the file for itself, the small buckets and the branch pages of the `key` bucket are read,
//! then the workers share its leaf pages ([`super::scan`]).

use std::fs::File;
use std::io;
use std::sync::Mutex;

use crate::bbolt::bucket::{Bucket, BucketRoot, inline_elements};
use crate::bbolt::check::{Checker, Outcome};
use crate::bbolt::leaves::{self, Depth};
use crate::bbolt::meta::Meta;
use crate::bbolt::page::Elements;
use crate::bbolt::reached::Reached;
use crate::bbolt::{Fault, Faults, OpenError, PageFile, leaf};
use crate::etcd::hash::Crc;
use crate::etcd::meta::StoreMeta;
use crate::etcd::schema;
use crate::etcd::standing::Standing;
use crate::etcd::{KeyValue, Revision, RevisionKey};
use crate::lock::{into_inner, lock};

use super::digest::{self, Digests, TRAILER_BYTES, Trailer};
use super::ordered::{Groups, Pages};
use super::pace::Pace;
use super::residue::Residue;
use super::scan::{self, Layout, Scan, Visitor};
use super::{Place, SCHEMA_FAULT};

/// How often a pass is made anew when somebody writes to the file meanwhile.
const TRIES: usize = 3;

/// So many pairs of a sampled leaf page are looked at.
const SAMPLED_PAIRS: usize = 256;

/// An open snapshot or database.
#[derive(Debug)]
pub struct Snapshot {
    file: PageFile,
    origin: Option<Box<Broken>>,
}

/// What is to be said of a broken file wherever what was salvaged from it is read in its place.
#[derive(Clone, Debug)]
pub struct Broken {
    /// What does not hold in it.
    pub faults: Faults,
    /// Its digests, where they were asked for.
    pub digests: Option<Digests>,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is no bbolt database, or cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Hashing failed.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The workers could not be started.
    #[error("the worker threads cannot be started: {0}")]
    Workers(#[from] rayon::ThreadPoolBuildError),
    /// Its tree was another one whenever it was looked at.
    #[error("is changed by somebody while it is read; take a snapshot, or copy it while etcd stands still")]
    Changing,
    /// No server answers, or none that may be asked.
    #[cfg(feature = "live")]
    #[error(transparent)]
    Live(#[from] crate::live::Unanswered),
    /// It is a database, but not etcd's, or the bucket is lost.
    #[error("has no bucket `key`, in which etcd keeps its records{}", first_fault(.0))]
    NoKeyBucket(Vec<Fault>),
    /// It is an SQLite database that is not kine's, or cannot be read.
    #[cfg(feature = "kine")]
    #[error(transparent)]
    Kine(#[from] super::kine::KineReadError),
}

fn first_fault(faults: &[Fault]) -> String {
    faults.first().map_or(String::new(), |fault| format!(" ({fault})"))
}

/// What a pass does beside reading.
#[derive(Clone, Copy)]
pub struct PassOptions<'p> {
    /// Whether to hash the file.
    pub digest: bool,
    /// How many threads, the hashing one included; 0 = as many as there are processors.
    pub threads: usize,
    /// Is told the bytes that were read, by the hashing thread and by the workers alike.
    pub progress: &'p (dyn Fn(u64) + Sync),
}

/// What the store says of itself, known before its records are read.
#[derive(Debug)]
pub struct Outline {
    /// What etcd notes about itself.
    pub meta: StoreMeta,
    /// What an entry of the log may depend on beside the keys.
    pub standing: Standing,
    /// Checksums of the buckets before and behind `key`, names included.
    pub before_key: Crc,
    /// See [`before_key`](Self::before_key).
    pub behind_key: Crc,
    key: KeyBucket,
}

#[derive(Debug)]
enum KeyBucket {
    Tree(Layout),
    Inline(Bucket),
}

/// What a pass over the file gave.
#[derive(Debug)]
pub struct Pass<V> {
    /// What the store says of itself.
    pub outline: Outline,
    /// The workers' visitors.
    pub visitors: Vec<V>,
    /// The digests, where they were asked for.
    pub digests: Option<Digests>,
    /// What is wrong with the file.
    pub faults: Faults,
    /// Pages below the high-water mark that nothing reaches.
    pub free_pages: u64,
    /// Somebody wrote to the file during every try: what was read may be of several moments.
    pub unsteady: bool,
}

impl Snapshot {
    /// Finds the current meta page of `file`.
    pub fn open(file: File) -> Result<Self, OpenError> {
        Ok(Self { file: PageFile::open(file)?, origin: None })
    }

    /// The same for what was salvaged from a broken file: every pass tells the faults and the digests of that one.
    pub fn open_salvaged(file: File, origin: Broken) -> Result<Self, OpenError> {
        Ok(Self { file: PageFile::open(file)?, origin: Some(Box::new(origin)) })
    }

    /// The pages.
    pub fn pages(&self) -> &PageFile {
        &self.file
    }

    /// Whether the file's length says that a digest is appended.
    pub fn has_trailer(&self) -> bool {
        Trailer::expected(self.origin.as_ref().map_or(self.file.file_bytes(), |broken| broken.bytes))
    }

    /// Whether a digest is missing, whole or in part, from what a server sent as a snapshot.
    ///
    /// A snapshot's pages end at its high-water mark, and its two meta records differ in nothing but their transaction id,
    /// the first being one ahead. A member's own database has neither in common with it, but by rare chance.
    pub fn lost_its_trailer(&self) -> bool {
        let same_tree = |first: &Meta, second: &Meta| Meta { txid: first.txid, ..*second } == *first;
        match self.file.metas() {
            [Ok(first), Ok(second)] => {
                let behind_pages = self.file.file_bytes().checked_sub(self.file.used_bytes());
                !self.has_trailer()
                    && behind_pages.is_some_and(|bytes| bytes < TRAILER_BYTES)
                    && same_tree(first, second)
                    && first.txid == second.txid.wrapping_add(1)
            }
            _ => false,
        }
    }

    /// Reads everything once. `prepare` is called when the outline is known, `visitor` makes one for each worker.
    ///
    /// Where the file changes under the reader the pass is made anew, three times at most.
    pub fn pass<P: Sync, V: Visitor>(
        &mut self,
        options: PassOptions<'_>,
        prepare: impl Fn(&PageFile, &Outline) -> P + Sync,
        visitor: impl Fn(&P) -> V + Sync,
    ) -> Result<Pass<V>, ReadError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
        let wants_digest = options.digest;
        let options = PassOptions { digest: wants_digest && self.origin.is_none(), ..options };
        for tries_left in (0..TRIES).rev() {
            let before = self.file.meta().txid;
            let outcome = pool.install(|| match self.attempt(options, Depth::Uniform, &prepare, &visitor)? {
                None => self.attempt(options, Depth::Unknown, &prepare, &visitor),
                some => Ok(some),
            });
            let unsteady = self.file.current_txid()? != Some(before);
            match outcome {
                Ok(Some(pass)) if tries_left == 0 || !unsteady => {
                    return Ok(self.told(Pass { unsteady, ..pass }, wants_digest));
                }
                // What looks lost may have been overwritten under the reader, so only a file that stands still is judged.
                Err(error) if !unsteady => return Err(error),
                _ => self.file = PageFile::open(self.file.file().try_clone()?)?,
            }
        }
        Err(ReadError::Changing)
    }

    /// What a pass gave, with what is to be said of the broken file.
    fn told<V>(&self, mut pass: Pass<V>, wants_digest: bool) -> Pass<V> {
        if let Some(broken) = &self.origin {
            pass.faults.append(broken.faults.clone());
            pass.digests = broken.digests.filter(|_| wants_digest);
        }
        pass
    }

    /// One try; none if the tree turned out not to be uniform.
    fn attempt<P: Sync, V: Visitor>(
        &self,
        options: PassOptions<'_>,
        depth: Depth,
        prepare: &(impl Fn(&PageFile, &Outline) -> P + Sync),
        visitor: &(impl Fn(&P) -> V + Sync),
    ) -> Result<Option<Pass<V>>, ReadError> {
        let digests = Mutex::new(None);
        let mut result = None;
        // With a single thread the file is hashed behind everything else.
        let alone = rayon::current_num_threads() == 1;
        let pace = if options.digest && !alone { Pace::hashing() } else { Pace::free() };
        rayon::scope(|scope| {
            if options.digest {
                scope.spawn(|_| {
                    let progress = |bytes| {
                        pace.advance(bytes);
                        (options.progress)(bytes);
                    };
                    store(&digests, digest::digests(self.file.file(), self.file.file_bytes(), &progress));
                    pace.end();
                });
            }
            result = Some(self.read(options, depth, &pace, prepare, visitor));
        });
        let digests = into_inner(digests).transpose()?;
        let pass = result.transpose()?.flatten();
        Ok(pass.map(|pass| Pass { digests, ..pass }))
    }

    fn read<P: Sync, V: Visitor>(
        &self,
        options: PassOptions<'_>,
        depth: Depth,
        pace: &Pace,
        prepare: &(impl Fn(&PageFile, &Outline) -> P + Sync),
        visitor: &(impl Fn(&P) -> V + Sync),
    ) -> Result<Option<Pass<V>>, ReadError> {
        let mut checker = Checker::new(&self.file);
        let outline = outline(&self.file, &mut checker, depth)?;
        let prepared = prepare(&self.file, &outline);
        let visitors = match &outline.key {
            KeyBucket::Inline(bucket) => vec![inline(bucket, &mut checker.faults, visitor(&prepared))],
            KeyBucket::Tree(layout) => {
                let scan = Scan::new(&self.file, layout, &checker.reached, pace);
                let (visitors, faults) = work(&scan, options.progress, || visitor(&prepared));
                if scan.not_uniform() {
                    return Ok(None);
                }
                checker.faults.append(faults);
                visitors
            }
        };
        let visitors = if V::STRAYS { strays(&self.file, &checker.reached, visitors) } else { visitors };
        let outcome = checker.finish();
        let (faults, free_pages) = (outcome.faults, outcome.free_pages);
        Ok(Some(Pass { outline, visitors, digests: None, faults, free_pages, unsteady: false }))
    }
}

/// A store whose leaves are known and not read yet, for whoever wants them in the order of keys.
#[derive(Debug)]
pub struct LaidOut<'s> {
    /// What the store says of itself.
    pub outline: Outline,
    checker: Checker<'s>,
}

impl Snapshot {
    /// Reads everything but the records.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoKeyBucket`].
    pub fn lay_out(&self, depth: Depth) -> Result<LaidOut<'_>, ReadError> {
        let mut checker = Checker::new(&self.file);
        let outline = outline(&self.file, &mut checker, depth)?;
        Ok(LaidOut { outline, checker })
    }

    /// Whether somebody wrote to the file since it was opened.
    pub fn changed(&self) -> io::Result<bool> {
        Ok(self.file.current_txid()? != Some(self.file.meta().txid))
    }
}

impl LaidOut<'_> {
    /// The leaves of the `key` bucket, to be read once.
    pub fn groups(&self) -> Groups<'_> {
        self.outline.groups(self.checker.file(), &self.checker.reached)
    }

    /// What was wrong with the file, `found` by those who read the leaves included, once all of them were read.
    pub fn finish(self, found: Faults) -> Outcome {
        self.into_outline(found).0
    }

    /// The same, and where everything is, for who reads it once more.
    pub fn into_outline(mut self, found: Faults) -> (Outcome, Outline) {
        self.checker.faults.append(found);
        (self.checker.finish(), self.outline)
    }
}

impl Outline {
    /// The leaves of the `key` bucket of `file`, out of which this was read. They are claimed in `reached`.
    pub fn groups<'o>(&'o self, file: &'o PageFile, reached: &'o Reached) -> Groups<'o> {
        let pages = match &self.key {
            KeyBucket::Tree(layout) => Pages::Tree(layout),
            KeyBucket::Inline(bucket) => Pages::Inline(bucket),
        };
        Groups::new(file, pages, reached)
    }

    /// How many leaf pages the `key` bucket has.
    pub fn leaves(&self) -> u32 {
        match &self.key {
            KeyBucket::Tree(layout) => u32::try_from(layout.leaves().len()).unwrap_or(u32::MAX),
            KeyBucket::Inline(_) => 1,
        }
    }

    /// Some keys of the store, taken from at most `leaves` leaf pages spread evenly over all revisions.
    pub fn sample(&self, file: &PageFile, leaves: usize, mut visit: impl FnMut(&[u8])) {
        let total = match &self.key {
            KeyBucket::Tree(layout) => layout.leaves().len(),
            KeyBucket::Inline(_) => 1,
        };
        let step = total.div_ceil(leaves.max(1)).max(1);
        for leaf in (0..total).step_by(step) {
            let Ok(leaf) = u32::try_from(leaf) else { return };
            let places: Vec<_> = (0..=u16::MAX - 1).map(|index| Place { leaf, index }).take(SAMPLED_PAIRS).collect();
            self.records_at(file, &places, |_, kv| visit(kv.key));
        }
    }

    /// Reads single records again, at places that ascend, and gives each to `visit`. What cannot be read any more is
    /// passed over: it was read a moment ago, so somebody is writing, which the pass notices for itself.
    pub fn records_at(&self, file: &PageFile, places: &[Place], mut visit: impl FnMut(Place, KeyValue<'_>)) {
        let mut buffer = Vec::new();
        for places in places.chunk_by(|one, next| one.leaf == next.leaf) {
            let Some(first) = places.first() else { continue };
            let elements = match &self.key {
                KeyBucket::Inline(Bucket { root: BucketRoot::Inline(bytes), parent_page, .. }) => {
                    inline_elements(*parent_page, bytes).ok()
                }
                KeyBucket::Inline(_) => None,
                KeyBucket::Tree(layout) => layout.leaves().page(first.leaf as usize).and_then(|page| {
                    let header = file.page(page, &mut buffer).ok()?;
                    Elements::new(page, &buffer, header.count).ok()
                }),
            };
            for place in places {
                // Asked beforehand, since many of the places that a sample asks for are not there, and a fault has words.
                let elements = elements.filter(|elements| usize::from(place.index) < elements.len());
                let element = elements.and_then(|elements| elements.leaf(usize::from(place.index)).ok());
                if let Some(kv) = element.and_then(|element| KeyValue::decode(element.value)) {
                    visit(*place, kv);
                }
            }
        }
    }

    /// Says of revisions that ascend whether the tree still has a record of them, and of which key.
    ///
    /// `visit` is given the index of the revision and the record's key; revisions that the tree has not are passed over.
    pub fn find(&self, file: &PageFile, revisions: &[Revision], mut visit: impl FnMut(usize, &[u8])) {
        let mut page: Option<(usize, Vec<u8>, u16)> = None;
        for (index, revision) in revisions.iter().enumerate() {
            let key = RevisionKey { revision: *revision, tombstone: false }.encode();
            let mut look = |elements: Elements<'_>| {
                let mut elements = elements.leaves().flatten();
                if let Some(kv) =
                    elements.find(|element| element.key == key).and_then(|found| KeyValue::decode(found.value))
                {
                    visit(index, kv.key);
                }
            };
            match &self.key {
                KeyBucket::Inline(Bucket { root: BucketRoot::Inline(bytes), parent_page, .. }) => {
                    inline_elements(*parent_page, bytes).ok().into_iter().for_each(&mut look);
                }
                KeyBucket::Inline(_) => {}
                KeyBucket::Tree(layout) => {
                    let Some(leaf) = layout.leaves().leaf_of(&key) else { continue };
                    if page.as_ref().is_none_or(|(known, ..)| *known != leaf) {
                        let mut buffer = page.take().map_or(Vec::new(), |(_, buffer, _)| buffer);
                        let read = layout.leaves().page(leaf).and_then(|id| file.page(id, &mut buffer).ok());
                        page = read.map(|header| (leaf, buffer, header.count));
                    }
                    if let Some((_, buffer, count)) = &page {
                        Elements::new(0, buffer, *count).ok().into_iter().for_each(&mut look);
                    }
                }
            }
        }
    }

    /// The whole snapshot digest, given the checksum of the `key` bucket's pairs.
    pub fn snapshot_hash(&self, key_pairs: Crc) -> u32 {
        let mut hash = self.before_key;
        hash.add(schema::KEY);
        hash.join(key_pairs);
        hash.join(self.behind_key);
        hash.value
    }
}

fn store<T>(slot: &Mutex<Option<T>>, value: T) {
    *lock(slot) = Some(value);
}

/// Runs as many workers as the current pool has threads; those that find nothing left to do end at once.
fn work<V: Visitor>(
    scan: &Scan<'_>,
    progress: &(dyn Fn(u64) + Sync),
    visitor: impl Fn() -> V + Sync,
) -> (Vec<V>, Faults) {
    let done = Mutex::new((Vec::new(), Faults::new()));
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| {
                let mut own = visitor();
                let faults = scan.work(&mut own, progress);
                own.end();
                let mut done = lock(&done);
                done.0.push(own);
                done.1.append(faults);
            });
        }
    });
    into_inner(done)
}

/// Lets the workers' visitors look at the pages that no tree reaches.
fn strays<V: Visitor>(file: &PageFile, reached: &Reached, mut visitors: Vec<V>) -> Vec<V> {
    let residue = Residue::new(file, reached);
    let residue = &residue;
    rayon::scope(|scope| {
        for visitor in &mut visitors {
            scope.spawn(move |_| residue.work(visitor));
        }
    });
    visitors
}

/// Reads everything but the records: the small buckets whole, of the `key` bucket where its leaves are.
fn outline(file: &PageFile, checker: &mut Checker<'_>, depth: Depth) -> Result<Outline, ReadError> {
    let (mut meta, mut standing) = (StoreMeta::default(), Standing::default());
    let (mut before_key, mut behind_key) = (Crc::default(), Crc::default());
    let mut key = None;
    let mut has_meta = false;
    for (name, bucket) in checker.top_level() {
        has_meta |= name == schema::META;
        if name == schema::KEY {
            key = Some(bucket);
            continue;
        }
        let crc = if key.is_none() { &mut before_key } else { &mut behind_key };
        crc.add(&name);
        checker.bucket(&bucket, &mut |pair, _| {
            crc.add(pair.element.key);
            if !pair.element.is_bucket {
                crc.add(pair.element.value);
                meta.note(&name, pair.element.key, pair.element.value);
                standing.note(&name, pair.element.key, pair.element.value);
            }
        });
    }
    let Some(bucket) = key else {
        let faults = std::mem::take(&mut checker.faults);
        return Err(ReadError::NoKeyBucket(faults.into_sorted()));
    };
    if !has_meta {
        let detail = "has no bucket `meta`, which every etcd makes and without which none starts";
        checker.faults.push(Fault::file(SCHEMA_FAULT, detail));
    }
    let key = match bucket.root {
        BucketRoot::Page(root) => {
            let leaves = leaves::find(file, root, depth, &checker.reached, &mut checker.faults);
            KeyBucket::Tree(Layout::new(file, leaves, &mut checker.faults))
        }
        BucketRoot::Inline(_) => KeyBucket::Inline(bucket),
    };
    Ok(Outline { meta, standing, before_key, behind_key, key })
}

/// Visits the records of a store that is so small that its `key` bucket is inline.
fn inline<V: Visitor>(bucket: &Bucket, faults: &mut Faults, mut visitor: V) -> V {
    let BucketRoot::Inline(bytes) = &bucket.root else { return visitor };
    let page = bucket.parent_page;
    if let Some(elements) = faults.note(inline_elements(page, bytes)) {
        let mut content = Faults::new();
        leaf::pairs(page, &elements, leaf::Bounds::default(), faults, |index, element| {
            scan::visit(page, 0, index, &element, &mut content, &mut visitor);
        });
        faults.append(content);
    }
    visitor
}
