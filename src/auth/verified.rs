//! Tokens whose signature was found to be right, so that the next request with one costs no more than
//! a comparison.
//!
//! - It is bounded: each token has one place, and the token that was verified last has it.
//! - It holds what a token says, never what that grants: whether its time has come or is over, and
//!   whether its API key still exists, is judged on each request.
//! - A token's signature is compared in constant time, at a place that a hash with a secret seed chose, so
//!   nobody can feel their way to a token that others use. What stands before it says nothing that must not be
//!   known.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock};

use ctutils::CtEq;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::state::Role;

/// Places. Beyond so many tokens in use at once, some are verified again and again.
const PLACES: usize = 1024;
/// Longer tokens are verified on each request: the cache takes at most as many bytes in each place.
const TOKEN_BYTES_MAX: usize = 1024;

/// So many bytes at the end of a token choose its place.
const HASHED_BYTES: usize = 32;

/// So many bytes at the end of a token are compared in constant time: those of its signature, which are 43, and
/// a few more.
const SECRET_BYTES: usize = 48;

/// What a token with a right signature says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verified {
    /// Id of the API key that it was made from.
    pub(super) subject: Box<str>,
    /// The role that it names.
    pub(super) role: Role,
    /// It does not count before this time, in seconds since the Unix epoch.
    pub(super) from: u64,
    /// It ends at this time, in seconds since the Unix epoch.
    pub(super) until: u64,
}

/// The tokens that were verified last.
pub(super) struct Cache {
    seed: u64,
    places: Box<[RwLock<Option<Known>>]>,
}

struct Known {
    token: Box<[u8]>,
    verified: Verified,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            seed: RandomState::new().hash_one(()),
            places: (0..PLACES).map(|_| RwLock::new(None)).collect(),
        }
    }
}

// Tokens are secrets: none of them is printed.
impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
    /// What `judge` makes of a token that is known.
    pub(super) fn with<R>(&self, token: &[u8], judge: impl FnOnce(&Verified) -> R) -> Option<R> {
        let place = self.place(token)?.read();
        let place = place.unwrap_or_else(PoisonError::into_inner);
        let known = place.as_ref()?;
        is_same(&known.token, token).then(|| judge(&known.verified))
    }

    /// Keeps a token whose signature is right.
    pub(super) fn keep(&self, token: &[u8], verified: Verified) {
        if token.len() > TOKEN_BYTES_MAX {
            return;
        }
        if let Some(place) = self.place(token) {
            let known = Known {
                token: token.into(),
                verified,
            };
            *place.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
        }
    }

    fn place(&self, token: &[u8]) -> Option<&RwLock<Option<Known>>> {
        // The end of a token is that of its signature, and differs as much as all of it.
        let end = token.last_chunk::<HASHED_BYTES>();
        let end = end.map_or(token, |end| end.as_slice());
        let hash = xxh3_64_with_seed(end, self.seed) as usize;
        self.places.get(hash % PLACES)
    }
}

/// Whether two tokens are the same; how long it takes tells nothing of their signatures.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let at = one.len().saturating_sub(SECRET_BYTES);
    let ((one, one_secret), (other, other_secret)) = (one.split_at(at), other.split_at(at));
    one == other && one_secret.ct_eq(other_secret).to_bool()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(subject: &str) -> Verified {
        Verified {
            subject: subject.into(),
            role: Role::User,
            from: 1,
            until: 2,
        }
    }

    #[test]
    fn a_token_is_known_by_all_of_its_bytes() {
        let cache = Cache::default();
        cache.keep(b"token", verified("a"));
        assert_eq!(cache.with(b"token", Clone::clone), Some(verified("a")));
        for other in [&b"tokem"[..], b"toke", b"token1", b"", b"Token"] {
            assert_eq!(cache.with(other, Clone::clone), None, "{other:?}");
        }
        // What is behind the first bytes chooses the place; all of them are compared.
        let (one, other) = (
            [b"1", &[b'x'; 90][..]].concat(),
            [b"2", &[b'x'; 90][..]].concat(),
        );
        cache.keep(&one, verified("a"));
        assert_eq!(cache.with(&one, Clone::clone), Some(verified("a")));
        assert_eq!(cache.with(&other, Clone::clone), None);
        for at in 0..one.len() {
            let mut other = one.clone();
            other[at] ^= 1;
            assert!(!is_same(&one, &other), "{at}");
        }
        cache.keep(b"token", verified("b"));
        assert_eq!(cache.with(b"token", Clone::clone), Some(verified("b")));
    }

    #[test]
    fn it_is_bounded_in_number_and_in_bytes() {
        let cache = Cache::default();
        for number in 0..4 * PLACES {
            cache.keep(number.to_string().as_bytes(), verified("a"));
        }
        let known = |number: &usize| cache.with(number.to_string().as_bytes(), |_| ()).is_some();
        let count = (0..4 * PLACES).filter(known).count();
        assert!(count > PLACES / 2 && count <= PLACES, "{count}");

        let (long, longer) = (vec![b'x'; TOKEN_BYTES_MAX], vec![b'x'; TOKEN_BYTES_MAX + 1]);
        cache.keep(&long, verified("a"));
        cache.keep(&longer, verified("a"));
        assert!(cache.with(&long, |_| ()).is_some());
        assert!(cache.with(&longer, |_| ()).is_none());
    }
}
