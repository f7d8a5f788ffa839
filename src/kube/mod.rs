//! What Kubernetes stores: how a key addresses an object, and the forms a stored object has.
//!
//! Nothing here knows where a value was stored, or how it is encrypted.

pub mod resource;
