//! What nobody wrote down beforehand: random damage, judged by upstream's own code and by ours.
//!
//! The seed is printed and can be set: `ATREST_SEED=7 tests/upstream/run random`.

use std::io::Read;

use atrest::kube::payload;
use atrest::kube::schema::look_through;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::oracle::Oracle;
use super::program::testdata;

/// How many damaged objects are asked about.
const OBJECTS: usize = 3000;

/// Numbers that look random, the same for one seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    /// Those of the environment's seed, else of the time.
    fn of_this_run() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time after 1970");
        let given = std::env::var("ATREST_SEED").ok().map(|seed| seed.parse().expect("ATREST_SEED is a number"));
        let seed = given.unwrap_or(now.as_secs());
        eprintln!("ATREST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Kinds whose fields have long been what they are: what only a newer release's decoder knows is not looked at by this one's.
const SETTLED: [&str; 9] = [
    "v1 Secret",
    "v1 ConfigMap",
    "v1 ServiceAccount",
    "v1 Endpoints",
    "v1 LimitRange",
    "v1 Event",
    "rbac.authorization.k8s.io/v1 ClusterRole",
    "rbac.authorization.k8s.io/v1 RoleBinding",
    "storage.k8s.io/v1 StorageClass",
];

/// Upstream's encodings of those kinds.
fn objects() -> Vec<(String, Vec<u8>)> {
    let file = std::fs::File::open(testdata("payloads/k8s-1.34-openshift-4.20.jsonl.gz")).expect("the payloads");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("text in gzip");
    let line = |line: &str| -> (String, Vec<u8>) {
        let sample: Value = serde_json::from_str(line).expect("a line of JSON");
        let kind = format!("{} {}", sample["apiVersion"], sample["kind"]).replace('"', "");
        (kind, BASE64_STANDARD.decode(sample["protobuf"].as_str().expect("base64")).expect("base64"))
    };
    text.lines().map(line).filter(|(kind, _)| SETTLED.contains(&kind.as_str())).collect()
}

/// One block of AES-CBC is noise, and a bit of the next one flipped: what a flipped bit in the store does.
fn harm(bytes: &mut [u8], numbers: &mut Numbers) {
    let block = 16 * numbers.below(bytes.len() / 16);
    let bit = numbers.below(128);
    for byte in bytes.iter_mut().skip(block).take(16) {
        *byte = numbers.next() as u8;
    }
    if let Some(byte) = bytes.get_mut(block + 16 + bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

/// What upstream decodes may be an object that the audit calls none for its envelope or metadata; but the look inside never
/// refuses what upstream takes.
#[test]
fn an_object_that_upstream_decodes_in_spite_of_noise_is_never_called_broken_inside() {
    let (mut numbers, mut oracle, objects) = (Numbers::of_this_run(), Oracle::start(), objects());
    let (mut decoded, mut refused, mut by_us) = (0, 0, 0);
    for _ in 0..OBJECTS {
        let (kind, bytes) = &objects[numbers.below(objects.len())];
        let mut bytes = bytes.clone();
        harm(&mut bytes, &mut numbers);
        let raw = BASE64_STANDARD.encode(&bytes);
        let answer = oracle.ask(&json!({"op": "decrypt", "key": "/registry/a/b", "raw": raw}));
        let found = payload::identify(&bytes).is_ok().then(|| look_through(&bytes));
        if answer["object"].is_null() {
            refused += 1;
            by_us += usize::from(found != Some(Ok(())));
        } else {
            decoded += 1;
            assert!(!matches!(found, Some(Err(_))), "{kind}: {found:?} of {raw}");
        }
    }
    // Upstream also refuses kinds that noise made up, and the oracle times that JSON cannot say.
    assert!(decoded > OBJECTS / 50 && by_us * 2 > refused, "{decoded} decoded, {refused} refused, {by_us} by us");
}
