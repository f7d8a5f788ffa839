//! Records with new values, made many at a time: where a cipher is serial within a value, values are sealed side by side.

use std::io;

use zeroize::Zeroizing;

use crate::audit::rules::ChainRef;
use crate::bbolt::page::LeafSizes;
use crate::bbolt::write::{Packer, WriteError};
use crate::etcd::revision::REVISION_BYTES;
use crate::etcd::{Around, KeyValue, RevisionKey};
use crate::provider::chain::{Chain, Unsealed};
use crate::provider::fault::SealError;

use super::target::{Numbered, RandomStream, Target};

/// Bytes of records that are gathered before they are sealed and packed.
const BATCH_BYTES: usize = 256 << 10;

/// Why a value could not be sealed or packed.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The cipher, or the randomness that it needs.
    #[error("the value at revision {revision} cannot be sealed: {source}")]
    Seal {
        /// Its main revision.
        revision: i64,
        /// Why.
        source: SealError,
    },
    /// It came out in another length than it was to have.
    #[error("the value at revision {0} has another length than its cipher says")]
    Length(i64),
    /// It cannot be packed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Records that are being made.
#[derive(Debug)]
pub struct Batch {
    /// Keys and records one behind the other. Only between two calls of [`seal`](Self::seal) is there plaintext in it.
    bytes: Vec<u8>,
    pairs: Vec<LeafSizes>,
    /// What is not sealed yet, by chain.
    unsealed: Vec<(ChainRef, Vec<Unsealed>)>,
}

/// A pair that is being made.
struct Begun {
    key_bytes: usize,
    /// Where its record begins.
    record: usize,
}

/// Nothing yet.
impl Default for Batch {
    fn default() -> Self {
        Self { bytes: Vec::with_capacity(2 * BATCH_BYTES), pairs: Vec::new(), unsealed: Vec::new() }
    }
}

impl Batch {
    /// Adds a record as it is.
    pub fn keep(&mut self, key: RevisionKey, record: &[u8], target: &Target) {
        self.reserve(record.len(), target);
        let begun = self.begin(key);
        self.bytes.extend_from_slice(record);
        self.end(begun);
    }

    /// Adds a record whose value is written anew.
    pub fn rewrite(
        &mut self,
        key: RevisionKey,
        record: &[u8],
        (kv, plaintext): (&KeyValue<'_>, &[u8]),
        chain: Option<ChainRef>,
        (target, randomness): (&Target, &mut dyn RandomStream),
    ) -> Result<(), MakeError> {
        let revision = key.revision.main;
        let sealer = Sealer::of(target, chain);
        let value_bytes = sealer.bytes(plaintext.len()).map_err(|source| MakeError::Seal { revision, source })?;
        self.reserve(record.len() + value_bytes, target);
        // It was decoded a moment ago, so it is a record.
        let around = Around::of(record).ok_or(MakeError::Length(revision))?;
        let begun = self.begin(key);
        around.put_before(value_bytes, &mut self.bytes);
        let start = self.bytes.len();
        let fill = |bytes: &mut [u8]| randomness.fill(&key, bytes);
        let unsealed = sealer.seal(kv.key, plaintext, fill, &mut self.bytes);
        if let Some((chain, unsealed)) = unsealed.map_err(|source| MakeError::Seal { revision, source })? {
            match self.unsealed.iter_mut().find(|(known, _)| *known == chain) {
                Some((_, waiting)) => waiting.push(unsealed),
                None => self.unsealed.push((chain, vec![unsealed])),
            }
        }
        if self.bytes.len() - start != value_bytes {
            return Err(MakeError::Length(revision));
        }
        around.put_behind(&mut self.bytes);
        self.end(begun);
        Ok(())
    }

    /// Whether it is time to [`pack`](Self::pack).
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    /// Seals what is not sealed yet and gives all records to `packer`.
    pub fn pack(&mut self, packer: &mut Packer, target: &Target) -> Result<(), MakeError> {
        self.seal(target);
        packer.push_all(&self.pairs, &self.bytes)?;
        self.pairs.clear();
        self.bytes.clear();
        Ok(())
    }

    /// Begins a pair; what is appended from now on is its record.
    fn begin(&mut self, key: RevisionKey) -> Begun {
        let (key, key_bytes) = key.bytes();
        self.bytes.extend_from_slice(key.get(..key_bytes).unwrap_or_default());
        Begun { key_bytes, record: self.bytes.len() }
    }

    fn end(&mut self, Begun { key_bytes, record }: Begun) {
        let value_bytes = u32::try_from(self.bytes.len() - record).unwrap_or(u32::MAX);
        self.pairs.push(LeafSizes { is_bucket: false, key_bytes: key_bytes as u32, value_bytes });
    }

    /// Makes room. A buffer that moves must not leave plaintext behind.
    fn reserve(&mut self, bytes: usize, target: &Target) {
        // The key, and numbers and lengths of the fields around the value.
        let bytes = bytes + REVISION_BYTES + 64;
        if self.bytes.capacity() - self.bytes.len() < bytes {
            self.seal(target);
            self.bytes.reserve(bytes);
        }
    }

    fn seal(&mut self, target: &Target) {
        let Target::Configured { rules, .. } = target else { return };
        for (chain, unsealed) in &mut self.unsealed {
            if let Some(chain) = rules.chain(*chain) {
                chain.seal_all(&mut self.bytes, unsealed);
            }
            unsealed.clear();
        }
    }
}

/// Seals a value by itself: what is to be stored at a key, whose `plaintext` it holds.
///
/// # Errors
///
/// [`MakeError`].
pub fn seal_one(
    target: &Target,
    chain: Option<ChainRef>,
    (at, key): (RevisionKey, &[u8]),
    plaintext: &[u8],
    randomness: &mut dyn RandomStream,
) -> Result<Zeroizing<Vec<u8>>, MakeError> {
    let revision = at.revision.main;
    let failed = |source| MakeError::Seal { revision, source };
    let sealer = Sealer::of(target, chain);
    let bytes = sealer.bytes(plaintext.len()).map_err(failed)?;
    // With room for all of it from the beginning no plaintext is left where the buffer was before it grew.
    let mut sealed = Zeroizing::new(Vec::with_capacity(bytes));
    let fill = |bytes: &mut [u8]| randomness.fill(&at, bytes);
    let unsealed = sealer.seal(key, plaintext, fill, &mut sealed).map_err(failed)?;
    if let (Some((chain, unsealed)), Target::Configured { rules, .. }) = (unsealed, target)
        && let Some(chain) = rules.chain(chain)
    {
        chain.seal_all(&mut sealed, &[unsealed]);
    }
    if sealed.len() == bytes { Ok(sealed) } else { Err(MakeError::Length(revision)) }
}

/// What seals a value.
enum Sealer<'s> {
    /// Nothing does.
    Plaintext,
    /// The first key of a chain.
    Chain(ChainRef, &'s Chain),
    /// A KMS provider, with the data key of this number.
    Kms(&'s Numbered, usize),
}

impl<'s> Sealer<'s> {
    fn of(target: &'s Target, chain: Option<ChainRef>) -> Self {
        let (Target::Configured { rules, sealings, .. }, Some(chain)) = (target, chain) else { return Self::Plaintext };
        match (sealings.of(chain), rules.chain(chain)) {
            (Some(kms), _) => Self::Kms(kms, kms.next()),
            (None, Some(prepared)) => Self::Chain(chain, prepared),
            (None, None) => Self::Plaintext,
        }
    }

    fn bytes(&self, plaintext: usize) -> Result<usize, SealError> {
        match self {
            Self::Plaintext => Ok(plaintext),
            Self::Chain(_, chain) => {
                chain.sealed_bytes(plaintext).ok_or_else(|| SealError::Kms(chain.writer().name.to_owned()))
            }
            Self::Kms(kms, value) => kms.sealing.sealed_bytes(*value, plaintext).ok_or(SealError::NoDek(*value)),
        }
    }

    fn seal(
        &self,
        aad: &[u8],
        plaintext: &[u8],
        fill: impl FnMut(&mut [u8]) -> io::Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<Option<(ChainRef, Unsealed)>, SealError> {
        match self {
            Self::Plaintext => {
                out.extend_from_slice(plaintext);
                Ok(None)
            }
            Self::Chain(number, chain) => {
                let unsealed = chain.seal_later(aad, plaintext, fill, out)?;
                Ok(unsealed.map(|unsealed| (*number, unsealed)))
            }
            Self::Kms(kms, value) => {
                kms.sealing.seal(*value, aad, plaintext, fill, out)?;
                Ok(None)
            }
        }
    }
}
