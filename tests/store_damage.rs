//! T2 for the whole store: a data dir with two generations and a sealed log behind them, damaged in
//! every way that disks and operators know. It opens with all that it held, or is refused with file and
//! reason; never does it open with less, or with anything else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/draw.rs"]
#[allow(dead_code)] // Others draw more kinds of things.
mod draw;
mod proof;
mod sim;

use std::collections::BTreeSet;
use std::ops::AddAssign;
use std::sync::Arc;

use draw::Draw;
use ekokv::store::{Command, Durability, Failure, Store, proving};
use ekokv_wal::{Disk, Error, SimDisk};
use proof::model::Model;
use proof::story::{RETENTION, Story};
use proof::{in_parallel, seed};
use sim::{options, stop};

const SECTOR: usize = 512;
const BLOCK: usize = 4096;

/// What became of the damaged images of one kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    cases: u64,
    /// Opened with all that was there.
    whole: u64,
    /// Of these: with a damaged snapshot named.
    fallen_back: u64,
    /// Of these: with the older generation reported as of no use.
    reported: u64,
    refused: u64,
    /// Opened with something else, and nothing said.
    silent: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.whole += other.whole;
        self.fallen_back += other.fallen_back;
        self.reported += other.reported;
        self.refused += other.refused;
        self.silent += other.silent;
    }
}

/// A store that ended in order.
struct Subject {
    disk: SimDisk,
    held: (u64, Model),
    /// Snapshots, newest first.
    snapshots: Vec<String>,
    /// Segments behind the newest snapshot.
    behind: Vec<String>,
    /// Segments that only the older generation needs.
    covered: Vec<String>,
}

impl Subject {
    /// Two generations with all kinds of entries, each with segments behind it, all of them small.
    fn new() -> Self {
        Self::of(tell("one").close())
    }

    fn of(disk: SimDisk) -> Self {
        let paths = disk.paths().into_iter();
        let mut snapshots: Vec<String> = paths.filter(|p| p.ends_with(".snap")).collect();
        snapshots.reverse();
        assert_eq!(snapshots.len(), 2);
        let standing = read(&disk).unwrap().unwrap();
        assert!(standing.broken().is_empty() && standing.older_unusable().is_none());
        assert!(standing.log().stopped && standing.log().repairs.is_empty());
        let paths = disk.paths().into_iter();
        let mut covered: Vec<String> = paths.filter(|p| p.ends_with(".wal")).collect();
        let behind = covered.split_off(covered.len() - standing.log().segments as usize);
        assert!(covered.len() >= 2 && behind.len() >= 2);
        Self {
            held: held(&standing),
            disk,
            snapshots,
            behind,
            covered,
        }
    }

    fn content(&self, path: &str) -> Vec<u8> {
        self.disk.content(path).unwrap()
    }

    /// Opens the disk with this file replaced.
    fn judge(&self, path: &str, content: Vec<u8>) -> Counts {
        let image = self.disk.kill();
        image.set_content(path, content);
        self.judge_image(&image)
    }

    fn judge_image(&self, image: &SimDisk) -> Counts {
        let mut counts = Counts {
            cases: 1,
            ..Counts::default()
        };
        match read(image) {
            Ok(Some(standing)) if held(&standing) == self.held => {
                counts.whole = 1;
                counts.fallen_back = u64::from(!standing.broken().is_empty());
                counts.reported = u64::from(standing.older_unusable().is_some());
            }
            Ok(_) => counts.silent = 1,
            Err(Error::Damaged(damage)) => {
                assert!(!damage.file.is_empty() && !damage.reason.is_empty());
                counts.refused = 1;
            }
            Err(other) => panic!("damage was reported as {other}"),
        }
        counts
    }

    /// Damages each file at each place, one in `step` bytes. What holds nothing else than before is not
    /// damaged.
    fn each(
        &self,
        paths: &[String],
        step: usize,
        damage: impl Fn(&mut Vec<u8>, usize) + Sync,
    ) -> Counts {
        let mut total = Counts::default();
        for path in paths {
            let whole = self.content(path);
            let work = |place: usize| {
                let mut damaged = whole.clone();
                damage(&mut damaged, place * step);
                if damaged == whole {
                    Counts::default()
                } else {
                    self.judge(path, damaged)
                }
            };
            in_parallel(whole.len().div_ceil(step), work, |counts| total += counts);
        }
        total
    }

    fn each_bit(&self, paths: &[String]) -> Counts {
        let mut total = Counts::default();
        for bit in 0..8 {
            total += self.each(paths, 1, |bytes, at| bytes[at] ^= 1 << bit);
        }
        total
    }

    /// Each sector and each block of 4 KiB lost, zeros or ones in its place.
    fn each_loss(&self, paths: &[String]) -> Counts {
        let mut total = Counts::default();
        for size in [SECTOR, BLOCK] {
            for fill in [0, 0xFF] {
                total += self.each(paths, size, |bytes, at| {
                    let end = bytes.len().min(at + size);
                    bytes[at..end].fill(fill);
                });
            }
        }
        total
    }

    fn each_swap(&self, paths: &[String]) -> Counts {
        let mut total = Counts::default();
        for path in paths {
            let whole = self.content(path);
            // In smaller pieces if it is small.
            let size = if whole.len() < 16 * SECTOR {
                64
            } else {
                SECTOR
            };
            let pieces = whole.len() / size;
            let work = |first: usize| {
                let mut sum = Counts::default();
                for second in first + 1..pieces {
                    let mut damaged = whole.clone();
                    let (a, b) = damaged.split_at_mut(second * size);
                    a[first * size..][..size].swap_with_slice(&mut b[..size]);
                    if damaged != whole {
                        sum += self.judge(path, damaged);
                    }
                }
                sum
            };
            in_parallel(pieces, work, |sum| total += sum);
        }
        total
    }

    fn each_cut(&self, paths: &[String]) -> Counts {
        let mut total = self.each(paths, 64, Vec::truncate);
        total += self.each(paths, 4096, |bytes, more| {
            bytes.resize(bytes.len() + more + 64, 0);
        });
        total
    }

    fn files(&self) -> Vec<String> {
        let mut files = vec!["CURRENT".to_owned()];
        files.extend(self.snapshots.iter().cloned());
        files.extend(self.covered.iter().cloned());
        files.extend(self.behind.iter().cloned());
        files
    }
}

/// A story whose snapshots hold all kinds of entries.
fn tell(name: &str) -> Story {
    let mut story = Story::begin(Durability::Always);
    story.set("name", name);
    story.set_for("deadline", "some day", 100_000_000);
    story.set_for("soon", "remembered", 5_000);
    story.link("deadline", "1", Some("{\"since\":1}"));
    story.link("deadline", "2", None);
    story.pass(6_000);
    story.compact();
    grow(&mut story, 18);
    story.compact();
    grow(&mut story, 18);
    story
}

/// Enough for one segment and a part of another.
fn grow(story: &mut Story, sets: usize) {
    for number in 0..sets {
        story.set(&format!("k{}", number % 4), &format!("{number:03}"));
    }
    story.delete("k0");
}

fn read(disk: &SimDisk) -> Result<Option<proving::Standing>, Error> {
    proving::read(disk, RETENTION.as_millis() as u64)
}

fn held(standing: &proving::Standing) -> (u64, Model) {
    (
        standing.log().position.sequence,
        Model::of(standing.state()),
    )
}

fn report(what: &str, counts: Counts) {
    println!(
        "{what}: {} cases, {} whole ({} by falling back, {} with the older generation reported), {} \
         refused, {} silent",
        counts.cases,
        counts.whole,
        counts.fallen_back,
        counts.reported,
        counts.refused,
        counts.silent
    );
    assert!(counts.cases > 0, "{what}");
    assert_eq!(counts.silent, 0, "{what}");
}

#[test]
fn rows_12_13_16_every_damage_to_one_copy_in_current_is_repaired_and_to_both_refused() {
    let subject = Subject::new();
    let current = ["CURRENT".to_owned()];
    let flips = subject.each_bit(&current);
    report("CURRENT, every bit flipped", flips);
    assert_eq!(flips.refused, 0);
    let losses = subject.each_loss(&current);
    report("CURRENT, every sector and block lost", losses);
    assert_eq!(losses.refused, 0);
    report(
        "CURRENT, every pair of sectors swapped",
        subject.each_swap(&current),
    );
    report("CURRENT, every cut", subject.each_cut(&current));
    let both = subject.each(&current[..], SECTOR, |bytes, at| {
        bytes[at] ^= 1;
        let other = (at + BLOCK) % bytes.len();
        bytes[other] ^= 1;
    });
    report("CURRENT, both copies flipped", both);
    assert_eq!(both.refused, 2, "where the copies are");
}

#[test]
fn rows_16_23_25_every_damage_to_the_newest_snapshot_falls_back_and_loses_nothing() {
    let subject = Subject::new();
    let newest = &subject.snapshots[..1];
    let mut total = Counts::default();
    for (what, counts) in [
        ("every bit flipped", subject.each_bit(newest)),
        ("every sector and block lost", subject.each_loss(newest)),
        ("every pair of pieces swapped", subject.each_swap(newest)),
        ("every cut", subject.each_cut(newest)),
    ] {
        report(&format!("newest snapshot, {what}"), counts);
        total += counts;
    }
    assert_eq!(total.fallen_back, total.cases);
}

#[test]
fn row_16_damage_to_the_older_snapshot_is_in_nobodys_way() {
    let subject = Subject::new();
    let older = &subject.snapshots[1..];
    let mut total = Counts::default();
    for (what, counts) in [
        ("every bit flipped", subject.each_bit(older)),
        ("every sector and block lost", subject.each_loss(older)),
        ("every cut", subject.each_cut(older)),
    ] {
        report(&format!("older snapshot, {what}"), counts);
        total += counts;
    }
    assert_eq!(total.whole, total.cases);
    // Header and footer are looked at by every start; the scrub looks at the rest.
    assert!(total.reported > 0);
}

#[test]
fn rows_3_7_damage_in_covered_segments_is_reported_and_never_a_refusal() {
    let subject = Subject::new();
    let covered = &subject.covered;
    let mut total = Counts::default();
    for (what, counts) in [
        (
            "one bit of every seventh byte flipped",
            subject.each(covered, 7, |bytes, at| bytes[at] ^= 1 << (at % 8)),
        ),
        ("every sector and block lost", subject.each_loss(covered)),
        ("every cut", subject.each_cut(covered)),
    ] {
        report(&format!("covered segments, {what}"), counts);
        total += counts;
    }
    assert_eq!(total.whole, total.cases);
    assert!(total.reported > 0);
}

#[test]
fn rows_3_to_7_damage_to_the_log_behind_the_snapshot_is_repaired_or_refused() {
    let subject = Subject::new();
    let behind = &subject.behind;
    let flips = subject.each(behind, 3, |bytes, at| bytes[at] ^= 1 << (at % 8));
    report("log behind, one bit of every third byte flipped", flips);
    assert_eq!(flips.refused, 0, "a single flip is always within parity");
    let losses = subject.each_loss(behind);
    report("log behind, every sector and block lost", losses);
    assert!(losses.refused > 0);
    let cuts = subject.each_cut(behind);
    report("log behind, every cut", cuts);
    assert_eq!(cuts.refused, cuts.cases);
}

/// The message of a start that is refused because of damage.
fn refusal(image: &SimDisk) -> String {
    match Store::open_on(options(Durability::Always), Arc::new(image.clone())) {
        Err(Failure::Damaged(said)) => said,
        Err(other) => panic!("{other}"),
        Ok(opened) => {
            stop(opened);
            panic!("it opens")
        }
    }
}

#[test]
fn row_24_with_both_snapshots_damaged_a_start_is_refused_and_names_both() {
    let subject = Subject::new();
    let [newest, older] = &subject.snapshots[..] else {
        panic!("two generations")
    };
    let (newest_bytes, older_bytes) = (subject.content(newest), subject.content(older));
    let mut counts = Counts::default();
    let places = newest_bytes.len().min(older_bytes.len());
    let work = |place: usize| {
        let mut sum = Counts::default();
        let mut draw = Draw(seed() ^ (place as u64) << 32);
        for _ in 0..4 {
            let image = subject.disk.kill();
            let mut damaged = newest_bytes.clone();
            damaged[place] ^= 1 << draw.below(8);
            image.set_content(newest, damaged);
            let mut damaged = older_bytes.clone();
            damaged[draw.below(older_bytes.len() as u64) as usize] ^= 1 << draw.below(8);
            image.set_content(older, damaged);
            let Err(Error::Damaged(damage)) = read(&image) else {
                panic!("{place}: it opens");
            };
            let said = damage.to_string();
            assert!(said.contains(newest) && said.contains(older), "{said}");
            sum.cases += 1;
            sum.refused += 1;
        }
        sum
    };
    in_parallel(places, work, |sum| counts += sum);
    report("both snapshots, a bit of each flipped", counts);

    let image = subject.disk.kill();
    for path in [newest, older] {
        let mut damaged = subject.content(path);
        damaged[200] ^= 1;
        image.set_content(path, damaged);
    }
    let before = files(&image);
    let said = refusal(&image);
    for needed in [
        newest.as_str(),
        older.as_str(),
        "offset",
        "Nothing was changed",
        "`ekokv ",
    ] {
        assert!(said.contains(needed), "{needed:?} is missing: {said}");
    }
    assert_eq!(files(&image), before, "a refused start changes nothing");
}

/// All files but the lock, with their content.
fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let paths = disk.paths().into_iter().filter(|path| path != "lock");
    paths
        .map(|path| (path.clone(), disk.content(&path).unwrap()))
        .collect()
}

#[test]
fn row_23_a_damaged_newest_snapshot_is_set_aside_and_compacted_away_by_the_start() {
    let subject = Subject::new();
    let newest = &subject.snapshots[0];
    let mut damaged = subject.content(newest);
    damaged[300] ^= 4;
    let image = subject.disk.kill();
    image.set_content(newest, damaged.clone());
    let open = || {
        let mut options = options(Durability::Always);
        options.expired_retention = RETENTION;
        Store::open_on(options, Arc::new(image.clone())).unwrap()
    };
    let opened = open();
    let aside = format!("{newest}.broken");
    assert_eq!(
        image.content(&aside),
        Some(damaged),
        "for a person to look at"
    );
    // Until the compaction that begins at once has made another one.
    let begun = std::time::Instant::now();
    while !opened.store.health().integrity_ok {
        assert!(begun.elapsed().as_secs() < 60, "never repaired");
        std::thread::yield_now();
    }
    assert!(!opened.store.health().degraded);
    stop(opened);
    let standing = read(&image).unwrap().unwrap();
    assert!(standing.broken().is_empty() && standing.older_unusable().is_none());
    assert_eq!(held(&standing), subject.held);
    let opened = open();
    assert!(
        !opened.store.health().degraded,
        "the next start finds no fault"
    );
    stop(opened);
}

#[test]
fn rows_9_to_11_every_file_dropped_doubled_renamed_or_swapped_is_whole_or_refused() {
    let subject = Subject::new();
    let files = subject.files();
    let mut dropped = Counts::default();
    let mut moved = Counts::default();
    let kind = |path: &str| path.rsplit_once('.').map(|(_, suffix)| suffix.to_owned());
    for path in &files {
        let content = subject.content(path);
        let without = subject.disk.kill();
        without.remove(path).unwrap();
        let counts = subject.judge_image(&without);
        let needed = path == "CURRENT" || subject.behind.contains(path);
        assert_eq!(counts.refused == 1, needed, "{path} dropped: {counts:?}");
        dropped += counts;
        for other in &files {
            if other == path {
                continue;
            }
            // One file's content under another's name, with the first one still there or gone.
            moved += subject.judge(other, content.clone());
            let renamed = subject.disk.kill();
            renamed.remove(path).unwrap();
            renamed.set_content(other, content.clone());
            moved += subject.judge_image(&renamed);
            let swapped = subject.disk.kill();
            swapped.set_content(path, subject.content(other));
            swapped.set_content(other, content.clone());
            moved += subject.judge_image(&swapped);
        }
        for number in [0_u64, 1, 1_000_000] {
            match kind(path).as_deref() {
                Some("wal") => {
                    moved += subject.judge(&format!("wal/{number:020}.wal"), content.clone());
                }
                Some("snap") => {
                    let other = format!("snapshots/{number:020}.snap");
                    moved += subject.judge(&other, content.clone());
                }
                _ => {}
            }
        }
    }
    report("every file dropped", dropped);
    report("every file doubled, renamed or swapped", moved);
    // Both snapshots gone: the log behind them begins in the middle.
    let without = subject.disk.kill();
    for path in &subject.snapshots {
        without.remove(path).unwrap();
    }
    assert_eq!(subject.judge_image(&without).refused, 1);
}

#[test]
fn row_31_files_of_another_store_are_refused_or_not_needed() {
    let subject = Subject::new();
    let other = Subject::new();
    let mut counts = Counts::default();
    // All subsets would be many: each file, and each file but one.
    let ours = subject.files();
    let theirs = other.files();
    assert_eq!(ours.len(), theirs.len());
    for (mine, foreign) in ours.iter().zip(&theirs) {
        counts += subject.judge(mine, other.content(foreign));
        let image = subject.disk.kill();
        for (mine, foreign) in ours.iter().zip(&theirs).filter(|(m, _)| *m != mine) {
            image.remove(mine).unwrap();
            image.set_content(foreign, other.content(foreign));
        }
        image.set_content(mine, subject.content(mine));
        match read(&image) {
            // What of ours is there is not needed by theirs.
            Ok(Some(standing)) if held(&standing) == other.held => counts.whole += 1,
            Ok(_) => counts.silent += 1,
            Err(_) => counts.refused += 1,
        }
        counts.cases += 1;
    }
    report("files of another store", counts);
    assert!(counts.refused > 0);
}

/// Mixes of an earlier copy of the same store and the store as it is.
#[test]
fn row_31_files_of_an_earlier_copy_are_refused_or_give_what_was_there() {
    let mut story = tell("copied");
    story.restart(None);
    // A copy of a store that stands still, and what became of it.
    let earlier = story.disk.power_cut(|_, length| length, usize::MAX);
    let before = held(&read(&earlier).unwrap().unwrap());
    grow(&mut story, 20);
    story.compact();
    story.call(Command::Clear);
    grow(&mut story, 20);
    let subject = Subject::of(story.close());
    assert_ne!(before.1, subject.held.1);

    let of_store = |path: &String| !path.ends_with(".tmp") && path != "lock";
    let paths = |disk: &SimDisk| -> BTreeSet<String> {
        disk.paths().into_iter().filter(of_store).collect()
    };
    let (old, new) = (paths(&earlier), paths(&subject.disk));
    let all: Vec<&String> = old.union(&new).collect();
    let judge = |choose: &dyn Fn(&str) -> Choice| {
        let image = SimDisk::new();
        let mut of_new = false;
        for path in &all {
            let content = match choose(path) {
                Choice::Old => earlier.content(path),
                Choice::New => subject.disk.content(path),
                Choice::OldElseNew => {
                    let content = earlier.content(path);
                    content.or_else(|| subject.disk.content(path))
                }
                Choice::NewElseOld => {
                    let content = subject.disk.content(path);
                    content.or_else(|| earlier.content(path))
                }
                Choice::Neither => None,
            };
            if let Some(content) = content {
                of_new |= earlier.content(path).as_ref() != Some(&content);
                image.set_content(path, content);
            }
        }
        let mut counts = subject.judge_image(&image);
        if counts.silent == 1 && !of_new {
            // Nothing but files of the copy: it is the copy, put back, or nothing at all.
            let found = read(&image).unwrap();
            assert!(found.is_none_or(|standing| held(&standing) == before));
            counts.silent = 0;
            counts.whole = 1;
        }
        counts
    };
    let dir = |path: &str| path.split_once('/').map_or("", |(dir, _)| dir).to_owned();
    let mut counts = Counts::default();
    let choices = [
        Choice::Old,
        Choice::New,
        Choice::OldElseNew,
        Choice::NewElseOld,
        Choice::Neither,
    ];
    // Directory by directory, in every combination.
    for root in choices {
        for wal in choices {
            for snapshots in choices {
                counts += judge(&|path| match dir(path).as_str() {
                    "wal" => wal,
                    "snapshots" => snapshots,
                    _ => root,
                });
            }
        }
    }
    report("directories of an earlier copy", counts);
    assert!(counts.refused > 0 && counts.whole > 0);
    // File by file, by chance.
    let mut counts = Counts::default();
    for round in 0..4_000 {
        let mut draw = Draw(seed().wrapping_mul(1_000_003) + round);
        // Few files from elsewhere, mostly.
        let rare = 1 + draw.below(8);
        let picks: Vec<Choice> = all
            .iter()
            .map(|_| match draw.below(rare * 3) {
                0 => Choice::Old,
                1 => Choice::OldElseNew,
                2 => Choice::Neither,
                _ => Choice::NewElseOld,
            })
            .collect();
        counts += judge(&|path| {
            let at = all.iter().position(|other| *other == path).unwrap();
            picks[at]
        });
    }
    report("files of an earlier copy", counts);
    assert!(counts.refused > 0 && counts.whole > 0);
}

/// Where a file of a mixed data dir comes from.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Old,
    New,
    OldElseNew,
    NewElseOld,
    Neither,
}
