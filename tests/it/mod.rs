//! Topics, a module each; and the helpers that run other people's programs.

mod damage;
mod etcdutl;
mod layers;
mod servers;
mod snapshots;
