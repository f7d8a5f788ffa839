//! The order in which objects are applied, so that each finds what it needs.
//!
//! A phase is a folder whose number stands in front; within it the order does not matter. Upstream gives no such order; this one follows what
//! admission and controllers ask for: definitions before their objects, namespaces before what lies in them, what Pods name before Pods,
//! quotas behind what they would hold up until somebody has counted, and last what may intercept or refuse requests.

use crate::kube::key::{Known, ObjectKey};
use crate::kube::resource::ApiServer;

/// The folders, in the order in which they are applied.
pub const PHASES: [&str; 17] = [
    "01-definitions",
    "02-namespaces",
    "03-cluster",
    "04-accounts",
    "05-roles",
    "06-bindings",
    "07-secrets",
    "08-configmaps",
    "09-volumes",
    "10-claims",
    "11-services",
    "12-policies",
    "13-workloads",
    "14-custom",
    "15-quotas",
    "16-records",
    "17-admission",
];

const CUSTOM: u8 = 13;

/// The phase of an object, as an index of [`PHASES`].
pub fn phase(object: &ObjectKey<'_>) -> u8 {
    let number: u8 = match (object.group, object.resource) {
        ("apiextensions.k8s.io", "customresourcedefinitions") => 0,
        ("", "namespaces") => 1,
        // Admission asks for them before it lets a Pod in, whether they are built in or, since OpenShift 4, custom.
        ("security.openshift.io", "securitycontextconstraints") => 2,
        ("", "serviceaccounts") => 3,
        (_, "clusterroles" | "roles") if is_rbac(object) => 4,
        (_, "clusterrolebindings" | "rolebindings") if is_rbac(object) => 5,
        ("", "secrets") => 6,
        ("", "configmaps") => 7,
        ("", "persistentvolumes") => 8,
        ("", "persistentvolumeclaims") => 9,
        ("", "services" | "endpoints") | ("discovery.k8s.io", "endpointslices") => 10,
        ("", "limitranges" | "podtemplates") | ("networking.k8s.io", "networkpolicies") => 11,
        ("policy", "poddisruptionbudgets") => 11,
        ("", "pods" | "replicationcontrollers") | ("autoscaling", _) => 12,
        ("networking.k8s.io", "ingresses") | ("route.openshift.io" | "image.openshift.io", _) => 12,
        ("apps" | "batch" | "apps.openshift.io" | "build.openshift.io", _)
            if object.resource != "controllerrevisions" =>
        {
            12
        }
        ("", "resourcequotas") => 14,
        ("", "events") | ("apps", "controllerrevisions") => 15,
        ("coordination.k8s.io" | "certificates.k8s.io" | "internal.apiserver.k8s.io", _) => 15,
        ("apiregistration.k8s.io", _) | ("admissionregistration.k8s.io", _) => 16,
        // Everything that is built in, lies in no namespace and was not named: classes, drivers, nodes, users.
        _ if object.known == Known::BuiltIn && object.namespace.is_none() => 2,
        _ if object.known == Known::BuiltIn => 12,
        _ => CUSTOM,
    };
    number
}

fn is_rbac(object: &ObjectKey<'_>) -> bool {
    let is_openshifts = object.server == ApiServer::OpenShift;
    object.group == "rbac.authorization.k8s.io" || (is_openshifts && object.group == "authorization.openshift.io")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::key::{Address, Roots};

    fn of(key: &str) -> &'static str {
        match Roots::given(&["/registry"]).locate(key.as_bytes()) {
            Address::Object(object) => PHASES[usize::from(phase(&object))],
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn what_others_need_comes_before_them() {
        let in_order = [
            "/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.example.com",
            "/registry/namespaces/prod",
            "/registry/storageclasses/fast",
            "/registry/serviceaccounts/prod/app",
            "/registry/clusterroles/read",
            "/registry/rolebindings/prod/read",
            "/registry/secrets/prod/db",
            "/registry/configmaps/prod/db",
            "/registry/persistentvolumes/v",
            "/registry/persistentvolumeclaims/prod/c",
            "/registry/services/specs/prod/web",
            "/registry/networkpolicies/prod/deny",
            "/registry/deployments/prod/web",
            "/registry/example.com/widgets/prod/w",
            "/registry/resourcequotas/prod/q",
            "/registry/events/prod/e",
            "/registry/validatingwebhookconfigurations/w",
        ];
        let phases: Vec<_> = in_order.iter().map(|key| of(key)).collect();
        assert_eq!(phases, PHASES);
        for (key, expected) in [
            ("/registry/priorityclasses/high", "03-cluster"),
            ("/registry/minions/worker", "03-cluster"),
            ("/registry/pods/prod/p", "13-workloads"),
            ("/registry/security.openshift.io/securitycontextconstraints/x", "03-cluster"),
            ("/registry/newthings/prod/p", "14-custom"),
            ("/registry/apiregistration.k8s.io/apiservices/v1.x", "17-admission"),
            ("/registry/leases/kube-system/l", "16-records"),
        ] {
            assert_eq!(of(key), expected, "{key}");
        }
    }
}
