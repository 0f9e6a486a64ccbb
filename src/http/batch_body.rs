//! The bodies of the batch calls: an object of lists, taken apart without copying an element.
//!
//! - A list keeps at most as many elements as a batch may have; the rest is only counted, so a body
//!   of a million empty strings takes no more memory than one of the limit.
//! - Members that the call does not know are refused, doubled ones too.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json;
use super::refusal::Refusal;

/// Which members a batch call takes besides `keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// None.
    Keys,
    /// `values` and `ttl`.
    Values,
}

impl Takes {
    fn expected(self) -> &'static str {
        match self {
            Self::Keys => "an object with the list \"keys\"",
            Self::Values => "an object with the lists \"keys\" and \"values\" and perhaps \"ttl\"",
        }
    }
}

/// A batch as it was sent: the JSON texts of its elements.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch<'a> {
    /// The keys: JSON texts of any type, so far.
    pub(super) keys: Vec<&'a str>,
    /// One value for each key, if the call takes values; else none.
    pub(super) values: Vec<&'a str>,
    /// The TTL of all.
    pub(super) ttl: Option<&'a str>,
}

/// Takes a body apart; a batch has at most `keys_max` keys.
pub(super) fn parse(bytes: &[u8], takes: Takes, keys_max: usize) -> Result<Batch<'_>, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::BodyEmpty);
    }
    let text = json::check_batch(bytes)?;
    if !text.starts_with('{') {
        return Err(Refusal::shape(format_args!(
            "{} is expected",
            takes.expected()
        )));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let (keys, values, ttl) = Members { takes, keys_max }
        .deserialize(&mut deserializer)
        .map_err(|error| Refusal::parsed(&error))?;
    if keys.length > keys_max {
        return Err(Refusal::BatchTooLong {
            length: keys.length,
            limit: keys_max,
        });
    }
    if takes == Takes::Values && keys.length != values.length {
        return Err(Refusal::BatchLengths {
            keys: keys.length,
            values: values.length,
        });
    }
    Ok(Batch {
        keys: keys.kept,
        values: values.kept,
        ttl,
    })
}

/// The beginning of a list and the length of all of it.
#[derive(Default)]
struct List<'a> {
    kept: Vec<&'a str>,
    length: usize,
}

struct Members {
    takes: Takes,
    keys_max: usize,
}

impl<'de> DeserializeSeed<'de> for Members {
    type Value = (List<'de>, List<'de>, Option<&'de str>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = (List<'de>, List<'de>, Option<&'de str>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.takes.expected())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut keys, mut values, mut ttl) = (None, None, None::<&'de RawValue>);
        let with_values = self.takes == Takes::Values;
        while let Some(name) = members.next_key::<String>()? {
            let list = Elements {
                kept_max: self.keys_max,
            };
            let again = match name.as_str() {
                "keys" => keys.replace(members.next_value_seed(list)?).is_some(),
                "values" if with_values => values.replace(members.next_value_seed(list)?).is_some(),
                "ttl" if with_values => ttl.replace(members.next_value()?).is_some(),
                _ => return Err(A::Error::custom("it has a member that is not known here")),
            };
            if again {
                return Err(A::Error::custom(format_args!(
                    "it has two members \"{name}\""
                )));
            }
        }
        let keys = keys.ok_or_else(|| A::Error::missing_field("keys"))?;
        let values = match values {
            None if with_values => return Err(A::Error::missing_field("values")),
            values => values.unwrap_or_default(),
        };
        Ok((keys, values, ttl.map(RawValue::get)))
    }
}

struct Elements {
    kept_max: usize,
}

impl<'de> DeserializeSeed<'de> for Elements {
    type Value = List<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements {
    type Value = List<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = List::default();
        while list.kept.len() < self.kept_max {
            let Some(element) = elements.next_element::<&RawValue>()? else {
                list.length = list.kept.len();
                return Ok(list);
            };
            list.kept.push(element.get());
        }
        list.length = list.kept.len();
        while elements.next_element::<IgnoredAny>()?.is_some() {
            list.length = list.length.saturating_add(1);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_keep_their_text() {
        let body = br#" {"values": [ 1.50 , {"a" : 1}], "ttl": "1h", "keys": ["a", "b\u0041"]} "#;
        let batch = parse(body, Takes::Values, 2).unwrap();
        assert_eq!(batch.keys, [r#""a""#, r#""b\u0041""#]);
        assert_eq!(batch.values, ["1.50", r#"{"a" : 1}"#]);
        assert_eq!(batch.ttl, Some(r#""1h""#));
        let nulled = parse(br#"{"keys":[],"values":[],"ttl":null}"#, Takes::Values, 2).unwrap();
        assert_eq!(nulled.ttl, Some("null"));
    }

    #[test]
    fn shapes_that_are_not_a_batch_are_refused() {
        for (body, takes) in [
            ("[]", Takes::Keys),
            ("null", Takes::Keys),
            ("{}", Takes::Keys),
            (r#"{"keys":"a"}"#, Takes::Keys),
            (r#"{"keys":{}}"#, Takes::Keys),
            (r#"{"keys":[],"keys":[]}"#, Takes::Keys),
            (r#"{"keys":[],"values":[]}"#, Takes::Keys),
            (r#"{"keys":[],"ttl":1}"#, Takes::Keys),
            (r#"{"keys":[]}"#, Takes::Values),
            (r#"{"values":[]}"#, Takes::Values),
            (r#"{"keys":[],"values":[],"tll":1}"#, Takes::Values),
            (r#"{"keys":[],"values":[],"ttl":1,"ttl":1}"#, Takes::Values),
        ] {
            let refusal = parse(body.as_bytes(), takes, 10).unwrap_err();
            assert!(matches!(refusal, Refusal::Shape(_)), "{body}: {refusal:?}");
        }
        assert!(matches!(
            parse(b"", Takes::Keys, 10),
            Err(Refusal::BodyEmpty)
        ));
        assert!(matches!(
            parse(b"{", Takes::Keys, 10),
            Err(Refusal::Json(_))
        ));
    }

    #[test]
    fn a_batch_has_no_more_keys_than_allowed_and_as_many_values() {
        assert!(parse(br#"{"keys":["a","b"]}"#, Takes::Keys, 2).is_ok());
        assert!(matches!(
            parse(br#"{"keys":["a","b","c"]}"#, Takes::Keys, 2),
            Err(Refusal::BatchTooLong {
                length: 3,
                limit: 2
            })
        ));
        assert!(matches!(
            parse(br#"{"keys":["a"],"values":[1,2,3]}"#, Takes::Values, 2),
            Err(Refusal::BatchLengths { keys: 1, values: 3 })
        ));
    }
}
