//! Agreement with kube-apiserver's own answers, and hostile input.
//!
//! `testdata/configs` holds what kube-apiserver 1.34 says of 600 configurations, and of one configuration in 217 dresses
//! of YAML, with KMS v1 allowed.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Fixture {
    text: String,
    error: Option<String>,
    prefix: Option<String>,
}

fn fixtures(name: &str) -> Vec<Fixture> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/configs").join(name);
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const DECODING: &str = "error while parsing file: error decoding encryption provider configuration file \"PATH\": ";
const PARSING: &str = "error while parsing file: ";
const BUILDING: &str = "error while building transformers: ";

/// The stage and the rest of upstream's message.
fn stage_of(error: &str) -> (Stage, &str) {
    if let Some(rest) = error.strip_prefix(BUILDING) {
        (Stage::Transformers, rest)
    } else if let Some(rest) = error.strip_prefix(DECODING) {
        let stage = if rest.starts_with("strict decoding error: ") {
            Stage::Strict
        } else if rest.starts_with("yaml: ")
            || rest.contains("json parse error: ") && !rest.contains("cannot unmarshal")
        {
            Stage::Syntax
        } else if rest.starts_with("no kind") || rest.starts_with("Object '") || rest.contains("get version/kind") {
            Stage::Kind
        } else if rest.starts_with("json: unsupported value") {
            Stage::Syntax
        } else {
            Stage::Decode
        };
        (stage, rest.strip_prefix("strict decoding error: ").unwrap_or(rest))
    } else if error.ends_with("is empty") {
        (Stage::File, error)
    } else {
        (Stage::Validation, error.strip_prefix(PARSING).unwrap())
    }
}

/// Leaves the values out of a list of field errors: upstream quotes them as Go or JSON between `Invalid value: ` and the
/// message.
fn without_values(errors: &str) -> String {
    let mut out = String::new();
    let mut rest = errors;
    while let Some((before, after)) = rest.split_once("Invalid value: ") {
        out.push_str(before);
        out.push_str("Invalid value: ");
        rest = after.get(value_length(after)..).unwrap().strip_prefix(": ").unwrap();
    }
    out.push_str(rest);
    out
}

/// How long the quoted value is: a string, or JSON, or a bare word.
fn value_length(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            ':' if !quoted && depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

/// The list of field errors as upstream aggregates it.
fn aggregate(errors: &[Complaint]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    if let [one] = texts.as_slice() { one.clone() } else { format!("[{}]", texts.join(", ")) }
}

/// The unknown and repeated fields, as upstream lists them.
fn strict_list(errors: &[Complaint]) -> String {
    let mut list = Vec::new();
    let repeats: Vec<_> = errors.iter().filter(|error| error.path.is_empty()).collect();
    if !repeats.is_empty() {
        let lines: Vec<_> =
            repeats.iter().map(|error| format!("\n  line {}: {}", error.line.unwrap(), error.message)).collect();
        list.push(format!("yaml: unmarshal errors:{}", lines.concat()));
    }
    let fields = errors.iter().filter(|error| !error.path.is_empty());
    list.extend(fields.map(|error| format!("{} \"{}\"", error.message, error.path)));
    list.join(", ")
}

/// Masks the endpoints that Go's URL errors quote.
fn without_urls(errors: &str) -> String {
    let mut pieces = errors.split("error: parse \"");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (_, after) = piece.split_once("\": ").unwrap();
        out.push_str("error: parse \"REDACTED\": ");
        out.push_str(after);
    }
    out
}

fn compare(number: usize, fixture: &Fixture, check: &Check) -> Result<(), String> {
    let found = aggregate(&check.errors);
    let Some(error) = &fixture.error else {
        return if check.accepted { Ok(()) } else { Err(format!("{number}: accepted upstream: {found}")) };
    };
    let (stage, message) = stage_of(error);
    let Some(first) = check.errors.first() else {
        return Err(format!("{number}: refused upstream: {error}"));
    };
    if check.errors.iter().any(|error| error.stage != stage) {
        return Err(format!("{number}: {stage:?} upstream, {:?} here: {error} against {found}", first.stage));
    }
    let (expected, found) = match stage {
        Stage::Validation => {
            (without_urls(&without_values(message)), found.replace("Invalid value: ", "Invalid value: "))
        }
        Stage::Transformers => (message.to_owned(), first.message.clone()),
        Stage::Strict => (message.to_owned(), strict_list(&check.errors)),
        Stage::Kind if message.starts_with("no kind") => {
            (message.split(" in scheme").next().unwrap().to_owned(), first.message.clone())
        }
        Stage::Kind if message.starts_with("Object '") => {
            (message.split(" in '").next().unwrap().to_owned(), first.message.clone())
        }
        _ => return Ok(()),
    };
    if expected == found { Ok(()) } else { Err(format!("{number}:\n  {expected}\n  {found}")) }
}

fn all_agree(name: &str) {
    let mut wrong = Vec::new();
    for (number, fixture) in fixtures(name).iter().enumerate() {
        wrong.extend(compare(number, fixture, &check(fixture.text.as_bytes())).err());
    }
    assert!(wrong.is_empty(), "{} disagree:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn six_hundred_configurations_are_judged_as_kube_apiserver_does() {
    all_agree("configs.jsonl");
}

#[test]
fn yaml_in_all_its_dresses_is_judged_as_kube_apiserver_does() {
    all_agree("yaml.jsonl");
}
