//! `atrest recover-config`: the configuration that K3s, RKE2 and OpenShift keep inside their store.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use zeroize::Zeroizing;

use crate::config::{ApiServers, Configuration};
use crate::distro::gather::Gathered;
use crate::distro::merge::{Added, Merged};
use crate::distro::openshift::{self, Kept};
use crate::distro::recovered::Recovered;
use crate::distro::steps::{Remark, Weight};
use crate::distro::token::Token;
use crate::kube::resource::ApiServer;
use crate::output::{Output, OutputError};
use crate::report::recovery::{Moment, Recovery, json, text};
use crate::report::text::{harmless, hex};

use super::Failure;
use super::args::{ConfigArgs, GlobalArgs, SourceArgs, paint};
use super::configs::{self, Given, TokenArgs};
use super::exit::Exit;
use super::output::print;
use super::source::{OpenSource, open};
use super::status;

/// Where the token may stand, too.
const TOKEN_VARIABLES: [&str; 2] = ["K3S_TOKEN", "RKE2_TOKEN"];

/// Get the configuration back that K3s, RKE2 or OpenShift keep inside the store
///
/// K3s and RKE2 seal it with the server's token: every revision of their record that the file still has is opened, and one
/// configuration is written with the keys of all of them, the newest first. OpenShift's comes from the backup pair:
/// kube-apiserver's from the tarball, and the other two, opened with it, from the snapshot.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    token: TokenArgs,
    /// OpenShift: also what older revisions in the tarball, and keys that no configuration has any more
    #[arg(long)]
    all: bool,
    /// The new file, which only its owner may read; standard output where it is not given
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// The form of the report
    #[arg(long, value_enum, default_value_t = Report::Table)]
    report: Report,
}

const EXAMPLES: &str = "\
The token is read from --token-file, or from the environment: K3S_TOKEN, RKE2_TOKEN. With -o the report goes to standard
output, without it to standard error.

Exit codes: 0 found; 1 the same, and the record is open to others, too; 2 wrong usage; 3 nothing was found, or the input
cannot be read; 4 the file cannot be written.

Examples:
  atrest recover-config snapshot.db --token-file token -o recovered.json
  atrest audit snapshot.db -c recovered.json
  atrest recover-config snapshot.db -c static_kuberesources.tar.gz -o recovered.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Report {
    /// For a person
    Table,
    /// The same as JSON
    Json,
}

/// What is to be written, and what is to be told.
struct Answer {
    distro: &'static str,
    text: Zeroizing<Vec<u8>>,
    moments: Vec<Moment>,
    added: Vec<Added>,
    remarks: Vec<Remark>,
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    if args.report == Report::Json && args.output.is_none() {
        let failure = Failure::usage("--report json needs -o: standard output is the configuration's");
        return Err(failure.hint("-o FILE writes the configuration there"));
    }
    let given = configs::files(&args.config.config)?;
    let token = token(args, &given)?;
    let OpenSource { mut store, facts, .. } = open(&args.source, global)?;
    let gathered = configs::gathered(&mut store, &facts.path, global)?;
    let answer = match given.pods.is_empty() && args.config.config.is_empty() {
        true if gathered.copies.is_empty() && !gathered.secrets.is_empty() => {
            let failure = Failure::input(
                "OpenShift's configurations are sealed with kube-apiserver's, which is not in the store",
            );
            return Err(failure.about(&facts.path).hint("give the backup's static_kuberesources_*.tar.gz with -c"));
        }
        true => from_records(&gathered, token.as_ref(), &facts.path)?,
        false => from_backup(&gathered, &given, args.all)?,
    };
    deliver(args, &answer, &facts.path)
}

/// The token of the file, or of the environment where there is no file.
fn token(args: &Args, given: &Given) -> Result<Option<Token>, Failure> {
    if let Some(path) = &args.token.token_file {
        return configs::read_token(path).map(Some);
    }
    if !given.pods.is_empty() {
        return Ok(None);
    }
    for name in TOKEN_VARIABLES {
        if let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) {
            let value = Zeroizing::new(value.into_encoded_bytes());
            return configs::parse_token(&value).map(Some).map_err(|failure| failure.about(name));
        }
    }
    Ok(None)
}

fn from_records(gathered: &Gathered, token: Option<&Token>, path: &str) -> Result<Answer, Failure> {
    let recovered = configs::recovered(gathered, token, path).map_err(|failure| {
        if token.is_none() { failure.hint("give the server's token with --token-file") } else { failure }
    })?;
    let (_, merged) = configs::merge(&recovered, path)?;
    let text = match recovered.found.first() {
        // What is the very file is written as it was, so that its hash is the one that servers have.
        Some(newest) if merged.is_the_newest() => newest.bytes.clone(),
        _ => with_line_feed(&merged),
    };
    let is_rke2 = gathered.nodes.iter().any(|node| node.rke2.is_some() || node.marks.1);
    Ok(Answer {
        distro: if is_rke2 { "rke2" } else { "k3s" },
        text,
        moments: moments(&recovered),
        remarks: status::record_remarks(&recovered.warnings),
        added: merged.added,
    })
}

fn with_line_feed(merged: &Merged) -> Zeroizing<Vec<u8>> {
    let text = merged.text();
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    bytes
}

fn moments(recovered: &Recovered) -> Vec<Moment> {
    let moment = |found: &crate::distro::recovered::Found| Moment {
        from: found.name(),
        standing: Some(found.standing.word()),
        time: found.time.clone(),
        state: found.state.clone(),
        sha256: found.hash(),
        keys: key_names(&found.configuration),
    };
    recovered.found.iter().map(moment).collect()
}

fn key_names(configuration: &Configuration) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for provider in configuration.entries.iter().flat_map(|entry| &entry.providers) {
        for name in status::key_labels(provider) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn from_backup(gathered: &Gathered, given: &Given, all: bool) -> Result<Answer, Failure> {
    let files = given.at_hand()?;
    let kept = openshift::read(&gathered.secrets, &ApiServers::new(files.clone())?);
    let mut remarks: Vec<_> = kept.closed.iter().map(closed).collect();
    let others = Kept { configs: kept.configs.clone(), ..Kept::default() };
    let mut every = files.clone();
    every.extend(configs::beside(&files, others));
    for (_, server) in openshift::COMPONENTS {
        let component = kept.keys.iter().find(|key| openshift::server_of(&key.component) == Some(server));
        let speaks = every.iter().any(|(_, configuration)| speaks_for(configuration, server));
        if let Some(key) = component.filter(|_| !speaks) {
            let text = format!("{}: its configuration was not found", key.component);
            remarks.push(Remark::new(Weight::Warning, "recover.no-configuration", text));
        }
    }
    if all {
        for (name, pods) in &given.pods {
            for pod in pods.iter().skip(1) {
                every.push(configs::pod_configuration(name, pod)?);
            }
        }
    }
    let mut merged = Merged::of(every.iter().map(|(_, configuration)| configuration));
    if all {
        add_keys(&mut merged, &kept, &every);
    }
    let moment = |(from, configuration): &(String, Configuration)| Moment {
        from: from.clone(),
        standing: None,
        time: None,
        state: None,
        sha256: hex(&configuration.sha256),
        keys: key_names(configuration),
    };
    Ok(Answer {
        distro: "openshift",
        text: with_line_feed(&merged),
        moments: every.iter().map(moment).collect(),
        added: merged.added,
        remarks,
    })
}

fn closed(closed: &openshift::Closed) -> Remark {
    Remark::new(Weight::Warning, "recover.closed", format!("{} stays closed: {}", closed.key, closed.why))
}

fn speaks_for(configuration: &Configuration, server: ApiServer) -> bool {
    let mut resources = configuration.entries.iter().flat_map(|entry| &entry.resources);
    resources.any(|resource| ApiServer::of_group(&resource.group) == server)
}

/// Adds the keys of Secrets that no configuration has any more, for their component's resources; the newest first.
fn add_keys(merged: &mut Merged, kept: &Kept, every: &[(String, Configuration)]) {
    for key in kept.keys.iter().rev() {
        let (Some(provider), Some(server)) = (key.provider(), openshift::server_of(&key.component)) else { continue };
        if openshift::is_placeholder(&provider) {
            continue;
        }
        let resources = every.iter().flat_map(|(_, configuration)| &configuration.entries);
        let resources = resources.flat_map(|entry| &entry.resources);
        let mut mine: Vec<_> = resources.filter(|one| ApiServer::of_group(&one.group) == server).collect();
        mine.sort();
        mine.dedup();
        for resource in mine {
            merged.add(every.len(), resource, vec![provider.clone()]);
        }
    }
}

fn deliver(args: &Args, answer: &Answer, path: &str) -> Result<Exit, Failure> {
    let written = args.output.as_deref().filter(|output| output.as_os_str() != "-");
    if let Some(output) = written {
        write_file(args, output, &answer.text)?;
    }
    let name = written.map(|output| output.to_string_lossy().into_owned());
    let recovery = Recovery {
        path,
        distro: answer.distro,
        moments: &answer.moments,
        added: &answer.added,
        remarks: &answer.remarks,
        output: name.as_deref(),
    };
    let open = answer.remarks.iter().any(|remark| remark.weight == Weight::Error);
    let exit = if open { Exit::Findings } else { Exit::Done };
    if written.is_some() {
        return print(exit, |out| match args.report {
            Report::Json => json(out, &recovery),
            Report::Table => text(out, &recovery, paint()),
        });
    }
    let mut said = Vec::new();
    // Writing to memory cannot fail.
    let _ = text(&mut said, &recovery, crate::report::paint::Paint::Plain);
    eprint!("{}", String::from_utf8_lossy(&said));
    print(exit, |out| out.write_all(&answer.text))
}

fn write_file(args: &Args, path: &Path, text: &[u8]) -> Result<(), Failure> {
    let name = path.to_string_lossy();
    let inputs = args.source.source.as_deref().into_iter().chain(args.config.config.iter().map(PathBuf::as_path));
    let inputs: Vec<_> = inputs.chain(args.token.token_file.as_deref()).collect();
    let output = Output::create(path, args.force, &inputs).map_err(|error| Failure::from(error).about(&name))?;
    let written = output.file().write_all(text).map_err(OutputError::Write);
    written.and_then(|()| output.commit()).map_err(|error| Failure::from(error).about(&harmless(&name)))
}
