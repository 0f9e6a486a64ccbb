//! Any bytes as an `Authorization` header, and as what a token with a right signature says: nobody is let in
//! without one, and with one exactly as far as its members and its API key say.
//!
//! The JSON of a token's header ends at the first NUL, which JSON does not have; its claims are behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use ekokv::auth::{Refusal, Tokens};
use ekokv::state::{ApiKey, Keyring, Role};
use hmac::{Hmac, KeyInit, Mac};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::Sha256;

const SECRET: &[u8] = b"a secret that no input knows";
const PLAIN_HEADER: &[u8] = br#"{"alg":"HS256"}"#;
const NOW: u64 = 1_800_000_000;
const LEEWAY_SECONDS: u64 = 5;

const KEYS: [(&str, Role); 2] = [("root", Role::Admin), ("app", Role::User)];

fn keyring() -> Keyring {
    let mut keyring = Keyring::default();
    for (id, role) in KEYS {
        let key = ApiKey {
            id: id.into(),
            role,
            digest: keyring.digest(id),
        };
        keyring.api_keys.insert(id.into(), key);
    }
    keyring
}

/// Base64 for URLs without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for sextet in 0..=chunk.len() {
            text.push(ALPHABET[(bits >> (18 - 6 * sextet)) as usize & 63] as char);
        }
    }
    text
}

fn signed(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", base64(header), base64(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(message.as_bytes());
    format!("Bearer {message}.{}", base64(&mac.finalize().into_bytes()))
}

/// The members of a JSON object, each as its text: what nobody looks at may hold anything. Of two with one name
/// the last counts.
fn members(json: &[u8]) -> Option<BTreeMap<String, Box<RawValue>>> {
    serde_json::from_str(&String::from_utf8_lossy(json)).ok()
}

/// What a member says, if it says that.
fn said<T: DeserializeOwned>(members: &BTreeMap<String, Box<RawValue>>, name: &str) -> Option<T> {
    serde_json::from_str(members.get(name)?.get()).ok()
}

/// What a signed token may grant, read with plain means. One whose form is unusual may be refused instead.
fn grants(header: &[u8], claims: &[u8]) -> Option<Result<Role, Refusal>> {
    let (header, claims) = (members(header)?, members(claims)?);
    let has_crit = header.get("crit").is_some_and(|crit| crit.get() != "null");
    if has_crit || said::<String>(&header, "alg")? != "HS256" {
        return None;
    }
    let role = match said::<String>(&claims, "role")?.as_str() {
        "admin" => Role::Admin,
        "user" => Role::User,
        _ => return None,
    };
    let (iat, exp): (u64, u64) = (said(&claims, "iat")?, said(&claims, "exp")?);
    let nbf = match claims.get("nbf") {
        None => 0,
        Some(_) => said::<Option<u64>>(&claims, "nbf")?.unwrap_or(0),
    };
    let subject: String = said(&claims, "sub")?;
    Some(match KEYS.iter().find(|(id, _)| *id == subject) {
        _ if exp.saturating_add(LEEWAY_SECONDS) <= NOW => Err(Refusal::Expired),
        _ if iat.max(nbf) > NOW + LEEWAY_SECONDS => Err(Refusal::Early),
        None => Err(Refusal::Revoked),
        Some((_, Role::Admin)) => Ok(role),
        Some((_, Role::User)) => Ok(Role::User),
    })
}

/// Whether nothing about a token's form is unusual: no member twice, none that is not known.
fn is_plain(header: &[u8], claims: &[u8]) -> bool {
    let known = ["exp", "iat", "nbf", "role", "sub"];
    let is_known =
        |members: &Map<String, Value>| members.keys().all(|name| known.contains(&name.as_str()));
    header == PLAIN_HEADER
        && serde_json::from_slice(claims).is_ok_and(|members: Map<String, Value>| {
            is_known(&members) && serde_json::to_vec(&members).is_ok_and(|text| text == claims)
        })
}

pub fn run(bytes: &[u8]) {
    let keyring = keyring();
    let tokens = Tokens::new(SECRET, Duration::from_secs(3_600));
    let judge = |header: &[u8]| {
        let grant = tokens.authorize(Some(header), &keyring, NOW * 1_000);
        grant.map(|grant| grant.role)
    };

    // Nobody has signed it.
    assert!(matches!(
        judge(bytes),
        Err(Refusal::Scheme | Refusal::Invalid)
    ));
    let bearer = [b"Bearer ", bytes].concat();
    assert!(matches!(
        judge(&bearer),
        Err(Refusal::Scheme | Refusal::Invalid)
    ));

    let (header, claims) = match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (PLAIN_HEADER, bytes),
    };
    let token = signed(header, claims);
    let granted = judge(token.as_bytes());
    match grants(header, claims) {
        None => assert_eq!(granted, Err(Refusal::Invalid)),
        Some(expected) if is_plain(header, claims) => assert_eq!(granted, expected),
        Some(expected) => assert!(granted == expected || granted == Err(Refusal::Invalid)),
    }
    assert_eq!(
        judge(token.as_bytes()),
        granted,
        "a known token means the same"
    );

    // Another signature is another token, also beside one that is known.
    let at = token.rfind('.').unwrap() + 1;
    let mut forged = token.into_bytes();
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    assert_eq!(judge(&forged), Err(Refusal::Invalid));
}
