//! Rewriting: the same store with its values in another form, as a new file that is proved before it takes its name.
//!
//! Read in this order: [`target`] (what is to be written), [`decide`] (one value, pure: what becomes of it), [`tally`] (the plan:
//! what becomes of how many), [`judging`] (one record after the other), [`seal`] (many values, side by side), [`crate::bbolt::turns`] (workers hand over in the order of keys),
//! [`keep`] (which records a compaction would leave), [`buckets`] (everything but the records), [`mod@write`] (all of it, into a file
//! beside the source), [`prove`] (one value), [`verify`] (reads the file back and holds every record against the source), [`run`] (plan, write, prove).
//!
//! What is kept in kine's table is planned and written by `kine` instead of `write`, and proved by its `kine::verify`.
//! A running store is changed in place instead: [`live`].
//!
//! It knows neither forms of output nor names of files; a source that is a file is only ever read.

pub mod buckets;
pub mod decide;
pub mod judging;
pub mod keep;
#[cfg(feature = "kine")]
pub mod kine;
pub mod live;
pub mod prove;
pub mod run;
pub mod seal;
pub mod tally;
pub mod target;
pub mod verify;
pub mod write;
