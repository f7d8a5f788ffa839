//! What must be known of a store before its values are judged: its roots and, for a selection, its custom resources.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::kube::custom::{CustomResource, CustomResources};
use crate::kube::key::{Address, Known, ObjectKey, Roots};
use crate::kube::resource::GroupResource;
use crate::kube::roots::RootFinder;
use crate::kube::select::Selected;
use crate::provider::chain::Answer;
use crate::provider::plaintext::Plaintext;
use crate::source::scan::Visitor;
use crate::source::snapshot::{PassOptions, ReadError, Snapshot};
use crate::source::store::Reader;
use crate::source::{Depth, Faults, Place, Record, Store};

use super::deks::Deks;
use super::rules::{Guard, Rules};
use super::run::{AuditError, Options};

/// So many leaf pages are looked at to find the roots of a store; smaller stores are looked at whole.
const SAMPLED_LEAVES: usize = 256;

/// The resource whose objects define others.
pub const DEFINITIONS: &str = "customresourcedefinitions";

/// Resources beyond so many are not remembered; no cluster serves a tenth of it.
const MAX_RESOURCES: usize = 65_536;

/// The roots as far as a sample of the keys tells.
pub fn sampled_roots(reader: Reader<'_>) -> Roots {
    let mut finder = RootFinder::new();
    reader.sample(SAMPLED_LEAVES, |key| finder.see(key));
    finder.finish()
}

/// The roots as all keys tell.
pub fn roots(store: &mut Store, pass: PassOptions<'_>) -> Result<Roots, ReadError> {
    let pass = PassOptions { digest: false, ..pass };
    let pass = store.pass(pass, |_| (), |()| Finding(RootFinder::new()))?;
    let mut all = RootFinder::new();
    pass.visitors.into_iter().for_each(|finding| all.absorb(finding.0));
    Ok(all.finish())
}

/// The same, for who holds the file open and reads it in the order of keys.
pub fn ordered_roots(snapshot: &Snapshot, depth: Depth) -> Result<Roots, ReadError> {
    let laid = snapshot.lay_out(depth)?;
    let groups = laid.groups();
    let mut reader = groups.reader();
    let (mut finder, mut faults) = (RootFinder::new(), Faults::new());
    while let Some((_, leaves)) = groups.take() {
        for leaf in leaves.clone() {
            reader.load(leaf, leaves.end, &mut faults);
            let records = (0..reader.len()).filter_map(|number| reader.record(number)?.1.ok());
            records.for_each(|record| finder.see(record.kv.key));
        }
    }
    Ok(finder.finish())
}

struct Finding(RootFinder);

impl Visitor for Finding {
    fn record(&mut self, record: &Record<'_>) {
        self.0.see(record.kv.key);
    }
}

/// What a selection means in this store; with it the roots, which were needed for it. Without a selection nothing is
/// read, and the roots are those that were given.
pub fn select(
    store: &mut Store,
    rules: &Rules,
    options: &Options<'_>,
) -> Result<(Option<Roots>, Option<Selected>), AuditError> {
    if options.selection.is_everything() {
        return Ok((options.roots.clone(), None));
    }
    let found = match &options.roots {
        Some(roots) => roots.clone(),
        None => roots(store, options.pass)?,
    };
    let shared = Arc::new(found);
    let pass = PassOptions { digest: false, ..options.pass };
    let learner = |_: &()| Learner {
        rules,
        roots: shared.clone(),
        deks: &options.deks,
        definitions: Vec::new(),
        resources: BTreeSet::new(),
        scratch: Plaintext::new(),
    };
    let pass = store.pass(pass, |_| (), learner)?;
    let (mut definitions, mut resources) = (Vec::new(), BTreeSet::new());
    for learner in pass.visitors {
        definitions.extend(learner.definitions);
        resources.extend(learner.resources);
    }
    let custom = custom(definitions);
    let selected = options.selection.resolve(&custom, &resources)?;
    Ok((Some(Arc::unwrap_or_clone(shared)), Some(selected)))
}

/// Learns the custom resources of a store from their definitions, and from objects whose definition is gone.
struct Learner<'l> {
    rules: &'l Rules,
    deks: &'l Deks,
    roots: Arc<Roots>,
    definitions: Vec<(Place, CustomResource)>,
    resources: BTreeSet<GroupResource>,
    scratch: Plaintext,
}

impl Visitor for Learner<'_> {
    fn record(&mut self, record: &Record<'_>) {
        let roots = self.roots.clone();
        let Address::Object(object) = roots.locate(record.kv.key) else { return };
        if object.known != Known::BuiltIn && self.resources.len() < MAX_RESOURCES {
            self.resources.insert(object.group_resource());
        }
        if object.resource == DEFINITIONS && !record.revision.tombstone {
            let resource = definition(self.rules, self.deks, &object, record, &mut self.scratch);
            self.definitions.extend(resource.map(|resource| (record.place, resource)));
        }
    }
}

/// The custom resource that a definition's record speaks of; see [`CustomResource::of`].
pub fn definition(
    rules: &Rules,
    deks: &Deks,
    object: &ObjectKey<'_>,
    record: &Record<'_>,
    scratch: &mut Plaintext,
) -> Option<CustomResource> {
    let chain = match rules.guard(&Address::Object(*object)) {
        Guard::Chain(chain) => Some(chain),
        Guard::Unsettled | Guard::Nobody => None,
    };
    let kv = &record.kv;
    let prepared = chain.and_then(|chain| Some((chain, rules.chain(chain)?)));
    let answer = prepared.map(|(chain, prepared)| prepared.open(kv.key, kv.value, deks.of(chain), scratch));
    let plaintext = match answer {
        Some(Answer::Opened { plaintext, .. }) => Some(plaintext),
        // Without a configuration a definition that is not encrypted can be read as it is.
        _ => Some(kv.value),
    };
    CustomResource::of(object.name, plaintext)
}

/// The custom resources of definitions with their places: the newest revision of each counts.
pub fn custom(definitions: impl IntoIterator<Item = (Place, CustomResource)>) -> CustomResources {
    let mut definitions: Vec<_> = definitions.into_iter().collect();
    definitions.sort_by_key(|(place, _)| *place);
    let mut custom = CustomResources::default();
    definitions.into_iter().for_each(|(_, resource)| custom.insert(resource));
    custom
}
