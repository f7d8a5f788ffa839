//! What a rewrite came to: JSON (schema `atrest.rewrite/1`) and text.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::Severity;
use crate::rewrite::decide::Stays;
use crate::rewrite::judging::Refused;
use crate::rewrite::run::{End, Form, Obstacle, Outcome, Product};
use crate::rewrite::tally::{Count, Fate, Kind};
use crate::rewrite::target::Target;

use super::json::{SourceFacts, TOOL, Tool, pretty};
use super::paint::Paint;
use super::shell::word as quoted;
use super::text::{grouped, harmless, hex, key};

/// What is told beside the outcome.
pub struct Context<'c> {
    /// The source.
    pub facts: &'c SourceFacts,
    /// What was to be written.
    pub target: &'c Target,
    /// The path of the new file; none for a dry run without one.
    pub output: Option<&'c str>,
    /// What the reader should know beside it, each a sentence.
    pub notes: &'c [String],
    /// The store of K3s or RKE2 was made to fit the target: its program, and the folder with a server's two files.
    pub fitted: Option<Fitted<'c>>,
}

/// What belongs to a store that was made to fit its target.
#[derive(Clone, Copy, Debug)]
pub struct Fitted<'c> {
    /// `k3s` or `rke2`.
    pub program: &'c str,
    /// The folder with `encryption-config.json` and `encryption-state.json`.
    pub cred: &'c str,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    tool: Tool,
    source: Source,
    dry_run: bool,
    revision: i64,
    entries: u64,
    history: u64,
    #[serde(skip_serializing_if = "is_zero")]
    old_values: u64,
    rewritten: u64,
    unchanged: u64,
    unreadable: u64,
    estimated_bytes: u64,
    plan: Vec<Row>,
    refused: Vec<RefusedRow>,
    refused_count: u64,
    obstacle: Option<&'static str>,
    proved: bool,
    output: Option<OutputRow>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Source {
    path: String,
    kind: &'static str,
    sha256: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Row {
    group: String,
    resource: String,
    from: String,
    fate: &'static str,
    to: Option<String>,
    entries: u64,
    history: u64,
    #[serde(skip_serializing_if = "is_zero")]
    old_values: u64,
}

/// Only kine's rows keep older values beside their own.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Serialize)]
pub(super) struct RefusedRow {
    pub key: String,
    pub revision: i64,
    pub why: String,
}

#[derive(Serialize)]
struct OutputRow {
    path: String,
    form: &'static str,
    bytes: u64,
    sha256: String,
}

/// What adds up over the plan.
pub(super) struct Totals {
    pub all: Count,
    pub rewritten: u64,
    pub unchanged: u64,
    pub unreadable: u64,
    pub refused: u64,
}

impl Totals {
    pub fn of(rows: &[(Kind, Count)]) -> Self {
        let mut totals = Self { all: Count::default(), rewritten: 0, unchanged: 0, unreadable: 0, refused: 0 };
        for (kind, count) in rows {
            let all = count.all();
            totals.all += *count;
            match kind.fate {
                Fate::Rewritten(_) | Fate::Replaced => totals.rewritten += all,
                Fate::Refused => totals.refused += all,
                Fate::Stays(why) => {
                    totals.unchanged += all;
                    totals.unreadable += if why == Stays::Unreadable { all } else { 0 };
                }
                Fate::Deleted => {}
            }
        }
        totals
    }
}

/// Whether values were kept that do not open.
pub fn kept_unreadable(outcome: &Outcome) -> bool {
    Totals::of(&outcome.rows).unreadable > 0
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, outcome: &Outcome, context: &Context<'_>) -> io::Result<()> {
    let written = &outcome.written;
    let totals = Totals::of(&outcome.rows);
    let product = product(outcome);
    let document = Document {
        schema: "atrest.rewrite/1",
        tool: TOOL,
        source: Source {
            path: harmless(&context.facts.path).into_owned(),
            kind: context.facts.kind,
            sha256: context.facts.given_sha256.or(written.digests.map(|digests| digests.file)).map(|sha| hex(&sha)),
        },
        dry_run: matches!(outcome.end, End::Planned(_)),
        revision: written.revision,
        entries: totals.all.entries,
        history: totals.all.history,
        old_values: totals.all.old_values,
        rewritten: totals.rewritten,
        unchanged: totals.unchanged,
        unreadable: totals.unreadable,
        estimated_bytes: written.estimated_bytes,
        plan: outcome.rows.iter().map(|(kind, count)| row(kind, *count, context.target)).collect(),
        refused: written.refused.iter().map(refused).collect(),
        refused_count: totals.refused,
        obstacle: obstacle(outcome).map(word),
        proved: product.is_some(),
        output: product.map(|product| OutputRow {
            path: harmless(context.output.unwrap_or_default()).into_owned(),
            form: form(product.form),
            bytes: product.bytes,
            sha256: hex(&product.sha256),
        }),
        notes: context.notes.to_vec(),
    };
    pretty(out, &document)
}

fn product(outcome: &Outcome) -> Option<&Product> {
    match &outcome.end {
        End::Proved(product) => Some(product),
        End::Planned(_) | End::Refused(_) => None,
    }
}

fn obstacle(outcome: &Outcome) -> Option<Obstacle> {
    match outcome.end {
        End::Planned(obstacle) => obstacle,
        End::Refused(obstacle) => Some(obstacle),
        End::Proved(_) => None,
    }
}

fn word(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Values => "values",
        Obstacle::Bootstrap => "bootstrap",
        Obstacle::Operators => "operators",
    }
}

fn form(form: Form) -> &'static str {
    match form {
        Form::Snapshot => "snapshot",
        Form::Database => "database",
        Form::Kine => "kine",
    }
}

pub(super) fn row(kind: &Kind, count: Count, target: &Target) -> Row {
    let (group, resource) = kind.resource.as_ref().map_or((String::new(), String::new()), |resource| {
        (harmless(&resource.group).into_owned(), harmless(&resource.resource).into_owned())
    });
    let (fate, to) = match kind.fate {
        Fate::Rewritten(chain) => ("rewritten", Some(harmless(&target.writer(chain).to_string()).into_owned())),
        Fate::Replaced => ("replaced", None),
        Fate::Refused => ("refused", None),
        Fate::Deleted => ("deleted", None),
        Fate::Stays(Stays::Fresh) => ("fresh", None),
        Fate::Stays(Stays::Unselected) => ("unselected", None),
        Fate::Stays(Stays::Uncovered) => ("uncovered", None),
        Fate::Stays(Stays::NoObject) => ("no-object", None),
        Fate::Stays(Stays::Unreadable) => ("unreadable", None),
    };
    let Count { entries, history, old_values } = count;
    Row { group, resource, from: from(kind), fate, to, entries, history, old_values }
}

/// What values are on now.
fn from(kind: &Kind) -> String {
    match kind.from {
        None => "identity".to_owned(),
        Some(sealed) => format!("{}/{}", sealed.provider(), key(&kind.from_name)),
    }
}

pub(super) fn refused(refused: &Refused) -> RefusedRow {
    RefusedRow {
        key: key(&refused.key).into_owned(),
        revision: refused.revision,
        why: harmless(&refused.why).into_owned(),
    }
}

/// Writes the text: the answer first, then what became of what, then what keeps it from being taken, then what to do.
pub fn text(out: &mut dyn Write, outcome: &Outcome, context: &Context<'_>, paint: Paint) -> io::Result<()> {
    let totals = Totals::of(&outcome.rows);
    answer(out, outcome, context, &totals, paint)?;
    let kept = match totals.all.old_values {
        0 => String::new(),
        old_values => format!(", {} old values kept by newer rows", grouped(old_values)),
    };
    writeln!(
        out,
        "{} entries, {} older revisions{kept}: {} written anew, {} unchanged, {} refused",
        grouped(totals.all.entries),
        grouped(totals.all.history),
        grouped(totals.rewritten),
        grouped(totals.unchanged),
        grouped(totals.refused),
    )?;
    plan(out, &outcome.rows, context.target)?;
    refusals(out, &outcome.written.refused, totals.refused, paint)?;
    for note in context.notes {
        writeln!(out, "{} {note}", paint.severity(Severity::Warning, "[WARN]"))?;
    }
    if totals.unreadable > 0 {
        let mark = paint.severity(Severity::Warning, "[WARN]");
        writeln!(out, "{mark} {} values do not open and were kept as they are", grouped(totals.unreadable))?;
    }
    match &outcome.end {
        End::Proved(product) => restoring(out, context, product.form),
        End::Planned(_) | End::Refused(_) => Ok(()),
    }
}

fn answer(
    out: &mut dyn Write,
    outcome: &Outcome,
    context: &Context<'_>,
    totals: &Totals,
    paint: Paint,
) -> io::Result<()> {
    let path = harmless(context.output.unwrap_or_default());
    let line = match &outcome.end {
        End::Proved(product) => {
            let proved = format!(
                "[PASS] {path}: written and proved, {} records read back and held against the source's",
                grouped(product.records)
            );
            writeln!(out, "{}", paint.good(&proved))?;
            return writeln!(out, "{} bytes, sha256 {}", grouped(product.bytes), hex(&product.sha256));
        }
        End::Planned(None) => {
            let bytes = grouped(outcome.written.estimated_bytes);
            let line = format!("[PLAN] dry run: nothing stands in the way; the new file would have some {bytes} bytes");
            return writeln!(out, "{}", paint.bold(&line));
        }
        End::Planned(Some(obstacle)) | End::Refused(obstacle) => {
            format!("[FAIL] {}: nothing was written", why(*obstacle, totals))
        }
    };
    writeln!(out, "{}", paint.severity(Severity::Error, &line))
}

fn why(obstacle: Obstacle, totals: &Totals) -> String {
    match obstacle {
        Obstacle::Values => format!("{} values cannot be rewritten safely", grouped(totals.refused)),
        Obstacle::Bootstrap => {
            "the store holds K3s' or RKE2's own record of the encryption configuration (/bootstrap/), and the next start \
             would bring the old one back; --distro k3s or rke2 with --token-file makes it fit the target, and \
             --keep-distro-state rewrites all the same"
                .to_owned()
        }
        Obstacle::Operators => operators(),
    }
}

/// Why OpenShift's operators stand in the way of other keys. They make each key themselves, number it, and take over what their
/// Secrets say; kube-apiserver's own are outside of the store, too.
pub(super) fn operators() -> String {
    "the store holds the encryption Secrets of OpenShift's operators (openshift-config-managed/encryption-key-*): each key is \
     theirs, kube-apiserver's also lies on the control plane's disks, and they would bring the old keys back. Keys are changed \
     there by the operators themselves (spec.unsupportedConfigOverrides.encryption.reason) or switched off (type: identity). What may be \
     written are the keys that they write with: -c with the backup's tarball, --to with what recover-config makes of it. \
     --keep-distro-state rewrites all the same, for another cluster or none"
        .to_owned()
}

pub(super) fn plan(out: &mut dyn Write, rows: &[(Kind, Count)], target: &Target) -> io::Result<()> {
    let rows: Vec<_> = rows.iter().map(|(kind, count)| row(kind, *count, target)).collect();
    let name = |row: &Row| match (row.group.as_str(), row.resource.as_str()) {
        (_, "") => "(no API object)".to_owned(),
        ("", resource) => resource.to_owned(),
        (group, resource) => format!("{resource}.{group}"),
    };
    let fate = |row: &Row| row.to.as_ref().map_or(row.fate.to_owned(), |to| format!("-> {to}"));
    let width = |cell: &dyn Fn(&Row) -> String| rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0);
    let (names, froms, fates) = (width(&name), width(&|row| row.from.clone()), width(&fate));
    writeln!(out)?;
    for row in &rows {
        let (name, fate) = (name(row), fate(row));
        let (entries, history) = (grouped(row.entries), grouped(row.history));
        write!(out, "  {name:names$}  {:froms$}  {fate:fates$}  {entries:>9} entries  {history:>9} older", row.from)?;
        match row.old_values {
            0 => writeln!(out)?,
            old_values => writeln!(out, "  {:>9} kept by newer rows", grouped(old_values))?,
        }
    }
    Ok(())
}

pub(super) fn refusals(out: &mut dyn Write, named: &[Refused], count: u64, paint: Paint) -> io::Result<()> {
    if named.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    for Refused { key: of, revision, why } in named {
        let mark = paint.severity(Severity::Error, "[FAIL]");
        writeln!(out, "{mark} {} at revision {revision}: {}", key(of), harmless(why))?;
    }
    let more = count.saturating_sub(named.len() as u64);
    if more > 0 {
        writeln!(out, "and {} more", grouped(more))?;
    }
    writeln!(out, "--keep-unreadable copies values that do not open as they are; `atrest audit` says more about them")
}

fn restoring(out: &mut dyn Write, context: &Context<'_>, form: Form) -> io::Result<()> {
    let (path, target) = (context.output.unwrap_or_default(), context.target);
    if form == Form::Kine {
        return replacing(out, path, target, context.fitted);
    }
    // To be copied into a shell as it stands.
    let path = quoted(path.as_bytes()).unwrap_or_else(|| harmless(path));
    if let Some(fitted) = context.fitted {
        return resetting(out, &path, form, fitted);
    }
    // etcd's tool asks for a digest, which a bare database has not.
    let unchecked = if form == Form::Database { " --skip-hash-check" } else { "" };
    let configuration = match target {
        Target::Configured { .. } => "with the target configuration",
        Target::Plaintext => "with a configuration whose providers include identity, or with none",
    };
    writeln!(out)?;
    writeln!(out, "Restore every member of the cluster from this one file, into a new data directory:")?;
    writeln!(
        out,
        "  etcdutl snapshot restore {path}{unchecked} --data-dir NEW --bump-revision 1000000000 --mark-compacted"
    )?;
    writeln!(out, "and start the API servers {configuration}. Its HashKV differs from the old cluster's by")?;
    writeln!(out, "necessity, so never swap one member's database alone, and discard the old members' logs.")
}

/// The commands that put a server's two files where they belong.
fn installing(out: &mut dyn Write, Fitted { program, cred }: Fitted<'_>) -> io::Result<()> {
    let cred = quoted(cred.as_bytes()).unwrap_or_else(|| harmless(cred));
    writeln!(out, "  install -m 600 {cred}/encryption-*.json /var/lib/rancher/{program}/server/cred/")
}

/// What to do with a snapshot of K3s or RKE2 that fits its target.
fn resetting(out: &mut dyn Write, path: &str, form: Form, fitted: Fitted<'_>) -> io::Result<()> {
    let program = fitted.program;
    let unit = if program == "rke2" { "rke2-server" } else { program };
    writeln!(out)?;
    if form == Form::Database {
        return writeln!(
            out,
            "{program} checks the digest that a snapshot ends with, which this file has not: write it with --format snapshot."
        );
    }
    writeln!(out, "With {program} stopped on every server, put the two files on each of them:")?;
    installing(out, fitted)?;
    writeln!(out, "restore the snapshot on one, with the token that it was taken with, and start it:")?;
    writeln!(out, "  {program} server --cluster-reset --cluster-reset-restore-path={path}")?;
    writeln!(out, "  systemctl start {unit}")?;
    writeln!(out, "and on each of the others let it join anew:")?;
    writeln!(out, "  rm -rf /var/lib/rancher/{program}/server/db")?;
    writeln!(out, "  systemctl start {unit}")
}

/// What to do with a rewritten database of kine's.
fn replacing(out: &mut dyn Write, path: &str, target: &Target, fitted: Option<Fitted<'_>>) -> io::Result<()> {
    let path = quoted(path.as_bytes()).unwrap_or_else(|| harmless(path));
    let configuration = match target {
        Target::Configured { .. } => "the target configuration in its place",
        Target::Plaintext => "a configuration whose providers include identity",
    };
    let program = fitted.map_or("k3s", |fitted| fitted.program);
    let (name, unit) = if program == "rke2" { ("RKE2", "rke2-server") } else { ("K3s", "k3s") };
    let database = format!("/var/lib/rancher/{program}/server/db/state.db");
    writeln!(out)?;
    writeln!(
        out,
        "Put it in the place of the old one while {name} is stopped. The old log must go: SQLite would lay it over"
    )?;
    writeln!(out, "the new file.")?;
    writeln!(out, "  systemctl stop {unit}")?;
    writeln!(out, "  rm -f {database}-wal {database}-shm")?;
    writeln!(out, "  install -m 600 {path} {database}")?;
    match fitted {
        Some(fitted) => {
            installing(out, fitted)?;
            writeln!(
                out,
                "and start it. All revisions are as they were. Keep the old file until the new one serves, and"
            )?;
            writeln!(out, "then destroy it: it still holds what was written anew.")
        }
        None => {
            writeln!(
                out,
                "and start it with {configuration}. All revisions are as they were. Keep the old file until the"
            )?;
            writeln!(out, "new one serves, and then destroy it: it still holds what was written anew.")
        }
    }
}
