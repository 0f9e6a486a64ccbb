//! When a value expires: what a request may say, and how a deadline is shown.
//!
//! ```text
//! ttl      = seconds | duration | time
//! seconds  = digits                            a whole number; as JSON a number or a string
//! duration = digits unit { spaces digits unit }        1h30m, 1h 30m; each unit at most once
//! unit     = "ms" | "s" | "m" | "h" | "d" | "w"
//! time     = an RFC 3339 date-time             fractions of a millisecond are dropped
//! ```
//! A span of time is longer than 0 and at most 100 years. No TTL is `none` in a query and `null`
//! in JSON. Whether a time is in the future is not decided here: there is no clock.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// When a value expires, as the request said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// Never.
    None,
    /// This long after the store applies the command.
    After(Duration),
    /// At this time, in milliseconds since the Unix epoch; refused unless it is in the future.
    At(u64),
}

/// The longest span of time, in milliseconds: 100 years of 365.25 days.
pub const SPAN_MS_MAX: u64 = 36_525 * DAY_MS;

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The units, in the order of their bits in the set of those already used.
const UNITS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", SECOND_MS),
    ("m", MINUTE_MS),
    ("h", HOUR_MS),
    ("d", DAY_MS),
    ("w", 7 * DAY_MS),
];

const ALLOWED: &str = "allowed are a whole number of seconds (3600), a duration of ms, s, m, h, d \
                       and w (1h 30m), each more than 0 and at most 100 years, an RFC 3339 time in \
                       the future (2031-01-01T00:00:00Z), and none (null in JSON) for no expiry";

/// Why a TTL was refused; the sentence says what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TtlError {
    /// It is in none of the forms.
    #[error("the ttl is not understood: {}", ALLOWED)]
    Unknown,
    /// A unit stands in it twice.
    #[error("the ttl uses a unit twice: {}", ALLOWED)]
    RepeatedUnit,
    /// It is 0.
    #[error("the ttl is 0: {}", ALLOWED)]
    Zero,
    /// It is longer than [`SPAN_MS_MAX`].
    #[error("the ttl is longer than 100 years: {}", ALLOWED)]
    TooLong,
    /// It is a time before 1970.
    #[error("the ttl is a time before 1970: {}", ALLOWED)]
    BeforeEpoch,
}

/// Reads a TTL from text, as in `?ttl=1h`.
///
/// # Errors
/// See [`TtlError`].
pub fn parse_text(text: &str) -> Result<Ttl, TtlError> {
    if text == "none" {
        return Ok(Ttl::None);
    }
    parse_string(text)
}

/// Reads a TTL from the JSON text of a `ttl` member.
///
/// # Errors
/// See [`TtlError`].
pub fn parse_json(raw: &str) -> Result<Ttl, TtlError> {
    if raw == "null" {
        return Ok(Ttl::None);
    }
    if raw.starts_with('"') {
        return with_string(raw, parse_string);
    }
    parse_seconds(raw).map(Ttl::After)
}

/// What the member `ttl` at the top of a bare object means, given its JSON text: a whole number
/// of seconds or a string that is a span of time sets the expiry, anything else is data.
#[must_use]
pub fn bare_ttl(raw: &str) -> Ttl {
    let span = if raw.starts_with('"') {
        with_string(raw, parse_span)
    } else {
        parse_seconds(raw)
    };
    span.map_or(Ttl::None, Ttl::After)
}

/// A time in milliseconds since the Unix epoch as RFC 3339, in UTC and with three digits of
/// milliseconds. Times after the year 9999, which RFC 3339 cannot say, show as its last moment.
#[must_use]
pub fn format_rfc3339(ms: u64) -> String {
    let nanos = i128::from(ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).map_or_else(
        |_| String::from("9999-12-31T23:59:59.999Z"),
        |at| {
            format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second(),
                at.millisecond()
            )
        },
    )
}

fn with_string<T>(
    raw: &str,
    parse: impl FnOnce(&str) -> Result<T, TtlError>,
) -> Result<T, TtlError> {
    let text: String = serde_json::from_str(raw).map_err(|_| TtlError::Unknown)?;
    parse(&text)
}

fn parse_string(text: &str) -> Result<Ttl, TtlError> {
    // Only a date has a hyphen behind four digits.
    if text.as_bytes().get(4) == Some(&b'-') {
        return parse_time(text).map(Ttl::At);
    }
    parse_span(text).map(Ttl::After)
}

fn parse_span(text: &str) -> Result<Duration, TtlError> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return parse_seconds(text);
    }
    let mut rest = text;
    let mut total_ms = 0_u64;
    let mut used = [false; UNITS.len()];
    while !rest.is_empty() {
        let (count, after) = split_number(rest).ok_or(TtlError::Unknown)?;
        let unit_bytes = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(unit_bytes);
        let (&(_, unit_ms), used) = UNITS
            .iter()
            .zip(&mut used)
            .find(|((name, _), _)| *name == unit)
            .ok_or(TtlError::Unknown)?;
        if std::mem::replace(used, true) {
            return Err(TtlError::RepeatedUnit);
        }
        total_ms = total_ms.saturating_add(count.saturating_mul(unit_ms));
        rest = after.trim_start_matches(' ');
        if rest.is_empty() && !after.is_empty() {
            return Err(TtlError::Unknown);
        }
    }
    span(total_ms)
}

fn parse_seconds(text: &str) -> Result<Duration, TtlError> {
    match split_number(text) {
        Some((seconds, "")) => span(seconds.saturating_mul(SECOND_MS)),
        _ => Err(TtlError::Unknown),
    }
}

/// Splits off the digits at the beginning, if there are any. A number beyond 64 bits is as good
/// as the largest one: both are far too long.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    (digits > 0).then(|| (number.parse().unwrap_or(u64::MAX), rest))
}

fn span(ms: u64) -> Result<Duration, TtlError> {
    match ms {
        0 => Err(TtlError::Zero),
        1..=SPAN_MS_MAX => Ok(Duration::from_millis(ms)),
        _ => Err(TtlError::TooLong),
    }
}

fn parse_time(text: &str) -> Result<u64, TtlError> {
    // The parser takes any character between date and time.
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
        return Err(TtlError::Unknown);
    }
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TtlError::Unknown)?;
    let ms = at.unix_timestamp_nanos().div_euclid(1_000_000);
    u64::try_from(ms).map_err(|_| TtlError::BeforeEpoch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(ms: u64) -> Ttl {
        Ttl::After(Duration::from_millis(ms))
    }

    fn json(text: &str) -> String {
        serde_json::to_string(text).unwrap()
    }

    #[test]
    fn spans_are_read_alike_everywhere() {
        for (text, ms) in [
            ("1", 1_000),
            ("3600", 3_600_000),
            ("007", 7_000),
            ("1ms", 1),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("1w", 604_800_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1h   30m", 5_400_000),
            ("30m1h", 5_400_000),
            ("1w 2d3h 4m5s 6ms", 788_645_006),
            ("0h5s", 5_000),
            ("3155760000", SPAN_MS_MAX),
            ("36525d", SPAN_MS_MAX),
            ("3155760000000ms", SPAN_MS_MAX),
        ] {
            assert_eq!(parse_text(text), Ok(after(ms)), "{text:?}");
            assert_eq!(parse_json(&json(text)), Ok(after(ms)), "{text:?}");
            assert_eq!(bare_ttl(&json(text)), after(ms), "{text:?}");
        }
        assert_eq!(parse_json("3600"), Ok(after(3_600_000)));
        assert_eq!(bare_ttl("3600"), after(3_600_000));
        assert_eq!(parse_json(r#""1\u0068""#), Ok(after(3_600_000)));
        assert_eq!(bare_ttl(r#""1\u0068""#), after(3_600_000));
    }

    #[test]
    fn other_text_is_refused() {
        let unknown = [
            "",
            " ",
            "-1",
            "+5",
            "1.5",
            "1.5h",
            "-1h",
            "1e3",
            "0x10",
            "1,000",
            "h",
            "ms",
            "1x",
            "1y",
            "1H",
            "1M",
            "1min",
            "1hour",
            "1 h",
            "1h ",
            " 1h",
            "1h,30m",
            "1h\t30m",
            "1h30",
            "30 1h",
            "1h-30m",
            "1h+30m",
            "null",
            "None",
            "never",
            "٣s",
            "１s",
            "1µs",
            "1h\u{a0}30m",
            "12345-",
        ];
        let repeated = ["1h1h", "1h 1m 1h", "0s1s", "5ms 5ms"];
        let zero = ["0", "000", "0s", "0h0m", "0w 0ms"];
        let long = [
            "3155760001",
            "36525d1ms",
            "36526d",
            "5218w",
            "18446744073709551616",
            "99999999999999999999999999999999999999",
            "18446744073709551615w",
            "18446744073709551615w 18446744073709551615s",
        ];
        let times = [
            "2030-01-01",
            "2030-01-01 00:00:00Z",
            "2030-01-01T00:00:00",
            "2030-13-01T00:00:00Z",
            "2030-02-29T00:00:00Z",
            "2030-01-01T24:00:00Z",
            "2030-01-01T00:00:00Z ",
            "1000-",
            "2030-01-01T00:00:00+25:00",
            "20300101T000000Z",
            "12030-01-01T00:00:00Z",
        ];
        let early = [
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "0000-01-01T00:00:00Z",
        ];
        for (texts, error) in [
            (&unknown[..], TtlError::Unknown),
            (&repeated, TtlError::RepeatedUnit),
            (&zero, TtlError::Zero),
            (&long, TtlError::TooLong),
            (&times, TtlError::Unknown),
            (&early, TtlError::BeforeEpoch),
        ] {
            for text in texts {
                assert_eq!(parse_text(text), Err(error), "{text:?}");
                assert_eq!(parse_json(&json(text)), Err(error), "{text:?}");
                assert_eq!(bare_ttl(&json(text)), Ttl::None, "{text:?}");
            }
        }
    }

    #[test]
    fn json_that_is_no_ttl_is_refused_and_data_in_a_bare_object() {
        for (raw, error) in [
            ("0", TtlError::Zero),
            ("-0", TtlError::Unknown),
            ("-5", TtlError::Unknown),
            ("3600.0", TtlError::Unknown),
            ("1e3", TtlError::Unknown),
            ("3155760001", TtlError::TooLong),
            ("1e400", TtlError::Unknown),
            ("true", TtlError::Unknown),
            ("[60]", TtlError::Unknown),
            (r#"{"seconds":60}"#, TtlError::Unknown),
            (r#""""#, TtlError::Unknown),
            (r#""none""#, TtlError::Unknown),
            (r#""null""#, TtlError::Unknown),
        ] {
            assert_eq!(parse_json(raw), Err(error), "{raw}");
            assert_eq!(bare_ttl(raw), Ttl::None, "{raw}");
        }
        assert_eq!(parse_json("null"), Ok(Ttl::None));
        assert_eq!(bare_ttl("null"), Ttl::None);
        assert_eq!(parse_text("none"), Ok(Ttl::None));
    }

    #[test]
    fn times_are_absolute_and_data_in_a_bare_object() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2031-01-01T00:00:00Z", 1_924_992_000_000),
            ("2031-01-01t00:00:00z", 1_924_992_000_000),
            ("2031-01-01T02:00:00+02:00", 1_924_992_000_000),
            ("2030-12-31T18:30:00-05:30", 1_924_992_000_000),
            ("2031-01-01T00:00:00.5Z", 1_924_992_000_500),
            ("2031-01-01T00:00:00.123999999Z", 1_924_992_000_123),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(parse_text(text), Ok(Ttl::At(ms)), "{text}");
            assert_eq!(parse_json(&json(text)), Ok(Ttl::At(ms)), "{text}");
            assert_eq!(bare_ttl(&json(text)), Ttl::None, "{text}");
        }
    }

    #[test]
    fn errors_say_what_is_allowed() {
        assert_eq!(
            TtlError::Zero.to_string(),
            "the ttl is 0: allowed are a whole number of seconds (3600), a duration of ms, s, m, h, \
             d and w (1h 30m), each more than 0 and at most 100 years, an RFC 3339 time in the \
             future (2031-01-01T00:00:00Z), and none (null in JSON) for no expiry"
        );
    }

    #[test]
    fn times_are_shown_in_utc_with_milliseconds() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (1_924_992_000_120, "2031-01-01T00:00:00.120Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format_rfc3339(ms), text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_time_shown_reads_back(ms in 0..=253_402_300_799_999_u64) {
            prop_assert_eq!(parse_text(&format_rfc3339(ms)), Ok(Ttl::At(ms)));
        }

        #[test]
        fn a_span_is_the_sum_of_its_parts(
            counts in prop::array::uniform6(prop::option::of(0..1_000_u64)),
            order in Just([0_usize, 1, 2, 3, 4, 5]).prop_shuffle(),
            spaces in prop::array::uniform6(0..3_usize),
        ) {
            let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000),
                ("d", 86_400_000), ("w", 604_800_000)];
            let (mut text, mut total) = (String::new(), 0);
            for at in order {
                if let Some(count) = counts[at] {
                    if !text.is_empty() {
                        text.push_str(&" ".repeat(spaces[at]));
                    }
                    text.push_str(&format!("{count}{}", units[at].0));
                    total += count * units[at].1;
                }
            }
            prop_assume!(total > 0);
            prop_assert_eq!(parse_text(&text), Ok(after(total)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9msdhw :TZ.+-]{0,30}|.{0,12}") {
            for ttl in [parse_text(&text), parse_json(&text), parse_json(&json(&text))] {
                if let Ok(Ttl::After(span)) = ttl {
                    prop_assert!((1..=u128::from(SPAN_MS_MAX)).contains(&span.as_millis()));
                }
            }
            prop_assert!(!matches!(bare_ttl(&text), Ttl::At(_)));
        }
    }
}
