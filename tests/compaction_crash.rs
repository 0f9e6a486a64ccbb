//! T1 for the whole store: a recorded story with rotations, compactions, expiry, kills, restarts and a
//! rescue is cut after each call of the disk, with every part, or a seeded sample, of what was not
//! synced kept or lost, and names kept or lost. Whatever is left opens, holds what was acknowledged and
//! nothing that was never sent; so again when the start on it is cut, and when it compacts.
//!
//! `EKOKV_TEST_SEED` gives another sample. A tape that is found at fault is kept in a file;
//! `EKOKV_TEST_TAPE` has it judged again, and `EKOKV_TEST_CALL` only where it was cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/draw.rs"]
#[allow(dead_code)] // Others draw more kinds of things.
mod draw;
#[path = "proof/images.rs"]
mod images;
mod proof;
mod sim;

use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use draw::Draw;
use ekokv::store::{Command, Durability, Store, proving};
use ekokv_wal::{Disk, SimDisk, SimOp};
use images::ways;
use proof::model::{Model, Truth};
use proof::story::{RETENTION, Story, truth};
use proof::tape::Tape;
use proof::{in_parallel, seed};
use sim::{batch_set, options, runtime, stop};

/// Of so many starts one is cut, too.
const CUT_STARTS: u64 = 60;
/// Where nothing is synced so much is pending that fewer of its parts do.
const SAMPLES_ALWAYS: usize = 5;
const SAMPLES_OS: usize = 1;
/// Of so many images one is opened with all threads, and compacts.
const COMPACTED: u64 = 120;

/// All that happens to a store, several times.
fn tell(durability: Durability) -> Tape {
    let mut story = Story::begin(durability);
    story.set("a", "first");
    story.set_for("soon", "gone soon", 5_000);
    story.call(batch_set(&["b", "c", "d"], 300));
    story.link("a", "1", Some("{\"since\":1}"));
    story.link("a", "2", None);
    story.compact();
    story.set("a", "second, and longer than the first one was");
    story.unlink("a", "2");
    story.delete("b");
    // Enough for segments to follow by themselves.
    for round in 0..16 {
        story.set(&format!("r{}", round % 5), &"r".repeat(100 * round));
    }
    story.pass(6_000);
    story.kill();
    story.compact_while(|story| {
        for round in 0..6 {
            story.set("while", &"w".repeat(40 * round));
        }
        story.delete("c");
    });
    story.set_for("later", "remembered", 1_000);
    story.link("later", "9", Some("[9]"));
    story.pass(2_000);
    story.set("soon", "again");
    story.restart(Some("another admin key of 32 letters!"));
    story.compact();
    // Nothing in between.
    story.compact();
    story.set("d", "before the clear");
    story.call(Command::Clear);
    story.set("d", "behind the clear");
    story.set("z", "last");
    story.compact_while(|story| {
        story.call(batch_set(&["b", "c"], 50));
        story.call(Command::Clear);
        story.set("only", "one");
    });
    story.kill();
    story.kill();
    for round in 0..4 {
        story.set(&format!("n{round}"), &"n".repeat(300));
    }
    story.set_for("n0", "short", 1_000);
    story.compact();
    story.pass(2_000);
    story.set("n1", "other");
    story.rescue();
    story.set("n2", "behind the rescue");
    story.compact();
    // What is remembered is forgotten.
    story.pass(RETENTION.as_millis() as u64);
    story.delete("n3");
    story.compact();
    story.set("end", "of the story");
    story.end()
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    images: u64,
    recoveries: u64,
    cut_starts: u64,
    compacted: u64,
    dropped_batches: u64,
    with_snapshot: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.images += other.images;
        self.recoveries += other.recoveries;
        self.cut_starts += other.cut_starts;
        self.compacted += other.compacted;
        self.dropped_batches += other.dropped_batches;
        self.with_snapshot += other.with_snapshot;
    }
}

/// What an image holds: the last sequence, and the content.
type Held = (u64, Model);

struct Judge<'a> {
    truth: &'a Truth,
    durability: Durability,
}

fn log_options(durability: Durability) -> ekokv_wal::Options {
    let counter = AtomicU64::new(0);
    ekokv_wal::Options {
        segment_bytes: 64 << 10,
        first_segment_bytes: 64 << 10,
        mode: match durability {
            Durability::Always => ekokv_wal::Mode::Always,
            Durability::Interval(_) => ekokv_wal::Mode::Interval,
            Durability::Os => ekokv_wal::Mode::Os,
        },
        random: Arc::new(move || {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            let mut bytes = [0xEE; 16];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            Ok(bytes)
        }),
    }
}

fn read(image: &SimDisk, what: &str) -> Option<proving::Standing> {
    let retention_ms = RETENTION.as_millis() as u64;
    proving::read(image, retention_ms).unwrap_or_else(|error| panic!("{what}: refused: {error}"))
}

fn held(standing: &proving::Standing) -> Held {
    (
        standing.log().position.sequence,
        Model::of(standing.state()),
    )
}

impl Judge<'_> {
    /// What an image holds is what was acknowledged, or more, and nothing else.
    fn read(
        &self,
        image: &SimDisk,
        (durable, sent): (u64, u64),
        what: &str,
    ) -> Option<proving::Standing> {
        let Some(standing) = read(image, what) else {
            assert_eq!(durable, 0, "{what}: nothing is there");
            return None;
        };
        let (sequence, model) = held(&standing);
        assert!(
            durable <= sequence && sequence <= sent,
            "{what}: {durable} <= {sequence} <= {sent}"
        );
        let truth = self
            .truth
            .at(sequence, self.durability != Durability::Always);
        let truth = truth.unwrap_or_else(|| panic!("{what}: no batch ends with {sequence}"));
        assert_eq!(model, *truth, "{what}: other content");
        // No crash makes a snapshot look damaged.
        assert!(
            standing.broken().is_empty(),
            "{what}: {:?}",
            standing.broken()
        );
        Some(standing)
    }

    /// Starts on an image that was read, reads again, and returns the calls that this took.
    fn start(&self, image: &SimDisk, standing: proving::Standing, what: &str) -> (u64, Vec<SimOp>) {
        let (sequence, model) = held(&standing);
        let skips = standing.log().mode != ekokv_wal::Mode::Always && !standing.log().stopped;
        let _ = image.take_recorded();
        let disk: Arc<dyn Disk> = Arc::new(image.clone());
        let log = proving::start(&disk, standing, log_options(self.durability));
        let log = log.unwrap_or_else(|error| panic!("{what}: {error}"));
        let after = log.position().sequence;
        drop(log);
        if !skips {
            assert_eq!(after, sequence, "{what}");
        }
        let calls = image.take_recorded();
        let again = read(image, what).unwrap();
        assert_eq!(held(&again), (after, model), "{what}: second recovery");
        for path in image.paths() {
            assert!(
                !path.ends_with(".tmp") || path.starts_with("wal/") || path == "CURRENT.tmp",
                "{what}: {path} is left"
            );
        }
        (after, calls)
    }

    /// The image opens with all its threads, compacts, and holds the same.
    fn compact(&self, image: &SimDisk, expected: &Model, what: &str) {
        let mut options = options(self.durability);
        options.expired_retention = RETENTION;
        // Nothing is due at the time of the image.
        options.clock = Arc::new(ekokv::clock::ManualClock::new(0));
        let opened = Store::open_on(options, Arc::new(image.clone())).unwrap();
        let compacted = runtime().block_on(opened.store.compact());
        compacted.unwrap_or_else(|error| panic!("{what}: {error}"));
        stop(opened);
        let found = read(image, what).unwrap();
        assert_eq!(Model::of(found.state()), *expected, "{what}: compacted");
    }
}

/// An image as a power cut leaves it.
fn cut(disk: &SimDisk, way: &[usize], names: usize) -> SimDisk {
    disk.power_cut(|cell, length| way[cell].min(length), names)
}

fn judge_at(judge: &Judge<'_>, tape: &Tape, state: &SimDisk, call: usize, seed: u64) -> Counts {
    let mut draw = Draw(seed ^ (call as u64) << 20);
    let mut counts = Counts::default();
    let promised = tape.promised(call);
    let samples = match judge.durability {
        Durability::Always => SAMPLES_ALWAYS,
        Durability::Interval(_) | Durability::Os => SAMPLES_OS,
    };
    for names in 0..=state.pending_names() {
        for (number, way) in ways(state.pending_cells(), samples, &mut draw)
            .iter()
            .enumerate()
        {
            let what = format!("cut after call {call}, names {names}, way {number}");
            let image = cut(state, way, names);
            counts.images += 1;
            let base = image.kill();
            let Some(standing) = judge.read(&image, promised, &what) else {
                continue;
            };
            counts.dropped_batches += u64::from(standing.log().torn.is_some());
            let before = held(&standing);
            let (after, calls) = judge.start(&image, standing, &what);
            counts.recoveries += 2;
            let snapshots = image.paths().into_iter();
            let snapshots = snapshots.filter(|path| path.ends_with(".snap")).count();
            counts.with_snapshot += u64::from(snapshots > 0);
            if draw.below(COMPACTED) == 0 {
                judge.compact(&image, &before.1, &what);
                counts.compacted += 1;
            }
            if draw.below(CUT_STARTS) == 0 {
                for (step, call) in calls.iter().enumerate() {
                    base.play(call);
                    for names in 0..=base.pending_names() {
                        for way in ways(base.pending_cells(), 1, &mut draw) {
                            let what =
                                format!("{what}; start cut after call {step}, names {names}");
                            let image = cut(&base, &way, names);
                            let found = held(&read(&image, &what).unwrap());
                            assert_eq!(found.1, before.1, "{what}");
                            assert!(
                                found.0 == before.0 || found.0 == after,
                                "{what}: {} is neither {} nor {after}",
                                found.0,
                                before.0
                            );
                            counts.cut_starts += 1;
                            counts.recoveries += 1;
                        }
                    }
                }
            }
        }
    }
    counts += killed(judge, state, promised, call, &mut draw);
    counts
}

/// The process dies here, another one starts on what the page cache shows, and the power goes after each
/// of its calls (row 35).
fn killed(
    judge: &Judge<'_>,
    state: &SimDisk,
    promised: (u64, u64),
    call: usize,
    draw: &mut Draw,
) -> Counts {
    let mut counts = Counts::default();
    let what = format!("killed after call {call}");
    let image = state.kill();
    let Some(standing) = judge.read(&image, promised, &what) else {
        return counts;
    };
    let shown = held(&standing);
    let (after, calls) = judge.start(&image, standing, &what);
    counts.recoveries += 2;
    if draw.below(4) != 0 {
        return counts;
    }
    let disk = state.kill();
    for (step, call) in calls.iter().enumerate() {
        disk.play(call);
        for names in [0, usize::MAX] {
            let mut ways = ways(disk.pending_cells(), 1, draw);
            ways.truncate(4);
            for way in ways {
                let what = format!("{what}, start cut after call {step}");
                let image = cut(&disk, &way, names);
                counts.cut_starts += 1;
                counts.recoveries += 1;
                let standing = read(&image, &what);
                let found = standing.map(|standing| held(&standing));
                if found
                    .as_ref()
                    .is_some_and(|found| *found == (after, shown.1.clone()))
                {
                    continue;
                }
                judge.read(&image, promised, &what);
            }
        }
    }
    counts
}

/// Judges every place of a tape. What is found at fault is kept, and the command that shows it printed.
fn judge_all(name: &str, tape: &Tape, durability: Durability, seed: u64) -> Counts {
    let truth = truth(&tape.calls);
    let judge = Judge {
        truth: &truth,
        durability,
    };
    let states = tape.states();
    let only = std::env::var("EKOKV_TEST_CALL").ok();
    let only: Option<usize> = only.and_then(|call| call.parse().ok());
    let work = |call: usize| {
        if only.is_some_and(|only| only != call) {
            return Counts::default();
        }
        let judged = AssertUnwindSafe(|| judge_at(&judge, tape, &states[call], call, seed));
        catch_unwind(judged).unwrap_or_else(|panic| {
            let kept = tape.keep(name);
            println!(
                "to see it again: EKOKV_TEST_TAPE={} EKOKV_TEST_CALL={call} EKOKV_TEST_SEED={seed} \
                 cargo test --test compaction_crash {name}",
                kept.display()
            );
            resume_unwind(panic)
        })
    };
    let mut total = Counts::default();
    in_parallel(states.len(), work, |counts| total += counts);
    println!(
        "{name}: {} calls, {} batches, {} images, {} of them with a snapshot, {} in a start that was \
         cut, {} compacted, {} recoveries, {} with a torn batch dropped; 0 lost, 0 refused",
        tape.calls.len(),
        truth.batches(),
        total.images + total.cut_starts,
        total.with_snapshot,
        total.cut_starts,
        total.compacted,
        total.recoveries,
        total.dropped_batches,
    );
    total
}

fn prove(name: &str, durability: Durability) {
    let tape = match std::env::var("EKOKV_TEST_TAPE") {
        Ok(file) => Tape::play_again(Path::new(&file)),
        Err(_) => tell(durability),
    };
    assert!(tape.survives_keeping());
    let removed = |suffix: &str| {
        let calls = tape.calls.iter();
        let removed = |call: &&SimOp| matches!(call, SimOp::Remove(path) if path.ends_with(suffix));
        calls.filter(removed).count()
    };
    // The story has all that it is about: snapshots and segments were retired.
    assert!(removed(".snap") >= 3 && removed(".wal") >= 5);
    let counts = judge_all(name, &tape, durability, seed());
    if std::env::var("EKOKV_TEST_CALL").is_err() {
        assert!(counts.with_snapshot > 1_000 && counts.cut_starts > 1_000);
        assert!(counts.compacted > 0);
    }
}

#[test]
fn rows_18_to_28_and_35_always_no_crash_loses_what_was_acknowledged_or_refuses_to_start() {
    prove(
        "rows_18_to_28_and_35_always_no_crash_loses_what_was_acknowledged_or_refuses_to_start",
        Durability::Always,
    );
}

#[test]
fn rows_18_to_28_and_35_os_no_crash_loses_what_was_synced_or_refuses_to_start() {
    prove(
        "rows_18_to_28_and_35_os_no_crash_loses_what_was_synced_or_refuses_to_start",
        Durability::Os,
    );
}
