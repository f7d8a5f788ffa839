//! The proof: the written file is read back, every page checked, and held against the source record by record.
//!
//! * Whatever the rewrite left alone is the same byte for byte; of what it wrote anew everything but the value is.
//! * Each value that was written anew opens with the target configuration alone, by its first key, to exactly what the source's
//!   value holds, which is opened once more for that.
//! * No record is missing and none is there that the source has not; the other buckets hold what they are to hold.
//! * Every page is reached, every invariant of `check` holds, and no byte stands where nothing belongs.
//! * What was read of the source has the digest that stands at its end.
//!
//! Both files are hashed by the workers, each what it has in hand ([`Relay`]). That the source is hashed here and not when it is read
//! for the first time lets two of them hash at once: of one file only one can.
//!
//! What is to become of a record that is the same in both files is decided anew here, from the source. Of one that differs it is
//! asked whether it was selected and would be written in another form; that the object inside is the one its key names was seen
//! when it was written, and is not looked at again.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::bbolt::check::Checker;
use crate::bbolt::page::LeafElement;
use crate::bbolt::reached::Reached;
use crate::bbolt::{Fault, FaultKind, Faults};
use crate::etcd::{Around, schema};
use crate::kube::key::Roots;
use crate::lock::{into_inner, lock};
use crate::source::digest::{self, Digests};
use crate::source::ordered::{Groups, LeafReader};
use crate::source::relay::Relay;
use crate::source::sha256::Sha256;
use crate::source::snapshot::{Outline, ReadError, Snapshot};
use crate::source::{Depth, PageFile, Record};

use super::buckets::{self, Edits};
use super::prove::Proving;
use super::write::{self, Job, RewriteError};

/// What the proof needs to know of the source.
pub struct Source<'s> {
    /// The source.
    pub snapshot: &'s Snapshot,
    /// Where everything is in it.
    pub outline: &'s Outline,
    /// Where the API servers keep their objects.
    pub roots: &'s Arc<Roots>,
}

/// What was proved.
#[derive(Clone, Debug)]
pub struct Proof {
    /// SHA-256 over all that was read back, to go on with whatever the file ends with.
    pub hash: Sha256,
    /// Records that were held against the source's.
    pub records: u64,
    /// The source's digests, if they were wanted.
    pub source: Option<Digests>,
}

/// Reads back what `file` holds and proves it.
///
/// # Errors
///
/// [`RewriteError::Trailer`] if the source is not what it was when its digest was made, else [`RewriteError::Unproved`] with the first
/// thing that is not as it should be.
pub fn verify(source: &Source<'_>, job: &Job<'_>, file: File) -> Result<Proof, RewriteError> {
    let written = Snapshot::open(file).map_err(|error| RewriteError::Unproved(error.to_string()))?;
    let (old, new) = (source.snapshot.pages(), written.pages());
    let progress = job.pass.progress;
    let hashing = || Relay::new(old.file(), digest::database_bytes(old.file_bytes()), progress);
    let relays = Relays { old: job.pass.digest.then(hashing), new: Relay::new(new.file(), new.file_bytes(), progress) };
    let proved = compare_all(source, job, &written, &relays);
    if let Err(RewriteError::Interrupted) = proved {
        return Err(RewriteError::Interrupted);
    }
    // If the source is damaged, whatever else is wrong comes from that.
    let hash = relays.old.map(Relay::finish).transpose().map_err(ReadError::Io)?;
    let digests =
        hash.map(|hash| Digests::of(old.file(), old.file_bytes(), hash)).transpose().map_err(ReadError::Io)?;
    let source = digests.map(write::fitting).transpose()?;
    Ok(Proof { records: proved?, hash: relays.new.finish()?, source })
}

/// What hashes the two files.
struct Relays<'r> {
    old: Option<Relay<'r>>,
    new: Relay<'r>,
}

/// Holds everything against the source, and gives how many records that was.
fn compare_all(
    source: &Source<'_>,
    job: &Job<'_>,
    written: &Snapshot,
    relays: &Relays<'_>,
) -> Result<u64, RewriteError> {
    let new = relays.new.beside(|| written.lay_out(Depth::Uniform));
    let new = new.map_err(|error| RewriteError::Unproved(error.to_string()))?;
    let old_pages = source.snapshot.pages();
    let reached = Reached::new(old_pages.readable_pages());
    let old_groups = source.outline.groups(old_pages, &reached).hashed_by(relays.old.as_ref());
    let new_groups = new.groups().hashed_by(Some(&relays.new));
    let held = Held { source, job, old: &old_groups, new: &new_groups, records: AtomicU64::new(0) };
    let faults = held.all()?;
    let records = held.records.into_inner();
    let outcome = new.finish(faults);
    let first = outcome.faults.into_sorted().into_iter().next();
    if let Some(fault) = first {
        return Err(RewriteError::Unproved(fault.to_string()));
    }
    if outcome.free_pages > 0 {
        let free = outcome.free_pages;
        return Err(RewriteError::Unproved(format!("{free} pages hold nothing of the source's")));
    }
    same_buckets(old_pages, written.pages(), &job.edits)?;
    Ok(records)
}

/// Two stores that are held against each other.
struct Held<'h> {
    source: &'h Source<'h>,
    job: &'h Job<'h>,
    old: &'h Groups<'h>,
    new: &'h Groups<'h>,
    records: AtomicU64,
}

impl Held<'_> {
    /// Holds all records against one another.
    fn all(&self) -> Result<Faults, RewriteError> {
        let compared: Mutex<Vec<Result<Faults, RewriteError>>> = Mutex::new(Vec::new());
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| {
                    let result = Comparing::new(self).work();
                    lock(&compared).push(result);
                });
            }
        });
        let mut faults = Faults::new();
        for result in into_inner(compared) {
            faults.append(result?);
        }
        Ok(faults)
    }
}

/// A worker that goes over both stores in step.
struct Comparing<'c> {
    held: &'c Held<'c>,
    old: LeafReader<'c>,
    new: Follower<'c>,
    proving: Proving<'c>,
    faults: Faults,
}

impl<'c> Comparing<'c> {
    fn new(held: &'c Held<'c>) -> Self {
        Self {
            held,
            old: held.old.reader(),
            new: Follower { groups: held.new, reader: held.new.reader(), leaf: 0, pair: 0, end: 0, loaded: false },
            proving: Proving::new(&held.job.policy, held.source.roots.clone()),
            faults: Faults::new(),
        }
    }

    fn work(mut self) -> Result<Faults, RewriteError> {
        while let Some((_, leaves)) = self.held.old.take() {
            if self.held.job.interrupted.load(Ordering::Relaxed) {
                return Err(RewriteError::Interrupted);
            }
            let (mut begun, mut read) = (false, 0);
            for leaf in leaves.clone() {
                read += self.old.load(leaf, leaves.end, &mut self.faults);
                self.leaf(leaf, leaves.end, &mut begun)?;
            }
            (self.held.job.pass.progress)(read);
            if begun {
                self.new.ends()?;
            }
        }
        Ok(self.faults)
    }

    /// `end` is the first leaf of the next group.
    fn leaf(&mut self, leaf: usize, end: usize, begun: &mut bool) -> Result<(), RewriteError> {
        let kept = self.held.job.kept.map(|kept| kept.on(leaf));
        let mut records = 0;
        for number in 0..self.old.len() {
            let Some((element, Ok(record))) = self.old.record(number) else { continue };
            if kept.is_some_and(|kept| kept.binary_search(&record.place).is_err()) {
                continue;
            }
            if !*begun {
                let behind = self.held.old.first_key(end);
                self.new.begin(element.key, behind.as_deref(), &mut self.faults);
                *begun = true;
            }
            let found = self.new.next(&mut self.faults)?;
            if found.key != element.key {
                return Err(unlike(&record, "is not in its place"));
            }
            compare(&mut self.proving, &record, element.value, found.value)?;
            records += 1;
        }
        // By leaves, since threads that add to one number at every record wait for one another.
        self.held.records.fetch_add(records, Ordering::Relaxed);
        Ok(())
    }
}

/// Holds a record against what was written of it.
fn compare(proving: &mut Proving<'_>, record: &Record<'_>, stored: &[u8], found: &[u8]) -> Result<(), RewriteError> {
    if record.revision.tombstone {
        return if found == stored { Ok(()) } else { Err(unlike(record, "is another deletion")) };
    }
    let kv = &record.kv;
    let outcome = match found == stored {
        true => proving.stayed(kv.key, kv.value),
        false => proving.written(kv.key, kv.value, || {
            // The key and all that etcd notes beside the value.
            let around = Around::of(stored).ok_or("stands where no record was")?;
            around.value_in(found).ok_or_else(|| "differs in more than its value".into())
        }),
    };
    outcome.map_err(|what| unlike(record, &what))
}

fn unlike(record: &Record<'_>, what: &str) -> RewriteError {
    let main = record.revision.revision.main;
    RewriteError::Unproved(format!("the record at revision {main} {what}"))
}

/// The records of the written file, from any of them on.
struct Follower<'f> {
    groups: &'f Groups<'f>,
    reader: LeafReader<'f>,
    leaf: usize,
    pair: usize,
    /// Leaves before this one are likely to be wanted, and worth being read together.
    end: usize,
    loaded: bool,
}

impl Follower<'_> {
    /// Goes to the leaf on which `key` must be, to read on to the one that has `behind`; to the last one if there is none.
    fn begin(&mut self, key: &[u8], behind: Option<&[u8]>, faults: &mut Faults) {
        let leaves = self.groups.leaves();
        self.end = behind.and_then(|behind| self.groups.leaf_of(behind)).unwrap_or(leaves);
        self.leaf = self.groups.leaf_of(key).unwrap_or(leaves);
        self.load(faults);
    }

    /// The next pair.
    fn next(&mut self, faults: &mut Faults) -> Result<LeafElement<'_>, RewriteError> {
        if self.pair == self.reader.len() {
            self.leaf += 1;
            self.load(faults);
        }
        let number = self.pair;
        self.pair += 1;
        let missing = || RewriteError::Unproved("records are missing at its end".into());
        self.reader.pair(number).filter(|_| self.loaded).ok_or_else(missing)
    }

    /// What was packed together ends together.
    fn ends(&self) -> Result<(), RewriteError> {
        match self.loaded && self.pair == self.reader.len() {
            true => Ok(()),
            false => Err(RewriteError::Unproved(format!("page {} holds more than it should", self.reader.page()))),
        }
    }

    fn load(&mut self, faults: &mut Faults) {
        self.pair = 0;
        self.loaded = self.leaf < self.groups.leaves();
        if !self.loaded {
            return;
        }
        self.reader.load(self.leaf, self.end, faults);
        if let Some(offset) = self.reader.slack() {
            let detail = "holds bytes behind its last record";
            faults.push(Fault::page(self.reader.page(), FaultKind::Element, detail).at(offset));
        }
    }
}

/// Everything but the records must be the source's, with the changes that were asked for.
fn same_buckets(old: &PageFile, new: &PageFile, edits: &Edits) -> Result<(), RewriteError> {
    if digest_of_buckets(old, edits) == digest_of_buckets(new, &Edits::default()) {
        return Ok(());
    }
    Err(RewriteError::Unproved("its other buckets do not hold what they are to hold".into()))
}

/// A digest over names, sequences and pairs of all buckets but `key`, and over the name and sequence of that.
fn digest_of_buckets(file: &PageFile, edits: &Edits) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    let mut checker = Checker::new(file);
    for (name, bucket) in checker.top_level() {
        add(&name);
        add(&bucket.sequence.to_le_bytes());
        if name == schema::KEY {
            continue;
        }
        let outcome: Result<(), std::convert::Infallible> =
            buckets::walk(&mut checker, (&name, &bucket), edits, &mut |_| (), &mut |key, value| {
                add(key);
                add(value);
                Ok(())
            });
        let Ok(()) = outcome;
    }
    hash.finalize()
}
