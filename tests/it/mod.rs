//! Topics, a module each; and the helpers that run other people's programs.

mod check;
mod etcdutl;
mod fixtures;
mod layers;
mod program;
mod servers;
mod snapshots;
mod walk;
