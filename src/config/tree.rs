//! The tree that both readers build: JSON's types, with the place of every node.
//!
//! Text and numbers may be secrets at any place of a configuration (a key in the wrong field, a secret that
//! looks like a number), so all of them live in memory that is wiped, and nothing here can be printed.

use zeroize::Zeroizing;

/// Where something stands in the file. Both numbers count from 1; the column counts characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

/// Text that may be a secret.
pub(super) type Text = Zeroizing<String>;

/// A value and its place.
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
}

/// JSON's six types. A number keeps its text: a configuration needs only one integer, and Go decides by the text.
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Text),
    Text(Text),
    List(Vec<Node>),
    Map(Vec<Field>),
}

/// A field of an object. Names may repeat, in the order of the file.
pub(super) struct Field {
    pub name: Text,
    pub place: Place,
    pub value: Node,
}

impl Value {
    /// The type's name in the words of Go's JSON library.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "array",
            Self::Map(_) => "object",
        }
    }
}

/// What keeps a text from being a tree.
#[derive(Debug)]
pub(super) struct SyntaxError {
    /// The reason, without any text of the file.
    pub message: String,
    /// Where, if it is known.
    pub place: Option<Place>,
}

impl SyntaxError {
    /// A fault at a place.
    pub(super) fn at(place: Place, message: impl Into<String>) -> Self {
        Self { message: message.into(), place: Some(place) }
    }

    /// A fault of the whole text.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None }
    }
}

/// How deep lists and objects may nest; a configuration needs seven levels. Upstream's bound is 10,000, but what lies
/// deeper than this is an unknown field to it anyway.
pub(super) const DEPTH_LIMIT: usize = 200;

/// How many nodes a tree may have, aliases expanded: far above a configuration, far below what exhausts memory.
pub(super) const NODE_LIMIT: usize = 1_000_000;

/// Bytes as text the way Go's libraries take them: each byte that is no UTF-8 becomes U+FFFD.
pub(super) fn go_text(bytes: &[u8]) -> Text {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len()));
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for _ in chunk.invalid() {
            text.push('\u{fffd}');
        }
    }
    text
}
