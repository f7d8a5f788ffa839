//! Records that are alike in everything a summary tells apart share a class, so that a record's trace needs to carry no
//! more than the class's number.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use crate::kube::key::Address;
use crate::kube::resource::GroupResource;
use crate::lock::{into_inner, lock};
use crate::provider::prefix::SealedKind;
use crate::source::trace::TAGS;

use super::classify::{State, Told, Verdict};
use super::finding::FindingSet;
use super::rules::{ChainRef, KeyRef, Rules};

/// The tag of tombstones, which are of no class.
pub const TOMBSTONE: u32 = 0;

/// With so many classes namespaces and names are no longer told apart, so that tags never run out: a store in which
/// nearly every record has a namespace or key name of its own was made to be hostile.
const FINE_CLASSES: u32 = TAGS - TAGS / 8;

/// Stands for everything that is no longer told apart.
const OTHERS: &str = "(others)";

/// What a summary tells apart by place: resource and namespace. Both are empty for what is no API object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// The API group; empty for the core group.
    pub group: String,
    /// The plural resource name.
    pub resource: String,
    /// The namespace; empty for objects of the whole cluster.
    pub namespace: String,
}

impl Scope {
    /// The scope of what a key leads to.
    pub fn of(address: &Address<'_>) -> Self {
        match address {
            Address::Object(object) => Self {
                group: object.group.to_owned(),
                resource: object.resource.to_owned(),
                namespace: object.namespace.unwrap_or_default().to_owned(),
            },
            Address::Reserved(_) | Address::Foreign => Self::default(),
        }
    }

    /// The resource with its group.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group.as_str(), self.resource.as_str())
    }
}

/// A number for a string or scope that classes share.
pub type Number = u32;

/// What the records of a class have in common. Names are numbers of [`Classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// The scope's number.
    pub scope: Number,
    /// What the value is.
    pub state: State,
    /// The provider its prefix names.
    pub kind: Option<SealedKind>,
    /// The number of the name that the value bears; 0 = it has none.
    pub key_name: Number,
    /// The number of KMS v2's key id; 0 = none.
    pub kms_key_id: Number,
    /// Whether it would be served.
    pub readable: Told,
    /// Whether it would be written otherwise now.
    pub stale: Told,
    /// What opened it.
    pub opened_by: Option<KeyRef>,
    /// The chain that guards it.
    pub guard: Option<ChainRef>,
    /// What is wrong with it as an entry.
    pub findings: FindingSet,
    /// What is wrong with it as an older revision.
    pub history_findings: FindingSet,
}

/// All classes of a run, shared between the workers, who ask for each class once.
#[derive(Debug, Default)]
pub struct Classes(Mutex<Table>);

/// The classes and the names in them.
#[derive(Debug, Default)]
pub struct Table {
    /// Classes by number, less one.
    classes: Vec<Class>,
    numbers: HashMap<Class, u32>,
    scopes: Vec<Scope>,
    scope_numbers: HashMap<Scope, Number>,
    names: Vec<Vec<u8>>,
    name_numbers: HashMap<Vec<u8>, Number>,
}

impl Classes {
    /// The number of a scope.
    pub fn scope(&self, scope: &Scope) -> Number {
        self.table().scope(scope)
    }

    /// The number of a name; 0 for none.
    pub fn name(&self, name: Option<&[u8]>) -> Number {
        name.map_or(0, |name| self.table().name(name))
    }

    /// The number of a class, which is a tag for its records' traces.
    pub fn number(&self, class: Class) -> u32 {
        self.table().number(class)
    }

    /// The classes, when all workers are done.
    pub fn into_table(self) -> Table {
        into_inner(self.0)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.0)
    }
}

impl Table {
    fn scope(&mut self, scope: &Scope) -> Number {
        if let Some(number) = self.scope_numbers.get(scope) {
            return *number;
        }
        let number = self.scopes.len() as Number;
        self.scopes.push(scope.clone());
        self.scope_numbers.insert(scope.clone(), number);
        number
    }

    fn name(&mut self, name: &[u8]) -> Number {
        if let Some(number) = self.name_numbers.get(name) {
            return *number;
        }
        self.names.push(name.to_vec());
        let number = self.names.len() as Number;
        self.name_numbers.insert(name.to_vec(), number);
        number
    }

    fn number(&mut self, class: Class) -> u32 {
        if let Some(number) = self.numbers.get(&class) {
            return *number;
        }
        if self.classes.len() as u32 >= FINE_CLASSES {
            let coarse = self.coarse(class);
            if coarse != class {
                return self.number(coarse);
            }
        }
        self.classes.push(class);
        // Coarse classes differ in a few small enums only, so they never use up the tags that are left for them.
        let number = (self.classes.len() as u32).min(TAGS - 1);
        self.numbers.insert(class, number);
        number
    }

    /// The class without what there are too many of; what is wrong with its records stays.
    fn coarse(&mut self, class: Class) -> Class {
        let others = Scope { resource: OTHERS.to_owned(), ..Scope::default() };
        let name = |table: &mut Self, number| if number == 0 { 0 } else { table.name(OTHERS.as_bytes()) };
        let scope = self.scope(&others);
        Class { scope, key_name: name(self, class.key_name), kms_key_id: name(self, class.kms_key_id), ..class }
    }

    /// All classes with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Class)> {
        (1..).zip(&self.classes)
    }

    /// A class by its number; none for [`TOMBSTONE`].
    pub fn get(&self, number: u32) -> Option<&Class> {
        self.classes.get(number.checked_sub(1)? as usize)
    }

    /// A scope by its number.
    pub fn scope_of(&self, class: &Class) -> Option<&Scope> {
        self.scopes.get(class.scope as usize)
    }

    /// A name by its number, as text; bytes that are none are replaced.
    pub fn name_of(&self, number: Number) -> Cow<'_, str> {
        let name = number.checked_sub(1).and_then(|index| self.names.get(index as usize));
        String::from_utf8_lossy(name.map_or(&[], Vec::as_slice))
    }
}

/// So many classes of a scope are looked through before they are looked up.
const NEAR_CLASSES: usize = 8;

/// A worker's memory of the classes it met in one scope, so that the shared table is asked once for each.
///
/// Nearly all records of a scope are of one or two classes, which comparing finds faster than hashing.
#[derive(Debug, Default)]
pub struct Met {
    near: Vec<(Class, Seen)>,
    far: HashMap<Class, Seen>,
}

/// A class that a worker met: its number, and the oldest and newest main revision of its records.
#[derive(Clone, Copy, Debug)]
struct Seen {
    number: u32,
    oldest: i64,
    newest: i64,
}

impl Met {
    /// The number of the class that a record of this verdict, written at `main` revision, has in this scope.
    pub fn number_of(
        &mut self,
        (scope, verdict): (Number, &Verdict<'_>),
        main: i64,
        rules: &Rules,
        names: &mut Names<'_>,
    ) -> u32 {
        let key_name = names.number(verdict.key_name.as_deref());
        let kms_key_id = names.number(verdict.kms_key_id.map(str::as_bytes));
        let near = self.near.iter_mut().find(|(near, _)| near.is_of(verdict, key_name, kms_key_id));
        match near {
            Some((_, seen)) => seen.again(main),
            None => self.number(Class::of(scope, verdict, rules, names), main, names.shared),
        }
    }

    fn number(&mut self, class: Class, main: i64, shared: &Classes) -> u32 {
        let new = || Seen { number: shared.number(class), oldest: main, newest: main };
        if self.near.len() < NEAR_CLASSES {
            let seen = new();
            self.near.push((class, seen));
            return seen.number;
        }
        self.far.entry(class).or_insert_with(new).again(main)
    }

    /// The oldest and the newest main revision of each class's records, by the class's number.
    pub fn revisions(&self) -> impl Iterator<Item = (u32, (i64, i64))> {
        let seen = self.near.iter().map(|(_, seen)| seen).chain(self.far.values());
        seen.map(|seen| (seen.number, (seen.oldest, seen.newest)))
    }
}

impl Seen {
    fn again(&mut self, main: i64) -> u32 {
        self.oldest = self.oldest.min(main);
        self.newest = self.newest.max(main);
        self.number
    }
}

/// A worker's memory of the names it met.
#[derive(Debug)]
pub struct Names<'c> {
    shared: &'c Classes,
    numbers: HashMap<Vec<u8>, Number>,
    /// The last name and its number: most values bear the name that the one before bore.
    last: (Vec<u8>, Number),
}

impl<'c> Names<'c> {
    /// No name is known yet.
    pub fn new(shared: &'c Classes) -> Self {
        Self { shared, numbers: HashMap::new(), last: (Vec::new(), 0) }
    }

    /// The number of a name; 0 for none.
    pub fn number(&mut self, name: Option<&[u8]>) -> Number {
        let Some(name) = name else { return 0 };
        if self.last.1 != 0 && self.last.0 == name {
            return self.last.1;
        }
        let number = match self.numbers.get(name) {
            Some(number) => *number,
            None => {
                let number = self.shared.name(Some(name));
                self.numbers.insert(name.to_vec(), number);
                number
            }
        };
        self.last = (name.to_vec(), number);
        number
    }
}

impl Class {
    /// What is wrong with a revision of this class that is gone from the tree.
    pub fn residue_findings(&self) -> FindingSet {
        self.history_findings.iter().fold(FindingSet::default(), |set, finding| set.with(finding.of_residue()))
    }

    /// Whether a record of the class's scope is of the class. What is wrong with it as an older revision follows from the
    /// rest.
    fn is_of(&self, verdict: &Verdict<'_>, key_name: Number, kms_key_id: Number) -> bool {
        self.key_name == key_name
            && self.kms_key_id == kms_key_id
            && self.state == verdict.state
            && self.kind == verdict.kind
            && self.readable == verdict.readable
            && self.stale == verdict.stale
            && self.opened_by == verdict.opened_by
            && self.guard == verdict.guard
            && self.findings == verdict.findings
    }

    /// The class of a record in a scope.
    pub fn of(scope: Number, verdict: &Verdict<'_>, rules: &Rules, names: &mut Names<'_>) -> Self {
        Self {
            scope,
            state: verdict.state,
            kind: verdict.kind,
            key_name: names.number(verdict.key_name.as_deref()),
            kms_key_id: names.number(verdict.kms_key_id.map(str::as_bytes)),
            readable: verdict.readable,
            stale: verdict.stale,
            opened_by: verdict.opened_by,
            guard: verdict.guard,
            findings: verdict.findings,
            history_findings: verdict.history_findings(rules),
        }
    }
}
