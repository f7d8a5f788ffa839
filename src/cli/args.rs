//! Arguments that commands share.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::audit::finding::Severity;
use crate::report::paint::Paint;

use crate::kube::labels::{Fields, Labels};
use crate::kube::select::Selection;

use super::Failure;

/// Arguments of every command.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// No progress bar
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say on standard error what is being done; twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl GlobalArgs {
    /// Sends the library's traces to standard error, as far as they were asked for.
    pub fn start_tracing(&self) {
        let level = match self.verbose {
            0 => return,
            1 => tracing::Level::INFO,
            _ => tracing::Level::DEBUG,
        };
        let colour = std::io::stderr().is_terminal() && !no_colour();
        let subscriber = tracing_subscriber::fmt().with_max_level(level).with_ansi(colour);
        // A second subscriber is refused; the first one then serves.
        let _ = subscriber.with_writer(std::io::stderr).try_init();
    }
}

/// What to read: a file, or a running etcd.
#[derive(Debug, Default, Args)]
pub struct SourceArgs {
    /// An etcd snapshot or database, plain or in gzip, zstd, zip or tar, told by content; a member's data directory; `-` for
    /// standard input
    #[arg(value_name = "SOURCE")]
    pub source: Option<PathBuf>,
    /// Do not hash the file: faster, but nothing tells whether its bytes are those that were saved
    #[arg(long)]
    pub no_digest: bool,
    /// Read what is left of a broken file: every page is looked at on its own, whatever leads to it
    #[arg(long)]
    pub salvage: bool,
    /// With --salvage: also what was compacted away, or may have been, but is still in the file
    #[arg(long, requires = "salvage")]
    pub include_compacted: bool,
    /// With --salvage: of that only what stands below a lost branch, as far as nothing proves that it was compacted away
    #[arg(long, requires = "salvage")]
    pub include_doubtful: bool,
    #[cfg(feature = "live")]
    #[command(flatten)]
    pub live: super::live::LiveArgs,
}

/// What is to be read.
pub enum Wanted<'a> {
    /// A file, or standard input.
    File(&'a Path),
    /// What listens at these endpoints.
    #[cfg(feature = "live")]
    Live(Vec<String>),
}

impl SourceArgs {
    /// A file, whatever the environment says.
    pub fn file(path: PathBuf) -> Self {
        Self { source: Some(path), ..Self::default() }
    }

    /// Gives back what stands in the source's place and cannot be one, because endpoints were spelled out; or because
    /// there are endpoints in the environment and nothing else is left for what must follow.
    pub fn give_back(&mut self, follows: &mut Vec<String>, must_follow: bool) {
        let from_environment = must_follow && follows.is_empty() && !self.environment().is_empty();
        if (self.has_endpoints() || from_environment)
            && let Some(first) = self.source.take()
        {
            follows.insert(0, first.to_string_lossy().into_owned());
        }
    }

    /// What is to be read.
    pub fn wanted(&self) -> Result<Wanted<'_>, Failure> {
        match &self.source {
            Some(path) if self.has_endpoints() => {
                let path = path.to_string_lossy();
                let path = crate::report::text::harmless(&path);
                Err(Failure::usage(format!("{path} and --endpoints are two sources, and one is read")))
            }
            Some(path) => Ok(Wanted::File(path)),
            None => self.endpoints(),
        }
    }

    /// Refuses what only a file can show.
    #[cfg_attr(not(feature = "live"), expect(unused_variables, reason = "there is nothing to refuse"))]
    pub fn refuse_live(&self, what: &str) -> Result<(), Failure> {
        match self.wanted()? {
            Wanted::File(_) => Ok(()),
            #[cfg(feature = "live")]
            Wanted::Live(_) => Err(Failure::usage(format!("a running etcd shows no {what}"))
                .hint("take a snapshot, and read that: `atrest snapshot save -o FILE --endpoints ...`")),
        }
    }

    #[cfg(feature = "live")]
    fn endpoints(&self) -> Result<Wanted<'_>, Failure> {
        match self.live.or_from_environment() {
            none if none.is_empty() => Err(Failure::usage("there is no SOURCE")
                .hint("give a file, or a running etcd with --endpoints; `--help` shows how")),
            endpoints => Ok(Wanted::Live(endpoints)),
        }
    }

    #[cfg(not(feature = "live"))]
    fn endpoints(&self) -> Result<Wanted<'_>, Failure> {
        Err(Failure::usage("there is no SOURCE").hint("give a file; `--help` shows how"))
    }

    #[cfg(feature = "live")]
    pub fn has_endpoints(&self) -> bool {
        self.live.is_given()
    }

    #[cfg(not(feature = "live"))]
    pub fn has_endpoints(&self) -> bool {
        false
    }

    #[cfg(feature = "live")]
    fn environment(&self) -> Vec<String> {
        self.live.or_from_environment()
    }

    #[cfg(not(feature = "live"))]
    fn environment(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What the words behind the source select. A file among them was meant to be a source.
pub fn selection(words: &[String]) -> Result<Selection, Failure> {
    Selection::parse(words).map_err(|error| {
        let failure = Failure::usage(error.to_string());
        match words.iter().find(|word| Path::new(word).is_file()) {
            Some(file) => failure.hint(format!(
                "{} is a file, and stands where resources are named: --endpoints takes the place of a file",
                crate::report::text::harmless(file)
            )),
            None => failure,
        }
    })
}

/// What all of `--selector`'s arguments demand together.
pub fn labels(selectors: &[String]) -> Result<Labels, Failure> {
    let mut labels = Labels::default();
    for selector in selectors {
        labels.and(Labels::parse(selector).map_err(|error| Failure::usage(error.to_string()))?);
    }
    Ok(labels)
}

/// What `--field-selector` demands.
pub fn fields(selector: Option<&str>) -> Result<Fields, Failure> {
    Fields::parse(selector.unwrap_or_default()).map_err(|error| Failure::usage(error.to_string()))
}

/// The configurations to judge by.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The EncryptionConfiguration of an API server; repeat it for each API server with one of its own. Also a server's folder
    /// of K3s or RKE2 (server/cred), or static_kuberesources_*.tar.gz of an OpenShift backup
    #[arg(
        long = "encryption-provider-config",
        short = 'c',
        value_name = "CONFIG",
        env = "ATREST_ENCRYPTION_PROVIDER_CONFIG"
    )]
    pub config: Vec<PathBuf>,
}

/// From which severity on a run counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Data is lost or bare, or will be
    Error,
    /// Also what should be looked into
    Warning,
    /// Anything at all
    Note,
    /// Never because of findings
    None,
}

impl FailOn {
    /// Whether findings of this weight fail the run.
    pub fn fails(self, worst: Option<Severity>) -> bool {
        let threshold = match self {
            Self::Error => Severity::Error,
            Self::Warning => Severity::Warning,
            Self::Note => Severity::Note,
            Self::None => return false,
        };
        worst.is_some_and(|worst| worst >= threshold)
    }
}

/// Colour on a terminal, unless the environment says no (`https://no-color.org`).
pub fn paint() -> Paint {
    if std::io::stdout().is_terminal() && !no_colour() { Paint::Colour } else { Paint::Plain }
}

fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
