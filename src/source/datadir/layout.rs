//! Where things are in a data directory.
//!
//! ```text
//! member/snap/db                           the database
//! member/snap/<term>-<index>.snap          members as of an entry; written for older releases, and for rolling back to them
//! member/snap/<index>.snap.db              a database that a leader sent, until it takes the place of `db`
//! member/snap/db.tmp.*, tmp*               left over from a defragmentation or a transfer
//! member/wal/<sequence>-<index>.wal        the log
//! member/wal/<number>.tmp, *.broken        room for the next segment; a segment that was torn
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::bbolt::OpenError;
use crate::bbolt::leaves::Depth;
use crate::etcd::raft::SnapFile;
use crate::etcd::wal::hexadecimal;
use crate::source::snapshot::{ReadError, Snapshot};

/// A `.snap` file beyond this is not read: it holds members, and in clusters of etcd 2 everything else.
const MAX_SNAP_BYTES: u64 = 64 << 20;

/// Names of so many files that are not needed are told.
const NAMED: usize = 100;

/// Why a directory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// There is no database where a member has it.
    #[error("is a directory, and no member's data directory: there is neither snap/db nor member/snap/db in it")]
    NoMember,
    /// Something in it cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Where, within the member's folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The database cannot be read.
    #[error("{path}: {source}")]
    Database {
        /// Which file, within the member's folder.
        path: String,
        /// Why.
        source: ReadError,
    },
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// What is in a member's folder.
#[derive(Debug)]
pub(super) struct Layout {
    member: PathBuf,
    /// Names of `.snap` files, the newest last.
    snaps: Vec<String>,
    /// Databases that a leader sent, by the index of the last entry in them.
    sent: Vec<(u64, String)>,
    others: Vec<String>,
    members: Option<SnapFile>,
}

/// The member's folder of a directory that is one or holds one.
pub fn find(path: &Path) -> Option<PathBuf> {
    let candidates = [path.to_owned(), path.join("member")];
    candidates.into_iter().find(|member| member.join("snap").join("db").is_file())
}

impl Layout {
    pub(super) fn of(path: &Path) -> Result<Self, DirectoryError> {
        let member = find(path).ok_or(DirectoryError::NoMember)?;
        let mut layout = Self { member, snaps: Vec::new(), sent: Vec::new(), others: Vec::new(), members: None };
        let folder = layout.member.join("snap");
        let entries =
            fs::read_dir(&folder).map_err(|error| DirectoryError::Io { path: "snap".into(), source: error })?;
        for entry in entries {
            let entry = entry.map_err(|error| DirectoryError::Io { path: "snap".into(), source: error })?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "db" {
                continue;
            }
            match name.strip_suffix(".snap.db").and_then(hexadecimal) {
                Some(index) => layout.sent.push((index, name)),
                None if is_snap(&name) => layout.snaps.push(name),
                None => layout.others.push(name),
            }
        }
        layout.snaps.sort();
        layout.sent.sort();
        layout.others.sort();
        // The newest one may be torn; then the one before it counts, as for etcd.
        layout.members = layout.snaps.iter().rev().find_map(|name| read_snap(&folder.join(name)));
        Ok(layout)
    }

    /// The folder of the log, where it lies beside the database.
    pub(super) fn wal(&self) -> Option<PathBuf> {
        Some(self.member.join("wal")).filter(|folder| folder.is_dir())
    }

    /// The members as of the newest `.snap` file that holds.
    pub(super) fn members(&self) -> Option<&SnapFile> {
        self.members.as_ref()
    }

    /// The database that a server would start with, and whether one runs. `snapshot` is the index up to which the log says that
    /// everything is in a database.
    pub(super) fn database(&self, snapshot: u64) -> Result<(Snapshot, bool), DirectoryError> {
        let own = self.open("db")?;
        let running = own.1;
        let Some((_, sent)) = self.sent.iter().rev().find(|(index, _)| *index == snapshot) else { return Ok(own) };
        // A database that a leader sent counts from when the log says so, even if the server died before it was put in its place.
        let behind =
            own.0.lay_out(Depth::Unknown).is_ok_and(|laid| laid.outline.meta.consistent_index.unwrap_or(0) < snapshot);
        match behind {
            true => Ok((self.open(sent)?.0, running)),
            false => Ok(own),
        }
    }

    fn open(&self, name: &str) -> Result<(Snapshot, bool), DirectoryError> {
        let (shown, path) = (format!("snap/{name}"), self.member.join("snap").join(name));
        let file = File::open(&path).map_err(|error| DirectoryError::Io { path: shown.clone(), source: error })?;
        let running = super::is_locked(&file);
        let failed = |error: OpenError| DirectoryError::Database { path: shown, source: ReadError::from(error) };
        Ok((Snapshot::open(file).map_err(failed)?, running))
    }

    /// Names of what is there and not needed; `log` are those in the folder of the log.
    pub(super) fn leftovers(&self, log: &[String]) -> Vec<String> {
        let sent = self.sent.iter().map(|(_, name)| name);
        let snap = self.snaps.iter().chain(sent).chain(&self.others).map(|name| format!("snap/{name}"));
        let log = log.iter().map(|name| format!("wal/{name}"));
        snap.chain(log).take(NAMED).collect()
    }
}

/// Whether a name is that of a `.snap` file: term and index.
fn is_snap(name: &str) -> bool {
    let numbers = name.strip_suffix(".snap").and_then(|stem| stem.split_once('-'));
    numbers.is_some_and(|(term, index)| hexadecimal(term).is_some() && hexadecimal(index).is_some())
}

fn read_snap(path: &Path) -> Option<SnapFile> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MAX_SNAP_BYTES + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > MAX_SNAP_BYTES {
        return None;
    }
    SnapFile::decode(&bytes)
}
