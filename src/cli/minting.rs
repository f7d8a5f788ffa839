//! KMS as the target of a rewrite: what the plugins are asked before the first value is sealed.

use std::fmt::Write;

use clap::{Args, ValueEnum};

use crate::audit::deks::collect;
use crate::audit::rules::{ChainRef, Rules};
use crate::kube::key::Roots;
use crate::plugin::{self, AskOptions, Order, Plugins};
use crate::provider::kms::{PluginState, SealForm};
use crate::provider::spec::KmsVersion;
use crate::report::text::{grouped, harmless};
use crate::rewrite::tally::{Count, Fate, Kind};
use crate::rewrite::target::Target;
use crate::source::Store;
use crate::source::snapshot::PassOptions;

use super::Failure;
use super::args::GlobalArgs;
use super::kms::{self, Kms, KmsArgs};
use super::progress::Progress;

/// The envelopes that KMS providers write.
#[derive(Debug, Args)]
pub struct EnvelopeArgs {
    /// KMS v2: one seed for the whole run, as API servers write since 1.29 and read since 1.28; or a data key for each object
    #[arg(long, value_enum, value_name = "HOW", default_value_t = KmsDek::Seed)]
    kms_dek: KmsDek,
    /// KMS v1: AES-CBC inside the envelope, for API servers before 1.24
    #[arg(long)]
    kms_v1_cbc: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KmsDek {
    Seed,
    PerObject,
}

impl EnvelopeArgs {
    fn form(&self, version: KmsVersion) -> SealForm {
        match version {
            KmsVersion::V1 if self.kms_v1_cbc => SealForm::V1Cbc,
            KmsVersion::V1 => SealForm::V1Gcm,
            KmsVersion::V2 if self.kms_dek == KmsDek::PerObject => SealForm::V2Keys,
            KmsVersion::V2 => SealForm::V2Seed,
        }
    }
}

/// A KMS provider that the target writes with.
struct Writer {
    /// The configuration file that has it.
    file: usize,
    provider: String,
    form: SealForm,
    /// The chains that begin with it.
    chains: Vec<ChainRef>,
}

/// The target's plugins, greeted, and which of its providers write.
pub struct Minting {
    plugins: Vec<Plugins>,
    writers: Vec<Writer>,
}

/// The KMS providers that a target writes with.
fn writers(rules: &Rules, envelopes: &EnvelopeArgs) -> Vec<Writer> {
    let mut writers: Vec<Writer> = Vec::new();
    for chain in rules.candidates() {
        let (Some(file), Some(prepared)) = (rules.file_of(chain), rules.chain(chain)) else { continue };
        let label = prepared.writer();
        let version = match (label.provider, label.version) {
            ("kms", "v1") => KmsVersion::V1,
            ("kms", _) => KmsVersion::V2,
            _ => continue,
        };
        let form = envelopes.form(version);
        match writers.iter_mut().find(|known| (known.file, &*known.provider, known.form) == (file, label.name, form)) {
            Some(known) => known.chains.push(chain),
            None => writers.push(Writer { file, provider: label.name.to_owned(), form, chains: vec![chain] }),
        }
    }
    writers
}

/// Greets the target's plugins and asks them for the data keys of values that may be as they would write them; none where the
/// target writes with no KMS provider.
///
/// `everything` asks also for what its other KMS providers must open, so that nothing that stays is locked out unnoticed.
pub fn prepare(
    (args, envelopes): (&KmsArgs, &EnvelopeArgs),
    (current, target): (&Rules, &mut Target),
    everything: bool,
    store: &mut Store,
    roots: Option<Roots>,
    global: &GlobalArgs,
) -> Result<Option<Minting>, Failure> {
    let Target::Configured { rules, deks, .. } = target else { return Ok(None) };
    let writers = writers(rules, envelopes);
    if args.kms == Kms::Off || (writers.is_empty() && !everything) {
        return match writers.first() {
            None => Ok(None),
            Some(writer) => Err(unasked(&writer.provider)),
        };
    }
    let endpoints = kms::endpoints(args, &[current, rules])?;
    let no_runtime = |error| Failure::input(format!("the KMS plugins cannot be asked: {error}"));
    let mut plugins = Vec::new();
    for file in 0..rules.files().count() {
        plugins.push(Plugins::greet(&rules.kms_specs(file), &endpoints).map_err(no_runtime)?);
    }
    let pass = PassOptions { digest: false, threads: 0, progress: &|_| () };
    let mut requests = collect(store, rules, roots, pass)?;
    for (file, requests) in requests.iter_mut().enumerate().filter(|_| !everything) {
        requests.retain(|(request, _)| {
            let writes = |writer: &Writer| {
                (writer.file, &writer.provider, writer.form.version()) == (file, &request.provider, request.version)
            };
            writers.iter().any(writes)
        });
    }
    *deks = kms::ask(args, rules, requests, &plugins, global);
    // Whether a value is as it would be written depends on the form that is written here.
    for (file, table) in deks.tables_mut().iter_mut().enumerate() {
        for writer in writers.iter().filter(|writer| writer.file == file) {
            if let Some(PluginState::Ready { key_id, .. }) = table.state(&writer.provider) {
                let state = PluginState::Ready { key_id: key_id.clone(), source: writer.form.source() };
                table.set_state(&writer.provider, state);
            }
        }
    }
    Ok((!writers.is_empty()).then_some(Minting { plugins, writers }))
}

fn unasked(provider: &str) -> Failure {
    let message =
        format!("the target writes with the KMS provider {:?}, whose plugin has to be asked", harmless(provider));
    Failure::usage(message).hint("allow it with --kms; --kms-endpoint NAME=unix:///path where it listens elsewhere")
}

impl Minting {
    /// What has to be wrapped, by what a dry run says.
    fn orders(&self, rows: &[(Kind, Count)]) -> Vec<(&Writer, Order<'_>)> {
        let values = |writer: &Writer| -> u64 {
            let by_it = |fate: Fate| matches!(fate, Fate::Rewritten(Some(chain)) if writer.chains.contains(&chain));
            let counts = rows.iter().filter(|(kind, _)| by_it(kind.fate)).map(|(_, count)| count);
            counts.map(Count::all).sum()
        };
        let all = self
            .writers
            .iter()
            .map(|writer| (writer, Order { provider: &writer.provider, form: writer.form, values: values(writer) }));
        all.filter(|(_, order)| order.values > 0).collect()
    }

    /// What wrapping will cost, in words.
    pub fn plan(&self, rules: &Rules, rows: &[(Kind, Count)], args: &KmsArgs) -> String {
        let mut text = String::new();
        for (writer, order) in self.orders(rows) {
            let plan = plugin::plan_minting([order], &rules.kms_specs(writer.file));
            let Some(provider) = plan.providers.first() else { continue };
            let concurrency = usize::try_from(args.kms_concurrency).unwrap_or(plugin::DEFAULT_CONCURRENCY);
            let plugins = self.plugins.get(writer.file);
            let greeting =
                plugins.and_then(|plugins| plugins.greetings().find(|known| known.provider == writer.provider));
            let health = greeting.and_then(|greeting| greeting.outcome.as_ref().ok());
            let estimate = health.map_or(String::new(), |health| {
                format!(", about {:.1?}", provider.estimate(health.latency, concurrency))
            });
            let (calls, values) = (grouped(provider.calls), grouped(order.values));
            let name = harmless(&writer.provider);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "KMS plan: {name} wraps data keys for {values} values: {calls} calls{estimate}");
        }
        text
    }

    /// Has everything wrapped, and gives it to the target.
    pub fn mint(
        &self,
        args: &KmsArgs,
        rows: &[(Kind, Count)],
        target: &mut Target,
        global: &GlobalArgs,
    ) -> Result<(), Failure> {
        let Target::Configured { deks, sealings, .. } = target else { return Ok(()) };
        let mut left = args.kms_max_calls;
        for (writer, order) in self.orders(rows) {
            let Some(plugins) = self.plugins.get(writer.file) else { continue };
            let progress = Progress::count(global, "wrapping data keys", order.form.deks(order.values));
            let concurrency = usize::try_from(args.kms_concurrency).unwrap_or(plugin::DEFAULT_CONCURRENCY);
            let options = AskOptions { concurrency, max_calls: left, progress: &|calls| progress.set(calls) };
            let minted = plugins.mint(order, &options, |bytes| getrandom::fill(bytes).map_err(std::io::Error::other));
            let minted = minted.map_err(|error| {
                let message = format!("KMS provider {}: {}", harmless(&writer.provider), harmless(&error.to_string()));
                Failure::refused(message).hint("nothing was written; the source is as it was")
            })?;
            left = left.map(|left| left.saturating_sub(minted.calls));
            if let Some(table) = deks.tables_mut().get_mut(writer.file) {
                minted.sealing.remember(table);
            }
            sealings.add(minted.sealing, writer.chains.iter().copied());
        }
        Ok(())
    }
}
