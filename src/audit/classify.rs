//! One value, one verdict: what it is, whether kube-apiserver would serve it, and what is wrong with it.
//!
//! This is a pure function of key, value and configuration. A success must prove itself: what opened has to be an object
//! as Kubernetes stores them, and the one that the key names.

use std::borrow::Cow;
use std::fmt;

use crate::kube::key::Address;
use crate::kube::payload::{self, Encoding, Mismatch, PayloadError};
use crate::kube::resource::GroupResource;
use crate::kube::schema::{self, DecodeError, Depth};
use crate::provider::chain::Answer;
use crate::provider::fault::{Failure, FailureKind};
use crate::provider::kms::v2;
use crate::provider::plaintext::Plaintext;
use crate::provider::prefix::{self, Form, Sealed, SealedKind};

use super::deks::Deks;
use super::finding::{FindingSet, ValueFinding};
use super::rules::{ChainRef, Guard, KeyRef, Rules};

/// What a stored value is by its bytes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Begins with the prefix of a known provider and version.
    Encrypted,
    /// Stored as it is, in a form that Kubernetes stores; or what a key holds that is no API object.
    Plaintext,
    /// Another `k8s:enc:` prefix; or at an API object's key neither a prefix nor a form.
    Unrecognised,
    /// No bytes.
    Empty,
}

impl State {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::Plaintext => "plaintext",
            Self::Unrecognised => "unrecognised",
            Self::Empty => "empty",
        }
    }
}

/// An answer that may have to stay open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Told {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Nobody can say with what was given.
    Unknown,
}

impl Told {
    fn from_bool(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// What is to be said of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'v> {
    /// What it is.
    pub state: State,
    /// The provider that its prefix names.
    pub kind: Option<SealedKind>,
    /// The key's or KMS provider's name, as far as configuration and value settle it.
    pub key_name: Option<Cow<'v, [u8]>>,
    /// KMS v2's key id.
    pub kms_key_id: Option<&'v str>,
    /// The form of the plaintext; none where it was not opened or has none.
    pub encoding: Option<Encoding>,
    /// Whether kube-apiserver would serve it.
    pub readable: Told,
    /// What opened it.
    pub opened_by: Option<KeyRef>,
    /// The chain that guards it.
    pub guard: Option<ChainRef>,
    /// Whether it is not what would be written now.
    pub stale: Told,
    /// What is wrong, were it an entry.
    pub findings: FindingSet,
    /// Why, for a person.
    pub reason: Option<Reason>,
    /// How much of the scratch buffer is its plaintext, if it was opened into it.
    opened_bytes: Option<usize>,
}

/// Why a value is not as it should be. Displays as one sentence; kube-apiserver's own where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No provider opens it.
    Closed(Failure),
    /// What it holds is no object.
    NotAnObject(PayloadError),
    /// It holds another object.
    Mismatch(Mismatch),
    /// What opened is sealed again.
    SealedTwice,
    /// A KMS plugin has to be asked.
    Waits,
    /// No configuration speaks for it.
    Uncovered,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(failure) => failure.fmt(f),
            Self::NotAnObject(error) => write!(f, "no stored object: {error}"),
            Self::Mismatch(Mismatch::Kind) => f.write_str("the object inside is of another kind than the key says"),
            Self::Mismatch(Mismatch::Namespace) => f.write_str("the object inside is of another namespace"),
            Self::Mismatch(Mismatch::Name) => f.write_str("the object inside has another name"),
            Self::SealedTwice => f.write_str("what opened is an encrypted value again"),
            Self::Waits => f.write_str("the KMS plugin was not asked"),
            Self::Uncovered => f.write_str("no given configuration speaks for the API server that stores it"),
        }
    }
}

/// Judges a value stored at `key`, which leads to `address`, whose guard [`Rules::guard`] names. `scratch` holds the
/// plaintext meanwhile.
pub fn judge<'v>(
    rules: &'v Rules,
    deks: &Deks,
    (address, guard): (&Address<'_>, Guard),
    key: &[u8],
    value: &'v [u8],
    scratch: &mut Plaintext,
) -> Verdict<'v> {
    let form = prefix::form(value);
    let guard = settle(rules, deks, (address, guard), key, value, scratch);
    let mut verdict = Verdict::unjudged(&form, address, value);
    match guard {
        Guard::Chain(chain) => verdict.open(Judging { rules, deks, address, key, value, chain }, &form, scratch),
        Guard::Unsettled | Guard::Nobody => verdict.leave_closed(rules, address, &form, value),
    }
    if let Form::Sealed(sealed) = &form {
        let opened = verdict.opened_by.is_some();
        verdict.kms_key_id = kms_key_id(sealed, verdict.key_name.as_deref(), opened);
    }
    verdict.findings_by_state(rules);
    verdict
}

/// Who guards the value, where the resource's group is only known to the object inside.
pub(crate) fn settle(
    rules: &Rules,
    deks: &Deks,
    (address, guard): (&Address<'_>, Guard),
    key: &[u8],
    value: &[u8],
    scratch: &mut Plaintext,
) -> Guard {
    let (Guard::Unsettled, Address::Object(object)) = (guard, address) else { return guard };
    for candidate in rules.candidates() {
        let answer = rules.chain(candidate).map(|chain| chain.open(key, value, deks.of(candidate), scratch));
        if let Some(Answer::Opened { plaintext, .. }) = answer
            && let Ok((_, identity)) = payload::identify(plaintext)
        {
            let resource = GroupResource::new(identity.group(), object.resource);
            return rules.guard_of(object.server, &resource);
        }
    }
    Guard::Unsettled
}

/// All that opening a value needs.
#[derive(Clone, Copy)]
struct Judging<'j, 'v> {
    rules: &'v Rules,
    deks: &'j Deks,
    address: &'j Address<'j>,
    key: &'j [u8],
    value: &'v [u8],
    chain: ChainRef,
}

impl<'v> Verdict<'v> {
    /// What the bytes alone say.
    #[inline]
    fn unjudged(form: &Form<'v>, address: &Address<'_>, value: &'v [u8]) -> Self {
        let (state, sealed) = match form {
            Form::Empty => (State::Empty, None),
            Form::Sealed(sealed) => (State::Encrypted, Some(sealed)),
            Form::Unrecognised => (State::Unrecognised, None),
            Form::Plain => (State::Plaintext, None),
        };
        let mut verdict = Self {
            state,
            kind: sealed.map(|sealed| sealed.kind),
            key_name: sealed.and_then(Sealed::name_guess).map(Cow::Borrowed),
            kms_key_id: None,
            encoding: None,
            readable: Told::Unknown,
            opened_by: None,
            guard: None,
            stale: Told::Unknown,
            findings: FindingSet::default(),
            reason: None,
            opened_bytes: None,
        };
        if state == State::Plaintext {
            match address {
                Address::Object(_) => verdict.inspect(address, value),
                // What is no API object may hold anything.
                _ => verdict.encoding = Some(payload::sniff(value).unwrap_or(Encoding::Other)),
            }
        }
        verdict
    }

    /// Tries the chain, and proves what it opens.
    fn open(&mut self, judging: Judging<'_, 'v>, form: &Form<'v>, scratch: &mut Plaintext) {
        let Judging { rules, deks, address, key, value, chain } = judging;
        self.guard = Some(chain);
        let Some(prepared) = rules.chain(chain) else { return };
        let answer = prepared.open(key, value, deks.of(chain), scratch);
        if let Some(name) = prepared.settled_name(value, &answer) {
            self.key_name = Some(Cow::Borrowed(name.as_bytes()));
        }
        match answer {
            Answer::Opened { plaintext, provider, key, stale } => {
                let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
                self.opened_by = Some(KeyRef { chain, provider: place(provider), key: place(key) });
                self.readable = Told::Yes;
                if matches!(form, Form::Sealed(_)) {
                    self.opened_bytes = Some(plaintext.len());
                    self.inspect(address, plaintext);
                }
                if self.state == State::Empty && matches!(address, Address::Object(_)) {
                    self.no_object(PayloadError::NoForm);
                }
                self.serve(stale);
            }
            Answer::Failed(failure) => self.fail(failure),
            Answer::Waits { .. } => {
                self.findings.insert(ValueFinding::UnverifiedKms);
                self.reason = Some(Reason::Waits);
            }
        }
    }

    /// Nobody can say whether it opens.
    ///
    /// A stored object at a key that is none lies below a root that was not found; in plaintext it would pass for somebody
    /// else's business.
    fn leave_closed(&mut self, rules: &Rules, address: &Address<'_>, form: &Form<'_>, value: &[u8]) {
        let is_stored = || payload::sniff(value) == Some(Encoding::Protobuf);
        let lost = *address == Address::Foreign && self.state == State::Plaintext && is_stored();
        if rules.given() && (matches!(form, Form::Sealed(_)) || lost) {
            self.findings.insert(ValueFinding::UnverifiedUncovered);
            self.reason = Some(Reason::Uncovered);
        }
    }

    /// Looks into a plaintext: it must be an object, and the one that the key names.
    fn inspect(&mut self, address: &Address<'_>, plaintext: &[u8]) {
        let depth = if self.proves_nothing() { Depth::All } else { Depth::Fields };
        if let Address::Object(object) = address
            && schema::proves(plaintext, object, depth)
        {
            self.encoding = Some(Encoding::Protobuf);
            return;
        }
        if matches!(prefix::form(plaintext), Form::Sealed(_) | Form::Unrecognised) {
            self.findings.insert(ValueFinding::DoubleEncrypted);
            self.findings.insert(ValueFinding::NotAnObject);
            self.reason = Some(Reason::SealedTwice);
            return;
        }
        match payload::identify(plaintext) {
            Err(error) => self.no_object(error),
            Ok((encoding, identity)) => {
                if let Some(error) = self.unsound(encoding, plaintext) {
                    self.no_object(error);
                    return;
                }
                self.encoding = Some(encoding);
                if let Address::Object(object) = address
                    && let Some(mismatch) = payload::mismatch(object, &identity)
                {
                    self.findings.insert(ValueFinding::NameMismatch);
                    self.reason = Some(Reason::Mismatch(mismatch));
                }
            }
        }
    }

    /// What the API server's decoder would stumble over inside the object. Only ciphers that prove nothing about what they
    /// open need that: a bit that flipped in the store is noise in the middle of an object whose name still fits.
    fn unsound(&self, encoding: Encoding, plaintext: &[u8]) -> Option<PayloadError> {
        if !self.proves_nothing() || encoding != Encoding::Protobuf {
            return None;
        }
        match schema::look_through(plaintext).err()? {
            DecodeError::Malformed { encoding, offset, what } => {
                Some(PayloadError::Malformed { encoding, offset, fault: what })
            }
            DecodeError::NoForm => Some(PayloadError::NoForm),
        }
    }

    /// Whether its cipher opens noise as readily as anything else.
    fn proves_nothing(&self) -> bool {
        matches!(self.kind, Some(SealedKind::AesCbc | SealedKind::KmsV1))
    }

    fn no_object(&mut self, error: PayloadError) {
        if self.kind.is_some() || self.state == State::Empty {
            self.findings.insert(ValueFinding::NotAnObject);
        } else {
            self.state = State::Unrecognised;
        }
        self.reason = Some(Reason::NotAnObject(error));
    }

    /// It opened; whether the API server can also decode it decides whether it serves it.
    fn serve(&mut self, stale: bool) {
        if self.findings.contains(ValueFinding::NotAnObject) || self.state == State::Unrecognised {
            self.readable = Told::No;
        } else {
            self.stale = Told::from_bool(stale);
            if stale {
                self.findings.insert(ValueFinding::Stale);
            }
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.readable = Told::No;
        if self.state != State::Unrecognised {
            self.findings.insert(match failure.kind() {
                FailureKind::UnknownKey => ValueFinding::UnknownKey,
                FailureKind::WrongKey => ValueFinding::WrongKey,
                FailureKind::Malformed => ValueFinding::Malformed,
                FailureKind::NoIdentity => ValueFinding::NoIdentity,
                FailureKind::Kms => ValueFinding::Kms,
            });
        }
        self.reason = Some(Reason::Closed(failure));
    }

    /// What follows from the state, and from the key it is on.
    fn findings_by_state(&mut self, rules: &Rules) {
        if self.state == State::Unrecognised {
            self.findings.insert(ValueFinding::Unrecognised);
        }
        let writer = self.guard.and_then(|chain| rules.chain(chain)).map(|chain| chain.writer());
        let would_encrypt = writer.is_some_and(|label| !label.version.is_empty());
        if self.state == State::Plaintext && would_encrypt {
            self.findings.insert(ValueFinding::Plaintext);
        }
        if let Some(finding) = self.opened_by.and_then(|key| rules.suspicion(key)) {
            self.findings.insert(finding);
        }
    }

    /// What the value holds, if it opened: `value` and `scratch` are those that it was judged with.
    pub fn plaintext<'p>(&self, value: &'p [u8], scratch: &'p Plaintext) -> Option<&'p [u8]> {
        self.opened_by?;
        Some(self.opened_bytes.map_or(value, |bytes| scratch.opened(bytes)))
    }

    /// The findings of this value as an older revision of its key.
    pub fn history_findings(&self, rules: &Rules) -> FindingSet {
        let mut findings = FindingSet::default();
        if self.findings.contains(ValueFinding::Plaintext) {
            findings.insert(ValueFinding::HistoryPlaintext);
        }
        let Some(writer) = self.guard.and_then(|chain| rules.chain(chain)).map(|chain| chain.writer()) else {
            return findings;
        };
        let named = |kind: SealedKind| {
            (kind.provider(), kind.version()) == (writer.provider, writer.version)
                && self.key_name.as_deref() == Some(writer.name.as_bytes())
        };
        if self.kind.is_some_and(|kind| !named(kind) || self.stale == Told::Yes) {
            findings.insert(ValueFinding::HistoryOldKey);
        }
        findings
    }
}

/// The key id of a KMS v2 value under a name. What opened holds an envelope; of anything else that has to be seen.
fn kms_key_id<'v>(sealed: &Sealed<'v>, name: Option<&[u8]>, opened: bool) -> Option<&'v str> {
    if sealed.kind != SealedKind::KmsV2 {
        return None;
    }
    let body = sealed.body_under(name?)?;
    if opened { v2::key_id(body) } else { v2::Envelope::parse(body).ok().map(|envelope| envelope.key_id) }
}
