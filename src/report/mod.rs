//! Renders results; decides nothing.
//!
//! One result has many forms, and each form is a file: [`csv`] and [`jsonl`] give rows, [`json`] the summary,
//! [`table`] the same for a person. [`check`] and [`config`] are the forms of those commands.

pub mod check;
#[cfg(feature = "kine")]
pub mod check_kine;
pub mod columns;
pub mod config;
pub mod csv;
pub mod diff;
pub mod extract;
pub mod fit;
pub mod json;
pub mod jsonl;
pub mod keys;
pub mod live_rewrite;
pub mod log;
#[cfg(feature = "live")]
pub mod members;
pub mod object;
pub mod objects;
pub mod objects_table;
pub mod paint;
pub mod recovery;
pub mod remedy;
pub mod rewrite;
pub mod row;
pub mod salvage;
#[cfg(feature = "live")]
pub mod saved;
pub mod shell;
pub mod status;
pub mod table;
pub mod text;
pub mod yaml;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, mpsc};
use std::thread;

use crate::audit::merge::{Merge, Part};
use crate::audit::row::{Batch, Row};
use crate::audit::run::Context;
use crate::lock::lock;

/// Which rows of a stream are wanted.
pub type RowFilter<'f> = dyn Fn(&Row<'_>) -> bool + Sync + 'f;

/// Appends the text of some rows.
trait Render: Send {
    fn rows(&mut self, rows: &mut dyn Iterator<Item = Row<'_>>, text: &mut Vec<u8>) -> io::Result<()>;
}

/// Texts of each thread that wait to be written.
const WAITING_TEXTS: usize = 1;

/// So many times the length of the rows is set aside for their text.
const TEXT_OF_ROWS: usize = 4;

/// Renders all rows in order. Every thread reads and renders each so many-th part, and has a renderer of its own; the
/// caller's thread writes what they give, in turn.
fn render_rows<R: Render>(
    out: &mut dyn Write,
    rows: Merge,
    context: &Context,
    filter: &RowFilter<'_>,
    renderer: impl Fn() -> R,
) -> io::Result<()> {
    let threads = rayon::current_num_threads().max(1);
    let turns = Turns { merge: rows, waiting: (0..threads).map(|_| VecDeque::new()).collect(), next: 0 };
    let turns = &Mutex::new(turns);
    thread::scope(|scope| {
        let texts: Vec<_> = (0..threads)
            .map(|thread| {
                let (sender, receiver) = mpsc::sync_channel(WAITING_TEXTS);
                let mut renderer = renderer();
                scope.spawn(move || produce(turns, thread, context, filter, &mut renderer, &sender));
                receiver
            })
            .collect();
        // Whoever has no further part closes the channel, and nobody behind has one either. When writing fails, dropping
        // the receivers ends the threads with their next part.
        let mut in_turn = texts.iter().cycle().map_while(|texts| texts.recv().ok());
        in_turn.try_for_each(|text| out.write_all(&text?))
    })
}

/// The parts, dealt out in turn.
struct Turns {
    merge: Merge,
    /// For each thread the parts that are its own but were divided by another one.
    waiting: Vec<VecDeque<Part>>,
    /// Whose turn it is.
    next: usize,
}

impl Turns {
    /// The next part of a thread; none at the end.
    fn take(&mut self, thread: usize) -> io::Result<Option<Part>> {
        loop {
            if let Some(part) = self.waiting.get_mut(thread).and_then(VecDeque::pop_front) {
                return Ok(Some(part));
            }
            let Some(part) = self.merge.next_part()? else { return Ok(None) };
            if let Some(waiting) = self.waiting.get_mut(self.next) {
                waiting.push_back(part);
            }
            self.next = (self.next + 1) % self.waiting.len().max(1);
        }
    }
}

/// Reads and renders the parts of a thread until there are no more, or nobody wants them.
fn produce(
    turns: &Mutex<Turns>,
    thread: usize,
    context: &Context,
    filter: &RowFilter<'_>,
    renderer: &mut impl Render,
    texts: &mpsc::SyncSender<io::Result<Vec<u8>>>,
) {
    loop {
        let part = lock(turns).take(thread);
        let text = match part {
            Ok(None) => return,
            Ok(Some(part)) => part.read().and_then(|batch| render_batch(&batch, context, filter, renderer)),
            Err(error) => Err(error),
        };
        let failed = text.is_err();
        if texts.send(text).is_err() || failed {
            return;
        }
    }
}

fn render_batch(
    batch: &Batch,
    context: &Context,
    filter: &RowFilter<'_>,
    renderer: &mut impl Render,
) -> io::Result<Vec<u8>> {
    // Words and hexadecimal digits take more room than what is remembered of them.
    let mut text = Vec::with_capacity(TEXT_OF_ROWS * batch.bytes());
    renderer.rows(&mut batch.iter(context).filter(|row| filter(row)), &mut text)?;
    Ok(text)
}
