//! Every configuration that a K3s or RKE2 store still has, out of its bootstrap records, with the server's token.
//!
//! Each revision of a record is a moment of the cluster: the one that a server reads, older ones that were not compacted
//! away, and those that are only left in free pages. A key that was removed from the newest may well be in another.

use zeroize::Zeroizing;

use crate::config::{self, Configuration};

use super::bootstrap::{self, Encryption, RecordError, Sealed};
use super::gather::{Copy, Standing};
use super::stage;
use super::token::{Holder, Passphrase, Token};

/// So many revisions under another name than the token's are tried all the same.
const STRANGERS_TRIED: usize = 64;

/// No state is longer; what is, is cut.
const STATE_CHARS: usize = 256;

/// A configuration of some moment.
#[derive(Debug)]
pub struct Found {
    /// The key of the record.
    pub key: String,
    /// The revision at which the store has it.
    pub revision: i64,
    /// What the revision is to its key.
    pub standing: Standing,
    /// When the file was written, as the record says it.
    pub time: Option<String>,
    /// Stage and hash of that moment, as they stand.
    pub state: Option<String>,
    /// The file's bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// What it says.
    pub configuration: Configuration,
}

impl Found {
    /// What a report names it by.
    pub fn name(&self) -> String {
        format!("{} at revision {}", self.key, self.revision)
    }

    /// The hash that servers give for it.
    pub fn hash(&self) -> String {
        stage::config_hash(&self.bytes)
    }
}

/// What is wrong about a record beside its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// It is sealed with the empty passphrase (CVE-2021-32001).
    EmptyPassphrase {
        /// The record's key.
        key: String,
    },
    /// An agent's token opens it.
    AgentToken {
        /// The record's key.
        key: String,
    },
    /// The token opens it although its name is another one's.
    OtherName {
        /// The record's key.
        key: String,
    },
    /// There are several records in use.
    Several {
        /// Their keys.
        keys: Vec<String>,
    },
    /// A revision gave nothing.
    Unread {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// Too many revisions to look into all.
    LeftOut(u64),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Configurations, newest first.
    pub found: Vec<Found>,
    /// What is wrong, each once.
    pub warnings: Vec<Warning>,
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// There is no record.
    #[error("the store has no bootstrap record (/bootstrap/): it is no K3s' or RKE2's, or it never saved one")]
    NoRecord,
    /// The token opens nothing.
    #[error("the token does not open the bootstrap record: it is another cluster's, or of another time")]
    WrongToken,
    /// It is an agent's.
    #[error("this is an agent's token; the bootstrap record is sealed with the servers', in server/token of a server")]
    Agent,
    /// There is no token, and one is needed.
    #[error("the bootstrap record is sealed with the server's token")]
    NoToken,
    /// The record is the token's and cannot be read.
    #[error("{name}: {why}")]
    Damaged {
        /// Which revision.
        name: String,
        /// Why.
        why: RecordError,
    },
    /// It opens, and has no configuration.
    #[error("the bootstrap record opens and has no encryption configuration: secrets encryption was never switched on")]
    NoConfiguration,
}

/// A passphrase to try, and the name that its record has.
struct Candidate {
    passphrase: Passphrase,
    name: String,
    is_empty: bool,
}

/// Opens every revision of every record.
///
/// # Errors
///
/// [`RecoverError`], if no configuration was found.
pub fn recover(copies: &[Copy], left_out: u64, token: Option<&Token>) -> Result<Recovered, RecoverError> {
    if copies.is_empty() {
        return Err(RecoverError::NoRecord);
    }
    let mut opener = Opener::new(token);
    copies.iter().for_each(|copy| opener.copy(copy));
    if left_out > 0 {
        opener.out.warnings.push(Warning::LeftOut(left_out));
    }
    opener.finish(copies)
}

struct Opener<'t> {
    token: Option<&'t Token>,
    candidates: Vec<Candidate>,
    strangers: usize,
    opened: bool,
    damaged: Option<(String, RecordError)>,
    out: Recovered,
}

impl<'t> Opener<'t> {
    fn new(token: Option<&'t Token>) -> Self {
        let given = token.into_iter().flat_map(|token| &token.passphrases).cloned().map(|one| (one, false));
        let all = given.chain([(Passphrase::empty(), true)]);
        let candidates = all
            .map(|(passphrase, is_empty)| Candidate { name: bootstrap::name(&passphrase), passphrase, is_empty })
            .collect();
        Self { token, candidates, strangers: 0, opened: false, damaged: None, out: Recovered::default() }
    }

    fn copy(&mut self, copy: &Copy) {
        let key = String::from_utf8_lossy(&copy.key).into_owned();
        let name = format!("{key} at revision {}", copy.revision.main);
        let sealed = match Sealed::parse(&copy.value) {
            Ok(sealed) => sealed,
            // A server that starts for the first time holds the empty value as a lock.
            Err(RecordError::Lock) => return,
            Err(why) => {
                self.damaged.get_or_insert((name.clone(), why));
                return self.warn(Warning::Unread { name, why: why.to_string() });
            }
        };
        match self.open(&key, &sealed) {
            Ok(Some(encryption)) => self.take(copy, key, name, encryption),
            Ok(None) => {}
            Err(why) => {
                self.damaged.get_or_insert((name.clone(), why));
                self.warn(Warning::Unread { name, why: why.to_string() });
            }
        }
    }

    /// Tries the passphrases of the record's name first. None if the record is another token's.
    fn open(&mut self, key: &str, sealed: &Sealed<'_>) -> Result<Option<Encryption>, RecordError> {
        let own = |candidate: &Candidate| key.rsplit('/').next() == Some(candidate.name.as_str());
        let (mine, others): (Vec<_>, Vec<_>) =
            (0..self.candidates.len()).partition(|index| self.candidates.get(*index).is_some_and(own));
        let try_all = mine.is_empty() && self.strangers < STRANGERS_TRIED;
        self.strangers += usize::from(try_all);
        for index in mine.iter().chain(others.iter().filter(|_| try_all)) {
            let Some(candidate) = self.candidates.get(*index) else { continue };
            let Ok(record) = sealed.open(&candidate.passphrase) else { continue };
            let is_empty = candidate.is_empty;
            self.opened = true;
            self.warn_of(key, is_empty, mine.is_empty());
            return record.encryption().map(Some);
        }
        if mine.is_empty() { Ok(None) } else { Err(RecordError::Closed) }
    }

    fn warn_of(&mut self, key: &str, is_empty: bool, is_stranger: bool) {
        let key = key.to_owned();
        if is_empty {
            self.warn(Warning::EmptyPassphrase { key });
        } else if self.token.is_some_and(|token| token.holder == Holder::Agent) {
            self.warn(Warning::AgentToken { key });
        } else if is_stranger {
            self.warn(Warning::OtherName { key });
        }
    }

    fn warn(&mut self, warning: Warning) {
        if !self.out.warnings.contains(&warning) {
            self.out.warnings.push(warning);
        }
    }

    fn take(&mut self, copy: &Copy, key: String, name: String, encryption: Encryption) {
        let Some(config) = encryption.config else { return };
        let configuration = match config::load(&config.content) {
            Ok(configuration) => configuration,
            Err(error) => return self.warn(Warning::Unread { name, why: error.to_string() }),
        };
        let state = encryption.state.map(|kept| {
            let text = String::from_utf8_lossy(&kept.content).into_owned();
            text.trim().chars().take(STATE_CHARS).collect()
        });
        let (revision, standing) = (copy.revision.main, copy.standing);
        let (time, bytes) = (config.timestamp, config.content);
        self.out.found.push(Found { key, revision, standing, time, state, bytes, configuration });
    }

    fn finish(mut self, copies: &[Copy]) -> Result<Recovered, RecoverError> {
        let in_use = copies.iter().filter(|copy| copy.standing == Standing::Entry && !copy.value.is_empty());
        let mut keys: Vec<_> = in_use.map(|copy| String::from_utf8_lossy(&copy.key).into_owned()).collect();
        keys.sort();
        if keys.len() > 1 {
            self.out.warnings.push(Warning::Several { keys });
        }
        self.out.warnings.sort();
        if !self.out.found.is_empty() {
            return Ok(self.out);
        }
        Err(match (self.opened, self.damaged, self.token.map(|token| token.holder)) {
            (_, Some((name, why)), _) => RecoverError::Damaged { name, why },
            (true, None, _) => RecoverError::NoConfiguration,
            (false, None, None) => RecoverError::NoToken,
            (false, None, Some(Holder::Agent)) => RecoverError::Agent,
            (false, None, Some(Holder::Server)) => RecoverError::WrongToken,
        })
    }
}
