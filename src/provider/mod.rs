//! Value encryption as kube-apiserver does it: one file for each provider.
//!
//! Nothing here knows etcd, resources or files; a provider sees stored bytes and associated data.

pub mod secret;
pub mod spec;
