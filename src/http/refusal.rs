//! Every way in which a request is refused, and the one place where that becomes a status.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use hyper::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::reply::Response;

use super::answer;
use super::condition::ConditionError;
use super::json::{BatchError, JsonError};
use super::path::Part;
use crate::auth;
use crate::state::find::QueryError;
use crate::state::ttl::TtlError;
use crate::store;

/// Names one request in an error and in the log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Seconds after which a caller that met a full or loading server should come back.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request is refused; the sentence goes to the caller.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is nothing at this path")]
    UnknownRoute,
    #[error(
        "there is nothing at this path: a key is one path segment, write \"/\" in a key as %2F and \
         end the path without a slash"
    )]
    ExtraSegment,
    #[error("this path does not take this method, only {allow}")]
    Method { allow: &'static str },
    #[error("the request could not be understood: a header is not readable text")]
    Header,
    #[error("{0}")]
    Token(#[from] auth::Refusal),
    #[error("the API key is not known here")]
    ApiKey,
    #[error("this needs the role admin")]
    Forbidden,
    #[error("the {part} is empty")]
    NameEmpty { part: Part },
    #[error("the {part} is not percent-encoded UTF-8: write \"%\" in a {part} as %25")]
    NameEncoding { part: Part },
    #[error(
        "the {part} has {length} bytes and the limit is {limit} (--max-key-bytes, \
         EKOKV_MAX_KEY_BYTES)"
    )]
    NameTooLong {
        part: Part,
        length: usize,
        limit: usize,
    },
    #[error("the key does not exist")]
    KeyNotFound { sequence: u64 },
    #[error("the key has no such link")]
    LinkNotFound { sequence: u64 },
    #[error("{0}")]
    Condition(#[from] ConditionError),
    #[error("{}", precondition(*.version))]
    PreconditionFailed { sequence: u64, version: Option<u64> },
    #[error("the query is not percent-encoded UTF-8")]
    QueryEncoding,
    #[error("the query has more than one ttl")]
    QueryTtlTwice,
    #[error("the query has a parameter that is not known here; known is ttl")]
    QueryUnknown,
    #[error("{0}")]
    Ttl(#[from] TtlError),
    #[error("the body is empty: JSON is expected")]
    BodyEmpty,
    #[error("{0}")]
    Json(#[from] JsonError),
    #[error("{0}; a + in a query stands for a space: write it as %2B")]
    TtlPlus(TtlError),
    #[error("{}", ttl_in_json(*.0))]
    TtlInJson(TtlError),
    #[error("key {index} of the batch is not acceptable JSON: {} at byte {} of it", .error.what, .error.at)]
    BatchKey { index: usize, error: JsonError },
    #[error("value {index} of the batch is not acceptable JSON: {} at byte {} of it", .error.what, .error.at)]
    BatchValue { index: usize, error: JsonError },
    #[error("value {index} of the batch: {}", ttl_in_json(*.error))]
    BatchTtl { index: usize, error: TtlError },
    #[error("the body is not what is expected here: {0}")]
    Shape(String),
    #[error("the body is empty: an object is expected, and {{}} finds all keys")]
    FindEmpty,
    #[error("the body is not a find: {0}")]
    Find(String),
    #[error("{0}")]
    Pattern(#[from] QueryError),
    #[error(
        "the lists differ in length (keys: {keys}, values: {values}): there is one value for each key"
    )]
    BatchLengths { keys: usize, values: usize },
    #[error(
        "the batch has {length} keys and the limit is {limit} (--max-batch-keys, \
         EKOKV_MAX_BATCH_KEYS)"
    )]
    BatchTooLong { length: usize, limit: usize },
    #[error(
        "the value has {length} bytes and the limit is {limit} (--max-value-bytes, \
         EKOKV_MAX_VALUE_BYTES)"
    )]
    ValueTooLarge { length: usize, limit: usize },
    #[error(
        "the metadata has {length} bytes and the limit is {limit} (--max-value-bytes, \
         EKOKV_MAX_VALUE_BYTES)"
    )]
    MetadataTooLarge { length: usize, limit: usize },
    #[error(
        "the body has more than {limit} bytes, which is the limit (--max-body-bytes, \
         EKOKV_MAX_BODY_BYTES)"
    )]
    BodyTooLarge { limit: usize },
    #[error("the body has more than {limit} bytes, which is the limit for an API key's exchange")]
    ExchangeTooLarge { limit: usize },
    #[error(
        "the answer would have {length} bytes and the limit is {limit} (--max-inflight-bytes, \
         EKOKV_MAX_INFLIGHT_BYTES): ask for fewer keys at a time"
    )]
    AnswerTooLarge { length: usize, limit: usize },
    #[error("the body ended before it was complete")]
    BodyCut,
    #[error("the body did not arrive in time")]
    BodySlow,
    #[error(
        "requests and answers under way fill --max-inflight-bytes (EKOKV_MAX_INFLIGHT_BYTES): try \
         again in a second"
    )]
    InflightFull,
    #[error("the store is being loaded: try again in a second")]
    Loading,
    #[error("the server is stopping")]
    Stopping,
    #[error("{0}")]
    Store(#[from] store::Error),
    #[error("the server met an error of its own")]
    Internal,
}

/// What a failed condition has met.
fn precondition(version: Option<u64>) -> String {
    match version {
        Some(version) => format!("the condition does not hold: the key has version {version}"),
        None => "the condition does not hold: the key does not exist".to_owned(),
    }
}

/// What is wrong with a TTL in a body. There `null` is the only word for none.
fn ttl_in_json(error: TtlError) -> String {
    error.to_string().replace("none (null in JSON)", "null")
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Body(error) => Self::Json(error),
            BatchError::Key { index, error } => Self::BatchKey { index, error },
            BatchError::Value { index, error } => Self::BatchValue { index, error },
        }
    }
}

impl Refusal {
    /// A body of another shape, in a sentence of ours.
    pub(super) fn shape(sentence: impl fmt::Display) -> Self {
        Self::Shape(sentence.to_string())
    }

    /// A body of another shape, which is JSON, as a parser found it. The parser quotes what it met;
    /// that is the caller's text and perhaps a secret, so only what it expected is repeated.
    pub(super) fn parsed(error: &serde_json::Error) -> Self {
        let sentence = error.to_string();
        let Some((met, rest)) = sentence.rsplit_once(", expected ") else {
            return Self::Shape(sentence);
        };
        let (expected, place) = rest.split_once(" at line ").unwrap_or((rest, "?"));
        Self::Shape(if met.starts_with("unknown field") {
            let known = expected.strip_prefix("one of ").unwrap_or(expected);
            format!("it has a member that is not known here at line {place}; possible is {known}")
        } else {
            let expected = match expected {
                "u64" => "a whole number",
                other => other,
            };
            format!("{expected} is expected at line {place}")
        })
    }

    /// Status and code: what a program goes by.
    fn class(&self) -> (StatusCode, &'static str) {
        match self {
            Self::UnknownRoute | Self::ExtraSegment => (StatusCode::NOT_FOUND, "not_found"),
            Self::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Header => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Token(auth::Refusal::Missing) => (StatusCode::UNAUTHORIZED, "missing_token"),
            Self::Token(auth::Refusal::Expired) => (StatusCode::UNAUTHORIZED, "token_expired"),
            Self::Token(_) => (StatusCode::UNAUTHORIZED, "invalid_token"),
            Self::ApiKey => (StatusCode::UNAUTHORIZED, "invalid_api_key"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NameEmpty { part: Part::Key } | Self::NameEncoding { part: Part::Key } => {
                (StatusCode::BAD_REQUEST, "invalid_key")
            }
            Self::NameTooLong {
                part: Part::Key, ..
            } => (StatusCode::BAD_REQUEST, "key_too_long"),
            Self::NameEmpty { .. } | Self::NameEncoding { .. } | Self::NameTooLong { .. } => {
                (StatusCode::BAD_REQUEST, "invalid_link")
            }
            Self::KeyNotFound { .. } => (StatusCode::NOT_FOUND, "key_not_found"),
            Self::LinkNotFound { .. } => (StatusCode::NOT_FOUND, "link_not_found"),
            Self::Condition(_) => (StatusCode::BAD_REQUEST, "invalid_condition"),
            Self::PreconditionFailed { .. } => {
                (StatusCode::PRECONDITION_FAILED, "precondition_failed")
            }
            Self::QueryEncoding | Self::QueryUnknown => (StatusCode::BAD_REQUEST, "invalid_query"),
            Self::QueryTtlTwice
            | Self::Ttl(_)
            | Self::TtlPlus(_)
            | Self::TtlInJson(_)
            | Self::BatchTtl { .. }
            | Self::Store(store::Error::TtlOutOfRange { .. }) => {
                (StatusCode::BAD_REQUEST, "invalid_ttl")
            }
            Self::BodyEmpty
            | Self::FindEmpty
            | Self::Json(_)
            | Self::BatchKey { .. }
            | Self::BatchValue { .. } => (StatusCode::BAD_REQUEST, "invalid_json"),
            Self::Find(_) => (StatusCode::BAD_REQUEST, "invalid_find"),
            Self::Pattern(_) => (StatusCode::BAD_REQUEST, "invalid_pattern"),
            Self::Shape(_) | Self::BatchLengths { .. } => (StatusCode::BAD_REQUEST, "invalid_body"),
            Self::BatchTooLong { .. } => (StatusCode::BAD_REQUEST, "too_many_keys"),
            Self::ValueTooLarge { .. } | Self::MetadataTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "value_too_large")
            }
            Self::BodyTooLarge { .. } | Self::ExchangeTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large")
            }
            Self::AnswerTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "answer_too_large"),
            Self::BodyCut => (StatusCode::BAD_REQUEST, "incomplete_body"),
            Self::BodySlow => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::InflightFull | Self::Store(store::Error::Busy { .. }) => {
                (StatusCode::TOO_MANY_REQUESTS, "busy")
            }
            Self::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
            Self::Stopping | Self::Store(store::Error::Stopping) => {
                (StatusCode::SERVICE_UNAVAILABLE, "stopping")
            }
            Self::Store(store::Error::LinksFull { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_many_links")
            }
            Self::Store(store::Error::MemoryFull { .. }) => {
                (StatusCode::INSUFFICIENT_STORAGE, "memory_full")
            }
            Self::Store(store::Error::SpaceFull { .. }) => {
                (StatusCode::INSUFFICIENT_STORAGE, "disk_full")
            }
            Self::Store(store::Error::NotCompacted { .. }) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "not_compacted")
            }
            Self::Store(store::Error::OutcomeUnknown) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "outcome_unknown")
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// Adds the headers that the refusal asks for.
    fn describe(&self, response: &mut Response) {
        match self {
            // Answers about a key, too: they show the store as of a place in its order.
            Self::KeyNotFound { sequence }
            | Self::LinkNotFound { sequence }
            | Self::PreconditionFailed { sequence, .. } => {
                answer::place(response, *sequence);
            }
            Self::Method { allow } => {
                let headers = response.headers_mut();
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            _ => {}
        }
        if let Self::PreconditionFailed {
            version: Some(version),
            ..
        } = self
        {
            answer::describe(response, *version, None);
        }
        let header = match response.status() {
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                (RETRY_AFTER, RETRY_AFTER_SECONDS)
            }
            _ => return,
        };
        response.headers_mut().extend([header]);
    }

    /// The answer that tells the caller.
    pub(super) fn response(&self) -> Response {
        let (status, code) = self.class();
        let id = request_id();
        let body = serde_json::json!({
            "code": status.as_u16(),
            "error": code,
            "message": self.to_string(),
            "request_id": id,
        });
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(request_id = id, error = code, "a request failed");
        }
        let mut response = answer::json(body.to_string());
        *response.status_mut() = status;
        self.describe(&mut response);
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::try_from(id) {
            headers.insert(REQUEST_ID, id);
        }
        response
    }
}

/// A name for a request that no other request of this process has, nor likely one of another.
fn request_id() -> String {
    static PREFIX: OnceLock<u32> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(1);
    // Without randomness the ids of two processes may meet, which confuses nobody but a log reader.
    let prefix = PREFIX.get_or_init(|| getrandom::u32().unwrap_or_default());
    format!("{prefix:08x}-{:x}", COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ() {
        let (one, other) = (request_id(), request_id());
        assert_ne!(one, other);
        assert_eq!(one.split('-').next(), other.split('-').next());
    }

    #[test]
    fn statuses_carry_the_headers_they_ask_for() {
        for (refusal, status, header) in [
            (Refusal::Loading, 503, Some(("retry-after", "1"))),
            (Refusal::InflightFull, 429, Some(("retry-after", "1"))),
            (
                Refusal::Store(store::Error::Busy {
                    what: "the mailbox",
                }),
                429,
                Some(("retry-after", "1")),
            ),
            (Refusal::ApiKey, 401, Some(("www-authenticate", "Bearer"))),
            (
                Refusal::Token(auth::Refusal::Revoked),
                401,
                Some(("www-authenticate", "Bearer")),
            ),
            (
                Refusal::Method { allow: "GET, HEAD" },
                405,
                Some(("allow", "GET, HEAD")),
            ),
            (
                Refusal::Store(store::Error::MemoryFull { used: 2, limit: 1 }),
                507,
                None,
            ),
            (
                Refusal::Store(store::Error::SpaceFull { missing: 1 }),
                507,
                None,
            ),
            (
                Refusal::Store(store::Error::NotCompacted {
                    reason: "no".to_owned(),
                }),
                500,
                None,
            ),
            (Refusal::Store(store::Error::OutcomeUnknown), 500, None),
            (Refusal::Forbidden, 403, None),
        ] {
            let response = refusal.response();
            assert_eq!(response.status().as_u16(), status, "{refusal:?}");
            assert_eq!(response.headers()["content-type"], "application/json");
            assert!(response.headers().contains_key(REQUEST_ID));
            if let Some((name, value)) = header {
                assert_eq!(response.headers()[name], value, "{refusal:?}");
            }
        }
    }

    #[test]
    fn a_ttl_in_a_body_is_not_told_a_word_that_only_queries_know() {
        for error in [
            TtlError::Unknown,
            TtlError::RepeatedUnit,
            TtlError::Zero,
            TtlError::TooLong,
            TtlError::BeforeEpoch,
        ] {
            let (query, body) = (error.to_string(), ttl_in_json(error));
            assert!(query.contains("none") && !body.contains("none"), "{body}");
            assert!(body.ends_with("and null for no expiry"), "{body}");
        }
    }
}
