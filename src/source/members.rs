//! The members of a running cluster side by side: do they hold the same data, and is anything wrong?
//!
//! Every member is asked, also those that were not named: the cluster itself knows them. Hashes are of one revision, and
//! are compared only where the members forgot the same history, as `etcdctl endpoint hashkv` leaves it to its reader.
//!
//! Upstream: `etcd-io/etcd`, `server/storage/mvcc/hash.go`; `etcdctl/ctlv3/command/ep_command.go`.

use std::collections::BTreeSet;

use crate::live::client::{AlarmMember, AlarmType, MemberListResponse, StatusResponse};
use crate::live::{Endpoint, Kind, Live, LiveError, SharedMember, Trouble};

/// How often hashes are asked for anew while members forget history in between.
const TRIES: usize = 3;

/// What is known of the cluster.
#[derive(Clone, Debug)]
pub struct Members {
    /// What kind of server it is.
    pub kind: Kind,
    /// The cluster's id; 0 of kine.
    pub cluster: u64,
    /// The revision that the hashes are of; none where there are no hashes.
    pub hashed_at: Option<i64>,
    /// The members, those first that were named.
    pub members: Vec<MemberFacts>,
    /// The alarms that stand.
    pub alarms: Vec<Alarm>,
    /// Whether the data are the same everywhere.
    pub agreement: Agreement,
}

/// What comparing hashes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// All members hold the same.
    Same,
    /// Two members differ.
    Differ,
    /// Members could not be asked or have forgotten different histories.
    Unknown,
    /// There is one member, or a server that has no hashes.
    NothingToCompare,
}

/// An alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Whose.
    pub member: u64,
    /// `NOSPACE`, `CORRUPT`.
    pub kind: &'static str,
}

/// What is known of a member.
#[derive(Clone, Debug, Default)]
pub struct MemberFacts {
    /// Where it was asked.
    pub endpoint: String,
    /// Its id; 0 where it is not known.
    pub id: u64,
    /// Its name in the cluster; empty where it is not known.
    pub name: String,
    /// What it says of itself; none if it could not be asked.
    pub status: Option<Status>,
    /// The hash of its keys and values.
    pub hash: Option<Hash>,
    /// Why something is not known of it.
    pub error: Option<String>,
    /// What to do about that.
    pub hint: Option<&'static str>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its release.
    pub version: String,
    /// The release whose schema its database has; empty before 3.6.
    pub storage_version: String,
    /// The revision that it has got to.
    pub revision: i64,
    /// Bytes of its database, what is free included.
    pub db_bytes: u64,
    /// Bytes of it in use; 0 where it does not say.
    pub db_bytes_in_use: u64,
    /// Where writing stops; 0 where it does not say, which it does from 3.6 on.
    pub quota_bytes: u64,
    /// Whether it leads.
    pub is_leader: bool,
    /// Whether it only learns.
    pub is_learner: bool,
    /// Raft's term.
    pub raft_term: u64,
    /// The last entry of its log.
    pub raft_index: u64,
    /// The last entry that its data have.
    pub raft_applied_index: u64,
    /// What it complains of.
    pub errors: Vec<String>,
}

/// A member's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// CRC-32C.
    pub hash: u32,
    /// The revision before which history is forgotten; -1 = nothing is.
    pub compacted: i64,
}

impl Members {
    /// Whether everything is as it should be, and everybody was asked.
    pub fn is_well(&self) -> bool {
        let agree = matches!(self.agreement, Agreement::Same | Agreement::NothingToCompare);
        let quiet = |member: &MemberFacts| {
            member.error.is_none() && member.status.as_ref().is_some_and(|status| status.errors.is_empty())
        };
        agree && self.alarms.is_empty() && self.members.iter().all(quiet)
    }
}

/// Asks every member.
pub fn members(live: &Live) -> Members {
    live.run(ask(live))
}

async fn ask(live: &Live) -> Members {
    let kind = live.greeting().kind;
    let cluster = live.greeting().status.header().map_or(0, |header| header.cluster_id());
    let mut asked = Vec::new();
    for member in live.cluster().members() {
        asked.push((Some(member.clone()), facts(member).await));
    }
    let mut report = Members {
        kind,
        cluster,
        hashed_at: None,
        members: Vec::new(),
        alarms: Vec::new(),
        agreement: Agreement::NothingToCompare,
    };
    if kind == Kind::Etcd {
        let listed = live.cluster().ask(async |member| member.members().await).await;
        if let Ok(listed) = &listed {
            complete(live, &mut asked, listed).await;
        }
        let alarms = live.cluster().ask(async |member| member.alarms().await).await;
        report.alarms = alarms.iter().flatten().filter_map(alarm).collect();
        // What cannot be asked of any member is missing from each.
        for error in listed.err().into_iter().chain(alarms.err()) {
            for (_, facts) in asked.iter_mut().filter(|(_, facts)| facts.error.is_none()) {
                facts.hint = error.hint();
                facts.error = Some(error.to_string());
            }
        }
        once(&mut asked);
        report.hashed_at = hash(&mut asked).await;
        report.agreement = agreement(&asked);
    }
    report.members = asked.into_iter().map(|(_, facts)| facts).collect();
    report
}

async fn facts(member: &SharedMember) -> MemberFacts {
    let mut facts = MemberFacts { endpoint: member.endpoint().to_string(), ..MemberFacts::default() };
    match member.status().await {
        Ok(status) => {
            facts.id = status.header().map_or(0, |header| header.member_id());
            facts.status = Some(self::status(&status));
        }
        Err(error) => facts.note(&error),
    }
    facts
}

impl MemberFacts {
    fn note(&mut self, error: &LiveError) {
        self.hint = error.trouble.hint();
        self.error = Some(error.trouble.to_string());
    }
}

fn status(status: &StatusResponse) -> Status {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let header = status.header();
    let id = header.map_or(0, |header| header.member_id());
    Status {
        version: status.version().to_owned(),
        storage_version: status.storage_version().to_owned(),
        revision: header.map_or(0, |header| header.revision()),
        db_bytes: unsigned(status.db_size()),
        db_bytes_in_use: unsigned(status.raft_used_db_size()),
        quota_bytes: unsigned(status.db_size_quota()),
        is_leader: id != 0 && id == status.leader(),
        is_learner: status.is_learner(),
        raft_term: status.raft_term(),
        raft_index: status.raft_index(),
        raft_applied_index: status.raft_applied_index(),
        errors: status.errors().to_vec(),
    }
}

/// Names the members, and asks those that nobody has named where they say that they are.
async fn complete(live: &Live, asked: &mut Vec<(Option<SharedMember>, MemberFacts)>, listed: &MemberListResponse) {
    for member in listed.members() {
        let mut known = false;
        for (_, facts) in asked.iter_mut().filter(|(_, facts)| facts.id == member.id()) {
            facts.name = member.name().to_owned();
            known = true;
        }
        if !known {
            let mut found = unnamed(live, member.client_urls()).await;
            found.1.name = member.name().to_owned();
            found.1.id = member.id();
            asked.push(found);
        }
    }
}

async fn unnamed(live: &Live, urls: &[String]) -> (Option<SharedMember>, MemberFacts) {
    let mut last = None;
    for url in urls {
        let member = Endpoint::parse(url).ok().and_then(|endpoint| live.cluster().member(&endpoint));
        let Some(member) = member else { continue };
        let facts = facts(&member).await;
        if facts.status.is_some() {
            return (Some(member), facts);
        }
        last = Some((Some(member), facts));
    }
    last.unwrap_or_else(|| {
        let error = Some("it names no address that can be asked in the same way; name its endpoint".to_owned());
        (None, MemberFacts { endpoint: urls.join(","), error, ..MemberFacts::default() })
    })
}

/// A member that was named twice is told of once.
fn once(asked: &mut Vec<(Option<SharedMember>, MemberFacts)>) {
    let mut seen = BTreeSet::new();
    asked.retain(|(_, facts)| facts.id == 0 || seen.insert(facts.id));
}

fn alarm(alarm: &AlarmMember) -> Option<Alarm> {
    let kind = match alarm.alarm() {
        AlarmType::None => return None,
        AlarmType::Nospace => "NOSPACE",
        AlarmType::Corrupt => "CORRUPT",
    };
    Some(Alarm { member: alarm.member_id(), kind })
}

/// Asks everybody for the hash at the newest revision that all have got to, and gives that revision.
async fn hash(asked: &mut [(Option<SharedMember>, MemberFacts)]) -> Option<i64> {
    let mut hashed_at = None;
    for _ in 0..TRIES {
        let revisions = asked.iter().filter_map(|(_, facts)| facts.status.as_ref()).map(|status| status.revision);
        let revision = revisions.min()?;
        for (member, facts) in asked.iter_mut().filter(|(_, facts)| facts.status.is_some()) {
            let Some(member) = member else { continue };
            match member.hash_kv(revision).await {
                Ok(answer) => {
                    facts.hash = Some(Hash { hash: answer.hash(), compacted: answer.compact_version() });
                }
                // History was forgotten up to a newer revision; all are asked anew.
                Err(LiveError { trouble: Trouble::Compacted, .. }) => facts.hash = None,
                Err(error) => {
                    facts.note(&error);
                    facts.hash = None;
                }
            }
        }
        hashed_at = Some(revision);
        let compacted: BTreeSet<_> =
            asked.iter().filter_map(|(_, facts)| facts.hash).map(|hash| hash.compacted).collect();
        let complete = asked.iter().all(|(_, facts)| facts.hash.is_some() || facts.error.is_some());
        if compacted.len() <= 1 && complete {
            break;
        }
        for (member, facts) in asked.iter_mut() {
            let Some(member) = member else { continue };
            if let Ok(newer) = member.status().await {
                facts.status = Some(status(&newer));
            }
        }
    }
    hashed_at
}

fn agreement(asked: &[(Option<SharedMember>, MemberFacts)]) -> Agreement {
    let hashes: Vec<_> = asked.iter().filter_map(|(_, facts)| facts.hash).collect();
    let differ =
        hashes.iter().any(|one| hashes.iter().any(|other| one.compacted == other.compacted && one.hash != other.hash));
    let comparable = hashes.iter().all(|hash| Some(hash.compacted) == hashes.first().map(|first| first.compacted));
    match asked.len() {
        _ if differ => Agreement::Differ,
        0 | 1 => Agreement::NothingToCompare,
        members if members == hashes.len() && comparable => Agreement::Same,
        _ => Agreement::Unknown,
    }
}
