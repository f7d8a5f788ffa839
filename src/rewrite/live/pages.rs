//! The keyspace page by page, in the order of keys, all of it at one revision where the server keeps that one long enough.
//!
//! It is read in ranges of some thousand keys at most ([`Outline`]), several side by side, and given in order.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use crate::etcd::span::{FIRST_KEY, NO_END};

use super::keyspace::{Entry, Fault, FaultKind, Keyspace, Page};
use super::outline::Outline;
use super::pace::Patience;

/// Entries of the first page.
const FIRST_LIMIT: i64 = 64;

/// The most entries of a page. The server holds a whole page in its memory.
const MAX_LIMIT: i64 = 4096;

/// Bytes of a page that are aimed at.
const PAGE_BYTES: usize = 1 << 20;

/// Ranges that are read side by side.
const READERS: usize = 2;

/// Pages of a range that wait to be taken.
const WAITING: usize = 2;

/// How a keyspace is read.
pub struct Reading<'r, K: ?Sized> {
    /// Whom to ask.
    pub keyspace: &'r K,
    /// How long to wait for answers.
    pub patience: &'r Patience<'r>,
    /// The revision to read at; 0 before anything was read.
    pin: AtomicI64,
    /// The entries of the next page.
    limit: AtomicI64,
    /// Whether ranges are pages that were read before, each of which should come at once.
    exact: bool,
    /// What somebody saw who asked a moment ago.
    seen: Option<Seen>,
}

/// What a first look tells of a keyspace. A moment later it may be otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How many keys there are.
    pub keys: u64,
    /// The first of them.
    pub first: Vec<u8>,
}

/// The revisions at which a keyspace was read: each from a key on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins(Vec<(Vec<u8>, i64)>);

impl Pins {
    /// The revision at which a key was looked for.
    pub fn at(&self, key: &[u8]) -> i64 {
        let behind = self.0.partition_point(|(from, _)| from.as_slice() <= key);
        behind.checked_sub(1).and_then(|place| self.0.get(place)).map_or(0, |(_, revision)| *revision)
    }

    /// The newest of them.
    pub fn newest(&self) -> i64 {
        self.0.iter().map(|(_, revision)| *revision).max().unwrap_or(0)
    }

    /// How often the revision was gone before everything was read.
    pub fn lost(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// From a key on it was read at this revision. Keys come in order.
    pub(super) fn note(&mut self, (from, revision): (Vec<u8>, i64)) {
        if self.0.last().is_none_or(|(_, last)| *last != revision) {
            self.0.push((from, revision));
        }
    }
}

/// A page that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPage {
    /// In the order of keys.
    pub entries: Vec<Entry>,
    /// The first key that was asked for.
    from: Vec<u8>,
    /// The revision that it is of.
    revision: i64,
}

impl ReadPage {
    /// From which key on it was read, and at which revision.
    pub(super) fn place(&self) -> (Vec<u8>, i64) {
        (self.from.clone(), self.revision)
    }
}

/// A range that is to be read, or why there is none: its first key, and the first one behind it.
type Range = Result<(Vec<u8>, Vec<u8>), Fault>;

/// What a reader says.
enum Part {
    Page(ReadPage),
    EndOfRange,
    Failed(Fault),
}

impl<'r, K: Keyspace + ?Sized> Reading<'r, K> {
    /// Nothing was read yet.
    pub fn new(keyspace: &'r K, patience: &'r Patience<'r>) -> Self {
        Self {
            keyspace,
            patience,
            pin: AtomicI64::new(0),
            limit: AtomicI64::new(FIRST_LIMIT),
            exact: false,
            seen: None,
        }
    }

    /// Ranges are pages that were read before.
    pub fn exact(self) -> Self {
        Self { exact: true, ..self }
    }

    /// This was seen a moment ago.
    pub fn having_seen(self, seen: Option<Seen>) -> Self {
        Self { seen, ..self }
    }

    /// What was seen a moment ago.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.seen.clone()
    }

    /// The entries of the next page. A range that was a page may have some more by now.
    fn limit(&self) -> i64 {
        let limit = self.limit.load(Ordering::Relaxed);
        if self.exact { limit + limit / 2 } else { limit }
    }

    /// The page of a range at the revision that is read at, and that revision. What goes by itself is waited for.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn page(&self, range: (&[u8], &[u8]), limit: Option<i64>) -> Result<(Page, i64), Fault> {
        let mut waited = Duration::ZERO;
        loop {
            let pin = self.pin.load(Ordering::Relaxed);
            let asked = limit.unwrap_or_else(|| self.limit());
            let answer = match pin {
                // Any narrow range will do to fix the revision; a majority answers for that.
                0 => self.keyspace.page((FIRST_KEY, b"\x01"), 0, 1),
                pin => self.keyspace.page(range, pin, asked),
            };
            match answer {
                Ok(page) if pin == 0 => {
                    self.patience.answered();
                    let _ = self.pin.compare_exchange(0, page.revision, Ordering::Relaxed, Ordering::Relaxed);
                }
                Ok(page) => {
                    self.patience.answered();
                    return Ok((page, pin));
                }
                Err(fault) => match fault.kind {
                    FaultKind::Compacted if pin != 0 => {
                        let _ = self.pin.compare_exchange(pin, 0, Ordering::Relaxed, Ordering::Relaxed);
                    }
                    FaultKind::AnswerTooLarge if asked > 1 && limit.is_none() => {
                        self.limit.fetch_min((asked / 4).max(1), Ordering::Relaxed);
                    }
                    FaultKind::Unknown | FaultKind::Busy => waited = self.patience.wait(waited, fault)?,
                    _ => return Err(fault),
                },
            }
        }
    }

    /// Everything, in the order of keys: `take` asks for one page after the other, until there are none. Where there is no
    /// outline yet it is drawn meanwhile.
    pub fn in_order<T>(
        &self,
        outline: Option<&Outline>,
        take: impl FnOnce(&mut (dyn FnMut() -> Result<Option<ReadPage>, Fault> + Send)) -> T,
    ) -> T {
        thread::scope(|scope| {
            let reader = |_| {
                let ((ranges, wanted), (sender, receiver)) = (channel(), sync_channel(WAITING));
                scope.spawn(move || self.read_some(&wanted, &sender));
                (ranges, receiver)
            };
            let (ranges, parts): (Vec<Sender<Range>>, Vec<Receiver<Part>>) = (0..READERS).map(reader).unzip();
            scope.spawn(move || self.deal(outline, &ranges));
            let mut turn = 0;
            let mut next = move || loop {
                // A reader that is done has read its last range, and those behind it are all read, too.
                match parts.get(turn % READERS).and_then(|parts| parts.recv().ok()) {
                    None => return Ok(None),
                    Some(Part::Page(page)) => return Ok(Some(page)),
                    Some(Part::EndOfRange) => turn += 1,
                    Some(Part::Failed(fault)) => return Err(fault),
                }
            };
            take(&mut next)
        })
    }

    /// Gives each reader every so many-th range. Whoever does not listen any more wants no more.
    fn deal(&self, outline: Option<&Outline>, readers: &[Sender<Range>]) {
        let mut turn = readers.iter().cycle();
        let mut give = |range: Range| turn.next().is_some_and(|reader| reader.send(range).is_ok());
        match outline {
            Some(outline) => {
                let mut ranges = outline.ranges().map(|(from, end)| Ok((from.to_vec(), end.to_vec())));
                while ranges.next().is_some_and(&mut give) {}
            }
            None => {
                let mut from = FIRST_KEY.to_vec();
                let drawn = Outline::draw(self, |end| give(Ok((std::mem::replace(&mut from, end.clone()), end))));
                // Whoever wants no more does not want to know this either.
                let _ = drawn.map_err(|fault| give(Err(fault)));
            }
        }
    }

    /// Reads one range after the other.
    fn read_some(&self, ranges: &Receiver<Range>, parts: &SyncSender<Part>) {
        for range in ranges {
            let (from, end) = match range {
                Ok(range) => range,
                Err(fault) => {
                    let _ = parts.send(Part::Failed(fault));
                    return;
                }
            };
            let mut pages = Pages::new(self, (&from, &end));
            loop {
                let part = match pages.next_page() {
                    Ok(Some(page)) => Part::Page(page),
                    Ok(None) => Part::EndOfRange,
                    Err(fault) => Part::Failed(fault),
                };
                let (is_end, failed) = (matches!(part, Part::EndOfRange), matches!(part, Part::Failed(_)));
                if parts.send(part).is_err() || failed {
                    return;
                }
                if is_end {
                    break;
                }
            }
        }
    }
}

/// Reads the pages of a range.
pub struct Pages<'p, 'r, K: ?Sized> {
    reading: &'p Reading<'r, K>,
    from: Vec<u8>,
    end: &'p [u8],
    done: bool,
}

impl<'p, 'r, K: Keyspace + ?Sized> Pages<'p, 'r, K> {
    /// From the first key of a range on.
    pub fn new(reading: &'p Reading<'r, K>, (from, end): (&'p [u8], &'p [u8])) -> Self {
        Self { reading, from: from.to_vec(), end, done: false }
    }

    /// All of it.
    pub fn all(reading: &'p Reading<'r, K>) -> Self {
        Self::new(reading, (FIRST_KEY, NO_END))
    }

    /// The next page; none when all were read.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn next_page(&mut self) -> Result<Option<ReadPage>, Fault> {
        if self.done {
            return Ok(None);
        }
        let (page, revision) = self.reading.page((&self.from, self.end), None)?;
        self.done = !page.more;
        let Some(last) = page.entries.last() else {
            self.done = true;
            return Ok(None);
        };
        let mut behind = last.key.clone();
        behind.push(0);
        let bytes: usize = page.entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
        let (fits, limit) = (page.entries.len() * PAGE_BYTES / bytes.max(1), &self.reading.limit);
        let most = limit.load(Ordering::Relaxed).saturating_mul(4).min(MAX_LIMIT);
        limit.store(i64::try_from(fits).unwrap_or(MAX_LIMIT).clamp(1, most.max(1)), Ordering::Relaxed);
        let from = std::mem::replace(&mut self.from, behind);
        Ok(Some(ReadPage { entries: page.entries, from, revision }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::scripted::{Scripted, undisturbed};
    use super::*;

    fn all(server: &Scripted, outline: Option<&Outline>) -> (Vec<Vec<u8>>, Pins) {
        let patience = undisturbed();
        let reading = Reading::new(server, &patience);
        reading.in_order(outline, |next| {
            let (mut keys, mut pins) = (Vec::new(), Pins::default());
            while let Some(page) = next().unwrap() {
                pins.note(page.place());
                keys.extend(page.entries.into_iter().map(|entry| entry.key));
            }
            (keys, pins)
        })
    }

    fn filled(count: usize) -> (Scripted, Vec<Vec<u8>>) {
        let server = Scripted::new();
        let keys: Vec<_> = (0..count).map(|number| format!("/k/{number:05}").into_bytes()).collect();
        for key in &keys {
            server.put(key, &[b'v'; 700], 0);
        }
        (server, keys)
    }

    #[test]
    fn every_key_comes_once_in_order_with_the_revision_it_was_looked_for_at() {
        let (server, keys) = filled(1234);
        assert_eq!(all(&server, Some(&Outline::whole())), (keys.clone(), Pins(vec![(vec![0], 1235)])));
        // The pin goes in the middle, an answer is too large, and one does not come.
        server.fail_pages([(3, FaultKind::Compacted), (5, FaultKind::AnswerTooLarge), (6, FaultKind::Unknown)]);
        let (read, pins) = all(&server, Some(&Outline::whole()));
        assert_eq!(read, keys);
        // Nobody wrote meanwhile, so the new revision is the old one.
        assert_eq!((pins.at(b"/a"), pins.at(b"/z"), pins.newest()), (1235, 1235, 1235));
    }

    #[test]
    fn ranges_side_by_side_come_in_order() {
        let (server, keys) = filled(20_000);
        let patience = undisturbed();
        let mut outline = Outline::whole();
        keys.iter().skip(1).step_by(3000).for_each(|key| outline.cut(key.clone()));
        for outline in [None, Some(&outline)] {
            assert_eq!(all(&server, outline).0, keys);
            server.fail_pages([(9, FaultKind::Unknown), (12, FaultKind::Compacted), (40, FaultKind::Unknown)]);
            assert_eq!(all(&server, outline).0, keys);
        }
        server.fail_pages([(9, FaultKind::Denied)]);
        let read = Reading::new(&server, &patience).in_order(None, |next| {
            loop {
                match next() {
                    Ok(Some(_)) => {}
                    ended => break ended,
                }
            }
        });
        assert_eq!(read.unwrap_err().kind, FaultKind::Denied);
        // Whoever takes no more is not waited for.
        let reading = Reading::new(&server, &patience);
        let first = reading.in_order(Some(&outline), |next| next().unwrap().unwrap().entries.len());
        assert!(first > 0);
    }

    #[test]
    fn large_values_come_a_few_at_a_time() {
        let server = Scripted::new();
        for number in 0..100 {
            server.put(&[b'/', number], &vec![b'v'; 400 << 10], 0);
        }
        all(&server, Some(&Outline::whole()));
        let most = server.page_limits().into_iter().skip(2).max().unwrap();
        assert!(most <= 4, "{most}");
    }
}
