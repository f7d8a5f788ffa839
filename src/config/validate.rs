//! The rules for a configuration's content: every complaint, in upstream's order, with its path and words.
//!
//! Upstream: `k8s.io/apiserver/pkg/apis/apiserver/validation/validation_encryption.go`, and for masked resources
//! `pkg/server/options/encryptionconfig/config.go`. Values that upstream quotes are left out.

use std::collections::{HashMap, HashSet};

use crate::kube::resource::GroupResource;

use super::base64;
use super::complaint::{Complaint, Stage, quotable};
use super::endpoint;
use super::model::{File, Keys, Kms, ProviderConfiguration, ResourceConfiguration, Written};
use super::tree::Place;

/// AES takes three sizes, also where the documentation of aescbc names one.
const AES_KEY_BYTES: &[usize] = &[16, 24, 32];
const SECRETBOX_KEY_BYTES: &[usize] = &[32];

/// A file may hold more mistakes than anybody reads; memory is bounded by this.
const COMPLAINT_LIMIT: usize = 10_000;

/// A broken rule.
pub(super) struct Broken {
    pub complaint: Complaint,
    /// The release that introduced the rule, where releases before it start with the file all the same.
    pub since: Option<&'static str>,
}

/// All broken rules; none means that the newest release takes the file.
pub(super) fn validate(file: &File) -> Vec<Broken> {
    let mut checker = Checker { broken: Vec::new(), kms_names: HashSet::new() };
    if file.resources.is_empty() {
        checker.required("resources", file.place, "at least one resources is required", Some("1.18"));
        return checker.broken;
    }
    for (index, entry) in file.resources.iter().enumerate() {
        checker.entry(entry, index);
    }
    if checker.broken.is_empty() {
        checker.broken.extend(masked(file));
    }
    checker.broken
}

/// The first resource that an earlier wildcard masks.
pub(super) fn masked(file: &File) -> Option<Broken> {
    let mut earlier = HashSet::new();
    let any = GroupResource::new("*", "*");
    for (index, entry) in file.resources.iter().enumerate() {
        for (number, resource) in entry.resources.iter().enumerate() {
            let parsed = GroupResource::parse(&resource.text);
            let group = GroupResource::new(parsed.group.as_str(), "*");
            let masks = [&group, &any].into_iter().find(|wildcard| earlier.contains(*wildcard));
            if let Some(wildcard) = masks {
                let (parsed, wildcard) = (as_in_yaml(&parsed), as_in_yaml(wildcard));
                let message = format!("resource \"{parsed}\" is masked by earlier rule \"{wildcard}\"");
                let path = format!("resources[{index}].resources[{number}]");
                let complaint = Complaint::at(Stage::Transformers, path, resource.place, message);
                return Some(Broken { complaint, since: Some("1.27") });
            }
            earlier.insert(parsed);
        }
    }
    None
}

/// How the masking message writes a resource: the core group's wildcard is `*.`.
fn as_in_yaml(resource: &GroupResource) -> String {
    if resource.group.is_empty() && resource.resource == "*" {
        "*.".to_owned()
    } else {
        quotable(&resource.to_string())
    }
}

struct Checker {
    broken: Vec<Broken>,
    kms_names: HashSet<String>,
}

impl Checker {
    fn push(&mut self, path: &str, place: Place, message: String, since: Option<&'static str>) {
        let broken = Broken { complaint: Complaint::at(Stage::Validation, path, place, message), since };
        if self.broken.len() < COMPLAINT_LIMIT {
            self.broken.push(broken);
        } else if let Some(last) = self.broken.last_mut()
            && last.since.is_some()
            && since.is_none()
        {
            // What no release takes must not get lost behind what some did.
            *last = broken;
        }
    }

    fn required(&mut self, path: &str, place: Place, message: &str, since: Option<&'static str>) {
        self.push(path, place, format!("Required value: {message}"), since);
    }

    fn invalid(&mut self, path: &str, place: Place, message: &str, since: Option<&'static str>) {
        self.push(path, place, format!("Invalid value: {message}"), since);
    }

    fn entry(&mut self, entry: &ResourceConfiguration, index: usize) {
        let path = format!("resources[{index}].resources");
        if entry.resources.is_empty() {
            let message = format!("at least one {path} is required");
            self.required(&path, entry.resources_place, &message, Some("1.18"));
        }
        self.overlap(entry, &path);
        for (number, resource) in entry.resources.iter().enumerate() {
            if let Some(message) = bad_name(&resource.text) {
                self.invalid(&format!("{path}[{number}]"), resource.place, message, Some("1.27"));
            }
        }
        let path = format!("resources[{index}].providers");
        if entry.providers.is_empty() {
            let message = format!("at least one {path} is required");
            self.required(&path, entry.providers_place, &message, Some("1.18"));
        }
        for (number, provider) in entry.providers.iter().enumerate() {
            self.provider(provider, &format!("{path}[{number}]"));
        }
    }

    fn overlap(&mut self, entry: &ResourceConfiguration, path: &str) {
        let parsed: Vec<_> = entry.resources.iter().map(|resource| GroupResource::parse(&resource.text)).collect();
        let distinct: HashSet<_> = parsed.iter().collect();
        if distinct.len() < parsed.len() {
            let message = "the same resource cannot be specified multiple times";
            self.invalid(path, entry.resources_place, message, Some("1.27"));
        }
        let mut by_group: HashMap<&str, (usize, bool)> = HashMap::new();
        for resource in &parsed {
            let (count, wildcard) = by_group.entry(resource.group.as_str()).or_default();
            *count += 1;
            *wildcard |= resource.resource == "*";
        }
        let everything = parsed.len() > 1 && distinct.contains(&GroupResource::new("*", "*"));
        if everything || by_group.values().any(|(count, wildcard)| *count > 1 && *wildcard) {
            let message = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not \
                           allowed as they will be masked";
            self.invalid(path, entry.resources_place, message, Some("1.27"));
        }
    }

    fn provider(&mut self, provider: &ProviderConfiguration, path: &str) {
        let set = [
            provider.kms.is_some(),
            provider.aesgcm.is_some(),
            provider.aescbc.is_some(),
            provider.secretbox.is_some(),
            provider.identity,
        ];
        match set.iter().filter(|set| **set).count() {
            0 => {
                let message = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, \
                               Secretbox, Identity";
                self.invalid(path, provider.place, message, None);
            }
            1 => {}
            _ => {
                let message = "more than one provider specified in a single element, should split into different \
                               list elements";
                self.invalid(path, provider.place, message, None);
            }
        }
        if let Some(kms) = &provider.kms {
            self.kms(kms, &format!("{path}.kms"));
        } else if let Some(keys) = &provider.aesgcm {
            self.keys(keys, &format!("{path}.aesgcm.keys"), AES_KEY_BYTES);
        } else if let Some(keys) = &provider.aescbc {
            self.keys(keys, &format!("{path}.aescbc.keys"), AES_KEY_BYTES);
        } else if let Some(keys) = &provider.secretbox {
            self.keys(keys, &format!("{path}.secretbox.keys"), SECRETBOX_KEY_BYTES);
        }
    }

    fn keys(&mut self, keys: &Keys, path: &str, sizes: &[usize]) {
        if keys.keys.is_empty() {
            self.required(path, keys.place, "at least one keys is required", None);
        }
        for (index, key) in keys.keys.iter().enumerate() {
            if key.name.text.is_empty() {
                let path = format!("{path}[{index}].name");
                self.required(&path, key.name.place, "name is a mandatory field for a key", None);
            }
            self.secret(&key.secret, &format!("{path}[{index}].secret"), sizes);
        }
    }

    fn secret(&mut self, secret: &Written, path: &str, sizes: &[usize]) {
        if secret.text.is_empty() {
            self.required(path, secret.place, "secret is a mandatory field for a key", None);
            return;
        }
        let Some(bytes) = base64::decode(&secret.text) else {
            self.invalid(path, secret.place, "secrets must be base64 encoded", None);
            return;
        };
        if !sizes.contains(&bytes.len()) {
            let sizes = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
            let length = bytes.len();
            let message = format!("secret is not of the expected length, got {length}, expected one of [{sizes}]");
            self.invalid(path, secret.place, &message, None);
        }
    }

    fn kms(&mut self, kms: &Kms, path: &str) {
        let v1 = kms.api_version.text.as_str() == "v1";
        let name = &kms.name;
        let name_path = format!("{path}.name");
        if name.text.is_empty() {
            self.required(&name_path, name.place, "name is a mandatory field for a provider", Some("1.18"));
        }
        let quoted = quotable(&name.text);
        if !v1 && name.text.contains(':') {
            let message = format!("invalid KMS provider name {quoted}, must not contain ':'");
            self.invalid(&name_path, name.place, &message, None);
        }
        if !self.kms_names.insert(name.text.to_string()) && !v1 {
            let message = format!("duplicate KMS provider name {quoted}, names must be unique");
            self.invalid(&name_path, name.place, &message, Some("1.26"));
        }
        let (timeout, place) = kms.timeout;
        if timeout <= 0 {
            self.invalid(&format!("{path}.timeout"), place, "timeout should be a positive value", None);
        }
        if let Err(message) = endpoint::judge(&kms.endpoint.text) {
            // What 1.8 and 1.9 had instead of an endpoint is the only way to do without.
            let since = if kms.has_configfile && kms.endpoint.text.is_empty() { Some("1.10") } else { None };
            self.invalid(&format!("{path}.endpoint"), kms.endpoint.place, &message, since);
        }
        match kms.cachesize {
            Some((_, place)) if !v1 => {
                self.invalid(&format!("{path}.cachesize"), place, "cachesize is not supported in v2", Some("1.27"));
            }
            Some((0, place)) => {
                let message = "cachesize should be a positive value, or negative to disable";
                self.invalid(&format!("{path}.cachesize"), place, message, Some("1.18"));
            }
            _ => {}
        }
        if !v1 && kms.api_version.text.as_str() != "v2" {
            // Upstream formats the field's name where the value was meant.
            let message = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
            self.invalid(&format!("{path}.apiVersion"), kms.api_version.place, message, None);
        }
    }
}

fn bad_name(name: &str) -> Option<&'static str> {
    let group = GroupResource::parse(name);
    if name.chars().any(|character| !character.to_lowercase().eq([character])) {
        Some("resource name should not contain capital letters")
    } else if name == "*" {
        Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
    } else if matches!(name, "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations") {
        Some("resources which do not have REST API/s cannot be encrypted")
    } else if group.group == "events.k8s.io" {
        Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the \
             config file",
        )
    } else if group.group == "extensions" {
        Some("'extensions' group has been removed and cannot be used for encryption")
    } else if group.group == "*" && group.resource != "*" {
        Some("encrypting the same resource across groups is not supported")
    } else {
        None
    }
}
