//! What `check --endpoints` found: JSON (schema `atrest.members/1`) and text.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::Severity;
use crate::live::Kind;
use crate::source::members::{Agreement, Alarm, MemberFacts, Members};

use super::json::{TOOL, Tool, pretty};
use super::paint::Paint;
use super::text::{grouped, harmless};

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    tool: Tool,
    kind: &'static str,
    server: &'static str,
    cluster_id: Option<String>,
    well: bool,
    agreement: &'static str,
    hashkv_revision: Option<i64>,
    members: Vec<Member<'d>>,
    alarms: Vec<StandingAlarm>,
}

#[derive(Serialize)]
struct Member<'d> {
    endpoint: &'d str,
    id: Option<String>,
    name: Option<&'d str>,
    version: Option<&'d str>,
    storage_version: Option<&'d str>,
    revision: Option<i64>,
    leader: Option<bool>,
    learner: Option<bool>,
    raft_term: Option<u64>,
    raft_index: Option<u64>,
    raft_applied_index: Option<u64>,
    db_bytes: Option<u64>,
    db_bytes_in_use: Option<u64>,
    db_bytes_quota: Option<u64>,
    hashkv: Option<u32>,
    hashkv_compact_revision: Option<i64>,
    complaints: &'d [String],
    error: Option<&'d str>,
}

#[derive(Serialize)]
struct StandingAlarm {
    member: String,
    alarm: &'static str,
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, report: &Members) -> io::Result<()> {
    let alarm = |alarm: &Alarm| StandingAlarm { member: id(alarm.member), alarm: alarm.kind };
    let document = Document {
        schema: "atrest.members/1",
        tool: TOOL,
        kind: "live",
        server: server(report.kind),
        cluster_id: known(report.cluster),
        well: report.is_well(),
        agreement: word(report.agreement),
        hashkv_revision: report.hashed_at,
        members: report.members.iter().map(member).collect(),
        alarms: report.alarms.iter().map(alarm).collect(),
    };
    pretty(out, &document)
}

fn member(facts: &MemberFacts) -> Member<'_> {
    let status = facts.status.as_ref();
    let text = |text: &'_ String| !text.is_empty();
    let bytes = |bytes: u64| Some(bytes).filter(|bytes| *bytes != 0);
    Member {
        endpoint: &facts.endpoint,
        id: known(facts.id),
        name: Some(&facts.name).filter(|name| text(name)).map(String::as_str),
        version: status.map(|status| &status.version).filter(|version| text(version)).map(String::as_str),
        storage_version: status
            .map(|status| &status.storage_version)
            .filter(|text| !text.is_empty())
            .map(String::as_str),
        revision: status.map(|status| status.revision).filter(|revision| *revision != 0),
        leader: status.map(|status| status.is_leader),
        learner: status.map(|status| status.is_learner),
        raft_term: status.map(|status| status.raft_term),
        raft_index: status.map(|status| status.raft_index),
        raft_applied_index: status.map(|status| status.raft_applied_index),
        db_bytes: status.map(|status| status.db_bytes),
        db_bytes_in_use: status.and_then(|status| bytes(status.db_bytes_in_use)),
        db_bytes_quota: status.and_then(|status| bytes(status.quota_bytes)),
        hashkv: facts.hash.map(|hash| hash.hash),
        hashkv_compact_revision: facts.hash.map(|hash| hash.compacted),
        complaints: status.map_or(&[], |status| &status.errors),
        error: facts.error.as_deref(),
    }
}

/// Ids as etcdctl prints them.
fn id(id: u64) -> String {
    format!("{id:x}")
}

fn known(number: u64) -> Option<String> {
    (number != 0).then(|| id(number))
}

fn server(kind: Kind) -> &'static str {
    match kind {
        Kind::Etcd => "etcd",
        Kind::Kine => "kine",
    }
}

fn word(agreement: Agreement) -> &'static str {
    match agreement {
        Agreement::Same => "same",
        Agreement::Differ => "differ",
        Agreement::Unknown => "unknown",
        Agreement::NothingToCompare => "nothing-to-compare",
    }
}

/// Writes the text: the answer first, then the members side by side, then what is wrong.
pub fn text(out: &mut dyn Write, report: &Members, paint: Paint) -> io::Result<()> {
    let line = format!("{} {}", if report.is_well() { "[PASS]" } else { "[FAIL]" }, answer(report));
    let line = if report.is_well() { paint.good(&line) } else { paint.severity(Severity::Error, &line) };
    writeln!(out, "{line}")?;
    let rows: Vec<_> = report.members.iter().map(|member| row(member, report.kind)).collect();
    let headings = HEADINGS.map(str::to_owned);
    let width = |column: usize| {
        let cells = std::iter::once(&headings).chain(&rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..HEADINGS.len()).map(width).collect();
    for (index, row) in std::iter::once(&headings).chain(&rows).enumerate() {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let line = cells.join("  ");
        let line = line.trim_end();
        writeln!(out, "{}", if index == 0 { paint.bold(line) } else { line.to_owned() })?;
    }
    if let Some(revision) = report.hashed_at {
        writeln!(out, "hashes are of revision {revision}")?;
    }
    wrong(out, report, paint)
}

const HEADINGS: [&str; 9] =
    ["ENDPOINT", "NAME", "VERSION", "ROLE", "REVISION", "DB SIZE", "IN USE", "HASHKV", "COMPACTED"];

fn row(facts: &MemberFacts, kind: Kind) -> [String; HEADINGS.len()] {
    let dash = || "-".to_owned();
    let status = facts.status.as_ref();
    let role = |leader: bool, learner: bool| match (leader, learner) {
        _ if kind == Kind::Kine => "-",
        (true, _) => "leader",
        (_, true) => "learner",
        _ => "follower",
    };
    let bytes = |bytes: Option<u64>| bytes.filter(|bytes| *bytes != 0).map_or_else(dash, grouped);
    [
        harmless(&facts.endpoint).into_owned(),
        if facts.name.is_empty() { dash() } else { harmless(&facts.name).into_owned() },
        status.map_or_else(dash, |status| harmless(&status.version).into_owned()),
        status.map_or_else(dash, |status| role(status.is_leader, status.is_learner).to_owned()),
        status.filter(|status| status.revision != 0).map_or_else(dash, |status| status.revision.to_string()),
        bytes(status.map(|status| status.db_bytes)),
        bytes(status.map(|status| status.db_bytes_in_use)),
        facts.hash.map_or_else(dash, |hash| hash.hash.to_string()),
        facts.hash.map_or_else(dash, |hash| hash.compacted.to_string()),
    ]
}

fn answer(report: &Members) -> String {
    let members = report.members.len();
    let unasked = report.members.iter().filter(|member| member.status.is_none()).count();
    match report.agreement {
        _ if report.kind == Kind::Kine => "kine answers; it has no members to compare and no hashes".to_owned(),
        Agreement::Differ => "the members hold different data".to_owned(),
        Agreement::Unknown if unasked > 0 => format!("{unasked} of {members} members could not be asked"),
        Agreement::Unknown => "the members' hashes cannot be compared".to_owned(),
        _ if !report.alarms.is_empty() => "an alarm stands".to_owned(),
        _ if !report.is_well() => "something is wrong with a member".to_owned(),
        Agreement::Same => format!("{members} members hold the same data"),
        Agreement::NothingToCompare => "one member, so there is nothing to compare".to_owned(),
    }
}

fn wrong(out: &mut dyn Write, report: &Members, paint: Paint) -> io::Result<()> {
    let fail = paint.severity(Severity::Error, "[FAIL]");
    for alarm in &report.alarms {
        let remedy = match alarm.kind {
            "NOSPACE" => "compact, defragment every member, then `etcdctl alarm disarm`",
            _ => "keep a snapshot of each member, find the one that differs, and restore it from the others",
        };
        writeln!(out, "\n{fail} alarm {} of member {}\n       -> {remedy}", alarm.kind, id(alarm.member))?;
    }
    for member in &report.members {
        let complaints = member.status.iter().flat_map(|status| &status.errors);
        for complaint in complaints.chain(&member.error) {
            writeln!(out, "\n{fail} {}: {}", harmless(&member.endpoint), harmless(complaint))?;
        }
        if let Some(hint) = member.hint {
            writeln!(out, "       -> {hint}")?;
        }
    }
    if report.agreement == Agreement::Differ {
        let remedy = "stop writing, keep a snapshot of each member, and replace the one that differs from the others";
        writeln!(out, "\n{fail} the hashes of the members differ at one revision\n       -> {remedy}")?;
    }
    Ok(())
}
