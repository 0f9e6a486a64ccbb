//! Where pages lie: regions of 2 MiB that are mapped from the system, in huge pages if it has any.
//!
//! A record that the caches do not hold waits for its address to be translated, too, and where memory is
//! virtual twice over that takes longer than the memory itself; a huge page is one translation for 2 MiB
//! instead of 512. The records are what is worth it: they are dense, and most of the memory. The first region
//! does without, so that a small store stays small.
//!
//! What always holds:
//! - A page is in one berth, a 64th of a region, and no other page is there.
//! - At most one region has no page, the others are unmapped. Where much is free, pages are moved until a
//!   region has none.

use memmap2::MmapMut;

/// Length of a page in bytes.
pub(super) const PAGE_BYTES: usize = 32 << 10;
/// Berths of a region; few in tests, so that a few pages make many regions.
const REGION_BERTHS: usize = if cfg!(test) { 4 } else { 64 };
const REGION_BYTES: usize = REGION_BERTHS * PAGE_BYTES;

/// So many free berths elsewhere let an empty region go: one page that comes and goes maps nothing each
/// time.
const SPARE_BERTHS: usize = REGION_BERTHS / 4;
/// Memory is sparse when more than an eighth of it is free, and more than so many berths.
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

/// Memory of zeros, meant for huge pages or not; `None` if the system has none.
pub(super) fn map(bytes: usize, is_huge: bool) -> Option<MmapMut> {
    let memory = MmapMut::map_anon(bytes).ok()?;
    #[cfg(target_os = "linux")]
    if is_huge {
        // A system without huge pages refuses, and nothing else changes.
        let _ = memory.advise(memmap2::Advice::HugePage);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = is_huge;
    Some(memory)
}

struct Region {
    memory: MmapMut,
    /// The page in each berth, if there is one.
    pages: [Option<u32>; REGION_BERTHS],
    free: usize,
}

impl Region {
    /// One without a page; `None` if the system has no memory.
    fn map(is_huge: bool) -> Option<Self> {
        let memory = map(REGION_BYTES, is_huge)?;
        Some(Self {
            memory,
            pages: [None; REGION_BERTHS],
            free: REGION_BERTHS,
        })
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
    /// No region before this one has a free berth.
    full_before: usize,
    /// The region that is being emptied.
    emptied: Option<usize>,
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

    /// Moves a page, if that brings a region nearer to being empty where much is free.
    pub(super) fn tidy(&mut self) {
        if self.emptied.is_none() && self.is_sparse() {
            self.begin_emptying();
        }
        let Some(number) = self.emptied else {
            return;
        };
        if self.move_one(number).is_none() {
            self.emptied = None;
        }
    }

    /// Regions that are mapped.
    #[cfg(test)]
    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }

    fn take_berth(&mut self, page: u32) -> Option<Berth> {
        // The region that is being emptied is needed before another is mapped.
        let number = self.with_room().or_else(|| self.emptied.take());
        let number = match number {
            Some(number) => number,
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
        Some(berth)
    }

    fn free_berth(&mut self, berth: Berth) {
        let number = berth.region();
        let Some(place) = self.regions.get_mut(number) else {
            return;
        };
        let Some(region) = place else {
            return;
        };
        let Some(page) = region.pages.get_mut(berth.at()) else {
            return;
        };
        if page.take().is_none() {
            return;
        }
        region.free += 1;
        self.free += 1;
        self.full_before = self.full_before.min(number);
        if region.free == REGION_BERTHS && self.free >= REGION_BERTHS + SPARE_BERTHS {
            *place = None;
            self.vacant.push(number);
            self.mapped -= 1;
            self.free -= REGION_BERTHS;
            if self.emptied == Some(number) {
                self.emptied = None;
            }
        }
    }

    /// A region with a free berth that is not being emptied.
    fn with_room(&mut self) -> Option<usize> {
        let has_room = |region: &Option<Region>| region.as_ref().is_some_and(|r| r.free > 0);
        let behind = self.regions.get(self.full_before..).unwrap_or_default();
        self.full_before += behind.iter().position(has_room)?;
        let others = self.regions.iter().enumerate().skip(self.full_before);
        let mut others = others.filter(|(number, _)| Some(*number) != self.emptied);
        let (number, _) = others.find(|(_, region)| has_room(region))?;
        Some(number)
    }

    /// Maps another region.
    fn map(&mut self) -> Option<usize> {
        let region = Region::map(self.mapped > 0)?;
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => {
                self.regions.push(None);
                self.regions.len() - 1
            }
        };
        *self.regions.get_mut(number)? = Some(region);
        self.mapped += 1;
        self.free += REGION_BERTHS;
        self.full_before = self.full_before.min(number);
        Some(number)
    }

    /// Chooses the region with the fewest pages.
    fn begin_emptying(&mut self) {
        let mapped = self.regions.iter().enumerate();
        let mapped = mapped.filter_map(|(number, region)| Some((number, region.as_ref()?.free)));
        let emptiest = mapped.max_by_key(|(_, free)| *free);
        self.emptied = emptiest.map(|(number, _)| number);
    }

    /// Moves the first page of a region to another; `None` if there is none, or no room.
    fn move_one(&mut self, number: usize) -> Option<()> {
        let mut pages = self.regions.get(number)?.as_ref()?.pages.iter().enumerate();
        let (at, page) = pages.find_map(|(at, page)| Some((at, (*page)?)))?;
        let (from, room) = (Berth::new(number, at)?, self.with_room()?);
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

#[cfg(test)]
mod tests;
