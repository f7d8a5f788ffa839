//! The connection to a running etcd, or to kine, which speaks etcd's protocol.
//!
//! [`Settings`] say where and how, [`Live`] is the connection: a [`Cluster`] of the endpoints that were named, each a
//! [`Member`] whose calls have a deadline and whose errors are sentences ([`LiveError`]). Nothing here knows what the
//! values mean, or in which order a keyspace is read.
//!
//! A server is trusted with nothing but its answers. It may be absent, hang, answer garbage or break off half-way: no call
//! takes longer than its deadline, and no answer is read beyond a limit.
//!
//! Calls run on a current-thread runtime that belongs to [`Live`]; [`Live::run`] blocks, and must not be called from inside
//! another tokio runtime. What is spawned goes on only while somebody blocks there.
//!
//! Upstream: `etcd-io/etcd`, `api/etcdserverpb/rpc.proto` and `client/v3`; `k3s-io/kine`, `pkg/server`.

use std::io;

use tokio::runtime::{Builder, Runtime};

mod cluster;
mod dial;
mod endpoint;
mod fault;
mod member;
mod tls;

/// What requests and answers are made of.
pub use etcd_client as client;

pub use cluster::{Cluster, Greeting, Kind, Settings, Unanswered};
pub use dial::DialFault;
pub use endpoint::{Address, Endpoint, EndpointError, Security};
pub use fault::{LiveError, Trouble};
pub use member::{MAX_ANSWER_BYTES, Member, SharedMember, User};
pub use tls::{TlsError, TlsFiles};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system refuses a runtime.
    #[error("no connection can be made: {0}")]
    Runtime(#[from] io::Error),
    /// The certificates are of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody answers.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// A connection to a cluster of which at least one member has answered.
pub struct Live {
    runtime: Runtime,
    cluster: Cluster,
    greeting: Greeting,
}

impl Live {
    /// Connects: finds the first member that answers.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub fn connect(settings: &Settings) -> Result<Self, ConnectError> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let cluster = Cluster::new(settings)?;
        let greeting = runtime.block_on(cluster.greet())?;
        Ok(Self { runtime, cluster, greeting })
    }

    /// Who answered.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// The members.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Carries out calls, and blocks until they are done.
    pub fn run<T>(&self, calls: impl Future<Output = T>) -> T {
        self.runtime.block_on(calls)
    }
}
