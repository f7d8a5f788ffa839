//! `atrest status`: what a distribution's own status command says, and what the stored values say of it.

use clap::ValueEnum;

use crate::audit::deks::Deks;
use crate::audit::finding::{Finding, ValueFinding};
use crate::audit::rules::Rules;
use crate::audit::run::{Audit, Options, audit};
use crate::audit::summary::KeyRow;
use crate::config::{ApiServers, Configuration};
use crate::distro::Distro;
use crate::distro::ack;
use crate::distro::gather::{Gathered, Standing};
use crate::distro::merge::Merged;
use crate::distro::migration::{self, Use};
use crate::distro::node::Node;
use crate::distro::openshift;
use crate::distro::recovered::{Found, RecoverError, Recovered, Warning, recover};
use crate::distro::secrets_encrypt::{self, providers};
use crate::distro::stage::State;
use crate::distro::steps::{self, Facts, KeyUse, Remark, Weight};
use crate::distro::token::Token;
use crate::kube::key::Roots;
use crate::kube::labels::{Fields, Labels};
use crate::kube::resource::{ApiServer, GroupResource};
use crate::kube::select::Selection;
use crate::provider::spec::{NamedKey, ProviderSpec};
use crate::recover::get::{Content, Order, Wanted, Which, find};
use crate::report::status::{Body, KmsState, NodeLine, Rotation, SecretsEncrypt, Told, json, text};
use crate::report::text::{harmless, hex};
use crate::source::Store;
use crate::source::snapshot::PassOptions;

use super::Failure;
use super::args::{ConfigArgs, GlobalArgs, SourceArgs, paint};
use super::configs::{self, Given, TokenArgs};
use super::exit::Exit;
use super::output::print;
use super::progress::Progress;
use super::source::{OpenSource, open};

/// Where a distribution's rotation stands, and whether the next step is safe
///
/// For K3s and RKE2 the text begins with what `secrets-encrypt status` prints, from the nodes in the store and the
/// configuration: given with -c, or the store's own with the server's token. For OpenShift it tells the keys of each API
/// server, for ACK and ASK the key versions and what a rewrite costs. Then it tells what the values say of it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    token: TokenArgs,
    /// The distribution, where its content does not tell
    #[arg(long, value_enum, value_name = "DISTRO")]
    distro: Option<DistroArg>,
    /// The server that is asked (K3s, RKE2); the first that has this configuration where it is not given
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[cfg(feature = "kms")]
    #[command(flatten)]
    kms: super::kms::KmsArgs,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Where the API server keeps its objects, as in its own --etcd-prefix; found by itself where it is not given
    #[arg(long, value_name = "PREFIX")]
    etcd_prefix: Vec<String>,
}

const EXAMPLES: &str = "\
Exit codes: 0 nothing speaks against the next step, or nobody can say; 1 it is not safe, or data is lost already; 2 wrong
usage; 3 the input cannot be read.

Examples:
  atrest status snapshot.db --token-file token
  atrest status snapshot.db -c /var/lib/rancher/k3s/server/cred
  atrest status snapshot.db -c static_kuberesources.tar.gz
  atrest status snapshot.db --distro ack -c encryptionconfig.yaml --kms";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a person
    Table,
    /// For a program
    Json,
}

/// A distribution, as arguments name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DistroArg {
    /// K3s
    K3s,
    /// RKE2
    Rke2,
    /// OpenShift 4
    #[value(name = "openshift")]
    OpenShift,
    /// Alibaba Cloud's ACK and ASK
    Ack,
}

impl From<DistroArg> for Distro {
    fn from(distro: DistroArg) -> Self {
        match distro {
            DistroArg::K3s => Self::K3s,
            DistroArg::Rke2 => Self::Rke2,
            DistroArg::OpenShift => Self::OpenShift,
            DistroArg::Ack => Self::Ack,
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, global: &GlobalArgs) -> Result<Exit, Failure> {
    let given = configs::files(&args.config.config)?;
    let token = args.token.token_file.as_deref().map(configs::read_token).transpose()?;
    let OpenSource { store, facts, log_beside } = open(&args.source, global)?;
    let path = facts.path;
    let mut asked = Asked { args, global, store, path, given, token, log_beside };
    let gathered = configs::gathered(&mut asked.store, &asked.path, global)?;
    let distro = match args.distro.map(Distro::from).or_else(|| told(&gathered, &asked.given)) {
        Some(distro) => distro,
        None if gathered.kms && is_ack(&mut asked)? => Distro::Ack,
        None => {
            let unknown = "nothing in it tells of K3s, RKE2, OpenShift or ACK";
            return Err(Failure::input(unknown).about(&asked.path).hint("--distro says which it is"));
        }
    };
    match distro {
        Distro::K3s | Distro::Rke2 => asked.secrets_encrypt(distro, &gathered),
        Distro::OpenShift => asked.operators(&gathered),
        Distro::Ack => asked.kms(),
    }
}

/// The distribution that a store is of, as far as its keys and nodes tell.
pub fn told(gathered: &Gathered, given: &Given) -> Option<Distro> {
    let any = |has: fn(&Node) -> bool| gathered.nodes.iter().any(has);
    if any(|node| node.rke2.is_some()) {
        Some(Distro::Rke2)
    } else if any(|node| node.k3s.is_some()) {
        Some(Distro::K3s)
    } else if any(|node| node.marks.1) {
        Some(Distro::Rke2)
    } else if any(|node| node.marks.0) || !gathered.copies.is_empty() {
        Some(Distro::K3s)
    } else if gathered.openshift || !gathered.secrets.is_empty() || !given.pods.is_empty() {
        Some(Distro::OpenShift)
    } else {
        None
    }
}

fn is_ack(asked: &mut Asked<'_>) -> Result<bool, Failure> {
    Ok(asked.survey()?.iter().any(|sealing| sealing.envelope.is_ack))
}

/// Everything that was asked for.
struct Asked<'a> {
    args: &'a Args,
    global: &'a GlobalArgs,
    store: Store,
    path: String,
    given: Given,
    token: Option<Token>,
    log_beside: bool,
}

/// The configuration in use.
struct InUse {
    from: String,
    configuration: Configuration,
}

impl Asked<'_> {
    fn answer(&self, distro: Distro, body: Body<'_>, remarks: &[Remark]) -> Result<Exit, Failure> {
        let worst = remarks.iter().any(|remark| remark.weight == Weight::Error);
        let told = Told { path: &self.path, distro: distro.word(), body, remarks };
        let exit = if worst { Exit::Findings } else { Exit::Done };
        print(exit, |out| match self.args.output {
            Output::Json => json(out, &told),
            Output::Table => text(out, &told, paint()),
        })
    }

    fn roots(&self) -> Option<Roots> {
        (!self.args.etcd_prefix.is_empty()).then(|| Roots::given(&self.args.etcd_prefix))
    }

    fn audit(&mut self, rules: Rules) -> Result<Audit, Failure> {
        let digest = !self.args.source.no_digest;
        let reads = if digest { 2 } else { 1 };
        let progress = Progress::bytes(self.global, "reading", reads * self.store.bytes());
        let pass = PassOptions { digest, threads: 0, progress: &|bytes| progress.add(bytes) };
        let options = Options { pass, roots: self.roots(), log_beside: self.log_beside, ..Options::default() };
        audit(&mut self.store, rules, &options).map_err(|error| Failure::from(error).about(&self.path))
    }

    fn recovered(&self, gathered: &Gathered) -> Result<(Recovered, bool), Failure> {
        match recover(&gathered.copies, gathered.left_out, self.token.as_ref()) {
            Ok(recovered) => Ok((recovered, false)),
            Err(RecoverError::NoConfiguration) => Ok((Recovered::default(), true)),
            // Without a token nothing was asked of the record, and what is wrong with it may not matter.
            Err(_) if self.token.is_none() => Ok((Recovered::default(), false)),
            Err(error) => Err(Failure::input(harmless(&error.to_string()).into_owned()).about(&self.path)),
        }
    }

    fn secrets_encrypt(&mut self, distro: Distro, gathered: &Gathered) -> Result<Exit, Failure> {
        let (recovered, never_on) = self.recovered(gathered)?;
        let current = recovered.found.iter().find(|found| found.standing == Standing::Entry);
        let current = current.or(recovered.found.first());
        let in_use = match self.given.at_hand()?.into_iter().next() {
            Some((from, configuration)) => Some(InUse { from, configuration }),
            None => {
                current.map(|found| InUse { from: recorded_name(found), configuration: found.configuration.clone() })
            }
        };
        let audit = self.audit(all_rules(in_use.as_ref(), &recovered)?)?;
        let hash = in_use.as_ref().map(|in_use| hex(&in_use.configuration.sha256));
        let node = match &self.args.node {
            Some(name) => Some(gathered.nodes.iter().find(|node| node.name == *name).ok_or_else(|| {
                Failure::usage(format!("the store has no node {name:?}")).hint("`atrest get SOURCE nodes` lists them")
            })?),
            None => secrets_encrypt::node_to_ask(distro, &gathered.nodes, hash.as_deref()),
        };
        let state = node.and_then(|node| node.state(distro).ok());
        let keys = key_uses(&audit.summary.keys, in_use.as_ref());
        let specs = in_use.as_ref().map(|in_use| providers(&in_use.configuration));
        let recorded = current.map(Found::hash);
        let saved = gathered.copies.iter().find(|copy| copy.standing == Standing::Entry && !copy.value.is_empty());
        let facts = Facts {
            distro,
            nodes: &gathered.nodes,
            state: state.as_ref(),
            config: specs.zip(hash.as_deref()),
            recorded: recorded.as_deref(),
            saved: saved.map(|copy| copy.revision.main),
            keys: &keys,
            plaintext: plaintext(&audit),
            unreadable: if in_use.is_some() { audit.summary.totals.unreadable } else { 0 },
            whole: crate::audit::gate::read_whole(&audit),
            noun: noun(&audit),
        };
        let (remarks, next) = steps::judge(&facts, &recovered.warnings);
        let (command, instead) = command(distro, gathered, node, in_use.as_ref(), never_on);
        let told = SecretsEncrypt {
            command,
            instead,
            node: node.map(|node| node.name.clone()),
            nodes: node_lines(distro, &gathered.nodes, facts.config),
            config: in_use.as_ref().zip(hash.clone()).map(|(in_use, hash)| (in_use.from.clone(), hash)),
            plaintext: facts.plaintext,
            unreadable: facts.unreadable,
            next,
            keys: keys.clone(),
        };
        self.answer(distro, Body::SecretsEncrypt(&told), &remarks)
    }

    fn operators(&mut self, gathered: &Gathered) -> Result<Exit, Failure> {
        let files = self.given.at_hand()?;
        let kept = openshift::read(&gathered.secrets, &ApiServers::new(files.clone())?);
        let mut all = files.clone();
        all.extend(configs::beside(&files, openshift::Kept { configs: kept.configs.clone(), ..Default::default() }));
        let rules = Rules::new(ApiServers::new(all.clone())?).map_err(|error| Failure::input(error.to_string()))?;
        let audit = self.audit(rules)?;
        let configured: Vec<_> = all
            .iter()
            .flat_map(|(from, configuration)| {
                servers(configuration).into_iter().map(move |server| (server, (from.clone(), configuration)))
            })
            .collect();
        let (components, mut remarks) = migration::components(&kept, &configured, &uses(&audit));
        if components.is_empty() {
            remarks.push(Remark::new(
                Weight::Note,
                "status.never-on",
                "nothing tells that encryption was ever switched on",
            ));
        }
        if files.is_empty() && !kept.closed.is_empty() {
            let count = kept.closed.len();
            let text = format!(
                "{count} Secrets with keys and configurations stay closed without kube-apiserver's configuration"
            );
            remarks.push(Remark::new(Weight::Warning, "status.closed-secret", text));
        }
        for closed in kept.closed.iter().filter(|_| !files.is_empty()) {
            let text = format!("{} stays closed: {}", closed.key, closed.why);
            remarks.push(Remark::new(Weight::Warning, "status.closed-secret", text));
        }
        if let Some(why) = crate::audit::gate::doubt(&audit) {
            let text = format!("{why}, so nothing can be said to be unneeded; see `atrest check`");
            remarks.push(Remark::new(Weight::Error, "status.damaged", text));
        }
        remarks.sort_by_key(|remark| std::cmp::Reverse(remark.weight));
        self.answer(Distro::OpenShift, Body::Operators(&components), &remarks)
    }

    fn survey(&mut self) -> Result<Vec<ack::Sealing>, Failure> {
        let progress = Progress::bytes(self.global, "looking at data keys", self.store.bytes());
        let pass = PassOptions { digest: false, threads: 0, progress: &|bytes| progress.add(bytes) };
        ack::survey(&mut self.store, pass).map_err(|error| match error {
            ack::SurveyError::Read(error) => Failure::from(error).about(&self.path),
            error => Failure::input(error.to_string()),
        })
    }

    fn kms(&mut self) -> Result<Exit, Failure> {
        let sealings = self.survey()?;
        let rules = Rules::new(ApiServers::new(self.given.at_hand()?)?);
        let rules = rules.map_err(|error| Failure::input(error.to_string()))?;
        let rotation = if rules.given() { self.rotation(&rules)? } else { None };
        let mut remarks = Vec::new();
        if sealings.is_empty() {
            remarks.push(Remark::new(Weight::Note, "status.no-kms", "no entry is behind a KMS"));
        }
        if sealings.iter().any(|sealing| sealing.envelope.version == "v1") {
            let text = "KMS v1 does not tell which version of the key a value is on: only the annotation does";
            remarks.push(Remark::new(Weight::Note, "status.kms-v1", text));
        }
        let versions: Vec<_> =
            sealings.iter().map(|sealing| &sealing.envelope.key_version).filter(|text| !text.is_empty()).collect();
        if versions.len() > 1 {
            let text = format!(
                "values are on {} versions of the key: none of these may be disabled or deleted",
                versions.len()
            );
            remarks.push(Remark::new(Weight::Warning, "status.key-versions", text));
        }
        self.answer(Distro::Ack, Body::Kms(&KmsState { sealings, rotation }), &remarks)
    }

    /// Opens every Secret and counts who has the annotation; none where nothing opens.
    fn rotation(&mut self, rules: &Rules) -> Result<Option<Rotation>, Failure> {
        let roots = self.roots();
        #[cfg(feature = "kms")]
        let deks = match super::kms::prepare(&self.args.kms, (rules, &[]), &mut self.store, roots.clone(), self.global)?
        {
            super::judge::Prepared::Plan(plan) => {
                eprint!("{plan}");
                Deks::default()
            }
            super::judge::Prepared::Deks(deks) => deks,
        };
        #[cfg(not(feature = "kms"))]
        let deks = Deks::default();
        let wanted = Wanted {
            pass: PassOptions { digest: false, threads: 0, progress: &|_| () },
            roots,
            selection: Selection::parse(&["secrets".to_owned()]).map_err(|error| Failure::usage(error.to_string()))?,
            namespaces: Vec::new(),
            fields: Fields::default(),
            labels: Labels::default(),
            which: Which::Current,
            revision: None,
            managed_fields: false,
            order: Order::Key,
            payloads: false,
            digests: None,
            deks,
        };
        let mut found =
            find(&mut self.store, rules, &wanted).map_err(|error| Failure::from(error).about(&self.path))?;
        let mut rotation = Rotation::default();
        let mut opened = false;
        let unreadable = |error| Failure::input(format!("the sorted notes cannot be read again: {error}"));
        while let Some(items) = found.next_batch().map_err(unreadable)? {
            for item in items {
                match item.content {
                    Content::Object { json, .. } => {
                        opened = true;
                        match ack::rotation_time(&json) {
                            Some(time) => *rotation.times.entry(time).or_default() += 1,
                            None => rotation.without += 1,
                        }
                    }
                    _ => rotation.closed += 1,
                }
            }
        }
        Ok(opened.then_some(rotation))
    }
}

fn recorded_name(found: &Found) -> String {
    match &found.time {
        Some(time) => format!("the store's own, {} ({time})", found.name()),
        None => format!("the store's own, {}", found.name()),
    }
}

/// The configuration in use, and behind it all that was recovered.
fn all_rules(in_use: Option<&InUse>, recovered: &Recovered) -> Result<Rules, Failure> {
    let all = in_use.map(|in_use| &in_use.configuration).into_iter();
    let merged = Merged::of(all.chain(recovered.found.iter().map(|found| &found.configuration)));
    let files = match in_use {
        None => Vec::new(),
        Some(in_use) if merged.is_the_newest() => vec![(in_use.from.clone(), in_use.configuration.clone())],
        Some(in_use) => {
            let configuration = crate::config::load(merged.text().as_bytes());
            let failed = |error: crate::config::LoadError| Failure::input(harmless(&error.to_string()).into_owned());
            vec![(in_use.from.clone(), configuration.map_err(failed)?)]
        }
    };
    Rules::new(ApiServers::new(files)?).map_err(|error| Failure::input(error.to_string()))
}

/// What the command tells, or what is to be said instead.
fn command(
    distro: Distro,
    gathered: &Gathered,
    node: Option<&Node>,
    in_use: Option<&InUse>,
    never_on: bool,
) -> (Option<secrets_encrypt::Status>, Option<String>) {
    let program = distro.word();
    let failing =
        |error: secrets_encrypt::StatusError| Some(format!("{program} secrets-encrypt status fails: {error}"));
    if in_use.is_none() && !never_on {
        let stage = node.and_then(|node| node.state(distro).ok()).map_or("unknown".to_owned(), |state| state.stage);
        let hashes = secrets_encrypt::hash_error(distro, &gathered.nodes);
        let hashes = hashes.unwrap_or_else(|| "All hashes match".to_owned());
        let text = format!(
            "Encryption Status: unknown without a configuration; give it with -c, or the server's token with --token-file\n\
             Current Rotation Stage: {stage}\nServer Encryption Hashes: {hashes}"
        );
        return (None, Some(text));
    }
    let Some(node) = node else { return (None, failing(secrets_encrypt::StatusError::NoServer)) };
    let configuration = in_use.map(|in_use| &in_use.configuration);
    match secrets_encrypt::status(distro, &gathered.nodes, node, configuration) {
        Ok(status) => (Some(status), None),
        Err(error) => (None, failing(error)),
    }
}

fn node_lines(distro: Distro, nodes: &[Node], config: Option<(&[ProviderSpec], &str)>) -> Vec<NodeLine> {
    let line = |node: &Node| {
        let state = node.annotation(distro).and_then(State::parse);
        let hash_of = state.as_ref().zip(config);
        NodeLine {
            name: node.name.clone(),
            control_plane: node.control_plane,
            hash_of: hash_of.map(|(state, (providers, hash))| secrets_encrypt::hash_of(state, hash, providers)),
            stage: state.as_ref().map(|state| state.stage.clone()),
            hash: state.map(|state| state.hash),
        }
    };
    nodes.iter().map(line).collect()
}

/// The keys of an audit against the configuration in use.
fn key_uses(rows: &[KeyRow], in_use: Option<&InUse>) -> Vec<KeyUse> {
    let specs = in_use.map_or(&[][..], |in_use| providers(&in_use.configuration));
    let keys: Vec<(&str, &NamedKey)> = specs.iter().flat_map(named).collect();
    let writer = match specs.first() {
        Some(first) => named(first).into_iter().next(),
        None => None,
    };
    let is = |row: &KeyRow, key: &(&str, &NamedKey)| {
        let same = row.id.provider == key.0 && row.id.key_name == key.1.name;
        // What did not open bears the name of a key and is not on it for certain.
        same && (row.id.fingerprint.is_empty() || row.id.fingerprint == key.1.secret.fingerprint())
    };
    let used = |row: &KeyRow| KeyUse {
        provider: row.id.provider.to_owned(),
        name: row.id.key_name.clone(),
        entries: row.count.entries,
        history: row.count.history,
        residue: row.count.residue,
        newest: row.revisions.map(|(_, newest)| newest),
        in_config: keys.iter().any(|key| is(row, key)),
        writes: writer.as_ref().is_some_and(|key| is(row, key)),
    };
    rows.iter().map(used).collect()
}

/// The keys of a provider as `provider/name`; of a KMS its own name.
pub fn key_labels(spec: &ProviderSpec) -> Vec<String> {
    match spec {
        ProviderSpec::Kms(kms) => vec![format!("kms/{}", kms.name)],
        spec => named(spec).iter().map(|(provider, key)| format!("{provider}/{}", key.name)).collect(),
    }
}

fn named(spec: &ProviderSpec) -> Vec<(&'static str, &NamedKey)> {
    match spec {
        ProviderSpec::AesCbc(keys) => keys.iter().map(|key| ("aescbc", key)).collect(),
        ProviderSpec::AesGcm(keys) => keys.iter().map(|key| ("aesgcm", key)).collect(),
        ProviderSpec::Secretbox(keys) => keys.iter().map(|key| ("secretbox", key)).collect(),
        ProviderSpec::Identity | ProviderSpec::Kms(_) => Vec::new(),
    }
}

fn plaintext(audit: &Audit) -> u64 {
    let is = |finding: &Finding| *finding == Finding::Value(ValueFinding::Plaintext);
    audit.summary.findings.iter().find(|row| is(&row.finding)).map_or(0, |row| row.count)
}

/// What the encrypted values are, in a word.
fn noun(audit: &Audit) -> &'static str {
    let mut sealed = audit.summary.coverage.iter().filter(|row| !row.provider_version.is_empty());
    let secrets_only = sealed.all(|row| row.scope.resource == "secrets" && row.scope.group.is_empty());
    if secrets_only { "Secrets" } else { "values" }
}

/// The API servers that a configuration speaks for.
fn servers(configuration: &Configuration) -> Vec<ApiServer> {
    let resources = configuration.entries.iter().flat_map(|entry| &entry.resources);
    let mut servers: Vec<_> = Vec::new();
    for server in resources.map(|resource| ApiServer::of_group(&resource.group)) {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

/// Entries by resource and key.
fn uses(audit: &Audit) -> Vec<Use> {
    let rows = audit.summary.coverage.iter().filter(|row| !row.scope.resource.is_empty());
    rows.map(|row| Use {
        resource: GroupResource::new(row.scope.group.as_str(), row.scope.resource.as_str()),
        provider: row.provider.to_owned(),
        key_name: row.key_name.clone(),
        entries: row.entries,
        unreadable: row.unreadable,
    })
    .collect()
}

/// What weighs heavily about the records themselves.
pub fn record_remarks(warnings: &[Warning]) -> Vec<Remark> {
    warnings.iter().map(steps::of_record).collect()
}
