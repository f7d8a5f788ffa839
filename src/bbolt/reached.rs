//! Which pages a tree has reached: what is not reached is free, what is reached twice is a fault.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::{Fault, FaultKind, Faults};

/// A set of page ids below the high-water mark that many readers may add to at once; and of them, those at which a page
/// of a tree begins, which are added by one reader at a time.
#[derive(Debug)]
pub struct Reached {
    words: Vec<AtomicU64>,
    begun: Vec<AtomicU64>,
}

impl Reached {
    /// An empty set over page ids 0 to `pages`, which the caller has bounded by the file's length.
    pub fn new(pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(0);
        let bits = || (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { words: bits(), begun: bits() }
    }

    /// Takes note that a tree leads to `page`. The second time it is a fault, and the page must not be followed again:
    /// trees that lead into themselves or into one another end here.
    pub fn begin(&self, page: u64) -> Result<(), Fault> {
        match bit_of(&self.begun, page) {
            Some((word, bit)) if word.fetch_or(bit, Ordering::Relaxed) & bit != 0 => {
                let detail = "is led to twice, by two branches or buckets, or out of itself; it is followed once";
                Err(Fault::page(page, FaultKind::ReachedTwice, detail))
            }
            // A page outside the set is no page; whoever reads it says so.
            _ => Ok(()),
        }
    }

    /// Whether a tree leads to `page`.
    pub fn has_begun(&self, page: u64) -> bool {
        bit_of(&self.begun, page).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Adds page `first` and the overflow pages behind it; each that was there already is a fault.
    ///
    /// The fault names the contested page and not its claimants, so that it reads the same whoever comes second.
    pub fn claim(&self, first: u64, overflow: u32, faults: &mut Faults) {
        for page in first..=first.saturating_add(u64::from(overflow)) {
            if !self.insert(page) {
                let detail = "belongs to two pages or trees at once";
                faults.push(Fault::page(page, FaultKind::ReachedTwice, detail));
            }
        }
    }

    /// Adds one page and says whether it was new; a page outside the set never is.
    pub fn insert(&self, page: u64) -> bool {
        bit_of(&self.words, page).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// Whether `page` was added.
    pub fn contains(&self, page: u64) -> bool {
        bit_of(&self.words, page).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// How many pages were added.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }
}

fn bit_of(words: &[AtomicU64], page: u64) -> Option<(&AtomicU64, u64)> {
    let index = usize::try_from(page / 64).ok()?;
    Some((words.get(index)?, 1 << (page % 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_followed_once() {
        let reached = Reached::new(100);
        assert!(reached.begin(7).is_ok() && reached.has_begun(7) && !reached.has_begun(8));
        assert_eq!(reached.begin(7).unwrap_err().kind, FaultKind::ReachedTwice);
        assert!(reached.begin(1 << 40).is_ok() && reached.begin(1 << 40).is_ok());
        assert_eq!(reached.count(), 0);
    }

    #[test]
    fn a_page_can_be_claimed_once() {
        let (reached, mut faults) = (Reached::new(100), Faults::new());
        reached.claim(3, 4, &mut faults);
        assert!(faults.is_empty());
        assert_eq!(reached.count(), 5);
        assert!(reached.contains(7) && !reached.contains(8));
        reached.claim(6, 3, &mut faults);
        assert_eq!(reached.count(), 7);
        let pages: Vec<_> = faults.into_sorted().into_iter().map(|fault| fault.page).collect();
        assert_eq!(pages, [Some(6), Some(7)]);
    }
}
