//! What a handler may ask of the store, and what it may hear back.

use bytes::Bytes;

pub use crate::state::ttl::Ttl;
use std::sync::Arc;

use crate::state::find::{Cursor, Query, Slice};
use crate::state::{Form, Key, Link};

/// A request to the owner. Handlers have decoded and checked everything that needs no state.
#[derive(Debug, Clone)]
pub enum Command {
    /// Reads one key.
    Get {
        /// The key.
        key: Key,
        /// The caller has these versions and wants no other answer than that nothing changed
        /// (`If-None-Match`).
        unless: Option<Tags>,
    },
    /// Stores a value; an existing one is replaced, its deadline too, and its links stay.
    Set {
        /// What is stored.
        put: Put,
        /// What must hold, or nothing happens.
        condition: Condition,
    },
    /// Removes a key and its links.
    Delete {
        /// The key.
        key: Key,
        /// What must hold, or nothing happens.
        condition: Condition,
    },
    /// Reads many keys at one point in the order of commands.
    BatchGet {
        /// The keys, in the order in which the answer lists them.
        keys: Vec<Key>,
    },
    /// Stores many values at once: all are there after a crash, or none.
    BatchSet {
        /// What is stored; of equal keys the last wins.
        puts: Vec<Put>,
    },
    /// Removes many keys at once.
    BatchDelete {
        /// The keys, in the order in which the answer lists them.
        keys: Vec<Key>,
    },
    /// Removes every key of the key-value store; API keys stay.
    Clear,
    /// Links a key to a document, which need not exist. Linking again replaces the metadata.
    Link {
        /// The key.
        key: Key,
        /// The document's collection.
        collection: Box<str>,
        /// The document's id.
        record_id: Box<str>,
        /// JSON text, exactly as long as its buffer; `None` is `{}`.
        metadata: Option<Bytes>,
    },
    /// Removes one link of a key.
    Unlink {
        /// The key.
        key: Key,
        /// The document's collection.
        collection: Box<str>,
        /// The document's id.
        record_id: Box<str>,
    },
    /// Lists the links of a key.
    Links {
        /// The key.
        key: Key,
    },
    /// Looks for keys, one slice of the way at a time, so that others are served in between. Use
    /// `Store::find`, which also matches patterns: the owner does not.
    Find {
        /// What is looked for; the same for all slices.
        query: Arc<Query>,
        /// Where the slice begins: at first `Cursor::default()`, then what the last slice said.
        cursor: Cursor,
    },
}

impl Command {
    /// The key that it names, if that is a single one.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::Get { key, .. }
            | Self::Set {
                put: Put { key, .. },
                ..
            }
            | Self::Delete { key, .. }
            | Self::Link { key, .. }
            | Self::Unlink { key, .. }
            | Self::Links { key } => Some(key),
            Self::BatchGet { .. }
            | Self::BatchSet { .. }
            | Self::BatchDelete { .. }
            | Self::Clear
            | Self::Find { .. } => None,
        }
    }

    /// Shows each key that it names to `look`, the first `most` of a list.
    pub(super) fn each_key(&self, most: usize, look: impl FnMut(&str)) {
        match self {
            Self::BatchGet { keys } | Self::BatchDelete { keys } => {
                keys.iter().take(most).map(|key| &**key).for_each(look);
            }
            Self::BatchSet { puts } => puts.iter().take(most).map(|put| &*put.key).for_each(look),
            other => other.key().into_iter().for_each(look),
        }
    }
}

/// What must hold for a write; decided by the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The key has one of these versions (`If-Match`).
    Matches(Tags),
    /// The key does not exist (`If-None-Match: *`).
    Absent,
}

/// A list of versions as `If-Match` and `If-None-Match` give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// `*`: any version.
    Any,
    /// One of these.
    OneOf(Vec<u64>),
}

impl Tags {
    /// Whether a key with this version is meant.
    #[must_use]
    pub fn contain(&self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}

/// One value to store.
#[derive(Debug, Clone)]
pub struct Put {
    /// The key.
    pub key: Key,
    /// The JSON text of the value, exactly as long as its buffer: the store keeps the buffer.
    pub value: Bytes,
    /// How the value was sent and is answered.
    pub form: Form,
    /// When it expires.
    pub ttl: Ttl,
}

/// An answer together with its place in the store's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `X-KV-Version`. Of a write its own (last) sequence; of a read the smaller of the sequence
    /// applied when it was evaluated and the one released when it was answered.
    pub sequence: u64,
    /// The answer itself.
    pub answer: Answer,
}

/// What the store answers; each variant belongs to the command of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `Get`: the key has a value.
    Found(Found),
    /// `Get`: the key has a value that the caller has already.
    NotModified {
        /// The key's version.
        version: u64,
        /// Its deadline in milliseconds since the Unix epoch.
        deadline: Option<u64>,
    },
    /// `Get`: the key's deadline has passed and it is still remembered.
    Expired,
    /// `Get`: the key was never set, or deleted, or is no longer remembered. `Link`, `Unlink`,
    /// `Links`: there is no such key, or it has expired.
    Missing,
    /// `Set`, `Delete`: the condition does not hold; nothing happened.
    ConditionFailed {
        /// The key's version, if it exists.
        version: Option<u64>,
    },
    /// `Set`: it is stored.
    Stored {
        /// The key's new version.
        version: u64,
        /// Its deadline in milliseconds since the Unix epoch.
        deadline: Option<u64>,
    },
    /// `Delete`: whether there was a live key.
    Deleted(bool),
    /// `BatchGet`: one per key, in order; `None` for missing and expired keys.
    FoundMany(Vec<Option<Found>>),
    /// `BatchSet`: all puts are stored.
    StoredMany,
    /// `BatchDelete`: whether there was a live key, one per key, in order.
    DeletedMany(Vec<bool>),
    /// `Clear`: the store is empty.
    Cleared,
    /// `Link`: it is linked.
    Linked,
    /// `Unlink`: it was linked and is not any more.
    Unlinked,
    /// `Unlink`: the key has no such link.
    NotLinked,
    /// `Links`: the key's links, in byte order of collection and record id.
    Links(Vec<Link>),
    /// `Find`: a slice.
    Slice(Slice),
}

/// A live value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The JSON text of the value.
    pub value: Bytes,
    /// How the value was sent and is answered.
    pub form: Form,
    /// The sequence of the key's last change.
    pub version: u64,
    /// Its deadline in milliseconds since the Unix epoch.
    pub deadline: Option<u64>,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The mailbox, the open frame or the log space prepared so far is full; nothing happened.
    #[error("the server is busy: {what} is full; try again in a second")]
    Busy {
        /// What is full.
        what: &'static str,
    },
    /// The write would grow the state beyond `--max-memory`; nothing happened.
    #[error(
        "the store holds {used} bytes and --max-memory (EKOKV_MAX_MEMORY) is {limit}: delete \
         something or raise the limit; deletes and reads go on"
    )]
    MemoryFull {
        /// Bytes the state holds by its own estimate.
        used: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The disk has no room for what would make the state grow; nothing happened.
    #[error(
        "the disk is full: {missing} more bytes must be free for the next compaction and two log \
         segments; deletes and reads go on"
    )]
    SpaceFull {
        /// Bytes that are missing.
        missing: u64,
    },
    /// No snapshot was made; nothing is lost.
    #[error("no snapshot was made, and the log keeps everything: {reason}")]
    NotCompacted {
        /// Why, as a sentence.
        reason: String,
    },
    /// The links of a key would take more than a list of them should; nothing happened.
    #[error("the links of a key take at most {limit} bytes, their metadata included")]
    LinksFull {
        /// The limit in bytes.
        limit: u64,
    },
    /// An absolute deadline is past, or too far ahead; nothing happened.
    #[error("ttl {at} is not within the next 100 years")]
    TtlOutOfRange {
        /// The deadline as RFC 3339.
        at: String,
    },
    /// The log could not be written: whether the change survives is not known. The process ends.
    #[error("the log could not be written: whether this change was kept is unknown")]
    OutcomeUnknown,
    /// The server is stopping; nothing happened.
    #[error("the server is stopping")]
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(command: &Command) -> Vec<String> {
        let mut keys = Vec::new();
        command.each_key(2, |key| keys.push(key.to_owned()));
        keys
    }

    #[test]
    fn every_command_about_keys_names_them() {
        let key = || Key::from("a");
        let put = |key: &str| Put {
            key: key.into(),
            value: Bytes::from_static(b"1"),
            form: Form::Bare,
            ttl: Ttl::None,
        };
        let condition = Condition::None;
        let (collection, record_id): (Box<str>, Box<str>) = ("c".into(), "d".into());
        for command in [
            Command::Get {
                key: key(),
                unless: None,
            },
            Command::Set {
                put: put("a"),
                condition: condition.clone(),
            },
            Command::Delete {
                key: key(),
                condition,
            },
            Command::Link {
                key: key(),
                collection: collection.clone(),
                record_id: record_id.clone(),
                metadata: None,
            },
            Command::Unlink {
                key: key(),
                collection,
                record_id,
            },
            Command::Links { key: key() },
        ] {
            assert_eq!(keys(&command), ["a"]);
            assert_eq!(command.key(), Some("a"));
        }
        let list = vec![key(), Key::from("b"), Key::from("c")];
        for command in [
            Command::BatchGet { keys: list.clone() },
            Command::BatchDelete { keys: list },
            Command::BatchSet {
                puts: vec![put("a"), put("b"), put("c")],
            },
        ] {
            assert_eq!(keys(&command), ["a", "b"]);
            assert_eq!(command.key(), None);
        }
        assert!(keys(&Command::Clear).is_empty());
    }
}
