//! How an etcd key addresses an object: root, resource path, namespace, name.
//!
//! ```text
//! key  = root "/" path [ "/" namespace ] "/" name          path of a built-in resource: see `table`
//!                                                           path of a custom one: group "/" plural
//! root = "/registry", "/kubernetes.io", "/openshift.io", or whatever --etcd-prefix said
//! ```
//!
//! Knows nothing of values. A key has the shape of an object or it has not; whether an object lies there is
//! for the value to say. Which roots a store has is found by [`roots`](crate::kube::roots).
//!
//! Upstream: `pkg/registry/generic/registry/store.go` (`NamespaceKeyFunc`) and `pkg/storage/etcd3/store.go`
//! of `kubernetes/apiserver`.

use crate::kube::resource::{ApiServer, GroupResource};
pub use crate::kube::table::Reserved;
use crate::kube::table::{self, BuiltIn, Slot};

/// The compactor's key, which lies below no root.
const COMPACT_REVISION_KEY: &[u8] = b"compact_rev_key";

/// Where K3s and RKE2 keep their bootstrap data.
const BOOTSTRAP_FOLDER: &[u8] = b"/bootstrap/";

/// What a key addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'k> {
    /// An object of an API server.
    Object(ObjectKey<'k>),
    /// A key of an API server or a distribution that is no API object and is never encrypted as one.
    Reserved(Reserved),
    /// Anything else: below no known root, no text, or no shape that an object's key has.
    Foreign,
}

/// How much is known of the resource that a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Known {
    /// A resource of [`table::BUILT_INS`].
    BuiltIn,
    /// A custom resource by its shape: a group with a dot, then the plural. Its CustomResourceDefinition
    /// need not exist any more; objects outlive it when etcd is edited or a removal stays unfinished.
    Custom,
    /// A resource without a group in its path that this version does not know, so a newer built-in one.
    /// The group is empty here; the stored object's apiVersion has it.
    Unknown,
}

/// The parts of an object's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectKey<'k> {
    /// The API server that stores it.
    pub server: ApiServer,
    /// The API group of the resource; empty for the core group and for [`Known::Unknown`].
    pub group: &'k str,
    /// The plural resource name, as a configuration would name it.
    pub resource: &'k str,
    /// The namespace, for a namespaced object.
    pub namespace: Option<&'k str>,
    /// The object's name; may contain `:`.
    pub name: &'k str,
    /// How much is known of the resource.
    pub known: Known,
    /// The kind that is stored there, for a built-in resource.
    pub kind: Option<&'static str>,
}

impl ObjectKey<'_> {
    /// The resource with its group, owned.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group, self.resource)
    }
}

/// A folder of the store below which an API server keeps its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The folder with the slash behind it: `/registry/`.
    folder: String,
    /// Whether OpenShift's own API servers use it, and not kube-apiserver.
    openshift: bool,
}

impl Root {
    /// A root without the slash behind it. The empty one means that resources begin at the first slash.
    pub(super) fn new(path: &str, openshift: bool) -> Self {
        Self { folder: format!("{path}/"), openshift }
    }

    /// The root as `--etcd-prefix` would name it: `/registry`.
    pub fn path(&self) -> &str {
        self.folder.strip_suffix('/').unwrap_or(&self.folder)
    }

    /// Whether OpenShift's own API servers keep their objects below it.
    pub fn is_openshift(&self) -> bool {
        self.openshift
    }
}

/// The roots of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Longest first, so that a root within another root's folder is tried before it.
    roots: Vec<Root>,
}

impl Roots {
    /// The roots that the user names, read as kube-apiserver reads `--etcd-prefix`: a slash in front and
    /// none behind, whether or not they are there; `.` and `..` as in a path.
    pub fn given<S: AsRef<str>>(prefixes: &[S]) -> Self {
        Self::of(prefixes.iter().map(|prefix| {
            let path = clean(prefix.as_ref());
            let openshift = path.rsplit('/').next() == Some("openshift.io");
            Root::new(&path, openshift)
        }))
    }

    pub(super) fn of(roots: impl IntoIterator<Item = Root>) -> Self {
        let mut roots: Vec<Root> = roots.into_iter().collect();
        roots.sort_by(|a, b| b.folder.len().cmp(&a.folder.len()).then_with(|| a.folder.cmp(&b.folder)));
        roots.dedup_by(|a, b| a.folder == b.folder);
        Self { roots }
    }

    /// The roots, longest first.
    pub fn iter(&self) -> impl Iterator<Item = &Root> {
        self.roots.iter()
    }

    /// Whether there is none, so that every key is foreign or reserved.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// These roots and those.
    pub fn union(self, other: Self) -> Self {
        Self::of(self.roots.into_iter().chain(other.roots))
    }

    /// Tells what a key addresses.
    ///
    /// A key that names a known resource but has too few or too many segments for its scope is foreign:
    /// no API server can have written it, none can read it as that object, and it has no namespace or name
    /// to be reported by.
    pub fn locate<'k>(&self, key: &'k [u8]) -> Address<'k> {
        let Ok(text) = std::str::from_utf8(key) else { return Address::Foreign };
        for root in &self.roots {
            if let Some(rest) = text.strip_prefix(root.folder.as_str()) {
                let address = below_root(rest, root.openshift);
                if address != Address::Foreign {
                    return address;
                }
            }
        }
        outside_roots(key)
    }

    /// The built-in resource of an object's key, and where the part behind the resource's path begins.
    ///
    /// None where the root and the path do not settle it for every key that begins with them.
    pub(super) fn built_in(&self, key: &[u8]) -> Option<(&'static BuiltIn, usize)> {
        let text = std::str::from_utf8(key).ok()?;
        // Another root may be tried for another name only where this one gives no object.
        let rest = self.roots.iter().find_map(|root| text.strip_prefix(root.folder.as_str()))?;
        match resolve(rest)? {
            (Slot::BuiltIn(number), tail) if built_in_object(table::built_in(number)?, tail).is_some() => {
                Some((table::built_in(number)?, key.len() - tail.len()))
            }
            _ => None,
        }
    }

    /// A cheap hint that the store may have a root which these roots lack: the key lies below none of them
    /// and ends like the key of a built-in resource.
    ///
    /// One such key proves nothing, another tenant of the store may use such names. Show all of them to a
    /// [`RootFinder`](crate::kube::roots::RootFinder); if it finds roots, start over with both.
    pub fn unlisted(&self, key: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(key) else { return false };
        !self.roots.iter().any(|root| text.starts_with(root.folder.as_str()))
            && text
                .match_indices('/')
                .filter_map(|(at, _)| text.get(at + 1..))
                .any(|rest| built_in_below(rest).is_some())
    }
}

/// A prefix as kube-apiserver uses it, without the slash behind it.
fn clean(prefix: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in prefix.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    segments.iter().fold(String::new(), |path, segment| path + "/" + segment)
}

/// What a key below no root addresses.
fn outside_roots(key: &[u8]) -> Address<'_> {
    if key == COMPACT_REVISION_KEY {
        Address::Reserved(Reserved::CompactRevision)
    } else if key.starts_with(BOOTSTRAP_FOLDER) {
        Address::Reserved(Reserved::Bootstrap)
    } else {
        Address::Foreign
    }
}

/// What the part of a key that follows its root addresses.
pub(super) fn below_root(rest: &str, openshift: bool) -> Address<'_> {
    match resolve(rest) {
        Some((Slot::BuiltIn(number), tail)) => {
            let object = table::built_in(number).and_then(|built_in| built_in_object(built_in, tail));
            object.map_or(Address::Foreign, Address::Object)
        }
        Some((Slot::Reserved(reserved), tail)) if is_segment(tail) => Address::Reserved(reserved),
        Some((Slot::ReservedKey(reserved), "")) => Address::Reserved(reserved),
        Some(_) => Address::Foreign,
        None => unlisted_object(rest, openshift).map_or(Address::Foreign, Address::Object),
    }
}

/// A built-in resource and the object of it that the rest of a key names, or a reserved folder.
pub(super) fn built_in_below(rest: &str) -> Option<(Slot, Option<&str>, &str)> {
    let (slot, tail) = resolve(rest)?;
    match slot {
        Slot::BuiltIn(number) => {
            let (namespace, name) = scope(tail)?;
            (table::built_in(number)?.namespaced == namespace.is_some()).then_some((slot, namespace, name))
        }
        Slot::Reserved(_) => is_segment(tail).then_some((slot, None, tail)),
        Slot::ReservedKey(_) | Slot::Branch => None,
    }
}

/// Follows the longest path of the table that the rest of a key begins with; gives what lies there and the
/// part behind it, without the slash between. None where the first segment begins no path.
fn resolve(rest: &str) -> Option<(Slot, &str)> {
    let mut end = 0;
    let mut is_first = true;
    loop {
        let from = rest.get(end..)?;
        end += cut(from).map_or(from.len(), |(segment, _)| segment.len());
        let tail = rest.get(end + 1..).unwrap_or("");
        match table::slot(rest.get(..end)?) {
            // Groups that have built-in resources have custom ones as well: `resolve` leaves those to the
            // rule for a group with a dot.
            Some(Slot::Branch) if end < rest.len() => {
                end += 1;
                is_first = false;
            }
            Some(slot) => return Some((slot, tail)),
            None if is_first || begins_with_group(rest) => return None,
            None => return Some((Slot::Branch, tail)),
        }
    }
}

fn begins_with_group(rest: &str) -> bool {
    rest.split('/').next().is_some_and(|segment| segment.contains('.'))
}

/// The object of a built-in resource that the rest of a key names.
pub(super) fn built_in_object<'k>(built_in: &'static BuiltIn, tail: &'k str) -> Option<ObjectKey<'k>> {
    let (namespace, name) = scope(tail)?;
    (built_in.namespaced == namespace.is_some()).then_some(ObjectKey {
        server: built_in.server,
        group: built_in.group,
        resource: built_in.resource,
        namespace,
        name,
        known: Known::BuiltIn,
        kind: Some(built_in.kind),
    })
}

/// An object of a resource that the table does not have: a custom resource if the first segment has a dot,
/// as groups of custom resources must and plurals of built-in ones never do; otherwise a built-in resource
/// of a newer release.
fn unlisted_object(rest: &str, openshift: bool) -> Option<ObjectKey<'_>> {
    let (first, tail) = cut(rest)?;
    let (group, resource, tail, known) = if first.bytes().any(|byte| byte == b'.') {
        let (plural, tail) = cut(tail)?;
        (first, plural, tail, Known::Custom)
    } else {
        ("", first, tail, Known::Unknown)
    };
    if !is_label(resource) || (known == Known::Custom && !is_group(group)) {
        return None;
    }
    let (namespace, name) = scope(tail)?;
    let server = if openshift && known == Known::Unknown { ApiServer::OpenShift } else { ApiServer::Kube };
    Some(ObjectKey { server, group, resource, namespace, name, known, kind: None })
}

/// Splits what follows a resource's path: a name, or a namespace and a name.
fn scope(tail: &str) -> Option<(Option<&str>, &str)> {
    match cut(tail) {
        None => is_segment(tail).then_some((None, tail)),
        Some((namespace, name)) => (is_segment(namespace) && is_segment(name)).then_some((Some(namespace), name)),
    }
}

/// Whether this can be a name or namespace in a key: upstream refuses the empty string, `.`, `..` and slashes.
fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.bytes().any(|byte| byte == b'/')
}

/// The parts before and behind the first slash.
fn cut(text: &str) -> Option<(&str, &str)> {
    // Segments are short: a plain loop is quicker than a search that has to be set up.
    let at = text.bytes().position(|byte| byte == b'/')?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Whether this can be a plural: the letters of a DNS label.
fn is_label(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_label_byte)
}

/// Whether this can be a group: labels with dots between.
fn is_group(text: &str) -> bool {
    let mut before = b'.';
    let each_fits = text.bytes().all(|byte| {
        let fits = is_label_byte(byte) || (byte == b'.' && before != b'.');
        before = byte;
        fits
    });
    each_fits && before != b'.'
}

fn is_label_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
}

#[cfg(test)]
mod tests;
