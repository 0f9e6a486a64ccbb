use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Keys by their handles.
#[derive(Default)]
struct Named(Vec<String>);

impl Keys for Named {
    fn key(&self, handle: Handle) -> &[u8] {
        self.0
            .get(handle.bits() as usize)
            .map_or(&[], |key| key.as_bytes())
    }
}

impl Named {
    fn name(&mut self, key: &str) -> Handle {
        self.0.push(key.to_owned());
        Handle::from_bits(self.0.len() as u64 - 1)
    }
}

/// Hashes that meet, so that records are looked at.
fn hash(key: &str) -> u64 {
    (key.len() as u64 % 3) << 60
}

/// An order and a map that should hold the same.
#[derive(Default)]
struct Pair {
    order: Order,
    named: Named,
    model: BTreeMap<String, Handle>,
}

impl Pair {
    fn put(&mut self, key: &str) {
        let handle = self.named.name(key);
        let (bytes, hash) = (key.as_bytes(), hash(key));
        match self.order.find_or_place(bytes, hash, &self.named) {
            Ok((place, old)) => {
                assert_eq!(self.model.get(key), Some(&old));
                self.order.replace(place, handle);
            }
            Err(place) => {
                assert!(!self.model.contains_key(key), "{key:?} is not found");
                self.order.insert(place, bytes, hash, handle, &self.named);
            }
        }
        self.model.insert(key.to_owned(), handle);
    }

    fn push(&mut self, key: &str) {
        let handle = self.named.name(key);
        self.order
            .push(key.as_bytes(), hash(key), handle, &self.named);
        self.model.insert(key.to_owned(), handle);
    }

    fn remove(&mut self, key: &str) {
        let found = self.order.find(key.as_bytes(), hash(key), &self.named);
        assert_eq!(found.map(|(_, handle)| handle), self.model.remove(key));
        if let Some((place, handle)) = found {
            let by_record = self.order.find_record(key.as_bytes(), hash(key), handle);
            assert_eq!(by_record, Some(place));
            self.order.remove(place);
        }
    }

    fn range(&self, low: Bound<&str>, high: Bound<&str>) {
        let expected: Vec<Handle> = match (low, high) {
            (Bound::Included(l) | Bound::Excluded(l), Bound::Included(h) | Bound::Excluded(h))
                if l >= h =>
            {
                let both = matches!((low, high), (Bound::Included(_), Bound::Included(_)));
                self.model
                    .get(l)
                    .filter(|_| both && l == h)
                    .copied()
                    .into_iter()
                    .collect()
            }
            _ => self
                .model
                .range::<str, _>((low, high))
                .map(|(_, handle)| *handle)
                .collect(),
        };
        let range = || self.order.range((low, high), &self.named);
        assert_eq!(range().collect::<Vec<_>>(), expected, "{low:?} to {high:?}");
        let backwards: Vec<_> = range().rev().collect();
        assert!(
            backwards.iter().eq(expected.iter().rev()),
            "{low:?} to {high:?}, reverse"
        );
        // From both ends, in turn.
        let mut both = range();
        let mut left = expected.as_slice();
        for turn in 0.. {
            let (found, expected) = if turn % 3 == 0 {
                (both.next_back(), split_last(&mut left))
            } else {
                (both.next(), split_first(&mut left))
            };
            assert_eq!(found, expected);
            if found.is_none() {
                break;
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.order.last(), self.model.values().last().copied());
        self.range(Bound::Unbounded, Bound::Unbounded);
        for (key, handle) in &self.model {
            let found = self.order.find(key.as_bytes(), hash(key), &self.named);
            assert_eq!(found.map(|(_, handle)| handle), Some(*handle), "{key:?}");
        }
        self.check_shape();
    }

    fn check_shape(&self) {
        let order = &self.order;
        let leaves: Vec<&Leaf> = order.branches.iter().flat_map(|b| &b.leaves).collect();
        assert_eq!(order.fences.len() + 1, order.branches.len().max(1));
        for branch in &order.branches {
            assert!((1..=LEAVES_MAX).contains(&branch.leaves.len()));
            assert_eq!(branch.fences.len() + 1, branch.leaves.len());
        }
        for two in order.branches.windows(2) {
            let together: usize = two.iter().map(|branch| branch.leaves.len()).sum();
            assert!(together > LEAVES_TOGETHER_MAX);
        }
        for leaf in &leaves {
            assert!(leaf.len() <= LEAF_SLOTS_MAX);
            assert!(!leaf.is_empty() || leaves.len() == 1);
        }
    }

    fn leaves(&self) -> Vec<usize> {
        let branches = self.order.branches.iter();
        branches
            .flat_map(|branch| branch.leaves.iter().map(Vec::len))
            .collect()
    }
}

fn split_first(left: &mut &[Handle]) -> Option<Handle> {
    let (first, rest) = left.split_first()?;
    *left = rest;
    Some(*first)
}

fn split_last(left: &mut &[Handle]) -> Option<Handle> {
    let (last, rest) = left.split_last()?;
    *left = rest;
    Some(*last)
}

fn key(number: usize) -> String {
    format!("key:{number:09}")
}

#[test]
fn keys_that_ascend_leave_full_leaves_and_full_branches() {
    let count = LEAF_SLOTS_MAX * LEAVES_MAX * 2 + 1;
    let (mut inserted, mut pushed) = (Pair::default(), Pair::default());
    for number in 0..count {
        inserted.put(&key(number));
        pushed.push(&key(number));
    }
    for pair in [&inserted, &pushed] {
        let mut leaves = pair.leaves();
        assert_eq!(leaves.pop(), Some(1));
        assert!(leaves.iter().all(|slots| *slots == LEAF_SLOTS_MAX));
        let branches: Vec<usize> = pair.order.branches.iter().map(|b| b.leaves.len()).collect();
        assert_eq!(branches, [LEAVES_MAX, LEAVES_MAX, 1]);
        pair.check();
    }
}

#[test]
fn keys_without_order_leave_leaves_that_are_more_than_half_full() {
    let count = 20_000;
    let mut pair = Pair::default();
    for number in 0..count {
        pair.put(&key(number * 27_644_437 % 1_000_003));
    }
    pair.check();
    let leaves = pair.leaves();
    assert!(leaves.iter().all(|slots| *slots >= LEAF_SLOTS_MAX / 2));
    assert!(
        leaves.len() < count * 100 / (LEAF_SLOTS_MAX * 60),
        "{}",
        leaves.len()
    );
    assert!(pair.order.branches.len() > 1);
    let capacity: usize = pair
        .order
        .branches
        .iter()
        .flat_map(|b| &b.leaves)
        .map(Vec::capacity)
        .sum();
    assert!(
        capacity < count * 110 / 100,
        "{capacity} slots for {count} keys"
    );
}

#[test]
fn leaves_and_branches_go_with_their_keys_whatever_their_order() {
    let count = 20_000;
    for (name, step) in [
        ("ascending", 1),
        ("descending", count - 1),
        ("mixed", 27_644_437),
    ] {
        let mut pair = Pair::default();
        for number in 0..count {
            pair.push(&key(number));
        }
        let mut number = 0;
        for left in (0..count).rev() {
            number = (number + step) % count;
            pair.remove(&key(number));
            if left % 2_000 == 0 || left < 3 {
                pair.check();
                let most = left / 30 + 2;
                assert!(
                    pair.leaves().len() <= most,
                    "{name}: {left} keys in {:?}",
                    pair.leaves()
                );
            }
        }
        assert_eq!(pair.leaves(), [0], "{name}");
        assert_eq!(pair.order.last(), None);
        pair.put("again");
        pair.check();
    }
}

#[test]
fn ranges_end_where_they_should_at_the_ends_of_leaves_and_between_keys() {
    let mut pair = Pair::default();
    pair.range(Bound::Unbounded, Bound::Unbounded);
    pair.range(Bound::Included("a"), Bound::Excluded("b"));
    for number in 0..LEAF_SLOTS_MAX * 3 {
        pair.push(&key(number * 2));
    }
    let at = |number: usize| key(number * 2);
    let of_interest = [0, 1, 127, 128, 129, 255, 256, 383];
    let mut keys: Vec<String> = of_interest.iter().map(|n| at(*n)).collect();
    // Between two keys, before all and behind all.
    keys.extend([127, 128, 382].map(|number| key(number * 2 + 1)));
    keys.extend(["".to_owned(), "key:".to_owned(), "z".to_owned()]);
    for low in &keys {
        for high in &keys {
            for low in [
                Bound::Included(low.as_str()),
                Bound::Excluded(low),
                Bound::Unbounded,
            ] {
                for high in [
                    Bound::Included(high.as_str()),
                    Bound::Excluded(high),
                    Bound::Unbounded,
                ] {
                    pair.range(low, high);
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    /// Many keys from this one on, with this distance.
    PutMany(usize, usize),
    Remove(usize),
    RemoveMany(usize, usize),
    Range(usize, usize, bool, bool),
}

const MANY: usize = 300;

/// Keys of different kinds: they share beginnings of different lengths, and one is the beginning of the
/// other.
fn kind_of_key(number: usize) -> String {
    match number % 4 {
        0 => key(number),
        1 => format!("{number}"),
        2 => format!("users/{}/profile/{}", number % 50, "x".repeat(number % 40)),
        _ => format!("k\u{0}{}", "\u{0}".repeat(number % 30)),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..20_000_usize;
    let distance = || prop::sample::select(vec![1, 3, 4, 12, 19_996]);
    prop_oneof![
        4 => number().prop_map(Step::Put),
        4 => (number(), distance()).prop_map(|(from, by)| Step::PutMany(from, by)),
        4 => number().prop_map(Step::Remove),
        3 => (number(), distance()).prop_map(|(from, by)| Step::RemoveMany(from, by)),
        4 => (number(), number(), any::<bool>(), any::<bool>())
            .prop_map(|(low, high, l, h)| Step::Range(low, high, l, h)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_order_holds_what_a_map_holds(steps in prop::collection::vec(step(), 1..80)) {
        let mut pair = Pair::default();
        let many = |from: usize, by: usize| (0..MANY).map(move |n| kind_of_key((from + n * by) % 20_000));
        for step in steps {
            match step {
                Step::Put(number) => pair.put(&kind_of_key(number)),
                Step::PutMany(from, by) => many(from, by).for_each(|key| pair.put(&key)),
                Step::Remove(number) => pair.remove(&kind_of_key(number)),
                Step::RemoveMany(from, by) => many(from, by).for_each(|key| pair.remove(&key)),
                Step::Range(low, high, l, h) => {
                    let (low, high) = (kind_of_key(low), kind_of_key(high));
                    let low = if l { Bound::Included(&*low) } else { Bound::Excluded(&*low) };
                    let high = if h { Bound::Included(&*high) } else { Bound::Excluded(&*high) };
                    pair.range(low, high);
                }
            }
            pair.check_shape();
        }
        pair.check();
    }
}
