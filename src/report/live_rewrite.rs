//! What the rewrite of a running store came to, or would: JSON (schema `atrest.rewrite/1`) and text.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::audit::finding::Severity;
use crate::rewrite::live::plan::Plan;
use crate::rewrite::live::preflight::{Member, Obstacle, Space};
use crate::rewrite::live::run::Outcome;
use crate::rewrite::target::Target;

use super::json::{TOOL, Tool, pretty};
use super::paint::Paint;
use super::rewrite::{RefusedRow, Row, Totals, plan, refusals, refused, row};
use super::text::{grouped, harmless, key};

/// All that is to be told.
pub struct Facts<'f> {
    /// The endpoints as they were given.
    pub endpoints: &'f str,
    /// What the members say of themselves.
    pub members: &'f [Member],
    /// What was planned.
    pub plan: &'f Plan,
    /// The room in the databases; none for kine.
    pub space: Option<&'f Space>,
    /// What was to be written.
    pub target: &'f Target,
    /// Why it was not begun.
    pub obstacle: Option<&'f Obstacle>,
    /// What is to be answered before it is begun.
    pub questions: &'f [String],
    /// Objects a second; 0 = as many as go.
    pub rate: u64,
    /// What came of it; none for a dry run.
    pub outcome: Option<&'f Outcome>,
    /// Nothing was to be written.
    pub dry_run: bool,
    /// Somebody asked to stop.
    pub interrupted: bool,
    /// What was done before and afterwards, each a sentence.
    pub done: &'f [String],
    /// What is left to do, each a sentence.
    pub left: &'f [String],
    /// What the reader should know beside it, each a sentence.
    pub notes: &'f [String],
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
    rewritten: u64,
    unchanged: u64,
    unreadable: u64,
    estimated_bytes: u64,
    plan: Vec<Row>,
    refused: Vec<RefusedRow>,
    refused_count: u64,
    obstacle: Option<&'static str>,
    proved: bool,
    output: Option<()>,
    notes: Vec<String>,
    live: Live,
}

#[derive(Serialize)]
struct Source {
    path: String,
    kind: &'static str,
    sha256: Option<String>,
}

#[derive(Serialize)]
struct Live {
    members: Vec<MemberRow>,
    space: Option<SpaceRow>,
    rate: u64,
    estimated_seconds: Option<f64>,
    questions: Vec<String>,
    outcome: Option<OutcomeRow>,
    done: Vec<String>,
    left: Vec<String>,
}

#[derive(Serialize)]
struct MemberRow {
    endpoint: String,
    version: String,
    db_size: u64,
    db_size_in_use: u64,
    quota: Option<u64>,
    leads: bool,
    backlog: u64,
    alarms: Vec<String>,
}

#[derive(Serialize)]
struct SpaceRow {
    endpoint: String,
    db_size: u64,
    peak: u64,
    limit: u64,
    quota: u64,
    quota_assumed: bool,
}

#[derive(Serialize)]
struct OutcomeRow {
    seconds: f64,
    objects_per_second: f64,
    slowest_factor: f64,
    rounds: u32,
    written: u64,
    conflicts: u64,
    theirs: u64,
    gone: u64,
    unanswered: u64,
    found_written: u64,
    left: u64,
    unsettled: u64,
    contended: u64,
    refused: Vec<RefusedRow>,
    refused_count: u64,
    interrupted: bool,
    stopped: Option<String>,
    proof: Option<ProofRow>,
}

#[derive(Serialize)]
struct ProofRow {
    revision: i64,
    entries: u64,
    ours: u64,
    as_read: u64,
    others: u64,
    stale: u64,
    stale_keys: Vec<String>,
    broken: Vec<RefusedRow>,
    broken_count: u64,
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, facts: &Facts<'_>) -> io::Result<()> {
    let totals = Totals::of(&facts.plan.rows);
    let outcome = facts.outcome;
    let document = Document {
        schema: "atrest.rewrite/1",
        tool: TOOL,
        source: Source { path: harmless(facts.endpoints).into_owned(), kind: "live", sha256: None },
        dry_run: facts.dry_run,
        revision: outcome
            .and_then(|outcome| outcome.proof.as_ref())
            .map_or(facts.plan.pins.newest(), |proof| proof.revision),
        entries: totals.all.entries,
        history: 0,
        rewritten: outcome.map_or(facts.plan.rewritten, |outcome| outcome.totals.written),
        unchanged: totals.unchanged,
        unreadable: totals.unreadable,
        estimated_bytes: facts.plan.growth,
        plan: facts.plan.rows.iter().map(|(kind, count)| row(kind, *count, facts.target)).collect(),
        refused: facts.plan.refused.iter().map(refused).collect(),
        refused_count: facts.plan.refused_count,
        obstacle: facts.obstacle.map(Obstacle::word),
        proved: outcome.is_some_and(Outcome::proved),
        output: None,
        notes: facts.notes.to_vec(),
        live: Live {
            members: facts.members.iter().map(member).collect(),
            space: facts.space.map(space),
            rate: facts.rate,
            estimated_seconds: estimate(facts).map(|time| time.as_secs_f64()),
            questions: facts.questions.to_vec(),
            outcome: outcome.map(|outcome| outcome_row(outcome, facts.interrupted)),
            done: facts.done.to_vec(),
            left: facts.left.to_vec(),
        },
    };
    pretty(out, &document)
}

fn member(member: &Member) -> MemberRow {
    MemberRow {
        endpoint: harmless(&member.endpoint).into_owned(),
        version: harmless(&member.version).into_owned(),
        db_size: member.db_size,
        db_size_in_use: member.in_use,
        quota: member.quota,
        leads: member.leads,
        backlog: member.backlog,
        alarms: member.alarms.iter().map(|alarm| harmless(alarm).into_owned()).collect(),
    }
}

fn space(space: &Space) -> SpaceRow {
    SpaceRow {
        endpoint: harmless(&space.endpoint).into_owned(),
        db_size: space.db_size,
        peak: space.peak,
        limit: space.limit(),
        quota: space.quota,
        quota_assumed: space.quota_assumed,
    }
}

fn outcome_row(outcome: &Outcome, interrupted: bool) -> OutcomeRow {
    let named = |named: &crate::rewrite::live::settle::Named| RefusedRow {
        key: key(&named.key).into_owned(),
        revision: named.revision,
        why: harmless(&named.why).into_owned(),
    };
    let totals = &outcome.totals;
    OutcomeRow {
        seconds: outcome.took.as_secs_f64(),
        objects_per_second: per_second(outcome),
        slowest_factor: outcome.slowest,
        rounds: outcome.rounds,
        written: totals.written,
        conflicts: totals.conflicts,
        theirs: totals.theirs,
        gone: totals.gone,
        unanswered: totals.unanswered,
        found_written: totals.found_written,
        left: totals.left,
        unsettled: totals.unsettled,
        contended: totals.contended,
        refused: outcome.named.iter().map(named).collect(),
        refused_count: outcome.named_count,
        interrupted,
        stopped: outcome.stop.as_ref().map(|stop| harmless(&stop.to_string()).into_owned()),
        proof: outcome.proof.as_ref().map(|proof| ProofRow {
            revision: proof.revision,
            entries: proof.entries,
            ours: proof.ours,
            as_read: proof.as_read,
            others: proof.others,
            stale: proof.stale,
            stale_keys: proof.stale_keys.iter().map(|stale| key(stale).into_owned()).collect(),
            broken: proof.broken.iter().map(named).collect(),
            broken_count: proof.broken_count,
        }),
    }
}

fn per_second(outcome: &Outcome) -> f64 {
    outcome.totals.written as f64 / outcome.took.as_secs_f64().max(0.001)
}

fn estimate(facts: &Facts<'_>) -> Option<Duration> {
    (facts.rate > 0).then(|| Duration::from_secs(facts.plan.rewritten.div_ceil(facts.rate)))
}

/// Writes the text: the answer first, then what became of what, then what is in the way, then what to do.
pub fn text(out: &mut dyn Write, facts: &Facts<'_>, paint: Paint) -> io::Result<()> {
    let totals = Totals::of(&facts.plan.rows);
    answer(out, facts, paint)?;
    let (entries, anew) = (grouped(totals.all.entries), grouped(facts.plan.rewritten));
    let (unchanged, refused) = (grouped(totals.unchanged), grouped(totals.refused));
    writeln!(out, "{entries} entries: {anew} to be written anew, {unchanged} as they are to be, {refused} refused")?;
    plan(out, &facts.plan.rows, facts.target)?;
    refusals(out, &facts.plan.refused, facts.plan.refused_count, paint)?;
    writeln!(out)?;
    members(out, facts)?;
    if let Some(outcome) = facts.outcome {
        came_of_it(out, outcome, paint)?;
    }
    for note in facts.notes {
        writeln!(out, "{} {note}", paint.severity(Severity::Warning, "[WARN]"))?;
    }
    if totals.unreadable > 0 {
        let mark = paint.severity(Severity::Warning, "[WARN]");
        writeln!(out, "{mark} {} values do not open and were kept as they are", grouped(totals.unreadable))?;
    }
    list(out, "Done:", facts.done)?;
    list(out, "Before --confirm:", facts.questions)?;
    list(out, "Left to do:", facts.left)
}

fn list(out: &mut dyn Write, title: &str, sentences: &[String]) -> io::Result<()> {
    if sentences.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}")?;
    sentences.iter().try_for_each(|sentence| writeln!(out, "  * {sentence}"))
}

fn answer(out: &mut dyn Write, facts: &Facts<'_>, paint: Paint) -> io::Result<()> {
    let name = harmless(facts.endpoints);
    let (fails, line) = match (facts.obstacle, facts.outcome) {
        (Some(obstacle), _) => (true, format!("[FAIL] {name}: {}: nothing was written", why(obstacle, facts))),
        (None, None) => {
            let time = match estimate(facts) {
                Some(time) => format!(", some {time:?} at {} a second", grouped(facts.rate)),
                None => String::new(),
            };
            let anew = grouped(facts.plan.rewritten);
            (false, format!("[PLAN] {name}: dry run, nothing stands in the way: {anew} to write anew{time}"))
        }
        (None, Some(outcome)) if outcome.proved() => {
            let written = grouped(outcome.totals.written);
            (false, format!("[PASS] {name}: {written} written anew and proved in {:.1?}", outcome.took))
        }
        (None, Some(outcome)) => {
            // What a server says begins with its endpoint, which may be the only one.
            let said = unproved(outcome, facts.interrupted);
            let said = said.strip_prefix(&*format!("{name}: ")).unwrap_or(&said);
            (true, format!("[FAIL] {name}: {said}"))
        }
    };
    if fails {
        writeln!(out, "{}", paint.severity(Severity::Error, &line))
    } else {
        writeln!(out, "{}", paint.bold(&line))
    }
}

fn unproved(outcome: &Outcome, interrupted: bool) -> String {
    let written = grouped(outcome.totals.written);
    let so_far = format!("{written} were written anew, and nothing is half done; the same command goes on");
    match (&outcome.stop, &outcome.proof) {
        (Some(_), _) if interrupted => format!("interrupted: {so_far}"),
        (Some(stop), _) => {
            let said = stop.to_string();
            let said = said.lines().next().unwrap_or_default();
            format!("{}: {so_far}", harmless(said))
        }
        (None, Some(proof)) if !proof.holds() => {
            format!("{} entries are not what they must be", grouped(proof.broken_count))
        }
        (None, Some(proof)) if proof.stale > outcome.named_count => {
            let stale = grouped(proof.stale);
            format!(
                "{stale} entries are still in the old form: somebody writes them so; has every API server the target configuration?"
            )
        }
        _ => format!("{} entries cannot be written; all others are", grouped(outcome.named_count)),
    }
}

fn why(obstacle: &Obstacle, facts: &Facts<'_>) -> String {
    match obstacle {
        Obstacle::Values => format!("{} values cannot be rewritten safely", grouped(facts.plan.refused_count)),
        Obstacle::Bootstrap => {
            "the store holds K3s' or RKE2's own record of the encryption configuration (/bootstrap/), and the next start \
             would bring the old one back; --keep-distro-state rewrites all the same"
                .to_owned()
        }
        Obstacle::Operators => super::rewrite::operators(),
        Obstacle::Alarm(endpoint, alarm) => format!(
            "{} says {:?}; a cluster that says so is not written to: mend that first (an alarm stands until `etcdctl alarm disarm`)",
            harmless(endpoint),
            harmless(alarm)
        ),
        Obstacle::Quota => {
            let space = facts.space.map_or(String::new(), |space| {
                let (peak, limit) = (grouped(space.peak), grouped(space.limit()));
                format!("the database of {} would have {peak} bytes, and {limit} is as far as it may go", harmless(&space.endpoint))
            });
            format!("{space}; --compact-every N goes in rounds, or compact and defragment first, or raise the quota")
        }
    }
}

fn members(out: &mut dyn Write, facts: &Facts<'_>) -> io::Result<()> {
    for member in facts.members {
        let (size, in_use) = (grouped(member.db_size), grouped(member.in_use));
        let leads = if member.leads { ", leads" } else { "" };
        let name = harmless(&member.endpoint);
        writeln!(out, "  {name}  {}{leads}: {size} bytes, {in_use} in use", harmless(&member.version))?;
    }
    let Some(space) = facts.space.filter(|_| facts.plan.rewritten > 0) else { return Ok(()) };
    let assumed = if space.quota_assumed { " (etcd's default; this release does not say)" } else { "" };
    let (growth, peak, quota) = (grouped(facts.plan.growth), grouped(space.peak), grouped(space.quota));
    writeln!(
        out,
        "  some {growth} bytes are added until they are compacted: at most {peak} of a quota of {quota}{assumed}"
    )
}

fn came_of_it(out: &mut dyn Write, outcome: &Outcome, paint: Paint) -> io::Result<()> {
    let totals = &outcome.totals;
    let rounds = if outcome.rounds == 1 { "round" } else { "rounds" };
    writeln!(out, "  {} a second, {} {rounds}", grouped(per_second(outcome) as u64), outcome.rounds)?;
    for (count, words) in [
        (totals.conflicts, "were written by others meanwhile and read anew"),
        (totals.theirs, "of those are as they are to be and were left alone"),
        (totals.gone, "were deleted meanwhile"),
        (totals.unanswered, "transactions were not answered; each of their keys was read again"),
        (totals.found_written, "changes of those had been made all the same"),
        (totals.contended, "were written by others faster than they could be read"),
        (totals.left, "that were read are left"),
        (totals.unsettled, "may or may not have been written; a rerun tells"),
    ] {
        if count > 0 {
            writeln!(out, "  {} {words}", grouped(count))?;
        }
    }
    if let Some(proof) = &outcome.proof {
        let (entries, ours) = (grouped(proof.entries), grouped(proof.ours));
        let (as_read, others) = (grouped(proof.as_read), grouped(proof.others));
        writeln!(
            out,
            "  read again at revision {}: {entries} entries, {ours} hold what they held before, {as_read} untouched, {others} by \
             others since, {} in the old form",
            proof.revision,
            grouped(proof.stale)
        )?;
        for stale in proof.stale_keys.iter().take(3) {
            writeln!(out, "    in the old form: {}", key(stale))?;
        }
        for broken in &proof.broken {
            writeln!(out, "{} {}: {}", fail(paint), key(&broken.key), harmless(&broken.why))?;
        }
    }
    for named in &outcome.named {
        writeln!(out, "{} {} at revision {}: {}", fail(paint), key(&named.key), named.revision, harmless(&named.why))?;
    }
    // What to do about it stands behind what the server said.
    let mut hints =
        outcome.stop.iter().flat_map(|stop| stop.to_string().lines().skip(1).map(str::to_owned).collect::<Vec<_>>());
    hints.try_for_each(|hint| writeln!(out, "  {}", harmless(&hint)))
}

fn fail(paint: Paint) -> String {
    paint.severity(Severity::Error, "[FAIL]").to_string()
}
