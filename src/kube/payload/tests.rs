use std::io::Read;
use std::sync::LazyLock;

use base64::prelude::{BASE64_STANDARD, Engine};
use proptest::prelude::*;

use super::*;
use crate::kube::key::{Address, Roots};

/// A stored object as Kubernetes' own code encoded it.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    api_version: String,
    kind: String,
    protobuf: String,
    json: serde_json::Value,
}

impl Sample {
    fn protobuf(&self) -> Vec<u8> {
        BASE64_STANDARD.decode(&self.protobuf).unwrap()
    }

    fn json(&self) -> Vec<u8> {
        format!("{}\n", self.json).into_bytes()
    }

    fn metadata(&self, field: &str) -> &str {
        self.json["metadata"][field].as_str().unwrap_or("")
    }
}

fn samples() -> Vec<Sample> {
    let compressed = include_bytes!("../../../testdata/payloads/payloads.jsonl.gz");
    let mut lines = String::new();
    flate2::read::GzDecoder::new(&compressed[..]).read_to_string(&mut lines).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sample(kind: &str) -> Sample {
    samples().into_iter().rev().find(|sample| sample.kind == kind).unwrap()
}

/// A Secret in each of the usual forms.
static SECRET: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let secret = sample("Secret");
    [secret.protobuf(), secret.json(), cbor_of(&secret)]
});

/// CBOR as upstream's serializer writes it: strings as byte strings, keys sorted.
fn to_cbor(value: &serde_json::Value, out: &mut Vec<u8>) {
    fn head(major: u8, argument: usize, out: &mut Vec<u8>) {
        match argument {
            0..=23 => out.push(major << 5 | argument as u8),
            24..=255 => out.extend([major << 5 | 24, argument as u8]),
            _ => {
                out.push(major << 5 | 26);
                out.extend((argument as u32).to_be_bytes());
            }
        }
    }
    match value {
        serde_json::Value::Null => out.push(0xf6),
        serde_json::Value::Bool(value) => out.push(if *value { 0xf5 } else { 0xf4 }),
        serde_json::Value::Number(number) => {
            out.push(0xfb);
            out.extend(number.as_f64().unwrap().to_be_bytes());
        }
        serde_json::Value::String(text) => {
            head(2, text.len(), out);
            out.extend(text.as_bytes());
        }
        serde_json::Value::Array(items) => {
            head(4, items.len(), out);
            items.iter().for_each(|item| to_cbor(item, out));
        }
        serde_json::Value::Object(pairs) => {
            head(5, pairs.len(), out);
            for (key, value) in pairs {
                head(2, key.len(), out);
                out.extend(key.as_bytes());
                to_cbor(value, out);
            }
        }
    }
}

fn cbor_of(sample: &Sample) -> Vec<u8> {
    let mut out = cbor::MAGIC.to_vec();
    to_cbor(&sample.json, &mut out);
    out
}

#[track_caller]
fn check(plain: &[u8], encoding: Encoding, sample: &Sample) {
    let (found, identity) = identify(plain).unwrap_or_else(|error| panic!("{} {}: {error}", encoding, sample.kind));
    assert_eq!(found, encoding);
    assert_eq!((&*identity.api_version, &*identity.kind), (&*sample.api_version, &*sample.kind));
    assert_eq!((&*identity.name, &*identity.namespace), (sample.metadata("name"), sample.metadata("namespace")));
}

#[test]
fn upstreams_own_encodings_of_every_kind_identify() {
    let samples = samples();
    assert!(samples.len() > 200, "{}", samples.len());
    for sample in &samples {
        let (protobuf, json, cbor) = (sample.protobuf(), sample.json(), cbor_of(sample));
        check(&protobuf, Encoding::Protobuf, sample);
        check(&json, Encoding::Json, sample);
        check(&cbor, Encoding::Cbor, sample);
        for wrapped in [&protobuf, &json, &cbor] {
            check(BASE64_STANDARD.encode(wrapped).as_bytes(), Encoding::Other, sample);
        }
    }
}

#[test]
fn a_cut_value_is_refused_wherever_it_is_cut() {
    for kind in ["Secret", "ConfigMap", "Route", "Namespace"] {
        let sample = sample(kind);
        for whole in [sample.protobuf(), sample.json().trim_ascii().to_vec(), cbor_of(&sample)] {
            for end in 0..whole.len() {
                assert!(identify(&whole[..end]).is_err(), "{kind} cut at {end} of {}", whole.len());
            }
        }
    }
}

#[test]
fn bytes_behind_a_value_are_refused() {
    let sample = sample("Secret");
    for whole in [sample.protobuf(), sample.json(), cbor_of(&sample)] {
        for tail in [&b"x"[..], b"\0", b"\x10\x10\x10", b"{}"] {
            assert!(identify(&[&whole, tail].concat()).is_err());
        }
    }
}

#[test]
fn a_wrong_keys_noise_behind_a_right_beginning_is_refused() {
    let mut state = 1_u64;
    let mut noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let beginning = b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Secret\x12";
    for length in 0..1000 {
        let mut value: Vec<u8> = beginning.to_vec();
        value.extend((0..length % 300).map(|_| noise()));
        assert!(identify(&value).is_err(), "{length}");
    }
}

#[test]
fn the_first_bytes_decide_the_form() {
    for (plain, form) in [
        (&b"k8s\0"[..], Some(Encoding::Protobuf)),
        (b" \r\n\t{", Some(Encoding::Json)),
        (b"\xd9\xd9\xf7\xa0", Some(Encoding::Cbor)),
        (b"azhzAAoM", Some(Encoding::Other)),
        (b"apiVersion: v1\n", Some(Encoding::Other)),
        (b"", None),
        (b"k8s", None),
        (b"k8s:enc:aescbc:v1:k:", None),
        (b"12345", None),
        (b"[]", None),
        (b"\x00\x01", None),
    ] {
        assert_eq!(sniff(plain), form, "{plain:?}");
    }
    assert_eq!(sniff(&[b' '; 100_000]), None);
}

#[test]
fn yaml_of_an_object_identifies_and_other_yaml_does_not() {
    let yaml = b"apiVersion: v1\ndata:\n  a: b\nkind: ConfigMap\nmetadata:\n  name: c\n  namespace: d\n";
    let (encoding, identity) = identify(yaml).unwrap();
    assert_eq!(
        (encoding, &*identity.kind, &*identity.name, &*identity.namespace),
        (Encoding::Other, "ConfigMap", "c", "d")
    );
    for text in ["apiVersion: v1\nfoo: bar\n", "# a comment\n", "---\n", "kind: [\n"] {
        assert!(identify(text.as_bytes()).is_err(), "{text:?}");
    }
    assert!(identify(b"apiVersion: v1\nkind: \xff\n").is_err());
}

#[test]
fn yaml_that_unfolds_without_end_is_refused() {
    let mut bomb = String::from("apiVersion: v1\nkind: Bomb\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    assert!(identify(bomb.as_bytes()).is_err());
}

#[test]
fn deep_nesting_is_read_and_costs_no_stack() {
    let depth = 500_000;
    let json = format!(
        r#"{{"apiVersion":"e.com/v1","kind":"W","metadata":{{"name":"w"}},"spec":{}1{}}}"#,
        "[".repeat(depth),
        "]".repeat(depth)
    );
    assert_eq!(identify(json.as_bytes()).unwrap().1.name, "w");
    let mut cbor = [cbor::MAGIC, b"\xa3\x4aapiVersion\x42v1\x44kind\x41W\x44spec"].concat();
    cbor.extend(vec![0x81; depth]);
    cbor.push(1);
    assert_eq!(identify(&cbor).unwrap().1.kind, "W");
}

#[test]
fn cbor_strings_may_be_of_either_type_and_may_be_null() {
    let cbor =
        [cbor::MAGIC, b"\xa3\x6aapiVersion\x62v1\x64kind\x41W\x48metadata\xa2\x44name\x61w\x49namespace\xf6"].concat();
    let identity = identify(&cbor).unwrap().1;
    assert_eq!((&*identity.name, &*identity.namespace), ("w", ""));
}

#[test]
fn cbor_that_upstream_does_not_write_is_refused() {
    for body in [
        &b""[..],
        b"\xbf\xff",                                      // indefinite length
        b"\x80",                                          // no map
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",          // pairs that are not there
        b"\xa1\x41a\x9b\xff\xff\xff\xff\xff\xff\xff\xff", // items that are not there
        b"\xa1\x41a\x5b\xff\xff\xff\xff\xff\xff\xff\xff", // bytes that are not there
        b"\xa2\x44kind\x41W\x44kind\x41W",                // twice
        b"\xa1\x44kind\x41\xff",                          // no UTF-8
        b"\xa1\x44kind\x01",                              // a number
        b"\xa1\x01\x01",                                  // a key that is no string
        b"\xa1\x41a\xff",                                 // a break
        b"\xa0",                                          // nothing
    ] {
        assert!(identify(&[cbor::MAGIC, body].concat()).is_err(), "{body:x?}");
    }
}

#[test]
fn json_that_no_object_is_made_of_is_refused() {
    for text in [
        "{}",
        r#"{"apiVersion":"v1"}"#,
        r#"{"apiVersion":"v1","kind":""}"#,
        r#"{"apiVersion":"v1","kind":1}"#,
        r#"{"apiVersion":"v1","kind":"A","kind":"B"}"#,
        r#"{"apiVersion":"v1","kind":"A","metadata":"x"}"#,
        r#"{"apiVersion":"v1","kind":"A"} x"#,
        r#"{"apiVersion":"v1","kind":"A","x":[1,}"#,
        "{\"apiVersion\":\"v1\",\"kind\":\"A\",\"x\":\"\u{1}\"}",
    ] {
        assert!(identify(text.as_bytes()).is_err(), "{text}");
    }
    assert!(identify(b"{\"apiVersion\":\"v1\",\"kind\":\"A\",\"x\":\"\xff\"}").is_err());
    let sparse = br#"{"apiVersion":"v1","kind":"A","metadata":{"name":null,"namespace":"\u0061"}}"#;
    let identity = identify(sparse).unwrap().1;
    assert_eq!((&*identity.name, &*identity.namespace), ("", "a"));
}

/// A protobuf value of these fields, each length-delimited.
fn envelope(raw: &[u8]) -> Vec<u8> {
    let mut value = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Foo\x12".to_vec();
    value.push(raw.len() as u8);
    value.extend(raw);
    value.extend(b"\x1a\0\x22\0");
    value
}

#[test]
fn a_first_field_that_is_no_object_metadata_is_not_misread() {
    assert_eq!(identify(&envelope(b"\x0a\x07\x0a\x01n\x2a\0\x38\0")).unwrap().1.name, "n");
    for (raw, story) in [
        (&b"\x0a\x05ADDED\x12\0"[..], "a watch event"),
        (b"\x08\x1e", "delete options: a number"),
        (b"\x0a\x07\x0a\x01s\x12\x02rv", "a list: self link and resource version"),
        (b"", "nothing"),
        (b"\x12\x01x", "no metadata"),
        (b"\x0a\x05\x0a\x01n\x2a\0\x0a\x05\x0a\x01m\x2a\0", "metadata twice"),
        (b"\x0a\x08\x0a\x01n\x0a\x01m\x2a\0", "a name twice"),
        (b"\x0a\x05\x0a\x01\xff\x2a\0", "a name that is no UTF-8"),
        (b"\x0a\x07\x0a\x01n\x2a\0\x3a\0", "a generation that is no number"),
        (b"\x0a\x05\x0a\x01n\x2a\0\x13\x14", "a group"),
        (b"\x0a\x05\x0a\x01n\x2a\0\x02\x00", "field 0"),
        (b"\x0a\x05\x0a\x01n\x2a\0\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "a number of more than 64 bits"),
    ] {
        assert!(identify(&envelope(raw)).is_err(), "{story}");
    }
}

#[test]
fn an_error_names_the_place_and_never_the_content() {
    let error = identify(&envelope(b"\x0a\x05\x0a\x01\xff\x2a\0")).unwrap_err();
    assert_eq!(error.to_string(), "not a protobuf object, at byte 19: no UTF-8");
    let secret = br#"{"apiVersion":"v1","kind":"Secret","metadata":"hunter2"}"#;
    let error = identify(secret).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    assert_eq!(identify(b"noise"), Err(PayloadError::NoForm));
}

#[test]
fn name_namespace_and_kind_are_compared_with_the_key() {
    let roots = Roots::given(&["/registry"]);
    let mismatch = |key: &'static str, api_version: &'static str, kind: &'static str, namespace: &'static str| {
        let Address::Object(key) = roots.locate(key.as_bytes()) else { panic!("{key}") };
        let (api_version, kind) = (api_version.into(), kind.into());
        let identity = Identity { api_version, kind, name: "x".into(), namespace: namespace.into() };
        assert_eq!(agrees(&key, &identity), mismatch(&key, &identity).is_none());
        mismatch(&key, &identity)
    };
    assert_eq!(mismatch("/registry/secrets/ns/x", "v1", "Secret", "ns"), None);
    assert_eq!(mismatch("/registry/secrets/ns/y", "v1", "Secret", "ns"), Some(Mismatch::Name));
    assert_eq!(mismatch("/registry/secrets/other/x", "v1", "Secret", "ns"), Some(Mismatch::Namespace));
    assert_eq!(mismatch("/registry/secrets/ns/x", "v1", "ConfigMap", "ns"), Some(Mismatch::Kind));
    assert_eq!(mismatch("/registry/minions/x", "v1", "Node", ""), None);
    assert_eq!(mismatch("/registry/minions/x", "v1", "Node", "ns"), Some(Mismatch::Namespace));
    assert_eq!(mismatch("/registry/deployments/ns/x", "extensions/v1beta1", "Deployment", "ns"), None);
    assert_eq!(mismatch("/registry/e.com/ws/ns/x", "e.com/v1", "W", "ns"), None);
    assert_eq!(mismatch("/registry/e.com/ws/ns/x", "f.com/v1", "W", "ns"), Some(Mismatch::Kind));
    assert_eq!(mismatch("/registry/newthings/ns/x", "new.k8s.io/v1", "NewThing", "ns"), None);
}

#[test]
fn every_kind_of_the_table_that_upstream_encodes_has_its_spelling() {
    let kinds: Vec<String> = samples().into_iter().map(|sample| sample.kind).collect();
    let spelt = crate::kube::table::BUILT_INS.iter().filter(|b| kinds.iter().any(|kind| kind == b.kind)).count();
    assert!(spelt > 70, "{spelt}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_are_refused_or_identified(
        beginning in proptest::sample::select(vec![&b""[..], b"k8s\0", b"{", cbor::MAGIC, b"apiVersion:", b"ey"]),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let plain = [beginning, &rest].concat();
        if let Ok((encoding, identity)) = identify(&plain) {
            prop_assert_eq!(sniff(&plain), Some(encoding));
            prop_assert!(!identity.kind.is_empty());
        }
    }

    #[test]
    fn a_flipped_bit_never_changes_the_length_that_is_read(at in any::<prop::sample::Index>(), bit in 0_u8..8, form in 0_usize..3) {
        let mut value = SECRET[form].clone();
        let at = at.index(value.len());
        value[at] ^= 1 << bit;
        if let Ok((encoding, _)) = identify(&value) {
            prop_assert!(identify(&value[..value.len() - 1]).is_err() || encoding == Encoding::Json);
        }
    }
}
