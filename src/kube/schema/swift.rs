//! Whether a plaintext proves at once that it is the object which its key names: one walk over what nearly every stored object is.
//!
//! It says yes only to what [`payload::identify`](crate::kube::payload::identify), [`payload::mismatch`] and
//! [`super::look_through`] have nothing to say against, and makes nothing of what it reads. What it does not say yes to may be as
//! good: those tell. Every value that opens comes here, and beside its cipher this is most of what judging one costs.
//!
//! [`payload::mismatch`]: crate::kube::payload::mismatch

use std::cell::Cell;

use crate::kube::key::ObjectKey;

use super::steps::{Begin, STEPS, Step, Steps, step};
use super::walk::MAX_DEPTH;

/// The object in an envelope.
const RAW: u8 = 2 << 3 | 2;
/// How every envelope ends: no encoding and no type of content.
const END: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// Where every object has its metadata, and those the fields that count here.
const METADATA: u32 = 1;
const NAME: u32 = 1;
const NAMESPACE: u32 = 3;
const UID: u32 = 5;
/// The last field of an object's metadata that any release has.
const LAST_OF_METADATA: u32 = 17;

thread_local! {
    /// The kind that was met last: neighbours in a store are mostly of one kind.
    static LAST: Cell<Option<Begin>> = const { Cell::new(None) };
}

/// How far objects are looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// To the fields of the object and of its metadata.
    Fields,
    /// To the last field of the last message.
    All,
}

/// Whether `plain` is the object that `key` names, whole and sound. No means nothing.
pub fn proves(plain: &[u8], key: &ObjectKey<'_>, depth: Depth) -> bool {
    let steps: &Steps = &STEPS;
    let walk = Walk { steps, depth };
    begin(steps, plain).is_some_and(|begin| key.kind == Some(begin.kind) && walk.envelope(plain, &begin, key).is_some())
}

fn begin(steps: &Steps, plain: &[u8]) -> Option<Begin> {
    if let Some(last) = LAST.get().filter(|last| plain.starts_with(last.head)) {
        return Some(last);
    }
    let found = steps.begin(plain)?;
    LAST.set(Some(found));
    Some(found)
}

struct Walk<'w> {
    steps: &'w Steps,
    depth: Depth,
}

/// A field's content.
enum Content<'p> {
    Varint,
    Fixed64,
    Fixed32,
    Bytes(&'p [u8]),
}

impl Walk<'_> {
    fn envelope(&self, plain: &[u8], begin: &Begin, key: &ObjectKey<'_>) -> Option<()> {
        let (first, rest) = plain.strip_prefix(begin.head)?.split_first()?;
        let (raw, end) = sized(rest)?;
        if *first != RAW || end != END {
            return None;
        }
        let steps = self.steps.of_type(begin.ty);
        let mut metadata = false;
        let mut rest = raw;
        while !rest.is_empty() {
            let (number, content, behind) = field(rest)?;
            rest = behind;
            match (number, content, step(steps, number)) {
                (METADATA, Content::Bytes(bytes), Step::Message(ty)) if !metadata => {
                    self.metadata(ty, bytes, key)?;
                    metadata = true;
                }
                (METADATA, ..) => return None,
                (_, content, step) => self.content(step, content, 0)?,
            }
        }
        metadata.then_some(())
    }

    fn metadata(&self, ty: u32, message: &[u8], key: &ObjectKey<'_>) -> Option<()> {
        let steps = self.steps.of_type(ty);
        let (mut name, mut namespace, mut uid) = (None, None, None);
        let mut rest = message;
        while !rest.is_empty() {
            let (number, content, behind) = field(rest)?;
            rest = behind;
            let seen = match number {
                NAME => &mut name,
                NAMESPACE => &mut namespace,
                UID => &mut uid,
                _ => {
                    let step = step(steps, number);
                    if number <= LAST_OF_METADATA && step == Step::Any {
                        return None;
                    }
                    self.content(step, content, 1)?;
                    continue;
                }
            };
            let Content::Bytes(bytes) = content else { return None };
            if seen.replace(bytes).is_some() {
                return None;
            }
        }
        let namespace = namespace.unwrap_or_default() == key.namespace.unwrap_or_default().as_bytes();
        (namespace && name == Some(key.name.as_bytes()) && uid.is_some()).then_some(())
    }

    /// What a field holds must be what its type has there. `depth` counts the messages around it.
    #[inline(always)]
    fn content(&self, step: Step, content: Content<'_>, depth: usize) -> Option<()> {
        // Most are looked into no further, and are told here without a call.
        match (step, &content) {
            (Step::Bytes, Content::Bytes(_)) | (Step::Varint, Content::Varint) | (Step::Any, _) => Some(()),
            _ => self.inside(step, content, depth),
        }
    }

    fn inside(&self, step: Step, content: Content<'_>, depth: usize) -> Option<()> {
        match (step, content) {
            (Step::Fixed64, Content::Fixed64) | (Step::Fixed32, Content::Fixed32) => Some(()),
            (Step::Message(_) | Step::Fields, Content::Bytes(_)) if self.depth == Depth::Fields => Some(()),
            (Step::BytesByName | Step::FieldsByName | Step::MessageByName(_), Content::Bytes(_))
                if self.depth == Depth::Fields =>
            {
                Some(())
            }
            (Step::Message(ty), Content::Bytes(bytes)) => self.message(ty, bytes, depth + 1),
            (Step::Fields, Content::Bytes(bytes)) => pass(bytes),
            (Step::BytesByName, Content::Bytes(bytes)) => self.entry(Step::Bytes, bytes, depth),
            (Step::FieldsByName, Content::Bytes(bytes)) => self.entry(Step::Fields, bytes, depth),
            (Step::MessageByName(ty), Content::Bytes(bytes)) => self.entry(Step::Message(ty), bytes, depth),
            _ => None,
        }
    }

    fn message(&self, ty: u32, message: &[u8], depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let steps = self.steps.of_type(ty);
        let mut rest = message;
        while !rest.is_empty() {
            let (number, content, behind) = field(rest)?;
            rest = behind;
            self.content(step(steps, number), content, depth)?;
        }
        Some(())
    }

    /// A name and what is under it.
    fn entry(&self, value: Step, entry: &[u8], depth: usize) -> Option<()> {
        let mut rest = entry;
        while !rest.is_empty() {
            let (number, content, behind) = field(rest)?;
            rest = behind;
            let step = match number {
                1 => Step::Bytes,
                2 => value,
                _ => return None,
            };
            self.content(step, content, depth)?;
        }
        Some(())
    }
}

/// A message of which nothing counts but that it has fields.
fn pass(message: &[u8]) -> Option<()> {
    let mut rest = message;
    while !rest.is_empty() {
        (_, _, rest) = field(rest)?;
    }
    Some(())
}

/// A field, and what follows it. Numbers above 2047 are left to others.
#[inline(always)]
fn field(input: &[u8]) -> Option<(u32, Content<'_>, &[u8])> {
    let (tag, rest) = match input {
        [tag @ 8..0x80, rest @ ..] => (u32::from(*tag), rest),
        [low @ 0x80..=0xff, high @ 1..0x80, rest @ ..] => (u32::from(low & 0x7f) | u32::from(*high) << 7, rest),
        _ => return None,
    };
    let (content, rest) = match tag & 7 {
        0 => (Content::Varint, past_varint(rest)?),
        1 => (Content::Fixed64, rest.get(8..)?),
        2 => {
            let (bytes, rest) = sized(rest)?;
            (Content::Bytes(bytes), rest)
        }
        5 => (Content::Fixed32, rest.get(4..)?),
        _ => return None,
    };
    Some((tag >> 3, content, rest))
}

/// Bytes behind their length, and what follows them. Lengths of more than 28 bits are left to others.
#[inline(always)]
fn sized(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match input {
        [one @ ..0x80, rest @ ..] => (usize::from(*one), rest),
        [one, two @ ..0x80, rest @ ..] => (usize::from(one & 0x7f) | usize::from(*two) << 7, rest),
        _ => long(input)?,
    };
    rest.split_at_checked(length)
}

fn long(input: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0;
    for (place, byte) in (0..4).zip(input) {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((length, input.get(place + 1..)?));
        }
    }
    None
}

/// What follows a number of at most 63 bits, or a negative one.
#[inline]
fn past_varint(input: &[u8]) -> Option<&[u8]> {
    match input {
        [..0x80, rest @ ..] => Some(rest),
        [_, rest @ ..] => {
            let more = rest.iter().take(9).position(|byte| byte & 0x80 == 0)?;
            // The tenth byte has room for a single bit.
            let fits = more < 8 || rest.get(more).is_some_and(|byte| *byte <= 1);
            rest.get(more + 1..).filter(|_| fits)
        }
        [] => None,
    }
}
