//! `atrest diff`: what changed between two stores, by what they hold.

use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::audit::deks::Deks;
use crate::audit::rules::Rules;
use crate::kube::key::Roots;
use crate::kube::labels::{Fields, Labels};
use crate::kube::select::Selection;
use crate::recover::diff::{Comparison, Counts, Difference, Outcome};
use crate::recover::get::{Found, Order, Wanted, Which, find};
use crate::report::diff::{Json, Table, Values, summary, unified};
use crate::report::text::harmless;
use crate::source::snapshot::PassOptions;
use crate::source::trace::TraceKey;

use super::Failure;
use super::args::{ConfigArgs, GlobalArgs, SourceArgs, selection};
use super::configs;
use super::exit::Exit;
use super::output::print;
use super::progress::Progress;
#[cfg(feature = "live")]
use super::source::open_live;
use super::source::{OpenSource, about, open};

/// What changed between two stores, by what they hold
///
/// Objects that were added, removed or changed, compared as they are decrypted: a rotation shows as the same content under
/// another key. `managedFields` and resource versions do not count. Values of Secrets are shown by a digest unless
/// --show-secrets. What stays closed on a side is listed, and never called equal. Both stores are only read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The store as it was: a snapshot or database, plain or packed, told by content
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// The store as it is; with --endpoints it is the running etcd
    #[arg(value_name = "AFTER")]
    after: Option<PathBuf>,
    /// Only these: RESOURCE[,RESOURCE] [NAME...] or RESOURCE/NAME..., named as for kubectl
    #[arg(value_name = "RESOURCE")]
    selection: Vec<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// The configuration of BEFORE, instead of -c; may be repeated
    #[arg(long, value_name = "CONFIG")]
    config_before: Vec<PathBuf>,
    /// The configuration of AFTER, instead of -c; may be repeated
    #[arg(long, value_name = "CONFIG")]
    config_after: Vec<PathBuf>,
    #[cfg(feature = "kms")]
    #[command(flatten)]
    kms: super::kms::KmsArgs,
    /// Only this namespace; may be repeated
    #[arg(long, short)]
    namespace: Vec<String>,
    /// Only contents count: another key or encryption is no difference
    #[arg(long)]
    content_only: bool,
    /// Show the values of Secrets
    #[arg(long)]
    show_secrets: bool,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Do not hash the files: faster, but nothing tells whether their bytes are those that were saved
    #[arg(long)]
    no_digest: bool,
    /// Where the API server keeps its objects, as in its own --etcd-prefix; found by itself where it is not given
    #[arg(long, value_name = "PREFIX")]
    etcd_prefix: Vec<String>,
    #[cfg(feature = "live")]
    #[command(flatten)]
    live: super::live::LiveArgs,
}

impl Args {
    /// With endpoints the second word is no store.
    pub fn settle(&mut self) {
        #[cfg(feature = "live")]
        if self.live.is_given()
            && let Some(second) = self.after.take()
        {
            self.selection.insert(0, second.to_string_lossy().into_owned());
        }
    }
}

const EXAMPLES: &str = "\
Exit codes: 0 no difference; 1 a difference, or something stays closed or may be missing, so that nobody can say; 2 wrong usage;
3 an input cannot be read.

Examples:
  atrest diff monday.db friday.db -c encryption-config.yaml
  atrest diff before.db after.db --config-before old.yaml --config-after new.yaml
  atrest diff before.db after.db -c encryption-config.yaml --content-only
  atrest diff monday.db friday.db -c encryption-config.yaml deploy,cm -n prod -o unified
  atrest diff snapshot.db --endpoints https://127.0.0.1:2379 -c encryption-config.yaml secrets";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line for each object
    Table,
    /// For a program
    Json,
    /// Unified differences of the YAML
    Unified,
}

/// A store, opened, with what it takes to read it.
struct Opened {
    source: OpenSource,
    rules: Rules,
    deks: Deks,
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    let selection = selection(&args.selection)?;
    if args.before.as_os_str() == "-" && args.after.as_deref().is_some_and(|after| after.as_os_str() == "-") {
        return Err(Failure::usage("only one of the two can come from standard input"));
    }
    let mut source_before = source(args, &args.before, global)?;
    let mut source_after = match &args.after {
        Some(path) => source(args, path, global)?,
        None => running(args)?,
    };
    let rules_before = rules_of(args, &args.config_before, &mut source_before, global)?;
    let rules_after = rules_of(args, &args.config_after, &mut source_after, global)?;
    let mut plans = String::new();
    let mut before = opened(args, source_before, (rules_before, &rules_after), &mut plans, global)?;
    let mut after = opened(args, source_after, (rules_after, &before.rules), &mut plans, global)?;
    if !plans.is_empty() {
        return print(Exit::Done, |out| out.write_all(plans.as_bytes()));
    }
    let key = TraceKey::random().map_err(|error| Failure::input(format!("the system gives no randomness: {error}")))?;
    let reads = if args.no_digest { 1 } else { 2 };
    let bytes = before.source.store.bytes() + after.source.store.bytes();
    let progress = Progress::bytes(global, "reading", reads * bytes);
    let advance = |bytes| progress.add(bytes);
    let pass = PassOptions { digest: !args.no_digest, threads: 0, progress: &advance };
    let wanted_before = wanted(args, &selection, pass, key, std::mem::take(&mut before.deks));
    let wanted_after = wanted(args, &selection, pass, key, std::mem::take(&mut after.deks));
    let names = [&before, &after].map(|opened| opened.source.facts.path.clone());
    let mut found_before = found(&mut before, &wanted_before)?;
    let mut found_after = found(&mut after, &wanted_after)?;
    let doubts = doubts(&names, [&found_before, &found_after]);
    let values = if args.show_secrets { Values::Shown } else { Values::Masked(key) };
    let comparison = Comparison::begin(&mut found_before, &mut found_after).map_err(|error| broken(&error))?;
    let counts = show(args, &names, comparison, values)?;
    let differ = counts.differ(args.content_only);
    if counts.closed > 0 && wanted_nothing(args) {
        eprintln!("hint: -c opens what is encrypted; --config-before and --config-after where the two differ");
    }
    Ok(if differ || counts.closed > 0 || doubts { Exit::Findings } else { Exit::Done })
}

fn wanted_nothing(args: &Args) -> bool {
    args.config.config.is_empty() && args.config_before.is_empty() && args.config_after.is_empty()
}

fn source(args: &Args, path: &Path, global: &GlobalArgs) -> Result<OpenSource, Failure> {
    open(&SourceArgs { no_digest: args.no_digest, ..SourceArgs::file(path.to_owned()) }, global)
}

/// The store as it is, where no file says it.
#[cfg(feature = "live")]
fn running(args: &Args) -> Result<OpenSource, Failure> {
    let endpoints = args.live.or_from_environment();
    if endpoints.is_empty() {
        return Err(Failure::usage("there is no AFTER")
            .hint("give a second file, or a running etcd with --endpoints; `--help` shows how"));
    }
    open_live(args.live.connect(&endpoints)?, &endpoints)
}

#[cfg(not(feature = "live"))]
fn running(_: &Args) -> Result<OpenSource, Failure> {
    Err(Failure::usage("there is no AFTER").hint("give a second file; `--help` shows how"))
}

/// What one of the stores is opened with; the store is asked where that is a backup's tarball.
fn rules_of(args: &Args, own: &[PathBuf], source: &mut OpenSource, global: &GlobalArgs) -> Result<Rules, Failure> {
    let config = if own.is_empty() { args.config.config.as_slice() } else { own };
    configs::files(config)?.rules(&mut source.store, &source.facts.path, global)
}

fn roots(args: &Args) -> Option<Roots> {
    (!args.etcd_prefix.is_empty()).then(|| Roots::given(&args.etcd_prefix))
}

/// Asks the plugins of one of the stores. A plan that was only to be shown goes to `plans`.
#[cfg_attr(not(feature = "kms"), allow(unused_variables, reason = "nothing is planned without plugins to ask"))]
fn opened(
    args: &Args,
    source: OpenSource,
    (rules, others): (Rules, &Rules),
    plans: &mut String,
    global: &GlobalArgs,
) -> Result<Opened, Failure> {
    #[cfg(feature = "kms")]
    {
        let mut source = source;
        let deks = match super::kms::prepare(&args.kms, (&rules, &[others]), &mut source.store, roots(args), global)? {
            super::judge::Prepared::Plan(plan) => {
                plans.push_str(&plan);
                Deks::default()
            }
            super::judge::Prepared::Deks(deks) => deks,
        };
        Ok(Opened { source, rules, deks })
    }
    #[cfg(not(feature = "kms"))]
    Ok(Opened { source, rules, deks: Deks::default() })
}

fn wanted<'w>(args: &Args, selection: &Selection, pass: PassOptions<'w>, key: TraceKey, deks: Deks) -> Wanted<'w> {
    Wanted {
        pass,
        roots: roots(args),
        selection: selection.clone(),
        namespaces: args.namespace.clone(),
        fields: Fields::default(),
        labels: Labels::default(),
        which: Which::Current,
        revision: None,
        managed_fields: false,
        order: Order::Object,
        payloads: false,
        digests: Some(key),
        deks,
    }
}

fn found<'f>(opened: &'f mut Opened, wanted: &'f Wanted<'f>) -> Result<Found<'f>, Failure> {
    let Opened { source, rules, .. } = opened;
    find(&mut source.store, rules, wanted).map_err(|error| about(Failure::from(error), &source.facts))
}

fn broken(error: &io::Error) -> Failure {
    Failure::input(format!("the sorted notes of what was found cannot be read again: {error}"))
}

/// Says what of the two may be missing; whether there is anything.
fn doubts(names: &[String; 2], found: [&Found<'_>; 2]) -> bool {
    let mut any = false;
    for (name, found) in names.iter().zip(found) {
        let name = harmless(name);
        if found.damaged {
            eprintln!("atrest: {name} is damaged, so something may be missing; `atrest check` says what");
        }
        if found.altered {
            eprintln!("atrest: {name}: its digest is not that of its bytes: it was changed since it was saved");
        }
        any |= found.damaged || found.altered;
    }
    any
}

/// Prints the differences as they are found.
fn show(
    args: &Args,
    [before, after]: &[String; 2],
    mut comparison: Comparison<'_, '_>,
    values: Values,
) -> Result<Counts, Failure> {
    let mut broke = None;
    print(Exit::Done, |out| {
        let mut each = |read_all: bool, write: &mut dyn FnMut(&[Difference]) -> io::Result<()>| loop {
            match comparison.next_batch(read_all) {
                Ok(Some(mut differences)) => {
                    differences.retain(|difference| !args.content_only || difference.content != Outcome::Same);
                    write(&differences)?;
                }
                Ok(None) => return Ok::<_, io::Error>(comparison.counts),
                Err(error) => {
                    broke = Some(error);
                    return Ok(comparison.counts);
                }
            }
        };
        match args.output {
            Output::Table => {
                let mut table = Table::new(out);
                let counts = each(false, &mut |differences| table.write(differences))?;
                table.finish(&counts)
            }
            Output::Json => {
                let mut json = Json::begin(out, before, after)?;
                let counts = each(false, &mut |differences| json.write(differences))?;
                json.finish(&counts)
            }
            Output::Unified => {
                let counts = each(true, &mut |differences| unified(out, differences, values))?;
                eprintln!("{}", summary(&counts));
                Ok(())
            }
        }
    })?;
    match broke {
        Some(error) => Err(broken(&error)),
        None => Ok(comparison.counts),
    }
}
