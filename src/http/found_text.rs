//! The JSON of one key that a find has found.

use super::answer;
use crate::state::find::{Hit, Record};
use crate::state::ttl;

/// What a record adds to its key and its value at most: names, version, deadline, a comma.
const FRAME_BYTES_MAX: usize =
    r#",{"key":,"value":,"version":18446744073709551615,"expires_at":"9999-12-31T23:59:59.999Z"}"#
        .len();

/// The length of the record's text, at most, with a comma.
pub(super) fn length(record: &Record) -> usize {
    let value = match &record.hit {
        Hit::Live {
            value: Some(value), ..
        } => value.len(),
        Hit::Live { value: None, .. } | Hit::Expired => 0,
    };
    answer::quoted_length(&record.key)
        .saturating_add(value)
        .saturating_add(FRAME_BYTES_MAX)
}

/// Appends the record. A value is never wrapped, whatever form it came in.
pub(super) fn append(text: &mut Vec<u8>, record: &Record) {
    text.extend_from_slice(b"{\"key\":");
    answer::quote(text, &record.key);
    if let Hit::Live { value, version } = &record.hit {
        if let Some(value) = value {
            text.extend_from_slice(b",\"value\":");
            text.extend_from_slice(value);
        }
        text.extend_from_slice(b",\"version\":");
        text.extend_from_slice(version.to_string().as_bytes());
    }
    if let Some(deadline) = record.deadline {
        text.extend_from_slice(b",\"expires_at\":\"");
        text.extend_from_slice(ttl::format_rfc3339(deadline).as_bytes());
        text.push(b'"');
    }
    text.extend_from_slice(match record.hit {
        Hit::Live { .. } => b"}",
        Hit::Expired => b",\"expired\":true}",
    });
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn text(record: &Record) -> String {
        let mut text = Vec::new();
        append(&mut text, record);
        assert!(text.len() < length(record), "{record:?}");
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_record_says_what_is_there_and_its_length_is_enough() {
        let live = |value: Option<&'static str>, version, deadline| Record {
            key: "a\"\\\n\u{1}\u{7f}é".into(),
            hit: Hit::Live {
                value: value.map(|value| Bytes::from_static(value.as_bytes())),
                version,
            },
            deadline,
        };
        let key = r#""a\"\\\n\u0001"#.to_owned() + "\u{7f}é\"";
        assert_eq!(
            text(&live(Some("[1.50]"), 7, None)),
            format!(r#"{{"key":{key},"value":[1.50],"version":7}}"#)
        );
        assert_eq!(
            text(&live(None, u64::MAX, Some(u64::MAX))),
            format!(
                r#"{{"key":{key},"version":18446744073709551615,"expires_at":"9999-12-31T23:59:59.999Z"}}"#
            )
        );
        let expired = Record {
            hit: Hit::Expired,
            ..live(None, 7, Some(0))
        };
        assert_eq!(
            text(&expired),
            format!(r#"{{"key":{key},"expires_at":"1970-01-01T00:00:00.000Z","expired":true}}"#)
        );
    }
}
