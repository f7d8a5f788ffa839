//! Single small files out of a tar, kept in memory: nothing is written anywhere, whatever their names say.

use std::cell::Cell;
use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use zeroize::Zeroizing;

use super::stream::Rationed;

/// What an entry's headers may take in all.
const HEADERS_BYTES: u64 = 256 * 1024;

/// What a gzip begins with, and where in a tar its magic stands.
const GZIP_MAGIC: &[u8] = b"\x1f\x8b";
const TAR_MAGIC: &[u8] = b"ustar";
const TAR_MAGIC_AT: usize = 257;

/// How much may come out.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the unpacked tar, all of its files included.
    pub unpacked: u64,
    /// Bytes of a file that is wanted.
    pub file: u64,
    /// How many files are wanted at most.
    pub files: usize,
}

/// Why the files of a tar cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// It cannot be read, or is damaged.
    #[error("the archive cannot be read to its end: {0}")]
    Io(#[from] io::Error),
    /// More came out than anybody packs into such an archive.
    #[error("the archive unpacks to more than {} MiB, which none of its kind does", .0 >> 20)]
    TooLarge(u64),
    /// A file that is wanted is too large.
    #[error("`{name}` in the archive is larger than {} MiB", .limit >> 20)]
    FileTooLarge {
        /// Which.
        name: String,
        /// How many bytes it may have.
        limit: u64,
    },
    /// Too many files are wanted.
    #[error("the archive holds more than {0} such files")]
    TooMany(usize),
    /// What is wanted is no file.
    #[error("`{0}` in the archive is a link or no file at all")]
    NoFile(String),
    /// A name leads out of its folder.
    #[error("`{0}` in the archive leads out of its folder")]
    LeadsOut(String),
}

/// A file of a tar.
pub struct Member {
    /// Its name, as it stands in the archive.
    pub name: String,
    /// What it holds.
    pub bytes: Zeroizing<Vec<u8>>,
}

/// Whether bytes begin as a tar does, or as a gzip that may hold one.
pub fn is_archive(head: &[u8]) -> bool {
    head.starts_with(GZIP_MAGIC) || head.get(TAR_MAGIC_AT..).is_some_and(|rest| rest.starts_with(TAR_MAGIC))
}

/// Gives the files of a tar, in gzip or not, whose names are `wanted`, in their order.
///
/// # Errors
///
/// [`MembersError`]: for an archive that is damaged or swells, and for a name that is wanted and no plain file.
pub fn members(
    mut input: impl Read,
    limits: Limits,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Member>, MembersError> {
    let mut head = [0; GZIP_MAGIC.len()];
    let mut filled = 0;
    while filled < head.len() {
        match input.read(head.get_mut(filled..).unwrap_or_default())? {
            0 => break,
            read => filled += read,
        }
    }
    let head = head.get(..filled).unwrap_or_default();
    let whole = io::Cursor::new(head.to_vec()).chain(input);
    if head == GZIP_MAGIC { walk(MultiGzDecoder::new(whole), limits, wanted) } else { walk(whole, limits, wanted) }
}

/// Ends a stream that gives more than it may.
struct Bounded<'b, R> {
    inner: R,
    left: u64,
    exceeded: &'b Cell<bool>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                self.exceeded.set(true);
                return Err(io::Error::other("too much comes out"));
            }
        }
        Ok(read)
    }
}

fn walk(input: impl Read, limits: Limits, wanted: impl Fn(&str) -> bool) -> Result<Vec<Member>, MembersError> {
    let (ration, exceeded) = (Cell::new(None), Cell::new(false));
    let mut bounded = Bounded { inner: input, left: limits.unpacked, exceeded: &exceeded };
    let mut found = Vec::new();
    let walked = entries(&mut bounded, &ration, limits, wanted, &mut found);
    match walked {
        _ if exceeded.get() => Err(MembersError::TooLarge(limits.unpacked)),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

fn entries(
    input: &mut dyn Read,
    ration: &Cell<Option<u64>>,
    limits: Limits,
    wanted: impl Fn(&str) -> bool,
    found: &mut Vec<Member>,
) -> Result<(), MembersError> {
    let mut archive = tar::Archive::new(Rationed::new(input, ration));
    let mut entries = archive.entries()?;
    loop {
        ration.set(Some(HEADERS_BYTES));
        let next = entries.next();
        ration.set(None);
        let Some(next) = next else { return Ok(()) };
        let mut entry = next?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !wanted(&name) {
            // The next header comes behind this content, which the ration for headers is not for.
            io::copy(&mut entry, &mut io::sink())?;
            continue;
        }
        if name.split('/').any(|part| part == "..") {
            return Err(MembersError::LeadsOut(name));
        }
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_contiguous()) {
            return Err(MembersError::NoFile(name));
        }
        if entry.size() > limits.file {
            return Err(MembersError::FileTooLarge { name, limit: limits.file });
        }
        if found.len() >= limits.files {
            return Err(MembersError::TooMany(limits.files));
        }
        let size = usize::try_from(entry.size()).unwrap_or_default();
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        entry.read_to_end(&mut bytes)?;
        if bytes.len() != size {
            return Err(MembersError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        found.push(Member { name, bytes });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const LIMITS: Limits = Limits { unpacked: 1 << 20, file: 1 << 10, files: 2 };

    fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header
            .as_ustar_mut()
            .expect("a ustar header")
            .name
            .iter_mut()
            .zip(name.bytes())
            .for_each(|(to, byte)| *to = byte);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o600);
        header.set_cksum();
        header
    }

    /// A tar of such entries, by hand, since the crate writes no name that leads out.
    fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, kind, content) in entries {
            bytes.extend_from_slice(header(name, *kind, content.len() as u64).as_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, MembersError> {
        let found = members(bytes, LIMITS, |name| name.ends_with("wanted"))?;
        Ok(found.into_iter().map(|member| (member.name, member.bytes.to_vec())).collect())
    }

    #[test]
    fn wanted_files_come_out_of_a_tar_with_gzip_and_without() {
        let file = tar::EntryType::Regular;
        let tar = tar_of(&[("a/wanted", file, b"one"), ("../other", file, b"two"), ("b/wanted", file, b"")]);
        let expected = [("a/wanted".to_owned(), b"one".to_vec()), ("b/wanted".to_owned(), Vec::new())];
        assert_eq!(read(&tar).expect("a tar"), expected);
        assert_eq!(read(&gzip(&tar)).expect("a tar"), expected);
        assert!(is_archive(&tar) && is_archive(&gzip(&tar)) && !is_archive(b"kind: EncryptionConfiguration"));
    }

    #[test]
    fn links_and_names_that_lead_out_are_refused() {
        for (name, kind) in [
            ("a/wanted", tar::EntryType::Symlink),
            ("a/wanted", tar::EntryType::Link),
            ("a/wanted", tar::EntryType::Directory),
        ] {
            let error = read(&tar_of(&[(name, kind, b"")])).expect_err("no file");
            assert!(matches!(error, MembersError::NoFile(_)), "{error}");
        }
        let error = read(&tar_of(&[("../wanted", tar::EntryType::Regular, b"x")])).expect_err("a way out");
        assert!(matches!(error, MembersError::LeadsOut(_)), "{error}");
    }

    #[test]
    fn what_swells_ends_early() {
        let file = tar::EntryType::Regular;
        let bomb = gzip(&tar_of(&[("zeros", file, &vec![0; 4 << 20]), ("a/wanted", file, b"x")]));
        assert!(bomb.len() < 1 << 16);
        assert!(matches!(read(&bomb), Err(MembersError::TooLarge(_))));
        let large = tar_of(&[("a/wanted", file, &vec![1; 2048])]);
        assert!(matches!(read(&large), Err(MembersError::FileTooLarge { .. })));
        let many = tar_of(&[("a/wanted", file, b"x"), ("b/wanted", file, b"x"), ("c/wanted", file, b"x")]);
        assert!(matches!(read(&many), Err(MembersError::TooMany(2))));
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let tar = tar_of(&[("a/wanted", tar::EntryType::Regular, &[7; 700])]);
        for packed in [tar[..900].to_vec(), gzip(&tar)[..60].to_vec()] {
            assert!(matches!(read(&packed), Err(MembersError::Io(_))));
        }
    }
}
