//! Known answers, upstream's table of refusals, and round trips.

use proptest::prelude::*;

use super::super::super::vectors::{KEY_32, LEGACY_KEY, LEGACY_SEED, hex};
use super::*;

const DEMO: &[u8] = b"/registry/secrets/default/demo";

/// An envelope that passes, to be spoiled.
fn sample() -> Envelope<'static> {
    Envelope {
        encrypted_data: b"data",
        key_id: "1",
        encrypted_dek: b"wrapped",
        annotations: Annotations::none(),
        source: DekSource::Seed,
    }
}

fn written(envelope: &Envelope<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    envelope.write(&mut out);
    out
}

fn refusal(envelope: &Envelope<'_>) -> String {
    Envelope::parse(&written(envelope)).unwrap_err().to_string()
}

fn open_by_seed(seed: &[u8], aad: &[u8], encrypted_data: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut scratch = Plaintext::new();
    let bytes = Seed::new(seed).unwrap().open(aad, encrypted_data, &mut scratch)?;
    Ok(scratch.opened(bytes).to_vec())
}

#[test]
fn a_body_of_upstreams_own_tests_opens_by_its_derived_key() {
    let seed = hex("5d40323a820ff95561675e3b95e81867c5fdd561d35a88a2d08b08aa9d4fcf5c");
    let body =
        hex("2442759e33945fbad709db577a0f037fd8a709fc76979b8942209debcecb9d57efe3d6ff6a1ef6ee9a5003b9833b3043cec1e47b\
         35175b151107a8d2416b0e296bbf66b5d102fcefdf9a78f293d271");
    let derived = Seed::new(&seed).unwrap().derive(body.first_chunk().unwrap()).unwrap();
    assert_eq!(derived.to_vec(), hex("6e58b7659c304b0c382f42f16bd700465def1dead80bf6f1bf1d52073bdb0c00"));
    assert_eq!(open_by_seed(&seed, b"bamboo", &body).unwrap(), b"pandas are the best");
    assert_eq!(open_by_seed(&seed, b"panda", &body), Err(Fault::Authentication));
    assert_eq!(open_by_seed(&seed, b"bamboo", &body[..31]), Err(Fault::TooShort));
    assert_eq!(open_by_seed(&seed, b"bamboo", &body[..43]), Err(Fault::TooShort));
    assert_eq!(open_by_seed(&seed, b"bamboo", &body[..59]), Err(Fault::Authentication));
}

#[test]
fn a_seed_has_at_least_thirty_two_bytes() {
    assert!(Seed::new(&[1; 31]).is_none());
    assert!(Seed::new(&[1; 32]).is_some());
    assert!(Seed::new(&[1; 100]).is_some());
}

#[test]
fn a_known_answer_parses_opens_and_seals() {
    let body = hex(
        "0a46404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f202122232425262728292a2bd103ee531b23616\
         6639bf12397fc06bc6794e1139a4097755d7c1201311a2c41414543417751464267634943516f4c4441304f4478415245684d554652\
         595847426b61477877644868383d2801",
    );
    let envelope = Envelope::parse(&body).unwrap();
    assert_eq!((envelope.key_id, envelope.source, envelope.annotations.len()), ("1", DekSource::Seed, 0));
    assert_eq!(open_by_seed(&KEY_32, DEMO, envelope.encrypted_data).unwrap(), b"hello etcd");
    assert_eq!(written(&envelope), body);
    let (info, sealed) = envelope.encrypted_data.split_first_chunk().unwrap();
    let mut out = Vec::new();
    let seed = Seed::new(&KEY_32).unwrap();
    seed.seal(DEMO, b"hello etcd", info, sealed.first_chunk().unwrap(), &mut out).unwrap();
    assert_eq!(out, envelope.encrypted_data);
}

#[test]
fn values_that_upstream_releases_wrote_parse_and_are_written_alike() {
    for (stored, source) in [(LEGACY_KEY, DekSource::Key), (LEGACY_SEED, DekSource::Seed)] {
        let stored = hex(stored);
        let body = stored.strip_prefix(b"k8s:enc:kms:v2:kms-provider:").unwrap();
        let envelope = Envelope::parse(body).unwrap();
        assert_eq!((envelope.key_id, envelope.source), ("1", source));
        assert_eq!(&envelope.annotations[..], [("local-kek.kms.kubernetes.io", &b"encrypted-local-kek"[..])]);
        assert_eq!(written(&envelope), body);
    }
}

#[test]
fn refusals_come_in_upstreams_order_and_words() {
    let long = "k".repeat(1025);
    let bad = Annotations::from_iter([("@", &b""[..])]);
    let empty = Envelope { encrypted_data: b"", key_id: "", encrypted_dek: b"", annotations: bad, ..sample() };
    let mut of_unknown_type = written(&empty);
    wire::write_number(5, 55, &mut of_unknown_type);
    let refused = Envelope::parse(&of_unknown_type).unwrap_err().to_string();
    assert_eq!(refused, "unknown encryptedDEKSourceType: 55");

    assert_eq!(refusal(&empty), "encrypted data is empty");
    let with_data = Envelope { encrypted_data: b"\0", ..empty };
    let why = "failed to validate encrypted DEK source: encrypted DEK source is ";
    assert_eq!(refusal(&with_data), format!("{why}empty"));
    let long_dek = Envelope { encrypted_dek: long.as_bytes(), ..with_data.clone() };
    assert_eq!(refusal(&long_dek), format!("{why}1025 bytes, which exceeds the max size of 1024"));
    let with_dek = Envelope { encrypted_dek: &long.as_bytes()[1..], ..with_data };
    let why = "failed to validate key id: keyID is ";
    assert_eq!(refusal(&with_dek), format!("{why}empty"));
    let long_id = Envelope { key_id: &long, ..with_dek.clone() };
    assert_eq!(refusal(&long_id), format!("{why}1025 bytes, which exceeds the max size of 1024"));
    let with_id = Envelope { key_id: &long[1..], ..with_dek };
    assert!(refusal(&with_id).starts_with("failed to validate annotations: annotations: Invalid value: \"@\": a low"));
    let whole = Envelope { annotations: Annotations::none(), ..with_id };
    assert_eq!(Envelope::parse(&written(&whole)), Ok(whole));
}

#[test]
fn text_that_is_none_is_refused() {
    let body = [written(&sample()), vec![0x12, 1, 0xff]].concat();
    assert_eq!(Envelope::parse(&body), Err(EnvelopeError::Utf8));
    let body = [written(&sample()), vec![0x22, 3, 0x0a, 1, 0xff]].concat();
    assert_eq!(Envelope::parse(&body), Err(EnvelopeError::Utf8));
}

#[test]
fn what_a_newer_release_may_add_is_passed_over() {
    let added = [&[0x32, 2, 8, 9][..], &[0x08, 5], &[0x3d, 1, 2, 3, 4], &[0x2a, 1, 0]].concat();
    let body = [added, written(&sample())].concat();
    assert_eq!(Envelope::parse(&body), Ok(sample()));
}

#[test]
fn of_a_field_written_twice_the_last_counts() {
    let first = Envelope { key_id: "0", encrypted_data: b"other", ..sample() };
    let body = [written(&first), written(&sample())].concat();
    assert_eq!(Envelope::parse(&body), Ok(sample()));
}

#[test]
fn a_source_type_has_thirty_two_bits() {
    let body = |number: u64| {
        let mut out = written(&sample());
        wire::write_number(5, number, &mut out);
        out
    };
    let source = |number| Envelope::parse(&body(number)).map(|envelope| envelope.source);
    assert_eq!(source(1 << 32), Ok(DekSource::Key));
    assert_eq!(source(u64::MAX), Err(EnvelopeError::SourceType(-1)));
}

proptest! {
    #[test]
    fn what_is_written_parses(
        data in prop::collection::vec(any::<u8>(), 1..300),
        key_id in ".{1,200}",
        dek in prop::collection::vec(any::<u8>(), 1..300),
        pairs in prop::collection::btree_map("[a-z]{1,5}\\.[a-z0-9]{1,5}", prop::collection::vec(any::<u8>(), 0..9), 0..9),
        seed: bool,
    ) {
        let annotations = pairs.iter().map(|(key, value)| (&**key, &**value)).collect();
        let source = if seed { DekSource::Seed } else { DekSource::Key };
        let envelope = Envelope { encrypted_data: &data, key_id: &key_id, encrypted_dek: &dek, annotations, source };
        let body = written(&envelope);
        prop_assert_eq!(Envelope::parse(&body), Ok(envelope));
    }

    #[test]
    fn what_a_seed_seals_opens_under_the_same_etcd_key_only(
        seed in prop::collection::vec(any::<u8>(), 32..100),
        plaintext in prop::collection::vec(any::<u8>(), 0..700),
        info: [u8; 32],
        nonce: [u8; 12],
    ) {
        let mut out = Vec::new();
        Seed::new(&seed).unwrap().seal(DEMO, &plaintext, &info, &nonce, &mut out).unwrap();
        prop_assert_eq!(open_by_seed(&seed, DEMO, &out).unwrap(), plaintext);
        prop_assert_eq!(open_by_seed(&seed, b"elsewhere", &out), Err(Fault::Authentication));
    }

    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Envelope::parse(&body);
    }
}
