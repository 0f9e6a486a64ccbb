//! Where records lie: pages of 32 KiB, each cut into slots of one size.
//!
//! What always holds:
//! - A record lies in a slot of the smallest size that it fits into; one of more than 2048 bytes has an
//!   allocation of its own.
//! - A page that holds no record is given back.
//! - No handle makes it panic. One that was freed finds nothing, or whatever has come to its place.
//!
//! Slots have 8 to 256 bytes in steps of 4, to 1024 in steps of 16, to 2048 in steps of 64. So a record of
//! a hundred bytes loses two of them on average, and no header stands before it.
//!
//! # Handle, 40 bits
//!
//! | bit 39 | bits 38 to 13 | bits 12 to 0 |
//! | --- | --- | --- |
//! | 0 | number of the page | where the slot begins in it, in units of 4 bytes |
//! | 1 | place among the allocations of their own (bits 38 to 0) | |
//!
//! # Slot
//!
//! A record, whose first byte is not 0; or, free, a byte 0 and the next free slot of the page (u16, in
//! units of 4 bytes; `FFFF`: there is none).

use prefetch_index::prefetch_index;

use super::regions::{CACHE_LINE_BYTES, PAGE_BYTES, Regions};

/// Slots begin at multiples of this.
const UNIT_BYTES: usize = 4;
const UNIT_BITS: u32 = 13;
const _: () = assert!(PAGE_BYTES == UNIT_BYTES << UNIT_BITS);

/// Bits of a handle.
pub(super) const HANDLE_BITS: u32 = 40;
const OWN_BIT: u64 = 1 << (HANDLE_BITS - 1);
const PAGES_MAX: usize = 1 << (HANDLE_BITS - 1 - UNIT_BITS);

/// A longer record has an allocation of its own.
pub(super) const SLOT_BYTES_MAX: usize = 2048;
const FINE: Steps = Steps::new(8, 256, 4, 0);
const MIDDLE: Steps = Steps::new(256 + 16, 1024, 16, FINE.end);
const COARSE: Steps = Steps::new(1024 + 64, SLOT_BYTES_MAX, 64, MIDDLE.end);
const CLASSES: usize = COARSE.end;
// The classes that may be sparse are a set of bits.
const _: () = assert!(CLASSES <= u128::BITS as usize);

/// A class is sparse when more than a quarter of it is free, and more than so many pages.
const SLACK_PAGES: usize = 2;
/// So many pages are looked at for the emptiest.
const PAGES_LOOKED_AT: usize = 32;

const NO_UNIT: u16 = u16::MAX;
const NOT_OPEN: u32 = u32::MAX;

/// Sizes of slots, from one to another in equal steps.
struct Steps {
    first: usize,
    last: usize,
    step: usize,
    /// The class of the first size.
    begin: usize,
    /// The class behind that of the last one.
    end: usize,
}

impl Steps {
    const fn new(first: usize, last: usize, step: usize, begin: usize) -> Self {
        Self {
            first,
            last,
            step,
            begin,
            end: begin + (last - first) / step + 1,
        }
    }

    const fn size(&self, class: usize) -> usize {
        self.first + (class - self.begin) * self.step
    }

    const fn class(&self, bytes: usize) -> usize {
        self.begin + bytes.saturating_sub(self.first).div_ceil(self.step)
    }
}

/// The size of the slot for a record of `bytes`; longer ones are allocated as they are.
pub(super) const fn slot_bytes(bytes: usize) -> usize {
    match class_of(bytes) {
        Some(class) => class_bytes(class),
        None => bytes,
    }
}

const fn class_of(bytes: usize) -> Option<usize> {
    if bytes <= FINE.last {
        Some(FINE.class(bytes))
    } else if bytes <= MIDDLE.last {
        Some(MIDDLE.class(bytes))
    } else if bytes <= COARSE.last {
        Some(COARSE.class(bytes))
    } else {
        None
    }
}

const fn class_bytes(class: usize) -> usize {
    if class < FINE.end {
        FINE.size(class)
    } else if class < MIDDLE.end {
        MIDDLE.size(class)
    } else {
        COARSE.size(class)
    }
}

/// Names a record, for as long as it is not freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle(u64);

enum Place {
    Slot { page: usize, offset: usize },
    Own(usize),
}

impl Handle {
    /// The handle of these bits; those above [`HANDLE_BITS`] do not count.
    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << HANDLE_BITS) - 1))
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    fn slot(page: usize, unit: u16) -> Self {
        Self((page as u64) << UNIT_BITS | u64::from(unit))
    }

    fn own(at: usize) -> Self {
        Self::from_bits(OWN_BIT | at as u64)
    }

    fn place(self) -> Place {
        // Less than 40 bits fit: this is for machines of 64.
        if self.0 & OWN_BIT == 0 {
            Place::Slot {
                page: (self.0 >> UNIT_BITS) as usize,
                offset: (self.0 & ((1 << UNIT_BITS) - 1)) as usize * UNIT_BYTES,
            }
        } else {
            Place::Own((self.0 & !OWN_BIT) as usize)
        }
    }
}

/// What is known of a page beside its bytes.
struct Page {
    /// 0 if the page is given back.
    slot_bytes: u16,
    /// The first free slot among those that were used before.
    free: u16,
    /// Where slots begin that were never used, in units.
    fresh: u16,
    /// Slots that hold a record.
    used: u16,
    /// Its place in the list of its class's open pages.
    open_at: u32,
}

impl Page {
    fn new(slot_bytes: usize) -> Self {
        Self {
            slot_bytes: slot_bytes as u16,
            free: NO_UNIT,
            fresh: 0,
            used: 0,
            open_at: NOT_OPEN,
        }
    }

    fn class(&self) -> usize {
        class_of(usize::from(self.slot_bytes)).unwrap_or(0)
    }

    fn is_full(&self) -> bool {
        let end = usize::from(self.fresh) * UNIT_BYTES + usize::from(self.slot_bytes);
        self.free == NO_UNIT && end > PAGE_BYTES
    }

    /// Takes a free slot of the page with these bytes: where it begins, in units.
    fn take(&mut self, bytes: &[u8]) -> Option<u16> {
        let unit = if self.free == NO_UNIT {
            if self.is_full() {
                return None;
            }
            let unit = self.fresh;
            self.fresh += self.slot_bytes / UNIT_BYTES as u16;
            unit
        } else {
            let unit = self.free;
            let slot = bytes.get(usize::from(unit) * UNIT_BYTES..)?;
            let [_, low, high, ..] = *slot else {
                return None;
            };
            self.free = u16::from_le_bytes([low, high]);
            unit
        };
        self.used += 1;
        Some(unit)
    }

    /// Frees the slot that begins at `offset`; whether it held a record.
    fn give_back(&mut self, bytes: &mut [u8], offset: usize) -> bool {
        let slot_bytes = usize::from(self.slot_bytes).max(1);
        let is_slot =
            offset.is_multiple_of(slot_bytes) && offset < usize::from(self.fresh) * UNIT_BYTES;
        let next = self.free.to_le_bytes();
        match bytes.get_mut(offset..) {
            Some([first, low, high, ..]) if is_slot && *first != 0 => {
                *first = 0;
                [*low, *high] = next;
                self.free = (offset / UNIT_BYTES) as u16;
                self.used -= 1;
                true
            }
            _ => false,
        }
    }
}

/// The pages of one size.
#[derive(Default)]
struct Class {
    /// Pages with free slots, but for the one that is being emptied.
    open: Vec<u32>,
    pages: usize,
    /// Slots that hold a record.
    used: usize,
}

/// The page that is being emptied.
struct Emptied {
    page: usize,
    /// What is to be looked at next, in bytes from its beginning.
    offset: usize,
}

/// The places of all records.
#[derive(Default)]
pub(super) struct Arena {
    /// The bytes of the pages: all that reading needs.
    regions: Regions,
    pages: Vec<Page>,
    /// Numbers of pages that were given back.
    vacant: Vec<u32>,
    classes: Vec<Class>,
    /// Bits of classes that were sparse when a slot of theirs was freed.
    sparse: u128,
    emptied: Option<Emptied>,
    /// Records with an allocation of their own.
    own: Vec<Box<[u8]>>,
    own_vacant: Vec<usize>,
}

impl Arena {
    /// A place for a record of `bytes`. Whatever is in it has no meaning until its first byte is
    /// written, which must not be 0.
    pub(super) fn allocate(&mut self, bytes: usize) -> Handle {
        let Some(class) = class_of(bytes) else {
            return self.allocate_own(bytes);
        };
        loop {
            let Some(number) = self.open_page(class) else {
                return self.allocate_own(bytes);
            };
            let Some(page) = self.pages.get_mut(number) else {
                return self.allocate_own(bytes);
            };
            let taken = page.take(self.regions.get(number).unwrap_or_default());
            if page.is_full() {
                self.close(number);
            }
            if let Some(unit) = taken {
                if let Some(class) = self.classes.get_mut(class) {
                    class.used += 1;
                }
                return Handle::slot(number, unit);
            }
            // A page that says it has a free slot and has none: not again.
            self.close(number);
        }
    }

    /// What begins with the record at `handle`.
    #[inline]
    pub(super) fn read(&self, handle: Handle) -> &[u8] {
        let found = match handle.place() {
            Place::Slot { page, offset } => {
                self.regions.get(page).and_then(|bytes| bytes.get(offset..))
            }
            Place::Own(at) => self.own.get(at).map(|bytes| &bytes[..]),
        };
        found.unwrap_or_default()
    }

    /// Has the processor fetch the beginning of the record at `handle`, without waiting for it: two cache
    /// lines, for most records begin somewhere in one and end in the next.
    #[inline]
    pub(super) fn prefetch(&self, handle: Handle) {
        let bytes = self.read(handle);
        prefetch_index::<u8>(bytes, 0);
        prefetch_index::<u8>(bytes, CACHE_LINE_BYTES);
    }

    /// The record at `handle`, and what is left of its slot behind it.
    pub(super) fn get(&self, handle: Handle) -> &[u8] {
        let slot_bytes = self.slot_bytes(handle);
        self.read(handle).get(..slot_bytes).unwrap_or_default()
    }

    /// The same, to be written.
    pub(super) fn get_mut(&mut self, handle: Handle) -> &mut [u8] {
        let slot_bytes = self.slot_bytes(handle);
        let found = match handle.place() {
            Place::Slot { page, offset } => self
                .regions
                .get_mut(page)
                .and_then(|bytes| bytes.get_mut(offset..offset + slot_bytes)),
            Place::Own(at) => self.own.get_mut(at).map(|bytes| &mut bytes[..]),
        };
        found.unwrap_or_default()
    }

    /// The size of the slot at `handle`.
    fn slot_bytes(&self, handle: Handle) -> usize {
        match handle.place() {
            Place::Slot { page, .. } => self
                .pages
                .get(page)
                .map_or(0, |page| usize::from(page.slot_bytes)),
            Place::Own(at) => self.own.get(at).map_or(0, |bytes| bytes.len()),
        }
    }

    /// Gives the place of a record back.
    pub(super) fn free(&mut self, handle: Handle) {
        match handle.place() {
            Place::Slot { page, offset } => self.free_slot(page, offset),
            Place::Own(at) => {
                if let Some(bytes) = self.own.get_mut(at)
                    && !bytes.is_empty()
                {
                    *bytes = Box::default();
                    self.own_vacant.push(at);
                }
            }
        }
    }

    /// A record that is to be moved elsewhere, so that its page can be given back; `None` if memory is
    /// not sparse. Whoever asks allocates, copies and frees; a record that stays is not offered again
    /// soon.
    pub(super) fn next_to_move(&mut self) -> Option<Handle> {
        // What is left of one page, else of the next.
        for _ in 0..2 {
            let (number, mut offset) = match &self.emptied {
                Some(emptied) => (emptied.page, emptied.offset),
                None => (self.begin_emptying()?, 0),
            };
            let page = self.pages.get(number)?;
            let slot_bytes = usize::from(page.slot_bytes).max(1);
            let end = usize::from(page.fresh) * UNIT_BYTES;
            let bytes = self.regions.get(number)?;
            while offset < end && bytes.get(offset) == Some(&0) {
                offset += slot_bytes;
            }
            if offset < end {
                self.emptied = Some(Emptied {
                    page: number,
                    offset: offset + slot_bytes,
                });
                return Some(Handle::slot(number, (offset / UNIT_BYTES) as u16));
            }
            self.emptied = None;
            self.open(number);
        }
        None
    }

    /// Moves a page of records where pages are sparse; their handles stay.
    pub(super) fn tidy(&mut self) {
        self.regions.tidy();
    }

    /// Whether [`Arena::next_to_move`] may have something to offer, or [`Arena::tidy`] something to do.
    pub(super) fn may_be_sparse(&self) -> bool {
        self.sparse != 0 || self.emptied.is_some() || self.regions.is_sparse()
    }

    /// Pages that are in use.
    #[cfg(test)]
    pub(super) fn pages_in_use(&self) -> usize {
        self.pages.len() - self.vacant.len()
    }

    fn allocate_own(&mut self, bytes: usize) -> Handle {
        let place = vec![0; bytes.max(1)].into_boxed_slice();
        if let Some(at) = self.own_vacant.pop()
            && let Some(vacant) = self.own.get_mut(at)
        {
            *vacant = place;
            return Handle::own(at);
        }
        self.own.push(place);
        Handle::own(self.own.len() - 1)
    }

    /// The number of a page with a free slot.
    fn open_page(&mut self, class: usize) -> Option<usize> {
        if self.classes.is_empty() {
            self.classes.resize_with(CLASSES, Class::default);
        }
        let open = self.classes.get(class)?.open.last();
        if let Some(number) = open {
            return Some(*number as usize);
        }
        let number = match self.vacant.pop() {
            Some(number) => number as usize,
            None if self.pages.len() < PAGES_MAX => {
                self.pages.push(Page::new(0));
                self.pages.len() - 1
            }
            None => return None,
        };
        if !self.regions.take(number) {
            self.vacant.push(number as u32);
            return None;
        }
        *self.pages.get_mut(number)? = Page::new(class_bytes(class));
        self.classes.get_mut(class)?.pages += 1;
        self.open(number);
        Some(number)
    }

    /// Puts a page on the list of its class's open ones.
    fn open(&mut self, number: usize) {
        let Some(page) = self.pages.get_mut(number) else {
            return;
        };
        let class = page.class();
        if page.open_at == NOT_OPEN
            && !page.is_full()
            && let Some(class) = self.classes.get_mut(class)
        {
            page.open_at = class.open.len() as u32;
            class.open.push(number as u32);
        }
    }

    /// Takes a page off that list.
    fn close(&mut self, number: usize) {
        let Some(page) = self.pages.get_mut(number) else {
            return;
        };
        let at = std::mem::replace(&mut page.open_at, NOT_OPEN) as usize;
        let class = page.class();
        let Some(class) = self.classes.get_mut(class) else {
            return;
        };
        if at < class.open.len() {
            class.open.swap_remove(at);
            if let Some(moved) = class.open.get(at)
                && let Some(moved) = self.pages.get_mut(*moved as usize)
            {
                moved.open_at = at as u32;
            }
        }
    }

    fn free_slot(&mut self, number: usize, offset: usize) {
        let Some(page) = self.pages.get_mut(number) else {
            return;
        };
        let bytes = self.regions.get_mut(number).unwrap_or_default();
        if !page.give_back(bytes, offset) {
            return;
        }
        let (used, class_number) = (page.used, page.class());
        let is_emptied = self.emptied.as_ref().is_some_and(|e| e.page == number);
        if let Some(class) = self.classes.get_mut(class_number) {
            class.used -= 1;
            if is_sparse(class, class_number) {
                self.sparse |= 1 << class_number;
            }
        }
        if used == 0 {
            if is_emptied {
                self.emptied = None;
            }
            self.give_page_back(number, class_number);
        } else if !is_emptied {
            self.open(number);
        }
    }

    fn give_page_back(&mut self, number: usize, class: usize) {
        self.close(number);
        if let Some(class) = self.classes.get_mut(class) {
            class.pages -= 1;
        }
        if let Some(page) = self.pages.get_mut(number) {
            *page = Page::new(0);
            self.regions.give_back(number);
            self.vacant.push(number as u32);
        }
    }

    /// Chooses a page of a sparse class and takes it out of use.
    fn begin_emptying(&mut self) -> Option<usize> {
        while self.sparse != 0 {
            let bit = self.sparse.trailing_zeros();
            let class = self.classes.get(bit as usize)?;
            if !is_sparse(class, bit as usize) {
                self.sparse &= !(1 << bit);
                continue;
            }
            let used = |number: &&u32| self.pages.get(**number as usize).map(|page| page.used);
            let step = class.open.len().div_ceil(PAGES_LOOKED_AT).max(1);
            let emptiest = class.open.iter().step_by(step).min_by_key(used);
            let number = *emptiest? as usize;
            self.close(number);
            self.emptied = Some(Emptied {
                page: number,
                offset: 0,
            });
            return Some(number);
        }
        None
    }
}

fn is_sparse(class: &Class, number: usize) -> bool {
    let slots = PAGE_BYTES / class_bytes(number);
    let all = class.pages * slots;
    let free = all.saturating_sub(class.used);
    free > all / 4 + SLACK_PAGES * slots
}

#[cfg(test)]
mod tests;
