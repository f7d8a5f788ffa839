//! Rows as CSV: RFC 4180, a header always, line feeds, nothing altered for spreadsheets.

use std::io::{self, Write};

use csv::{Terminator, Writer, WriterBuilder};

use crate::audit::row::RowStream;
use crate::audit::run::Context;

use super::row::{COLUMNS, Cell, cells};
use super::{RowFilter, render_rows};

/// Writes the header and all rows that pass the filter.
pub fn write(out: &mut dyn Write, rows: RowStream, context: &Context, filter: &RowFilter<'_>) -> io::Result<()> {
    let mut header = Vec::new();
    writer(&mut header).write_record(COLUMNS)?;
    out.write_all(&header)?;
    render_rows(out, rows, context, filter, &|rows, text| {
        let mut writer = writer(text);
        for row in rows {
            for cell in cells(&row) {
                match cell {
                    Cell::Text(text) => writer.write_field(text.as_bytes())?,
                    Cell::Number(number) => writer.write_field(number.to_string())?,
                }
            }
            writer.write_record(None::<&[u8]>)?;
        }
        writer.flush()
    })
}

/// Bytes that the writer keeps before it appends them.
const BUFFER_BYTES: usize = 8 << 10;

fn writer(text: &mut Vec<u8>) -> Writer<&mut Vec<u8>> {
    WriterBuilder::new().terminator(Terminator::Any(b'\n')).buffer_capacity(BUFFER_BYTES).from_writer(text)
}
