//! Value encryption as kube-apiserver does it: one file for each provider.
//!
//! Nothing here knows etcd, resources or files; a provider sees stored bytes and associated data. [`prefix`] tells what
//! a value claims to be without any configuration; a [`chain`] of providers opens it or says in kube-apiserver's words
//! why it does not open. Opened DEKs of KMS plugins come in as a [table](kms::DekTable), so nothing here ever waits.

pub mod aescbc;
pub mod aesgcm;
pub mod chain;
pub mod fault;
pub mod identity;
pub mod kms;
pub mod nonce;
pub mod plaintext;
pub mod prefix;
pub mod secret;
pub mod secretbox;
pub mod spec;

#[cfg(test)]
mod dispatch_tests;
#[cfg(test)]
mod vectors;
