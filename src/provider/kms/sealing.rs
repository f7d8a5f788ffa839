//! What a KMS provider writes with: DEKs that its plugin has wrapped.
//!
//! The wrapping is done before the first value is sealed, by whoever speaks to plugins; here it comes in as bytes. A
//! [`SealForm`] tells how many DEKs so many values need. From then on a [`Sealing`] works without the plugin, and is
//! shared between threads.
//!
//! Upstream: `TransformToStorage` of `kubernetes/apiserver`, `pkg/storage/value/encrypt/envelope/envelope.go` and
//! `kmsv2/envelope.go`. An API server gives the nonces of its plain v2 DEKs out by a counter; here each such DEK seals one
//! value, with a random nonce.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::super::aescbc::{self, AesCbc};
use super::super::aesgcm::{self, AesGcm};
use super::super::fault::SealError;
use super::super::prefix::SealedKind;
use super::super::secret::SecretKey;
use super::super::spec::KmsVersion;
use super::v2::{INFO_BYTES, Seed};
use super::{
    Annotations, DEK_BYTES, DekSource, DekTable, EnvelopeError, FreshDeks, OwnedDekRequest, PluginState, v1, v2,
};

/// Which of the envelopes that API servers have written is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SealForm {
    /// KMS v2, one seed for everything: what API servers write since 1.29, and read since 1.28.
    V2Seed,
    /// KMS v2, a DEK for each value: what API servers read since 1.25.
    V2Keys,
    /// KMS v1, a DEK for each value, AES-GCM inside: written since 1.25, read since 1.24.
    V1Gcm,
    /// KMS v1 with AES-CBC inside, for API servers before 1.24. Newer ones read it as stale.
    V1Cbc,
}

impl SealForm {
    /// The protocol in which its DEKs are wrapped.
    pub fn version(self) -> KmsVersion {
        match self {
            Self::V2Seed | Self::V2Keys => KmsVersion::V2,
            Self::V1Gcm | Self::V1Cbc => KmsVersion::V1,
        }
    }

    /// How many DEKs so many values need.
    pub fn deks(self, values: u64) -> u64 {
        match self {
            Self::V2Seed => values.min(1),
            Self::V2Keys | Self::V1Gcm | Self::V1Cbc => values,
        }
    }

    /// What its DEKs are used for.
    pub fn source(self) -> DekSource {
        match self {
            Self::V2Seed => DekSource::Seed,
            Self::V2Keys | Self::V1Gcm | Self::V1Cbc => DekSource::Key,
        }
    }
}

/// What a plugin has made of a DEK, checked, and as it stands in an envelope of one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped(Box<[u8]>);

impl Wrapped {
    /// Takes a plugin's answer. KMS v1 has no key id and no annotations; they are left out there.
    ///
    /// # Errors
    ///
    /// What upstream has against it: in KMS v2 in the order wrapped DEK, key id, annotations; in KMS v1 only that it is
    /// too long. There an empty one is refused as well, which upstream would store and never open.
    pub fn new(
        form: SealForm,
        encrypted_dek: &[u8],
        key_id: &str,
        annotations: Annotations<'_>,
    ) -> Result<Self, EnvelopeError> {
        let bytes = match form.version() {
            KmsVersion::V1 => v1::head(encrypted_dek)?,
            KmsVersion::V2 => {
                let source = form.source();
                v2::Envelope { encrypted_data: &[], key_id, encrypted_dek, annotations, source }.tail()?
            }
        };
        Ok(Self(bytes.into_boxed_slice()))
    }

    /// What the plugin called `provider` must be asked to unwrap it.
    fn request(&self, form: SealForm, provider: &str) -> Result<OwnedDekRequest, EnvelopeError> {
        Ok(match form.version() {
            KmsVersion::V1 => v1::Envelope::parse(&self.0)?.request(provider).to_owned(),
            KmsVersion::V2 => v2::Envelope::of_tail(&self.0)?.request(provider).to_owned(),
        })
    }
}

/// A KMS provider that can write. Its `Debug` tells how many DEKs it has.
pub struct Sealing {
    provider: String,
    form: SealForm,
    // Everything that is stored begins with this.
    prefix: Vec<u8>,
    // Empty in KMS v1.
    key_id: String,
    deks: Arc<FreshDeks>,
    wrapped: Vec<Wrapped>,
    // The first DEK, if it is a seed.
    seed: Option<Seed>,
}

impl Sealing {
    /// Takes DEKs and what the plugin of `provider` has made of each, in the same order and all of the same form and key
    /// id. Of seeds only the first is used.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::NoDek`] if there is none.
    pub fn new(
        provider: &str,
        form: SealForm,
        deks: Arc<FreshDeks>,
        wrapped: Vec<Wrapped>,
    ) -> Result<Self, EnvelopeError> {
        let first = wrapped.first().zip(deks.get(0));
        let (first, dek) = first.ok_or(EnvelopeError::NoDek)?;
        let key_id = first.request(form, provider)?.key_id;
        let seed = match form.source() {
            DekSource::Key => None,
            DekSource::Seed => Some(Seed::new(dek).ok_or(EnvelopeError::NoDek)?),
        };
        let kind = match form.version() {
            KmsVersion::V1 => SealedKind::KmsV1,
            KmsVersion::V2 => SealedKind::KmsV2,
        };
        let prefix = [kind.prefix(), provider.as_bytes(), b":"].concat();
        Ok(Self { provider: provider.to_string(), form, prefix, key_id, deks, wrapped, seed })
    }

    /// Appends to `out` what the provider stores, prefix included. `value` is the value's number, from 0, among those
    /// that DEKs were wrapped for: where each value has a DEK of its own, it says which, and must not come twice. `aad` is
    /// the etcd key as the API server knows it, `fill` gives random bytes.
    ///
    /// # Errors
    ///
    /// [`SealError`]; `out` then is as it was.
    pub fn seal(
        &self,
        value: usize,
        aad: &[u8],
        plaintext: &[u8],
        fill: impl FnMut(&mut [u8]) -> io::Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let place = if self.seed.is_some() { 0 } else { value };
        let (dek, wrapped) = self.dek(place).ok_or(SealError::NoDek(value))?;
        let before = out.len();
        // Reserved beforehand, since a buffer that moves would leave plaintext behind.
        out.reserve(self.sealed_bytes(value, plaintext.len()).ok_or(SealError::NoDek(value))?);
        out.extend_from_slice(&self.prefix);
        let sealed = match self.form.version() {
            KmsVersion::V1 => self.seal_v1(dek, wrapped, (aad, plaintext), fill, out),
            KmsVersion::V2 => self.seal_v2(dek, wrapped, (aad, plaintext), fill, out),
        };
        sealed.inspect_err(|_| out.truncate(before))
    }

    fn seal_v1(
        &self,
        dek: &[u8; DEK_BYTES],
        wrapped: &[u8],
        (aad, plaintext): (&[u8], &[u8]),
        mut fill: impl FnMut(&mut [u8]) -> io::Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        out.extend_from_slice(wrapped);
        // The DEK has a length that both ciphers take.
        let no_cipher = || SealError::TooLong(plaintext.len());
        if self.form == SealForm::V1Cbc {
            let mut iv = [0; aescbc::IV_BYTES];
            fill(&mut iv)?;
            AesCbc::new(dek).ok_or_else(no_cipher)?.seal(plaintext, &iv, out);
            return Ok(());
        }
        let mut nonce = [0; aesgcm::NONCE_BYTES];
        fill(&mut nonce)?;
        AesGcm::new(dek).ok_or_else(no_cipher)?.seal(aad, plaintext, &nonce, out)
    }

    fn seal_v2(
        &self,
        dek: &[u8; DEK_BYTES],
        wrapped: &[u8],
        (aad, plaintext): (&[u8], &[u8]),
        mut fill: impl FnMut(&mut [u8]) -> io::Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let mut nonce = [0; aesgcm::NONCE_BYTES];
        let encrypted_bytes = plaintext.len() + aesgcm::OVERHEAD_BYTES;
        if let Some(seed) = &self.seed {
            let mut info = [0; INFO_BYTES];
            fill(&mut info)?;
            fill(&mut nonce)?;
            v2::Envelope::write_head(INFO_BYTES + encrypted_bytes, out);
            seed.seal(aad, plaintext, &info, &nonce, out)?;
        } else {
            fill(&mut nonce)?;
            v2::Envelope::write_head(encrypted_bytes, out);
            AesGcm::new(dek).ok_or(SealError::TooLong(plaintext.len()))?.seal(aad, plaintext, &nonce, out)?;
        }
        out.extend_from_slice(wrapped);
        Ok(())
    }

    fn dek(&self, place: usize) -> Option<(&[u8; DEK_BYTES], &[u8])> {
        Some((self.deks.get(place)?, &self.wrapped.get(place)?.0))
    }

    /// How many bytes [`seal`](Self::seal) appends for a plaintext of this length; `None` if it has no DEK for the value.
    pub fn sealed_bytes(&self, value: usize, plaintext: usize) -> Option<usize> {
        let (_, wrapped) = self.dek(if self.seed.is_some() { 0 } else { value })?;
        let body = match self.form {
            SealForm::V1Cbc => aescbc::body_bytes(plaintext),
            SealForm::V1Gcm => plaintext + aesgcm::OVERHEAD_BYTES,
            SealForm::V2Keys => v2::Envelope::framed_bytes(plaintext + aesgcm::OVERHEAD_BYTES),
            SealForm::V2Seed => v2::Envelope::framed_bytes(INFO_BYTES + plaintext + aesgcm::OVERHEAD_BYTES),
        };
        Some(self.prefix.len() + wrapped.len() + body)
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The form of what it writes.
    pub fn form(&self) -> SealForm {
        self.form
    }

    /// The key that all DEKs are wrapped under; empty for KMS v1, which does not tell.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// How many DEKs there are.
    pub fn deks(&self) -> usize {
        match self.seed {
            Some(_) => 1,
            None => self.deks.len().min(self.wrapped.len()),
        }
    }

    /// What the plugin must be asked to open what is sealed with the DEK at a place, and what it should answer.
    pub fn answer(&self, place: usize) -> Option<(OwnedDekRequest, SecretKey)> {
        let request = self.wrapped.get(place)?.request(self.form, &self.provider).ok()?;
        Some((request, SecretKey::new(self.deks.get(place)?.to_vec())))
    }

    /// Notes in a table what the plugin should answer to all of it, and the state in which an API server writes like
    /// this, so that what is sealed opens without asking. That proves what was done here; what the plugin does, only the
    /// plugin shows.
    pub fn remember(&self, table: &mut DekTable) {
        for (request, dek) in (0..self.deks()).filter_map(|place| self.answer(place)) {
            table.insert(request, Ok(dek));
        }
        if self.form.version() == KmsVersion::V2 {
            let state = PluginState::Ready { key_id: self.key_id.clone(), source: self.form.source() };
            table.set_state(&self.provider, state);
        }
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealing({:?} by {:?}, {} DEKs)", self.form, self.provider, self.deks())
    }
}

#[cfg(test)]
mod tests;
