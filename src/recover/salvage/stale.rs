//! Which copies below a lost branch are of the store as it was last, and which are of a page that was freed before.
//!
//! What is older than the last compaction may have been taken out by it, and the page that had it may still be in the file.
//! Three things prove that a record was taken out:
//!
//! * A page that was written later has older and newer records and not this one. Records only ever come behind all others, so
//!   between two of them none is missing that was not taken out.
//! * A newer record of the same key that is no newer than the compaction: of each key a compaction leaves one.
//! * The lease on which its key hung is gone, and the key with it.
//!
//! A page that has a record that was taken out was itself freed, so it does not speak for what else it has.

use std::collections::{HashMap, HashSet};

use super::gaps::Gaps;
use super::mark::{Bit, Mark};
use super::rev::Rev;
use super::settle::{Compaction, changes};

/// Versions of pages that are held against one record. More than that overlap nowhere.
const MAX_WITNESSES: usize = 1024;

/// What was found out.
#[derive(Debug, Default)]
pub struct Stale {
    pages: HashSet<u32>,
    taken_out: HashSet<(u64, u32)>,
}

impl Stale {
    /// Looks at all copies, in the order of revisions.
    pub fn find(marks: &[Mark], gaps: &Gaps, compaction: Compaction) -> Self {
        let mut stale = Self::default();
        if !gaps.has_branches() {
            return stale;
        }
        stale.by_witnesses(marks, gaps, compaction);
        stale.by_newer_records(marks, gaps, compaction);
        for copies in changes(marks) {
            if copies.first().is_some_and(|copy| stale.taken_out.contains(&copy.change())) {
                stale.pages.extend(copies.iter().filter(|copy| is_on_page(copy)).map(|copy| copy.page));
            }
        }
        stale
    }

    /// Whether something that the tree leads to was taken out, so that it is an older tree.
    pub fn contradicts_tree(&self, marks: &[Mark]) -> bool {
        marks.iter().any(|mark| mark.has(Bit::Tree) && self.taken_out.contains(&mark.change()))
    }

    /// Whether a copy is of the store as it was last, for all that can be told.
    pub fn vouches(&self, copy: &Mark) -> bool {
        is_on_page(copy)
            && !copy.has(Bit::Leaseless)
            && !self.taken_out.contains(&copy.change())
            && !self.pages.contains(&copy.page)
    }

    /// Pages whose records go from before a record to behind it, and that do not have it.
    fn by_witnesses(&mut self, marks: &[Mark], gaps: &Gaps, compaction: Compaction) {
        let mut ends: HashMap<u32, Rev> = HashMap::new();
        let mut torn = HashSet::new();
        for mark in marks.iter().filter(|mark| is_on_page(mark)) {
            ends.insert(mark.page, mark.rev());
            if mark.has(Bit::Torn) || mark.has(Bit::Inline) {
                torn.insert(mark.page);
            }
        }
        let mut open: Vec<(Rev, u32)> = Vec::new();
        for copies in changes(marks) {
            let Some(rev) = copies.first().map(Mark::rev) else { continue };
            open.retain(|(end, _)| *end >= rev);
            let on_pages = || copies.iter().filter(|copy| is_on_page(copy));
            let has = |page: u32| on_pages().any(|copy| copy.page == page);
            if compaction.may_have_taken(rev) && gaps.at(rev).is_some() && open.iter().any(|(_, page)| !has(*page)) {
                self.taken_out.extend(copies.first().map(Mark::change));
            }
            for copy in on_pages().filter(|copy| !torn.contains(&copy.page)) {
                let is_new = open.iter().all(|(_, page)| *page != copy.page);
                if is_new && open.len() < MAX_WITNESSES {
                    open.push((ends.get(&copy.page).copied().unwrap_or_default(), copy.page));
                }
            }
        }
    }

    /// Records of keys that have a newer one at or before a compaction that was finished.
    fn by_newer_records(&mut self, marks: &[Mark], gaps: &Gaps, compaction: Compaction) {
        let Some(finished) = compaction.finished else { return };
        let mut newest: HashMap<u64, (u64, u32)> = HashMap::new();
        let compacted = || marks.iter().take_while(|mark| mark.main() <= finished);
        for mark in compacted().filter(|mark| is_on_page(mark)) {
            newest.insert(mark.key, mark.change());
        }
        for mark in compacted().filter(|mark| gaps.at(mark.rev()).is_some()) {
            let is_newest = newest.get(&mark.key) == Some(&mark.change());
            let stays = is_newest && (!mark.has(Bit::Tombstone) || mark.main() == finished);
            if !stays {
                self.taken_out.insert(mark.change());
            }
        }
    }
}

fn is_on_page(mark: &Mark) -> bool {
    !mark.has(Bit::Tail)
}
