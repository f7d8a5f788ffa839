//! Keys located one after another, as a reader of a store does.
//!
//! The objects of a resource and namespace lie in one folder, and their keys differ in nothing but the name. What
//! [`Roots::locate`] finds out for one of them is remembered for the next, as far as the folder alone decides it.

use std::sync::Arc;

use crate::kube::key::{Address, Known, ObjectKey, Roots};
use crate::kube::table::BuiltIn;

/// So many folders are remembered, each at a place that its last bytes decide. Folders may share a place, by chance or
/// somebody's will; then each ousts the other, and nothing is lost but time.
const FOLDERS: usize = 4096;

/// Bits of a place.
const PLACE_BITS: u32 = FOLDERS.trailing_zeros();

/// Locates keys, and remembers their folders.
#[derive(Debug)]
pub struct Locator {
    roots: Arc<Roots>,
    folders: Vec<Option<Folder>>,
    /// The folders that were remembered so far, those that were forgotten included.
    count: u32,
    last: Option<u32>,
}

/// A folder in which nothing can lie but objects of a built-in resource. In a store of many namespaces each key asks for another one,
/// so that all that is compared lies in one line of the processor's cache.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Folder {
    path: Path,
    built_in: &'static BuiltIn,
    /// Where the part of a key begins that follows the resource's path: the namespace, where there is one, and the name.
    tail: usize,
    /// No other folder has it, and none that is forgotten had it.
    number: u32,
}

/// The path of a folder, up to its last slash. Hardly any is long.
#[derive(Clone, Debug)]
enum Path {
    Short { bytes: [u8; SHORT_PATH], length: u8 },
    Long(Box<[u8]>),
}

/// Bytes of a path that is kept in its place.
const SHORT_PATH: usize = 38;

impl Path {
    fn new(path: &[u8]) -> Self {
        let mut bytes = [0; SHORT_PATH];
        match (bytes.get_mut(..path.len()), u8::try_from(path.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(path);
                Self::Short { bytes, length }
            }
            _ => Self::Long(path.into()),
        }
    }

    #[inline]
    fn get(&self) -> &[u8] {
        match self {
            Self::Short { bytes, length } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

impl Folder {
    /// The object of a key that lies in the folder. Namespace and scope are known to hold, so it depends on the name alone.
    #[inline]
    fn object<'k>(&self, key: &'k [u8]) -> Option<ObjectKey<'k>> {
        let tail = std::str::from_utf8(key.get(self.tail..)?).ok()?;
        let (namespace, name) = match self.path.get().len().checked_sub(self.tail)? {
            0 => (None, tail),
            slash => (Some(tail.get(..slash - 1)?), tail.get(slash..)?),
        };
        if matches!(name, "" | "." | "..") {
            return None;
        }
        let BuiltIn { server, group, resource, kind, .. } = *self.built_in;
        Some(ObjectKey { server, group, resource, namespace, name, known: Known::BuiltIn, kind: Some(kind) })
    }
}

impl Locator {
    /// Knows no folder yet.
    pub fn new(roots: Arc<Roots>) -> Self {
        Self { roots, folders: vec![None; FOLDERS], count: 0, last: None }
    }

    /// The roots.
    pub fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    /// What [`Roots::locate`] says of the key.
    pub fn locate<'k>(&mut self, key: &'k [u8]) -> Address<'k> {
        let path = key.iter().rposition(|byte| *byte == b'/').and_then(|slash| key.get(..=slash)).unwrap_or_default();
        let place = place(path);
        if let Some(Some(folder)) = self.folders.get(place)
            && folder.path.get() == path
            && let Some(object) = folder.object(key)
        {
            self.last = Some(folder.number);
            return Address::Object(object);
        }
        self.last = None;
        let address = self.roots.locate(key);
        if matches!(address, Address::Object(_))
            && let Some((built_in, tail)) = self.roots.built_in(key)
            && let Some(slot) = self.folders.get_mut(place)
        {
            *slot = Some(Folder { path: Path::new(path), built_in, tail, number: self.count });
            self.last = Some(self.count);
            self.count = self.count.saturating_add(1);
        }
        address
    }

    /// The number of the folder in which the key lies that was located last, where it is remembered: what is true of a
    /// resource and namespace can be kept under it.
    pub fn folder(&self) -> Option<u32> {
        self.last
    }
}

/// Where a folder is remembered. Folders differ near their end, in the namespace.
fn place(path: &[u8]) -> usize {
    let end = path.last_chunk().map_or(path.len() as u64, |end| u64::from_le_bytes(*end));
    (end.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PLACE_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_line_of_the_cache() {
        assert_eq!(size_of::<Option<Folder>>(), 64);
        for length in [0, 1, SHORT_PATH - 1, SHORT_PATH, SHORT_PATH + 1, 300] {
            assert_eq!(Path::new(&vec![b'p'; length]).get(), vec![b'p'; length]);
        }
    }

    #[test]
    fn remembered_folders_change_nothing() {
        let names = ["", "a", "b", ".", "..", "specs", "endpoints", "leases", "x:y", "é"];
        let folders = [
            "/registry/secrets/default/",
            "/registry/secrets/other/",
            "/registry/secrets/",
            "/registry/namespaces/",
            "/registry/services/specs/default/",
            "/registry/secrets/of-thirty-seven-by/",
            "/registry/secrets/of-thirty-eight-byt/",
            "/registry/secrets/of-thirty-nine-bytes/",
            "/registry/secrets/of-thirty-nine-bytez/",
            "/registry/secrets/of-many-more-bytes-than-a-place-has-room-for-0123456789abcdefghi/",
            "/registry/services/endpoints/default/",
            "/registry/services/",
            "/registry/ranges/",
            "/registry/apiregistration.k8s.io/apiservices/",
            "/registry/snapshot.example.com/things/default/",
            "/registry/snapshot.example.com/things/",
            "/registry/unheard/of/",
            "/registry/",
            "/registry/secrets/in/secrets/ns/",
            "/kubernetes.io/secrets/default/",
            "/elsewhere/secrets/default/",
            "/",
            "",
        ];
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for folder in folders {
            keys.extend(names.iter().map(|name| [folder.as_bytes(), name.as_bytes()].concat()));
            keys.push([folder.as_bytes(), b"\xff"].concat());
        }
        let cases: [(&[&str], bool); 4] = [
            (&["/registry"], true),
            (&["/registry", "/kubernetes.io"], true),
            (&["/registry/secrets", "/registry"], true),
            (&[""], false),
        ];
        for (roots, remembers) in cases {
            let roots = Arc::new(Roots::given(roots));
            let mut locator = Locator::new(roots.clone());
            let mut numbered = std::collections::HashMap::new();
            for key in keys.iter().chain(keys.iter().rev()).chain(&keys) {
                assert_eq!(locator.locate(key), roots.locate(key), "{:?} {roots:?}", String::from_utf8_lossy(key));
                if let Some(folder) = locator.folder() {
                    let path = key.iter().rposition(|byte| *byte == b'/').map(|slash| &key[..=slash]);
                    assert_eq!(*numbered.entry(folder).or_insert(path), path);
                }
            }
            assert_eq!(locator.folders.iter().flatten().count() > 1, remembers, "{roots:?}");
        }
    }
}
