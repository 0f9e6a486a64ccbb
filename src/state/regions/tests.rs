use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Takes a page and fills it.
fn put(regions: &mut Regions, page: usize, fill: u8) {
    assert!(regions.take(page));
    regions.get_mut(page).unwrap().fill(fill);
}

fn is_filled(regions: &Regions, page: usize, fill: u8) -> bool {
    let bytes = regions.get(page).unwrap();
    bytes.len() == PAGE_BYTES && bytes.iter().all(|byte| *byte == fill)
}

/// Tidies until nothing is left to do; how often that was.
fn tidy_all(regions: &mut Regions) -> usize {
    let mut times = 0;
    while regions.is_sparse() || regions.emptied.is_some() {
        regions.tidy();
        times += 1;
        assert!(times < 10_000, "it comes to an end");
    }
    times
}

/// What always holds.
fn check(regions: &Regions) {
    let mapped = || regions.regions.iter().flatten();
    assert_eq!(regions.mapped, mapped().count());
    assert_eq!(
        regions.free,
        mapped().map(|region| region.free).sum::<usize>()
    );
    assert!(
        mapped()
            .filter(|region| region.free == REGION_BERTHS)
            .count()
            <= 1
    );
    for (number, open) in regions.open.iter().enumerate() {
        let free = regions.regions[number]
            .as_ref()
            .map_or(0, |region| region.free);
        let is_emptied = regions.emptied == Some(number);
        assert_eq!(usize::from(*open), if is_emptied { 0 } else { free });
        assert!(*open == 0 || number >= regions.closed_before);
    }
    for (page, berth) in regions.berths.iter().enumerate() {
        if *berth != Berth::NONE {
            let region = regions.regions[berth.region()].as_ref().unwrap();
            assert_eq!(region.pages[berth.at()], Some(page as u32));
        }
    }
}

#[test]
fn regions_are_filled_one_after_the_other() {
    let mut regions = Regions::default();
    for page in 0..10 * REGION_BERTHS {
        put(&mut regions, page, page as u8);
        assert_eq!(regions.mapped(), page / REGION_BERTHS + 1);
    }
    for page in 0..10 * REGION_BERTHS {
        assert!(is_filled(&regions, page, page as u8), "{page}");
    }
    assert_eq!(regions.get(10 * REGION_BERTHS), None);
    // What is given back serves the next, wherever it is.
    regions.give_back(17);
    assert_eq!(regions.get(17), None);
    put(&mut regions, 10 * REGION_BERTHS, 1);
    assert_eq!((regions.mapped(), regions.free), (10, 0));
}

#[test]
fn one_page_that_comes_and_goes_maps_one_region() {
    let mut regions = Regions::default();
    for page in 0..REGION_BERTHS {
        put(&mut regions, page, 1);
    }
    for _ in 0..10 {
        put(&mut regions, REGION_BERTHS, 1);
        regions.give_back(REGION_BERTHS);
        assert_eq!(regions.mapped(), 2);
    }
    // With one that is empty, or with room elsewhere, another is not kept.
    for page in 0..REGION_BERTHS {
        regions.give_back(page);
    }
    assert_eq!(regions.mapped(), 1);
    for page in 0..=REGION_BERTHS {
        put(&mut regions, page, 1);
    }
    for page in 0..SPARE_BERTHS {
        regions.give_back(page);
    }
    regions.give_back(REGION_BERTHS);
    assert_eq!(regions.mapped(), 1);
}

#[test]
fn memory_goes_back_though_pages_are_left_everywhere() {
    const PAGES: usize = 100 * REGION_BERTHS;
    let mut regions = Regions::default();
    for page in 0..PAGES {
        put(&mut regions, page, page as u8);
    }
    // One page of each region is left.
    for page in (0..PAGES).filter(|page| !page.is_multiple_of(REGION_BERTHS)) {
        regions.give_back(page);
    }
    assert_eq!(regions.mapped(), 100);
    let moved = tidy_all(&mut regions);
    let left = 100 / REGION_BERTHS;
    let slack = SLACK_BERTHS / REGION_BERTHS;
    assert!(
        (left..=left * 8 / 7 + slack + 1).contains(&regions.mapped()),
        "{} regions for {left}",
        regions.mapped()
    );
    assert!(
        moved <= 100 + regions.mapped(),
        "{moved} times for 100 pages"
    );
    for page in (0..PAGES).step_by(REGION_BERTHS) {
        assert!(is_filled(&regions, page, page as u8), "{page}");
    }
}

#[test]
fn a_region_that_was_kept_empty_is_in_nobodys_way() {
    const PAGES: usize = 10 * REGION_BERTHS;
    let mut regions = Regions::default();
    for page in 0..=PAGES {
        put(&mut regions, page, page as u8);
    }
    regions.give_back(PAGES);
    assert_eq!((regions.mapped(), regions.free), (11, REGION_BERTHS));
    for page in (0..PAGES).filter(|page| !page.is_multiple_of(REGION_BERTHS)) {
        regions.give_back(page);
    }
    assert!(regions.is_sparse());
    tidy_all(&mut regions);
    assert!(!regions.is_sparse() && regions.mapped() < 6);
    check(&regions);
}

#[test]
fn the_next_region_is_prepared_beside() {
    let mut regions = Regions::default();
    for page in 0..REGION_BERTHS {
        put(&mut regions, page, 1);
    }
    assert!(regions.next.0.is_none(), "a small store has one region");
    put(&mut regions, REGION_BERTHS, 1);
    for mapped in 2..6 {
        let prepared = regions.next.0.as_ref().unwrap();
        let thread = prepared.thread().id();
        while !prepared.is_finished() {
            thread::yield_now();
        }
        for page in mapped * REGION_BERTHS - REGION_BERTHS + 1..=mapped * REGION_BERTHS {
            assert!(regions.take(page));
        }
        assert!(
            is_filled(&regions, mapped * REGION_BERTHS, 0),
            "as it was cleared"
        );
        let next = regions.next.0.as_ref().unwrap();
        assert_ne!(next.thread().id(), thread, "it was used, another is made");
        assert_eq!(regions.mapped(), mapped + 1);
    }
    for page in 0..=5 * REGION_BERTHS {
        regions.give_back(page);
    }
    assert!(regions.mapped() == 1 && regions.next.0.is_none());
    check(&regions);
}

#[test]
fn without_memory_no_page_comes_and_nothing_goes() {
    let mut regions = Regions::default();
    for page in 0..REGION_BERTHS {
        put(&mut regions, page, page as u8);
    }
    regions.is_out_of_memory = true;
    assert!(!regions.take(REGION_BERTHS));
    assert_eq!(regions.get(REGION_BERTHS), None);
    regions.give_back(1);
    put(&mut regions, REGION_BERTHS, 9);
    assert!(!regions.take(1));
    assert!(is_filled(&regions, 2, 2) && is_filled(&regions, REGION_BERTHS, 9));
    check(&regions);
}

#[test]
fn a_region_that_is_being_emptied_serves_before_another_is_mapped() {
    const PAGES: usize = 20 * REGION_BERTHS;
    let mut regions = Regions::default();
    for page in 0..PAGES {
        put(&mut regions, page, page as u8);
    }
    let gone = (0..PAGES).filter(|page| page % REGION_BERTHS > 1);
    let gone: Vec<usize> = gone.collect();
    for page in &gone {
        regions.give_back(*page);
    }
    regions.tidy();
    assert!(regions.emptied.is_some());
    let mapped = regions.mapped();
    while regions.free > 0 {
        let page = gone.iter().find(|page| regions.get(**page).is_none());
        put(&mut regions, *page.unwrap(), 7);
    }
    assert_eq!((regions.mapped(), regions.emptied), (mapped, None));
    regions.tidy();
    for page in (0..PAGES).filter(|page| page % REGION_BERTHS <= 1) {
        assert!(is_filled(&regions, page, page as u8), "{page}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn pages_are_as_if_each_had_its_own_memory(
        steps in prop::collection::vec((0..40_u8, 0..80_usize, any::<u8>()), 1..400),
    ) {
        let mut regions = Regions::default();
        let mut model: BTreeMap<usize, u8> = BTreeMap::new();
        let mut pages = 0;
        for (step, page, fill) in steps {
            match step {
                0..20 => {
                    let vacant = (0..pages).find(|page| !model.contains_key(page));
                    let page = vacant.unwrap_or(pages);
                    pages = pages.max(page + 1);
                    put(&mut regions, page, fill);
                    model.insert(page, fill);
                }
                20..30 => {
                    regions.give_back(page);
                    model.remove(&page);
                }
                30 => model.retain(|page, _| {
                    let stays = page.is_multiple_of(5);
                    if !stays {
                        regions.give_back(*page);
                    }
                    stays
                }),
                _ => regions.tidy(),
            }
            let berths = regions.mapped() * REGION_BERTHS;
            prop_assert_eq!(berths - regions.free, model.len());
            check(&regions);
        }
        for page in 0..pages {
            match model.get(&page) {
                Some(fill) => prop_assert!(is_filled(&regions, page, *fill)),
                None => prop_assert_eq!(regions.get(page), None),
            }
        }
        tidy_all(&mut regions);
        for (page, fill) in &model {
            prop_assert!(is_filled(&regions, *page, *fill));
        }
        for page in 0..pages {
            regions.give_back(page);
            regions.give_back(page);
        }
        prop_assert!(regions.mapped() <= 1);
        check(&regions);
    }
}
