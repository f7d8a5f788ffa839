//! What controllers and API servers make by themselves, by rules.
//!
//! | object | is generated if |
//! |---|---|
//! | any | an owner reference with `controller: true` names an object that is extracted with it |
//! | Endpoints | its Service is extracted and has a selector, or it only holds a leader's lock |
//! | EndpointSlice | its label `endpointslice.kubernetes.io/managed-by` names a controller of Kubernetes |
//! | ConfigMap | `kube-root-ca.crt`, `openshift-service-ca.crt`; the two of the API server in `kube-system` |
//! | ServiceAccount | `default` without anything that somebody set |
//! | Namespace | one of the four that every cluster has, with nothing but its own label |
//! | ClusterRole, Role and bindings | label `kubernetes.io/bootstrapping` and annotation `autoupdate` not `false` |
//! | FlowSchema, PriorityLevelConfiguration | annotation `apf.kubernetes.io/autoupdate-spec: "true"` |
//! | Event, Lease, Node, CSINode, VolumeAttachment, ... | always: what servers, kubelets and drivers write for themselves, see [`clusters_own`] |
//!
//! Upstream: `pkg/controller` and `plugin/pkg/auth/authorizer/rbac/bootstrappolicy` of `kubernetes/kubernetes`.

use crate::kube::document::{Node, Scalar};
use crate::kube::resource::GroupResource;
use crate::source::trace::TraceKey;

use super::pruning::{is_true, text};

/// What has to be known of the other objects: which there are.
pub struct Others {
    key: TraceKey,
    /// Digests of uids.
    uids: Vec<u128>,
    /// Digests of namespaces and names of Services with a selector.
    selecting: Vec<u128>,
}

impl Others {
    /// None yet.
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { key: TraceKey::random()?, uids: Vec::new(), selecting: Vec::new() })
    }

    /// What of an object others may ask for: its uid and, of a Service that selects, its name.
    pub fn of(
        &self,
        resource: &GroupResource,
        (namespace, name): (&str, &str),
        root: Node<'_, '_>,
    ) -> (u128, Option<u128>) {
        let uid = self.key.digest(text(root, &["metadata", "uid"]).as_bytes());
        let selector = root.find(&["spec", "selector"]);
        let selects = selector.is_some_and(|selector| selector.members().next().is_some());
        let is_service = resource.group.is_empty() && resource.resource == "services";
        (uid, (is_service && selects).then(|| self.place(namespace, name)))
    }

    /// Takes what [`of`](Self::of) gave.
    pub fn add(&mut self, (uid, selecting): (u128, Option<u128>)) {
        self.uids.push(uid);
        self.selecting.extend(selecting);
    }

    /// All are there.
    pub fn settle(&mut self) {
        self.uids.sort_unstable();
        self.selecting.sort_unstable();
    }

    fn place(&self, namespace: &str, name: &str) -> u128 {
        self.key.digest(format!("{namespace}/{name}").as_bytes())
    }

    fn has_uid(&self, uid: &str) -> bool {
        !uid.is_empty() && self.uids.binary_search(&self.key.digest(uid.as_bytes())).is_ok()
    }

    fn selects(&self, namespace: &str, name: &str) -> bool {
        self.selecting.binary_search(&self.place(namespace, name)).is_ok()
    }
}

/// Who writes for himself what no other cluster can use: its servers, kubelets and drivers do; none for all other objects.
pub fn clusters_own(
    resource: &GroupResource,
    (namespace, name): (&str, &str),
    root: Node<'_, '_>,
) -> Option<&'static str> {
    let label = |name: &str| text(root, &["metadata", "labels", name]);
    let is_kubernetes = (namespace, name) == ("default", "kubernetes");
    Some(match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "nodes") => "kubelets register their nodes",
        ("", "events") => "an event tells what happened elsewhere",
        ("", "services" | "endpoints") | ("discovery.k8s.io", "endpointslices") if is_kubernetes => {
            "every API server makes its own"
        }
        // The API server keeps names that begin so for itself.
        ("scheduling.k8s.io", "priorityclasses") if name.starts_with("system-") => "every API server makes its own",
        ("networking.k8s.io", "servicecidrs") if name == "kubernetes" => "every API server makes its own",
        ("networking.k8s.io", "ipaddresses") if label("ipaddress.kubernetes.io/managed-by") == "ipallocator.k8s.io" => {
            "addresses are allocated with their Services"
        }
        ("apiregistration.k8s.io", "apiservices") if !label("kube-aggregator.kubernetes.io/automanaged").is_empty() => {
            "every API server makes its own"
        }
        ("coordination.k8s.io", _) => "a lease is of its moment",
        ("storage.k8s.io", "csinodes" | "volumeattachments" | "csistoragecapacities")
        | ("resource.k8s.io", "resourceslices") => "drivers report it by themselves",
        ("internal.apiserver.k8s.io", "storageversions") | ("security.openshift.io", "rangeallocations") => {
            "every API server makes its own"
        }
        _ => return None,
    })
}

/// Who makes an object by himself, once what it is made for is there; none if nobody does.
pub fn generated(
    resource: &GroupResource,
    (namespace, name): (&str, &str),
    root: Node<'_, '_>,
    others: &Others,
) -> Option<&'static str> {
    let label = |name: &str| text(root, &["metadata", "labels", name]);
    let annotation = |name: &str| text(root, &["metadata", "annotations", name]);
    if is_controlled(root, others) {
        return Some("its controller, which is extracted, makes it");
    }
    Some(match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "endpoints") if others.selects(namespace, name) => "its Service has it made",
        ("", "endpoints") if !annotation("control-plane.alpha.kubernetes.io/leader").is_empty() => "a leader's lock",
        ("discovery.k8s.io", "endpointslices")
            if label("endpointslice.kubernetes.io/managed-by").ends_with("-controller.k8s.io") =>
        {
            "its Service has it made"
        }
        ("", "configmaps") if matches!(name, "kube-root-ca.crt" | "openshift-service-ca.crt") => {
            "every namespace is given one"
        }
        ("", "configmaps")
            if namespace == "kube-system"
                && matches!(
                    name,
                    "extension-apiserver-authentication" | "kube-apiserver-legacy-service-account-token-tracking"
                ) =>
        {
            "every API server makes its own"
        }
        ("", "serviceaccounts") if name == "default" && is_untouched_account(root) => "every namespace is given one",
        ("", "namespaces")
            if matches!(name, "default" | "kube-system" | "kube-public" | "kube-node-lease")
                && has_only(root, &["metadata", "labels"], "kubernetes.io/metadata.name")
                && has_only(root, &["metadata", "annotations"], "") =>
        {
            "every cluster has it"
        }
        ("rbac.authorization.k8s.io", _)
            if !label("kubernetes.io/bootstrapping").is_empty()
                && annotation("rbac.authorization.kubernetes.io/autoupdate") != "false" =>
        {
            "every API server makes its own"
        }
        ("flowcontrol.apiserver.k8s.io", _) if annotation("apf.kubernetes.io/autoupdate-spec") == "true" => {
            "every API server makes its own"
        }
        _ => return None,
    })
}

fn is_controlled(root: Node<'_, '_>, others: &Others) -> bool {
    let references = root.find(&["metadata", "ownerReferences"]);
    references.is_some_and(|references| {
        references
            .items()
            .any(|reference| is_true(reference, &["controller"]) && others.has_uid(&text(reference, &["uid"])))
    })
}

/// Whether a mapping has no other member than this one.
fn has_only(root: Node<'_, '_>, path: &[&str], only: &str) -> bool {
    root.find(path).is_none_or(|node| node.members().all(|(key, _)| key.text().is_some_and(|key| key == only)))
}

/// Whether an account names nothing but what was made for it.
fn is_untouched_account(root: Node<'_, '_>) -> bool {
    let made = |path: &str| {
        root.get(path).is_none_or(|list| {
            list.items().all(|item| {
                let name = text(item, &["name"]);
                name.starts_with("default-token-") || name.starts_with("default-dockercfg-")
            })
        })
    };
    let automount = root.get("automountServiceAccountToken").is_none_or(|node| node.scalar() == Scalar::Null);
    made("secrets")
        && made("imagePullSecrets")
        && automount
        && has_only(root, &["metadata", "labels"], "")
        && has_only(root, &["metadata", "annotations"], "openshift.io/internal-registry-pull-secret-ref")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube::document::Document;

    #[track_caller]
    fn check(resource: &str, namespace: &str, object: &Value, is_generated: bool) {
        let mut others = Others::new().unwrap();
        for (resource, place, known) in [
            ("deployments.apps", ("a", "web"), json!({"metadata": {"uid": "u1"}})),
            ("services", ("a", "web"), json!({"metadata": {"uid": "u2"}, "spec": {"selector": {"app": "web"}}})),
            ("services", ("a", "outside"), json!({"metadata": {"uid": "u3"}, "spec": {}})),
        ] {
            let text = known.to_string();
            let document = Document::parse(text.as_bytes()).unwrap();
            let of = others.of(&GroupResource::parse(resource), place, document.root());
            others.add(of);
        }
        others.settle();
        let text = object.to_string();
        let document = Document::parse(text.as_bytes()).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        let said = generated(&GroupResource::parse(resource), (namespace, name), document.root(), &others);
        assert_eq!(said.is_some(), is_generated, "{resource} {object}: {said:?}");
    }

    #[test]
    fn what_a_controller_makes_is_told_from_what_somebody_wrote() {
        let owned = |uid: &str, controller: bool| json!({"metadata": {"name": "web-1", "ownerReferences": [{"uid": uid, "controller": controller}]}});
        check("replicasets.apps", "a", &owned("u1", true), true);
        check("replicasets.apps", "a", &owned("u1", false), false);
        check("replicasets.apps", "a", &owned("gone", true), false);
        check("endpoints", "a", &json!({"metadata": {"name": "web"}}), true);
        check("endpoints", "a", &json!({"metadata": {"name": "outside"}}), false);
        let slice =
            |by: &str| json!({"metadata": {"name": "web-x", "labels": {"endpointslice.kubernetes.io/managed-by": by}}});
        check("endpointslices.discovery.k8s.io", "a", &slice("endpointslice-controller.k8s.io"), true);
        check("endpointslices.discovery.k8s.io", "a", &slice("me"), false);
        check("configmaps", "a", &json!({"metadata": {"name": "kube-root-ca.crt"}}), true);
        check(
            "serviceaccounts",
            "a",
            &json!({"metadata": {"name": "default"}, "secrets": [{"name": "default-token-x"}]}),
            true,
        );
        check(
            "serviceaccounts",
            "a",
            &json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "mine"}]}),
            false,
        );
        let namespace = |labels: Value| json!({"metadata": {"name": "kube-system", "labels": labels}});
        check("namespaces", "", &namespace(json!({"kubernetes.io/metadata.name": "kube-system"})), true);
        check("namespaces", "", &namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"})), false);
        let role = |update: &str| {
            json!({"metadata": {"name": "view", "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                                          "annotations": {"rbac.authorization.kubernetes.io/autoupdate": update}}})
        };
        check("clusterroles.rbac.authorization.k8s.io", "", &role("true"), true);
        check("clusterroles.rbac.authorization.k8s.io", "", &role("false"), false);
        check("secrets", "a", &json!({"metadata": {"name": "db"}}), false);
    }

    #[test]
    fn what_a_cluster_writes_for_itself_is_none_of_anothers() {
        for (resource, namespace, object, is_own) in [
            ("services", "default", json!({"metadata": {"name": "kubernetes"}}), true),
            ("services", "other", json!({"metadata": {"name": "kubernetes"}}), false),
            ("endpoints", "default", json!({"metadata": {"name": "kubernetes"}}), true),
            ("priorityclasses.scheduling.k8s.io", "", json!({"metadata": {"name": "system-node-critical"}}), true),
            ("priorityclasses.scheduling.k8s.io", "", json!({"metadata": {"name": "high"}}), false),
            ("nodes", "", json!({"metadata": {"name": "n"}}), true),
            ("secrets", "default", json!({"metadata": {"name": "kubernetes"}}), false),
        ] {
            let text = object.to_string();
            let document = Document::parse(text.as_bytes()).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap();
            let said = clusters_own(&GroupResource::parse(resource), (namespace, name), document.root());
            assert_eq!(said.is_some(), is_own, "{resource} {object}");
        }
    }
}
