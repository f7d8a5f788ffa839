//! What is kept of every copy of a record that stands anywhere in the file: 40 bytes, and where to read it again.

use super::rev::Rev;

/// One copy of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    main: u64,
    /// A digest of the user's key.
    pub key: u64,
    /// A digest of the record's bytes.
    pub content: u64,
    sub: u32,
    /// The position of the page on which it begins; for one that was found outside of pages, where it begins.
    pub page: u32,
    /// The element on that page; for one that was found outside of pages, the byte.
    pub index: u16,
    bits: u8,
}

/// What is known of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bit {
    /// The tree leads to it.
    Tree = 1,
    /// It is a deletion.
    Tombstone = 2,
    /// It stands in an inline bucket.
    Inline = 4,
    /// It hangs on a lease that the store does not have.
    Leaseless = 8,
    /// Its page does not stand where it says.
    Displaced = 16,
    /// Its page was used again in part, or not all of it holds.
    Torn = 32,
    /// It stands where no page is any more, or behind what a page uses.
    Tail = 64,
}

impl Mark {
    /// A copy that begins at an element of a page.
    pub fn new(rev: Rev, (key, content): (u64, u64), (page, index): (u32, u16), bits: u8) -> Self {
        let tombstone = if rev.is_tombstone() { Bit::Tombstone as u8 } else { 0 };
        Self { main: rev.main(), sub: rev.sub(), key, content, page, index, bits: bits | tombstone }
    }

    /// Its revision.
    pub fn rev(&self) -> Rev {
        Rev::new(self.main, self.sub, self.has(Bit::Tombstone))
    }

    /// The number of its transaction.
    pub fn main(&self) -> u64 {
        self.main
    }

    /// Whether something is known of it.
    pub fn has(&self, bit: Bit) -> bool {
        self.bits & bit as u8 != 0
    }

    /// Adds what is known only once its whole page was seen.
    pub fn add(&mut self, bits: u8) {
        self.bits |= bits;
    }

    /// Takes back that the tree leads to it, since the tree is none to go by.
    pub fn off_the_tree(&mut self) {
        self.bits &= !(Bit::Tree as u8);
    }

    /// The number of its transaction and that within it.
    pub fn change(&self) -> (u64, u32) {
        (self.main, self.sub)
    }

    /// How well its place speaks for it; less is better.
    pub fn doubt(&self) -> u8 {
        let weights = [(Bit::Tree, 0), (Bit::Displaced, 1), (Bit::Torn, 2), (Bit::Tail, 4)];
        let weight: u8 = weights.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, weight)| weight).sum();
        if self.has(Bit::Tree) { 0 } else { weight + 1 }
    }

    /// In which order copies are settled: by revision, the best of each first.
    pub fn order(&self) -> (u64, u32, u8, u32, u16) {
        (self.main, self.sub, self.doubt(), self.page, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_takes_40_bytes_and_keeps_its_revision() {
        assert_eq!(size_of::<Mark>(), 40);
        let rev = Rev::new(1 << 47, 77, true);
        let mark = Mark::new(rev, (1, 2), (3, 4), Bit::Inline as u8);
        assert_eq!((mark.rev(), mark.main(), mark.change()), (rev, 1 << 47, (1 << 47, 77)));
        assert!(mark.has(Bit::Tombstone) && mark.has(Bit::Inline) && !mark.has(Bit::Tree));
    }

    #[test]
    fn what_the_tree_leads_to_comes_first() {
        let rev = Rev::new(9, 0, false);
        let with = |bits: u8| Mark::new(rev, (1, 2), (3, 4), bits);
        let mut marks =
            [with(Bit::Tail as u8), with(Bit::Torn as u8), with(0), with(Bit::Displaced as u8), with(Bit::Tree as u8)];
        marks.sort_by_key(Mark::order);
        let bits: Vec<u8> = marks.iter().map(|mark| mark.bits).collect();
        assert_eq!(bits, [1, 0, 16, 32, 64]);
    }
}
