//! What `snapshot save` wrote: JSON (schema `atrest.snapshot/1`) and text.

use std::io::{self, Write};

use serde::Serialize;

use crate::source::save::Saved;

use super::json::{TOOL, Tool, pretty};
use super::paint::Paint;
use super::text::{grouped, harmless, hex};

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    tool: Tool,
    endpoint: &'d str,
    etcd_version: Option<&'d str>,
    revision: i64,
    entries: u64,
    proved: bool,
    output: File,
}

#[derive(Serialize)]
struct File {
    path: String,
    bytes: u64,
    sha256: Option<String>,
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, saved: &Saved, path: &str) -> io::Result<()> {
    let version = [Some(saved.version.as_str()), saved.report.written_by.as_deref()];
    let document = Document {
        schema: "atrest.snapshot/1",
        tool: TOOL,
        endpoint: &saved.endpoint,
        etcd_version: version.into_iter().flatten().find(|version| !version.is_empty()),
        revision: saved.report.revision,
        entries: saved.report.total_key,
        // Only what holds is told of.
        proved: true,
        output: File {
            path: harmless(path).into_owned(),
            bytes: saved.bytes,
            sha256: saved.report.digests.map(|digests| hex(&digests.file)),
        },
    };
    pretty(out, &document)
}

/// Writes the text.
pub fn text(out: &mut dyn Write, saved: &Saved, path: &str, paint: Paint) -> io::Result<()> {
    let path = harmless(path);
    writeln!(out, "{}", paint.good(&format!("[PASS] {path}: saved, its digest fits, and every page holds")))?;
    let (keys, bytes) = (grouped(saved.report.total_key), grouped(saved.bytes));
    writeln!(
        out,
        "from {}, revision {}, {keys} keys, {bytes} bytes",
        harmless(&saved.endpoint),
        saved.report.revision
    )?;
    match saved.report.digests {
        Some(digests) => writeln!(out, "sha256 {}", hex(&digests.file)),
        None => Ok(()),
    }
}
