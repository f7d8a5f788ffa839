//! The envelope of KMS v1: a DEK for every write.
//!
//! ```text
//! body := LENGTH (u16, big-endian) || WRAPPED_DEK (LENGTH bytes) || inner
//! inner := an aesgcm body                 written since 1.25
//!        | an aescbc body                 written up to 1.24
//! ```
//!
//! Nothing tells the two inner forms apart, so AES-GCM is tried first; what opens only as AES-CBC is stale.
//!
//! Upstream: `kubernetes/apiserver`, `pkg/storage/value/encrypt/envelope/envelope.go`, and `unionTransformers` in
//! `pkg/server/options/encryptionconfig/config.go`.

use nom::multi::length_data;
use nom::number::complete::be_u16;
use nom::{IResult, Parser};

use super::super::aescbc::AesCbc;
use super::super::aesgcm::AesGcm;
use super::super::fault::Fault;
use super::super::plaintext::Plaintext;
use super::super::secret::SecretKey;
use super::super::spec::KmsVersion;
use super::{Annotations, DekRequest, DekSource, EnvelopeError};

/// The shortest inner form: AES-GCM's nonce and tag around no plaintext.
const MIN_INNER_BYTES: usize = 28;

/// An envelope, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'v> {
    /// What the plugin made of the DEK.
    pub encrypted_dek: &'v [u8],
    /// The sealed value.
    pub inner: &'v [u8],
}

impl<'v> Envelope<'v> {
    /// Parses a body, which is what follows the provider's name and its colon.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Length`].
    pub fn parse(body: &'v [u8]) -> Result<Self, EnvelopeError> {
        let parsed: IResult<&[u8], &[u8]> = length_data(be_u16).parse(body);
        let (inner, encrypted_dek) = parsed.map_err(|_| EnvelopeError::Length)?;
        Ok(Self { encrypted_dek, inner })
    }

    /// Appends the body to `out`; `None` if the wrapped DEK is longer than its length can say.
    pub fn write(&self, out: &mut Vec<u8>) -> Option<()> {
        let length = u16::try_from(self.encrypted_dek.len()).ok()?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(self.encrypted_dek);
        out.extend_from_slice(self.inner);
        Some(())
    }

    /// What the plugin called `provider` must be asked.
    pub fn request(&self, provider: &'v str) -> DekRequest<'v> {
        DekRequest {
            provider,
            version: KmsVersion::V1,
            source: DekSource::Key,
            encrypted_dek: self.encrypted_dek,
            key_id: "",
            annotations: Annotations::none(),
        }
    }

    /// Opens the value with its DEK into `scratch`; tells how many bytes there are plaintext, and whether the form is
    /// one that is no longer written. The faults are both forms', in the order they were tried.
    pub(in super::super) fn open(
        &self,
        dek: &SecretKey,
        aad: &[u8],
        scratch: &mut Plaintext,
    ) -> Result<(usize, bool), [Fault; 2]> {
        // One DEK serves one value, so its schedules are not worth keeping; and a table of a million DEKs stays small.
        let no_key = Fault::DekLength(dek.len());
        let by_gcm = AesGcm::new(dek.expose()).ok_or(no_key.clone()).and_then(|gcm| gcm.open(aad, self.inner, scratch));
        let first = match by_gcm {
            Ok(bytes) => return Ok((bytes, false)),
            Err(fault) => fault,
        };
        let by_cbc = AesCbc::new(dek.expose()).ok_or(no_key).and_then(|cbc| cbc.open(self.inner, scratch));
        by_cbc.map(|bytes| (bytes, true)).map_err(|second| [first, second])
    }
}

/// The name in front of the first whole envelope. A length as the first bytes of an envelope has it is no text, so the
/// search ends at the first control character: what follows are random bytes, among them colons that mean nothing.
pub(in super::super) fn name_by_envelope(rest: &[u8]) -> Option<&[u8]> {
    let text = rest.iter().position(|byte| byte.is_ascii_control()).unwrap_or(rest.len());
    let colons = rest.iter().take(text).enumerate().filter(|&(_, &byte)| byte == b':');
    colons.map(|(at, _)| rest.split_at(at)).find_map(|(name, body)| {
        let envelope = Envelope::parse(body.get(1..)?).ok()?;
        let whole = !envelope.encrypted_dek.is_empty() && envelope.inner.len() >= MIN_INNER_BYTES;
        whole.then_some(name)
    })
}

/// A wrapped DEK as it stands in front of what the DEK seals.
///
/// # Errors
///
/// [`EnvelopeError::NoDek`], where upstream would store what nothing opens; [`EnvelopeError::LongDekV1`].
pub(super) fn head(encrypted_dek: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    if encrypted_dek.is_empty() {
        return Err(EnvelopeError::NoDek);
    }
    let mut out = Vec::with_capacity(2 + encrypted_dek.len());
    Envelope { encrypted_dek, inner: &[] }.write(&mut out).ok_or(EnvelopeError::LongDekV1(encrypted_dek.len()))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::vectors::{KEY_32, hex};
    use super::*;

    const DEMO: &[u8] = b"/registry/secrets/default/demo";
    const WRAPPED: &str =
        "002c41414543417751464267634943516f4c4441304f4478415245684d554652595847426b61477877644868383d";
    const BY_GCM: &str = "202122232425262728292a2bba5fca1c03b87f7a7918a7e3a2c6ec8d770482e92421b59e59d0";
    const BY_CBC: &str = "101112131415161718191a1b1c1d1e1fc60dd24bfd5a1b371590590d7d692f8e";

    fn open(body: &[u8], dek: &[u8]) -> Result<(Vec<u8>, bool), [Fault; 2]> {
        let mut scratch = Plaintext::new();
        let dek = SecretKey::new(dek.to_vec());
        let (bytes, stale) = Envelope::parse(body).unwrap().open(&dek, DEMO, &mut scratch)?;
        Ok((scratch.opened(bytes).to_vec(), stale))
    }

    #[test]
    fn both_forms_open_and_the_old_one_is_stale() {
        for (inner, stale) in [(BY_GCM, false), (BY_CBC, true)] {
            let body = hex(&[WRAPPED, inner].concat());
            let envelope = Envelope::parse(&body).unwrap();
            assert_eq!(envelope.encrypted_dek, b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
            assert_eq!(open(&body, &KEY_32), Ok((b"hello etcd".to_vec(), stale)));
        }
    }

    #[test]
    fn the_faults_of_both_forms_are_told() {
        let body = hex(&[WRAPPED, BY_GCM].concat());
        assert_eq!(open(&body, &[9; 32]), Err([Fault::Authentication, Fault::NotBlocks]));
        assert_eq!(open(&body, &[9; 31]), Err([Fault::DekLength(31), Fault::DekLength(31)]));
    }

    #[test]
    fn a_length_beyond_the_body_is_malformed() {
        for body in [&b""[..], b"\0", b"\0\x02x", b"\xff\xffxx"] {
            assert_eq!(Envelope::parse(body), Err(EnvelopeError::Length));
        }
        assert_eq!(Envelope::parse(b"\0\0"), Ok(Envelope { encrypted_dek: b"", inner: b"" }));
    }

    proptest! {
        #[test]
        fn what_is_written_parses(
            dek in prop::collection::vec(any::<u8>(), 0..300),
            inner in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let envelope = Envelope { encrypted_dek: &dek, inner: &inner };
            let mut body = Vec::new();
            envelope.write(&mut body).unwrap();
            prop_assert_eq!(Envelope::parse(&body), Ok(envelope));
        }

        #[test]
        fn a_name_with_colons_is_found_by_its_envelope(
            name in "[a-z:/]{0,40}",
            dek in prop::collection::vec(any::<u8>(), 1..300),
            inner in prop::collection::vec(any::<u8>(), 28..300),
        ) {
            let mut rest = [name.as_bytes(), b":"].concat();
            Envelope { encrypted_dek: &dek, inner: &inner }.write(&mut rest).unwrap();
            prop_assert_eq!(name_by_envelope(&rest), Some(name.as_bytes()));
        }
    }
}
