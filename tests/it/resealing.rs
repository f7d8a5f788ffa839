//! `rewrite --distro`: a store of K3s or RKE2 on new keys that says so itself.

#[cfg(feature = "kine")]
mod kine;
mod served;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::bootstrap::{CA_KEY, cbc, config, hex, identity, node, provider, record, record_key, state, token};
use super::made::{Put, store};
use super::program::{Run, argument, atrest, private, temporary, testdata};

const NEW: (&str, u8) = ("aescbckey-2026-11-25T00:00:00Z", 5);

fn rewrite(source: &str, to: &str, out: &str, more: &[&str]) -> Run {
    atrest(&[&["rewrite", source, "--to", to, "-o", out][..], more].concat())
}

/// The new store says of itself what its values say.
fn fits(store: &str, token: &str, text: &str) {
    let recovered =
        atrest(&["recover-config", store, "--token-file", token, "-o", &format!("{store}.json"), "--report", "json"]);
    let newest = &recovered.json()["configurations"][0];
    assert_eq!((&newest["standing"], &newest["sha256"]), (&json!("entry"), &json!(hex(&Sha256::digest(text)))));
    assert_eq!(newest["state"], state("reencrypt_finished", text));
    let status = atrest(&["status", store, "--token-file", token, "-o", "json"]);
    let document = status.json();
    assert_eq!(
        (status.code, &document["next"]["safe"], &document["findings"]),
        (0, &json!(true), &json!([])),
        "{document:#}"
    );
    assert_eq!(
        (&document["secrets_encrypt"]["hashmatch"], &document["secrets_encrypt"]["stage"]),
        (&json!(true), &json!("reencrypt_finished"))
    );
    let nodes = document["nodes"].as_array().unwrap();
    assert!(
        nodes.iter().all(|node| node["control_plane"] == false || node["hash_of"] == "configuration"),
        "{nodes:#?}"
    );
}

#[test]
fn the_record_the_annotations_and_the_values_of_real_stores_come_to_fit_one_configuration() {
    for (distro, source) in [("k3s", "k3s/snapshot.db"), ("rke2", "rke2/on-demand-server-1-1763600000.zip")] {
        let folder = temporary();
        let text = config(&[provider("aescbc", &[NEW]), identity()]);
        let (to, out) = (private(&folder, "to.json", text.as_bytes()), folder.path().join("new.db"));
        let (source, token, out) = (testdata(source), testdata(&format!("{distro}/token")), argument(&out).to_owned());
        let run = rewrite(&source, &to, &out, &["--distro", distro, "--token-file", &token]);
        assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
        assert!(run.text().contains("server-1, server-2, server-3"), "{}", run.text());
        fits(&out, &token, &text);
        let cred = format!("{out}.cred");
        assert_eq!(fs::read_to_string(format!("{cred}/encryption-config.json")).unwrap(), text);
        assert_eq!(
            fs::read_to_string(format!("{cred}/encryption-state.json")).unwrap(),
            state("reencrypt_finished", &text)
        );
        let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&cred), mode(&format!("{cred}/encryption-config.json"))), (0o700, 0o600));
        let document = atrest(&["audit", &out, "-c", &cred, "-o", "json"]).json();
        let totals = &document["totals"];
        assert_eq!(
            (&totals["unreadable"], &totals["stale"], &document["verdict"]),
            (&json!(0), &json!(0), &json!("clean"))
        );
        let errors = document["findings"].as_array().unwrap().iter().filter(|one| one["severity"] == "error").count();
        assert_eq!(errors, 0, "{:#}", document["findings"]);
        // The objects are the old ones, nodes but for their annotation.
        let names =
            |store: &str, how: &[&str]| atrest(&[&["get", store, "secrets", "-A", "-o", "json"][..], how].concat()).out;
        assert!(names(&out, &["-c", &cred]) == names(&source, &["--token-file", &token]));
        rewrite(&source, &to, &out, &["--distro", distro, "--token-file", &token]).failed(4);
    }
}

#[test]
fn everything_in_the_record_that_is_not_about_encryption_stays() {
    let folder = temporary();
    let old = config(&[provider("aescbc", &[("aescbckey", 1)]), identity()]);
    let text =
        config(&[provider("secretbox", &[("secretboxkey", 7)]), provider("aescbc", &[("aescbckey", 1)]), identity()]);
    let before = state("start", &old);
    let key = record_key("pass");
    let puts = [
        Put::new(2, key.as_str(), record("pass", &old, &before, "2026-10-01T00:00:00Z")),
        Put::new(3, record_key("other"), record("other", &old, &before, "2026-10-01T00:00:00Z")),
        node(4, "a", "k3s", Some(&before)),
        node(5, "b", "k3s", None),
        cbc(6, "s", ("aescbckey", 1)),
    ];
    let source = store(&folder, "db", &puts, &[]);
    let (to, out) = (private(&folder, "to.json", text.as_bytes()), folder.path().join("new.db"));
    let (out, token) = (argument(&out).to_owned(), private(&folder, "token", token("server", "pass").as_bytes()));
    let run = rewrite(&source, &to, &out, &["--distro", "k3s", "--token-file", &token]);
    assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
    assert!(run.text().contains("this token does not open it"), "{}", run.text());
    let value = stored(&out, &key);
    let plain = opened(&value, "pass");
    let members: Value = serde_json::from_str(&plain).unwrap();
    assert_eq!(members["ServerCAKey"]["Timestamp"], "2026-10-01T00:00:00Z");
    assert_eq!(decoded(&members["ServerCAKey"]["Content"]), CA_KEY);
    assert_eq!(decoded(&members["EncryptionConfig"]["Content"]), text);
    assert_eq!(decoded(&members["EncryptionHash"]["Content"]), state("reencrypt_finished", &text));
    let written = members["EncryptionConfig"]["Timestamp"].as_str().unwrap();
    assert!(written > "2026-11-01T00:00:00Z" && written.ends_with('Z'), "{written}");
    let salts = [&value[..16], &stored(&source, &key)[..16]];
    assert_ne!(salts[0], salts[1], "a fresh salt");
}

#[test]
fn what_k3s_cannot_take_is_refused() {
    let folder = temporary();
    let old = config(&[provider("aescbc", &[("aescbckey", 1)]), identity()]);
    let puts = [
        Put::new(2, record_key("pass"), record("pass", &old, &state("start", &old), "2026-10-01T00:00:00Z")),
        cbc(6, "s", ("aescbckey", 1)),
    ];
    let source = store(&folder, "db", &puts, &[]);
    let token = private(&folder, "token", b"pass");
    let out = argument(&folder.path().join("new.db")).to_owned();
    for text in [
        config(&[provider("aesgcm", &[NEW]), identity()]),
        config(&[provider("aescbc", &[NEW])]),
        config(&[provider("aescbc", &[NEW]), identity()]).replace("\"secrets\"", "\"secrets\",\"configmaps\""),
    ] {
        let to = private(&folder, "to.json", text.as_bytes());
        let run = rewrite(&source, &to, &out, &["--distro", "k3s", "--token-file", &token]);
        assert!(run.failed(4).contains("secrets-encrypt handles"), "{}", run.err);
    }
    let to = private(&folder, "to.json", config(&[provider("aescbc", &[NEW]), identity()]).as_bytes());
    let wrong = private(&folder, "wrong", b"x");
    let plain = private(&folder, "old.json", old.as_bytes());
    rewrite(&source, &to, &out, &["-c", &plain, "--distro", "k3s", "--token-file", &wrong]).failed(3);
    rewrite(&source, &to, &out, &["-c", &plain, "--distro", "k3s"]).failed(2);
    assert!(!fs::exists(&out).unwrap());
    // The annotations of one distribution are not the other's.
    let puts = [
        Put::new(2, record_key("pass"), record("pass", &old, &state("start", &old), "2026-10-01T00:00:00Z")),
        node(3, "a", "rke2", Some(&state("start", &old))),
    ];
    let other = store(&folder, "rke2.db", &puts, &[]);
    let run = rewrite(&other, &to, &out, &["--distro", "k3s", "--token-file", &token]);
    assert!(run.failed(4).contains("the annotation of rke2"), "{}", run.err);
    // Without --distro the store's own record still stands in the way.
    rewrite(&source, &to, &out, &["-c", &plain]);
    assert!(!fs::exists(&out).unwrap());
}

/// The newest value of a key, by the library's reader.
fn stored(path: &str, key: &str) -> String {
    use atrest::source::snapshot::{PassOptions, Snapshot};
    use atrest::source::{Record, scan::Visitor};

    struct Newest<'k>(&'k str, i64, String);
    impl Visitor for Newest<'_> {
        fn record(&mut self, record: &Record<'_>) {
            if record.kv.key == self.0.as_bytes() && record.kv.mod_revision > self.1 {
                (self.1, self.2) = (record.kv.mod_revision, String::from_utf8(record.kv.value.to_vec()).unwrap());
            }
        }
    }
    let mut snapshot = Snapshot::open(fs::File::open(path).unwrap()).unwrap();
    let options = PassOptions { digest: false, threads: 1, progress: &|_| () };
    let pass = snapshot.pass(options, |_, _| (), |()| Newest(key, 0, String::new())).unwrap();
    pass.visitors.into_iter().map(|newest| newest.2).find(|value| !value.is_empty()).unwrap()
}

/// A record, opened with the ciphers' crates themselves.
fn opened(value: &str, passphrase: &str) -> String {
    use aes_gcm::aead::{Aead, KeyInit};
    use base64::prelude::{BASE64_STANDARD, Engine};

    let (salt, body) = value.split_once(':').unwrap();
    let mut key = [0; 32];
    pbkdf2::pbkdf2_hmac::<sha1::Sha1>(passphrase.as_bytes(), salt.as_bytes(), 4096, &mut key);
    let body = BASE64_STANDARD.decode(body).unwrap();
    let nonce: [u8; 12] = body[..12].try_into().unwrap();
    let cipher = aes_gcm::Aes256Gcm::new_from_slice(&key).unwrap();
    String::from_utf8(cipher.decrypt(&aes_gcm::Nonce::from(nonce), &body[12..]).unwrap()).unwrap()
}

fn decoded(content: &Value) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine};
    String::from_utf8(BASE64_STANDARD.decode(content.as_str().unwrap()).unwrap()).unwrap()
}
