//! `atrest extract`: every object of a store as a manifest.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::{ValueEnum, value_parser};
use rayon::prelude::*;

use crate::kube::key::Roots;
use crate::output::tree::{Folder, Tree};
use crate::recover::extract::{ExtractError, Extracted, Extraction, Outcome, Piece, Treatment};
use crate::recover::get::{Missing, Order, Wanted, Which, find};
use crate::report::extract::{Counts, LEFT_OUT, MANIFEST, Rendered, SUMS};
use crate::report::text::{grouped, harmless};
use crate::report::{self};
use crate::source::snapshot::PassOptions;

use super::Failure;
use super::args::{GlobalArgs, fields, labels, selection};
use super::exit::Exit;
use super::judge::{JudgeArgs, Prepared};
use super::output::{NAMED_FAILURES, print};
use super::progress::Progress;
use super::source::{OpenSource, about, open};

/// Every object of a store as a manifest, in the order in which they are applied
///
/// Writes NN-PHASE/NAMESPACE/KIND.GROUP/NAME.yaml for each object, with `_cluster` for those that are in no namespace;
/// manifest.jsonl (each file with its digest and key), SHA256SUMS, and left-out.jsonl (what is no file, and why). The phases
/// are numbered in the order in which they are to be applied. Objects of all namespaces, unless -n says which. Files can
/// be read by their owner alone, and hold Secrets as they are. The source is only read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    judge: JudgeArgs,
    /// Only these: RESOURCE[,RESOURCE] [NAME...] or RESOURCE/NAME..., named as for kubectl
    #[arg(value_name = "RESOURCE")]
    selection: Vec<String>,
    /// The folder to write to, new or empty
    #[arg(long, short, value_name = "DIR", required_unless_present = "bundle", conflicts_with = "bundle")]
    output_dir: Option<PathBuf>,
    /// Write one archive instead: FILE.tar.zst
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// For another cluster: without what its API server sets or refuses, and without what it should not be given
    #[arg(long)]
    clean: bool,
    /// Leave out what controllers, kubelets and API servers make by themselves
    #[arg(long)]
    no_generated: bool,
    /// Only this namespace; may be repeated
    #[arg(long, short)]
    namespace: Vec<String>,
    /// Only objects with such labels: app=web,tier!=db,env in (a,b),!gone
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Vec<String>,
    /// Only objects of such a name: metadata.name=x, metadata.namespace!=y
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// The store as it was at this revision
    #[arg(long, value_name = "REVISION", value_parser = value_parser!(i64).range(1..))]
    revision: Option<i64>,
    /// Keep managedFields
    #[arg(long, conflicts_with = "clean")]
    show_managed_fields: bool,
    /// Write into a folder that is not empty, and replace files
    #[arg(long)]
    force: bool,
    /// The form of the report
    #[arg(long, value_enum, default_value_t = Report::Table)]
    report: Report,
}

impl Args {
    /// With endpoints the first word is no source.
    pub fn settle(&mut self) {
        self.judge.source.give_back(&mut self.selection, false);
    }
}

const EXAMPLES: &str = "\
Exit codes: 0 everything that was wanted is written; 1 something did not open, is not as its key says, or may be missing from
a damaged file, or nothing was found; 2 wrong usage; 3 the input cannot be read; 4 what is written cannot be.

Examples:
  atrest extract snapshot.db -c encryption-config.yaml --output-dir everything
  atrest extract snapshot.db -c encryption-config.yaml --clean --no-generated --output-dir restore
  atrest extract snapshot.db -c encryption-config.yaml secrets,configmaps -n prod --output-dir prod
  atrest extract snapshot.db -c encryption-config.yaml --bundle everything.tar.zst
  for phase in restore/[0-9]*; do kubectl apply --recursive -f \"$phase\"; done";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Report {
    /// For a person
    Table,
    /// For a program
    Json,
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    let selection = selection(&args.selection)?;
    let (labels, fields) = (labels(&args.selector)?, fields(args.field_selector.as_deref())?);
    let given = super::configs::given(&args.judge.config.config, &args.judge.token)?;
    let OpenSource { mut store, facts, log_beside } = open(&args.judge.source, global)?;
    store.look_at(args.revision);
    let rules = given.rules(&mut store, &facts.path, global)?;
    let roots = (!args.judge.etcd_prefix.is_empty()).then(|| Roots::given(&args.judge.etcd_prefix));
    let deks = match args.judge.deks(&rules, &mut store, roots.clone(), global)? {
        Prepared::Plan(plan) => return print(Exit::Done, |out| out.write_all(plan.as_bytes())),
        Prepared::Deks(deks) => deks,
    };
    let mut place = Place::open(args)?;
    let digest = !args.judge.source.no_digest;
    let reads = if digest { 2 } else { 1 };
    let progress = Progress::bytes(global, "reading", reads * store.bytes());
    let wanted = Wanted {
        pass: PassOptions { digest, threads: 0, progress: &|bytes| progress.add(bytes) },
        roots,
        selection,
        namespaces: args.namespace.clone(),
        fields,
        labels,
        which: Which::Current,
        revision: args.revision,
        managed_fields: args.show_managed_fields || args.clean,
        order: Order::Apply,
        payloads: false,
        digests: None,
        deks,
    };
    let mut found = find(&mut store, &rules, &wanted).map_err(|error| about(Failure::from(error), &facts))?;
    super::output::tell(&found.notes);
    if log_beside {
        eprintln!("atrest: {}: newer writes may be only in the log beside it", harmless(&facts.path));
    }
    let mut missing = Missing::of(&found.selected);
    let (damaged, altered) = (found.damaged, found.altered);
    let treatment = Treatment { clean: args.clean, no_generated: args.no_generated };
    let extraction = Extraction::begin(&mut found, treatment).map_err(broken)?;
    let written = write(extraction, &mut place, &mut missing)?;
    let counts = place.finish(written)?;
    let damaged = damaged || found.has_lost();
    let exit = conclude(args, &counts, &missing, (damaged, altered), rules.given());
    let name =
        args.output_dir.as_ref().or(args.bundle.as_ref()).map_or(String::new(), |path| path.display().to_string());
    print(exit, |out| match args.report {
        Report::Table => report::extract::text(out, &name, &counts),
        Report::Json => report::extract::json(out, &facts.path, &name, &counts),
    })
}

fn broken(error: ExtractError) -> Failure {
    Failure::input(error.to_string())
}

/// The lists that are written behind all files, until then in files without a name.
struct Lists {
    manifest: BufWriter<File>,
    sums: BufWriter<File>,
    left_out: BufWriter<File>,
}

impl Lists {
    fn new() -> io::Result<Self> {
        let list = || tempfile::tempfile().map(BufWriter::new);
        Ok(Self { manifest: list()?, sums: list()?, left_out: list()? })
    }

    /// Names and contents, in the order in which they are written: the digests tell that all is there.
    fn finish(self) -> io::Result<[(&'static str, File); 3]> {
        let end = |list: BufWriter<File>| {
            let mut file = list.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.seek(SeekFrom::Start(0))?;
            Ok::<_, io::Error>(file)
        };
        Ok([(LEFT_OUT, end(self.left_out)?), (MANIFEST, end(self.manifest)?), (SUMS, end(self.sums)?)])
    }
}

fn no_list(error: io::Error) -> Failure {
    Failure::refused(format!("the lists cannot be written to a temporary file: {error}"))
        .hint("TMPDIR can name another folder")
}

/// What was written, and the lists of it.
struct Written {
    lists: Lists,
    counts: Counts,
    named: Vec<String>,
}

/// Writes all files and notes the rest. The next objects are read and decoded while those before them are written.
fn write(mut extraction: Extraction<'_, '_>, place: &mut Place, missing: &mut Missing) -> Result<Written, Failure> {
    let mut written = Written { lists: Lists::new().map_err(no_list)?, counts: Counts::default(), named: Vec::new() };
    let mut next = || extraction.next_batch().map_err(|error| broken(error.into()));
    let mut ahead = next()?;
    while let Some(objects) = ahead {
        let (after, done) = rayon::join(&mut next, || written.write(&objects, place, missing));
        done?;
        ahead = after?;
    }
    for line in &written.named {
        eprintln!("atrest: {line}");
    }
    let more = written.counts.lost().saturating_sub(written.named.len() as u64);
    if more > 0 {
        eprintln!("atrest: and {} more; {LEFT_OUT} lists them", grouped(more));
    }
    Ok(written)
}

fn piece(object: &Extracted) -> Option<&Piece> {
    match &object.outcome {
        Outcome::File(piece) => Some(piece),
        Outcome::LeftOut { .. } => None,
    }
}

impl Written {
    fn write(&mut self, objects: &[Extracted], place: &mut Place, missing: &mut Missing) -> Result<(), Failure> {
        let rendered: Vec<Option<Rendered>> =
            objects.par_iter().map(|object| piece(object).map(Rendered::of)).collect();
        let files: Vec<&Rendered> = rendered.iter().flatten().collect();
        self.counts.replaced += place.write(&files)?;
        for (object, rendered) in objects.iter().zip(&rendered) {
            missing.met(&object.resource, &object.name);
            self.note(object, rendered.as_ref()).map_err(no_list)?;
        }
        Ok(())
    }

    fn note(&mut self, object: &Extracted, rendered: Option<&Rendered>) -> io::Result<()> {
        match (&object.outcome, rendered) {
            (Outcome::LeftOut { why, reason }, _) => {
                *self.counts.left_out.entry(*why).or_default() += 1;
                if why.is_loss() && self.named.len() < NAMED_FAILURES {
                    self.named.push(format!("{}: {}", report::text::key(&object.key), harmless(reason)));
                }
                report::extract::left_out_row(&mut self.lists.left_out, object, *why, reason)
            }
            (Outcome::File(piece), Some(rendered)) => {
                self.counts.files += 1;
                self.counts.bytes += rendered.text.len() as u64;
                let lists: (&mut dyn Write, &mut dyn Write) = (&mut self.lists.manifest, &mut self.lists.sums);
                report::extract::file_row(lists, self.counts.files, (object, piece), rendered)
            }
            (Outcome::File(_), None) => Ok(()),
        }
    }
}

/// Where files go.
enum Place {
    Folder {
        tree: Tree,
        path: PathBuf,
    },
    #[cfg(feature = "zstd")]
    Bundle(Box<bundle::Archive>),
}

impl Place {
    fn open(args: &Args) -> Result<Self, Failure> {
        let source = args.judge.source.source.as_deref();
        let source = source.map(|source| if source == Path::new("-") { Path::new("/dev/stdin") } else { source });
        let inputs: Vec<&Path> = args.judge.config.config.iter().map(PathBuf::as_path).chain(source).collect();
        match (&args.output_dir, &args.bundle) {
            (Some(path), _) => {
                let failed = |error| Failure::from(error).about(&path.to_string_lossy());
                let mut tree = Tree::create(path, args.force, &inputs).map_err(failed)?;
                // Lists of an older run would say that all is there.
                [SUMS, MANIFEST, LEFT_OUT].iter().try_for_each(|name| tree.remove(name)).map_err(failed)?;
                Ok(Self::Folder { tree, path: path.clone() })
            }
            #[cfg(feature = "zstd")]
            (None, Some(path)) => bundle::Archive::create(path, args.force, &inputs).map(Box::new).map(Self::Bundle),
            #[cfg(not(feature = "zstd"))]
            (None, Some(_)) => Err(Failure::usage("this build writes no archives: it has no zstd")),
            (None, None) => Err(Failure::usage("--output-dir or --bundle says where to")),
        }
    }

    /// Writes some files; says how many of them took the place of others.
    fn write(&mut self, files: &[&Rendered]) -> Result<u64, Failure> {
        match self {
            Self::Folder { tree, path } => {
                let failed = |error| Failure::from(error).about(&path.to_string_lossy());
                let mut folders: Vec<(&[String; 3], Folder)> = Vec::new();
                let mut jobs: Vec<(usize, &Rendered)> = Vec::with_capacity(files.len());
                for file in files {
                    if folders.last().is_none_or(|(names, _)| **names != file.folders) {
                        let names: Vec<&str> = file.folders.iter().map(String::as_str).collect();
                        folders.push((&file.folders, tree.folder(&names).map_err(failed)?));
                    }
                    jobs.push((folders.len().saturating_sub(1), file));
                }
                let written = jobs.par_iter().map(|(folder, file)| match folders.get(*folder) {
                    Some((_, folder)) => tree.write(folder, &file.name, file.text.as_bytes()).map(u64::from),
                    None => Ok(0),
                });
                written.try_reduce(|| 0, |one, other| Ok(one + other)).map_err(failed)
            }
            #[cfg(feature = "zstd")]
            Self::Bundle(archive) => archive.write(files).map(|()| 0),
        }
    }

    /// Writes the lists, brings all of it to the disk, and counts.
    fn finish(self, written: Written) -> Result<Counts, Failure> {
        let Written { lists, mut counts, .. } = written;
        let lists = lists.finish().map_err(no_list)?;
        match self {
            Self::Folder { tree, path } => {
                let failed = |error| Failure::from(error).about(&path.to_string_lossy());
                let root = tree.folder(&[]).map_err(failed)?;
                for (name, mut list) in lists {
                    // The digests come last, and say that everything before them is on the disk.
                    if name == SUMS {
                        tree.sync().map_err(failed)?;
                    }
                    let mut growing = tree.begin(&root, name).map_err(failed)?;
                    io::copy(&mut list, &mut growing)
                        .map_err(|error| Failure::refused(format!("{name} can't be written: {error}")))?;
                    growing.finish().map_err(failed)?;
                }
                tree.sync().map_err(failed)?;
                counts.strangers = tree.files_before().saturating_sub(counts.replaced);
            }
            #[cfg(feature = "zstd")]
            Self::Bundle(archive) => archive.finish(lists)?,
        }
        Ok(counts)
    }
}

/// Says on standard error what is missing.
fn conclude(
    args: &Args,
    counts: &Counts,
    missing: &Missing,
    (damaged, altered): (bool, bool),
    configured: bool,
) -> Exit {
    let mut exit = if counts.lost() > 0 { Exit::Findings } else { Exit::Done };
    if counts.lost() > 0 && !configured {
        eprintln!("hint: -c opens what is encrypted");
    }
    for (resource, name) in missing.iter() {
        eprintln!("atrest: {resource} {name:?} not found");
        exit = Exit::Findings;
    }
    if counts.files == 0 && counts.left_out.is_empty() {
        let place = if args.namespace.is_empty() { "" } else { " in these namespaces" };
        eprintln!("No resources found{place}.");
        exit = Exit::Findings;
    }
    if damaged {
        eprintln!("atrest: the file is damaged, so something may be missing; `atrest check` says what");
        exit = Exit::Findings;
    }
    if altered {
        eprintln!("atrest: the file's digest is not that of its bytes: it was changed since it was saved");
        exit = Exit::Findings;
    }
    exit
}

#[cfg(feature = "zstd")]
mod bundle {
    //! An archive that has its name only when it is whole.

    use std::fs::File;
    use std::io::{self, BufWriter};
    use std::path::{Path, PathBuf};

    use crate::cli::Failure;
    use crate::output::Output;
    use crate::output::bundle::Bundle;
    use crate::report::extract::Rendered;

    pub struct Archive {
        bundle: Bundle<BufWriter<File>>,
        output: Output,
        path: PathBuf,
    }

    impl Archive {
        pub fn create(path: &Path, force: bool, inputs: &[&Path]) -> Result<Self, Failure> {
            let name = path.to_string_lossy();
            let output = Output::create(path, force, inputs).map_err(|error| Failure::from(error).about(&name))?;
            let file = output.file().try_clone();
            let bundle = file.and_then(|file| Bundle::begin(BufWriter::new(file)));
            let bundle = bundle.map_err(|error| failed(path, &error))?;
            Ok(Self { bundle, output, path: path.to_owned() })
        }

        pub fn write(&mut self, files: &[&Rendered]) -> Result<(), Failure> {
            for file in files {
                let folders: Vec<&str> = file.folders.iter().map(String::as_str).collect();
                let text = file.text.as_bytes();
                let written = self.bundle.file(&folders, &file.name, text.len() as u64, text);
                written.map_err(|error| failed(&self.path, &error))?;
            }
            Ok(())
        }

        pub fn finish(mut self, lists: [(&'static str, File); 3]) -> Result<(), Failure> {
            for (name, list) in lists {
                let written = list.metadata().and_then(|of| self.bundle.file(&[], name, of.len(), &list));
                written.map_err(|error| failed(&self.path, &error))?;
            }
            let flushed =
                self.bundle.finish().and_then(|file| file.into_inner().map_err(io::IntoInnerError::into_error));
            flushed.map_err(|error| failed(&self.path, &error))?;
            self.output.commit().map_err(|error| Failure::from(error).about(&self.path.to_string_lossy()))
        }
    }

    fn failed(path: &Path, error: &io::Error) -> Failure {
        Failure::refused(format!("it can't be written: {error}")).about(&path.to_string_lossy())
    }
}
