//! KMS plugins behind real sockets: honest ones, and every way in which one can fail.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use atrest::config;
use atrest::plugin::{AskOptions, Asked, AskedProvider, Plugins, Unwell};
use atrest::provider::chain::{Answer, Chain};
use atrest::provider::kms::{DekSource, DekTable, OwnedDekRequest, PluginState};
use atrest::provider::plaintext::Plaintext;
use atrest::provider::spec::{KmsSpec, KmsVersion, ProviderSpec};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::stand_in::{Opened, Plugin, Reply, V2Request, babble, framed, honest, seal, status};

/// Long enough for an honest plugin on a busy machine.
const PATIENT: Duration = Duration::from_secs(30);

/// Short, for plugins that let it pass.
const SHORT: Duration = Duration::from_millis(300);

fn spec(version: KmsVersion, endpoint: &str, timeout: Duration) -> KmsSpec {
    KmsSpec { version, name: "cloud".to_string(), endpoint: endpoint.to_string(), timeout }
}

/// A request for the `number`th of so many DEKs, all of them wrapped under key 1.
fn request(version: KmsVersion, number: u32) -> OwnedDekRequest {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_be_bytes());
    let encrypted_dek = seal("1", nonce, &Sha256::digest(nonce));
    let (key_id, annotations) = match version {
        KmsVersion::V1 => (String::new(), Vec::new()),
        KmsVersion::V2 => ("1".to_string(), vec![("version.oracle.example".to_string(), b"1".to_vec())]),
    };
    OwnedDekRequest {
        provider: "cloud".to_string(),
        version,
        source: DekSource::Key,
        encrypted_dek,
        key_id,
        annotations,
    }
}

fn requests(version: KmsVersion, count: u32) -> Vec<OwnedDekRequest> {
    (0..count).map(|number| request(version, number)).collect()
}

fn greet(specs: &[KmsSpec]) -> Plugins {
    Plugins::greet(specs, &HashMap::new()).unwrap()
}

/// Asks the one plugin and tells what became of it.
fn ask(spec: KmsSpec, requests: Vec<OwnedDekRequest>, options: &AskOptions<'_>) -> (DekTable, Asked, AskedProvider) {
    let (table, asked) = greet(&[spec]).ask(requests, options);
    let row = asked.providers.first().unwrap().clone();
    assert_eq!(asked.calls, row.calls);
    (table, asked, row)
}

/// What a v1 value in the table turns out to be: opened, or kube-apiserver's error.
fn v1_outcome(table: &DekTable, request: &OwnedDekRequest) -> String {
    let stored = [
        b"k8s:enc:kms:v1:cloud:",
        &u16::try_from(request.encrypted_dek.len()).unwrap().to_be_bytes()[..],
        &request.encrypted_dek,
        &[0; 32],
    ]
    .concat();
    let chain = Chain::new(&[ProviderSpec::Kms(spec(KmsVersion::V1, "", SHORT))]).unwrap();
    match chain.open(b"/registry/secrets/a/b", &stored, table, &mut Plaintext::new()) {
        Answer::Opened { .. } => "opened".to_string(),
        Answer::Failed(failure) => failure.to_string(),
        Answer::Waits { .. } => "waits".to_string(),
    }
}

#[test]
fn values_of_real_api_servers_open_through_plugins_as_upstream_opened_them() {
    let v1 = Plugin::start(honest("v1beta1", "1"));
    let v2 = Plugin::start_abstract(honest("v2", "2"));
    let (mut cases, mut opened) = (0, 0);
    for line in include_str!("../../testdata/dispatch/kms.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let file = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": case["providers"]}],
        });
        let specs = config::load(file.to_string().as_bytes()).unwrap().entries.remove(0).providers;
        let kms: Vec<KmsSpec> = specs
            .iter()
            .filter_map(|spec| match spec {
                ProviderSpec::Kms(kms) => Some(KmsSpec { timeout: PATIENT, ..kms.clone() }),
                _ => None,
            })
            .collect();
        let elsewhere = |spec: &KmsSpec| {
            let plugin = if spec.version == KmsVersion::V1 { &v1 } else { &v2 };
            (spec.name.clone(), plugin.endpoint().to_string())
        };
        let plugins = Plugins::greet(&kms, &kms.iter().map(elsewhere).collect()).unwrap();

        let (chain, stored) = (Chain::new(&specs).unwrap(), STANDARD.decode(case["stored"].as_str().unwrap()).unwrap());
        let requests: Vec<OwnedDekRequest> = chain.dek_requests(&stored).map(|request| request.to_owned()).collect();
        let (table, _) = plugins.ask(requests, &AskOptions::default());
        let mut scratch = Plaintext::new();
        let key = case["key"].as_str().unwrap();
        match chain.open(key.as_bytes(), &stored, &table, &mut scratch) {
            Answer::Opened { plaintext, stale, .. } => {
                let digest: String = Sha256::digest(plaintext).iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(
                    (Some(&*digest), Some(stale)),
                    (case["opened_sha256"].as_str(), case["stale"].as_bool()),
                    "{key}"
                );
                opened += 1;
            }
            Answer::Failed(failure) => match case["error"].as_str() {
                Some(error) if error.starts_with("panic:") => {}
                error => assert_eq!(Some(&*failure.to_string()), error, "{key}"),
            },
            Answer::Waits { .. } => panic!("{key} waits"),
        }
        cases += 1;
    }
    assert_eq!((cases, opened > 100), (500, true), "{opened} opened");
}

#[test]
fn each_distinct_dek_is_asked_for_once_and_opens() {
    for (version, package) in [(KmsVersion::V1, "v1beta1"), (KmsVersion::V2, "v2"), (KmsVersion::V2, "v2alpha1")] {
        let plugin = Plugin::start(honest(package, "1"));
        let mut twice = requests(version, 50);
        twice.extend(requests(version, 50));
        let heard = Mutex::new(Vec::new());
        let progress = |answers| heard.lock().unwrap().push(answers);
        let options = AskOptions { progress: &progress, ..AskOptions::default() };
        let plugins = greet(&[spec(version, plugin.endpoint(), PATIENT)]);
        let health = plugins.greetings().next().unwrap().outcome.clone().unwrap();
        assert_eq!((health.package, &*health.version), (package, package));
        let (table, asked) = plugins.ask(twice, &options);

        assert_eq!((table.len(), asked.calls, plugin.calls("Decrypt")), (50, 50, 50), "{package}");
        let row = &asked.providers[0];
        assert_eq!((row.opened, row.refused, row.waiting, asked.for_nobody), (50, 0, 0, 0), "{:?}", row.errors);
        assert!(row.latency.is_some());
        assert_eq!(*heard.lock().unwrap(), (1..=50).collect::<Vec<u64>>());
        let state = PluginState::Ready { key_id: "1".to_string(), source: DekSource::Seed };
        assert_eq!(table.state("cloud"), (version == KmsVersion::V2).then_some(&state));
    }
}

#[test]
fn as_many_calls_are_in_flight_as_allowed_and_no_more() {
    for concurrency in [1, 3, 8] {
        let plugin = Plugin::slow(Duration::from_millis(20), honest("v1beta1", "1"));
        let options = AskOptions { concurrency, ..AskOptions::default() };
        let spec = spec(KmsVersion::V1, plugin.endpoint(), PATIENT);
        let (table, ..) = ask(spec, requests(KmsVersion::V1, 40), &options);
        assert_eq!((table.len(), plugin.most_in_flight()), (40, concurrency as u64));
    }
}

#[test]
fn the_limit_on_calls_is_kept_and_what_was_not_asked_waits() {
    let plugin = Plugin::start(honest("v1beta1", "1"));
    let all = requests(KmsVersion::V1, 20);
    for max_calls in [0, 7, 20, 21] {
        let before = plugin.calls("Decrypt");
        let options = AskOptions { max_calls: Some(max_calls), ..AskOptions::default() };
        let spec = spec(KmsVersion::V1, plugin.endpoint(), PATIENT);
        let (table, asked, row) = ask(spec, all.clone(), &options);
        let spent = max_calls.min(20);
        assert_eq!((plugin.calls("Decrypt") - before, asked.calls, table.len() as u64), (spent, spent, spent));
        assert_eq!((row.opened, row.waiting, asked.stopped_by_limit), (spent, 20 - spent, max_calls < 20));
        let waits = all.iter().filter(|request| v1_outcome(&table, request) == "waits").count();
        assert_eq!(waits as u64, 20 - spent);
    }
}

#[test]
fn calls_are_repeated_while_a_plugin_is_unavailable_or_exhausted_but_not_when_it_refuses() {
    for (code, attempts) in [(14, 3), (8, 3), (2, 1), (3, 1), (7, 1), (13, 1), (4, 1)] {
        let plugin = Plugin::start(move |call| match &*call.method {
            "Decrypt" if call.number < 2 => Reply::Status(code, "not%20now"),
            _ => honest("v1beta1", "1")(call),
        });
        let spec = spec(KmsVersion::V1, plugin.endpoint(), PATIENT);
        let all = requests(KmsVersion::V1, 1);
        let (table, _, row) = ask(spec, all.clone(), &AskOptions::default());
        assert_eq!(
            (plugin.calls("Decrypt"), row.calls, row.opened == 1),
            (attempts, attempts, attempts == 3),
            "{code}"
        );
        assert_eq!(v1_outcome(&table, &all[0]).ends_with("desc = not now"), attempts == 1, "{code}");
    }
}

#[test]
fn repeated_calls_count_against_the_limit() {
    let plugin = Plugin::start(|call| match &*call.method {
        "Decrypt" => Reply::Status(14, "never"),
        _ => honest("v1beta1", "1")(call),
    });
    let options = AskOptions { max_calls: Some(3), ..AskOptions::default() };
    let (table, asked, row) =
        ask(spec(KmsVersion::V1, plugin.endpoint(), PATIENT), requests(KmsVersion::V1, 2), &options);
    assert_eq!((plugin.calls("Decrypt"), asked.stopped_by_limit, row.waiting, table.len()), (3, true, 2, 0));
}

#[test]
fn a_plugin_that_is_always_unavailable_is_given_up_after_a_few_timeouts() {
    let plugin = Plugin::start(|call| match &*call.method {
        "Decrypt" => Reply::Status(14, "down"),
        _ => honest("v1beta1", "1")(call),
    });
    let begun = Instant::now();
    let all = requests(KmsVersion::V1, 1000);
    let (table, _, row) = ask(spec(KmsVersion::V1, plugin.endpoint(), SHORT), all.clone(), &AskOptions::default());
    assert!(begun.elapsed() < PATIENT, "{:?}", begun.elapsed());
    let words = "rpc error: code = Unavailable desc = down";
    assert_eq!(row.given_up.as_deref(), Some(words));
    assert_eq!((row.opened, row.waiting, row.refused + row.abandoned), (0, 0, 1000));
    assert!(row.abandoned > 900 && row.calls < 200, "{row:?}");
    assert!(all.iter().all(|request| v1_outcome(&table, request) == words));
}

#[test]
fn an_absent_plugin_is_waited_for_and_then_told_in_gos_words() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("kms.sock");
    let endpoint = format!("unix://{}", path.display());
    let dial = format!(
        "rpc error: code = DeadlineExceeded desc = latest balancer error: connection error: desc = \
         \"transport: Error while dialing: dial unix {}: connect: no such file or directory\"",
        path.display()
    );
    let all = requests(KmsVersion::V1, 3);
    let (table, asked, row) = ask(spec(KmsVersion::V1, &endpoint, SHORT), all.clone(), &AskOptions::default());
    let words = format!("failed get version from remote KMS provider: {dial}");
    assert!(all.iter().all(|request| v1_outcome(&table, request) == words), "{:?}", row.errors);
    assert_eq!((asked.calls, row.abandoned), (0, 3));

    let all = requests(KmsVersion::V2, 3);
    let (table, asked, row) = ask(spec(KmsVersion::V2, &endpoint, SHORT), all, &AskOptions::default());
    assert_eq!((table.state("cloud"), asked.calls, row.abandoned), (Some(&PluginState::Failed), 0, 3));
    let words = format!("failed to perform status section of the healthz check for KMS Provider cloud, error: {dial}");
    assert_eq!(row.errors, [(words, 3)]);
}

#[test]
fn a_plugin_that_comes_up_in_time_is_asked() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("kms.sock").to_str().unwrap().to_string();
    let late = std::thread::spawn({
        let path = path.clone();
        move || {
            std::thread::sleep(Duration::from_millis(200));
            Plugin::start_at(&path, honest("v2", "1"))
        }
    });
    let spec = spec(KmsVersion::V2, &format!("unix://{path}"), PATIENT);
    let (_, _, row) = ask(spec, requests(KmsVersion::V2, 3), &AskOptions::default());
    assert_eq!((row.opened, late.join().unwrap().calls("Decrypt")), (3, 3));
}

#[test]
fn who_does_not_speak_grpc_is_no_plugin() {
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0xff; 100_000], b"\n", b""] {
        let home = TempDir::new().unwrap();
        let path = home.path().join("kms.sock").to_str().unwrap().to_string();
        babble(&path, bytes);
        for version in [KmsVersion::V1, KmsVersion::V2] {
            let begun = Instant::now();
            let (_, asked, row) =
                ask(spec(version, &format!("unix://{path}"), SHORT), requests(version, 2), &AskOptions::default());
            assert!(begun.elapsed() < PATIENT);
            assert_eq!((asked.calls, row.abandoned), (0, 2));
            let (words, _) = &row.errors[0];
            assert!(words.contains("rpc error: code = DeadlineExceeded desc = "), "{words}");
        }
    }
}

#[test]
fn a_plugin_that_is_not_well_is_not_asked() {
    for (answer, words) in [
        (status("v2", "unwell", "1"), "got unexpected healthz status: unwell"),
        (status("v3", "ok", "1"), "expected KMSv2 API version v2, got v3"),
        (status("v2", "ok", ""), "got invalid KMSv2 KeyID hash \"\": keyID is empty"),
        (
            status("v2", "a\u{1b}[2J", ""),
            "[got unexpected healthz status: a\\u{1b}[2J, got invalid KMSv2 KeyID hash \"\": keyID is empty]",
        ),
    ] {
        let plugin = Plugin::start(move |call| match &*call.method {
            "Status" => Reply::message(&answer),
            _ => honest("v2", "1")(call),
        });
        let (table, _, row) =
            ask(spec(KmsVersion::V2, plugin.endpoint(), PATIENT), requests(KmsVersion::V2, 2), &AskOptions::default());
        assert_eq!(row.errors[0].0, format!("kmsv2 Provider cloud is not healthy, error: {words}"));
        assert_eq!((table.state("cloud"), plugin.calls("Decrypt")), (Some(&PluginState::Failed), 0));
    }
    let plugin = Plugin::start(|_| Reply::message(&status("v1", "", "")));
    let all = requests(KmsVersion::V1, 1);
    let (table, ..) = ask(spec(KmsVersion::V1, plugin.endpoint(), PATIENT), all.clone(), &AskOptions::default());
    let words = "KMS provider api version v1 is not supported, only v1beta1 is supported now";
    assert_eq!((&*v1_outcome(&table, &all[0]), plugin.calls("Decrypt")), (words, 0));
}

#[test]
fn a_plugin_of_the_other_protocol_is_told_as_unimplemented() {
    let plugin = Plugin::start(honest("v1beta1", "1"));
    let (_, _, row) =
        ask(spec(KmsVersion::V2, plugin.endpoint(), PATIENT), requests(KmsVersion::V2, 1), &AskOptions::default());
    assert!(
        row.errors[0].0.ends_with("error: rpc error: code = Unimplemented desc = unknown service"),
        "{:?}",
        row.errors
    );
}

#[test]
fn a_plugin_that_hangs_costs_a_few_timeouts_whatever_there_is_to_ask() {
    let plugin = Plugin::start(|call| match &*call.method {
        "Decrypt" => Reply::Never,
        _ => honest("v1beta1", "1")(call),
    });
    let begun = Instant::now();
    let all = requests(KmsVersion::V1, 1000);
    let (table, _, row) = ask(spec(KmsVersion::V1, plugin.endpoint(), SHORT), all.clone(), &AskOptions::default());
    assert!(begun.elapsed() < PATIENT);
    assert_eq!((row.opened, row.waiting), (0, 0));
    assert!(plugin.calls("Decrypt") < 100);
    let words = "rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    assert!(all.iter().all(|request| v1_outcome(&table, request) == words), "{row:?}");
}

#[test]
fn an_answer_after_the_deadline_does_not_count_and_does_not_stop_the_others() {
    let plugin = Plugin::start(|call| match call.number % 2 {
        0 if call.method == "Decrypt" => Reply::After(SHORT * 3, Opened { plaintext: vec![1; 32] }.encode_to_vec()),
        _ => honest("v1beta1", "1")(call),
    });
    let (table, _, row) =
        ask(spec(KmsVersion::V1, plugin.endpoint(), SHORT), requests(KmsVersion::V1, 8), &AskOptions::default());
    assert_eq!((row.opened, row.refused, row.given_up, table.len()), (4, 4, None, 8));
    assert_eq!(row.errors, [("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_string(), 4)]);
}

#[test]
fn a_plugin_that_dies_half_way_leaves_what_it_has_opened() {
    let plugin = Plugin::start(|call| match &*call.method {
        "Decrypt" if call.number >= 10 => Reply::Death,
        _ => honest("v1beta1", "1")(call),
    });
    let begun = Instant::now();
    let all = requests(KmsVersion::V1, 500);
    let options = AskOptions { concurrency: 1, ..AskOptions::default() };
    let (table, _, row) = ask(spec(KmsVersion::V1, plugin.endpoint(), SHORT), all.clone(), &options);
    assert!(begun.elapsed() < PATIENT);
    assert_eq!((row.opened, row.refused, row.abandoned, row.waiting), (10, 1, 489, 0));
    let words = row.given_up.unwrap();
    assert!(words.starts_with("rpc error: code = DeadlineExceeded desc = latest balancer error: "), "{words}");
    assert_eq!(all.iter().filter(|request| v1_outcome(&table, request) == words).count(), 490);
}

#[test]
fn a_plugin_that_was_started_again_is_asked_again() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("kms.sock").to_str().unwrap().to_string();
    let first = Plugin::start_at(&path, |call| match &*call.method {
        "Decrypt" if call.number >= 10 => Reply::Death,
        _ => honest("v1beta1", "1")(call),
    });
    let again = std::thread::spawn({
        let path = path.clone();
        move || {
            while first.calls("Decrypt") <= 10 {
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(first);
            std::fs::remove_file(&path).unwrap();
            Plugin::start_at(&path, honest("v1beta1", "1"))
        }
    });
    let spec = spec(KmsVersion::V1, &format!("unix://{path}"), PATIENT);
    let (_, _, row) = ask(spec, requests(KmsVersion::V1, 100), &AskOptions::default());
    assert_eq!((row.opened, row.refused), (100, 0), "{:?}", row.errors);
    assert!(again.join().unwrap().calls("Decrypt") >= 89);
}

#[test]
fn a_malformed_answer_is_an_error_of_its_own_dek() {
    let length = |bytes: usize| Opened { plaintext: vec![7; bytes] }.encode_to_vec();
    let ok = vec![("grpc-status", "0")];
    let cases = [
        (Reply::Message(length(31)), "crypto/aes: invalid key size 31"),
        (Reply::Message(length(0)), "crypto/aes: invalid key size 0"),
        (Reply::Message(length(1_000_000)), "crypto/aes: invalid key size 1000000"),
        (Reply::Message(length(32 << 20)), "code = OutOfRange"),
        (Reply::Message(b"\xff\xff\xff".to_vec()), "code = Internal"),
        (Reply::Raw(vec![0, 0, 0, 1, 0, 1], ok.clone()), "code = Internal"),
        (Reply::Raw(vec![0xff; 64], ok.clone()), "code = Internal"),
        (Reply::Raw(vec![0, 0xff, 0xff, 0xff, 0xff], ok.clone()), "code = OutOfRange"),
        (Reply::Raw(Vec::new(), ok.clone()), "code = Internal"),
        (Reply::Raw(framed(&length(32)), Vec::new()), "code = Unknown"),
        (Reply::Raw(framed(&length(32)), vec![("grpc-status", "many")]), "code = Unknown"),
        (Reply::Raw(Vec::new(), vec![("grpc-status", "3"), ("grpc-message", "%ff%0a")]), "code = Unknown"),
        (
            Reply::Raw(
                Vec::new(),
                vec![("grpc-status", "3"), ("grpc-message", "a%0ab"), ("grpc-status-details-bin", "!")],
            ),
            r"rpc error: code = InvalidArgument desc = a\nb",
        ),
    ];
    for (place, (reply, words)) in cases.into_iter().enumerate() {
        let reply = Mutex::new(Some(reply));
        let plugin = Plugin::start(move |call| match &*call.method {
            "Decrypt" if call.number == 0 => reply.lock().unwrap().take().unwrap(),
            _ => honest("v1beta1", "1")(call),
        });
        let all = requests(KmsVersion::V1, 5);
        let options = AskOptions { concurrency: 1, ..AskOptions::default() };
        let (table, _, row) = ask(spec(KmsVersion::V1, plugin.endpoint(), PATIENT), all.clone(), &options);
        let told: Vec<String> =
            all.iter().map(|request| v1_outcome(&table, request)).filter(|told| told.contains(words)).collect();
        let all_told: Vec<String> = all.iter().map(|request| v1_outcome(&table, request)).collect();
        assert_eq!((told.len(), row.calls, row.waiting), (1, 5, 0), "{place} {words}: {all_told:?}");
    }
}

#[test]
fn endless_words_are_cut() {
    let words: &'static str = "x".repeat(10_000).leak();
    let plugin = Plugin::start(move |call| match &*call.method {
        "Decrypt" => Reply::Status(2, words),
        _ => honest("v1beta1", "1")(call),
    });
    let all = requests(KmsVersion::V1, 1);
    let (table, ..) = ask(spec(KmsVersion::V1, plugin.endpoint(), PATIENT), all.clone(), &AskOptions::default());
    let told = v1_outcome(&table, &all[0]);
    assert!(told.len() < 1200 && told.ends_with("xxx..."), "{told}");
}

#[test]
fn a_request_travels_with_its_key_id_and_annotations_verbatim() {
    let asked = OwnedDekRequest {
        key_id: "arn:aws:kms/é 1".to_string(),
        encrypted_dek: vec![0, 255, 1],
        annotations: vec![("a.b".to_string(), vec![0, 255]), ("c.d".to_string(), Vec::new())],
        ..request(KmsVersion::V2, 0)
    };
    let seen: &'static Mutex<Vec<V2Request>> = Box::leak(Box::default());
    let plugin = Plugin::start(move |call| match &*call.method {
        "Decrypt" => {
            seen.lock().unwrap().push(V2Request::decode(&*call.message).unwrap());
            Reply::message(&Opened { plaintext: vec![1; 32] })
        }
        _ => honest("v2", "1")(call),
    });
    ask(spec(KmsVersion::V2, plugin.endpoint(), PATIENT), vec![asked.clone()], &AskOptions::default());
    let seen = seen.lock().unwrap();
    let [one] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((&one.key_id, &one.ciphertext), (&asked.key_id, &asked.encrypted_dek));
    assert_eq!(one.annotations, asked.annotations.into_iter().collect());
}

#[test]
fn v1_providers_of_one_name_at_two_endpoints_are_not_guessed_between() {
    let plugin = Plugin::start(honest("v1beta1", "1"));
    let one = spec(KmsVersion::V1, plugin.endpoint(), PATIENT);
    let other = KmsSpec { endpoint: "unix:///elsewhere".to_string(), ..one.clone() };
    let all = requests(KmsVersion::V1, 2);
    let plugins = greet(&[one.clone(), one.clone(), other]);
    assert_eq!(
        plugins.greetings().map(|greeting| greeting.outcome.clone()).collect::<Vec<_>>(),
        [Err(Unwell::Ambiguous)]
    );
    let (table, asked) = plugins.ask(all.clone(), &AskOptions::default());
    assert_eq!((table.len(), asked.providers[0].waiting, plugin.calls("Version")), (0, 2, 0));
    let (table, _) = greet(&[one.clone(), one]).ask(all, &AskOptions::default());
    assert_eq!((table.len(), plugin.calls("Version")), (2, 1));
}

#[test]
fn nobody_is_asked_for_a_provider_that_the_file_does_not_have() {
    let plugin = Plugin::start(honest("v2", "1"));
    let mut all = requests(KmsVersion::V1, 3);
    all.extend(requests(KmsVersion::V2, 2));
    let (table, asked, row) = ask(spec(KmsVersion::V2, plugin.endpoint(), PATIENT), all, &AskOptions::default());
    assert_eq!((table.len(), asked.for_nobody, row.opened), (2, 3, 2));
}
