//! JSON, read as a stream: the whole document is checked and four strings of it are kept.
//!
//! API servers write valid UTF-8 and no field twice; a value that breaks this was not written by one, even
//! though a lenient reader such as Go's would take it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::{Encoding, Identity, PayloadError};

/// How many blanks may stand before the document for a value to count as JSON.
const MAX_LEADING_BLANKS: usize = 256;

/// Whether the first byte that is no blank opens an object.
pub(super) fn looks_like(plain: &[u8]) -> bool {
    plain.iter().take(MAX_LEADING_BLANKS).find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) == Some(&b'{')
}

/// The part of an object that tells which one it is; for YAML, too.
#[derive(serde::Deserialize)]
pub(super) struct Head<'p> {
    #[serde(borrow, default, rename = "apiVersion")]
    api_version: Text<'p>,
    #[serde(borrow, default)]
    kind: Text<'p>,
    #[serde(borrow, default)]
    metadata: Option<Metadata<'p>>,
}

#[derive(Default, serde::Deserialize)]
struct Metadata<'p> {
    #[serde(borrow, default)]
    name: Text<'p>,
    #[serde(borrow, default)]
    namespace: Text<'p>,
}

impl<'p> From<Head<'p>> for Identity<'p> {
    fn from(head: Head<'p>) -> Self {
        let metadata = head.metadata.unwrap_or_default();
        Self {
            api_version: head.api_version.0,
            kind: head.kind.0,
            name: metadata.name.0,
            namespace: metadata.namespace.0,
        }
    }
}

/// A string that is borrowed where it has no escapes; null is the empty one.
#[derive(Default)]
struct Text<'p>(Cow<'p, str>);

impl<'de: 'p, 'p> Deserialize<'de> for Text<'p> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Text::default())
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Text::default())
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                deserializer.deserialize_str(self)
            }
        }
        deserializer.deserialize_option(TextVisitor)
    }
}

/// Reads the whole value.
pub(super) fn identify(plain: &[u8]) -> Result<Identity<'_>, PayloadError> {
    let malformed = |offset, fault| PayloadError::Malformed { encoding: Encoding::Json, offset, fault };
    let text = std::str::from_utf8(plain).map_err(|error| malformed(error.valid_up_to(), "no UTF-8"))?;
    let head: Head<'_> = serde_json::from_str(text).map_err(|error| {
        // The error's own text may quote the value.
        let fault = match error.classify() {
            serde_json::error::Category::Eof => "cut off",
            serde_json::error::Category::Syntax => "no JSON",
            serde_json::error::Category::Data | serde_json::error::Category::Io => "a field that no object has",
        };
        malformed(byte_offset(text, error.line(), error.column()), fault)
    })?;
    Ok(head.into())
}

/// Where a line and column, both counted from 1, lie in a text.
fn byte_offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}
