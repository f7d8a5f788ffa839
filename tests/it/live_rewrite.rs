//! Rewrites of running servers: while others write, while they are killed and cut off, and where the server refuses.

mod cluster;
mod crowd;
mod proxy;
mod store;
mod streams;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::program::{Run, argument, atrest, audit, program, temporary};
use super::servers::{Release, Server};

use crowd::Crowd;
use proxy::Proxy;
use store::{Keys, Store, key};
use streams::Streams;

/// Runs a rewrite of a running store with a report as JSON.
fn rewrite(endpoint: &str, keys: &Keys, more: &[&str]) -> (Run, Value) {
    let arguments = ["rewrite", "--endpoints", endpoint, "-c", &keys.old, "--to", &keys.new, "--report", "json", "-q"];
    let run = atrest(&[&arguments[..], more].concat());
    let report = serde_json::from_slice(&run.out).unwrap_or(Value::Null);
    (run, report)
}

/// A rewrite that must be done and proved.
#[track_caller]
fn proved(endpoint: &str, keys: &Keys, more: &[&str]) -> Value {
    let (run, report) = rewrite(endpoint, keys, &[&["--confirm", "--rate", "0"], more].concat());
    assert_eq!((run.code, &report["proved"]), (0, &Value::Bool(true)), "{}{}", run.err, run.text());
    report
}

/// The audit of a server's snapshot with a configuration that knows the new key alone.
#[track_caller]
fn is_clean(server: &Server, keys: &Keys) {
    let run = audit(argument(&server.snapshot()), &[&keys.new_alone], &["-o", "json", "--fail-on", "error"]);
    assert_eq!(run.code, 0, "{}{}", run.err, run.text());
    let document = run.json();
    let totals = ["stale", "unreadable", "history"].map(|field| document["totals"][field].as_u64());
    assert_eq!(totals, [Some(0); 3], "{document}");
    assert_ne!(document["verdict"], "incomplete", "{document}");
}

#[test]
fn without_confirmation_nothing_is_written_and_the_plan_is_told() {
    for release in Release::ALL {
        let (folder, server) = (temporary(), Server::start(release));
        let keys = Keys::new(&folder);
        let store = Store::connect(&server.endpoint());
        store.fill(&keys, 300);
        let before = server.revision();
        let (run, report) = rewrite(&server.endpoint(), &keys, &[]);
        assert_eq!(run.code, 0, "{}{}", run.err, run.text());
        assert_eq!((report["dry_run"].as_bool(), report["rewritten"].as_u64()), (Some(true), Some(300)));
        assert_eq!(report["plan"][0]["from"], "aescbc/old");
        assert_eq!(report["plan"][0]["to"], "secretbox/new");
        assert!(report["live"]["questions"].as_array().unwrap().len() >= 2);
        assert!(report["estimated_bytes"].as_u64().unwrap() > 300 * 300);
        assert_eq!(report["live"]["space"]["quota_assumed"], true);
        assert_eq!(server.revision(), before);
        let text = atrest(&["rewrite", "--endpoints", &server.endpoint(), "-c", &keys.old, "--to", &keys.new]);
        assert!(text.text().starts_with("[PLAN]") && text.text().contains("Has every API server"), "{}", text.text());
    }
}

#[test]
fn everything_is_written_anew_proved_compacted_and_defragmented() {
    for release in Release::ALL {
        let (folder, server) = (temporary(), Server::start(release));
        let keys = Keys::new(&folder);
        let store = Store::connect(&server.endpoint());
        store.fill(&keys, 1000);
        let lease =
            server.put_with_lease("/registry/secrets/default/leased", &keys.sealed_old(&key("leased"), "leased"));
        server.put("/unrelated/key", b"of somebody else");
        let journal = folder.path().join("journal.jsonl");
        let snapshot = folder.path().join("before.db");
        let more = ["--compact", "--defrag", "--journal", argument(&journal), "--snapshot-to", argument(&snapshot)];
        let report = proved(&server.endpoint(), &keys, &more);
        assert_eq!(report["live"]["outcome"]["written"].as_u64(), Some(1001));
        assert_eq!(report["live"]["outcome"]["proof"]["ours"].as_u64(), Some(1001));
        is_clean(&server, &keys);
        let left = report["live"]["left"].to_string();
        assert!(left.contains("still need the old key") && !left.contains("before hold plaintext"), "{left}");
        // The lease still holds the key, and only an encrypted value was touched.
        let all = server.all();
        let leased = all.iter().find(|entry| entry.lease != 0).expect("a leased entry");
        assert_eq!((format!("{:016x}", leased.lease), leased.version), (lease, 2));
        let versions: Vec<_> = all.iter().map(|entry| entry.version).filter(|version| *version != 2).collect();
        assert_eq!(versions, [1]);
        // Each change is in the journal, which nobody else can read, and the snapshot is of before.
        let lines = fs::read_to_string(&journal).unwrap();
        let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert!(first["old_mod_revision"].as_i64() < first["new_mod_revision"].as_i64());
        assert_eq!(lines.lines().count(), 1001);
        assert_eq!(fs::metadata(&journal).unwrap().permissions().mode() & 0o777, 0o600);
        let run = audit(argument(&snapshot), &[&keys.old], &["-o", "json"]);
        assert_eq!((run.code, run.json()["totals"]["readable"].as_u64()), (0, Some(1001)), "{}", run.text());
        // A rerun finds nothing to do, though its current configuration does not know the new key.
        assert_eq!(proved(&server.endpoint(), &keys, &[])["live"]["outcome"]["written"].as_u64(), Some(0));
        // And back to plaintext.
        let arguments = ["rewrite", "--endpoints", &server.endpoint(), "-c", &keys.new_alone, "--strip", "--confirm"];
        let run = atrest(&[&arguments[..], &["--rate", "0", "-q", "--report", "json"]].concat());
        assert_eq!(run.code, 0, "{}{}", run.err, run.text());
        store.holds(&keys.nothing, (0..1000).map(|number| (key(&format!("s{number}")), format!("s{number}"))));
        // From plaintext there is no key to drop, but there are copies of before.
        let left = &proved(&server.endpoint(), &keys, &[])["live"]["left"];
        let says = |words| left.as_array().unwrap().iter().any(|line| line.as_str().unwrap().contains(words));
        assert!(says("before hold plaintext") && !says("old key"), "{left}");
    }
}

#[test]
fn eight_writers_lose_nothing_while_rewrites_are_killed_stopped_and_cut_off() {
    let seconds = std::env::var("ATREST_TEST_CROWD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let (folder, server) = (temporary(), Server::start(Release::V3_5));
    let keys = Keys::new(&folder);
    Store::connect(&server.endpoint()).fill(&keys, 4000);
    let proxy = Proxy::start(&server.endpoint());
    let crowd = Crowd::start(&server.endpoint(), &keys);
    let begin = Instant::now();
    let mut runs: u32 = 0;
    while begin.elapsed() < Duration::from_secs(seconds) {
        // Every other one goes through a proxy that cuts its connections.
        let endpoint = if runs.is_multiple_of(2) { server.endpoint() } else { proxy.endpoint() };
        let mut command = program();
        command.args(["rewrite", "--endpoints", &endpoint, "-c", &keys.old, "--to", &keys.new, "-q", "--confirm"]);
        command.args(["--rate", "0", "--command-timeout", "1s"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().expect("the program starts");
        thread::sleep(Duration::from_millis(300 + 170 * u64::from(runs % 4)));
        if runs % 3 == 2 {
            server.signal("STOP");
            thread::sleep(Duration::from_millis(1200));
            server.signal("CONT");
            thread::sleep(Duration::from_millis(300));
        }
        // As `kill -9`.
        process.kill().expect("it is a child");
        process.wait().expect("it is a child");
        runs += 1;
    }
    let last = crowd.stop();
    assert!(runs >= 5 && proxy.cuts() > 0, "{runs} runs, {} cuts", proxy.cuts());
    // One more through the proxy, which goes on cutting, and it still comes to its end.
    let report = proved(&proxy.endpoint(), &keys, &["--patience", "30"]);
    assert_eq!(report["live"]["outcome"]["proof"]["stale"].as_u64(), Some(0), "{report}");
    let store = Store::connect(&server.endpoint());
    let filled = (0..4000).map(|number| (key(&format!("s{number}")), format!("s{number}")));
    store.holds(&keys.new_only, filled);
    let (alive, gone): (Vec<_>, Vec<_>) = last.into_iter().partition(|(_, written)| written.is_some());
    let written = alive.iter().filter_map(|(key, written)| Some((key, written.as_ref()?)));
    let leases: Vec<_> = written.clone().map(|(key, written)| (key.clone(), written.lease)).collect();
    store.holds(&keys.new_only, written.map(|(key, written)| (key.clone(), written.data.clone())));
    assert!(leases.iter().any(|(_, lease)| *lease != 0) && !gone.is_empty());
    leases.iter().for_each(|(key, lease)| assert_eq!(store.get(key).expect("an entry").lease, *lease));
    gone.iter().for_each(|(key, _)| assert!(store.get(key).is_none(), "{}", String::from_utf8_lossy(key)));
    proved(&server.endpoint(), &keys, &["--compact", "--defrag"]);
    is_clean(&server, &keys);
}

#[test]
fn a_quota_that_is_too_near_is_refused_and_one_that_is_met_ends_in_a_sentence() {
    let (folder, server) =
        (temporary(), Server::start_with_flags(Release::V3_5, &["--quota-backend-bytes", "14000000"]));
    let keys = Keys::new(&folder);
    let store = Store::connect(&server.endpoint());
    store.fill_with(&keys, 6000, &"x".repeat(1000));
    let quota = ["--quota-backend-bytes", "14000000", "--confirm", "--rate", "0"];
    let (run, report) = rewrite(&server.endpoint(), &keys, &quota);
    assert_eq!((run.code, report["obstacle"].as_str()), (4, Some("quota")), "{}{}", run.err, run.text());
    assert_eq!(server.all().iter().map(|entry| entry.version).max(), Some(1));
    // This release does not say what its quota is, and etcd's default is larger.
    let (run, report) = rewrite(&server.endpoint(), &keys, &["--confirm", "--rate", "0"]);
    assert_eq!((run.code, report["proved"].as_bool()), (4, Some(false)), "{}{}", run.err, run.text());
    let stopped = report["live"]["outcome"]["stopped"].as_str().expect("a reason");
    assert!(
        stopped.contains(&server.endpoint()) && stopped.contains("quota") && stopped.contains("disarm"),
        "{stopped}"
    );
    let written = report["live"]["outcome"]["written"].as_u64().unwrap();
    // The alarm stands, so nothing is begun.
    let (run, report) = rewrite(&server.endpoint(), &keys, &["--confirm", "--rate", "0"]);
    assert_eq!((run.code, report["obstacle"].as_str()), (4, Some("alarm")), "{}{}", run.err, run.text());
    server.compact(server.revision());
    server.defragment();
    server.control(&["alarm", "disarm"]);
    // In rounds it goes on to the end. What is in use stays below the real quota, and a round's plan below this one.
    let report = proved(&server.endpoint(), &keys, &["--compact-every", "200", "--quota-backend-bytes", "17000000"]);
    assert_eq!(report["live"]["outcome"]["written"].as_u64().unwrap() + written, 6000);
    assert!(server.all().iter().all(|entry| entry.version == 2));
}

#[test]
fn values_above_the_servers_limit_are_named_and_everything_else_is_written() {
    let (folder, server) = (temporary(), Server::start_with_flags(Release::V3_4, &["--max-request-bytes", "4000"]));
    let keys = Keys::new(&folder);
    let store = Store::connect(&server.endpoint());
    (0..50).for_each(|number| store.put(&keys, &key(&format!("s{number}")), &format!("s{number}"), 0));
    // The largest one that fits by itself. What it is compared with does not fit beside it.
    let fits =
        |bytes: &usize| store.put_sealed(&key("large"), keys.sealed_old(&key("large"), &"x".repeat(*bytes)), 0).is_ok();
    let fitting = (3000..4000).step_by(16).take_while(fits).count();
    assert!((1..60).contains(&fitting), "{fitting}");
    let (run, report) = rewrite(&server.endpoint(), &keys, &["--confirm", "--rate", "0"]);
    assert_eq!(run.code, 4, "{}{}", run.err, run.text());
    let outcome = &report["live"]["outcome"];
    assert_eq!((outcome["written"].as_u64(), outcome["refused_count"].as_u64()), (Some(50), Some(1)), "{report}");
    assert_eq!(outcome["refused"][0]["key"], "/registry/secrets/default/large");
    assert!(outcome["refused"][0]["why"].as_str().unwrap().contains("--max-request-bytes"), "{outcome}");
}

#[test]
fn values_of_almost_the_servers_limit_go_with_others_as_far_as_they_fit() {
    let (folder, server) = (temporary(), Server::start(Release::V3_5));
    let keys = Keys::new(&folder);
    let store = Store::connect(&server.endpoint());
    store.fill(&keys, 300);
    let large: Vec<_> =
        (0..24).map(|number| (key(&format!("s{number}-large")), "x".repeat(1_400_000 - number))).collect();
    for (key, data) in &large {
        store.put(&keys, key, data, 0);
    }
    let report = proved(&server.endpoint(), &keys, &[]);
    let outcome = &report["live"]["outcome"];
    assert_eq!((outcome["written"].as_u64(), outcome["proof"]["ours"].as_u64()), (Some(324), Some(324)), "{report}");
    store.holds(&keys.new_only, (0..300).map(|number| (key(&format!("s{number}")), format!("s{number}"))));
    store.holds(&keys.new_only, large);
    assert!(server.all().iter().all(|entry| entry.version == 2));
}

#[test]
fn streams_that_a_proxy_closes_leave_no_doubt_about_what_was_written() {
    let (folder, server) = (temporary(), Server::start(Release::V3_5));
    let keys = Keys::new(&folder);
    let store = Store::connect(&server.endpoint());
    store.fill(&keys, 4000);
    let proxy = Streams::start(&server.endpoint(), 4);
    let report = proved(&proxy.endpoint(), &keys, &["--patience", "30"]);
    let outcome = &report["live"]["outcome"];
    assert!(proxy.closed() > 5, "{} streams closed", proxy.closed());
    // Transactions were carried out whose answers did not come, and none of them was carried out twice.
    assert!(outcome["found_written"].as_u64().is_some_and(|found| found > 0), "{report}");
    assert_eq!((outcome["written"].as_u64(), outcome["proof"]["ours"].as_u64()), (Some(4000), Some(4000)), "{report}");
    assert!(server.all().iter().all(|entry| entry.version == 2));
    store.holds(&keys.new_only, (0..4000).map(|number| (key(&format!("s{number}")), format!("s{number}"))));
    let run = atrest(&["audit", "--endpoints", &proxy.endpoint(), "-c", &keys.new_alone, "-o", "json"]);
    assert_eq!((run.code, run.json()["totals"]["readable"].as_u64()), (0, Some(4000)), "{}{}", run.err, run.text());
}

#[test]
fn a_server_with_a_smaller_limit_of_operations_is_learned_from() {
    let (folder, server) = (temporary(), Server::start_with_flags(Release::V3_5, &["--max-txn-ops", "10"]));
    let keys = Keys::new(&folder);
    let store = Store::connect(&server.endpoint());
    (0..300).for_each(|number| store.put(&keys, &key(&format!("s{number}")), &format!("s{number}"), 0));
    assert_eq!(proved(&server.endpoint(), &keys, &[])["live"]["outcome"]["written"].as_u64(), Some(300));
}

#[test]
fn a_user_who_may_only_read_is_told_so() {
    let (folder, server) = (temporary(), Server::start(Release::V3_5));
    let keys = Keys::new(&folder);
    Store::connect(&server.endpoint()).fill(&keys, 20);
    server.control(&["user", "add", "root:secret"]);
    server.control(&["user", "grant-role", "root", "root"]);
    server.control(&["role", "add", "reader"]);
    server.control(&["role", "grant-permission", "reader", "--prefix=true", "read", ""]);
    server.control(&["user", "add", "eve:secret"]);
    server.control(&["user", "grant-role", "eve", "reader"]);
    server.control(&["auth", "enable"]);
    let (run, report) = rewrite(&server.endpoint(), &keys, &["--confirm", "--rate", "0", "--user", "eve:secret"]);
    assert_eq!(run.code, 4, "{}{}", run.err, run.text());
    let stopped = report["live"]["outcome"]["stopped"].as_str().unwrap_or_else(|| panic!("{}", run.text()));
    assert!(stopped.contains(&server.endpoint()) && stopped.contains("permission denied"), "{stopped}");
    let (run, _) = rewrite(&server.endpoint(), &keys, &["--confirm", "--rate", "0", "--user", "root:wrong"]);
    assert_eq!(run.code, 3, "{}{}", run.err, run.text());
    assert_eq!(proved(&server.endpoint(), &keys, &["--user", "root:secret"])["live"]["outcome"]["written"], 20);
}

#[test]
fn what_does_not_open_or_is_described_inside_is_refused_before_anything_is_written() {
    let (folder, server) = (temporary(), Server::start(Release::V3_5));
    let keys = Keys::new(&folder);
    let store = Store::connect(&server.endpoint());
    store.fill(&keys, 20);
    server.put("/bootstrap/5b3f", b"not for us");
    let before = server.revision();
    let (run, report) = rewrite(&server.endpoint(), &keys, &["--confirm", "--rate", "0"]);
    assert_eq!((run.code, report["obstacle"].as_str()), (4, Some("bootstrap")), "{}{}", run.err, run.text());
    server.put(key("lost"), b"k8s:enc:aescbc:v1:another:0123456789abcdef0123456789abcdef");
    let (run, report) = rewrite(&server.endpoint(), &keys, &["--confirm", "--rate", "0", "--keep-distro-state"]);
    assert_eq!((run.code, report["obstacle"].as_str()), (4, Some("values")), "{}{}", run.err, run.text());
    assert_eq!(server.revision(), before + 1);
    let more = ["--confirm", "--rate", "0", "--keep-distro-state", "--keep-unreadable"];
    let (run, report) = rewrite(&server.endpoint(), &keys, &more);
    assert_eq!((run.code, report["proved"].as_bool()), (1, Some(true)), "{}{}", run.err, run.text());
    assert_eq!((report["live"]["outcome"]["written"].as_u64(), report["unreadable"].as_u64()), (Some(20), Some(1)));
}

#[test]
fn endpoints_of_the_environment_never_count_and_what_is_for_files_is_wrong_usage() {
    let (folder, server) = (temporary(), Server::start(Release::V3_5));
    let keys = Keys::new(&folder);
    let mut command = program();
    command.env("ETCDCTL_ENDPOINTS", server.endpoint());
    let done = command.args(["rewrite", "-c", &keys.old, "--to", &keys.new, "--confirm"]).output().unwrap();
    assert_eq!(done.status.code(), Some(2), "{}", String::from_utf8_lossy(&done.stderr));
    for more in [&["-o", "new.db"][..], &["--drop-history"], &["--defrag"], &["--confirm", "--dry-run"]] {
        assert_eq!(rewrite(&server.endpoint(), &keys, more).0.code, 2, "{more:?}");
    }
    let run = atrest(&["rewrite", "some.db", "-c", &keys.old, "--to", &keys.new, "-o", "new.db", "--confirm"]);
    assert!(run.failed(2).contains("--endpoints"), "{}", run.err);
}

#[test]
fn only_what_is_selected_is_written() {
    let (folder, server) = (temporary(), Server::start(Release::V3_5));
    let keys = Keys::new(&folder);
    let store = Store::connect(&server.endpoint());
    store.fill(&keys, 20);
    // The target reads both keys, so what is left is not locked out.
    let arguments = ["rewrite", "--endpoints", &server.endpoint(), "secrets/s3", "-c", &keys.old, "--to", &keys.both];
    let run = atrest(&[&arguments[..], &["--confirm", "--report", "json", "-q"]].concat());
    assert_eq!(run.code, 0, "{}{}", run.err, run.text());
    let written: Vec<_> = server.all().into_iter().filter(|entry| entry.version == 2).collect();
    assert_eq!(written.len(), 1);
}

#[cfg(feature = "kms")]
#[test]
fn a_kms_provider_may_be_the_target_at_the_cost_of_one_call() {
    use super::stand_in::{Plugin, honest};
    let (folder, server, plugin) = (temporary(), Server::start(Release::V3_5), Plugin::start(honest("v2", "1")));
    let mut keys = Keys::new(&folder);
    let store = Store::connect(&server.endpoint());
    store.fill(&keys, 30);
    let provider = serde_json::json!({"kms": {"apiVersion": "v2", "name": "cloud", "endpoint": plugin.endpoint()}});
    let target = serde_json::json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [provider]}],
    });
    keys.new = super::program::private(&folder, "kms.json", target.to_string().as_bytes());
    // Nobody is asked unless it is allowed.
    assert_eq!(rewrite(&server.endpoint(), &keys, &["--confirm"]).0.code, 2);
    let report = proved(&server.endpoint(), &keys, &["--kms"]);
    assert_eq!((report["live"]["outcome"]["written"].as_u64(), plugin.calls("Encrypt")), (Some(30), 1));
    // A rerun finds what it wrote fresh.
    assert_eq!(proved(&server.endpoint(), &keys, &["--kms"])["live"]["outcome"]["written"], 0);
}
