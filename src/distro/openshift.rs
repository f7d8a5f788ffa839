//! OpenShift 4: three API servers, each with numbered keys of its own.
//!
//! | what | where |
//! |---|---|
//! | the keys | Secrets `openshift-config-managed/encryption-key-<component>-<N>` |
//! | what each server uses | Secrets `openshift-config-managed/encryption-config-<component>`, and `encryption-config[-<revision>]` in the server's namespace |
//! | what kube-apiserver uses, outside of the store | `static_kuberesources_*.tar.gz`: `static-pod-resources/kube-apiserver-pod-<revision>/secrets/encryption-config/encryption-config` |
//!
//! On storage a key's name is its number alone, so `1` is three different keys. kube-apiserver encrypts Secrets, and with
//! them the other two servers' configurations: its own, out of the backup's tarball, opens the rest.
//!
//! Upstream: `openshift/library-go`, `pkg/operator/encryption`; `openshift/cluster-etcd-operator`,
//! `bindata/etcd/cluster-backup.sh`.

use std::collections::BTreeMap;
use std::io::Read;

use zeroize::Zeroizing;

use crate::config::{self, ApiServers, Configuration, Coverage, base64};
use crate::kube::document::{Document, Node};
use crate::kube::resource::{ApiServer, GroupResource};
use crate::kube::schema::{self, Dress};
use crate::provider::chain::{Answer, Chain};
use crate::provider::kms::DekTable;
use crate::provider::plaintext::Plaintext;
use crate::provider::secret::SecretKey;
use crate::provider::spec::{NamedKey, ProviderSpec};
use crate::source::container::members::{Limits, MembersError, members};

use super::gather::StoredSecret;

/// What a backup's tarball may hold. Real ones have some hundred small files.
const TARBALL: Limits = Limits { unpacked: 512 << 20, file: config::SIZE_LIMIT_BYTES, files: 1024 };

/// Where the operators keep keys and configurations.
const MANAGED: &[u8] = b"/secrets/openshift-config-managed";

/// Where each API server finds its own copy.
const NAMESPACES: [&[u8]; 3] =
    [b"/secrets/openshift-kube-apiserver", b"/secrets/openshift-apiserver", b"/secrets/openshift-oauth-apiserver"];

const KEY_PREFIX: &str = "encryption-key-";
const CONFIG_PREFIX: &str = "encryption-config";

/// What annotations and the data of key Secrets begin with.
const DOMAIN: &str = "encryption.apiserver.operator.openshift.io";

/// The path in a tarball, around the revision.
const POD_PREFIX: &str = "static-pod-resources/kube-apiserver-pod-";
const POD_SUFFIX: &str = "/secrets/encryption-config/encryption-config";

/// The components, and the API server that each is.
pub const COMPONENTS: [(&str, ApiServer); 3] = [
    ("openshift-kube-apiserver", ApiServer::Kube),
    ("openshift-apiserver", ApiServer::OpenShift),
    ("openshift-oauth-apiserver", ApiServer::OAuth),
];

/// The API server that a component is.
pub fn server_of(component: &str) -> Option<ApiServer> {
    COMPONENTS.into_iter().find(|(name, _)| *name == component).map(|(_, server)| server)
}

/// Whether a Secret, by the folder and name in its key, holds a key or a configuration.
pub(super) fn is_of_interest(folder: &[u8], name: &[u8]) -> bool {
    if folder.ends_with(MANAGED) {
        name.starts_with(KEY_PREFIX.as_bytes()) || name.starts_with(CONFIG_PREFIX.as_bytes())
    } else {
        name.starts_with(CONFIG_PREFIX.as_bytes()) && NAMESPACES.iter().any(|namespace| folder.ends_with(namespace))
    }
}

/// kube-apiserver's configuration of one revision, out of a tarball.
pub struct PodConfig {
    /// The revision of the static pod.
    pub revision: u64,
    /// The name in the archive.
    pub name: String,
    /// The file.
    pub bytes: Zeroizing<Vec<u8>>,
}

/// Why a tarball gives no configuration.
#[derive(Debug, thiserror::Error)]
pub enum TarballError {
    /// See [`MembersError`].
    #[error(transparent)]
    Members(#[from] MembersError),
    /// It holds none.
    #[error("the archive holds no {POD_PREFIX}<revision>{POD_SUFFIX}")]
    None,
    /// It holds two of one revision that differ.
    #[error("the archive holds revision {0} twice, and they differ")]
    Twice(u64),
}

/// The configurations in a backup's tarball, the highest revision first.
///
/// # Errors
///
/// [`TarballError`].
pub fn tarball(input: impl Read) -> Result<Vec<PodConfig>, TarballError> {
    let found = members(input, TARBALL, |name| pod_revision(name).is_some())?;
    let mut configs: Vec<PodConfig> = Vec::new();
    for member in found {
        let Some(revision) = pod_revision(&member.name) else { continue };
        match configs.iter().find(|known| known.revision == revision) {
            Some(known) if *known.bytes != *member.bytes => return Err(TarballError::Twice(revision)),
            Some(_) => {}
            None => configs.push(PodConfig { revision, name: member.name, bytes: member.bytes }),
        }
    }
    if configs.is_empty() {
        return Err(TarballError::None);
    }
    configs.sort_by_key(|config| std::cmp::Reverse(config.revision));
    Ok(configs)
}

/// The revision in a name that ends as the configuration's does.
fn pod_revision(name: &str) -> Option<u64> {
    let pod = name.strip_suffix(POD_SUFFIX)?;
    let (before, revision) = pod.rsplit_once(POD_PREFIX)?;
    let is_folder = before.is_empty() || before.ends_with('/');
    let digits = !revision.is_empty() && revision.bytes().all(|byte| byte.is_ascii_digit());
    if is_folder && digits { revision.parse().ok() } else { None }
}

/// A key of a component.
#[derive(Clone, Debug)]
pub struct KeySecret {
    /// Whose.
    pub component: String,
    /// Its number, which is its name on storage.
    pub number: u64,
    /// What the Secret says; none where it stayed closed.
    pub said: Option<KeySaid>,
}

/// What a key's Secret says.
#[derive(Clone, Debug)]
pub struct KeySaid {
    /// `aescbc`, `aesgcm`, `secretbox`, `identity` or `KMS`.
    pub mode: String,
    /// When it was made.
    pub created: Option<String>,
    /// When all of its resources had been written anew with it.
    pub migrated: Option<String>,
    /// Those that were, as `resource.group`.
    pub migrated_resources: Vec<String>,
    /// Why it was made.
    pub reason: Option<String>,
    /// The key itself.
    pub secret: SecretKey,
}

impl KeySecret {
    /// The key as a provider has it; none of one that is only a placeholder, or closed.
    pub fn provider(&self) -> Option<ProviderSpec> {
        let said = self.said.as_ref()?;
        let keys = vec![NamedKey { name: self.number.to_string(), secret: said.secret.clone() }];
        match (said.mode.as_str(), said.secret.len()) {
            ("aescbc", 16 | 24 | 32) => Some(ProviderSpec::AesCbc(keys)),
            ("aesgcm", 16 | 24 | 32) => Some(ProviderSpec::AesGcm(keys)),
            ("secretbox", 32) => Some(ProviderSpec::Secretbox(keys)),
            _ => None,
        }
    }
}

/// A component's configuration.
#[derive(Clone, Debug)]
pub struct ConfigSecret {
    /// Whose.
    pub component: String,
    /// The key of the Secret.
    pub key: String,
    /// The revision at which the store has it.
    pub revision: i64,
    /// What it says.
    pub configuration: Configuration,
}

/// A Secret that gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its key.
    pub key: String,
    /// Why.
    pub why: String,
}

/// What a store's Secrets say.
#[derive(Debug, Default)]
pub struct Kept {
    /// Keys by component and number.
    pub keys: Vec<KeySecret>,
    /// The configuration that each component uses, one each.
    pub configs: Vec<ConfigSecret>,
    /// What stayed closed or made no sense.
    pub closed: Vec<Closed>,
}

/// Reads a store's Secrets with what kube-apiserver opens Secrets with.
pub fn read(secrets: &[StoredSecret], servers: &ApiServers) -> Kept {
    let opener = Opener::new(servers);
    let mut kept = Kept::default();
    let mut configs: BTreeMap<String, (u64, ConfigSecret)> = BTreeMap::new();
    for secret in secrets {
        let key = String::from_utf8_lossy(&secret.key).into_owned();
        let (folder, name) = key.rsplit_once('/').unwrap_or(("", &key));
        let object = opener.open(secret);
        if let Some((component, number)) = key_name(name) {
            let said = object.and_then(|json| key_said(&json));
            let said = said.map_err(|why| kept.closed.push(Closed { key: key.clone(), why })).ok();
            kept.keys.push(KeySecret { component, number, said });
        } else if let Some((component, rank)) = config_name(folder, name) {
            match object.and_then(|json| config_said(&json)) {
                Ok(configuration) => {
                    let (component, revision) = (component.to_owned(), secret.revision);
                    let found = ConfigSecret { component: component.clone(), key, revision, configuration };
                    let better = configs.get(&component).is_none_or(|(known, _)| *known < rank);
                    if better {
                        configs.insert(component, (rank, found));
                    }
                }
                Err(why) => kept.closed.push(Closed { key, why }),
            }
        }
    }
    kept.keys.sort_by(|one, other| (&one.component, one.number).cmp(&(&other.component, other.number)));
    kept.configs = configs.into_values().map(|(_, config)| config).collect();
    kept
}

/// Component and number in a key Secret's name.
fn key_name(name: &str) -> Option<(String, u64)> {
    let (component, number) = name.strip_prefix(KEY_PREFIX)?.rsplit_once('-')?;
    Some((component.to_owned(), number.parse().ok()?))
}

/// The component of a configuration's Secret, and a rank: the operators' own copy first, then the highest revision.
fn config_name<'n>(folder: &'n str, name: &'n str) -> Option<(&'n str, u64)> {
    let rest = name.strip_prefix(CONFIG_PREFIX)?;
    if folder.as_bytes().ends_with(MANAGED) {
        return Some((rest.strip_prefix('-').filter(|component| server_of(component).is_some())?, u64::MAX));
    }
    let namespace = folder.rsplit('/').next().filter(|namespace| server_of(namespace).is_some())?;
    match rest.strip_prefix('-') {
        None if rest.is_empty() => Some((namespace, u64::MAX - 1)),
        Some(revision) => Some((namespace, revision.parse::<u64>().ok()?.min(u64::MAX - 2))),
        None => None,
    }
}

/// Opens Secrets, and nothing else.
struct Opener {
    chain: Option<Chain>,
}

impl Opener {
    fn new(servers: &ApiServers) -> Self {
        let secrets = GroupResource::new("", "secrets");
        let chain = match servers.resolve(ApiServer::Kube, &secrets) {
            Coverage::Configured { providers, .. } => Chain::new(providers).ok(),
            Coverage::Unlisted { .. } | Coverage::Uncovered => None,
        };
        Self { chain: Some(chain.unwrap_or_else(Chain::identity)) }
    }

    /// The JSON of a Secret, or why there is none.
    fn open(&self, secret: &StoredSecret) -> Result<Zeroizing<Vec<u8>>, String> {
        let Some(chain) = &self.chain else { return Err("nothing opens it".to_owned()) };
        let (deks, mut scratch) = (DekTable::new(), Plaintext::new());
        let plaintext = match chain.open(&secret.key, &secret.value, &deks, &mut scratch) {
            Answer::Opened { plaintext, .. } => plaintext,
            Answer::Failed(failure) => return Err(failure.to_string()),
            Answer::Waits { .. } => return Err("a KMS plugin would have to open it".to_owned()),
        };
        let mut json = Zeroizing::new(Vec::with_capacity(2 * plaintext.len() + 4096));
        schema::to_json(plaintext, &Dress::STORED, &mut json).map_err(|error| error.to_string())?;
        Ok(json)
    }
}

/// Bytes of a Secret's data.
fn data(root: Node<'_, '_>, name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let text = root.find(&["data", name]).and_then(Node::text).ok_or_else(|| format!("it has no data {name:?}"))?;
    let text = Zeroizing::new(text.into_owned());
    base64::decode(&text).ok_or_else(|| format!("its data {name:?} is no base64"))
}

fn config_said(json: &[u8]) -> Result<Configuration, String> {
    let document = Document::parse(json).map_err(|error| error.to_string())?;
    let bytes = data(document.root(), CONFIG_PREFIX)?;
    config::load(&bytes).map_err(|error| error.to_string())
}

fn key_said(json: &[u8]) -> Result<KeySaid, String> {
    let document = Document::parse(json).map_err(|error| error.to_string())?;
    let root = document.root();
    let annotation = |name: &str| {
        let name = format!("{DOMAIN}/{name}");
        root.find(&["metadata", "annotations", &name]).and_then(Node::text).map(std::borrow::Cow::into_owned)
    };
    let bytes = data(root, &format!("{DOMAIN}-key"))?;
    let created = root.find(&["metadata", "creationTimestamp"]).and_then(Node::text);
    Ok(KeySaid {
        mode: annotation("mode").unwrap_or_default(),
        created: created.map(std::borrow::Cow::into_owned).filter(|created| !created.is_empty()),
        migrated: annotation("migrated-timestamp").filter(|stamp| !stamp.is_empty()),
        migrated_resources: annotation("migrated-resources").map(|text| migrated_resources(&text)).unwrap_or_default(),
        reason: annotation("external-reason").or_else(|| annotation("internal-reason")).filter(|why| !why.is_empty()),
        secret: SecretKey::new(bytes.to_vec()),
    })
}

/// `{"resources":[{"Group":"","Resource":"secrets"}]}` as `resource.group`.
fn migrated_resources(text: &str) -> Vec<String> {
    let Ok(document) = Document::parse(text.as_bytes()) else { return Vec::new() };
    let Some(list) = document.root().get("resources") else { return Vec::new() };
    let name = |item: Node<'_, '_>| {
        let part = |name: &str| item.get(name).and_then(Node::text).unwrap_or_default().into_owned();
        GroupResource::new(part("Group"), part("Resource")).to_string()
    };
    list.items().map(name).collect()
}

/// Whether a provider only keeps a number: aesgcm with a key of zeros, for a key that was identity or KMS.
pub fn is_placeholder(provider: &ProviderSpec) -> bool {
    match provider {
        ProviderSpec::AesGcm(keys) => {
            !keys.is_empty() && keys.iter().all(|key| key.secret.expose().iter().all(|byte| *byte == 0))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_and_files_are_read() {
        assert_eq!(key_name("encryption-key-openshift-apiserver-12"), Some(("openshift-apiserver".to_owned(), 12)));
        assert_eq!(key_name("encryption-key-openshift-apiserver-x"), None);
        let managed = "/kubernetes.io/secrets/openshift-config-managed";
        let own = "/kubernetes.io/secrets/openshift-apiserver";
        let rank = |folder, name| config_name(folder, name).map(|(component, _)| component);
        assert_eq!(rank(managed, "encryption-config-openshift-oauth-apiserver"), Some("openshift-oauth-apiserver"));
        assert_eq!(rank(managed, "encryption-config-other"), None);
        assert_eq!(rank(own, "encryption-config"), Some("openshift-apiserver"));
        assert_eq!(rank(own, "encryption-config-7"), Some("openshift-apiserver"));
        assert_eq!(rank(own, "encryption-configs"), None);
        assert!(config_name(own, "encryption-config-7") < config_name(own, "encryption-config-10"));
        let pod = |path: &str| pod_revision(&format!("{path}/secrets/encryption-config/encryption-config"));
        assert_eq!(pod("static-pod-resources/kube-apiserver-pod-12"), Some(12));
        assert_eq!(pod("./static-pod-resources/kube-apiserver-pod-0"), Some(0));
        assert_eq!(pod("x/../static-pod-resources/kube-apiserver-pod-3"), Some(3), "refused later, by its dots");
        assert_eq!(pod("xstatic-pod-resources/kube-apiserver-pod-3"), None);
        assert_eq!(pod("static-pod-resources/kube-apiserver-pod-"), None);
        assert_eq!(pod("static-pod-resources/kube-apiserver-pod-+1"), None);
    }

    #[test]
    fn what_a_key_secret_says_is_read() {
        let json = br#"{"metadata":{"creationTimestamp":"2026-11-01T00:00:00Z","annotations":{
            "encryption.apiserver.operator.openshift.io/mode":"aesgcm",
            "encryption.apiserver.operator.openshift.io/migrated-timestamp":"2026-11-11T04:05:06Z",
            "encryption.apiserver.operator.openshift.io/migrated-resources":
                "{\"resources\":[{\"Group\":\"route.openshift.io\",\"Resource\":\"routes\"},{\"Group\":\"\",\"Resource\":\"secrets\"}]}",
            "encryption.apiserver.operator.openshift.io/internal-reason":"rotation-interval-has-passed"}},
            "data":{"encryption.apiserver.operator.openshift.io-key":"AAAAAAAAAAAAAAAAAAAAAA=="}}"#;
        let said = key_said(json).expect("a key");
        assert_eq!((said.mode.as_str(), said.migrated.as_deref()), ("aesgcm", Some("2026-11-11T04:05:06Z")));
        assert_eq!(said.migrated_resources, ["routes.route.openshift.io", "secrets"]);
        let key = KeySecret { component: "openshift-apiserver".to_owned(), number: 4, said: Some(said) };
        let provider = key.provider().expect("a provider");
        assert!(is_placeholder(&provider));
        assert!(!is_placeholder(&ProviderSpec::Identity));
        assert_eq!(
            key_said(b"{}").err().as_deref(),
            Some("it has no data \"encryption.apiserver.operator.openshift.io-key\"")
        );
    }
}
