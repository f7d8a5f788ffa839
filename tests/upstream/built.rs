//! The programs that `tests/upstream/run` builds, and what has to be done for any of them that keeps running.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take until it answers. Far more than it needs on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(300);

/// The path of a program by its name in `target/upstream`.
pub fn built(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/upstream").join(name);
    assert!(path.is_file(), "{name} is missing: run tests/upstream/run");
    path
}

/// A program that runs until this is dropped.
pub struct Running {
    process: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program; what it says goes to a file.
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = fs::File::create(&log).expect("a log file");
        let process = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of the log"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { process, log }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until something holds; the program's end, or too long a wait, fails the test in the program's words.
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            let ended = self.process.try_wait().expect("the program's state");
            assert!(ended.is_none(), "it ended before {what}: {}", self.log());
            assert!(begun.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}: {}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, and there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody listens on right now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}
