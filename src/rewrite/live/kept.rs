//! What the plan read and the writing will need, put aside so that the server need not be asked for it twice.
//!
//! Where the target can seal already, it is the new value that is put aside, and so each value is judged once. Much of it stays
//! in memory; the rest goes into a file without a name, sealed under a key that is in this process alone: what is stored in the
//! clear is not to lie about in the clear elsewhere. Whoever changes a value after it was put aside makes our write come to
//! nothing, as with any other; the value is then read anew.
//!
//! ```text
//! file  := BLOCK*
//! BLOCK := LENGTH (4 bytes) || secretbox(ENTRY*)
//! ENTRY := RECORD DIGEST CREATE MOD VERSION LEASE (8 bytes each) KEY-LENGTH VALUE-LENGTH (4 bytes each) KEY VALUE
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use zeroize::Zeroizing;

use crate::provider::plaintext::Plaintext;
use crate::provider::secretbox::{KEY_BYTES, NONCE_BYTES, Secretbox};

use super::keyspace::Entry;
use super::pages::Pins;
use super::witness::Witness;

/// Bytes of a block before it is sealed; a single entry may be larger.
const BLOCK_BYTES: usize = 256 << 10;

/// Bytes that stay in memory.
const MEMORY_BYTES: usize = 64 << 20;

/// More than this is not put into the file: it is read again instead.
const MAX_BYTES: u64 = 1 << 30;

/// What of the entries that are to be written anew is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing.
    Nothing,
    /// What was read: what takes its place cannot be made yet, or is not all that is needed.
    AsRead,
    /// What takes its place.
    Sealed,
}

/// What a plan leaves for the writing.
pub struct Kept {
    /// What was read.
    pub witness: Witness,
    /// At which revisions.
    pub pins: Pins,
    /// Entries that are to be written anew, with their numbers among the witness's records.
    pub spool: Spool,
    /// Whether these hold what takes their place already.
    pub sealed: bool,
    /// Entries that were read.
    pub entries: u64,
}

/// An entry that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// The number of its record.
    pub record: u64,
    /// The digest of its plaintext.
    pub digest: u64,
    /// The entry; where it was sealed, the value is the new one.
    pub entry: Entry,
}

/// Entries while they are put aside.
pub struct Spool {
    file: File,
    key: Secretbox,
    block: Zeroizing<Vec<u8>>,
    /// Full blocks in memory, and how many bytes they may have altogether. They are the first ones.
    memory: VecDeque<Zeroizing<Vec<u8>>>,
    room: usize,
    blocks: u64,
    bytes: u64,
    entries: u64,
}

impl Spool {
    /// None yet.
    ///
    /// # Errors
    ///
    /// Where no file without a name can be made, or there is no randomness.
    pub fn new() -> io::Result<Self> {
        Self::with_room(MEMORY_BYTES)
    }

    fn with_room(room: usize) -> io::Result<Self> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(key.as_mut_slice()).map_err(io::Error::other)?;
        let key = Secretbox::new(key.as_slice()).ok_or_else(|| io::Error::other("no key"))?;
        // Room for all that goes in before it is handed on, so that nothing is left behind by growing.
        let block = Zeroizing::new(Vec::with_capacity(2 * BLOCK_BYTES));
        let (file, memory) = (tempfile::tempfile()?, VecDeque::new());
        Ok(Self { file, key, block, memory, room, blocks: 0, bytes: 0, entries: 0 })
    }

    /// Puts an entry aside, with the number of its record and the digest of its plaintext; `value` is its own or the new one.
    ///
    /// # Errors
    ///
    /// Those of writing, and one where it is too much altogether.
    pub fn put(&mut self, (record, digest): (u64, u64), entry: &Entry, value: &[u8]) -> io::Result<()> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| io::Error::other("a value is too long"));
        let (key_bytes, value_bytes) = (length(&entry.key)?, length(value)?);
        let signed = [entry.create_revision, entry.mod_revision, entry.version, entry.lease].map(i64::cast_unsigned);
        for field in [record, digest].into_iter().chain(signed) {
            self.block.extend_from_slice(&field.to_le_bytes());
        }
        for part in [&key_bytes.to_le_bytes()[..], &value_bytes.to_le_bytes()[..], &entry.key, value] {
            self.block.extend_from_slice(part);
        }
        self.entries += 1;
        if self.block.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        // From the first block on that finds no room everything goes into the file, so that the order stays.
        let room = self.room.checked_sub(self.block.len());
        self.room = room.unwrap_or(0);
        if room.is_some() {
            // The copy has no more room than it fills.
            self.memory.push_back(Zeroizing::new(self.block.to_vec()));
            self.empty();
            return Ok(());
        }
        let mut sealed = vec![0; 4];
        self.key.seal(&self.block, &nonce(self.blocks), &mut sealed).map_err(io::Error::other)?;
        let bytes = u32::try_from(sealed.len() - 4).map_err(|_| io::Error::other("a block is too long"))?;
        sealed.splice(..4, bytes.to_le_bytes());
        self.file.write_all(&sealed)?;
        self.bytes += sealed.len() as u64;
        self.blocks += 1;
        self.empty();
        if self.bytes > MAX_BYTES { Err(io::Error::other("it is too much to be put aside")) } else { Ok(()) }
    }

    /// A large value's block is not kept, and is wiped.
    fn empty(&mut self) {
        match self.block.capacity() > 2 * BLOCK_BYTES {
            true => self.block = Zeroizing::new(Vec::with_capacity(2 * BLOCK_BYTES)),
            false => self.block.clear(),
        }
    }

    /// Everything that was put aside, from the beginning.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn into_entries(mut self) -> io::Result<Entries> {
        self.flush()?;
        self.file.seek(SeekFrom::Start(0))?;
        let reader = BufReader::with_capacity(BLOCK_BYTES, self.file);
        let (memory, left, entries) = (self.memory, self.blocks, self.entries);
        Ok(Entries { memory, reader, key: self.key, blocks: 0, left, entries, opened: Plaintext::new() })
    }
}

fn nonce(block: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce.iter_mut().zip(block.to_le_bytes()).for_each(|(place, byte)| *place = byte);
    nonce
}

/// Entries that were put aside.
pub struct Entries {
    memory: VecDeque<Zeroizing<Vec<u8>>>,
    reader: BufReader<File>,
    key: Secretbox,
    blocks: u64,
    left: u64,
    entries: u64,
    opened: Plaintext,
}

impl Entries {
    /// How many there were at the beginning.
    pub fn count(&self) -> u64 {
        self.entries
    }

    /// Some more; none at the end.
    ///
    /// # Errors
    ///
    /// Those of reading, and one where the file holds something else.
    pub fn next_block(&mut self) -> io::Result<Option<Vec<Aside>>> {
        if let Some(block) = self.memory.pop_front() {
            return entries(&block).map(Some);
        }
        if self.left == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        self.reader.read_exact(&mut length)?;
        let mut sealed = vec![0; u32::from_le_bytes(length) as usize];
        self.reader.read_exact(&mut sealed)?;
        let opened = self.key.open(&sealed, &mut self.opened).map_err(io::Error::other)?;
        let body = sealed.split_first_chunk::<NONCE_BYTES>();
        if body.is_none_or(|(found, _)| *found != nonce(self.blocks)) {
            return Err(broken());
        }
        (self.blocks, self.left) = (self.blocks + 1, self.left - 1);
        entries(self.opened.opened(opened)).map(Some)
    }
}

/// The entries of a block.
fn entries(mut block: &[u8]) -> io::Result<Vec<Aside>> {
    let mut entries = Vec::new();
    while !block.is_empty() {
        entries.push(entry(&mut block).ok_or_else(broken)?);
    }
    Ok(entries)
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what was put aside is not what is read")
}

/// Takes an entry off the front.
fn entry(rest: &mut &[u8]) -> Option<Aside> {
    let (record, digest) = (u64::from_le_bytes(taken(rest)?), u64::from_le_bytes(taken(rest)?));
    let (create_revision, mod_revision) = (i64::from_le_bytes(taken(rest)?), i64::from_le_bytes(taken(rest)?));
    let (version, lease) = (i64::from_le_bytes(taken(rest)?), i64::from_le_bytes(taken(rest)?));
    let (key_bytes, value_bytes) = (u32::from_le_bytes(taken(rest)?), u32::from_le_bytes(taken(rest)?));
    let (key, behind) = rest.split_at_checked(key_bytes as usize)?;
    let (value, behind) = behind.split_at_checked(value_bytes as usize)?;
    *rest = behind;
    let (key, value) = (key.to_vec(), Zeroizing::new(value.to_vec()));
    Some(Aside { record, digest, entry: Entry { key, value, create_revision, mod_revision, version, lease } })
}

fn taken<const BYTES: usize>(rest: &mut &[u8]) -> Option<[u8; BYTES]> {
    let (field, behind) = rest.split_first_chunk::<BYTES>()?;
    *rest = behind;
    Some(*field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_comes_back_and_does_not_lie_about_in_the_clear() {
        let mut spool = Spool::with_room(2 << 20).unwrap();
        let entry = |number: i64, bytes: usize| Entry {
            key: format!("/registry/secrets/default/s{number}").into_bytes(),
            value: Zeroizing::new(b"plaintext ".iter().copied().cycle().take(bytes).collect()),
            create_revision: number,
            mod_revision: number + 1,
            version: 2,
            lease: -number,
        };
        let all: Vec<_> = (0..3000)
            .map(|number| {
                entry(number, [0, 700, 1_400_000][usize::from(number % 1000 == 7) + 1 - usize::from(number % 10 == 3)])
            })
            .collect();
        for (record, entry) in (0..).zip(&all) {
            spool.put((record, !record), entry, &entry.value).unwrap();
        }
        assert!(spool.memory.len() > 2 && spool.memory.iter().map(|block| block.len()).sum::<usize>() < 2 << 20);
        let mut file = spool.file.try_clone().unwrap();
        let mut entries = spool.into_entries().unwrap();
        let (mut found, mut blocks) = (Vec::new(), 0);
        while let Some(some) = entries.next_block().unwrap() {
            assert!(some.iter().map(|aside| aside.entry.value.len()).sum::<usize>() < 1_400_000 + BLOCK_BYTES);
            found.extend(some);
            blocks += 1;
        }
        assert!(blocks > 3);
        assert!(found.iter().map(|aside| (aside.record, aside.digest)).eq((0..3000).map(|record| (record, !record))));
        assert!(found.iter().map(|aside| &aside.entry).eq(&all));
        let mut stored = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut stored).unwrap();
        assert!(stored.len() > 4_000_000);
        assert!(!stored.windows(9).any(|piece| piece == b"plaintext" || piece == b"/registry"));
    }

    #[test]
    fn a_file_that_holds_something_else_is_an_error() {
        let mut spool = Spool::with_room(0).unwrap();
        let entry = Entry {
            key: b"/a".to_vec(),
            value: Zeroizing::new(b"b".to_vec()),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            lease: 0,
        };
        spool.put((0, 0), &entry, &entry.value).unwrap();
        spool.flush().unwrap();
        spool.file.seek(SeekFrom::Start(40)).unwrap();
        spool.file.write_all(b"!").unwrap();
        assert!(spool.into_entries().unwrap().next_block().is_err());
    }
}
