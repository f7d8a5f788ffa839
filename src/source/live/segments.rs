//! Which part of a keyspace is asked for next, so that several pages are under way at a time.
//!
//! Where a page ends is known when it has come, so from one end alone pages come one after the other. A keyspace with much
//! left is therefore cut in two somewhere between where it stands and its end, and again, until there are enough parts.
//! Where the keys are is not known: a part that turns out empty was only a small request.

use super::NO_END;

/// So many parts without any key, and no further cuts are made.
const PATIENCE: usize = 400;

/// Bytes of a key behind the common prefix that are looked at for a cut.
const CUT_BYTES: usize = 8;

/// A part of the keyspace that is still to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The next key, or one before it.
    pub from: Vec<u8>,
    /// The first key that is not part of it; a single zero = there is no end.
    pub end: Vec<u8>,
    /// Keys that are left, where that is known.
    pub left: Option<u64>,
    /// A page of it is under way.
    pub busy: bool,
}

/// All parts that are still to be read.
#[derive(Debug)]
pub(super) struct Segments {
    segments: Vec<Option<Segment>>,
    empty: usize,
    /// Whether parts may be cut at all.
    cuts: bool,
}

impl Segments {
    pub(super) fn new(from: &[u8], end: &[u8], cuts: bool) -> Self {
        let segment = Segment { from: from.to_vec(), end: end.to_vec(), left: None, busy: false };
        Self { segments: vec![Some(segment)], empty: 0, cuts }
    }

    /// A part that nobody asks for yet, by its number; where there is none, one that is cut off another. Parts of up to
    /// `small` keys are not cut.
    pub(super) fn next(&mut self, small: u64) -> Option<usize> {
        let idle = |segment: &Option<Segment>| segment.as_ref().is_some_and(|segment| !segment.busy);
        let number = self.segments.iter().position(idle).or_else(|| self.cut(small))?;
        self.get_mut(number)?.busy = true;
        Some(number)
    }

    pub(super) fn get(&self, number: usize) -> Option<&Segment> {
        self.segments.get(number)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Segment> {
        self.segments.get_mut(number)?.as_mut()
    }

    /// There is nothing left in it.
    pub(super) fn finish(&mut self, number: usize, was_empty: bool) {
        self.empty += usize::from(was_empty);
        if let Some(segment) = self.segments.get_mut(number) {
            *segment = None;
        }
    }

    fn cut(&mut self, small: u64) -> Option<usize> {
        if !self.cuts || self.empty > PATIENCE {
            return None;
        }
        let largest = self.segments.iter_mut().flatten().filter(|segment| segment.left > Some(small));
        let segment = largest.max_by_key(|segment| segment.left)?;
        let left = segment.left.take();
        let middle = between(&segment.from, &segment.end)?;
        let cut =
            Segment { from: middle.clone(), end: std::mem::replace(&mut segment.end, middle), left: None, busy: false };
        // What is left on this side shows with its next page; until then it counts as half.
        segment.left = left.map(|left| left / 2);
        let free = self.segments.iter().position(Option::is_none);
        match free.and_then(|number| self.segments.get_mut(number).map(|segment| (number, segment))) {
            Some((number, place)) => {
                *place = Some(cut);
                Some(number)
            }
            None => {
                self.segments.push(Some(cut));
                Some(self.segments.len() - 1)
            }
        }
    }
}

/// A key between two others, as near to the middle as eight bytes behind what they have in common tell; none if there is
/// none so near.
fn between(from: &[u8], end: &[u8]) -> Option<Vec<u8>> {
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
    let is_between = key.as_slice() > from && (no_end || key.as_slice() < end);
    is_between.then_some(key)
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

    /// Reads `keys` in pages through segments as a server would answer, several at a time.
    fn read(keys: &[Vec<u8>], page: usize, flights: usize) -> (Vec<Vec<u8>>, usize) {
        let (mut segments, mut read, mut most) = (Segments::new(b"\0", NO_END, true), Vec::new(), 0);
        let mut under_way = std::collections::VecDeque::new();
        loop {
            while under_way.len() < flights
                && let Some(number) = segments.next(page as u64)
            {
                let segment = segments.get(number).unwrap();
                under_way.push_back((number, segment.from.clone(), segment.end.clone()));
            }
            most = most.max(under_way.len());
            let Some((number, from, end)) = under_way.pop_front() else { return (read, most) };
            let all: Vec<_> = keys.iter().filter(|key| **key >= from && (end == NO_END || **key < end)).collect();
            let segment = segments.get_mut(number).unwrap();
            let within = |key: &&&Vec<u8>| segment.end == NO_END || **key < &segment.end;
            let taken: Vec<_> = all.iter().take(page).filter(within).collect();
            read.extend(taken.iter().map(|key| key.to_vec()));
            let goes_on = taken.len() == page && all.len() > page;
            if goes_on {
                segment.from = [taken.last().unwrap().as_slice(), b"\0"].concat();
                segment.left = (segment.end == end).then_some((all.len() - page) as u64);
                segment.busy = false;
            } else {
                segments.finish(number, all.is_empty());
            }
        }
    }

    #[test]
    fn every_key_is_read_once_whatever_is_under_way() {
        let mut keys: Vec<Vec<u8>> =
            (0..3000).map(|n| format!("/registry/secrets/ns-{}/s-{n}", n % 7).into()).collect();
        keys.extend((0..500).map(|n| format!("/registry/pods/default/p-{n:04}").into_bytes()));
        keys.extend([b"\0".to_vec(), b"\xff\xff\xff".to_vec(), b"a".to_vec(), b"a\0".to_vec()]);
        keys.sort();
        for (page, flights) in [(10, 1), (10, 4), (100, 3), (10_000, 3)] {
            let (mut found, most) = read(&keys, page, flights);
            found.sort();
            assert_eq!(found, keys, "{page} {flights}");
            assert_eq!(most > 1, flights > 1 && page < 1000, "{page} {flights}");
        }
    }
}
