//! Objects of releases of all ages, as upstream's own code stores and serves them.
//!
//! `tests/oracle/payloads` fills every kind that a release stores at random: every field, about half of them, none. What it makes for two
//! releases is among the first suite's data; here are others, each with a seed of its own.

use std::collections::BTreeSet;
use std::fs;

use atrest::kube::payload::Encoding;
use atrest::kube::schema::{Decoded, Dress, look_through, to_json};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::Value;

use super::built::built;

/// An object and the JSON that upstream made of it.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    api_version: String,
    kind: String,
    fill: String,
    protobuf: String,
    json: Value,
}

/// Fewer kinds than this no release has; each is there three times.
const FEWEST_KINDS: usize = 50;

/// Every object of a release must be upstream's JSON, and nothing of it unknown. Of the kinds that are named something may be null in one
/// and missing in the other: releases differ in that, and the wire does not say which one wrote.
#[track_caller]
fn check(release: &str, null_or_missing: &[&str]) {
    let lines = fs::read_to_string(built(&format!("payloads-{release}.jsonl"))).expect("payloads");
    let (mut kinds, mut unlike) = (BTreeSet::new(), BTreeSet::new());
    for line in lines.lines() {
        let sample: Sample = serde_json::from_str(line).expect("a sample");
        let name = format!("{} {}", sample.api_version, sample.kind);
        let plain = BASE64_STANDARD.decode(&sample.protobuf).expect("base64");
        let mut out = Vec::new();
        let found =
            to_json(&plain, &Dress::STORED, &mut out).unwrap_or_else(|error| panic!("{name} {}: {error}", sample.fill));
        let whole = Decoded { encoding: Encoding::Protobuf, known_kind: true, unknown_fields: 0 };
        assert_eq!(found, whole, "{name} {}", sample.fill);
        assert_eq!(look_through(&plain), Ok(()), "{name} {}", sample.fill);
        let (mut value, mut expected): (Value, _) = (serde_json::from_slice(&out).expect("JSON"), sample.json);
        [&mut value, &mut expected].into_iter().for_each(without_unset);
        if value != expected {
            without_nulls(&mut value);
            without_nulls(&mut expected);
            assert_eq!(value, expected, "{name} {}", sample.fill);
            unlike.insert(name.clone());
        }
        kinds.insert(name);
    }
    assert!(kinds.len() > FEWEST_KINDS, "only {} kinds", kinds.len());
    assert_eq!(unlike.iter().map(String::as_str).collect::<Vec<_>>(), null_or_missing);
}

/// Removes what the wire does not tell: a creation that never was, which releases before 1.34 show as null (every stored object has one, so this
/// concerns the metadata of templates); and an `adminAccess` of 1.31 that is not set, which was no pointer then.
fn without_unset(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|name, member| match name.as_str() {
            "creationTimestamp" => !member.is_null(),
            "adminAccess" => *member == Value::Bool(true),
            _ => true,
        });
    }
    match value {
        Value::Object(members) => members.values_mut().for_each(without_unset),
        Value::Array(items) => items.iter_mut().for_each(without_unset),
        _ => {}
    }
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

#[test]
fn every_kind_of_kubernetes_1_24_is_upstreams_json() {
    check("0.24.3", &[]);
}

#[test]
fn every_kind_of_kubernetes_1_27_is_upstreams_json() {
    check("0.27.4", &[]);
}

#[test]
fn every_kind_of_kubernetes_1_31_is_upstreams_json() {
    check("0.31.14", &[]);
}

#[test]
fn every_kind_of_kubernetes_1_37_is_upstreams_json() {
    check("0.37.2", &[]);
}
