//! Upstream's own code, asked by line: `oracle run` of `tests/oracle`; and its plugins behind real sockets, `oracle kms`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::built::{Running, built};
use super::program::temporary;

/// A running oracle. It ends with this.
pub struct Oracle {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    pub fn start() -> Self {
        let mut command = Command::new(built("oracle"));
        command.arg("run").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("the oracle starts");
        let questions = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, questions, answers }
    }

    /// One operation, and the answer to it.
    pub fn ask(&mut self, operation: &Value) -> Value {
        writeln!(self.questions, "{operation}").expect("the oracle listens");
        // An object that noise went through may hold bytes that are no text.
        let mut line = Vec::new();
        self.answers.read_until(b'\n', &mut line).expect("the oracle answers");
        let line = String::from_utf8_lossy(&line);
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?} to {operation}"))
    }

    /// What kube-apiserver's transformers make of a Secret's stored value.
    pub fn open(&mut self, config: &Path, key: &str, stored: &[u8]) -> Value {
        let raw = BASE64_STANDARD.encode(stored);
        self.ask(&json!({"op": "decrypt", "config": config, "resource": "secrets", "key": key, "raw": raw}))
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // It may have ended by itself, and there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A KMS plugin, built on upstream's plugin service. It stops when dropped.
pub struct Kms {
    _process: Running,
    home: TempDir,
}

impl Kms {
    /// Starts a plugin of protocol `v1` or `v2` that wraps under a key, and waits until it listens.
    pub fn start(version: &str, key_id: &str) -> Self {
        let home = temporary();
        let socket = home.path().join("kms.sock");
        let mut command = Command::new(built("oracle"));
        command.args(["kms", version]).arg(&socket).arg(key_id);
        let mut process = Running::start(&mut command, home.path().join("log"));
        process.wait_until("the plugin listens", || UnixStream::connect(&socket).is_ok());
        Self { _process: process, home }
    }

    /// Where it listens, as a configuration says it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.home.path().join("kms.sock").display())
    }
}
