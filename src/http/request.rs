//! A request as its connection hands it over, taken apart.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, EXPECT, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::http::request::Parts;

use super::app::{App, Ready};
use super::body::{Incoming, Payload};
use super::condition::Conditions;
use super::refusal::Refusal;
use crate::auth::Grant;
use crate::state::Role;

/// What a connection and the filter that answers it have in common: one to a connection, so that a request
/// counts nothing up and down that other connections count as well.
///
/// Here the connection leaves its request for the filter. There is one at a time: HTTP/1 answers one after
/// the other. Filters that took it apart piece by piece were a tenth of a get's processor time.
pub(super) struct Handover<B> {
    pub(super) app: Arc<App>,
    peer: SocketAddr,
    arrived: Mutex<Option<Request<B>>>,
}

impl<B: Incoming> Handover<B> {
    /// For the connection of the client at `peer`.
    pub(super) fn new(app: Arc<App>, peer: SocketAddr) -> Self {
        Self {
            app,
            peer,
            arrived: Mutex::new(None),
        }
    }

    /// Leaves a request.
    pub(super) fn put(&self, request: hyper::Request<B>) {
        let mut place = self.place();
        debug_assert!(
            place.is_none(),
            "a request is taken before the next one comes"
        );
        *place = Some(Request::new(request, self.peer));
    }

    /// Where the request is that was left. It is looked at, and taken out if it is to stay: it is large, and
    /// most requests end where they are.
    pub(super) fn place(&self) -> MutexGuard<'_, Option<Request<B>>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of a request but its body.
pub(super) struct Head {
    parts: Parts,
    has_conditions: bool,
    /// Of what is read of the headers, all is text.
    is_readable: bool,
    pub(super) peer: SocketAddr,
}

/// A request whose body is still on its way.
pub(super) struct Request<B> {
    pub(super) head: Head,
    pub(super) payload: Payload<B>,
}

impl<B: Incoming> Request<B> {
    /// Takes a request of the client at `peer` apart.
    pub(super) fn new(request: hyper::Request<B>, peer: SocketAddr) -> Self {
        let (mut declared, mut waits) = (None, false);
        let (mut has_conditions, mut is_readable) = (false, true);
        for (name, value) in request.headers() {
            if *name == CONTENT_LENGTH {
                declared = value.to_str().ok().and_then(|text| text.parse().ok());
                is_readable &= declared.is_some();
            } else if *name == EXPECT {
                waits = true;
                is_readable &= value.to_str().is_ok();
            } else if *name == IF_MATCH || *name == IF_NONE_MATCH {
                has_conditions = true;
            }
        }
        let (parts, body) = request.into_parts();
        let head = Head {
            parts,
            has_conditions,
            is_readable,
            peer,
        };
        let payload = Payload::new(body, declared, waits);
        Self { head, payload }
    }
}

impl Head {
    pub(super) fn method(&self) -> &Method {
        &self.parts.method
    }

    /// Refuses headers that cannot be read.
    pub(super) fn check_headers(&self) -> Result<(), Refusal> {
        if self.is_readable {
            Ok(())
        } else {
            Err(Refusal::Header)
        }
    }

    /// The path, not decoded; empty if the request names none (`GET host:port`).
    pub(super) fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// The query, not decoded, if there is one.
    pub(super) fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }

    /// The conditional headers, if it has any.
    pub(super) fn conditions(&self) -> Option<Conditions<'_>> {
        self.has_conditions
            .then_some(Conditions(&self.parts.headers))
    }

    /// What the bearer of the request's token may do now.
    pub(super) fn authorize(&self, app: &App, ready: &Ready) -> Result<Grant, Refusal> {
        let header = self
            .parts
            .headers
            .get(AUTHORIZATION)
            .map(HeaderValue::as_bytes);
        let now_ms = app.clock.about_ms();
        Ok(ready
            .store
            .with_keyring(|keyring| ready.tokens.authorize(header, keyring, now_ms))?)
    }

    /// As [`Head::authorize`], and the role must be admin.
    pub(super) fn authorize_admin(&self, app: &App, ready: &Ready) -> Result<(), Refusal> {
        match self.authorize(app, ready)?.role {
            Role::Admin => Ok(()),
            Role::User => Err(Refusal::Forbidden),
        }
    }
}
