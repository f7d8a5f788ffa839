//! Asking KMS plugins: the arguments, the plan that is printed before anything is spent, and the answers.

use std::collections::HashMap;
use std::fmt::Write;

use clap::{Args, ValueEnum};

use crate::audit::deks::{Deks, Requests, collect};
use crate::audit::rules::Rules;
use crate::kube::key::Roots;
use crate::plugin::{self, Address, AskOptions, Asked, Greeting, Plan, Plugins};
use crate::provider::spec::KmsVersion;
use crate::report::text::{grouped, harmless};
use crate::source::Store;
use crate::source::snapshot::PassOptions;

use super::Failure;
use super::args::GlobalArgs;
use super::judge::Prepared;
use super::progress::Progress;

/// Whether and how to ask KMS plugins.
#[derive(Debug, Args)]
pub struct KmsArgs {
    /// Ask the configuration's KMS plugins for the data keys of values: `ask` (as bare --kms), `plan` to see only what it
    /// would cost, `off`
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_value = "off", default_missing_value = "ask")]
    pub(super) kms: Kms,
    /// This provider's plugin listens elsewhere than its configuration says: NAME=unix:///path or NAME=unix:///@name
    #[arg(long, value_name = "NAME=ENDPOINT")]
    pub(super) kms_endpoint: Vec<String>,
    /// Calls that are under way at once
    #[arg(long, value_name = "N", default_value_t = plugin::DEFAULT_CONCURRENCY as u64,
          value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(super) kms_concurrency: u64,
    /// Stop before spending more calls than this
    #[arg(long, value_name = "N")]
    pub(super) kms_max_calls: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kms {
    Off,
    Plan,
    Ask,
}

/// Does what the arguments say, before the store's values are judged. Endpoints may be given for `others`' plugins, too.
pub fn prepare(
    args: &KmsArgs,
    (rules, others): (&Rules, &[&Rules]),
    store: &mut Store,
    roots: Option<Roots>,
    global: &GlobalArgs,
) -> Result<Prepared, Failure> {
    if args.kms == Kms::Off {
        return Ok(Prepared::Deks(Deks::default()));
    }
    prepare_for(args, (rules, others), global, || {
        let pass = PassOptions { digest: false, threads: 0, progress: &|_| () };
        Ok(collect(store, rules, roots, pass)?)
    })
}

/// The same where it is known what has to be asked; `requests` collects it.
pub fn prepare_for(
    args: &KmsArgs,
    (rules, others): (&Rules, &[&Rules]),
    global: &GlobalArgs,
    requests: impl FnOnce() -> Result<Vec<Requests>, Failure>,
) -> Result<Prepared, Failure> {
    if args.kms == Kms::Off {
        return Ok(Prepared::Deks(Deks::default()));
    }
    let known: Vec<_> = [rules].iter().chain(others).copied().collect();
    let endpoints = endpoints(args, &known)?;
    let requests = requests()?;
    let no_runtime = |error| Failure::input(format!("the KMS plugins cannot be asked: {error}"));
    let mut plugins = Vec::new();
    for file in 0..requests.len() {
        plugins.push(Plugins::greet(&rules.kms_specs(file), &endpoints).map_err(no_runtime)?);
    }
    let plan = plan(args, rules, &requests, &plugins);
    if args.kms == Kms::Plan {
        return Ok(Prepared::Plan(plan));
    }
    if !global.quiet {
        eprint!("{plan}");
    }
    Ok(Prepared::Deks(ask(args, rules, requests, &plugins, global)))
}

/// Asks for all of it, a table for each file.
pub(super) fn ask(
    args: &KmsArgs,
    rules: &Rules,
    requests: Vec<Requests>,
    plugins: &[Plugins],
    global: &GlobalArgs,
) -> Deks {
    let total = requests.iter().map(|requests| requests.len() as u64).sum();
    let progress = Progress::count(global, "asking KMS plugins", total);
    let mut left = args.kms_max_calls;
    let mut tables = Vec::new();
    for (requests, plugins) in requests.into_iter().zip(plugins) {
        let concurrency = usize::try_from(args.kms_concurrency).unwrap_or(plugin::DEFAULT_CONCURRENCY);
        let options = AskOptions { concurrency, max_calls: left, progress: &|calls| progress.add(calls) };
        let requests = requests.into_iter().map(|(request, _)| request).collect();
        let (table, asked) = plugins.ask(requests, &options);
        left = left.map(|left| left.saturating_sub(asked.calls));
        if !global.quiet {
            eprint!("{}", summary(&asked));
        }
        tables.push(table);
    }
    Deks::new(rules, tables)
}

/// Other endpoints by provider, each checked.
pub(super) fn endpoints(args: &KmsArgs, rules: &[&Rules]) -> Result<HashMap<String, String>, Failure> {
    let specs = rules.iter().flat_map(|rules| (0..rules.files().count()).flat_map(|file| rules.kms_specs(file)));
    let names: Vec<_> = specs.map(|kms| kms.name).collect();
    let mut endpoints = HashMap::new();
    for given in &args.kms_endpoint {
        // A provider's name may hold `=`, an endpoint's scheme does not: the last `=unix:` divides.
        let parts = given.rsplit_once("=unix:").map(|(name, rest)| (name, format!("unix:{rest}")));
        let Some((name, endpoint)) = parts else {
            return Err(Failure::usage(format!("--kms-endpoint {given:?} is not of the form NAME=unix:///path")));
        };
        if !names.iter().any(|known| known == name) {
            return Err(Failure::usage(format!("no configuration has a KMS provider named {name:?}")));
        }
        Address::parse(&endpoint).map_err(|error| Failure::usage(format!("--kms-endpoint {given:?}: {error}")))?;
        endpoints.insert(name.to_owned(), endpoint);
    }
    Ok(endpoints)
}

/// What asking would cost, by file, provider and key id.
fn plan(args: &KmsArgs, rules: &Rules, requests: &[Requests], plugins: &[Plugins]) -> String {
    let mut text = String::new();
    let concurrency = usize::try_from(args.kms_concurrency).unwrap_or(plugin::DEFAULT_CONCURRENCY);
    for (file, (requests, plugins)) in requests.iter().zip(plugins).enumerate() {
        let specs = rules.kms_specs(file);
        let plan = plugin::plan(requests.iter().map(|(request, values)| (request, *values)), &specs);
        let path = rules.files().nth(file).map_or("", |(path, _)| path);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "KMS plan for {}: {} calls", harmless(path), grouped(plan.calls));
        providers(&mut text, &plan, plugins, concurrency);
    }
    if let Some(limit) = args.kms_max_calls {
        let _ = writeln!(text, "at most {} calls are made", grouped(limit));
    }
    text
}

fn providers(text: &mut String, plan: &Plan, plugins: &Plugins, concurrency: usize) {
    for provider in &plan.providers {
        let same = |greeting: &&Greeting| greeting.provider == provider.name && greeting.version == provider.version;
        let state = match plugins.greetings().find(&same).map(|greeting| &greeting.outcome) {
            Some(Ok(health)) => {
                let estimate = provider.estimate(health.latency, concurrency);
                let current =
                    health.key_id.as_ref().map_or(String::new(), |id| format!(", current key {}", harmless(id)));
                format!("answers in {:.1?}{current}; about {estimate:.1?}", health.latency)
            }
            Some(Err(unwell)) => format!("not well: {}", harmless(&unwell.to_string())),
            None => "not greeted".to_owned(),
        };
        let greeting = plugins.greetings().find(same);
        let address = greeting.map_or(provider.address.as_ref(), |greeting| greeting.address.as_ref());
        let address = address.map_or(String::new(), |address| format!(" at {address}"));
        let version = match provider.version {
            KmsVersion::V1 => "v1",
            KmsVersion::V2 => "v2",
        };
        let name = harmless(&provider.name);
        let _ =
            writeln!(text, "  {name} ({version}){}: {} calls, {state}", harmless(&address), grouped(provider.calls));
        for key in &provider.keys {
            let id = if key.key_id.is_empty() { "(v1 has no key ids)".into() } else { harmless(&key.key_id) };
            let (deks, values) = (grouped(key.distinct_deks), grouped(key.values));
            let _ = writeln!(text, "    key {id}: {deks} data keys for {values} values");
        }
    }
}

fn summary(asked: &Asked) -> String {
    let mut text = String::new();
    for provider in &asked.providers {
        let name = harmless(&provider.name);
        let (opened, refused) = (grouped(provider.opened), grouped(provider.refused));
        let _ = writeln!(text, "  {name}: {} calls, {opened} opened, {refused} refused", grouped(provider.calls));
        if provider.waiting > 0 {
            let _ = writeln!(text, "    {} were not asked", grouped(provider.waiting));
        }
        if let Some(reason) = &provider.given_up {
            let _ = writeln!(text, "    given up: {}", harmless(reason));
        }
        for (words, count) in provider.errors.iter().take(3) {
            let _ = writeln!(text, "    {} times: {}", grouped(*count), harmless(words));
        }
    }
    if asked.stopped_by_limit {
        text.push_str("  stopped at --kms-max-calls; what was not asked stays unknown\n");
    }
    text
}
