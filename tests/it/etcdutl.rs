//! etcd's own offline tool, to agree with.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::servers::{self, Release};

/// What `etcdutl snapshot status` says of a snapshot.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// CRC-32C over every bucket, key and value.
    pub hash: u32,
    /// The newest revision in it.
    pub revision: i64,
    /// Length of the database in bytes, free pages included.
    pub total_size: u64,
}

/// Runs `etcdutl snapshot status` of the newest release that this suite has.
pub fn snapshot_status(snapshot: &Path) -> Status {
    let newest = Release::ALL.into_iter().last().expect("a release");
    let mut command = Command::new(newest.program("etcdutl"));
    command.args(["snapshot", "status", "-w", "json"]).arg(snapshot);
    serde_json::from_slice(&servers::output(command)).expect("etcdutl writes JSON")
}
