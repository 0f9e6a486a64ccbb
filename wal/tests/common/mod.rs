//! What the tests of the log share: a deterministic source of randomness, and a log that is opened,
//! written and compared with what was sent.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ekokv_wal::{
    Disk, Draft, Error, Found, Log, Mode, Options, Position, Recovered, SimDisk, push_record, read,
};

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough to draw cases from.
#[derive(Clone)]
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

pub fn options(segment_bytes: u64, mode: Mode) -> Options {
    let counter = AtomicU64::new(1);
    Options {
        segment_bytes,
        first_segment_bytes: segment_bytes,
        mode,
        random: Arc::new(move || {
            let mut draw = Draw(counter.fetch_add(1, Ordering::SeqCst));
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&draw.next().to_le_bytes());
            bytes[8..].copy_from_slice(&draw.next().to_le_bytes());
            Ok(bytes)
        }),
    }
}

/// What a log holds, as the caller of `read` sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Each record with its sequence.
    pub records: Vec<(u64, Vec<u8>)>,
    /// How many records there are behind each batch that has any.
    pub ends: Vec<usize>,
}

pub fn read_all(disk: &dyn Disk) -> Result<(Option<Box<Recovered>>, Content), Error> {
    let mut content = Content::default();
    let found = read(disk, &["jwt-secret"], None, &mut |_, _, batch| {
        for (i, record) in batch.records().enumerate() {
            let sequence = batch.first_sequence + i as u64;
            content
                .records
                .push((sequence, record.map_err(str::to_owned)?.bytes.to_vec()));
        }
        if batch.count > 0 {
            content.ends.push(content.records.len());
        }
        Ok(())
    })?;
    match found {
        Found::Nothing | Found::Creating => Ok((None, content)),
        Found::Log(recovered) => Ok((Some(recovered), content)),
    }
}

/// Records of one batch, from their payloads.
pub fn records_of(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut records = Vec::new();
    for payload in payloads {
        push_record(&mut records, |out| out.extend_from_slice(payload));
    }
    records
}

pub fn create(disk: &SimDisk, options: &Options, payloads: &[Vec<u8>]) -> Log {
    let records = records_of(payloads);
    let first = Draft {
        count: payloads.len() as u32,
        time: 1_000,
        records: &records,
    };
    let secret = |disk: &dyn Disk| ekokv_wal::publish(disk, "jwt-secret", b"secret");
    Log::create(Arc::new(disk.clone()), options.clone(), secret, first).unwrap()
}

pub fn append(log: &mut Log, payloads: &[Vec<u8>]) -> Position {
    let records = records_of(payloads);
    log.append(Draft {
        count: payloads.len() as u32,
        time: 2_000,
        records: &records,
    })
    .unwrap()
}

/// `count` payloads of `bytes` bytes that no two batches share.
pub fn payloads(tag: u64, count: usize, bytes: usize) -> Vec<Vec<u8>> {
    let mut draw = Draw(tag.wrapping_mul(977));
    (0..count)
        .map(|_| (0..bytes).map(|_| draw.next() as u8).collect())
        .collect()
}

/// Leaves no further index to anybody if the thread that holds it fails.
struct End<'a>(&'a AtomicU64);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(u64::MAX >> 1, Ordering::Relaxed);
        }
    }
}

/// Runs `work` for every index below `count`, on all processors, and adds the results up. When one
/// fails the others end as well.
pub fn in_parallel<T: Send>(
    count: usize,
    work: impl Fn(usize) -> T + Sync,
    mut add: impl FnMut(T),
) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Vec<T>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut results = Vec::new();
                    let _end = End(&next);
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed) as usize;
                        if index >= count {
                            return results;
                        }
                        results.push(work(index));
                    }
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    results.into_iter().flatten().for_each(&mut add);
}
