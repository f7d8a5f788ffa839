//! `status`: K3s' own text of a store, and what the values say of it.

use serde_json::{Value, json};

use super::bootstrap::{CA_KEY, cbc, config, identity, node, provider, record, record_key, state, token};
use super::made::{Put, secret, secret_key, store};
use super::program::{Run, atrest, private, temporary, testdata};

fn status(source: &str, more: &[&str]) -> Run {
    atrest(&[&["status", source][..], more].concat())
}

fn findings(document: &Value) -> Vec<&str> {
    document["findings"].as_array().unwrap().iter().map(|finding| finding["id"].as_str().unwrap()).collect()
}

#[test]
fn k3s_between_rotate_and_reencrypt_is_told_line_by_line_as_its_own_command_tells_it() {
    let own = "Encryption Status: Enabled\nCurrent Rotation Stage: rotate\n\
               Server Encryption Hashes: hash does not match between server-1 and server-2\n\n\
               Active  Key Type  Name\n------  --------  ----\n \
               *      AES-CBC   aescbckey-2026-11-20T10:11:12+01:00\n        AES-CBC   aescbckey\n\n";
    let source = testdata("k3s/snapshot.db");
    for judged in [["--token-file", "k3s/token"], ["-c", "k3s/encryption-config.json"]] {
        let run = status(&source, &[judged[0], &testdata(judged[1])]);
        assert!(run.text().starts_with(own), "{}", run.text());
        assert_eq!((run.code, run.err.as_str()), (1, ""));
        assert!(run.text().contains("server-2  prepare  b1cfdb22b29e  another one's\n"), "{}", run.text());
    }
    let document = status(&source, &["--token-file", &testdata("k3s/token"), "-o", "json"]).json();
    let command = json!({
        "stage": "rotate",
        "activekey": "AES-CBC aescbckey-2026-11-20T10:11:12+01:00",
        "enable": true,
        "hasherror": "hash does not match between server-1 and server-2",
        "inactivekeys": ["AES-CBC aescbckey"],
    });
    assert_eq!((&document["schema"], &document["secrets_encrypt"]), (&json!("atrest.status/1"), &command));
    assert_eq!(findings(&document), ["status.hash-mismatch", "status.old-key-still-writes", "status.plaintext"]);
    assert_eq!((&document["plaintext"], &document["next"]["safe"]), (&json!(15), &json!(false)));
    let entries: Vec<_> = document["keys"].as_array().unwrap().iter().map(|key| key["entries"].as_u64()).collect();
    assert_eq!(entries, [Some(30), Some(15)]);
}

#[test]
fn rke2_says_that_it_is_finished_and_two_secrets_say_otherwise() {
    let own = "Encryption Status: Enabled\nCurrent Rotation Stage: reencrypt_finished\n\
               Server Encryption Hashes: All hashes match\n\n\
               Active  Key Type  Name\n------  --------  ----\n \
               *      AES-CBC   aescbckey-2026-11-20T10:11:12+01:00\n\n";
    let source = testdata("rke2/on-demand-server-1-1763600000.zip");
    for judged in [["--token-file", "rke2/token"], ["-c", "rke2/encryption-config.json"]] {
        let run = status(&source, &[judged[0], &testdata(judged[1])]);
        assert!(run.text().starts_with(own), "{}", run.text());
        let sentence = "reencrypt_finished, but 2 Secrets are on the key that was removed (aescbc/aescbckey)\n";
        assert!(run.text().contains(sentence), "{}", run.text());
        assert_eq!(run.code, 1);
    }
    let both = ["--token-file", &testdata("rke2/token"), "-c", &testdata("rke2/encryption-config.json"), "-o", "json"];
    let document = status(&source, &both).json();
    assert_eq!((&document["distro"], findings(&document)), (&json!("rke2"), vec!["status.removed-key"]));
}

#[test]
fn without_a_configuration_stage_and_hashes_are_told_and_no_more_is_claimed() {
    let run = status(&testdata("rke2/on-demand-server-1-1763600000.zip"), &[]);
    assert!(
        run.text().contains("Current Rotation Stage: reencrypt_finished\nServer Encryption Hashes: All hashes match\n")
    );
    assert!(run.code == 0 && !run.text().contains("PASS") && !run.text().contains("removed"), "{}", run.text());
    let document = status(&testdata("k3s/snapshot.db"), &["-o", "json"]).json();
    assert_eq!((&document["secrets_encrypt"], &document["next"]["safe"]), (&Value::Null, &json!(false)));
}

/// A cluster of two servers on one configuration: stage, configuration and Secrets.
fn cluster(folder: &tempfile::TempDir, stage: &str, config: &str, secrets: Vec<Put>) -> (String, String) {
    let state = state(stage, config);
    let mut puts = vec![Put::new(2, record_key("pass"), record("pass", config, &state, "2026-11-01T00:00:00Z"))];
    puts.push(node(3, "a", "k3s", Some(&state)));
    puts.push(node(4, "b", "k3s", Some(&state)));
    puts.extend(secrets);
    (store(folder, "db", &puts, &[]), private(folder, "token", token("server", "pass").as_bytes()))
}

#[test]
fn every_stage_of_a_rotation_names_its_next_step() {
    let (old, new) = (("aescbckey", 1), ("aescbckey-2026-11-20T10:11:12Z", 2));
    let secretbox = [provider("secretbox", &[("secretboxkey", 3)]), provider("aescbc", &[old]), identity()];
    let cbc_keys = |keys: &[_]| [provider("aescbc", keys), identity()].to_vec();
    for (stage, providers, next, safe) in [
        ("start", cbc_keys(&[old]), "secrets-encrypt prepare`", true),
        ("prepare", cbc_keys(&[old, new]), "secrets-encrypt rotate`", true),
        ("rotate", cbc_keys(&[new, old]), "reencrypt`, which takes aescbckey away", false),
        ("reencrypt_request", cbc_keys(&[new, old]), "reencrypt --force`", true),
        ("reencrypt_active", secretbox.to_vec(), "rotate-keys --force`", true),
        ("reencrypt_finished", cbc_keys(&[new, old]), "prepare`", false),
        ("reencrypt_finished", cbc_keys(&[new]), "prepare`", false),
    ] {
        let folder = temporary();
        let (source, token) = cluster(&folder, stage, &config(&providers), vec![cbc(9, "s", old)]);
        let run = status(&source, &["--token-file", &token, "-o", "json"]);
        let document = run.json();
        let step = document["next"]["step"].as_str().unwrap();
        assert!(step.contains(next), "{stage}: {step}");
        assert_eq!((&document["next"]["safe"], run.code), (&json!(safe), i32::from(!safe)), "{document:#}");
        assert_eq!(document["secrets_encrypt"]["stage"], stage);
    }
}

#[test]
fn the_providers_of_1_30_are_told_with_their_type() {
    let folder = temporary();
    let providers =
        [provider("secretbox", &[("secretboxkey", 3)]), provider("aescbc", &[("aescbckey", 1)]), identity()];
    let (source, token) = cluster(&folder, "reencrypt_active", &config(&providers), vec![]);
    let text = status(&source, &["--token-file", &token]);
    let table = "Active  Key Type           Name\n------  --------           ----\n \
                 *      XSalsa20-POLY1305  secretboxkey\n        AES-CBC            aescbckey\n\n";
    assert!(text.text().contains(table), "{}", text.text());
}

#[test]
fn disabled_is_told_in_its_three_forms() {
    let off = "Encryption Status: Disabled\nCurrent Rotation Stage: start\nServer Encryption Hashes: All hashes match\n\n\
               Active  Key Type  Name\n------  --------  ----\n";
    let behind = [identity(), provider("aescbc", &[("aescbckey", 1)])];
    for (providers, rest) in [(&behind[..], "        AES-CBC   aescbckey\n\n"), (&behind[..1], "\n")] {
        let folder = temporary();
        let (source, token) = cluster(&folder, "start", &config(providers), vec![cbc(9, "s", ("aescbckey", 1))]);
        let run = status(&source, &["--token-file", &token]);
        assert!(run.text().starts_with(&format!("{off}{rest}")), "{}", run.text());
    }
    let folder = temporary();
    let never = "{\"ServerCA\":{\"Timestamp\":\"2026-11-01T00:00:00Z\",\"Content\":\"eA==\"}}\n";
    let puts = [
        Put::new(2, record_key("pass"), super::bootstrap::record_of("pass", never, 1)),
        node(3, "a", "k3s", None),
        Put::new(4, secret_key("s"), secret("s", "eA==")),
    ];
    let source = store(&folder, "db", &puts, &[]);
    let token = private(&folder, "token", b"pass\n");
    let run = status(&source, &["--token-file", &token, "--distro", "k3s"]);
    assert!(run.text().starts_with("Encryption Status: Disabled, no configuration file found\n"), "{}", run.text());
}

#[test]
fn the_hash_of_values_that_are_being_written_anew_is_known_as_such() {
    let folder = temporary();
    let (old, new) = (("aescbckey", 1), ("n", 2));
    let text = config(&[provider("aescbc", &[new, old]), identity()]);
    let keys = provider("aescbc", &[new, old]);
    let list = keys.strip_prefix(r#"{"aescbc":{"keys":["#).unwrap().strip_suffix("]}}").unwrap();
    let list =
        format!(r#"[{list},{{"name":"identity","secret":"identity"}},{{"name":"reencrypt_active","secret":"12345"}}]"#);
    let active = state("reencrypt_active", &list);
    let (record_state, other) = (state("rotate", &text), state("rotate", "else"));
    let puts = [
        Put::new(2, record_key("pass"), record("pass", &text, &record_state, "2026-11-01T00:00:00Z")),
        node(3, "a", "k3s", Some(&active)),
        node(4, "b", "k3s", Some(&other)),
        node(5, "c", "k3s", Some("start")),
    ];
    let source = store(&folder, "db", &puts, &[]);
    let token = private(&folder, "token", b"pass");
    let document = status(&source, &["--token-file", &token, "-o", "json"]).json();
    let of: Vec<_> = document["nodes"].as_array().unwrap().iter().map(|node| &node["hash_of"]).collect();
    assert_eq!(of, [&json!("in-progress"), &json!("other"), &Value::Null]);
    let asked = status(&source, &["--token-file", &token, "-o", "json", "--node", "c"]).json();
    assert_eq!(asked["secrets_encrypt_error"], "k3s secrets-encrypt status fails: invalid hash: start found on node c");
    status(&source, &["--token-file", &token, "--node", "d"]).failed(2);
}

#[test]
fn a_configuration_that_the_store_does_not_have_is_told() {
    let folder = temporary();
    let text = config(&[provider("aescbc", &[("k", 1)]), identity()]);
    let (source, token) = cluster(&folder, "start", &text, vec![cbc(9, "s", ("k", 1))]);
    let other = config(&[provider("aescbc", &[("k", 1), ("n", 2)]), identity()]);
    let other = private(&folder, "other.json", other.as_bytes());
    let document = status(&source, &["--token-file", &token, "-c", &other, "-o", "json"]).json();
    assert_eq!(findings(&document), ["status.datastore-differs", "status.other-configuration"]);
    let same = private(&folder, "encryption-config.json", text.as_bytes());
    let run = status(&source, &["-c", folder.path().to_str().unwrap(), "-o", "json"]);
    assert_eq!((run.code, &run.json()["configuration"]["from"]), (0, &json!(same)));
}

#[test]
fn the_empty_passphrase_is_told_even_without_a_token() {
    let folder = temporary();
    let text = config(&[provider("aescbc", &[("k", 1)]), identity()]);
    let state = state("start", &text);
    let puts = [
        Put::new(2, "/bootstrap/e3b0c44298fc", record("", &text, &state, "2026-11-01T00:00:00Z")),
        node(3, "a", "rke2", Some(&state)),
        cbc(4, "s", ("k", 1)),
    ];
    let source = store(&folder, "db", &puts, &[]);
    let run = status(&source, &["-o", "json"]);
    let document = run.json();
    assert_eq!((run.code, findings(&document)), (1, vec!["bootstrap.empty-passphrase"]));
    assert_eq!(document["secrets_encrypt"]["activekey"], "AES-CBC k", "{document:#}");
    assert!(!String::from_utf8_lossy(&run.out).contains(CA_KEY));
}

#[test]
fn openshift_tells_the_keys_of_each_api_server_against_the_values() {
    let source = testdata("openshift4/snapshot_2026-11-20_040506.db");
    let tarball = testdata("openshift4/static_kuberesources_2026-11-20_040506.tar.gz");
    let run = status(&source, &["-c", &tarball, "-o", "json"]);
    let document = run.json();
    let keys: Vec<_> = document["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|component| {
            let key = |key: &Value| {
                let text = |field: &str| key[field].as_str().unwrap_or("-").to_owned();
                (text("number"), text("mode"), text("role"), key["entries"].as_u64().unwrap(), text("migrated"))
            };
            let keys: Vec<_> = component["keys"].as_array().unwrap().iter().map(key).collect();
            (component["component"].as_str().unwrap().to_owned(), keys)
        })
        .collect();
    let key = |number: &str, mode: &str, role: &str, entries, day: &str| {
        let migrated = if day == "-" { day.to_owned() } else { format!("2026-11-{day}T04:05:06Z") };
        (number.to_owned(), mode.to_owned(), role.to_owned(), entries, migrated)
    };
    let kube = vec![
        key("3", "aescbc", "write", 56, "-"),
        key("2", "aescbc", "read", 8, "12"),
        key("1", "identity", "placeholder", 0, "11"),
    ];
    let two = |first, second| vec![key("2", "aescbc", "write", first, "12"), key("1", "aescbc", "read", second, "11")];
    let expected = [
        ("openshift-kube-apiserver".to_owned(), kube),
        ("openshift-apiserver".to_owned(), two(7, 1)),
        ("openshift-oauth-apiserver".to_owned(), two(7, 0)),
    ];
    assert_eq!(keys, expected);
    assert_eq!(findings(&document), ["status.not-rewritten", "status.not-rewritten", "status.unfinished"]);
    assert_eq!(run.code, 1);
    let blind = status(&source, &["-o", "json"]);
    assert_eq!((blind.code, &blind.json()["components"][0]["keys"][0]["role"]), (0, &json!("unknown")));
}

#[test]
fn what_is_behind_a_kms_is_told_with_what_a_rewrite_costs() {
    let document = status(&testdata("kms/snapshot.db"), &["--distro", "ack", "-o", "json"]).json();
    let row = |row: &Value| {
        (
            row["provider"].as_str().unwrap().to_owned(),
            row["provider_version"].as_str().unwrap().to_owned(),
            row["kms_key_id"].as_str().unwrap().to_owned(),
            row["distinct_deks"].as_u64().unwrap(),
        )
    };
    let rows: Vec<_> = document["providers"].as_array().unwrap().iter().map(row).collect();
    let expected = [("ack-kms", "v1", "", 28), ("cloud-kms", "v2", "1", 1), ("cloud-kms", "v2", "2", 1)];
    let expected =
        expected.map(|(provider, version, id, deks)| (provider.to_owned(), version.to_owned(), id.to_owned(), deks));
    assert_eq!(rows, expected);
    assert_eq!(document["rewrite_calls"], json!({"decrypt": 30, "encrypt": 29}));
}

#[test]
fn a_store_of_nobody_says_so() {
    let failed = status(&testdata("kubeadm/snapshot.db"), &[]);
    assert!(failed.failed(3).contains("--distro says which it is"), "{}", failed.err);
}
