//! Getting objects out: from stored values to what an API server would have served.
//!
//! [`stored`] reads one value as it is copied about, [`open`] gives one value's plaintext; [`get`] finds the values that are asked for and decodes
//! them in order, [`flow`] lets all of them pass as fast as they go, [`extract`] makes of each a file that can be applied elsewhere, and [`diff`]
//! compares those of two stores; [`salvage`] saves what is left of a broken file. Nothing here knows forms of output.

pub mod diff;
pub mod extract;
pub mod flow;
pub mod get;
mod notes;
pub mod open;
pub mod path;
pub mod phase;
pub mod protection;
mod queue;
pub mod salvage;
pub mod seen;
pub mod stored;

pub use crate::kube::document::{self, Document, Malformed, Node, Scalar};
pub use crate::kube::resource::GroupResource;
pub use crate::kube::schema::{self, Layout};
