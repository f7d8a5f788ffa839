//! The temporary file: nameless, private, and only as large as there is room for.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::ContainerError;
use super::Place;
use super::stream::Fault;

const COPY_BYTES: usize = 256 * 1024;
/// How much is written at most before the room is looked at again; less where there is little of it.
const CHECK_BYTES: u64 = 16 * 1024 * 1024;
/// A file system is never filled further than this, since other programs need it, too.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// How much a file system can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Bytes that may still be used, the reserve not counted.
    pub(super) available: u64,
}

/// Asks the operating system. The reserve is at most a twentieth of a small file system.
pub(super) fn room(directory: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(directory)?;
    let reserve = RESERVE_BYTES.min(stat.f_blocks.saturating_mul(stat.f_frsize) / 20);
    Ok(Room { available: stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(reserve) })
}

/// A temporary file while it is written.
pub(super) struct Spool<'a> {
    file: File,
    temp_dir: &'a Path,
    room: fn(&Path) -> io::Result<Room>,
    /// The whole length, where it is known.
    size: Option<u64>,
    written: u64,
    next_check: u64,
}

impl<'a> Spool<'a> {
    /// Makes the file, after a look at the room where the length is known.
    pub(super) fn create(
        temp_dir: &'a Path,
        room: fn(&Path) -> io::Result<Room>,
        size: Option<u64>,
    ) -> Result<Self, ContainerError> {
        let fail = |source| ContainerError::Temp { temp_dir: temp_dir.to_owned(), source };
        // Unlinked at once, or never linked: a killed process leaves nothing behind.
        let file = tempfile::tempfile_in(temp_dir).map_err(fail)?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(fail)?;
        let mut spool = Self { file, temp_dir, room, size, written: 0, next_check: 0 };
        spool.check(0)?;
        Ok(spool)
    }

    /// Copies all of a stream into the file.
    pub(super) fn fill(mut self, stream: &mut dyn Read) -> Result<File, ContainerError> {
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = match stream.read(&mut buffer) {
                Ok(0) => return Ok(self.file),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::of(&error, &Place::default(), self.written).into()),
            };
            self.write(buffer.get(..read).unwrap_or_default())?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ContainerError> {
        let after = self.written.saturating_add(bytes.len() as u64);
        if after >= self.next_check {
            self.check(bytes.len() as u64)?;
        }
        self.file.write_all(bytes).map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => self.no_room(after, self.written),
            _ => ContainerError::Temp { temp_dir: self.temp_dir.to_owned(), source },
        })?;
        self.written = after;
        Ok(())
    }

    /// Looks whether what is known to come, at least the `next` bytes, has room.
    fn check(&mut self, next: u64) -> Result<(), ContainerError> {
        let to_come = self.size.map_or(next, |size| size.saturating_sub(self.written).max(next));
        let room = (self.room)(self.temp_dir)
            .map_err(|source| ContainerError::Temp { temp_dir: self.temp_dir.to_owned(), source })?;
        if to_come > room.available {
            return Err(self.no_room(self.written.saturating_add(to_come), self.written.saturating_add(room.available)));
        }
        let unchecked = CHECK_BYTES.min(room.available / 2).max(COPY_BYTES as u64);
        self.next_check = self.written.saturating_add(next).saturating_add(unchecked);
        Ok(())
    }

    fn no_room(&self, needed: u64, available: u64) -> ContainerError {
        let needed = self.size.unwrap_or(0).max(needed);
        ContainerError::NoRoom {
            temp_dir: PathBuf::from(self.temp_dir),
            needed,
            exact: self.size == Some(needed),
            available,
        }
    }
}
