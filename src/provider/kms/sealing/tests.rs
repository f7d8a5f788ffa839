//! Known answers, and round trips through the chain that reads.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::super::chain::{Answer, Chain};
use super::super::super::plaintext::Plaintext;
use super::super::super::spec::{KmsSpec, ProviderSpec};
use super::super::super::vectors::{KEY_32, hex};
use super::*;

const DEMO: &[u8] = b"/registry/secrets/default/demo";
const WRAPPED: &[u8] = b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const ALL: [SealForm; 4] = [SealForm::V2Seed, SealForm::V2Keys, SealForm::V1Gcm, SealForm::V1Cbc];

/// Gives these bytes, and then no more.
fn from(bytes: &[u8]) -> impl FnMut(&mut [u8]) -> io::Result<()> + '_ {
    let mut rest = bytes;
    move |out| {
        let given;
        (given, rest) = rest.split_at_checked(out.len()).ok_or_else(|| io::Error::other("no more"))?;
        out.copy_from_slice(given);
        Ok(())
    }
}

/// Counts: no two bytes that follow each other closely are alike.
fn counting() -> impl FnMut(&mut [u8]) -> io::Result<()> {
    let mut next = 0u8;
    move |out| {
        out.fill_with(|| {
            next = next.wrapping_add(1);
            next
        });
        Ok(())
    }
}

/// A provider of a name with DEKs, the first of which are wrapped as given.
fn sealing(form: SealForm, provider: &str, deks: &[u8], wrapped: &[&[u8]]) -> Sealing {
    let annotations = || Annotations::from_iter([("b.c", &b"2"[..]), ("a.b", b"1")]);
    let wrapped = wrapped.iter().map(|dek| Wrapped::new(form, dek, "1", annotations()).unwrap());
    let deks = FreshDeks::generate(deks.len() / DEK_BYTES, from(deks)).unwrap();
    Sealing::new(provider, form, Arc::new(deks), wrapped.collect()).unwrap()
}

/// What an API server that writes the same form makes of a value.
fn read(sealing: &Sealing, aad: &[u8], stored: &[u8]) -> Result<(Vec<u8>, bool), String> {
    let kms = KmsSpec {
        version: sealing.form().version(),
        name: sealing.provider().to_string(),
        endpoint: String::new(),
        timeout: Default::default(),
    };
    let (mut table, mut scratch) = (DekTable::new(), Plaintext::new());
    sealing.remember(&mut table);
    match Chain::new(&[ProviderSpec::Kms(kms)]).unwrap().open(aad, stored, &table, &mut scratch) {
        Answer::Opened { plaintext, stale, .. } => Ok((plaintext.to_vec(), stale)),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn known_answers_come_out_to_the_byte() {
    let seeded = "0a46404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f202122232425262728292a2bd103ee531b23616\
         6639bf12397fc06bc6794e1139a4097755d7c1201311a2c41414543417751464267634943516f4c4441304f4478415245684d554652\
         595847426b61477877644868383d2801";
    let wrapped = "002c41414543417751464267634943516f4c4441304f4478415245684d554652595847426b61477877644868383d";
    let by_gcm = "202122232425262728292a2bba5fca1c03b87f7a7918a7e3a2c6ec8d770482e92421b59e59d0";
    let by_cbc = "101112131415161718191a1b1c1d1e1fc60dd24bfd5a1b371590590d7d692f8e";
    let random: Vec<u8> = (0x40..0x60).chain(0x20..0x2c).collect();
    for (form, random, prefix, body) in [
        (SealForm::V2Seed, &random[..], "k8s:enc:kms:v2:cloud:", hex(seeded)),
        (SealForm::V1Gcm, &random[32..], "k8s:enc:kms:v1:cloud:", hex(&[wrapped, by_gcm].concat())),
        (SealForm::V1Cbc, &hex(&by_cbc[..32]), "k8s:enc:kms:v1:cloud:", hex(&[wrapped, by_cbc].concat())),
    ] {
        let deks = FreshDeks::generate(1, from(&KEY_32)).unwrap();
        let wrapped = Wrapped::new(form, WRAPPED, "1", Annotations::none()).unwrap();
        let sealing = Sealing::new("cloud", form, Arc::new(deks), vec![wrapped]).unwrap();
        let mut out = b"before".to_vec();
        sealing.seal(0, DEMO, b"hello etcd", from(random), &mut out).unwrap();
        assert_eq!(out, [b"before", prefix.as_bytes(), &body].concat(), "{form:?}");
    }
}

#[test]
fn a_plain_dek_stands_in_the_envelope_without_a_type() {
    let sealing = sealing(SealForm::V2Keys, "cloud", &KEY_32, &[WRAPPED]);
    let mut out = Vec::new();
    sealing.seal(0, DEMO, b"hello etcd", from(&[7; 12]), &mut out).unwrap();
    let body = out.strip_prefix(b"k8s:enc:kms:v2:cloud:").unwrap();
    let envelope = v2::Envelope::parse(body).unwrap();
    assert_eq!((envelope.source, envelope.key_id, envelope.encrypted_dek), (DekSource::Key, "1", WRAPPED));
    assert_eq!(envelope.encrypted_data[..12], [7; 12]);
    assert_eq!(envelope.encrypted_data.len(), 12 + 10 + 16);
    assert_eq!(&envelope.annotations[..], [("a.b", &b"1"[..]), ("b.c", b"2")]);
    assert!(!body.windows(2).any(|pair| pair == [0x28, 0]), "0 is not written");
}

#[test]
fn each_value_has_its_own_dek_but_for_a_seed() {
    let deks: Vec<u8> = (0..96).collect();
    for form in ALL {
        let sealing = sealing(form, "cloud", &deks, &[b"one", b"two", b"three"]);
        let (mut random, mut requests) = (counting(), HashSet::new());
        for value in 0..3 {
            let mut out = Vec::new();
            sealing.seal(value, DEMO, b"plain", &mut random, &mut out).unwrap();
            assert_eq!(read(&sealing, DEMO, &out), Ok((b"plain".to_vec(), form == SealForm::V1Cbc)), "{form:?}");
            let kms = KmsSpec {
                version: form.version(),
                name: "cloud".to_string(),
                endpoint: String::new(),
                timeout: Default::default(),
            };
            let chain = Chain::new(&[ProviderSpec::Kms(kms)]).unwrap();
            requests.extend(chain.dek_requests(&out).map(|request| request.to_owned()));
        }
        let deks = form.deks(3) as usize;
        assert_eq!((requests.len(), sealing.deks()), (deks, deks), "{form:?}");
        let answers: HashSet<_> = (0..9).filter_map(|place| sealing.answer(place)).map(|(asked, _)| asked).collect();
        assert!(requests.is_subset(&answers), "{form:?}");
    }
}

#[test]
fn a_value_without_a_dek_or_without_randomness_leaves_nothing_behind() {
    for form in ALL {
        let sealing = sealing(form, "cloud", &KEY_32, &[WRAPPED]);
        let mut out = b"before".to_vec();
        if form != SealForm::V2Seed {
            assert_eq!(sealing.sealed_bytes(1, 5), None);
            let error = sealing.seal(1, DEMO, b"plain", counting(), &mut out).unwrap_err();
            assert_eq!(error.to_string(), "the KMS plugin has wrapped no DEK for value 1");
        }
        let error = sealing.seal(0, DEMO, b"plain", from(&[1; 11]), &mut out).unwrap_err();
        assert_eq!(error.to_string(), "no randomness: no more");
        assert_eq!(out, b"before", "{form:?}");
    }
}

#[test]
fn what_a_plugin_has_made_is_checked_as_upstream_checks_it() {
    let refusal = |form, dek: &[u8], key_id: &str, annotation: &str| {
        Wrapped::new(form, dek, key_id, Annotations::from_iter([(annotation, &b""[..])])).unwrap_err().to_string()
    };
    let long = "k".repeat(1025);
    for form in [SealForm::V2Seed, SealForm::V2Keys] {
        let why = "failed to validate encrypted DEK source: encrypted DEK source is ";
        assert_eq!(refusal(form, b"", "", ""), format!("{why}empty"));
        let told = refusal(form, long.as_bytes(), "", "");
        assert_eq!(told, format!("{why}1025 bytes, which exceeds the max size of 1024"));
        let most = &long.as_bytes()[1..];
        assert_eq!(refusal(form, most, "", ""), "failed to validate key id: keyID is empty");
        let told = refusal(form, most, &long, "");
        assert_eq!(told, "failed to validate key id: keyID is 1025 bytes, which exceeds the max size of 1024");
        let told = refusal(form, most, &long[1..], "");
        assert_eq!(told, "failed to validate annotations: annotations: Required value");
    }
    for form in [SealForm::V1Gcm, SealForm::V1Cbc] {
        assert!(refusal(form, b"", "", "").ends_with("encrypted DEK source is empty"));
        let told = refusal(form, &[1; 65536], "", "");
        assert_eq!(told, "encrypted DEK is 65536 bytes, which exceeds the max size of 65535");
        assert!(Wrapped::new(form, &[1; 65535], "", Annotations::none()).is_ok());
    }
}

#[test]
fn nothing_is_sealed_without_a_wrapped_dek() {
    for form in ALL {
        let deks = FreshDeks::generate(1, counting()).unwrap();
        assert_eq!(Sealing::new("cloud", form, Arc::new(deks), Vec::new()).unwrap_err(), EnvelopeError::NoDek);
    }
}

#[test]
fn no_key_prints() {
    let sealing = sealing(SealForm::V1Gcm, "cloud", &KEY_32, &[WRAPPED]);
    assert_eq!(format!("{sealing:?}"), "Sealing(V1Gcm by \"cloud\", 1 DEKs)");
}

proptest! {
    #[test]
    fn what_is_sealed_is_read_and_fresh_and_bound_to_its_key(
        form in prop::sample::select(&ALL[..]),
        provider in "[a-z:/.]{1,40}",
        dek: [u8; 32],
        wrapped in prop::collection::vec(any::<u8>(), 1..300),
        random: [u8; 44],
        plaintext in prop::collection::vec(any::<u8>(), 0..20_000),
    ) {
        let sealing = sealing(form, &provider, &dek, &[&wrapped]);
        let mut out = Vec::new();
        sealing.seal(0, DEMO, &plaintext, from(&random), &mut out).unwrap();
        let stale = form == SealForm::V1Cbc;
        prop_assert_eq!(read(&sealing, DEMO, &out), Ok((plaintext.clone(), stale)));
        if !stale {
            prop_assert!(read(&sealing, b"/registry/secrets/default/other", &out).is_err());
        }
prop_assert_eq!(sealing.sealed_bytes(0, plaintext.len()), Some(out.len()));
    }
}
