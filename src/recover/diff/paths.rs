//! The fields in which two objects differ.

use std::borrow::Cow;

use crate::kube::document::{Node, Scalar};

/// So many fields are named at most.
pub const MAX_PATHS: usize = 1000;

/// The paths of the innermost fields that differ, in order, at most [`MAX_PATHS`]: `spec.replicas`, `spec.ports[0].port`,
/// `metadata.labels[app.kubernetes.io/name]`. What only one side has is named by its outermost field.
pub fn changed_paths(before: Node<'_, '_>, after: Node<'_, '_>) -> Vec<String> {
    let mut paths = Vec::new();
    walk(before, after, &mut String::new(), &mut paths);
    paths
}

// Documents are not nested deeper than `document::MAX_DEPTH`, so this is not, either.
fn walk(before: Node<'_, '_>, after: Node<'_, '_>, path: &mut String, paths: &mut Vec<String>) {
    if paths.len() >= MAX_PATHS {
        return;
    }
    match (before.scalar(), after.scalar()) {
        (Scalar::Object, Scalar::Object) => members(before, after, path, paths),
        (Scalar::Array, Scalar::Array) => items(before, after, path, paths),
        (one, other) if one == other => {}
        _ => paths.push(path.clone()),
    }
}

fn members(before: Node<'_, '_>, after: Node<'_, '_>, path: &mut String, paths: &mut Vec<String>) {
    let (before, after) = (before.sorted(), after.sorted());
    let (mut left, mut right) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((one, _)), Some((other, _))) => one.cmp(other),
        };
        let one = if order.is_le() { left.next() } else { None };
        let other = if order.is_ge() { right.next() } else { None };
        let Some((key, _)) = one.or(other) else { return };
        within(path, &step(key), |path| match (one, other) {
            (Some((_, one)), Some((_, other))) => walk(*one, *other, path, paths),
            _ if paths.len() < MAX_PATHS => paths.push(path.clone()),
            _ => {}
        });
    }
}

fn items(before: Node<'_, '_>, after: Node<'_, '_>, path: &mut String, paths: &mut Vec<String>) {
    let (mut left, mut right) = (before.items(), after.items());
    for index in 0.. {
        let (one, other) = (left.next(), right.next());
        if one.is_none() && other.is_none() {
            return;
        }
        within(path, &format!("[{index}]"), |path| match (one, other) {
            (Some(one), Some(other)) => walk(one, other, path, paths),
            _ if paths.len() < MAX_PATHS => paths.push(path.clone()),
            _ => {}
        });
    }
}

/// A key as a step of a path: in brackets where a dot would mislead.
fn step(key: &str) -> Cow<'_, str> {
    let is_plain =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'$'));
    if is_plain { Cow::Borrowed(key) } else { Cow::Owned(format!("[{key}]")) }
}

fn within(path: &mut String, step: &str, visit: impl FnOnce(&mut String)) {
    let length = path.len();
    if length > 0 && !step.starts_with('[') {
        path.push('.');
    }
    path.push_str(step);
    visit(path);
    path.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::document::Document;

    #[track_caller]
    fn check(before: &str, after: &str, expected: &[&str]) {
        let (before, after) = (Document::parse(before.as_bytes()).unwrap(), Document::parse(after.as_bytes()).unwrap());
        assert_eq!(changed_paths(before.root(), after.root()), expected);
    }

    #[test]
    fn the_innermost_fields_are_named() {
        check(r#"{"a":{"b":1,"c":2}}"#, r#"{"a":{"b":1,"c":3}}"#, &["a.c"]);
        check(r#"{"l":[{"p":1},2,3]}"#, r#"{"l":[{"p":2},2]}"#, &["l[0].p", "l[2]"]);
        check(r#"{"m":{"app.io/n":"x"}}"#, r#"{"m":{"app.io/n":"y","z":{"q":1}}}"#, &["m[app.io/n]", "m.z"]);
        check(r#"{"a":"\u0041","b":1}"#, r#"{"b":1,"a":"A"}"#, &[]);
        check(r#"{"a":{}}"#, r#"{"a":[]}"#, &["a"]);
        check("{}", "{}", &[]);
    }

    #[test]
    fn their_number_is_bounded() {
        let many = |value: u32| {
            let members: Vec<String> = (0..MAX_PATHS * 2).map(|n| format!("\"k{n}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        };
        let (one, other) = (many(1), many(2));
        let (one, other) = (Document::parse(one.as_bytes()).unwrap(), Document::parse(other.as_bytes()).unwrap());
        assert_eq!(changed_paths(one.root(), other.root()).len(), MAX_PATHS);
    }
}
