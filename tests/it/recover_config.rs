//! `recover-config`, and `-c` and `--token-file` of all commands: configurations out of the store itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::bootstrap::{
    CA_KEY, cbc, config, hex, identity, members, node, provider, record, record_key, record_of, state, token,
};
use super::made::{Put, store};
use super::program::{Run, argument, atrest, cell, private, program, temporary, testdata};

const RKE2: &str = "rke2/on-demand-server-1-1763600000.zip";
const OPENSHIFT: &str = "openshift4/snapshot_2026-11-20_040506.db";
const TARBALL: &str = "openshift4/static_kuberesources_2026-11-20_040506.tar.gz";

/// Every value that was put in, opened: rows against what the store's maker wrote down.
fn opens_everything(store: &str, truth: &str, judged: &[&str]) {
    let run = atrest(&[&["audit", &testdata(store), "-o", "csv"][..], judged].concat());
    let rows = run.rows();
    let rows: std::collections::HashMap<_, _> = rows.iter().map(|row| (cell(row, "key"), row)).collect();
    let text = fs::read_to_string(testdata(truth)).unwrap();
    let mut opened = 0;
    for line in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let row = rows[line["key"].as_str().unwrap()];
        if line["provider"] != "identity" {
            let by = format!("{}/{}", line["provider"].as_str().unwrap(), line["key_name"].as_str().unwrap());
            assert_eq!((cell(row, "readable"), cell(row, "opened_by")), ("yes", by.as_str()), "{row:#?}");
            opened += 1;
        } else {
            assert_eq!(cell(row, "readable"), "yes", "{row:#?}");
        }
    }
    assert!(opened > 0);
}

#[test]
fn nothing_but_the_token_and_the_snapshot_opens_every_value_of_rke2() {
    let token = testdata("rke2/token");
    opens_everything(RKE2, "rke2/truth.jsonl", &["--token-file", &token]);
    let folder = temporary();
    let path = folder.path().join("recovered.json");
    let path = argument(&path);
    let run = atrest(&["recover-config", &testdata(RKE2), "--token-file", &token, "-o", path, "--report", "json"]);
    let document = run.json();
    assert_eq!((run.code, &document["schema"]), (0, &json!("atrest.recover-config/1")));
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o600);
    let times: Vec<_> = document["configurations"].as_array().unwrap().iter().map(|one| &one["time"]).collect();
    assert_eq!(times, [&json!("2026-11-20T10:12:00.5Z"), &json!("2026-10-01T00:00:00.000000001Z")]);
    assert_eq!(document["added_keys"][0]["key_name"], "aescbckey");
    opens_everything(RKE2, "rke2/truth.jsonl", &["-c", path]);
    // The key that writes is still the one that wrote.
    let written: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let keys = &written["resources"][0]["providers"][0]["aescbc"]["keys"];
    assert_eq!(
        (&keys[0]["name"], &keys[1]["name"]),
        (&json!("aescbckey-2026-11-20T10:11:12+01:00"), &json!("aescbckey"))
    );
}

#[test]
fn values_on_a_removed_key_are_an_error_although_they_open() {
    let run = atrest(&["audit", &testdata(RKE2), "--token-file", &testdata("rke2/token"), "-o", "json"]);
    let document = run.json();
    let removed = document["findings"].as_array().unwrap().iter().find(|one| one["id"] == "removed-key").unwrap();
    assert_eq!((run.code, &removed["count"], &removed["severity"]), (1, &json!(2), &json!("error")));
    let run = atrest(&[
        "get",
        &testdata(RKE2),
        "secret",
        "s-17",
        "-n",
        "kube-system",
        "--token-file",
        &testdata("rke2/token"),
        "-o",
        "name",
    ]);
    assert_eq!((run.code, run.text()), (0, "secret/s-17\n"));
}

#[test]
fn the_tarball_and_the_snapshot_open_all_of_openshift() {
    let tarball = testdata(TARBALL);
    opens_everything(OPENSHIFT, "openshift4/truth.jsonl", &["-c", &tarball]);
    let folder = temporary();
    let path = folder.path().join("recovered.json");
    let path = argument(&path);
    let run = atrest(&["recover-config", &testdata(OPENSHIFT), "-c", &tarball, "-o", path, "--report", "json"]);
    let document = run.json();
    assert_eq!((run.code, document["configurations"].as_array().unwrap().len()), (0, 3));
    opens_everything(OPENSHIFT, "openshift4/truth.jsonl", &["-c", path]);
    let all = atrest(&[
        "recover-config",
        &testdata(OPENSHIFT),
        "-c",
        &tarball,
        "--all",
        "-o",
        path,
        "--force",
        "--report",
        "json",
    ]);
    assert_eq!(all.json()["configurations"][3]["keys"], json!(["aescbc/2"]), "revision 11");
    opens_everything(OPENSHIFT, "openshift4/truth.jsonl", &["-c", path]);
    for command in [&["keys"][..], &["fit"]] {
        let given = if command == ["fit"] { vec![tarball.as_str()] } else { vec!["-c", &tarball] };
        let run = atrest(&[command, &[&testdata(OPENSHIFT)], &given[..]].concat());
        assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
    }
}

#[test]
fn the_newest_configuration_is_written_as_it_was_where_nothing_is_to_be_added() {
    let run = atrest(&["recover-config", &testdata("k3s/snapshot.db"), "--token-file", &testdata("k3s/token")]);
    assert_eq!((run.code, run.out == fs::read(testdata("k3s/encryption-config.json")).unwrap()), (0, true));
    assert!(run.err.contains("rotate-5e3d755a51c2"), "{}", run.err);
}

#[test]
fn the_token_is_taken_from_the_environment_and_never_shown() {
    for name in ["K3S_TOKEN", "RKE2_TOKEN"] {
        let text = fs::read_to_string(testdata("k3s/token")).unwrap();
        let mut command = program();
        command.args(["recover-config", &testdata("k3s/snapshot.db")]).env(name, text.trim());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let password = text.trim().rsplit(':').next().unwrap();
        assert!(!String::from_utf8_lossy(&output.stderr).contains(password));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("PRIVATE KEY"));
    }
}

fn recover(source: &str, more: &[&str]) -> Run {
    atrest(&[&["recover-config", source][..], more].concat())
}

/// A store with such bootstrap records, and one Secret.
fn records(folder: &tempfile::TempDir, records: &[(&str, &str)], freed: &[Put]) -> String {
    let put = |(index, (key, value)): (usize, &(&str, &str))| Put::new(index as i64 + 2, *key, *value);
    let mut puts: Vec<_> = records.iter().enumerate().map(put).collect();
    puts.push(cbc(50, "s", ("k", 1)));
    store(folder, "db", &puts, freed)
}

fn one_key(key: (&str, u8)) -> String {
    config(&[provider("aescbc", &[key]), identity()])
}

#[test]
fn revisions_in_free_pages_give_their_keys_too() {
    let folder = temporary();
    let (now, before) = (one_key(("n", 2)), one_key(("k", 1)));
    let key = record_key("pass");
    let old = record("pass", &before, &state("start", &before), "2026-10-01T00:00:00Z");
    let new = record("pass", &now, &state("reencrypt_finished", &now), "2026-11-01T00:00:00Z");
    let source = records(&folder, &[("/a", ""), ("/b", ""), (&key, &new)], &[Put::new(2, key.as_str(), old)]);
    let token = private(&folder, "token", token("server", "pass").as_bytes());
    let out = folder.path().join("c.json");
    let run = recover(&source, &["--token-file", &token, "-o", argument(&out), "--report", "json"]);
    let document = run.json();
    let standings: Vec<_> = document["configurations"].as_array().unwrap().iter().map(|one| &one["standing"]).collect();
    assert_eq!(standings, [&json!("entry"), &json!("residue")]);
    assert_eq!(
        (&document["added_keys"][0]["key_name"], document["added_keys"].as_array().unwrap().len()),
        (&json!("k"), 1)
    );
    let run = atrest(&["keys", &source, "-c", argument(&out), "--require-unused", "k"]);
    assert_eq!(run.code, 1, "the Secret is on it, and opens: {}", run.text());
}

#[test]
fn one_name_with_two_secrets_keeps_both() {
    let folder = temporary();
    let (now, before) = (one_key(("k", 2)), one_key(("k", 1)));
    let key = record_key("pass");
    let older = record("pass", &before, "start-00", "2026-10-01T00:00:00Z");
    let newer = record("pass", &now, "start-00", "2026-11-01T00:00:00Z");
    let source = records(&folder, &[(&key, &older), (&key, &newer)], &[]);
    let token = private(&folder, "token", b"pass");
    let document = atrest(&["audit", &source, "--token-file", &token, "-o", "json"]).json();
    assert_eq!(document["totals"]["unreadable"], 0);
    assert_eq!(
        document["totals"]["readable"],
        document["totals"]["entries"].as_u64().unwrap() - 1,
        "the record is no object"
    );
}

#[test]
fn wrong_tokens_are_refused_in_a_sentence_that_tells_nothing_more() {
    let source = testdata("k3s/snapshot.db");
    let folder = temporary();
    let refused = |content: &str| {
        let path = private(&folder, "token", content.as_bytes());
        let run = recover(&source, &["--token-file", &path]);
        run.failed(3).lines().next().unwrap().rsplit(": ").next().unwrap().to_owned()
    };
    // As near to the right one as can be, and as far: one sentence.
    let right = fs::read_to_string(testdata("k3s/token")).unwrap();
    let mut near = right.trim().to_owned();
    near.pop();
    assert_eq!(refused(&near), refused("x"));
    assert!(refused("x").contains("another cluster's"));
    assert!(refused(&token("node", "x")).contains("in server/token of a server"));
    assert!(refused("abcdef.0123456789abcdef").contains("it seals nothing"));
    assert!(refused("").contains("empty"));
    assert!(recover(&source, &[]).failed(3).contains("--token-file"));
    assert!(recover(&testdata("kubeadm/snapshot.db"), &[]).failed(3).contains("no bootstrap record"));
}

#[test]
fn an_agents_token_that_opens_the_record_is_a_finding() {
    let folder = temporary();
    let text = one_key(("k", 1));
    let value = record("pass", &text, &state("start", &text), "2026-10-01T00:00:00Z");
    let source = records(&folder, &[(&record_key("pass"), &value)], &[]);
    let path = private(&folder, "token", token("node", "pass").as_bytes());
    let run = recover(&source, &["--token-file", &path]);
    assert_eq!((run.code, run.out == text.as_bytes()), (1, true));
    assert!(run.err.contains("an agent's token opens"), "{}", run.err);
    let right = private(&folder, "right", token("server", "pass").as_bytes());
    assert_eq!(recover(&source, &["--token-file", &right]).code, 0);
}

#[test]
fn two_records_and_one_under_a_strange_name_are_told() {
    let folder = temporary();
    let text = one_key(("k", 1));
    let value = record("pass", &text, &state("start", &text), "2026-10-01T00:00:00Z");
    let other = record("other", &text, &state("start", &text), "2026-10-01T00:00:00Z");
    let source = records(&folder, &[(&record_key("other"), &other), ("/bootstrap/000000000000", &value)], &[]);
    let path = private(&folder, "token", b"pass");
    let out = folder.path().join("c.json");
    let run = recover(&source, &["--token-file", &path, "-o", argument(&out), "--report", "json"]);
    let document = run.json();
    let ids: Vec<_> = document["findings"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!((run.code, ids), (0, vec!["bootstrap.other-name", "bootstrap.several-records"]));
}

#[test]
fn the_empty_passphrase_needs_no_token() {
    let folder = temporary();
    let text = one_key(("k", 1));
    let value = record("", &text, &state("start", &text), "2026-10-01T00:00:00Z");
    let source = records(&folder, &[("/bootstrap/e3b0c44298fc", &value)], &[]);
    let run = recover(&source, &[]);
    assert_eq!((run.code, run.out == text.as_bytes()), (1, true));
    assert!(run.err.contains("CVE-2021-32001"), "{}", run.err);
}

#[test]
fn early_records_without_timestamps_are_read() {
    let folder = temporary();
    let text = one_key(("k", 1));
    let whole = members(&text, &state("start", &text), "2026-10-01T00:00:00Z");
    let document: Value = serde_json::from_str(&whole).unwrap();
    let old: serde_json::Map<_, _> =
        document.as_object().unwrap().iter().map(|(name, file)| (name.clone(), file["Content"].clone())).collect();
    let value = record_of("K10::server:pass", &Value::Object(old).to_string(), 3);
    // The first releases sealed with the whole token.
    let source = records(&folder, &[(&record_key("K10::server:pass"), &value)], &[]);
    let path = private(&folder, "token", b"K10::server:pass\n");
    let run = recover(&source, &["--token-file", &path]);
    assert_eq!((run.code, run.out == text.as_bytes()), (0, true), "{}", run.err);
}

#[test]
fn damaged_records_are_told_from_wrong_tokens() {
    let folder = temporary();
    let text = one_key(("k", 1));
    let whole = record("pass", &text, "start-00", "2026-10-01T00:00:00Z");
    let key = record_key("pass");
    let mut flipped = whole.clone().into_bytes();
    let last = flipped.len() - 5;
    flipped[last] = if flipped[last] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    let no_json = record_of("pass", "no JSON at all", 1);
    let never_on = record_of("pass", "{\"ServerCA\":\"eA==\"}", 1);
    let broken = record_of("pass", &members("kind: Nothing", "x", "2026-10-01T00:00:00Z"), 1);
    for (value, words) in [
        (flipped.as_str(), "does not open it"),
        (&whole[..30], "no base64"),
        ("", "sealed"),
        ("nonsense", "no bootstrap record"),
        (&no_json, "no JSON"),
        (&never_on, "never switched on"),
        (&broken, "another cluster's"),
    ] {
        let folder = temporary();
        let source = records(&folder, &[(&key, value)], &[]);
        let path = private(&folder, "token", b"pass");
        let run = recover(&source, &["--token-file", &path]);
        let said = run.failed(3);
        if !value.is_empty() && value != broken {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(!said.contains(CA_KEY));
    }
    // A damaged newest one does not keep older ones from being found.
    let source = records(&folder, &[(&key, &whole), (&key, &flipped)], &[]);
    let path = private(&folder, "token", b"pass");
    let run = recover(&source, &["--token-file", &path]);
    assert_eq!((run.code, run.out == text.as_bytes()), (0, true), "{}", run.err);
    assert!(run.err.contains("gave nothing"), "{}", run.err);
}

#[test]
fn a_servers_folder_is_a_configuration() {
    let folder = temporary();
    let cred = folder.path().join("server/cred");
    fs::create_dir_all(&cred).unwrap();
    let text = one_key(("k", 1));
    fs::write(cred.join("encryption-config.json"), &text).unwrap();
    let source = store(&folder, "db", &[cbc(5, "s", ("k", 1)), node(6, "a", "k3s", None)], &[]);
    let server = folder.path().join("server");
    for path in [cred.as_path(), &server] {
        let document = atrest(&["audit", &source, "-c", argument(path), "-o", "json"]).json();
        assert_eq!((&document["totals"]["unreadable"], &document["totals"]["unknown"]), (&json!(0), &json!(0)));
        assert_eq!(document["configs"][0]["sha256"], hex(&Sha256::digest(&text)));
    }
    let run = atrest(&["audit", &source, "-c", argument(folder.path())]);
    assert!(run.failed(3).contains("no encryption-config.json in it"), "{}", run.err);
    let both = atrest(&["audit", &source, "-c", argument(&cred), "--token-file", argument(&cred)]);
    both.failed(2);
}

/// A tar of such files, under gzip.
fn tarball(folder: &tempfile::TempDir, name: &str, files: &[(&str, tar::EntryType, &str)]) -> String {
    let mut bytes = Vec::new();
    for (path, kind, content) in files {
        let mut header = tar::Header::new_ustar();
        let place = &mut header.as_ustar_mut().unwrap().name;
        place.iter_mut().zip(path.bytes()).for_each(|(to, byte)| *to = byte);
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    let path = folder.path().join(name);
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &bytes).unwrap();
    encoder.finish().unwrap();
    argument(&path).to_owned()
}

#[test]
fn hostile_tarballs_are_refused_and_nothing_of_them_is_written() {
    const POD: &str = "static-pod-resources/kube-apiserver-pod-7/secrets/encryption-config/encryption-config";
    let file = tar::EntryType::Regular;
    let folder = temporary();
    let text = one_key(("k", 1));
    let source = store(&folder, "db", &[cbc(5, "s", ("k", 1))], &[]);
    let out = format!("../{POD}");
    for (name, files, words) in [
        ("link", vec![(POD, tar::EntryType::Symlink, "")], "link"),
        ("out", vec![(out.as_str(), file, text.as_str())], "leads out"),
        ("none", vec![("a", file, "b")], "holds no static-pod-resources"),
        ("twice", vec![(POD, file, text.as_str()), (POD, file, "{}")], "twice"),
    ] {
        let path = tarball(&folder, name, &files);
        let run = atrest(&["audit", &source, "-c", &path]);
        assert!(run.failed(3).contains(words), "{name}: {}", run.err);
    }
    let bomb = folder.path().join("bomb");
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&bomb).unwrap(), flate2::Compression::best());
    let mut header = tar::Header::new_ustar();
    header.set_size(600 << 20);
    header.set_cksum();
    std::io::Write::write_all(&mut encoder, header.as_bytes()).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 600 << 20), &mut encoder).unwrap();
    encoder.finish().unwrap();
    let run = atrest(&["audit", &source, "-c", argument(&bomb)]);
    assert!(run.failed(3).contains("unpacks to more"), "{}", run.err);
    assert!(!folder.path().parent().unwrap().join("static-pod-resources").exists());
    let higher = POD.replace("pod-7", "pod-10");
    let other = one_key(("k", 9));
    let good = tarball(&folder, "good", &[(POD, file, &other), (&higher, file, &text)]);
    let document = atrest(&["audit", &source, "-c", &good, "-o", "json"]).json();
    assert_eq!(document["totals"]["unreadable"], 0, "revision 10 is newer than 7");
}
