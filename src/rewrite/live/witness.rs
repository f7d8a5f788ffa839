//! What a rewrite read and wrote, to be held against what is read in the end.
//!
//! Each entry leaves a record of fixed size, in the order of keys, in a file without a name: memory does not grow with the keyspace.
//! There is no plaintext in it and no key, but digests under a key drawn anew for each run. What was written stands in a file of
//! its own, so that what a transaction wrote is noted at once.
//!
//! | bytes | field | | bytes | field, of what was written |
//! |---|---|---|---|---|
//! | 0..16 | digest of the key | | 0..8 | digest of the plaintext |
//! | 16..24 | digest of the plaintext that was read | | 8..16 | revision at which the rewrite stored it again; 0 for none |
//! | 24..32 | revision at which it was read | | | |

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::source::trace::TraceKey;

use super::keyspace::Entry;
use super::pages::Pins;

const RECORD_BYTES: usize = 32;
const WRITTEN_BYTES: usize = 16;

/// The records while they are made.
pub struct Witness {
    file: File,
    written: File,
    key: TraceKey,
    records: u64,
    buffer: Vec<u8>,
}

impl Witness {
    /// None yet.
    ///
    /// # Errors
    ///
    /// Where no file without a name can be made.
    pub fn new(key: TraceKey) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, written: tempfile::tempfile()?, key, records: 0, buffer: Vec::new() })
    }

    /// Notes an entry and the digest of what it holds. Gives the record's number.
    pub fn read(&mut self, entry: &Entry, digest: u64) -> u64 {
        self.buffer.extend_from_slice(&self.key.digest(&entry.key).to_le_bytes());
        for field in [digest, entry.mod_revision.cast_unsigned()] {
            self.buffer.extend_from_slice(&field.to_le_bytes());
        }
        self.records += 1;
        self.records - 1
    }

    /// Brings what was noted to the file.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn flush(&mut self) -> io::Result<()> {
        let end = self.records * RECORD_BYTES as u64;
        self.file.write_all_at(&self.buffer, end - self.buffer.len() as u64)?;
        self.buffer.clear();
        Ok(())
    }

    /// A second handle, to note with what was written.
    ///
    /// # Errors
    ///
    /// Where the system gives none.
    pub fn writer(&self) -> io::Result<Written> {
        Ok(Written(self.written.try_clone()?))
    }

    /// Everything that was noted, from the beginning.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn into_records(mut self, pins: Pins) -> io::Result<Records> {
        self.flush()?;
        // Where nothing was written the file has a hole or has ended, which are zeros.
        self.written.set_len(self.records * WRITTEN_BYTES as u64)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.written.seek(SeekFrom::Start(0))?;
        let reader = BufReader::with_capacity(RECORD_BYTES << 10, self.file);
        let written = BufReader::with_capacity(WRITTEN_BYTES << 10, self.written);
        Ok(Records { reader, written, key: self.key, left: self.records, pins })
    }
}

/// Notes what was written.
pub struct Written(File);

impl Written {
    /// The entries of these records now hold what has these digests, written at this revision.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn note(&self, written: impl Iterator<Item = (u64, u64)>, revision: i64) -> io::Result<()> {
        let (mut first, mut bytes) = (0, Vec::new());
        for (record, digest) in written {
            // What stands side by side goes at once.
            if record != first + (bytes.len() / WRITTEN_BYTES) as u64 {
                self.0.write_all_at(&bytes, first * WRITTEN_BYTES as u64)?;
                (first, bytes) = (record, Vec::new());
            }
            bytes.extend_from_slice(&digest.to_le_bytes());
            bytes.extend_from_slice(&revision.to_le_bytes());
        }
        self.0.write_all_at(&bytes, first * WRITTEN_BYTES as u64)
    }
}

/// The records in the order of keys, each given when its key is asked for.
pub struct Records {
    reader: BufReader<File>,
    written: BufReader<File>,
    key: TraceKey,
    left: u64,
    pins: Pins,
}

/// What is known of an entry that is read in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was made after its place was read.
    Newer,
    /// It stands as it was read.
    AsRead {
        /// The digest of what it held.
        digest: u64,
    },
    /// The rewrite wrote it.
    Ours {
        /// The digest of what it holds.
        digest: u64,
    },
    /// Somebody else wrote it since.
    Theirs,
    /// It was there when its place was read, and yet was not read.
    Missed,
}

impl Records {
    /// What is known of an entry. Entries must come in the order of keys.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn of(&mut self, entry: &Entry) -> io::Result<Known> {
        if entry.create_revision > self.pins.at(&entry.key) {
            return Ok(Known::Newer);
        }
        let wanted = self.key.digest(&entry.key).to_le_bytes();
        while self.left > 0 {
            self.left -= 1;
            let mut record = [0; RECORD_BYTES];
            let mut written = [0; WRITTEN_BYTES];
            self.reader.read_exact(&mut record)?;
            self.written.read_exact(&mut written)?;
            let (key, fields) = record.split_at(16);
            if key != wanted {
                // Its key was deleted, and perhaps made anew, since.
                continue;
            }
            let ([digest, read], [ours, written]) = (numbers(fields), numbers(&written));
            let (read, written) = (read.cast_signed(), written.cast_signed());
            return Ok(match entry.mod_revision {
                revision if written != 0 && revision == written => Known::Ours { digest: ours },
                revision if written == 0 && revision == read => Known::AsRead { digest },
                _ => Known::Theirs,
            });
        }
        Ok(Known::Missed)
    }
}

/// Two numbers, one behind the other.
fn numbers(bytes: &[u8]) -> [u64; 2] {
    let mut numbers = bytes.chunks_exact(8).map(|number| number.try_into().map_or(0, u64::from_le_bytes));
    [(); 2].map(|()| numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::pages::{Pages, Reading};
    use super::super::scripted::{Scripted, undisturbed};
    use super::*;

    fn read(server: &Scripted) -> (Vec<Entry>, Pins) {
        let patience = undisturbed();
        let reading = Reading::new(server, &patience);
        let mut pages = Pages::all(&reading);
        let (mut entries, mut pins) = (Vec::new(), Pins::default());
        while let Some(page) = pages.next_page().unwrap() {
            pins.note(page.place());
            entries.extend(page.entries);
        }
        (entries, pins)
    }

    #[test]
    fn every_entry_is_told_by_what_was_read_and_written() {
        let server = Scripted::new();
        for key in ["/a", "/b", "/c", "/d", "/e"] {
            server.put(key.as_bytes(), b"1", 0);
        }
        let mut witness = Witness::new(TraceKey::random().unwrap()).unwrap();
        let (entries, pins) = read(&server);
        let numbers: Vec<_> = entries.iter().map(|entry| witness.read(entry, 77)).collect();
        witness.flush().unwrap();
        // Ours, made anew by somebody, deleted, changed by somebody; and one that is new.
        let revision = server.put(b"/a", b"2", 0);
        witness.writer().unwrap().note([(numbers[0], 78)].into_iter(), revision).unwrap();
        server.delete(b"/b");
        server.put(b"/b", b"2", 0);
        server.delete(b"/c");
        server.put(b"/d", b"2", 0);
        server.put(b"/cc", b"2", 0);
        let mut records = witness.into_records(pins.clone()).unwrap();
        let known: Vec<_> = read(&server).0.iter().map(|entry| records.of(entry).unwrap()).collect();
        let expected =
            [Known::Ours { digest: 78 }, Known::Newer, Known::Newer, Known::Theirs, Known::AsRead { digest: 77 }];
        assert_eq!(known, expected);
        // One that nobody read is not passed over in silence.
        let mut none = Witness::new(TraceKey::random().unwrap()).unwrap().into_records(pins).unwrap();
        assert_eq!(none.of(&entries[0]).unwrap(), Known::Missed);
    }
}
