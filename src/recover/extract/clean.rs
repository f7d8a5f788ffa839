//! What an object must lose so that another API server takes it, and which objects none takes or none should be given.
//!
//! Server-assigned fields are those that upstream's strategies set or reject on creation. An owner is named by its uid, which the new cluster
//! gives anew: its garbage collector would delete what names an owner that it does not have, so every reference goes; controllers
//! adopt what their selectors find.
//!
//! Upstream: `pkg/registry/*/*/strategy.go` and `plugin/pkg/admission` of `kubernetes/kubernetes`.

use serde_json::Value;
use zeroize::Zeroizing;

use crate::kube::document::{Document, Node, Scalar};
use crate::kube::resource::GroupResource;
use crate::kube::schema::UNKNOWN;

use super::crd;
use super::pruning::{Pruning, is_true, text};

/// Fields of `metadata` that a server sets.
const METADATA: [&str; 10] = [
    "uid",
    "resourceVersion",
    "selfLink",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "clusterName",
    "initializers",
];

/// Annotations that say what was, and that controllers and kubectl write anew.
const ANNOTATIONS: [&str; 19] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.daemonset.template.generation",
    "autoscaling.alpha.kubernetes.io/conditions",
    "autoscaling.alpha.kubernetes.io/current-metrics",
    "batch.kubernetes.io/job-tracking",
    "control-plane.alpha.kubernetes.io/leader",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-resizer",
    "storage.alpha.kubernetes.io/access-modes",
    "cni.projectcalico.org/podIP",
];

/// Finalizers that the API server and its controllers add by themselves.
const FINALIZERS: [&str; 7] = [
    "kubernetes.io/pv-protection",
    "kubernetes.io/pvc-protection",
    "kubernetes.io/vac-protection",
    "foregroundDeletion",
    "orphan",
    "batch.kubernetes.io/job-tracking",
    "service.kubernetes.io/load-balancer-cleanup",
];

/// Labels of a Job's Pods that its own uid stands in, or that follow from its name.
const JOB_LABELS: [&str; 4] =
    ["controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"];

/// Where Pods lie in what makes them.
const POD_TEMPLATES: [&[&str]; 2] = [&["spec", "template"], &["spec", "jobTemplate", "spec", "template"]];

/// How the API server names the volume with a Pod's own token.
const TOKEN_VOLUME: &str = "kube-api-access-";

/// An object that is ready to be applied.
pub struct Cleaned {
    /// As JSON.
    pub json: Zeroizing<Vec<u8>>,
    /// What was taken out or changed, beside what every server sets on every object.
    pub removed: Vec<String>,
}

/// Takes out of an object what another API server would refuse or set by itself. `keeps_status` says that its `status` is nothing but a
/// field, as in custom resources without that subresource.
pub fn clean(resource: &GroupResource, root: Node<'_, '_>, keeps_status: bool) -> Cleaned {
    let mut pruning = Pruning::of(root);
    for field in METADATA {
        pruning.drop_silently(&["metadata", field]);
    }
    pruning.drop(&["metadata", "ownerReferences"]);
    pruning.drop_members(&["metadata", "annotations"], |key, _| ANNOTATIONS.contains(&key));
    pruning.drop_items(&["metadata", "finalizers"], |item| {
        item.text().is_some_and(|finalizer| FINALIZERS.contains(&&*finalizer))
    });
    if !keeps_status {
        pruning.drop_silently(&["status"]);
    }
    for template in POD_TEMPLATES {
        pruning.drop_silently(&[template, &["metadata", "creationTimestamp"]].concat());
    }
    pruning.drop_silently(&["spec", "jobTemplate", "metadata", "creationTimestamp"]);
    pruning.drop_everywhere(UNKNOWN);
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "namespaces") => pruning.drop_silently(&["spec"]),
        ("", "services") => service(&mut pruning),
        ("", "persistentvolumes") => volume(&mut pruning),
        ("", "persistentvolumeclaims") => pruning.drop(&["spec", "volumeName"]),
        ("", "serviceaccounts") => account(&mut pruning),
        ("", "pods") => pod(&mut pruning),
        ("batch", "jobs") => job(&mut pruning),
        ("route.openshift.io", "routes") => route(&mut pruning),
        _ => {}
    }
    let (json, removed) = pruning.finish();
    if resource.resource == "customresourcedefinitions" {
        return definition(json, removed);
    }
    Cleaned { json, removed }
}

fn service(pruning: &mut Pruning<'_, '_>) {
    let root = pruning.root();
    // A headless Service is one because its address says so.
    if text(root, &["spec", "clusterIP"]) != "None" {
        pruning.drop(&["spec", "clusterIP"]);
        pruning.drop(&["spec", "clusterIPs"]);
    }
    pruning.drop(&["spec", "healthCheckNodePort"]);
    let Some(ports) = root.find(&["spec", "ports"]) else { return };
    for (index, port) in ports.items().enumerate() {
        let Some(node_port) = port.get("nodePort") else { continue };
        if !is_chosen(root, port) {
            pruning.drop_node(node_port, format!("spec.ports[{index}].nodePort"));
        }
    }
}

/// Whether somebody asked for the port's number on nodes: then it is in what kubectl applied, or somebody owns the field.
fn is_chosen(root: Node<'_, '_>, port: Node<'_, '_>) -> bool {
    let number = port.get("port").and_then(Node::integer);
    let applied = text(root, &["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"]);
    let wanted = port.get("nodePort").and_then(Node::integer);
    let in_applied = Document::parse(applied.as_bytes()).is_ok_and(|applied| {
        let ports = applied.root().find(&["spec", "ports"]);
        ports.is_some_and(|ports| ports.items().any(|port| port.get("nodePort").and_then(Node::integer) == wanted))
    });
    let Some(managers) = root.find(&["metadata", "managedFields"]) else { return in_applied };
    let owns = |manager: Node<'_, '_>| {
        let ports = manager.find(&["fieldsV1", "f:spec", "f:ports"]);
        ports.is_some_and(|ports| {
            ports.members().any(|(key, fields)| {
                let key = key.text().unwrap_or_default();
                let key = key.strip_prefix("k:").unwrap_or_default();
                let names = Document::parse(key.as_bytes())
                    .is_ok_and(|key| key.root().get("port").and_then(Node::integer) == number);
                names && fields.get("f:nodePort").is_some()
            })
        })
    };
    in_applied || managers.items().any(owns)
}

/// A volume stays reserved for its claim by name; the claim's uid will be another one.
fn volume(pruning: &mut Pruning<'_, '_>) {
    for field in ["uid", "resourceVersion"] {
        pruning.drop(&["spec", "claimRef", field]);
    }
}

/// Older releases and OpenShift make Secrets for an account and list them; their names tell.
fn account(pruning: &mut Pruning<'_, '_>) {
    let name = text(pruning.root(), &["metadata", "name"]);
    let made = [format!("{name}-token-"), format!("{name}-dockercfg-")];
    let is_made = |item: Node<'_, '_>| {
        let listed = item.get("name").and_then(Node::text).unwrap_or_default();
        made.iter().any(|prefix| listed.starts_with(prefix.as_str()))
    };
    pruning.drop_items(&["secrets"], is_made);
    pruning.drop_items(&["imagePullSecrets"], is_made);
}

fn pod(pruning: &mut Pruning<'_, '_>) {
    // Admission computes the numbers from the class and refuses others.
    for field in ["nodeName", "priority", "preemptionPolicy", "ephemeralContainers"] {
        pruning.drop(&["spec", field]);
    }
    let is_token = |volume: Node<'_, '_>| {
        volume.get("name").and_then(Node::text).is_some_and(|name| name.starts_with(TOKEN_VOLUME))
    };
    pruning.drop_items(&["spec", "volumes"], is_token);
    for containers in ["containers", "initContainers"] {
        let Some(list) = pruning.root().find(&["spec", containers]) else { continue };
        for (index, container) in list.items().enumerate() {
            if let Some(mounts) = container.get("volumeMounts") {
                pruning.drop_items_of(mounts, &format!("spec.{containers}[{index}].volumeMounts"), is_token);
            }
        }
    }
}

fn job(pruning: &mut Pruning<'_, '_>) {
    // Whoever chose the selector chose the labels, too.
    if is_true(pruning.root(), &["spec", "manualSelector"]) {
        return;
    }
    pruning.drop(&["spec", "selector"]);
    let is_made = |key: &str, _: Node<'_, '_>| JOB_LABELS.contains(&key);
    pruning.drop_members(&["metadata", "labels"], is_made);
    pruning.drop_members(&["spec", "template", "metadata", "labels"], is_made);
}

fn route(pruning: &mut Pruning<'_, '_>) {
    if text(pruning.root(), &["metadata", "annotations", "openshift.io/host.generated"]) == "true" {
        pruning.drop(&["spec", "host"]);
        pruning.drop(&["metadata", "annotations", "openshift.io/host.generated"]);
    }
}

/// A definition in the version that releases serve.
fn definition(json: Zeroizing<Vec<u8>>, mut removed: Vec<String>) -> Cleaned {
    let converted = serde_json::from_slice::<Value>(&json)
        .ok()
        .and_then(|mut value| crd::to_v1(&mut value).then(|| Zeroizing::new(value.to_string().into_bytes())));
    match converted {
        Some(json) => {
            removed.push("apiVersion: apiextensions.k8s.io/v1 instead of v1beta1".to_owned());
            Cleaned { json, removed }
        }
        None => Cleaned { json, removed },
    }
}

/// Why an object cannot be applied to another cluster, or should not be; none if it can.
pub fn unfit(resource: &GroupResource, root: Node<'_, '_>) -> Option<&'static str> {
    let is = |path: &[&str], wanted: &str| text(root, path) == wanted;
    Some(match (resource.group.as_str(), resource.resource.as_str()) {
        _ if root.find(&["metadata", "deletionTimestamp"]).is_some_and(|time| time.scalar() != Scalar::Null) => {
            "it was being deleted"
        }
        ("", "secrets") if is(&["type"], "kubernetes.io/service-account-token") => {
            "a ServiceAccount's token is of no use in another cluster"
        }
        ("", "pods") if root.find(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some() => {
            "a kubelet shows what it runs from a file"
        }
        ("", "pods") if is(&["status", "phase"], "Succeeded") || is(&["status", "phase"], "Failed") => {
            "it has finished, and would run again"
        }
        ("batch", "jobs") if has_finished(root) => "it has finished, and would run again",
        ("certificates.k8s.io", "certificatesigningrequests" | "podcertificaterequests") => {
            "a request is of its moment"
        }
        _ => return None,
    })
}

fn has_finished(root: Node<'_, '_>) -> bool {
    let conditions = root.find(&["status", "conditions"]);
    let has = |node: Node<'_, '_>, name: &str, wanted: &[&str]| {
        node.get(name).and_then(Node::text).is_some_and(|text| wanted.contains(&&*text))
    };
    root.find(&["status", "completionTime"]).is_some_and(|time| time.scalar() != Scalar::Null)
        || conditions.is_some_and(|conditions| {
            conditions.items().any(|one| has(one, "type", &["Complete", "Failed"]) && has(one, "status", &["True"]))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn cleaned(resource: &str, object: &Value) -> (Value, Vec<String>) {
        let text = object.to_string();
        let document = Document::parse(text.as_bytes()).unwrap();
        let cleaned = clean(&GroupResource::parse(resource), document.root(), false);
        (serde_json::from_slice(&cleaned.json).unwrap(), cleaned.removed)
    }

    #[track_caller]
    fn why_not(resource: &str, object: &Value) -> Option<&'static str> {
        let text = object.to_string();
        let document = Document::parse(text.as_bytes()).unwrap();
        unfit(&GroupResource::parse(resource), document.root())
    }

    #[test]
    fn what_servers_set_on_every_object_goes() {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}, "status": {"x": 1}, "$unknown": [1],
            "metadata": {
                "name": "a", "namespace": "b", "uid": "u", "resourceVersion": "1", "generation": 2, "creationTimestamp": "t",
                "managedFields": [], "labels": {"l": "m"}, "finalizers": ["kubernetes.io/pv-protection", "example.com/mine"],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "yes"},
                "ownerReferences": [{"uid": "v"}],
            },
        });
        let (left, removed) = cleaned("configmaps", &object);
        let metadata = json!({"name": "a", "namespace": "b", "labels": {"l": "m"}, "annotations": {"mine": "yes"}, "finalizers": ["example.com/mine"]});
        assert_eq!(left, json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}, "metadata": metadata}));
        assert!(removed.contains(&"metadata.ownerReferences".to_owned()) && removed.len() == 4, "{removed:?}");
        let bare = json!({"metadata": {"name": "a", "annotations": {"deployment.kubernetes.io/revision": "3"}}});
        assert_eq!(cleaned("deployments.apps", &bare).0, json!({"metadata": {"name": "a"}}), "nothing empty is left");
    }

    #[test]
    fn the_status_of_a_custom_resource_without_that_subresource_is_its_own() {
        let text = r#"{"metadata":{"name":"a"},"status":{"mine":1}}"#;
        let document = Document::parse(text.as_bytes()).unwrap();
        let kept = clean(&GroupResource::parse("widgets.example.com"), document.root(), true);
        assert_eq!(kept.json.as_slice(), text.as_bytes());
    }

    #[test]
    fn a_service_loses_its_addresses_unless_it_is_headless_and_the_ports_nobody_chose() {
        let ports =
            json!([{"port": 80, "nodePort": 30080}, {"port": 443, "nodePort": 30443}, {"port": 81, "nodePort": 30081}]);
        let applied = json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}]}}).to_string();
        let owned = json!({"f:spec": {"f:ports": {"k:{\"port\":443,\"protocol\":\"TCP\"}": {"f:nodePort": {}}, "k:{\"port\":81,\"protocol\":\"TCP\"}": {"f:port": {}}}}});
        let service = json!({
            "metadata": {"name": "web", "managedFields": [{"fieldsV1": owned}],
                         "annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied}},
            "spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "healthCheckNodePort": 3, "ports": ports},
        });
        let (left, removed) = cleaned("services", &service);
        let ports = json!([{"port": 80, "nodePort": 30080}, {"port": 443, "nodePort": 30443}, {"port": 81}]);
        assert_eq!(left, json!({"metadata": {"name": "web"}, "spec": {"ports": ports}}));
        assert!(removed.contains(&"spec.ports[2].nodePort".to_owned()), "{removed:?}");
        let headless = json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        assert_eq!(cleaned("services", &headless).0, headless);
    }

    #[test]
    fn volumes_stay_reserved_by_name_and_claims_are_bound_anew() {
        let volume = json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"name": "c", "namespace": "n", "uid": "u", "resourceVersion": "1"}}});
        let expected = json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"name": "c", "namespace": "n"}}});
        assert_eq!(cleaned("persistentvolumes", &volume).0, expected);
        let claim = json!({"metadata": {"name": "c", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v", "a": 1}});
        assert_eq!(cleaned("persistentvolumeclaims", &claim).0, json!({"metadata": {"name": "c"}, "spec": {"a": 1}}));
    }

    #[test]
    fn jobs_pods_and_accounts_lose_what_was_made_for_them() {
        let labels = json!({"controller-uid": "u", "batch.kubernetes.io/job-name": "j", "app": "x"});
        let job = json!({"metadata": {"name": "j", "labels": labels}, "spec": {"selector": {"matchLabels": {"controller-uid": "u"}}, "template": {"metadata": {"creationTimestamp": null, "labels": labels}}}});
        let expected = json!({"metadata": {"name": "j", "labels": {"app": "x"}}, "spec": {"template": {"metadata": {"labels": {"app": "x"}}}}});
        assert_eq!(cleaned("jobs.batch", &job).0, expected);
        let mut manual = expected.clone();
        manual["spec"]["manualSelector"] = json!(true);
        manual["spec"]["selector"] = json!({"matchLabels": {"job-name": "j"}});
        assert_eq!(cleaned("jobs.batch", &manual).0, manual);
        let mounts = json!([{"name": "kube-api-access-x1", "mountPath": "/var"}, {"name": "data"}]);
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "priority": 0, "volumes": [{"name": "kube-api-access-x1"}],
                         "containers": [{"name": "c", "volumeMounts": mounts}]}});
        let expected = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "volumeMounts": [{"name": "data"}]}]}});
        assert_eq!(cleaned("pods", &pod).0, expected);
        let account = json!({"metadata": {"name": "app"}, "secrets": [{"name": "app-token-abcde"}], "imagePullSecrets": [{"name": "app-dockercfg-abcde"}, {"name": "mine"}]});
        let expected = json!({"metadata": {"name": "app"}, "imagePullSecrets": [{"name": "mine"}]});
        assert_eq!(cleaned("serviceaccounts", &account).0, expected);
    }

    #[test]
    fn what_no_other_cluster_takes_is_told_with_why() {
        for (resource, object, is_unfit) in [
            ("secrets", json!({"metadata": {"name": "t"}, "type": "kubernetes.io/service-account-token"}), true),
            ("secrets", json!({"metadata": {"name": "t"}, "type": "Opaque"}), false),
            ("jobs.batch", json!({"status": {"conditions": [{"type": "Failed", "status": "True"}]}}), true),
            ("jobs.batch", json!({"status": {"conditions": [{"type": "Failed", "status": "False"}]}}), false),
            ("pods", json!({"status": {"phase": "Succeeded"}}), true),
            ("pods", json!({"status": {"phase": "Running"}}), false),
            ("configmaps", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), true),
            ("configmaps", json!({"metadata": {"deletionTimestamp": null}}), false),
            ("certificatesigningrequests.certificates.k8s.io", json!({}), true),
            ("clustertrustbundles.certificates.k8s.io", json!({}), false),
        ] {
            assert_eq!(why_not(resource, &object).is_some(), is_unfit, "{resource} {object}");
        }
    }
}
