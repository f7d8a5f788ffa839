//! `atrest check`: is the file whole?

use clap::{ValueEnum, value_parser};

use crate::report;
use crate::source::check::{HashKvAt, check};
use crate::source::snapshot::PassOptions;

use super::Failure;
#[cfg(feature = "live")]
use super::args::Wanted;
use super::args::{GlobalArgs, SourceArgs, paint};
use super::exit::Exit;
use super::output::print;
use super::progress::Progress;
use super::source::open;

/// Is the file whole? Digest, pages, schema, and hashes as etcdutl prints them
///
/// Checks the appended digest, every page and pair, and that every record is one; and prints hash, revision, total keys,
/// total size and version exactly as `etcdutl snapshot status` (3.6 and later) does for the same file. With --endpoints the
/// members of a running cluster are set side by side: revision, hash, alarms, sizes, leader.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Also the key-value hash, as `etcdctl endpoint hashkv` prints it for a member with this data
    #[arg(long)]
    hashkv: bool,
    /// With --hashkv: at this revision
    #[arg(long, value_name = "REVISION", requires = "hashkv", value_parser = value_parser!(i64).range(1..))]
    revision: Option<i64>,
}

const HELP: &str = "\
Kinds of fault:
  meta           a meta page's header or record does not hold
  truncated      the file is shorter than its high-water mark says
  unreadable     the operating system did not give the bytes
  out-of-bounds  a page id, or the end of its overflow, lies outside the pages in use
  wrong-id       a page says that it is another page
  wrong-type     a page is not of the kind that its place demands
  reached-twice  a page belongs to two places, or a tree leads back into itself
  element        an element points outside its page
  key-order      keys are not strictly ascending, or lie outside their branch's bounds
  bucket         a bucket's header or its inline page does not hold
  depth          a tree or a nest of buckets is deeper than any real one
  freelist       the freelist page, where the file has one, does not hold
  revision-key   a key among the records is no revision
  record         a value among the records is no key-value record, or contradicts its key
  schema         a bucket that every etcd makes is missing, or a pair is a bucket where etcd has none

Examples:
  atrest check snapshot.db
  atrest check snapshot.db -o json --hashkv --revision 1234
  atrest check --endpoints https://127.0.0.1:2379 --cacert ca.crt --cert client.crt --key client.key";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a person
    Table,
    /// For a program
    Json,
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    #[cfg(feature = "live")]
    if let Wanted::Live(endpoints) = args.source.wanted()? {
        return run_live(args, &endpoints);
    }
    let mut opened = open(&args.source, global)?;
    let facts = opened.facts.clone();
    let snapshot = opened.file()?;
    let reads = if args.source.no_digest { 1 } else { 2 };
    let progress = Progress::bytes(global, "checking", reads * snapshot.pages().file_bytes());
    let options = PassOptions { digest: !args.source.no_digest, threads: 0, progress: &|bytes| progress.add(bytes) };
    let at = match (args.hashkv, args.revision) {
        (false, _) => HashKvAt::Not,
        (true, None) => HashKvAt::Current,
        (true, Some(revision)) => HashKvAt::Revision(revision),
    };
    let outcome = check(snapshot, options, at);
    let report = outcome.map_err(|error| Failure::from(error).about(&facts.path))?;
    drop(progress);
    let serious = report::check::findings(&report)
        .iter()
        .any(|finding| finding.severity() == crate::audit::finding::Severity::Error);
    let exit = if report.fault_count > 0 || serious { Exit::Findings } else { Exit::Done };
    print(exit, |out| match args.output {
        Output::Json => report::check::json(out, &report, &facts),
        Output::Table => report::check::text(out, &report, &facts, paint()),
    })
}

/// The members of a running cluster side by side.
#[cfg(feature = "live")]
fn run_live(args: &Args, endpoints: &[String]) -> Result<Exit, Failure> {
    if args.revision.is_some() {
        return Err(Failure::usage("--revision goes with a file; members are compared at their newest revision"));
    }
    let live = args.source.live.connect(endpoints)?;
    let report = crate::source::members::members(&live);
    let exit = if report.is_well() { Exit::Done } else { Exit::Findings };
    print(exit, |out| match args.output {
        Output::Json => report::members::json(out, &report),
        Output::Table => report::members::text(out, &report, paint()),
    })
}
