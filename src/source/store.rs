//! A store in whatever form it is kept, read in one pass, and what is needed to read single records of it again.
//!
//! Each form knows for itself how its records are found and what a [`Place`] means in it. Whoever visits records need
//! not know which form it is.

use super::datadir::replay::Replay;
use super::datadir::{DataDir, DirectoryReader, LogFacts};
use super::digest::Digests;
#[cfg(feature = "kine")]
use super::kine::KineStore;
#[cfg(feature = "live")]
use super::live::{LiveIndex, LivePass, LiveStore};
use super::residue;
use super::scan::Visitor;
use super::snapshot::{Outline, Pass, PassOptions, ReadError, Snapshot};
use super::{Faults, KeyValue, PageFile, Place, Revision, StoreMeta};

/// An open store.
#[derive(Debug)]
pub enum Store {
    /// A snapshot, or a bare database.
    File(Snapshot),
    /// A running etcd, or kine.
    #[cfg(feature = "live")]
    Live(LiveStore),
    /// A member's data directory: its database, and the log beside it.
    Directory(DataDir),
    /// kine's SQLite.
    #[cfg(feature = "kine")]
    Kine(KineStore),
}

/// What a pass learned of where records stand.
#[derive(Debug)]
pub enum Index {
    /// The leaves of the tree.
    File(Box<Outline>),
    /// The pages of answers.
    #[cfg(feature = "live")]
    Live(LiveIndex),
    /// The leaves of a member's tree, and what only the log has.
    Directory(Box<(Outline, Replay)>),
    /// A row is found by its revision.
    #[cfg(feature = "kine")]
    Kine(StoreMeta),
}

/// What a pass over a store gave.
#[derive(Debug)]
pub struct StorePass<V> {
    /// Where records stand.
    pub index: Index,
    /// The workers' visitors.
    pub visitors: Vec<V>,
    /// The digests of the file, where they were asked for and there is one.
    pub digests: Option<Digests>,
    /// What is wrong with the store.
    pub faults: Faults,
    /// Somebody wrote to it during every try: what was read may be of several moments.
    pub unsteady: bool,
    /// What else whoever reads the report should know.
    pub notes: Vec<String>,
}

impl Store {
    /// Reads everything once. `prepare` is called before the first record is, `visitor` makes one for each worker. Where the
    /// pass has to be made anew, both are called anew.
    ///
    /// # Errors
    ///
    /// [`ReadError`], when there is nothing to read at all. What is merely damaged is among the faults.
    pub fn pass<P: Sync, V: Visitor>(
        &mut self,
        options: PassOptions<'_>,
        prepare: impl Fn(Reader<'_>) -> P + Sync,
        visitor: impl Fn(&P) -> V + Sync,
    ) -> Result<StorePass<V>, ReadError> {
        match self {
            Self::File(snapshot) => {
                let prepare = |pages: &PageFile, outline: &Outline| prepare(Reader::File { pages, outline });
                let Pass { outline, visitors, digests, faults, unsteady, .. } =
                    snapshot.pass(options, prepare, visitor)?;
                Ok(StorePass {
                    index: Index::File(Box::new(outline)),
                    visitors,
                    digests,
                    faults,
                    unsteady,
                    notes: Vec::new(),
                })
            }
            #[cfg(feature = "live")]
            Self::Live(store) => {
                let LivePass { mut index, visitors } = store.pass(options, prepare, visitor)?;
                let notes = std::mem::take(&mut index.notes);
                let (digests, faults) = (None, Faults::new());
                Ok(StorePass { index: Index::Live(index), visitors, digests, faults, unsteady: false, notes })
            }
            Self::Directory(directory) => {
                let (pass, replay) = directory.pass(options, prepare, visitor)?;
                let Pass { outline, visitors, digests, faults, unsteady, .. } = pass;
                let index = Index::Directory(Box::new((outline, replay)));
                Ok(StorePass { index, visitors, digests, faults, unsteady, notes: Vec::new() })
            }
            #[cfg(feature = "kine")]
            Self::Kine(kine) => {
                let prepared = prepare(Reader::Kine(kine));
                let (visitors, faults) = kine.pass(options, || visitor(&prepared));
                let digests = options.digest.then(|| kine.digests());
                let index = Index::Kine(kine.meta().clone());
                Ok(StorePass { index, visitors, digests, faults, unsteady: false, notes: Vec::new() })
            }
        }
    }

    /// What reads single records again, by what a pass over this store learned.
    pub fn reader<'r>(&'r self, index: &'r Index) -> Reader<'r> {
        match (self, index) {
            (Self::File(snapshot), Index::File(outline)) => Reader::File { pages: snapshot.pages(), outline },
            #[cfg(feature = "live")]
            (Self::Live(store), Index::Live(index)) => Reader::Live { store, index },
            (Self::Directory(directory), Index::Directory(of)) => {
                let (outline, replay) = &**of;
                Reader::Directory(DirectoryReader { pages: directory.database().pages(), outline, replay })
            }
            #[cfg(feature = "kine")]
            (Self::Kine(kine), Index::Kine(_)) => Reader::Kine(kine),
            // Whoever reads again asks the store that was passed over.
            _ => Reader::Nothing,
        }
    }

    /// Bytes that a pass reads, for those who are told how far it is.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::File(snapshot) => snapshot.pages().file_bytes(),
            #[cfg(feature = "live")]
            Self::Live(store) => store.bytes(),
            Self::Directory(directory) => directory.database().pages().file_bytes(),
            #[cfg(feature = "kine")]
            Self::Kine(kine) => kine.copied().bytes.saturating_add(kine.copied().log_bytes.unwrap_or(0)),
        }
    }

    /// Whether another program had it open while it was read, as far as locks tell.
    pub fn is_open_elsewhere(&self) -> bool {
        match self {
            #[cfg(feature = "kine")]
            Self::Kine(kine) => kine.copied().in_use,
            _ => false,
        }
    }

    /// Whether it is written with a log that was not beside it.
    pub fn lost_its_log(&self) -> bool {
        match self {
            #[cfg(feature = "kine")]
            Self::Kine(kine) => kine.copied().log_missing,
            _ => false,
        }
    }

    /// Whether a digest is missing, whole or in part, from what a server sent as a snapshot.
    pub fn lost_its_trailer(&self) -> bool {
        match self {
            Self::File(snapshot) => snapshot.lost_its_trailer(),
            // Nothing else ever had one.
            _ => false,
        }
    }

    /// Reads from now on what the store was at a revision, where it can be asked for nothing else.
    pub fn look_at(&mut self, revision: Option<i64>) {
        match self {
            #[cfg(feature = "live")]
            Self::Live(store) => store.at(revision),
            _ => {
                let _ = revision;
            }
        }
    }

    /// Whether records that a pass has seen could not be read again.
    pub fn has_lost(&self) -> bool {
        match self {
            #[cfg(feature = "live")]
            Self::Live(store) => store.has_lost(),
            _ => false,
        }
    }

    /// Whether a pass gives nothing but entries, each once, so that what a record is need not wait for the others.
    pub fn gives_only_entries(&self) -> bool {
        match self {
            #[cfg(feature = "live")]
            Self::Live(_) => true,
            _ => false,
        }
    }

    /// The pages, where it is a snapshot or a bare database.
    pub fn as_file(&mut self) -> Option<&mut Snapshot> {
        match self {
            Self::File(snapshot) => Some(snapshot),
            _ => None,
        }
    }
}

impl Index {
    /// What the store notes about itself.
    pub fn meta(&self) -> &StoreMeta {
        match self {
            Self::File(outline) => &outline.meta,
            Self::Directory(of) => &of.0.meta,
            #[cfg(feature = "live")]
            Self::Live(index) => &index.meta,
            #[cfg(feature = "kine")]
            Self::Kine(meta) => meta,
        }
    }

    /// The same, to keep.
    pub fn into_meta(self) -> StoreMeta {
        match self {
            Self::File(outline) => outline.meta,
            Self::Directory(of) => of.0.meta,
            #[cfg(feature = "live")]
            Self::Live(index) => index.meta,
            #[cfg(feature = "kine")]
            Self::Kine(meta) => meta,
        }
    }

    /// The store's revision; `last` is the one of its last record.
    pub fn current_revision(&self, last: Option<i64>) -> i64 {
        match self {
            #[cfg(feature = "live")]
            Self::Live(index) => index.revision,
            _ => self.meta().current_revision(last),
        }
    }

    /// What is known of the log beside a database, where there is one.
    pub fn log(&self) -> Option<&LogFacts> {
        match self {
            Self::Directory(of) => Some(of.1.facts()),
            _ => None,
        }
    }
}

/// Reads single records again.
#[derive(Clone, Copy, Debug)]
pub enum Reader<'r> {
    /// Those of a page file.
    File {
        /// The pages.
        pages: &'r PageFile,
        /// Where the leaves are.
        outline: &'r Outline,
    },
    /// Those of a running server.
    #[cfg(feature = "live")]
    Live {
        /// The server.
        store: &'r LiveStore,
        /// The pages of answers.
        index: &'r LiveIndex,
    },
    /// Those of a data directory.
    Directory(DirectoryReader<'r>),
    /// Rows of a kine table.
    #[cfg(feature = "kine")]
    Kine(&'r KineStore),
    /// Nothing, since it was asked for by what a pass over another store learned.
    Nothing,
}

impl Reader<'_> {
    /// Gives some keys of the store, spread evenly over all of it, to `visit`: those of at most `leaves` leaf pages.
    pub fn sample(self, leaves: usize, visit: impl FnMut(&[u8])) {
        match self {
            #[cfg(feature = "live")]
            Self::Live { store, index } => store.sample(index, visit),
            #[cfg(feature = "kine")]
            Self::Kine(kine) => kine.sample(leaves, visit),
            Self::Nothing => {}
            Self::File { pages, outline } | Self::Directory(DirectoryReader { pages, outline, .. }) => {
                outline.sample(pages, leaves, visit);
            }
        }
    }

    /// Reads records again, at places that ascend, and gives each to `visit`. What cannot be read any more is passed over.
    pub fn records_at(self, places: &[Place], visit: impl FnMut(Place, KeyValue<'_>)) {
        match self {
            Self::File { pages, outline } => outline.records_at(pages, places, visit),
            #[cfg(feature = "live")]
            Self::Live { store, index } => store.records_at(index, places, visit),
            #[cfg(feature = "kine")]
            Self::Kine(kine) => kine.records_at(places, visit),
            Self::Nothing => {}
            Self::Directory(directory) => directory.records_at(places, visit),
        }
    }

    /// Says of revisions that ascend whether the store still has a record of them, and of which key: `visit` is given the
    /// index of the revision and the record's key.
    pub fn find(self, revisions: &[Revision], visit: impl FnMut(usize, &[u8])) {
        match self {
            Self::File { pages, outline } => outline.find(pages, revisions, visit),
            #[cfg(feature = "live")]
            Self::Live { .. } => {}
            // What the table still has was no stray there.
            #[cfg(feature = "kine")]
            Self::Kine(_) => {}
            Self::Nothing => {}
            Self::Directory(directory) => directory.find(revisions, visit),
        }
    }

    /// Reads again a record that is not in the store any more, and gives it to `visit`. `at` is what its
    /// [`Stray`](super::residue::Stray) said.
    pub fn stray_at<T>(self, at: u64, visit: impl FnOnce(KeyValue<'_>) -> T) -> Option<T> {
        match self {
            Self::File { pages, .. } => residue::record_at(pages, at, visit),
            #[cfg(feature = "live")]
            Self::Live { .. } => None,
            #[cfg(feature = "kine")]
            Self::Kine(kine) => kine.stray_at(at, visit),
            Self::Nothing => None,
            Self::Directory(directory) => directory.stray_at(at, visit),
        }
    }
}
