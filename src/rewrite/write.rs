//! The whole store into a file, in one pass over the source: every value decided, sealed and packed by the worker that reads
//! it, in the order of keys. Without a file it is only planned.
//!
//! Another thread has the system write what is done to the disk, so that little is left to wait for at the end. The source's digest
//! is for the proof to make, which reads it once more; what is only planned is hashed by the workers, each what it has in hand
//! ([`Relay`]).

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::audit::survey;
use crate::bbolt::check::Checker;
use crate::bbolt::meta::Meta;
use crate::bbolt::page::ELEMENT_BYTES;
use crate::bbolt::turns::Turns;
use crate::bbolt::write::{Fill, WriteError, Writer};
use crate::bbolt::{Fault, Faults};
use crate::etcd::revision::REVISION_BYTES;
use crate::etcd::schema;
#[cfg(feature = "kine")]
use crate::kine::KineError;
use crate::kube::key::Roots;
use crate::lock::{into_inner, lock};
use crate::source::digest::{self, Digests, Trailer};
use crate::source::ordered::{Groups, LeafReader};
use crate::source::relay::Relay;
use crate::source::shelf::ShelfError;
use crate::source::snapshot::{LaidOut, Outline, PassOptions, ReadError, Snapshot};
use crate::source::store::Reader;
use crate::source::trace::{TraceRoom, Traces};
use crate::source::{Depth, Record, SCHEMA_FAULT, StoreMeta};

use super::buckets::{self, Edits};
use super::decide::{Decision, Policy};
use super::judging::{Inside, Judging, Noted, Refused};
use super::keep::Kept;
use super::seal::{Batch, MakeError};
use super::tally::{Kinds, Unsettled};
use super::target::{RandomStream, Randomness, Target};

/// Packed pages of one group that are handed over before it is done, so that large values do not fill the memory.
const PART_BYTES: usize = 4 << 20;

/// Bytes that may be written before the system is asked again to bring them to the disk. So many may be left to wait for in the end.
const SYNC_BYTES: u64 = 16 << 20;

/// How often it is looked whether there are so many.
const SYNC_PAUSE: Duration = Duration::from_millis(5);

/// What is to be written, and how.
pub struct Job<'j> {
    /// What becomes of a value.
    pub policy: Policy<'j>,
    /// Where the API servers keep their objects; found by itself where it is not given.
    pub roots: Option<Roots>,
    /// Only these records; none for all.
    pub kept: Option<&'j Kept>,
    /// Changes beside the records.
    pub edits: Edits,
    /// Where nonces and IVs come from.
    pub randomness: &'j dyn Randomness,
    /// Ends the run as soon as it is true.
    pub interrupted: &'j AtomicBool,
    /// Hashing, threads and progress.
    pub pass: PassOptions<'j>,
}

/// What was read and, where there was a file, written.
#[derive(Debug)]
pub struct Written {
    /// Bytes that the new file will have, or has, as far as its records tell: pages are not always full to the same degree.
    pub estimated_bytes: u64,
    /// What keeps the result from being taken, by key and revision: the first ones.
    pub refused: Vec<Refused>,
    /// What the distribution keeps inside the store of its own configuration.
    pub inside: Inside,
    /// Whether any value comes to be on another key.
    pub moves: bool,
    /// What etcd notes about itself in the source.
    pub meta: StoreMeta,
    /// The source's current revision.
    pub revision: i64,
    /// The source's digests. Where a file was written, it has none yet.
    pub digests: Option<Digests>,
    /// Where the API servers keep their objects.
    pub roots: Arc<Roots>,
    /// The newer meta record of what was written.
    pub written: Option<Meta>,
}

/// What a copy leaves behind.
pub struct Copied {
    /// What was read and written.
    pub written: Written,
    /// What is to be counted of it.
    pub unsettled: Unsettled,
    /// Where everything is in the source.
    pub outline: Outline,
}

/// Why nothing was written, or not all.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The source cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It has no pages.
    #[error("is neither a snapshot nor a database")]
    NoPages,
    /// Parts of the source do not hold.
    #[error("is damaged in {total} places, first: {}", .faults.first().map_or(String::new(), ToString::to_string))]
    Damaged {
        /// The first ones by place.
        faults: Vec<Fault>,
        /// How many there are.
        total: u64,
    },
    /// The digest at its end is not that of its bytes.
    #[error("has a digest at its end that does not fit its bytes: it was changed after it was taken, or is damaged")]
    Trailer,
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// A value could not be sealed or packed.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// The new file could not be written.
    #[error("the new file {0}")]
    Write(#[from] WriteError),
    /// The new database could not be written.
    #[cfg(feature = "kine")]
    #[error("the new file: {0}")]
    Table(KineError),
    /// A store is written in its own form only.
    #[error("a snapshot or database cannot be written as kine's")]
    OtherForm,
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// What each record left cannot be read back.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// What was written is not what it was to be.
    #[error("the new file is not what it was to be: {0}")]
    Unproved(String),
}

impl From<io::Error> for RewriteError {
    fn from(error: io::Error) -> Self {
        Self::Write(error.into())
    }
}

/// Reads the whole source and decides about every value; with `out` writes all of it, too. What became of how many is not counted
/// yet.
///
/// # Errors
///
/// A source that does not hold is refused; refused values are not an error here, since all of them are to be told.
pub fn write(snapshot: &Snapshot, job: &Job<'_>, out: Option<&File>) -> Result<Copied, RewriteError> {
    let mut roots = job.roots.clone();
    let mut depth = Depth::Uniform;
    loop {
        let attempt = attempt(snapshot, job, out, roots.clone(), depth)?;
        match attempt {
            Attempt::Done(done) => return Ok(*done),
            Attempt::NotUniform => depth = Depth::Unknown,
            Attempt::OtherRoots => roots = Some(survey::ordered_roots(snapshot, depth)?),
        }
    }
}

enum Attempt {
    Done(Box<Copied>),
    /// The tree is not as deep everywhere as at its left edge.
    NotUniform,
    /// A key looks like an object's below a root that was not among the sampled keys.
    OtherRoots,
}

fn attempt(
    snapshot: &Snapshot,
    job: &Job<'_>,
    out: Option<&File>,
    roots: Option<Roots>,
    depth: Depth,
) -> Result<Attempt, RewriteError> {
    if let Target::Configured { sealings, .. } = job.policy.target {
        sealings.restart();
    }
    let pages = snapshot.pages();
    let hashing = || Relay::new(pages.file(), digest::database_bytes(pages.file_bytes()), job.pass.progress);
    let relay = (job.pass.digest && out.is_none()).then(hashing);
    let lay_out = || snapshot.lay_out(depth);
    let laid = relay.as_ref().map_or_else(lay_out, |relay| relay.beside(lay_out))?;
    let given = roots.is_some();
    let reader = Reader::File { pages: snapshot.pages(), outline: &laid.outline };
    let roots = Arc::new(roots.unwrap_or_else(|| survey::sampled_roots(reader)));
    let groups = laid.groups().hashed_by(relay.as_ref());
    let kinds = Kinds::default();
    let common = Common {
        job,
        roots: &roots,
        kinds: &kinds,
        room: TraceRoom::random()?,
        refused: AtomicBool::new(false),
        failed: AtomicBool::new(false),
    };
    let (read, meta) = match out {
        None => (common.read(&groups, None)?, None),
        Some(file) => common.copy(snapshot, &groups, file).map(|(read, meta)| (read, Some(meta)))?,
    };
    if job.interrupted.load(Ordering::Relaxed) {
        return Err(RewriteError::Interrupted);
    }
    if groups.not_uniform() {
        return Ok(Attempt::NotUniform);
    }
    if read.noted.unlisted && !given {
        return Ok(Attempt::OtherRoots);
    }
    let hash = relay.map(Relay::finish).transpose().map_err(ReadError::Io)?;
    let digests = hash.map(|hash| Digests::of(pages.file(), pages.file_bytes(), hash));
    let digests = digests.transpose().map_err(ReadError::Io)?;
    let outline = sound(snapshot, laid, read.faults, digests)?;
    let Noted { refused, inside, moves, old_values, .. } = read.noted.sorted();
    let written = Written {
        estimated_bytes: (read.record_bytes as f64 / FILLED) as u64,
        refused,
        inside,
        moves,
        revision: outline.meta.current_revision(read.highest),
        meta: outline.meta.clone(),
        digests,
        roots,
        written: meta,
    };
    let unsettled = Unsettled { kinds, traces: read.traces, old_values };
    Ok(Attempt::Done(Box::new(Copied { written, unsettled, outline })))
}

/// The source must hold in every way that `check` knows.
fn sound(
    snapshot: &Snapshot,
    laid: LaidOut<'_>,
    found: Faults,
    digests: Option<Digests>,
) -> Result<Outline, RewriteError> {
    let (outcome, outline) = laid.into_outline(found);
    let faults = outcome.faults;
    if snapshot.changed().map_err(ReadError::Io)? {
        return Err(ReadError::Changing.into());
    }
    if !faults.is_empty() {
        let total = faults.total();
        return Err(RewriteError::Damaged { faults: faults.into_sorted(), total });
    }
    digests.map(fitting).transpose()?;
    Ok(outline)
}

/// The digest at the source's end must be its own.
///
/// # Errors
///
/// [`RewriteError::Trailer`].
pub fn fitting(digests: Digests) -> Result<Digests, RewriteError> {
    match digests.trailer {
        Trailer::Ok | Trailer::Missing => Ok(digests),
        Trailer::Mismatch => Err(RewriteError::Trailer),
    }
}

/// What all workers share.
struct Common<'c> {
    job: &'c Job<'c>,
    roots: &'c Arc<Roots>,
    kinds: &'c Kinds,
    room: TraceRoom,
    /// A value was refused, so nothing needs to be written any more.
    refused: AtomicBool,
    /// Writing failed, so nothing needs to be read any more.
    failed: AtomicBool,
}

/// How far leaf pages are filled.
const FILLED: f64 = 0.9;

/// What the workers gave, put together.
#[derive(Default)]
struct ReadAll {
    /// Bytes of the pairs that are to be in the new file, their elements included.
    record_bytes: u64,
    traces: Vec<Traces>,
    noted: Noted,
    highest: Option<i64>,
    faults: Faults,
}

impl Common<'_> {
    /// Copies every bucket, the records rewritten, and ends the file.
    fn copy(&self, snapshot: &Snapshot, groups: &Groups<'_>, file: &File) -> Result<(ReadAll, Meta), RewriteError> {
        let (written, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let syncing = scope.spawn(|| bring_to_disk(file, &written, &done));
            let outcome = self.copy_all(snapshot, groups, file, &|bytes| {
                written.fetch_add(bytes, Ordering::Relaxed);
            });
            done.store(true, Ordering::Relaxed);
            let synced = syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let outcome = outcome?;
            synced?;
            Ok(outcome)
        })
    }

    fn copy_all(
        &self,
        snapshot: &Snapshot,
        groups: &Groups<'_>,
        file: &File,
        written: &(dyn Fn(u64) + Sync),
    ) -> Result<(ReadAll, Meta), RewriteError> {
        let pages = snapshot.pages();
        let mut writer = Writer::new(file, pages.meta().page_size, pages.meta().txid.max(1))?;
        let mut checker = Checker::new(pages);
        let mut read = ReadAll::default();
        let mut nested = None;
        for (name, bucket) in checker.top_level() {
            if name == schema::KEY {
                let bucket = writer.bucket(&name, bucket.sequence, Fill::APPENDED)?;
                let turns = Turns::new(bucket, file, rayon::current_num_threads(), written);
                read = self.read(groups, Some(&turns))?;
                turns.into_bucket().finish()?;
                continue;
            }
            let mut copy = writer.bucket(&name, bucket.sequence, Fill::ANYWHERE)?;
            let mut note = |key: &[u8]| nested = Some((name.clone(), key.to_vec()));
            buckets::walk(&mut checker, (&name, &bucket), &self.job.edits, &mut note, &mut |key, value| {
                copy.push(key, value)
            })?;
            copy.finish()?;
        }
        if let Some((name, _)) = nested {
            let name = String::from_utf8_lossy(&name);
            let detail = format!("bucket {name:?} holds a bucket, where etcd has none; it cannot be rewritten");
            read.faults.push(Fault::file(SCHEMA_FAULT, detail));
        }
        Ok((read, writer.finish()?))
    }

    /// Reads all records with as many workers as there are threads.
    fn read(&self, groups: &Groups<'_>, turns: Option<&Turns<'_, '_, '_>>) -> Result<ReadAll, RewriteError> {
        let workers = Mutex::new(Vec::new());
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| {
                    let mut worker = Worker::new(self);
                    let outcome = worker.work(groups, turns);
                    if outcome.is_err() {
                        self.failed.store(true, Ordering::Relaxed);
                        turns.iter().for_each(|turns| turns.fail());
                    }
                    lock(&workers).push(outcome.map(|()| worker.finish()));
                });
            }
        });
        let mut read = ReadAll::default();
        let workers = into_inner(workers);
        for gathered in workers {
            read.absorb(gathered?);
        }
        Ok(read)
    }
}

impl ReadAll {
    fn absorb(&mut self, other: Self) {
        self.record_bytes += other.record_bytes;
        self.traces.extend(other.traces);
        self.noted.absorb(other.noted);
        self.highest = self.highest.max(other.highest);
        self.faults.append(other.faults);
    }
}

/// Has the system bring what is written to the disk, while more is written. The last of it is for the writer to wait for.
fn bring_to_disk(file: &File, written: &AtomicU64, done: &AtomicBool) -> io::Result<()> {
    let mut synced = 0;
    while !done.load(Ordering::Relaxed) {
        let now = written.load(Ordering::Relaxed);
        if now - synced < SYNC_BYTES {
            std::thread::sleep(SYNC_PAUSE);
            continue;
        }
        file.sync_data()?;
        synced = now;
    }
    Ok(())
}

/// Decides about what it reads, and makes the new records.
struct Worker<'w> {
    common: &'w Common<'w>,
    judging: Judging<'w>,
    batch: Batch,
    randomness: Box<dyn RandomStream>,
    gathered: ReadAll,
}

impl<'w> Worker<'w> {
    fn new(common: &'w Common<'w>) -> Self {
        Self {
            common,
            judging: Judging::new(&common.job.policy, common.kinds, common.roots.clone(), common.room.traces()),
            batch: Batch::default(),
            randomness: common.job.randomness.stream(),
            gathered: ReadAll::default(),
        }
    }

    /// Takes groups until there are none left.
    fn work(&mut self, groups: &Groups<'_>, turns: Option<&Turns<'_, '_, '_>>) -> Result<(), MakeError> {
        let mut reader = groups.reader();
        while let Some((group, leaves)) = groups.take() {
            let interrupted = self.common.job.interrupted.load(Ordering::Relaxed);
            if interrupted || self.common.failed.load(Ordering::Relaxed) || groups.not_uniform() {
                turns.iter().for_each(|turns| turns.fail());
                break;
            }
            let mut packer = turns.map(Turns::packer);
            let target = self.common.job.policy.target;
            let mut read = 0;
            for leaf in leaves.clone() {
                read += reader.load(leaf, leaves.end, &mut self.gathered.faults);
                self.leaf(leaf, &reader, turns.is_some())?;
                if let (Some(turns), Some(packing)) = (turns, &mut packer)
                    && self.batch.is_full()
                {
                    self.batch.pack(packing, target)?;
                    if packing.packed_bytes() >= PART_BYTES {
                        turns.hand_over_part(group, packing.take())?;
                    }
                }
            }
            (self.common.job.pass.progress)(read);
            if let (Some(turns), Some(mut packer)) = (turns, packer) {
                self.batch.pack(&mut packer, target)?;
                turns.hand_over(group, packer.finish())?;
            }
        }
        Ok(())
    }

    /// What it gathered.
    fn finish(self) -> ReadAll {
        let (traces, noted) = self.judging.finish();
        ReadAll { traces: vec![traces], noted, ..self.gathered }
    }

    fn leaf(&mut self, leaf: usize, reader: &LeafReader<'_>, writes: bool) -> Result<(), MakeError> {
        let kept = self.common.job.kept.map(|kept| kept.on(leaf));
        for number in 0..reader.len() {
            let Some((element, record)) = reader.record(number) else { continue };
            let Some(record) = self.gathered.faults.note(record) else { continue };
            self.gathered.highest = self.gathered.highest.max(Some(record.revision.revision.main));
            if kept.is_none_or(|kept| kept.binary_search(&record.place).is_ok()) {
                self.record(&record, element.value, writes)?;
            }
        }
        Ok(())
    }

    /// Decides about one record and, where there is a file, makes it.
    fn record(&mut self, record: &Record<'_>, stored: &[u8], writes: bool) -> Result<(), MakeError> {
        let Record { place, revision, kv } = record;
        let job = self.common.job;
        self.gathered.record_bytes += (ELEMENT_BYTES + REVISION_BYTES + stored.len()) as u64;
        let writes = writes && !self.common.refused.load(Ordering::Relaxed);
        if revision.tombstone {
            self.judging.deletion(kv.key, *place);
            if writes {
                self.batch.keep(*revision, stored, job.policy.target);
            }
            return Ok(());
        }
        let (batch, gathered, randomness) = (&mut self.batch, &mut self.gathered, &mut self.randomness);
        self.judging.value(kv, *place, revision.revision.main, |decision| {
            match decision {
                Decision::Refused(_) => self.common.refused.store(true, Ordering::Relaxed),
                Decision::Stays(_) if writes => batch.keep(*revision, stored, job.policy.target),
                Decision::Stays(_) => {}
                Decision::Replaced(new) => {
                    let (before, after) = (kv.value.len(), new.len());
                    gathered.record_bytes = (gathered.record_bytes + after as u64).saturating_sub(before as u64);
                    if writes {
                        let randomness: &mut dyn RandomStream = &mut **randomness;
                        batch.rewrite(*revision, stored, (kv, new), None, (job.policy.target, randomness))?;
                    }
                }
                Decision::Rewritten { plaintext, chain, .. } => {
                    let (before, after) = (kv.value.len(), job.policy.target.stored_bytes(chain, plaintext.len()));
                    gathered.record_bytes = (gathered.record_bytes + after as u64).saturating_sub(before as u64);
                    if writes {
                        let randomness: &mut dyn RandomStream = &mut **randomness;
                        batch.rewrite(*revision, stored, (kv, plaintext), chain, (job.policy.target, randomness))?;
                    }
                }
            }
            Ok(())
        })
    }
}
