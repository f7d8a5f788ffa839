//! What etcd keeps in its bbolt file: revisions, key-value records, leases, and what it writes about itself.
//!
//! Read in this order: [`schema`] (buckets and fields), [`revision`] and [`mvcc`] (the `key` bucket), [`meta`]
//! (what etcd notes about itself), [`hash`] (the digests that its own tools print). Beside the database lies the log: [`wal`] (its
//! segments), [`raft`] (entries), [`request`] (what they ask for), [`standing`] and [`apply`] (what comes of that). [`span`] is
//! for whoever reads the keys of a running server.
//!
//! Nothing here knows Kubernetes or encryption. Upstream: `etcd-io/etcd` `server/storage/{schema,mvcc}`, 3.4 to 3.7;
//! `docs/formats/etcd.md` has the tables.

pub mod apply;
pub mod hash;
pub mod meta;
pub mod mvcc;
pub mod raft;
pub mod request;
pub mod revision;
pub mod schema;
pub mod span;
pub mod standing;
pub mod wal;
pub mod wire;

pub use mvcc::{Around, KeyValue};
pub use revision::{Revision, RevisionKey};
