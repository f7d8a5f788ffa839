//! Finding keys in an entry: the one that is named, or the one that `prepare` put there.

use crate::provider::spec::{NamedKey, ProviderSpec};

use super::super::Entry;
use super::ChangeError;
use super::fresh::{KeyKind, numbered};

/// A key of a chain, by provider and place in it.
#[derive(Clone, Copy)]
pub(super) struct Found<'e> {
    pub provider: usize,
    pub key: usize,
    pub kind: KeyKind,
    pub named: &'e NamedKey,
}

/// The kind and the keys of a provider that has its own.
pub(super) fn own_keys(provider: &ProviderSpec) -> Option<(KeyKind, &[NamedKey])> {
    match provider {
        ProviderSpec::Secretbox(keys) => Some((KeyKind::Secretbox, keys)),
        ProviderSpec::AesCbc(keys) => Some((KeyKind::AesCbc, keys)),
        ProviderSpec::AesGcm(keys) => Some((KeyKind::AesGcm, keys)),
        ProviderSpec::Identity | ProviderSpec::Kms(_) => None,
    }
}

/// What a key is called.
pub(super) fn label(kind: KeyKind, key: &NamedKey) -> String {
    format!("{}/{}", kind.as_str(), key.name)
}

/// The key that a provider writes with, were it the first.
pub(super) fn first_key(provider: usize, spec: &ProviderSpec) -> Option<Found<'_>> {
    let (kind, keys) = own_keys(spec)?;
    Some(Found { provider, key: 0, kind, named: keys.first()? })
}

/// The key of a name in an entry.
pub(super) fn named<'e>(entry: &'e Entry, name: &str, wanted: Option<KeyKind>) -> Option<Found<'e>> {
    entry.providers.iter().enumerate().find_map(|(provider, spec)| {
        let (kind, keys) = own_keys(spec).filter(|(kind, _)| wanted.is_none_or(|wanted| wanted == *kind))?;
        let (key, named) = keys.iter().enumerate().find(|(_, key)| key.name == name)?;
        Some(Found { provider, key, kind, named })
    })
}

/// The key that `prepare` put second: behind the one that writes, or in the next provider.
///
/// What is numbered before the key that writes was it before; were it taken, a stage done twice would undo itself.
pub(super) fn prepared<'e>(
    entry: &'e Entry,
    first: &'e ProviderSpec,
    wanted: Option<KeyKind>,
) -> Result<Option<Found<'e>>, ChangeError> {
    let writer = first_key(0, first);
    let second =
        own_keys(first).and_then(|(kind, keys)| Some(Found { provider: 0, key: 1, kind, named: keys.get(1)? }));
    let next = entry.providers.get(1).and_then(|spec| first_key(1, spec));
    // Another provider of the same kind is nothing that this program makes.
    let next = next.filter(|next| writer.is_none_or(|writer| next.kind != writer.kind));
    let candidates = [second, next].into_iter().flatten().filter(|found| wanted.is_none_or(|kind| kind == found.kind));
    let (older, newer): (Vec<_>, Vec<_>) =
        candidates.partition(|found| writer.is_some_and(|writer| is_older(found, &writer)));
    match (newer.as_slice(), older.first(), writer) {
        ([one], _, _) => Ok(Some(*one)),
        ([one, other, ..], _, _) => {
            Err(ChangeError::Ambiguous { first: label(one.kind, one.named), second: label(other.kind, other.named) })
        }
        ([], Some(older), Some(writer)) => Err(ChangeError::LooksOlder {
            candidate: label(older.kind, older.named),
            writer: label(writer.kind, writer.named),
        }),
        ([], _, _) => Ok(None),
    }
}

/// Whether a name is the other one with a smaller number.
fn is_older(found: &Found<'_>, writer: &Found<'_>) -> bool {
    match (numbered(&found.named.name), numbered(&writer.named.name)) {
        (Some((stem, number)), Some((other, later))) => stem == other && number < later,
        _ => false,
    }
}

/// A key of an entry that is numbered after the one that writes: it was prepared, and never promoted.
pub(super) fn newer(entry: &Entry) -> Option<ChangeError> {
    let writer = entry.providers.first().and_then(|first| first_key(0, first))?;
    let keys =
        entry.providers.iter().filter_map(own_keys).flat_map(|(kind, keys)| keys.iter().map(move |key| (kind, key)));
    let mut found = keys.map(|(kind, named)| Found { provider: 0, key: 0, kind, named });
    let newer = found.find(|found| is_older(&writer, found))?;
    Some(ChangeError::LooksNewer {
        candidate: label(newer.kind, newer.named),
        writer: label(writer.kind, writer.named),
    })
}
