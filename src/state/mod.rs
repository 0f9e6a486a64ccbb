//! The pure core: keys, entries, deadlines, API keys, and the mutations that change them.
//!
//! No I/O, no clock, no async, and no thread but one that gets memory ready: time and sequence numbers are
//! arguments. The live path and the replay of the log call the same [`State::apply`], so what a restart
//! rebuilds is what was served.
//!
//! From the outside in: `map` is the state, `contents` its keys with the `books` about them, `order` the
//! order of the keys with the `fences` between its leaves, `lookaside` the short way to a key, `records` what
//! is stored, a `record` each, in the pages of an `arena`, which lie in `regions`.

mod arena;
mod books;
mod changes;
mod contents;
mod digest;
mod entry;
mod fences;
pub mod find;
mod keyring;
mod link;
mod lone;
mod lookaside;
mod map;
mod mutation;
mod order;
mod record;
mod records;
mod regions;
mod tagged;
pub mod ttl;
mod value;

pub use changes::Changes;
pub use contents::hash_of;
pub use digest::Fingerprint;
pub use entry::{Entry, EntryRef, Form, KEY_BYTES_MAX, Kept, KeptRef, Key};
pub use keyring::{ApiKey, KeyDigest, Keyring, Role};
pub use link::{Link, Links};
pub use lone::{Lone, Recorded, RecordedRef};
pub use map::{Applied, Due, Freed, Loader, Lookup, Shown, State};
pub use mutation::{DecodeError, Mutation};
pub use value::Value;
