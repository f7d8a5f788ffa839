use super::*;

fn find<S: AsRef<str>>(keys: &[S]) -> Roots {
    let mut finder = RootFinder::new();
    for key in keys {
        finder.see(key.as_ref().as_bytes());
    }
    finder.finish()
}

#[track_caller]
fn check(keys: &[String], expected: &[&str]) {
    let found = find(keys);
    let mut paths: Vec<&str> = found.iter().map(Root::path).collect();
    paths.sort_unstable();
    assert_eq!(paths, expected);
    let mut reversed = keys.to_vec();
    reversed.reverse();
    assert_eq!(find(&reversed), found, "the order of keys matters");
    let (mut left, mut right) = (RootFinder::new(), RootFinder::new());
    for (at, key) in keys.iter().enumerate() {
        if at % 2 == 0 { &mut left } else { &mut right }.see(key.as_bytes());
    }
    left.absorb(right);
    assert_eq!(left.finish(), found, "two finders find otherwise than one");
}

/// The keys of a small cluster.
fn cluster(root: &str) -> Vec<String> {
    [
        "namespaces/default",
        "namespaces/kube-system",
        "minions/node-1",
        "secrets/default/s",
        "secrets/kube-system/t",
        "configmaps/kube-system/kube-root-ca.crt",
        "services/specs/default/kubernetes",
        "services/endpoints/default/kubernetes",
        "apiregistration.k8s.io/apiservices/v1.",
        "apiextensions.k8s.io/customresourcedefinitions/secrets.example.com",
        "example.com/secrets/default/x",
        "example.com/secrets/kube-system/x",
        "masterleases/10.0.0.1",
        "ranges/serviceips",
    ]
    .iter()
    .map(|rest| format!("{root}/{rest}"))
    .collect()
}

fn strings(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[test]
fn the_stores_of_the_test_data_have_the_roots_they_were_written_with() {
    let keys = include_bytes!("../../../testdata/kube/keys.csv");
    let rows = csv::Reader::from_reader(&keys[..]).into_deserialize::<(String, String, String)>();
    let keys: Vec<String> = rows.map(|row| row.unwrap().0).collect();
    check(&keys, &["/kubernetes.io", "/openshift.io", "/registry"]);
    assert_eq!(find(&keys).iter().filter(|root| root.is_openshift()).count(), 1);
}

#[test]
fn any_prefix_is_found_with_slashes_and_dots_and_without_either() {
    for root in ["/k8s/prod/registry", "/my.prefix", "/a.b/c.d", "/x", "vcluster-1/registry", ""] {
        check(&cluster(root), &[root]);
    }
}

#[test]
fn several_clusters_in_one_store_are_told_apart() {
    let keys = [cluster("/registry"), cluster("/k8s/b"), cluster("/k8s/a")].concat();
    check(&keys, &["/k8s/a", "/k8s/b", "/registry"]);
    check(&[cluster("/registry"), cluster("/registry/second")].concat(), &["/registry", "/registry/second"]);
    check(&[cluster("/one"), cluster("/one/two.three")].concat(), &["/one", "/one/two.three"]);
}

#[test]
fn one_object_proves_a_well_known_root() {
    check(&strings(&["/registry/secrets/team/x"]), &["/registry"]);
    check(
        &strings(&["/kubernetes.io/secrets/team/x", "/openshift.io/routes/team/x"]),
        &["/kubernetes.io", "/openshift.io"],
    );
}

#[test]
fn an_image_registry_is_no_cluster() {
    check(&strings(&["/registry/docker.io/library/nginx", "/registry/images/nginx", "/registry/a/b"]), &[]);
}

#[test]
fn other_tenants_words_are_no_root() {
    let everyday =
        ["pods/x/y", "jobs/default/a", "events/default/b", "secrets/default/c", "users/u", "groups/g", "images/i"];
    let mut keys: Vec<String> = everyday.iter().map(|rest| format!("/other/app/{rest}")).collect();
    check(&keys, &[]);
    keys.extend(cluster("/registry"));
    check(&keys, &["/registry"]);
    let roots = find(&keys);
    assert_eq!(roots.locate(b"/other/app/pods/x/y"), Address::Foreign);
}

#[test]
fn many_keys_of_one_resource_are_no_more_proof_than_one() {
    let keys: Vec<String> = (0..1000).map(|n| format!("/shop/configmaps/team/{n}")).collect();
    check(&keys, &[]);
}

#[test]
fn a_sample_of_secrets_and_config_maps_is_proof_enough() {
    check(&strings(&["/k/secrets/default/a", "/k/secrets/kube-system/b"]), &["/k"]);
    check(&strings(&["/k/secrets/x/a", "/k/configmaps/x/b", "/k/serviceaccounts/x/c"]), &["/k"]);
}

#[test]
fn custom_resources_with_built_in_names_make_no_root() {
    let mut keys = Vec::new();
    for plural in ["secrets", "configmaps", "serviceaccounts", "deployments", "minions", "namespaces"] {
        for rest in ["default/a", "kube-system/a", "default", "kube-system"] {
            keys.push(format!("/registry/example.com/{plural}/{rest}"));
            keys.push(format!("/custom/example.com/{plural}/{rest}"));
        }
    }
    keys.extend(cluster("/registry"));
    keys.extend(cluster("/custom"));
    check(&keys, &["/custom", "/registry"]);
}

#[test]
fn namespaces_with_names_of_resources_make_no_root() {
    let names =
        ["namespaces", "minions", "clusterroles", "storageclasses", "csinodes", "priorityclasses", "runtimeclasses"];
    let mut keys = cluster("/custom");
    for namespace in names {
        for name in ["default", "kube-system"] {
            keys.push(format!("/custom/configmaps/{namespace}/{name}"));
            keys.push(format!("/custom/example.com/widgets/{namespace}/{name}"));
        }
    }
    check(&keys, &["/custom"]);
}

#[test]
fn a_root_of_openshifts_servers_under_another_name_is_known_by_its_resources() {
    let rests =
        ["routes/ns/r", "imagestreams/ns/i", "oauth/accesstokens/t", "useridentities/x:y", "deploymentconfigs/ns/d"];
    let keys: Vec<String> = rests.iter().map(|rest| format!("/own/{rest}")).collect();
    check(&keys, &["/own"]);
    assert!(find(&keys).iter().all(Root::is_openshift));
    assert!(!find(&cluster("/own")).iter().any(Root::is_openshift));
}

#[test]
fn what_a_first_finder_missed_a_second_one_finds_among_the_unlisted_keys() {
    let roots = find(&cluster("/registry"));
    let mut missed = RootFinder::new();
    for key in cluster("/late/root").iter().chain(&cluster("/registry")).filter(|key| roots.unlisted(key.as_bytes())) {
        missed.see(key.as_bytes());
    }
    let both = roots.union(missed.finish());
    assert_eq!(both.iter().map(Root::path).collect::<Vec<_>>(), ["/late/root", "/registry"]);
}

#[test]
fn memory_is_bounded_and_the_answer_is_the_same_in_any_order() {
    let mut keys: Vec<String> = (0..3 * MAX_CANDIDATES).map(|n| format!("/tenants/{n}/pods/x/y")).collect();
    keys.extend(cluster("/k8s/registry"));
    check(&keys, &["/k8s/registry"]);
    let mut finder = RootFinder::new();
    keys.iter().for_each(|key| finder.see(key.as_bytes()));
    assert_eq!(finder.held, MAX_CANDIDATES);
    assert_eq!(finder.candidates.iter().map(BTreeMap::len).sum::<usize>(), MAX_CANDIDATES);
}

#[test]
fn hostile_keys_are_passed_over() {
    let mut finder = RootFinder::new();
    finder.see(b"");
    finder.see(b"\xff/secrets/default/x");
    finder.see("/".repeat(100_000).as_bytes());
    finder.see(format!("/{}/secrets/default/x", "a".repeat(10_000)).as_bytes());
    finder.see(format!("{}/namespaces/default", "/a".repeat(1000)).as_bytes());
    assert!(finder.candidates.iter().flatten().all(|(path, _)| path.len() <= MAX_ROOT_BYTES));
    assert!(finder.finish().is_empty());
}
