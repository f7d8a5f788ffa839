//! Custom resources, learnt from the CustomResourceDefinitions of a store.
//!
//! A key tells a custom resource by its shape alone ([`Known::Custom`](crate::kube::key::Known::Custom)). The
//! definition adds what the key cannot: kind, scope and the names that kubectl takes. Objects whose definition
//! is gone stay objects; so nothing here decides whether a key addresses one.
//!
//! Upstream: `pkg/apis/apiextensions/v1beta1/types.go` of `kubernetes/apiextensions-apiserver`. API servers
//! store definitions as JSON in v1beta1, whatever version they serve.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::kube::key::ObjectKey;

/// More definitions than this are not kept; clusters have hundreds.
const MAX_DEFINITIONS: usize = 20_000;

/// Names that are longer are not kept; upstream allows 253 bytes for a definition's name, 63 for the others.
const MAX_NAME_BYTES: usize = 253;

/// A definition has hardly more than three short names.
const MAX_SHORT_NAMES: usize = 32;

/// A custom resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomResource {
    /// The API group.
    pub group: String,
    /// The plural.
    pub resource: String,
    /// The kind; empty where the definition could not be read.
    pub kind: String,
    /// The singular, as kubectl takes it; empty where the definition does not say or could not be read.
    pub singular: String,
    /// The short names.
    pub short_names: Vec<String>,
    /// Whether its objects lie in namespaces; `None` where the definition could not be read.
    pub namespaced: Option<bool>,
    /// Whether `status` is a subresource of its objects; `None` where the definition could not be read.
    pub has_status: Option<bool>,
}

impl CustomResource {
    /// What a definition says: `name` (`widgets.example.com`) is the last segment of its key. `None` for a name that no
    /// definition has.
    ///
    /// A definition that is no JSON, or speaks of another resource than its name does, still makes the
    /// resource known by its name.
    pub fn of(name: &str, plain: Option<&[u8]>) -> Option<Self> {
        let (plural, group) = name.split_once('.')?;
        let is_name = !plural.is_empty() && !group.is_empty() && name.len() <= MAX_NAME_BYTES;
        is_name.then(|| describe(plural, group, plain))
    }
}

/// The custom resources of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomResources {
    /// By group and then plural.
    by_group: BTreeMap<String, BTreeMap<String, CustomResource>>,
    count: usize,
}

/// What a definition says, as far as it matters here; everything else is passed over.
#[derive(Deserialize)]
struct Definition {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    group: String,
    #[serde(default)]
    scope: String,
    names: Names,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Names {
    plural: String,
    #[serde(default)]
    singular: Option<String>,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    short_names: Option<Vec<String>>,
}

/// Where a definition says that `status` is a subresource: for all versions, or for each.
#[derive(Deserialize)]
struct WithStatus {
    spec: SpecOfStatus,
}

#[derive(Deserialize)]
struct SpecOfStatus {
    #[serde(default)]
    subresources: Option<Subresources>,
    #[serde(default)]
    versions: Option<Vec<Version>>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    subresources: Option<Subresources>,
}

#[derive(Deserialize)]
struct Subresources {
    #[serde(default)]
    status: Option<IgnoredAny>,
}

fn has_status(plain: &[u8]) -> Option<bool> {
    let spec = serde_json::from_slice::<WithStatus>(plain).ok()?.spec;
    let of_versions = spec.versions.into_iter().flatten().filter_map(|version| version.subresources);
    Some(spec.subresources.into_iter().chain(of_versions).any(|subresources| subresources.status.is_some()))
}

impl CustomResources {
    /// Learns from a definition's name and its stored form in plain, where that could be opened; see
    /// [`CustomResource::of`].
    pub fn learn(&mut self, name: &str, plain: Option<&[u8]>) {
        CustomResource::of(name, plain).into_iter().for_each(|resource| self.insert(resource));
    }

    /// Takes what a definition says. The last one that is taken for a name counts.
    pub fn insert(&mut self, resource: CustomResource) {
        let is_new = self.get(&resource.group, &resource.resource).is_none();
        if is_new && self.count >= MAX_DEFINITIONS {
            return;
        }
        self.count += usize::from(is_new);
        let plurals = self.by_group.entry(resource.group.clone()).or_default();
        plurals.insert(resource.resource.clone(), resource);
    }

    /// The custom resource with this group and plural, if the store defines it.
    pub fn get(&self, group: &str, resource: &str) -> Option<&CustomResource> {
        self.by_group.get(group)?.get(resource)
    }

    /// All of them, by group and then plural.
    pub fn iter(&self) -> impl Iterator<Item = &CustomResource> {
        self.by_group.values().flat_map(BTreeMap::values)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a key has the scope that its resource's definition demands; `None` where no definition says.
    /// The scope of a definition cannot be changed, but one may be deleted and made anew: objects of the other
    /// scope are leftovers that no API server serves.
    pub fn scope_agrees(&self, key: &ObjectKey<'_>) -> Option<bool> {
        let namespaced = self.get(key.group, key.resource)?.namespaced?;
        Some(namespaced == key.namespace.is_some())
    }
}

fn describe(plural: &str, group: &str, plain: Option<&[u8]>) -> CustomResource {
    let known = CustomResource { group: group.to_owned(), resource: plural.to_owned(), ..CustomResource::default() };
    let definition = plain.and_then(|plain| serde_json::from_slice::<Definition>(plain).ok());
    let Some(Definition { spec }) = definition.filter(|d| d.spec.group == group && d.spec.names.plural == plural)
    else {
        return known;
    };
    let bounded = |name: String| if name.len() <= MAX_NAME_BYTES { name } else { String::new() };
    let mut short_names = spec.names.short_names.unwrap_or_default();
    short_names.retain(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES);
    short_names.truncate(MAX_SHORT_NAMES);
    CustomResource {
        kind: bounded(spec.names.kind),
        singular: bounded(spec.names.singular.unwrap_or_default()),
        short_names,
        namespaced: match spec.scope.as_str() {
            "Namespaced" => Some(true),
            "Cluster" => Some(false),
            _ => None,
        },
        has_status: plain.and_then(has_status),
        ..known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::key::{Address, Roots};

    const WIDGETS: &str = r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1",
        "metadata":{"name":"widgets.example.com","annotations":{"a":"b"}},
        "spec":{"group":"example.com","version":"v1","names":{"plural":"widgets","singular":"widget",
        "shortNames":["wd","wdg"],"kind":"Widget","listKind":"WidgetList"},"scope":"Namespaced",
        "validation":{"openAPIV3Schema":{"type":"object"}}},"status":{"conditions":[]}}"#;

    fn scope_agrees(custom: &CustomResources, key: &str) -> Option<bool> {
        match Roots::given(&["/registry"]).locate(key.as_bytes()) {
            Address::Object(object) => custom.scope_agrees(&object),
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn a_definition_gives_kind_scope_and_names() {
        let mut custom = CustomResources::default();
        custom.learn("widgets.example.com", Some(WIDGETS.as_bytes()));
        let widget = custom.get("example.com", "widgets").unwrap();
        assert_eq!((widget.kind.as_str(), widget.singular.as_str()), ("Widget", "widget"));
        assert_eq!(widget.short_names, ["wd", "wdg"]);
        assert_eq!(widget.has_status, Some(false));
        for status in [
            r#""scope":"Cluster","subresources":{"status":{}}"#,
            r#""scope":"","versions":[{"subresources":{"status":{}}}]"#,
        ] {
            custom.learn("widgets.example.com", Some(WIDGETS.replace(r#""scope":"Namespaced""#, status).as_bytes()));
            assert_eq!(custom.get("example.com", "widgets").unwrap().has_status, Some(true));
        }
        custom.learn("widgets.example.com", Some(WIDGETS.as_bytes()));
        assert_eq!(scope_agrees(&custom, "/registry/example.com/widgets/default/w"), Some(true));
        assert_eq!(scope_agrees(&custom, "/registry/example.com/widgets/w"), Some(false));
        assert_eq!(scope_agrees(&custom, "/registry/example.com/others/w"), None);
    }

    #[test]
    fn a_definition_that_cannot_be_read_still_names_its_resource() {
        for plain in [None, Some(&b"k8s:enc:aescbc:v1:key1:..."[..]), Some(b"{}"), Some(b"{\"spec\":{\"group\":1}}")] {
            let mut custom = CustomResources::default();
            custom.learn("widgets.example.com", plain);
            let widget = custom.get("example.com", "widgets").unwrap();
            assert_eq!((widget.kind.as_str(), widget.namespaced), ("", None));
        }
    }

    #[test]
    fn a_definition_of_another_resource_than_its_name_says_is_not_believed() {
        let mut custom = CustomResources::default();
        custom.learn("gadgets.example.com", Some(WIDGETS.as_bytes()));
        assert_eq!(custom.get("example.com", "gadgets").unwrap().kind, "");
        assert!(custom.get("example.com", "widgets").is_none());
    }

    #[test]
    fn names_that_are_none_and_too_many_definitions_are_not_kept() {
        let mut custom = CustomResources::default();
        for name in ["", "widgets", ".example.com", "widgets.", &format!("{}.com", "x".repeat(300))] {
            custom.learn(name, None);
        }
        assert!(custom.is_empty());
        for number in 0..MAX_DEFINITIONS + 10 {
            custom.learn(&format!("r{number}.example.com"), None);
        }
        assert_eq!(custom.len(), MAX_DEFINITIONS);
        assert_eq!(custom.iter().count(), MAX_DEFINITIONS);
    }

    #[test]
    fn a_deeply_nested_schema_is_no_obstacle() {
        let deep = format!(
            "{{\"x\":{}{},\"spec\":{{\"group\":\"g.io\",\"names\":{{\"plural\":\"p\",\"kind\":\"P\"}},\"scope\":\"Cluster\"}}}}",
            "[".repeat(50_000),
            "]".repeat(50_000)
        );
        let mut custom = CustomResources::default();
        custom.learn("p.g.io", Some(deep.as_bytes()));
        assert_eq!(custom.get("g.io", "p").unwrap().namespaced, Some(false));
    }
}
