//! Running stores that are rewritten under a kube-apiserver that serves from them meanwhile, and in kine.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::apiserver::{CONFIG_MAPS, SECRETS, WIDGETS, config, define_widgets, keys, populate};
use super::built::{Running, built, free_port};
use super::kube::KubeApiserver;
use super::program::{argument, atrest, temporary};
use super::servers::{Release, Server, output};

/// What a rewrite must come to.
#[track_caller]
fn proved(endpoint: &str, current: &PathBuf, target: &PathBuf, more: &[&str]) -> Value {
    let arguments = ["rewrite", "--endpoints", endpoint, "-c", argument(current), "--to", argument(target)];
    let run = atrest(&[&arguments[..], &["--confirm", "--report", "json", "-q"], more].concat());
    assert_eq!(run.code, 0, "{}{}", run.err, run.text());
    let report: Value = serde_json::from_slice(&run.out).expect("a report");
    assert_eq!(report["proved"], true, "{report}");
    report
}

/// Objects without what every write changes.
fn contents(objects: Vec<Value>) -> Vec<Value> {
    let strip = |mut object: Value| {
        object["metadata"]["resourceVersion"].take();
        object["metadata"]["managedFields"].take();
        object
    };
    objects.into_iter().map(strip).collect()
}

#[test]
fn a_kube_apiserver_serves_every_object_while_its_store_is_rewritten_and_then_with_the_new_key_alone() {
    let folder = temporary();
    let (old, new, identity) = (keys("aescbc", "key1"), keys("secretbox", "key2"), json!({"identity": {}}));
    let paths = [SECRETS, CONFIG_MAPS, WIDGETS];
    let etcd = Server::start(Release::V3_7);
    let current = config(&folder, "current.json", &[&old, &identity]);
    {
        let server = KubeApiserver::start(&etcd, None);
        define_widgets(&server);
        populate(&server, "plain", 10);
    }
    populate(&KubeApiserver::start(&etcd, Some(&current)), "sealed", 40);
    let both = config(&folder, "both.json", &[&new, &old, &identity]);
    let target = config(&folder, "target.json", &[&new]);
    let server = KubeApiserver::start(&etcd, Some(&both));
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut count = 0;
            while !ends.load(Ordering::Relaxed) {
                let object = format!("{SECRETS}/sealed-{}", count % 20);
                let change = json!({"metadata": {"labels": {"count": count.to_string()}}});
                server.patch(&object, &change);
                populate(&server, &format!("meanwhile-{count}"), 1);
                server.delete(&format!("{CONFIG_MAPS}/meanwhile-{count}-0"));
                count += 1;
            }
            count
        });
        // Slowly enough for the API server to write in between.
        let report = proved(&etcd.endpoint(), &current, &both, &["--rate", "50"]);
        ends.store(true, Ordering::Relaxed);
        let written = report["live"]["outcome"]["written"].as_u64().expect("a number");
        let count = writer.join().expect("the writer ends");
        assert!(written > 100 && count > 5, "{written} rewritten, {count} rounds of the writer");
    });
    let before = paths.map(|path| contents(server.list(path)));
    drop(server);
    let server = KubeApiserver::start(&etcd, Some(&target));
    for (path, objects) in paths.into_iter().zip(before) {
        assert!(objects.len() >= 50, "{path}: {}", objects.len());
        assert_eq!(contents(server.list(path)), objects, "{path}");
    }
    populate(&server, "after", 2);
}

#[test]
fn kine_is_rewritten_one_value_at_a_time_and_keeps_its_leases() {
    let (folder, endpoint) = (temporary(), format!("127.0.0.1:{}", free_port()));
    rewritten_behind_kine(&folder, &endpoint);
}

/// As K3s has it.
#[test]
fn kine_behind_a_socket_is_rewritten_as_well() {
    let folder = temporary();
    let endpoint = format!("unix://{}", folder.path().join("kine.sock").display());
    rewritten_behind_kine(&folder, &endpoint);
}

fn rewritten_behind_kine(folder: &TempDir, endpoint: &str) {
    let database = folder.path().join("state.db");
    let mut command = Command::new(built("kine"));
    command
        .args(["--listen-address", endpoint, "--metrics-bind-address", "0", "--endpoint"])
        .arg(format!("sqlite://{}?_journal=WAL&cache=shared&_busy_timeout=30000", database.display()));
    let mut kine = Running::start(&mut command, folder.path().join("log"));
    let control = |arguments: &[&str]| {
        let mut command = Command::new(Release::V3_6.program("etcdctl"));
        command.args(["--endpoints", endpoint]).args(arguments);
        command
    };
    kine.wait_until("kine answers", || {
        control(&["get", "/registry/health"]).output().is_ok_and(|done| done.status.success())
    });
    for number in 0..200 {
        let (key, value) = (format!("/registry/secrets/default/s{number}"), secret(number));
        let lease = if number % 50 == 0 { &["--lease", "15180"][..] } else { &[] };
        output(control(&[&["put"], lease, &["--", &key, &value]].concat()));
    }
    let (first, second) = (keys("aescbc", "key1"), keys("secretbox", "key2"));
    let identity = json!({"identity": {}});
    let none = config(folder, "none.json", &[&identity]);
    let cbc = config(folder, "cbc.json", &[&first, &identity]);
    let boxed = config(folder, "box.json", &[&second]);
    let report = proved(endpoint, &none, &cbc, &["--rate", "0"]);
    assert_eq!(report["live"]["outcome"]["written"], 200, "{report}");
    let report = proved(endpoint, &cbc, &boxed, &["--rate", "0", "--compact"]);
    assert_eq!(report["live"]["outcome"]["written"], 200, "{report}");
    let all = output(control(&["get", "--prefix", "/registry/secrets/", "-w", "json"]));
    let all: Value = serde_json::from_slice(&all).expect("etcdctl writes JSON");
    let entries = all["kvs"].as_array().expect("entries");
    let leased = entries.iter().filter(|entry| entry["lease"].as_i64().is_some_and(|lease| lease != 0));
    assert_eq!((entries.len(), leased.count()), (200, 4));
    let run = atrest(&["audit", "--endpoints", endpoint, "-c", argument(&boxed), "-o", "json", "-q"]);
    let document: Value = serde_json::from_slice(&run.out).unwrap_or_else(|_| panic!("{}", run.err));
    let totals = ["encrypted", "stale", "unreadable"].map(|field| document["totals"][field].as_u64());
    assert_eq!(totals, [Some(200), Some(0), Some(0)], "{document}");
}

fn secret(number: u32) -> String {
    json!({
        "kind": "Secret", "apiVersion": "v1",
        "metadata": {"name": format!("s{number}"), "namespace": "default"},
        "data": {"of": number.to_string()},
    })
    .to_string()
}
