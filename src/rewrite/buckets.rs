//! Everything in a store but its records: copied pair by pair, with the few changes that a rewrite asks for.
//!
//! * Dropping history leaves the marks of a compaction that was finished at the current revision.
//! * A release older than the one that wrote the store starts only if what that one noted about itself is taken back.
//!
//! Upstream: `etcd-io/etcd` `server/storage/schema/{schema,migration}.go`, `server/etcdserver/version/downgrade.go`.

use std::collections::BTreeMap;
use std::fmt;

use crate::bbolt::bucket::Bucket;
use crate::bbolt::check::Checker;
use crate::etcd::meta::StoreMeta;
use crate::etcd::{Revision, RevisionKey, schema};

/// A release of etcd that a rewritten store is to start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// 3.4
    V3_4,
    /// 3.5
    V3_5,
    /// 3.6
    V3_6,
    /// 3.7
    V3_7,
}

impl Release {
    /// All of them, oldest first.
    pub const ALL: [Self; 4] = [Self::V3_4, Self::V3_5, Self::V3_6, Self::V3_7];

    /// `3.6`
    pub fn minor(self) -> &'static str {
        match self {
            Self::V3_4 => "3.4",
            Self::V3_5 => "3.5",
            Self::V3_6 => "3.6",
            Self::V3_7 => "3.7",
        }
    }

    /// As etcd notes it: `3.6.0`.
    fn noted(self) -> String {
        format!("{}.0", self.minor())
    }

    /// Whether a version that etcd noted is of a later release. What is no version is not.
    fn is_before(self, version: &str) -> bool {
        let numbers = |text: &str| -> Option<(u64, u64)> {
            let mut parts = text.split('.');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        };
        numbers(version).zip(numbers(self.minor())).is_some_and(|(theirs, own)| theirs > own)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.minor())
    }
}

/// A bucket's name and a key in it.
type Spot = (Vec<u8>, Vec<u8>);

/// Changes of single pairs, by bucket and key; none takes the pair away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits(BTreeMap<Spot, Option<Vec<u8>>>);

/// What takes the pairs of a bucket.
pub type Visit<'v, E> = dyn FnMut(&[u8], &[u8]) -> Result<(), E> + 'v;

impl Edits {
    /// The marks of a finished compaction at this main revision.
    pub fn compacted(&mut self, main: i64) {
        let mark = RevisionKey { revision: Revision { main, sub: 0 }, tombstone: false }.encode();
        self.put(schema::META, schema::SCHEDULED_COMPACTION, mark.clone());
        self.put(schema::META, schema::FINISHED_COMPACTION, mark);
    }

    /// What a release must find, or must not, so that it starts. Only what newer ones noted is taken back: an older store is
    /// brought up by the server itself.
    pub fn start_on(&mut self, release: Release, meta: &StoreMeta) {
        if release < Release::V3_6 {
            self.remove(schema::META, schema::STORAGE_VERSION);
        } else if meta.storage_version.as_deref().is_some_and(|version| release.is_before(version)) {
            self.put(schema::META, schema::STORAGE_VERSION, release.noted().into_bytes());
        }
        if release < Release::V3_5 {
            self.remove(schema::META, schema::TERM);
            self.remove(schema::META, schema::CONF_STATE);
        }
        if meta.cluster_version.as_deref().is_some_and(|version| release.is_before(version)) {
            self.put(schema::CLUSTER, schema::CLUSTER_VERSION, release.noted().into_bytes());
        }
        // A downgrade that is under way would hold the restored cluster at its own target.
        self.remove(schema::CLUSTER, schema::DOWNGRADE);
    }

    fn put(&mut self, bucket: &[u8], key: &[u8], value: Vec<u8>) {
        self.0.insert((bucket.to_vec(), key.to_vec()), Some(value));
    }

    fn remove(&mut self, bucket: &[u8], key: &[u8]) {
        self.0.insert((bucket.to_vec(), key.to_vec()), None);
    }

    /// The changes of a bucket, in the order of keys.
    fn of<'e>(&'e self, bucket: &'e [u8]) -> impl Iterator<Item = (&'e [u8], Option<&'e [u8]>)> {
        let own = self.0.iter().filter(move |((name, _), _)| name == bucket);
        own.map(|((_, key), value)| (key.as_slice(), value.as_deref()))
    }
}

/// Gives the pairs of a bucket to `visit` as they are after the changes, in the order of keys, until one is refused.
///
/// A bucket within the bucket, which etcd never makes, is told to `nested` and left out.
pub fn walk<E>(
    checker: &mut Checker<'_>,
    (name, bucket): (&[u8], &Bucket),
    edits: &Edits,
    nested: &mut dyn FnMut(&[u8]),
    visit: &mut Visit<'_, E>,
) -> Result<(), E> {
    let mut edits = edits.of(name).peekable();
    let mut outcome = Ok(());
    checker.bucket(bucket, &mut |pair, _| {
        if outcome.is_err() {
            return;
        }
        if pair.element.is_bucket {
            return nested(pair.element.key);
        }
        let (key, mut value) = (pair.element.key, Some(pair.element.value));
        while let Some((edited, new)) = edits.next_if(|(edited, _)| *edited <= key) {
            if edited == key {
                value = new;
            } else if let Some(new) = new
                && outcome.is_ok()
            {
                outcome = visit(edited, new);
            }
        }
        if let Some(value) = value
            && outcome.is_ok()
        {
            outcome = visit(key, value);
        }
    });
    outcome?;
    edits.filter_map(|(key, new)| Some((key, new?))).try_for_each(|(key, new)| visit(key, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(edits: &Edits, bucket: &[u8]) -> Vec<(String, Option<String>)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        edits.of(bucket).map(|(key, value)| (text(key), value.map(text))).collect()
    }

    fn meta(storage: Option<&str>, cluster: &str) -> StoreMeta {
        StoreMeta {
            storage_version: storage.map(str::to_owned),
            cluster_version: Some(cluster.to_owned()),
            ..StoreMeta::default()
        }
    }

    #[test]
    fn an_older_release_finds_its_own_versions() {
        let mut edits = Edits::default();
        edits.start_on(Release::V3_6, &meta(Some("3.7.0"), "3.7.0"));
        assert_eq!(edited(&edits, b"meta"), [("storageVersion".into(), Some("3.6.0".into()))]);
        let expected = [("clusterVersion".into(), Some("3.6.0".into())), ("downgrade".into(), None)];
        assert_eq!(edited(&edits, b"cluster"), expected);
    }

    #[test]
    fn before_3_6_there_is_no_storage_version_and_before_3_5_no_term() {
        let mut edits = Edits::default();
        edits.start_on(Release::V3_5, &meta(Some("3.6.0"), "3.6.0"));
        assert_eq!(edited(&edits, b"meta"), [("storageVersion".into(), None)]);
        edits.start_on(Release::V3_4, &meta(Some("3.6.0"), "3.6.0"));
        let expected = [("confState".into(), None), ("storageVersion".into(), None), ("term".into(), None)];
        assert_eq!(edited(&edits, b"meta"), expected);
    }

    #[test]
    fn a_newer_release_is_left_to_bring_the_store_up_itself() {
        let mut edits = Edits::default();
        edits.start_on(Release::V3_7, &meta(None, "3.5.0"));
        assert_eq!(edited(&edits, b"meta"), []);
        assert_eq!(edited(&edits, b"cluster"), [("downgrade".into(), None)]);
        assert!(Release::V3_6.is_before("3.10.0") && !Release::V3_6.is_before("3.6.4"));
        assert!(!Release::V3_6.is_before("no version"));
    }
}
