//! Any text as a path segment and as a query: a key is decoded once, byte by byte, and every key has
//! a segment that names it.

use ekokv::http::fuzzing::{key, query_ttl};
use ekokv::state::ttl::parse_text;

const LIMIT_BYTES: usize = 64;

/// Percent decoding the plain way; `None` if an escape is malformed or the result is no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn encoded(key: &str) -> String {
    key.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };

    let expected = decoded(text).filter(|name| !name.is_empty() && name.len() <= LIMIT_BYTES);
    let found = key(text, LIMIT_BYTES);
    assert_eq!(found.as_deref().ok(), expected.as_deref());
    if let Err(message) = &found {
        assert!(!message.is_empty());
    }
    // Any text that is short enough is a key, and has a segment.
    let named = key(&encoded(text), LIMIT_BYTES);
    let possible = !text.is_empty() && text.len() <= LIMIT_BYTES;
    assert_eq!(named.as_deref().ok(), possible.then_some(text));

    let asked = query_ttl(text);
    assert_eq!(query_ttl(text), asked, "reading again gives the same");
    // A value reaches the TTL's own parser decoded, whatever is in it.
    let written = query_ttl(&format!("ttl={}", encoded(text)));
    assert_eq!(written.ok().flatten(), parse_text(text).ok());
}
