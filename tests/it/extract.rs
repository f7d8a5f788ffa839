//! Objects as manifests: `extract`, its lists, and names that no file system likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::made::{Put, store};
use super::program::{KUBEADM, Run, argument, atrest, private, temporary, testdata};

const APISERVER: (&str, &str) = ("apiserver/snapshot.db", "apiserver/encryption-config.yaml");

/// `extract` of a store of `testdata` into a new folder.
fn extract((source, config): (&str, &str), more: &[&str]) -> (TempDir, Run) {
    let home = temporary();
    let (source, config, output) = (testdata(source), testdata(config), home.path().join("out"));
    let arguments = ["extract", &source, "-c", &config, "--output-dir", argument(&output)];
    let run = atrest(&[&arguments[..], more].concat());
    (home, run)
}

/// All files below a folder, by their paths in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777;
            if path.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                walk(&path, root, found);
            } else {
                assert_eq!(mode, 0o600, "{}", path.display());
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

fn rows(text: &[u8]) -> Vec<Value> {
    std::str::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The files of an extraction after its lists were held against them: manifests by path, rows of files, rows of what is left out.
#[track_caller]
fn checked(folder: &Path) -> (BTreeMap<String, Value>, Vec<Value>, Vec<Value>) {
    let mut files = files(folder);
    let [manifest, sums, left_out] =
        ["manifest.jsonl", "SHA256SUMS", "left-out.jsonl"].map(|name| files.remove(name).expect(name));
    let (manifest, left_out) = (rows(&manifest), rows(&left_out));
    let mut listed = BTreeSet::new();
    for (number, (row, sum)) in manifest.iter().zip(String::from_utf8(sums).unwrap().lines()).enumerate() {
        let file = row["file"].as_str().unwrap();
        let content = files.get(file).unwrap_or_else(|| panic!("{file} is listed and missing"));
        let digest: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((&row["order"], &row["sha256"]), (&json!(number + 1), &json!(digest)), "{file}");
        assert_eq!((sum, &row["bytes"]), (format!("{digest}  {file}").as_str(), &json!(content.len())));
        assert!(listed.insert(file.to_owned()), "{file} is listed twice");
    }
    assert_eq!(listed.len(), manifest.len());
    assert_eq!(listed, files.keys().cloned().collect(), "every file is listed");
    let parse = |text: Vec<u8>| serde_saphyr::from_str(std::str::from_utf8(&text).unwrap()).unwrap();
    (files.into_iter().map(|(path, text)| (path, parse(text))).collect(), manifest, left_out)
}

fn out(home: &TempDir) -> PathBuf {
    home.path().join("out")
}

fn is_sorted(paths: &[Value]) -> bool {
    let phases: Vec<&str> = paths.iter().map(|row| row["file"].as_str().unwrap().split('/').next().unwrap()).collect();
    phases.is_sorted()
}

#[test]
fn every_object_is_a_file_that_holds_what_get_shows() {
    let (home, run) = extract(APISERVER, &[]);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{}", run.text());
    let (objects, manifest, left_out) = checked(&out(&home));
    assert!(left_out.is_empty() && is_sorted(&manifest));
    let resources: BTreeSet<String> = manifest
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().unwrap().to_owned();
            if text("group").is_empty() { text("resource") } else { format!("{}.{}", text("resource"), text("group")) }
        })
        .collect();
    let (source, config) = (testdata(APISERVER.0), testdata(APISERVER.1));
    let all: Vec<&str> = resources.iter().map(String::as_str).collect();
    let got = atrest(&["get", &source, "-c", &config, &all.join(","), "-A", "-o", "jsonl"]);
    let mut shown: Vec<Value> = got.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(shown.len(), objects.len());
    for object in objects.values() {
        let at = shown.iter().position(|one| one == object).unwrap_or_else(|| panic!("not shown: {object}"));
        shown.swap_remove(at);
    }
    for path in [
        "07-secrets/default/secret/box-00.yaml",
        "13-workloads/default/deployment.apps/web.yaml",
        "14-custom/payments/widget.example.com/cbc-01.yaml",
        "05-roles/_cluster/clusterrole.rbac.authorization.k8s.io/system%3acontroller%3attl-controller.yaml",
    ] {
        assert!(objects.contains_key(path), "{path}");
    }
}

#[test]
fn what_is_cleaned_holds_nothing_of_its_old_server_and_what_is_left_out_says_why() {
    let (home, run) = extract(APISERVER, &["--clean", "--no-generated"]);
    assert_eq!(run.code, 0, "{}", run.err);
    let (objects, manifest, left_out) = checked(&out(&home));
    for (path, object) in &objects {
        let metadata = object["metadata"].as_object().unwrap();
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences"] {
            assert!(!metadata.contains_key(field), "{path} has {field}");
        }
        assert!(object.get("status").is_none(), "{path}");
    }
    let service = &objects["11-services/default/service/web.yaml"];
    assert!(service["spec"].get("clusterIP").is_none() && service["spec"]["ports"][0]["port"] == 80);
    let removed = manifest.iter().find(|row| row["resource"] == "services").unwrap();
    assert_eq!(removed["removed"], json!(["spec.clusterIP", "spec.clusterIPs"]));
    let definition = objects.values().find(|object| object["kind"] == "CustomResourceDefinition").unwrap();
    assert_eq!(definition["apiVersion"], "apiextensions.k8s.io/v1");
    let why = |resource: &str, name: &str| {
        let row = left_out.iter().find(|row| row["resource"] == resource && row["name"] == name);
        row.unwrap_or_else(|| panic!("{resource} {name} is not left out"))["why"].clone()
    };
    assert_eq!(why("services", "kubernetes"), "not-applicable");
    assert_eq!(why("nodes", "worker-1"), "not-applicable");
    assert_eq!(why("namespaces", "kube-system"), "generated");
    assert_eq!(why("clusterroles", "view"), "generated");
    assert!(left_out.iter().all(|row| !row["reason"].as_str().unwrap().is_empty()));
    let (whole, _) = extract(APISERVER, &[]);
    assert_eq!(checked(&out(&whole)).1.len(), manifest.len() + left_out.len(), "each object is in one list");
}

#[test]
fn values_that_stay_closed_are_listed_and_the_rest_is_there() {
    let (home, run) = extract(KUBEADM, &[]);
    assert_eq!(run.code, 1);
    let (objects, _, left_out) = checked(&out(&home));
    let truth = fs::read_to_string(testdata("kubeadm/truth.jsonl")).unwrap();
    let truth: Vec<Value> = truth.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut expected: Vec<&str> =
        truth.iter().filter(|line| line["readable_user"] == false).map(|line| line["key"].as_str().unwrap()).collect();
    let mut found: Vec<&str> = left_out.iter().map(|row| row["key"].as_str().unwrap()).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert!(!expected.is_empty());
    // Plaintext that no provider reads is shown all the same.
    assert!(found.iter().all(|key| expected.contains(key)), "{found:?}");
    assert!(left_out.iter().all(|row| ["closed", "undecodable"].contains(&row["why"].as_str().unwrap())));
    assert_eq!(objects.len() + left_out.len(), truth.len());
    assert!(run.err.contains("and ") && run.err.contains("left-out.jsonl lists them"), "{}", run.err);
}

#[test]
fn a_selection_is_that_of_get() {
    let (home, run) = extract(APISERVER, &["secrets,cm", "-n", "payments"]);
    assert_eq!(run.code, 0, "{}", run.err);
    let (objects, ..) = checked(&out(&home));
    assert!(!objects.is_empty() && objects.values().all(|object| object["metadata"]["namespace"] == "payments"));
    let kinds: BTreeSet<&str> = objects.values().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ConfigMap", "Secret"].into());
    let (_home, nothing) = extract(APISERVER, &["secret", "nobody"]);
    assert_eq!(nothing.code, 1);
    assert!(nothing.err.contains("secrets \"nobody\" not found"), "{}", nothing.err);
}

#[test]
fn a_bundle_holds_the_same_files() {
    let (home, _) = extract(APISERVER, &["--clean"]);
    let (source, config) = (testdata(APISERVER.0), testdata(APISERVER.1));
    let bundle = home.path().join("all.tar.zst");
    let arguments = ["extract", &source, "-c", &config, "--clean", "--bundle", argument(&bundle), "--report", "json"];
    let run = atrest(&arguments);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(run.json()["schema"], "atrest.extract/1");
    assert_eq!(fs::metadata(&bundle).unwrap().permissions().mode() & 0o7777, 0o600);
    let mut archive = tar::Archive::new(zstd::stream::read::Decoder::new(fs::File::open(&bundle).unwrap()).unwrap());
    let unpacked = home.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    archive.unpack(&unpacked).unwrap();
    assert_eq!(files(&unpacked), files(&out(&home)));
    let again = atrest(&arguments);
    assert!(again.failed(4).contains("exists already"), "{}", again.err);
}

#[test]
fn a_folder_with_something_in_it_needs_force_and_no_link_is_followed() {
    let (home, _) = extract(APISERVER, &["secrets"]);
    let (source, config, output) = (testdata(APISERVER.0), testdata(APISERVER.1), out(&home));
    let arguments = ["extract", &source, "-c", &config, "--output-dir", argument(&output), "configmaps"];
    let before = files(&output);
    assert!(atrest(&arguments).failed(4).contains("not empty"));
    assert_eq!(files(&output), before, "nothing was touched");
    let forced = atrest(&[&arguments[..], &["--force"]].concat());
    assert_eq!(forced.code, 0, "{}", forced.err);
    assert!(forced.text().contains("35 files in the folder are none of this run"), "{}", forced.text());
    let listed = rows(&fs::read(output.join("manifest.jsonl")).unwrap());
    assert!(listed.iter().all(|row| row["resource"] == "configmaps"));
    // A link in the place of a folder, and one in that of a file.
    let outside = temporary();
    fs::remove_dir_all(output.join("08-configmaps")).unwrap();
    symlink(outside.path(), output.join("08-configmaps")).unwrap();
    assert!(atrest(&[&arguments[..], &["--force"]].concat()).failed(4).contains("08-configmaps"));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!output.join("SHA256SUMS").exists(), "what is not whole has no digests");
    fs::remove_file(output.join("08-configmaps")).unwrap();
    assert!(files(&output).keys().all(|path| !path.contains("atrest-part")));
}

/// A ConfigMap as API servers store it in JSON.
fn config_map(namespace: &str, name: &str) -> Vec<u8> {
    let metadata = json!({"namespace": namespace, "name": name});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": name}}).to_string().into_bytes()
}

/// Extracts a store that holds ConfigMaps of these namespaces and names; what is in each file is checked by its name.
#[track_caller]
fn extract_names(names: &[(String, String)]) {
    let home = temporary();
    let puts: Vec<Put> = (2..)
        .zip(names)
        .map(|(revision, (namespace, name))| {
            Put::new(revision, format!("/registry/configmaps/{namespace}/{name}"), config_map(namespace, name))
        })
        .collect();
    let source = store(&home, "made.db", &puts, &[]);
    let arguments =
        ["extract", &source, "--etcd-prefix", "/registry", "--output-dir", argument(&out(&home))].map(str::to_owned);
    let run = atrest(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "nothing lies beside the folder");
    let (objects, ..) = checked(&out(&home));
    let found: BTreeSet<(String, String)> = objects
        .values()
        .map(|object| ["namespace", "name"].map(|field| object["metadata"][field].as_str().unwrap().to_owned()).into())
        .collect();
    assert_eq!(found, names.iter().cloned().collect());
    let folded: BTreeSet<String> = objects.keys().map(|path| path.to_lowercase()).collect();
    assert_eq!(folded.len(), objects.len(), "paths differ in more than case");
}

#[test]
fn hostile_names_get_files_of_their_own_and_none_leads_out() {
    let long = "n".repeat(253);
    let names = [
        ("..%2f", "x"),
        ("...", "..."),
        ("a", "..x"),
        ("a", "x\0y"),
        ("a", "A"),
        ("a", "a"),
        ("A", "a"),
        ("a", "%61"),
        ("a", "a.yaml"),
        ("a", "-rf"),
        ("_cluster", "x"),
        ("a", "C:\\x"),
        ("a", "new\nline"),
        ("a", "\u{202e}gpj"),
        ("a", "é"),
        ("a", "e\u{301}"),
        ("a", &long),
        (&long, "a"),
        ("a", &long[1..]),
        ("a", "~"),
        ("a", "$HOME"),
        ("a", ".atrest-part"),
    ];
    let names: Vec<(String, String)> =
        names.iter().map(|(namespace, name)| ((*namespace).to_owned(), (*name).to_owned())).collect();
    extract_names(&names);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_names_are_each_object_has_its_file(
        names in prop::collection::btree_set(("[a-zA-Z0-9._%\u{0}:-]{1,4}", "[aAbB.%~_\u{0}é-]{1,5}|[aA.]{240,253}"), 1..40)
    ) {
        // These are no parts of a key.
        let names: Vec<(String, String)> =
            names.into_iter().filter(|(one, other)| ![one, other].iter().any(|part| [".", ".."].contains(&part.as_str()))).collect();
        prop_assume!(!names.is_empty());
        extract_names(&names);
    }
}

#[test]
fn one_object_below_two_roots_becomes_two_files() {
    let home = temporary();
    let puts = [
        Put::new(2, "/registry/configmaps/a/x", config_map("a", "x")),
        Put::new(3, "/kubernetes.io/configmaps/a/x", config_map("a", "x")),
        Put::new(4, "/kubernetes.io/configmaps/a/y", config_map("a", "y")),
    ];
    let source = store(&home, "made.db", &puts, &[]);
    let output = out(&home);
    let prefixes = ["--etcd-prefix", "/registry", "--etcd-prefix", "/kubernetes.io"];
    let run = atrest(&[&["extract", &source, "--output-dir", argument(&output)][..], &prefixes].concat());
    assert_eq!(run.code, 0, "{}", run.err);
    let (objects, ..) = checked(&output);
    let names: Vec<&str> = objects.keys().map(|path| path.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["x%~2.yaml", "x.yaml", "y.yaml"]);
}

#[test]
fn an_object_that_is_not_the_one_of_its_key_is_not_written() {
    let home = temporary();
    let source = store(&home, "made.db", &[Put::new(2, "/registry/configmaps/a/x", config_map("b", "x"))], &[]);
    let run = atrest(&["extract", &source, "--etcd-prefix", "/registry", "--output-dir", argument(&out(&home))]);
    assert_eq!(run.code, 1, "{}", run.text());
    let (objects, _, left_out) = checked(&out(&home));
    assert!(objects.is_empty());
    assert_eq!((&left_out[0]["why"], &left_out[0]["namespace"]), (&json!("misplaced"), &json!("a")));
}

#[test]
fn a_folder_is_named_and_so_is_nothing_else() {
    let source = testdata(APISERVER.0);
    let home = temporary();
    let file = private(&home, "file", b"");
    let missing = home.path().join("no/such/folder");
    assert_eq!(atrest(&["extract", &source]).code, 2);
    assert_eq!(atrest(&["extract", &source, "--output-dir", "x", "--bundle", "y"]).code, 2);
    assert!(atrest(&["extract", &source, "--output-dir", &file]).failed(4).contains("no folder"));
    assert_eq!(atrest(&["extract", &source, "--output-dir", argument(&missing)]).code, 4);
    assert_eq!(atrest(&["extract", argument(&missing), "--output-dir", argument(&home.path().join("x"))]).code, 3);
    assert!(!home.path().join("x").exists());
}
