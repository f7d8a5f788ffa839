//! Nothing has the new name unless it is whole, and the source stays as it was: killed runs, full disks, limits, and names
//! that lead elsewhere.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::super::damage::harm::Random;
use super::super::program::{argument, atrest, program, temporary, testdata};
use super::super::walk;
use super::{rewrite, whole};

/// Bytes of a block in the limits of `sh`.
const BLOCK: u64 = 512;

/// A copy of a store, a folder for results, and what is to be done.
struct Place {
    home: TempDir,
    source: PathBuf,
    bytes: Vec<u8>,
}

impl Place {
    fn new() -> Self {
        let home = temporary();
        let source = home.path().join("source.db");
        let bytes = fs::read(testdata("kubeadm/snapshot.db")).unwrap();
        fs::write(&source, &bytes).unwrap();
        fs::create_dir(home.path().join("out")).unwrap();
        Self { home, source, bytes }
    }

    fn output(&self) -> PathBuf {
        self.home.path().join("out/new.db")
    }

    fn part(&self) -> PathBuf {
        self.home.path().join("out/.new.db.atrest-part")
    }

    /// The arguments of a rewrite that succeeds.
    fn arguments(&self, output: &Path) -> Vec<String> {
        let (config, target) = (testdata("kubeadm/all-keys.json"), testdata("kubeadm/target-config.yaml"));
        let from = ["rewrite", argument(&self.source), "-c", &config, "--to", &target, "--keep-unreadable"];
        from.iter().chain(&["--report", "json", "-o", argument(output)]).map(|text| text.to_string()).collect()
    }

    fn run(&self, more: &[&str]) -> super::super::program::Run {
        let output = self.output();
        let arguments = self.arguments(&output);
        atrest(&arguments.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
    }

    /// A shell command in front of the program, which is its `"$@"`.
    fn run_in(&self, shell: &[&str], output: &Path, more: &[&str]) -> Output {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg("sh").arg(program().get_program());
        command.args(self.arguments(output)).args(more).stdin(Stdio::null()).output().expect("the shell starts")
    }

    fn source_is_unchanged(&self) {
        assert!(fs::read(&self.source).unwrap() == self.bytes);
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.path().join("out")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Nothing was written, and the run said why in one sentence.
    #[track_caller]
    fn failed(&self, done: &Output) -> String {
        let err = String::from_utf8(done.stderr.clone()).unwrap();
        assert_eq!((done.status.code(), done.stdout.len()), (Some(4), 0), "{err}");
        let lines: Vec<_> = err.lines().filter(|line| !line.starts_with("hint: ")).collect();
        assert!(lines.len() == 1 && !err.contains("panicked"), "{err}");
        assert_eq!(self.entries(), [""; 0]);
        self.source_is_unchanged();
        err
    }
}

/// A complete result: whole, on the new key, under the new name alone.
#[track_caller]
fn is_complete(place: &Place) {
    let check = whole(&place.output());
    assert_eq!(check["trailer"], "ok");
    assert_eq!(fs::metadata(place.output()).unwrap().permissions().mode() & 0o777, 0o600);
    let records = walk::records(argument(&place.output()));
    assert_eq!(records.len(), walk::records(argument(&place.source)).len());
    assert!(records.iter().filter(|record| record.value.starts_with(b"k8s:enc:secretbox:v1:new-2026:")).count() == 201);
}

#[test]
fn killed_at_a_hundred_moments_it_leaves_no_partial_file_under_the_name() {
    let workers = [1, 2].map(|seed| {
        thread::spawn(move || {
            let place = Place::new();
            let begin = Instant::now();
            assert_eq!(place.run(&[]).code, 1);
            let whole_run = begin.elapsed();
            fs::remove_file(place.output()).unwrap();
            let (mut random, mut leftovers) = (Random::new(seed), 0);
            for _ in 0..50 {
                leftovers += usize::from(killed(&place, whole_run.mul_f64(random.below(1100) as f64 / 1000.0)));
            }
            leftovers
        })
    });
    let leftovers: usize = workers.map(|worker| worker.join().unwrap()).iter().sum();
    assert!(leftovers > 5, "{leftovers} of a hundred runs died while they wrote, which would prove little");
}

/// Kills a run after a time; whether it left anything. The next run succeeds whatever it was.
fn killed(place: &Place, after: Duration) -> bool {
    let mut command = program();
    command.args(place.arguments(&place.output())).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    thread::sleep(after);
    process.kill().unwrap();
    process.wait().unwrap();
    place.source_is_unchanged();
    let leftover = place.part().exists();
    let expected = match (leftover, place.output().exists()) {
        (true, false) => vec![".new.db.atrest-part"],
        (false, true) => vec!["new.db"],
        (false, false) => vec![],
        // It has one name after the other, never both.
        (true, true) => panic!("both"),
    };
    assert_eq!(place.entries(), expected);
    if place.output().exists() {
        is_complete(place);
    } else {
        let run = place.run(&[]);
        assert_eq!(run.code, 1, "{}", run.err);
        is_complete(place);
    }
    assert_eq!(place.entries(), ["new.db"]);
    fs::remove_file(place.output()).unwrap();
    leftover
}

#[test]
fn interrupted_it_cleans_up_and_says_so() {
    let place = Place::new();
    // It is a signal before anything else that ends a run which waits for its source.
    let (config, target) = (testdata("kubeadm/all-keys.json"), testdata("kubeadm/target-config.yaml"));
    let mut command = program();
    command.args(["rewrite", "-", "-c", &config, "--to", &target, "-o", argument(&place.output())]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let signalled = Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    assert!(!process.wait().unwrap().success());
    assert_eq!(place.entries(), [""; 0]);
}

#[test]
fn a_limit_on_the_size_of_files_fails_it_at_every_write() {
    let place = Place::new();
    assert_eq!(place.run(&[]).code, 1);
    let length = fs::metadata(place.output()).unwrap().len();
    fs::remove_file(place.output()).unwrap();
    // The last one takes all pages, and not the digest behind them.
    let last = length / BLOCK;
    let mut limits: Vec<u64> = (0..20).map(|step| step * last / 20).collect();
    limits.extend([1, 8, 16, 17, 24, 25, last - 9, last - 8, last - 1, last]);
    for limit in limits {
        let shell = format!("ulimit -f {limit} && exec \"$@\"");
        let done = place.run_in(&["sh", "-c", &shell], &place.output(), &[]);
        let told = place.failed(&done);
        assert!(told.contains("File too large"), "{limit}: {told}");
    }
    let shell = format!("ulimit -f {} && exec \"$@\"", last + 1);
    let done = place.run_in(&["sh", "-c", &shell], &place.output(), &[]);
    assert_eq!(done.status.code(), Some(1), "{}", String::from_utf8_lossy(&done.stderr));
    is_complete(&place);
}

/// A shell in a mount namespace of its own, where `script` may mount on the folder of results; none where that is forbidden.
fn in_a_namespace(script: &str) -> Option<Vec<&str>> {
    let ways = [&["unshare", "--mount"][..], &["unshare", "--user", "--map-root-user", "--mount"]];
    let works = |way: &&&[&str]| {
        let mut command = Command::new(way[0]);
        command.args(&way[1..]).args(["mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]);
        command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let way = ways.iter().find(works)?;
    Some([way, &["sh", "-c", script][..]].concat())
}

#[test]
fn a_file_system_that_is_full_before_the_end_fails_it() {
    for history in [&[][..], &["--drop-history"]] {
        let place = Place::new();
        let folder = place.home.path().join("out");
        assert!(matches!(place.run(history).code, 0 | 1));
        let length = fs::metadata(place.output()).unwrap().len();
        fs::remove_file(place.output()).unwrap();
        let last = length.div_ceil(4096) * 4 - 4;
        for kib in [8, 64, last / 2, last - 4, last] {
            let script = format!(
                "mount -t tmpfs -o size={kib}k none '{0}' && {{ \"$@\"; code=$?; ls -A '{0}' >&2; exit $code; }}",
                folder.display()
            );
            let limit = format!("ulimit -f {} && exec \"$@\"", kib * 2);
            // Where nothing may be mounted, a limit of the same bytes stands in.
            let shell = in_a_namespace(&script).unwrap_or_else(|| vec!["sh", "-c", &limit]);
            let done = place.run_in(&shell, &place.output(), history);
            let told = place.failed(&done);
            let words = ["there is room for", "No space left on device", "File too large"];
            assert!(words.iter().any(|words| told.contains(words)), "{kib} KiB: {told}");
        }
    }
}

#[test]
fn a_folder_that_takes_no_file_is_told() {
    let place = Place::new();
    let told = place.failed(&place.run_in(&["sh", "-c", "exec \"$@\""], Path::new("/proc/new.db"), &[]));
    assert!(told.contains("/proc/new.db") && told.contains("can't be created"), "{told}");
    let folder = place.home.path().join("out");
    let script = format!("mount -t tmpfs -o ro none '{}' && exec \"$@\"", folder.display());
    if let Some(shell) = in_a_namespace(&script) {
        let told = place.failed(&place.run_in(&shell, &place.output(), &[]));
        assert!(told.contains("Read-only file system"), "{told}");
    }
    let missing = place.home.path().join("no/such/folder.db");
    let told = place.failed(&place.run_in(&["sh", "-c", "exec \"$@\""], &missing, &[]));
    assert!(told.contains("its folder can't be opened"), "{told}");
}

#[test]
fn an_existing_name_needs_force_and_gives_way_only_to_a_whole_file() {
    let place = Place::new();
    fs::write(place.output(), b"precious").unwrap();
    let run = place.run(&[]);
    assert!(run.failed(4).contains("it exists already"), "{}", run.err);
    assert_eq!(fs::read(place.output()).unwrap(), b"precious");
    let shell = ["sh", "-c", "ulimit -f 100 && exec \"$@\""];
    let done = place.run_in(&shell, &place.output(), &["--force"]);
    assert_eq!((done.status.code(), &fs::read(place.output()).unwrap()[..]), (Some(4), &b"precious"[..]));
    assert_eq!(place.run(&["--force"]).code, 1);
    is_complete(&place);
}

#[test]
fn the_source_is_never_the_output_whatever_leads_to_it() {
    let place = Place::new();
    let out = |name: &str| place.home.path().join("out").join(name);
    fs::hard_link(&place.source, out("hard.db")).unwrap();
    symlink(&place.source, out("soft.db")).unwrap();
    symlink(place.home.path(), out("folder")).unwrap();
    let ways = [place.source.clone(), out("hard.db"), out("soft.db"), out("folder/source.db"), out("../source.db")];
    for way in ways {
        for more in [&[][..], &["--force"]] {
            let arguments = place.arguments(&way);
            let run = atrest(&[&arguments.iter().map(String::as_str).collect::<Vec<_>>()[..], more].concat());
            assert!(run.failed(4).contains("is the same file as the input"), "{}: {}", way.display(), run.err);
            place.source_is_unchanged();
        }
    }
    assert_eq!(fs::metadata(&place.source).unwrap().nlink(), 2);
}

#[test]
fn a_configuration_is_never_the_output() {
    let place = Place::new();
    let target = place.home.path().join("target.yaml");
    fs::copy(testdata("kubeadm/target-config.yaml"), &target).unwrap();
    let source = argument(&place.source);
    let run = rewrite(source, &target, &["--to", argument(&target), "--force"]);
    assert!(run.failed(4).contains("is the same file as the input"), "{}", run.err);
    assert!(fs::read(&target).unwrap() == fs::read(testdata("kubeadm/target-config.yaml")).unwrap());
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = Place::new();
    let before = fs::metadata(&place.source).unwrap().modified().unwrap();
    let run = place.run(&["--dry-run"]);
    let report = run.json();
    assert_eq!((run.code, &report["proved"], &report["output"]), (1, &Value::Bool(false), &Value::Null));
    assert_eq!(place.entries(), [""; 0]);
    assert_eq!(fs::metadata(&place.source).unwrap().modified().unwrap(), before);
    place.source_is_unchanged();
}

/// What happens while a run is under way: its KMS plugin does it, which is asked after the file was begun.
#[cfg(feature = "kms")]
fn meanwhile(folder: &Path, source: &Path, act: impl Fn() + Send + Sync + 'static) -> super::super::program::Run {
    use super::super::stand_in::{Plugin, honest};

    let act = std::sync::Once::new().pipe(act);
    let answer = honest("v2", "1");
    let plugin = Plugin::start(move |call| {
        act();
        answer(call)
    });
    let config = folder.join("kms.json");
    let document = serde_json::json!({
        "kind": "EncryptionConfiguration",
        "apiVersion": "apiserver.config.k8s.io/v1",
        "resources": [{"resources": ["configmaps"], "providers": [
            {"kms": {"apiVersion": "v2", "name": "cloud-kms", "endpoint": plugin.endpoint()}}, {"identity": {}}]}],
    });
    fs::write(&config, document.to_string()).unwrap();
    let output = folder.join("out/new.db");
    rewrite(argument(source), &output, &["-c", argument(&config), "--strip", "--kms", "--quiet"])
}

/// An action that is done once.
#[cfg(feature = "kms")]
trait OnlyOnce {
    fn pipe(self, act: impl Fn() + Send + Sync + 'static) -> impl Fn() + Send + Sync + 'static;
}

#[cfg(feature = "kms")]
impl OnlyOnce for std::sync::Once {
    fn pipe(self, act: impl Fn() + Send + Sync + 'static) -> impl Fn() + Send + Sync + 'static {
        move || self.call_once(&act)
    }
}

/// A store of plaintext.
#[cfg(feature = "kms")]
fn plain(place: &Place) -> PathBuf {
    let path = place.home.path().join("plain.db");
    let config = testdata("apiserver/encryption-config.yaml");
    let run = rewrite(&testdata("apiserver/snapshot.db"), &path, &["-c", &config, "--strip"]);
    assert_eq!(run.code, 0, "{}", run.err);
    path
}

#[cfg(feature = "kms")]
#[test]
fn an_output_folder_that_vanishes_meanwhile_fails_it() {
    let place = Place::new();
    let source = plain(&place);
    let folder = place.home.path().join("out");
    let run = meanwhile(place.home.path(), &source, move || fs::remove_dir_all(&folder).unwrap());
    assert!(run.failed(4).contains("No such file or directory"), "{}", run.err);
    assert!(!place.home.path().join("out").exists());
}

#[cfg(feature = "kms")]
#[test]
fn a_name_that_somebody_takes_meanwhile_is_left_to_them() {
    let place = Place::new();
    let source = plain(&place);
    let theirs = place.output();
    let run = meanwhile(place.home.path(), &source, move || fs::write(&theirs, b"theirs").unwrap());
    assert!(run.failed(4).contains("it exists already"), "{}", run.err);
    assert_eq!((place.entries(), fs::read(place.output()).unwrap()), (vec!["new.db".to_owned()], b"theirs".to_vec()));
}
