//! Readers that know where they are, so that a fault of any layer arrives with its place.
//!
//! Between the layers stands [`std::io::Read`], whose errors have no place. So each layer puts its own [`Fault`] into
//! them, and whoever holds such an error takes the innermost fault out again.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use super::{ContainerError, Place};
use crate::source::sha256::Sha256;

const BUFFER_BYTES: usize = 128 * 1024;

/// What went wrong in a stream, and where.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Given { offset: u64, detail: String },
    Damaged { place: String, offset: u64, detail: String },
    CutOff { place: String, offset: u64, detail: String },
}

impl Fault {
    /// The given bytes themselves cannot be read.
    pub(super) fn given(offset: u64, error: &io::Error) -> Self {
        Self::Given { offset, detail: error.to_string() }
    }

    /// The fault that an error carries, or else a new one of this place.
    pub(super) fn of(error: &io::Error, place: &Place, offset: u64) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = error.get_ref().map(|inner| inner as _);
        while let Some(inner) = cause {
            if let Some(fault) = inner.downcast_ref::<Self>() {
                return fault.clone();
            }
            // An io::Error's own source is that of its content: the content itself must be asked for.
            cause = match inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(content) => Some(content as _),
                None => inner.source(),
            };
        }
        let (place, detail) = (place.to_string(), error.to_string());
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::CutOff { place, offset, detail },
            _ => Self::Damaged { place, offset, detail },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Given { detail, .. } | Self::Damaged { detail, .. } | Self::CutOff { detail, .. }) = self;
        f.write_str(detail)
    }
}

impl Error for Fault {}

impl From<Fault> for ContainerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Given { offset, detail } => Self::Read { offset, detail },
            Fault::Damaged { place, offset, detail } => Self::Damaged { place, offset, detail },
            Fault::CutOff { place, offset, detail } => Self::CutOff { place, offset, detail },
        }
    }
}

/// The given bytes: counted, hashed, and told to whoever shows progress.
pub(super) struct Given<'a, R> {
    inner: R,
    bytes: u64,
    hash: Option<Sha256>,
    progress: &'a dyn Fn(u64),
}

impl<'a, R: Read> Given<'a, R> {
    pub(super) fn new(inner: R, progress: &'a dyn Fn(u64)) -> Self {
        Self { inner, bytes: 0, hash: Some(Sha256::new()), progress }
    }

    pub(super) fn stop_hashing(&mut self) {
        self.hash = None;
    }

    pub(super) fn count(&self) -> u64 {
        self.bytes
    }

    pub(super) fn digest(self) -> Option<[u8; 32]> {
        self.hash.map(|hash| hash.finalize())
    }
}

impl<R: Read> Read for Given<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, Fault::given(self.bytes, &error)),
        })?;
        if let Some(hash) = &mut self.hash {
            hash.update(buffer.get(..read).unwrap_or_default());
        }
        self.bytes = self.bytes.saturating_add(read as u64);
        (self.progress)(self.bytes);
        Ok(read)
    }
}

/// A content that knows its place, and its length where that was announced.
pub(super) struct Named<R> {
    inner: R,
    place: Place,
    expected: Option<u64>,
    read: u64,
}

impl<R: Read> Named<R> {
    pub(super) fn new(inner: R, place: Place, expected: Option<u64>) -> Self {
        Self { inner, place, expected, read: 0 }
    }

    fn cut_off(&self, expected: u64) -> io::Error {
        let detail = format!("{expected} bytes were announced");
        let fault = Fault::CutOff { place: self.place.to_string(), offset: self.read, detail };
        io::Error::new(io::ErrorKind::UnexpectedEof, fault)
    }
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, Fault::of(&error, &self.place, self.read)),
        })?;
        self.read = self.read.saturating_add(read as u64);
        match self.expected {
            Some(expected) if read == 0 && !buffer.is_empty() && self.read < expected => Err(self.cut_off(expected)),
            _ => Ok(read),
        }
    }
}

/// A file with a position of its own, whatever other readers of the same file do.
pub(super) struct At<'a> {
    file: &'a File,
    position: u64,
}

impl<'a> At<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, position: 0 }
    }
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position = self.position.saturating_add(read as u64);
        Ok(read)
    }
}

impl Seek for At<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// A reader that can be told how much may still come, for a while.
///
/// An archive's reader keeps long names and extended headers in memory, of whatever length they claim to have.
pub(super) struct Rationed<'a, R> {
    inner: R,
    /// Bytes that may still be read; `None` for any number.
    ration: &'a Cell<Option<u64>>,
}

impl<'a, R: Read> Rationed<'a, R> {
    pub(super) fn new(inner: R, ration: &'a Cell<Option<u64>>) -> Self {
        Self { inner, ration }
    }
}

impl<R: Read> Read for Rationed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.ration.get() else {
            return self.inner.read(buffer);
        };
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the headers of one entry are too long"));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.ration.set(Some(left.saturating_sub(read as u64)));
        Ok(read)
    }
}

/// All members of a gzip stream.
pub(super) fn gzip(stream: impl Read) -> impl Read {
    flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, stream))
}

/// All frames of a zstd stream.
#[cfg(feature = "zstd")]
pub(super) fn zstd(stream: impl Read) -> io::Result<impl Read> {
    zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(BUFFER_BYTES, stream))
}

/// Reads to the end, so that what stands there is checked and hashed.
pub(super) fn drain(stream: &mut dyn Read) -> Result<(), ContainerError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::of(&error, &Place::default(), 0).into()),
        }
    }
}
