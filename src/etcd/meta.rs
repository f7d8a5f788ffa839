//! What etcd notes about itself: consistent index, schema version, compaction, a running downgrade.
//!
//! Upstream: `etcd-io/etcd` `server/storage/schema/{meta,cindex,schema}.go`.

use super::revision::{Revision, RevisionKey};
use super::schema;

/// The pairs of the buckets `meta` and `cluster` that say something about the database as a whole.
///
/// What is absent or malformed is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreMeta {
    /// The raft index of the last entry that is in the database.
    pub consistent_index: Option<u64>,
    /// The raft term of that entry; 3.5 and later.
    pub term: Option<u64>,
    /// The release whose schema the database has, as `3.6.0`; 3.6 and later.
    pub storage_version: Option<String>,
    /// The lowest release among the cluster's members when it was last agreed on.
    pub cluster_version: Option<String>,
    /// The record of a running downgrade, JSON as etcd wrote it.
    pub downgrade: Option<String>,
    /// The main revision at which a compaction was begun.
    pub scheduled_compaction: Option<i64>,
    /// The main revision at which a compaction was finished.
    pub finished_compaction: Option<i64>,
}

/// Text that is longer than this is no version or downgrade record.
const MAX_TEXT_BYTES: usize = 4096;

impl StoreMeta {
    /// Takes note of a pair of `bucket`; pairs that say nothing about the whole are passed over.
    pub fn note(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) {
        match (bucket, key) {
            (schema::META, schema::CONSISTENT_INDEX) => self.consistent_index = number(value),
            (schema::META, schema::TERM) => self.term = number(value),
            (schema::META, schema::STORAGE_VERSION) => self.storage_version = text(value),
            (schema::META, schema::SCHEDULED_COMPACTION) => self.scheduled_compaction = main_revision(value),
            (schema::META, schema::FINISHED_COMPACTION) => self.finished_compaction = main_revision(value),
            (schema::CLUSTER, schema::CLUSTER_VERSION) => self.cluster_version = text(value),
            (schema::CLUSTER, schema::DOWNGRADE) => self.downgrade = text(value),
            _ => {}
        }
    }

    /// The revision below which history is gone; none where nothing was ever compacted.
    ///
    /// etcd adopts a begun compaction when it starts, so the later of the two marks counts.
    pub fn compacted(&self) -> Option<i64> {
        self.finished_compaction.max(self.scheduled_compaction)
    }

    /// The release that wrote the database, as far as the file tells: `3.6`, or `3.5`, or `3.4`.
    ///
    /// 3.6 and later write it down; 3.5 is known by the term it adds, which no release before had.
    pub fn written_by(&self) -> Option<String> {
        if let Some(version) = &self.storage_version {
            let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
            return Some(minor.to_owned());
        }
        self.consistent_index?;
        Some(if self.term.is_some() { "3.5" } else { "3.4" }.to_owned())
    }

    /// The store's current revision, given the highest main revision of any record.
    pub fn current_revision(&self, highest_record: Option<i64>) -> i64 {
        highest_record.max(self.compacted()).unwrap_or(1).max(1)
    }
}

fn number(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

fn text(value: &[u8]) -> Option<String> {
    let short = value.len() <= MAX_TEXT_BYTES;
    std::str::from_utf8(value).ok().filter(|_| short).map(str::to_owned)
}

fn main_revision(value: &[u8]) -> Option<i64> {
    let RevisionKey { revision: Revision { main, .. }, .. } = RevisionKey::decode(value)?;
    Some(main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_is_told_by_what_it_adds() {
        let mut meta = StoreMeta::default();
        assert_eq!(meta.written_by(), None);
        meta.note(schema::META, schema::CONSISTENT_INDEX, &7_u64.to_be_bytes());
        assert_eq!(meta.written_by().as_deref(), Some("3.4"));
        meta.note(schema::META, schema::TERM, &2_u64.to_be_bytes());
        assert_eq!(meta.written_by().as_deref(), Some("3.5"));
        meta.note(schema::META, schema::STORAGE_VERSION, b"3.7.0");
        assert_eq!(meta.written_by().as_deref(), Some("3.7"));
    }

    #[test]
    fn the_later_mark_is_the_compaction() {
        let mut meta = StoreMeta::default();
        let mark = |main| RevisionKey { revision: Revision { main, sub: 0 }, tombstone: false }.encode();
        assert_eq!(meta.compacted(), None);
        meta.note(schema::META, schema::FINISHED_COMPACTION, &mark(10));
        meta.note(schema::META, schema::SCHEDULED_COMPACTION, &mark(20));
        assert_eq!(meta.compacted(), Some(20));
        assert_eq!(meta.current_revision(Some(15)), 20);
        assert_eq!(meta.current_revision(Some(25)), 25);
        assert_eq!(StoreMeta::default().current_revision(None), 1);
    }
}
