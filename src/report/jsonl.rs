//! Rows as JSON Lines: one object for each row, under the names of the CSV's columns.

use std::io::{self, Write};

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::audit::merge::Merge;
use crate::audit::row::Row;
use crate::audit::run::Context;

use super::row::{COLUMNS, Cell, cells};
use super::{Render, RowFilter, render_rows};

/// Writes all rows that pass the filter.
pub fn write(out: &mut dyn Write, rows: Merge, context: &Context, filter: &RowFilter<'_>) -> io::Result<()> {
    render_rows(out, rows, context, filter, || Lines)
}

struct Lines;

impl Render for Lines {
    fn rows(&mut self, rows: &mut dyn Iterator<Item = Row<'_>>, text: &mut Vec<u8>) -> io::Result<()> {
        for row in rows {
            serde_json::to_writer(&mut *text, &Line(&row))?;
            text.push(b'\n');
        }
        Ok(())
    }
}

struct Line<'l>(&'l Row<'l>);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, cell) in COLUMNS.into_iter().zip(cells(self.0)) {
            match cell {
                Cell::Text(text) => map.serialize_entry(name, &text)?,
                Cell::Number(number) => map.serialize_entry(name, &number)?,
            }
        }
        map.end()
    }
}
