//! All that a live rewrite asks of a keyspace, and how its answers can go wrong.
//!
//! Upstream: `etcd-io/etcd`, `api/v3rpc/rpctypes/error.go`; `k3s-io/kine`, `pkg/server/update.go`.

use zeroize::Zeroizing;

/// The newest record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// What is stored.
    pub value: Zeroizing<Vec<u8>>,
    /// The revision that made the key.
    pub create_revision: i64,
    /// The revision of this value.
    pub mod_revision: i64,
    /// How often the key was written since it was made.
    pub version: i64,
    /// The lease that it goes with; 0 for none.
    pub lease: i64,
}

/// Entries one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the order of keys.
    pub entries: Vec<Entry>,
    /// The store's revision when this was answered.
    pub revision: i64,
    /// Whether there are entries behind these.
    pub more: bool,
    /// How many entries the range has, these and those behind them.
    pub count: u64,
}

/// A value that is to take another one's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// The revision of the value whose place it takes. At any other one nothing happens.
    pub expected: i64,
    /// The lease that the key goes with, which it keeps.
    pub lease: i64,
    /// What is to be stored.
    pub value: Zeroizing<Vec<u8>>,
}

/// A running store.
pub trait Keyspace: Sync {
    /// The first entries of a range, given by its first key and the first one behind it
    /// ([`NO_END`](crate::etcd::span::NO_END) for none), at a revision; at 0 as a majority of the members knows them now.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn page(&self, range: (&[u8], &[u8]), revision: i64, limit: i64) -> Result<Page, Fault>;

    /// Whether it takes ranges of any kind, or only one of everything.
    fn takes_ranges(&self) -> bool;

    /// A key's entry as a majority of the members knows it.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn get(&self, key: &[u8]) -> Result<Option<Entry>, Fault>;

    /// All changes in one transaction, or none: gives the revision at which they are made, and nothing where a key is not at
    /// the revision that was expected.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn swap(&self, changes: &[&Change]) -> Result<Option<i64>, Fault>;

    /// How many changes go into one transaction.
    fn most_changes(&self) -> usize;

    /// Requests that are committed and not yet applied; none where nobody says.
    fn backlog(&self) -> Option<u64>;
}

/// An answer that did not come, or is a refusal. Displays as one sentence with the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Fault {
    /// What follows from it.
    pub kind: FaultKind,
    /// What happened, and at which endpoint.
    pub words: String,
}

impl Fault {
    /// A fault of this kind.
    pub fn new(kind: FaultKind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into() }
    }
}

/// What follows from a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No answer, or one that leaves open whether it was done: timeout, change of leader, lost connection.
    Unknown,
    /// It was not done since too much is under way.
    Busy,
    /// The revision is no longer in the store.
    Compacted,
    /// What was asked for does not fit into one answer.
    AnswerTooLarge,
    /// The request is larger than the server takes.
    RequestTooLarge,
    /// There are more operations in a transaction than the server takes.
    TooManyChanges,
    /// The lease ended.
    LeaseGone,
    /// The database has reached its quota.
    NoSpace,
    /// Nobody is allowed in with these credentials, or not to do this.
    Denied,
    /// Anything else that no repetition mends.
    Other,
}
