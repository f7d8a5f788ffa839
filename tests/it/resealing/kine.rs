//! The same of K3s' SQLite: what stands in it is made by rows as kine writes them, and read back by SQLite alone.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::super::bootstrap::{config, hex, identity, provider, record, record_key, state, token};
use super::super::kine::{compact, store};
use super::super::made::secret_key;
use super::super::program::{argument, atrest, cell, private};
use super::{NEW, decoded, opened, rewrite};

const OLD: (&str, u8) = ("aescbckey", 1);
const REMOVED: (&str, u8) = ("aescbckey-2026-01-01T00:00:00Z", 9);

/// A row that follows another of its name, or begins one.
pub fn put(connection: &Connection, name: &str, value: &[u8]) {
    let last = "SELECT id, CASE WHEN create_revision > 0 THEN create_revision ELSE id END, value FROM kine \
                WHERE name = ?1 ORDER BY id DESC LIMIT 1";
    let last: Option<(i64, i64, Vec<u8>)> =
        connection.query_row(last, [name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).ok();
    let insert = "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) \
                  VALUES (?1, ?2, 0, ?3, ?4, 0, ?5, ?6)";
    let (prev, create, old) = last.map_or((0, 0, None), |(id, create, value)| (id, create, Some(value)));
    connection.execute(insert, params![name, prev == 0, create, prev, value, old]).unwrap();
}

/// K3s' store with so many moments of its record, the newest last, and Secrets on the keys of each.
fn moments(keys: &[(&str, u8)]) -> (TempDir, PathBuf) {
    let (folder, path) = store();
    let connection = Connection::open(&path).unwrap();
    let gone = "DELETE FROM kine WHERE name LIKE '/registry/secrets/%' OR name LIKE '/registry/minions/%'";
    connection.execute_batch(&format!("PRAGMA wal_autocheckpoint = 0; {gone}")).unwrap();
    for (index, key) in keys.iter().enumerate() {
        let text = config(&[provider("aescbc", &[*key]), identity()]);
        let time = format!("2026-10-{:02}T00:00:00Z", index + 1);
        let stage = state("reencrypt_finished", &text);
        put(&connection, &record_key("pass"), record("pass", &text, &stage, &time).as_bytes());
        let node = super::super::bootstrap::node(1, "server-1", "k3s", Some(&stage));
        put(&connection, "/registry/minions/server-1", &node.value);
        let name = format!("s-{index}");
        put(&connection, &secret_key(&name), &super::super::bootstrap::cbc(1, &name, *key).value);
    }
    drop(connection);
    (folder, path)
}

fn value(path: &Path, name: &str) -> Vec<u8> {
    let connection = Connection::open(path).unwrap();
    let newest = "SELECT value FROM kine WHERE name = ?1 ORDER BY id DESC LIMIT 1";
    connection.query_row(newest, [name], |row| row.get(0)).unwrap()
}

fn configurations(path: &Path, folder: &TempDir) -> (Value, String) {
    let (token, out) = (private(folder, "token", token("server", "pass").as_bytes()), folder.path().join("c.json"));
    let out = argument(&out).to_owned();
    let run =
        atrest(&["recover-config", argument(path), "--token-file", &token, "-o", &out, "--force", "--report", "json"]);
    assert_eq!(run.code, 0, "{}", run.err);
    (run.json(), out)
}

fn standings(document: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let moments = document["configurations"].as_array().unwrap().iter();
    moments.map(|moment| (text(&moment["standing"]), text(&moment["keys"][0]))).collect()
}

fn pair(standing: &str, key: (&str, u8)) -> (String, String) {
    (standing.to_owned(), format!("aescbc/{}", key.0))
}

#[test]
fn a_rewritten_database_says_of_itself_what_its_values_say() {
    let (folder, path) = moments(&[REMOVED, OLD]);
    let text = config(&[provider("aescbc", &[NEW]), identity()]);
    let (to, out) = (private(&folder, "to.json", text.as_bytes()), folder.path().join("new.db"));
    let token = private(&folder, "token", token("server", "pass").as_bytes());
    let run = rewrite(argument(&path), &to, argument(&out), &["--distro", "k3s", "--token-file", &token]);
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
    assert!(run.text().contains("/encryption-*.json /var/lib/rancher/k3s/server/cred/\n"), "{}", run.text());
    assert!(!run.text().contains("cluster-reset"), "{}", run.text());
    let record = String::from_utf8(value(&out, &record_key("pass"))).unwrap();
    let members: Value = serde_json::from_str(&opened(&record, "pass")).unwrap();
    let finished = format!("reencrypt_finished-{}", hex(&Sha256::digest(&text)));
    assert_eq!(decoded(&members["EncryptionConfig"]["Content"]), text);
    assert_eq!(decoded(&members["EncryptionHash"]["Content"]), finished);
    let node: Value = serde_json::from_slice(&value(&out, "/registry/minions/server-1")).unwrap();
    assert_eq!(node["metadata"]["annotations"]["k3s.io/encryption-config-hash"], finished);
    for (file, content) in [("encryption-config.json", &text), ("encryption-state.json", &finished)] {
        assert_eq!(&fs::read_to_string(format!("{}.cred/{file}", argument(&out))).unwrap(), content);
    }
    let new = format!("k8s:enc:aescbc:v1:{}:", NEW.0);
    for name in ["s-0", "s-1"] {
        assert!(value(&out, &secret_key(name)).starts_with(new.as_bytes()));
    }
    let document = atrest(&["status", argument(&out), "--token-file", &token, "-o", "json"]).json();
    assert_eq!((&document["next"]["safe"], &document["findings"]), (&json!(true), &json!([])), "{document:#}");
    let audited = atrest(&["audit", argument(&out), "-c", &to, "-o", "json"]).json();
    assert_eq!((&audited["totals"]["unreadable"], &audited["totals"]["stale"]), (&json!(0), &json!(0)));
}

#[test]
fn a_removed_key_is_got_back_from_history_old_value_pages_and_log() {
    let keys = [("k1", 1), ("k2", 2), ("k3", 3), ("k4", 4)];
    let (folder, path) = moments(&keys);
    let expected = |last: [&str; 3]| {
        let older = last.into_iter().zip([keys[2], keys[1], keys[0]]).map(|(standing, key)| pair(standing, key));
        std::iter::once(pair("entry", keys[3])).chain(older).collect::<Vec<_>>()
    };
    let (document, _) = configurations(&path, &folder);
    assert_eq!(standings(&document), expected(["history"; 3]));
    // kine's compaction takes the older rows; one is kept by the newest as `old_value`, the others stand in the log.
    let connection = Connection::open(&path).unwrap();
    let last = connection.query_row("SELECT MAX(id) FROM kine", [], |row| row.get::<_, i64>(0)).unwrap();
    compact(&connection, last);
    // As long as somebody has it open the log is not brought in.
    let (document, out) = configurations(&path, &folder);
    assert_eq!(standings(&document), expected(["residue"; 3]));
    // What is brought in leaves free pages behind, and the record of each is too long for one.
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    let (document, _) = configurations(&path, &folder);
    let found = standings(&document);
    assert_eq!(found[..2], expected(["residue"; 3])[..2], "old_value");
    assert!(found.len() > 2, "nothing was left in free pages: {found:?}");
    // The keys open what is on them, and what is left is told for each of them.
    let run = atrest(&["audit", argument(&path), "-c", &out, "-o", "csv", "--residue"]);
    let opened = run
        .rows()
        .iter()
        .filter(|row| cell(row, "resource") == "secrets" && cell(row, "record") == "entry")
        .map(|row| cell(row, "readable").to_owned())
        .collect::<Vec<_>>();
    assert_eq!(opened, ["yes"; 4]);
    // A VACUUM, as kine does when it starts, clears it all but what rows keep.
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    let (document, _) = configurations(&path, &folder);
    assert_eq!(standings(&document), expected(["residue"; 3])[..2]);
}

#[test]
fn status_tells_of_a_database_what_it_tells_of_a_snapshot() {
    let (folder, path) = moments(&[REMOVED, OLD]);
    let token = private(&folder, "token", token("server", "pass").as_bytes());
    let run = atrest(&["status", argument(&path), "--token-file", &token]);
    let own = "Encryption Status: Enabled\nCurrent Rotation Stage: reencrypt_finished\n\
               Server Encryption Hashes: All hashes match\n\n\
               Active  Key Type  Name\n------  --------  ----\n \
               *      AES-CBC   aescbckey\n\n";
    assert!(run.text().starts_with(own), "{}", run.text());
    let sentence = format!("reencrypt_finished, but 1 Secret is on the key that was removed (aescbc/{})\n", REMOVED.0);
    assert!(run.code == 1 && run.text().contains(&sentence), "{}", run.text());
    let asked = atrest(&["status", argument(&path), "--token-file", &token, "-o", "json"]).json();
    assert_eq!((&asked["distro"], &asked["next"]["safe"]), (&json!("k3s"), &json!(false)));
}
