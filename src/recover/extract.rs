//! Every object as a file of its own, in the order in which they are applied.
//!
//! ```text
//! file = phase "/" ( namespace | "_cluster" ) "/" kind [ "." group ] "/" name ".yaml"         each made harmless by `path`
//! ```
//!
//! Two objects of one place, which only a store with several roots has, are told apart by `%~2` behind the name. What is no file is left out,
//! and why is told. Nothing here writes, or knows how objects are written.

pub mod clean;
mod crd;
pub mod generated;
mod pruning;

use std::collections::{HashMap, HashSet};
use std::io;

use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::kube::custom::CustomResources;
use crate::kube::document::{Document, Node};
use crate::kube::key::{Address, ObjectKey};
use crate::kube::resource::GroupResource;
use crate::kube::table::BUILT_INS;

use super::get::{Content, Found, Item};
use super::path::component;
use super::phase::{PHASES, phase};
use clean::{Cleaned, clean, unfit};
use generated::{Others, clusters_own, generated};

/// The folder of objects that are in no namespace. No namespace's own folder begins so.
pub const CLUSTER: &str = "_cluster";

/// What is to be done with objects beside writing them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Take out what another API server would refuse, and leave out what it should not be given.
    pub clean: bool,
    /// Leave out what controllers make by themselves.
    pub no_generated: bool,
}

/// What became of an object.
pub enum Outcome {
    /// It is to be written.
    File(Piece),
    /// It is left out.
    LeftOut {
        /// The word for why.
        why: Why,
        /// Why, in a sentence.
        reason: String,
    },
}

/// Why an object is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It does not open.
    Closed,
    /// It opens, and is no object.
    Undecodable,
    /// It is another object than its key names, and would be applied as that.
    Misplaced,
    /// No other cluster takes it, or should be given it.
    NotApplicable,
    /// It is made by itself.
    Generated,
}

impl Why {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Undecodable => "undecodable",
            Self::Misplaced => "misplaced",
            Self::NotApplicable => "not-applicable",
            Self::Generated => "generated",
        }
    }

    /// Whether something is missing that somebody may want.
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Closed | Self::Undecodable | Self::Misplaced)
    }
}

/// An object that is to be written.
pub struct Piece {
    /// The folders, from the outermost.
    pub folders: [String; 3],
    /// The name, without a suffix.
    pub name: String,
    /// The object as JSON.
    pub json: Zeroizing<Vec<u8>>,
    /// What was taken out of it, beside what every server sets on every object.
    pub removed: Vec<String>,
}

/// An object and what became of it.
pub struct Extracted {
    /// The etcd key.
    pub key: Vec<u8>,
    /// Its resource.
    pub resource: GroupResource,
    /// Its namespace; empty for an object of the cluster's scope.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The revision at which it was written.
    pub mod_revision: i64,
    /// What became of it.
    pub outcome: Outcome,
}

/// Gives objects out one after another.
pub struct Extraction<'e, 'f> {
    found: &'e mut Found<'f>,
    treatment: Treatment,
    folders: Folders,
    others: Option<Others>,
    /// The object before, and how many there were of its place.
    last: Option<(GroupResource, String, String)>,
    of_its_place: u32,
}

/// Why nothing could be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The notes of what was found are lost.
    #[error("the sorted notes of what was found cannot be read again: {0}")]
    Notes(#[from] io::Error),
}

impl<'e, 'f> Extraction<'e, 'f> {
    /// Begins. Where it matters which other objects there are, all are read once for that.
    ///
    /// # Errors
    ///
    /// [`ExtractError`].
    pub fn begin(found: &'e mut Found<'f>, treatment: Treatment) -> Result<Self, ExtractError> {
        let others = if treatment.no_generated { Some(look_at_all(found)?) } else { None };
        let folders = Folders::of(&found.custom);
        Ok(Self { found, treatment, folders, others, last: None, of_its_place: 0 })
    }

    /// The next objects; none at the end.
    ///
    /// # Errors
    ///
    /// When the sorted notes cannot be read again.
    pub fn next_batch(&mut self) -> io::Result<Option<Vec<Extracted>>> {
        let Some(items) = self.found.next_batch()? else { return Ok(None) };
        let numbered: Vec<(u32, Item)> = items.into_iter().map(|item| (self.number(&item), item)).collect();
        let this = &*self;
        Ok(Some(numbered.into_par_iter().map(|(number, item)| this.extracted(number, item)).collect()))
    }

    /// Which of the objects of its place an object is, from 1.
    fn number(&mut self, item: &Item) -> u32 {
        let is_same = self.last.as_ref().is_some_and(|(resource, namespace, name)| {
            *resource == item.resource && *namespace == item.namespace && *name == item.name
        });
        self.of_its_place = if is_same { self.of_its_place.saturating_add(1) } else { 1 };
        if !is_same {
            self.last = Some((item.resource.clone(), item.namespace.clone(), item.name.clone()));
        }
        self.of_its_place
    }

    fn extracted(&self, number: u32, item: Item) -> Extracted {
        let outcome = self.outcome(number, &item);
        let Item { key, resource, namespace, name, mod_revision, .. } = item;
        Extracted { key, resource, namespace, name, mod_revision, outcome }
    }

    fn outcome(&self, number: u32, item: &Item) -> Outcome {
        let left_out = |why, reason: String| Outcome::LeftOut { why, reason };
        let (json, misplaced) = match &item.content {
            Content::Object { json, misplaced, .. } => (json, *misplaced),
            Content::Closed { sealed, reason } => {
                let by = match sealed.provider {
                    "" => "a provider that no release has".to_owned(),
                    provider => format!("{provider} {}, key {}", sealed.version, sealed.name),
                };
                return left_out(Why::Closed, format!("sealed by {by}: {reason}"));
            }
            Content::Undecodable { error, .. } => return left_out(Why::Undecodable, error.to_string()),
        };
        let Ok(document) = Document::parse(json) else {
            return left_out(Why::Undecodable, "it cannot be read again".to_owned());
        };
        if misplaced {
            return left_out(Why::Misplaced, "it is not the object that its key names".to_owned());
        }
        if let Some((why, reason)) = self.passed_over(item, document.root()) {
            return left_out(why, reason.to_owned());
        }
        let Cleaned { json, removed } = match self.treatment.clean {
            true => clean(&item.resource, document.root(), self.keeps_status(&item.resource)),
            false => Cleaned { json: json.clone(), removed: Vec::new() },
        };
        let (folders, name) = self.place(number, item);
        Outcome::File(Piece { folders, name, json, removed })
    }

    fn passed_over(&self, item: &Item, root: Node<'_, '_>) -> Option<(Why, &'static str)> {
        let place = (item.namespace.as_str(), item.name.as_str());
        let Treatment { clean, no_generated } = self.treatment;
        let own = if clean || no_generated { clusters_own(&item.resource, place, root) } else { None };
        if let Some(reason) = own {
            return Some((if clean { Why::NotApplicable } else { Why::Generated }, reason));
        }
        if let Some(reason) = unfit(&item.resource, root).filter(|_| clean) {
            return Some((Why::NotApplicable, reason));
        }
        let others = self.others.as_ref()?;
        generated(&item.resource, place, root, others).map(|reason| (Why::Generated, reason))
    }

    fn keeps_status(&self, resource: &GroupResource) -> bool {
        let custom = self.found.custom.get(&resource.group, &resource.resource);
        custom.is_some_and(|custom| custom.has_status == Some(false))
    }

    /// Folders and name of an object's file.
    fn place(&self, number: u32, item: &Item) -> ([String; 3], String) {
        let phase = self.found.object(&item.key, phase).unwrap_or_default();
        let phase = PHASES.get(usize::from(phase)).copied().unwrap_or_default();
        let namespace = if item.namespace.is_empty() { CLUSTER.to_owned() } else { component(&item.namespace) };
        let mut name = component(&item.name);
        if number > 1 {
            name.push_str(&format!("%~{number}"));
        }
        ([phase.to_owned(), namespace, self.folders.name(&item.resource)], name)
    }
}

/// Reads all objects once, to know which there are.
fn look_at_all(found: &mut Found<'_>) -> Result<Others, ExtractError> {
    let mut others = Others::new()?;
    while let Some(items) = found.next_batch()? {
        let seen = items.par_iter().filter_map(|item| {
            let Content::Object { json, .. } = &item.content else { return None };
            let document = Document::parse(json).ok()?;
            Some(others.of(&item.resource, (&item.namespace, &item.name), document.root()))
        });
        let seen: Vec<_> = seen.collect();
        seen.into_iter().for_each(|one| others.add(one));
    }
    others.settle();
    found.rewind()?;
    Ok(others)
}

/// What the folder of each resource is called: its kind, as long as no other resource of the group can be meant.
struct Folders {
    names: HashMap<GroupResource, String>,
    used: HashSet<String>,
}

impl Folders {
    fn of(custom: &CustomResources) -> Self {
        let built_ins = BUILT_INS.iter().map(|one| (one.group, one.resource, one.kind));
        let customs = custom.iter().map(|one| (one.group.as_str(), one.resource.as_str(), one.kind.as_str()));
        let all: Vec<_> = built_ins.chain(customs).collect();
        // How many resources of a group are called so, by kind or by plural.
        let mut bearers: HashMap<(&str, String), u32> = HashMap::new();
        for (group, resource, kind) in &all {
            let kind = kind.to_ascii_lowercase();
            if kind != *resource {
                *bearers.entry((group, kind)).or_default() += 1;
            }
            *bearers.entry((group, (*resource).to_owned())).or_default() += 1;
        }
        let mut names = HashMap::new();
        for (group, resource, kind) in &all {
            let kind = kind.to_ascii_lowercase();
            // A dot in it would be one of the group's.
            let is_plain = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let is_its_own = is_plain && bearers.get(&(*group, kind.clone())) == Some(&1);
            let name = if is_its_own { kind.as_str() } else { resource };
            names.insert(GroupResource::new(*group, *resource), folder(name, group));
        }
        let used = names.values().cloned().collect();
        Self { names, used }
    }

    fn name(&self, resource: &GroupResource) -> String {
        let undefined = || {
            let mut name = folder(&resource.resource, &resource.group);
            if self.used.contains(&name) {
                name.push_str("%~");
            }
            name
        };
        self.names.get(resource).cloned().unwrap_or_else(undefined)
    }
}

fn folder(name: &str, group: &str) -> String {
    if group.is_empty() { component(name) } else { component(&format!("{name}.{group}")) }
}

impl Found<'_> {
    /// What an object's key says, put to a question.
    fn object<T>(&self, key: &[u8], ask: impl FnOnce(&ObjectKey<'_>) -> T) -> Option<T> {
        match self.roots().locate(key) {
            Address::Object(object) => Some(ask(&object)),
            Address::Reserved(_) | Address::Foreign => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::custom::CustomResource;

    fn custom(resources: &[(&str, &str)]) -> CustomResources {
        let mut custom = CustomResources::default();
        for (resource, kind) in resources {
            custom.insert(CustomResource {
                group: "example.com".to_owned(),
                resource: (*resource).to_owned(),
                kind: (*kind).to_owned(),
                ..CustomResource::default()
            });
        }
        custom
    }

    fn name(folders: &Folders, resource: &str) -> String {
        folders.name(&GroupResource::parse(resource))
    }

    #[test]
    fn folders_are_called_by_kind_where_that_means_one_resource() {
        let folders = Folders::of(&custom(&[
            ("widgets", "Widget"),
            ("lambs", "Sheep"),
            ("sheep", "Ram"),
            ("a", "X"),
            ("b", "X"),
            ("c", ""),
            ("d", "E.f"),
        ]));
        for (resource, expected) in [
            ("secrets", "secret"),
            ("deployments.apps", "deployment.apps"),
            ("widgets.example.com", "widget.example.com"),
            ("lambs.example.com", "lambs.example.com"),
            ("sheep.example.com", "ram.example.com"),
            ("a.example.com", "a.example.com"),
            ("b.example.com", "b.example.com"),
            ("c.example.com", "c.example.com"),
            ("d.example.com", "d.example.com"),
            ("gone.example.com", "gone.example.com"),
            ("ram.example.com", "ram.example.com%~"),
            ("endpoints", "endpoints"),
        ] {
            assert_eq!(name(&folders, resource), expected);
        }
    }

    #[test]
    fn no_two_resources_share_a_folder() {
        let words = ["a", "b", "c"];
        for code in 0..27_usize {
            let kinds = [code % 3, code / 3 % 3, code / 9].map(|index| words[index]);
            let resources: Vec<_> = words.into_iter().zip(kinds).collect();
            let folders = Folders::of(&custom(&resources));
            let mut names: Vec<_> = words.iter().map(|word| name(&folders, &format!("{word}.example.com"))).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 3, "{resources:?}");
        }
    }
}
