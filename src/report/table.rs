//! The summary for a person: the verdict first, then coverage, then what to do. The short form fits a screen.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::audit::finding::Severity;
use crate::audit::nonces::{Named, Together};
use crate::audit::run::Audit;
use crate::audit::summary::{Answer, FindingRow, Summary};

use super::json::SourceFacts;
use super::paint::Paint;
use super::text::{grouped, harmless, key};

/// Rows of coverage, and findings, in the short form.
const SHORT_COVERAGE: usize = 14;
const SHORT_FINDINGS: usize = 5;
/// Keys that are named with a finding.
const SHORT_KEYS: usize = 2;
const WIDE_KEYS: usize = 10;
/// A cell is cut at so many characters in the short form.
const SHORT_CELL: usize = 44;

/// How much to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// At most a screen.
    Short,
    /// Everything that the summary has.
    Wide,
}

/// Writes the report.
pub fn write(
    out: &mut dyn Write,
    audit: &Audit,
    facts: &SourceFacts,
    scope: Option<&str>,
    paint: Paint,
    width: Width,
) -> io::Result<()> {
    verdict(out, audit, (facts, scope), paint)?;
    source(out, audit, facts)?;
    coverage(out, &audit.summary, paint, width)?;
    if width == Width::Wide {
        keys(out, audit, paint)?;
    }
    findings(out, (&audit.summary, facts), paint, width)?;
    closing(out, audit, paint, width)
}

/// The answer in one line, and the totals below it.
fn verdict(
    out: &mut dyn Write,
    audit: &Audit,
    (facts, scope): (&SourceFacts, Option<&str>),
    paint: Paint,
) -> io::Result<()> {
    let summary = &audit.summary;
    let totals = &summary.totals;
    let (mark, sentence) = match summary.answer {
        Answer::Clean => ("[PASS]", "every value opens and is as the configuration would write it now".to_owned()),
        Answer::Findings => (mark(summary.worst()), in_short(summary)),
        Answer::Incomplete => ("[FAIL]", format!("not everything could be judged; {}", in_short(summary))),
        Answer::Unjudged => (mark(summary.worst()), "no configuration was given; this is what is stored".to_owned()),
    };
    let line = format!("{mark} {}: {sentence}", summary.answer.word());
    let painted = match summary.answer {
        Answer::Clean => paint.good(&line),
        Answer::Unjudged => paint.bold(&line),
        _ => paint.severity(summary.worst().unwrap_or(Severity::Error), &line),
    };
    writeln!(out, "{painted}")?;
    if let Some(scope) = scope {
        writeln!(out, "only {scope}; nothing is said of the rest")?;
    }
    if facts.is_live() {
        let [entries, encrypted, plaintext] = [totals.entries, totals.encrypted, totals.plaintext].map(grouped);
        return writeln!(
            out,
            "{entries} entries ({encrypted} encrypted, {plaintext} plaintext); a running etcd shows nothing older"
        );
    }
    let left = match audit.log {
        _ if facts.kind == "kine" => "kept by newer rows",
        Some(_) => "left in free pages and the log",
        None => "left in free pages",
    };
    writeln!(
        out,
        "{} entries ({} encrypted, {} plaintext), {} older revisions, {} deletions, {} revisions {left}",
        grouped(totals.entries),
        grouped(totals.encrypted),
        grouped(totals.plaintext),
        grouped(totals.history),
        grouped(totals.deleted),
        grouped(totals.residue),
    )
}

fn mark(worst: Option<Severity>) -> &'static str {
    match worst {
        Some(Severity::Error) => "[FAIL]",
        Some(Severity::Warning) => "[WARN]",
        _ => "[INFO]",
    }
}

fn in_short(summary: &Summary) -> String {
    if summary.nothing_judged {
        return "there is no API object, or none was selected; mind --etcd-prefix, namespace and names".to_owned();
    }
    let totals = &summary.totals;
    let parts = [
        (totals.unreadable, "unreadable"),
        (summary.unproved, "unproved"),
        (totals.stale, "stale"),
        (totals.unrecognised, "unrecognised"),
    ];
    let said: Vec<_> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{} {word}", grouped(*count)))
        .collect();
    let errors = summary.findings.iter().filter(|row| row.finding.severity() == Severity::Error).count();
    match (said.is_empty(), errors) {
        (false, _) => said.join(", "),
        (true, 0) => "every value opens; see below".to_owned(),
        (true, _) => "see below".to_owned(),
    }
}

fn source(out: &mut dyn Write, audit: &Audit, facts: &SourceFacts) -> io::Result<()> {
    let etcd = audit.meta.written_by().map_or(String::new(), |version| format!(", written by etcd {version}"));
    let container = facts.container.as_ref().map_or(String::new(), |container| format!(" in {container}"));
    let digest = match audit.digests {
        _ if !facts.has_trailer() => String::new(),
        Some(digests) => format!(", digest {}", digests.trailer.word()),
        None => ", digest not checked".to_owned(),
    };
    let path = harmless(&facts.path);
    let etcd = if facts.is_live() { etcd.replace("written by ", "") } else { etcd };
    writeln!(out, "{path}: {}{container}{etcd}, revision {}{digest}", facts.kind, audit.revision)?;
    if let Some(log) = &audit.log {
        writeln!(out, "its log: {}", super::log::words(log))?;
    }
    audit.notes.iter().try_for_each(|note| writeln!(out, "{}", harmless(note)))
}

fn coverage(out: &mut dyn Write, summary: &Summary, paint: Paint, width: Width) -> io::Result<()> {
    let mut rows: BTreeMap<(String, String, String), [u64; 3]> = BTreeMap::new();
    for row in &summary.coverage {
        let resource = match row.scope.resource.is_empty() {
            true => "(no API object)".to_owned(),
            false => harmless(&row.scope.group_resource().to_string()).into_owned(),
        };
        let namespace = if width == Width::Wide { harmless(&row.scope.namespace).into_owned() } else { String::new() };
        let stored = stored_as(row.provider, &row.key_name);
        let sums = rows.entry((resource, namespace, stored)).or_default();
        let counts = [row.entries, row.unreadable, row.stale];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let total = rows.len();
    let mut table = Grid::new(match width {
        Width::Short => vec!["RESOURCE", "STORED AS", "ENTRIES", "UNREADABLE", "STALE"],
        Width::Wide => vec!["RESOURCE", "NAMESPACE", "STORED AS", "ENTRIES", "UNREADABLE", "STALE"],
    });
    let mut rows: Vec<_> = rows.into_iter().collect();
    if width == Width::Short && total > SHORT_COVERAGE {
        // What is encrypted or wrong matters more than long lists of plaintext.
        rows.sort_by_key(|((_, _, stored), counts)| (stored == "identity" && counts[1] == 0, u64::MAX - counts[0]));
        rows.truncate(SHORT_COVERAGE);
        rows.sort();
    }
    for ((resource, namespace, stored), [entries, unreadable, stale]) in rows {
        let cut = |text: String| if width == Width::Short { shorten(&text, SHORT_CELL) } else { text };
        let mut cells = vec![cut(resource)];
        if width == Width::Wide {
            cells.push(namespace);
        }
        cells.extend([cut(stored), grouped(entries), grouped(unreadable), grouped(stale)]);
        table.push(cells);
    }
    writeln!(out)?;
    table.write(out, paint, 3)?;
    if width == Width::Short && total > SHORT_COVERAGE {
        writeln!(out, "and {} more lines; -o wide shows all", total - SHORT_COVERAGE)?;
    }
    Ok(())
}

fn stored_as(provider: &str, key_name: &str) -> String {
    match (provider, key_name) {
        ("", _) => "(unrecognised)".to_owned(),
        (provider, "") => provider.to_owned(),
        (provider, name) => format!("{provider}/{}", harmless(name)),
    }
}

/// Writes the table of keys.
pub fn keys(out: &mut dyn Write, audit: &Audit, paint: Paint) -> io::Result<()> {
    let keys = &audit.summary.keys;
    let columns = [
        "KEY",
        "KEY ID",
        "FINGERPRINT",
        "CONFIGURED",
        "WRITES",
        "ENTRIES",
        "HISTORY",
        "RESIDUE",
        "OLDEST",
        "NEWEST",
        "AGE",
    ];
    let mut table = Grid::new(columns.to_vec());
    for row in keys {
        let revision = |revision: Option<i64>| revision.map_or(String::new(), |revision| revision.to_string());
        table.push(vec![
            stored_as(row.id.provider, &row.id.key_name),
            harmless(&row.id.kms_key_id).into_owned(),
            row.id.fingerprint.clone(),
            if row.in_config { "yes" } else { "no" }.to_owned(),
            harmless(&row.write_key_for.join(",")).into_owned(),
            grouped(row.count.entries),
            grouped(row.count.history),
            grouped(row.count.residue),
            revision(row.revisions.map(|(oldest, _)| oldest)),
            revision(row.revisions.map(|(_, newest)| newest)),
            revision(row.age(audit.revision)),
        ]);
    }
    if !keys.is_empty() {
        writeln!(out)?;
        table.write(out, paint, 6)?;
    }
    Ok(())
}

fn findings(
    out: &mut dyn Write,
    (summary, facts): (&Summary, &SourceFacts),
    paint: Paint,
    width: Width,
) -> io::Result<()> {
    // Whether all there is was read is always said; the rest as far as a screen goes.
    let is_shown = |(place, row): &(usize, &FindingRow)| {
        let weighs = row.finding.severity() > Severity::Note && *place < SHORT_FINDINGS;
        width == Width::Wide || weighs || row.finding.is_about_the_file()
    };
    let shown: Vec<_> = summary.findings.iter().enumerate().filter(is_shown).map(|(_, row)| row).collect();
    for row in &shown {
        writeln!(out)?;
        finding(out, row, paint, width)?;
        writeln!(out, "       -> {}", facts.remedy(row.finding))?;
    }
    let hidden = summary.findings.len() - shown.len();
    if hidden > 0 {
        writeln!(out, "\nand {hidden} more findings; -o wide shows all")?;
    }
    Ok(())
}

fn finding(out: &mut dyn Write, row: &FindingRow, paint: Paint, width: Width) -> io::Result<()> {
    let severity = row.finding.severity();
    let mark = paint.severity(severity, mark(Some(severity)));
    let count = match row.count {
        0 => String::new(),
        1 => "1 key: ".to_owned(),
        count => format!("{} keys: ", grouped(count)),
    };
    writeln!(out, "{mark} {}: {count}{}", row.finding.id(), row.finding.meaning())?;
    let limit = if width == Width::Short { SHORT_KEYS } else { WIDE_KEYS };
    // What only two values together show is told of both.
    let keys = if row.together.is_empty() { row.keys.as_slice() } else { &[] };
    for bytes in keys.iter().take(limit) {
        writeln!(out, "       {}", key(bytes))?;
    }
    for group in row.together.iter().take(limit) {
        writeln!(out, "       {}", together(group))?;
    }
    for detail in row.details.iter().take(limit) {
        writeln!(out, "       {}", harmless(detail))?;
    }
    let named = keys.len().min(limit) as u64;
    if row.count > named && named > 0 {
        writeln!(out, "       and {} more", grouped(row.count - named))?;
    }
    Ok(())
}

/// Values that share what they should not, in a line.
fn together(group: &Together) -> String {
    let value = |named: &Named| format!("{} at revision {}", key(&named.key), named.revision);
    let values: Vec<_> = group.values.iter().map(value).collect();
    format!("{}: {}", stored_as(group.provider, &group.key_name), values.join(", "))
}

fn closing(out: &mut dyn Write, audit: &Audit, paint: Paint, width: Width) -> io::Result<()> {
    if audit.summary.answer == Answer::Unjudged {
        writeln!(out, "\nGive the EncryptionConfiguration with -c to have every value opened and proved.")?;
    }
    if width == Width::Wide && !audit.faults.is_empty() {
        writeln!(out, "\n{}", paint.bold("FAULTS"))?;
        for fault in &audit.faults {
            writeln!(out, "{fault}")?;
        }
    }
    Ok(())
}

fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit - 1).chain(['\u{2026}']).collect()
}

/// Columns as kubectl prints them: two blanks between, numbers to the right.
struct Grid {
    rows: Vec<Vec<String>>,
}

impl Grid {
    fn new(header: Vec<&str>) -> Self {
        Self { rows: vec![header.into_iter().map(str::to_owned).collect()] }
    }

    fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Writes the rows; the last `numbers` columns are set to the right.
    fn write(&self, out: &mut dyn Write, paint: Paint, numbers: usize) -> io::Result<()> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                let (left, right) =
                    if column + numbers >= columns { (padding.as_str(), "") } else { ("", padding.as_str()) };
                let gap = if column == 0 { "" } else { "  " };
                line.push_str(&format!("{gap}{left}{cell}{right}"));
            }
            let line = line.trim_end();
            writeln!(out, "{}", if index == 0 { paint.bold(line) } else { line.to_owned() })?;
        }
        Ok(())
    }
}
