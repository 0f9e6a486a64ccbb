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
//! Chunks of buckets, a bucket being sixteen slots of eight bytes side by side. The table grows and shrinks
//! chunk by chunk, as linear hashing does (W. Litwin, *Linear hashing*, VLDB 1980): with *n* chunks a key
//! belongs to the chunk that the lowest bits of its tag name, as many as it takes to count to *n*, or with one
//! bit less where there is none of that number yet. A new chunk takes over what it now owns of another.
//!
//! The lowest bits of a hash choose the bucket in the chunk, its highest are the tag. So a slot tells where it
//! belongs, and what else its tag says tells it from the others in its bucket: 15 bits with two million
//! keys.
//!
//! Chunks lie side by side in memory that is mapped, in huge pages behind the first 2 MiB: what is looked for
//! is anywhere, as in the records' own regions.

use std::cell::RefCell;

use memmap2::MmapMut;
use prefetch_index::prefetch_index;

use super::arena::Handle;
use super::regions::{CACHE_LINE_BYTES, map};
use super::tagged::Tagged;

/// Slots of a bucket: two cache lines, which processors fetch as a pair.
const BUCKET_SLOTS: usize = 16;
const BUCKET_BYTES: usize = BUCKET_SLOTS * size_of::<Slot>();
/// Buckets of a chunk; few in tests, so that a few keys make many chunks.
const CHUNK_BUCKETS: usize = if cfg!(test) { 2 } else { 512 };
const CHUNK_SLOTS: usize = CHUNK_BUCKETS * BUCKET_SLOTS;
const CHUNK_BYTES: usize = CHUNK_BUCKETS * BUCKET_BYTES;
/// Chunks that are mapped at once: 2 MiB of them.
const MAPPED_CHUNKS: usize = 32;

/// Slots of the table for each key, in quarters: with fewer, buckets forget much.
const SLOTS_MIN_QUARTERS: usize = 7;
/// Beyond so many it shrinks.
const SLOTS_MAX_QUARTERS: usize = 16;

/// What a key takes here, in bytes.
pub(super) const KEY_BYTES: usize = size_of::<u64>() * SLOTS_MIN_QUARTERS / 4;

/// So many chunks come at once.
const CHUNKS_AT_ONCE: usize = 2;
/// So many go at once, which takes less.
const CHUNKS_GO_AT_ONCE: usize = 16;

/// The bits of a [`Tagged`], or [`EMPTY`].
type Slot = [u8; 8];

/// An empty slot.
const EMPTY: Slot = [0; 8];

/// Handles by the hashes of keys.
#[derive(Default)]
pub(super) struct Lookaside {
    chunks: usize,
    /// Changed by readers as well, who note what they found.
    mapped: RefCell<Vec<MmapMut>>,
}

impl Lookaside {
    /// What `is_it` makes of the handle of the record whose key has this hash, if it is known here.
    #[inline]
    pub(super) fn find<T>(&self, hash: u64, is_it: impl Fn(Handle) -> Option<T>) -> Option<T> {
        let mapped = self.mapped.try_borrow().ok()?;
        let (chunk, bucket) = self.place(hash);
        let bytes = mapped
            .get(chunk / MAPPED_CHUNKS)?
            .get(at(chunk, bucket)..)?;
        let (slots, _) = bytes.get(..BUCKET_BYTES)?.as_chunks();
        slots.iter().find_map(|slot| {
            let tagged = tagged(*slot);
            if tagged.fits(hash) {
                is_it(tagged.handle())
            } else {
                None
            }
        })
    }

    /// Has the processor fetch the slots of this hash, without waiting for them.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        let Ok(mapped) = self.mapped.try_borrow() else {
            return;
        };
        let (chunk, bucket) = self.place(hash);
        if let Some(bytes) = mapped.get(chunk / MAPPED_CHUNKS) {
            let at = at(chunk, bucket);
            for line in (at..at + BUCKET_BYTES).step_by(CACHE_LINE_BYTES) {
                prefetch_index::<u8>(bytes, line);
            }
        }
    }

    /// Remembers where a record is that is not known here.
    pub(super) fn note(&self, hash: u64, handle: Handle) {
        let tagged = Tagged::new(hash, handle);
        self.change(hash, |slots| {
            // Which one is forgotten is left to chance; two that drive each other out are rare.
            let any = (tagged.bits().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as usize;
            let place = slots.iter().position(|slot| *slot == EMPTY).unwrap_or(any);
            if let Some(slot) = slots.get_mut(place) {
                *slot = slot_of(tagged);
            }
        });
    }

    /// A record is at another place now.
    pub(super) fn replace(&self, hash: u64, old: Handle, new: Handle) {
        self.put(hash, old, slot_of(Tagged::new(hash, new)));
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
        let chunks = self.chunks;
        if chunks < min {
            for _ in chunks..min.min(chunks + CHUNKS_AT_ONCE) {
                // Without memory it stays as it is, and knows less.
                if self.grow().is_none() {
                    break;
                }
            }
        } else if chunks > max {
            self.shrink_to(max.max(chunks.saturating_sub(CHUNKS_GO_AT_ONCE)));
        }
    }

    /// All handles in the table.
    #[cfg(test)]
    pub(super) fn handles(&self) -> Vec<Handle> {
        let mapped = self.mapped.borrow();
        let chunks = mapped.iter().flat_map(|bytes| bytes.chunks(CHUNK_BYTES));
        let slots = chunks
            .take(self.chunks)
            .flat_map(|chunk| chunk.as_chunks().0);
        let full = slots.filter(|slot| **slot != EMPTY);
        full.map(|slot| tagged(*slot).handle()).collect()
    }

    /// Adds a chunk, with what it now owns of another; `None` if there is no memory for it.
    fn grow(&mut self) -> Option<()> {
        let number = self.chunks;
        let shared = self.chunk_of(number);
        let mapped = self.mapped.get_mut();
        if mapped.len() * MAPPED_CHUNKS <= number {
            mapped.push(map(MAPPED_CHUNKS * CHUNK_BYTES, !mapped.is_empty())?);
        }
        self.chunks += 1;
        let lowest_bits = (number + 1).next_power_of_two() - 1;
        for bucket in 0..CHUNK_BUCKETS {
            // Where there was a chunk before, its slots are still there.
            let mut new = [EMPTY; BUCKET_SLOTS];
            if shared != number {
                let from = slots_mut(mapped, shared, bucket)?;
                for (from, to) in from.iter_mut().zip(&mut new) {
                    if tagged(*from).tag() as usize & lowest_bits == number {
                        std::mem::swap(from, to);
                    }
                }
            }
            slots_mut(mapped, number, bucket)?.copy_from_slice(&new);
        }
        Some(())
    }

    /// Forgets what the chunks behind these have.
    fn shrink_to(&mut self, chunks: usize) {
        self.chunks = chunks;
        let mapped = self.mapped.get_mut();
        mapped.truncate(chunks.div_ceil(MAPPED_CHUNKS));
    }

    fn put(&self, hash: u64, handle: Handle, new: Slot) {
        let old = slot_of(Tagged::new(hash, handle));
        self.change(hash, |slots| {
            if let Some(slot) = slots.iter_mut().find(|slot| **slot == old) {
                *slot = new;
            }
        });
    }

    /// Has the slots changed that are this hash's.
    fn change(&self, hash: u64, change: impl FnOnce(&mut [Slot])) {
        let (chunk, bucket) = self.place(hash);
        if let Ok(mut mapped) = self.mapped.try_borrow_mut()
            && chunk < self.chunks
            && let Some(slots) = slots_mut(&mut mapped, chunk, bucket)
        {
            change(slots);
        }
    }

    /// The chunk and its bucket that a hash belongs to.
    #[inline]
    fn place(&self, hash: u64) -> (usize, usize) {
        let tag = Tagged::new(hash, Handle::from_bits(0)).tag();
        (self.chunk_of(tag as usize), hash as usize % CHUNK_BUCKETS)
    }

    /// The number of the chunk that a tag belongs to.
    #[inline]
    fn chunk_of(&self, tag: usize) -> usize {
        let mask = self.chunks.next_power_of_two() - 1;
        let number = tag & mask;
        if number < self.chunks {
            number
        } else {
            number & (mask >> 1)
        }
    }
}

/// Where a bucket begins in the memory of its chunk, in bytes.
#[inline]
fn at(chunk: usize, bucket: usize) -> usize {
    chunk % MAPPED_CHUNKS * CHUNK_BYTES + bucket * BUCKET_BYTES
}

fn slots_mut(mapped: &mut [MmapMut], chunk: usize, bucket: usize) -> Option<&mut [Slot]> {
    let bytes = mapped.get_mut(chunk / MAPPED_CHUNKS)?;
    let bytes = bytes
        .get_mut(at(chunk, bucket)..)?
        .get_mut(..BUCKET_BYTES)?;
    Some(bytes.as_chunks_mut().0)
}

#[inline]
fn tagged(slot: Slot) -> Tagged {
    Tagged::from_bits(u64::from_le_bytes(slot))
}

fn slot_of(tagged: Tagged) -> Slot {
    tagged.bits().to_le_bytes()
}

#[cfg(test)]
mod tests;
