//! Quantities (`100m`, `1.5Gi`, `2e3`) in the form in which API servers print them.
//!
//! The canonical form keeps the kind of suffix, has no fraction, and the largest suffix that allows it: `1.5Gi` is `1536Mi`,
//! `0.5` is `500m`. What upstream's reader keeps as it was written (`1E3`, `+1`) is kept here, too.
//!
//! Upstream: `ParseQuantity` and `CanonicalizeBytes` in `pkg/api/resource/quantity.go` of `kubernetes/apimachinery`.

/// Longer strings are shown as they are; no API server writes any.
const MAX_BYTES: usize = 64;

/// The scale of the smallest unit, nano.
const NANO: i32 = -9;

/// Decimal digits that an i64 always has room for.
const FAST_DIGITS: i32 = 18;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Suffix {
    Binary,
    Decimal,
    Exponent,
}

/// The parts of a quantity as it was written.
struct Parts<'q> {
    negative: bool,
    integer: &'q str,
    fraction: &'q str,
    suffix: Suffix,
    /// Of ten, or of two.
    exponent: i32,
}

/// The canonical form; none for what is no quantity, or is beyond what API servers write.
pub(super) fn canonical(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > MAX_BYTES {
        return None;
    }
    let parts = parse(text)?;
    if is_kept(&parts) {
        return Some(text.to_owned());
    }
    let digits = format!("{}{}", parts.integer, parts.fraction);
    let mantissa: i128 = digits.parse().ok()?;
    let scale = -i32::try_from(parts.fraction.len()).ok()?;
    let text = match parts.suffix {
        Suffix::Binary => binary(&parts, mantissa, scale)?,
        suffix => {
            let (mantissa, scale) = round_up(mantissa, scale.checked_add(parts.exponent)?)?;
            decimal(mantissa, scale, suffix)
        }
    };
    Some(if parts.negative && text != "0" { format!("-{text}") } else { text })
}

fn parse(text: &str) -> Option<Parts<'_>> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (integer, rest) = digits(rest);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    let (suffix, exponent) = suffix(rest)?;
    let integer = integer.trim_start_matches('0');
    let integer = if integer.is_empty() { "0" } else { integer };
    Some(Parts { negative, integer, fraction, suffix, exponent })
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn suffix(text: &str) -> Option<(Suffix, i32)> {
    Some(match text {
        "Ki" => (Suffix::Binary, 10),
        "Mi" => (Suffix::Binary, 20),
        "Gi" => (Suffix::Binary, 30),
        "Ti" => (Suffix::Binary, 40),
        "Pi" => (Suffix::Binary, 50),
        "Ei" => (Suffix::Binary, 60),
        "n" => (Suffix::Decimal, -9),
        "u" => (Suffix::Decimal, -6),
        "m" => (Suffix::Decimal, -3),
        "" => (Suffix::Decimal, 0),
        "k" => (Suffix::Decimal, 3),
        "M" => (Suffix::Decimal, 6),
        "G" => (Suffix::Decimal, 9),
        "T" => (Suffix::Decimal, 12),
        "P" => (Suffix::Decimal, 15),
        "E" => (Suffix::Decimal, 18),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            (Suffix::Exponent, Some(exponent).filter(|exponent| exponent.abs() < 1000)?)
        }
    })
}

/// Whether upstream keeps the string, since it looks canonical already.
fn is_kept(parts: &Parts<'_>) -> bool {
    let written = format!("{}{}", parts.integer, parts.fraction);
    let length = i32::try_from(written.len()).unwrap_or(i32::MAX);
    let Ok(value) = written.parse::<i64>() else { return false };
    let scale = -i32::try_from(parts.fraction.len()).unwrap_or(0);
    match parts.suffix {
        Suffix::Binary => {
            let room = 15 - length - (f64::from(parts.exponent) * 0.3) as i32 - 1;
            parts.fraction.is_empty() && room >= 0 && value & 7 != 0
        }
        Suffix::Decimal | Suffix::Exponent => {
            let scale = scale + parts.exponent;
            length <= FAST_DIGITS
                && scale >= NANO
                && scale % 3 == 0
                && !written.ends_with("000")
                && !written.starts_with('0')
        }
    }
}

/// What is finer than nano is rounded away from zero.
fn round_up(mut mantissa: i128, mut scale: i32) -> Option<(i128, i32)> {
    let mut lost = false;
    while scale < NANO && mantissa != 0 {
        lost |= mantissa % 10 != 0;
        mantissa /= 10;
        scale += 1;
    }
    Some(if lost { (mantissa.checked_add(1)?, NANO.max(scale)) } else { (mantissa, scale) })
}

/// With the largest power of 1024 that leaves a whole number; small or broken numbers are shown as decimals, and what is
/// beyond 63 bits as the last number that has so many.
fn binary(parts: &Parts<'_>, mantissa: i128, scale: i32) -> Option<String> {
    let greatest = i128::from(i64::MAX);
    let factor = 1_i128.checked_shl(u32::try_from(parts.exponent).ok()?)?;
    let is_beyond =
        parts.integer.parse::<i128>().ok().and_then(|whole| whole.checked_mul(factor)).is_none_or(|n| n > greatest);
    let (mantissa, scale) = if is_beyond { (greatest, 0) } else { round_up(mantissa.checked_mul(factor)?, scale)? };
    let one = 10_i128.checked_pow(scale.unsigned_abs())?;
    if mantissa % one != 0 || mantissa / one < 1024 {
        return Some(decimal(mantissa, scale, Suffix::Decimal));
    }
    let mut number = mantissa / one;
    let mut power = 0;
    while number % 1024 == 0 && power < 6 {
        number /= 1024;
        power += 1;
    }
    let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].get(power)?;
    Some(format!("{number}{suffix}"))
}

/// With the largest exponent that is a multiple of three and leaves a whole number.
fn decimal(mut mantissa: i128, mut scale: i32, suffix: Suffix) -> String {
    if mantissa == 0 {
        return "0".to_owned();
    }
    while mantissa % 10 == 0 {
        mantissa /= 10;
        scale += 1;
    }
    while scale.rem_euclid(3) != 0 {
        mantissa = mantissa.saturating_mul(10);
        scale -= 1;
    }
    if suffix == Suffix::Exponent && scale != 0 {
        return format!("{mantissa}e{scale}");
    }
    let letter = match scale {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        // Upstream has no letter for more, and prints none.
        _ => "",
    };
    format!("{mantissa}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_printed_as_upstreams_own_code_prints_them() {
        for line in include_str!("../../../testdata/kube/quantities.tsv").lines() {
            let (given, expected) = line.split_once('\t').unwrap();
            assert_eq!(canonical(given).as_deref().unwrap_or("ERR"), expected, "{given}");
        }
    }

    #[test]
    fn quantities_are_printed_in_their_canonical_form() {
        for (given, expected) in [
            ("0", "0"),
            ("0.0", "0"),
            ("1", "1"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("0.1Ki", "102400m"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("512Ki", "512Ki"),
            ("1000Ki", "1000Ki"),
            ("2e3", "2e3"),
            ("20e2", "2e3"),
            ("1E3", "1E3"),
            ("1500m", "1500m"),
            ("1000m", "1"),
            ("10000", "10k"),
            ("-3", "-3"),
            ("-0.3", "-300m"),
            ("4294967296", "4294967296"),
            ("0.0000000001", "1n"),
            ("1.0000000001", "1000000001n"),
            (".5", "500m"),
            ("8Ki", "8Ki"),
            ("16Ei", "9223372036854775807"),
            ("12345678901234567890", "12345678901234567890"),
        ] {
            assert_eq!(canonical(given).as_deref(), Some(expected), "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for text in ["", "abc", "1x", "1 ", "1e", "1ee3", "--1", "1.2.3", &"9".repeat(65)] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }
}
