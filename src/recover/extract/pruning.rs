//! An object with some of its fields taken out, and the names of those.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use crate::kube::document::{Node, Scalar};

/// What is taken out of one document.
pub struct Pruning<'n, 'd> {
    root: Node<'n, 'd>,
    dropped: BTreeSet<usize>,
    removed: Vec<String>,
}

impl<'n, 'd> Pruning<'n, 'd> {
    /// Nothing yet.
    pub fn of(root: Node<'n, 'd>) -> Self {
        Self { root, dropped: BTreeSet::new(), removed: Vec::new() }
    }

    /// The object.
    pub fn root(&self) -> Node<'n, 'd> {
        self.root
    }

    /// Takes out what a path leads to, and nothing where it leads nowhere. It is not named: everybody expects it.
    pub fn drop_silently(&mut self, path: &[&str]) {
        if let Some(node) = self.root.find(path) {
            self.dropped.insert(node.number());
        }
    }

    /// Takes out what a path leads to.
    pub fn drop(&mut self, path: &[&str]) {
        if let Some(node) = self.root.find(path) {
            self.drop_node(node, path.join("."));
        }
    }

    /// Takes out a value that is called `name`.
    pub fn drop_node(&mut self, node: Node<'_, '_>, name: String) {
        if self.dropped.insert(node.number()) {
            self.removed.push(name);
        }
    }

    /// Takes members out of the mapping that a path leads to, and the mapping where none is left.
    pub fn drop_members(&mut self, path: &[&str], mut goes: impl FnMut(&str, Node<'n, 'd>) -> bool) {
        let Some(node) = self.root.find(path) else { return };
        for (key, value) in node.members() {
            let key = key.text().unwrap_or_default();
            if goes(&key, value) {
                self.drop_node(value, format!("{}[{key}]", path.join(".")));
            }
        }
        self.drop_emptied(node);
    }

    /// Takes items out of the list that a path leads to, and the list where none is left.
    pub fn drop_items(&mut self, path: &[&str], goes: impl FnMut(Node<'n, 'd>) -> bool) {
        if let Some(node) = self.root.find(path) {
            self.drop_items_of(node, &path.join("."), goes);
        }
    }

    /// The same of a list that is at hand.
    pub fn drop_items_of(&mut self, node: Node<'n, 'd>, name: &str, mut goes: impl FnMut(Node<'n, 'd>) -> bool) {
        for (index, item) in node.items().enumerate() {
            if goes(item) {
                self.drop_node(item, format!("{name}[{index}]"));
            }
        }
        self.drop_emptied(node);
    }

    /// Takes out every member of a name, however deep, and what then is empty.
    pub fn drop_everywhere(&mut self, name: &str) {
        let mut waiting = vec![self.root];
        while let Some(node) = waiting.pop() {
            for (key, value) in node.members() {
                if key.text().is_some_and(|key| key == name) {
                    self.drop_node(value, name.to_owned());
                } else {
                    waiting.push(value);
                }
            }
            waiting.extend(node.items());
        }
    }

    fn drop_emptied(&mut self, node: Node<'_, '_>) {
        let mut children = node.items().chain(node.members().map(|(_, value)| value)).peekable();
        if children.peek().is_some() && children.all(|child| self.dropped.contains(&child.number())) {
            self.dropped.insert(node.number());
        }
    }

    /// What is left, as JSON, and the names of what was taken out.
    pub fn finish(self) -> (Zeroizing<Vec<u8>>, Vec<String>) {
        let mut json = Zeroizing::new(Vec::new());
        self.root.write_without(&self.dropped, &mut json);
        (json, self.removed)
    }
}

/// The text that a path leads to; empty where there is none.
pub fn text(root: Node<'_, '_>, path: &[&str]) -> String {
    root.find(path).and_then(|node| node.text()).unwrap_or_default().into_owned()
}

/// Whether a path leads to `true`.
pub fn is_true(root: Node<'_, '_>, path: &[&str]) -> bool {
    root.find(path).is_some_and(|node| node.scalar() == Scalar::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::document::Document;

    #[test]
    fn fields_go_with_what_is_empty_then_and_are_named() {
        let document = Document::parse(
            br#"{"m":{"uid":"u","labels":{"a":"1","b":"2"},"gone":{"x":1}},"l":[{"k":1},{"k":2}],"all":[3],"deep":[{"$u":1,"v":{"$u":2}}]}"#,
        );
        let document = document.unwrap();
        let mut pruning = Pruning::of(document.root());
        pruning.drop_silently(&["m", "uid"]);
        pruning.drop(&["m", "missing"]);
        pruning.drop_members(&["m", "labels"], |key, _| key == "a");
        pruning.drop_members(&["m", "gone"], |_, _| true);
        pruning.drop_items(&["l"], |item| item.get("k").and_then(Node::integer) == Some(2));
        pruning.drop_items(&["all"], |_| true);
        pruning.drop_everywhere("$u");
        let (json, removed) = pruning.finish();
        assert_eq!(
            std::str::from_utf8(&json).unwrap(),
            r#"{"deep":[{"v":{}}],"l":[{"k":1}],"m":{"labels":{"b":"2"}}}"#
        );
        assert_eq!(removed, ["m.labels[a]", "m.gone[x]", "l[1]", "all[0]", "$u", "$u"]);
    }
}
