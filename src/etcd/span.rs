//! Where a range of keys can be cut when nothing is known of it but its ends.
//!
//! A server before 3.7 counts, for every page that it is asked for, each key from there to the end of the range that was
//! given, whatever the limit (`treeIndex.Revisions` in `server/storage/mvcc/index.go`). So whoever reads much asks for
//! narrow ranges, and must find ends for them.

/// The end of a range that has none, as etcd has it.
pub const NO_END: &[u8] = b"\0";

/// The first key that can be.
pub const FIRST_KEY: &[u8] = b"\0";

/// Bytes of a key behind the common prefix that are looked at for a cut.
const CUT_BYTES: usize = 8;

/// The byte behind the last letter. Keys are text nearly always, so what lies beyond it is cut off first.
const BEHIND_TEXT: u8 = b'z' + 1;

/// A key between two others, as near to the middle as eight bytes behind what they have in common tell; none if there is
/// none so near.
pub fn between(from: &[u8], end: &[u8]) -> Option<Vec<u8>> {
    let no_end = end == NO_END;
    let common = if no_end { 0 } else { from.iter().zip(end).take_while(|(one, other)| one == other).count() };
    let number = |key: &[u8]| {
        let mut bytes = [0; CUT_BYTES];
        bytes.iter_mut().zip(key.iter().skip(common)).for_each(|(place, byte)| *place = *byte);
        u64::from_be_bytes(bytes)
    };
    let (low, high) = (number(from), if no_end { u64::MAX } else { number(end) });
    let middle = low.checked_add(high.checked_sub(low)? / 2)?;
    let mut key = from.get(..common)?.to_vec();
    key.extend(middle.to_be_bytes());
    while key.len() > common + 1 && key.last() == Some(&0) {
        key.pop();
    }
    let is_between = |key: &[u8]| key > from && (no_end || key < end);
    behind_text(from, &key).filter(|key| is_between(key)).or_else(|| is_between(&key).then_some(key))
}

/// Where text ends that begins as `from`, if that comes before `key`.
fn behind_text(from: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let differs = from.iter().zip(key).take_while(|(one, other)| one == other).count();
    let is_text = from.get(differs).is_none_or(|byte| *byte < BEHIND_TEXT);
    (is_text && *key.get(differs)? > BEHIND_TEXT)
        .then(|| [from.get(..differs).unwrap_or_default(), &[BEHIND_TEXT]].concat())
}

/// Ends of ranges that begin at `from`, each beyond the one before, the last one [`NO_END`]. Whoever looks for the next key
/// asks with one after the other, and does not have everything counted that lies behind it.
pub fn farther_ends(from: &[u8]) -> Vec<Vec<u8>> {
    let (last, parent) = (from.len().saturating_sub(2), from.iter().rposition(|byte| *byte == b'/'));
    let first_of = |slash: Option<usize>| slash.map_or(0, |slash| slash + 1);
    let grandparent = parent.and_then(|parent| from.get(..parent)?.iter().rposition(|byte| *byte == b'/'));
    let places = [(last, 1), (last, 2), (last.saturating_sub(1), 1), (last.saturating_sub(1), 3)];
    let steps = [1, 2, 4, 8].map(|step| (first_of(parent), step));
    let above = [1, 4, 8].map(|step| (first_of(grandparent), step));
    let mut ends: Vec<Vec<u8>> = Vec::new();
    for (place, step) in places.into_iter().chain(steps).chain(above) {
        let Some(byte) = from.get(place).and_then(|byte| byte.checked_add(step)) else { continue };
        let end = [from.get(..place).unwrap_or_default(), &[byte]].concat();
        if ends.last().is_none_or(|before| *before < end) && end.as_slice() > from {
            ends.push(end);
        }
    }
    ends.push(NO_END.to_vec());
    ends
}

/// The first key behind all that have the same first parts, so many of them: with two, behind `/registry/pods/a/b` comes
/// `/registry/pods0`. Nothing, if there is none.
pub fn behind_parts(key: &[u8], parts: usize) -> Vec<u8> {
    let mut slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let skipped = usize::from(key.first() == Some(&b'/')) + parts.saturating_sub(1);
    let cut = slashes.nth(skipped);
    let mut prefix = cut.and_then(|cut| key.get(..=cut)).unwrap_or(key).to_vec();
    // The smallest key that is greater than all with this prefix.
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            break;
        }
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_middle_lies_between() {
        for (from, end) in [
            (&b"\0"[..], NO_END),
            (b"/registry/a", b"/registry/z"),
            (b"/registry/secrets/ns-1/a", b"/registry/secrets/ns-2"),
            (b"/registry/secrets\0", b"0"),
            (b"a", b"b"),
            (b"\xfe", NO_END),
            (b"/\xff\xff", b"0"),
        ] {
            let middle = between(from, end).unwrap();
            assert!(
                middle.as_slice() > from && (end == NO_END || middle.as_slice() < end),
                "{from:?} {middle:?} {end:?}"
            );
        }
        assert_eq!(between(b"a", b"a\0"), None);
        assert_eq!(between(b"b", b"a"), None);
    }

    #[test]
    fn what_is_no_text_is_cut_off_first() {
        assert_eq!(between(b"/registry/a", NO_END).unwrap(), b"{");
        assert!(between(b"/registry/a", b"{").unwrap().starts_with(b"U"));
        assert_eq!(between(b"/registry/a", b"0").unwrap(), b"/{");
        // It comes to an end, whatever the two.
        let (from, mut end, mut cuts) = (b"/registry/secrets/ns-1/a".to_vec(), NO_END.to_vec(), 0);
        while let Some(middle) = between(&from, &end) {
            (end, cuts) = (middle, cuts + 1);
            assert!(cuts < 400, "{end:?}");
        }
    }

    #[test]
    fn ends_ascend_and_the_last_one_is_none() {
        for from in [&b"/registry/pods0"[..], b"a", b"", b"\xff\xff", b"/registry/secrets/ns-170", b"/"] {
            let ends = farther_ends(from);
            let (last, others) = ends.split_last().unwrap();
            assert!(others.is_sorted() && others.iter().all(|end| end.as_slice() > from), "{ends:?}");
            assert_eq!(last, NO_END);
        }
    }

    #[test]
    fn what_is_behind_some_parts_of_a_key() {
        assert_eq!(behind_parts(b"/registry/pods/a/b", 2), b"/registry/pods0");
        assert_eq!(behind_parts(b"/registry/pods/a/b", 3), b"/registry/pods/a0");
        assert_eq!(behind_parts(b"registry/pods/a", 2), b"registry/pods0");
        assert_eq!(behind_parts(b"compact_rev_key", 2), b"compact_rev_kez");
        assert_eq!(behind_parts(b"a\xff\xff", 2), b"b");
        assert_eq!(behind_parts(b"\xff", 2), b"");
    }
}
