//! A bbolt file: its page size, its current meta record, and a page by its id.
//!
//! Files are read with positioned reads, never mapped, so a file that shrinks under the reader is an error
//! and not a crash. No lock is taken: a running etcd holds one, and waiting for it would block a starting one.
//! Upstream: `etcd-io/bbolt` `db.go`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::fault::{Fault, FaultKind};
use super::meta::{self, Meta, MetaError};
use super::page::{PAGE_HEADER_BYTES, PageHeader};

/// The largest page, overflow included, that is read into memory. etcd's own request limit is 1.5 MiB by default,
/// and 2 GiB is what its transport could carry at most; a page beyond this bound is reported, not read.
pub const MAX_PAGE_BYTES: u64 = 512 << 20;

/// Where upstream looks for the second meta page while it does not know the page size.
const SECOND_META_OFFSETS: std::ops::RangeInclusive<u32> = 9..=24;

/// Bytes that are read for a meta page: its header and its record, with room to spare.
const META_READ_BYTES: usize = 128;

/// An open database whose current meta record is known.
#[derive(Debug)]
pub struct PageFile {
    file: File,
    bytes: u64,
    meta: Meta,
    meta_page: u64,
    metas: [Result<Meta, MetaError>; 2],
}

/// Why a file cannot be read as a bbolt database at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system did not give the bytes.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// There is nothing in it.
    #[error("is empty (0 bytes)")]
    Empty,
    /// Neither meta page can be trusted.
    #[error(
        "has no valid bbolt meta page, so it is no etcd database or both are damaged (page 0: {first}; page 1: {second})"
    )]
    NoMeta {
        /// What is wrong with page 0.
        first: MetaError,
        /// What is wrong with page 1.
        second: MetaError,
    },
}

impl PageFile {
    /// Finds page size and current meta record of `file`.
    pub fn open(file: File) -> Result<Self, OpenError> {
        let bytes = file.metadata()?.len();
        if bytes == 0 {
            return Err(OpenError::Empty);
        }
        let metas = read_metas(&file, bytes)?;
        match meta::newest(&metas) {
            Some((meta_page, meta)) => Ok(Self { file, bytes, meta, meta_page, metas }),
            None => {
                let [first, second] = metas.map(|meta| meta.err().unwrap_or(MetaError::Short));
                Err(OpenError::NoMeta { first, second })
            }
        }
    }

    /// The current meta record.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The page that the current meta record stands on: 0 or 1.
    pub fn meta_page(&self) -> u64 {
        self.meta_page
    }

    /// Both meta records, as judged when the file was opened.
    pub fn metas(&self) -> &[Result<Meta, MetaError>; 2] {
        &self.metas
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u64 {
        u64::from(self.meta.page_size)
    }

    /// The length of the file in bytes, whatever it holds.
    pub fn file_bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes up to the high-water mark, which is what etcdutl calls the total size.
    pub fn used_bytes(&self) -> u64 {
        self.meta.high_water_mark.saturating_mul(self.page_size())
    }

    /// The number of pages that are both below the high-water mark and wholly in the file.
    pub fn readable_pages(&self) -> u64 {
        self.meta.high_water_mark.min(self.bytes / self.page_size())
    }

    /// The open file, for readers that bring their own buffers.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The transaction id of the newest valid meta record as the file has it *now*.
    ///
    /// Another than the one it was opened with means that somebody writes while we read.
    pub fn current_txid(&self) -> io::Result<Option<u64>> {
        let bytes = self.file.metadata()?.len();
        Ok(meta::newest(&read_metas(&self.file, bytes)?).map(|(_, meta)| meta.txid))
    }

    /// Fills `buffer` from byte `offset` on; fewer bytes than asked for is an error.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Reads page `id` with its overflow into `buffer`, and checks what every page must satisfy.
    ///
    /// # Errors
    /// A fault that names the page when it lies outside, gives itself another id, or cannot be read.
    pub fn page(&self, id: u64, buffer: &mut Vec<u8>) -> Result<PageHeader, Fault> {
        let header = self.head(id, buffer)?;
        self.whole_bytes(id, &header)?;
        self.overflow(id, header.overflow, buffer)?;
        Ok(header)
    }

    /// Reads page `id` without its overflow into `buffer`.
    pub fn head(&self, id: u64, buffer: &mut Vec<u8>) -> Result<PageHeader, Fault> {
        self.in_bounds(id, 0)?;
        buffer.clear();
        buffer.resize(self.page_size() as usize, 0);
        self.read_page_at(id, buffer)?;
        self.header(id, buffer)
    }

    /// Reads `pages` overflow pages of page `id` behind its head, which is in `buffer`. The caller has bounded them by
    /// [`whole_bytes`](Self::whole_bytes).
    pub fn overflow(&self, id: u64, pages: u32, buffer: &mut Vec<u8>) -> Result<(), Fault> {
        if pages == 0 {
            return Ok(());
        }
        let head = buffer.len();
        buffer.resize(head + pages as usize * self.page_size() as usize, 0);
        self.read_page_at(id + 1, buffer.get_mut(head..).unwrap_or_default())
    }

    /// The header at the start of `bytes`, which were read from page `id`, if it is that page's.
    pub fn header(&self, id: u64, bytes: &[u8]) -> Result<PageHeader, Fault> {
        let header = PageHeader::decode(bytes)
            .ok_or_else(|| Fault::page(id, FaultKind::Truncated, "the file ends within the page's header"))?;
        if header.id != id {
            let detail = format!("says that it is page {}", header.id);
            return Err(Fault::page(id, FaultKind::WrongId, detail).at(0));
        }
        Ok(header)
    }

    /// Bytes of page `id` with its overflow, if all of it lies within the file and within reason.
    pub fn whole_bytes(&self, id: u64, header: &PageHeader) -> Result<usize, Fault> {
        self.in_bounds(id, header.overflow)?;
        let bytes = (u64::from(header.overflow) + 1) * self.page_size();
        if bytes > MAX_PAGE_BYTES {
            let detail = format!("claims {bytes} bytes with its overflow, which no etcd writes");
            return Err(Fault::page(id, FaultKind::OutOfBounds, detail).at(12));
        }
        usize::try_from(bytes).map_err(|_| Fault::page(id, FaultKind::OutOfBounds, "too large for this machine"))
    }

    fn read_page_at(&self, id: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        self.read_at(buffer, id * self.page_size())
            .map_err(|error| Fault::page(id, FaultKind::Unreadable, format!("cannot be read: {error}")))
    }

    /// Pages 0 and 1 are the metas, so a tree starts at 2; nothing in use lies at or beyond the high-water mark.
    fn in_bounds(&self, id: u64, overflow: u32) -> Result<(), Fault> {
        let end = id.checked_add(u64::from(overflow) + 1);
        match end {
            Some(end) if id >= 2 && end <= self.readable_pages() => Ok(()),
            Some(end) if id >= 2 && end <= self.meta.high_water_mark => {
                let detail = format!("lies behind the end of the file ({} bytes)", self.bytes);
                Err(Fault::page(id, FaultKind::Truncated, detail))
            }
            _ => {
                let mark = self.meta.high_water_mark;
                let detail = format!("with {overflow} overflow pages lies outside 2 to {mark}, the pages in use");
                Err(Fault::page(id, FaultKind::OutOfBounds, detail))
            }
        }
    }
}

/// Both meta records. Where the first is damaged the page size is not known, so the second is looked for at every
/// size there can be, and believed where it names the size at which it was found.
fn read_metas(file: &File, bytes: u64) -> io::Result<[Result<Meta, MetaError>; 2]> {
    let first = read_meta(file, bytes, 0)?;
    if let Ok(meta) = first {
        return Ok([first, read_meta(file, bytes, u64::from(meta.page_size))?]);
    }
    let mut second = Err(MetaError::Short);
    for shift in SECOND_META_OFFSETS {
        let page_size = 1_u32 << shift;
        match read_meta(file, bytes, u64::from(page_size))? {
            Ok(meta) if meta.page_size == page_size => return Ok([first, Ok(meta)]),
            Err(error) if page_size == 4096 => second = Err(error),
            _ => {}
        }
    }
    Ok([first, second])
}

fn read_meta(file: &File, bytes: u64, offset: u64) -> io::Result<Result<Meta, MetaError>> {
    let length = bytes.saturating_sub(offset).min(META_READ_BYTES as u64) as usize;
    let mut buffer = [0; META_READ_BYTES];
    let page = &mut buffer[..length];
    file.read_exact_at(page, offset)?;
    if length < PAGE_HEADER_BYTES {
        return Ok(Err(MetaError::Short));
    }
    Ok(Meta::decode(page))
}
