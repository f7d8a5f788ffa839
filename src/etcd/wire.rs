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

/// Where a part that was read out of a message starts within it; the message's end for what is no part of it, as an empty part may
/// be.
pub fn offset_of(message: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().checked_sub(message.as_ptr().addr()).unwrap_or(message.len()).min(message.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_read_back_as_they_were_written() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(varint(&bytes), Ok((&b""[..], value)));
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
