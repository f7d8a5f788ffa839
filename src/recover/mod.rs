//! Getting objects out: from stored values to what an API server would have served.
//!
//! [`stored`] reads one value as it is copied about, [`open`] gives one value's plaintext; [`get`] finds the values that are asked for and decodes them in order; [`salvage`] saves
//! what is left of a broken file. Nothing here knows forms of output.

pub mod get;
pub mod open;
pub mod salvage;
pub mod stored;

pub use crate::kube::document::{self, Document, Malformed, Node, Scalar};
pub use crate::kube::resource::GroupResource;
