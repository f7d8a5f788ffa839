use proptest::prelude::*;

use super::*;
use crate::kube::table::BUILT_INS;

/// Keys of stores that real API servers and etcd wrote, with what they address.
const KEYS: &[u8] = include_bytes!("../../../testdata/kube/keys.csv");

fn all_roots() -> Roots {
    Roots::given(&["/registry", "/kubernetes.io", "/openshift.io"])
}

fn object(key: &str) -> ObjectKey<'_> {
    match all_roots().locate(key.as_bytes()) {
        Address::Object(object) => object,
        other => panic!("{key}: {other:?}"),
    }
}

#[track_caller]
fn check(key: &str, expected: (&str, &str, Option<&str>, &str)) {
    let found = object(key);
    assert_eq!((found.group, found.resource, found.namespace, found.name), expected, "{key}");
}

#[track_caller]
fn foreign(key: &[u8]) {
    assert_eq!(all_roots().locate(key), Address::Foreign, "{}", String::from_utf8_lossy(key));
}

#[test]
fn keys_of_real_stores_address_what_they_were_written_for() {
    let mut rows = 0;
    for row in csv::Reader::from_reader(KEYS).into_deserialize::<(String, String, String)>() {
        let (key, group, resource) = row.unwrap();
        let found = object(&key);
        assert_eq!((found.group, found.resource), (group.as_str(), resource.as_str()), "{key}");
        let end = found.namespace.map_or(String::new(), |namespace| format!("/{namespace}"));
        assert!(key.ends_with(&format!("{end}/{}", found.name)), "{key}: {found:?}");
        assert_eq!(found.known == Known::Custom, group == "example.com", "{key}");
        assert_eq!(
            found.server,
            if key.starts_with("/kubernetes.io") { ApiServer::Kube } else { ApiServer::of_group(&group) }
        );
        rows += 1;
    }
    assert!(rows > 100, "{rows}");
}

#[test]
fn every_built_in_path_is_read_with_its_scope_and_with_no_other() {
    for built_in in BUILT_INS {
        let (namespaced, cluster) =
            (format!("/registry/{}/ns/n:1", built_in.path), format!("/registry/{}/n:1", built_in.path));
        let (right, wrong) = if built_in.namespaced { (&namespaced, &cluster) } else { (&cluster, &namespaced) };
        let found = object(right);
        assert_eq!((found.group, found.resource, found.name), (built_in.group, built_in.resource, "n:1"));
        assert_eq!((found.kind, found.server, found.known), (Some(built_in.kind), built_in.server, Known::BuiltIn));
        assert_eq!(found.namespace, built_in.namespaced.then_some("ns"));
        foreign(wrong.as_bytes());
        foreign(format!("/registry/{}", built_in.path).as_bytes());
        foreign(format!("/registry/{}/", built_in.path).as_bytes());
        foreign(format!("/registry/{}/a/b/c", built_in.path).as_bytes());
    }
}

#[test]
fn singular_and_old_paths_give_the_resource_of_the_api() {
    check("/registry/minions/n1", ("", "nodes", None, "n1"));
    check("/registry/controllers/d/x", ("", "replicationcontrollers", Some("d"), "x"));
    check("/registry/ingress/d/x", ("networking.k8s.io", "ingresses", Some("d"), "x"));
    check("/registry/podsecuritypolicy/x", ("policy", "podsecuritypolicies", None, "x"));
    check("/registry/services/specs/d/x", ("", "services", Some("d"), "x"));
    check("/registry/services/endpoints/d/x", ("", "endpoints", Some("d"), "x"));
    check("/registry/clusterroles/system:node", ("rbac.authorization.k8s.io", "clusterroles", None, "system:node"));
}

#[test]
fn definitions_and_api_services_are_built_in_though_their_path_has_a_group() {
    let crd = object("/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.example.com");
    assert_eq!(
        (crd.group, crd.resource, crd.known),
        ("apiextensions.k8s.io", "customresourcedefinitions", Known::BuiltIn)
    );
    let service = object("/registry/apiregistration.k8s.io/apiservices/v1.apps");
    assert_eq!((service.resource, service.name, service.known), ("apiservices", "v1.apps", Known::BuiltIn));
    assert_eq!(object("/registry/apiextensions.k8s.io/others/x").known, Known::Custom);
}

#[test]
fn custom_resources_have_their_group_in_the_key_whatever_they_are_called() {
    check("/registry/example.com/secrets/ns/x", ("example.com", "secrets", Some("ns"), "x"));
    check("/registry/example.com/secrets/x", ("example.com", "secrets", None, "x"));
    check(
        "/kubernetes.io/security.openshift.io/securitycontextconstraints/privileged",
        ("security.openshift.io", "securitycontextconstraints", None, "privileged"),
    );
    // MicroShift has no openshift-apiserver: its routes are custom resources.
    let route = object("/kubernetes.io/route.openshift.io/routes/ns/r");
    assert_eq!((route.server, route.known), (ApiServer::Kube, Known::Custom));
    foreign(b"/registry/example.com/widgets");
    foreign(b"/registry/example.com/widgets/a/b/c");
    foreign(b"/registry/example..com/widgets/a/b");
    foreign(b"/registry/example.com/Widgets/a/b");
    foreign(b"/registry/docker.io/library.x/a/b");
}

#[test]
fn openshift_keeps_its_own_resources_below_its_root() {
    check("/openshift.io/routes/ns/r", ("route.openshift.io", "routes", Some("ns"), "r"));
    check("/openshift.io/oauth/accesstokens/sha256~x", ("oauth.openshift.io", "oauthaccesstokens", None, "sha256~x"));
    check("/openshift.io/useridentities/p:u", ("user.openshift.io", "identities", None, "p:u"));
    check("/openshift.io/registry/sdnnetworks/default", ("network.openshift.io", "clusternetworks", None, "default"));
    check(
        "/openshift.io/authorization/local/policies/ns/default",
        ("authorization.openshift.io", "policies", Some("ns"), "default"),
    );
    assert_eq!(object("/openshift.io/routes/ns/r").server, ApiServer::OpenShift);
    assert_eq!(object("/openshift.io/users/u").server, ApiServer::OAuth);
    assert_eq!(object("/openshift.io/somethings/u").server, ApiServer::OpenShift);
    assert_eq!(object("/kubernetes.io/somethings/u").server, ApiServer::Kube);
    assert_eq!(object("/kubernetes.io/securitycontextconstraints/restricted").server, ApiServer::Kube);
    foreign(b"/openshift.io/oauth/somethings/u");
    foreign(b"/openshift.io/authorization/local/others/ns/x");
}

#[test]
fn a_resource_of_a_newer_release_is_an_object_of_an_unknown_kind() {
    let newer = object("/registry/compositegizmos/ns/x");
    assert_eq!((newer.group, newer.resource, newer.namespace, newer.name), ("", "compositegizmos", Some("ns"), "x"));
    assert_eq!((newer.known, newer.kind), (Known::Unknown, None));
    assert_eq!(object("/registry/compositegizmos/x").namespace, None);
    foreign(b"/registry/compositegizmos");
    foreign(b"/registry/compositegizmos/a/b/c");
    foreign(b"/registry/Composite Gizmos/a/b");
}

#[test]
fn keys_that_no_resource_owns_are_reserved() {
    for (key, reserved) in [
        ("compact_rev_key", Reserved::CompactRevision),
        ("/registry/ranges/serviceips", Reserved::Range),
        ("/kubernetes.io/ranges/servicenodeports", Reserved::Range),
        ("/registry/masterleases/10.0.0.1", Reserved::MasterLease),
        ("/registry/masterleases/fd00::1", Reserved::MasterLease),
        ("/registry/peerserverleases/apiserver-abc", Reserved::PeerServerLease),
        ("/registry/health", Reserved::Health),
        ("/bootstrap/0123abcd", Reserved::Bootstrap),
    ] {
        assert_eq!(all_roots().locate(key.as_bytes()), Address::Reserved(reserved), "{key}");
    }
    for key in ["/compact_rev_key", "/registry/ranges", "/registry/ranges/a/b", "/registry/health/x", "/bootstrap"] {
        foreign(key.as_bytes());
    }
}

#[test]
fn keys_that_are_no_paths_of_an_object_are_foreign() {
    for key in [
        "",
        "/",
        "//",
        "/registry",
        "/registry/",
        "/registry//",
        "/registry//secrets/a/b",
        "/registry/secrets//b",
        "/registry/secrets/a/",
        "/registry/secrets/../b",
        "/registry/secrets/a/.",
        "/registry/services/a/b",
        "/registry/services",
        "registry/secrets/a/b",
        "/registryx/secrets/a/b",
        "/other/secrets/a/b",
        "/registry/.",
        "/registry/./x/y",
    ] {
        foreign(key.as_bytes());
    }
    foreign(b"/registry/secrets/a/\xff");
    foreign(b"\0\0\0");
}

#[test]
fn given_prefixes_are_read_as_the_flag_of_kube_apiserver() {
    for (given, path) in [
        ("registry", "/registry"),
        ("/registry/", "/registry"),
        ("//k8s//prod/./registry/", "/k8s/prod/registry"),
        ("/a/../b", "/b"),
        ("my.prefix", "/my.prefix"),
        ("", ""),
        ("/", ""),
    ] {
        let roots = Roots::given(&[given]);
        assert_eq!(roots.iter().map(Root::path).collect::<Vec<_>>(), [path], "{given}");
        let key = format!("{path}/secrets/ns/x");
        assert!(
            matches!(roots.locate(key.as_bytes()), Address::Object(object) if object.resource == "secrets"),
            "{key}"
        );
    }
    assert!(Roots::given(&["/openshift.io"]).iter().all(Root::is_openshift));
    assert!(Roots::given::<&str>(&[]).is_empty());
    assert_eq!(Roots::given(&["/registry", "registry/"]).iter().count(), 1);
}

#[test]
fn a_root_within_anothers_folder_is_tried_first() {
    let roots = Roots::given(&["/registry", "/registry/inner"]);
    let Address::Object(object) = roots.locate(b"/registry/inner/namespaces/x") else { panic!() };
    assert_eq!((object.resource, object.name), ("namespaces", "x"));
    let Address::Object(object) = roots.locate(b"/registry/namespaces/x") else { panic!() };
    assert_eq!((object.resource, object.name), ("namespaces", "x"));
}

#[test]
fn a_key_below_no_root_that_looks_like_an_objects_is_noticed() {
    let roots = Roots::given(&["/registry"]);
    for key in ["/k8s/prod/secrets/ns/x", "/other/minions/n", "/x/services/specs/default/kubernetes"] {
        assert!(roots.unlisted(key.as_bytes()), "{key}");
    }
    for key in ["/registry/secrets/ns/x", "/registry/oddity", "/bootstrap/0123", "compact_rev_key", "/x/things/a/b"] {
        assert!(!roots.unlisted(key.as_bytes()), "{key}");
    }
    assert!(!roots.unlisted(b"/x/secrets/a/\xff"));
}

proptest! {
    #[test]
    fn any_bytes_are_located_and_an_objects_parts_lie_in_its_key(tail in proptest::collection::vec(any::<u8>(), 0..60)) {
        let key = [b"/registry/".as_slice(), &tail].concat();
        let roots = all_roots();
        for key in [key.as_slice(), &tail] {
            roots.unlisted(key);
            if let Address::Object(object) = roots.locate(key) {
                prop_assert!(std::str::from_utf8(key).unwrap().ends_with(object.name));
                prop_assert!(!object.name.is_empty() && object.namespace != Some(""));
            }
        }
    }

    #[test]
    fn keys_of_any_segments_are_located(key in "(/(registry|secrets|minions|services|specs|a\\.b|x|oauth|authorization|local|)){0,7}") {
        let roots = all_roots();
        if let Address::Object(object) = roots.locate(key.as_bytes()) {
            let end = object.namespace.map_or(String::new(), |namespace| format!("/{namespace}"));
            let whole = format!("{end}/{}", object.name);
            prop_assert!(key.ends_with(&whole));
        }
    }
}
