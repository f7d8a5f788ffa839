//! One stored value, opened for its content.
//!
//! The audit proves that a value opens and keeps nothing of it; here the plaintext is what is wanted. Who guards a value, and
//! how it opens, is the audit's business in both cases.

use std::borrow::Cow;

use crate::audit::classify::{Reason, settle};
use crate::audit::deks::Deks;
use crate::audit::rules::{Guard, KeyRef, Rules};
use crate::kube::key::Address;
use crate::provider::chain::{Answer, Label};
use crate::provider::plaintext::Plaintext;
use crate::provider::prefix::{self, Form};

/// What became of a value.
pub enum Opened<'a> {
    /// This is what it holds.
    Plain {
        /// The content.
        plaintext: &'a [u8],
        /// What it was sealed with; of a value that is stored as it is, the identity.
        label: Label<'a>,
        /// The same by its place in the configuration; none where the value is stored as it is and no provider was asked.
        opener: Option<KeyRef>,
        /// Whether the configuration would store it in another form now; unknown without one.
        stale: Option<bool>,
    },
    /// It stays closed.
    Closed {
        /// What it says it was sealed with: provider, version and name.
        sealed: SealedBy<'a>,
        /// Why.
        reason: Reason,
    },
}

/// What a value says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedBy<'a> {
    /// `aescbc`, `kms` and so on; empty where it is not told.
    pub provider: &'static str,
    /// `v1` or `v2`.
    pub version: &'static str,
    /// The key's name, as far as the value alone tells.
    pub name: Cow<'a, str>,
}

impl SealedBy<'_> {
    /// The same without a tie to the value.
    pub fn into_owned(self) -> SealedBy<'static> {
        SealedBy { name: Cow::Owned(self.name.into_owned()), ..self }
    }
}

/// What a stored value says it was sealed with; none if it is not sealed.
pub fn sealed_by(value: &[u8]) -> Option<SealedBy<'_>> {
    match prefix::form(value) {
        Form::Sealed(sealed) => Some(SealedBy {
            provider: sealed.kind.provider(),
            version: sealed.kind.version(),
            name: sealed.name_guess().map_or(Cow::Borrowed(""), String::from_utf8_lossy),
        }),
        Form::Unrecognised => Some(SealedBy::default()),
        Form::Plain | Form::Empty => None,
    }
}

/// Opens the value that is stored at `key`, which leads to `address`. `scratch` holds the plaintext meanwhile.
pub fn open<'a>(
    rules: &'a Rules,
    deks: &Deks,
    address: &Address<'_>,
    key: &[u8],
    value: &'a [u8],
    scratch: &'a mut Plaintext,
) -> Opened<'a> {
    let guard = settle(rules, deks, (address, rules.guard(address)), key, value, scratch);
    let closed = |reason| Opened::Closed { sealed: sealed_by(value).unwrap_or_default(), reason };
    let chain = match guard {
        Guard::Chain(chain) => chain,
        Guard::Unsettled | Guard::Nobody if sealed_by(value).is_none() => {
            return Opened::Plain { plaintext: value, label: Label::IDENTITY, opener: None, stale: None };
        }
        Guard::Unsettled | Guard::Nobody => return closed(Reason::Uncovered),
    };
    let Some(prepared) = rules.chain(chain) else { return closed(Reason::Uncovered) };
    match prepared.open(key, value, deks.of(chain), scratch) {
        Answer::Opened { plaintext, provider, key, stale } => {
            let label = prepared.label(provider, key).unwrap_or(Label::IDENTITY);
            let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
            let opener = Some(KeyRef { chain, provider: place(provider), key: place(key) });
            Opened::Plain { plaintext, label, opener, stale: Some(stale) }
        }
        // Whoever wants to see what is stored is not kept from it by a configuration without identity.
        Answer::Failed(_) if sealed_by(value).is_none() => {
            Opened::Plain { plaintext: value, label: Label::IDENTITY, opener: None, stale: Some(true) }
        }
        Answer::Failed(failure) => closed(Reason::Closed(failure)),
        Answer::Waits { .. } => closed(Reason::Waits),
    }
}
