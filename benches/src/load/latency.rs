//! Latencies, counted in buckets that are a 128th of their value wide.

/// Values below this have a bucket each; above, each power of two has so many.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 7;
const BUCKETS: usize = ((64 - STEP_BITS as usize) + 1) << STEP_BITS;

/// Counts of latencies in nanoseconds.
#[derive(Debug)]
pub(crate) struct Latency {
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
            sum: 0,
            max: 0,
        }
    }

    pub(crate) fn record(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket(value)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
    }

    /// The smallest value that at least this share of all are not above, to the end of its bucket; 0
    /// if there is none.
    pub(crate) fn percentile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return end(index).min(self.max);
            }
        }
        0
    }

    pub(crate) fn mean(&self) -> u64 {
        (self.sum / u128::from(self.count.max(1))) as u64
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let shift = value.ilog2() - STEP_BITS;
    ((u64::from(shift) + 1) * STEPS + ((value >> shift) - STEPS)) as usize
}

/// The largest value of a bucket.
fn end(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    let first = (index % STEPS + STEPS) << shift;
    first + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Draw;

    #[test]
    fn each_value_lies_in_its_bucket_and_none_is_wider_than_a_128th() {
        let mut before = None;
        for index in 0..BUCKETS {
            let last = end(index);
            assert_eq!(bucket(last), index);
            let first = before.map_or(0, |before| before + 1);
            assert_eq!(bucket(first), index);
            assert!(last - first <= first / STEPS, "{first} to {last}");
            before = Some(last);
        }
        assert_eq!(before, Some(u64::MAX));
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut draw = Draw::new(1);
        for count in [1, 2, 99, 100, 101, 10_000] {
            let mut latency = Latency::new();
            let mut values: Vec<u64> = (0..count)
                .map(|_| draw.next() >> (draw.next() % 60))
                .collect();
            values.iter().for_each(|value| latency.record(*value));
            values.sort_unstable();
            for share in [0.0, 0.5, 0.9, 0.99, 0.999, 1.0] {
                let rank = (count as f64 * share).ceil().max(1.0) as usize;
                let exact = values[rank - 1];
                let told = latency.percentile(share);
                assert!(
                    told >= exact && told - exact <= exact / STEPS,
                    "{told} for {exact}"
                );
            }
            assert_eq!(latency.percentile(1.0), values[values.len() - 1]);
            assert_eq!(latency.max(), values[values.len() - 1]);
        }
    }

    #[test]
    fn of_nothing_all_is_nothing() {
        let latency = Latency::new();
        assert_eq!(
            (latency.percentile(0.99), latency.mean(), latency.max()),
            (0, 0, 0)
        );
    }

    #[test]
    fn the_mean_is_exact() {
        let mut latency = Latency::new();
        [1, 1_000_000, 3_000_002]
            .into_iter()
            .for_each(|value| latency.record(value));
        assert_eq!(latency.mean(), 1_333_334);
    }
}
