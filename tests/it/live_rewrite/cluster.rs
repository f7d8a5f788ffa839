//! Rewrites of clusters: over TLS and with users, without a quorum, with a member that hangs, and what is done afterwards
//! at each member.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::it::live::server::{Authority, Cluster, Member, Wishes, secure};
use crate::it::program::{argument, atrest, audit, program, temporary};
use crate::it::servers::Release;

use super::store::{Keys, Store, key};
use super::{proved, rewrite};

fn three() -> Cluster {
    Cluster::start(Release::V3_5, &Wishes { members: 3, ..Wishes::default() })
}

/// A rewrite that takes some seconds, begun and seen to write.
fn begun(endpoints: &str, keys: &Keys, member: &Member, more: &[&str]) -> Child {
    let before = member.revision();
    let mut command = program();
    command.args(["rewrite", "--endpoints", endpoints, "-c", &keys.old, "--to", &keys.new, "--report", "json", "-q"]);
    command.args(["--confirm", "--rate", "400", "--command-timeout", "1s"]).args(more);
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let begin = Instant::now();
    while member.revision() < before + 3 {
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing is written");
        thread::sleep(Duration::from_millis(20));
    }
    process
}

/// What it says when it had to end before its end.
#[track_caller]
fn stopped(process: Child) -> (String, Value) {
    let done = process.wait_with_output().expect("the program ends");
    let report: Value = serde_json::from_slice(&done.stdout).unwrap_or(Value::Null);
    assert_eq!(done.status.code(), Some(4), "{report}{}", String::from_utf8_lossy(&done.stderr));
    let outcome = &report["live"]["outcome"];
    assert!(outcome["written"].as_u64().is_some_and(|written| (1..3000).contains(&written)), "{report}");
    (outcome["stopped"].as_str().unwrap_or_else(|| panic!("{report}")).to_owned(), report)
}

#[test]
fn over_mutual_tls_users_by_certificate_rewrite_what_they_may() {
    let (folder, ca) = (temporary(), Authority::new("etcd-ca"));
    ca.sign("server", "serverAuth,clientAuth", "IP:127.0.0.1", None);
    ca.sign("root", "clientAuth", "", None);
    ca.sign("reader", "clientAuth", "", None);
    let cluster = secure(&ca, "server", "root", Release::V3_5);
    let (keys, server) = (Keys::new(&folder), cluster.first());
    for number in 0..30 {
        let name = format!("s{number}");
        server.put(&String::from_utf8(key(&name)).unwrap(), &keys.sealed_old(&key(&name), &name));
    }
    let cacert = ca.file("ca.crt");
    let by = |name: &str| {
        let files = [cacert.clone(), ca.file(&format!("{name}.crt")), ca.file(&format!("{name}.key"))];
        ["--cacert", "--cert", "--key"].into_iter().zip(files).flat_map(|(flag, file)| [flag.to_owned(), file])
    };
    let rewrite_by = |name: &str, more: &[&str]| {
        let own: Vec<_> = by(name).collect();
        let own: Vec<_> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        rewrite(&cluster.endpoints(), &keys, &own)
    };
    // A plan needs no more than TLS as yet.
    let (run, report) = rewrite_by("reader", &[]);
    assert_eq!((run.code, report["rewritten"].as_u64()), (0, Some(30)), "{}{}", run.err, run.text());
    let (run, _) = rewrite(&cluster.endpoints(), &keys, &["--cacert", &cacert]);
    assert!(run.failed(3).contains("client's certificate"), "{}", run.err);
    for arguments in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "reader"],
        &["role", "grant-permission", "reader", "--from-key", "read", ""],
        &["user", "add", "reader:secret"],
        &["user", "grant-role", "reader", "reader"],
        &["auth", "enable"],
    ] {
        server.etcdctl(arguments);
    }
    let before = server.revision();
    let (run, report) = rewrite_by("reader", &["--confirm", "--rate", "0"]);
    let said = format!("{}{}", run.err, report["live"]["outcome"]["stopped"]);
    assert!([3, 4].contains(&run.code) && said.contains("permission denied"), "{said}");
    assert_eq!(server.revision(), before);
    let (run, report) = rewrite_by("root", &["--confirm", "--rate", "0", "--compact", "--defrag"]);
    assert_eq!((run.code, report["proved"].as_bool()), (0, Some(true)), "{}{}", run.err, run.text());
    assert_eq!(report["live"]["outcome"]["proof"]["ours"], 30);
    let own: Vec<_> = by("root").collect();
    let endpoints = cluster.endpoints();
    let arguments = ["audit", "--endpoints", &endpoints, "-c", &keys.new_alone, "-o", "json"];
    let run = atrest(&[&arguments[..], &own.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    assert_eq!((run.code, run.json()["totals"]["stale"].as_u64()), (0, Some(0)), "{}{}", run.err, run.text());
}

#[test]
fn without_a_quorum_it_ends_in_a_sentence_and_a_rerun_goes_on() {
    let (folder, mut cluster) = (temporary(), three());
    let (keys, endpoints) = (Keys::new(&folder), cluster.endpoints());
    Store::connect(&cluster.first().endpoint()).fill(&keys, 3000);
    let process = begun(&endpoints, &keys, cluster.first(), &["--patience", "3"]);
    cluster.members[1].kill();
    cluster.members[2].kill();
    let (said, report) = stopped(process);
    assert!(said.contains(&cluster.first().endpoint()) || said.contains(&cluster.members[1].endpoint()), "{said}");
    assert!(said.contains("hint: ") && report["proved"] == false, "{said}");
    // Without a quorum nothing is begun either.
    let (run, _) = rewrite(&endpoints, &keys, &["--confirm", "--patience", "2", "--command-timeout", "1s"]);
    let said = run.failed(3);
    assert!(said.contains(&cluster.first().endpoint()) && said.contains("hint: "), "{said}");
    cluster.members[1].start_again();
    cluster.members[2].start_again();
    cluster.members.iter_mut().for_each(Member::await_answer);
    let report = proved(&endpoints, &keys, &[]);
    assert!(report["live"]["outcome"]["written"].as_u64().is_some_and(|written| written < 3000), "{report}");
    let store = Store::connect(&cluster.first().endpoint());
    store.holds(&keys.new_only, (0..3000).map(|number| (key(&format!("s{number}")), format!("s{number}"))));
}

#[test]
fn members_are_compacted_and_defragmented_one_after_the_other_and_the_leader_last() {
    let (folder, cluster) = (temporary(), three());
    let (keys, endpoints) = (Keys::new(&folder), cluster.endpoints());
    Store::connect(&cluster.first().endpoint()).fill(&keys, 500);
    let report = proved(&endpoints, &keys, &["--compact", "--defrag"]);
    let members = report["live"]["members"].as_array().expect("members");
    let leader = members.iter().find(|member| member["leads"] == true).expect("a leader")["endpoint"].clone();
    let done = report["live"]["done"].as_array().expect("what was done");
    let done: Vec<_> = done.iter().map(|line| line.as_str().expect("a sentence")).collect();
    assert!(done.first().is_some_and(|line| line.starts_with("Compacted at revision ")), "{done:?}");
    assert_eq!(done.len(), 4, "{done:?}");
    let leader = leader.as_str().expect("an endpoint");
    assert_eq!(done.last().copied(), Some(format!("Defragmented {leader}.").as_str()));
    // No member has anything of the old key left in its file.
    for (number, member) in cluster.members.iter().enumerate() {
        let path = folder.path().join(format!("{number}.db"));
        let run = atrest(&["snapshot", "save", "--endpoints", &member.endpoint(), "-o", argument(&path), "-q"]);
        assert_eq!(run.code, 0, "{}", run.err);
        let run = audit(argument(&path), &[&keys.new_alone], &["-o", "json"]);
        let totals = run.json()["totals"].clone();
        let totals = ["encrypted", "stale", "unreadable", "history"].map(|field| totals[field].as_u64());
        assert_eq!((run.code, totals), (0, [Some(500), Some(0), Some(0), Some(0)]), "{}", run.text());
    }
    // Where only one endpoint is given, the other members are named.
    let report = proved(&cluster.first().endpoint(), &keys, &["--compact", "--defrag"]);
    let left = report["live"]["left"].as_array().expect("what is left").iter();
    assert_eq!(left.filter(|line| line.as_str().is_some_and(|line| line.contains("was not given"))).count(), 2);
}

#[test]
fn a_member_that_hangs_is_passed_over_and_alone_it_ends_the_run_in_a_sentence() {
    let (folder, cluster) = (temporary(), three());
    let (keys, endpoints) = (Keys::new(&folder), cluster.endpoints());
    Store::connect(&cluster.first().endpoint()).fill(&keys, 3000);
    // In the middle, and from the beginning.
    let process = begun(&endpoints, &keys, &cluster.members[1], &["--patience", "30"]);
    cluster.first().signal("STOP");
    let done = process.wait_with_output().expect("the program ends");
    let report: Value = serde_json::from_slice(&done.stdout).expect("a report");
    assert_eq!((done.status.code(), report["proved"].as_bool()), (Some(0), Some(true)), "{report}");
    let timeouts = ["--dial-timeout", "500ms", "--command-timeout", "1s"];
    assert_eq!(proved(&endpoints, &keys, &timeouts)["live"]["outcome"]["written"], 0);
    let (run, _) = rewrite(&cluster.first().endpoint(), &keys, &[&["--confirm"][..], &timeouts].concat());
    let said = run.failed(3);
    assert!(said.contains(&cluster.first().endpoint()) && said.contains("hint: "), "{said}");
    cluster.first().signal("CONT");
    let store = Store::connect(&cluster.members[1].endpoint());
    store.holds(&keys.new_only, (0..3000).map(|number| (key(&format!("s{number}")), format!("s{number}"))));
}
