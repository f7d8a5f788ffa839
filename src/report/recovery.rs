//! What `recover-config` found: JSON (schema `atrest.recover-config/1`) and text. Names and fingerprints, never keys.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::Severity;
use crate::distro::merge::Added;
use crate::distro::steps::{Remark, Weight};

use super::json::{TOOL, Tool, pretty};
use super::paint::Paint;
use super::text::harmless;

/// What was found.
pub struct Recovery<'r> {
    /// The store's path.
    pub path: &'r str,
    /// The distribution's word.
    pub distro: &'static str,
    /// Configurations, newest first.
    pub moments: &'r [Moment],
    /// Keys that only an older one has.
    pub added: &'r [Added],
    /// What is to be said.
    pub remarks: &'r [Remark],
    /// The file that was written.
    pub output: Option<&'r str>,
}

/// A configuration of some moment.
pub struct Moment {
    /// Where it was found.
    pub from: String,
    /// `entry`, `history` or `residue`, where it is a record of the store.
    pub standing: Option<&'static str>,
    /// When it was written.
    pub time: Option<String>,
    /// Stage and hash.
    pub state: Option<String>,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Its keys, as `provider/name`.
    pub keys: Vec<String>,
}

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    tool: Tool,
    path: String,
    distro: &'static str,
    configurations: Vec<MomentOut<'d>>,
    added_keys: Vec<AddedOut>,
    findings: Vec<Finding<'d>>,
    output: Option<String>,
}

#[derive(Serialize)]
struct MomentOut<'d> {
    from: String,
    standing: Option<&'static str>,
    time: Option<String>,
    state: Option<String>,
    sha256: &'d str,
    keys: Vec<String>,
}

#[derive(Serialize)]
struct AddedOut {
    provider: &'static str,
    key_name: String,
    fingerprint: String,
    resources: Vec<String>,
    from: Option<String>,
}

#[derive(Serialize)]
struct Finding<'d> {
    id: &'static str,
    severity: &'static str,
    detail: &'d str,
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, recovery: &Recovery<'_>) -> io::Result<()> {
    let own = |text: &String| harmless(text).into_owned();
    let moment =
        |moment: &'_ Moment| (own(&moment.from), moment.time.as_ref().map(own), moment.state.as_ref().map(own));
    let configurations = recovery.moments.iter().map(|found| {
        let (from, time, state) = moment(found);
        let keys = found.keys.iter().map(own).collect();
        MomentOut { from, standing: found.standing, time, state, sha256: &found.sha256, keys }
    });
    let added = |added: &Added| AddedOut {
        provider: added.provider,
        key_name: own(&added.key.name),
        fingerprint: added.key.secret.fingerprint(),
        resources: added.resources.iter().map(ToString::to_string).collect(),
        from: recovery.moments.get(added.from).map(|moment| own(&moment.from)),
    };
    let document = Document {
        schema: "atrest.recover-config/1",
        tool: TOOL,
        path: harmless(recovery.path).into_owned(),
        distro: recovery.distro,
        configurations: configurations.collect(),
        added_keys: recovery.added.iter().map(added).collect(),
        findings: recovery
            .remarks
            .iter()
            .map(|remark| Finding { id: remark.id, severity: remark.weight.word(), detail: &remark.text })
            .collect(),
        output: recovery.output.map(|path| harmless(path).into_owned()),
    };
    pretty(out, &document)
}

/// Writes the text.
pub fn text(out: &mut dyn Write, recovery: &Recovery<'_>, paint: Paint) -> io::Result<()> {
    let (path, count) = (harmless(recovery.path), recovery.moments.len());
    let noun = if count == 1 { "configuration" } else { "configurations" };
    writeln!(out, "{path}: {count} {noun} ({})", recovery.distro)?;
    for moment in recovery.moments {
        let standing =
            moment.standing.filter(|standing| *standing != "entry").map_or(String::new(), |one| format!(", {one}"));
        let time = moment.time.as_deref().map_or(String::new(), |time| format!(", {}", harmless(time)));
        writeln!(out, "  {}{standing}{time}", harmless(&moment.from))?;
        if let Some(state) = &moment.state {
            writeln!(out, "      {}", harmless(state))?;
        }
        let keys: Vec<_> = moment.keys.iter().map(|key| harmless(key)).collect();
        writeln!(out, "      {}", if keys.is_empty() { "no keys".to_owned() } else { keys.join(", ") })?;
    }
    for added in recovery.added {
        let from = recovery.moments.get(added.from).map_or("a key Secret", |moment| moment.from.as_str());
        let line = format!("only an older one has {}/{}: {from}", added.provider, added.key.name);
        writeln!(out, "{}", paint.severity(Severity::Note, &harmless(&line)))?;
    }
    for remark in recovery.remarks {
        let (mark, severity) = match remark.weight {
            Weight::Error => ("[FAIL]", Severity::Error),
            Weight::Warning => ("[WARN]", Severity::Warning),
            Weight::Note => ("[NOTE]", Severity::Note),
        };
        writeln!(out, "{}", paint.severity(severity, &format!("{mark} {}", harmless(&remark.text))))?;
    }
    match recovery.output {
        Some(path) => writeln!(out, "{}", paint.good(&format!("written: {}, for -c", harmless(path)))),
        None => Ok(()),
    }
}
