//! Manifests of `extract --clean --no-generated`, applied in their order to a real API server that has nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::kube::KubeApiserver;
use super::program::{argument, atrest, temporary, testdata};
use super::servers::{Release, Server};

/// Fields that a server sets on every object.
const OF_SERVERS: [&str; 6] =
    ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"];

/// The manifests of a folder in the order in which they are to be applied, with their rows.
fn manifests(folder: &Path) -> Vec<(Value, Value)> {
    let rows = fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| {
        let text = fs::read_to_string(folder.join(row["file"].as_str().unwrap())).unwrap();
        (row, serde_saphyr::from_str(&text).unwrap())
    })
    .collect()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Where objects of a manifest's kind are created.
fn collection(row: &Value, object: &Value) -> String {
    let version = text(object, "/apiVersion");
    let api = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let namespace = match text(object, "/metadata/namespace") {
        "" => String::new(),
        namespace => format!("/namespaces/{namespace}"),
    };
    format!("{api}{namespace}/{}", text(row, "/resource"))
}

/// An object without what every server sets by itself.
fn bare(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|field, _| !OF_SERVERS.contains(&field.as_str()));
        let own = json!("kubernetes.io/pv-protection");
        if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
            finalizers.retain(|finalizer| *finalizer != own);
        }
        metadata.retain(|field, value| field != "finalizers" || *value != json!([]));
    }
    let is = |kind: &str| object["kind"] == kind;
    let (is_service, is_custom) = (is("Service"), is("Widget"));
    if let Some(members) = object.as_object_mut() {
        members.retain(|field, _| field != "status" || is_custom);
    }
    if is_service && let Some(spec) = object["spec"].as_object_mut() {
        spec.retain(|field, _| !field.starts_with("clusterIP"));
    }
    object
}

/// What the API server of the fixture served, by resource, namespace and name.
fn served_before() -> HashMap<(String, String, String), Value> {
    let mut lines = String::new();
    let file = File::open(testdata("apiserver/objects.jsonl.gz")).unwrap();
    GzDecoder::new(file).read_to_string(&mut lines).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|line| {
            let object = line["object"].clone();
            let resource = text(&line, "/resource").split('.').next().unwrap().to_owned();
            let place = ["/metadata/namespace", "/metadata/name"].map(|pointer| text(&object, pointer).to_owned());
            let [namespace, name] = place;
            ((resource, namespace, name), object)
        })
        .collect()
}

fn extract(source: &str, more: &[&str], output: &Path) {
    let arguments = ["extract", source, "--clean", "--no-generated", "--output-dir", argument(output)];
    let run = atrest(&[&arguments[..], more].concat());
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
}

#[test]
fn extracted_objects_are_taken_by_an_empty_api_server_and_are_the_same_there() {
    let home = temporary();
    let (first, second) = (home.path().join("first"), home.path().join("second"));
    let (source, config) = (testdata("apiserver/snapshot.db"), testdata("apiserver/encryption-config.yaml"));
    extract(&source, &["-c", &config], &first);
    let manifests = manifests(&first);
    assert!(manifests.len() > 100, "{}", manifests.len());
    let before = served_before();
    let etcd = Server::start(Release::V3_7);
    {
        let server = KubeApiserver::start(&etcd, None);
        let mut by_kind: BTreeMap<String, u32> = BTreeMap::new();
        for (row, object) in &manifests {
            let path = collection(row, object);
            server.post(&path, object);
            let served = server.get(&format!("{path}/{}", text(object, "/metadata/name")));
            let place = ["/resource", "/namespace", "/name"].map(|pointer| text(row, pointer).to_owned());
            let expected = before.get(&place.clone().into()).unwrap_or_else(|| panic!("{place:?} was never served"));
            assert_eq!(bare(served), bare(expected.clone()), "{}", row["file"]);
            *by_kind.entry(text(object, "/kind").to_owned()).or_default() += 1;
        }
        println!("accepted and equal: {} objects: {by_kind:?}", manifests.len());
    }
    // And what the new server has stored gives the same files again.
    extract(argument(&etcd.snapshot()), &[], &second);
    let read = |folder: &Path| fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    assert_eq!(read(&first), read(&second));
}
