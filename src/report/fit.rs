//! What `fit` found: JSON (schema `atrest.fit/1`) and text.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::Severity;
use crate::audit::fit::Fit;

use super::json::{SourceFacts, TOOL, Tool, pretty};
use super::paint::Paint;
use super::text::{grouped, harmless};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    tool: Tool,
    path: String,
    read_whole: bool,
    entries: u64,
    history: u64,
    waiting_for_kms: u64,
    configs: Vec<Config>,
    missing_keys: Vec<Missing>,
    best: Best,
    verdict: &'static str,
}

#[derive(Serialize)]
struct Config {
    path: String,
    entries: u64,
    history: u64,
    share: f64,
    unused_keys: Vec<String>,
}

#[derive(Serialize)]
struct Missing {
    provider: &'static str,
    key_name: String,
    records: u64,
}

#[derive(Serialize)]
struct Best {
    paths: Vec<String>,
    entries: u64,
}

/// The answer in a word: one opens all, some open some, none opens any.
fn verdict(fit: &Fit) -> &'static str {
    if fit.one_reads_all() {
        "fits"
    } else if fit.best_reads > 0 {
        "partly"
    } else {
        "none"
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, fit: &Fit, paths: &[String], facts: &SourceFacts) -> io::Result<()> {
    let name = |path: &String| harmless(path).into_owned();
    let config = |(path, reads): (&String, &crate::audit::fit::Reads)| Config {
        path: name(path),
        entries: reads.entries,
        history: reads.history,
        share: share(reads.entries, fit.entries),
        unused_keys: reads.unused_keys.iter().map(name).collect(),
    };
    let missing = |((provider, key), records): &((&'static str, String), u64)| Missing {
        provider,
        key_name: name(key),
        records: *records,
    };
    let document = Document {
        schema: "atrest.fit/1",
        tool: TOOL,
        path: harmless(&facts.path).into_owned(),
        read_whole: fit.whole,
        entries: fit.entries,
        history: fit.history,
        waiting_for_kms: fit.waiting,
        configs: paths.iter().zip(&fit.configurations).map(config).collect(),
        missing_keys: fit.missing_keys.iter().map(missing).collect(),
        best: Best {
            paths: fit.best.iter().filter_map(|place| paths.get(*place)).map(name).collect(),
            entries: fit.best_reads,
        },
        verdict: verdict(fit),
    };
    pretty(out, &document)
}

/// Missing keys that the text names.
const NAMED_KEYS: usize = 10;

/// Writes the text: the answer first, then each configuration, then what is missing.
pub fn text(out: &mut dyn Write, fit: &Fit, paths: &[String], facts: &SourceFacts, paint: Paint) -> io::Result<()> {
    let named = |places: &[usize]| {
        let paths = places.iter().filter_map(|place| paths.get(*place));
        paths.map(|path| harmless(path)).collect::<Vec<_>>().join(" and ")
    };
    let path = harmless(&facts.path);
    let line = match verdict(fit) {
        "fits" => paint.good(&format!("[PASS] {path}: {} reads every object", named(&fit.best))),
        "partly" => {
            let (reads, all) = (grouped(fit.best_reads), grouped(fit.entries));
            paint.severity(
                Severity::Warning,
                &format!("[WARN] {path}: {} together read {reads} of {all}", named(&fit.best)),
            )
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
    for (path, reads) in paths.iter().zip(&fit.configurations) {
        let percent = 100.0 * share(reads.entries, fit.entries);
        let (entries, all) = (grouped(reads.entries), grouped(fit.entries));
        // Rounded down, so that only all of them are a hundred.
        writeln!(out, "{:>5.1} %  {entries} of {all}  {}", (percent * 10.0).floor() / 10.0, harmless(path))?;
        if !reads.unused_keys.is_empty() {
            let names: Vec<_> = reads.unused_keys.iter().map(|name| harmless(name)).collect();
            writeln!(out, "         nothing opens by {}", names.join(", "))?;
        }
    }
    if fit.waiting > 0 {
        writeln!(out, "\n{} values need a KMS plugin, which fit does not ask", grouped(fit.waiting))?;
    }
    for (index, ((provider, key), records)) in fit.missing_keys.iter().take(NAMED_KEYS).enumerate() {
        if index == 0 {
            writeln!(out, "\nNone of them opens what is on:")?;
        }
        let noun = if *records == 1 { "record" } else { "records" };
        writeln!(out, "  {provider}/{}: {} {noun}", harmless(key), grouped(*records))?;
    }
    Ok(())
}
