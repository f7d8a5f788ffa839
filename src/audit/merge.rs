//! The sorted runs of rows put in one order, part by part.
//!
//! A part is what lies between two rows in the order of all. Where it stands in each run shows from the first rows of the
//! runs' blocks, so parts can be read, ordered and rendered by several threads, each for itself, and no part is much
//! larger than another: whoever has a key with a million revisions gets it in many of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::row::{Batch, RecordKind};
use super::rows::{Order, RawRow, Run, length, sort};

/// Bytes of blocks that a part takes, at least, unless it is the last.
const PART_BYTES: u64 = 1 << 20;

/// Bytes that are read to see the first row of a block; nearly all rows are shorter.
const FIRST_ROW_BYTES: u64 = 512;

/// All rows in order.
#[derive(Debug)]
pub struct Merge {
    file: Arc<File>,
    runs: Vec<Progress>,
    /// The first rows of the next block of each run.
    ahead: BinaryHeap<Reverse<Ahead>>,
    /// Where the next part begins: at this row.
    lower: Option<FirstRow>,
}

/// How far a run was taken.
#[derive(Debug)]
struct Progress {
    run: Run,
    /// The first block of which rows may be left.
    begun: usize,
    /// The blocks before this one have a row in the parts so far.
    taken: usize,
}

/// A row that parts are divided at, as it stands in the file.
#[derive(Clone, Debug)]
struct FirstRow(Arc<[u8]>);

#[derive(Debug)]
struct Ahead {
    row: FirstRow,
    run: usize,
}

/// The rows between two.
#[derive(Debug)]
pub struct Part {
    file: Arc<File>,
    ranges: Vec<Range<u64>>,
    lower: Option<FirstRow>,
    upper: Option<FirstRow>,
}

impl Merge {
    /// Begins with the first rows of each run.
    pub(super) fn new(file: File, runs: Vec<Run>) -> io::Result<Self> {
        Self::begin(Arc::new(file), runs)
    }

    fn begin(file: Arc<File>, runs: Vec<Run>) -> io::Result<Self> {
        let runs = runs.into_iter().map(|run| Progress { run, begun: 0, taken: 0 }).collect();
        let mut merge = Self { file, runs, ahead: BinaryHeap::new(), lower: None };
        for run in 0..merge.runs.len() {
            merge.look_ahead(run)?;
        }
        Ok(merge)
    }

    /// The same rows from their beginning, for who reads them more than once.
    pub fn again(&self) -> io::Result<Self> {
        Self::begin(self.file.clone(), self.runs.iter().map(|progress| progress.run.clone()).collect())
    }

    /// The next part; none at the end. Its rows are not read yet.
    pub fn next_part(&mut self) -> io::Result<Option<Part>> {
        if self.ahead.is_empty() {
            return Ok(None);
        }
        let mut bytes = 0;
        let mut last: Option<FirstRow> = None;
        let upper = loop {
            let Some(Reverse(next)) = self.ahead.peek() else { break None };
            // Rows of one order belong to one part.
            let is_other = last.as_ref().is_none_or(|last| last.order() < next.row.order());
            if bytes >= PART_BYTES && is_other {
                break Some(next.row.clone());
            }
            let Some(Reverse(Ahead { row, run })) = self.ahead.pop() else { break None };
            last = Some(row);
            bytes += self.take_block(run)?;
        };
        let lower = std::mem::replace(&mut self.lower, upper.clone());
        let ranges = self.runs.iter_mut().filter_map(Progress::range).collect();
        Ok(Some(Part { file: self.file.clone(), ranges, lower, upper }))
    }

    /// Takes the next block of a run and gives its length.
    fn take_block(&mut self, run: usize) -> io::Result<u64> {
        let Some(progress) = self.runs.get_mut(run) else { return Ok(0) };
        let block = progress.run.block(progress.taken);
        progress.taken += 1;
        self.look_ahead(run)?;
        Ok(block.end - block.start)
    }

    fn look_ahead(&mut self, run: usize) -> io::Result<()> {
        let Some(Progress { run: blocks, taken, .. }) = self.runs.get(run) else { return Ok(()) };
        let block = blocks.block(*taken);
        if !block.is_empty() {
            let row = first_row(&self.file, block)?;
            self.ahead.push(Reverse(Ahead { row, run }));
        }
        Ok(())
    }
}

impl Run {
    /// Where a block stands in the file; nowhere behind the last one.
    fn block(&self, index: usize) -> Range<u64> {
        let begins = |index: usize| self.blocks.get(index).copied().unwrap_or(self.end);
        begins(index)..begins(index.saturating_add(1))
    }
}

impl Progress {
    /// What a part needs that ends before the next block. The last one taken may go on in the next part.
    fn range(&mut self) -> Option<Range<u64>> {
        let range = self.run.block(self.begun).start..self.run.block(self.taken).start;
        self.begun = self.taken.saturating_sub(1);
        (!range.is_empty()).then_some(range)
    }
}

/// Reads the row that a block begins with.
fn first_row(file: &File, block: Range<u64>) -> io::Result<FirstRow> {
    let whole = block.end - block.start;
    let mut row = read(file, block.start..block.start + whole.min(FIRST_ROW_BYTES))?;
    let length = length(&row).unwrap_or(0);
    if length > row.len() {
        row = read(file, block.start..block.start + whole.min(length as u64))?;
    }
    row.truncate(length);
    Ok(FirstRow(row.into()))
}

fn read(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

impl FirstRow {
    fn row(&self) -> Option<RawRow<'_>> {
        RawRow::decode(&self.0)
    }

    fn order(&self) -> Option<Order<'_>> {
        self.row().map(|row| row.order())
    }
}

impl Part {
    /// Reads the rows, puts them in order, and tells what each is to its key: the last one of a key is what counts.
    pub fn read(&self) -> io::Result<Batch> {
        let total: u64 = self.ranges.iter().map(|range| range.end - range.start).sum();
        let mut bytes = Vec::with_capacity(usize::try_from(total).map_err(io::Error::other)?);
        for range in &self.ranges {
            let start = bytes.len();
            let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            bytes.resize(start + length, 0);
            self.file.read_exact_at(bytes.get_mut(start..).unwrap_or_default(), range.start)?;
        }
        let mut offsets = self.own(&bytes);
        sort(&bytes, &mut offsets);
        let rows = self.kinds(&bytes, &offsets);
        Ok(Batch::new(bytes, rows))
    }

    /// Where the rows stand that lie within the part.
    fn own(&self, bytes: &[u8]) -> Vec<usize> {
        let lower = self.lower.as_ref().and_then(FirstRow::order);
        let upper = self.upper.as_ref().and_then(FirstRow::order);
        let mut own = Vec::new();
        let mut at = 0;
        while let Some(row) = bytes.get(at..).filter(|row| !row.is_empty()) {
            let (Some(length), Some(order)) = (length(row), RawRow::decode(row).map(|row| row.order())) else { break };
            if lower.is_none_or(|lower| order >= lower) && upper.is_none_or(|upper| order < upper) {
                own.push(at);
            }
            at += length;
        }
        own
    }

    fn kinds(&self, bytes: &[u8], offsets: &[usize]) -> Vec<(usize, RecordKind)> {
        let mut rows = Vec::with_capacity(offsets.len());
        let mut next = self.upper.as_ref().and_then(FirstRow::row);
        for offset in offsets.iter().rev() {
            let Some(row) = bytes.get(*offset..).and_then(RawRow::decode) else { continue };
            rows.push((*offset, RecordKind::of(&row, next.as_ref())));
            next = Some(row);
        }
        rows.reverse();
        rows
    }
}

impl PartialEq for Ahead {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ahead {}

impl PartialOrd for Ahead {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ahead {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.row.order().cmp(&other.row.order()).then_with(|| self.run.cmp(&other.run))
    }
}
