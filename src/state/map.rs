//! The state itself: what is stored under each key, who may ask, and what becomes due when.

use std::fmt;
use std::ops::Bound;

use super::books::entry_bytes;
use super::contents::{Contents, ContentsLoader};
use super::digest::{self, Fingerprint};
use super::entry::{EntryRef, Kept, KeptRef, Key};
use super::keyring::{ApiKey, Keyring};
use super::link::{Link, NO_LINKS, link_bytes};
use super::mutation::Mutation;
use super::records::Slot;
use crate::planted;

/// Everything the store knows.
///
/// - It changes by [`State::apply`] alone, for each key with ascending sequences, so the same mutations
///   always build the same state. ([`State::released`] drops what no answer depends on any more.)
/// - A key past its deadline is never shown, whether or not its expiry was applied.
/// - Each answer names the sequence it depends on, absences included, for as long as that sequence
///   may not be released: deleted and forgotten keys leave a tombstone, a clear its sequence.
pub struct State {
    contents: Contents,
    /// The sequence of the last clear; 0 if there was none.
    cleared_at: u64,
    keyring: Keyring,
    retention_ms: u64,
}

/// What [`State::apply`] did beyond changing keys.
#[derive(Debug, Default)]
#[must_use]
pub struct Applied {
    /// The API keys or the hashing key are other than before.
    pub keyring_changed: bool,
    /// What a clear removed: dropping it takes time in proportion to its size, so do that where
    /// nobody waits.
    pub freed: Option<Freed>,
}

/// The former contents of a cleared state, to be dropped on whichever thread has the time.
pub struct Freed {
    _contents: Box<Contents>,
}

impl fmt::Debug for Freed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Freed").finish_non_exhaustive()
    }
}

/// What a read finds, and what that depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup<'a> {
    /// The answer may be shown once this sequence is released; 0 if it depends on none.
    pub gate: u64,
    /// What is there.
    pub slot: Shown<'a>,
}

/// A key as readers see it at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    /// It has a value.
    Found(EntryRef<'a>),
    /// Its deadline has passed, and it is still remembered.
    Expired {
        /// The deadline, in milliseconds since the Unix epoch.
        deadline: u64,
    },
    /// It was never set, or deleted, or is forgotten.
    Missing,
}

/// What is to be done about a key by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Its deadline has passed: its value is to be dropped.
    Expire(Key),
    /// It has been remembered long enough.
    Forget(Key),
}

impl Due {
    /// The mutation that does it.
    #[must_use]
    pub fn mutation(&self) -> Mutation<'_> {
        match self {
            Self::Expire(key) => Mutation::Expire { key },
            Self::Forget(key) => Mutation::Forget { key },
        }
    }
}

impl State {
    /// An empty state that remembers expired keys for `retention_ms` milliseconds after their
    /// deadline.
    #[must_use]
    pub fn new(retention_ms: u64) -> Self {
        Self {
            contents: Contents::new(retention_ms),
            cleared_at: 0,
            keyring: Keyring::default(),
            retention_ms,
        }
    }

    /// Has the processor fetch the memory that says where the record of the key with this hash is (see
    /// [`hash_of`](super::hash_of)), without waiting for it. Nothing changes but how long a search for the key
    /// waits; what is to be done before it, and takes a tenth of a microsecond or more, can be done meanwhile.
    #[inline]
    pub fn prefetch_place(&self, hash: u64) {
        self.contents.prefetch_place(hash);
    }

    /// Has the processor fetch the record of the key with this hash, in the same way; this reads what
    /// [`State::prefetch_place`] has fetched, or waits for it.
    #[inline]
    pub fn prefetch_record(&self, hash: u64) {
        self.contents.prefetch_record(hash);
    }

    /// Makes `mutation`, whose sequence is `sequence`, so: the one way the state changes, live and
    /// in replay. What it says about a key that is not there, or not in the state it speaks of (an
    /// expire of a key without a deadline, a forget of a live one), changes nothing.
    ///
    /// Sequences ascend from call to call, but for those of [`super::Changes`], where they do for each key.
    pub fn apply(&mut self, sequence: u64, mutation: &Mutation<'_>) -> Applied {
        let mut applied = Applied::default();
        match mutation {
            Mutation::Put {
                key,
                value,
                form,
                deadline,
            } => {
                let entry = EntryRef {
                    value: *value,
                    form: *form,
                    version: sequence,
                    deadline: *deadline,
                    links: &NO_LINKS,
                };
                self.contents.put(key, Slot::Live(entry));
            }
            Mutation::Delete { key } if planted("tombstone-left-out") => {
                let _ = self.contents.take(key);
            }
            Mutation::Delete { key } => self.contents.bury(key, sequence),
            Mutation::Clear => {
                self.cleared_at = sequence;
                let empty = Contents::new(self.retention_ms);
                let contents = Box::new(std::mem::replace(&mut self.contents, empty));
                applied.freed = Some(Freed {
                    _contents: contents,
                });
            }
            Mutation::Link {
                key,
                collection,
                record_id,
                metadata,
                created_at,
            } => {
                let link = Link {
                    collection: (*collection).into(),
                    record_id: (*record_id).into(),
                    metadata: metadata.clone(),
                    created_at: *created_at,
                };
                self.contents
                    .relink(key, sequence, |links| links.insert(link));
            }
            Mutation::Unlink {
                key,
                collection,
                record_id,
            } => self.contents.relink(key, sequence, |links| {
                links.remove(collection, record_id);
            }),
            Mutation::Expire { key } => {
                if let Some(Slot::Live(EntryRef {
                    deadline: Some(deadline),
                    ..
                })) = self.contents.slot(key)
                {
                    let slot = Slot::Remembered {
                        deadline,
                        version: sequence,
                    };
                    self.contents.put(key, slot);
                }
            }
            Mutation::Forget { key } => {
                if matches!(self.contents.slot(key), Some(Slot::Remembered { .. })) {
                    self.contents.bury(key, sequence);
                }
            }
            Mutation::HashingKey { hashing_key } => {
                applied.keyring_changed = self.keyring.hashing_key != *hashing_key;
                self.keyring.hashing_key = *hashing_key;
            }
            Mutation::ApiKey { id, role, digest } => {
                let key = ApiKey {
                    id: (*id).into(),
                    role: *role,
                    digest: *digest,
                };
                let before = self.keyring.api_keys.insert(key.id.clone(), key.clone());
                applied.keyring_changed = before != Some(key);
            }
            Mutation::ApiKeyRemoved { id } => {
                applied.keyring_changed = self.keyring.api_keys.remove(*id).is_some();
            }
        }
        applied
    }

    /// Drops the tombstones up to `sequence`: no answer needs them once it is released. Where much was
    /// removed a few records, or a page of them, are moved together, so that memory comes back bit by bit.
    pub fn released(&mut self, sequence: u64) {
        self.contents.release(sequence);
    }

    /// What a reader sees under `key` at `now` (milliseconds since the Unix epoch).
    #[must_use]
    pub fn get(&self, key: &str, now: u64) -> Lookup<'_> {
        let (version, slot) = self
            .contents
            .slot(key)
            .map_or((0, Shown::Missing), |slot| self.shown(slot, now));
        let gate = match slot {
            Shown::Missing if planted("clear-forgets-its-gate") => version,
            Shown::Missing => version.max(self.cleared_at),
            Shown::Found(_) | Shown::Expired { .. } => version,
        };
        Lookup { gate, slot }
    }

    /// The entry under `key`, if it has one whose deadline has not passed at `now`.
    #[must_use]
    pub fn live(&self, key: &str, now: u64) -> Option<EntryRef<'_>> {
        match self.contents.slot(key) {
            Some(Slot::Live(entry)) if entry.deadline.is_none_or(|at| now < at) => Some(entry),
            _ => None,
        }
    }

    /// When the next key is to expire or to be forgotten, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.contents.next_due()
    }

    /// The keys to expire or to forget at `now`, longest due first, at most `max`. A key that is
    /// due for both is to expire first; once that is applied it is listed again.
    #[must_use]
    pub fn due(&self, now: u64, max: usize) -> Vec<Due> {
        let due = self
            .contents
            .due()
            .take_while(|(at, ..)| *at <= now)
            .take(max);
        due.map(|(_, key, slot)| match slot {
            Slot::Live(_) => Due::Expire(key.into()),
            _ => Due::Forget(key.into()),
        })
        .collect()
    }

    /// The entries that have a deadline, in the order of their deadlines and then of their versions,
    /// from this deadline (in milliseconds since the Unix epoch) and version on.
    pub fn expiring_from(
        &self,
        deadline: u64,
        version: u64,
    ) -> impl Iterator<Item = (&str, EntryRef<'_>)> {
        let due = self.contents.due_from(deadline, version);
        due.filter_map(|(key, slot)| match slot {
            Slot::Live(entry) => Some((key, entry)),
            _ => None,
        })
    }

    /// How many keys have a value, those included whose deadline has passed unnoticed.
    #[must_use]
    pub fn live_len(&self) -> usize {
        self.contents.books().live_len
    }

    /// How many keys are expired and remembered.
    #[must_use]
    pub fn remembered_len(&self) -> usize {
        self.contents.books().remembered_len
    }

    /// An estimate of the memory that the keys take, in bytes. API keys are not in it: they are
    /// few, and no client's write adds to them.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.contents.books().memory_bytes
    }

    /// What a mutation adds to [`State::memory_bytes`] at most; costs no look at the keys.
    #[must_use]
    pub fn comes(&self, mutation: &Mutation<'_>) -> u64 {
        match mutation {
            Mutation::Put {
                key,
                value,
                deadline,
                ..
            } => entry_bytes(key.len(), value.len(), deadline.is_some()),
            Mutation::Link {
                collection,
                record_id,
                metadata,
                ..
            } => link_bytes(collection, record_id, metadata.as_deref()),
            _ => 0,
        }
    }

    /// What a mutation takes off [`State::memory_bytes`] at least, by taking the place of something.
    #[must_use]
    pub fn goes(&self, mutation: &Mutation<'_>) -> u64 {
        let entry = |key: &str| match self.contents.slot(key) {
            Some(Slot::Live(entry)) => Some(entry),
            _ => None,
        };
        match mutation {
            Mutation::Put { key, .. } => entry(key).map_or(0, |old| {
                entry_bytes(key.len(), old.value.len(), old.deadline.is_some())
            }),
            Mutation::Link {
                key,
                collection,
                record_id,
                ..
            } => {
                let old = entry(key).and_then(|entry| entry.links.get(collection, record_id));
                old.map_or(0, |old| {
                    link_bytes(collection, record_id, old.metadata.as_deref())
                })
            }
            _ => 0,
        }
    }

    /// What the links of a key take once a mutation has linked it, in bytes; 0 for other mutations.
    #[must_use]
    pub fn links_bytes_after(&self, mutation: &Mutation<'_>) -> u64 {
        let Mutation::Link { key, .. } = mutation else {
            return 0;
        };
        let now = match self.contents.slot(key) {
            Some(Slot::Live(entry)) => entry.links.bytes(),
            _ => 0,
        };
        now.saturating_add(self.comes(mutation))
            .saturating_sub(self.goes(mutation))
    }

    /// Whether the deadline of a key has passed at `now`, unnoticed by the log, and the key has
    /// links.
    #[must_use]
    pub fn expired_with_links(&self, key: &str, now: u64) -> bool {
        // Most stores have none, and this is on the path of every set.
        if self.contents.books().links_len == 0 {
            return false;
        }
        match self.contents.slot(key) {
            Some(Slot::Live(entry)) => {
                entry.deadline.is_some_and(|at| at <= now) && !entry.links.as_slice().is_empty()
            }
            _ => false,
        }
    }

    /// Whether records wait to be moved together by [`State::released`].
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.contents.is_sparse()
    }

    /// The same keys with other API keys.
    #[must_use]
    pub fn with_keyring(self, keyring: Keyring) -> Self {
        Self { keyring, ..self }
    }

    /// What a snapshot would hold of the keys behind `after`, in their order.
    pub fn kept_after(&self, after: Option<&str>) -> impl Iterator<Item = (&str, KeptRef<'_>)> {
        let low = after.map_or(Bound::Unbounded, Bound::Excluded);
        let slots = self.contents.range((low, Bound::Unbounded));
        slots.filter_map(|(key, slot)| Some((key, slot.kept()?)))
    }

    /// Takes what is under a key out of the state.
    pub(super) fn take(&mut self, key: &str) -> Option<Kept> {
        self.contents.take(key)
    }

    /// Puts `kept` under a key that is not there.
    pub(super) fn put_back(&mut self, key: &str, kept: Kept) {
        self.contents.restore(key, kept);
    }

    /// What the state holds, in numbers.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            live: self.contents.books().live_len as u64,
            remembered: self.contents.books().remembered_len as u64,
            links: self.contents.books().links_len as u64,
            api_keys: self.keyring.api_keys.len() as u64,
            digest: self.digest(),
        }
    }

    /// A fingerprint of all keys, remembered ones included, with their versions, values, forms,
    /// deadlines and links, and of the API keys. The same content has the same one, however it came
    /// about.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let keys = self.contents.books().digest;
        keys.wrapping_add(digest::of_keyring(&self.keyring))
    }

    /// The API keys.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Keys and entries in the byte order of the keys, those included whose deadline has passed
    /// unnoticed.
    pub fn iter(&self) -> impl Iterator<Item = (&str, EntryRef<'_>)> {
        let slots = self.contents.range((Bound::Unbounded, Bound::Unbounded));
        slots.filter_map(|(key, slot)| match slot {
            Slot::Live(entry) => Some((key, entry)),
            Slot::Remembered { .. } | Slot::Tombstone { .. } => None,
        })
    }

    /// The keys of a range with their versions and what a reader sees under each at `now`
    /// (milliseconds since the Unix epoch), absences that may be unreleased included; from the last
    /// to the first if `reverse`.
    pub(super) fn walk<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
        reverse: bool,
        now: u64,
    ) -> Box<dyn Iterator<Item = (&'a str, u64, Shown<'a>)> + 'a> {
        let seen = move |(key, slot): (&'a str, Slot<'a>)| {
            let (version, shown) = self.shown(slot, now);
            (key, version, shown)
        };
        let slots = self.contents.range(range);
        if reverse {
            Box::new(slots.rev().map(seen))
        } else {
            Box::new(slots.map(seen))
        }
    }

    /// The sequence of the last clear, on which every absence depends; 0 if there was none.
    pub(super) fn cleared_at(&self) -> u64 {
        self.cleared_at
    }

    /// A slot's version and what a reader sees of it.
    fn shown<'a>(&self, slot: Slot<'a>, now: u64) -> (u64, Shown<'a>) {
        match slot {
            Slot::Tombstone { version } => (version, Shown::Missing),
            Slot::Remembered { deadline, version } => (version, self.shown_expired(deadline, now)),
            Slot::Live(entry) => {
                let shown = match entry.deadline {
                    Some(deadline) if deadline <= now => self.shown_expired(deadline, now),
                    _ => Shown::Found(entry),
                };
                (entry.version, shown)
            }
        }
    }

    fn shown_expired<'a>(&self, deadline: u64, now: u64) -> Shown<'a> {
        if deadline.saturating_add(self.retention_ms) <= now {
            Shown::Missing
        } else {
            Shown::Expired { deadline }
        }
    }
}

/// Builds a state out of what a snapshot holds.
pub struct Loader {
    contents: ContentsLoader,
    retention_ms: u64,
}

impl Loader {
    /// A loader of a state that remembers expired keys for `retention_ms` milliseconds after their
    /// deadline.
    #[must_use]
    pub fn new(retention_ms: u64) -> Self {
        Self {
            contents: ContentsLoader::new(retention_ms),
            retention_ms,
        }
    }

    /// Adds a key. They ascend; a small value is copied once.
    pub fn push(&mut self, key: &str, kept: KeptRef<'_>) {
        self.contents.push(key, kept);
    }

    /// The state, without API keys.
    #[must_use]
    pub fn finish(self) -> State {
        State {
            contents: self.contents.finish(),
            cleared_at: 0,
            keyring: Keyring::default(),
            retention_ms: self.retention_ms,
        }
    }
}
