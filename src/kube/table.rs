//! The resources that API servers keep in etcd, and where below their root.
//!
//! Built-in resources of kube-apiserver (those of old releases too) and of OpenShift's API servers: path
//! below the root, scope, kind and kubectl's short names. Custom resources are not here; their path says
//! all there is to know. Nothing here knows a root, a whole key or a value.
//!
//! Upstream: `test/integration/etcd/data.go` and `pkg/kubeapiserver/default_storage_factory_builder.go` of
//! `kubernetes/kubernetes` (paths), `pkg/registry/*/storage` (short names); `pkg/cmd/openshift-apiserver`
//! of `openshift/openshift-apiserver` (paths below `/openshift.io`).

use std::sync::LazyLock;

use crate::kube::resource::ApiServer;

/// How common a resource is: decides whether its bare name means it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Every kube-apiserver of the last years serves it, so that kubectl takes its bare name for it.
    Always,
    /// A new, optional or OpenShift resource, or one that releases have dropped: a custom resource may well
    /// bear the same bare name.
    Sometimes,
}

/// A resource that an API server stores without a CustomResourceDefinition.
#[derive(Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// The server that stores it.
    pub server: ApiServer,
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The plural resource name of the API.
    pub resource: &'static str,
    /// Where its objects lie below the root, without slashes at the ends: `minions`, `services/specs`.
    pub path: &'static str,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
    /// The kind of its objects.
    pub kind: &'static str,
    /// kubectl's short names.
    pub short_names: &'static [&'static str],
    /// How common it is.
    pub served: Served,
}

impl BuiltIn {
    const fn new(group: &'static str, resource: &'static str, namespaced: bool, kind: &'static str) -> Self {
        Self {
            server: ApiServer::Kube,
            group,
            resource,
            path: resource,
            namespaced,
            kind,
            short_names: &[],
            served: Served::Always,
        }
    }

    const fn at(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    const fn sometimes(mut self) -> Self {
        self.served = Served::Sometimes;
        self
    }

    const fn by(mut self, server: ApiServer) -> Self {
        self.server = server;
        self.sometimes()
    }
}

const fn namespaced(group: &'static str, resource: &'static str, kind: &'static str) -> BuiltIn {
    BuiltIn::new(group, resource, true, kind)
}

const fn cluster(group: &'static str, resource: &'static str, kind: &'static str) -> BuiltIn {
    BuiltIn::new(group, resource, false, kind)
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const FLOWCONTROL: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const SCHEDULING: &str = "scheduling.k8s.io";
const OS_AUTHORIZATION: &str = "authorization.openshift.io";
const OS_NETWORK: &str = "network.openshift.io";
const OS_OAUTH: &str = "oauth.openshift.io";
const OS_USER: &str = "user.openshift.io";

/// All built-in resources; the paths differ from each other and none is the beginning of another.
pub static BUILT_INS: &[BuiltIn] = &[
    namespaced("", "configmaps", "ConfigMap").short(&["cm"]),
    namespaced("", "endpoints", "Endpoints").at("services/endpoints").short(&["ep"]),
    namespaced("", "events", "Event").short(&["ev"]),
    namespaced("", "limitranges", "LimitRange").short(&["limits"]),
    cluster("", "namespaces", "Namespace").short(&["ns"]),
    cluster("", "nodes", "Node").at("minions").short(&["no"]),
    namespaced("", "persistentvolumeclaims", "PersistentVolumeClaim").short(&["pvc"]),
    cluster("", "persistentvolumes", "PersistentVolume").short(&["pv"]),
    namespaced("", "pods", "Pod").short(&["po"]),
    namespaced("", "podtemplates", "PodTemplate"),
    namespaced("", "replicationcontrollers", "ReplicationController").at("controllers").short(&["rc"]),
    namespaced("", "resourcequotas", "ResourceQuota").short(&["quota"]),
    namespaced("", "secrets", "Secret"),
    namespaced("", "serviceaccounts", "ServiceAccount").short(&["sa"]),
    namespaced("", "services", "Service").at("services/specs").short(&["svc"]),
    namespaced("apps", "controllerrevisions", "ControllerRevision"),
    namespaced("apps", "daemonsets", "DaemonSet").short(&["ds"]),
    namespaced("apps", "deployments", "Deployment").short(&["deploy"]),
    namespaced("apps", "replicasets", "ReplicaSet").short(&["rs"]),
    namespaced("apps", "statefulsets", "StatefulSet").short(&["sts"]),
    namespaced("autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler").short(&["hpa"]),
    namespaced("batch", "cronjobs", "CronJob").short(&["cj"]),
    namespaced("batch", "jobs", "Job"),
    cluster(CERTIFICATES, "certificatesigningrequests", "CertificateSigningRequest").short(&["csr"]),
    cluster(CERTIFICATES, "clustertrustbundles", "ClusterTrustBundle").sometimes(),
    namespaced(CERTIFICATES, "podcertificaterequests", "PodCertificateRequest").sometimes(),
    namespaced("coordination.k8s.io", "leases", "Lease"),
    namespaced("coordination.k8s.io", "leasecandidates", "LeaseCandidate").sometimes(),
    namespaced("discovery.k8s.io", "endpointslices", "EndpointSlice"),
    namespaced(NETWORKING, "ingresses", "Ingress").at("ingress").short(&["ing"]),
    cluster(NETWORKING, "ingressclasses", "IngressClass"),
    namespaced(NETWORKING, "networkpolicies", "NetworkPolicy").short(&["netpol"]),
    cluster(NETWORKING, "ipaddresses", "IPAddress").short(&["ip"]).sometimes(),
    cluster(NETWORKING, "servicecidrs", "ServiceCIDR").sometimes(),
    namespaced("policy", "poddisruptionbudgets", "PodDisruptionBudget").short(&["pdb"]),
    cluster("storagemigration.k8s.io", "storageversionmigrations", "StorageVersionMigration").sometimes(),
    cluster(FLOWCONTROL, "flowschemas", "FlowSchema"),
    cluster(FLOWCONTROL, "prioritylevelconfigurations", "PriorityLevelConfiguration"),
    cluster(STORAGE, "csidrivers", "CSIDriver"),
    cluster(STORAGE, "csinodes", "CSINode"),
    namespaced(STORAGE, "csistoragecapacities", "CSIStorageCapacity"),
    cluster(STORAGE, "storageclasses", "StorageClass").short(&["sc"]),
    cluster(STORAGE, "volumeattachments", "VolumeAttachment"),
    cluster(STORAGE, "volumeattributesclasses", "VolumeAttributesClass").short(&["vac"]).sometimes(),
    cluster(RBAC, "clusterroles", "ClusterRole"),
    cluster(RBAC, "clusterrolebindings", "ClusterRoleBinding"),
    namespaced(RBAC, "roles", "Role"),
    namespaced(RBAC, "rolebindings", "RoleBinding"),
    cluster(ADMISSION, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
    cluster(ADMISSION, "validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
    cluster(ADMISSION, "validatingadmissionpolicies", "ValidatingAdmissionPolicy").sometimes(),
    cluster(ADMISSION, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding").sometimes(),
    cluster(ADMISSION, "mutatingadmissionpolicies", "MutatingAdmissionPolicy").sometimes(),
    cluster(ADMISSION, "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding").sometimes(),
    cluster(SCHEDULING, "priorityclasses", "PriorityClass").short(&["pc"]),
    namespaced(SCHEDULING, "workloads", "Workload").sometimes(),
    namespaced(SCHEDULING, "podgroups", "PodGroup").sometimes(),
    namespaced(SCHEDULING, "compositepodgroups", "CompositePodGroup").sometimes(),
    cluster("apiregistration.k8s.io", "apiservices", "APIService").at("apiregistration.k8s.io/apiservices"),
    cluster("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition")
        .at("apiextensions.k8s.io/customresourcedefinitions")
        .short(&["crd", "crds"]),
    cluster("node.k8s.io", "runtimeclasses", "RuntimeClass"),
    cluster(RESOURCE, "deviceclasses", "DeviceClass").sometimes(),
    cluster(RESOURCE, "devicetaintrules", "DeviceTaintRule").sometimes(),
    namespaced(RESOURCE, "resourceclaims", "ResourceClaim").sometimes(),
    namespaced(RESOURCE, "resourceclaimtemplates", "ResourceClaimTemplate").sometimes(),
    cluster(RESOURCE, "resourcepoolstatusrequests", "ResourcePoolStatusRequest").sometimes(),
    cluster(RESOURCE, "resourceslices", "ResourceSlice").sometimes(),
    cluster("internal.apiserver.k8s.io", "storageversions", "StorageVersion").sometimes(),
    namespaced("lifecycle.k8s.io", "evictionrequests", "EvictionRequest").sometimes(),
    namespaced("lifecycle.k8s.io", "evictions", "Eviction").sometimes(),
    // Dropped by kube-apiserver; old snapshots have them.
    cluster("policy", "podsecuritypolicies", "PodSecurityPolicy").at("podsecuritypolicy").short(&["psp"]).sometimes(),
    namespaced("settings.k8s.io", "podpresets", "PodPreset").sometimes(),
    cluster("auditregistration.k8s.io", "auditsinks", "AuditSink").sometimes(),
    cluster(ADMISSION, "initializerconfigurations", "InitializerConfiguration").sometimes(),
    cluster(ADMISSION, "externaladmissionhookconfigurations", "ExternalAdmissionHookConfiguration").sometimes(),
    namespaced(RESOURCE, "podschedulingcontexts", "PodSchedulingContext").sometimes(),
    cluster(RESOURCE, "resourceclasses", "ResourceClass").sometimes(),
    namespaced(RESOURCE, "resourceclassparameters", "ResourceClassParameters").sometimes(),
    namespaced(RESOURCE, "resourceclaimparameters", "ResourceClaimParameters").sometimes(),
    cluster(NETWORKING, "clustercidrs", "ClusterCIDR").sometimes(),
    // OpenShift 3's kube-apiserver keeps these itself; from 4 on they are custom resources.
    cluster("security.openshift.io", "securitycontextconstraints", "SecurityContextConstraints")
        .short(&["scc"])
        .sometimes(),
    // openshift-apiserver, below its own root.
    namespaced("route.openshift.io", "routes", "Route").by(ApiServer::OpenShift),
    namespaced("apps.openshift.io", "deploymentconfigs", "DeploymentConfig").short(&["dc"]).by(ApiServer::OpenShift),
    namespaced("build.openshift.io", "builds", "Build").by(ApiServer::OpenShift),
    namespaced("build.openshift.io", "buildconfigs", "BuildConfig").short(&["bc"]).by(ApiServer::OpenShift),
    cluster("image.openshift.io", "images", "Image").by(ApiServer::OpenShift),
    namespaced("image.openshift.io", "imagestreams", "ImageStream").short(&["is"]).by(ApiServer::OpenShift),
    namespaced("template.openshift.io", "templates", "Template").by(ApiServer::OpenShift),
    namespaced("template.openshift.io", "templateinstances", "TemplateInstance").by(ApiServer::OpenShift),
    cluster("template.openshift.io", "brokertemplateinstances", "BrokerTemplateInstance").by(ApiServer::OpenShift),
    cluster("security.openshift.io", "rangeallocations", "RangeAllocation").by(ApiServer::OpenShift),
    cluster(OS_NETWORK, "clusternetworks", "ClusterNetwork").at("registry/sdnnetworks").by(ApiServer::OpenShift),
    cluster(OS_NETWORK, "hostsubnets", "HostSubnet").at("registry/sdnsubnets").by(ApiServer::OpenShift),
    cluster(OS_NETWORK, "netnamespaces", "NetNamespace").at("registry/sdnnetnamespaces").by(ApiServer::OpenShift),
    namespaced(OS_NETWORK, "egressnetworkpolicies", "EgressNetworkPolicy")
        .at("registry/egressnetworkpolicy")
        .by(ApiServer::OpenShift),
    namespaced(OS_AUTHORIZATION, "policies", "Policy").at("authorization/local/policies").by(ApiServer::OpenShift),
    namespaced(OS_AUTHORIZATION, "policybindings", "PolicyBinding")
        .at("authorization/local/policybindings")
        .by(ApiServer::OpenShift),
    cluster(OS_AUTHORIZATION, "clusterpolicies", "ClusterPolicy")
        .at("authorization/cluster/policies")
        .by(ApiServer::OpenShift),
    cluster(OS_AUTHORIZATION, "clusterpolicybindings", "ClusterPolicyBinding")
        .at("authorization/cluster/policybindings")
        .by(ApiServer::OpenShift),
    // oauth-apiserver (before about 4.6 openshift-apiserver), below the same root.
    cluster(OS_OAUTH, "oauthaccesstokens", "OAuthAccessToken").at("oauth/accesstokens").by(ApiServer::OAuth),
    cluster(OS_OAUTH, "oauthauthorizetokens", "OAuthAuthorizeToken").at("oauth/authorizetokens").by(ApiServer::OAuth),
    cluster(OS_OAUTH, "oauthclients", "OAuthClient").at("oauth/clients").by(ApiServer::OAuth),
    cluster(OS_OAUTH, "oauthclientauthorizations", "OAuthClientAuthorization")
        .at("oauth/clientauthorizations")
        .by(ApiServer::OAuth),
    cluster(OS_USER, "users", "User").by(ApiServer::OAuth),
    cluster(OS_USER, "groups", "Group").by(ApiServer::OAuth),
    cluster(OS_USER, "identities", "Identity").at("useridentities").by(ApiServer::OAuth),
];

/// Built-in paths that other software could use for a folder of its own: little evidence for a root.
const EVERYDAY_PATHS: &[&str] = &[
    "builds",
    "controllers",
    "events",
    "evictions",
    "groups",
    "images",
    "ingress",
    "jobs",
    "leases",
    "namespaces",
    "pods",
    "roles",
    "routes",
    "secrets",
    "templates",
    "users",
    "workloads",
];

/// Keys below a root that no REST resource owns and that no API server encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reserved {
    /// `compact_rev_key`: the compactor's clock, below no root at all.
    CompactRevision,
    /// `<root>/ranges/<name>`: an allocator of service addresses or node ports, a RangeAllocation.
    /// Before 1.26 it was encrypted where the configuration listed `services`.
    Range,
    /// `<root>/masterleases/<address>`: an API server that is alive, an Endpoints object.
    MasterLease,
    /// `<root>/peerserverleases/<id>`: likewise, from 1.28 on.
    PeerServerLease,
    /// `<root>/health`: what kube-apiserver's health check asks for.
    Health,
    /// `/bootstrap/<hash>`: the certificates and keys of a K3s or RKE2 cluster, sealed with its token.
    Bootstrap,
}

/// What a path of whole segments below a root leads to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    /// A built-in resource, by its number in [`BUILT_INS`].
    BuiltIn(u8),
    /// Reserved keys with one more segment.
    Reserved(Reserved),
    /// A reserved key itself.
    ReservedKey(Reserved),
    /// The beginning of longer paths.
    Branch,
}

/// All paths, ordered by length and then bytes: a length differs far more often than bytes do, so that a
/// search seldom compares any.
static PATHS: LazyLock<Vec<(&'static str, Slot)>> = LazyLock::new(|| {
    let mut paths = vec![
        ("ranges", Slot::Reserved(Reserved::Range)),
        ("masterleases", Slot::Reserved(Reserved::MasterLease)),
        ("peerserverleases", Slot::Reserved(Reserved::PeerServerLease)),
        ("health", Slot::ReservedKey(Reserved::Health)),
    ];
    for (number, built_in) in (0_u8..).zip(BUILT_INS) {
        paths.push((built_in.path, Slot::BuiltIn(number)));
        paths.extend(
            built_in.path.match_indices('/').filter_map(|(at, _)| Some((built_in.path.get(..at)?, Slot::Branch))),
        );
    }
    paths.sort_by_key(|(path, _)| (path.len(), *path));
    paths.dedup_by_key(|(path, _)| *path);
    paths
});

/// What lies at a path below a root.
pub(super) fn slot(path: &str) -> Option<Slot> {
    let paths: &[(&str, Slot)] = &PATHS;
    let found = paths.binary_search_by(|(known, _)| {
        known.len().cmp(&path.len()).then_with(|| known.as_bytes().cmp(path.as_bytes()))
    });
    found.ok().and_then(|at| paths.get(at)).map(|(_, slot)| *slot)
}

/// The built-in resource with a number that a [`Slot`] gave.
pub(super) fn built_in(number: u8) -> Option<&'static BuiltIn> {
    BUILT_INS.get(usize::from(number))
}

/// Whether other software could well use this path for something else.
pub(super) fn is_everyday(built_in: &BuiltIn) -> bool {
    EVERYDAY_PATHS.contains(&built_in.path)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_path_or_resource_is_listed_twice() {
        let paths: HashSet<_> = BUILT_INS.iter().map(|b| b.path).collect();
        assert_eq!(paths.len(), BUILT_INS.len());
        let resources: HashSet<_> = BUILT_INS.iter().map(|b| (b.group, b.resource)).collect();
        assert_eq!(resources.len(), BUILT_INS.len());
    }

    #[test]
    fn the_numbers_fit_the_bit_sets_of_the_root_finder() {
        assert!(BUILT_INS.len() <= 128, "{}", BUILT_INS.len());
    }

    #[test]
    fn every_path_leads_to_its_resource_and_no_path_hides_another() {
        for built_in in BUILT_INS {
            match slot(built_in.path) {
                Some(Slot::BuiltIn(number)) => assert_eq!(super::built_in(number), Some(built_in)),
                other => panic!("{}: {other:?}", built_in.path),
            }
            for (at, _) in built_in.path.match_indices('/') {
                assert!(matches!(slot(&built_in.path[..at]), Some(Slot::Branch)), "{}", built_in.path);
            }
        }
        assert!(slot("widgets").is_none());
        assert!(slot("").is_none());
    }

    #[test]
    fn everyday_paths_are_paths() {
        for path in EVERYDAY_PATHS {
            assert!(BUILT_INS.iter().any(|b| b.path == *path), "{path}");
        }
    }

    #[test]
    fn a_short_name_means_one_resource() {
        let mut seen = HashSet::new();
        for name in BUILT_INS.iter().flat_map(|b| b.short_names) {
            assert!(seen.insert(name), "{name}");
            assert!(!BUILT_INS.iter().any(|b| b.resource == *name), "{name}");
        }
    }

    #[test]
    fn the_server_is_the_one_that_owns_the_group() {
        for built_in in BUILT_INS.iter().filter(|b| b.resource != "securitycontextconstraints") {
            assert_eq!(built_in.server, ApiServer::of_group(built_in.group), "{}", built_in.resource);
        }
    }
}
