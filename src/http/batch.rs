//! Many keys at a time: batch/get, batch/set, batch/delete.
//!
//! - An answer lists the keys in the order of the request, each as often as it was named, spelled
//!   as it came.
//! - A key that cannot exist is missing; in a batch/set it is `false` and the others are set.

use bytes::Bytes;
use warp::reply::Response;

use super::answer::{self, ENVELOPE_BYTES};
use super::app::{App, Ready};
use super::batch_body::{Takes, parse};
use super::body::{Incoming, Payload};
use super::json::{self, Shape};
use super::key_value::NOTHING;
use super::refusal::Refusal;
use crate::state::{Form, KEY_BYTES_MAX, Key, ttl};
use crate::store::{Answer, Command, Put, Reply, Ttl};

/// `POST /api/kv/batch/get`
pub(super) async fn get<B: Incoming>(
    app: &App,
    ready: &Ready,
    payload: &mut Payload<B>,
) -> Result<Response, Refusal> {
    let arrived = payload.read(app).await?;
    let batch = parse(arrived.bytes.as_slice(), Takes::Keys, app.limits.batch_keys)?;
    let Keys { possible, places } = Keys::decode(&batch.keys)?;
    let Reply { sequence, answer } = ready
        .store
        .call(Command::BatchGet { keys: possible })
        .await?;
    let Answer::FoundMany(found) = answer else {
        return Err(Refusal::Internal);
    };

    let length = found.iter().flatten().fold(
        places.len().saturating_mul(NOTHING.len() + 1),
        |sum, one| {
            sum.saturating_add(one.value.len())
                .saturating_add(ENVELOPE_BYTES)
        },
    );
    let reservation = answer::reserve(&app.budget, length)?;
    let mut text = Vec::with_capacity(length.saturating_add(2));
    let mut found = found.iter();
    list(&mut text, &places, |text, possible| {
        match if *possible { found.next() } else { None } {
            Some(Some(found)) => show(text, &found.value, app.shown(found.form)),
            _ => text.extend_from_slice(NOTHING),
        }
    });
    let mut response = answer::at(sequence, text);
    answer::hold(&mut response, reservation);
    Ok(response)
}

/// `POST /api/kv/batch/set`
pub(super) async fn set<B: Incoming>(
    app: &App,
    ready: &Ready,
    payload: &mut Payload<B>,
) -> Result<Response, Refusal> {
    let arrived = payload.read(app).await?;
    let batch = parse(
        arrived.bytes.as_slice(),
        Takes::Values,
        app.limits.batch_keys,
    )?;
    let all = batch
        .ttl
        .map_or(Ok(Ttl::None), ttl::parse_json)
        .map_err(Refusal::TtlInJson)?;
    let mut puts = Vec::with_capacity(batch.keys.len());
    let mut outcomes = Vec::with_capacity(batch.keys.len());
    for (index, (key, value)) in batch.keys.iter().zip(&batch.values).enumerate() {
        let named = decode(key)?;
        let (value, ttl) = element(value, all, index)?;
        let fits =
            is_possible(&named, app.limits.key_bytes) && value.len() <= app.limits.value_bytes;
        outcomes.push((*key, fits));
        if fits {
            let value = Bytes::copy_from_slice(value.as_bytes());
            puts.push(Put {
                key: named,
                value,
                form: Form::Envelope,
                ttl,
            });
        }
    }
    let Reply { sequence, answer } = ready.store.call(Command::BatchSet { puts }).await?;
    let Answer::StoredMany = answer else {
        return Err(Refusal::Internal);
    };
    Ok(answer::at(sequence, outcome_list(&outcomes)))
}

/// `DELETE` or `POST /api/kv/batch/delete`
pub(super) async fn delete<B: Incoming>(
    app: &App,
    ready: &Ready,
    payload: &mut Payload<B>,
) -> Result<Response, Refusal> {
    let arrived = payload.read(app).await?;
    let batch = parse(arrived.bytes.as_slice(), Takes::Keys, app.limits.batch_keys)?;
    let Keys { possible, places } = Keys::decode(&batch.keys)?;
    let Reply { sequence, answer } = ready
        .store
        .call(Command::BatchDelete { keys: possible })
        .await?;
    let Answer::DeletedMany(deleted) = answer else {
        return Err(Refusal::Internal);
    };
    let mut deleted = deleted.into_iter();
    let outcomes: Vec<_> = batch
        .keys
        .iter()
        .zip(places)
        .map(|(key, possible)| (*key, possible && deleted.next() == Some(true)))
        .collect();
    Ok(answer::at(sequence, outcome_list(&outcomes)))
}

/// The keys of a request.
struct Keys {
    /// Those that can exist, in order.
    possible: Vec<Key>,
    /// For each key of the request whether it is one of them.
    places: Vec<bool>,
}

impl Keys {
    /// A limit that was lowered hides no key from those who read or delete.
    fn decode(texts: &[&str]) -> Result<Self, Refusal> {
        let mut possible = Vec::with_capacity(texts.len());
        let mut places = Vec::with_capacity(texts.len());
        for text in texts {
            let key = decode(text)?;
            let is_possible = is_possible(&key, KEY_BYTES_MAX);
            places.push(is_possible);
            if is_possible {
                possible.push(key);
            }
        }
        Ok(Self { possible, places })
    }
}

/// The key of a JSON text.
fn decode(text: &str) -> Result<Key, Refusal> {
    serde_json::from_str(text).map_err(|_| Refusal::Shape("a key is not a string".to_owned()))
}

/// Whether there can be such a key.
fn is_possible(key: &str, limit: usize) -> bool {
    (1..=limit).contains(&key.len())
}

/// The value and the TTL of an element, where `all` is the TTL of the batch. In an element that is
/// no envelope, a member `ttl` is data.
fn element(text: &str, all: Ttl, index: usize) -> Result<(&str, Ttl), Refusal> {
    let body = json::check_body_text(text).map_err(|error| Refusal::BatchValue { index, error })?;
    match body.shape {
        Shape::Envelope {
            value,
            ttl: Some(ttl),
        } => {
            let own = ttl::parse_json(ttl).map_err(|error| Refusal::BatchTtl { index, error })?;
            Ok((value, own))
        }
        Shape::Envelope { value, ttl: None } => Ok((value, all)),
        Shape::Bare { .. } => Ok((body.text, all)),
    }
}

/// Appends a found value as batch/get answers it: SDKs decode nothing but objects there.
fn show(text: &mut Vec<u8>, value: &[u8], form: Form) {
    if form == Form::Bare || value.starts_with(b"{") {
        text.extend_from_slice(value);
    } else {
        answer::envelop(text, value);
    }
}

/// `[[key, outcome], …]`, with keys as JSON texts.
fn outcome_list(outcomes: &[(&str, bool)]) -> Vec<u8> {
    let length = outcomes.iter().fold(2usize, |sum, (key, _)| {
        sum.saturating_add(key.len())
            .saturating_add("[,false],".len())
    });
    let mut text = Vec::with_capacity(length);
    list(&mut text, outcomes, |text, (key, outcome)| {
        text.push(b'[');
        text.extend_from_slice(key.as_bytes());
        text.extend_from_slice(if *outcome { b",true]" } else { b",false]" });
    });
    text
}

/// Appends a JSON list.
fn list<T>(text: &mut Vec<u8>, items: &[T], mut each: impl FnMut(&mut Vec<u8>, &T)) {
    text.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        each(text, item);
    }
    text.push(b']');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_envelope_that_is_no_object_is_wrapped_for_sdks() {
        for (value, form, shown) in [
            ("1", Form::Bare, "1"),
            ("{\"a\":1}", Form::Bare, "{\"a\":1}"),
            ("1", Form::Envelope, "{\"value\":1}"),
            ("[1]", Form::Envelope, "{\"value\":[1]}"),
            ("null", Form::Envelope, "{\"value\":null}"),
            ("{\"a\":1}", Form::Envelope, "{\"a\":1}"),
        ] {
            let mut text = Vec::new();
            show(&mut text, value.as_bytes(), form);
            assert_eq!(String::from_utf8(text).unwrap(), shown);
        }
    }

    #[test]
    fn an_elements_own_ttl_wins_and_a_bare_ones_is_data() {
        let hour = Ttl::After(Duration::from_secs(3600));
        let second = Ttl::After(Duration::from_secs(1));
        for (text, value, ttl) in [
            ("1", "1", hour),
            (r#"{"value":1}"#, "1", hour),
            (r#"{"value":1,"ttl":1}"#, "1", second),
            (r#"{"value":1,"ttl":null}"#, "1", Ttl::None),
            (r#"{"ttl":1}"#, r#"{"ttl":1}"#, hour),
            (
                r#"{"value":1,"a":1,"ttl":1}"#,
                r#"{"value":1,"a":1,"ttl":1}"#,
                hour,
            ),
        ] {
            assert_eq!(element(text, hour, 0).unwrap(), (value, ttl), "{text}");
        }
        assert!(matches!(
            element(r#"{"value":1,"ttl":0}"#, hour, 3),
            Err(Refusal::BatchTtl { index: 3, .. })
        ));
        assert!(matches!(
            element(r#"{"ttl":1,"ttl":1}"#, hour, 4),
            Err(Refusal::BatchValue { index: 4, .. })
        ));
    }
}
