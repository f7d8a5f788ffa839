//! Reading a configuration's file, which may be anything.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use thiserror::Error;
use zeroize::Zeroizing;

use super::lint::{Lint, LintId};

/// No configuration is this large: etcd would refuse a tenth of it, and 4 MiB hold some fifty thousand keys.
pub const SIZE_LIMIT_BYTES: u64 = 4 << 20;

/// A configuration's bytes, wiped when dropped, and what its file alone tells.
pub struct Contents {
    /// The bytes as they are.
    pub bytes: Zeroizing<Vec<u8>>,
    /// About the file's mode.
    pub lints: Vec<Lint>,
}

/// Why a file could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It can't be opened or read.
    #[error("the configuration can't be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is a directory.
    #[error("this is a directory, not a configuration")]
    Directory,
    /// It has no bytes.
    #[error("the file is empty")]
    Empty,
    /// It is larger than [`SIZE_LIMIT_BYTES`].
    #[error("this is no configuration: it is larger than {} MiB", SIZE_LIMIT_BYTES >> 20)]
    TooLarge,
}

/// Reads a file whole, up to the limit.
pub fn read_file(path: &Path) -> Result<Contents, ReadError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(ReadError::Directory);
    }
    if metadata.len() > SIZE_LIMIT_BYTES {
        return Err(ReadError::TooLarge);
    }
    // One byte more than allowed tells too large from just right, whatever a pipe or a growing file brings.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len() + 1).unwrap_or_default()));
    file.take(SIZE_LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(ReadError::Empty);
    }
    if bytes.len() as u64 > SIZE_LIMIT_BYTES {
        return Err(ReadError::TooLarge);
    }
    Ok(Contents { bytes, lints: readable_by_others(&metadata) })
}

#[cfg(unix)]
fn readable_by_others(metadata: &std::fs::Metadata) -> Vec<Lint> {
    use std::os::unix::fs::MetadataExt;

    let mode = metadata.mode() & 0o7777;
    let others = match (mode & 0o040 != 0, mode & 0o004 != 0) {
        (_, true) => "everybody",
        (true, false) => "its group",
        (false, false) => return Vec::new(),
    };
    // A pipe has no permissions that anybody else could use.
    if !metadata.is_file() {
        return Vec::new();
    }
    let message = format!("the file's mode {mode:04o} lets {others} read the keys");
    vec![Lint::whole(LintId::ReadableByOthers, message)]
}

#[cfg(not(unix))]
fn readable_by_others(_: &std::fs::Metadata) -> Vec<Lint> {
    Vec::new()
}
