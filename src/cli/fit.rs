//! `atrest fit`: which of these configurations belongs to this backup?

use std::path::PathBuf;

use clap::ValueEnum;

use crate::audit::fit::{MAX_CONFIGURATIONS, fit};
use crate::audit::rules::Configuration;
use crate::kube::key::Roots;
use crate::report;
use crate::report::fit::Tried;
use crate::source::snapshot::PassOptions;

use super::Failure;
use super::args::{GlobalArgs, SourceArgs, paint};
use super::exit::Exit;
use super::output::print;
use super::progress::Progress;
use super::source::{OpenSource, about, open};

/// Which of these configurations belongs to this backup?
///
/// Tries each configuration by itself on every API object: how many it reads, which of its keys open nothing, which keys
/// are missing from all of them, and the smallest combination that reads the most.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The configurations to try
    #[arg(value_name = "CONFIG")]
    config: Vec<PathBuf>,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Where the API server keeps its objects, as in its own --etcd-prefix; found by itself where it is not given
    #[arg(long, value_name = "PREFIX")]
    etcd_prefix: Vec<String>,
}

impl Args {
    /// With endpoints the first word is no source.
    pub fn settle(&mut self) {
        let mut config: Vec<_> = Vec::new();
        if self.config.is_empty() || self.source.has_endpoints() {
            self.source.give_back(&mut config, true);
        }
        self.config.splice(0..0, config.into_iter().map(PathBuf::from));
    }
}

const EXAMPLES: &str = "\
Exit codes: 0 one configuration reads every object, 1 none does or there is no object, 3 the input cannot be read.

Example:
  atrest fit snapshot.db /backup/*/encryption-config.yaml";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a person
    Table,
    /// For a program
    Json,
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    if args.config.is_empty() {
        return Err(Failure::usage("no CONFIG is named")
            .hint("name some: `atrest fit snapshot.db /backup/*/encryption-config.yaml`"));
    }
    if args.config.len() > MAX_CONFIGURATIONS {
        let message = format!("{} configurations are more than can be compared at once", args.config.len());
        return Err(Failure::usage(message).hint(format!("give {MAX_CONFIGURATIONS} at most")));
    }
    let read = |path: &PathBuf| super::configs::files(std::slice::from_ref(path));
    let given: Vec<_> = args.config.iter().map(read).collect::<Result<_, _>>()?;
    let OpenSource { mut store, facts, .. } = open(&args.source, global)?;
    let rules = given.into_iter().map(|given| given.rules(&mut store, &facts.path, global));
    let rules: Vec<_> = rules.collect::<Result<_, _>>()?;
    let file = |(path, configuration): (&str, &Configuration)| {
        let (path, sha256) = (path.to_owned(), configuration.sha256);
        Tried { path, sha256 }
    };
    // Of what a tarball and the store say together, the tarball's own is named.
    let tried: Vec<_> = rules.iter().filter_map(|rules| rules.files().next()).map(file).collect();
    let progress = Progress::bytes(global, "trying", 2 * store.bytes());
    let pass = PassOptions { digest: false, threads: 0, progress: &|bytes| progress.add(bytes) };
    let roots = (!args.etcd_prefix.is_empty()).then(|| Roots::given(&args.etcd_prefix));
    let outcome = fit(&mut store, &rules, pass, roots);
    let fit = outcome.map_err(|error| about(Failure::from(error), &facts))?;
    drop(progress);
    let exit = if fit.one_reads_all() { Exit::Done } else { Exit::Findings };
    print(exit, |out| match args.output {
        Output::Json => report::fit::json(out, &fit, &tried, &facts),
        Output::Table => report::fit::text(out, &fit, &tried, &facts, paint()),
    })
}
