//! What `keys` found: JSON (schema `atrest.keys/1`) and text. Stragglers as rows are the audit's.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::{Finding, Severity};
use crate::audit::gate::{Passage, doubt, droppable, read_whole};
use crate::audit::run::Audit;
use crate::audit::summary::KeyRow;

use super::json::{Key, SourceFacts, TOOL, Tool, pretty};
use super::paint::Paint;
use super::table;
use super::text::{grouped, harmless, key};

/// Keys of the store that are named for each key that cannot go.
pub const NAMED_STRAGGLERS: usize = 10;

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    tool: Tool,
    path: String,
    verdict: &'static str,
    read_whole: bool,
    keys: Vec<Key<'d>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gate: Vec<Gate<'d>>,
}

#[derive(Serialize)]
struct Gate<'d> {
    name: String,
    known: bool,
    unused: bool,
    needed_by: u64,
    stragglers: Vec<&'d str>,
}

/// What the gate has to say, with the first stragglers of each key.
pub type Gates = Vec<(Passage, Vec<String>)>;

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, audit: &Audit, facts: &SourceFacts, gates: &Gates) -> io::Result<()> {
    let whole = read_whole(audit);
    let gate = gates.iter().map(|(passage, stragglers)| Gate {
        name: harmless(&passage.name).into_owned(),
        known: passage.known,
        unused: whole && passage.needed_by == 0,
        needed_by: passage.needed_by,
        stragglers: stragglers.iter().map(String::as_str).collect(),
    });
    let document = Document {
        schema: "atrest.keys/1",
        tool: TOOL,
        path: harmless(&facts.path).into_owned(),
        verdict: audit.summary.answer.word(),
        read_whole: whole,
        keys: audit.summary.keys.iter().map(|row| Key::of(row, audit.revision)).collect(),
        gate: gate.collect(),
    };
    pretty(out, &document)
}

/// Writes the text: what can go and what cannot, then every key.
pub fn text(out: &mut dyn Write, audit: &Audit, facts: &SourceFacts, gates: &Gates, paint: Paint) -> io::Result<()> {
    if let Some(why) = doubt(audit) {
        let line = format!("[FAIL] {}: {why}, so no key can be said to be unneeded", harmless(&facts.path));
        writeln!(out, "{}", paint.severity(Severity::Error, &line))?;
    }
    match gates.is_empty() {
        true => overview(out, audit, paint)?,
        false => gates.iter().try_for_each(|(passage, stragglers)| gate(out, audit, passage, stragglers, paint))?,
    }
    table::keys(out, audit, paint)?;
    worn(out, audit, paint)
}

fn overview(out: &mut dyn Write, audit: &Audit, paint: Paint) -> io::Result<()> {
    let names = |rows: Vec<&KeyRow>| {
        let name = |row: &KeyRow| format!("{}/{}", row.id.provider, harmless(&row.id.key_name));
        let mut names: Vec<_> = rows.into_iter().map(name).collect();
        names.dedup();
        names.join(", ")
    };
    let can_go: Vec<_> = droppable(audit).collect();
    if !can_go.is_empty() {
        let history = can_go.iter().any(|row| row.count.history + row.count.residue > 0);
        writeln!(out, "{}", paint.good(&format!("[PASS] no entry needs: {}", names(can_go))))?;
        if history {
            writeln!(out, "       older revisions or what is left of them do, see HISTORY and RESIDUE")?;
        }
    }
    let missing: Vec<_> = audit.summary.keys.iter().filter(|row| row.needed() && !row.in_config).collect();
    if !missing.is_empty() {
        let line = format!("[FAIL] needed, but in no given configuration: {}", names(missing));
        writeln!(out, "{}", paint.severity(Severity::Error, &line))?;
    }
    let needed: Vec<_> = audit.summary.keys.iter().filter(|row| row.needed() && row.in_config).collect();
    if !needed.is_empty() {
        writeln!(out, "[INFO] needed: {}", names(needed))?;
    }
    Ok(())
}

/// Keys of aesgcm that may have been used too often.
fn worn(out: &mut dyn Write, audit: &Audit, paint: Paint) -> io::Result<()> {
    for row in audit.summary.findings.iter().filter(|row| row.finding == Finding::GcmWriteLimit) {
        writeln!(out)?;
        for detail in &row.details {
            let line = format!("[WARN] {}: {}", row.finding.id(), harmless(detail));
            writeln!(out, "{}", paint.severity(row.finding.severity(), &line))?;
        }
        writeln!(out, "       -> {}", row.finding.remedy())?;
    }
    Ok(())
}

fn gate(out: &mut dyn Write, audit: &Audit, passage: &Passage, stragglers: &[String], paint: Paint) -> io::Result<()> {
    let name = harmless(&passage.name);
    if !passage.known {
        return writeln!(out, "[INFO] {name}: neither the store nor a configuration knows it");
    }
    if passage.needed_by == 0 {
        let line = match read_whole(audit) {
            true => paint.good(&format!("[PASS] {name}: nothing needs it")),
            false => format!("[INFO] {name}: nothing that could be read needs it"),
        };
        return writeln!(out, "{line}");
    }
    let line = format!("[FAIL] {name}: {} values need it", grouped(passage.needed_by));
    writeln!(out, "{}", paint.severity(Severity::Error, &line))?;
    for straggler in stragglers {
        writeln!(out, "       {straggler}")?;
    }
    let hidden = passage.needed_by.saturating_sub(stragglers.len() as u64);
    if hidden > 0 {
        writeln!(out, "       and {} more; -o csv lists all", grouped(hidden))?;
    }
    Ok(())
}

/// A straggler's key as it is named.
pub fn straggler(bytes: &[u8]) -> String {
    key(bytes).into_owned()
}
