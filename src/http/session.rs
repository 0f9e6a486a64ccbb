//! `POST /api/auth/token`: a token for an API key.

use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::Deserialize;
use warp::reply::Response;

use super::answer;
use super::app::{App, Ready};
use super::body::{Incoming, Payload};
use super::budget::UNCOUNTED_BYTES_MAX;
use super::object;
use super::refusal::Refusal;
use super::request::Head;

/// The most bytes of an exchange. Whoever sends one is nobody yet: it takes nothing from the budget
/// that all others share.
const EXCHANGE_BYTES_MAX: usize = 4 * 1024;

const _: () = assert!(EXCHANGE_BYTES_MAX <= UNCOUNTED_BYTES_MAX);

/// The body. Other members are ignored: clients of other versions may say more.
#[derive(Deserialize)]
struct Exchange {
    api_key: String,
}

/// Exchanges an API key for a token.
pub(super) async fn token<B: Incoming>(
    app: &App,
    ready: &Ready,
    head: &Head,
    payload: &mut Payload<B>,
) -> Result<Response, Refusal> {
    let arrived = payload
        .read_within(app, EXCHANGE_BYTES_MAX)
        .await
        .map_err(|refusal| match refusal {
            Refusal::BodyTooLarge { limit } => Refusal::ExchangeTooLarge { limit },
            other => other,
        })?;
    let expected = "an object with a member \"api_key\", a string,";
    let Exchange { api_key } = match object::parse(arrived.bytes.as_slice(), expected) {
        // What the parser says may quote a key that was sent in the wrong place.
        Err(Refusal::Shape(_)) => {
            return Err(Refusal::shape(format_args!("{expected} is expected")));
        }
        parsed => parsed?,
    };
    let keyring = ready.store.keyring();
    let Some(key) = keyring.authenticate(&api_key) else {
        tracing::warn!(peer = %head.peer, "an API key was refused");
        return Err(Refusal::ApiKey);
    };
    let token = ready
        .tokens
        .issue(key, app.clock.now_ms())
        .map_err(|_| Refusal::Internal)?;
    let mut response = answer::json(serde_json::json!({ "token": token }).to_string());
    // RFC 6749, section 5.1: no cache may keep a token.
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
