//! A running etcd, or kine, as a source: its keyspace at one revision.
//!
//! Whoever reads sees what the API server would see: the newest record of each key at the revision that the first request
//! fixed (the pin). There is no history in it, nothing of what was deleted, and no file. All passes over one store are at
//! the same pin, unless the server forgets it in the middle; then the scan goes on from where it was at a newer one, and
//! [`LiveIndex::notes`] say so.
//!
//! A [`Place`] is a page of answers, counted as they came, and an index in it. Of a page only the key that it was asked from
//! is kept, so that single records can be asked for again.
//!
//! Upstream: `etcd-io/etcd`, `server/storage/mvcc/kvstore_txn.go`; `kubernetes/apiserver`,
//! `pkg/storage/etcd3/store.go` (`GetList`); `k3s-io/kine`, `pkg/server/list.go`.

mod scan;
mod segments;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::etcd::span::{FIRST_KEY, NO_END, behind_parts, farther_ends};
use crate::live::client::{GetOptions, GetResponse};
use crate::live::{Kind, Live, Member, Unanswered};

use super::scan::Visitor;
use super::snapshot::{PassOptions, ReadError};
use super::store::Reader;
use super::{KeyValue, Place, StoreMeta, feed};

use scan::Scan;

/// What kine lists: it knows prefixes, and keeps nothing of Kubernetes' outside this one.
const KINE_RANGE: (&[u8], &[u8]) = (b"/", b"0");

/// Keys that are taken together from one place when a sample is wanted.
const SAMPLED_KEYS: i64 = 32;

/// Parts of a key, between slashes, that make such a place.
const SAMPLED_PARTS: usize = 2;

/// How many prefixes a sample looks into.
const SAMPLED_PREFIXES: usize = 24;

/// A running etcd, or kine.
pub struct LiveStore {
    live: Live,
    /// The revision that was asked for.
    asked: Option<i64>,
    /// The revision that is read.
    pin: Option<i64>,
    /// Something could not be read again.
    lost: AtomicBool,
}

impl fmt::Debug for LiveStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveStore").field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// What a pass learned.
#[derive(Debug, Default)]
pub struct LiveIndex {
    /// What is known of the server.
    pub meta: StoreMeta,
    /// The revision that was read, the newest where there were several.
    pub revision: i64,
    /// What whoever reads the report should know.
    pub notes: Vec<String>,
    pages: Vec<Page>,
}

/// A page of answers.
#[derive(Debug)]
struct Page {
    /// The key that it was asked from.
    from: Box<[u8]>,
    /// The revision that it is of.
    pin: i64,
}

/// What a pass over a keyspace gave.
#[derive(Debug)]
pub struct LivePass<V> {
    /// Where records stand.
    pub index: LiveIndex,
    /// The workers' visitors.
    pub visitors: Vec<V>,
}

impl LiveStore {
    /// What is behind a connection.
    pub fn new(live: Live) -> Self {
        Self { live, asked: None, pin: None, lost: AtomicBool::new(false) }
    }

    /// Reads the keyspace as it was at a revision.
    pub fn at(&mut self, revision: Option<i64>) {
        if self.asked != revision {
            self.asked = revision;
            self.pin = None;
        }
    }

    /// The connection.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Bytes of its database, for those who are told how far a pass is.
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.live.greeting().status.db_size()).unwrap_or(0)
    }

    /// Whether records that were seen could not be read again, as the server had forgotten their revision.
    pub fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Reads everything once; the counterpart of [`Snapshot::pass`](super::Snapshot::pass).
    ///
    /// # Errors
    ///
    /// [`ReadError::Live`], when no server answers any more.
    pub fn pass<P: Sync, V: Visitor>(
        &mut self,
        options: PassOptions<'_>,
        prepare: impl Fn(Reader<'_>) -> P + Sync,
        visitor: impl Fn(&P) -> V + Sync,
    ) -> Result<LivePass<V>, ReadError> {
        let pin = match self.pin {
            Some(pin) => pin,
            None => self.live.run(self.fix(self.asked))?,
        };
        self.pin = Some(pin);
        let nothing = LiveIndex { revision: pin, ..LiveIndex::default() };
        let prepared = prepare(Reader::Live { store: self, index: &nothing });
        let (scanned, visitors) = feed::feed(
            options.threads,
            || visitor(&prepared),
            |feeder| self.live.run(Scan::new(self, pin, feeder, options.progress).run()),
        );
        let mut index = scanned?;
        index.meta = self.meta();
        self.pin = Some(index.revision);
        Ok(LivePass { index, visitors })
    }

    fn meta(&self) -> StoreMeta {
        // What a server notes about itself is not in its answers, but its own release is. That of kine is another's.
        let version = Some(self.live.greeting().version.clone());
        let storage_version = version.filter(|version| !version.is_empty() && !self.is_kine());
        StoreMeta { storage_version, ..StoreMeta::default() }
    }

    /// Whether it is kine, which takes no request that kube-apiserver would not make.
    fn is_kine(&self) -> bool {
        self.live.greeting().kind == Kind::Kine
    }

    /// The range of everything.
    fn everything(&self) -> (&'static [u8], &'static [u8]) {
        if self.is_kine() { KINE_RANGE } else { (FIRST_KEY, NO_END) }
    }

    /// Fixes the revision to read: the one that was asked for, or what a quorum says that it is now.
    async fn fix(&self, asked: Option<i64>) -> Result<i64, Unanswered> {
        // Any key will do. One alone has nothing counted.
        let (key, _) = self.everything();
        let options = GetOptions::new().with_revision(asked.unwrap_or(0));
        let answer = self.live.cluster().ask(async |member| member.range(key.to_vec(), options.clone(), true).await);
        let now = answer.await?.header().map_or(0, |header| header.revision());
        Ok(asked.unwrap_or(now))
    }

    /// Options of a request for keys up to an end, at a revision.
    fn options(&self, end: &[u8], limit: usize, pin: i64) -> GetOptions {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_range(end).with_limit(limit).with_revision(pin);
        if self.is_kine() { options } else { options.with_serializable() }
    }

    /// Gives keys from all over the store to `visit`: some of each of the first prefixes, as far as two slashes reach.
    pub(super) fn sample(&self, index: &LiveIndex, mut visit: impl FnMut(&[u8])) {
        let (from, end) = self.everything();
        let (mut from, mut ends) = (from.to_vec(), vec![end.to_vec()]);
        for _ in 0..SAMPLED_PREFIXES {
            // What is not sampled now is met in the scan.
            let Some(answer) = self.next_keys(&from, &ends, index.revision) else { return };
            answer.kvs().iter().for_each(|kv| visit(kv.key()));
            let Some(last) = answer.kvs().last() else { return };
            from = behind_parts(last.key(), SAMPLED_PARTS);
            if from.is_empty() || self.is_kine() {
                return;
            }
            ends = farther_ends(&from);
        }
    }

    /// The next keys from `from` on, looked for up to one end after the other.
    fn next_keys(&self, from: &[u8], ends: &[Vec<u8>], revision: i64) -> Option<GetResponse> {
        let limit = usize::try_from(SAMPLED_KEYS).unwrap_or(1);
        for end in ends {
            let options = self.options(end, limit, revision);
            let options = if self.is_kine() { options } else { options.with_keys_only() };
            let range = async |member: &Member| member.range(from.to_vec(), options.clone(), false).await;
            let answer = self.live.run(self.live.cluster().ask(range)).ok()?;
            if !answer.kvs().is_empty() {
                return Some(answer);
            }
        }
        None
    }

    /// Reads records again, at places that ascend.
    pub(super) fn records_at(&self, index: &LiveIndex, places: &[Place], mut visit: impl FnMut(Place, KeyValue<'_>)) {
        for of_page in places.chunk_by(|one, other| one.leaf == other.leaf) {
            let (Some(first), Some(last)) = (of_page.first(), of_page.last()) else { continue };
            let page = usize::try_from(first.leaf).ok().and_then(|leaf| index.pages.get(leaf));
            let Some(page) = page else { continue };
            let (_, end) = self.everything();
            let options = self.options(end, usize::from(last.index) + 1, page.pin);
            let asked =
                self.live.cluster().ask(async |member| member.range(page.from.to_vec(), options.clone(), true).await);
            let Ok(answer) = self.live.run(asked) else {
                self.lost.store(true, Ordering::Relaxed);
                continue;
            };
            for place in of_page {
                match answer.kvs().get(usize::from(place.index)) {
                    Some(kv) => visit(*place, key_value(kv)),
                    None => self.lost.store(true, Ordering::Relaxed),
                }
            }
        }
    }
}

fn key_value(kv: &crate::live::client::KeyValue) -> KeyValue<'_> {
    KeyValue {
        key: kv.key(),
        value: kv.value(),
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        version: kv.version(),
        lease: kv.lease(),
    }
}
