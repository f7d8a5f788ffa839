//! A file that has its name only when it is whole.
//!
//! It is written beside its place under a name that tells what it is (`.NAME.atrest-part`), readable by its owner alone.
//! [`Output::commit`] syncs it, gives it its name and syncs the folder; dropped before that, it is removed. What a killed
//! run leaves is replaced by the next run for the same name. A lock keeps two runs from sharing one, and no way leads to an
//! input: not its own name, no hard or symbolic link to it, and not a leftover that somebody gave as one.
//!
//! Everything happens relative to the folder as it was opened first. Nothing here knows what is written. [`tree`] does the same for a folder
//! of many files.

#[cfg(feature = "zstd")]
pub mod bundle;
pub mod tree;

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// What ends the name of a file that is not whole yet.
pub const PART_SUFFIX: &str = ".atrest-part";

/// The longest name that a folder takes on the systems that matter.
const NAME_LIMIT_BYTES: usize = 255;

/// How much of a name too long for a suffix stays readable in its part's name.
const READABLE_BYTES: usize = 160;

/// How often two runs that start at the same moment may take turns before one gives up.
const ATTEMPTS: usize = 16;

/// Why a file was not written. The messages are about the file, whose name goes in front.
#[derive(Debug, Error)]
pub enum OutputError {
    /// The path does not end in a name.
    #[error("this is no name for a file")]
    NoName,
    /// Its folder can't be opened.
    #[error("its folder can't be opened: {0}")]
    Folder(#[source] io::Error),
    /// There is something of the name, and nobody said that it may be replaced.
    #[error("it exists already")]
    Exists,
    /// There is something of the name that is never replaced.
    #[error("it exists and is {0}; only an ordinary file can be replaced")]
    NotReplaceable(&'static str),
    /// It is what is read.
    #[error("it is the same file as the input {}", .0.display())]
    IsInput(PathBuf),
    /// The leftover that would be replaced is what is read.
    #[error("its unfinished form {} is the input itself", .0.display())]
    PartIsInput(PathBuf),
    /// Whether an input is the same file can't be told.
    #[error("whether it is the input {} can't be told: {error}", .path.display())]
    Input {
        /// The input.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Another run writes it.
    #[error("another run is writing it")]
    Busy,
    /// What is in the way of the unfinished file is no leftover that can be replaced.
    #[error("{} is in the way, and whether it is a leftover can't be told", .0.display())]
    InTheWay(PathBuf),
    /// The unfinished file can't be created.
    #[error("it can't be created: {0}")]
    Create(#[source] io::Error),
    /// The bytes can't be written or synced.
    #[error("it can't be written: {0}")]
    Write(#[source] io::Error),
    /// It can't be given its name.
    #[error("it can't be given its name: {0}")]
    Rename(#[source] io::Error),
    /// The file system can't name a file without the risk of replacing another.
    #[error("the file system can't give a name without the risk of replacing a file that has it")]
    NoExclusive,
    /// The folder can't be synced; the file is whole and has its name.
    #[error("it is written and has its name, but its folder can't be synced, so that a crash could still lose it: {0}")]
    FolderSync(#[source] io::Error),
}

/// A file on its way to its name.
#[derive(Debug)]
pub struct Output {
    folder: File,
    name: OsString,
    part: OsString,
    part_path: PathBuf,
    file: File,
    force: bool,
    inputs: Vec<(PathBuf, Identity)>,
    committed: bool,
}

/// What makes two names one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between systems")]
    fn of_stat(stat: &Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

impl Output {
    /// Begins a file that will be at `path`, which must not exist unless `force` allows to replace it, and which is none
    /// of `inputs` under any name. What is read from standard input is given as `/dev/stdin`.
    pub fn create(path: &Path, force: bool, inputs: &[&Path]) -> Result<Self, OutputError> {
        let name = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/"));
        let name = name.ok_or(OutputError::NoName)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(parent, flags, Mode::empty()).map_err(|e| OutputError::Folder(e.into()))?;
        let folder = File::from(folder);
        let inputs = inputs.iter().map(|input| identify(input)).collect::<Result<Vec<_>, _>>()?;
        may_take(&folder, &name, force, &inputs)?;
        let part = part_name(&name);
        let part_path = parent.join(&part);
        let file = create_part(&folder, &part, &part_path, &inputs)?;
        Ok(Self { folder, name, part, part_path, file, force, inputs, committed: false })
    }

    /// The unfinished file, to be written to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the unfinished file is.
    pub fn part_path(&self) -> &Path {
        &self.part_path
    }

    /// Bytes that its file system still takes from this user.
    pub fn room(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Makes what was written last, and opens it again for reading, by a descriptor that shares nothing with the writer's.
    pub fn reopen(&self) -> Result<File, OutputError> {
        self.file.sync_all().map_err(OutputError::Write)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let again = rustix::fs::openat(&self.folder, &self.part, flags, Mode::empty());
        let again = File::from(again.map_err(|error| OutputError::Write(error.into()))?);
        let (ours, theirs) = (self.file.metadata(), again.metadata());
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) if Identity::of(&ours) == Identity::of(&theirs) => Ok(again),
            (Err(error), _) | (_, Err(error)) => Err(OutputError::Write(error)),
            _ => Err(OutputError::InTheWay(self.part_path.clone())),
        }
    }

    /// Syncs the file, gives it its name, and syncs the folder.
    pub fn commit(mut self) -> Result<(), OutputError> {
        self.file.sync_all().map_err(OutputError::Write)?;
        may_take(&self.folder, &self.name, self.force, &self.inputs)?;
        if self.force {
            rustix::fs::renameat(&self.folder, &self.part, &self.folder, &self.name)
                .map_err(|error| OutputError::Rename(error.into()))?;
        } else {
            rename_to_new(&self.folder, &self.part, &self.name)?;
        }
        self.committed = true;
        match rustix::fs::fsync(&self.folder) {
            // Some file systems have nothing to sync in a folder, and say so in this way.
            Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            Err(error) => Err(OutputError::FolderSync(error.into())),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let ours = self.file.metadata().ok().map(|metadata| Identity::of(&metadata));
        // Where locks don't work, the name might be another run's by now.
        if !self.committed && identity_at(&self.folder, &self.part).ok().flatten() == ours {
            // It holds no more than a leftover would, which the next run replaces.
            let _ = rustix::fs::unlinkat(&self.folder, &self.part, AtFlags::empty());
        }
    }
}

fn identify(input: &Path) -> Result<(PathBuf, Identity), OutputError> {
    let metadata = std::fs::metadata(input).map_err(|error| OutputError::Input { path: input.to_owned(), error })?;
    Ok((input.to_owned(), Identity::of(&metadata)))
}

/// Whether the name may be taken.
fn may_take(folder: &File, name: &OsStr, force: bool, inputs: &[(PathBuf, Identity)]) -> Result<(), OutputError> {
    // Where the name leads is looked at first: that it is an input matters more than that it exists.
    let follow = rustix::fs::statat(folder, name, AtFlags::empty()).map(|stat| Identity::of_stat(&stat));
    let input = inputs.iter().find(|(_, identity)| follow == Ok(*identity));
    if let Some((path, _)) = input {
        return Err(OutputError::IsInput(path.clone()));
    }
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(OutputError::Create(error.into())),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if force => Ok(()),
        FileType::RegularFile => Err(OutputError::Exists),
        FileType::Directory => Err(OutputError::NotReplaceable("a directory")),
        FileType::Symlink => Err(OutputError::NotReplaceable("a symbolic link")),
        _ => Err(OutputError::NotReplaceable("no ordinary file")),
    }
}

/// The name beside it: always the same for the same name, so that a leftover is found again.
fn part_name(name: &OsStr) -> OsString {
    let mut part = OsString::from(".");
    if name.len() + PART_SUFFIX.len() < NAME_LIMIT_BYTES {
        part.push(name);
    } else {
        let readable = String::from_utf8_lossy(name.as_bytes().get(..READABLE_BYTES).unwrap_or_default()).into_owned();
        let digest = Sha256::digest(name.as_bytes());
        part.push(readable.replace('\u{fffd}', ""));
        part.push(".");
        part.push(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    part.push(PART_SUFFIX);
    part
}

fn identity_at(folder: &File, name: &OsStr) -> Result<Option<Identity>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Identity::of_stat(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates the unfinished file and locks it, after a leftover has been removed.
fn create_part(
    folder: &File,
    part: &OsStr,
    part_path: &Path,
    inputs: &[(PathBuf, Identity)],
) -> Result<File, OutputError> {
    let fail = |error: Errno| OutputError::Create(error.into());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat(folder, part, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                let file = File::from(file);
                // Another run took the new file for a leftover before it was locked. Where there are no locks, the name alone
                // keeps others out.
                if lock(&file) == Err(Errno::WOULDBLOCK) {
                    return Err(OutputError::Busy);
                }
                let ours = Identity::of(&file.metadata().map_err(OutputError::Create)?);
                if identity_at(folder, part).map_err(fail)? == Some(ours) {
                    return Ok(file);
                }
            }
            Err(Errno::EXIST) => remove_leftover(folder, part, part_path, inputs)?,
            Err(error) => return Err(fail(error)),
        }
    }
    Err(OutputError::Busy)
}

/// Removes what a run left behind that does not live any more: its lock is free.
fn remove_leftover(
    folder: &File,
    part: &OsStr,
    part_path: &Path,
    inputs: &[(PathBuf, Identity)],
) -> Result<(), OutputError> {
    let in_the_way = || OutputError::InTheWay(part_path.to_owned());
    // For writing, because the locks of network file systems need it; nothing is written.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, part, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(()),
        Err(_) => return Err(in_the_way()),
    };
    let metadata = file.metadata().map_err(|_| in_the_way())?;
    let identity = Identity::of(&metadata);
    if inputs.iter().any(|(_, input)| *input == identity) {
        return Err(OutputError::PartIsInput(part_path.to_owned()));
    }
    if !metadata.is_file() {
        return Err(in_the_way());
    }
    match lock(&file) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(OutputError::Busy),
        Err(_) => return Err(in_the_way()),
    }
    // The name may have passed to another run while the lock was being taken.
    if identity_at(folder, part).map_err(|error| OutputError::Create(error.into()))? != Some(identity) {
        return Ok(());
    }
    match rustix::fs::unlinkat(folder, part, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(OutputError::Create(error.into())),
    }
}

fn lock(file: &File) -> Result<(), Errno> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// Gives the unfinished file a name that nothing has, also if something takes it at this very moment.
fn rename_to_new(folder: &File, part: &OsStr, name: &OsStr) -> Result<(), OutputError> {
    match rustix::fs::renameat_with(folder, part, folder, name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(OutputError::Exists),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_to_new(folder, part, name),
        Err(error) => Err(OutputError::Rename(error.into())),
    }
}

/// The same where renaming can't promise it: a second name is only ever given if it is free.
fn link_to_new(folder: &File, part: &OsStr, name: &OsStr) -> Result<(), OutputError> {
    match rustix::fs::linkat(folder, part, folder, name, AtFlags::empty()) {
        // Were the first name to stay, it would be a leftover of a file that is whole.
        Ok(()) => rustix::fs::unlinkat(folder, part, AtFlags::empty()).map_err(|e| OutputError::Rename(e.into())),
        Err(Errno::EXIST) => Err(OutputError::Exists),
        Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP | Errno::MLINK) => Err(OutputError::NoExclusive),
        Err(error) => Err(OutputError::Rename(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, force: bool, inputs: &[&Path], bytes: &[u8]) -> Result<(), OutputError> {
        let output = Output::create(path, force, inputs)?;
        output.file().write_all(bytes).unwrap();
        output.commit()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.yaml");
        let output = Output::create(&path, false, &[]).unwrap();
        output.file().write_all(b"half").unwrap();
        assert_eq!(names(folder.path()), [".new.yaml.atrest-part"]);
        let mut again = String::new();
        output.reopen().unwrap().read_to_string(&mut again).unwrap();
        assert_eq!(again, "half");
        output.commit().unwrap();
        assert_eq!(names(folder.path()), ["new.yaml"]);
        assert_eq!(fs::read(&path).unwrap(), b"half");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_given_up_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::create(&folder.path().join("new"), false, &[]).unwrap();
        output.file().write_all(b"half").unwrap();
        drop(output);
        assert_eq!(names(folder.path()), [] as [&str; 0]);
    }

    #[test]
    fn a_file_that_exists_is_only_replaced_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old");
        fs::write(&path, b"old").unwrap();
        assert!(matches!(write(&path, false, &[], b"new"), Err(OutputError::Exists)));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, true, &[], b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["old"]);
    }

    #[test]
    fn a_name_taken_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let output = Output::create(&path, false, &[]).unwrap();
        fs::write(&path, b"somebody else's").unwrap();
        assert!(matches!(output.commit(), Err(OutputError::Exists)));
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
        assert_eq!(names(folder.path()), ["new"]);
    }

    #[test]
    fn both_ways_to_a_new_name_keep_what_has_it() {
        for way in [rename_to_new, link_to_new] {
            let directory = tempfile::tempdir().unwrap();
            let folder = File::open(directory.path()).unwrap();
            let at = |name: &str| directory.path().join(name);
            fs::write(at("part"), b"new").unwrap();
            fs::write(at("taken"), b"old").unwrap();
            let (part, taken, free) = (OsStr::new("part"), OsStr::new("taken"), OsStr::new("free"));
            assert!(matches!(way(&folder, part, taken), Err(OutputError::Exists)));
            assert_eq!(fs::read(at("taken")).unwrap(), b"old");
            way(&folder, part, free).unwrap();
            assert_eq!(fs::read(at("free")).unwrap(), b"new");
            assert_eq!(names(directory.path()), ["free", "taken"]);
        }
    }

    #[test]
    fn an_input_is_never_written_to_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("input"), b"precious").unwrap();
        fs::hard_link(at("input"), at("hard")).unwrap();
        symlink(at("input"), at("soft")).unwrap();
        symlink(folder.path(), at("folder")).unwrap();
        for output in ["input", "hard", "soft", "./input", "folder/input", "folder/soft"] {
            for input in ["input", "hard", "soft"] {
                let outcome = write(&at(output), true, &[at(input).as_path()], b"new");
                assert!(matches!(outcome, Err(OutputError::IsInput(path)) if path == at(input)), "{output} {input}");
            }
        }
        assert_eq!(fs::read(at("input")).unwrap(), b"precious");
    }

    #[test]
    fn an_output_that_becomes_an_input_meanwhile_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("input"), b"precious").unwrap();
        let output = Output::create(&at("new"), true, &[&at("input")]).unwrap();
        fs::hard_link(at("input"), at("new")).unwrap();
        assert!(matches!(output.commit(), Err(OutputError::IsInput(_))));
        assert_eq!(fs::read(at("new")).unwrap(), b"precious");
    }

    #[test]
    fn what_a_killed_run_left_is_replaced_and_what_shares_its_bytes_is_not_harmed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("shared"), b"precious").unwrap();
        fs::hard_link(at("shared"), at(".new.atrest-part")).unwrap();
        write(&at("new"), false, &[], b"new").unwrap();
        assert_eq!(fs::read(at("shared")).unwrap(), b"precious");
        assert_eq!(names(folder.path()), ["new", "shared"]);
    }

    #[test]
    fn a_leftover_that_is_the_input_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at(".new.atrest-part"), b"precious").unwrap();
        let outcome = write(&at("new"), true, &[&at(".new.atrest-part")], b"new");
        assert!(matches!(outcome, Err(OutputError::PartIsInput(_))), "{outcome:?}");
        assert_eq!(fs::read(at(".new.atrest-part")).unwrap(), b"precious");
    }

    #[test]
    fn what_is_no_leftover_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("elsewhere"), b"precious").unwrap();
        symlink(at("elsewhere"), at(".new.atrest-part")).unwrap();
        assert!(matches!(write(&at("new"), true, &[], b"new"), Err(OutputError::InTheWay(_))));
        fs::create_dir(at(".other.atrest-part")).unwrap();
        assert!(matches!(write(&at("other"), true, &[], b"new"), Err(OutputError::InTheWay(_))));
        assert_eq!(fs::read(at("elsewhere")).unwrap(), b"precious");
    }

    #[test]
    fn two_runs_never_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let first = Output::create(&path, false, &[]).unwrap();
        assert!(matches!(Output::create(&path, false, &[]), Err(OutputError::Busy)));
        first.file().write_all(b"first").unwrap();
        first.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }

    #[test]
    fn of_many_runs_at_once_one_wins_and_its_bytes_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = folder.path().join(format!("new-{round}"));
            let run = |number: u8| {
                let path = &path;
                move || write(path, false, &[], &vec![number; 10_000]).is_ok()
            };
            let won: Vec<u8> = std::thread::scope(|scope| {
                let runs: Vec<_> = (0..8).map(|number| (number, scope.spawn(run(number)))).collect();
                runs.into_iter().filter_map(|(number, run)| run.join().unwrap().then_some(number)).collect()
            });
            // All may have met each other at the start; more than one is never right.
            let expected = won.iter().map(|number| vec![*number; 10_000]).collect::<Vec<_>>();
            assert!(expected.len() <= 1, "{won:?}");
            assert_eq!(fs::read(&path).ok(), expected.into_iter().next());
        }
        assert!(names(folder.path()).iter().all(|name| name.starts_with("new-")));
    }

    #[test]
    fn what_is_no_ordinary_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("directory")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for name in ["directory", "dangling"] {
            assert!(matches!(write(&at(name), true, &[], b"new"), Err(OutputError::NotReplaceable(_))), "{name}");
        }
        assert!(matches!(write(Path::new("/dev/null"), true, &[], b"new"), Err(OutputError::NotReplaceable(_))));
        assert!(!at("nowhere").exists());
    }

    #[test]
    fn a_path_without_a_name_or_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["", "/", "..", "name/"] {
            assert!(matches!(write(&folder.path().join(path), true, &[], b""), Err(OutputError::NoName)), "{path}");
        }
        let nowhere = folder.path().join("nowhere/new");
        assert!(matches!(write(&nowhere, true, &[], b""), Err(OutputError::Folder(_))));
        let outcome = write(&folder.path().join("new"), true, &[&folder.path().join("gone")], b"");
        assert!(matches!(outcome, Err(OutputError::Input { .. })));
    }

    #[test]
    fn a_folder_that_vanishes_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        let output = Output::create(&below.join("new"), false, &[]).unwrap();
        fs::remove_dir_all(&below).unwrap();
        assert!(matches!(output.commit(), Err(OutputError::Rename(_))));
    }

    #[test]
    fn the_longest_name_still_has_a_name_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x".repeat(255), "\u{e9}".repeat(127), "x".repeat(242), "x".repeat(243)] {
            let path = folder.path().join(&name);
            let output = Output::create(&path, false, &[]).unwrap();
            assert!(output.part_path().file_name().unwrap().len() <= NAME_LIMIT_BYTES);
            output.commit().unwrap();
            assert!(path.exists());
        }
        assert_ne!(part_name(OsStr::new(&"x".repeat(255))), part_name(OsStr::new(&"x".repeat(254))));
    }
}
