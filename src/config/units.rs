//! How sizes, shares of memory, durations and durability are written in settings.

use std::time::Duration;

use crate::store::Durability;

/// Units of a size and the bytes that each stands for. `K`, `M`, `G` alone mean the binary unit,
/// as most servers read them.
const SIZE_UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

/// An amount of memory: fixed, or a share of what the machine or container allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths, 1 to 100.
    Percent(u64),
}

/// Bytes of a size such as `8MiB`, `64 KB` or `1048576`; whole numbers only.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor);
    match (number.parse::<u64>(), factor) {
        (Ok(number), Some(factor)) => number
            .checked_mul(factor)
            .ok_or_else(|| "a size below 16 EiB is expected".to_owned()),
        _ => Err(
            "a size is expected: bytes, or a whole number with KiB, MiB, GiB (1024) or \
                  KB, MB, GB (1000)"
                .to_owned(),
        ),
    }
}

/// Hundredths of a factor such as `0.5` or `2`, with at most two digits behind the point.
pub(super) fn hundredths(text: &str) -> Result<u64, String> {
    let expected = || "a factor is expected, such as 0.5 or 2: at most two digits behind the point";
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
    let digits = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.to_owned())
    };
    let number = digits(whole).zip(digits(part).filter(|part| part.len() <= 2));
    number
        .and_then(|(whole, part)| format!("{whole}{part:0<2}").parse().ok())
        .ok_or_else(|| expected().to_owned())
}

/// A plain whole number.
pub(super) fn count(text: &str) -> Result<u64, String> {
    text.trim()
        .parse()
        .map_err(|_| "a whole number is expected".to_owned())
}

/// A duration such as `10m` or `1h 30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|error| format!("a duration such as 10m or 1h 30m is expected: {error}"))
}

/// `always`, `os` or `interval=<duration>`.
pub(super) fn durability(text: &str) -> Result<Durability, String> {
    match text.trim() {
        "always" => Ok(Durability::Always),
        "os" => Ok(Durability::Os),
        other => match other.strip_prefix("interval=").map(duration) {
            Some(Ok(interval)) => Ok(Durability::Interval(interval)),
            Some(Err(problem)) => Err(problem),
            None => Err("always, os or interval=<duration> is expected".to_owned()),
        },
    }
}

/// A size, or a share such as `75%`.
pub(super) fn memory(text: &str) -> Result<Memory, String> {
    match text.trim().strip_suffix('%') {
        None => size(text).map(Memory::Bytes),
        Some(share) => match share.trim().parse() {
            Ok(percent @ 1..=100) => Ok(Memory::Percent(percent)),
            _ => Err("a share between 1% and 100% is expected".to_owned()),
        },
    }
}

/// Durability as it is written in settings.
pub(super) fn durability_text(durability: Durability) -> String {
    match durability {
        Durability::Always => "always".to_owned(),
        Durability::Os => "os".to_owned(),
        Durability::Interval(interval) => {
            format!("interval={}", humantime::format_duration(interval))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_have_two_digits_behind_the_point() {
        for (text, expected) in [
            ("0.5", Some(50)),
            ("2", Some(200)),
            (" 1.25 ", Some(125)),
            ("0.05", Some(5)),
            ("", None),
            (".5", None),
            ("0.", None),
            ("0.125", None),
            ("-1", None),
            ("1e3", None),
            ("half", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(hundredths(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_whole_numbers_with_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("8MiB", 8 << 20),
            ("1 KiB", 1 << 10),
            ("64KB", 64_000),
            ("2g", 2 << 30),
            (" 5 mb ", 5_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text:?}");
        }
        for text in [
            "",
            "MiB",
            "1.5MiB",
            "-1",
            "+1",
            "1 2",
            "8 MiBs",
            "99999999999999999999",
            "16777216TiB",
        ] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn memory_is_a_size_or_a_share() {
        assert_eq!(memory("75%"), Ok(Memory::Percent(75)));
        assert_eq!(memory("1GiB"), Ok(Memory::Bytes(1 << 30)));
        for text in ["0%", "101%", "%", "-5%", "seventy"] {
            assert!(memory(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durability_reads_as_it_is_shown() {
        for mode in [
            Durability::Always,
            Durability::Os,
            Durability::Interval(Duration::from_millis(1_500)),
        ] {
            assert_eq!(durability(&durability_text(mode)), Ok(mode));
        }
        for text in ["", "never", "interval", "interval=", "interval=5", "Always"] {
            assert!(durability(text).is_err(), "{text:?}");
        }
    }
}
