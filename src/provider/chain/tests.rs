//! The rule of two levels, by small chains.

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::time::Duration;

use super::super::kms::{Annotations, DekSource};
use super::super::secret::SecretKey;
use super::super::spec::KmsSpec;
use super::super::vectors::{KEY_32, LEGACY_KEY, LEGACY_KEY_AT, LEGACY_SEED, LEGACY_SEED_AT, hex};
use super::*;

const DEMO: &[u8] = b"/registry/secrets/default/demo";

/// Keys by name and a byte that fills the secret.
fn keys(named: &[(&str, u8)]) -> Vec<NamedKey> {
    let named =
        named.iter().map(|&(name, fill)| NamedKey { name: name.into(), secret: SecretKey::new(vec![fill; 32]) });
    named.collect()
}

fn kms(version: KmsVersion, name: &str) -> ProviderSpec {
    let endpoint = "unix:///run/kms.sock".to_string();
    ProviderSpec::Kms(KmsSpec { version, name: name.to_string(), endpoint, timeout: Duration::from_secs(3) })
}

fn chain(specs: &[ProviderSpec]) -> Chain {
    Chain::new(specs).unwrap()
}

fn sealed_by(specs: &[ProviderSpec], plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let fill = |bytes: &mut [u8]| {
        bytes.fill(7);
        Ok(())
    };
    chain(specs).seal(DEMO, plaintext, fill, &mut out).unwrap();
    out
}

/// What opens, as text: plaintext, provider, key, stale; or the error; or `waits`.
fn answer(specs: &[ProviderSpec], stored: &[u8], deks: &DekTable) -> String {
    let mut scratch = Plaintext::new();
    match chain(specs).open(DEMO, stored, deks, &mut scratch) {
        Answer::Opened { plaintext, provider, key, stale } => {
            format!("{} {provider} {key}{}", String::from_utf8_lossy(plaintext), if stale { " stale" } else { "" })
        }
        Answer::Failed(failure) => failure.to_string(),
        Answer::Waits { provider } => format!("waits {provider}"),
    }
}

fn failure_kind(chain: &Chain, stored: &[u8]) -> Option<FailureKind> {
    match chain.open(DEMO, stored, &DekTable::new(), &mut Plaintext::new()) {
        Answer::Failed(failure) => Some(failure.kind()),
        _ => None,
    }
}

#[test]
fn a_chain_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Chain>();
    shared::<DekTable>();
}

#[test]
fn plaintext_does_not_print() {
    let mut scratch = Plaintext::new();
    let answer = Chain::identity().open(DEMO, b"hunter2", &DekTable::new(), &mut scratch);
    assert_eq!(format!("{answer:?}"), "Opened(7 bytes by provider 0, key 0, stale false)");
}

#[test]
fn only_the_first_place_of_both_levels_is_fresh() {
    let (a, b) = (keys(&[("a", 1)]), keys(&[("b", 2)]));
    let by_b = sealed_by(&[ProviderSpec::AesGcm(b.clone())], b"x");
    let none = DekTable::new();
    assert_eq!(answer(&[ProviderSpec::AesGcm(b.clone())], &by_b, &none), "x 0 0");
    let both = [a.clone(), b.clone()].concat();
    assert_eq!(answer(&[ProviderSpec::AesGcm(both)], &by_b, &none), "x 0 1 stale");
    assert_eq!(answer(&[ProviderSpec::AesGcm(a), ProviderSpec::AesGcm(b.clone())], &by_b, &none), "x 1 0 stale");
    assert_eq!(answer(&[ProviderSpec::Identity, ProviderSpec::AesGcm(b)], &by_b, &none), "x 1 0 stale");
}

#[test]
fn plaintext_is_read_at_identitys_place_or_not_at_all() {
    let key = ProviderSpec::Secretbox(keys(&[("a", 1)]));
    let none = DekTable::new();
    for stored in [&b""[..], b"x"] {
        let text = String::from_utf8_lossy(stored).into_owned();
        assert_eq!(answer(&[ProviderSpec::Identity, key.clone()], stored, &none), format!("{text} 0 0"));
        assert_eq!(answer(&[key.clone(), ProviderSpec::Identity], stored, &none), format!("{text} 1 0 stale"));
        assert_eq!(answer(std::slice::from_ref(&key), stored, &none), "no matching prefix found");
        assert_eq!(failure_kind(&chain(std::slice::from_ref(&key)), stored), Some(FailureKind::NoIdentity));
    }
}

#[test]
fn without_a_configuration_sealed_values_are_refused_in_identitys_words() {
    let stored = sealed_by(&[ProviderSpec::AesCbc(keys(&[("a", 1)]))], b"x");
    let mut scratch = Plaintext::new();
    let refused = Chain::identity().open(DEMO, &stored, &DekTable::new(), &mut scratch);
    let Answer::Failed(failure) = refused else { panic!("{refused:?}") };
    assert_eq!(failure.to_string(), "identity transformer tried to read encrypted data");
    assert_eq!(failure.kind(), FailureKind::UnknownKey);
    assert_eq!(answer(&[ProviderSpec::Identity], &stored, &DekTable::new()), "no matching prefix found");
    assert_eq!(failure_kind(&Chain::identity(), b"k8s:enc:foo:v1:x"), Some(FailureKind::Malformed));
}

#[test]
fn a_failure_never_ends_the_search() {
    let stored = sealed_by(&[ProviderSpec::AesGcm(keys(&[("a:b", 3)]))], b"x");
    let none = DekTable::new();
    let specs = [
        ProviderSpec::AesGcm(keys(&[("a", 1), ("a:b", 2), ("c", 1)])),
        ProviderSpec::AesGcm(keys(&[("z", 3)])),
        ProviderSpec::AesGcm(keys(&[("z", 3), ("a:b", 3)])),
    ];
    assert_eq!(answer(&specs, &stored, &none), "x 2 1 stale");
    assert_eq!(
        answer(&specs[..2], &stored, &none),
        "[cipher: message authentication failed, no matching key was found for the provided AES transformer]"
    );
    assert_eq!(failure_kind(&chain(&specs[..2]), &stored), Some(FailureKind::WrongKey));
    assert_eq!(failure_kind(&chain(&specs[1..2]), &stored), Some(FailureKind::UnknownKey));
}

#[test]
fn the_chain_settles_how_far_a_name_goes() {
    let specs = [ProviderSpec::AesGcm(keys(&[("a", 1), ("a:b", 2)])), ProviderSpec::AesCbc(keys(&[("a:b:c", 1)]))];
    let chain = chain(&specs);
    let settled = |stored: &[u8]| {
        let mut scratch = Plaintext::new();
        let answer = chain.open(DEMO, stored, &DekTable::new(), &mut scratch);
        chain.settled_name(stored, &answer).map(str::to_string)
    };
    let opened = sealed_by(&[ProviderSpec::AesGcm(keys(&[("a:b", 2)]))], b"x");
    assert_eq!(settled(&opened).as_deref(), Some("a:b"));
    let by_another_secret = sealed_by(&[ProviderSpec::AesGcm(keys(&[("a:b", 9)]))], b"x");
    assert_eq!(settled(&by_another_secret), None, "a and a:b both fit");
    assert_eq!(settled(b"k8s:enc:aesgcm:v1:a:short").as_deref(), Some("a"));
    assert_eq!(settled(b"k8s:enc:aescbc:v1:a:b:c:short").as_deref(), Some("a:b:c"));
    assert_eq!(settled(b"k8s:enc:aescbc:v1:a:b:short"), None);
    assert_eq!(settled(b"plain"), None);
}

#[test]
fn labels_name_provider_and_key() {
    let v1 = kms(KmsVersion::V1, "arn:x");
    let specs = [ProviderSpec::AesCbc(keys(&[("a", 1), ("b", 2)])), ProviderSpec::Identity, v1];
    let chain = chain(&specs);
    assert_eq!(chain.writer().to_string(), "aescbc/a");
    let shown = |provider, key| chain.label(provider, key).map(|label| label.to_string());
    assert_eq!(shown(0, 1).as_deref(), Some("aescbc/b"));
    assert_eq!(shown(1, 0).as_deref(), Some("identity"));
    assert_eq!(shown(2, 0).as_deref(), Some("kms/arn:x"));
    assert_eq!(chain.label(2, 0).map(|label| label.version), Some("v1"));
    assert_eq!((shown(0, 2), shown(3, 0), shown(2, 1)), (None, None, None));
    assert_eq!(Chain::identity().writer().to_string(), "identity");
    assert!(chain.has_identity());
    assert!(!Chain::new(&specs[..1]).unwrap().has_identity());
}

#[test]
fn what_cannot_read_or_write_is_no_chain() {
    assert_eq!(Chain::new(&[]).err(), Some(KeyError::NoProvider));
    let no_key = Chain::new(&[ProviderSpec::Identity, ProviderSpec::AesGcm(Vec::new())]).err();
    assert_eq!(no_key, Some(KeyError::NoKey { provider: 1, kind: "aesgcm" }));
    let short = NamedKey { name: "short".into(), secret: SecretKey::new(vec![1; 16]) };
    assert!(Chain::new(&[ProviderSpec::AesCbc(vec![short.clone()])]).is_ok());
    let error = Chain::new(&[ProviderSpec::Secretbox([keys(&[("a", 1)]), vec![short]].concat())]).err().unwrap();
    assert_eq!(error.to_string(), "key \"short\" of provider 0 (secretbox) has 16 bytes");
}

#[test]
fn a_kms_value_waits_for_its_dek_whatever_stands_behind() {
    let mut body = Vec::new();
    v1::Envelope { encrypted_dek: b"wrapped", inner: b"0123456789abcdef" }.write(&mut body).unwrap();
    let stored = [b"k8s:enc:kms:v1:a:", &body[..]].concat();
    let specs = [ProviderSpec::Identity, kms(KmsVersion::V1, "a"), kms(KmsVersion::V1, "a")];
    assert_eq!(answer(&specs, &stored, &DekTable::new()), "waits 1");
    assert_eq!(answer(&[kms(KmsVersion::V2, "a")], &stored, &DekTable::new()), "no matching prefix found");
    let malformed = b"k8s:enc:kms:v1:a:\0\x20cut";
    let why = "invalid data encountered by envelope transformer: failed to read uint16 length prefixed data";
    assert_eq!(answer(&specs, malformed, &DekTable::new()), why);
    assert_eq!(failure_kind(&chain(&specs), malformed), Some(FailureKind::Malformed));
}

/// What becomes of a value that Kubernetes 1.27 or 1.28 wrote, whose plugin wraps by base64: digest and staleness.
fn legacy(state: Option<PluginState>, stored: &str, at: &[u8]) -> Result<(String, bool), String> {
    use base64::Engine;
    let (stored, chain, mut table) = (hex(stored), chain(&[kms(KmsVersion::V2, "kms-provider")]), DekTable::new());
    let request = chain.dek_requests(&stored).next().unwrap().to_owned();
    let dek = base64::engine::general_purpose::STANDARD.decode(&request.encrypted_dek).unwrap();
    table.insert(request, Ok(SecretKey::new(dek)));
    state.into_iter().for_each(|state| table.set_state("kms-provider", state));
    match chain.open(at, &stored, &table, &mut Plaintext::new()) {
        Answer::Opened { plaintext, stale, .. } => {
            Ok((Sha256::digest(plaintext).iter().map(|byte| format!("{byte:02x}")).collect(), stale))
        }
        Answer::Failed(failure) => Err(failure.to_string()),
        Answer::Waits { provider } => Err(format!("waits {provider}")),
    }
}

#[test]
fn values_that_upstream_releases_wrote_open_and_are_stale_by_key_id_and_source() {
    let of_key = "15a8eb00c3b297165ca4dbc5a69d4544a6b2578c6f991542be99ded3ea25ecae";
    let of_seed = "149b0a839beaf2dc3e0be77f8307ae2f4a5da7970c2795a905374a4d0744841a";
    let cases =
        [(LEGACY_KEY, LEGACY_KEY_AT, of_key, DekSource::Key), (LEGACY_SEED, LEGACY_SEED_AT, of_seed, DekSource::Seed)];
    for (stored, at, digest, own) in cases {
        for (key_id, source) in [("1", DekSource::Key), ("1", DekSource::Seed), ("2", DekSource::Key)] {
            let opened = legacy(Some(PluginState::Ready { key_id: key_id.into(), source }), stored, at);
            assert_eq!(opened, Ok((digest.to_string(), key_id != "1" || source != own)), "{key_id} {source:?}");
        }
        assert_eq!(legacy(Some(PluginState::Failed), stored, at), Err("got unexpected nil transformer".to_string()));
        assert_eq!(legacy(None, stored, at), Err("waits 0".to_string()), "the plugin's state is missing");
    }
}

#[test]
fn annotations_are_part_of_a_request_in_any_order() {
    let written = |pairs: &[(&'static str, &'static [u8])]| {
        let mut stored = b"k8s:enc:kms:v2:c:".to_vec();
        for &pair in pairs {
            // The fields of a message may stand in any order, and parts of it one after another.
            let (annotations, source) = (Annotations::from_iter([pair]), DekSource::Seed);
            let envelope = v2::Envelope { encrypted_data: b"x", key_id: "1", encrypted_dek: b"w", annotations, source };
            envelope.write(&mut stored);
        }
        stored
    };
    let (one, other) = (written(&[("a.b", b"1"), ("c.d", b"2")]), written(&[("c.d", b"2"), ("a.b", b"1")]));
    assert_ne!(one, other);
    let chain = chain(&[kms(KmsVersion::V2, "c")]);
    assert_eq!(chain.dek_requests(&one).next(), chain.dek_requests(&other).next());
    assert!(chain.dek_requests(&one).next().is_some());
}

#[test]
fn sealing_writes_the_first_provider_and_its_first_key() {
    let first = keys(&[("key1", 0)]);
    let zero = NamedKey { secret: SecretKey::new(KEY_32.to_vec()), ..first[0].clone() };
    let specs = [ProviderSpec::AesCbc(vec![zero]), ProviderSpec::Identity];
    let mut out = Vec::new();
    let fill = |bytes: &mut [u8]| {
        bytes.iter_mut().zip(0x10..).for_each(|(byte, value)| *byte = value);
        Ok(())
    };
    chain(&specs).seal(DEMO, b"hello etcd", fill, &mut out).unwrap();
    let expected = "6b38733a656e633a6165736362633a76313a6b6579313a101112131415161718191a1b1c1d1e1fc60dd24bfd5a1b371590590d7d692f8e";
    assert_eq!(out, hex(expected));
}

#[test]
fn the_length_of_what_is_sealed_is_known_beforehand() {
    let providers = [ProviderSpec::AesCbc, ProviderSpec::AesGcm, ProviderSpec::Secretbox];
    let sealing = providers.map(|provider| [provider(keys(&[("a:long:name", 1)]))]);
    for specs in sealing.iter().map(|specs| &specs[..]).chain([&[ProviderSpec::Identity][..]]) {
        for bytes in 0..70 {
            let plaintext = vec![b'x'; bytes];
            assert_eq!(chain(specs).sealed_bytes(bytes), Some(sealed_by(specs, &plaintext).len()), "{bytes}");
        }
    }
    assert_eq!(chain(&[kms(KmsVersion::V2, "c")]).sealed_bytes(5), None);
}

#[test]
fn nothing_is_sealed_without_randomness_or_without_a_plugin() {
    let dry = |_: &mut [u8]| Err(io::Error::other("dry"));
    let mut out = Vec::new();
    let refused = chain(&[ProviderSpec::AesGcm(keys(&[("a", 1)]))]).seal(DEMO, b"x", dry, &mut out);
    assert!(matches!(refused, Err(SealError::Randomness(_))));
    let refused = chain(&[kms(KmsVersion::V2, "c")]).seal(DEMO, b"x", |_| Ok(()), &mut out);
    assert!(matches!(refused, Err(SealError::Kms(name)) if name == "c"));
    assert!(out.is_empty());
}

fn any_keys() -> impl Strategy<Value = Vec<NamedKey>> {
    let named = ("(a|a:b|a:b:c|key1|key10|)", 0u8..4);
    let key = named.prop_map(|(name, fill)| NamedKey { name, secret: SecretKey::new(vec![fill; 32]) });
    prop::collection::vec(key, 1..4)
}

fn any_spec() -> impl Strategy<Value = ProviderSpec> {
    prop_oneof![
        Just(ProviderSpec::Identity),
        any_keys().prop_map(ProviderSpec::AesCbc),
        any_keys().prop_map(ProviderSpec::AesGcm),
        any_keys().prop_map(ProviderSpec::Secretbox),
        any_spec_kms(),
    ]
}

fn any_spec_kms() -> impl Strategy<Value = ProviderSpec> {
    ("(a|a:b)", any::<bool>()).prop_map(|(name, v2)| kms(if v2 { KmsVersion::V2 } else { KmsVersion::V1 }, &name))
}

proptest! {
    #[test]
    fn what_a_chain_seals_it_opens_fresh(
        specs in prop::collection::vec(any_spec(), 1..4),
        plaintext in prop::collection::vec(any::<u8>(), 0..100),
        random: [u8; 24],
    ) {
        let chain = chain(&specs);
        let mut stored = Vec::new();
        let fill = |bytes: &mut [u8]| {
            bytes.iter_mut().zip(random).for_each(|(byte, value)| *byte = value);
            Ok(())
        };
        prop_assume!(!matches!(specs[0], ProviderSpec::Kms(_)));
        chain.seal(DEMO, &plaintext, fill, &mut stored).unwrap();
        let mut scratch = Plaintext::new();
        let answer = chain.open(DEMO, &stored, &DekTable::new(), &mut scratch);
        prop_assert_eq!(answer, Answer::Opened { plaintext: &plaintext, provider: 0, key: 0, stale: false });
    }

    #[test]
    fn no_value_panics(
        specs in prop::collection::vec(any_spec(), 1..4),
        kind in prop::sample::select(SealedKind::ALL.to_vec()),
        name in "(a|a:b|key1|):",
        body in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let stored = [kind.prefix(), name.as_bytes(), &body].concat();
        let chain = chain(&specs);
        let mut scratch = Plaintext::new();
        let answer = chain.open(DEMO, &stored, &DekTable::new(), &mut scratch);
        let _ = chain.settled_name(&stored, &answer);
        let requested = chain.dek_requests(&stored).count();
        let waits = matches!(answer, Answer::Waits { .. });
        prop_assert!(requested > 0 || !waits);
    }
}
