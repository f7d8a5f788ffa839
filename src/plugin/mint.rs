//! Having fresh DEKs wrapped, for values that are about to be sealed.
//!
//! All of them are wrapped before the first value is sealed, and it is all or nothing: the first refusal ends it. A KMS v2
//! plugin must wrap under the key that it calls the current one, else every value would be stale at once. And what it
//! wraps it must give back: one DEK is unwrapped again, since values under DEKs that nobody unwraps are lost.
//!
//! Upstream: `GenerateTransformer` of `kubernetes/apiserver`, `pkg/storage/value/encrypt/envelope/kmsv2/envelope.go`, and
//! `rotateDEKOnKeyIDChange` of `pkg/server/options/encryptionconfig/config.go`; the trial is the health check of v1 there.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::ask::AskOptions;
use super::client::Client;
use super::greet::{self, Greeted, Package, Unwell};
use super::messages::{EncryptResponse, EncryptV1, EncryptV2, V1_ENCRYPT, V2_ENCRYPT, V2ALPHA1_ENCRYPT};
use super::round::{self, Answer, Budget, Called, Question};
use crate::grpc::tame;
use crate::provider::kms::{Annotations, FreshDeks, SealForm, Sealing, Wrapped};
use crate::provider::secret::SecretKey;
use crate::provider::spec::KmsVersion;

/// How often a KMS v2 plugin may change its key before the first value is sealed.
const MAX_KEY_CHANGES: usize = 2;

/// The call that unwraps one DEK again.
const TRIAL_CALLS: u64 = 1;

/// What has to be wrapped by one plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<'o> {
    /// The provider's name.
    pub provider: &'o str,
    /// The form in which values will be written.
    pub form: SealForm,
    /// How many values.
    pub values: u64,
}

impl Order<'_> {
    /// The calls that it takes if none is repeated: one for each DEK, and one that unwraps the first of them again.
    pub fn calls(&self) -> u64 {
        match self.form.deks(self.values) {
            0 => 0,
            deks => deks.saturating_add(TRIAL_CALLS),
        }
    }
}

/// DEKs, wrapped.
#[derive(Debug)]
pub struct Minted {
    /// What writes with them.
    pub sealing: Sealing,
    /// Calls made, repeated ones included.
    pub calls: u64,
    /// The mean time for a DEK.
    pub latency: Duration,
}

/// Why there is nothing to write with.
#[derive(Debug, Error)]
pub enum MintError {
    /// There is no value, so a DEK would be of no use.
    #[error("there is no value to seal")]
    NoValue,
    /// The file has no such provider.
    #[error("the configuration has no KMS {version} provider named {provider:?}")]
    NoProvider {
        /// `v1` or `v2`.
        version: &'static str,
        /// The name.
        provider: String,
    },
    /// The plugin cannot be asked.
    #[error(transparent)]
    Unwell(#[from] Unwell),
    /// It would take more calls than may be spent. None was made.
    #[error("{calls} calls are needed, and {limit} are allowed")]
    Limit {
        /// The calls that it takes.
        calls: u64,
        /// The limit.
        limit: u64,
    },
    /// The calls that may be spent ran out on repetitions.
    #[error("the limit on calls was reached with {progress}")]
    Stopped {
        /// How far it came.
        progress: Progress,
    },
    /// The plugin has refused, given no answer in time, or answered what upstream does not take.
    #[error("{words} ({progress})")]
    Plugin {
        /// kube-apiserver's words.
        words: String,
        /// How far it came.
        progress: Progress,
    },
    /// A KMS v2 plugin that wraps under another key than it calls the current one.
    #[error("the plugin says that its key is {status:?}, and wraps with {encrypt:?}")]
    KeyId {
        /// What `Status` says.
        status: String,
        /// What `Encrypt` says.
        encrypt: String,
    },
    /// The plugin does not unwrap what it has just wrapped.
    #[error("the plugin does not give back what it has wrapped: {0}")]
    Trial(String),
    /// No memory or no randomness for DEKs.
    #[error("no data keys could be made: {0}")]
    Making(#[from] io::Error),
}

/// How many DEKs of how many were wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// So many were.
    pub wrapped: u64,
    /// So many were wanted.
    pub wanted: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} data keys wrapped", self.wrapped, self.wanted)
    }
}

/// One DEK to be wrapped.
struct ToWrap {
    deks: Arc<FreshDeks>,
    place: usize,
    form: SealForm,
}

impl Question for ToWrap {
    /// What was made of it, and the key id; that is empty in v1.
    type Gain = (Wrapped, String);

    async fn put(&self, client: &Client, package: Package) -> Called<Self::Gain> {
        let dek = self.deks.get(self.place).map(<[u8; _]>::as_slice).unwrap_or_default();
        let (answer, latency): (EncryptResponse, Duration) = match package {
            Package::V1Beta1 => client.call(V1_ENCRYPT, EncryptV1::new(dek)).await,
            Package::V2 => client.call(V2_ENCRYPT, EncryptV2::new(dek)).await,
            Package::V2Alpha1 => client.call(V2ALPHA1_ENCRYPT, EncryptV2::new(dek)).await,
        }?;
        let EncryptResponse { ciphertext, key_id, annotations } = answer;
        let annotations: Annotations<'_> = annotations.iter().map(|(key, value)| (&**key, &**value)).collect();
        let wrapped = Wrapped::new(self.form, &ciphertext, &key_id, annotations);
        Ok((wrapped.map(|wrapped| (wrapped, key_id)).map_err(|error| tame(&error.to_string())), latency))
    }
}

/// A plugin while it wraps.
struct Mint<'o> {
    connection: (Client, Package),
    order: Order<'o>,
    options: &'o AskOptions<'o>,
    budget: Arc<Budget>,
    calls: u64,
}

pub(super) async fn mint(
    greeted: &[Greeted],
    order: Order<'_>,
    options: &AskOptions<'_>,
    fill: impl FnMut(&mut [u8]) -> io::Result<()>,
) -> Result<Minted, MintError> {
    let wanted = order.form.deks(order.values);
    if wanted == 0 {
        return Err(MintError::NoValue);
    }
    let (connection, key_id) = connection(greeted, &order)?;
    if let Some(limit) = options.max_calls.filter(|&limit| limit < order.calls()) {
        return Err(MintError::Limit { calls: order.calls(), limit });
    }
    let count = usize::try_from(wanted).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let deks = Arc::new(FreshDeks::generate(count, fill)?);
    let budget = Arc::new(Budget::new(options.max_calls));
    let mut mint = Mint { connection, order, options, budget, calls: 0 };
    let (wrapped, latency) = mint.wrap_under_current_key(&deks, key_id).await?;
    let sealing = Sealing::new(order.provider, order.form, deks, wrapped);
    let sealing = sealing.map_err(|error| mint.failed(error.to_string(), wanted))?;
    mint.try_out(&sealing).await?;
    Ok(Minted { sealing, calls: mint.calls, latency })
}

/// The plugin of an order, and the key that it calls the current one; that is empty in v1.
fn connection(greeted: &[Greeted], order: &Order<'_>) -> Result<((Client, Package), String), MintError> {
    let version = order.form.version();
    let ours =
        |greeted: &&Greeted| (greeted.greeting.version, &*greeted.greeting.provider) == (version, order.provider);
    let no_provider = || MintError::NoProvider {
        version: match version {
            KmsVersion::V1 => "v1",
            KmsVersion::V2 => "v2",
        },
        provider: order.provider.to_string(),
    };
    let greeted = greeted.iter().find(ours).ok_or_else(no_provider)?;
    let health = greeted.greeting.outcome.clone()?;
    let connection = greeted.connection.clone().ok_or_else(no_provider)?;
    Ok((connection, health.key_id.unwrap_or_default()))
}

/// All DEKs, wrapped, and the mean time for one; or an answer under another key than the current one.
enum Outcome {
    Wrapped(Vec<Wrapped>, Duration),
    OtherKey(String),
}

impl Mint<'_> {
    /// Has all DEKs wrapped. A plugin that changes its key in between is asked for the current one again.
    async fn wrap_under_current_key(
        &mut self,
        deks: &Arc<FreshDeks>,
        mut current: String,
    ) -> Result<(Vec<Wrapped>, Duration), MintError> {
        for _ in 0..MAX_KEY_CHANGES {
            let encrypt = match self.wrap(deks, &current).await? {
                Outcome::Wrapped(wrapped, latency) => return Ok((wrapped, latency)),
                Outcome::OtherKey(key_id) => key_id,
            };
            let (_, health) = greet::status(&self.connection.0, self.order.provider).await.map_err(Unwell::Plugin)?;
            let status = health.key_id.unwrap_or_default();
            if status != encrypt {
                return Err(MintError::KeyId { status, encrypt });
            }
            current = status;
        }
        let words = format!("the plugin changes its key all the time; now it is {current:?}");
        Err(self.failed(words, deks.len() as u64))
    }

    async fn wrap(&mut self, deks: &Arc<FreshDeks>, current: &str) -> Result<Outcome, MintError> {
        let form = self.order.form;
        let questions = (0..deks.len()).map(|place| ToWrap { deks: Arc::clone(deks), place, form }).collect();
        let mut wrapped: Vec<Option<Wrapped>> = vec![None; deks.len()];
        let (mut done, mut time, mut refused, mut other_key) = (0u64, Duration::ZERO, None, None);
        let progress = self.options.progress;
        let hear = |Answer { question, gain }: Answer<ToWrap>| {
            match gain {
                Ok(((_, key_id), _)) if form.version() == KmsVersion::V2 && key_id != current => {
                    other_key = Some(key_id)
                }
                Ok(((made, _), latency)) => {
                    if let Some(place) = wrapped.get_mut(question.place) {
                        *place = Some(made);
                    }
                    done += 1;
                    time = time.saturating_add(latency);
                    progress(done);
                    return ControlFlow::Continue(());
                }
                Err(words) => refused = Some(words),
            }
            ControlFlow::Break(())
        };
        let (concurrency, budget) = (self.options.concurrency, Arc::clone(&self.budget));
        let end = round::ask(self.connection.clone(), questions, concurrency, budget, hear).await;
        self.calls += end.calls;
        if let Some(key_id) = other_key {
            return Ok(Outcome::OtherKey(key_id));
        }
        let so_far = Progress { wrapped: done, wanted: deks.len() as u64 };
        if let Some(words) = refused.or(end.given_up) {
            return Err(MintError::Plugin { words: self.told(words), progress: so_far });
        }
        let mean = u32::try_from(done).ok().and_then(|done| time.checked_div(done)).unwrap_or_default();
        let all: Option<Vec<Wrapped>> = wrapped.into_iter().collect();
        // Whatever else could end a round early, only the budget is left.
        all.map(|all| Outcome::Wrapped(all, mean)).ok_or(MintError::Stopped { progress: so_far })
    }

    /// Has the first DEK unwrapped again.
    async fn try_out(&mut self, sealing: &Sealing) -> Result<(), MintError> {
        let Some((request, dek)) = sealing.answer(0) else { return Ok(()) };
        let mut outcome: Option<Result<SecretKey, String>> = None;
        let hear = |answer: Answer<_>| {
            outcome = Some(answer.gain.map(|(key, _)| key));
            ControlFlow::Break(())
        };
        let budget = Arc::clone(&self.budget);
        let end = round::ask(self.connection.clone(), vec![request], 1, budget, hear).await;
        self.calls += end.calls;
        match outcome {
            Some(Ok(key)) if key == dek => Ok(()),
            Some(Ok(key)) => {
                let words = format!("other {} bytes came back", key.len());
                Err(MintError::Trial(words))
            }
            Some(Err(words)) => Err(MintError::Trial(words)),
            None => {
                let wanted = self.order.form.deks(self.order.values);
                Err(MintError::Stopped { progress: Progress { wrapped: wanted, wanted } })
            }
        }
    }

    /// A failure in kube-apiserver's words, which it introduces in v2 only.
    fn told(&self, words: String) -> String {
        match self.order.form.version() {
            KmsVersion::V2 if words.starts_with("rpc error: ") => format!("failed to encrypt DEK, error: {words}"),
            _ => words,
        }
    }

    fn failed(&self, words: String, wanted: u64) -> MintError {
        MintError::Plugin { words, progress: Progress { wrapped: 0, wanted } }
    }
}
