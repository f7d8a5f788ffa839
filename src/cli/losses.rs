//! The gate before something is taken out of a configuration: does a store still need it?

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::ValueEnum;

use crate::audit::gate::{Including, doubt};
use crate::audit::loss::Losses;
use crate::audit::row::RecordKind;
use crate::audit::rules::Rules;
use crate::audit::run::RowsWanted;
use crate::config::{ApiServers, Configuration};
use crate::report::text::{grouped, harmless, key};

use super::Failure;
use super::args::{GlobalArgs, SourceArgs};
use super::judge::judge_by;

/// What beside entries keeps something from going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Include {
    /// Older revisions
    History,
    /// Revisions that are gone from the tree and still in the file
    Residue,
}

/// How many keys of the store are named.
const NAMED: usize = 5;

/// What of a store needs what would go.
#[derive(Default)]
struct Needed {
    entries: u64,
    history: u64,
    residue: u64,
    /// What is needed, and by how many records that count.
    by: BTreeMap<String, u64>,
    first: Vec<String>,
}

/// Refuses if the store needs what `before` has and `after` has not; otherwise says in words what was looked at.
pub fn refuse(
    (name, before): (&str, Configuration),
    after: &Configuration,
    (source, etcd_prefix): (&SourceArgs, &[String]),
    include: &[Include],
    global: &GlobalArgs,
) -> Result<String, Failure> {
    let rules = |configuration: Configuration| {
        let servers = ApiServers::new(vec![(name.to_owned(), configuration)])?;
        Rules::new(servers).map_err(|error| Failure::input(error.to_string()))
    };
    let (before, after) = (rules(before)?, rules(after.clone())?);
    let (mut audit, facts) = judge_by(before, source, etcd_prefix, global, RowsWanted::Residue)?;
    let path = harmless(&facts.path).into_owned();
    let unreadable = |error: std::io::Error| Failure::input(format!("the sorted rows cannot be read again: {error}"));
    let rows = audit.rows.take();
    let mut losses = Losses::new(&audit.context.rules, &after, &audit.context.roots);
    let including =
        Including { history: include.contains(&Include::History), residue: include.contains(&Include::Residue) };
    let mut needed = Needed::default();
    if let Some(mut rows) = rows {
        while let Some(part) = rows.next_part().map_err(unreadable)? {
            for row in part.read().map_err(unreadable)?.iter(&audit.context) {
                if let Some(what) = losses.of(&row) {
                    needed.count(row.record, what, row.key, including);
                }
            }
        }
    }
    if !needed.by.is_empty() {
        return Err(needed.refusal(&path, name));
    }
    if let Some(why) = doubt(&audit) {
        let message = format!("{path}: {why}, so nothing can be said to be unneeded");
        return Err(Failure::gate(message)
            .hint("`atrest check` tells what is wrong with it; a new snapshot (etcdctl snapshot save) can be judged"));
    }
    Ok(needed.passed(&path, audit.revision, including))
}

impl Needed {
    fn count(&mut self, record: RecordKind, what: String, row: &[u8], including: Including) {
        match record {
            RecordKind::Entry => self.entries += 1,
            RecordKind::History => self.history += 1,
            RecordKind::Residue => self.residue += 1,
            RecordKind::Deleted => return,
        }
        if !including.counts(record) {
            return;
        }
        *self.by.entry(what).or_default() += 1;
        let name = key(row).into_owned();
        if self.first.len() < NAMED && !self.first.contains(&name) {
            self.first.push(name);
        }
    }

    fn refusal(&self, path: &str, config: &str) -> Failure {
        let by: Vec<_> =
            self.by.iter().map(|(what, count)| format!("{} ({} values)", harmless(what), grouped(*count))).collect();
        let mut message = format!("{path} still needs {}", by.join(", "));
        for straggler in &self.first {
            // Writing to a string cannot fail.
            let _ = write!(message, "\n  {straggler}");
        }
        let example = self.by.keys().next().map_or("NAME", |what| what.as_str());
        let hint = if example == "identity" {
            format!(
                "write these objects anew, then save another snapshot; `atrest audit {path} -c {config} -o csv` lists all"
            )
        } else {
            format!(
                "write these objects anew, then save another snapshot; \
                 `atrest keys {path} -c {config} --require-unused {example} -o csv` lists all"
            )
        };
        Failure::gate(message).hint(harmless(&hint).into_owned())
    }

    fn passed(&self, path: &str, revision: i64, including: Including) -> String {
        let mut text = format!("{path}: at revision {revision} no entry needs it");
        let mut rest = Vec::new();
        if !including.history && self.history > 0 {
            rest.push(format!("{} older revisions", grouped(self.history)));
        }
        if !including.residue && self.residue > 0 {
            rest.push(format!("{} revisions left in free pages", grouped(self.residue)));
        }
        if !rest.is_empty() {
            let _ = write!(text, "; {} do, and nobody will be able to read them", rest.join(" and "));
        }
        text
    }
}
