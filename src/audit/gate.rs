//! The gate before a key is dropped: does anything still need it?
//!
//! It counts what is there, not what opens: a value that names a key needs it, even if another key happens to open it, and
//! a value that opens by a key needs that one, whatever it names.

use crate::source::datadir::LogFacts;
use crate::source::digest::Trailer;

use super::finding::Finding;
use super::row::{RecordKind, Row};
use super::run::Audit;
use super::summary::{Answer, KeyId, KeyRow};

/// A key that is to go, as the user names it: its name, `provider/name`, or a KMS key id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted(pub String);

/// What beside entries keeps a key from going.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Including {
    /// Older revisions.
    pub history: bool,
    /// Revisions that are gone from the tree and still in the file.
    pub residue: bool,
}

/// What the gate says of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// As the user named it.
    pub name: String,
    /// Whether data or configuration know it.
    pub known: bool,
    /// The rows that it means.
    pub rows: Vec<KeyRow>,
    /// What needs it, of what was asked for.
    pub needed_by: u64,
}

impl Wanted {
    /// Whether a row of keys is meant.
    ///
    /// A value that nothing opened bears a name of which only the part before its first `:` is known; it is taken for every
    /// key whose name begins so.
    pub fn means(&self, id: &KeyId) -> bool {
        let bare = self.0.split_once('/').filter(|(provider, _)| *provider == id.provider).map(|(_, name)| name);
        let names = [Some(self.0.as_str()), bare];
        let fits = |name: &str| {
            let guessed = id.fingerprint.is_empty() && id.provider != "kms" && !id.key_name.is_empty();
            id.key_name == name
                || (guessed && name.strip_prefix(&id.key_name).is_some_and(|rest| rest.starts_with(':')))
        };
        names.into_iter().flatten().any(fits) || (!self.0.is_empty() && id.kms_key_id == self.0)
    }
}

impl Including {
    /// Whether a record of this kind keeps a key.
    pub fn counts(self, record: RecordKind) -> bool {
        match record {
            RecordKind::Entry => true,
            RecordKind::History => self.history,
            RecordKind::Residue => self.residue,
            RecordKind::Deleted => false,
        }
    }
}

/// Judges each key that is to go.
pub fn passages(audit: &Audit, wanted: &[Wanted], including: Including) -> Vec<Passage> {
    let passage = |wanted: &Wanted| {
        let rows: Vec<_> = audit.summary.keys.iter().filter(|row| wanted.means(&row.id)).cloned().collect();
        let history = |row: &KeyRow| if including.history { row.count.history } else { 0 };
        let residue = |row: &KeyRow| if including.residue { row.count.residue } else { 0 };
        let needed_by = rows.iter().map(|row| row.count.entries + history(row) + residue(row)).sum();
        Passage { name: wanted.0.clone(), known: !rows.is_empty(), rows, needed_by }
    };
    wanted.iter().map(passage).collect()
}

/// Why nothing can be said to be unneeded, as a sentence without its end: records that were not read may need any key, and
/// bytes that changed after the snapshot was taken may have changed a name that stood in them. Bytes that were not to be
/// digested are taken as they are.
pub fn doubt(audit: &Audit) -> Option<&'static str> {
    if audit.fault_count > 0 || audit.unsteady || audit.log.as_ref().is_some_and(LogFacts::may_lack_writes) {
        Some("not every record could be read")
    } else if audit.digests.is_some_and(|digests| digests.trailer == Trailer::Mismatch) {
        Some("its bytes are not those that its own digest was made of")
    } else if audit.summary.findings.iter().any(|row| row.finding == Finding::LogOnly) {
        Some("its newest writes may be only in the log beside it")
    } else {
        None
    }
}

/// Whether every record of the store was read, as far as it can tell as it was written.
pub fn read_whole(audit: &Audit) -> bool {
    doubt(audit).is_none()
}

/// Whether a record needs one of the keys that are to go.
pub fn needs(row: &Row<'_>, wanted: &[Wanted], including: Including) -> bool {
    let Some(verdict) = &row.verdict else { return false };
    let id = KeyId {
        provider: verdict.provider.0,
        provider_version: verdict.provider.1,
        key_name: verdict.key_name.to_string(),
        kms_key_id: verdict.kms_key_id.to_string(),
        // What opened has a secret whose fingerprint nobody asks for here; what did not has none.
        fingerprint: if verdict.opened_by.is_some() { "opened".to_owned() } else { String::new() },
    };
    let is_sealed = !verdict.provider.1.is_empty();
    is_sealed && including.counts(row.record) && wanted.iter().any(|wanted| wanted.means(&id))
}

/// Keys that a configuration has and nothing in the store needs; only said where everything was read.
pub fn droppable(audit: &Audit) -> impl Iterator<Item = &KeyRow> {
    let whole = read_whole(audit) && audit.summary.answer != Answer::Unjudged;
    audit.summary.keys.iter().filter(move |row| whole && row.in_config && !row.needed() && row.write_key_for.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(provider: &'static str, key_name: &str, kms_key_id: &str, fingerprint: &str) -> KeyId {
        KeyId {
            provider,
            provider_version: "v1",
            key_name: key_name.into(),
            kms_key_id: kms_key_id.into(),
            fingerprint: fingerprint.into(),
        }
    }

    #[test]
    fn a_key_is_named_by_its_name_its_provider_and_name_or_its_key_id() {
        for (wanted, key, meant) in [
            ("key1", id("aescbc", "key1", "", "f"), true),
            ("key1", id("aescbc", "key10", "", "f"), false),
            ("aescbc/key1", id("aescbc", "key1", "", "f"), true),
            ("aesgcm/key1", id("aescbc", "key1", "", "f"), false),
            ("a/b", id("aescbc", "a/b", "", "f"), true),
            ("arn:1", id("kms", "aws", "arn:1", ""), true),
            ("aws", id("kms", "aws", "arn:1", ""), true),
            ("", id("kms", "aws", "", ""), false),
        ] {
            assert_eq!(Wanted(wanted.into()).means(&key), meant, "{wanted} {key:?}");
        }
    }

    #[test]
    fn a_value_that_nothing_opened_may_need_every_key_whose_name_begins_like_its_own() {
        let closed = id("secretbox", "box", "", "");
        assert!(Wanted("box:a".into()).means(&closed));
        assert!(!Wanted("boxer".into()).means(&closed));
        assert!(!Wanted("box:a".into()).means(&id("secretbox", "box", "", "f")), "it opened by the key named box");
    }
}
