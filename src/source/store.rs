//! A store in whatever form it is kept, read in one pass, and what is needed to read single records of it again.
//!
//! Each form knows for itself how its records are found and what a [`Place`] means in it. Whoever visits records need
//! not know which form it is.

use super::digest::Digests;
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
}

/// What a pass learned of where records stand.
#[derive(Debug)]
pub enum Index {
    /// The leaves of the tree.
    File(Outline),
    /// The pages of answers.
    #[cfg(feature = "live")]
    Live(LiveIndex),
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
                Ok(StorePass { index: Index::File(outline), visitors, digests, faults, unsteady, notes: Vec::new() })
            }
            #[cfg(feature = "live")]
            Self::Live(store) => {
                let LivePass { mut index, visitors } = store.pass(options, prepare, visitor)?;
                let notes = std::mem::take(&mut index.notes);
                let (digests, faults) = (None, Faults::new());
                Ok(StorePass { index: Index::Live(index), visitors, digests, faults, unsteady: false, notes })
            }
        }
    }

    /// What reads single records again, by what a pass over this store learned.
    pub fn reader<'r>(&'r self, index: &'r Index) -> Reader<'r> {
        match (self, index) {
            (Self::File(snapshot), Index::File(outline)) => Reader::File { pages: snapshot.pages(), outline },
            #[cfg(feature = "live")]
            (Self::Live(store), Index::Live(index)) => Reader::Live { store, index },
            // Whoever reads again asks the store that was passed over.
            #[cfg(feature = "live")]
            _ => Reader::Nothing,
        }
    }

    /// Bytes that a pass reads, for those who are told how far it is.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::File(snapshot) => snapshot.pages().file_bytes(),
            #[cfg(feature = "live")]
            Self::Live(store) => store.bytes(),
        }
    }

    /// Whether a digest is missing, whole or in part, from what a server sent as a snapshot.
    pub fn lost_its_trailer(&self) -> bool {
        match self {
            Self::File(snapshot) => snapshot.lost_its_trailer(),
            #[cfg(feature = "live")]
            Self::Live(_) => false,
        }
    }

    /// Reads from now on what the store was at a revision, where it can be asked for nothing else.
    pub fn look_at(&mut self, revision: Option<i64>) {
        match self {
            Self::File(_) => {}
            #[cfg(feature = "live")]
            Self::Live(store) => store.at(revision),
        }
    }

    /// Whether records that a pass has seen could not be read again.
    pub fn has_lost(&self) -> bool {
        match self {
            Self::File(_) => false,
            #[cfg(feature = "live")]
            Self::Live(store) => store.has_lost(),
        }
    }

    /// The pages, where it is a snapshot or a bare database.
    pub fn as_file(&mut self) -> Option<&mut Snapshot> {
        match self {
            Self::File(snapshot) => Some(snapshot),
            #[cfg(feature = "live")]
            Self::Live(_) => None,
        }
    }
}

impl Index {
    /// What the store notes about itself.
    pub fn meta(&self) -> &StoreMeta {
        match self {
            Self::File(outline) => &outline.meta,
            #[cfg(feature = "live")]
            Self::Live(index) => &index.meta,
        }
    }

    /// The same, to keep.
    pub fn into_meta(self) -> StoreMeta {
        match self {
            Self::File(outline) => outline.meta,
            #[cfg(feature = "live")]
            Self::Live(index) => index.meta,
        }
    }

    /// The store's revision; `last` is the one of its last record.
    pub fn current_revision(&self, last: Option<i64>) -> i64 {
        match self {
            Self::File(outline) => outline.meta.current_revision(last),
            #[cfg(feature = "live")]
            Self::Live(index) => index.revision,
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
    /// Nothing.
    #[cfg(feature = "live")]
    Nothing,
}

impl Reader<'_> {
    /// Gives some keys of the store, spread evenly over all of it, to `visit`: those of at most `leaves` leaf pages.
    pub fn sample(self, leaves: usize, visit: impl FnMut(&[u8])) {
        match self {
            Self::File { pages, outline } => outline.sample(pages, leaves, visit),
            #[cfg(feature = "live")]
            Self::Live { store, index } => store.sample(index, visit),
            #[cfg(feature = "live")]
            Self::Nothing => {}
        }
    }

    /// Reads records again, at places that ascend, and gives each to `visit`. What cannot be read any more is passed over.
    pub fn records_at(self, places: &[Place], visit: impl FnMut(Place, KeyValue<'_>)) {
        match self {
            Self::File { pages, outline } => outline.records_at(pages, places, visit),
            #[cfg(feature = "live")]
            Self::Live { store, index } => store.records_at(index, places, visit),
            #[cfg(feature = "live")]
            Self::Nothing => {}
        }
    }

    /// Says of revisions that ascend whether the store still has a record of them, and of which key: `visit` is given the
    /// index of the revision and the record's key.
    pub fn find(self, revisions: &[Revision], visit: impl FnMut(usize, &[u8])) {
        match self {
            Self::File { pages, outline } => outline.find(pages, revisions, visit),
            #[cfg(feature = "live")]
            Self::Live { .. } | Self::Nothing => {}
        }
    }

    /// Reads again a record that is not in the store any more, and gives it to `visit`. `at` is what its
    /// [`Stray`](super::residue::Stray) said.
    pub fn stray_at<T>(self, at: u64, visit: impl FnOnce(KeyValue<'_>) -> T) -> Option<T> {
        match self {
            Self::File { pages, .. } => residue::record_at(pages, at, visit),
            #[cfg(feature = "live")]
            Self::Live { .. } | Self::Nothing => None,
        }
    }
}
