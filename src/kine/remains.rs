//! Rows whose bytes are still in the file or its log, on pages of every age: what the table has, and what it has no more.
//!
//! SQLite clears nothing that it frees. A freed row stays in the unused part of its page until another one takes its place; a
//! freed page keeps what was on it; and the log has pages as they were after each transaction since it was begun anew, behind them
//! what is left of the log before. All of these are read, each page by itself. A value that goes on in other pages is followed
//! there: from the file into the file, from the log to what the log had then.
//!
//! Only whole rows are found. Where a row's header was written over, or a page that it went on in, nothing is told of it.
//!
//! Format: `sqlite.org/fileformat2.html` 1.3, 1.5, 4.1.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::cell::{Cell, cell_at, cells};
use super::row::Row;

/// Bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

const LOG_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;

/// Where the database's header says how many bytes at a page's end are not used, and where the list of free pages begins.
const RESERVED_AT: usize = 20;
const FREE_LIST_AT: usize = 32;

/// A page as it was at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    /// In the file, by its number.
    File(u32),
    /// In the log, by the frame's index.
    Log(u32),
}

/// Where a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    image: Image,
    at: u32,
}

/// A frame of the log.
#[derive(Clone, Copy, Debug)]
struct Frame {
    page: u32,
    salts: u64,
    /// The frame that ends its transaction.
    end: u32,
}

/// A database file and its log, as bytes.
#[derive(Debug)]
pub struct Remains {
    file: File,
    log: Option<File>,
    page_bytes: u64,
    usable: usize,
    pages: u32,
    frames: Vec<Frame>,
    /// The frames of each page, ascending.
    by_page: HashMap<u32, Vec<u32>>,
    free: HashSet<u32>,
}

impl Remains {
    /// Learns where pages are. Nobody may change the files.
    pub fn new(file: File, log: Option<File>, page_bytes: u64) -> io::Result<Self> {
        let pages = u32::try_from(file.metadata()?.len().checked_div(page_bytes).unwrap_or(0)).unwrap_or(u32::MAX);
        let usable = usize::try_from(page_bytes).map_err(io::Error::other)?;
        let mut remains = Self {
            file,
            log,
            page_bytes,
            usable,
            pages,
            frames: Vec::new(),
            by_page: HashMap::new(),
            free: HashSet::new(),
        };
        remains.frames = remains.frames()?;
        for (index, frame) in (0..).zip(&remains.frames) {
            remains.by_page.entry(frame.page).or_default().push(index);
        }
        let first = remains.current(1).unwrap_or_default();
        remains.usable = usable.saturating_sub(first.get(RESERVED_AT).copied().unwrap_or(0).into());
        remains.free = remains.free_pages(&first);
        Ok(remains)
    }

    fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES + self.page_bytes
    }

    fn frames(&self) -> io::Result<Vec<Frame>> {
        let Some(log) = &self.log else { return Ok(Vec::new()) };
        let count = log.metadata()?.len().saturating_sub(LOG_HEADER_BYTES) / self.frame_bytes();
        let mut frames: Vec<Frame> = Vec::new();
        let mut begun = 0;
        for index in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            let mut header = [0; 16];
            log.read_exact_at(&mut header, LOG_HEADER_BYTES + u64::from(index) * self.frame_bytes())?;
            let word = |at: usize| {
                header.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word))
            };
            let salts = u64::from(word(8)) << 32 | u64::from(word(12));
            if frames.last().is_some_and(|last| last.salts != salts) {
                begun = frames.len();
            }
            frames.push(Frame { page: word(0), salts, end: index });
            if word(4) != 0 {
                frames.iter_mut().skip(begun).for_each(|frame| frame.end = index);
                begun = frames.len();
            }
        }
        Ok(frames)
    }

    /// The newest frame of a page in the log as it is now.
    fn newest(&self, page: u32) -> Option<u32> {
        let salts = self.frames.first()?.salts;
        let has = |index: &&u32| self.frames.get(**index as usize).is_some_and(|frame| frame.salts == salts);
        self.by_page.get(&page)?.iter().rev().find(has).copied()
    }

    fn current(&self, page: u32) -> Option<Vec<u8>> {
        self.image(self.newest(page).map_or(Image::File(page), Image::Log))
    }

    fn image(&self, image: Image) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.page_bytes).ok()?];
        match image {
            Image::File(page) => {
                let at = u64::from(page.checked_sub(1)?) * self.page_bytes;
                self.file.read_exact_at(&mut bytes, at).ok()?;
            }
            Image::Log(index) => {
                let at = LOG_HEADER_BYTES + u64::from(index) * self.frame_bytes() + FRAME_HEADER_BYTES;
                self.log.as_ref()?.read_exact_at(&mut bytes, at).ok()?;
            }
        }
        Some(bytes)
    }

    /// The pages that the database says are free.
    fn free_pages(&self, first: &[u8]) -> HashSet<u32> {
        let word = |bytes: &[u8], at: usize| {
            bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word))
        };
        let mut free = HashSet::new();
        let mut trunk = word(first, FREE_LIST_AT);
        while trunk != 0 && free.insert(trunk) {
            let Some(bytes) = self.current(trunk) else { break };
            let listed = bytes.get(8..).unwrap_or_default().as_chunks::<4>().0;
            free.extend(listed.iter().take(word(&bytes, 4) as usize).map(|page| u32::from_be_bytes(*page)));
            trunk = word(&bytes, 0);
        }
        free
    }

    /// Gives all rows on pages of every age to `visit`, but for those that a page of now lists: the table has these.
    ///
    /// # Errors
    ///
    /// What cannot be read.
    pub fn rows(&self, visit: &mut dyn FnMut(Spot, &Cell, &Row<'_>)) -> io::Result<()> {
        let in_file = (1..=self.pages).map(Image::File);
        let pages_at_once = (READ_BYTES / self.page_bytes.max(1)).max(1);
        self.images(&self.file, (0, self.page_bytes), pages_at_once, in_file, visit)?;
        let Some(log) = &self.log else { return Ok(()) };
        let in_log = (0..).map(Image::Log).take(self.frames.len());
        self.images(log, (LOG_HEADER_BYTES, self.frame_bytes()), pages_at_once, in_log, visit)
    }

    /// Reads pieces of one length that stand behind one another, some at a time.
    fn images(
        &self,
        file: &File,
        (start, length): (u64, u64),
        at_once: u64,
        images: impl Iterator<Item = Image>,
        visit: &mut dyn FnMut(Spot, &Cell, &Row<'_>),
    ) -> io::Result<()> {
        let images: Vec<Image> = images.collect();
        let (length_bytes, at_once) =
            (usize::try_from(length).map_err(io::Error::other)?, usize::try_from(at_once).unwrap_or(1));
        let head = usize::try_from(length - self.page_bytes).map_err(io::Error::other)?;
        let mut buffer = vec![0; length_bytes * at_once];
        for (number, some) in (0_u64..).zip(images.chunks(at_once)) {
            let Some(buffer) = buffer.get_mut(..length_bytes * some.len()) else { continue };
            file.read_exact_at(buffer, start + number * length * at_once as u64)?;
            for (image, piece) in some.iter().zip(buffer.chunks_exact(length_bytes)) {
                self.page(*image, piece.get(head..).unwrap_or_default(), visit);
            }
        }
        Ok(())
    }

    fn page(&self, image: Image, bytes: &[u8], visit: &mut dyn FnMut(Spot, &Cell, &Row<'_>)) {
        // Nearly all that is free was never used.
        if bytes.iter().all(|byte| *byte == 0) {
            return;
        }
        let (page, is_current) = match image {
            Image::File(page) => (page, self.newest(page).is_none()),
            Image::Log(index) => {
                let page = self.frames.get(index as usize).map_or(0, |frame| frame.page);
                (page, self.newest(page) == Some(index))
            }
        };
        let only_free = is_current && !self.free.contains(&page);
        cells(bytes, page == 1, self.usable, only_free, |cell| {
            let Some(record) = cell.record_bytes(bytes, |next| self.overflow(image, next)) else { return false };
            let (Ok(at), Some(row)) = (u32::try_from(cell.at), cell.row(&record)) else { return false };
            visit(Spot { image, at }, cell, &row);
            true
        });
    }

    /// A page that a row goes on in, as it was when the row's own page was written.
    fn overflow(&self, from: Image, page: u32) -> Option<Vec<u8>> {
        let in_log = match from {
            Image::File(_) => None,
            Image::Log(index) => {
                let frame = self.frames.get(index as usize)?;
                let then = |other: &&u32| {
                    **other <= frame.end
                        && self.frames.get(**other as usize).is_some_and(|other| other.salts == frame.salts)
                };
                self.by_page.get(&page).and_then(|frames| frames.iter().rev().find(then))
            }
        };
        let mut bytes = self.image(in_log.map_or(Image::File(page), |index| Image::Log(*index)))?;
        bytes.truncate(self.usable);
        Some(bytes)
    }

    /// Reads a row again.
    pub fn row_at<T>(&self, spot: Spot, visit: impl FnOnce(&Cell, &Row<'_>) -> T) -> Option<T> {
        let bytes = self.image(spot.image)?;
        let cell = cell_at(&bytes, spot.at as usize, self.usable)?;
        let record = cell.record_bytes(&bytes, |next| self.overflow(spot.image, next))?;
        cell.row(&record).map(|row| visit(&cell, &row))
    }
}
