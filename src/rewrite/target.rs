//! What is to be written: as kube-apiserver would with other configurations, or nothing but plaintext.

use std::io;

use crate::audit::deks::Deks;
use crate::audit::rules::{ChainRef, Guard, Rules};
use crate::etcd::RevisionKey;
use crate::kube::key::{Address, ObjectKey};
use crate::kube::payload;
use crate::kube::resource::GroupResource;
use crate::provider::chain::Label;

/// The form in which values are to be stored.
pub enum Target {
    /// As API servers with these configurations write them.
    Configured {
        /// The configurations.
        rules: Rules,
        /// What their KMS plugins opened and wrapped.
        deks: Deks,
    },
    /// As plaintext.
    Plaintext,
}

impl Target {
    /// The chain that will guard what an address leads to; `plaintext` settles it where the key leaves the group open. None
    /// where no configuration of the target speaks for it.
    pub fn chain(&self, guard: Guard, address: &ObjectKey<'_>, plaintext: &[u8]) -> Option<ChainRef> {
        let Self::Configured { rules, .. } = self else { return None };
        let settled = match guard {
            Guard::Unsettled => {
                let (_, identity) = payload::identify(plaintext).ok()?;
                rules.guard_of(address.server, &GroupResource::new(identity.group(), address.resource))
            }
            guard => guard,
        };
        match settled {
            Guard::Chain(chain) => Some(chain),
            Guard::Unsettled | Guard::Nobody => None,
        }
    }

    /// Who will guard what an address leads to.
    pub fn guard(&self, address: &Address<'_>) -> Guard {
        match self {
            Self::Configured { rules, .. } => rules.guard(address),
            Self::Plaintext => Guard::Nobody,
        }
    }

    /// What a chain writes.
    pub fn writer(&self, chain: Option<ChainRef>) -> Label<'_> {
        match (self, chain) {
            (Self::Configured { rules, .. }, Some(chain)) => {
                rules.chain(chain).map_or(Label::IDENTITY, |chain| chain.writer())
            }
            _ => Label::IDENTITY,
        }
    }
}

/// Where nonces and IVs come from.
///
/// It is asked by record and not by thread, so that a source that always says the same gives the same file whatever the
/// number of threads.
pub trait Randomness: Sync {
    /// Fills `bytes` for the value at this revision.
    fn fill(&self, revision: &RevisionKey, bytes: &mut [u8]) -> io::Result<()>;
}

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, _revision: &RevisionKey, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }
}
