//! One record that is wanted: read again, opened, and what came of it.

use std::borrow::{Borrow, Cow};

use zeroize::Zeroizing;

use crate::audit::rules::Rules;
use crate::kube::custom::CustomResources;
use crate::kube::key::{Address, ObjectKey, Roots};
use crate::kube::payload;
use crate::kube::resource::GroupResource;
use crate::kube::schema::{self, DecodeError, Decoded, Dress, Layout};
use crate::provider::plaintext::Plaintext;
use crate::source::store::Index;
use crate::source::{Place, Store};

use super::document::Document;
use super::get::Wanted;
use super::notes::Noted;
use super::open::{Opened, SealedBy, open};

/// Why everything that is encrypted stays closed where no configuration was given.
const NO_CONFIGURATION: &str = "no configuration was given";

/// One object, or what is left of it.
pub struct Item {
    /// The etcd key.
    pub key: Vec<u8>,
    /// Its resource.
    pub resource: GroupResource,
    /// Its namespace; empty for an object of the cluster's scope.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The kind that is stored there, where the key or a definition tells.
    pub kind: Option<Cow<'static, str>>,
    /// The revision at which it was written.
    pub mod_revision: i64,
    /// What came of it.
    pub content: Content,
}

/// What came of a stored value.
pub enum Content {
    /// The object.
    Object {
        /// As JSON.
        json: Zeroizing<Vec<u8>>,
        /// The bytes that were stored, decrypted, where they are wanted.
        payload: Zeroizing<Vec<u8>>,
        /// Whether it is another object than its key names.
        misplaced: bool,
    },
    /// It stays closed.
    Closed {
        /// What it says it was sealed with.
        sealed: SealedBy<'static>,
        /// Why, in a sentence.
        reason: String,
    },
    /// It is open, and no object.
    Undecodable {
        /// The bytes that were stored, decrypted.
        payload: Zeroizing<Vec<u8>>,
        /// Why.
        error: DecodeError,
    },
}

/// What reads and opens what was noted.
#[derive(Clone, Copy)]
pub(super) struct Opener<'o> {
    pub(super) store: &'o Store,
    pub(super) rules: &'o Rules,
    pub(super) wanted: &'o Wanted<'o>,
    pub(super) index: &'o Index,
    pub(super) roots: &'o Roots,
    pub(super) custom: &'o CustomResources,
}

/// A record that is wanted, opened where it can be.
pub struct Seen<'s> {
    /// The etcd key.
    pub key: &'s [u8],
    /// What the key addresses.
    pub object: ObjectKey<'s>,
    /// The kind that is stored there, where the key or a definition tells.
    pub kind: Option<Cow<'static, str>>,
    /// The revision at which it was written.
    pub mod_revision: i64,
    /// What it holds.
    pub holds: Holds<'s>,
    dress: Dress,
}

/// What a record holds.
pub enum Holds<'s> {
    /// These bytes.
    Plain(&'s [u8]),
    /// It stays closed.
    Closed {
        /// What it says it was sealed with.
        sealed: SealedBy<'s>,
        /// Why, in a sentence.
        reason: String,
    },
}

impl Opener<'_> {
    /// Reads, opens and decodes a part of what was noted: each item with the number of its note.
    pub(super) fn part<N: Borrow<Noted>>(&self, noted: &[N], part: &[(Place, usize)]) -> Vec<(usize, Item)> {
        let mut scratch = Plaintext::new();
        let mut items = Vec::with_capacity(part.len());
        self.read(noted, part, |index, noted, value| {
            let Some(seen) = self.seen(noted, value, &mut scratch) else { return };
            let item = seen.item(self.wanted.payloads);
            if self.has_labels(&item.content) {
                items.push((index, item));
            }
        });
        items
    }

    /// Reads a part of what was noted, in the order of places, and gives each value with its note and the number of that.
    pub(super) fn read<N: Borrow<Noted>>(
        &self,
        noted: &[N],
        part: &[(Place, usize)],
        mut visit: impl FnMut(usize, &Noted, &[u8]),
    ) {
        let places: Vec<Place> = part.iter().map(|(place, _)| *place).collect();
        let mut waiting = part.iter();
        self.store.reader(self.index).records_at(&places, |place, kv| {
            let Some((_, index)) = waiting.find(|(waiting, _)| *waiting == place) else { return };
            let noted = noted.get(*index).map(Borrow::borrow);
            // What is another key by now was overwritten under the reader.
            if let Some(noted) = noted.filter(|noted: &&Noted| noted.key == kv.key) {
                visit(*index, noted, kv.value);
            }
        });
    }

    /// Opens one value.
    pub(super) fn seen<'s>(
        &'s self,
        noted: &'s Noted,
        value: &'s [u8],
        scratch: &'s mut Plaintext,
    ) -> Option<Seen<'s>> {
        let address = self.roots.locate(&noted.key);
        let Address::Object(object) = address else { return None };
        let holds = match open(self.rules, &self.wanted.deks, &address, &noted.key, value, scratch) {
            Opened::Plain { plaintext, .. } => Holds::Plain(plaintext),
            Opened::Closed { sealed, reason } => {
                let reason = if self.rules.given() { reason.to_string() } else { NO_CONFIGURATION.to_owned() };
                Holds::Closed { sealed, reason }
            }
        };
        let Wanted { managed_fields, digests, .. } = *self.wanted;
        // Two stores are compared by what was written, not by when.
        let resource_version = digests.is_none().then_some(noted.mod_revision);
        let dress = Dress { resource_version, managed_fields, layout: Layout::OneLine };
        let (key, kind, mod_revision) = (noted.key.as_slice(), self.kind(&object), noted.mod_revision);
        Some(Seen { key, object, kind, mod_revision, holds, dress })
    }

    /// The kind of what is stored at a key.
    pub(super) fn kind(&self, object: &ObjectKey<'_>) -> Option<Cow<'static, str>> {
        let defined = || self.custom.get(object.group, object.resource).map(|custom| custom.kind.clone());
        let defined = || defined().filter(|kind| !kind.is_empty()).map(Cow::Owned);
        object.kind.map(Cow::Borrowed).or_else(defined)
    }

    /// Whether an object has the labels that are wanted. Of what cannot be read nobody knows, so it is kept.
    pub(super) fn has_labels(&self, content: &Content) -> bool {
        if self.wanted.labels.is_empty() {
            return true;
        }
        let Content::Object { json, .. } = content else { return true };
        let Ok(document) = Document::parse(json) else { return true };
        let labels = document.root().find(&["metadata", "labels"]);
        self.wanted.labels.matches(|key| labels.and_then(|labels| labels.get(key)).and_then(|value| value.text()))
    }
}

impl Seen<'_> {
    /// Appends the object as JSON. Where that fails `out` is as it was.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] for what is open and no object.
    pub fn write(&self, plaintext: &[u8], layout: Layout, out: &mut Vec<u8>) -> Result<Decoded, DecodeError> {
        schema::to_json(plaintext, &Dress { layout, ..self.dress }, out)
    }

    /// Whether a plaintext is another object than the key names.
    pub fn is_misplaced(&self, plaintext: &[u8]) -> bool {
        let identified = payload::identify(plaintext);
        identified.is_ok_and(|(_, identity)| payload::mismatch(&self.object, &identity).is_some())
    }

    /// The same, decoded, to keep; with what was stored where that is wanted.
    pub fn item(&self, with_payload: bool) -> Item {
        Item {
            kind: self.kind.clone(),
            resource: self.object.group_resource(),
            namespace: self.object.namespace.unwrap_or_default().to_owned(),
            name: self.object.name.to_owned(),
            key: self.key.to_vec(),
            mod_revision: self.mod_revision,
            content: self.content(with_payload),
        }
    }

    fn content(&self, with_payload: bool) -> Content {
        let plaintext = match &self.holds {
            Holds::Plain(plaintext) => *plaintext,
            Holds::Closed { sealed, reason } => {
                return Content::Closed { sealed: sealed.clone().into_owned(), reason: reason.clone() };
            }
        };
        let payload = || Zeroizing::new(plaintext.to_vec());
        // Wiping takes longer than filling, so there is little more room than nearly all objects need.
        let mut json = Zeroizing::new(Vec::with_capacity(plaintext.len() + plaintext.len() / 2 + 256));
        match self.write(plaintext, Layout::OneLine, &mut json) {
            Ok(_) => Content::Object {
                json,
                payload: if with_payload { payload() } else { Zeroizing::default() },
                misplaced: self.is_misplaced(plaintext),
            },
            Err(error) => Content::Undecodable { payload: payload(), error },
        }
    }
}
