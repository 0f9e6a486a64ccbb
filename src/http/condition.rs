//! `If-Match` and `If-None-Match`: read here, decided by the store (RFC 9110, section 13.1).
//!
//! - A version's entity tag is `"<version>"`, in decimal digits as `ETag` gives it. Any other tag is
//!   acceptable and no key's.
//! - A write whose condition is not understood, or not taken by its route, is refused: carried out
//!   without it, it would do what its caller meant to prevent.
//! - A weak tag never matches in `If-Match`. It is refused instead, or a caller that reads and tries
//!   again after each 412 would do so for ever.

use hyper::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::refusal::Refusal;
use crate::store::{Condition, Tags};

/// Why a condition cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConditionError {
    #[error(
        "{0} is not understood: * or a list of entity tags is expected, each in quotation marks as \
         ETag gives it"
    )]
    Malformed(&'static str),
    #[error("If-Match does not take a weak entity tag: it could never match")]
    Weak,
    #[error("If-None-Match takes nothing but * here: the key must not exist")]
    OnlyAny,
    #[error("If-Match and If-None-Match cannot both be given")]
    Both,
    #[error("If-Match is for set and delete: a get takes If-None-Match")]
    MatchOnGet,
    #[error("this call takes neither If-Match nor If-None-Match: set and delete of one key do")]
    Untaken,
}

/// The conditional headers of a request that has at least one of them: all of its headers, as these
/// two may stand on several lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions<'a>(pub(super) &'a HeaderMap);

/// What a get is not to be answered for: `If-None-Match`.
pub(super) fn of_get(conditions: Option<Conditions<'_>>) -> Result<Option<Tags>, Refusal> {
    let Some(Conditions(headers)) = conditions else {
        return Ok(None);
    };
    if headers.contains_key(IF_MATCH) {
        return Err(ConditionError::MatchOnGet.into());
    }
    // Compared weakly: the mark of a weak tag says nothing here.
    Ok(Some(tags(headers, IF_NONE_MATCH, "If-None-Match")?.tags))
}

/// What must hold for a set or a delete.
pub(super) fn of_write(conditions: Option<Conditions<'_>>) -> Result<Condition, Refusal> {
    let Some(Conditions(headers)) = conditions else {
        return Ok(Condition::None);
    };
    match (
        headers.contains_key(IF_MATCH),
        headers.contains_key(IF_NONE_MATCH),
    ) {
        (true, true) => Err(ConditionError::Both.into()),
        (true, false) => {
            let List { tags, has_weak } = tags(headers, IF_MATCH, "If-Match")?;
            if has_weak {
                return Err(ConditionError::Weak.into());
            }
            Ok(Condition::Matches(tags))
        }
        (false, _) => match tags(headers, IF_NONE_MATCH, "If-None-Match")?.tags {
            Tags::Any => Ok(Condition::Absent),
            Tags::OneOf(_) => Err(ConditionError::OnlyAny.into()),
        },
    }
}

/// Refuses the conditions of a write that takes none.
pub(super) fn untaken(conditions: Option<Conditions<'_>>) -> Result<(), Refusal> {
    match conditions {
        None => Ok(()),
        Some(_) => Err(ConditionError::Untaken.into()),
    }
}

/// What a header says.
struct List {
    tags: Tags,
    has_weak: bool,
}

/// All lines of a header, which together are one list.
fn tags(headers: &HeaderMap, name: HeaderName, shown: &'static str) -> Result<List, Refusal> {
    let mut versions = Vec::new();
    let (mut has_any, mut has_weak, mut length) = (false, false, 0usize);
    for line in headers.get_all(name) {
        let mut rest = line.as_bytes();
        while let Some(item) = next(&mut rest).map_err(|_| ConditionError::Malformed(shown))? {
            length = length.saturating_add(1);
            match item {
                Item::Any => has_any = true,
                Item::Tag { opaque, is_weak } => {
                    has_weak |= is_weak;
                    versions.extend(version(opaque));
                }
            }
        }
    }
    match (has_any, length) {
        (true, 1) => Ok(List {
            tags: Tags::Any,
            has_weak,
        }),
        (false, 1..) => Ok(List {
            tags: Tags::OneOf(versions),
            has_weak,
        }),
        _ => Err(ConditionError::Malformed(shown).into()),
    }
}

/// An element of a list.
enum Item<'a> {
    Any,
    Tag { opaque: &'a [u8], is_weak: bool },
}

/// A line does not follow the grammar.
struct Malformed;

/// Takes the next element off a line, with the comma behind it. Empty elements are passed over, as
/// the grammar of lists has it.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<Item<'a>>, Malformed> {
    let start = rest
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t' | b','));
    let Some(text) = start.and_then(|start| rest.get(start..)) else {
        return Ok(None);
    };
    let (item, behind) = if let Some(behind) = text.strip_prefix(b"*") {
        (Item::Any, behind)
    } else {
        let (is_weak, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let open = quoted.strip_prefix(b"\"").ok_or(Malformed)?;
        let end = open
            .iter()
            .position(|byte| *byte == b'"')
            .ok_or(Malformed)?;
        let (opaque, close) = open.split_at(end);
        if opaque.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7F)) {
            return Err(Malformed);
        }
        let behind = close.strip_prefix(b"\"").ok_or(Malformed)?;
        (Item::Tag { opaque, is_weak }, behind)
    };
    let behind = behind.trim_ascii_start();
    *rest = match behind.strip_prefix(b",") {
        Some(more) => more,
        None if behind.is_empty() => behind,
        None => return Err(Malformed),
    };
    Ok(Some(item))
}

/// The version whose tag this is; tags are compared as text, so `05` is nobody's.
fn version(opaque: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(opaque).ok()?;
    let version: u64 = text.parse().ok()?;
    (text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0')))
        .then_some(version)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn get(value: &str) -> Result<Option<Tags>, Refusal> {
        of_get(Some(Conditions(&headers(&[(IF_NONE_MATCH, value)]))))
    }

    #[test]
    fn a_list_is_the_versions_of_its_tags() {
        for (value, expected) in [
            ("*", Tags::Any),
            (" * ", Tags::Any),
            (", *,,", Tags::Any),
            ("\"5\"", Tags::OneOf(vec![5])),
            ("\"0\"", Tags::OneOf(vec![0])),
            (
                "\"5\" ,W/\"6\",, \"18446744073709551615\"",
                Tags::OneOf(vec![5, 6, u64::MAX]),
            ),
            // Acceptable, and no key's.
            ("\"\"", Tags::OneOf(vec![])),
            ("\"05\"", Tags::OneOf(vec![])),
            ("\"+5\"", Tags::OneOf(vec![])),
            ("\"a,b\", \"\u{e9}\"", Tags::OneOf(vec![])),
            ("\"18446744073709551616\"", Tags::OneOf(vec![])),
        ] {
            assert_eq!(get(value).unwrap(), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for value in [
            "",
            " ",
            ",",
            "5",
            "\"5",
            "5\"",
            "\"5\"\"6\"",
            "\"5\" \"6\"",
            "\"5\";",
            "w/\"5\"",
            "W/5",
            "W /\"5\"",
            "**",
            "*, \"5\"",
            "*, *",
            "\"5 6\"",
            "\"5\tx\"",
            "'5'",
        ] {
            assert!(
                matches!(
                    get(value),
                    Err(Refusal::Condition(ConditionError::Malformed(_)))
                ),
                "{value}"
            );
        }
    }

    #[test]
    fn lines_of_one_name_are_one_list() {
        let two = headers(&[(IF_NONE_MATCH, "\"1\""), (IF_NONE_MATCH, "\"2\"")]);
        assert_eq!(
            of_get(Some(Conditions(&two))).unwrap(),
            Some(Tags::OneOf(vec![1, 2]))
        );
        let contradiction = headers(&[(IF_NONE_MATCH, "*"), (IF_NONE_MATCH, "\"2\"")]);
        assert!(of_write(Some(Conditions(&contradiction))).is_err());
    }

    #[test]
    fn a_write_takes_one_condition_that_it_can_keep() {
        let of = |lines: &[(HeaderName, &str)]| of_write(Some(Conditions(&headers(lines))));
        assert_eq!(of_write(None).unwrap(), Condition::None);
        assert_eq!(
            of(&[(IF_MATCH, "\"7\", \"x\"")]).unwrap(),
            Condition::Matches(Tags::OneOf(vec![7]))
        );
        assert_eq!(
            of(&[(IF_MATCH, "*")]).unwrap(),
            Condition::Matches(Tags::Any)
        );
        assert_eq!(of(&[(IF_NONE_MATCH, "*")]).unwrap(), Condition::Absent);
        for (lines, error) in [
            (vec![(IF_MATCH, "W/\"7\", \"8\"")], ConditionError::Weak),
            (vec![(IF_NONE_MATCH, "\"7\"")], ConditionError::OnlyAny),
            (
                vec![(IF_MATCH, "*"), (IF_NONE_MATCH, "*")],
                ConditionError::Both,
            ),
            (vec![(IF_MATCH, "7")], ConditionError::Malformed("If-Match")),
        ] {
            assert!(
                matches!(of(&lines), Err(Refusal::Condition(found)) if found == error),
                "{lines:?}"
            );
        }
    }
}
