//! What the log records: each change of the state as its result, and its bytes.
//!
//! A mutation says what is so afterwards, never what was asked, so replay needs no clock and no
//! arithmetic. Integers are little endian; `rest` is everything up to the end of the mutation,
//! whose length the log knows.
//!
//! | kind (u8) | name            | then                                                          |
//! | --------- | --------------- | ------------------------------------------------------------- |
//! | 1         | put             | flags u8, [deadline u64], key length u16, key, value = rest   |
//! | 2         | delete          | key = rest                                                    |
//! | 3         | clear           |                                                               |
//! | 4         | link            | created at u64, key, collection, record id (length u16 each), |
//! |           |                 | metadata = rest, empty if there is none                       |
//! | 5         | unlink          | key, collection (length u16 each), record id = rest           |
//! | 6         | expire          | key = rest                                                    |
//! | 7         | forget          | key = rest                                                    |
//! | 8         | hashing key     | 32 bytes                                                      |
//! | 9         | api key         | role u8 (1 admin, 2 user), digest 32 bytes, id = rest         |
//! | 10        | api key removed | id = rest                                                     |
//!
//! Flags of a put: bit 0, the value is answered in an envelope; bit 1, there is a deadline, in
//! milliseconds since the Unix epoch. Keys and ids are UTF-8 of 1 to 65 535 bytes, values are not
//! empty. Each mutation has exactly one encoding and nothing else decodes: what a disk returns is
//! either what was written or an error.

use bytes::Bytes;

use super::entry::{Form, KEY_BYTES_MAX};
use super::keyring::{KeyDigest, Role};
use super::link::Link;
use super::value::Value;

const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
const KIND_CLEAR: u8 = 3;
const KIND_LINK: u8 = 4;
const KIND_UNLINK: u8 = 5;
const KIND_EXPIRE: u8 = 6;
const KIND_FORGET: u8 = 7;
const KIND_HASHING_KEY: u8 = 8;
const KIND_API_KEY: u8 = 9;
const KIND_API_KEY_REMOVED: u8 = 10;

const FLAG_ENVELOPE: u8 = 1 << 0;
const FLAG_DEADLINE: u8 = 1 << 1;

const ROLE_ADMIN: u8 = 1;
const ROLE_USER: u8 = 2;

const KIND_BYTES: usize = size_of::<u8>();
const PUT_HEAD_BYTES: usize = KIND_BYTES + size_of::<u8>() + size_of::<u16>();
const DEADLINE_BYTES: usize = size_of::<u64>();
const NAME_HEAD_BYTES: usize = size_of::<u16>();
const LINK_HEAD_BYTES: usize = KIND_BYTES + size_of::<u64>() + 3 * NAME_HEAD_BYTES;
const UNLINK_HEAD_BYTES: usize = KIND_BYTES + 2 * NAME_HEAD_BYTES;
const API_KEY_HEAD_BYTES: usize = KIND_BYTES + size_of::<u8>() + size_of::<KeyDigest>();

/// One change of the state. Keys and ids have 1 to [`KEY_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation<'a> {
    /// The key has this value and this deadline, whatever it had before.
    Put {
        /// The key.
        key: &'a str,
        /// The JSON text of the value; not empty.
        value: Value<'a>,
        /// How it is answered.
        form: Form,
        /// When it expires, in milliseconds since the Unix epoch.
        deadline: Option<u64>,
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: &'a str,
    },
    /// All keys are gone; API keys stay.
    Clear,
    /// The key has a link to this document, with this metadata, whatever it had before.
    Link {
        /// The key.
        key: &'a str,
        /// The document's collection.
        collection: &'a str,
        /// The document's id.
        record_id: &'a str,
        /// JSON text, not empty; `None` is `{}`.
        metadata: Option<Bytes>,
        /// When it was first linked, in milliseconds since the Unix epoch.
        created_at: u64,
    },
    /// The key has no link to this document.
    Unlink {
        /// The key.
        key: &'a str,
        /// The document's collection.
        collection: &'a str,
        /// The document's id.
        record_id: &'a str,
    },
    /// The key's deadline has passed: its value is gone, the key is remembered.
    Expire {
        /// The key.
        key: &'a str,
    },
    /// The key expired long enough ago: it is no longer remembered.
    Forget {
        /// The key.
        key: &'a str,
    },
    /// API keys are digested under this key.
    HashingKey {
        /// The key, 32 random bytes.
        hashing_key: [u8; 32],
    },
    /// There is an API key of this id, with this role and digest.
    ApiKey {
        /// Its public identity.
        id: &'a str,
        /// What its bearer may do.
        role: Role,
        /// Keyed digest of its secret.
        digest: KeyDigest,
    },
    /// There is no API key of this id.
    ApiKeyRemoved {
        /// Its public identity.
        id: &'a str,
    },
}

/// Why bytes are not a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The kind is not known to this version.
    #[error(
        "mutation kind {kind} is unknown: a newer version of ekokv wrote it and is needed to read it"
    )]
    UnknownKind {
        /// The byte that names the kind.
        kind: u8,
    },
    /// The bytes end before the mutation does.
    #[error("the mutation ends before its {field}")]
    Short {
        /// What is missing.
        field: &'static str,
    },
    /// A field has a value that no mutation has.
    #[error("the mutation's {field} is not valid")]
    Invalid {
        /// The field.
        field: &'static str,
    },
    /// Bytes follow the mutation.
    #[error("{bytes} bytes follow the mutation")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

impl<'a> Mutation<'a> {
    /// Length in bytes of what [`Mutation::encode`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Put {
                key,
                value,
                deadline,
                ..
            } => {
                let deadline_bytes = if deadline.is_some() {
                    DEADLINE_BYTES
                } else {
                    0
                };
                PUT_HEAD_BYTES + deadline_bytes + key.len() + value.len()
            }
            Self::Clear => KIND_BYTES,
            Self::Link {
                key,
                collection,
                record_id,
                metadata,
                ..
            } => {
                let names_bytes = key.len() + collection.len() + record_id.len();
                LINK_HEAD_BYTES + names_bytes + metadata.as_ref().map_or(0, Bytes::len)
            }
            Self::Unlink {
                key,
                collection,
                record_id,
            } => UNLINK_HEAD_BYTES + key.len() + collection.len() + record_id.len(),
            Self::Delete { key: name }
            | Self::Expire { key: name }
            | Self::Forget { key: name }
            | Self::ApiKeyRemoved { id: name } => KIND_BYTES + name.len(),
            Self::HashingKey { hashing_key } => KIND_BYTES + hashing_key.len(),
            Self::ApiKey { id, .. } => API_KEY_HEAD_BYTES + id.len(),
        }
    }

    /// Appends the mutation's bytes.
    ///
    /// # Panics
    /// If a key, an id or a value has a length that the format cannot hold. Whoever made the
    /// mutation has checked its lengths; the log must not take what it could not give back.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        match self {
            Self::Put {
                key,
                value,
                form,
                deadline,
            } => {
                assert!(!value.is_empty(), "a value is at least one byte of JSON");
                put_parts(key, value, *form, *deadline, |part| {
                    out.extend_from_slice(part);
                });
            }
            Self::Delete { key } => encode_named(KIND_DELETE, key, out),
            Self::Clear => out.push(KIND_CLEAR),
            Self::Link {
                key,
                collection,
                record_id,
                metadata,
                created_at,
            } => {
                let metadata = metadata.as_ref();
                assert!(
                    metadata.is_none_or(|text| !text.is_empty()),
                    "metadata is at least one byte of JSON"
                );
                let metadata = metadata.map_or(&[][..], |text| text);
                let names = [*key, *collection, *record_id];
                link_parts(names, metadata, *created_at, |part| {
                    out.extend_from_slice(part);
                });
            }
            Self::Unlink {
                key,
                collection,
                record_id,
            } => {
                checked_len(record_id);
                out.push(KIND_UNLINK);
                for name in [key, collection] {
                    out.extend_from_slice(&checked_len(name).to_le_bytes());
                    out.extend_from_slice(name.as_bytes());
                }
                out.extend_from_slice(record_id.as_bytes());
            }
            Self::Expire { key } => encode_named(KIND_EXPIRE, key, out),
            Self::Forget { key } => encode_named(KIND_FORGET, key, out),
            Self::HashingKey { hashing_key } => {
                out.push(KIND_HASHING_KEY);
                out.extend_from_slice(hashing_key);
            }
            Self::ApiKey { id, role, digest } => {
                checked_len(id);
                let role = match role {
                    Role::Admin => ROLE_ADMIN,
                    Role::User => ROLE_USER,
                };
                out.extend_from_slice(&[KIND_API_KEY, role]);
                out.extend_from_slice(digest);
                out.extend_from_slice(id.as_bytes());
            }
            Self::ApiKeyRemoved { id } => encode_named(KIND_API_KEY_REMOVED, id, out),
        }
    }

    /// The key that it is about; `None` if it is about API keys or all keys.
    #[must_use]
    pub fn key(&self) -> Option<&'a str> {
        match self {
            Self::Put { key, .. }
            | Self::Delete { key }
            | Self::Link { key, .. }
            | Self::Unlink { key, .. }
            | Self::Expire { key }
            | Self::Forget { key } => Some(key),
            Self::Clear
            | Self::HashingKey { .. }
            | Self::ApiKey { .. }
            | Self::ApiKeyRemoved { .. } => None,
        }
    }

    /// Reads one mutation that takes up all of `bytes`. A value stays where it is.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        let [kind] = reader.take("kind")?;
        let mutation = match kind {
            KIND_PUT => return reader.put(),
            KIND_DELETE => Self::Delete {
                key: reader.rest("key")?,
            },
            KIND_CLEAR => Self::Clear,
            KIND_LINK => {
                let created_at = u64::from_le_bytes(reader.take("time")?);
                Self::Link {
                    created_at,
                    key: reader.name("key")?,
                    collection: reader.name("collection")?,
                    record_id: reader.name("record id")?,
                    metadata: match std::mem::take(&mut reader.0) {
                        [] => None,
                        text => Some(Bytes::copy_from_slice(text)),
                    },
                }
            }
            KIND_UNLINK => Self::Unlink {
                key: reader.name("key")?,
                collection: reader.name("collection")?,
                record_id: reader.rest("record id")?,
            },
            KIND_EXPIRE => Self::Expire {
                key: reader.rest("key")?,
            },
            KIND_FORGET => Self::Forget {
                key: reader.rest("key")?,
            },
            KIND_HASHING_KEY => Self::HashingKey {
                hashing_key: reader.take("hashing key")?,
            },
            KIND_API_KEY => {
                let role = match reader.take("role")? {
                    [ROLE_ADMIN] => Role::Admin,
                    [ROLE_USER] => Role::User,
                    _ => return Err(DecodeError::Invalid { field: "role" }),
                };
                let digest = reader.take("digest")?;
                Self::ApiKey {
                    id: reader.rest("id")?,
                    role,
                    digest,
                }
            }
            KIND_API_KEY_REMOVED => Self::ApiKeyRemoved {
                id: reader.rest("id")?,
            },
            _ => return Err(DecodeError::UnknownKind { kind }),
        };
        match reader.0.len() {
            0 => Ok(mutation),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }
}

/// The pieces of a put, one after the other.
fn put_parts(
    key: &str,
    value: &[u8],
    form: Form,
    deadline: Option<u64>,
    mut part: impl FnMut(&[u8]),
) {
    let envelope = if form == Form::Envelope {
        FLAG_ENVELOPE
    } else {
        0
    };
    let dated = if deadline.is_some() { FLAG_DEADLINE } else { 0 };
    part(&[KIND_PUT, envelope | dated]);
    if let Some(deadline) = deadline {
        part(&deadline.to_le_bytes());
    }
    part(&checked_len(key).to_le_bytes());
    part(key.as_bytes());
    part(value);
}

/// The pieces of a link, one after the other.
fn link_parts(names: [&str; 3], metadata: &[u8], created_at: u64, mut part: impl FnMut(&[u8])) {
    part(&[KIND_LINK]);
    part(&created_at.to_le_bytes());
    for name in names {
        part(&checked_len(name).to_le_bytes());
        part(name.as_bytes());
    }
    part(metadata);
}

/// CRC-32 of the put that made an entry, as its record in the log has it, without building it.
pub(super) fn put_crc(key: &str, value: &[u8], form: Form, deadline: Option<u64>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    put_parts(key, value, form, deadline, |part| hasher.update(part));
    hasher.finalize()
}

/// The same for the mutation that made a link of `key`.
pub(super) fn link_crc(key: &str, link: &Link) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let names = [key, &link.collection, &link.record_id];
    let metadata = link.metadata.as_ref().map_or(&[][..], |text| text);
    link_parts(names, metadata, link.created_at, |part| hasher.update(part));
    hasher.finalize()
}

fn encode_named(kind: u8, name: &str, out: &mut Vec<u8>) {
    checked_len(name);
    out.push(kind);
    out.extend_from_slice(name.as_bytes());
}

fn checked_len(name: &str) -> u16 {
    let len = u16::try_from(name.len()).unwrap_or(0);
    assert!(
        len > 0,
        "a key or id has 1 to {KEY_BYTES_MAX} bytes, not {}",
        name.len()
    );
    len
}

/// What is left of the bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A name behind its length.
    fn name(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = usize::from(u16::from_le_bytes(self.take(field)?));
        let (text, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or(DecodeError::Short { field })?;
        self.0 = rest;
        name(text, field)
    }

    fn put(mut self) -> Result<Mutation<'a>, DecodeError> {
        let [flags] = self.take("flags")?;
        if flags & !(FLAG_ENVELOPE | FLAG_DEADLINE) != 0 {
            return Err(DecodeError::Invalid { field: "flags" });
        }
        let form = if flags & FLAG_ENVELOPE == 0 {
            Form::Bare
        } else {
            Form::Envelope
        };
        let deadline = match flags & FLAG_DEADLINE {
            0 => None,
            _ => Some(u64::from_le_bytes(self.take("deadline")?)),
        };
        let key_bytes = usize::from(u16::from_le_bytes(self.take("key length")?));
        let (key, value) = self
            .0
            .split_at_checked(key_bytes)
            .ok_or(DecodeError::Short { field: "key" })?;
        let key = name(key, "key")?;
        if value.is_empty() {
            return Err(DecodeError::Short { field: "value" });
        }
        Ok(Mutation::Put {
            key,
            value: Value::Lent(value),
            form,
            deadline,
        })
    }

    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(DecodeError::Short { field })?;
        self.0 = rest;
        Ok(*taken)
    }

    fn rest(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        name(std::mem::take(&mut self.0), field)
    }
}

fn name<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, DecodeError> {
    match std::str::from_utf8(bytes) {
        Ok("") => Err(DecodeError::Short { field }),
        Ok(name) if name.len() <= KEY_BYTES_MAX => Ok(name),
        _ => Err(DecodeError::Invalid { field }),
    }
}

#[cfg(test)]
mod tests;
