//! The evidence: a line of JSON for each change. It holds keys, revisions and digests of what was stored, nothing that was
//! encrypted.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;

use crate::lock::lock;

/// A journal that is written to.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<BufWriter<File>>,
}

/// What was changed.
#[derive(Clone, Copy, Debug)]
pub struct Line<'l> {
    /// The key.
    pub key: &'l [u8],
    /// The revision of the value whose place was taken.
    pub old_mod_revision: i64,
    /// The revision of the new one.
    pub new_mod_revision: i64,
    /// SHA-256 of what was stored.
    pub old_sha256: [u8; 32],
    /// SHA-256 of what is stored.
    pub new_sha256: [u8; 32],
}

#[derive(Serialize)]
struct Written<'w> {
    key: &'w str,
    old_mod_revision: i64,
    new_mod_revision: i64,
    old_sha256: String,
    new_sha256: String,
}

impl Journal {
    /// Opens a journal; a rerun goes on with the one that is there. Only its owner may read it.
    ///
    /// # Errors
    ///
    /// Those of opening; also for what is no plain file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no plain file"));
        }
        Ok(Self { file: Mutex::new(BufWriter::new(file)) })
    }

    /// Writes the lines of one transaction.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn write<'l>(&self, lines: impl Iterator<Item = Line<'l>>, name: impl Fn(&[u8]) -> String) -> io::Result<()> {
        let mut file = lock(&self.file);
        for line in lines {
            let written = Written {
                key: &name(line.key),
                old_mod_revision: line.old_mod_revision,
                new_mod_revision: line.new_mod_revision,
                old_sha256: hex(&line.old_sha256),
                new_sha256: hex(&line.new_sha256),
            };
            serde_json::to_writer(&mut *file, &written)?;
            file.write_all(b"\n")?;
        }
        // Whoever is killed leaves whole lines of what was done.
        file.flush()
    }

    /// Brings everything to the disk.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn sync(&self) -> io::Result<()> {
        let mut file = lock(&self.file);
        file.flush()?;
        file.get_ref().sync_all()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_journal_is_private_and_a_rerun_goes_on_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        for revision in [5, 6] {
            let journal = Journal::open(&path).unwrap();
            let line = Line {
                key: b"/registry/secrets/a/b",
                old_mod_revision: 2,
                new_mod_revision: revision,
                old_sha256: [1; 32],
                new_sha256: [2; 32],
            };
            journal.write([line].into_iter(), |key| String::from_utf8_lossy(key).into_owned()).unwrap();
            journal.sync().unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| line["new_mod_revision"].as_i64().unwrap()).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(lines[0]["key"], "/registry/secrets/a/b");
        assert_eq!(lines[0]["old_sha256"], "01".repeat(32));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Journal::open(Path::new("/dev/null")).is_err());
    }
}
