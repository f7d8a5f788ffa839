//! What to do after a stage of a configuration's change, in order, as commands.

use std::fmt::Write;

use crate::config::Configuration;
use crate::config::change::{Changed, Stage, Step};
use crate::report::text::harmless;

/// Which command it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `config rotate`
    Rotate,
    /// `config enable`
    Enable,
    /// `config disable`
    Disable,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::Enable => "enable",
            Self::Disable => "disable",
        }
    }
}

/// What was done, a line each.
pub fn done(changed: &Changed) -> String {
    let mut text = String::new();
    for step in &changed.steps {
        let line = match step {
            Step::Added { key, writer } => format!("{key} can be read with now; {writer} still writes"),
            Step::Promoted { key, instead_of, is_new: false } => format!("{key} writes now, instead of {instead_of}"),
            Step::Promoted { key, instead_of, is_new: true } => {
                format!("{key}, which is new, writes now, instead of {instead_of}")
            }
            Step::Removed { key } => format!("{key} is not read any more"),
            Step::PlaintextReadable => "plaintext can be read now; what writes stays".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", harmless(&line));
    }
    if changed.steps.iter().any(|step| new_key(step).is_some_and(|key| key.starts_with("aesgcm/"))) {
        text.push_str("aesgcm: change the key again before it has sealed 200,000 values; every write counts\n");
    }
    if let Some(reason) = &changed.rewritten {
        let _ = writeln!(text, "comments and layout are lost: {}", harmless(reason));
    }
    text
}

/// What comes next. `file` is what was written, `config` what it was made of.
pub fn next(verb: Verb, stage: Stage, changed: &Changed, file: &str, config: &str) -> String {
    let mut text = "next:\n".to_owned();
    let digest: String = changed.configuration.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    load(&mut text, &harmless(file), &digest);
    let (file, config, verb_name) = (harmless(file), harmless(config), verb.as_str());
    let _ = match stage {
        Stage::Prepare => {
            let name = changed.steps.iter().find_map(new_key).and_then(|key| key.split_once('/'));
            let several = changed.steps.iter().filter(|step| new_key(step).is_some()).count() > 1;
            let provider = match name {
                Some((provider, _)) if verb == Verb::Rotate && several => format!(" --provider {provider}"),
                Some((_, name)) if !several && verb != Verb::Disable => format!(" --name {}", harmless(name)),
                _ => String::new(),
            };
            writeln!(
                text,
                "  2. When all of them have it, and not before:\n     \
                 atrest config {verb_name} {file} --stage promote{provider} -o promoted.yaml"
            )
        }
        Stage::Promote => writeln!(
            text,
            "  2. When all of them have it, write every object anew, after a backup:\n     {}\n  \
             3. Save a snapshot, and see whether anything still needs what is to go:\n     \
             ETCDCTL_API=3 etcdctl snapshot save after.db\n     \
             atrest config {verb_name} {file} --stage prune --source after.db -o pruned.yaml",
            replace(&changed.configuration)
        ),
        Stage::Prune => writeln!(
            text,
            "  2. Keep {config} as long as any backup that was made under it: what is in those needs its keys."
        ),
    };
    text
}

fn load(text: &mut String, file: &str, digest: &str) {
    let _ = writeln!(
        text,
        "  1. On every API server, put {file} in the place of the file that --encryption-provider-config names (mode 0600,\n     \
         owner root). With --encryption-provider-config-automatic-reload=true it is loaded within two minutes; otherwise restart\n     \
         kube-apiserver, one after the other. Since 1.34 each of them shows the digest of what it has loaded:\n     \
         kubectl get --raw /metrics | grep encryption_config_controller_last_config_info\n     \
         sha256:{digest}"
    );
}

/// How objects are written anew, for the resources that are named.
fn replace(configuration: &Configuration) -> String {
    let resources = configuration.entries.iter().flat_map(|entry| &entry.resources);
    let mut named: Vec<String> = Vec::new();
    let mut wildcards: Vec<String> = Vec::new();
    for resource in resources {
        let list = if resource.resource == "*" { &mut wildcards } else { &mut named };
        let name = harmless(&resource.to_string()).into_owned();
        if !list.contains(&name) {
            list.push(name);
        }
    }
    let mut commands = Vec::new();
    if !named.is_empty() {
        commands.push(format!("kubectl get {} -A -o json | kubectl replace -f -", named.join(",")));
    }
    if !wildcards.is_empty() {
        commands.push(format!("and the same for every resource that {} means", wildcards.join(", ")));
    }
    commands.join("\n     ")
}

fn new_key(step: &Step) -> Option<&str> {
    match step {
        Step::Added { key, .. } | Step::Promoted { key, is_new: true, .. } => Some(key),
        _ => None,
    }
}
