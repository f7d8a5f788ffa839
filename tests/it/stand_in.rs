//! A KMS plugin of our own, behind a real socket: honest, slow, hostile or half dead, as a test wants it.
//!
//! It speaks gRPC by hand over an HTTP/2 server, so that it can also speak it wrongly.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio::sync::Notify;

/// What a plugin of either protocol is asked; the fields of both, by number.
#[derive(Clone, PartialEq, Message)]
pub struct V1Request {
    #[prost(string, tag = "1")]
    pub version: String,
    /// `plain` in `Encrypt`.
    #[prost(bytes = "vec", tag = "2")]
    pub cipher: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V2Request {
    /// `plaintext` in `Encrypt`, which has the first two fields only.
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// The answer to `Version` and `Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Greeting {
    #[prost(string, tag = "1")]
    pub version: String,
    /// `runtime_name` in v1.
    #[prost(string, tag = "2")]
    pub healthz: String,
    /// `runtime_version` in v1.
    #[prost(string, tag = "3")]
    pub key_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Opened {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
}

/// What `Encrypt` answers; in v1 the first field only.
#[derive(Clone, PartialEq, Message)]
pub struct Wrapped {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// One call as it arrived.
pub struct Call {
    /// `Version`, `Status`, `Encrypt` or `Decrypt`.
    pub method: String,
    /// The gRPC package.
    pub package: String,
    /// The message, still encoded.
    pub message: Vec<u8>,
    /// How many calls of this method came before.
    pub number: u64,
}

/// What the plugin does about a call.
pub enum Reply {
    /// A well-formed answer.
    Message(Vec<u8>),
    /// A well-formed refusal.
    Status(u16, &'static str),
    /// These bytes as the body, and these trailers.
    Raw(Vec<u8>, Vec<(&'static str, &'static str)>),
    /// The same answer, later.
    After(Duration, Vec<u8>),
    /// No answer as long as the connection stands.
    Never,
    /// The process ends: listener and connections are gone.
    Death,
}

impl Reply {
    pub fn message(message: &impl Message) -> Self {
        Self::Message(message.encode_to_vec())
    }
}

type Behaviour = dyn Fn(Call) -> Reply + Send + Sync;

/// What the plugin has seen.
#[derive(Default)]
pub struct Seen {
    calls: Mutex<BTreeMap<String, u64>>,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
    latency: Duration,
}

/// A running plugin. It stops when dropped.
pub struct Plugin {
    endpoint: String,
    seen: Arc<Seen>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    _home: Option<TempDir>,
}

impl Plugin {
    /// Listens on a socket file of its own.
    pub fn start(behaviour: impl Fn(Call) -> Reply + Send + Sync + 'static) -> Self {
        Self::slow(Duration::ZERO, behaviour)
    }

    /// As [`start`](Self::start), but wrapping or opening a DEK takes so long.
    pub fn slow(latency: Duration, behaviour: impl Fn(Call) -> Reply + Send + Sync + 'static) -> Self {
        let home = TempDir::new().unwrap();
        let path = home.path().join("kms.sock").to_str().unwrap().to_string();
        Self::listen(format!("unix://{path}"), path, Some(home), latency, Arc::new(behaviour))
    }

    /// Listens on an abstract name.
    pub fn start_abstract(behaviour: impl Fn(Call) -> Reply + Send + Sync + 'static) -> Self {
        // The directory's name is random, and nobody else has it.
        let home = TempDir::new().unwrap();
        let name = home.path().file_name().unwrap().to_str().unwrap().to_string();
        Self::listen(format!("unix:///@{name}"), format!("\0{name}"), None, Duration::ZERO, Arc::new(behaviour))
    }

    /// Listens at a path that the test has chosen.
    pub fn start_at(path: &str, behaviour: impl Fn(Call) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(format!("unix://{path}"), path.to_string(), None, Duration::ZERO, Arc::new(behaviour))
    }

    fn listen(
        endpoint: String,
        socket: String,
        home: Option<TempDir>,
        latency: Duration,
        behaviour: Arc<Behaviour>,
    ) -> Self {
        let seen = Arc::new(Seen { latency, ..Seen::default() });
        let stop = Arc::new(Notify::new());
        let (ready, wait) = std::sync::mpsc::channel();
        let thread = thread::spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let listener = UnixListener::bind(socket).unwrap();
                    ready.send(()).unwrap();
                    tokio::spawn(accept(listener, behaviour, seen, Arc::clone(&stop)));
                    stop.notified().await;
                });
            }
        });
        wait.recv().expect("the plugin listens");
        Self { endpoint, seen, stop, thread: Some(thread), _home: home }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> u64 {
        self.seen.calls.lock().unwrap().get(method).copied().unwrap_or_default()
    }

    /// The most calls of `Encrypt` and `Decrypt` that were in flight together.
    pub fn most_in_flight(&self) -> u64 {
        self.seen.most_in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.stop.notify_one();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok() || thread::panicking()), "the plugin panicked");
    }
}

async fn accept(listener: UnixListener, behaviour: Arc<Behaviour>, seen: Arc<Seen>, stop: Arc<Notify>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (behaviour, seen, stop) = (Arc::clone(&behaviour), Arc::clone(&seen), Arc::clone(&stop));
        let service = service_fn(move |request| {
            let (behaviour, seen, stop) = (Arc::clone(&behaviour), Arc::clone(&seen), Arc::clone(&stop));
            async move { Ok::<_, Infallible>(serve(request, &*behaviour, &seen, &stop).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
        // A client that goes away is no concern of the plugin's.
        tokio::spawn(async { drop(connection.await) });
    }
}

async fn serve(
    request: Request<Incoming>,
    behaviour: &Behaviour,
    seen: &Seen,
    stop: &Notify,
) -> Response<BoxBody<Bytes, Infallible>> {
    assert_eq!(request.uri().authority().map(|authority| authority.as_str()), Some("localhost"));
    assert!(request.headers().contains_key("grpc-timeout"), "a deadline travels with every call");
    let path = request.uri().path().trim_start_matches('/').to_string();
    let (service, method) = path.split_once('/').unwrap();
    let package = service.strip_suffix(".KeyManagementService").unwrap().to_string();
    let message = request.into_body().collect().await.unwrap().to_bytes().get(5..).unwrap().to_vec();
    let number = {
        let mut calls = seen.calls.lock().unwrap();
        let calls = calls.entry(method.to_string()).or_default();
        *calls += 1;
        *calls - 1
    };
    let call = Call { method: method.to_string(), package, message, number };
    if ["Encrypt", "Decrypt"].contains(&&*call.method) {
        let now = seen.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most_in_flight.fetch_max(now, Ordering::SeqCst);
        if !seen.latency.is_zero() {
            tokio::time::sleep(seen.latency).await;
        }
        seen.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
    let (body, trailers) = match behaviour(call) {
        Reply::Message(message) => (framed(&message), trailers(&[("grpc-status", "0")])),
        Reply::After(time, message) => {
            tokio::time::sleep(time).await;
            (framed(&message), trailers(&[("grpc-status", "0")]))
        }
        Reply::Status(code, words) => {
            (Vec::new(), trailers(&[("grpc-status", &code.to_string()), ("grpc-message", words)]))
        }
        Reply::Raw(body, raw) => (body, trailers(&raw)),
        Reply::Never => std::future::pending().await,
        Reply::Death => {
            stop.notify_one();
            std::future::pending().await
        }
    };
    let body = Full::new(Bytes::from(body)).with_trailers(async move { Some(Ok(trailers)) }).boxed();
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn trailers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    pairs.iter().map(pair).collect()
}

/// A message as gRPC frames it.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// Listens, says these bytes to whoever comes, and hangs up, or hangs if there is nothing to say. Ends with the process.
pub fn babble(path: &str, bytes: &'static [u8]) {
    let listener = StdListener::bind(path).unwrap();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if bytes.is_empty() {
                kept.push(stream);
            } else {
                // Whoever has gone does not hear it.
                let _ = stream.write_all(bytes);
            }
        }
    });
}

/// A plugin that answers truly: it wraps under the key that it was started with, and opens what [`seal`] has sealed, v1
/// under that key, v2 under the key that is asked for, with the annotation that its ciphertexts carry.
pub fn honest(package: &'static str, key_id: &'static str) -> impl Fn(Call) -> Reply + Send + Sync + 'static {
    move |call| {
        if call.package != package {
            return Reply::Status(12, "unknown service");
        }
        let text = str::to_string;
        match (&*call.method, package) {
            ("Version", "v1beta1") => {
                let version = Greeting { version: text("v1beta1"), healthz: text("stand-in"), key_id: text("0.1") };
                Reply::message(&version)
            }
            ("Decrypt", "v1beta1") => {
                let request = V1Request::decode(&*call.message).unwrap();
                assert_eq!(request.version, "v1beta1");
                opened(key_id, &request.cipher)
            }
            ("Encrypt", "v1beta1") => {
                let request = V1Request::decode(&*call.message).unwrap();
                assert_eq!(request.version, "v1beta1");
                Reply::message(&Wrapped { ciphertext: wrap(key_id, &request.cipher), ..Wrapped::default() })
            }
            ("Encrypt", _) => {
                let request = V2Request::decode(&*call.message).unwrap();
                assert_eq!((request.uid.len(), request.key_id.len(), request.annotations.len()), (36, 0, 0));
                Reply::message(&wrapped(key_id, &request.ciphertext))
            }
            ("Status", _) => Reply::message(&status(package, "ok", key_id)),
            ("Decrypt", _) => {
                let request = V2Request::decode(&*call.message).unwrap();
                assert_eq!(request.uid.len(), 36);
                if request.annotations.get("version.oracle.example") != Some(&b"1".to_vec()) {
                    return Reply::Status(2, "annotation missing");
                }
                opened(&request.key_id, &request.ciphertext)
            }
            _ => Reply::Status(12, "unknown method"),
        }
    }
}

/// A status of protocol v2.
pub fn status(version: &str, healthz: &str, key_id: &str) -> Greeting {
    let [version, healthz, key_id] = [version, healthz, key_id].map(str::to_string);
    Greeting { version, healthz, key_id }
}

/// What a v2 plugin makes of a DEK.
pub fn wrapped(key_id: &str, dek: &[u8]) -> Wrapped {
    let annotations = [("version.oracle.example".to_string(), b"1".to_vec())];
    Wrapped { ciphertext: wrap(key_id, dek), key_id: key_id.to_string(), annotations: annotations.into() }
}

/// [`seal`] with a nonce that no other DEK has.
fn wrap(key_id: &str, dek: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(dek);
    seal(key_id, *digest.first_chunk().unwrap(), dek)
}

fn opened(key_id: &str, sealed: &[u8]) -> Reply {
    if sealed.len() < 12 {
        return Reply::Status(2, "short ciphertext");
    }
    match unwrap(key_id, sealed) {
        Some(plaintext) => Reply::message(&Opened { plaintext }),
        None => Reply::Status(2, "cipher: message authentication failed"),
    }
}

/// Opens what [`seal`] has sealed.
pub fn unwrap(key_id: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<12>()?;
    kms_key(key_id).decrypt(nonce.into(), sealed).ok()
}

/// Wraps a DEK as the plugin does.
pub fn seal(key_id: &str, nonce: [u8; 12], dek: &[u8]) -> Vec<u8> {
    let sealed = kms_key(key_id).encrypt(&nonce.into(), dek).unwrap();
    [&nonce[..], &sealed].concat()
}

/// The local key that stands for a remote one.
fn kms_key(key_id: &str) -> Aes256Gcm {
    Aes256Gcm::new(&Sha256::digest(["oracle-kms-", key_id].concat()))
}
