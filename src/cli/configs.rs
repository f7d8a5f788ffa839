//! From `-c` and `--token-file` to configurations: files, the folder of a K3s or RKE2 server, a backup's tarball of
//! OpenShift, or the store itself.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use crate::audit::rules::Rules;
use crate::config::{self, ApiServers, Configuration, ReadError};
use crate::distro::gather::{Gathered, gather};
use crate::distro::merge::Merged;
use crate::distro::openshift::{self, Kept, PodConfig};
use crate::distro::recovered::{Recovered, recover};
use crate::distro::steps::{Weight, of_record};
use crate::distro::token::{self, Token};
use crate::kube::resource::ApiServer;
use crate::report::text::harmless;
use crate::source::Store;
use crate::source::container::members::is_archive;
use crate::source::snapshot::PassOptions;

use super::Failure;
use super::args::GlobalArgs;
use super::progress::Progress;

/// The file in a server's folder, and where it lies below `server`.
const FOLDER_FILE: &str = "encryption-config.json";
const FOLDER: &str = "cred";

/// Bytes that tell an archive.
const HEAD_BYTES: u64 = 512;

/// The token that opens what K3s and RKE2 keep in their store.
#[derive(Clone, Debug, Default, Args)]
pub struct TokenArgs {
    /// The server's token of K3s or RKE2 (server/token): the store's own record is the configuration then, with every key
    /// that an older revision of it has
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// What `-c` and `--token-file` name, read as far as it can be without the store.
pub struct Given {
    files: Vec<(String, Configuration)>,
    /// kube-apiserver's configurations of a tarball, newest first, by the tarball's name.
    pub pods: Vec<(String, Vec<PodConfig>)>,
    token: Option<Token>,
}

/// Reads what the arguments name.
pub fn given(config: &[PathBuf], token: &TokenArgs) -> Result<Given, Failure> {
    if token.token_file.is_some() && !config.is_empty() {
        return Err(Failure::usage("-c and --token-file both say where the configuration is").hint("give one of them"));
    }
    let token = token.token_file.as_deref().map(read_token).transpose()?;
    Ok(Given { token, ..files(config)? })
}

/// Reads what `-c` names.
pub fn files(paths: &[PathBuf]) -> Result<Given, Failure> {
    let mut given = Given { files: Vec::new(), pods: Vec::new(), token: None };
    for path in paths {
        let path = in_folder(path);
        let name = path.to_string_lossy().into_owned();
        match read(&path).map_err(|failure| failure.about(&name))? {
            Content::Configuration(configuration) => given.files.push((name, configuration)),
            Content::Tarball(pods) => given.pods.push((name, pods)),
        }
    }
    Ok(given)
}

/// The file that is meant by a server's folder; anything else as it is.
fn in_folder(path: &Path) -> PathBuf {
    let candidates = [path.join(FOLDER_FILE), path.join(FOLDER).join(FOLDER_FILE)];
    candidates.into_iter().find(|file| file.is_file()).unwrap_or_else(|| path.to_owned())
}

enum Content {
    Configuration(Configuration),
    Tarball(Vec<PodConfig>),
}

fn read(path: &Path) -> Result<Content, Failure> {
    let contents = match config::read_file(path) {
        Ok(contents) if is_archive(&contents.bytes) => return tarball(contents.bytes.as_slice()),
        Ok(contents) => contents,
        Err(ReadError::TooLarge) if begins_as_archive(path) => {
            return tarball(File::open(path).map_err(|error| Failure::input(error.to_string()))?);
        }
        Err(error @ ReadError::Directory) => {
            return Err(Failure::input(format!("{error}, and no server's folder: there is no {FOLDER_FILE} in it")));
        }
        Err(error) => return Err(Failure::input(error.to_string())),
    };
    let loaded = config::load(&contents.bytes);
    let mut configuration = loaded.map_err(|error| {
        let failure = Failure::input(harmless(&error.to_string()).into_owned());
        failure.hint("`atrest config check` lists every complaint with its line")
    })?;
    configuration.lints.extend(contents.lints);
    Ok(Content::Configuration(configuration))
}

fn begins_as_archive(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    read.is_ok() && is_archive(&head)
}

fn tarball(input: impl Read) -> Result<Content, Failure> {
    let pods = openshift::tarball(input).map_err(|error| {
        let failure = Failure::input(harmless(&error.to_string()).into_owned());
        failure.hint("an archive is taken for a backup's static_kuberesources_*.tar.gz of OpenShift 4")
    })?;
    Ok(Content::Tarball(pods))
}

/// Reads a token's file.
pub fn read_token(path: &Path) -> Result<Token, Failure> {
    let name = path.to_string_lossy();
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let read = File::open(path).and_then(|file| file.take(token::MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::input(format!("the token can't be read: {error}")).about(&name))?;
    parse_token(&bytes).map_err(|failure| failure.about(&name))
}

/// Reads a token's text.
pub fn parse_token(bytes: &[u8]) -> Result<Token, Failure> {
    Token::parse(bytes).map_err(|error| {
        Failure::input(error.to_string())
            .hint("the token of a server lies in server/token, or stands in its configuration")
    })
}

/// kube-apiserver's configuration of one revision.
pub fn pod_configuration(tarball: &str, pod: &PodConfig) -> Result<(String, Configuration), Failure> {
    let name = format!("{tarball} (kube-apiserver, revision {})", pod.revision);
    let loaded = config::load(&pod.bytes);
    let configuration =
        loaded.map_err(|error| Failure::input(harmless(&error.to_string()).into_owned()).about(&name))?;
    Ok((name, configuration))
}

/// Passes over the store for what its distribution keeps there.
pub fn gathered(store: &mut Store, path: &str, global: &GlobalArgs) -> Result<Gathered, Failure> {
    let progress = Progress::bytes(global, "looking for configurations", store.bytes());
    let pass = PassOptions { digest: false, threads: 0, progress: &|bytes| progress.add(bytes) };
    gather(store, pass).map_err(|error| Failure::from(error).about(path))
}

/// Opens the store's bootstrap records.
pub fn recovered(gathered: &Gathered, token: Option<&Token>, path: &str) -> Result<Recovered, Failure> {
    let outcome = recover(&gathered.copies, gathered.left_out, token);
    outcome.map_err(|error| Failure::input(harmless(&error.to_string()).into_owned()).about(path))
}

/// One configuration of all that were found, newest first.
pub fn merge(found: &Recovered, path: &str) -> Result<(Configuration, Merged), Failure> {
    let merged = Merged::of(found.found.iter().map(|found| &found.configuration));
    let configuration = match found.found.first() {
        Some(newest) if merged.is_the_newest() => newest.configuration.clone(),
        _ => config::load(merged.text().as_bytes())
            .map_err(|error| Failure::input(harmless(&error.to_string()).into_owned()).about(path))?,
    };
    Ok((configuration, merged))
}

/// What of `kept` belongs to API servers that `files` do not speak for.
pub fn beside(files: &[(String, Configuration)], kept: Kept) -> Vec<(String, Configuration)> {
    let groups = |configuration: &Configuration| {
        let entries = configuration.entries.iter().flat_map(|entry| &entry.resources);
        entries.map(|resource| ApiServer::of_group(&resource.group)).collect::<Vec<_>>()
    };
    let covered: Vec<_> = files.iter().flat_map(|(_, configuration)| groups(configuration)).collect();
    let others = kept.configs.into_iter().filter(|config| {
        let server = openshift::server_of(&config.component);
        server.is_some_and(|server| server != ApiServer::Kube && !covered.contains(&server))
    });
    others.map(|config| (config.key, config.configuration)).collect()
}

impl Given {
    /// Whether the store itself has to say something.
    fn asks_the_store(&self) -> bool {
        !self.pods.is_empty() || self.token.is_some()
    }

    /// Whether nothing was given that the distribution itself may not have: only its backup's tarball, or its record's token.
    pub fn is_the_distributions_own(&self) -> bool {
        self.files.is_empty() && self.asks_the_store()
    }

    /// The files, and the newest configuration of each tarball.
    pub fn at_hand(&self) -> Result<Vec<(String, Configuration)>, Failure> {
        let mut files = self.files.clone();
        for (name, pods) in &self.pods {
            if let Some(newest) = pods.first() {
                files.push(pod_configuration(name, newest)?);
            }
        }
        Ok(files)
    }

    /// The rules, where there is no store to ask.
    pub fn alone(self) -> Result<Rules, Failure> {
        prepare(self.at_hand()?)
    }

    /// The rules, the store asked where that is needed. `path` names it.
    pub fn rules(self, store: &mut Store, path: &str, global: &GlobalArgs) -> Result<Rules, Failure> {
        if !self.asks_the_store() {
            return prepare(self.files);
        }
        let gathered = gathered(store, path, global)?;
        if let Some(token) = &self.token {
            let found = recovered(&gathered, Some(token), path)?;
            warn(&found, path, global);
            let (configuration, merged) = merge(&found, path)?;
            let name = found.found.first().map_or(String::new(), |newest| format!("{path}: {}", newest.name()));
            return Ok(prepare(vec![(name, configuration)])?.with_removed(&merged.added));
        }
        let mut files = self.at_hand()?;
        let servers = ApiServers::new(files.clone())?;
        let kept = openshift::read(&gathered.secrets, &servers);
        if !global.quiet {
            for closed in &kept.closed {
                eprintln!("atrest: {}: {}", harmless(&closed.key), harmless(&closed.why));
            }
        }
        files.extend(beside(&files, kept));
        prepare(files)
    }
}

/// Says what weighs heavily about the records themselves.
fn warn(found: &Recovered, path: &str, global: &GlobalArgs) {
    let remarks = found.warnings.iter().map(of_record).filter(|remark| remark.weight == Weight::Error);
    if !global.quiet {
        remarks.for_each(|remark| eprintln!("atrest: {}: {}", harmless(path), harmless(&remark.text)));
    }
}

fn prepare(files: Vec<(String, Configuration)>) -> Result<Rules, Failure> {
    let servers = ApiServers::new(files)?;
    Rules::new(servers).map_err(|error| Failure::input(error.to_string()))
}
