//! A rewritten store under a real etcd: what the server gives is held against itself as K3s does when it starts, with the
//! ciphers' crates alone and nothing of what is tested.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::bootstrap::{config, hex, identity, provider, record_key};
use super::super::program::{Run, argument, atrest, private, temporary, testdata};
use super::super::servers::{Release, Server};
use super::{NEW, decoded, opened, rewrite};

/// Everything that a server gives, by key.
type Given = BTreeMap<String, Vec<u8>>;

fn given(server: &Server) -> Given {
    let text = |text: &str| BASE64_STANDARD.decode(text).unwrap();
    server.all().iter().map(|kv| (String::from_utf8(text(&kv.key)).unwrap(), text(&kv.value))).collect()
}

/// The annotation of a node, by its place in the protobuf: a map's entry has the key, and behind it field 2 with the value.
fn annotation(node: &[u8], name: &str) -> Option<String> {
    let starts: Vec<_> = (0..node.len()).filter(|at| node[*at..].starts_with(name.as_bytes())).collect();
    let texts = starts.iter().filter(|at| **at < 2 || &node[*at - 2..**at] != b"f:").filter_map(|at| {
        let [0x12, length, rest @ ..] = &node[at + name.len()..] else { return None };
        Some(String::from_utf8(rest[..usize::from(*length)].to_vec()).unwrap())
    });
    let texts: Vec<_> = texts.collect();
    assert!(texts.len() <= 1, "{texts:?}");
    texts.into_iter().next()
}

/// What the key of a configuration's first provider opens.
fn cbc_opened(config: &Value, value: &[u8]) -> Vec<u8> {
    use cbc::cipher::{BlockModeDecrypt, KeyIvInit, block_padding::Pkcs7};
    let keys = config["resources"][0]["providers"][0]["aescbc"]["keys"].as_array().unwrap();
    let key = keys.iter().find_map(|key| {
        let prefix = format!("k8s:enc:aescbc:v1:{}:", key["name"].as_str().unwrap());
        Some((value.strip_prefix(prefix.as_bytes())?, BASE64_STANDARD.decode(key["secret"].as_str().unwrap()).unwrap()))
    });
    let (sealed, secret) = key.expect("a key of the record's configuration");
    let (iv, body) = sealed.split_at(16);
    let secret: [u8; 32] = secret.try_into().unwrap();
    let iv: [u8; 16] = iv.try_into().unwrap();
    let decryptor = cbc::Decryptor::<aes::Aes256>::new(&secret.into(), &iv.into());
    let mut body = body.to_vec();
    decryptor.decrypt_padded::<Pkcs7>(&mut body).expect("the right key").to_vec()
}

/// What K3s compares when it starts: the files in `cred` against the record, the record's configuration against its hash,
/// and the nodes' annotations against the state. Gives the configuration of the record.
fn starts(given: &Given, distro: &str, password: &str, cred: &str) -> Value {
    let record = String::from_utf8(given[&record_key(password)].clone()).unwrap();
    let members: Value = serde_json::from_str(&opened(&record, password)).unwrap();
    let (text, state) =
        (decoded(&members["EncryptionConfig"]["Content"]), decoded(&members["EncryptionHash"]["Content"]));
    assert_eq!(state, format!("reencrypt_finished-{}", hex(&Sha256::digest(&text))));
    for (file, content) in [("encryption-config.json", &text), ("encryption-state.json", &state)] {
        assert_eq!(&fs::read_to_string(Path::new(cred).join(file)).unwrap(), content, "{file}");
    }
    let name = format!("{distro}.io/encryption-config-hash");
    let nodes: Vec<_> = given.iter().filter(|(key, _)| key.contains("/minions/")).collect();
    let annotations: Vec<_> = nodes.iter().filter_map(|(_, value)| annotation(value, &name)).collect();
    assert!(annotations.len() == 3 && annotations.iter().all(|annotation| *annotation == state), "{annotations:?}");
    serde_json::from_str(&text).unwrap()
}

/// Every value that was put in comes out, by the record's configuration alone.
fn opens(given: &Given, truth: &str, config: &Value) {
    let truth = fs::read_to_string(testdata(truth)).unwrap();
    let mut sealed = 0;
    for line in truth.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let value = &given[line["key"].as_str().unwrap()];
        let is_secret = line["resource"] == "secrets";
        assert_eq!(value.starts_with(b"k8s:enc:"), is_secret, "{line}");
        // The annotations of servers are others now.
        if line["resource"] == "nodes" {
            continue;
        }
        let plain = if is_secret { cbc_opened(config, value) } else { value.clone() };
        assert_eq!(json!(hex(&Sha256::digest(&plain))), line["plaintext_sha256"], "{line}");
        sealed += usize::from(is_secret);
    }
    assert!(sealed > 20, "{sealed}");
    let prefixed = given.values().filter(|value| value.starts_with(b"k8s:enc:")).count();
    assert_eq!(prefixed, sealed, "nothing is encrypted but what was held against the truth");
}

/// The status of a source says that nothing stands in the way.
fn is_finished(source: &str, token: &str) -> Run {
    let run = atrest(&["status", source, "--token-file", token, "-o", "json"]);
    let document = run.json();
    assert_eq!((run.code, &document["next"]["safe"]), (0, &json!(true)), "{document:#}");
    assert_eq!(document["secrets_encrypt"]["stage"], "reencrypt_finished");
    run
}

#[test]
fn a_real_server_gives_a_record_whose_configuration_opens_every_value_it_gives() {
    for (distro, source) in [("k3s", "k3s/snapshot.db"), ("rke2", "rke2/on-demand-server-1-1763600000.zip")] {
        let folder = temporary();
        let text = config(&[provider("aescbc", &[NEW]), identity()]);
        let to = private(&folder, "to.json", text.as_bytes());
        let token = testdata(&format!("{distro}/token"));
        let written = fs::read_to_string(&token).unwrap();
        let password = written.trim().rsplit(':').next().unwrap();
        for (release, name) in Release::ALL.into_iter().zip(["3.4", "3.5"]) {
            let out = argument(&folder.path().join(format!("new-{name}.db"))).to_owned();
            let how = ["--distro", distro, "--token-file", &token, "--for-etcd", name];
            let run = rewrite(&testdata(source), &to, &out, &how);
            assert_eq!(run.code, 0, "{}{}", run.text(), run.err);
            let reset = format!("{distro} server --cluster-reset --cluster-reset-restore-path={out}\n");
            assert!(run.text().contains(&reset) && !run.text().contains("etcdutl"), "{}", run.text());
            let mut server = Server::restore(release, Path::new(&out));
            let all = given(&server);
            let config = starts(&all, distro, password, &format!("{out}.cred"));
            opens(&all, &format!("{distro}/truth.jsonl"), &config);
            // The same of the server's own snapshot, and of its data directory once it was killed.
            let snapshot = server.snapshot();
            is_finished(argument(&snapshot), &token);
            server.kill();
            is_finished(argument(&server.data()), &token);
        }
    }
}
