//! From an argument to an open store.

use std::path::Path;

use crate::report::json::SourceFacts;
use crate::source::container::{self, Content, Input};
use crate::source::snapshot::ReadError;
use crate::source::{Snapshot, Store};

use super::Failure;
use super::args::{GlobalArgs, SourceArgs};
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

/// Opens the file, unpacks what it is packed in, and finds its pages.
pub fn open(args: &SourceArgs, global: &GlobalArgs) -> Result<OpenSource, Failure> {
    let name = args.source.to_string_lossy();
    let is_stdin = args.source.as_os_str() == "-";
    let input = if is_stdin { Input::Stdin } else { Input::Path(&args.source) };
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
    let snapshot = match args.salvage {
        true => super::salvage::view(&unpacked.file, args, global),
        false => Snapshot::open(unpacked.file).map_err(|error| Failure::from(ReadError::from(error))),
    };
    let snapshot = snapshot.map_err(|failure| failure.about(&name))?;
    let log_beside =
        unpacked.log_beside || (!is_stdin && container.is_none() && lies_in_a_data_directory(&args.source));
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
