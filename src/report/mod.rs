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
pub mod rewrite;
pub mod row;
pub mod table;
pub mod text;

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;

use rayon::prelude::*;

use crate::audit::row::{Batch, Row, RowStream};
use crate::audit::run::Context;

/// Which rows of a stream are wanted.
pub type RowFilter<'f> = dyn Fn(&Row<'_>) -> bool + Sync + 'f;

/// Appends the text of some rows.
type Render<'r> = dyn Fn(&mut dyn Iterator<Item = Row<'_>>, &mut Vec<u8>) -> io::Result<()> + Sync + 'r;

/// Rows that are rendered by one thread at a time.
const BATCH_ROWS: usize = 4096;

/// Rendered rounds that wait to be written.
const WAITING_ROUNDS: usize = 2;

/// Renders all rows in order, batches in parallel while the next ones are read, and the
/// last ones written.
fn render_rows(
    out: &mut dyn Write,
    rows: RowStream,
    context: &Context,
    filter: &RowFilter<'_>,
    render: &Render<'_>,
) -> io::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(WAITING_ROUNDS);
    thread::scope(|scope| {
        let producer = scope.spawn(move || produce(rows, context, filter, render, &sender));
        // When writing fails, dropping the receiver ends the producer with its next round.
        let written = receiver.into_iter().flatten().try_for_each(|text: Vec<u8>| out.write_all(&text));
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(produced)
    })
}

/// Reads and renders until there are no more rows, or nobody wants them.
fn produce(
    mut rows: RowStream,
    context: &Context,
    filter: &RowFilter<'_>,
    render: &Render<'_>,
    rounds: &mpsc::SyncSender<Vec<Vec<u8>>>,
) -> io::Result<()> {
    let threads = rayon::current_num_threads().max(1);
    let mut batches = read_batches(&mut rows, threads)?;
    while !batches.is_empty() {
        let (rendered, next) = rayon::join(
            || batches.par_iter().map(|batch| render_batch(batch, context, filter, render)).collect::<Result<_, _>>(),
            || read_batches(&mut rows, threads),
        );
        if rounds.send(rendered?).is_err() {
            return Ok(());
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

fn render_batch(batch: &Batch, context: &Context, filter: &RowFilter<'_>, render: &Render<'_>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    render(&mut batch.iter(context).filter(|row| filter(row)), &mut text)?;
    Ok(text)
}
