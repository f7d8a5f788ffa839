//! `rewrite --distro`: what K3s and RKE2 keep of their own state, made to fit the new configuration.

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::distro::Distro;
use crate::distro::reseal::{Resealed, now, reseal};
use crate::output::{Output, OutputError};
use crate::report::text::harmless;
use crate::rewrite::target::Target;

use super::Failure;
use super::args::GlobalArgs;
use super::configs::{self, TokenArgs};
use super::source::OpenSource;

/// The files of a server's folder `cred`.
const CONFIG_FILE: &str = "encryption-config.json";
const STATE_FILE: &str = "encryption-state.json";

/// Makes ready what the store is to say of itself; none where that was not asked for.
pub fn prepare(
    distro: Option<Distro>,
    token: &TokenArgs,
    target: &Target,
    opened: &mut OpenSource,
    global: &GlobalArgs,
) -> Result<Option<Resealed>, Failure> {
    let (Some(distro), Some(path)) = (distro, &token.token_file) else { return Ok(None) };
    let token = configs::read_token(path)?;
    let mut files = match target {
        Target::Configured { rules, .. } => rules.files(),
        Target::Plaintext => return Ok(None),
    };
    let (Some((name, configuration)), None) = (files.next(), files.next()) else {
        return Err(Failure::usage("K3s and RKE2 have one configuration, so --to takes one"));
    };
    let gathered = configs::gathered(&mut opened.store, &opened.facts.path, global)?;
    let now = now().map_err(|error| Failure::refused(error.to_string()))?;
    let resealed = reseal(&gathered, distro, &token, configuration, &now);
    resealed.map(Some).map_err(|error| {
        use crate::distro::reseal::ResealError::{Recover, Unfit};
        let (about, failure) = match &error {
            Unfit(_) => (name, Failure::refused(harmless(&error.to_string()).into_owned())),
            Recover(_) => (opened.facts.path.as_str(), Failure::input(harmless(&error.to_string()).into_owned())),
            _ => (opened.facts.path.as_str(), Failure::refused(harmless(&error.to_string()).into_owned())),
        };
        failure
            .about(about)
            .hint("nothing was written; --keep-distro-state rewrites without touching the store's own record")
    })
}

/// The two files, begun and not named yet.
pub struct Beside {
    folder: PathBuf,
    files: Vec<(PathBuf, Output)>,
}

/// A folder in which nothing got its name goes, too.
impl Drop for Beside {
    fn drop(&mut self) {
        self.files.clear();
        // It is there to stay if anything is in it.
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// The folder beside the new file.
pub fn folder(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".cred");
    PathBuf::from(name)
}

/// Begins the files, in a folder that only its owner may open.
pub fn begin(resealed: &Resealed, output: Option<&Path>, force: bool) -> Result<Beside, Failure> {
    let folder = folder(output.unwrap_or(Path::new("")));
    let made = DirBuilder::new().mode(0o700).create(&folder);
    if let Err(error) = made
        && !(error.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir())
    {
        let name = folder.to_string_lossy();
        return Err(Failure::refused(format!("the folder cannot be made: {error}")).about(&name));
    }
    let mut beside = Beside { folder, files: Vec::new() };
    for (name, content) in [(CONFIG_FILE, resealed.config.as_slice()), (STATE_FILE, resealed.state.as_bytes())] {
        let path = beside.folder.join(name);
        let failed = |error: OutputError| Failure::from(error).about(&path.to_string_lossy());
        let file = Output::create(&path, force, &[]).map_err(failed)?;
        file.file().write_all(content).map_err(|error| failed(OutputError::Write(error)))?;
        beside.files.push((path, file));
    }
    Ok(beside)
}

impl Beside {
    /// Gives the files their names.
    pub fn commit(mut self) -> Result<(), Failure> {
        for (path, file) in std::mem::take(&mut self.files) {
            file.commit().map_err(|error| Failure::from(error).about(&path.to_string_lossy()))?;
        }
        Ok(())
    }
}

/// What is to be done with all of it.
pub fn notes(resealed: &Resealed, output: Option<&Path>) -> Vec<String> {
    let records = resealed.replacements.len().saturating_sub(resealed.nodes.len());
    let nodes = match resealed.nodes.len() {
        0 => "no node's annotation had to change".to_owned(),
        _ => format!("so do the annotations of {}", harmless(&resealed.nodes.join(", "))),
    };
    let mut notes = vec![format!(
        "The store's own record has the new configuration ({records} sealed anew), and {nodes}: {}.",
        resealed.state
    )];
    if let Some(output) = output {
        let folder = folder(output);
        notes.push(format!(
            "{} has {CONFIG_FILE} and {STATE_FILE}, for server/cred of every server.",
            harmless(&folder.to_string_lossy())
        ));
    }
    if !resealed.others.is_empty() {
        notes.push(format!(
            "{}: this token does not open it, so it still has the old configuration; nobody may start with its token.",
            harmless(&resealed.others.join(", "))
        ));
    }
    notes
}
