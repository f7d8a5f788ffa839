//! The names of etcd's buckets and of the fields in them, with the release that added each.
//!
//! Upstream: `etcd-io/etcd` `server/storage/schema/bucket.go`, `schema.go`.

/// Raised alarms; the record is the key.
pub const ALARM: &[u8] = b"alarm";
/// Whether authentication is on.
pub const AUTH: &[u8] = b"auth";
/// Roles.
pub const AUTH_ROLES: &[u8] = b"authRoles";
/// Users with their password hashes.
pub const AUTH_USERS: &[u8] = b"authUsers";
/// The cluster's version, and a running downgrade.
pub const CLUSTER: &[u8] = b"cluster";
/// All revisions of all keys.
pub const KEY: &[u8] = b"key";
/// Granted leases.
pub const LEASE: &[u8] = b"lease";
/// Members, by id.
pub const MEMBERS: &[u8] = b"members";
/// Ids of removed members.
pub const MEMBERS_REMOVED: &[u8] = b"members_removed";
/// What the member notes about itself.
pub const META: &[u8] = b"meta";

/// Every bucket that a started etcd of any release has made, in order.
pub const BUCKETS: [&[u8]; 10] =
    [ALARM, AUTH, AUTH_ROLES, AUTH_USERS, CLUSTER, KEY, LEASE, MEMBERS, MEMBERS_REMOVED, META];

/// `meta`: index of the last raft entry in this database; all releases.
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
/// `meta`: raft term of that entry; since 3.5.
pub const TERM: &[u8] = b"term";
/// `meta`: the members that vote, as raft has them; since 3.5.
pub const CONF_STATE: &[u8] = b"confState";
/// `meta`: the release whose schema the database has; since 3.6.
pub const STORAGE_VERSION: &[u8] = b"storageVersion";
/// `meta`: the revision at which a compaction was begun; all releases.
pub const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
/// `meta`: the revision at which a compaction was finished; all releases.
pub const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
/// `cluster`: the lowest release among the members; all releases.
pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
/// `cluster`: a running downgrade; since 3.5.
pub const DOWNGRADE: &[u8] = b"downgrade";
/// `auth`: whether users must log in; all releases, once it was ever changed.
pub const AUTH_ENABLED: &[u8] = b"authEnabled";
