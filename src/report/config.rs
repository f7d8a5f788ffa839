//! What `config check` found: JSON (schema `atrest.config/1`) and text.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::Severity;
use crate::config::{self, Check, Complaint, Lint};

use super::json::{TOOL, Tool, pretty};
use super::paint::Paint;
use super::text::harmless;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    tool: Tool,
    path: String,
    accepted: bool,
    errors: Vec<Error>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Error {
    stage: &'static str,
    path: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
}

#[derive(Serialize)]
struct Finding {
    id: &'static str,
    severity: &'static str,
    path: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
}

/// How much a configuration's finding weighs.
pub fn severity(lint: &Lint) -> Severity {
    match lint.id.severity() {
        config::Severity::Note => Severity::Note,
        config::Severity::Warning => Severity::Warning,
    }
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, path: &str, check: &Check) -> io::Result<()> {
    let error = |complaint: &Complaint| Error {
        stage: complaint.stage.as_str(),
        path: harmless(&complaint.path).into_owned(),
        message: harmless(&complaint.message).into_owned(),
        line: complaint.line,
        column: complaint.column,
    };
    let finding = |lint: &Lint| Finding {
        id: lint.id.as_str(),
        severity: severity(lint).word(),
        path: harmless(&lint.path).into_owned(),
        message: harmless(&lint.message).into_owned(),
        line: lint.line,
    };
    let document = Document {
        schema: "atrest.config/1",
        tool: TOOL,
        path: harmless(path).into_owned(),
        accepted: check.accepted,
        errors: check.errors.iter().map(error).collect(),
        findings: check.findings.iter().map(finding).collect(),
    };
    pretty(out, &document)
}

/// Writes the text: the answer first, then every complaint or finding with its place.
pub fn text(out: &mut dyn Write, path: &str, check: &Check, paint: Paint) -> io::Result<()> {
    let path = harmless(path);
    let line = match check.accepted {
        true => paint.good(&format!("[PASS] {path}: kube-apiserver takes it")),
        false => paint.severity(Severity::Error, &format!("[FAIL] {path}: kube-apiserver refuses it")),
    };
    writeln!(out, "{line}")?;
    for complaint in &check.errors {
        let place = place(&path, complaint.line, complaint.column);
        let mark = paint.severity(Severity::Error, "[FAIL]");
        writeln!(out, "{mark} {place}: {}", harmless(&complaint.to_string()))?;
    }
    for lint in &check.findings {
        let place = place(&path, lint.line, None);
        let weight = severity(lint);
        let mark = paint.severity(weight, if weight == Severity::Note { "[INFO]" } else { "[WARN]" });
        let field = if lint.path.is_empty() { String::new() } else { format!(" ({})", harmless(&lint.path)) };
        writeln!(out, "{mark} {place}: {}: {}{field}", lint.id.as_str(), harmless(&lint.message))?;
    }
    Ok(())
}

fn place(path: &str, line: Option<u64>, column: Option<u64>) -> String {
    let line = line.map_or(String::new(), |line| format!(":{line}"));
    let column = column.map_or(String::new(), |column| format!(":{column}"));
    format!("{path}{line}{column}")
}
