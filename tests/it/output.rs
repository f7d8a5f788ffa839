//! The forms of the answer: what scripts rely on, what a person sees, and what is never in any of them.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::program::{KUBEADM, STORES, argument, atrest, audit, cell, private, program, temporary, testdata};
use super::servers::{Release, Server};
use super::walk;

/// The columns of a row, in their order.
const COLUMNS: &str = "key,group,resource,namespace,name,record,create_revision,mod_revision,version,lease,value_bytes,\
    state,provider,provider_version,key_name,kms_key_id,kms_key_id_hash,encoding,readable,opened_by,expected,stale,\
    findings,detail,value_sha256";

#[test]
fn the_summary_has_every_field_of_its_contract() {
    let hex = |value: &Value| {
        value.as_str().is_some_and(|text| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    for (store, config) in STORES {
        let document = audit(&testdata(store), &[&testdata(config)], &["-o", "json"]).json();
        assert_eq!(document["schema"], "atrest.audit/1");
        assert_eq!(document["tool"], json!({"name": "atrest", "version": env!("CARGO_PKG_VERSION")}));
        let source = &document["source"];
        assert_eq!(source["path"], testdata(store));
        let kind = if store.contains("pages-16k") { "database" } else { "snapshot" };
        assert_eq!(source["kind"], kind, "{store}");
        assert_eq!(source["trailer"], if kind == "database" { "missing" } else { "ok" });
        assert_eq!(source["container"], if store.ends_with("zip") { json!("zip") } else { Value::Null });
        assert_eq!(source["bytes"], fs::metadata(testdata(store)).unwrap().len());
        assert!(hex(&source["sha256"]) && hex(&source["db_sha256"]), "{store}");
        assert!(source["revision"].is_i64() && source["etcd_version"].is_string() && source["prefixes"].is_array());

        let [configuration] = document["configs"].as_array().unwrap().as_slice() else { panic!("{store}") };
        assert_eq!(configuration["path"], testdata(config));
        assert!(hex(&configuration["sha256"]) && configuration["resources"].is_array());
        let totals = document["totals"].as_object().unwrap();
        let number = |field: &str| totals[field].as_u64().unwrap();
        let states = ["encrypted", "plaintext", "unrecognised", "empty"].map(number);
        assert_eq!(states.iter().sum::<u64>(), number("entries"), "{store}");
        let judged = ["readable", "unreadable", "unknown"].map(number);
        assert_eq!(judged.iter().sum::<u64>(), number("entries"), "{store}");
        assert!(["history", "deleted", "residue", "stale"].iter().all(|field| totals[*field].is_u64()), "{totals:?}");
        assert_eq!(totals.len(), 12, "{totals:?}");

        let coverage = document["coverage"].as_array().unwrap();
        for field in ["group", "resource", "namespace", "provider", "provider_version", "key_name"] {
            assert!(coverage.iter().all(|row| row[field].is_string()), "{field} of {store}");
        }
        for field in ["entries", "unreadable", "stale"] {
            let sum: u64 = coverage.iter().map(|row| row[field].as_u64().unwrap()).sum();
            assert_eq!(sum, number(field), "{field} of {store}");
        }
        let texts = ["provider", "provider_version", "key_name", "kms_key_id", "fingerprint"];
        for key in document["keys"].as_array().unwrap() {
            assert!(texts.iter().all(|field| key[field].is_string()), "{key}");
            assert!(key["in_config"].is_boolean() && key["needed"].is_boolean() && key["write_key_for"].is_array());
            assert!(key["entries"].is_u64() && key["history"].is_u64(), "{key}");
            assert!(
                ["oldest_revision", "newest_revision"].iter().all(|field| key[field].is_i64() || key[field].is_null())
            );
        }
        for finding in document["findings"].as_array().unwrap() {
            assert!(finding["id"].is_string() && finding["count"].is_u64() && finding["keys"].is_array(), "{finding}");
            assert!(["note", "warning", "error"].iter().any(|severity| finding["severity"] == *severity), "{finding}");
            let named = finding["keys"].as_array().unwrap().len() as u64;
            assert!(named == finding["count"].as_u64().unwrap().min(10), "{finding}");
        }
        assert!(["clean", "findings", "incomplete"].iter().any(|verdict| document["verdict"] == *verdict));
    }
}

#[test]
fn the_summary_describes_the_configuration_by_names_and_fingerprints() {
    let (store, config) = ("apiserver/snapshot.db", testdata("apiserver/encryption-config.yaml"));
    let document = audit(&testdata(store), &[&config], &["-o", "json"]).json();
    let expected: Vec<Value> = secrets(&config)
        .into_iter()
        .zip([("secretbox", "key2"), ("aescbc", "key1")])
        .map(|((_, secret), (provider, name))| {
            let mut mac = Hmac::<Sha256>::new_from_slice(b"atrest/fingerprint/1").unwrap();
            mac.update(&secret);
            let fingerprint: String = mac.finalize().into_bytes().iter().take(8).map(|b| format!("{b:02x}")).collect();
            json!({"provider": provider, "keys": [{"name": name, "fingerprint": fingerprint, "bytes": 32}]})
        })
        .chain([json!({"provider": "identity", "keys": []})])
        .collect();
    let resources = document["configs"][0]["resources"].as_array().unwrap();
    assert_eq!(resources.len(), 3);
    for (resource, name) in resources.iter().zip(["configmaps", "secrets", "widgets.example.com"]) {
        assert_eq!((&resource["resource"], &resource["providers"]), (&json!(name), &json!(expected)));
    }
    let of_keys: Vec<_> = document["keys"].as_array().unwrap().iter().map(|key| &key["fingerprint"]).collect();
    assert!(expected.iter().take(2).all(|key| of_keys.contains(&&key["keys"][0]["fingerprint"])), "{of_keys:?}");
}

#[test]
fn a_key_row_tells_the_same_secret_under_two_names_by_its_fingerprint() {
    let folder = temporary();
    let config = fs::read_to_string(testdata("versions/encryption-config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    let keys = config["resources"][0]["providers"][0]["aescbc"]["keys"].as_array_mut().unwrap();
    let mut twin = keys[0].clone();
    twin["name"] = json!("twin");
    keys.push(twin);
    let config = private(&folder, "twins.json", config.to_string().as_bytes());
    let document = audit(&testdata("versions/etcd-3.5.db"), &[&config], &["-o", "json"]).json();
    let prints: Vec<_> = document["keys"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|key| key["provider"] == "aescbc")
        .map(|key| &key["fingerprint"])
        .collect();
    assert!(matches!(prints[..], [one, other] if one == other && one.as_str().unwrap().len() == 16), "{prints:?}");
}

#[test]
fn csv_and_jsonl_have_the_same_columns_and_the_same_content() {
    for (store, config) in STORES {
        let run = |form: &str| audit(&testdata(store), &[&testdata(config)], &["--history", "-o", form]);
        let (csv, jsonl) = (run("csv"), run("jsonl"));
        assert!(csv.text().starts_with(&format!("{COLUMNS}\n")), "{store}");
        assert!(!csv.text().contains('\r'));
        let rows = csv.rows();
        let lines: Vec<Value> = jsonl.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), rows.len());
        for (line, row) in lines.iter().zip(&rows) {
            let fields = line.as_object().unwrap();
            assert_eq!(fields.keys().collect::<Vec<_>>(), row.keys().collect::<Vec<_>>());
            for (column, content) in fields {
                let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
                assert_eq!(text, row[column], "{column}");
            }
        }
    }
}

/// Every secret of a configuration: as it is written there, and as bytes.
fn secrets(config: &str) -> Vec<(String, Vec<u8>)> {
    let text = fs::read_to_string(config).unwrap();
    let secret = |part: &str| {
        let part = part.trim_start_matches(['"', ':', ' ']);
        let written = part.split(['"', '\n', ' ', '}', ',']).next().unwrap().to_owned();
        let bytes = BASE64_STANDARD.decode(&written).unwrap();
        (written, bytes)
    };
    text.split("secret\"").skip(1).chain(text.split("secret:").skip(1)).map(secret).collect()
}

#[test]
fn no_output_of_any_form_holds_a_secret_of_a_configuration() {
    let mut searched = 0;
    for (store, config) in STORES {
        let (store, config) = (testdata(store), testdata(config));
        let secrets = secrets(&config);
        assert!(!secrets.is_empty(), "{config}");
        let mut runs: Vec<_> = ["table", "wide", "csv", "jsonl", "json"]
            .map(|form| audit(&store, &[&config], &["-o", form, "-vv"]))
            .into();
        runs.push(audit(&store, &[&config], &["-o", "csv", "--history"]));
        runs.push(atrest(&["config", "check", &config, "-vv"]));
        runs.push(atrest(&["config", "check", &config, "-o", "json"]));
        runs.push(audit(&store, &[&config, &testdata("openshift3/encryption-config.yaml")], &["-o", "json"]));
        for run in runs {
            let printed = [run.out, run.err.into_bytes()].concat();
            for (written, bytes) in &secrets {
                let lower: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let forms = [
                    written.trim_end_matches('=').as_bytes(),
                    bytes,
                    lower.as_bytes(),
                    lower.to_uppercase().as_bytes(),
                ]
                .map(<[u8]>::to_vec);
                for form in forms {
                    assert!(!printed.windows(form.len()).any(|window| window == form), "{config} shows a secret");
                    searched += 1;
                }
            }
        }
    }
    assert!(searched > 500);
}

#[test]
fn nothing_is_coloured_when_nobody_looks_and_the_table_fits_a_screen() {
    for (store, config) in STORES {
        let (store, config) = (testdata(store), testdata(config));
        for no_colour in [false, true] {
            let mut command = program();
            if no_colour {
                command.env("NO_COLOR", "1");
            }
            let done = command.args(["audit", &store, "-c", &config]).output().unwrap();
            let text = String::from_utf8(done.stdout).unwrap();
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
            assert!(done.stderr.is_empty(), "a progress bar is for terminals");
            assert!(text.lines().count() <= 50, "{} lines", text.lines().count());
            let verdict = text.lines().next().unwrap();
            assert!(verdict.starts_with("[FAIL] findings") || verdict.starts_with("[FAIL] incomplete"), "{verdict}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_a_quiet_end() {
    let (source, config) = (testdata("apiserver/snapshot.db"), testdata("apiserver/encryption-config.yaml"));
    for (arguments, code) in [
        (vec!["audit", &source, "-c", &config, "-o", "csv"], 1),
        (vec!["audit", &source, "-o", "jsonl"], 0),
        (vec!["check", &source], 0),
        (vec!["completion", "bash"], 0),
    ] {
        let mut command = program();
        command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        drop(process.stdout.take());
        let done = process.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&done.stderr), "", "{arguments:?}");
        assert_eq!(done.status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_takes_only_the_first_line_is_a_quiet_end() {
    let mut command = program();
    let (source, config) = (testdata("apiserver/snapshot.db"), testdata("apiserver/encryption-config.yaml"));
    command.args(["audit", &source, "-c", &config, "-o", "jsonl", "--history"]);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    process.stdout.take().unwrap().read_exact(&mut byte).unwrap();
    let done = process.wait_with_output().unwrap();
    assert_eq!((String::from_utf8_lossy(&done.stderr).as_ref(), done.status.code()), ("", Some(1)));
}

#[test]
fn keys_of_any_bytes_break_neither_csv_nor_a_terminal() {
    let server = Server::start(Release::V3_5);
    let mut names: Vec<Vec<u8>> = [
        &b"new\nline"[..],
        b"quote\"d",
        b"com,ma",
        b"\x1b[31mred\x1b[0m",
        b"back\\slash",
        b"\\x41",
        b"\xff\xfe",
        b"tab\tand\rreturn",
        b"=1+1",
        b"\xe2\x80\xaeturned",
        "schl\u{fc}ssel".as_bytes(),
        b"del\x7f",
    ]
    .map(|name| [b"/registry/secrets/default/", name].concat())
    .into();
    names.push(b"\x01\x02".to_vec());
    for name in &names {
        server.put(name, b"k8s:enc:aescbc:v1:\x1b[2Jkey,\"\n:0123456789abcdef0123456789abcdef");
    }
    names.sort();
    let path = server.snapshot();
    let (source, config) = (argument(&path), testdata(KUBEADM.1));
    let shown: Vec<_> = names.iter().map(|name| walk::shown(name)).collect();
    let csv = audit(source, &[&config], &["-o", "csv"]);
    let rows = csv.rows();
    assert_eq!(rows.iter().map(|row| cell(row, "key")).collect::<Vec<_>>(), shown);
    assert_eq!(csv.text().lines().count(), names.len() + 1, "one line for each row");
    let of = |column: &str| {
        rows.iter()
            .filter(|row| cell(row, "resource") == "secrets")
            .map(|row| cell(row, column).to_owned())
            .collect::<Vec<_>>()
    };
    // Of an API server's keys all are UTF-8, so two of these are none.
    assert_eq!(of("name").len(), names.len() - 2);
    assert!(of("readable").iter().all(|readable| readable == "no"));
    assert!(rows.iter().all(|row| cell(row, "readable") != "yes"));
    let forms = ["table", "wide", "csv", "jsonl", "json"].map(|form| audit(source, &[&config], &["-o", form]));
    for run in forms {
        let text = run.text();
        assert!(
            text.chars().all(|c| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c))),
            "{text}"
        );
        assert_eq!(run.err, "");
    }
}
