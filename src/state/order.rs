//! The order of the keys: which records there are, from the first key to the last.
//!
//! What always holds:
//! - Slots ascend by their keys. A row of leaves, or of branches, is parted by [`Fences`].
//! - No leaf is empty, unless it is the only one; none has more than 128 slots, no branch more than 64
//!   leaves.
//! - A key is there at most once: whoever inserts has looked.
//!
//! # Layout
//!
//! Branches hold leaves, leaves hold slots, and that is all: with two thirds of each there are some 4 000
//! keys in a branch, and 2 500 branches for ten million keys. A search goes through two rows of fences, the
//! first of which stays in the caches, and one leaf.
//!
//! A slot is a handle and bits of the hash of its key. Looking a key up compares these and reads the one
//! record whose bits fit. (One in 16 million others fits by chance. Whoever makes keys for it gets 128 into a
//! leaf: as many reads.) Inserting searches the leaf by its keys. Where one key after the other goes into the
//! same leaf, as in a replay that has sorted them, the heads of its keys are laid side by side.
//!
//! A leaf that is full is split in halves. At the right end a new one is begun instead, so keys that come in
//! ascending order leave full leaves.

use std::ops::Bound;

use super::arena::Handle;
use super::fences::{Fences, fence_between, head, shared_bytes};
use super::tagged::Tagged;

/// Slots of a leaf.
const LEAF_SLOTS_MAX: usize = 128;
/// A leaf grows by so many slots.
const LEAF_GROWTH: usize = 8;
/// Leaves of a branch.
const LEAVES_MAX: usize = 64;
/// Of neighbours that have at most so many together, one is made.
const SLOTS_TOGETHER_MAX: usize = LEAF_SLOTS_MAX / 2;
const LEAVES_TOGETHER_MAX: usize = LEAVES_MAX / 2;

/// After so many keys in a row the heads of a leaf's keys are laid side by side.
const RUN_MIN: usize = 2;

/// Whoever knows the keys of the records.
pub(super) trait Keys {
    /// The key of a record; empty if there is none.
    fn key(&self, handle: Handle) -> &[u8];
}

type Leaf = Vec<Tagged>;

#[derive(Default)]
struct Branch {
    fences: Fences,
    leaves: Vec<Leaf>,
}

/// Where a slot is, until the next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    branch: usize,
    leaf: usize,
    slot: usize,
}

/// The leaf to which a key belongs, until the next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeafPlace {
    branch: usize,
    leaf: usize,
}

/// The leaf that the last key was inserted into, if nothing else has changed the leaves since.
#[derive(Default)]
struct Near {
    place: Option<LeafPlace>,
    /// How many bytes all its keys begin with.
    shared_bytes: usize,
    /// Of each of its keys the eight bytes behind these; nothing before the third key in a row.
    heads: Vec<u64>,
    /// Keys in a row.
    run: usize,
}

/// The slots of all keys.
#[derive(Default)]
pub(super) struct Order {
    fences: Fences,
    branches: Vec<Branch>,
    near: Near,
}

impl Order {
    /// Where `key` is, whose hash is `hash`.
    #[inline]
    pub(super) fn find(&self, key: &[u8], hash: u64, keys: &impl Keys) -> Option<(Place, Handle)> {
        self.find_by(key, hash, |handle| keys.key(handle) == key)
    }

    /// The same, or where it belongs.
    pub(super) fn find_or_place(
        &self,
        key: &[u8],
        hash: u64,
        keys: &impl Keys,
    ) -> Result<(Place, Handle), LeafPlace> {
        let place = self.leaf_of(key);
        self.find_in(place, hash, |handle| keys.key(handle) == key)
            .ok_or(place)
    }

    /// Where the slot of a record is, whose key and its hash these are.
    pub(super) fn find_record(&self, key: &[u8], hash: u64, record: Handle) -> Option<Place> {
        let found = self.find_by(key, hash, |handle| handle == record);
        found.map(|(place, _)| place)
    }

    #[inline]
    fn find_by(
        &self,
        key: &[u8],
        hash: u64,
        is_it: impl Fn(Handle) -> bool,
    ) -> Option<(Place, Handle)> {
        self.find_in(self.leaf_of(key), hash, is_it)
    }

    #[inline]
    fn leaf_of(&self, key: &[u8]) -> LeafPlace {
        let branch = self.fences.child(key);
        let children = self.branches.get(branch);
        let leaf = children.map_or(0, |children| children.fences.child(key));
        LeafPlace { branch, leaf }
    }

    #[inline]
    fn find_in(
        &self,
        LeafPlace { branch, leaf }: LeafPlace,
        hash: u64,
        is_it: impl Fn(Handle) -> bool,
    ) -> Option<(Place, Handle)> {
        let slots = self.branches.get(branch)?.leaves.get(leaf)?;
        let fits = |slot: &Tagged| slot.fits(hash) && is_it(slot.handle());
        let slot = slots.iter().position(fits)?;
        let place = Place { branch, leaf, slot };
        Some((place, slots.get(slot)?.handle()))
    }

    /// Puts another record of the same key in the place of one.
    pub(super) fn replace(&mut self, place: Place, handle: Handle) {
        if let Some(leaf) = self.leaf_mut(place)
            && let Some(slot) = leaf.get_mut(place.slot)
        {
            *slot = slot.with(handle);
        }
    }

    /// Inserts a key that is not there and belongs into this leaf.
    pub(super) fn insert(
        &mut self,
        place: LeafPlace,
        key: &[u8],
        hash: u64,
        handle: Handle,
        keys: &impl Keys,
    ) {
        let slot = Tagged::new(hash, handle);
        let (number, at_leaf) = (place.branch, place.leaf);
        let is_last_branch = number + 1 >= self.branches.len();
        let Some(branch) = self.branches.get_mut(number) else {
            return self.begin(slot);
        };
        let is_last = is_last_branch && at_leaf + 1 >= branch.leaves.len();
        let Some(leaf) = branch.leaves.get_mut(at_leaf) else {
            return;
        };
        let near = &mut self.near;
        let is_again = near.place.replace(place) == Some(place);
        near.run = if is_again { near.run + 1 } else { 1 };
        // Reading all keys of a leaf pays if more of them come.
        let is_run = near.run > RUN_MIN;
        let at = if is_run {
            near.position(key, leaf, keys)
        } else {
            near.heads.clear();
            leaf.partition_point(|slot| keys.key(slot.handle()) < key)
        };
        if leaf.len() < LEAF_SLOTS_MAX {
            if leaf.len() == leaf.capacity() {
                leaf.reserve_exact(LEAF_GROWTH);
            }
            leaf.insert(at, slot);
            if is_run {
                near.heads.insert(at, head(key, near.shared_bytes));
            }
            return;
        }
        near.place = None;
        let (fence, right) = if is_last && at == leaf.len() {
            let last = leaf.last().map_or(&[][..], |slot| keys.key(slot.handle()));
            (fence_between(last, key), vec![slot])
        } else {
            let half = leaf.len() / 2;
            let mut right = leaf.split_off(half);
            let end = |slot: Option<&Tagged>| slot.map_or(&[][..], |slot| keys.key(slot.handle()));
            let fence = fence_between(end(leaf.last()), end(right.first()));
            leaf.shrink_to(half + LEAF_GROWTH);
            if *key < *fence {
                leaf.insert(at.min(half), slot);
            } else {
                right.reserve_exact(LEAF_GROWTH);
                right.insert(at.saturating_sub(half), slot);
            }
            (fence, right)
        };
        branch.fences.insert(at_leaf, fence);
        branch.leaves.insert(at_leaf + 1, right);
        if branch.leaves.len() > LEAVES_MAX {
            let kept = if is_last { LEAVES_MAX } else { LEAVES_MAX / 2 };
            self.split(number, kept);
        }
    }

    /// Appends a key behind all others.
    pub(super) fn push(&mut self, key: &[u8], hash: u64, handle: Handle, keys: &impl Keys) {
        self.near.place = None;
        let slot = Tagged::new(hash, handle);
        let number = self.branches.len().saturating_sub(1);
        let Some(branch) = self.branches.get_mut(number) else {
            return self.begin(slot);
        };
        let Some(leaf) = branch.leaves.last_mut() else {
            return;
        };
        if leaf.len() < LEAF_SLOTS_MAX {
            if leaf.len() == leaf.capacity() {
                // What comes in order goes on doing so.
                leaf.reserve_exact(LEAF_SLOTS_MAX - leaf.len());
            }
            leaf.push(slot);
            return;
        }
        let last = leaf.last().map_or(&[][..], |slot| keys.key(slot.handle()));
        branch
            .fences
            .insert(branch.fences.len(), fence_between(last, key));
        branch.leaves.push(vec![slot]);
        if branch.leaves.len() > LEAVES_MAX {
            self.split(number, LEAVES_MAX);
        }
    }

    /// The last record.
    pub(super) fn last(&self) -> Option<Handle> {
        let slot = self.branches.last()?.leaves.last()?.last()?;
        Some(slot.handle())
    }

    /// Takes a slot out.
    pub(super) fn remove(&mut self, place: Place) {
        self.near.place = None;
        let Place { branch, leaf, slot } = place;
        let is_only_branch = self.branches.len() == 1;
        let Some(children) = self.branches.get_mut(branch) else {
            return;
        };
        let Some(slots) = children.leaves.get_mut(leaf) else {
            return;
        };
        if slot >= slots.len() {
            return;
        }
        slots.remove(slot);
        if slots.capacity() > slots.len() + 4 * LEAF_GROWTH {
            slots.shrink_to(slots.len() + LEAF_GROWTH);
        }
        if slots.is_empty() {
            if children.leaves.len() > 1 {
                children.leaves.remove(leaf);
                children.fences.remove(leaf.saturating_sub(1));
            } else if !is_only_branch {
                self.branches.remove(branch);
                self.fences.remove(branch.saturating_sub(1));
                return;
            }
        } else if slots.len() <= SLOTS_TOGETHER_MAX / 2 {
            // With the neighbour behind it, else with the one before.
            let together = children.join_leaves(leaf) || leaf > 0 && children.join_leaves(leaf - 1);
            if !together {
                return;
            }
        } else {
            return;
        }
        let _ = self.join_branches(branch) || branch > 0 && self.join_branches(branch - 1);
    }

    /// The records of a range of keys.
    pub(super) fn range<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
        keys: &impl Keys,
    ) -> Range<'a> {
        let begin = Place {
            branch: 0,
            leaf: 0,
            slot: 0,
        };
        let end = Place {
            branch: self.branches.len(),
            ..begin
        };
        let front = match range.0 {
            Bound::Unbounded => self.normal(begin),
            Bound::Included(key) => self.seek(key.as_bytes(), keys, |other, key| other < key),
            Bound::Excluded(key) => self.seek(key.as_bytes(), keys, |other, key| other <= key),
        };
        let back = match range.1 {
            Bound::Unbounded => end,
            Bound::Included(key) => self.seek(key.as_bytes(), keys, |other, key| other <= key),
            Bound::Excluded(key) => self.seek(key.as_bytes(), keys, |other, key| other < key),
        };
        Range {
            order: self,
            front,
            // A range that is turned round is empty.
            back: back.max(front),
        }
    }

    /// The first place for whose key `is_before` does not hold.
    fn seek(&self, key: &[u8], keys: &impl Keys, is_before: fn(&[u8], &[u8]) -> bool) -> Place {
        let branch = self.fences.child(key);
        let children = self.branches.get(branch);
        let leaf = children.map_or(0, |children| children.fences.child(key));
        let slots = children.and_then(|children| children.leaves.get(leaf));
        let slot = slots.map_or(0, |slots| {
            slots.partition_point(|slot| is_before(keys.key(slot.handle()), key))
        });
        self.normal(Place { branch, leaf, slot })
    }

    /// The same place, if there is a slot, else the next one with a slot, else the end.
    fn normal(&self, mut place: Place) -> Place {
        while let Some(branch) = self.branches.get(place.branch) {
            while let Some(leaf) = branch.leaves.get(place.leaf) {
                if place.slot < leaf.len() {
                    return place;
                }
                place.leaf += 1;
                place.slot = 0;
            }
            place.branch += 1;
            place.leaf = 0;
        }
        place
    }

    fn leaf_mut(&mut self, place: Place) -> Option<&mut Leaf> {
        let branch = self.branches.get_mut(place.branch)?;
        branch.leaves.get_mut(place.leaf)
    }

    fn begin(&mut self, slot: Tagged) {
        self.branches.push(Branch {
            fences: Fences::default(),
            leaves: vec![vec![slot]],
        });
    }

    /// Makes two branches of one: the first `kept` leaves, and the rest.
    fn split(&mut self, number: usize, kept: usize) {
        let Some(branch) = self.branches.get_mut(number) else {
            return;
        };
        let (between, fences) = branch.fences.split_off(kept);
        let leaves = branch.leaves.split_off(kept);
        branch.leaves.shrink_to_fit();
        self.fences.insert(number, between);
        self.branches.insert(number + 1, Branch { fences, leaves });
    }

    /// Makes one branch of this one and the next, if they have few leaves.
    fn join_branches(&mut self, number: usize) -> bool {
        let Some([this, next]) = self.branches.get(number..number + 2) else {
            return false;
        };
        if this.leaves.len() + next.leaves.len() > LEAVES_TOGETHER_MAX {
            return false;
        }
        let next = self.branches.remove(number + 1);
        let between = self.fences.remove(number).unwrap_or_default();
        if let Some(this) = self.branches.get_mut(number) {
            this.fences.append(between, next.fences);
            this.leaves.extend(next.leaves);
        }
        true
    }
}

impl Near {
    /// Where a key belongs in this leaf.
    fn position(&mut self, key: &[u8], leaf: &Leaf, keys: &impl Keys) -> usize {
        let key_of = |slot: &Tagged| keys.key(slot.handle());
        let (first, last) = (leaf.first().map(key_of), leaf.last().map(key_of));
        let first = first.unwrap_or_default();
        let shared = shared_bytes(first, last.unwrap_or_default());
        let shared = shared_bytes(first.get(..shared).unwrap_or_default(), key);
        if self.heads.len() != leaf.len() || self.shared_bytes != shared {
            self.shared_bytes = shared;
            self.heads.clear();
            self.heads
                .extend(leaf.iter().map(|slot| head(key_of(slot), shared)));
        }
        let head = head(key, shared);
        let at = self.heads.partition_point(|other| *other < head);
        let equal = self.heads.get(at..).unwrap_or_default();
        let equal = equal.partition_point(|other| *other == head);
        let slots = leaf.get(at..at + equal).unwrap_or_default();
        at + slots.partition_point(|slot| key_of(slot) < key)
    }
}

impl Branch {
    /// Makes one leaf of this one and the next, if they have few slots.
    fn join_leaves(&mut self, at: usize) -> bool {
        let Some([this, next]) = self.leaves.get_mut(at..at + 2) else {
            return false;
        };
        if this.len() + next.len() > SLOTS_TOGETHER_MAX {
            return false;
        }
        this.reserve_exact(next.len());
        this.append(next);
        self.leaves.remove(at + 1);
        self.fences.remove(at);
        true
    }
}

/// The records of a range of keys, in their order.
pub(super) struct Range<'a> {
    order: &'a Order,
    front: Place,
    /// Behind the last one.
    back: Place,
}

impl Iterator for Range<'_> {
    type Item = Handle;

    fn next(&mut self) -> Option<Handle> {
        if self.front >= self.back {
            return None;
        }
        let Place { branch, leaf, slot } = self.front;
        let children = self.order.branches.get(branch)?;
        let slots = children.leaves.get(leaf)?;
        let handle = slots.get(slot)?.handle();
        self.front.slot += 1;
        if self.front.slot >= slots.len() {
            self.front = self.order.normal(self.front);
        }
        Some(handle)
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Handle> {
        if self.front >= self.back {
            return None;
        }
        while self.back.slot == 0 {
            if self.back.leaf == 0 {
                self.back.branch = self.back.branch.checked_sub(1)?;
                self.back.leaf = self.order.branches.get(self.back.branch)?.leaves.len();
            } else {
                self.back.leaf -= 1;
                let children = self.order.branches.get(self.back.branch)?;
                self.back.slot = children.leaves.get(self.back.leaf)?.len();
            }
        }
        self.back.slot -= 1;
        let children = self.order.branches.get(self.back.branch)?;
        let slots = children.leaves.get(self.back.leaf)?;
        Some(slots.get(self.back.slot)?.handle())
    }
}

#[cfg(test)]
mod tests;
