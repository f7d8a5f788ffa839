//! Whether the API server's generated decoder would take a stored object, to the last byte of its last field.
//!
//! AES-CBC proves nothing about what it opens: one flipped bit turns a block into noise and leaves the rest as it was. What
//! hits a string is just another string; what hits a length or a tag makes an object that no API server reads any more.
//! This follows the table of types down to such places, and writes nothing. Fields and kinds that the table doesn't have are
//! passed over, as the decoder does.
//!
//! Upstream: the `Unmarshal` methods of the `generated.pb.go` files in `k8s.io/api` and `k8s.io/apimachinery`.

use std::cell::Cell;

use super::PROTOBUF;
use super::table::{Kind, Message, Slot, TABLE, Target, Type};
use super::walk::MAX_DEPTH;
use super::wire::{Fault, Fields, Value, number, varint};

/// Looks through the object of an envelope, magic included.
pub(super) fn envelope(plain: &[u8]) -> Result<(), Fault<'_>> {
    let body = plain.strip_prefix(PROTOBUF).ok_or(Fault { at: plain, what: "no envelope" })?;
    let (mut type_meta, mut raw, mut other): (&[u8], &[u8], _) = (&[], &[], false);
    for field in Fields(body) {
        match field? {
            (1, Value::Bytes(bytes)) => type_meta = bytes,
            (2, Value::Bytes(bytes)) => raw = bytes,
            // Another encoding or type of content is no message.
            (3 | 4, Value::Bytes(bytes)) => other |= !bytes.is_empty(),
            _ => {}
        }
    }
    if other {
        return Ok(());
    }
    let (mut api_version, mut kind) = ("", "");
    for field in Fields(type_meta) {
        match field? {
            (1, Value::Bytes(bytes)) => api_version = std::str::from_utf8(bytes).unwrap_or_default(),
            (2, Value::Bytes(bytes)) => kind = std::str::from_utf8(bytes).unwrap_or_default(),
            _ => {}
        }
    }
    match of_kind(api_version, kind).or(TABLE.any()) {
        Some(known) => message(known, 0, raw, 0),
        None => Ok(()),
    }
}

thread_local! {
    /// The kind that was looked up last: neighbours in a store are mostly of one kind.
    static LAST: Cell<Option<Kind<'static>>> = const { Cell::new(None) };
}

/// The type of a kind.
fn of_kind(api_version: &str, kind: &str) -> Option<&'static Message> {
    let last = LAST.get().filter(|last| last.kind == kind && last.api_version == api_version);
    let found = last.or_else(|| TABLE.named(api_version, kind))?;
    LAST.set(Some(found));
    Some(found.message)
}

/// The fields of a message, or of a struct that is inlined into it.
fn message<'p>(known: &'static Message, list: u16, bytes: &'p [u8], depth: usize) -> Result<(), Fault<'p>> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    let mut left = bytes;
    while !left.is_empty() {
        let mut fields = Fields(left);
        let Some(Ok((number, given))) = fields.next() else {
            let (tag, _) = varint(left).map_err(|what| Fault { at: left, what })?;
            number(tag).ok_or(Fault { at: left, what: "no protobuf field" })?;
            left = skip(left)?;
            continue;
        };
        left = fields.0;
        let wrong = Fault { at: bytes, what: "wrong wire type" };
        match (known.target(list, number), given) {
            (Target::Unknown | Target::Hidden, _) => {}
            (Target::Inline(inlined), Value::Bytes(inner)) => message(known, inlined, inner, depth + 1)?,
            (Target::Inline(_), _) => return Err(wrong),
            (Target::Slot(index), given) => {
                let Some(slot) = known.slots.get(usize::from(index)) else { continue };
                match slot.fits(given) {
                    true => value(slot, given, bytes, depth)?,
                    // To a release that has no such field any more it is nothing to stumble over.
                    false if slot.flags.retired() => {}
                    false => return Err(wrong),
                }
            }
        }
    }
    Ok(())
}

/// What no field of the type is, to its end: upstream takes any number there, and groups.
fn skip(input: &[u8]) -> Result<&[u8], Fault<'_>> {
    let cut = Fault { at: input, what: "cut off" };
    let (mut left, mut groups) = (input, 0_usize);
    loop {
        let (tag, after) = varint(left).map_err(|what| Fault { at: left, what })?;
        left = match tag & 7 {
            0 => varint(after).map_err(|what| Fault { at: after, what })?.1,
            1 => after.get(8..).ok_or(cut)?,
            2 => sized(after)?.1,
            3 => {
                groups += 1;
                after
            }
            4 if groups > 0 => {
                groups -= 1;
                after
            }
            5 => after.get(4..).ok_or(cut)?,
            _ => return Err(Fault { at: left, what: "no protobuf field" }),
        };
        if groups == 0 {
            return Ok(left);
        }
    }
}

fn value<'p>(slot: &Slot, given: Value<'p>, message: &'p [u8], depth: usize) -> Result<(), Fault<'p>> {
    match given {
        Value::Bytes(bytes) if slot.flags.map() => {
            let rest = message.get(super::offset(message, bytes)..).unwrap_or(bytes);
            entry(slot.ty, rest, bytes.len(), depth)
        }
        Value::Bytes(bytes) => content(slot.ty, bytes, depth),
        _ => Ok(()),
    }
}

/// Key and value of a map's entry, `length` bytes long. Upstream holds the lengths in it against the end of the message around
/// it and does not look at the wire types of its two fields.
fn entry(ty: Type, rest: &[u8], length: usize, depth: usize) -> Result<(), Fault<'_>> {
    let mut left = rest;
    while rest.len() - left.len() < length {
        let (tag, after) = varint(left).map_err(|what| Fault { at: left, what })?;
        left = match tag >> 3 {
            1 => sized(after)?.1,
            2 if !ty.is_scalar() => {
                let (bytes, after) = sized(after)?;
                content(ty, bytes, depth)?;
                after
            }
            _ => skip(left)?,
        };
    }
    Ok(())
}

/// Bytes behind their length, and what follows them.
fn sized(input: &[u8]) -> Result<(&[u8], &[u8]), Fault<'_>> {
    let (length, rest) = varint(input).map_err(|what| Fault { at: input, what })?;
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    split.ok_or(Fault { at: input, what: "cut off" })
}

/// What is length-delimited.
fn content(ty: Type, bytes: &[u8], depth: usize) -> Result<(), Fault<'_>> {
    match ty {
        Type::Message(number) => match TABLE.message(number) {
            Some(known) => message(known, 0, bytes, depth + 1),
            None => Ok(()),
        },
        Type::Time
        | Type::MicroTime
        | Type::Duration
        | Type::Quantity
        | Type::IntOrString
        | Type::RawExtension
        | Type::RawJson => {
            let mut left = bytes;
            while !left.is_empty() {
                left = skip(left)?;
            }
            Ok(())
        }
        Type::Str | Type::Bytes | Type::Bool | Type::Signed | Type::Unsigned | Type::Double | Type::Float => Ok(()),
    }
}
