//! `atrest decode`: one stored value to JSON or YAML.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use zeroize::Zeroizing;

use crate::audit::classify::Reason;
#[cfg(not(feature = "kms"))]
use crate::audit::deks::Deks;
#[cfg(feature = "kms")]
use crate::audit::deks::collect_one;
use crate::kube::key::{Address, Roots};
use crate::kube::payload::{self, Encoding};
use crate::kube::schema::{self, DecodeError, Decoded, Dress};
use crate::provider::plaintext::Plaintext;
use crate::recover::Document;
use crate::recover::open::{Opened, SealedBy, open, sealed_by};
use crate::recover::stored::{Given, stored, without_line_feed};
use crate::report::text::harmless;
use crate::report::yaml;

use super::Failure;
use super::args::{ConfigArgs, GlobalArgs};
use super::exit::Exit;
use super::judge;
use super::output::print;

/// Larger inputs are no single value; etcd takes 1.5 MB unless it was told otherwise.
const MAX_INPUT_BYTES: u64 = 256 << 20;

/// Where objects lie unless --etcd-prefix says otherwise.
const USUAL_ROOTS: [&str; 3] = ["/registry", "/kubernetes.io", "/openshift.io"];

/// One stored value to JSON or YAML
///
/// Takes a value as `etcdctl get --print-value-only` prints it, raw, in base64 or in hexadecimal, which it tells by
/// itself. What it is goes to standard error, the object to standard output. An encrypted value needs its
/// configuration and the key at which it is stored.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The file with the value; `-` or nothing for standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    #[cfg(feature = "kms")]
    #[command(flatten)]
    kms: super::kms::KmsArgs,
    /// The etcd key at which the value is stored
    #[arg(long = "as", value_name = "KEY")]
    stored_as: Option<String>,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value_t = Output::Yaml)]
    output: Output,
    /// Where the API server keeps its objects, as in its own --etcd-prefix
    #[arg(long, value_name = "PREFIX")]
    etcd_prefix: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  etcdctl get --print-value-only /registry/deployments/default/web | atrest decode
  etcdctl get --print-value-only /registry/secrets/default/db |
    atrest decode -c encryption-config.yaml --as /registry/secrets/default/db
  atrest decode -c encryption-config.yaml --as /registry/secrets/default/db --kms value.bin
  atrest decode -o json value.b64

Protobuf fields that no release of Kubernetes has are shown under \"$unknown\", with number and bytes.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// As kubectl shows it
    Yaml,
    /// On several lines
    Json,
}

/// An object, and what is to be said of it.
struct Object {
    json: Zeroizing<Vec<u8>>,
    about: String,
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    let path = args.file.as_deref().filter(|path| path.as_os_str() != "-");
    let name = path.map_or("standard input".into(), Path::to_string_lossy);
    let input = read(path).map_err(|error| Failure::input(format!("cannot be read: {error}")).about(&name))?;
    let (value, given) = stored(input);
    let sealed = sealed_by(&value).map(SealedBy::into_owned);
    let object = match &sealed {
        Some(sealed) => unseal(args, &value, sealed, global),
        None => plain(&value).map(Unsealed::Object),
    };
    let mut object = match object.map_err(|failure| failure.about(&name))? {
        Unsealed::Object(object) => object,
        Unsealed::Plan(plan) => return print(Exit::Done, |out| out.write_all(plan.as_bytes())),
    };
    match given {
        Given::Raw => {}
        Given::Base64 => object.about.insert_str(0, "base64 of "),
        Given::Hex => object.about.insert_str(0, "hexadecimal of "),
    }
    if !global.quiet {
        eprintln!("{}", object.about);
    }
    show(&object.json, args.output)
}

fn read(path: Option<&Path>) -> io::Result<Vec<u8>> {
    let mut input = Vec::new();
    match path {
        Some(path) => File::open(path)?.take(MAX_INPUT_BYTES + 1).read_to_end(&mut input)?,
        None => io::stdin().lock().take(MAX_INPUT_BYTES + 1).read_to_end(&mut input)?,
    };
    if input.len() as u64 > MAX_INPUT_BYTES {
        return Err(io::Error::other("it is no single value, but more than 256 MiB"));
    }
    Ok(input)
}

/// A value that is stored as it is.
fn plain(value: &[u8]) -> Result<Object, Failure> {
    let (decoded, json) = object(value).map_err(|error| Failure::input(error.to_string()).hint(FORMS))?;
    let about = format!("{}, not encrypted", describe(&decoded, &json));
    Ok(Object { json, about })
}

const FORMS: &str =
    "a value is given as it is stored, in base64 or in hexadecimal; `etcdctl get --print-value-only KEY` prints one";

/// Decodes a value, without the line feed that etcdctl adds if it cannot be decoded with it.
fn object(value: &[u8]) -> Result<(Decoded, Zeroizing<Vec<u8>>), DecodeError> {
    let decode = |value: &[u8]| {
        let mut json = Zeroizing::new(Vec::with_capacity(2 * value.len()));
        schema::to_json(value, &Dress::STORED, &mut json).map(|decoded| (decoded, json))
    };
    decode(value).or_else(|error| without_line_feed(value).ok_or(error).and_then(decode).map_err(|_| error))
}

/// What became of a sealed value.
enum Unsealed {
    /// It is open.
    Object(Object),
    /// Only the plan of asking a KMS plugin was wanted; this is it.
    #[cfg_attr(not(feature = "kms"), expect(dead_code, reason = "nothing is planned without plugins to ask"))]
    Plan(String),
}

/// A sealed value, which a configuration has to open.
fn unseal(args: &Args, value: &[u8], sealed: &SealedBy<'_>, global: &GlobalArgs) -> Result<Unsealed, Failure> {
    let by = named(sealed);
    let Some(key) = &args.stored_as else {
        let failure = Failure::input(format!("is encrypted: {by}"));
        return Err(failure.hint("give its configuration with -c, and with --as the key at which it is stored"));
    };
    if args.config.config.is_empty() {
        return Err(Failure::input(format!("is encrypted: {by}")).hint("give its configuration with -c"));
    }
    let rules = judge::rules(&args.config)?;
    let roots = if args.etcd_prefix.is_empty() { Roots::given(&USUAL_ROOTS) } else { Roots::given(&args.etcd_prefix) };
    let address = roots.locate(key.as_bytes());
    if !matches!(address, Address::Object(_)) {
        let failure = Failure::usage(format!("{key:?} is no key of an API object"));
        return Err(failure
            .hint("--as takes the whole key, as /registry/secrets/NAMESPACE/NAME; --etcd-prefix names another root"));
    }
    #[cfg(feature = "kms")]
    let deks = {
        let requests = || {
            // With the line feed that etcdctl adds it may be no envelope.
            let asked = |value: &[u8]| collect_one(&rules, &roots, key.as_bytes(), value);
            let bare = without_line_feed(value).map(asked);
            Ok(bare
                .filter(|requests| requests.iter().any(|of_file| !of_file.is_empty()))
                .unwrap_or_else(|| asked(value)))
        };
        match super::kms::prepare_for(&args.kms, (&rules, &[]), global, requests)? {
            super::judge::Prepared::Plan(plan) => return Ok(Unsealed::Plan(plan)),
            super::judge::Prepared::Deks(deks) => deks,
        }
    };
    #[cfg(not(feature = "kms"))]
    let deks = {
        let _ = global;
        Deks::default()
    };
    let mut refusal = None;
    for candidate in [Some(value), without_line_feed(value)].into_iter().flatten() {
        let mut scratch = Plaintext::new();
        match open(&rules, &deks, &address, key.as_bytes(), candidate, &mut scratch) {
            Opened::Plain { plaintext, label, stale, .. } => match object(plaintext) {
                Ok((decoded, json)) => {
                    let stale = if stale == Some(true) { ", stale" } else { "" };
                    let mut about =
                        format!("{}, opened by {}{stale}", describe(&decoded, &json), harmless(&label.to_string()));
                    if let (Address::Object(object), Ok((_, identity))) = (&address, payload::identify(plaintext))
                        && payload::mismatch(object, &identity).is_some()
                    {
                        about.push_str("; it is not the object that the key names");
                    }
                    return Ok(Unsealed::Object(Object { json, about }));
                }
                Err(error) => {
                    let message = format!("is {by}; {label} opens it, but what comes is {error}");
                    refusal.get_or_insert(
                        Failure::input(harmless(&message).into_owned())
                            .hint("the key is probably a wrong one of the same name"),
                    );
                }
            },
            Opened::Closed { reason, .. } => {
                let failure = Failure::input(format!("is {by}, and does not open: {}", harmless(&reason.to_string())));
                // What only waits is what was stored; with a line feed behind it, it may be no envelope.
                if matches!(reason, Reason::Waits) {
                    refusal = Some(failure.hint("--kms asks the plugin for its data key"));
                    continue;
                }
                refusal.get_or_insert(failure.hint(
                    "some providers need the very key at which a value was stored: is --as right, and the value whole?",
                ));
            }
        }
    }
    Err(refusal.unwrap_or_else(|| Failure::input("is empty")))
}

/// Provider and key in words.
fn named(sealed: &SealedBy<'_>) -> String {
    match sealed.provider {
        "" => "sealed by a provider that no release has".to_owned(),
        provider => {
            let name = harmless(&sealed.name);
            format!("{provider} {}, key {name}", sealed.version)
        }
    }
}

/// Form, kind and name in words.
fn describe(decoded: &Decoded, json: &[u8]) -> String {
    let document = Document::parse(json).ok();
    let text = |path: &[&str]| {
        let node = document.as_ref().and_then(|document| document.root().find(path));
        node.and_then(|node| node.text()).map_or(String::new(), |text| harmless(&text).into_owned())
    };
    let name = match (text(&["metadata", "namespace"]), text(&["metadata", "name"])) {
        (namespace, name) if namespace.is_empty() => name,
        (namespace, name) => format!("{namespace}/{name}"),
    };
    let form = match decoded.encoding {
        Encoding::Other => "YAML or base64",
        encoding => encoding.as_str(),
    };
    let mut words = format!("{} {} {name}: {form}", text(&["apiVersion"]), text(&["kind"]));
    if !decoded.known_kind {
        words.push_str(" of a kind that is not known");
    }
    if decoded.unknown_fields > 0 {
        words.push_str(&format!(", {} unknown fields", decoded.unknown_fields));
    }
    words
}

fn show(json: &[u8], output: Output) -> Result<Exit, Failure> {
    let document = Document::parse(json).map_err(|error| Failure::input(error.to_string()))?;
    let mut text = Zeroizing::new(String::new());
    match output {
        Output::Yaml => yaml::write(document.root(), &mut text),
        Output::Json => {
            crate::report::object::pretty(document.root(), 0, &mut text);
            text.push('\n');
        }
    }
    print(Exit::Done, |out| out.write_all(text.as_bytes()))
}
