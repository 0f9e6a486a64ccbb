//! Any text as a TTL, in a query, in JSON and in a bare object: what is accepted lies within the
//! bounds, means the same everywhere, and a time that is shown reads back.

use std::time::Duration;

use ekokv::state::ttl::{SPAN_MS_MAX, Ttl, bare_ttl, format_rfc3339, parse_json, parse_text};

/// The last millisecond that RFC 3339 can say.
const LAST_MS: u64 = 253_402_300_799_999;

fn within_bounds(ttl: Ttl) {
    match ttl {
        Ttl::None => {}
        Ttl::After(span) => {
            assert!(span > Duration::ZERO && span <= Duration::from_millis(SPAN_MS_MAX));
        }
        Ttl::At(ms) => {
            assert!(ms <= LAST_MS);
            assert_eq!(parse_text(&format_rfc3339(ms)), Ok(Ttl::At(ms)));
        }
    }
}

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let quoted = serde_json::to_string(text).unwrap();

    let asked = parse_text(text);
    assert_eq!(parse_text(text), asked, "reading again gives the same");
    if let Ok(ttl) = asked {
        within_bounds(ttl);
    }
    // A JSON string means what the query means, but that `none` is spelt null there.
    if text != "none" {
        assert_eq!(parse_json(&quoted), asked);
    }
    // A bare object takes the spans; everything else in it is data.
    let span = asked.ok().filter(|ttl| matches!(ttl, Ttl::After(_)));
    assert_eq!(bare_ttl(&quoted), span.unwrap_or(Ttl::None));

    // As JSON text: what is no string is whole seconds, or null.
    let member = parse_json(text);
    if let Ok(ttl) = member {
        within_bounds(ttl);
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        assert!(digits || text == "null" || text.starts_with('"'));
        if digits {
            assert_eq!(asked, member);
        }
    }
    let span = member.ok().filter(|ttl| matches!(ttl, Ttl::After(_)));
    assert_eq!(bare_ttl(text), span.unwrap_or(Ttl::None));

    // Any number is a time that can be shown, and up to the last one it reads back.
    if let Some(first) = bytes.first_chunk() {
        let ms = u64::from_le_bytes(*first);
        assert_eq!(
            parse_text(&format_rfc3339(ms)),
            Ok(Ttl::At(ms.min(LAST_MS)))
        );
        within_bounds(Ttl::At(ms % LAST_MS));
    }
}
