//! Reads a Kubernetes datastore, tells for every stored value whether and with which key it is
//! encrypted, and proves that it decrypts with a given EncryptionConfiguration.
#![forbid(unsafe_code)]

pub mod audit;
pub mod bbolt;
pub mod cli;
pub mod config;
pub mod distro;
pub mod etcd;
#[cfg(any(feature = "kms", feature = "live"))]
mod grpc;
#[cfg(feature = "kine")]
pub mod kine;
pub mod kube;
#[cfg(feature = "live")]
pub mod live;
mod lock;
pub mod output;
#[cfg(feature = "kms")]
pub mod plugin;
pub mod provider;
pub mod recover;
pub mod report;
pub mod rewrite;
pub mod source;
