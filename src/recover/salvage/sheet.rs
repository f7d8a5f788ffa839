//! A broken file as nothing but pages: which size they have, and what each of them says that it is, whatever leads to it.
//!
//! A page is known by its header, which names the page itself; so the size of pages is that at which most headers name the
//! place at which they stand, and a page that stands elsewhere can still be told. Of every page some twenty bytes are kept.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use crate::bbolt::bucket::BUCKET_HEADER_BYTES;
use crate::bbolt::buffer::ReadBuffer;
use crate::bbolt::file::MAX_PAGE_BYTES;
use crate::bbolt::meta::Meta;
use crate::bbolt::page::{ELEMENT_BYTES, PAGE_HEADER_BYTES, PageHeader, PageKind};
use crate::etcd::{RevisionKey, schema};
use crate::source::digest::{TRAILER_BYTES, Trailer};

use super::rev::Rev;

/// The page sizes that are tried: those that machines of etcd have.
const SIZE_SHIFTS: std::ops::RangeInclusive<u32> = 12..=16;

/// Headers that are looked at for each size.
const SAMPLED_HEADERS: u64 = 1 << 16;

/// Bytes that one worker reads at once.
const STRETCH_BYTES: usize = 256 << 10;

/// What a page says that it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// None that is known.
    #[default]
    Unknown,
    /// Nothing but zeros.
    Zero,
    /// A leaf of pairs.
    Leaf,
    /// A leaf of top-level buckets.
    Root,
    /// A branch.
    Branch,
    /// A meta page.
    Meta,
    /// A page that no tree consists of.
    Other,
}

/// What is kept of a page.
#[derive(Clone, Copy, Debug, Default)]
pub struct Note {
    /// The page that it says it is.
    pub id: u32,
    /// Its overflow, as it says.
    pub overflow: u32,
    /// Its elements, as it says.
    pub count: u16,
    /// What it says it is.
    pub kind: Kind,
    /// Whether its first element is packed as bbolt packs it, so that it hardly is a page by chance.
    pub packed: bool,
    /// The main revision that its first key is; none where that is no revision.
    pub first: Option<u64>,
}

impl Note {
    /// Whether it may be a page of a tree.
    pub fn is_tree(&self) -> bool {
        matches!(self.kind, Kind::Leaf | Kind::Root | Kind::Branch)
    }
}

/// The pages of a file.
#[derive(Debug)]
pub struct Sheet<'f> {
    file: &'f File,
    page_size: u32,
    /// Without the appended digest.
    bytes: u64,
    notes: Vec<Note>,
    /// Pages that stand elsewhere than they say, by what they say.
    displaced: HashMap<u32, Vec<u32>>,
    /// Valid meta records with the position of their page, the newest first.
    metas: Vec<(u32, Meta)>,
}

/// Why a file holds no pages at all.
#[derive(Debug, thiserror::Error)]
pub enum SheetError {
    /// The operating system did not give the bytes.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// At no size do pages name their own place.
    #[error("holds no pages of a bbolt database: no header in it names its own place")]
    NoPages,
}

impl<'f> Sheet<'f> {
    /// Looks at every page of `file`. `progress` is told the bytes that were read.
    pub fn read(file: &'f File, progress: &(dyn Fn(u64) + Sync)) -> Result<Self, SheetError> {
        let length = file.metadata()?.len();
        let bytes = if Trailer::expected(length) { length - TRAILER_BYTES } else { length };
        let page_size = page_size(file, bytes)?.ok_or(SheetError::NoPages)?;
        let mut sheet =
            Self { file, page_size, bytes, notes: Vec::new(), displaced: HashMap::new(), metas: Vec::new() };
        let pages = usize::try_from(bytes.div_ceil(u64::from(page_size))).unwrap_or(usize::MAX);
        // Page ids are kept in 32 bits; that is 16 TiB, and a mark has no room for more.
        sheet.notes = vec![Note::default(); pages.min(u32::MAX as usize)];
        let mut notes = std::mem::take(&mut sheet.notes);
        let per_stretch = (STRETCH_BYTES / page_size as usize).max(1);
        notes.par_chunks_mut(per_stretch).enumerate().for_each_init(ReadBuffer::new, |buffer, (stretch, notes)| {
            sheet.look(stretch * per_stretch, notes, buffer);
            progress((notes.len() * page_size as usize) as u64);
        });
        sheet.notes = notes;
        sheet.index();
        Ok(sheet)
    }

    /// Notes the pages from `first` on, which are read together; where that fails, each for itself.
    fn look(&self, first: usize, notes: &mut [Note], buffer: &mut ReadBuffer) {
        let page_bytes = self.page_size as usize;
        let start = first as u64 * page_bytes as u64;
        let length = self.bytes.saturating_sub(start).min((notes.len() * page_bytes) as u64) as usize;
        let stretch = buffer.room(length);
        if self.file.read_exact_at(stretch, start).is_ok() {
            for (note, page) in notes.iter_mut().zip(stretch.chunks(page_bytes)) {
                *note = note_of(page, page_bytes);
            }
            return;
        }
        let mut page = Vec::new();
        for (position, note) in (first as u32..).zip(notes) {
            if self.bytes_of(position, 0, &mut page).is_some() {
                *note = note_of(&page, page_bytes);
            }
        }
    }

    fn index(&mut self) {
        for (position, note) in (0_u32..).zip(&self.notes) {
            if note.is_tree() && note.packed && note.id != position {
                self.displaced.entry(note.id).or_default().push(position);
            }
        }
        let mut buffer = Vec::new();
        let candidates: Vec<u32> =
            (0_u32..).zip(&self.notes).filter(|(_, note)| note.kind == Kind::Meta).map(|(at, _)| at).collect();
        for position in candidates {
            if let Some(Ok(meta)) = self.bytes_of(position, 0, &mut buffer).map(|()| Meta::decode(&buffer)) {
                self.metas.push((position, meta));
            }
        }
        // Where both are equally new, the first is the one that bbolt takes.
        self.metas.sort_by_key(|(position, meta)| (*position > 1, std::cmp::Reverse(meta.txid), *position));
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Bytes of the file without its digest.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many pages there are, one that is cut included.
    pub fn pages(&self) -> u32 {
        self.notes.len() as u32
    }

    /// What the page at a position says.
    pub fn note(&self, position: u32) -> Note {
        self.notes.get(position as usize).copied().unwrap_or_default()
    }

    /// Whether a page stands where it says. One that does not may be a piece of a value.
    pub fn is_in_place(&self, position: u32) -> bool {
        self.note(position).id == position
    }

    /// All pages with their positions.
    pub fn notes(&self) -> impl Iterator<Item = (u32, Note)> + '_ {
        (0_u32..).zip(self.notes.iter().copied())
    }

    /// The valid meta records and where they stand; those that stand where they belong come first, the newest of them foremost.
    pub fn metas(&self) -> &[(u32, Meta)] {
        &self.metas
    }

    /// Whether both meta records are where they belong.
    pub fn has_both_metas(&self) -> bool {
        [0, 1].iter().all(|page| self.metas.iter().any(|(position, _)| position == page))
    }

    /// Where page `id` is: at its own place, or where it was put instead; each that says so, its own place first.
    pub fn positions(&self, id: u64) -> impl Iterator<Item = u32> + '_ {
        let id = u32::try_from(id).ok();
        let own = id.filter(|id| {
            let note = self.note(*id);
            note.is_tree() && note.id == *id
        });
        let others = id.and_then(|id| self.displaced.get(&id)).into_iter().flatten().copied();
        own.into_iter().chain(others)
    }

    /// Reads a page with `overflow` pages behind it into `buffer`, as far as the file goes.
    pub fn bytes_of(&self, position: u32, overflow: u32, buffer: &mut Vec<u8>) -> Option<()> {
        let start = u64::from(position) * u64::from(self.page_size);
        let whole = (u64::from(overflow) + 1) * u64::from(self.page_size);
        let length = self.bytes.checked_sub(start)?.min(whole);
        if length > MAX_PAGE_BYTES || length < PAGE_HEADER_BYTES as u64 {
            return None;
        }
        buffer.clear();
        buffer.resize(usize::try_from(length).ok()?, 0);
        self.file.read_exact_at(buffer, start).ok()
    }

    /// Reads any bytes of the file.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// What can be told of a page by its first bytes.
fn note_of(page: &[u8], page_bytes: usize) -> Note {
    let Some(header) = PageHeader::decode(page) else { return Note::default() };
    let kind = match header.kind {
        PageKind::Leaf => Kind::Leaf,
        PageKind::Branch => Kind::Branch,
        PageKind::Meta => Kind::Meta,
        PageKind::Freelist => Kind::Other,
        PageKind::Unknown(_) if page.iter().all(|byte| *byte == 0) => Kind::Zero,
        PageKind::Unknown(_) => Kind::Unknown,
    };
    let Ok(id) = u32::try_from(header.id) else { return Note::default() };
    let mut note = Note { id, overflow: header.overflow, count: header.count, kind, packed: false, first: None };
    if note.is_tree() {
        first_element(page, page_bytes, &mut note);
    }
    note
}

/// Reads the first element of a branch or leaf page, as far as it is packed as bbolt packs it.
fn first_element(page: &[u8], page_bytes: usize, note: &mut Note) {
    let word = |number: usize| {
        let bytes = page.get(PAGE_HEADER_BYTES + 4 * number..).and_then(|bytes| bytes.first_chunk());
        bytes.map(|bytes| u32::from_le_bytes(*bytes))
    };
    let is_branch = note.kind == Kind::Branch;
    let (flags, position, key_bytes, value_bytes) = match is_branch {
        true => (Some(0), word(0), word(1), None),
        false => (word(0), word(1), word(2), word(3)),
    };
    let array = usize::from(note.count) * ELEMENT_BYTES;
    let total = page_bytes.saturating_mul(note.overflow as usize + 1);
    note.packed = array > 0 && position == u32::try_from(array).ok() && PAGE_HEADER_BYTES + array < total;
    let at = PAGE_HEADER_BYTES + array;
    // A key that stands behind the first page, as behind very many elements, is left untold: etcd's revisions never do.
    let key = key_bytes.and_then(|bytes| page.get(at..at.checked_add(bytes as usize)?)).unwrap_or_default();
    if !note.packed || key.is_empty() {
        return;
    }
    if flags == Some(1) {
        let has_header = value_bytes >= Some(BUCKET_HEADER_BYTES as u32);
        if has_header && schema::BUCKETS.contains(&key) {
            note.kind = Kind::Root;
        }
        return;
    }
    note.first = RevisionKey::decode(key).and_then(|key| Rev::of(&key)).map(Rev::main);
}

/// The size at which most pages name their own place; none if no page does at any.
fn page_size(file: &File, bytes: u64) -> io::Result<Option<u32>> {
    let mut best = (0, None);
    for shift in SIZE_SHIFTS {
        let size = 1_u64 << shift;
        let pages = bytes.div_ceil(size);
        let step = pages.div_ceil(SAMPLED_HEADERS).max(1);
        let mut votes = 0_u64;
        let mut header = [0; PAGE_HEADER_BYTES];
        for page in (0..pages).step_by(usize::try_from(step).unwrap_or(1)) {
            if page * size + PAGE_HEADER_BYTES as u64 > bytes {
                break;
            }
            file.read_exact_at(&mut header, page * size)?;
            let names_itself = |header: &PageHeader| {
                let may_be = matches!(header.kind, PageKind::Leaf | PageKind::Branch | PageKind::Freelist)
                    || (header.kind == PageKind::Meta && page == 1);
                header.id == page && page > 0 && may_be
            };
            votes += u64::from(PageHeader::decode(&header).as_ref().is_some_and(names_itself));
        }
        if votes > best.0 {
            best = (votes, Some(1 << shift));
        }
    }
    Ok(best.1)
}
