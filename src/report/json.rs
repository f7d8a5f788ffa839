//! The summary as JSON, schema `atrest.audit/1`. Fields are only ever added; a change of meaning raises the number.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::run::Audit;
use crate::audit::summary::{CoverageRow, FindingRow, KeyRow, Totals};
use crate::source::digest::Digests;

use super::log::Log;
use super::text::{harmless, hex, key};

/// What made a document.
#[derive(Serialize)]
pub struct Tool {
    name: &'static str,
    version: &'static str,
}

/// This program.
pub const TOOL: Tool = Tool { name: "atrest", version: env!("CARGO_PKG_VERSION") };

/// What is known of the file beside what the audit found in it.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// The path as it was given.
    pub path: String,
    /// `snapshot`, `database`, `data-dir`, `kine` or `live`.
    pub kind: &'static str,
    /// What it was packed in: `gzip`, `tar+gzip`; none for a plain file.
    pub container: Option<String>,
    /// The entry of the archive.
    pub entry: Option<String>,
    /// Bytes of the file as given.
    pub bytes: u64,
    /// SHA-256 of the file as given, where it was unpacked; a plain file's is among the digests.
    pub given_sha256: Option<[u8; 32]>,
    /// Bytes of the log that was read with it.
    pub log_bytes: Option<u64>,
}

impl SourceFacts {
    /// Whether it can end with a digest of itself.
    pub fn has_trailer(&self) -> bool {
        !matches!(self.kind, "kine" | "data-dir" | "live")
    }

    /// Whether it is a running server, which has no file, and shows neither history nor what is left of it.
    pub fn is_live(&self) -> bool {
        self.kind == "live"
    }

    /// What to do about a finding, in the words of this kind of store.
    pub fn remedy(&self, finding: crate::audit::finding::Finding) -> &'static str {
        use crate::audit::finding::{Finding, ValueFinding};
        match finding {
            Finding::Value(ValueFinding::HistoryPlaintext | ValueFinding::HistoryOldKey) if self.kind == "kine" => {
                "kine compacts by itself, but keeps its last 1000 revisions, and in each row the value before it. `atrest rewrite --drop-history` makes a copy without them; old copies keep them."
            }
            Finding::Value(ValueFinding::ResiduePlaintext | ValueFinding::ResidueOldKey) if self.kind == "kine" => {
                "Newer rows keep them (old_value) until their keys are written once more. `atrest rewrite` writes them anew, with --drop-history it leaves them out. Whoever has this file has these revisions."
            }
            finding => finding.remedy(),
        }
    }
}

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    tool: Tool,
    source: Source<'d>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'d str>,
    configs: Vec<Config>,
    totals: TotalsOut,
    coverage: Vec<Coverage<'d>>,
    keys: Vec<Key<'d>>,
    findings: Vec<Finding<'d>>,
    faults: Vec<Fault<'d>>,
    fault_count: u64,
    verdict: &'static str,
}

#[derive(Serialize)]
struct Source<'d> {
    path: String,
    kind: &'static str,
    container: Option<&'d str>,
    entry: Option<String>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_bytes: Option<u64>,
    sha256: Option<String>,
    db_sha256: Option<String>,
    trailer: Option<&'static str>,
    revision: i64,
    compacted_revision: Option<i64>,
    etcd_version: Option<String>,
    prefixes: Vec<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Log>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'d [String],
}

#[derive(Serialize)]
struct Config {
    path: String,
    sha256: String,
    resources: Vec<ConfigResource>,
}

#[derive(Serialize)]
struct ConfigResource {
    resource: String,
    providers: Vec<ConfigProvider>,
}

#[derive(Serialize)]
struct ConfigProvider {
    provider: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    keys: Vec<ConfigKey>,
}

#[derive(Serialize)]
struct ConfigKey {
    name: String,
    fingerprint: String,
    bytes: usize,
}

#[derive(Serialize)]
struct TotalsOut {
    entries: u64,
    history: u64,
    deleted: u64,
    residue: u64,
    encrypted: u64,
    plaintext: u64,
    unrecognised: u64,
    empty: u64,
    readable: u64,
    unreadable: u64,
    unknown: u64,
    stale: u64,
}

#[derive(Serialize)]
struct Coverage<'d> {
    group: String,
    resource: String,
    namespace: String,
    provider: &'d str,
    provider_version: &'d str,
    key_name: String,
    entries: u64,
    unreadable: u64,
    stale: u64,
}

/// A key's row, as `audit` and `keys` give it.
#[derive(Serialize)]
pub struct Key<'d> {
    provider: &'d str,
    provider_version: &'d str,
    key_name: String,
    kms_key_id: String,
    fingerprint: &'d str,
    in_config: bool,
    write_key_for: Vec<String>,
    entries: u64,
    history: u64,
    residue: u64,
    oldest_revision: Option<i64>,
    newest_revision: Option<i64>,
    age_revisions: Option<i64>,
    writes: Option<Writes>,
    needed: bool,
}

#[derive(Serialize)]
struct Writes {
    at_least: u64,
    at_most: u64,
}

#[derive(Serialize)]
struct Finding<'d> {
    id: &'static str,
    severity: &'static str,
    count: u64,
    keys: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    together: Vec<Together>,
    meaning: &'d str,
    remedy: &'d str,
}

#[derive(Serialize)]
struct Together {
    provider: &'static str,
    key_name: String,
    values: Vec<Value>,
}

#[derive(Serialize)]
struct Value {
    key: String,
    mod_revision: i64,
}

/// A fault of the file, as `audit` and `check` give it.
#[derive(Serialize)]
pub struct Fault<'d> {
    page: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    kind: &'static str,
    detail: &'d str,
}

impl<'d> Fault<'d> {
    /// The fault's wire form.
    pub fn of(fault: &'d crate::source::Fault) -> Self {
        Self { page: fault.page, offset: fault.offset, kind: fault.kind.word(), detail: &fault.detail }
    }
}

/// Writes the whole document, and a line feed.
pub fn write(out: &mut dyn Write, audit: &Audit, facts: &SourceFacts, scope: Option<&str>) -> io::Result<()> {
    let summary = &audit.summary;
    let document = Document {
        schema: "atrest.audit/1",
        tool: TOOL,
        source: source(audit, facts),
        scope,
        configs: configs(audit),
        totals: totals(&summary.totals),
        coverage: summary.coverage.iter().map(coverage).collect(),
        keys: summary.keys.iter().map(|row| Key::of(row, audit.revision)).collect(),
        findings: summary.findings.iter().map(|row| finding(row, facts)).collect(),
        faults: audit.faults.iter().map(Fault::of).collect(),
        fault_count: audit.fault_count,
        verdict: summary.answer.word(),
    };
    pretty(out, &document)
}

/// Writes a document as people and programs read it, and a line feed.
pub fn pretty(out: &mut dyn Write, document: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    out.write_all(b"\n")
}

fn source<'d>(audit: &'d Audit, facts: &'d SourceFacts) -> Source<'d> {
    let file = |digests: Digests| facts.given_sha256.unwrap_or(digests.file);
    Source {
        path: harmless(&facts.path).into_owned(),
        kind: facts.kind,
        container: facts.container.as_deref(),
        entry: facts.entry.as_deref().map(|entry| harmless(entry).into_owned()),
        bytes: facts.bytes,
        log_bytes: facts.log_bytes,
        sha256: audit.digests.map(|digests| hex(&file(digests))),
        db_sha256: audit.digests.map(|digests| hex(&digests.database)),
        trailer: audit.digests.filter(|_| facts.has_trailer()).map(|digests| digests.trailer.word()),
        revision: audit.revision,
        compacted_revision: audit.meta.compacted(),
        etcd_version: audit.meta.written_by(),
        prefixes: audit.context.roots.iter().map(|root| root.path()).collect(),
        log: audit.log.as_ref().and_then(Log::of),
        notes: &audit.notes,
    }
}

fn configs(audit: &Audit) -> Vec<Config> {
    let rules = &audit.context.rules;
    let config = |(file, (path, configuration)): (usize, (&str, &crate::audit::rules::Configuration))| Config {
        path: harmless(path).into_owned(),
        sha256: hex(&configuration.sha256),
        resources: rules
            .described(file)
            .into_iter()
            .map(|(resource, providers)| ConfigResource {
                resource: harmless(&resource).into_owned(),
                providers: providers.into_iter().map(provider).collect(),
            })
            .collect(),
    };
    rules.files().enumerate().map(config).collect()
}

fn provider(described: crate::audit::rules::DescribedProvider) -> ConfigProvider {
    let key = |(name, fingerprint, bytes): (String, String, usize)| ConfigKey {
        name: harmless(&name).into_owned(),
        fingerprint,
        bytes,
    };
    ConfigProvider {
        provider: described.provider,
        name: described.name.map(|name| harmless(&name).into_owned()),
        endpoint: described.endpoint.map(|endpoint| harmless(&endpoint).into_owned()),
        keys: described.keys.into_iter().map(key).collect(),
    }
}

fn totals(totals: &Totals) -> TotalsOut {
    let Totals {
        entries,
        history,
        deleted,
        residue,
        encrypted,
        plaintext,
        unrecognised,
        empty,
        readable,
        unreadable,
        unknown,
        stale,
    } = *totals;
    TotalsOut {
        entries,
        history,
        deleted,
        residue,
        encrypted,
        plaintext,
        unrecognised,
        empty,
        readable,
        unreadable,
        unknown,
        stale,
    }
}

fn coverage(row: &CoverageRow) -> Coverage<'_> {
    Coverage {
        group: harmless(&row.scope.group).into_owned(),
        resource: harmless(&row.scope.resource).into_owned(),
        namespace: harmless(&row.scope.namespace).into_owned(),
        provider: row.provider,
        provider_version: row.provider_version,
        key_name: harmless(&row.key_name).into_owned(),
        entries: row.entries,
        unreadable: row.unreadable,
        stale: row.stale,
    }
}

impl<'d> Key<'d> {
    /// The row's wire form, in a report about the store as it was at `revision`.
    pub fn of(row: &'d KeyRow, revision: i64) -> Self {
        key_row(row, revision)
    }
}

fn key_row(row: &KeyRow, revision: i64) -> Key<'_> {
    Key {
        provider: row.id.provider,
        provider_version: row.id.provider_version,
        key_name: harmless(&row.id.key_name).into_owned(),
        kms_key_id: harmless(&row.id.kms_key_id).into_owned(),
        fingerprint: &row.id.fingerprint,
        in_config: row.in_config,
        write_key_for: row.write_key_for.iter().map(|resource| harmless(resource).into_owned()).collect(),
        entries: row.count.entries,
        history: row.count.history,
        residue: row.count.residue,
        oldest_revision: row.revisions.map(|(oldest, _)| oldest),
        newest_revision: row.revisions.map(|(_, newest)| newest),
        age_revisions: row.age(revision),
        writes: row.writes.map(|writes| Writes { at_least: writes.at_least, at_most: writes.at_most }),
        needed: row.needed(),
    }
}

fn finding<'d>(row: &'d FindingRow, facts: &SourceFacts) -> Finding<'d> {
    Finding {
        id: row.finding.id(),
        severity: row.finding.severity().word(),
        count: row.count,
        keys: row.keys.iter().map(|bytes| key(bytes).into_owned()).collect(),
        details: row.details.iter().map(|detail| harmless(detail).into_owned()).collect(),
        together: row.together.iter().map(together).collect(),
        meaning: row.finding.meaning(),
        remedy: facts.remedy(row.finding),
    }
}

fn together(group: &crate::audit::nonces::Together) -> Together {
    let value =
        |named: &crate::audit::nonces::Named| Value { key: key(&named.key).into_owned(), mod_revision: named.revision };
    Together {
        provider: group.provider,
        key_name: harmless(&group.key_name).into_owned(),
        values: group.values.iter().map(value).collect(),
    }
}
