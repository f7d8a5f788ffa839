//! The remedies of all findings as a script for bash that somebody reads before anything in it runs.
//!
//! Lines that begin with `##` are words. Every command stands behind a single `# `, below the objects that it is about and the
//! reason. Objects come in the order of keys, all of them, from the rows of the audit: memory stays the same however many
//! there are.

use std::collections::BTreeSet;
use std::io::{self, Write};

use crate::audit::finding::{Finding, FindingSet, ValueFinding};
use crate::audit::merge::Merge;
use crate::audit::row::{RecordKind, Row, RowVerdict};
use crate::audit::run::Audit;

use super::json::SourceFacts;
use super::shell::{go_string, url_segment, word};
use super::text::{grouped, harmless, key};

/// What no key opens, or what opens and cannot be decoded: no API server serves it, whatever is configured.
const LOST: [ValueFinding; 5] = [
    ValueFinding::UnknownKey,
    ValueFinding::WrongKey,
    ValueFinding::Malformed,
    ValueFinding::NotAnObject,
    ValueFinding::Unrecognised,
];

/// What a KMS plugin does not open: perhaps it is only down.
const CLOSED: [ValueFinding; 1] = [ValueFinding::Kms];

/// What goes away when the object is written anew, some of it after the key was changed.
const REWRITTEN: [ValueFinding; 5] = [
    ValueFinding::Plaintext,
    ValueFinding::Stale,
    ValueFinding::WeakKey,
    ValueFinding::PublishedKey,
    ValueFinding::NonceReuse,
];

/// What somebody has to look at first.
const LOOKED_AT: [ValueFinding; 7] = [
    ValueFinding::RemovedKey,
    ValueFinding::NoIdentity,
    ValueFinding::NameMismatch,
    ValueFinding::CopiedValue,
    ValueFinding::DoubleEncrypted,
    ValueFinding::UnverifiedKms,
    ValueFinding::UnverifiedUncovered,
];

/// What only older revisions have, or what is left of them.
const LEFT_BEHIND: [ValueFinding; 4] = [
    ValueFinding::HistoryPlaintext,
    ValueFinding::HistoryOldKey,
    ValueFinding::ResiduePlaintext,
    ValueFinding::ResidueOldKey,
];

/// Gives the rows of the audit from their beginning, residue included.
pub type Rows<'r> = dyn FnMut() -> io::Result<Merge> + 'r;

/// Writes the script.
pub fn write(
    out: &mut dyn Write,
    audit: &Audit,
    facts: &SourceFacts,
    scope: Option<&str>,
    rows: &mut Rows<'_>,
) -> io::Result<()> {
    let mut script = Script { out, audit, facts };
    script.head(scope)?;
    script.summary()?;
    script.lost(rows)?;
    script.closed(rows)?;
    script.looked_at(rows)?;
    script.rewritten(rows)?;
    script.left_behind(rows)?;
    script.say("end")
}

struct Script<'s> {
    out: &'s mut dyn Write,
    audit: &'s Audit,
    facts: &'s SourceFacts,
}

/// One list of findings, as a set.
fn set(findings: &[ValueFinding]) -> FindingSet {
    findings.iter().fold(FindingSet::default(), |set, finding| set.with(*finding))
}

impl Script<'_> {
    /// A line of words.
    fn say(&mut self, words: &str) -> io::Result<()> {
        writeln!(self.out, "{}", format!("## {words}").trim_end())
    }

    /// A command that does nothing until somebody takes its mark away.
    fn command(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.out, "# {command}")
    }

    fn heading(&mut self, words: &[&str]) -> io::Result<()> {
        writeln!(self.out)?;
        self.say(&"-".repeat(100))?;
        words.iter().try_for_each(|line| self.say(line))
    }

    fn head(&mut self, scope: Option<&str>) -> io::Result<()> {
        writeln!(self.out, "#!/usr/bin/env bash")?;
        self.say("Remedies for what atrest found. Nothing in here runs as it is: every command is a comment.")?;
        self.say("Read what stands above a command, then take the single `# ` before it away, or leave it.")?;
        self.say("It was written for one moment of the store; audit a new snapshot after every step.")?;
        self.say("")?;
        let path = harmless(&self.facts.path).into_owned();
        self.say(&format!("store:   {path}, revision {}", self.audit.revision))?;
        for (path, _) in self.audit.context.rules.files() {
            self.say(&format!("judged by: {}", harmless(path)))?;
        }
        self.say(&format!("verdict: {}", self.audit.summary.answer.word()))?;
        if let Some(scope) = scope {
            self.say(&format!("only {}; nothing is said of the rest", harmless(scope)))?;
        }
        writeln!(self.out, "set -euo pipefail")?;
        writeln!(self.out, "export ETCDCTL_API=3  # etcdctl takes its endpoints and certificates from ETCDCTL_*, too")?;
        writeln!(self.out)?;
        self.say("The served version of a resource, as the API server tells it: api_version GROUP RESOURCE")?;
        writeln!(self.out, "api_version() {{")?;
        writeln!(
            self.out,
            "  kubectl api-resources --api-group=\"$1\" --no-headers | awk -v r=\"$2\" '$1 == r {{ print $(NF - 2); exit }}'"
        )?;
        writeln!(self.out, "}}")
    }

    /// Every finding with its remedy in words.
    fn summary(&mut self) -> io::Result<()> {
        self.heading(&["Findings"])?;
        for row in &self.audit.summary.findings {
            self.say("")?;
            let (id, severity, meaning) = (row.finding.id(), row.finding.severity().word(), row.finding.meaning());
            let keys = match row.count {
                0 => String::new(),
                1 => "1 key: ".to_owned(),
                count => format!("{} keys: ", grouped(count)),
            };
            self.say(&format!("{id} ({severity}): {keys}{meaning}"))?;
            for detail in &row.details {
                self.say(&format!("    {}", harmless(detail)))?;
            }
            for group in &row.together {
                for value in &group.values {
                    self.say(&format!("    {} at revision {}", key(&value.key), value.revision))?;
                }
            }
            self.say(&format!("  -> {}", self.facts.remedy(row.finding)))?;
            match row.finding {
                Finding::FileUnsteady | Finding::LogOnly | Finding::InUse => {
                    self.command("etcdctl snapshot save snapshot.db")?
                }
                Finding::FileDamaged => {
                    let path = self.source();
                    self.command(&format!("atrest check {path}"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the audit found any of these.
    fn has(&self, findings: &[ValueFinding]) -> bool {
        let is_one = |row: &crate::audit::summary::FindingRow| matches!(row.finding, Finding::Value(finding) if findings.contains(&finding));
        self.audit.summary.findings.iter().any(is_one)
    }

    fn lost(&mut self, rows: &mut Rows<'_>) -> io::Result<()> {
        if !self.has(&LOST) {
            return Ok(());
        }
        self.heading(&[
            "What no API server can read: restore it from a backup, find its key, or delete it.",
            "",
            "Deleting loses the object for good, skips finalizers and admission, and may break what relies on it. Look for",
            "the missing key first. Of the two commands one is enough:",
            "",
            "* kubectl asks the API server, which refuses where it can read the object after all. It needs Kubernetes 1.32;",
            "  up to 1.36 the feature gate AllowUnsafeMalformedObjectDeletion of kube-apiserver must be set (off unless said",
            "  otherwise; on since 1.37), and always the verb unsafe-delete-ignore-read-errors beside delete on the resource.",
            "  Never try it with a dry run: up to 1.36 that deletes all the same.",
            "* etcdctl deletes the key itself, in any release.",
        ])?;
        self.deletions(rows, set(&LOST), FindingSet::default())
    }

    fn closed(&mut self, rows: &mut Rows<'_>) -> io::Result<()> {
        if !self.has(&CLOSED) {
            return Ok(());
        }
        self.heading(&[
            "What its KMS plugin does not open.",
            "",
            "Make the plugin work, and the key in the KMS available again, and audit once more with --kms. Only what is known to be",
            "lost for good is deleted, in one of two ways (kubectl from Kubernetes 1.32 on, up to 1.36 with the feature gate",
            "AllowUnsafeMalformedObjectDeletion, with the verb unsafe-delete-ignore-read-errors, never as a dry run; or etcdctl).",
        ])?;
        self.deletions(rows, set(&CLOSED), set(&LOST))
    }

    /// All objects with a finding, each with the commands that delete it; without those that were told before.
    fn deletions(&mut self, rows: &mut Rows<'_>, wanted: FindingSet, told: FindingSet) -> io::Result<()> {
        each(rows()?, self.audit, |row, verdict| {
            let wants = verdict.findings.meets(wanted) && !verdict.findings.meets(told);
            if row.record != RecordKind::Entry || !wants {
                return Ok(());
            }
            writeln!(self.out)?;
            self.object(row, verdict)?;
            if let Some(path) = api_path(row) {
                self.command(&format!("kubectl delete --raw {path}"))?;
            }
            self.command(&etcdctl_del(row.key))
        })
    }

    fn looked_at(&mut self, rows: &mut Rows<'_>) -> io::Result<()> {
        if !self.has(&LOOKED_AT) {
            return Ok(());
        }
        self.heading(&["What somebody must look at: no command mends it. What to do about each is said above."])?;
        let wanted = set(&LOOKED_AT);
        each(rows()?, self.audit, |row, verdict| {
            if row.record != RecordKind::Entry || !verdict.findings.meets(wanted) {
                return Ok(());
            }
            writeln!(self.out)?;
            self.object(row, verdict)
        })
    }

    fn rewritten(&mut self, rows: &mut Rows<'_>) -> io::Result<()> {
        let worn = self.worn();
        if !self.has(&REWRITTEN) && worn.is_empty() {
            return Ok(());
        }
        self.heading(&[
            "What must be written anew, by namespace.",
            "",
            "For weak-key, published-key, nonce-reuse and keys of gcm-write-limit a new key comes first: put it in front in",
            "the configuration of every API server, and restart them all. An object of a namespace that nobody can read stops",
            "kubectl for the whole namespace: mend those above before.",
        ])?;
        let (wanted, looked_at) = (set(&REWRITTEN), set(&LOOKED_AT));
        let mut last: Option<Folder> = None;
        each(rows()?, self.audit, |row, verdict| {
            let is_worn = verdict.provider.0 == "aesgcm" && worn.contains(verdict.key_name.as_ref());
            let wants = verdict.findings.meets(wanted) || is_worn;
            // What holds another object would be written over the wrong one.
            let served = verdict.opened_by.is_some() && !verdict.findings.meets(looked_at);
            if row.record != RecordKind::Entry || !wants || !served || row.resource.is_empty() {
                return Ok(());
            }
            if last.as_ref().is_none_or(|folder| !folder.holds(row)) {
                if let Some(folder) = last.replace(Folder::of(row)) {
                    self.rewrite(&folder)?;
                }
                writeln!(self.out)?;
            }
            self.object(row, verdict)?;
            if is_worn {
                self.say(&format!("    {}", Finding::GcmWriteLimit.id()))?;
            }
            Ok(())
        })?;
        if let Some(folder) = last {
            self.rewrite(&folder)?;
        }
        writeln!(self.out)?;
        self.say("Or without an API server: a new file, proved, beside the old one, in the form of the configuration behind --to.")?;
        let command = self.atrest_rewrite("", "rotated.db");
        self.command(&command)
    }

    /// Names of keys of aesgcm that may have been used too often.
    fn worn(&self) -> BTreeSet<String> {
        let limit = crate::audit::writes::LIMIT;
        let is_worn = |row: &&crate::audit::summary::KeyRow| row.writes.is_some_and(|writes| writes.at_most > limit);
        self.audit.summary.keys.iter().filter(is_worn).map(|row| row.id.key_name.clone()).collect()
    }

    /// The commands that write a resource of a namespace anew.
    fn rewrite(&mut self, folder: &Folder) -> io::Result<()> {
        let (Some(resource), Some(namespace)) = (folder.resource(), word(folder.namespace.as_bytes())) else {
            return Ok(());
        };
        let in_namespace = if folder.namespace.is_empty() { String::new() } else { format!(" -n {namespace}") };
        self.command(&format!("kubectl get {resource}{in_namespace} -o json | kubectl replace -f -"))?;
        if !folder.is_openshift {
            return Ok(());
        }
        self.say("  OpenShift 3 has a command of its own for it; OpenShift 4 migrates by itself when a new key is asked for.")?;
        let range = match folder.namespace.is_empty() {
            true => String::new(),
            false => {
                // The range ends before the character behind the slash.
                let bound =
                    |end: char| word(format!("{}{end}", folder.namespace).as_bytes()).map(|word| word.into_owned());
                let (Some(from), Some(to)) = (bound('/'), bound('0')) else { return Ok(()) };
                format!(" --from-key={from} --to-key={to}")
            }
        };
        self.command(&format!("oc adm migrate storage --include={resource}{range} --confirm"))
    }

    fn left_behind(&mut self, rows: &mut Rows<'_>) -> io::Result<()> {
        if !self.has(&LEFT_BEHIND) {
            return Ok(());
        }
        self.heading(&["What older revisions and free pages still hold. These:", ""])?;
        let wanted = set(&LEFT_BEHIND);
        each(rows()?, self.audit, |row, verdict| {
            let is_left = matches!(row.record, RecordKind::History | RecordKind::Residue);
            if !is_left || !verdict.findings.meets(wanted) {
                return Ok(());
            }
            let ids: Vec<_> = verdict.findings.iter().map(ValueFinding::id).collect();
            self.say(&format!("{} at revision {}: {}", key(row.key), row.mod_revision, ids.join(", ")))
        })?;
        writeln!(self.out)?;
        if self.facts.kind == "kine" {
            self.say("kine compacts by itself, but not its last 1000 revisions, and a row keeps the value before it (old_value)")?;
            self.say("until its key is written once more. A copy of the store without both:")?;
            let command = self.atrest_rewrite(" --drop-history", "scrubbed.db");
            return self.command(&command);
        }
        self.say("Older revisions leave the tree with a compaction, and their bytes leave the file with a defragmentation, which")?;
        self.say("halts each member while it lasts: one after another, the leader last. Rewrite the objects first where they are")?;
        self.say("still in that form. Backups that were taken before keep everything.")?;
        self.command(&format!("etcdctl compact --physical {}", self.audit.revision))?;
        self.command("etcdctl defrag --cluster")?;
        self.command("etcdctl snapshot save scrubbed.db")?;
        self.say("Or a copy of this file without them:")?;
        let command = self.atrest_rewrite(" --drop-history", "scrubbed.db");
        self.command(&command)
    }

    /// An object, and what is wrong with it.
    fn object(&mut self, row: &Row<'_>, verdict: &RowVerdict<'_>) -> io::Result<()> {
        self.say(&key(row.key))?;
        let ids: Vec<_> = verdict.findings.iter().map(ValueFinding::id).collect();
        let detail = harmless(verdict.detail);
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        if ids.is_empty() && detail.is_empty() {
            return Ok(());
        }
        self.say(&format!("    {}{detail}", ids.join(", ")))
    }

    fn source(&self) -> String {
        let path = self.facts.path.as_str();
        let path = if path == "-" { "snapshot.db" } else { path };
        word(path.as_bytes()).map_or_else(|| "snapshot.db".to_owned(), |word| word.into_owned())
    }

    /// This program's own way to write everything anew.
    fn atrest_rewrite(&self, more: &str, output: &str) -> String {
        let mut command = format!("atrest rewrite {}", self.source());
        let configs: Vec<_> = self.audit.context.rules.files().filter_map(|(path, _)| word(path.as_bytes())).collect();
        for config in &configs {
            command.push_str(&format!(" -c {config}"));
        }
        match configs.is_empty() {
            true => command.push_str(" -c CONFIG --to CONFIG"),
            false => configs.iter().for_each(|config| command.push_str(&format!(" --to {config}"))),
        }
        format!("{command}{more} -o {output}")
    }
}

/// A resource of a namespace: what one command writes anew.
struct Folder {
    group: String,
    resource: String,
    namespace: String,
    is_openshift: bool,
}

impl Folder {
    fn of(row: &Row<'_>) -> Self {
        Self {
            group: row.group.to_owned(),
            resource: row.resource.to_owned(),
            namespace: row.namespace.to_owned(),
            is_openshift: is_openshift(row.key),
        }
    }

    fn holds(&self, row: &Row<'_>) -> bool {
        (self.group.as_str(), self.resource.as_str(), self.namespace.as_str(), self.is_openshift)
            == (row.group, row.resource, row.namespace, is_openshift(row.key))
    }

    /// The resource as kubectl takes it.
    fn resource(&self) -> Option<String> {
        let name = match self.group.as_str() {
            "" => self.resource.clone(),
            group => format!("{}.{group}", self.resource),
        };
        word(name.as_bytes()).map(|word| word.into_owned())
    }
}

/// Where OpenShift's API servers keep their objects.
fn is_openshift(key: &[u8]) -> bool {
    key.starts_with(b"/kubernetes.io/") || key.starts_with(b"/openshift.io/")
}

/// The path of an object in the API with the option to delete it unread, as a word; none for what has no such path.
fn api_path(row: &Row<'_>) -> Option<String> {
    let (resource, name) = (url_segment(row.resource)?, url_segment(row.name)?);
    let namespace = match row.namespace {
        "" => String::new(),
        namespace => format!("/namespaces/{}", url_segment(namespace)?),
    };
    let object = format!("{namespace}/{resource}/{name}?ignoreStoreReadErrorWithClusterBreakingPotential=true");
    match row.group {
        "" => Some(format!("'/api/v1{object}'")),
        group => {
            let (group, resource) = (word(group.as_bytes())?, word(row.resource.as_bytes())?);
            Some(format!("\"/apis/$(api_version {group} {resource})\"'{object}'"))
        }
    }
}

/// The command that deletes exactly this key.
fn etcdctl_del(key: &[u8]) -> String {
    match word(key) {
        Some(word) => format!("etcdctl del -- {word}"),
        // No argument holds a NUL, but a transaction is read from standard input: no comparison, then this, then nothing.
        None => format!("printf '%s\\n' '' 'del -- {}' '' '' | etcdctl txn", go_string(key)),
    }
}

/// Gives all rows that have a verdict to `visit`, in order.
fn each(
    mut rows: Merge,
    audit: &Audit,
    mut visit: impl FnMut(&Row<'_>, &RowVerdict<'_>) -> io::Result<()>,
) -> io::Result<()> {
    while let Some(part) = rows.next_part()? {
        for row in part.read()?.iter(&audit.context) {
            if let Some(verdict) = &row.verdict {
                visit(&row, verdict)?;
            }
        }
    }
    Ok(())
}
