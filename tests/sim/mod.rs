//! What tests of the store on a simulated disk share.

// Each test file uses its part.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ekokv::clock::ManualClock;
use ekokv::state::Form;
use ekokv::state::find::{Cursor, Filter, Hit, Query};
use ekokv::store::{
    Answer, Command, Condition, Durability, Opened, Options, Put, Schedule, Scrub, Store, Ttl,
};
use ekokv_wal::SimDisk;

/// Segments as small as these limits allow, so that the log rotates often.
pub(crate) fn options(durability: Durability) -> Options {
    Options {
        data_dir: "simulated".into(),
        durability,
        segment_bytes: 64 << 10,
        max_memory_bytes: 1 << 30,
        expired_retention: Duration::from_secs(600),
        max_body_bytes: 16 << 10,
        max_batch_keys: 10,
        max_key_bytes: 100,
        admin_key: None,
        schedule: Schedule::default(),
        scrub: Scrub::default(),
        clock_grace: Duration::from_secs(600),
        clock: Arc::new(ManualClock::new(1_000_000)),
        workers: None,
    }
}

pub(crate) fn open(disk: &SimDisk, durability: Durability) -> Opened {
    Store::open_on(options(durability), Arc::new(disk.clone())).unwrap()
}

/// Stops in order.
pub(crate) fn stop(opened: Opened) {
    drop(opened.store);
    assert_eq!(opened.threads.stop(), Ok(()));
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

fn put(key: &str, length: u64) -> Put {
    Put {
        key: key.into(),
        value: Bytes::from(format!("\"{}\"", "x".repeat(length as usize))),
        form: Form::Bare,
        ttl: Ttl::None,
    }
}

/// A set of a value of so many letters.
pub(crate) fn set(key: &str, length: u64) -> Command {
    Command::Set {
        put: put(key, length),
        condition: Condition::None,
    }
}

pub(crate) fn batch_set(keys: &[&str], length: u64) -> Command {
    Command::BatchSet {
        puts: keys.iter().map(|key| put(key, length)).collect(),
    }
}

pub(crate) fn delete(key: &str) -> Command {
    Command::Delete {
        key: key.into(),
        condition: Condition::None,
    }
}

pub(crate) fn get(key: &str) -> Command {
    Command::Get {
        key: key.into(),
        unless: None,
    }
}

/// All keys with their versions.
pub(crate) fn versions(store: &Store) -> BTreeMap<String, u64> {
    let query = Arc::new(Query::new(Filter::default()).unwrap());
    let mut cursor = Cursor::default();
    let mut versions = BTreeMap::new();
    let runtime = runtime();
    loop {
        let find = Command::Find {
            query: Arc::clone(&query),
            cursor,
        };
        let Answer::Slice(slice) = runtime.block_on(store.call(find)).unwrap().answer else {
            panic!("a find is answered by a slice");
        };
        for record in slice.records {
            if let Hit::Live { version, .. } = record.hit {
                versions.insert(record.key.into_string(), version);
            }
        }
        match slice.next {
            Some(next) => cursor = next,
            None => return versions,
        }
    }
}
