//! Raft's own messages, as the log and `.snap` files keep them.
//!
//! Upstream: `etcd-io/raft` `raftpb/raft.proto` and `etcd-io/etcd` `server/etcdserver/api/snap/snappb/snap.proto`. All are of
//! proto2; up to etcd 3.6 every number is written even where it is zero, 3.7 writes what is set. What is absent is zero.
//!
//! | message | fields |
//! |---|---|
//! | Entry | 1 type (0 normal, 1 change of members, 2 its newer form), 2 term, 3 index, 4 data |
//! | HardState | 1 term, 2 vote, 3 commit |
//! | ConfState | 1 voters, 2 learners, 3 outgoing voters, 4 next learners, 5 auto leave |
//! | ConfChange | 1 id, 2 type (0 add, 1 remove, 2 update, 3 add a learner), 3 member, 4 context |
//! | Snapshot | 1 data, 2 metadata: 1 ConfState, 2 index, 3 term |

use super::wire::{self, Field};

/// An entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'e> {
    /// What its data is.
    pub kind: EntryKind,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its number.
    pub index: u64,
    /// A request, a change of members, or nothing.
    pub data: &'e [u8],
}

/// What an entry's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A request to the store.
    Normal,
    /// A change of members.
    Members,
    /// A change of members in the form of later releases of raft. etcd writes none.
    MembersV2,
}

impl<'e> Entry<'e> {
    /// Reads an entry; none if it is no such message, or of no known type. Entries have numbers from 1 on.
    pub fn decode(message: &'e [u8]) -> Option<Self> {
        let (mut kind, mut term, mut index, mut data) = (0, 0, 0, &[][..]);
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, field) = wire::field(rest).ok()?;
            rest = behind;
            match field {
                (1, Field::Varint(value)) => kind = value,
                (2, Field::Varint(value)) => term = value,
                (3, Field::Varint(value)) => index = value,
                (4, Field::Bytes(bytes)) => data = bytes,
                _ => return None,
            }
        }
        let kind = match kind {
            0 => EntryKind::Normal,
            1 => EntryKind::Members,
            2 => EntryKind::MembersV2,
            _ => return None,
        };
        (term > 0 && index > 0).then_some(Self { kind, term, index, data })
    }
}

/// What raft must not forget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term that was seen.
    pub term: u64,
    /// Whom this member voted for.
    pub vote: u64,
    /// Up to here entries are known to be committed. Later ones may be, too.
    pub commit: u64,
}

/// The members as raft has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Those that vote, those that are on their way out included.
    pub voters: Vec<u64>,
    /// Those that only listen.
    pub learners: Vec<u64>,
}

/// More members than any cluster has.
const MAX_MEMBERS: usize = 1 << 16;

impl ConfState {
    /// Reads it; none if it is no such message.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut decoded = Self::default();
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, (number, field)) = wire::field(rest).ok()?;
            rest = behind;
            let list = match number {
                1 | 3 => &mut decoded.voters,
                2 | 4 => &mut decoded.learners,
                _ => continue,
            };
            match field {
                Field::Varint(member) => list.push(member),
                Field::Bytes(packed) => packed_numbers(packed, list)?,
                Field::Fixed(_) => return None,
            }
            if list.len() > MAX_MEMBERS {
                return None;
            }
        }
        Some(decoded)
    }
}

fn packed_numbers(mut packed: &[u8], list: &mut Vec<u64>) -> Option<()> {
    while !packed.is_empty() {
        let (behind, number) = wire::varint(packed).ok()?;
        packed = behind;
        if list.len() > MAX_MEMBERS {
            return None;
        }
        list.push(number);
    }
    Some(())
}

/// What a change of members does to those that vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChange {
    /// One more votes.
    Add(u64),
    /// One is gone.
    Remove(u64),
    /// Nothing that matters for a vote.
    Other(u64),
}

impl ConfChange {
    /// Reads it; none if it is no such message.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (mut kind, mut member) = (0, 0);
        let mut rest = message;
        while !rest.is_empty() {
            let (behind, field) = wire::field(rest).ok()?;
            rest = behind;
            match field {
                (2, Field::Varint(value)) => kind = value,
                (3, Field::Varint(value)) => member = value,
                (2 | 3, _) => return None,
                _ => {}
            }
        }
        match kind {
            0 => Some(Self::Add(member)),
            1 => Some(Self::Remove(member)),
            2 | 3 => Some(Self::Other(member)),
            _ => None,
        }
    }
}

/// What a `.snap` file says of the members. The rest of it is the store of etcd 2, of which etcd 3 keeps only members in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapFile {
    /// The members.
    pub members: ConfState,
    /// The index of the last entry that it covers.
    pub index: u64,
}

impl SnapFile {
    /// Reads a whole file; none if it is no such file, or its checksum does not fit.
    pub fn decode(file: &[u8]) -> Option<Self> {
        let (mut crc, mut data) = (0, &[][..]);
        each_field(file, |number, field| match (number, field) {
            (1, Field::Varint(value)) => crc = value,
            (2, Field::Bytes(bytes)) => data = bytes,
            _ => {}
        })?;
        let whole = !data.is_empty() && u64::from(crc32c::crc32c(data)) == crc;
        let mut metadata = &[][..];
        each_field(data, |number, field| {
            if let (2, Field::Bytes(bytes)) = (number, field) {
                metadata = bytes;
            }
        })?;
        let (mut members, mut index) = (None, 0);
        each_field(metadata, |number, field| match (number, field) {
            (1, Field::Bytes(bytes)) => members = ConfState::decode(bytes),
            (2, Field::Varint(value)) => index = value,
            _ => {}
        })?;
        members.filter(|_| whole).map(|members| Self { members, index })
    }
}

fn each_field<'m>(mut message: &'m [u8], mut visit: impl FnMut(u32, Field<'m>)) -> Option<()> {
    while !message.is_empty() {
        let (behind, (number, field)) = wire::field(message).ok()?;
        message = behind;
        visit(number, field);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_alike_whether_its_zeros_are_written() {
        let entry = Entry { kind: EntryKind::Normal, term: 2, index: 9, data: b"x" };
        assert_eq!(Entry::decode(&[8, 0, 16, 2, 24, 9, 34, 1, b'x']), Some(entry));
        assert_eq!(Entry::decode(&[16, 2, 24, 9, 34, 1, b'x']), Some(entry));
        assert_eq!(Entry::decode(&[16, 2, 24, 9]), Some(Entry { data: b"", ..entry }));
    }

    #[test]
    fn what_raft_never_writes_is_no_entry() {
        for message in [&[8, 3, 16, 2, 24, 9][..], &[16, 2], &[24, 9], &[16, 2, 24, 9, 42, 0], &[16, 2, 24], &[]] {
            assert_eq!(Entry::decode(message), None, "{message:?}");
        }
    }

    #[test]
    fn members_read_alike_packed_and_one_by_one() {
        let members = ConfState { voters: vec![1, 300], learners: vec![5] };
        assert_eq!(ConfState::decode(&[8, 1, 8, 0xac, 2, 16, 5, 40, 0]), Some(members.clone()));
        assert_eq!(ConfState::decode(&[10, 3, 1, 0xac, 2, 18, 1, 5]), Some(members));
        assert_eq!(ConfState::decode(&[26, 2, 7, 8]).unwrap().voters, [7, 8]);
    }

    #[test]
    fn a_change_of_members_tells_who_votes() {
        assert_eq!(ConfChange::decode(&[8, 1, 16, 0, 24, 7, 34, 1, b'{']), Some(ConfChange::Add(7)));
        assert_eq!(ConfChange::decode(&[24, 7]), Some(ConfChange::Add(7)));
        assert_eq!(ConfChange::decode(&[16, 1, 24, 7]), Some(ConfChange::Remove(7)));
        assert_eq!(ConfChange::decode(&[16, 3, 24, 7]), Some(ConfChange::Other(7)));
        assert_eq!(ConfChange::decode(&[16, 9, 24, 7]), None);
    }
}
