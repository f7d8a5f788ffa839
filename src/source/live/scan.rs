//! One scan over a keyspace: pages under way, what becomes of each, and going on where a server or a revision is lost.
//!
//! The limit of a page is in keys, so it follows the sizes of the values that came before: a page is to have a few
//! mebibytes, whatever the values. After the pin is fixed all requests are serializable: any member that has got to the
//! pin gives the same, and none has to ask the others.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};

use crate::etcd::span::NO_END;
use crate::etcd::{Revision, RevisionKey};
use crate::live::client::{GetOptions, GetResponse, KeyValue};
use crate::live::{LiveError, SharedMember, Trouble, Unanswered};

use super::super::feed::Feeder;
use super::super::{Place, Record};
use super::segments::{Segment, Segments};
use super::{LiveIndex, LiveStore, Page, key_value};

/// Bytes that a page should have.
const PAGE_BYTES: usize = 3 << 20;

/// The most keys of a page; an index within it has 16 bits.
const MAX_PAGE_KEYS: usize = 10_000;

/// Keys of the first page, when nothing is known of the values.
const FIRST_PAGE_KEYS: usize = 64;

/// Pages under way at a time.
const FLIGHTS: usize = 3;

/// A part with fewer pages left is not cut in two.
const SMALL_PAGES: u64 = 3;

/// The pause after a failure; each further one in a row is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Failures in a row after which a scan gives up, for each member that was named and altogether.
const PATIENCE: (usize, usize) = (2, 4);

/// So many revisions in one scan are forgotten by the server, and it is given up.
const MAX_PINS: usize = 100;

/// The first release that streams ranges.
const STREAMS_SINCE: (u64, u64) = (3, 7);

/// A scan while it goes on.
pub(super) struct Scan<'s> {
    store: &'s LiveStore,
    feeder: &'s mut Feeder,
    progress: &'s (dyn Fn(u64) + Sync),
    pin: i64,
    segments: Segments,
    limit: usize,
    index: LiveIndex,
    /// Failures since the last page that came.
    failures: Vec<LiveError>,
    /// How often another member, or the same anew, took over. What was under way then fails with it.
    interruptions: u64,
    /// The pins that were given up.
    forgotten: Vec<i64>,
}

/// A page that was under way.
struct Landed {
    number: usize,
    member: SharedMember,
    /// The interruptions before it was asked for.
    interruptions: u64,
    pin: i64,
    end: Vec<u8>,
    limit: usize,
    result: Result<GetResponse, LiveError>,
}

impl<'s> Scan<'s> {
    pub(super) fn new(
        store: &'s LiveStore,
        pin: i64,
        feeder: &'s mut Feeder,
        progress: &'s (dyn Fn(u64) + Sync),
    ) -> Self {
        let (from, end) = store.everything();
        Self {
            store,
            feeder,
            progress,
            pin,
            segments: Segments::new(from, end, !store.is_kine()),
            limit: FIRST_PAGE_KEYS,
            index: LiveIndex::default(),
            failures: Vec::new(),
            interruptions: 0,
            forgotten: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<LiveIndex, Unanswered> {
        if self.may_stream() {
            self.stream().await?;
        }
        self.pages().await?;
        Ok(self.finish())
    }

    fn finish(mut self) -> LiveIndex {
        self.index.revision = self.pin;
        if let Some(first) = self.forgotten.first() {
            let what = format!(
                "the server forgot revision {first} while it was read, so later keys are those of revision {}",
                self.pin
            );
            self.index.notes.push(what);
        }
        if self.interruptions > 0 {
            let times = self.interruptions;
            let noun = if times == 1 { "time" } else { "times" };
            self.index
                .notes
                .push(format!("the connection was lost {times} {noun}, and the scan went on from where it was"));
        }
        self.index
    }

    /// Pages, several at a time, until every part is read.
    async fn pages(&mut self) -> Result<(), Unanswered> {
        let mut under_way: JoinSet<Landed> = JoinSet::new();
        loop {
            // After a failure one request finds out whether it goes on.
            let flights = if self.failures.is_empty() { FLIGHTS } else { 1 };
            let small = SMALL_PAGES.saturating_mul(self.limit as u64);
            while under_way.len() < flights
                && let Some(number) = self.segments.next(small)
            {
                self.ask(number, &mut under_way);
            }
            match under_way.join_next().await {
                None => return Ok(()),
                Some(landed) => self.landed(landed).await?,
            }
        }
    }

    fn ask(&mut self, number: usize, under_way: &mut JoinSet<Landed>) {
        let Some(Segment { from, end, .. }) = self.segments.get(number).cloned() else { return };
        let Some(member) = self.store.live.cluster().in_turn().next().map(Arc::clone) else { return };
        let (pin, limit, interruptions) = (self.pin, self.limit, self.interruptions);
        let options = self.options(&end);
        under_way.spawn(async move {
            let result = member.range(from, options, limit == 1).await;
            Landed { number, member, interruptions, pin, end, limit, result }
        });
    }

    fn options(&self, end: &[u8]) -> GetOptions {
        // A member that has not got to the pin yet is made to by a request that asks the quorum.
        let behind = self.failures.last().is_some_and(|error| error.trouble == Trouble::Future);
        if behind && !self.store.is_kine() {
            let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
            return GetOptions::new().with_range(end).with_limit(limit).with_revision(self.pin);
        }
        self.store.options(end, self.limit, self.pin)
    }

    async fn landed(&mut self, landed: Result<Landed, JoinError>) -> Result<(), Unanswered> {
        // Nobody aborts a page. One whose asking panicked takes everything with it, since what it had is missing.
        let landed = landed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let Landed { number, member, interruptions, pin, end, limit, result } = landed;
        match result {
            Ok(answer) => {
                self.failures.clear();
                self.page(number, pin, &end, &answer);
                return Ok(());
            }
            // It went down with another page, whose failure has been dealt with.
            Err(error) if error.trouble.outcome_is_unknown() && interruptions != self.interruptions => {}
            Err(error) => self.failed(error, &member, pin, limit).await?,
        }
        if let Some(segment) = self.segments.get_mut(number) {
            segment.busy = false;
        }
        Ok(())
    }

    /// Takes a page in, and notes where its part goes on.
    fn page(&mut self, number: usize, pin: i64, end: &[u8], answer: &GetResponse) {
        let Some(segment) = self.segments.get_mut(number) else { return };
        let from = segment.from.clone();
        let last = answer.kvs().last().map(|kv| kv.key().to_vec());
        let counted = u64::try_from(answer.count()).unwrap_or(0);
        // A server whose keys do not ascend, or leave the range, would be asked for ever.
        let goes_on = |last: &Vec<u8>| answer.more() && *last >= from && (end == NO_END || last.as_slice() < end);
        match last.filter(goes_on) {
            Some(mut last) => {
                last.push(0);
                segment.from = last;
                segment.left = Some(counted.saturating_sub(answer.kvs().len() as u64));
                segment.busy = false;
                self.segments.counted(number, counted);
            }
            None => {
                self.segments.counted(number, counted);
                self.segments.finish(number, answer.kvs().is_empty());
            }
        }
        self.records(from, pin, answer.kvs());
    }

    /// Hands records over.
    fn records(&mut self, from: Vec<u8>, pin: i64, kvs: &[KeyValue]) {
        let mut bytes = 0_usize;
        for (number, kvs) in kvs.chunks(MAX_PAGE_KEYS).enumerate() {
            let from = match kvs.first() {
                Some(first) if number > 0 => first.key().to_vec(),
                _ => from.clone(),
            };
            let leaf = u32::try_from(self.index.pages.len()).unwrap_or(u32::MAX);
            self.index.pages.push(Page { from: from.into_boxed_slice(), pin });
            for (index, kv) in (0..=u16::MAX).zip(kvs) {
                let revision = Revision { main: kv.mod_revision(), sub: 0 };
                let revision = RevisionKey { revision, tombstone: false };
                self.feeder.record(&Record { place: Place { leaf, index }, revision, kv: key_value(kv) });
                bytes = bytes.saturating_add(kv.key().len()).saturating_add(kv.value().len());
            }
        }
        if let Some(mean) = bytes.checked_div(kvs.len()) {
            // A page of large values is followed by a small one at once, one of small values by one that is four times as large.
            let fits = PAGE_BYTES / mean.max(1);
            self.limit = fits.min(self.limit.saturating_mul(4)).clamp(1, MAX_PAGE_KEYS);
        }
        (self.progress)(bytes as u64);
    }

    /// What to do about a failure; an error if there is nothing left to do.
    async fn failed(
        &mut self,
        error: LiveError,
        member: &SharedMember,
        pin: i64,
        limit: usize,
    ) -> Result<(), Unanswered> {
        tracing::info!(%error, "a page did not come");
        match &error.trouble {
            Trouble::Compacted if self.store.asked.is_none() => return self.pin_anew(pin, error).await,
            Trouble::AnswerTooLarge if limit > 1 => {
                self.limit = (limit / 4).clamp(1, self.limit.max(1));
                return Ok(());
            }
            trouble if !trouble.may_go_elsewhere() => return Err(error.into()),
            Trouble::Future => {}
            _ => {
                self.interruptions += 1;
                // What a slow or broken line does not bring as a whole may come in pieces.
                self.limit = (limit / 2).clamp(1, self.limit.max(1));
            }
        }
        let is_first_of_member = self.failures.last().is_none_or(|last| last.endpoint != error.endpoint);
        let lags = error.trouble == Trouble::Future;
        self.failures.push(error);
        let (each, altogether) = PATIENCE;
        let most = self.store.live.cluster().members().len().saturating_mul(each).max(altogether);
        if self.failures.len() >= most {
            return Err(self.give_up());
        }
        // A member that only lags is asked again, through the quorum.
        if !(lags && is_first_of_member) {
            self.store.live.cluster().pass_over(member);
        }
        let doublings = u32::try_from(self.failures.len().saturating_sub(1)).unwrap_or(u32::MAX).min(10);
        tokio::time::sleep(FIRST_PAUSE.saturating_mul(1 << doublings).min(MAX_PAUSE)).await;
        Ok(())
    }

    /// The last error of each member that failed.
    fn give_up(&mut self) -> Unanswered {
        let mut errors: Vec<LiveError> = Vec::new();
        for error in std::mem::take(&mut self.failures) {
            errors.retain(|other| other.endpoint != error.endpoint);
            errors.push(error);
        }
        Unanswered { errors }
    }

    /// Fixes a newer revision, unless that has been done since the page was asked for.
    async fn pin_anew(&mut self, pin: i64, error: LiveError) -> Result<(), Unanswered> {
        if pin == self.pin {
            if self.forgotten.len() >= MAX_PINS {
                return Err(error.into());
            }
            self.forgotten.push(pin);
            self.pin = self.store.fix(None).await?;
        }
        Ok(())
    }

    fn may_stream(&self) -> bool {
        let version = &self.store.live.greeting().version;
        let mut numbers = version.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
        let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        !self.store.is_kine() && release >= STREAMS_SINCE
    }

    /// One stream of everything. What does not come, because the server has no streams after all, is left to pages.
    async fn stream(&mut self) -> Result<(), Unanswered> {
        while let Some(segment) = self.segments.get(0).cloned() {
            let Some(member) = self.store.live.cluster().in_turn().next().map(Arc::clone) else { return Ok(()) };
            let pin = self.pin;
            match self.stream_from(&member, &segment, pin).await {
                Ok(()) => self.segments.finish(0, false),
                Err(LiveError { trouble: Trouble::Unsupported(_), .. }) => return Ok(()),
                Err(error) => self.failed(error, &member, pin, 0).await?,
            }
        }
        Ok(())
    }

    async fn stream_from(&mut self, member: &SharedMember, segment: &Segment, pin: i64) -> Result<(), LiveError> {
        let options = self.store.options(&segment.end, 0, pin);
        let mut stream = member.range_stream(segment.from.clone(), options).await?;
        let (mut from, mut is_whole) = (segment.from.clone(), false);
        while let Some(chunk) = member.next_range(&mut stream).await? {
            // Only the last answer of a stream that is whole has a header.
            is_whole = chunk.header().is_some();
            let Some(last) = chunk.kvs().last() else { continue };
            let mut behind = last.key().to_vec();
            behind.push(0);
            self.failures.clear();
            self.records(std::mem::replace(&mut from, behind.clone()), pin, chunk.kvs());
            if let Some(segment) = self.segments.get_mut(0) {
                segment.from = behind;
            }
        }
        match is_whole {
            true => Ok(()),
            false => {
                let trouble = Trouble::Broken("the stream ended before its last answer".to_owned());
                Err(LiveError { endpoint: member.endpoint().clone(), trouble })
            }
        }
    }
}
