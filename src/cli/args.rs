//! Arguments that commands share.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::audit::finding::Severity;
use crate::report::paint::Paint;

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

/// The file to read.
#[derive(Debug, Default, Args)]
pub struct SourceArgs {
    /// An etcd snapshot or database, plain or in gzip, zstd, zip or tar, told by content; `-` for standard input
    #[arg(value_name = "SOURCE")]
    pub source: PathBuf,
    /// Do not hash the file: faster, but nothing tells whether its bytes are those that were saved
    #[arg(long)]
    pub no_digest: bool,
    /// Read what is left of a broken file: every page is looked at on its own, whatever leads to it
    #[arg(long)]
    pub salvage: bool,
    /// With --salvage: also what was compacted away, or may have been, but is still in the file
    #[arg(long, requires = "salvage")]
    pub include_compacted: bool,
}

/// The configurations to judge by.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The EncryptionConfiguration of an API server; repeat it for each API server with one of its own
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
