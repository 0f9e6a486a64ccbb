//! API keys: their roles and keyed digests. The keys themselves are never stored.

use std::collections::BTreeMap;
use std::fmt;
use std::hint::black_box;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// HMAC-SHA256 of an API key under the store's hashing key.
pub type KeyDigest = [u8; 32];

/// SHA-256's block, in bytes: HMAC fills a shorter key up to it with zeros.
const HMAC_BLOCK_BYTES: usize = 64;

/// What the bearer of an API key, or of a token made from it, may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything.
    Admin,
    /// Reading and writing keys.
    User,
}

impl Role {
    /// The role's name in tokens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
        }
    }

    /// The role of that name, if there is one. Names are lower case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "admin" => Some(Self::Admin),
            "user" => Some(Self::User),
            _ => None,
        }
    }
}

/// One API key as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Public identity; the `sub` of tokens.
    pub id: Box<str>,
    /// What its bearer may do.
    pub role: Role,
    /// Keyed digest of the secret.
    pub digest: KeyDigest,
}

/// All API keys and the key under which their digests are made.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    /// The hashing key: random, the store's first mutation.
    pub hashing_key: [u8; 32],
    /// API keys by id.
    pub api_keys: BTreeMap<Box<str>, ApiKey>,
}

impl Keyring {
    /// HMAC-SHA256 of `secret` under the hashing key.
    #[must_use]
    pub fn digest(&self, secret: &str) -> KeyDigest {
        let block: [u8; HMAC_BLOCK_BYTES] =
            std::array::from_fn(|at| self.hashing_key.get(at).copied().unwrap_or(0));
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(secret.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// The API key whose secret this is.
    ///
    /// Every key is compared over its whole digest, whether or not one has matched already, so the
    /// time it takes tells neither how much of a digest is right nor that a secret is unknown.
    #[must_use]
    pub fn authenticate(&self, secret: &str) -> Option<&ApiKey> {
        let digest = self.digest(secret);
        let mut found = None;
        for key in self.api_keys.values() {
            let difference = digest
                .iter()
                .zip(&key.digest)
                .fold(0, |bits, (ours, theirs)| bits | (ours ^ theirs));
            // Opaque, lest the compiler turn the fold into a comparison that stops early.
            if black_box(difference) == 0 {
                found = Some(key);
            }
        }
        found
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Key material never reaches a log.
        f.debug_struct("Keyring")
            .field("api_keys", &self.api_keys.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(keys: &[(&str, Role, &str)]) -> Keyring {
        let mut keyring = Keyring {
            hashing_key: [7; 32],
            ..Keyring::default()
        };
        for &(id, role, secret) in keys {
            let digest = keyring.digest(secret);
            keyring.api_keys.insert(
                id.into(),
                ApiKey {
                    id: id.into(),
                    role,
                    digest,
                },
            );
        }
        keyring
    }

    #[test]
    fn digest_is_hmac_sha256() {
        // RFC 4231, test case 1: its key of 20 bytes is filled up with zeros like any short key.
        let mut hashing_key = [0; 32];
        hashing_key[..20].fill(0x0b);
        let keyring = Keyring {
            hashing_key,
            ..Keyring::default()
        };
        let expected = [
            0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53, 0x5c, 0xa8, 0xaf, 0xce, 0xaf, 0x0b,
            0xf1, 0x2b, 0x88, 0x1d, 0xc2, 0x00, 0xc9, 0x83, 0x3d, 0xa7, 0x26, 0xe9, 0x37, 0x6c,
            0x2e, 0x32, 0xcf, 0xf7,
        ];
        assert_eq!(keyring.digest("Hi There"), expected);
    }

    #[test]
    fn a_secret_finds_its_own_key_wherever_it_stands() {
        let keys = [
            ("a", Role::User, "one"),
            ("b", Role::Admin, "two"),
            ("c", Role::User, "three"),
        ];
        let keyring = keyring(&keys);
        for (id, role, secret) in keys {
            let found = keyring.authenticate(secret);
            assert_eq!(found.map(|key| (&*key.id, key.role)), Some((id, role)));
        }
        for secret in ["", "on", "one ", "ONE", "four"] {
            assert_eq!(keyring.authenticate(secret), None, "{secret:?}");
        }
    }

    #[test]
    fn a_digest_that_differs_in_one_bit_is_no_match() {
        let right = keyring(&[("a", Role::Admin, "one")]);
        for bit in 0..256 {
            let mut wrong = right.clone();
            wrong.api_keys.get_mut("a").unwrap().digest[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(wrong.authenticate("one"), None, "bit {bit}");
        }
    }

    #[test]
    fn debug_shows_no_key_material() {
        let keyring = keyring(&[("a", Role::Admin, "one")]);
        assert_eq!(format!("{keyring:?}"), "Keyring { api_keys: 1, .. }");
    }

    #[test]
    fn roles_have_names() {
        for role in [Role::Admin, Role::User] {
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
        for name in ["", "Admin", "root", "user "] {
            assert_eq!(Role::parse(name), None, "{name:?}");
        }
    }
}
