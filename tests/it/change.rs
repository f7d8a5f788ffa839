//! New keys and staged changes of a configuration, by the command line, and the gate that looks into a store first.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::program::{Run, STORES, argument, atrest, audit, private, temporary, testdata};

const APISERVER: &str = "apiserver/snapshot.db";
const CONFIG: &str = "apiserver/encryption-config.yaml";

/// A folder, and what runs of `config` in it say.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(temporary())
    }

    fn at(&self, name: &str) -> String {
        argument(&self.0.path().join(name)).to_owned()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    /// A copy of a configuration that lies in `testdata`.
    fn config(&self, name: &str, testdata_name: &str) -> String {
        private(&self.0, name, &fs::read(testdata(testdata_name)).unwrap())
    }

    /// Runs `config VERB FROM --stage STAGE ... -o TO`.
    fn stage(&self, verb: &str, from: &str, stage: &str, to: &str, more: &[&str]) -> Run {
        let (from, to) = (self.at(from), self.at(to));
        atrest(&[&["config", verb, &from, "--stage", stage, "-o", &to], more].concat())
    }

    /// The same, which must be written and accepted.
    #[track_caller]
    fn staged(&self, verb: &str, from: &str, stage: &str, to: &str, more: &[&str]) -> String {
        let run = self.stage(verb, from, stage, to, more);
        assert_eq!((run.code, run.text()), (0, ""), "{}", run.err);
        let path = self.at(to);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let check = atrest(&["config", "check", &path]);
        assert_eq!(check.code, 0, "{}", check.text());
        for secret in secrets(&self.text(to)) {
            assert!(!run.err.contains(&secret), "a key is printed: {}", run.err);
        }
        run.err
    }

    /// Rewrites a store.
    #[track_caller]
    fn rewrite(&self, source: &str, from: &str, how: &[&str], to: &str) -> String {
        let output = self.at(to);
        let run = atrest(&[&["rewrite", source, "-c", from, "-o", &output], how].concat());
        assert_eq!(run.code, 0, "{}", run.err);
        output
    }
}

fn secrets(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)));
    words.filter(|word| word.len() == 44 && word.ends_with('=')).map(str::to_owned).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_key_comes_in_a_whole_configuration_that_only_its_owner_reads() {
    let place = Place::new();
    for provider in ["secretbox", "aescbc", "aesgcm"] {
        let path = place.at(provider);
        let run = atrest(&["config", "keygen", "--provider", provider, "--name", "first", "-o", &path]);
        assert_eq!((run.code, run.text()), (0, ""), "{}", run.err);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = place.text(provider);
        assert!(text.contains(&format!("- {provider}:")) && text.contains("name: first"), "{text}");
        let check = atrest(&["config", "check", &path, "--fail-on", "warning"]);
        assert_eq!(check.code, 0, "{}", check.text());
        // A second one is refused, and another one when it is forced.
        let again = ["config", "keygen", "--provider", provider, "-o", &path];
        assert!(atrest(&again).failed(4).contains("exists already"));
        assert_eq!(place.text(provider), text);
        assert_eq!(atrest(&[&again[..], &["--force"]].concat()).code, 0);
        assert_ne!(secrets(&place.text(provider)), secrets(&text));
    }
}

#[test]
fn a_key_is_printed_only_when_that_is_asked_for() {
    let run = atrest(&["config", "keygen", "--key-only", "--name", "key7", "--stdout"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.text().starts_with("- name: key7\n  secret: "), "{}", run.text());
    let dash = atrest(&["config", "keygen", "-o", "-"]);
    assert_eq!((dash.code, secrets(dash.text()).len()), (0, 1), "{}", dash.err);
    atrest(&["config", "keygen"]).failed(2);
    for name in ["", "a:b", "a b", "6gYBhZxmqbFUUG9Z80pGN0MotaH+djl/tv0YIl687cQ="] {
        atrest(&["config", "keygen", "--stdout", "--name", name]).failed(2);
    }
}

#[test]
fn a_rotation_ends_only_when_the_store_needs_the_old_keys_no_more() {
    let place = Place::new();
    let store = testdata(APISERVER);
    let current = place.config("current.yaml", CONFIG);
    let said = place.staged("rotate", "current.yaml", "prepare", "prepared.yaml", &[]);
    assert!(said.contains("secretbox/key3 can be read with now; secretbox/key2 still writes"), "{said}");
    assert!(said.contains("--stage promote --name key3"), "{said}");
    let said = place.staged("rotate", "prepared.yaml", "promote", "promoted.yaml", &["--name", "key3"]);
    assert!(said.contains("secretbox/key3 writes now, instead of secretbox/key2"), "{said}");
    assert!(said.contains("kubectl get secrets,configmaps,widgets.example.com -A -o json"), "{said}");

    // The store as it is needs both old keys.
    let run = place.stage("rotate", "promoted.yaml", "prune", "pruned.yaml", &["--source", &store]);
    let said = run.failed(1);
    assert!(
        said.contains("aescbc/key1 (") && said.contains("secretbox/key2 (") && said.contains("/registry/"),
        "{said}"
    );
    assert!(!Path::new(&place.at("pruned.yaml")).exists());
    assert_eq!(names(place.0.path()), ["current.yaml", "prepared.yaml", "promoted.yaml"]);

    // Once it is written anew nothing does, neither now nor in its history.
    let promoted = place.at("promoted.yaml");
    let after = place.rewrite(&store, &current, &["--to", &promoted], "after.db");
    let gate = ["--source", &after, "--including", "history,residue"];
    let said = place.staged("rotate", "promoted.yaml", "prune", "pruned.yaml", &gate);
    assert!(said.contains("no entry needs it"), "{said}");
    let pruned = place.at("pruned.yaml");
    assert_eq!(secrets(&place.text("pruned.yaml")).len(), 1);
    let run = audit(&after, &[&pruned], &[]);
    assert_eq!(run.code, 0, "{}", run.text());
}

#[test]
fn history_keeps_a_key_only_where_it_is_asked_about() {
    let place = Place::new();
    let store = testdata(APISERVER);
    let current = place.config("current.yaml", CONFIG);
    // Only what the newest revisions hold is written anew: the others are dropped, but in the source they are still there.
    let prune = |more: &[&str], to: &str| {
        let gate = [&["--source", &store, "--key", "key1"], more].concat();
        place.stage("rotate", "current.yaml", "prune", to, &gate)
    };
    let keys = atrest(&["keys", &store, "-c", &current, "--require-unused", "aescbc/key1"]).code;
    assert_eq!(prune(&[], "a.yaml").code, keys);
    let with_history = ["--including", "history"];
    let keys =
        atrest(&[&["keys", &store, "-c", &current, "--require-unused", "aescbc/key1"], &with_history[..]].concat());
    assert_eq!(prune(&with_history, "b.yaml").code, keys.code);
}

#[test]
fn a_key_may_go_in_one_place_and_stay_in_another() {
    let place = Place::new();
    let (store, current) = (testdata(APISERVER), place.config("current.yaml", CONFIG));
    let text = place.text("current.yaml");
    let secret = |name: &str| {
        let rest = text.split(&format!("\"{name}\"")).nth(1).unwrap();
        secrets(rest).into_iter().next().unwrap()
    };
    let entry = |resource: &str, first: &str, second: &str| {
        let provider = |provider: &str| {
            let name = if provider == "aescbc" { "key1" } else { "key2" };
            format!("      - {provider}: {{keys: [{{name: {name}, secret: {}}}]}}\n", secret(name))
        };
        format!(
            "  - resources: [{resource}]\n    providers:\n{}{}      - identity: {{}}\n",
            provider(first),
            provider(second)
        )
    };
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
    let both =
        format!("{head}{}{}", entry("secrets", "secretbox", "aescbc"), entry("configmaps", "aescbc", "secretbox"));
    let crossed = private(&place.0, "crossed.yaml", both.as_bytes());
    // Which of two keys that are named so is the old one can't be told from their names, so they are named.
    let prune = ["--key", "key1", "--key", "key2", "--source"];
    place.stage("rotate", "crossed.yaml", "prune", "refused.yaml", &[&prune[..], &[&store]].concat()).failed(1);
    let after = place.rewrite(&store, &current, &["--to", &crossed], "after.db");
    place.staged("rotate", "crossed.yaml", "prune", "pruned.yaml", &[&prune[..], &[&after]].concat());
    assert_eq!(secrets(&place.text("pruned.yaml")).len(), 2);
    assert_eq!(audit(&after, &[&place.at("pruned.yaml")], &[]).code, 0);
}

#[cfg(feature = "kms")]
#[test]
fn beside_kms_a_key_goes_only_when_no_value_is_on_it_and_no_plugin_is_asked_for_that() {
    use super::stand_in::{Plugin, honest};

    let place = Place::new();
    let (store, current) = (testdata("kms/snapshot.db"), place.config("current.yaml", "kms/encryption-config.yaml"));
    for (key, told) in [("aescbc/old", "aescbc/old ("), ("kms/ack-kms", "kms/ack-kms (")] {
        let run = place.stage("rotate", "current.yaml", "prune", "refused.yaml", &["--key", key, "--source", &store]);
        let said = run.failed(1);
        assert!(said.contains(told) && said.contains("/registry/secrets/"), "{said}");
    }
    let plugins = [("cloud-kms", "v2"), ("ack-kms", "v1beta1")].map(|(name, version)| {
        let plugin = Plugin::start(honest(version, "1"));
        (format!("--kms-endpoint={name}={}", plugin.endpoint()), plugin)
    });
    let asked = plugins.each_ref().map(|(endpoint, _)| endpoint.as_str());
    let after =
        place.rewrite(&store, &current, &[&["--to", &current, "--kms", "--quiet"], &asked[..]].concat(), "after.db");
    let calls = plugins.each_ref().map(|(_, plugin)| plugin.calls("Decrypt"));
    // All is under the first provider now: so both others may go, and the first one may not.
    let gate = ["--source", &after];
    let said = place.staged("rotate", "current.yaml", "prune", "pruned.yaml", &gate);
    assert!(said.contains("no entry needs it") || said.contains("no entry needs them"), "{said}");
    assert_eq!(plugins.each_ref().map(|(_, plugin)| plugin.calls("Decrypt")), calls);
    let pruned = place.text("pruned.yaml");
    assert!(pruned.contains("cloud-kms") && !pruned.contains("ack-kms") && !pruned.contains("old"), "{pruned}");
    place.staged("disable", "current.yaml", "promote", "disabled.yaml", &[]);
    let run = place.stage("disable", "disabled.yaml", "prune", "plain.yaml", &gate);
    assert!(run.failed(1).contains("kms/cloud-kms ("), "{}", run.err);
}

#[test]
fn without_a_source_it_is_said_that_nothing_was_proved() {
    let place = Place::new();
    place.config("current.yaml", CONFIG);
    let said = place.staged("rotate", "current.yaml", "prune", "pruned.yaml", &[]);
    assert!(said.contains("nothing was proved"), "{said}");
    let gate = ["--source", &testdata(APISERVER)];
    place.stage("rotate", "current.yaml", "prepare", "prepared.yaml", &gate).failed(2);
}

#[test]
fn encryption_is_left_only_when_nothing_is_sealed_any_more() {
    let place = Place::new();
    let (store, current) = (testdata(APISERVER), place.config("current.yaml", CONFIG));
    assert!(
        place.stage("disable", "current.yaml", "prepare", "x.yaml", &[]).failed(2).contains("plaintext can be read")
    );
    place.staged("disable", "current.yaml", "promote", "disabled.yaml", &[]);
    let run = place.stage("disable", "disabled.yaml", "prune", "plain.yaml", &["--source", &store]);
    assert!(run.failed(1).contains("secretbox/key2"));
    let plain = place.rewrite(&store, &current, &["--strip"], "plain.db");
    place.staged("disable", "disabled.yaml", "prune", "plain.yaml", &["--source", &plain]);
    assert_eq!(secrets(&place.text("plain.yaml")), [] as [String; 0]);
    assert_eq!(audit(&plain, &[&place.at("plain.yaml")], &[]).code, 0);
}

#[test]
fn encryption_begins_from_nothing_and_from_plaintext() {
    let place = Place::new();
    let prepared = place.at("prepared.yaml");
    let run = atrest(&["config", "enable", "--stage", "prepare", "--resource", "secrets,configmaps", "-o", &prepared]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains("secretbox/key1 can be read with now; identity still writes"), "{}", run.err);
    let said = place.staged("enable", "prepared.yaml", "promote", "enabled.yaml", &[]);
    assert!(said.contains("secretbox/key1 writes now, instead of identity"), "{said}");
    // The store has plaintext in it, and values that this new key never sealed.
    let store = testdata(APISERVER);
    let run = place.stage("enable", "enabled.yaml", "prune", "strict.yaml", &["--source", &store]);
    assert!(run.failed(1).contains("identity ("));
    let current = place.config("current.yaml", CONFIG);
    let sealed = place.rewrite(&store, &current, &["--to", &place.at("enabled.yaml")], "sealed.db");
    place.staged("enable", "enabled.yaml", "prune", "strict.yaml", &["--source", &sealed]);
    assert!(!place.text("strict.yaml").contains("identity"));
    assert_eq!(audit(&sealed, &[&place.at("strict.yaml")], &[]).code, 0);
}

#[test]
fn the_configuration_is_never_the_output_under_any_name() {
    let place = Place::new();
    let current = place.config("current.yaml", CONFIG);
    fs::hard_link(&current, place.at("hard.yaml")).unwrap();
    symlink(&current, place.at("soft.yaml")).unwrap();
    let before = place.text("current.yaml");
    for output in ["current.yaml", "hard.yaml", "soft.yaml"] {
        let run = place.stage("rotate", "current.yaml", "prepare", output, &["--force"]);
        assert!(run.failed(4).contains("the same file as the input"), "{}", run.err);
    }
    assert_eq!(place.text("current.yaml"), before);
    assert_eq!(names(place.0.path()), ["current.yaml", "hard.yaml", "soft.yaml"]);
}

#[test]
fn every_configuration_of_a_store_can_be_rotated() {
    for (_, config) in STORES {
        let place = Place::new();
        place.config("current", config);
        let run = place.stage("rotate", "current", "prepare", "prepared", &[]);
        let is_kms = config.starts_with("kms/");
        assert_eq!(run.code, if is_kms { 2 } else { 0 }, "{config}: {}", run.err);
        if is_kms {
            assert!(run.err.contains("kms/cloud-kms: its keys rotate in the plugin"), "{}", run.err);
            let said = place.staged("rotate", "current", "prepare", "prepared", &["--provider", "secretbox"]);
            assert!(said.contains("kms/cloud-kms still writes"), "{said}");
        }
        let added = secrets(&place.text("prepared")).len() - secrets(&place.text("current")).len();
        assert!(added >= 1, "{config}");
    }
}

#[test]
fn what_does_not_apply_is_wrong_usage_and_what_is_refused_is_bad_input() {
    let place = Place::new();
    place.config("current.yaml", CONFIG);
    let usage =
        |more: &[&str], stage: &str| place.stage("rotate", "current.yaml", stage, "x.yaml", more).failed(2).len();
    usage(&["--name", "key9"], "promote");
    usage(&["--name", "key1"], "prepare");
    usage(&["--name", "key9"], "prune");
    usage(&["--key", "key9"], "prune");
    usage(&["--key", "key9"], "prepare");
    place.stage("enable", "current.yaml", "promote", "x.yaml", &[]).failed(2);
    private(&place.0, "bad.yaml", place.text("current.yaml").replace("secrets", "Secrets").as_bytes());
    let run = place.stage("rotate", "bad.yaml", "prepare", "x.yaml", &[]);
    assert!(run.failed(3).contains("kube-apiserver refuses the file as it is"));
    place.stage("rotate", "gone.yaml", "prepare", "x.yaml", &[]).failed(3);
    place.stage("rotate", "current.yaml", "prepare", "no/such/x.yaml", &[]).failed(4);
    let gate = ["--source", &testdata("kubeadm/encryption-config.yaml")];
    place.stage("rotate", "current.yaml", "prune", "x.yaml", &gate).failed(3);
    assert_eq!(names(place.0.path()), ["bad.yaml", "current.yaml"]);
}
