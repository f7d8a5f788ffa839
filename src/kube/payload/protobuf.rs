//! Storage protobuf: the envelope and the object's metadata.
//!
//! ```text
//! "k8s\0" || Unknown  { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: raw, 3: contentEncoding, 4: contentType }
//! raw      = object   { 1: ObjectMeta { 1: name, 3: namespace, 5: uid, .. }, .. }
//! ```
//!
//! Every persisted type has ObjectMeta as field 1. API servers emit empty strings too, so that fields 3 and 4
//! always end a value (`1A 00 22 00`) and every ObjectMeta has a uid field; a value without them is cut off.
//!
//! The parsers have nom's shape but read bytes themselves: every plaintext of a store passes here, and nom's own
//! primitives took twice as long. A fault leaves with its offset. Groups (wire types 3 and 4) are refused, no
//! Kubernetes type has any.

use nom::error::{Error, ErrorKind};
use nom::{Err, IResult};

use super::{Encoding, Identity, PayloadError, require};

/// What every protobuf value begins with.
pub(super) const MAGIC: &[u8] = b"k8s\0";

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// A field's number, wire type and, where it is length-delimited, its bytes.
struct Field<'p> {
    number: u64,
    wire: u8,
    bytes: &'p [u8],
}

/// Reads the whole value.
pub(super) fn identify(plain: &[u8]) -> Result<(Encoding, Identity<'_>), PayloadError> {
    let reader = Reader { whole: plain };
    let mut type_meta = None;
    let mut raw = None;
    let (mut has_encoding, mut has_type) = (false, false);
    reader.fields(plain.get(MAGIC.len()..).unwrap_or(&[]), |field| match (field.number, field.wire) {
        (1, LENGTH_DELIMITED) => once(&mut type_meta, field.bytes),
        (2, LENGTH_DELIMITED) => once(&mut raw, field.bytes),
        (3, LENGTH_DELIMITED) => first_time(&mut has_encoding),
        (4, LENGTH_DELIMITED) => first_time(&mut has_type),
        (1..=4, _) => Err("wrong wire type"),
        _ => Ok(()),
    })?;
    let missing = |field| PayloadError::Missing { encoding: Encoding::Protobuf, field };
    let type_meta = type_meta.ok_or(missing("typeMeta"))?;
    let raw = raw.ok_or(missing("raw"))?;
    if !has_encoding || !has_type {
        return Err(reader.fault_at_end("the envelope's end is missing"));
    }
    let (api_version, kind) = reader.type_meta(type_meta)?;
    let (name, namespace) = reader.object(raw)?;
    require(Encoding::Protobuf, api_version, kind)?;
    let (api_version, kind, name, namespace) = (api_version.into(), kind.into(), name.into(), namespace.into());
    Ok((Encoding::Protobuf, Identity { api_version, kind, name, namespace }))
}

/// Parts of one value; knows where each lies.
struct Reader<'p> {
    whole: &'p [u8],
}

impl<'p> Reader<'p> {
    fn type_meta(&self, message: &'p [u8]) -> Result<(&'p str, &'p str), PayloadError> {
        let (mut api_version, mut kind) = (None, None);
        self.fields(message, |field| match (field.number, field.wire) {
            (1, LENGTH_DELIMITED) => once(&mut api_version, text(field.bytes)?),
            (2, LENGTH_DELIMITED) => once(&mut kind, text(field.bytes)?),
            (1 | 2, _) => Err("wrong wire type"),
            _ => Ok(()),
        })?;
        Ok((api_version.unwrap_or_default(), kind.unwrap_or_default()))
    }

    /// The object's own fields, each to its end, and the name and namespace in its metadata.
    fn object(&self, message: &'p [u8]) -> Result<(&'p str, &'p str), PayloadError> {
        let mut metadata = None;
        self.fields(message, |field| match (field.number, field.wire) {
            (1, LENGTH_DELIMITED) => once(&mut metadata, field.bytes),
            (1, _) => Err("no metadata"),
            _ => Ok(()),
        })?;
        let metadata = metadata.ok_or(PayloadError::Missing { encoding: Encoding::Protobuf, field: "metadata" })?;
        self.object_meta(metadata)
    }

    fn object_meta(&self, message: &'p [u8]) -> Result<(&'p str, &'p str), PayloadError> {
        let (mut name, mut namespace) = (None, None);
        let mut has_uid = false;
        self.fields(message, |field| match (field.number, field.wire) {
            (1, LENGTH_DELIMITED) => once(&mut name, text(field.bytes)?),
            (3, LENGTH_DELIMITED) => once(&mut namespace, text(field.bytes)?),
            (5, LENGTH_DELIMITED) => first_time(&mut has_uid),
            // Strings, times, maps and lists of messages; generation and the grace period are numbers.
            (2 | 4 | 6 | 8 | 9 | 11..=17, LENGTH_DELIMITED) | (7 | 10, VARINT) => Ok(()),
            (1..=17, _) => Err("wrong wire type"),
            _ => Ok(()),
        })?;
        if !has_uid {
            // The metadata of a list or a status, which begins with strings of another meaning.
            return Err(self.fault_at(message, "no object metadata"));
        }
        Ok((name.unwrap_or_default(), namespace.unwrap_or_default()))
    }

    /// Reads a message to its end and hands each field to `take`.
    fn fields(
        &self,
        message: &'p [u8],
        mut take: impl FnMut(Field<'p>) -> Result<(), &'static str>,
    ) -> Result<(), PayloadError> {
        let mut rest = message;
        while !rest.is_empty() {
            let (next, field) = match short_field(rest) {
                Some(short) => short,
                None => field(rest).map_err(|error| self.nom_fault(error))?,
            };
            take(field).map_err(|fault| self.fault_at(rest, fault))?;
            rest = next;
        }
        Ok(())
    }

    fn nom_fault(&self, error: Err<Error<&'p [u8]>>) -> PayloadError {
        match error {
            Err::Error(error) | Err::Failure(error) => self.fault_at(error.input, wording(error.code)),
            Err::Incomplete(_) => self.fault_at_end("cut off"),
        }
    }

    /// A fault at the start of `part`, which is a slice of the value: how far in is the distance of the two.
    fn fault_at(&self, part: &[u8], fault: &'static str) -> PayloadError {
        let offset = part.as_ptr().addr().saturating_sub(self.whole.as_ptr().addr()).min(self.whole.len());
        PayloadError::Malformed { encoding: Encoding::Protobuf, offset, fault }
    }

    fn fault_at_end(&self, fault: &'static str) -> PayloadError {
        PayloadError::Malformed { encoding: Encoding::Protobuf, offset: self.whole.len(), fault }
    }
}

fn wording(code: ErrorKind) -> &'static str {
    match code {
        ErrorKind::Eof => "cut off",
        ErrorKind::TooLarge => "a number that is too long",
        _ => "no protobuf field",
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), &'static str> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("a field twice"),
    }
}

fn first_time(seen: &mut bool) -> Result<(), &'static str> {
    if std::mem::replace(seen, true) { Err("a field twice") } else { Ok(()) }
}

fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(bytes).map_err(|_| "no UTF-8")
}

/// A field as nearly all are: a tag of one byte, a length of one byte, and so many bytes. What is none goes to [`field`].
#[inline]
fn short_field(input: &[u8]) -> Option<(&[u8], Field<'_>)> {
    let [tag @ 8..0x80, length @ ..0x80, body @ ..] = input else { return None };
    let (bytes, rest) = body.split_at_checked(usize::from(*length)).filter(|_| tag & 7 == LENGTH_DELIMITED)?;
    Some((rest, Field { number: u64::from(tag >> 3), wire: LENGTH_DELIMITED, bytes }))
}

/// A tag and what it announces.
#[inline]
fn field(input: &[u8]) -> IResult<&[u8], Field<'_>> {
    let (rest, tag) = varint(input)?;
    let (number, wire) = (tag >> 3, (tag & 7) as u8);
    if number == 0 || tag > u64::from(u32::MAX) {
        return refuse(input, ErrorKind::Tag);
    }
    let (rest, bytes) = match wire {
        LENGTH_DELIMITED => {
            let (rest, length) = varint(rest)?;
            prefix(rest, length)?
        }
        VARINT => varint(rest).map(|(rest, _)| (rest, &[][..]))?,
        FIXED64 => prefix(rest, 8)?,
        FIXED32 => prefix(rest, 4)?,
        _ => return refuse(input, ErrorKind::Tag),
    };
    Ok((rest, Field { number, wire, bytes }))
}

/// The next bytes of a given number. nom's `take` does the same at twice the cost.
#[inline]
fn prefix(input: &[u8], length: u64) -> IResult<&[u8], &[u8]> {
    match usize::try_from(length).ok().and_then(|length| input.split_at_checked(length)) {
        Some((bytes, rest)) => Ok((rest, bytes)),
        None => refuse(input, ErrorKind::Eof),
    }
}

/// A base-128 number of at most 64 bits; nearly all have one byte.
#[inline]
fn varint(input: &[u8]) -> IResult<&[u8], u64> {
    match input.split_first() {
        Some((first, rest)) if first & 0x80 == 0 => Ok((rest, u64::from(*first))),
        _ => long_varint(input),
    }
}

fn long_varint(input: &[u8]) -> IResult<&[u8], u64> {
    let mut value = 0;
    for (place, byte) in (0_u32..).zip(input) {
        // The tenth byte has room for a single bit.
        if place > 9 || (place == 9 && *byte > 1) {
            return refuse(input, ErrorKind::TooLarge);
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok((input.get(place as usize + 1..).unwrap_or(&[]), value));
        }
    }
    refuse(input, ErrorKind::Eof)
}

#[cold]
fn refuse<T>(input: &[u8], code: ErrorKind) -> IResult<&[u8], T> {
    Err(Err::Error(Error::new(input, code)))
}
