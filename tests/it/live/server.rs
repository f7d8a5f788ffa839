//! Servers with whatever flags a test needs: with TLS, with a quota, several that are one cluster; and their certificates.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::servers::Release;

const PATIENCE: Duration = Duration::from_secs(90);

/// A running member. Dropping it kills it.
pub struct Member {
    release: Release,
    /// How it was started.
    start: Command,
    process: Child,
    pub port: u16,
    scheme: &'static str,
    /// What etcdctl needs beside the endpoint.
    flags: Vec<String>,
}

/// A cluster of members, whose data go with it.
pub struct Cluster {
    pub members: Vec<Member>,
    _home: TempDir,
}

/// What a server is started with.
#[derive(Default)]
pub struct Wishes<'w> {
    pub members: usize,
    pub restore: Option<&'w Path>,
    pub flags: Vec<String>,
    /// Serve TLS, and tell etcdctl these flags.
    pub secure: Option<Vec<String>>,
}

impl Cluster {
    pub fn start(release: Release, wishes: &Wishes<'_>) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let count = wishes.members.max(1);
        let ports = free_ports(2 * count);
        let (clients, peers) = ports.split_at(count);
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let token = format!("live-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let names: Vec<_> = (0..count).map(|number| format!("{token}-{number}")).collect();
        let peer = |number: usize| format!("http://127.0.0.1:{}", peers[number]);
        let cluster: Vec<_> = (0..count).map(|number| format!("{}={}", names[number], peer(number))).collect();
        let cluster = cluster.join(",");
        let scheme = if wishes.secure.is_some() { "https" } else { "http" };
        let members = (0..count).map(|number| {
            let (name, peer, data) = (&names[number], peer(number), home.path().join(&names[number]));
            let identity = ["--name", name, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &cluster];
            let identity: Vec<_> = identity.into_iter().chain(["--initial-cluster-token", &token]).collect();
            if let Some(snapshot) = wishes.restore {
                restore(release, snapshot, &identity, &data);
            }
            let client = format!("{scheme}://127.0.0.1:{}", clients[number]);
            let log = File::create(home.path().join(format!("{number}.log"))).expect("a log file");
            let mut start = without_settings(release.program("etcd"));
            start
                .args(["--logger", "zap", "--log-level", "warn", "--listen-client-urls", &client])
                .args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer])
                .args(&identity)
                .arg("--data-dir")
                .arg(data)
                .args(&wishes.flags)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a second handle of the log"))
                .stderr(log);
            let process = start.spawn().expect("etcd starts");
            let flags = wishes.secure.clone().unwrap_or_default();
            Member { release, start, process, port: clients[number], scheme, flags }
        });
        let members = members.collect();
        let mut cluster = Self { members, _home: home };
        cluster.members.iter_mut().for_each(Member::await_answer);
        cluster
    }

    /// One member without anything.
    pub fn single(release: Release) -> Self {
        Self::start(release, &Wishes::default())
    }

    /// One member with the data of a snapshot.
    pub fn restored(release: Release, snapshot: &Path) -> Self {
        Self::start(release, &Wishes { restore: Some(snapshot), ..Wishes::default() })
    }

    /// The endpoints of all members.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(Member::endpoint).collect::<Vec<_>>().join(",")
    }

    pub fn first(&self) -> &Member {
        &self.members[0]
    }
}

impl Member {
    pub fn await_answer(&mut self) {
        let begin = Instant::now();
        loop {
            assert!(self.process.try_wait().expect("the server's state").is_none(), "the server ended");
            let listed = self.command(&["--command-timeout", "1s", "member", "list"]).output();
            if listed.is_ok_and(|done| done.status.success()) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "the server did not answer within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// etcdctl of the same release, told to speak to this member.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = without_settings(self.release.program("etcdctl"));
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoint()).args(&self.flags).args(arguments);
        command
    }

    /// What etcdctl says.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        String::from_utf8(super::super::servers::output(self.command(arguments))).expect("etcdctl writes text")
    }

    pub fn put(&self, key: &str, value: &[u8]) {
        let mut command = self.command(&["--command-timeout", "30s", "put", key]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("etcdctl starts");
        std::io::Write::write_all(&mut process.stdin.take().expect("a pipe"), value).expect("etcdctl reads the value");
        let done = process.wait_with_output().expect("etcdctl ends");
        assert!(done.status.success(), "put {key}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Puts many keys, some of them in a transaction at a time.
    pub fn put_all(&self, keys: &[String], value: &str) {
        let together = (1_000_000 / value.len().max(1)).clamp(1, 100);
        for keys in keys.chunks(together) {
            let requests: Vec<_> = keys.iter().map(|key| format!("put {key} {value}")).collect();
            let mut command = self.command(&["--command-timeout", "30s", "txn"]);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut process = command.spawn().expect("etcdctl starts");
            let text = format!("\n{}\n\n\n", requests.join("\n"));
            std::io::Write::write_all(&mut process.stdin.take().expect("a pipe"), text.as_bytes()).expect("a pipe");
            let done = process.wait_with_output().expect("etcdctl ends");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }

    pub fn revision(&self) -> i64 {
        let status: serde_json::Value =
            serde_json::from_str(&self.etcdctl(&["endpoint", "status", "-w", "json"])).expect("etcdctl writes JSON");
        status[0]["Status"]["header"]["revision"].as_i64().expect("a revision")
    }

    /// Starts it again where it was killed. It may take others until it answers.
    pub fn start_again(&mut self) {
        self.process = self.start.spawn().expect("etcd starts");
    }

    /// Sends it a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let mut command = Command::new("kill");
        command.args(["-s", name, &self.process.id().to_string()]);
        super::super::servers::output(command);
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn restore(release: Release, snapshot: &Path, identity: &[&str], data: &Path) {
    let tool = if release == Release::V3_4 { "etcdctl" } else { "etcdutl" };
    let mut command = without_settings(release.program(tool));
    command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(snapshot);
    command.args(identity).arg("--data-dir").arg(data);
    super::super::servers::output(command);
}

/// A tester's own environment must not reach the programs.
fn without_settings(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    command
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("an address").port()).collect()
}

/// An authority and what it signed.
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a temporary directory") };
        let subject = format!("/CN={name}");
        let arguments =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        authority.openssl(&arguments, &["-subj", &subject, "-keyout", "ca.key", "-out", "ca.crt"]);
        authority
    }

    fn openssl(&self, arguments: &[&str], more: &[&str]) {
        let mut command = Command::new("openssl");
        command.current_dir(self.folder.path()).args(arguments).args(more);
        super::super::servers::output(command);
    }

    /// The path of a file.
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a path of plain characters").to_owned()
    }

    /// Signs a certificate `NAME.crt` with a key `NAME.key`, for a use and for these names, from one date to another.
    pub fn sign(&self, name: &str, usage: &str, names: &str, dates: Option<(&str, &str)>) {
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        let new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", &subject];
        self.openssl(&new, &["-keyout", &key, "-out", &request]);
        let names = if names.is_empty() { String::new() } else { format!("subjectAltName={names}\n") };
        let extensions = format!("basicConstraints=CA:FALSE\nextendedKeyUsage={usage}\n{names}");
        fs::write(self.folder.path().join("extensions"), extensions).expect("a file");
        match dates {
            None => self.openssl(
                &["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"],
                &["-days", "1", "-extfile", "extensions", "-out", &certificate],
            ),
            Some((from, to)) => {
                let configuration = "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nserial=serial\nnew_certs_dir=.\n\
                                     default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n";
                fs::write(self.folder.path().join("ca.conf"), configuration).expect("a file");
                fs::write(self.folder.path().join("index"), "").expect("a file");
                fs::write(self.folder.path().join("serial"), "0a\n").expect("a file");
                self.openssl(
                    &["ca", "-batch", "-config", "ca.conf", "-cert", "ca.crt", "-keyfile", "ca.key", "-in", &request],
                    &["-startdate", from, "-enddate", to, "-extfile", "extensions", "-notext", "-out", &certificate],
                );
            }
        }
    }
}

/// A server that wants its clients to have a certificate.
pub fn secure(authority: &Authority, server: &str, client: &str, release: Release) -> Cluster {
    let file = |name: &str| authority.file(name);
    let flags = [
        ("--cert-file", file(&format!("{server}.crt"))),
        ("--key-file", file(&format!("{server}.key"))),
        ("--trusted-ca-file", file("ca.crt")),
    ];
    let flags = flags.into_iter().flat_map(|(flag, file)| [flag.to_owned(), file]);
    let flags = flags.chain(["--client-cert-auth".to_owned()]).collect();
    let own = ["--insecure-skip-tls-verify".to_owned(), "--cert".to_owned(), file(&format!("{client}.crt"))];
    let own = own.into_iter().chain(["--key".to_owned(), file(&format!("{client}.key"))]).collect();
    Cluster::start(release, &Wishes { secure: Some(own), flags, ..Wishes::default() })
}
