//! The objects that are asked for, in the order of their keys.
//!
//! One pass over the file notes where the wanted records stand; the notes are sorted in a private file that holds keys and places, and
//! nothing of a value. Then the records are read again, some at a time, opened and decoded in parallel, and handed out in
//! order. So memory is bounded for any store, and no plaintext is ever kept.

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::audit::deks::Deks;
use crate::audit::merge::Merge;
use crate::audit::rows::{RowSink, Spill};
use crate::audit::rules::Rules;
use crate::audit::run::{AuditError, Options};
use crate::audit::survey;
use crate::kube::custom::CustomResources;
use crate::kube::key::{Address, ObjectKey, Roots};
use crate::kube::labels::{Fields, Labels};
use crate::kube::resource::GroupResource;
use crate::kube::schema::{self, DecodeError, Dress};
use crate::kube::select::{Selected, Selection};
use crate::provider::plaintext::Plaintext;
use crate::source::digest::{Digests, Trailer};
use crate::source::snapshot::PassOptions;
use crate::source::store::{Index, Reader};
use crate::source::trace::TraceKey;
use crate::source::{Place, Store};

use super::document::Document;
use super::notes::{Noted, Noter};
use super::open::{Opened, SealedBy, open};

pub use super::notes::Order;

/// So many records are read, decoded and handed out at a time.
const BATCH_RECORDS: usize = 2048;
/// A batch ends early when its values have so many bytes.
const BATCH_BYTES: u64 = 16 << 20;

/// Why everything that is encrypted stays closed where no configuration was given.
const NO_CONFIGURATION: &str = "no configuration was given";

/// Which records of a key are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// The object as it is.
    #[default]
    Current,
    /// Every revision that the store still has.
    All,
    /// Of objects that were deleted, the last revision that the store still has.
    Deleted,
}

/// What is asked for.
pub struct Wanted<'w> {
    /// Hashing, threads and progress.
    pub pass: PassOptions<'w>,
    /// Where the API servers keep their objects; found by itself where it is not given.
    pub roots: Option<Roots>,
    /// Resources and names.
    pub selection: Selection,
    /// Only these namespaces, and objects that are in none; all of them if there are none.
    pub namespaces: Vec<String>,
    /// Demands on name and namespace.
    pub fields: Fields,
    /// Demands on labels.
    pub labels: Labels,
    /// Which records of a key.
    pub which: Which,
    /// The store as it was at this revision.
    pub revision: Option<i64>,
    /// Whether `managedFields` are shown.
    pub managed_fields: bool,
    /// In which order they are wanted.
    pub order: Order,
    /// Whether the bytes that were stored are wanted, too.
    pub payloads: bool,
    /// What is held is digested under this key, and comes without `resourceVersion`.
    pub digests: Option<TraceKey>,
    /// The data keys that KMS plugins opened.
    pub deks: Deks,
}

/// What was found, ready to be read.
pub struct Found<'f> {
    store: &'f Store,
    rules: &'f Rules,
    wanted: &'f Wanted<'f>,
    index: Index,
    roots: Arc<Roots>,
    merge: Merge,
    /// What was read of the sorted notes and not asked for yet.
    ahead: VecDeque<Noted>,
    /// The next note.
    pending: Option<Noted>,
    /// The custom resources that the store defines.
    pub custom: CustomResources,
    /// What the selection means in this store.
    pub selected: Selected,
    /// Whether pages were lost, so that something may be missing.
    pub damaged: bool,
    /// Whether the file is not the one that was saved.
    pub altered: bool,
    /// What else the reader should know.
    pub notes: Vec<String>,
}

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

/// Finds what is wanted.
///
/// # Errors
///
/// [`AuditError`], as an audit of the same store would end.
pub fn find<'f>(store: &'f mut Store, rules: &'f Rules, wanted: &'f Wanted<'f>) -> Result<Found<'f>, AuditError> {
    let spill = Spill::new().map_err(AuditError::Spill)?;
    let (mut roots, selected) = match plainly_selected(&wanted.selection) {
        Some(selected) => (wanted.roots.clone(), selected),
        None => {
            let options = Options {
                pass: wanted.pass,
                roots: wanted.roots.clone(),
                selection: wanted.selection.clone(),
                ..Options::default()
            };
            let (roots, selected) = survey::select(store, rules, &options)?;
            (roots, selected.unwrap_or_else(Selected::everything))
        }
    };
    let (index, roots, digests, damaged, last, custom, notes) = loop {
        let given = roots.is_some();
        let given_roots = roots.take().map(Arc::new);
        let prepare = |reader: Reader<'_>| {
            spill.clear();
            given_roots.clone().unwrap_or_else(|| Arc::new(survey::sampled_roots(reader)))
        };
        let noter = |roots: &Arc<Roots>| Noter::new(wanted, &selected, rules, roots.clone(), RowSink::new(&spill));
        let pass = store.pass(wanted.pass, prepare, noter)?;
        let last = pass.visitors.iter().filter_map(|noter| noter.last).max();
        let used = pass.visitors.first().map(|noter| noter.roots.clone()).unwrap_or_default();
        let unlisted = !given && pass.visitors.iter().any(|noter| noter.unlisted);
        let custom =
            survey::custom(pass.visitors.into_iter().flat_map(|mut noter| std::mem::take(&mut noter.definitions)));
        let damaged = !pass.faults.is_empty() || pass.unsteady;
        if unlisted {
            let all = survey::roots(store, wanted.pass)?;
            if all != *used {
                roots = Some(all);
                continue;
            }
        }
        break (pass.index, used, pass.digests, damaged, last, custom, pass.notes);
    };
    check_revision(wanted.revision, &index, last)?;
    let altered = digests.is_some_and(|digests: Digests| digests.trailer == Trailer::Mismatch);
    let mut found = Found {
        store,
        rules,
        wanted,
        index,
        roots,
        merge: spill.merge().map_err(AuditError::Spill)?,
        ahead: VecDeque::new(),
        pending: None,
        custom,
        selected,
        damaged,
        altered,
        notes,
    };
    found.pending = found.next_noted().map_err(AuditError::Spill)?;
    Ok(found)
}

/// What a selection means where every word of it is a resource that all clusters have: then no definition of the store can add to it.
fn plainly_selected(selection: &Selection) -> Option<Selected> {
    let nothing = CustomResources::default();
    let selected = selection.resolve(&nothing, []).ok()?;
    selected.is_settled().then_some(selected)
}

fn check_revision(asked: Option<i64>, index: &Index, last: Option<i64>) -> Result<(), AuditError> {
    let Some(asked) = asked else { return Ok(()) };
    let current = index.current_revision(last);
    match index.meta().compacted() {
        _ if asked > current => Err(AuditError::Future { asked, current }),
        Some(oldest) if asked < oldest => Err(AuditError::Compacted { asked, oldest }),
        _ => Ok(()),
    }
}

impl Found<'_> {
    fn next_noted(&mut self) -> io::Result<Option<Noted>> {
        while self.ahead.is_empty() {
            let Some(part) = self.merge.next_part()? else { return Ok(None) };
            let (order, holds) = (self.wanted.order, self.wanted.digests.is_some());
            self.ahead.extend(part.read()?.raw().map(|(row, _)| Noted::of(&row, order, holds)));
        }
        Ok(self.ahead.pop_front())
    }

    /// Where the API servers keep their objects.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Resource, namespace, name and kind of the object at a key.
    pub(super) fn described(&self, key: &[u8]) -> Option<(GroupResource, String, String, Option<String>)> {
        let Address::Object(object) = self.roots.locate(key) else { return None };
        let namespace = object.namespace.unwrap_or_default().to_owned();
        Some((object.group_resource(), namespace, object.name.to_owned(), self.kind(&object).map(Cow::into_owned)))
    }

    /// Begins anew with the first object.
    ///
    /// # Errors
    ///
    /// When the sorted notes cannot be read again.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.merge = self.merge.again()?;
        self.ahead.clear();
        self.pending = self.next_noted()?;
        Ok(())
    }

    /// The next record that is wanted.
    pub(super) fn next_wanted(&mut self) -> io::Result<Option<Noted>> {
        let mut before: Option<Noted> = None;
        while let Some(noted) = self.pending.take() {
            self.pending = self.next_noted()?;
            let is_last = self.pending.as_ref().is_none_or(|next| next.key != noted.key);
            match self.wanted.which {
                Which::All if !noted.deleted => return Ok(Some(noted)),
                Which::Current if is_last && !noted.deleted => return Ok(Some(noted)),
                Which::Deleted if is_last && noted.deleted && before.is_some() => return Ok(before),
                Which::Deleted if !noted.deleted => before = Some(noted),
                _ => {}
            }
            if is_last {
                before = None;
            }
        }
        Ok(None)
    }

    /// The next objects in the order of their keys; none at the end.
    ///
    /// # Errors
    ///
    /// When the sorted notes cannot be read again.
    pub fn next_batch(&mut self) -> io::Result<Option<Vec<Item>>> {
        loop {
            let mut noted = Vec::new();
            let mut bytes = 0;
            while noted.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
                let Some(next) = self.next_wanted()? else { break };
                bytes += next.value_bytes;
                noted.push(next);
            }
            if noted.is_empty() {
                return Ok(None);
            }
            let items = self.items(&noted);
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
    }

    /// Whether something that was seen could not be read again, as it can happen with a running server.
    pub fn has_lost(&self) -> bool {
        self.store.has_lost()
    }

    /// Reads, opens and decodes what was noted.
    fn items(&self, noted: &[Noted]) -> Vec<Item> {
        self.numbered_items(noted).into_iter().map(|(_, item)| item).collect()
    }

    /// The same, several parts of it at once: each item with the number of its note.
    pub(super) fn numbered_items<N: Borrow<Noted> + Sync>(&self, noted: &[N]) -> Vec<(usize, Item)> {
        let mut order: Vec<(Place, usize)> = noted.iter().map(|noted| noted.borrow().place).zip(0..).collect();
        order.sort_unstable();
        let share = order.len().div_ceil(rayon::current_num_threads().max(1) * 4).max(1);
        let parts = order.par_chunks(share).map(|part| self.part(noted, part));
        let mut items: Vec<(usize, Item)> = parts.collect::<Vec<_>>().into_iter().flatten().collect();
        items.sort_unstable_by_key(|(index, _)| *index);
        items
    }

    fn part<N: Borrow<Noted>>(&self, noted: &[N], part: &[(Place, usize)]) -> Vec<(usize, Item)> {
        let places: Vec<Place> = part.iter().map(|(place, _)| *place).collect();
        let mut waiting = part.iter();
        let mut scratch = Plaintext::new();
        let mut items = Vec::with_capacity(part.len());
        self.store.reader(&self.index).records_at(&places, |place, kv| {
            let Some((_, index)) = waiting.find(|(waiting, _)| *waiting == place) else { return };
            let noted = noted.get(*index).map(Borrow::borrow);
            let Some(noted) = noted.filter(|noted: &&Noted| noted.key == kv.key) else { return };
            let item = self.item(noted, kv.value, &mut scratch);
            items.extend(item.map(|item| (*index, item)));
        });
        items
    }

    /// Opens and decodes one value; none if its labels are not those that are wanted.
    fn item(&self, noted: &Noted, value: &[u8], scratch: &mut Plaintext) -> Option<Item> {
        let address = self.roots.locate(&noted.key);
        let Address::Object(object) = address else { return None };
        let content = self.content(&address, noted, value, scratch);
        if !self.wanted.labels.is_empty() && !self.has_labels(&content) {
            return None;
        }
        Some(Item {
            kind: self.kind(&object),
            resource: object.group_resource(),
            namespace: object.namespace.unwrap_or_default().to_owned(),
            name: object.name.to_owned(),
            key: noted.key.clone(),
            mod_revision: noted.mod_revision,
            content,
        })
    }

    fn kind(&self, object: &ObjectKey<'_>) -> Option<Cow<'static, str>> {
        let defined = || self.custom.get(object.group, object.resource).map(|custom| custom.kind.clone());
        let defined = || defined().filter(|kind| !kind.is_empty()).map(Cow::Owned);
        object.kind.map(Cow::Borrowed).or_else(defined)
    }

    fn content(&self, address: &Address<'_>, noted: &Noted, value: &[u8], scratch: &mut Plaintext) -> Content {
        let plaintext = match open(self.rules, &self.wanted.deks, address, &noted.key, value, scratch) {
            Opened::Plain { plaintext, .. } => plaintext,
            Opened::Closed { sealed, reason } => {
                let reason = if self.rules.given() { reason.to_string() } else { NO_CONFIGURATION.to_owned() };
                return Content::Closed { sealed: sealed.into_owned(), reason };
            }
        };
        let Wanted { managed_fields, digests, .. } = *self.wanted;
        // Two stores are compared by what was written, not by when.
        let resource_version = digests.is_none().then_some(noted.mod_revision);
        let dress = Dress { resource_version, managed_fields };
        // Wiping takes longer than filling, so there is little more room than nearly all objects need.
        let mut json = Zeroizing::new(Vec::with_capacity(plaintext.len() + plaintext.len() / 2 + 256));
        let payload = || Zeroizing::new(plaintext.to_vec());
        match schema::to_json(plaintext, &dress, &mut json) {
            Ok(_) => {
                let misplaced = match (address, crate::kube::payload::identify(plaintext)) {
                    (Address::Object(object), Ok((_, identity))) => {
                        crate::kube::payload::mismatch(object, &identity).is_some()
                    }
                    _ => false,
                };
                let payload = if self.wanted.payloads { payload() } else { Zeroizing::default() };
                Content::Object { json, payload, misplaced }
            }
            Err(error) => Content::Undecodable { payload: payload(), error },
        }
    }

    /// Whether an object has the labels that are wanted. Of what cannot be read nobody knows, so it is kept.
    fn has_labels(&self, content: &Content) -> bool {
        let Content::Object { json, .. } = content else { return true };
        let Ok(document) = Document::parse(json) else { return true };
        let labels = document.root().find(&["metadata", "labels"]);
        self.wanted.labels.matches(|key| labels.and_then(|labels| labels.get(key)).and_then(|value| value.text()))
    }
}

/// The names that a selection asks for one by one, and that were not met yet.
pub struct Missing(BTreeSet<(GroupResource, String)>);

impl Missing {
    /// All of them.
    pub fn of(selected: &Selected) -> Self {
        Self(selected.names().map(|(resource, name)| (resource.clone(), name.to_owned())).collect())
    }

    /// One that was met.
    pub fn met(&mut self, resource: &GroupResource, name: &str) {
        if !self.0.is_empty() {
            self.0.remove(&(resource.clone(), name.to_owned()));
        }
    }

    /// What was never met, as `resource "name"`.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupResource, &str)> {
        self.0.iter().map(|(resource, name)| (resource, name.as_str()))
    }
}
