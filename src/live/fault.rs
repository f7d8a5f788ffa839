//! Why a member did not do what it was asked, in a sentence, with what to do; and whether it may have done it.
//!
//! Upstream: `etcd-io/etcd`, `api/v3rpc/rpctypes/error.go`.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use thiserror::Error;
use tonic::{Code, Status};

use super::dial::DialFault;
use super::endpoint::Endpoint;
use crate::grpc::{code_name, tame};

/// What kind of trouble it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No connection can be made, as a look after the call shows: it may have been lost with a request under way.
    Dial(DialFault),
    /// The connection ended in the middle.
    Broken(String),
    /// No answer in time.
    Late(Duration),
    /// The member, or the cluster behind it, cannot now: no leader, another leader, no quorum, stopping.
    Unavailable(String),
    /// It has too much to do.
    Busy,
    /// The revision was compacted away.
    Compacted,
    /// The member has not got so far yet.
    Future,
    /// A user is wanted.
    UserWanted,
    /// Name and password do not fit, or the certificate's name is no user.
    WrongUser,
    /// The user may not do that.
    Denied,
    /// A user is given, and the server knows no users.
    AuthOff,
    /// The database has reached its quota.
    NoSpace,
    /// A member's data are not those of the others, and the cluster has noticed.
    Corrupt,
    /// The request is larger than the server takes.
    TooLarge,
    /// The transaction has more operations than the server takes.
    TooManyOperations,
    /// The lease is gone.
    LeaseGone,
    /// The answer is larger than this client takes.
    AnswerTooLarge,
    /// The server has no such call, or not in that form.
    Unsupported(String),
    /// The server says something else.
    Said(&'static str, String),
}

/// A call that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct LiveError {
    /// Who was asked.
    pub endpoint: Endpoint,
    /// What came of it.
    pub trouble: Trouble,
}

impl fmt::Display for LiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.trouble)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(fault) => fault.fmt(f),
            Self::Broken(words) => write!(f, "the connection broke off: {words}"),
            Self::Late(time) => write!(f, "no answer within {time:?}"),
            Self::Unavailable(words) => write!(f, "the cluster cannot serve this now: {words}"),
            Self::Busy => f.write_str("the server has too many requests waiting"),
            Self::Compacted => f.write_str("the revision was compacted away"),
            Self::Future => f.write_str("the member has not got to this revision yet"),
            Self::UserWanted => f.write_str("the server has users, and none is given"),
            Self::WrongUser => f.write_str("the server does not know this user with this password"),
            Self::Denied => f.write_str("the user may not do this: permission denied"),
            Self::AuthOff => f.write_str("a user is given, and the server has none"),
            Self::NoSpace => f.write_str("the database has reached its quota, and the server takes no more writes"),
            Self::Corrupt => f.write_str("the cluster has raised the alarm CORRUPT: its members' data differ"),
            Self::TooLarge => f.write_str("the request is larger than the server takes (its --max-request-bytes)"),
            Self::TooManyOperations => {
                f.write_str("the transaction is larger than the server takes (its --max-txn-ops)")
            }
            Self::LeaseGone => f.write_str("the lease is gone"),
            Self::AnswerTooLarge => f.write_str("the answer is larger than is read at once"),
            Self::Unsupported(words) => write!(f, "the server cannot do this: {words}"),
            Self::Said(code, words) => write!(f, "the server says {code}: {words}"),
        }
    }
}

impl Trouble {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Dial(fault) => fault.hint(),
            Self::Broken(_) => "a proxy or a restart in between? What was read is not lost; try again",
            Self::Late(_) => {
                "it hangs or has much to do: --command-timeout gives it longer, another endpoint may be faster"
            }
            Self::Unavailable(_) => {
                "try again when the cluster has a leader and a quorum; `etcdctl endpoint status` shows who leads"
            }
            Self::Busy => "try again when the server has less to do",
            Self::UserWanted => "give --user NAME; the password comes from ETCDCTL_PASSWORD or is asked for",
            Self::WrongUser => {
                "look at --user and at the password, which may come from ETCDCTL_USER or ETCDCTL_PASSWORD"
            }
            Self::Denied => {
                "reading takes a role that may read all keys; status, hashes and snapshots take the user root"
            }
            Self::AuthOff => "leave --user away",
            Self::NoSpace => "compact, defragment, then `etcdctl alarm disarm`",
            Self::Corrupt => "find the member whose data differ (`atrest check --endpoints`), and restore it first",
            Self::Unsupported(_) | Self::Said(..) => return None,
            Self::Compacted | Self::Future | Self::TooLarge | Self::TooManyOperations | Self::LeaseGone => return None,
            Self::AnswerTooLarge => return None,
        })
    }

    /// What a status that the server has sent itself means.
    pub(super) fn of(status: &Status) -> Self {
        let words = status.message();
        let says = |part: &str| words.contains(part);
        match status.code() {
            Code::OutOfRange if says("has been compacted") => Self::Compacted,
            Code::OutOfRange if says("future revision") => Self::Future,
            Code::OutOfRange if says("message length too large") => Self::AnswerTooLarge,
            Code::ResourceExhausted if says("space exceeded") => Self::NoSpace,
            Code::ResourceExhausted if says("too many requests") => Self::Busy,
            Code::ResourceExhausted if says("larger than max") => Self::TooLarge,
            Code::InvalidArgument if says("request is too large") => Self::TooLarge,
            Code::InvalidArgument if says("too many operations") => Self::TooManyOperations,
            Code::InvalidArgument if says("user name is empty") => Self::UserWanted,
            Code::InvalidArgument if says("authentication failed") || says("user name not found") => Self::WrongUser,
            Code::FailedPrecondition if says("user name not found") => Self::WrongUser,
            Code::FailedPrecondition if says("authentication is not enabled") => Self::AuthOff,
            Code::Unauthenticated => Self::WrongUser,
            Code::PermissionDenied => Self::Denied,
            Code::NotFound if says("lease not found") => Self::LeaseGone,
            Code::DataLoss if says("corrupt") => Self::Corrupt,
            Code::Unavailable => Self::Unavailable(tame(words)),
            Code::Unimplemented => Self::Unsupported(tame(words)),
            Code::InvalidArgument if says("unsupported") => Self::Unsupported(tame(words)),
            // kine says so of what it does not know, with no code of its own.
            Code::Unknown if says("not supported") || says("unsupported") => Self::Unsupported(tame(words)),
            code => Self::Said(code_name(code), tame(words)),
        }
    }

    /// Whether another member may do what this one did not.
    pub fn may_go_elsewhere(&self) -> bool {
        let lost = matches!(self, Self::Dial(_) | Self::Broken(_) | Self::Late(_) | Self::Unavailable(_));
        lost || matches!(self, Self::Busy | Self::Future | Self::Corrupt)
    }

    /// Whether a write may have been carried out all the same. etcd says that its quota is reached to the very write that
    /// reached it, and carries that out (`quotaApplierV3` in `server/etcdserver/apply`).
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::Dial(_) | Self::Broken(_) | Self::Late(_) | Self::Unavailable(_) | Self::NoSpace)
    }
}

/// Whether a status was made on this side: the server has sent none.
pub(super) fn is_ours(status: &Status) -> bool {
    status.source().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_errors_are_told_apart() {
        for (code, words, trouble) in [
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Trouble::Compacted),
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", Trouble::Future),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Trouble::NoSpace),
            (Code::ResourceExhausted, "etcdserver: too many requests", Trouble::Busy),
            (Code::InvalidArgument, "etcdserver: request is too large", Trouble::TooLarge),
            (Code::InvalidArgument, "etcdserver: user name is empty", Trouble::UserWanted),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Trouble::WrongUser,
            ),
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled", Trouble::AuthOff),
            (Code::PermissionDenied, "etcdserver: permission denied", Trouble::Denied),
            (Code::NotFound, "etcdserver: requested lease not found", Trouble::LeaseGone),
            (Code::Unavailable, "etcdserver: no leader", Trouble::Unavailable("etcdserver: no leader".to_owned())),
        ] {
            assert_eq!(Trouble::of(&Status::new(code, words)), trouble, "{words}");
        }
    }

    #[test]
    fn only_what_was_refused_is_known_not_to_have_happened() {
        for unknown in [
            Trouble::Broken(String::new()),
            Trouble::Late(Duration::ZERO),
            Trouble::Unavailable(String::new()),
            Trouble::Dial(DialFault::Expired),
        ] {
            assert!(unknown.outcome_is_unknown() && unknown.may_go_elsewhere(), "{unknown}");
        }
        assert!(Trouble::NoSpace.outcome_is_unknown() && !Trouble::NoSpace.may_go_elsewhere());
        for known in [Trouble::Busy, Trouble::Denied] {
            assert!(!known.outcome_is_unknown(), "{known}");
        }
    }
}
