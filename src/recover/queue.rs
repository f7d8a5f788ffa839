//! The notes of what is wanted, one after the other, as they come out of their sorted file.

use std::collections::VecDeque;
use std::io;

use crate::audit::merge::Merge;

use super::get::{Wanted, Which};
use super::notes::{Noted, Order};

/// What is noted and not asked for yet.
pub(super) struct Queue {
    merge: Merge,
    order: Order,
    /// Whether notes tell what is held.
    holds: bool,
    which: Which,
    /// What was read of the sorted notes and not asked for yet.
    ahead: VecDeque<Noted>,
    /// The next note.
    pending: Option<Noted>,
}

impl Queue {
    /// Begins with the first note.
    pub(super) fn begin(merge: Merge, wanted: &Wanted<'_>) -> io::Result<Self> {
        let (order, holds, which) = (wanted.order, wanted.digests.is_some(), wanted.which);
        let mut queue = Self { merge, order, holds, which, ahead: VecDeque::new(), pending: None };
        queue.pending = queue.next_noted()?;
        Ok(queue)
    }

    /// Begins anew.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.merge = self.merge.again()?;
        self.ahead.clear();
        self.pending = self.next_noted()?;
        Ok(())
    }

    fn next_noted(&mut self) -> io::Result<Option<Noted>> {
        while self.ahead.is_empty() {
            let Some(part) = self.merge.next_part()? else { return Ok(None) };
            let (order, holds) = (self.order, self.holds);
            self.ahead.extend(part.read()?.raw().map(|(row, _)| Noted::of(&row, order, holds)));
        }
        Ok(self.ahead.pop_front())
    }

    /// The next record that is wanted.
    pub(super) fn next_wanted(&mut self) -> io::Result<Option<Noted>> {
        let mut before: Option<Noted> = None;
        while let Some(noted) = self.pending.take() {
            self.pending = self.next_noted()?;
            let is_last = self.pending.as_ref().is_none_or(|next| next.key != noted.key);
            match self.which {
                Which::All if !noted.deleted => return Ok(Some(noted)),
                Which::Current if is_last && !noted.deleted => return Ok(Some(noted)),
                Which::Deleted if is_last && noted.deleted && before.is_some() => return Ok(before),
                Which::Deleted if !noted.deleted => before = Some(noted),
                _ => {}
            }
            if is_last {
                before = None;
            }
        }
        Ok(None)
    }

    /// The next ones, until there are so many, or their values have so many bytes.
    pub(super) fn next_batch(&mut self, records: usize, bytes: u64) -> io::Result<Vec<Noted>> {
        let mut batch = Vec::new();
        let mut taken = 0;
        while batch.len() < records && taken < bytes {
            let Some(next) = self.next_wanted()? else { break };
            taken += next.value_bytes;
            batch.push(next);
        }
        Ok(batch)
    }
}
