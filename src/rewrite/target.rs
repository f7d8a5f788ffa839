//! What is to be written: as kube-apiserver would with other configurations, or nothing but plaintext.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

use crate::audit::deks::Deks;
use crate::audit::rules::{ChainRef, Guard, Rules};
use crate::etcd::RevisionKey;
use crate::kube::key::{Address, ObjectKey};
use crate::kube::payload;
use crate::kube::resource::GroupResource;
use crate::provider::chain::Label;
use crate::provider::kms::Sealing;

/// The form in which values are to be stored.
#[expect(clippy::large_enum_variant, reason = "there is one of it in a run")]
pub enum Target {
    /// As API servers with these configurations write them.
    Configured {
        /// The configurations.
        rules: Rules,
        /// What their KMS plugins opened and wrapped.
        deks: Deks,
        /// What their KMS providers write with.
        sealings: Sealings,
    },
    /// As plaintext.
    Plaintext,
}

/// What KMS providers write with, by the chains that begin with them.
#[derive(Debug, Default)]
pub struct Sealings {
    sealings: Vec<Numbered>,
    by_chain: Vec<(ChainRef, usize)>,
}

/// A provider's data keys, and the number of the value that comes next: where each value has a key of its own, it says which.
#[derive(Debug)]
pub struct Numbered {
    /// What seals.
    pub sealing: Sealing,
    next: AtomicUsize,
}

impl Numbered {
    /// A number that no other value has.
    pub fn next(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Sealings {
    /// Adds what the chains write with whose first provider it is.
    pub fn add(&mut self, sealing: Sealing, chains: impl IntoIterator<Item = ChainRef>) {
        let number = self.sealings.len();
        self.by_chain.extend(chains.into_iter().map(|chain| (chain, number)));
        self.sealings.push(Numbered { sealing, next: AtomicUsize::new(0) });
    }

    /// What a chain writes with.
    pub fn of(&self, chain: ChainRef) -> Option<&Numbered> {
        let (_, number) = self.by_chain.iter().find(|(known, _)| *known == chain)?;
        self.sealings.get(*number)
    }

    /// Numbers values from the first one again.
    pub fn restart(&self) {
        self.sealings.iter().for_each(|sealing| sealing.next.store(0, Ordering::Relaxed));
    }
}

impl Target {
    /// As API servers with these configurations write, none of which writes through a KMS plugin.
    pub fn configured(rules: Rules) -> Self {
        Self::Configured { rules, deks: Deks::default(), sealings: Sealings::default() }
    }

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

    /// Bytes of a stored value that holds so many, as far as that is known before it is sealed: what a KMS plugin adds is not.
    pub fn stored_bytes(&self, chain: Option<ChainRef>, plaintext: usize) -> usize {
        let (Self::Configured { rules, .. }, Some(chain)) = (self, chain) else { return plaintext };
        rules.chain(chain).and_then(|chain| chain.sealed_bytes(plaintext)).unwrap_or(plaintext)
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

/// Where nonces and IVs come from. Each worker has a stream of its own.
pub trait Randomness: Sync {
    /// A stream for one worker.
    fn stream(&self) -> Box<dyn RandomStream>;
}

/// Nonces and IVs for one worker.
///
/// It is asked by record, so that a source that always says the same of a record gives the same file whatever the number of
/// workers.
pub trait RandomStream {
    /// Fills `bytes` for the value at this revision.
    fn fill(&mut self, revision: &RevisionKey, bytes: &mut [u8]) -> io::Result<()>;
}

/// The operating system's: each stream is ChaCha20 under a key of its own that the system gave, as the system itself makes its
/// random bytes, and without a call into the kernel for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandomness;

/// A stream that takes its key when it is first asked, and wipes it in the end.
#[derive(Default)]
struct SystemStream(Option<ChaCha20Rng>);

impl Randomness for SystemRandomness {
    fn stream(&self) -> Box<dyn RandomStream> {
        Box::<SystemStream>::default()
    }
}

impl RandomStream for SystemStream {
    fn fill(&mut self, _revision: &RevisionKey, bytes: &mut [u8]) -> io::Result<()> {
        let rng = match &mut self.0 {
            Some(rng) => rng,
            none => {
                let mut key = Zeroizing::new([0; 32]);
                getrandom::fill(&mut *key).map_err(io::Error::other)?;
                none.insert(ChaCha20Rng::from_seed(*key))
            }
        };
        rng.fill_bytes(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::etcd::revision::Revision;

    #[test]
    fn streams_share_no_bytes_and_give_none_twice() {
        let at = RevisionKey { revision: Revision { main: 1, sub: 0 }, tombstone: false };
        let mut given = BTreeSet::new();
        for _ in 0..4 {
            let mut stream = SystemRandomness.stream();
            for _ in 0..1000 {
                let mut nonce = [0; 12];
                stream.fill(&at, &mut nonce).unwrap();
                assert!(given.insert(nonce));
            }
        }
        // As many as are asked for, even if it is much.
        let mut long = vec![0; 100_000];
        SystemRandomness.stream().fill(&at, &mut long).unwrap();
        assert!(long.chunks(1000).all(|piece| piece.iter().collect::<BTreeSet<_>>().len() > 200));
    }
}
