//! `atrest rewrite`: the same store with its values in another form, as a new file that is proved.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::ValueEnum;

use crate::audit::deks::Deks;
use crate::audit::rules::Rules;
use crate::distro::Distro;
use crate::distro::reseal::Replacements;
use crate::kube::key::Roots;
use crate::kube::select::Selection;
use crate::output::Output;
use crate::report::{self, text::harmless};
use crate::rewrite::buckets::Release;
use crate::rewrite::run::{self, End, Form, Out, Outcome, Request, RunError};
use crate::rewrite::target::Target;
use crate::rewrite::write::RewriteError;
use crate::source::Store;
use crate::source::snapshot::PassOptions;

use super::Failure;
use super::args::{ConfigArgs, GlobalArgs, SourceArgs, paint, selection};
use super::exit::Exit;
use super::judge::rules;
use super::output::print;
use super::progress::Progress;
use super::source::{OpenSource, open};

/// Rewrite a snapshot as a new file, or a running etcd in place: rotate, encrypt or decrypt, and prove it
///
/// Every value that the target configuration would write in another form is opened with the current configuration and
/// sealed with the target's, as kube-apiserver would: all revisions, leases, versions and everything else stay as they are.
/// The new file is then read back and held against the source, record by record. The source is only read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An etcd snapshot or database, plain or in gzip, zstd, zip or tar, told by content; `-` for standard input
    #[arg(value_name = "SOURCE")]
    source: Option<PathBuf>,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    #[command(flatten)]
    pub(super) token: super::configs::TokenArgs,
    /// The configuration that values are to be under; repeat it for each API server with one of its own
    #[arg(long, value_name = "CONFIG", required_unless_present = "strip", conflicts_with = "strip")]
    pub(super) to: Vec<PathBuf>,
    /// Decrypt everything
    #[arg(long)]
    pub(super) strip: bool,
    /// The new file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only these: RESOURCE[,RESOURCE] [NAME...] or RESOURCE/NAME..., named as for kubectl
    #[arg(value_name = "RESOURCE")]
    pub(super) selection: Vec<String>,
    /// Only this namespace; may be repeated
    #[arg(long, short)]
    pub(super) namespace: Vec<String>,
    /// New nonces also for values that the target would write as they are
    #[arg(long)]
    pub(super) all: bool,
    /// Keep only the newest revision of each key, as a compaction at the current revision would
    #[arg(long)]
    drop_history: bool,
    /// Copy values that do not open as they are, and end with exit code 1
    #[arg(long)]
    pub(super) keep_unreadable: bool,
    /// Rewrite also where the store holds K3s', RKE2's or OpenShift's own record of its configuration, and leave that as it is
    #[arg(long)]
    pub(super) keep_distro_state: bool,
    /// Make the store's own record of the configuration and its servers' annotations fit the target, with the server's token in
    /// --token-file; writes what belongs into server/cred beside the new file, into FILE.cred
    #[arg(long, value_enum, value_name = "DISTRO", requires = "token_file", conflicts_with_all = ["keep_distro_state", "strip"])]
    distro: Option<RewriteDistro>,
    /// The release of etcd that it is to start on, if that is not the one that wrote it
    #[arg(long, value_enum, value_name = "RELEASE")]
    for_etcd: Option<ForEtcd>,
    /// The form of the new file; the source's where it is not given
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Only show what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The form of the report
    #[arg(long, value_enum, default_value_t = Report::Table)]
    pub(super) report: Report,
    #[cfg(feature = "kms")]
    #[command(flatten)]
    pub(super) kms: super::kms::KmsArgs,
    #[cfg(feature = "kms")]
    #[command(flatten)]
    pub(super) envelopes: super::minting::EnvelopeArgs,
    /// Where the API server keeps its objects, as in its own --etcd-prefix; found by itself where it is not given
    #[arg(long, value_name = "PREFIX")]
    pub(super) etcd_prefix: Vec<String>,
    #[cfg(feature = "live")]
    #[command(flatten)]
    pub(super) live: super::rewrite_live::LiveRewriteArgs,
}

const EXAMPLES: &str = "\
A running etcd (--endpoints, spelled out) is changed in place: without --confirm it is only planned; with it, each value is put
back only if nobody changed it meanwhile, and everything is read again in the end. Ctrl-C stops in good order, and the same
command goes on where it stood.

Exit codes: 0 written and proved (or, with --dry-run, could be); 1 the same, but --keep-unreadable kept values that do not
open; 2 wrong usage; 3 the source is damaged or cannot be read; 4 refused, failed, interrupted, or not proved: no new file
has the new name, and in a running store each value is either as it was or as it is to be.

Examples:
  atrest rewrite snapshot.db -c current.yaml --to target.yaml --dry-run
  atrest rewrite snapshot.db -c current.yaml --to target.yaml -o rotated.db
  atrest rewrite snapshot.db -c current.yaml --strip -o plain.db
  atrest rewrite snapshot.db -c current.yaml --to target.yaml --drop-history -o clean.db
  atrest rewrite snapshot.db --to target.yaml secrets -o encrypted.db
  atrest rewrite --endpoints https://127.0.0.1:2379 --cacert ca.crt --cert client.crt --key client.key \
    -c current.yaml --to target.yaml --snapshot-to before.db --journal changes.jsonl --confirm

Without -c nothing is taken to be encrypted.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RewriteDistro {
    /// K3s
    K3s,
    /// RKE2
    Rke2,
}

impl From<RewriteDistro> for Distro {
    fn from(distro: RewriteDistro) -> Self {
        match distro {
            RewriteDistro::K3s => Self::K3s,
            RewriteDistro::Rke2 => Self::Rke2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ForEtcd {
    #[value(name = "3.4")]
    V3_4,
    #[value(name = "3.5")]
    V3_5,
    #[value(name = "3.6")]
    V3_6,
    #[value(name = "3.7")]
    V3_7,
}

impl From<ForEtcd> for Release {
    fn from(release: ForEtcd) -> Self {
        match release {
            ForEtcd::V3_4 => Self::V3_4,
            ForEtcd::V3_5 => Self::V3_5,
            ForEtcd::V3_6 => Self::V3_6,
            ForEtcd::V3_7 => Self::V3_7,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As `etcdctl snapshot save` writes it
    Snapshot,
    /// As a member keeps it
    Db,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Report {
    /// For a person
    Table,
    /// The same as JSON
    Json,
}

impl From<Format> for Form {
    fn from(format: Format) -> Self {
        match format {
            Format::Snapshot => Self::Snapshot,
            Format::Db => Self::Database,
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    #[cfg(feature = "live")]
    if args.live.is_given() {
        args.for_files_only()?;
        // What stands in the place of a source belongs to what is selected.
        let first = args.source.iter().map(|first| first.to_string_lossy().into_owned());
        let selection: Vec<_> = first.chain(args.selection.iter().cloned()).collect();
        return super::rewrite_live::run(args, &selection, global);
    }
    let Some(source) = &args.source else {
        let failure = Failure::usage("there is no SOURCE");
        return Err(failure.hint("give a file, or a running etcd with --endpoints; `--help` shows how"));
    };
    #[cfg(feature = "live")]
    args.live.for_live_only()?;
    if args.output.is_none() && !args.dry_run {
        return Err(Failure::usage("there is no new file").hint("name it with -o FILE, or only plan with --dry-run"));
    }
    let selection = selection(&args.selection)?;
    let given = given(args)?;
    let mut target = target(args)?;
    let mut opened = open(&SourceArgs::file(source.clone()), global)?;
    if matches!(opened.store, Store::Directory(_)) {
        return Err(directory(&opened.facts.path));
    }
    let needed = needed(args, &mut opened)?;
    let own_configuration = given.is_the_distributions_own();
    let current = given.rules(&mut opened.store, &opened.facts.path, global)?;
    let resealed = super::resealing::prepare(args.distro.map(Distro::from), &args.token, &target, &mut opened, global)?;
    let interrupted = catch_signals()?;
    let output = match (&args.output, args.dry_run) {
        (Some(path), false) => Some(begin(args, source, path, needed)?),
        _ => None,
    };
    let beside = match (&resealed, &output) {
        (Some(resealed), Some(_)) => Some(super::resealing::begin(resealed, args.output.as_deref(), args.force)?),
        _ => None,
    };
    let roots = (!args.etcd_prefix.is_empty()).then(|| Roots::given(&args.etcd_prefix));
    let deks = match ask(args, (&current, &target), &mut opened.store, roots.clone(), global)? {
        Asked::Deks(deks) => deks,
        Asked::Plan(plan) => return print(Exit::Done, |out| out.write_all(plan.as_bytes())),
    };
    let replacements = resealed.as_ref().map(|resealed| resealed.replacements.clone()).unwrap_or_default();
    let wanted = Wanted {
        args,
        selection,
        roots,
        current: &current,
        own_configuration,
        deks: &deks,
        replacements,
        interrupted: &interrupted,
    };
    let refused = wanted.mint(&mut target, &mut opened.store, &opened.facts.path, global)?;
    let outcome = match refused {
        Some(outcome) => outcome,
        None => wanted.rewrite(&target, &mut opened.store, output.as_ref(), &opened.facts.path, global)?,
    };
    if let (End::Proved(_), Some(output)) = (&outcome.end, output) {
        if let Some(beside) = beside {
            beside.commit()?;
        }
        output.commit()?;
    }
    let mut notes = notes(args, &outcome, &opened);
    if let (End::Proved(_), Some(resealed)) = (&outcome.end, &resealed) {
        notes.extend(super::resealing::notes(resealed, args.output.as_deref()));
    }
    let path = args.output.as_ref().map(|path| path.to_string_lossy());
    let facts = &opened.facts;
    let cred = args.output.as_deref().map(super::resealing::folder);
    let cred = cred.as_deref().map(Path::to_string_lossy);
    let fitted = args.distro.filter(|_| resealed.is_some()).zip(cred.as_deref());
    let fitted = fitted.map(|(distro, cred)| report::rewrite::Fitted { program: Distro::from(distro).word(), cred });
    let context = report::rewrite::Context { facts, target: &target, output: path.as_deref(), notes: &notes, fitted };
    print(exit(&outcome), |out| match args.report {
        Report::Table => report::rewrite::text(out, &outcome, &context, paint()),
        Report::Json => report::rewrite::json(out, &outcome, &context),
    })
}

#[cfg(feature = "live")]
impl Args {
    /// What makes a new file has no meaning for a running store.
    fn for_files_only(&self) -> Result<(), Failure> {
        let given = [
            ("--output", self.output.is_some()),
            ("--drop-history", self.drop_history),
            ("--for-etcd", self.for_etcd.is_some()),
            ("--format", self.format.is_some()),
            ("--force", self.force),
            ("--distro", self.distro.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                Err(Failure::usage(format!("{name} is for a new file, and --endpoints changes a running store")))
            }
            None => Ok(()),
        }
    }
}

/// Everything that is wanted but the target.
struct Wanted<'w> {
    args: &'w Args,
    selection: Selection,
    roots: Option<Roots>,
    current: &'w Rules,
    own_configuration: bool,
    deks: &'w Deks,
    replacements: Replacements,
    interrupted: &'w AtomicBool,
}

impl Wanted<'_> {
    /// Rewrites into `output`; without it, only plans.
    fn rewrite(
        &self,
        target: &Target,
        store: &mut Store,
        output: Option<&Output>,
        path: &str,
        global: &GlobalArgs,
    ) -> Result<Outcome, Failure> {
        let args = self.args;
        let (passes, message) = if output.is_some() { (4, "rewriting") } else { (2, "planning") };
        let progress = Progress::bytes(global, message, passes * store.bytes());
        let request = Request {
            selection: self.selection.clone(),
            namespaces: args.namespace.clone(),
            all: args.all,
            keep_unreadable: args.keep_unreadable,
            own_configuration: self.own_configuration,
            keep_distro_state: args.keep_distro_state,
            replacements: self.replacements.clone(),
            drop_history: args.drop_history,
            for_etcd: args.for_etcd.map(Into::into),
            form: args.format.map(Into::into),
            roots: self.roots.clone(),
            interrupted: self.interrupted,
            pass: PassOptions { digest: true, threads: 0, progress: &|bytes| progress.add(bytes) },
            ..Request::new(self.current, self.deks, target)
        };
        let reopen = || match output {
            Some(output) => output.reopen().map_err(std::io::Error::other),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        let out = output.map(|output| Out { file: output.file(), path: output.part_path(), reopen: &reopen });
        run::rewrite(store, &request, out.as_ref()).map_err(|error| failed(error, path))
    }

    /// Where the target writes with KMS providers: plans, says what it costs, and has data keys wrapped. Gives the plan where
    /// something stands in the way, since nothing is to be spent then.
    #[cfg(feature = "kms")]
    fn mint(
        &self,
        target: &mut Target,
        store: &mut Store,
        path: &str,
        global: &GlobalArgs,
    ) -> Result<Option<Outcome>, Failure> {
        let args = self.args;
        let selects = !self.selection.is_everything() || !args.namespace.is_empty();
        let kms = (&args.kms, &args.envelopes);
        let minting = super::minting::prepare(kms, (self.current, target), selects, store, self.roots.clone(), global)?;
        let Some(minting) = minting else { return Ok(None) };
        let mut outcome = self.rewrite(target, store, None, path, global)?;
        if let Target::Configured { rules, .. } = &*target {
            eprint!("{}", minting.plan(rules, &outcome.rows, &args.kms));
        }
        match outcome.end {
            End::Planned(Some(obstacle)) if !args.dry_run => {
                outcome.end = End::Refused(obstacle);
                Ok(Some(outcome))
            }
            _ if args.dry_run => Ok(Some(outcome)),
            _ => minting.mint(&args.kms, &outcome.rows, target, global).map(|()| None),
        }
    }

    #[cfg(not(feature = "kms"))]
    fn mint(&self, _: &mut Target, _: &mut Store, _: &str, _: &GlobalArgs) -> Result<Option<Outcome>, Failure> {
        Ok(None)
    }
}

fn exit(outcome: &Outcome) -> Exit {
    match outcome.end {
        End::Refused(_) | End::Planned(Some(_)) => Exit::Refused,
        End::Proved(_) | End::Planned(None) if report::rewrite::kept_unreadable(outcome) => Exit::Findings,
        End::Proved(_) | End::Planned(None) => Exit::Done,
    }
}

/// A database that was rewritten must not go back beside its log, which would bring old values back, nor beside other members.
fn directory(path: &str) -> Failure {
    let failure =
        Failure::input("is a data directory, and only a snapshot or a database alone is rewritten").about(path);
    failure.hint(
        "take a snapshot (etcdctl snapshot save; where no server runs, start one on a copy of the directory), rewrite that, and restore \
         every member from the new file into an empty directory: the log here keeps the old values",
    )
}

/// Bytes that a new file of the same content takes at least; refuses what the source's form has not.
#[cfg_attr(not(feature = "kine"), expect(unused_variables, reason = "only kine's SQLite has not all forms"))]
fn needed(args: &Args, opened: &mut OpenSource) -> Result<u64, Failure> {
    #[cfg(feature = "kine")]
    if let Store::Kine(store) = &opened.store {
        if args.format.is_some() || args.for_etcd.is_some() {
            let refused =
                Failure::usage("--format and --for-etcd are for etcd's own files, and the source is kine's SQLite");
            return Err(refused.about(&opened.facts.path).hint("leave them out: kine's SQLite is written as such"));
        }
        let facts = store.facts();
        return Ok(facts.pages.saturating_sub(facts.free_pages).saturating_mul(facts.page_size));
    }
    Ok(opened.file()?.pages().used_bytes())
}

/// Files that belong to the source and must not be written to: SQLite's log, under the name beside the database's.
fn beside(source: &std::path::Path) -> Vec<PathBuf> {
    let named = |ending| {
        let mut name = source.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    ["-wal", "-shm", "-journal"].map(named).into_iter().filter(|path| path.exists()).collect()
}

/// Begins the new file, if there is room for it.
fn begin(args: &Args, source: &Path, path: &Path, bytes: u64) -> Result<Output, Failure> {
    let name = path.to_string_lossy();
    let source = if source.as_os_str() == "-" { Path::new("/dev/stdin") } else { source };
    let beside = beside(source);
    let files = args.config.config.iter().chain(&args.to).chain(&beside);
    let inputs = [source].into_iter().chain(files.map(PathBuf::as_path));
    let output = Output::create(path, args.force, &inputs.collect::<Vec<_>>());
    let output = output.map_err(|error| Failure::from(error).about(&name))?;
    // Dropping history may leave next to nothing, so only without it is it known how much there will be at least.
    let needed = if args.drop_history { 0 } else { bytes };
    match output.room() {
        Ok(room) if room < needed => {
            let message = format!("there is room for {room} bytes in its folder, and some {needed} are needed");
            Err(Failure::refused(message).about(&name).hint("make room, or name a file on another file system with -o"))
        }
        _ => Ok(output),
    }
}

/// Lets a limit on the size of files be an error instead of the end, and an interrupt end the run in good order.
pub(super) fn catch_signals() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    let failed = |error| Failure::refused(format!("signals cannot be caught: {error}"));
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(failed)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The second time it is the end.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, interrupted.clone()).map_err(failed)?;
        signal_hook::flag::register(signal, interrupted.clone()).map_err(failed)?;
    }
    Ok(interrupted)
}

/// What the values are under now. With --distro the token may also be for the store's own state alone.
fn given(args: &Args) -> Result<super::configs::Given, Failure> {
    if args.distro.is_some() && !args.config.config.is_empty() {
        return super::configs::files(&args.config.config);
    }
    super::configs::given(&args.config.config, &args.token)
}

/// Loads what is to be written.
pub(super) fn target(args: &Args) -> Result<Target, Failure> {
    match args.strip {
        true => Ok(Target::Plaintext),
        false => Ok(Target::configured(rules(&ConfigArgs { config: args.to.clone() })?)),
    }
}

/// What came of asking the plugins of the current configuration.
pub(super) enum Asked {
    Deks(Deks),
    /// Only what it would cost was wanted.
    #[cfg_attr(not(feature = "kms"), expect(dead_code, reason = "nothing is planned without plugins to ask"))]
    Plan(String),
}

#[cfg(feature = "kms")]
pub(super) fn ask(
    args: &Args,
    (current, target): (&Rules, &Target),
    store: &mut Store,
    roots: Option<Roots>,
    global: &GlobalArgs,
) -> Result<Asked, Failure> {
    let others = match target {
        Target::Configured { rules, .. } => vec![rules],
        Target::Plaintext => Vec::new(),
    };
    Ok(match super::kms::prepare(&args.kms, (current, &others), store, roots, global)? {
        super::judge::Prepared::Plan(plan) => Asked::Plan(plan),
        super::judge::Prepared::Deks(deks) => Asked::Deks(deks),
    })
}

#[cfg(not(feature = "kms"))]
pub(super) fn ask(
    _: &Args,
    _: (&Rules, &Target),
    _: &mut Store,
    _: Option<Roots>,
    _: &GlobalArgs,
) -> Result<Asked, Failure> {
    Ok(Asked::Deks(Deks::default()))
}

/// What the reader should know beside the plan.
fn notes(args: &Args, outcome: &Outcome, opened: &OpenSource) -> Vec<String> {
    let written = &outcome.written;
    let mut notes = Vec::new();
    if opened.store.is_open_elsewhere() {
        notes.push(
            "K3s, or another program, had the database open while it was read: what it writes since then is not in the new \
             file. Stop it and rewrite again before the new file takes its place."
                .to_owned(),
        );
    }
    if opened.store.lost_its_log() {
        let revision = written.revision;
        notes.push(format!(
            "The database is written with a log, and none is beside it: unless K3s was stopped cleanly, what it wrote behind \
             revision {revision} is missing."
        ));
    }
    if opened.log_beside {
        notes.push(
            "The source lies in a member's data directory: its newest writes may be only in the log beside it."
                .to_owned(),
        );
    }
    if opened.store.lost_its_trailer() {
        notes.push("The digest that every snapshot ends with was cut off from the source.".to_owned());
    }
    if let Some(downgrade) = &written.meta.downgrade {
        let kept = if args.for_etcd.is_some() { "it is taken out" } else { "it stays in the new file" };
        notes.push(format!("A downgrade was under way when this was taken ({}); {kept}.", harmless(downgrade)));
    }
    if args.keep_distro_state && written.moves {
        if written.inside.bootstrap {
            notes.push(
                "K3s' or RKE2's own record of the configuration (/bootstrap/) still has the old one: the next start brings it \
                 back, and values on the new keys stay closed until the new configuration is in its place."
                    .to_owned(),
            );
        }
        if written.inside.operators {
            notes.push(
                "OpenShift's encryption Secrets still have the old keys: the operators bring them back, and values on the new \
                 keys stay closed to the API servers."
                    .to_owned(),
            );
        }
    }
    notes
}

fn failed(error: RunError, path: &str) -> Failure {
    match error {
        RunError::Select(error) => Failure::usage(error.to_string()),
        RunError::Rewrite(RewriteError::Read(error)) => Failure::from(error).about(path),
        RunError::Rewrite(error @ (RewriteError::Damaged { .. } | RewriteError::Trailer)) => {
            let damaged = Failure::input(error.to_string()).about(path);
            damaged.hint("`atrest check` lists every fault; only a whole source is rewritten")
        }
        RunError::Rewrite(error @ RewriteError::Unproved(_)) => {
            let unproved = Failure::refused(error.to_string());
            unproved.hint("nothing has the new name; try again, and if it happens twice, the disk or memory is at fault, or we are")
        }
        RunError::Rewrite(error) => {
            Failure::refused(error.to_string()).hint("nothing has the new name; the source is as it was")
        }
    }
}
