//! The envelope of KMS v2: a protobuf message around an AES-GCM body.
//!
//! | field | name | type |
//! |---|---|---|
//! | 1 | encryptedData | bytes, not empty |
//! | 2 | keyID | string of 1 to 1024 bytes |
//! | 3 | encryptedDEKSource | bytes, 1 to 1024 of them |
//! | 4 | annotations | map of string to bytes |
//! | 5 | encryptedDEKSourceType | 0 a key, 1 a seed; absent is 0 |
//!
//! ```text
//! encryptedData := an aesgcm body                        source type 0: under the DEK
//!                | INFO (32 bytes) || an aesgcm body     source type 1: under HKDF-Expand(seed, INFO)
//! ```
//!
//! The derivation is expand only: the seed is the pseudorandom key, and there is no salt.
//!
//! Upstream: `kubernetes/apiserver`, `pkg/storage/value/encrypt/envelope/kmsv2`, and
//! `pkg/storage/value/encrypt/aes/aes_extended_nonce.go`.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::super::aesgcm::{self, AesGcm, NONCE_BYTES};
use super::super::fault::{Fault, SealError};
use super::super::plaintext::Plaintext;
use super::super::spec::KmsVersion;
use super::wire::{self, Value};
use super::{Annotations, DekRequest, DekSource, EnvelopeError};

/// The bytes in front of the body that the key is derived with.
pub const INFO_BYTES: usize = 32;

/// The length of a derived key.
const DERIVED_KEY_BYTES: usize = 32;

/// The most bytes of a wrapped DEK, and of a key id.
const MAX_FIELD_BYTES: usize = 1024;

/// An envelope, parsed and checked as upstream checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'v> {
    /// The sealed value, with INFO in front if the DEK is a seed.
    pub encrypted_data: &'v [u8],
    /// The plugin's name for the key that wrapped the DEK.
    pub key_id: &'v str,
    /// What the plugin made of the DEK.
    pub encrypted_dek: &'v [u8],
    /// What the plugin wants back with it.
    pub annotations: Annotations<'v>,
    /// What the DEK is used for.
    pub source: DekSource,
}

/// The message as it is on the wire, nothing checked.
struct Message<'v> {
    encrypted_data: &'v [u8],
    key_id: &'v str,
    encrypted_dek: &'v [u8],
    annotations: Annotations<'v>,
    source_type: i32,
}

impl<'v> Envelope<'v> {
    /// Parses a body, which is what follows the provider's name and its colon.
    ///
    /// # Errors
    ///
    /// In upstream's order: wire format, source type, data, wrapped DEK, key id, annotations.
    pub fn parse(body: &'v [u8]) -> Result<Self, EnvelopeError> {
        let message = Message::parse(body)?;
        let source = match message.source_type {
            0 => DekSource::Key,
            1 => DekSource::Seed,
            unknown => return Err(EnvelopeError::SourceType(unknown)),
        };
        if message.encrypted_data.is_empty() {
            return Err(EnvelopeError::NoData);
        }
        let Message { encrypted_data, key_id, encrypted_dek, annotations, .. } = message;
        let envelope = Self { encrypted_data, key_id, encrypted_dek, annotations, source };
        envelope.validate_wrapping()?;
        Ok(envelope)
    }

    /// The envelope that a [`tail`](Self::tail) belongs to, without data.
    pub(super) fn of_tail(tail: &'v [u8]) -> Result<Self, EnvelopeError> {
        let Message { key_id, encrypted_dek, annotations, source_type, .. } = Message::parse(tail)?;
        let source = if source_type == 0 { DekSource::Key } else { DekSource::Seed };
        Ok(Self { encrypted_data: &[], key_id, encrypted_dek, annotations, source })
    }

    /// Checks what the plugin has contributed.
    fn validate_wrapping(&self) -> Result<(), EnvelopeError> {
        match self.encrypted_dek.len() {
            0 => return Err(EnvelopeError::NoDek),
            1..=MAX_FIELD_BYTES => {}
            bytes => return Err(EnvelopeError::LongDek(bytes)),
        }
        match self.key_id.len() {
            0 => return Err(EnvelopeError::NoKeyId),
            1..=MAX_FIELD_BYTES => {}
            bytes => return Err(EnvelopeError::LongKeyId(bytes)),
        }
        self.annotations.validate()
    }

    /// Appends the body to `out`, with fields and annotations in ascending order.
    pub fn write(&self, out: &mut Vec<u8>) {
        Self::write_head(self.encrypted_data.len(), out);
        out.extend_from_slice(self.encrypted_data);
        self.write_tail(out);
    }

    /// Appends what stands in front of so many bytes of encrypted data; [`Self::write_tail`] follows them.
    pub(super) fn write_head(encrypted_bytes: usize, out: &mut Vec<u8>) {
        wire::write_head(1, encrypted_bytes, out);
    }

    /// So many bytes of encrypted data with what [`Self::write_head`] puts in front of them.
    pub(super) fn framed_bytes(encrypted_bytes: usize) -> usize {
        let mut head = Vec::new();
        Self::write_head(encrypted_bytes, &mut head);
        head.len() + encrypted_bytes
    }

    /// Appends what follows the encrypted data.
    fn write_tail(&self, out: &mut Vec<u8>) {
        wire::write_bytes(2, self.key_id.as_bytes(), out);
        wire::write_bytes(3, self.encrypted_dek, out);
        for (key, value) in self.annotations.iter() {
            let mut entry = Vec::new();
            wire::write_bytes(1, key.as_bytes(), &mut entry);
            wire::write_bytes(2, value, &mut entry);
            wire::write_bytes(4, &entry, out);
        }
        if self.source == DekSource::Seed {
            wire::write_number(5, 1, out);
        }
    }

    /// What follows the encrypted data of an envelope that a plugin has contributed to. The encrypted data is not looked at.
    ///
    /// # Errors
    ///
    /// In upstream's order: wrapped DEK, key id, annotations.
    pub(super) fn tail(&self) -> Result<Vec<u8>, EnvelopeError> {
        self.validate_wrapping()?;
        let mut tail = Vec::new();
        self.write_tail(&mut tail);
        Ok(tail)
    }

    /// What the plugin called `provider` must be asked.
    pub fn request(&self, provider: &'v str) -> DekRequest<'v> {
        DekRequest {
            provider,
            version: KmsVersion::V2,
            source: self.source,
            encrypted_dek: self.encrypted_dek,
            key_id: self.key_id,
            annotations: self.annotations.clone(),
        }
    }
}

impl<'v> Message<'v> {
    fn parse(mut rest: &'v [u8]) -> Result<Self, EnvelopeError> {
        let annotations = Annotations::none();
        let mut message = Self { encrypted_data: &[], key_id: "", encrypted_dek: &[], annotations, source_type: 0 };
        while !rest.is_empty() {
            let (number, value, behind) = wire::field(rest).ok_or(EnvelopeError::Wire)?;
            match (number, value) {
                (1, Value::Bytes(bytes)) => message.encrypted_data = bytes,
                (2, Value::Bytes(bytes)) => message.key_id = text(bytes)?,
                (3, Value::Bytes(bytes)) => message.encrypted_dek = bytes,
                (4, Value::Bytes(bytes)) => {
                    let (key, value) = annotation(bytes)?;
                    message.annotations.push(key, value);
                }
                // An enum has 32 bits, and upstream drops the others.
                (5, Value::Varint(number)) => message.source_type = number as i32,
                // Unknown fields are passed over, and so are known ones of another wire type.
                _ => {}
            }
            rest = behind;
        }
        message.annotations.settle();
        Ok(message)
    }
}

/// The encrypted data of a body that begins with some, as every release writes it, and what follows them: the wrapping, which
/// alone decides what the plugin must be asked. `None` where a body is laid out otherwise.
pub fn split(body: &[u8]) -> Option<(&[u8], &[u8])> {
    match wire::field(body)? {
        (1, Value::Bytes(data), wrapping) if !data.is_empty() => Some((data, wrapping)),
        _ => None,
    }
}

/// The key id of a body that holds an envelope, for which nothing else is looked at.
pub fn key_id(mut rest: &[u8]) -> Option<&str> {
    let mut id = None;
    while !rest.is_empty() {
        let (number, value, behind) = wire::field(rest)?;
        if let (2, Value::Bytes(bytes)) = (number, value) {
            id = Some(bytes);
        }
        rest = behind;
    }
    std::str::from_utf8(id?).ok()
}

/// The encrypted data of a body and whether INFO stands before it, without looking at anything else: what cannot be an
/// envelope may have some, too.
pub fn encrypted_data(mut rest: &[u8]) -> Option<(&[u8], bool)> {
    let (mut data, mut source_type) = (&[][..], 0);
    while !rest.is_empty() {
        let (number, value, behind) = wire::field(rest)?;
        match (number, value) {
            (1, Value::Bytes(bytes)) => data = bytes,
            (5, Value::Varint(number)) => source_type = number as i32,
            _ => {}
        }
        rest = behind;
    }
    Some((data, source_type == 1))
}

/// One entry of the map. Either half may be missing; then it is empty.
fn annotation(mut rest: &[u8]) -> Result<(&str, &[u8]), EnvelopeError> {
    let (mut key, mut held) = ("", &[][..]);
    while !rest.is_empty() {
        let (number, value, behind) = wire::field(rest).ok_or(EnvelopeError::Wire)?;
        match (number, value) {
            (1, Value::Bytes(bytes)) => key = text(bytes)?,
            (2, Value::Bytes(bytes)) => held = bytes,
            _ => {}
        }
        rest = behind;
    }
    Ok((key, held))
}

fn text(bytes: &[u8]) -> Result<&str, EnvelopeError> {
    std::str::from_utf8(bytes).map_err(|_| EnvelopeError::Utf8)
}

/// A seed, ready to derive keys.
pub struct Seed(Hkdf<Sha256>);

impl Seed {
    /// `None` if it has fewer than 32 bytes.
    pub fn new(seed: &[u8]) -> Option<Self> {
        Hkdf::from_prk(seed).ok().map(Self)
    }

    /// The key for one INFO.
    fn derive(&self, info: &[u8; INFO_BYTES]) -> Option<Zeroizing<[u8; DERIVED_KEY_BYTES]>> {
        let mut key = Zeroizing::new([0; DERIVED_KEY_BYTES]);
        self.0.expand(info, key.as_mut()).ok()?;
        Some(key)
    }

    /// Opens encrypted data of source type 1 into `scratch` and tells how many bytes there are plaintext.
    ///
    /// # Errors
    ///
    /// [`Fault::TooShort`] without whole INFO and nonce, else [`Fault::Authentication`].
    pub fn open(&self, aad: &[u8], encrypted_data: &[u8], scratch: &mut Plaintext) -> Result<usize, Fault> {
        let (info, body) = encrypted_data.split_first_chunk::<INFO_BYTES>().ok_or(Fault::TooShort)?;
        // Deriving fails only for keys of more than 255 digests.
        let key = self.derive(info).ok_or(Fault::Authentication)?;
        AesGcm::new(key.as_ref()).ok_or(Fault::Authentication)?.open(aad, body, scratch)
    }

    /// Appends encrypted data of source type 1 to `out`. INFO and nonce must be random.
    ///
    /// # Errors
    ///
    /// [`SealError::TooLong`] as for AES-GCM.
    pub fn seal(
        &self,
        aad: &[u8],
        plaintext: &[u8],
        info: &[u8; INFO_BYTES],
        nonce: &[u8; NONCE_BYTES],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let cipher = self.derive(info).and_then(|key| AesGcm::new(key.as_ref()));
        let cipher = cipher.ok_or(SealError::TooLong(plaintext.len()))?;
        let before = out.len();
        out.reserve(INFO_BYTES + plaintext.len() + aesgcm::OVERHEAD_BYTES);
        out.extend_from_slice(info);
        cipher.seal(aad, plaintext, nonce, out).inspect_err(|_| out.truncate(before))
    }
}

#[cfg(test)]
mod tests;
