use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::*;

const SECRET: &[u8] = b"a secret of the data dir";
const NOW: u64 = 1_800_000_000;

fn keyring() -> Keyring {
    let mut keyring = Keyring::default();
    for (id, role) in [("root", Role::Admin), ("app", Role::User)] {
        keyring.api_keys.insert(
            id.into(),
            ApiKey {
                id: id.into(),
                role,
                digest: keyring.digest(id),
            },
        );
    }
    keyring
}

fn tokens() -> Tokens {
    Tokens::new(SECRET, Duration::from_secs(3600))
}

/// Base64 for URLs without padding, written apart from the library under test.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for sextet in 0..=chunk.len() {
            text.push(ALPHABET[(group >> (18 - 6 * sextet)) as usize & 63] as char);
        }
    }
    text
}

fn sign(secret: &[u8], header: &Value, claims: &str) -> String {
    let message = format!(
        "{}.{}",
        base64(header.to_string().as_bytes()),
        base64(claims.as_bytes())
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(message.as_bytes());
    format!("{message}.{}", base64(&mac.finalize().into_bytes()))
}

fn claims() -> Value {
    json!({"sub": "root", "role": "admin", "iat": NOW - 10, "exp": NOW + 10})
}

fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn judge(token: &str) -> Result<Role, Refusal> {
    let header = format!("Bearer {token}");
    tokens()
        .authorize(Some(header.as_bytes()), &keyring(), NOW * 1_000 + 999)
        .map(|grant| grant.role)
}

fn hs256(claims: &Value) -> String {
    sign(
        SECRET,
        &json!({"alg": "HS256", "typ": "JWT"}),
        &claims.to_string(),
    )
}

#[test]
fn an_issued_token_grants_its_keys_role_until_it_ends() {
    let keyring = keyring();
    for (id, role) in [("root", Role::Admin), ("app", Role::User)] {
        let token = tokens().issue(&keyring.api_keys[id], NOW * 1_000).unwrap();
        let header = format!("Bearer {token}");
        let at = |seconds| tokens().authorize(Some(header.as_bytes()), &keyring, seconds * 1_000);
        assert_eq!(at(NOW), Ok(Grant { role }));
        assert_eq!(at(NOW + 3600 + LEEWAY_SECONDS - 1), Ok(Grant { role }));
        assert_eq!(at(NOW + 3600 + LEEWAY_SECONDS), Err(Refusal::Expired));
        assert_eq!(at(NOW - LEEWAY_SECONDS - 1), Err(Refusal::Early));
        assert_eq!(
            tokens().authorize(Some(header.as_bytes()), &Keyring::default(), NOW * 1_000),
            Err(Refusal::Revoked)
        );
    }
}

#[test]
fn a_token_that_was_verified_before_ends_and_is_revoked_all_the_same() {
    let (tokens, mut keyring) = (tokens(), keyring());
    let token = tokens
        .issue(&keyring.api_keys["root"], NOW * 1_000)
        .unwrap();
    let header = format!("Bearer {token}");
    let judge = |keyring: &Keyring, seconds| {
        let grant = tokens.authorize(Some(header.as_bytes()), keyring, seconds * 1_000);
        grant.map(|grant| grant.role)
    };
    for _ in 0..2 {
        assert_eq!(judge(&keyring, NOW), Ok(Role::Admin));
        assert_eq!(judge(&keyring, NOW + 3_605), Err(Refusal::Expired));
        assert_eq!(judge(&keyring, NOW - 6), Err(Refusal::Early));
    }
    keyring.api_keys.get_mut("root").unwrap().role = Role::User;
    assert_eq!(judge(&keyring, NOW), Ok(Role::User));
    keyring.api_keys.remove("root");
    assert_eq!(judge(&keyring, NOW), Err(Refusal::Revoked));
    // One bit makes it another token, which nobody has made.
    let mut forged = header.clone().into_bytes();
    *forged.last_mut().unwrap() ^= 4;
    assert_eq!(
        tokens.authorize(Some(&forged), &keyring, NOW * 1_000),
        Err(Refusal::Invalid)
    );
}

#[test]
fn an_issued_token_says_who_and_until_when_in_numbers() {
    let token = tokens()
        .issue(&keyring().api_keys["app"], NOW * 1_000)
        .unwrap();
    let expected = json!({"sub": "app", "role": "user", "iat": NOW, "exp": NOW + 3600});
    let payload = token.split('.').nth(1).unwrap();
    assert_eq!(
        payload,
        base64(
            format!(
                r#"{{"sub":"app","role":"user","iat":{NOW},"exp":{}}}"#,
                NOW + 3600
            )
            .as_bytes()
        ),
        "{expected}"
    );
}

#[test]
fn a_token_grants_the_lesser_of_its_role_and_its_keys() {
    assert_eq!(judge(&hs256(&claims())), Ok(Role::Admin));
    assert_eq!(
        judge(&hs256(&with(json!({"role": "user"})))),
        Ok(Role::User)
    );
    assert_eq!(
        judge(&hs256(&with(json!({"sub": "app", "role": "admin"})))),
        Ok(Role::User)
    );
    assert_eq!(
        judge(&hs256(&with(json!({"sub": "app", "role": "user"})))),
        Ok(Role::User)
    );
}

#[test]
fn keys_inside_a_token_are_ignored() {
    let header = json!({"alg": "HS256", "kid": "../../etc/passwd", "x5u": "http://evil/", "jku": "x",
        "jwk": {"kty": "oct", "k": base64(b"evil"), "alg": "HS256"}});
    assert_eq!(
        judge(&sign(SECRET, &header, &claims().to_string())),
        Ok(Role::Admin)
    );
    assert_eq!(
        judge(&sign(b"evil", &header, &claims().to_string())),
        Err(Refusal::Invalid)
    );
}

#[test]
fn forged_tokens_grant_nothing() {
    let good = hs256(&claims());
    let (head, signature) = good.rsplit_once('.').unwrap();
    let claims = claims().to_string();
    let alg = |alg: &str| sign(SECRET, &json!({"alg": alg}), &claims);
    let mut forged = vec![
        String::new(),
        "garbage".to_owned(),
        "a.b.c".to_owned(),
        "..".to_owned(),
        head.to_owned(),
        format!("{head}."),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!("{head}.{}", &signature[..20]),
        sign(b"another secret", &json!({"alg": "HS256"}), &claims),
        sign(b"", &json!({"alg": "HS256"}), &claims),
        sign(SECRET, &json!({}), &claims),
        sign(SECRET, &json!({"alg": "HS256", "crit": ["exp"]}), &claims),
        sign(SECRET, &json!({"alg": "HS256"}), "[]"),
        sign(SECRET, &json!({"alg": "HS256"}), ""),
        hs256(&without("exp")),
        hs256(&without("iat")),
        hs256(&without("sub")),
        hs256(&without("role")),
    ];
    for name in [
        "none", "None", "NONE", "HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "hs256", "",
    ] {
        forged.push(alg(name));
        forged.push(format!("{}.", alg(name).rsplit_once('.').unwrap().0));
    }
    for (name, value) in [
        ("exp", json!("1900000000")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(NOW as f64 + 10.5)),
        ("exp", json!(null)),
        ("iat", json!(null)),
        ("iat", json!("now")),
        ("nbf", json!("now")),
        ("role", json!("root")),
        ("role", json!("Admin")),
        ("role", json!(["admin"])),
        ("sub", json!(7)),
    ] {
        forged.push(hs256(&with(json!({ name: value }))));
    }
    let twice = claims.replacen('{', &format!("{{\"exp\":{},", NOW + 10_000), 1);
    forged.push(sign(SECRET, &json!({"alg": "HS256"}), &twice));
    for position in 0..good.len() {
        let mut flipped = good.clone().into_bytes();
        flipped[position] = if flipped[position] == b'A' {
            b'B'
        } else {
            b'A'
        };
        if flipped != good.as_bytes() {
            let flipped = String::from_utf8(flipped).unwrap();
            assert!(judge(&flipped).is_err(), "{flipped}");
        }
    }
    for token in forged {
        assert!(
            matches!(judge(&token), Err(Refusal::Invalid | Refusal::Scheme)),
            "{token}: {:?}",
            judge(&token)
        );
    }
}

#[test]
fn times_are_checked_with_a_small_leeway() {
    for (changes, expected) in [
        (json!({"exp": NOW - LEEWAY_SECONDS}), Err(Refusal::Expired)),
        (json!({"exp": NOW - LEEWAY_SECONDS + 1}), Ok(Role::Admin)),
        (json!({"exp": 0}), Err(Refusal::Expired)),
        (json!({"exp": u64::MAX}), Ok(Role::Admin)),
        (json!({"iat": NOW + LEEWAY_SECONDS}), Ok(Role::Admin)),
        (
            json!({"iat": NOW + LEEWAY_SECONDS + 1}),
            Err(Refusal::Early),
        ),
        (json!({"nbf": NOW + LEEWAY_SECONDS}), Ok(Role::Admin)),
        (
            json!({"nbf": NOW + LEEWAY_SECONDS + 1}),
            Err(Refusal::Early),
        ),
        (json!({"sub": "nobody"}), Err(Refusal::Revoked)),
    ] {
        assert_eq!(judge(&hs256(&with(changes.clone()))), expected, "{changes}");
    }
}

#[test]
fn the_header_is_bearer_and_a_token() {
    let token = hs256(&claims());
    let judge = |header: Option<&str>| {
        tokens()
            .authorize(header.map(str::as_bytes), &keyring(), NOW * 1_000)
            .map(|_| ())
    };
    assert_eq!(judge(None), Err(Refusal::Missing));
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(
            judge(Some(&format!("{scheme} {token}"))),
            Ok(()),
            "{scheme}"
        );
        assert_eq!(
            judge(Some(&format!("{scheme}  {token}"))),
            Ok(()),
            "{scheme}"
        );
    }
    for header in [
        "",
        "Bearer",
        "Bearer ",
        "Basic cm9vdDp4",
        &token,
        &format!("Bearer{token}"),
    ] {
        assert_eq!(judge(Some(header)), Err(Refusal::Scheme), "{header}");
    }
}
