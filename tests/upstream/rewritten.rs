//! Rewritten stores on the newer releases of etcd, and under a real kube-apiserver that knows nothing but the new key.

use serde_json::json;

use super::apiserver::{CONFIG_MAPS, SECRETS, WIDGETS, config, define_widgets, keys, populate};
use super::kube::KubeApiserver;
use super::program::{argument, atrest, audit, temporary, testdata};
use super::servers::{Release, Server};
use super::walk;

/// Stores of `testdata`, the release that a rewritten one is made for, and the one that starts it.
const STARTED: [(&str, &[&str], Release); 6] = [
    ("versions/etcd-3.4.db", &[], Release::V3_6),
    ("versions/etcd-3.5.db", &["--drop-history"], Release::V3_7),
    ("versions/etcd-3.6.db", &[], Release::V3_6),
    ("versions/etcd-3.6.db", &["--drop-history"], Release::V3_7),
    ("versions/etcd-3.7.db", &[], Release::V3_7),
    ("versions/etcd-3.7.db", &["--for-etcd", "3.6"], Release::V3_6),
];

#[test]
fn rewritten_stores_start_on_3_6_and_3_7_and_open_with_the_target_alone() {
    let folder = temporary();
    let new = keys("aesgcm", "new");
    let resources = json!(["*.*"]);
    let target = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": resources, "providers": [new]}],
    });
    let to = super::program::private(&folder, "target.json", target.to_string().as_bytes());
    for (number, (store, more, release)) in STARTED.into_iter().enumerate() {
        let (source, current) = (testdata(store), testdata("versions/encryption-config.json"));
        let output = folder.path().join(format!("{number}.db"));
        let arguments = ["rewrite", &source, "-c", &current, "--to", &to, "-o", argument(&output)];
        let run = atrest(&[&arguments[..], more].concat());
        assert_eq!(run.code, 0, "{store}: {}{}", run.text(), run.err);
        let server = Server::restore(release, &output);
        let entries = walk::view(walk::records(&source), i64::MAX).into_iter();
        let entries = entries.filter(|(kind, _)| *kind == walk::Kind::Entry).count();
        assert_eq!(server.all().len(), entries, "{store} in {release:?}");
        server.put("/registry/configmaps/default/written-by-the-new-server", b"k8s\0");
        let snapshot = server.snapshot();
        let said = audit(argument(&snapshot), &[&to], &["-o", "csv"]);
        let rows = said.rows();
        let sealed: Vec<_> = rows.iter().filter(|row| row["state"] == "encrypted").collect();
        assert!(sealed.len() > 10, "{store}");
        for row in sealed {
            let is = ["readable", "stale", "expected"].map(|column| row[column].as_str());
            assert_eq!(is, ["yes", "no", "aesgcm/new"], "{store} in {release:?}: {row:?}");
        }
    }
}

#[test]
fn a_kube_apiserver_with_only_the_new_key_serves_every_object_of_a_rewritten_store() {
    let folder = temporary();
    let (old, new, identity) = (keys("aescbc", "key1"), keys("secretbox", "key2"), json!({"identity": {}}));
    let paths = [SECRETS, CONFIG_MAPS, WIDGETS];
    let etcd = Server::start(Release::V3_7);
    let current = config(&folder, "current.json", &[&old, &identity]);
    let before = {
        {
            let server = KubeApiserver::start(&etcd, None);
            define_widgets(&server);
            populate(&server, "plain", 3);
        }
        let server = KubeApiserver::start(&etcd, Some(&current));
        populate(&server, "sealed", 5);
        server.delete(&format!("{SECRETS}/sealed-4"));
        paths.map(|path| server.list(path))
    };
    let target = config(&folder, "target.json", &[&new]);
    let (snapshot, output) = (etcd.snapshot(), folder.path().join("rotated.db"));
    let arguments = ["rewrite", argument(&snapshot), "-c", argument(&current), "--to", argument(&target)];
    let run = atrest(&[&arguments[..], &["-o", argument(&output)]].concat());
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
    let etcd = Server::restore(Release::V3_7, &output);
    let server = KubeApiserver::start(&etcd, Some(&target));
    for (path, objects) in paths.into_iter().zip(before) {
        let served = server.list(path);
        assert!(objects.len() >= 7 && served == objects, "{path}: {served:?} instead of {objects:?}");
    }
    populate(&server, "after", 2);
    assert!(server.list(SECRETS).len() >= 9);
}
