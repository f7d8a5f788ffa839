//! A real kube-apiserver before an etcd, spoken to as an administrator.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::built::{Running, built, free_port};
use super::program::{private, temporary};
use super::servers::{Server, output};

/// A token for the tests' own server, which listens on loopback only.
const TOKEN: &str = "admin-token";

/// How often something that is not served yet is asked for again.
const ATTEMPTS: u32 = 60;

/// A running kube-apiserver. It stops when dropped; what it has stored stays in its etcd.
pub struct KubeApiserver {
    process: Running,
    _home: TempDir,
    port: u16,
}

impl KubeApiserver {
    /// Starts one and waits until it is ready. Without a configuration it stores plaintext.
    pub fn start(etcd: &Server, config: Option<&Path>) -> Self {
        Self::start_with(etcd, config, &[])
    }

    /// The same with further flags.
    pub fn start_with(etcd: &Server, config: Option<&Path>, flags: &[&str]) -> Self {
        let (home, port) = (temporary(), free_port());
        let tokens = private(&home, "tokens.csv", format!("{TOKEN},admin,admin,system:masters\n").as_bytes());
        let accounts = private(&home, "accounts.key", b"");
        let mut generate = Command::new("openssl");
        generate.args(["genrsa", "-out", &accounts, "2048"]);
        output(generate);
        let mut command = Command::new(built("kube-apiserver"));
        command
            .args(["--etcd-servers", &format!("http://{}", etcd.endpoint())])
            .args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"])
            .args(["--secure-port", &port.to_string(), "--cert-dir"])
            .arg(home.path())
            .args(["--token-auth-file", &tokens, "--authorization-mode", "RBAC"])
            .args(["--service-account-key-file", &accounts, "--service-account-signing-key-file", &accounts])
            .args(["--service-account-issuer", "https://127.0.0.1", "--service-cluster-ip-range", "10.96.0.0/16"])
            .args(["--disable-admission-plugins", "ServiceAccount"])
            .args(flags);
        if let Some(config) = config {
            command.arg("--encryption-provider-config").arg(config);
        }
        let process = Running::start(&mut command, home.path().join("log"));
        let mut server = Self { process, _home: home, port };
        server.wait();
        server
    }

    fn wait(&mut self) {
        let port = self.port;
        self.process.wait_until("kube-apiserver listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        self.process.wait_until("kube-apiserver is ready", || {
            let (code, said) = call(port, "GET", "/readyz", None);
            code == 200 && said == "ok"
        });
    }

    /// What a GET of a path gives.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.send("GET", path, None)
    }

    /// Creates an object.
    #[track_caller]
    pub fn post(&self, path: &str, object: &Value) -> Value {
        self.send("POST", path, Some(object))
    }

    /// Changes an object by a merge patch.
    #[track_caller]
    pub fn patch(&self, path: &str, change: &Value) -> Value {
        self.send("PATCH", path, Some(change))
    }

    /// Deletes an object.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        self.send("DELETE", path, None);
    }

    /// The objects that a path lists.
    #[track_caller]
    pub fn list(&self, path: &str) -> Vec<Value> {
        let mut list = self.get(path);
        list["items"].as_array_mut().map(std::mem::take).unwrap_or_else(|| panic!("{path} lists nothing: {list}"))
    }

    #[track_caller]
    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let mut last = (0, String::new());
        for _ in 0..ATTEMPTS {
            last = call(self.port, method, path, body);
            match last.0 {
                200..300 => return serde_json::from_str(&last.1).expect("kube-apiserver speaks JSON"),
                // A custom resource is served a little after its definition is stored; until then it is not there, or 429.
                404 | 429 => thread::sleep(Duration::from_millis(500)),
                _ => break,
            }
        }
        panic!("{method} {path}: {} {}", last.0, last.1);
    }
}

/// One request: the status and the body; status 0 if there was no answer.
fn call(port: u16, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--insecure", "--max-time", "60", "--noproxy", "*", "--request", method]);
    command.args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--header", "Accept: application/json"]);
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    if let Some(body) = body {
        command.args(["--header", &format!("Content-Type: {kind}"), "--data-binary", &body.to_string()]);
    }
    command.args(["--write-out", "\n%{http_code}", &format!("https://127.0.0.1:{port}{path}")]);
    let done = command.output().expect("curl runs");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let (body, code) = said.rsplit_once('\n').unwrap_or(("", "0"));
    (code.parse().unwrap_or(0), body.to_owned())
}
