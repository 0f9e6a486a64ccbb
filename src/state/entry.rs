//! A key and what is stored under it: as it travels, and as the state shows it.

use bytes::Bytes;

use super::link::Links;
use super::value::Value;

/// A key: UTF-8, not empty, at most [`KEY_BYTES_MAX`] bytes. Data, never a path.
pub type Key = Box<str>;

/// The longest key the log format can hold, in bytes; `--max-key-bytes` is at most this.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// How a value came in and therefore goes out: one bit per entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The request's body was the value itself.
    Bare,
    /// The request's body was `{"value": …}`; so is the answer.
    Envelope,
}

/// A live entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The JSON text of the value.
    pub value: Bytes,
    /// How it is answered.
    pub form: Form,
    /// The sequence of the entry's last change.
    pub version: u64,
    /// When it expires, in milliseconds since the Unix epoch.
    pub deadline: Option<u64>,
    /// Its links; they belong to the key and survive an overwrite.
    pub links: Links,
}

/// A live entry where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// The JSON text of the value.
    pub value: Value<'a>,
    /// How it is answered.
    pub form: Form,
    /// The sequence of the entry's last change.
    pub version: u64,
    /// When it expires, in milliseconds since the Unix epoch.
    pub deadline: Option<u64>,
    /// Its links; they belong to the key and survive an overwrite.
    pub links: &'a Links,
}

/// What is kept of a key for as long as nothing changes it: all but what is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// A value; its deadline may have passed.
    Live(Entry),
    /// The value expired and is gone; the key is remembered.
    Remembered {
        /// The deadline, in milliseconds since the Unix epoch.
        deadline: u64,
        /// The sequence of the key's last change.
        version: u64,
    },
}

/// The same where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptRef<'a> {
    /// A value; its deadline may have passed.
    Live(EntryRef<'a>),
    /// The value expired and is gone; the key is remembered.
    Remembered {
        /// The deadline, in milliseconds since the Unix epoch.
        deadline: u64,
        /// The sequence of the key's last change.
        version: u64,
    },
}

impl Entry {
    /// The entry where it lies.
    #[must_use]
    pub fn by_ref(&self) -> EntryRef<'_> {
        EntryRef {
            value: Value::Shared(&self.value),
            form: self.form,
            version: self.version,
            deadline: self.deadline,
            links: &self.links,
        }
    }
}

impl EntryRef<'_> {
    /// The entry on its own.
    #[must_use]
    pub fn to_entry(self) -> Entry {
        Entry {
            value: self.value.to_bytes(),
            form: self.form,
            version: self.version,
            deadline: self.deadline,
            links: self.links.clone(),
        }
    }
}

impl Kept {
    /// The same where it lies.
    #[must_use]
    pub fn by_ref(&self) -> KeptRef<'_> {
        match self {
            Self::Live(entry) => KeptRef::Live(entry.by_ref()),
            Self::Remembered { deadline, version } => KeptRef::Remembered {
                deadline: *deadline,
                version: *version,
            },
        }
    }

    /// The sequence of the key's last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        match self {
            Self::Live(entry) => entry.version,
            Self::Remembered { version, .. } => *version,
        }
    }
}

impl KeptRef<'_> {
    /// The same on its own.
    #[must_use]
    pub fn to_kept(self) -> Kept {
        match self {
            Self::Live(entry) => Kept::Live(entry.to_entry()),
            Self::Remembered { deadline, version } => Kept::Remembered { deadline, version },
        }
    }
}
