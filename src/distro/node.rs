//! What a node says of encryption: whether it is a server, and the annotation with stage and hash.
//!
//! Upstream: `k3s-io/k3s`, `pkg/secretsencrypt/config.go` (`EncryptionHashAnnotation`).

use crate::kube::document::{Document, Node as Json};
use crate::kube::schema::{self, Dress};

/// The annotation's name behind the program's.
const HASH_ANNOTATION: &str = ".io/encryption-config-hash";

/// The label of servers.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// The most bytes of an annotation that are kept: a stage and a hash are far shorter.
const KEPT_BYTES: usize = 512;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether it has the label of servers.
    pub control_plane: bool,
    /// Stage and hash by K3s' annotation, as it stands.
    pub k3s: Option<String>,
    /// By RKE2's.
    pub rke2: Option<String>,
    /// It bears other annotations of K3s, or of RKE2.
    pub marks: (bool, bool),
}

impl Node {
    /// Reads a stored Node; none of what is no object.
    pub fn read(value: &[u8]) -> Option<Self> {
        let mut json = Vec::new();
        schema::to_json(value, &Dress { resource_version: None, managed_fields: false }, &mut json).ok()?;
        let document = Document::parse(&json).ok()?;
        let text = |path: &[&str]| document.root().find(path).and_then(Json::text);
        let annotation = |program: &str| {
            let name = format!("{program}{HASH_ANNOTATION}");
            let text = text(&["metadata", "annotations", &name])?;
            Some(text.chars().take(KEPT_BYTES).collect())
        };
        let bears = |prefix: &str| {
            let annotations = document.root().find(&["metadata", "annotations"]);
            let has = |(key, _): (Json<'_, '_>, _)| key.text().is_some_and(|key| key.starts_with(prefix));
            annotations.is_some_and(|annotations| annotations.members().any(has))
        };
        Some(Self {
            name: text(&["metadata", "name"])?.into_owned(),
            control_plane: text(&["metadata", "labels", CONTROL_PLANE]).is_some_and(|value| value == "true"),
            k3s: annotation("k3s"),
            rke2: annotation("rke2"),
            marks: (bears("k3s.io/"), bears("rke2.io/")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_and_annotations_are_read() {
        let value = br#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1","uid":"u","labels":
            {"node-role.kubernetes.io/control-plane":"true"},"annotations":{"rke2.io/encryption-config-hash":"start-00"}}}"#;
        let node = Node::read(value).expect("a node");
        assert_eq!((node.name.as_str(), node.control_plane), ("n1", true));
        assert_eq!((node.k3s, node.rke2.as_deref(), node.marks), (None, Some("start-00"), (false, true)));
        let agent = Node::read(br#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n2"}}"#).expect("a node");
        assert_eq!(agent, Node { name: "n2".to_owned(), ..Node::default() });
        assert_eq!(Node::read(b"k8s:enc:aescbc:v1:k:"), None);
    }
}
