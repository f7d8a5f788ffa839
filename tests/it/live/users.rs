//! Servers with users: by password, by certificate, with too few rights.

use std::process::Stdio;

use crate::it::program::{atrest, program};
use crate::it::servers::Release;

use super::connect::refused;
use super::server::{Authority, Cluster, Member, secure};

fn with_users(server: &Member) {
    server.put("/registry/configmaps/default/a", b"value");
    server.etcdctl(&["user", "add", "root:top secret"]);
    server.etcdctl(&["user", "grant-role", "root", "root"]);
    server.etcdctl(&["role", "add", "reader"]);
    server.etcdctl(&["role", "grant-permission", "reader", "--from-key", "read", ""]);
    server.etcdctl(&["user", "add", "reader:reads"]);
    server.etcdctl(&["user", "grant-role", "reader", "reader"]);
    server.etcdctl(&["user", "add", "nobody:nothing"]);
    server.etcdctl(&["auth", "enable"]);
}

#[test]
fn users_read_what_they_may_and_everything_else_is_told() {
    let server = Cluster::single(Release::V3_5);
    with_users(server.first());
    let endpoint = server.endpoints();
    let audit = |more: &[&str]| atrest(&[&["audit", "-o", "csv", "--endpoints", &endpoint], more].concat());

    for user in ["root:top secret", "reader:reads"] {
        let rows = audit(&["--user", user]).rows();
        assert_eq!(rows.len(), 1, "{user}");
    }
    assert_eq!(audit(&["--user", "reader", "--password", "reads"]).rows().len(), 1);

    let run = audit(&[]);
    assert!(run.failed(3).contains("the server has users, and none is given"), "{}", run.err);
    assert!(run.err.contains("--user"), "{}", run.err);
    for user in ["root:wrong", "stranger:reads"] {
        let run = audit(&["--user", user]);
        assert!(run.failed(3).contains("does not know this user with this password"), "{}", run.err);
        assert!(!run.err.contains("wrong:") && !run.err.contains(user), "{}", run.err);
    }
    let run = audit(&["--user", "nobody:nothing"]);
    assert!(run.failed(3).contains("permission denied") && run.err.contains("hint: "), "{}", run.err);
    let run = audit(&["--user", "reader"]);
    assert!(run.failed(2).contains("ETCDCTL_PASSWORD"), "{}", run.err);
}

#[test]
fn a_password_may_come_from_the_environment() {
    let server = Cluster::single(Release::V3_4);
    with_users(server.first());
    for (user, password) in [("root:top secret", None), ("root", Some("top secret"))] {
        let mut command = program();
        command.args(["check", "--endpoints", &server.endpoints()]).stdin(Stdio::null()).env("ETCDCTL_USER", user);
        if let Some(password) = password {
            command.env("ETCDCTL_PASSWORD", password);
        }
        let done = command.output().expect("the program runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{user}: {said}");
    }
    let help = atrest(&["audit", "--help"]);
    assert!(!help.text().contains("top secret"), "{}", help.text());
}

#[test]
fn a_user_where_the_server_has_none_is_no_hindrance() {
    let server = Cluster::single(Release::V3_5);
    let run = atrest(&["check", "--endpoints", &server.endpoints(), "--user", "root:any"]);
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
}

#[test]
fn a_certificate_can_be_the_user() {
    let ca = Authority::new("etcd-ca");
    ca.sign("server", "serverAuth,clientAuth", "IP:127.0.0.1", None);
    ca.sign("root", "clientAuth", "", None);
    ca.sign("stranger", "clientAuth", "", None);
    let server = secure(&ca, "server", "root", Release::V3_5);
    with_users(server.first());
    let cacert = ca.file("ca.crt");
    let identity = |name: &str| [ca.file(&format!("{name}.crt")), ca.file(&format!("{name}.key"))];
    let [cert, key] = identity("root");
    let arguments = ["--cacert", &cacert, "--cert", &cert, "--key", &key];
    let run = atrest(&[&["check", "--endpoints", &server.endpoints()][..], &arguments].concat());
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
    let rows = atrest(&[&["audit", "-o", "csv", "--endpoints", &server.endpoints()][..], &arguments].concat()).rows();
    assert_eq!(rows.len(), 1);
    let [cert, key] = identity("stranger");
    let endpoint = server.endpoints();
    let run = atrest(&["audit", "--endpoints", &endpoint, "--cacert", &cacert, "--cert", &cert, "--key", &key]);
    assert!(run.failed(3).contains("permission denied"), "{}", run.err);
    let said = refused("https://127.0.0.1:1", &["--cacert", &cacert]);
    assert!(said.contains("nobody listens"), "{said}");
}
