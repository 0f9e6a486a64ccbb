//! The check that a text is JSON, and where a set body keeps its value and its TTL.
//!
//! - One pass, nothing is built, nothing recurses: memory does not depend on the text.
//! - The grammar is RFC 8259's, with nothing added (no byte order mark, no comments) and two
//!   things taken away: nesting beyond [`DEPTH_MAX`] and escapes of unpaired surrogates.
//! - Depth is that of the value that is stored: an envelope or a batch around it does not count.
//! - Numbers are checked as text. They are never read, so they can be neither too large nor
//!   rounded.
//! - A text that passes is kept as it came, without the space around it.

mod batch;
mod scanner;
#[cfg(test)]
mod tests;

pub use batch::{BatchError, check_batch};
use scanner::Scanner;

/// How deep arrays and objects may be nested.
pub const DEPTH_MAX: u32 = 128;

/// Why a text was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not acceptable JSON: {what} at byte {at}")]
pub struct JsonError {
    /// What is wrong.
    pub what: Fault,
    /// Where, in bytes from the beginning of the text.
    pub at: usize,
}

/// What can be wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The bytes are not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// The text ends within the value, or before it.
    #[error("the text ends too early")]
    Ends,
    /// Something else stands where a value should begin.
    #[error("a value is missing")]
    Value,
    /// It begins like `true`, `false` or `null` and goes on otherwise.
    #[error("a misspelt true, false or null")]
    Literal,
    /// A sign, a decimal point or an exponent without digits.
    #[error("a digit is missing")]
    Number,
    /// A member's name is missing.
    #[error("a member name in double quotes is missing")]
    Name,
    /// The colon behind a member's name is missing.
    #[error("a colon is missing")]
    Colon,
    /// Neither a comma nor the closing bracket follows an element.
    #[error("a comma or ] is missing")]
    ArrayEnd,
    /// Neither a comma nor the closing brace follows a member.
    #[error("a comma or }} is missing")]
    ObjectEnd,
    /// A control character in a string must be escaped.
    #[error("a control character that is not escaped")]
    Control,
    /// A backslash is followed by something that is no escape.
    #[error("an invalid escape")]
    Escape,
    /// Half of a surrogate pair.
    #[error("an escape of an unpaired surrogate")]
    Surrogate,
    /// Arrays and objects are nested deeper than [`DEPTH_MAX`].
    #[error("more than 128 levels of nesting")]
    Depth,
    /// Something follows the value.
    #[error("text after the value")]
    Trailing,
    /// The object has this member twice at its top.
    #[error("a second member \"{0}\"")]
    Doubled(&'static str),
}

/// A set body or a batch element that is acceptable JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body<'a> {
    /// The whole value's text, without the space around it.
    pub text: &'a str,
    /// Which of the two forms it has.
    pub shape: Shape<'a>,
}

/// The two forms of a body. The texts are those of the members' values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape<'a> {
    /// An object with a member `value`, perhaps a member `ttl`, and no other.
    Envelope {
        /// The member `value`.
        value: &'a str,
        /// The member `ttl`.
        ttl: Option<&'a str>,
    },
    /// Anything else.
    Bare {
        /// The member `ttl`, if it is an object that has one.
        ttl: Option<&'a str>,
    },
}

/// Checks that `bytes` are one JSON value; its text is returned without the space around it.
///
/// # Errors
/// See [`Fault`]; members may be doubled.
pub fn check(bytes: &[u8]) -> Result<&str, JsonError> {
    let mut scanner = Scanner::new(utf8(bytes)?);
    scanner.space();
    let start = scanner.place();
    scanner.value()?;
    scanner.end(start)
}

/// Checks that `bytes` are one JSON value, and tells its form.
///
/// # Errors
/// See [`Fault`].
pub fn check_body(bytes: &[u8]) -> Result<Body<'_>, JsonError> {
    check_body_text(utf8(bytes)?)
}

/// As [`check_body`], for a text.
///
/// # Errors
/// See [`Fault`].
pub fn check_body_text(text: &str) -> Result<Body<'_>, JsonError> {
    let mut scanner = Scanner::new(text);
    scanner.space();
    let start = scanner.place();
    let shape = body_value(&mut scanner)?;
    Ok(Body {
        text: scanner.end(start)?,
        shape,
    })
}

fn utf8(bytes: &[u8]) -> Result<&str, JsonError> {
    std::str::from_utf8(bytes).map_err(|error| JsonError {
        what: Fault::Utf8,
        at: error.valid_up_to(),
    })
}

/// Passes the members of an object, behind its brace, and its closing brace. `each` passes a
/// member's value; it is told where the member begins, its name in quotation marks, and whether there
/// are escapes in that.
fn members<'a, E: From<JsonError>>(
    scanner: &mut Scanner<'a>,
    mut each: impl FnMut(&mut Scanner<'a>, usize, &'a str, bool) -> Result<(), E>,
) -> Result<(), E> {
    scanner.space();
    let mut more = !scanner.eat(b'}');
    while more {
        scanner.space();
        let name_at = scanner.place();
        let (quoted, escaped) = scanner.name()?;
        scanner.space();
        each(scanner, name_at, quoted, escaped)?;
        scanner.space();
        more = scanner.eat(b',');
        if !more {
            scanner.require(b'}', Fault::ObjectEnd)?;
        }
    }
    Ok(())
}

/// Passes a set body or a batch element, without the space around it.
fn body_value<'a>(scanner: &mut Scanner<'a>) -> Result<Shape<'a>, JsonError> {
    if !scanner.eat(b'{') {
        scanner.value()?;
        return Ok(Shape::Bare { ttl: None });
    }
    let (mut value, mut ttl) = (None, None);
    let mut others = false;
    scanner.take_full();
    members(scanner, |scanner, name_at, quoted, escaped| {
        let start = scanner.place();
        scanner.value()?;
        let place = match Name::of(quoted, escaped) {
            Name::Value => Some((&mut value, "value")),
            Name::Ttl => Some((&mut ttl, "ttl")),
            Name::Other => None,
        };
        others |= place.is_none();
        if let Some((place, name)) = place
            && place.replace(scanner.since(start)).is_some()
        {
            return Err(JsonError {
                what: Fault::Doubled(name),
                at: name_at,
            });
        }
        Ok(())
    })?;
    match (value, scanner.take_full()) {
        (Some(value), _) if !others => Ok(Shape::Envelope { value, ttl }),
        // The object is the value, and a level of it.
        (_, Some(at)) => Err(JsonError {
            what: Fault::Depth,
            at,
        }),
        (_, None) => Ok(Shape::Bare { ttl }),
    }
}

/// The members that mean something at the top of a body.
enum Name {
    Value,
    Ttl,
    Other,
}

impl Name {
    /// The longest spelling of a name that means something: `value`, all of it escaped.
    const QUOTED_BYTES_MAX: usize = r#""\u0076\u0061\u006c\u0075\u0065""#.len();

    fn of(quoted: &str, escaped: bool) -> Self {
        match quoted {
            r#""value""# => Self::Value,
            r#""ttl""# => Self::Ttl,
            _ if escaped && quoted.len() <= Self::QUOTED_BYTES_MAX => {
                match serde_json::from_str::<String>(quoted).as_deref() {
                    Ok("value") => Self::Value,
                    Ok("ttl") => Self::Ttl,
                    _ => Self::Other,
                }
            }
            _ => Self::Other,
        }
    }
}
