//! TLS: what works, and each way in which it does not told apart.

use crate::it::program::{Run, atrest, private, temporary};
use crate::it::servers::Release;

use super::connect::refused;
use super::server::{Authority, Cluster, secure};

const HERE: &str = "IP:127.0.0.1,DNS:localhost";

fn check(endpoint: &str, more: &[&str]) -> Run {
    atrest(&[&["check", "--endpoints", endpoint], more].concat())
}

/// An authority with a server's and a client's certificate.
fn authority() -> Authority {
    let authority = Authority::new("etcd-ca");
    authority.sign("server", "serverAuth,clientAuth", HERE, None);
    authority.sign("client", "clientAuth", "", None);
    authority
}

#[test]
fn a_server_with_mutual_tls_is_read_and_every_wrong_certificate_told_apart() {
    let ca = authority();
    let server = secure(&ca, "server", "client", Release::V3_5);
    let endpoint = server.endpoints();
    let (cacert, cert, key) = (ca.file("ca.crt"), ca.file("client.crt"), ca.file("client.key"));
    let identity = ["--cert", &cert, "--key", &key];
    let own = [&["--cacert", &cacert][..], &identity].concat();

    let run = check(&endpoint, &own);
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
    let bare = endpoint.trim_start_matches("https://");
    assert_eq!(check(bare, &own).code, 0, "with certificates and without a scheme it is TLS");
    let run = check(&endpoint, &[&["--insecure-skip-tls-verify"], &identity[..]].concat());
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);

    let said = refused(&endpoint, &identity);
    assert!(said.contains("an authority that this system does not know") && said.contains("--cacert"), "{said}");
    let other = authority();
    let wrong = other.file("ca.crt");
    let said = refused(&endpoint, &[&["--cacert", &wrong][..], &identity].concat());
    assert!(said.contains("an authority that --cacert does not name"), "{said}");

    let said = refused(&endpoint, &["--cacert", &cacert]);
    assert!(said.contains("wants a client's certificate, and none is given") && said.contains("--cert"), "{said}");
    let (cert, key) = (other.file("client.crt"), other.file("client.key"));
    let said = refused(&endpoint, &["--cacert", &cacert, "--cert", &cert, "--key", &key]);
    assert!(said.contains("refuses the client's certificate"), "{said}");

    let said = refused(bare, &[]);
    assert!(said.contains("speaks TLS, and was spoken to without") && said.contains("https://"), "{said}");
    let said = refused(&format!("http://{bare}"), &own);
    assert!(said.contains("speaks TLS, and was spoken to without"), "{said}");
}

#[test]
fn a_certificate_for_somebody_else_or_for_another_time_is_told() {
    let ca = authority();
    ca.sign("elsewhere", "serverAuth,clientAuth", "DNS:etcd-1.example", None);
    ca.sign("old", "serverAuth,clientAuth", HERE, Some(("20200101000000Z", "20200201000000Z")));
    ca.sign("early", "serverAuth,clientAuth", HERE, Some(("20990101000000Z", "20990201000000Z")));
    let (cacert, cert, key) = (ca.file("ca.crt"), ca.file("client.crt"), ca.file("client.key"));
    let own = ["--cacert", &cacert, "--cert", &cert, "--key", &key];
    for (name, words) in [
        ("elsewhere", "its certificate is not for \"127.0.0.1\", but for etcd-1.example"),
        ("old", "its certificate has expired"),
        ("early", "its certificate is not valid yet"),
    ] {
        let server = secure(&ca, name, "client", Release::V3_4);
        let said = refused(&server.endpoints(), &own);
        assert!(said.contains(words) && said.contains("hint: "), "{name}: {said}");
    }
}

#[test]
fn tls_to_a_plain_port_is_told() {
    let ca = authority();
    let server = Cluster::single(Release::V3_5);
    let bare = server.endpoints().replace("http://", "");
    let cacert = ca.file("ca.crt");
    for said in [refused(&format!("https://{bare}"), &[]), refused(&bare, &["--cacert", &cacert])] {
        assert!(said.contains("does not speak TLS, but plain HTTP/2") && said.contains("http://"), "{said}");
    }
}

#[test]
fn files_that_hold_no_certificates_are_told_before_anybody_is_asked() {
    let ca = authority();
    let folder = temporary();
    let none = private(&folder, "none.pem", b"no certificate");
    let (cacert, cert, key) = (ca.file("ca.crt"), ca.file("client.crt"), ca.file("client.key"));
    let wrong_key = ca.file("server.key");
    let endpoint = "https://127.0.0.1:1";
    for (more, words) in [
        (vec!["--cacert", &none], "holds no certificate"),
        (vec!["--cacert", "/nowhere/ca.crt"], "/nowhere/ca.crt: cannot be read"),
        (vec!["--cacert", &cacert, "--cert", &cert, "--key", &cert], "holds no private key"),
        (vec!["--cacert", &cacert, "--cert", &key, "--key", &key], "holds no certificate"),
        (vec!["--cacert", &cacert, "--cert", &cert, "--key", &wrong_key], "client.crt"),
    ] {
        let said = refused(endpoint, &more);
        assert!(said.contains(words), "{more:?}: {said}");
    }
    let run = check(endpoint, &["--cert", &cert]);
    assert!(run.failed(2).contains("--key"), "{}", run.err);
}
