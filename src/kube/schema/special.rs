//! The types whose JSON form is code and not tags: times, durations, quantities, numbers that may be strings.
//!
//! Each reads the fields of its message and writes one JSON value; false for a message that has other fields than these,
//! which is then shown as unknown.
//!
//! Upstream: `time_proto.go`, `micro_time_proto.go`, `duration.go` in `pkg/apis/meta/v1`, `pkg/util/intstr` and
//! `pkg/api/resource` of `kubernetes/apimachinery`.

use super::quantity;
use super::wire::{Fault, Fields, Value};
use super::write::{number, string, two_digits};

const SECONDS_PER_DAY: i64 = 86_400;

/// How exactly a time is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    Second,
    Microsecond,
}

/// Writes a Timestamp `{1: seconds, 2: nanos}`; an empty one is the zero time, which is null.
pub(super) fn time<'p>(message: &'p [u8], precision: Precision, out: &mut Vec<u8>) -> Result<bool, Fault<'p>> {
    if message.is_empty() {
        out.extend_from_slice(b"null");
        return Ok(true);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields(message) {
        match field? {
            (1, Value::Varint(value)) => seconds = value.cast_signed(),
            (2, Value::Varint(value)) => nanos = value as i32,
            _ => return Ok(false),
        }
    }
    // As Go's time.Unix, which carries nanoseconds beyond a second over.
    let seconds = seconds.saturating_add(i64::from(nanos.div_euclid(1_000_000_000)));
    let micros = nanos.rem_euclid(1_000_000_000) / 1000;
    rfc3339(seconds, (precision == Precision::Microsecond).then_some(micros), out);
    Ok(true)
}

/// Writes a moment in UTC.
pub(super) fn rfc3339(seconds: i64, micros: Option<i32>, out: &mut Vec<u8>) {
    let (year, month, day) = date(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    out.push(b'"');
    if (0..10_000).contains(&year) {
        two_digits(out, year / 100);
        two_digits(out, year);
    } else {
        let sign = if year < 0 { "-" } else { "" };
        number(out, format_args!("{sign}{:04}", year.unsigned_abs()));
    }
    for (mark, part) in [(b'-', month), (b'-', day), (b'T', hour), (b':', minute), (b':', second)] {
        out.push(mark);
        two_digits(out, part);
    }
    if let Some(micros) = micros {
        number(out, format_args!(".{micros:06}"));
    }
    out.extend_from_slice(b"Z\"");
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar of all times: years begin in March
/// here, so that the leap day is the last one.
fn date(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_month)
}

/// Writes a Duration `{1: nanoseconds}` as Go's `Duration.String` does.
pub(super) fn duration<'p>(message: &'p [u8], out: &mut Vec<u8>) -> Result<bool, Fault<'p>> {
    let mut nanos = 0;
    for field in Fields(message) {
        match field? {
            (1, Value::Varint(value)) => nanos = value.cast_signed(),
            _ => return Ok(false),
        }
    }
    number(out, format_args!("\"{}\"", go_duration(nanos)));
    Ok(true)
}

fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let left = nanos.unsigned_abs();
    let part = |unit: u64, name: &str| format!("{sign}{}{name}", with_fraction(left, unit));
    match left {
        0 => "0s".to_owned(),
        1..1_000 => part(1, "ns"),
        1_000..1_000_000 => part(1_000, "µs"),
        1_000_000..1_000_000_000 => part(1_000_000, "ms"),
        _ => {
            let minutes = left / 60_000_000_000;
            let seconds = with_fraction(left % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// A number of units, without zeros at its end.
fn with_fraction(value: u64, unit: u64) -> String {
    let digits = unit.ilog10() as usize;
    let fraction = format!("{:0digits$}", value % unit);
    let fraction = if digits == 0 { "" } else { fraction.trim_end_matches('0') };
    let whole = value / unit;
    if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") }
}

/// Writes a Quantity `{1: string}` in its canonical form; one that is none is shown as it is.
pub(super) fn quantity<'p>(message: &'p [u8], out: &mut Vec<u8>) -> Result<bool, Fault<'p>> {
    let mut text: &[u8] = b"0";
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(bytes)) => text = bytes,
            _ => return Ok(false),
        }
    }
    match std::str::from_utf8(text).ok().and_then(quantity::canonical) {
        Some(canonical) => string(canonical.as_bytes(), out),
        None => string(text, out),
    }
    Ok(true)
}

/// Writes an IntOrString `{1: type, 2: number, 3: string}`.
pub(super) fn int_or_string<'p>(message: &'p [u8], out: &mut Vec<u8>) -> Result<bool, Fault<'p>> {
    let (mut kind, mut value, mut text): (u64, i32, &[u8]) = (0, 0, b"");
    for field in Fields(message) {
        match field? {
            (1, Value::Varint(given)) => kind = given,
            (2, Value::Varint(given)) => value = given as i32,
            (3, Value::Bytes(bytes)) => text = bytes,
            _ => return Ok(false),
        }
    }
    match kind {
        0 => number(out, value),
        1 => string(text, out),
        // Upstream refuses to write it.
        _ => return Ok(false),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn moment(seconds: i64, expected: &str) {
        let mut out = Vec::new();
        rfc3339(seconds, None, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("\"{expected}\""));
    }

    #[test]
    fn moments_of_all_times() {
        moment(0, "1970-01-01T00:00:00Z");
        moment(951_782_399, "2000-02-28T23:59:59Z");
        moment(951_782_400, "2000-02-29T00:00:00Z");
        moment(4_107_542_400, "2100-03-01T00:00:00Z");
        moment(-1, "1969-12-31T23:59:59Z");
        moment(-62_135_596_800, "0001-01-01T00:00:00Z");
        moment(253_402_300_800, "10000-01-01T00:00:00Z");
        moment(i64::MAX, "292277026596-12-04T15:30:07Z");
        rfc3339(i64::MIN, Some(1), &mut Vec::new());
    }

    #[test]
    fn the_zero_time_is_null_and_another_first_second_is_not() {
        let written = |message: &[u8], precision| {
            let mut out = Vec::new();
            assert!(time(message, precision, &mut out).unwrap());
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(b"", Precision::Second), "null");
        assert_eq!(written(b"\x08\x00\x10\x00", Precision::Second), "\"1970-01-01T00:00:00Z\"");
        assert_eq!(written(b"\x08\x01\x10\xc0\x84\x3d", Precision::Microsecond), "\"1970-01-01T00:00:01.001000Z\"");
        assert!(!time(b"\x18\x01", Precision::Second, &mut Vec::new()).unwrap());
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanos, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (-90_000_000_000, "-1m30s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(go_duration(nanos), expected);
        }
    }
}
