//! How answers are made: JSON bodies and the headers that say which state they show.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use warp::reply::Response;

use super::budget::{Budget, Reservation};
use super::refusal::Refusal;
use crate::state::{Form, ttl};

/// The place in the store's order that an answer shows.
pub(super) const VERSION: HeaderName = HeaderName::from_static("x-kv-version");
/// When the value expires, as RFC 3339.
const EXPIRES_AT: HeaderName = HeaderName::from_static("x-kv-expires-at");

const ENVELOPE_HEAD: &[u8] = b"{\"value\":";
const ENVELOPE_TAIL: &[u8] = b"}";
/// What an envelope adds to a value, in bytes.
pub(super) const ENVELOPE_BYTES: usize = ENVELOPE_HEAD.len() + ENVELOPE_TAIL.len();

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
    response
        .headers_mut()
        .insert(VERSION, HeaderValue::from(sequence));
    response
}

/// Adds what is known of one entry: its version and its deadline in milliseconds, if it has one.
pub(super) fn describe(response: &mut Response, version: u64, deadline: Option<u64>) {
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
        headers.insert(ETAG, tag);
    }
    if let Some(deadline) = deadline
        && let Ok(time) = HeaderValue::try_from(ttl::format_rfc3339(deadline))
    {
        headers.insert(EXPIRES_AT, time);
    }
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
