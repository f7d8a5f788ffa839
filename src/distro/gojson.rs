//! An EncryptionConfiguration as Go's JSON encoder writes it, which is what K3s, RKE2 and OpenShift store and hash.
//!
//! One line without blanks, `kind` and `apiVersion` in front, each provider an object with one member, `"keys":null` for
//! an empty list, and of a text only quotes, backslashes, control characters, `<`, `>`, `&`, U+2028 and U+2029 escaped.
//!
//! Upstream: Go's `encoding/json` over `k8s.io/apiserver/pkg/apis/apiserver/v1/types_encryption.go`.

use std::fmt::Write;

use base64::prelude::{BASE64_STANDARD, Engine};
use zeroize::Zeroizing;

use crate::kube::resource::GroupResource;
use crate::provider::spec::{KmsSpec, KmsVersion, NamedKey, ProviderSpec};

/// An element of `resources`, as it is to be written.
pub struct Entry<'e> {
    /// What it is about.
    pub resources: Vec<&'e GroupResource>,
    /// Who guards it.
    pub providers: &'e [ProviderSpec],
}

/// Room for names and braces of a key, beside its secret.
const KEY_ROOM: usize = 256;

/// Writes a configuration, without a line feed at the end.
pub fn configuration(entries: &[Entry<'_>]) -> Zeroizing<String> {
    // Room for all of it at once, so that no copy of a secret is left behind by growing.
    let mut out = Zeroizing::new(String::with_capacity(room(entries)));
    out.push_str(r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":["#);
    separated(&mut out, entries, |out, entry| {
        out.push_str(r#"{"resources":["#);
        separated(out, &entry.resources, |out, resource| string(&resource.to_string(), out));
        out.push_str(r#"],"providers":["#);
        separated(out, entry.providers, provider);
        out.push_str("]}");
    });
    out.push_str("]}");
    out
}

fn room(entries: &[Entry<'_>]) -> usize {
    let key = |key: &NamedKey| KEY_ROOM + 6 * key.name.len() + 2 * key.secret.len();
    let provider = |provider: &ProviderSpec| match provider {
        ProviderSpec::AesCbc(keys) | ProviderSpec::AesGcm(keys) | ProviderSpec::Secretbox(keys) => {
            KEY_ROOM + keys.iter().map(key).sum::<usize>()
        }
        ProviderSpec::Identity => KEY_ROOM,
        ProviderSpec::Kms(kms) => KEY_ROOM + 6 * (kms.name.len() + kms.endpoint.len()),
    };
    let names =
        |entry: &Entry<'_>| entry.resources.iter().map(|resource| 6 * resource.to_string().len() + 8).sum::<usize>();
    let entry = |entry: &Entry<'_>| KEY_ROOM + names(entry) + entry.providers.iter().map(provider).sum::<usize>();
    KEY_ROOM + entries.iter().map(entry).sum::<usize>()
}

fn separated<T>(out: &mut String, items: &[T], mut write: impl FnMut(&mut String, &T)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(out, item);
    }
}

fn provider(out: &mut String, provider: &ProviderSpec) {
    let (name, named) = match provider {
        ProviderSpec::Identity => return out.push_str(r#"{"identity":{}}"#),
        ProviderSpec::Kms(spec) => return kms(out, spec),
        ProviderSpec::AesCbc(named) => ("aescbc", named),
        ProviderSpec::AesGcm(named) => ("aesgcm", named),
        ProviderSpec::Secretbox(named) => ("secretbox", named),
    };
    // Writing to a string cannot fail.
    let _ = write!(out, r#"{{"{name}":{{"keys":"#);
    let list: Vec<_> = named.iter().map(|key| (key.name.as_str(), key.secret.expose())).collect();
    if list.is_empty() {
        out.push_str("null");
    } else {
        out.push('[');
        separated(out, &list, |out, (name, secret)| key(out, name, secret));
        out.push(']');
    }
    out.push_str("}}");
}

fn key(out: &mut String, name: &str, secret: &[u8]) {
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(secret));
    element(out, name, &encoded);
}

/// `{"name":..,"secret":..}`
pub(super) fn element(out: &mut String, name: &str, secret: &str) {
    out.push_str(r#"{"name":"#);
    string(name, out);
    out.push_str(r#","secret":"#);
    string(secret, out);
    out.push('}');
}

fn kms(out: &mut String, kms: &KmsSpec) {
    let version = match kms.version {
        KmsVersion::V1 => "v1",
        KmsVersion::V2 => "v2",
    };
    let _ = write!(out, r#"{{"kms":{{"apiVersion":"{version}","name":"#);
    string(&kms.name, out);
    out.push_str(r#","endpoint":"#);
    string(&kms.endpoint, out);
    let _ = write!(out, r#","timeout":"{}ms"}}}}"#, kms.timeout.as_millis().max(1));
}

/// A text with quotes, as Go escapes it.
pub fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::provider::secret::SecretKey;

    fn keys(names: &[&str]) -> Vec<NamedKey> {
        let key = |(index, name): (usize, &&str)| {
            let secret = SecretKey::new(vec![index as u8 + 1; 32]);
            NamedKey { name: (*name).to_owned(), secret }
        };
        names.iter().enumerate().map(key).collect()
    }

    #[test]
    fn a_configuration_is_written_byte_for_byte_as_k3s_writes_it() {
        let text = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"aescbckey","secret":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}]}},{"identity":{}}]}]}"#;
        let loaded = config::load(text.as_bytes()).expect("a configuration");
        let entry = |entry: &'_ config::Entry| (entry.resources.clone(), entry.providers.clone());
        let entries: Vec<_> = loaded.entries.iter().map(entry).collect();
        let entries: Vec<_> = entries
            .iter()
            .map(|(resources, providers)| Entry { resources: resources.iter().collect(), providers })
            .collect();
        assert_eq!(configuration(&entries).as_str(), text);
    }

    #[test]
    fn what_is_written_reads_back_as_it_was_and_nothing_had_to_grow() {
        let resources = [GroupResource::new("", "secrets"), GroupResource::new("*", "*")];
        let kms = KmsSpec {
            version: KmsVersion::V2,
            name: "a<b>&\"".to_owned(),
            endpoint: "unix:///a".to_owned(),
            timeout: std::time::Duration::from_millis(1500),
        };
        let providers = [
            ProviderSpec::AesCbc(keys(&["a", "b:c+d"])),
            ProviderSpec::Secretbox(keys(&["\u{2028}\u{1}\\"])),
            ProviderSpec::Kms(kms),
            ProviderSpec::Identity,
        ];
        let entries = [Entry { resources: resources.iter().collect(), providers: &providers }];
        let text = configuration(&entries);
        assert!(text.len() <= room(&entries), "{} of {}", text.len(), room(&entries));
        let loaded = config::load(text.as_bytes()).expect("a configuration");
        assert_eq!(loaded.entries.first().map(|entry| entry.providers.clone()), Some(providers.to_vec()));
        assert!(text.contains(r#""a\u003cb\u003e\u0026\"""#) && text.contains(r#""\u2028\u0001\\""#), "{}", *text);
        assert!(text.contains(r#""b:c+d""#), "a plus sign stays");
    }

    #[test]
    fn no_keys_are_null_as_in_go() {
        let providers = [ProviderSpec::AesCbc(Vec::new())];
        let resource = GroupResource::new("", "secrets");
        let text = configuration(&[Entry { resources: vec![&resource], providers: &providers }]);
        assert!(text.contains(r#"{"aescbc":{"keys":null}}"#), "{}", *text);
    }
}
