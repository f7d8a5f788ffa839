//! `check --endpoints`: the members of a cluster side by side.

use serde_json::json;

use crate::it::program::atrest;
use crate::it::servers::Release;

use super::server::{Cluster, Wishes};

#[test]
fn every_member_is_told_of_with_its_hash_though_one_was_named() {
    let mut cluster = Cluster::start(Release::V3_5, &Wishes { members: 3, ..Wishes::default() });
    cluster.first().put_all(&(0..50).map(|n| format!("/registry/pods/default/{n}")).collect::<Vec<_>>(), "value");
    let endpoint = cluster.first().endpoint();
    let run = atrest(&["check", "--endpoints", &endpoint, "-o", "json"]);
    let document = run.json();
    assert_eq!((run.code, &document["agreement"]), (0, &json!("same")), "{document}");
    let members = document["members"].as_array().unwrap();
    let expected = crate::it::servers::output(cluster.first().command(&["endpoint", "hashkv", "-w", "json"]));
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    assert_eq!(members.len(), 3);
    for member in members {
        assert_eq!(member["hashkv"], expected[0]["HashKV"]["hash"], "{member}");
        assert_eq!((&member["error"], &member["complaints"]), (&json!(null), &json!([])));
        assert!(member["db_bytes"].as_u64().unwrap() >= member["db_bytes_in_use"].as_u64().unwrap());
        assert!(member["version"].as_str().unwrap().starts_with("3.5."));
    }
    assert_eq!(members.iter().filter(|member| member["leader"] == json!(true)).count(), 1);
    assert_eq!((&document["schema"], &document["well"]), (&json!("atrest.members/1"), &json!(true)));

    cluster.members[2].kill();
    let run = atrest(&["check", "--endpoints", &endpoint]);
    assert_eq!(run.code, 1, "{}{}", run.text(), run.err);
    let lost = cluster.members[2].endpoint();
    assert!(run.text().contains("1 of 3 members could not be asked") && run.text().contains(&lost), "{}", run.text());
}

#[test]
fn members_that_hold_different_data_fail() {
    let clusters = [Cluster::single(Release::V3_5), Cluster::single(Release::V3_5)];
    clusters[0].first().put("/registry/pods/default/a", b"one");
    clusters[1].first().put("/registry/pods/default/a", b"other");
    let endpoints = clusters.iter().map(Cluster::endpoints).collect::<Vec<_>>().join(",");
    let run = atrest(&["check", "--endpoints", &endpoints]);
    assert_eq!(run.code, 1, "{}{}", run.text(), run.err);
    assert!(run.text().contains("the members hold different data"), "{}", run.text());
}

#[test]
fn an_alarm_that_stands_fails_with_what_to_do() {
    let flags = vec!["--quota-backend-bytes".to_owned(), "2000000".to_owned()];
    let server = Cluster::start(Release::V3_5, &Wishes { flags, ..Wishes::default() });
    let full = (0..8).any(|number| {
        let mut command = server.first().command(&["put", &format!("/registry/pods/default/{number}")]);
        command.arg("x".repeat(100_000)).stdin(std::process::Stdio::null());
        (0..5).any(|_| !command.output().expect("etcdctl runs").status.success())
    });
    assert!(full, "the quota was not reached");
    let run = atrest(&["check", "--endpoints", &server.endpoints(), "-o", "json"]);
    assert_eq!(run.code, 1);
    assert_eq!(run.json()["alarms"][0]["alarm"], json!("NOSPACE"));
    let run = atrest(&["check", "--endpoints", &server.endpoints()]);
    assert!(run.text().contains("alarm NOSPACE") && run.text().contains("alarm disarm"), "{}", run.text());
}

#[test]
fn a_revision_goes_with_a_file_alone() {
    let run = atrest(&["check", "--endpoints", "127.0.0.1:1", "--hashkv", "--revision", "3"]);
    assert!(run.failed(2).contains("--revision"), "{}", run.err);
}
