//! Where records come from.
//!
//! A source gives [`Record`]s, what the store notes about itself, and what is wrong with the file. It knows the forms
//! in which a store is kept, but neither encryption nor what a key means.

pub mod check;
pub mod container;
pub mod datadir;
pub mod digest;
pub mod feed;
#[cfg(feature = "kine")]
pub mod kine;
mod leafpage;
#[cfg(feature = "live")]
pub mod live;
#[cfg(feature = "live")]
pub mod members;
pub mod ordered;
mod pace;
pub mod relay;
pub mod residue;
#[cfg(feature = "live")]
pub mod save;
pub mod scan;
pub mod sha256;
pub mod shelf;
pub mod snapshot;
pub mod store;
pub mod trace;

pub use snapshot::Snapshot;
pub use store::Store;

pub use crate::bbolt::leaves::Depth;
pub use crate::bbolt::{Fault, FaultKind, Faults, PageFile};
pub use crate::etcd::meta::StoreMeta;
pub use crate::etcd::{KeyValue, Revision};

use crate::etcd::RevisionKey;

/// A key of the `key` bucket that is no revision.
pub const REVISION_KEY_FAULT: FaultKind = FaultKind::Content("revision-key");
/// A value of the `key` bucket that is no key-value record, or contradicts its key.
pub const RECORD_FAULT: FaultKind = FaultKind::Content("record");
/// A bucket that every etcd makes is not there, or a pair is a bucket where etcd has none.
pub const SCHEMA_FAULT: FaultKind = FaultKind::Content("schema");
/// A part of the log that does not hold, or that cannot be applied.
pub const LOG_FAULT: FaultKind = FaultKind::Content("log");

/// What was salvaged is not certain, or not all of it was.
pub const SALVAGE_FAULT: FaultKind = FaultKind::Content("salvage");

/// The kinds of fault that a store has beside those of its pages, for the help text.
pub const FAULTS: [FaultKind; 5] = [REVISION_KEY_FAULT, RECORD_FAULT, SCHEMA_FAULT, LOG_FAULT, SALVAGE_FAULT];

/// Where a record stands among all records of the store. Places order as revisions do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The leaf page, counted in key order.
    pub leaf: u32,
    /// The element on that page.
    pub index: u16,
}

/// One revision of one key.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// Where it stands.
    pub place: Place,
    /// Its revision, and whether it is a tombstone.
    pub revision: RevisionKey,
    /// What it says.
    pub kv: KeyValue<'r>,
}
