//! `atrest config`: an EncryptionConfiguration by itself.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::config::{self, Check};
use crate::report;

use super::Failure;
use super::args::{FailOn, GlobalArgs, paint};
use super::exit::Exit;
use super::output::print;

/// An EncryptionConfiguration by itself
#[derive(Debug, Subcommand)]
pub enum Command {
    Check(CheckArgs),
    Keygen(super::change::KeygenArgs),
    Rotate(super::change::RotateArgs),
    Enable(super::change::EnableArgs),
    Disable(super::change::DisableArgs),
}

/// Would the newest kube-apiserver start with it, and what should worry you although it would?
///
/// Lists every complaint of kube-apiserver's own validation at once, each with its path and, where the reader can tell,
/// line and column; never a value that could be a secret. A KMS v1 provider is accepted with a warning.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The file, YAML or JSON
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// From which severity on the exit code is 1
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
}

const EXAMPLES: &str = "\
Exit codes: 0 accepted, 1 accepted with findings at or above --fail-on, 3 refused.

Examples:
  atrest config check /etc/kubernetes/enc/enc.yaml
  atrest config check enc.yaml --fail-on warning -o json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a person
    Table,
    /// For a program
    Json,
}

/// Runs the command.
pub fn run(command: &Command, global: &GlobalArgs) -> Result<Exit, Failure> {
    match command {
        Command::Check(args) => check(args),
        Command::Keygen(args) => super::change::keygen(args),
        Command::Rotate(args) => super::change::rotate(args, global),
        Command::Enable(args) => super::change::enable(args, global),
        Command::Disable(args) => super::change::disable(args, global),
    }
}

fn check(args: &CheckArgs) -> Result<Exit, Failure> {
    let name = args.config.to_string_lossy();
    let contents = config::read_file(&args.config);
    let contents = contents.map_err(|error| Failure::input(error.to_string()).about(&name))?;
    let mut check = config::check(&contents.bytes);
    if check.accepted {
        check.findings.extend(contents.lints);
    }
    print(exit(&check, args.fail_on), |out| match args.output {
        Output::Json => report::config::json(out, &name, &check),
        Output::Table => report::config::text(out, &name, &check, paint()),
    })
}

fn exit(check: &Check, fail_on: FailOn) -> Exit {
    if !check.accepted {
        return Exit::Input;
    }
    let worst = check.findings.iter().map(report::config::severity).max();
    if fail_on.fails(worst) { Exit::Findings } else { Exit::Done }
}
