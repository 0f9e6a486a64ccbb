//! The pure core: keys, entries, deadlines, API keys, and the mutations that change them.
//!
//! No I/O, no clock, no async: time and sequence numbers are arguments. The live path and the
//! replay of the log call the same [`State::apply`], so what a restart rebuilds is what was served.

mod contents;
mod digest;
mod entry;
pub mod find;
mod keyring;
mod link;
mod lone;
mod map;
mod mutation;
pub mod ttl;

pub use digest::Fingerprint;
pub use entry::{Entry, Form, KEY_BYTES_MAX, Kept, Key};
pub use keyring::{ApiKey, KeyDigest, Keyring, Role};
pub use link::{Link, Links};
pub use lone::{Lone, Recorded};
pub use map::{Applied, Due, Freed, Lookup, Shown, State};
pub use mutation::{DecodeError, Mutation};
