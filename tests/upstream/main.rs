//! The second suite: what needs upstream's own programs, which `tests/upstream/run` builds and nothing else installs.
//!
//! `cargo test` leaves it alone. It is run before a change to what it covers is called done. Nothing here skips itself: a
//! program that is missing is a failure that names the command which builds it.

#[path = "../it/bootstrap.rs"]
#[allow(dead_code, reason = "the first suite uses all of it")]
mod bootstrap;
#[path = "../it/crashed.rs"]
mod crashed;
#[path = "../it/etcdutl.rs"]
mod etcdutl;
#[path = "../it/made.rs"]
#[allow(dead_code, reason = "the first suite uses all of it")]
mod made;
#[path = "../it/program.rs"]
#[allow(dead_code, reason = "the first suite uses all of it")]
mod program;
#[path = "../it/rows.rs"]
mod rows;
#[path = "../it/servers.rs"]
#[allow(dead_code, reason = "the first suite uses all of it")]
mod servers;
// The same tests, with the releases of this suite.
#[path = "../it/snapshots.rs"]
mod snapshots;
#[path = "../it/walk.rs"]
mod walk;

mod apiserver;
mod built;
mod check;
mod extract;
mod kine;
mod kms;
mod kube;
#[cfg(feature = "live")]
mod live;
#[cfg(feature = "live")]
mod live_rewrite;
mod oracle;
mod payloads;
mod random;
mod restored;
mod rewritten;

/// The releases of etcd that this suite builds and runs against.
const RELEASES: [servers::Release; 2] = [servers::Release::V3_6, servers::Release::V3_7];
