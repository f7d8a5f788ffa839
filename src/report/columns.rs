//! kubectl's columns: which a resource has, and what stands in them.
//!
//! Upstream: `pkg/printers/internalversion/printers.go` of `kubernetes/kubernetes`. What an API server would compute is computed here
//! from the stored object; resources that are not listed have their name and age, as custom ones do.

use std::borrow::Cow;

use crate::recover::{Node, Scalar};

/// A column.
#[derive(Clone, Copy)]
pub struct Column {
    /// The heading.
    pub head: &'static str,
    /// What stands in it for an object at a time (seconds since 1970).
    pub cell: fn(&Object<'_, '_>) -> String,
    /// Whether it is there only in the wide form.
    pub wide: bool,
}

/// An object, and the time at which its age is told.
pub struct Object<'n, 'd> {
    /// The object.
    pub root: Node<'n, 'd>,
    /// Now, in seconds since 1970.
    pub now: i64,
}

const NONE: &str = "<none>";

const fn col(head: &'static str, cell: fn(&Object<'_, '_>) -> String) -> Column {
    Column { head, cell, wide: false }
}

const fn wide(head: &'static str, cell: fn(&Object<'_, '_>) -> String) -> Column {
    Column { head, cell, wide: true }
}

const AGE: Column = col("AGE", |o| o.age(&["metadata", "creationTimestamp"]));
const CREATED: Column = col("CREATED AT", |o| o.text(&["metadata", "creationTimestamp"]));
const CONTAINERS: Column = wide("CONTAINERS", |o| o.containers("name"));
const IMAGES: Column = wide("IMAGES", |o| o.containers("image"));
const SELECTOR: Column = wide("SELECTOR", |o| o.labels(&["spec", "selector", "matchLabels"]));

/// The columns of a resource behind its name.
pub fn columns(group: &str, resource: &str) -> &'static [Column] {
    match (group, resource) {
        ("", "secrets") => const { &[col("TYPE", |o| o.text(&["type"])), col("DATA", |o| o.count(&[&["data"]])), AGE] },
        ("", "configmaps") => const { &[col("DATA", |o| o.count(&[&["data"], &["binaryData"]])), AGE] },
        ("", "pods") => PODS,
        ("", "services") => SERVICES,
        ("", "serviceaccounts") => const { &[col("SECRETS", |o| o.count(&[&["secrets"]])), AGE] },
        ("", "namespaces") => const { &[col("STATUS", |o| o.text(&["status", "phase"])), AGE] },
        ("", "nodes") => NODES,
        ("", "persistentvolumes") => VOLUMES,
        ("", "persistentvolumeclaims") => CLAIMS,
        ("", "events") | ("events.k8s.io", "events") => EVENTS,
        ("", "endpoints") => const { &[col("ENDPOINTS", |o| o.endpoints()), AGE] },
        ("apps", "deployments") => DEPLOYMENTS,
        ("apps", "replicasets") => REPLICA_SETS,
        ("", "replicationcontrollers") => REPLICA_SETS,
        ("apps", "statefulsets") => {
            const {
                &[
                    col("READY", |o| {
                        format!("{}/{}", o.number(&["status", "readyReplicas"]), o.number(&["spec", "replicas"]))
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                ]
            }
        }
        ("apps", "daemonsets") => DAEMON_SETS,
        ("batch", "jobs") => JOBS,
        ("batch", "cronjobs") => CRON_JOBS,
        ("networking.k8s.io", "ingresses") => INGRESSES,
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => const { &[CREATED] },
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            const { &[col("ROLE", |o| format!("{}/{}", o.text(&["roleRef", "kind"]), o.text(&["roleRef", "name"]))), AGE] }
        }
        ("storage.k8s.io", "storageclasses") => STORAGE_CLASSES,
        ("coordination.k8s.io", "leases") => const { &[col("HOLDER", |o| o.text(&["spec", "holderIdentity"])), AGE] },
        ("apiextensions.k8s.io", "customresourcedefinitions") => const { &[CREATED] },
        ("scheduling.k8s.io", "priorityclasses") => {
            const {
                &[
                    col("VALUE", |o| o.number(&["value"])),
                    col("GLOBAL-DEFAULT", |o| o.or(&["globalDefault"], "false")),
                    AGE,
                ]
            }
        }
        _ => const { &[AGE] },
    }
}

const PODS: &[Column] = &[
    col("READY", |o| o.ready_containers()),
    col("STATUS", |o| o.pod_status()),
    col("RESTARTS", |o| o.restarts()),
    AGE,
    wide("IP", |o| o.or(&["status", "podIP"], NONE)),
    wide("NODE", |o| o.or(&["spec", "nodeName"], NONE)),
    wide("NOMINATED NODE", |o| o.or(&["status", "nominatedNodeName"], NONE)),
];

const SERVICES: &[Column] = &[
    col("TYPE", |o| o.text(&["spec", "type"])),
    col("CLUSTER-IP", |o| o.or(&["spec", "clusterIP"], NONE)),
    col("EXTERNAL-IP", |o| o.external_ip()),
    col("PORT(S)", |o| o.ports()),
    AGE,
    wide("SELECTOR", |o| o.labels(&["spec", "selector"])),
];

const NODES: &[Column] = &[
    col("STATUS", |o| o.node_status()),
    col("ROLES", |o| o.node_roles()),
    AGE,
    col("VERSION", |o| o.text(&["status", "nodeInfo", "kubeletVersion"])),
    wide("OS-IMAGE", |o| o.text(&["status", "nodeInfo", "osImage"])),
    wide("KERNEL-VERSION", |o| o.text(&["status", "nodeInfo", "kernelVersion"])),
    wide("CONTAINER-RUNTIME", |o| o.text(&["status", "nodeInfo", "containerRuntimeVersion"])),
];

const VOLUMES: &[Column] = &[
    col("CAPACITY", |o| o.text(&["spec", "capacity", "storage"])),
    col("ACCESS MODES", |o| o.access_modes(&["spec", "accessModes"])),
    col("RECLAIM POLICY", |o| o.text(&["spec", "persistentVolumeReclaimPolicy"])),
    col("STATUS", |o| o.text(&["status", "phase"])),
    col("CLAIM", |o| o.claim()),
    col("STORAGECLASS", |o| o.text(&["spec", "storageClassName"])),
    ATTRIBUTES_CLASS,
    col("REASON", |o| o.text(&["status", "reason"])),
    AGE,
    wide("VOLUMEMODE", |o| o.text(&["spec", "volumeMode"])),
];

/// Of volumes and claims, since 1.29.
const ATTRIBUTES_CLASS: Column =
    col("VOLUMEATTRIBUTESCLASS", |o| o.or(&["spec", "volumeAttributesClassName"], "<unset>"));

const CLAIMS: &[Column] = &[
    col("STATUS", |o| o.text(&["status", "phase"])),
    col("VOLUME", |o| o.text(&["spec", "volumeName"])),
    col("CAPACITY", |o| o.text(&["status", "capacity", "storage"])),
    col("ACCESS MODES", |o| o.access_modes(&["status", "accessModes"])),
    col("STORAGECLASS", |o| o.text(&["spec", "storageClassName"])),
    ATTRIBUTES_CLASS,
    AGE,
    wide("VOLUMEMODE", |o| o.text(&["spec", "volumeMode"])),
];

const EVENTS: &[Column] = &[
    col("LAST SEEN", |o| o.last_seen()),
    col("TYPE", |o| o.text(&["type"])),
    col("REASON", |o| o.text(&["reason"])),
    col("OBJECT", |o| {
        let kind = o.text(&["involvedObject", "kind"]).to_ascii_lowercase();
        format!("{kind}/{}", o.text(&["involvedObject", "name"]))
    }),
    col("MESSAGE", |o| o.text(&["message"]).trim().to_owned()),
];

const DEPLOYMENTS: &[Column] = &[
    col("READY", |o| format!("{}/{}", o.number(&["status", "readyReplicas"]), o.number(&["spec", "replicas"]))),
    col("UP-TO-DATE", |o| o.number(&["status", "updatedReplicas"])),
    col("AVAILABLE", |o| o.number(&["status", "availableReplicas"])),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const REPLICA_SETS: &[Column] = &[
    col("DESIRED", |o| o.number(&["spec", "replicas"])),
    col("CURRENT", |o| o.number(&["status", "replicas"])),
    col("READY", |o| o.number(&["status", "readyReplicas"])),
    AGE,
    CONTAINERS,
    IMAGES,
];

const DAEMON_SETS: &[Column] = &[
    col("DESIRED", |o| o.number(&["status", "desiredNumberScheduled"])),
    col("CURRENT", |o| o.number(&["status", "currentNumberScheduled"])),
    col("READY", |o| o.number(&["status", "numberReady"])),
    col("UP-TO-DATE", |o| o.number(&["status", "updatedNumberScheduled"])),
    col("AVAILABLE", |o| o.number(&["status", "numberAvailable"])),
    col("NODE SELECTOR", |o| o.labels(&["spec", "template", "spec", "nodeSelector"])),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const JOBS: &[Column] = &[
    col("STATUS", |o| o.job_status()),
    col("COMPLETIONS", |o| format!("{}/{}", o.number(&["status", "succeeded"]), o.or(&["spec", "completions"], "1"))),
    col("DURATION", |o| o.job_duration()),
    AGE,
    CONTAINERS,
    IMAGES,
];

const CRON_JOBS: &[Column] = &[
    col("SCHEDULE", |o| o.text(&["spec", "schedule"])),
    col("TIMEZONE", |o| o.or(&["spec", "timeZone"], NONE)),
    col("SUSPEND", |o| {
        let suspended = o.or(&["spec", "suspend"], "false");
        if suspended == "true" { "True".to_owned() } else { "False".to_owned() }
    }),
    col("ACTIVE", |o| o.count(&[&["status", "active"]])),
    col("LAST SCHEDULE", |o| match o.root.find(&["status", "lastScheduleTime"]) {
        Some(_) => o.age(&["status", "lastScheduleTime"]),
        None => NONE.to_owned(),
    }),
    AGE,
];

const INGRESSES: &[Column] = &[
    col("CLASS", |o| o.or(&["spec", "ingressClassName"], NONE)),
    col("HOSTS", |o| o.hosts()),
    col("ADDRESS", |o| o.load_balancers()),
    col("PORTS", |o| if o.root.find(&["spec", "tls"]).is_some() { "80, 443".to_owned() } else { "80".to_owned() }),
    AGE,
];

const STORAGE_CLASSES: &[Column] = &[
    col("PROVISIONER", |o| o.text(&["provisioner"])),
    col("RECLAIMPOLICY", |o| o.or(&["reclaimPolicy"], "Delete")),
    col("VOLUMEBINDINGMODE", |o| o.or(&["volumeBindingMode"], "Immediate")),
    col("ALLOWVOLUMEEXPANSION", |o| o.or(&["allowVolumeExpansion"], "false")),
    AGE,
];

impl<'n, 'd> Object<'n, 'd> {
    /// Text, number or truth at a path; empty where there is none.
    fn text(&self, path: &[&str]) -> String {
        self.root.find(path).map_or_else(String::new, plain)
    }

    fn or(&self, path: &[&str], otherwise: &str) -> String {
        let text = self.text(path);
        if text.is_empty() { otherwise.to_owned() } else { text }
    }

    fn number(&self, path: &[&str]) -> String {
        self.or(path, "0")
    }

    fn list(&self, path: &[&str]) -> Vec<Node<'n, 'd>> {
        self.root.find(path).into_iter().flat_map(Node::items).collect()
    }

    /// How many members or items stand at some paths.
    fn count(&self, paths: &[&[&str]]) -> String {
        let nodes = paths.iter().filter_map(|path| self.root.find(path));
        nodes.map(|node| node.items().count() + node.members().count()).sum::<usize>().to_string()
    }

    fn age(&self, path: &[&str]) -> String {
        let moment = self.root.find(path).and_then(Node::text).and_then(|text| seconds(&text));
        moment.map_or("<unknown>".to_owned(), |moment| human_duration(self.now - moment))
    }

    fn labels(&self, path: &[&str]) -> String {
        let members = self.root.find(path).map(Node::sorted).unwrap_or_default();
        let labels: Vec<String> = members.into_iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
        if labels.is_empty() { NONE.to_owned() } else { labels.join(",") }
    }

    fn containers(&self, field: &str) -> String {
        let mut containers = self.list(&["spec", "template", "spec", "containers"]);
        if containers.is_empty() {
            containers = self.list(&["spec", "jobTemplate", "spec", "template", "spec", "containers"]);
        }
        containers.into_iter().filter_map(|one| one.get(field)).map(plain).collect::<Vec<_>>().join(",")
    }

    fn ready_containers(&self) -> String {
        let statuses = self.list(&["status", "containerStatuses"]);
        let ready = statuses.iter().filter(|status| status.get("ready").map(Node::scalar) == Some(Scalar::Bool(true)));
        format!("{}/{}", ready.count(), self.list(&["spec", "containers"]).len())
    }

    fn pod_status(&self) -> String {
        let mut reason = self.or(&["status", "reason"], &self.text(&["status", "phase"]));
        for status in self.list(&["status", "containerStatuses"]) {
            let why = |path: &[&str]| status.find(path).map(plain).filter(|why| !why.is_empty());
            if let Some(why) = why(&["state", "waiting", "reason"]).or_else(|| why(&["state", "terminated", "reason"]))
            {
                reason = why;
            }
        }
        if self.root.find(&["metadata", "deletionTimestamp"]).is_some() {
            reason = "Terminating".to_owned();
        }
        reason
    }

    fn restarts(&self) -> String {
        let counts = self.list(&["status", "containerStatuses"]).into_iter();
        counts.filter_map(|status| status.get("restartCount")?.integer()).sum::<i64>().to_string()
    }

    fn load_balancers(&self) -> String {
        let ingress = self.list(&["status", "loadBalancer", "ingress"]).into_iter();
        let addresses = ingress.filter_map(|one| one.get("ip").or_else(|| one.get("hostname"))).map(plain);
        addresses.collect::<Vec<_>>().join(",")
    }

    fn external_ip(&self) -> String {
        let given: Vec<String> = self.list(&["spec", "externalIPs"]).into_iter().map(plain).collect();
        match self.text(&["spec", "type"]).as_str() {
            "ExternalName" => self.text(&["spec", "externalName"]),
            "LoadBalancer" => {
                let mut all: Vec<String> =
                    Some(self.load_balancers()).into_iter().filter(|one| !one.is_empty()).collect();
                all.extend(given);
                if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
            }
            _ if given.is_empty() => NONE.to_owned(),
            _ => given.join(","),
        }
    }

    fn ports(&self) -> String {
        let ports = self.list(&["spec", "ports"]).into_iter().map(|port| {
            let text = |name: &str| port.get(name).map(plain).unwrap_or_default();
            let node = Some(text("nodePort")).filter(|node| !node.is_empty() && node != "0");
            let node = node.map_or(String::new(), |node| format!(":{node}"));
            format!("{}{node}/{}", text("port"), text("protocol"))
        });
        let ports: Vec<String> = ports.collect();
        if ports.is_empty() { NONE.to_owned() } else { ports.join(",") }
    }

    fn node_status(&self) -> String {
        let mut conditions = self.list(&["status", "conditions"]).into_iter();
        let ready = conditions.rfind(|one| one.get("type").map(plain).as_deref() == Some("Ready"));
        let mut status = match ready.and_then(|ready| ready.get("status")).map(plain).as_deref() {
            Some("True") => "Ready".to_owned(),
            Some(_) => "NotReady".to_owned(),
            None => "Unknown".to_owned(),
        };
        if self.text(&["spec", "unschedulable"]) == "true" {
            status.push_str(",SchedulingDisabled");
        }
        status
    }

    fn node_roles(&self) -> String {
        let labels = self.root.find(&["metadata", "labels"]).map(Node::sorted).unwrap_or_default();
        let mut roles = Vec::new();
        for (key, value) in labels {
            match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => roles.push(role.to_owned()),
                _ if key == "kubernetes.io/role" => roles.push(plain(value)),
                _ => {}
            }
        }
        roles.sort();
        roles.dedup();
        if roles.is_empty() { NONE.to_owned() } else { roles.join(",") }
    }

    fn access_modes(&self, path: &[&str]) -> String {
        let modes = self.list(path).into_iter().map(|mode| match plain(mode).as_str() {
            "ReadWriteOnce" => "RWO".to_owned(),
            "ReadOnlyMany" => "ROX".to_owned(),
            "ReadWriteMany" => "RWX".to_owned(),
            "ReadWriteOncePod" => "RWOP".to_owned(),
            other => other.to_owned(),
        });
        modes.collect::<Vec<_>>().join(",")
    }

    fn claim(&self) -> String {
        match self.root.find(&["spec", "claimRef"]) {
            None => String::new(),
            Some(_) => {
                format!(
                    "{}/{}",
                    self.text(&["spec", "claimRef", "namespace"]),
                    self.text(&["spec", "claimRef", "name"])
                )
            }
        }
    }

    fn endpoints(&self) -> String {
        let mut all = Vec::new();
        for subset in self.list(&["subsets"]) {
            let ports: Vec<String> = subset
                .get("ports")
                .into_iter()
                .flat_map(Node::items)
                .filter_map(|port| port.get("port"))
                .map(plain)
                .collect();
            for address in subset.get("addresses").into_iter().flat_map(Node::items) {
                let ip = address.get("ip").map(plain).unwrap_or_default();
                match ports.is_empty() {
                    true => all.push(ip),
                    false => all.extend(ports.iter().map(|port| format!("{ip}:{port}"))),
                }
            }
        }
        let more = all.len().saturating_sub(3);
        all.truncate(3);
        match more {
            _ if all.is_empty() => NONE.to_owned(),
            0 => all.join(","),
            more => format!("{} + {more} more...", all.join(",")),
        }
    }

    fn last_seen(&self) -> String {
        let paths: [&[&str]; 5] = [
            &["series", "lastObservedTime"],
            &["lastTimestamp"],
            &["deprecatedLastTimestamp"],
            &["eventTime"],
            &["firstTimestamp"],
        ];
        let has_time = |path: &&&[&str]| self.root.find(path).is_some_and(|node| node.scalar() != Scalar::Null);
        paths.iter().find(has_time).map_or("<unknown>".to_owned(), |path| self.age(path))
    }

    fn job_status(&self) -> String {
        let conditions = self.list(&["status", "conditions"]).into_iter();
        let holds = conditions.filter(|one| one.get("status").map(plain).as_deref() == Some("True"));
        let kinds: Vec<String> = holds.filter_map(|one| one.get("type")).map(plain).collect();
        let is = |kind: &str| kinds.iter().any(|one| one == kind);
        let status = ["Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|kind| is(kind));
        if self.root.find(&["metadata", "deletionTimestamp"]).is_some() {
            return "Terminating".to_owned();
        }
        status.unwrap_or("Running").to_owned()
    }

    fn job_duration(&self) -> String {
        let moment = |path: &[&str]| self.root.find(path).and_then(Node::text).and_then(|text| seconds(&text));
        match (moment(&["status", "startTime"]), moment(&["status", "completionTime"])) {
            (None, _) => String::new(),
            (Some(start), end) => human_duration(end.unwrap_or(self.now) - start),
        }
    }

    fn hosts(&self) -> String {
        let hosts: Vec<String> =
            self.list(&["spec", "rules"]).into_iter().filter_map(|rule| rule.get("host")).map(plain).collect();
        if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") }
    }
}

fn plain(node: Node<'_, '_>) -> String {
    match node.scalar() {
        Scalar::Text(text) => Cow::into_owned(text),
        Scalar::Number(text) => text.to_owned(),
        Scalar::Bool(value) => value.to_string(),
        Scalar::Null | Scalar::Array | Scalar::Object => String::new(),
    }
}

/// The seconds since 1970 of `2006-01-02T15:04:05Z`, with or without a fraction.
fn seconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Years begin in March, so that the leap day is the last one.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let day = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(day * 86_400 + hour * 3600 + minute * 60 + second)
}

/// A duration as kubectl shows it: the two largest units that say something.
///
/// Upstream: `HumanDuration` in `pkg/util/duration` of `kubernetes/apimachinery`.
fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: char, small: i64, rest: char| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{rest}"),
    };
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, 'd', hours % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => two(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::Document;

    #[track_caller]
    fn check(group: &str, resource: &str, json: &str, expected: &[&str]) {
        let document = Document::parse(json.as_bytes()).unwrap();
        let object = Object { root: document.root(), now: seconds("2026-01-03T00:00:00Z").unwrap() };
        let cells: Vec<String> = columns(group, resource).iter().map(|column| (column.cell)(&object)).collect();
        assert_eq!(cells, expected);
    }

    #[test]
    fn cells_are_kubectls() {
        let meta = r#""metadata":{"creationTimestamp":"2026-01-01T00:00:00Z"}"#;
        check(
            "",
            "secrets",
            &format!(r#"{{{meta},"type":"Opaque","data":{{"a":"","b":""}}}}"#),
            &["Opaque", "2", "2d"],
        );
        check("", "configmaps", &format!(r#"{{{meta},"data":{{"a":""}},"binaryData":{{"b":""}}}}"#), &["2", "2d"]);
        check(
            "apps",
            "deployments",
            &format!(
                r#"{{{meta},"spec":{{"replicas":3,"selector":{{"matchLabels":{{"a":"b"}}}},"template":{{"spec":{{"containers":[{{"name":"c","image":"i:1"}}]}}}}}},"status":{{"readyReplicas":2,"updatedReplicas":3}}}}"#
            ),
            &["2/3", "3", "0", "2d", "c", "i:1", "a=b"],
        );
        check(
            "",
            "services",
            &format!(
                r#"{{{meta},"spec":{{"type":"NodePort","clusterIP":"10.0.0.1","ports":[{{"port":80,"nodePort":30080,"protocol":"TCP"}},{{"port":53,"protocol":"UDP"}}]}}}}"#
            ),
            &["NodePort", "10.0.0.1", "<none>", "80:30080/TCP,53/UDP", "2d", "<none>"],
        );
        check("example.com", "widgets", &format!("{{{meta}}}"), &["2d"]);
        check("", "nodes", "{}", &["Unknown", "<none>", "<unknown>", "", "", "", ""]);
    }

    #[test]
    fn durations_are_kubectls() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (130, "2m10s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_071_999, "729d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn moments_are_read() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-02-29T12:00:00.123456Z"), Some(951_825_600));
        assert_eq!(seconds("2026-1-1"), None);
    }
}
