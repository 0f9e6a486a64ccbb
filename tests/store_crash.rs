//! The store on the simulated disk: power cuts, kills and failing calls under concurrent writers. What
//! a durability promises is there afterwards, and after a failure nobody is told of success.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod workers;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ekokv::clock::ManualClock;
use ekokv::state::Form;
use ekokv::state::find::{Cursor, Filter, Hit, Query};
use ekokv::store::{
    Answer, Command, Condition, Durability, Error, Failure, Opened, Options, Put, Reply, Schedule,
    Scrub, Store, Ttl,
};
use ekokv_wal::SimDisk;

const WRITERS: usize = 6;

fn options(durability: Durability) -> Options {
    Options {
        data_dir: "simulated".into(),
        durability,
        segment_bytes: 256 << 10,
        max_memory_bytes: 1 << 30,
        expired_retention: Duration::from_secs(600),
        max_body_bytes: 64 << 10,
        max_batch_keys: 100,
        max_key_bytes: 100,
        admin_key: None,
        schedule: Schedule::default(),
        scrub: Scrub::default(),
        clock_grace: Duration::from_secs(600),
        clock: Arc::new(ManualClock::new(1_000_000)),
        workers: Some(workers::workers()),
    }
}

fn open(disk: &SimDisk, durability: Durability) -> Opened {
    Store::open_on(options(durability), Arc::new(disk.clone())).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

fn set(key: &str, serial: u64) -> Command {
    let value = format!("\"{serial}{}\"", "x".repeat((serial % 700) as usize));
    let put = Put {
        key: key.into(),
        value: Bytes::from(value),
        form: Form::Bare,
        ttl: Ttl::None,
    };
    Command::Set {
        put,
        condition: Condition::None,
    }
}

/// Version of each key.
type Versions = BTreeMap<String, u64>;

/// All keys with their versions.
fn versions(store: &Store) -> Versions {
    let query = Arc::new(Query::new(Filter::default()).unwrap());
    let mut cursor = Cursor::default();
    let mut versions = Versions::new();
    loop {
        let find = Command::Find {
            query: Arc::clone(&query),
            cursor,
        };
        let Answer::Slice(slice) = runtime().block_on(store.call(find)).unwrap().answer else {
            panic!("a find is answered by a slice");
        };
        for record in slice.records {
            let Hit::Live { version, .. } = record.hit else {
                continue;
            };
            versions.insert(record.key.into_string(), version);
        }
        match slice.next {
            Some(next) => cursor = next,
            None => return versions,
        }
    }
}

/// Writers that go on until they are told to stop or refused, and what they were told.
fn write_under<T>(store: &Store, writers: usize, during: impl FnOnce(&Mutex<Versions>) -> T) -> T {
    write_until(store, writers, |acknowledged, _| during(acknowledged))
}

/// The same, with those who were refused: each writer ends with its first refusal.
fn write_until<T>(
    store: &Store,
    writers: usize,
    during: impl FnOnce(&Mutex<Versions>, &Mutex<Vec<Error>>) -> T,
) -> T {
    let acknowledged = Mutex::new(Versions::new());
    let refused = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let (acknowledged, refused, stop) = (&acknowledged, &refused, &stop);
            scope.spawn(move || {
                let runtime = runtime();
                for serial in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("w{writer}-{}", serial % 7);
                    match runtime.block_on(store.call(set(&key, serial))) {
                        Ok(Reply { sequence, .. }) => {
                            acknowledged.lock().unwrap().insert(key, sequence);
                        }
                        Err(Error::Busy { .. }) => {}
                        Err(error) => {
                            refused.lock().unwrap().push(error);
                            return;
                        }
                    }
                }
            });
        }
        let result = during(&acknowledged, &refused);
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Waits, without sleeping on it, until so many writes were acknowledged in all.
fn wait_for(acknowledged: &Mutex<Versions>, sequence: u64) {
    while acknowledged
        .lock()
        .unwrap()
        .values()
        .max()
        .is_none_or(|last| *last < sequence)
    {
        std::thread::yield_now();
    }
}

/// Every write that was acknowledged, or a later one of the same key, is there.
fn assert_kept(acknowledged: &Versions, found: &Versions, what: &str) {
    for (key, version) in acknowledged {
        let kept = found.get(key);
        assert!(
            kept >= Some(version),
            "{what}: {key} version {version}, found {kept:?}"
        );
    }
}

#[test]
fn always_every_acknowledged_write_survives_a_power_cut() {
    cut_power_under(WRITERS);
}

#[test]
fn always_every_acknowledged_write_of_a_lone_writer_survives_a_power_cut() {
    cut_power_under(1);
}

fn cut_power_under(writers: usize) {
    let disk = SimDisk::new();
    let Opened { store, threads, .. } = open(&disk, Durability::Always);
    let images = write_under(&store, writers, |acknowledged| {
        let mut images = Vec::new();
        for cut in 1..=40 {
            wait_for(acknowledged, cut * 60);
            // What was acknowledged first, and then the disk: it can only hold more.
            let promised = acknowledged.lock().unwrap().clone();
            // Nothing of what is not synced, all of it, and every other sector of it.
            let keep = move |cell: usize, length: usize| match cut % 3 {
                0 => 0,
                1 => length,
                _ => length * (cell % 2),
            };
            let names = if cut % 2 == 0 { 0 } else { usize::MAX };
            images.push((promised, disk.power_cut(keep, names)));
        }
        images
    });
    drop(store);
    threads.stop().unwrap();
    let mut kept = 0;
    for (number, (promised, image)) in images.iter().enumerate() {
        let Opened { store, threads, .. } = open(image, Durability::Always);
        let found = versions(&store);
        assert_kept(promised, &found, &format!("cut {number}"));
        kept += promised.len();
        drop(store);
        threads.stop().unwrap();
    }
    println!(
        "{} power cuts under {writers} writers, {kept} keys compared, 0 lost",
        images.len()
    );
}

#[test]
fn every_acknowledged_write_survives_a_power_cut_while_the_log_is_compacted() {
    let disk = SimDisk::new();
    let Opened { store, threads, .. } = open(&disk, Durability::Always);
    let (images, compactions) = write_under(&store, WRITERS, |acknowledged| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // One compaction after the other, each with writes before, between and behind its steps.
            let compacting = scope.spawn(|| {
                let runtime = runtime();
                let mut last = 0;
                let mut compactions = 0;
                while !done.load(Ordering::Relaxed) {
                    let sequence = runtime.block_on(store.compact()).unwrap();
                    assert!(sequence >= last, "{sequence} behind {last}");
                    compactions += u64::from(sequence > last);
                    last = sequence;
                }
                compactions
            });
            let mut images = Vec::new();
            for cut in 1..=60 {
                wait_for(acknowledged, cut * 60);
                let promised = acknowledged.lock().unwrap().clone();
                let keep = move |cell: usize, length: usize| match cut % 3 {
                    0 => 0,
                    1 => length,
                    _ => length * (cell % 2),
                };
                let names = if cut % 2 == 0 { 0 } else { usize::MAX };
                images.push((promised, disk.power_cut(keep, names)));
            }
            done.store(true, Ordering::Relaxed);
            (images, compacting.join().unwrap())
        })
    });
    drop(store);
    threads.stop().unwrap();
    assert!(compactions >= 3, "{compactions} compactions");
    let mut with_snapshot = 0;
    for (number, (promised, image)) in images.iter().enumerate() {
        with_snapshot += u64::from(image.paths().iter().any(|path| path.ends_with(".snap")));
        let Opened { store, threads, .. } = open(image, Durability::Always);
        assert!(store.health().integrity_ok, "cut {number} leaves no damage");
        assert_kept(promised, &versions(&store), &format!("cut {number}"));
        drop(store);
        threads.stop().unwrap();
    }
    assert!(with_snapshot > 0);
    println!(
        "{} power cuts during {compactions} compactions under {WRITERS} writers, {with_snapshot} with a \
         snapshot, 0 lost",
        images.len()
    );
}

#[test]
fn interval_and_os_survive_kills_and_give_no_version_twice_after_a_power_cut() {
    for durability in [
        Durability::Interval(Duration::from_millis(5)),
        Durability::Os,
    ] {
        let disk = SimDisk::new();
        let Opened { store, threads, .. } = open(&disk, durability);
        let (promised, killed, cut) = write_under(&store, WRITERS, |acknowledged| {
            wait_for(acknowledged, 500);
            let promised = acknowledged.lock().unwrap().clone();
            (promised, disk.kill(), disk.power_cut(|_, _| 0, usize::MAX))
        });
        drop(store);
        threads.stop().unwrap();

        let Opened { store, threads, .. } = open(&killed, durability);
        assert_kept(&promised, &versions(&store), "kill");
        drop(store);
        threads.stop().unwrap();

        let Opened { store, threads, .. } = open(&cut, durability);
        let reply = runtime().block_on(store.call(set("new", 1))).unwrap();
        let last = promised.values().max().unwrap();
        assert!(reply.sequence > *last, "{} is given twice", reply.sequence);
        drop(store);
        threads.stop().unwrap();
    }
}

#[test]
fn interval_syncs_while_there_are_writes() {
    let disk = SimDisk::new();
    let Opened { store, threads, .. } = open(&disk, Durability::Interval(Duration::from_millis(1)));
    let durable = write_under(&store, WRITERS, |acknowledged| {
        wait_for(acknowledged, 50);
        let early = acknowledged.lock().unwrap().clone();
        // A sync is an event of the disk: some later image has what was written before it.
        loop {
            let image = disk.power_cut(|_, _| 0, usize::MAX);
            let Opened { store, threads, .. } = open(&image, Durability::Always);
            let found = versions(&store);
            drop(store);
            threads.stop().unwrap();
            if early
                .iter()
                .all(|(key, version)| found.get(key) >= Some(version))
            {
                return true;
            }
        }
    });
    assert!(durable);
    drop(store);
    threads.stop().unwrap();
}

#[test]
fn after_a_failed_sync_nobody_is_told_of_success_and_the_store_ends() {
    for (call, writers) in [
        ("sync", WRITERS),
        ("write", WRITERS),
        ("sync", 1),
        ("write", 1),
    ] {
        let disk = SimDisk::new();
        let Opened { store, threads, .. } = open(&disk, Durability::Always);
        let (promised, refused) = write_until(&store, writers, |acknowledged, refused| {
            wait_for(acknowledged, 100);
            disk.inject(move |name, path, _| {
                (name == call && path.starts_with("wal/")).then_some(ErrorKind::Other)
            });
            // The failure is an event of its own.
            let failure = runtime().block_on(store.failed());
            assert!(matches!(failure, Failure::Storage(_)), "{failure}");
            // The disk would say yes again; nothing is tried any more.
            disk.inject(|_, _, _| None);
            // Every writer is told, or this never ends.
            while refused.lock().unwrap().len() < writers {
                std::thread::yield_now();
            }
            let promised = acknowledged.lock().unwrap().clone();
            (promised, refused.lock().unwrap().clone())
        });
        assert!(
            refused.iter().all(|error| *error == Error::OutcomeUnknown),
            "{refused:?}"
        );
        let later = runtime().block_on(store.call(set("later", 1)));
        assert_eq!(later, Err(Error::OutcomeUnknown), "{call}");
        assert!(store.health().degraded && !store.health().integrity_ok);
        drop(store);
        assert!(matches!(threads.stop(), Err(Failure::Storage(_))));

        let image = disk.power_cut(|_, _| 0, 0);
        let Opened { store, threads, .. } = open(&image, Durability::Always);
        assert_kept(&promised, &versions(&store), call);
        drop(store);
        threads.stop().unwrap();
    }
}

#[test]
fn a_first_start_that_did_not_end_begins_again_at_whatever_call_it_was_cut() {
    let disk = SimDisk::new();
    let Opened { store, threads, .. } = open(&disk, Durability::Always);
    drop(store);
    threads.stop().unwrap();
    let calls = disk.take_recorded();
    let state = SimDisk::new();
    for (number, call) in calls.iter().enumerate() {
        state.play(call);
        for keep in [0, usize::MAX] {
            let image = state.power_cut(|_, length| keep.min(length), keep);
            let opened = Store::open_on(options(Durability::Always), Arc::new(image.clone()));
            let Opened {
                store,
                threads,
                jwt_secret,
                ..
            } = opened.unwrap_or_else(|failure| panic!("cut after call {number}: {failure}"));
            assert!(jwt_secret.len() >= 32);
            assert_eq!(store.keyring().api_keys.len(), 1, "cut after call {number}");
            drop(store);
            threads.stop().unwrap();
            let left: Vec<String> = image
                .paths()
                .into_iter()
                .filter(|path| path.contains("secret.tmp"))
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

#[test]
fn a_failing_spare_degrades_and_is_tried_again() {
    let disk = SimDisk::new();
    let Opened { store, threads, .. } = open(&disk, Durability::Always);
    disk.inject(|name, path, _| {
        (name == "create" && path.ends_with("next.tmp")).then_some(ErrorKind::StorageFull)
    });
    let value = |serial: u64| set("k", serial % 7 + 690);
    let runtime = runtime();
    let mut serial = 0;
    // Until no space is prepared: busy, not failed.
    while !matches!(
        runtime.block_on(store.call(value(serial))),
        Err(Error::Busy { .. })
    ) {
        serial += 1;
        assert!(serial < 10_000, "two segments are never full");
    }
    while !store.health().degraded {
        std::thread::yield_now();
    }
    assert!(store.health().integrity_ok);
    disk.inject(|_, _, _| None);
    while runtime.block_on(store.call(value(serial))).is_err() {
        std::thread::yield_now();
    }
    drop(store);
    threads.stop().unwrap();
}

#[test]
fn only_damage_that_stays_on_the_disk_is_reported_as_such() {
    let disk = SimDisk::new();
    let Opened { store, threads, .. } = open(&disk, Durability::Always);
    runtime().block_on(store.call(set("k", 1))).unwrap();
    drop(store);
    threads.stop().unwrap();
    let health = |disk: &SimDisk| {
        let Opened { store, threads, .. } = open(disk, Durability::Always);
        let health = store.health();
        assert_eq!(versions(&store).len(), 1);
        drop(store);
        threads.stop().unwrap();
        health
    };
    // One copy of CURRENT: the start wrote it anew.
    let mut current = disk.content("CURRENT").unwrap();
    current[20] ^= 1;
    disk.set_content("CURRENT", current);
    assert!(!health(&disk).degraded);
    // A batch in the segment that is kept.
    let segment = "wal/00000000000000000001.wal";
    let mut bytes = disk.content(segment).unwrap();
    bytes[4096 + 100] ^= 1;
    disk.set_content(segment, bytes);
    for _ in 0..2 {
        let health = health(&disk);
        assert!(health.degraded && !health.integrity_ok);
    }
}
