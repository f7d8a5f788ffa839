//! A row in words: what is known of one record, as columns have it.

use std::borrow::Cow;

use crate::kube::key::Address;
use crate::kube::payload::Encoding;
use crate::provider::chain::Label;

use super::class::TOMBSTONE;
use super::classify::{State, Told};
use super::finding::FindingSet;
use super::rows::{RESIDUE, RawRow};
use super::rules::KeyRef;
use super::run::Context;
use super::summary::provider_of;

/// What a record is to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// What the API server reads.
    Entry,
    /// An older revision.
    History,
    /// A tombstone.
    Deleted,
    /// A revision that is gone from the tree and still in the file.
    Residue,
}

impl RecordKind {
    /// What a row is to its key, given the row that comes next.
    pub(super) fn of(row: &RawRow<'_>, next: Option<&RawRow<'_>>) -> Self {
        let is_last = || next.is_none_or(|next| next.key != row.key || next.place == RESIDUE);
        match row.class {
            TOMBSTONE => Self::Deleted,
            _ if row.place == RESIDUE => Self::Residue,
            _ if is_last() => Self::Entry,
            _ => Self::History,
        }
    }

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::History => "history",
            Self::Deleted => "deleted",
            Self::Residue => "residue",
        }
    }
}

/// A record as columns have it. Texts are as the store has them; whoever prints them makes them harmless.
#[derive(Clone, Debug)]
pub struct Row<'r> {
    /// The etcd key.
    pub key: &'r [u8],
    /// The number of its class. Rows of one class and kind are alike in all that is said of their values, but for
    /// encoding, detail and digest.
    pub class: u32,
    /// The API group; empty for the core group and for what is no API object.
    pub group: &'r str,
    /// The plural resource name; empty for what is no API object.
    pub resource: &'r str,
    /// The namespace; empty where there is none.
    pub namespace: &'r str,
    /// The object's name; empty for what is no API object.
    pub name: &'r str,
    /// What the record is to its key.
    pub record: RecordKind,
    /// As etcd has it.
    pub create_revision: i64,
    /// The main revision at which the record was written.
    pub mod_revision: i64,
    /// As etcd has it.
    pub version: i64,
    /// As etcd has it; 0 = none.
    pub lease: i64,
    /// Length of the stored value.
    pub value_bytes: u64,
    /// What the value is.
    pub state: State,
    /// What is said of it; none for a tombstone.
    pub verdict: Option<RowVerdict<'r>>,
}

/// What is said of a record's value.
#[derive(Clone, Debug)]
pub struct RowVerdict<'r> {
    /// Provider and version of the value's own prefix.
    pub provider: (&'static str, &'static str),
    /// The key's or KMS provider's name.
    pub key_name: Cow<'r, str>,
    /// KMS v2's key id.
    pub kms_key_id: Cow<'r, str>,
    /// Form of the plaintext.
    pub encoding: Option<Encoding>,
    /// Whether it would be served.
    pub readable: Told,
    /// What opened it.
    pub opened_by: Option<Label<'r>>,
    /// The same by its place in the configuration.
    pub opener: Option<KeyRef>,
    /// What would be written now.
    pub expected: Option<Label<'r>>,
    /// Whether it is not what would be written now.
    pub stale: Told,
    /// What is wrong with it.
    pub findings: FindingSet,
    /// Why, for a person.
    pub detail: &'r str,
    /// SHA-256 of the stored value.
    pub value_sha256: [u8; 32],
}

impl Context {
    /// Looks a raw row's numbers up.
    pub fn row<'r>(&'r self, raw: &RawRow<'r>, record: RecordKind) -> Row<'r> {
        let (group, resource, namespace, name) = match self.roots.locate(raw.key) {
            Address::Object(object) => {
                (object.group, object.resource, object.namespace.unwrap_or_default(), object.name)
            }
            Address::Reserved(_) | Address::Foreign => ("", "", "", ""),
        };
        let class = self.table.get(raw.class);
        let verdict = class.map(|class| RowVerdict {
            provider: provider_of(class.state, class.kind),
            key_name: self.table.name_of(class.key_name),
            kms_key_id: self.table.name_of(class.kms_key_id),
            encoding: raw.encoding,
            readable: class.readable,
            opened_by: class.opened_by.and_then(|key| self.rules.label(key)),
            opener: class.opened_by,
            expected: class.guard.and_then(|chain| self.rules.chain(chain)).map(|chain| chain.writer()),
            stale: class.stale,
            findings: match record {
                RecordKind::Entry => class.findings.union(self.marked.at(raw.place)),
                RecordKind::Residue => class.residue_findings().union(self.marked.outside(raw.key, raw.mod_revision)),
                RecordKind::History | RecordKind::Deleted => class.history_findings.union(self.marked.at(raw.place)),
            },
            detail: raw.detail,
            value_sha256: raw.value_sha256,
        });
        Row {
            key: raw.key,
            class: raw.class,
            group,
            resource,
            namespace,
            name,
            record,
            create_revision: raw.create_revision,
            mod_revision: raw.mod_revision,
            version: raw.version,
            lease: raw.lease,
            value_bytes: raw.value_bytes,
            state: class.map_or(State::Empty, |class| class.state),
            verdict,
        }
    }
}

/// Some rows in a row.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    rows: Vec<(usize, RecordKind)>,
}

impl Batch {
    pub(super) fn new(bytes: Vec<u8>, rows: Vec<(usize, RecordKind)>) -> Self {
        Self { bytes, rows }
    }

    /// The length of the rows as they are.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The rows as they are.
    pub fn raw(&self) -> impl Iterator<Item = (RawRow<'_>, RecordKind)> {
        self.rows.iter().filter_map(|(at, record)| Some((RawRow::decode(self.bytes.get(*at..)?)?, *record)))
    }

    /// The rows, looked up.
    pub fn iter<'b>(&'b self, context: &'b Context) -> impl Iterator<Item = Row<'b>> {
        self.raw().map(|(raw, record)| context.row(&raw, record))
    }
}
