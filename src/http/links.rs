//! Links from a key to documents: the routes by path, and those of older clients by body.
//!
//! A collection and a record id are names as a key is one: not empty, at most `--max-key-bytes`.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use warp::reply::Response;

use super::answer;
use super::app::{App, Ready};
use super::body::{Incoming, Payload};
use super::object;
use super::path::{self, Part};
use super::refusal::Refusal;
use crate::state::{Key, Link, ttl};
use crate::store::{Answer, Command, Reply};

/// A link as a path names it; its parts are still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkPath<'a> {
    /// The key.
    pub(super) key: &'a str,
    /// The document's collection.
    pub(super) collection: &'a str,
    /// The document's id.
    pub(super) record_id: &'a str,
}

/// What a link is between.
struct Ends {
    key: Key,
    collection: Box<str>,
    record_id: Box<str>,
}

/// The body of a link, which may be left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payloaded<'a> {
    // `null` is none, as clients send what they do not have.
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// The body of older clients.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    key: Key,
    collection: Box<str>,
    document_id: Box<str>,
}

/// How an answer is made up: as the path routes have it, or in an object for older clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `null`, and a list.
    Plain,
    /// An object that says the same.
    Object,
}

/// `POST /api/kv/{key}/links/{collection}/{record_id}`
pub(super) async fn link<B: Incoming>(
    app: &App,
    ready: &Ready,
    path: LinkPath<'_>,
    payload: &mut Payload<B>,
) -> Result<Response, Refusal> {
    let ends = Ends::of_path(app, path)?;
    let arrived = payload.read(app).await?;
    let metadata = match arrived.bytes.as_slice() {
        b"" => None,
        bytes => metadata(bytes, app.limits.value_bytes)?,
    };
    put(ready, ends, metadata, Style::Plain).await
}

/// `DELETE /api/kv/{key}/links/{collection}/{record_id}`
pub(super) async fn unlink(
    app: &App,
    ready: &Ready,
    path: LinkPath<'_>,
) -> Result<Response, Refusal> {
    remove(ready, Ends::of_path(app, path)?, Style::Plain).await
}

/// `POST /api/kv/link`
pub(super) async fn link_named<B: Incoming>(
    app: &App,
    ready: &Ready,
    payload: &mut Payload<B>,
) -> Result<Response, Refusal> {
    let arrived = payload.read(app).await?;
    let ends = Ends::of_body(app, arrived.bytes.as_slice())?;
    put(ready, ends, None, Style::Object).await
}

/// `POST /api/kv/unlink`
pub(super) async fn unlink_named<B: Incoming>(
    app: &App,
    ready: &Ready,
    payload: &mut Payload<B>,
) -> Result<Response, Refusal> {
    let arrived = payload.read(app).await?;
    let ends = Ends::of_body(app, arrived.bytes.as_slice())?;
    remove(ready, ends, Style::Object).await
}

/// `GET /api/kv/{key}/links` and `GET /api/kv/links/{key}`
pub(super) async fn list(
    app: &App,
    ready: &Ready,
    key: &str,
    style: Style,
) -> Result<Response, Refusal> {
    let key = path::key(key, app.limits.key_bytes)?;
    let Reply { sequence, answer } = ready.store.call(Command::Links { key }).await?;
    let links = match answer {
        Answer::Links(links) => links,
        Answer::Missing => return Err(Refusal::KeyNotFound { sequence }),
        _ => return Err(Refusal::Internal),
    };
    let length = links
        .iter()
        .fold(OBJECT_HEAD.len().saturating_add(3), |sum, link| {
            sum.saturating_add(length(link))
        });
    let reservation = answer::reserve(&app.budget, length)?;
    let mut text = Vec::with_capacity(length);
    if style == Style::Object {
        text.extend_from_slice(OBJECT_HEAD);
    }
    text.push(b'[');
    for (index, link) in links.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        show(&mut text, link);
    }
    text.push(b']');
    if style == Style::Object {
        text.push(b'}');
    }
    let mut response = answer::at(sequence, text);
    answer::hold(&mut response, reservation);
    Ok(response)
}

const OBJECT_HEAD: &[u8] = b"{\"links\":";

async fn put(
    ready: &Ready,
    ends: Ends,
    metadata: Option<Bytes>,
    style: Style,
) -> Result<Response, Refusal> {
    let command = Command::Link {
        key: ends.key,
        collection: ends.collection,
        record_id: ends.record_id,
        metadata,
    };
    let Reply { sequence, answer } = ready.store.call(command).await?;
    match (answer, style) {
        (Answer::Linked, Style::Plain) => Ok(answer::at(sequence, &b"null"[..])),
        (Answer::Linked, Style::Object) => Ok(answer::at(sequence, &br#"{"status":"linked"}"#[..])),
        (Answer::Missing, _) => Err(Refusal::KeyNotFound { sequence }),
        _ => Err(Refusal::Internal),
    }
}

async fn remove(ready: &Ready, ends: Ends, style: Style) -> Result<Response, Refusal> {
    let command = Command::Unlink {
        key: ends.key,
        collection: ends.collection,
        record_id: ends.record_id,
    };
    let Reply { sequence, answer } = ready.store.call(command).await?;
    match (answer, style) {
        (Answer::Unlinked, Style::Plain) => Ok(answer::at(sequence, &b"null"[..])),
        (Answer::Unlinked, Style::Object) => {
            Ok(answer::at(sequence, &br#"{"status":"unlinked"}"#[..]))
        }
        (Answer::Missing, _) => Err(Refusal::KeyNotFound { sequence }),
        (Answer::NotLinked, _) => Err(Refusal::LinkNotFound { sequence }),
        _ => Err(Refusal::Internal),
    }
}

impl Ends {
    fn of_path(app: &App, path: LinkPath<'_>) -> Result<Self, Refusal> {
        let limit = app.limits.key_bytes;
        Ok(Self {
            key: path::key(path.key, limit)?,
            collection: path::name(path.collection, Part::Collection, limit)?,
            record_id: path::name(path.record_id, Part::RecordId, limit)?,
        })
    }

    fn of_body(app: &App, bytes: &[u8]) -> Result<Self, Refusal> {
        let Named {
            key,
            collection,
            document_id,
        } = object::parse(
            bytes,
            "an object with the strings \"key\", \"collection\" and \"document_id\"",
        )?;
        let limit = app.limits.key_bytes;
        path::check(&key, Part::Key, limit)?;
        path::check(&collection, Part::Collection, limit)?;
        path::check(&document_id, Part::RecordId, limit)?;
        Ok(Self {
            key,
            collection,
            record_id: document_id,
        })
    }
}

/// The metadata of a body, as its text came.
fn metadata(bytes: &[u8], limit: usize) -> Result<Option<Bytes>, Refusal> {
    let Payloaded { metadata } =
        object::parse(bytes, "an object with the member \"metadata\", or none,")?;
    let Some(text) = metadata.map(RawValue::get) else {
        return Ok(None);
    };
    if text.len() > limit {
        return Err(Refusal::MetadataTooLarge {
            length: text.len(),
            limit,
        });
    }
    Ok(Some(Bytes::copy_from_slice(text.as_bytes())))
}

/// The length of a link's text, with a comma.
fn length(link: &Link) -> usize {
    const FRAME_BYTES: usize = r#",{"collection":,"record_id":,"document_id":,"metadata":{},"created_at":"9999-12-31T23:59:59.999Z"}"#.len();
    answer::quoted_length(&link.record_id)
        .saturating_mul(2)
        .saturating_add(answer::quoted_length(&link.collection))
        .saturating_add(link.metadata.as_ref().map_or(0, Bytes::len))
        .saturating_add(FRAME_BYTES)
}

/// Appends a link. Newer clients call the id of a document a record id, older ones a document id.
fn show(text: &mut Vec<u8>, link: &Link) {
    text.extend_from_slice(b"{\"collection\":");
    answer::quote(text, &link.collection);
    text.extend_from_slice(b",\"record_id\":");
    answer::quote(text, &link.record_id);
    text.extend_from_slice(b",\"document_id\":");
    answer::quote(text, &link.record_id);
    text.extend_from_slice(b",\"metadata\":");
    text.extend_from_slice(link.metadata.as_deref().unwrap_or(b"{}"));
    text.extend_from_slice(b",\"created_at\":\"");
    text.extend_from_slice(ttl::format_rfc3339(link.created_at).as_bytes());
    text.extend_from_slice(b"\"}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_any_json_and_kept_as_it_came() {
        for (body, expected) in [
            (r#"{}"#, None),
            (r#" { } "#, None),
            (r#"{"metadata":null}"#, None),
            (r#"{"metadata": 1.50 }"#, Some("1.50")),
            (
                r#"{"metadata":{"a" : [1e400]}}"#,
                Some(r#"{"a" : [1e400]}"#),
            ),
            (r#"{"metadata":"null"}"#, Some("\"null\"")),
            (r#"{"metadata":false}"#, Some("false")),
        ] {
            let found = metadata(body.as_bytes(), 100).unwrap();
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{body}");
        }
        for body in [
            "[]",
            "null",
            r#"{"meta":1}"#,
            r#"{"metadata":1,"metadata":1}"#,
            r#"{"metadata":1,"field_path":"a"}"#,
        ] {
            let refusal = metadata(body.as_bytes(), 100).unwrap_err();
            assert!(matches!(refusal, Refusal::Shape(_)), "{body}: {refusal:?}");
        }
        assert!(matches!(
            metadata(br#"{"metadata":"123"}"#, 4),
            Err(Refusal::MetadataTooLarge {
                length: 5,
                limit: 4
            })
        ));
    }

    #[test]
    fn a_links_length_is_enough() {
        for metadata in [None, Some(Bytes::from_static(b"[1]"))] {
            let link = Link {
                collection: "a\"b".into(),
                record_id: "é\n".into(),
                metadata,
                created_at: 0,
            };
            let mut text = Vec::new();
            show(&mut text, &link);
            assert!(text.len() < length(&link));
            let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(read["collection"], "a\"b");
            assert_eq!(read["record_id"], read["document_id"]);
            assert_eq!(read["created_at"], "1970-01-01T00:00:00.000Z");
        }
    }
}
