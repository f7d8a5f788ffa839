//! The protobuf wire format, as strictly as upstream's decoder reads it.
//!
//! Upstream: `protocolbuffers/protobuf-go`, `encoding/protowire` and `internal/impl/decode.go`.

use nom::IResult;
use nom::bytes::complete::take;
use nom::error::{Error, ErrorKind};

/// The largest field number.
const MAX_FIELD: u64 = (1 << 29) - 1;

/// How deep groups may nest in upstream's decoder.
const MAX_GROUPS: usize = 10_000;

/// What a field holds, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'v> {
    /// A number.
    Varint(u64),
    /// Bytes, a string, or a message.
    Bytes(&'v [u8]),
    /// A fixed-width number or a group, which no field of ours is.
    Other,
}

/// The first field of a message and what follows it; `None` if it is no field.
pub(super) fn field(message: &[u8]) -> Option<(u32, Value<'_>, &[u8])> {
    let (rest, (number, value)) = read_field(message).ok()?;
    Some((number, value, rest))
}

fn refused<T>(input: &[u8]) -> IResult<&[u8], T> {
    Err(nom::Err::Error(Error::new(input, ErrorKind::Verify)))
}

fn read_field(input: &[u8]) -> IResult<&[u8], (u32, Value<'_>)> {
    let (rest, (number, wire_type)) = read_tag(input)?;
    let (rest, value) = match wire_type {
        0 => read_varint(rest).map(|(rest, number)| (rest, Value::Varint(number)))?,
        2 => read_bytes(rest).map(|(rest, bytes)| (rest, Value::Bytes(bytes)))?,
        _ => skip_other(rest, number, wire_type)?,
    };
    Ok((rest, (number, value)))
}

/// A tag's field number and wire type.
fn read_tag(input: &[u8]) -> IResult<&[u8], (u32, u8)> {
    let (rest, tag) = read_varint(input)?;
    let number = tag >> 3;
    match u32::try_from(number) {
        Ok(number32) if (1..=MAX_FIELD).contains(&number) => Ok((rest, (number32, (tag & 7) as u8))),
        _ => refused(input),
    }
}

/// A number of at most ten bytes that fits 64 bits.
fn read_varint(input: &[u8]) -> IResult<&[u8], u64> {
    let mut value = 0u64;
    for (at, &byte) in input.iter().take(10).enumerate() {
        if at == 9 && byte > 1 {
            return refused(input);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok((input.get(at + 1..).unwrap_or_default(), value));
        }
    }
    refused(input)
}

fn read_bytes(input: &[u8]) -> IResult<&[u8], &[u8]> {
    let (rest, length) = read_varint(input)?;
    take(length)(rest)
}

/// Skips a fixed-width number, or a group with all that is in it.
fn skip_other(input: &[u8], number: u32, wire_type: u8) -> IResult<&[u8], Value<'_>> {
    let mut open_groups = Vec::new();
    let mut rest = skip_one(input, number, wire_type, &mut open_groups)?;
    while !open_groups.is_empty() {
        let (behind_tag, (number, wire_type)) = read_tag(rest)?;
        rest = skip_one(behind_tag, number, wire_type, &mut open_groups)?;
    }
    Ok((rest, Value::Other))
}

/// Skips what stands behind one tag; a group's start and end only change which groups are open.
fn skip_one<'v>(
    input: &'v [u8],
    number: u32,
    wire_type: u8,
    open_groups: &mut Vec<u32>,
) -> Result<&'v [u8], nom::Err<Error<&'v [u8]>>> {
    let (rest, ()) = match wire_type {
        0 => read_varint(input).map(|(rest, _)| (rest, ()))?,
        1 => take(8usize)(input).map(|(rest, _)| (rest, ()))?,
        2 => read_bytes(input).map(|(rest, _)| (rest, ()))?,
        3 if open_groups.len() < MAX_GROUPS => {
            open_groups.push(number);
            (input, ())
        }
        4 if open_groups.pop() == Some(number) => (input, ()),
        5 => take(4usize)(input).map(|(rest, _)| (rest, ()))?,
        _ => refused(input)?,
    };
    Ok(rest)
}

/// Appends a field of bytes.
pub(super) fn write_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    write_head(number, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Appends what stands in front of so many bytes of a field, which must follow.
pub(super) fn write_head(number: u32, bytes: usize, out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3 | 2, out);
    write_varint(bytes as u64, out);
}

/// Appends a field of a number.
pub(super) fn write_number(number: u32, value: u64, out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3, out);
    write_varint(value, out);
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_ends_within_ten_bytes_and_sixty_four_bits() {
        let max = [&[0xff; 9][..], &[1]].concat();
        assert_eq!(read_varint(&max).unwrap().1, u64::MAX);
        assert!(read_varint(&[&[0xff; 9][..], &[2]].concat()).is_err());
        assert!(read_varint(&[&[0x80; 10][..], &[0]].concat()).is_err());
        assert!(read_varint(&[0x80]).is_err());
    }

    #[test]
    fn field_numbers_outside_the_range_are_refused() {
        let tag = |number: u64| {
            let mut out = Vec::new();
            write_varint(number << 3, &mut out);
            out.push(0);
            out
        };
        assert!(field(&tag(0)).is_none());
        assert!(field(&tag(MAX_FIELD)).is_some());
        assert!(field(&tag(MAX_FIELD + 1)).is_none());
    }

    #[test]
    fn groups_are_skipped_with_all_that_is_in_them() {
        let nested = [0x33, 0x3b, 0x08, 0x01, 0x3c, 0x15, 1, 2, 3, 4, 0x12, 1, 9, 0x34, 0x08, 0x07];
        assert_eq!(field(&nested), Some((6, Value::Other, &[0x08, 0x07][..])));
        assert_eq!(field(&[0x33, 0x3c]), None, "the end of a group that was not begun");
        assert_eq!(field(&[0x33]), None, "a group without an end");
        assert_eq!(field(&[0x34]), None, "an end without a group");
        assert_eq!(field(&[0x36]), None, "a reserved wire type");
    }

    #[test]
    fn groups_nest_only_so_deep() {
        let nested = |depth: usize| [vec![0x33; depth], vec![0x34; depth]].concat();
        assert!(field(&nested(MAX_GROUPS)).is_some());
        assert!(field(&nested(MAX_GROUPS + 1)).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_parses(number in 1u32..1 << 29, value: u64, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            write_number(number, value, &mut out);
            write_bytes(number, &bytes, &mut out);
            let (_, first, rest) = field(&out).unwrap();
            prop_assert_eq!(first, Value::Varint(value));
            prop_assert_eq!(field(rest), Some((number, Value::Bytes(&bytes), &[][..])));
        }
    }
}
