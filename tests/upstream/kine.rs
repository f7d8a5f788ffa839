//! Stores that a real kine wrote, against what its API says of them; and rewritten ones under it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::built::{Running, built, free_port};
use super::program::{Row, argument, atrest, audit, cell, temporary, testdata};
use super::rows::hex;

/// A kine over a folder's `state.db`. It is killed when dropped, so what it wrote last stays in the log.
struct Kine {
    process: Running,
    endpoint: String,
    folder: TempDir,
}

impl Kine {
    fn start(folder: TempDir) -> Self {
        let endpoint = format!("127.0.0.1:{}", free_port());
        let database = folder.path().join("state.db");
        let mut command = Command::new(built("kine"));
        command.args(["--listen-address", &endpoint, "--metrics-bind-address", "0", "--compact-min-retain", "0"]);
        // As K3s starts it.
        let settings = "_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate";
        command.arg("--endpoint").arg(format!("sqlite://{}?{settings}", database.display()));
        let mut process = Running::start(&mut command, folder.path().join("kine.log"));
        process.wait_until("it listens", || TcpStream::connect(&endpoint).is_ok());
        let kine = Self { process, endpoint, folder };
        assert!(kine.run(&["get", "/registry/health"], b"").status.success(), "{}", kine.process.log());
        kine
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(built("etcdctl-3.6"));
        command.args(["--endpoints", &self.endpoint]).args(arguments).env("ETCDCTL_API", "3");
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        process.stdin.take().expect("a pipe").write_all(input).expect("it reads");
        process.wait_with_output().expect("it ends")
    }

    #[track_caller]
    fn done(&self, arguments: &[&str], input: &[u8]) -> String {
        let done = self.run(arguments, input);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{arguments:?}: {said}{}", self.process.log());
        String::from_utf8(done.stdout).expect("it writes text")
    }

    fn put(&self, key: &str, value: &[u8]) {
        self.done(&["put", key], value);
    }

    /// As kube-apiserver deletes: at the revision that it knows.
    fn delete(&self, key: &str) {
        let revision = self.get(&[key])[0]["mod_revision"].clone();
        let transaction = format!("mod(\"{key}\") = \"{revision}\"\n\ndel {key}\n\nget {key}\n\n");
        assert!(self.done(&["txn"], transaction.as_bytes()).starts_with("SUCCESS"));
    }

    fn get(&self, arguments: &[&str]) -> Vec<Value> {
        let answer = self.done(&[&["get", "-w", "json"], arguments].concat(), b"");
        let answer: Value = serde_json::from_str(&answer).expect("it writes JSON");
        answer["kvs"].as_array().cloned().unwrap_or_default()
    }

    /// Everything below a prefix, as the columns of a row.
    fn all(&self, more: &[&str]) -> BTreeMap<String, [String; 5]> {
        let kvs = self.get(&[&["--prefix", "/"], more].concat());
        let bytes = |kv: &Value, field: &str| BASE64_STANDARD.decode(kv[field].as_str().unwrap_or_default()).unwrap();
        let row = |kv: &Value| {
            let number = |field: &str| kv[field].as_i64().unwrap_or(0);
            let lease = number("lease");
            let columns = [
                number("create_revision").to_string(),
                number("mod_revision").to_string(),
                number("version").to_string(),
                if lease == 0 { String::new() } else { format!("{lease:016x}") },
                hex(&Sha256::digest(bytes(kv, "value"))),
            ];
            (String::from_utf8(bytes(kv, "key")).unwrap(), columns)
        };
        kvs.iter().map(row).collect()
    }

    /// The store that is left when it is killed.
    fn kill(self) -> (TempDir, PathBuf) {
        drop(self.process);
        let path = self.folder.path().join("state.db");
        (self.folder, path)
    }
}

fn columns(rows: &[Row]) -> BTreeMap<String, [String; 5]> {
    let names = ["create_revision", "mod_revision", "version", "lease", "value_sha256"];
    let entries = rows.iter().filter(|row| cell(row, "record") == "entry");
    entries.map(|row| (cell(row, "key").to_owned(), names.map(|name| cell(row, name).to_owned()))).collect()
}

fn told(path: &Path, more: &[&str]) -> BTreeMap<String, [String; 5]> {
    columns(&audit(argument(path), &[], &[&["-o", "csv", "--no-digest"], more].concat()).rows())
}

#[test]
fn what_kine_writes_is_told_as_its_api_tells_it() {
    let kine = Kine::start(temporary());
    for number in 0..40 {
        let key = format!("/registry/configmaps/default/c{}", number % 12);
        kine.put(&key, format!("k8s\0 value {number}").as_bytes());
        if number % 7 == 3 {
            kine.delete(&key);
        }
    }
    let lease = kine.done(&["lease", "grant", "86400"], b"");
    let lease = lease.split_whitespace().nth(1).expect("its id");
    kine.done(&["put", "--lease", lease, "/registry/events/default/e", "short"], b"");
    let before: Vec<_> = (20..40).step_by(5).map(|at: i64| (at, kine.all(&["--rev", &at.to_string()]))).collect();
    let now = kine.all(&[]);
    assert!(now.len() > 8 && now["/registry/events/default/e"][3] == "0000000000015180", "{now:?}");
    let source = kine.folder.path().join("state.db");
    // While it runs, and as it was.
    assert_eq!(told(&source, &[]), now);
    for (at, then) in before {
        assert_eq!(told(&source, &["--revision", &at.to_string()]), then, "at {at}");
    }
    let revision = now.values().map(|columns| columns[1].parse::<i64>().unwrap()).max().unwrap();
    let checked = |path: &Path| {
        let run = atrest(&["check", argument(path), "-o", "json"]);
        assert_eq!(run.json()["faults"], json!([]), "{}", run.text());
        run.json()
    };
    assert_eq!(checked(&source)["revision"], json!(revision));
    assert_eq!(checked(&source)["totalKey"], json!(now.len()));
    let note = atrest(&["rewrite", argument(&source), "--strip", "--dry-run"]);
    assert!(note.text().contains("had the database open while it was read"), "{}", note.text());
    kine.done(&["compact", &(revision - 5).to_string()], b"");
    let (_folder, path) = kine.kill();
    let found = checked(&path);
    assert_eq!(found["compacted_revision"], json!(revision - 5), "{found:#}");
    assert_eq!(told(&path, &[]), now);
    let rows = audit(argument(&path), &[], &["-o", "csv", "--history", "--residue"]).rows();
    let residue = rows.iter().filter(|row| cell(row, "record") == "residue").count();
    assert!(residue > 3, "what it compacted is still in old_value: {residue}");
}

#[test]
fn rewritten_stores_are_served_by_kine_row_for_row() {
    let packed = temporary();
    let file = File::open(testdata("kine/db.tar.gz")).unwrap();
    tar::Archive::new(GzDecoder::new(file)).unpack(packed.path()).unwrap();
    let source = packed.path().join("state.db");
    let current = testdata("kine/encryption-config.json");
    let key = json!([{"name": "new", "secret": "weg7XZ8Ecqpr4dU8iPYQTieVy9B/OmHpTbgMVvKaN+Q="}]);
    let target = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [{"secretbox": {"keys": key}}]}],
    });
    let target = super::program::private(&packed, "target.json", target.to_string().as_bytes());
    for more in [&[][..], &["--drop-history"]] {
        let folder = temporary();
        let output = folder.path().join("state.db");
        let arguments = ["rewrite", argument(&source), "-c", &current, "--to", &target, "-o", argument(&output)];
        let run = atrest(&[&arguments[..], more].concat());
        assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
        let expected = told(&output, &[]);
        let written = fs::read(&output).unwrap();
        assert!(!written.windows(14).any(|piece| piece == b"k8s:enc:aescbc"));
        let kine = Kine::start(folder);
        assert_eq!(kine.all(&[]), expected, "{more:?}");
        assert_eq!(expected.len(), 63);
        if more.is_empty() {
            // Older revisions are served, too.
            let then = kine.all(&["--rev", "60"]);
            assert_eq!(then, told(&kine.folder.path().join("state.db"), &["--revision", "60"]));
            assert!(then.len() > 20);
        }
        // It goes on where the old one was.
        kine.put("/registry/configmaps/default/after", b"k8s\0 written by kine");
        kine.put("/registry/secrets/default/s-00", b"k8s\0 updated by kine");
        kine.delete("/registry/secrets/default/s-04");
        let now = kine.all(&[]);
        assert_eq!((now.len(), &*now["/registry/configmaps/default/after"][1]), (63, "125"), "{more:?}");
        let (_folder, path) = kine.kill();
        assert_eq!(told(&path, &[]), now, "{more:?}");
        let found = audit(argument(&path), &[&target], &["-o", "json"]).json();
        assert_eq!((&found["totals"]["encrypted"], &found["faults"]), (&json!(58), &json!([])), "{more:?}");
        // The update keeps what was rewritten, not what it was before.
        let check = atrest(&["check", argument(&path), "-o", "json"]);
        assert_eq!((check.code, &check.json()["faults"]), (0, &json!([])), "{}", check.text());
    }
}
