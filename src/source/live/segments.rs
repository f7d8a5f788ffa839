//! Which part of a keyspace is asked for next, so that several pages are under way at a time and none costs much.
//!
//! Where a page ends is known when it has come, so from one end alone pages come one after the other. And a server before 3.7
//! counts for each page what lies between it and the end of the range that was asked for. So a part with much left is cut in
//! two somewhere in the middle, and again, until every part has a few pages. Where the keys are is not known. But how many
//! there are in a part comes with its pages: when the upper half is asked for first, the lower one's follows from it, and
//! a half without any key was only a small request.

use crate::etcd::span::between;

/// So many parts without any key, and no further cuts are made.
const PATIENCE: usize = 1000;

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
    /// The part, by its number, that was cut off its upper end and has not said yet how many keys went with it.
    waits_for: Option<usize>,
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
        let segment = Segment { from: from.to_vec(), end: end.to_vec(), left: None, busy: false, waits_for: None };
        Self { segments: vec![Some(segment)], empty: 0, cuts }
    }

    /// The part that is asked for next, by its number: one of which nothing is known, else the largest, or the upper half of
    /// it. Parts of up to `small` keys are not cut.
    pub(super) fn next(&mut self, small: u64) -> Option<usize> {
        let idle = |segment: &&Segment| !segment.busy && segment.waits_for.is_none();
        let all = || self.segments.iter().enumerate().filter_map(|(number, segment)| Some((number, segment.as_ref()?)));
        let unknown = all().find(|(_, segment)| idle(segment) && segment.left.is_none());
        let largest = || all().filter(|(_, segment)| idle(segment)).max_by_key(|(_, segment)| segment.left);
        let (number, left) = unknown.or_else(largest).map(|(number, segment)| (number, segment.left))?;
        let number = left.filter(|left| *left > small).and_then(|_| self.cut(number)).unwrap_or(number);
        self.get_mut(number)?.busy = true;
        Some(number)
    }

    pub(super) fn get(&self, number: usize) -> Option<&Segment> {
        self.segments.get(number)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Segment> {
        self.segments.get_mut(number)?.as_mut()
    }

    /// A part has said how many keys it has: what it was cut off has so many less.
    pub(super) fn counted(&mut self, number: usize, keys: u64) {
        let waiting = self.segments.iter_mut().flatten().find(|segment| segment.waits_for == Some(number));
        if let Some(segment) = waiting {
            segment.waits_for = None;
            segment.left = segment.left.map(|left| left.saturating_sub(keys));
        }
    }

    /// There is nothing left in it.
    pub(super) fn finish(&mut self, number: usize, was_empty: bool) {
        self.empty += usize::from(was_empty);
        if let Some(segment) = self.segments.get_mut(number) {
            *segment = None;
        }
    }

    /// Cuts off the upper half of a part, and gives its number.
    fn cut(&mut self, number: usize) -> Option<usize> {
        if !self.cuts || self.empty > PATIENCE {
            return None;
        }
        let free = self.segments.iter().position(Option::is_none).unwrap_or(self.segments.len());
        let segment = self.get_mut(number)?;
        let middle = between(&segment.from, &segment.end)?;
        segment.waits_for = Some(free);
        let end = std::mem::replace(&mut segment.end, middle.clone());
        let upper = Segment { from: middle, end, left: None, busy: false, waits_for: None };
        match self.segments.get_mut(free) {
            Some(place) => *place = Some(upper),
            None => self.segments.push(Some(upper)),
        }
        Some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::span::NO_END;

    /// Reads `keys` in pages through segments as a server would answer, several at a time. Gives what was read, how many pages
    /// were under way at most, how many were asked for, and how many keys the server counted.
    fn read(keys: &[Vec<u8>], page: usize, flights: usize) -> (Vec<Vec<u8>>, [usize; 3]) {
        let (mut segments, mut read) = (Segments::new(b"\0", NO_END, true), Vec::new());
        let (mut most, mut pages, mut counted) = (0, 0, 0);
        let mut under_way = std::collections::VecDeque::new();
        loop {
            while under_way.len() < flights
                && let Some(number) = segments.next(3 * page as u64)
            {
                let segment = segments.get(number).unwrap();
                under_way.push_back((number, segment.from.clone(), segment.end.clone()));
            }
            most = most.max(under_way.len());
            let Some((number, from, end)) = under_way.pop_front() else { return (read, [most, pages, counted]) };
            let all: Vec<_> = keys.iter().filter(|key| **key >= from && (end == NO_END || **key < end)).collect();
            let taken: Vec<_> = all.iter().take(page).collect();
            (pages, counted) = (pages + 1, counted + all.len());
            read.extend(taken.iter().map(|key| key.to_vec()));
            segments.counted(number, all.len() as u64);
            if all.len() > page {
                let segment = segments.get_mut(number).unwrap();
                segment.from = [taken.last().unwrap().as_slice(), b"\0"].concat();
                segment.left = Some((all.len() - page) as u64);
                segment.busy = false;
            } else {
                segments.finish(number, all.is_empty());
            }
        }
    }

    fn many_keys() -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> =
            (0..3000).map(|n| format!("/registry/secrets/ns-{}/s-{n}", n % 7).into()).collect();
        keys.extend((0..500).map(|n| format!("/registry/pods/default/p-{n:04}").into_bytes()));
        keys.extend([b"\0".to_vec(), b"\xff\xff\xff".to_vec(), b"a".to_vec(), b"a\0".to_vec()]);
        keys.sort();
        keys
    }

    #[test]
    fn every_key_is_read_once_whatever_is_under_way() {
        let keys = many_keys();
        for (page, flights) in [(10, 1), (10, 4), (100, 3), (10_000, 3)] {
            let (mut found, [most, ..]) = read(&keys, page, flights);
            found.sort();
            assert_eq!(found, keys, "{page} {flights}");
            assert_eq!(most > 1, flights > 1 && page < 1000, "{page} {flights}");
        }
    }

    #[test]
    fn a_server_counts_each_key_a_few_times_only() {
        let keys = many_keys();
        let (_, [_, pages, counted]) = read(&keys, 50, 3);
        // From one end alone it would be 35 times on the average.
        assert!(counted < 14 * keys.len() && pages < 500, "{pages} pages, {counted} counted");
    }
}
