//! The first question to a plugin: what it is and whether it is well.
//!
//! Upstream: `checkAPIVersion` of `envelope/grpc_service.go` for v1; for v2 the probe of
//! `pkg/server/options/encryptionconfig/config.go`, of which the trial encryption is left out: it would be billed.

use std::collections::HashMap;
use std::time::Duration;

use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::task::JoinSet;
use tonic::Code;

use super::address::{Address, EndpointError};
use super::client::{CallError, Client};
use super::messages::{StatusRequest, StatusResponse, V1_VERSION, V1BETA1, V2_STATUS, V2ALPHA1_STATUS, Version};
use super::words::aggregate;
use crate::grpc::tame;
use crate::provider::spec::{KmsSpec, KmsVersion};

/// The most bytes of a key id.
const MAX_KEY_ID_BYTES: usize = 1024;

/// The gRPC package that a plugin answers in. Its messages are the same within a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Package {
    V1Beta1,
    V2,
    V2Alpha1,
}

impl Package {
    fn name(self) -> &'static str {
        match self {
            Self::V1Beta1 => V1BETA1,
            Self::V2 => "v2",
            Self::V2Alpha1 => "v2alpha1",
        }
    }
}

/// How a plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The provider's name.
    pub provider: String,
    /// Its protocol.
    pub version: KmsVersion,
    /// Where it was looked for; `None` if its endpoint is no address.
    pub address: Option<Address>,
    /// What it said.
    pub outcome: Result<Health, Unwell>,
}

/// A plugin that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The gRPC package that it answers in: `v1beta1`, `v2`, or `v2alpha1` as Kubernetes 1.25 and 1.26 want it.
    pub package: &'static str,
    /// The version that it says of itself; `v2beta1` is package `v2`, too.
    pub version: String,
    /// The key that it wraps with now, by which values are judged stale; `None` for v1, which does not tell.
    pub key_id: Option<String>,
    /// How long it took to say so. Plugins that answer this from memory take longer to open a DEK.
    pub latency: Duration,
}

/// Why a plugin cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unwell {
    /// The file has v1 providers of one name at several endpoints. A request does not say which of them is meant.
    #[error("several KMS v1 providers of this name listen at different endpoints")]
    Ambiguous,
    /// There is nowhere to ask.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// It does not answer, or not as it should; in kube-apiserver's words.
    #[error("{0}")]
    Plugin(String),
}

/// A greeting, and the client where the plugin is well.
pub(super) struct Greeted {
    pub greeting: Greeting,
    pub connection: Option<(Client, Package)>,
}

/// What a visit to a plugin comes to.
type Met = Result<(Client, Package, Health), Unwell>;

/// Greets each distinct provider of a file, all at once.
pub(super) async fn greet_all(specs: &[KmsSpec], endpoints: &HashMap<String, String>) -> Vec<Greeted> {
    let mut doors: Vec<Door> = Vec::new();
    for spec in specs {
        let endpoint = endpoints.get(&spec.name).unwrap_or(&spec.endpoint);
        let address = Address::parse(endpoint);
        match doors.iter_mut().find(|door| (door.version, &door.name) == (spec.version, &spec.name)) {
            Some(door) => door.ambiguous |= door.address != address,
            None => doors.push(Door {
                name: spec.name.clone(),
                version: spec.version,
                address,
                timeout: spec.timeout,
                ambiguous: false,
            }),
        }
    }
    let mut visits: JoinSet<(usize, Met)> = JoinSet::new();
    for (place, door) in doors.iter().cloned().enumerate() {
        visits.spawn(async move { (place, door.knock().await) });
    }
    let mut outcomes: HashMap<usize, _> = HashMap::new();
    while let Some(visit) = visits.join_next().await {
        // A visit that ends without an outcome leaves a plugin that was not met.
        outcomes.extend(visit.ok());
    }
    let unmet = || Err(Unwell::Plugin("the plugin was not met".to_string()));
    doors
        .into_iter()
        .enumerate()
        .map(|(place, door)| door.greeted(outcomes.remove(&place).unwrap_or_else(unmet)))
        .collect()
}

/// Where to find a plugin.
#[derive(Clone)]
struct Door {
    name: String,
    version: KmsVersion,
    address: Result<Address, EndpointError>,
    timeout: Duration,
    ambiguous: bool,
}

impl Door {
    async fn knock(self) -> Met {
        if self.ambiguous {
            return Err(Unwell::Ambiguous);
        }
        let client = Client::new(&self.address?, self.timeout);
        let answer = match self.version {
            KmsVersion::V1 => version(&client).await,
            KmsVersion::V2 => status(&client, &self.name).await,
        };
        let (package, health) = answer.map_err(Unwell::Plugin)?;
        Ok((client, package, health))
    }

    fn greeted(self, outcome: Met) -> Greeted {
        let (outcome, connection) = match outcome {
            Ok((client, package, health)) => (Ok(health), Some((client, package))),
            Err(unwell) => (Err(unwell), None),
        };
        let address = self.address.ok();
        Greeted { greeting: Greeting { provider: self.name, version: self.version, address, outcome }, connection }
    }
}

async fn version(client: &Client) -> Result<(Package, Health), String> {
    let request = Version { version: V1BETA1.to_string() };
    let answer: Result<(Version, Duration), CallError> = client.call(V1_VERSION, request).await;
    let (Version { version }, latency) =
        answer.map_err(|error| format!("failed get version from remote KMS provider: {error}"))?;
    if version != V1BETA1 {
        let version = tame(&version);
        return Err(format!("KMS provider api version {version} is not supported, only {V1BETA1} is supported now"));
    }
    let package = Package::V1Beta1;
    Ok((package, Health { package: package.name(), version, key_id: None, latency }))
}

/// Asks a v2 plugin what it is, whether it is well, and which key is the current one.
pub(super) async fn status(client: &Client, name: &str) -> Result<(Package, Health), String> {
    let mut package = Package::V2;
    let mut answer: Result<(StatusResponse, Duration), CallError> = client.call(V2_STATUS, StatusRequest {}).await;
    if answer.as_ref().is_err_and(|error| error.code == Code::Unimplemented) {
        let older: Result<(StatusResponse, Duration), CallError> = client.call(V2ALPHA1_STATUS, StatusRequest {}).await;
        // A plugin of neither package is told of in the words of the newer.
        if !older.as_ref().is_err_and(|error| error.code == Code::Unimplemented) {
            (package, answer) = (Package::V2Alpha1, older);
        }
    }
    let (status, latency) = answer.map_err(|error| {
        format!("failed to perform status section of the healthz check for KMS Provider {name}, error: {error}")
    })?;
    let complaints = complaints(&status, package);
    if !complaints.is_empty() {
        return Err(format!("kmsv2 Provider {name} is not healthy, error: {}", aggregate(&complaints)));
    }
    let StatusResponse { version, key_id, .. } = status;
    Ok((package, Health { package: package.name(), version, key_id: Some(key_id), latency }))
}

/// What upstream has to say against a status.
fn complaints(status: &StatusResponse, package: Package) -> Vec<String> {
    let mut complaints = Vec::new();
    if status.healthz != "ok" {
        complaints.push(format!("got unexpected healthz status: {}", tame(&status.healthz)));
    }
    let versions: &[&str] = match package {
        Package::V2Alpha1 => &["v2alpha1"],
        Package::V1Beta1 | Package::V2 => &["v2", "v2beta1"],
    };
    if !versions.contains(&&*status.version) {
        complaints.push(format!("expected KMSv2 API version {}, got {}", package.name(), tame(&status.version)));
    }
    let key_id = &status.key_id;
    let fault = match key_id.len() {
        0 => "keyID is empty".to_string(),
        1..=MAX_KEY_ID_BYTES => return complaints,
        bytes => format!("keyID is {bytes} bytes, which exceeds the max size of {MAX_KEY_ID_BYTES}"),
    };
    let hash = match key_id.is_empty() {
        true => String::new(),
        false => Sha256::digest(key_id).iter().fold("sha256:".to_string(), |hash, byte| format!("{hash}{byte:02x}")),
    };
    complaints.push(format!("got invalid KMSv2 KeyID hash {hash:?}: {fault}"));
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_judged_in_upstreams_words() {
        let judged = |version: &str, healthz: &str, key_id: &str, package| {
            let [version, healthz, key_id] = [version, healthz, key_id].map(str::to_string);
            complaints(&StatusResponse { version, healthz, key_id }, package).join(", ")
        };
        for (version, package) in [("v2", Package::V2), ("v2beta1", Package::V2), ("v2alpha1", Package::V2Alpha1)] {
            assert_eq!(judged(version, "ok", &"k".repeat(1024), package), "");
        }
        let all = "got unexpected healthz status: unhealthy, expected KMSv2 API version v2, got v2alpha1, \
                   got invalid KMSv2 KeyID hash \"\": keyID is empty";
        assert_eq!(judged("v2alpha1", "unhealthy", "", Package::V2), all);
        assert_eq!(judged("v2", "ok", "1", Package::V2Alpha1), "expected KMSv2 API version v2alpha1, got v2");
        let long = judged("v2", "ok", &"k".repeat(1025), Package::V2);
        assert!(long.starts_with("got invalid KMSv2 KeyID hash \"sha256:"), "{long}");
        assert!(long.ends_with("\": keyID is 1025 bytes, which exceeds the max size of 1024"), "{long}");
    }
}
