//! Where a configuration's lists stand in its text.
//!
//! The text was read before by the reader that agrees with upstream; this one only wants places, takes JSON for the YAML
//! that it nearly is, and may give up: then the text can't be edited.

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, Span, StructureStyle};
use zeroize::Zeroizing;

use super::super::tree::{DEPTH_LIMIT, NODE_LIMIT};

/// The nodes of the first document.
pub(super) struct Outline {
    nodes: Vec<Node>,
    root: usize,
}

/// A node and where it stands, in bytes. A block's end is not told by the parser; see [`Outline::content_end`].
pub(super) struct Node {
    pub start: usize,
    pub end: usize,
    /// Whether an anchor or a tag stands before it.
    pub has_properties: bool,
    pub kind: Kind,
}

/// What a node is.
pub(super) enum Kind {
    /// A scalar; its text only if it is as short as a field's name.
    Scalar(Option<String>),
    List {
        is_block: bool,
        items: Vec<usize>,
    },
    /// Keys and values alternate.
    Map {
        is_block: bool,
        children: Vec<usize>,
    },
    Alias(usize),
}

/// The longest name of a field that anything is looked up by is shorter; secrets are longer.
const NAME_BYTES: usize = 16;

impl Outline {
    /// Finds the places of a text's nodes.
    pub(super) fn of(text: &str) -> Result<Self, &'static str> {
        let mut options = Options::default();
        options.set_emit_comments(false);
        options.flow_nesting_limit = DEPTH_LIMIT;
        options.block_nesting_limit = DEPTH_LIMIT;
        let mut reader = Reader { nodes: Vec::new(), open: Vec::new(), anchors: HashMap::new() };
        for next in Parser::new_from_str_with_options(text, options) {
            let (event, span) = next.map_err(|_| "its layout is one that only kube-apiserver reads so")?;
            if matches!(event, Event::DocumentEnd) {
                break;
            }
            reader.take(event, span).ok_or("a place in it can't be told")?;
        }
        if reader.nodes.is_empty() {
            return Err("there is nothing in it");
        }
        Ok(Self { nodes: reader.nodes, root: 0 })
    }

    /// A node by its number.
    pub(super) fn node(&self, number: usize) -> Option<&Node> {
        self.nodes.get(number)
    }

    /// The list of entries.
    pub(super) fn entries(&self) -> Option<usize> {
        self.field(self.root, "resources", 0)
    }

    /// The list of an entry's providers.
    pub(super) fn providers(&self, entry: usize) -> Option<usize> {
        self.field(self.item(self.entries()?, entry)?, "providers", 0)
    }

    /// The list of a provider's keys.
    pub(super) fn keys(&self, entry: usize, provider: usize, kind: &str) -> Option<usize> {
        let provider = self.item(self.providers(entry)?, provider)?;
        self.field(self.field(provider, kind, 0)?, "keys", 0)
    }

    fn item(&self, list: usize, place: usize) -> Option<usize> {
        match &self.node(list)?.kind {
            Kind::List { items, .. } => items.get(place).copied(),
            _ => None,
        }
    }

    /// What a mapping has in a field, aliases followed: its own fields first, then those that it merges.
    fn field(&self, map: usize, name: &str, depth: usize) -> Option<usize> {
        let Kind::Map { children, .. } = &self.node(self.target(map)?)?.kind else { return None };
        let pairs = || children.chunks(2).filter_map(|pair| Some((self.name(*pair.first()?)?, *pair.get(1)?)));
        if let Some((_, value)) = pairs().find(|(key, _)| *key == name) {
            return self.target(value);
        }
        let merged = pairs().filter(|(key, _)| *key == "<<" && depth < DEPTH_LIMIT);
        merged.flat_map(|(_, value)| self.sources(value)).find_map(|source| self.field(source, name, depth + 1))
    }

    fn sources(&self, merged: usize) -> Vec<usize> {
        match self.node(merged).map(|node| &node.kind) {
            Some(Kind::List { items, .. }) => items.clone(),
            _ => vec![merged],
        }
    }

    fn name(&self, node: usize) -> Option<&str> {
        match &self.node(node)?.kind {
            Kind::Scalar(text) => text.as_deref(),
            _ => None,
        }
    }

    /// The node itself, or what it is an alias of; aliases lead backward and never to aliases.
    fn target(&self, node: usize) -> Option<usize> {
        match self.node(node)?.kind {
            Kind::Alias(target) => Some(target),
            _ => Some(node),
        }
    }

    /// Where the last thing of a node ends that is no comment and no space. Nodes are stored in the text's order.
    pub(super) fn content_end(&self, text: &str, node: usize) -> usize {
        let mut last = node;
        while let Some(child) = self.node(last).and_then(|node| match &node.kind {
            Kind::List { is_block: true, items } => items.last(),
            Kind::Map { is_block: true, children } => children.last(),
            _ => None,
        }) {
            last = *child;
        }
        let (start, end) = self.node(last).map_or((0, 0), |node| (node.start, node.end));
        text.get(..end).map_or(end, |before| before.trim_end().len().max(start))
    }
}

struct Reader {
    nodes: Vec<Node>,
    open: Vec<usize>,
    anchors: HashMap<usize, usize>,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let (start, end) = (span.start.byte_offset()?, span.end.byte_offset()?);
        let (kind, anchor, tagged) = match event {
            Event::Scalar(text, _, anchor, tag) => {
                let text = Zeroizing::new(text.into_owned());
                let name = (text.len() <= NAME_BYTES).then(|| text.to_string());
                (Kind::Scalar(name), anchor, tag.is_some())
            }
            Event::SequenceStart(style, anchor, tag) => {
                let is_block = style == StructureStyle::Block;
                (Kind::List { is_block, items: Vec::new() }, anchor, tag.is_some())
            }
            Event::MappingStart(style, anchor, tag) => {
                let is_block = style == StructureStyle::Block;
                (Kind::Map { is_block, children: Vec::new() }, anchor, tag.is_some())
            }
            Event::Alias(anchor) => (Kind::Alias(*self.anchors.get(&anchor)?), 0, false),
            Event::SequenceEnd | Event::MappingEnd => {
                let closed = self.open.pop()?;
                self.nodes.get_mut(closed)?.end = end;
                return Some(());
            }
            _ => return Some(()),
        };
        let number = self.nodes.len();
        if number >= NODE_LIMIT {
            return None;
        }
        if anchor != 0 {
            self.anchors.insert(anchor, number);
        }
        if let Some(parent) = self.open.last().and_then(|parent| self.nodes.get_mut(*parent)) {
            match &mut parent.kind {
                Kind::List { items: children, .. } | Kind::Map { children, .. } => children.push(number),
                Kind::Scalar(_) | Kind::Alias(_) => {}
            }
        }
        if matches!(kind, Kind::List { .. } | Kind::Map { .. }) {
            self.open.push(number);
        }
        self.nodes.push(Node { start, end, has_properties: anchor != 0 || tagged, kind });
        Some(())
    }
}
