//! Two stores compared object by object, by what they hold and not by how it is sealed.
//!
//! One pass over each notes for every record a digest of its plaintext, under one key that is drawn for the run. The notes of both, sorted by
//! object, are gone through side by side, so memory does not depend on how many objects there are; only what differs is read again. An
//! object is the same wherever a store keeps it: roots do not count.
//!
//! What stays closed is never called equal, whatever its stored bytes are.

mod paths;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io;

use zeroize::Zeroizing;

use crate::kube::document::Document;
use crate::kube::resource::GroupResource;

use super::get::{Content, Found, Item};
use super::notes::{Held, Noted};
use super::protection::{Changed, Protection};

pub use paths::{MAX_PATHS, changed_paths};

/// So many differing objects are read again at a time.
const BATCH_OBJECTS: usize = 1024;
/// A batch ends early when its values have so many bytes.
const BATCH_BYTES: u64 = 8 << 20;

/// One side of a difference.
pub struct Side {
    /// The etcd key.
    pub key: Vec<u8>,
    /// The revision at which it was written.
    pub mod_revision: i64,
    /// What it is sealed with.
    pub protection: Protection,
    /// What it holds.
    pub holds: Holds,
}

/// What one side holds.
pub enum Holds {
    /// Nothing that had to be read again.
    Unread,
    /// An object, as JSON without `managedFields` and `resourceVersion`.
    Object(Zeroizing<Vec<u8>>),
    /// Something that is no object.
    Undecodable(String),
    /// It stays closed, and why.
    Closed(String),
}

/// What became of an object's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Only the second store has it.
    Added,
    /// Only the first store has it.
    Removed,
    /// It is the same.
    Same,
    /// It is another one; these fields differ.
    Changed(Vec<String>),
    /// It stays closed on one side at least.
    Unknown {
        /// Whether the stored bytes are the same on both sides.
        same_bytes: bool,
    },
}

/// An object in which two stores differ.
pub struct Difference {
    /// Its resource.
    pub resource: GroupResource,
    /// Its namespace; empty for an object of the cluster's scope.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its kind, where key or definition tell.
    pub kind: Option<String>,
    /// What became of its content.
    pub content: Outcome,
    /// What became of its encryption.
    pub protection: Changed,
    /// In the first store.
    pub before: Option<Side>,
    /// In the second store.
    pub after: Option<Side>,
}

/// How many objects differ in what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In nothing.
    pub same: u64,
    /// Only in the second store.
    pub added: u64,
    /// Only in the first store.
    pub removed: u64,
    /// In their content.
    pub changed: u64,
    /// The same content under another key.
    pub other_key: u64,
    /// The same content under another provider, or sealed and not sealed.
    pub other_encryption: u64,
    /// Closed on one side at least.
    pub closed: u64,
}

impl Counts {
    /// Whether anything differs; `content_only` does not count encryption.
    pub fn differ(&self, content_only: bool) -> bool {
        let contents = self.added + self.removed + self.changed;
        contents > 0 || (!content_only && self.other_key + self.other_encryption > 0)
    }
}

/// Two stores that are gone through side by side.
pub struct Comparison<'c, 'f> {
    before: &'c mut Found<'f>,
    after: &'c mut Found<'f>,
    ahead: [Option<Noted>; 2],
    /// What was found so far.
    pub counts: Counts,
}

/// Two notes of one object, one of which may be missing.
struct Pair {
    before: Option<Noted>,
    after: Option<Noted>,
    /// Whether both have to be read again.
    read: bool,
}

impl<'c, 'f> Comparison<'c, 'f> {
    /// Begins. Both must have been found in the order of objects, with digests under the same key.
    ///
    /// # Errors
    ///
    /// When the sorted notes cannot be read again.
    pub fn begin(before: &'c mut Found<'f>, after: &'c mut Found<'f>) -> io::Result<Self> {
        let ahead = [before.next_wanted()?, after.next_wanted()?];
        Ok(Self { before, after, ahead, counts: Counts::default() })
    }

    /// The next differences in the order of objects; none at the end. What they hold is read again only with `read_all`, or
    /// where that is needed to tell whether they differ.
    ///
    /// # Errors
    ///
    /// When the sorted notes cannot be read again.
    pub fn next_batch(&mut self, read_all: bool) -> io::Result<Option<Vec<Difference>>> {
        loop {
            let (mut pairs, mut bytes, mut ended) = (Vec::new(), 0, false);
            while pairs.len() < BATCH_OBJECTS && bytes < BATCH_BYTES {
                let Some(pair) = self.next_pair()? else {
                    ended = true;
                    break;
                };
                if let Some(pair) = self.sift(pair, read_all) {
                    let length = |noted: &Option<Noted>| noted.as_ref().map_or(0, |noted| noted.value_bytes);
                    bytes += if pair.read { length(&pair.before) + length(&pair.after) } else { 0 };
                    pairs.push(pair);
                }
            }
            if pairs.is_empty() && ended {
                return Ok(None);
            }
            let differences = self.differences(pairs);
            if !differences.is_empty() || ended {
                return Ok(Some(differences));
            }
        }
    }

    fn next_pair(&mut self) -> io::Result<Option<Pair>> {
        let order = match &self.ahead {
            [None, None] => return Ok(None),
            [Some(_), None] => Ordering::Less,
            [None, Some(_)] => Ordering::Greater,
            [Some(before), Some(after)] => before.object.cmp(&after.object),
        };
        let [ahead_before, ahead_after] = &mut self.ahead;
        let mut pair = Pair { before: None, after: None, read: true };
        if order.is_le() {
            pair.before = std::mem::replace(ahead_before, self.before.next_wanted()?);
        }
        if order.is_ge() {
            pair.after = std::mem::replace(ahead_after, self.after.next_wanted()?);
        }
        Ok(Some(pair))
    }

    /// Counts what is the same and passes it over; decides what has to be read again.
    fn sift(&mut self, pair: Pair, read_all: bool) -> Option<Pair> {
        let (Some(before), Some(after)) = (held(&pair.before), held(&pair.after)) else {
            return Some(Pair { read: read_all || is_closed(&pair.before) || is_closed(&pair.after), ..pair });
        };
        match (before.plaintext, after.plaintext) {
            (Some(one), Some(other)) if one == other => match before.protection.changed(&after.protection) {
                Changed::No => {
                    self.counts.same += 1;
                    None
                }
                Changed::Key | Changed::Encryption => Some(Pair { read: false, ..pair }),
            },
            _ => Some(pair),
        }
    }

    fn differences(&mut self, pairs: Vec<Pair>) -> Vec<Difference> {
        let notes = |side: fn(&Pair) -> Option<&Noted>| {
            let wanted = pairs.iter().enumerate().filter(|(_, pair)| pair.read);
            wanted.filter_map(|(index, pair)| Some((index, side(pair)?))).unzip::<_, _, Vec<usize>, Vec<&Noted>>()
        };
        let (before_pairs, before_notes) = notes(|pair| pair.before.as_ref());
        let (after_pairs, after_notes) = notes(|pair| pair.after.as_ref());
        let (read_before, read_after) =
            rayon::join(|| self.before.numbered_items(&before_notes), || self.after.numbered_items(&after_notes));
        let by_pair = |pairs: Vec<usize>, items: Vec<(usize, Item)>| -> HashMap<usize, Item> {
            items.into_iter().filter_map(|(number, item)| Some((*pairs.get(number)?, item))).collect()
        };
        let mut read_before = by_pair(before_pairs, read_before);
        let mut read_after = by_pair(after_pairs, read_after);
        drop((before_notes, after_notes));
        let mut found = Vec::with_capacity(pairs.len());
        for (index, pair) in pairs.into_iter().enumerate() {
            let items = (read_before.remove(&index), read_after.remove(&index));
            found.extend(self.difference(pair, items));
        }
        found
    }

    /// What the two sides of an object come to; none if they are the same after all.
    fn difference(&mut self, pair: Pair, items: (Option<Item>, Option<Item>)) -> Option<Difference> {
        let Pair { before, after, read } = pair;
        let same_bytes = match (held(&before), held(&after)) {
            (Some(before), Some(after)) => before.stored == after.stored,
            _ => false,
        };
        let named = before
            .as_ref()
            .map_or_else(|| self.after.described(&after.as_ref()?.key), |note| self.before.described(&note.key));
        let (resource, namespace, name, kind) = named?;
        let before = before.map(|noted| side(noted, items.0));
        let after = after.map(|noted| side(noted, items.1));
        let protection = match (&before, &after) {
            (Some(before), Some(after)) => before.protection.changed(&after.protection),
            _ => Changed::No,
        };
        let content = match (&before, &after) {
            (None, _) => Outcome::Added,
            (_, None) => Outcome::Removed,
            (Some(_), Some(_)) if !read => Outcome::Same,
            (Some(before), Some(after)) => compared(&before.holds, &after.holds, same_bytes),
        };
        match (&content, protection) {
            (Outcome::Same, Changed::No) => {
                self.counts.same += 1;
                return None;
            }
            (Outcome::Same, Changed::Key) => self.counts.other_key += 1,
            (Outcome::Same, Changed::Encryption) => self.counts.other_encryption += 1,
            (Outcome::Added, _) => self.counts.added += 1,
            (Outcome::Removed, _) => self.counts.removed += 1,
            (Outcome::Changed(_), _) => self.counts.changed += 1,
            (Outcome::Unknown { .. }, _) => self.counts.closed += 1,
        }
        Some(Difference { resource, namespace, name, kind, content, protection, before, after })
    }
}

fn held(noted: &Option<Noted>) -> Option<&Held> {
    noted.as_ref().and_then(|noted| noted.held.as_ref())
}

fn is_closed(noted: &Option<Noted>) -> bool {
    held(noted).is_some_and(|held| held.plaintext.is_none())
}

fn side(noted: Noted, item: Option<Item>) -> Side {
    let is_closed = noted.held.as_ref().is_some_and(|held| held.plaintext.is_none());
    let holds = match item.map(|item| item.content) {
        None if is_closed => Holds::Closed("it could not be read again".to_owned()),
        None => Holds::Unread,
        Some(Content::Object { json, .. }) => Holds::Object(json),
        Some(Content::Closed { reason, .. }) => Holds::Closed(reason),
        Some(Content::Undecodable { error, .. }) => Holds::Undecodable(error.to_string()),
    };
    let protection = noted.held.map(|held| held.protection).unwrap_or_default();
    Side { key: noted.key, mod_revision: noted.mod_revision, protection, holds }
}

fn compared(before: &Holds, after: &Holds, same_bytes: bool) -> Outcome {
    match (before, after) {
        (Holds::Closed(_), _) | (_, Holds::Closed(_)) => Outcome::Unknown { same_bytes },
        // What was read before and is gone now was overwritten under the reader; that it is the same nobody can say.
        (Holds::Unread, _) | (_, Holds::Unread) => Outcome::Unknown { same_bytes },
        (Holds::Object(before), Holds::Object(after)) if before == after => Outcome::Same,
        (Holds::Object(before), Holds::Object(after)) => match (Document::parse(before), Document::parse(after)) {
            (Ok(before), Ok(after)) => Outcome::Changed(changed_paths(before.root(), after.root())),
            _ => Outcome::Changed(Vec::new()),
        },
        _ => Outcome::Changed(Vec::new()),
    }
}
