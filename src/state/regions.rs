//! Where pages lie: regions of 2 MiB that are mapped from the system, in huge pages if it has any.
//!
//! A record that the caches do not hold waits for its address to be translated, too, and where memory is
//! virtual twice over that takes longer than the memory itself; a huge page is one translation for 2 MiB
//! instead of 512. The records are what is worth it: they are dense, and most of the memory. The first region
//! does without, so that a small store stays small; from the second on the next one is prepared beside.
//!
//! What always holds:
//! - A page is in one berth, a 64th of a region, and no other page is there.
//! - At most one region has no page, the others are unmapped. Where much is free, pages are moved until a
//!   region has none.

use std::thread::{self, JoinHandle};

use memmap2::MmapMut;

/// Length of a page in bytes.
pub(super) const PAGE_BYTES: usize = 32 << 10;
/// Berths of a region; few in tests, so that a few pages make many regions.
const REGION_BERTHS: usize = if cfg!(test) { 4 } else { 64 };
const REGION_BYTES: usize = REGION_BERTHS * PAGE_BYTES;
/// The system's smallest page; where it has larger ones, each is touched more than once.
const SYSTEM_PAGE_BYTES: usize = 4 << 10;

/// So many free berths elsewhere let an empty region go: one page that comes and goes maps nothing each
/// time.
const SPARE_BERTHS: usize = REGION_BERTHS / 4;
/// Memory is sparse when more than an eighth of it and so many berths are free.
const SLACK_BERTHS: usize = 2 * REGION_BERTHS;

/// Where a page lies: its region and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Berth(u32);

impl Berth {
    /// That of a page which is given back.
    const NONE: Self = Self(u32::MAX);

    fn new(region: usize, at: usize) -> Option<Self> {
        let number = u32::try_from(region * REGION_BERTHS + at).ok()?;
        (number != u32::MAX).then_some(Self(number))
    }

    fn region(self) -> usize {
        self.0 as usize / REGION_BERTHS
    }

    fn at(self) -> usize {
        self.0 as usize % REGION_BERTHS
    }
}

/// What processors fetch at once.
pub(super) const CACHE_LINE_BYTES: usize = 64;

/// Memory of zeros, meant for huge pages or not; `None` if the system has none.
pub(super) fn map(bytes: usize, is_huge: bool) -> Option<MmapMut> {
    let memory = MmapMut::map_anon(bytes).ok()?;
    #[cfg(target_os = "linux")]
    {
        use memmap2::Advice::{HugePage, NoHugePage};
        // A system without huge pages refuses, and nothing else changes.
        let _ = memory.advise(if is_huge { HugePage } else { NoHugePage });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = is_huge;
    Some(memory)
}

struct Region {
    memory: MmapMut,
    /// The page in each berth, if there is one.
    pages: Box<[Option<u32>; REGION_BERTHS]>,
    free: usize,
}

impl Region {
    /// One without a page.
    fn new(memory: MmapMut) -> Self {
        Self {
            memory,
            pages: Box::new([None; REGION_BERTHS]),
            free: REGION_BERTHS,
        }
    }

    #[inline]
    fn berth(&self, at: usize) -> Option<&[u8]> {
        self.memory.get(at * PAGE_BYTES..)?.get(..PAGE_BYTES)
    }

    fn berth_mut(&mut self, at: usize) -> Option<&mut [u8]> {
        self.memory
            .get_mut(at * PAGE_BYTES..)?
            .get_mut(..PAGE_BYTES)
    }
}

/// Memory for the next region, which a thread takes from the system: clearing 2 MiB takes from a tenth of a
/// millisecond to milliseconds, where the system below has to find them first.
#[derive(Default)]
struct Next(Option<JoinHandle<Option<MmapMut>>>);

impl Next {
    /// What was prepared, if it is ready.
    fn take(&mut self) -> Option<MmapMut> {
        let thread = self.0.take_if(|thread| thread.is_finished())?;
        thread.join().ok()?
    }

    /// Has memory prepared, unless some is.
    fn prepare(&mut self) {
        if self.0.is_none() {
            let thread = thread::Builder::new().name("regions".to_owned());
            self.0 = thread.spawn(touched).ok();
        }
    }
}

/// Memory for a region that the system has cleared.
fn touched() -> Option<MmapMut> {
    let mut memory = map(REGION_BYTES, true)?;
    for byte in memory.iter_mut().step_by(SYSTEM_PAGE_BYTES) {
        *byte = 0;
    }
    Some(memory)
}

/// All pages by their numbers, and the regions that they lie in.
#[derive(Default)]
pub(super) struct Regions {
    berths: Vec<Berth>,
    regions: Vec<Option<Region>>,
    /// Numbers of regions that were unmapped.
    vacant: Vec<usize>,
    mapped: usize,
    /// Free berths.
    free: usize,
    /// Of each region, how many berths are free for whoever takes one: none in the one that is being emptied.
    open: Vec<u8>,
    /// No region before this one is open.
    closed_before: usize,
    /// The region that is being emptied.
    emptied: Option<usize>,
    next: Next,
    /// Nothing more is mapped.
    #[cfg(test)]
    pub(super) is_out_of_memory: bool,
}

impl Regions {
    /// The bytes of a page; `None` if there is none of this number.
    #[inline]
    pub(super) fn get(&self, page: usize) -> Option<&[u8]> {
        let berth = *self.berths.get(page)?;
        let region = self.regions.get(berth.region())?.as_ref()?;
        region.berth(berth.at())
    }

    /// The same, to be written.
    pub(super) fn get_mut(&mut self, page: usize) -> Option<&mut [u8]> {
        let berth = *self.berths.get(page)?;
        let region = self.regions.get_mut(berth.region())?.as_mut()?;
        region.berth_mut(berth.at())
    }

    /// Gives a page bytes, whatever is in them: those of one that was given back, or the next number. Whether
    /// there was memory for them.
    pub(super) fn take(&mut self, page: usize) -> bool {
        if page == self.berths.len() {
            self.berths.push(Berth::NONE);
        }
        let taken = self.take_berth(page as u32);
        match (self.berths.get_mut(page), taken) {
            (Some(place), Some(berth)) => {
                *place = berth;
                true
            }
            _ => false,
        }
    }

    /// Gives the bytes of a page back.
    pub(super) fn give_back(&mut self, page: usize) {
        if let Some(place) = self.berths.get_mut(page) {
            let berth = std::mem::replace(place, Berth::NONE);
            self.free_berth(berth);
        }
    }

    /// Whether so much is free that pages are to be moved.
    pub(super) fn is_sparse(&self) -> bool {
        self.free > self.mapped * REGION_BERTHS / 8 + SLACK_BERTHS
    }

    /// Moves a page, if that brings a region nearer to being empty where much is free, or unmaps a region.
    pub(super) fn tidy(&mut self) {
        if self.emptied.is_none() && self.is_sparse() {
            self.begin_emptying();
        }
        let Some(number) = self.emptied else {
            return;
        };
        if self.move_one(number).is_none() {
            self.end_emptying();
        }
    }

    /// Regions that are mapped.
    #[cfg(test)]
    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }

    fn take_berth(&mut self, page: u32) -> Option<Berth> {
        let number = match self.first_open() {
            Some(number) => number,
            None if self.emptied.is_some() => {
                // It is needed before another is mapped.
                self.end_emptying();
                self.first_open()?
            }
            None => self.map()?,
        };
        self.take_berth_in(number, page)
    }

    fn take_berth_in(&mut self, number: usize, page: u32) -> Option<Berth> {
        let region = self.regions.get_mut(number)?.as_mut()?;
        let at = region.pages.iter().position(Option::is_none)?;
        let berth = Berth::new(number, at)?;
        *region.pages.get_mut(at)? = Some(page);
        region.free -= 1;
        self.free -= 1;
        self.count_open(number);
        Some(berth)
    }

    fn free_berth(&mut self, berth: Berth) {
        let number = berth.region();
        let Some(Some(region)) = self.regions.get_mut(number) else {
            return;
        };
        let page = region.pages.get_mut(berth.at()).and_then(Option::take);
        if page.is_none() {
            return;
        }
        region.free += 1;
        self.free += 1;
        if region.free == REGION_BERTHS && self.free >= REGION_BERTHS + SPARE_BERTHS {
            self.unmap(number);
        } else {
            self.count_open(number);
        }
    }

    /// The first region with a free berth that is not being emptied.
    fn first_open(&mut self) -> Option<usize> {
        let behind = self.open.get(self.closed_before..).unwrap_or_default();
        let closed = behind.iter().position(|free| *free > 0);
        self.closed_before += closed.unwrap_or(behind.len());
        closed.map(|_| self.closed_before)
    }

    /// Keeps `open` right for a region.
    fn count_open(&mut self, number: usize) {
        let region = self.regions.get(number).and_then(Option::as_ref);
        let free = match region {
            Some(region) if self.emptied != Some(number) => region.free,
            _ => 0,
        };
        if let Some(open) = self.open.get_mut(number) {
            *open = free as u8;
        }
        if free > 0 {
            self.closed_before = self.closed_before.min(number);
        }
    }

    /// Maps another region.
    fn map(&mut self) -> Option<usize> {
        #[cfg(test)]
        if self.is_out_of_memory {
            return None;
        }
        let memory = match self.next.take() {
            Some(memory) => memory,
            None => map(REGION_BYTES, self.mapped > 0)?,
        };
        if self.mapped > 0 {
            self.next.prepare();
        }
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => {
                self.regions.push(None);
                self.open.push(0);
                self.regions.len() - 1
            }
        };
        *self.regions.get_mut(number)? = Some(Region::new(memory));
        self.mapped += 1;
        self.free += REGION_BERTHS;
        self.count_open(number);
        Some(number)
    }

    /// Gives a region without a page back.
    fn unmap(&mut self, number: usize) {
        if let Some(place) = self.regions.get_mut(number) {
            *place = None;
            self.vacant.push(number);
            self.mapped -= 1;
            self.free -= REGION_BERTHS;
        }
        if self.emptied == Some(number) {
            self.emptied = None;
        }
        if self.mapped <= 1 {
            // A small store has no use for it.
            self.next = Next::default();
        }
        self.count_open(number);
    }

    /// Chooses the region with the fewest pages, to be emptied. One without any, which was kept for a page that
    /// comes and goes, is unmapped at once: it is not needed where much is free.
    fn begin_emptying(&mut self) {
        let open = self.open.iter().enumerate();
        let Some((number, free)) = open.max_by_key(|(_, free)| **free) else {
            return;
        };
        if usize::from(*free) == REGION_BERTHS {
            self.unmap(number);
        } else {
            self.emptied = Some(number);
            self.count_open(number);
        }
    }

    fn end_emptying(&mut self) {
        if let Some(number) = self.emptied.take() {
            self.count_open(number);
        }
    }

    /// Moves the first page of a region to another; `None` if there is none, or no room.
    fn move_one(&mut self, number: usize) -> Option<()> {
        let mut pages = self.regions.get(number)?.as_ref()?.pages.iter().enumerate();
        let (at, page) = pages.find_map(|(at, page)| Some((at, (*page)?)))?;
        let (from, room) = (Berth::new(number, at)?, self.first_open()?);
        let to = self.take_berth_in(room, page)?;
        let both = self.regions.get_disjoint_mut([number, room]);
        if let Ok([Some(source), Some(target)]) = both
            && let Some(source) = source.berth(at)
            && let Some(target) = target.berth_mut(to.at())
            && let Some(place) = self.berths.get_mut(page as usize)
        {
            target.copy_from_slice(source);
            *place = to;
            self.free_berth(from);
            return Some(());
        }
        self.free_berth(to);
        None
    }
}

// A region's free berths are counted in a byte.
const _: () = assert!(REGION_BERTHS <= u8::MAX as usize);

#[cfg(test)]
mod tests;
