//! What asking will cost, before anything is asked. A cloud bills by the call, and throttles.

use std::collections::BTreeMap;
use std::time::Duration;

use super::address::Address;
use super::mint::Order;
use crate::provider::kms::OwnedDekRequest;
use crate::provider::spec::{KmsSpec, KmsVersion};

/// What the plugins of one configuration file have to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One row for each KMS provider of the file, in its order; the calls may be 0.
    pub providers: Vec<ProviderPlan>,
    /// All calls together.
    pub calls: u64,
}

/// What one plugin has to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderPlan {
    /// The provider's name.
    pub name: String,
    /// Its protocol.
    pub version: KmsVersion,
    /// Where it listens according to the file; `None` if the endpoint is no address.
    pub address: Option<Address>,
    /// By key id, in order. KMS v1 does not tell which key it is, so there is one row with an empty id.
    pub keys: Vec<KeyPlan>,
    /// One call for each distinct DEK.
    pub calls: u64,
}

/// What has to be asked of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlan {
    /// The plugin's name for the key; empty for KMS v1.
    pub key_id: String,
    /// Distinct wrapped DEKs, together with their annotations.
    pub distinct_deks: u64,
    /// The values that wait for them.
    pub values: u64,
}

impl ProviderPlan {
    /// How long it takes if every call takes as long as `latency` and `concurrency` are in flight.
    pub fn estimate(&self, latency: Duration, concurrency: usize) -> Duration {
        let rounds = self.calls.div_ceil(concurrency.max(1) as u64);
        latency.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
    }
}

/// Adds up requests, each with the number of values that wait for it. Equal requests may come in several parts. Requests
/// for a provider that `specs` does not have are left out, since nobody would be asked.
pub fn plan<'r>(requests: impl IntoIterator<Item = (&'r OwnedDekRequest, u64)>, specs: &[KmsSpec]) -> Plan {
    let mut distinct: BTreeMap<&OwnedDekRequest, u64> = BTreeMap::new();
    for (request, values) in requests {
        let total = distinct.entry(request).or_default();
        *total = total.saturating_add(values);
    }
    let mut plan = Plan::default();
    for spec in specs {
        if plan.providers.iter().any(|known| (known.version, &known.name) == (spec.version, &spec.name)) {
            continue;
        }
        let own = distinct.iter().filter(|(asked, _)| (asked.version, &asked.provider) == (spec.version, &spec.name));
        let provider = provider_plan(spec, own.map(|(asked, values)| (&*asked.key_id, *values)));
        plan.calls = plan.calls.saturating_add(provider.calls);
        plan.providers.push(provider);
    }
    plan
}

/// What it takes to have DEKs wrapped: one row for each order whose provider `specs` has. It has no keys, since only the
/// plugin knows which one it will use.
pub fn plan_minting<'o>(orders: impl IntoIterator<Item = Order<'o>>, specs: &[KmsSpec]) -> Plan {
    let mut plan = Plan::default();
    for order in orders {
        let version = order.form.version();
        let spec = specs.iter().find(|spec| (spec.version, &*spec.name) == (version, order.provider));
        let Some(spec) = spec else { continue };
        let provider = ProviderPlan { calls: order.calls(), ..provider_plan(spec, [].into_iter()) };
        plan.calls = plan.calls.saturating_add(provider.calls);
        plan.providers.push(provider);
    }
    plan
}

fn provider_plan<'r>(spec: &KmsSpec, requests: impl Iterator<Item = (&'r str, u64)>) -> ProviderPlan {
    let mut keys: BTreeMap<&str, KeyPlan> = BTreeMap::new();
    let mut calls = 0;
    for (key_id, values) in requests {
        let none = || KeyPlan { key_id: key_id.to_string(), distinct_deks: 0, values: 0 };
        let key = keys.entry(key_id).or_insert_with(none);
        key.distinct_deks += 1;
        key.values = key.values.saturating_add(values);
        calls += 1;
    }
    let address = Address::parse(&spec.endpoint).ok();
    ProviderPlan { name: spec.name.clone(), version: spec.version, address, keys: keys.into_values().collect(), calls }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::kms::{DekSource, SealForm};

    fn spec(version: KmsVersion, name: &str) -> KmsSpec {
        let endpoint = format!("unix:///run/{name}.sock");
        KmsSpec { version, name: name.to_string(), endpoint, timeout: Duration::from_secs(3) }
    }

    fn request(version: KmsVersion, provider: &str, key_id: &str, dek: &str) -> OwnedDekRequest {
        OwnedDekRequest {
            provider: provider.to_string(),
            version,
            source: DekSource::Key,
            encrypted_dek: dek.as_bytes().to_vec(),
            key_id: key_id.to_string(),
            annotations: Vec::new(),
        }
    }

    #[test]
    fn a_plan_counts_distinct_deks_by_provider_and_key() {
        let asked = [
            (request(KmsVersion::V2, "cloud", "2", "a"), 5),
            (request(KmsVersion::V2, "cloud", "1", "a"), 1),
            (request(KmsVersion::V2, "cloud", "2", "b"), 7),
            (request(KmsVersion::V2, "cloud", "2", "a"), 10),
            (request(KmsVersion::V1, "old", "", "a"), 1),
            (request(KmsVersion::V1, "nobody", "", "a"), 1),
        ];
        let specs = [spec(KmsVersion::V1, "old"), spec(KmsVersion::V2, "cloud"), spec(KmsVersion::V1, "old")];
        let plan = plan(asked.iter().map(|(request, values)| (request, *values)), &specs);
        let rows: Vec<(&str, u64)> = plan.providers.iter().map(|provider| (&*provider.name, provider.calls)).collect();
        assert_eq!((rows, plan.calls), (vec![("old", 1), ("cloud", 3)], 4));
        let key = |key_id: &str, distinct_deks, values| KeyPlan { key_id: key_id.to_string(), distinct_deks, values };
        assert_eq!(plan.providers[0].keys, [key("", 1, 1)]);
        assert_eq!(plan.providers[1].keys, [key("1", 1, 1), key("2", 2, 22)]);
        assert_eq!(plan.providers[1].address.as_ref().unwrap().to_string(), "unix:///run/cloud.sock");
    }

    #[test]
    fn minting_takes_a_call_for_each_dek_and_one_to_try() {
        let order = |provider, form, values| Order { provider, form, values };
        let specs = [spec(KmsVersion::V1, "old"), spec(KmsVersion::V2, "cloud")];
        let orders = [
            order("cloud", SealForm::V2Seed, 1_000_000),
            order("cloud", SealForm::V2Keys, 7),
            order("old", SealForm::V1Gcm, 10),
            order("old", SealForm::V1Cbc, 0),
            order("old", SealForm::V2Seed, 1),
            order("nobody", SealForm::V1Gcm, 10),
        ];
        let plan = plan_minting(orders, &specs);
        let calls: Vec<u64> = plan.providers.iter().map(|provider| provider.calls).collect();
        assert_eq!((&*calls, plan.calls), (&[2, 8, 11, 0][..], 21));
        assert_eq!(plan.providers[2].address.as_ref().unwrap().to_string(), "unix:///run/old.sock");
        assert_eq!(plan.providers[2].estimate(Duration::from_millis(10), 4), Duration::from_millis(30));
    }

    #[test]
    fn an_estimate_is_latency_by_rounds() {
        let mut provider = plan([], &[spec(KmsVersion::V2, "cloud")]).providers.remove(0);
        assert_eq!(provider.estimate(Duration::from_millis(10), 8), Duration::ZERO);
        provider.calls = 17;
        assert_eq!(provider.estimate(Duration::from_millis(10), 8), Duration::from_millis(30));
        assert_eq!(provider.estimate(Duration::from_millis(10), 0), Duration::from_millis(170));
    }
}
