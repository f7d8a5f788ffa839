//! A record's key as one number that orders as the keys do.

use crate::etcd::{Revision, RevisionKey};

/// No store counts this far; what claims to is noise.
const MAX_MAIN: i64 = 1 << 48;
const MAX_SUB: i64 = 1 << 31;

/// Main revision, sub revision, and whether it is a tombstone, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rev(u128);

impl Rev {
    /// Before all others.
    pub const FIRST: Self = Self(0);
    /// Behind all others.
    pub const END: Self = Self(u128::MAX);

    /// None for a revision that no store can have.
    pub fn of(key: &RevisionKey) -> Option<Self> {
        let Revision { main, sub } = key.revision;
        let holds = (0..MAX_MAIN).contains(&main) && (0..MAX_SUB).contains(&sub);
        holds.then(|| Self((main as u128) << 64 | (sub as u128) << 1 | u128::from(key.tombstone)))
    }

    /// One by its parts.
    pub fn new(main: u64, sub: u32, tombstone: bool) -> Self {
        Self(u128::from(main) << 64 | u128::from(sub) << 1 | u128::from(tombstone))
    }

    /// The next one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before it.
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The number of the transaction.
    pub fn main(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The number within the transaction.
    pub fn sub(self) -> u32 {
        (self.0 as u64 >> 1) as u32
    }

    /// Whether it is a deletion.
    pub fn is_tombstone(self) -> bool {
        self.0 & 1 == 1
    }

    /// The key.
    pub fn key(self) -> RevisionKey {
        let revision = Revision { main: self.main() as i64, sub: i64::from(self.sub()) };
        RevisionKey { revision, tombstone: self.is_tombstone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_order_as_their_keys_and_read_back() {
        let mut last: Option<(Vec<u8>, Rev)> = None;
        for (main, sub) in [(0, 0), (1, 0), (1, 1), (2, 0), (256, 3), (1 << 40, 0), (MAX_MAIN - 1, MAX_SUB - 1)] {
            for tombstone in [false, true] {
                let key = RevisionKey { revision: Revision { main, sub }, tombstone };
                let rev = Rev::of(&key).unwrap();
                assert_eq!(rev.key(), key);
                assert!(last.as_ref().is_none_or(|(bytes, before)| *bytes < key.encode() && *before < rev));
                last = Some((key.encode(), rev));
            }
        }
        assert!(last.is_some_and(|(_, rev)| rev < Rev::END && rev > Rev::FIRST));
    }

    #[test]
    fn what_no_store_counts_to_is_none() {
        for (main, sub) in [(MAX_MAIN, 0), (1, MAX_SUB), (i64::MAX, 0)] {
            assert_eq!(Rev::of(&RevisionKey { revision: Revision { main, sub }, tombstone: false }), None);
        }
    }
}
