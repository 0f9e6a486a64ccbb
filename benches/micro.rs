//! What the steps of a request cost on their own. `cargo bench -p ekokv-bench --bench micro` runs all of
//! them; with `-- find` those whose names have that in them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use ekokv::auth::Tokens;
use ekokv::state::find::{Cursor, Filter, Query};
use ekokv::state::{ApiKey, Form, Keyring, Mutation, Role, State, ttl};
use ekokv_wal::{Batch, Draft, Flags, Log, Mode, Options, Position, SimDisk, scan_segment};

fn main() {
    divan::main();
}

/// The state that lookups meet.
const KEYS: u64 = 100_000;
/// A moment of 2026, in milliseconds since the Unix epoch.
const NOW: u64 = 1_780_000_000_000;
/// Each sample has so many lookups, of as many keys: one key is not like another.
const SAMPLE: u32 = 1_000;
/// Sets that one sync answers with 64 writers.
const GROUPS: [u32; 3] = [1, 64, 1_000];

fn key(number: u64) -> String {
    format!("key:{number:012}")
}

/// A JSON string of 60 bytes, in memory of its own as a request's body is.
fn value(number: u64) -> Bytes {
    Bytes::from(format!("\"{number:058}\""))
}

fn put<'a>(key: &'a str, value: &'a Bytes) -> Mutation<'a> {
    Mutation::Put {
        key,
        value: value.into(),
        form: Form::Bare,
        deadline: None,
    }
}

/// Key numbers that jump about: a step that has no divisor in common with the count.
fn jumping() -> impl FnMut() -> u64 {
    let mut number = 0;
    move || {
        number = (number + 61_803) % KEYS;
        number
    }
}

fn filled() -> State {
    let mut state = State::new(600_000);
    for number in 0..KEYS {
        let _ = state.apply(number + 1, &put(&key(number), &value(number)));
    }
    state
}

mod log {
    use super::*;

    fn records(count: u32) -> Vec<u8> {
        let mut records = Vec::new();
        for number in 0..u64::from(count) {
            let key = key(number);
            ekokv_wal::push_record(&mut records, |out| put(&key, &value(number)).encode(out));
        }
        records
    }

    /// A segment with a few batches of so many sets, and how many batches they are.
    fn segment(count: u32) -> (Vec<u8>, u64) {
        let options = Options {
            segment_bytes: 1 << 20,
            first_segment_bytes: 1 << 20,
            mode: Mode::Always,
            random: Arc::new(|| Ok([7; 16])),
        };
        let disk = SimDisk::new();
        let records = records(count);
        let draft = Draft {
            count,
            time: NOW,
            records: &records,
        };
        let mut log = Log::create(Arc::new(disk.clone()), options, |_| Ok(()), draft).unwrap();
        let batches = (1000 / u64::from(count)).clamp(2, 64);
        for _ in 1..batches {
            log.append(draft).unwrap();
        }
        log.sync().unwrap();
        (disk.content(&ekokv_wal::segment_path(1)).unwrap(), batches)
    }

    #[divan::bench(args = GROUPS)]
    fn encode(bencher: Bencher<'_, '_>, count: u32) {
        let (image, _) = segment(1);
        let (header, _, _) = scan_segment(&image, |_, _| {}).unwrap();
        let records = records(count);
        let batch = Batch {
            number: 2,
            first_sequence: 2,
            count,
            time: NOW,
            durable: 1,
            flags: Flags::AFTER_SYNC,
            records: &records,
        };
        let before = Position {
            batch: 1,
            sequence: 1,
            chain: 7,
        };
        let mut out = Vec::new();
        bencher
            .counter(ItemsCount::new(count))
            .counter(BytesCount::new(records.len()))
            .bench_local(|| {
                out.clear();
                ekokv_wal::bench::encode(&header, black_box(&batch), before, &mut out)
            });
    }

    #[divan::bench(args = GROUPS)]
    fn scan(bencher: Bencher<'_, '_>, count: u32) {
        let (image, batches) = segment(count);
        let bytes = records(count).len() as u64 * batches;
        bencher
            .counter(ItemsCount::new(u64::from(count) * batches))
            .counter(BytesCount::new(bytes))
            .bench_local(|| {
                let mut records = 0;
                let visit = |_, batch: &Batch<'_>| records += batch.records().count();
                scan_segment(black_box(&image), visit).map(|_| records)
            });
    }
}

mod apply {
    use super::*;

    #[divan::bench(sample_size = SAMPLE)]
    fn put_new(bencher: Bencher<'_, '_>) {
        let mut state = filled();
        let number = Cell::new(KEYS);
        bencher
            .with_inputs(|| {
                number.set(number.get() + 1);
                (number.get(), key(number.get()), value(number.get()))
            })
            .bench_local_values(|(sequence, key, value)| state.apply(sequence, &put(&key, &value)));
    }

    #[divan::bench(sample_size = SAMPLE)]
    fn put_again(bencher: Bencher<'_, '_>) {
        let mut state = filled();
        let mut sequence = KEYS;
        let mut next = jumping();
        bencher
            .with_inputs(|| {
                let number = next();
                (key(number), value(number))
            })
            .bench_local_values(|(key, value)| {
                sequence += 1;
                state.apply(sequence, &put(&key, &value))
            });
    }
}

#[divan::bench(sample_size = SAMPLE)]
fn get(bencher: Bencher<'_, '_>) {
    let state = filled();
    let mut next = jumping();
    bencher
        .with_inputs(|| key(next()))
        .bench_local_refs(|key| black_box(state.get(key, NOW)).gate);
}

/// A find that looks at all keys and that none matches, in one slice.
#[divan::bench]
fn find(bencher: Bencher<'_, '_>) {
    let state = filled();
    let query = Query::new(Filter {
        contains: Some("~ in no key ~".to_owned()),
        ..Filter::default()
    })
    .unwrap();
    bencher
        .counter(ItemsCount::new(KEYS))
        .bench_local(|| query.walk(&state, &Cursor::default(), black_box(NOW), || false));
}

#[divan::bench(args = ["3600", "1h 30m", "2030-01-02T03:04:05Z"])]
fn ttl_text(text: &str) -> bool {
    ttl::parse_text(black_box(text)).is_ok()
}

#[divan::bench]
fn token_check(bencher: Bencher<'_, '_>) {
    let api_key = ApiKey {
        id: "admin".into(),
        role: Role::Admin,
        digest: [0; 32],
    };
    let tokens = Tokens::new(&[7; 32], Duration::from_secs(3_600));
    let header = format!("Bearer {}", tokens.issue(&api_key, NOW).unwrap());
    let mut keyring = Keyring::default();
    keyring.api_keys.insert(api_key.id.clone(), api_key);
    bencher.bench_local(|| {
        let header = black_box(header.as_bytes());
        tokens.authorize(Some(header), &keyring, NOW).is_ok()
    });
}
