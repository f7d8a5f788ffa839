//! What went wrong, said once, with what to do next.

use std::io::{self, Write};

use crate::audit::run::AuditError;
use crate::bbolt::OpenError;
use crate::config::Conflict;
use crate::output::OutputError;
use crate::source::check::CheckError;
use crate::source::container::ContainerError;
use crate::source::snapshot::ReadError;

use super::exit::Exit;

/// A run that did not come to an answer.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// Input that cannot be read.
    pub fn input(message: impl Into<String>) -> Self {
        Self { exit: Exit::Input, message: message.into(), hint: None }
    }

    /// Arguments that do not go together.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), hint: None }
    }

    /// A write that is refused or failed.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { exit: Exit::Refused, message: message.into(), hint: None }
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the input's name in front.
    pub fn about(mut self, name: &str) -> Self {
        self.message = format!("{}: {}", crate::report::text::harmless(name), self.message);
        self
    }

    /// Prints it and gives the exit code.
    pub fn report(self) -> Exit {
        let mut text = format!("atrest: {}\n", self.message);
        if let Some(hint) = self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        // There is nowhere left to complain when standard error is closed.
        let _ = io::stderr().write_all(text.as_bytes());
        self.exit
    }

    /// An answer that could not be printed: quiet when nobody reads any more, as after `| head`.
    pub fn printing(error: &io::Error) -> Result<Exit, Self> {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Ok(Exit::Done),
            _ => Err(Self::input(format!("the answer cannot be written: {error}"))),
        }
    }
}

impl From<ContainerError> for Failure {
    fn from(error: ContainerError) -> Self {
        let failure = Self::input(error.to_string());
        match error {
            ContainerError::Directory { .. } => {
                failure.hint("give the database in it (member/snap/db), or better a snapshot: etcdctl snapshot save")
            }
            _ => failure,
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let failure = Self::input(error.to_string());
        match error {
            ReadError::Open(OpenError::NoMeta { .. }) => failure.hint(
                "is it an etcd snapshot? `etcdctl snapshot save` makes one, and K3s keeps them in server/db/snapshots",
            ),
            ReadError::Open(OpenError::Empty) => failure.hint("the snapshot was never written; look for an older one"),
            ReadError::NoKeyBucket(_) => {
                failure.hint("`atrest check` lists what is damaged, if it is etcd's file at all")
            }
            _ => failure,
        }
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Read(error) => error.into(),
            AuditError::Select(error) => Self::usage(error.to_string()),
            AuditError::Compacted { .. } | AuditError::Future { .. } => Self::usage(error.to_string()),
            error => Self::input(error.to_string()),
        }
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Read(error) => error.into(),
            CheckError::Compacted { .. } | CheckError::Future { .. } => Self::usage(error.to_string()),
            error => Self::input(error.to_string()),
        }
    }
}

impl From<Conflict> for Failure {
    fn from(conflict: Conflict) -> Self {
        Self::input(conflict.to_string()).hint("give one file for each API server, all of the same moment")
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        let failure = Self::refused(crate::report::text::harmless(&error.to_string()).into_owned());
        match error {
            OutputError::NoName => failure.hint("-o takes the name of a file"),
            OutputError::Exists => failure.hint("give another name, or replace it with --force"),
            OutputError::NotReplaceable(_) | OutputError::IsInput(_) | OutputError::PartIsInput(_) => {
                failure.hint("give another name")
            }
            OutputError::Busy => failure.hint("wait for that run to end, or give another name"),
            OutputError::InTheWay(_) => failure.hint("remove it, if no run that could write it is alive"),
            OutputError::NoExclusive => {
                failure.hint("--force gives the name all the same, or write to a folder on another file system")
            }
            _ => failure,
        }
    }
}
