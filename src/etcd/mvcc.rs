//! The key-value record: one revision of one key.
//!
//! Upstream: `etcd-io/etcd` `api/mvccpb/kv.proto`. Writers emit fields in ascending order and leave zeros out; a
//! tombstone has nothing but its key.
//!
//! | number | field | type |
//! |--:|---|---|
//! | 1 | key | bytes |
//! | 2 | create revision | int64 |
//! | 3 | mod revision | int64 |
//! | 4 | version | int64 |
//! | 5 | value | bytes |
//! | 6 | lease | int64 |

use std::borrow::Cow;

use super::wire::{self, Field};

/// A record's content. Revisions are main revisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue<'r> {
    /// The user's key; empty only for the mark that a revision bump leaves.
    pub key: &'r [u8],
    /// When the key was created last.
    pub create_revision: i64,
    /// When this record was written.
    pub mod_revision: i64,
    /// How often the key was written since it was created.
    pub version: i64,
    /// The user's value.
    pub value: &'r [u8],
    /// The lease that the key hangs on; 0 = none.
    pub lease: i64,
}

impl<'r> KeyValue<'r> {
    /// Reads a record; none if it is no such message. Unknown fields are passed over, as upstream does.
    #[inline]
    pub fn decode(record: &'r [u8]) -> Option<Self> {
        match Self::put(record) {
            Some((put, ..)) => Some(put),
            None => Self::decode_any(record),
        }
    }

    /// Reads a record that has the fields of a put, each once and in their order, as nearly all have; and what stands in it before
    /// the field of its value and behind that. None of any other, or where a number is a very large one.
    #[inline(always)]
    fn put(record: &'r [u8]) -> Option<(Self, &'r [u8], &'r [u8])> {
        let (key, rest) = wire::short_bytes(record, 1)?;
        let (create_revision, rest) = wire::short_int64(rest, 2)?;
        let (mod_revision, rest) = wire::short_int64(rest, 3)?;
        let (version, rest) = wire::short_int64(rest, 4)?;
        let before = record.get(..record.len() - rest.len())?;
        let (value, behind) = wire::short_bytes(rest, VALUE)?;
        let (lease, rest) = if behind.is_empty() { (0, behind) } else { wire::short_int64(behind, 6)? };
        let put = Self { key, create_revision, mod_revision, version, value, lease };
        rest.is_empty().then_some((put, before, behind))
    }

    fn decode_any(record: &'r [u8]) -> Option<Self> {
        let mut decoded = Self::default();
        let mut rest = record;
        while !rest.is_empty() {
            let (behind, (number, field)) = wire::field(rest).ok()?;
            rest = behind;
            match (number, field) {
                (1, Field::Bytes(bytes)) => decoded.key = bytes,
                (2, Field::Varint(value)) => decoded.create_revision = value as i64,
                (3, Field::Varint(value)) => decoded.mod_revision = value as i64,
                (4, Field::Varint(value)) => decoded.version = value as i64,
                (5, Field::Bytes(bytes)) => decoded.value = bytes,
                (6, Field::Varint(value)) => decoded.lease = value as i64,
                (1..=6, _) => return None,
                _ => {}
            }
        }
        Some(decoded)
    }

    /// Reads a put record exactly as etcd writes one, at the start of bytes of which nobody knows how far it goes, and its
    /// length; none if no such record stands there, or not the whole of it.
    ///
    /// Fields ascend, none is zero that etcd leaves out, and revisions and version fit together. What follows a record on
    /// a page is the next one's revision, which begins with a zero byte, or nothing.
    pub fn carve(bytes: &'r [u8]) -> Option<(Self, usize)> {
        let mut carved = Self::default();
        let (mut rest, mut last) = (bytes, 0);
        while let Ok((behind, (number, field))) = wire::field(rest)
            && (last + 1..=6).contains(&number)
        {
            match (number, field) {
                (1, Field::Bytes(key)) if !key.is_empty() => carved.key = key,
                (2, Field::Varint(value)) => carved.create_revision = positive(value)?,
                (3, Field::Varint(value)) => carved.mod_revision = positive(value)?,
                (4, Field::Varint(value)) => carved.version = positive(value)?,
                (5, Field::Bytes(value)) if !value.is_empty() => carved.value = value,
                (6, Field::Varint(value)) if value != 0 => carved.lease = value as i64,
                _ => return None,
            }
            (rest, last) = (behind, number);
        }
        let is_first_write = carved.create_revision == carved.mod_revision;
        let fits = !carved.key.is_empty()
            && (1..=carved.mod_revision).contains(&carved.create_revision)
            && (carved.version == 1) == is_first_write
            && carved.version >= 1
            && rest.first().is_none_or(|next| *next == 0);
        fits.then_some((carved, bytes.len() - rest.len()))
    }

    /// The record as etcd writes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(self.key.len() + self.value.len() + 48);
        self.encode_into(&mut record);
        record
    }

    /// The same, in the place of what `record` holds.
    pub fn encode_into(&self, record: &mut Vec<u8>) {
        record.clear();
        wire::put_bytes(record, 1, self.key);
        wire::put_int64(record, 2, self.create_revision);
        wire::put_int64(record, 3, self.mod_revision);
        wire::put_int64(record, 4, self.version);
        wire::put_bytes(record, 5, self.value);
        wire::put_int64(record, 6, self.lease);
    }
}

/// The number of the value's field.
const VALUE: u32 = 5;

/// What its field begins with: number and wire type.
const VALUE_KEY: u8 = (VALUE << 3 | 2) as u8;

/// The fields of a record before and behind its value, as they stand.
///
/// Of a value that stands there twice the last one counts for a reader; here both are left out, and the first one's place is the
/// value's. Where there is none, its place is before greater numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around<'r> {
    before: &'r [u8],
    behind: &'r [u8],
    /// Whether there is another value among what is behind.
    again: bool,
}

impl<'r> Around<'r> {
    /// What is around the value of a record; none if it is no record.
    pub fn of(record: &'r [u8]) -> Option<Self> {
        match KeyValue::put(record) {
            Some((_, before, behind)) => Some(Self { before, behind, again: false }),
            None => Self::of_any(record),
        }
    }

    fn of_any(record: &'r [u8]) -> Option<Self> {
        let (mut rest, mut place, mut found) = (record, None, false);
        let mut again = false;
        while !rest.is_empty() {
            let (behind, (number, _)) = wire::field(rest).ok()?;
            let (start, end) = (record.len() - rest.len(), record.len() - behind.len());
            match number {
                VALUE if found => again = true,
                VALUE => (place, found) = (Some((start, end)), true),
                _ if number > VALUE && place.is_none() => place = Some((start, start)),
                _ => {}
            }
            rest = behind;
        }
        let (start, end) = place.unwrap_or((record.len(), record.len()));
        Some(Self { before: record.get(..start)?, behind: record.get(end..)?, again })
    }

    /// Appends the fields before the value, then the value's own number and length; it must follow.
    pub fn put_before(&self, value_bytes: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.before);
        out.push(VALUE_KEY);
        wire::put_varint(out, value_bytes as u64);
    }

    /// Appends the fields behind the value.
    pub fn put_behind(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.behind());
    }

    /// The value of a record that was made of this by [`put_before`](Self::put_before), the value, and
    /// [`put_behind`](Self::put_behind); none of any other.
    pub fn value_in<'o>(&self, record: &'o [u8]) -> Option<&'o [u8]> {
        let field = record.strip_prefix(self.before)?.strip_suffix(&*self.behind())?;
        let (value, length) = wire::varint(field.strip_prefix(&[VALUE_KEY])?).ok()?;
        let is_shortest = field.len() - value.len() == 1 + wire::varint_bytes(length);
        (is_shortest && value.len() as u64 == length).then_some(value)
    }

    /// The fields behind the value without any other value.
    fn behind(&self) -> Cow<'r, [u8]> {
        if !self.again {
            return Cow::Borrowed(self.behind);
        }
        let (mut rest, mut behind) = (self.behind, Vec::new());
        while let Ok((next, (number, _))) = wire::field(rest) {
            if number != VALUE {
                behind.extend_from_slice(rest.get(..rest.len() - next.len()).unwrap_or_default());
            }
            rest = next;
        }
        Cow::Owned(behind)
    }
}

/// A number that etcd writes for a revision or a version.
fn positive(value: u64) -> Option<i64> {
    i64::try_from(value).ok().filter(|value| *value > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_carved_out_of_what_follows_it_and_only_whole() {
        let record =
            KeyValue { key: b"/a", create_revision: 2, mod_revision: 9, version: 3, value: b"some value", lease: 7 };
        let mut bytes = record.encode();
        let length = bytes.len();
        assert_eq!(KeyValue::carve(&bytes), Some((record, length)));
        bytes.extend([0, 0, 0, 9]);
        assert_eq!(KeyValue::carve(&bytes), Some((record, length)));
        bytes[length] = b'x';
        assert_eq!(KeyValue::carve(&bytes), None);
        // Cut behind the version and behind the value a shorter record stands there, as far as bytes can tell.
        let ends = [10, 22];
        for cut in (0..length).filter(|cut| !ends.contains(cut)) {
            assert_eq!(KeyValue::carve(&bytes[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn a_value_is_taken_only_out_of_a_record_with_the_same_fields_around_it() {
        let record =
            KeyValue { key: b"/a", create_revision: 2, mod_revision: 900, version: 0, value: &[7; 200], lease: 7 };
        let stored = record.encode();
        let put = KeyValue { version: 1, ..record }.encode();
        for stored in [&stored, &put] {
            let around = Around::of(stored).unwrap();
            assert_eq!(around.value_in(stored), Some(record.value));
            for value in [&b""[..], b"x", &[9; 200], &[9; 20_000]] {
                let other = replaced(stored, value);
                assert_eq!((around.value_in(&other), Around::of(&other)), (Some(value), Some(around)));
            }
        }
        let around = Around::of(&stored).unwrap();
        let (before, behind) = (stored[..1 + 1 + 2 + 1 + 1 + 1 + 2].to_vec(), [6 << 3, 7]);
        let twice = [&stored[..], &[5 << 3 | 2, 1, b'x']].concat();
        let first_twice = [&[5 << 3 | 2, 1, b'x'], &stored[..]].concat();
        let long_length = [&before[..], &[5 << 3 | 2, 0x81, 0, b'x'], &behind].concat();
        let short = [&before[..], &[5 << 3 | 2, 2, b'x'], &behind].concat();
        let other_lease = KeyValue { lease: 8, ..record }.encode();
        let other_revision = KeyValue { mod_revision: 901, ..record }.encode();
        let empty = KeyValue { value: b"", ..record }.encode();
        for other in [twice, first_twice, long_length, short, other_lease, other_revision, empty, put, Vec::new()] {
            assert_eq!(around.value_in(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = KeyValue { key: b"/a", create_revision: 2, mod_revision: 900, version: 3, value: b"v", lease: -5 };
        assert_eq!(KeyValue::decode(&record.encode()), Some(record));
        assert_eq!(KeyValue::decode(&[]), Some(KeyValue::default()));
    }

    /// The record with another value in the place of its own.
    fn replaced(record: &[u8], value: &[u8]) -> Vec<u8> {
        let (around, mut out) = (Around::of(record).unwrap(), Vec::new());
        around.put_before(value.len(), &mut out);
        out.extend_from_slice(value);
        around.put_behind(&mut out);
        out
    }

    #[test]
    fn another_value_leaves_the_other_fields_as_they_are() {
        let record = KeyValue { key: b"/a", create_revision: 2, mod_revision: 9, version: 3, value: b"old", lease: 7 };
        let newer = KeyValue { value: b"a longer one", ..record };
        assert_eq!(replaced(&record.encode(), newer.value), newer.encode());
        let empty = KeyValue { value: b"", ..record };
        assert_eq!(replaced(&empty.encode(), b"old"), record.encode());
        let unleased = KeyValue { value: b"", lease: 0, ..record };
        assert_eq!(replaced(&unleased.encode(), b"old"), KeyValue { lease: 0, ..record }.encode());
    }

    #[test]
    fn unknown_fields_stay_and_nothing_of_an_old_value_does() {
        let unknown = [0x3a, 3, b'x', b'y', b'z'];
        let twice = [&record_with(b"secret")[..], &unknown, &[0x2a, 6], b"secret", &[0x30, 5]].concat();
        let out = replaced(&twice, b"new");
        assert_eq!(out, [&record_with(b"new")[..], &unknown, &[0x30, 5]].concat());
        assert_eq!(Around::of(&twice[..3]), None);
        assert_eq!(Around::of(&twice).unwrap().value_in(&out), Some(&b"new"[..]));
        assert_eq!(Around::of(&twice).unwrap().value_in(&twice), None);
    }

    fn record_with(value: &[u8]) -> Vec<u8> {
        KeyValue { key: b"/a", create_revision: 2, mod_revision: 2, version: 1, value, lease: 0 }.encode()
    }

    #[test]
    fn every_cut_is_noticed_or_ends_at_a_field() {
        let whole = KeyValue { key: b"/a", create_revision: 2, value: b"some value", ..KeyValue::default() }.encode();
        let ends = [0, 4, 6, whole.len()];
        for cut in 0..=whole.len() {
            assert_eq!(KeyValue::decode(&whole[..cut]).is_some(), ends.contains(&cut), "{cut}");
        }
    }

    proptest! {
        /// Records that are nearly those of etcd, and those that are not, by both ways.
        #[test]
        fn the_short_way_reads_as_the_long_one_does(
            fields in prop::collection::vec((0_u8..8, 0_u64..1 << 60, 0_u32..60), 0..3),
            flipped: Option<(prop::sample::Index, u8)>,
            lease in prop_oneof![Just(0), Just(7), Just(-1)],
            mod_revision in prop_oneof![Just(2), Just(1 << 40), Just(i64::MAX)],
        ) {
            let kv = KeyValue { key: b"/a", create_revision: 2, mod_revision, version: 3, value: b"value", lease };
            let mut record = kv.encode();
            for (number, value, shift) in fields {
                match number % 2 {
                    0 => wire::put_int64(&mut record, number.into(), (value >> shift) as i64),
                    _ => wire::put_bytes(&mut record, number.into(), &value.to_le_bytes()),
                }
            }
            if let Some((place, byte)) = flipped {
                *place.get_mut(&mut record) = byte;
            }
            let long = KeyValue::decode_any(&record);
            prop_assert_eq!(KeyValue::decode(&record), long);
            let around = Around::of(&record);
            prop_assert_eq!(around, Around::of_any(&record));
            if let Some((around, kv)) = around.zip(long) {
                let other = replaced(&record, b"another value");
                prop_assert_eq!(KeyValue::decode(&other), Some(KeyValue { value: b"another value", ..kv }));
                prop_assert_eq!(around.value_in(&other), Some(&b"another value"[..]));
            }
        }
    }

    #[test]
    fn a_known_field_of_another_wire_type_is_refused() {
        assert_eq!(KeyValue::decode(&[0x08, 1]), None);
        assert_eq!(KeyValue::decode(&[0x12, 1, 1]), None);
    }
}
