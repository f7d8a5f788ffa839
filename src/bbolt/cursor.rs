//! The pairs of a bucket in key order, one page at a time: for buckets that are small, or where order matters more
//! than speed.

use super::bucket::{Bucket, BucketRoot, inline_elements};
use super::fault::{Fault, FaultKind, Faults};
use super::file::PageFile;
use super::leaf::{self, Bounds};
use super::leaves::{self, Depth};
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
    let mut buffer = Vec::new();
    for (ordinal, page) in leaves.pages().enumerate() {
        if let Some(count) = read_leaf(file, page, reached, &mut buffer, faults)
            && let Some(elements) = faults.note(Elements::new(page, &buffer, count))
        {
            visit_leaf(page, &elements, leaves.bounds(ordinal), faults, visit);
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
