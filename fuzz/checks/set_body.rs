//! Any bytes as the body of a set: serde_json agrees on what is JSON and on what its members are, and
//! the texts that are told are parts of the body that are JSON themselves.

use ekokv::http::json::{Body, Fault, JsonError, Shape, check, check_body, check_body_text};
use serde_json::Value;
use serde_json::value::RawValue;

/// A member of this name means something to serde_json's `Value`, in builds that know raw values: it is
/// the one text of which it is no judge.
const RAW_VALUE: &[u8] = b"$serde_json::private::RawValue";

/// What serde_json makes of a text, with its own limits told apart.
enum Reference {
    Value(Value),
    /// A number beyond `f64`, deeper than it can read, or a name that it keeps for itself.
    Limit,
    Refused,
}

fn reference(bytes: &[u8]) -> Reference {
    if bytes.windows(RAW_VALUE.len()).any(|name| name == RAW_VALUE) {
        return Reference::Limit;
    }
    match serde_json::from_slice(bytes) {
        Ok(value) => Reference::Value(value),
        Err(error) => {
            let message = error.to_string();
            let limits = ["number out of range", "recursion limit exceeded"];
            if limits.iter().any(|limit| message.starts_with(limit)) {
                Reference::Limit
            } else {
                Reference::Refused
            }
        }
    }
}

/// Where `part` lies within `whole`.
fn offset(part: &str, whole: &[u8]) -> usize {
    let range = whole.as_ptr_range();
    let part = part.as_bytes().as_ptr_range();
    assert!(
        range.start <= part.start && part.end <= range.end,
        "a text of its own"
    );
    part.start as usize - range.start as usize
}

/// A text that is told is one value, with nothing around it, and holds what `value` says.
fn is_value(text: &str, value: Option<&Value>) {
    assert_eq!(check(text.as_bytes()), Ok(text));
    if let Some(value) = value {
        assert_eq!(&serde_json::from_str::<Value>(text).unwrap(), value);
    }
}

fn accepted(bytes: &[u8], body: Body<'_>) {
    let text = body.text;
    let before = bytes.get(..offset(text, bytes)).unwrap();
    let after = bytes.get(before.len() + text.len()..).unwrap();
    assert!(
        [before, after]
            .concat()
            .iter()
            .all(|byte| b" \t\r\n".contains(byte))
    );
    let value = match reference(bytes) {
        Reference::Value(value) => Some(value),
        // Its raw form reads numbers as text and does not recurse.
        Reference::Limit => serde_json::from_slice::<&RawValue>(bytes)
            .map(|_| None)
            .unwrap(),
        Reference::Refused => panic!("serde_json refuses what is accepted"),
    };
    if check(text.as_bytes()).is_ok() {
        is_value(text, value.as_ref());
    }
    let members = value.as_ref().and_then(Value::as_object);
    let member = |name: &str| members.and_then(|members| members.get(name));
    let ttl = match body.shape {
        Shape::Envelope { value: inner, ttl } => {
            offset(inner, text.as_bytes());
            is_value(inner, member("value"));
            if let Some(members) = members {
                assert_eq!(members.len(), 1 + usize::from(ttl.is_some()));
            }
            ttl
        }
        Shape::Bare { ttl } => {
            if let Some(members) = members {
                let envelope = members.contains_key("value")
                    && members.keys().all(|name| name == "value" || name == "ttl");
                assert!(!envelope, "an envelope is not seen");
            }
            ttl
        }
    };
    if members.is_some() {
        assert_eq!(ttl.is_some(), member("ttl").is_some());
    }
    if let Some(ttl) = ttl {
        offset(ttl, text.as_bytes());
        is_value(ttl, member("ttl"));
    }
    assert_eq!(
        check_body_text(text),
        Ok(body),
        "space around it makes no difference"
    );
}

fn refused(bytes: &[u8], error: JsonError) {
    assert!(error.at <= bytes.len());
    assert!(!error.to_string().is_empty());
    match (error.what, reference(bytes)) {
        // It takes the last one of doubled members.
        (Fault::Doubled(name), Reference::Value(value)) => assert!(value.get(name).is_some()),
        // At its limit it has not seen what is wrong behind it.
        (_, Reference::Limit | Reference::Refused) => {}
        (fault, Reference::Value(_)) => panic!("serde_json accepts it: {fault}"),
    }
}

pub fn run(bytes: &[u8]) {
    let body = check_body(bytes);
    assert_eq!(check_body(bytes), body, "reading again gives the same");
    match (body, check(bytes)) {
        (Ok(body), text) => {
            // An envelope does not count towards the depth of its value.
            let deep = matches!(
                text,
                Err(JsonError {
                    what: Fault::Depth,
                    ..
                })
            );
            let envelope = matches!(body.shape, Shape::Envelope { .. });
            assert!(text == Ok(body.text) || (deep && envelope));
            accepted(bytes, body);
        }
        (Err(error), text) => {
            // Only the members of a body are told apart, and with an envelope in view its depth is
            // judged at the end.
            match (error.what, text) {
                (Fault::Doubled(_) | Fault::Depth, _) => {}
                (
                    _,
                    Err(JsonError {
                        what: Fault::Depth, ..
                    }),
                ) => {}
                (_, text) => assert_eq!(text, Err(error)),
            }
            refused(bytes, error);
        }
    }
}
