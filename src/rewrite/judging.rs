//! One record after the other: what becomes of it is decided, counted, and noted for the report.
//!
//! It does not know how records are stored: pages and tables bring them, and write what is decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kube::key::{Address, Reserved, Roots};
use crate::kube::locator::Locator;
use crate::source::trace::Traces;
use crate::source::{KeyValue, Place};

use super::decide::{Decision, Guards, Policy, Scratch, Subject};
use super::tally::{Kinds, Memory, NUMBERED_FOLDERS};

/// Refused values that are named; of more only the number is told.
const NAMED_REFUSED: usize = 100_000;

/// A value that keeps the result from being taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Its etcd key.
    pub key: Vec<u8>,
    /// Its main revision.
    pub revision: i64,
    /// Why, in a sentence.
    pub why: String,
}

/// What of its distribution's own record of the configuration a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// `/bootstrap/*` of K3s or RKE2.
    pub bootstrap: bool,
    /// The encryption Secrets of OpenShift's operators.
    pub operators: bool,
}

/// What is noted beside the traces.
#[derive(Debug, Default)]
pub struct Noted {
    /// What keeps the result from being taken: the first ones.
    pub refused: Vec<Refused>,
    /// What the distribution keeps inside the store of its own configuration.
    pub inside: Inside,
    /// Whether any value comes to be on another key.
    pub moves: bool,
    /// A key looks like an object's below a root that is not among those that are known.
    pub unlisted: bool,
    /// Values that rows keep of the rows before them, by the number of their kind.
    pub old_values: BTreeMap<u32, u64>,
}

impl Noted {
    /// Takes another worker's.
    pub fn absorb(&mut self, other: Self) {
        self.refused.extend(other.refused);
        self.inside.bootstrap |= other.inside.bootstrap;
        self.inside.operators |= other.inside.operators;
        self.moves |= other.moves;
        self.unlisted |= other.unlisted;
        for (kind, count) in other.old_values {
            *self.old_values.entry(kind).or_default() += count;
        }
    }

    /// The same, with what is refused by key and revision.
    pub fn sorted(mut self) -> Self {
        self.refused.sort();
        self.refused.truncate(NAMED_REFUSED);
        self
    }
}

/// Decides about records, and remembers what it decided.
pub struct Judging<'j> {
    policy: &'j Policy<'j>,
    memory: Memory<'j>,
    locator: Locator,
    guards: Folders,
    scratch: Scratch,
    traces: Traces,
    noted: Noted,
}

impl<'j> Judging<'j> {
    /// Of nothing yet; what records leave goes into `traces`.
    pub fn new(policy: &'j Policy<'j>, kinds: &'j Kinds, roots: Arc<Roots>, traces: Traces) -> Self {
        Self {
            policy,
            memory: Memory::new(kinds),
            locator: Locator::new(roots),
            guards: Folders::default(),
            scratch: Scratch::default(),
            traces,
            noted: Noted::default(),
        }
    }

    /// A key was deleted.
    pub fn deletion(&mut self, key: &[u8], place: Place) {
        let tag = self.memory.deleted();
        self.traces.leave(key, place, tag);
    }

    /// Decides about a record's value; `then` does what is to be done.
    pub fn value<T>(
        &mut self,
        kv: &KeyValue<'_>,
        place: Place,
        revision: i64,
        then: impl FnOnce(Decision<'_>) -> T,
    ) -> T {
        self.decide((kv.key, kv.value), Some(place), revision, then)
    }

    /// Decides about what a row keeps of the row before it, which is at this revision.
    pub fn old_value<T>(&mut self, key: &[u8], value: &[u8], revision: i64, then: impl FnOnce(Decision<'_>) -> T) -> T {
        self.decide((key, value), None, revision, then)
    }

    fn decide<T>(
        &mut self,
        (key, value): (&[u8], &[u8]),
        place: Option<Place>,
        revision: i64,
        then: impl FnOnce(Decision<'_>) -> T,
    ) -> T {
        let address = self.locator.locate(key);
        self.noted.unlisted |= address == Address::Foreign && self.locator.roots().unlisted(key);
        self.noted.inside.see(&address);
        let guards = self.guards.of(&address, self.locator.folder(), self.policy);
        let decided = self.policy.decide(Subject { address: &address, guards, key, value }, &mut self.scratch);
        let tag = self.memory.number(&address, self.locator.folder(), &decided);
        match place {
            Some(place) => {
                self.traces.leave(key, place, tag);
            }
            None => *self.noted.old_values.entry(tag).or_default() += 1,
        }
        match &decided.decision {
            Decision::Refused(why) if self.noted.refused.len() < NAMED_REFUSED => {
                let (key, why) = (key.to_vec(), why.to_string());
                self.noted.refused.push(Refused { key, revision, why });
            }
            Decision::Rewritten { moves, .. } => self.noted.moves |= moves,
            Decision::Refused(_) | Decision::Stays(_) | Decision::Replaced(_) => {}
        }
        then(decided.decision)
    }

    /// What it remembers.
    pub fn finish(self) -> (Traces, Noted) {
        (self.traces, self.noted)
    }
}

impl Inside {
    /// Takes note of what a key says about the distribution.
    pub(super) fn see(&mut self, address: &Address<'_>) {
        match address {
            Address::Reserved(Reserved::Bootstrap) => self.bootstrap = true,
            Address::Object(object) if object.resource == "secrets" && object.group.is_empty() => {
                let of_operators = object.namespace == Some("openshift-config-managed")
                    && (object.name.starts_with("encryption-key-") || object.name.starts_with("encryption-config-"));
                self.operators |= of_operators;
            }
            _ => {}
        }
    }
}

/// Who guards what, by the numbers under which the locator remembers folders, so that it is resolved once for each.
#[derive(Debug, Default)]
pub struct Folders {
    known: Vec<Option<Guards>>,
}

impl Folders {
    /// Who guards the value of a key; `number` is that of its folder, where there is one.
    pub fn of(&mut self, address: &Address<'_>, number: Option<u32>, policy: &Policy<'_>) -> Guards {
        let Some(number) = number.map(|number| number as usize).filter(|number| *number < NUMBERED_FOLDERS) else {
            return policy.guards(address);
        };
        if let Some(Some(guards)) = self.known.get(number) {
            return *guards;
        }
        let guards = policy.guards(address);
        if self.known.len() <= number {
            self.known.resize(number + 1, None);
        }
        if let Some(place) = self.known.get_mut(number) {
            *place = Some(guards);
        }
        guards
    }
}
