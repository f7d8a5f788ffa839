//! The command line: exit codes, wrong usage, input that is none, and the small commands.

use std::fs::{self, File};

use serde_json::{Value, json};

use super::program::{KUBEADM, STORES, argument, atrest, audit, kubeadm, private, temporary, testdata};
use super::servers::{Release, Server};

// Exit codes.

#[test]
fn an_audit_without_a_configuration_judges_nothing_and_ends_with_0() {
    for (store, _) in STORES {
        let run = audit(&testdata(store), &[], &["-o", "json"]);
        let document = run.json();
        assert_eq!((run.code, document["verdict"].as_str()), (0, Some("unjudged")), "{store}");
        assert_eq!((&document["configs"], &document["totals"]["stale"]), (&json!([]), &json!(0)), "{store}");
    }
}

#[test]
fn without_a_configuration_values_that_nobody_recognises_are_told_and_fail_nothing() {
    let server = Server::start(Release::V3_5);
    server.put("/registry/secrets/default/a", b"no object");
    let run = audit(argument(&server.snapshot()), &[], &["-o", "json"]);
    let document = run.json();
    assert_eq!((run.code, document["verdict"].as_str()), (0, Some("unjudged")));
    assert_eq!(
        (&document["findings"][0]["id"], &document["findings"][0]["count"]),
        (&json!("unrecognised"), &json!(1))
    );
}

#[test]
fn the_exit_code_follows_the_weightiest_finding_and_the_level_that_was_asked_for() {
    let weights = ["note", "warning", "error", "none"];
    for (store, config) in STORES {
        let document = audit(&testdata(store), &[&testdata(config)], &["-o", "json"]).json();
        let findings = document["findings"].as_array().unwrap();
        let weight = |finding: &Value| weights.iter().position(|weight| finding["severity"] == **weight).unwrap();
        let worst = findings.iter().map(weight).max().unwrap();
        let incomplete = document["verdict"] == "incomplete";
        for (level, name) in weights.into_iter().enumerate() {
            let run = audit(&testdata(store), &[&testdata(config)], &["--fail-on", name]);
            assert_eq!(run.code, i32::from(incomplete || worst >= level), "{store} with {config}, --fail-on {name}");
        }
    }
}

#[test]
fn a_clean_selection_is_clean_and_its_verdict_names_the_scope() {
    let folder = temporary();
    let config = private(&folder, "config.yaml", &fs::read(testdata(KUBEADM.1)).unwrap());
    let source = testdata(KUBEADM.0);
    let run = audit(&source, &[&config], &["sa", "-n", "team-a", "-o", "json"]);
    let document = run.json();
    assert_eq!((run.code, document["verdict"].as_str()), (0, Some("clean")));
    assert!(document["scope"].as_str().is_some_and(|scope| scope.contains("sa") && scope.contains("team-a")));
    // The notes about the ciphers are still there for who wants to fail on them.
    let codes =
        ["error", "warning", "note", "none"].map(|level| audit(&source, &[&config], &["sa", "--fail-on", level]).code);
    assert_eq!(codes, [0, 0, 1, 0]);
    let table = audit(&source, &[&config], &["sa", "-n", "team-a"]);
    assert!(table.text().contains("only sa in namespace team-a"), "{}", table.text());
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let source = testdata(KUBEADM.0);
    let wrong: [(&[&str], &str); 11] = [
        (&[], "Usage"),
        (&["nonsense"], "nonsense"),
        (&["audit"], "SOURCE"),
        (&["audit", &source, "--no-such-flag"], "--no-such-flag"),
        (&["audit", &source, "-o", "xml"], "xml"),
        (&["audit", &source, "--only", "stale"], "csv"),
        (&["audit", &source, "--history"], "csv"),
        (&["audit", &source, "--revision", "0"], "0"),
        (&["audit", &source, "secret/"], "resource/name"),
        (&["check", &source, "--revision", "3"], "--hashkv"),
        (&["completion", "tcsh"], "tcsh"),
    ];
    for (arguments, said) in wrong {
        let run = atrest(arguments);
        assert!(run.failed(2).contains(said), "{arguments:?}: {}", run.err);
    }
}

#[test]
fn input_that_cannot_be_read_ends_with_3_and_one_sentence() {
    let folder = temporary();
    let text = private(&folder, "text", &b"This is no database. ".repeat(1000));
    let empty = private(&folder, "empty", b"");
    let missing = argument(&folder.path().join("missing")).to_owned();
    let below = format!("{text}/snapshot.db");
    let directory = argument(folder.path()).to_owned();
    let sources = [
        (&text, "meta page"),
        (&empty, "empty"),
        (&missing, "No such file"),
        (&below, "Not a directory"),
        (&directory, "directory"),
    ];
    for (source, said) in sources {
        for command in ["audit", "check"] {
            let run = atrest(&[command, source]);
            let message = run.failed(3);
            let first = message.lines().next().unwrap();
            assert!(first.starts_with(&format!("atrest: {source}")) && first.contains(said), "{message}");
            let rest: Vec<_> = message.lines().skip(1).collect();
            assert!(rest.len() <= 1 && rest.iter().all(|line| line.starts_with("hint: ")), "{message}");
        }
    }
}

#[test]
fn a_damaged_file_is_audited_as_far_as_it_goes_and_ends_with_1() {
    let folder = temporary();
    let mut bytes = fs::read(testdata(KUBEADM.0)).unwrap();
    let leaf = (4..bytes.len() / 4096)
        .find(|page| bytes[page * 4096 + 8] == 2 && bytes[page * 4096 + 10] > 1 && bytes[page * 4096 + 2000] != 0)
        .unwrap();
    bytes[leaf * 4096..][..4096].fill(0);
    let damaged = private(&folder, "damaged.db", &bytes);

    let run = atrest(&["check", &damaged, "-o", "json"]);
    let check = run.json();
    assert_eq!((run.code, check["trailer"].as_str()), (1, Some("mismatch")));
    let faults = check["faults"].as_array().unwrap();
    assert!(faults.iter().any(|fault| fault["page"] == leaf), "{check:#}");
    assert!(faults.iter().all(|fault| fault["kind"].is_string() && fault["detail"].is_string()), "{check:#}");

    let run = audit(&damaged, &[&testdata(KUBEADM.1)], &["-o", "json", "--fail-on", "none"]);
    let document = run.json();
    assert_eq!((run.code, document["verdict"].as_str()), (1, Some("incomplete")));
    let first: Vec<_> = document["findings"].as_array().unwrap().iter().take(2).map(|finding| &finding["id"]).collect();
    assert_eq!(first, ["file.damaged", "file.trailer-mismatch"]);
    assert!((1..202).contains(&document["totals"]["entries"].as_u64().unwrap()));
    assert_eq!(atrest(&["check", &damaged]).code, 1);
    assert_eq!(audit(&damaged, &[], &[]).code, 1, "damage counts without a configuration too");
}

#[test]
fn config_check_ends_with_0_1_or_3() {
    let folder = temporary();
    let good = private(&folder, "good.yaml", &fs::read(testdata(KUBEADM.1)).unwrap());
    let codes =
        ["error", "warning", "note", "none"].map(|level| atrest(&["config", "check", &good, "--fail-on", level]).code);
    assert_eq!(codes, [0, 0, 1, 0]);
    let run = atrest(&["config", "check", &good, "-o", "json"]);
    let document = run.json();
    assert_eq!((&document["schema"], &document["accepted"]), (&json!("atrest.config/1"), &json!(true)));
    assert_eq!(document["tool"]["name"], "atrest");
    assert_eq!(document["errors"], json!([]));

    let refused = private(&folder, "bad.yaml", b"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: []\n  providers: []\n");
    let run = atrest(&["config", "check", &refused, "-o", "json"]);
    let document = run.json();
    assert_eq!((run.code, &document["accepted"]), (3, &json!(false)));
    let errors = document["errors"].as_array().unwrap();
    let paths: Vec<_> = errors.iter().map(|error| error["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["resources[0].resources", "resources[0].providers"]);
    assert!(errors.iter().all(|error| error["stage"] == "validation" && error["line"].is_u64()), "{errors:?}");
}

// Configurations that are none.

#[test]
fn what_is_no_configuration_is_told_in_one_sentence() {
    let folder = temporary();
    let empty = private(&folder, "empty.yaml", b"");
    let sparse = folder.path().join("sparse.yaml");
    File::create(&sparse).unwrap().set_len(100 << 20).unwrap();
    let sparse = argument(&sparse).to_owned();
    let below = format!("{empty}/config.yaml");
    let missing = argument(&folder.path().join("missing.yaml")).to_owned();
    let directory = argument(folder.path()).to_owned();
    let files = [
        (&directory, "a directory"),
        (&below, "Not a directory"),
        (&missing, "No such file"),
        (&empty, "empty"),
        (&sparse, "larger than"),
    ];
    for (config, said) in files {
        for run in [audit(&testdata(KUBEADM.0), &[config], &[]), atrest(&["config", "check", config])] {
            let message = run.failed(3);
            assert!(message.starts_with(&format!("atrest: {config}: ")) && message.contains(said), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
}

#[test]
fn of_two_documents_the_first_counts_and_the_other_is_warned_of() {
    let folder = temporary();
    let first = fs::read_to_string(testdata(KUBEADM.1)).unwrap();
    let other = fs::read_to_string(testdata("openshift3/encryption-config.yaml")).unwrap();
    let both = private(&folder, "both.yaml", format!("{first}---\n{other}").as_bytes());
    let document = audit(&testdata(KUBEADM.0), &[&both], &["-o", "json"]).json();
    assert_eq!(document["totals"], kubeadm(&["-o", "json"]).json()["totals"]);
    let warned = |document: &Value| {
        document["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["id"] == "config.extra-document" && finding["severity"] == "warning")
            .count()
    };
    assert_eq!(warned(&document), 1);
    assert_eq!(warned(&atrest(&["config", "check", &both, "-o", "json"]).json()), 1);
}

#[test]
fn two_configurations_that_disagree_are_an_error_that_names_both() {
    let (one, other) = (testdata(KUBEADM.1), testdata("kubeadm/all-keys.json"));
    let run = audit(&testdata(KUBEADM.0), &[&one, &other], &[]);
    let message = run.failed(3);
    assert!(message.contains(&one) && message.contains(&other), "{message}");
    assert!(message.contains("configmaps") || message.contains("secrets"), "{message}");
}

#[test]
fn two_configurations_that_agree_or_speak_of_other_resources_go_together() {
    let folder = temporary();
    let config = testdata(KUBEADM.1);
    let routes = fs::read_to_string(&config).unwrap();
    let start = routes.find("      - secrets").unwrap();
    let end = routes.find("    providers:").unwrap();
    let routes = format!("{}      - routes.route.openshift.io\n{}", &routes[..start], &routes[end..]);
    let routes = private(&folder, "routes.yaml", routes.as_bytes());
    let document = audit(&testdata(KUBEADM.0), &[&config, &config, &routes], &["-o", "json"]).json();
    assert_eq!(document["totals"], kubeadm(&["-o", "json"]).json()["totals"]);
    assert_eq!(document["configs"].as_array().unwrap().len(), 3);
}

// The other commands.

#[test]
fn completions_and_manual_pages_are_written() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let run = atrest(&["completion", shell]);
        assert_eq!((run.code, run.err.as_str()), (0, ""));
        assert!(run.text().contains("atrest") && run.text().contains("fail-on"), "{shell}");
    }
    for command in [&["man"][..], &["man", "audit"], &["man", "config", "check"]] {
        let run = atrest(command);
        assert_eq!((run.code, run.err.as_str()), (0, ""));
        assert!(run.text().contains(".TH") && run.text().contains(".SH"), "{command:?}");
    }
    assert!(atrest(&["man", "nope"]).failed(2).contains("nope"));
}

#[test]
fn the_version_is_told_to_people_and_to_programs() {
    let document = atrest(&["version", "-o", "json"]).json();
    assert_eq!(document["schema"], "atrest.version/1");
    assert_eq!(document["tool"], json!({"name": "atrest", "version": env!("CARGO_PKG_VERSION")}));
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert!(document["features"].is_array());
    for arguments in [&["version"][..], &["--version"]] {
        let run = atrest(arguments);
        assert!(run.code == 0 && run.text().starts_with(&format!("atrest {}", env!("CARGO_PKG_VERSION"))));
    }
}

#[test]
fn help_is_an_answer_and_ends_with_0() {
    for command in [
        &["--help"][..],
        &["-h"],
        &["audit", "--help"],
        &["check", "-h"],
        &["config", "--help"],
        &["config", "check", "-h"],
    ] {
        let run = atrest(command);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{command:?}");
        assert!(run.text().contains("Usage: atrest"), "{command:?}");
    }
}
