//! Records in bytes of which no page is left, as where its header was overwritten.
//!
//! On a page the records stand one behind the other, each key with its value. So a record counts only if the next one begins
//! where it ends, or nothing but zeros follows: where the bytes in its middle were overwritten, its length leads elsewhere.

use crate::etcd::revision::REVISION_BYTES;
use crate::etcd::{KeyValue, RevisionKey};

use super::rev::Rev;

/// Where the separator stands within a revision.
const SEPARATOR_AT: usize = 8;

/// Bytes in whose units the place of a record outside of pages is kept.
const UNIT: u64 = 1 << 16;

/// Gives every put in `bytes` that is followed as on a page to `visit`: where its value starts, and its bytes.
pub fn records<'b>(bytes: &'b [u8], visit: &mut dyn FnMut(usize, Rev, KeyValue<'b>, &'b [u8])) {
    let mut from = SEPARATOR_AT;
    while let Some(found) = bytes.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'_')) {
        let separator = from + found;
        from = separator + 1;
        let at = separator - SEPARATOR_AT + REVISION_BYTES;
        let Some(rev) = bytes.get(separator - SEPARATOR_AT..at).and_then(revision) else { continue };
        let Some(rest) = bytes.get(at..) else { return };
        let Some((kv, length)) = KeyValue::carve(rest) else { continue };
        let Some((stored, behind)) = rest.split_at_checked(length) else { continue };
        if kv.mod_revision == rev.main() as i64 && follows(behind) {
            visit(at, rev, kv, stored);
            from = at + length + SEPARATOR_AT;
        }
    }
}

fn revision(key: &[u8]) -> Option<Rev> {
    RevisionKey::decode(key).and_then(|key| Rev::of(&key)).filter(|rev| !rev.is_tombstone() && rev.main() > 0)
}

/// Whether these bytes may follow a record.
fn follows(behind: &[u8]) -> bool {
    let next = behind.get(..REVISION_BYTES).and_then(revision).is_some();
    next || behind.iter().all(|byte| *byte == 0)
}

/// The place of a record in the two numbers that a mark has; none beyond 256 TiB.
pub fn place(start: u64) -> Option<(u32, u16)> {
    Some((u32::try_from(start / UNIT).ok()?, (start % UNIT) as u16))
}

/// Where a record stands by these two numbers.
pub fn start(page: u32, index: u16) -> u64 {
    u64::from(page) * UNIT + u64::from(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Revision;

    fn record(main: i64) -> Vec<u8> {
        let mut bytes = RevisionKey { revision: Revision { main, sub: 0 }, tombstone: false }.encode();
        let kv =
            KeyValue { key: b"/a", create_revision: main, mod_revision: main, version: 1, value: b"v_v", lease: 0 };
        bytes.extend(kv.encode());
        bytes
    }

    fn found(bytes: &[u8]) -> Vec<u64> {
        let mut found = Vec::new();
        records(bytes, &mut |at, rev, kv, stored| {
            assert_eq!((&bytes[at..at + stored.len()], kv.key), (stored, &b"/a"[..]));
            found.push(rev.main());
        });
        found
    }

    #[test]
    fn records_one_behind_the_other_are_found() {
        let bytes = [b"_noise__".to_vec(), record(7), record(8), vec![0; 99]].concat();
        assert_eq!(found(&bytes), [7, 8]);
    }

    #[test]
    fn a_record_that_something_else_follows_is_none() {
        let whole = [record(7), record(8)].concat();
        assert_eq!(found(&whole), [7, 8]);
        for cut in 1..record(8).len() {
            let mut bytes = whole[..whole.len() - cut].to_vec();
            bytes.extend([0, 0, 0, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
            assert!(!found(&bytes).contains(&8), "{cut}");
        }
    }

    #[test]
    fn a_place_reads_back() {
        for at in [0, 1, 65_535, 65_536, (1 << 40) + 12_345] {
            let (page, index) = place(at).unwrap();
            assert_eq!(start(page, index), at);
        }
        assert_eq!(place(1 << 50), None);
    }
}
