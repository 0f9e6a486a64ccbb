//! The records, and what lies beside them because it is large or rare.
//!
//! What always holds:
//! - A value of more than 4 KiB lies in a table beside the records, reference-counted, so that it leaves
//!   without a copy; one of at most 4 KiB lies in its record.
//! - A key has links in the table of links if, and only if, its record says so; that is of a live one.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::arena::{Arena, Handle, slot_bytes};
use super::entry::{EntryRef, Form, KeptRef, Key};
use super::link::{Links, NO_LINKS};
use super::order::Keys;
use super::record::{Kind, Record, Stored};
use super::value::{COPIED_BYTES_MAX, Value};

/// What is stored under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot<'a> {
    /// A value; its deadline may have passed.
    Live(EntryRef<'a>),
    /// The value expired and is gone; the key is not forgotten yet.
    Remembered { deadline: u64, version: u64 },
    /// The key is gone, and that may still be unreleased.
    Tombstone { version: u64 },
}

impl<'a> Slot<'a> {
    /// What outlives a release.
    pub(super) fn kept(self) -> Option<KeptRef<'a>> {
        match self {
            Self::Live(entry) => Some(KeptRef::Live(entry)),
            Self::Remembered { deadline, version } => {
                Some(KeptRef::Remembered { deadline, version })
            }
            Self::Tombstone { .. } => None,
        }
    }

    pub(super) fn version(&self) -> u64 {
        match self {
            Self::Live(entry) => entry.version,
            Self::Remembered { version, .. } | Self::Tombstone { version } => *version,
        }
    }
}

impl<'a> From<KeptRef<'a>> for Slot<'a> {
    fn from(kept: KeptRef<'a>) -> Self {
        match kept {
            KeptRef::Live(entry) => Self::Live(entry),
            KeptRef::Remembered { deadline, version } => Self::Remembered { deadline, version },
        }
    }
}

/// All records.
#[derive(Default)]
pub(super) struct Records {
    arena: Arena,
    /// Values that lie elsewhere; empty where none does.
    values: Vec<Bytes>,
    vacant_values: Vec<u64>,
    links: BTreeMap<Key, Links>,
    /// A record that is being moved or changed.
    buffer: Vec<u8>,
}

impl Keys for Records {
    #[inline]
    fn key(&self, handle: Handle) -> &[u8] {
        Record::key_of(self.arena.read(handle))
    }
}

impl Records {
    /// What is stored at `handle`, if anything is.
    #[inline]
    pub(super) fn slot(&self, handle: Handle) -> Option<Slot<'_>> {
        self.found(handle).map(|(_, slot)| slot)
    }

    /// Has the processor fetch the beginning of the record at `handle`, without waiting for it.
    #[inline]
    pub(super) fn prefetch(&self, handle: Handle) {
        self.arena.prefetch(handle);
    }

    /// The same with its key.
    #[inline]
    pub(super) fn keyed(&self, handle: Handle) -> Option<(&str, Slot<'_>)> {
        let (key, slot) = self.found(handle)?;
        Some((std::str::from_utf8(key).ok()?, slot))
    }

    /// The same if it is of this key.
    #[inline]
    pub(super) fn slot_of(&self, handle: Handle, key: &[u8]) -> Option<Slot<'_>> {
        let (found, slot) = self.found(handle)?;
        (found == key).then_some(slot)
    }

    #[inline]
    fn found(&self, handle: Handle) -> Option<(&[u8], Slot<'_>)> {
        let record = Record::read(self.arena.read(handle))?;
        let version = record.version;
        let slot = match record.kind {
            Kind::Tombstone => Slot::Tombstone { version },
            Kind::Remembered => Slot::Remembered {
                deadline: record.deadline?,
                version,
            },
            Kind::Live => Slot::Live(EntryRef {
                value: match record.value {
                    Stored::Here(value) => Value::Lent(value),
                    Stored::Elsewhere(at) => Value::Shared(self.values.get(at as usize)?),
                },
                form: record.form,
                version,
                deadline: record.deadline,
                links: if record.has_links {
                    let key = std::str::from_utf8(record.key).ok()?;
                    self.links.get(key).unwrap_or(&NO_LINKS)
                } else {
                    &NO_LINKS
                },
            }),
        };
        Some((record.key, slot))
    }

    /// Stores `slot` under a key that is not there, with these links.
    pub(super) fn add(&mut self, key: &str, slot: Slot<'_>, links: Links) -> Handle {
        let has_links = !links.as_slice().is_empty();
        if has_links {
            self.links.insert(key.into(), links);
        }
        let stored = self.store_value(slot);
        let record = record(key, slot, stored, has_links);
        let handle = self.arena.allocate(record.len());
        record.write(self.arena.get_mut(handle));
        handle
    }

    /// Stores `slot` in the place of what is under the same key at `old`. A value that takes the place of
    /// another takes over its links.
    pub(super) fn replace(&mut self, old: Handle, key: &str, slot: Slot<'_>) -> Handle {
        let keeps_links = matches!(slot, Slot::Live(_));
        let has_links = self.drop_parts(old, key, keeps_links);
        let stored = self.store_value(slot);
        self.write_over(old, &record(key, slot, stored, has_links && keeps_links))
    }

    /// Changes the links of the live entry at `handle`, which gets a new version.
    pub(super) fn relink(
        &mut self,
        handle: Handle,
        version: u64,
        change: impl FnOnce(&mut Links),
    ) -> Handle {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend_from_slice(self.arena.get(handle));
        let Some(mut record) = Record::read(&buffer) else {
            return handle;
        };
        let key = std::str::from_utf8(record.key).unwrap_or_default();
        let mut links = if record.has_links {
            self.links.remove_entry(key)
        } else {
            None
        }
        .unwrap_or_else(|| (key.into(), Links::default()));
        change(&mut links.1);
        record.version = version;
        record.has_links = !links.1.as_slice().is_empty();
        if record.has_links {
            self.links.insert(links.0, links.1);
        }
        let moved = self.write_over(handle, &record);
        self.buffer = buffer;
        moved
    }

    /// Removes what is at `handle`, with its links.
    pub(super) fn remove(&mut self, handle: Handle) {
        if let Some(record) = Record::read(self.arena.get(handle)) {
            let key = match std::str::from_utf8(record.key) {
                Ok(key) if record.has_links => Some(Key::from(key)),
                _ => None,
            };
            self.drop_parts(handle, key.as_deref().unwrap_or_default(), false);
        }
        self.arena.free(handle);
    }

    /// A record that should be moved, lest memory be sparse.
    pub(super) fn next_to_move(&mut self) -> Option<Handle> {
        self.arena.next_to_move()
    }

    /// Moves many of them at once where that gives memory back; their handles stay.
    pub(super) fn tidy(&mut self) {
        self.arena.tidy();
    }

    /// Whether [`Records::next_to_move`] may name one, or [`Records::tidy`] has something to do.
    pub(super) fn may_be_sparse(&self) -> bool {
        self.arena.may_be_sparse()
    }

    /// Moves a record to another place.
    pub(super) fn relocate(&mut self, handle: Handle) -> Handle {
        self.buffer.clear();
        self.buffer.extend_from_slice(self.arena.get(handle));
        let moved = self.arena.allocate(self.buffer.len());
        let place = self.arena.get_mut(moved);
        if place.len() != self.buffer.len() {
            return handle;
        }
        place.copy_from_slice(&self.buffer);
        self.arena.free(handle);
        moved
    }

    /// Pages that are in use.
    #[cfg(test)]
    pub(super) fn pages(&self) -> usize {
        self.arena.pages_in_use()
    }

    /// Values and links that lie beside the records.
    #[cfg(test)]
    pub(super) fn beside(&self) -> (usize, usize) {
        (
            self.values.len() - self.vacant_values.len(),
            self.links.len(),
        )
    }

    /// Puts the value of `slot`, if it is a large one, into the table; where the record has it.
    fn store_value<'v>(&mut self, slot: Slot<'v>) -> Stored<'v> {
        let value = match slot {
            Slot::Live(entry) => entry.value,
            Slot::Remembered { .. } | Slot::Tombstone { .. } => return Stored::Here(&[]),
        };
        if value.len() <= COPIED_BYTES_MAX {
            return Stored::Here(match value {
                Value::Lent(bytes) => bytes,
                Value::Shared(bytes) => bytes,
            });
        }
        let bytes = value.to_bytes();
        if let Some(at) = self.vacant_values.pop()
            && let Some(place) = self.values.get_mut(at as usize)
        {
            *place = bytes;
            return Stored::Elsewhere(at);
        }
        self.values.push(bytes);
        Stored::Elsewhere(self.values.len() as u64 - 1)
    }

    /// Drops what lies beside the record at `handle`, but for links that are kept; whether it had links.
    fn drop_parts(&mut self, handle: Handle, key: &str, keeps_links: bool) -> bool {
        let Some(record) = Record::read(self.arena.get(handle)) else {
            return false;
        };
        let (has_links, value) = (record.has_links, record.value);
        if let Stored::Elsewhere(at) = value
            && let Some(place) = self.values.get_mut(at as usize)
        {
            *place = Bytes::new();
            self.vacant_values.push(at);
        }
        if has_links && !keeps_links {
            self.links.remove(key);
        }
        has_links
    }

    /// Writes a record in the place of another, which is moved if the new one needs a slot of another size.
    fn write_over(&mut self, old: Handle, record: &Record<'_>) -> Handle {
        let bytes = record.len();
        let fits = self.arena.get(old).len() == slot_bytes(bytes);
        let handle = if fits {
            old
        } else {
            self.arena.free(old);
            self.arena.allocate(bytes)
        };
        record.write(self.arena.get_mut(handle));
        handle
    }
}

fn record<'r>(key: &'r str, slot: Slot<'_>, value: Stored<'r>, has_links: bool) -> Record<'r> {
    let (kind, form, deadline) = match slot {
        Slot::Live(entry) => (Kind::Live, entry.form, entry.deadline),
        Slot::Remembered { deadline, .. } => (Kind::Remembered, Form::Bare, Some(deadline)),
        Slot::Tombstone { .. } => (Kind::Tombstone, Form::Bare, None),
    };
    Record {
        kind,
        form,
        version: slot.version(),
        deadline,
        has_links,
        key: key.as_bytes(),
        value,
    }
}
