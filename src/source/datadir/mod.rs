//! A member's data directory: its database, and what only the log beside it has.
//!
//! etcd writes to its database some time after it told a client that a write is done; until then the write is in the log alone. A server
//! that starts carries out what its database lacks. So does this, in memory: the log is read first ([`log`]), then the database
//! once, and beside it is noted what the log's entries depend on (`interest`); then they are carried out ([`replay`]), and what they
//! changed is given to the same visitors.
//!
//! Nothing is written, and no lock is kept: whether a server runs is told by asking for its lock and giving it back at once.
//!
//! Upstream: `etcd-io/etcd` `server/etcdserver/bootstrap.go`; `docs/formats/wal.md` says what is applied, and how far.

mod interest;
mod layout;
pub mod log;
pub mod replay;
mod segments;

pub use layout::{DirectoryError, find};

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::etcd::raft::EntryKind;
use crate::etcd::request::Request;
use crate::etcd::wal::Window;
use crate::lock::{into_inner, lock};

use super::scan::Visitor;
use super::snapshot::{Outline, Pass, PassOptions, ReadError, Snapshot};
use super::store::Reader;
use super::trace::TraceKey;
use super::{Fault, Faults, KeyValue, LOG_FAULT, PageFile, Place, Revision, StoreMeta};
use interest::{Interest, Notes, Noting};
use layout::Layout;
use log::{Behind, Log};
use replay::{Base, Buffers, Replay};
use segments::EntryAt;

/// An open data directory.
#[derive(Debug)]
pub struct DataDir {
    snapshot: Snapshot,
    log: Arc<Log>,
    layout: Layout,
    running: bool,
}

/// What is known of a log, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// Whether there is a log at all.
    pub found: bool,
    /// Segments, and their bytes.
    pub segments: usize,
    /// See [`segments`](Self::segments).
    pub bytes: u64,
    /// The indexes of its first and last entries.
    pub entries: Option<(u64, u64)>,
    /// The index of the last entry that is in the database.
    pub consistent_index: u64,
    /// The indexes of the first and the last entry that were applied.
    pub applied: Option<(u64, u64)>,
    /// Applied entries that changed keys.
    pub writes: u64,
    /// Records that came of them.
    pub records: u64,
    /// Distinct keys that they changed.
    pub keys: u64,
    /// Applied entries that the server turns down.
    pub refused: u64,
    /// The revision of the database alone.
    pub revision_in_database: i64,
    /// The main revision of the database's last record; 0 where there is none.
    pub last_in_database: i64,
    /// The revision with the log.
    pub revision: i64,
    /// The members that vote, where that can be told.
    pub voters: Option<usize>,
    /// Entries that the majority of several members may or may not have, by the indexes of the first and the last one, and how many of
    /// them ask for a change.
    pub maybe_committed: Option<(u64, u64, u64)>,
    /// Where a last write was never finished.
    pub torn: Option<String>,
    /// Users must log in, so that a server may refuse what was applied here.
    pub auth: bool,
    /// A server has the database open.
    pub running: bool,
    /// Names of files that are there and not needed.
    pub leftovers: Vec<String>,
}

impl LogFacts {
    /// Whether there may be writes of the cluster that were not applied, since nobody here can tell.
    pub fn may_lack_writes(&self) -> bool {
        self.maybe_committed.is_some_and(|(_, _, changes)| changes > 0)
    }
}

/// What a pass prepares.
struct Prepared<P> {
    own: P,
    interest: Arc<Interest>,
    plan: Plan,
}

/// Which entries are carried out.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// The first one, and the one behind the last.
    from: usize,
    to: usize,
    /// What is known to be there, but not to be agreed upon.
    maybe_to: usize,
    voters: Option<usize>,
    faults: Vec<String>,
}

impl DataDir {
    /// Opens database and log. `path` is the member's folder, or the one above it.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let layout = Layout::of(path)?;
        let key = TraceKey::random()?;
        let log = match layout.wal() {
            Some(folder) => {
                let failed = |source| DirectoryError::Io { path: "wal".into(), source };
                Log::read(&folder, key).map_err(failed)?
            }
            None => Log::nothing(key),
        };
        let (snapshot, running) = layout.database(log.newest_snapshot())?;
        Ok(Self { snapshot, log: Arc::new(log), layout, running })
    }

    /// The database alone.
    pub fn database(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Reads database and log. See [`Store::pass`](super::store::Store::pass).
    ///
    /// # Errors
    ///
    /// [`ReadError`], as for the database alone.
    pub fn pass<P: Sync, V: Visitor>(
        &mut self,
        options: PassOptions<'_>,
        prepare: impl Fn(Reader<'_>) -> P + Sync,
        visitor: impl Fn(&P) -> V + Sync,
    ) -> Result<(Pass<V>, Replay), ReadError> {
        let (log, layout) = (&self.log, &self.layout);
        let prepare = |pages: &PageFile, outline: &Outline| {
            let own = prepare(Reader::File { pages, outline });
            let (interest, plan) = plan(log, layout, outline, V::STRAYS);
            Prepared { own, interest: Arc::new(interest), plan }
        };
        let latest = std::sync::Mutex::new(Plan::default());
        let noting = |prepared: &Prepared<P>| {
            let mut latest = lock(&latest);
            *latest = prepared.plan.clone();
            Noting::new(visitor(&prepared.own), prepared.interest.clone())
        };
        let pass = self.snapshot.pass(options, prepare, noting)?;
        let plan = into_inner(latest);
        self.go_on(options, pass, plan)
    }

    /// Carries the log out upon what was noted, and gives its records to the visitors.
    fn go_on<V: Visitor>(
        &self,
        options: PassOptions<'_>,
        pass: Pass<Noting<V>>,
        plan: Plan,
    ) -> Result<(Pass<V>, Replay), ReadError> {
        let Pass { mut outline, visitors: noting, digests, mut faults, free_pages, unsteady } = pass;
        let (mut notes, mut visitors, mut interest) = (Notes::default(), Vec::with_capacity(noting.len()), None);
        for one in noting {
            notes.absorb(one.notes);
            visitors.push(one.inner);
            interest = Some(one.interest);
        }
        let interest = interest.unwrap_or_else(|| Arc::new(Interest::of(&self.log, &[], &Default::default(), false).0));
        let mut meta = outline.meta.clone();
        let facts = self.facts(&plan, &outline);
        let entries = self.log.entries(plan.from, plan.to);
        let pages = self.snapshot.pages();
        let base = Base { pages, outline: &outline, interest: &interest, notes };
        let replay = Replay::of(&self.log, entries, base, facts, &mut meta);
        outline.meta = meta;
        note_faults(&plan.faults, &mut faults);
        let next = AtomicUsize::new(0);
        let (next, replay_ref, database) = (&next, &replay, (pages, &outline));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
        pool.scope(|scope| {
            for visitor in &mut visitors {
                scope.spawn(move |_| {
                    let mut buffers = Buffers::default();
                    loop {
                        let piece = next.fetch_add(1, Ordering::Relaxed);
                        if piece >= replay_ref.pieces() {
                            break;
                        }
                        replay_ref.serve(piece, database, &mut buffers, visitor);
                    }
                    visitor.end();
                });
            }
        });
        Ok((Pass { outline, visitors, digests, faults, free_pages, unsteady }, replay))
    }

    fn facts(&self, plan: &Plan, outline: &Outline) -> LogFacts {
        let (segments, bytes) = self.log.size();
        let index = |number: usize| self.log.entries(number, number + 1).first().map(|entry| entry.index);
        let ends = |from: usize, to: usize| index(from).zip(to.checked_sub(1).and_then(index)).filter(|_| from < to);
        let maybe = self.log.entries(plan.to, plan.maybe_to);
        let mut window = Window::new();
        let asked = maybe
            .iter()
            .filter(|entry| request(&self.log, entry, &mut window).is_some_and(|request| request != Request::Other));
        let writes = asked.count() as u64;
        LogFacts {
            found: segments > 0,
            segments,
            bytes,
            entries: self.log.ends(),
            consistent_index: outline.meta.consistent_index.unwrap_or(0),
            applied: ends(plan.from, plan.to),
            voters: plan.voters,
            maybe_committed: ends(plan.to, plan.maybe_to).map(|(first, last)| (first, last, writes)),
            torn: self.log.torn.clone(),
            auth: outline.standing.auth,
            running: self.running,
            leftovers: self.layout.leftovers(&self.log.others),
            ..LogFacts::default()
        }
    }
}

/// An entry's request; none if it holds none that can be read. Entries that are no requests ask for nothing.
fn request<'w>(log: &Log, entry: &EntryAt, window: &'w mut Window) -> Option<Request<'w>> {
    match entry.kind {
        EntryKind::Normal => Request::decode(log.bytes(window, entry.at, entry.bytes)?),
        EntryKind::Members | EntryKind::MembersV2 => Some(Request::Other),
    }
}

/// Says which entries are carried out upon a database, and what of it must be known for that.
fn plan(log: &Arc<Log>, layout: &Layout, outline: &Outline, strays: bool) -> (Interest, Plan) {
    let meta: &StoreMeta = &outline.meta;
    let index = meta.consistent_index.unwrap_or(0);
    let standing = &outline.standing;
    let known = |node: u64, entries: &[EntryAt]| {
        let nobody = standing.voters.is_empty() && standing.others.is_empty();
        nobody
            || standing.voters.contains(&node)
            || standing.others.contains(&node)
            || layout
                .members()
                .is_some_and(|snap| snap.members.voters.contains(&node) || snap.members.learners.contains(&node))
            || joins(log, entries, node)
    };
    let Behind { from, to, stops, unusable } = log.behind(index, meta.term, known);
    let voters = voters(log, layout, outline, to);
    let committed = match &voters {
        Some(voters) if voters.len() <= 1 => to,
        _ => {
            let commit = log.commit.max(index).max(log.newest_snapshot());
            from + log.entries(from, to).partition_point(|entry| entry.index <= commit)
        }
    };
    let (interest, unreadable) = Interest::of(log, log.entries(from, committed), &standing.leases, strays);
    let mut faults: Vec<_> =
        log.damage.iter().filter(|words| Some(*words) != stops.as_ref()).cloned().chain(unusable).collect();
    let (committed, to) = match unreadable {
        None => (committed, to),
        Some(number) => {
            let entry = log.entries(from + number, from + number + 1).first().map_or(0, |entry| entry.index);
            faults.push(format!("entry {entry} of the log holds no request that can be read; it was not applied, nor what comes after it"));
            (from + number, from + number)
        }
    };
    faults.extend(stops.map(|stops| log.rest(to, &stops)));
    (interest, Plan { from, to: committed, maybe_to: to, voters: voters.map(|voters| voters.len()), faults })
}

/// The members that vote behind the last entry that could be applied; none where that cannot be told.
fn voters(log: &Log, layout: &Layout, outline: &Outline, to: usize) -> Option<BTreeSet<u64>> {
    let of =
        |members: &crate::etcd::raft::ConfState, since| log.voters(members.voters.iter().copied().collect(), since, to);
    let whole = log.entries(0, 1).first().is_some_and(|first| first.index == 1);
    let voters = if let Some((members, snapshot)) = log.members().and_then(|one| Some((one.members.as_ref()?, one))) {
        of(members, snapshot.index)
    } else if let Some(snap) = layout.members() {
        of(&snap.members, snap.index)
    } else if whole {
        log.voters(BTreeSet::new(), 0, to)
    } else {
        log.voters(outline.standing.voters.clone(), outline.meta.consistent_index.unwrap_or(0), to)
    };
    voters.filter(|voters| !voters.is_empty())
}

/// Whether a member joins by one of these entries.
fn joins(log: &Log, entries: &[EntryAt], node: u64) -> bool {
    use crate::etcd::raft::ConfChange;
    let mut window = Window::new();
    entries.iter().filter(|entry| entry.kind == EntryKind::Members).any(|entry| {
        let change = log.bytes(&mut window, entry.at, entry.bytes).and_then(ConfChange::decode);
        matches!(change, Some(ConfChange::Add(member) | ConfChange::Other(member)) if member == node)
    })
}

fn note_faults(words: &[String], faults: &mut Faults) {
    words.iter().for_each(|words| faults.push(Fault::file(LOG_FAULT, words.clone())));
}

impl Replay {
    /// What is known of the log, and what became of it.
    pub fn facts(&self) -> &LogFacts {
        &self.facts
    }
}

/// Reads single records of a data directory again.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryReader<'r> {
    /// The pages of its database.
    pub pages: &'r PageFile,
    /// Where their leaves are.
    pub outline: &'r Outline,
    /// What only the log has.
    pub replay: &'r Replay,
}

impl DirectoryReader<'_> {
    /// See [`Reader::records_at`].
    pub fn records_at(self, places: &[Place], mut visit: impl FnMut(Place, KeyValue<'_>)) {
        let tree = places.partition_point(|place| place.leaf < self.replay.first_leaf());
        let (tree, log) = places.split_at_checked(tree).unwrap_or_default();
        self.outline.records_at(self.pages, tree, &mut visit);
        self.replay.records_at((self.pages, self.outline), log, visit);
    }

    /// See [`Reader::find`].
    pub fn find(self, revisions: &[Revision], mut visit: impl FnMut(usize, &[u8])) {
        self.outline.find(self.pages, revisions, &mut visit);
        self.replay.find(revisions, visit);
    }

    /// See [`Reader::stray_at`].
    pub fn stray_at<T>(self, at: u64, visit: impl FnOnce(KeyValue<'_>) -> T) -> Option<T> {
        match at & replay::LOG_STRAYS {
            0 => super::residue::record_at(self.pages, at, visit),
            _ => self.replay.stray_at(at, visit),
        }
    }
}

/// Whether a server has a file open: it has a lock on it then. The lock is given back at once, since a server that starts meanwhile
/// would have to wait for it.
fn is_locked(file: &File) -> bool {
    use rustix::fs::{FlockOperation, flock};
    match flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _ = flock(file, FlockOperation::Unlock);
            false
        }
        Err(error) => error == rustix::io::Errno::WOULDBLOCK,
    }
}
