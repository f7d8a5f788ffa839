//! `atrest audit`: every value of a store against the configurations that should open it.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{ValueEnum, value_parser};

use crate::audit::classify::{State, Told};
use crate::audit::row::{RecordKind, Row};
use crate::audit::run::{Audit, RowsWanted};
use crate::audit::summary::Answer;
use crate::output::{Output, OutputError};
use crate::report;
use crate::report::table::Width;

use super::Failure;
use super::args::{FailOn, GlobalArgs, paint, selection};
use super::exit::Exit;
use super::judge::{JudgeArgs, Judged, judge};
use super::output::{print, tell};

/// Classify and verify every value: findings, coverage, verdict
///
/// Tells for every value whether and with which key it is encrypted and, with a configuration, opens each one exactly as
/// kube-apiserver would and proves that the object inside is the one its key names. The file is only read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    judge: JudgeArgs,
    /// Only these: RESOURCE[,RESOURCE] [NAME...] or RESOURCE/NAME..., named as for kubectl
    #[arg(value_name = "RESOURCE")]
    selection: Vec<String>,
    /// Only this namespace; may be repeated
    #[arg(long, short)]
    namespace: Vec<String>,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    output: Form,
    /// With csv and jsonl: older revisions and deletions too
    #[arg(long)]
    history: bool,
    /// With csv and jsonl: also revisions that are gone from the tree but still in the file
    #[arg(long)]
    residue: bool,
    /// With csv and jsonl: only rows of this kind; totals, verdict and exit code stay those of everything
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// From which severity on the exit code is 1
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
    /// Also write what to do about every finding into this file: a script for bash in which every command is a comment
    #[arg(long, value_name = "FILE")]
    remedy: Option<PathBuf>,
    /// With --remedy: replace a file that is there
    #[arg(long, requires = "remedy")]
    force: bool,
    /// Look at the store as it was at this revision
    #[arg(long, value_name = "REVISION", value_parser = value_parser!(i64).range(1..))]
    revision: Option<i64>,
}

impl Args {
    /// With endpoints the first word is no source.
    pub fn settle(&mut self) {
        self.judge.source.give_back(&mut self.selection, false);
    }
}

const EXAMPLES: &str = "\
Examples:
  atrest audit snapshot.db -c encryption-config.yaml
  age -d backup.age | atrest audit - -c encryption-config.yaml
  atrest audit snapshot.db -c config.yaml secrets,configmaps -n prod
  atrest audit snapshot.db -c config.yaml -o csv --only unreadable > unreadable.csv
  atrest audit snapshot.db -c config.yaml --remedy remedy.sh
  atrest audit snapshot.db -c kube.yaml -c openshift.yaml -c oauth.yaml

Without -c it says what is stored, and judges nothing.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For a person, at most a screen
    Table,
    /// For a person, everything: by namespace, keys, all findings
    Wide,
    /// One row for each entry
    Csv,
    /// The same as JSON Lines
    Jsonl,
    /// The whole summary
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    Encrypted,
    Plaintext,
    Unrecognised,
    Empty,
    Readable,
    Unreadable,
    /// Of which nobody can say whether it opens
    Unknown,
    Stale,
    /// With any finding
    Findings,
}

impl Only {
    fn wants(self, row: &Row<'_>) -> bool {
        let Some(verdict) = &row.verdict else { return false };
        match self {
            Self::Encrypted => row.state == State::Encrypted,
            Self::Plaintext => row.state == State::Plaintext,
            Self::Unrecognised => row.state == State::Unrecognised,
            Self::Empty => row.state == State::Empty,
            Self::Readable => verdict.readable == Told::Yes,
            Self::Unreadable => verdict.readable == Told::No,
            Self::Unknown => verdict.readable == Told::Unknown,
            Self::Stale => verdict.stale == Told::Yes,
            Self::Findings => !verdict.findings.is_empty(),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    let rows = matches!(args.output, Form::Csv | Form::Jsonl);
    if !rows && (args.only.is_some() || args.history || args.residue) {
        return Err(Failure::usage("--only, --history and --residue are about rows").hint("add -o csv or -o jsonl"));
    }
    if args.history || args.residue {
        args.judge.source.refuse_live("older revisions and nothing of what is left of them")?;
    }
    let script = args.remedy.as_deref().map(|path| begin(args, path)).transpose()?;
    let selection = selection(&args.selection)?;
    let judged = judge(&args.judge, global, "auditing", |options| {
        options.revision = args.revision;
        options.namespaces = args.namespace.clone();
        options.selection = selection;
        options.rows = match rows {
            _ if args.residue || args.remedy.is_some() => RowsWanted::Residue,
            true => RowsWanted::Tree,
            false => RowsWanted::None,
        };
    })?;
    let (mut audit, facts) = match judged {
        Judged::Audited(audit, facts) => (audit, facts),
        Judged::Plan(plan) => return print(Exit::Done, |out| out.write_all(plan.as_bytes())),
    };
    let exit = exit(&audit, args.fail_on);
    let scope = scope(args);
    let scope = scope.as_deref();
    let all = audit.rows.take();
    if let (Some(script), Some(all)) = (script, &all) {
        finish(script, |out| report::remedy::write(out, &audit, &facts, scope, &mut || all.again()))?;
    }
    let rows = all.filter(|_| rows);
    if rows.is_some() {
        tell(&audit.notes);
    }
    print(exit, |out| match (args.output, rows) {
        (Form::Csv, Some(rows)) => report::csv::write(out, rows, &audit.context, &|row| wanted(args, row)),
        (Form::Jsonl, Some(rows)) => report::jsonl::write(out, rows, &audit.context, &|row| wanted(args, row)),
        (Form::Json, _) => report::json::write(out, &audit, &facts, scope),
        (Form::Wide, _) => report::table::write(out, &audit, &facts, scope, paint(), Width::Wide),
        _ => report::table::write(out, &audit, &facts, scope, paint(), Width::Short),
    })
}

/// Begins the script of remedies, so that a name that cannot be had is told before the work.
fn begin(args: &Args, path: &Path) -> Result<Output, Failure> {
    let source = args.judge.source.source.as_deref();
    let source = source.map(|source| if source == Path::new("-") { Path::new("/dev/stdin") } else { source });
    let inputs = args.judge.config.config.iter().map(PathBuf::as_path).chain(source);
    let output = Output::create(path, args.force, &inputs.collect::<Vec<_>>());
    output.map_err(|error| Failure::from(error).about(&path.to_string_lossy()))
}

/// Writes the script and gives it its name.
fn finish(script: Output, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = BufWriter::new(script.file());
    let written = write(&mut out).and_then(|()| out.flush());
    drop(out);
    written.map_err(OutputError::Write).and_then(|()| script.commit()).map_err(Failure::from)
}

fn wanted(args: &Args, row: &Row<'_>) -> bool {
    let recorded = match row.record {
        RecordKind::Entry => true,
        RecordKind::History | RecordKind::Deleted => args.history,
        RecordKind::Residue => args.residue,
    };
    recorded && args.only.is_none_or(|only| only.wants(row))
}

fn exit(audit: &Audit, fail_on: FailOn) -> Exit {
    let incomplete = audit.summary.answer == Answer::Incomplete;
    if incomplete || fail_on.fails(audit.summary.worst()) { Exit::Findings } else { Exit::Done }
}

/// What was selected, in words; none for everything.
fn scope(args: &Args) -> Option<String> {
    let mut parts = Vec::new();
    if !args.selection.is_empty() {
        parts.push(args.selection.join(" "));
    }
    if !args.namespace.is_empty() {
        parts.push(format!("namespace {}", args.namespace.join(", ")));
    }
    (!parts.is_empty()).then(|| parts.join(" in "))
}
