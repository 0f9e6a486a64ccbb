//! Keys and other names in paths, and TTLs in queries. A path is split before it is decoded, and
//! decoded once.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;

use super::refusal::Refusal;
use crate::state::{Key, ttl};
use crate::store::Ttl;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A key.
    Key,
    /// A linked document's collection.
    Collection,
    /// A linked document's id.
    RecordId,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Collection => "collection",
            Self::RecordId => "record id",
        })
    }
}

/// The key that a path segment names, of at most `limit` bytes.
pub(super) fn key(segment: &str, limit: usize) -> Result<Key, Refusal> {
    name(segment, Part::Key, limit)
}

/// The name that a path segment is, of at most `limit` bytes.
pub(super) fn name(segment: &str, part: Part, limit: usize) -> Result<Box<str>, Refusal> {
    let name = decoded(segment).ok_or(Refusal::NameEncoding { part })?;
    check(&name, part, limit)?;
    Ok(name.into())
}

/// Whether there can be such a name, of at most `limit` bytes.
pub(super) fn check(name: &str, part: Part, limit: usize) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::NameEmpty { part });
    }
    if name.len() > limit {
        return Err(Refusal::NameTooLong {
            part,
            length: name.len(),
            limit,
        });
    }
    Ok(())
}

/// The `ttl` of a query, if it has one. A parameter that is not known is refused: a misspelt `ttl`
/// that went unnoticed would keep a value for good.
pub(super) fn ttl(query: &str) -> Result<Option<Ttl>, Refusal> {
    let mut found = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if form_decoded(name)? != "ttl" {
            return Err(Refusal::QueryUnknown);
        }
        let ttl = ttl::parse_text(&form_decoded(value)?).map_err(|error| {
            if value.contains('+') {
                Refusal::TtlPlus(error)
            } else {
                Refusal::Ttl(error)
            }
        })?;
        if found.replace(ttl).is_some() {
            return Err(Refusal::QueryTtlTwice);
        }
    }
    Ok(found)
}

/// A part of a query as text; there a plus stands for a space.
fn form_decoded(text: &str) -> Result<String, Refusal> {
    let spaced = text.replace('+', " ");
    decoded(&spaced)
        .map(Cow::into_owned)
        .ok_or(Refusal::QueryEncoding)
}

/// The text with its percent escapes resolved; `None` if one is malformed or the result is no
/// UTF-8.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    // The crate keeps a malformed escape as it stands, which would make two spellings of one key.
    let well_formed = text.split('%').skip(1).all(|after| {
        after
            .as_bytes()
            .first_chunk::<2>()
            .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if well_formed {
        percent_decode_str(text).decode_utf8().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn keys_are_decoded_once() {
        for (segment, expected) in [
            ("plain", "plain"),
            ("a+b", "a+b"),
            ("a:b,c;d=e@f!", "a:b,c;d=e@f!"),
            ("a%2Fb", "a/b"),
            ("%20", " "),
            ("100%25", "100%"),
            ("%252F", "%2F"),
            ("%3F%23", "?#"),
            ("%F0%9F%A6%80", "🦀"),
            ("🦀", "🦀"),
            ("%00", "\0"),
            ("..", ".."),
            ("%2e%2E%2f", "../"),
        ] {
            assert_eq!(key(segment, 100).unwrap().as_ref(), expected, "{segment}");
        }
    }

    #[test]
    fn malformed_keys_are_refused() {
        for segment in [
            "%",
            "%2",
            "a%2",
            "%zz",
            "%+1",
            "a%%20",
            "%FF",
            "%C3",
            "%ED%A0%80",
        ] {
            assert!(
                matches!(
                    key(segment, 100),
                    Err(Refusal::NameEncoding { part: Part::Key })
                ),
                "{segment}"
            );
        }
        assert!(matches!(
            key("", 100),
            Err(Refusal::NameEmpty { part: Part::Key })
        ));
        assert!(key("%41%41%41", 3).is_ok());
        assert!(matches!(
            key("AAAA", 3),
            Err(Refusal::NameTooLong {
                part: Part::Key,
                length: 4,
                limit: 3
            })
        ));
        assert!(matches!(
            key("%C3%A9%C3%A9", 3),
            Err(Refusal::NameTooLong {
                part: Part::Key,
                length: 4,
                limit: 3
            })
        ));
    }

    #[test]
    fn a_query_has_at_most_one_ttl_and_nothing_else() {
        assert_eq!(ttl("").unwrap(), None);
        assert_eq!(ttl("&&").unwrap(), None);
        assert_eq!(
            ttl("ttl=5").unwrap(),
            Some(Ttl::After(Duration::from_secs(5)))
        );
        assert_eq!(ttl("ttl=none&").unwrap(), Some(Ttl::None));
        for spaced in ["ttl=1h+30m", "ttl=1h%2030m", "t%74l=1h30m"] {
            assert_eq!(
                ttl(spaced).unwrap(),
                Some(Ttl::After(Duration::from_secs(5_400))),
                "{spaced}"
            );
        }
        assert!(matches!(ttl("ttl=1&ttl=1"), Err(Refusal::QueryTtlTwice)));
        assert!(matches!(ttl("tll=1"), Err(Refusal::QueryUnknown)));
        assert!(matches!(ttl("ttl=%"), Err(Refusal::QueryEncoding)));
        assert!(matches!(ttl("ttl"), Err(Refusal::Ttl(_))));
        assert!(matches!(ttl("ttl=0"), Err(Refusal::Ttl(_))));
    }
}
