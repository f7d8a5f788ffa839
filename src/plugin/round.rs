//! Asking one plugin many times: so many calls in flight, so many calls at all, retries, and when to give up.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::{CallError, Client};
use super::greet::Package;
use super::messages::{DecryptResponse, DecryptV1, DecryptV2, V1_DECRYPT, V2_DECRYPT, V2ALPHA1_DECRYPT};
use crate::lock::lock;
use crate::provider::kms::{DekSource, OwnedDekRequest};
use crate::provider::secret::SecretKey;

/// For how many timeouts a plugin that is unavailable or exhausted is asked the same again.
const RETRY_TIMEOUTS: u32 = 3;

/// The pause before a second call for the same; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between calls for the same.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// A plugin is given up after so many requests in a row for each call in flight that came to no answer.
const ROUNDS_WITHOUT_ANSWER: usize = 2;

/// ... but not before so many requests.
const MIN_WITHOUT_ANSWER: usize = 4;

/// The longest plaintext that is kept as an AES key. Longer ones are no key; only their length is of interest.
const MAX_KEPT_KEY_BYTES: usize = 1024;

/// How many calls may still be spent.
pub(super) struct Budget {
    left: Option<AtomicU64>,
}

impl Budget {
    /// `None` is no limit.
    pub(super) fn new(max_calls: Option<u64>) -> Self {
        Self { left: max_calls.map(AtomicU64::new) }
    }

    fn take(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        let Some(left) = &self.left else { return true };
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// What a plugin is asked, once or again.
pub(super) trait Question: Send + Sync + 'static {
    /// What a good answer brings.
    type Gain: Send + 'static;

    /// Calls the plugin once.
    fn put(&self, client: &Client, package: Package) -> impl Future<Output = Called<Self::Gain>> + Send;
}

/// A call's result, with the plugin's time for it. An answer may still be of no use, and the words say why.
pub(super) type Called<G> = Result<(Result<G, String>, Duration), CallError>;

/// What became of a question that was asked.
pub(super) struct Answer<Q: Question> {
    pub question: Q,
    /// What it brought and the plugin's time for it, or why nothing.
    pub gain: Result<(Q::Gain, Duration), String>,
}

/// How a round ended.
pub(super) struct End<Q> {
    /// Calls made, repeated ones included.
    pub calls: u64,
    /// Why the plugin was given up, if it was.
    pub given_up: Option<String>,
    /// There were questions for which no call was left.
    pub out_of_budget: bool,
    /// The questions that nobody has taken up.
    pub left: Vec<Q>,
}

/// Asks every question, with at most `concurrency` calls in flight. `answered` hears of each answer as it comes, and may
/// end the round; calls that are in flight then are cut off.
pub(super) async fn ask<Q: Question>(
    (client, package): (Client, Package),
    questions: Vec<Q>,
    concurrency: usize,
    budget: Arc<Budget>,
    mut answered: impl FnMut(Answer<Q>) -> ControlFlow<()>,
) -> End<Q> {
    let workers = concurrency.min(questions.len()).max(1);
    let round = Arc::new(Round {
        client,
        package,
        budget,
        patience: MIN_WITHOUT_ANSWER.max(workers.saturating_mul(ROUNDS_WITHOUT_ANSWER)),
        queue: Mutex::new(questions.into_iter()),
        calls: AtomicU64::new(0),
        without_answer: AtomicUsize::new(0),
        given_up: OnceLock::new(),
        out_of_budget: AtomicBool::new(false),
    });
    let (sender, mut answers) = mpsc::channel(workers);
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(Arc::clone(&round).work(sender.clone()));
    }
    drop(sender);
    while let Some(answer) = answers.recv().await {
        if answered(answer).is_break() {
            break;
        }
    }
    let left = std::mem::take(&mut *lock(&round.queue)).collect();
    End {
        calls: round.calls.load(Ordering::Relaxed),
        given_up: round.given_up.get().cloned(),
        out_of_budget: round.out_of_budget.load(Ordering::Relaxed),
        left,
    }
}

/// The questions to one plugin while they are asked.
struct Round<Q> {
    client: Client,
    package: Package,
    budget: Arc<Budget>,
    // So many questions in a row without answer are enough.
    patience: usize,
    queue: Mutex<std::vec::IntoIter<Q>>,
    calls: AtomicU64,
    without_answer: AtomicUsize,
    given_up: OnceLock<String>,
    out_of_budget: AtomicBool,
}

impl<Q: Question> Round<Q> {
    async fn work(self: Arc<Self>, answers: mpsc::Sender<Answer<Q>>) {
        while self.given_up.get().is_none() {
            let Some(question) = self.next() else { return };
            let Some(settled) = self.settle(&question).await else {
                self.out_of_budget.store(true, Ordering::Relaxed);
                return;
            };
            self.note(&settled);
            let gain = match settled {
                Ok((gain, latency)) => gain.map(|gain| (gain, latency)),
                Err(error) => Err(error.to_string()),
            };
            if answers.send(Answer { question, gain }).await.is_err() {
                return;
            }
        }
    }

    fn next(&self) -> Option<Q> {
        lock(&self.queue).next()
    }

    /// Asks until there is an answer; `None` if there was no call left for it.
    async fn settle(&self, question: &Q) -> Option<Called<Q::Gain>> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            if !self.budget.take() {
                return None;
            }
            self.calls.fetch_add(1, Ordering::Relaxed);
            let error = match question.put(&self.client, self.package).await {
                Ok(answer) => return Some(Ok(answer)),
                Err(error) => error,
            };
            let spent = begun.elapsed().saturating_add(pause);
            let hopeless =
                spent >= self.client.timeout().saturating_mul(RETRY_TIMEOUTS) || self.given_up.get().is_some();
            if hopeless || !error.is_transient() {
                return Some(Err(error));
            }
            sleep(scattered(pause)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Counts what came to no answer, and gives the plugin up when that is all there is, or when it has gone.
    fn note(&self, settled: &Called<Q::Gain>) {
        let Some(error) = settled.as_ref().err().filter(|error| error.is_no_answer()) else {
            self.without_answer.store(0, Ordering::Relaxed);
            return;
        };
        let in_a_row = self.without_answer.fetch_add(1, Ordering::Relaxed) + 1;
        if error.unreached || in_a_row >= self.patience {
            // The first words stay.
            let _ = self.given_up.set(error.to_string());
        }
    }
}

impl Question for OwnedDekRequest {
    type Gain = SecretKey;

    async fn put(&self, client: &Client, package: Package) -> Called<SecretKey> {
        let (answer, latency): (DecryptResponse, Duration) = match package {
            Package::V1Beta1 => client.call(V1_DECRYPT, DecryptV1::from(self)).await,
            Package::V2 => client.call(V2_DECRYPT, DecryptV2::from(self)).await,
            Package::V2Alpha1 => client.call(V2ALPHA1_DECRYPT, DecryptV2::from(self)).await,
        }?;
        Ok((keep(self, answer.into_key()), latency))
    }
}

/// Drops a key that is absurdly long: a table of such keys could be of any size. A seed becomes small in the table.
fn keep(request: &OwnedDekRequest, dek: SecretKey) -> Result<SecretKey, String> {
    match request.source {
        DekSource::Key if dek.len() > MAX_KEPT_KEY_BYTES => Err(format!("crypto/aes: invalid key size {}", dek.len())),
        DekSource::Key | DekSource::Seed => Ok(dek),
    }
}

/// A pause of half to the whole length at random, so that calls which were refused together don't come back together.
fn scattered(pause: Duration) -> Duration {
    let mut random = [0];
    let share = getrandom::fill(&mut random).map_or(u8::MAX, |()| random[0]);
    pause / 2 + pause / 2 * u32::from(share) / u32::from(u8::MAX)
}
