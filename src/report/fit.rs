//! What `fit` found: JSON (schema `atrest.fit/1`) and text.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::Severity;
use crate::audit::fit::{Fit, MissingKey, Reads};

use super::json::{SourceFacts, TOOL, Tool, pretty};
use super::paint::Paint;
use super::text::{grouped, harmless, hex};

/// A configuration that was tried, as reports name it.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The path as it was given.
    pub path: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    tool: Tool,
    path: String,
    read_whole: bool,
    entries: u64,
    history: u64,
    encrypted: u64,
    waiting_for_kms: u64,
    uncovered: u64,
    configs: Vec<Config>,
    missing_keys: Vec<Missing>,
    best: Best,
    verdict: &'static str,
}

#[derive(Serialize)]
struct Config {
    path: String,
    sha256: String,
    entries: u64,
    encrypted: u64,
    history: u64,
    share: f64,
    unused_keys: Vec<String>,
}

#[derive(Serialize)]
struct Missing {
    provider: &'static str,
    key_name: String,
    configured: bool,
    records: u64,
}

#[derive(Serialize)]
struct Best {
    paths: Vec<String>,
    entries: u64,
    encrypted: u64,
}

/// The answer in a word: one opens all, some open some, none opens any, there is none to open.
///
/// What is not encrypted opens with nearly any configuration, so where anything is encrypted that alone counts.
fn verdict(fit: &Fit) -> &'static str {
    if fit.one_reads_all() {
        "fits"
    } else if fit.entries == 0 {
        "nothing"
    } else if fit.best_reads_encrypted > 0 || (fit.encrypted == 0 && fit.best_reads > 0) {
        "partly"
    } else {
        "none"
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, fit: &Fit, tried: &[Tried], facts: &SourceFacts) -> io::Result<()> {
    let name = |name: &String| harmless(name).into_owned();
    let config = |(tried, reads): (&Tried, &Reads)| Config {
        path: name(&tried.path),
        sha256: hex(&tried.sha256),
        encrypted: reads.encrypted,
        entries: reads.entries,
        history: reads.history,
        share: share(reads.entries, fit.entries),
        unused_keys: reads.unused_keys.iter().map(name).collect(),
    };
    let missing = |missing: &MissingKey| Missing {
        provider: missing.provider,
        key_name: name(&missing.key_name),
        configured: missing.configured,
        records: missing.records,
    };
    let document = Document {
        schema: "atrest.fit/1",
        tool: TOOL,
        path: harmless(&facts.path).into_owned(),
        read_whole: fit.whole,
        entries: fit.entries,
        history: fit.history,
        encrypted: fit.encrypted,
        waiting_for_kms: fit.waiting,
        uncovered: fit.uncovered,
        configs: tried.iter().zip(&fit.configurations).map(config).collect(),
        missing_keys: fit.missing_keys.iter().map(missing).collect(),
        best: Best {
            paths: fit.best.iter().filter_map(|place| tried.get(*place)).map(|best| name(&best.path)).collect(),
            entries: fit.best_reads,
            encrypted: fit.best_reads_encrypted,
        },
        verdict: verdict(fit),
    };
    pretty(out, &document)
}

/// Missing keys that the text names.
const NAMED_KEYS: usize = 10;

/// Writes the text: the answer first, then each configuration, then what is missing.
pub fn text(out: &mut dyn Write, fit: &Fit, tried: &[Tried], facts: &SourceFacts, paint: Paint) -> io::Result<()> {
    let named = |places: &[usize]| {
        let tried = places.iter().filter_map(|place| tried.get(*place));
        tried.map(|tried| harmless(&tried.path)).collect::<Vec<_>>().join(" and ")
    };
    let path = harmless(&facts.path);
    let line = match verdict(fit) {
        "fits" => paint.good(&format!("[PASS] {path}: {} reads every object", named(&fit.best))),
        "partly" => {
            let (reads, all) = (grouped(fit.best_reads), grouped(fit.entries));
            let read = if fit.best.len() == 1 { "reads" } else { "together read" };
            let line = format!("[WARN] {path}: {} {read} {reads} of {all}", named(&fit.best));
            paint.severity(Severity::Warning, &line)
        }
        "nothing" => {
            let line = format!("[FAIL] {path}: there is no API object; mind --etcd-prefix");
            paint.severity(Severity::Error, &line)
        }
        _ if fit.best_reads > 0 => {
            let line = format!("[FAIL] {path}: none of them reads anything that is encrypted");
            paint.severity(Severity::Error, &line)
        }
        _ => paint.severity(Severity::Error, &format!("[FAIL] {path}: none of them reads anything")),
    };
    writeln!(out, "{line}")?;
    if !fit.whole {
        writeln!(
            out,
            "{}",
            paint.severity(Severity::Error, "[FAIL] not every record could be read; see `atrest check`")
        )?;
    }
    writeln!(out)?;
    for (Tried { path, .. }, reads) in tried.iter().zip(&fit.configurations) {
        let percent = 100.0 * share(reads.entries, fit.entries);
        let (entries, all) = (grouped(reads.entries), grouped(fit.entries));
        // Rounded down, so that only all of them are a hundred.
        writeln!(out, "{:>5.1} %  {entries} of {all}  {}", (percent * 10.0).floor() / 10.0, harmless(path))?;
        if !reads.unused_keys.is_empty() {
            let names: Vec<_> = reads.unused_keys.iter().map(|name| harmless(name)).collect();
            writeln!(out, "         nothing opens by {}", names.join(", "))?;
        }
    }
    if fit.uncovered > 0 {
        let count = grouped(fit.uncovered);
        writeln!(out, "\n{count} values are of an API server that none of them speaks for")?;
    }
    if fit.waiting > 0 {
        writeln!(out, "\n{} values need a KMS plugin, which fit does not ask", grouped(fit.waiting))?;
    }
    missing(out, fit)
}

/// What is on keys that nothing opens; those that no configuration has come first.
fn missing(out: &mut dyn Write, fit: &Fit) -> io::Result<()> {
    if !fit.missing_keys.is_empty() {
        writeln!(out, "\nNone of them opens what is on:")?;
    }
    let mut keys: Vec<_> = fit.missing_keys.iter().collect();
    keys.sort_by_key(|key| (key.configured, std::cmp::Reverse(key.records)));
    for key in keys.iter().take(NAMED_KEYS) {
        let noun = if key.records == 1 { "record" } else { "records" };
        let note = if key.configured { ", though a key of that name is there" } else { "" };
        writeln!(out, "  {}/{}: {} {noun}{note}", key.provider, harmless(&key.key_name), grouped(key.records))?;
    }
    match keys.len().saturating_sub(NAMED_KEYS) {
        0 => Ok(()),
        more => writeln!(out, "  and {} more; -o json names all", grouped(more as u64)),
    }
}
