//! Files that were cut or changed: nothing panics, and nothing is lost in silence.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use super::super::damage::harm::Random;
use super::super::program::{argument, atrest, audit};
use super::model::{Seen, read};
use super::{config, merged, store};

fn revisions(seen: &Seen) -> BTreeSet<i64> {
    seen.records.iter().map(|record| record.0).collect()
}

#[test]
fn a_cut_database_is_read_as_far_as_it_goes_and_told_of() {
    let (_folder, path) = merged();
    let (whole, bytes) = (read(&path).unwrap().0, fs::read(&path).unwrap());
    let mut parts = 0;
    for cut in (0..bytes.len()).step_by(3 * 1024 + 7) {
        fs::write(&path, &bytes[..cut]).unwrap();
        let Some((seen, faults)) = read(&path) else { continue };
        // Of a page that was cut the rest reads as zeros, so that only revisions are compared.
        assert!(revisions(&seen).is_subset(&revisions(&whole)), "cut at {cut}");
        assert!(faults > 0 || seen == whole, "cut at {cut}: {} of {}", seen.records.len(), whole.records.len());
        parts += u32::from(!seen.records.is_empty());
    }
    assert!(parts > 5, "a cut leaves something that was read: {parts}");
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let check = atrest(&["check", argument(&path), "-o", "json"]);
    assert_eq!((check.code, check.json()["fault_count"].as_u64() > Some(0)), (1, true));
    let found = audit(argument(&path), &[&config()], &["-o", "json"]);
    assert_eq!((found.code, &found.json()["verdict"]), (1, &json!("incomplete")));
}

#[test]
fn changed_bytes_never_make_rows_vanish_in_silence() {
    let (_folder, path) = merged();
    let (whole, bytes) = (read(&path).unwrap().0, fs::read(&path).unwrap());
    let mut random = Random::new(11);
    let (mut refused, mut faulty) = (0, 0);
    for round in 0..250 {
        let mut harmed = bytes.clone();
        for _ in 0..random.below(3) + 1 {
            // Heads of pages and their pointers are what readers trip over.
            let page = random.below(harmed.len() / 4096) * 4096;
            let reach = random.pick(&[64, 64, 4096]);
            let at = page + random.below(reach);
            let length = (random.below(12) + 1).min(harmed.len() - at);
            let noise = random.bytes(length);
            harmed[at..at + length].copy_from_slice(&noise);
        }
        fs::write(&path, &harmed).unwrap();
        let Some((seen, faults)) = read(&path) else {
            refused += 1;
            continue;
        };
        faulty += u32::from(faults > 0);
        // A byte of a value or a number can change unnoticed, but every revision is there, or it is said that one is not.
        assert!(faults > 0 || revisions(&seen) == revisions(&whole), "round {round}");
    }
    assert!(refused > 5 && faulty > 50, "{refused} refused, {faulty} faulty");
}

#[test]
fn a_log_that_breaks_is_told_of_and_one_that_ends_is_not() {
    let (folder, path) = store();
    let log = folder.path().join("state.db-wal");
    let (whole, bytes) = (read(&path).unwrap().0, fs::read(&log).unwrap());
    let mut random = Random::new(5);
    for round in 0..40 {
        let mut harmed = bytes.clone();
        let at = random.below(harmed.len());
        harmed[at] ^= 1 << random.below(8);
        fs::write(&log, &harmed).unwrap();
        match read(&path) {
            None => {}
            Some((seen, faults)) => assert!(faults > 0 || seen == whole, "round {round}: a bit of byte {at}"),
        }
        // A log that ends early is what a crash leaves.
        fs::write(&log, &bytes[..at]).unwrap();
        if let Some((seen, faults)) = read(&path) {
            assert!(faults == 0 && seen.records.is_subset(&whole.records), "round {round}: cut at {at}");
        }
    }
    let mut harmed = bytes.clone();
    harmed[bytes.len() / 2] ^= 1;
    fs::write(&log, &harmed).unwrap();
    let check = atrest(&["check", argument(&path)]);
    assert!(check.code == 1 && check.text().contains("its log breaks at frame"), "{}", check.text());
}
