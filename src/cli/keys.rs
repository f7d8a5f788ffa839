//! `atrest keys`: for each key what is on it, and whether it can go.

use std::io;

use clap::ValueEnum;

use crate::audit::gate::{Including, Wanted, needs, passages, read_whole};
use crate::audit::merge::Merge;
use crate::audit::row::Row;
use crate::audit::run::{Audit, Context, RowsWanted};
use crate::report;
use crate::report::keys::{Gates, NAMED_STRAGGLERS, straggler};

use super::Failure;
use super::args::{GlobalArgs, paint};
use super::exit::Exit;
use super::judge::{JudgeArgs, Judged, judge};
use super::losses::Include;
use super::output::{print, tell};

/// For each key: entries, history, residue; can it go?
///
/// Lists every key that the data name or a configuration has. With --require-unused it is a gate for scripts: exit 0 only
/// if every record of the store was read and none needs the key.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    judge: JudgeArgs,
    /// Exit 1 if anything needs this key: a key's name, provider/name, or a KMS key id; may be repeated
    #[arg(long, value_name = "NAME")]
    require_unused: Vec<String>,
    /// With --require-unused: older revisions, or what is left of them in the file, need the key too
    #[arg(long, value_enum, value_delimiter = ',', requires = "require_unused")]
    including: Vec<Include>,
    /// With --require-unused: a name that neither the store nor a configuration knows is no mistake
    #[arg(long, requires = "require_unused")]
    allow_absent: bool,
    /// The form of the answer; csv lists every value that needs a key of --require-unused, as `audit -o csv` does
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

const EXAMPLES: &str = "\
Exit codes: 0 done, or every key of --require-unused is unused; 1 something needs one of them, or not every record could
be read; 2 a key that nobody knows; 3 the input cannot be read.

Examples:
  atrest keys snapshot.db -c encryption-config.yaml
  atrest keys snapshot.db -c encryption-config.yaml --require-unused key1
  atrest keys snapshot.db -c encryption-config.yaml --require-unused key1 --including history,residue -o csv";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a person
    Table,
    /// The values that need a key of --require-unused
    Csv,
    /// Keys and gate
    Json,
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    if args.output == Output::Csv && args.require_unused.is_empty() {
        return Err(
            Failure::usage("-o csv lists the values that need a key").hint("name the key with --require-unused")
        );
    }
    if !args.including.is_empty() {
        args.judge.source.refuse_live(
            "older revisions and nothing of what is left of them, so --including has nothing to look at",
        )?;
    }
    let judged = judge(&args.judge, global, "reading", |options| {
        options.rows = if args.require_unused.is_empty() { RowsWanted::None } else { RowsWanted::Residue };
    })?;
    let (mut audit, facts) = match judged {
        Judged::Audited(audit, facts) => (audit, facts),
        Judged::Plan(plan) => return print(Exit::Done, |out| out.write_all(plan.as_bytes())),
    };
    tell(&audit.notes);
    answer(args, &mut audit, &facts)
}

fn answer(args: &Args, audit: &mut Audit, facts: &report::json::SourceFacts) -> Result<Exit, Failure> {
    let wanted: Vec<_> = args.require_unused.iter().cloned().map(Wanted).collect();
    let including = Including {
        history: args.including.contains(&Include::History),
        residue: args.including.contains(&Include::Residue),
    };
    let passages = passages(audit, &wanted, including);
    if let Some(unknown) = passages.iter().find(|passage| !passage.known && !args.allow_absent) {
        let message = format!("neither the store nor a configuration knows a key {:?}", unknown.name);
        return Err(Failure::usage(message).hint("--allow-absent takes it for unused"));
    }
    let needed = passages.iter().any(|passage| passage.needed_by > 0);
    let gated = !wanted.is_empty() && (needed || !read_whole(audit));
    let exit = if gated { Exit::Findings } else { Exit::Done };
    let unreadable = |error: io::Error| Failure::input(format!("the sorted rows cannot be read again: {error}"));
    let mut rows = audit.rows.take();
    if let Some(rows) = rows.take_if(|_| args.output == Output::Csv) {
        let filter = |row: &Row<'_>| needs(row, &wanted, including);
        return print(exit, |out| report::csv::write(out, rows, &audit.context, &filter));
    }
    let named = match rows {
        Some(rows) if needed => stragglers(rows, &audit.context, &wanted, including).map_err(unreadable)?,
        _ => vec![Vec::new(); wanted.len()],
    };
    let gates: Gates = passages.into_iter().zip(named).collect();
    print(exit, |out| match args.output {
        Output::Json => report::keys::json(out, audit, facts, &gates),
        _ => report::keys::text(out, audit, facts, &gates, paint()),
    })
}

/// The first keys of the store that need each wanted key.
fn stragglers(
    mut rows: Merge,
    context: &Context,
    wanted: &[Wanted],
    including: Including,
) -> io::Result<Vec<Vec<String>>> {
    let mut named: Vec<Vec<String>> = vec![Vec::new(); wanted.len()];
    while let Some(part) = rows.next_part()? {
        for row in part.read()?.iter(context) {
            for (wanted, named) in wanted.iter().zip(&mut named) {
                if named.len() < NAMED_STRAGGLERS && needs(&row, std::slice::from_ref(wanted), including) {
                    named.push(straggler(row.key));
                }
            }
        }
        if named.iter().all(|named| named.len() == NAMED_STRAGGLERS) {
            break;
        }
    }
    named.iter_mut().for_each(Vec::dedup);
    Ok(named)
}
