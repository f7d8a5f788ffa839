//! `atrest man`: the manual as roff.

use std::io::{self, Write};

use clap_mangen::Man;

use super::Failure;
use super::exit::Exit;
use super::output::print;

/// The manual page, of the program or of one of its commands, on standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  atrest man | man -l -\n  atrest man audit > atrest-audit.1")]
pub struct Args {
    /// Of this command: `audit`, `config check`
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let mut command = super::command();
    command.build();
    for name in &args.command {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| Failure::usage(format!("there is no command {name:?}")))?;
    }
    print(Exit::Done, |out| render(command, out))
}

fn render(command: clap::Command, out: &mut dyn Write) -> io::Result<()> {
    Man::new(command).render(&mut &mut *out)
}
