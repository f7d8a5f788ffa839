use std::collections::BTreeSet;
use std::io::Read;
use std::sync::LazyLock;

use base64::prelude::{BASE64_STANDARD, Engine};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::kube::key::{Known, ObjectKey};
use crate::kube::resource::ApiServer;

use super::*;

/// A stored object and the JSON that upstream's own code made of it.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    api_version: String,
    kind: String,
    fill: String,
    protobuf: String,
    json: Value,
}

const KUBERNETES_1_20: &str = "k8s-1.20";
const KUBERNETES_1_34: &str = "k8s-1.34-openshift-4.20";

fn samples(release: &str) -> Vec<Sample> {
    let path = format!("{}/testdata/payloads/{release}.jsonl.gz", env!("CARGO_MANIFEST_DIR"));
    let mut lines = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut lines).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn decoded(plain: &[u8], dress: &Dress) -> Result<(Decoded, Value), DecodeError> {
    let mut out = b"before".to_vec();
    let result = to_json(plain, dress, &mut out);
    assert!(out.starts_with(b"before"));
    let decoded = result.inspect_err(|_| assert_eq!(out, b"before"))?;
    let value = serde_json::from_slice(&out[6..]).unwrap();
    Ok((decoded, value))
}

/// Removes what is null, wherever it is a member.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Every object of a release must be upstream's JSON; of the kinds that are named, but for what is null in one and
/// missing in the other, since releases differ in that and the wire does not say which one wrote.
#[track_caller]
fn check(release: &str, count: usize, null_or_missing: &[&str]) {
    let samples = samples(release);
    assert_eq!(samples.len(), count);
    let mut unlike = BTreeSet::new();
    for sample in samples {
        let name = format!("{} {} {}", sample.api_version, sample.kind, sample.fill);
        let plain = BASE64_STANDARD.decode(&sample.protobuf).unwrap();
        let (found, mut value) = decoded(&plain, &Dress::STORED).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found, Decoded { encoding: Encoding::Protobuf, known_kind: true, unknown_fields: 0 }, "{name}");
        let mut expected = sample.json;
        if value != expected {
            without_nulls(&mut value);
            without_nulls(&mut expected);
            assert_eq!(value, expected, "{name}");
            unlike.insert(format!("{} {}", sample.api_version, sample.kind));
        }
    }
    assert_eq!(unlike.iter().map(String::as_str).collect::<Vec<_>>(), null_or_missing);
}

#[test]
fn every_kind_of_kubernetes_1_20_is_upstreams_json() {
    // 1.21 gave the parameters a `scope`, which is null where it is not set.
    check(KUBERNETES_1_20, 315, &["networking.k8s.io/v1 IngressClass", "networking.k8s.io/v1beta1 IngressClass"]);
}

#[test]
fn every_kind_of_kubernetes_1_34_and_openshift_4_20_is_upstreams_json() {
    // Since 1.35 `devices` are left out where there are none.
    let slices = ["v1", "v1beta1", "v1beta2"].map(|version| format!("resource.k8s.io/{version} ResourceSlice"));
    check(KUBERNETES_1_34, 573, &slices.each_ref().map(String::as_str));
}

#[test]
fn keys_come_sorted_as_kubectl_shows_them() {
    for sample in samples(KUBERNETES_1_34) {
        let plain = BASE64_STANDARD.decode(&sample.protobuf).unwrap();
        let mut out = Vec::new();
        to_json(&plain, &Dress::STORED, &mut out).unwrap();
        let mut again = Vec::new();
        Document::parse(&out).unwrap().root().write(&mut again);
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&again));
    }
}

#[test]
fn json_of_every_object_passes_with_its_keys_sorted_and_its_values_kept() {
    for sample in samples(KUBERNETES_1_20) {
        let text = format!("{}\n", sample.json);
        let (found, value) = decoded(text.as_bytes(), &Dress::STORED).unwrap();
        assert_eq!((found.encoding, value), (Encoding::Json, sample.json));
    }
}

#[test]
fn metadata_is_dressed_the_same_in_protobuf_and_json() {
    let dress = Dress { resource_version: Some(4711), managed_fields: false, ..Dress::STORED };
    for sample in samples(KUBERNETES_1_34).into_iter().filter(|sample| sample.kind == "Secret") {
        let (mut expected, text) = (sample.json.clone(), sample.json.to_string());
        expected["metadata"]["resourceVersion"] = json!("4711");
        expected["metadata"].as_object_mut().unwrap().remove("managedFields");
        let plain = BASE64_STANDARD.decode(&sample.protobuf).unwrap();
        assert_eq!(decoded(&plain, &dress).unwrap().1, expected);
        assert_eq!(decoded(text.as_bytes(), &dress).unwrap().1, expected);
    }
    // Nested objects keep their own.
    let nested = r#"{"metadata":{"name":"a"},"spec":{"metadata":{"managedFields":[],"resourceVersion":"1"}}}"#;
    let (_, value) = decoded(nested.as_bytes(), &dress).unwrap();
    assert_eq!(value["spec"]["metadata"], json!({"managedFields": [], "resourceVersion": "1"}));
    assert_eq!(value["metadata"], json!({"name": "a", "resourceVersion": "4711"}));
}

/// A field of bytes.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

/// A stored object.
fn object(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [PROTOBUF, &bytes(1, &type_meta), &bytes(2, raw), &bytes(3, b""), &bytes(4, b"")].concat()
}

#[track_caller]
fn shows(plain: &[u8], expected: Value) {
    assert_eq!(decoded(plain, &Dress::STORED).unwrap().1, expected);
}

#[test]
fn fields_and_kinds_that_no_release_has_stay_visible() {
    let metadata = bytes(1, &bytes(1, b"a"));
    let strange = [metadata.clone(), bytes(15, b"\x00\xff"), vec![14 << 3, 5]].concat();
    let unknown = json!([
        {"field": 15, "type": "bytes", "value": "AP8="},
        {"field": 14, "type": "varint", "value": 5},
    ]);
    for (api_version, kind) in [("v1", "ConfigMap"), ("new.example.com/v9", "Gizmo")] {
        let plain = object(api_version, kind, &strange);
        let (found, value) = decoded(&plain, &Dress::STORED).unwrap();
        assert_eq!((found.known_kind, found.unknown_fields), (kind == "ConfigMap", 2));
        assert_eq!(
            value,
            json!({"$unknown": unknown, "apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}})
        );
    }
}

#[test]
fn known_fields_of_another_wire_type_and_strange_specials_stay_visible() {
    // `data` of a ConfigMap as a number; a creationTimestamp with a field 7.
    let metadata = bytes(1, &[bytes(1, b"a"), bytes(8, &[7 << 3, 1])].concat());
    let plain = object("v1", "ConfigMap", &[metadata, vec![2 << 3, 9]].concat());
    shows(
        &plain,
        json!({
            "$unknown": [{"field": 2, "type": "varint", "value": 9}],
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "creationTimestamp": {"$unknown": [{"field": 7, "type": "varint", "value": 1}]}},
        }),
    );
}

#[test]
fn an_unknown_field_of_an_inlined_struct_says_in_which_it_lay() {
    // Pod: spec 2, volumes 1, volumeSource 2.
    let volume = [bytes(1, b"v"), bytes(2, &[127 << 3 & 0x7f | 0x80, 7, 1])].concat();
    let plain = object("v1", "Pod", &[bytes(1, b""), bytes(2, &bytes(1, &volume))].concat());
    let (_, value) = decoded(&plain, &Dress::STORED).unwrap();
    let unknown = &value["spec"]["volumes"][0]["$unknown"][0];
    assert_eq!((&unknown["within"], &unknown["type"]), (&json!(2), &json!("varint")));
}

#[test]
fn strings_that_are_no_utf_8_and_repeated_keys_are_shown_as_go_shows_them() {
    let entry = |key: &[u8], value: &[u8]| bytes(2, &[bytes(1, key), bytes(2, value)].concat());
    let raw =
        [bytes(1, b""), entry(b"b", b"\xff\xfe"), entry(b"a", b"1"), entry(b"a", b"2"), bytes(2, &bytes(1, b"c"))];
    shows(
        &object("v1", "ConfigMap", &raw.concat()),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {},
               "data": {"a": "2", "b": "\u{fffd}\u{fffd}", "c": ""}}),
    );
    let raw = [bytes(1, b""), bytes(2, &bytes(1, b"empty"))].concat();
    shows(
        &object("v1", "Secret", &raw),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"empty": ""}}),
    );
}

#[test]
fn a_message_in_two_parts_is_one() {
    let raw = [bytes(1, &bytes(1, b"a")), bytes(1, &bytes(3, b"ns"))].concat();
    shows(
        &object("v1", "ConfigMap", &raw),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns"}}),
    );
}

#[test]
fn numbers_in_one_field_are_as_good_as_one_by_one() {
    // Pod: spec 2, securityContext 14, supplementalGroups 4.
    let context = |groups: &[u8]| bytes(14, groups);
    for groups in [bytes(4, &[1, 2, 0xac, 2]), vec![32, 1, 32, 2, 32, 0xac, 2]] {
        let plain = object("v1", "Pod", &[bytes(1, b""), bytes(2, &context(&groups))].concat());
        let (_, value) = decoded(&plain, &Dress::STORED).unwrap();
        assert_eq!(value["spec"]["securityContext"], json!({"supplementalGroups": [1, 2, 300]}));
    }
}

#[test]
fn nested_objects_are_decoded_and_what_is_no_json_is_shown() {
    let nested = object("v1", "ConfigMap", &[bytes(1, &bytes(1, b"inner")), bytes(2, &bytes(1, b"k"))].concat());
    let inner = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "inner"}, "data": {"k": ""}});
    for (raw, expected) in [
        (nested.as_slice(), inner),
        (br#"{"b":1,"a":[]}"#, json!({"a": [], "b": 1})),
        (b"\x00\x01", json!({"$unknown": [{"field": 1, "type": "bytes", "value": "AAE="}]})),
    ] {
        let plain = object("apps/v1", "ControllerRevision", &[bytes(1, b""), bytes(2, &bytes(1, raw))].concat());
        let (_, value) = decoded(&plain, &Dress { resource_version: Some(7), ..Dress::STORED }).unwrap();
        assert_eq!(value["data"], expected);
    }
}

#[test]
fn a_zero_time_is_null_where_the_writer_showed_it_so() {
    let metadata = |rest: &[u8]| bytes(1, &[&bytes(1, b"a")[..], &bytes(8, b""), rest].concat());
    // Releases before 1.24 write clusterName.
    for (rest, expected) in
        [(bytes(15, b""), json!({"name": "a", "creationTimestamp": null})), (vec![], json!({"name": "a"}))]
    {
        let (_, value) = decoded(&object("v1", "ConfigMap", &metadata(&rest)), &Dress::STORED).unwrap();
        assert_eq!(value["metadata"], expected);
    }
}

#[test]
fn nesting_of_any_depth_is_an_error_and_no_overflow() {
    // CustomResourceDefinition: spec 2, validation 5, openAPIV3Schema 1, and `not` 28 in itself.
    let mut schema = Vec::new();
    for _ in 0..10_000 {
        let mut outer = vec![0xe2, 1];
        let mut length = schema.len();
        while length > 0x7f {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(&schema);
        schema = outer;
    }
    let raw = [bytes(1, b""), bytes(2, &bytes(5, &bytes(1, &schema)))].concat();
    let plain = object("apiextensions.k8s.io/v1beta1", "CustomResourceDefinition", &raw);
    let error = decoded(&plain, &Dress::STORED).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { what: "nested too deeply", .. }), "{error}");
    let mut nested = object("v1", "ConfigMap", b"");
    for _ in 0..1000 {
        nested = object("apps/v1", "ControllerRevision", &bytes(2, &bytes(1, &nested)));
    }
    assert!(decoded(&nested, &Dress::STORED).is_err());
    let json = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(decoded(json.as_bytes(), &Dress::STORED).is_err());
    let cbor = [cbor::MAGIC, b"\xa1\x41a", &[0x81; 10_000], b"\x01"].concat();
    assert!(decoded(&cbor, &Dress::STORED).is_err());
}

#[test]
fn lengths_that_lie_are_errors_with_their_place() {
    let plain = object("v1", "ConfigMap", b"\x0a\x05\x0a\x7fabc");
    let error = decoded(&plain, &Dress::STORED).unwrap_err();
    let DecodeError::Malformed { encoding: Encoding::Protobuf, offset, what: "cut off" } = error else {
        panic!("{error}")
    };
    assert_eq!(&plain[offset..offset + 2], b"\x0a\x7f");
    for length in 0..plain.len() {
        assert!(decoded(&plain[..length], &Dress::STORED).is_err());
    }
    assert_eq!(decoded(b"k8s:enc:aescbc:v1:key1:", &Dress::STORED), Err(DecodeError::NoForm));
    assert_eq!(decoded(b"", &Dress::STORED), Err(DecodeError::NoForm));
}

#[test]
fn cbor_of_custom_resources_is_their_json() {
    let plain = [
        cbor::MAGIC,
        b"\xa4\x44kind\x46Widget\x44spec\xa7",
        b"\x41a\x18\x2a\x41b\x38\x63\x41c\xf9\x3e\x00\x41d\xd6\x43\x00\x01\x02\x41e\x82\xf5\xf6\x41f\xfb\x40\x04\0\0\0\0\0\0",
        b"\x61g\x64text",
        b"\x48metadata\xa1\x44name\x41w\x4aapiVersion\x4eexample.com/v1",
    ]
    .concat();
    let dress = Dress { resource_version: Some(3), managed_fields: false, ..Dress::STORED };
    let (found, value) = decoded(&plain, &dress).unwrap();
    assert_eq!(found.encoding, Encoding::Cbor);
    assert_eq!(
        value,
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "resourceVersion": "3"},
               "spec": {"a": 42, "b": -100, "c": 1.5, "d": "AAEC", "e": [true, null], "f": 2.5, "g": "text"}})
    );
    for length in cbor::MAGIC.len()..plain.len() {
        assert!(decoded(&plain[..length], &dress).is_err(), "{length}");
    }
}

#[test]
fn what_came_from_etcd2_and_yaml_is_read_too() {
    let plain = object("v1", "ConfigMap", &bytes(1, &bytes(1, b"a")));
    let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    for text in [BASE64_STANDARD.encode(&plain), "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n".to_owned()] {
        let (found, value) = decoded(text.as_bytes(), &Dress::STORED).unwrap();
        assert_eq!((found.encoding, value), (Encoding::Other, expected.clone()));
    }
}

#[test]
fn every_object_that_upstream_encoded_is_looked_through_without_a_fault() {
    for sample in samples(KUBERNETES_1_20).iter().chain(&samples(KUBERNETES_1_34)) {
        let plain = BASE64_STANDARD.decode(&sample.protobuf).unwrap();
        assert_eq!(look_through(&plain), Ok(()), "{} {} {}", sample.api_version, sample.kind, sample.fill);
    }
}

#[test]
fn noise_far_inside_an_object_is_found_where_upstreams_decoder_stumbles_over_it() {
    let metadata = |inner: &[u8]| bytes(1, &[&bytes(1, b"a")[..], &bytes(5, b"u"), inner].concat());
    let secret = |inner: &[u8]| object("v1", "Secret", inner);
    let data = |entry: &[u8]| secret(&[metadata(&[]), bytes(2, entry)].concat());
    let label = |entry: &[u8]| secret(&metadata(&bytes(11, entry)));
    let whole = [bytes(1, b"password"), bytes(2, b"hunter2")].concat();
    let owner = |inner: &[u8]| secret(&metadata(&bytes(13, inner)));
    for sound in
        [data(&whole), label(&whole), data(&[]), owner(&bytes(1, b"Node")), secret(&[vec![15 << 3, 1]].concat())]
    {
        assert_eq!(look_through(&sound), Ok(()));
    }
    let cut = [bytes(1, b"password"), vec![2 << 3 | 2, 9, 1]].concat();
    let no_field = [&whole[..], &[0x03, 0x8e]].concat();
    let overrun = [bytes(1, b"password"), vec![1 << 3, 9]].concat();
    let strange = [owner(&[1 << 3 | 2, 5, 1]), owner(&[6 << 3 | 2, 1, 1]), owner(&[1 << 3, 1])];
    for broken in [data(&cut), label(&cut), data(&no_field), label(&no_field), data(&overrun)].iter().chain(&strange) {
        assert!(matches!(look_through(broken), Err(DecodeError::Malformed { .. })), "{broken:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_altered_in_an_object_nothing_panics_and_what_comes_is_json(
        which in 0..573_usize, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()
    ) {
        static SAMPLES: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(|| {
            samples(KUBERNETES_1_34).iter().map(|sample| BASE64_STANDARD.decode(&sample.protobuf).unwrap()).collect()
        });
        let mut plain = SAMPLES[which].clone();
        let place = at.index(plain.len());
        plain[place] = byte;
        // `decoded` parses what comes.
        let _ = decoded(&plain, &Dress::STORED);
        plain.truncate(cut.index(plain.len()));
        let _ = decoded(&plain, &Dress::STORED);
    }
}

/// The key that names the object inside; its kind is the object's own.
fn key_of<'i>(identity: &'i payload::Identity<'_>) -> ObjectKey<'i> {
    ObjectKey {
        server: ApiServer::Kube,
        group: identity.group(),
        resource: "things",
        namespace: Some(&*identity.namespace).filter(|namespace| !namespace.is_empty()),
        name: &identity.name,
        known: Known::BuiltIn,
        kind: Some(identity.kind.to_string().leak()),
    }
}

/// What those say that say why.
fn holds(plain: &[u8], key: &ObjectKey<'_>, depth: Depth) -> bool {
    let identified = payload::identify(plain).is_ok_and(|(_, identity)| payload::mismatch(key, &identity).is_none());
    identified && (depth == Depth::Fields || look_through(plain).is_ok())
}

#[test]
fn every_object_that_upstream_encoded_proves_itself_at_once_and_is_no_other() {
    for release in [KUBERNETES_1_20, KUBERNETES_1_34] {
        let mut slow = Vec::new();
        for sample in samples(release) {
            let plain = BASE64_STANDARD.decode(&sample.protobuf).unwrap();
            let Ok((_, identity)) = payload::identify(&plain) else { continue };
            let key = key_of(&identity);
            let name = format!("{} {} {}", sample.api_version, sample.kind, sample.fill);
            if !proves(&plain, &key, Depth::All) {
                slow.push(name.clone());
            }
            assert!(holds(&plain, &key, Depth::All), "{name}");
            for other in [
                ObjectKey { name: "another", ..key },
                ObjectKey { namespace: Some("another"), ..key },
                ObjectKey { kind: Some("Another"), ..key },
                ObjectKey { kind: None, ..key },
            ] {
                assert!(!proves(&plain, &other, Depth::All), "{name}: {other:?}");
            }
        }
        assert_eq!(slow, [""; 0], "{release}");
    }
}

proptest! {
    #[test]
    fn nothing_proves_itself_at_once_that_does_not_hold(
        which: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(Change::Cut), any::<u8>().prop_map(Change::Set), any::<u8>().prop_map(Change::Insert), Just(Change::Drop),
        ]), 1..4),
    ) {
        static SAMPLES: LazyLock<Vec<Sample>> =
            LazyLock::new(|| [KUBERNETES_1_20, KUBERNETES_1_34].into_iter().flat_map(samples).collect());
        let whole = BASE64_STANDARD.decode(&which.get(&SAMPLES).protobuf).unwrap();
        if let Ok((_, identity)) = payload::identify(&whole) {
            let key = key_of(&identity);
            let mut plain = whole.clone();
            for (at, change) in changes.iter().filter(|_| !whole.is_empty()) {
                let at = at.index(plain.len().max(1)).min(plain.len().saturating_sub(1));
                match change {
                    Change::Cut => plain.truncate(at),
                    Change::Set(byte) => plain.get_mut(at).iter_mut().for_each(|place| **place = *byte),
                    Change::Insert(byte) => plain.insert(at, *byte),
                    Change::Drop => drop((at < plain.len()).then(|| plain.remove(at))),
                }
            }
            for depth in [Depth::Fields, Depth::All] {
                prop_assert!(!proves(&plain, &key, depth) || holds(&plain, &key, depth));
            }
        }
    }
}

/// What is done to an object.
#[derive(Clone, Copy, Debug)]
enum Change {
    Cut,
    Set(u8),
    Insert(u8),
    Drop,
}
