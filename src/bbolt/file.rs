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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::bbolt::check::check;
    use crate::bbolt::write::Fill;
    use crate::bbolt::write::tests::{Buckets, bytes_of, file_of, numbered, written};

    const PAGE_SIZES: [u32; 5] = [4096, 8192, 16_384, 32_768, 65_536];

    fn bytes(page_size: u32) -> Vec<u8> {
        bytes_of(&written(page_size, Fill::APPENDED, &Buckets::from([(b"key".to_vec(), numbered(3000, 17, 200))])))
    }

    #[test]
    fn the_page_size_is_found_whichever_meta_is_left() {
        for page_size in PAGE_SIZES {
            let whole = bytes(page_size);
            for (damaged, expected_txid) in [(0, 6), (page_size as usize, 7)] {
                for piece in [16..17, 20..21, 24..26, 72..80, 0..4096] {
                    let mut bytes = whole.clone();
                    bytes[damaged + piece.start..damaged + piece.end].iter_mut().for_each(|byte| *byte = !*byte);
                    let file = file_of(&bytes).unwrap();
                    assert_eq!((file.page_size(), file.meta().txid), (page_size.into(), expected_txid), "{piece:?}");
                    let faults = check(&file).faults.into_sorted();
                    let places: Vec<_> = faults.iter().map(|fault| (fault.page, fault.kind)).collect();
                    assert_eq!(places, [(Some(u64::from(damaged != 0)), FaultKind::Meta)], "{page_size} {piece:?}");
                }
            }
        }
    }

    #[test]
    fn without_a_meta_there_is_no_file() {
        for page_size in PAGE_SIZES {
            let mut bytes = bytes(page_size);
            bytes[72] ^= 1;
            bytes[page_size as usize + 16] ^= 1;
            let error = file_of(&bytes).unwrap_err();
            assert!(matches!(error, OpenError::NoMeta { first: MetaError::Checksum, .. }), "{error}");
        }
        assert!(matches!(file_of(&[]), Err(OpenError::Empty)));
        assert!(matches!(
            file_of(&[0; 7]),
            Err(OpenError::NoMeta { first: MetaError::Short, second: MetaError::Short })
        ));
    }

    #[test]
    fn a_cut_file_is_read_as_far_as_it_goes() {
        for page_size in [4096, 65_536] {
            let whole = bytes(page_size);
            let (size, pages) = (page_size as usize, whole.len() / page_size as usize);
            for kept in [3 * size + 1, whole.len() - size, whole.len() - 1] {
                let file = file_of(&whole[..kept]).unwrap();
                assert_eq!((file.readable_pages(), file.used_bytes()), ((kept / size) as u64, whole.len() as u64));
                let fault = file.page(pages as u64 - 1, &mut Vec::new()).unwrap_err();
                assert_eq!((fault.page, fault.kind), (Some(pages as u64 - 1), FaultKind::Truncated));
                assert!(check(&file).faults.into_sorted().iter().any(|fault| fault.kind == FaultKind::Truncated));
            }
        }
    }

    #[test]
    fn a_page_that_is_not_what_it_says_is_named() {
        let mut bytes = bytes(4096);
        bytes[4 * 4096] ^= 1;
        bytes[5 * 4096 + 12..5 * 4096 + 16].copy_from_slice(&u32::MAX.to_le_bytes());
        let file = file_of(&bytes).unwrap();
        let mark = file.meta().high_water_mark;
        let mut buffer = Vec::new();
        let expected = [
            (0, FaultKind::OutOfBounds),
            (1, FaultKind::OutOfBounds),
            (4, FaultKind::WrongId),
            (5, FaultKind::OutOfBounds),
            (mark, FaultKind::OutOfBounds),
            (u64::MAX, FaultKind::OutOfBounds),
        ];
        for (page, kind) in expected {
            let fault = file.page(page, &mut buffer).unwrap_err();
            assert_eq!((fault.page, fault.kind), (Some(page), kind));
        }
        assert_eq!(file.page(3, &mut buffer).unwrap().id, 3);
    }

    #[test]
    fn a_commit_of_somebody_else_shows() {
        let file = file_of(&bytes(4096)).unwrap();
        assert_eq!(file.current_txid().unwrap(), Some(7));
        let newer = Meta { txid: 8, ..*file.meta() };
        file.file().write_all_at(&newer.encode(1), 4096).unwrap();
        assert_eq!((file.current_txid().unwrap(), file.meta().txid), (Some(8), 7));
    }
}
