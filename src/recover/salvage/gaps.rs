//! Between which revisions the tree leads to nothing any more.
//!
//! Where it does lead, it is the store: a record that it does not have was compacted away, or never committed. Only within
//! a gap may a record that nothing leads to be one that was lost.

use super::rev::Rev;
use super::tree::{Lost, Tree};

/// A gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Nothing older belongs to it.
    pub lower: Rev,
    /// Everything that belongs to it is older.
    pub upper: Rev,
    /// Whether a branch was lost, so that leaf pages below it may still be there.
    pub below_branch: bool,
}

/// All of them, in order, none touching another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    /// What a tree lost, with its `broken` leaves; `open_from` is where records may stand that were written after the tree.
    pub fn of(tree: &Tree, broken: &[usize], open_from: Option<Rev>) -> Self {
        let lost = tree.lost.iter().map(|lost| Gap {
            lower: lost.lower,
            upper: lost.upper,
            below_branch: is_branch(tree, lost),
        });
        let broken = broken.iter().filter_map(|number| tree.leaves.get(*number)).map(|leaf| Gap {
            lower: leaf.lower,
            upper: leaf.upper,
            below_branch: false,
        });
        let open = open_from.map(|lower| Gap { lower, upper: Rev::END, below_branch: true });
        let mut all: Vec<Gap> = lost.chain(broken).chain(open).filter(|gap| gap.lower < gap.upper).collect();
        all.sort_by_key(|gap| (gap.lower, gap.upper));
        let mut gaps: Vec<Gap> = Vec::new();
        for gap in all {
            match gaps.last_mut().filter(|last| gap.lower < last.upper) {
                // Two that overlap are one, of the kind that more may have survived in.
                Some(last) => {
                    last.upper = last.upper.max(gap.upper);
                    last.below_branch |= gap.below_branch;
                }
                None => gaps.push(gap),
            }
        }
        Self(gaps)
    }

    /// Everything.
    pub fn everywhere() -> Self {
        Self(vec![Gap { lower: Rev::FIRST, upper: Rev::END, below_branch: true }])
    }

    /// The gap to which a revision belongs.
    pub fn at(&self, rev: Rev) -> Option<&Gap> {
        let behind = self.0.partition_point(|gap| gap.lower <= rev);
        self.0.get(behind.checked_sub(1)?).filter(|gap| rev < gap.upper)
    }

    /// All of them.
    pub fn all(&self) -> &[Gap] {
        &self.0
    }

    /// Whether leaves may have survived below a branch that was lost.
    pub fn has_branches(&self) -> bool {
        self.0.iter().any(|gap| gap.below_branch)
    }
}

/// Whether a page that was lost was a branch. Leaves are all as deep as those that are left; where none is, nothing tells.
pub fn is_branch(tree: &Tree, lost: &Lost) -> bool {
    tree.leaves.is_empty() || lost.depth < tree.leaf_depth
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rev(main: u64) -> Rev {
        Rev::new(main, 0, false)
    }

    fn lost(lower: u64, upper: u64, depth: usize) -> Lost {
        Lost { id: Some(9), lower: rev(lower), upper: rev(upper), depth }
    }

    #[test]
    fn a_revision_is_in_the_gap_that_its_page_left() {
        let leaf = |lower, upper| super::super::tree::Leaf { position: 3, lower: rev(lower), upper: rev(upper) };
        let tree = Tree {
            leaves: vec![leaf(0, 10), leaf(30, 40)],
            lost: vec![lost(10, 20, 2), lost(20, 30, 1)],
            leaf_depth: 2,
            ..Tree::default()
        };
        let gaps = Gaps::of(&tree, &[1], Some(rev(50)));
        let at = |main| gaps.at(rev(main)).map(|gap| gap.below_branch);
        assert_eq!(
            [at(9), at(10), at(19), at(20), at(29), at(30), at(39), at(40), at(49), at(50), at(1 << 40)],
            [
                None,
                Some(false),
                Some(false),
                Some(true),
                Some(true),
                Some(false),
                Some(false),
                None,
                None,
                Some(true),
                Some(true)
            ]
        );
        assert!(Gaps::everywhere().at(Rev::FIRST).is_some() && gaps.has_branches());
    }

    #[test]
    fn gaps_that_overlap_are_one() {
        let tree = Tree { lost: vec![lost(10, 20, 0), lost(15, 18, 0), lost(19, 25, 0)], ..Tree::default() };
        let gaps = Gaps::of(&tree, &[], None);
        assert_eq!(gaps.all(), [Gap { lower: rev(10), upper: rev(25), below_branch: true }]);
    }
}
