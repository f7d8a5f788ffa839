//! What an entry of the log asks the store for.
//!
//! Upstream: `etcd-io/etcd` `api/etcdserverpb/{raft_internal,rpc}.proto`. Of the requests those are read that change keys, leases,
//! alarms or what the cluster notes about itself; the others are passed over. Up to 3.6 an entry may instead hold a request of
//! etcd 2, which changes no key.

use super::wire::{self, Field};

/// A request, as far as it matters to the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'r> {
    /// Writes a key.
    Put(Put<'r>),
    /// Deletes keys.
    DeleteRange(KeyRange<'r>),
    /// Does one thing or another.
    Txn(Txn<'r>),
    /// Forgets what was before a revision.
    Compaction(i64),
    /// Makes a lease.
    LeaseGrant {
        /// Its id.
        id: i64,
        /// For how many seconds.
        ttl: i64,
    },
    /// Ends a lease.
    LeaseRevoke(i64),
    /// Raises or takes back an alarm.
    Alarm {
        /// Raised, or else taken back.
        raised: bool,
        /// Whose.
        member: u64,
        /// Which.
        alarm: Alarm,
    },
    /// The release that all members have at least.
    ClusterVersion(&'r [u8]),
    /// Whether a downgrade is under way, and to which release.
    Downgrade {
        /// Whether it is.
        enabled: bool,
        /// To which release.
        version: &'r [u8],
    },
    /// Anything else.
    Other,
}

/// A write of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'r> {
    /// The key.
    pub key: &'r [u8],
    /// The value.
    pub value: &'r [u8],
    /// The lease to hang it on; 0 = none.
    pub lease: i64,
    /// Keep the value that is there.
    pub ignore_value: bool,
    /// Keep the lease that is there.
    pub ignore_lease: bool,
    /// Where its message starts within the request's bytes.
    pub at: usize,
    /// Bytes of its message.
    pub bytes: usize,
}

/// One key, or all from one to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'r> {
    /// The key, or the first one.
    pub key: &'r [u8],
    /// None for one key; otherwise the first key that is not meant any more, empty where there is none.
    pub end: Option<&'r [u8]>,
}

impl<'r> KeyRange<'r> {
    /// As etcd takes the two fields: a single zero byte means that there is no end.
    fn new(key: &'r [u8], end: &'r [u8]) -> Self {
        let end = match end {
            [] => None,
            [0] => Some(&[][..]),
            end => Some(end),
        };
        Self { key, end }
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            None => key == self.key,
            Some(end) => key >= self.key && (end.is_empty() || key < end),
        }
    }
}

/// Requests that depend on what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn<'r> {
    /// All of these must hold,
    pub compares: Vec<Compare<'r>>,
    /// for these to be carried out,
    pub success: Vec<Operation<'r>>,
    /// and these otherwise.
    pub failure: Vec<Operation<'r>>,
}

/// A request within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation<'r> {
    /// Reads at a revision; 0 = the newest one.
    Range(i64),
    /// Writes a key.
    Put(Put<'r>),
    /// Deletes keys.
    DeleteRange(KeyRange<'r>),
    /// Another transaction.
    Txn(Box<Txn<'r>>),
    /// None, of which etcd makes nothing.
    Nothing,
}

/// A condition on a key, or on all keys of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare<'r> {
    /// How it must compare.
    pub relation: Relation,
    /// What of the key is compared.
    pub target: Target,
    /// Which keys.
    pub keys: KeyRange<'r>,
    /// With which number; 0 where it was said for another target.
    pub number: i64,
    /// With which value.
    pub value: &'r [u8],
}

/// How what is there must compare with what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// More.
    Greater,
    /// Less.
    Less,
    /// Another.
    NotEqual,
}

/// What of a key is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// How often it was written.
    Version,
    /// When it was created.
    Create,
    /// When it was written.
    Mod,
    /// What it holds.
    Value,
    /// What it hangs on.
    Lease,
}

/// What a member can complain of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alarm {
    /// Its database is as large as it may be.
    NoSpace,
    /// Its data differs from that of the others.
    Corrupt,
    /// One of a later release.
    Other(u64),
}

impl Alarm {
    /// By its number.
    pub fn of(number: u64) -> Self {
        match number {
            1 => Self::NoSpace,
            2 => Self::Corrupt,
            other => Self::Other(other),
        }
    }
}

/// Transactions in transactions beyond this are not read. etcd allows 128 requests in one, whatever their depth.
const MAX_DEPTH: u32 = 32;

/// Requests of one entry beyond so many are not read; `--max-txn-ops` is 128 by default.
const MAX_OPERATIONS: usize = 1 << 17;

/// What methods of etcd 2 are called. They stand where a newer request has a message.
const V2_METHODS: [&[u8]; 7] = [b"PUT", b"POST", b"GET", b"HEAD", b"DELETE", b"QGET", b"SYNC"];

impl<'r> Request<'r> {
    /// Reads an entry's data; none if it is no request. No data at all asks for nothing.
    pub fn decode(data: &'r [u8]) -> Option<Self> {
        let mut found = Self::Other;
        let mut reading = Reading { data, operations: 0 };
        let mut rest = data;
        while !rest.is_empty() {
            let (behind, (number, field)) = wire::field(rest).ok()?;
            rest = behind;
            let Field::Bytes(message) = field else { continue };
            if number == 2 && V2_METHODS.contains(&message) {
                return Some(Self::Other);
            }
            let request = match number {
                4 => Self::Put(reading.put(message)?),
                5 => Self::DeleteRange(key_range(message)?),
                6 => Self::Txn(reading.txn(message, 0)?),
                7 => Self::Compaction(number_of(message, 1)? as i64),
                8 => Self::LeaseGrant { ttl: number_of(message, 1)? as i64, id: number_of(message, 2)? as i64 },
                9 => Self::LeaseRevoke(number_of(message, 1)? as i64),
                10 => alarm(message)?,
                1300 => Self::ClusterVersion(bytes_of(message, 1)?),
                1302 => Self::Downgrade { enabled: number_of(message, 1)? != 0, version: bytes_of(message, 2)? },
                _ => continue,
            };
            found = request;
        }
        Some(found)
    }

    /// Reads the message of a put again, which starts `at` its entry's data.
    pub fn decode_put(message: &'r [u8]) -> Option<Put<'r>> {
        Reading { data: message, operations: 0 }.put(message)
    }

    /// Gives every write that it could do, whichever way its conditions come out.
    pub fn puts(&self, visit: &mut impl FnMut(&Put<'r>)) {
        match self {
            Self::Put(put) => visit(put),
            Self::Txn(txn) => txn.each(&mut |operation| {
                if let Operation::Put(put) = operation {
                    visit(put);
                }
            }),
            _ => {}
        }
    }
}

impl<'r> Txn<'r> {
    /// Gives every request of both ways, those of transactions within it too.
    pub fn each(&self, visit: &mut impl FnMut(&Operation<'r>)) {
        for operation in self.success.iter().chain(&self.failure) {
            visit(operation);
            if let Operation::Txn(txn) = operation {
                // How deep they go was bounded when they were read; a closure's own type must not grow with it.
                let visit: &mut dyn FnMut(&Operation<'r>) = visit;
                txn.each_of(visit);
            }
        }
    }

    fn each_of(&self, visit: &mut dyn FnMut(&Operation<'r>)) {
        for operation in self.success.iter().chain(&self.failure) {
            visit(operation);
            if let Operation::Txn(txn) = operation {
                txn.each_of(visit);
            }
        }
    }

    /// Gives every condition, those of transactions within it too.
    pub fn conditions(&self, visit: &mut dyn FnMut(&Compare<'r>)) {
        self.compares.iter().for_each(&mut *visit);
        for operation in self.success.iter().chain(&self.failure) {
            if let Operation::Txn(txn) = operation {
                txn.conditions(visit);
            }
        }
    }
}

struct Reading<'r> {
    data: &'r [u8],
    operations: usize,
}

impl<'r> Reading<'r> {
    fn put(&self, message: &'r [u8]) -> Option<Put<'r>> {
        let at = wire::offset_of(self.data, message);
        let (key, value) = (&[][..], &[][..]);
        let mut put = Put { key, value, lease: 0, ignore_value: false, ignore_lease: false, at, bytes: message.len() };
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, (number, field)) = wire::field(rest).ok()?;
            rest = behind;
            match (number, field) {
                (1, Field::Bytes(bytes)) => put.key = bytes,
                (2, Field::Bytes(bytes)) => put.value = bytes,
                (3, Field::Varint(value)) => put.lease = value as i64,
                (5, Field::Varint(value)) => put.ignore_value = value != 0,
                (6, Field::Varint(value)) => put.ignore_lease = value != 0,
                (1..=6, Field::Bytes(_) | Field::Fixed(_)) => return None,
                _ => {}
            }
        }
        Some(put)
    }

    fn txn(&mut self, message: &'r [u8], depth: u32) -> Option<Txn<'r>> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut txn = Txn::default();
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, (number, field)) = wire::field(rest).ok()?;
            rest = behind;
            self.operations += 1;
            if self.operations > MAX_OPERATIONS {
                return None;
            }
            match (number, field) {
                (1, Field::Bytes(compare)) => txn.compares.push(Compare::decode(compare)?),
                (2, Field::Bytes(operation)) => txn.success.push(self.operation(operation, depth)?),
                (3, Field::Bytes(operation)) => txn.failure.push(self.operation(operation, depth)?),
                (1..=3, _) => return None,
                _ => {}
            }
        }
        Some(txn)
    }

    fn operation(&mut self, message: &'r [u8], depth: u32) -> Option<Operation<'r>> {
        let mut operation = Operation::Nothing;
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, (number, field)) = wire::field(rest).ok()?;
            rest = behind;
            operation = match (number, field) {
                (1, Field::Bytes(range)) => Operation::Range(number_of(range, 4)? as i64),
                (2, Field::Bytes(put)) => Operation::Put(self.put(put)?),
                (3, Field::Bytes(range)) => Operation::DeleteRange(key_range(range)?),
                (4, Field::Bytes(txn)) => Operation::Txn(Box::new(self.txn(txn, depth + 1)?)),
                (1..=4, _) => return None,
                _ => continue,
            };
        }
        Some(operation)
    }
}

impl<'r> Compare<'r> {
    fn decode(message: &'r [u8]) -> Option<Self> {
        let (mut relation, mut target, mut key, mut end) = (0, 0, &[][..], &[][..]);
        // What is compared with is one of several fields, of which the last one counts.
        let (mut said_for, mut number, mut value) = (None, 0, &[][..]);
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, field) = wire::field(rest).ok()?;
            rest = behind;
            match field {
                (1, Field::Varint(value)) => relation = value,
                (2, Field::Varint(value)) => target = value,
                (3, Field::Bytes(bytes)) => key = bytes,
                (4, Field::Varint(said)) => (said_for, number) = (Some(Target::Version), said as i64),
                (5, Field::Varint(said)) => (said_for, number) = (Some(Target::Create), said as i64),
                (6, Field::Varint(said)) => (said_for, number) = (Some(Target::Mod), said as i64),
                (7, Field::Bytes(said)) => (said_for, value) = (Some(Target::Value), said),
                (8, Field::Varint(said)) => (said_for, number) = (Some(Target::Lease), said as i64),
                (64, Field::Bytes(bytes)) => end = bytes,
                (1..=8 | 64, _) => return None,
                _ => {}
            }
        }
        let relation = match relation {
            0 => Relation::Equal,
            1 => Relation::Greater,
            2 => Relation::Less,
            3 => Relation::NotEqual,
            _ => return None,
        };
        let target = match target {
            0 => Target::Version,
            1 => Target::Create,
            2 => Target::Mod,
            3 => Target::Value,
            4 => Target::Lease,
            _ => return None,
        };
        let fits = said_for == Some(target);
        let number = if fits { number } else { 0 };
        let value = if fits { value } else { &[] };
        Some(Self { relation, target, keys: KeyRange::new(key, end), number, value })
    }
}

fn key_range(message: &[u8]) -> Option<KeyRange<'_>> {
    Some(KeyRange::new(bytes_of(message, 1)?, bytes_of(message, 2)?))
}

fn alarm(message: &[u8]) -> Option<Request<'_>> {
    let (member, alarm) = (number_of(message, 2)?, Alarm::of(number_of(message, 3)?));
    match number_of(message, 1)? {
        1 => Some(Request::Alarm { raised: true, member, alarm }),
        2 => Some(Request::Alarm { raised: false, member, alarm }),
        // The others only ask.
        _ => Some(Request::Other),
    }
}

/// The number that a field of a message holds, 0 where it is absent; none if it is no such message.
pub(super) fn number_of(message: &[u8], wanted: u32) -> Option<u64> {
    let (mut found, mut rest) = (0, message);
    while !rest.is_empty() {
        let (behind, (number, field)) = wire::field(rest).ok()?;
        rest = behind;
        match field {
            Field::Varint(value) if number == wanted => found = value,
            _ if number == wanted => return None,
            _ => {}
        }
    }
    Some(found)
}

/// The bytes that a field of a message holds; none if it is no such message.
fn bytes_of(message: &[u8], wanted: u32) -> Option<&[u8]> {
    let (mut found, mut rest) = (&[][..], message);
    while !rest.is_empty() {
        let (behind, (number, field)) = wire::field(rest).ok()?;
        rest = behind;
        match field {
            Field::Bytes(bytes) if number == wanted => found = bytes,
            _ if number == wanted => return None,
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::etcd::wire::{put_bytes, put_int64, put_varint};

    /// A message as a field of another, empty ones included.
    pub(crate) fn field(number: u32, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(number) << 3 | 2);
        put_varint(&mut out, message.len() as u64);
        out.extend_from_slice(message);
        out
    }

    pub(crate) fn number(number: u32, value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put_int64(&mut out, number, value);
        out
    }

    pub(crate) fn put(key: &[u8], value: &[u8], lease: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, key);
        put_bytes(&mut out, 2, value);
        put_int64(&mut out, 3, lease);
        out
    }

    pub(crate) fn range(key: &[u8], end: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, key);
        put_bytes(&mut out, 2, end);
        out
    }

    /// A request with the header that every one has.
    pub(crate) fn request(kind: u32, message: &[u8]) -> Vec<u8> {
        [field(100, &number(1, 77)), field(kind, message)].concat()
    }

    #[test]
    fn a_put_says_where_it_stands() {
        let data = request(4, &put(b"/a", b"some value", 5));
        let Some(Request::Put(found)) = Request::decode(&data) else { panic!("{data:?}") };
        assert_eq!((found.key, found.value, found.lease), (&b"/a"[..], &b"some value"[..], 5));
        let again = Request::decode_put(&data[found.at..found.at + found.bytes]).unwrap();
        assert_eq!((again.key, again.value, again.lease), (found.key, found.value, found.lease));
    }

    #[test]
    fn a_transaction_within_a_transaction_is_read_with_its_conditions() {
        let compare = [number(1, 3), number(2, 2), field(3, b"/a"), number(6, 9)].concat();
        let inner = [field(1, &compare), field(2, &field(2, &put(b"/b", b"x", 0)))].concat();
        let outer = [field(1, &field(3, b"/c")), field(3, &field(4, &inner)), field(2, &field(3, &range(b"/", b"\0")))];
        let data = request(6, &outer.concat());
        let Some(Request::Txn(txn)) = Request::decode(&data) else { panic!("{data:?}") };
        let (mut puts, mut conditions) = (Vec::new(), Vec::new());
        Request::Txn(txn.clone()).puts(&mut |put| puts.push(put.key.to_vec()));
        txn.conditions(&mut |compare| conditions.push((compare.target, compare.relation, compare.number)));
        assert_eq!(puts, [b"/b"]);
        let expected = [(Target::Version, Relation::Equal, 0), (Target::Mod, Relation::NotEqual, 9)];
        assert_eq!(conditions, expected);
        let Operation::DeleteRange(range) = txn.success[0] else { panic!("{txn:?}") };
        assert!(range.contains(b"/zzz") && !range.contains(b"."));
    }

    #[test]
    fn a_number_that_was_said_for_another_target_counts_as_nothing() {
        let compare = |fields: &[Vec<u8>]| fields.concat();
        let mixed = compare(&[number(2, 2), field(3, b"/a"), number(4, 9)]);
        assert_eq!(Compare::decode(&mixed).unwrap().number, 0);
        let twice = compare(&[number(2, 2), field(3, b"/a"), number(6, 9), number(4, 5)]);
        assert_eq!(Compare::decode(&twice).unwrap().number, 0);
    }

    #[test]
    fn requests_of_etcd_2_change_no_key() {
        // As 3.4 and 3.5 write the attributes of a member: id, method, path, value.
        let data =
            [number(1, 7), field(2, b"PUT"), field(3, b"/0/members/7/attributes"), field(4, b"{\"name\":\"a\"}")];
        assert_eq!(Request::decode(&data.concat()), Some(Request::Other));
        assert_eq!(Request::decode(b""), Some(Request::Other));
    }

    #[test]
    fn the_other_requests_are_told_apart() {
        let cases = [
            (request(7, &number(1, 99)), Request::Compaction(99)),
            (request(8, &[number(1, 60), number(2, -5)].concat()), Request::LeaseGrant { id: -5, ttl: 60 }),
            (request(9, &number(1, 6)), Request::LeaseRevoke(6)),
            (
                request(10, &[number(1, 1), number(2, 3), number(3, 1)].concat()),
                Request::Alarm { raised: true, member: 3, alarm: Alarm::NoSpace },
            ),
            (request(1300, &field(1, b"3.6.0")), Request::ClusterVersion(b"3.6.0")),
            (request(1012, &field(1, b"user")), Request::Other),
            (request(3, &range(b"/a", b"")), Request::Other),
        ];
        for (data, expected) in cases {
            assert_eq!(Request::decode(&data), Some(expected));
        }
    }

    #[test]
    fn depth_and_number_of_operations_are_bounded() {
        let mut nested = field(2, &field(2, &put(b"/a", b"x", 0)));
        for _ in 0..100 {
            nested = field(2, &field(4, &nested));
        }
        assert_eq!(Request::decode(&request(6, &nested)), None);
        assert_eq!(Request::decode(&request(6, &field(2, b"").repeat(MAX_OPERATIONS + 1))), None);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_read_without_a_panic() {
        let whole = request(6, &[field(1, &field(3, b"/c")), field(2, &field(2, &put(b"/b", b"x", 9)))].concat());
        for at in 0..whole.len() {
            let _ = Request::decode(&whole[..at]);
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                let _ = Request::decode(&flipped);
            }
        }
    }
}
