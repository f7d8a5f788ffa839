//! `atrest salvage`: what is left of a broken file, as a new one that holds together.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::ValueEnum;

use crate::output::Output;
use crate::recover::salvage::settle::Include;
use crate::recover::salvage::{Out, Request, Salvage, SalvageError, salvage};
use crate::report;
use crate::report::json::SourceFacts;
use crate::source::Snapshot;
use crate::source::container::{self, Content, Input, Unpacked};
use crate::source::digest::Trailer;
use crate::source::snapshot::{Broken, PassOptions};

use super::Failure;
use super::args::{GlobalArgs, SourceArgs, paint};
use super::exit::Exit;
use super::output::print;
use super::progress::Progress;

/// How often the file's bytes go by: read twice, hashed, written and read back.
const PASSES: u64 = 5;

/// Save what is left of a broken snapshot or database, as a new snapshot that holds together
///
/// Every page is looked at on its own, and leaf pages are taken whatever leads to them: where meta pages are gone, branch
/// pages lost, pages cleared or exchanged, or the file was cut. Copies of one revision are settled; what was compacted away
/// or never committed stays out. The new file is read back before it takes its name. The source is only read.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// A broken etcd snapshot or database, plain or in gzip, zstd, zip or tar, told by content; `-` for standard input
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The new file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Also what was compacted away, or may have been, but is still in the file: deleted objects and old versions come back
    #[arg(long)]
    include_compacted: bool,
    /// Of that only what stands below a lost branch, as far as nothing proves that it was compacted away: nearly all of it is
    /// what the store held
    #[arg(long)]
    include_doubtful: bool,
    /// Also records in bytes that are no page any more, as far as they are whole and another record or nothing follows
    #[arg(long)]
    include_fragments: bool,
    /// Nothing that is doubtful, not even where no compaction is known behind which it would be
    #[arg(long, conflicts_with_all = ["include_compacted", "include_doubtful", "include_fragments"])]
    only_certain: bool,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// The form of the report
    #[arg(long, value_enum, default_value_t = Report::Table)]
    report: Report,
}

const HELP: &str = "\
Exit codes: 0 the source was whole, and all of it was taken; 1 written and proved, but something was lost or is doubtful: the
report says what; 2 wrong usage; 3 there is nothing to salvage, or it cannot be read; 4 refused, failed, or not proved: nothing
has the new name.

Examples:
  atrest salvage broken.db -o salvaged.db
  atrest salvage broken.db.gz -o salvaged.db --report json
  etcdutl snapshot restore salvaged.db --data-dir NEW --bump-revision 1000000000 --mark-compacted";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Report {
    /// For a person
    Table,
    /// The same as JSON
    Json,
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    let name = args.source.to_string_lossy();
    let is_stdin = args.source.as_os_str() == "-";
    let unpacked = unpack(args, is_stdin, global).map_err(|failure| failure.about(&name))?;
    let interrupted = super::rewrite::catch_signals()?;
    let path = args.output.to_string_lossy();
    let source = if is_stdin { Path::new("/dev/stdin") } else { &args.source };
    let output = Output::create(&args.output, args.force, &[source]);
    let output = output.map_err(|error| Failure::from(error).about(&path))?;
    let include = Include {
        compacted: args.include_compacted,
        fragments: args.include_fragments,
        doubtful: args.include_doubtful,
        only_certain: args.only_certain,
    };
    let reopen = || output.reopen().map_err(std::io::Error::other);
    let out = Out { file: output.file(), reopen: &reopen };
    let outcome = of(&unpacked.file, (include, true), &interrupted, &out, global);
    let salvage = outcome.map_err(|failure| failure.about(&name))?;
    output.commit()?;
    let facts = SourceFacts {
        path: name.into_owned(),
        kind: if Trailer::expected(unpacked.bytes) { "snapshot" } else { "database" },
        container: unpacked.container(),
        entry: unpacked.entry,
        bytes: unpacked.bytes,
        given_sha256: unpacked.given_sha256,
        log_bytes: None,
    };
    let exit = if salvage.is_whole() { Exit::Done } else { Exit::Findings };
    print(exit, |out| match args.report {
        Report::Table => report::salvage::text(out, &salvage, &facts, &path, paint()),
        Report::Json => report::salvage::json(out, &salvage, &facts, &path),
    })
}

fn unpack(args: &Args, is_stdin: bool, global: &GlobalArgs) -> Result<Unpacked, Failure> {
    let input = if is_stdin { Input::Stdin } else { Input::Path(&args.source) };
    let progress = Progress::bytes(global, "unpacking", 0);
    let options = container::Options { progress: &|bytes| progress.add(bytes), ..container::Options::default() };
    let unpacked = container::open(input, &options).map_err(Failure::from)?;
    match unpacked.content {
        Content::Sqlite => Err(Failure::input("is an SQLite database; only bbolt's files are salvaged")
            .hint("SQLite has a way of its own: sqlite3 state.db .recover")),
        _ => Ok(unpacked),
    }
}

/// What is left of a broken file, in a file without a name, to be read in its place.
pub fn view(file: &std::fs::File, args: &SourceArgs, global: &GlobalArgs) -> Result<Snapshot, Failure> {
    let bytes = file.metadata().map_err(|error| Failure::from(SalvageError::from(error)))?.len();
    let room =
        tempfile::tempfile().map_err(|error| Failure::input(format!("no room for what is salvaged: {error}")))?;
    let include = Include { compacted: args.include_compacted, doubtful: args.include_doubtful, ..Include::default() };
    let reopen = || room.try_clone();
    let out = Out { file: &room, reopen: &reopen };
    let salvage = of(file, (include, !args.no_digest), &AtomicBool::new(false), &out, global)?;
    let broken = Broken { faults: salvage.faults, digests: salvage.digests, bytes };
    let snapshot = room.try_clone().map_err(SalvageError::from)?;
    Snapshot::open_salvaged(snapshot, broken).map_err(|error| Failure::input(error.to_string()))
}

fn of(
    file: &std::fs::File,
    (include, digest): (Include, bool),
    interrupted: &AtomicBool,
    out: &Out<'_>,
    global: &GlobalArgs,
) -> Result<Salvage, Failure> {
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let progress = Progress::bytes(global, "salvaging", PASSES * bytes);
    let pass = PassOptions { digest, threads: 0, progress: &|bytes| progress.add(bytes) };
    Ok(salvage(file, &Request { include, pass, interrupted }, out)?)
}

impl From<SalvageError> for Failure {
    fn from(error: SalvageError) -> Self {
        let message = error.to_string();
        match error {
            SalvageError::Sheet(_) | SalvageError::NoRecords => {
                Self::input(message).hint("is it an etcd snapshot, or a member's database (member/snap/db)?")
            }
            SalvageError::Write(_) | SalvageError::Interrupted => {
                Self::refused(message).hint("nothing has the new name; the source is as it was")
            }
            SalvageError::Unproved(_) => Self::refused(message)
                .hint("nothing has the new name; try again, and if it happens twice, the disk or memory is at fault, or we are"),
            SalvageError::Workers(_) | SalvageError::Randomness(_) | SalvageError::Io(_) | SalvageError::Changing => {
                Self::input(message)
            }
        }
    }
}
