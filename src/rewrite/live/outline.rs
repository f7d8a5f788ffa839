//! Into which ranges a keyspace is cut to be read.
//!
//! A server before 3.7 counts for each page every key up to the end of the range ([`span`](crate::etcd::span)). So whoever reads
//! everything for the first time asks for numbers: of the upper half of what is left, then of halves of halves. The lower half's
//! number follows. Whoever has looked for the roots has asked for the first one already. The lowest ranges are known first, and
//! are read while the others are still drawn. Later passes read in the ranges that the pages of the first one had. What the ranges
//! hold may change meanwhile; then they are wider or narrower.

use crate::etcd::span::{FIRST_KEY, NO_END, behind_parts, between};

use super::keyspace::{Fault, Keyspace};
use super::pages::{Reading, Seen};

/// Keys of a range at most, if it can be cut.
const RANGE_KEYS: u64 = 4096;

/// Parts of a key, between slashes, that all keys may have in common.
const COMMON_PARTS: usize = 2;

/// No further cuts are made after so many questions.
const MAX_QUESTIONS: usize = 20_000;

/// Where ranges end: in order, and the last one nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline(Vec<Vec<u8>>);

/// What is still to be cut.
struct Part {
    /// The end of its range.
    end: Vec<u8>,
    /// Between these are all keys that it has.
    first: Vec<u8>,
    last: Vec<u8>,
    keys: u64,
}

impl Default for Outline {
    fn default() -> Self {
        Self::whole()
    }
}

impl Outline {
    /// One range.
    pub fn whole() -> Self {
        Self(vec![NO_END.to_vec()])
    }

    /// The first key of each range, and the first one behind it.
    pub fn ranges(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let froms = std::iter::once(FIRST_KEY).chain(self.0.iter().map(Vec::as_slice));
        froms.zip(self.0.iter().map(Vec::as_slice))
    }

    /// A range ends and another one begins at this key, which is behind all that were given before.
    pub(super) fn cut(&mut self, key: Vec<u8>) {
        if key != FIRST_KEY {
            self.0.insert(self.0.len().saturating_sub(1), key);
        }
    }

    /// Draws ranges of a few thousand keys each, and tells where each one ends, in order, until nobody wants to know more.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn draw<K: Keyspace + ?Sized>(
        reading: &Reading<'_, K>,
        mut tell: impl FnMut(Vec<u8>) -> bool,
    ) -> Result<(), Fault> {
        if !reading.keyspace.takes_ranges() {
            tell(NO_END.to_vec());
            return Ok(());
        }
        let ask = |from: &[u8], end: &[u8]| -> Result<_, Fault> {
            let (page, _) = reading.page((from, end), Some(1))?;
            Ok((page.count, page.entries.into_iter().next().map(|entry| entry.key)))
        };
        // That may have changed meanwhile; it is only cut somewhere else then.
        let (keys, first) = match reading.seen() {
            Some(Seen { keys, first }) => (keys, Some(first)),
            None => ask(FIRST_KEY, NO_END)?,
        };
        let first = first.unwrap_or_else(|| FIRST_KEY.to_vec());
        // All keys may have their first parts in common, and halves would find that out in a hundred questions.
        let (mut parts, mut all) = (Vec::new(), Part { end: NO_END.to_vec(), first, last: NO_END.to_vec(), keys });
        for common in 1..=COMMON_PARTS {
            let behind = behind_parts(&all.first, common);
            if all.keys <= RANGE_KEYS || behind.is_empty() {
                break;
            }
            match ask(&behind, &all.last)? {
                (0, _) => all.last = behind,
                (above, first) => {
                    let (first, below) = (first.unwrap_or_else(|| behind.clone()), all.keys.saturating_sub(above));
                    parts.push(Part { end: all.end, first, last: all.last, keys: above });
                    all = Part { end: behind.clone(), first: all.first, last: behind, keys: below };
                    break;
                }
            }
        }
        parts.push(all);
        let mut questions = 0;
        while let Some(part) = parts.pop() {
            let wanted = part.keys > RANGE_KEYS && questions < MAX_QUESTIONS;
            let Some(middle) = between(&part.first, &part.last).filter(|_| wanted) else {
                if !tell(part.end) {
                    break;
                }
                continue;
            };
            questions += 1;
            match ask(&middle, &part.last)? {
                (0, _) => parts.push(Part { last: middle, ..part }),
                (keys, first) => {
                    let (first, below) = (first.unwrap_or_else(|| middle.clone()), part.keys.saturating_sub(keys));
                    parts.push(Part { end: part.end, first, last: part.last, keys });
                    if below > 0 {
                        parts.push(Part { end: middle.clone(), first: part.first, last: middle, keys: below });
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::scripted::{Scripted, undisturbed};
    use super::*;

    fn drawn(server: &Scripted) -> Outline {
        let (patience, mut ends) = (undisturbed(), Vec::new());
        let tell = |end| {
            ends.push(end);
            true
        };
        Outline::draw(&Reading::new(server, &patience), tell).unwrap();
        Outline(ends)
    }

    #[test]
    fn ranges_are_small_wherever_the_keys_are() {
        let server = Scripted::new();
        for number in 0..30_000 {
            server.put(format!("/registry/secrets/ns-{}/s-{number}", number % 7).as_bytes(), b"v", 0);
        }
        server.put(b"a", b"v", 0);
        server.put(b"\xff", b"v", 0);
        let outline = drawn(&server);
        let ranges: Vec<_> = outline.ranges().collect();
        assert_eq!((ranges.first().unwrap().0, ranges.last().unwrap().1), (FIRST_KEY, NO_END));
        assert!(ranges.windows(2).all(|two| two[0].1 == two[1].0 && two[0].0 < two[0].1));
        let counts = ranges.iter().map(|range| server.count(*range));
        assert!(counts.clone().max().unwrap() <= 4096 && counts.sum::<u64>() == 30_002);
        assert!(ranges.len() < 40, "{}", ranges.len());
    }

    #[test]
    fn a_small_or_empty_keyspace_is_one_range() {
        let server = Scripted::new();
        assert_eq!(drawn(&server), Outline::whole());
        server.put(b"/a", b"v", 0);
        assert_eq!(drawn(&server), Outline::whole());
    }
}
