//! YAML as kube-apiserver reads it, into the tree that JSON would give.
//!
//! Upstream turns YAML into JSON first (`sigs.k8s.io/yaml`, over `go.yaml.in/yaml/v2`): scalars have YAML 1.1's types,
//! mapping keys become their text, mappings come out sorted by key, only the first document is read. The events
//! come from a YAML parser; this file builds the nodes and does what `decode.go` and `resolve.go` do with them.
//!
//! It knows nothing of configurations.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StructureStyle};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::scalar::{self, Scalar};
use super::text;
use super::tree::{DEPTH_LIMIT, Field, NODE_LIMIT, Node, Place, SyntaxError, Text, Value};

/// The first document of a YAML text.
pub(super) struct Document {
    /// As the JSON that upstream makes of it: sorted by field, the last of repeated fields.
    pub root: Node,
    /// Fields that stood in a mapping already, with the place of the repeated value, in upstream's order.
    pub repeated: Vec<(Text, Place)>,
    /// Where a second document begins, which upstream never looks at.
    pub more: Option<Place>,
}

/// Reads the first document; an empty one is null.
pub(super) fn read(bytes: &[u8]) -> Result<Document, SyntaxError> {
    let text::Source { text: source, separators } = text::decode(bytes)?;
    let raw = Graph::read(&source, &separators)?;
    text::check_characters(bytes, &source, raw.end)?;
    let mut builder = Builder {
        graph: &raw,
        open: vec![false; raw.nodes.len()],
        visits: 0,
        by_alias: 0,
        aliases: 0,
        repeated: Vec::new(),
    };
    let root = match raw.root {
        Some(root) => builder.node(root, 0)?,
        None => Node { value: Value::Null, place: Place { line: 1, column: 1 } },
    };
    Ok(Document { root, repeated: builder.repeated, more: raw.more })
}

/// The document as written: nodes by number, aliases not followed yet.
struct Graph {
    nodes: Vec<RawNode>,
    root: Option<usize>,
    /// The character after the first document.
    end: usize,
    more: Option<Place>,
}

struct RawNode {
    kind: RawKind,
    place: Place,
}

enum RawKind {
    Scalar {
        text: Text,
        plain: bool,
        tag: Option<String>,
    },
    List(Vec<usize>),
    /// Keys and values alternate.
    Map(Vec<usize>),
    Alias(usize),
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line() as u64, column: marker.col() as u64 + 1 }
}

fn fault(error: &ScanError) -> SyntaxError {
    // The library's words name grammar only, except where it repeats a name of the text's own.
    let message = match error.info() {
        info if info.contains('\'') || info.contains('"') || info.contains('`') => "this is no YAML".to_owned(),
        info => info,
    };
    SyntaxError::at(place(*error.marker()), message)
}

impl Graph {
    fn read(source: &str, separators: &[usize]) -> Result<Self, SyntaxError> {
        let mut options = granit_parser::Options::default();
        options.set_emit_comments(false);
        options.flow_nesting_limit = DEPTH_LIMIT;
        options.block_nesting_limit = DEPTH_LIMIT;
        options.bom_inside_document_as_content = true;
        options.block_scalar_eof_without_line_feed = true;
        refuse_leading_end(source)?;
        let mut graph = Self { nodes: Vec::new(), root: None, end: 0, more: None };
        let mut anchors = HashMap::new();
        let mut open: Vec<usize> = Vec::new();
        // The column of each open block collection; flow collections keep that of what is around them.
        let mut indents: Vec<usize> = Vec::new();
        let mut flows = 0usize;
        // The byte behind the last token whose end is known; nothing while a block scalar was the last one.
        let mut behind = Some(0);
        let mut parser = Parser::new_from_str_with_options(source, options);
        while let Some(next) = parser.next() {
            let (event, span) = next.map_err(|error| fault(&error))?;
            let at = place(span.start);
            if event.is_node() {
                let check = tabs(source, &indents, flows);
                check.before(span)?;
                check.between(behind, span)?;
                // What stands for a value that is missing has no place of its own.
                behind = span.start.byte_offset().or(behind);
            }
            let (kind, anchor) = match event {
                Event::DocumentStart(_, version) => {
                    if version.is_some_and(|version| (version.major, version.minor) != (1, 1)) {
                        return Err(SyntaxError::at(at, "the %YAML directive names another version than 1.1"));
                    }
                    continue;
                }
                Event::DocumentEnd => {
                    tabs(source, &indents, flows).between(behind, span)?;
                    graph.end = span.end.index();
                    graph.more = another_document(&mut parser);
                    break;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    open.pop();
                    indents.pop();
                    if flows > 0 {
                        flows -= 1;
                        tabs(source, &indents, flows).after(span, false)?;
                        behind = span.end.byte_offset();
                    }
                    continue;
                }
                Event::Scalar(text, style, anchor, tag) => {
                    match style {
                        ScalarStyle::Literal | ScalarStyle::Folded => behind = None,
                        _ => {
                            let plain = style == ScalarStyle::Plain && !text.is_empty();
                            behind = behind_scalar(source, span, plain).or(behind);
                            tabs(source, &indents, flows).after(span, plain)?;
                        }
                    }
                    check_separators(separators, span)?;
                    let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
                    // The tag `!` alone asks for the type of the plain scalar, whatever its style.
                    let unspecific = tag.as_deref() == Some("!");
                    let plain = unspecific || style == ScalarStyle::Plain && tag.is_none();
                    let tag = tag.filter(|_| !unspecific);
                    (RawKind::Scalar { text: Zeroizing::new(text.into_owned()), plain, tag }, anchor)
                }
                Event::SequenceStart(style, anchor, _) => {
                    indents.push(indent(style, span, &indents));
                    flows += usize::from(flows > 0 || style == StructureStyle::Flow);
                    (RawKind::List(Vec::new()), anchor)
                }
                Event::MappingStart(style, anchor, _) => {
                    indents.push(indent(style, span, &indents));
                    flows += usize::from(flows > 0 || style == StructureStyle::Flow);
                    (RawKind::Map(Vec::new()), anchor)
                }
                Event::Alias(anchor) => {
                    tabs(source, &indents, flows).after(span, false)?;
                    behind = span.end.byte_offset();
                    match anchors.get(&anchor) {
                        Some(node) => (RawKind::Alias(*node), 0),
                        None => return Err(SyntaxError::at(at, "an alias refers to an unknown anchor")),
                    }
                }
                _ => continue,
            };
            graph.add(RawNode { kind, place: at }, anchor, &mut anchors, &mut open)?;
        }
        Ok(graph)
    }

    fn add(
        &mut self,
        node: RawNode,
        anchor: usize,
        anchors: &mut HashMap<usize, usize>,
        open: &mut Vec<usize>,
    ) -> Result<(), SyntaxError> {
        let number = self.nodes.len();
        if number >= NODE_LIMIT {
            return Err(SyntaxError::at(node.place, "the YAML has too many values"));
        }
        if anchor != 0 {
            anchors.insert(anchor, number);
        }
        match open.last().and_then(|parent| self.nodes.get_mut(*parent)).map(|parent| &mut parent.kind) {
            Some(RawKind::List(children) | RawKind::Map(children)) => children.push(number),
            _ => self.root = Some(number),
        }
        if matches!(node.kind, RawKind::List(_) | RawKind::Map(_)) {
            open.push(number);
        }
        self.nodes.push(node);
        Ok(())
    }
}

/// YAML 1.1's grammar has no place for `...` before the first document.
fn refuse_leading_end(source: &str) -> Result<(), SyntaxError> {
    let blank = |line: &str| line.trim_matches([' ', '\t']).is_empty() || line.trim_start_matches(' ').starts_with('#');
    let Some((number, line)) = (1..).zip(source.split('\n')).find(|(_, line)| !blank(line)) else { return Ok(()) };
    if line.strip_prefix("...").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
        return Err(SyntaxError::at(Place { line: number, column: 1 }, "a document's end stands before any document"));
    }
    Ok(())
}

/// Where a scalar ends; a plain one is looked for in all the blanks behind it.
fn behind_scalar(source: &str, span: Span, plain: bool) -> Option<usize> {
    let end = span.end.byte_offset()?;
    let rest = source.get(end..)?;
    let blanks = rest.len() - rest.trim_start_matches([' ', '\t', '\n']).len();
    Some(if plain { end + blanks } else { end })
}

fn tabs<'a>(source: &'a str, indents: &[usize], flows: usize) -> TabCheck<'a> {
    TabCheck { source, indent: indents.last().copied(), in_flow: flows > 0 }
}

/// Upstream keeps these separators where a scalar goes over several lines. Nobody writes one; telling so is better than
/// reading another value than upstream.
fn check_separators(separators: &[usize], span: Span) -> Result<(), SyntaxError> {
    let first = separators.partition_point(|at| *at < span.start.index());
    if separators.get(first).is_some_and(|at| *at < span.end.index()) {
        return Err(SyntaxError::at(place(span.start), "a Unicode line separator within a value is not supported"));
    }
    Ok(())
}

fn indent(style: StructureStyle, span: Span, indents: &[usize]) -> usize {
    match style {
        StructureStyle::Block => span.start.col(),
        StructureStyle::Flow => indents.last().copied().unwrap_or_default(),
    }
}

/// Tabs where YAML 1.1's scanner refuses them and newer ones don't: in the lines that continue or follow a plain scalar, at
/// or before the column of the collection around it; and in front of whatever stands between the nodes of a block or
/// follows them, be it only a comment or the end of the text.
struct TabCheck<'a> {
    source: &'a str,
    /// The column of the collection around, none for the root.
    indent: Option<usize>,
    in_flow: bool,
}

impl TabCheck<'_> {
    fn after(&self, span: Span, plain: bool) -> Result<(), SyntaxError> {
        let (Some(start), Some(end)) = (span.start.byte_offset(), span.end.byte_offset()) else { return Ok(()) };
        let (mut line, mut column) = (span.start.line() as u64, span.start.col());
        // A quoted scalar may hold tabs; what counts begins behind it.
        let first = if plain { start } else { end };
        if !plain {
            (line, column) = (span.end.line() as u64, span.end.col());
        }
        let (mut leading, mut in_scalar, mut comment) = (false, plain, false);
        for (at, character) in self.source.get(first..).unwrap_or_default().char_indices() {
            match character {
                '\n' => {
                    (leading, comment) = (true, false);
                    line += 1;
                    column = 0;
                    continue;
                }
                _ if comment => {}
                '\t' if leading && self.refuses(column, in_scalar) => {
                    let place = Place { line, column: column as u64 + 1 };
                    return Err(SyntaxError::at(place, "found a tab character where indentation is expected"));
                }
                ' ' | '\t' => {}
                '#' if first + at >= end => (comment, in_scalar) = (true, false),
                _ if first + at >= end => return Ok(()),
                _ => leading = false,
            }
            column += 1;
        }
        Ok(())
    }

    /// In a block, where a key could begin: at the start of a line, or behind the dash of an item.
    fn before(&self, span: Span) -> Result<(), SyntaxError> {
        let before = span.start.byte_offset().and_then(|start| self.source.get(..start)).unwrap_or_default();
        let rest = before.trim_end_matches([' ', '\t']);
        let blanks = before.get(rest.len()..).unwrap_or_default();
        let item =
            || rest.strip_suffix(['-', '?']).is_some_and(|rest| rest.is_empty() || rest.ends_with([' ', '\t', '\n']));
        if !self.in_flow && blanks.contains('\t') && (rest.is_empty() || rest.ends_with('\n') || item()) {
            return Err(SyntaxError::at(place(span.start), "found a tab character where indentation is expected"));
        }
        Ok(())
    }

    /// At the start of any line between two nodes of a block, where upstream looks for a key.
    fn between(&self, behind: Option<usize>, span: Span) -> Result<(), SyntaxError> {
        let gap = behind.zip(span.start.byte_offset()).and_then(|(from, to)| self.source.get(from..to));
        let Some(gap) = gap.filter(|_| !self.in_flow) else { return Ok(()) };
        // What goes on from a node's line is no start of a line.
        let lines = if behind == Some(0) { Some(gap) } else { gap.split_once('\n').map(|(_, lines)| lines) };
        let Some(lines) = lines else { return Ok(()) };
        let first = span.start.line().saturating_sub(lines.matches('\n').count());
        for (number, line) in (first as u64..).zip(lines.split('\n')) {
            let indented = line.trim_start_matches(' ');
            if indented.starts_with('\t') {
                let column = (line.len() - indented.len()) as u64 + 1;
                let place = Place { line: number, column };
                return Err(SyntaxError::at(place, "found a tab character where indentation is expected"));
            }
        }
        Ok(())
    }

    fn refuses(&self, column: usize, in_scalar: bool) -> bool {
        if in_scalar { self.indent.is_some_and(|indent| column <= indent) } else { !self.in_flow }
    }
}

/// Where the next document's content begins, if the text has any. What is no YAML there is content, too.
fn another_document<'a>(parser: &mut Parser<'a, granit_parser::StrInput<'a>>) -> Option<Place> {
    for next in parser.by_ref() {
        match next {
            Err(error) => return Some(place(*error.marker())),
            Ok((Event::StreamEnd, _)) => return None,
            Ok((Event::Scalar(text, ScalarStyle::Plain, 0, None), _)) if text.is_empty() => {}
            Ok((event, span)) if event.is_node() => return Some(place(span.start)),
            Ok(_) => {}
        }
    }
    None
}

/// What tells a mapping's keys apart: whether it is a string, since `1` and `"1"` are two keys to the YAML library, and
/// the digest of its text, so that no second copy is kept of what may be a secret.
type Key = (bool, [u8; 32]);

/// A mapping while it is being filled: later values replace earlier ones unless fields repeat.
#[derive(Default)]
struct Mapping {
    fields: Vec<Field>,
    seen: HashMap<Key, usize>,
}

/// Walks the nodes as upstream's decoder does, with its count against aliases that explode.
struct Builder<'a> {
    graph: &'a Graph,
    /// The nodes that are being walked by way of an alias.
    open: Vec<bool>,
    visits: usize,
    by_alias: usize,
    aliases: usize,
    repeated: Vec<(Text, Place)>,
}

/// How many repeated fields are worth telling.
const REPEATED_LIMIT: usize = 1000;

/// Below this many visits nearly all may come from aliases.
const ALIAS_RATIO_LOW: usize = 400_000;
/// From this many visits on one in ten may.
const ALIAS_RATIO_HIGH: usize = 4_000_000;

fn allowed_alias_ratio(visits: usize) -> f64 {
    if visits <= ALIAS_RATIO_LOW {
        0.99
    } else if visits >= ALIAS_RATIO_HIGH {
        0.10
    } else {
        0.99 - 0.89 * ((visits - ALIAS_RATIO_LOW) as f64 / (ALIAS_RATIO_HIGH - ALIAS_RATIO_LOW) as f64)
    }
}

impl<'a> Builder<'a> {
    fn raw(&self, number: usize) -> Result<&'a RawNode, SyntaxError> {
        self.graph.nodes.get(number).ok_or_else(|| SyntaxError::new("an alias leads nowhere"))
    }

    fn count(&mut self, place: Place, depth: usize) -> Result<(), SyntaxError> {
        self.visits += 1;
        self.by_alias += usize::from(self.aliases > 0);
        let ratio = self.by_alias as f64 / self.visits as f64;
        if self.by_alias > 100 && self.visits > 1000 && ratio > allowed_alias_ratio(self.visits) {
            return Err(SyntaxError::at(place, "the document contains excessive aliasing"));
        }
        if depth > DEPTH_LIMIT || self.visits > NODE_LIMIT {
            return Err(SyntaxError::at(place, "the YAML nests too deep or has too many values"));
        }
        Ok(())
    }

    /// Runs `inner` on the node that an alias stands for, unless that node is being walked already.
    fn follow<T>(
        &mut self,
        alias: usize,
        target: usize,
        inner: impl FnOnce(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<T, SyntaxError> {
        let place = self.raw(alias)?.place;
        match self.open.get_mut(target) {
            Some(open) if !*open => *open = true,
            _ => return Err(SyntaxError::at(place, "an anchor's value contains itself")),
        }
        self.aliases += 1;
        let result = inner(self);
        self.aliases -= 1;
        if let Some(open) = self.open.get_mut(target) {
            *open = false;
        }
        result
    }

    fn node(&mut self, number: usize, depth: usize) -> Result<Node, SyntaxError> {
        let raw = self.raw(number)?;
        self.count(raw.place, depth)?;
        let value = match &raw.kind {
            RawKind::Alias(target) => {
                let node = self.follow(number, *target, |builder| builder.node(*target, depth + 1))?;
                return Ok(Node { value: node.value, place: raw.place });
            }
            RawKind::Scalar { text, plain, tag } => match scalar::resolve(text, *plain, tag.as_deref()) {
                Ok(scalar) => scalar.into_json().map_err(|message| SyntaxError::at(raw.place, message))?,
                Err(message) => return Err(SyntaxError::at(raw.place, message)),
            },
            RawKind::List(children) => {
                let items = children.iter().map(|child| self.node(*child, depth + 1)).collect::<Result<_, _>>()?;
                Value::List(items)
            }
            RawKind::Map(children) => {
                let mut mapping = Mapping::default();
                self.fill(&mut mapping, children, depth)?;
                mapping.fields.sort_by(|one, other| one.name.as_bytes().cmp(other.name.as_bytes()));
                Value::Map(mapping.fields)
            }
        };
        Ok(Node { value, place: raw.place })
    }

    fn fill(&mut self, mapping: &mut Mapping, children: &[usize], depth: usize) -> Result<(), SyntaxError> {
        for pair in children.chunks(2) {
            let [key, value] = pair else { return Err(SyntaxError::new("a mapping's key has no value")) };
            let raw = self.raw(*key)?;
            if is_merge(&raw.kind) {
                self.merge(mapping, *value, depth + 1)?;
                continue;
            }
            let (key, name) = self.key(*key, depth + 1)?;
            let field = Field { name, place: raw.place, value: self.node(*value, depth + 1)? };
            self.insert(mapping, key, field);
        }
        Ok(())
    }

    fn insert(&mut self, mapping: &mut Mapping, key: Key, field: Field) {
        match mapping.seen.get(&key).and_then(|index| mapping.fields.get_mut(*index)) {
            Some(earlier) => {
                if self.repeated.len() < REPEATED_LIMIT {
                    self.repeated.push((field.name.clone(), field.value.place));
                }
                *earlier = field;
            }
            None => {
                mapping.seen.insert(key, mapping.fields.len());
                mapping.fields.push(field);
            }
        }
    }

    /// `<<`: the fields of another mapping, or of several, of which the first has the last word.
    fn merge(&mut self, mapping: &mut Mapping, value: usize, depth: usize) -> Result<(), SyntaxError> {
        let raw = self.raw(value)?;
        match &raw.kind {
            RawKind::List(children) => {
                for child in children.iter().rev() {
                    self.merge_one(mapping, *child, depth + 1)?;
                }
                Ok(())
            }
            _ => self.merge_one(mapping, value, depth),
        }
    }

    fn merge_one(&mut self, mapping: &mut Mapping, number: usize, depth: usize) -> Result<(), SyntaxError> {
        let raw = self.raw(number)?;
        self.count(raw.place, depth)?;
        match &raw.kind {
            RawKind::Map(children) => self.fill(mapping, children, depth),
            RawKind::Alias(target) => match &self.raw(*target)?.kind {
                RawKind::Map(children) => {
                    self.follow(number, *target, |builder| builder.fill(mapping, children, depth + 1))
                }
                _ => Err(SyntaxError::at(raw.place, "a merge requires a map or a sequence of maps as its value")),
            },
            _ => Err(SyntaxError::at(raw.place, "a merge requires a map or a sequence of maps as its value")),
        }
    }

    fn key(&mut self, number: usize, depth: usize) -> Result<(Key, Text), SyntaxError> {
        let raw = self.raw(number)?;
        self.count(raw.place, depth)?;
        let RawKind::Scalar { text, plain, tag } = &raw.kind else {
            if let RawKind::Alias(target) = &raw.kind {
                return self.follow(number, *target, |builder| builder.key(*target, depth + 1));
            }
            return Err(SyntaxError::at(raw.place, "a list or mapping can't be a mapping's key"));
        };
        let scalar =
            scalar::resolve(text, *plain, tag.as_deref()).map_err(|message| SyntaxError::at(raw.place, message))?;
        let is_text = matches!(scalar, Scalar::Text(_));
        let name = scalar.into_key().map_err(|message| SyntaxError::at(raw.place, message))?;
        Ok(((is_text, Sha256::digest(name.as_bytes()).into()), name))
    }
}

fn is_merge(kind: &RawKind) -> bool {
    match kind {
        RawKind::Scalar { text, plain, tag } => {
            text.as_str() == "<<" && (*plain || tag.as_deref() == Some("tag:yaml.org,2002:merge"))
        }
        _ => false,
    }
}
