//! YAML 1.1's scalars, as the YAML library behind kube-apiserver resolves them.
//!
//! Upstream: `go.yaml.in/yaml/v2/resolve.go`, and `sigs.k8s.io/yaml` for how they become JSON.

use zeroize::Zeroizing;

use super::base64;
use super::tree::{Text, Value, go_text};

/// A scalar with its type.
pub(super) enum Scalar {
    Null,
    Bool(bool),
    /// From -2^63 to 2^64-1.
    Integer(i128),
    Float(f64),
    Text(Text),
}

const TAG_PREFIX: &str = "tag:yaml.org,2002:";

/// The type of a scalar: by its tag, else by its text if it is plain. The reason of a refusal quotes nothing.
pub(super) fn resolve(text: &Text, plain: bool, tag: Option<&str>) -> Result<Scalar, String> {
    let Some(tag) = tag else {
        return Ok(if plain { by_text(text) } else { Scalar::Text(text.clone()) });
    };
    let scalar = by_text(text);
    match (tag.strip_prefix(TAG_PREFIX), scalar) {
        (Some("null"), Scalar::Null) => Ok(Scalar::Null),
        (Some("bool"), scalar @ Scalar::Bool(_)) => Ok(scalar),
        (Some("int"), scalar @ Scalar::Integer(_)) => Ok(scalar),
        (Some("float"), scalar @ Scalar::Float(_)) => Ok(scalar),
        // An unsigned number beyond 2^63 is not turned into a float.
        (Some("float"), Scalar::Integer(number)) if i64::try_from(number).is_ok() => Ok(Scalar::Float(number as f64)),
        (Some("timestamp"), _) if looks_like_timestamp(text) => Ok(Scalar::Text(text.clone())),
        (Some(name @ ("null" | "bool" | "int" | "float" | "timestamp")), _) => {
            Err(format!("the value does not fit its tag !!{name}"))
        }
        (Some("binary"), _) => match base64::decode(text) {
            Some(bytes) => Ok(Scalar::Text(go_text(&bytes))),
            None => Err("!!binary value contains invalid base64 data".to_owned()),
        },
        // `!!str`, and every tag that the library doesn't know.
        _ => Ok(Scalar::Text(text.clone())),
    }
}

fn by_text(text: &Text) -> Scalar {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    match text.as_bytes().first() {
        Some(b'.') => float(text),
        // No digit is skipped that a timestamp could hide: what begins with a year and a dash is no number either.
        Some(b'0'..=b'9' | b'+' | b'-') => {
            let digits = Zeroizing::new(text.replace('_', ""));
            integer(&digits).map(Scalar::Integer).or_else(|| float(&digits))
        }
        _ => None,
    }
    .unwrap_or_else(|| Scalar::Text(text.clone()))
}

/// As Go's `strconv.ParseInt` and then `ParseUint` with base 0: `0x`, `0b`, `0o` and a leading zero choose the base.
fn integer(text: &str) -> Option<i128> {
    let (negative, signed, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, true, text.get(1..)?),
        Some(b'+') => (false, true, text.get(1..)?),
        _ => (false, false, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
        [b'0', b'b' | b'B', ..] => (2, digits.get(2..)?),
        [b'0', b'o' | b'O', ..] => (8, digits.get(2..)?),
        [b'0', _, ..] => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    if !digits.bytes().all(|byte| char::from(byte).is_digit(base)) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).ok()?;
    let number = if negative { -number } else { number };
    let fits = i64::try_from(number).is_ok() || !signed && u64::try_from(number).is_ok();
    fits.then_some(number)
}

/// As Go's `strconv.ParseFloat`, without the words it knows and without hexadecimal; out of range is no float.
fn float(text: &str) -> Option<Scalar> {
    let well_formed = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let number: f64 = if well_formed { text.parse().ok()? } else { return None };
    number.is_finite().then_some(Scalar::Float(number))
}

/// Four digits, a dash, a month, and what else makes a date: upstream takes it for a string in any case, so this matters
/// only where the tag says `!!timestamp`.
fn looks_like_timestamp(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let year = parts.next().unwrap_or_default();
    let month = parts.next().unwrap_or_default();
    let rest = parts.next().unwrap_or_default();
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let day_length = rest.bytes().take_while(u8::is_ascii_digit).count();
    year.len() == 4 && digits(year) && digits(month) && month.len() <= 2 && (1..=2).contains(&day_length)
}

impl Scalar {
    /// As a value of the JSON that upstream makes of the YAML.
    pub(super) fn into_json(self) -> Result<Value, String> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Integer(number) => Value::Number(Zeroizing::new(number.to_string())),
            Self::Float(number) if number.is_finite() => Value::Number(Zeroizing::new(number.to_string())),
            Self::Float(_) => return Err("infinity and NaN have no place in JSON".to_owned()),
            Self::Text(text) => Value::Text(text),
        })
    }

    /// As an object's key.
    pub(super) fn into_key(self) -> Result<Text, String> {
        Ok(match self {
            Self::Null => return Err("null can't be a mapping's key".to_owned()),
            Self::Bool(value) => Zeroizing::new(value.to_string()),
            // Go hands out another type for what only an unsigned number holds, which is no key to upstream.
            Self::Integer(number) if i64::try_from(number).is_err() => {
                return Err("a number beyond 64 bits can't be a mapping's key".to_owned());
            }
            Self::Integer(number) => Zeroizing::new(number.to_string()),
            Self::Float(number) => Zeroizing::new(float_text(number)),
            Self::Text(text) => text,
        })
    }
}

/// A float as upstream makes text of it: Go's shortest form for 32 bits, with an exponent from 10^6 or below 10^-4.
pub(super) fn float_text(number: f64) -> String {
    let narrow = number as f32;
    if number.is_nan() {
        return ".nan".to_owned();
    }
    if narrow.is_infinite() {
        return if narrow > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let scientific = format!("{narrow:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return narrow.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}
