//! What a run says of itself, held against a count of its own; forms of sources and results; and bytes that must be gone.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::program::{argument, atrest, atrest_reading, audit, temporary, testdata};
use super::super::walk::{self, Kind, Record};
use super::stores::Store;
use super::{Opener, count_of, left, nothing_else_is_left, rewrite, whole};

fn sha256(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The counts of a run from what went in and what came out.
fn counted(source: &[Record], result: &[Record]) -> BTreeMap<&'static str, u64> {
    let before: BTreeMap<(i64, i64), &Record> =
        source.iter().map(|record| ((record.main, record.sub), record)).collect();
    let mut counts = BTreeMap::from([("entries", 0), ("history", 0), ("rewritten", 0), ("unchanged", 0)]);
    for (kind, record) in walk::view(result.to_vec(), i64::MAX) {
        match kind {
            Kind::Entry => *counts.get_mut("entries").unwrap() += 1,
            Kind::History => *counts.get_mut("history").unwrap() += 1,
            Kind::Deleted => continue,
        }
        let is_same = before[&(record.main, record.sub)].value == record.value;
        *counts.get_mut(if is_same { "unchanged" } else { "rewritten" }).unwrap() += 1;
    }
    counts
}

#[test]
fn the_report_counts_what_went_in_and_what_came_out() {
    for store in [Store::kubeadm(), Store::apiserver(), Store::version("3.7")] {
        for drop_history in [false, true] {
            let output = store.home.path().join(format!("new-{drop_history}.db"));
            let mut arguments = vec!["-c", &store.current[0], "--to", &store.target, "--keep-unreadable"];
            arguments.extend(drop_history.then_some("--drop-history"));
            let dry = rewrite(&store.source, &output, &[&arguments[..], &["--dry-run"]].concat()).json();
            assert!(!output.exists());
            let run = rewrite(&store.source, &output, &arguments);
            let report = run.json();
            let counts = counted(&walk::records(&store.source), &walk::records(argument(&output)));
            for (field, count) in &counts {
                assert_eq!(report[field], json!(count), "{field} of {}", store.source);
                assert_eq!(dry[field], report[field], "{field} of {}", store.source);
            }
            assert_eq!((&dry["plan"], &dry["unreadable"]), (&report["plan"], &report["unreadable"]));
            let sum = |rows: &[&str]| -> u64 {
                let plan = report["plan"].as_array().unwrap().iter();
                let of = plan.filter(|row| rows.contains(&row["fate"].as_str().unwrap()));
                of.map(|row| row["entries"].as_u64().unwrap() + row["history"].as_u64().unwrap()).sum()
            };
            assert_eq!(sum(&["rewritten"]), counts["rewritten"]);
            assert_eq!(sum(&["fresh", "unselected", "uncovered", "no-object", "unreadable"]), counts["unchanged"]);
            assert_eq!((&report["schema"], &report["tool"]["name"]), (&json!("atrest.rewrite/1"), &json!("atrest")));
            assert_eq!(
                (&report["dry_run"], &report["proved"], &dry["dry_run"]),
                (&json!(false), &json!(true), &json!(true))
            );
            assert_eq!((&report["refused"], &dry["output"]), (&json!([]), &Value::Null));
            let told = &report["output"];
            assert_eq!(told["bytes"], fs::metadata(&output).unwrap().len());
            assert_eq!((&told["path"], &told["sha256"]), (&json!(argument(&output)), &json!(sha256(&output))));
            assert_eq!(report["source"]["sha256"], sha256(Path::new(&store.source)));
        }
    }
}

#[test]
fn what_is_on_the_target_already_stays_byte_for_byte_and_all_of_it_is_sealed_anew_only_when_asked() {
    let store = Store::version("3.6");
    let first = store.rotated("first.db", &[]);
    let again = |name: &str, more: &[&str]| {
        let output = store.home.path().join(name);
        let arguments = [&["-c", &store.target, "--to", &store.target], more].concat();
        let run = rewrite(argument(&first), &output, &arguments);
        assert_eq!(run.code, 0, "{}", run.err);
        (run.json()["rewritten"].as_u64().unwrap(), output)
    };
    let (rewritten, second) = again("second.db", &[]);
    assert_eq!(rewritten, 0);
    // A clean file is a fixed point, but for nothing.
    assert!(fs::read(&second).unwrap() == fs::read(&first).unwrap());
    let (rewritten, third) = again("third.db", &["--all"]);
    let opener = Opener::new(std::slice::from_ref(&store.target));
    let mut anew = 0;
    for (one, other) in walk::records(argument(&third)).iter().zip(walk::records(argument(&first))) {
        anew += u64::from(one.value != other.value);
        assert!(opener.open(one) == opener.open(&other));
    }
    assert!(anew > 20 && rewritten >= anew, "{rewritten} {anew}");
}

#[test]
fn packed_sources_and_standard_input_give_the_same_store() {
    let store = Store::version("3.5");
    let expected = walk::records(argument(&store.stripped("plain.db", &[])));
    let bytes = fs::read(&store.source).unwrap();
    let folder = temporary();
    let packed = folder.path().join("snapshot.db.gz");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&bytes).unwrap();
    fs::write(&packed, encoder.finish().unwrap()).unwrap();
    let config = store.current[0].as_str();
    let unpacked = folder.path().join("unpacked.db");
    let run = rewrite(argument(&packed), &unpacked, &["-c", config, "--strip"]);
    assert_eq!(run.code, 0, "{}", run.err);
    let piped = folder.path().join("piped.db");
    let run = atrest_reading(&bytes, &["rewrite", "-", "-c", config, "--strip", "-o", argument(&piped)]);
    assert_eq!(run.code, 0, "{}", run.err);
    for path in [unpacked, piped] {
        assert_eq!(walk::records(argument(&path)), expected);
        assert_eq!(whole(&path)["kind"], "snapshot");
    }
    let run = rewrite(argument(&packed), &packed, &["-c", config, "--strip", "--force"]);
    assert!(run.failed(4).contains("is the same file as the input"), "{}", run.err);
}

#[test]
fn the_form_of_the_result_is_the_sources_or_the_one_that_was_asked_for() {
    let kinds = [
        ("3.6", &[][..], "snapshot"),
        ("3.6", &["--format", "db"], "database"),
        ("3.6-pages-16k", &[], "database"),
        ("3.6-pages-16k", &["--format", "snapshot"], "snapshot"),
    ];
    for (version, more, kind) in kinds {
        let store = Store::version(version);
        let output = store.rotated("new.db", more);
        let check = whole(&output);
        assert_eq!(check["kind"], kind, "{version} {more:?}");
        assert_eq!(check["page_size"], if version == "3.6" { 4096 } else { 16384 });
        let (length, pages) = (fs::metadata(&output).unwrap().len(), check["totalSize"].as_u64().unwrap());
        match kind {
            "snapshot" => assert_eq!((&check["trailer"], length), (&json!("ok"), pages + 32)),
            // A member's database grows in steps, and has nothing behind its pages.
            _ => {
                assert_eq!((&check["trailer"], &check["trailer_expected"]), (&json!("missing"), &json!(false)));
                assert_eq!(length % (16 << 20), 0);
                assert!(fs::read(&output).unwrap()[pages as usize..].iter().all(|byte| *byte == 0));
            }
        }
        let run = audit(argument(&output), &[&store.target], &["-o", "json"]);
        let document = run.json();
        assert_eq!((&document["source"]["kind"], run.code), (&json!(kind), 0), "{document:#}");
        assert!(!run.text().contains("file.no-trailer"));
    }
}

#[test]
fn a_snapshot_that_lost_its_digest_is_rewritten_to_one_that_has_it_and_this_is_told() {
    let folder = temporary();
    let bytes = fs::read(testdata("versions/etcd-3.6.db")).unwrap();
    let cut = folder.path().join("cut.db");
    fs::write(&cut, &bytes[..bytes.len() - 20]).unwrap();
    let output = folder.path().join("new.db");
    let run = rewrite(argument(&cut), &output, &["-c", &testdata("versions/encryption-config.json"), "--strip"]);
    let report = run.json();
    assert_eq!((run.code, &report["output"]["form"]), (0, &json!("snapshot")), "{report:#}");
    assert!(report["notes"][0].as_str().unwrap().contains("was cut off"), "{report:#}");
    assert_eq!(whole(&output)["trailer"], "ok");
}

#[test]
fn a_release_finds_what_it_needs_to_start() {
    let storage = |path: &Path| {
        let check = whole(path);
        check["version"].as_str().unwrap().to_owned()
    };
    let store = Store::version("3.7");
    assert_eq!(storage(&store.rotated("same.db", &[])), "3.7.0");
    for (release, expected) in [("3.7", "3.7.0"), ("3.6", "3.6.0"), ("3.5", ""), ("3.4", "")] {
        let path = store.rotated(&format!("for-{release}.db"), &["--for-etcd", release]);
        assert_eq!(storage(&path), expected, "{release}");
    }
}

/// The old configuration's prefixes: none of them may be left where everything is on the target.
const OLD: [&[u8]; 6] = [
    b"k8s:enc:aescbc:v1:key0:",
    b"k8s:enc:aescbc:v1:key1:",
    b"k8s:enc:aescbc:v1:key2:",
    b"k8s:enc:secretbox:v1:",
    b"k8s:enc:aesgcm:v1:g1:",
    b"k8s:enc:aesgcm:v1:g16:",
];

#[test]
fn a_scrubbed_copy_has_no_plaintext_secret_and_no_old_prefix_anywhere() {
    for mut store in [Store::apiserver(), Store::version("3.4"), Store::version("3.7"), Store::openshift3()] {
        // The new key is of a provider that none of them uses, so that each of their prefixes is an old one.
        let resources = ["secrets", "configmaps", "widgets.example.com"];
        store.target = super::configuration(&store.home, "aesgcm", "scrubbed", &resources);
        let path = store.rotated("clean.db", &["--drop-history"]);
        let bytes = fs::read(&path).unwrap();
        for prefix in OLD {
            assert_eq!(count_of(prefix, &bytes), 0, "{:?} in {}", String::from_utf8_lossy(prefix), store.source);
        }
        let current = Opener::new(&store.current);
        let covered = |record: &&Record| walk::shown(&record.key).contains("/secrets/") && !record.tombstone;
        let source = walk::records(&store.source);
        let mut searched = 0;
        for record in source.iter().filter(covered) {
            let (plaintext, _) = current.open(record).expect("all keys are at hand");
            assert_eq!(count_of(&plaintext, &bytes), 0, "{}", walk::shown(&record.key));
            // What makes it a Secret, without what every object of this kind has in common.
            let middle = &plaintext[plaintext.len() / 3..plaintext.len() * 2 / 3];
            assert_eq!(count_of(middle, &bytes), 0, "{}", walk::shown(&record.key));
            searched += 1;
        }
        assert!(searched > 20);
        nothing_else_is_left(&path);
        // Of any length of time ago, only the newest is there.
        let expected = left(source, true).len();
        assert_eq!(walk::records(argument(&path)).len(), expected);
    }
}

#[test]
fn what_was_left_in_free_pages_of_the_source_is_gone() {
    let store = Store::version("3.6");
    let source = fs::read(&store.source).unwrap();
    let told: usize = walk::records(&store.source).iter().map(|record| count_of(b"k8s:enc:", &record.value)).sum();
    assert!(count_of(b"k8s:enc:", &source) > told, "the source has nothing left over, which would prove little");
    nothing_else_is_left(&store.rotated("new.db", &[]));
}

#[test]
fn a_person_is_told_how_to_restore_it() {
    let store = Store::version("3.5");
    let output = store.home.path().join("new.db");
    let run =
        atrest(&["rewrite", &store.source, "-c", &store.current[0], "--to", &store.target, "-o", argument(&output)]);
    let text = run.text();
    assert_eq!(run.code, 0, "{}", run.err);
    for words in ["[PASS]", "written and proved", "etcdutl snapshot restore", "--bump-revision 1000000000", "HashKV"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(text.contains(&sha256(&output)));
}
