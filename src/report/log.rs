//! What is known of the log beside a database, as `audit` and `check` give it.

use serde::Serialize;

use crate::source::datadir::LogFacts;

use super::text::{grouped, harmless};

/// The log's wire form.
#[derive(Serialize)]
pub struct Log {
    segments: usize,
    bytes: u64,
    first_index: Option<u64>,
    last_index: Option<u64>,
    consistent_index: u64,
    applied: Option<Entries>,
    writes: u64,
    records: u64,
    keys: u64,
    refused: u64,
    revision_in_database: i64,
    revision: i64,
    voters: Option<usize>,
    maybe_committed: Option<Entries>,
    torn: Option<String>,
    auth: bool,
    running: bool,
    leftovers: Vec<String>,
}

#[derive(Serialize)]
struct Entries {
    first: u64,
    last: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<u64>,
}

impl Log {
    /// The wire form; none where there is no log.
    pub fn of(facts: &LogFacts) -> Option<Self> {
        facts.found.then(|| Self {
            segments: facts.segments,
            bytes: facts.bytes,
            first_index: facts.entries.map(|(first, _)| first),
            last_index: facts.entries.map(|(_, last)| last),
            consistent_index: facts.consistent_index,
            applied: facts.applied.map(|(first, last)| Entries { first, last, changes: None }),
            writes: facts.writes,
            records: facts.records,
            keys: facts.keys,
            refused: facts.refused,
            revision_in_database: facts.revision_in_database,
            revision: facts.revision,
            voters: facts.voters,
            maybe_committed: facts.maybe_committed.map(|(first, last, changes)| Entries {
                first,
                last,
                changes: Some(changes),
            }),
            torn: facts.torn.as_deref().map(|torn| harmless(torn).into_owned()),
            auth: facts.auth,
            running: facts.running,
            leftovers: facts.leftovers.iter().map(|name| harmless(name).into_owned()).collect(),
        })
    }
}

/// The log in words.
pub fn words(facts: &LogFacts) -> String {
    let mut words = match facts.entries {
        _ if !facts.found => return "none beside the database".to_owned(),
        None => format!("{} segments without entries", facts.segments),
        Some((first, last)) => format!("{} segments, entries {first} to {last}", facts.segments),
    };
    match facts.writes {
        0 => words.push_str(", nothing that the database lacks"),
        1 => words.push_str("; 1 write is only in it"),
        writes => words.push_str(&format!("; {} writes are only in it", grouped(writes))),
    }
    if let Some(torn) = &facts.torn {
        words.push_str(&format!("; {}", harmless(torn)));
    }
    if !facts.leftovers.is_empty() {
        let names: Vec<_> = facts.leftovers.iter().take(NAMED).map(|name| harmless(name)).collect();
        let more = facts.leftovers.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        words.push_str(&format!("; not needed: {}{more}", names.join(", ")));
    }
    words
}

/// Names of so many files that are not needed are listed.
const NAMED: usize = 3;
