//! The freelist page, where a file has one: page ids, in both forms of the count.
//!
//! etcd keeps no freelist on disk; a file that `bbolt compact` wrote does. Reading never needs it, checking does.
//! Upstream: `etcd-io/bbolt` `internal/freelist/shared.go`. Ids of eight bytes follow the page header; where the
//! header counts 0xFFFF of them, the first is the real number.

use super::fault::{Fault, FaultKind};
use super::page::{PAGE_HEADER_BYTES, PageHeader};

/// The count that says "the real number follows".
const COUNT_ELSEWHERE: u16 = u16::MAX;
const ID_BYTES: usize = 8;

/// The free page ids that page `id` lists; `page` is the whole page with its overflow.
pub fn decode<'p>(id: u64, header: &PageHeader, page: &'p [u8]) -> Result<impl Iterator<Item = u64> + use<'p>, Fault> {
    let body = page.get(PAGE_HEADER_BYTES..).unwrap_or_default();
    let (count, ids) = if header.count == COUNT_ELSEWHERE {
        let (first, rest) = body.split_at_checked(ID_BYTES).unwrap_or_default();
        (word(first), rest)
    } else {
        (u64::from(header.count), body)
    };
    let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(ID_BYTES));
    match bytes.and_then(|bytes| ids.get(..bytes)) {
        Some(ids) => Ok(ids.chunks_exact(ID_BYTES).map(word)),
        None => {
            let detail = format!("the freelist counts {count} ids, which do not fit into its {} bytes", page.len());
            Err(Fault::page(id, FaultKind::Freelist, detail).at(10))
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bbolt::page::PageKind;

    fn header(count: u16) -> PageHeader {
        PageHeader { id: 2, kind: PageKind::Freelist, count, overflow: 0 }
    }

    fn page(header: PageHeader, words: &[u64]) -> Vec<u8> {
        let mut page = header.encode().to_vec();
        words.iter().for_each(|word| page.extend(word.to_le_bytes()));
        page
    }

    #[test]
    fn both_forms_of_the_count_are_read() {
        for (count, words) in [(2, &[5, 9][..]), (COUNT_ELSEWHERE, &[2, 5, 9])] {
            let page = page(header(count), words);
            assert_eq!(decode(2, &header(count), &page).unwrap().collect::<Vec<_>>(), [5, 9]);
        }
    }

    #[test]
    fn a_count_beyond_the_page_is_a_fault() {
        for words in [&[u64::MAX][..], &[7, 1]] {
            let page = page(header(COUNT_ELSEWHERE), words);
            assert!(decode(2, &header(COUNT_ELSEWHERE), &page).is_err());
        }
        assert!(decode(2, &header(3), &page(header(3), &[1, 2])).is_err());
    }
}
