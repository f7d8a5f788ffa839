//! The providers of one resource in their order: opens a value as kube-apiserver does, or says why it does not open.
//!
//! Two levels of the same rule. Every provider whose prefix the value begins with is tried in order, and within a
//! provider every key whose name and `:` follow; a failure never ends the search, because entries may share a prefix.
//! What opens anywhere but in the first place of both levels is stale. Identity reads what is not sealed, at its place,
//! and is silent about the rest. If nothing opens, the failures add up to one error; if there was none, each level has a
//! default.
//!
//! A KMS provider whose DEK is not in the table ends the search with [`Answer::Waits`]. Providers after it are not
//! tried: whichever of them opened the value, the one that waits might have opened it first, and only the plugin knows.
//! An envelope that upstream refuses without asking the plugin is a failure like any other.
//!
//! Upstream: `kubernetes/apiserver`, `pkg/storage/value/transformer.go` and
//! `pkg/server/options/encryptionconfig/config.go`.

use std::fmt;
use std::io;

use thiserror::Error;

pub use super::aescbc::Unsealed;
use super::aescbc::{self, AesCbc};
use super::aesgcm::{self, AesGcm};
use super::fault::{Failure, FailureKind, Fault, Faults, SealError};
use super::identity;
use super::kms::{self, Dek, DekRequest, DekTable, Plugin, PluginState, v1, v2};
use super::plaintext::Plaintext;
use super::prefix::{self, Form, Sealed, SealedKind};
use super::secretbox::{self, Secretbox};
use super::spec::{KmsVersion, NamedKey, ProviderSpec};

/// The providers of one resource, key schedules computed. It is shared between threads; each brings a scratch buffer.
pub struct Chain {
    providers: Vec<Provider>,
    unconfigured: bool,
}

/// Why there is no chain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// A list without providers, which could neither read nor write.
    #[error("there is no provider")]
    NoProvider,
    /// A provider without keys.
    #[error("provider {provider} ({kind}) has no key")]
    NoKey {
        /// Its place in the list, from 0.
        provider: usize,
        /// `aescbc`, `aesgcm` or `secretbox`.
        kind: &'static str,
    },
    /// A key of a length that its cipher does not know.
    #[error("key {name:?} of provider {provider} ({kind}) has {bytes} bytes")]
    Length {
        /// The provider's place in the list, from 0.
        provider: usize,
        /// `aescbc`, `aesgcm` or `secretbox`.
        kind: &'static str,
        /// The key's place in the provider, from 0.
        key: usize,
        /// The key's name.
        name: String,
        /// The key's length.
        bytes: usize,
    },
}

/// What kube-apiserver would make of a stored value. Its `Debug` shows the plaintext's length only.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It opens.
    Opened {
        /// What the value holds, in the scratch buffer or, for identity, in the stored value itself.
        plaintext: &'a [u8],
        /// The place of the provider that opened it, from 0.
        provider: usize,
        /// The place of the key in the provider, from 0; 0 for identity and KMS.
        key: usize,
        /// Whether the next write, even of the same object, would store it in another form.
        stale: bool,
    },
    /// It does not open.
    Failed(Failure),
    /// A KMS provider that might open it has not been asked.
    Waits {
        /// The place of the provider, from 0.
        provider: usize,
    },
}

impl fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened { plaintext, provider, key, stale } => {
                let bytes = plaintext.len();
                write!(f, "Opened({bytes} bytes by provider {provider}, key {key}, stale {stale})")
            }
            Self::Failed(failure) => write!(f, "Failed({failure})"),
            Self::Waits { provider } => write!(f, "Waits(for provider {provider})"),
        }
    }
}

/// What one provider makes of a value.
enum Attempt {
    /// Its prefix is another, or it failed and the faults say why.
    Passed,
    /// The stored value is the plaintext.
    Stored,
    /// The plaintext is in the scratch buffer, so many bytes of it.
    Opened { bytes: usize, key: usize, stale: bool },
    /// The plugin has to be asked first.
    Waits,
}

enum Provider {
    Identity,
    AesCbc(Vec<Key<AesCbc>>),
    AesGcm(Vec<Key<AesGcm>>),
    Secretbox(Vec<Key<Secretbox>>),
    Kms { version: KmsVersion, name: String },
}

/// A key with its cipher.
struct Key<C> {
    name: String,
    cipher: C,
}

impl Chain {
    /// Computes the key schedules of a resource's providers.
    ///
    /// # Errors
    ///
    /// [`KeyError`] for what a configuration that kube-apiserver takes never has: no provider, no key, a key of a wrong
    /// length.
    pub fn new(specs: &[ProviderSpec]) -> Result<Self, KeyError> {
        if specs.is_empty() {
            return Err(KeyError::NoProvider);
        }
        let providers = specs.iter().enumerate().map(|(place, spec)| Provider::new(place, spec));
        Ok(Self { providers: providers.collect::<Result<_, _>>()?, unconfigured: false })
    }

    /// What applies where nothing is configured. It reads and writes as a list of identity alone does, and differs from
    /// it in what it says to sealed values.
    pub fn identity() -> Self {
        Self { providers: vec![Provider::Identity], unconfigured: true }
    }

    /// Tries the providers in order. `aad` is the etcd key as the API server knows it.
    pub fn open<'a>(&self, aad: &[u8], stored: &'a [u8], deks: &DekTable, scratch: &'a mut Plaintext) -> Answer<'a> {
        let form = prefix::form(stored);
        let mut faults = Faults::new();
        for (place, provider) in self.providers.iter().enumerate() {
            match provider.open(aad, &form, deks, scratch, &mut faults) {
                Attempt::Passed => {}
                Attempt::Stored => {
                    return Answer::Opened { plaintext: stored, provider: place, key: 0, stale: place != 0 };
                }
                Attempt::Opened { bytes, key, stale } => {
                    let plaintext = scratch.opened(bytes);
                    return Answer::Opened { plaintext, provider: place, key, stale: stale || place != 0 };
                }
                Attempt::Waits => return Answer::Waits { provider: place },
            }
        }
        Answer::Failed(faults.into_failure().unwrap_or_else(|| self.unmatched(&form)))
    }

    /// The failure where no provider had anything to say.
    fn unmatched(&self, form: &Form<'_>) -> Failure {
        let kind = match form {
            Form::Empty | Form::Plain => FailureKind::NoIdentity,
            Form::Sealed(_) => FailureKind::UnknownKey,
            Form::Unrecognised => FailureKind::Malformed,
        };
        Failure::single(kind, if self.unconfigured { Fault::SealedForIdentity } else { Fault::NoPrefix })
    }

    /// Appends to `out` what kube-apiserver would write now: the first provider, its first key. `fill` gives random
    /// bytes for nonce or IV.
    ///
    /// # Errors
    ///
    /// [`SealError`]; `out` then holds nothing of the plaintext, but maybe a prefix.
    pub fn seal(
        &self,
        aad: &[u8],
        plaintext: &[u8],
        fill: impl FnMut(&mut [u8]) -> io::Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let unsealed = self.seal_later(aad, plaintext, fill, out)?;
        self.seal_all(out, unsealed.as_slice());
        Ok(())
    }

    /// As [`seal`](Self::seal), but where many values are sealed faster than one, what is appended may be plaintext yet: it
    /// must be given to [`seal_all`](Self::seal_all) before anything else is done with `out`.
    ///
    /// # Errors
    ///
    /// As `seal`.
    pub fn seal_later(
        &self,
        aad: &[u8],
        plaintext: &[u8],
        mut fill: impl FnMut(&mut [u8]) -> io::Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Unsealed>, SealError> {
        let label = self.writer();
        let begin = |kind: SealedKind, out: &mut Vec<u8>| {
            for part in [kind.prefix(), label.name.as_bytes(), b":"] {
                out.extend_from_slice(part);
            }
        };
        match self.providers.first() {
            Some(Provider::AesCbc(_)) => {
                let mut iv = [0; aescbc::IV_BYTES];
                fill(&mut iv)?;
                begin(SealedKind::AesCbc, out);
                return Ok(Some(aescbc::frame(plaintext, &iv, out)));
            }
            Some(Provider::AesGcm(keys)) if let [key, ..] = keys.as_slice() => {
                let mut nonce = [0; aesgcm::NONCE_BYTES];
                fill(&mut nonce)?;
                begin(SealedKind::AesGcm, out);
                key.cipher.seal(aad, plaintext, &nonce, out)?;
            }
            Some(Provider::Secretbox(keys)) if let [key, ..] = keys.as_slice() => {
                let mut nonce = [0; secretbox::NONCE_BYTES];
                fill(&mut nonce)?;
                begin(SealedKind::Secretbox, out);
                key.cipher.seal(plaintext, &nonce, out)?;
            }
            Some(Provider::Kms { name, .. }) => return Err(SealError::Kms(name.clone())),
            _ => identity::seal(plaintext, out)?,
        }
        Ok(None)
    }

    /// How many bytes [`seal`](Self::seal) appends for a plaintext of this length; none where that is for a KMS plugin to say.
    pub fn sealed_bytes(&self, plaintext: usize) -> Option<usize> {
        let label = self.writer();
        let (kind, body) = match self.providers.first()? {
            Provider::AesCbc(_) => (SealedKind::AesCbc, aescbc::body_bytes(plaintext)),
            Provider::AesGcm(_) => (SealedKind::AesGcm, aesgcm::OVERHEAD_BYTES + plaintext),
            Provider::Secretbox(_) => (SealedKind::Secretbox, secretbox::OVERHEAD_BYTES + plaintext),
            Provider::Kms { .. } => return None,
            Provider::Identity => return Some(plaintext),
        };
        Some(kind.prefix().len() + label.name.len() + 1 + body)
    }

    /// Seals what [`seal_later`](Self::seal_later) appended to `out`, in the order in which it was appended.
    pub fn seal_all(&self, out: &mut [u8], unsealed: &[Unsealed]) {
        if let Some(Provider::AesCbc(keys)) = self.providers.first()
            && let Some(key) = keys.first()
        {
            key.cipher.seal_all(out, unsealed);
        }
    }

    /// What the first provider writes.
    pub fn writer(&self) -> Label<'_> {
        self.label(0, 0).unwrap_or(Label::IDENTITY)
    }

    /// The kind of what the first provider writes; `None` for plaintext.
    pub fn writes(&self) -> Option<SealedKind> {
        self.providers.first().and_then(Provider::kind)
    }

    /// What the key at a place of the provider at a place is called; `None` if there is none.
    pub fn label(&self, provider: usize, key: usize) -> Option<Label<'_>> {
        let provider = self.providers.get(provider)?;
        match provider.kind() {
            None => Some(Label::IDENTITY),
            Some(kind) => provider.name(key).map(|name| Label::of(kind, name)),
        }
    }

    /// The whole name of a sealed value, where the chain settles how far a name with `:` goes: the opener's; or, when
    /// nothing opened, the only configured name of the value's provider and version that fits. `answer` is what
    /// [`Self::open`] said of `stored`.
    pub fn settled_name(&self, stored: &[u8], answer: &Answer<'_>) -> Option<&str> {
        let Form::Sealed(sealed) = prefix::form(stored) else { return None };
        if let Answer::Opened { provider, key, .. } = answer {
            return self.label(*provider, *key).map(|label| label.name);
        }
        let mut fitting = self.fitting(sealed);
        let name = fitting.next()?;
        fitting.all(|other| other == name).then_some(name)
    }

    /// Every configured name, in order, that a value of its kind may bear.
    fn fitting<'c>(&'c self, sealed: Sealed<'_>) -> impl Iterator<Item = &'c str> {
        let of_kind = self.providers.iter().filter(move |provider| provider.kind() == Some(sealed.kind));
        of_kind.flat_map(Provider::names).filter(move |name| sealed.body_under(name.as_bytes()).is_some())
    }

    /// What plugins must be asked so that the chain never waits for this value: one request for each KMS provider whose
    /// prefix fits and whose envelope holds. Almost always there is at most one.
    pub fn dek_requests<'v>(&'v self, stored: &'v [u8]) -> impl Iterator<Item = DekRequest<'v>> {
        let sealed = match prefix::form(stored) {
            Form::Sealed(sealed) => Some(sealed),
            Form::Empty | Form::Plain | Form::Unrecognised => None,
        };
        let fitting = sealed.into_iter().flat_map(|sealed| self.fitting(sealed).map(move |name| (sealed, name)));
        fitting.filter_map(|(sealed, name)| kms::dek_request(&sealed, name)?.ok())
    }

    /// The part of a stored value that alone decides what plugins must be asked for it, where there is such a part: values for
    /// which it is equal have equal [requests](Self::dek_requests).
    pub fn dek_part<'v>(&self, stored: &'v [u8]) -> Option<&'v [u8]> {
        let Form::Sealed(sealed) = prefix::form(stored) else { return None };
        let mut names = self.providers.iter().filter(|provider| provider.kind() == Some(SealedKind::KmsV2));
        match (sealed.kind, names.next(), names.next()) {
            // Where there are two, a name of one may be the beginning of the other's, and then the data decides, too.
            (SealedKind::KmsV2, Some(Provider::Kms { name, .. }), None) => {
                kms::v2::split(sealed.body_under(name.as_bytes())?).map(|(_, wrapping)| wrapping)
            }
            _ => None,
        }
    }

    /// Whether plaintext is readable.
    pub fn has_identity(&self) -> bool {
        self.providers.iter().any(|provider| matches!(provider, Provider::Identity))
    }
}

impl Provider {
    fn new(place: usize, spec: &ProviderSpec) -> Result<Self, KeyError> {
        Ok(match spec {
            ProviderSpec::Identity => Self::Identity,
            ProviderSpec::AesCbc(keys) => Self::AesCbc(schedule(place, "aescbc", keys, AesCbc::new)?),
            ProviderSpec::AesGcm(keys) => Self::AesGcm(schedule(place, "aesgcm", keys, AesGcm::new)?),
            ProviderSpec::Secretbox(keys) => Self::Secretbox(schedule(place, "secretbox", keys, Secretbox::new)?),
            ProviderSpec::Kms(kms) => Self::Kms { version: kms.version, name: kms.name.clone() },
        })
    }

    /// What it writes; `None` for identity.
    fn kind(&self) -> Option<SealedKind> {
        match self {
            Self::Identity => None,
            Self::AesCbc(_) => Some(SealedKind::AesCbc),
            Self::AesGcm(_) => Some(SealedKind::AesGcm),
            Self::Secretbox(_) => Some(SealedKind::Secretbox),
            Self::Kms { version: KmsVersion::V1, .. } => Some(SealedKind::KmsV1),
            Self::Kms { version: KmsVersion::V2, .. } => Some(SealedKind::KmsV2),
        }
    }

    /// The name of a key, or of a KMS provider, which stands in for its only key.
    fn name(&self, key: usize) -> Option<&str> {
        match self {
            Self::Identity => None,
            Self::AesCbc(keys) => keys.get(key).map(|key| &*key.name),
            Self::AesGcm(keys) => keys.get(key).map(|key| &*key.name),
            Self::Secretbox(keys) => keys.get(key).map(|key| &*key.name),
            Self::Kms { name, .. } => (key == 0).then_some(name),
        }
    }

    /// All its names, in order.
    fn names(&self) -> impl Iterator<Item = &str> {
        (0..).map_while(|key| self.name(key))
    }

    fn open(
        &self,
        aad: &[u8],
        form: &Form<'_>,
        deks: &DekTable,
        scratch: &mut Plaintext,
        faults: &mut Faults,
    ) -> Attempt {
        let sealed = match (form, self) {
            (Form::Empty | Form::Plain, Self::Identity) => return Attempt::Stored,
            (Form::Sealed(sealed), _) if self.kind() == Some(sealed.kind) => sealed,
            _ => return Attempt::Passed,
        };
        match self {
            Self::Identity => Attempt::Passed,
            Self::AesCbc(keys) => {
                try_keys(keys, sealed, Fault::NoAesKey, faults, |cipher, body| cipher.open(body, scratch))
            }
            Self::AesGcm(keys) => {
                try_keys(keys, sealed, Fault::NoAesKey, faults, |cipher, body| cipher.open(aad, body, scratch))
            }
            Self::Secretbox(keys) => {
                try_keys(keys, sealed, Fault::NoSecretboxKey, faults, |cipher, body| cipher.open(body, scratch))
            }
            Self::Kms { version, name } => {
                let Some(body) = sealed.body_under(name.as_bytes()) else { return Attempt::Passed };
                match version {
                    KmsVersion::V1 => open_v1(name, aad, body, deks, scratch, faults),
                    KmsVersion::V2 => open_v2(name, aad, body, deks, scratch, faults),
                }
            }
        }
    }
}

/// Computes the schedules of a provider's keys.
fn schedule<C>(
    provider: usize,
    kind: &'static str,
    keys: &[NamedKey],
    cipher: impl Fn(&[u8]) -> Option<C>,
) -> Result<Vec<Key<C>>, KeyError> {
    if keys.is_empty() {
        return Err(KeyError::NoKey { provider, kind });
    }
    let scheduled = keys.iter().enumerate().map(|(key, NamedKey { name, secret })| match cipher(secret.expose()) {
        Some(cipher) => Ok(Key { name: name.clone(), cipher }),
        None => Err(KeyError::Length { provider, kind, key, name: name.clone(), bytes: secret.len() }),
    });
    scheduled.collect()
}

/// The second level: the keys of one provider, by name. Without a fitting name the level's default is the fault.
fn try_keys<C>(
    keys: &[Key<C>],
    sealed: &Sealed<'_>,
    no_key: Fault,
    faults: &mut Faults,
    mut open: impl FnMut(&C, &[u8]) -> Result<usize, Fault>,
) -> Attempt {
    let mut fitted = false;
    for (place, key) in keys.iter().enumerate() {
        let Some(body) = sealed.body_under(key.name.as_bytes()) else { continue };
        fitted = true;
        match open(&key.cipher, body) {
            Ok(bytes) => return Attempt::Opened { bytes, key: place, stale: place != 0 },
            Err(fault) => faults.push(fault),
        }
    }
    if !fitted {
        faults.push(no_key);
    }
    Attempt::Passed
}

fn open_v1(
    name: &str,
    aad: &[u8],
    body: &[u8],
    deks: &DekTable,
    scratch: &mut Plaintext,
    faults: &mut Faults,
) -> Attempt {
    let envelope = match v1::Envelope::parse(body) {
        Ok(envelope) => envelope,
        Err(error) => return fail(faults, Fault::Envelope(error)),
    };
    match deks.dek_v1(name, envelope.encrypted_dek) {
        None => Attempt::Waits,
        Some(Dek::Refused(words)) => fail(faults, Fault::Plugin(words.clone())),
        Some(Dek::Key(key)) => match envelope.open(key, aad, scratch) {
            Ok((bytes, stale)) => Attempt::Opened { bytes, key: 0, stale },
            Err(both) => {
                both.into_iter().for_each(|fault| faults.push(fault));
                Attempt::Passed
            }
        },
        // The table keeps seeds for v2 only.
        Some(Dek::Seed(_)) => Attempt::Passed,
    }
}

fn open_v2(
    name: &str,
    aad: &[u8],
    body: &[u8],
    deks: &DekTable,
    scratch: &mut Plaintext,
    faults: &mut Faults,
) -> Attempt {
    let plugin = deks.plugin(name);
    let known = v2::split(body).and_then(|(data, wrapping)| Some((data, plugin?.answer_to_wrapping(wrapping)?)));
    let (data, answer) = match known {
        Some((data, answer)) => (data, Some(answer)),
        None => match v2::Envelope::parse(body) {
            Ok(envelope) => (envelope.encrypted_data, plugin.and_then(|plugin| plugin.answer(&envelope.request(name)))),
            Err(error) => return fail(faults, Fault::Envelope(error)),
        },
    };
    let (current_id, current_source) = match plugin.and_then(Plugin::state) {
        None => return Attempt::Waits,
        Some(PluginState::Failed) => return fail(faults, Fault::PluginState),
        Some(PluginState::Ready { key_id, source }) => (key_id, *source),
    };
    let Some(answer) = answer else { return Attempt::Waits };
    let opened = match answer.dek() {
        Dek::Refused(words) => Err(Fault::Plugin(words.clone())),
        Dek::Seed(seed) => seed.open(aad, data, scratch),
        Dek::Key(key) => {
            AesGcm::new(key.expose()).ok_or(Fault::DekLength(key.len())).and_then(|gcm| gcm.open(aad, data, scratch))
        }
    };
    match opened {
        Ok(bytes) => {
            let stale = answer.key_id() != current_id || answer.source() != current_source;
            Attempt::Opened { bytes, key: 0, stale }
        }
        Err(fault) => fail(faults, fault),
    }
}

fn fail(faults: &mut Faults, fault: Fault) -> Attempt {
    faults.push(fault);
    Attempt::Passed
}

/// What a provider and key are called in reports: `identity`, `aescbc/key1`, `kms/name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label<'c> {
    /// `identity`, `aescbc`, `aesgcm`, `secretbox` or `kms`.
    pub provider: &'static str,
    /// `v1` or `v2`; empty for identity.
    pub version: &'static str,
    /// The key's name, or the KMS provider's; empty for identity.
    pub name: &'c str,
}

impl<'c> Label<'c> {
    /// Plaintext.
    pub const IDENTITY: Label<'static> = Label { provider: "identity", version: "", name: "" };

    fn of(kind: SealedKind, name: &'c str) -> Self {
        Self { provider: kind.provider(), version: kind.version(), name }
    }
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.provider)?;
        if self.version.is_empty() { Ok(()) } else { write!(f, "/{}", self.name) }
    }
}

#[cfg(test)]
mod tests;
