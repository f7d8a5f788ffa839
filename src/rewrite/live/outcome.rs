//! What a key that is read again says of a write whose outcome is not known.
//!
//! A request that was not answered may have been carried out, may be under way still, or be lost. The value tells: sealed
//! values are never the same twice. So a write is repeated with the very same bytes; whichever of the two requests comes
//! first, the other one meets another revision, and the value that is read is ours either way.

use super::keyspace::{Change, Entry};

/// The entry that a change was made from, as far as it is needed to tell what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// The revision that made the key.
    pub create_revision: i64,
    /// How often it was written.
    pub version: i64,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the store, at this revision.
    Ours(i64),
    /// It is not, and nobody else wrote either: it can be sent again.
    NotYet,
    /// Somebody else wrote, or made the key anew.
    Theirs,
    /// Somebody deleted the key.
    Gone,
}

/// Tells what became of a change by what its key holds now.
pub fn tell(change: &Change, before: Before, now: Option<&Entry>) -> Outcome {
    let Some(now) = now else { return Outcome::Gone };
    if now.mod_revision == change.expected {
        return Outcome::NotYet;
    }
    // A plaintext may be the same by chance; then one write and the same lease are as good as ours.
    let is_ours = now.value == change.value
        && now.create_revision == before.create_revision
        && now.version == before.version + 1
        && now.lease == change.lease;
    if is_ours { Outcome::Ours(now.mod_revision) } else { Outcome::Theirs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &[u8], mod_revision: i64, version: i64) -> Entry {
        let value = value.to_vec().into();
        Entry { key: b"/k".to_vec(), value, create_revision: 2, mod_revision, version, lease: 7 }
    }

    #[test]
    fn a_key_that_is_read_again_tells_what_became_of_a_write() {
        let change = Change { key: b"/k".to_vec(), expected: 5, lease: 7, value: b"new".to_vec().into() };
        let before = Before { create_revision: 2, version: 3 };
        let tell = |now: Option<Entry>| tell(&change, before, now.as_ref());
        assert_eq!(tell(None), Outcome::Gone);
        assert_eq!(tell(Some(entry(b"old", 5, 3))), Outcome::NotYet);
        assert_eq!(tell(Some(entry(b"new", 9, 4))), Outcome::Ours(9));
        assert_eq!(tell(Some(entry(b"other", 9, 4))), Outcome::Theirs);
        // Somebody wrote the same once more, made the key anew, or bound it to another lease.
        assert_eq!(tell(Some(entry(b"new", 9, 5))), Outcome::Theirs);
        assert_eq!(tell(Some(Entry { create_revision: 8, ..entry(b"new", 9, 4) })), Outcome::Theirs);
        assert_eq!(tell(Some(Entry { lease: 0, ..entry(b"new", 9, 4) })), Outcome::Theirs);
    }
}
