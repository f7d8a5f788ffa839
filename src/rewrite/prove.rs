//! The proof of one value: what was written holds exactly what the source's value does, on the key that the target writes
//! with; or it is the source's value, and was to stay.
//!
//! It does not know how values are stored: whoever reads both stores back gives them here in pairs.

use std::borrow::Cow;
use std::sync::Arc;

use crate::kube::key::Roots;
use crate::kube::locator::Locator;
use crate::provider::chain::Answer;
use crate::provider::kms::SealForm;
use crate::provider::plaintext::Plaintext;

use super::decide::{Decision, Policy, Scratch, Subject};
use super::judging::Folders;
use super::target::Target;

/// What is wrong with a value, as the end of a sentence that begins with its record.
pub type Wrong = Cow<'static, str>;

/// Proves one value after the other.
pub struct Proving<'p> {
    policy: &'p Policy<'p>,
    locator: Locator,
    guards: Folders,
    scratch: Scratch,
    /// What a written value holds.
    opened: Plaintext,
}

impl<'p> Proving<'p> {
    /// By what it was decided, and where the API servers keep their objects.
    pub fn new(policy: &'p Policy<'p>, roots: Arc<Roots>) -> Self {
        let (locator, guards) = (Locator::new(roots), Folders::default());
        Self { policy, locator, guards, scratch: Scratch::default(), opened: Plaintext::new() }
    }

    /// A value that is the source's, byte for byte.
    pub fn stayed(&mut self, key: &[u8], value: &[u8]) -> Result<(), Wrong> {
        let address = self.locator.locate(key);
        let guards = self.guards.of(&address, self.locator.folder(), self.policy);
        let subject = Subject { address: &address, guards, key, value };
        match self.policy.decide(subject, &mut self.scratch).decision {
            Decision::Stays(_) => Ok(()),
            Decision::Rewritten { .. } | Decision::Replaced(_) => Err("was to be written anew and was not".into()),
            Decision::Refused(_) => Err("does not open".into()),
        }
    }

    /// A value that differs from the source's. `written` gives it, once it is known that it may.
    pub fn written<'w>(
        &mut self,
        key: &[u8],
        value: &[u8],
        written: impl FnOnce() -> Result<&'w [u8], Wrong>,
    ) -> Result<(), Wrong> {
        let address = self.locator.locate(key);
        let guards = self.guards.of(&address, self.locator.folder(), self.policy);
        let subject = Subject { address: &address, guards, key, value };
        // That the source's value proves itself was seen when it was written anew, and the source has not changed since.
        let Some((plaintext, chain)) = self.policy.reopen(subject, &mut self.scratch) else {
            return Err("was to stay and differs".into());
        };
        let written = written()?;
        let (Target::Configured { rules, deks, sealings }, Some(chain)) = (self.policy.target, chain) else {
            return if written == plaintext { Ok(()) } else { Err("is not the plaintext".into()) };
        };
        let Some(prepared) = rules.chain(chain) else { return Err("has no chain".into()) };
        // To API servers of today the form that older ones wrote is stale, whatever its key.
        let may_be_stale = sealings.of(chain).is_some_and(|kms| kms.sealing.form() == SealForm::V1Cbc);
        match prepared.open(key, written, deks.of(chain), &mut self.opened) {
            Answer::Opened { plaintext: opened, provider: 0, key: 0, stale } if may_be_stale || !stale => {
                if opened == plaintext { Ok(()) } else { Err("opens as something else".into()) }
            }
            Answer::Opened { .. } => Err("is not on the key that the target writes with".into()),
            Answer::Failed(failure) => Err(format!("does not open: {failure}").into()),
            Answer::Waits { .. } => Err("waits for a KMS plugin that was not asked".into()),
        }
    }
}
