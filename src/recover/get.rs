//! The objects that are asked for, in the order of their keys.
//!
//! One pass over the file notes where the wanted records stand; the notes are sorted in a private file that holds keys and places, and
//! nothing of a value. Then the records are read again, some at a time, opened and decoded in parallel, and handed out in
//! order. So memory is bounded for any store, and no plaintext is ever kept.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use rayon::prelude::*;

use crate::audit::deks::Deks;
use crate::audit::rows::{RowSink, Spill};
use crate::audit::rules::Rules;
use crate::audit::run::{AuditError, Options};
use crate::audit::survey;
use crate::kube::custom::CustomResources;
use crate::kube::key::{Address, Roots};
use crate::kube::labels::{Fields, Labels};
use crate::kube::resource::GroupResource;
use crate::kube::select::{Selected, Selection};
use crate::source::digest::{Digests, Trailer};
use crate::source::snapshot::PassOptions;
use crate::source::store::{Index, Reader};
use crate::source::trace::TraceKey;
use crate::source::{Place, Store};

use super::notes::{Noted, Noter};
use super::queue::Queue;
use super::seen::Opener;

pub use super::notes::Order;
pub use super::seen::{Content, Item};

/// So many records are read, decoded and handed out at a time.
const BATCH_RECORDS: usize = 2048;
/// A batch ends early when its values have so many bytes.
const BATCH_BYTES: u64 = 16 << 20;

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
    queue: Queue,
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
    let merge = spill.merge().map_err(AuditError::Spill)?;
    let queue = Queue::begin(merge, wanted).map_err(AuditError::Spill)?;
    Ok(Found { store, rules, wanted, index, roots, queue, custom, selected, damaged, altered, notes })
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
    /// Where the API servers keep their objects.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// What reads and opens what was noted, and what is noted beside it.
    pub(super) fn split(&mut self) -> (Opener<'_>, &mut Queue) {
        let Self { store, rules, wanted, index, roots, queue, custom, .. } = self;
        (Opener { store, rules, wanted, index, roots, custom }, queue)
    }

    pub(super) fn opener(&self) -> Opener<'_> {
        let Self { store, rules, wanted, index, roots, custom, .. } = self;
        Opener { store, rules, wanted, index, roots, custom }
    }

    /// Resource, namespace, name and kind of the object at a key.
    pub(super) fn described(&self, key: &[u8]) -> Option<(GroupResource, String, String, Option<String>)> {
        let Address::Object(object) = self.roots.locate(key) else { return None };
        let namespace = object.namespace.unwrap_or_default().to_owned();
        let kind = self.opener().kind(&object).map(Cow::into_owned);
        Some((object.group_resource(), namespace, object.name.to_owned(), kind))
    }

    /// Begins anew with the first object.
    ///
    /// # Errors
    ///
    /// When the sorted notes cannot be read again.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.queue.rewind()
    }

    /// The next record that is wanted.
    pub(super) fn next_wanted(&mut self) -> io::Result<Option<Noted>> {
        self.queue.next_wanted()
    }

    /// The next objects in the order of their keys; none at the end.
    ///
    /// # Errors
    ///
    /// When the sorted notes cannot be read again.
    pub fn next_batch(&mut self) -> io::Result<Option<Vec<Item>>> {
        loop {
            let noted = self.queue.next_batch(BATCH_RECORDS, BATCH_BYTES)?;
            if noted.is_empty() {
                return Ok(None);
            }
            let items: Vec<Item> = self.numbered_items(&noted).into_iter().map(|(_, item)| item).collect();
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
    }

    /// Whether something that was seen could not be read again, as it can happen with a running server.
    pub fn has_lost(&self) -> bool {
        self.store.has_lost()
    }

    /// Reads, opens and decodes what was noted, several parts of it at once: each item with the number of its note.
    pub(super) fn numbered_items<N: Borrow<Noted> + Sync>(&self, noted: &[N]) -> Vec<(usize, Item)> {
        let mut order: Vec<(Place, usize)> = noted.iter().map(|noted| noted.borrow().place).zip(0..).collect();
        order.sort_unstable();
        let share = order.len().div_ceil(rayon::current_num_threads().max(1) * 4).max(1);
        let opener = self.opener();
        let parts = order.par_chunks(share).map(|part| opener.part(noted, part));
        let mut items: Vec<(usize, Item)> = parts.collect::<Vec<_>>().into_iter().flatten().collect();
        items.sort_unstable_by_key(|(index, _)| *index);
        items
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
