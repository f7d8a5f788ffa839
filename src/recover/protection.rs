//! What a stored value is sealed with, as far as it can be told, in a form that can be compared and noted.

use std::fmt;

use crate::provider::chain::Label;
use crate::provider::kms::v2;
use crate::provider::prefix::{self, Form, SealedKind};

use super::open::SealedBy;

/// Stands between the parts of a note; a name that has it loses it.
const DIVIDER: char = '\0';

/// Provider and key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Protection {
    /// `identity`, `aescbc` and so on; empty for a provider that no release has.
    pub provider: String,
    /// `v1` or `v2`; empty for identity.
    pub version: String,
    /// Of the key that opened it, where the configuration has it.
    pub fingerprint: String,
    /// KMS v2's key id.
    pub kms_key_id: String,
    /// The key's name, or the KMS provider's.
    pub name: String,
}

/// How two values differ in what they are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// In nothing.
    No,
    /// In the key.
    Key,
    /// In provider or version, or in that one is sealed and the other is not.
    Encryption,
}

impl Protection {
    /// Of a value that opened.
    pub fn of(stored: &[u8], label: &Label<'_>, fingerprint: &str) -> Self {
        Self {
            provider: label.provider.to_owned(),
            version: label.version.to_owned(),
            fingerprint: fingerprint.to_owned(),
            kms_key_id: kms_key_id(stored, label.name).unwrap_or_default(),
            name: label.name.to_owned(),
        }
    }

    /// Of one that stays closed: as it says itself.
    pub fn claimed(stored: &[u8], sealed: &SealedBy<'_>) -> Self {
        Self {
            provider: sealed.provider.to_owned(),
            version: sealed.version.to_owned(),
            fingerprint: String::new(),
            kms_key_id: kms_key_id(stored, &sealed.name).unwrap_or_default(),
            name: sealed.name.clone().into_owned(),
        }
    }

    /// As a note has it.
    pub fn encode(&self) -> String {
        let parts = [&self.provider, &self.version, &self.fingerprint, &self.kms_key_id, &self.name];
        let mut text = String::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                text.push(DIVIDER);
            }
            text.extend(part.chars().filter(|c| *c != DIVIDER));
        }
        text
    }

    /// What [`encode`](Self::encode) made.
    pub fn decode(text: &str) -> Self {
        let mut parts = text.split(DIVIDER).map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        Self { provider: part(), version: part(), fingerprint: part(), kms_key_id: part(), name: part() }
    }

    /// How another one differs.
    pub fn changed(&self, other: &Self) -> Changed {
        if (&self.provider, &self.version) != (&other.provider, &other.version) {
            return Changed::Encryption;
        }
        // A key without a fingerprint is one that is not known: then its name is all there is.
        let both_known = !self.fingerprint.is_empty() && !other.fingerprint.is_empty();
        let other_secret = both_known && self.fingerprint != other.fingerprint;
        if self.name != other.name || self.kms_key_id != other.kms_key_id || other_secret {
            Changed::Key
        } else {
            Changed::No
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.provider.as_str() {
            "" => f.write_str("unrecognised"),
            "identity" => f.write_str("identity"),
            provider => write!(f, "{provider}/{}", self.name),
        }
    }
}

fn kms_key_id(stored: &[u8], name: &str) -> Option<String> {
    let Form::Sealed(sealed) = prefix::form(stored) else { return None };
    if sealed.kind != SealedKind::KmsV2 {
        return None;
    }
    let body = sealed.body_under(name.as_bytes())?;
    v2::Envelope::parse(body).ok().map(|envelope| envelope.key_id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protection(provider: &str, version: &str, fingerprint: &str, name: &str) -> Protection {
        let [provider, version, fingerprint, name] = [provider, version, fingerprint, name].map(str::to_owned);
        Protection { provider, version, fingerprint, kms_key_id: String::new(), name }
    }

    #[test]
    fn a_note_gives_back_what_was_noted() {
        let noted = Protection { kms_key_id: "id:1".to_owned(), ..protection("kms", "v2", "", "a:b") };
        assert_eq!(Protection::decode(&noted.encode()), noted);
        assert_eq!(Protection::decode(""), Protection::default());
        let hostile = protection("kms", "v2", "", "a\0b");
        assert_eq!(Protection::decode(&hostile.encode()).name, "ab");
    }

    #[test]
    fn another_secret_under_the_same_name_is_another_key() {
        let old = protection("aescbc", "v1", "11", "key1");
        assert_eq!(old.changed(&old), Changed::No);
        assert_eq!(old.changed(&protection("aescbc", "v1", "22", "key1")), Changed::Key);
        assert_eq!(old.changed(&protection("aescbc", "v1", "11", "key2")), Changed::Key);
        assert_eq!(old.changed(&protection("aescbc", "v1", "", "key1")), Changed::No);
        assert_eq!(old.changed(&protection("aesgcm", "v1", "11", "key1")), Changed::Encryption);
        assert_eq!(old.changed(&protection("identity", "", "", "")), Changed::Encryption);
    }
}
