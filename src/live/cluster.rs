//! The members that were named: which of them answers, what kind of server it is, and the next one where one fails.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::StatusResponse;
use thiserror::Error;

use super::dial::{DialFault, Dialer};
use super::endpoint::{Endpoint, Security};
use super::fault::{LiveError, Trouble};
use super::member::{Member, SharedMember, User};
use super::tls::{Tls, TlsError, TlsFiles};

/// How long to wait, each time a first call broke off, before it is made once more.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// How a cluster is connected to.
#[derive(Clone)]
pub struct Settings {
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// What encrypts.
    pub tls: TlsFiles,
    /// Who asks.
    pub user: Option<User>,
    /// How long a connection may take to be made.
    pub dial_timeout: Duration,
    /// How long a call may take.
    pub command_timeout: Duration,
}

/// What kind of server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// etcd.
    Etcd,
    /// kine: etcd's protocol before an SQL database, of which it knows a part.
    Kine,
}

/// Who answered first.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// What it is.
    pub kind: Kind,
    /// Its release, as it says.
    pub version: String,
    /// What it says of itself.
    pub status: StatusResponse,
}

/// Nobody of those who were named did what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Unanswered {
    /// What became of each, in the order in which they were asked; at least one.
    pub errors: Vec<LiveError>,
}

impl Unanswered {
    /// Whether anybody took the connection and ended it.
    fn broke_off(&self) -> bool {
        let ended = |trouble: &Trouble| matches!(trouble, Trouble::Broken(_) | Trouble::Dial(DialFault::Closed));
        self.errors.iter().any(|error| ended(&error.trouble))
    }

    /// What to do, as the first error says that knows.
    pub fn hint(&self) -> Option<&'static str> {
        self.errors.iter().find_map(|error| error.trouble.hint())
    }
}

impl From<LiveError> for Unanswered {
    fn from(error: LiveError) -> Self {
        Self { errors: vec![error] }
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            write!(f, "{between}{error}")?;
        }
        Ok(())
    }
}

/// The members that were named.
pub struct Cluster {
    settings: Settings,
    tls: Option<Tls>,
    members: Vec<SharedMember>,
    /// The one that is asked first.
    current: AtomicUsize,
}

impl Cluster {
    /// Reads the certificates, and connects to nobody yet.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn new(settings: &Settings) -> Result<Self, TlsError> {
        let any = settings.endpoints.iter().any(|endpoint| is_encrypted(settings, endpoint));
        let tls = any.then(|| Tls::load(&settings.tls)).transpose()?;
        let mut cluster = Self { settings: settings.clone(), tls, members: Vec::new(), current: AtomicUsize::new(0) };
        cluster.members = settings.endpoints.iter().filter_map(|endpoint| cluster.member(endpoint)).collect();
        Ok(cluster)
    }

    /// Another member of the same cluster, to be connected to in the same way; none if it wants TLS where the others do not.
    pub fn member(&self, endpoint: &Endpoint) -> Option<SharedMember> {
        let encrypted = is_encrypted(&self.settings, endpoint);
        if encrypted && self.tls.is_none() {
            return None;
        }
        let tls = self.tls.clone().filter(|_| encrypted);
        let dialer = Dialer { endpoint: endpoint.clone(), tls, timeout: self.settings.dial_timeout };
        Some(Arc::new(Member::new(dialer, self.settings.user.clone(), self.settings.command_timeout)))
    }

    /// All of them, in the order in which they were named.
    pub fn members(&self) -> &[SharedMember] {
        &self.members
    }

    /// The members, the one first that answered last.
    pub fn in_turn(&self) -> impl Iterator<Item = &SharedMember> {
        let first = self.current.load(Ordering::Relaxed).checked_rem(self.members.len()).unwrap_or(0);
        let (before, from) = self.members.split_at_checked(first).unwrap_or((&[], &self.members));
        from.iter().chain(before)
    }

    /// From now on the one after this one is asked first.
    pub fn pass_over(&self, member: &SharedMember) {
        self.point(member, 1);
    }

    fn point(&self, member: &SharedMember, beyond: usize) {
        let position = self.members.iter().position(|other| Arc::ptr_eq(other, member));
        if let Some(position) = position {
            let next = position.saturating_add(beyond).checked_rem(self.members.len()).unwrap_or(0);
            self.current.store(next, Ordering::Relaxed);
        }
    }

    /// Asks one member after the other until one answers, or says something that another one would say as well.
    /// What is asked must be such that asking twice does no harm.
    ///
    /// # Errors
    ///
    /// [`Unanswered`].
    pub async fn ask<T>(&self, what: impl AsyncFn(&Member) -> Result<T, LiveError>) -> Result<T, Unanswered> {
        let mut errors = Vec::new();
        for member in self.in_turn() {
            match what(member).await {
                Ok(answer) => {
                    self.point(member, 0);
                    return Ok(answer);
                }
                Err(error) => {
                    let is_last_word = !error.trouble.may_go_elsewhere();
                    tracing::info!(%error, "a member did not answer");
                    errors.push(error);
                    if is_last_word {
                        break;
                    }
                }
            }
        }
        Err(Unanswered { errors })
    }

    /// Finds a member that answers, and what it is. Where a connection was made and then broke off, it is tried some more times:
    /// proxies and restarts do that, and what is asked later is asked again, too.
    ///
    /// # Errors
    ///
    /// [`Unanswered`].
    pub async fn greet(&self) -> Result<Greeting, Unanswered> {
        let mut pauses = PAUSES.iter();
        let status = loop {
            match self.ask(async |member| member.status().await).await {
                Ok(status) => break status,
                Err(unanswered) => match pauses.next().filter(|_| unanswered.broke_off()) {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(unanswered),
                },
            }
        };
        Ok(Greeting { kind: kind(&status), version: status.version().to_owned(), status })
    }
}

fn is_encrypted(settings: &Settings, endpoint: &Endpoint) -> bool {
    match endpoint.security {
        Security::Plain => false,
        Security::Tls => true,
        Security::AsGiven => settings.tls.is_given(),
    }
}

/// kine has no cluster and no raft, and leaves their numbers out.
fn kind(status: &StatusResponse) -> Kind {
    let cluster = status.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
    let is_kine = cluster == 0 && status.raft_term() == 0 && status.raft_index() == 0 && status.leader() == 0;
    if is_kine { Kind::Kine } else { Kind::Etcd }
}
