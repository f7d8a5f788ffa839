//! The columns of a row, in the order and under the names that scripts rely on; the forms of rows share them.

use std::borrow::Cow;
use std::fmt::{Display, Write};

use sha2::{Digest, Sha256};

use crate::audit::row::{Row, RowVerdict};

use super::text;

/// The names of the columns.
pub const COLUMNS: [&str; 25] = [
    "key",
    "group",
    "resource",
    "namespace",
    "name",
    "record",
    "create_revision",
    "mod_revision",
    "version",
    "lease",
    "value_bytes",
    "state",
    "provider",
    "provider_version",
    "key_name",
    "kms_key_id",
    "kms_key_id_hash",
    "encoding",
    "readable",
    "opened_by",
    "expected",
    "stale",
    "findings",
    "detail",
    "value_sha256",
];

/// A column's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell<'r> {
    /// Text.
    Text(Cow<'r, str>),
    /// A number, which JSON gives as one.
    Number(i64),
}

/// The content of all [`COLUMNS`].
pub fn cells<'r>(row: &'r Row<'r>) -> [Cell<'r>; COLUMNS.len()] {
    let verdict = row.verdict.as_ref();
    let word = |word: Option<&'static str>| Cell::Text(Cow::Borrowed(word.unwrap_or_default()));
    let harmless = |text: &'r str| Cell::Text(text::harmless(text));
    let label = |label: Option<&dyn Display>| match label {
        Some(label) => Cell::Text(Cow::Owned(text::harmless(&label.to_string()).into_owned())),
        None => Cell::Text(Cow::Borrowed("")),
    };
    let name = |name: Option<&'r Cow<'r, str>>| harmless(name.map_or("", |name| name.as_ref()));
    [
        Cell::Text(text::key(row.key)),
        harmless(row.group),
        harmless(row.resource),
        harmless(row.namespace),
        harmless(row.name),
        word(Some(row.record.word())),
        Cell::Number(row.create_revision),
        Cell::Number(row.mod_revision),
        Cell::Number(row.version),
        Cell::Text(lease(row.lease)),
        Cell::Number(i64::try_from(row.value_bytes).unwrap_or(i64::MAX)),
        word(Some(row.state.word())),
        word(verdict.map(|verdict| verdict.provider.0)),
        word(verdict.map(|verdict| verdict.provider.1)),
        name(verdict.map(|verdict| &verdict.key_name)),
        name(verdict.map(|verdict| &verdict.kms_key_id)),
        Cell::Text(Cow::Owned(verdict.map_or(String::new(), key_id_hash))),
        word(verdict.and_then(|verdict| verdict.encoding).map(|encoding| encoding.as_str())),
        word(verdict.map(|verdict| verdict.readable.word())),
        label(verdict.and_then(|verdict| verdict.opened_by.as_ref()).map(|label| label as &dyn Display)),
        label(verdict.and_then(|verdict| verdict.expected.as_ref()).map(|label| label as &dyn Display)),
        word(verdict.map(|verdict| verdict.stale.word())),
        Cell::Text(Cow::Owned(verdict.map_or(String::new(), findings))),
        harmless(verdict.map_or("", |verdict| verdict.detail)),
        Cell::Text(Cow::Owned(verdict.map_or(String::new(), |verdict| text::hex(&verdict.value_sha256)))),
    ]
}

/// As etcdctl prints it: the id's bits as hexadecimal digits; empty for none.
pub(super) fn lease(lease: i64) -> Cow<'static, str> {
    if lease == 0 { Cow::Borrowed("") } else { Cow::Owned(format!("{:016x}", lease as u64)) }
}

/// As kube-apiserver's metrics show a key id.
fn key_id_hash(verdict: &RowVerdict<'_>) -> String {
    if verdict.kms_key_id.is_empty() {
        return String::new();
    }
    let mut hash = String::from("sha256:");
    text::push_hex(&mut hash, &Sha256::digest(verdict.kms_key_id.as_bytes()));
    hash
}

fn findings(verdict: &RowVerdict<'_>) -> String {
    let mut ids = String::new();
    for finding in verdict.findings.iter() {
        let separator = if ids.is_empty() { "" } else { ";" };
        // Writing to a string cannot fail.
        let _ = write!(ids, "{separator}{}", finding.id());
    }
    ids
}
