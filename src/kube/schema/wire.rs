//! Protobuf's wire format: fields one after the other, each a number, a type and a value.
//!
//! Groups (wire types 3 and 4) are refused, no Kubernetes type has any. A fault leaves with the bytes at which it was found, so
//! that whoever knows the whole can tell the offset.

/// A field's value as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'p> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'p [u8]),
}

/// What is wrong, and at which bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault<'p> {
    pub(super) at: &'p [u8],
    pub(super) what: &'static str,
}

/// The fields of a message, one after the other; ends after the first fault.
pub(super) struct Fields<'p>(pub(super) &'p [u8]);

impl<'p> Iterator for Fields<'p> {
    type Item = Result<(u32, Value<'p>), Fault<'p>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some((rest, number, bytes)) = short_field(self.0) {
            self.0 = rest;
            return Some(Ok((number, Value::Bytes(bytes))));
        }
        if self.0.is_empty() {
            return None;
        }
        match field(self.0) {
            Ok((rest, number, value)) => {
                self.0 = rest;
                Some(Ok((number, value)))
            }
            Err(fault) => {
                self.0 = &[];
                Some(Err(fault))
            }
        }
    }
}

/// A field as nearly all are: a tag of one byte, a length of one byte, and so many bytes.
#[inline(always)]
fn short_field(input: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let [tag @ 8..0x80, length @ ..0x80, body @ ..] = input else { return None };
    let (bytes, rest) = body.split_at_checked(usize::from(*length)).filter(|_| tag & 7 == 2)?;
    Some((rest, u32::from(tag >> 3), bytes))
}

fn field(input: &[u8]) -> Result<(&[u8], u32, Value<'_>), Fault<'_>> {
    let fault = |what| Fault { at: input, what };
    let (tag, rest) = varint(input).map_err(fault)?;
    let number = number(tag).ok_or(fault("no protobuf field"))?;
    let cut = || fault("cut off");
    Ok(match tag & 7 {
        0 => {
            let (value, rest) = varint(rest).map_err(fault)?;
            (rest, number, Value::Varint(value))
        }
        1 => {
            let (bytes, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            (rest, number, Value::Fixed64(u64::from_le_bytes(*bytes)))
        }
        2 => {
            let (length, rest) = varint(rest).map_err(fault)?;
            let length = usize::try_from(length).map_err(|_| cut())?;
            let (bytes, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
            (rest, number, Value::Bytes(bytes))
        }
        5 => {
            let (bytes, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            (rest, number, Value::Fixed32(u32::from_le_bytes(*bytes)))
        }
        _ => return Err(fault("no protobuf field")),
    })
}

/// The field's number in a tag. Upstream takes it for 32 bits with a sign, however many there are.
#[inline]
pub(super) fn number(tag: u64) -> Option<u32> {
    u32::try_from((tag >> 3) & u64::from(u32::MAX)).ok().filter(|number| (1..1 << 31).contains(number))
}

/// A base-128 number of at most 64 bits; nearly all have one byte.
#[inline]
pub(super) fn varint(input: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    match input.split_first() {
        Some((first, rest)) if first & 0x80 == 0 => Ok((u64::from(*first), rest)),
        _ => long_varint(input),
    }
}

fn long_varint(input: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    let mut value = 0;
    for (place, byte) in (0_u32..).zip(input) {
        // The tenth byte has room for a single bit; upstream drops the others, too.
        if place > 9 {
            return Err("a number that is too long");
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok((value, input.get(place as usize + 1..).unwrap_or_default()));
        }
    }
    Err("cut off")
}
