//! Rewriting a running keyspace: every value is read, made anew and put back only if nobody changed it meanwhile.
//!
//! Read in this order: [`keyspace`] (all that is asked of a server, as a trait, so that a scripted one can stand in for it),
//! [`transform`] (one entry, pure: what becomes of it), [`ordered`] (workers side by side, results in order), [`outline`]
//! (into which ranges the keyspace is cut), [`pages`] (page by page, in the order of keys), [`plan`] (what would become of how many, and what that takes), [`kept`] (what it puts
//! aside for the writing), [`preflight`] (pure: whether it may begin),
//! [`outcome`] (pure: what a key that was read again says of a write), [`settle`] (a batch of writes to its end), [`pace`] (how
//! fast), [`witness`] (what was read and written, so that it can be held against what is read in the end), [`journal`] (the
//! evidence), [`write`](mod@write) (all of it), [`prove`] (read once more), [`run`] (write and prove until it holds). `server` asks a real etcd or kine.
//!
//! Nothing is ever written that was not compared: each put is bound to the revision at which the value was read, so whoever
//! changes, deletes or makes a key anew in the meantime wins. No state is kept for a rerun; what is fresh is passed over.

pub mod journal;
pub mod kept;
pub mod keyspace;
pub mod ordered;
pub mod outcome;
pub mod outline;
pub mod pace;
pub mod pages;
pub mod plan;
pub mod preflight;
pub mod prove;
pub mod run;
#[cfg(feature = "live")]
pub mod server;
pub mod settle;
pub mod transform;
pub mod witness;
pub mod write;

#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;
