//! Renders results; decides nothing.
//!
//! One result has many forms, and each form is a file: [`csv`] and [`jsonl`] give rows, [`json`] the summary,
//! [`table`] the same for a person. [`check`] and [`config`] are the forms of those commands.

pub mod check;
pub mod config;
pub mod csv;
pub mod fit;
pub mod json;
pub mod jsonl;
pub mod keys;
pub mod paint;
pub mod row;
pub mod table;
pub mod text;

use std::io::{self, Write};

use rayon::prelude::*;

use crate::audit::row::{Batch, Row, RowStream};
use crate::audit::run::Context;

/// Which rows of a stream are wanted.
pub type RowFilter<'f> = dyn Fn(&Row<'_>) -> bool + Sync + 'f;

/// Rows that are rendered by one thread at a time.
const BATCH_ROWS: usize = 4096;

/// Renders all rows in order: batches in parallel, `render` appending a row's text, while the next ones are read.
fn render_rows(
    out: &mut dyn Write,
    mut rows: RowStream,
    context: &Context,
    filter: &RowFilter<'_>,
    render: &(dyn Fn(&Row<'_>, &mut Vec<u8>) -> io::Result<()> + Sync),
) -> io::Result<()> {
    let threads = rayon::current_num_threads().max(1);
    let mut batches = read_batches(&mut rows, threads)?;
    while !batches.is_empty() {
        let (rendered, next) = rayon::join(
            || batches.par_iter().map(|batch| render_batch(batch, context, filter, render)).collect::<Vec<_>>(),
            || read_batches(&mut rows, threads),
        );
        for text in rendered {
            out.write_all(&text?)?;
        }
        batches = next?;
    }
    Ok(())
}

fn read_batches(rows: &mut RowStream, count: usize) -> io::Result<Vec<Batch>> {
    let mut batches = Vec::with_capacity(count);
    while batches.len() < count {
        match rows.next_batch(BATCH_ROWS)? {
            Some(batch) => batches.push(batch),
            None => break,
        }
    }
    Ok(batches)
}

fn render_batch(
    batch: &Batch,
    context: &Context,
    filter: &RowFilter<'_>,
    render: &(dyn Fn(&Row<'_>, &mut Vec<u8>) -> io::Result<()> + Sync),
) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    batch.iter(context).filter(|row| filter(row)).try_for_each(|row| render(&row, &mut text))?;
    Ok(text)
}
