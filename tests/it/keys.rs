//! What needs a key, which configuration fits, and what is left in a file of revisions that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use super::program::{argument, atrest, audit, cell, private, temporary, testdata};
use super::servers::{Release, Server};
use super::walk;

/// The lines of a fixture's ground truth.
fn truth(folder: &str) -> Vec<Value> {
    let text = fs::read_to_string(testdata(&format!("{folder}/truth.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kubeadm(more: &[&str]) -> super::program::Run {
    let (store, config) = (testdata("kubeadm/snapshot.db"), testdata("kubeadm/encryption-config.yaml"));
    atrest(&[&["keys", &store, "-c", &config], more].concat())
}

#[test]
fn keys_count_what_the_truth_and_a_plain_walk_count() {
    let document = kubeadm(&["-o", "json"]).json();
    let mut counted: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for row in document["keys"].as_array().unwrap() {
        let id = ["provider", "key_name"].map(|field| row[field].as_str().unwrap().to_owned());
        let count = counted.entry(id.into()).or_default();
        count.0 += row["entries"].as_u64().unwrap();
        count.1 += row["history"].as_u64().unwrap();
    }
    let mut expected: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for line in truth("kubeadm").iter().filter(|line| line["provider"] != "identity") {
        let id = ["provider", "key_name"].map(|field| line[field].as_str().unwrap().to_owned());
        expected.entry(id.into()).or_default().0 += 1;
    }
    let records = walk::view(walk::records(&testdata("kubeadm/snapshot.db")), i64::MAX);
    for (_, record) in records.iter().filter(|(kind, _)| kind.word() == "history") {
        let Some(sealed) = record.value.strip_prefix(b"k8s:enc:") else { continue };
        let parts: Vec<_> = sealed.splitn(4, |byte| *byte == b':').map(String::from_utf8_lossy).collect();
        let known = expected.iter_mut().filter(|((provider, _), _)| *provider == parts[0]);
        let (_, count) = { known }.find(|((_, name), _)| name.split(':').next() == Some(&*parts[2])).unwrap();
        count.1 += 1;
    }
    assert_eq!(counted, expected);
}

#[test]
fn a_key_that_values_need_cannot_go_and_all_of_them_are_listed() {
    let run = kubeadm(&["--require-unused", "key1", "-o", "csv"]);
    assert_eq!(run.code, 1);
    let listed: BTreeSet<_> = run.rows().iter().map(|row| cell(row, "key").to_owned()).collect();
    let on_key1 = |line: &&Value| line["provider"] == "aescbc" && line["key_name"] == "key1";
    let expected = truth("kubeadm").iter().filter(on_key1).map(|line| line["key"].as_str().unwrap().into()).collect();
    assert_eq!(listed, expected);
}

/// The log has 131 writes that the database lacks, and any of them may be on any key.
#[test]
fn no_key_can_go_by_a_database_whose_log_was_not_read() {
    let (packed, config) = (testdata("datadir/data-dir.tar.gz"), testdata("datadir/encryption-config.json"));
    let gate = |source: &str| {
        atrest(&["keys", source, "-c", &config, "--require-unused", "spare", "--allow-absent", "-o", "json"])
    };
    let run = gate(&packed);
    assert_eq!((run.code, &run.json()["read_whole"]), (1, &false.into()));
    assert!(atrest(&["keys", &packed, "-c", &config]).text().contains("may be only in the log beside it"));

    let folder = temporary();
    let file = fs::File::open(&packed).unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(file)).unpack(folder.path()).unwrap();
    let run = gate(argument(folder.path()));
    assert_eq!((run.code, &run.json()["read_whole"]), (0, &true.into()));
}

/// One bit makes `key1` another name, and the file's own digest is all that still tells.
#[test]
fn no_key_can_go_by_what_an_altered_snapshot_says() {
    let folder = temporary();
    let mut bytes = fs::read(testdata("kubeadm/snapshot.db")).unwrap();
    let (name, other) = (b"k8s:enc:aescbc:v1:key1:", b"k8s:enc:aescbc:v1:kez1:");
    let places: Vec<_> = (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    assert!(places.len() > 20);
    for at in places {
        bytes[at..][..other.len()].copy_from_slice(other);
    }
    let config = testdata("kubeadm/encryption-config.yaml");
    let altered = private(&folder, "altered.db", &bytes);
    let run = atrest(&["keys", &altered, "-c", &config, "--require-unused", "key1", "-o", "json"]);
    let document = run.json();
    assert_eq!((run.code, &document["read_whole"]), (1, &false.into()));
    assert_eq!((&document["gate"][0]["needed_by"], &document["gate"][0]["unused"]), (&0.into(), &false.into()));
    let said = atrest(&["keys", &altered, "-c", &config]);
    assert!(said.text().contains("are not those that its own digest was made of"), "{}", said.text());
    assert!(!said.text().contains("[PASS]"), "{}", said.text());
}

#[test]
fn a_key_that_nothing_needs_may_go() {
    let folder = temporary();
    let text = fs::read_to_string(testdata("kubeadm/encryption-config.yaml")).unwrap();
    let spare = "            - name: \"spare\"\n              secret: 3q2+7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs=\n";
    let config = private(
        &folder,
        "config.yaml",
        text.replacen("      - secretbox:", &format!("{spare}      - secretbox:"), 1).as_bytes(),
    );
    let store = testdata("kubeadm/snapshot.db");
    let ask =
        |more: &[&str]| atrest(&[&["keys", store.as_str(), "-c", &config, "--require-unused"], more].concat()).code;
    assert_eq!(ask(&["spare"]), 0);
    assert_eq!(ask(&["aescbc/spare", "--including", "history,residue"]), 0);
    assert_eq!(ask(&["g16"]), 1);
    assert_eq!(ask(&["nobody-knows-it"]), 2);
    assert_eq!(ask(&["nobody-knows-it", "--allow-absent"]), 0);
}

#[test]
fn nothing_is_said_to_be_unneeded_while_pages_are_lost() {
    let folder = temporary();
    let mut bytes = fs::read(testdata("kubeadm/snapshot.db")).unwrap();
    let leaf = (2..).find(|page| bytes[page * 4096 + 8] == 2 && bytes[page * 4096 + 10] > 3).unwrap();
    bytes[leaf * 4096 + 8] = 0xff;
    let store = private(&folder, "damaged.db", &bytes);
    let config = testdata("kubeadm/all-keys.json");
    let run = atrest(&["keys", &store, "-c", &config, "--require-unused", "spare", "--allow-absent"]);
    let faults = atrest(&["check", &store, "-o", "json"]).json()["fault_count"].as_u64().unwrap();
    assert_eq!(run.code, i32::from(faults > 0), "{}", run.text());
    assert!(faults > 0, "the page was part of no tree");
}

#[test]
fn the_two_stragglers_on_rke2s_removed_key_are_found_and_named() {
    let (store, config) = (testdata("rke2/on-demand-server-1-1763600000.zip"), testdata("rke2/encryption-config.json"));
    let expected: BTreeSet<String> = truth("rke2")
        .iter()
        .filter(|line| line["key_name"] == "aescbckey")
        .map(|line| line["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(expected.len(), 2);
    let run = atrest(&["keys", &store, "-c", &config, "--require-unused", "aescbckey"]);
    assert_eq!(run.code, 1);
    assert!(expected.iter().all(|key| run.text().contains(key.as_str())), "{}", run.text());
}

#[test]
fn the_configuration_that_belongs_to_a_store_is_told() {
    let kubeadm = |configs: &[&str]| {
        let configs: Vec<_> = configs.iter().map(|name| testdata(&format!("kubeadm/{name}"))).collect();
        let store = testdata("kubeadm/snapshot.db");
        let mut arguments = vec!["fit", &store];
        arguments.extend(configs.iter().map(String::as_str));
        arguments.extend(["-o", "json"]);
        let run = atrest(&arguments);
        assert_eq!(run.code, 1, "two values open with no key");
        run.json()
    };
    let both = kubeadm(&["lost-key.json", "encryption-config.yaml"]);
    assert_eq!(both["best"]["paths"].as_array().unwrap().len(), 2);
    assert_eq!(both["entries"].as_u64().unwrap() - both["best"]["entries"].as_u64().unwrap(), 2);
    let all = kubeadm(&["lost-key.json", "all-keys.json", "encryption-config.yaml"]);
    assert_eq!(all["best"]["paths"].as_array().unwrap()[0], testdata("kubeadm/all-keys.json"));
    let user = kubeadm(&["encryption-config.yaml"]);
    let missing = user["missing_keys"].as_array().unwrap();
    assert!(missing.iter().any(|key| key["key_name"] == "key0" && key["records"] == 20), "{missing:?}");

    let (store, right, wrong) =
        (testdata("k3s/snapshot.db"), testdata("k3s/encryption-config.json"), testdata("rke2/encryption-config.json"));
    assert_eq!(atrest(&["fit", &store, &wrong, &right]).code, 0);
    assert_eq!(atrest(&["fit", &store, &wrong]).code, 1);
}

/// A record whose key names the revision it was written at, as a plain search of the file's bytes finds it.
fn plain_search(bytes: &[u8], marks: &[String]) -> BTreeSet<String> {
    let found = |mark: &&String| bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
    marks.iter().filter(found).cloned().collect()
}

#[test]
fn residue_is_what_a_plain_search_still_finds_and_nothing_after_defragmentation() {
    let folder = temporary();
    let config = private(
        &folder,
        "config.yaml",
        b"kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [secrets]\n  \
          providers:\n  - secretbox:\n      keys:\n      - name: k\n        secret: Oo3zJmQx4n8d0gq1rUu7m2Zb9cYk5hTt6pWsEvL0aBc=\n  - identity: {}\n",
    );
    let server = Server::start(Release::V3_5);
    let mark = |key: usize, round: usize| format!("mark-{key:02}-{round}-end");
    server.put(
        "/registry/namespaces/kube-system",
        br#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"kube-system"}}"#,
    );
    for round in 0..3 {
        for key in 0..12 {
            let name = format!("s{key:02}");
            let secret = format!(
                r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"{name}","namespace":"default"}},"data":{{"x":"{}{}"}}}}"#,
                mark(key, round),
                "x".repeat(600)
            );
            server.put(format!("/registry/secrets/default/{name}"), secret.as_bytes());
        }
    }
    let marks: Vec<_> = (0..3).flat_map(|round| (0..12).map(move |key| mark(key, round))).collect();
    let current: BTreeSet<_> = (0..12).map(|key| mark(key, 2)).collect();
    let revision = server.all().iter().map(|kv| kv.mod_revision).max().unwrap();
    for compacted in [false, true] {
        if compacted {
            server.compact(revision);
            // What the compaction freed leaves the tree with the next commit.
            server.put("/registry/secrets/default/last", b"k8s:enc:secretbox:v1:k:none");
        }
        let path = server.snapshot();
        let bytes = fs::read(&path).unwrap();
        let outside: BTreeSet<_> = plain_search(&bytes, &marks).difference(&current).cloned().collect();
        let rows = audit(argument(&path), &[&config], &["-o", "csv", "--residue", "--history"]).rows();
        let found: BTreeSet<_> = rows
            .iter()
            .filter(|row| ["residue", "history"].contains(&cell(row, "record")) && cell(row, "resource") == "secrets")
            .map(|row| {
                let key: usize = cell(row, "name")[1..].parse().unwrap();
                let version: usize = cell(row, "version").parse().unwrap();
                mark(key, version - 1)
            })
            .collect();
        assert_eq!(found, outside, "compacted: {compacted}");
        let in_tree = rows.iter().filter(|row| cell(row, "record") == "history").count();
        assert_eq!(in_tree > 0, !compacted, "compaction empties the history");
        let summary = audit(argument(&path), &[&config], &["-o", "json"]).json();
        let id = if compacted { "residue-plaintext" } else { "history-plaintext" };
        let finding = summary["findings"].as_array().unwrap().iter().find(|row| row["id"] == id);
        assert_eq!(finding.is_some(), !outside.is_empty(), "{id}");
    }
    server.defragment();
    let path = server.snapshot();
    let summary = audit(argument(&path), &[&config], &["-o", "json"]).json();
    assert_eq!(summary["totals"]["residue"], 0);
    assert_eq!(plain_search(&fs::read(&path).unwrap(), &marks), current);
}

#[cfg(feature = "kms")]
mod kms {
    use super::super::stand_in::{Plugin, honest};
    use super::*;

    /// What was said of the fixture's values, and the calls that it took.
    struct Asked {
        /// Readable, stale and encoding, by key.
        rows: BTreeMap<String, [String; 3]>,
        code: i32,
        v1_calls: u64,
        v2_calls: u64,
    }

    /// The fixture's values, with plugins that listen where the test says.
    fn asked(key_id: &'static str) -> Asked {
        let v2 = Plugin::start(honest("v2", key_id));
        let v1 = Plugin::start(honest("v1beta1", "1"));
        let endpoints = [format!("cloud-kms={}", v2.endpoint()), format!("ack-kms={}", v1.endpoint())];
        let (store, config) = (testdata("kms/snapshot.db"), testdata("kms/encryption-config.yaml"));
        let [one, other] = &endpoints;
        let more = ["--kms", "--kms-endpoint", one, "--kms-endpoint", other, "-q", "-o", "csv"];
        let run = audit(&store, &[&config], &more);
        let row = |row: &super::super::program::Row| {
            let columns = ["readable", "stale", "encoding"].map(|column| cell(row, column).to_owned());
            (cell(row, "key").to_owned(), columns)
        };
        let rows = run.rows().iter().map(row).collect();
        Asked { rows, code: run.code, v1_calls: v1.calls("Decrypt"), v2_calls: v2.calls("Decrypt") }
    }

    #[test]
    fn values_open_through_their_plugins_and_are_stale_by_the_key_that_is_current_now() {
        for key_id in ["1", "2"] {
            let Asked { rows, code, v1_calls, v2_calls } = asked(key_id);
            let mut compared = 0;
            for line in truth("kms") {
                let Some(readable) = line[format!("readable_key{key_id}")].as_bool() else { continue };
                let stale = line[format!("stale_key{key_id}")].as_bool().unwrap();
                let [is_readable, is_stale, encoding] = &rows[line["key"].as_str().unwrap()];
                let word = |yes| if yes { "yes" } else { "no" };
                assert_eq!((is_readable.as_str(), is_stale.as_str()), (word(readable), word(stale)), "{line}");
                assert!(!readable || !encoding.is_empty(), "{line}");
                compared += 1;
            }
            assert_eq!(compared, 72);
            assert_eq!(code, 0, "every value is proved");
            assert_eq!((v1_calls, v2_calls), (28, 2), "one call for each distinct data key");
        }
    }

    #[test]
    fn a_plan_says_what_asking_would_cost_and_asks_for_nothing() {
        let v2 = Plugin::start(honest("v2", "1"));
        let v1 = Plugin::start(honest("v1beta1", "1"));
        let endpoints = [format!("cloud-kms={}", v2.endpoint()), format!("ack-kms={}", v1.endpoint())];
        let (store, config) = (testdata("kms/snapshot.db"), testdata("kms/encryption-config.yaml"));
        let [one, other] = &endpoints;
        let run = audit(&store, &[&config], &["--kms=plan", "--kms-endpoint", one, "--kms-endpoint", other]);
        assert_eq!(run.code, 0);
        assert!(run.text().contains("30 calls") && run.text().contains(v1.endpoint()), "{}", run.text());
        assert_eq!((v1.calls("Decrypt"), v2.calls("Decrypt")), (0, 0));
    }

    #[test]
    fn what_is_beyond_the_limit_of_calls_stays_unknown() {
        let v2 = Plugin::start(honest("v2", "1"));
        let v1 = Plugin::start(honest("v1beta1", "1"));
        let endpoints = [format!("cloud-kms={}", v2.endpoint()), format!("ack-kms={}", v1.endpoint())];
        let (store, config) = (testdata("kms/snapshot.db"), testdata("kms/encryption-config.yaml"));
        let [one, other] = &endpoints;
        let limit = ["--kms", "--kms-max-calls", "5", "-q", "-o", "json"];
        let more = [&limit[..], &["--kms-endpoint", one, "--kms-endpoint", other]].concat();
        let run = audit(&store, &[&config], &more);
        assert_eq!(run.code, 1);
        let summary = run.json();
        assert_eq!(summary["verdict"], "incomplete");
        assert!(summary["totals"]["unknown"].as_u64().unwrap() > 0);
        assert_eq!(v1.calls("Decrypt") + v2.calls("Decrypt"), 5);
    }
}
