//! What a salvage came to: JSON (schema `atrest.salvage/1`) and text: what is certain, what is doubtful, what is lost.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::Severity;
use crate::recover::salvage::buckets::Origin;
use crate::recover::salvage::settle::Conflict;
use crate::recover::salvage::{LostPage, Salvage};
use crate::source::digest::Trailer;

use super::json::{Fault, SourceFacts, TOOL, Tool, pretty};
use super::paint::Paint;
use super::shell::word as quoted;
use super::text::{grouped, harmless, hex, key};

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    tool: Tool,
    source: Source<'d>,
    whole: bool,
    root: &'static str,
    may_be_older: bool,
    revision: u64,
    compacted_revision: Option<u64>,
    etcd_version: Option<String>,
    records: Records,
    left_out: LeftOut,
    doubtful: Vec<Doubtful>,
    conflicts: Vec<ConflictRow>,
    conflict_count: u64,
    lost: Lost,
    buckets: Vec<Bucket>,
    faults: Vec<Fault<'d>>,
    fault_count: u64,
    proved: bool,
    output: OutputRow,
}

#[derive(Serialize)]
struct Source<'d> {
    path: String,
    kind: &'static str,
    container: Option<&'d str>,
    bytes: u64,
    sha256: Option<String>,
    trailer: Option<&'static str>,
    page_size: u32,
    pages: u32,
    unreached_leaves: u64,
}

#[derive(Serialize)]
struct Records {
    taken: u64,
    reached: u64,
    unreached: u64,
    doubtful: u64,
    compacted: u64,
    fragments: u64,
}

#[derive(Serialize)]
struct LeftOut {
    compacted: u64,
    uncommitted: u64,
    doubtful: u64,
    fragments: u64,
    undecided: u64,
}

#[derive(Serialize)]
struct Doubtful {
    key: String,
    revision: u64,
}

#[derive(Serialize)]
struct ConflictRow {
    revision: u64,
    sub: u32,
    taken: &'static str,
    taken_page: Option<u32>,
    other_page: u32,
}

#[derive(Serialize)]
struct Lost {
    pages: Vec<PageRow>,
    missing_revisions: Option<u64>,
    missing: Vec<Range>,
    partial_revisions: u64,
    keys: Vec<String>,
}

#[derive(Serialize)]
struct PageRow {
    page: Option<u64>,
    kind: &'static str,
    first_revision: u64,
    last_revision: Option<u64>,
}

#[derive(Serialize)]
struct Range {
    first: u64,
    last: u64,
}

#[derive(Serialize)]
struct Bucket {
    name: String,
    pairs: u64,
    origin: &'static str,
}

#[derive(Serialize)]
struct OutputRow {
    path: String,
    bytes: u64,
    sha256: String,
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, salvage: &Salvage, facts: &SourceFacts, output: &str) -> io::Result<()> {
    let faults = salvage.faults.clone().into_sorted();
    let counts = salvage.counts;
    let document = Document {
        schema: "atrest.salvage/1",
        tool: TOOL,
        source: source(salvage, facts),
        whole: salvage.is_whole(),
        root: if salvage.root_told { "meta" } else { "found" },
        may_be_older: salvage.may_be_older,
        revision: salvage.revision,
        compacted_revision: salvage.compaction.noted.filter(|revision| *revision > 0),
        etcd_version: salvage.meta.written_by(),
        records: Records {
            taken: counts.taken(),
            reached: counts.reached,
            unreached: counts.unreached,
            doubtful: counts.doubtful,
            compacted: counts.compacted_taken,
            fragments: counts.fragments_taken,
        },
        left_out: LeftOut {
            compacted: counts.compacted,
            uncommitted: counts.uncommitted,
            doubtful: counts.doubtful_left,
            fragments: counts.fragments,
            undecided: counts.undecided,
        },
        doubtful: salvage.doubtful.iter().map(doubtful).collect(),
        conflicts: salvage.conflicts.iter().map(conflict).collect(),
        conflict_count: salvage.conflict_count,
        lost: lost(salvage),
        buckets: salvage.buckets.iter().map(bucket).collect(),
        faults: faults.iter().map(Fault::of).collect(),
        fault_count: salvage.faults.total(),
        proved: true,
        output: OutputRow {
            path: harmless(output).into_owned(),
            bytes: salvage.product.bytes,
            sha256: hex(&salvage.product.sha256),
        },
    };
    pretty(out, &document)
}

fn source<'d>(salvage: &Salvage, facts: &'d SourceFacts) -> Source<'d> {
    Source {
        path: harmless(&facts.path).into_owned(),
        kind: facts.kind,
        container: facts.container.as_deref(),
        bytes: facts.bytes,
        sha256: salvage.digests.map(|digests| hex(&facts.given_sha256.unwrap_or(digests.file))),
        trailer: salvage.digests.map(|digests| digests.trailer.word()),
        page_size: salvage.page_size,
        pages: salvage.pages,
        unreached_leaves: salvage.free_leaves,
    }
}

fn conflict(conflict: &Conflict) -> ConflictRow {
    let taken = match (conflict.taken, conflict.by_tree) {
        (None, _) => "none",
        (Some(_), true) => "tree",
        (Some(_), false) => "page",
    };
    let (revision, sub) = conflict.revision;
    ConflictRow { revision, sub, taken, taken_page: conflict.taken, other_page: conflict.other }
}

fn doubtful((bytes, revision): &(Vec<u8>, u64)) -> Doubtful {
    Doubtful { key: key(bytes).into_owned(), revision: *revision }
}

fn lost(salvage: &Salvage) -> Lost {
    let page = |lost: &LostPage| PageRow {
        page: lost.page,
        kind: if lost.is_branch { "branch" } else { "leaf" },
        first_revision: lost.first,
        last_revision: lost.last,
    };
    Lost {
        pages: salvage.lost_pages.iter().map(page).collect(),
        missing_revisions: salvage.compaction.noted.map(|_| salvage.holes.total),
        missing: salvage.holes.ranges.iter().map(|(first, last)| Range { first: *first, last: *last }).collect(),
        partial_revisions: salvage.holes.partial,
        keys: salvage.lost_keys.iter().map(|bytes| key(bytes).into_owned()).collect(),
    }
}

fn bucket(row: &crate::recover::salvage::BucketRow) -> Bucket {
    Bucket { name: key(&row.name).into_owned(), pairs: row.pairs, origin: row.origin.word() }
}

/// Lines of a kind that the text lists.
const LISTED: usize = 12;

/// Writes the text.
pub fn text(out: &mut dyn Write, salvage: &Salvage, facts: &SourceFacts, output: &str, paint: Paint) -> io::Result<()> {
    let path = harmless(&facts.path);
    if salvage.is_whole() {
        writeln!(out, "{}", paint.good(&format!("[PASS] {path}: whole; nothing was lost")))?;
    } else {
        let line = format!("[FAIL] {path}: broken; this is what is left of it");
        writeln!(out, "{}", paint.severity(Severity::Error, &line))?;
    }
    for (name, value) in figures(salvage) {
        writeln!(out, "{name:<18} {value}")?;
    }
    listed(out, "LOST", &lost_lines(salvage), paint)?;
    listed(out, "DOUBTFUL", &doubts(salvage), paint)?;
    let faults: Vec<String> =
        salvage.faults.clone().into_sorted().iter().map(|fault| format!("{}: {fault}", fault.kind.word())).collect();
    listed(out, "FAULTS", &faults, paint)?;
    writeln!(out, "\n{} {}", paint.bold("written"), harmless(output))?;
    writeln!(
        out,
        "{:<18} {} bytes, {} records, each read back",
        "",
        grouped(salvage.product.bytes),
        grouped(salvage.product.records)
    )?;
    writeln!(out, "{:<18} {}", "sha256", hex(&salvage.product.sha256))?;
    let path = quoted(output.as_bytes()).unwrap_or_else(|| harmless(output));
    writeln!(out, "\nRestore every member of the cluster from this one file, into a new data directory:")?;
    writeln!(out, "  etcdutl snapshot restore {path} --data-dir NEW --bump-revision 1000000000 --mark-compacted")
}

fn listed(out: &mut dyn Write, title: &str, lines: &[String], paint: Paint) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint.bold(title))?;
    for line in lines.iter().take(LISTED) {
        writeln!(out, "{line}")?;
    }
    match lines.len().saturating_sub(LISTED) {
        0 => Ok(()),
        more => writeln!(out, "and {} more; --report json has them", grouped(more as u64)),
    }
}

fn figures(salvage: &Salvage) -> Vec<(&'static str, String)> {
    let counts = salvage.counts;
    let mut figures = vec![
        ("pages", format!("{} of {} bytes", grouped(salvage.pages.into()), salvage.page_size)),
        ("revision", salvage.revision.to_string()),
        ("records taken", grouped(counts.taken())),
        ("  by the tree", grouped(counts.reached)),
    ];
    let mut more = |name, count: u64| {
        if count > 0 {
            figures.push((name, grouped(count)));
        }
    };
    more("  off the tree", counts.unreached);
    more("  doubtful", counts.doubtful);
    more("  compacted", counts.compacted_taken);
    more("  fragments", counts.fragments_taken);
    more(
        "left out",
        counts.compacted + counts.uncommitted + counts.doubtful_left + counts.fragments + counts.undecided,
    );
    more("  compacted", counts.compacted);
    more("  uncommitted", counts.uncommitted);
    more("  doubtful", counts.doubtful_left);
    more("  fragments", counts.fragments);
    more("  undecided", counts.undecided);
    if let Some(revision) = salvage.compaction.noted.filter(|revision| *revision > 0) {
        figures.push(("compacted at", revision.to_string()));
    }
    if let Some(digests) = salvage.digests.filter(|digests| digests.trailer != Trailer::Missing) {
        figures.push(("digest", digests.trailer.word().to_owned()));
    }
    figures
}

fn lost_lines(salvage: &Salvage) -> Vec<String> {
    let mut lines = Vec::new();
    for lost in &salvage.lost_pages {
        let page = lost.page.map_or("a page".to_owned(), |page| format!("page {page}"));
        let kind = if lost.is_branch { "a branch" } else { "a leaf" };
        let to = lost.last.map_or("on".to_owned(), |last| format!("to {last}"));
        lines.push(format!("{page}, {kind}, with revisions from {} {to}", lost.first));
    }
    if !salvage.holes.ranges.is_empty() {
        let ranges = salvage.holes.ranges.iter().take(LISTED);
        let ranges: Vec<String> = ranges
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") })
            .collect();
        let dots = if salvage.holes.ranges.len() > LISTED { ", ..." } else { "" };
        lines.push(format!("{} revisions: {}{dots}", grouped(salvage.holes.total), ranges.join(", ")));
    }
    if salvage.compaction.noted.is_none() {
        lines.push("which revisions are missing can't be told: nothing says what was compacted".into());
    }
    for bucket in salvage.buckets.iter().filter(|bucket| bucket.origin != Origin::Root) {
        let name = key(&bucket.name);
        match bucket.origin {
            Origin::Partly => lines.push(format!("parts of the bucket {name}")),
            Origin::Pages => lines.push(format!("the way to the bucket {name}; {} pairs were found", bucket.pairs)),
            _ => lines.push(format!("the bucket {name}; a restore makes what a server needs of it")),
        }
    }
    lines.extend(salvage.lost_keys.iter().map(|bytes| format!("all but old versions of {}", key(bytes))));
    lines
}

fn doubts(salvage: &Salvage) -> Vec<String> {
    let mut lines = Vec::new();
    if !salvage.root_told {
        lines.push("no meta page tells the root: the newest one that was found is taken".into());
    } else if salvage.may_be_older {
        lines.push("a meta page is lost: what it told may have been newer".into());
    }
    let counts = salvage.counts;
    if counts.doubtful > 0 {
        let count = grouped(counts.doubtful);
        lines.push(format!("{count} records stand on pages below a lost branch, which may have been freed before"));
    }
    if counts.doubtful_left > 0 {
        let count = grouped(counts.doubtful_left);
        lines.push(format!(
            "{count} records below a lost branch may have been compacted away and are left out; --include-doubtful takes \
             those of which nothing proves that they were"
        ));
    }
    for conflict in &salvage.conflicts {
        let (revision, other) = (conflict.revision.0, conflict.other);
        let taken = match (conflict.taken, conflict.by_tree) {
            (Some(page), true) => format!("that of page {page} is taken, to which the tree leads"),
            (Some(page), false) => format!("that of page {page} is taken, which is whole and in its place"),
            (None, _) => "neither is taken".to_owned(),
        };
        lines.push(format!("copies of revision {revision} differ (page {other}): {taken}"));
    }
    lines
}
