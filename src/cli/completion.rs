//! `atrest completion`: completions for a shell.

use clap_complete::Shell;

use super::Failure;
use super::exit::Exit;
use super::output::print;

/// Completions for a shell, on standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  source <(atrest completion bash)")]
pub struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "atrest", &mut text);
    print(Exit::Done, |out| out.write_all(&text))
}
