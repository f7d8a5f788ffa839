//! The command-line program: parse, run, turn the outcome into an exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    atrest::cli::main()
}
