//! The script that `audit --remedy` writes: what is in it, and that exactly the keys of the store arrive where it says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::made::{Put, secret, secret_key, store};
use super::program::{KUBEADM, argument, atrest, audit, cell, kubeadm, private, temporary, testdata};
use super::servers::{Release, Server};

/// Keys as nobody should have them; all but the last two fit an argument.
const KEYS: [&[u8]; 12] = [
    b"/registry/secrets/default/plain",
    b"/registry/secrets/default/with blank",
    b"/registry/secrets/default/it's",
    b"/registry/secrets/default/\"double\" $(touch x) `y` $HOME %s \\",
    b"/registry/secrets/default/line\nfeed\r# rm",
    b"/registry/secrets/default/\\x41\\",
    b"/registry/secrets/default/\xff\xfe\x80",
    b"/registry/secrets/default/\xc3\xa9\xe2\x80\xae",
    b"/registry/secrets/default/*?[a]{b,c}~!",
    b"'",
    b"-x",
    b"/registry/secrets/default/nul\0\"'\\ and more",
];

/// What no release of any API server can read.
const UNREADABLE: &[u8] = b"k8s:enc:rot13:v1:key:x";

/// The script for a store; it is valid, and does nothing as it is.
fn script(folder: &TempDir, source: &str, configs: &[&str]) -> String {
    let path = folder.path().join("remedy.sh");
    let run = audit(source, configs, &["--remedy", argument(&path), "-o", "json"]);
    assert!(matches!(run.code, 0 | 1) && run.err.is_empty(), "{}: {}", run.code, run.err);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let said = bash(&["-n"], &path);
    assert_eq!(said, "", "it is no script");
    // With nothing but bash at hand a command would fail.
    let said = bash(&["-c", "PATH=/nonexistent; . \"$0\""], &path);
    assert_eq!(said, "", "something runs");
    fs::read_to_string(&path).unwrap()
}

fn bash(arguments: &[&str], script: &std::path::Path) -> String {
    let done = Command::new("bash").args(arguments).arg(script).stdin(Stdio::null()).output().expect("bash runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
}

/// The script with the commands of one program taken out of their comments.
fn uncommented(script: &str, wanted: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(command) if wanted(command) => format!("{command}\n"),
        _ => format!("{line}\n"),
    };
    script.lines().map(line).collect()
}

#[test]
fn every_object_with_a_remedy_is_in_it() {
    let folder = temporary();
    let text = script(&folder, &testdata(KUBEADM.0), &[&testdata(KUBEADM.1)]);
    let rows = kubeadm(&["-o", "csv", "--only", "unreadable"]).rows();
    assert_eq!(rows.len(), 22);
    for row in &rows {
        let key = cell(row, "key");
        assert!(text.contains(&format!("\n# etcdctl del -- {key}\n")), "{key}");
        let path = key.replace("/registry/secrets/", "").replace('/', "/secrets/");
        let delete = format!(
            "\n# kubectl delete --raw '/api/v1/namespaces/{path}?ignoreStoreReadErrorWithClusterBreakingPotential=true'\n"
        );
        assert!(text.contains(&delete), "{delete}");
        assert!(text.contains(cell(row, "detail")), "{key}");
    }
    assert_eq!(text.matches("\n# etcdctl del ").count(), rows.len(), "nothing else is deleted");
    let stale = kubeadm(&["-o", "csv", "--only", "stale"]).rows();
    let folders: BTreeSet<_> = stale
        .iter()
        .map(|row| {
            assert!(text.contains(&format!("\n## {}\n", cell(row, "key"))), "{row:?}");
            (cell(row, "resource"), cell(row, "group"), cell(row, "namespace"))
        })
        .collect();
    for (resource, group, namespace) in &folders {
        let resource = if group.is_empty() { (*resource).to_owned() } else { format!("{resource}.{group}") };
        let command = format!("\n# kubectl get {resource} -n {namespace} -o json | kubectl replace -f -\n");
        assert_eq!(text.matches(&command).count(), 1, "{command}");
    }
    assert_eq!(text.matches(" | kubectl replace -f -\n").count(), folders.len());
    assert_eq!(text.matches("oc adm migrate").count(), 0);
    let older = kubeadm(&["-o", "csv", "--history"]).rows();
    for row in older.iter().filter(|row| cell(row, "record") == "history" && !cell(row, "findings").is_empty()) {
        let line = format!("\n## {} at revision {}: ", cell(row, "key"), cell(row, "mod_revision"));
        assert!(text.contains(&line), "{line}");
    }
    assert!(text.contains("\n# etcdctl compact --physical 237\n# etcdctl defrag --cluster\n"));
    assert!(text.contains(" --drop-history -o "));
}

#[test]
fn openshifts_own_way_of_rewriting_is_told_where_the_store_is_openshifts() {
    let folder = temporary();
    let text = script(&folder, &testdata("openshift3/snapshot.db"), &[&testdata("openshift3/encryption-config.yaml")]);
    let mut commands =
        text.lines().filter(|line| line.starts_with("# oc adm migrate storage --include=secrets --from-key="));
    let first = commands.next().expect("a command");
    let namespace = first.split("--from-key=").nth(1).unwrap().split('/').next().unwrap();
    assert!(first.ends_with(&format!("--from-key={namespace}/ --to-key={namespace}0 --confirm")), "{first}");
}

#[test]
fn a_group_has_its_version_from_the_api_server() {
    let folder = temporary();
    let puts = [
        Put::new(2, secret_key("a"), secret("a", "eA==")),
        Put::new(3, "/registry/stable.example.com/widgets/default/w", UNREADABLE),
    ];
    let path = store(&folder, "store.db", &puts, &[]);
    let text = script(&folder, &path, &[]);
    let run = uncommented(&text, |command| command.starts_with("kubectl delete"));
    let stub = r#"kubectl() { case $1 in
        api-resources) [ "$2" = --api-group=stable.example.com ] && printf '%s\n' 'gadgets  stable.example.com/v1  true  Gadget' 'widgets  wi  stable.example.com/v2beta1  true  Widget' ;;
        delete) printf '%s|' "$@" ;;
    esac; }"#;
    let script = private(&folder, "stubbed.sh", format!("{stub}\n{run}").as_bytes());
    let said = bash(&[], script.as_ref());
    let path = "/apis/stable.example.com/v2beta1/namespaces/default/widgets/w";
    assert_eq!(said, format!("delete|--raw|{path}?ignoreStoreReadErrorWithClusterBreakingPotential=true|"));
}

#[test]
fn exactly_the_bytes_of_a_key_arrive() {
    let folder = temporary();
    let puts: Vec<_> = (2..).zip(KEYS).map(|(revision, key)| Put::new(revision, key, UNREADABLE)).collect();
    let path = store(&folder, "store.db", &puts, &[]);
    let text = script(&folder, &path, &[]);
    let run = uncommented(&text, |command| command.contains("etcdctl"));
    // The key is the last argument; a transaction is read from standard input.
    let stub = r#"etcdctl() { if [ "$1" = txn ]; then cat; else printf '%s|' "${@:1:2}"; printf '%s\0' "$3"; fi; }"#;
    let script = private(&folder, "stubbed.sh", format!("{stub}\n{run}").as_bytes());
    let done = Command::new("bash").arg(script).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut keys: Vec<_> = KEYS.to_vec();
    keys.sort_unstable();
    let expected: Vec<_> = keys
        .iter()
        .flat_map(|key| match key.contains(&0) {
            true => b"\ndel -- \"/registry/secrets/default/nul\\x00\\x22\\x27\\x5c and more\"\n\n\n".to_vec(),
            false => [b"del|--|", *key, b"\0"].concat(),
        })
        .collect();
    assert_eq!(String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&expected));
    assert_eq!(done.stdout, expected);
}

#[test]
fn a_real_etcd_loses_these_keys_and_no_others() {
    for release in Release::ALL {
        let server = Server::start(release);
        // What a key would be whose quoting went wrong.
        let bystanders = ["line", "x41", "A", "nul", "with", "it", "double", "feed"];
        for name in bystanders {
            server.put(secret_key(name), &secret(name, "eA=="));
        }
        for key in KEYS {
            server.put_any(key, UNREADABLE);
        }
        let folder = temporary();
        let text = script(&folder, argument(&server.snapshot()), &[]);
        let run = uncommented(&text, |command| command.contains("etcdctl del") || command.contains("etcdctl txn"));
        let path = private(&folder, "run.sh", run.as_bytes());
        server.run_script(path.as_ref());
        let left: BTreeSet<_> = server.all().iter().map(|kv| STANDARD.decode(&kv.key).unwrap()).collect();
        assert_eq!(left, bystanders.iter().map(|name| secret_key(name).into_bytes()).collect(), "{release:?}");
    }
}

#[test]
fn what_is_there_is_not_replaced_unless_that_is_wanted() {
    let folder = temporary();
    let path = private(&folder, "remedy.sh", b"mine");
    let refused = kubeadm(&["--remedy", &path]);
    assert!(refused.failed(4).contains("exists"), "{}", refused.err);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert_eq!(kubeadm(&["--remedy", &path, "--force"]).code, 1);
    assert!(fs::read_to_string(&path).unwrap().starts_with("#!/usr/bin/env bash\n"));
    assert_eq!(kubeadm(&["--remedy", "/nonexistent/remedy.sh"]).code, 4);
    assert_eq!(kubeadm(&["--force"]).code, 2);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left lying about");
}

#[test]
fn what_is_read_is_never_replaced() {
    let folder = temporary();
    let bytes = fs::read(testdata(KUBEADM.0)).unwrap();
    let source = private(&folder, "snapshot.db", &bytes);
    let config = private(&folder, "config.yaml", &fs::read(testdata(KUBEADM.1)).unwrap());
    for target in [&source, &config] {
        let run = atrest(&["audit", &source, "-c", &config, "--remedy", target, "--force"]);
        run.failed(4);
    }
    assert_eq!(fs::read(&source).unwrap(), bytes);
}
