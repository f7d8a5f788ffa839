//! SQLite's write-ahead log, as far as it must be told where SQLite stops reading it.
//!
//! SQLite takes frames as long as their checksums hold and says nothing of what comes behind: after a crash that is a
//! transaction that was never finished. Where whole transactions of the same log stand behind a frame that does not hold, the
//! log is damaged, and what they wrote is missing.
//!
//! Format: `sqlite.org/fileformat2.html` 4.1 and 4.2; all numbers are big-endian.
//!
//! | offset | bytes | header | | offset | bytes | frame header |
//! |--:|--:|---|---|--:|--:|---|
//! | 0 | 4 | `377f0682`, or `...83` for big-endian checksums | | 0 | 4 | page |
//! | 8 | 4 | bytes of a page | | 4 | 4 | pages of the database after a commit; else 0 |
//! | 16 | 8 | salts | | 8 | 8 | the header's salts |
//! | 24 | 8 | checksum of what is before it | | 16 | 8 | checksum, going on from the frame before |

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const MAGIC: u32 = 0x377f_0682;
const READ_BYTES: usize = 1 << 20;

/// Where a log does not hold although more of it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// The first frame that does not hold, counted from 1.
    pub frame: u64,
    /// Transactions behind it that SQLite does not take.
    pub lost: u64,
}

/// Reads a log from its beginning; gives where it breaks, if it does.
pub fn broken(log: File) -> io::Result<Option<Break>> {
    let mut log = BufReader::with_capacity(READ_BYTES, log);
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut log, &mut header)? {
        return Ok(None);
    }
    let page_bytes = number(&header, 8) as usize;
    let known =
        number(&header, 0) & !1 == MAGIC && page_bytes.is_power_of_two() && (512..=65_536).contains(&page_bytes);
    if !known {
        return Ok(Some(Break { frame: 0, lost: 0 }));
    }
    let mut sum = Checksum { big_endian: number(&header, 0) & 1 == 1, state: (0, 0) };
    sum.add(header.get(..24).unwrap_or_default());
    if !sum.is(&header, 24) {
        return Ok(Some(Break { frame: 0, lost: 0 }));
    }
    frames(&mut log, &header, sum, page_bytes)
}

fn frames(log: &mut impl Read, header: &[u8], mut sum: Checksum, page_bytes: usize) -> io::Result<Option<Break>> {
    let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes];
    let (mut number_of, mut bad, mut lost) = (0, None, 0);
    while fill(log, &mut frame)? {
        number_of += 1;
        let same_log = frame.get(8..16) == header.get(16..24);
        match bad {
            None => {
                sum.add(frame.get(..8).unwrap_or_default());
                sum.add(frame.get(FRAME_HEADER_BYTES..).unwrap_or_default());
                if !same_log || !sum.is(&frame, 16) {
                    bad = Some(number_of);
                    // A frame with a commit of its own is a transaction that is lost with it.
                    lost += u64::from(same_log && number(&frame, 4) != 0);
                }
            }
            Some(_) => lost += u64::from(same_log && number(&frame, 4) != 0),
        }
    }
    Ok(bad.filter(|_| lost > 0).map(|frame| Break { frame, lost }))
}

/// Two running sums over words, as SQLite's `walChecksumBytes`.
#[derive(Clone, Copy)]
struct Checksum {
    big_endian: bool,
    state: (u32, u32),
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let word =
            |bytes: &[u8; 4]| if self.big_endian { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) };
        let (mut one, mut two) = self.state;
        for pair in bytes.as_chunks::<8>().0 {
            if let [first, second] = pair.as_chunks::<4>().0 {
                one = one.wrapping_add(word(first)).wrapping_add(two);
                two = two.wrapping_add(word(second)).wrapping_add(one);
            }
        }
        self.state = (one, two);
    }

    fn is(&self, bytes: &[u8], at: usize) -> bool {
        self.state == (number(bytes, at), number(bytes, at + 4))
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Fills a buffer; not if the log ends before that.
fn fill(log: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use rusqlite::Connection;

    use super::*;

    /// A log as SQLite writes it, with a transaction for each of so many rows.
    fn log(rows: u32) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
        for row in 0..rows {
            connection.execute("INSERT INTO t VALUES (?1)", [row]).unwrap();
        }
        fs::read(folder.path().join("state.db-wal")).unwrap()
    }

    fn said(bytes: &[u8]) -> Option<Break> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        broken(file).unwrap()
    }

    const FRAME: usize = FRAME_HEADER_BYTES + 4096;

    #[test]
    fn sqlites_own_logs_hold_and_may_end_anywhere() {
        let whole = log(5);
        assert_eq!(said(&whole), None);
        for cut in [0, 10, 32, HEADER_BYTES + FRAME, whole.len() - 1] {
            assert_eq!(said(&whole[..cut]), None, "{cut}");
        }
        // What an earlier log left behind this one has other salts.
        let mut older = whole.clone();
        let last = whole.len() - FRAME;
        older[last + 8] ^= 1;
        assert_eq!(said(&older), None);
    }

    #[test]
    fn a_break_with_whole_transactions_behind_it_is_told() {
        let mut bytes = log(5);
        let frames = (bytes.len() - HEADER_BYTES) / FRAME;
        bytes[HEADER_BYTES + 3 * FRAME + 100] ^= 0x40;
        let lost = said(&bytes).unwrap();
        assert_eq!((lost.frame, lost.lost), (4, frames as u64 - 3));
        bytes[20] ^= 1;
        assert_eq!(said(&bytes), Some(Break { frame: 0, lost: 0 }));
    }
}
