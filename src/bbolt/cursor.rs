//! The pairs of a bucket in key order, one page at a time: for buckets that are small, or where order matters more
//! than speed.

use super::bucket::{Bucket, BucketRoot, inline_elements};
use super::fault::{Fault, FaultKind, Faults};
use super::file::PageFile;
use super::leaf::{self, Bounds};
use super::leaves::{self, BoundsRoom, Depth};
use super::page::{Elements, LeafElement, PageKind};
use super::reached::Reached;

/// A pair and the page on which it stands (for an inline bucket its parent's).
#[derive(Clone, Copy, Debug)]
pub struct Pair<'p> {
    /// The page id.
    pub page: u64,
    /// The element.
    pub element: LeafElement<'p>,
}

/// Gives the bucket's pairs to `visit` in key order.
///
/// Every page is claimed in `reached`. What does not hold is a fault and costs its own pairs only.
pub fn walk(
    file: &PageFile,
    bucket: &Bucket,
    reached: &Reached,
    faults: &mut Faults,
    visit: &mut dyn FnMut(Pair<'_>, &mut Faults),
) {
    match &bucket.root {
        BucketRoot::Inline(bytes) => {
            let page = bucket.parent_page;
            if let Some(elements) = faults.note(inline_elements(page, bytes)) {
                visit_leaf(page, &elements, Bounds::default(), faults, visit);
            }
        }
        BucketRoot::Page(root) => walk_pages(file, *root, reached, faults, visit),
    }
}

fn walk_pages(
    file: &PageFile,
    root: u64,
    reached: &Reached,
    faults: &mut Faults,
    visit: &mut dyn FnMut(Pair<'_>, &mut Faults),
) {
    let leaves = leaves::find(file, root, Depth::Unknown, reached, faults);
    let (mut buffer, mut room) = (Vec::new(), BoundsRoom::default());
    for (ordinal, page) in leaves.pages().enumerate() {
        if let Some(count) = read_leaf(file, page, reached, &mut buffer, faults)
            && let Some(elements) = faults.note(Elements::new(page, &buffer, count))
        {
            visit_leaf(page, &elements, leaves.bounds(ordinal, &mut room), faults, visit);
        }
    }
}

/// Reads a leaf page and gives its number of elements.
fn read_leaf(file: &PageFile, page: u64, reached: &Reached, buffer: &mut Vec<u8>, faults: &mut Faults) -> Option<u16> {
    let header = faults.note(leaves::tree_page(file, page, buffer))?;
    let whole = leaves::own_overflow(file, page, &header, reached, buffer, faults);
    faults.note(whole)?;
    if header.kind != PageKind::Leaf {
        let detail = "was a leaf page a moment ago and is a branch now";
        faults.push(Fault::page(page, FaultKind::WrongType, detail));
        return None;
    }
    Some(header.count)
}

fn visit_leaf(
    page: u64,
    elements: &Elements<'_>,
    bounds: Bounds<'_>,
    faults: &mut Faults,
    visit: &mut dyn FnMut(Pair<'_>, &mut Faults),
) {
    let mut noticed = Faults::new();
    leaf::pairs(page, elements, bounds, faults, |_, element| visit(Pair { page, element }, &mut noticed));
    faults.append(noticed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bbolt::fault::Fault;
    use crate::bbolt::page::PageHeader;
    use crate::bbolt::write::Fill;
    use crate::bbolt::write::tests::{Buckets, Pairs, bytes_of, file_of, numbered, read, written};

    type Seen = Vec<(Vec<u8>, Vec<u8>)>;

    fn walked(bytes: &[u8], bucket: &Bucket) -> (Seen, Vec<Fault>) {
        let file = file_of(bytes).unwrap();
        let (reached, mut faults, mut pairs) = (Reached::new(file.readable_pages()), Faults::new(), Vec::new());
        walk(&file, bucket, &reached, &mut faults, &mut |Pair { element, .. }, _| {
            pairs.push((element.key.to_vec(), element.value.to_vec()));
        });
        (pairs, faults.into_sorted())
    }

    fn tree() -> (Vec<u8>, Bucket, Pairs) {
        let file = written(4096, Fill::APPENDED, &Buckets::from([(b"key".to_vec(), numbered(2000, 17, 83))]));
        let (_, bucket, pairs) = read(&file).remove(0);
        (bytes_of(&file), bucket, pairs)
    }

    #[test]
    fn pairs_come_in_order_from_pages_and_from_inline_buckets() {
        for count in [0, 1, 5, 2000] {
            let expected = numbered(count, 17, 83);
            let file = written(4096, Fill::APPENDED, &Buckets::from([(b"key".to_vec(), expected.clone())]));
            let (pairs, faults) = walked(&bytes_of(&file), &read(&file)[0].1);
            assert_eq!(faults, []);
            assert!(pairs.iter().map(|(key, value)| (key, value)).eq(&expected));
        }
    }

    #[test]
    fn a_lost_leaf_costs_its_own_pairs_only() {
        let (whole, bucket, expected) = tree();
        let page = 7;
        let count = usize::from(PageHeader::decode(&whole[page * 4096..]).unwrap().count);
        let mut bytes = whole.clone();
        bytes[page * 4096..][..4096].fill(0);
        let (pairs, faults) = walked(&bytes, &bucket);
        assert_eq!(pairs.len(), expected.len() - count);
        assert!(pairs.is_sorted() && pairs.iter().all(|(key, value)| expected.get(key) == Some(value)));
        assert_eq!(faults.iter().map(|fault| fault.page).collect::<Vec<_>>(), [Some(page as u64)]);
    }

    #[test]
    fn leaves_that_changed_places_give_nothing_out_of_order() {
        let (whole, bucket, expected) = tree();
        let mut bytes = whole.clone();
        let (first, second) = (7 * 4096 + 8..8 * 4096, 11 * 4096 + 8);
        let (one, other) = (whole[first.clone()].to_vec(), whole[second..second + 4088].to_vec());
        bytes[first].copy_from_slice(&other);
        bytes[second..second + 4088].copy_from_slice(&one);
        let (pairs, faults) = walked(&bytes, &bucket);
        assert!(pairs.is_sorted() && pairs.len() < expected.len());
        let pages: std::collections::BTreeSet<_> = faults.iter().map(|fault| fault.page).collect();
        assert_eq!(pages, [Some(7), Some(11)].into());
        assert!(faults.iter().any(|fault| fault.kind == FaultKind::KeyOrder));
    }
}
