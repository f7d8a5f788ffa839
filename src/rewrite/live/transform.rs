//! What becomes of one entry of a running store: as in an offline rewrite, but what is as the target would write it is passed
//! over first, whatever opened it before.
//!
//! Here the work may be half done: by an earlier run, or by API servers that have the target configuration already. So the
//! current configuration need not know the target's keys for such values to be left in peace.

use std::borrow::Cow;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::audit::classify::{Told, judge};
use crate::audit::finding::ValueFinding;
use crate::audit::rules::{ChainRef, Rules};
use crate::etcd::{Revision, RevisionKey};
use crate::kube::key::{Address, Roots};
use crate::kube::locator::Locator;
use crate::kube::payload;
use crate::provider::prefix::{self, Form};
use crate::source::trace::TraceKey;

use super::super::decide::{Decided, Decision, Guards, Policy, Refusal, Scratch, Stays, Subject};
use super::super::judging::{Folders, Inside};
use super::super::seal::{MakeError, seal_one};
use super::super::tally::{Kinds, Memory};
use super::super::target::{RandomStream, Randomness, Target};
use super::keyspace::Entry;

/// By what entries are judged.
pub struct Transform<'t> {
    /// What becomes of a value.
    pub policy: Policy<'t>,
    /// Where the API servers keep their objects.
    pub roots: Arc<Roots>,
    /// The kinds of fate that workers met.
    pub kinds: &'t Kinds,
    /// Where nonces and IVs come from.
    pub randomness: &'t dyn Randomness,
    /// Values that the target would write as they are get new nonces, if they are no newer than this.
    pub renew: i64,
    /// Under which keys and plaintexts are digested.
    pub digests: TraceKey,
}

/// What an entry is judged to be.
#[derive(Debug)]
pub struct Judged {
    /// The number of its kind.
    pub kind: u32,
    /// What becomes of it.
    pub fate: Fate,
    /// A digest of its plaintext, or of what is stored where it stays closed.
    pub digest: u64,
    /// Whether it comes to be on another key.
    pub moves: bool,
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays(Stays),
    /// This takes its place. Empty, with only its length known, where nothing was to be sealed.
    Rewritten(Zeroizing<Vec<u8>>, usize),
    /// It keeps the rewrite from being begun.
    Refused(Refusal),
}

/// Judges entries. Each thread has its own.
pub struct Worker<'w> {
    transform: &'w Transform<'w>,
    memory: Memory<'w>,
    locator: Locator,
    guards: Folders,
    scratch: Scratch,
    randomness: Box<dyn RandomStream>,
    /// What of its distribution's own records was met.
    pub inside: Inside,
    /// Whether a key looks like an object's below a root that is not known.
    pub unlisted: bool,
}

impl<'w> Worker<'w> {
    /// A worker that met nothing yet.
    pub fn new(transform: &'w Transform<'w>) -> Self {
        Self {
            transform,
            memory: Memory::new(transform.kinds),
            locator: Locator::new(transform.roots.clone()),
            guards: Folders::default(),
            scratch: Scratch::default(),
            randomness: transform.randomness.stream(),
            inside: Inside::default(),
            unlisted: false,
        }
    }

    /// Judges an entry; `seal` also makes what takes its place.
    ///
    /// # Errors
    ///
    /// [`MakeError`], when it cannot be sealed.
    pub fn judge(&mut self, entry: &Entry, seal: bool) -> Result<Judged, MakeError> {
        let Self { transform, memory, locator, guards, scratch, randomness, inside, unlisted } = self;
        let policy = &transform.policy;
        let address = locator.locate(&entry.key);
        *unlisted |= address == Address::Foreign && locator.roots().unlisted(&entry.key);
        inside.see(&address);
        let guards = guards.of(&address, locator.folder(), policy);
        let (key, value) = (entry.key.as_slice(), entry.value.as_slice());
        let digest = |bytes: &[u8]| transform.digests.digest(bytes) as u64;
        let mut make = |plaintext: &[u8], chain: Option<ChainRef>| -> Result<Fate, MakeError> {
            if !seal {
                let bytes = policy.target.stored_bytes(chain, plaintext.len());
                return Ok(Fate::Rewritten(Zeroizing::default(), bytes));
            }
            let revision = Revision { main: entry.mod_revision, sub: 0 };
            let at = RevisionKey { revision, tombstone: false };
            let made = seal_one(policy.target, chain, (at, key), plaintext, &mut **randomness)?;
            let bytes = made.len();
            Ok(Fate::Rewritten(made, bytes))
        };
        if let Some(fresh) = fresh(policy.target, &address, guards, (key, value), scratch) {
            let Fresh { plaintext, chain, ref decided } = fresh;
            let renews = entry.mod_revision <= transform.renew && !policy.target.writer(chain).version.is_empty();
            let fate = match (renews, chain) {
                (true, Some(_)) if policy.selects_address(&address) => make(plaintext, chain)?,
                _ => Fate::Stays(Stays::Fresh),
            };
            let rewritten = Decision::Rewritten { plaintext: &[], chain, moves: false };
            let decided = match fate {
                Fate::Rewritten(..) => &Decided { decision: rewritten, ..decided.clone() },
                _ => decided,
            };
            let kind = memory.number(&address, locator.folder(), decided);
            return Ok(Judged { kind, fate, digest: digest(plaintext), moves: false });
        }
        let subject = Subject { address: &address, guards, key, value };
        let decided = policy.decide(subject, scratch);
        let kind = memory.number(&address, locator.folder(), &decided);
        Ok(match decided.decision {
            Decision::Stays(why) => Judged { kind, fate: Fate::Stays(why), digest: digest(value), moves: false },
            Decision::Refused(why) => Judged { kind, fate: Fate::Refused(why), digest: digest(value), moves: false },
            Decision::Replaced(new) => {
                let fate = Fate::Rewritten(Zeroizing::new(new.to_vec()), new.len());
                Judged { kind, fate, digest: digest(new), moves: false }
            }
            Decision::Rewritten { plaintext, chain, moves } => {
                let digest = digest(plaintext);
                Judged { kind, fate: make(plaintext, chain)?, digest, moves }
            }
        })
    }
}

/// A value that the target would write as it is stored.
struct Fresh<'f> {
    plaintext: &'f [u8],
    chain: Option<ChainRef>,
    decided: Decided<'f>,
}

/// Opens a value with the target alone: none where the target would not write it so, or it is no object that its key names.
fn fresh<'f>(
    target: &'f Target,
    address: &Address<'_>,
    guards: Guards,
    (key, value): (&[u8], &'f [u8]),
    scratch: &'f mut Scratch,
) -> Option<Fresh<'f>> {
    if !matches!(address, Address::Object(_)) {
        return None;
    }
    let decided = |kind, key_name| Decided { decision: Decision::Stays(Stays::Fresh), kind, key_name };
    let Target::Configured { rules, deks, .. } = target else {
        return plain(address, value).then(|| Fresh { plaintext: value, chain: None, decided: decided(None, None) });
    };
    if may_be_another(rules, value) {
        return None;
    }
    let verdict = judge(rules, deks, (address, guards.target), key, value, &mut scratch.target);
    let holds = verdict.readable == Told::Yes
        && verdict.stale == Told::No
        && !verdict.findings.contains(ValueFinding::NameMismatch);
    let (kind, name, chain) = (verdict.kind, verdict.key_name.clone(), verdict.guard);
    let plaintext = verdict.plaintext(value, &scratch.target).filter(|_| holds)?;
    Some(Fresh { plaintext, chain, decided: decided(kind, name.map(|name| Cow::Owned(name.into_owned()))) })
}

/// Most values that are to be written anew show by their prefix that no provider of the target writes so.
fn may_be_another(rules: &Rules, value: &[u8]) -> bool {
    let Form::Sealed(sealed) = prefix::form(value) else { return false };
    let writes = |chain: ChainRef| {
        rules.chain(chain).is_some_and(|chain| {
            let writer = chain.writer();
            (sealed.kind.provider(), sealed.kind.version()) == (writer.provider, writer.version)
                && sealed.body_under(writer.name.as_bytes()).is_some()
        })
    };
    !rules.candidates().any(writes)
}

/// Whether a value is the plaintext of the object that its key names.
fn plain(address: &Address<'_>, value: &[u8]) -> bool {
    let Address::Object(object) = address else { return false };
    let is_plain = matches!(prefix::form(value), Form::Plain);
    is_plain && payload::identify(value).is_ok_and(|(_, identity)| payload::mismatch(object, &identity).is_none())
}
