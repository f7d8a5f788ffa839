//! The first keys of a tree's pages, in little room.
//!
//! Neighbours are alike at both ends: etcd's revisions ascend by little and mostly end with zeros. So of each key only its middle is
//! kept, and how much of both ends it has in common with the first key of its block of sixteen. A revision of 17 bytes
//! takes some seven.
//!
//! It does not know what the keys mean, nor whether they ascend.

use super::page::MAX_KEY_BYTES;

/// Keys that are told by the same first one.
const BLOCK_KEYS: usize = 16;

/// Many keys. An index into them is a key's number.
#[derive(Debug, Default)]
pub(super) struct Keys {
    parts: Vec<Part>,
    /// What is kept of the keys, one behind the other: all of the first one of each block.
    bytes: Vec<u8>,
    /// Where the blocks begin within `bytes`.
    blocks: Vec<u32>,
}

/// What a key consists of.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// So many bytes at its front are those of the block's first key.
    front: u8,
    /// So many bytes at its end are.
    back: u8,
    /// So many bytes of its own stand between them.
    own: u16,
}

impl Keys {
    /// Adds a key; none if it is longer than a page's key may be, or there are too many.
    pub fn push(&mut self, key: &[u8]) -> Option<()> {
        if key.len() > MAX_KEY_BYTES {
            return None;
        }
        if self.parts.len().is_multiple_of(BLOCK_KEYS) {
            self.blocks.push(u32::try_from(self.bytes.len()).ok()?);
            self.parts.push(Part { front: 0, back: 0, own: u16::try_from(key.len()).ok()? });
            self.bytes.extend_from_slice(key);
            return Some(());
        }
        let first = self.first_of_block(self.parts.len())?;
        let front = alike(first.iter().zip(key));
        let (own_first, own) = (first.get(front..)?, key.get(front..)?);
        let back = alike(own_first.iter().rev().zip(own.iter().rev()));
        let own = own.get(..own.len() - back)?;
        let part =
            Part { front: u8::try_from(front).ok()?, back: u8::try_from(back).ok()?, own: own.len().try_into().ok()? };
        self.bytes.extend_from_slice(own);
        self.parts.push(part);
        Some(())
    }

    /// The key with this number, put together in `room`.
    pub fn get<'r>(&self, number: usize, room: &'r mut Vec<u8>) -> Option<&'r [u8]> {
        let part = self.parts.get(number)?;
        let (block, start) = self.block_of(number)?;
        let before = self.parts.get(block..number)?.iter().map(|part| usize::from(part.own)).sum::<usize>();
        let own = self.bytes.get(start + before..)?.get(..usize::from(part.own))?;
        let first = self.first_of_block(number)?;
        let back = first.len().checked_sub(usize::from(part.back))?;
        room.clear();
        room.extend_from_slice(first.get(..usize::from(part.front))?);
        room.extend_from_slice(own);
        room.extend_from_slice(first.get(back..)?);
        Some(room)
    }

    /// Bytes of the key with this number.
    pub fn bytes_of(&self, number: usize) -> Option<usize> {
        let part = self.parts.get(number)?;
        Some(usize::from(part.front) + usize::from(part.own) + usize::from(part.back))
    }

    /// The number of the first key of a key's block, and where the block begins.
    fn block_of(&self, number: usize) -> Option<(usize, usize)> {
        let block = number / BLOCK_KEYS;
        Some((block * BLOCK_KEYS, *self.blocks.get(block)? as usize))
    }

    fn first_of_block(&self, number: usize) -> Option<&[u8]> {
        let (block, start) = self.block_of(number)?;
        self.bytes.get(start..)?.get(..usize::from(self.parts.get(block)?.own))
    }
}

/// How many pairs are alike before the first that is not; no more than a part can tell.
fn alike<'k>(pairs: impl Iterator<Item = (&'k u8, &'k u8)>) -> usize {
    pairs.take(usize::from(u8::MAX)).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_holds(keys: &[Vec<u8>]) -> Keys {
        let (mut held, mut room) = (Keys::default(), Vec::new());
        keys.iter().for_each(|key| held.push(key).unwrap());
        assert_eq!(held.parts.len(), keys.len());
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(held.get(number, &mut room), Some(key.as_slice()));
            assert_eq!(held.bytes_of(number), Some(key.len()));
        }
        assert_eq!((held.get(keys.len(), &mut room), held.bytes_of(keys.len())), (None, None));
        held
    }

    proptest! {
        #[test]
        fn keys_come_back(keys in prop::collection::vec(prop::collection::vec(0_u8..3, 0..20), 0..80)) {
            assert_holds(&keys);
        }

        #[test]
        fn keys_that_are_alike_for_long_come_back(
            keys in prop::collection::vec((0_usize..700, any::<u8>(), 0_usize..700), 0..40),
        ) {
            let long = |(front, middle, back)| [vec![b'a'; front], vec![middle], vec![b'z'; back]].concat();
            assert_holds(&keys.into_iter().map(long).collect::<Vec<_>>());
        }
    }

    #[test]
    fn revisions_take_little_room() {
        let revision = |main: u64| [&(main * 5).to_be_bytes()[..], b"_", &[0; 8]].concat();
        let keys = assert_holds(&(1 << 40..(1 << 40) + 1600).map(revision).collect::<Vec<_>>());
        let bytes = keys.bytes.len() + 4 * keys.blocks.len() + size_of::<Part>() * keys.parts.len();
        assert!(bytes < 8 * 1600, "{bytes}");
    }

    #[test]
    fn a_key_that_no_page_may_have_is_refused() {
        let mut keys = Keys::default();
        assert_eq!(keys.push(&vec![0; MAX_KEY_BYTES + 1]), None);
        assert!(keys.parts.is_empty());
        assert_holds(&[vec![0; MAX_KEY_BYTES], vec![0; MAX_KEY_BYTES - 1]]);
    }
}
