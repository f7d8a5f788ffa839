//! Agreement with kube-apiserver's own answers, and hostile input.
//!
//! `testdata/configs` holds what kube-apiserver 1.34 says of 600 configurations, and of one configuration in 217 dresses
//! of YAML, with KMS v1 allowed.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::kube::resource::ApiServer;

use super::*;

#[derive(Deserialize)]
struct Fixture {
    text: String,
    error: Option<String>,
    prefix: Option<String>,
}

fn fixtures(name: &str) -> Vec<Fixture> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/configs").join(name);
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const DECODING: &str = "error while parsing file: error decoding encryption provider configuration file \"PATH\": ";
const PARSING: &str = "error while parsing file: ";
const BUILDING: &str = "error while building transformers: ";

/// The stage and the rest of upstream's message.
fn stage_of(error: &str) -> (Stage, &str) {
    if let Some(rest) = error.strip_prefix(BUILDING) {
        (Stage::Transformers, rest)
    } else if let Some(rest) = error.strip_prefix(DECODING) {
        let stage = if rest.starts_with("strict decoding error: ") {
            Stage::Strict
        } else if rest.starts_with("yaml: ")
            || rest.contains("json parse error: ") && !rest.contains("cannot unmarshal")
        {
            Stage::Syntax
        } else if rest.starts_with("no kind") || rest.starts_with("Object '") || rest.contains("get version/kind") {
            Stage::Kind
        } else if rest.starts_with("json: unsupported value") {
            Stage::Syntax
        } else {
            Stage::Decode
        };
        (stage, rest.strip_prefix("strict decoding error: ").unwrap_or(rest))
    } else if error.ends_with("is empty") {
        (Stage::File, error)
    } else {
        (Stage::Validation, error.strip_prefix(PARSING).unwrap())
    }
}

/// Leaves the values out of a list of field errors: upstream quotes them as Go or JSON between `Invalid value: ` and the
/// message.
fn without_values(errors: &str) -> String {
    let mut out = String::new();
    let mut rest = errors;
    while let Some((before, after)) = rest.split_once("Invalid value: ") {
        out.push_str(before);
        out.push_str("Invalid value: ");
        rest = after.get(value_length(after)..).unwrap().strip_prefix(": ").unwrap();
    }
    out.push_str(rest);
    out
}

/// How long the quoted value is: a string, or JSON, or a bare word.
fn value_length(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            ':' if !quoted && depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

/// The list of field errors as upstream aggregates it.
fn aggregate(errors: &[Complaint]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    if let [one] = texts.as_slice() { one.clone() } else { format!("[{}]", texts.join(", ")) }
}

/// The unknown and repeated fields, as upstream lists them.
fn strict_list(errors: &[Complaint]) -> String {
    let mut list = Vec::new();
    let repeats: Vec<_> = errors.iter().filter(|error| error.path.is_empty()).collect();
    if !repeats.is_empty() {
        let lines: Vec<_> =
            repeats.iter().map(|error| format!("\n  line {}: {}", error.line.unwrap(), error.message)).collect();
        list.push(format!("yaml: unmarshal errors:{}", lines.concat()));
    }
    let fields = errors.iter().filter(|error| !error.path.is_empty());
    list.extend(fields.map(|error| format!("{} \"{}\"", error.message, error.path)));
    list.join(", ")
}

/// Masks the endpoints that Go's URL errors quote.
fn without_urls(errors: &str) -> String {
    let mut pieces = errors.split("error: parse \"");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (_, after) = piece.split_once("\": ").unwrap();
        out.push_str("error: parse \"REDACTED\": ");
        out.push_str(after);
    }
    out
}

fn compare(number: usize, fixture: &Fixture, check: &Check) -> Result<(), String> {
    let found = aggregate(&check.errors);
    let Some(error) = &fixture.error else {
        return if check.accepted { Ok(()) } else { Err(format!("{number}: accepted upstream: {found}")) };
    };
    let (stage, message) = stage_of(error);
    let Some(first) = check.errors.first() else {
        return Err(format!("{number}: refused upstream: {error}"));
    };
    if check.errors.iter().any(|error| error.stage != stage) {
        return Err(format!("{number}: {stage:?} upstream, {:?} here: {error} against {found}", first.stage));
    }
    let (expected, found) = match stage {
        Stage::Validation => (without_urls(&without_values(message)), found),
        Stage::Transformers => (message.to_owned(), first.message.clone()),
        Stage::Strict => (message.to_owned(), strict_list(&check.errors)),
        Stage::Kind if message.starts_with("no kind") => {
            (message.split(" in scheme").next().unwrap().to_owned(), first.message.clone())
        }
        Stage::Kind if message.starts_with("Object '") => {
            (message.split(" in '").next().unwrap().to_owned(), first.message.clone())
        }
        _ => return Ok(()),
    };
    if expected == found { Ok(()) } else { Err(format!("{number}:\n  {expected}\n  {found}")) }
}

fn all_agree(name: &str) {
    let mut wrong = Vec::new();
    for (number, fixture) in fixtures(name).iter().enumerate() {
        wrong.extend(compare(number, fixture, &check(fixture.text.as_bytes())).err());
    }
    assert!(wrong.is_empty(), "{} disagree:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn six_hundred_configurations_are_judged_as_kube_apiserver_does() {
    all_agree("configs.jsonl");
}

#[test]
fn yaml_in_all_its_dresses_is_judged_as_kube_apiserver_does() {
    all_agree("yaml.jsonl");
}

#[test]
fn the_key_that_writes_is_named_as_upstream_names_it() {
    for (number, fixture) in fixtures("yaml.jsonl").iter().enumerate() {
        let Some(configuration) = check(fixture.text.as_bytes()).configuration else { continue };
        let servers = ApiServers::new(vec![("a".to_owned(), configuration)]).unwrap();
        let name = match servers.resolve(ApiServer::Kube, &GroupResource::new("", "secrets")) {
            Coverage::Configured { providers, .. } => match providers.first() {
                Some(ProviderSpec::AesCbc(keys)) => Some(format!("k8s:enc:aescbc:v1:{}:", keys[0].name)),
                _ => None,
            },
            _ => Some(String::new()),
        };
        assert_eq!(name, fixture.prefix, "{number}: {}", fixture.text);
    }
}

#[test]
fn what_is_accepted_loads_the_same() {
    for fixture in fixtures("configs.jsonl").iter().chain(&fixtures("yaml.jsonl")) {
        let loaded = load(fixture.text.as_bytes());
        if let Some(configuration) = check(fixture.text.as_bytes()).configuration {
            assert_eq!(loaded.unwrap(), configuration);
        } else if let Ok(configuration) = loaded {
            let told = |lint: &Lint| lint.id >= LintId::OldKind && lint.id <= LintId::NewerRule;
            assert!(configuration.lints.iter().any(told), "{}", fixture.text);
        }
    }
}

#[test]
fn a_tab_is_refused_where_the_reader_of_yaml_1_1_looks_for_a_key_and_nowhere_else() {
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
    let text = |before: &str, between: &str, behind: &str| {
        format!(
            "{before}{head}resources:{between}\n- resources: [secrets]\n  providers:\n  - &k identity: {{}}\n\
             - resources: [configmaps]\n  providers:\n  - *k{behind}"
        )
    };
    let one = |text: &str| text.replace("&k identity: {}", "&k {identity: {}}");
    for (before, between, behind) in [
        (" \t\n", "", ""),
        ("# c\n\t\n", "", ""),
        ("", "\n\t", ""),
        ("", "\n  \t# c", ""),
        ("", "", "\n\t"),
        ("", "", "\n \t# c\n"),
    ] {
        let text = one(&text(before, between, behind));
        assert_eq!(check(text.as_bytes()).errors.first().map(|error| error.stage), Some(Stage::Syntax), "{text:?}");
    }
    let without_value = format!("{head}resources:\n  - resources:\n\t");
    assert_eq!(check(without_value.as_bytes()).errors[0].stage, Stage::Syntax);
    for (before, between, behind) in [
        ("", "", ""),
        ("#\tc\n", "", ""),
        ("", "\t", ""),
        ("", "\t# c", ""),
        ("", "", "\t"),
        ("", "", "\n#\tc\n"),
        ("", " #\tc\n", "\t\n"),
    ] {
        let text = one(&text(before, between, behind));
        assert!(check(text.as_bytes()).accepted, "{text:?}");
    }
}

/// Whatever in a text may be a key: runs of base64 of a key's length or more.
fn secrets(text: &str) -> Vec<&str> {
    let belongs = |character: char| character.is_ascii_alphanumeric() || "+/=".contains(character);
    let runs = text.split(|character| !belongs(character));
    let words = ["apiserver", "encryptionconfiguration", "var/run"];
    let word = |run: &str| words.iter().any(|word| run.to_ascii_lowercase().contains(word));
    let lower = |run: &str| run.bytes().all(|byte| byte.is_ascii_lowercase());
    runs.filter(|run| run.len() >= 20 && !word(run) && !lower(run)).collect()
}

fn everything_said(bytes: &[u8]) -> String {
    let check = check(bytes);
    let loaded = load(bytes);
    let mut said: Vec<String> = check.errors.iter().map(ToString::to_string).collect();
    let loaded_lints = loaded.iter().flat_map(|configuration| &configuration.lints);
    said.extend(check.findings.iter().chain(loaded_lints).map(|lint| format!("{} {}", lint.path, lint.message)));
    said.extend(loaded.as_ref().err().map(ToString::to_string));
    said.push(format!("{check:?} {loaded:?}"));
    said.join("\n")
}

#[test]
fn no_secret_leaves_with_any_message() {
    let mut seen = 0;
    for fixture in fixtures("configs.jsonl").iter().chain(&fixtures("yaml.jsonl")) {
        let said = everything_said(fixture.text.as_bytes());
        for secret in secrets(&fixture.text) {
            seen += 1;
            assert!(!said.contains(secret), "{secret} in {said}");
        }
    }
    assert!(seen > 1000, "{seen}");
}

#[test]
fn a_secret_in_a_wrong_place_is_not_told_either() {
    const SECRET: &str = "6gYBhZxmqbFUUG9Z80pGN0MotaH+djl/tv0YIl687cQ=";
    for text in [
        format!("kind: {SECRET}\napiVersion: v1\n"),
        format!("kind: EncryptionConfig\napiVersion: {SECRET}/v1\n"),
        format!("kind: EncryptionConfig\napiVersion: v1\n{SECRET}: 1\n"),
        format!("kind: EncryptionConfig\napiVersion: v1\nkind: a\n{SECRET}: 1\n{SECRET}: 2\n"),
        format!("kind: EncryptionConfig\napiVersion: v1\nresources: {SECRET}\n"),
        format!(
            "kind: EncryptionConfig\napiVersion: v1\nresources: [{{resources: ['*.', '{SECRET}'], providers: []}}]\n"
        ),
        format!("a: *{SECRET}"),
        format!("a: !<{SECRET}> b\nc: '{SECRET}"),
        format!("{{\"kind\": \"{SECRET}\", \"apiVersion\": \"v1\", {SECRET}"),
        config(&format!("kms: {{name: 'a:{SECRET}', apiVersion: v2, endpoint: 'x:{SECRET}', timeout: '{SECRET}'}}")),
        config(&format!("kms: {{name: 'a:{SECRET}', apiVersion: v2, endpoint: 'unix://a:{SECRET}'}}")),
        config(&format!("aescbc: {{keys: [{{name: '{SECRET}', secret: {SECRET}}}, {{name: '{SECRET}', secret: 1}}]}}")),
        config(&format!(
            "aescbc: {{keys: [{{name: '{SECRET}', secret: '{SECRET}'}}, {{name: '{SECRET}', secret: '{SECRET}'}}]}}"
        )),
    ] {
        let said = everything_said(text.as_bytes());
        // The name of a key is no secret to the result itself, so only messages count where the file is taken.
        let said = said.split("Check {").next().unwrap();
        assert!(!said.contains(SECRET.trim_end_matches('=')), "{said}");
    }
}

/// A configuration of one entry with these providers, one a line.
fn config(providers: &str) -> String {
    let providers: String = providers.lines().map(|provider| format!("      - {provider}\n")).collect();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n  - resources: [secrets]\n    \
         providers:\n{providers}"
    )
}

const KEY: &str = "6gYBhZxmqbFUUG9Z80pGN0MotaH+djl/tv0YIl687cQ=";
const OTHER_KEY: &str = "GjxhmbFU7Kp/gAUAPXH1AeQ/fYyKQabuSA6AJVvGvU4=";

fn lints(text: &str) -> Vec<(&'static str, String)> {
    let configuration = load(text.as_bytes()).unwrap();
    configuration.lints.iter().map(|lint| (lint.id.as_str(), lint.path.clone())).collect()
}

fn assert_lints(text: &str, expected: &[(&str, &str)]) {
    let found = lints(text);
    let found: Vec<_> = found.iter().map(|(id, path)| (*id, path.as_str())).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn what_passes_and_should_worry_is_told() {
    let secretbox = |keys: &str| format!("secretbox: {{keys: [{keys}]}}");
    let key = |name: &str, secret: &str| format!("{{name: {name}, secret: {secret}}}");
    let good = secretbox(&key("a", KEY));
    assert_lints(&config(&format!("{good}\nidentity: {{}}")), &[]);
    assert_lints(
        &config(&format!("identity: {{}}\n{good}")),
        &[("config.identity-first", "resources[0].providers[0]")],
    );
    assert_lints(&config(&good), &[("config.no-identity", "resources[0].providers")]);
    assert_lints(
        &config(&format!("{}\nidentity: {{}}", secretbox(&format!("{}, {}", key("a", KEY), key("a", OTHER_KEY))))),
        &[("config.duplicate-key-name", "resources[0].providers[0].secretbox.keys[1].name")],
    );
    assert_lints(
        &config(&format!("{}\nidentity: {{}}", secretbox(&format!("{}, {}", key("a", KEY), key("b", KEY))))),
        &[("config.shared-secret", "resources[0].providers[0].secretbox.keys[1]")],
    );
    assert_lints(
        &config(&format!("{good}\nidentity: {{}}")).replace("[secrets]", "[configmaps]"),
        &[("config.secrets-not-covered", "resources")],
    );
    assert_lints(&config(&format!("{good}\nidentity: {{}}")).replace("[secrets]", "['*.']"), &[]);
    assert_lints(&config(&format!("{good}\nidentity: {{}}")).replace("[secrets]", "[routes.route.openshift.io]"), &[]);
    assert_lints(&format!("{}---\na: [", config(&format!("{good}\nidentity: {{}}"))), &[("config.extra-document", "")]);
    assert_lints(
        &config("kms: {name: a, endpoint: 'unix:///a'}\nidentity: {}"),
        &[("config.kms-v1-gate", "resources[0].providers[0].kms")],
    );
    assert_lints(
        &config(&format!(
            "aescbc: {{keys: [{}]}}\naesgcm: {{keys: [{}]}}\nidentity: {{}}",
            key("a", KEY),
            key("a", KEY)
        )),
        &[("config.aescbc", "resources[0].providers[0]"), ("config.aesgcm", "resources[0].providers[1]")],
    );
}

#[test]
fn weak_and_published_keys_are_told() {
    let aesgcm = |secret: &str| config(&format!("identity: {{}}\naesgcm: {{keys: [{{name: a, secret: {secret}}}]}}"));
    let key = "resources[0].providers[1].aesgcm.keys[0]";
    let always =
        [("config.identity-first", "resources[0].providers[0]"), ("config.aesgcm", "resources[0].providers[1]")];
    let expect = |secret: &str, more: &[&'static str]| {
        let mut expected = always.to_vec();
        expected.extend(more.iter().map(|id| (*id, key)));
        assert_lints(&aesgcm(secret), &expected);
    };
    expect("c2VjcmV0IGlzIHNlY3VyZQ==", &["published-key", "weak-key"]);
    expect("AAAAAAAAAAAAAAAAAAAAAA==", &["placeholder-key"]);
    expect("QeASnlrYGf+cmegcAlzFWQ==", &[]);
    let writing = config("aesgcm: {keys: [{name: a, secret: AAAAAAAAAAAAAAAAAAAAAA==}]}\nidentity: {}");
    assert!(lints(&writing).iter().any(|(id, _)| *id == "weak-key"));
    let short = config("aescbc: {keys: [{name: a, secret: QeASnlrYGf+cmegcAlzFWQ==}]}\nidentity: {}");
    assert!(lints(&short).iter().any(|(id, _)| *id == "weak-key"));
}

#[test]
fn what_older_releases_took_loads_with_a_warning() {
    let good = config(&format!("aescbc: {{keys: [{{name: a, secret: {KEY}}}]}}\nidentity: {{}}"));
    let has = |text: &str, id: &str| lints(text).iter().any(|(found, _)| *found == id);
    let old = good.replace("EncryptionConfiguration", "EncryptionConfig");
    assert!(has(&old, "config.old-kind"));
    assert!(!has(&old.replace("apiserver.config.k8s.io/v1", "v1"), "config.old-kind"));
    let bare = old.replace("apiVersion: apiserver.config.k8s.io/v1\n", "");
    assert!(has(&bare, "config.old-kind"));
    assert!(load(good.replace("apiVersion: apiserver.config.k8s.io/v1\n", "").as_bytes()).is_err());
    assert!(has(&format!("{good}extra: 1\n"), "config.unknown-field"));
    assert!(has(&format!("{good}kind: EncryptionConfiguration\n"), "config.duplicate-field"));
    assert!(has(&good.replace("[secrets]", "[secrets, '*.']"), "config.newer-rule"));
    assert!(has(&good.replace("[secrets]", "[secrets, Secrets]"), "config.newer-rule"));
    let coerced = old.replace("name: a", "NAME: 010");
    assert!(has(&coerced, "config.not-a-string"));
    let configuration = load(coerced.as_bytes()).unwrap();
    assert!(matches!(&configuration.entries[0].providers[0], ProviderSpec::AesCbc(keys) if keys[0].name == "8"));
    assert!(load(good.replace("name: a", "name: 010").as_bytes()).is_err());
    assert!(load(good.replace(KEY, "YQ==").as_bytes()).is_err());
}

fn servers(files: &[(&str, &str)]) -> Result<ApiServers, Conflict> {
    ApiServers::new(files.iter().map(|(path, text)| ((*path).to_owned(), load(text.as_bytes()).unwrap())).collect())
}

/// Entries of resources and the name of a secretbox key each, and identity.
fn entries(list: &[(&str, &str)]) -> String {
    let entry = |(resources, name): &(&str, &str)| {
        format!(
            "- resources: [{resources}]\n  providers: [{{secretbox: {{keys: [{{name: {name}, secret: {KEY}}}]}}}}]\n"
        )
    };
    let list: String = list.iter().map(entry).collect();
    format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{list}")
}

fn names(coverage: Coverage<'_>) -> String {
    match coverage {
        Coverage::Configured { providers, file, .. } => {
            let name = |provider: &ProviderSpec| match provider {
                ProviderSpec::Secretbox(keys) => keys[0].name.clone(),
                _ => "?".to_owned(),
            };
            format!("{file}:{}", providers.iter().map(name).collect::<Vec<_>>().join("+"))
        }
        Coverage::Unlisted { file } => format!("{file}:unlisted"),
        Coverage::Uncovered => "uncovered".to_owned(),
    }
}

#[test]
fn a_resource_resolves_to_its_most_exact_rule() {
    let text = entries(&[("secrets", "a"), ("secrets, pods", "b"), ("'*.apps'", "c"), ("'*.'", "d"), ("'*.*'", "e")]);
    let servers = servers(&[("f", &text)]).unwrap();
    for (group, resource, expected) in [
        ("", "secrets", "0:a+b"),
        ("", "pods", "0:b"),
        ("", "configmaps", "0:d"),
        ("apps", "deployments", "0:c"),
        ("stable.example.com", "tabs", "0:e"),
    ] {
        assert_eq!(names(servers.resolve(ApiServer::Kube, &GroupResource::new(group, resource))), expected);
    }
    assert_eq!(servers.chains().len(), 5);
    let routes = GroupResource::new("route.openshift.io", "routes");
    assert_eq!(names(servers.resolve(ApiServer::OpenShift, &routes)), "uncovered");
}

#[test]
fn each_file_speaks_for_its_own_api_servers() {
    let kube = entries(&[("secrets", "a")]);
    let openshift = entries(&[("routes.route.openshift.io", "b")]);
    let oauth = entries(&[("oauthaccesstokens.oauth.openshift.io", "c")]);
    let servers = servers(&[("kube", &kube), ("openshift", &openshift), ("oauth", &oauth)]).unwrap();
    for (server, group, resource, expected) in [
        (ApiServer::Kube, "", "secrets", "0:a"),
        (ApiServer::Kube, "", "pods", "0:unlisted"),
        (ApiServer::OpenShift, "route.openshift.io", "routes", "1:b"),
        (ApiServer::OpenShift, "image.openshift.io", "images", "1:unlisted"),
        (ApiServer::OAuth, "oauth.openshift.io", "oauthaccesstokens", "2:c"),
        (ApiServer::OAuth, "user.openshift.io", "users", "2:unlisted"),
    ] {
        assert_eq!(names(servers.resolve(server, &GroupResource::new(group, resource))), expected);
    }
    let only = self::servers(&[("openshift", &openshift)]).unwrap();
    assert_eq!(names(only.resolve(ApiServer::Kube, &GroupResource::new("", "secrets"))), "uncovered");
}

#[test]
fn two_files_that_disagree_are_a_conflict_that_names_both() {
    let one = entries(&[("secrets", "a")]);
    let other = entries(&[("secrets", "b")]);
    let conflict = servers(&[("x", &one), ("y", &other)]).unwrap_err();
    assert_eq!(conflict.to_string(), "x and y both configure secrets, with different providers");
    assert!(servers(&[("x", &one), ("y", &one)]).is_ok());
}

#[test]
fn the_file_itself_may_be_anything() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    assert!(matches!(read_file(folder.path()), Err(ReadError::Directory)));
    assert!(matches!(read_file(&folder.path().join("absent")), Err(ReadError::Io(_))));
    assert!(matches!(read_file(&write("empty", b"")), Err(ReadError::Empty)));
    let huge = fs::File::create(folder.path().join("huge")).unwrap();
    huge.set_len(100 << 20).unwrap();
    assert!(matches!(read_file(&folder.path().join("huge")), Err(ReadError::TooLarge)));
    assert_eq!(*read_file(&write("one", b"x")).unwrap().bytes, b"x");
}

#[cfg(unix)]
#[test]
fn a_file_that_others_can_read_is_told() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    fs::write(&path, b"x").unwrap();
    for (mode, told) in [(0o600, false), (0o640, true), (0o604, true), (0o644, true), (0o611, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let found = read_file(&path).unwrap().lints;
        assert_eq!(found.iter().any(|lint| lint.id == LintId::ReadableByOthers), told, "{mode:o}");
    }
}

#[test]
fn complaints_have_line_and_column() {
    let text = config("aescbc: {keys: [{name: a, secret: x}]}");
    let first = check(text.as_bytes()).errors.remove(0);
    assert_eq!((first.line, first.column), (Some(6), Some(43)));
    let first = check(b"{\"kind\": \"EncryptionConfig\",\n \"apiVersion\": \"v1\", \"x\": 1}").errors.remove(0);
    assert_eq!((first.stage, first.line, first.column), (Stage::Strict, Some(2), Some(22)));
}

#[test]
fn hostile_input_is_refused_in_bounded_time_and_memory() {
    let deep = 10_000;
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..40 {
        let alias = format!("*a{}, ", level - 1).repeat(9);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", alias.trim_end_matches(", ")));
    }
    let merges: String = (0..30).map(|n| format!("m{}: &m{} {{<<: [*m{n}, *m{n}]}}\n", n + 1, n + 1)).collect();
    let inputs = [
        "[".repeat(deep),
        "{a: ".repeat(deep),
        "- ".repeat(deep),
        "{\"a\":".repeat(deep),
        (0..deep).map(|depth| format!("{}a:\n", " ".repeat(depth.min(400)))).collect(),
        bomb,
        format!("m0: &m0 {{a: 1}}\n{merges}"),
        "&a [*a]".to_owned(),
        "a: &a\n  b: *a\n".to_owned(),
        "a: &a\n  <<: *a\n".to_owned(),
        "x".repeat(3 << 20),
        "\n".repeat(3 << 20),
        "[,".repeat(1 << 20),
        "- a\n".repeat(700_000),
        "a: b\n".repeat(600_000),
        "#".repeat(3 << 20),
        format!(
            "{{\"kind\":\"EncryptionConfig\",\"apiVersion\":\"v1\",\"resources\":[{}null]}}",
            "null,".repeat(500_000)
        ),
        format!("'{}", "\\".repeat(3 << 20)),
        config("identity: {}").replace("[secrets]", &format!("[{}secrets]", "secrets, ".repeat(200_000))),
        "\u{feff}".repeat(1000),
        "%YAML 1.1\n%TAG ! a\n".repeat(10_000),
    ];
    for (number, input) in inputs.iter().enumerate() {
        let check = check(input.as_bytes());
        assert!(!check.accepted, "{number}");
        assert!(check.errors.len() <= 10_000, "{number}");
        // Entries without anything, and resources that repeat, are what old releases took.
        assert!(load(input.as_bytes()).is_err() || matches!(number, 16 | 18), "{number}");
    }
}

#[test]
fn a_configuration_cut_anywhere_is_no_panic() {
    let text = config(&format!("aescbc: {{keys: [{{name: a, secret: {KEY}}}]}}\nidentity: {{}}"));
    for end in 0..text.len() {
        let check = check(text.as_bytes().get(..end).unwrap());
        assert_eq!(check.accepted, check.errors.is_empty());
    }
}

proptest::proptest! {
    #[test]
    fn random_bytes_are_no_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let check = check(&bytes);
        proptest::prop_assert!(!check.accepted && !check.errors.is_empty());
    }

    #[test]
    fn damaged_configurations_are_no_panic(
        number in 0..217usize,
        at in 0..2000usize,
        insert in "[\\t\\n :#&*!|>'\"%@`,\\[\\]{}?<~a-]{0,4}",
        remove in 0..3usize,
    ) {
        let text = fixtures("yaml.jsonl").swap_remove(number).text;
        let characters: Vec<char> = text.chars().collect();
        let at = at % (characters.len() + 1);
        let rest = characters.iter().skip(at + remove);
        let damaged: String = characters.iter().take(at).copied().chain(insert.chars()).chain(rest.copied()).collect();
        let check = check(damaged.as_bytes());
        proptest::prop_assert_eq!(check.accepted, check.errors.is_empty());
        let _ = load(damaged.as_bytes());
    }
}
