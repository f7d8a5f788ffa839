//! What happens in the middle of a scan: history forgotten, connections cut, a member lost, values that are large.

use std::sync::{Arc, Mutex};

use crate::it::program::{Run, atrest, cell};
use crate::it::servers::{Release, output};

use super::proxy::{Next, Proxy};
use super::server::{Cluster, Wishes};

/// Some mebibytes of values, so that a scan takes several pages.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("/registry/configmaps/ns-{}/c-{number:05}", number % 7)).collect()
}

fn csv(endpoints: &str) -> Run {
    atrest(&["audit", "--endpoints", endpoints, "-o", "csv"])
}

#[track_caller]
fn keys(run: &Run) -> Vec<String> {
    assert_eq!(run.code, 0, "{}", run.err);
    let mut reader = csv::Reader::from_reader(&run.out[..]);
    let rows = reader.deserialize().map(|row: Result<crate::it::program::Row, _>| row.expect("a row"));
    rows.map(|row| cell(&row, "key").to_owned()).collect()
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn history_that_is_forgotten_in_the_middle_is_survived_and_told() {
    for release in Release::ALL {
        let server = Cluster::single(release);
        let names = names(400);
        server.first().put_all(&names, &"v".repeat(20_000));
        // etcdctl compacts while the scan waits for its next bytes.
        let mut compaction = server.first().command(&["compact"]);
        let newer = server.first().command(&["put", "/registry/configmaps/ns-9/new", "x"]);
        let revision = server.first().revision() + 1;
        compaction.arg(revision.to_string());
        let mut once = Some((newer, compaction));
        let proxy = Proxy::start(server.first().port, move |bytes| {
            if bytes > 2_000_000
                && let Some((newer, compaction)) = once.take()
            {
                output(newer);
                output(compaction);
            }
            Next::Pass
        });
        let run = csv(&proxy.endpoint());
        let found = keys(&run);
        let missing: Vec<_> = names.iter().filter(|name| !found.contains(name)).collect();
        assert!(missing.is_empty() && found.len() <= names.len() + 1, "{missing:?}");
        assert!(run.err.contains("the server forgot revision"), "{}", run.err);
    }
}

#[test]
fn a_first_call_that_breaks_off_is_made_again_and_not_for_ever() {
    let server = Cluster::single(Release::V3_5);
    server.first().put("/registry/configmaps/default/a", b"k8s\0not really");
    for (cut, succeeds) in [(3, true), (usize::MAX, false)] {
        let mut left = cut;
        let proxy = Proxy::start(server.first().port, move |_| {
            left = left.saturating_sub(1);
            if left > 0 || cut == usize::MAX { Next::Cut } else { Next::Pass }
        });
        let run = atrest(&["check", "--endpoints", &proxy.endpoint()]);
        assert_eq!(run.code, if succeeds { 0 } else { 3 }, "{}", run.err);
    }
}

#[test]
fn connections_that_are_cut_again_and_again_cost_no_key() {
    let server = Cluster::single(Release::V3_5);
    let names = names(600);
    server.first().put_all(&names, &"v".repeat(20_000));
    let mut next = 1_500_000;
    let proxy = Proxy::start(server.first().port, move |bytes| {
        if bytes < next {
            return Next::Pass;
        }
        next += 1_500_000;
        Next::Cut
    });
    let run = csv(&proxy.endpoint());
    assert_eq!(keys(&run), sorted(names));
    assert!(run.err.contains("the connection was lost"), "{}", run.err);
    assert!(proxy.connections.load(std::sync::atomic::Ordering::SeqCst) > 4);
}

#[test]
fn a_member_that_is_lost_in_the_middle_is_followed_by_the_next_one() {
    let cluster = Cluster::start(Release::V3_5, &Wishes { members: 3, ..Wishes::default() });
    let names = names(400);
    cluster.first().put_all(&names, &"v".repeat(20_000));
    let others: Vec<_> = cluster.members[1..].iter().map(|member| member.endpoint()).collect();
    let port = cluster.first().port;
    let cluster = Arc::new(Mutex::new(cluster));
    let lost = cluster.clone();
    let proxy = Proxy::start(port, move |bytes| {
        if bytes < 2_000_000 {
            return Next::Pass;
        }
        lost.lock().unwrap().members[0].kill();
        Next::Refuse
    });
    let run = csv(&format!("{},{}", proxy.endpoint(), others.join(",")));
    assert_eq!(keys(&run), sorted(names));
    assert!(run.err.contains("the scan went on from where it was"), "{}", run.err);
}

#[test]
fn a_server_that_is_lost_for_good_ends_the_scan_and_nothing_is_printed() {
    let server = Cluster::single(Release::V3_4);
    server.first().put_all(&names(300), &"v".repeat(20_000));
    let proxy = Proxy::start(server.first().port, |bytes| if bytes < 2_000_000 { Next::Pass } else { Next::Refuse });
    let run = csv(&proxy.endpoint());
    let said = run.failed(3);
    assert!(said.contains(&proxy.endpoint()) && said.contains("hint: "), "{said}");
}

#[test]
fn values_near_the_request_limit_and_many_small_ones_are_read_together() {
    for release in Release::ALL {
        let server = Cluster::single(release);
        let large: Vec<_> = (0..30).map(|number| format!("/registry/configmaps/large/{number:02}")).collect();
        for name in &large {
            server.first().put(name, &vec![b'x'; 1_400_000]);
        }
        let small: Vec<_> = (0..500).map(|number| format!("/registry/configmaps/small/{number:03}")).collect();
        server.first().put_all(&small, "y");
        let run = csv(&server.endpoints());
        assert_eq!(keys(&run), [large, small].concat());
        assert!(run.err.is_empty(), "{}", run.err);
    }
}

#[test]
fn thousands_of_keys_are_read_once_each_however_they_are_cut_into_parts() {
    let server = Cluster::single(Release::V3_5);
    let names = names(30_000);
    server.first().put_all(&names, &"v".repeat(300));
    let run = csv(&server.endpoints());
    assert_eq!(keys(&run), sorted(names));
}
