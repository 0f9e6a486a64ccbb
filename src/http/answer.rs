//! How answers are made: JSON bodies and the headers that say which state they show.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue};
use warp::Reply;
use warp::reply::Response;

use super::budget::{Budget, Reservation};
use super::refusal::Refusal;
use super::slices::Slices;
use crate::state::{Form, ttl};

/// The place in the store's order that an answer shows.
const VERSION: HeaderName = HeaderName::from_static("x-kv-version");
/// When the value expires, as RFC 3339.
const EXPIRES_AT: HeaderName = HeaderName::from_static("x-kv-expires-at");

/// Twenty digits and two quotation marks.
const ENTITY_TAG_BYTES_MAX: usize = 22;

const ENVELOPE_HEAD: &[u8] = b"{\"value\":";
const ENVELOPE_TAIL: &[u8] = b"}";
/// What an envelope adds to a value, in bytes.
pub(super) const ENVELOPE_BYTES: usize = ENVELOPE_HEAD.len() + ENVELOPE_TAIL.len();

/// The headers of an answer about one entry, with two values to be filled in: a copy of them takes less than to
/// put them into a map, which hashes each name. They come out in the order in which they went in; the test below
/// would see another.
static OF_ENTRY: LazyLock<HeaderMap> = LazyLock::new(|| {
    // hyper uses an answer's map for the next request's headers: its index has room for those of most clients.
    let mut headers = HeaderMap::with_capacity(6);
    let later = HeaderValue::from_static("0");
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(VERSION, later.clone());
    headers.insert(ETAG, later);
    headers
});

/// An answer of status 200 with this JSON text.
pub(super) fn json(text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(text.into().into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer about keys, as of `sequence`.
pub(super) fn at(sequence: u64, text: impl Into<Bytes>) -> Response {
    let mut response = json(text);
    place(&mut response, sequence);
    response
}

/// An answer about one entry, as of `sequence`: its text, its version and its deadline in milliseconds, if it has
/// one.
pub(super) fn of_entry(
    sequence: u64,
    text: Bytes,
    version: u64,
    deadline: Option<u64>,
) -> Response {
    let mut headers = OF_ENTRY.clone();
    let values = [digits(sequence), entity_tag(version)];
    for (place, value) in headers.values_mut().skip(1).zip(values) {
        if let Some(value) = value {
            *place = value;
        }
    }
    expire_at(&mut headers, deadline);
    let mut response = Response::new(text.into());
    *response.headers_mut() = headers;
    response
}

/// An answer about keys whose text is made while it leaves.
pub(super) fn streamed(sequence: u64, slices: Slices) -> Response {
    let mut response = warp::reply::stream(slices).into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    place(&mut response, sequence);
    response
}

/// The answer to a caller that has the value already.
pub(super) fn not_modified(sequence: u64, version: u64, deadline: Option<u64>) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    place(&mut response, sequence);
    describe(&mut response, version, deadline);
    response
}

/// Says which place in the store's order an answer shows.
pub(super) fn place(response: &mut Response, sequence: u64) {
    if let Some(digits) = digits(sequence) {
        response.headers_mut().insert(VERSION, digits);
    }
}

/// The same for an answer that does not say it yet.
pub(super) fn place_if_nowhere(response: &mut Response, sequence: u64) {
    if !response.headers().contains_key(VERSION) {
        place(response, sequence);
    }
}

/// Adds what is known of one entry: its version and its deadline in milliseconds, if it has one.
pub(super) fn describe(response: &mut Response, version: u64, deadline: Option<u64>) {
    let headers = response.headers_mut();
    if let Some(tag) = entity_tag(version) {
        headers.insert(ETAG, tag);
    }
    expire_at(headers, deadline);
}

fn expire_at(headers: &mut HeaderMap, deadline: Option<u64>) {
    if let Some(deadline) = deadline
        && let Ok(time) = HeaderValue::try_from(ttl::format_rfc3339(deadline))
    {
        headers.insert(EXPIRES_AT, time);
    }
}

/// A number as a header's value, which digits always are.
fn digits(number: u64) -> Option<HeaderValue> {
    HeaderValue::from_str(itoa::Buffer::new().format(number)).ok()
}

/// `"<version>"`, made without the formatting machinery: it is on the path of every answer.
fn entity_tag(version: u64) -> Option<HeaderValue> {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(version).as_bytes();
    let mut quoted = [b'"'; ENTITY_TAG_BYTES_MAX];
    let end = digits.len().checked_add(1)?;
    quoted.get_mut(1..end)?.copy_from_slice(digits);
    HeaderValue::from_bytes(quoted.get(..=end)?).ok()
}

/// A value in the form in which it is answered. A bare one is not copied.
pub(super) fn formed(value: Bytes, form: Form) -> Bytes {
    match form {
        Form::Bare => value,
        Form::Envelope => {
            let mut text = Vec::with_capacity(value.len().saturating_add(ENVELOPE_BYTES));
            envelop(&mut text, &value);
            text.into()
        }
    }
}

/// Appends `{"value":…}`.
pub(super) fn envelop(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(ENVELOPE_HEAD);
    out.extend_from_slice(value);
    out.extend_from_slice(ENVELOPE_TAIL);
}

/// Appends a text as a JSON string.
pub(super) fn quote(out: &mut Vec<u8>, text: &str) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// The length of a text as [`quote`] writes it.
pub(super) fn quoted_length(text: &str) -> usize {
    let escapes = text.bytes().fold(0usize, |sum, byte| {
        sum.saturating_add(match byte {
            b'"' | b'\\' => 1,
            // At most: some have a shorter name.
            0..=0x1F => 5,
            _ => 0,
        })
    });
    text.len().saturating_add(escapes).saturating_add(2)
}

/// Memory for an answer of `length` bytes.
pub(super) fn reserve(budget: &Arc<Budget>, length: usize) -> Result<Reservation, Refusal> {
    if length > budget.limit() {
        return Err(Refusal::AnswerTooLarge {
            length,
            limit: budget.limit(),
        });
    }
    budget.reserve(length).ok_or(Refusal::InflightFull)
}

/// Keeps a reservation until the answer has left.
pub(super) fn hold(response: &mut Response, reservation: Reservation) {
    if reservation.is_counted() {
        // Extensions are cloned by no one here, but their bound asks for it: hence the Arc.
        response.extensions_mut().insert(Arc::new(reservation));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_any_length_are_told() {
        for version in [0, 7, 10, 4_294_967_296, u64::MAX] {
            let mut response = Response::default();
            place(&mut response, version);
            describe(&mut response, version, None);
            let headers = response.headers();
            assert_eq!(headers[VERSION], version.to_string());
            assert_eq!(headers[ETAG], format!("\"{version}\""));

            let deadline = Some(86_400_000);
            let response = of_entry(version, Bytes::new(), 7, deadline);
            let headers = response.headers();
            assert_eq!(headers.len(), 4);
            assert_eq!(headers[VERSION], version.to_string());
            assert_eq!(headers[ETAG], "\"7\"");
            assert_eq!(headers[CONTENT_TYPE], "application/json");
            assert_eq!(headers[EXPIRES_AT], "1970-01-02T00:00:00.000Z");
        }
    }
}
