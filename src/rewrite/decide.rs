//! What becomes of one value: it stays, it is written anew, or the whole rewrite is refused because of it.
//!
//! A pure function of key, value, both configurations and what was selected. The value is judged as the audit judges it,
//! and only what proves itself is written anew: it opens, holds an object, and the one that its key names.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use crate::audit::classify::{Reason, Told, Verdict, judge};
use crate::audit::deks::Deks;
use crate::audit::finding::ValueFinding;
use crate::audit::rules::{ChainRef, Guard, KeyRef, Rules};
use crate::distro::reseal::Replacements;
use crate::kube::key::{Address, ObjectKey, Reserved};
use crate::kube::select::Selected;
use crate::provider::chain::Answer;
use crate::provider::fault::Failure;
use crate::provider::plaintext::Plaintext;
use crate::provider::prefix::{self, Form, SealedKind};

use super::target::Target;

/// By what it is decided.
#[derive(Clone, Copy)]
pub struct Policy<'p> {
    /// The configurations that the values are under now. None at all means what it means to an API server: nothing is
    /// encrypted.
    pub current: &'p Rules,
    /// What their KMS plugins opened.
    pub deks: &'p Deks,
    /// What is to be written.
    pub target: &'p Target,
    /// Only these resources and names; none for all.
    pub selected: Option<&'p Selected>,
    /// Only these namespaces; none for all.
    pub namespaces: &'p [String],
    /// Whether values that the target would write as they are get new nonces all the same.
    pub all: bool,
    /// Whether what does not open stays as it is, instead of being refused.
    pub keep_unreadable: bool,
    /// Whether `current` is what the store's distribution itself has: its own record, or its backup's tarball.
    pub own_configuration: bool,
    /// Values that become others, whatever else is decided: what a distribution keeps of its own state.
    pub replacements: &'p Replacements,
}

/// Who guards the values of a folder of keys.
#[derive(Clone, Copy, Debug)]
pub struct Guards {
    /// Now.
    pub current: Guard,
    /// Afterwards.
    pub target: Guard,
}

/// A value, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'s> {
    /// What its key addresses.
    pub address: &'s Address<'s>,
    /// Who guards it.
    pub guards: Guards,
    /// Its etcd key.
    pub key: &'s [u8],
    /// What is stored.
    pub value: &'s [u8],
}

/// Room for what values hold, now and as written.
#[derive(Debug, Default)]
pub struct Scratch {
    current: Plaintext,
    /// Also for whoever proves what was written.
    pub target: Plaintext,
}

/// Where no value becomes another one as it is.
pub static NO_REPLACEMENTS: LazyLock<Replacements> = LazyLock::new(Replacements::new);

/// What becomes of a value.
#[derive(Clone, Debug)]
pub enum Decision<'d> {
    /// It stays byte for byte.
    Stays(Stays),
    /// It is written in another form.
    Rewritten {
        /// What it holds.
        plaintext: &'d [u8],
        /// The target's chain; none where it is written as plaintext whatever guards it.
        chain: Option<ChainRef>,
        /// Whether that is on another key than it is on now, and on none that the distribution itself writes with.
        moves: bool,
    },
    /// Another value takes its place, as it is.
    Replaced(&'d [u8]),
    /// It keeps the result from being taken.
    Refused(Refusal),
}

/// Why a value stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stays {
    /// The target would write it so.
    Fresh,
    /// It was not selected.
    Unselected,
    /// No configuration of the target speaks for the API server that stores it.
    Uncovered,
    /// Its key is no API object's.
    NoObject,
    /// It does not open, and was to be kept.
    Unreadable,
}

/// Why a value keeps the result from being taken. Displays as one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not open, or what opens is not the object that its key names.
    Unreadable(Reason),
    /// It would stay as it is, and an API server with the target could not read it.
    LockedOut(Failure),
    /// It would stay as it is, and the target opens it as something else: a key of the same name with another secret.
    OpensOtherwise,
    /// It would stay as it is, and whether the target reads it only a KMS plugin knows.
    LockWaits,
    /// It is sealed, and its key is no API object's below any known root.
    Foreign,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(reason) => reason.fmt(f),
            Self::LockedOut(failure) => {
                write!(f, "it would stay as it is, and the target configuration cannot read it: {failure}")
            }
            Self::OpensOtherwise => {
                f.write_str("it would stay as it is, and the target configuration opens it as something else")
            }
            Self::LockWaits => f.write_str(
                "it would stay as it is, and whether the target configuration reads it only its KMS plugin can tell",
            ),
            Self::Foreign => f.write_str("it is encrypted, and its key is no API object's below any known root"),
        }
    }
}

/// A value's fate, and what it is on now.
#[derive(Clone, Debug)]
pub struct Decided<'d> {
    /// What becomes of it.
    pub decision: Decision<'d>,
    /// The provider that its prefix names.
    pub kind: Option<SealedKind>,
    /// The name of its key, as far as it is known.
    pub key_name: Option<Cow<'d, [u8]>>,
}

impl Policy<'_> {
    /// Who guards what an address leads to, now and afterwards.
    pub fn guards(&self, address: &Address<'_>) -> Guards {
        let target = self.target.guard(address);
        let covered = target != Guard::Nobody || matches!(self.target, Target::Plaintext);
        let current = match self.current.guard(address) {
            // An API server without a configuration reads plaintext and nothing else.
            Guard::Nobody if covered || !self.current.given() => Guard::Chain(ChainRef::UNLISTED),
            guard => guard,
        };
        Guards { current, target }
    }

    /// Decides about a value.
    pub fn decide<'d>(&'d self, subject: Subject<'d>, scratch: &'d mut Scratch) -> Decided<'d> {
        if let Some(new) = self.replacement(subject) {
            return Decided { decision: Decision::Replaced(new), kind: None, key_name: None };
        }
        let Subject { address, guards, key, value } = subject;
        let Address::Object(object) = address else { return self.no_object(address, value) };
        if !self.selects(object) {
            return self.unselected(object, subject, scratch);
        }
        let verdict = judge(self.current, self.deks, (address, guards.current), key, value, &mut scratch.current);
        let (kind, key_name) = (verdict.kind, verdict.key_name.clone());
        let decision = match why_not(&verdict) {
            Some(Reason::Uncovered) if guards.target == Guard::Nobody => Decision::Stays(Stays::Uncovered),
            Some(_) if self.keep_unreadable => Decision::Stays(Stays::Unreadable),
            Some(reason) => Decision::Refused(Refusal::Unreadable(reason)),
            None => {
                let Scratch { current, target } = scratch;
                let plaintext = verdict.plaintext(value, current).unwrap_or(value);
                self.opened(object, guards, (key, value), plaintext, verdict.opened_by, target)
            }
        };
        Decided { decision, kind, key_name }
    }

    /// What a value holds that was written anew, and with which chain of the target; none for one that was to stay, or does not
    /// open. That it is the object which its key names is not looked at again.
    pub fn reopen<'d>(
        &'d self,
        subject: Subject<'d>,
        scratch: &'d mut Scratch,
    ) -> Option<(&'d [u8], Option<ChainRef>)> {
        if let Some(new) = self.replacement(subject) {
            return Some((new, None));
        }
        let Subject { address, guards, key, value } = subject;
        let Address::Object(object) = address else { return None };
        if !self.selects(object) {
            return None;
        }
        let Guard::Chain(current) = guards.current else {
            // The object inside settles who guards it.
            return match self.decide(subject, scratch).decision {
                Decision::Rewritten { plaintext, chain, .. } => Some((plaintext, chain)),
                Decision::Stays(_) | Decision::Replaced(_) | Decision::Refused(_) => None,
            };
        };
        let Scratch { current: room, target } = scratch;
        let chain = self.current.chain(current)?;
        let Answer::Opened { plaintext, .. } = chain.open(key, value, self.deks.of(current), room) else { return None };
        let Target::Configured { rules, deks, .. } = self.target else { return Some((plaintext, None)) };
        let chain = self.target.chain(guards.target, object, plaintext)?;
        let stays = !self.renews(chain) && is_fresh(rules, deks, chain, (key, value), plaintext, target);
        (!stays).then_some((plaintext, Some(chain)))
    }

    /// Whether what an address leads to was selected.
    pub fn selects_address(&self, address: &Address<'_>) -> bool {
        matches!(address, Address::Object(object) if self.selects(object))
    }

    /// What takes the place of a value; none of one that nothing was said about, or that is another one by now.
    fn replacement(&self, subject: Subject<'_>) -> Option<&[u8]> {
        let replacement = self.replacements.get(subject.key)?;
        (replacement.old == subject.value).then_some(replacement.new.as_slice())
    }

    fn selects(&self, object: &ObjectKey<'_>) -> bool {
        let in_namespace = |wanted: &String| object.namespace == Some(wanted.as_str());
        (self.namespaces.is_empty() || self.namespaces.iter().any(in_namespace))
            && self.selected.is_none_or(|selected| selected.matches(object))
    }

    /// What an API server never encrypts stays, whatever it holds; but what is encrypted all the same is nobody's to pass over.
    fn no_object<'d>(&self, address: &Address<'_>, value: &'d [u8]) -> Decided<'d> {
        let sealed = match prefix::form(value) {
            Form::Sealed(sealed) => Some(sealed),
            Form::Empty | Form::Unrecognised | Form::Plain => None,
        };
        let is_bootstrap = *address == Address::Reserved(Reserved::Bootstrap);
        let decision = match sealed {
            Some(_) if !is_bootstrap && self.keep_unreadable => Decision::Stays(Stays::Unreadable),
            Some(_) if !is_bootstrap => Decision::Refused(Refusal::Foreign),
            _ => Decision::Stays(Stays::NoObject),
        };
        let key_name = sealed.and_then(|sealed| sealed.name_guess()).map(Cow::Borrowed);
        Decided { decision, kind: sealed.map(|sealed| sealed.kind), key_name }
    }

    /// What was not selected stays, if the target can read it as it is.
    fn unselected<'d>(&'d self, object: &ObjectKey<'_>, subject: Subject<'d>, scratch: &'d mut Scratch) -> Decided<'d> {
        let Subject { address, guards, key, value } = subject;
        let verdict = judge(self.current, self.deks, (address, guards.current), key, value, &mut scratch.current);
        let Scratch { current, target } = scratch;
        let plaintext = verdict.plaintext(value, current).filter(|_| verdict.readable == Told::Yes);
        let refusal = plaintext.and_then(|plaintext| self.lock(object, guards, (key, value), plaintext, target));
        let decision = refusal.map_or(Decision::Stays(Stays::Unselected), Decision::Refused);
        Decided { decision, kind: verdict.kind, key_name: verdict.key_name }
    }

    /// Why the target could not read a value that is readable now and stays.
    fn lock(
        &self,
        object: &ObjectKey<'_>,
        guards: Guards,
        (key, value): (&[u8], &[u8]),
        plaintext: &[u8],
        scratch: &mut Plaintext,
    ) -> Option<Refusal> {
        let Target::Configured { rules, deks, .. } = self.target else { return None };
        let chain = self.target.chain(guards.target, object, plaintext)?;
        match rules.chain(chain)?.open(key, value, deks.of(chain), scratch) {
            Answer::Opened { plaintext: opened, .. } if opened == plaintext => None,
            Answer::Opened { .. } => Some(Refusal::OpensOtherwise),
            Answer::Failed(failure) => Some(Refusal::LockedOut(failure)),
            Answer::Waits { .. } => Some(Refusal::LockWaits),
        }
    }

    /// Whether fresh values of a chain are written anew all the same. Plaintext has no nonce, so that would change nothing.
    fn renews(&self, chain: ChainRef) -> bool {
        self.all && !self.target.writer(Some(chain)).version.is_empty()
    }

    /// What becomes of a value that opened.
    fn opened<'d>(
        &self,
        object: &ObjectKey<'_>,
        guards: Guards,
        (key, value): (&[u8], &[u8]),
        plaintext: &'d [u8],
        opened_by: Option<KeyRef>,
        scratch: &mut Plaintext,
    ) -> Decision<'d> {
        let Target::Configured { rules, deks, .. } = self.target else {
            let fresh = matches!(prefix::form(value), Form::Plain | Form::Empty);
            return match fresh {
                true => Decision::Stays(Stays::Fresh),
                false => Decision::Rewritten { plaintext, chain: None, moves: true },
            };
        };
        let Some(chain) = self.target.chain(guards.target, object, plaintext) else {
            return Decision::Stays(Stays::Uncovered);
        };
        if !self.renews(chain) && is_fresh(rules, deks, chain, (key, value), plaintext, scratch) {
            return Decision::Stays(Stays::Fresh);
        }
        let writer = KeyRef { chain, provider: 0, key: 0 };
        let now = opened_by.map(|key| (self.current.label(key), self.current.named_key(key).map(|key| &key.secret)));
        let then = (rules.label(writer), rules.named_key(writer).map(|key| &key.secret));
        let own = match guards.current {
            Guard::Chain(chain) if self.own_configuration => {
                let own = KeyRef { chain, provider: 0, key: 0 };
                Some((self.current.label(own), self.current.named_key(own).map(|key| &key.secret)))
            }
            _ => None,
        };
        Decision::Rewritten { plaintext, chain: Some(chain), moves: now != Some(then) && own != Some(then) }
    }
}

/// Whether the target would write a value as it is stored: kube-apiserver's own rule.
fn is_fresh(
    rules: &Rules,
    deks: &Deks,
    chain: ChainRef,
    (key, value): (&[u8], &[u8]),
    plaintext: &[u8],
    scratch: &mut Plaintext,
) -> bool {
    let Some(prepared) = rules.chain(chain) else { return false };
    let writes = prepared.writes();
    // Most values that are to be written anew show it by their prefix.
    let may_be = match prefix::form(value) {
        Form::Plain | Form::Empty => writes.is_none(),
        Form::Sealed(sealed) => {
            writes == Some(sealed.kind) && sealed.body_under(prepared.writer().name.as_bytes()).is_some()
        }
        Form::Unrecognised => false,
    };
    let opened = |answer| matches!(answer, Answer::Opened { plaintext: same, stale: false, .. } if same == plaintext);
    may_be && opened(prepared.open(key, value, deks.of(chain), scratch))
}

/// Why a value cannot be written anew; none if it can.
fn why_not(verdict: &Verdict<'_>) -> Option<Reason> {
    let is_another = verdict.findings.contains(ValueFinding::NameMismatch);
    match verdict.readable {
        Told::Yes if !is_another => None,
        _ => Some(verdict.reason.clone().unwrap_or(Reason::Uncovered)),
    }
}
