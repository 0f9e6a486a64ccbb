//! One key at a time: get, set, delete; and clear.

use bytes::Bytes;
use warp::reply::Response;

use super::app::{App, Ready};
use super::body::{Incoming, Payload};
use super::budget::UNCOUNTED_BYTES_MAX;
use super::json::{self, Shape};
use super::refusal::Refusal;
use super::request::Head;
use super::{answer, condition, path};
use crate::state::{Form, ttl};
use crate::store::{Answer, Command, Error, Put, Reply, Started, Ttl};

/// What get and batch/get answer for a key that is not there any more.
pub(super) const NOTHING: &[u8] = b"{}";

/// `GET /api/kv/get/{key}`, up to its command.
pub(super) fn start_get(
    app: &App,
    ready: &Ready,
    head: &Head,
    key: &str,
) -> Result<Started, Refusal> {
    let key = path::key(key, app.limits.key_bytes)?;
    let unless = condition::of_get(head.conditions())?;
    Ok(ready.store.start(Command::Get { key, unless }))
}

/// The answer to it.
pub(super) fn answer_get(app: &App, outcome: Result<Reply, Error>) -> Result<Response, Refusal> {
    let Reply { sequence, answer } = outcome?;
    match answer {
        Answer::Found(found) => {
            let form = app.shown(found.form);
            // A bare value leaves without a copy. It takes memory all the same: a waiting answer keeps
            // a value that may have been overwritten or deleted since.
            let reservation = answer::reserve(&app.budget, found.value.len())?;
            let text = answer::formed(found.value, form);
            let mut response = answer::of_entry(sequence, text, found.version, found.deadline);
            answer::hold(&mut response, reservation);
            Ok(response)
        }
        Answer::NotModified { version, deadline } => {
            Ok(answer::not_modified(sequence, version, deadline))
        }
        Answer::Expired => Ok(answer::at(sequence, NOTHING)),
        Answer::Missing => Err(Refusal::KeyNotFound { sequence }),
        _ => Err(Refusal::Internal),
    }
}

/// `POST /api/kv/set/{key}`
pub(super) async fn set<B: Incoming>(
    app: &App,
    ready: &Ready,
    head: &Head,
    key: &str,
    payload: &mut Payload<B>,
) -> Result<Response, Refusal> {
    let key = path::key(key, app.limits.key_bytes)?;
    let asked = head.query().map_or(Ok(None), path::ttl)?;
    let condition = condition::of_write(head.conditions())?;
    let arrived = payload.read(app).await?;
    let bytes = arrived.bytes.as_slice();
    if bytes.is_empty() {
        return Err(Refusal::BodyEmpty);
    }
    let body = json::check_body(bytes)?;
    let (text, form, said) = match body.shape {
        Shape::Envelope { value, ttl } => (
            value,
            Form::Envelope,
            ttl.map_or(Ok(Ttl::None), ttl::parse_json)
                .map_err(Refusal::TtlInJson)?,
        ),
        Shape::Bare { ttl } => (body.text, Form::Bare, ttl.map_or(Ttl::None, ttl::bare_ttl)),
    };
    let limit = app.limits.value_bytes;
    if text.len() > limit {
        return Err(Refusal::ValueTooLarge {
            length: text.len(),
            limit,
        });
    }
    let value = if text.len() == bytes.len() {
        arrived.bytes.into_exact()
    } else {
        Bytes::copy_from_slice(text.as_bytes())
    };
    // A small value is copied for the answer: sharing its buffer would cost as much, and the store
    // would keep the counter of its owners for good.
    let shown = match form {
        Form::Bare if value.len() <= UNCOUNTED_BYTES_MAX => Bytes::copy_from_slice(&value),
        _ => answer::formed(value.clone(), form),
    };
    let put = Put {
        key,
        value,
        form,
        ttl: asked.unwrap_or(said),
    };
    let Reply { sequence, answer } = ready.store.call(Command::Set { put, condition }).await?;
    let (version, deadline) = match answer {
        Answer::Stored { version, deadline } => (version, deadline),
        Answer::ConditionFailed { version } => {
            return Err(Refusal::PreconditionFailed { sequence, version });
        }
        _ => return Err(Refusal::Internal),
    };
    let mut response = answer::of_entry(sequence, shown, version, deadline);
    answer::hold(&mut response, arrived.reservation);
    Ok(response)
}

/// `DELETE /api/kv/delete/{key}`
pub(super) async fn delete(
    app: &App,
    ready: &Ready,
    head: &Head,
    key: &str,
) -> Result<Response, Refusal> {
    let key = path::key(key, app.limits.key_bytes)?;
    let condition = condition::of_write(head.conditions())?;
    let Reply { sequence, answer } = ready.store.call(Command::Delete { key, condition }).await?;
    let text: &[u8] = match answer {
        Answer::Deleted(true) => br#"{"message":"deleted","deleted":true}"#,
        Answer::Deleted(false) => br#"{"message":"deleted","deleted":false}"#,
        Answer::ConditionFailed { version } => {
            return Err(Refusal::PreconditionFailed { sequence, version });
        }
        _ => return Err(Refusal::Internal),
    };
    Ok(answer::at(sequence, text))
}

/// `DELETE /api/kv/clear`
pub(super) async fn clear(ready: &Ready) -> Result<Response, Refusal> {
    let Reply { sequence, answer } = ready.store.call(Command::Clear).await?;
    match answer {
        Answer::Cleared => Ok(answer::at(sequence, &br#"{"message":"success"}"#[..])),
        _ => Err(Refusal::Internal),
    }
}
