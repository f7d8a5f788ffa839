//! Values sealed with DEKs that a plugin behind a real socket has wrapped; and every way in which it can fail to.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::slice;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use atrest::plugin::{AskOptions, MintError, Minted, Order, Plugins, plan_minting};
use atrest::provider::chain::{Answer, Chain};
use atrest::provider::kms::{DekTable, FreshDeks, OwnedDekRequest, PluginState, SealForm, Sealing, Wrapped, v1, v2};
use atrest::provider::plaintext::Plaintext;
use atrest::provider::prefix::{self, Form};
use atrest::provider::spec::{KmsSpec, KmsVersion, ProviderSpec};
use prost::Message;
use tempfile::TempDir;

use super::program::testdata;
use super::stand_in::{self, Call, Opened, Plugin, Reply, V2Request, babble, honest, status, wrapped};
use super::walk;

/// Long enough for an honest plugin on a busy machine.
const PATIENT: Duration = Duration::from_secs(30);

/// Short, for plugins that let it pass.
const SHORT: Duration = Duration::from_millis(300);

const FORMS: [(SealForm, &str); 5] = [
    (SealForm::V2Seed, "v2"),
    (SealForm::V2Seed, "v2alpha1"),
    (SealForm::V2Keys, "v2"),
    (SealForm::V1Gcm, "v1beta1"),
    (SealForm::V1Cbc, "v1beta1"),
];

const KEY: &[u8] = b"/registry/secrets/default/demo";

fn spec(form: SealForm, endpoint: &str, timeout: Duration) -> KmsSpec {
    KmsSpec { version: form.version(), name: "cloud".to_string(), endpoint: endpoint.to_string(), timeout }
}

/// Bytes that never repeat within a test.
fn random() -> impl FnMut(&mut [u8]) -> io::Result<()> {
    let mut next = 0u64;
    move |out| {
        for chunk in out.chunks_mut(8) {
            next += 1;
            chunk.copy_from_slice(&next.to_be_bytes()[8 - chunk.len()..]);
        }
        Ok(())
    }
}

fn mint(
    form: SealForm,
    values: u64,
    endpoint: &str,
    timeout: Duration,
    options: &AskOptions<'_>,
) -> Result<Minted, MintError> {
    let plugins = Plugins::greet(&[spec(form, endpoint, timeout)], &HashMap::new()).unwrap();
    plugins.mint(Order { provider: "cloud", form, values }, options, random())
}

/// Why a plugin's answers are of no use; and how often it was asked to wrap.
fn refusal(
    form: SealForm,
    values: u64,
    timeout: Duration,
    behaviour: impl Fn(Call) -> Reply + Send + Sync + 'static,
) -> (String, u64) {
    let plugin = Plugin::start(behaviour);
    let begun = Instant::now();
    let told = mint(form, values, plugin.endpoint(), timeout, &AskOptions::default()).unwrap_err().to_string();
    assert!(begun.elapsed() < PATIENT, "{:?}", begun.elapsed());
    (told, plugin.calls("Encrypt"))
}

fn package(form: SealForm) -> &'static str {
    if form.version() == KmsVersion::V1 { "v1beta1" } else { "v2" }
}

/// A plugin that answers `Encrypt` with this, and everything else truly.
fn answering(form: SealForm, answer: stand_in::Wrapped) -> impl Fn(Call) -> Reply + Send + Sync + 'static {
    move |call| match &*call.method {
        "Encrypt" => Reply::message(&answer),
        _ => honest(package(form), "1")(call),
    }
}

#[test]
fn what_is_sealed_opens_through_the_plugin_that_has_wrapped_the_deks() {
    for (form, package) in FORMS {
        let plugin = Plugin::start(honest(package, "7"));
        let kms = spec(form, plugin.endpoint(), PATIENT);
        let plugins = Plugins::greet(slice::from_ref(&kms), &HashMap::new()).unwrap();
        let order = Order { provider: "cloud", form, values: 20 };
        let heard = Mutex::new(Vec::new());
        let progress = |done| heard.lock().unwrap().push(done);
        let minted = plugins.mint(order, &AskOptions { progress: &progress, ..AskOptions::default() }, random());
        let Minted { sealing, calls, .. } = minted.unwrap();
        let deks = form.deks(20);
        assert_eq!((calls, plan_minting([order], slice::from_ref(&kms)).calls), (deks + 1, deks + 1), "{package}");
        assert_eq!((plugin.calls("Encrypt"), plugin.calls("Decrypt")), (deks, 1), "{package}");
        assert_eq!(*heard.lock().unwrap(), (1..=deks).collect::<Vec<u64>>());

        let chain = Chain::new(&[ProviderSpec::Kms(kms)]).unwrap();
        let mut values = Vec::new();
        for value in 0..20 {
            let mut stored = Vec::new();
            let plaintext = format!("value {value}");
            sealing.seal(value, KEY, plaintext.as_bytes(), random(), &mut stored).unwrap();
            values.push((plaintext, stored));
        }
        let requests: BTreeSet<OwnedDekRequest> = values
            .iter()
            .flat_map(|(_, stored)| chain.dek_requests(stored))
            .map(|request| request.to_owned())
            .collect();
        assert_eq!(requests.len() as u64, deks);
        let (mut asked, _) = plugins.ask(requests.into_iter().collect(), &AskOptions::default());
        if form == SealForm::V2Keys {
            // The API servers that this form is for write it, too.
            let PluginState::Ready { key_id, .. } = asked.state("cloud").unwrap().clone() else { panic!() };
            asked.set_state("cloud", PluginState::Ready { key_id, source: form.source() });
        }
        let mut remembered = DekTable::new();
        sealing.remember(&mut remembered);
        assert_eq!((remembered.len(), remembered.state("cloud")), (asked.len(), asked.state("cloud")));
        for table in [&asked, &remembered] {
            for (plaintext, stored) in &values {
                let mut scratch = Plaintext::new();
                match chain.open(KEY, stored, table, &mut scratch) {
                    Answer::Opened { plaintext: opened, stale, .. } => {
                        assert_eq!((opened, stale), (plaintext.as_bytes(), form == SealForm::V1Cbc));
                    }
                    other => panic!("{form:?}: {other:?}"),
                }
            }
        }
    }
}

/// A value of the store `testdata/kms`, sealed again with the DEK and the random bytes that upstream's code sealed it with.
fn sealed_again(name: &str, form: SealForm, key: &[u8], stored: &[u8]) -> Option<Vec<u8>> {
    let kms = KmsSpec { name: name.to_string(), ..spec(form, "", PATIENT) };
    let chain = Chain::new(&[ProviderSpec::Kms(kms)]).unwrap();
    let (mut table, mut scratch) = (DekTable::new(), Plaintext::new());
    let request = chain.dek_requests(stored).next()?.to_owned();
    let dek = ["1", "2"].into_iter().find_map(|key_id| stand_in::unwrap(key_id, &request.encrypted_dek))?;
    let annotations = request.annotations.iter().map(|(key, value)| (&**key, &**value)).collect();
    let wrapped = Wrapped::new(form, &request.encrypted_dek, &request.key_id, annotations).unwrap();
    let mut give_dek = |bytes: &mut [u8]| {
        bytes.copy_from_slice(&dek);
        Ok(())
    };
    let deks = FreshDeks::generate(1, &mut give_dek).unwrap();
    let sealing = Sealing::new(name, form, deks.into(), vec![wrapped]).unwrap();
    sealing.remember(&mut table);
    let Answer::Opened { plaintext, .. } = chain.open(key, stored, &table, &mut scratch) else { return None };

    let Form::Sealed(sealed) = prefix::form(stored) else { return None };
    let body = sealed.body_under(name.as_bytes())?;
    let mut random = match form.version() {
        KmsVersion::V1 => v1::Envelope::parse(body).unwrap().inner,
        KmsVersion::V2 => v2::Envelope::parse(body).unwrap().encrypted_data,
    };
    let fill = |out: &mut [u8]| {
        let (given, rest) = random.split_at(out.len());
        (random, _) = (rest, out.copy_from_slice(given));
        Ok(())
    };
    let mut out = Vec::new();
    sealing.seal(0, key, plaintext, fill, &mut out).unwrap();
    Some(out)
}

#[test]
fn values_that_upstream_sealed_come_out_alike_from_the_same_deks_and_random_bytes() {
    let mut alike: HashMap<SealForm, u64> = HashMap::new();
    let mut of_kms = 0;
    for record in walk::records(&testdata("kms/snapshot.db")) {
        if !record.value.starts_with(b"k8s:enc:kms:") {
            continue;
        }
        of_kms += 1;
        for (name, form) in [
            ("cloud-kms", SealForm::V2Seed),
            ("cloud-kms", SealForm::V2Keys),
            ("ack-kms", SealForm::V1Gcm),
            ("ack-kms", SealForm::V1Cbc),
        ] {
            if sealed_again(name, form, &record.key, &record.value).as_ref() == Some(&record.value) {
                *alike.entry(form).or_default() += 1;
            }
        }
    }
    assert_eq!((alike.len(), alike.values().sum::<u64>()), (4, of_kms), "{alike:?}");
}

#[test]
fn a_million_values_under_a_seed_take_two_calls() {
    let plugin = Plugin::start(honest("v2", "1"));
    let minted = mint(SealForm::V2Seed, 1_000_000, plugin.endpoint(), PATIENT, &AskOptions::default()).unwrap();
    assert_eq!((minted.calls, minted.sealing.deks(), minted.sealing.key_id()), (2, 1, "1"));
    let mut stored = Vec::new();
    minted.sealing.seal(999_999, KEY, b"plain", random(), &mut stored).unwrap();
    assert!(stored.starts_with(b"k8s:enc:kms:v2:cloud:"));
}

#[test]
fn as_many_calls_are_in_flight_as_allowed_and_no_more() {
    for concurrency in [1, 3, 8] {
        let plugin = Plugin::slow(Duration::from_millis(20), honest("v1beta1", "1"));
        let options = AskOptions { concurrency, ..AskOptions::default() };
        mint(SealForm::V1Gcm, 40, plugin.endpoint(), PATIENT, &options).unwrap();
        assert_eq!(plugin.most_in_flight(), concurrency as u64);
    }
}

#[test]
fn no_call_is_made_where_the_limit_does_not_reach() {
    let plugin = Plugin::start(honest("v1beta1", "1"));
    let limited = |max_calls| {
        let options = AskOptions { max_calls: Some(max_calls), ..AskOptions::default() };
        mint(SealForm::V1Gcm, 10, plugin.endpoint(), PATIENT, &options)
    };
    assert_eq!(limited(10).unwrap_err().to_string(), "11 calls are needed, and 10 are allowed");
    assert_eq!((plugin.calls("Encrypt"), plugin.calls("Decrypt")), (0, 0));
    assert_eq!(limited(11).unwrap().calls, 11);
}

#[test]
fn calls_are_repeated_while_a_plugin_is_unavailable_and_count_against_the_limit() {
    let shaky = || {
        Plugin::start(|call| match &*call.method {
            "Encrypt" if call.number < 2 => Reply::Status(14, "not%20now"),
            _ => honest("v1beta1", "1")(call),
        })
    };
    let options = |max_calls| AskOptions { max_calls: Some(max_calls), concurrency: 1, ..AskOptions::default() };
    let minted = mint(SealForm::V1Gcm, 3, shaky().endpoint(), PATIENT, &options(6)).unwrap();
    assert_eq!(minted.calls, 6);
    for (limit, wrapped) in [(4, 2), (5, 3)] {
        let told = mint(SealForm::V1Gcm, 3, shaky().endpoint(), PATIENT, &options(limit)).unwrap_err().to_string();
        assert_eq!(told, format!("the limit on calls was reached with {wrapped} of 3 data keys wrapped"));
    }
}

#[test]
fn the_first_refusal_ends_it() {
    for (form, introduced) in [(SealForm::V1Gcm, ""), (SealForm::V2Keys, "failed to encrypt DEK, error: ")] {
        let plugin = Plugin::start(move |call| match &*call.method {
            "Encrypt" if call.number >= 5 => Reply::Status(7, "no%20more"),
            _ => honest(package(form), "1")(call),
        });
        let options = AskOptions { concurrency: 2, ..AskOptions::default() };
        let told = mint(form, 1000, plugin.endpoint(), PATIENT, &options).unwrap_err().to_string();
        let words = format!("{introduced}rpc error: code = PermissionDenied desc = no more (");
        assert!(told.starts_with(&words) && told.ends_with(" of 1000 data keys wrapped)"), "{told}");
        assert!(plugin.calls("Encrypt") < 10, "{}", plugin.calls("Encrypt"));
    }
}

#[test]
fn a_plugin_that_hangs_or_dies_or_never_was_costs_a_few_timeouts() {
    let late = "rpc error: code = DeadlineExceeded desc = ";
    for form in [SealForm::V1Gcm, SealForm::V2Keys, SealForm::V2Seed] {
        let (told, calls) = refusal(form, 1000, SHORT, move |call| match &*call.method {
            "Encrypt" => Reply::Never,
            _ => honest(package(form), "1")(call),
        });
        assert!(told.contains(late) && calls < 100, "{calls} {told}");
        let (told, _) = refusal(form, 1000, SHORT, move |call| match &*call.method {
            "Encrypt" if call.number >= form.deks(10) - 1 => Reply::Death,
            _ => honest(package(form), "1")(call),
        });
        assert!(told.contains(late) || told.contains("code = Unavailable"), "{told}");

        let home = TempDir::new().unwrap();
        let path = home.path().join("kms.sock").to_str().unwrap().to_string();
        let endpoint = format!("unix://{path}");
        let told = mint(form, 10, &endpoint, SHORT, &AskOptions::default()).unwrap_err().to_string();
        assert!(told.contains("connect: no such file or directory"), "{told}");
        babble(&path, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let told = mint(form, 10, &endpoint, SHORT, &AskOptions::default()).unwrap_err().to_string();
        assert!(told.contains(late), "{told}");
    }
}

#[test]
fn an_answer_that_upstream_does_not_take_is_refused_in_its_words() {
    let good = |dek: &[u8]| wrapped("1", dek);
    let annotated = |key: &str, bytes: usize| stand_in::Wrapped {
        annotations: [(key.to_string(), vec![1; bytes])].into(),
        ..good(b"dek")
    };
    let cases = [
        (stand_in::Wrapped { key_id: String::new(), ..good(b"dek") }, "failed to validate key id: keyID is empty"),
        (
            stand_in::Wrapped { key_id: "k".repeat(1025), ..good(b"dek") },
            "failed to validate key id: keyID is 1025 bytes, which exceeds the max size of 1024",
        ),
        (
            stand_in::Wrapped { ciphertext: Vec::new(), ..good(b"dek") },
            "failed to validate encrypted DEK source: encrypted DEK source is empty",
        ),
        (
            stand_in::Wrapped { ciphertext: vec![1; 1025], ..good(b"dek") },
            "failed to validate encrypted DEK source: encrypted DEK source is 1025 bytes, which exceeds the max size of 1024",
        ),
        (
            annotated("one", 1),
            "failed to validate annotations: annotations: Invalid value: \"one\": should be a domain with at least two \
             segments separated by dots",
        ),
        (
            annotated("a.b", 32766),
            "failed to validate annotations: total size of annotations is 32769, which exceeds the max size of 32768",
        ),
    ];
    for (answer, words) in cases {
        for form in [SealForm::V2Seed, SealForm::V2Keys] {
            let (told, _) = refusal(form, 1, PATIENT, answering(form, answer.clone()));
            assert_eq!(told, format!("{words} (0 of 1 data keys wrapped)"));
        }
    }
    for (bytes, words) in [
        (0, "failed to validate encrypted DEK source: encrypted DEK source is empty"),
        (65536, "encrypted DEK is 65536 bytes, which exceeds the max size of 65535"),
    ] {
        let answer = stand_in::Wrapped { ciphertext: vec![1; bytes], ..stand_in::Wrapped::default() };
        let (told, _) = refusal(SealForm::V1Gcm, 1, PATIENT, answering(SealForm::V1Gcm, answer));
        assert_eq!(told, format!("{words} (0 of 1 data keys wrapped)"));
    }
}

#[test]
fn garbage_for_an_answer_is_an_error_of_the_protocol() {
    let ok = || vec![("grpc-status", "0")];
    for form in [SealForm::V2Seed, SealForm::V1Gcm] {
        for (body, words) in [
            (stand_in::framed(b"\xff\xff\xff"), "code = Internal"),
            (vec![0xff; 64], "code = Internal"),
            (vec![0, 0xff, 0xff, 0xff, 0xff], "code = OutOfRange"),
            (Vec::new(), "code = Internal"),
        ] {
            let (told, calls) = refusal(form, 1, PATIENT, move |call| match &*call.method {
                "Encrypt" => Reply::Raw(body.clone(), ok()),
                _ => honest(package(form), "1")(call),
            });
            assert!(told.contains(words) && calls == 1, "{calls} {told}");
        }
    }
}

#[test]
fn a_key_that_status_and_encrypt_disagree_on_is_refused() {
    for form in [SealForm::V2Seed, SealForm::V2Keys] {
        let (told, calls) = refusal(form, 1, PATIENT, |call| match &*call.method {
            "Status" => Reply::message(&status("v2", "ok", "1")),
            _ => honest("v2", "2")(call),
        });
        assert_eq!((&*told, calls), (r#"the plugin says that its key is "1", and wraps with "2""#, 1));
    }
}

#[test]
fn a_key_that_changes_before_the_first_value_is_sealed_is_taken_and_one_that_never_stays_is_not() {
    let plugin = Plugin::start(|call| match &*call.method {
        "Status" if call.number == 0 => Reply::message(&status("v2", "ok", "1")),
        _ => honest("v2", "2")(call),
    });
    let minted = mint(SealForm::V2Keys, 5, plugin.endpoint(), PATIENT, &AskOptions::default()).unwrap();
    assert_eq!((minted.sealing.key_id(), minted.sealing.deks()), ("2", 5));

    // Half-way, too: what was wrapped under the old key is not used.
    let plugin = Plugin::start(|call| match (&*call.method, call.number) {
        ("Status", 0) => honest("v2", "1")(call),
        ("Encrypt", 0..3) => honest("v2", "1")(call),
        _ => honest("v2", "2")(call),
    });
    let minted = mint(SealForm::V2Keys, 5, plugin.endpoint(), PATIENT, &AskOptions::default()).unwrap();
    assert_eq!((minted.sealing.key_id(), minted.sealing.deks()), ("2", 5));
    assert!((0..5).all(|place| minted.sealing.answer(place).unwrap().0.key_id == "2"));

    let (told, calls) = refusal(SealForm::V2Seed, 1, PATIENT, |call| {
        let key_id: &'static str = ["0", "1", "2", "3", "4", "5"][call.number as usize % 6];
        match &*call.method {
            "Status" => Reply::message(&status("v2", "ok", key_id)),
            _ => {
                let request = V2Request::decode(&*call.message).unwrap();
                let next = ["1", "2", "3", "4", "5", "6"][call.number as usize % 6];
                Reply::message(&wrapped(next, &request.ciphertext))
            }
        }
    });
    assert!(told.starts_with("the plugin changes its key all the time"), "{told}");
    assert_eq!(calls, 2);
}

#[test]
fn a_plugin_that_does_not_give_back_what_it_has_wrapped_is_refused() {
    for form in [SealForm::V2Seed, SealForm::V2Keys, SealForm::V1Gcm] {
        let (told, _) = refusal(form, 3, PATIENT, move |call| match &*call.method {
            "Decrypt" => Reply::message(&Opened { plaintext: vec![1; 32] }),
            _ => honest(package(form), "1")(call),
        });
        assert_eq!(told, "the plugin does not give back what it has wrapped: other 32 bytes came back");
        let (told, _) = refusal(form, 3, PATIENT, move |call| match &*call.method {
            "Decrypt" => Reply::Status(5, "no%20such%20key"),
            _ => honest(package(form), "1")(call),
        });
        let words = "rpc error: code = NotFound desc = no such key";
        assert_eq!(told, format!("the plugin does not give back what it has wrapped: {words}"));
    }
}

#[test]
fn a_plugin_that_is_not_well_or_not_there_wraps_nothing() {
    let (told, calls) = refusal(SealForm::V2Seed, 1, PATIENT, |call| match &*call.method {
        "Status" => Reply::message(&status("v2", "sick", "1")),
        _ => honest("v2", "1")(call),
    });
    let words = "kmsv2 Provider cloud is not healthy, error: got unexpected healthz status: sick";
    assert_eq!((&*told, calls), (words, 0));

    let plugin = Plugin::start(honest("v2", "1"));
    let specs = [spec(SealForm::V2Seed, plugin.endpoint(), PATIENT)];
    let plugins = Plugins::greet(&specs, &HashMap::new()).unwrap();
    let told = |provider, form, values| {
        let order = Order { provider, form, values };
        plugins.mint(order, &AskOptions::default(), random()).unwrap_err().to_string()
    };
    assert_eq!(told("other", SealForm::V2Seed, 1), r#"the configuration has no KMS v2 provider named "other""#);
    assert_eq!(told("cloud", SealForm::V1Gcm, 1), r#"the configuration has no KMS v1 provider named "cloud""#);
    assert_eq!(told("cloud", SealForm::V2Keys, 0), "there is no value to seal");
    let dry =
        plugins.mint(Order { provider: "cloud", form: SealForm::V2Seed, values: 1 }, &AskOptions::default(), |_| {
            Err(io::Error::other("dry"))
        });
    assert_eq!(dry.unwrap_err().to_string(), "no data keys could be made: dry");
    assert_eq!(plugin.calls("Encrypt"), 0);
}

#[test]
fn neither_the_deks_nor_what_is_sent_of_them_prints() {
    let plugin = Plugin::start(honest("v2", "1"));
    let minted = mint(SealForm::V2Keys, 2, plugin.endpoint(), PATIENT, &AskOptions::default()).unwrap();
    let told = format!("{minted:?}");
    assert!(told.starts_with("Minted { sealing: Sealing(V2Keys by \"cloud\", 2 DEKs), calls: 3, "), "{told}");
}
