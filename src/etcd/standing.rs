//! What a database says of the world beside its keys: leases, members, alarms, whether users must log in.
//!
//! Upstream: `etcd-io/etcd` `server/storage/schema/{lease,membership,alarm,auth}.go`, `server/lease/leasepb/lease.proto`.

use std::collections::{BTreeSet, HashSet};

use super::request::{Alarm, number_of};
use super::schema;

/// The pairs of the small buckets that an entry of the log may depend on. What is malformed is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Ids of the leases that there are.
    pub leases: HashSet<i64>,
    /// Ids of the members that vote.
    pub voters: BTreeSet<u64>,
    /// Ids of members that do not, and of those that were removed.
    pub others: BTreeSet<u64>,
    /// Alarms that were raised, and by whom.
    pub alarms: Vec<(u64, Alarm)>,
    /// Whether users must log in, so that a request may be refused for who made it.
    pub auth: bool,
}

/// More members and alarms than any cluster has.
const MAX_MEMBERS: usize = 1 << 16;

impl Standing {
    /// Takes note of a pair of `bucket`.
    pub fn note(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) {
        match (bucket, key) {
            (schema::LEASE, key) => {
                self.leases.extend(key.try_into().ok().map(i64::from_be_bytes));
            }
            (schema::MEMBERS, key) if self.voters.len() + self.others.len() < MAX_MEMBERS => {
                let listens = serde_json::from_slice(value).is_ok_and(|member: Member| member.is_learner);
                let ids = if listens { &mut self.others } else { &mut self.voters };
                ids.extend(member_id(key));
            }
            (schema::MEMBERS_REMOVED, key) if self.others.len() < MAX_MEMBERS => self.others.extend(member_id(key)),
            (schema::ALARM, key) if self.alarms.len() < MAX_MEMBERS => {
                let alarm = number_of(key, 1).zip(number_of(key, 2));
                self.alarms.extend(alarm.map(|(member, alarm)| (member, Alarm::of(alarm))));
            }
            (schema::AUTH, schema::AUTH_ENABLED) => self.auth = value == [1],
            _ => {}
        }
    }
}

#[derive(serde::Deserialize)]
struct Member {
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
}

/// A member's id, which is written as a hexadecimal number without leading zeros.
fn member_id(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_adds_what_it_is_for() {
        let mut standing = Standing::default();
        standing.note(schema::LEASE, &(-7_i64).to_be_bytes(), b"");
        standing.note(schema::LEASE, b"short", b"");
        standing.note(schema::MEMBERS, b"8e9e05c52164694d", br#"{"id":1,"name":"a"}"#);
        standing.note(schema::MEMBERS, b"2", br#"{"id":2,"isLearner":true}"#);
        standing.note(schema::MEMBERS_REMOVED, b"3", b"removed");
        standing.note(schema::ALARM, &[8, 5, 16, 1], b"");
        standing.note(schema::AUTH, schema::AUTH_ENABLED, &[1]);
        let expected = Standing {
            leases: HashSet::from([-7]),
            voters: BTreeSet::from([0x8e9e_05c5_2164_694d]),
            others: BTreeSet::from([2, 3]),
            alarms: vec![(5, Alarm::NoSpace)],
            auth: true,
        };
        assert_eq!(standing, expected);
    }
}
