//! The pairs of one leaf page, with the invariants that order them.

use super::fault::{Fault, FaultKind, Faults};
use super::page::{Elements, LeafElement};

/// After so many faults on one page the rest of it is given up; it is noise then.
const FAULTS_OF_A_PAGE: usize = 8;

/// Between which keys a leaf page's keys must lie, as the branches above it say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds<'b> {
    /// No key is smaller.
    pub lower: &'b [u8],
    /// Every key is smaller than this one, where there is one.
    pub upper: Option<&'b [u8]>,
}

/// Gives each pair that holds to `visit`, with its index on the page.
///
/// A pair that lies outside its page, or breaks the ascending order, is a fault and is left out, so that what
/// `visit` sees is always strictly ascending and within `bounds`. Data that belong to no pair are a fault, too.
pub fn pairs<'p>(
    page: u64,
    elements: &Elements<'p>,
    bounds: Bounds<'_>,
    faults: &mut Faults,
    mut visit: impl FnMut(usize, LeafElement<'p>),
) {
    // Keys ascend, so where the last one lies below the upper bound all do, and comparing each would be for nothing.
    let last = elements.len().checked_sub(1).and_then(|last| elements.leaf(last).ok());
    let below = bounds.upper.is_none_or(|upper| last.is_some_and(|last| last.key < upper));
    let bounds = if below { Bounds { upper: None, ..bounds } } else { bounds };
    let mut previous: Option<&[u8]> = None;
    let (mut first, mut end) = (0, elements.data_start());
    // A whole page is gone through without a look back; where something is out of line, the careful way goes on.
    while below && first < elements.len() {
        let Some(element) = elements.packed_leaf(first, end) else { break };
        let ascends = previous.map_or_else(|| element.key >= bounds.lower, |previous| is_less(previous, element.key));
        if !ascends {
            break;
        }
        previous = Some(element.key);
        end = element.value_offset + element.value.len();
        visit(first, element);
        first += 1;
    }
    if first == 0 || first < elements.len() {
        carefully(page, elements, bounds, (first, end, previous), faults, visit);
    }
}

/// Whether the keys ascend. Nearly all are revisions, and two of those are compared faster as numbers.
#[inline]
pub(super) fn is_less(one: &[u8], next: &[u8]) -> bool {
    match (one.split_first_chunk::<16>(), next.split_first_chunk::<16>()) {
        (Some((one, [last])), Some((next, [next_last]))) => {
            (u128::from_be_bytes(*one), last) < (u128::from_be_bytes(*next), next_last)
        }
        _ => one < next,
    }
}

/// Goes on at element `first` of a page of which something may be wrong; what was seen before it ends at `end`, and its
/// last key was `previous`.
#[cold]
fn carefully<'p>(
    page: u64,
    elements: &Elements<'p>,
    bounds: Bounds<'_>,
    (first, end, mut previous): (usize, usize, Option<&'p [u8]>),
    faults: &mut Faults,
    mut visit: impl FnMut(usize, LeafElement<'p>),
) {
    let mut packing = elements.packing_from(end);
    let mut wrong = 0;
    for (index, element) in (first..).zip(elements.leaves_from(first, end)) {
        match element.and_then(|element| in_order(page, index, element, previous, bounds)) {
            Ok(element) => {
                let (key, end) = (element.value_offset - element.key.len(), element.value_offset + element.value.len());
                faults.note(packing.next(key, end));
                previous = Some(element.key);
                visit(index, element);
            }
            Err(fault) => {
                faults.push(fault);
                packing.skip();
                wrong += 1;
                if wrong == FAULTS_OF_A_PAGE {
                    return given_up(page, elements.len() - index - 1, faults);
                }
            }
        }
    }
    faults.note(packing.finish());
}

fn in_order<'p>(
    page: u64,
    index: usize,
    element: LeafElement<'p>,
    previous: Option<&[u8]>,
    bounds: Bounds<'_>,
) -> Result<LeafElement<'p>, Fault> {
    let complaint = match previous {
        Some(previous) if element.key <= previous => "is not greater than the one before it",
        None if element.key < bounds.lower => "is smaller than its branch says",
        _ if bounds.upper.is_some_and(|upper| element.key >= upper) => "belongs to the next leaf",
        _ => return Ok(element),
    };
    let detail = format!("the key of element {index} {complaint}");
    Err(Fault::page(page, FaultKind::KeyOrder, detail).at(element.value_offset - element.key.len()))
}

fn given_up(page: u64, rest: usize, faults: &mut Faults) {
    if rest > 0 {
        faults.push(Fault::page(page, FaultKind::Element, format!("the {rest} further elements are given up")));
    }
}
