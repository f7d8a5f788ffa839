//! What `check` found in kine's SQLite: JSON (schema `atrest.check/1`) and text.
//!
//! Where a field means the same as for a snapshot it has the same name. `totalSize` is what kine's status answers as the size
//! of its database; `hash` and `version` it has none, so they are null and empty.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::{Finding, Severity};
use crate::source::kine::check::KineReport;

use super::json::{Fault, SourceFacts, TOOL, Tool, pretty};
use super::paint::Paint;
use super::text::{grouped, harmless, hex};

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    tool: Tool,
    path: String,
    kind: &'static str,
    container: Option<&'d str>,
    bytes: u64,
    hash: Option<u32>,
    revision: i64,
    #[serde(rename = "totalKey")]
    total_key: u64,
    #[serde(rename = "totalSize")]
    total_size: u64,
    version: &'static str,
    sha256: String,
    db_sha256: String,
    trailer: Option<&'static str>,
    trailer_expected: bool,
    etcd_version: Option<&'static str>,
    compacted_revision: Option<i64>,
    downgrade: Option<&'static str>,
    page_size: u64,
    pages: u64,
    free_pages: u64,
    unsteady: bool,
    faults: Vec<Fault<'d>>,
    fault_count: u64,
    rows: u64,
    gaps: u64,
    old_values: u64,
    log_bytes: Option<u64>,
    log_missing: bool,
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, report: &KineReport, facts: &SourceFacts) -> io::Result<()> {
    let document = Document {
        schema: "atrest.check/1",
        tool: TOOL,
        path: harmless(&facts.path).into_owned(),
        kind: facts.kind,
        container: facts.container.as_deref(),
        bytes: facts.bytes,
        hash: None,
        revision: report.revision,
        total_key: report.counts.keys,
        total_size: report.total_size,
        version: "",
        sha256: hex(&facts.given_sha256.unwrap_or(report.sha256)),
        db_sha256: hex(&report.sha256),
        trailer: None,
        trailer_expected: false,
        etcd_version: None,
        compacted_revision: report.compacted,
        downgrade: None,
        page_size: report.page_size,
        pages: report.pages,
        free_pages: report.free_pages,
        unsteady: false,
        faults: report.faults.iter().map(Fault::of).collect(),
        fault_count: report.fault_count,
        rows: report.counts.rows,
        gaps: report.counts.gaps,
        old_values: report.counts.old_values,
        log_bytes: report.log_bytes,
        log_missing: report.log_missing,
    };
    pretty(out, &document)
}

/// Faults that the text lists.
const LISTED_FAULTS: usize = 30;

/// Writes the text: the answer first, then the figures, then every fault.
pub fn text(out: &mut dyn Write, report: &KineReport, facts: &SourceFacts, paint: Paint) -> io::Result<()> {
    let good = report.fault_count == 0;
    let sentence = match good {
        true => "whole: SQLite finds no fault, and its rows follow one another as kine writes them",
        false => "parts of it are damaged",
    };
    let line = format!("{} {}: {sentence}", if good { "[PASS]" } else { "[FAIL]" }, harmless(&facts.path));
    writeln!(out, "{}", if good { paint.good(&line) } else { paint.severity(Severity::Error, &line) })?;
    for (name, value) in figures(report, facts) {
        writeln!(out, "{name:<18} {value}")?;
    }
    for (index, fault) in report.faults.iter().take(LISTED_FAULTS).enumerate() {
        if index == 0 {
            let noun = if report.fault_count == 1 { "fault" } else { "faults" };
            writeln!(out, "\n{}", paint.bold(&format!("{} {noun}", grouped(report.fault_count))))?;
        }
        writeln!(out, "{}: {}", fault.kind.word(), harmless(&fault.to_string()))?;
    }
    let hidden = report.fault_count.saturating_sub(LISTED_FAULTS as u64);
    if hidden > 0 {
        writeln!(out, "and {} more; -o json has the first {}", grouped(hidden), report.faults.len())?;
    }
    if report.log_missing {
        let finding = Finding::NoLog;
        let mark = paint.severity(finding.severity(), "[NOTE]");
        writeln!(out, "\n{mark} {}: {}\n       -> {}", finding.id(), finding.meaning(), finding.remedy())?;
    }
    Ok(())
}

fn figures(report: &KineReport, facts: &SourceFacts) -> Vec<(&'static str, String)> {
    let container = facts.container.as_ref().map_or(String::new(), |container| format!(", in {container}"));
    let mut figures = vec![
        ("kind", format!("{}{container}, {} bytes", facts.kind, grouped(facts.bytes))),
        ("log", report.log_bytes.map_or("none".to_owned(), |bytes| format!("{} bytes", grouped(bytes)))),
        ("revision", report.revision.to_string()),
        ("total keys", report.counts.keys.to_string()),
        ("total size", report.total_size.to_string()),
        (
            "rows",
            format!(
                "{}, {} with an old value, {} that fill gaps",
                grouped(report.counts.rows),
                grouped(report.counts.old_values),
                grouped(report.counts.gaps)
            ),
        ),
        (
            "pages",
            format!("{} of {} bytes, {} free", grouped(report.pages), report.page_size, grouped(report.free_pages)),
        ),
    ];
    if let Some(compacted) = report.compacted {
        figures.push(("compacted at", compacted.to_string()));
    }
    figures.push(("sha256", hex(&facts.given_sha256.unwrap_or(report.sha256))));
    figures
}
