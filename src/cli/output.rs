//! Standard output: buffered, and quiet when nobody reads it any more.

use std::io::{self, Write};

use zeroize::Zeroizing;

use super::exit::Exit;
use super::hint::Failure;

/// Of what could not be opened so many are named on standard error.
pub const NAMED_FAILURES: usize = 10;

/// Bytes that are written at once, a multiple of a page; they still are in the processor's cache when the system copies them.
const BUFFER_BYTES: usize = 256 << 10;

/// Bytes of a page of memory.
const MEMORY_PAGE_BYTES: usize = 4096;

/// Prints an answer with `write`, then ends with `exit`.
pub fn print(exit: Exit, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Exit, Failure> {
    let mut out = Pages::new(io::stdout().lock());
    let written = write(&mut out);
    match written.and(out.flush()) {
        Ok(()) => Ok(exit),
        Err(error) => Failure::printing(&error).map(|_| exit),
    }
}

/// Gathers what is written, from the start of a page of memory on.
///
/// The system copies what it is given into pages of its own, and on processors of today that copy takes many times as long where the bytes
/// come from a little behind the place within a page that they go to. So each write begins where a page does, in memory and in the file.
/// What is gathered may be anybody's secret, so it is wiped.
struct Pages<W> {
    out: W,
    room: Zeroizing<Vec<u8>>,
    gathered: usize,
}

impl<W: Write> Pages<W> {
    fn new(out: W) -> Self {
        Self { out, room: Zeroizing::new(vec![0; BUFFER_BYTES + MEMORY_PAGE_BYTES]), gathered: 0 }
    }

    /// The buffer, which begins with a page.
    fn room(&mut self) -> &mut [u8] {
        let start = self.room.as_ptr().align_offset(MEMORY_PAGE_BYTES).min(MEMORY_PAGE_BYTES);
        self.room.get_mut(start..start + BUFFER_BYTES).unwrap_or_default()
    }

    fn empty(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        let start = self.room.as_ptr().align_offset(MEMORY_PAGE_BYTES).min(MEMORY_PAGE_BYTES);
        self.out.write_all(self.room.get(start..start + gathered).unwrap_or_default())
    }
}

impl<W: Write> Write for Pages<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered == BUFFER_BYTES {
            self.empty()?;
        }
        let gathered = self.gathered;
        let free = self.room().get_mut(gathered..).unwrap_or_default();
        let taken = free.len().min(bytes.len());
        if let (Some(free), Some(bytes)) = (free.get_mut(..taken), bytes.get(..taken)) {
            free.copy_from_slice(bytes);
        }
        self.gathered += taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.empty()?;
        self.out.flush()
    }
}

/// Says on standard error what the answer itself does not say.
pub fn tell(notes: &[String]) {
    notes.iter().for_each(|note| eprintln!("atrest: {}", crate::report::text::harmless(note)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what came together.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_gathered_is_written_whole_and_by_whole_buffers() {
        let bytes: Vec<u8> = (0..BUFFER_BYTES * 3 + 17).map(|number| (number % 251) as u8).collect();
        for piece in [1000, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES * 4] {
            let mut pages = Pages::new(Writes::default());
            bytes.chunks(piece).for_each(|piece| pages.write_all(piece).unwrap());
            pages.flush().unwrap();
            assert_eq!(pages.out.0.concat(), bytes);
            let lengths: Vec<usize> = pages.out.0.iter().map(Vec::len).collect();
            assert_eq!(lengths, [BUFFER_BYTES, BUFFER_BYTES, BUFFER_BYTES, 17]);
        }
    }
}
