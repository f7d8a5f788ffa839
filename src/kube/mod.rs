//! What Kubernetes stores: how a key addresses an object, and the forms a stored object has.
//!
//! Nothing here knows where a value was stored, or how it is encrypted. Read [`table`] and [`key`] first,
//! then [`payload`]; [`roots`], [`locator`], [`custom`] and [`select`] build on them.

pub mod custom;
pub mod document;
pub mod key;
pub mod labels;
pub mod locator;
pub mod payload;
pub mod resource;
pub mod roots;
pub mod schema;
pub mod select;
pub mod table;
