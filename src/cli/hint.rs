//! What went wrong, said once, with what to do next.

use std::io::{self, Write};

use crate::audit::run::AuditError;
use crate::bbolt::OpenError;
use crate::config::Conflict;
use crate::config::change::{ChangeError, Note};
#[cfg(feature = "kine")]
use crate::kine::KineError;
use crate::output::OutputError;
use crate::output::tree::TreeError;
use crate::source::check::CheckError;
use crate::source::container::ContainerError;
use crate::source::datadir::DirectoryError;
#[cfg(feature = "kine")]
use crate::source::kine::KineReadError;
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

    /// A gate that says no.
    pub fn gate(message: impl Into<String>) -> Self {
        Self { exit: Exit::Findings, message: message.into(), hint: None }
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

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::NoMember => Self::input(error.to_string())
                .hint("give what etcd has as --data-dir (K3s: server/db/etcd), or a snapshot: etcdctl snapshot save"),
            DirectoryError::Database { path, source } => Self::from(source).about(&path),
            error => Self::input(crate::report::text::harmless(&error.to_string()).into_owned()),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let failure = Self::input(error.to_string());
        match error {
            #[cfg(feature = "live")]
            ReadError::Live(error) => error.into(),
            ReadError::Open(OpenError::NoMeta { .. }) => failure.hint(
                "is it an etcd snapshot? `etcdctl snapshot save` makes one, and K3s keeps them in server/db/snapshots; if it was one, \
                 `atrest salvage` finds what is left of it, and other commands read that with --salvage",
            ),
            ReadError::Open(OpenError::Empty) => failure.hint("the snapshot was never written; look for an older one"),
            #[cfg(feature = "kine")]
            ReadError::Kine(KineReadError::Table(KineError::NotKine { .. })) => {
                failure.hint("K3s keeps its own in server/db/state.db")
            }
            #[cfg(feature = "kine")]
            ReadError::Kine(KineReadError::Table(error)) if error.is_damage() => failure.hint(
                "copy state.db and state.db-wal together, or try an older copy; what SQLite itself saves, `sqlite3 state.db .recover` tells",
            ),
            ReadError::NoKeyBucket(_) => {
                failure.hint("if it is etcd's file at all, `atrest salvage` finds records whatever leads to them; other commands read them with --salvage")
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

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        let message = crate::report::text::harmless(&error.to_string()).into_owned();
        match error {
            ChangeError::Refused(_) => {
                Self::input(message).hint("mend that first; `atrest config check` lists every complaint with its line")
            }
            ChangeError::Unfit(_) | ChangeError::Randomness(_) => Self::refused(message),
            ChangeError::Nothing(_, notes) => {
                let hints: Vec<_> = notes.iter().map(note_words).collect();
                let failure = Self::usage(message);
                if hints.is_empty() { failure } else { failure.hint(hints.join("\nhint: ")) }
            }
            ChangeError::Ambiguous { .. } => Self::usage(message).hint("say which one: --name NAME"),
            ChangeError::LooksOlder { .. } => Self::usage(message).hint("if it shall write all the same: --name NAME"),
            ChangeError::LooksNewer { .. } => {
                Self::usage(message).hint("that is --stage promote; or name what shall go: --key NAME")
            }
            ChangeError::NameForSeveral(_) => {
                Self::usage(message).hint("leave --name out, or rotate one after the other: --key OLD --name NEW")
            }
            ChangeError::WhichResources => {
                Self::usage(message).hint("name them: --resource RESOURCE; what writes plaintext may do so on purpose")
            }
            ChangeError::UnknownResource(_) => Self::usage(message)
                .hint("add it to the `resources` of an entry, or an entry of its own with `identity: {}`"),
            ChangeError::UnknownName(_) | ChangeError::BadName(..) => Self::usage(message),
        }
    }
}

/// Why something was left as it is, and what to do about it.
pub(crate) fn note_words(note: &Note) -> String {
    let words = match note {
        Note::WritesPlaintext => {
            "some resources are written as plaintext; `atrest config enable` begins to encrypt them".to_owned()
        }
        Note::WritesWithKms { name, is_v1: false } => format!(
            "kms/{name}: its keys rotate in the plugin, not here: let the plugin use a new key, wait until every API server \
             shows the new key id, then write every object anew; --provider moves to a key of the file instead"
        ),
        Note::WritesWithKms { name, is_v1: true } => format!(
            "kms/{name}: its keys rotate in the plugin, and KMS v1 tells nobody when they did; KMS v1 is deprecated: put a \
             provider with `apiVersion: v2` first, or move to a key of the file with --provider"
        ),
        Note::WritesAlready { key } => format!("{key} writes already"),
    };
    crate::report::text::harmless(&words).into_owned()
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Self {
        let failure = Self::refused(crate::report::text::harmless(&error.to_string()).into_owned());
        match error {
            TreeError::NotEmpty => failure.hint("give a new folder, or write into this one with --force"),
            TreeError::NoFolder => failure.hint("--output-dir takes the name of a folder"),
            TreeError::Busy => failure.hint("wait for that run to end, or give another folder"),
            TreeError::File { error: OutputError::NotReplaceable(_) | OutputError::IsInput(_), .. } => {
                failure.hint("give another folder")
            }
            _ => failure,
        }
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
