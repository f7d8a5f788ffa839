//! A tape archive in zstd, in the order in which it is filled: what it holds is the same for the same content.
//!
//! Files are 0600, folders 0700, of nobody and of no time.

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};
use zstd::stream::write::Encoder;

/// The level that zstd itself takes by default.
const LEVEL: i32 = 3;

/// An archive that is being filled.
pub struct Bundle<W: Write> {
    tar: Builder<Encoder<'static, W>>,
    /// The folders of the entry before.
    folders: Vec<String>,
}

impl<W: Write> Bundle<W> {
    /// Begins an archive.
    ///
    /// # Errors
    ///
    /// When nothing can be written.
    pub fn begin(out: W) -> io::Result<Self> {
        let mut encoder = Encoder::new(out, LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self { tar: Builder::new(encoder), folders: Vec::new() })
    }

    /// Adds a file, and before it the folders that the entry before did not lie in.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn file(&mut self, folders: &[&str], name: &str, bytes: u64, content: impl Read) -> io::Result<()> {
        let shared = self.folders.iter().zip(folders).take_while(|(known, folder)| known == *folder).count();
        for depth in shared..folders.len() {
            let path = folders.iter().take(depth + 1).fold(String::new(), |path, folder| path + folder + "/");
            self.append(EntryType::Directory, &path, 0, io::empty())?;
        }
        self.folders = folders.iter().map(|folder| (*folder).to_owned()).collect();
        let path = folders.iter().fold(String::new(), |path, folder| path + folder + "/") + name;
        self.append(EntryType::Regular, &path, bytes, content)
    }

    fn append(&mut self, kind: EntryType, path: &str, bytes: u64, content: impl Read) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o700 } else { 0o600 });
        header.set_size(bytes);
        self.tar.append_data(&mut header, path, content)
    }

    /// Ends the archive.
    ///
    /// # Errors
    ///
    /// When it cannot be written to the end.
    pub fn finish(self) -> io::Result<W> {
        self.tar.into_inner()?.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_what_was_put_in_and_is_the_same_each_time() {
        let long = "n".repeat(200);
        let made = || {
            let mut bundle = Bundle::begin(Vec::new()).unwrap();
            for (folders, name) in [(&["a", "b"][..], "c"), (&["a", "b"], &long), (&["a", "d"], "e"), (&[], "f")] {
                bundle.file(folders, name, 2, &b"xy"[..]).unwrap();
            }
            bundle.finish().unwrap()
        };
        let bytes = made();
        assert_eq!(bytes, made());
        let mut archive = tar::Archive::new(zstd::stream::read::Decoder::new(&bytes[..]).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), entry.header().mode().unwrap())
        });
        let expected = [
            ("a/".to_owned(), 0o700),
            ("a/b/".to_owned(), 0o700),
            ("a/b/c".to_owned(), 0o600),
            (format!("a/b/{long}"), 0o600),
            ("a/d/".to_owned(), 0o700),
            ("a/d/e".to_owned(), 0o600),
            ("f".to_owned(), 0o600),
        ];
        assert_eq!(entries.collect::<Vec<_>>(), expected);
    }
}
