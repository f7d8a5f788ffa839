//! `atrest rewrite --endpoints`: a running store, changed in place and proved.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;

use crate::audit::deks::Deks;
use crate::audit::rules::Rules;
use crate::audit::run::Options;
use crate::audit::survey;
use crate::kube::key::Roots;
use crate::kube::select::Selected;
use crate::live::Live;
use crate::output::Output;
use crate::report::live_rewrite::{Facts, json, text};
use crate::report::text::{grouped, harmless, key};
use crate::rewrite::decide::{NO_REPLACEMENTS, Policy, Stays};
use crate::rewrite::live::journal::Journal;
use crate::rewrite::live::kept::{Keeps, Kept};
use crate::rewrite::live::keyspace::{Fault, Keyspace};
use crate::rewrite::live::pace::{Pace, Patience};
use crate::rewrite::live::plan::{Plan, plan};
use crate::rewrite::live::preflight::{Member, Obstacle, Space};
use crate::rewrite::live::run::{Outcome, run as rewrite};
use crate::rewrite::live::server::Server;
use crate::rewrite::live::settle::Stop;
use crate::rewrite::live::transform::Transform;
use crate::rewrite::live::write::{Rounds, Writing};
use crate::rewrite::tally::{Count, Fate, Kind, Kinds};
use crate::rewrite::target::{SystemRandomness, Target};
use crate::source::Store;
use crate::source::live::LiveStore;
use crate::source::trace::TraceKey;

use super::Failure;
use super::args::{self, GlobalArgs, paint};
use super::exit::Exit;
use super::live::LiveArgs;
use super::output::print;
use super::progress::Progress;
use super::rewrite::{self as command, Asked, Report};

/// The most changes of a transaction where nobody is in a hurry: no watcher gets more at once.
const CALM_CHANGES: u64 = 128;

/// Values that would wait longer for their turn are read again then.
const KEPT_SECONDS: u64 = 60;

/// What only a running store takes.
#[derive(Debug, Args)]
pub struct LiveRewriteArgs {
    #[command(flatten)]
    live: LiveArgs,
    /// Change the running store. Without it is only planned
    #[arg(long, conflicts_with = "dry_run", help_heading = HEADING)]
    confirm: bool,
    /// Objects a second; 0 for as fast as it goes
    #[arg(long, value_name = "N", default_value_t = 200, help_heading = HEADING)]
    rate: u64,
    /// Compact the store after each N objects, so that the database grows less
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = HEADING)]
    compact_every: Option<u64>,
    /// The server's --quota-backend-bytes, where it does not say (before etcd 3.6)
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..), help_heading = HEADING)]
    quota_backend_bytes: Option<u64>,
    /// Take a snapshot first, and check it
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    snapshot_to: Option<PathBuf>,
    /// Note every change in this file, a line of JSON each; a rerun goes on with it
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    journal: Option<PathBuf>,
    /// Compact when everything is proved
    #[arg(long, help_heading = HEADING)]
    compact: bool,
    /// Defragment the members when everything is proved and compacted, one after the other, the leader last
    #[arg(long, requires = "compact", help_heading = HEADING)]
    defrag: bool,
    /// How many seconds a silent server is waited for
    #[arg(long, value_name = "SECONDS", default_value_t = 60, help_heading = HEADING)]
    patience: u64,
}

const HEADING: &str = "Rewriting a running etcd";

impl LiveRewriteArgs {
    /// Whether a running store is meant. Endpoints of the environment never count here.
    pub fn is_given(&self) -> bool {
        self.live.is_given()
    }

    /// What changes a running store has no meaning for a file.
    pub fn for_live_only(&self) -> Result<(), Failure> {
        let given = [
            ("--confirm", self.confirm),
            ("--compact-every", self.compact_every.is_some()),
            ("--quota-backend-bytes", self.quota_backend_bytes.is_some()),
            ("--snapshot-to", self.snapshot_to.is_some()),
            ("--journal", self.journal.is_some()),
            ("--compact", self.compact),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Failure::usage(format!("{name} is for a running store: spell out its --endpoints"))),
            None => Ok(()),
        }
    }

    /// What the plan puts aside. Where data keys are still to be made nothing can be sealed, and a journal tells of what was
    /// stored before.
    fn keeps(&self, mints: bool) -> Keeps {
        match () {
            () if !self.confirm => Keeps::Nothing,
            () if mints || self.journal.is_some() => Keeps::AsRead,
            () => Keeps::Sealed,
        }
    }

    fn most_changes(&self) -> usize {
        let most = if self.rate == 0 { CALM_CHANGES } else { (self.rate / 10).clamp(1, CALM_CHANGES) };
        usize::try_from(most).unwrap_or(1)
    }
}

/// Runs the command.
pub fn run(args: &command::Args, selection: &[String], global: &GlobalArgs) -> Result<Exit, Failure> {
    let live = &args.live;
    let selection = args::selection(selection)?;
    let given = super::configs::given(&args.config.config, &args.token)?;
    let mut target = command::target(args)?;
    let interrupted = command::catch_signals()?;
    let endpoints = live.live.endpoints.join(",");
    let mut store = Store::Live(LiveStore::new(live.live.connect(&live.live.endpoints)?));
    let current = given.rules(&mut store, &endpoints, global)?;
    let roots = (!args.etcd_prefix.is_empty()).then(|| Roots::given(&args.etcd_prefix));
    let deks = match command::ask(args, (&current, &target), &mut store, roots.clone(), global)? {
        Asked::Deks(deks) => deks,
        Asked::Plan(plan) => return print(Exit::Done, |out| out.write_all(plan.as_bytes())),
    };
    let options = Options { roots: roots.clone(), selection: selection.clone(), ..Options::default() };
    let (roots, selected) = survey::select(&mut store, &current, &options).map_err(Failure::from)?;
    let selects = selected.is_some() || !args.namespace.is_empty();
    let minting = prepare(args, (&current, &mut target), selects, &mut store, roots.clone(), global)?;
    let wanted =
        Wanted { args, current: &current, deks: &deks, selected: selected.as_ref(), interrupted: &interrupted };
    let Store::Live(connected) = &store else { return Err(Failure::input("is no running store").about(&endpoints)) };
    let server = Server::new(connected.live());
    let keeps = live.keeps(minting.is_some());
    let mut planned =
        wanted.plan(&server, &target, (roots, keeps), global).map_err(|failure| failure.about(&endpoints))?;
    let mut telling = Telling { args, endpoints: &endpoints, done: Vec::new(), left: Vec::new(), interrupted: false };
    say_costs(&minting, &target, &planned.plan, args);
    if planned.obstacle.is_some() || !live.confirm {
        return telling.tell(&planned, &target, None);
    }
    let journal = live.journal.as_deref().map(open_journal).transpose()?;
    if let Some(path) = &live.snapshot_to {
        telling.done.push(snapshot(connected.live(), path, args, global)?);
    }
    mint(&minting, &planned.plan, &mut target, args, global)?;
    let kept = kept(&mut planned.plan, live.rate);
    let outcome = wanted.rewrite((&server, &target), (&planned, kept), journal.as_ref(), global)?;
    telling.interrupted = interrupted.load(Ordering::Relaxed);
    if outcome.proved() {
        afterwards(&mut telling, &server, (Before::of(&planned.plan), &target), global);
    }
    telling.tell(&planned, &target, Some(&outcome))
}

/// Everything that is wanted but the target.
struct Wanted<'w> {
    args: &'w command::Args,
    current: &'w Rules,
    deks: &'w Deks,
    selected: Option<&'w Selected>,
    interrupted: &'w AtomicBool,
}

/// What was learned before anything is written.
struct Planned {
    plan: Plan,
    roots: Arc<Roots>,
    members: Vec<Member>,
    space: Option<Space>,
    obstacle: Option<Obstacle>,
    digests: TraceKey,
    notes: Vec<String>,
}

impl Wanted<'_> {
    fn patience(&self) -> Patience<'_> {
        Patience::new(Duration::from_secs(self.args.live.patience), self.interrupted)
    }

    fn transform<'t>(
        &'t self,
        target: &'t Target,
        (roots, kinds, digests): (Arc<Roots>, &'t Kinds, TraceKey),
        renew: i64,
    ) -> Transform<'t> {
        let policy = Policy {
            current: self.current,
            deks: self.deks,
            target,
            selected: self.selected,
            namespaces: &self.args.namespace,
            all: false,
            keep_unreadable: self.args.keep_unreadable,
            own_configuration: false,
            replacements: &NO_REPLACEMENTS,
        };
        Transform { policy, roots, kinds, randomness: &SystemRandomness, renew, digests }
    }

    fn plan(
        &self,
        server: &Server<'_>,
        target: &Target,
        wanted: (Option<Roots>, Keeps),
        global: &GlobalArgs,
    ) -> Result<Planned, Failure> {
        let digests =
            TraceKey::random().map_err(|error| Failure::refused(format!("there is no randomness: {error}")))?;
        let renew = if self.args.all { i64::MAX } else { 0 };
        let (kinds, patience) = (Kinds::default(), self.patience());
        let progress = Progress::count(global, "planning", 0);
        let transform = |roots, kinds| self.transform(target, (roots, kinds, digests), renew);
        let planned = plan((server, &patience), &kinds, wanted, transform, &|entries| progress.add(entries));
        drop(progress);
        let (plan, roots) = planned.map_err(stopped)?;
        let (mut members, mut notes) = (Vec::new(), Vec::new());
        for member in server.members() {
            match member {
                Ok(member) => members.push(member),
                Err(fault) => notes.push(format!("A member says nothing of itself: {}", first_line(&fault.words))),
            }
        }
        let live = &self.args.live;
        let space =
            (!server.is_kine()).then(|| Space::of(&members, &plan, live.compact_every, live.quota_backend_bytes));
        let space = space.flatten();
        let obstacle = Obstacle::find(&plan, &members, space.as_ref(), self.args.keep_distro_state);
        notes.extend(self.notes(&plan, server, &members));
        Ok(Planned { plan, roots, members, space, obstacle, digests, notes })
    }

    fn notes(&self, plan: &Plan, server: &Server<'_>, members: &[Member]) -> Vec<String> {
        let mut notes = Vec::new();
        if self.args.keep_distro_state && plan.moves && plan.inside.bootstrap {
            notes.push(
                "K3s' or RKE2's own record of the configuration (/bootstrap/) still has the old one: the next start brings it \
                 back, and values on the new keys stay closed until the new configuration is in its place."
                    .to_owned(),
            );
        }
        if self.args.keep_distro_state && plan.moves && plan.inside.operators {
            notes.push(
                "OpenShift's encryption Secrets still have the old keys: the operators bring them back, and values on the new \
                 keys stay closed to the API servers."
                    .to_owned(),
            );
        }
        if server.is_kine() {
            notes.push("This is kine: one value goes with each transaction, and its database has no quota.".to_owned());
        }
        for member in members.iter().filter(|member| member.backlog > crate::rewrite::live::pace::MAX_BACKLOG) {
            let (name, backlog) = (harmless(&member.endpoint), grouped(member.backlog));
            notes.push(format!(
                "{name} has {backlog} requests committed and not yet applied: it is busy enough already."
            ));
        }
        notes
    }

    fn rewrite(
        &self,
        (server, target): (&Server<'_>, &Target),
        (planned, kept): (&Planned, Option<Kept>),
        journal: Option<&Journal>,
        global: &GlobalArgs,
    ) -> Result<Outcome, Failure> {
        let live = &self.args.live;
        let (pace, patience, kinds) = (Pace::new(live.rate), self.patience(), Kinds::default());
        let entries: u64 = planned.plan.rows.iter().map(|(_, count)| count.entries).sum();
        let progress = Progress::count(global, "rewriting", 2 * entries);
        let compact = || server.compact().map(drop);
        let writing = Writing {
            keyspace: server,
            pace: &pace,
            patience: &patience,
            outline: &planned.plan.outline,
            journal,
            name: |bytes| key(bytes).into_owned(),
            most: live.most_changes().min(server.most_changes()),
            rounds: live.compact_every.map(|every| Rounds { every, compact: &compact }),
            progress: &|entries| progress.add(entries),
        };
        let renew = if self.args.all { planned.plan.pins.newest() } else { 0 };
        let with = || (planned.roots.clone(), &kinds, planned.digests);
        let (first, rest) = (self.transform(target, with(), renew), self.transform(target, with(), 0));
        let outcome = rewrite(&writing, &first, &rest, kept);
        outcome.map_err(|error| Failure::refused(format!("what was done cannot be noted: {error}")))
    }
}

/// What is told in the end.
struct Telling<'t> {
    args: &'t command::Args,
    endpoints: &'t str,
    done: Vec<String>,
    left: Vec<String>,
    interrupted: bool,
}

impl Telling<'_> {
    fn tell(&self, planned: &Planned, target: &Target, outcome: Option<&Outcome>) -> Result<Exit, Failure> {
        let live = &self.args.live;
        let questions = if live.confirm { Vec::new() } else { questions(target, live) };
        let facts = Facts {
            endpoints: self.endpoints,
            members: &planned.members,
            plan: &planned.plan,
            space: planned.space.as_ref(),
            target,
            obstacle: planned.obstacle.as_ref(),
            questions: &questions,
            rate: live.rate,
            outcome,
            dry_run: !live.confirm,
            interrupted: self.interrupted,
            done: &self.done,
            left: &self.left,
            notes: &planned.notes,
        };
        let kept = |(kind, _): &(crate::rewrite::tally::Kind, _)| kind.fate == Fate::Stays(Stays::Unreadable);
        let exit = match outcome {
            _ if planned.obstacle.is_some() => Exit::Refused,
            Some(outcome) if !outcome.proved() => Exit::Refused,
            _ if planned.plan.rows.iter().any(kept) => Exit::Findings,
            _ => Exit::Done,
        };
        print(exit, |out| match self.args.report {
            Report::Table => text(out, &facts, paint()),
            Report::Json => json(out, &facts),
        })
    }
}

/// What a careful colleague would ask.
fn questions(target: &Target, live: &LiveRewriteArgs) -> Vec<String> {
    let mut questions = vec![match target {
        Target::Configured { .. } => {
            "Has every API server loaded a configuration with the target's keys already? One that has not cannot read what is \
             written, and writes on in the old form."
                .to_owned()
        }
        Target::Plaintext => {
            "Has every API server a configuration that begins with identity already, with the old keys behind it? One that has \
             not cannot read what is written, or encrypts on."
                .to_owned()
        }
    }];
    if live.snapshot_to.is_none() {
        questions.push("Is there a snapshot of now? --snapshot-to FILE takes one first, and checks it.".to_owned());
    }
    questions.push("Does anything else write to this store, such as a migration through the API server? Nothing is lost then, but one is enough.".to_owned());
    questions
}

/// Compacts and defragments as far as it was asked for, and says what is left.
fn afterwards(
    telling: &mut Telling<'_>,
    server: &Server<'_>,
    (before, target): (Before, &Target),
    global: &GlobalArgs,
) {
    let live = &telling.args.live;
    let mut compacted = false;
    if live.compact {
        match server.compact() {
            Ok(revision) => {
                compacted = true;
                telling.done.push(format!("Compacted at revision {revision}."));
            }
            Err(fault) => telling.left.push(format!("Compaction failed: {}", first_line(&fault.words))),
        }
    }
    if !compacted {
        telling.left.push(
            "Compact: what was there before stands in older revisions until then (kube-apiserver compacts every five minutes)."
                .to_owned(),
        );
    }
    if !server.is_kine() {
        defragment(telling, server, compacted && live.defrag, global);
    }
    telling.left.extend(left_of_before(before, target).map(str::to_owned));
}

/// What the values of a store were on before they were written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Before {
    /// On other keys; or nothing had to be written, and an earlier run may have taken them from others.
    other_keys: bool,
    /// On none.
    plaintext: bool,
}

impl Before {
    fn of(plan: &Plan) -> Self {
        let written = |(kind, _): &&(Kind, Count)| matches!(kind.fate, Fate::Rewritten(_));
        let any = |sealed| plan.rows.iter().filter(written).any(|(kind, _)| kind.from.is_some() == sealed);
        Self { other_keys: plan.rewritten == 0 || (plan.moves && any(true)), plaintext: any(false) }
    }
}

/// What is left to do about what was before.
fn left_of_before(before: Before, target: &Target) -> impl Iterator<Item = &'static str> {
    let drop = match target {
        Target::Configured { .. } => {
            "Drop the old key from every API server's configuration; `atrest keys --endpoints ... --require-unused KEY` says \
             whether anything still needs it."
        }
        Target::Plaintext => "Drop the old keys from every API server's configuration.",
    };
    let keep = "Snapshots and logs of before still need the old key: keep it as long as they are kept.";
    let bare = "Snapshots and logs of before hold plaintext: guard them like the Secrets themselves, and let newer ones \
                take their place.";
    [(before.other_keys, drop), (before.other_keys, keep), (before.plaintext, bare)]
        .into_iter()
        .filter(|(said, _)| *said)
        .map(|(_, words)| words)
}

/// Defragments one member after the other, the leader last; `wanted` says whether, and else it is left to do.
fn defragment(telling: &mut Telling<'_>, server: &Server<'_>, wanted: bool, global: &GlobalArgs) {
    let mut members: Vec<_> = server.members().into_iter().flatten().collect();
    members.sort_by_key(|member| member.leads);
    for member in members.iter().filter(|_| wanted) {
        let name = harmless(&member.endpoint).into_owned();
        if !global.quiet {
            eprintln!("defragmenting {name}");
        }
        match server.defragment(&member.endpoint) {
            Ok(()) => telling.done.push(format!("Defragmented {name}.")),
            Err(fault) => {
                telling.left.push(format!("Defragment the members; it failed at one: {}", first_line(&fault.words)));
                return;
            }
        }
    }
    if !wanted {
        let what = "Defragment every member, one after the other and the leader last: what was compacted stands in its file until \
                    then.";
        telling.left.push(what.to_owned());
    }
    let missing = server.listed().into_iter().filter(|(id, _)| !members.iter().any(|member| member.id == *id));
    for (_, name) in missing.filter(|_| wanted) {
        telling.left.push(format!("Defragment {}, whose endpoint was not given.", harmless(&name)));
    }
}

/// What the plan put aside for the writing, unless much of it would be old when its turn comes.
fn kept(plan: &mut Plan, rate: u64) -> Option<Kept> {
    let seconds = plan.rewritten.checked_div(rate).unwrap_or(0);
    plan.kept.take().filter(|_| seconds <= KEPT_SECONDS)
}

fn open_journal(path: &Path) -> Result<Journal, Failure> {
    let name = path.to_string_lossy();
    Journal::open(path)
        .map_err(|error| Failure::refused(format!("the journal cannot be written: {error}")).about(&name))
}

/// Nothing was written yet, so what stops a plan is input that cannot be read.
fn stopped(stop: Stop) -> Failure {
    match stop {
        Stop::Fault(Fault { words, .. }) => {
            let (said, hint) = words.split_once("\nhint: ").unwrap_or((&words, ""));
            let failure = Failure::input(harmless(said));
            if hint.is_empty() { failure } else { failure.hint(hint) }
        }
        stop => Failure::refused(harmless(&stop.to_string())).hint("nothing was written"),
    }
}

fn first_line(words: &str) -> String {
    harmless(words.lines().next().unwrap_or_default()).into_owned()
}

#[cfg(feature = "kms")]
type Minting = Option<super::minting::Minting>;
#[cfg(not(feature = "kms"))]
type Minting = Option<()>;

#[cfg(feature = "kms")]
fn prepare(
    args: &command::Args,
    rules: (&Rules, &mut Target),
    selects: bool,
    store: &mut Store,
    roots: Option<Roots>,
    global: &GlobalArgs,
) -> Result<Minting, Failure> {
    super::minting::prepare((&args.kms, &args.envelopes), rules, selects, store, roots, global)
}

#[cfg(feature = "kms")]
fn say_costs(minting: &Minting, target: &Target, plan: &Plan, args: &command::Args) {
    if let (Some(minting), Target::Configured { rules, .. }) = (minting, target) {
        eprint!("{}", minting.plan(rules, &plan.rows, &args.kms));
    }
}

#[cfg(feature = "kms")]
fn mint(
    minting: &Minting,
    plan: &Plan,
    target: &mut Target,
    args: &command::Args,
    global: &GlobalArgs,
) -> Result<(), Failure> {
    let Some(minting) = minting else { return Ok(()) };
    minting.mint(&args.kms, &with_spares(&plan.rows), target, global)
}

/// What others write in the old form meanwhile takes data keys, too, where each value has one of its own.
#[cfg(feature = "kms")]
fn with_spares(
    rows: &[(crate::rewrite::tally::Kind, crate::rewrite::tally::Count)],
) -> Vec<(crate::rewrite::tally::Kind, crate::rewrite::tally::Count)> {
    const SPARES: u64 = 16;
    let mut rows = rows.to_vec();
    for (_, count) in rows.iter_mut().filter(|(kind, _)| matches!(kind.fate, Fate::Rewritten(_))) {
        count.entries += SPARES + count.entries / 50;
    }
    rows
}

#[cfg(not(feature = "kms"))]
fn prepare(
    _: &command::Args,
    _: (&Rules, &mut Target),
    _: bool,
    _: &mut Store,
    _: Option<Roots>,
    _: &GlobalArgs,
) -> Result<Minting, Failure> {
    Ok(None)
}

#[cfg(not(feature = "kms"))]
fn say_costs(_: &Minting, _: &Target, _: &Plan, _: &command::Args) {}

#[cfg(not(feature = "kms"))]
fn mint(_: &Minting, _: &Plan, _: &mut Target, _: &command::Args, _: &GlobalArgs) -> Result<(), Failure> {
    Ok(())
}

/// Saves a snapshot of before, and proves it.
fn snapshot(live: &Live, path: &Path, args: &command::Args, global: &GlobalArgs) -> Result<String, Failure> {
    let name = path.to_string_lossy();
    let configurations = args.config.config.iter().chain(&args.to).map(PathBuf::as_path);
    let output = Output::create(path, false, &configurations.collect::<Vec<_>>());
    let output = output.map_err(|error| {
        Failure::from(error)
            .about(&name)
            .hint("nothing was written; leave --snapshot-to out where an earlier run took one")
    })?;
    let saved =
        super::snapshot::save_to(live, &output, global).map_err(|error| super::snapshot::failure(error, &name))?;
    output.commit().map_err(|error| Failure::from(error).about(&name))?;
    Ok(format!("Saved and proved a snapshot of before: {}, {} bytes.", harmless(&name), grouped(saved.bytes)))
}
