//! `check` against the newest etcdutl, and bbolt's own check, on every database of `testdata` and on new ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::built::built;
use super::program::{argument, atrest, temporary, testdata};
use super::servers::{Release, Server, output};

/// Every database of `testdata` that is a plain file.
fn databases() -> Vec<PathBuf> {
    let files = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let folders = files(testdata("").into()).filter(|path| path.is_dir());
    let found: Vec<PathBuf> =
        folders.flat_map(files).filter(|path| path.extension().is_some_and(|end| end == "db")).collect();
    assert!(found.len() >= 11, "{found:?}");
    found
}

/// The five fields that the newest etcdutl prints of a file are ours, too.
#[track_caller]
fn agrees_with_etcdutl(path: &Path) {
    // etcdutl opens a database for writing.
    let folder = temporary();
    let copy = folder.path().join("copy.db");
    fs::copy(path, &copy).unwrap();
    let mut command = Command::new(Release::V3_7.program("etcdutl"));
    command.args(["snapshot", "status", "-w", "json"]).arg(&copy);
    let expected: Value = serde_json::from_slice(&output(command)).unwrap();
    let run = atrest(&["check", argument(path), "-o", "json"]);
    let found = run.json();
    assert_eq!(run.code, 0, "{}: {found}", path.display());
    let fields = expected.as_object().unwrap();
    assert_eq!(fields.len(), 5, "{expected}");
    for (field, content) in fields {
        assert_eq!(&found[field], content, "{field} of {}", path.display());
    }
}

#[test]
fn the_five_fields_of_the_newest_etcdutl_are_the_same_for_every_store() {
    databases().iter().for_each(|path| agrees_with_etcdutl(path));
}

#[test]
fn the_five_fields_of_the_newest_etcdutl_are_the_same_for_a_new_store() {
    for release in Release::ALL {
        let server = Server::start(release);
        for round in 0..300 {
            server.put(format!("/registry/secrets/default/s-{}", round % 120), &vec![round as u8; 40 * round]);
        }
        (0..40).for_each(|index| server.delete(&format!("/registry/secrets/default/s-{index}")));
        agrees_with_etcdutl(&server.snapshot());
        server.compact(200);
        agrees_with_etcdutl(&server.snapshot());
        server.defragment();
        agrees_with_etcdutl(&server.snapshot());
    }
}

#[test]
fn bbolts_own_check_finds_no_fault_where_ours_finds_none() {
    for path in databases() {
        // The tool takes a lock on what it opens.
        let folder = temporary();
        let copy = folder.path().join("copy.db");
        fs::copy(&path, &copy).unwrap();
        let mut command = Command::new(built("bbolt"));
        command.args(["check", argument(&copy)]);
        assert_eq!(String::from_utf8_lossy(&output(command)).trim(), "OK", "{}", path.display());
        assert_eq!(atrest(&["check", argument(&path)]).code, 0, "{}", path.display());
    }
}
