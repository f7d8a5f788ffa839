//! All that is wanted on its way out: several batches in work at once, handed over in order.
//!
//! Whoever works on a batch takes its notes, reads its values in the order of the file, and opens and renders them one by one in the order
//! in which they are wanted, all into buffers that are used again. Meanwhile what was made of the batches before is taken off, by the thread
//! that asked for it. There are no more batches than buffers, so memory is bounded, and nobody waits for one that is slow.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use zeroize::Zeroizing;

use crate::lock::{into_inner, lock};
use crate::provider::plaintext::Plaintext;
use crate::source::Place;

use super::get::Found;
use super::notes::Noted;
use super::queue::Queue;
use super::seen::{Opener, Seen};

/// Records of the first batch. Each has twice as many as the one before, so that a few records keep all threads busy, and many share pages.
const FIRST_RECORDS: usize = 32;
/// Records of a batch, at most.
const MOST_RECORDS: usize = 16 << 10;
/// A batch ends when its values have so many bytes.
const BATCH_BYTES: u64 = 3 << 20;

/// So many batches wait to be taken off, beside those that are worked on.
const WAITING_BATCHES: usize = 2;

/// Why not everything came out.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The sorted notes cannot be read again.
    #[error("the sorted notes of what was found cannot be read again: {0}")]
    Notes(#[source] io::Error),
    /// What was made of a batch could not be taken off.
    #[error(transparent)]
    Out(io::Error),
}

/// Makes room for so many bytes more. Where that takes another allocation the old one is wiped, as a vector that grows by itself does not.
pub fn make_room(buffer: &mut Zeroizing<Vec<u8>>, bytes: usize) {
    if buffer.capacity().saturating_sub(buffer.len()) < bytes {
        let needed = buffer.len().saturating_add(bytes).max(buffer.capacity().saturating_mul(2));
        let mut larger = Zeroizing::new(Vec::with_capacity(needed));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
}

impl Found<'_> {
    /// Gives each record that is wanted to `work`, with what was made of its batch so far; and each batch to `take`, in order, which leaves
    /// it as `fresh` made it, but for its memory.
    ///
    /// # Errors
    ///
    /// [`FlowError`]. What was taken off before is all that comes before in order.
    pub fn flow<B: Send>(
        &mut self,
        fresh: impl Fn() -> B,
        work: impl Fn(&Seen<'_>, &mut B) + Sync,
        mut take: impl FnMut(&mut B) -> io::Result<()>,
    ) -> Result<(), FlowError> {
        let threads = rayon::current_num_threads().max(1);
        let (opener, queue) = self.split();
        let feed = Mutex::new(Feed { queue, next: 0, records: FIRST_RECORDS, failed: None, ended: false });
        let (give_back, room) = mpsc::channel();
        for _ in 0..threads + WAITING_BATCHES {
            // The other end is just below.
            let _ = give_back.send(fresh());
        }
        let room = Mutex::new(room);
        let mut failed = None;
        thread::scope(|scope| {
            let (done, finished) = mpsc::channel();
            for _ in 0..threads {
                let done = done.clone();
                scope.spawn(|| work_on(opener, &feed, &room, done, &work));
            }
            drop(done);
            in_order(finished, |mut batch| {
                if failed.is_none()
                    && let Err(error) = take(&mut batch)
                {
                    failed = Some(error);
                    lock(&feed).ended = true;
                }
                // Nobody takes it any more when all is done.
                let _ = give_back.send(batch);
            });
        });
        let feed = into_inner(feed);
        match (failed, feed.failed) {
            (Some(error), _) => Err(FlowError::Out(error)),
            (None, Some(error)) => Err(FlowError::Notes(error)),
            (None, None) => Ok(()),
        }
    }
}

/// Hands over what comes numbered, in the order of the numbers.
fn in_order<B>(numbered: Receiver<(usize, B)>, mut take: impl FnMut(B)) {
    let (mut turn, mut waiting) = (0, BTreeMap::new());
    for (number, batch) in numbered {
        waiting.insert(number, batch);
        while let Some(batch) = waiting.remove(&turn) {
            take(batch);
            turn += 1;
        }
    }
}

/// Where batches of notes come from.
struct Feed<'q> {
    queue: &'q mut Queue,
    /// The number of the next batch.
    next: usize,
    /// How many records it has, at most.
    records: usize,
    failed: Option<io::Error>,
    /// Nobody wants more.
    ended: bool,
}

impl Feed<'_> {
    fn next_batch(&mut self) -> Option<(usize, Vec<Noted>)> {
        if self.ended {
            return None;
        }
        let noted = self.queue.next_batch(self.records, BATCH_BYTES).unwrap_or_else(|error| {
            self.failed = Some(error);
            Vec::new()
        });
        self.ended = noted.is_empty();
        self.records = (self.records * 2).min(MOST_RECORDS);
        let number = self.next;
        self.next += 1;
        (!self.ended).then_some((number, noted))
    }
}

/// Works on one batch after another, until there are no more.
fn work_on<B>(
    opener: Opener<'_>,
    feed: &Mutex<Feed<'_>>,
    room: &Mutex<Receiver<B>>,
    done: Sender<(usize, B)>,
    work: &impl Fn(&Seen<'_>, &mut B),
) {
    let (mut values, mut scratch) = (Values::default(), Plaintext::new());
    loop {
        // Room comes first: whoever has the batch whose turn it is never waits for those behind it.
        let received = lock(room).recv();
        let Ok(mut batch) = received else { return };
        let next = lock(feed).next_batch();
        let Some((number, noted)) = next else { return };
        values.read(opener, &noted);
        for (noted, value) in noted.iter().zip(values.iter()) {
            let Some(seen) = value.and_then(|value| opener.seen(noted, value, &mut scratch)) else { continue };
            if opener.wanted.labels.is_empty() || opener.has_labels(&seen.item(false).content) {
                work(&seen, &mut batch);
            }
        }
        if done.send((number, batch)).is_err() {
            return;
        }
    }
}

/// The values of a batch as they are stored.
#[derive(Default)]
struct Values {
    bytes: Zeroizing<Vec<u8>>,
    /// Where the value of each note is; nowhere if it could not be read any more.
    places: Vec<Option<Range<usize>>>,
}

impl Values {
    fn read(&mut self, opener: Opener<'_>, noted: &[Noted]) {
        let mut order: Vec<(Place, usize)> = noted.iter().map(|noted| noted.place).zip(0..).collect();
        order.sort_unstable();
        let total = noted.iter().map(|noted| usize::try_from(noted.value_bytes).unwrap_or(0)).sum();
        self.bytes.clear();
        make_room(&mut self.bytes, total);
        self.places.clear();
        self.places.resize(noted.len(), None);
        opener.read(noted, &order, |index, _, value| {
            make_room(&mut self.bytes, value.len());
            let start = self.bytes.len();
            self.bytes.extend_from_slice(value);
            if let Some(place) = self.places.get_mut(index) {
                *place = Some(start..self.bytes.len());
            }
        });
    }

    fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.places.iter().map(|place| place.clone().and_then(|place| self.bytes.get(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_any_order_is_handed_over_in_the_order_of_its_numbers() {
        let (sender, receiver) = mpsc::channel();
        for number in [2, 0, 1, 4, 3] {
            sender.send((number, number)).unwrap();
        }
        drop(sender);
        let mut taken = Vec::new();
        in_order(receiver, |number| taken.push(number));
        assert_eq!(taken, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn room_is_made_once_and_keeps_what_is_there() {
        let mut buffer = Zeroizing::new(b"abc".to_vec());
        make_room(&mut buffer, 100);
        assert!(buffer.capacity() >= 103 && **buffer == *b"abc");
        let place = buffer.as_ptr();
        make_room(&mut buffer, 100);
        assert_eq!(buffer.as_ptr(), place);
    }
}
