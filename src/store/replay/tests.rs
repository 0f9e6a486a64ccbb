//! A log of many stretches against the same mutations in the order of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ekokv_wal::{Draft, Log, Mode, Options, SimDisk, push_record};

use super::*;
use crate::state::{Form, Value};

const TIME_MS: u64 = 1_000_000;
const RETENTION_MS: u64 = 1_000;
const BATCHES: u32 = 300;
const PER_BATCH: u32 = 7;

const SHORT: Limits = Limits {
    first: 5,
    changes: 100,
    bytes: 2 << 10,
};

/// A mutation of one of a few hundred keys, whose turns come in no order.
fn mutation(number: u32) -> Vec<u8> {
    let key = format!("user:{}", number.wrapping_mul(2_654_435_761) >> 20 & 0xFF);
    let (key, other) = (key.as_str(), number.to_string());
    let mut bytes = Vec::new();
    let mutation = match number % 11 {
        _ if number == BATCHES * PER_BATCH / 2 => Mutation::Clear,
        0 | 1 => Mutation::Delete { key },
        2 => Mutation::Link {
            key,
            collection: "notes",
            record_id: &other,
            metadata: None,
            created_at: TIME_MS,
        },
        3 => Mutation::Expire { key },
        4 => Mutation::ApiKeyRemoved { id: &other },
        kind => Mutation::Put {
            key,
            value: Value::Lent(other.as_bytes()),
            form: Form::Bare,
            deadline: (kind < 8).then_some(TIME_MS + u64::from(number)),
        },
    };
    mutation.encode(&mut bytes);
    bytes
}

fn draft(count: u32, records: &[u8]) -> Draft<'_> {
    Draft {
        count,
        time: TIME_MS,
        records,
    }
}

/// A log of these batches of mutations.
fn write(batches: impl Iterator<Item = Vec<Vec<u8>>>) -> SimDisk {
    let disk = SimDisk::new();
    let salt = AtomicU64::new(1);
    let options = Options {
        segment_bytes: 8 << 20,
        first_segment_bytes: 8 << 20,
        mode: Mode::Os,
        random: Arc::new(
            move || Ok(u128::from(salt.fetch_add(1, Ordering::Relaxed)).to_le_bytes()),
        ),
    };
    let on = Arc::new(disk.clone());
    let mut log = Log::create(on, options, |_| Ok(()), draft(0, &[])).unwrap();
    for mutations in batches {
        let mut records = Vec::new();
        for mutation in &mutations {
            push_record(&mut records, |out| out.extend_from_slice(mutation));
        }
        log.append(draft(mutations.len() as u32, &records)).unwrap();
    }
    log.stop(TIME_MS).unwrap();
    disk
}

fn batches() -> impl Iterator<Item = Vec<Vec<u8>>> {
    let batch = |at| (at * PER_BATCH..).take(PER_BATCH as usize).map(mutation);
    (0..BATCHES).map(move |at| batch(at).collect())
}

#[test]
fn a_log_of_many_stretches_makes_the_state_that_its_order_makes() {
    let mut in_order = State::new(RETENTION_MS);
    for (sequence, bytes) in (1..).zip(batches().flatten()) {
        let _ = in_order.apply(sequence, &Mutation::decode(&bytes).unwrap());
        in_order.released(sequence);
    }
    let expected = in_order.fingerprint();
    let counts = [expected.live, expected.links, expected.remembered];
    assert!(counts.iter().all(|count| *count > 5), "{expected:?}");
    let disk = write(batches());
    for limits in [SHORT, LIMITS] {
        let mut state = State::new(RETENTION_MS);
        let found = replay_in(limits, &disk, None, &mut state).unwrap();
        let Found::Log(log) = found else {
            panic!("the log is not found");
        };
        assert_eq!(log.records, u64::from(BATCHES * PER_BATCH));
        assert_eq!(state.fingerprint(), expected, "{limits:?}");
        assert!(state.iter().eq(in_order.iter()));
        assert!(
            state
                .due(u64::MAX, 9_999)
                .eq(&in_order.due(u64::MAX, 9_999))
        );
        // All that was deleted is gone, as all of it is released.
        assert_eq!(state.memory_bytes(), in_order.memory_bytes());
    }
}

#[test]
fn what_is_no_mutation_is_refused_with_its_place_behind_the_first_stretch() {
    let nonsense = std::iter::once(vec![vec![0xFF, 0xFF]]);
    let disk = write(batches().chain(nonsense));
    let mut state = State::new(RETENTION_MS);
    let error = replay_in(SHORT, &disk, None, &mut state).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("wal/") && text.contains("offset"), "{text}");
}

#[test]
fn a_replay_that_deletes_most_of_a_large_state_gives_its_memory_back() {
    const KEYS: u32 = 40_000;
    let put = |number: u32| {
        let mut bytes = Vec::new();
        let mutation = Mutation::Put {
            key: &format!("key-{number:06}"),
            value: Value::Lent(&[b'1'; 60]),
            form: Form::Bare,
            deadline: None,
        };
        mutation.encode(&mut bytes);
        bytes
    };
    let delete = |number: u32| {
        let mut bytes = Vec::new();
        let key = &format!("key-{number:06}");
        Mutation::Delete { key }.encode(&mut bytes);
        bytes
    };
    let puts = (0..KEYS).map(put);
    let deletes = (0..KEYS).filter(|number| number % 5 != 0).map(delete);
    let disk = write(puts.chain(deletes).map(|mutation| vec![mutation]));
    let mut state = State::new(RETENTION_MS);
    replay_in(SHORT, &disk, None, &mut state).unwrap();
    assert_eq!(state.live_len(), KEYS as usize / 5);
    assert!(!state.is_sparse(), "records are still to be moved together");
}
