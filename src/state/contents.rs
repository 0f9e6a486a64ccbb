//! The keys of the store with their slots, and the books kept about them.
//!
//! - Every slot that has a deadline is in the index of what becomes due, under its own version;
//!   no other is.
//! - Every tombstone is in the queue of tombstones; records of keys that were set again meanwhile
//!   stand there in vain until their turn comes.
//! - The counts and the memory estimate are those of the slots and the queue: each change adds
//!   what comes and takes off what goes by the same function, so they cannot drift. Links are
//!   added where they are made and taken off with the slot that holds them last.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::ops::Bound;

use super::digest;
use super::entry::{Entry, Kept, Key};
use super::link::Links;

/// What an allocation takes beyond the bytes asked for: eight of the allocator's own, and as many
/// again, on average, lost to rounding up to sixteen.
const ALLOCATION_BYTES: usize = 16;

/// What reference counting adds to a value: a block with address, capacity and count.
const SHARED_VALUE_BYTES: usize = 3 * size_of::<usize>() + ALLOCATION_BYTES;

/// Nodes of a B-tree are between half full and full, two thirds on average.
const SLOT_BYTES: usize = tree_bytes(size_of::<(Key, Slot)>());
const DUE_BYTES: usize = tree_bytes(size_of::<((u64, u64), Key)>());

/// The queue's ring doubles when it is full, so up to half of it is empty.
const TOMBSTONE_BYTES: usize = 2 * size_of::<(u64, Key)>();

/// The queue's ring is given back beyond this capacity once the queue is empty.
const TOMBSTONES_KEPT: usize = 4096;

const fn tree_bytes(item_bytes: usize) -> usize {
    item_bytes + item_bytes / 2
}

/// What is stored under a key.
pub(super) enum Slot {
    /// A value; its deadline may have passed.
    Live(Entry),
    /// The value expired and is gone; the key is not forgotten yet.
    Remembered { deadline: u64, version: u64 },
    /// The key is gone, and that may still be unreleased.
    Tombstone { version: u64 },
}

/// Everything that a clear empties.
pub(super) struct Contents {
    slots: BTreeMap<Key, Slot>,
    /// (when an expire or a forget is due, the slot's version) → key. A version belongs to one key
    /// only, so a slot finds its place here without comparing or copying keys.
    due: BTreeMap<(u64, u64), Key>,
    /// Version and key of tombstones, in ascending order of versions.
    tombstones: VecDeque<(u64, Key)>,
    retention_ms: u64,
    live_len: usize,
    remembered_len: usize,
    links_len: usize,
    memory_bytes: u64,
    /// Sum of what each slot adds to the state's digest.
    digest: u128,
    scratch: Vec<u8>,
}

impl Contents {
    pub(super) fn new(retention_ms: u64) -> Self {
        Self {
            slots: BTreeMap::new(),
            due: BTreeMap::new(),
            tombstones: VecDeque::new(),
            retention_ms,
            live_len: 0,
            remembered_len: 0,
            links_len: 0,
            memory_bytes: 0,
            digest: 0,
            scratch: Vec::new(),
        }
    }

    /// The contents that hold these slots, whose keys ascend. Trees are built in one go, which is
    /// faster than key by key and leaves their nodes full.
    pub(super) fn load(retention_ms: u64, slots: impl Iterator<Item = (Key, Slot)>) -> Self {
        let mut contents = Self::new(retention_ms);
        let mut due = Vec::new();
        let slots = slots.inspect(|(key, slot)| {
            contents.arrive(key, slot);
            if let Some(at) = slot.due_at(retention_ms) {
                due.push(((at, slot.version()), key.clone()));
            }
        });
        let slots: BTreeMap<Key, Slot> = slots.collect();
        contents.slots = slots;
        contents.due = due.into_iter().collect();
        contents
    }

    /// Puts a slot, with the links that it has, under a key that is not there.
    pub(super) fn restore(&mut self, key: &str, slot: Slot) {
        self.arrive(key, &slot);
        if let Some(at) = slot.due_at(self.retention_ms) {
            self.due.insert((at, slot.version()), key.into());
        }
        self.slots.insert(key.into(), slot);
    }

    /// Puts a slot that comes with its links on the books.
    fn arrive(&mut self, key: &str, slot: &Slot) {
        self.count(key, slot);
        if let Slot::Live(entry) = slot {
            self.links_len += entry.links.as_slice().len();
            self.memory_bytes += entry.links.bytes();
        }
        let comes = digest::of_slot(&mut self.scratch, key, slot);
        self.digest = self.digest.wrapping_add(comes);
    }

    /// Takes one slot out, off the books too. Not for tombstones: the queue keeps those.
    pub(super) fn take(&mut self, key: &str) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        let gone = digest::of_slot(&mut self.scratch, key, &slot);
        self.digest = self.digest.wrapping_sub(gone);
        self.uncount(key, &slot);
        Some(slot)
    }

    pub(super) fn slot(&self, key: &str) -> Option<&Slot> {
        self.slots.get(key)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        self.slots.iter()
    }

    /// When a slot is due, and its key; longest due first, then least recently changed first.
    pub(super) fn due(&self) -> impl Iterator<Item = (u64, &Key)> {
        self.due.iter().map(|((at, _), key)| (*at, key))
    }

    /// The keys of slots that are due at `at` or later, from this version on.
    pub(super) fn due_from(&self, at: u64, version: u64) -> impl Iterator<Item = &Key> {
        self.due.range((at, version)..).map(|(_, key)| key)
    }

    pub(super) fn live_len(&self) -> usize {
        self.live_len
    }

    pub(super) fn remembered_len(&self) -> usize {
        self.remembered_len
    }

    pub(super) fn links_len(&self) -> usize {
        self.links_len
    }

    pub(super) fn digest(&self) -> u128 {
        self.digest
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The slots of a range of keys.
    pub(super) fn range<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
    ) -> btree_map::Range<'a, Key, Slot> {
        self.slots.range::<str, _>(range)
    }

    /// Puts `slot` in the place of whatever is under `key`. A value that takes the place of another
    /// takes over its links.
    pub(super) fn put(&mut self, key: &str, mut slot: Slot) {
        let due = slot
            .due_at(self.retention_ms)
            .map(|at| (at, slot.version()));
        self.count(key, &slot);
        let old_due_key = match self.slots.get_mut(key) {
            Some(place) => {
                let gone = digest::of_slot(&mut self.scratch, key, place);
                self.digest = self.digest.wrapping_sub(gone);
                if let (Slot::Live(new), Slot::Live(old)) = (&mut slot, &mut *place) {
                    new.links = std::mem::take(&mut old.links);
                }
                let comes = digest::of_slot(&mut self.scratch, key, &slot);
                self.digest = self.digest.wrapping_add(comes);
                let old = std::mem::replace(place, slot);
                self.uncount(key, &old)
            }
            None => {
                let comes = digest::of_slot(&mut self.scratch, key, &slot);
                self.digest = self.digest.wrapping_add(comes);
                self.slots.insert(key.into(), slot);
                None
            }
        };
        if let Some(due) = due {
            self.due
                .insert(due, old_due_key.unwrap_or_else(|| key.into()));
        }
    }

    /// Changes the links of a live entry, which is a change of the entry: it has a new version.
    pub(super) fn relink(&mut self, key: &str, version: u64, change: impl FnOnce(&mut Links)) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        let before = digest::of_slot(&mut self.scratch, key, slot);
        let Slot::Live(entry) = slot else {
            return;
        };
        self.memory_bytes -= entry.links.bytes();
        self.links_len -= entry.links.as_slice().len();
        change(&mut entry.links);
        self.memory_bytes += entry.links.bytes();
        self.links_len += entry.links.as_slice().len();
        let old_version = std::mem::replace(&mut entry.version, version);
        if let Some(deadline) = entry.deadline
            && let Some(key) = self.due.remove(&(deadline, old_version))
        {
            self.due.insert((deadline, version), key);
        }
        let after = digest::of_slot(&mut self.scratch, key, slot);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
    }

    /// Leaves a tombstone under `key`, if anything but a tombstone is there.
    pub(super) fn bury(&mut self, key: &str, version: u64) {
        let Some(place) = self.slots.get_mut(key) else {
            return;
        };
        if matches!(place, Slot::Tombstone { .. }) {
            return;
        }
        let gone = digest::of_slot(&mut self.scratch, key, place);
        self.digest = self.digest.wrapping_sub(gone);
        let tombstone = Slot::Tombstone { version };
        let old = std::mem::replace(place, Slot::Tombstone { version });
        self.count(key, &tombstone);
        let old_due_key = self.uncount(key, &old);
        self.memory_bytes += tombstone_bytes(key.len());
        self.tombstones
            .push_back((version, old_due_key.unwrap_or_else(|| key.into())));
    }

    /// Drops the tombstones up to `version`, in time proportional to their number.
    pub(super) fn release(&mut self, version: u64) {
        while let Some((buried, key)) = self.tombstones.pop_front_if(|(at, _)| *at <= version) {
            self.memory_bytes -= tombstone_bytes(key.len());
            let slot = self.slots.get(&key);
            if matches!(slot, Some(Slot::Tombstone { version }) if *version == buried)
                && let Some(old) = self.slots.remove(&key)
            {
                self.uncount(&key, &old);
            }
        }
        if self.tombstones.is_empty() && self.tombstones.capacity() > TOMBSTONES_KEPT {
            self.tombstones.shrink_to(TOMBSTONES_KEPT);
        }
    }

    fn count(&mut self, key: &str, slot: &Slot) {
        match slot {
            Slot::Live(_) => self.live_len += 1,
            Slot::Remembered { .. } => self.remembered_len += 1,
            Slot::Tombstone { .. } => {}
        }
        self.memory_bytes += slot.bytes(key.len());
    }

    /// Takes a slot that is no longer there off the books; the index's copy of the key, if there
    /// was one, may serve again.
    fn uncount(&mut self, key: &str, slot: &Slot) -> Option<Key> {
        match slot {
            Slot::Live(_) => self.live_len -= 1,
            Slot::Remembered { .. } => self.remembered_len -= 1,
            Slot::Tombstone { .. } => {}
        }
        self.memory_bytes -= slot.bytes(key.len());
        if let Slot::Live(entry) = slot {
            self.memory_bytes -= entry.links.bytes();
            self.links_len -= entry.links.as_slice().len();
        }
        let due_at = slot.due_at(self.retention_ms)?;
        self.due.remove(&(due_at, slot.version()))
    }
}

impl From<Kept> for Slot {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Live(entry) => Self::Live(entry),
            Kept::Remembered { deadline, version } => Self::Remembered { deadline, version },
        }
    }
}

impl Slot {
    /// What outlives a release.
    pub(super) fn kept(&self) -> Option<Kept> {
        match self {
            Self::Live(entry) => Some(Kept::Live(entry.clone())),
            Self::Remembered { deadline, version } => Some(Kept::Remembered {
                deadline: *deadline,
                version: *version,
            }),
            Self::Tombstone { .. } => None,
        }
    }

    fn version(&self) -> u64 {
        match self {
            Self::Live(entry) => entry.version,
            Self::Remembered { version, .. } | Self::Tombstone { version } => *version,
        }
    }

    /// When the slot is to become the next one: a value expires, a remembered key is forgotten.
    fn due_at(&self, retention_ms: u64) -> Option<u64> {
        match self {
            Self::Live(entry) => entry.deadline,
            Self::Remembered { deadline, .. } => Some(deadline.saturating_add(retention_ms)),
            Self::Tombstone { .. } => None,
        }
    }

    fn bytes(&self, key_len: usize) -> u64 {
        match self {
            Self::Live(entry) => entry_bytes(key_len, entry.value.len(), entry.deadline.is_some()),
            Self::Remembered { .. } => slot_bytes(key_len) + due_bytes(key_len),
            Self::Tombstone { .. } => slot_bytes(key_len),
        }
    }
}

/// What a live entry takes, in bytes.
pub(super) fn entry_bytes(key_len: usize, value_len: usize, has_deadline: bool) -> u64 {
    let due_bytes = if has_deadline { due_bytes(key_len) } else { 0 };
    let value_bytes = value_len + ALLOCATION_BYTES + SHARED_VALUE_BYTES;
    slot_bytes(key_len) + due_bytes + value_bytes as u64
}

fn slot_bytes(key_len: usize) -> u64 {
    (SLOT_BYTES + key_len + ALLOCATION_BYTES) as u64
}

fn due_bytes(key_len: usize) -> u64 {
    (DUE_BYTES + key_len + ALLOCATION_BYTES) as u64
}

fn tombstone_bytes(key_len: usize) -> u64 {
    (TOMBSTONE_BYTES + key_len + ALLOCATION_BYTES) as u64
}
