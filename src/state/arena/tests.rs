use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A record of this length, all of it one byte that is not 0.
fn put(arena: &mut Arena, bytes: usize, fill: u8) -> Handle {
    let handle = arena.allocate(bytes);
    arena.get_mut(handle).fill(fill.max(1));
    handle
}

fn page_of(handle: Handle) -> u64 {
    handle.bits() >> UNIT_BITS
}

#[test]
fn a_slot_is_as_long_as_its_record_and_hardly_longer() {
    for bytes in 0..=SLOT_BYTES_MAX + 100 {
        let slot = slot_bytes(bytes);
        let loss_max = match bytes {
            0..8 => 8,
            8..=256 => 3,
            257..=1024 => 15,
            1025..=SLOT_BYTES_MAX => 63,
            _ => 0,
        };
        assert!(
            (bytes..=bytes + loss_max).contains(&slot),
            "{bytes}: {slot}"
        );
        assert_eq!(slot_bytes(slot), slot, "{bytes}");
    }
    let mut classes: Vec<usize> = (0..CLASSES).map(class_bytes).collect();
    assert!(classes.is_sorted());
    classes.dedup();
    assert_eq!(classes.len(), CLASSES);
}

#[test]
fn pages_are_filled_and_given_back_when_nothing_is_in_them() {
    for bytes in [1, 84, 250, 1000, SLOT_BYTES_MAX] {
        let mut arena = Arena::default();
        let per_page = PAGE_BYTES / slot_bytes(bytes);
        let handles: Vec<Handle> = (0..10 * per_page)
            .map(|_| put(&mut arena, bytes, 1))
            .collect();
        assert_eq!(arena.pages_in_use(), 10, "{bytes}");
        for handle in &handles[..9 * per_page] {
            arena.free(*handle);
        }
        assert_eq!(arena.pages_in_use(), 1, "{bytes}");
        // The page that is left is full: what comes now goes into one that was there before.
        let again = put(&mut arena, bytes, 2);
        assert_eq!(
            (arena.pages_in_use(), arena.pages.len()),
            (2, 10),
            "{bytes}"
        );
        arena.free(again);
        for handle in &handles[9 * per_page..] {
            arena.free(*handle);
        }
        assert_eq!(arena.pages_in_use(), 0, "{bytes}");
    }
}

#[test]
fn one_record_that_comes_and_goes_makes_one_page() {
    let mut arena = Arena::default();
    for _ in 0..1000 {
        let handle = put(&mut arena, 84, 1);
        arena.free(handle);
    }
    assert_eq!((arena.pages.len(), arena.regions.mapped()), (1, 1));
}

#[test]
fn a_handle_that_names_no_record_frees_none() {
    let mut arena = Arena::default();
    // A page that is used again still has the bytes of the records before.
    let handles: Vec<Handle> = (0..1_500).map(|_| put(&mut arena, 20, 1)).collect();
    for handle in &handles {
        arena.free(*handle);
    }
    let there = put(&mut arena, 84, 2);
    let (page, own) = (page_of(there), Handle::own(0));
    for unit in 0..(PAGE_BYTES / UNIT_BYTES) as u16 {
        let handle = Handle::slot(page as usize, unit);
        if handle != there {
            arena.free(handle);
        }
    }
    for handle in [own, Handle::slot(1, 0), Handle::from_bits(u64::MAX)] {
        assert_eq!(arena.get(handle), b"");
        arena.free(handle);
    }
    assert_eq!(arena.get(there), [2; 84]);
    let others: Vec<Handle> = (1..390).map(|_| put(&mut arena, 84, 3)).collect();
    assert!(!others.contains(&there) && arena.pages_in_use() == 1);
    assert_eq!(arena.get(there), [2; 84]);
}

#[test]
fn without_memory_for_a_page_a_record_has_an_allocation_of_its_own() {
    let mut arena = Arena::default();
    let first = put(&mut arena, 84, 1);
    arena.regions.is_out_of_memory = true;
    let handles: Vec<Handle> = (0..2_000).map(|_| put(&mut arena, 84, 2)).collect();
    let own = put(&mut arena, 500, 3);
    assert!(arena.own.len() > 400, "{} of 2001", arena.own.len());
    for handle in &handles {
        assert_eq!(arena.get(*handle)[..84], [2; 84]);
    }
    arena.free(own);
    arena.regions.is_out_of_memory = false;
    let in_page = put(&mut arena, 500, 4);
    assert_eq!(arena.get(in_page)[..500], [4; 500]);
    assert!(in_page.bits() & OWN_BIT == 0 && arena.get(first)[..84] == [1; 84]);
}

#[test]
fn long_records_have_allocations_of_their_own_and_their_places_serve_again() {
    let mut arena = Arena::default();
    for round in 1..4 {
        let handles = [2049, 70_000, 5_000].map(|bytes| put(&mut arena, bytes, round));
        assert_eq!(
            handles.map(|handle| arena.get(handle).len()),
            [2049, 70_000, 5_000]
        );
        // Once more changes nothing.
        for handle in handles.iter().chain(&handles) {
            arena.free(*handle);
            assert_eq!(arena.get(*handle), b"");
        }
    }
    assert_eq!(
        (
            arena.own.len(),
            arena.own_vacant.len(),
            arena.pages_in_use()
        ),
        (3, 3, 0)
    );
}

#[test]
fn sparse_pages_are_emptied_until_a_quarter_is_free() {
    for bytes in [20, 84, 1000] {
        let mut arena = Arena::default();
        let per_page = PAGE_BYTES / slot_bytes(bytes);
        let all = 30 * per_page;
        let mut records: BTreeMap<usize, Handle> = (0..all)
            .map(|n| (n, put(&mut arena, bytes, n as u8)))
            .collect();
        assert!(!arena.may_be_sparse(), "nothing was freed");
        assert_eq!(arena.next_to_move(), None);
        // All but one of three go, spread over all pages.
        records.retain(|n, handle| {
            // The page that would be written to next is the emptiest.
            let stays = n % 3 == 0 && (*n < all - per_page || n % 10 == 0);
            if !stays {
                arena.free(*handle);
            }
            stays
        });
        assert_eq!(arena.pages_in_use(), 30);
        let mut moves = 0;
        while let Some(old) = arena.next_to_move() {
            let number = *records
                .iter()
                .find(|(_, handle)| **handle == old)
                .unwrap()
                .0;
            let content = arena.get(old).to_vec();
            let new = arena.allocate(content.len());
            assert_ne!(page_of(new), page_of(old));
            arena.get_mut(new).copy_from_slice(&content);
            arena.free(old);
            records.insert(number, new);
            moves += 1;
            assert!(moves <= all / 3, "{bytes}: no record more than once");
        }
        for (number, handle) in &records {
            assert_eq!(arena.get(*handle)[0], (*number as u8).max(1));
        }
        let needed = records.len().div_ceil(per_page);
        let allowed = needed * 4 / 3 + SLACK_PAGES + 2;
        assert!(
            (needed..=allowed).contains(&arena.pages_in_use()),
            "{bytes}: {}",
            arena.pages_in_use()
        );
        assert!(!arena.may_be_sparse());
        assert_eq!(arena.next_to_move(), None);
    }
}

#[test]
fn a_record_that_stays_keeps_nobody_waiting() {
    let mut arena = Arena::default();
    let handles: Vec<Handle> = (0..10 * 390).map(|_| put(&mut arena, 84, 1)).collect();
    for handle in handles
        .iter()
        .enumerate()
        .filter(|(n, _)| n % 100 != 0)
        .map(|(_, h)| h)
    {
        arena.free(*handle);
    }
    // Nobody moves anything: each page is offered in turn, and what is in it is there.
    for _ in 0..1000 {
        let offered = arena.next_to_move().unwrap();
        assert_eq!(arena.get(offered)[0], 1);
    }
    let before = arena.pages_in_use();
    for _ in 0..390 {
        put(&mut arena, 84, 2);
    }
    assert_eq!(
        arena.pages_in_use(),
        before,
        "free slots are used, those of pages that were offered too"
    );
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(usize),
    Free(usize),
    /// Frees many, so that pages become sparse.
    FreeMost,
    /// Moves what is offered, so often.
    Move(usize),
    /// Frees, writes and reads at any handle.
    Any(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![8 => 990..1000_usize, 4 => 1..1100_usize, 1 => 1900..3000_usize];
    prop_oneof![
        60 => bytes.prop_map(Step::Allocate),
        20 => any::<usize>().prop_map(Step::Free),
        2 => Just(Step::FreeMost),
        10 => (1..50_usize).prop_map(Step::Move),
        5 => any::<u64>().prop_map(Step::Any),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_put_stays_until_it_is_freed(steps in prop::collection::vec(step(), 1..600)) {
        let mut arena = Arena::default();
        let mut model: Vec<(Handle, usize, u8)> = Vec::new();
        let mut fill = 0_u8;
        for step in steps {
            fill = fill.wrapping_add(1).max(1);
            match step {
                Step::Allocate(bytes) => model.push((put(&mut arena, bytes, fill), bytes, fill)),
                Step::Free(_) if model.is_empty() => {}
                Step::Free(at) => {
                    let at = at % model.len();
                    let (handle, ..) = model.swap_remove(at);
                    arena.free(handle);
                }
                Step::FreeMost => {
                    let mut n = 0;
                    model.retain(|(handle, ..)| {
                        n += 1;
                        if n % 5 != 0 {
                            arena.free(*handle);
                        }
                        n % 5 == 0
                    });
                }
                Step::Move(most) => {
                    for _ in 0..most {
                        arena.tidy();
                        let Some(old) = arena.next_to_move() else {
                            break;
                        };
                        let found = model.iter_mut().find(|(handle, ..)| *handle == old);
                        prop_assert!(found.is_some(), "what is offered is there");
                        let found = found.unwrap();
                        found.0 = put(&mut arena, found.1, found.2);
                        prop_assert_ne!(page_of(found.0), page_of(old));
                        arena.free(old);
                    }
                }
                Step::Any(bits) => {
                    let handle = Handle::from_bits(bits);
                    let _ = arena.get(handle);
                    if arena.get(handle).is_empty() {
                        arena.get_mut(handle).fill(1);
                        arena.free(handle);
                    }
                }
            }
            let mut handles: Vec<u64> = model.iter().map(|(handle, ..)| handle.bits()).collect();
            handles.sort_unstable();
            handles.dedup();
            prop_assert_eq!(handles.len(), model.len(), "no two in one place");
        }
        for (handle, bytes, fill) in &model {
            let slot = arena.get(*handle);
            prop_assert_eq!(slot.len(), slot_bytes(*bytes));
            prop_assert!(slot.iter().all(|byte| byte == fill));
        }
        let used: usize = arena.classes.iter().map(|class| class.used).sum();
        let own = arena.own.len() - arena.own_vacant.len();
        prop_assert_eq!(used + own, model.len());
        for (handle, ..) in model {
            arena.free(handle);
        }
        prop_assert_eq!(arena.pages_in_use(), 0);
        prop_assert!(arena.classes.iter().all(|class| class.open.is_empty() && class.pages == 0));
        prop_assert!(arena.regions.mapped() <= 1);
    }
}
