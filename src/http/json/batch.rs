//! The check of a batch's body: the members of its lists are values, each with a depth and a place
//! of its own.

use super::scanner::Scanner;
use super::{Fault, JsonError, body_value, members, utf8};

/// Why the body of a batch was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchError {
    /// Something around the elements of its lists.
    Body(JsonError),
    /// Something in an element of `keys`.
    Key {
        /// Which, the first is 0.
        index: usize,
        /// Its place counts from the beginning of the element.
        error: JsonError,
    },
    /// Something in an element of `values`.
    Value {
        /// Which, the first is 0.
        index: usize,
        /// Its place counts from the beginning of the element.
        error: JsonError,
    },
}

impl From<JsonError> for BatchError {
    fn from(error: JsonError) -> Self {
        Self::Body(error)
    }
}

/// Checks that `bytes` are one JSON value, in which the elements of lists that are members of the
/// outermost object may each be as deep as a set body; its text is returned without the space around
/// it. No member is missed or unknown here.
///
/// # Errors
/// See [`Fault`].
pub fn check_batch(bytes: &[u8]) -> Result<&str, BatchError> {
    let mut scanner = Scanner::new(utf8(bytes)?);
    scanner.space();
    let start = scanner.place();
    if scanner.eat(b'{') {
        members(&mut scanner, |scanner, _, quoted, _| list(scanner, quoted))?;
    } else {
        scanner.value()?;
    }
    Ok(scanner.end(start)?)
}

/// Passes the value of the member `quoted`.
fn list(scanner: &mut Scanner<'_>, quoted: &str) -> Result<(), BatchError> {
    if !scanner.eat(b'[') {
        return Ok(scanner.value()?);
    }
    scanner.space();
    let mut more = !scanner.eat(b']');
    let mut index: usize = 0;
    while more {
        scanner.space();
        let start = scanner.place();
        body_value(scanner).map_err(|error| located(error, start, index, quoted))?;
        index = index.saturating_add(1);
        scanner.space();
        more = scanner.eat(b',');
        if !more {
            scanner.require(b']', Fault::ArrayEnd)?;
        }
    }
    Ok(())
}

/// The error of an element that begins at `start`.
fn located(error: JsonError, start: usize, index: usize, quoted: &str) -> BatchError {
    let within = JsonError {
        at: error.at.saturating_sub(start),
        ..error
    };
    match quoted {
        // Where the text ends, all of the body does.
        _ if error.what == Fault::Ends => BatchError::Body(error),
        r#""keys""# => BatchError::Key {
            index,
            error: within,
        },
        r#""values""# => BatchError::Value {
            index,
            error: within,
        },
        _ => BatchError::Body(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn each_element_may_be_as_deep_as_a_value() {
        let (deep, deeper) = (nested(128), nested(129));
        for (element, fault) in [
            (deep.clone(), None),
            (format!(r#"{{"value":{deep},"ttl":1}}"#), None),
            (format!(r#"{{"a":{}}}"#, nested(127)), None),
            (deeper.clone(), Some(128)),
            (format!(r#"{{"value":{deeper}}}"#), Some(137)),
            (format!(r#"{{"a":{deep}}}"#), Some(132)),
            (format!(r#"{{"value":{deep},"a":1}}"#), Some(136)),
        ] {
            let body = format!(r#" {{"keys":["a","b"], "values":[{deep}, {element}]}} "#);
            let expected = match fault {
                None => Ok(body.trim()),
                Some(at) => Err(BatchError::Value {
                    index: 1,
                    error: JsonError {
                        what: Fault::Depth,
                        at,
                    },
                }),
            };
            assert_eq!(check_batch(body.as_bytes()), expected, "{element}");
        }
    }

    #[test]
    fn errors_name_the_element_or_a_place_in_the_body() {
        let error = |what, at| JsonError { what, at };
        for (body, expected) in [
            ("", BatchError::Body(error(Fault::Ends, 0))),
            ("{}x", BatchError::Body(error(Fault::Trailing, 2))),
            (
                r#"{"keys":[1 2]}"#,
                BatchError::Body(error(Fault::ArrayEnd, 11)),
            ),
            (r#"{"values":[1,"#, BatchError::Body(error(Fault::Ends, 13))),
            (
                r#"{"other":[1,x]}"#,
                BatchError::Body(error(Fault::Value, 12)),
            ),
            (
                r#"{"keys":["a", "\q"]}"#,
                BatchError::Key {
                    index: 1,
                    error: error(Fault::Escape, 2),
                },
            ),
            (
                r#"{"values":[{"ttl":1,"ttl":1}]}"#,
                BatchError::Value {
                    index: 0,
                    error: error(Fault::Doubled("ttl"), 9),
                },
            ),
        ] {
            assert_eq!(check_batch(body.as_bytes()), Err(expected), "{body}");
        }
    }
}
