//! A row of kine's as its bytes stand in a page of SQLite, whether or not the page still counts it among its cells.
//!
//! ```text
//! cell   := <bytes of the record: varint> <id: varint> <record, as far as it is in this page> [<next page: 4 bytes>]
//! record := <bytes of the header: varint> <a type for each of the nine columns: varint> <columns>
//! ```
//!
//! A cell that SQLite frees keeps its bytes but for the first four, in which the page's list of free blocks may be. In a row of
//! kine's these are the record's length and the id in nearly every case, and the header behind them says all but the id.
//!
//! Format: `sqlite.org/fileformat2.html` 1.6 and 2.1; all numbers are big-endian.

use std::ops::Range;

use rusqlite::types::ValueRef;

use super::row::{Row, RowKind};

/// Columns of the table.
const COLUMNS: usize = 9;

/// A leaf of a table, by the first byte of its header.
const TABLE_LEAF: u8 = 0x0d;

/// Bytes of a leaf's header, in front of the places of its cells.
const LEAF_HEADER_BYTES: usize = 8;

/// The database's own header, in front of the first page's.
const FILE_HEADER_BYTES: usize = 100;

/// Bytes at a freed cell's beginning that may be others now.
const LINK_BYTES: usize = 4;

/// Stands for an id that is lost. kine's own first row has it.
const ANY_ID: i64 = 1;

/// No name is longer.
const MAX_NAME_BYTES: u64 = 64 << 10;

/// A row's record in a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Where the record begins.
    pub at: usize,
    /// The row's id; none where it was written over.
    pub id: Option<i64>,
    /// The page lists it. What only stands in a page may have been written over in part by what stood there later.
    pub is_listed: bool,
    header: usize,
    bytes: usize,
    local: usize,
    types: [u64; COLUMNS],
}

impl Cell {
    /// The cell whose first byte is here, as a leaf's list of cells says it.
    fn listed(page: &[u8], at: usize, usable: usize) -> Option<Self> {
        let (bytes, length) = varint(page.get(at..)?)?;
        let (id, more) = varint(page.get(at + length..)?)?;
        let mut cell = Self::record(page, at + length + more, usable)?;
        (cell.id, cell.is_listed) = (i64::try_from(id).ok(), true);
        (cell.bytes as u64 == bytes).then_some(cell)
    }

    /// The cell whose record begins here, if it does.
    fn found(page: &[u8], at: usize, usable: usize) -> Option<Self> {
        let mut cell = Self::record(page, at, usable)?;
        let is_whole = usize::from(*page.get(at)?) == cell.header;
        // The header's length is the fourth byte of short cells only.
        if !is_whole && cell.bytes >= 1 << 14 {
            return None;
        }
        cell.id = if is_whole { id_before(page, at, cell.bytes as u64) } else { None };
        Some(cell)
    }

    fn record(page: &[u8], at: usize, usable: usize) -> Option<Self> {
        let mut types = [0; COLUMNS];
        let (mut header, mut content) = (1, 0);
        for (column, kind) in types.iter_mut().enumerate() {
            let (number, length) = varint(page.get(at + header..)?)?;
            if !fits(column, number) {
                return None;
            }
            (*kind, header, content) = (number, header + length, content + bytes_of(number)?);
        }
        let bytes = header.checked_add(usize::try_from(content).ok()?)?;
        let local = local_bytes(bytes, usable)?;
        let cell = Self { at, id: None, is_listed: false, header, bytes, local, types };
        (cell.end() <= page.len()).then_some(cell)
    }

    /// Where its bytes in this page end.
    fn end(&self) -> usize {
        self.at + self.local + if self.local < self.bytes { LINK_BYTES } else { 0 }
    }

    /// Whether its name is text, as far as it is in this page.
    fn has_name(&self, page: &[u8]) -> bool {
        let length = self.types.get(1).and_then(|kind| bytes_of(*kind)).and_then(|bytes| usize::try_from(bytes).ok());
        let start = self.at + self.header;
        let end = length.map_or(start, |length| start + length).min(self.at + self.local);
        page.get(start..end).is_some_and(|name| !name.is_empty() && !name.iter().any(u8::is_ascii_control))
    }

    /// Whether another row begins within it, so that what stands behind its header is not its own.
    fn is_written_over(&self, page: &[u8], usable: usize) -> bool {
        let inside = page.get(self.at + 2..self.at + self.local).unwrap_or_default();
        let zeros = inside.iter().enumerate().filter(|(_, byte)| **byte == 0);
        let mut others = zeros.filter_map(|(index, _)| Self::found(page, self.at + 1 + index, usable));
        others.any(|other| other.has_name(page))
    }

    /// The whole record; `overflow` gives the usable bytes of a page by its number. None where they do not follow one another.
    pub fn record_bytes(&self, page: &[u8], mut overflow: impl FnMut(u32) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        let mut bytes = page.get(self.at..self.at + self.local)?.to_vec();
        let mut next = if self.local < self.bytes { number(page, self.at + self.local)? } else { 0 };
        while bytes.len() < self.bytes {
            let more = overflow(next)?;
            let (link, content) = more.split_at_checked(LINK_BYTES)?;
            let wanted = (self.bytes - bytes.len()).min(content.len());
            if wanted == 0 {
                return None;
            }
            bytes.extend_from_slice(content.get(..wanted)?);
            next = number(link, 0)?;
        }
        (next == 0).then_some(bytes)
    }

    /// The row that a record is, with an id that stands for one where it is lost; none of what no kine writes, and of
    /// what is no revision of a key.
    pub fn row<'r>(&self, record: &'r [u8]) -> Option<Row<'r>> {
        let mut columns = [ValueRef::Null; COLUMNS];
        let mut at = self.header;
        for (column, kind) in columns.iter_mut().zip(self.types) {
            let end = at + usize::try_from(bytes_of(kind)?).ok()?;
            *column = value(kind, record.get(at..end)?);
            at = end;
        }
        columns[0] = ValueRef::Integer(self.id.unwrap_or(ANY_ID));
        let row = Row::decode(columns).ok()?;
        let is_text = std::str::from_utf8(row.name).is_ok_and(|name| !name.chars().any(char::is_control));
        (is_text && row.kind() == RowKind::Record && !(row.created && row.deleted)).then_some(row)
    }
}

/// The cells of a page: what it lists, unless `only_free`, and what else stands in it.
///
/// `visit` says whether it is a row: what is none does not keep another one from being found in the same bytes.
pub fn cells(page: &[u8], is_first: bool, usable: usize, only_free: bool, mut visit: impl FnMut(&Cell) -> bool) {
    let start = if is_first { FILE_HEADER_BYTES } else { 0 };
    let Some(places) = listed_places(page, start, usable) else {
        return carve(page, start..usable, usable, &mut visit);
    };
    let mut taken: Vec<Range<usize>> = Vec::with_capacity(places.len());
    for place in places {
        let cell = Cell::listed(page, place, usable);
        // Rows of other tables end where their length says.
        let end = cell.as_ref().map_or_else(|| foreign_end(page, place, usable), Cell::end);
        taken.push(place..end.max(place + 1));
        if let Some(cell) = cell.filter(|_| !only_free) {
            visit(&cell);
        }
    }
    taken.sort_by_key(|range| range.start);
    let mut from = start + LEAF_HEADER_BYTES + 2 * taken.len();
    for range in taken {
        if from < range.start {
            carve(page, from..range.start, usable, &mut visit);
        }
        from = from.max(range.end);
    }
    carve(page, from..usable, usable, &mut visit);
}

/// Where the cells of a table's leaf begin; none of another page, or of one that holds no sense.
fn listed_places(page: &[u8], start: usize, usable: usize) -> Option<Vec<usize>> {
    let header = page.get(start..start + LEAF_HEADER_BYTES)?;
    if header.first() != Some(&TABLE_LEAF) {
        return None;
    }
    let count = usize::from(u16::from_be_bytes(*header.get(3..)?.first_chunk()?));
    let list = page.get(start + LEAF_HEADER_BYTES..usable)?.get(..2 * count)?;
    let places: Vec<_> = list.as_chunks::<2>().0.iter().map(|place| usize::from(u16::from_be_bytes(*place))).collect();
    let behind = start + LEAF_HEADER_BYTES + 2 * count;
    places.iter().all(|place| (behind..usable).contains(place)).then_some(places)
}

/// Where a cell of whatever table ends.
fn foreign_end(page: &[u8], at: usize, usable: usize) -> usize {
    let length = || {
        let (bytes, length) = varint(page.get(at..)?)?;
        let (_, more) = varint(page.get(at + length..)?)?;
        let bytes = usize::try_from(bytes).ok()?;
        let local = local_bytes(bytes, usable)?;
        Some(length + more + local + if local < bytes { LINK_BYTES } else { 0 })
    };
    length().map_or(at, |length| at + length)
}

/// Looks for records in bytes of which nothing is known.
fn carve(page: &[u8], range: Range<usize>, usable: usize, visit: &mut impl FnMut(&Cell) -> bool) {
    let mut at = range.start;
    while let Some(rest) = page.get(at + 1..range.end) {
        // The id is the row's own number, so that its column is nothing: the first type is 0.
        let Some(next) = rest.iter().position(|byte| *byte == 0) else { return };
        at += next;
        let cell = Cell::found(page, at, usable).filter(|cell| cell.end() <= range.end);
        let cell = cell.filter(|cell| cell.has_name(page) && !cell.is_written_over(page, usable));
        at = match cell.filter(|cell| visit(cell)) {
            Some(cell) => cell.end(),
            None => at + 1,
        };
    }
}

/// The cell at a place that [`cells`] gave.
pub fn cell_at(page: &[u8], at: usize, usable: usize) -> Option<Cell> {
    Cell::found(page, at, usable)
}

/// The id in front of a record, if what stands there is its length and an id.
fn id_before(page: &[u8], at: usize, bytes: u64) -> Option<i64> {
    // The longest that fits: a shorter one is the end of it.
    let mut ids = (1..=9).rev().filter_map(|length| {
        let start = at.checked_sub(length)?;
        let (id, read) = varint(page.get(start..at)?)?;
        let before = (1..=4).any(|length| {
            let from = start.checked_sub(length);
            from.and_then(|from| varint(page.get(from..start)?)) == Some((bytes, length))
        });
        (read == length && before).then_some(id)
    });
    ids.next().and_then(|id| i64::try_from(id).ok()).filter(|id| (1..super::row::MAX_ID).contains(id))
}

/// Whether a column may hold what has this type.
fn fits(column: usize, kind: u64) -> bool {
    let is_text = kind >= 13 && kind % 2 == 1;
    let is_number = matches!(kind, 0..=6 | 8 | 9);
    match column {
        0 => kind == 0,
        1 => is_text && kind <= 13 + 2 * MAX_NAME_BYTES,
        2 | 3 => matches!(kind, 0 | 1 | 8 | 9),
        4..=6 => is_number,
        _ => kind == 0 || kind >= 12,
    }
}

/// Bytes of a value by its type.
fn bytes_of(kind: u64) -> Option<u64> {
    Some(match kind {
        0 | 8 | 9 => 0,
        1..=4 => kind,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None,
        _ => (kind - 12) / 2,
    })
    .filter(|bytes| *bytes <= super::database::MAX_VALUE_BYTES as u64)
}

/// How many of a record's bytes are in the leaf.
fn local_bytes(bytes: usize, usable: usize) -> Option<usize> {
    let most = usable.checked_sub(35)?;
    if bytes <= most {
        return Some(bytes);
    }
    let least = (usable.checked_sub(12)? * 32 / 255).checked_sub(23)?;
    let local = least + (bytes - least) % usable.checked_sub(4)?;
    Some(if local <= most { local } else { least })
}

fn value(kind: u64, bytes: &[u8]) -> ValueRef<'_> {
    match kind {
        0 => ValueRef::Null,
        8 => ValueRef::Integer(0),
        9 => ValueRef::Integer(1),
        1..=6 => {
            let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
            ValueRef::Integer(bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte)))
        }
        kind if kind % 2 == 1 => ValueRef::Text(bytes),
        _ => ValueRef::Blob(bytes),
    }
}

/// SQLite's varint: seven bits a byte, the ninth whole. Gives how many bytes it takes, too.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        if index == 8 {
            return Some((number << 8 | u64::from(*byte), 9));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, index + 1));
        }
    }
    None
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USABLE: usize = 4096;

    /// The record of a row of an early revision.
    fn record(name: &str, value: &[u8]) -> Vec<u8> {
        let put = |number: u64, out: &mut Vec<u8>| {
            for shift in [14, 7] {
                if number >> shift != 0 {
                    out.push((number >> shift) as u8 | 0x80);
                }
            }
            out.push(number as u8 & 0x7f);
        };
        let mut types = vec![0];
        put(13 + 2 * name.len() as u64, &mut types);
        types.extend([8, 8, 2, 2, 8]);
        put(12 + 2 * value.len() as u64, &mut types);
        types.push(0);
        let header = [types.len() as u8 + 1];
        [&header[..], &types, name.as_bytes(), &300_u16.to_be_bytes(), &400_u16.to_be_bytes(), value].concat()
    }

    fn cell(id: u16, record: &[u8]) -> Vec<u8> {
        let bytes = record.len();
        [&[(bytes >> 7) as u8 | 0x80, bytes as u8 & 0x7f, (id >> 7) as u8 | 0x80, id as u8 & 0x7f], record].concat()
    }

    fn seen(page: &[u8], only_free: bool) -> Vec<(Option<i64>, String, usize)> {
        let mut seen = Vec::new();
        cells(page, false, USABLE, only_free, |cell| {
            let record = cell.record_bytes(page, |_| None).unwrap_or_default();
            let Some(row) = cell.row(&record) else { return false };
            assert_eq!((row.create_revision, row.prev_revision), (300, 400));
            seen.push((cell.id, String::from_utf8_lossy(row.name).into_owned(), row.value.len()));
            true
        });
        seen
    }

    #[test]
    fn what_a_page_lists_is_told_from_what_only_stands_in_it() {
        let mut page = vec![0; USABLE];
        let (live, gone) = (cell(500, &record("/a/live", &[7; 300])), cell(501, &record("/a/gone", &[8; 200])));
        let (live_at, gone_at) = (USABLE - live.len(), USABLE - live.len() - gone.len());
        page[live_at..].copy_from_slice(&live);
        page[gone_at..live_at].copy_from_slice(&gone);
        page[0] = TABLE_LEAF;
        page[4] = 1;
        page[8..10].copy_from_slice(&(live_at as u16).to_be_bytes());
        let (first, second) = ((Some(500), "/a/live".to_owned(), 300), (Some(501), "/a/gone".to_owned(), 200));
        assert_eq!(seen(&page, false), [first, second.clone()]);
        assert_eq!(seen(&page, true), [second]);
        // In the list of free blocks its length and id are gone, and the rest of it is not.
        page[gone_at..gone_at + 4].copy_from_slice(&[0, 0, 0, 220]);
        assert_eq!(seen(&page, true), [(None, "/a/gone".to_owned(), 200)]);
        // What reaches into a cell that is listed was written over.
        page.copy_within(gone_at..live_at - 10, gone_at + 10);
        assert_eq!(seen(&page, true).len(), 0);
    }

    #[test]
    fn a_long_record_goes_on_in_other_pages() {
        let whole = record("/bootstrap/x", &(0..9000_u32).map(|byte| byte as u8).collect::<Vec<_>>());
        let local = local_bytes(whole.len(), USABLE).unwrap();
        assert!(local < whole.len());
        let mut page = vec![0; USABLE];
        page[100..100 + local].copy_from_slice(&whole[..local]);
        page[100 + local..104 + local].copy_from_slice(&7_u32.to_be_bytes());
        let cell = cell_at(&page, 100, USABLE).unwrap();
        let rest: Vec<_> = whole[local..].chunks(USABLE - 4).collect();
        let chain = |number: u32, last: u32| {
            let next = if number == 7 { 9 } else { last };
            let content = rest.get(if number == 7 { 0 } else { 1 }).copied().unwrap_or_default();
            Some([&u32::to_be_bytes(next)[..], content].concat())
        };
        assert!(cell.record_bytes(&page, |number| chain(number, 0)).as_ref() == Some(&whole));
        assert_eq!(cell.record_bytes(&page, |number| chain(number, 5)), None, "a chain goes on behind its end");
        assert_eq!(cell.record_bytes(&page, |_| None), None);
        assert_eq!(cell.record_bytes(&page, |_| Some(vec![0; 4])), None);
    }

    #[test]
    fn noise_and_parts_of_rows_are_no_rows() {
        let whole = record("/registry/secrets/a/b", &[7; 100]);
        for cut in 0..whole.len() {
            let mut page = vec![0xff; USABLE];
            page[50..50 + cut].copy_from_slice(&whole[..cut]);
            let mut rows = 0;
            cells(&page, false, USABLE, false, |cell| {
                let record = cell.record_bytes(&page, |_| None);
                let is_row = record.is_some_and(|record| cell.row(&record).is_some_and(|row| row.value == [7; 100]));
                rows += usize::from(is_row);
                is_row
            });
            assert_eq!(rows, 0, "cut at {cut}");
        }
        let mut state = 1_u64;
        let page: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8 & if state >> 40 & 3 == 0 { 0x0f } else { 0xff }
        })
        .take(1 << 20)
        .collect();
        for page in page.chunks(USABLE) {
            cells(page, false, USABLE, false, |cell| {
                let record = cell.record_bytes(page, |_| None).unwrap_or_default();
                assert_eq!(cell.row(&record), None);
                false
            });
        }
    }
}
