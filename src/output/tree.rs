//! A folder of files, each of which has its name only when it is whole.
//!
//! The folder is new or empty, or its owner said that files of the same names may be replaced. Everything happens relative to it as it was opened first:
//! no name leads out of it, and no link in it is followed. Folders are made for their owner alone (0700), and so are files (0600). A lock keeps
//! two runs from sharing a folder.
//!
//! Single files are not synced, which would take longer than all else; [`Tree::sync`] brings everything to the disk before the
//! last file, which tells that all are there, gets its name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::{Identity, OutputError, identify, lock, part_name, rename_to_new};

/// Deeper folders are not looked into; a tree of ours is not so deep.
const MAX_DEPTH: usize = 64;

/// Why a tree cannot be written.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The folder has something in it.
    #[error("it is not empty")]
    NotEmpty,
    /// There is something else of the name.
    #[error("it exists and is no folder")]
    NoFolder,
    /// The folder cannot be made or opened.
    #[error("it can't be opened: {0}")]
    Open(#[source] io::Error),
    /// Another run writes to it.
    #[error("another run is writing it")]
    Busy,
    /// A file or folder in it cannot be written.
    #[error("{path}: {error}")]
    File {
        /// Its path below the folder.
        path: String,
        /// Why.
        #[source]
        error: OutputError,
    },
    /// What was written cannot be brought to the disk.
    #[error("it can't be synced: {0}")]
    Sync(#[source] io::Error),
}

/// A folder that is written to.
#[derive(Debug)]
pub struct Tree {
    root: File,
    force: bool,
    before: u64,
    inputs: Vec<(PathBuf, Identity)>,
}

/// A folder within it.
#[derive(Debug)]
pub struct Folder {
    file: File,
    path: String,
}

impl Tree {
    /// Makes the folder or opens it. With `force` it need not be empty; `inputs` are never replaced.
    ///
    /// # Errors
    ///
    /// [`TreeError`].
    pub fn create(path: &Path, force: bool, inputs: &[&Path]) -> Result<Self, TreeError> {
        let inputs = inputs.iter().map(|input| identify(input)).collect::<Result<Vec<_>, _>>();
        let inputs = inputs.map_err(|error| fault(String::new(), error))?;
        let open = |error: Errno| TreeError::Open(error.into());
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(open(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => File::from(root),
            Err(Errno::NOTDIR) => return Err(TreeError::NoFolder),
            Err(error) => return Err(open(error)),
        };
        if lock(&root) == Err(Errno::WOULDBLOCK) {
            return Err(TreeError::Busy);
        }
        let before = count(&root, MAX_DEPTH).map_err(open)?;
        if !force && before.any {
            return Err(TreeError::NotEmpty);
        }
        Ok(Self { root, force, before: before.files, inputs })
    }

    /// How many files there were before, those that were removed not counted.
    pub fn files_before(&self) -> u64 {
        self.before
    }

    /// A folder within it, made where it is not there.
    ///
    /// # Errors
    ///
    /// When something else has one of the names, links included.
    pub fn folder(&self, names: &[&str]) -> Result<Folder, TreeError> {
        let mut folder = Folder { file: self.root.try_clone().map_err(TreeError::Open)?, path: String::new() };
        for name in names {
            folder = folder.within(name)?;
        }
        Ok(folder)
    }

    /// Removes a file in the folder itself, if there is one.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub fn remove(&mut self, name: &str) -> Result<(), TreeError> {
        let fail = |error| fault(name.to_owned(), error);
        if !self.may_replace(&self.root, OsStr::new(name)).map_err(fail)? {
            return Ok(());
        }
        match rustix::fs::unlinkat(&self.root, name, AtFlags::empty()) {
            Ok(()) => {
                self.before = self.before.saturating_sub(1);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(fail(OutputError::Create(error.into()))),
        }
    }

    /// Whether there is an ordinary file of the name; anything else is never replaced.
    fn may_replace(&self, folder: &File, name: &OsStr) -> Result<bool, OutputError> {
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    let identity = Identity::of_stat(&stat);
                    let input = self.inputs.iter().find(|(_, input)| *input == identity);
                    input.map_or(Ok(true), |(path, _)| Err(OutputError::IsInput(path.clone())))
                }
                FileType::Directory => Err(OutputError::NotReplaceable("a directory")),
                FileType::Symlink => Err(OutputError::NotReplaceable("a symbolic link")),
                _ => Err(OutputError::NotReplaceable("no ordinary file")),
            },
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(OutputError::Create(error.into())),
        }
    }

    /// Writes a file into a folder. Says whether it took the place of another one.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or its name is taken by what may not be replaced.
    pub fn write(&self, folder: &Folder, name: &str, content: &[u8]) -> Result<bool, TreeError> {
        let mut growing = self.begin(folder, name)?;
        growing.write_all(content).map_err(|error| fault(folder.path_of(name), OutputError::Write(error)))?;
        growing.finish()
    }

    /// Begins a file that is written bit by bit.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn begin<'f>(&'f self, folder: &'f Folder, name: &str) -> Result<Growing<'f>, TreeError> {
        let part = part_name(OsStr::new(name));
        let fail = |error: Errno| fault(folder.path_of(name), OutputError::Create(error.into()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(&folder.file, &part, flags, Mode::RUSR | Mode::WUSR);
        let file = match create() {
            Err(Errno::EXIST) if self.force => {
                // The folder is ours alone while it is locked, so this is a leftover.
                rustix::fs::unlinkat(&folder.file, &part, AtFlags::empty()).map_err(fail)?;
                create()
            }
            done => done,
        };
        let file = BufWriter::new(File::from(file.map_err(fail)?));
        Ok(Growing { tree: self, folder, name: name.to_owned(), part, file, finished: false })
    }

    /// Brings everything that was written to the disk.
    ///
    /// # Errors
    ///
    /// When the system says that it cannot.
    pub fn sync(&self) -> Result<(), TreeError> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        rustix::fs::syncfs(&self.root).map_err(|error| TreeError::Sync(error.into()))?;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        rustix::fs::sync();
        Ok(())
    }
}

impl Folder {
    fn within(&self, name: &str) -> Result<Self, TreeError> {
        let path = self.path_of(name);
        match rustix::fs::mkdirat(&self.file, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(fault(path, OutputError::Create(error.into()))),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.file, name, flags, Mode::empty());
        match file {
            Ok(file) => Ok(Self { file: File::from(file), path }),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(fault(path, OutputError::NotReplaceable("no folder"))),
            Err(error) => Err(fault(path, OutputError::Folder(error.into()))),
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }
}

/// A file that has its name only when it is finished; dropped before that, it is removed.
#[derive(Debug)]
pub struct Growing<'f> {
    tree: &'f Tree,
    folder: &'f Folder,
    name: String,
    part: OsString,
    file: BufWriter<File>,
    finished: bool,
}

impl Growing<'_> {
    /// Gives it its name. Says whether it took the place of another file.
    ///
    /// # Errors
    ///
    /// When it cannot be written to the end, or the name is taken by what may not be replaced.
    pub fn finish(mut self) -> Result<bool, TreeError> {
        let place = || self.folder.path_of(&self.name);
        if let Err(error) = self.file.flush() {
            return Err(fault(place(), OutputError::Write(error)));
        }
        let folder = &self.folder.file;
        let name = OsStr::new(&self.name);
        let replaced = if self.tree.force {
            let replaced = self.tree.may_replace(folder, name).map_err(|error| fault(place(), error))?;
            let renamed = rustix::fs::renameat(folder, &self.part, folder, name);
            renamed.map_err(|error| fault(place(), OutputError::Rename(error.into())))?;
            replaced
        } else {
            rename_to_new(folder, &self.part, name).map_err(|error| fault(place(), error))?;
            false
        };
        self.finished = true;
        Ok(replaced)
    }
}

impl Write for Growing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // It holds no more than a leftover would, which the next run replaces.
            let _ = rustix::fs::unlinkat(&self.folder.file, &self.part, AtFlags::empty());
        }
    }
}

fn fault(path: String, error: OutputError) -> TreeError {
    TreeError::File { path, error }
}

#[derive(Default)]
struct Before {
    files: u64,
    any: bool,
}

/// What a folder holds. Links are not followed.
fn count(folder: &File, depth: usize) -> Result<Before, Errno> {
    let mut before = Before::default();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        before.any = true;
        let is_folder = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        if !is_folder {
            before.files += 1;
        } else if depth > 0 {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(folder, OsStr::from_bytes(name), flags, Mode::empty());
            // What cannot be looked into is counted as nothing: it is not replaced, either.
            if let Ok(inner) = inner {
                before.files += count(&File::from(inner), depth - 1)?.files;
            }
        }
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_and_folders_are_their_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("new");
        let tree = Tree::create(&path, false, &[]).unwrap();
        let folder = tree.folder(&["a", "b"]).unwrap();
        assert!(!tree.write(&folder, "c.yaml", b"x").unwrap());
        assert_eq!(fs::read(path.join("a/b/c.yaml")).unwrap(), b"x");
        assert_eq!(mode(&path.join("a/b/c.yaml")), 0o600);
        for folder in ["", "a", "a/b"] {
            assert_eq!(mode(&path.join(folder)), 0o700, "{folder}");
        }
        tree.sync().unwrap();
        let twice = tree.write(&folder, "c.yaml", b"y").unwrap_err();
        assert!(matches!(twice, TreeError::File { error: OutputError::Exists, .. }), "{twice}");
        assert_eq!(fs::read(path.join("a/b/c.yaml")).unwrap(), b"x");
    }

    #[test]
    fn a_folder_with_something_in_it_is_taken_only_by_force() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("a")).unwrap();
        assert!(matches!(Tree::create(home.path(), false, &[]), Err(TreeError::NotEmpty)));
        fs::write(home.path().join("a/old"), b"old").unwrap();
        fs::write(home.path().join("a/.old.atrest-part"), b"leftover").unwrap();
        let tree = Tree::create(home.path(), true, &[]).unwrap();
        assert_eq!(tree.files_before(), 2);
        assert!(matches!(Tree::create(home.path(), true, &[]), Err(TreeError::Busy)));
        let folder = tree.folder(&["a"]).unwrap();
        assert!(tree.write(&folder, "old", b"new").unwrap());
        assert_eq!(fs::read(home.path().join("a/old")).unwrap(), b"new");
        assert_eq!(fs::read_dir(home.path().join("a")).unwrap().count(), 1);
        fs::write(home.path().join("file"), b"").unwrap();
        assert!(matches!(Tree::create(&home.path().join("file"), true, &[]), Err(TreeError::NoFolder)));
    }

    #[test]
    fn links_lead_nowhere() {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), home.path().join("a")).unwrap();
        symlink(outside.path().join("target"), home.path().join("file")).unwrap();
        let tree = Tree::create(home.path(), true, &[]).unwrap();
        assert!(tree.folder(&["a"]).is_err());
        let root = tree.folder(&[]).unwrap();
        assert!(tree.write(&root, "file", b"x").is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "nothing half written stays");
    }

    #[test]
    fn what_is_read_is_never_replaced() {
        let home = tempfile::tempdir().unwrap();
        let input = home.path().join("SHA256SUMS");
        fs::write(&input, b"input").unwrap();
        let mut tree = Tree::create(home.path(), true, &[&input]).unwrap();
        let root = tree.folder(&[]).unwrap();
        for error in [tree.remove("SHA256SUMS").unwrap_err(), tree.write(&root, "SHA256SUMS", b"x").unwrap_err()] {
            assert!(matches!(error, TreeError::File { error: OutputError::IsInput(_), .. }), "{error}");
        }
        assert_eq!(fs::read(&input).unwrap(), b"input");
    }

    #[test]
    fn a_file_that_is_not_finished_never_had_its_name() {
        let home = tempfile::tempdir().unwrap();
        let tree = Tree::create(home.path(), false, &[]).unwrap();
        let root = tree.folder(&[]).unwrap();
        let mut growing = tree.begin(&root, "list").unwrap();
        growing.write_all(&[0; 100_000]).unwrap();
        assert!(!home.path().join("list").exists());
        drop(growing);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
