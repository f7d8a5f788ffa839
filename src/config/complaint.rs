//! What is wrong with a configuration, in upstream's words and without the values that it would quote.

use std::fmt;

use super::base64;
use super::tree::Place;

/// How far kube-apiserver gets with a file. Each stage is reached only when the one before found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The file as such: empty, too large.
    File,
    /// It is neither JSON nor YAML.
    Syntax,
    /// `apiVersion` and `kind`.
    Kind,
    /// A field has the wrong type.
    Decode,
    /// An unknown field, or the same field twice.
    Strict,
    /// The rules for the content.
    Validation,
    /// The providers were being built: a rule that an earlier wildcard masks.
    Transformers,
}

impl Stage {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Syntax => "syntax",
            Self::Kind => "kind",
            Self::Decode => "decode",
            Self::Strict => "strict",
            Self::Validation => "validation",
            Self::Transformers => "transformers",
        }
    }
}

/// One reason why kube-apiserver would not start with the file.
///
/// Displayed, it is `path: message`. In the stage of validation the message begins as upstream's does, with
/// `Required value: ` or `Invalid value: `, but the value itself is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The stage.
    pub stage: Stage,
    /// Which field, such as `resources[0].providers[1].aescbc.keys`; empty where it is about the whole file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// The line, counted from 1, where it is known.
    pub line: Option<u64>,
    /// The column in characters, counted from 1, where it is known.
    pub column: Option<u64>,
}

impl Complaint {
    /// A complaint about a place.
    pub(super) fn at(stage: Stage, path: impl Into<String>, place: Place, message: impl Into<String>) -> Self {
        Self { stage, path: path.into(), message: message.into(), line: Some(place.line), column: Some(place.column) }
    }

    /// A complaint about the whole file.
    pub(super) fn whole(stage: Stage, message: impl Into<String>) -> Self {
        Self { stage, path: String::new(), message: message.into(), line: None, column: None }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// How much of a name a message shows.
const QUOTED_CHARACTERS: usize = 100;

/// The shortest run of base64 characters that is taken for a key: 16 bytes make 22 of them.
const SECRET_CHARACTERS: usize = 22;

/// A name out of the file, fit for a message: shortened, control characters escaped, and hidden where it may be a key
/// that went to the wrong place (it decodes to a key's length, or holds a long run of base64 with more than letters).
pub(super) fn quotable(name: &str) -> String {
    if may_be_secret(name) {
        return "REDACTED".to_owned();
    }
    let mut quoted = String::new();
    for character in name.chars().take(QUOTED_CHARACTERS) {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted.extend(character.escape_default()),
            _ => quoted.push(character),
        }
    }
    if name.chars().nth(QUOTED_CHARACTERS).is_some() {
        quoted.push_str("...");
    }
    quoted
}

fn may_be_secret(name: &str) -> bool {
    let packed = name.trim();
    let decodes = base64::decode(packed).is_some_and(|bytes| matches!(bytes.len(), 16 | 24 | 32));
    let base64_character = |character: char| character.is_ascii_alphanumeric() || matches!(character, '+' | '/' | '=');
    let suspicious = |run: &str| {
        run.len() >= SECRET_CHARACTERS
            && run.bytes().any(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'='))
            && run.bytes().any(|byte| byte.is_ascii_lowercase() || byte.is_ascii_uppercase())
    };
    // Letters alone are a word, were they 32: no random key looks like that.
    let word = packed.bytes().all(|byte| byte.is_ascii_lowercase());
    decodes && !word || name.split(|character| !base64_character(character)).any(suspicious)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_and_keys_are_not() {
        for name in [
            "unknown",
            "apiserver.config.k8s.io/v1",
            "pandas.awesome.bears.example",
            "a\u{e9}",
            "EncryptionConfiguration",
        ] {
            assert_eq!(quotable(name), name);
        }
        assert_eq!(quotable("a\n\"b"), "a\\n\\\"b");
        for key in
            ["c2VjcmV0IGlzIHNlY3VyZQ==", "x: 6gYBhZxmqbFUUG9Z80pGN0MotaH+djl/tv0YIl687cQ=", "MDEyMzQ1Njc4OWFiY2RlZg"]
        {
            assert_eq!(quotable(key), "REDACTED");
        }
    }
}
