//! From a configuration as written to the providers that it describes.

use std::time::Duration;

use crate::kube::resource::GroupResource;
use crate::provider::secret::SecretKey;
use crate::provider::spec::{KmsSpec, KmsVersion, NamedKey, ProviderSpec};

use super::Entry;
use super::base64;
use super::model::{File, Keys, Kms, ProviderConfiguration, ResourceConfiguration};

/// The entries of a file that validation let pass; the text of its secrets is wiped on the way.
pub(super) fn entries(file: File) -> Vec<Entry> {
    file.resources.into_iter().map(entry).collect()
}

fn entry(entry: ResourceConfiguration) -> Entry {
    let resources = entry.resources.iter().map(|resource| GroupResource::parse(&resource.text)).collect();
    Entry { resources, providers: entry.providers.into_iter().filter_map(provider).collect() }
}

fn provider(provider: ProviderConfiguration) -> Option<ProviderSpec> {
    match provider {
        ProviderConfiguration { kms: Some(spec), .. } => Some(ProviderSpec::Kms(kms(spec))),
        ProviderConfiguration { aesgcm: Some(list), .. } => Some(ProviderSpec::AesGcm(keys(&list))),
        ProviderConfiguration { aescbc: Some(list), .. } => Some(ProviderSpec::AesCbc(keys(&list))),
        ProviderConfiguration { secretbox: Some(list), .. } => Some(ProviderSpec::Secretbox(keys(&list))),
        ProviderConfiguration { identity: true, .. } => Some(ProviderSpec::Identity),
        _ => None,
    }
}

fn keys(list: &Keys) -> Vec<NamedKey> {
    let key = |key: &super::model::Key| {
        let bytes = base64::decode(&key.secret.text)?;
        Some(NamedKey { name: key.name.text.to_string(), secret: SecretKey::new(bytes.to_vec()) })
    };
    list.keys.iter().filter_map(key).collect()
}

fn kms(kms: Kms) -> KmsSpec {
    let version = if kms.api_version.text.as_str() == "v2" { KmsVersion::V2 } else { KmsVersion::V1 };
    KmsSpec {
        version,
        name: kms.name.text.to_string(),
        endpoint: kms.endpoint.text.to_string(),
        timeout: Duration::from_nanos(kms.timeout.0.unsigned_abs()),
    }
}
