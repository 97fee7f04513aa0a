//! Sizes and durations as people write them.

use std::time::Duration;

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
];

const DURATIONS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
];

/// How a size is written, for messages.
pub const SIZE_FORM: &str =
    "a size such as 65536, \"64MiB\" or \"1.5GiB\" (units B, KiB, MiB, GiB, TiB; K, M, G, T mean the same)";
/// How a duration is written, for messages.
pub const DURATION_FORM: &str =
    "a duration such as \"10s\", \"500ms\" or \"1.5h\" (units ns, us, ms, s, m, h)";

/// A decimal number with an optional fraction, times the factor of its unit; exact, `None` if it does not fit.
fn scaled(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Option<u64> {
    let text = text.trim();
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(number_end)?;
    let unit = unit.trim_start();
    let factor = match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => bare?,
        None => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    // `parse` refuses a second dot; a leading sign never gets here.
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let scale = 10u128.pow(fraction.len() as u32);
    let fraction = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / scale;
    whole.checked_add(u64::try_from(fraction).ok()?)
}

/// Parses a size: an integer with an optional unit, or a decimal fraction of a unit. See [`SIZE_FORM`].
pub fn parse_size(text: &str) -> Option<u64> {
    scaled(text, SIZES, Some(1))
}

/// Parses a duration; the unit is mandatory. See [`DURATION_FORM`].
pub fn parse_duration(text: &str) -> Option<Duration> {
    scaled(text, DURATIONS, None).map(Duration::from_nanos)
}

/// A size in the largest unit that divides it.
pub fn format_size(bytes: u64) -> String {
    for (unit, factor) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// A duration in the largest unit that divides it.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, factor) in [
        ("h", 3600 * 1_000_000_000u128),
        ("m", 60 * 1_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ] {
        if nanos >= factor && nanos.is_multiple_of(factor) {
            return format!("{}{unit}", nanos / factor);
        }
    }
    format!("{nanos}ns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65536),
            ("1B", 1),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("1 GiB", 1 << 30),
            ("0.000000001K", 0),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "GiB",
            "-1",
            "+1",
            "1GB",
            "1gib",
            "1..5K",
            "1.5.5K",
            ".5K",
            "5.K",
            "16777216TiB",
            "1e9",
            "9".repeat(40).as_str(),
            "1.0000000001K",
            "١K",
            "1K1",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("10s", 10_000_000_000),
            ("500ms", 500_000_000),
            ("1.5h", 5_400_000_000_000),
            ("0s", 0),
            ("7ns", 7),
            ("2 m", 120_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["10", "", "s", "-1s", "1sec", "1M", "999999999999h", "∞s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_formatted_parses_back() {
        for bytes in [0, 1, 1023, 1024, 65536, 1 << 30, (1 << 30) + 1, 5 << 40, u64::MAX] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
        for nanos in [0, 1, 999, 1000, 1_500_000, 60_000_000_000, 3_600_000_000_000, 90_000_000_000] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
    }
}
