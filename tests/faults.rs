//! Every call on the disk fails, one after the other, once and for good, with every error that counts:
//! the store on the simulated disk ends as the rows of the failures that ekokv answers for say.
//!
//! A run is three lives on one disk: a first start that stops in order, a second one that is killed, and
//! one behind that. Whoever makes the call that fails decides what is owed: the thread that opens, the
//! committer, the maker of spares, or another one that works beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod sim;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ekokv::store::{Durability, Error, Failure, Opened, Reply, Store};
use ekokv_wal::{SimDisk, SimFault};
use sim::{batch_set, options, runtime, set, stop, versions};

const EINTR: i32 = 4;
const FAULTS: [(&str, SimFault); 7] = [
    ("EIO", SimFault::Errno(5)),
    ("ENOSPC", SimFault::Errno(28)),
    ("EFBIG", SimFault::Errno(27)),
    ("EACCES", SimFault::Errno(13)),
    ("EROFS", SimFault::Errno(30)),
    ("EINTR", SimFault::Errno(EINTR)),
    ("short write", SimFault::Short),
];
const MODES: [Durability; 3] = [
    Durability::Always,
    Durability::Interval(Duration::from_millis(2)),
    Durability::Os,
];
/// Nobody interrupts a call for ever: those that are repeated are let through after so many times.
const INTERRUPTIONS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// What fails, from which call on.
#[derive(Debug, Clone, Copy)]
struct Case {
    durability: Durability,
    name: &'static str,
    fault: SimFault,
    always: bool,
    /// Counted over all lives; of short writes only writes count.
    number: u64,
}

/// A call that failed.
#[derive(Debug, Clone)]
struct Hit {
    thread: String,
    call: String,
    path: String,
    life: usize,
}

/// What a failed call must lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owed {
    /// Nothing at all.
    Nothing,
    /// Serving goes on, perhaps `degraded`.
    Contained,
    /// The start is refused, or goes on because the call did not matter or was made good.
    RefusedOrNothing,
    /// The start is refused.
    Refused,
    /// The store ends, every waiter is told that the outcome is unknown, nothing is written any more.
    Latched,
}

impl Hit {
    fn owed(&self, fault: SimFault) -> Owed {
        let call = self.call.as_str();
        match (self.thread.as_str(), call) {
            // Rows 39 and 40.
            _ if fault == SimFault::Short => Owed::Nothing,
            (_, "write" | "read") if fault == SimFault::Errno(EINTR) => Owed::Nothing,
            // Where the lock is remains unknown then.
            (_, "in_place") => Owed::Nothing,
            // Rows 34 and 41.
            ("committer", _) => Owed::Latched,
            // Row 15: what one read did not give another one may, or parity.
            ("open", "read") => Owed::RefusedOrNothing,
            // Of a `.tmp` that is in nobody's way.
            ("open", "remove") if self.path.ends_with(".tmp") => Owed::RefusedOrNothing,
            ("open", _) => Owed::Refused,
            _ => Owed::Contained,
        }
    }
}

/// What the disk has seen in a run.
#[derive(Debug, Default)]
struct Probe {
    seen: u64,
    hits: Vec<Hit>,
    life: usize,
    latched: bool,
    /// Calls of the committer behind the one that latched.
    after_latch: Vec<Hit>,
}

type SharedProbe = Arc<Mutex<Probe>>;

fn interfere(disk: &SimDisk, probe: &SharedProbe, case: Case) {
    let probe = Arc::clone(probe);
    disk.interfere(move |call, path, _| {
        let thread = std::thread::current();
        // The thread that opens is one of the test's, whatever its name is.
        let of_store = |name: &&str| ["owner", "committer", "spares", "compactor"].contains(name);
        let thread = thread.name().filter(of_store).unwrap_or("open");
        let mut probe = probe.lock().unwrap();
        let hit = Hit {
            thread: thread.to_owned(),
            call: call.to_owned(),
            path: path.to_owned(),
            life: probe.life,
        };
        if probe.latched && thread == "committer" {
            probe.after_latch.push(hit.clone());
        }
        if case.fault == SimFault::Short && call != "write" {
            return None;
        }
        probe.seen += 1;
        let first = probe.seen == case.number;
        let again = case.always && probe.hits.first().is_some_and(|hit| hit.call == call);
        let repeated = case.fault == SimFault::Errno(EINTR) && (call == "write" || call == "read");
        if !(first || again) || (repeated && probe.hits.len() >= INTERRUPTIONS) {
            return None;
        }
        probe.latched |= hit.owed(case.fault) == Owed::Latched;
        probe.hits.push(hit);
        Some(case.fault)
    });
}

/// What was acknowledged: each key's version.
type Model = Mutex<BTreeMap<String, u64>>;

/// Two writers at a time, enough for the log to go on in further segments. Each write is acknowledged,
/// or refused for a reason that fits; no write is acknowledged that began after the log had failed.
fn workload(store: &Store, life: usize, model: &Model, probe: &SharedProbe) {
    let writer = |name: &'static str| async move {
        for serial in 0..7 {
            let key = format!("{name}{}", serial % 5);
            let other = format!("{name}-batch");
            loop {
                let latched = probe.lock().unwrap().latched;
                // Its answer says the version of the last key.
                let command = if serial == 3 {
                    batch_set(&[&other, &key], life as u64)
                } else {
                    set(&key, 3_400 + serial)
                };
                let result = tokio::time::timeout(PATIENCE, store.call(command)).await;
                match result.expect("an answer comes") {
                    Ok(Reply { sequence, .. }) => {
                        assert!(!latched, "{key} was acknowledged after the log had failed");
                        model.lock().unwrap().insert(key, sequence);
                        break;
                    }
                    // No segment is ready yet. If it could not be made there may be none for long.
                    Err(Error::Busy { .. }) if !store.health().degraded => {
                        tokio::time::sleep(Duration::from_micros(500)).await;
                    }
                    Err(Error::Busy { .. }) => return,
                    Err(Error::OutcomeUnknown) => {
                        let latched = probe.lock().unwrap().latched;
                        assert!(
                            latched,
                            "{key}: the outcome is unknown, yet nothing has failed"
                        );
                        return;
                    }
                    Err(error) => panic!("{key}: {error}"),
                }
            }
        }
    };
    runtime().block_on(async { tokio::join!(writer("a"), writer("b")) });
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The fault was not met: the run makes fewer calls.
    NotMet,
    Unaffected,
    Degraded,
    Refused,
    Latched,
}

/// One run; asserts all that is owed, and that the next start finds all that was acknowledged.
fn run(case: Case) -> (End, usize) {
    let mut disk = SimDisk::new();
    let probe = SharedProbe::default();
    let model = Model::default();
    let mut end = End::Unaffected;
    for life in 0..3 {
        probe.lock().unwrap().life = life;
        interfere(&disk, &probe, case);
        let opened = Store::open_on(options(case.durability), Arc::new(disk.clone()));
        let owed = owed_in(&probe, case, life, "open");
        let Opened { store, threads, .. } = match opened {
            Ok(opened) => opened,
            Err(failure) => {
                assert!(owed >= Owed::RefusedOrNothing, "{case:?}: {failure}");
                assert!(fits(&failure, case), "{case:?}: {failure}");
                end = End::Refused;
                break;
            }
        };
        assert!(
            owed <= Owed::RefusedOrNothing,
            "{case:?} started: {probe:?}"
        );
        // Without the writes of this life: what the start has read is all there is.
        assert_kept(&model, &store, &format!("{case:?}, life {life}"));
        workload(&store, life, &model, &probe);
        // A spare that can never be made is told of.
        let spare = |hit: &Hit| hit.thread == "spares" && hit.call == "create";
        let is_short = !probe.lock().unwrap().latched
            && case.always
            && probe.lock().unwrap().hits.iter().any(spare);
        while is_short && !store.health().degraded {
            std::thread::yield_now();
        }
        if store.health().degraded {
            end = end.max(End::Degraded);
        }
        let killed = (life == 1).then(|| disk.kill());
        if killed.is_some() && !probe.lock().unwrap().latched {
            // It is dead: what it still does concerns another disk.
            disk.interfere(|_, _, _| None);
        }
        drop(store);
        let stopped = threads.stop();
        let owed = owed_in(&probe, case, life, "committer");
        if owed == Owed::Latched {
            assert!(
                matches!(stopped, Err(Failure::Storage(_))),
                "{case:?}: {stopped:?}"
            );
            end = End::Latched;
            break;
        }
        assert_eq!(stopped, Ok(()), "{case:?}: {probe:?}");
        disk = killed.unwrap_or(disk);
    }
    {
        let probe = probe.lock().unwrap();
        assert!(probe.after_latch.is_empty(), "{case:?}: {probe:?}");
        if probe.hits.is_empty() {
            return (End::NotMet, 0);
        }
    }
    (end, check_next_start(&disk, case, &model))
}

/// The most that is owed for what the threads named met in this life.
fn owed_in(probe: &SharedProbe, case: Case, life: usize, thread: &str) -> Owed {
    let probe = probe.lock().unwrap();
    let met = |hit: &&Hit| hit.life == life && hit.thread == thread;
    let owed = probe
        .hits
        .iter()
        .filter(met)
        .map(|hit| hit.owed(case.fault));
    owed.max().unwrap_or(Owed::Nothing)
}

/// A start that the disk refused ends with 74; what permissions and mounts refused, with 78.
fn fits(failure: &Failure, case: Case) -> bool {
    let settings = matches!(case.name, "EACCES" | "EROFS");
    matches!(failure, Failure::Storage(_)) || (settings && matches!(failure, Failure::Settings(_)))
}

/// The fault is gone. What the page cache holds, and what a power cut leaves of it: every acknowledged
/// write is there. Says how many keys were compared.
fn check_next_start(disk: &SimDisk, case: Case, model: &Model) -> usize {
    let mut images = vec![("as it is", disk.kill())];
    if case.durability == Durability::Always {
        images.push(("power cut", disk.power_cut(|_, _| 0, 0)));
        images.push((
            "late power cut",
            disk.power_cut(|_, length| length, usize::MAX),
        ));
    }
    let mut compared = 0;
    for (what, image) in images {
        let opened = Store::open_on(options(case.durability), Arc::new(image.clone()));
        let opened = opened.unwrap_or_else(|failure| panic!("{case:?}, {what}: {failure}"));
        assert_kept(model, &opened.store, &format!("{case:?}, {what}"));
        compared += model.lock().unwrap().len();
        stop(opened);
    }
    compared
}

fn assert_kept(model: &Model, store: &Store, what: &str) {
    let found = versions(store);
    for (key, version) in model.lock().unwrap().iter() {
        let kept = found.get(key);
        assert!(
            kept >= Some(version),
            "{what}: {key} version {version}, found {kept:?}"
        );
    }
}

#[test]
fn rows_15_34_39_40_41_every_call_fails_once_and_for_good_and_ends_as_it_should() {
    let kinds: Vec<Case> = MODES
        .iter()
        .flat_map(|durability| {
            FAULTS.iter().flat_map(move |(name, fault)| {
                [false, true].map(|always| Case {
                    durability: *durability,
                    name,
                    fault: *fault,
                    always,
                    number: 0,
                })
            })
        })
        .collect();
    let next = AtomicUsize::new(0);
    let counts: Mutex<BTreeMap<(&str, End), usize>> = Mutex::default();
    let compared = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Mostly they wait for their own threads.
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(kind) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for number in 1.. {
                        let (end, keys) = run(Case { number, ..*kind });
                        if end == End::NotMet {
                            break;
                        }
                        *counts.lock().unwrap().entry((kind.name, end)).or_default() += 1;
                        compared.fetch_add(keys, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    for ((name, end), count) in &counts {
        println!("{name}: {count} runs {end:?}");
    }
    let runs: usize = counts.values().sum();
    println!(
        "{runs} runs with a failing call, {compared:?} keys compared at the next start, 0 lost"
    );
    let of = |name, end| counts.get(&(name, end)).copied().unwrap_or_default();
    assert!(runs > 3_000, "{runs}");
    for name in ["EIO", "ENOSPC", "EFBIG", "EACCES", "EROFS", "EINTR"] {
        assert!(of(name, End::Latched) > 50, "{counts:?}");
        assert!(of(name, End::Refused) > 50, "{counts:?}");
    }
    assert_eq!(
        of("short write", End::Latched) + of("short write", End::Refused),
        0
    );
}
