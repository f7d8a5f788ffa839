//! From arguments to an audited store: what every command does that opens values.

use clap::Args;

use crate::audit::deks::Deks;
use crate::audit::rules::Rules;
use crate::audit::run::{Audit, Options, RowsWanted, audit};
use crate::kube::key::Roots;
use crate::report::json::SourceFacts;
use crate::source::Store;
use crate::source::snapshot::PassOptions;

use super::Failure;
use super::args::{ConfigArgs, GlobalArgs, SourceArgs};
use super::configs::{self, TokenArgs};
use super::progress::Progress;
use super::source::{OpenSource, about, open};

/// A store, and what it is judged by.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub token: TokenArgs,
    #[cfg(feature = "kms")]
    #[command(flatten)]
    pub kms: super::kms::KmsArgs,
    /// Where the API server keeps its objects, as in its own --etcd-prefix; found by itself where it is not given
    #[arg(long, value_name = "PREFIX")]
    pub etcd_prefix: Vec<String>,
}

/// What came of it.
pub enum Judged {
    /// The audit, and what reports say of the file.
    Audited(Box<Audit>, SourceFacts),
    /// Only the plan of asking KMS plugins was wanted; this is it.
    Plan(String),
}

/// What came of asking the KMS plugins of the configurations.
pub enum Prepared {
    /// The data keys to judge by; none where nobody was asked.
    Deks(Deks),
    /// Only the plan was wanted; this is it.
    #[cfg_attr(not(feature = "kms"), expect(dead_code, reason = "nothing is planned without plugins to ask"))]
    Plan(String),
}

impl JudgeArgs {
    /// Does what the arguments say about KMS plugins, before the store's values are judged.
    pub fn deks(
        &self,
        rules: &Rules,
        store: &mut Store,
        roots: Option<Roots>,
        global: &GlobalArgs,
    ) -> Result<Prepared, Failure> {
        #[cfg(feature = "kms")]
        return super::kms::prepare(&self.kms, (rules, &[]), store, roots, global);
        #[cfg(not(feature = "kms"))]
        {
            let _ = (rules, store, roots, global);
            Ok(Prepared::Deks(Deks::default()))
        }
    }
}

/// Opens the store and audits it. `shape` says what of it is wanted.
pub fn judge(
    args: &JudgeArgs,
    global: &GlobalArgs,
    message: &'static str,
    shape: impl FnOnce(&mut Options<'_>),
) -> Result<Judged, Failure> {
    let given = configs::given(&args.config.config, &args.token)?;
    let OpenSource { mut store, facts, log_beside } = open(&args.source, global)?;
    let rules = given.rules(&mut store, &facts.path, global)?;
    let roots = (!args.etcd_prefix.is_empty()).then(|| Roots::given(&args.etcd_prefix));
    let mut options = Options { roots: roots.clone(), log_beside, ..Options::default() };
    shape(&mut options);
    store.look_at(options.revision);
    match args.deks(&rules, &mut store, roots, global)? {
        Prepared::Plan(plan) => return Ok(Judged::Plan(plan)),
        Prepared::Deks(deks) => options.deks = deks,
    }
    let digest = !args.source.no_digest;
    let audit = pass(&mut store, &facts, rules, options, (digest, global, message))?;
    Ok(Judged::Audited(Box::new(audit), facts))
}

/// Audits a store by rules that were made already, and asks no plugin.
pub fn judge_by(
    rules: Rules,
    source: &SourceArgs,
    etcd_prefix: &[String],
    global: &GlobalArgs,
    rows: RowsWanted,
) -> Result<(Audit, SourceFacts), Failure> {
    let OpenSource { mut store, facts, log_beside } = open(source, global)?;
    let roots = (!etcd_prefix.is_empty()).then(|| Roots::given(etcd_prefix));
    let options = Options { roots, log_beside, rows, ..Options::default() };
    let audit = pass(&mut store, &facts, rules, options, (!source.no_digest, global, "reading"))?;
    Ok((audit, facts))
}

fn pass(
    store: &mut Store,
    facts: &SourceFacts,
    rules: Rules,
    options: Options<'_>,
    (digest, global, message): (bool, &GlobalArgs, &'static str),
) -> Result<Audit, Failure> {
    let reads = if digest { 2 } else { 1 };
    let progress = Progress::bytes(global, message, reads * store.bytes());
    let pass = PassOptions { digest, threads: 0, progress: &|bytes| progress.add(bytes) };
    let outcome = audit(store, rules, &Options { pass, ..options });
    outcome.map_err(|error| about(Failure::from(error), facts))
}

/// Loads configurations and prepares their chains, where there is no store to ask.
pub fn rules(args: &ConfigArgs) -> Result<Rules, Failure> {
    configs::files(&args.config)?.alone()
}
