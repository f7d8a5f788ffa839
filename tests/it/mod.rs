//! Topics, a module each; and the helpers that run other people's programs.

mod bootstrap;
mod change;
mod check;
mod cli;
mod crashed;
mod damage;
mod datadir;
mod diff;
mod etcdutl;
mod extract;
mod fit;
mod fixtures;
mod get;
mod hygiene;
mod keys;
#[cfg(feature = "kine")]
mod kine;
mod layers;
mod leftovers;
#[cfg(feature = "live")]
mod live;
#[cfg(feature = "live")]
mod live_rewrite;
mod made;
#[cfg(feature = "kms")]
mod minting;
mod output;
#[cfg(feature = "kms")]
mod plugins;
mod program;
mod recover_config;
mod remedy;
mod resealing;
mod rewrite;
#[cfg(feature = "kms")]
mod rewrite_kms;
mod rows;
mod salvage;
mod selection;
mod servers;
mod snapshots;
#[cfg(feature = "kms")]
mod stand_in;
mod status;
mod unsteady;
mod walk;

/// The releases of etcd that packages bring, which this suite runs against.
const RELEASES: [servers::Release; 2] = [servers::Release::V3_4, servers::Release::V3_5];
