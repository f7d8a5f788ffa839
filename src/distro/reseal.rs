//! What a rewritten store of K3s or RKE2 has to say of itself: its record, and its servers' annotations.
//!
//! A server takes the configuration that is newer, its own file's or the record's, so a store on new keys under an old
//! record would get the old configuration back. Here both are made to fit: the record is sealed anew with the same token, a
//! fresh salt and nonce, and the present time, everything in it that is not about encryption kept; each server's annotation
//! says that the rotation is finished.

use std::collections::HashMap;
use std::io;

use zeroize::Zeroizing;

use crate::config::{self, Configuration};
use crate::kube::resource::GroupResource;
use crate::provider::spec::ProviderSpec;

use super::bootstrap::{self, RecordError, SALT_BYTES, Sealed};
use super::gather::{Gathered, Standing};
use super::gojson::{self, Entry};
use super::node;
use super::recovered::RecoverError;
use super::stage::{self, Stage, State};
use super::token::{Passphrase, Token};
use super::{Distro, secrets_encrypt};

/// The most providers that K3s writes: two kinds of keys and the identity.
const MOST_PROVIDERS: usize = 3;

/// A stored value that becomes another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// What is stored.
    pub old: Vec<u8>,
    /// What is to be stored.
    pub new: Vec<u8>,
}

/// By their keys, the values that become others.
pub type Replacements = HashMap<Vec<u8>, Replacement>;

/// What a store is to say of itself.
#[derive(Debug)]
pub struct Resealed {
    /// `encryption-config.json`.
    pub config: Zeroizing<Vec<u8>>,
    /// `encryption-state.json`.
    pub state: String,
    /// Records and nodes.
    pub replacements: Replacements,
    /// The nodes whose annotations change.
    pub nodes: Vec<String>,
    /// Records in use that the token does not open; whoever starts with their token gets the old configuration.
    pub others: Vec<String>,
}

/// Why a store cannot be made to fit.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The configuration is not of the kind that the distribution handles.
    #[error("{0}; secrets-encrypt handles one entry for Secrets, keys of aescbc or secretbox, and the identity")]
    Unfit(&'static str),
    /// The record does not open.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The record opens, and is none.
    #[error("the bootstrap record opens and cannot be written anew: {0}")]
    Record(#[from] RecordError),
    /// The servers are another distribution's.
    #[error("its servers have the annotation of {other}: it is no store of {asked}")]
    OtherDistro {
        /// What was asked for.
        asked: &'static str,
        /// What they are of.
        other: &'static str,
    },
    /// A node cannot be changed.
    #[error("the annotation of node {0} cannot be changed: it is stored in a form that is not known")]
    Node(String),
    /// There is no randomness to be had.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// Makes a store fit what `target` says. `now` is the present time in RFC 3339.
///
/// # Errors
///
/// [`ResealError`].
pub fn reseal(
    gathered: &Gathered,
    distro: Distro,
    token: &Token,
    target: &Configuration,
    now: &str,
) -> Result<Resealed, ResealError> {
    let config = config_file(target)?;
    let state = State { stage: Stage::ReencryptFinished.word().to_owned(), hash: stage::config_hash(&config) };
    let state = state.to_string();
    let mut made = Resealed { config, state, replacements: Replacements::new(), nodes: Vec::new(), others: Vec::new() };
    records(gathered, token, now, &mut made)?;
    nodes(gathered, distro, &mut made)?;
    Ok(made)
}

/// The configuration's file, as K3s would write it.
fn config_file(target: &Configuration) -> Result<Zeroizing<Vec<u8>>, ResealError> {
    let [entry] = target.entries.as_slice() else { return Err(ResealError::Unfit("it has several entries")) };
    if entry.resources != [GroupResource::new("", "secrets")] {
        return Err(ResealError::Unfit("it is about more than Secrets, or not about them"));
    }
    let providers = secrets_encrypt::providers(target);
    let known = |provider: &ProviderSpec| {
        matches!(provider, ProviderSpec::AesCbc(_) | ProviderSpec::Secretbox(_) | ProviderSpec::Identity)
    };
    if !providers.iter().all(known) {
        return Err(ResealError::Unfit("it has a provider of another kind"));
    }
    if providers.len() > MOST_PROVIDERS || providers.iter().filter(|one| **one == ProviderSpec::Identity).count() != 1 {
        return Err(ResealError::Unfit("it has too many providers, or not one identity"));
    }
    let ends = [providers.first(), providers.last()];
    if !ends.contains(&Some(&ProviderSpec::Identity)) {
        return Err(ResealError::Unfit("its identity is neither first nor last"));
    }
    let entry = Entry { resources: entry.resources.iter().collect(), providers };
    let text = gojson::configuration(&[entry]);
    let bytes = Zeroizing::new(text.as_bytes().to_vec());
    // What is handed out must be what it was made of.
    match config::load(&bytes) {
        Ok(loaded) if loaded.entries == target.entries => Ok(bytes),
        _ => Err(ResealError::Unfit("it does not read back as it was written")),
    }
}

/// The token's records in use, sealed anew.
fn records(gathered: &Gathered, token: &Token, now: &str, made: &mut Resealed) -> Result<(), ResealError> {
    let in_use = gathered.copies.iter().filter(|copy| copy.standing == Standing::Entry && !copy.value.is_empty());
    let mut any = false;
    for copy in in_use {
        any = true;
        let Some((record, passphrase)) = open(&copy.value, token) else {
            made.others.push(String::from_utf8_lossy(&copy.key).into_owned());
            continue;
        };
        let plain = record.with_encryption(&made.config, made.state.as_bytes(), now)?;
        let new = seal(&plain, passphrase)?;
        made.replacements.insert(copy.key.clone(), Replacement { old: copy.value.clone(), new });
    }
    match (any, made.replacements.is_empty()) {
        (false, _) => Err(RecoverError::NoRecord.into()),
        (true, true) => Err(RecoverError::WrongToken.into()),
        (true, false) => Ok(()),
    }
}

fn open<'t>(value: &[u8], token: &'t Token) -> Option<(bootstrap::Record, &'t Passphrase)> {
    let sealed = Sealed::parse(value).ok()?;
    token.passphrases.iter().find_map(|passphrase| Some((sealed.open(passphrase).ok()?, passphrase)))
}

fn seal(plain: &[u8], passphrase: &Passphrase) -> Result<Vec<u8>, ResealError> {
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; crate::provider::aesgcm::NONCE_BYTES]);
    getrandom::fill(&mut salt)?;
    getrandom::fill(&mut nonce)?;
    Ok(bootstrap::seal(plain, passphrase, &salt, &nonce)?)
}

/// The annotations of servers.
fn nodes(gathered: &Gathered, distro: Distro, made: &mut Resealed) -> Result<(), ResealError> {
    let other = if distro == Distro::Rke2 { Distro::K3s } else { Distro::Rke2 };
    let any = |distro: Distro| gathered.nodes.iter().any(|node| node.annotation(distro).is_some());
    if any(other) && !any(distro) {
        return Err(ResealError::OtherDistro { asked: distro.word(), other: other.word() });
    }
    for stored in &gathered.servers {
        let Some(node) = node::Node::read(&stored.value) else { continue };
        if node.annotation(distro).is_none_or(|annotation| annotation == made.state) {
            continue;
        }
        let name = format!("{}{}", distro.word(), node::HASH_ANNOTATION);
        let new = node::annotated(&stored.value, &name, &made.state);
        // Read again, so that nothing is written of which it is not known that it says what it should.
        let fits = |new: &Vec<u8>| {
            node::Node::read(new).is_some_and(|new| new.annotation(distro) == Some(made.state.as_str()))
        };
        let new = new.filter(fits).ok_or_else(|| ResealError::Node(node.name.clone()))?;
        made.nodes.push(node.name);
        made.replacements.insert(stored.key.clone(), Replacement { old: stored.value.clone(), new });
    }
    Ok(())
}

/// The present time as a record has it.
pub fn now() -> io::Result<String> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.map_err(|_| io::Error::other("the clock stands before 1970"))?;
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    Ok(crate::kube::schema::moment(seconds))
}
