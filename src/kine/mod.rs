//! kine's table in SQLite: the store of a K3s server without etcd.
//!
//! kine answers etcd's API from one table, `kine`, in which every row is one revision of one key. A row's `id` is its
//! revision. Read [`row`] first, then [`schema`], [`database`], [`log`], [`check`], [`mod@write`]. SQLite itself reads and writes the
//! file, but for what it has freed ([`cell`], [`remains`]); nothing here knows Kubernetes, encryption, or what a value means.
//!
//! Upstream: `k3s-io/kine` `pkg/drivers/{sqlite,generic}`, `pkg/logstructured/sqllog`; as text: `docs/formats/kine.md`.

pub mod cell;
pub mod check;
pub mod database;
pub mod log;
pub mod remains;
pub mod row;
pub mod schema;
pub mod write;

pub use database::{Database, Facts};
pub use row::{Row, RowFault};

use std::fmt;

/// kine's own key, whose `prev_revision` says up to which revision the table was compacted.
pub const COMPACT_REV_KEY: &[u8] = b"compact_rev_key";

/// What a name begins with that fills a gap in the revisions; the revision follows.
pub const GAP_PREFIX: &[u8] = b"gap-";

/// Why there is nothing to read or to write.
#[derive(Debug, thiserror::Error)]
pub enum KineError {
    /// Another program's database.
    #[error(
        "is an SQLite database, but not kine's: it has no table `kine`{}",
        if .tables.is_empty() { String::new() } else { format!(", only {}", .tables.join(", ")) }
    )]
    NotKine {
        /// The first tables that it has.
        tables: Vec<String>,
    },
    /// A table of that name, with other columns.
    #[error("has a table `kine`, but not that of any kine: {0}")]
    Schema(String),
    /// Something beside the table that cannot be written anew.
    #[error("holds {0}, which kine never makes; it cannot be written anew")]
    Foreign(String),
    /// SQLite does not read or write it.
    #[error("SQLite says: {}", Said(.0))]
    Sqlite(#[from] rusqlite::Error),
}

/// SQLite's own words about an error, without the statement.
pub struct Said<'e>(pub &'e rusqlite::Error);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rusqlite::Error::SqliteFailure(_, Some(message)) => f.write_str(message),
            rusqlite::Error::SqlInputError { msg, .. } => f.write_str(msg),
            error => error.fmt(f),
        }
    }
}
