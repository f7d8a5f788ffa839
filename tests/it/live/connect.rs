//! Nobody there, somebody else there, somebody who says nothing: each is told, with what to do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use crate::it::program::{atrest, program, testdata};
use crate::it::servers::Release;

use super::server::Cluster;

/// What `check --endpoints` says when it comes to nothing.
#[track_caller]
pub fn refused(endpoint: &str, more: &[&str]) -> String {
    atrest(&[&["check", "--endpoints", endpoint], more].concat()).failed(3).to_owned()
}

/// A port whose server does something of its own with each connection.
pub fn served(serve: impl Fn(std::net::TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || listener.incoming().flatten().for_each(&serve));
    port
}

#[test]
fn nobody_there_is_told_with_what_to_look_at() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let said = refused(&format!("127.0.0.1:{port}"), &[]);
    assert!(said.contains(&format!("127.0.0.1:{port}: nobody listens there")) && said.contains("hint: "), "{said}");
    let said = refused("unix:///nowhere/kine.sock", &[]);
    assert!(said.contains("unix:///nowhere/kine.sock: nobody listens there"), "{said}");
    let said = refused("no-such-host.invalid:2379", &[]);
    assert!(said.contains("the host is not known"), "{said}");
    let said = refused(&format!("127.0.0.1:{port},unix:///nowhere"), &[]);
    assert!(said.contains("127.0.0.1") && said.contains("unix:///nowhere"), "{said}");
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    let silent = served(std::mem::forget);
    let endpoint = format!("127.0.0.1:{silent}");
    let fast = ["--dial-timeout", "300ms", "--command-timeout", "500ms"];
    let said = refused(&endpoint, &fast);
    assert!(said.contains("takes the connection and says nothing for 300ms") && said.contains("hint: "), "{said}");
    let said = refused(&format!("https://{endpoint}"), &[&fast[..], &["--insecure-skip-tls-verify"]].concat());
    assert!(said.contains("takes the connection and says nothing"), "{said}");
    let run = atrest(&["audit", "--endpoints", &endpoint, "--dial-timeout", "300ms", "--command-timeout", "500ms"]);
    assert!(run.failed(3).contains("says nothing"), "{}", run.err);
}

#[test]
fn something_else_than_etcd_is_told_from_etcd() {
    let closing = served(drop);
    let said = refused(&format!("127.0.0.1:{closing}"), &[]);
    assert!(said.contains("closes it without a word"), "{said}");
    let web = served(|mut stream| {
        let _ = stream.read(&mut [0; 256]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let said = refused(&format!("http://127.0.0.1:{web}"), &[]);
    assert!(said.contains("does not speak HTTP/2"), "{said}");
    let said = refused(&format!("https://127.0.0.1:{web}"), &[]);
    assert!(said.contains("does not speak TLS"), "{said}");
}

#[test]
fn an_endpoint_that_is_none_is_wrong_usage() {
    for (endpoint, words) in [
        ("ftp://127.0.0.1", "etcd is at http://"),
        ("http://root:secret@127.0.0.1", "--user"),
        ("::1:2379", "brackets"),
        ("127.0.0.1:x", "port"),
    ] {
        let run = atrest(&["audit", "--endpoints", endpoint]);
        let said = run.failed(2);
        assert!(said.contains(words) && !said.contains("secret"), "{endpoint}: {said}");
    }
    let run = atrest(&["audit", "--endpoints", "127.0.0.1", "--dial-timeout", "0s"]);
    assert!(run.failed(2).contains("timeout"), "{}", run.err);
    let run = atrest(&["check", &testdata("kubeadm/snapshot.db"), "--endpoints", "127.0.0.1:1"]);
    assert!(run.failed(2).contains("two sources"), "{}", run.err);
    for command in ["audit", "keys", "check"] {
        assert!(atrest(&[command]).failed(2).contains("there is no SOURCE"), "{command}");
    }
}

#[test]
fn endpoints_of_the_environment_count_only_where_there_is_no_source() {
    let server = Cluster::single(Release::V3_5);
    server.first().put("/registry/configmaps/default/a", b"k8s\0not really");
    let run = |arguments: &[&str], endpoints: &str| {
        let mut command = program();
        command.args(arguments).env("ETCDCTL_ENDPOINTS", endpoints);
        let done = command.output().expect("the program runs");
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let endpoints = server.endpoints();
    let (code, out, err) = run(&["check"], &endpoints);
    assert!(code == Some(0) && out.contains(&endpoints), "{out}{err}");
    let (_, out, err) = run(&["audit", "-o", "csv"], &endpoints);
    assert!(out.contains("/registry/configmaps/default/a"), "{out}{err}");
    let store = testdata("kubeadm/snapshot.db");
    let (code, out, err) = run(&["check", &store], "127.0.0.1:1");
    assert!(code == Some(0) && out.contains(&store), "{out}{err}");
}

#[test]
fn an_endpoint_without_a_scheme_and_one_of_ipv6_are_connected_to() {
    let server = Cluster::single(Release::V3_4);
    let port = server.first().port;
    for endpoint in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("http://127.0.0.1:{port}/")] {
        let run = atrest(&["check", "--endpoints", &endpoint]);
        assert!(run.code == 0 && run.text().contains(&endpoint), "{endpoint}: {}{}", run.text(), run.err);
    }
    let said = refused(&format!("[::1]:{port}"), &[]);
    assert!(said.contains(&format!("[::1]:{port}: nobody listens there")), "{said}");
}
