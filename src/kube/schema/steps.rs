//! The table of types once more, as short as looking through objects needs it: for each field number of a type, what may stand
//! there on the wire and what is to be looked into.
//!
//! What is not as nearly every API server writes it (packed numbers, groups, a field of another wire type, maps of numbers) fits no
//! step: who meets it asks [`super::sound`], which knows all of it.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::PROTOBUF;
use super::table::{Message, Slot, TABLE, Table, Target, Type};

/// The steps of the table that is built in.
pub(super) static STEPS: LazyLock<Steps> = LazyLock::new(|| Steps::of(&TABLE));

/// What may stand in a field. Numbers are those of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is no field of the type: anything.
    Any,
    /// More than can be said here: nothing fits.
    Careful,
    /// A number or a truth value.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// Four bytes.
    Fixed32,
    /// Bytes that nobody looks into.
    Bytes,
    /// A message of a type.
    Message(u32),
    /// A message of which nothing counts but that it has fields.
    Fields,
    /// An entry of a map of strings or bytes.
    BytesByName,
    /// An entry of a map of messages of which nothing counts but that they have fields.
    FieldsByName,
    /// An entry of a map of messages of a type.
    MessageByName(u32),
}

/// What may stand in the field of this number.
#[inline]
pub(super) fn step(steps: &[Step], number: u32) -> Step {
    steps.get(number as usize).copied().unwrap_or(Step::Any)
}

/// A kind, and how its objects begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    /// Everything up to the object itself: magic, `apiVersion` and `kind`.
    pub(super) head: &'static [u8],
    /// The kind.
    pub(super) kind: &'static str,
    /// The type of its objects.
    pub(super) ty: u32,
}

/// All types.
#[derive(Debug, Default)]
pub(super) struct Steps {
    types: Vec<Vec<Step>>,
    kinds: HashMap<&'static [u8], Begin>,
}

impl Steps {
    /// What may stand in the fields of a type, by their numbers; anything in those that are not among them.
    #[inline]
    pub(super) fn of_type(&self, ty: u32) -> &[Step] {
        self.types.get(ty as usize).map_or(&[], Vec::as_slice)
    }

    /// The kind of an object, by how it begins.
    pub(super) fn begin(&self, plain: &[u8]) -> Option<Begin> {
        // Magic, the field's number, and its length.
        let length = usize::from(*plain.get(PROTOBUF.len() + 1).filter(|length| **length < 0x80)?);
        self.kinds.get(plain.get(..PROTOBUF.len() + 2 + length)?).copied()
    }

    fn of(table: &'static Table) -> Self {
        let mut steps = Self { types: Vec::new(), kinds: HashMap::new() };
        steps.types.resize(table.messages().len(), Vec::new());
        for (number, message) in table.messages().iter().enumerate() {
            let first = steps.types.len();
            let more = message.lists().len().saturating_sub(1);
            steps.types.resize(first + more, Vec::new());
            let place = |list: usize| if list == 0 { number } else { first + list - 1 };
            for (list, targets) in message.lists().iter().enumerate() {
                let of_field = |target: &Target| of_target(message, *target, &place);
                let mut taken: Vec<Step> = targets.iter().map(of_field).collect();
                // No field has the number 0.
                taken.resize(taken.len().max(1), Step::Careful);
                taken[..1].fill(Step::Careful);
                if let Some(own) = steps.types.get_mut(place(list)) {
                    *own = taken;
                }
            }
        }
        for (api_version, kind, ty) in table.kinds() {
            if let Some(head) = head(api_version, kind) {
                let head: &'static [u8] = head.leak();
                steps.kinds.insert(head, Begin { head, kind, ty });
            }
        }
        steps
    }
}

/// How the objects of a kind begin, as every API server writes them.
fn head(api_version: &str, kind: &str) -> Option<Vec<u8>> {
    let mut meta = Vec::new();
    for (number, text) in [(1, api_version), (2, kind)] {
        meta.extend([number << 3 | 2, short(text.len())?]);
        meta.extend_from_slice(text.as_bytes());
    }
    let mut head = PROTOBUF.to_vec();
    head.extend([1 << 3 | 2, short(meta.len())?]);
    head.extend(meta);
    Some(head)
}

/// A length that takes one byte on the wire.
fn short(length: usize) -> Option<u8> {
    u8::try_from(length).ok().filter(|length| *length < 0x80)
}

fn of_target(message: &Message, target: Target, place: &impl Fn(usize) -> usize) -> Step {
    match target {
        Target::Unknown | Target::Hidden => Step::Any,
        Target::Inline(list) => u32::try_from(place(usize::from(list))).map_or(Step::Careful, Step::Message),
        Target::Slot(index) => message.slots.get(usize::from(index)).map_or(Step::Careful, of_slot),
    }
}

fn of_slot(slot: &Slot) -> Step {
    let by_name = slot.flags.map();
    match slot.ty {
        Type::Str | Type::Bytes if by_name => Step::BytesByName,
        Type::Str | Type::Bytes => Step::Bytes,
        Type::Message(number) if by_name => Step::MessageByName(number),
        Type::Message(number) => Step::Message(number),
        ty if ty.is_scalar() && by_name => Step::Careful,
        Type::Bool | Type::Signed | Type::Unsigned => Step::Varint,
        Type::Double => Step::Fixed64,
        Type::Float => Step::Fixed32,
        Type::Time
        | Type::MicroTime
        | Type::Duration
        | Type::Quantity
        | Type::IntOrString
        | Type::RawExtension
        | Type::RawJson => match by_name {
            true => Step::FieldsByName,
            false => Step::Fields,
        },
    }
}
