//! A revision, and the key under which the `key` bucket keeps it.
//!
//! Upstream: `etcd-io/etcd` `server/storage/mvcc/revision.go`.
//!
//! | offset | bytes | field |
//! |--:|--:|---|
//! | 0 | 8 | main revision, big-endian, never negative |
//! | 8 | 1 | `_` |
//! | 9 | 8 | sub revision, big-endian, never negative |
//! | 17 | 1 | `t` for a deletion; absent otherwise |

/// Bytes of a revision key that is no tombstone.
pub const REVISION_BYTES: usize = 17;

const SEPARATOR: u8 = b'_';
const TOMBSTONE: u8 = b't';

/// The number of a transaction (`main`) and of the change within it (`sub`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision {
    /// Counts the store's transactions; Kubernetes calls it the resource version.
    pub main: i64,
    /// Counts the changes of one transaction, from 0.
    pub sub: i64,
}

/// The key of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionKey {
    /// When the record was written.
    pub revision: Revision,
    /// Whether the record says that its key was deleted.
    pub tombstone: bool,
}

impl RevisionKey {
    /// Reads a key of the `key` bucket; none if it is no revision.
    #[inline]
    pub fn decode(key: &[u8]) -> Option<Self> {
        let (main, rest) = key.split_first_chunk()?;
        let (sub, mark) = rest.strip_prefix(&[SEPARATOR])?.split_first_chunk()?;
        let (main, sub) = (i64::from_be_bytes(*main), i64::from_be_bytes(*sub));
        let tombstone = !mark.is_empty();
        let holds = main >= 0 && sub >= 0 && (!tombstone || mark == [TOMBSTONE]);
        holds.then_some(Self { revision: Revision { main, sub }, tombstone })
    }

    /// The key's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (key, bytes) = self.bytes();
        key.get(..bytes).unwrap_or_default().to_vec()
    }

    /// The key's bytes without an allocation, and how many of them there are.
    pub fn bytes(&self) -> ([u8; REVISION_BYTES + 1], usize) {
        let mut key = [0; REVISION_BYTES + 1];
        let Revision { main, sub } = self.revision;
        // Two numbers instead of eighteen bytes: every record that is written passes here.
        let head = (main as u64 as u128) << 64 | u128::from(SEPARATOR) << 56 | (sub as u64 >> 8) as u128;
        if let Some((place, rest)) = key.split_first_chunk_mut() {
            *place = head.to_be_bytes();
            rest.copy_from_slice(&[sub as u8, TOMBSTONE]);
        }
        (key, if self.tombstone { REVISION_BYTES + 1 } else { REVISION_BYTES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_key_reads_back_as_it_was_written() {
        for tombstone in [false, true] {
            let key = RevisionKey { revision: Revision { main: 0x0102_0304, sub: 7 }, tombstone };
            assert_eq!(RevisionKey::decode(&key.encode()), Some(key));
            assert_eq!(key.encode().len(), REVISION_BYTES + usize::from(tombstone));
        }
    }

    #[test]
    fn what_etcd_would_panic_on_is_no_revision() {
        let good = RevisionKey { revision: Revision { main: 5, sub: 0 }, tombstone: false }.encode();
        let mut negative = good.clone();
        negative[0] = 0x80;
        let mut separator = good.clone();
        separator[8] = b'-';
        let mut mark = good.clone();
        mark.push(b'x');
        let mut long = good.clone();
        long.extend(b"tt");
        for bad in [&good[..16], &negative, &separator, &mark, &long, b"alarm", b""] {
            assert_eq!(RevisionKey::decode(bad), None, "{bad:?}");
        }
    }
}
