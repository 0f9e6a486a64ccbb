//! Bodies that are one JSON object of known members: links and find.
//!
//! Unknown and doubled members are refused, so that a misspelt one is never taken for an absent one.

use serde::Deserialize;

use super::json;
use super::refusal::Refusal;

/// Reads an object that `T` describes with `deny_unknown_fields`; `expected` says in a message what
/// that is.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], expected: &str) -> Result<T, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::BodyEmpty);
    }
    let text = json::check(bytes)?;
    // serde reads a list as an object whose names were left out.
    if !text.starts_with('{') {
        return Err(Refusal::shape(format_args!("{expected} is expected")));
    }
    serde_json::from_str(text).map_err(|error| Refusal::parsed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        a: String,
        b: Option<u64>,
    }

    fn read(body: &str) -> Result<Pair, Refusal> {
        parse(body.as_bytes(), "a pair")
    }

    #[test]
    fn an_object_has_its_members_once_and_no_others() {
        let pair = |b| Pair {
            a: "x".to_owned(),
            b,
        };
        assert_eq!(read(r#" {"b":1,"a":"x"} "#).unwrap(), pair(Some(1)));
        assert_eq!(read(r#"{"\u0061":"x","b":null}"#).unwrap(), pair(None));
        for body in [
            r#"["x",1]"#,
            r#""a""#,
            "null",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":"x","a":"x"}"#,
            r#"{"a":"x","c":1}"#,
            r#"{"a":"x","b":-1}"#,
            r#"{"a":"x","b":1.0}"#,
            r#"{"a":"x","b":"1"}"#,
            r#"{"a":"x","b":100000000000000000000}"#,
        ] {
            assert!(matches!(read(body), Err(Refusal::Shape(_))), "{body}");
        }
        assert!(matches!(read(""), Err(Refusal::BodyEmpty)));
        assert!(matches!(read(r#"{"a":"x"}}"#), Err(Refusal::Json(_))));
    }

    #[test]
    fn a_refusal_repeats_nothing_of_the_body() {
        let name = "é".repeat(100_000);
        let Err(Refusal::Shape(message)) = read(&format!(r#"{{"{name}":1}}"#)) else {
            panic!("taken");
        };
        assert!(!message.contains('é'), "{message}");
        assert!(message.contains("`a` or `b`"), "{message}");
    }
}
