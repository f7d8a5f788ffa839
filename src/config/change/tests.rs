//! Every configuration that kube-apiserver takes goes through every stage, and the layout of the common ones is kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::provider::spec::ProviderSpec;

use super::*;

#[derive(Deserialize)]
struct Fixture {
    text: String,
}

/// The texts of a fixture that the newest kube-apiserver takes.
fn accepted(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/configs").join(name);
    let text = fs::read_to_string(path).unwrap();
    let texts = text.lines().map(|line| serde_json::from_str::<Fixture>(line).unwrap().text);
    texts.filter(|text| crate::config::check(text.as_bytes()).accepted).collect()
}

fn rotate(provider: Option<KeyKind>) -> Change {
    Change::Rotate { provider, name: None, keys: Vec::new() }
}

fn enable() -> Change {
    Change::Enable { provider: KeyKind::Secretbox, name: None, resources: Vec::new() }
}

#[track_caller]
fn text_of(changed: &Changed) -> &str {
    std::str::from_utf8(&changed.text).unwrap()
}

/// The text with each new secret, which nobody can foresee, replaced.
#[track_caller]
fn shown(changed: &Changed, before: &str) -> String {
    assert_eq!(changed.rewritten, None);
    let mut text = text_of(changed).to_owned();
    let secrets = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)));
        words.filter(|word| word.len() == 44 && word.ends_with('=')).map(str::to_owned).collect()
    };
    for secret in secrets(&text).difference(&secrets(before)) {
        text = text.replace(secret, "NEW");
    }
    text
}

/// Runs a stage and compares the text.
#[track_caller]
fn check(before: &str, what: &Change, stage: Stage, after: &str) -> String {
    let changed = change(before.as_bytes(), what, stage).unwrap();
    assert_eq!(shown(&changed, before), after);
    text_of(&changed).to_owned()
}

/// What must hold of every step, said again without the code that makes it.
fn check_chains(before: &str, changed: &Changed, stage: Stage) {
    let read = |text: &[u8]| crate::config::check(text).configuration.unwrap();
    let (before, after) = (read(before.as_bytes()), read(&changed.text));
    let keys = |configuration: &Configuration| -> BTreeSet<String> {
        let named = |provider: &ProviderSpec| match provider {
            ProviderSpec::Identity => vec!["identity".to_owned()],
            ProviderSpec::Kms(kms) => vec![format!("{kms:?}")],
            ProviderSpec::AesCbc(keys) | ProviderSpec::AesGcm(keys) | ProviderSpec::Secretbox(keys) => {
                keys.iter().map(|key| format!("{}={}", key.name, key.secret.fingerprint())).collect()
            }
        };
        configuration.entries.iter().flat_map(|entry| &entry.providers).flat_map(named).collect()
    };
    let (old, new) = (keys(&before), keys(&after));
    match stage {
        Stage::Prepare => {
            assert!(old.is_subset(&new) && old != new || changed.steps == [Step::PlaintextReadable]);
            for (one, other) in before.entries.iter().zip(&after.entries) {
                let first = |entry: &crate::config::Entry| match entry.providers.first().unwrap() {
                    ProviderSpec::AesCbc(keys) | ProviderSpec::AesGcm(keys) | ProviderSpec::Secretbox(keys) => {
                        Err(keys.first().cloned())
                    }
                    other => Ok(other.clone()),
                };
                assert_eq!(first(one), first(other));
            }
        }
        Stage::Promote => assert!(old.is_subset(&new)),
        Stage::Prune => assert!(new.is_subset(&old)),
    }
}

/// Takes a file through the three stages, as far as there is anything to do, and gives the last text.
fn through(text: &str, what: &Change, promote: &Change, edited: &mut (usize, usize)) -> String {
    let mut text = text.to_owned();
    for stage in [Stage::Prepare, Stage::Promote, Stage::Prune] {
        let what = if stage == Stage::Promote { promote } else { what };
        match change(text.as_bytes(), what, stage) {
            Ok(changed) => {
                check_chains(&text, &changed, stage);
                edited.0 += 1;
                edited.1 += usize::from(changed.rewritten.is_some());
                text_of(&changed).clone_into(&mut text);
            }
            Err(ChangeError::Nothing(..) | ChangeError::Ambiguous { .. }) => {}
            Err(ChangeError::LooksOlder { .. } | ChangeError::LooksNewer { .. }) => {}
            Err(ChangeError::WhichResources) => return text,
            Err(error) => panic!("{stage:?} {what:?}: {error}\n{text}"),
        }
    }
    text
}

#[test]
fn every_accepted_configuration_can_be_rotated_and_stays_accepted() {
    let (mut edited, mut texts) = ((0, 0), 0);
    for text in accepted("configs.jsonl").iter().chain(&accepted("yaml.jsonl")) {
        texts += 1;
        through(text, &rotate(None), &rotate(None), &mut edited);
        for kind in [KeyKind::Secretbox, KeyKind::AesCbc, KeyKind::AesGcm] {
            through(text, &rotate(Some(kind)), &rotate(Some(kind)), &mut edited);
        }
    }
    assert!(texts > 150, "{texts}");
    assert!(edited.0 > 4 * texts, "{edited:?}");
    assert!(edited.1 * 20 < edited.0, "{edited:?}");
}

#[test]
fn every_accepted_configuration_can_be_left_and_entered_again() {
    let mut edited = (0, 0);
    for text in accepted("configs.jsonl").iter().chain(&accepted("yaml.jsonl")) {
        let plain = through(text, &Change::Disable, &Change::Disable, &mut edited);
        let configuration = crate::config::check(plain.as_bytes()).configuration.unwrap();
        let providers = || configuration.entries.iter().flat_map(|entry| &entry.providers);
        assert!(providers().all(|provider| *provider == ProviderSpec::Identity), "{plain}");
        let sealed = through(&plain, &enable(), &enable(), &mut edited);
        let configuration = crate::config::check(sealed.as_bytes()).configuration.unwrap();
        let first = configuration.entries.first().unwrap().providers.first().unwrap();
        assert!(matches!(first, ProviderSpec::Secretbox(_)), "{sealed}");
    }
    assert!(edited.0 > 500, "{edited:?}");
    assert!(edited.1 * 20 < edited.0, "{edited:?}");
}

const DOCUMENTED: &str = "\
# Kept in the vault, see the runbook.
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  # Everything that is secret.
  - resources:
      - secrets
      - configmaps # some are
    providers:
      - aescbc:
          keys:
            # since the audit
            - name: key1   # write
              secret: 6gYBhZxmqbFUUG9Z80pGN0MotaH+djl/tv0YIl687cQ=
              # the runbook says how to make one

            # before
            - name: key0
              secret: GNMcdxiY/6nIq+5LUrUp0YAg0st11Xy+EVE+YYW3tus=
            # - name: key-lost
      - identity: {} # this fallback allows reading unencrypted secrets;
                     # for example, during initial migration
";

#[test]
fn a_rotation_keeps_comments_and_order() {
    let prepared = DOCUMENTED.replace(
        "            # before\n",
        "            - name: key2\n              secret: NEW\n            # before\n",
    );
    let text = check(DOCUMENTED, &rotate(None), Stage::Prepare, &prepared);
    let changed = change(text.as_bytes(), &rotate(None), Stage::Promote).unwrap();
    let key2 = text.split("            # before").next().unwrap().rsplit("            - name: key2").next().unwrap();
    let key2 = format!("            - name: key2{key2}");
    let expected = text.replace(&key2, "").replace("            # since", &format!("{key2}            # since"));
    assert_eq!((text_of(&changed), &changed.rewritten), (expected.as_str(), &None));
    assert_eq!(
        changed.steps,
        [Step::Promoted { key: "aescbc/key2".into(), instead_of: "aescbc/key1".into(), is_new: false }]
    );
    let changed = change(&changed.text, &rotate(None), Stage::Prune).unwrap();
    let begin = expected.find("            # since").unwrap();
    let end = expected.find("            # - name: key-lost").unwrap();
    assert_eq!(text_of(&changed), format!("{}{}", &expected[..begin], &expected[end..]));
}

#[test]
fn another_provider_comes_beside_the_old_one() {
    let to = |kind| Change::Rotate { provider: Some(kind), name: Some("box".into()), keys: Vec::new() };
    let new = "      - secretbox:\n          keys:\n            - name: box\n              secret: NEW\n";
    let prepared = DOCUMENTED.replace("      - identity", &format!("{new}      - identity"));
    let text = check(DOCUMENTED, &to(KeyKind::Secretbox), Stage::Prepare, &prepared);
    let promoted = change(text.as_bytes(), &to(KeyKind::Secretbox), Stage::Promote).unwrap();
    let begins = |text: &str, what: &str| text.find(what).unwrap_or_else(|| panic!("{text}"));
    assert!(begins(text_of(&promoted), "secretbox") < begins(text_of(&promoted), "aescbc"));
    let pruned = change(&promoted.text, &rotate(None), Stage::Prune).unwrap();
    assert!(!text_of(&pruned).contains("aescbc"));
    assert!(text_of(&pruned).contains("# for example, during initial migration"));
}

#[test]
fn other_layouts_stay_what_they_are() {
    let secret = "6gYBhZxmqbFUUG9Z80pGN0MotaH+djl/tv0YIl687cQ=";
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
    for (before, after) in [
        // Lists that stand no further in than their names, wide dashes, no newline at the end.
        (
            format!(
                "{head}resources:\n-   resources: [secrets]\n    providers:\n    -   secretbox:\n            keys:\n            -   name: '7'\n                secret: {secret}"
            ),
            format!(
                "{head}resources:\n-   resources: [secrets]\n    providers:\n    -   secretbox:\n            keys:\n            -   name: '7'\n                secret: {secret}\n            -   name: \"8\"\n                secret: NEW\n"
            ),
        ),
        // Between brackets.
        (
            format!(
                "{head}resources: [{{resources: [secrets], providers: [{{aesgcm: {{keys: [{{name: a1, secret: \"{secret}\"}}]}}}}, {{identity: {{}}}}]}}]\n"
            ),
            format!(
                "{head}resources: [{{resources: [secrets], providers: [{{aesgcm: {{keys: [{{name: a1, secret: \"{secret}\"}}, {{name: a2, secret: NEW}}]}}}}, {{identity: {{}}}}]}}]\n"
            ),
        ),
        // Another document behind, which nobody reads.
        (
            format!(
                "---\n{head}resources:\n  - resources: [secrets]\n    providers:\n      - aescbc:\n          keys:\n            - {{name: key1, secret: {secret}}}\n---\nmore: [\n"
            ),
            format!(
                "---\n{head}resources:\n  - resources: [secrets]\n    providers:\n      - aescbc:\n          keys:\n            - {{name: key1, secret: {secret}}}\n            - name: key2\n              secret: NEW\n---\nmore: [\n"
            ),
        ),
        // JSON, on one line and on many.
        (
            format!(
                r#"{{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{{"resources":["secrets"],"providers":[{{"aescbc":{{"keys":[{{"name":"key1","secret":"{secret}"}}]}}}}]}}]}}"#
            ),
            format!(
                r#"{{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{{"resources":["secrets"],"providers":[{{"aescbc":{{"keys":[{{"name":"key1","secret":"{secret}"}},{{"name":"key2","secret":"NEW"}}]}}}}]}}]}}"#
            ),
        ),
        (
            format!(
                "{{\n \"kind\": \"EncryptionConfiguration\",\n \"apiVersion\": \"apiserver.config.k8s.io/v1\",\n \"resources\": [{{\"resources\": [\"secrets\"], \"providers\": [{{\"aescbc\": {{\n  \"keys\": [\n   {{\n    \"name\": \"key1\",\n    \"secret\": \"{secret}\"\n   }}\n  ]\n }}}}]}}]\n}}\n"
            ),
            format!(
                "{{\n \"kind\": \"EncryptionConfiguration\",\n \"apiVersion\": \"apiserver.config.k8s.io/v1\",\n \"resources\": [{{\"resources\": [\"secrets\"], \"providers\": [{{\"aescbc\": {{\n  \"keys\": [\n   {{\n    \"name\": \"key1\",\n    \"secret\": \"{secret}\"\n   }},\n   {{\n    \"name\": \"key2\",\n    \"secret\": \"NEW\"\n   }}\n  ]\n }}}}]}}]\n}}\n"
            ),
        ),
    ] {
        check(&before, &rotate(None), Stage::Prepare, &after);
        if !before.ends_with('\n') {
            continue;
        }
        let windows = |text: &str| text.replace('\n', "\r\n");
        check(&windows(&before), &rotate(None), Stage::Prepare, &windows(&after));
        check(&format!("\u{feff}{before}"), &rotate(None), Stage::Prepare, &format!("\u{feff}{after}"));
    }
}

const SHARED: &str = "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers: &chain
      - aescbc:
          keys:
            - &old {name: key0, secret: GNMcdxiY/6nIq+5LUrUp0YAg0st11Xy+EVE+YYW3tus=}
            - {name: key1, secret: 6gYBhZxmqbFUUG9Z80pGN0MotaH+djl/tv0YIl687cQ=}
      - identity: {}
  - resources: [configmaps]
    providers: *chain
  - resources: [events]
    providers:
      - aescbc: {keys: [*old]}
";

#[test]
fn what_is_shared_by_an_anchor_changes_once() {
    let to = Change::Rotate { provider: None, name: None, keys: Vec::new() };
    let changed = change(SHARED.as_bytes(), &to, Stage::Prepare).unwrap();
    assert_eq!(changed.rewritten, None);
    assert_eq!(text_of(&changed).matches("name: key2").count(), 2, "{}", text_of(&changed));
    let first = changed.configuration.entries.first().unwrap();
    assert_eq!(first.providers, changed.configuration.entries.get(1).unwrap().providers);
}

#[test]
fn what_an_anchor_does_not_allow_is_written_anew_and_said() {
    // The key that goes is defined where it goes and used where it stays.
    let to = Change::Rotate { provider: None, name: Some("key1".into()), keys: vec!["key0".into()] };
    let promoted = change(SHARED.as_bytes(), &to, Stage::Promote).unwrap();
    assert_eq!(promoted.rewritten, None);
    let pruned = change(&promoted.text, &rotate(None), Stage::Prune).unwrap();
    assert!(pruned.rewritten.is_some());
    let keys = |entry: usize| match &pruned.configuration.entries[entry].providers[0] {
        ProviderSpec::AesCbc(keys) => keys.iter().map(|key| key.name.clone()).collect::<Vec<_>>(),
        _ => panic!(),
    };
    assert_eq!([keys(0), keys(1), keys(2)], [["key1"], ["key1"], ["key0"]]);
}

#[test]
fn keys_of_their_own_get_new_ones_of_their_own() {
    let text = SHARED.replace("[*old]", "[{name: key5, secret: 6gYBhZxmqbFUUG9Z80pGN0MotaH+djl/tv0YIl687cQ=}]");
    let changed = change(text.as_bytes(), &rotate(None), Stage::Prepare).unwrap();
    let added = |key: &str, writer: &str| Step::Added { key: key.into(), writer: writer.into() };
    assert_eq!(changed.steps, [added("aescbc/key2", "aescbc/key0"), added("aescbc/key6", "aescbc/key5")]);
    let one_name = Change::Rotate { provider: None, name: Some("new".into()), keys: Vec::new() };
    assert!(matches!(change(text.as_bytes(), &one_name, Stage::Prepare), Err(ChangeError::NameForSeveral(2))));
    let one_key = Change::Rotate { provider: None, name: Some("new".into()), keys: vec!["key5".into()] };
    let changed = change(text.as_bytes(), &one_key, Stage::Prepare).unwrap();
    assert_eq!(changed.steps, [added("aescbc/new", "aescbc/key5")]);
}

#[test]
fn a_stage_that_was_done_is_not_done_again_backward() {
    let prepared = change(DOCUMENTED.as_bytes(), &rotate(None), Stage::Prepare).unwrap();
    let promoted = change(&prepared.text, &rotate(None), Stage::Promote).unwrap();
    let again = change(&promoted.text, &rotate(None), Stage::Promote);
    assert!(matches!(again, Err(ChangeError::LooksOlder { candidate, .. }) if candidate == "aescbc/key1"));
    let named = Change::Rotate { provider: None, name: Some("key2".into()), keys: Vec::new() };
    let Err(ChangeError::Nothing(_, notes)) = change(&promoted.text, &named, Stage::Promote) else { panic!() };
    assert_eq!(notes, [Note::WritesAlready { key: "aescbc/key2".into() }]);
    let unknown = Change::Rotate { provider: None, name: Some("key9".into()), keys: Vec::new() };
    let unknown = change(&promoted.text, &unknown, Stage::Promote);
    assert!(matches!(unknown, Err(ChangeError::UnknownName(name)) if name == "key9"));
}

#[test]
fn a_key_that_was_never_promoted_does_not_go_by_mistake() {
    let prepared = change(DOCUMENTED.as_bytes(), &rotate(None), Stage::Prepare).unwrap();
    let pruned = change(&prepared.text, &rotate(None), Stage::Prune);
    assert!(matches!(pruned, Err(ChangeError::LooksNewer { candidate, .. }) if candidate == "aescbc/key2"));
    let given_up = Change::Rotate { provider: None, name: None, keys: vec!["key2".into()] };
    let pruned = change(&prepared.text, &given_up, Stage::Prune).unwrap();
    assert_eq!(text_of(&pruned), DOCUMENTED);
}

#[test]
fn two_keys_that_could_have_been_prepared_are_asked_about() {
    let to = Change::Rotate { provider: Some(KeyKind::Secretbox), name: None, keys: Vec::new() };
    let prepared = change(DOCUMENTED.as_bytes(), &to, Stage::Prepare).unwrap();
    // `key0` was before `key1`, so only one is left.
    let promoted = change(&prepared.text, &rotate(None), Stage::Promote).unwrap();
    assert_eq!(promoted.steps, change(&prepared.text, &to, Stage::Promote).unwrap().steps);
    let renamed = text_of(&prepared).replace("name: key0", "name: spare");
    let asked = change(renamed.as_bytes(), &rotate(None), Stage::Promote);
    assert!(matches!(asked, Err(ChangeError::Ambiguous { .. })));
    let promoted = change(renamed.as_bytes(), &to, Stage::Promote).unwrap();
    let expected = Step::Promoted { key: "secretbox/key2".into(), instead_of: "aescbc/key1".into(), is_new: false };
    assert_eq!(promoted.steps, [expected]);
}

#[test]
fn kms_and_plaintext_are_left_and_said() {
    let text = "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - kms: {name: vault, endpoint: unix:///run/kms.sock, apiVersion: v2}
  - resources: [events]
    providers:
      - identity: {}
";
    let Err(ChangeError::Nothing(_, notes)) = change(text.as_bytes(), &rotate(None), Stage::Prepare) else { panic!() };
    assert_eq!(notes, [Note::WritesWithKms { name: "vault".into(), is_v1: false }, Note::WritesPlaintext]);
    let to = rotate(Some(KeyKind::Secretbox));
    let prepared = change(text.as_bytes(), &to, Stage::Prepare).unwrap();
    let promoted = change(&prepared.text, &to, Stage::Promote).unwrap();
    let pruned = change(&promoted.text, &to, Stage::Prune).unwrap();
    assert_eq!(pruned.steps, [Step::Removed { key: "kms/vault".into() }]);
}

#[test]
fn encryption_begins_and_ends_in_stages() {
    let text = "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      # nothing yet
      - identity: {}
";
    let new = "      - secretbox:\n          keys:\n            - name: key1\n              secret: NEW\n";
    let plain = "      # nothing yet\n      - identity: {}\n";
    let head = text.strip_suffix(plain).unwrap();
    check(text, &enable(), Stage::Promote, &format!("{head}{new}{plain}"));
    let prepared = check(text, &enable(), Stage::Prepare, &format!("{head}{plain}{new}"));
    let promoted = change(prepared.as_bytes(), &enable(), Stage::Promote).unwrap();
    let promoted = text_of(&promoted).to_owned();
    assert!(promoted.ends_with(plain), "{promoted}");
    let pruned = change(promoted.as_bytes(), &enable(), Stage::Prune).unwrap();
    assert_eq!(text_of(&pruned), promoted.strip_suffix(plain).unwrap());

    let prepared = change(&pruned.text, &Change::Disable, Stage::Prepare).unwrap();
    assert_eq!(text_of(&prepared), format!("{}      - identity: {{}}\n", text_of(&pruned)));
    let left = change(&prepared.text, &Change::Disable, Stage::Promote).unwrap();
    assert!(text_of(&left).contains("providers:\n      - identity: {}\n      - secretbox:"), "{}", text_of(&left));
    let plain = change(&left.text, &Change::Disable, Stage::Prune).unwrap();
    assert_eq!(text_of(&plain), format!("{head}      - identity: {{}}\n"));
}

#[test]
fn what_is_plaintext_on_purpose_is_not_encrypted_by_the_way() {
    let text = SHARED.replace("      - aescbc: {keys: [*old]}", "      - identity: {}");
    assert!(matches!(change(text.as_bytes(), &enable(), Stage::Promote), Err(ChangeError::WhichResources)));
    let resources = vec![GroupResource::parse("events")];
    let events = Change::Enable { provider: KeyKind::AesGcm, name: Some("e1".into()), resources };
    let changed = change(text.as_bytes(), &events, Stage::Promote).unwrap();
    let expected = Step::Promoted { key: "aesgcm/e1".into(), instead_of: "identity".into(), is_new: true };
    assert_eq!(changed.steps, [expected]);
    let resources = vec![GroupResource::parse("pods")];
    let pods = Change::Enable { provider: KeyKind::AesGcm, name: None, resources };
    assert!(matches!(change(text.as_bytes(), &pods, Stage::Promote), Err(ChangeError::UnknownResource(_))));
}

#[test]
fn a_new_name_never_begins_like_an_old_one() {
    for (name, old) in [("key1", "key1"), ("a", "a:b"), ("key0", "x")] {
        let text = DOCUMENTED.replace("name: key1", &format!("name: {old}"));
        let to = Change::Rotate { provider: None, name: Some(name.into()), keys: Vec::new() };
        assert!(matches!(change(text.as_bytes(), &to, Stage::Prepare), Err(ChangeError::BadName(..))), "{name} {old}");
    }
}

#[test]
fn what_kube_apiserver_refuses_is_not_changed() {
    let text = DOCUMENTED.replace("secrets", "Secrets");
    assert!(matches!(change(text.as_bytes(), &rotate(None), Stage::Prepare), Err(ChangeError::Refused(_))));
}

#[test]
fn new_files_are_accepted_and_have_their_key() {
    for kind in [KeyKind::Secretbox, KeyKind::AesCbc, KeyKind::AesGcm] {
        for stage in [Stage::Prepare, Stage::Promote, Stage::Prune] {
            let text = fresh_configuration(kind, "key1", &["secrets".to_owned()], stage).unwrap();
            let check = crate::config::check(&text);
            assert!(check.accepted, "{:?}", check.errors);
        }
    }
    let entry = fresh_key_entry("key7").unwrap();
    let text = DOCUMENTED.replace("            # before\n", &{
        let lines = std::str::from_utf8(&entry).unwrap().lines();
        lines.map(|line| format!("            {line}\n")).collect::<String>()
    });
    assert!(crate::config::check(text.as_bytes()).accepted, "{text}");
}
