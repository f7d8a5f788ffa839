//! What a request makes of a store, as etcd's own apply loop would have it.
//!
//! The state holds what each key has now, without its value: of that it only knows where it stands. Keys that no request touches need
//! not be in it. Upstream: `etcd-io/etcd` `server/etcdserver/{apply,txn}`, `server/storage/mvcc/kvstore_txn.go`,
//! `server/lease/lessor.go`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use super::Revision;
use super::request::{Alarm, Compare, KeyRange, Operation, Put, Relation, Request, Target, Txn};

/// Where a value stands, for whoever keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueAt {
    /// In the database, at a place that its reader chose.
    Database(u64),
    /// In the log: where the message of the put starts, and its bytes.
    Log(u64, u32),
}

/// What a key has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// When it was created last.
    pub create_revision: i64,
    /// When it was written last.
    pub mod_revision: i64,
    /// How often it was written since it was created.
    pub version: i64,
    /// What it hangs on; 0 = nothing.
    pub lease: i64,
    /// What it holds.
    pub value: ValueAt,
}

/// A change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'c> {
    /// Its revision.
    pub revision: Revision,
    /// The key.
    pub key: &'c [u8],
    /// What it has now; none if it was deleted.
    pub current: Option<Current>,
    /// The put that did it.
    pub put: Option<(u64, u32)>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Keys were changed.
    Changed,
    /// It asked for nothing that changes a key, or found nothing to change.
    Nothing,
    /// The server turned it down.
    Refused,
}

/// Whoever keeps values and takes changes.
pub trait Keeper {
    /// Compares a value with another; none if it cannot be read.
    fn compare(&mut self, value: ValueAt, other: &[u8]) -> Option<Ordering>;

    /// A key was changed.
    fn changed(&mut self, change: &Change<'_>);
}

/// A lease cannot be for longer, in seconds.
const MAX_TTL: i64 = 9_000_000_000;

/// What stands in the way of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Capped {
    #[default]
    No,
    /// Nothing may be added.
    Full,
    /// Nothing may be done.
    Corrupt,
}

/// A store between two requests.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The revision of the last change.
    pub revision: i64,
    /// The revision of the last compaction.
    pub compacted: Option<i64>,
    keys: BTreeMap<Vec<u8>, Current>,
    leases: HashMap<i64, BTreeSet<Vec<u8>>>,
    alarms: HashSet<(u64, Alarm)>,
    capped: Capped,
}

impl State {
    /// A store at a revision, without keys.
    pub fn new(revision: i64, compacted: Option<i64>) -> Self {
        Self { revision, compacted, ..Self::default() }
    }

    /// There is a lease.
    pub fn add_lease(&mut self, lease: i64) {
        self.leases.entry(lease).or_default();
    }

    /// There is a key. It hangs on its lease only if there is one.
    pub fn add_key(&mut self, key: Vec<u8>, current: Current) {
        if let Some(keys) = self.leases.get_mut(&current.lease) {
            keys.insert(key.clone());
        }
        self.keys.insert(key, current);
    }

    /// An alarm was raised before.
    pub fn add_alarm(&mut self, member: u64, alarm: Alarm) {
        self.alarm(true, member, alarm);
    }

    /// Carries out a request whose bytes start at `at` of the log.
    pub fn apply(&mut self, request: &Request<'_>, at: u64, keeper: &mut impl Keeper) -> Outcome {
        match request {
            Request::Alarm { raised, member, alarm } => {
                self.alarm(*raised, *member, *alarm);
                Outcome::Nothing
            }
            Request::ClusterVersion(_) | Request::Downgrade { .. } | Request::Other => Outcome::Nothing,
            _ if self.capped == Capped::Corrupt => Outcome::Refused,
            Request::Compaction(revision) => self.compact(*revision),
            Request::LeaseGrant { id, ttl } => self.grant(*id, *ttl),
            Request::LeaseRevoke(id) => self.revoke(*id, keeper),
            Request::Put(put) => self.alone(&Operation::Put(*put), at, keeper),
            Request::DeleteRange(range) => self.alone(&Operation::DeleteRange(*range), at, keeper),
            Request::Txn(txn) => self.txn(txn, at, keeper),
        }
    }

    fn alarm(&mut self, raised: bool, member: u64, alarm: Alarm) {
        if raised {
            // Only the first alarm of a kind changes what is allowed.
            let first = !self.alarms.iter().any(|(_, of)| *of == alarm);
            self.alarms.insert((member, alarm));
            match alarm {
                Alarm::NoSpace if first => self.capped = Capped::Full,
                Alarm::Corrupt if first => self.capped = Capped::Corrupt,
                _ => {}
            }
        } else {
            let was_raised = self.alarms.remove(&(member, alarm));
            let last = !self.alarms.iter().any(|(_, of)| *of == alarm);
            if was_raised && last && matches!(alarm, Alarm::NoSpace | Alarm::Corrupt) {
                self.capped = Capped::No;
            }
        }
    }

    fn compact(&mut self, revision: i64) -> Outcome {
        if Some(revision) <= self.compacted || revision > self.revision {
            return Outcome::Refused;
        }
        self.compacted = Some(revision);
        Outcome::Nothing
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Outcome {
        if self.capped == Capped::Full || id == 0 || ttl > MAX_TTL || self.leases.contains_key(&id) {
            return Outcome::Refused;
        }
        self.leases.insert(id, BTreeSet::new());
        Outcome::Nothing
    }

    /// The keys of the lease are deleted in their order, as one change.
    fn revoke(&mut self, id: i64, keeper: &mut impl Keeper) -> Outcome {
        let Some(keys) = self.leases.remove(&id) else { return Outcome::Refused };
        let mut changes = Changes::new(self.revision);
        for key in keys {
            self.delete(&key, &mut changes, keeper);
        }
        self.end(&changes)
    }

    /// A request that is no transaction.
    fn alone(&mut self, operation: &Operation<'_>, at: u64, keeper: &mut impl Keeper) -> Outcome {
        let adds = matches!(operation, Operation::Put(_));
        if (adds && self.capped == Capped::Full) || !self.allows(operation) {
            return Outcome::Refused;
        }
        let mut changes = Changes::new(self.revision);
        self.carry_out(operation, at, &mut changes, keeper);
        self.end(&changes)
    }

    fn txn(&mut self, txn: &Txn<'_>, at: u64, keeper: &mut impl Keeper) -> Outcome {
        let mut adds = false;
        txn.each(&mut |operation| adds |= matches!(operation, Operation::Put(_)));
        if adds && self.capped == Capped::Full {
            return Outcome::Refused;
        }
        // All conditions are looked at before anything is changed, and all requests before the first one is carried out.
        let mut chosen = Vec::new();
        self.choose(txn, &mut chosen, keeper);
        if !chosen.iter().all(|operation| self.allows(operation)) {
            return Outcome::Refused;
        }
        let mut changes = Changes::new(self.revision);
        for operation in chosen {
            self.carry_out(operation, at, &mut changes, keeper);
        }
        self.end(&changes)
    }

    fn choose<'t, 'r>(&self, txn: &'t Txn<'r>, chosen: &mut Vec<&'t Operation<'r>>, keeper: &mut impl Keeper) {
        let holds = txn.compares.iter().all(|compare| self.holds(compare, keeper));
        for operation in if holds { &txn.success } else { &txn.failure } {
            match operation {
                Operation::Txn(inner) => self.choose(inner, chosen, keeper),
                other => chosen.push(other),
            }
        }
    }

    fn holds(&self, compare: &Compare<'_>, keeper: &mut impl Keeper) -> bool {
        let mut any = false;
        let of_all = self.within(&compare.keys).all(|(_, current)| {
            any = true;
            let order = match compare.target {
                Target::Value => keeper.compare(current.value, compare.value),
                Target::Version => Some(current.version.cmp(&compare.number)),
                Target::Create => Some(current.create_revision.cmp(&compare.number)),
                Target::Mod => Some(current.mod_revision.cmp(&compare.number)),
                Target::Lease => Some(current.lease.cmp(&compare.number)),
            };
            order.is_some_and(|order| fits(compare.relation, order))
        });
        match any {
            true => of_all,
            // What is not there has no value that could be compared, and zero for everything else.
            false => compare.target != Target::Value && fits(compare.relation, 0.cmp(&compare.number)),
        }
    }

    /// Whether the server would let a request through.
    fn allows(&self, operation: &Operation<'_>) -> bool {
        match operation {
            Operation::Put(put) => {
                let keeps = put.ignore_value || put.ignore_lease;
                (!keeps || self.keys.contains_key(put.key)) && (put.lease == 0 || self.leases.contains_key(&put.lease))
            }
            Operation::Range(revision) => {
                *revision == 0 || (*revision <= self.revision && Some(*revision) >= self.compacted)
            }
            Operation::DeleteRange(_) | Operation::Txn(_) | Operation::Nothing => true,
        }
    }

    fn carry_out(&mut self, operation: &Operation<'_>, at: u64, changes: &mut Changes, keeper: &mut impl Keeper) {
        match operation {
            Operation::Put(put) => self.put(put, at, changes, keeper),
            Operation::DeleteRange(range) => {
                let keys: Vec<_> = self.within(range).map(|(key, _)| key.clone()).collect();
                keys.iter().for_each(|key| self.delete(key, changes, keeper));
            }
            Operation::Range(_) | Operation::Txn(_) | Operation::Nothing => {}
        }
    }

    fn put(&mut self, put: &Put<'_>, at: u64, changes: &mut Changes, keeper: &mut impl Keeper) {
        let before = self.keys.get(put.key).copied();
        if before.is_none() && (put.ignore_value || put.ignore_lease) {
            return;
        }
        let revision = changes.next();
        let spot = (at.saturating_add(put.at as u64), u32::try_from(put.bytes).unwrap_or(u32::MAX));
        let current = Current {
            create_revision: before.map_or(revision.main, |before| before.create_revision),
            mod_revision: revision.main,
            version: before.map_or(0, |before| before.version).saturating_add(1),
            lease: before.filter(|_| put.ignore_lease).map_or(put.lease, |before| before.lease),
            value: match before {
                Some(before) if put.ignore_value => before.value,
                _ => ValueAt::Log(spot.0, spot.1),
            },
        };
        if let Some(keys) = before.and_then(|before| self.leases.get_mut(&before.lease)) {
            keys.remove(put.key);
        }
        if let Some(keys) = self.leases.get_mut(&current.lease) {
            keys.insert(put.key.to_vec());
        }
        match self.keys.get_mut(put.key) {
            Some(place) => *place = current,
            None => drop(self.keys.insert(put.key.to_vec(), current)),
        }
        keeper.changed(&Change { revision, key: put.key, current: Some(current), put: Some(spot) });
    }

    fn delete(&mut self, key: &[u8], changes: &mut Changes, keeper: &mut impl Keeper) {
        let Some(before) = self.keys.remove(key) else { return };
        if let Some(keys) = self.leases.get_mut(&before.lease) {
            keys.remove(key);
        }
        keeper.changed(&Change { revision: changes.next(), key, current: None, put: None });
    }

    fn within<'s>(&'s self, range: &KeyRange<'_>) -> impl Iterator<Item = (&'s Vec<u8>, &'s Current)> {
        let from = Bound::Included(range.key);
        let to = match range.end {
            None => Bound::Included(range.key),
            Some([]) => Bound::Unbounded,
            Some(end) => Bound::Excluded(end),
        };
        // A range that ends before it begins has nothing in it, and must not be asked for.
        let is_empty = range.end.is_some_and(|end| !end.is_empty() && end <= range.key);
        let keys = (!is_empty).then(|| self.keys.range::<[u8], _>((from, to)));
        keys.into_iter().flatten()
    }

    fn end(&mut self, changes: &Changes) -> Outcome {
        if changes.made == 0 {
            return Outcome::Nothing;
        }
        self.revision = changes.main;
        Outcome::Changed
    }
}

/// The changes of one request.
struct Changes {
    main: i64,
    made: i64,
}

impl Changes {
    fn new(before: i64) -> Self {
        Self { main: before.saturating_add(1), made: 0 }
    }

    fn next(&mut self) -> Revision {
        let revision = Revision { main: self.main, sub: self.made };
        self.made += 1;
        revision
    }
}

fn fits(relation: Relation, order: Ordering) -> bool {
    match relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::{field, number, put, range, request};
    use super::*;

    /// Revision, key, and creation, version and lease of what it has now.
    type Kind = (i64, i64, String, Option<(i64, i64, i64)>);

    /// Keeps the changes, and knows no value but its own length.
    #[derive(Default)]
    struct Kept(Vec<Kind>);

    impl Keeper for Kept {
        fn compare(&mut self, value: ValueAt, other: &[u8]) -> Option<Ordering> {
            match value {
                ValueAt::Log(_, bytes) => Some(u64::from(bytes).cmp(&(other.len() as u64))),
                ValueAt::Database(_) => None,
            }
        }

        fn changed(&mut self, change: &Change<'_>) {
            let key = String::from_utf8(change.key.to_vec()).unwrap();
            let now = change.current.map(|now| (now.create_revision, now.version, now.lease));
            self.0.push((change.revision.main, change.revision.sub, key, now));
        }
    }

    fn carried_out(state: &mut State, requests: &[Vec<u8>]) -> (Vec<Outcome>, Kept) {
        let mut kept = Kept::default();
        let outcomes = requests.iter().map(|data| state.apply(&Request::decode(data).unwrap(), 0, &mut kept));
        (outcomes.collect(), kept)
    }

    fn is(key: &[u8], target: i64, expected: i64) -> Vec<u8> {
        let said = [4, 5, 6, 7, 8][target as usize];
        field(1, &[number(2, target), field(3, key), number(said, expected)].concat())
    }

    #[test]
    fn revisions_and_versions_go_on_from_what_is_there() {
        let mut state = State::new(10, None);
        let value = ValueAt::Database(0);
        let current = Current { create_revision: 4, mod_revision: 9, version: 3, lease: 0, value };
        state.add_key(b"/a".to_vec(), current);
        let puts = [b"/a", b"/b", b"/b"].map(|key| request(4, &put(key, b"x", 0)));
        let (outcomes, kept) = carried_out(&mut state, &puts);
        assert_eq!(outcomes, [Outcome::Changed; 3]);
        let expected = [
            (11, 0, "/a".into(), Some((4, 4, 0))),
            (12, 0, "/b".into(), Some((12, 1, 0))),
            (13, 0, "/b".into(), Some((12, 2, 0))),
        ];
        assert_eq!(kept.0, expected);
        let gone = [request(5, &range(b"/", b"0")), request(5, &range(b"/", b"\0")), request(4, &put(b"/a", b"", 0))];
        let (outcomes, kept) = carried_out(&mut state, &gone);
        assert_eq!(outcomes, [Outcome::Changed, Outcome::Nothing, Outcome::Changed]);
        let expected = [(14, 0, "/a".into(), None), (14, 1, "/b".into(), None), (15, 0, "/a".into(), Some((15, 1, 0)))];
        assert_eq!(kept.0, expected);
        assert_eq!(state.revision, 15);
    }

    #[test]
    fn conditions_are_those_of_the_state_before_the_transaction() {
        let mut state = State::new(1, None);
        let write = |key: &[u8]| field(2, &put(key, b"x", 0));
        // Creates a key; its inner transaction asks whether that key is there, and it was not.
        let inner = [is(b"/a", 0, 0), field(2, &write(b"/not-there")), field(3, &write(b"/there"))].concat();
        let outer = [is(b"/a", 2, 0), field(2, &write(b"/a")), field(2, &field(4, &inner))].concat();
        let (_, kept) = carried_out(&mut state, &[request(6, &outer), request(6, &outer)]);
        let keys: Vec<_> = kept.0.iter().map(|(main, sub, key, _)| (*main, *sub, key.as_str())).collect();
        assert_eq!(keys, [(2, 0, "/a"), (2, 1, "/not-there")]);
        assert_eq!(state.revision, 2, "the second one failed, and has nothing to do then");
    }

    #[test]
    fn a_value_that_is_not_there_compares_with_nothing() {
        let mut state = State::new(1, None);
        let compare = |relation| [number(1, relation), number(2, 3), field(3, b"/a"), field(7, b"")].concat();
        let txn =
            |relation| request(6, &[field(1, &compare(relation)), field(2, &field(2, &put(b"/b", b"", 0)))].concat());
        let (outcomes, _) = carried_out(&mut state, &[0, 1, 2, 3].map(txn));
        assert_eq!(outcomes, [Outcome::Nothing; 4]);
    }

    #[test]
    fn leases_take_their_keys_with_them() {
        let mut state = State::new(1, None);
        let grant = |id| request(8, &[number(1, 60), number(2, id)].concat());
        let requests = [
            request(4, &put(b"/early", b"", 7)),
            grant(7),
            grant(7),
            request(4, &put(b"/b", b"", 7)),
            request(4, &put(b"/a", b"", 7)),
            request(4, &put(b"/c", b"", 7)),
            request(4, &put(b"/c", b"", 0)),
            request(9, &number(1, 7)),
            request(9, &number(1, 7)),
        ];
        let (outcomes, kept) = carried_out(&mut state, &requests);
        use Outcome::{Changed, Nothing, Refused};
        assert_eq!(outcomes, [Refused, Nothing, Refused, Changed, Changed, Changed, Changed, Changed, Refused]);
        let gone: Vec<_> = kept.0.iter().filter(|change| change.3.is_none()).map(|change| change.2.as_str()).collect();
        assert_eq!((gone, state.revision), (vec!["/a", "/b"], 6));
    }

    #[test]
    fn a_transaction_with_one_bad_request_does_nothing() {
        let mut state = State::new(5, Some(3));
        let write = field(2, &field(2, &put(b"/a", b"x", 0)));
        let bad = [
            field(2, &field(2, &put(b"/b", b"x", 9))),
            field(2, &field(2, &[put(b"/b", b"", 0), number(5, 1)].concat())),
            field(2, &field(1, &number(4, 2))),
            field(2, &field(1, &number(4, 6))),
        ];
        for bad in bad {
            let (outcomes, kept) = carried_out(&mut state, &[request(6, &[write.clone(), bad].concat())]);
            assert_eq!((outcomes, kept.0.len(), state.revision), (vec![Outcome::Refused], 0, 5));
        }
    }

    #[test]
    fn value_and_lease_can_be_kept() {
        let mut state = State::new(1, None);
        state.add_lease(7);
        let keeps = |value, lease| [put(b"/a", b"", 0), number(5, value), number(6, lease)].concat();
        let requests = [request(4, &put(b"/a", b"x", 7)), request(4, &keeps(1, 1)), request(4, &keeps(1, 0))];
        let (_, kept) = carried_out(&mut state, &requests);
        let leases: Vec<_> = kept.0.iter().map(|change| change.3.unwrap().2).collect();
        assert_eq!(leases, [7, 7, 0]);
        let first = state.keys.get(&b"/a"[..]).unwrap();
        assert!(matches!(first.value, ValueAt::Log(_, bytes) if bytes as usize == put(b"/a", b"x", 7).len()));
    }

    #[test]
    fn a_full_member_takes_nothing_new_and_a_corrupt_one_nothing() {
        let alarm = |action, kind| request(10, &[number(1, action), number(2, 1), number(3, kind)].concat());
        let (write, gone) = (request(4, &put(b"/a", b"", 0)), request(5, &range(b"/", b"0")));
        let run = |requests: &[Vec<u8>]| carried_out(&mut State::new(1, None), requests).0;
        use Outcome::{Changed, Nothing, Refused};
        let full = [write.clone(), alarm(1, 1), write.clone(), gone.clone(), alarm(2, 1), write.clone()];
        assert_eq!(run(&full), [Changed, Nothing, Refused, Changed, Nothing, Changed]);
        let corrupt = [write.clone(), alarm(1, 2), write.clone(), gone, alarm(2, 2), write];
        assert_eq!(run(&corrupt), [Changed, Nothing, Refused, Refused, Nothing, Changed]);
    }

    #[test]
    fn a_compaction_is_of_the_past_and_goes_forward() {
        let mut state = State::new(9, Some(4));
        let requests = [4, 10, 7, 6].map(|revision| request(7, &number(1, revision)));
        let (outcomes, _) = carried_out(&mut state, &requests);
        use Outcome::{Nothing, Refused};
        assert_eq!((outcomes, state.compacted), (vec![Refused, Refused, Nothing, Refused], Some(7)));
    }
}
