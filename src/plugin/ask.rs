//! Asking all plugins of a file, and the account of it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::DEFAULT_CONCURRENCY;
use super::client::Client;
use super::greet::{Greeted, Package, Unwell};
use super::round::{self, Answer, Budget};
use crate::provider::kms::{DekSource, DekTable, OwnedDekRequest, PluginState};
use crate::provider::spec::KmsVersion;

/// How many different errors of a plugin are told. Clouds put a number of its own into each of theirs.
const MAX_ERRORS_TOLD: usize = 8;

/// How much may be asked.
pub struct AskOptions<'p> {
    /// The most calls in flight; 0 is 1.
    pub concurrency: usize,
    /// The most calls to spend, repeated ones included; `None` is no limit. Greetings don't count.
    pub max_calls: Option<u64>,
    /// Hears the number of answers whenever it has grown.
    pub progress: &'p dyn Fn(u64),
}

impl Default for AskOptions<'_> {
    /// Eight in flight, no limit, nobody listens.
    fn default() -> Self {
        Self { concurrency: DEFAULT_CONCURRENCY, max_calls: None, progress: &|_| {} }
    }
}

impl fmt::Debug for AskOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { concurrency, max_calls, progress: _ } = self;
        f.debug_struct("AskOptions").field("concurrency", concurrency).field("max_calls", max_calls).finish()
    }
}

/// What asking came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Calls made, repeated ones included, greetings not.
    pub calls: u64,
    /// The limit on calls was reached before everything was answered.
    pub stopped_by_limit: bool,
    /// One row for each provider that was greeted, in the order of the file.
    pub providers: Vec<AskedProvider>,
    /// Requests for providers that are not in the file; nobody was asked.
    pub for_nobody: u64,
}

/// What asking one plugin came to. Opened, refused, abandoned and waiting add up to the distinct requests to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedProvider {
    /// The provider's name.
    pub name: String,
    /// Its protocol.
    pub version: KmsVersion,
    /// Calls made, repeated ones included.
    pub calls: u64,
    /// Requests that have brought a DEK.
    pub opened: u64,
    /// Requests that the plugin has refused, or to which it came to no answer in time.
    pub refused: u64,
    /// Requests that stand in the table as failed, because the plugin was not well or has been given up. They were not asked.
    pub abandoned: u64,
    /// Requests that have not been asked and are not in the table.
    pub waiting: u64,
    /// Why the plugin was given up half-way.
    pub given_up: Option<String>,
    /// The mean time for a DEK; `None` if none was opened.
    pub latency: Option<Duration>,
    /// Different errors in the order in which they came, each with how often; only the first few.
    pub errors: Vec<(String, u64)>,
}

impl AskedProvider {
    fn note(&mut self, words: &str) {
        if let Some((_, times)) = self.errors.iter_mut().find(|(known, _)| known == words) {
            *times += 1;
        } else if self.errors.len() < MAX_ERRORS_TOLD {
            self.errors.push((words.to_string(), 1));
        }
    }
}

/// One run over all plugins of a file.
struct Run<'o> {
    table: DekTable,
    asked: Asked,
    answers: u64,
    budget: Arc<Budget>,
    options: &'o AskOptions<'o>,
}

pub(super) async fn ask_all(
    greeted: &[Greeted],
    mut requests: Vec<OwnedDekRequest>,
    options: &AskOptions<'_>,
) -> (DekTable, Asked) {
    requests.sort_unstable();
    requests.dedup();
    let mut by_provider: BTreeMap<(KmsVersion, String), Vec<OwnedDekRequest>> = BTreeMap::new();
    for request in requests {
        by_provider.entry((request.version, request.provider.clone())).or_default().push(request);
    }
    let budget = Arc::new(Budget::new(options.max_calls));
    let mut run = Run { table: DekTable::new(), asked: Asked::default(), answers: 0, budget, options };
    for greeted in greeted {
        let key = (greeted.greeting.version, greeted.greeting.provider.clone());
        let requests = by_provider.remove(&key).unwrap_or_default();
        run.ask(greeted, requests).await;
    }
    run.asked.for_nobody = by_provider.values().map(|requests| requests.len() as u64).sum();
    (run.table, run.asked)
}

impl Run<'_> {
    async fn ask(&mut self, greeted: &Greeted, requests: Vec<OwnedDekRequest>) {
        let greeting = &greeted.greeting;
        let mut row = AskedProvider {
            name: greeting.provider.clone(),
            version: greeting.version,
            calls: 0,
            opened: 0,
            refused: 0,
            abandoned: 0,
            waiting: 0,
            given_up: None,
            latency: None,
            errors: Vec::new(),
        };
        match &greeting.outcome {
            // Nothing is known about a plugin that nobody could name.
            Err(Unwell::Ambiguous) => row.waiting = requests.len() as u64,
            Err(unwell) => self.abandon_all(&mut row, requests, &unwell.to_string()),
            Ok(health) => {
                if let Some(key_id) = health.key_id.clone() {
                    self.table.set_state(&row.name, PluginState::Ready { key_id, source: DekSource::Seed });
                }
                if let Some(connection) = greeted.connection.clone().filter(|_| !requests.is_empty()) {
                    self.round(&mut row, connection, requests).await;
                }
            }
        }
        self.asked.calls += row.calls;
        self.asked.providers.push(row);
    }

    /// What kube-apiserver would make of a plugin that is not well.
    fn abandon_all(&mut self, row: &mut AskedProvider, requests: Vec<OwnedDekRequest>, words: &str) {
        row.errors.push((words.to_string(), requests.len() as u64));
        if row.version == KmsVersion::V2 {
            self.table.set_state(&row.name, PluginState::Failed);
        }
        self.abandon(row, requests, words);
    }

    fn abandon(&mut self, row: &mut AskedProvider, requests: Vec<OwnedDekRequest>, words: &str) {
        row.abandoned = requests.len() as u64;
        for request in requests {
            self.table.insert(request, Err(words.to_string()));
        }
    }

    async fn round(&mut self, row: &mut AskedProvider, connection: (Client, Package), requests: Vec<OwnedDekRequest>) {
        let (distinct, mut time) = (requests.len() as u64, Duration::ZERO);
        let (table, answers, options) = (&mut self.table, &mut self.answers, self.options);
        let hear = |Answer { question, gain }: Answer<OwnedDekRequest>| {
            match &gain {
                Ok((_, latency)) => {
                    row.opened += 1;
                    time = time.saturating_add(*latency);
                }
                Err(words) => {
                    row.refused += 1;
                    row.note(words);
                }
            }
            table.insert(question, gain.map(|(key, _)| key));
            *answers += 1;
            (options.progress)(*answers);
            ControlFlow::Continue(())
        };
        let end = round::ask(connection, requests, options.concurrency, Arc::clone(&self.budget), hear).await;
        row.calls = end.calls;
        row.latency = u32::try_from(row.opened).ok().and_then(|opened| time.checked_div(opened));
        if let Some(words) = end.given_up {
            self.abandon(row, end.left, &words);
            row.given_up = Some(words);
        }
        row.waiting = distinct.saturating_sub(row.opened + row.refused + row.abandoned);
        self.asked.stopped_by_limit |= end.out_of_budget;
    }
}
