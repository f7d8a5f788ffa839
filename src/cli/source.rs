//! From an argument to an open store.

use std::path::Path;

use crate::report::json::SourceFacts;
use crate::source::container::{self, Content, Input};
#[cfg(feature = "live")]
use crate::source::live::LiveStore;
use crate::source::{Snapshot, Store};

use super::Failure;
use super::args::{GlobalArgs, SourceArgs, Wanted};
use super::progress::Progress;

/// An open store and what is known of it.
pub struct OpenSource {
    /// The records.
    pub store: Store,
    /// What reports say of it.
    pub facts: SourceFacts,
    /// Its newest writes may be only in a log beside it.
    pub log_beside: bool,
}

impl OpenSource {
    /// The pages, for what only a snapshot or database can do.
    pub fn file(&mut self) -> Result<&mut Snapshot, Failure> {
        let wrong = || Failure::input("is neither a snapshot nor a database").about(&self.facts.path);
        self.store.as_file().ok_or_else(wrong)
    }
}

/// Puts the source's name in front of what went wrong. A server's errors name their endpoint themselves.
pub fn about(failure: Failure, facts: &SourceFacts) -> Failure {
    if facts.is_live() { failure } else { failure.about(&facts.path) }
}

/// Opens what is to be read.
pub fn open(args: &SourceArgs, global: &GlobalArgs) -> Result<OpenSource, Failure> {
    match args.wanted()? {
        Wanted::File(path) => open_file(path, global),
        #[cfg(feature = "live")]
        Wanted::Live(endpoints) => open_live(args.live.connect(&endpoints)?, &endpoints),
    }
}

/// A running etcd as a source.
#[cfg(feature = "live")]
fn open_live(live: crate::live::Live, endpoints: &[String]) -> Result<OpenSource, Failure> {
    let bytes = u64::try_from(live.greeting().status.db_size()).unwrap_or(0);
    let facts = SourceFacts {
        path: endpoints.join(","),
        kind: "live",
        container: None,
        entry: None,
        bytes,
        given_sha256: None,
    };
    Ok(OpenSource { store: Store::Live(LiveStore::new(live)), facts, log_beside: false })
}

/// Opens the file, unpacks what it is packed in, and finds its pages.
fn open_file(path: &Path, global: &GlobalArgs) -> Result<OpenSource, Failure> {
    let name = path.to_string_lossy();
    let is_stdin = path.as_os_str() == "-";
    let input = if is_stdin { Input::Stdin } else { Input::Path(path) };
    let progress = Progress::bytes(global, "unpacking", 0);
    let options = container::Options { progress: &|bytes| progress.add(bytes), ..container::Options::default() };
    let unpacked = container::open(input, &options).map_err(Failure::from)?;
    drop(progress);
    if unpacked.content == Content::Sqlite {
        let failure =
            Failure::input("is an SQLite database, as K3s keeps without embedded etcd; it cannot be read yet");
        return Err(failure.about(&name));
    }
    let container = unpacked.container();
    let snapshot = Snapshot::open(unpacked.file);
    let snapshot =
        snapshot.map_err(|error| Failure::from(crate::source::snapshot::ReadError::from(error)).about(&name))?;
    let log_beside = unpacked.log_beside || (!is_stdin && container.is_none() && lies_in_a_data_directory(path));
    let facts = SourceFacts {
        path: name.into_owned(),
        kind: if snapshot.has_trailer() || snapshot.lost_its_trailer() { "snapshot" } else { "database" },
        container,
        entry: unpacked.entry,
        bytes: unpacked.bytes,
        given_sha256: unpacked.given_sha256,
    };
    Ok(OpenSource { store: Store::File(snapshot), facts, log_beside })
}

/// Whether a path is `member/snap/db` or a copy of it beside its log: then a folder `wal` lies beside `snap`.
fn lies_in_a_data_directory(path: &Path) -> bool {
    let folder = std::fs::canonicalize(path).ok().and_then(|path| path.parent().map(Path::to_owned));
    let Some(folder) = folder else { return false };
    let beside = |folder: Option<&Path>| folder.is_some_and(|folder| folder.join("wal").is_dir());
    beside(Some(&folder)) || beside(folder.parent())
}
