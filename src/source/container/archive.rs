//! Archives: a walk over the files of a tar or a zip, and the choice of the one that is meant.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;

use super::stream::{self, Fault, Named, Rationed};
use super::{ContainerError, Content, Found, Keep, Opener, Place};

/// What an entry's headers may take in all: names and extended headers are kept in memory.
const TAR_HEADERS_BYTES: u64 = 256 * 1024;
/// How many names an error tells.
const NAMES_TOLD: usize = 8;
/// What the name of an SQLite database's log ends with, beside the database's own name.
const SQLITE_LOG: &str = "-wal";
/// More logs than this are not looked at.
const MAX_SQLITE_LOGS: usize = 4;
/// How much of a name is told, in characters.
const NAME_TOLD: usize = 200;

/// Which file of an archive is meant: its only database, or else its only file.
pub(super) struct Choice {
    keep: Keep,
    best: Option<Found>,
    databases: Vec<String>,
    files: Vec<String>,
    file_count: u64,
    log_beside: bool,
    /// Logs of SQLite databases, by name.
    sqlite_logs: Vec<(String, File)>,
}

impl Choice {
    pub(super) fn new(keep: Keep) -> Self {
        let (databases, files, sqlite_logs) = (Vec::new(), Vec::new(), Vec::new());
        Self { keep, best: None, databases, files, file_count: 0, log_beside: false, sqlite_logs }
    }

    /// What is wanted of the next file.
    pub(super) fn keep(&self) -> Keep {
        match self.keep {
            Keep::Nothing => Keep::Nothing,
            _ if self.sqlite_logs.len() == MAX_SQLITE_LOGS && !self.databases.is_empty() => Keep::Nothing,
            _ if !self.databases.is_empty() => Keep::Logs,
            _ if self.file_count > 0 => Keep::Databases,
            keep => keep,
        }
    }

    /// A file, and what became of it.
    pub(super) fn add(&mut self, found: Found, place: &Place) {
        if found.content == Content::SqliteLog {
            if let Some(log) = found.file.filter(|_| self.sqlite_logs.len() < MAX_SQLITE_LOGS) {
                self.sqlite_logs.push((found.place.entries.join(" > "), log));
            }
            return self.add_other(place);
        }
        if found.content == Content::Unknown {
            self.add_other(place);
            if self.file_count == 1 {
                self.best = Some(found);
            }
            return;
        }
        self.log_beside |= found.log_beside;
        if self.databases.len() < NAMES_TOLD {
            self.databases.push(found.place.entries.join(" > "));
        }
        self.count(place);
        if self.databases.len() == 1 {
            self.best = Some(found);
        }
    }

    /// A file that is no database.
    pub(super) fn add_other(&mut self, place: &Place) {
        self.count(place);
        if self.databases.is_empty() {
            self.best = None;
        }
        self.log_beside |= place.entries.last().is_some_and(|name| is_log(name));
    }

    fn count(&mut self, place: &Place) {
        self.file_count = self.file_count.saturating_add(1);
        if self.files.len() < NAMES_TOLD {
            self.files.extend(place.entry_name());
        }
    }

    /// The file that is meant.
    pub(super) fn finish(mut self, inside: &Place) -> Result<Found, ContainerError> {
        let place = inside.to_string();
        if self.databases.len() > 1 {
            return Err(ContainerError::Several { place, entries: self.databases });
        }
        match self.best {
            Some(best) => {
                let name = best.place.entries.join(" > ") + SQLITE_LOG;
                let position = self.sqlite_logs.iter().position(|(log, _)| *log == name);
                let log = position.map(|position| self.sqlite_logs.swap_remove(position).1);
                Ok(Found { log_beside: self.log_beside, sqlite_log: best.sqlite_log.or(log), ..best })
            }
            None if self.file_count == 0 => Err(ContainerError::Empty { place }),
            None => Err(ContainerError::NoDatabase { place, count: self.file_count, entries: self.files }),
        }
    }
}

/// Whether a name is that of a segment of etcd's write-ahead log. It decides on a warning, never on what is read.
fn is_log(name: &str) -> bool {
    name.ends_with(".wal")
}

impl Opener<'_> {
    /// Walks a tar from its beginning to its end.
    pub(super) fn tar(&self, stream: &mut dyn Read, inside: &Place, keep: Keep) -> Result<Found, ContainerError> {
        let mut choice = Choice::new(keep);
        let ration = Cell::new(None);
        let mut archive = tar::Archive::new(Rationed::new(stream, &ration));
        let mut entries = archive.entries().map_err(|error| Fault::of(&error, inside, 0))?;
        let mut offset = 0;
        loop {
            ration.set(Some(TAR_HEADERS_BYTES));
            let next = entries.next();
            ration.set(None);
            let Some(next) = next else { break };
            let entry = next.map_err(|error| Fault::of(&error, inside, offset))?;
            offset = entry.raw_file_position();
            self.tar_entry(&mut choice, entry, inside)?;
        }
        choice.finish(inside)
    }

    fn tar_entry<R: Read>(
        &self,
        choice: &mut Choice,
        mut entry: tar::Entry<'_, R>,
        inside: &Place,
    ) -> Result<(), ContainerError> {
        let place = inside.entry(&printable(&entry.path_bytes()));
        let kind = entry.header().entry_type();
        let is_file = kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse();
        if is_file && has_pax_sparse_map(&mut entry) {
            let detail = "a sparse file in the pax format; store it whole".to_owned();
            return Err(ContainerError::Unsupported { place: place.to_string(), detail });
        }
        let size = entry.size();
        let mut content = Named::new(&mut entry, place.clone(), Some(size));
        if is_file {
            self.entry(choice, &mut content, &place, size)?;
        }
        // The next header comes after this content, wanted or not.
        stream::drain(&mut content)
    }

    /// Walks the table of contents of a zip.
    #[cfg(feature = "zip")]
    pub(super) fn zip(&self, file: &File, inside: &Place, keep: Keep) -> Result<Found, ContainerError> {
        zip_walk::count_is_sane(file, inside)?;
        let mut choice = Choice::new(keep);
        let reader = std::io::BufReader::new(stream::At::new(file));
        let mut archive = zip::ZipArchive::new(reader).map_err(|error| zip_walk::fault(error, inside))?;
        if archive.has_duplicate_names() {
            let detail = "two entries have the same name".to_owned();
            return Err(ContainerError::Damaged { place: inside.to_string(), offset: 0, detail });
        }
        for index in 0..archive.len() {
            let entry = archive.by_index_data(index).map_err(|error| zip_walk::fault(error, inside))?;
            let place = inside.entry(&printable(entry.name_raw()));
            let (is_file, size) = (entry.is_file(), entry.size());
            if is_file {
                let content = archive.by_index(index).map_err(|error| zip_walk::fault(error, &place))?;
                self.entry(&mut choice, &mut Named::new(content, place.clone(), Some(size)), &place, size)?;
            }
        }
        choice.finish(inside)
    }
}

/// GNU tar can write a sparse file as a list of its parts in front of them, under the kind of a plain file.
fn has_pax_sparse_map<R: Read>(entry: &mut tar::Entry<'_, R>) -> bool {
    let Ok(Some(extensions)) = entry.pax_extensions() else { return false };
    extensions.flatten().any(|extension| extension.key_bytes().starts_with(b"GNU.sparse."))
}

/// A name for people: what does not print is `\xNN`, and there is an end to it.
fn printable(name: &[u8]) -> String {
    let mut text = String::new();
    for (told, byte) in name.iter().enumerate() {
        if told == NAME_TOLD {
            text.push_str("...");
            break;
        }
        match byte {
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(char::from(*byte)),
            byte => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

#[cfg(feature = "zip")]
mod zip_walk {
    //! What the zip reader leaves to its caller.

    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use zip::result::ZipError;

    use super::super::stream::Fault;
    use super::{ContainerError, Place};

    /// More entries than this are refused: the reader makes room for as many as the archive claims to have.
    const MAX_ENTRIES: u64 = 65_536;
    /// The end record with its longest comment, and the locator of its 64-bit form in front of it.
    const TAIL_BYTES: u64 = 22 + 65_535 + 20;
    const LOCATOR_MAGIC: &[u8] = b"PK\x06\x07";
    const END_64_MAGIC: &[u8] = b"PK\x06\x06";

    /// Looks at the number of entries that a 64-bit end record claims. The older record cannot claim too many.
    pub(super) fn count_is_sane(file: &File, inside: &Place) -> Result<(), ContainerError> {
        let fail = |offset| move |error: std::io::Error| ContainerError::from(Fault::given(offset, &error));
        let length = file.metadata().map_err(fail(0))?.len();
        let start = length.saturating_sub(TAIL_BYTES);
        let mut tail = vec![0; usize::try_from(length.saturating_sub(start)).unwrap_or_default()];
        file.read_exact_at(&mut tail, start).map_err(fail(start))?;
        for locator in tail.windows(20).filter(|window| window.starts_with(LOCATOR_MAGIC)) {
            let at = number(locator, 8).unwrap_or(u64::MAX);
            let mut record = [0; 40];
            let whole = at < length && file.read_exact_at(&mut record, at).is_ok();
            let count = if whole && record.starts_with(END_64_MAGIC) { number(&record, 32) } else { None };
            if count.is_none_or(|count| count > MAX_ENTRIES) {
                let detail =
                    format!("its 64-bit end record is not where it should be, or has over {MAX_ENTRIES} entries");
                return Err(ContainerError::Unsupported { place: inside.to_string(), detail });
            }
        }
        Ok(())
    }

    fn number(record: &[u8], at: usize) -> Option<u64> {
        record.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// The zip reader's errors, with their place.
    pub(super) fn fault(error: ZipError, place: &Place) -> ContainerError {
        let unsupported = |detail| ContainerError::Unsupported { place: place.to_string(), detail };
        match error {
            ZipError::Io(error) => Fault::of(&error, place, 0).into(),
            ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => {
                unsupported("it is locked with a password".to_owned())
            }
            ZipError::UnsupportedArchive(detail) => unsupported(detail.to_owned()),
            ZipError::CompressionMethodNotSupported(method) => {
                unsupported(format!("compression method {method}; only stored and deflated files are read"))
            }
            error => ContainerError::Damaged { place: place.to_string(), offset: 0, detail: error.to_string() },
        }
    }
}
