//! Running servers of the newer releases, which stream what is asked for, and kine, which knows a part of the protocol.

#[path = "../it/live/proxy.rs"]
#[allow(dead_code, reason = "the first suite uses all of it")]
mod proxy;
#[path = "../it/live/server.rs"]
#[allow(dead_code, reason = "the first suite uses all of it")]
mod server;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::built::{Running, built};
use super::program::{argument, atrest, audit, temporary, testdata};
use super::servers::{Release, output};

use proxy::{Next, Proxy};
use server::Cluster;

#[test]
fn the_rows_of_a_restored_store_are_those_of_its_file_byte_for_byte() {
    for (store, config, releases) in [
        ("kubeadm/snapshot.db", "kubeadm/encryption-config.yaml", &Release::ALL[..]),
        ("versions/etcd-3.6.db", "versions/encryption-config.json", &Release::ALL),
        ("versions/etcd-3.7.db", "versions/encryption-config.json", &[Release::V3_7]),
    ] {
        let (store, config) = (testdata(store), testdata(config));
        for &release in releases {
            let server = Cluster::restored(release, Path::new(&store));
            let live = atrest(&["audit", "--endpoints", &server.endpoints(), "-c", &config, "-o", "csv"]);
            let file = audit(&store, &[&config], &["-o", "csv"]);
            assert!(live.out == file.out && live.err.is_empty(), "{store} in {release:?}: {}", live.err);
            let check = atrest(&["check", "--endpoints", &server.endpoints(), "-o", "json"]);
            assert_eq!(check.code, 0, "{}", check.text());
            assert!(check.json()["members"][0]["db_bytes_quota"].as_u64() > Some(0), "{}", check.text());
            let folder = temporary();
            let path = folder.path().join("saved.db");
            let saved = atrest(&["snapshot", "save", "-o", argument(&path), "--endpoints", &server.endpoints()]);
            assert_eq!(saved.code, 0, "{}", saved.err);
        }
    }
}

#[test]
fn streams_and_pages_that_are_cut_cost_no_key() {
    for release in Release::ALL {
        let server = Cluster::single(release);
        let names: Vec<_> = (0..600).map(|number| format!("/registry/configmaps/ns/c-{number:05}")).collect();
        server.first().put_all(&names, &"v".repeat(20_000));
        let mut next = 3_000_000;
        let proxy = Proxy::start(server.first().port, move |bytes| {
            if bytes < next {
                return Next::Pass;
            }
            next += 3_000_000;
            Next::Cut
        });
        let run = atrest(&["audit", "--endpoints", &proxy.endpoint(), "-o", "csv"]);
        assert_eq!(run.code, 0, "{release:?}: {}", run.err);
        assert!(run.err.contains("the connection was lost"), "{release:?}: {}", run.err);
        let whole = atrest(&["audit", "--endpoints", &server.endpoints(), "-o", "csv"]);
        assert!(run.out == whole.out && whole.text().lines().count() == 601, "{release:?}");
    }
}

/// A kine before an SQLite file of its own.
struct Kine {
    _process: Running,
    home: TempDir,
}

impl Kine {
    fn start() -> Self {
        let home = temporary();
        let database = format!("sqlite://{}/state.db", home.path().display());
        let socket = format!("unix://{}/kine.sock", home.path().display());
        let mut command = Command::new(built("kine"));
        command.args(["--endpoint", &database, "--listen-address", &socket, "--metrics-bind-address", "0"]);
        let process = Running::start(command.current_dir(home.path()), home.path().join("log"));
        let kine = Self { _process: process, home };
        let begin = Instant::now();
        while atrest(&["check", "--endpoints", &kine.endpoint()]).code != 0 {
            assert!(begin.elapsed() < Duration::from_secs(60), "kine did not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        kine
    }

    fn endpoint(&self) -> String {
        format!("unix://{}/kine.sock", self.home.path().display())
    }

    fn put(&self, key: &str, value: &str) {
        let mut command = Command::new(Release::V3_6.program("etcdctl"));
        command.args(["--endpoints", &self.endpoint(), "put", key, value]);
        output(command);
    }
}

#[test]
fn kine_is_told_from_etcd_and_read_page_by_page() {
    let kine = Kine::start();
    let names: Vec<_> = (0..150).map(|number| format!("/registry/configmaps/ns/c-{number:05}")).collect();
    for name in &names {
        kine.put(name, "value");
    }
    let check = atrest(&["check", "--endpoints", &kine.endpoint(), "-o", "json"]).json();
    assert_eq!((&check["server"], &check["agreement"]), (&json!("kine"), &json!("nothing-to-compare")));
    let run = atrest(&["audit", "--endpoints", &kine.endpoint(), "-o", "csv"]);
    let found: Vec<_> = run.text().lines().filter(|line| line.starts_with("/registry/configmaps/")).collect();
    assert_eq!(found.len(), names.len(), "{}", run.err);
    assert!(found.iter().zip(&names).all(|(line, name)| line.starts_with(&format!("{name},"))));
    let folder = temporary();
    let path = folder.path().join("saved.db");
    let run = atrest(&["snapshot", "save", "-o", argument(&path), "--endpoints", &kine.endpoint()]);
    assert!(run.failed(3).contains("kine has no snapshots"), "{}", run.err);
}
