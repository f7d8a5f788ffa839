//! What can be wrong with a file, and where.

use std::collections::BinaryHeap;
use std::fmt;

/// A place in the file at which an invariant of the format does not hold.
///
/// Faults order by place, those of the file as a whole first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The page on which it was noticed; none where the file as a whole is meant.
    pub page: Option<u64>,
    /// The byte within that page, where one byte can be named.
    pub offset: Option<u64>,
    /// Which invariant.
    pub kind: FaultKind,
    /// One sentence for a person.
    pub detail: String,
}

impl Fault {
    /// A fault of the file as a whole.
    pub fn file(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { page: None, offset: None, kind, detail: detail.into() }
    }

    /// A fault of a page.
    pub fn page(page: u64, kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { page: Some(page), offset: None, kind, detail: detail.into() }
    }

    /// The same fault with the byte within the page at which it was noticed.
    pub fn at(mut self, offset: usize) -> Self {
        self.offset = Some(offset as u64);
        self
    }
}

/// The fault as one line: place, then the sentence.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.page, self.offset) {
            (Some(page), Some(offset)) => write!(f, "page {page}, byte {offset}: {}", self.detail),
            (Some(page), None) => write!(f, "page {page}: {}", self.detail),
            _ => f.write_str(&self.detail),
        }
    }
}

/// The invariants, each with the stable word that reports use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// A meta page's header or record does not hold.
    Meta,
    /// The file is shorter than its high-water mark says.
    Truncated,
    /// The operating system did not give the bytes.
    Unreadable,
    /// A page id, or the end of its overflow, lies outside the pages in use.
    OutOfBounds,
    /// A page says that it is another page.
    WrongId,
    /// A page is not of the kind that its place demands.
    WrongType,
    /// A page belongs to two places at once, or a tree leads back into itself.
    ReachedTwice,
    /// An element points outside its page.
    Element,
    /// Keys are not strictly ascending, or lie outside their branch's bounds.
    KeyOrder,
    /// A bucket's header or its inline page does not hold.
    Bucket,
    /// A tree or a nest of buckets is deeper than any real one.
    Depth,
    /// The freelist page, where the file has one, does not hold.
    Freelist,
    /// What a pair holds is not what the layer above puts there; the word is that layer's.
    Content(&'static str),
}

impl FaultKind {
    /// All kinds of this layer, in the order of the help text.
    pub const ALL: [Self; 12] = [
        Self::Meta,
        Self::Truncated,
        Self::Unreadable,
        Self::OutOfBounds,
        Self::WrongId,
        Self::WrongType,
        Self::ReachedTwice,
        Self::Element,
        Self::KeyOrder,
        Self::Bucket,
        Self::Depth,
        Self::Freelist,
    ];

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Truncated => "truncated",
            Self::Unreadable => "unreadable",
            Self::OutOfBounds => "out-of-bounds",
            Self::WrongId => "wrong-id",
            Self::WrongType => "wrong-type",
            Self::ReachedTwice => "reached-twice",
            Self::Element => "element",
            Self::KeyOrder => "key-order",
            Self::Bucket => "bucket",
            Self::Depth => "depth",
            Self::Freelist => "freelist",
            Self::Content(word) => word,
        }
    }
}

/// How many faults are kept; of more only the number is.
const KEPT_FAULTS: usize = 2048;

/// Faults gathered in any order by any number of gatherers: the first ones by place, and how many there were.
///
/// What is kept does not depend on the order in which they were noticed, and a file of nothing but faults
/// cannot fill the memory.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    kept: BinaryHeap<Fault>,
    total: u64,
}

impl Faults {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, fault: Fault) {
        self.total += 1;
        self.keep(fault);
    }

    /// Adds all of another gatherer's.
    pub fn append(&mut self, other: Self) {
        self.total += other.total;
        other.kept.into_iter().for_each(|fault| self.keep(fault));
    }

    /// Keeps the value of a success, and the fault of a failure.
    pub fn note<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.push(fault)).ok()
    }

    /// How many were noticed, those not kept included.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether nothing was wrong.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The kept ones, in the order of their places.
    pub fn into_sorted(self) -> Vec<Fault> {
        self.kept.into_sorted_vec()
    }

    fn keep(&mut self, fault: Fault) {
        self.kept.push(fault);
        if self.kept.len() > KEPT_FAULTS {
            self.kept.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_faults_by_place_are_kept_whatever_the_order() {
        let fault = |page| Fault::page(page, FaultKind::Element, "x");
        let (mut forward, mut backward) = (Faults::new(), Faults::new());
        for page in 0..3000 {
            forward.push(fault(page));
            backward.push(fault(2999 - page));
        }
        assert_eq!(forward.total(), 3000);
        let kept = forward.into_sorted();
        assert_eq!(kept, backward.into_sorted());
        assert_eq!((kept.len(), kept.first().map(|fault| fault.page)), (KEPT_FAULTS, Some(Some(0))));
    }
}
