//! The parsers that the fuzz targets of `fuzz/` drive: they are private to this room, and a fuzz
//! target is a program of its own. Not part of what the crate offers; nothing else calls it.

use super::{find_body, path};
use crate::state::Key;
use crate::state::find::Query;
use crate::store::Ttl;

/// The key that a path segment names, of at most `limit` bytes.
///
/// # Errors
/// The message of the refusal.
pub fn key(segment: &str, limit: usize) -> Result<Key, String> {
    path::key(segment, limit).map_err(|refusal| refusal.to_string())
}

/// The `ttl` of a query, without its question mark.
///
/// # Errors
/// The message of the refusal.
pub fn query_ttl(query: &str) -> Result<Option<Ttl>, String> {
    path::ttl(query).map_err(|refusal| refusal.to_string())
}

/// What the body of a find looks for.
///
/// # Errors
/// The message of the refusal.
pub fn find(body: &[u8]) -> Result<Query, String> {
    find_body::parse(body).map_err(|refusal| refusal.to_string())
}
