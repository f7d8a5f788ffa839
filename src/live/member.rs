//! One member: calls with a deadline each, and errors that say what is wrong.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmMember, AlarmType, Channel, Client, CompactionOptions, ConnectOptions, Error, GetOptions,
    GetResponse, GetStreamResponse, HashKvResponse, KvClient, MemberListResponse, SnapshotResponse, SnapshotStreaming,
    StatusResponse, Txn, TxnResponse,
};
use hyper_util::rt::TokioIo;
use tokio::sync::OnceCell;
use tonic::transport::Endpoint as Transport;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt};
use zeroize::Zeroizing;

use super::dial::{DialFault, Dialer};
use super::endpoint::Endpoint;
use super::fault::{LiveError, Trouble, is_ours};
use crate::grpc::{find, tame, with_causes, without_details};

/// The most bytes of an answer that holds several values.
pub const MAX_ANSWER_BYTES: usize = 12 << 20;

/// The most bytes of an answer that holds one value. etcd's own limit for a value is 1.5 MiB unless it was raised.
pub const MAX_SINGLE_ANSWER_BYTES: usize = 256 << 20;

/// How long a call may take at least that has a member read or write its whole database.
const LONG: Duration = Duration::from_secs(60);

/// Bytes that may be under way on a connection before the server waits.
const WINDOW_BYTES: u32 = 16 << 20;

/// Who asks, where the server has users.
#[derive(Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: Zeroizing<String>,
}

/// A member behind one endpoint. It is connected to by the first call, and again when the connection has broken.
pub struct Member {
    dialer: Dialer,
    user: Option<User>,
    /// How long a call may take.
    deadline: Duration,
    client: OnceCell<Client>,
}

impl Member {
    pub(super) fn new(dialer: Dialer, user: Option<User>, deadline: Duration) -> Self {
        Self { dialer, user, deadline, client: OnceCell::new() }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.dialer.endpoint
    }

    /// How long a call may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Keys and values from `key` on, as the options say. `single` allows for an answer of one value of any size.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn range(&self, key: Vec<u8>, options: GetOptions, single: bool) -> Result<GetResponse, LiveError> {
        let most = if single { MAX_SINGLE_ANSWER_BYTES } else { MAX_ANSWER_BYTES };
        let mut kv = self.kv().await?.max_decoding_message_size(most);
        self.within(self.deadline, kv.get(key, Some(options))).await
    }

    /// The same as a stream of answers, which etcd has since 3.7. The deadline is for its beginning.
    ///
    /// # Errors
    ///
    /// [`LiveError`]; [`Trouble::Unsupported`] may also come with the first answer.
    pub async fn range_stream(&self, key: Vec<u8>, options: GetOptions) -> Result<GetStreamResponse, LiveError> {
        let mut kv = self.kv().await?.max_decoding_message_size(MAX_SINGLE_ANSWER_BYTES);
        self.within(self.deadline, kv.get_stream(key, Some(options))).await
    }

    /// The next answer of a stream; none at its end.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn next_range(&self, stream: &mut GetStreamResponse) -> Result<Option<GetResponse>, LiveError> {
        self.within(self.deadline, stream.message()).await
    }

    /// A transaction.
    ///
    /// # Errors
    ///
    /// [`LiveError`]; its trouble tells whether [the outcome is unknown](Trouble::outcome_is_unknown).
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, LiveError> {
        let mut kv = self.kv().await?.max_decoding_message_size(MAX_SINGLE_ANSWER_BYTES);
        self.within(self.deadline, kv.txn(txn)).await
    }

    /// Forgets what was before a revision, and waits until that is done where the server can say so.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn compact(&self, revision: i64) -> Result<(), LiveError> {
        let mut kv = self.kv().await?;
        let options = CompactionOptions::new().with_physical();
        self.within(self.deadline.max(LONG), kv.compact(revision, Some(options))).await.map(drop)
    }

    /// Writes the member's database anew, without what is free in it. The member serves nobody meanwhile.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn defragment(&self) -> Result<(), LiveError> {
        let mut maintenance = self.client().await?.maintenance_client();
        self.within(self.deadline.max(LONG), maintenance.defragment()).await.map(drop)
    }

    /// What the member says of itself.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn status(&self) -> Result<StatusResponse, LiveError> {
        let mut maintenance = self.client().await?.maintenance_client();
        self.within(self.deadline, maintenance.status()).await
    }

    /// The hash of the member's keys and values up to a revision; 0 is its newest.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, LiveError> {
        let mut maintenance = self.client().await?.maintenance_client();
        self.within(self.deadline.max(LONG), maintenance.hash_kv(revision)).await
    }

    /// The alarms that stand, of all members.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn alarms(&self) -> Result<Vec<AlarmMember>, LiveError> {
        let mut maintenance = self.client().await?.maintenance_client();
        let response = self.within(self.deadline, maintenance.alarm(AlarmAction::Get, AlarmType::None, None)).await?;
        Ok(response.alarms().to_vec())
    }

    /// The members of the cluster, as this one knows them.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn members(&self) -> Result<MemberListResponse, LiveError> {
        let mut cluster = self.client().await?.cluster_client();
        self.within(self.deadline, cluster.member_list()).await
    }

    /// The member's whole database as a stream.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn snapshot(&self) -> Result<SnapshotStreaming, LiveError> {
        let mut maintenance = self.client().await?.maintenance_client();
        self.within(self.deadline, maintenance.snapshot()).await
    }

    /// The next piece of it; none at its end.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    pub async fn next_piece(&self, stream: &mut SnapshotStreaming) -> Result<Option<SnapshotResponse>, LiveError> {
        self.within(self.deadline, stream.message()).await
    }

    async fn kv(&self) -> Result<KvClient, LiveError> {
        Ok(self.client().await?.kv_client())
    }

    async fn client(&self) -> Result<&Client, LiveError> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    /// Makes the client. Where a user is given this asks for a token, and so connects; else the first call does.
    async fn connect(&self) -> Result<Client, LiveError> {
        let options = self.user.as_ref().map(|user| {
            let options = ConnectOptions::new().with_auto_token_refresh(true);
            options.with_user(user.name.clone(), user.password.as_str())
        });
        let connected = self.within(self.deadline, Client::from_channel(self.channel()?, options)).await;
        match connected {
            // Upstream's client goes on without a user, too.
            Err(LiveError { trouble: Trouble::AuthOff, .. }) => {
                self.within(self.deadline, Client::from_channel(self.channel()?, None)).await
            }
            connected => connected,
        }
    }

    fn channel(&self) -> Result<Channel, LiveError> {
        let dialer = self.dialer.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let dialer = dialer.clone();
            async move { dialer.dial().await.map(TokioIo::new) }
        });
        // The scheme is part of each request; a server that tells users by their certificates looks at it.
        let scheme = if self.dialer.tls.is_some() { "https" } else { "http" };
        let origin = format!("{scheme}://{}", self.endpoint().authority()).parse();
        let origin = origin.map_err(|_| self.fault(Trouble::Dial(DialFault::Lookup("it is no name".to_owned()))))?;
        let transport = Transport::from_static("http://etcd")
            .origin(origin)
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES);
        let channel = transport.connect_with_connector_lazy(connector);
        let guarded = channel.map_response(without_details).map_err(BoxError::from);
        Ok(Channel::Custom(BoxCloneSyncService::new(guarded)))
    }

    fn fault(&self, trouble: Trouble) -> LiveError {
        LiveError { endpoint: self.endpoint().clone(), trouble }
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, LiveError> {
        let trouble = match tokio::time::timeout(deadline, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.trouble(error).await,
            Err(_) => match self.dialer.look().await {
                // It may have hung up meanwhile, which says nothing about the call.
                Some(fault) if !matches!(fault, DialFault::Closed) => Trouble::Dial(fault),
                _ => Trouble::Late(deadline),
            },
        };
        Err(self.fault(trouble))
    }

    async fn trouble(&self, error: Error) -> Trouble {
        let status = match error {
            Error::GRpcStatus(status) => status,
            error => return Trouble::Said("Unknown", tame(&error.to_string())),
        };
        if !is_ours(&status) {
            return Trouble::of(&status);
        }
        let cause = std::error::Error::source(&status);
        let fault = cause.and_then(find::<DialFault>).cloned();
        let words = cause.map_or_else(|| tame(status.message()), with_causes);
        // What a handshake that breaks off means shows only when something else is tried.
        let tells_enough = |fault: &DialFault| !matches!(fault, DialFault::NotTls | DialFault::Silent(_));
        match fault {
            Some(fault) if tells_enough(&fault) => Trouble::Dial(fault),
            Some(fault) => Trouble::Dial(self.dialer.look().await.unwrap_or(fault)),
            None => self.dialer.look().await.map_or(Trouble::Broken(words), Trouble::Dial),
        }
    }
}

/// Members are asked by several at once.
pub type SharedMember = Arc<Member>;
