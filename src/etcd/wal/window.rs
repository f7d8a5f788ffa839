//! A file that is read forward, some of it ahead.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::bbolt::buffer::ReadBuffer;

/// So much is read at a time, and more where more is asked for at once.
const AHEAD_BYTES: u64 = 512 << 10;

/// The part of a file that was read last. What is asked for mostly lies in it or right behind it.
#[derive(Debug, Default)]
pub struct Window {
    buffer: ReadBuffer,
    /// Which file, where it is one of several.
    file: usize,
    start: u64,
    length: u64,
}

impl Window {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes of `file` from `at` on, `length` of them. `number` tells the file from others that the window is used for, and
    /// `end` says how far the file goes.
    ///
    /// # Errors
    ///
    /// What lies beyond `end` is not there, and what cannot be read cannot be had.
    pub fn bytes(&mut self, (number, file): (usize, &File), end: u64, at: u64, length: u64) -> io::Result<&[u8]> {
        let wanted = at.checked_add(length).filter(|wanted| *wanted <= end).ok_or(io::ErrorKind::UnexpectedEof)?;
        let held = self.file == number && self.start <= at && wanted <= self.start.saturating_add(self.length);
        if !held {
            let read = length.max(AHEAD_BYTES).min(end - at);
            self.length = 0;
            let room = usize::try_from(read).map_err(|_| io::ErrorKind::OutOfMemory)?;
            file.read_exact_at(self.buffer.room(room), at)?;
            (self.file, self.start, self.length) = (number, at, read);
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        let bytes = self.buffer.read(from).get(..usize::try_from(length).unwrap_or(usize::MAX));
        bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn bytes_are_those_of_the_file_wherever_they_are_asked_for() {
        let content: Vec<u8> = (0..1_500_000_u32).map(|number| (number / 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let end = content.len() as u64;
        let mut window = Window::new();
        for (at, length) in [(0, 8), (5, 600_000), (700_000, 1), (524_280, 16), (3, 3), (end - 1, 1), (end, 0)] {
            let bytes = window.bytes((0, &file), end, at, length).unwrap();
            assert_eq!(bytes, &content[at as usize..(at + length) as usize], "{at}");
        }
        assert!(window.bytes((0, &file), end, end - 1, 2).is_err());
        assert!(window.bytes((0, &file), end, u64::MAX, 2).is_err());
    }

    #[test]
    fn one_file_is_not_taken_for_another() {
        let file = |byte| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[byte; 64]).unwrap();
            file
        };
        let (one, other) = (file(1), file(2));
        let mut window = Window::new();
        assert_eq!(window.bytes((0, &one), 64, 8, 2).unwrap(), [1, 1]);
        assert_eq!(window.bytes((1, &other), 64, 8, 2).unwrap(), [2, 2]);
    }
}
