//! Storage protobuf to JSON, straight into the output: one walk for each message, with the table as its guide.
//!
//! Fields come in the order of their numbers and leave in the order of their names. So a message is scanned once, each field
//! noted with the slot to which it leads; the notes are sorted, and each slot is written from its own. Fields that nothing is
//! known of are shown under `$unknown`, with number and bytes.
//!
//! What is left out and what is null follows Go: a list, map or pointer that is not there is null unless its tag
//! says `omitempty`; a number or string that is zero is left out if it does. What is never missing on the wire (no pointer,
//! list or map) and yet is missing was not known to the release that wrote it, and is left out.

use super::special::{self, Precision};
use super::table::{Form, Message, Slot, TABLE, Target, Trim, Type};
use super::wire::{Fault, Fields, Value, varint};
use super::write::{base64, float, integer, number, string};
use super::{Dress, Layout, PROTOBUF, UNKNOWN};
use crate::kube::document::Document;

/// Messages in messages deeper than this are refused; types of Kubernetes hardly reach 20.
pub(super) const MAX_DEPTH: usize = 100;

/// Few objects have more fields in one message and all that it lies in.
const USUAL_FIELDS: usize = 64;

/// The slot of what is not known; it comes first.
const NO_SLOT: u32 = 0;

/// A field that was met.
#[derive(Clone, Copy)]
struct Met<'p> {
    /// One more than the slot's index.
    slot: u32,
    order: u32,
    number: u32,
    /// The number of the inlined struct in which an unknown field lay.
    within: u32,
    value: Value<'p>,
}

/// Some of the fields that were met, by their places on the stack.
#[derive(Clone, Copy)]
struct Group {
    start: usize,
    end: usize,
}

/// What a message is to the object.
#[derive(Clone, Copy)]
enum Role<'p> {
    /// The object itself, with its apiVersion and kind.
    Object(&'p str, &'p str),
    /// Its metadata.
    Metadata,
    /// Any other part.
    Part,
}

/// Whether and how a slot is written.
enum Shown {
    No,
    Null,
    Yes,
}

pub(super) struct Walker<'p, 'o> {
    out: &'o mut Vec<u8>,
    dress: &'o Dress,
    /// That of the value that is being written.
    layout: Layout,
    stack: Vec<Met<'p>>,
    /// Unknown fields that were shown.
    pub(super) unknown: u64,
    /// Whether the kind is in the table.
    pub(super) known_kind: bool,
}

impl<'p, 'o> Walker<'p, 'o> {
    pub(super) fn new(dress: &'o Dress, out: &'o mut Vec<u8>) -> Self {
        Self { out, dress, layout: dress.layout, stack: Vec::with_capacity(USUAL_FIELDS), unknown: 0, known_kind: true }
    }

    /// Writes the object of an envelope, magic included.
    pub(super) fn envelope(&mut self, plain: &'p [u8], depth: usize) -> Result<(), Fault<'p>> {
        let body = plain.strip_prefix(PROTOBUF).ok_or(Fault { at: plain, what: "no envelope" })?;
        let (mut type_meta, mut raw): (&[u8], Option<&[u8]>) = (&[], None);
        let mut is_json = false;
        for field in Fields(body) {
            match field? {
                (1, Value::Bytes(bytes)) => type_meta = bytes,
                (2, Value::Bytes(bytes)) => raw = Some(bytes),
                (3, Value::Bytes(encoding)) if !encoding.is_empty() => {
                    return Err(Fault { at: encoding, what: "a content encoding that nobody writes" });
                }
                (4, Value::Bytes(content_type)) => is_json = content_type.starts_with(b"application/json"),
                _ => {}
            }
        }
        let raw = raw.ok_or(Fault { at: body, what: "no object in the envelope" })?;
        if is_json {
            let document = Document::parse(raw).map_err(|fault| Fault { at: raw, what: fault.what })?;
            super::json::dressed(document.root(), self.dress, self.layout, self.out);
            return Ok(());
        }
        let (mut api_version, mut kind) = ("", "");
        for field in Fields(type_meta) {
            match field? {
                (1, Value::Bytes(bytes)) => api_version = text(bytes)?,
                (2, Value::Bytes(bytes)) => kind = text(bytes)?,
                _ => {}
            }
        }
        let known = TABLE.kind(api_version, kind);
        self.known_kind &= known.is_some();
        let message = known.or(TABLE.any()).ok_or(Fault { at: plain, what: "no table of types" })?;
        let group = self.push(Value::Bytes(raw));
        self.message(message, group, depth, Role::Object(api_version, kind))?;
        self.stack.truncate(group.start);
        Ok(())
    }

    /// Puts a value on the stack as a group of its own.
    fn push(&mut self, value: Value<'p>) -> Group {
        let start = self.stack.len();
        self.stack.push(Met { slot: NO_SLOT, order: 0, number: 0, within: 0, value });
        Group { start, end: start + 1 }
    }

    fn last(&self, group: Group) -> Value<'p> {
        let last = group.end.checked_sub(1).and_then(|last| self.stack.get(last));
        last.map_or(Value::Bytes(&[]), |met| met.value)
    }

    fn last_bytes(&self, group: Group) -> &'p [u8] {
        match self.last(group) {
            Value::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    /// Writes a message, whose bytes may come in several parts, as protobuf allows it.
    fn message(
        &mut self,
        message: &'static Message,
        parts: Group,
        depth: usize,
        role: Role<'p>,
    ) -> Result<(), Fault<'p>> {
        if depth > MAX_DEPTH {
            return Err(Fault { at: self.last_bytes(parts), what: "nested too deeply" });
        }
        let start = self.stack.len();
        let mut retired = false;
        for part in parts.start..parts.end {
            if let Some(Met { value: Value::Bytes(bytes), .. }) = self.stack.get(part).copied() {
                retired |= self.scan(message, 0, bytes, (0, start))?;
            }
        }
        if let Some(met) = self.stack.get_mut(start..) {
            met.sort_unstable_by_key(|met| (met.slot, met.order));
        }
        match message.form {
            Form::Plain => self.object(message, start, retired, depth, role)?,
            Form::Wrapper => self.wrapper(message, start, depth)?,
            Form::Either => self.either(message, start, depth)?,
        }
        self.stack.truncate(start);
        Ok(())
    }

    /// Notes the fields of a message or inlined struct. Says whether one was among them that only older releases write.
    fn scan(
        &mut self,
        message: &'static Message,
        list: u16,
        bytes: &'p [u8],
        (within, start): (u32, usize),
    ) -> Result<bool, Fault<'p>> {
        let mut retired = false;
        for field in Fields(bytes) {
            let (number, value) = field?;
            let slot = match (message.target(list, number), value) {
                (Target::Hidden, _) => continue,
                (Target::Inline(inlined), Value::Bytes(bytes)) => {
                    self.scan(message, inlined, bytes, (number, start))?;
                    continue;
                }
                (Target::Slot(index), value) => {
                    let slot = message.slots.get(usize::from(index)).filter(|slot| slot.fits(value));
                    retired |= slot.is_some_and(|slot| slot.flags.retired());
                    slot.map_or(NO_SLOT, |_| u32::from(index) + 1)
                }
                _ => NO_SLOT,
            };
            let order = u32::try_from(self.stack.len() - start).unwrap_or(u32::MAX);
            self.stack.push(Met { slot, order, number, within, value });
        }
        Ok(retired)
    }

    /// The group at the cursor that belongs to a slot.
    fn group(&self, start: usize, slot: u32) -> Group {
        let met = self.stack.get(start..).unwrap_or_default();
        let length = met.iter().take_while(|met| met.slot == slot).count();
        Group { start, end: start + length }
    }

    fn object(
        &mut self,
        message: &'static Message,
        start: usize,
        retired: bool,
        depth: usize,
        role: Role<'p>,
    ) -> Result<(), Fault<'p>> {
        let end = self.stack.len();
        let opening = self.open(b'{');
        let mut group = self.group(start, NO_SLOT);
        if group.start < group.end {
            self.name(UNKNOWN, opening);
            self.unknown_list(group);
        }
        let mut type_meta: &[(&str, &str)] = match &role {
            Role::Object(api_version, kind) => &[("apiVersion", *api_version), ("kind", *kind)],
            _ => &[],
        };
        for (slot, number) in message.slots.iter().zip(1..) {
            group = self.group(group.end.min(end), number);
            while let Some(((name, value), rest)) = type_meta.split_first().filter(|((name, _), _)| *name < slot.name) {
                self.name(name, opening);
                string(value.as_bytes(), self.out);
                type_meta = rest;
            }
            if slot.trim != Trim::None && matches!(role, Role::Metadata) && self.dressed(slot, opening) {
                continue;
            }
            if group.start == group.end && !slot.null {
                continue;
            }
            match self.shown(slot, group, retired)? {
                Shown::No => {}
                Shown::Null => {
                    self.name(slot.name, opening);
                    self.out.extend_from_slice(b"null");
                }
                Shown::Yes => {
                    self.name(slot.name, opening);
                    let role = match role {
                        Role::Object(..) if slot.name == "metadata" => Role::Metadata,
                        _ => Role::Part,
                    };
                    self.value(slot, group, depth, role)?;
                }
            }
        }
        for (name, value) in type_meta {
            self.name(name, opening);
            string(value.as_bytes(), self.out);
        }
        self.close(opening, b'}');
        Ok(())
    }

    /// Writes what the metadata is dressed with instead of what was stored; true if the slot is done with.
    fn dressed(&mut self, slot: &Slot, opening: usize) -> bool {
        match slot.trim {
            Trim::ManagedFields => !self.dress.managed_fields,
            Trim::ResourceVersion => {
                let Some(revision) = self.dress.resource_version else { return false };
                self.name(slot.name, opening);
                self.out.push(b'"');
                integer(self.out, revision);
                self.out.push(b'"');
                true
            }
            Trim::None => false,
        }
    }

    /// Begins an object or list, and gives the place behind its bracket.
    fn open(&mut self, bracket: u8) -> usize {
        self.out.push(bracket);
        self.layout = self.layout.inner();
        self.out.len()
    }

    /// Ends an object or list. Where a fault comes before that nothing of what was written is used.
    fn close(&mut self, opening: usize, bracket: u8) {
        self.layout = self.layout.outer();
        self.layout.close(opening, bracket, self.out);
    }

    /// Writes a key of the object that opened at a place. No name in the table has anything to be escaped.
    fn name(&mut self, name: &str, opening: usize) {
        self.comma(opening);
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'"');
        self.layout.colon(self.out);
    }

    fn shown(&self, slot: &Slot, group: Group, retired: bool) -> Result<Shown, Fault<'p>> {
        let flags = slot.flags;
        if group.start == group.end {
            return Ok(if slot.null { Shown::Null } else { Shown::No });
        }
        if flags.pointer() || flags.repeated() || flags.map() {
            return Ok(Shown::Yes);
        }
        let value = self.last(group);
        let is_empty = match slot.ty {
            Type::Str | Type::Bytes => value == Value::Bytes(&[]),
            Type::Message(_) if slot.wrapper => value == Value::Bytes(&[]),
            Type::Bool | Type::Signed | Type::Unsigned | Type::Double | Type::Float => is_zero(value),
            _ => false,
        };
        if flags.omit_empty() && is_empty {
            return Ok(Shown::No);
        }
        if flags.omit_zero() && is_zero_struct(value, MAX_DEPTH)? {
            // Releases that still wrote a field that is gone now did not leave zeros out, either.
            return Ok(if retired { Shown::Yes } else { Shown::No });
        }
        Ok(Shown::Yes)
    }

    /// Writes a slot's value.
    fn value(&mut self, slot: &Slot, group: Group, depth: usize, role: Role<'p>) -> Result<(), Fault<'p>> {
        if slot.flags.map() {
            return self.map(slot.ty, group, depth);
        }
        if !slot.flags.repeated() {
            return self.single(slot.ty, group, depth, role);
        }
        let opening = self.open(b'[');
        for place in group.start..group.end {
            let one = Group { start: place, end: place + 1 };
            match self.last(one) {
                Value::Bytes(packed) if slot.ty.is_scalar() => self.packed(slot.ty, packed, opening)?,
                _ => {
                    self.comma(opening);
                    self.single(slot.ty, one, depth, Role::Part)?;
                }
            }
        }
        self.close(opening, b']');
        Ok(())
    }

    /// Goes on to the next member or item of what opened at a place.
    fn comma(&mut self, opening: usize) {
        self.layout.next(opening, self.out);
    }

    /// Numbers one after the other in one field.
    fn packed(&mut self, ty: Type, bytes: &'p [u8], opening: usize) -> Result<(), Fault<'p>> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let cut = Fault { at: rest, what: "cut off" };
            let value = match ty {
                Type::Double => {
                    let (bytes, after) = rest.split_first_chunk().ok_or(cut)?;
                    rest = after;
                    Value::Fixed64(u64::from_le_bytes(*bytes))
                }
                Type::Float => {
                    let (bytes, after) = rest.split_first_chunk().ok_or(cut)?;
                    rest = after;
                    Value::Fixed32(u32::from_le_bytes(*bytes))
                }
                _ => {
                    let (value, after) = varint(rest).map_err(|what| Fault { at: rest, what })?;
                    rest = after;
                    Value::Varint(value)
                }
            };
            self.comma(opening);
            self.scalar(ty, value);
        }
        Ok(())
    }

    fn scalar(&mut self, ty: Type, value: Value<'p>) {
        match (ty, value) {
            (Type::Bool, Value::Varint(value)) => {
                self.out.extend_from_slice(if value == 0 { b"false" } else { b"true" });
            }
            (Type::Signed, Value::Varint(value)) => integer(self.out, value.cast_signed()),
            (_, Value::Varint(value)) => number(self.out, value),
            (_, Value::Fixed64(value)) => float(self.out, f64::from_bits(value)),
            (_, Value::Fixed32(value)) => float(self.out, f64::from(f32::from_bits(value))),
            (Type::Bytes, Value::Bytes(bytes)) => base64(bytes, self.out),
            (_, Value::Bytes(bytes)) => string(bytes, self.out),
        }
    }

    /// Writes one value; of a message all parts of the group, of anything else the last one.
    fn single(&mut self, ty: Type, group: Group, depth: usize, role: Role<'p>) -> Result<(), Fault<'p>> {
        let start = self.out.len();
        let bytes = self.last_bytes(group);
        let is_understood = match ty {
            Type::Message(message) => {
                let message = TABLE.message(message).ok_or(Fault { at: bytes, what: "no such type in the table" })?;
                return self.message(message, group, depth + 1, role);
            }
            Type::Time => special::time(bytes, Precision::Second, self.out)?,
            Type::MicroTime => special::time(bytes, Precision::Microsecond, self.out)?,
            Type::Duration => special::duration(bytes, self.out)?,
            Type::Quantity => special::quantity(bytes, self.out)?,
            Type::IntOrString => special::int_or_string(bytes, self.out)?,
            Type::RawExtension | Type::RawJson => self.raw(ty, bytes, depth)?,
            _ => {
                self.scalar(ty, self.last(group));
                true
            }
        };
        if !is_understood {
            self.out.truncate(start);
            self.unknown_message(bytes)?;
        }
        Ok(())
    }

    /// Writes what `{1: raw}` holds: JSON, or an object in an envelope of its own.
    fn raw(&mut self, ty: Type, message: &'p [u8], depth: usize) -> Result<bool, Fault<'p>> {
        let mut raw = None;
        for field in Fields(message) {
            match field? {
                (1, Value::Bytes(bytes)) => raw = Some(bytes),
                _ => return Ok(false),
            }
        }
        let Some(raw) = raw else {
            self.out.extend_from_slice(b"null");
            return Ok(true);
        };
        if ty == Type::RawExtension && raw.starts_with(PROTOBUF) {
            let dress = self.dress;
            self.dress = &Dress::STORED;
            let nested = self.envelope(raw, depth + 1);
            self.dress = dress;
            return nested.map(|()| true);
        }
        match Document::parse(raw) {
            Ok(document) => document.root().write_laid_out(self.layout, self.out),
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    fn map(&mut self, ty: Type, group: Group, depth: usize) -> Result<(), Fault<'p>> {
        let mut entries: Vec<(&'p [u8], Option<Value<'p>>)> = Vec::with_capacity(group.end - group.start);
        for place in group.start..group.end {
            let bytes = self.last_bytes(Group { start: place, end: place + 1 });
            entries.push(entry(bytes)?);
        }
        // Later entries of one key come first, so that those are kept.
        entries.reverse();
        entries.sort_by_key(|(key, _)| *key);
        entries.dedup_by_key(|(key, _)| *key);
        let opening = self.open(b'{');
        for (key, value) in entries {
            self.comma(opening);
            string(key, self.out);
            self.layout.colon(self.out);
            let group = self.push(value.unwrap_or(if ty.is_scalar() { Value::Varint(0) } else { Value::Bytes(&[]) }));
            self.single(ty, group, depth, Role::Part)?;
            self.stack.truncate(group.start);
        }
        self.close(opening, b'}');
        Ok(())
    }

    /// Writes a list or map that is a message of its own.
    fn wrapper(&mut self, message: &'static Message, start: usize, depth: usize) -> Result<(), Fault<'p>> {
        let unknown = self.group(start, NO_SLOT);
        let items = Group { start: unknown.end, end: self.stack.len() };
        let Some(slot) = message.slots.first().filter(|_| unknown.start == unknown.end) else {
            self.unknown_object(Group { start, end: self.stack.len() });
            return Ok(());
        };
        self.value(slot, items, depth, Role::Part)
    }

    /// Writes field 2 if it is there, else field 1.
    fn either(&mut self, message: &'static Message, start: usize, depth: usize) -> Result<(), Fault<'p>> {
        let all = Group { start, end: self.stack.len() };
        let met = self.stack.get(start..).unwrap_or_default();
        if met.iter().any(|met| met.slot == NO_SLOT) {
            self.unknown_object(all);
            return Ok(());
        }
        let number = if met.iter().any(|met| met.number == 2) { 2 } else { 1 };
        let first = met.iter().position(|met| met.number == number);
        let count = met.iter().filter(|met| met.number == number).count();
        let slot = match message.target(0, number) {
            Target::Slot(index) => message.slots.get(usize::from(index)),
            _ => None,
        };
        match (first, slot) {
            (Some(first), Some(slot)) => {
                let group = Group { start: start + first, end: start + first + count };
                self.value(slot, group, depth, Role::Part)
            }
            _ => {
                self.out.extend_from_slice(b"null");
                Ok(())
            }
        }
    }

    /// Shows a message of which too little is known as an object of unknown fields.
    fn unknown_message(&mut self, bytes: &'p [u8]) -> Result<(), Fault<'p>> {
        let start = self.stack.len();
        for field in Fields(bytes) {
            let (number, value) = field?;
            self.stack.push(Met { slot: NO_SLOT, order: 0, number, within: 0, value });
        }
        self.unknown_object(Group { start, end: self.stack.len() });
        self.stack.truncate(start);
        Ok(())
    }

    fn unknown_object(&mut self, group: Group) {
        let opening = self.open(b'{');
        self.name(UNKNOWN, opening);
        self.unknown_list(group);
        self.close(opening, b'}');
    }

    fn unknown_list(&mut self, group: Group) {
        let list = self.open(b'[');
        for place in group.start..group.end {
            let Some(met) = self.stack.get(place).copied() else { continue };
            self.unknown += 1;
            self.comma(list);
            let opening = self.open(b'{');
            self.name("field", opening);
            number(self.out, met.number);
            self.name("type", opening);
            let (ty, value) = match met.value {
                Value::Varint(value) => ("varint", Ok(value)),
                Value::Fixed64(value) => ("fixed64", Ok(value)),
                Value::Fixed32(value) => ("fixed32", Ok(u64::from(value))),
                Value::Bytes(bytes) => ("bytes", Err(bytes)),
            };
            string(ty.as_bytes(), self.out);
            self.name("value", opening);
            match value {
                Ok(value) => number(self.out, value),
                Err(bytes) => base64(bytes, self.out),
            }
            if met.within > 0 {
                self.name("within", opening);
                number(self.out, met.within);
            }
            self.close(opening, b'}');
        }
        self.close(list, b']');
    }
}

fn text(bytes: &[u8]) -> Result<&str, Fault<'_>> {
    std::str::from_utf8(bytes).map_err(|_| Fault { at: bytes, what: "no UTF-8" })
}

/// Key and value of a map's entry.
fn entry(bytes: &[u8]) -> Result<(&[u8], Option<Value<'_>>), Fault<'_>> {
    let (mut key, mut value): (&[u8], _) = (&[], None);
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(bytes)) => key = bytes,
            (2, given) => value = Some(given),
            _ => return Err(Fault { at: bytes, what: "an entry of a map with more than key and value" }),
        }
    }
    Ok((key, value))
}

fn is_zero(value: Value<'_>) -> bool {
    match value {
        Value::Varint(value) | Value::Fixed64(value) => value == 0,
        Value::Fixed32(value) => value == 0,
        Value::Bytes(bytes) => bytes.is_empty(),
    }
}

/// Whether a struct is zero: nothing in it but zeros, however deep.
fn is_zero_struct(value: Value<'_>, depth: usize) -> Result<bool, Fault<'_>> {
    let Value::Bytes(bytes) = value else { return Ok(is_zero(value)) };
    for field in Fields(bytes) {
        let (_, value) = field?;
        if depth == 0 || (!is_zero(value) && !matches!(value, Value::Bytes(_))) {
            return Ok(false);
        }
        // Text that is not empty is no message of zeros but by chance, and then it is no message.
        if matches!(value, Value::Bytes(bytes) if !bytes.is_empty())
            && !is_zero_struct(value, depth - 1).unwrap_or(false)
        {
            return Ok(false);
        }
    }
    Ok(true)
}
