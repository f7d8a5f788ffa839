//! The keyspace page by page, in the order of keys, all of it at one revision where the server keeps that one long enough.

use std::time::Duration;

use super::keyspace::{Entry, Fault, FaultKind, Keyspace};
use super::pace::Patience;

/// Entries of the first page.
const FIRST_LIMIT: i64 = 64;

/// The most entries of a page; kube-apiserver asks for as many. The server holds a whole page in its memory.
const MAX_LIMIT: i64 = 500;

/// Bytes of a page that are aimed at.
const PAGE_BYTES: usize = 1 << 20;

/// Reads pages.
pub struct Pages<'p, K: ?Sized> {
    keyspace: &'p K,
    patience: &'p Patience<'p>,
    from: Vec<u8>,
    limit: i64,
    pins: Pins,
    done: bool,
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
        self.0.last().map_or(0, |(_, revision)| *revision)
    }

    /// How often the revision was gone before everything was read.
    pub fn lost(&self) -> usize {
        self.0.len().saturating_sub(1)
    }
}

impl<'p, K: Keyspace + ?Sized> Pages<'p, K> {
    /// From the first key on.
    pub fn new(keyspace: &'p K, patience: &'p Patience<'p>) -> Self {
        Self { keyspace, patience, from: vec![0], limit: FIRST_LIMIT, pins: Pins::default(), done: false }
    }

    /// At which revisions it was read.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The next entries; none when all were read. What goes by itself is waited for.
    pub fn next_entries(&mut self) -> Result<Option<Vec<Entry>>, Fault> {
        let mut pin = self.pins.newest();
        let mut waited = Duration::ZERO;
        while !self.done {
            let page = match self.keyspace.page(&self.from, pin, self.limit) {
                Ok(page) => page,
                Err(fault) => {
                    match fault.kind {
                        FaultKind::Compacted if pin != 0 => pin = 0,
                        FaultKind::AnswerTooLarge if self.limit > 1 => self.limit = (self.limit / 4).max(1),
                        FaultKind::Unknown | FaultKind::Busy => waited = self.patience.wait(waited, fault)?,
                        _ => return Err(fault),
                    }
                    continue;
                }
            };
            self.patience.answered();
            if pin == 0 {
                self.pins.0.push((self.from.clone(), page.revision));
            }
            self.done = !page.more;
            let Some(last) = page.entries.last() else {
                self.done = true;
                break;
            };
            self.from.clone_from(&last.key);
            self.from.push(0);
            let bytes: usize = page.entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
            let fits = page.entries.len() * PAGE_BYTES / bytes.max(1);
            self.limit = i64::try_from(fits).unwrap_or(MAX_LIMIT).clamp(1, (self.limit * 4).min(MAX_LIMIT));
            return Ok(Some(page.entries));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scripted::{Scripted, undisturbed};
    use super::*;

    fn all(server: &Scripted) -> (Vec<Vec<u8>>, Pins) {
        let patience = undisturbed();
        let mut pages = Pages::new(server, &patience);
        let mut keys = Vec::new();
        while let Some(entries) = pages.next_entries().unwrap() {
            keys.extend(entries.into_iter().map(|entry| entry.key));
        }
        (keys, pages.pins().clone())
    }

    #[test]
    fn every_key_comes_once_in_order_with_the_revision_it_was_looked_for_at() {
        let server = Scripted::new();
        let keys: Vec<_> = (0..1234).map(|number| format!("/k/{number:05}").into_bytes()).collect();
        for key in &keys {
            server.put(key, &[b'v'; 700], 0);
        }
        assert_eq!(all(&server), (keys.clone(), Pins(vec![(vec![0], 1235)])));
        // The pin goes in the middle, an answer is too large, and one does not come.
        server.fail_pages([(2, FaultKind::Compacted), (4, FaultKind::AnswerTooLarge), (5, FaultKind::Unknown)]);
        let (read, pins) = all(&server);
        assert_eq!(read, keys);
        assert_eq!(pins.lost(), 1);
        assert_eq!((pins.at(b"/a"), pins.at(b"/z")), (1235, 1235));
    }

    #[test]
    fn large_values_come_a_few_at_a_time() {
        let server = Scripted::new();
        for number in 0..100 {
            server.put(&[b'/', number], &vec![b'v'; 400 << 10], 0);
        }
        all(&server);
        let most = server.page_limits().into_iter().skip(1).max().unwrap();
        assert!(most <= 4, "{most}");
    }
}
