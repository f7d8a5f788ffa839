//! Runs the built program, and reads what it prints.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What a run of the program gave.
pub struct Run {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error, as text.
    pub err: String,
}

/// A row by the names of its columns.
pub type Row = BTreeMap<String, String>;

impl Run {
    /// Standard output as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("the output is UTF-8")
    }

    /// Standard output as one JSON document, of a run that said nothing else.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.err, "");
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Standard output as CSV, of a run that came to an answer and said nothing else.
    #[track_caller]
    pub fn rows(&self) -> Vec<Row> {
        assert!(matches!(self.code, 0 | 1) && self.err.is_empty(), "{}: {}", self.code, self.err);
        let mut reader = csv::Reader::from_reader(&self.out[..]);
        reader.deserialize().map(|row| row.expect("every record has a field for each column")).collect()
    }

    /// Asserts that the run failed with a code, nothing on standard output, and gives what it said.
    #[track_caller]
    pub fn failed(&self, code: i32) -> &str {
        assert_eq!((self.code, self.text()), (code, ""), "{}", self.err);
        &self.err
    }
}

/// The program, in an environment that sets nothing for it.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atrest"));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ATREST_") || text.starts_with("ETCD") || text == "NO_COLOR" || text.starts_with("CLICOLOR")
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program with nothing on standard input.
pub fn atrest(arguments: &[&str]) -> Run {
    atrest_reading(&[], arguments)
}

/// Runs the program with these bytes on standard input.
pub fn atrest_reading(input: &[u8], arguments: &[&str]) -> Run {
    let mut command = program();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("the program starts");
    let mut stdin = process.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that does not want its input closes the pipe early; its answer tells whether that was right.
        let _ = stdin.write_all(&input);
    });
    let done = process.wait_with_output().expect("the program ends");
    writer.join().expect("the writer ends");
    let err = String::from_utf8(done.stderr).expect("what it says is UTF-8");
    Run { code: done.status.code().unwrap_or(-1), out: done.stdout, err }
}

/// `audit` with configurations and further arguments.
pub fn audit(source: &str, configs: &[&str], more: &[&str]) -> Run {
    let mut arguments = vec!["audit", source];
    for config in configs {
        arguments.extend(["-c", config]);
    }
    arguments.extend(more);
    atrest(&arguments)
}

/// The path of a file in `testdata`.
pub fn testdata(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    assert!(path.exists(), "{} is missing", path.display());
    path.into_os_string().into_string().expect("a path of plain characters")
}

/// A path that was made for a test, as an argument.
pub fn argument(path: &Path) -> &str {
    path.to_str().expect("a path of plain characters")
}

/// A column of a row.
#[track_caller]
pub fn cell<'r>(row: &'r Row, column: &str) -> &'r str {
    row.get(column).unwrap_or_else(|| panic!("no column {column}"))
}

/// The stores that real servers wrote, with a configuration of each.
pub const STORES: [(&str, &str); 12] = [
    ("kubeadm/snapshot.db", "kubeadm/encryption-config.yaml"),
    ("kubeadm/snapshot.db", "kubeadm/all-keys.json"),
    ("apiserver/snapshot.db", "apiserver/encryption-config.yaml"),
    ("kms/snapshot.db", "kms/encryption-config.yaml"),
    ("k3s/snapshot.db", "k3s/encryption-config.json"),
    ("rke2/on-demand-server-1-1763600000.zip", "rke2/encryption-config.json"),
    ("openshift3/snapshot.db", "openshift3/encryption-config.yaml"),
    ("versions/etcd-3.4.db", "versions/encryption-config.json"),
    ("versions/etcd-3.5.db", "versions/encryption-config.json"),
    ("versions/etcd-3.6.db", "versions/encryption-config.json"),
    ("versions/etcd-3.7.db", "versions/encryption-config.json"),
    ("versions/etcd-3.6-pages-16k.db", "versions/encryption-config.json"),
];

/// The store of a rotation that went wrong, and its configuration.
pub const KUBEADM: (&str, &str) = ("kubeadm/snapshot.db", "kubeadm/encryption-config.yaml");

/// `audit` of that store with its configuration.
pub fn kubeadm(more: &[&str]) -> Run {
    audit(&testdata(KUBEADM.0), &[&testdata(KUBEADM.1)], more)
}

/// A file for a test, which only its owner may read.
pub fn private(folder: &TempDir, name: &str, content: &[u8]) -> String {
    let path = folder.path().join(name);
    fs::write(&path, content).expect("a file in a temporary directory");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its owner may do so");
    argument(&path).to_owned()
}

/// A directory that is gone when the test is over.
pub fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}
