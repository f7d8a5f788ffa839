//! A leaf page of the `key` bucket as a whole, with its overflow, claimed by who reads it.

use crate::bbolt::leaves;
use crate::bbolt::page::{PageHeader, PageKind};
use crate::bbolt::reached::Reached;
use crate::bbolt::{Fault, FaultKind, Faults, PageFile};

/// What stands where a leaf belongs.
pub(super) enum Found {
    /// A leaf page of so many bytes.
    Leaf {
        /// Its header; the overflow is that which is its own.
        header: PageHeader,
        /// Bytes with its overflow.
        bytes: usize,
        /// Whether all of them are at hand; else they were read into `whole`.
        at_hand: bool,
    },
    /// A branch: the tree is not as deep everywhere as at its left edge.
    Branch,
}

/// Finds how far the leaf at `page` goes, and claims it. `at_hand` is what was read of the file from its first byte on; what
/// of the leaf is not there is read into `whole`.
pub(super) fn find(
    (file, reached): (&PageFile, &Reached),
    page: u64,
    at_hand: &[u8],
    whole: &mut Vec<u8>,
    faults: &mut Faults,
) -> Result<Found, Fault> {
    let header = if at_hand.is_empty() { file.head(page, whole)? } else { file.header(page, at_hand)? };
    file.whole_bytes(page, &header)?;
    match header.kind {
        PageKind::Leaf => {}
        PageKind::Branch => return Ok(Found::Branch),
        other => {
            let detail = format!("is {} where a leaf page belongs; its pairs are lost", other.describe());
            return Err(Fault::page(page, FaultKind::WrongType, detail).at(8));
        }
    }
    // Who reads its overflow must not depend on who comes first, so it ends where another leaf is known to begin.
    let own = leaves::until(page, header.overflow, |page| leaves::begins_at(file, page, reached), faults);
    let header = PageHeader { overflow: own, ..header };
    let bytes = file.whole_bytes(page, &header)?;
    let is_at_hand = at_hand.len() >= bytes;
    if !is_at_hand {
        file.head(page, whole)?;
        file.overflow(page, own, whole)?;
    }
    reached.claim(page, own, faults);
    Ok(Found::Leaf { header, bytes, at_hand: is_at_hand })
}
