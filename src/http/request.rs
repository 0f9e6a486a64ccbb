//! A request as the filter takes it apart.

use std::net::SocketAddr;

use hyper::Method;
use hyper::header::HeaderValue;
use warp::path::FullPath;

use super::app::{App, Ready};
use super::body::Payload;
use super::condition::Conditions;
use super::refusal::Refusal;
use crate::auth::Grant;
use crate::state::Role;

/// All of a request but its body.
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) path: FullPath,
    pub(super) query: Option<String>,
    pub(super) authorization: Option<HeaderValue>,
    /// Boxed, as few requests have any and all requests move their head about.
    pub(super) conditions: Option<Box<Conditions>>,
    pub(super) peer: SocketAddr,
}

/// A request whose body is still on its way.
pub(super) struct Request<S> {
    pub(super) head: Head,
    pub(super) payload: Payload<S>,
}

impl Head {
    /// What the bearer of the request's token may do now.
    pub(super) fn authorize(&self, app: &App, ready: &Ready) -> Result<Grant, Refusal> {
        let header = self.authorization.as_ref().map(HeaderValue::as_bytes);
        let now_ms = app.clock.now_ms();
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
