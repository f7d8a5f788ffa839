//! Pairs of a digest and eight bytes more, which workers gather and which are brought together by digest at the end.
//!
//! A pair takes 16 bytes. The digest has only 64 bits, so whoever finds two of them equal looks at the values themselves; it
//! must be made under a key drawn anew for each run, so that nobody can prepare a store full of false alarms.

use rayon::prelude::*;

/// Pairs are sorted in so many partitions, so that sorting stays in the processor's cache.
const PARTITIONS: usize = 64;
const PARTITION_BITS: u32 = 6;

/// Pairs per allocation. Growing in blocks means that no doubling ever holds twice the memory.
const BLOCK: usize = 1024;

/// A digest, and what is to be remembered with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The digest.
    pub digest: u64,
    /// Whatever the reader chose.
    pub note: u64,
}

/// The pairs of one worker. An empty one takes no memory.
#[derive(Debug, Default)]
pub struct Pile {
    partitions: Vec<Vec<Vec<Pair>>>,
}

impl Pile {
    /// Adds a pair.
    pub fn push(&mut self, digest: u64, note: u64) {
        if self.partitions.is_empty() {
            self.partitions.resize_with(PARTITIONS, Vec::new);
        }
        let Some(blocks) = self.partitions.get_mut((digest >> (64 - PARTITION_BITS)) as usize) else { return };
        match blocks.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(Pair { digest, note }),
            _ => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(Pair { digest, note });
                blocks.push(block);
            }
        }
    }
}

/// Puts the piles together and gives all pairs of a digest, the smallest note first, to `visit`.
///
/// Partitions are sorted in parallel, each into an accumulator of its own.
pub fn gather<A: Send>(piles: Vec<Pile>, new: impl Fn() -> A + Sync, visit: impl Fn(&mut A, &[Pair]) + Sync) -> Vec<A> {
    let mut partitions: Vec<Vec<Vec<Pair>>> = Vec::new();
    partitions.resize_with(PARTITIONS, Vec::new);
    for pile in piles {
        for (all, own) in partitions.iter_mut().zip(pile.partitions) {
            all.extend(own);
        }
    }
    let gather_one = |blocks: Vec<Vec<Pair>>| {
        let mut pairs = blocks.concat();
        drop(blocks);
        pairs.sort_unstable();
        let mut gathered = new();
        pairs.chunk_by(|one, next| one.digest == next.digest).for_each(|pairs| visit(&mut gathered, pairs));
        gathered
    };
    partitions.into_par_iter().filter(|blocks| !blocks.is_empty()).map(gather_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_all_workers_come_together_by_digest() {
        let mut piles = [Pile::default(), Pile::default()];
        for note in (0..5000_u64).rev() {
            piles[note as usize % 2].push((note % 9).wrapping_mul(0x9e37_79b9_7f4a_7c15), note);
        }
        let groups = gather(piles.into(), Vec::new, |groups, pairs| groups.push(pairs.to_vec()));
        let groups: Vec<_> = groups.into_iter().flatten().collect();
        assert_eq!(groups.len(), 9);
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 5000);
        for group in groups {
            assert!(group.is_sorted());
            assert!(group.iter().all(|pair| pair.note % 9 == group[0].note % 9));
        }
    }
}
