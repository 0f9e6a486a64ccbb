//! The keys of the store with what is stored under them.
//!
//! - Every slot that has a deadline is in the index of what becomes due, under its own version;
//!   no other is.
//! - Every tombstone is in the queue of tombstones; records of keys that were set again meanwhile
//!   stand there in vain until their turn comes.
//! - The books are those of the slots and the queue.
//! - A record's handle is in its slot of the order, in the index if it is due, in the queue if it is a
//!   tombstone, perhaps in the lookaside table, and nowhere else: so records can be moved.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use xxhash_rust::xxh3::xxh3_64;

use super::arena::Handle;
use super::books::{Books, TOMBSTONE_BYTES};
use super::entry::{Kept, KeptRef};
use super::link::Links;
use super::lookaside::Lookaside;
use super::order::{Keys, Order, Place};
use super::records::{Records, Slot};

/// The queue's ring is given back beyond this capacity once the queue is empty.
const TOMBSTONES_KEPT: usize = 4096;

/// So many records are moved at once when memory is sparse, or a page of them: a few microseconds, and more
/// where that gives a region back.
const MOVES_AT_ONCE: usize = 8;

/// Everything that a clear empties.
pub(super) struct Contents {
    order: Order,
    lookaside: Lookaside,
    records: Records,
    /// (when an expire or a forget is due, the slot's version) → record. A version belongs to one key
    /// only, so a slot finds its place here without comparing or copying keys.
    due: BTreeMap<(u64, u64), Handle>,
    /// Version and record of tombstones, in ascending order of versions; in a replay only once the
    /// stretch is made so, and no record is moved before. Where the key was set again something else is at
    /// the handle.
    tombstones: VecDeque<(u64, Handle)>,
    retention_ms: u64,
    books: Books,
}

impl Contents {
    pub(super) fn new(retention_ms: u64) -> Self {
        Self {
            order: Order::default(),
            lookaside: Lookaside::default(),
            records: Records::default(),
            due: BTreeMap::new(),
            tombstones: VecDeque::new(),
            retention_ms,
            books: Books::default(),
        }
    }

    pub(super) fn slot(&self, key: &str) -> Option<Slot<'_>> {
        let hash = hash_of(key);
        let slot_of = |handle| self.records.slot_of(handle, key.as_bytes());
        if let Some(slot) = self.lookaside.find(hash, slot_of) {
            return Some(slot);
        }
        let (_, handle) = self.order.find(key.as_bytes(), hash, &self.records)?;
        self.lookaside.note(hash, handle);
        self.records.slot(handle)
    }

    /// Has the processor fetch what [`Contents::prefetch_record`] reads, without waiting for it.
    #[inline]
    pub(super) fn prefetch_place(&self, hash: u64) {
        self.lookaside.prefetch(hash);
    }

    /// Has the processor fetch the record of the key with this hash, if the table knows where it is, without
    /// waiting for it.
    #[inline]
    pub(super) fn prefetch_record(&self, hash: u64) {
        // Whose record it is will be seen when it is there; another one that fits is rare.
        self.lookaside.find(hash, |handle| {
            self.records.prefetch(handle);
            None::<()>
        });
    }

    /// When a slot is due, and its key; longest due first, then least recently changed first.
    pub(super) fn due(&self) -> impl Iterator<Item = (u64, &str, Slot<'_>)> {
        self.due.iter().filter_map(|((at, _), handle)| {
            let (key, slot) = self.records.keyed(*handle)?;
            Some((*at, key, slot))
        })
    }

    /// When the first slot is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// The slots that are due at `at` or later, from this version on.
    pub(super) fn due_from(&self, at: u64, version: u64) -> impl Iterator<Item = (&str, Slot<'_>)> {
        let due = self.due.range((at, version)..);
        due.filter_map(|(_, handle)| self.records.keyed(*handle))
    }

    pub(super) fn books(&self) -> &Books {
        &self.books
    }

    /// The slots of a range of keys.
    pub(super) fn range<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
    ) -> impl DoubleEndedIterator<Item = (&'a str, Slot<'a>)> + use<'a> {
        let handles = self.order.range(range, &self.records);
        handles.filter_map(|handle| self.records.keyed(handle))
    }

    /// Puts `slot` in the place of whatever is under `key`. A value that takes the place of another
    /// takes over its links; it brings none.
    pub(super) fn put(&mut self, key: &str, slot: Slot<'_>) {
        let hash = hash_of(key);
        let key_bytes = key.as_bytes();
        let is_it = |handle| (self.records.key(handle) == key_bytes).then_some(handle);
        let (place, old) = match self.lookaside.find(hash, is_it) {
            Some(old) => (None, old),
            None => match self.order.find_or_place(key_bytes, hash, &self.records) {
                Ok((place, old)) => {
                    self.lookaside.note(hash, old);
                    (Some(place), old)
                }
                Err(place) => {
                    let new = self.records.add(key, slot, Links::default());
                    self.order
                        .insert(place, key_bytes, hash, new, &self.records);
                    self.lookaside.note(hash, new);
                    return self.arrive(new);
                }
            },
        };
        self.leave(old);
        let new = self.records.replace(old, key, slot);
        // The order needs to know only of a record that has moved.
        if new != old
            && let Some(place) = place.or_else(|| self.order.find_record(key_bytes, hash, old))
        {
            self.moved(hash, place, old, new);
        }
        self.arrive(new);
    }

    /// Puts what is kept, with the links that it has, under a key that is not there.
    pub(super) fn restore(&mut self, key: &str, mut kept: Kept) {
        let links = match &mut kept {
            Kept::Live(entry) => std::mem::take(&mut entry.links),
            Kept::Remembered { .. } => Links::default(),
        };
        let hash = hash_of(key);
        let found = self
            .order
            .find_or_place(key.as_bytes(), hash, &self.records);
        let Err(place) = found else {
            return;
        };
        let handle = self.records.add(key, kept.by_ref().into(), links);
        self.order
            .insert(place, key.as_bytes(), hash, handle, &self.records);
        self.arrive(handle);
    }

    /// Takes one slot out, off the books too. Not for tombstones: the queue keeps those.
    pub(super) fn take(&mut self, key: &str) -> Option<Kept> {
        let hash = hash_of(key);
        let (place, handle) = self.order.find(key.as_bytes(), hash, &self.records)?;
        let kept = self.records.slot(handle)?.kept()?.to_kept();
        self.remove(hash, place, handle);
        Some(kept)
    }

    /// Changes the links of a live entry, which is a change of the entry: it has a new version.
    pub(super) fn relink(&mut self, key: &str, version: u64, change: impl FnOnce(&mut Links)) {
        let hash = hash_of(key);
        let found = self.order.find(key.as_bytes(), hash, &self.records);
        let Some((place, old)) = found else {
            return;
        };
        if !matches!(self.records.slot(old), Some(Slot::Live(_))) {
            return;
        }
        self.leave(old);
        let new = self.records.relink(old, version, change);
        self.moved(hash, place, old, new);
        self.arrive(new);
    }

    /// Leaves a tombstone under `key`, if anything but a tombstone is there.
    pub(super) fn bury(&mut self, key: &str, version: u64) {
        let hash = hash_of(key);
        let found = self.order.find(key.as_bytes(), hash, &self.records);
        let Some((place, old)) = found else {
            return;
        };
        if matches!(self.records.slot(old), None | Some(Slot::Tombstone { .. })) {
            return;
        }
        self.leave(old);
        let new = self.records.replace(old, key, Slot::Tombstone { version });
        self.moved(hash, place, old, new);
        self.arrive(new);
        self.tombstones.push_back((version, new));
        self.books.memory_bytes += TOMBSTONE_BYTES;
    }

    /// Drops the tombstones up to `version`, in time proportional to their number, and goes on with what is
    /// done bit by bit.
    pub(super) fn release(&mut self, version: u64) {
        while let Some((buried, handle)) = self.tombstones.pop_front_if(|(at, _)| *at <= version) {
            self.books.memory_bytes -= TOMBSTONE_BYTES;
            let found = match self.records.keyed(handle) {
                Some((key, Slot::Tombstone { version })) if version == buried => {
                    let hash = hash_of(key);
                    let place = self.order.find_record(key.as_bytes(), hash, handle);
                    place.map(|place| (hash, place))
                }
                _ => None,
            };
            if let Some((hash, place)) = found {
                self.remove(hash, place, handle);
            }
        }
        if self.tombstones.is_empty() && self.tombstones.capacity() > TOMBSTONES_KEPT {
            self.tombstones.shrink_to(TOMBSTONES_KEPT);
        }
        for _ in 0..MOVES_AT_ONCE {
            let Some(handle) = self.records.next_to_move() else {
                // Only in a turn of its own, for it is a page as a whole.
                self.records.tidy();
                break;
            };
            self.relocate(handle);
        }
        self.lookaside
            .fit(self.books.live_len + self.books.remembered_len);
    }

    /// Whether there is something that [`Contents::release`] would move.
    pub(super) fn is_sparse(&self) -> bool {
        self.records.may_be_sparse()
    }

    /// A slot came: its books, and its place in the index.
    fn arrive(&mut self, handle: Handle) {
        let Some((key, slot)) = self.records.keyed(handle) else {
            return;
        };
        self.books.add(key, &slot);
        if let Some(at) = due_at(&slot, self.retention_ms) {
            self.due.insert((at, slot.version()), handle);
        }
    }

    /// A slot is about to go.
    fn leave(&mut self, handle: Handle) {
        let Some((key, slot)) = self.records.keyed(handle) else {
            return;
        };
        self.books.take_off(key, &slot);
        if let Some(at) = due_at(&slot, self.retention_ms) {
            self.due.remove(&(at, slot.version()));
        }
    }

    fn moved(&mut self, hash: u64, place: Place, old: Handle, new: Handle) {
        if new != old {
            self.order.replace(place, new);
            self.lookaside.replace(hash, old, new);
        }
    }

    /// Takes a slot out, off the books too.
    fn remove(&mut self, hash: u64, place: Place, handle: Handle) {
        self.leave(handle);
        self.order.remove(place);
        self.lookaside.remove(hash, handle);
        self.records.remove(handle);
    }

    /// Moves a record elsewhere.
    fn relocate(&mut self, old: Handle) {
        let Some((key, slot)) = self.records.keyed(old) else {
            return;
        };
        let hash = hash_of(key);
        let Some(place) = self.order.find_record(key.as_bytes(), hash, old) else {
            return;
        };
        let version = slot.version();
        let due_at = due_at(&slot, self.retention_ms);
        let is_tombstone = matches!(slot, Slot::Tombstone { .. });
        let new = self.records.relocate(old);
        self.moved(hash, place, old, new);
        if let Some(at) = due_at {
            self.due.insert((at, version), new);
        }
        if is_tombstone
            && let Ok(at) = self
                .tombstones
                .binary_search_by_key(&version, |(version, _)| *version)
            && let Some(buried) = self.tombstones.get_mut(at)
        {
            buried.1 = new;
        }
    }
}

/// Builds contents out of keys that ascend. Leaves and the nodes of the index are filled one after the
/// other, which is faster than key by key and leaves them full.
pub(super) struct ContentsLoader {
    contents: Contents,
    due: Vec<((u64, u64), Handle)>,
}

impl ContentsLoader {
    pub(super) fn new(retention_ms: u64) -> Self {
        Self {
            contents: Contents::new(retention_ms),
            due: Vec::new(),
        }
    }

    /// Appends a key. One that is not behind all others finds its place too, but slowly.
    pub(super) fn push(&mut self, key: &str, kept: KeptRef<'_>) {
        let contents = &mut self.contents;
        let last = contents.order.last();
        if last.is_some_and(|last| *contents.records.key(last) >= *key.as_bytes()) {
            let _ = contents.take(key);
            return contents.restore(key, kept.to_kept());
        }
        let slot = Slot::from(kept);
        contents.books.add(key, &slot);
        let links = match kept {
            KeptRef::Live(entry) => entry.links.clone(),
            KeptRef::Remembered { .. } => Links::default(),
        };
        let handle = contents.records.add(key, slot, links);
        contents
            .order
            .push(key.as_bytes(), hash_of(key), handle, &contents.records);
        if let Some(at) = due_at(&slot, contents.retention_ms) {
            self.due.push(((at, slot.version()), handle));
        }
    }

    /// The contents. The end of what was loaded takes no more room than it needs.
    pub(super) fn finish(self) -> Contents {
        let Self { mut contents, due } = self;
        // Sorted and built in one go.
        let mut due: BTreeMap<(u64, u64), Handle> = due.into_iter().collect();
        due.append(&mut contents.due);
        contents.due = due;
        contents
    }
}

/// When the slot is to become the next one: a value expires, a remembered key is forgotten.
fn due_at(slot: &Slot<'_>, retention_ms: u64) -> Option<u64> {
    match slot {
        Slot::Live(entry) => entry.deadline,
        Slot::Remembered { deadline, .. } => Some(deadline.saturating_add(retention_ms)),
        Slot::Tombstone { .. } => None,
    }
}

/// The hash of a key, by which it is looked for.
#[must_use]
pub fn hash_of(key: &str) -> u64 {
    xxh3_64(key.as_bytes())
}

#[cfg(test)]
mod tests;
