//! Selects resources and names as kubectl does: `secret`, `deploy,cm`, `secret/foo`, `widgets.example.com`.
//!
//! What was typed ([`Selection`]) and what it means in a store ([`Selected`]) are two things, since the names of
//! custom resources are known only when the store's definitions are. Knows nothing of values, nor of
//! namespaces, which kubectl selects by a flag.
//!
//! Upstream: `k8s.io/cli-runtime/pkg/resource/builder.go` (arguments) and
//! `k8s.io/apimachinery/pkg/api/meta/restmapper.go` (names and partial groups).

use crate::kube::custom::CustomResources;
use crate::kube::key::ObjectKey;
use crate::kube::resource::GroupResource;
use crate::kube::table::{BUILT_INS, BuiltIn, Served};

/// What `all` stands for, as in kubectl.
const CATEGORY_ALL: &[&str] = &[
    "pods",
    "replicationcontrollers",
    "services",
    "daemonsets",
    "deployments",
    "replicasets",
    "statefulsets",
    "horizontalpodautoscalers",
    "cronjobs",
    "jobs",
    "deploymentconfigs",
    "buildconfigs",
    "builds",
    "imagestreams",
    "routes",
];

/// At most so many similar names are offered for one that is not known.
const MAX_NEAR_NAMES: usize = 5;

/// Longer words are not compared with known names.
const MAX_COMPARED_BYTES: usize = 64;

/// Why a selection cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No resource of this name.
    #[error("unknown resource {word:?}{}", near_names(near))]
    UnknownResource {
        /// What was typed.
        word: String,
        /// Names that resemble it, the most similar first.
        near: Vec<String>,
    },
    /// An empty word, as in `cm,,secret`.
    #[error("an empty resource name in {argument:?}")]
    EmptyResource {
        /// The argument.
        argument: String,
    },
    /// `secret/`, `/foo` or `a/b/c`.
    #[error("{argument:?} is not of the form resource/name")]
    NotResourceAndName {
        /// The argument.
        argument: String,
    },
    /// Some arguments with a slash and some without.
    #[error("resource/name and a resource followed by names cannot be mixed")]
    MixedForms,
}

fn near_names(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) }
}

/// One thing that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    resource: String,
    /// Any of these names; all if there are none.
    names: Vec<String>,
}

/// A selection as it was typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    words: Vec<Word>,
}

impl Selection {
    /// Reads arguments as kubectl does: either `RESOURCE[,RESOURCE] [NAME...]` or `RESOURCE/NAME...`.
    /// No argument at all selects everything.
    ///
    /// # Errors
    ///
    /// [`SelectError`] for arguments of neither form; unknown names are found by [`resolve`](Self::resolve).
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Self, SelectError> {
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let slashes = arguments.iter().filter(|argument| argument.contains('/')).count();
        let Some((first, names)) = arguments.split_first() else { return Ok(Self::default()) };
        if slashes == 0 {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let words = resources(first)?.map(|resource| Word { resource, names: names.clone() });
            return Ok(Self { words: words.collect() });
        }
        if slashes < arguments.len() {
            return Err(SelectError::MixedForms);
        }
        let mut words = Vec::new();
        for argument in arguments {
            let refused = || SelectError::NotResourceAndName { argument: argument.to_owned() };
            let (resource, name) = argument.split_once('/').ok_or_else(refused)?;
            if name.is_empty() || name.contains('/') {
                return Err(refused());
            }
            words.extend(resources(resource)?.map(|resource| Word { resource, names: vec![name.to_owned()] }));
        }
        Ok(Self { words })
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.words.is_empty()
    }

    /// Finds what each word means.
    ///
    /// A bare name means the built-in resource that every cluster has, else every resource that bears it (a
    /// new or optional built-in one and custom ones of several groups). With a group it means that group or, if
    /// there is none, the groups that begin so. `seen` are resources of the store that neither the table nor
    /// its definitions have: newer built-in ones, and custom ones whose definition is gone.
    ///
    /// # Errors
    ///
    /// [`SelectError::UnknownResource`] for a name that nothing bears.
    pub fn resolve<'s>(
        &self,
        custom: &'s CustomResources,
        seen: impl IntoIterator<Item = &'s GroupResource>,
    ) -> Result<Selected, SelectError> {
        let known = Known::new(custom, seen);
        let mut wanted = Vec::new();
        for word in &self.words {
            let resources = known.find(&word.resource);
            if resources.is_empty() {
                let near = known.near(&word.resource);
                return Err(SelectError::UnknownResource { word: word.resource.clone(), near });
            }
            wanted.extend(resources.into_iter().map(|resource| Wanted { resource, names: word.names.clone() }));
        }
        Ok(Selected { everything: self.is_everything(), wanted })
    }
}

/// The resources of a comma-separated argument, in lower case as kubectl takes them.
fn resources(argument: &str) -> Result<impl Iterator<Item = String>, SelectError> {
    if argument.split(',').any(str::is_empty) {
        return Err(SelectError::EmptyResource { argument: argument.to_owned() });
    }
    Ok(argument.split(',').map(str::to_ascii_lowercase))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    resource: GroupResource,
    names: Vec<String>,
}

/// A selection in the terms of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    everything: bool,
    wanted: Vec<Wanted>,
}

impl Selected {
    /// Whether the object at a key is selected.
    pub fn matches(&self, key: &ObjectKey<'_>) -> bool {
        self.everything
            || self.wanted.iter().any(|wanted| {
                wanted.resource.resource == key.resource
                    && wanted.resource.group == key.group
                    && (wanted.names.is_empty() || wanted.names.iter().any(|name| name == key.name))
            })
    }

    /// Everything.
    pub fn everything() -> Self {
        Self { everything: true, wanted: Vec::new() }
    }

    /// Whether nothing in a store could change what it means: it names only resources that every cluster has.
    pub fn is_settled(&self) -> bool {
        let always = |wanted: &Wanted| {
            BUILT_INS.iter().any(|built_in| {
                built_in.served == Served::Always
                    && built_in.group == wanted.resource.group
                    && built_in.resource == wanted.resource.resource
            })
        };
        self.everything || self.wanted.iter().all(always)
    }

    /// The names that are asked for one by one, each with its resource.
    pub fn names(&self) -> impl Iterator<Item = (&GroupResource, &str)> {
        self.wanted.iter().flat_map(|wanted| wanted.names.iter().map(|name| (&wanted.resource, name.as_str())))
    }

    /// How the keys of all that is selected end, where that is known of every one: all are asked for by name, and no definition of a
    /// store could add to them.
    pub fn key_ends(&self) -> Option<Vec<Vec<u8>>> {
        let named = !self.everything && self.wanted.iter().all(|wanted| !wanted.names.is_empty());
        let ends = || self.names().map(|(_, name)| format!("/{name}").into_bytes()).collect();
        (named && self.is_settled()).then(ends)
    }

    /// The resources that it selects; none if it selects everything.
    pub fn resources(&self) -> impl Iterator<Item = &GroupResource> {
        self.wanted.iter().map(|wanted| &wanted.resource)
    }
}

/// A resource and all its names.
struct Named<'a> {
    group: &'a str,
    resource: &'a str,
    singular: String,
    short_names: Vec<&'a str>,
    /// Whether its bare name means it alone.
    prevails: bool,
}

impl Named<'_> {
    fn bears(&self, word: &str) -> bool {
        self.resource == word || self.singular == word || self.short_names.contains(&word)
    }

    fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group, self.resource)
    }
}

/// Every resource that may be named.
struct Known<'a> {
    resources: Vec<Named<'a>>,
}

impl<'a> Known<'a> {
    fn new(custom: &'a CustomResources, seen: impl IntoIterator<Item = &'a GroupResource>) -> Self {
        let mut resources: Vec<Named<'a>> = BUILT_INS.iter().map(of_built_in).collect();
        resources.extend(custom.iter().map(|custom| Named {
            group: &custom.group,
            resource: &custom.resource,
            // Upstream's default for a definition that names no singular is the kind in lower case.
            singular: if custom.singular.is_empty() {
                custom.kind.to_ascii_lowercase()
            } else {
                custom.singular.clone()
            },
            short_names: custom.short_names.iter().map(String::as_str).collect(),
            prevails: false,
        }));
        for GroupResource { group, resource } in seen {
            if !resources.iter().any(|known| known.group == group && known.resource == resource) {
                let (singular, short_names) = (String::new(), Vec::new());
                resources.push(Named { group, resource, singular, short_names, prevails: false });
            }
        }
        Self { resources }
    }

    /// What a word means; nothing if it is not known.
    fn find(&self, word: &str) -> Vec<GroupResource> {
        let Some((name, rest)) = word.split_once('.') else { return self.find_bare(word) };
        let group = without_version(rest);
        let group = stored_group(name, group).unwrap_or(group);
        let exact = self.select(|named| named.bears(name) && named.group == group);
        if exact.is_empty() && !group.is_empty() {
            self.select(|named| named.bears(name) && named.group.starts_with(group))
        } else {
            exact
        }
    }

    fn find_bare(&self, word: &str) -> Vec<GroupResource> {
        if word == "all" {
            return self.select(|named| {
                BUILT_INS.iter().any(|b| b.group == named.group && b.resource == named.resource)
                    && CATEGORY_ALL.contains(&named.resource)
            });
        }
        let prevailing = self.select(|named| named.prevails && named.bears(word));
        if prevailing.is_empty() { self.select(|named| named.bears(word)) } else { prevailing }
    }

    fn select(&self, is_meant: impl Fn(&Named<'_>) -> bool) -> Vec<GroupResource> {
        self.resources.iter().filter(|named| is_meant(named)).map(Named::group_resource).collect()
    }

    /// Names that resemble a word: few letters differ, or one is the beginning of the other.
    fn near(&self, word: &str) -> Vec<String> {
        if word.len() > MAX_COMPARED_BYTES {
            return Vec::new();
        }
        let allowed = (word.len() / 3).max(1);
        let mut near: Vec<(usize, String)> = Vec::new();
        for named in &self.resources {
            let whole = named.group_resource().to_string();
            let names = [named.resource, &named.singular, &whole];
            let distances = names.iter().chain(&named.short_names).filter(|name| !name.is_empty()).map(|name| {
                let begins = word.len() >= 3 && (name.starts_with(word) || word.starts_with(*name));
                if begins { 1 } else { distance(word, name) }
            });
            if let Some(distance) = distances.min().filter(|distance| *distance <= allowed) {
                near.push((distance, if named.prevails { named.resource.to_owned() } else { whole }));
            }
        }
        near.sort();
        near.truncate(MAX_NEAR_NAMES);
        near.into_iter().map(|(_, name)| name).collect()
    }
}

fn of_built_in(built_in: &'static BuiltIn) -> Named<'static> {
    Named {
        group: built_in.group,
        resource: built_in.resource,
        singular: built_in.kind.to_ascii_lowercase(),
        short_names: built_in.short_names.to_vec(),
        prevails: built_in.served == Served::Always,
    }
}

/// The group of `[VERSION.]GROUP`; no group begins like a version.
fn without_version(rest: &str) -> &str {
    let (first, group) = rest.split_once('.').unwrap_or((rest, ""));
    let is_version = first.strip_prefix('v').is_some_and(|number| {
        let stem = number.trim_end_matches(|c: char| c.is_ascii_digit());
        number.starts_with(|c: char| c.is_ascii_digit())
            && matches!(stem.trim_start_matches(|c: char| c.is_ascii_digit()), "" | "alpha" | "beta")
    });
    if is_version { group } else { rest }
}

/// The group in which a resource is stored that API servers serve, or served, in another one as well.
fn stored_group(name: &str, group: &str) -> Option<&'static str> {
    let stored_elsewhere = match group {
        "events.k8s.io" => &["events"][..],
        "extensions" => {
            &["deployments", "daemonsets", "replicasets", "ingresses", "networkpolicies", "podsecuritypolicies"]
        }
        _ => return None,
    };
    let mut built_ins = BUILT_INS.iter().filter(|built_in| stored_elsewhere.contains(&built_in.resource));
    built_ins.find(|built_in| of_built_in(built_in).bears(name)).map(|built_in| built_in.group)
}

/// Levenshtein's distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (right, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(left != right);
            diagonal = *cell;
            before = replaced.min(before + 1).min(diagonal + 1);
            *cell = before;
        }
        if let Some(cell) = row.first_mut() {
            *cell = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::key::{Address, Roots};

    fn custom() -> CustomResources {
        let mut custom = CustomResources::default();
        let widgets = br#"{"spec":{"group":"example.com","scope":"Namespaced",
            "names":{"plural":"widgets","singular":"widget","kind":"Widget","shortNames":["wd"]}}}"#;
        custom.learn("widgets.example.com", Some(widgets));
        custom.learn("services.serving.knative.dev", None);
        custom.learn("builds.shipwright.io", None);
        custom
    }

    fn resolve(arguments: &[&str]) -> Result<Selected, SelectError> {
        let seen = [GroupResource::new("", "gizmos"), GroupResource::new("gone.io", "orphans")];
        Selection::parse(arguments)?.resolve(&custom(), &seen)
    }

    #[track_caller]
    fn check(arguments: &[&str], resources: &[&str]) {
        let selected = resolve(arguments).unwrap();
        assert_eq!(selected.resources().map(ToString::to_string).collect::<Vec<_>>(), resources, "{arguments:?}");
    }

    #[track_caller]
    fn matches(arguments: &[&str], key: &str) -> bool {
        match Roots::given(&["/registry"]).locate(key.as_bytes()) {
            Address::Object(object) => resolve(arguments).unwrap().matches(&object),
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn the_ends_of_keys_are_known_only_where_every_name_is() {
        let ends = |arguments: &[&str]| resolve(arguments).unwrap().key_ends();
        assert_eq!(ends(&["secret", "db", "web"]), Some(vec![b"/db".to_vec(), b"/web".to_vec()]));
        assert_eq!(ends(&["secret/db", "cm/x"]), Some(vec![b"/db".to_vec(), b"/x".to_vec()]));
        for open in [&["secret"][..], &["secret,widgets", "db"], &[]] {
            assert_eq!(ends(open), None, "{open:?}");
        }
    }

    #[test]
    fn plural_singular_short_name_and_kind_mean_the_same() {
        for word in ["deployments", "deployment", "deploy", "Deployment", "deploy.apps", "deployments.v1.apps"] {
            check(&[word], &["deployments.apps"]);
        }
        for word in ["secrets", "secret", "Secret", "secrets.", "secrets.v1."] {
            check(&[word], &["secrets"]);
        }
        for word in ["widgets", "widget", "wd", "widgets.example.com", "wd.example.com", "widgets.v1alpha1.example.com"]
        {
            check(&[word], &["widgets.example.com"]);
        }
    }

    #[test]
    fn the_short_names_of_kubectl_are_known() {
        for (short, resource) in [
            ("po", "pods"),
            ("svc", "services"),
            ("cm", "configmaps"),
            ("sa", "serviceaccounts"),
            ("pvc", "persistentvolumeclaims"),
            ("pv", "persistentvolumes"),
            ("no", "nodes"),
            ("ns", "namespaces"),
            ("ing", "ingresses.networking.k8s.io"),
            ("netpol", "networkpolicies.networking.k8s.io"),
            ("cj", "cronjobs.batch"),
            ("sts", "statefulsets.apps"),
            ("ds", "daemonsets.apps"),
            ("rs", "replicasets.apps"),
            ("rc", "replicationcontrollers"),
            ("ev", "events"),
            ("ep", "endpoints"),
            ("quota", "resourcequotas"),
            ("limits", "limitranges"),
            ("hpa", "horizontalpodautoscalers.autoscaling"),
            ("pdb", "poddisruptionbudgets.policy"),
            ("csr", "certificatesigningrequests.certificates.k8s.io"),
            ("sc", "storageclasses.storage.k8s.io"),
            ("pc", "priorityclasses.scheduling.k8s.io"),
            ("crd", "customresourcedefinitions.apiextensions.k8s.io"),
            ("crds", "customresourcedefinitions.apiextensions.k8s.io"),
        ] {
            check(&[short], &[resource]);
        }
    }

    #[test]
    fn a_list_keeps_its_order_and_names_count_for_all_of_it() {
        check(&["deploy,cm"], &["deployments.apps", "configmaps"]);
        assert!(matches(&["deploy,cm", "a", "b"], "/registry/configmaps/default/b"));
        assert!(matches(&["deploy,cm", "a", "b"], "/registry/deployments/other/a"));
        assert!(!matches(&["deploy,cm", "a", "b"], "/registry/configmaps/default/c"));
        assert!(!matches(&["deploy,cm"], "/registry/secrets/default/a"));
    }

    #[test]
    fn resource_and_name_with_a_slash_select_one_object_each() {
        assert!(matches(&["secret/foo", "cm/bar"], "/registry/secrets/default/foo"));
        assert!(matches(&["secret/foo", "cm/bar"], "/registry/configmaps/default/bar"));
        assert!(!matches(&["secret/foo", "cm/bar"], "/registry/configmaps/default/foo"));
    }

    #[test]
    fn nothing_typed_selects_everything() {
        assert!(matches(&[], "/registry/example.com/gadgets/x"));
        assert!(Selection::default().is_everything());
    }

    #[test]
    fn a_bare_name_means_the_resource_that_every_cluster_has_and_else_all_that_bear_it() {
        check(&["services"], &["services"]);
        check(&["services.serving.knative.dev"], &["services.serving.knative.dev"]);
        check(&["builds"], &["builds.build.openshift.io", "builds.shipwright.io"]);
    }

    #[test]
    fn a_group_may_be_the_beginning_of_one_or_the_one_it_is_served_in() {
        check(&["ing.networking"], &["ingresses.networking.k8s.io"]);
        check(&["events.events.k8s.io"], &["events"]);
        check(&["deploy.extensions"], &["deployments.apps"]);
        check(&["ingresses.extensions"], &["ingresses.networking.k8s.io"]);
    }

    #[test]
    fn resources_that_only_the_store_knows_can_be_named() {
        check(&["gizmos"], &["gizmos"]);
        check(&["orphans.gone.io"], &["orphans.gone.io"]);
        check(&["orphans"], &["orphans.gone.io"]);
    }

    #[test]
    fn all_is_the_workloads_and_no_secrets() {
        let selected = resolve(&["all"]).unwrap();
        let resources: Vec<String> = selected.resources().map(ToString::to_string).collect();
        assert_eq!(resources.len(), CATEGORY_ALL.len());
        assert!(!resources.iter().any(|resource| resource == "secrets" || resource == "builds.shipwright.io"));
    }

    #[test]
    fn an_unknown_name_is_refused_with_names_like_it() {
        for (word, near) in [
            ("secert", "secrets"),
            ("configmapz", "configmaps"),
            ("widgetz", "widgets.example.com"),
            ("deployment.batch", "deployments"),
            ("widgets.exmple.com", "widgets.example.com"),
        ] {
            match resolve(&[word]) {
                Err(SelectError::UnknownResource { near: found, .. }) => {
                    assert!(found.iter().any(|name| name == near), "{word}: {found:?}");
                    assert!(found.len() <= MAX_NEAR_NAMES);
                }
                other => panic!("{word}: {other:?}"),
            }
        }
        let error = resolve(&["xyzzyplugh"]).unwrap_err();
        assert_eq!(error.to_string(), "unknown resource \"xyzzyplugh\"");
    }

    #[test]
    fn arguments_of_neither_form_are_refused() {
        assert_eq!(Selection::parse(&["secret/foo", "bar"]), Err(SelectError::MixedForms));
        assert_eq!(Selection::parse(&["secret", "cm/bar"]), Err(SelectError::MixedForms));
        for argument in ["secret/", "secret/a/b"] {
            assert!(matches!(Selection::parse(&[argument]), Err(SelectError::NotResourceAndName { .. })), "{argument}");
        }
        for argument in ["", "cm,,secret", ",", "/foo"] {
            assert!(matches!(Selection::parse(&[argument]), Err(SelectError::EmptyResource { .. })), "{argument}");
        }
    }

    #[test]
    fn the_distance_counts_changed_added_and_missing_letters() {
        for (a, b, expected) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("pod", "pods", 1)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
