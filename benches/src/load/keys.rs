//! Which key comes next, and numbers that look random and repeat.

use clap::ValueEnum;

/// How key numbers follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Each is drawn, as redis-benchmark does
    Random,
    /// 0, 1, 2 and so on, and again from 0
    Sequential,
    /// All of them, each once before any comes again, in an order that looks random
    Once,
}

/// A source of numbers: `SplitMix64`.
#[derive(Debug, Clone)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Key numbers below a bound.
#[derive(Debug)]
pub(crate) struct Keys {
    order: Order,
    bound: u64,
    count: u64,
    seed: u64,
    draw: Draw,
}

impl Keys {
    pub(crate) fn new(order: Order, bound: u64, seed: u64) -> Self {
        Self {
            order,
            bound: bound.max(1),
            count: 0,
            seed,
            draw: Draw::new(seed),
        }
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        let index = self.count % self.bound;
        self.count += 1;
        match self.order {
            // A 64-bit draw scaled down: the bias is far below what anybody could measure.
            Order::Random => ((u128::from(self.draw.next()) * u128::from(self.bound)) >> 64) as u64,
            Order::Sequential => index,
            Order::Once => permuted(index, self.bound, self.seed),
        }
    }

    /// Numbers for whatever else differs from request to request.
    pub(crate) fn draw(&mut self) -> &mut Draw {
        &mut self.draw
    }
}

/// Where `index` goes in a permutation of the numbers below `bound`: a Feistel network over the next
/// power of four, walked until it comes back below the bound.
fn permuted(index: u64, bound: u64, seed: u64) -> u64 {
    let half_bits = (64 - (bound - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half_bits) - 1;
    let mut number = index;
    loop {
        let (mut left, mut right) = (number >> half_bits, number & mask);
        for round in 0..4 {
            let key = seed.wrapping_mul(31).wrapping_add(round);
            (left, right) = (right, left ^ (mix(right ^ mix(key)) & mask));
        }
        number = (left << half_bits) | right;
        if number < bound {
            return number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_brings_each_number_once_and_not_in_order() {
        for bound in [1, 2, 3, 10, 1_000, 4_096, 4_097] {
            let mut keys = Keys::new(Order::Once, bound, 7);
            let drawn: Vec<u64> = (0..bound).map(|_| keys.next()).collect();
            let mut sorted = drawn.clone();
            sorted.sort_unstable();
            assert!(sorted.iter().copied().eq(0..bound), "{bound}");
            assert!(bound < 10 || sorted != drawn, "{bound}");
        }
    }

    #[test]
    fn random_numbers_stay_below_the_bound_and_repeat_with_the_seed() {
        let drawn = |seed| {
            let mut keys = Keys::new(Order::Random, 10, seed);
            (0..100).map(|_| keys.next()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert!((0..10).all(|number| drawn(1).contains(&number)));
        assert!(drawn(1).iter().all(|number| *number < 10));
    }

    #[test]
    fn sequential_numbers_begin_again() {
        let mut keys = Keys::new(Order::Sequential, 3, 1);
        let drawn: Vec<u64> = (0..5).map(|_| keys.next()).collect();
        assert_eq!(drawn, [0, 1, 2, 0, 1]);
    }
}
