//! The lookaside table: handles of records by the hashes of their keys, beside the order.
//!
//! A search through the order waits for memory some six times; one here that finds its key, twice, the
//! record included. The table knows most keys that were set or asked for, not all: a full bucket forgets
//! one for each that comes, and what a start loads from a snapshot is not put into it.
//!
//! What always holds: a handle that is found here is that of a record which the order has, too. Whoever
//! moves or removes a record says so here.
//!
//! # Layout
//!
//! Chunks of buckets, a bucket being sixteen slots side by side. The table grows and shrinks chunk by
//! chunk, as linear hashing does (W. Litwin, *Linear hashing*, VLDB 1980): with *n* chunks a key belongs to
//! the chunk that the lowest bits of its tag name, as many as it takes to count to *n*, or with one bit less
//! where there is none of that number yet. A new chunk takes over what it now owns of another.
//!
//! The lowest bits of a hash choose the bucket in the chunk, its highest are the tag. So a slot tells where it
//! belongs, and what else its tag says tells it from the others in its bucket: 15 bits with two million
//! keys.

use std::cell::Cell;

use super::arena::Handle;
use super::tagged::Tagged;

/// Slots of a bucket: two cache lines, which processors fetch as a pair.
const BUCKET_SLOTS: usize = 16;
/// Buckets of a chunk; few in tests, so that a few keys make many chunks.
const CHUNK_BUCKETS: usize = if cfg!(test) { 2 } else { 512 };
const CHUNK_SLOTS: usize = CHUNK_BUCKETS * BUCKET_SLOTS;

/// Slots of the table for each key, in quarters: with fewer, buckets forget much.
const SLOTS_MIN_QUARTERS: usize = 5;
/// Beyond so many it shrinks.
const SLOTS_MAX_QUARTERS: usize = 16;

/// What a key takes here, in bytes.
pub(super) const KEY_BYTES: usize = size_of::<u64>() * SLOTS_MIN_QUARTERS / 4;

/// So many chunks come at once.
const CHUNKS_AT_ONCE: usize = 2;
/// So many go at once, which takes less.
const CHUNKS_GO_AT_ONCE: usize = 16;

/// An empty slot.
const EMPTY: u64 = 0;

/// Slots that are looked at together. Cells, for readers note what they found.
#[derive(Default)]
#[repr(align(128))]
struct Bucket([Cell<u64>; BUCKET_SLOTS]);

/// Handles by the hashes of keys.
#[derive(Default)]
pub(super) struct Lookaside {
    chunks: Vec<Box<[Bucket]>>,
}

impl Lookaside {
    /// What `is_it` makes of the handle of the record whose key has this hash, if it is known here.
    #[inline]
    pub(super) fn find<T>(&self, hash: u64, is_it: impl Fn(Handle) -> Option<T>) -> Option<T> {
        let slots = &self.bucket(hash)?.0;
        slots.iter().find_map(|slot| {
            let tagged = Tagged::from_bits(slot.get());
            if tagged.fits(hash) {
                is_it(tagged.handle())
            } else {
                None
            }
        })
    }

    /// Remembers where a record is that is not known here.
    pub(super) fn note(&self, hash: u64, handle: Handle) {
        let Some(Bucket(slots)) = self.bucket(hash) else {
            return;
        };
        let bits = Tagged::new(hash, handle).bits();
        let is_empty = |slot: &&Cell<u64>| slot.get() == EMPTY;
        // Which one is forgotten is left to chance; two that drive each other out are rare.
        let any = (bits.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as usize;
        let slot = slots.iter().find(is_empty).or_else(|| slots.get(any));
        if let Some(slot) = slot {
            slot.set(bits);
        }
    }

    /// A record is at another place now.
    pub(super) fn replace(&self, hash: u64, old: Handle, new: Handle) {
        self.put(hash, old, Tagged::new(hash, new).bits());
    }

    /// A record is removed.
    pub(super) fn remove(&self, hash: u64, handle: Handle) {
        self.put(hash, handle, EMPTY);
    }

    /// Comes closer to the size for so many keys, by a few chunks at most.
    #[inline]
    pub(super) fn fit(&mut self, keys: usize) {
        let min = (keys / 4 * SLOTS_MIN_QUARTERS).div_ceil(CHUNK_SLOTS);
        let max = (keys / 4 * SLOTS_MAX_QUARTERS).div_ceil(CHUNK_SLOTS) + 1;
        let chunks = self.chunks.len();
        if chunks < min {
            for _ in chunks..min.min(chunks + CHUNKS_AT_ONCE) {
                self.grow();
            }
        } else if chunks > max {
            self.shrink_to(max.max(chunks.saturating_sub(CHUNKS_GO_AT_ONCE)));
        }
    }

    /// All handles in the table.
    #[cfg(test)]
    pub(super) fn handles(&self) -> impl Iterator<Item = Handle> {
        let buckets = self.chunks.iter().flatten();
        let slots = buckets.flat_map(|Bucket(slots)| slots);
        let slots = slots.map(|slot| slot.get());
        let full = slots.filter(|bits| *bits != EMPTY);
        full.map(|bits| Tagged::from_bits(bits).handle())
    }

    fn grow(&mut self) {
        let number = self.chunks.len();
        let chunk = (0..CHUNK_BUCKETS).map(|_| Bucket::default());
        let chunk: Box<[Bucket]> = chunk.collect();
        let shared = self.chunk_of(number);
        self.chunks.push(chunk);
        let Some((new, others)) = self.chunks.split_last_mut() else {
            return;
        };
        let Some(shared) = others.get_mut(shared) else {
            return;
        };
        let lowest_bits = (number + 1).next_power_of_two() - 1;
        for (Bucket(from), Bucket(to)) in shared.iter_mut().zip(new) {
            for (from, to) in from.iter_mut().zip(to) {
                let tag = Tagged::from_bits(*from.get_mut()).tag();
                if tag as usize & lowest_bits == number {
                    std::mem::swap(from, to);
                }
            }
        }
    }

    /// Forgets what the chunks behind these have.
    fn shrink_to(&mut self, chunks: usize) {
        self.chunks.truncate(chunks);
    }

    fn put(&self, hash: u64, handle: Handle, bits: u64) {
        let old = Tagged::new(hash, handle).bits();
        let Some(Bucket(slots)) = self.bucket(hash) else {
            return;
        };
        let holds = |slot: &&Cell<u64>| slot.get() == old;
        if let Some(slot) = slots.iter().find(holds) {
            slot.set(bits);
        }
    }

    #[inline]
    fn bucket(&self, hash: u64) -> Option<&Bucket> {
        let number = self.chunk_of(Tagged::new(hash, Handle::from_bits(0)).tag() as usize);
        let chunk = self.chunks.get(number)?;
        chunk.get(hash as usize % CHUNK_BUCKETS)
    }

    /// The number of the chunk that a tag belongs to.
    #[inline]
    fn chunk_of(&self, tag: usize) -> usize {
        let mask = self.chunks.len().next_power_of_two() - 1;
        let number = tag & mask;
        if number < self.chunks.len() {
            number
        } else {
            number & (mask >> 1)
        }
    }
}

#[cfg(test)]
mod tests;
