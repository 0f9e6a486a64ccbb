//! The books about the slots of a state: counts, an estimate of memory, a digest.
//!
//! What comes is added and what goes is taken off by the same function, so they cannot drift.
//!
//! The estimate follows the layout: a record's slot in the arena, with a version and a deadline of usual
//! length lest it depend on when it was made; its slots in the order and in the lookaside table; its place in
//! the index of what becomes due; a large value with its table; links. Free slots in pages are not in it.
//! `docs/architecture.md` has what was measured.

use super::arena::{Handle, SLOT_BYTES_MAX, slot_bytes};
use super::digest;
use super::link::Links;
use super::lookaside;
use super::record::usual_bytes;
use super::records::Slot;
use super::value::COPIED_BYTES_MAX;

/// What an allocation takes beyond the bytes asked for: eight of the allocator's own, and as many
/// again, on average, lost to rounding up to sixteen.
const ALLOCATION_BYTES: usize = 16;

/// What reference counting adds to a value: its place in the table, which doubles when it is full, and a
/// block with address, capacity and count.
const SHARED_VALUE_BYTES: usize = 2 * 32 + 3 * size_of::<usize>() + 2 * ALLOCATION_BYTES;

/// A slot of the order. Its leaf grows by eight slots, and has a header and a fence.
const ORDER_BYTES: usize = size_of::<u64>() + 3;

/// Nodes of a B-tree are between half full and full, two thirds on average.
const DUE_BYTES: usize = tree_bytes(size_of::<((u64, u64), Handle)>());

/// The queue's ring doubles when it is full, so up to half of it is empty.
pub(super) const TOMBSTONE_BYTES: u64 = 2 * size_of::<(u64, Handle)>() as u64;

const fn tree_bytes(item_bytes: usize) -> usize {
    item_bytes + item_bytes / 2
}

/// Counts and sums over all slots.
#[derive(Default)]
pub(super) struct Books {
    pub(super) live_len: usize,
    pub(super) remembered_len: usize,
    pub(super) links_len: usize,
    pub(super) memory_bytes: u64,
    /// Sum of what each slot adds to the state's digest.
    pub(super) digest: u128,
    scratch: Vec<u8>,
}

impl Books {
    /// A slot comes.
    pub(super) fn add(&mut self, key: &str, slot: &Slot<'_>) {
        match slot {
            Slot::Live(_) => self.live_len += 1,
            Slot::Remembered { .. } => self.remembered_len += 1,
            Slot::Tombstone { .. } => {}
        }
        self.links_len += links(slot).as_slice().len();
        self.memory_bytes += bytes(key.len(), slot);
        let comes = digest::of_slot(&mut self.scratch, key, slot);
        self.digest = self.digest.wrapping_add(comes);
    }

    /// A slot goes.
    pub(super) fn take_off(&mut self, key: &str, slot: &Slot<'_>) {
        match slot {
            Slot::Live(_) => self.live_len -= 1,
            Slot::Remembered { .. } => self.remembered_len -= 1,
            Slot::Tombstone { .. } => {}
        }
        self.links_len -= links(slot).as_slice().len();
        self.memory_bytes -= bytes(key.len(), slot);
        let goes = digest::of_slot(&mut self.scratch, key, slot);
        self.digest = self.digest.wrapping_sub(goes);
    }
}

fn links<'a>(slot: &Slot<'a>) -> &'a Links {
    match slot {
        Slot::Live(entry) => entry.links,
        Slot::Remembered { .. } | Slot::Tombstone { .. } => &super::link::NO_LINKS,
    }
}

fn bytes(key_len: usize, slot: &Slot<'_>) -> u64 {
    match slot {
        Slot::Live(entry) => {
            let has_deadline = entry.deadline.is_some();
            entry_bytes(key_len, entry.value.len(), has_deadline) + entry.links.bytes()
        }
        Slot::Remembered { .. } => record_bytes(key_len, None, true),
        Slot::Tombstone { .. } => record_bytes(key_len, None, false),
    }
}

/// What a live entry takes without its links, in bytes.
pub(super) fn entry_bytes(key_len: usize, value_len: usize, has_deadline: bool) -> u64 {
    if value_len <= COPIED_BYTES_MAX {
        record_bytes(key_len, Some(value_len), has_deadline)
    } else {
        let value_bytes = value_len + SHARED_VALUE_BYTES;
        record_bytes(key_len, Some(0), has_deadline) + value_bytes as u64
    }
}

fn record_bytes(key_len: usize, value_len: Option<usize>, has_deadline: bool) -> u64 {
    let record = slot_bytes(usual_bytes(key_len, value_len, has_deadline));
    let own = if record > SLOT_BYTES_MAX {
        2 * size_of::<Box<[u8]>>() + ALLOCATION_BYTES
    } else {
        0
    };
    let due = if has_deadline { DUE_BYTES } else { 0 };
    (record + own + ORDER_BYTES + lookaside::KEY_BYTES + due) as u64
}
