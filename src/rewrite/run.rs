//! A rewrite from beginning to end: plan, write, prove.
//!
//! It is given an empty file that nobody else knows, and leaves it complete and proved, or says why not. Everything but its end was
//! on the disk before it was proved; to sync that and to give it a name is for the caller.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::audit::deks::Deks;
use crate::audit::rules::Rules;
use crate::audit::run::{AuditError, Options};
use crate::audit::survey;
use crate::distro::reseal::Replacements;
use crate::kube::key::Roots;
use crate::kube::select::{SelectError, Selection};
use crate::source::digest::{self, Digests, TRAILER_BYTES};
#[cfg(feature = "kine")]
use crate::source::kine::KineStore;
use crate::source::snapshot::{PassOptions, ReadError, Snapshot};
use crate::source::{Depth, Faults, Store, StoreMeta};

use super::buckets::{Edits, Release};
use super::decide::Policy;
use super::keep::{KeepError, Kept};
#[cfg(feature = "kine")]
use super::kine;
use super::tally::{Count, Kind};
use super::target::{Randomness, SystemRandomness, Target};
use super::verify::{self, Proof, Source};
use super::write::{self, Copied, Job, RewriteError, Written};

/// A member's own database grows in steps of so many bytes, so that its length tells it from a snapshot.
const GROWTH_BYTES: u64 = 16 << 20;

/// The form of the new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As a server sends it: the pages and their digest.
    Snapshot,
    /// As a member keeps it.
    Database,
    /// kine's SQLite.
    Kine,
}

/// What is wanted.
pub struct Request<'r> {
    /// The configurations that the values are under now.
    pub current: &'r Rules,
    /// What their KMS plugins opened.
    pub deks: &'r Deks,
    /// What is to be written.
    pub target: &'r Target,
    /// Only these resources and names.
    pub selection: Selection,
    /// Only these namespaces.
    pub namespaces: Vec<String>,
    /// New nonces also for what the target would write as it is.
    pub all: bool,
    /// What does not open stays as it is.
    pub keep_unreadable: bool,
    /// `current` is what the store's distribution itself has, so that its first keys may be written with.
    pub own_configuration: bool,
    /// Also where the store holds its distribution's own record of the configuration.
    pub keep_distro_state: bool,
    /// Values that become others: what makes a distribution's own state fit the target.
    pub replacements: Replacements,
    /// Only the newest revision of each key.
    pub drop_history: bool,
    /// The release that it is to start on; none for the one that wrote it.
    pub for_etcd: Option<Release>,
    /// The form of the new file; none for the source's.
    pub form: Option<Form>,
    /// Where the API servers keep their objects; found by itself where it is not given.
    pub roots: Option<Roots>,
    /// Where nonces and IVs come from.
    pub randomness: &'r dyn Randomness,
    /// Ends the run as soon as it is true.
    pub interrupted: &'r AtomicBool,
    /// Hashing, threads and progress.
    pub pass: PassOptions<'r>,
}

/// Nobody interrupts.
static UNDISTURBED: AtomicBool = AtomicBool::new(false);

impl<'r> Request<'r> {
    /// Everything that the target would write in another form, history included.
    pub fn new(current: &'r Rules, deks: &'r Deks, target: &'r Target) -> Self {
        Self {
            current,
            deks,
            target,
            selection: Selection::default(),
            namespaces: Vec::new(),
            all: false,
            keep_unreadable: false,
            own_configuration: false,
            keep_distro_state: false,
            replacements: Replacements::new(),
            drop_history: false,
            for_etcd: None,
            form: None,
            roots: None,
            randomness: &SystemRandomness,
            interrupted: &UNDISTURBED,
            pass: PassOptions { digest: true, threads: 0, progress: &|_| () },
        }
    }
}

/// An empty file to write to, and a way to open it once more.
pub struct Out<'o> {
    /// Written through this.
    pub file: &'o File,
    /// Where it lies meanwhile, for SQLite, which opens files by their names.
    pub path: &'o Path,
    /// Read back through what this gives.
    pub reopen: &'o (dyn Fn() -> io::Result<File> + Sync),
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What became of how many.
    pub rows: Vec<(Kind, Count)>,
    /// What was read and decided.
    pub written: Written,
    /// Whether the result can be taken.
    pub end: End,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// It was only planned.
    Planned(Option<Obstacle>),
    /// Nothing can be taken.
    Refused(Obstacle),
    /// The file is complete and proved.
    Proved(Product),
}

/// Why a result cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Values do not open, or would be locked out.
    Values,
    /// K3s or RKE2 would bring the old configuration back.
    Bootstrap,
    /// OpenShift's operators would bring the old configuration back.
    Operators,
}

/// The new file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// Its form.
    pub form: Form,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Records that were read back and held against the source's.
    pub records: u64,
}

/// Rewrites a snapshot or database into `out`; without it, only plans.
///
/// # Errors
///
/// [`RunError`]. What `out` holds then is of no use.
pub fn rewrite(store: &mut Store, request: &Request<'_>, out: Option<&Out<'_>>) -> Result<Outcome, RunError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(request.pass.threads).build();
    let pool = pool.map_err(|error| RewriteError::Read(error.into()))?;
    let select = Options {
        roots: request.roots.clone(),
        selection: request.selection.clone(),
        pass: request.pass,
        ..Options::default()
    };
    let (roots, selected) = survey::select(store, request.current, &select)?;
    let kept = match request.drop_history {
        true => Some(pool.install(|| kept(store, request.pass))?),
        false => None,
    };
    let edits = edits(store, request, kept.as_ref())?;
    let policy = Policy {
        current: request.current,
        deks: request.deks,
        target: request.target,
        selected: selected.as_ref(),
        namespaces: &request.namespaces,
        all: request.all,
        keep_unreadable: request.keep_unreadable,
        own_configuration: request.own_configuration,
        replacements: &request.replacements,
    };
    let job = Job {
        policy,
        roots,
        kept: kept.as_ref(),
        edits,
        randomness: request.randomness,
        interrupted: request.interrupted,
        pass: request.pass,
    };
    #[cfg(feature = "kine")]
    if let Store::Kine(kine) = &*store {
        return pool.install(|| rewrite_kine(kine, request, &job, out));
    }
    let snapshot = &*store.as_file().ok_or(RewriteError::NoPages)?;
    let copied = pool.install(|| write::write(snapshot, &job, out.map(|out| out.file)))?;
    let Copied { mut written, unsettled, outline } = copied;
    let source = Source { snapshot, outline: &outline, roots: &written.roots };
    let end = || match (out, obstacle(&written, request)) {
        (None, obstacle) => Ok((End::Planned(obstacle), written.digests)),
        (Some(_), Some(obstacle)) => Ok((End::Refused(obstacle), hashed(snapshot, request.pass)?)),
        (Some(out), None) => {
            finish(&source, request, &job, out).map(|(product, digests)| (End::Proved(product), digests))
        }
    };
    // While one waits for the disk, another one counts.
    let (end, rows) = pool.install(|| rayon::join(end, || unsettled.rows()));
    let (end, digests) = end?;
    written.digests = digests;
    Ok(Outcome { end, rows: rows.map_err(RewriteError::from)?, written })
}

/// The digests of a source that nothing was proved about. If it is damaged, that is why, and is to be said instead.
fn hashed(snapshot: &Snapshot, pass: PassOptions<'_>) -> Result<Option<Digests>, RewriteError> {
    let pages = snapshot.pages();
    let digests = pass.digest.then(|| digest::digests(pages.file(), pages.file_bytes(), pass.progress));
    digests.transpose().map_err(ReadError::Io)?.map(write::fitting).transpose()
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Of the source, or of what was written.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// The selection names what nothing is called.
    #[error(transparent)]
    Select(#[from] SelectError),
}

impl From<AuditError> for RunError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Read(error) => Self::Rewrite(error.into()),
            AuditError::Select(error) => Self::Select(error),
            AuditError::Randomness(error) => Self::Rewrite(error.into()),
            other => Self::Rewrite(RewriteError::Read(io::Error::other(other.to_string()).into())),
        }
    }
}

impl From<KeepError> for RunError {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Read(error) => Self::Rewrite(error.into()),
            KeepError::Randomness(error) => Self::Rewrite(error.into()),
            KeepError::Shelf(error) => Self::Rewrite(error.into()),
        }
    }
}

/// What a compaction at the current revision would leave.
fn kept(store: &mut Store, pass: PassOptions<'_>) -> Result<Kept, RunError> {
    let (meta, highest) = match &mut *store {
        #[cfg(feature = "kine")]
        Store::Kine(kine) => (kine.meta().clone(), kine.facts().revision),
        store => last_record(store.as_file().ok_or(RewriteError::NoPages)?)?,
    };
    Ok(Kept::find(store, &meta, highest, pass)?)
}

/// What etcd notes about itself, and the main revision of the last record.
fn last_record(snapshot: &Snapshot) -> Result<(StoreMeta, Option<i64>), RunError> {
    let laid = snapshot.lay_out(Depth::Uniform).map_err(RewriteError::Read)?;
    let groups = laid.groups();
    let mut reader = groups.reader();
    let leaves = groups.leaves();
    reader.load(leaves.saturating_sub(1), leaves, &mut Faults::new());
    let last = (0..reader.len()).rev().find_map(|number| reader.record(number)?.1.ok());
    let highest = last.map(|record| record.revision.revision.main);
    Ok((laid.outline.meta.clone(), highest))
}

/// What is to change beside the records of a snapshot or database.
fn edits(store: &mut Store, request: &Request<'_>, kept: Option<&Kept>) -> Result<Edits, RunError> {
    let mut edits = Edits::default();
    let Some(snapshot) = store.as_file() else { return Ok(edits) };
    kept.iter().for_each(|kept| edits.compacted(kept.revision));
    if let Some(release) = request.for_etcd {
        let outline = snapshot.lay_out(Depth::Uniform).map_err(RewriteError::Read)?.outline;
        edits.start_on(release, &outline.meta);
    }
    Ok(edits)
}

/// The same for kine's table.
#[cfg(feature = "kine")]
fn rewrite_kine(
    store: &KineStore,
    request: &Request<'_>,
    job: &Job<'_>,
    out: Option<&Out<'_>>,
) -> Result<Outcome, RunError> {
    let (written, unsettled) = kine::write(store, job, out)?;
    let end = match (out, obstacle(&written, request)) {
        (None, obstacle) => End::Planned(obstacle),
        (Some(_), Some(obstacle)) => End::Refused(obstacle),
        (Some(out), None) => {
            out.file.sync_all().map_err(RewriteError::from)?;
            let kine::verify::Proof { hash, bytes, records } = kine::verify::verify(store, job, &written.roots, out)?;
            End::Proved(Product { form: Form::Kine, bytes, sha256: hash, records })
        }
    };
    Ok(Outcome { rows: unsettled.rows().map_err(RewriteError::from)?, written, end })
}

fn obstacle(written: &Written, request: &Request<'_>) -> Option<Obstacle> {
    let state = written.moves && !request.keep_distro_state;
    match written.inside {
        _ if !written.refused.is_empty() => Some(Obstacle::Values),
        // What was resealed fits the target.
        inside if state && inside.bootstrap && request.replacements.is_empty() => Some(Obstacle::Bootstrap),
        inside if state && inside.operators => Some(Obstacle::Operators),
        _ => None,
    }
}

/// Brings the file to the disk, proves it, and ends it as its form wants. With it come the source's digests.
fn finish(
    source: &Source<'_>,
    request: &Request<'_>,
    job: &Job<'_>,
    out: &Out<'_>,
) -> Result<(Product, Option<Digests>), RewriteError> {
    tracing::info!("written; waiting for the disk");
    out.file.sync_all()?;
    tracing::info!("on the disk; reading it back");
    let Proof { mut hash, records, source: digests } = verify::verify(source, job, (out.reopen)()?)?;
    tracing::info!(records, "proved");
    let pages = out.file.metadata()?.len();
    let is_snapshot = source.snapshot.has_trailer() || source.snapshot.lost_its_trailer();
    let form = request.form.unwrap_or(if is_snapshot { Form::Snapshot } else { Form::Database });
    let bytes = match form {
        Form::Snapshot => {
            let digest = hash.clone().finalize();
            out.file.write_all_at(&digest, pages)?;
            hash.update(digest);
            pages + TRAILER_BYTES
        }
        Form::Database => {
            let bytes = (pages / GROWTH_BYTES + 1) * GROWTH_BYTES;
            out.file.set_len(bytes)?;
            let zeros = vec![0; 1 << 20];
            let mut left = usize::try_from(bytes - pages).unwrap_or(0);
            while left > 0 {
                let piece = zeros.get(..left.min(zeros.len())).unwrap_or_default();
                hash.update(piece);
                left -= piece.len();
            }
            bytes
        }
        Form::Kine => return Err(RewriteError::OtherForm),
    };
    Ok((Product { form, bytes, sha256: hash.finalize(), records }, digests))
}
