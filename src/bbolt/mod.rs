//! bbolt's file: pages, meta records, buckets, and the pairs in them.
//!
//! Read in this order: [`page`] (what stands at which offset), [`meta`] (which tree is the current one),
//! [`mod@file`] (a page by its id), [`bucket`], [`leaves`] (a bucket's leaf pages, found through its branches),
//! [`leaf`] (one leaf's pairs), [`cursor`] (a bucket's pairs in order), [`check`] (every invariant), [`mod@write`] (a whole
//! new file) with [`turns`] (by several threads).
//!
//! Nothing here knows etcd, Kubernetes or encryption. Nothing depends on the freelist: what a tree does
//! not reach is free. Upstream: `etcd-io/bbolt`, format version 2; `docs/formats/bbolt.md` has the tables.

pub mod bucket;
pub mod buffer;
pub mod check;
pub mod cursor;
pub mod fault;
pub mod file;
pub mod freelist;
mod keys;
pub mod leaf;
pub mod leaves;
pub mod meta;
pub mod page;
pub mod reached;
pub mod turns;
pub mod write;

pub use fault::{Fault, FaultKind, Faults};
pub use file::{OpenError, PageFile};
