//! What the proofs share that compaction, snapshots and recovery lose nothing: a story that a store
//! lives through on a simulated disk, the truth about it, and the images that crashes leave of it.

// Each test file uses its part.
#![allow(dead_code)]

pub(crate) mod model;
pub(crate) mod story;
pub(crate) mod tape;

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `work` for every index below `count`, on all processors, and adds the results up.
pub(crate) fn in_parallel<T: Send>(
    count: usize,
    work: impl Fn(usize) -> T + Sync,
    mut add: impl FnMut(T),
) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Vec<T>> = std::thread::scope(|scope| {
        let worker = || {
            let mut results = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return results;
                }
                results.push(work(index));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let joined = workers.into_iter().map(|worker| worker.join().unwrap());
        joined.collect()
    });
    results.into_iter().flatten().for_each(&mut add);
}

/// `EKOKV_TEST_SEED`, or the seed of every day.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("EKOKV_TEST_SEED");
    given.ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}
