//! What `status` tells: JSON (schema `atrest.status/1`) and text.
//!
//! For K3s and RKE2 the text begins with what `secrets-encrypt status` prints, line by line, and goes on with what that
//! command cannot know; the JSON has that command's JSON as its member `secrets_encrypt`.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::finding::Severity;
use crate::distro::ack::Sealing;
use crate::distro::migration::Component;
use crate::distro::secrets_encrypt::{HashOf, Status};
use crate::distro::steps::{KeyUse, Next, Remark, Weight};

use super::json::{TOOL, Tool, pretty};
use super::paint::Paint;
use super::text::{grouped, harmless};

/// What is told.
pub struct Told<'t> {
    /// The store's path.
    pub path: &'t str,
    /// The distribution's word.
    pub distro: &'static str,
    /// What is told of it.
    pub body: Body<'t>,
    /// What is to be said, weightiest first.
    pub remarks: &'t [Remark],
}

/// What differs by distribution.
pub enum Body<'t> {
    /// K3s and RKE2.
    SecretsEncrypt(&'t SecretsEncrypt),
    /// OpenShift.
    Operators(&'t [Component]),
    /// ACK and ASK.
    Kms(&'t KmsState),
}

/// What is told of K3s and RKE2.
pub struct SecretsEncrypt {
    /// What the command tells; none where the configuration is not known, or it would fail.
    pub command: Option<Status>,
    /// Instead of that, why it would fail, or what is missing.
    pub instead: Option<String>,
    /// The node that was asked.
    pub node: Option<String>,
    /// The nodes.
    pub nodes: Vec<NodeLine>,
    /// Where the configuration is from, and its hash.
    pub config: Option<(String, String)>,
    /// Keys, and what is on them.
    pub keys: Vec<KeyUse>,
    /// Entries in plaintext that would be encrypted now.
    pub plaintext: u64,
    /// Entries that do not open.
    pub unreadable: u64,
    /// The next step.
    pub next: Next,
}

/// A node.
pub struct NodeLine {
    /// Its name.
    pub name: String,
    /// Whether it is a server.
    pub control_plane: bool,
    /// The annotation's stage; none without annotation.
    pub stage: Option<String>,
    /// Its hash.
    pub hash: Option<String>,
    /// What that is the hash of; none where the configuration is not known.
    pub hash_of: Option<HashOf>,
}

/// What is told of values behind a KMS.
pub struct KmsState {
    /// How they are sealed.
    pub sealings: Vec<Sealing>,
    /// What the objects themselves say, where they could be opened.
    pub rotation: Option<Rotation>,
}

/// Who was changed for the key's sake.
#[derive(Default)]
pub struct Rotation {
    /// Secrets with the annotation, by its value.
    pub times: std::collections::BTreeMap<String, u64>,
    /// Secrets without it.
    pub without: u64,
    /// Secrets that stayed closed.
    pub closed: u64,
}

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    tool: Tool,
    path: String,
    distro: &'static str,
    #[serde(flatten)]
    body: BodyOut<'d>,
    findings: Vec<Finding<'d>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum BodyOut<'d> {
    SecretsEncrypt {
        secrets_encrypt: Option<StatusOut<'d>>,
        secrets_encrypt_error: Option<&'d str>,
        node: Option<&'d str>,
        nodes: Vec<NodeOut<'d>>,
        configuration: Option<ConfigOut<'d>>,
        keys: Vec<KeyOut<'d>>,
        plaintext: u64,
        unreadable: u64,
        next: NextOut<'d>,
    },
    Operators {
        components: Vec<ComponentOut<'d>>,
    },
    Kms {
        providers: Vec<SealingOut<'d>>,
        rotation: Option<RotationOut<'d>>,
        rewrite_calls: CallsOut,
    },
}

/// As the command's own JSON has it: the same members, in the same order, and the same left out.
#[derive(Serialize)]
struct StatusOut<'d> {
    stage: &'d str,
    activekey: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    enable: Option<bool>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hashmatch: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hasherror: Option<&'d str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inactivekeys: Vec<String>,
}

#[derive(Serialize)]
struct NodeOut<'d> {
    name: &'d str,
    control_plane: bool,
    stage: Option<&'d str>,
    hash: Option<&'d str>,
    hash_of: Option<&'static str>,
}

#[derive(Serialize)]
struct ConfigOut<'d> {
    from: String,
    sha256: &'d str,
}

#[derive(Serialize)]
struct KeyOut<'d> {
    provider: &'d str,
    key_name: String,
    entries: u64,
    history: u64,
    residue: u64,
    in_config: bool,
    writes: bool,
}

#[derive(Serialize)]
struct NextOut<'d> {
    step: &'d str,
    safe: Option<bool>,
    why: Option<&'d str>,
}

#[derive(Serialize)]
struct ComponentOut<'d> {
    component: &'d str,
    configuration: Option<String>,
    resources: Vec<String>,
    mode: &'static str,
    keys: Vec<OperatorKeyOut<'d>>,
    plaintext: u64,
    unknown: u64,
}

#[derive(Serialize)]
struct OperatorKeyOut<'d> {
    number: &'d str,
    mode: Option<&'d str>,
    created: Option<&'d str>,
    migrated: Option<&'d str>,
    migrated_resources: Vec<String>,
    reason: Option<&'d str>,
    role: &'static str,
    entries: u64,
    prunable: bool,
}

#[derive(Serialize)]
struct SealingOut<'d> {
    provider: String,
    provider_version: &'static str,
    kms_key_id: &'d str,
    key_version: &'d str,
    seed: bool,
    entries: u64,
    distinct_deks: u64,
}

#[derive(Serialize)]
struct RotationOut<'d> {
    times: &'d std::collections::BTreeMap<String, u64>,
    without: u64,
    closed: u64,
}

#[derive(Serialize)]
struct CallsOut {
    decrypt: u64,
    encrypt: u64,
}

#[derive(Serialize)]
struct Finding<'d> {
    id: &'static str,
    severity: &'static str,
    detail: &'d str,
}

/// Writes the JSON document.
pub fn json(out: &mut dyn Write, told: &Told<'_>) -> io::Result<()> {
    let body = match told.body {
        Body::SecretsEncrypt(state) => secrets_encrypt_out(state),
        Body::Operators(components) => {
            BodyOut::Operators { components: components.iter().map(component_out).collect() }
        }
        Body::Kms(state) => kms_out(state),
    };
    let finding = |remark: &'_ Remark| (remark.id, remark.weight.word());
    let findings = told.remarks.iter().map(|remark| {
        let (id, severity) = finding(remark);
        Finding { id, severity, detail: &remark.text }
    });
    let document = Document {
        schema: "atrest.status/1",
        tool: TOOL,
        path: harmless(told.path).into_owned(),
        distro: told.distro,
        body,
        findings: findings.collect(),
    };
    pretty(out, &document)
}

fn status_out(status: &Status) -> StatusOut<'_> {
    StatusOut {
        stage: &status.stage,
        activekey: status.active.as_ref().map_or(String::new(), ToString::to_string),
        enable: status.enable,
        hashmatch: status.enable.is_some() && status.hash_error.is_none(),
        hasherror: status.hash_error.as_deref(),
        inactivekeys: status.inactive.iter().map(ToString::to_string).collect(),
    }
}

fn secrets_encrypt_out(state: &SecretsEncrypt) -> BodyOut<'_> {
    let node = |node: &'_ NodeLine| (node.hash_of.map(HashOf::word), node.control_plane);
    let nodes = state.nodes.iter().map(|line| {
        let (hash_of, control_plane) = node(line);
        let (stage, hash) = (line.stage.as_deref(), line.hash.as_deref());
        NodeOut { name: &line.name, control_plane, stage, hash, hash_of }
    });
    let keys = state.keys.iter().map(|key| KeyOut {
        provider: &key.provider,
        key_name: harmless(&key.name).into_owned(),
        entries: key.entries,
        history: key.history,
        residue: key.residue,
        in_config: key.in_config,
        writes: key.writes,
    });
    let Next { step, safe, why } = &state.next;
    BodyOut::SecretsEncrypt {
        secrets_encrypt: state.command.as_ref().map(status_out),
        secrets_encrypt_error: state.instead.as_deref(),
        node: state.node.as_deref(),
        nodes: nodes.collect(),
        configuration: state
            .config
            .as_ref()
            .map(|(from, sha256)| ConfigOut { from: harmless(from).into_owned(), sha256 }),
        keys: keys.collect(),
        plaintext: state.plaintext,
        unreadable: state.unreadable,
        next: NextOut { step, safe: *safe, why: why.as_deref() },
    }
}

fn component_out(component: &Component) -> ComponentOut<'_> {
    let keys = component.keys.iter().map(|key| {
        let said = key.secret.as_ref().and_then(|secret| secret.said.as_ref());
        OperatorKeyOut {
            number: &key.number,
            mode: said.map(|said| said.mode.as_str()),
            created: said.and_then(|said| said.created.as_deref()),
            migrated: said.and_then(|said| said.migrated.as_deref()),
            migrated_resources: said.map(|said| said.migrated_resources.clone()).unwrap_or_default(),
            reason: said.and_then(|said| said.reason.as_deref()),
            role: key.role.word(),
            entries: key.entries,
            prunable: key.prunable,
        }
    });
    ComponentOut {
        component: &component.name,
        configuration: component.config.as_deref().map(|from| harmless(from).into_owned()),
        resources: component.resources.iter().map(ToString::to_string).collect(),
        mode: component.mode,
        keys: keys.collect(),
        plaintext: component.plaintext,
        unknown: component.foreign,
    }
}

fn kms_out(state: &KmsState) -> BodyOut<'_> {
    let providers = state.sealings.iter().map(|sealing| SealingOut {
        provider: harmless(&sealing.envelope.provider).into_owned(),
        provider_version: sealing.envelope.version,
        kms_key_id: &sealing.envelope.key_id,
        key_version: &sealing.envelope.key_version,
        seed: sealing.envelope.seed,
        entries: sealing.entries,
        distinct_deks: sealing.deks,
    });
    let rotation = state.rotation.as_ref().map(|rotation| RotationOut {
        times: &rotation.times,
        without: rotation.without,
        closed: rotation.closed,
    });
    let (decrypt, encrypt) = calls(state);
    BodyOut::Kms { providers: providers.collect(), rotation, rewrite_calls: CallsOut { decrypt, encrypt } }
}

fn calls(state: &KmsState) -> (u64, u64) {
    let sum = |count: fn(&Sealing) -> u64| state.sealings.iter().map(count).sum();
    // All values of one provider of v2 are written under one new data key.
    let mut v2: Vec<_> = state.sealings.iter().filter(|one| one.envelope.version != "v1").collect();
    v2.dedup_by(|one, other| one.envelope.provider == other.envelope.provider);
    let v1: u64 = state.sealings.iter().filter(|one| one.envelope.version == "v1").map(Sealing::encrypts).sum();
    (sum(Sealing::decrypts), v1 + v2.len() as u64)
}

/// Writes the text.
pub fn text(out: &mut dyn Write, told: &Told<'_>, paint: Paint) -> io::Result<()> {
    match told.body {
        Body::SecretsEncrypt(state) => secrets_encrypt(out, state)?,
        Body::Operators(components) => components.iter().try_for_each(|one| component(out, one))?,
        Body::Kms(state) => kms(out, state)?,
    }
    for remark in told.remarks {
        let (mark, severity) = match remark.weight {
            Weight::Error => ("[FAIL]", Severity::Error),
            Weight::Warning => ("[WARN]", Severity::Warning),
            Weight::Note => ("[NOTE]", Severity::Note),
        };
        writeln!(out, "{}", paint.severity(severity, &format!("{mark} {}", harmless(&remark.text))))?;
    }
    match told.body {
        Body::SecretsEncrypt(state) => next(out, &state.next, paint),
        _ if told.remarks.iter().all(|remark| remark.weight == Weight::Note) => {
            writeln!(out, "{}", paint.good("[PASS] what the values say agrees with it"))
        }
        _ => Ok(()),
    }
}

fn next(out: &mut dyn Write, next: &Next, paint: Paint) -> io::Result<()> {
    let step = harmless(&next.step);
    match next.safe {
        Some(true) => writeln!(out, "{}", paint.good(&format!("[PASS] Next: {step}. Nothing speaks against it."))),
        Some(false) => {
            let line = format!("[FAIL] Next: {step}. It is not safe before what is said above is mended.");
            writeln!(out, "{}", paint.severity(Severity::Error, &line))
        }
        None => writeln!(out, "Next: {step}."),
    }
}

fn secrets_encrypt(out: &mut dyn Write, state: &SecretsEncrypt) -> io::Result<()> {
    if let Some(status) = &state.command {
        for line in status.text().lines() {
            writeln!(out, "{}", harmless(line))?;
        }
    }
    if let Some(instead) = &state.instead {
        instead.lines().try_for_each(|line| writeln!(out, "{}", harmless(line)))?;
        writeln!(out)?;
    }
    if let Some(node) = &state.node {
        writeln!(out, "Asked of {}", harmless(node))?;
    }
    if let Some((from, _)) = &state.config {
        writeln!(out, "Configuration: {}", harmless(from))?;
    }
    writeln!(out)?;
    let nodes: Vec<_> = state.nodes.iter().filter(|node| node.control_plane).collect();
    let rows = nodes.iter().map(|node| {
        let hash = node.hash.as_deref().map_or("-", |hash| hash.get(..12).unwrap_or(hash));
        let of = match node.hash_of {
            Some(HashOf::Configuration) => "this configuration's",
            Some(HashOf::Progress) => "this configuration's, being written anew",
            Some(HashOf::Other) => "another one's",
            None => "",
        };
        [
            harmless(&node.name).into_owned(),
            node.stage.clone().unwrap_or("-".to_owned()),
            hash.to_owned(),
            of.to_owned(),
        ]
    });
    columns(out, ["Server", "Stage", "Hash", ""], rows.collect())?;
    let rows = state.keys.iter().map(|key| {
        let role = match (key.writes, key.in_config) {
            (true, _) => "writes",
            (false, true) => "reads",
            (false, false) if state.config.is_none() => "",
            (false, false) => "not in the configuration",
        };
        let name = format!("{}/{}", key.provider, harmless(&key.name));
        [grouped(key.entries), grouped(key.history), name, role.to_owned()]
    });
    columns(out, ["Entries", "History", "Key", ""], rows.collect())
}

/// A table whose columns are as wide as they have to be, and an empty line; nothing without rows.
fn columns<const N: usize>(out: &mut dyn Write, heads: [&str; N], rows: Vec<[String; N]>) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut all = vec![heads.map(str::to_owned)];
    all.extend(rows);
    let width = |column: usize| {
        let cells = all.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..N).map(width).collect();
    for row in &all {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    writeln!(out)
}

fn component(out: &mut dyn Write, component: &Component) -> io::Result<()> {
    writeln!(out, "{}: {}", harmless(&component.name), component.mode)?;
    match &component.config {
        Some(from) => writeln!(out, "  configuration: {}", harmless(from))?,
        None => writeln!(out, "  configuration: not known")?,
    }
    if !component.resources.is_empty() {
        let names: Vec<_> = component.resources.iter().map(ToString::to_string).collect();
        writeln!(out, "  resources: {}", harmless(&names.join(", ")))?;
    }
    writeln!(out)?;
    let rows = component.keys.iter().map(|key| {
        let said = key.secret.as_ref().and_then(|secret| secret.said.as_ref());
        let stamp = |stamp: Option<&String>| stamp.map_or("-".to_owned(), |stamp| harmless(stamp).into_owned());
        let role = if key.prunable { "prunable" } else { key.role.word() };
        [
            harmless(&key.number).into_owned(),
            said.map_or("-".to_owned(), |said| harmless(&said.mode).into_owned()),
            role.to_owned(),
            grouped(key.entries),
            stamp(said.and_then(|said| said.created.as_ref())),
            stamp(said.and_then(|said| said.migrated.as_ref())),
        ]
    });
    columns(out, ["Key", "Mode", "Does", "Entries", "Created", "Migrated"], rows.collect())?;
    if component.plaintext > 0 {
        let noun = if component.plaintext == 1 { "value is" } else { "values are" };
        writeln!(out, "{} {noun} plaintext\n", grouped(component.plaintext))?;
    }
    Ok(())
}

fn kms(out: &mut dyn Write, state: &KmsState) -> io::Result<()> {
    let rows = state.sealings.iter().map(|sealing| {
        let envelope = &sealing.envelope;
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { harmless(text).into_owned() };
        [
            harmless(&envelope.provider).into_owned(),
            envelope.version.to_owned(),
            or_dash(&envelope.key_id),
            or_dash(&envelope.key_version),
            grouped(sealing.entries),
            grouped(sealing.deks),
        ]
    });
    columns(out, ["Provider", "Version", "Key id", "Key version", "Entries", "Data keys"], rows.collect())?;
    match &state.rotation {
        Some(rotation) => {
            for (time, count) in &rotation.times {
                writeln!(
                    out,
                    "{} Secrets were annotated encryption-key-rotation-time={}",
                    grouped(*count),
                    harmless(time)
                )?;
            }
            writeln!(out, "{} Secrets do not have that annotation", grouped(rotation.without))?;
            if rotation.closed > 0 {
                writeln!(out, "{} Secrets stayed closed", grouped(rotation.closed))?;
            }
        }
        None => writeln!(out, "Which Secrets were annotated only shows when they open: -c and --kms")?,
    }
    let (decrypt, encrypt) = calls(state);
    writeln!(out, "Writing all of it anew costs {} Decrypt and {} Encrypt calls\n", grouped(decrypt), grouped(encrypt))
}
