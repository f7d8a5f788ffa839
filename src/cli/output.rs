//! Standard output: buffered, and quiet when nobody reads it any more.

use std::io::{self, BufWriter, Write};

use super::exit::Exit;
use super::hint::Failure;

/// Of what could not be opened so many are named on standard error.
pub const NAMED_FAILURES: usize = 10;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Prints an answer with `write`, then ends with `exit`.
pub fn print(exit: Exit, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Exit, Failure> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => Ok(exit),
        Err(error) => Failure::printing(&error).map(|_| exit),
    }
}

/// Says on standard error what the answer itself does not say.
pub fn tell(notes: &[String]) {
    notes.iter().for_each(|note| eprintln!("atrest: {}", crate::report::text::harmless(note)));
}
