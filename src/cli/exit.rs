//! The exit codes that scripts rely on.

use std::process::ExitCode;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Clean, done.
    Done,
    /// Findings at or above the threshold; an incomplete verdict; faults.
    Findings,
    /// Wrong usage.
    Usage,
    /// Input that cannot be read.
    Input,
    /// A write that was refused or could not be proved.
    Refused,
}

impl Exit {
    /// The code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Findings => 1,
            Self::Usage => 2,
            Self::Input => 3,
            Self::Refused => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_as_documented() {
        let exits = [Exit::Done, Exit::Findings, Exit::Usage, Exit::Input, Exit::Refused];
        assert_eq!(exits.map(Exit::code), [0, 1, 2, 3, 4]);
    }
}
