//! One plugin's connection: calls with a deadline, which wait for the plugin to listen as kube-apiserver's do.
//!
//! The connection is made by the first call and made again when it has broken. Until a call's deadline has passed, a
//! plugin that does not listen is tried again; only then is that an error.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Response, Uri};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, TimeoutExpired};
use tonic_prost::ProstCodec;
use tower::ServiceExt;
use tower::util::MapResponse;

use super::address::Address;
use super::words::{rpc_error, system_error};
use crate::grpc::{find, tame, with_causes, without_details};

/// The most bytes of a response that are read, which is the limit of Go's gRPC.
const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// The pause before a second attempt to connect; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause between attempts to connect.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// A deadline for timeouts that no clock can tell.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A channel whose responses have been made harmless.
type Guarded = MapResponse<Channel, fn(Response<Body>) -> Response<Body>>;

/// How a call failed. Displays as Go's gRPC would print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallError {
    pub code: Code,
    pub words: String,
    /// The plugin did not listen all the time that the call had.
    pub unreached: bool,
}

impl CallError {
    fn new(code: Code, words: String) -> Self {
        Self { code, words, unreached: false }
    }

    /// Whether another attempt may go better. A refusal is none of these.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::ResourceExhausted)
    }

    /// Whether nothing was found out about the DEK, only about the plugin.
    pub(super) fn is_no_answer(&self) -> bool {
        self.is_transient() || self.code == Code::DeadlineExceeded
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rpc_error(self.code, &self.words))
    }
}

/// The plugin does not listen. The text is Go's.
#[derive(Debug)]
struct NotListening(String);

impl fmt::Display for NotListening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for NotListening {}

/// What an attempt came to, if not to an answer.
enum Miss {
    /// No connection; the reason as Go tells it.
    NotReady(String),
    /// The call itself failed.
    Failed(CallError),
}

/// A plugin's client. Clones share the connection.
#[derive(Clone)]
pub(super) struct Client {
    channel: Guarded,
    timeout: Duration,
    // Whether whoever listens has ever spoken gRPC.
    met: Arc<AtomicBool>,
}

impl Client {
    /// Connects to nothing yet. Must be called on a runtime.
    pub(super) fn new(address: &Address, timeout: Duration) -> Self {
        let (socket, shown) = (address.socket(), tame(&address.path().to_string_lossy()));
        let connector = tower::service_fn(move |_: Uri| {
            let (socket, shown) = (socket.clone(), shown.clone());
            async move {
                let told = |error| {
                    let error = system_error(&error);
                    NotListening(format!("transport: Error while dialing: dial unix {shown}: connect: {error}"))
                };
                UnixStream::connect(socket).await.map(TokioIo::new).map_err(told)
            }
        });
        // The authority that kube-apiserver sends since 1.32. Earlier releases sent the path, which strict servers refuse.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        let channel = channel.map_response(without_details as fn(_) -> _);
        Self { channel, timeout, met: Arc::default() }
    }

    /// The deadline of a call.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Calls a method and tells how long the plugin took.
    pub(super) async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<(A, Duration), CallError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let now = Instant::now();
        let deadline = now.checked_add(self.timeout).unwrap_or(now + FAR);
        let (mut pause, mut last) = (FIRST_PAUSE, None);
        loop {
            let begun = Instant::now();
            match timeout_at(deadline, self.attempt(method, request.clone(), deadline)).await {
                Ok(Ok(answer)) => return Ok((answer, begun.elapsed())),
                Ok(Err(Miss::Failed(error))) => return Err(error),
                Ok(Err(Miss::NotReady(reason))) => last = Some(reason),
                Err(_) => return Err(too_late(last)),
            }
            let again = begun + pause;
            if again >= deadline {
                sleep_until(deadline).await;
                return Err(too_late(last));
            }
            sleep_until(again).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn attempt<Q, A>(&self, method: &'static str, message: Q, deadline: Instant) -> Result<A, Miss>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = Request::new(message);
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let answer = match grpc.ready().await {
            Ok(()) => grpc.unary(request, PathAndQuery::from_static(method), ProstCodec::<Q, A>::default()).await,
            Err(error) => Err(Status::from_error(error.into())),
        };
        let met = match &answer {
            Ok(_) => true,
            Err(status) => status.source().is_none(),
        };
        if met {
            self.met.store(true, Ordering::Relaxed);
        }
        answer.map(tonic::Response::into_inner).map_err(|status| self.miss(&status))
    }

    /// Tells a status that the plugin has sent, which has no cause here, from trouble with the connection.
    fn miss(&self, status: &Status) -> Miss {
        let Some(trouble) = status.source() else {
            return Miss::Failed(CallError::new(status.code(), tame(status.message())));
        };
        if find::<TimeoutExpired>(trouble).is_some() {
            return Miss::Failed(too_late(None));
        }
        if let Some(NotListening(reason)) = find(trouble) {
            return Miss::NotReady(reason.clone());
        }
        let trouble = with_causes(trouble);
        match self.met.load(Ordering::Relaxed) {
            // A server that breaks off before it has ever spoken is not ready to Go, however it breaks off.
            false => Miss::NotReady(format!("error reading server preface: {trouble}")),
            true => Miss::Failed(CallError::new(Code::Unavailable, format!("error reading from server: {trouble}"))),
        }
    }
}

/// The error of a call whose deadline has passed; `last` says why there was no connection.
fn too_late(last: Option<String>) -> CallError {
    let code = Code::DeadlineExceeded;
    match last {
        None => CallError::new(code, "context deadline exceeded".to_string()),
        Some(reason) => {
            let words = format!("latest balancer error: connection error: desc = {reason:?}");
            CallError { code, words, unreached: true }
        }
    }
}
