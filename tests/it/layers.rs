//! Holds the source to its layers: a module imports only what lies below it.
//!
//! The source is read as text: comments and literals are taken out, and every path that begins with `crate` or `super`
//! is followed to the module it names, through groups and inline modules.

use std::fs;
use std::path::Path;

/// A layer, and what it may use. Everything may use itself.
type Layer = (&'static str, &'static [&'static str]);

const LAYERS: [Layer; 17] = [
    (GROUND, &[]),
    ("output", &[]),
    ("grpc", &[]),
    ("live", &["grpc"]),
    ("bbolt", &[]),
    ("kine", &[]),
    ("provider", &[]),
    ("kube", &[]),
    ("etcd", &["bbolt"]),
    ("config", &["kube", "provider"]),
    ("plugin", &["grpc", "provider"]),
    ("source", &["bbolt", "etcd", "kine", "live"]),
    ("distro", &["source", "etcd", "kine", "config", "kube", "provider"]),
    ("audit", &["source", "config", "plugin", "kube", "provider", "distro"]),
    // A value is judged in one place, whether it is to be told of or to be written anew; pages are written by `bbolt`.
    (
        "rewrite",
        &["audit", "source", "config", "plugin", "kube", "provider", "distro", "etcd", "kine", "live", "bbolt"],
    ),
    ("recover", &["audit", "source", "config", "plugin", "kube", "provider", "distro", "etcd", "bbolt"]),
    // Of `config` and `source` a report renders what their checks found, and nothing else.
    ("report", &["audit", "rewrite", "recover", "distro", "config", "source", "live"]),
];

/// Everything may use this.
const GROUND: &str = "lock";

/// These may use everything.
const TOPS: [&str; 3] = ["cli", "main", "lib"];

/// A piece of source text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(char),
}

/// What of a source file is neither comment nor literal, with the lines.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = source.chars().collect();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let end = match (c, next) {
            ('/', Some('/')) => position(&chars, at, |rest| rest.first() == Some(&'\n')),
            ('/', Some('*')) => block_comment(&chars, at),
            ('"', _) => string(&chars, at),
            ('r', Some('"' | '#')) if raw_hashes(&chars, at).is_some() => raw_string(&chars, at),
            ('\'', Some(_)) => character(&chars, at),
            _ if c.is_alphanumeric() || c == '_' => {
                let end = position(&chars, at, |rest| !rest.iter().take(1).all(|c| c.is_alphanumeric() || *c == '_'));
                found.push((line, Token::Word(chars.iter().take(end).skip(at).collect())));
                end
            }
            _ => {
                if !c.is_whitespace() {
                    found.push((line, Token::Sign(c)));
                }
                at + 1
            }
        };
        line += chars.iter().take(end).skip(at).filter(|c| **c == '\n').count();
        at = end;
    }
    found
}

/// The first position from `at` on where something holds, or the end.
fn position(chars: &[char], at: usize, holds: impl Fn(&[char]) -> bool) -> usize {
    (at..chars.len()).find(|at| holds(chars.get(*at..).unwrap_or_default())).unwrap_or(chars.len())
}

fn block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut at) = (0_usize, at);
    loop {
        match (chars.get(at), chars.get(at + 1)) {
            (Some('/'), Some('*')) => (depth, at) = (depth + 1, at + 2),
            (Some('*'), Some('/')) if depth == 1 => return at + 2,
            (Some('*'), Some('/')) => (depth, at) = (depth - 1, at + 2),
            (Some(_), _) => at += 1,
            (None, _) => return at,
        }
    }
}

fn string(chars: &[char], at: usize) -> usize {
    let mut at = at + 1;
    loop {
        match chars.get(at) {
            Some('\\') => at += 2,
            Some('"') | None => return at + 1,
            Some(_) => at += 1,
        }
    }
}

fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars.iter().skip(at + 1).take_while(|c| **c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn raw_string(chars: &[char], at: usize) -> usize {
    let hashes = raw_hashes(chars, at).unwrap_or_default();
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    position(chars, at + 2 + hashes, |rest| rest.starts_with(&close)) + close.len()
}

/// A character literal, or just the quote of a lifetime.
fn character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => position(chars, at + 3, |rest| rest.first() == Some(&'\'')) + 1,
        (_, Some('\'')) => at + 3,
        _ => at + 1,
    }
}

/// Walks over a file's tokens and notes which layers it names.
struct Walk<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    /// Where the file's own text stands in the tree of modules, inline modules included.
    module: Vec<String>,
    /// For every open brace, whether it is that of an inline module.
    braces: Vec<bool>,
    named: Vec<(usize, String)>,
}

impl Walk<'_> {
    fn word(&self, ahead: usize) -> Option<&str> {
        match self.tokens.get(self.at + ahead) {
            Some((_, Token::Word(word))) => Some(word),
            _ => None,
        }
    }

    fn sign(&self, ahead: usize) -> Option<char> {
        match self.tokens.get(self.at + ahead) {
            Some((_, Token::Sign(sign))) => Some(*sign),
            _ => None,
        }
    }

    fn path_goes_on(&self) -> bool {
        (self.sign(0), self.sign(1)) == (Some(':'), Some(':'))
    }

    fn file(&mut self) {
        while self.at < self.tokens.len() {
            if self.word(0) == Some("mod") && self.sign(2) == Some('{') {
                self.module.extend(self.word(1).map(str::to_owned));
                self.braces.push(true);
                self.at += 3;
            } else if matches!(self.word(0), Some("crate" | "super")) {
                self.path(self.module.clone());
            } else {
                match self.sign(0) {
                    Some('{') => self.braces.push(false),
                    Some('}') if self.braces.pop() == Some(true) => drop(self.module.pop()),
                    _ => {}
                }
                self.at += 1;
            }
        }
    }

    /// A path, from the module that it is relative to. What it names matters only where that is the crate's root.
    fn path(&mut self, mut base: Vec<String>) {
        loop {
            match self.word(0) {
                Some("crate") => base.clear(),
                Some("super") => drop(base.pop()),
                Some("self") => {}
                Some(_) | None => return self.names(base),
            }
            self.at += 1;
            if !self.path_goes_on() {
                return;
            }
            self.at += 2;
        }
    }

    fn names(&mut self, base: Vec<String>) {
        if self.sign(0) == Some('{') {
            return self.group(&base);
        }
        if base.is_empty() {
            let line = self.tokens.get(self.at).map_or(0, |(line, _)| *line);
            let name = self.word(0).map_or("everything".to_owned(), str::to_owned);
            self.named.push((line, name));
        }
    }

    fn group(&mut self, base: &[String]) {
        self.at += 1;
        loop {
            self.path(base.to_vec());
            // What is below the first segment of an element is the same layer.
            let mut depth = 0_usize;
            loop {
                match self.sign(0) {
                    Some('{') => depth += 1,
                    Some('}') if depth == 0 => {
                        self.at += 1;
                        return;
                    }
                    Some('}') => depth -= 1,
                    Some(',') if depth == 0 => break,
                    _ if self.at >= self.tokens.len() => return,
                    _ => {}
                }
                self.at += 1;
            }
            self.at += 1;
            if self.sign(0) == Some('}') {
                self.at += 1;
                return;
            }
        }
    }
}

/// The module that a file is, from its path below `src`.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// What is wrong with a file's imports, a line each.
fn faults(path: &str, source: &str) -> Vec<String> {
    let module = module_of(Path::new(path));
    let layer = module.first().cloned().unwrap_or_default();
    if TOPS.contains(&layer.as_str()) {
        return Vec::new();
    }
    let Some((_, uses)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("src/{path}: {layer} is no layer; give it a place in tests/it/layers.rs")];
    };
    let tokens = tokens(source);
    let mut walk = Walk { tokens: &tokens, at: 0, module, braces: Vec::new(), named: Vec::new() };
    walk.file();
    let upward =
        walk.named.into_iter().filter(|(_, name)| *name != layer && name != GROUND && !uses.contains(&name.as_str()));
    upward.map(|(line, name)| format!("src/{path}:{line}: {layer} must not use {name}")).collect()
}

fn check_folder(folder: &Path, root: &Path, found: &mut Vec<String>) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(folder).expect("a folder of the source") {
        let path = entry.expect("an entry of the source").path();
        if path.is_dir() {
            files += check_folder(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(root).expect("a path below src").to_string_lossy().into_owned();
            found.extend(faults(&below, &fs::read_to_string(&path).expect("source is text")));
            files += 1;
        }
    }
    files
}

#[test]
fn imports_go_downward_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let files = check_folder(&root, &root, &mut found);
    assert!(files > 5, "only {files} files were found");
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_layer_uses_only_what_lies_below_it() {
    // The table itself must have no cycle: every layer uses only such as stand before it.
    for (at, (name, uses)) in LAYERS.iter().enumerate() {
        for used in *uses {
            assert!(LAYERS.iter().take(at).any(|(below, _)| below == used), "{name} uses {used}");
        }
    }
}

#[test]
fn an_upward_import_is_found_in_every_form() {
    for source in [
        "use crate::audit::run;",
        "use crate::{audit, bbolt};",
        "use crate::{bbolt::{page, meta}, audit::{self, run}};",
        "use crate::{\n    bbolt::Page,\n    audit,\n};",
        "pub use crate :: audit;",
        "fn f() { crate::audit::run() }",
        "fn f(a: crate::audit::Finding) {}",
        "use super::super::audit;",
        "use super::{super::audit, page};",
        "mod tests { use super::super::super::audit; }",
        "mod tests { mod more { fn f() {} } use super::super::super::audit; }",
        "const Q: char = '\\''; use crate::audit;",
        "fn f<'a>(a: &'a str) -> &'a str { crate::audit::f(a) }",
        "const R: &str = r#\"a \" b\"#; use crate::audit;",
        "/* a /* b */ */ use crate::audit;",
    ] {
        assert_eq!(faults("etcd/schema.rs", source).len(), 1, "{source}");
    }
    assert_eq!(faults("bbolt/page.rs", "\n\nuse crate::etcd;"), ["src/bbolt/page.rs:3: bbolt must not use etcd"]);
    assert_eq!(faults("bbolt.rs", "use crate::*;"), ["src/bbolt.rs:1: bbolt must not use everything"]);
    assert_eq!(faults("kine.rs", "use super::etcd;"), ["src/kine.rs:1: kine must not use etcd"]);
    assert_eq!(faults("novel/part.rs", "").len(), 1);
}

#[test]
fn a_downward_import_and_a_mere_mention_are_fine() {
    for source in [
        "use crate::bbolt::{Page, audit};",
        "use crate::{bbolt::{self, audit}, etcd::audit};",
        "use super::audit;",
        "use super::{audit, super::bbolt};",
        "mod tests { use super::super::audit; }",
        "pub(crate) fn f() {} pub(in crate::etcd) fn g() {}",
        "// use crate::audit;",
        "//! See [`crate::audit`].",
        "/* use crate::audit; */",
        "const A: &str = \"use crate::audit; \\\" crate::audit\";",
        "const A: &str = r##\"crate::audit \"# crate::audit\"##;",
        "const A: char = '\"'; // crate::audit",
    ] {
        assert_eq!(faults("etcd/schema.rs", source), [] as [String; 0], "{source}");
    }
    assert_eq!(faults("cli/audit.rs", "use crate::bbolt::page;"), [] as [String; 0]);
}
