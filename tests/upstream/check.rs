//! `check` against the newest etcdutl, and bbolt's own check, on every store of `testdata`.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::built::built;
use super::program::{STORES, argument, atrest, temporary, testdata};
use super::servers::{Release, output};

#[test]
fn the_five_fields_of_the_newest_etcdutl_are_the_same_for_every_store() {
    let folder = temporary();
    let mut compared = 0;
    for (store, _) in STORES.into_iter().filter(|(store, _)| store.ends_with(".db")) {
        // etcdutl opens a database for writing.
        let copy = folder.path().join("copy.db");
        fs::copy(testdata(store), &copy).unwrap();
        let mut command = Command::new(Release::V3_7.program("etcdutl"));
        command.args(["snapshot", "status", "-w", "json"]).arg(&copy);
        let expected: Value = serde_json::from_slice(&output(command)).unwrap();
        let run = atrest(&["check", &testdata(store), "-o", "json"]);
        let found = run.json();
        assert_eq!(run.code, 0, "{store}: {found}");
        let fields = expected.as_object().unwrap();
        assert_eq!(fields.len(), 5, "{store}: {expected}");
        for (field, content) in fields {
            assert_eq!(&found[field], content, "{field} of {store}");
        }
        compared += 1;
    }
    assert!(compared >= 10);
}

#[test]
fn bbolts_own_check_finds_no_fault_where_ours_finds_none() {
    let folder = temporary();
    for (store, _) in STORES.into_iter().filter(|(store, _)| store.ends_with(".db")) {
        let copy = folder.path().join("copy.db");
        fs::copy(testdata(store), &copy).unwrap();
        let mut command = Command::new(built("bbolt"));
        command.args(["check", argument(&copy)]);
        let said = output(command);
        assert_eq!(String::from_utf8_lossy(&said).trim(), "OK", "{store}");
        assert_eq!(atrest(&["check", &testdata(store)]).code, 0, "{store}");
    }
}
