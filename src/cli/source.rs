//! From an argument to an open store.

use std::path::Path;

use crate::report::json::SourceFacts;
use crate::source::container::{self, Content, Input, Unpacked};
use crate::source::datadir::DataDir;
#[cfg(feature = "kine")]
use crate::source::kine::KineStore;
#[cfg(feature = "live")]
use crate::source::live::LiveStore;
use crate::source::snapshot::ReadError;
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
        Wanted::File(path) => open_file(path, args, global),
        #[cfg(feature = "live")]
        Wanted::Live(_) if args.salvage => Err(no_salvage("a running etcd")),
        #[cfg(feature = "live")]
        Wanted::Live(endpoints) => open_live(args.live.connect(&endpoints)?, &endpoints),
    }
}

/// Only pages are looked at on their own.
fn no_salvage(form: &str) -> Failure {
    Failure::usage(format!("--salvage is for broken snapshots and databases, and this is {form}"))
}

/// A running etcd as a source.
#[cfg(feature = "live")]
pub fn open_live(live: crate::live::Live, endpoints: &[String]) -> Result<OpenSource, Failure> {
    let bytes = u64::try_from(live.greeting().status.db_size()).unwrap_or(0);
    let facts = SourceFacts {
        path: endpoints.join(","),
        kind: "live",
        container: None,
        entry: None,
        bytes,
        given_sha256: None,
        log_bytes: None,
    };
    Ok(OpenSource { store: Store::Live(LiveStore::new(live)), facts, log_beside: false })
}

/// Opens the file, unpacks what it is packed in, and finds its pages.
fn open_file(path: &Path, args: &SourceArgs, global: &GlobalArgs) -> Result<OpenSource, Failure> {
    let name = path.to_string_lossy();
    let is_stdin = path.as_os_str() == "-";
    if !is_stdin && path.is_dir() {
        if args.salvage {
            return Err(no_salvage("a data directory").about(&name).hint("give its database: member/snap/db"));
        }
        return open_directory(path, &name);
    }
    let input = if is_stdin { Input::Stdin } else { Input::Path(path) };
    let progress = Progress::bytes(global, "unpacking", 0);
    let options = container::Options { progress: &|bytes| progress.add(bytes), ..container::Options::default() };
    let unpacked = container::open(input, &options).map_err(Failure::from)?;
    drop(progress);
    match unpacked.content {
        Content::Sqlite if args.salvage => return Err(no_salvage("kine's SQLite").about(&name)),
        Content::Sqlite => return kine(path, unpacked),
        Content::SqliteLog => {
            let failure = Failure::input("is the log of an SQLite database, which is nothing by itself");
            return Err(failure.about(&name).hint("give the database beside it (state.db)"));
        }
        Content::Bbolt | Content::Unknown => {}
    }
    let container = unpacked.container();
    let snapshot = match args.salvage {
        true => super::salvage::view(&unpacked.file, args, global),
        false => Snapshot::open(unpacked.file).map_err(|error| Failure::from(ReadError::from(error))),
    };
    let snapshot = snapshot.map_err(|failure| failure.about(&name))?;
    let log_beside = unpacked.log_beside || (!is_stdin && container.is_none() && lies_in_a_data_directory(path));
    let facts = SourceFacts {
        path: name.into_owned(),
        kind: if snapshot.has_trailer() || snapshot.lost_its_trailer() { "snapshot" } else { "database" },
        container,
        entry: unpacked.entry,
        bytes: unpacked.bytes,
        given_sha256: unpacked.given_sha256,
        log_bytes: None,
    };
    Ok(OpenSource { store: Store::File(snapshot), facts, log_beside })
}

/// Opens a member's data directory.
fn open_directory(path: &Path, name: &str) -> Result<OpenSource, Failure> {
    let directory = DataDir::open(path).map_err(|error| Failure::from(error).about(name))?;
    let facts = SourceFacts {
        path: name.to_owned(),
        kind: "data-dir",
        container: None,
        entry: None,
        bytes: directory.database().pages().file_bytes(),
        given_sha256: None,
        log_bytes: None,
    };
    Ok(OpenSource { store: Store::Directory(directory), facts, log_beside: false })
}

/// Opens K3s' default store. Only a plain file has its log beside it; an archive has it inside.
#[cfg(feature = "kine")]
fn kine(path: &Path, unpacked: Unpacked) -> Result<OpenSource, Failure> {
    let name = path.to_string_lossy();
    let is_plain = unpacked.layers.is_empty() && path.as_os_str() != "-";
    let opened = match is_plain {
        true => KineStore::open(path, &unpacked.file),
        false => KineStore::open_unpacked(&unpacked.file, unpacked.sqlite_log.as_ref()),
    };
    let store = opened.map_err(|error| Failure::from(ReadError::from(error)).about(&name))?;
    let facts = SourceFacts {
        path: name.into_owned(),
        kind: "kine",
        container: unpacked.container(),
        entry: unpacked.entry,
        bytes: unpacked.bytes,
        given_sha256: unpacked.given_sha256,
        log_bytes: store.copied().log_bytes,
    };
    Ok(OpenSource { store: Store::Kine(store), facts, log_beside: false })
}

#[cfg(not(feature = "kine"))]
fn kine(path: &Path, _: Unpacked) -> Result<OpenSource, Failure> {
    let failure = Failure::input(
        "is an SQLite database, as K3s keeps without embedded etcd; this build cannot read it: it was built without the \
         feature `kine`",
    );
    Err(failure.about(&path.to_string_lossy()))
}

/// Whether a path is `member/snap/db` or a copy of it beside its log: then a folder `wal` lies beside `snap`.
fn lies_in_a_data_directory(path: &Path) -> bool {
    let folder = std::fs::canonicalize(path).ok().and_then(|path| path.parent().map(Path::to_owned));
    let Some(folder) = folder else { return false };
    let beside = |folder: Option<&Path>| folder.is_some_and(|folder| folder.join("wal").is_dir());
    beside(Some(&folder)) || beside(folder.parent())
}
