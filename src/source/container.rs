//! Opens what the user named: a plain file in place, anything packed through a private temporary file.
//!
//! What a file is, its content tells; its name is never asked. Known are gzip (several members too), zstd (several
//! frames too), zip and tar, one inside the other up to [`MAX_LAYERS`]. Of an archive that holds several files, the one
//! that is a database is taken; two databases are an error that names both, since a guess could be the wrong cluster's.
//! Nothing is ever written by a name that an archive gives: the temporary file has no name at all, so links, `..` and
//! absolute paths mean nothing here, and it vanishes with the process, however that ends.
//!
//! A content that is neither packed nor a database passes through as it is. Its reader can say best what is wrong with it.
//!
//! Nothing here knows pages, snapshots' trailers or records. Formats: RFC 1952 (gzip), RFC 8878 (zstd), PKWARE's
//! APPNOTE (zip), POSIX.1-1988 ustar with GNU's and pax' additions (tar).

mod archive;
pub mod members;
mod sniff;
mod spool;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use thiserror::Error;

use archive::Choice;
use sniff::{Format, HEAD_BYTES};
use spool::{Room, Spool};
use stream::{At, Fault, Given, Named};

/// How many containers may lie one inside the other: a tar under gzip is two, with a gzip in it three.
pub const MAX_LAYERS: usize = 3;

/// What the user named.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A file, or a pipe or device, by its path.
    Path(&'a Path),
    /// Standard input, from where it stands. Nobody may have read from [`std::io::stdin`] before.
    Stdin,
}

/// How to unpack.
pub struct Options<'a> {
    /// The directory for the nameless temporary file.
    pub temp_dir: PathBuf,
    /// Told how many of the given bytes were read so far, while a stream is unpacked.
    pub progress: &'a dyn Fn(u64),
}

impl Default for Options<'_> {
    /// The directory that `TMPDIR` names, and nobody to tell.
    fn default() -> Self {
        Self { temp_dir: std::env::temp_dir(), progress: &|_| {} }
    }
}

/// A form that others are packed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// One or more gzip members.
    Gzip,
    /// One or more zstd frames.
    Zstd,
    /// A zip archive.
    Zip,
    /// A tar archive.
    Tar,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Zip => "zip",
            Self::Tar => "tar",
        })
    }
}

/// What the innermost bytes are, as far as their beginning tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A bbolt database, with a snapshot's trailer or without: at least one meta page has its magic.
    Bbolt,
    /// An SQLite database.
    Sqlite,
    /// The log of an SQLite database, which is nothing without it.
    SqliteLog,
    /// Neither. It may still be a database whose two meta pages are damaged.
    Unknown,
}

/// A file that is ready for positioned reads.
#[derive(Debug)]
pub struct Unpacked {
    /// The given file itself where it was plain, otherwise a nameless temporary one. Read it by position; where its
    /// cursor stands is not said.
    pub file: File,
    /// Length of what was given, in bytes: of the packed form.
    pub bytes: u64,
    /// What it was packed in, outermost first.
    pub layers: Vec<Layer>,
    /// Which file of the archive it is, with `\xNN` for bytes that do not print; ` > ` between archives.
    pub entry: Option<String>,
    /// What the content is.
    pub content: Content,
    /// SHA-256 of every byte that was given, where it was packed. `None` where `file` holds just the bytes that were
    /// given, so that whoever hashes `file` has it.
    pub given_sha256: Option<[u8; 32]>,
    /// Whether the archive also held files of a write-ahead log: then it is a data directory, whose newest writes
    /// may be only in that log.
    pub log_beside: bool,
    /// The log of an SQLite database, where the archive holds one under its name.
    pub sqlite_log: Option<File>,
}

impl Unpacked {
    /// What it was packed in, innermost first, such as `tar+gzip`; `None` for a plain file.
    pub fn container(&self) -> Option<String> {
        (!self.layers.is_empty()).then(|| join(&self.layers))
    }
}

/// Why there is nothing to read. Places are given as the container (`tar+gzip`), the archive's entry and an offset.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The path does not open.
    #[error("{} cannot be opened: {source}", .path.display())]
    Open {
        /// As the user gave it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is a directory.
    #[error("{} is a directory", .path.display())]
    Directory {
        /// As the user gave it.
        path: PathBuf,
    },
    /// Reading what was given failed.
    #[error("reading failed at byte {offset}: {detail}")]
    Read {
        /// Bytes of the given file or stream that could be read before.
        offset: u64,
        /// The operating system's words.
        detail: String,
    },
    /// A container is damaged.
    #[error("{place} is damaged after {offset} bytes of its content: {detail}")]
    Damaged {
        /// Which container, and which entry.
        place: String,
        /// Bytes of the content that came out before.
        offset: u64,
        /// What the container's reader says.
        detail: String,
    },
    /// A container ends too early.
    #[error("{place} is cut off after {offset} bytes of its content: {detail}")]
    CutOff {
        /// Which container, and which entry.
        place: String,
        /// Bytes of the content that came out before.
        offset: u64,
        /// What is missing.
        detail: String,
    },
    /// A container is whole, but of a kind that is not read.
    #[error("{place} cannot be read: {detail}")]
    Unsupported {
        /// Which container, and which entry.
        place: String,
        /// Why.
        detail: String,
    },
    /// This build leaves the format out.
    #[error("{place} is {format}, which this build cannot read: it was built without the feature `{format}`")]
    FeatureMissing {
        /// What is packed so.
        place: String,
        /// The format, which is also the feature's name.
        format: Layer,
    },
    /// Containers lie in containers beyond [`MAX_LAYERS`].
    #[error("{place} is packed more than {MAX_LAYERS} times over; unpack it first")]
    TooDeep {
        /// The innermost container that was looked into, and which entry.
        place: String,
    },
    /// An archive holds more than one database.
    #[error("{place} holds more than one database, give the one that is meant: {}", .entries.join(", "))]
    Several {
        /// Which container, and which entry.
        place: String,
        /// The first of their names.
        entries: Vec<String>,
    },
    /// An archive holds several files, and none is a database.
    #[error("{place} holds no database among its {count} files: {}", .entries.join(", "))]
    NoDatabase {
        /// Which container, and which entry.
        place: String,
        /// How many files there are.
        count: u64,
        /// The first of their names.
        entries: Vec<String>,
    },
    /// An archive holds no file at all.
    #[error("{place} holds no file")]
    Empty {
        /// Which container, and which entry.
        place: String,
    },
    /// The unpacked form has no room.
    #[error(
        "no room in {}: unpacking needs {}{needed} bytes, and {available} are free \
         (TMPDIR can name another directory)",
        .temp_dir.display(), if *.exact { "" } else { "at least " }
    )]
    NoRoom {
        /// The directory that temporary files go to.
        temp_dir: PathBuf,
        /// Bytes that the unpacked form needs.
        needed: u64,
        /// Whether `needed` is the whole of it, or only what is known so far.
        exact: bool,
        /// Bytes that may be used there, for the whole of the unpacked form.
        available: u64,
    },
    /// The temporary file cannot be made or written.
    #[error("the temporary file in {} failed: {source}", .temp_dir.display())]
    Temp {
        /// The directory that temporary files go to.
        temp_dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Opens an input for positioned reads, whatever it is packed in.
///
/// A plain file is opened for reading, used in place and never locked. Everything else is read once from the beginning
/// to the end.
///
/// # Errors
///
/// What cannot be opened, read or unpacked, with its place. A plain file is never refused for its content.
pub fn open(input: Input<'_>, options: &Options<'_>) -> Result<Unpacked, ContainerError> {
    Opener { options, room: spool::room }.open(input)
}

/// Where the reader is: which containers it went into, and by which entries.
#[derive(Clone, Debug, Default)]
struct Place {
    layers: Vec<Layer>,
    entries: Vec<String>,
}

impl Place {
    fn inside(&self, layer: Layer) -> Self {
        let mut inner = self.clone();
        inner.layers.push(layer);
        inner
    }

    fn entry(&self, name: &str) -> Self {
        let mut inner = self.clone();
        inner.entries.push(name.to_owned());
        inner
    }

    fn entry_name(&self) -> Option<String> {
        (!self.entries.is_empty()).then(|| self.entries.join(" > "))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.layers.is_empty() {
            return f.write_str("the input");
        }
        if let Some(entry) = self.entry_name() {
            write!(f, "`{entry}` in ")?;
        }
        write!(f, "the {} container", join(&self.layers))
    }
}

fn join(layers: &[Layer]) -> String {
    layers.iter().rev().map(Layer::to_string).collect::<Vec<_>>().join("+")
}

/// How much of a content somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// Its bytes, whatever they are.
    Anything,
    /// Its bytes, if it is a database.
    Databases,
    /// Its bytes, if it is an SQLite database's log.
    Logs,
    /// Only what it is.
    Nothing,
}

/// What was found at the end of all containers.
#[derive(Debug)]
struct Found {
    content: Content,
    place: Place,
    /// Its bytes, if they were wanted.
    file: Option<File>,
    log_beside: bool,
    sqlite_log: Option<File>,
}

struct Opener<'a> {
    options: &'a Options<'a>,
    /// How much room a directory has; the tests give another answer than the operating system.
    room: fn(&Path) -> io::Result<Room>,
}

impl Opener<'_> {
    fn open(&self, input: Input<'_>) -> Result<Unpacked, ContainerError> {
        let path = match input {
            Input::Path(path) => path,
            Input::Stdin => Path::new("standard input"),
        };
        let fail = |source| ContainerError::Open { path: path.to_owned(), source };
        let mut file = match input {
            Input::Path(path) => File::open(path).map_err(fail)?,
            Input::Stdin => File::from(io::stdin().as_fd().try_clone_to_owned().map_err(fail)?),
        };
        let metadata = file.metadata().map_err(fail)?;
        if metadata.is_dir() {
            return Err(ContainerError::Directory { path: path.to_owned() });
        }
        // Standard input that was redirected from a file can be used in place, too, unless part of it was read before.
        if metadata.is_file() && file.stream_position().is_ok_and(|position| position == 0) {
            self.regular(file, metadata.len())
        } else {
            self.stream(file)
        }
    }

    /// A regular file: in place if it is plain; a zip also needs no copy of its packed form.
    fn regular(&self, file: File, bytes: u64) -> Result<Unpacked, ContainerError> {
        let mut head = Vec::new();
        At::new(&file).take(HEAD_BYTES).read_to_end(&mut head).map_err(|error| Fault::given(0, &error))?;
        match sniff::format(&head) {
            Format::Plain(content) => Ok(Unpacked {
                file,
                bytes,
                layers: Vec::new(),
                entry: None,
                content,
                given_sha256: None,
                log_beside: false,
                sqlite_log: None,
            }),
            #[cfg(feature = "zip")]
            Format::Packed(Layer::Zip) => {
                let found = self.zip(&file, &Place::default().inside(Layer::Zip), Keep::Anything)?;
                let mut given = Given::new(At::new(&file), self.options.progress);
                stream::drain(&mut given)?;
                unpacked(found, given.count(), given.digest())
            }
            Format::Packed(_) => self.stream(file),
        }
    }

    /// A stream, or a file that is read as one.
    fn stream(&self, file: File) -> Result<Unpacked, ContainerError> {
        let mut given = Given::new(file, self.options.progress);
        let head = read_head(&mut given)?;
        if let Format::Plain(_) = sniff::format(&head) {
            // What is spooled equals what was given: its reader hashes it anyway.
            given.stop_hashing();
        }
        let mut whole = Cursor::new(head).chain(&mut given);
        let found = self.unpack(&mut whole, &Place::default(), None, Keep::Anything)?;
        stream::drain(&mut whole)?;
        unpacked(found, given.count(), given.digest())
    }

    /// Follows a content through its containers. `size` is its length, where the container around it tells it.
    fn unpack(
        &self,
        stream: &mut dyn Read,
        place: &Place,
        size: Option<u64>,
        keep: Keep,
    ) -> Result<Found, ContainerError> {
        let head = read_head(stream)?;
        let format = sniff::format(&head);
        let zstd_size = sniff::zstd_content_bytes(&head);
        let mut whole = Cursor::new(head).chain(stream);
        let layer = match format {
            Format::Plain(content) => return self.plain(&mut whole, content, place, size, keep),
            Format::Packed(layer) => layer,
        };
        if place.layers.len() >= MAX_LAYERS {
            return Err(ContainerError::TooDeep { place: place.to_string() });
        }
        let inside = place.inside(layer);
        match layer {
            Layer::Gzip => self.decoded(stream::gzip(&mut whole), &inside, None, keep),
            Layer::Tar => self.tar(&mut whole, &inside, keep),
            #[cfg(feature = "zstd")]
            Layer::Zstd => {
                let decoder = stream::zstd(&mut whole).map_err(|error| Fault::of(&error, &inside, 0))?;
                self.decoded(decoder, &inside, zstd_size, keep)
            }
            #[cfg(feature = "zip")]
            Layer::Zip => {
                // A zip's table of contents is at its end, so it must lie in a file.
                let file = self.spool(&mut whole, size)?;
                self.zip(&file, &inside, keep)
            }
            #[cfg(not(all(feature = "zip", feature = "zstd")))]
            format => {
                let _ = zstd_size;
                Err(ContainerError::FeatureMissing { place: place.to_string(), format })
            }
        }
    }

    /// What a decoder gives, and then the decoder's own end, where checksums and the next members are.
    fn decoded(
        &self,
        decoder: impl Read,
        inside: &Place,
        size: Option<u64>,
        keep: Keep,
    ) -> Result<Found, ContainerError> {
        let mut content = Named::new(decoder, inside.clone(), None);
        let found = self.unpack(&mut content, inside, size, keep)?;
        if found.file.is_some() {
            stream::drain(&mut content)?;
        }
        Ok(found)
    }

    fn plain(
        &self,
        stream: &mut dyn Read,
        content: Content,
        place: &Place,
        size: Option<u64>,
        keep: Keep,
    ) -> Result<Found, ContainerError> {
        let wanted = match keep {
            Keep::Anything => true,
            Keep::Databases => content != Content::Unknown,
            Keep::Logs => content == Content::SqliteLog,
            Keep::Nothing => false,
        };
        let file = if wanted { Some(self.spool(stream, size)?) } else { None };
        Ok(Found { content, place: place.clone(), file, log_beside: false, sqlite_log: None })
    }

    fn spool(&self, stream: &mut dyn Read, size: Option<u64>) -> Result<File, ContainerError> {
        Spool::create(&self.options.temp_dir, self.room, size)?.fill(stream)
    }

    /// One file of an archive. An archive in it that holds no database is a file like any other.
    fn entry(
        &self,
        choice: &mut Choice,
        content: &mut dyn Read,
        place: &Place,
        size: u64,
    ) -> Result<(), ContainerError> {
        match self.unpack(content, place, Some(size), choice.keep()) {
            Ok(found) => choice.add(found, place),
            Err(ContainerError::NoDatabase { .. } | ContainerError::Empty { .. }) => choice.add_other(place),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn unpacked(found: Found, bytes: u64, given_sha256: Option<[u8; 32]>) -> Result<Unpacked, ContainerError> {
    let Found { content, place, file, log_beside, sqlite_log } = found;
    let Some(file) = file else {
        return Err(ContainerError::Empty { place: place.to_string() });
    };
    let entry = place.entry_name();
    Ok(Unpacked { file, bytes, layers: place.layers, entry, content, given_sha256, log_beside, sqlite_log })
}

fn read_head(stream: &mut dyn Read) -> Result<Vec<u8>, ContainerError> {
    let mut head = Vec::new();
    stream.take(HEAD_BYTES).read_to_end(&mut head).map_err(|error| Fault::of(&error, &Place::default(), 0))?;
    Ok(head)
}
