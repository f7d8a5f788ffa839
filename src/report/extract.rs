//! What `extract` writes: manifests, the lists beside them, and what came of it (schema `atrest.extract/1`).
//!
//! `manifest.jsonl` has a row for each file in the order in which they are applied, `left-out.jsonl` one for each object that is none, and
//! `SHA256SUMS` is as `sha256sum --check` takes it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::recover::Document;
use crate::recover::extract::{Extracted, Piece, Why};

use super::json::{TOOL, Tool, pretty};
use super::text::{grouped, harmless, hex, key};
use super::yaml;

/// The list of files.
pub const MANIFEST: &str = "manifest.jsonl";
/// The list of what is left out.
pub const LEFT_OUT: &str = "left-out.jsonl";
/// The digests.
pub const SUMS: &str = "SHA256SUMS";

/// A manifest, ready to be written.
pub struct Rendered {
    /// The folders, from the outermost.
    pub folders: [String; 3],
    /// The file's name.
    pub name: String,
    /// The object as YAML.
    pub text: Zeroizing<String>,
    sha256: [u8; 32],
}

impl Rendered {
    /// Makes YAML of an object.
    pub fn of(piece: &Piece) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(piece.json.len() + piece.json.len() / 4));
        // What is extracted was read as JSON before.
        if let Ok(document) = Document::parse(&piece.json) {
            yaml::write(document.root(), &mut text);
        }
        let sha256 = Sha256::digest(text.as_bytes()).into();
        Self { folders: piece.folders.clone(), name: format!("{}.yaml", piece.name), text, sha256 }
    }

    /// Its path within what is written.
    pub fn path(&self) -> String {
        let [phase, namespace, kind] = &self.folders;
        format!("{phase}/{namespace}/{kind}/{}", self.name)
    }
}

#[derive(Serialize)]
struct FileRow<'r> {
    order: u64,
    file: String,
    sha256: String,
    bytes: usize,
    key: &'r str,
    group: &'r str,
    resource: &'r str,
    namespace: &'r str,
    name: &'r str,
    mod_revision: i64,
    removed: Vec<String>,
}

#[derive(Serialize)]
struct LeftOutRow<'r> {
    key: &'r str,
    group: &'r str,
    resource: &'r str,
    namespace: &'r str,
    name: &'r str,
    mod_revision: i64,
    why: &'static str,
    reason: &'r str,
}

/// Writes the row and the digest of the `order`-th file.
///
/// # Errors
///
/// When they cannot be written.
pub fn file_row(
    (manifest, sums): (&mut dyn Write, &mut dyn Write),
    order: u64,
    (object, piece): (&Extracted, &Piece),
    rendered: &Rendered,
) -> io::Result<()> {
    let (file, sha256) = (rendered.path(), hex(&rendered.sha256));
    writeln!(sums, "{sha256}  {file}")?;
    let row = FileRow {
        order,
        file,
        sha256,
        bytes: rendered.text.len(),
        key: &key(&object.key),
        group: &object.resource.group,
        resource: &object.resource.resource,
        namespace: &harmless(&object.namespace),
        name: &harmless(&object.name),
        mod_revision: object.mod_revision,
        removed: piece.removed.iter().map(|removed| harmless(removed).into_owned()).collect(),
    };
    serde_json::to_writer(&mut *manifest, &row)?;
    manifest.write_all(b"\n")
}

/// Writes the row of an object that is left out.
///
/// # Errors
///
/// When it cannot be written.
pub fn left_out_row(out: &mut dyn Write, object: &Extracted, why: Why, reason: &str) -> io::Result<()> {
    let row = LeftOutRow {
        key: &key(&object.key),
        group: &object.resource.group,
        resource: &object.resource.resource,
        namespace: &harmless(&object.namespace),
        name: &harmless(&object.name),
        mod_revision: object.mod_revision,
        why: why.word(),
        reason: &harmless(reason),
    };
    serde_json::to_writer(&mut *out, &row)?;
    out.write_all(b"\n")
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that took the place of others.
    pub replaced: u64,
    /// Files in the folder that this run did not write.
    pub strangers: u64,
    /// What was left out, by why.
    pub left_out: BTreeMap<Why, u64>,
}

impl Counts {
    /// Whether something is missing that somebody may want.
    pub fn lost(&self) -> u64 {
        self.left_out.iter().filter(|(why, _)| why.is_loss()).map(|(_, count)| count).sum()
    }
}

#[derive(Serialize)]
struct Summary {
    schema: &'static str,
    tool: Tool,
    path: String,
    output: String,
    files: u64,
    bytes: u64,
    replaced: u64,
    strangers: u64,
    left_out: BTreeMap<&'static str, u64>,
}

/// Writes the JSON document.
///
/// # Errors
///
/// When it cannot be written.
pub fn json(out: &mut dyn Write, source: &str, output: &str, counts: &Counts) -> io::Result<()> {
    let summary = Summary {
        schema: "atrest.extract/1",
        tool: TOOL,
        path: harmless(source).into_owned(),
        output: harmless(output).into_owned(),
        files: counts.files,
        bytes: counts.bytes,
        replaced: counts.replaced,
        strangers: counts.strangers,
        left_out: counts.left_out.iter().map(|(why, count)| (why.word(), *count)).collect(),
    };
    pretty(out, &summary)
}

/// Writes the same for a person.
///
/// # Errors
///
/// When it cannot be written.
pub fn text(out: &mut dyn Write, output: &str, counts: &Counts) -> io::Result<()> {
    writeln!(out, "{}: {} objects, {} bytes", harmless(output), grouped(counts.files), grouped(counts.bytes))?;
    for (why, count) in &counts.left_out {
        let words = match why {
            Why::Closed => "do not open",
            Why::Undecodable => "open, and are no objects",
            Why::Misplaced => "are not the objects that their keys name",
            Why::NotApplicable => "are none that another cluster should be given",
            Why::Generated => "are made by themselves",
        };
        writeln!(out, "left out: {} {words}", grouped(*count))?;
    }
    if !counts.left_out.is_empty() {
        writeln!(out, "{LEFT_OUT} lists them with why")?;
    }
    if counts.strangers > 0 {
        let strangers = grouped(counts.strangers);
        writeln!(out, "{strangers} files in the folder are none of this run; {MANIFEST} lists those that are")?;
    }
    Ok(())
}
