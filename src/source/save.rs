//! A snapshot of a running member, proved while and after it arrives.
//!
//! A server sends its database's pages and behind them their SHA-256, both in pieces. `remaining_bytes` is zero already
//! before the digest comes, so only the end of the stream is the end. What has arrived is then read as any snapshot is:
//! every page is looked at. Whoever calls gives the file its name, or not.
//!
//! Upstream: `etcd-io/etcd`, `server/etcdserver/api/v3rpc/maintenance.go` (`Snapshot`), `client/v3/snapshot`.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};

use crate::live::{Live, LiveError, Member, Unanswered};

use super::check::{CheckError, HashKvAt, Report, check};
use super::digest::{TRAILER_BYTES, Trailer};
use super::sha256::Sha256;
use super::snapshot::{PassOptions, ReadError, Snapshot};

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A snapshot that was saved and holds.
#[derive(Debug)]
pub struct Saved {
    /// Who sent it.
    pub endpoint: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// The release that sent it, as it says from 3.6 on.
    pub version: String,
    /// What was found in it.
    pub report: Report,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Nobody sent one.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// The file cannot be written.
    #[error("it can't be written: {0}")]
    Write(#[from] io::Error),
    /// The stream ended too early.
    #[error("{endpoint}: the stream ended after {bytes} bytes, before the digest of what was sent")]
    Short {
        /// Who sent it.
        endpoint: String,
        /// What had come.
        bytes: u64,
    },
    /// The bytes are others than those that were sent.
    #[error("{endpoint}: what arrived is not what was sent: the digest does not fit")]
    Altered {
        /// Who sent it.
        endpoint: String,
    },
    /// The member's own database is damaged.
    #[error("{endpoint}: the snapshot arrived whole, but the database itself is damaged: {first}")]
    Damaged {
        /// Who sent it.
        endpoint: String,
        /// The first fault.
        first: String,
    },
    /// It cannot be read again.
    #[error("{endpoint}: what arrived cannot be read: {error}")]
    Read {
        /// Who sent it.
        endpoint: String,
        /// Why.
        error: CheckError,
    },
}

/// Saves a snapshot into an empty file, and proves it. Tries the next member where one breaks off.
///
/// `reopen` gives the file anew for reading; `progress` is told the bytes that have come and how many there will be.
///
/// # Errors
///
/// [`SaveError`]. The file is of no use then.
pub fn save(
    live: &Live,
    file: &File,
    reopen: impl FnOnce() -> io::Result<File>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Saved, SaveError> {
    let arrived = live.run(live.cluster().ask(async |member| {
        let arrived = arrive(member, file, progress).await?;
        Ok(arrived.map(|arrived| (member.endpoint().to_string(), arrived)))
    }))?;
    let (endpoint, arrived) = arrived?;
    let Arrived { bytes, version, trailer } = arrived;
    match trailer {
        Trailer::Ok => {}
        Trailer::Missing => return Err(SaveError::Short { endpoint, bytes }),
        Trailer::Mismatch => return Err(SaveError::Altered { endpoint }),
    }
    let report = prove(reopen()?).map_err(|error| SaveError::Read { endpoint: endpoint.clone(), error })?;
    let holds = report.digests.is_some_and(|digests| digests.trailer == Trailer::Ok);
    match report.faults.first() {
        Some(first) => Err(SaveError::Damaged { endpoint, first: first.to_string() }),
        None if !holds => Err(SaveError::Altered { endpoint }),
        None => Ok(Saved { endpoint, bytes, version, report }),
    }
}

fn prove(file: File) -> Result<Report, CheckError> {
    let mut snapshot = Snapshot::open(file).map_err(ReadError::from)?;
    check(&mut snapshot, PassOptions { digest: true, threads: 0, progress: &|_| () }, HashKvAt::Not)
}

/// What one stream brought.
struct Arrived {
    bytes: u64,
    version: String,
    trailer: Trailer,
}

/// Writes one stream into the file from its beginning. Trouble with the file is the inner error.
async fn arrive(
    member: &Member,
    file: &File,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<io::Result<Arrived>, LiveError> {
    let mut stream = member.snapshot().await?;
    let mut writer = match Writer::new(file) {
        Ok(writer) => writer,
        Err(error) => return Ok(Err(error)),
    };
    let mut version = String::new();
    while let Some(piece) = member.next_piece(&mut stream).await? {
        if let Err(error) = writer.take(piece.blob()) {
            return Ok(Err(error));
        }
        if version.is_empty() {
            version = piece.version().to_owned();
        }
        progress(writer.bytes, writer.bytes.saturating_add(piece.remaining_bytes()));
    }
    Ok(writer.finish().map(|(bytes, trailer)| Arrived { bytes, version, trailer }))
}

/// Writes and hashes; what may be the digest is kept back from hashing.
struct Writer<'f> {
    out: BufWriter<&'f File>,
    hash: Sha256,
    tail: Vec<u8>,
    bytes: u64,
}

impl<'f> Writer<'f> {
    fn new(mut file: &'f File) -> io::Result<Self> {
        file.set_len(0)?;
        file.rewind()?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { out, hash: Sha256::new(), tail: Vec::new(), bytes: 0 })
    }

    fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        self.out.write_all(piece)?;
        self.bytes = self.bytes.saturating_add(piece.len() as u64);
        self.tail.extend_from_slice(piece);
        let kept = usize::try_from(TRAILER_BYTES).unwrap_or(0);
        let settled = self.tail.len().saturating_sub(kept);
        self.hash.update(self.tail.get(..settled).unwrap_or_default());
        self.tail.drain(..settled);
        Ok(())
    }

    fn finish(mut self) -> io::Result<(u64, Trailer)> {
        self.out.flush()?;
        let trailer = match self.hash.finalize().as_slice() == self.tail.as_slice() {
            _ if !Trailer::expected(self.bytes) => Trailer::Missing,
            true => Trailer::Ok,
            false => Trailer::Mismatch,
        };
        Ok((self.bytes, trailer))
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;

    fn written(pieces: &[&[u8]]) -> (u64, Trailer) {
        let file = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(&file).unwrap();
        pieces.iter().for_each(|piece| writer.take(piece).unwrap());
        writer.finish().unwrap()
    }

    #[test]
    fn the_digest_is_told_however_the_stream_is_cut() {
        let pages = vec![7; 1024];
        let digest = sha2::Sha256::digest(&pages);
        let whole = [pages.as_slice(), &digest].concat();
        for cut in [0, 1, 31, 32, 33, 1000, 1024, 1030, 1055, 1056] {
            let (one, other) = whole.split_at(cut);
            assert_eq!(written(&[one, other]), (1056, Trailer::Ok), "{cut}");
        }
        assert_eq!(written(&[&pages]).1, Trailer::Missing);
        assert_eq!(written(&[&whole[..1055]]).1, Trailer::Missing);
        let mut altered = whole.clone();
        altered[5] = 8;
        assert_eq!(written(&[&altered]).1, Trailer::Mismatch);
        assert_eq!(written(&[]).1, Trailer::Missing);
    }
}
