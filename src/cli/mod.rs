//! The command line: what was typed, what it means, what is printed, and the exit code. Nothing else prints or exits.
//!
//! One command a file; `args` has what commands share.

mod args;
mod audit;
mod change;
mod check;
mod completion;
mod config;
mod configs;
mod decode;
mod diff;
mod exit;
mod extract;
mod fit;
mod get;
mod hint;
mod judge;
mod keys;
#[cfg(feature = "kms")]
mod kms;
#[cfg(feature = "live")]
mod live;
mod losses;
mod man;
#[cfg(feature = "kms")]
mod minting;
mod next;
mod output;
mod progress;
mod recover_config;
mod resealing;
mod rewrite;
#[cfg(feature = "live")]
mod rewrite_live;
mod salvage;
#[cfg(feature = "live")]
mod snapshot;
mod source;
mod status;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use args::GlobalArgs;
use exit::Exit;
pub(crate) use hint::Failure;

/// Tells for every value of a Kubernetes datastore whether and with which key it is encrypted, and proves that it
/// decrypts.
#[derive(Debug, Parser)]
#[command(name = "atrest", version, max_term_width = 110, after_help = AFTER_HELP, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  clean, done
  1  findings at or above --fail-on, or not everything could be read or judged
  2  wrong usage
  3  the input cannot be read: file or configuration
  4  a write was refused, failed, or could not be proved

Examples:
  atrest audit snapshot.db -c encryption-config.yaml
  atrest keys snapshot.db -c encryption-config.yaml --require-unused key1
  atrest fit snapshot.db /backup/*/encryption-config.yaml
  atrest check snapshot.db
  atrest get snapshot.db secrets -A -c encryption-config.yaml
  atrest extract snapshot.db -c encryption-config.yaml --clean --output-dir restore
  atrest decode value.bin
  atrest diff before.db after.db -c encryption-config.yaml
  atrest rewrite snapshot.db -c current.yaml --to target.yaml -o rotated.db
  atrest salvage broken.db -o salvaged.db
  atrest status snapshot.db --token-file token
  atrest recover-config snapshot.db --token-file token -o recovered.json
  atrest config check encryption-config.yaml
  atrest config rotate encryption-config.yaml --stage prepare -o prepared.yaml";

#[derive(Debug, Subcommand)]
enum Command {
    Audit(Box<audit::Args>),
    Keys(keys::Args),
    Fit(fit::Args),
    Check(check::Args),
    Rewrite(Box<rewrite::Args>),
    Salvage(salvage::Args),
    Get(Box<get::Args>),
    Extract(Box<extract::Args>),
    Decode(decode::Args),
    Diff(Box<diff::Args>),
    Status(Box<status::Args>),
    RecoverConfig(recover_config::Args),
    #[cfg(feature = "live")]
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    #[command(subcommand)]
    Config(config::Command),
    Completion(completion::Args),
    Man(man::Args),
    Version(version::Args),
}

/// Parses the arguments of the process and runs the command.
pub fn main() -> ExitCode {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let mut cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    cli.global.start_tracing();
    match &mut cli.command {
        Command::Audit(args) => args.settle(),
        Command::Diff(args) => args.settle(),
        Command::Extract(args) => args.settle(),
        Command::Fit(args) => args.settle(),
        Command::Get(args) => args.settle(),
        _ => {}
    }
    let outcome = match &cli.command {
        Command::Audit(args) => audit::run(args, &cli.global),
        Command::Keys(args) => keys::run(args, &cli.global),
        Command::Fit(args) => fit::run(args, &cli.global),
        Command::Check(args) => check::run(args, &cli.global),
        Command::Rewrite(args) => rewrite::run(args, &cli.global),
        Command::Salvage(args) => salvage::run(args, &cli.global),
        Command::Get(args) => get::run(args, &cli.global),
        Command::Extract(args) => extract::run(args, &cli.global),
        Command::Diff(args) => diff::run(args, &cli.global),
        Command::Decode(args) => decode::run(args, &cli.global),
        Command::Status(args) => status::run(args, &cli.global),
        Command::RecoverConfig(args) => recover_config::run(args, &cli.global),
        #[cfg(feature = "live")]
        Command::Snapshot(command) => snapshot::run(command, &cli.global),
        Command::Config(command) => config::run(command, &cli.global),
        Command::Completion(args) => completion::run(args),
        Command::Man(args) => man::run(args),
        Command::Version(args) => version::run(args),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report().into(),
    }
}

/// Help and version are what was asked for; everything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    // Whether the message could be printed changes nothing about the exit code.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// The command's definition, for completions and manual pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arguments_are_consistent() {
        super::command().debug_assert();
    }
}
