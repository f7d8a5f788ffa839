//! Staged changes of a configuration: rotating a key, beginning and ending encryption.
//!
//! Every change has three stages, because every API server must be able to read what any of them writes: *prepare* makes
//! readable what will be written, *promote* writes it, *prune* stops reading what is not written any more. The plan
//! (`plan`) says what becomes of each list of the file, as positions; the same plan is carried out on the tree and on the
//! text (`edit`). The text is only handed out if, read again, it gives that very tree, if the newest kube-apiserver takes
//! it, and if for every resource the chain of providers reads and writes what the stage promises. What the edited text can't
//! keep (an anchor that is used before it stands, say) is written out anew, and said.
//!
//! Nothing here knows what is stored, so it can't tell whether a key may go.

mod chains;
mod edit;
mod emit;
mod find;
mod fresh;
mod outline;
mod plan;
mod wiped;

#[cfg(test)]
mod tests;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::kube::resource::GroupResource;

use super::complaint::Complaint;
use super::tree::{Node, Value};
use super::{Check, Configuration};

pub use fresh::{KeyKind, fresh_configuration, fresh_key_entry};

use chains::Promise;
use plan::{Plan, Slot};

/// How far a change has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What will be written can be read.
    Prepare,
    /// It is written; what was written before can be read.
    Promote,
    /// What is not written is not read any more.
    Prune,
}

/// What is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// From one key to another.
    Rotate {
        /// The new key's provider; that of the old key if it is none.
        provider: Option<KeyKind>,
        /// The new key's name.
        name: Option<String>,
        /// The old keys: for prepare and promote those that are written with, for prune those that go; all if it is empty.
        keys: Vec<String>,
    },
    /// From plaintext to a key.
    Enable {
        /// The key's provider.
        provider: KeyKind,
        /// The key's name.
        name: Option<String>,
        /// Only entries that list one of these; if it is empty, all that write plaintext.
        resources: Vec<GroupResource>,
    },
    /// From keys to plaintext.
    Disable,
}

/// A changed configuration, checked.
pub struct Changed {
    /// The new file.
    pub text: Zeroizing<Vec<u8>>,
    /// What it says.
    pub configuration: Configuration,
    /// What was done, each once, in the order of the file.
    pub steps: Vec<Step>,
    /// What was left as it is although one might think otherwise.
    pub notes: Vec<Note>,
    /// Whether comments and layout are lost, and why.
    pub rewritten: Option<String>,
}

/// What was done to a list. Names are as the file has them; whoever prints them makes them harmless.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A new key can be read with.
    Added {
        /// `provider/name`.
        key: String,
        /// What writes there: `provider/name`, `identity` or `kms/name`.
        writer: String,
    },
    /// Something writes now.
    Promoted {
        /// What.
        key: String,
        /// What wrote before.
        instead_of: String,
        /// Whether it is a key that the file did not have.
        is_new: bool,
    },
    /// Something is not read any more.
    Removed {
        /// What.
        key: String,
    },
    /// Plaintext can be read now.
    PlaintextReadable,
}

/// Why an entry of the file was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// It writes plaintext, which has no key to rotate.
    WritesPlaintext,
    /// It writes with a KMS plugin, whose keys rotate in the plugin.
    WritesWithKms {
        /// The provider's name.
        name: String,
        /// Whether it is KMS v1.
        is_v1: bool,
    },
    /// The key writes already.
    WritesAlready {
        /// `provider/name`.
        key: String,
    },
}

/// Why a configuration can't be changed.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The newest kube-apiserver does not take the file as it is.
    #[error("kube-apiserver refuses the file as it is: {}", super::join(.0))]
    Refused(Vec<Complaint>),
    /// There is nothing that the change is about.
    #[error("{0}")]
    Nothing(&'static str, Vec<Note>),
    /// Which key was prepared can't be told.
    #[error("{first} and {second} could both be the key that was prepared")]
    Ambiguous {
        /// One.
        first: String,
        /// Another.
        second: String,
    },
    /// What would be promoted looks like the key before.
    #[error("{candidate} looks older than {writer}, which writes now; was this stage done already?")]
    LooksOlder {
        /// What would write.
        candidate: String,
        /// What writes.
        writer: String,
    },
    /// What would go looks like the key after the one that writes.
    #[error("{candidate} looks newer than {writer}, which writes; was it never promoted?")]
    LooksNewer {
        /// What would go.
        candidate: String,
        /// What writes.
        writer: String,
    },
    /// One name was given, and several keys are to be made.
    #[error("the file writes with {0} different keys, and each gets a new one: one name does not do")]
    NameForSeveral(usize),
    /// Nothing in the file has the name.
    #[error("the file has no key named {0:?} where it could be used")]
    UnknownName(String),
    /// The name can't be used for a new key.
    #[error("{0:?} can't name a new key: {1}")]
    BadName(String, &'static str),
    /// Entries that encrypt and entries that don't stand beside each other on purpose, perhaps.
    #[error("the file encrypts some resources already; which of the others shall be?")]
    WhichResources,
    /// A resource has no entry of its own.
    #[error("the file has no entry that lists {0}")]
    UnknownResource(GroupResource),
    /// The changed file would not do what it should.
    #[error("the changed file would not be what it should: {0}")]
    Unfit(String),
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// Changes the text of a configuration.
pub fn change(bytes: &[u8], change: &Change, stage: Stage) -> Result<Changed, ChangeError> {
    let Check { configuration, errors, .. } = super::check(bytes);
    let before = configuration.ok_or(ChangeError::Refused(errors))?;
    let plan = plan::plan(&before.entries, change, stage)?;
    let arranged = arranged_tree(bytes, &plan)?;
    let promise = Promise::new(&before, &plan, stage);
    let edited = edit::edit(bytes, &plan).and_then(|text| {
        let configuration = accept(&text, &arranged, &promise)?;
        Ok((text, configuration))
    });
    let (text, configuration, rewritten) = match edited {
        Ok((text, configuration)) => (text, configuration, None),
        Err(reason) => {
            let text = emit::whole(&arranged, super::json::is_json(bytes));
            let configuration = accept(&text, &arranged, &promise).map_err(ChangeError::Unfit)?;
            (text, configuration, Some(reason))
        }
    };
    Ok(Changed { text, configuration, steps: plan.steps, notes: plan.notes, rewritten })
}

/// A whole configuration with one new key, for where there was none, as a change.
pub fn fresh_anew(kind: KeyKind, name: &str, resources: &[String], stage: Stage) -> Result<Changed, ChangeError> {
    let text = fresh_configuration(kind, name, resources, stage)?;
    let Check { configuration, errors, .. } = super::check(&text);
    let configuration = configuration.ok_or_else(|| ChangeError::Unfit(super::join(&errors)))?;
    let (key, plaintext) = (format!("{}/{name}", kind.as_str()), "identity".to_owned());
    let step = match stage {
        Stage::Prepare => Step::Added { key, writer: plaintext },
        Stage::Promote | Stage::Prune => Step::Promoted { key, instead_of: plaintext, is_new: true },
    };
    Ok(Changed { text, configuration, steps: vec![step], notes: Vec::new(), rewritten: None })
}

/// Reads a changed text as kube-apiserver would, and compares it with what it should be.
fn accept(text: &[u8], arranged: &Node, promise: &Promise) -> Result<Configuration, String> {
    let Check { configuration, errors, .. } = super::check(text);
    let Some(configuration) = configuration else {
        return Err(format!("kube-apiserver would refuse it: {}", super::join(&errors)));
    };
    let again = super::parse(text).map_err(|complaint| complaint.to_string())?;
    if !same(&again.root, arranged) {
        return Err("its layout does not allow it without changing something else".to_owned());
    }
    promise.kept_by(&configuration)?;
    Ok(configuration)
}

/// The tree of the file with the plan carried out.
fn arranged_tree(bytes: &[u8], plan: &Plan) -> Result<Node, ChangeError> {
    let parsed = super::parse(bytes).map_err(|complaint| ChangeError::Refused(vec![complaint]))?;
    let mut root = parsed.root;
    if let Some(resources) = list_of(&mut root, "resources") {
        for (at, entry) in resources.iter_mut().enumerate() {
            let Some(providers) = list_of(entry, "providers") else { continue };
            for (number, provider) in providers.iter_mut().enumerate() {
                if let Some(slots) = plan.keys.get(&(at, number))
                    && let Value::Map(fields) = &mut provider.value
                    && let Some(field) = fields.iter_mut().find(|field| KeyKind::named(&field.name).is_some())
                    && let Some(keys) = list_of(&mut field.value, "keys")
                {
                    arrange(keys, slots);
                }
            }
            if let Some(slots) = plan.providers.get(&at) {
                arrange(providers, slots);
            }
        }
        if let Some(slots) = &plan.entries {
            arrange(resources, slots);
        }
    }
    Ok(root)
}

fn list_of<'n>(node: &'n mut Node, name: &str) -> Option<&'n mut Vec<Node>> {
    let Value::Map(fields) = &mut node.value else { return None };
    match &mut fields.iter_mut().find(|field| field.name.as_str() == name)?.value.value {
        Value::List(items) => Some(items),
        _ => None,
    }
}

fn arrange(items: &mut Vec<Node>, slots: &[Slot]) {
    let mut old: Vec<_> = std::mem::take(items).into_iter().map(Some).collect();
    for slot in slots {
        match slot {
            Slot::Old(at) => items.extend(old.get_mut(*at).and_then(Option::take)),
            Slot::New(item) => items.push(item.node()),
        }
    }
}

/// Whether two trees say the same. The trees are no deeper than the readers allow.
fn same(one: &Node, other: &Node) -> bool {
    match (&one.value, &other.value) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (Value::Number(one), Value::Number(other)) | (Value::Text(one), Value::Text(other)) => one == other,
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Map(one), Value::Map(other)) => {
            let pairs = one.iter().zip(other);
            one.len() == other.len() && { pairs }.all(|(a, b)| a.name == b.name && same(&a.value, &b.value))
        }
        _ => false,
    }
}
