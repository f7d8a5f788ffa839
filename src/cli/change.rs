//! `atrest config keygen`, `rotate`, `enable` and `disable`: a new key, and the staged files of a change.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::config::change::{self, Change, Changed, KeyKind, Stage};
use crate::config::{self};
use crate::kube::resource::GroupResource;
use crate::output::{Output, OutputError};

use super::Failure;
use super::args::{GlobalArgs, SourceArgs};
use super::exit::Exit;
use super::hint::note_words;
use super::losses::{self, Include};
use super::next::{self, Verb};
use super::output::print;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Provider {
    /// XSalsa20-Poly1305, 32 bytes
    Secretbox,
    /// AES-256-CBC; not authenticated
    Aescbc,
    /// AES-256-GCM; a key is good for 200,000 writes
    Aesgcm,
}

impl From<Provider> for KeyKind {
    fn from(provider: Provider) -> Self {
        match provider {
            Provider::Secretbox => Self::Secretbox,
            Provider::Aescbc => Self::AesCbc,
            Provider::Aesgcm => Self::AesGcm,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StageArg {
    /// What will be written can be read, by every API server
    Prepare,
    /// It is written; what was written before can be read
    Promote,
    /// What is not written any more is not read any more
    Prune,
}

impl From<StageArg> for Stage {
    fn from(stage: StageArg) -> Self {
        match stage {
            StageArg::Prepare => Self::Prepare,
            StageArg::Promote => Self::Promote,
            StageArg::Prune => Self::Prune,
        }
    }
}

/// Where the new file goes.
#[derive(Debug, Args)]
struct OutputArgs {
    /// The new file, mode 0600; `-` for standard output
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Replace an existing file, never the one that is read
    #[arg(long)]
    force: bool,
}

/// The store that a key must be unneeded in.
#[derive(Debug, Args)]
struct GateArgs {
    /// With --stage prune: refuse while this snapshot or database needs what would go
    #[arg(long, value_name = "SNAPSHOT")]
    source: Option<PathBuf>,
    /// With --source: older revisions, or what is left of them in the file, need it too
    #[arg(long, value_enum, value_delimiter = ',', requires = "source")]
    including: Vec<Include>,
    /// With --source: where the API server keeps its objects, as in its own --etcd-prefix
    #[arg(long, value_name = "PREFIX", requires = "source")]
    etcd_prefix: Vec<String>,
}

/// A new key, of the system's randomness
///
/// Gives a whole configuration that encrypts Secrets with it and still reads plaintext, or with --key-only just the element
/// for the `keys` of a configuration that exists. `config enable` and `config rotate` make their keys themselves.
#[derive(Debug, Args)]
#[command(after_help = KEYGEN_EXAMPLES)]
pub struct KeygenArgs {
    /// The provider that the key is for
    #[arg(long, value_enum, default_value_t = Provider::Secretbox)]
    provider: Provider,
    /// The key's name, which every value on it bears
    #[arg(long, default_value = "key1")]
    name: String,
    /// Only the element of `keys`
    #[arg(long)]
    key_only: bool,
    /// The new file, mode 0600; `-` for standard output
    #[arg(long, short, value_name = "FILE", required_unless_present = "stdout")]
    output: Option<PathBuf>,
    /// Print it
    #[arg(long, conflicts_with = "output")]
    stdout: bool,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

const KEYGEN_EXAMPLES: &str = "\
Exit codes: 0 written, 2 wrong usage, 4 not written.

Examples:
  atrest config keygen -o encryption-config.yaml
  atrest config keygen --provider aescbc --name key2 --key-only --stdout";

/// The three configurations of a key's rotation, one after the other
///
/// Every API server must be able to read what any of them writes, so a key changes in three stages, each made of the file
/// before it. prepare: a new key stands second. promote: it writes. prune: the old keys go. The file's text is edited where it
/// must change and stays as it is elsewhere; the result is read again and held against what the stage promises, resource by
/// resource, before it is written. The keys of KMS providers rotate in the plugin. K3s, RKE2 and OpenShift keep the
/// file themselves and have commands of their own.
#[derive(Debug, Args)]
#[command(after_help = ROTATE_EXAMPLES)]
pub struct RotateArgs {
    /// The configuration that the API servers have now
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// How far to go
    #[arg(long, value_enum)]
    stage: StageArg,
    /// The new key's provider; the old key's where it is not given
    #[arg(long, value_enum)]
    provider: Option<Provider>,
    /// The new key's name, in prepare and promote; the next free number where it is not given
    #[arg(long)]
    name: Option<String>,
    /// Only this old key: in prepare and promote one that writes, in prune one that goes; may be repeated
    #[arg(long, value_name = "NAME")]
    key: Vec<String>,
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const ROTATE_EXAMPLES: &str = "\
Exit codes: 0 written; 1 --source needs what would go, or could not be read whole; 2 wrong usage, or a stage that does not
apply to the file; 3 a file that cannot be read, or that kube-apiserver refuses; 4 not written.

Examples:
  atrest config rotate current.yaml --stage prepare -o prepared.yaml
  atrest config rotate current.yaml --stage prepare --provider secretbox -o prepared.yaml
  atrest config rotate prepared.yaml --stage promote --name key2 -o promoted.yaml
  atrest config rotate promoted.yaml --stage prune --source after.db -o pruned.yaml
  atrest config rotate promoted.yaml --stage prune --source after.db --including history,residue -o pruned.yaml";

/// Begin to encrypt: from plaintext to a key
///
/// Without CONFIG it makes a new file, for Secrets unless told otherwise. prepare: the key can be read with, plaintext is
/// written. promote: the key writes, plaintext is read; with one API server this can come first. prune: plaintext is not read
/// any more.
#[derive(Debug, Args)]
#[command(after_help = ENABLE_EXAMPLES)]
pub struct EnableArgs {
    /// The configuration that the API servers have now, if they have any
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// How far to go
    #[arg(long, value_enum, default_value_t = StageArg::Promote)]
    stage: StageArg,
    /// The key's provider
    #[arg(long, value_enum, default_value_t = Provider::Secretbox)]
    provider: Provider,
    /// The key's name; the first free number where it is not given
    #[arg(long)]
    name: Option<String>,
    /// Only entries that list one of these; without CONFIG, what to encrypt
    #[arg(long, value_name = "RESOURCE", value_delimiter = ',')]
    resource: Vec<String>,
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const ENABLE_EXAMPLES: &str = "\
Exit codes: as of `atrest config rotate`.

Examples:
  atrest config enable --stage prepare -o prepared.yaml
  atrest config enable prepared.yaml -o enabled.yaml
  atrest config enable --provider aesgcm --resource secrets,configmaps -o enabled.yaml
  atrest config enable enabled.yaml --stage prune --source after.db -o strict.yaml";

/// Leave encryption: from keys to plaintext
///
/// prepare: plaintext can be read. promote: plaintext is written, the keys are read. prune: there are no keys any more.
#[derive(Debug, Args)]
#[command(after_help = DISABLE_EXAMPLES)]
pub struct DisableArgs {
    /// The configuration that the API servers have now
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// How far to go
    #[arg(long, value_enum)]
    stage: StageArg,
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const DISABLE_EXAMPLES: &str = "\
Exit codes: as of `atrest config rotate`.

Examples:
  atrest config disable current.yaml --stage prepare -o prepared.yaml
  atrest config disable prepared.yaml --stage promote -o disabled.yaml
  atrest config disable disabled.yaml --stage prune --source after.db -o plain.yaml";

/// Runs `config keygen`.
pub fn keygen(args: &KeygenArgs) -> Result<Exit, Failure> {
    let kind = KeyKind::from(args.provider);
    let text = match args.key_only {
        true => change::fresh_key_entry(&args.name)?,
        false => change::fresh_configuration(kind, &args.name, &["secrets".to_owned()], Stage::Promote)?,
    };
    let to_stdout = Path::new("-");
    let output = args.output.as_deref().unwrap_or(to_stdout);
    let exit = deliver(&text, begin(output, args.force, &[])?)?;
    if kind == KeyKind::AesGcm {
        say("aesgcm: change the key again before it has sealed 200,000 values; every write counts\n");
    }
    Ok(exit)
}

/// Runs `config rotate`.
pub fn rotate(args: &RotateArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    if args.stage == StageArg::Prune && (args.provider.is_some() || args.name.is_some()) {
        return Err(Failure::usage("--provider and --name are about the new key, and prune takes old ones out")
            .hint("--key names an old key that is to go"));
    }
    let change =
        Change::Rotate { provider: args.provider.map(KeyKind::from), name: args.name.clone(), keys: args.key.clone() };
    carry_out(Verb::Rotate, (&args.config, &change, args.stage.into()), &args.gate, &args.output, global)
}

/// Runs `config enable`.
pub fn enable(args: &EnableArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let Some(config) = &args.config else { return enable_anew(args) };
    let change = Change::Enable {
        provider: args.provider.into(),
        name: args.name.clone(),
        resources: args.resource.iter().map(|resource| GroupResource::parse(resource)).collect(),
    };
    carry_out(Verb::Enable, (config, &change, args.stage.into()), &args.gate, &args.output, global)
}

/// Runs `config disable`.
pub fn disable(args: &DisableArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    carry_out(Verb::Disable, (&args.config, &Change::Disable, args.stage.into()), &args.gate, &args.output, global)
}

fn enable_anew(args: &EnableArgs) -> Result<Exit, Failure> {
    let stage = Stage::from(args.stage);
    if stage == Stage::Prune {
        return Err(Failure::usage("without a CONFIG there is nothing to take out"));
    }
    let secrets = ["secrets".to_owned()];
    let resources = if args.resource.is_empty() { &secrets[..] } else { &args.resource };
    let name = args.name.as_deref().unwrap_or("key1");
    let fresh = change::fresh_anew(args.provider.into(), name, resources, stage)?;
    let exit = deliver(&fresh.text, begin(&args.output.output, args.output.force, &[])?)?;
    let file = file_name(&args.output.output);
    say(&format!("{}{}", next::done(&fresh), next::next(Verb::Enable, stage, &fresh, &file, &file)));
    Ok(exit)
}

/// One stage of one change, from the file to the file.
fn carry_out(
    verb: Verb,
    (path, what, stage): (&Path, &Change, Stage),
    gate: &GateArgs,
    output: &OutputArgs,
    global: &GlobalArgs,
) -> Result<Exit, Failure> {
    if gate.source.is_some() && stage != Stage::Prune {
        return Err(Failure::usage("--source is asked before something is taken out").hint("that is --stage prune"));
    }
    let name = path.to_string_lossy();
    let contents = config::read_file(path).map_err(|error| Failure::input(error.to_string()).about(&name))?;
    let changed = change::change(&contents.bytes, what, stage).map_err(|error| Failure::from(error).about(&name))?;
    let stdin = Path::new("/dev/stdin");
    let source = gate.source.as_deref().map(|source| if source.as_os_str() == "-" { stdin } else { source });
    let inputs: Vec<&Path> = std::iter::once(path).chain(source).collect();
    let begun = begin(&output.output, output.force, &inputs)?;
    let proof = match stage {
        Stage::Prune => Some(prove(&name, &contents.bytes, &changed, gate, global)?),
        Stage::Prepare | Stage::Promote => None,
    };
    let exit = deliver(&changed.text, begun)?;
    let notes = changed.notes.iter().map(|note| note_words(note) + "\n").collect::<String>();
    let proof = proof.map_or(String::new(), |proof| proof + "\n");
    let next = next::next(verb, stage, &changed, &file_name(&output.output), &name);
    say(&format!("{}{notes}{proof}{next}", next::done(&changed)));
    Ok(exit)
}

/// Asks the store whether it needs what goes; without one, says that nobody was asked.
fn prove(name: &str, bytes: &[u8], changed: &Changed, gate: &GateArgs, global: &GlobalArgs) -> Result<String, Failure> {
    let Some(source) = &gate.source else {
        return Ok(
            "nothing was proved: no --source was given, and values that need what went can't be read any more".into()
        );
    };
    let before = config::load(bytes).map_err(|error| Failure::input(error.to_string()).about(name))?;
    let source = SourceArgs::file(source.clone());
    losses::refuse((name, before), &changed.configuration, (&source, &gate.etcd_prefix), &gate.including, global)
}

/// A file that is begun, with its name; none for standard output.
fn begin(path: &Path, force: bool, inputs: &[&Path]) -> Result<Option<(String, Output)>, Failure> {
    if path.as_os_str() == "-" {
        return Ok(None);
    }
    let name = path.to_string_lossy().into_owned();
    let output = Output::create(path, force, inputs).map_err(|error| Failure::from(error).about(&name))?;
    Ok(Some((name, output)))
}

fn deliver(text: &[u8], begun: Option<(String, Output)>) -> Result<Exit, Failure> {
    let Some((name, output)) = begun else { return print(Exit::Done, |out| out.write_all(text)) };
    let written = output.file().write_all(text).map_err(OutputError::Write);
    written.and_then(|()| output.commit()).map_err(|error| Failure::from(error).about(&name))?;
    Ok(Exit::Done)
}

/// The new file as the next commands name it.
fn file_name(path: &Path) -> String {
    if path.as_os_str() == "-" { "FILE".to_owned() } else { path.to_string_lossy().into_owned() }
}

/// Says something beside the answer.
fn say(text: &str) {
    // There is nowhere left to complain when standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}
