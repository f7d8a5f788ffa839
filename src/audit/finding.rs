//! What a reader of the report should act on: one enum, each with a stable id, a severity and what to do.

use crate::config::LintId;

use super::nonces::{Repeats, Shared};

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good to know.
    Note,
    /// Should be looked into.
    Warning,
    /// Data is lost or bare, or will be.
    Error,
}

impl Severity {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A finding about values. Findings about the file or a configuration have their own kinds in [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ValueFinding {
    /// No configured key has the name that the value begins with.
    UnknownKey,
    /// A key of that name is configured and does not open it.
    WrongKey,
    /// The value cannot be what its prefix says, whatever the key.
    Malformed,
    /// Plaintext that no provider of the chain reads.
    NoIdentity,
    /// The KMS plugin did not open its DEK.
    Kms,
    /// It opened, and no Kubernetes object was inside.
    NotAnObject,
    /// It opened, and another object than the key's was inside.
    NameMismatch,
    /// Neither a known prefix nor a form in which objects are stored.
    Unrecognised,
    /// Plaintext where the configuration encrypts.
    Plaintext,
    /// On a key that people can guess.
    WeakKey,
    /// On a key that stands in some documentation.
    PublishedKey,
    /// On a key that the distribution's own configuration does not have any more.
    RemovedKey,
    /// Sealed with a nonce that another value on the same key has, too.
    NonceReuse,
    /// The same ciphertext as another key's.
    CopiedValue,
    /// Readable, but not what would be written now.
    Stale,
    /// An older revision in plaintext where the configuration encrypts.
    HistoryPlaintext,
    /// An older revision on another key than would be written now.
    HistoryOldKey,
    /// A revision that is gone from the tree, whose plaintext is still in the file.
    ResiduePlaintext,
    /// A revision that is gone from the tree, still in the file, on another key than would be written now.
    ResidueOldKey,
    /// What opened is a sealed value again.
    DoubleEncrypted,
    /// The KMS plugin was not asked.
    UnverifiedKms,
    /// No given configuration speaks for the API server that stores it.
    UnverifiedUncovered,
}

impl ValueFinding {
    /// All of them, weightiest first.
    pub const ALL: [Self; 22] = [
        Self::UnknownKey,
        Self::WrongKey,
        Self::Malformed,
        Self::NoIdentity,
        Self::Kms,
        Self::NotAnObject,
        Self::NameMismatch,
        Self::Unrecognised,
        Self::Plaintext,
        Self::WeakKey,
        Self::PublishedKey,
        Self::RemovedKey,
        Self::NonceReuse,
        Self::CopiedValue,
        Self::Stale,
        Self::HistoryPlaintext,
        Self::HistoryOldKey,
        Self::ResiduePlaintext,
        Self::ResidueOldKey,
        Self::DoubleEncrypted,
        Self::UnverifiedKms,
        Self::UnverifiedUncovered,
    ];

    /// The stable id.
    pub fn id(self) -> &'static str {
        match self {
            Self::UnknownKey => "undecryptable.unknown-key",
            Self::WrongKey => "undecryptable.wrong-key",
            Self::Malformed => "undecryptable.malformed",
            Self::NoIdentity => "undecryptable.no-identity",
            Self::Kms => "undecryptable.kms",
            Self::NotAnObject => "not-an-object",
            Self::NameMismatch => "name-mismatch",
            Self::Unrecognised => "unrecognised",
            Self::Plaintext => "plaintext",
            Self::WeakKey => "weak-key",
            Self::PublishedKey => "published-key",
            Self::RemovedKey => "removed-key",
            Self::NonceReuse => "nonce-reuse",
            Self::CopiedValue => "copied-value",
            Self::Stale => "stale",
            Self::HistoryPlaintext => "history-plaintext",
            Self::HistoryOldKey => "history-old-key",
            Self::ResiduePlaintext => "residue-plaintext",
            Self::ResidueOldKey => "residue-old-key",
            Self::DoubleEncrypted => "double-encrypted",
            Self::UnverifiedKms => "unverified.kms",
            Self::UnverifiedUncovered => "unverified.uncovered",
        }
    }

    /// How much it weighs.
    pub fn severity(self) -> Severity {
        match self {
            Self::CopiedValue
            | Self::Stale
            | Self::HistoryPlaintext
            | Self::HistoryOldKey
            | Self::ResiduePlaintext
            | Self::ResidueOldKey
            | Self::DoubleEncrypted
            | Self::UnverifiedKms
            | Self::UnverifiedUncovered => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// Whether it is about what the API server reads, and not about older revisions or what is left of them.
    pub fn is_of_entries(self) -> bool {
        let of_others = [Self::HistoryPlaintext, Self::HistoryOldKey, Self::ResiduePlaintext, Self::ResidueOldKey];
        !of_others.contains(&self)
    }

    /// What was found about values of which none is wrong by itself, if it is such a finding.
    pub(super) fn shared(self, repeats: &mut Repeats) -> Option<Shared> {
        match self {
            Self::NonceReuse => Some(std::mem::take(&mut repeats.reused)),
            Self::CopiedValue => Some(std::mem::take(&mut repeats.copied)),
            _ => None,
        }
    }

    /// What a finding about an older revision is called once that revision is gone from the tree.
    pub fn of_residue(self) -> Self {
        match self {
            Self::HistoryPlaintext => Self::ResiduePlaintext,
            Self::HistoryOldKey => Self::ResidueOldKey,
            other => other,
        }
    }

    /// What it means, in half a sentence that goes on from a number of keys.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::UnknownKey => "encrypted with a key that the configuration does not have",
            Self::WrongKey => "do not open with the key of their name: another secret, a moved value or damage",
            Self::Malformed => "are cut or damaged; no key opens them",
            Self::NoIdentity => "plaintext, and the configuration has no identity to read it",
            Self::Kms => "the KMS plugin does not open their data keys",
            Self::NotAnObject => "open, but hold no Kubernetes object: a wrong key that happened to fit, or damage",
            Self::NameMismatch => "hold another object than their key says",
            Self::Unrecognised => "neither encrypted in a known way nor a Kubernetes object",
            Self::Plaintext => "in plaintext although the configuration encrypts them",
            Self::WeakKey => "encrypted with a key that can be guessed",
            Self::PublishedKey => "encrypted with a key out of some documentation",
            Self::RemovedKey => "on a key that the distribution has removed: no API server of it opens them",
            Self::NonceReuse => "sealed with a nonce that was used twice under one key, which gives both values away",
            Self::CopiedValue => "have the same ciphertext as another key of the store: copied by hand",
            Self::Stale => "readable, but not in the form that would be written now",
            Self::HistoryPlaintext => "have older revisions in plaintext",
            Self::HistoryOldKey => "have older revisions on another key",
            Self::ResiduePlaintext => "have deleted or overwritten revisions whose plaintext is still in the file",
            Self::ResidueOldKey => "have deleted or overwritten revisions on another key still in the file",
            Self::DoubleEncrypted => "encrypted twice",
            Self::UnverifiedKms => "wait for a KMS plugin that was not asked",
            Self::UnverifiedUncovered => "belong to an API server for which no configuration was given",
        }
    }

    /// What to do about it, in a sentence.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::UnknownKey => {
                "Look for the missing key in older configurations and backups of them; drop no key until it is found."
            }
            Self::WrongKey => {
                "Compare the key's fingerprint with an older configuration; where only few are hit, restore them from an older backup."
            }
            Self::Malformed => "Restore these objects from an older backup.",
            Self::NoIdentity => {
                "Add `identity: {}` as the last provider until every object is rewritten; the API server refuses them now."
            }
            Self::Kms => "Look at the plugin's own log; the row's detail has its words.",
            Self::NotAnObject => "Restore these objects from an older backup; the API server cannot decode them.",
            Self::NameMismatch => "Somebody copied values between keys; restore these objects from an older backup.",
            Self::Unrecognised => "See the row's detail; a newer provider, or damage.",
            Self::Plaintext | Self::Stale => {
                "Rewrite them through the API server (kubectl get RESOURCE -A -o json | kubectl replace -f -), or a copy of the store with `atrest rewrite`; then audit a new snapshot."
            }
            Self::NonceReuse => {
                "Whatever wrote them must not write again. Rotate the key, rewrite all that is on it, and treat these values as exposed."
            }
            Self::CopiedValue => {
                "No API server writes one ciphertext twice: find out who did, and restore the copy from an older backup."
            }
            Self::RemovedKey => {
                "Put the key back as the last one (`atrest recover-config` writes such a configuration), restart the servers, and write these objects anew; drop no key before that."
            }
            Self::WeakKey | Self::PublishedKey => "Rotate to a key of 32 random bytes, and treat the data as exposed.",
            Self::HistoryPlaintext | Self::HistoryOldKey => {
                "Compact and defragment every member; old backups keep them. `atrest rewrite --drop-history` makes a copy without them."
            }
            Self::ResiduePlaintext | Self::ResidueOldKey => {
                "Defragment every member (etcdctl defrag) and take new snapshots; `atrest rewrite --drop-history` makes a copy without them. Whoever has this file has these revisions."
            }
            Self::DoubleEncrypted => "Something encrypted before the API server did; restore the inner value.",
            Self::UnverifiedKms => "Nothing is proved about these; they need the plugin.",
            Self::UnverifiedUncovered => "Give that API server's configuration too: -c repeats.",
        }
    }
}

/// A set of findings about one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FindingSet(u32);

impl FindingSet {
    /// Adds a finding.
    pub fn insert(&mut self, finding: ValueFinding) {
        self.0 |= 1 << finding as u8;
    }

    /// The set with one more finding.
    pub fn with(mut self, finding: ValueFinding) -> Self {
        self.insert(finding);
        self
    }

    /// What is in one of both.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether anything is in both.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the finding is in it.
    pub fn contains(self, finding: ValueFinding) -> bool {
        self.0 & (1 << finding as u8) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The findings, weightiest first.
    pub fn iter(self) -> impl Iterator<Item = ValueFinding> {
        ValueFinding::ALL.into_iter().filter(move |finding| self.contains(*finding))
    }
}

/// Any finding of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finding {
    /// About values.
    Value(ValueFinding),
    /// A key of aesgcm may have been used too often.
    GcmWriteLimit,
    /// Parts of the file do not hold.
    FileDamaged,
    /// The appended digest does not fit.
    TrailerMismatch,
    /// The file was written to while it was read.
    FileUnsteady,
    /// The digest that a snapshot ends with was cut off.
    NoTrailer,
    /// Newer writes may be only in the log beside the file, which was not read.
    LogOnly,
    /// Newer writes are only in the log, which was read.
    LogApplied,
    /// The last writes of the log may not be those of the cluster.
    MaybeCommitted,
    /// A server has the data directory open.
    InUse,
    /// The log that the database is written with is not beside it.
    NoLog,
    /// About a configuration.
    Config(LintId),
}

impl Finding {
    /// The stable id.
    pub fn id(self) -> &'static str {
        match self {
            Self::Value(finding) => finding.id(),
            Self::GcmWriteLimit => "gcm-write-limit",
            Self::FileDamaged => "file.damaged",
            Self::TrailerMismatch => "file.trailer-mismatch",
            Self::FileUnsteady => "file.unsteady",
            Self::NoTrailer => "file.no-trailer",
            Self::LogOnly | Self::LogApplied => "file.log-only",
            Self::MaybeCommitted => "file.maybe-committed",
            Self::InUse => "file.in-use",
            Self::NoLog => "file.no-log",
            Self::Config(lint) => lint.as_str(),
        }
    }

    /// How much it weighs.
    pub fn severity(self) -> Severity {
        match self {
            Self::Value(finding) => finding.severity(),
            Self::FileDamaged | Self::TrailerMismatch | Self::FileUnsteady => Severity::Error,
            Self::GcmWriteLimit | Self::NoTrailer | Self::MaybeCommitted => Severity::Warning,
            Self::LogOnly | Self::LogApplied | Self::InUse | Self::NoLog => Severity::Note,
            Self::Config(lint) => match lint.severity() {
                crate::config::Severity::Note => Severity::Note,
                crate::config::Severity::Warning => Severity::Warning,
            },
        }
    }

    /// Whether it is about the file as a whole, and so about what the report may lack.
    pub fn is_about_the_file(self) -> bool {
        !matches!(self, Self::Value(_) | Self::GcmWriteLimit | Self::Config(_))
    }

    /// What it means. For a configuration's finding the file's own words are in the report.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Value(finding) => finding.meaning(),
            Self::GcmWriteLimit => {
                "on an AES-GCM key that may have sealed more values than Kubernetes allows (200,000 with random nonces)"
            }
            Self::FileDamaged => "parts of the file are damaged, and what they held is missing from this report",
            Self::TrailerMismatch => "the digest at the end of the snapshot does not fit its bytes",
            Self::FileUnsteady => "somebody wrote to the file while it was read",
            Self::NoTrailer => "the digest that every snapshot ends with was cut off",
            Self::LogOnly => {
                "the file lies in a member's data directory: its newest writes may be only in the log beside it"
            }
            Self::LogApplied => "the newest writes are only in the log; they are counted in this report",
            Self::MaybeCommitted => {
                "the last entries of the log may be this member's alone, so they are not counted in this report"
            }
            Self::InUse => "a server has this data directory open, and may write more at any time",
            Self::NoLog => {
                "the database is written with a log (state.db-wal) that is not beside it: right after K3s stopped, and \
                 otherwise its newest writes are missing"
            }
            Self::Config(_) => "see the configuration",
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Value(finding) => finding.remedy(),
            Self::GcmWriteLimit => {
                "Rotate the key, and rewrite all that is on it; secretbox and KMS v2 have no such limit."
            }
            Self::FileDamaged => "See `atrest check` for every place; take an older backup for what is missing.",
            Self::TrailerMismatch => {
                "It was changed after it was taken (etcdutl hashkv does that too) or is damaged; restore would refuse it."
            }
            Self::FileUnsteady => "Take a snapshot (etcdctl snapshot save), or copy the file while etcd stands still.",
            Self::NoTrailer => "Restoring it needs --skip-hash-check; nothing tells whether its bytes are whole.",
            Self::LogOnly => {
                "Take a snapshot (etcdctl snapshot save), or give the data directory itself, unpacked, to have them."
            }
            Self::LogApplied => "Nothing: a server that starts applies them, too.",
            Self::MaybeCommitted => "Compare with the logs of the other members: what most of them have is committed.",
            Self::InUse => "Take a snapshot (etcdctl snapshot save), which is of one moment.",
            Self::NoLog => "Compare the revision with the server's, or copy state.db and state.db-wal together.",
            Self::Config(_) => "See `atrest config check`.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_a_place_of_its_own_in_a_set() {
        for finding in ValueFinding::ALL {
            let set = FindingSet::default().with(finding);
            assert_eq!(set.iter().collect::<Vec<_>>(), [finding]);
        }
    }

    #[test]
    fn sets_list_the_weightiest_first() {
        let set = FindingSet::default().with(ValueFinding::Stale).with(ValueFinding::Plaintext);
        let ids: Vec<_> = set.iter().map(ValueFinding::id).collect();
        assert_eq!(ids, ["plaintext", "stale"]);
    }
}
