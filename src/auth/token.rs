//! Tokens: JWTs signed with HS256 under the data dir's secret.
//!
//! - A token counts only with a valid signature, `exp` and `iat`, and while its API key exists.
//! - It grants the lesser of what it says and what its API key may do now.
//! - Times have a leeway of [`LEEWAY_SECONDS`]; keys and key names inside a token are ignored.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use super::hs256;
use super::verified::{Cache, Verified};
use crate::state::{ApiKey, Keyring, Role};

/// How far the clock of another machine that makes tokens may be off.
const LEEWAY_SECONDS: u64 = 5;

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    /// Id of the API key that the token was made from.
    sub: String,
    /// The role's name.
    role: String,
    /// When it was made, in seconds since the Unix epoch.
    iat: u64,
    /// When it ends, in seconds since the Unix epoch.
    exp: u64,
    /// Before when it does not count, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
}

/// What the bearer of a valid token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The role in effect.
    pub role: Role,
}

/// Why a request has no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no `Authorization` header.
    #[error(
        "a token is needed: send \"Authorization: Bearer <token>\", with a token from POST \
         /api/auth/token"
    )]
    Missing,
    /// The header is not `Bearer <token>`.
    #[error("the Authorization header is not \"Bearer <token>\"")]
    Scheme,
    /// It is not a token that this server made, or it does not say what a token must.
    #[error("the token is not valid here: fetch a new one from POST /api/auth/token")]
    Invalid,
    /// It counts only from later on, or was made in the future.
    #[error("the token is not valid yet: is a clock wrong?")]
    Early,
    /// Its time is over.
    #[error("the token has expired: fetch a new one from POST /api/auth/token")]
    Expired,
    /// Its API key does not exist any more.
    #[error("the API key of this token does not exist any more")]
    Revoked,
}

/// Makes and checks tokens under one secret.
pub struct Tokens {
    header: Header,
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    ttl_seconds: u64,
    verified: Cache,
}

impl Tokens {
    /// Tokens under `secret` that live for `ttl`, in whole seconds.
    #[must_use]
    pub fn new(secret: &[u8], ttl: Duration) -> Self {
        hs256::install();
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are checked here, against the same clock as deadlines.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.leeway = LEEWAY_SECONDS;
        Self {
            header: Header::new(Algorithm::HS256),
            signing: EncodingKey::from_secret(secret),
            verifying: DecodingKey::from_secret(secret),
            validation,
            ttl_seconds: ttl.as_secs(),
            verified: Cache::default(),
        }
    }

    /// A token for an API key, made at `now_ms` milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// If signing fails, which is a defect.
    pub fn issue(&self, key: &ApiKey, now_ms: u64) -> Result<String, jsonwebtoken::errors::Error> {
        let iat = now_ms / 1_000;
        let claims = Claims {
            sub: key.id.to_string(),
            role: key.role.as_str().to_owned(),
            iat,
            exp: iat.saturating_add(self.ttl_seconds),
            nbf: None,
        };
        encode(&self.header, &claims, &self.signing)
    }

    /// What the value of an `Authorization` header grants at `now_ms`, given the API keys of now.
    ///
    /// # Errors
    /// Why it grants nothing.
    pub fn authorize(
        &self,
        header: Option<&[u8]>,
        keyring: &Keyring,
        now_ms: u64,
    ) -> Result<Grant, Refusal> {
        let token = bearer(header.ok_or(Refusal::Missing)?).ok_or(Refusal::Scheme)?;
        let now = now_ms / 1_000;
        if let Some(grant) = self.verified.with(token, |said| judge(said, keyring, now)) {
            return grant;
        }
        let said = self.verify(token)?;
        let grant = judge(&said, keyring, now);
        self.verified.keep(token, said);
        grant
    }

    /// What a token says whose signature is right.
    fn verify(&self, token: &[u8]) -> Result<Verified, Refusal> {
        let data = decode::<Claims>(token, &self.verifying, &self.validation)
            .map_err(|_| Refusal::Invalid)?;
        // `crit` names header members that must be understood: there are none.
        if data.header.crit.is_some() {
            return Err(Refusal::Invalid);
        }
        let claims = data.claims;
        Ok(Verified {
            role: Role::parse(&claims.role).ok_or(Refusal::Invalid)?,
            subject: claims.sub.into_boxed_str(),
            from: claims.nbf.unwrap_or(0).max(claims.iat),
            until: claims.exp,
        })
    }
}

/// What a token grants at `now` (in seconds since the Unix epoch), given the API keys of now.
fn judge(said: &Verified, keyring: &Keyring, now: u64) -> Result<Grant, Refusal> {
    if said.until.saturating_add(LEEWAY_SECONDS) <= now {
        return Err(Refusal::Expired);
    }
    if said.from > now.saturating_add(LEEWAY_SECONDS) {
        return Err(Refusal::Early);
    }
    let key = keyring
        .api_keys
        .get(&said.subject)
        .ok_or(Refusal::Revoked)?;
    Ok(Grant {
        role: lesser(said.role, key.role),
    })
}

/// The token of a header value `Bearer <token>`; the scheme's case does not matter (RFC 9110).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(b"bearer ".len())?;
    let token = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// The role that may do less.
fn lesser(one: Role, other: Role) -> Role {
    match (one, other) {
        (Role::Admin, Role::Admin) => Role::Admin,
        _ => Role::User,
    }
}

#[cfg(test)]
mod tests;
