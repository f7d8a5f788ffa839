//! The plan: what becomes of how many values, by resource and by the key they are on now. It is what a dry run shows.
//!
//! Workers number the kinds of fate that they meet; the number is the tag of a record's trace, so that it shows at the end
//! which of them are entries and which are history.

use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;
use std::sync::Mutex;

use crate::audit::rules::ChainRef;
use crate::kube::key::Address;
use crate::kube::resource::GroupResource;
use crate::lock::lock;
use crate::provider::prefix::SealedKind;
use crate::source::shelf::ShelfError;
use crate::source::trace::{TAGS, Trace, Traces, settle};

use super::decide::{Decided, Decision, Stays};

/// What becomes of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// They are written with this chain's key, or as plaintext.
    Rewritten(Option<ChainRef>),
    /// They stay.
    Stays(Stays),
    /// Others take their place: the distribution's own state.
    Replaced,
    /// They keep the result from being taken.
    Refused,
    /// There is no value, since the record says that the key was deleted.
    Deleted,
}

/// Values of one resource, on one key, with one fate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// The resource; none for what is no API object.
    pub resource: Option<GroupResource>,
    /// What becomes of them.
    pub fate: Fate,
    /// The provider that they are sealed with now; none for plaintext.
    pub from: Option<SealedKind>,
    /// The name of its key, as far as it is known.
    pub from_name: Vec<u8>,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// What API servers read.
    pub entries: u64,
    /// Older revisions, and what precedes a deletion.
    pub history: u64,
    /// What rows of kine's keep of the rows before them.
    pub old_values: u64,
}

impl Count {
    /// All values.
    pub fn all(&self) -> u64 {
        self.entries + self.history + self.old_values
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.history += other.history;
        self.old_values += other.old_values;
    }
}

/// The kinds that all workers met, by number.
#[derive(Debug, Default)]
pub struct Kinds {
    numbers: Mutex<HashMap<Kind, u32>>,
}

impl Kinds {
    /// The number of a kind.
    pub fn number(&self, kind: &Kind) -> u32 {
        let mut numbers = lock(&self.numbers);
        let next = u32::try_from(numbers.len()).unwrap_or(TAGS).min(TAGS - 1);
        match numbers.get(kind) {
            Some(number) => *number,
            None => *numbers.entry(kind.clone()).or_insert(next),
        }
    }

    /// All of them, by number.
    pub fn into_table(self) -> Vec<Kind> {
        self.table()
    }

    /// The same of those that were met so far.
    pub fn table(&self) -> Vec<Kind> {
        let numbers = lock(&self.numbers);
        let mut kinds: Vec<_> = numbers.iter().map(|(kind, number)| (*number, kind.clone())).collect();
        kinds.sort_by_key(|(number, _)| *number);
        kinds.into_iter().map(|(_, kind)| kind).collect()
    }
}

/// Folders with greater numbers are not remembered: a store whose folders oust each other gives one to every record.
pub(super) const NUMBERED_FOLDERS: usize = 1 << 16;

/// What a worker remembers of the kinds that it met, so that counting costs little.
#[derive(Debug)]
pub struct Memory<'m> {
    kinds: &'m Kinds,
    /// The kinds that it met, as they came, each with its number.
    met: Vec<(Kind, u32)>,
    /// Their places.
    known: HashMap<Kind, usize>,
    /// The number of deletions.
    deletions: Option<u32>,
    /// The kind that came last, as an index into `met`.
    last: Option<usize>,
    /// The same for each folder, by its number.
    folders: Vec<Option<usize>>,
}

impl<'m> Memory<'m> {
    /// Of nothing yet.
    pub fn new(kinds: &'m Kinds) -> Self {
        Self { kinds, met: Vec::new(), known: HashMap::new(), deletions: None, last: None, folders: Vec::new() }
    }

    /// The number of a value's kind. `folder` is the number under which the [locator](crate::kube::locator::Locator::folder)
    /// remembers the folder of its key: what lies in one folder is of one resource.
    pub fn number(&mut self, address: &Address<'_>, folder: Option<u32>, decided: &Decided<'_>) -> u32 {
        let fate = match &decided.decision {
            Decision::Stays(why) => Fate::Stays(*why),
            Decision::Rewritten { chain, .. } => Fate::Rewritten(*chain),
            Decision::Replaced(_) => Fate::Replaced,
            Decision::Refused(_) => Fate::Refused,
        };
        let name = decided.key_name.as_deref().unwrap_or_default();
        let is_alike = |kind: &Kind| (kind.fate, kind.from) == (fate, decided.kind) && kind.from_name == name;
        let folder = folder.map(|folder| folder as usize).filter(|folder| *folder < NUMBERED_FOLDERS);
        let in_folder = folder.and_then(|folder| self.folders.get(folder)).copied().flatten();
        if let Some((kind, number)) = in_folder.and_then(|place| self.met.get(place))
            && is_alike(kind)
        {
            return *number;
        }
        let is_last = |(kind, _): &&(Kind, u32)| is_alike(kind) && same_resource(kind.resource.as_ref(), address);
        let number = match self.last.and_then(|last| self.met.get(last)).filter(is_last) {
            Some((_, number)) => *number,
            None => {
                let resource = match address {
                    Address::Object(object) => Some(object.group_resource()),
                    Address::Reserved(_) | Address::Foreign => None,
                };
                self.look_up(Kind { resource, fate, from: decided.kind, from_name: name.to_vec() })
            }
        };
        if let Some(folder) = folder {
            if self.folders.len() <= folder {
                self.folders.resize(folder + 1, None);
            }
            self.folders.get_mut(folder).into_iter().for_each(|place| *place = self.last);
        }
        number
    }

    /// The number of deletions.
    pub fn deleted(&mut self) -> u32 {
        let deletion = Kind { resource: None, fate: Fate::Deleted, from: None, from_name: Vec::new() };
        *self.deletions.get_or_insert_with(|| self.kinds.number(&deletion))
    }

    /// The number of a kind, which is the last one from now on.
    fn look_up(&mut self, kind: Kind) -> u32 {
        let place = match self.known.get(&kind) {
            Some(place) => *place,
            None => {
                let place = self.met.len();
                self.met.push((kind.clone(), self.kinds.number(&kind)));
                self.known.insert(kind, place);
                place
            }
        };
        self.last = Some(place);
        self.met.get(place).map_or(0, |(_, number)| *number)
    }
}

fn same_resource(known: Option<&GroupResource>, address: &Address<'_>) -> bool {
    match (known, address) {
        (Some(known), Address::Object(object)) => known.group == object.group && known.resource == object.resource,
        (None, Address::Reserved(_) | Address::Foreign) => true,
        _ => false,
    }
}

/// What is to be counted when all records were seen.
pub struct Unsettled {
    /// The kinds of the traces' tags.
    pub kinds: Kinds,
    /// What the records left.
    pub traces: Vec<Traces>,
    /// Values that rows of kine's keep of the rows before them, by the number of their kind.
    pub old_values: BTreeMap<u32, u64>,
}

impl Unsettled {
    /// Each kind with its count, in order.
    ///
    /// # Errors
    ///
    /// Traces that were put away cannot be read back.
    pub fn rows(self) -> Result<Vec<(Kind, Count)>, ShelfError> {
        let table = self.kinds.into_table();
        let mut tally = Tally::default();
        settle(self.traces, Tally::default, |tally, records| tally.add(&table, records))?
            .into_iter()
            .for_each(|part| tally += part);
        for (kind, old_values) in self.old_values {
            tally.count(kind, Count { old_values, ..Count::default() });
        }
        Ok(tally.rows(table))
    }
}

/// Counts by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: Vec<Count>,
}

impl Tally {
    /// Adds a key's records, oldest first.
    pub fn add(&mut self, table: &[Kind], records: &[Trace]) {
        let is_deleted = |trace: &Trace| table.get(trace.tag() as usize).is_some_and(|kind| kind.fate == Fate::Deleted);
        let newest = records.len().saturating_sub(1);
        for (number, record) in records.iter().enumerate().filter(|(_, record)| !is_deleted(record)) {
            let one = match number == newest {
                true => Count { entries: 1, ..Count::default() },
                false => Count { history: 1, ..Count::default() },
            };
            self.count(record.tag(), one);
        }
    }

    /// Adds to a kind by its number.
    pub fn count(&mut self, kind: u32, more: Count) {
        let kind = kind as usize;
        if self.counts.len() <= kind {
            self.counts.resize(kind + 1, Count::default());
        }
        if let Some(count) = self.counts.get_mut(kind) {
            *count += more;
        }
    }

    /// Each kind with its count, in order.
    pub fn rows(self, table: Vec<Kind>) -> Vec<(Kind, Count)> {
        let counts = self.counts.into_iter().chain(std::iter::repeat(Count::default()));
        let mut rows: Vec<_> = table.into_iter().zip(counts).filter(|(_, count)| *count != Count::default()).collect();
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        rows
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), Count::default());
        }
        self.counts.iter_mut().zip(other.counts).for_each(|(own, other)| *own += other);
    }
}
