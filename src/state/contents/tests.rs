use std::collections::HashSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::state::link::NO_LINKS;
use crate::state::value::COPIED_BYTES_MAX;
use crate::state::{EntryRef, Form, Link, Value};

const RETENTION_MS: u64 = 1_000;

fn live<'a>(value: &'a [u8], version: u64, deadline: Option<u64>, links: &'a Links) -> Slot<'a> {
    Slot::Live(EntryRef {
        value: Value::Lent(value),
        form: Form::Bare,
        version,
        deadline,
        links,
    })
}

fn key(number: u64) -> String {
    format!("key:{number:06}")
}

fn links(number: u64) -> Links {
    let link = Link {
        collection: "users".into(),
        record_id: number.to_string().into(),
        metadata: None,
        created_at: number,
    };
    [link].into_iter().collect()
}

/// Keys of every kind: with deadlines and without, remembered ones, with links, with values in the record
/// and elsewhere.
fn fill(contents: &mut Contents, keys: impl Iterator<Item = u64>) {
    let large = vec![b'1'; COPIED_BYTES_MAX + 1];
    for number in keys {
        let key = key(number);
        let deadline = (number % 3 == 0).then_some(1_000_000 - number);
        let value = if number % 1_000 == 0 {
            &large
        } else {
            &large[..40 + number as usize % 4]
        };
        contents.put(&key, live(value, 2 * number, deadline, &NO_LINKS));
        if number % 7 == 0 {
            contents.relink(&key, 2 * number + 1, |all| *all = links(number));
        }
        if number % 30 == 0 {
            let remembered = Slot::Remembered {
                deadline: 1_000_000 - number,
                version: 2 * number + 1,
            };
            contents.put(&key, remembered);
        }
    }
}

fn all(contents: &Contents) -> Vec<(&str, Slot<'_>)> {
    contents
        .range((Bound::Unbounded, Bound::Unbounded))
        .collect()
}

#[test]
fn records_that_were_moved_are_found_by_key_by_time_and_by_release() {
    const KEYS: u64 = 30_000;
    let stays = |number: &u64| number.is_multiple_of(5);
    let mut contents = Contents::new(RETENTION_MS);
    fill(&mut contents, 1..=KEYS);
    let full = contents.records.pages();
    for number in (1..=KEYS).filter(|number| !stays(number)) {
        contents.bury(&key(number), 3 * KEYS + number);
    }
    // Of the second half one in seven stays unreleased and is moved like others; what is set again and
    // deleted again leaves the pages of tombstones sparse.
    let unreleased = 3 * KEYS + KEYS / 2;
    let again = |number: &u64| !stays(number) && *number > KEYS / 2 && !number.is_multiple_of(7);
    for number in (1..=KEYS).filter(again) {
        contents.put(&key(number), live(b"1", 4 * KEYS + number, None, &NO_LINKS));
        assert!(contents.take(&key(number)).is_some());
    }
    contents.release(unreleased);
    let mut turns = 0;
    while contents.is_sparse() {
        contents.release(unreleased);
        turns += 1;
    }
    assert!(turns > 10, "so many at once: {turns} turns");
    let left = contents.records.pages();
    assert!(left < full / 2, "{left} pages of {full}");
    for number in (1..=KEYS).filter(|number| !stays(number)) {
        let is_there = number > KEYS / 2 && number % 7 == 0;
        let slot = contents.slot(&key(number));
        let version = 3 * KEYS + number;
        assert_eq!(slot, is_there.then_some(Slot::Tombstone { version }));
    }
    contents.release(4 * KEYS);
    assert!(contents.tombstones.is_empty());

    let mut expected = Contents::new(RETENTION_MS);
    fill(&mut expected, (1..=KEYS).filter(stays));
    assert_eq!(all(&contents), all(&expected));
    for number in 1..=KEYS {
        assert_eq!(contents.slot(&key(number)), expected.slot(&key(number)));
    }
    assert!(contents.due().eq(expected.due()));
    let (books, expected) = (contents.books(), expected.books());
    assert_eq!(books.digest, expected.digest);
    assert_eq!(books.memory_bytes, expected.memory_bytes);
    assert_eq!(books.links_len, expected.links_len);

    for number in (1..=KEYS).filter(stays) {
        contents.bury(&key(number), 5 * KEYS + number);
    }
    contents.release(u64::MAX);
    assert_eq!(contents.records.pages(), 0, "nothing is left anywhere");
    assert_eq!(contents.records.beside(), (0, 0));
    assert_eq!(contents.books().memory_bytes, 0);
}

#[test]
fn a_record_lies_in_a_slot_of_its_size_whatever_was_there_before() {
    let mut contents = Contents::new(RETENTION_MS);
    let (long, short) = ([b'1'; 1_000], [b'1'; 10]);
    let mut pages = Vec::new();
    for value in [&long[..], &short, &long, &short] {
        for number in 0..1_000 {
            let version = 1_000 * pages.len() as u64 + number;
            contents.put(&key(number), live(value, version, None, &NO_LINKS));
        }
        pages.push(contents.records.pages());
    }
    assert!(pages[1] * 10 < pages[0], "{pages:?}");
    assert_eq!(pages[..2], pages[2..]);
}

#[test]
fn what_is_loaded_is_what_was_put_and_takes_less() {
    let mut put = Contents::new(RETENTION_MS);
    // In an order that is none.
    fill(&mut put, (1..=20_000).map(|number| number * 7_919 % 20_011));
    let mut loader = ContentsLoader::new(RETENTION_MS);
    for (key, slot) in all(&put) {
        loader.push(key, slot.kept().unwrap());
    }
    let loaded = loader.finish();
    assert_eq!(all(&loaded), all(&put));
    assert!(loaded.due().eq(put.due()));
    assert_eq!(loaded.books().digest, put.books().digest);
    assert_eq!(loaded.books().memory_bytes, put.books().memory_bytes);
    assert!(loaded.records.pages() <= put.records.pages());
}

#[test]
fn keys_that_do_not_ascend_are_loaded_all_the_same() {
    let mut expected = Contents::new(RETENTION_MS);
    fill(&mut expected, 1..=500);
    let mut loader = ContentsLoader::new(RETENTION_MS);
    let mut keys = all(&expected);
    keys.rotate_left(200);
    keys.extend_from_within(..50);
    for (key, slot) in keys {
        loader.push(key, slot.kept().unwrap());
    }
    let loaded = loader.finish();
    assert_eq!(all(&loaded), all(&expected));
    assert!(loaded.due().eq(expected.due()));
    assert_eq!(loaded.books().digest, expected.books().digest);
}

#[test]
fn a_large_value_is_shared_and_a_small_one_copied() {
    let mut contents = Contents::new(RETENTION_MS);
    for (bytes, is_shared) in [(COPIED_BYTES_MAX, false), (COPIED_BYTES_MAX + 1, true)] {
        let value = Bytes::from(vec![b'1'; bytes]);
        let entry = EntryRef {
            value: Value::Shared(&value),
            form: Form::Bare,
            version: 1,
            deadline: None,
            links: &NO_LINKS,
        };
        contents.put("k", Slot::Live(entry));
        let Some(Slot::Live(found)) = contents.slot("k") else {
            panic!("it is there");
        };
        assert_eq!(found.value, entry.value);
        let lent = found.value.to_bytes();
        assert_eq!(lent.as_ptr() == value.as_ptr(), is_shared, "{bytes}");
    }
    assert_eq!(contents.records.beside(), (1, 0));
    contents.put("k", live(b"1", 2, None, &NO_LINKS));
    assert_eq!(contents.records.beside(), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64, usize),
    Bury(u64),
    Take(u64),
    Relink(u64),
    Release,
    Ask(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..300u64;
    prop_oneof![
        6 => (key(), 0..120usize).prop_map(|(key, bytes)| Step::Put(key, bytes)),
        2 => key().prop_map(Step::Bury),
        1 => key().prop_map(Step::Take),
        1 => key().prop_map(Step::Relink),
        2 => Just(Step::Release),
        4 => key().prop_map(Step::Ask),
    ]
}

proptest! {
    /// Asked by key, by the short way or the long one, and gone through in order, they say the same.
    #[test]
    fn keys_are_found_whatever_was_moved(steps in prop::collection::vec(step(), 0..1_500)) {
        let mut contents = Contents::new(RETENTION_MS);
        let mut model = BTreeMap::new();
        let letters = [b'1'; 120];
        for (version, step) in (1..).zip(steps) {
            match step {
                Step::Put(number, bytes) => {
                    let value = &letters[..bytes];
                    contents.put(&key(number), live(value, version, None, &NO_LINKS));
                    model.insert(number, (bytes, version));
                }
                Step::Bury(number) => {
                    contents.bury(&key(number), version);
                    model.remove(&number);
                }
                Step::Take(number) => {
                    contents.take(&key(number));
                    model.remove(&number);
                }
                Step::Relink(number) => {
                    contents.relink(&key(number), version, |all| *all = links(version));
                    if let Some((_, at)) = model.get_mut(&number) {
                        *at = version;
                    }
                }
                Step::Release => {
                    contents.release(version);
                    let whole = (Bound::Unbounded, Bound::Unbounded);
                    let handles = contents.order.range(whole, &contents.records);
                    let in_order: HashSet<u64> = handles.map(Handle::bits).collect();
                    for handle in contents.lookaside.handles() {
                        prop_assert!(in_order.contains(&handle.bits()), "{:?} is left", handle);
                    }
                }
                Step::Ask(number) => {
                    // Whatever is there or is not, to look ahead to it changes nothing.
                    contents.prefetch_place(hash_of(&key(number)));
                    contents.prefetch_record(hash_of(&key(number)));
                    let found = match contents.slot(&key(number)) {
                        Some(Slot::Live(entry)) => Some((entry.value.len(), entry.version)),
                        _ => None,
                    };
                    prop_assert_eq!(found, model.get(&number).copied());
                }
            }
        }
        contents.release(u64::MAX);
        for number in 0..300 {
            let slot = contents.slot(&key(number)).map(|slot| slot.version());
            prop_assert_eq!(slot, model.get(&number).map(|(_, version)| *version));
        }
        let in_order: Vec<_> = all(&contents).into_iter().map(|(_, slot)| slot.version()).collect();
        let versions: Vec<_> = model.values().map(|(_, version)| *version).collect();
        prop_assert_eq!(in_order, versions);
    }
}
