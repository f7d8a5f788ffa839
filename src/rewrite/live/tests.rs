//! Whole rewrites of a scripted keyspace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::audit::deks::Deks;
use crate::audit::rules::{Guard, Rules};
use crate::config::{ApiServers, load};
use crate::etcd::{Revision, RevisionKey};
use crate::kube::key::Roots;
use crate::source::trace::TraceKey;

use super::super::decide::{NO_REPLACEMENTS, Policy};
use super::super::seal::seal_one;
use super::super::tally::{Fate as Planned, Kinds};
use super::super::target::{Randomness, SystemRandomness, Target};
use super::kept::Keeps;
use super::keyspace::FaultKind;
use super::outline::Outline;
use super::pace::{Pace, Patience};
use super::plan::plan;
use super::run::{Outcome, run};
use super::scripted::{Scripted, Step, undisturbed};
use super::settle::Stop;
use super::transform::Transform;
use super::write::Writing;

const OLD: &str = r#"{"aescbc": {"keys": [{"name": "old", "secret": "AAECAwQFBgcICQoLDA0ODw=="}]}}"#;
const NEW: &str =
    r#"{"secretbox": {"keys": [{"name": "new", "secret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}]}}"#;

fn rules(providers: &[&str]) -> Rules {
    let text = format!(
        r#"{{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{{"resources": ["secrets"], "providers": [{}]}}]}}"#,
        providers.join(",")
    );
    Rules::new(ApiServers::new(vec![("a".to_owned(), load(text.as_bytes()).unwrap())]).unwrap()).unwrap()
}

fn key(name: &str) -> Vec<u8> {
    format!("/registry/secrets/default/{name}").into_bytes()
}

fn plaintext(name: &str, data: &str) -> Vec<u8> {
    let text = format!(
        r#"{{"kind":"Secret","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default"}},"data":{{"a":"{data}"}}}}"#
    );
    text.into_bytes()
}

fn sealed(target: &Target, name: &str, data: &str) -> Vec<u8> {
    let (roots, key) = (Roots::given(&["/registry"]), key(name));
    let Guard::Chain(chain) = target.guard(&roots.locate(&key)) else { panic!("{name} is guarded") };
    let at = RevisionKey { revision: Revision { main: 2, sub: 0 }, tombstone: false };
    let mut stream = SystemRandomness.stream();
    seal_one(target, Some(chain), (at, &key), &plaintext(name, data), &mut *stream).unwrap().to_vec()
}

struct Case {
    current: Rules,
    target: Target,
    old: Target,
    server: Scripted,
}

impl Case {
    fn new(entries: usize) -> Self {
        let (current, target) = (rules(&[OLD]), Target::configured(rules(&[NEW])));
        let case = Self { current, target, old: Target::configured(rules(&[OLD])), server: Scripted::new() };
        for number in 0..entries {
            let name = format!("s{number:04}");
            case.server.put(&key(&name), &sealed(&case.old, &name, &name), i64::try_from(number % 3).unwrap());
        }
        case
    }

    fn transform<'t>(&'t self, kinds: &'t Kinds, deks: &'t Deks, digests: TraceKey) -> Transform<'t> {
        let policy = Policy {
            current: &self.current,
            deks,
            target: &self.target,
            selected: None,
            namespaces: &[],
            all: false,
            keep_unreadable: false,
            own_configuration: false,
            replacements: &NO_REPLACEMENTS,
        };
        let roots = Arc::new(Roots::given(&["/registry"]));
        Transform { policy, roots, kinds, randomness: &SystemRandomness, renew: 0, digests }
    }

    fn run(&self) -> Outcome {
        self.run_with(&undisturbed())
    }

    fn run_with(&self, patience: &Patience<'_>) -> Outcome {
        self.run_through(patience, false, || ())
    }

    /// Runs with what the plan put aside, after something has happened in between.
    fn run_kept(&self, between: impl FnOnce()) -> Outcome {
        self.run_through(&undisturbed(), true, between)
    }

    fn run_through(&self, patience: &Patience<'_>, keeps: bool, between: impl FnOnce()) -> Outcome {
        let (kinds, deks, pace) = (Kinds::default(), Deks::default(), Pace::new(0));
        let digests = TraceKey::random().unwrap();
        let transform = self.transform(&kinds, &deks, digests);
        let kept = keeps.then(|| {
            let planning = |_, kinds| self.transform(kinds, &deks, digests);
            let (planned, _) =
                plan((&self.server, patience), &kinds, (None, Keeps::Sealed), planning, &|_| ()).unwrap();
            planned.kept.unwrap()
        });
        between();
        let writing = Writing {
            keyspace: &self.server,
            pace: &pace,
            patience,
            outline: &Outline::whole(),
            journal: None,
            name: |key| String::from_utf8_lossy(key).into_owned(),
            most: 128,
            rounds: None,
            progress: &|_| (),
        };
        run(&writing, &transform, &transform, kept).unwrap()
    }

    /// Every entry is under the target, holds what it held, and was written so many times.
    fn holds(&self, names: impl IntoIterator<Item = (String, String, i64)>) {
        let Target::Configured { rules, .. } = &self.target else { panic!("there is a configuration") };
        for (name, data, version) in names {
            let entry = self.server.entry(&key(&name)).unwrap_or_else(|| panic!("{name} is there"));
            let Guard::Chain(chain) = rules.guard(&Roots::given(&["/registry"]).locate(&entry.key)) else { panic!() };
            let mut scratch = crate::provider::plaintext::Plaintext::new();
            let deks = Deks::default();
            let answer = rules.chain(chain).unwrap().open(&entry.key, &entry.value, deks.of(chain), &mut scratch);
            let crate::provider::chain::Answer::Opened { plaintext: held, stale: false, .. } = answer else {
                panic!("{name} is not under the target")
            };
            assert_eq!(String::from_utf8_lossy(held), String::from_utf8_lossy(&plaintext(&name, &data)));
            assert_eq!(entry.version, version, "{name}");
        }
    }

    fn all_written_once(&self, entries: usize) {
        self.holds((0..entries).map(|number| (format!("s{number:04}"), format!("s{number:04}"), 2)));
    }
}

#[test]
fn everything_is_written_once_and_proved_and_leases_are_kept() {
    let case = Case::new(700);
    let (kinds, deks) = (Kinds::default(), Deks::default());
    let digests = TraceKey::random().unwrap();
    let transform = |_, kinds| case.transform(kinds, &deks, digests);
    let (planned, _) =
        plan((&case.server, &undisturbed()), &kinds, (None, Keeps::Nothing), transform, &|_| ()).unwrap();
    assert_eq!((planned.rewritten, planned.refused_count, planned.moves), (700, 0, true));
    assert!(
        planned.rows.iter().any(|(kind, count)| matches!(kind.fate, Planned::Rewritten(_)) && count.entries == 700)
    );
    let outcome = case.run();
    assert!(outcome.proved(), "{outcome:?}");
    assert_eq!((outcome.totals.written, outcome.rounds), (700, 1));
    assert_eq!(outcome.proof.unwrap().ours, 700);
    case.all_written_once(700);
    let lease = |name| case.server.entry(&key(name)).unwrap().lease;
    assert_eq!((lease("s0000"), lease("s0001"), lease("s0002")), (0, 1, 2));
    // Once more there is nothing to do, although the current configuration knows nothing of the new key.
    let again = case.run();
    assert!(again.proved() && again.totals.written == 0);
}

#[test]
fn answers_that_get_lost_neither_lose_nor_repeat_a_write() {
    let steps = [
        vec![Step::Lose],
        vec![Step::Refuse(FaultKind::Unknown)],
        vec![Step::Delay],
        vec![Step::Delay, Step::Delay, Step::Lose, Step::Delay, Step::Refuse(FaultKind::Unknown), Step::Lose],
        vec![Step::Answer, Step::Refuse(FaultKind::Busy), Step::Lose, Step::Refuse(FaultKind::LeaseGone)],
    ];
    for steps in steps {
        let case = Case::new(300);
        case.server.script(steps.clone());
        let outcome = case.run();
        assert!(outcome.proved(), "{steps:?}: {outcome:?}");
        assert_eq!(outcome.totals.written, 300, "{steps:?}");
        case.all_written_once(300);
    }
}

#[test]
fn what_others_write_meanwhile_is_theirs() {
    let case = Case::new(200);
    let Case { old, target, .. } = &case;
    let writes = vec![
        (key("s0000"), Some(sealed(target, "s0000", "theirs, fresh"))),
        (key("s0001"), Some(sealed(old, "s0001", "theirs, stale"))),
        (key("s0002"), None),
        // Deleted and made anew, stale and fresh.
        (key("s0003"), None),
        (key("s0003"), Some(sealed(old, "s0003", "anew, stale"))),
        (key("s0004"), None),
        (key("s0004"), Some(sealed(target, "s0004", "anew, fresh"))),
    ];
    case.server.script([Step::First(writes.clone()), Step::First(writes)]);
    let outcome = case.run();
    assert!(outcome.proved(), "{outcome:?}");
    assert!(case.server.entry(&key("s0002")).is_none());
    let entry = |name: &str| case.server.entry(&key(name)).unwrap();
    let expected =
        [("s0000", "theirs, fresh"), ("s0001", "theirs, stale"), ("s0003", "anew, stale"), ("s0004", "anew, fresh")];
    case.holds(expected.map(|(name, data)| (name.to_owned(), data.to_owned(), entry(name).version)));
    let totals = outcome.totals;
    assert!(totals.conflicts >= 5 && totals.theirs >= 2 && totals.gone >= 1, "{totals:?}");
}

#[test]
fn a_full_database_ends_the_run_and_the_next_one_goes_on() {
    let case = Case::new(1000);
    case.server.script([Step::Answer, Step::Answer, Step::Refuse(FaultKind::NoSpace)]);
    let outcome = case.run();
    assert!(matches!(&outcome.stop, Some(Stop::Fault(fault)) if fault.kind == FaultKind::NoSpace), "{outcome:?}");
    assert!(!outcome.proved() && outcome.totals.written < 1000 && outcome.totals.left > 0);
    let written = outcome.totals.written;
    let outcome = case.run();
    assert!(outcome.proved());
    assert_eq!(outcome.totals.written, 1000 - written);
    case.all_written_once(1000);
}

#[test]
fn a_server_that_takes_fewer_changes_gets_fewer() {
    let mut case = Case::new(3000);
    case.server.most = 16;
    let outcome = case.run();
    assert!(outcome.proved());
    let swaps = case.server.swaps();
    assert!(swaps.iter().rev().take(10).all(|changes| *changes <= 16), "{swaps:?}");
    case.all_written_once(3000);
}

#[test]
fn a_value_above_the_servers_limit_is_named_and_all_others_are_written() {
    let mut case = Case::new(300);
    case.server.largest = 4000;
    case.server.put(&key("large"), &sealed(&case.old, "large", &"x".repeat(4000)), 0);
    let outcome = case.run();
    assert!(!outcome.proved() && outcome.stop.is_none());
    assert_eq!((outcome.named_count, outcome.totals.written, outcome.rounds), (1, 300, 1));
    assert_eq!(outcome.named[0].key, key("large"));
    case.all_written_once(300);
}

#[test]
fn a_server_that_never_answers_is_not_waited_for_for_ever() {
    static NEVER: AtomicBool = AtomicBool::new(false);
    let case = Case::new(10);
    case.server.script(vec![Step::Refuse(FaultKind::Busy); 10_000]);
    let outcome = case.run_with(&Patience::new(Duration::from_millis(100), &NEVER));
    assert!(matches!(&outcome.stop, Some(Stop::Fault(fault)) if fault.kind == FaultKind::Busy));
    assert_eq!((outcome.totals.written, outcome.totals.left), (0, 10));
}

#[test]
fn what_was_put_aside_is_not_read_again_and_not_believed_blindly() {
    let case = Case::new(700);
    case.server.put(b"/unrelated", b"of somebody else", 0);
    let outcome = case.run_kept(|| case.server.fail_pages([]));
    assert!(outcome.proved(), "{outcome:?}");
    assert_eq!((outcome.totals.written, outcome.rounds, outcome.proof.unwrap().ours), (700, 1, 700));
    // The proof reads everything once, and nothing else does.
    assert!(case.server.pages() < 8, "{} pages", case.server.pages());
    case.all_written_once(700);
    // Somebody changes, deletes and makes keys between plan and writing.
    let case = Case::new(300);
    let outcome = case.run_kept(|| {
        case.server.put(&key("s0010"), &sealed(&case.old, "s0010", "newer"), 0);
        case.server.put(&key("s0020"), &sealed(&case.target, "s0020", "fresh"), 0);
        case.server.delete(&key("s0030"));
        case.server.put(&key("made"), &sealed(&case.old, "made", "made"), 0);
    });
    assert!(outcome.proved(), "{outcome:?}");
    let totals = outcome.totals;
    assert_eq!((totals.conflicts, totals.theirs, totals.gone), (3, 1, 1));
    // What was made since is found by the proof, and written in a second round.
    assert_eq!((totals.written, outcome.rounds), (299, 2));
    let named = |name: &str, data: &str, version| (name.to_owned(), data.to_owned(), version);
    case.holds([
        named("s0010", "newer", 3),
        named("s0020", "fresh", 2),
        named("made", "made", 2),
        named("s0299", "s0299", 2),
    ]);
    assert!(case.server.entry(&key("s0030")).is_none());
}

#[test]
fn an_interrupt_lets_nothing_new_begin() {
    let interrupted = AtomicBool::new(false);
    let case = Case::new(10);
    interrupted.store(true, Ordering::Relaxed);
    let outcome = case.run_with(&Patience::new(Duration::from_secs(1), &interrupted));
    assert!(outcome.stop.is_some() && outcome.totals.written == 0);
    interrupted.store(false, Ordering::Relaxed);
    assert!(case.run_with(&Patience::new(Duration::from_secs(1), &interrupted)).proved());
}

#[test]
fn what_was_put_aside_and_not_begun_is_counted_as_left() {
    let case = Case::new(2000);
    case.server.script([Step::Answer, Step::Refuse(FaultKind::NoSpace)]);
    let outcome = case.run_kept(|| ());
    assert!(outcome.stop.is_some() && !outcome.proved());
    assert_eq!(outcome.totals.written + outcome.totals.left, 2000, "{:?}", outcome.totals);
}

#[test]
fn what_is_not_what_was_there_is_no_proof() {
    let case = Case::new(20);
    let (kinds, deks, pace, patience) = (Kinds::default(), Deks::default(), Pace::new(0), undisturbed());
    let transform = case.transform(&kinds, &deks, TraceKey::random().unwrap());
    let writing = Writing {
        keyspace: &case.server,
        pace: &pace,
        patience: &patience,
        outline: &Outline::whole(),
        journal: None,
        name: |key| String::from_utf8_lossy(key).into_owned(),
        most: 128,
        rounds: None,
        progress: &|_| (),
    };
    let (_, witness, pins) = super::write::write(&writing, &transform, None).unwrap();
    case.server.damage(&key("s0007"), &sealed(&case.target, "s0007", "something else"));
    case.server.damage(&key("s0011"), b"k8s:enc:secretbox:v1:new:garbage");
    let proof = super::prove::prove(&writing.asked(), &transform, (witness, pins), &|_| ()).unwrap();
    assert!(!proof.holds());
    let broken: Vec<_> = proof.broken.iter().map(|broken| broken.key.clone()).collect();
    assert_eq!((broken, proof.ours), (vec![key("s0007"), key("s0011")], 18));
}
