//! The table of types: for each one that an API server stores, what its protobuf fields are in JSON.
//!
//! It is made by `tests/oracle/schema` out of the struct tags of Kubernetes' and OpenShift's published Go modules, and described in
//! `docs/formats/schema.md`. Reading it checks every number in it; what reads is then laid out for the walker: fields by
//! their numbers, names in the order of JSON's keys, inlined structs dissolved into those that hold them.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::wire::Value;

/// What `tests/oracle/schema` made.
static BYTES: &[u8] = include_bytes!("table.bin");

const MAGIC: &[u8] = b"atrestk8";

/// Field numbers are smaller than this.
const MAX_NUMBER: u64 = 4096;
/// Every stored object has its metadata in this field.
const METADATA: u32 = 1;
/// Structs are inlined into one another no deeper than this.
const MAX_INLINED: usize = 8;

/// The table that is built in.
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| Table::read(BYTES).unwrap_or_default());

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Str,
    Bytes,
    Bool,
    Signed,
    Unsigned,
    Double,
    Float,
    Message(u32),
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrString,
    RawExtension,
    RawJson,
}

impl Type {
    /// A number or a truth value: several of them may stand packed in one field.
    pub(super) fn is_scalar(self) -> bool {
        matches!(self, Self::Bool | Self::Signed | Self::Unsigned | Self::Double | Self::Float)
    }
}

/// What the JSON form of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// An object with the fields.
    Plain,
    /// That of its only field, `items`.
    Wrapper,
    /// That of field 2 if it is there, else that of field 1.
    Either,
}

/// Whether a field's JSON form is there when its value is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u64);

impl Flags {
    const POINTER: u64 = 1;
    const REPEATED: u64 = 2;
    const MAP: u64 = 4;
    const OMIT_EMPTY: u64 = 8;
    const OMIT_ZERO: u64 = 16;
    const INLINE: u64 = 32;
    const HIDDEN: u64 = 64;
    const RETIRED: u64 = 128;
    const ALL: u64 = 255;

    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// A pointer: on the wire only if it is set, and then shown whatever it points to.
    pub(super) fn pointer(self) -> bool {
        self.has(Self::POINTER)
    }

    /// A list.
    pub(super) fn repeated(self) -> bool {
        self.has(Self::REPEATED)
    }

    /// A map whose keys are strings.
    pub(super) fn map(self) -> bool {
        self.has(Self::MAP)
    }

    /// Left out when it is empty, as Go's `omitempty`.
    pub(super) fn omit_empty(self) -> bool {
        self.has(Self::OMIT_EMPTY)
    }

    /// Left out when it is zero, as Go's `omitzero`.
    pub(super) fn omit_zero(self) -> bool {
        self.has(Self::OMIT_ZERO)
    }

    /// Only older releases write it.
    pub(super) fn retired(self) -> bool {
        self.has(Self::RETIRED)
    }
}

/// One key of a JSON object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) name: &'static str,
    pub(super) ty: Type,
    pub(super) flags: Flags,
    /// Whether it holds a list or map that is a message of its own.
    pub(super) wrapper: bool,
    /// Whether it is null where it is not there.
    pub(super) null: bool,
    /// What an object's metadata can be dressed in.
    pub(super) trim: Trim,
}

/// What of an object's metadata is not always shown as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trim {
    None,
    ManagedFields,
    ResourceVersion,
}

impl Slot {
    /// Whether a value on the wire can be this slot's.
    pub(super) fn fits(&self, value: Value<'_>) -> bool {
        if self.flags.map() {
            return matches!(value, Value::Bytes(_));
        }
        match value {
            Value::Varint(_) => matches!(self.ty, Type::Bool | Type::Signed | Type::Unsigned),
            Value::Fixed64(_) => self.ty == Type::Double,
            Value::Fixed32(_) => self.ty == Type::Float,
            Value::Bytes(_) => !self.ty.is_scalar() || self.flags.repeated(),
        }
    }

    fn new(field: &RawField, raw: &[RawMessage]) -> Self {
        let RawField { name, ty, flags, .. } = *field;
        let wrapper = match ty {
            Type::Message(number) => raw.get(number as usize).is_some_and(|message| message.form == Form::Wrapper),
            _ => false,
        };
        let is_nil = flags.pointer() || flags.repeated() || flags.map() || ty == Type::Bytes || wrapper;
        // Whether a release that is gone would have written null, nobody can tell.
        let null = is_nil && !flags.omit_empty() && !flags.retired();
        let trim = match name {
            "managedFields" => Trim::ManagedFields,
            "resourceVersion" => Trim::ResourceVersion,
            _ => Trim::None,
        };
        Self { name, ty, flags, wrapper, null, trim }
    }
}

/// Where a field number leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// No release had it.
    Unknown,
    /// On the wire, but never in JSON.
    Hidden,
    /// To this slot.
    Slot(u16),
    /// Its fields stand among those of the message, by this list of targets.
    Inline(u16),
}

/// A type, laid out.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) form: Form,
    /// In the order of names.
    pub(super) slots: Vec<Slot>,
    /// By field number; the first list is that of the message itself, the others are those of inlined structs.
    targets: Vec<Vec<Target>>,
}

impl Message {
    /// Where field numbers lead, by number; the first list is that of the message itself, the others are those of inlined structs.
    pub(super) fn lists(&self) -> &[Vec<Target>] {
        &self.targets
    }

    /// Where a field number of one of the lists leads.
    pub(super) fn target(&self, list: u16, number: u32) -> Target {
        let list = self.targets.get(usize::from(list));
        list.and_then(|list| list.get(number as usize)).copied().unwrap_or(Target::Unknown)
    }
}

/// `apiVersion` and `kind`.
type Names = (&'static str, &'static str);

/// A kind, and the type of its objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind<'t> {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) message: &'t Message,
}

/// All types.
#[derive(Debug, Default)]
pub(super) struct Table {
    messages: Vec<Message>,
    /// What is known of an object of any kind: its metadata.
    any: Option<Message>,
    /// With each kind its own names once more: they outlive what is looked up.
    kinds: HashMap<Names, (Names, u32)>,
}

impl Table {
    /// The type of a kind.
    pub(super) fn kind(&self, api_version: &str, kind: &str) -> Option<&Message> {
        self.message(self.kinds.get(&(api_version, kind))?.1)
    }

    /// The same with the names that it has in the table.
    pub(super) fn named(&self, api_version: &str, kind: &str) -> Option<Kind<'_>> {
        let (own, number) = self.kinds.get(&(api_version, kind))?;
        Some(Kind { api_version: own.0, kind: own.1, message: self.message(*number)? })
    }

    /// The type of an object of which nothing but the metadata is known.
    pub(super) fn any(&self) -> Option<&Message> {
        self.any.as_ref()
    }

    /// All kinds: `apiVersion`, kind, and the number of the type.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, u32)> {
        self.kinds.values().map(|((api_version, kind), number)| (*api_version, *kind, *number))
    }

    /// All types by their numbers.
    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// A type by its number.
    pub(super) fn message(&self, number: u32) -> Option<&Message> {
        self.messages.get(number as usize)
    }

    /// Reads a table; none if any number in it is out of bounds.
    fn read(bytes: &'static [u8]) -> Option<Self> {
        let mut reader = Reader(bytes.strip_prefix(MAGIC)?);
        let count = reader.count()?;
        let strings = (0..count).map(|_| reader.string()).collect::<Option<Vec<_>>>()?;
        let count = reader.count()?;
        let raw = (0..count).map(|_| RawMessage::read(&mut reader, &strings, count)).collect::<Option<Vec<_>>>()?;
        let messages = (0..raw.len()).map(|number| lay_out(&raw, number)).collect::<Option<Vec<_>>>()?;
        let mut kinds = HashMap::new();
        for _ in 0..reader.count()? {
            let (api_version, kind) = (strings.get(reader.index()?)?, strings.get(reader.index()?)?);
            let message = reader.index()?;
            raw.get(message)?;
            let names = (*api_version, *kind);
            kinds.insert(names, (names, u32::try_from(message).ok()?));
        }
        let mut table = Self { messages, any: None, kinds };
        let metadata = table.kind("v1", "ConfigMap").and_then(|message| match message.target(0, METADATA) {
            Target::Slot(index) => message.slots.get(usize::from(index)),
            _ => None,
        });
        table.any = metadata.map(|slot| Message {
            form: Form::Plain,
            slots: vec![Slot { ..*slot }],
            targets: vec![vec![Target::Unknown, Target::Slot(0)]],
        });
        reader.0.is_empty().then_some(table)
    }
}

/// What is left to be read.
struct Reader(&'static [u8]);

impl Reader {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn index(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    /// How many things follow; each takes a byte at least.
    fn count(&mut self) -> Option<usize> {
        self.index().filter(|count| *count <= self.0.len())
    }

    fn string(&mut self) -> Option<&'static str> {
        let length = self.index()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(bytes).ok()
    }
}

struct RawField {
    number: usize,
    name: &'static str,
    ty: Type,
    flags: Flags,
}

struct RawMessage {
    form: Form,
    fields: Vec<RawField>,
}

impl RawMessage {
    fn read(reader: &mut Reader, strings: &[&'static str], messages: usize) -> Option<Self> {
        let form = match reader.number()? {
            0 => Form::Plain,
            1 => Form::Wrapper,
            2 => Form::Either,
            _ => return None,
        };
        let count = reader.count()?;
        let fields = (0..count).map(|_| RawField::read(reader, strings, messages)).collect::<Option<_>>()?;
        Some(Self { form, fields })
    }
}

impl RawField {
    fn read(reader: &mut Reader, strings: &[&'static str], messages: usize) -> Option<Self> {
        let number = reader.number().filter(|number| (1..MAX_NUMBER).contains(number))?;
        let name = strings.get(reader.index()?).filter(|name| !name.bytes().any(needs_escape))?;
        let ty = reader.number()?;
        let flags = Flags(reader.number().filter(|flags| *flags <= Flags::ALL)?);
        let ty = match ty {
            0 => Type::Str,
            1 => Type::Bytes,
            2 => Type::Bool,
            3 => Type::Signed,
            4 => Type::Unsigned,
            5 => Type::Double,
            6 => Type::Float,
            7 => Type::Message(u32::try_from(reader.index().filter(|message| *message < messages)?).ok()?),
            8 => Type::Time,
            9 => Type::MicroTime,
            10 => Type::Duration,
            11 => Type::Quantity,
            12 => Type::IntOrString,
            13 => Type::RawExtension,
            14 => Type::RawJson,
            _ => return None,
        };
        Some(Self { number: usize::try_from(number).ok()?, name, ty, flags })
    }
}

/// Whether a byte of a name would have to be escaped in JSON; no name has one.
fn needs_escape(byte: u8) -> bool {
    !(0x20..0x7f).contains(&byte) || matches!(byte, b'"' | b'\\')
}

/// Dissolves inlined structs and orders the names. Where two fields bear one name, the one that is inlined less deeply has
/// it, as in Go.
fn lay_out(raw: &[RawMessage], number: usize) -> Option<Message> {
    let mut layout = Layout { raw, slots: Vec::new(), targets: Vec::new() };
    layout.list(number, 0)?;
    let Layout { slots: placed, mut targets, .. } = layout;
    let mut order: Vec<usize> = (0..placed.len()).collect();
    order.sort_by_key(|index| placed.get(*index).map(|(depth, slot)| (slot.name, *depth)));
    let mut places = vec![0_u16; placed.len()];
    let mut slots: Vec<Slot> = Vec::new();
    for index in order {
        let (_, slot) = placed.get(index)?;
        if slots.last().is_none_or(|last| last.name != slot.name) {
            slots.push(*slot);
        }
        *places.get_mut(index)? = u16::try_from(slots.len() - 1).ok()?;
    }
    for target in targets.iter_mut().flatten() {
        if let Target::Slot(place) = target {
            *place = *places.get(usize::from(*place))?;
        }
    }
    Some(Message { form: raw.get(number)?.form, slots, targets })
}

struct Layout<'r> {
    raw: &'r [RawMessage],
    /// With how deeply each is inlined.
    slots: Vec<(usize, Slot)>,
    targets: Vec<Vec<Target>>,
}

impl Layout<'_> {
    /// Lays out the fields of one struct; gives the number of its list.
    fn list(&mut self, message: usize, depth: usize) -> Option<u16> {
        if depth > MAX_INLINED {
            return None;
        }
        let own = self.targets.len();
        self.targets.push(Vec::new());
        for field in &self.raw.get(message)?.fields {
            let target = match field.ty {
                _ if field.flags.has(Flags::HIDDEN) => Target::Hidden,
                Type::Message(inlined) if field.flags.has(Flags::INLINE) => {
                    Target::Inline(self.list(usize::try_from(inlined).ok()?, depth + 1)?)
                }
                _ => {
                    self.slots.push((depth, Slot::new(field, self.raw)));
                    Target::Slot(u16::try_from(self.slots.len() - 1).ok()?)
                }
            };
            let list = self.targets.get_mut(own)?;
            if list.len() <= field.number {
                list.resize(field.number + 1, Target::Unknown);
            }
            *list.get_mut(field.number)? = target;
        }
        u16::try_from(own).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_reads_and_knows_kinds_of_all_ages() {
        let table = Table::read(BYTES).unwrap();
        assert!(table.messages.len() > 1500);
        for (api_version, kind) in [
            ("v1", "Secret"),
            ("apps/v1", "Deployment"),
            ("extensions/v1beta1", "Ingress"),
            ("batch/v2alpha1", "CronJob"),
            ("settings.k8s.io/v1alpha1", "PodPreset"),
            ("resource.k8s.io/v1", "ResourceClaim"),
            ("route.openshift.io/v1", "Route"),
            ("v1", "Route"),
            ("apiregistration.k8s.io/v1", "APIService"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ] {
            assert!(table.kind(api_version, kind).is_some(), "{api_version} {kind}");
        }
        assert!(table.kind("v1", "Nothing").is_none());
    }

    #[test]
    fn slots_are_in_the_order_of_their_names_and_each_name_is_there_once() {
        for message in &Table::read(BYTES).unwrap().messages {
            assert!(message.slots.is_sorted_by(|one, next| one.name < next.name), "{message:?}");
        }
    }

    #[test]
    fn inlined_structs_are_dissolved() {
        let table = Table::read(BYTES).unwrap();
        let volume = |name: &str| {
            let pod = table.kind("v1", "Pod").unwrap();
            let of = |message: &Message, name: &str| match message.slots.iter().find(|s| s.name == name).unwrap().ty {
                Type::Message(number) => number,
                other => panic!("{other:?}"),
            };
            let spec = table.message(of(pod, "spec")).unwrap();
            let volume = table.message(of(spec, "volumes")).unwrap();
            volume.slots.iter().any(|slot| slot.name == name)
        };
        assert!(volume("name") && volume("secret") && volume("hostPath"));
        assert!(!volume("volumeSource") && !volume(""));
    }

    #[test]
    fn a_table_that_is_cut_or_altered_is_refused_or_read_but_never_trusted() {
        for length in (0..BYTES.len()).step_by(997).chain(BYTES.len() - 3..BYTES.len()) {
            assert!(Table::read(&BYTES[..length]).is_none(), "{length}");
        }
        for at in (MAGIC.len()..BYTES.len()).step_by(1499) {
            let mut altered = BYTES.to_vec();
            altered[at] ^= 0x55;
            // Whether it is refused depends on the place; what counts is that nothing panics.
            let _ = Table::read(altered.leak());
        }
    }
}
