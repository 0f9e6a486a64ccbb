//! T5: what concurrent clients of the real binary are told has one order, over kill -9 as well.
//!
//! Every history is judged twice: by the versions that the answers name and the log, and by a search
//! that looks at values alone. `EKOKV_TEST_SEED` gives another workload, `EKOKV_TEST_LONG=1` those of
//! thirteen seeds, with 312 kills. A history that is refused is written to a file, which
//! `EKOKV_TEST_HISTORY` has judged again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod history;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use common::draw::Draw;
use common::process::Process;
use common::server::DataDir;
use history::client::{Keys, Memory, Recorder, Shared, end};
use history::log::Log;
use history::plant::{self, Fault};
use history::versions::{self, Checked};
use history::{Operation, dump, expiring, search, small};

const CLIENTS: usize = 8;
/// How often the process is killed in one history.
const KILLS: u64 = 24;
/// Each life of the process brings new keys, which are asked for in so many lives.
const LIVES_OF_KEYS: u64 = 3;
const KEYS_PER_LIFE: u64 = 15;
/// Keys that are asked for in every life.
const LASTING_KEYS: u64 = 2;
/// A shorter history of a key is not counted.
const STEPS_MIN: usize = 10;
/// Places at which each fault is planted.
const PLANTED: usize = 8;

/// The seeds of the histories to record.
fn seeds() -> Range<u64> {
    let first = std::env::var("EKOKV_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let long = std::env::var_os("EKOKV_TEST_LONG").is_some();
    first..first + if long { 13 } else { 1 }
}

/// The keys of a life of the process.
fn keys(life: u64) -> Keys {
    let of_life = |life: u64| (0..KEYS_PER_LIFE).map(move |key| format!("life{life}-{key}"));
    let lasting = || (0..LASTING_KEYS).map(|key| format!("lasting-{key}"));
    let lives = life.saturating_sub(LIVES_OF_KEYS - 1)..=life;
    Keys {
        live: lasting().chain(lives.clone().flat_map(of_life)).collect(),
        prefixes: lives.map(|life| format!("life{life}-")).collect(),
        ever: lasting().chain((0..=life).flat_map(of_life)).collect(),
    }
}

/// What clients were told while the process was killed again and again.
struct Recorded {
    history: Vec<Operation>,
    /// The log, and the history with what the log tells of requests without an answer.
    resolved: Option<(Vec<Operation>, Log)>,
}

/// Records a history; with the log if it keeps all that was ever written.
fn record(seed: u64, arguments: &[&str], log_is_whole: bool) -> Recorded {
    let dir = DataDir::new();
    let shared = Shared::new();
    let mut draw = Draw(seed);
    let mut memories: Vec<Memory> = (0..CLIENTS)
        .map(|name| Memory::new(name, draw.below(u64::MAX)))
        .collect();
    let mut reader = Memory::new(CLIENTS, 0);
    let mut recorded = Recorded {
        history: Vec::new(),
        resolved: log_is_whole.then(Default::default),
    };
    for life in 0..KILLS {
        let keys = keys(life);
        let mut process = Process::start(dir.path(), arguments);
        let (address, token) = (process.address, process.token());
        let mut first = Recorder::connect(&shared, &mut reader, address, &token).unwrap();
        first.read_all(&keys.live);
        let mut told = first.operations;
        let (answered, answers) = channel();
        std::thread::scope(|scope| {
            let clients: Vec<_> = memories
                .iter_mut()
                .map(|memory| {
                    let (keys, token, shared) = (&keys, &token, &shared);
                    let answered = answered.clone();
                    scope.spawn(move || {
                        let client = Recorder::connect(shared, memory, address, token);
                        client.map_or_else(Vec::new, |mut client| {
                            client.ask(keys, &answered);
                            client.operations
                        })
                    })
                })
                .collect();
            drop(answered);
            // In the midst of the requests, not before them and not after them.
            for _ in 0..100 + draw.below(400) {
                answers.recv().unwrap();
            }
            process.kill();
            for client in clients {
                told.extend(client.join().unwrap());
            }
        });
        end(&mut told, shared.tick());
        recorded.history.extend_from_slice(&told);
        if let Some((history, log)) = &mut recorded.resolved {
            let fresh = log.read(dir.path());
            log.resolve(&mut told, fresh);
            history.extend(told);
        }
    }
    let process = Process::start(dir.path(), arguments);
    let mut last =
        Recorder::connect(&shared, &mut reader, process.address, &process.token()).unwrap();
    last.read_all(&keys(KILLS - 1).ever);
    recorded.history.extend_from_slice(&last.operations);
    if let Some((history, _)) = &mut recorded.resolved {
        history.extend(last.operations);
    }
    recorded
}

/// What the search saw.
#[derive(Debug, Default)]
struct Searched {
    histories: usize,
    longest: usize,
    tried: usize,
}

/// Searches an order for each key.
fn search_all(history: &[Operation]) -> Result<Searched, String> {
    let expiring = expiring(history);
    let mut searched = Searched::default();
    for (key, steps) in search::by_key(history) {
        searched.tried +=
            search::search(&steps, &expiring).map_err(|why| format!("{key}: {why}"))?;
        searched.longest = searched.longest.max(steps.len());
        searched.histories += usize::from(steps.len() >= STEPS_MIN);
    }
    Ok(searched)
}

/// Searches an order for the keys that a fault touches.
fn search_planted(history: &[Operation], touched: &[usize]) -> Result<(), String> {
    let keys: BTreeSet<&str> = touched
        .iter()
        .flat_map(|at| &history[*at].steps)
        .map(|step| step.key.as_str())
        .collect();
    let is_touched = |operation: &&Operation| {
        let mut steps = operation.steps.iter();
        steps.any(|step| keys.contains(step.key.as_str()))
    };
    let history: Vec<Operation> = history.iter().filter(is_touched).cloned().collect();
    let expiring = expiring(&history);
    let histories = search::by_key(&history);
    for key in keys {
        search::search(&histories[key], &expiring)?;
    }
    Ok(())
}

/// Judges a history in both ways; one that is refused is kept.
fn judge(history: &[Operation], log: Option<&Log>, seed: u64) -> (Checked, Searched) {
    let checked = versions::check(history, log);
    let searched = search_all(history);
    match (checked, searched) {
        (Ok(checked), Ok(searched)) => (checked, searched),
        (checked, searched) => {
            let path =
                PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("history-{seed}.jsonl"));
            dump::write(&path, history, log);
            panic!(
                "by version: {checked:?}\nby search: {searched:?}\nthe same verdict again:\n  \
                 EKOKV_TEST_HISTORY={} cargo test --test linearizability judged_again\n\
                 the same workload again:\n  \
                 EKOKV_TEST_SEED={seed} cargo test --test linearizability concurrent",
                path.display()
            );
        }
    }
}

/// Plants faults into a history and asserts that they are found.
fn plant_all(mut history: Vec<Operation>, log: Option<&Log>) {
    use Fault::{DatedRead, LostWrite, NeverWritten, SeenThenGone, StaleRead, SwappedVersions};
    for fault in [
        StaleRead,
        DatedRead,
        LostWrite,
        SeenThenGone,
        NeverWritten,
        SwappedVersions,
    ] {
        let patches = plant::places(&history, fault, PLANTED);
        let planted = patches.len();
        assert!(planted > 0, "no place for {fault:?}");
        for patch in patches {
            let touched: Vec<usize> = patch.iter().map(|(at, _)| *at).collect();
            let undo = plant::apply(&mut history, patch);
            let show = || -> Vec<&Operation> { touched.iter().map(|at| &history[*at]).collect() };
            assert!(
                versions::check(&history, log).is_err(),
                "{fault:?} passed by version: {:?}",
                show()
            );
            // The search looks at no version, so it cannot know that they were swapped.
            assert_eq!(
                search_planted(&history, &touched).is_err(),
                fault != SwappedVersions,
                "{fault:?} by search: {:?}",
                show()
            );
            plant::apply(&mut history, undo);
        }
        println!("{fault:?}: planted {planted} times, found as often");
    }
}

/// Judges a history, says what was seen, and plants faults into it.
fn weigh(what: &str, history: Vec<Operation>, log: Option<&Log>, seed: u64) {
    let (checked, searched) = judge(&history, log, seed);
    let answered = history.iter().filter(|one| one.answered).count();
    println!(
        "seed {seed}, {what}: {KILLS} kills, {answered} requests answered; {} changes of keys ({} of them \
         without an answer) and {} reads agree with the versions, {} more only with what had no \
         answer; {} histories of a key, the longest of {} steps, have an order ({} prefixes tried)",
        checked.changes,
        checked.unanswered_changes,
        checked.reads,
        checked.explained,
        searched.histories,
        searched.longest,
        searched.tried
    );
    assert!(answered as u64 > KILLS * 100);
    assert!(searched.histories >= 300, "{searched:?}");
    assert!(
        checked.changes > 1_000 && checked.reads > 1_000,
        "{checked:?}"
    );
    plant_all(history, log);
}

fn run(seed: u64, arguments: &[&str], log_is_whole: bool) {
    let Recorded { history, resolved } = record(seed, arguments, log_is_whole);
    weigh("as told", history, None, seed);
    if let Some((history, log)) = resolved {
        weigh("with the log", history, Some(&log), seed);
    }
}

#[test]
fn concurrent_clients_see_one_order_over_kills() {
    for seed in seeds() {
        run(seed, &["--durability", "always"], true);
    }
}

#[test]
fn a_history_is_judged_again_as_it_was_written() {
    if let Some(path) = std::env::var_os("EKOKV_TEST_HISTORY") {
        let (history, log) = dump::read(Path::new(&path));
        println!("{:?}", judge(&history, log.as_ref(), 0));
        return;
    }
    let dir = DataDir::new();
    std::fs::create_dir(dir.path()).unwrap();
    let path = dir.path().join("history.jsonl");
    let stale = [
        small::at(0..1, 1, small::set(1)),
        small::at(2..3, 2, small::set(2)),
        small::shown(4..5, 2, 1, small::get(Some(1))),
        small::unanswered(6..9, small::delete(true)),
    ];
    dump::write(&path, &stale, None);
    let (read, log) = dump::read(&path);
    assert_eq!((read.as_slice(), log.is_some()), (stale.as_slice(), false));
    assert!(versions::check(&read, None).is_err());
    assert!(search_all(&read).is_err());
}
