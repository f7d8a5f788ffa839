//! CustomResourceDefinitions as releases take them: every API server stores them in `v1beta1`, which none has served since 1.22.
//!
//! Upstream: `pkg/apis/apiextensions/v1/conversion.go` of `kubernetes/apiextensions-apiserver`.

use serde_json::{Map, Value, json};

const V1BETA1: &str = "apiextensions.k8s.io/v1beta1";
const V1: &str = "apiextensions.k8s.io/v1";

/// What v1 keeps for each version, and v1beta1 may have for all of them at once.
const OF_VERSIONS: [(&str, &str); 4] = [
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// Turns a definition from `v1beta1` into `v1`; leaves anything else as it is. Says whether it did.
pub fn to_v1(object: &mut Value) -> bool {
    if object["apiVersion"] != V1BETA1 || object["kind"] != "CustomResourceDefinition" {
        return false;
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return false };
    let common: Vec<(&str, Value)> =
        OF_VERSIONS.iter().filter_map(|(old, new)| spec.remove(*old).map(|value| (*new, value))).collect();
    let single = spec.remove("version").unwrap_or(Value::Null);
    let unpruned = spec.remove("preserveUnknownFields").is_none_or(|value| value != false);
    let mut versions = match spec.remove("versions") {
        Some(Value::Array(versions)) if !versions.is_empty() => versions,
        _ => vec![json!({"name": single, "served": true, "storage": true})],
    };
    for version in versions.iter_mut().filter_map(Value::as_object_mut) {
        of_version(version, &common, unpruned);
    }
    spec.insert("versions".to_owned(), Value::Array(versions));
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        convert_conversion(conversion);
    }
    if let Some(version) = object.get_mut("apiVersion") {
        *version = json!(V1);
    }
    true
}

fn of_version(version: &mut Map<String, Value>, common: &[(&str, Value)], unpruned: bool) {
    for (name, value) in common {
        version.entry(*name).or_insert_with(|| value.clone());
    }
    // A v1 definition must have a schema; without one v1beta1 takes everything.
    let schema = version.entry("schema").or_insert_with(|| json!({}));
    if !schema.get("openAPIV3Schema").is_some_and(Value::is_object) {
        *schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    }
    if unpruned && let Some(root) = schema.get_mut("openAPIV3Schema").and_then(Value::as_object_mut) {
        root.entry("x-kubernetes-preserve-unknown-fields").or_insert(Value::Bool(true));
        root.entry("type").or_insert_with(|| json!("object"));
    }
    let columns = version.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
    for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(path) = column.remove("JSONPath") {
            column.insert("jsonPath".to_owned(), path);
        }
    }
}

fn convert_conversion(conversion: &mut Map<String, Value>) {
    let client = conversion.remove("webhookClientConfig");
    let versions = conversion.remove("conversionReviewVersions");
    if client.is_none() {
        return;
    }
    let mut webhook = Map::new();
    webhook.extend(client.map(|client| ("clientConfig".to_owned(), client)));
    webhook.extend(versions.map(|versions| ("conversionReviewVersions".to_owned(), versions)));
    conversion.insert("webhook".to_owned(), Value::Object(webhook));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_for_all_versions_stands_at_each_of_them() {
        let mut object = json!({
            "apiVersion": V1BETA1, "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "version": "v1", "scope": "Namespaced", "names": {"plural": "widgets"},
                "validation": {"openAPIV3Schema": {"type": "object"}}, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "A", "type": "string", "JSONPath": ".spec.a"}],
                "versions": [{"name": "v1", "served": true, "storage": true},
                             {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object", "a": 1}}}],
                "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]},
                "preserveUnknownFields": false,
            },
        });
        assert!(to_v1(&mut object));
        let columns = json!([{"name": "A", "type": "string", "jsonPath": ".spec.a"}]);
        let expected = json!({
            "apiVersion": V1, "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets"},
                "versions": [
                    {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
                     "subresources": {"status": {}}, "additionalPrinterColumns": columns},
                    {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object", "a": 1}},
                     "subresources": {"status": {}}, "additionalPrinterColumns": columns}],
                "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]}},
            },
        });
        assert_eq!(object, expected);
        assert!(!to_v1(&mut object), "it is one of v1 now");
    }

    #[test]
    fn a_definition_without_schema_keeps_taking_everything() {
        let mut object = json!({"apiVersion": V1BETA1, "kind": "CustomResourceDefinition",
                                "spec": {"group": "g.io", "version": "v1alpha1", "names": {}}});
        assert!(to_v1(&mut object));
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        assert_eq!(
            object["spec"]["versions"],
            json!([{"name": "v1alpha1", "served": true, "storage": true, "schema": schema}])
        );
    }

    #[test]
    fn what_is_no_definition_of_v1beta1_stays() {
        for mut value in [json!(null), json!([]), json!({"apiVersion": V1BETA1}), json!({"kind": "Secret", "spec": 1})]
        {
            let before = value.clone();
            assert!(!to_v1(&mut value));
            assert_eq!(value, before);
        }
    }
}
