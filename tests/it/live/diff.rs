//! What changed since a backup: a file beside a running server.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::it::program::{Run, atrest, program, temporary, testdata};
use crate::it::servers::Release;

use super::server::Cluster;

const STORE: &str = "apiserver/snapshot.db";

fn diff(before: &str, more: &[&str]) -> Run {
    let config = testdata("apiserver/encryption-config.yaml");
    atrest(&[&["diff", before, "-c", &config][..], more].concat())
}

#[test]
fn a_backup_is_compared_with_what_runs_now() {
    let store = testdata(STORE);
    let mut server = Cluster::restored(Release::V3_5, Path::new(&store));
    let endpoint = server.endpoints();
    let run = diff(&store, &["--endpoints", &endpoint]);
    assert_eq!((run.code, run.text()), (0, "objects: 306 the same\n"), "{}", run.err);

    let map = |name: &str| format!("/registry/configmaps/default/{name}");
    let object = |name: &str, value: &str| {
        let metadata = json!({"name": name, "namespace": "default"});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"k": value}}).to_string()
    };
    let member = server.first();
    member.put(&map("new"), object("new", "1").as_bytes());
    let folder = temporary();
    let saved = folder.path().join("saved.db");
    member.etcdctl(&["snapshot", "save", saved.to_str().unwrap()]);
    member.put(&map("new"), object("new", "2").as_bytes());
    member.etcdctl(&["del", "/registry/namespaces/default"]);
    let run = diff(&store, &["--endpoints", &endpoint, "-o", "json"]);
    let document = run.json();
    assert_eq!((run.code, &document["after"]), (1, &json!(endpoint)));
    assert_eq!((&document["counts"]["added"], &document["counts"]["removed"]), (&json!(1), &json!(1)), "{document}");

    // Of a selection the first word stands where a second file would; what changed is read from the server once more.
    let saved = saved.to_str().unwrap();
    let run = diff(saved, &["cm", "-n", "default", "--endpoints", &endpoint, "-o", "unified"]);
    assert_eq!(run.code, 1, "{}", run.err);
    assert!(run.text().contains("-  k: \"1\"\n+  k: \"2\"\n"), "{}", run.text());
    let config = testdata("apiserver/encryption-config.yaml");
    let run = atrest(&["diff", saved, "namespaces", "--endpoints", &endpoint, "-c", &config, "-o", "json"]);
    assert_eq!(run.json()["counts"]["removed"], json!(1), "{}", run.err);

    // As with all commands, the environment's endpoints count where nothing else is given.
    let mut command = program();
    command.args(["diff", saved, "-c", &config]).env("ETCDCTL_ENDPOINTS", &endpoint);
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    fs::remove_file(saved).unwrap();
    assert!(diff(&store, &[]).failed(2).contains("there is no AFTER"));
    assert!(diff(&store, &[&store, "--endpoints", &endpoint]).failed(2).contains("takes the place of a file"));
    server.members[0].kill();
    let run = diff(&store, &["--endpoints", &endpoint]);
    assert!(run.failed(3).contains(&endpoint), "{}", run.err);
}
