//! Row 25a: damage that the scrub or a compaction meets while the store runs. The live state is written
//! out anew while writers and a clear go on; nothing is lost, the damaged file is set aside, and the next
//! start finds no fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proof;
mod sim;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ekokv::store::{
    Command, Condition, Durability, Error, Opened, Reply, Schedule, Scrub, Store, Ttl, proving,
};
use ekokv_wal::SimDisk;
use proof::model::{Held, Model};
use proof::story::put;
use sim::{options, runtime, stop, versions};
use tokio::runtime::Runtime;

const WRITERS: usize = 3;
const KEYS_PER_WRITER: u64 = 12;
/// So long an event is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Writers go on for at least so long behind an event.
const WRITES_BEHIND: u64 = 60;

fn open(disk: &SimDisk, scrub: Scrub) -> Opened {
    let mut options = options(Durability::Always);
    options.scrub = scrub;
    // Nothing compacts by itself but what damage asks for.
    options.schedule = Schedule {
        interval: Duration::from_secs(24 * 3600),
        growth_percent: u64::MAX,
    };
    Store::open_on(options, Arc::new(disk.clone())).unwrap()
}

fn busy_scrub() -> Scrub {
    Scrub {
        pause: Duration::from_millis(1),
        bytes_per_second: 1 << 40,
    }
}

/// The version of each key that was set last, none if it was deleted last.
type Acknowledged = BTreeMap<String, Option<u64>>;

/// Sends a command, again while there is no room in the log yet.
fn call(runtime: &Runtime, store: &Store, command: &Command) -> Reply {
    loop {
        match runtime.block_on(store.call(command.clone())) {
            Err(Error::Busy { .. }) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

/// Sets and deletes keys of its own for as long as `during` is there.
fn write(store: &Store, writer: usize, during: &Weak<()>) -> Acknowledged {
    let runtime = runtime();
    let mut acknowledged = Acknowledged::new();
    let mut serial = 0_u64;
    while during.strong_count() > 0 {
        serial += 1;
        let key = format!("w{writer}-{:02}", serial % KEYS_PER_WRITER);
        let deletes = serial.is_multiple_of(7);
        let command = if deletes {
            Command::Delete {
                key: key.as_str().into(),
                condition: Condition::None,
            }
        } else {
            put(&key, &"t".repeat((serial % 300) as usize), Ttl::None)
        };
        let reply = call(&runtime, store, &command);
        acknowledged.insert(key, (!deletes).then_some(reply.sequence));
    }
    acknowledged
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// Runs writers, and a clear in between, around `incident`; returns which key must have which version.
fn under_writers(store: &Store, incident: impl FnOnce()) -> BTreeMap<String, u64> {
    // Writers go on for as long as this is there.
    let end = Arc::new(());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, end) = (store.clone(), Arc::downgrade(&end));
            std::thread::spawn(move || write(&store, writer, &end))
        })
        .collect();
    let runtime = runtime();
    let last = || {
        let look = runtime.block_on(store.call(sim::get("nothing")));
        look.unwrap().sequence
    };
    let before = last();
    wait_until("writes", || last() > before + WRITES_BEHIND);
    let clearing = {
        let store = store.clone();
        std::thread::spawn(move || call(&sim::runtime(), &store, &Command::Clear).sequence)
    };
    incident();
    let cleared = clearing.join().unwrap();
    let behind = last();
    wait_until("writes behind it", || last() > behind + WRITES_BEHIND);
    drop(end);
    let mut expected = BTreeMap::new();
    for writer in writers {
        for (key, version) in writer.join().unwrap() {
            if let Some(version) = version.filter(|version| *version > cleared) {
                expected.insert(key, version);
            }
        }
    }
    expected
}

fn broken(disk: &SimDisk) -> Vec<String> {
    let paths = disk.paths().into_iter();
    paths.filter(|path| path.ends_with(".broken")).collect()
}

fn newest(disk: &SimDisk, suffix: &str) -> String {
    let paths = disk.paths().into_iter();
    paths.filter(|path| path.ends_with(suffix)).max().unwrap()
}

/// Flips a bit in the middle of a file.
fn flip(disk: &SimDisk, path: &str) {
    let mut content = disk.content(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 8;
    disk.set_content(path, content);
}

/// Loses a block, more than parity rebuilds.
fn lose_block(disk: &SimDisk, path: &str) {
    let mut content = disk.content(path).unwrap();
    content[4096..8192].fill(0);
    disk.set_content(path, content);
}

/// A store with two generations and sealed segments behind them.
fn filled(scrub: Scrub) -> (SimDisk, Opened) {
    let disk = SimDisk::new();
    let opened = open(&disk, scrub);
    let runtime = runtime();
    for round in 0..3 {
        for number in 0..20 {
            let text = "f".repeat(100 * round);
            let command = put(&format!("f{number}"), &text, Ttl::None);
            call(&runtime, &opened.store, &command);
        }
        if round < 2 {
            runtime.block_on(opened.store.compact()).unwrap();
        }
    }
    (disk, opened)
}

/// What is there is what was acknowledged: now, after a power cut, and after another compaction.
fn assert_kept(disk: &SimDisk, opened: Opened, expected: &BTreeMap<String, u64>, aside: usize) {
    assert_eq!(versions(&opened.store), *expected, "while it runs");
    wait_until("health", || opened.store.health().integrity_ok);
    let cut = disk.power_cut(|_, _| 0, 0);
    stop(opened);
    assert_eq!(broken(disk).len(), aside, "{:?}", broken(disk));
    for image in [&cut, disk] {
        let standing = proving::read(image, 600_000).unwrap().unwrap();
        assert!(standing.broken().is_empty(), "{:?}", standing.broken());
        let found = Model::of(standing.state()).keys.into_iter();
        let found = found.map(|(key, held)| match held {
            Held::Live { version, .. } => (key.into_string(), version),
            Held::Remembered { .. } => panic!("nothing expires here"),
        });
        assert_eq!(found.collect::<BTreeMap<_, _>>(), *expected);
    }
    let standing = proving::read(disk, 600_000).unwrap().unwrap();
    assert!(
        standing.older_unusable().is_none(),
        "what was given up is gone"
    );
    let opened = open(disk, Scrub::default());
    let health = opened.store.health();
    assert!(health.integrity_ok && !health.degraded, "the next start");
    runtime().block_on(opened.store.compact()).unwrap();
    assert_eq!(versions(&opened.store), *expected, "compacted again");
    stop(opened);
}

#[test]
fn row_25a_a_damaged_newest_snapshot_is_found_by_the_scrub_and_rescued() {
    let (disk, opened) = filled(busy_scrub());
    let path = newest(&disk, ".snap");
    let expected = under_writers(&opened.store, || {
        flip(&disk, &path);
        wait_until("set aside", || broken(&disk).len() == 1);
    });
    assert_eq!(broken(&disk), [format!("{path}.broken")]);
    assert_kept(&disk, opened, &expected, 1);
}

#[test]
fn row_25a_a_lost_block_of_a_sealed_segment_is_found_by_the_scrub_and_rescued() {
    let (disk, opened) = filled(busy_scrub());
    // Behind the newest snapshot there are two segments at least; the older of them is sealed.
    let mut segments: Vec<String> = disk.paths();
    segments.retain(|path| path.ends_with(".wal"));
    let path = segments[segments.len() - 2].clone();
    let expected = under_writers(&opened.store, || {
        lose_block(&disk, &path);
        wait_until("set aside", || broken(&disk).len() == 1);
    });
    assert_eq!(broken(&disk), [format!("{path}.broken")]);
    assert_kept(&disk, opened, &expected, 1);
}

#[test]
fn row_25a_a_damaged_older_snapshot_is_found_by_the_scrub_and_given_up() {
    let (disk, opened) = filled(busy_scrub());
    let mut snapshots: Vec<String> = disk.paths();
    snapshots.retain(|path| path.ends_with(".snap"));
    let [older, _] = &snapshots[..] else {
        panic!("{snapshots:?}")
    };
    let expected = under_writers(&opened.store, || {
        flip(&disk, older);
        wait_until("set aside", || broken(&disk).len() == 1);
    });
    assert_eq!(broken(&disk), [format!("{older}.broken")]);
    assert_kept(&disk, opened, &expected, 1);
}

#[test]
fn row_25a_damage_that_a_compaction_reads_is_rescued_by_it() {
    for snapshot in [true, false] {
        let (disk, opened) = filled(Scrub::default());
        let mut paths: Vec<String> = disk.paths();
        let suffix = if snapshot { ".snap" } else { ".wal" };
        paths.retain(|path| path.ends_with(suffix));
        let path = if snapshot {
            paths[paths.len() - 1].clone()
        } else {
            paths[paths.len() - 2].clone()
        };
        let expected = under_writers(&opened.store, || {
            if snapshot {
                flip(&disk, &path);
            } else {
                lose_block(&disk, &path);
            }
            // Whoever asked is told of success: the snapshot is there.
            let compacted = runtime().block_on(opened.store.compact());
            assert!(compacted.is_ok(), "{path}: {compacted:?}");
        });
        assert_eq!(broken(&disk), [format!("{path}.broken")]);
        assert_kept(&disk, opened, &expected, 1);
    }
}

#[test]
fn row_25a_a_flip_that_parity_repairs_is_folded_away_without_setting_anything_aside() {
    let (disk, opened) = filled(busy_scrub());
    let mut segments: Vec<String> = disk.paths();
    segments.retain(|path| path.ends_with(".wal"));
    let path = segments[segments.len() - 2].clone();
    let snapshot = newest(&disk, ".snap");
    let expected = under_writers(&opened.store, || {
        let mut content = disk.content(&path).unwrap();
        content[4096 + 80] ^= 1;
        disk.set_content(&path, content);
        wait_until("a snapshot", || newest(&disk, ".snap") > snapshot);
    });
    assert_kept(&disk, opened, &expected, 0);
}

#[test]
fn a_lost_copy_of_current_is_written_anew_though_nobody_writes() {
    let disk = SimDisk::new();
    let opened = open(&disk, busy_scrub());
    call(&runtime(), &opened.store, &put("k", "v", Ttl::None));
    let whole = || disk.content("CURRENT").unwrap();
    for at in [20, 4096 + 20] {
        let before = whole();
        let mut damaged = before.clone();
        damaged[at] ^= 1;
        disk.set_content("CURRENT", damaged.clone());
        wait_until("a whole CURRENT", || {
            let now = whole();
            now != damaged && matches!(ekokv_wal::current(&disk, &[]), Ok(Some((_, false))))
        });
        wait_until("health", || opened.store.health().integrity_ok);
    }
    // Both copies: a start would refuse, and the process that runs need not come to that.
    let mut damaged = whole();
    damaged[20] ^= 1;
    damaged[4096 + 20] ^= 1;
    disk.set_content("CURRENT", damaged);
    wait_until("a whole CURRENT", || {
        matches!(ekokv_wal::current(&disk, &[]), Ok(Some((_, false))))
    });
    stop(opened);
    let opened = open(&disk, Scrub::default());
    assert_eq!(versions(&opened.store).len(), 1);
    stop(opened);
}

#[test]
fn a_scrub_between_compactions_takes_no_removed_file_for_damage() {
    let disk = SimDisk::new();
    let opened = open(&disk, busy_scrub());
    let runtime = runtime();
    let is_kept = |path: &String| path.ends_with(".snap") || path.ends_with(".broken");
    for round in 0..40 {
        call(
            &runtime,
            &opened.store,
            &put(&format!("k{round}"), "v", Ttl::None),
        );
        runtime.block_on(opened.store.compact()).unwrap();
        let kept: Vec<String> = disk.paths().into_iter().filter(is_kept).collect();
        assert_eq!(kept.len(), if round == 0 { 1 } else { 2 }, "{kept:?}");
        assert!(kept.iter().all(|path| path.ends_with(".snap")), "{kept:?}");
        assert!(opened.store.health().integrity_ok);
    }
    assert_eq!(versions(&opened.store).len(), 40);
    stop(opened);
}
