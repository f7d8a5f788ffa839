//! SHA-256 over a snapshot, and whether the digest that the server appended to it fits.
//!
//! Upstream: `etcd-io/etcd` `server/etcdserver/api/v3rpc/maintenance.go` appends the SHA-256 of all preceding bytes;
//! `etcdutl/snapshot/v3_snapshot.go` tells such a file by its length, which is then 32 more than a multiple of 512.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::sha256::Sha256;
use crate::bbolt::buffer::ReadBuffer;

/// Bytes of the digest behind a snapshot's pages.
pub const TRAILER_BYTES: u64 = 32;

/// The unit of the rule by which upstream tells that there is a digest.
const LENGTH_UNIT: u64 = 512;

/// Bytes that are read at once. Hashing keeps up with reading best while they stay in the processor's cache.
pub(super) const READ_BYTES: usize = 128 << 10;

/// Whether a digest is appended to the pages, and whether it is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailer {
    /// It is there and fits.
    Ok,
    /// There is none.
    Missing,
    /// It is there, and the bytes before it are others than those it was made from.
    Mismatch,
}

impl Trailer {
    /// Whether upstream would take the last 32 bytes of a file of this length for the digest.
    pub fn expected(file_bytes: u64) -> bool {
        file_bytes % LENGTH_UNIT == TRAILER_BYTES
    }

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Mismatch => "mismatch",
        }
    }
}

/// What hashing a file gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// SHA-256 of the whole file.
    pub file: [u8; 32],
    /// SHA-256 of the file without the appended digest.
    pub database: [u8; 32],
    /// Whether the appended digest fits.
    pub trailer: Trailer,
}

/// Reads `bytes` bytes of `file` once, from its start, and hashes them.
///
/// `progress` is told the bytes of each read.
pub fn digests(file: &File, bytes: u64, progress: &(dyn Fn(u64) + Sync)) -> io::Result<Digests> {
    Digests::of(file, bytes, hash(file, database_bytes(bytes), progress)?)
}

/// How many bytes of a file of this length come before the appended digest.
pub fn database_bytes(file_bytes: u64) -> u64 {
    if Trailer::expected(file_bytes) { file_bytes - TRAILER_BYTES } else { file_bytes }
}

impl Digests {
    /// What `hash` says, which is over the [bytes before the appended digest](database_bytes) of a file of this length.
    ///
    /// # Errors
    ///
    /// The appended digest cannot be read.
    pub fn of(file: &File, file_bytes: u64, mut hash: Sha256) -> io::Result<Self> {
        let database = hash.clone().finalize();
        if !Trailer::expected(file_bytes) {
            return Ok(Self { file: database, database, trailer: Trailer::Missing });
        }
        let mut appended = [0; TRAILER_BYTES as usize];
        file.read_exact_at(&mut appended, database_bytes(file_bytes))?;
        hash.update(appended);
        let trailer = if appended == database { Trailer::Ok } else { Trailer::Mismatch };
        Ok(Self { file: hash.finalize(), database, trailer })
    }
}

/// SHA-256 over the first `bytes` bytes, to go on with what follows them.
///
/// `progress` is told the bytes of each read.
pub fn hash(file: &File, bytes: u64, progress: &(dyn Fn(u64) + Sync)) -> io::Result<Sha256> {
    let mut hash = Sha256::new();
    let mut buffer = ReadBuffer::new();
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        let piece = buffer.room(length);
        file.read_exact_at(piece, offset)?;
        hash.update(&*piece);
        offset += length as u64;
        progress(length as u64);
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use sha2::Digest;

    use super::*;

    fn of(bytes: &[u8]) -> Digests {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        digests(&file, bytes.len() as u64, &|_| ()).unwrap()
    }

    #[test]
    fn a_fitting_digest_is_told_from_a_wrong_and_from_none() {
        let pages = vec![7; 300 * 1024];
        let plain = of(&pages);
        assert_eq!((plain.trailer, plain.file), (Trailer::Missing, plain.database));
        let mut snapshot = pages.clone();
        snapshot.extend(plain.database);
        let sealed = of(&snapshot);
        assert_eq!((sealed.trailer, sealed.database), (Trailer::Ok, plain.database));
        assert_eq!(sealed.file, <[u8; 32]>::from(sha2::Sha256::digest(&snapshot)));
        snapshot[4711] ^= 1;
        assert_eq!(of(&snapshot).trailer, Trailer::Mismatch);
    }
}
