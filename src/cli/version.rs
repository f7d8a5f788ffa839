//! `atrest version`.

use clap::ValueEnum;
use serde::Serialize;

use crate::report::json::{TOOL, Tool};

use super::Failure;
use super::exit::Exit;
use super::output::print;

/// The version, and what it can read
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The form of the answer
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a person
    Text,
    /// For a program
    Json,
}

#[derive(Serialize)]
struct Version {
    schema: &'static str,
    tool: Tool,
    version: &'static str,
    etcd: &'static str,
    kubernetes: &'static str,
    features: Vec<&'static str>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let features = [("kms", cfg!(feature = "kms")), ("zip", cfg!(feature = "zip")), ("zstd", cfg!(feature = "zstd"))];
    let version = Version {
        schema: "atrest.version/1",
        tool: TOOL,
        version: env!("CARGO_PKG_VERSION"),
        etcd: "3.4 to 3.7",
        kubernetes: "1.7 to 1.37",
        features: features.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect(),
    };
    print(Exit::Done, |out| match args.output {
        Output::Json => crate::report::json::pretty(out, &version),
        Output::Text => writeln!(
            out,
            "atrest {} (etcd {}, Kubernetes {}; built with {})",
            version.version,
            version.etcd,
            version.kubernetes,
            version.features.join(", ")
        ),
    })
}
