//! A plan carried out on the text: elements of lists are moved, added and taken out as they stand, with their comments.
//!
//! An element of a block is its lines, from the comments right above its dash to those behind it that stand further in. Of
//! an element between brackets only itself moves; what stands between two elements stays. What this can't do, or does
//! wrong with a layout that nobody thought of, is no harm: the result is read again, and compared.

use std::collections::BTreeMap;
use std::ops::Range;

use zeroize::Zeroizing;

use super::emit::{self, Flow};
use super::fresh::{Item, KeyKind};
use super::outline::{Kind, Outline};
use super::plan::{Plan, Slot};
use super::wiped::Wiped;

/// How much room the new elements of a plan need at most, each.
const ITEM_BYTES: usize = 1024;

/// The edited text, or why there is none.
pub(super) fn edit(bytes: &[u8], plan: &Plan) -> Result<Zeroizing<Vec<u8>>, String> {
    let content = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(content).map_err(|_| "it is not in UTF-8".to_owned())?;
    let lone_return = text.split('\r').skip(1).any(|rest| !rest.starts_with('\n'));
    if lone_return || text.contains(['\u{85}', '\u{2028}', '\u{2029}']) {
        return Err("its lines end in an unusual way".to_owned());
    }
    let eol = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut whole = Wiped::with_capacity(text.len() + 2);
    whole.push(text);
    if !text.ends_with('\n') && !super::super::json::is_json(bytes) {
        whole.push(eol);
    }
    let outline = Outline::of(whole.as_str())?;
    let json = super::super::json::is_json(bytes);
    let mut editor = Editor { text: whole.as_str(), outline: &outline, lists: Vec::new(), eol, json };
    for (list, slots) in lists(&outline, plan)? {
        let parts = editor.parts(list)?;
        editor.lists.push(Changed { list, slots, parts });
    }
    let added = plan.providers.values().chain(plan.keys.values()).flatten().filter(|slot| matches!(slot, Slot::New(_)));
    let mut out = Wiped::with_capacity(whole.as_str().len() + added.count() * ITEM_BYTES + 4);
    if content.len() < bytes.len() {
        out.push("\u{feff}");
    }
    editor.copy(&mut out, 0..whole.as_str().len(), 0)?;
    Ok(out.into_bytes())
}

/// The lists that change, by the number of their node. One that several places share changes once.
fn lists<'p>(outline: &Outline, plan: &'p Plan) -> Result<BTreeMap<usize, &'p [Slot]>, String> {
    let mut lists: BTreeMap<usize, &[Slot]> = BTreeMap::new();
    let mut add = |list: Option<usize>, slots: &'p [Slot]| {
        let list = list.ok_or_else(|| "a list can't be found in its text".to_owned())?;
        match lists.insert(list, slots) {
            Some(other) if other != slots => Err("two places share what should differ".to_owned()),
            _ => Ok(()),
        }
    };
    for ((entry, provider), slots) in &plan.keys {
        let kinds = [KeyKind::Secretbox, KeyKind::AesCbc, KeyKind::AesGcm];
        let list = kinds.iter().find_map(|kind| outline.keys(*entry, *provider, kind.as_str()));
        add(list, slots)?;
    }
    for (entry, slots) in &plan.providers {
        add(outline.providers(*entry), slots)?;
    }
    if let Some(slots) = &plan.entries {
        add(outline.entries(), slots)?;
    }
    Ok(lists)
}

/// A list that changes.
struct Changed<'e> {
    list: usize,
    slots: &'e [Slot],
    /// The stretches of its elements.
    parts: Vec<Range<usize>>,
}

struct Editor<'e> {
    text: &'e str,
    outline: &'e Outline,
    /// In the text's order, an outer list before what it holds.
    lists: Vec<Changed<'e>>,
    eol: &'static str,
    json: bool,
}

impl<'e> Editor<'e> {
    /// Copies a stretch of the text, with the lists in it changed, of those from a number on.
    fn copy(&self, out: &mut Wiped, stretch: Range<usize>, from: usize) -> Result<(), String> {
        let start = |changed: &Changed<'_>| changed.parts.first().map_or(0, |part| part.start);
        let skipped = self.lists.partition_point(|changed| start(changed) < stretch.start).max(from);
        let mut at = stretch.start;
        for (number, changed) in self.lists.iter().enumerate().skip(skipped) {
            let first = start(changed);
            if first >= stretch.end {
                break;
            }
            // What lies in an outer list was copied with it.
            if first >= at {
                out.push(self.slice(at..first)?);
                self.arrange(out, number, changed)?;
                at = changed.parts.last().map_or(first, |part| part.end);
            }
        }
        out.push(self.slice(at..stretch.end)?);
        Ok(())
    }

    fn slice(&self, range: Range<usize>) -> Result<&'e str, String> {
        self.text.get(range).ok_or_else(|| "its elements overlap".to_owned())
    }

    /// Whether a list is a block, and its elements.
    fn list(&self, list: usize) -> Option<(bool, &'e [usize])> {
        match &self.outline.node(list)?.kind {
            Kind::List { is_block, items } => Some((*is_block, items)),
            _ => None,
        }
    }

    /// The stretches of a list's elements.
    fn parts(&self, list: usize) -> Result<Vec<Range<usize>>, String> {
        let Some((is_block, items)) = self.list(list).filter(|(_, items)| !items.is_empty()) else {
            return Err("a list that changes has no elements in its text".to_owned());
        };
        if !is_block {
            let part = |item: &usize| match self.outline.node(*item) {
                Some(node) if !node.has_properties => Ok(node.start..node.end),
                _ => Err("an element between brackets has an anchor or a tag".to_owned()),
            };
            return items.iter().map(part).collect();
        }
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut column = None;
        for item in items {
            let from = parts.last().map_or(0, |before| before.end);
            let dash = self.dash(*item).filter(|dash| *dash >= from);
            let dash = dash.ok_or("an element does not begin a line")?;
            let line = self.line_start(dash);
            if *column.get_or_insert(dash - line) != dash - line {
                return Err("the elements of a list do not stand below each other".to_owned());
            }
            let end = self.line_end(self.outline.content_end(self.text, *item).max(dash));
            parts.push(self.comments_above(line, from)..self.comments_below(end, dash - line));
        }
        // What lies between two elements stays with the first of them.
        let starts: Vec<_> = parts.iter().skip(1).map(|part| part.start).collect();
        parts.iter_mut().zip(starts).for_each(|(part, next)| part.end = next);
        Ok(parts)
    }

    /// Where the dash of an element is: the first thing of the line that it begins in, or of one above.
    fn dash(&self, item: usize) -> Option<usize> {
        let mut line = self.line_start(self.outline.node(item)?.start);
        loop {
            let rest = self.text.get(line..)?;
            let dash = line + rest.find(|c: char| c != ' ')?;
            let mut found = self.text.get(dash..)?.chars();
            match (found.next(), found.next()) {
                (Some('-'), None | Some(' ' | '\t' | '\r' | '\n')) => return Some(dash),
                // Anchors, tags and comments may stand between.
                (Some('#' | '&' | '!' | '\r' | '\n'), _) if line > 0 => line = self.line_start(line - 1),
                _ if line > 0 && line == self.line_start(self.outline.node(item)?.start) => {
                    line = self.line_start(line - 1);
                }
                _ => return None,
            }
        }
    }

    fn line_start(&self, at: usize) -> usize {
        self.text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1)
    }

    fn line_end(&self, at: usize) -> usize {
        self.text.get(at..).and_then(|rest| rest.find('\n')).map_or(self.text.len(), |end| at + end + 1)
    }

    /// The column of the comment that a line is.
    fn comment(&self, line: usize) -> Option<usize> {
        let rest = self.text.get(line..)?;
        let column = rest.find(|c: char| c != ' ')?;
        rest.get(column..)?.starts_with('#').then_some(column)
    }

    /// The first of the comments right above a line, none of them before `from`.
    fn comments_above(&self, line: usize, from: usize) -> usize {
        let mut first = line;
        while first > from {
            let above = self.line_start(first - 1);
            if above < from || self.comment(above).is_none() {
                break;
            }
            first = above;
        }
        first
    }

    /// The end of the comments right below that stand further in than the dash.
    fn comments_below(&self, line: usize, dash: usize) -> usize {
        let mut end = line;
        while self.comment(end).is_some_and(|column| column > dash) {
            end = self.line_end(end);
        }
        end
    }

    /// Writes a list anew.
    fn arrange(&self, out: &mut Wiped, number: usize, changed: &Changed<'_>) -> Result<(), String> {
        let Some((is_block, items)) = self.list(changed.list) else { return Ok(()) };
        for (place, slot) in changed.slots.iter().enumerate() {
            if !is_block && place > 0 {
                self.separate(out, place, &changed.parts)?;
            }
            match slot {
                Slot::Old(old) => {
                    let part = changed.parts.get(*old).ok_or("an element is missing")?;
                    self.copy(out, part.clone(), number + 1)?;
                }
                Slot::New(item) if is_block => self.new_lines(out, items, item)?,
                Slot::New(item) => emit::flow(out, &item.node(), &self.layout(items)),
            }
        }
        Ok(())
    }

    fn new_lines(&self, out: &mut Wiped, items: &[usize], item: &Item) -> Result<(), String> {
        let first = items.first().and_then(|first| Some((self.dash(*first)?, self.outline.node(*first)?)));
        let (dash, first) = first.ok_or("an element does not begin a line")?;
        let between = self.text.get(dash + 1..first.start).unwrap_or_default();
        let gap = if between.bytes().all(|byte| byte == b' ') { between.len().max(1) } else { 1 };
        let column = dash - self.line_start(dash);
        out.spaces(column);
        emit::element(out, &item.node(), column, gap, self.eol);
        Ok(())
    }

    /// What stands between two elements: what stood there, or something like it.
    fn separate(&self, out: &mut Wiped, number: usize, parts: &[Range<usize>]) -> Result<(), String> {
        let between = |number: usize| {
            let (before, after) = (parts.get(number.checked_sub(1)?)?, parts.get(number)?);
            self.text.get(before.end..after.start)
        };
        let like_before = || between(parts.len() - 1).filter(|between| !between.contains('#'));
        match between(number).or_else(like_before) {
            Some(between) => out.push(between),
            None => {
                let first = parts.first().cloned().unwrap_or_default();
                out.push(",");
                match self.own_line(first.start) {
                    Some(indent) => {
                        out.push(self.eol);
                        out.spaces(indent);
                    }
                    None if self.is_spaced(first) => out.push(" "),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// How far in something stands that is the first of its line.
    fn own_line(&self, at: usize) -> Option<usize> {
        let line = self.line_start(at);
        let before = self.text.get(line..at)?;
        (line > 0 && before.bytes().all(|byte| byte == b' ')).then_some(before.len())
    }

    /// Whether a space follows the first colon of a stretch.
    fn is_spaced(&self, stretch: Range<usize>) -> bool {
        let text = self.text.get(stretch).unwrap_or_default();
        text.split_once(':').is_none_or(|(_, rest)| rest.starts_with([' ', '\n', '\r']))
    }

    /// The layout of the first element, for those that come to it.
    fn layout(&self, items: &[usize]) -> Flow {
        let first = items.first().and_then(|first| self.outline.node(*first));
        let range = first.map_or(0..0, |node| node.start..node.end);
        let text = self.text.get(range.clone()).unwrap_or_default();
        let indent = self.own_line(range.start).unwrap_or_default();
        let inner = text.split_once('\n').map(|(_, rest)| rest.len() - rest.trim_start_matches(' ').len());
        let lines = inner.map(|inner| (indent, inner.checked_sub(indent).filter(|step| *step > 0).unwrap_or(2)));
        let quoted = self.json || text.trim_start_matches(['{', ' ', '\r', '\n']).starts_with('"');
        Flow { lines, eol: self.eol, spaced: self.is_spaced(range), quoted }
    }
}
