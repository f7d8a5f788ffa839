//! Rewritten stores, held against their sources by means that share nothing with the program: a second reader of the
//! tree, etcd's own tools and servers, and what upstream's code says that each value holds.

mod damage;
mod etcd;
mod files;
mod model;
mod refusals;
mod reports;
mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use atrest::audit::deks::Deks;
use atrest::audit::rules::{ChainRef, Guard, Rules};
use atrest::config::{self, ApiServers};
use atrest::kube::key::Roots;
use atrest::provider::chain::Answer;
use atrest::provider::plaintext::Plaintext;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{Run, argument, atrest, private};
use super::walk::{self, Record};

/// Everything that may be in front of the resources in a key.
const ROOTS: [&str; 3] = ["/registry", "/kubernetes.io", "/openshift.io"];

/// Runs `rewrite` with a report as JSON.
pub fn rewrite(source: &str, output: &Path, arguments: &[&str]) -> Run {
    atrest(&[&["rewrite", source, "--report", "json", "-o", argument(output)], arguments].concat())
}

/// Configurations, as an API server that has nothing else opens values with them.
pub struct Opener(Rules);

impl Opener {
    pub fn new(paths: &[String]) -> Self {
        let load = |path: &String| (path.clone(), config::load(&fs::read(path).unwrap()).unwrap());
        Self(Rules::new(ApiServers::new(paths.iter().map(load).collect()).unwrap()).unwrap())
    }

    /// Nothing but plaintext opens.
    pub fn without_configuration() -> Self {
        Self::new(&[])
    }

    pub fn rules(&self) -> &Rules {
        &self.0
    }

    /// What a value holds, and whether it would be written otherwise; none if it does not open.
    pub fn open(&self, record: &Record) -> Option<(Vec<u8>, bool)> {
        Self::with(&self.0, record)
    }

    /// The same with prepared configurations.
    pub fn with(rules: &Rules, record: &Record) -> Option<(Vec<u8>, bool)> {
        let address = Roots::given(&ROOTS).locate(&record.key);
        let open = |chain: ChainRef| {
            let (deks, mut scratch) = (Deks::default(), Plaintext::new());
            match rules.chain(chain)?.open(&record.key, &record.value, deks.of(chain), &mut scratch) {
                Answer::Opened { plaintext, stale, .. } => Some((plaintext.to_vec(), stale)),
                Answer::Failed(_) | Answer::Waits { .. } => None,
            }
        };
        let is_sealed = record.value.starts_with(b"k8s:enc:");
        match rules.guard(&address) {
            Guard::Nobody => (!is_sealed).then(|| (record.value.clone(), false)),
            Guard::Chain(chain) => open(chain),
            Guard::Unsettled => rules.candidates().find_map(open),
        }
    }
}

/// Which records of a store are to be in its rewritten form: all, or those that a compaction at its revision would leave.
pub fn left(records: Vec<Record>, drop_history: bool) -> Vec<Record> {
    if !drop_history {
        return records;
    }
    let current = records.iter().map(|record| record.main).max();
    let newest: BTreeMap<Vec<u8>, (i64, i64)> =
        records.iter().map(|record| (record.key.clone(), (record.main, record.sub))).collect();
    let stays = |record: &Record| {
        newest[&record.key] == (record.main, record.sub) && (!record.tombstone || Some(record.main) == current)
    };
    records.into_iter().filter(stays).collect()
}

/// The same record without its value.
pub fn but_value(record: &Record) -> Record {
    Record { value: Vec::new(), ..record.clone() }
}

/// How often a piece stands in bytes.
pub fn count_of(piece: &[u8], bytes: &[u8]) -> usize {
    bytes.windows(piece.len()).filter(|window| *window == piece).count()
}

/// A configuration with one key in front of identity, for these resources.
pub fn configuration(folder: &TempDir, provider: &str, key: &str, resources: &[&str]) -> String {
    let (secret, other) = match provider {
        "aesgcm" => ("fRxfjgK5SmYx+uDHmF0rFA==", None),
        "identity" => ("", None),
        _ => ("weg7XZ8Ecqpr4dU8iPYQTieVy9B/OmHpTbgMVvKaN+Q=", Some(json!({"identity": {}}))),
    };
    let first = match provider {
        "identity" => json!({"identity": {}}),
        _ => json!({ provider: {"keys": [{"name": key, "secret": secret}]} }),
    };
    let providers: Vec<Value> = [Some(first), other].into_iter().flatten().collect();
    let document = json!({
        "kind": "EncryptionConfiguration",
        "apiVersion": "apiserver.config.k8s.io/v1",
        "resources": [{"resources": resources, "providers": providers}],
    });
    private(folder, &format!("{provider}-{key}.json"), document.to_string().as_bytes())
}

/// Asserts that a file is whole by its own check, and gives what that says.
#[track_caller]
pub fn whole(path: &Path) -> Value {
    let run = atrest(&["check", argument(path), "--hashkv", "-o", "json"]);
    let found = run.json();
    assert_eq!((run.code, &found["faults"], &found["free_pages"]), (0, &json!([]), &json!(0)), "{found:#}");
    found
}

/// Asserts that of `k8s:enc:` and of the head of Kubernetes' protobuf there is nothing outside the values of records.
#[track_caller]
pub fn nothing_else_is_left(path: &Path) {
    let (bytes, records) = (fs::read(path).unwrap(), walk::records(argument(path)));
    for piece in [&b"k8s:enc:"[..], b"k8s\0"] {
        let told: usize = records.iter().map(|record| count_of(piece, &record.value)).sum();
        assert_eq!(count_of(piece, &bytes), told, "{:?} in {}", String::from_utf8_lossy(piece), path.display());
    }
}
