//! Durations such as `3s`, `100ms`, `1m30s`, as Go's `time.ParseDuration` reads them.

/// Nanoseconds, or why it is no duration; the reason quotes nothing.
pub(super) fn parse(text: &str) -> Result<i64, &'static str> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err("invalid duration");
    }
    let mut total: u64 = 0;
    let mut rest = rest;
    while !rest.is_empty() {
        let (nanos, after) = element(rest)?;
        total = total.checked_add(nanos).filter(|total| *total <= 1 << 63).ok_or("invalid duration")?;
        rest = after;
    }
    match i64::try_from(total) {
        Ok(nanos) if negative => Ok(-nanos),
        Ok(nanos) => Ok(nanos),
        Err(_) if negative => Ok(i64::MIN),
        Err(_) => Err("invalid duration"),
    }
}

/// One number with its unit, and what follows it.
fn element(text: &str) -> Result<(u64, &str), &'static str> {
    let (whole, rest) = split(text, |byte| byte.is_ascii_digit());
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split(rest, |byte| byte.is_ascii_digit()),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err("invalid duration");
    }
    let (unit, rest) = split(rest, |byte| byte != b'.' && !byte.is_ascii_digit());
    let unit: u64 = match unit {
        "" => return Err("missing unit in duration"),
        "ns" => 1,
        // The micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err("unknown unit in duration"),
    };
    let value = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| "invalid duration")? };
    let nanos = value.checked_mul(unit).filter(|nanos| *nanos <= 1 << 63).ok_or("invalid duration")?;
    let (digits, scale) = leading_fraction(fraction);
    let nanos = nanos.saturating_add((digits as f64 * (unit as f64 / scale)) as u64);
    if nanos > 1 << 63 { Err("invalid duration") } else { Ok((nanos, rest)) }
}

/// As many digits of a fraction as fit, and the power of ten below them.
fn leading_fraction(text: &str) -> (u64, f64) {
    let (mut digits, mut scale) = (0u64, 1.0);
    for byte in text.bytes() {
        let next = digits.checked_mul(10).and_then(|digits| digits.checked_add(u64::from(byte.wrapping_sub(b'0'))));
        match next {
            Some(next) if next <= 1 << 63 => digits = next,
            _ => break,
        }
        scale *= 10.0;
    }
    (digits, scale)
}

fn split(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    let length = text.bytes().take_while(|byte| belongs(*byte)).count();
    text.split_at_checked(length).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("3s", Ok(3_000_000_000)),
            ("1m30s", Ok(90_000_000_000)),
            ("100ms", Ok(100_000_000)),
            ("1.5h", Ok(5_400_000_000_000)),
            (".5s", Ok(500_000_000)),
            ("1.s", Ok(1_000_000_000)),
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("-1s", Ok(-1_000_000_000)),
            ("+1\u{b5}s", Ok(1_000)),
            ("9223372036854775807ns", Ok(i64::MAX)),
            ("-9223372036854775808ns", Ok(i64::MIN)),
            ("9223372036854775808ns", Err("invalid duration")),
            ("3", Err("missing unit in duration")),
            ("1d", Err("unknown unit in duration")),
            ("", Err("invalid duration")),
            ("-", Err("invalid duration")),
            (".s", Err("invalid duration")),
            ("s", Err("invalid duration")),
            ("3 s", Err("unknown unit in duration")),
            ("99999999999h", Err("invalid duration")),
        ] {
            assert_eq!(parse(text), nanos, "{text:?}");
        }
    }
}
