//! Rewrites from and to KMS providers, through plugins that the tests start.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{Run, atrest, testdata};
use super::stand_in::{Plugin, honest};

/// Plugins for the providers of the fixture `kms`, both under key 1, and how to reach them.
struct Plugins {
    v1: Plugin,
    v2: Plugin,
}

impl Plugins {
    fn start() -> Self {
        Self { v1: Plugin::start(honest("v1beta1", "1")), v2: Plugin::start(honest("v2", "1")) }
    }

    fn arguments(&self, names: &[(&str, &str)]) -> Vec<String> {
        let endpoint = |kind: &str| if kind == "v1" { self.v1.endpoint() } else { self.v2.endpoint() };
        let given = names.iter().map(|(name, kind)| format!("--kms-endpoint={name}={}", endpoint(kind)));
        ["--kms".to_owned(), "--quiet".to_owned()].into_iter().chain(given).collect()
    }

    fn encryptions(&self) -> (u64, u64) {
        (self.v1.calls("Encrypt"), self.v2.calls("Encrypt"))
    }
}

const BOTH: [(&str, &str); 2] = [("cloud-kms", "v2"), ("ack-kms", "v1")];

fn run(arguments: &[&str], more: &[String]) -> Run {
    let more = more.iter().map(String::as_str);
    atrest(&arguments.iter().copied().chain(more).collect::<Vec<_>>())
}

/// A target whose Secrets are written by one KMS provider.
fn target(home: &TempDir, version: &str, name: &str) -> String {
    let provider = json!({"kms": {"apiVersion": version, "name": name, "endpoint": "unix:///nowhere.sock"}});
    let configuration = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [provider, {"identity": {}}]}],
    });
    let path = home.path().join(format!("{version}-{name}.json"));
    fs::write(&path, configuration.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What became of the fixture's Secrets under a target: the report, and the rows of an audit with the target alone.
fn rewritten(home: &TempDir, plugins: &Plugins, to: &str, names: &[(&str, &str)], more: &[&str]) -> (Value, String) {
    let output = home.path().join("out.db").to_str().unwrap().to_owned();
    let (source, current) = (testdata("kms/snapshot.db"), testdata("kms/encryption-config.yaml"));
    let all: Vec<_> = BOTH.iter().chain(names).copied().collect();
    let arguments = ["rewrite", &source, "-c", &current, "--to", to, "-o", &output, "--force", "--report", "json"];
    let run = run(&[&arguments[..], more].concat(), &plugins.arguments(&all));
    assert_eq!(run.code, 0, "{} {}", run.err, run.text());
    (serde_json::from_slice(&run.out).unwrap(), output)
}

/// The audit of a rewritten store with its target alone must be clean but for what older releases wrote.
fn audited(plugins: &Plugins, output: &str, to: &str, names: &[(&str, &str)]) -> Value {
    let audit = run(&["audit", output, "-c", to, "-o", "json", "--fail-on", "none"], &plugins.arguments(names));
    assert_eq!(audit.code, 0, "{} {}", audit.err, audit.text());
    serde_json::from_slice(&audit.out).unwrap()
}

#[test]
fn kms_v2_is_written_with_one_call_and_read_back() {
    let (home, plugins) = (TempDir::new().unwrap(), Plugins::start());
    let to = target(&home, "v2", "new");
    let (report, output) = rewritten(&home, &plugins, &to, &[("new", "v2")], &[]);
    assert_eq!((report["proved"].as_bool(), report["rewritten"].as_u64()), (Some(true), Some(72)));
    assert_eq!(plugins.encryptions(), (0, 1));
    let document = audited(&plugins, &output, &to, &[("new", "v2")]);
    assert_eq!((document["totals"]["unreadable"].as_u64(), document["totals"]["stale"].as_u64()), (Some(0), Some(0)));
    let keys = document["keys"].as_array().unwrap();
    let on_new = |key: &&Value| key["key_name"] == "new" && key["kms_key_id"] == "1";
    assert_eq!(keys.iter().find(on_new).unwrap()["entries"], 72);
}

#[test]
fn each_object_may_have_a_data_key_of_its_own() {
    let (home, plugins) = (TempDir::new().unwrap(), Plugins::start());
    let to = target(&home, "v2", "new");
    let (report, output) = rewritten(&home, &plugins, &to, &[("new", "v2")], &["--kms-dek", "per-object"]);
    assert_eq!(report["rewritten"], 72);
    assert_eq!(plugins.encryptions(), (0, 72));
    let document = audited(&plugins, &output, &to, &[("new", "v2")]);
    assert_eq!(document["totals"]["unreadable"], 0);
}

#[test]
fn kms_v1_is_written_with_a_call_for_each_value_in_both_of_its_forms() {
    let (home, plugins) = (TempDir::new().unwrap(), Plugins::start());
    let to = target(&home, "v1", "new");
    for (form, stale) in [(&[][..], 0), (&["--kms-v1-cbc"][..], 72)] {
        let before = plugins.encryptions().0;
        let (report, output) = rewritten(&home, &plugins, &to, &[("new", "v1")], form);
        assert_eq!((report["proved"].as_bool(), report["rewritten"].as_u64()), (Some(true), Some(72)));
        assert_eq!(plugins.encryptions().0 - before, 72);
        let totals = &audited(&plugins, &output, &to, &[("new", "v1")])["totals"];
        assert_eq!((&totals["unreadable"], &totals["stale"]), (&json!(0), &json!(stale)));
    }
}

#[test]
fn what_the_target_would_write_stays_and_costs_nothing() {
    let (home, plugins) = (TempDir::new().unwrap(), Plugins::start());
    let (source, current) = (testdata("kms/snapshot.db"), testdata("kms/encryption-config.yaml"));
    let output = home.path().join("out.db").to_str().unwrap().to_owned();
    let arguments = ["rewrite", &source, "-c", &current, "--to", &current, "-o", &output, "--report", "json"];
    let first = run(&arguments, &plugins.arguments(&BOTH));
    assert_eq!(first.code, 0, "{} {}", first.err, first.text());
    let report: Value = serde_json::from_slice(&first.out).unwrap();
    // Under key 1 with a seed are as many as the fixture says are not stale while that key is the current one.
    let truth = fs::read_to_string(testdata("kms/truth.jsonl")).unwrap();
    let fresh =
        truth.lines().filter(|line| line.contains(r#""stale_key1":false"#) || line.contains(r#""stale_key1": false"#));
    let fresh = fresh.filter(|line| line.contains("/secrets/")).count() as u64;
    assert_eq!(report["rewritten"].as_u64(), Some(72 - fresh), "{report}");
    // All is fresh now, so a second run asks for nothing to be wrapped.
    let before = plugins.encryptions();
    let again = home.path().join("again.db").to_str().unwrap().to_owned();
    let arguments = ["rewrite", &output, "-c", &current, "--to", &current, "-o", &again, "--report", "json"];
    let second = run(&arguments, &plugins.arguments(&BOTH));
    assert_eq!(second.code, 0, "{} {}", second.err, second.text());
    let report: Value = serde_json::from_slice(&second.out).unwrap();
    assert_eq!((report["rewritten"].as_u64(), plugins.encryptions()), (Some(0), before));
}

#[test]
fn a_plan_is_said_before_anything_is_wrapped() {
    let (home, plugins) = (TempDir::new().unwrap(), Plugins::start());
    let to = target(&home, "v1", "new");
    let (source, current) = (testdata("kms/snapshot.db"), testdata("kms/encryption-config.yaml"));
    let names: Vec<_> = BOTH.iter().chain(&[("new", "v1")]).copied().collect();
    let dry = run(&["rewrite", &source, "-c", &current, "--to", &to, "--dry-run"], &plugins.arguments(&names));
    assert_eq!(dry.code, 0, "{} {}", dry.err, dry.text());
    assert!(dry.err.contains("KMS plan: new wraps data keys for 72 values: 73 calls"), "{}", dry.err);
    assert!(dry.text().contains("-> kms/new"), "{}", dry.text());
    assert_eq!(plugins.encryptions(), (0, 0));
}

#[test]
fn without_the_plugin_or_with_too_few_calls_nothing_is_written() {
    let (home, plugins) = (TempDir::new().unwrap(), Plugins::start());
    let to = target(&home, "v1", "new");
    let (source, current) = (testdata("kms/snapshot.db"), testdata("kms/encryption-config.yaml"));
    let output = home.path().join("out.db").to_str().unwrap().to_owned();
    let arguments = ["rewrite", &source, "-c", &current, "--to", &to, "-o", &output];
    let unasked = run(&arguments, &[]);
    assert!(unasked.failed(2).contains("--kms"), "{}", unasked.err);
    let unreachable = run(&arguments, &plugins.arguments(&BOTH));
    assert!(unreachable.failed(4).contains("new"), "{}", unreachable.err);
    let names: Vec<_> = BOTH.iter().chain(&[("new", "v1")]).copied().collect();
    let limited = run(&[&arguments[..], &["--kms-max-calls", "70"]].concat(), &plugins.arguments(&names));
    assert_eq!(limited.code, 4, "{} {}", limited.err, limited.text());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "only the target's configuration is there");
}

#[test]
fn values_under_kms_are_stripped() {
    let (home, plugins) = (TempDir::new().unwrap(), Plugins::start());
    let (source, current) = (testdata("kms/snapshot.db"), testdata("kms/encryption-config.yaml"));
    let output = home.path().join("plain.db").to_str().unwrap().to_owned();
    let run = run(&["rewrite", &source, "-c", &current, "--strip", "-o", &output], &plugins.arguments(&BOTH));
    assert_eq!(run.code, 0, "{} {}", run.err, run.text());
    let bytes = fs::read(&output).unwrap();
    assert!(!bytes.windows(8).any(|window| window == b"k8s:enc:"));
}
