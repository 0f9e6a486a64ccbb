//! The body of a find: which keys are looked for.
//!
//! Every member may be left out, and an explicit `null` is one that is left out, as clients of other
//! languages send it.

use serde::Deserialize;

use super::object;
use super::refusal::Refusal;
use crate::state::find::{Filter, Query};

/// The body as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    prefix: Option<String>,
    suffix: Option<String>,
    contains: Option<String>,
    pattern: Option<String>,
    glob: Option<String>,
    limit: Option<u64>,
    offset: Option<u64>,
    after: Option<String>,
    reverse: Option<bool>,
    keys_only: Option<bool>,
    include_expired: Option<bool>,
}

/// Reads a body and compiles what it looks for.
pub(super) fn parse(bytes: &[u8]) -> Result<Query, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::FindEmpty);
    }
    let body: Body = object::parse(bytes, "an object").map_err(|refusal| match refusal {
        Refusal::Shape(message) => Refusal::Find(message),
        other => other,
    })?;
    let query = Query::new(Filter {
        prefix: body.prefix,
        suffix: body.suffix,
        contains: body.contains,
        pattern: body.pattern,
        glob: body.glob,
        limit: body.limit,
        offset: body.offset.unwrap_or(0),
        after: body.after,
        reverse: body.reverse.unwrap_or(false),
        keys_only: body.keys_only.unwrap_or(false),
        include_expired: body.include_expired.unwrap_or(false),
    })?;
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_may_be_given_left_out_or_null() {
        for body in [
            "{}",
            r#"{"prefix":"a","suffix":"b","contains":"c","pattern":"^a.*b$","glob":"a*b","limit":0,
                "offset":18446744073709551615,"after":"","reverse":true,"keys_only":true,
                "include_expired":false}"#,
            r#"{"prefix":null,"suffix":null,"contains":null,"pattern":null,"glob":null,"limit":null,
                "offset":null,"after":null,"reverse":null,"keys_only":null,"include_expired":null}"#,
        ] {
            assert!(parse(body.as_bytes()).is_ok(), "{body}");
        }
        assert!(parse(br#"{"keys_only":true}"#).unwrap().keys_only());
        assert!(!parse(b"{}").unwrap().keys_only());
    }

    #[test]
    fn what_is_not_understood_finds_nothing() {
        for body in [
            "[]",
            "null",
            r#"{"prefx":"a"}"#,
            r#"{"prefix":1}"#,
            r#"{"prefix":"a","prefix":"a"}"#,
            r#"{"limit":-1}"#,
            r#"{"limit":1.5}"#,
            r#"{"limit":1e2}"#,
            r#"{"limit":"1"}"#,
            r#"{"offset":18446744073709551616}"#,
            r#"{"reverse":1}"#,
            r#"{"keys_only":"true"}"#,
        ] {
            assert!(
                matches!(parse(body.as_bytes()), Err(Refusal::Find(_))),
                "{body}"
            );
        }
        assert!(matches!(parse(b""), Err(Refusal::FindEmpty)));
        assert!(matches!(parse(b" "), Err(Refusal::Json(_))));
        assert!(matches!(
            parse(br#"{"pattern":"("}"#),
            Err(Refusal::Pattern(_))
        ));
    }
}
