//! The leaf pages of a bucket, found by reading its branch pages only.
//!
//! A bucket of a million pairs has some two thousand branch pages and two hundred thousand leaves. Its branches say
//! which pages are leaves and between which keys each lies; then the leaves can be read in the order of the file, by
//! many readers, and still be told apart and ordered.
//!
//! bbolt keeps all leaves at one depth, so one look down the left edge tells how deep they are, and what stands at
//! that depth is taken for a leaf without reading it. The reader of the leaves notices where that does not hold, and
//! asks again with [`Depth::Unknown`].

use std::sync::Arc;

use super::fault::{Fault, FaultKind, Faults};
use super::file::PageFile;
use super::keys::Keys;
use super::leaf::{self, Bounds};
use super::page::{BranchElement, ELEMENT_BYTES, Elements, PAGE_HEADER_BYTES, PageHeader, PageKind};
use super::reached::Reached;

/// No real tree is deeper: with two children a page it would have more leaves than there can be pages.
const MAX_DEPTH: usize = 64;

/// The kinds of page that a tree consists of.
const TREE_PAGES: [PageKind; 2] = [PageKind::Branch, PageKind::Leaf];

/// Whether the leaves' depth may be taken from the left edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// As bbolt writes trees.
    Uniform,
    /// Every page is read to see what it is; for trees that are not as bbolt writes them.
    Unknown,
}

/// Leaf pages in key order. An index into them is a leaf's *ordinal*.
#[derive(Debug, Default)]
pub struct Leaves {
    pages: Vec<u32>,
    /// The branch's key for each leaf.
    keys: Keys,
    /// The last leaf of each branch page, whose upper bound stands higher up in the tree.
    branch_ends: Vec<(u32, Option<Arc<[u8]>>)>,
}

impl Leaves {
    /// How many leaf pages.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether the bucket has no page at all, because its root was lost.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The page id of the leaf with this ordinal.
    pub fn page(&self, ordinal: usize) -> Option<u64> {
        self.pages.get(ordinal).map(|page| u64::from(*page))
    }

    /// The page ids in key order.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.pages.iter().map(|page| u64::from(*page))
    }

    /// Between which keys the leaf's keys must lie. They are put together in `room`.
    pub fn bounds<'b>(&'b self, ordinal: usize, room: &'b mut BoundsRoom) -> Bounds<'b> {
        let BoundsRoom { branch, behind, lower, upper } = room;
        *branch = self.branch_of(ordinal, *branch);
        // What the leaf before this one ends at is what it begins with.
        let lower = if behind.replace(ordinal + 1) == Some(ordinal) {
            std::mem::swap(lower, upper);
            Some(lower.as_slice())
        } else {
            self.keys.get(ordinal, lower)
        };
        let next = self.keys.get(ordinal + 1, upper);
        *behind = behind.filter(|_| next.is_some());
        let upper = match self.branch_ends.get(*branch) {
            Some((last, upper)) if *last as usize == ordinal => upper.as_deref(),
            _ => next,
        };
        Bounds { lower: lower.unwrap_or_default(), upper }
    }

    /// The branch page of a leaf, counted in their order. Mostly it is the one before's, `likely`, or the next.
    fn branch_of(&self, ordinal: usize, likely: usize) -> usize {
        let ends_before =
            |branch: usize| self.branch_ends.get(branch).is_some_and(|(last, _)| (*last as usize) < ordinal);
        let leads_to_it = |branch: usize| !ends_before(branch) && branch.checked_sub(1).is_none_or(ends_before);
        let found = [likely, likely + 1].into_iter().find(|branch| leads_to_it(*branch));
        found.unwrap_or_else(|| self.branch_ends.partition_point(|(last, _)| (*last as usize) < ordinal))
    }

    /// The least key that may stand on a leaf, as the branches say.
    pub fn first_key(&self, ordinal: usize) -> Option<Vec<u8>> {
        let mut key = Vec::new();
        self.keys.get(ordinal, &mut key)?;
        Some(key)
    }

    /// The ordinal of the leaf on which a key would stand.
    pub fn leaf_of(&self, key: &[u8]) -> Option<usize> {
        let mut room = Vec::new();
        let (mut from, mut to) = (0, self.pages.len());
        while from < to {
            let middle = from + (to - from) / 2;
            if self.keys.get(middle, &mut room)? <= key { from = middle + 1 } else { to = middle }
        }
        from.checked_sub(1)
    }

    fn push(&mut self, page: u64, key: &[u8]) -> Result<(), Fault> {
        let too_many = || Fault::page(page, FaultKind::Depth, "there are more leaf pages than can be counted");
        let number = u32::try_from(page).map_err(|_| too_many())?;
        self.keys.push(key).ok_or_else(too_many)?;
        self.pages.push(number);
        Ok(())
    }

    fn end_branch(&mut self, upper: Option<Arc<[u8]>>) {
        if let Some(last) = self.pages.len().checked_sub(1).and_then(|last| u32::try_from(last).ok()) {
            self.branch_ends.push((last, upper));
        }
    }
}

/// Room for the keys of a leaf's bounds, to be used again for the next leaf's in the same tree.
#[derive(Debug, Default)]
pub struct BoundsRoom {
    /// The branch page that leads to the leaf, counted in their order.
    branch: usize,
    /// The leaf whose first key is in `upper`.
    behind: Option<usize>,
    lower: Vec<u8>,
    upper: Vec<u8>,
}

/// A page still to be looked at, and what its parent says of it.
struct Pending {
    page: u64,
    depth: usize,
    lower: Arc<[u8]>,
    upper: Option<Arc<[u8]>>,
}

/// Finds the leaves of the bucket whose tree begins at page `root`.
///
/// Branch pages are claimed in `reached`; leaves are claimed by whoever reads them, since only they know the
/// overflow. A page that was led to before, by whatever tree, is a fault and not followed, so that each leaf of a file is
/// found once. A branch or an element of one that does not hold is a fault and costs what lies below it.
pub fn find(file: &PageFile, root: u64, depth: Depth, reached: &Reached, faults: &mut Faults) -> Leaves {
    let leaf_depth = match depth {
        Depth::Uniform => left_edge(file, root),
        Depth::Unknown => None,
    };
    let mut walk = Walk { file, leaf_depth, reached, leaves: Leaves::default(), stack: Vec::new() };
    walk.stack.push(Pending { page: root, depth: 0, lower: Arc::from([]), upper: None });
    let mut buffer = Vec::new();
    while let Some(pending) = walk.stack.pop() {
        let step = walk.step(&pending, &mut buffer, faults);
        faults.note(step);
    }
    walk.leaves
}

/// The depth of the leftmost leaf; none where something on the way does not hold.
fn left_edge(file: &PageFile, root: u64) -> Option<usize> {
    let mut buffer = Vec::new();
    let mut page = root;
    for depth in 0..MAX_DEPTH {
        let header = file.head(page, &mut buffer).ok()?;
        match header.kind {
            PageKind::Leaf => return Some(depth),
            // Branches of etcd's keys never overflow. Those that do are left to who reads each page once.
            PageKind::Branch if header.overflow == 0 => {}
            _ => return None,
        }
        page = Elements::new(page, &buffer, header.count).ok()?.branch(0).ok()?.child;
    }
    None
}

/// Reads a page, without its overflow, that must be a branch or a leaf.
pub fn tree_page(file: &PageFile, page: u64, buffer: &mut Vec<u8>) -> Result<PageHeader, Fault> {
    let header = file.head(page, buffer)?;
    match header.kind {
        PageKind::Branch | PageKind::Leaf => Ok(header),
        other => {
            let detail = format!("is {} where a tree continues", other.describe());
            Err(Fault::page(page, FaultKind::WrongType, detail).at(8))
        }
    }
}

/// Claims a page whose head is in `buffer`, and reads its overflow.
///
/// Where that runs into pages that were claimed before it ends, with a fault, so that no file makes its reader read
/// more than twice what it holds. For one reader at a time.
pub fn own_overflow(
    file: &PageFile,
    page: u64,
    header: &PageHeader,
    reached: &Reached,
    buffer: &mut Vec<u8>,
    faults: &mut Faults,
) -> Result<(), Fault> {
    file.whole_bytes(page, header)?;
    let taken = |page| reached.contains(page) || begins_at(file, page, reached);
    let own = until(page, header.overflow, taken, faults);
    reached.claim(page, own, faults);
    file.overflow(page, own, buffer)
}

/// How many of the `overflow` pages behind `page` come before the first that is `taken`; if there is one it is a fault.
pub fn until(page: u64, overflow: u32, taken: impl Fn(u64) -> bool, faults: &mut Faults) -> u32 {
    match (0..overflow).find(|own| taken(page + 1 + u64::from(*own))) {
        None => overflow,
        Some(own) => {
            let other = page + 1 + u64::from(own);
            let detail = format!("claims {overflow} overflow pages, of which page {other} belongs to another page");
            faults.push(Fault::page(page, FaultKind::ReachedTwice, detail).at(12));
            own
        }
    }
}

/// Whether a tree leads to `page`, and what stands there is a page of a tree: an id that leads into the middle of a
/// large value takes nothing from it.
pub fn begins_at(file: &PageFile, page: u64, reached: &Reached) -> bool {
    let mut head = [0; PAGE_HEADER_BYTES];
    reached.has_begun(page)
        && file.read_at(&mut head, page.saturating_mul(file.page_size())).is_ok()
        && file.header(page, &head).is_ok_and(|header| TREE_PAGES.contains(&header.kind))
}

struct Walk<'f> {
    file: &'f PageFile,
    leaf_depth: Option<usize>,
    reached: &'f Reached,
    leaves: Leaves,
    stack: Vec<Pending>,
}

impl Walk<'_> {
    fn step(&mut self, pending: &Pending, buffer: &mut Vec<u8>, faults: &mut Faults) -> Result<(), Fault> {
        self.reached.begin(pending.page)?;
        if self.leaf_depth == Some(pending.depth) {
            return self.leaf(pending);
        }
        let header = tree_page(self.file, pending.page, buffer)?;
        if header.kind == PageKind::Leaf {
            return self.leaf(pending);
        }
        if pending.depth >= MAX_DEPTH {
            let detail = format!("lies {MAX_DEPTH} levels below its root");
            return Err(Fault::page(pending.page, FaultKind::Depth, detail));
        }
        own_overflow(self.file, pending.page, &header, self.reached, buffer, faults)?;
        self.branch(pending, &Elements::new(pending.page, buffer, header.count)?, faults)
    }

    fn leaf(&mut self, pending: &Pending) -> Result<(), Fault> {
        self.leaves.push(pending.page, &pending.lower)?;
        self.leaves.end_branch(pending.upper.clone());
        Ok(())
    }

    /// Takes a branch page's children: leaves at once, further branches onto the stack, the first one on top.
    fn branch(&mut self, parent: &Pending, elements: &Elements<'_>, faults: &mut Faults) -> Result<(), Fault> {
        if elements.is_empty() {
            return Err(Fault::page(parent.page, FaultKind::Element, "is a branch page without elements").at(10));
        }
        let children_are_leaves = self.leaf_depth == Some(parent.depth + 1);
        let mut children: Vec<Pending> = Vec::new();
        let (first, end, mut previous) = match children_are_leaves {
            true => self.whole(parent, elements, faults),
            false => (0, elements.data_start(), None),
        };
        let mut packing = elements.packing_from(end);
        for (index, element) in (first..elements.len()).map(|index| (index, elements.branch(index))) {
            let Some(element) = faults.note(element) else {
                packing.skip();
                continue;
            };
            faults.note(packing.next(element.key_offset, element.key_offset + element.key.len()));
            let holds =
                branch_order(parent, index, &element, previous).and_then(|()| self.child(parent, index, &element));
            if faults.note(holds).is_none() {
                continue;
            }
            previous = Some(element.key);
            if children_are_leaves {
                faults.note(
                    self.reached.begin(element.child).and_then(|()| self.leaves.push(element.child, element.key)),
                );
            } else {
                let key: Arc<[u8]> = Arc::from(element.key);
                if let Some(before) = children.last_mut() {
                    before.upper = Some(key.clone());
                }
                let upper = parent.upper.clone();
                children.push(Pending { page: element.child, depth: parent.depth + 1, lower: key, upper });
            }
        }
        faults.note(packing.finish());
        if children_are_leaves {
            self.leaves.end_branch(parent.upper.clone());
        }
        self.stack.extend(children.into_iter().rev());
        Ok(())
    }

    /// Takes the leaves below a branch page as far as nothing is out of line. Gives the first element that was not taken,
    /// the end of the data before it, and the last key.
    fn whole<'p>(
        &mut self,
        parent: &Pending,
        elements: &Elements<'p>,
        faults: &mut Faults,
    ) -> (usize, usize, Option<&'p [u8]>) {
        let mark = self.file.meta().high_water_mark;
        let (mut end, mut previous) = (elements.data_start(), None);
        for index in 0..elements.len() {
            let Some(element) = elements.packed_branch(index, end) else { return (index, end, previous) };
            let key = element.key;
            let ascends = previous.map_or_else(|| key >= &*parent.lower, |previous| leaf::is_less(previous, key));
            let below = parent.upper.as_ref().is_none_or(|upper| leaf::is_less(key, upper));
            if !ascends || !below || !(2..mark).contains(&element.child) {
                return (index, end, previous);
            }
            faults.note(self.reached.begin(element.child).and_then(|()| self.leaves.push(element.child, key)));
            end = element.key_offset + key.len();
            previous = Some(key);
        }
        (elements.len(), end, previous)
    }

    /// A child must be one of the pages in use. Whether the file still has it shows when it is read.
    fn child(&self, parent: &Pending, index: usize, element: &BranchElement<'_>) -> Result<(), Fault> {
        let mark = self.file.meta().high_water_mark;
        if (2..mark).contains(&element.child) {
            return Ok(());
        }
        let detail = format!("element {index} leads to page {}, outside 2 to {mark}, the pages in use", element.child);
        Err(Fault::page(parent.page, FaultKind::OutOfBounds, detail).at(PAGE_HEADER_BYTES + index * ELEMENT_BYTES + 8))
    }
}

fn branch_order(
    parent: &Pending,
    index: usize,
    element: &BranchElement<'_>,
    previous: Option<&[u8]>,
) -> Result<(), Fault> {
    let key = element.key;
    let complaint = match previous {
        Some(previous) if key <= previous => "is not greater than the one before it",
        None if key < &*parent.lower => "is smaller than the branch above says",
        _ if parent.upper.as_ref().is_some_and(|upper| key >= &**upper) => "belongs to the next branch",
        _ => return Ok(()),
    };
    let detail = format!("the key of branch element {index} {complaint}; what lies below it is lost");
    Err(Fault::page(parent.page, FaultKind::KeyOrder, detail).at(element.key_offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bbolt::bucket::BucketRoot;
    use crate::bbolt::page::{encode_branch, finish_page, set_page_id};
    use crate::bbolt::write::Fill;
    use crate::bbolt::write::tests::{Buckets, bytes_of, file_of, numbered, read, written};

    /// A bucket of three levels: a root, branches, leaves.
    fn three_levels() -> (Vec<u8>, u64) {
        let buckets = Buckets::from([(b"key".to_vec(), numbered(1500, 200, 300))]);
        let file = written(4096, Fill::APPENDED, &buckets);
        let BucketRoot::Page(root) = read(&file)[0].1.root else { panic!("no tree") };
        (bytes_of(&file), root)
    }

    fn found(bytes: &[u8], root: u64, depth: Depth) -> (Leaves, Vec<Fault>) {
        let file = file_of(bytes).unwrap();
        let (reached, mut faults) = (Reached::new(file.readable_pages()), Faults::new());
        let leaves = find(&file, root, depth, &reached, &mut faults);
        (leaves, faults.into_sorted())
    }

    fn all(leaves: &Leaves) -> Vec<(u64, Vec<u8>, Option<Vec<u8>>)> {
        let one = |(ordinal, page)| {
            let mut room = BoundsRoom::default();
            let Bounds { lower, upper } = leaves.bounds(ordinal, &mut room);
            (page, lower.to_vec(), upper.map(<[u8]>::to_vec))
        };
        leaves.pages().enumerate().map(one).collect()
    }

    /// Makes page `page` a branch to these children.
    fn put_branch(bytes: &mut [u8], page: u64, children: &[(&[u8], u64)]) {
        let mut image = Vec::new();
        encode_branch(children.iter().copied(), &mut image);
        finish_page(&mut image, 0, 4096);
        set_page_id(&mut image, page);
        bytes[page as usize * 4096..][..4096].copy_from_slice(&image);
    }

    fn children_of(bytes: &[u8], page: u64) -> Vec<(Vec<u8>, u64)> {
        let image = &bytes[page as usize * 4096..][..4096];
        let elements = Elements::new(page, image, PageHeader::decode(image).unwrap().count).unwrap();
        elements.branches().map(|branch| branch.unwrap()).map(|branch| (branch.key.to_vec(), branch.child)).collect()
    }

    #[test]
    fn both_ways_find_the_same_leaves_in_the_order_of_keys() {
        let (bytes, root) = three_levels();
        let (uniform, faults) = found(&bytes, root, Depth::Uniform);
        assert_eq!(faults, []);
        let (unknown, faults) = found(&bytes, root, Depth::Unknown);
        assert_eq!(faults, []);
        let leaves = all(&uniform);
        assert_eq!(leaves, all(&unknown));
        assert!(leaves.len() > 150 && children_of(&bytes, root).len() > 10);
        // Each ends where the next begins, over the bounds of branches too.
        for (this, next) in leaves.iter().zip(&leaves[1..]) {
            assert_eq!(this.2.as_ref(), Some(&next.1));
        }
        assert_eq!(leaves.last().unwrap().2, None);
    }

    #[test]
    fn room_that_is_used_again_changes_no_bounds() {
        let (mut bytes, root) = three_levels();
        // The last branch has no leaf, so that two branches end at one.
        let (_, last) = children_of(&bytes, root).pop().unwrap();
        put_branch(&mut bytes, last, &[]);
        let (leaves, _) = found(&bytes, root, Depth::Uniform);
        let (count, all) = (leaves.len(), all(&leaves));
        let backwards = (0..count).rev();
        let far_apart = (0..count).map(|number| number * 61 % count);
        let orders: [Vec<usize>; 4] = [
            (0..count).collect(),
            backwards.collect(),
            far_apart.collect(),
            (1..count).flat_map(|number| [number - 1, number - 1, number, number - 1]).collect(),
        ];
        for order in orders {
            let mut room = BoundsRoom::default();
            for ordinal in order {
                let Bounds { lower, upper } = leaves.bounds(ordinal, &mut room);
                assert_eq!((lower, upper), (all[ordinal].1.as_slice(), all[ordinal].2.as_deref()), "{ordinal}");
            }
        }
    }

    #[test]
    fn an_element_that_leads_nowhere_costs_its_own_leaves_only() {
        let (whole, root) = three_levels();
        let all_leaves = found(&whole, root, Depth::Unknown).0.len();
        let mark = (whole.len() / 4096) as u64;
        for (level, branch) in [(1, children_of(&whole, root)[2].1), (0, root)] {
            for nowhere in [0, 1, mark, 1 << 33, u64::MAX] {
                let mut bytes = whole.clone();
                let at = branch as usize * 4096 + 16 + 3 * 16 + 8;
                let child = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                bytes[at..at + 8].copy_from_slice(&nowhere.to_le_bytes());
                let cost = if level == 1 { 1 } else { children_of(&whole, child).len() };
                for depth in [Depth::Uniform, Depth::Unknown] {
                    let (leaves, faults) = found(&bytes, root, depth);
                    assert_eq!(leaves.len(), all_leaves - cost);
                    let places: Vec<_> = faults.iter().map(|fault| (fault.page, fault.offset, fault.kind)).collect();
                    assert_eq!(places, [(Some(branch), Some(16 + 3 * 16 + 8), FaultKind::OutOfBounds)]);
                }
            }
        }
    }

    #[test]
    fn a_tree_that_leads_back_into_itself_is_followed_once() {
        let (whole, root) = three_levels();
        let branch = children_of(&whole, root)[2].1;
        for target in [root, branch, children_of(&whole, root)[1].1, children_of(&whole, branch)[0].1] {
            let mut bytes = whole.clone();
            let at = branch as usize * 4096 + 16 + 3 * 16 + 8;
            bytes[at..at + 8].copy_from_slice(&target.to_le_bytes());
            let (leaves, faults) = found(&bytes, root, Depth::Unknown);
            assert_eq!(leaves.len(), found(&whole, root, Depth::Unknown).0.len() - 1);
            let places: Vec<_> = faults.iter().map(|fault| (fault.page, fault.kind)).collect();
            assert_eq!(places, [(Some(target), FaultKind::ReachedTwice)]);
        }
    }

    #[test]
    fn a_cycle_in_branch_pages_has_no_left_edge_and_no_end_but_a_fault() {
        let (mut bytes, root) = three_levels();
        put_branch(&mut bytes, root, &[(b"a", root), (b"b", root)]);
        for depth in [Depth::Uniform, Depth::Unknown] {
            let (leaves, faults) = found(&bytes, root, depth);
            assert!(leaves.is_empty());
            assert_eq!(faults.len(), 2);
            assert!(faults.iter().all(|fault| fault.kind == FaultKind::ReachedTwice));
        }
    }

    #[test]
    fn a_tree_that_is_deeper_than_any_is_given_up() {
        let (mut bytes, _) = three_levels();
        for page in 2..=2 + MAX_DEPTH as u64 {
            put_branch(&mut bytes, page, &[(b"k", page + 1)]);
        }
        let (leaves, faults) = found(&bytes, 2, Depth::Uniform);
        assert!(leaves.is_empty());
        let places: Vec<_> = faults.iter().map(|fault| (fault.page, fault.kind)).collect();
        assert_eq!(places, [(Some(2 + MAX_DEPTH as u64), FaultKind::Depth)]);
    }

    #[test]
    fn branch_keys_out_of_order_cost_what_lies_below_them() {
        let (whole, root) = three_levels();
        let branch = children_of(&whole, root)[2].1;
        let mut children = children_of(&whole, branch);
        children.swap(2, 3);
        let mut bytes = whole.clone();
        let borrowed: Vec<_> = children.iter().map(|(key, child)| (key.as_slice(), *child)).collect();
        put_branch(&mut bytes, branch, &borrowed);
        let (leaves, faults) = found(&bytes, root, Depth::Uniform);
        assert_eq!(leaves.len(), found(&whole, root, Depth::Unknown).0.len() - 1);
        let places: Vec<_> = faults.iter().map(|fault| (fault.page, fault.kind)).collect();
        assert_eq!(places, [(Some(branch), FaultKind::KeyOrder)]);
    }
}
