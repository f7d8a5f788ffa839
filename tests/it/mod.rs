//! Topics, a module each; and the helpers that run other people's programs.

mod check;
mod damage;
mod etcdutl;
mod fixtures;
mod layers;
#[cfg(feature = "kms")]
mod plugins;
mod program;
mod servers;
mod snapshots;
#[cfg(feature = "kms")]
mod stand_in;
mod walk;
