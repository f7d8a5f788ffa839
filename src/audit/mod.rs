//! The audit: every value of a store against the configurations that should open it.
//!
//! Read in this order: [`finding`] (what can be wrong), [`rules`] (what the configurations mean), [`classify`] (one value,
//! pure), [`class`], [`keys`] and [`summary`] (what adds up), [`nonces`] and [`writes`] (what only many values together show),
//! [`rows`], [`merge`] and [`row`] (one for each record, sorted), [`run`] (all of it, in parallel, in one pass over the file).
//!
//! Nothing here knows forms of output, and nothing writes.

pub mod class;
pub mod classify;
pub mod deks;
pub mod finding;
mod first_keys;
pub mod fit;
pub mod gate;
pub mod keys;
pub mod loss;
pub mod merge;
pub mod nonces;
mod pile;
pub mod residue;
pub mod row;
pub mod rows;
pub mod rules;
pub mod run;
pub mod summary;
pub(crate) mod survey;
pub mod writes;
