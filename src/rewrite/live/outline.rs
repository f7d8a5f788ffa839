//! Into which ranges a keyspace is cut to be read.
//!
//! A server before 3.7 counts for each page every key up to the end of the range ([`span`](crate::etcd::span)). So before a
//! rewrite reads everything, and more than once, it asks for numbers: of the upper half of what is left, then of halves of
//! halves. The lower half's number follows. What the ranges hold may change meanwhile; then they are wider or narrower.

use crate::etcd::span::{FIRST_KEY, NO_END, between};

use super::keyspace::{Fault, Keyspace};
use super::pages::Reading;

/// Keys of a range at most, if it can be cut.
const RANGE_KEYS: u64 = 4096;

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

    /// Ranges of a few thousand keys each.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn draw<K: Keyspace + ?Sized>(reading: &Reading<'_, K>) -> Result<Self, Fault> {
        if !reading.keyspace.takes_ranges() {
            return Ok(Self::whole());
        }
        let ask = |from: &[u8], end: &[u8]| -> Result<_, Fault> {
            let (page, _) = reading.page((from, end), Some(1))?;
            Ok((page.count, page.entries.into_iter().next().map(|entry| entry.key)))
        };
        let (keys, first) = ask(FIRST_KEY, NO_END)?;
        let first = first.unwrap_or_else(|| FIRST_KEY.to_vec());
        let mut parts = vec![Part { end: NO_END.to_vec(), first, last: NO_END.to_vec(), keys }];
        let (mut ends, mut questions) = (Vec::new(), 0);
        while let Some(part) = parts.pop() {
            let wanted = part.keys > RANGE_KEYS && questions < MAX_QUESTIONS;
            let Some(middle) = between(&part.first, &part.last).filter(|_| wanted) else {
                ends.push(part.end);
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
        Ok(Self(ends))
    }
}

#[cfg(test)]
mod tests {
    use super::super::scripted::{Scripted, undisturbed};
    use super::*;

    #[test]
    fn ranges_are_small_wherever_the_keys_are() {
        let server = Scripted::new();
        for number in 0..30_000 {
            server.put(format!("/registry/secrets/ns-{}/s-{number}", number % 7).as_bytes(), b"v", 0);
        }
        server.put(b"a", b"v", 0);
        server.put(b"\xff", b"v", 0);
        let patience = undisturbed();
        let outline = Outline::draw(&Reading::new(&server, &patience)).unwrap();
        let ranges: Vec<_> = outline.ranges().collect();
        assert_eq!((ranges.first().unwrap().0, ranges.last().unwrap().1), (FIRST_KEY, NO_END));
        assert!(ranges.windows(2).all(|two| two[0].1 == two[1].0 && two[0].0 < two[0].1));
        let counts = ranges.iter().map(|range| server.count(*range));
        assert!(counts.clone().max().unwrap() <= 4096 && counts.sum::<u64>() == 30_002);
        assert!(ranges.len() < 40, "{}", ranges.len());
    }

    #[test]
    fn a_small_or_empty_keyspace_is_one_range() {
        let (server, patience) = (Scripted::new(), undisturbed());
        assert_eq!(Outline::draw(&Reading::new(&server, &patience)).unwrap(), Outline::whole());
        server.put(b"/a", b"v", 0);
        assert_eq!(Outline::draw(&Reading::new(&server, &patience)).unwrap(), Outline::whole());
    }
}
