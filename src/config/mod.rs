//! EncryptionConfiguration in every version that existed: which provider guards what.
//!
//! [`check`] judges a file as the newest kube-apiserver would; [`load`] takes what any release has ever taken, and says
//! what today's would refuse; [`ApiServers`] resolves a resource to its chain of providers. Nothing here knows where
//! values are stored, and no text that leaves this module holds a secret.
//!
//! Upstream: `k8s.io/apiserver/pkg/apis/apiserver/v1/types_encryption.go`, and the loader in
//! `pkg/server/options/encryptionconfig/config.go`.
//!
//! The way through: bytes become a tree (JSON or YAML), the tree a configuration as written (kind, types, strictness),
//! which is validated and searched for things to know; what is left are entries of [`ProviderSpec`]s.

mod base64;
mod build;
pub mod change;
mod complaint;
mod decode;
mod endpoint;
mod goduration;
mod json;
mod lint;
mod model;
mod read;
mod resolve;
mod scalar;
mod text;
mod tree;
mod validate;
mod weak;
mod yaml;

#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::kube::resource::GroupResource;
use crate::provider::secret::SecretKey;
use crate::provider::spec::ProviderSpec;

pub use complaint::{Complaint, Stage};
pub use lint::{Lint, LintId, Severity};
pub use read::{Contents, ReadError, SIZE_LIMIT_BYTES, read_file};
pub use resolve::{ApiServers, ChainId, Conflict, Coverage};

use decode::{Decoded, Era, TypeMeta};
use tree::{Node, Place, Text};
use validate::Broken;

/// Nanoseconds of a duration as Go writes it, `1m30s`; or why it is none.
///
/// # Errors
///
/// A sentence that quotes nothing.
pub fn duration(text: &str) -> Result<i64, &'static str> {
    goduration::parse(text)
}

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// SHA-256 of the file's bytes, as kube-apiserver's metrics show it.
    pub sha256: [u8; 32],
    /// The file's `resources`, in their order.
    pub entries: Vec<Entry>,
    /// What is worth knowing about it.
    pub lints: Vec<Lint>,
}

/// An element of the file's `resources`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is about; either part may be the wildcard `*`.
    pub resources: Vec<GroupResource>,
    /// Who guards it; the first one writes.
    pub providers: Vec<ProviderSpec>,
}

/// The newest kube-apiserver's judgement.
#[derive(Clone, Debug)]
pub struct Check {
    /// Whether it would start with the file, KMS v1 allowed.
    pub accepted: bool,
    /// Every reason why it would not, in upstream's order. All are of one stage, the first that fails.
    pub errors: Vec<Complaint>,
    /// What it lets pass; empty unless it is accepted.
    pub findings: Vec<Lint>,
    /// The configuration, if it is accepted.
    pub configuration: Option<Configuration>,
}

/// Why no release has ever taken a file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}", join(.complaints))]
pub struct LoadError {
    /// The newest release's reasons, without those that older releases did not have; never empty.
    pub complaints: Vec<Complaint>,
}

/// What makes a secret as good as known: [`LintId::PublishedKey`], [`LintId::WeakKey`] or [`LintId::PlaceholderKey`].
pub fn suspicion(secret: &SecretKey) -> Option<LintId> {
    let bytes = secret.expose();
    if weak::is_placeholder(bytes) {
        Some(LintId::PlaceholderKey)
    } else if weak::published_in(bytes).is_some() {
        Some(LintId::PublishedKey)
    } else {
        weak::weakness(bytes).map(|_| LintId::WeakKey)
    }
}

/// How many complaints the text of an error names.
const COMPLAINTS_SHOWN: usize = 5;

fn join(complaints: &[Complaint]) -> String {
    let mut text = complaints.iter().take(COMPLAINTS_SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let more = complaints.len().saturating_sub(COMPLAINTS_SHOWN);
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// A file as the reader of its syntax leaves it.
struct Parsed {
    root: Node,
    meta: TypeMeta,
    /// Fields that stand twice in a YAML mapping.
    repeated: Vec<(Text, Place)>,
    more: Option<Place>,
}

fn parse(bytes: &[u8]) -> Result<Parsed, Complaint> {
    if bytes.is_empty() {
        return Err(Complaint::whole(Stage::File, "the file is empty"));
    }
    if bytes.len() as u64 > SIZE_LIMIT_BYTES {
        return Err(Complaint::whole(Stage::File, ReadError::TooLarge.to_string()));
    }
    let syntax = |fault: tree::SyntaxError| match fault.place {
        Some(place) => Complaint::at(Stage::Syntax, "", place, fault.message),
        None => Complaint::whole(Stage::Syntax, fault.message),
    };
    let (root, repeated, more) = if json::is_json(bytes) {
        (json::read(bytes).map_err(syntax)?, Vec::new(), None)
    } else {
        let document = yaml::read(bytes).map_err(syntax)?;
        (document.root, document.repeated, document.more)
    };
    let meta = decode::type_meta(&root)?;
    Ok(Parsed { root, meta, repeated, more })
}

/// What repeats in YAML is told before all else that is strict.
fn yaml_repeats(repeated: &[(Text, Place)]) -> Vec<Complaint> {
    let complaint = |(name, place): &(Text, Place)| {
        let message = format!("key \"{}\" already set in map", complaint::quotable(name));
        Complaint::at(Stage::Strict, "", *place, message)
    };
    repeated.iter().map(complaint).collect()
}

/// Judges a file as the newest kube-apiserver does: all complaints of the first stage that has any.
pub fn check(bytes: &[u8]) -> Check {
    match judge(bytes) {
        Ok(configuration) => Check {
            accepted: true,
            errors: Vec::new(),
            findings: configuration.lints.clone(),
            configuration: Some(configuration),
        },
        Err(errors) => Check { accepted: false, errors, findings: Vec::new(), configuration: None },
    }
}

fn judge(bytes: &[u8]) -> Result<Configuration, Vec<Complaint>> {
    let parsed = parse(bytes).map_err(|complaint| vec![complaint])?;
    parsed.meta.judge().map_err(|complaint| vec![complaint])?;
    let decoded = decode::decode(parsed.root, Era::Scheme);
    if !decoded.types.is_empty() {
        return Err(decoded.types);
    }
    let mut strict = yaml_repeats(&parsed.repeated);
    strict.extend(decoded.strict);
    if !strict.is_empty() {
        return Err(strict);
    }
    let broken = validate::validate(&decoded.file);
    if !broken.is_empty() {
        return Err(broken.into_iter().map(|broken| broken.complaint).collect());
    }
    let mut lints = extra_document(parsed.more);
    lints.extend(lint::lint(&decoded.file));
    Ok(Configuration { sha256: Sha256::digest(bytes).into(), entries: build::entries(decoded.file), lints })
}

fn extra_document(more: Option<Place>) -> Vec<Lint> {
    let message = "the file has another YAML document, which kube-apiserver never reads";
    more.map(|place| Lint::at(LintId::ExtraDocument, "", place, message)).into_iter().collect()
}

/// Loads what some release has taken, with a warning for each thing that the newest would refuse.
pub fn load(bytes: &[u8]) -> Result<Configuration, LoadError> {
    let fail = |complaints| LoadError { complaints };
    let parsed = parse(bytes).map_err(|complaint| fail(vec![complaint]))?;
    let mut lints = extra_document(parsed.more);
    let known = parsed.meta.judge();
    let mut decoded = match &known {
        Ok(()) => decode::decode(parsed.root, Era::Scheme),
        Err(_) if parsed.meta.is_old_kind() => decode::decode(parsed.root, Era::Loose),
        Err(complaint) => return Err(fail(vec![complaint.clone()])),
    };
    if known.is_ok() && !decoded.types.is_empty() && parsed.meta.is_old_kind() {
        // The first releases' decoder may still have taken it; the tree is gone, so it is read once more.
        let again = parse(bytes).map_err(|complaint| fail(vec![complaint]))?;
        decoded = decode::decode(again.root, Era::Loose);
    }
    if !decoded.types.is_empty() {
        return Err(fail(decoded.types));
    }
    if !decoded.repeated.is_empty() {
        // Old releases mixed the two values, element by element, in a way that nobody can have meant.
        return Err(fail(decoded.repeated));
    }
    if let Err(complaint) = known {
        let message = format!("only releases before 1.13 take this apiVersion: {}", complaint.message);
        lints.push(Lint::from_complaint(LintId::OldKind, complaint, message));
    }
    tolerate_fields(&mut lints, &parsed.repeated, &mut decoded);
    tolerate_rules(&mut lints, validate_all(&decoded)).map_err(fail)?;
    lints.extend(lint::lint(&decoded.file));
    Ok(Configuration { sha256: Sha256::digest(bytes).into(), entries: build::entries(decoded.file), lints })
}

/// Validation, and the masking check also where validation found something.
fn validate_all(decoded: &Decoded) -> Vec<Broken> {
    let mut broken = validate::validate(&decoded.file);
    if broken.iter().all(|broken| broken.complaint.stage == Stage::Validation) {
        broken.extend(validate::masked(&decoded.file));
    }
    broken
}

fn tolerate_fields(lints: &mut Vec<Lint>, repeated: &[(Text, Place)], decoded: &mut Decoded) {
    for complaint in yaml_repeats(repeated) {
        let message = format!(
            "since 1.31 a field that stands twice is refused, before that the last one counts: {}",
            complaint.message
        );
        lints.push(Lint::from_complaint(LintId::DuplicateField, complaint, message));
    }
    for complaint in std::mem::take(&mut decoded.unknown) {
        let message = "this field is unknown: ignored before 1.31, refused since".to_owned();
        lints.push(Lint::from_complaint(LintId::UnknownField, complaint, message));
    }
    for complaint in std::mem::take(&mut decoded.coerced) {
        let message = format!("{} by releases before 1.13 only", complaint.message);
        lints.push(Lint::from_complaint(LintId::NotAString, complaint, message));
    }
}

/// Turns rules that some release did not have into warnings; the others are what is wrong for all.
fn tolerate_rules(lints: &mut Vec<Lint>, broken: Vec<Broken>) -> Result<(), Vec<Complaint>> {
    let (tolerated, fatal): (Vec<_>, Vec<_>) = broken.into_iter().partition(|broken| broken.since.is_some());
    if !fatal.is_empty() {
        return Err(fatal.into_iter().map(|broken| broken.complaint).collect());
    }
    for Broken { complaint, since } in tolerated {
        let message = format!("refused since {}: {}", since.unwrap_or_default(), complaint.message);
        lints.push(Lint::from_complaint(LintId::NewerRule, complaint, message));
    }
    Ok(())
}

/// A YAML text as the JSON that kube-apiserver would make of it; none where it would refuse the text.
#[cfg(test)]
pub(crate) fn yaml_as_json(text: &str) -> Option<serde_json::Value> {
    fn value(node: &Node) -> Option<serde_json::Value> {
        use serde_json::Value;
        Some(match &node.value {
            tree::Value::Null => Value::Null,
            tree::Value::Bool(value) => Value::Bool(*value),
            tree::Value::Number(text) => serde_json::from_str(text).ok()?,
            tree::Value::Text(text) => Value::String(text.to_string()),
            tree::Value::List(items) => Value::Array(items.iter().map(value).collect::<Option<_>>()?),
            tree::Value::Map(fields) => Value::Object(
                fields
                    .iter()
                    .map(|field| Some((field.name.to_string(), value(&field.value)?)))
                    .collect::<Option<_>>()?,
            ),
        })
    }
    value(&yaml::read(text.as_bytes()).ok()?.root)
}
