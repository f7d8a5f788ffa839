//! A private copy of an SQLite database and its log, as they were at one moment, without a lock and without a trace beside
//! the original.
//!
//! In write-ahead mode a database is its file with the log's whole transactions laid over it. Pages only ever get into the file
//! from the log, and the log keeps them until it is begun anew, under new salts in its header. So the file is copied first and
//! the log after it; while the header is the same before and behind, every page that changed under the copy is in the
//! copied log, and a transaction that is half there is no part of it. Without a log the file itself must stand still.
//!
//! Formats: `sqlite.org/fileformat2.html` 1.3 (header), 4.1 (log header).

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use tempfile::TempDir;

use super::KineReadError;
use crate::source::sha256::Sha256;

/// How often a copy is made anew.
const TRIES: usize = 3;

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// The log's header, with its salts.
const LOG_HEADER_BYTES: usize = 32;

/// Where the file's header says how it is written: 2 is with a log.
const WRITE_VERSION_AT: u64 = 18;
const WITH_LOG: u8 = 2;

/// SQLite's pending, reserved and shared lock bytes (`src/os.h`).
const LOCK_BYTES: std::ops::Range<u64> = 0x4000_0000..0x4000_0200;

/// What the original's parts end with beside its own name.
const LOG: &str = "-wal";
const JOURNAL: &str = "-journal";

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of the database file.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Bytes of the log; none where there is none.
    pub log_bytes: Option<u64>,
    /// Its header says that it is written with a log.
    pub with_log: bool,
    /// It is written with a log, and none was beside it.
    pub log_missing: bool,
    /// Another program has it open, by SQLite's locks.
    pub in_use: bool,
}

/// A private folder with the copy in it. It is removed when this is dropped.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    fn new() -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("atrest-").permissions(Permissions::from_mode(0o700));
        Ok(Self(builder.tempdir()?))
    }

    /// The copy of the database.
    pub fn database(&self) -> PathBuf {
        self.0.path().join("state.db")
    }

    /// The copy of its log, if there is one.
    pub fn log(&self) -> io::Result<Option<File>> {
        open(&self.database(), LOG)
    }

    /// Removes the folder and all names in it.
    pub fn remove(self) -> io::Result<()> {
        self.0.close()
    }

    fn part(&self, ending: &str) -> io::Result<File> {
        let path = self.0.path().join(format!("state.db{ending}"));
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    }

    fn clear(&self) -> io::Result<()> {
        for ending in ["", LOG, JOURNAL] {
            match std::fs::remove_file(self.0.path().join(format!("state.db{ending}"))) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Copies a database by its path, with what lies beside it.
pub fn beside(path: &Path, file: &File) -> Result<(Folder, Copied), KineReadError> {
    // What lies beside the file that a link leads to is meant, as SQLite sees it.
    let path = std::fs::canonicalize(path)?;
    let folder = Folder::new()?;
    for _ in 0..TRIES {
        let before = Look::at(&path, file)?;
        has_room(&folder, before.bytes())?;
        folder.clear()?;
        let (bytes, sha256) = copy(file, folder.part("")?)?;
        let mut log_bytes = None;
        for (ending, part) in [(LOG, before.log.is_some()), (JOURNAL, before.journal.is_some())] {
            if part && let Some(part) = open(&path, ending)? {
                let (bytes, _) = copy(&part, folder.part(ending)?)?;
                log_bytes = (ending == LOG).then_some(bytes).or(log_bytes);
            }
        }
        if before.is_one_moment_with(&Look::at(&path, file)?) {
            let (with_log, log_missing) = (before.with_log, before.with_log && log_bytes.is_none());
            let in_use = is_locked(file);
            return Ok((folder, Copied { bytes, sha256, log_bytes, with_log, log_missing, in_use }));
        }
    }
    Err(KineReadError::Changing)
}

/// Copies files that stand still.
pub fn files(file: &File, log: Option<&File>) -> Result<(Folder, Copied), KineReadError> {
    let folder = Folder::new()?;
    let log_length = log.map_or(Ok(0), |log| log.metadata().map(|metadata| metadata.len()))?;
    has_room(&folder, file.metadata()?.len().saturating_add(log_length))?;
    let (bytes, sha256) = copy(file, folder.part("")?)?;
    let log_bytes = match log {
        Some(log) => Some(copy(log, folder.part(LOG)?)?.0),
        None => None,
    };
    let with_log = is_written_with_log(file)?;
    let log_missing = with_log && log_bytes.is_none();
    Ok((folder, Copied { bytes, sha256, log_bytes, with_log, log_missing, in_use: false }))
}

fn has_room(folder: &Folder, needed: u64) -> Result<(), KineReadError> {
    let stat = rustix::fs::statvfs(folder.0.path()).map_err(io::Error::from)?;
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed <= available {
        return Ok(());
    }
    let parent = folder.0.path().parent().unwrap_or(Path::new("/"));
    Err(KineReadError::NoRoom { folder: parent.to_owned(), needed, available })
}

/// Copies a file from its beginning, as long as it is then; gives its length and SHA-256.
fn copy(from: &File, mut to: File) -> io::Result<(u64, [u8; 32])> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        let read = match from.read_at(&mut buffer, at) {
            Ok(0) => return Ok((at, hash.finalize())),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let read = buffer.get(..read).unwrap_or_default();
        hash.update(read);
        to.write_all(read)?;
        at += read.len() as u64;
    }
}

/// A file beside the database; none where there is none.
fn open(path: &Path, ending: &str) -> io::Result<Option<File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    match File::open(name) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_written_with_log(file: &File) -> io::Result<bool> {
    let mut version = [0];
    match file.read_exact_at(&mut version, WRITE_VERSION_AT) {
        Ok(()) => Ok(version == [WITH_LOG]),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether anybody holds one of SQLite's locks, which are on bytes that no page is in. It is only asked: to take one, even
/// for a moment, could be in the server's way.
fn is_locked(file: &File) -> bool {
    let wanted = Flock {
        start: LOCK_BYTES.start,
        length: LOCK_BYTES.end - LOCK_BYTES.start,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    // Some file systems know no locks; then nobody can say.
    fcntl_getlk(file, &wanted).ok().flatten().is_some()
}

/// What tells whether a file was written to.
type Stamp = (u64, u64, i64, i64);

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// The state of the original before and behind a copy.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    database: Stamp,
    with_log: bool,
    log: Option<Log>,
    journal: Option<Stamp>,
}

#[derive(Debug, PartialEq, Eq)]
struct Log {
    stamp: Stamp,
    header: Vec<u8>,
}

impl Look {
    fn at(path: &Path, file: &File) -> io::Result<Self> {
        let log = match open(path, LOG)? {
            None => None,
            Some(log) => {
                let mut header = vec![0; LOG_HEADER_BYTES];
                let read = read_up_to(&log, &mut header)?;
                header.truncate(read);
                Some(Log { stamp: stamp(&log.metadata()?), header })
            }
        };
        let journal = open(path, JOURNAL)?.map(|journal| journal.metadata()).transpose()?;
        Ok(Self {
            database: stamp(&file.metadata()?),
            with_log: is_written_with_log(file)?,
            log,
            journal: journal.as_ref().map(stamp),
        })
    }

    fn bytes(&self) -> u64 {
        let beside = [self.log.as_ref().map(|log| log.stamp.1), self.journal.map(|journal| journal.1)];
        beside.into_iter().flatten().fold(self.database.1, u64::saturating_add)
    }

    /// Whether what was copied between two looks, the database first, is of one moment.
    fn is_one_moment_with(&self, after: &Self) -> bool {
        match (&self.log, &after.log) {
            (Some(before), Some(after_log)) if before.header.len() == LOG_HEADER_BYTES => {
                let same_file = before.stamp.0 == after_log.stamp.0 && self.database.0 == after.database.0;
                same_file && before.header == after_log.header && before.stamp.1 <= after_log.stamp.1
            }
            _ => self == after,
        }
    }
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(header: u8, bytes: u64) -> Option<Log> {
        Some(Log { stamp: (2, bytes, 0, 0), header: vec![header; LOG_HEADER_BYTES] })
    }

    fn look(database: u64, log: Option<Log>) -> Look {
        Look { database: (1, database, 0, 0), with_log: true, log, journal: None }
    }

    #[test]
    fn a_log_may_grow_and_be_brought_in_but_not_begin_anew() {
        let before = look(4096, log(1, 5000));
        assert!(before.is_one_moment_with(&look(4096, log(1, 5000))));
        assert!(before.is_one_moment_with(&look(8192, log(1, 9000))));
        assert!(!before.is_one_moment_with(&look(4096, log(2, 5000))));
        assert!(!before.is_one_moment_with(&look(4096, log(1, 4000))));
        assert!(!before.is_one_moment_with(&look(4096, None)));
    }

    #[test]
    fn without_a_log_the_database_must_stand_still() {
        for empty in [|| None, || Some(Log { stamp: (2, 0, 0, 0), header: Vec::new() })] {
            assert!(look(4096, empty()).is_one_moment_with(&look(4096, empty())));
            assert!(!look(4096, empty()).is_one_moment_with(&look(8192, empty())));
            assert!(!look(4096, empty()).is_one_moment_with(&look(4096, log(1, 5000))));
        }
        let journal = Look { journal: Some((3, 512, 0, 0)), ..look(4096, None) };
        assert!(!journal.is_one_moment_with(&look(4096, None)));
    }

    #[test]
    fn a_private_folder_is_its_owners_alone_and_ends() {
        let folder = Folder::new().unwrap();
        let path = folder.database();
        let parent = path.parent().unwrap().to_owned();
        drop(folder.part("").unwrap());
        assert_eq!(std::fs::metadata(&parent).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(folder);
        assert!(!parent.exists());
    }
}
