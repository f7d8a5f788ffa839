//! `atrest snapshot`: a snapshot of a running etcd.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::live::Trouble;
use crate::output::Output;
use crate::report;
use crate::report::text::harmless;
use crate::source::save::{SaveError, Saved, save};

use super::Failure;
use super::args::{GlobalArgs, paint};
use super::exit::Exit;
use super::live::LiveArgs;
use super::output::print;
use super::progress::Progress;

/// A snapshot of a running etcd
#[derive(Debug, Subcommand)]
pub enum Command {
    Save(Box<SaveArgs>),
}

/// Save a snapshot, and prove it
///
/// Streams a member's database with its digest into a file that has its name only when the digest fits, every page holds
/// together, and every record is one. Only the owner can read it.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct SaveArgs {
    /// The new file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// The form of the report
    #[arg(long, value_enum, default_value_t = Report::Table)]
    report: Report,
    #[command(flatten)]
    live: LiveArgs,
}

const HELP: &str = "\
Exit codes: 0 saved and proved, 3 no server sent one, 4 what arrived does not hold, or the file could not be written.

Example:
  atrest snapshot save -o snapshot.db --endpoints https://127.0.0.1:2379 --cacert ca.crt --cert client.crt --key client.key";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Report {
    /// For a person
    Table,
    /// For a program
    Json,
}

/// Runs the command.
pub fn run(command: &Command, global: &GlobalArgs) -> Result<Exit, Failure> {
    match command {
        Command::Save(args) => run_save(args, global),
    }
}

fn run_save(args: &SaveArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let endpoints = args.live.or_from_environment();
    if endpoints.is_empty() {
        return Err(Failure::usage("there is no server").hint("name it with --endpoints; `--help` shows how"));
    }
    let name = args.output.to_string_lossy();
    // A name that cannot be had is told before the work.
    let output = Output::create(&args.output, args.force, &[]).map_err(|error| Failure::from(error).about(&name))?;
    let live = args.live.connect(&endpoints)?;
    let saved = save_to(&live, &output, global).map_err(|error| failure(error, &name))?;
    output.commit().map_err(|error| Failure::from(error).about(&name))?;
    print(Exit::Done, |out| write(out, args.report, &saved, &name))
}

/// Saves a snapshot into a file that has no name yet, and proves it.
pub fn save_to(live: &crate::live::Live, output: &Output, global: &GlobalArgs) -> Result<Saved, SaveError> {
    let bytes = u64::try_from(live.greeting().status.db_size()).unwrap_or(0);
    let progress = Progress::bytes(global, "saving", bytes);
    let told = std::sync::atomic::AtomicU64::new(0);
    let tell = |have: u64, _: u64| {
        let before = told.swap(have, std::sync::atomic::Ordering::Relaxed);
        progress.add(have.saturating_sub(before));
    };
    save(live, output.file(), || output.reopen().map_err(io::Error::other), &tell)
}

/// What to say of a snapshot that does not hold; `name` is the file's.
pub fn failure(error: SaveError, name: &str) -> Failure {
    match error {
        SaveError::Unanswered(error) => {
            let kine = error.errors.iter().any(|error| matches!(error.trouble, Trouble::Unsupported(_)));
            let failure = Failure::from(error);
            match kine {
                true => failure
                    .hint("kine has no snapshots: copy its SQL database (K3s keeps SQLite in server/db/state.db)"),
                false => failure,
            }
        }
        SaveError::Write(_) => Failure::refused(error.to_string()).about(name),
        SaveError::Short { .. } | SaveError::Altered { .. } => Failure::refused(harmless(&error.to_string()))
            .hint("nothing was kept; try again, from another member or without a proxy between"),
        SaveError::Damaged { .. } | SaveError::Read { .. } => Failure::refused(harmless(&error.to_string()))
            .hint("nothing was kept; take it from another member, and replace this one"),
    }
}

fn write(out: &mut dyn Write, form: Report, saved: &Saved, name: &str) -> io::Result<()> {
    match form {
        Report::Json => report::saved::json(out, saved, name),
        Report::Table => report::saved::text(out, saved, name, paint()),
    }
}
