//! Protobuf's wire format, as far as etcd's own messages need it.

use nom::IResult;
use nom::error::{Error, ErrorKind};

/// A field of a message as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'m> {
    /// Wire type 0.
    Varint(u64),
    /// Wire types 1 and 5.
    Fixed(&'m [u8]),
    /// Wire type 2.
    Bytes(&'m [u8]),
}

/// Reads a field's number and value. Numbers are 1 to 2^29-1; groups, which nobody writes, are refused.
#[inline]
pub fn field(input: &[u8]) -> IResult<&[u8], (u32, Field<'_>)> {
    match short_field(input) {
        Some(short) => Ok(short),
        None => any_field(input),
    }
}

/// A field as nearly all of a record are: a small number, and then bytes or a number of at most 56 bits. What is none goes to
/// [`any_field`].
#[inline(always)]
fn short_field(input: &[u8]) -> Option<(&[u8], (u32, Field<'_>))> {
    let [key @ 8..0x80, rest @ ..] = input else { return None };
    let number = u32::from(key >> 3);
    let (value, rest) = short_varint(rest)?;
    match key & 7 {
        0 => Some((rest, (number, Field::Varint(value)))),
        2 => {
            let (bytes, rest) = rest.split_at_checked(usize::try_from(value).ok()?)?;
            Some((rest, (number, Field::Bytes(bytes))))
        }
        _ => None,
    }
}

/// A number of at most eight bytes on the wire that has eight bytes to be looked at, or of one.
#[inline(always)]
fn short_varint(input: &[u8]) -> Option<(u64, &[u8])> {
    if let [one @ 0..0x80, rest @ ..] = input {
        return Some((u64::from(*one), rest));
    }
    let eight = u64::from_le_bytes(*input.first_chunk()?);
    // The first byte whose uppermost bit is not set ends the number.
    let ends = !eight & 0x8080_8080_8080_8080;
    let bytes = ends.trailing_zeros() / 8 + 1;
    let rest = input.get(bytes as usize..).filter(|_| ends != 0)?;
    // All bits up to the one that ends it; then the seven of each byte are moved together: by pairs, by fours, all.
    let own = eight & (ends ^ ends.wrapping_sub(1)) & 0x7f7f_7f7f_7f7f_7f7f;
    let pairs = (own & 0x007f_007f_007f_007f) | (own & 0x7f00_7f00_7f00_7f00) >> 1;
    let fours = (pairs & 0x0000_3fff_0000_3fff) | (pairs & 0x3fff_0000_3fff_0000) >> 2;
    Some(((fours & 0x0fff_ffff) | (fours & 0x0fff_ffff_0000_0000) >> 4, rest))
}

/// The bytes of a field that has this number, and what follows it; none if it is another one, or goes beyond what is there.
#[inline(always)]
pub(super) fn short_bytes(input: &[u8], number: u32) -> Option<(&[u8], &[u8])> {
    let (length, rest) = short_varint(input.strip_prefix(&[(number << 3 | 2) as u8])?)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// The same of a number, which must have 56 bits at most.
#[inline(always)]
pub(super) fn short_int64(input: &[u8], number: u32) -> Option<(i64, &[u8])> {
    let (value, rest) = short_varint(input.strip_prefix(&[(number << 3) as u8])?)?;
    Some((value as i64, rest))
}

fn any_field(input: &[u8]) -> IResult<&[u8], (u32, Field<'_>)> {
    let (rest, key) = varint(input)?;
    let number = u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number));
    let Some(number) = number else { return refuse(input) };
    let (rest, value) = match key & 7 {
        0 => varint(rest).map(|(rest, value)| (rest, Field::Varint(value)))?,
        1 => prefix(rest, 8).map(|(rest, bytes)| (rest, Field::Fixed(bytes)))?,
        2 => {
            let (rest, length) = varint(rest)?;
            prefix(rest, length).map(|(rest, bytes)| (rest, Field::Bytes(bytes)))?
        }
        5 => prefix(rest, 4).map(|(rest, bytes)| (rest, Field::Fixed(bytes)))?,
        _ => return refuse(input),
    };
    Ok((rest, (number, value)))
}

/// The next bytes of a given number. nom's `take` does the same at twice the cost, and every record passes here.
#[inline]
fn prefix(input: &[u8], length: u64) -> IResult<&[u8], &[u8]> {
    match usize::try_from(length).ok().and_then(|length| input.split_at_checked(length)) {
        Some((bytes, rest)) => Ok((rest, bytes)),
        None => refuse(input),
    }
}

/// Reads a varint of at most ten bytes whose value fits 64 bits, as Go's readers demand. Most have one byte.
#[inline]
pub fn varint(input: &[u8]) -> IResult<&[u8], u64> {
    match input.split_first() {
        Some((first, rest)) if first & 0x80 == 0 => Ok((rest, u64::from(*first))),
        _ => long_varint(input),
    }
}

#[inline]
fn long_varint(input: &[u8]) -> IResult<&[u8], u64> {
    let mut value = 0_u64;
    for (index, byte) in input.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            break;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((input.get(index + 1..).unwrap_or_default(), value));
        }
    }
    refuse(input)
}

#[cold]
fn refuse<T>(input: &[u8]) -> IResult<&[u8], T> {
    Err(nom::Err::Error(Error::new(input, ErrorKind::Verify)))
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field of bytes; an empty one is left out, as proto3 writers do.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_varint(out, u64::from(number) << 3 | 2);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Appends a signed integer field; zero is left out, as proto3 writers do.
pub fn put_int64(out: &mut Vec<u8>, number: u32, value: i64) {
    if value != 0 {
        put_varint(out, u64::from(number) << 3);
        put_varint(out, value as u64);
    }
}

/// Bytes that [`put_bytes`] appends for so many.
pub fn bytes_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { 1 + varint_bytes(bytes as u64) + bytes }
}

/// Bytes that [`put_int64`] appends under a number below 16.
pub fn int64_bytes(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_bytes(value as u64) }
}

/// Bytes that [`put_varint`] appends.
pub(super) fn varint_bytes(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Where a part that was read out of a message starts within it; the message's end for what is no part of it, as an empty part may
/// be.
pub fn offset_of(message: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().checked_sub(message.as_ptr().addr()).unwrap_or(message.len()).min(message.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn varints_read_back_as_they_were_written() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(varint(&bytes), Ok((&b""[..], value)));
        }
    }

    proptest! {
        #[test]
        fn the_short_way_reads_what_the_long_one_reads(
            head in prop_oneof![any::<u8>(), 8_u8..0x80],
            number in prop_oneof![any::<u64>(), (0_u32..64).prop_flat_map(|bits| 0..=u64::MAX >> bits)],
            noise in prop::collection::vec(prop_oneof![any::<u8>(), 0x80_u8..], 0..24),
            cut in 0_usize..24,
        ) {
            let mut input = vec![head];
            put_varint(&mut input, number);
            input.extend(&noise);
            for input in [&input[..], &input[..cut.min(input.len())], &noise] {
                if let Some(short) = short_field(input) {
                    prop_assert_eq!(any_field(input), Ok(short));
                }
            }
            if (8..0x80).contains(&head) && head & 7 == 0 && number < 1 << 56 && noise.len() >= 7 {
                prop_assert_eq!(short_field(&input), Some((&noise[..], (u32::from(head >> 3), Field::Varint(number)))));
            }
        }
    }

    #[test]
    fn a_varint_that_never_ends_or_overflows_is_refused() {
        assert!(varint(&[0x80; 11]).is_err());
        assert!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).is_err());
        assert!(varint(&[0x80]).is_err());
        assert!(varint(&[]).is_err());
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        assert!(field(&[0x0a, 5, 1, 2]).is_err());
        assert!(field(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err());
        assert!(field(&[0x0b]).is_err(), "groups");
        assert!(field(&[0x00, 1]).is_err(), "field 0");
    }

    #[test]
    fn a_part_is_found_within_its_message() {
        let message = [8, 1, 18, 2, b'a', b'b'];
        let (rest, _) = field(&message).unwrap();
        let (_, (_, part)) = field(rest).unwrap();
        let Field::Bytes(part) = part else { panic!("{part:?}") };
        assert_eq!(offset_of(&message, part), 4);
        assert_eq!(offset_of(&message, &[]), 6);
    }
}
