//! What `check` found: JSON (schema `atrest.check/1`) and text.
//!
//! `hash`, `revision`, `totalKey`, `totalSize` and `version` are named and counted as the newest `etcdutl snapshot status
//! -w json` does, so that both can be compared.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::{Finding, Severity};
use crate::source::check::Report;
use crate::source::digest::Trailer;
use crate::source::{FaultKind, RECORD_FAULT, REVISION_KEY_FAULT, SCHEMA_FAULT};

use super::json::{Fault, SourceFacts, TOOL, Tool, pretty};
use super::paint::Paint;
use super::text::{grouped, harmless, hex};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'d> {
    hash: u32,
    revision: i64,
    total_key: u64,
    total_size: u64,
    version: &'d str,
}

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    tool: Tool,
    path: String,
    kind: &'static str,
    container: Option<&'d str>,
    bytes: u64,
    #[serde(flatten)]
    status: Status<'d>,
    sha256: Option<String>,
    db_sha256: Option<String>,
    trailer: Option<&'static str>,
    trailer_expected: bool,
    etcd_version: Option<&'d str>,
    compacted_revision: Option<i64>,
    downgrade: Option<&'d str>,
    page_size: u64,
    pages: u64,
    free_pages: u64,
    unsteady: bool,
    faults: Vec<Fault<'d>>,
    fault_count: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    advice: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hashkv: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hashkv_revision: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hashkv_compact_revision: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<super::log::Log>,
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, report: &Report, facts: &SourceFacts) -> io::Result<()> {
    let status = Status {
        hash: report.hash,
        revision: report.revision,
        total_key: report.total_key,
        total_size: report.total_size,
        version: &report.version,
    };
    let document = Document {
        schema: "atrest.check/1",
        tool: TOOL,
        path: harmless(&facts.path).into_owned(),
        kind: facts.kind,
        container: facts.container.as_deref(),
        bytes: facts.bytes,
        status,
        sha256: report.digests.map(|digests| hex(&facts.given_sha256.unwrap_or(digests.file))),
        db_sha256: report.digests.map(|digests| hex(&digests.database)),
        trailer: report.digests.filter(|_| facts.has_trailer()).map(|digests| digests.trailer.word()),
        trailer_expected: report.lost_its_trailer || facts.kind == "snapshot",
        etcd_version: report.written_by.as_deref(),
        compacted_revision: report.compacted,
        downgrade: report.downgrade.as_deref(),
        page_size: report.page_size,
        pages: report.pages,
        free_pages: report.free_pages,
        unsteady: report.unsteady,
        faults: report.faults.iter().map(Fault::of).collect(),
        fault_count: report.fault_count,
        advice: advice(report),
        hashkv: report.hash_kv.map(|hash_kv| hash_kv.hash),
        hashkv_revision: report.hash_kv.map(|hash_kv| hash_kv.revision),
        hashkv_compact_revision: report.hash_kv.map(|hash_kv| hash_kv.compacted),
        log: report.log.as_ref().and_then(super::log::Log::of),
    };
    pretty(out, &document)
}

/// Faults that the text lists.
const LISTED_FAULTS: usize = 30;

/// Writes the text: the answer first, then the figures, then every fault.
pub fn text(out: &mut dyn Write, report: &Report, facts: &SourceFacts, paint: Paint) -> io::Result<()> {
    let (good, sentence) = answer(report);
    let line = format!("{} {}: {sentence}", if good { "[PASS]" } else { "[FAIL]" }, harmless(&facts.path));
    writeln!(out, "{}", if good { paint.good(&line) } else { paint.severity(Severity::Error, &line) })?;
    for (name, value) in figures(report, facts) {
        writeln!(out, "{name:<18} {value}")?;
    }
    let listed = report.faults.iter().take(LISTED_FAULTS);
    for (index, fault) in listed.enumerate() {
        if index == 0 {
            let noun = if report.fault_count == 1 { "fault" } else { "faults" };
            writeln!(out, "\n{}", paint.bold(&format!("{} {noun}", grouped(report.fault_count))))?;
        }
        writeln!(out, "{}: {fault}", fault.kind.word())?;
    }
    let hidden = report.fault_count.saturating_sub(LISTED_FAULTS as u64);
    if hidden > 0 {
        writeln!(out, "and {} more; -o json has the first {}", grouped(hidden), report.faults.len())?;
    }
    for advice in advice(report) {
        writeln!(out, "\n-> {advice}")?;
    }
    for finding in findings(report) {
        let mark = if finding.severity() == Severity::Error { "[FAIL]" } else { "[WARN]" };
        let mark = paint.severity(finding.severity(), mark);
        writeln!(out, "\n{mark} {}: {}\n       -> {}", finding.id(), finding.meaning(), finding.remedy())?;
    }
    Ok(())
}

/// What can be done about the faults, in words.
fn advice(report: &Report) -> Vec<&'static str> {
    let has = |kinds: &[FaultKind]| report.faults.iter().any(|fault| kinds.contains(&fault.kind));
    let mut advice = Vec::new();
    if has(&[FaultKind::Truncated]) {
        advice.push(
            "The end of the file is missing: look for a whole copy first. `atrest salvage FILE -o NEW.db` saves what is in this one, \
             and says which revisions are missing.",
        );
    }
    if has(&TREE) {
        advice.push(
            "Pages of a tree are lost. `atrest salvage FILE -o NEW.db` looks at every page on its own: it finds the leaves below a lost \
             branch, and pages that stand elsewhere, and says what is lost for good. To read such a file as it is, give --salvage.",
        );
    }
    if has(&[FaultKind::Meta]) && !has(&TREE) {
        advice.push(
            "A meta page is lost, and the other one leads to everything. etcd opens such a file, though its own check stops there: \
             `atrest salvage FILE -o NEW.db` makes both anew.",
        );
    }
    if has(&[REVISION_KEY_FAULT, RECORD_FAULT]) && !has(&TREE) {
        advice.push("Single records do not hold; no etcd starts on them. `atrest salvage FILE -o NEW.db` leaves them out and names their revisions.");
    }
    if has(&[SCHEMA_FAULT]) {
        advice.push("A bucket is missing that etcd needs: `atrest salvage FILE -o NEW.db` looks for its pages, or makes it anew for a restore.");
    }
    advice
}

/// What is wrong with pages that a tree leads to.
const TREE: [FaultKind; 9] = [
    FaultKind::Unreadable,
    FaultKind::OutOfBounds,
    FaultKind::WrongId,
    FaultKind::WrongType,
    FaultKind::ReachedTwice,
    FaultKind::Element,
    FaultKind::KeyOrder,
    FaultKind::Bucket,
    FaultKind::Depth,
];

/// Whether the file is whole, and a sentence that says so.
fn answer(report: &Report) -> (bool, &'static str) {
    let trailer = report.digests.map(|digests| digests.trailer);
    if report.fault_count > 0 {
        (false, "parts of it are damaged")
    } else if trailer == Some(Trailer::Mismatch) {
        (false, "the pages hold together, but the digest at its end does not fit them")
    } else if report.unsteady {
        (false, "somebody wrote to it while it was read")
    } else if trailer == Some(Trailer::Ok) {
        (true, "whole, and its digest fits")
    } else {
        (true, "whole, as far as its pages tell; no digest was checked")
    }
}

/// What is wrong beside faults of pages.
pub fn findings(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    if report.digests.is_some_and(|digests| digests.trailer == Trailer::Mismatch) {
        findings.push(Finding::TrailerMismatch);
    }
    if report.unsteady {
        findings.push(Finding::FileUnsteady);
    }
    if report.lost_its_trailer {
        findings.push(Finding::NoTrailer);
    }
    findings
}

fn figures(report: &Report, facts: &SourceFacts) -> Vec<(&'static str, String)> {
    let container = facts.container.as_ref().map_or(String::new(), |container| format!(", in {container}"));
    let mut figures = vec![
        ("kind", format!("{}{container}, {} bytes", facts.kind, grouped(facts.bytes))),
        ("hash", format!("{:x} ({})", report.hash, report.hash)),
        ("revision", report.revision.to_string()),
        ("total keys", report.total_key.to_string()),
        ("total size", report.total_size.to_string()),
        ("storage version", report.version.clone()),
        ("written by etcd", report.written_by.clone().unwrap_or_else(|| "unknown".into())),
        (
            "pages",
            format!("{} of {} bytes, {} free", grouped(report.pages), report.page_size, grouped(report.free_pages)),
        ),
    ];
    if let Some(log) = &report.log {
        figures.push(("log", super::log::words(log)));
        figures.push(("with the log", format!("revision {}", log.revision)));
    }
    if let Some(compacted) = report.compacted {
        figures.push(("compacted at", compacted.to_string()));
    }
    if let Some(downgrade) = &report.downgrade {
        figures.push(("running downgrade", harmless(downgrade).into_owned()));
    }
    if let Some(digests) = report.digests {
        if facts.has_trailer() {
            figures.push(("digest", digests.trailer.word().to_owned()));
        }
        figures.push(("sha256", hex(&facts.given_sha256.unwrap_or(digests.file))));
    }
    if let Some(hash_kv) = report.hash_kv {
        let at = format!("at revision {}, compacted {}", hash_kv.revision, hash_kv.compacted);
        figures.push(("hashkv", format!("{} ({at})", hash_kv.hash)));
    }
    figures.retain(|(_, value)| !value.is_empty());
    figures
}
