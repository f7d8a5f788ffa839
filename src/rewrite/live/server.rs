//! A real etcd, or kine, as a keyspace; and what else is asked of its members before and after a rewrite.

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, PutOptions, Txn, TxnOp};

use crate::etcd::span::FIRST_KEY;
use crate::live::client as etcd_client;
use crate::live::{Kind, Live, LiveError, Member as Connected, Trouble, Unanswered};

use super::keyspace::{Change, Entry, Fault, FaultKind, Keyspace, Page};
use super::preflight::Member;

/// etcd's own limit, unless its --max-txn-ops says otherwise.
const MAX_TXN_OPS: usize = 128;

/// kine knows transactions of one key only.
const MAX_KINE_OPS: usize = 1;

/// kine keeps objects below `/` and nothing else that matters here.
const KINE_FIRST: &[u8] = b"/";
const KINE_END: &[u8] = b"0";

/// A store behind a connection.
pub struct Server<'s> {
    live: &'s Live,
}

impl<'s> Server<'s> {
    /// What is behind a connection.
    pub fn new(live: &'s Live) -> Self {
        Self { live }
    }

    /// Whether it is kine, which knows a part of etcd's calls.
    pub fn is_kine(&self) -> bool {
        self.live.greeting().kind == Kind::Kine
    }

    /// What the members behind all endpoints say of themselves.
    pub fn members(&self) -> Vec<Result<Member, Fault>> {
        let ask = |member: &Connected| {
            let status = self.live.run(member.status()).map_err(|error| told(&error))?;
            let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
            let id = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
            Ok(Member {
                endpoint: member.endpoint().to_string(),
                id,
                version: status.version().to_owned(),
                db_size: bytes(status.db_size()),
                in_use: bytes(status.raft_used_db_size()),
                quota: Some(bytes(status.db_size_quota())).filter(|quota| *quota > 0),
                leads: id != 0 && id == status.leader(),
                backlog: status.raft_index().saturating_sub(status.raft_applied_index()),
                alarms: status.errors().to_vec(),
            })
        };
        self.live.cluster().members().iter().map(|member| ask(member)).collect()
    }

    /// The numbers and names of the cluster's members, as one of them knows them; none where it does not say.
    pub fn listed(&self) -> Vec<(u64, String)> {
        let list = self.live.run(self.live.cluster().ask(async |member| member.members().await));
        let name = |member: &etcd_client::Member| (member.id(), member.name().to_owned());
        list.map(|list| list.members().iter().map(name).collect()).unwrap_or_default()
    }

    /// Forgets everything before the newest revision. Gives that.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn compact(&self) -> Result<i64, Fault> {
        // Any narrow range tells the revision, and has nothing counted.
        let revision = self.page((FIRST_KEY, b"\x01"), 0, 1)?.revision;
        let compacted = self.live.run(self.live.cluster().ask(async |member| member.compact(revision).await));
        match compacted {
            Ok(()) => Ok(revision),
            Err(error) => match fault(&error) {
                // Somebody else was faster, or an earlier try was carried out.
                Fault { kind: FaultKind::Compacted, .. } => Ok(revision),
                fault => Err(fault),
            },
        }
    }

    /// Writes the database of the member behind an endpoint anew. The member serves nobody meanwhile.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn defragment(&self, endpoint: &str) -> Result<(), Fault> {
        let members = self.live.cluster().members();
        let Some(member) = members.iter().find(|member| member.endpoint().to_string() == endpoint) else {
            return Err(Fault::new(FaultKind::Other, format!("{endpoint}: it is none of the endpoints")));
        };
        self.live.run(member.defragment()).map_err(|error| told(&error))
    }

    fn transaction(&self, changes: &[&Change]) -> Txn {
        let compare = |change: &&Change| Compare::mod_revision(change.key.clone(), CompareOp::Equal, change.expected);
        let put = |change: &&Change| {
            let options = PutOptions::new().with_lease(change.lease);
            TxnOp::put(change.key.clone(), change.value.to_vec(), Some(options))
        };
        let transaction = Txn::new()
            .when(changes.iter().map(compare).collect::<Vec<_>>())
            .and_then(changes.iter().map(put).collect::<Vec<_>>());
        if !self.is_kine() {
            return transaction;
        }
        // kine wants to be asked for the value that is in the way.
        let get = |change: &&Change| TxnOp::get(change.key.clone(), None);
        transaction.or_else(changes.iter().map(get).collect::<Vec<_>>())
    }
}

impl Keyspace for Server<'_> {
    fn page(&self, (from, end): (&[u8], &[u8]), revision: i64, limit: i64) -> Result<Page, Fault> {
        let is_kine = self.is_kine();
        let (from, end) = if is_kine { (from.max(KINE_FIRST), KINE_END) } else { (from, end) };
        let mut options = GetOptions::new().with_range(end).with_limit(limit).with_revision(revision);
        // At a revision that is settled any member answers alike.
        if revision != 0 && !is_kine {
            options = options.with_serializable();
        }
        let range = async |member: &Connected| member.range(from.to_vec(), options.clone(), limit == 1).await;
        let response = self.live.run(self.live.cluster().ask(range)).map_err(|error| fault(&error))?;
        Ok(page(response))
    }

    fn takes_ranges(&self) -> bool {
        !self.is_kine()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Entry>, Fault> {
        let get = async |member: &Connected| member.range(key.to_vec(), GetOptions::new(), true).await;
        let response = self.live.run(self.live.cluster().ask(get)).map_err(|error| fault(&error))?;
        Ok(page(response).entries.into_iter().next())
    }

    fn swap(&self, changes: &[&Change]) -> Result<Option<i64>, Fault> {
        let cluster = self.live.cluster();
        let Some(member) = cluster.in_turn().next() else {
            return Err(Fault::new(FaultKind::Other, "no endpoint is given"));
        };
        let sent = self.live.run(member.txn(self.transaction(changes)));
        let response = sent.map_err(|error| {
            if error.trouble.may_go_elsewhere() {
                cluster.pass_over(member);
            }
            told(&error)
        })?;
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(response.succeeded().then_some(revision))
    }

    fn most_changes(&self) -> usize {
        if self.is_kine() { MAX_KINE_OPS } else { MAX_TXN_OPS }
    }

    fn backlog(&self) -> Option<u64> {
        let member = self.live.cluster().in_turn().next()?;
        let status = self.live.run(member.status()).ok()?;
        Some(status.raft_index().saturating_sub(status.raft_applied_index()))
    }
}

fn page(mut response: GetResponse) -> Page {
    let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
    let (more, count) = (response.more(), u64::try_from(response.count()).unwrap_or(0));
    Page { entries: response.take_kvs().into_iter().map(entry).collect(), revision, more, count }
}

fn entry(kv: KeyValue) -> Entry {
    let (create_revision, mod_revision) = (kv.create_revision(), kv.mod_revision());
    let (version, lease) = (kv.version(), kv.lease());
    let (key, value) = kv.into_key_value();
    Entry { key, value: value.into(), create_revision, mod_revision, version, lease }
}

/// What follows from the answers of several members: the last one settled it.
fn fault(errors: &Unanswered) -> Fault {
    let kind = errors.errors.last().map_or(FaultKind::Other, |error| kind(&error.trouble));
    Fault::new(kind, with_hint(errors.to_string(), errors.hint()))
}

fn told(error: &LiveError) -> Fault {
    Fault::new(kind(&error.trouble), with_hint(error.to_string(), error.trouble.hint()))
}

fn with_hint(words: String, hint: Option<&str>) -> String {
    hint.map_or(words.clone(), |hint| format!("{words}\nhint: {hint}"))
}

/// What follows from a trouble. Where it is not certain that nothing was done, it is taken to be unknown: the value tells.
fn kind(trouble: &Trouble) -> FaultKind {
    match trouble {
        // What reached the quota is looked for, too, but nothing more is written then.
        Trouble::NoSpace => FaultKind::NoSpace,
        Trouble::Future => FaultKind::Unknown,
        trouble if trouble.outcome_is_unknown() => FaultKind::Unknown,
        Trouble::Busy => FaultKind::Busy,
        Trouble::Compacted => FaultKind::Compacted,
        Trouble::UserWanted | Trouble::WrongUser | Trouble::Denied | Trouble::AuthOff => FaultKind::Denied,
        Trouble::TooLarge => FaultKind::RequestTooLarge,
        Trouble::TooManyOperations => FaultKind::TooManyChanges,
        Trouble::LeaseGone => FaultKind::LeaseGone,
        Trouble::AnswerTooLarge => FaultKind::AnswerTooLarge,
        Trouble::Said("Unknown" | "Canceled" | "DeadlineExceeded" | "Aborted" | "Internal", _) => FaultKind::Unknown,
        _ => FaultKind::Other,
    }
}
