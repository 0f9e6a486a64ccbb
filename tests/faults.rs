//! Every call on the disk fails, one after the other, once and for good, with every error that counts:
//! the store on the simulated disk ends as the rows of the failures that ekokv answers for say.
//!
//! A run is three lives on one disk: a first start that stops in order, a second one that is killed, and
//! one behind that. In each the log is compacted, while there are writes and behind deletes and a clear.
//! Whoever makes the call that fails decides what is owed: the thread that opens, the committer, the
//! maker of spares, the compactor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod sim;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ekokv::store::{Answer, Command, Durability, Error, Failure, Opened, Reply, Store};
use ekokv_wal::{SimDisk, SimFault};
use sim::{batch_set, delete, options, runtime, set, stop, versions};

const EINTR: i32 = 4;
const ENOSPC: i32 = 28;
const FAULTS: [(&str, SimFault); 7] = [
    ("EIO", SimFault::Errno(5)),
    ("ENOSPC", SimFault::Errno(ENOSPC)),
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
            // Row 23: the generation before serves, if the log behind it can be read; or it is the one
            // that is only looked at. Last of all the directory is listed for what is unfinished.
            ("open", "open" | "length" | "list") if self.life > 0 => Owed::RefusedOrNothing,
            ("open", "list") if self.path == "snapshots" => Owed::RefusedOrNothing,
            // Row 36: a start without room gives back what it can and tries once more.
            ("open", _)
                if fault == SimFault::Errno(ENOSPC)
                    && self.life > 0
                    && ["wal/next.tmp", "CURRENT.tmp"].contains(&self.path.as_str()) =>
            {
                Owed::RefusedOrNothing
            }
            // How much is free is asked again.
            ("open", "free_bytes") => Owed::Nothing,
            ("open", _) => Owed::Refused,
            // Rows 36 to 41, of spares and snapshots: discarded, told of, tried again.
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
        // The thread that opens is one of the test's, whatever its name is, and one that reads ahead.
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

/// What was acknowledged, by sequences.
#[derive(Debug, Default)]
struct Model {
    /// Each key's version.
    kept: BTreeMap<String, u64>,
    /// When it was deleted last.
    gone: BTreeMap<String, u64>,
    cleared: u64,
}

impl Model {
    fn set(&mut self, key: &str, sequence: u64) {
        self.kept.insert(key.to_owned(), sequence);
    }

    fn assert_kept(&self, store: &Store, what: &str) -> usize {
        let found = versions(store);
        for (key, version) in &self.kept {
            let kept = found.get(key);
            assert!(
                kept >= Some(version),
                "{what}: {key} version {version}, found {kept:?}"
            );
        }
        for (key, version) in &found {
            let gone = self.gone.get(key).copied().unwrap_or_default();
            assert!(
                *version > gone.max(self.cleared),
                "{what}: {key} is back from {version}"
            );
        }
        self.kept.len() + self.gone.len()
    }
}

/// What happens to a store in a life, and what each answer may be.
struct Workload<'a> {
    store: &'a Store,
    case: Case,
    life: usize,
    model: &'a Mutex<Model>,
    probe: &'a SharedProbe,
}

impl Workload<'_> {
    fn latched(&self) -> bool {
        self.probe.lock().unwrap().latched
    }

    fn is_degraded(&self) -> bool {
        self.store.health().degraded
    }

    /// Whether a thread has met the fault in this life.
    fn met(&self, thread: &str) -> bool {
        let probe = self.probe.lock().unwrap();
        let mut hits = probe.hits.iter();
        hits.any(|hit| hit.life == self.life && hit.thread == thread)
    }

    /// The sequence of a write that is acknowledged; `None` if it is refused for a reason that fits. No
    /// write is acknowledged that began after the log had failed.
    async fn write(&self, what: &str, command: Command) -> Result<Option<u64>, Error> {
        loop {
            let latched = self.latched();
            let result = tokio::time::timeout(PATIENCE, self.store.call(command.clone())).await;
            match result.expect("an answer comes") {
                Ok(Reply { sequence, answer }) => {
                    // A delete of nothing writes nothing.
                    assert!(
                        !latched || answer == Answer::Deleted(false),
                        "{what} was acknowledged after the log had failed"
                    );
                    return Ok(Some(sequence));
                }
                // No segment is ready yet. If it could not be made there may be none for long.
                Err(Error::Busy { .. }) if !self.is_degraded() => {
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
                Err(Error::Busy { .. }) => return Ok(None),
                Err(Error::OutcomeUnknown) => {
                    assert!(
                        self.latched(),
                        "{what}: the outcome is unknown, yet nothing has failed"
                    );
                    return Err(Error::OutcomeUnknown);
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }

    /// Sets, one of them a batch, until the store ends.
    async fn set(&self, name: &str, count: u64) {
        for serial in 0..count {
            let key = format!("{name}{}", serial % 5);
            let other = format!("{name}-batch");
            let is_batch = serial == 1;
            // Its answer says the version of the last key.
            let command = if is_batch {
                batch_set(&[&other, &key], self.life as u64)
            } else {
                set(&key, 3_400 + serial)
            };
            match self.write(&key, command).await {
                Ok(Some(sequence)) => {
                    let mut model = self.model.lock().unwrap();
                    model.set(&key, sequence);
                    if is_batch {
                        model.set(&other, sequence - 1);
                    }
                }
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    async fn delete(&self, key: &str) {
        let answer = self.write(key, delete(key)).await;
        let mut model = self.model.lock().unwrap();
        if answer != Ok(None) {
            model.kept.remove(key);
        }
        if let Ok(Some(sequence)) = answer {
            model.gone.insert(key.to_owned(), sequence);
        }
    }

    async fn clear(&self) {
        let answer = self.write("clear", Command::Clear).await;
        let mut model = self.model.lock().unwrap();
        if answer != Ok(None) {
            model.kept.clear();
        }
        if let Ok(Some(sequence)) = answer {
            model.cleared = sequence;
        }
    }

    /// Compacts. What keeps it from that is told of, and by the next time it is overcome.
    async fn compact(&self) {
        for again in [false, true] {
            let latched = self.latched();
            let stuck = async {
                // Without a spare it waits for long.
                while !(self.met("spares") && self.is_degraded()) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let answer = tokio::select! {
                biased;
                answer = tokio::time::timeout(PATIENCE, self.store.compact()) => answer,
                () = stuck => return,
            };
            match answer.expect("an answer comes") {
                Ok(_) => {
                    assert!(!latched, "{:?}: compacted a log that had failed", self.case);
                    return;
                }
                Err(Error::NotCompacted { reason }) => {
                    let case = self.case;
                    assert!(
                        self.met("compactor"),
                        "{case:?}: {reason}: {:?}",
                        self.probe
                    );
                    assert!(self.is_degraded(), "{case:?}: {reason}");
                    assert!(case.always || !again, "{case:?}: {reason}");
                }
                Err(Error::Stopping) => {
                    assert!(self.latched(), "{:?}: the log has not failed", self.case);
                    return;
                }
                Err(error) => panic!("{:?}: {error}", self.case),
            }
        }
    }

    /// Two writers at a time, enough for the log to go on in further segments, and compactions.
    fn run(&self) {
        runtime().block_on(async {
            match self.life {
                0 => {
                    tokio::join!(self.set("a", 7), self.set("b", 7));
                    self.compact().await;
                    self.delete("a0").await;
                    self.delete("b1").await;
                    self.set("a", 1).await;
                    self.compact().await;
                }
                1 => {
                    tokio::join!(self.set("a", 4), self.set("b", 4), self.compact());
                    self.clear().await;
                    self.set("b", 3).await;
                    self.compact().await;
                    self.set("c", 2).await;
                }
                _ => {
                    self.delete("c0").await;
                    tokio::join!(self.set("a", 2), self.compact());
                }
            }
        });
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Unaffected,
    Degraded,
    Refused,
    Latched,
}

/// One run; asserts all that is owed, and that the next start finds all that was acknowledged. Says how
/// it ended, which thread met the fault, and how many keys were compared; `None` if nobody did, for the
/// run makes fewer calls.
fn run(case: Case) -> Option<(End, String, usize)> {
    let mut disk = SimDisk::new();
    let probe = SharedProbe::default();
    let model = Mutex::<Model>::default();
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
        let what = format!("{case:?}, life {life}");
        model.lock().unwrap().assert_kept(&store, &what);
        let workload = Workload {
            store: &store,
            case,
            life,
            model: &model,
            probe: &probe,
        };
        workload.run();
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
    let thread = {
        let probe = probe.lock().unwrap();
        assert!(probe.after_latch.is_empty(), "{case:?}: {probe:?}");
        probe.hits.first()?.thread.clone()
    };
    Some((end, thread, check_next_start(&disk, case, &model)))
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
fn check_next_start(disk: &SimDisk, case: Case, model: &Mutex<Model>) -> usize {
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
        let what = format!("{case:?}, {what}");
        let model = model.lock().unwrap();
        compared += model.assert_kept(&opened.store, &what);
        // Nothing that the fault left is in the way of a compaction.
        let compacted = runtime().block_on(opened.store.compact());
        assert!(compacted.is_ok(), "{what}: {compacted:?}");
        assert!(!opened.store.health().degraded, "{what}");
        model.assert_kept(&opened.store, &what);
        stop(opened);
    }
    compared
}

/// Every so many calls fail: each of them of the faults that disks have most, in the strictest mode, and
/// a share of them of the others. `EKOKV_TEST_LONG=1` lets each call fail in each way.
fn step(durability: Durability, name: &str) -> usize {
    let often =
        durability == Durability::Always && matches!(name, "EIO" | "ENOSPC" | "short write");
    let long = std::env::var_os("EKOKV_TEST_LONG").is_some();
    if often || long { 1 } else { 7 }
}

#[test]
fn rows_15_23_34_36_to_41_every_call_fails_once_and_for_good_and_ends_as_it_should() {
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
    let threads: Mutex<BTreeMap<(String, bool, End), usize>> = Mutex::default();
    let compared = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Mostly they wait for their own threads.
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(kind) = kinds.get(index) else {
                        return;
                    };
                    let step = step(kind.durability, kind.name);
                    for number in (1 + (index % step) as u64..).step_by(step) {
                        let Some((end, thread, keys)) = run(Case { number, ..*kind }) else {
                            break;
                        };
                        *counts.lock().unwrap().entry((kind.name, end)).or_default() += 1;
                        let met = (thread, kind.always, end);
                        *threads.lock().unwrap().entry(met).or_default() += 1;
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
    let threads = threads.into_inner().unwrap();
    for ((thread, always, end), count) in &threads {
        let lasts = if *always { "for good" } else { "once" };
        println!("{lasts}, met first by {thread}: {count} runs {end:?}");
    }
    let runs: usize = counts.values().sum();
    println!(
        "{runs} runs with a failing call, {compared:?} keys compared at the next start, 0 lost"
    );
    let of = |name, end| counts.get(&(name, end)).copied().unwrap_or_default();
    assert!(runs > 2_000, "{runs}");
    // What lasts meets the others as well.
    let once = |end| {
        let of = threads.get(&("compactor".to_owned(), false, end));
        of.copied().unwrap_or_default()
    };
    assert_eq!(once(End::Refused) + once(End::Latched), 0);
    assert!(once(End::Unaffected) + once(End::Degraded) > 100);
    for name in ["EIO", "ENOSPC", "EFBIG", "EACCES", "EROFS", "EINTR"] {
        // Which call a thread makes at which number is the scheduler's; these are far below what is seen.
        assert!(of(name, End::Latched) > 15, "{counts:?}");
        assert!(of(name, End::Refused) > 15, "{counts:?}");
    }
    assert_eq!(
        of("short write", End::Latched) + of("short write", End::Refused),
        0
    );
}
