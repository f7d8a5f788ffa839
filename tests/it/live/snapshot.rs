//! `snapshot save`: what arrives is proved, and nothing else is kept.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::it::program::{KUBEADM, argument, atrest, audit, temporary, testdata};
use crate::it::servers::Release;

use super::proxy::{Next, Proxy};
use super::server::Cluster;

#[test]
fn a_snapshot_is_saved_proved_and_private() {
    for release in Release::ALL {
        let folder = temporary();
        let store = testdata(KUBEADM.0);
        let server = Cluster::restored(release, Path::new(&store));
        let path = folder.path().join("saved.db");
        let save = ["snapshot", "save", "-o", argument(&path), "--endpoints", &server.endpoints(), "--report", "json"];
        let run = atrest(&save);
        let document = run.json();
        assert_eq!((run.code, &document["proved"]), (0, &json!(true)), "{document}");
        let bytes = fs::read(&path).unwrap();
        assert_eq!(document["output"]["bytes"], json!(bytes.len()));
        assert_eq!((bytes.len() % 512, fs::metadata(&path).unwrap().permissions().mode() & 0o777), (32, 0o600));
        let checked = atrest(&["check", argument(&path), "-o", "json"]).json();
        assert_eq!((&checked["trailer"], &checked["sha256"]), (&json!("ok"), &document["output"]["sha256"]));
        assert!(audit(argument(&path), &[], &["-o", "csv"]).out == audit(&store, &[], &["-o", "csv"]).out);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let again = atrest(&save);
        assert!(again.failed(4).contains("it exists already"), "{}", again.err);
        let again = atrest(&[&save[..], &["--force"]].concat());
        assert_eq!(again.code, 0, "{}", again.err);
    }
}

#[test]
fn a_stream_that_is_cut_leaves_nothing_and_another_member_is_tried() {
    let folder = temporary();
    let store = testdata(KUBEADM.0);
    let server = Cluster::restored(Release::V3_5, Path::new(&store));
    let path = folder.path().join("saved.db");
    let cut = || Proxy::start(server.first().port, |bytes| if bytes < 400_000 { Next::Pass } else { Next::Refuse });
    let proxy = cut();
    let run = atrest(&["snapshot", "save", "-o", argument(&path), "--endpoints", &proxy.endpoint()]);
    assert!(run.failed(3).contains(&proxy.endpoint()), "{}", run.err);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let proxy = cut();
    let both = format!("{},{}", proxy.endpoint(), server.endpoints());
    let run = atrest(&["snapshot", "save", "-o", argument(&path), "--endpoints", &both]);
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
    assert!(run.text().contains(&format!("from {}", server.endpoints())), "{}", run.text());
    assert_eq!(atrest(&["check", argument(&path)]).code, 0);
}

#[test]
fn no_server_is_wrong_usage_and_a_folder_that_is_not_there_is_refused_first() {
    assert!(atrest(&["snapshot", "save", "-o", "x.db"]).failed(2).contains("--endpoints"));
    let run = atrest(&["snapshot", "save", "-o", "/nowhere/x.db", "--endpoints", "127.0.0.1:1"]);
    assert!(run.failed(4).contains("folder"), "{}", run.err);
    let folder = temporary();
    let path = folder.path().join("x.db");
    let run = atrest(&["snapshot", "save", "-o", argument(&path), "--endpoints", "127.0.0.1:1"]);
    assert!(run.failed(3).contains("nobody listens there"), "{}", run.err);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
