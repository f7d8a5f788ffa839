//! One pass over a store that takes out what its distribution keeps there of encryption.
//!
//! Bootstrap records with all their revisions, in the tree and outside of it; the newest state of each node; the newest
//! revision of each Secret in which OpenShift keeps keys and configurations, as it is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::etcd::Revision;
use crate::source::residue::Stray;
use crate::source::scan::Visitor;
use crate::source::snapshot::{PassOptions, ReadError};
use crate::source::{Record, Store};

use super::bootstrap;
use super::node::Node;
use super::openshift;

/// So much of bootstrap records is kept, in bytes and revisions: hundreds of times what a store has.
const RECORD_BYTES: usize = 64 << 20;
const RECORDS: usize = 2048;

/// So much of Secrets is kept.
const SECRET_BYTES: usize = 128 << 20;

/// What a stored value of a KMS provider begins with.
const KMS_MARKER: &[u8] = b"k8s:enc:kms:";

/// Roots that only OpenShift uses.
const OPENSHIFT_ROOTS: [&[u8]; 2] = [b"/kubernetes.io/", b"/openshift.io/"];

/// What a revision is to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// What a server reads.
    Entry,
    /// An older one that is still in the tree.
    History,
    /// One that is gone from the tree and still in the file.
    Residue,
}

impl Standing {
    /// The word that reports use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::History => "history",
            Self::Residue => "residue",
        }
    }
}

/// A revision of a bootstrap record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its key.
    pub key: Vec<u8>,
    /// Its revision.
    pub revision: Revision,
    /// What it is to its key.
    pub standing: Standing,
    /// The value, sealed as it is stored.
    pub value: Vec<u8>,
}

/// A Secret, or a node, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSecret {
    /// Its key.
    pub key: Vec<u8>,
    /// Its main revision.
    pub revision: i64,
    /// The value, in most cases sealed.
    pub value: Vec<u8>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Revisions of bootstrap records, newest first.
    pub copies: Vec<Copy>,
    /// Nodes by name.
    pub nodes: Vec<Node>,
    /// Those of them that have an annotation with stage and hash, as they are stored.
    pub servers: Vec<StoredSecret>,
    /// Secrets with keys and configurations of OpenShift, by key.
    pub secrets: Vec<StoredSecret>,
    /// Keys lie where only OpenShift puts them.
    pub openshift: bool,
    /// There are values of KMS providers.
    pub kms: bool,
    /// Records and Secrets that were too many.
    pub left_out: u64,
}

/// Reads the store once.
///
/// # Errors
///
/// What cannot be read at all.
pub fn gather(store: &mut Store, pass: PassOptions<'_>) -> Result<Gathered, ReadError> {
    let pass = PassOptions { digest: false, ..pass };
    let visitors = store.pass(pass, |_| (), |()| Gatherer::default())?.visitors;
    let mut all = Gatherer::default();
    for visitor in visitors {
        all.absorb(visitor);
    }
    Ok(all.finish())
}

/// The newest revision of a key, and what it says.
struct Newest {
    revision: Revision,
    content: Content,
}

enum Content {
    Gone,
    Node(Box<Node>, Option<Vec<u8>>),
    Secret(Vec<u8>),
}

/// What one worker found.
#[derive(Default)]
struct Gatherer {
    copies: Vec<Copy>,
    copied_bytes: usize,
    deleted: HashMap<Vec<u8>, Revision>,
    newest: BTreeMap<Vec<u8>, Newest>,
    secret_bytes: usize,
    openshift: bool,
    kms: bool,
    left_out: u64,
}

/// What a key may be of interest for.
enum Interest {
    Bootstrap,
    Node,
    Secret,
}

fn interest(key: &[u8]) -> Option<Interest> {
    if key.starts_with(bootstrap::FOLDER) {
        return Some(Interest::Bootstrap);
    }
    let slash = key.iter().rposition(|byte| *byte == b'/')?;
    let (folder, name) = key.split_at_checked(slash)?;
    if folder.ends_with(b"/minions") {
        return Some(Interest::Node);
    }
    openshift::is_of_interest(folder, name.get(1..)?).then_some(Interest::Secret)
}

impl Visitor for Gatherer {
    fn record(&mut self, record: &Record<'_>) {
        let (key, value, revision) = (record.kv.key, record.kv.value, record.revision.revision);
        self.openshift |= OPENSHIFT_ROOTS.iter().any(|root| key.starts_with(root));
        self.kms |= value.starts_with(KMS_MARKER);
        match interest(key) {
            None => {}
            Some(Interest::Bootstrap) if record.revision.tombstone => {
                let newest = self.deleted.entry(key.to_vec()).or_insert(revision);
                *newest = revision.max(*newest);
            }
            Some(Interest::Bootstrap) => self.copy(key, revision, Standing::History, value),
            Some(interest) => {
                if self.newest.get(key).is_some_and(|known| known.revision >= revision) {
                    return;
                }
                let content = match interest {
                    _ if record.revision.tombstone => Content::Gone,
                    Interest::Node => self.node(value),
                    _ => self.secret(value),
                };
                self.newest.insert(key.to_vec(), Newest { revision, content });
            }
        }
    }

    const STRAYS: bool = true;

    fn stray(&mut self, stray: &Stray<'_>) {
        if stray.kv.key.starts_with(bootstrap::FOLDER) {
            self.copy(stray.kv.key, stray.revision, Standing::Residue, stray.kv.value);
        }
    }
}

impl Gatherer {
    fn copy(&mut self, key: &[u8], revision: Revision, standing: Standing, value: &[u8]) {
        if self.copies.len() >= RECORDS || self.copied_bytes.saturating_add(value.len()) > RECORD_BYTES {
            self.left_out += 1;
            return;
        }
        self.copied_bytes += value.len();
        self.copies.push(Copy { key: key.to_vec(), revision, standing, value: value.to_vec() });
    }

    fn node(&mut self, value: &[u8]) -> Content {
        let Some(node) = Node::read(value) else { return Content::Gone };
        let is_server = node.k3s.is_some() || node.rke2.is_some();
        let stored = match is_server.then(|| self.secret(value)) {
            Some(Content::Secret(value)) => Some(value),
            _ => None,
        };
        Content::Node(Box::new(node), stored)
    }

    fn secret(&mut self, value: &[u8]) -> Content {
        if self.secret_bytes.saturating_add(value.len()) > SECRET_BYTES {
            self.left_out += 1;
            return Content::Gone;
        }
        self.secret_bytes += value.len();
        Content::Secret(value.to_vec())
    }

    fn absorb(&mut self, other: Self) {
        self.copies.extend(other.copies);
        for (key, revision) in other.deleted {
            let newest = self.deleted.entry(key).or_insert(revision);
            *newest = revision.max(*newest);
        }
        for (key, newest) in other.newest {
            if self.newest.get(&key).is_none_or(|known| known.revision < newest.revision) {
                self.newest.insert(key, newest);
            }
        }
        self.openshift |= other.openshift;
        self.kms |= other.kms;
        self.left_out += other.left_out;
    }

    fn finish(self) -> Gathered {
        let mut gathered = Gathered {
            copies: settle(self.copies, &self.deleted),
            openshift: self.openshift,
            kms: self.kms,
            left_out: self.left_out,
            ..Gathered::default()
        };
        for (key, newest) in self.newest {
            match newest.content {
                Content::Gone => {}
                Content::Node(node, stored) => {
                    gathered.nodes.push(*node);
                    let revision = newest.revision.main;
                    gathered.servers.extend(stored.map(|value| StoredSecret { key, revision, value }));
                }
                Content::Secret(value) => {
                    gathered.secrets.push(StoredSecret { key, revision: newest.revision.main, value });
                }
            }
        }
        gathered
    }
}

/// Newest first, each revision once, and of each key's revisions in the tree the last one as its entry.
fn settle(mut copies: Vec<Copy>, deleted: &HashMap<Vec<u8>, Revision>) -> Vec<Copy> {
    copies.sort_by(|one, other| {
        other.revision.cmp(&one.revision).then_with(|| one.key.cmp(&other.key)).then(one.standing.cmp(&other.standing))
    });
    copies.dedup_by(|next, kept| next.revision == kept.revision && next.key == kept.key);
    let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
    for copy in copies.iter_mut().filter(|copy| copy.standing == Standing::History) {
        let is_deleted = deleted.get(&copy.key).is_some_and(|gone| *gone > copy.revision);
        if seen.insert(copy.key.clone()) && !is_deleted {
            copy.standing = Standing::Entry;
        }
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(main: i64, standing: Standing) -> Copy {
        Copy { key: b"/bootstrap/a".to_vec(), revision: Revision { main, sub: 0 }, standing, value: vec![main as u8] }
    }

    #[test]
    fn the_newest_revision_in_the_tree_is_the_entry_and_copies_of_one_revision_are_one() {
        let copies = vec![
            copy(3, Standing::History),
            copy(2, Standing::Residue),
            copy(7, Standing::History),
            copy(7, Standing::Residue),
        ];
        let settled = |deleted| {
            let copies = settle(copies.clone(), &deleted);
            copies.iter().map(|copy| (copy.revision.main, copy.standing)).collect::<Vec<_>>()
        };
        let rest = [(3, Standing::History), (2, Standing::Residue)];
        assert_eq!(settled(HashMap::new()), [&[(7, Standing::Entry)][..], &rest].concat());
        let gone = [(b"/bootstrap/a".to_vec(), Revision { main: 9, sub: 0 })].into();
        assert_eq!(settled(gone), [&[(7, Standing::History)][..], &rest].concat());
    }

    #[test]
    fn keys_of_interest_are_told_by_their_folder() {
        for (key, interesting) in [
            ("/bootstrap/0123", true),
            ("/registry/minions/a", true),
            ("/registry/minions", false),
            ("/registry/secrets/default/a", false),
            ("/kubernetes.io/secrets/openshift-config-managed/encryption-key-openshift-apiserver-1", true),
            ("/kubernetes.io/secrets/openshift-config-managed/other", false),
            ("compact_rev_key", false),
            ("/", false),
        ] {
            assert_eq!(interest(key.as_bytes()).is_some(), interesting, "{key}");
        }
    }
}
