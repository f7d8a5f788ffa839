//! Rows as CSV: RFC 4180, a header always, line feeds, nothing altered for spreadsheets.
//!
//! What rows of one class have in common is put into CSV once, and what consists of plain characters goes into the text as
//! it is; everything else goes through the `csv` crate, which knows what to quote.

use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::Range;

use csv::{Terminator, Writer, WriterBuilder};

use crate::audit::finding::FindingSet;
use crate::audit::merge::Merge;
use crate::audit::row::{RecordKind, Row};
use crate::audit::run::Context;

use super::row::{COLUMNS, Cell, cells, lease};
use super::text;
use super::{Render, RowFilter, render_rows};

/// Writes the header and all rows that pass the filter.
pub fn write(out: &mut dyn Write, rows: Merge, context: &Context, filter: &RowFilter<'_>) -> io::Result<()> {
    let mut header = Vec::new();
    writer(&mut header).write_record(COLUMNS)?;
    out.write_all(&header)?;
    render_rows(out, rows, context, filter, Lines::default)
}

/// The columns from `state` to `kms_key_id_hash`: what a value says it is.
const CLAIM: Range<usize> = 11..17;

/// The columns from `readable` to `findings`: what is said of it.
const JUDGEMENT: Range<usize> = 18..23;

/// So many classes are remembered at once; only stores that were made to have them have more.
const REMEMBERED_CLASSES: usize = 4096;

/// Renders rows, and remembers what those of one class and kind have in common.
#[derive(Default)]
struct Lines {
    shared: Vec<Shared>,
    numbers: HashMap<(u32, RecordKind, FindingSet), usize>,
    /// The class and kind of the last row, and their number: most rows are like the one before.
    last: Option<((u32, RecordKind, FindingSet), usize)>,
}

/// Columns as they stand in the text.
#[derive(Default)]
struct Shared {
    claim: Vec<u8>,
    judgement: Vec<u8>,
}

impl Render for Lines {
    fn rows(&mut self, rows: &mut dyn Iterator<Item = Row<'_>>, text: &mut Vec<u8>) -> io::Result<()> {
        for row in rows {
            self.row(&row, text)?;
        }
        Ok(())
    }
}

impl Lines {
    fn row(&mut self, row: &Row<'_>, text: &mut Vec<u8>) -> io::Result<()> {
        let number = self.number(row)?;
        let none = Shared::default();
        let Shared { claim, judgement } = self.shared.get(number).unwrap_or(&none);
        let verdict = row.verdict.as_ref();
        if is_plain(row.key) {
            text.extend_from_slice(row.key)
        } else {
            field(&text::key(row.key), text)?
        }
        for name in [row.group, row.resource, row.namespace, row.name] {
            text.push(b',');
            harmless(name, text)?;
        }
        text.push(b',');
        text.extend_from_slice(row.record.word().as_bytes());
        for number in [row.create_revision, row.mod_revision, row.version] {
            text.push(b',');
            text::push_number(text, number);
        }
        text.push(b',');
        text.extend_from_slice(lease(row.lease).as_bytes());
        text.push(b',');
        text::push_number(text, i64::try_from(row.value_bytes).unwrap_or(i64::MAX));
        text.push(b',');
        text.extend_from_slice(claim);
        text.push(b',');
        let encoding = verdict.and_then(|verdict| verdict.encoding);
        text.extend_from_slice(encoding.map_or("", |encoding| encoding.as_str()).as_bytes());
        text.push(b',');
        text.extend_from_slice(judgement);
        text.push(b',');
        harmless(verdict.map_or("", |verdict| verdict.detail), text)?;
        text.push(b',');
        verdict.into_iter().for_each(|verdict| text::push_sha256(text, &verdict.value_sha256));
        text.push(b'\n');
        Ok(())
    }

    /// The number of what the row shares with others.
    fn number(&mut self, row: &Row<'_>) -> io::Result<usize> {
        // Some findings are of single records and not of their class.
        let findings = row.verdict.as_ref().map(|verdict| verdict.findings).unwrap_or_default();
        let class = (row.class, row.record, findings);
        if let Some((_, number)) = self.last.filter(|(last, _)| *last == class) {
            return Ok(number);
        }
        let number = match self.numbers.get(&class) {
            Some(number) => *number,
            None => {
                if self.shared.len() >= REMEMBERED_CLASSES {
                    *self = Self::default();
                }
                let cells = cells(row);
                let text = |columns: Range<usize>| fields(cells.get(columns).unwrap_or_default());
                self.shared.push(Shared { claim: text(CLAIM)?, judgement: text(JUDGEMENT)? });
                self.numbers.insert(class, self.shared.len() - 1);
                self.shared.len() - 1
            }
        };
        self.last = Some((class, number));
        Ok(number)
    }
}

/// Whether these bytes are the same in a report as in the store, and in CSV as out of it.
fn is_plain(bytes: &[u8]) -> bool {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b',') & (byte != b'\\');
    bytes.iter().fold(true, |all, byte| all & plain(*byte))
}

fn harmless(name: &str, text: &mut Vec<u8>) -> io::Result<()> {
    if is_plain(name.as_bytes()) {
        text.extend_from_slice(name.as_bytes());
        return Ok(());
    }
    field(&text::harmless(name), text)
}

/// Appends a field that may have to be quoted.
fn field(field: &str, text: &mut Vec<u8>) -> io::Result<()> {
    text.extend(fields(&[Cell::Text(field.into())])?);
    Ok(())
}

/// Fields with commas between.
fn fields(cells: &[Cell<'_>]) -> io::Result<Vec<u8>> {
    // A field in front keeps the crate from quoting what it takes for an empty record.
    const FRONT: &[u8] = b"-";
    let mut text = Vec::new();
    let mut writer = writer(&mut text);
    writer.write_field(FRONT)?;
    for cell in cells {
        match cell {
            Cell::Text(text) => writer.write_field(text.as_bytes())?,
            Cell::Number(number) => writer.write_field(number.to_string())?,
        }
    }
    writer.write_record(None::<&[u8]>)?;
    writer.flush()?;
    drop(writer);
    let end = text.len().saturating_sub(1);
    Ok(text.get(FRONT.len() + 1..end).unwrap_or_default().to_vec())
}

/// Bytes that the writer keeps before it appends them.
const BUFFER_BYTES: usize = 8 << 10;

fn writer(text: &mut Vec<u8>) -> Writer<&mut Vec<u8>> {
    WriterBuilder::new().terminator(Terminator::Any(b'\n')).buffer_capacity(BUFFER_BYTES).from_writer(text)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use crate::audit::classify::{State, Told};
    use crate::audit::finding::{FindingSet, ValueFinding};
    use crate::audit::row::RowVerdict;

    use super::*;

    fn row<'r>(class: u32, key: &'r [u8], name: &'r str, detail: &'r str) -> Row<'r> {
        let verdict = RowVerdict {
            provider: ("aescbc", "v1"),
            key_name: Cow::Borrowed(name),
            kms_key_id: Cow::Borrowed(if class.is_multiple_of(2) { "" } else { "arn,1" }),
            encoding: None,
            readable: Told::Yes,
            opened_by: None,
            opener: None,
            expected: None,
            stale: Told::No,
            findings: FindingSet::default().with(ValueFinding::Stale).with(ValueFinding::Plaintext),
            detail,
            value_sha256: [0x5a; 32],
        };
        Row {
            key,
            class,
            group: "",
            resource: "secrets",
            namespace: "default",
            name,
            record: if class == 0 { RecordKind::Deleted } else { RecordKind::Entry },
            create_revision: i64::from(class) - 3,
            mod_revision: i64::MIN,
            version: i64::MAX,
            lease: i64::from(class % 2),
            value_bytes: u64::MAX,
            state: State::Encrypted,
            verdict: (class != 0).then_some(verdict),
        }
    }

    /// Every column through the crate.
    fn plainly(rows: &[Row<'_>]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut writer = writer(&mut text);
        for row in rows {
            for cell in cells(row) {
                match cell {
                    Cell::Text(text) => writer.write_field(text.as_bytes()).unwrap(),
                    Cell::Number(number) => writer.write_field(number.to_string()).unwrap(),
                }
            }
            writer.write_record(None::<&[u8]>).unwrap();
        }
        writer.flush().unwrap();
        drop(writer);
        text
    }

    #[test]
    fn short_cuts_write_what_the_crate_writes() {
        let texts = [
            "",
            "plain-1:a",
            "a b",
            "a,b",
            "a\"b",
            "a\\b",
            "line\nfeed",
            "\r",
            "clé",
            "\u{202e}",
            "-",
            "#",
            "\u{1b}[31m",
        ];
        // The class stands for the key's name, so each name is of a class of its own; all come twice.
        let mut rows = vec![row(0, b"", "", ""), row(0, b"/registry/secrets/a/b", "b", "")];
        for (class, name) in (1..).zip(texts.into_iter().cycle()).take(2 * texts.len()) {
            let class = (class - 1) % texts.len() as u32 + 1;
            rows.push(row(class, name.as_bytes(), name, texts[(class as usize + 5) % texts.len()]));
        }
        rows.push(row(99, b"/bytes/\xff,", "x", ""));
        let (mut lines, mut text) = (Lines::default(), Vec::new());
        rows.iter().for_each(|row| lines.row(row, &mut text).unwrap());
        assert_eq!(String::from_utf8(text), String::from_utf8(plainly(&rows)));
    }

    #[test]
    fn columns_that_a_class_shares_are_those_named() {
        assert_eq!((COLUMNS[CLAIM.start], COLUMNS[CLAIM.end - 1]), ("state", "kms_key_id_hash"));
        assert_eq!((COLUMNS[JUDGEMENT.start], COLUMNS[JUDGEMENT.end - 1]), ("readable", "findings"));
    }
}
