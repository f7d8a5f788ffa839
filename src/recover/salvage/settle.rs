//! Which of all copies make up the store: one of each revision, or none.
//!
//! * What the tree leads to is the store's.
//! * Records never change once they are written, so copies of one revision are alike. One that differs is a conflict: what
//!   the tree leads to is taken; otherwise what stands on a whole page at its own place; otherwise neither.
//! * What nothing leads to counts only where the tree has a gap, and there without more if it is newer than the last compaction.
//!   Older ones come from pages below a lost branch that nothing proves to have been freed ([`super::stale`]): those are
//!   doubtful, and taken where nobody knows of a compaction behind which they are, or where they are asked for.

use rayon::prelude::*;

use super::gaps::Gaps;
use super::mark::{Bit, Mark};
use super::rev::Rev;
use super::stale::Stale;

/// Conflicts, holes and lost keys that are named; of more only the number is told.
pub const NAMED: usize = 1000;

/// What is known of compactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// The revision of the last one; none where nothing tells for certain, 0 where there was none.
    pub revision: Option<u64>,
    /// The revision of one that was finished; there may have been later ones.
    pub finished: Option<u64>,
    /// The revision of the last one that the store notes, though a newer note may be lost.
    pub noted: Option<u64>,
}

impl Compaction {
    /// Whether a record is known to be no newer than one.
    pub fn is_behind(self, rev: Rev) -> bool {
        self.noted.is_some_and(|revision| rev.main() <= revision)
    }

    /// Whether a record can have been taken out by one.
    pub fn may_have_taken(self, rev: Rev) -> bool {
        self.revision.is_none_or(|revision| rev.main() <= revision)
    }
}

/// What else is to come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Include {
    /// What was compacted away, or may have been: that is what is doubtful, too.
    pub compacted: bool,
    /// What may have been compacted away, and of which nothing proves that it was.
    pub doubtful: bool,
    /// Records in bytes that are no page any more.
    pub fragments: bool,
    /// Nothing that is doubtful, not even where no compaction is known behind which it would be.
    pub only_certain: bool,
}

/// How many records there are of what kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Taken: the tree leads to them.
    pub reached: u64,
    /// Taken from leaf pages that nothing leads to, newer than the last compaction.
    pub unreached: u64,
    /// Taken likewise, but old enough to have been compacted away, though nothing proves that they were.
    pub doubtful: u64,
    /// Taken because what was compacted away was asked for.
    pub compacted_taken: u64,
    /// Taken from bytes that are no page any more.
    pub fragments_taken: u64,
    /// Left out: compacted away, or possibly so.
    pub compacted: u64,
    /// Left out: newer than the last compaction and not in the tree though it is whole there, so never committed.
    pub uncommitted: u64,
    /// Left out: doubtful, and only what is certain was asked for.
    pub doubtful_left: u64,
    /// Left out: only found in bytes that are no page any more.
    pub fragments: u64,
    /// Left out: copies differ, and nothing speaks for one of them.
    pub undecided: u64,
}

impl Counts {
    /// All that were taken.
    pub fn taken(&self) -> u64 {
        self.reached + self.unreached + self.doubtful + self.compacted_taken + self.fragments_taken
    }
}

/// Copies of one revision that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The revision.
    pub revision: (u64, u32),
    /// The page that the taken copy is on; none where neither was taken.
    pub taken: Option<u32>,
    /// Whether the tree leads to the taken one.
    pub by_tree: bool,
    /// The page of a copy that differs.
    pub other: u32,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Settled {
    /// One copy of each revision of the store, in order.
    pub taken: Vec<Mark>,
    /// How many.
    pub counts: Counts,
    /// The first conflicts.
    pub conflicts: Vec<Conflict>,
    /// How many.
    pub conflict_count: u64,
    /// The first of those that are doubtful.
    pub doubtful: Vec<Mark>,
    /// Records that were left out in a gap and whose keys may have been lost there.
    pub shadows: Vec<Mark>,
}

/// The copies of each change.
pub fn changes(marks: &[Mark]) -> impl Iterator<Item = &[Mark]> {
    marks.chunk_by(|one, next| one.change() == next.change())
}

/// Why a change is or is not of the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unreached,
    Doubtful,
    Compacted,
    Uncommitted,
}

/// Puts all copies in order. Where the tree was only `guessed` and something shows that it is an older one, it is not gone by,
/// and any record may have been lost: then it is forgotten, and that is said.
pub fn order(marks: &mut [Mark], guessed: bool, compaction: Compaction) -> bool {
    marks.par_sort_unstable_by_key(Mark::order);
    if !guessed {
        return true;
    }
    let newest = |of_tree: bool| {
        let on_pages = marks.iter().rev().filter(|mark| !mark.has(Bit::Tail));
        on_pages.filter(|mark| mark.has(Bit::Tree) == of_tree).map(Mark::rev).next()
    };
    let is_older =
        newest(false) > newest(true) || Stale::find(marks, &Gaps::everywhere(), compaction).contradicts_tree(marks);
    if is_older {
        marks.iter_mut().for_each(Mark::off_the_tree);
        marks.par_sort_unstable_by_key(Mark::order);
    }
    !is_older
}

/// Settles all copies, which come in order.
pub fn settle(marks: &[Mark], gaps: &Gaps, compaction: Compaction, include: Include) -> Settled {
    let stale = Stale::find(marks, gaps, compaction);
    let mut settled = Settled::default();
    for copies in changes(marks) {
        if copies.first().is_some_and(|copy| copy.has(Bit::Tree)) {
            settled.counts.reached += 1;
            settled.take(copies, copies);
            continue;
        }
        let verdict = verdict(copies, gaps, compaction, &stale);
        let vouched: Vec<Mark> = match verdict {
            Verdict::Doubtful => copies.iter().filter(|copy| stale.vouches(copy)).copied().collect(),
            _ => copies.to_vec(),
        };
        let rev = copies.first().map(Mark::rev).unwrap_or_default();
        let wanted = match verdict {
            Verdict::Unreached => true,
            // What is known to be no newer than a compaction comes back only where it is asked for.
            Verdict::Doubtful if include.only_certain => false,
            Verdict::Doubtful => include.compacted || include.doubtful || !compaction.is_behind(rev),
            Verdict::Compacted => include.compacted,
            Verdict::Uncommitted => false,
        };
        settled.unreached(copies, &vouched, (verdict, wanted), include, gaps);
    }
    settled.only_lost_keys();
    settled
}

fn verdict(copies: &[Mark], gaps: &Gaps, compaction: Compaction, stale: &Stale) -> Verdict {
    let rev = copies.first().map(Mark::rev).unwrap_or_default();
    let old = compaction.may_have_taken(rev);
    match gaps.at(rev) {
        None if old => Verdict::Compacted,
        None => Verdict::Uncommitted,
        Some(_) if !old => Verdict::Unreached,
        Some(gap) if gap.below_branch && copies.iter().any(|copy| stale.vouches(copy)) => Verdict::Doubtful,
        Some(_) => Verdict::Compacted,
    }
}

impl Settled {
    /// Decides about copies that nothing leads to.
    fn unreached(
        &mut self,
        copies: &[Mark],
        vouched: &[Mark],
        (verdict, wanted): (Verdict, bool),
        include: Include,
        gaps: &Gaps,
    ) {
        let on_page = vouched.iter().any(|copy| !copy.has(Bit::Tail));
        let counts = &mut self.counts;
        let counter = match verdict {
            Verdict::Uncommitted => &mut counts.uncommitted,
            _ if !on_page && !include.fragments => &mut counts.fragments,
            Verdict::Compacted if !wanted => &mut counts.compacted,
            Verdict::Doubtful if !wanted => &mut counts.doubtful_left,
            _ if disagree(vouched) => &mut counts.undecided,
            _ if !on_page => &mut counts.fragments_taken,
            Verdict::Unreached => &mut counts.unreached,
            Verdict::Doubtful => &mut counts.doubtful,
            Verdict::Compacted => &mut counts.compacted_taken,
        };
        *counter += 1;
        let taken = wanted && (on_page || include.fragments) && !disagree(vouched);
        if taken {
            if verdict == Verdict::Doubtful && self.doubtful.len() < NAMED {
                self.doubtful.extend(vouched.first());
            }
            return self.take(vouched, copies);
        }
        if wanted && verdict != Verdict::Compacted && disagree(vouched) {
            self.conflict(None, copies);
        }
        let in_gap = copies.first().filter(|copy| gaps.at(copy.rev()).is_some());
        if verdict == Verdict::Compacted && self.shadows.len() < 16 * NAMED {
            self.shadows.extend(in_gap);
        }
    }

    /// Takes the best copy, and says where another one differs.
    fn take(&mut self, from: &[Mark], copies: &[Mark]) {
        let Some(best) = from.first() else { return };
        self.taken.push(*best);
        if copies.iter().any(|copy| differs(best, copy)) {
            self.conflict(Some(best), copies);
        }
    }

    fn conflict(&mut self, taken: Option<&Mark>, copies: &[Mark]) {
        self.conflict_count += 1;
        let one = taken.or(copies.first());
        let other = one.and_then(|one| copies.iter().find(|copy| differs(one, copy)));
        if let (Some(one), Some(other)) = (one, other)
            && self.conflicts.len() < NAMED
        {
            let by_tree = one.has(Bit::Tree);
            let (revision, taken, other) = (one.change(), taken.map(|taken| taken.page), other.page);
            self.conflicts.push(Conflict { revision, taken, by_tree, other });
        }
    }

    /// Of a key that still has a record nothing says that it was lost.
    fn only_lost_keys(&mut self) {
        if self.shadows.is_empty() {
            return;
        }
        let mut keys: Vec<u64> = self.taken.iter().map(|mark| mark.key).collect();
        keys.par_sort_unstable();
        let mut seen = std::collections::HashSet::new();
        // The newest of a key tells most, and is the last.
        self.shadows.reverse();
        self.shadows.retain(|mark| keys.binary_search(&mark.key).is_err() && seen.insert(mark.key));
        self.shadows.truncate(NAMED);
    }
}

/// Whether two copies of one revision are not the same.
fn differs(one: &Mark, other: &Mark) -> bool {
    one.content != other.content || one.has(Bit::Tombstone) != other.has(Bit::Tombstone)
}

/// Whether of the best copies one differs from another.
fn disagree(copies: &[Mark]) -> bool {
    let Some(best) = copies.first() else { return false };
    copies.iter().take_while(|copy| copy.doubt() == best.doubt()).any(|copy| differs(best, copy))
}

/// Revisions that are missing, from the first to the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes {
    /// The first ones.
    pub ranges: Vec<(u64, u64)>,
    /// How many revisions are missing.
    pub total: u64,
    /// Revisions of which only a part is there.
    pub partial: u64,
}

/// Revisions count every change, so above the last compaction each must be there. Below it nothing tells.
pub fn holes(taken: &[Mark], compaction: Compaction) -> Holes {
    let mut holes = Holes::default();
    // The first change of a new store has revision 2.
    let mut expected = match compaction.noted {
        Some(revision) => revision.max(1) + 1,
        None => return holes,
    };
    let above = taken.partition_point(|mark| mark.main() < expected);
    for of_main in taken.get(above..).unwrap_or_default().chunk_by(|one, next| one.main() == next.main()) {
        let Some(first) = of_main.first() else { continue };
        if first.main() > expected {
            holes.total += first.main() - expected;
            if holes.ranges.len() < NAMED {
                holes.ranges.push((expected, first.main() - 1));
            }
        }
        let whole = (0..).zip(of_main).all(|(sub, mark)| mark.change().1 == sub);
        holes.partial += u64::from(!whole);
        expected = first.main() + 1;
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Lost, Tree};
    use super::*;

    const COMPACTED: Compaction = Compaction { revision: Some(100), finished: Some(100), noted: Some(100) };

    /// A copy of the record at a revision, of a key, on a page.
    fn copy(main: u64, key: u64, page: u32, bits: u8) -> Mark {
        Mark::new(Rev::new(main, 0, false), (key, main), (page, 0), bits)
    }

    fn gap(lower: u64, upper: u64, depth: usize) -> Gaps {
        let (lower, upper) = (Rev::new(lower, 0, false), Rev::new(upper, 0, false));
        let lost = vec![Lost { id: Some(7), lower, upper, depth }];
        let leaves = vec![super::super::tree::Leaf { position: 2, lower: Rev::FIRST, upper: lower }];
        Gaps::of(&Tree { leaves, lost, leaf_depth: 1, ..Tree::default() }, &[], None)
    }

    fn settled(mut marks: Vec<Mark>, gaps: &Gaps) -> Settled {
        assert!(order(&mut marks, false, COMPACTED));
        settle(&marks, gaps, COMPACTED, Include { doubtful: true, ..Include::default() })
    }

    fn mains(settled: &Settled) -> Vec<u64> {
        settled.taken.iter().map(Mark::main).collect()
    }

    #[test]
    fn below_a_lost_leaf_only_what_is_newer_than_the_compaction_comes_back() {
        let marks = vec![copy(90, 1, 9, 0), copy(110, 2, 9, 0), copy(10, 3, 4, Bit::Tree as u8), copy(250, 4, 9, 0)];
        let settled = settled(marks, &gap(50, 200, 1));
        assert_eq!(mains(&settled), [10, 110]);
        let Counts { reached, unreached, compacted, uncommitted, .. } = settled.counts;
        assert_eq!((reached, unreached, compacted, uncommitted), (1, 1, 1, 1));
    }

    #[test]
    fn what_is_known_to_be_behind_a_compaction_comes_back_only_when_asked_for() {
        let (marks, gaps) = ([60, 80, 120].map(|main| copy(main, main, 9, 0)), gap(50, 200, 0));
        let settled = |compaction, include| settle(&marks, &gaps, compaction, include);
        let plain = settled(COMPACTED, Include::default());
        assert_eq!((mains(&plain), plain.counts.doubtful_left), (vec![120], 2));
        for include in
            [Include { doubtful: true, ..Include::default() }, Include { compacted: true, ..Include::default() }]
        {
            let asked = settled(COMPACTED, include);
            assert_eq!((mains(&asked), asked.counts.doubtful), (vec![60, 80, 120], 2));
        }
        let unknown = settled(Compaction::default(), Include::default());
        assert_eq!((mains(&unknown), unknown.counts.doubtful), (vec![60, 80, 120], 3));
    }

    #[test]
    fn below_a_lost_branch_a_page_with_a_record_that_was_taken_out_does_not_speak() {
        // Page 9 has 60, of whose key 80 is newer: it was freed. Page 11 has nothing that was taken out.
        let marks = vec![copy(60, 1, 9, 0), copy(62, 2, 9, 0), copy(80, 1, 11, 0), copy(82, 3, 11, 0)];
        let settled = settled(marks, &gap(50, 200, 0));
        assert_eq!((mains(&settled), settled.counts.doubtful), (vec![80, 82], 2));
        assert_eq!(settled.shadows.iter().map(Mark::main).collect::<Vec<_>>(), [62]);
    }

    #[test]
    fn a_page_that_goes_around_a_record_proves_that_it_was_taken_out() {
        let old = [copy(60, 1, 9, 0), copy(62, 2, 9, 0), copy(64, 3, 9, 0)];
        let new = [copy(60, 1, 11, 0), copy(64, 3, 11, 0)];
        let settled = settled([&old[..], &new].concat(), &gap(50, 200, 0));
        assert_eq!(mains(&settled), [60, 64]);
        let torn = new.map(|mark| copy(mark.main(), mark.key, 11, Bit::Torn as u8));
        let settled = super::tests::settled([&old[..], &torn].concat(), &gap(50, 200, 0));
        assert_eq!(mains(&settled), [60, 62, 64], "a page of which a part is lost proves nothing");
    }

    #[test]
    fn a_tree_that_was_guessed_is_not_gone_by_where_something_contradicts_it() {
        let tree = Bit::Tree as u8;
        let of_tree = [copy(60, 1, 4, tree), copy(62, 2, 4, tree), copy(64, 3, 4, tree)];
        let other = [copy(60, 1, 11, 0), copy(64, 3, 11, 0)];
        let mut marks = [&of_tree[..], &other].concat();
        assert!(!order(&mut marks, true, COMPACTED));
        assert!(marks.iter().all(|mark| !mark.has(Bit::Tree)));
        let mut marks = of_tree.to_vec();
        assert!(order(&mut marks, true, COMPACTED));
        marks.push(copy(70, 4, 12, 0));
        assert!(!order(&mut marks, true, COMPACTED), "there are newer records");
    }

    #[test]
    fn copies_that_differ_are_settled_by_their_places_or_not_at_all() {
        let other = |page, bits| Mark::new(Rev::new(150, 0, false), (1, 999), (page, 0), bits);
        let gaps = gap(50, 200, 1);
        let displaced = settled(vec![copy(150, 1, 9, 0), other(10, Bit::Displaced as u8)], &gaps);
        assert_eq!((displaced.taken.len(), displaced.taken[0].page, displaced.conflict_count), (1, 9, 1));
        let neither = settled(vec![copy(150, 1, 9, 0), other(10, 0)], &gaps);
        assert_eq!((neither.taken.len(), neither.counts.undecided, neither.conflict_count), (0, 1, 1));
        let by_tree = settled(vec![copy(150, 1, 9, 0), other(10, Bit::Tree as u8)], &gaps);
        assert_eq!((by_tree.taken[0].page, by_tree.conflicts[0].by_tree), (10, true));
    }

    #[test]
    fn every_revision_above_the_compaction_that_is_not_there_is_missing() {
        let marks: Vec<Mark> = [5, 99, 101, 102, 105, 106, 110].map(|main| copy(main, main, 4, 0)).into();
        let found = holes(&marks, COMPACTED);
        assert_eq!((found.ranges, found.total, found.partial), (vec![(103, 104), (107, 109)], 5, 0));
        assert_eq!(holes(&marks, Compaction::default()), Holes::default());
        let never = Compaction { noted: Some(0), ..Compaction::default() };
        assert_eq!(holes(&marks, never).ranges.first(), Some(&(2, 4)));
        let second = Mark::new(Rev::new(101, 1, false), (1, 1), (4, 0), 0);
        assert_eq!(holes(&[second], COMPACTED).partial, 1);
    }
}
