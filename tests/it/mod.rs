//! Topics, a module each; and the helpers that run other people's programs.

mod check;
mod cli;
mod etcdutl;
mod fixtures;
mod layers;
mod output;
mod program;
mod selection;
mod servers;
mod snapshots;
mod unsteady;
mod walk;
