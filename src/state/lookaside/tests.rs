use std::collections::BTreeMap;

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;

fn handle(number: u64) -> Handle {
    Handle::from_bits(number)
}

fn hash(key: u64) -> u64 {
    xxh3_64(&key.to_le_bytes())
}

fn find(table: &Lookaside, key: u64, is_it: Handle) -> Option<Handle> {
    table.find(hash(key), |found| (found == is_it).then_some(found))
}

fn fit(table: &mut Lookaside, keys: usize) {
    let mut before = usize::MAX;
    while table.chunks != before {
        before = table.chunks;
        table.fit(keys);
    }
}

fn known(table: &Lookaside, keys: impl Iterator<Item = u64>) -> usize {
    keys.filter(|key| find(table, *key, handle(*key)).is_some())
        .count()
}

#[test]
fn it_knows_most_keys_at_every_size_and_growing_forgets_none() {
    let mut table = Lookaside::default();
    for key in 1..=5_000 {
        table.fit(key as usize);
        table.note(hash(key), handle(key));
        if key < 100 || !key.is_multiple_of(50) {
            continue;
        }
        let known_before = known(&table, 1..=key);
        assert!(
            known_before * 100 >= key as usize * 60,
            "of {key} keys {known_before} are known"
        );
        let chunks = table.chunks;
        assert!(table.grow().is_some());
        assert_eq!(known(&table, 1..=key), known_before, "of {key} keys");
        table.shrink_to(chunks);
    }
    // Whoever is asked for is known again.
    for key in 1..=5_000 {
        if find(&table, key, handle(key)).is_none() {
            table.note(hash(key), handle(key));
        }
    }
    let known = known(&table, 1..=5_000);
    assert!(known * 100 >= 5_000 * 85, "of 5000 keys {known} are known");
}

#[test]
fn it_has_a_size_for_so_many_keys() {
    let mut table = Lookaside::default();
    let mut note = |keys: usize| {
        fit(&mut table, keys);
        let mapped = table.mapped.borrow().len();
        assert_eq!(mapped, table.chunks.div_ceil(MAPPED_CHUNKS));
        table.chunks * CHUNK_SLOTS
    };
    assert_eq!(note(0), 0);
    for keys in [4, 100, 10_000] {
        let slots = note(keys);
        assert!(slots >= keys * 7 / 4 && slots < keys * 7 / 4 + CHUNK_SLOTS);
    }
    // What comes and goes does not make it breathe.
    assert_eq!(note(4_500), note(10_000));
    let slots = note(1_000);
    assert!((4_000..4_000 + 2 * CHUNK_SLOTS).contains(&slots), "{slots}");
    assert!(note(0) <= CHUNK_SLOTS);
}

#[test]
fn a_table_without_room_knows_nothing() {
    let table = Lookaside::default();
    table.note(hash(1), handle(1));
    table.replace(hash(1), handle(1), handle(2));
    table.remove(hash(1), handle(2));
    assert_eq!(find(&table, 1, handle(1)), None);
}

#[test]
fn a_full_bucket_takes_what_comes_and_forgets_one() {
    let mut table = Lookaside::default();
    fit(&mut table, 4);
    for key in 1..=1_000 {
        let before = known(&table, 1..key);
        table.note(hash(key), handle(key));
        assert_eq!(find(&table, key, handle(key)), Some(handle(key)));
        assert!(known(&table, 1..key) + 1 >= before, "{key} drove out two");
    }
    assert_eq!(known(&table, 1..=1_000), CHUNK_SLOTS);
}

#[derive(Debug, Clone)]
enum Step {
    Note(u64),
    Move(u64),
    Remove(u64),
    Fit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..400u64).prop_map(Step::Note),
        3 => (0..400u64).prop_map(Step::Move),
        2 => (0..400u64).prop_map(Step::Remove),
        1 => (0..600usize).prop_map(Step::Fit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Whatever is found is where the record is now.
    #[test]
    fn a_handle_that_is_found_is_that_of_a_record(steps in prop::collection::vec(step(), 0..600)) {
        let mut table = Lookaside::default();
        let mut model = BTreeMap::new();
        let mut next = 1;
        for step in steps {
            next += 1;
            match step {
                Step::Note(key) => {
                    let at = *model.entry(key).or_insert(handle(next));
                    if find(&table, key, at).is_none() {
                        table.note(hash(key), at);
                    }
                }
                Step::Move(key) => {
                    if let Some(at) = model.get_mut(&key) {
                        table.replace(hash(key), *at, handle(next));
                        *at = handle(next);
                    }
                }
                Step::Remove(key) => {
                    if let Some(at) = model.remove(&key) {
                        table.remove(hash(key), at);
                    }
                }
                Step::Fit(keys) => table.fit(keys),
            }
            for key in 0..400 {
                let found = table.find(hash(key), Some);
                if let Some(found) = found {
                    prop_assert_eq!(model.get(&key), Some(&found));
                }
            }
        }
    }
}
