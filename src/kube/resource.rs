//! A resource and its API group, and the wildcards an EncryptionConfiguration may use for them.
//!
//! Upstream: `k8s.io/apimachinery/pkg/runtime/schema/group_version.go` (`ParseGroupResource`).

use std::fmt;

/// A resource within an API group: `secrets` of the core group, `deployments` of `apps`.
///
/// In a configuration either part may be the wildcard `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The plural resource name.
    pub resource: String,
}

impl GroupResource {
    /// Names a resource of a group.
    pub fn new(group: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }

    /// Reads `resource.group`: split at the first dot, without a dot the core group.
    pub fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some((resource, group)) => Self::new(group, resource),
            None => Self::new("", text),
        }
    }
}

/// As upstream prints it: `secrets`, `deployments.apps`.
impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}

/// The API server that stores a resource, each with an EncryptionConfiguration of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ApiServer {
    /// kube-apiserver: built-in resources, custom resources, CustomResourceDefinitions and APIServices.
    Kube,
    /// OpenShift's openshift-apiserver: routes, builds, images and so on.
    OpenShift,
    /// OpenShift's oauth-apiserver: tokens, clients, users, groups and identities.
    OAuth,
}

/// The groups that openshift-apiserver stores; other groups under `openshift.io` are custom resources.
const OPENSHIFT_GROUPS: &[&str] = &[
    "apps.openshift.io",
    "authorization.openshift.io",
    "build.openshift.io",
    "image.openshift.io",
    "network.openshift.io",
    "project.openshift.io",
    "quota.openshift.io",
    "route.openshift.io",
    "security.openshift.io",
    "template.openshift.io",
];

/// The groups that oauth-apiserver stores.
const OAUTH_GROUPS: &[&str] = &["oauth.openshift.io", "user.openshift.io"];

impl ApiServer {
    /// Which API server stores a resource of this group, were it no custom resource.
    ///
    /// OpenShift 4 has custom resources in some of these groups too; their keys lie under
    /// kube-apiserver's root, which decides where it is known.
    pub fn of_group(group: &str) -> Self {
        if OAUTH_GROUPS.contains(&group) {
            Self::OAuth
        } else if OPENSHIFT_GROUPS.contains(&group) {
            Self::OpenShift
        } else {
            Self::Kube
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_splits_at_the_first_dot() {
        for (text, group, resource, shown) in [
            ("secrets", "", "secrets", "secrets"),
            ("secrets.", "", "secrets", "secrets"),
            ("deployments.apps", "apps", "deployments", "deployments.apps"),
            ("pandas.awesome.bears.example", "awesome.bears.example", "pandas", "pandas.awesome.bears.example"),
            ("*.", "", "*", "*"),
            ("*.*", "*", "*", "*.*"),
        ] {
            let parsed = GroupResource::parse(text);
            assert_eq!(parsed, GroupResource::new(group, resource), "{text}");
            assert_eq!(parsed.to_string(), shown);
        }
    }
}
