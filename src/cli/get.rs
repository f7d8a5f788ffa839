//! `atrest get`: objects of a store, decrypted, as kubectl would show them.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ValueEnum, value_parser};

use crate::kube::key::Roots;
use crate::recover::GroupResource;
use crate::recover::flow::FlowError;
use crate::recover::get::{Content, Found, Item, Missing, Order, Wanted, Which, find};
use crate::recover::seen::Seen;
use crate::report::objects::{Form, Objects, Piece, Style, Written, name};
use crate::report::objects_table::{Shape, Tables};
use crate::report::text::harmless;
use crate::source::snapshot::PassOptions;

use super::Failure;
use super::args::{GlobalArgs, fields, labels, selection};
use super::exit::Exit;
use super::judge::{JudgeArgs, Prepared};
use super::output::{NAMED_FAILURES, print};
use super::progress::Progress;
use super::source::{OpenSource, about, open};

/// Objects of a store, decrypted, as kubectl would show them
///
/// Selects as kubectl does, and shows Secrets where kubectl would: data in base64, or as text with --decode. Without a
/// configuration what is encrypted is listed with its key. The file is only read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    judge: JudgeArgs,
    /// RESOURCE[,RESOURCE] [NAME...] or RESOURCE/NAME..., named as for kubectl
    #[arg(value_name = "RESOURCE")]
    selection: Vec<String>,
    /// The namespace
    #[arg(long, short, default_value = "default", conflicts_with = "all_namespaces")]
    namespace: String,
    /// All namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects with such labels: app=web,tier!=db,env in (a,b),!gone
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Vec<String>,
    /// Only objects of such a name: metadata.name=x, metadata.namespace!=y
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value_t = Output::Table, conflicts_with = "raw")]
    output: Output,
    /// The store as it was at this revision
    #[arg(long, value_name = "REVISION", value_parser = value_parser!(i64).range(1..))]
    revision: Option<i64>,
    /// Every revision that the store still has, not only the newest one
    #[arg(long, conflicts_with = "deleted")]
    all_revisions: bool,
    /// Objects that were deleted, as far as the store still has their last revision
    #[arg(long)]
    deleted: bool,
    /// Show managedFields, too
    #[arg(long)]
    show_managed_fields: bool,
    /// The bytes that were stored, decrypted, of the one object
    #[arg(long)]
    raw: bool,
    /// Show the data of Secrets as text, in stringData
    #[arg(long)]
    decode: bool,
}

impl Args {
    /// With endpoints the first word is no source.
    pub fn settle(&mut self) {
        self.judge.source.give_back(&mut self.selection, true);
    }
}

const EXAMPLES: &str = "\
Exit codes: 0 found; 1 nothing was found, or not everything could be opened or read; 2 wrong usage; 3 the input cannot be
read.

Examples:
  atrest get snapshot.db secret db -n prod -c encryption-config.yaml -o yaml
  atrest get snapshot.db secrets -A -c encryption-config.yaml
  atrest get snapshot.db deploy,cm -n prod -l app=web -o yaml > prod.yaml
  atrest get snapshot.db secret/db --all-revisions -c encryption-config.yaml --decode -o yaml
  atrest get snapshot.db secrets -A --deleted -c encryption-config.yaml -o name";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// kubectl's table
    Table,
    /// With more columns
    Wide,
    /// One object, or a List of several
    Yaml,
    /// One object, or a List of several
    Json,
    /// One object a line
    Jsonl,
    /// Names alone
    Name,
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    if args.selection.is_empty() {
        return Err(Failure::usage("no RESOURCE is named").hint("name one, as in `atrest get snapshot.db secrets -A`"));
    }
    let selection = selection(&args.selection)?;
    let (labels, fields) = (labels(&args.selector)?, fields(args.field_selector.as_deref())?);
    if args.all_revisions || args.deleted {
        args.judge.source.refuse_live("older revisions and nothing that was deleted")?;
    }
    let given = super::configs::given(&args.judge.config.config, &args.judge.token)?;
    let OpenSource { mut store, facts, log_beside } = open(&args.judge.source, global)?;
    store.look_at(args.revision);
    let rules = given.rules(&mut store, &facts.path, global)?;
    let roots = (!args.judge.etcd_prefix.is_empty()).then(|| Roots::given(&args.judge.etcd_prefix));
    let deks = match args.judge.deks(&rules, &mut store, roots.clone(), global)? {
        Prepared::Plan(plan) => return print(Exit::Done, |out| out.write_all(plan.as_bytes())),
        Prepared::Deks(deks) => deks,
    };
    let digest = !args.judge.source.no_digest;
    let reads = if digest { 2 } else { 1 };
    let progress = Progress::bytes(global, "reading", reads * store.bytes());
    let wanted = Wanted {
        pass: PassOptions { digest, threads: 0, progress: &|bytes| progress.add(bytes) },
        roots,
        selection,
        namespaces: if args.all_namespaces { Vec::new() } else { vec![args.namespace.clone()] },
        fields,
        labels,
        which: match (args.all_revisions, args.deleted) {
            (true, _) => Which::All,
            (_, true) => Which::Deleted,
            _ => Which::Current,
        },
        revision: args.revision,
        managed_fields: args.show_managed_fields,
        order: Order::Key,
        payloads: args.raw,
        digests: None,
        deks,
    };
    let found = find(&mut store, &rules, &wanted).map_err(|error| about(Failure::from(error), &facts))?;
    if log_beside {
        eprintln!("atrest: {}: newer writes may be only in the log beside it", harmless(&facts.path));
    }
    if args.raw { raw(found) } else { show(args, found, rules.given()) }
}

/// What was met while objects were written.
#[derive(Default)]
struct Tally {
    /// Those that are asked for one by one, and were met.
    met: Vec<(GroupResource, String)>,
    /// Whether any are.
    named: bool,
    found: u64,
    closed: u64,
    notes: Vec<String>,
}

impl Tally {
    fn of(found: &Found<'_>) -> Self {
        Self { named: found.selected.names().next().is_some(), ..Self::default() }
    }

    fn add(&mut self, item: &Item) {
        if self.named {
            self.met.push((item.resource.clone(), item.name.clone()));
        }
        self.note(&item.key, item.mod_revision, &item.content);
    }

    fn add_written(&mut self, seen: &Seen<'_>, written: &Written) {
        let misplaced = match written {
            Written::Instead(item) => return self.add(item),
            Written::Object { misplaced } => *misplaced,
        };
        if self.named {
            self.met.push((seen.object.group_resource(), seen.object.name.to_owned()));
        }
        self.found += 1;
        if misplaced {
            self.say(seen.key, seen.mod_revision, MISPLACED);
        }
    }

    fn note(&mut self, key: &[u8], revision: i64, content: &Content) {
        self.found += 1;
        let note = match content {
            Content::Object { misplaced: false, .. } => return,
            Content::Object { .. } => MISPLACED.to_owned(),
            Content::Closed { sealed, reason } => {
                self.closed += 1;
                format!("is encrypted ({} {}, key {}): {reason}", sealed.provider, sealed.version, sealed.name)
            }
            Content::Undecodable { error, .. } => {
                self.closed += 1;
                format!("opens, but is no object: {error}")
            }
        };
        self.say(key, revision, &note);
    }

    fn say(&mut self, key: &[u8], revision: i64, note: &str) {
        if self.notes.len() < NAMED_FAILURES {
            let key = crate::report::text::key(key);
            self.notes.push(format!("{key} at revision {revision} {}", harmless(note)));
        }
    }

    /// Takes over what was met later.
    fn append(&mut self, later: &mut Self) {
        self.found += std::mem::take(&mut later.found);
        self.closed += std::mem::take(&mut later.closed);
        self.met.append(&mut later.met);
        let room = NAMED_FAILURES.saturating_sub(self.notes.len());
        self.notes.extend(later.notes.drain(..).take(room));
    }
}

const MISPLACED: &str = "is not the object that its key names";

fn show(args: &Args, mut found: Found<'_>, configured: bool) -> Result<Exit, Failure> {
    let several_resources = found.selected.resources().count() > 1;
    let single = found.selected.names().count() == 1 && !args.all_namespaces && !args.all_revisions;
    let mut tally = Tally::of(&found);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let shape = Shape {
        wide: args.output == Output::Wide,
        namespaces: args.all_namespaces,
        revisions: args.all_revisions,
        full_names: several_resources,
        now: i64::try_from(now).unwrap_or(i64::MAX),
    };
    let mut broken = None;
    print(Exit::Done, |out| {
        let form = match args.output {
            Output::Table | Output::Wide => {
                return tables(&mut found, &mut tally, &mut broken, Tables::new(out, shape));
            }
            Output::Json => Form::Json,
            Output::Jsonl => Form::Jsonl,
            Output::Name => Form::Name,
            Output::Yaml => Form::Yaml,
        };
        objects(&mut found, &mut tally, &mut broken, (out, Style::new(form, !single, args.decode)))
    })?;
    if let Some(error) = broken {
        return Err(Failure::input(error.to_string()));
    }
    Ok(conclude(args, &found, &tally, configured))
}

fn tables(
    found: &mut Found<'_>,
    tally: &mut Tally,
    broken: &mut Option<FlowError>,
    mut tables: Tables<'_>,
) -> io::Result<()> {
    loop {
        match found.next_batch() {
            Ok(Some(items)) => {
                items.iter().for_each(|item| tally.add(item));
                tables.write(&items)?;
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                *broken = Some(FlowError::Notes(error));
                return Ok(());
            }
        }
    }
}

fn objects(
    found: &mut Found<'_>,
    tally: &mut Tally,
    broken: &mut Option<FlowError>,
    (out, style): (&mut dyn Write, Style),
) -> io::Result<()> {
    let mut objects = Objects::new(out, style);
    let named = tally.named;
    let fresh = || (Piece::default(), Tally { named, ..Tally::default() });
    let work = |seen: &Seen<'_>, (piece, tally): &mut (Piece, Tally)| {
        let written = style.write(seen, piece);
        tally.add_written(seen, &written);
    };
    let flown = found.flow(fresh, work, |(piece, later)| {
        tally.append(later);
        objects.write(piece)
    });
    match flown {
        Ok(()) => objects.finish(),
        Err(FlowError::Out(error)) => Err(error),
        Err(error) => {
            *broken = Some(error);
            objects.finish()
        }
    }
}

/// Says on standard error what the objects themselves do not say.
fn conclude(args: &Args, found: &Found<'_>, tally: &Tally, configured: bool) -> Exit {
    let mut exit = Exit::Done;
    let table = matches!(args.output, Output::Table | Output::Wide);
    if !table || configured {
        tally.notes.iter().for_each(|note| eprintln!("atrest: {note}"));
        let more = tally.closed.saturating_sub(tally.notes.len() as u64);
        if more > 0 {
            eprintln!("atrest: and {more} more that could not be opened");
        }
    }
    if tally.closed > 0 && configured {
        exit = Exit::Findings;
    } else if tally.closed > 0 {
        eprintln!("hint: -c opens what is encrypted");
    }
    let mut missing = Missing::of(&found.selected);
    tally.met.iter().for_each(|(resource, name)| missing.met(resource, name));
    for (resource, name) in missing.iter() {
        eprintln!("atrest: {} {:?} not found", resource, name);
        exit = Exit::Findings;
    }
    if tally.found == 0 {
        let place =
            if args.all_namespaces { String::new() } else { format!(" in {} namespace", harmless(&args.namespace)) };
        eprintln!("No resources found{place}.");
        exit = Exit::Findings;
    }
    if exit == Exit::Findings && tally.closed == 0 && !args.all_namespaces {
        eprintln!("hint: -n names a namespace, -A looks into all of them");
    }
    if found.damaged {
        eprintln!("atrest: the file is damaged, so something may be missing; `atrest check` says what");
        exit = Exit::Findings;
    }
    super::output::tell(&found.notes);
    if found.has_lost() {
        eprintln!(
            "atrest: the server had forgotten or lost what was seen before all of it was read again; run this anew"
        );
        exit = Exit::Findings;
    }
    if found.altered {
        eprintln!("atrest: the file's digest is not that of its bytes: it was changed since it was saved");
        exit = Exit::Findings;
    }
    exit
}

/// The bytes of the one object that was found.
fn raw(mut found: Found<'_>) -> Result<Exit, Failure> {
    let unreadable =
        |error: io::Error| Failure::input(format!("the sorted notes of what was found cannot be read again: {error}"));
    let items = found.next_batch().map_err(unreadable)?.unwrap_or_default();
    let more = !items.is_empty() && found.next_batch().map_err(unreadable)?.is_some();
    match items.as_slice() {
        [] => {
            eprintln!("No resources found.");
            eprintln!("hint: -n names a namespace");
            Ok(Exit::Findings)
        }
        [item] if !more => match &item.content {
            Content::Object { payload, .. } | Content::Undecodable { payload, .. } => {
                print(Exit::Done, |out: &mut dyn Write| out.write_all(payload))
            }
            Content::Closed { reason, .. } => {
                Err(Failure::input(format!("{} does not open: {}", name(item), harmless(reason))))
            }
        },
        _ => Err(Failure::usage("--raw prints one object, and several were found").hint("name it, with its namespace")),
    }
}
