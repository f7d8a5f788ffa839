//! CBOR as the API server's serializer writes it: self-described, definite lengths, strings as byte strings.
//!
//! A reader for one purpose: check a whole value and keep four strings. It counts the items that are still to
//! come instead of descending into them, so nesting costs nothing; upstream's limits of nesting and length are
//! bounded by the value's size here, as each item takes a byte at least.
//!
//! Upstream: `pkg/runtime/serializer/cbor` of `kubernetes/apimachinery`; RFC 8949.

use std::borrow::Cow;

use nom::bytes::complete::take;
use nom::error::{Error, ErrorKind};
use nom::number::complete::{be_u16, be_u32, be_u64, u8 as byte};
use nom::{Err, IResult};

use super::{Encoding, Identity, PayloadError, offset};

/// The tag for self-described CBOR.
pub(super) const MAGIC: &[u8] = &[0xd9, 0xd9, 0xf7];

const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

/// `null`, the simple value.
const NULL: u64 = 22;

/// The first bytes of an item: what it is and its number, length or count.
#[derive(Clone, Copy)]
struct Head {
    major: u8,
    argument: u64,
}

/// Reads the whole value.
pub(super) fn identify(plain: &[u8]) -> Result<Identity<'_>, PayloadError> {
    let body = plain.get(MAGIC.len()..).unwrap_or(&[]);
    let (rest, identity) = object(body).map_err(|error| match error {
        Err::Error(error) | Err::Failure(error) => malformed(offset(plain, error.input), error.code),
        Err::Incomplete(_) => malformed(plain.len(), ErrorKind::Eof),
    })?;
    if rest.is_empty() { Ok(identity) } else { Err(malformed(offset(plain, rest), ErrorKind::Complete)) }
}

fn malformed(offset: usize, code: ErrorKind) -> PayloadError {
    let fault = match code {
        ErrorKind::Eof => "cut off",
        ErrorKind::Complete => "bytes behind the object",
        ErrorKind::Char => "no UTF-8",
        ErrorKind::Many1 => "a field twice",
        ErrorKind::TooLarge => "more items than bytes",
        _ => "no CBOR item of an object",
    };
    PayloadError::Malformed { encoding: Encoding::Cbor, offset, fault }
}

fn refuse<T>(input: &[u8], code: ErrorKind) -> IResult<&[u8], T> {
    Err(Err::Error(Error::new(input, code)))
}

fn object(input: &[u8]) -> IResult<&[u8], Identity<'_>> {
    let (mut rest, pairs) = map_head(input)?;
    let (mut api_version, mut kind, mut metadata) = (None, None, None);
    for _ in 0..pairs {
        let (value, key) = string(rest)?;
        (rest, _) = match key {
            b"apiVersion" => once(value, &mut api_version, text_or_null)?,
            b"kind" => once(value, &mut kind, text_or_null)?,
            b"metadata" => once(value, &mut metadata, object_meta)?,
            _ => skip(value)?,
        };
    }
    let (name, namespace) = metadata.unwrap_or_default();
    let (api_version, kind) = (api_version.unwrap_or_default(), kind.unwrap_or_default());
    Ok((rest, Identity { api_version, kind, name, namespace }))
}

fn object_meta(input: &[u8]) -> IResult<&[u8], (Cow<'_, str>, Cow<'_, str>)> {
    let (mut rest, pairs) = map_head(input)?;
    let (mut name, mut namespace) = (None, None);
    for _ in 0..pairs {
        let (value, key) = string(rest)?;
        (rest, _) = match key {
            b"name" => once(value, &mut name, text_or_null)?,
            b"namespace" => once(value, &mut namespace, text_or_null)?,
            _ => skip(value)?,
        };
    }
    Ok((rest, (name.unwrap_or_default(), namespace.unwrap_or_default())))
}

/// Reads a value into a slot that must be free.
fn once<'p, T>(
    input: &'p [u8],
    slot: &mut Option<T>,
    read: impl Fn(&'p [u8]) -> IResult<&'p [u8], T>,
) -> IResult<&'p [u8], ()> {
    let (rest, value) = read(input)?;
    match slot.replace(value) {
        None => Ok((rest, ())),
        Some(_) => refuse(input, ErrorKind::Many1),
    }
}

/// The head of a map: how many pairs follow.
fn map_head(input: &[u8]) -> IResult<&[u8], u64> {
    let (rest, head) = head(input)?;
    if head.major == MAP { Ok((rest, head.argument)) } else { refuse(input, ErrorKind::Tag) }
}

/// A byte string or text string.
fn string(input: &[u8]) -> IResult<&[u8], &[u8]> {
    let (rest, head) = head(input)?;
    if matches!(head.major, BYTES | TEXT) { take(head.argument)(rest) } else { refuse(input, ErrorKind::Tag) }
}

/// A string of either type that is text; null is the empty one.
fn text_or_null(input: &[u8]) -> IResult<&[u8], Cow<'_, str>> {
    if let Ok((rest, Head { major: SIMPLE, argument: NULL })) = head(input) {
        return Ok((rest, Cow::Borrowed("")));
    }
    let (rest, bytes) = string(input)?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok((rest, Cow::Borrowed(text))),
        Err(_) => refuse(input, ErrorKind::Char),
    }
}

/// Passes over one item and all that it contains.
fn skip(input: &[u8]) -> IResult<&[u8], ()> {
    let mut rest = input;
    let mut awaited: u64 = 1;
    while awaited > 0 {
        let (body, head) = head(rest)?;
        let contained = match head.major {
            ARRAY => head.argument,
            MAP => head.argument.saturating_mul(2),
            TAG => 1,
            _ => 0,
        };
        let (body, _) = if matches!(head.major, BYTES | TEXT) { take(head.argument)(body)? } else { (body, &[][..]) };
        awaited = (awaited - 1).saturating_add(contained);
        if awaited > body.len() as u64 {
            return refuse(rest, ErrorKind::TooLarge);
        }
        rest = body;
    }
    Ok((rest, ()))
}

/// The head of any item; indefinite lengths, which upstream refuses too, have none.
fn head(input: &[u8]) -> IResult<&[u8], Head> {
    let (rest, first) = byte(input)?;
    let major = first >> 5;
    let (rest, argument) = match first & 0x1f {
        small @ 0..=23 => (rest, u64::from(small)),
        24 => byte(rest).map(|(rest, value)| (rest, value.into()))?,
        25 => be_u16(rest).map(|(rest, value)| (rest, value.into()))?,
        26 => be_u32(rest).map(|(rest, value)| (rest, value.into()))?,
        27 => be_u64(rest)?,
        _ => return refuse(input, ErrorKind::Tag),
    };
    // Of the simple values only false, true and null occur; wider ones are floats.
    let is_unknown_simple = major == SIMPLE && first & 0x1f <= 24 && !(20..=NULL).contains(&argument);
    if is_unknown_simple { refuse(input, ErrorKind::Tag) } else { Ok((rest, Head { major, argument })) }
}
