//! `ekokv salvage` of the real binary: for each kind of damage, what is saved is exactly what survives, in
//! a store that starts, and all else is listed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::process::Process;
use common::server::DataDir;
use common::tool::{Ran, Session, ekokv, files, names, put_back, two_generations};

type Files = BTreeMap<String, Vec<u8>>;
/// Each key with its line in a dump.
type Dump = BTreeMap<String, String>;

fn path(dir: &DataDir) -> &str {
    dir.path().to_str().unwrap()
}

fn dump(dir: &DataDir) -> Dump {
    let ran = ekokv(&["dump", path(dir)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let key = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["key"].as_str().unwrap().to_owned()
    };
    ran.out
        .lines()
        .map(|line| (key(line), line.to_owned()))
        .collect()
}

struct Subject {
    dir: DataDir,
    whole: Files,
    dump: Dump,
    wal: String,
}

/// What a salvage came to.
struct Salvaged {
    ran: Ran,
    dump: Dump,
    new: DataDir,
}

impl Subject {
    fn new() -> Self {
        let dir = DataDir::new();
        two_generations(dir.path());
        Self {
            whole: files(dir.path()),
            dump: dump(&dir),
            wal: ekokv(&["wal", path(&dir)]).out,
            dir,
        }
    }

    /// Damages the store, which a start then refuses if `refused`, and salvages it. What is saved starts,
    /// serves what a dump of it says, and takes a write with a version of its own.
    fn salvage(&self, refused: bool, damage: impl FnOnce(&mut Files)) -> Salvaged {
        let mut damaged = self.whole.clone();
        damage(&mut damaged);
        put_back(self.dir.path(), &damaged);
        let check = ekokv(&["check", path(&self.dir)]);
        assert_eq!(check.code, if refused { 65 } else { 0 }, "{check:?}");

        let new = DataDir::new();
        let ran = ekokv(&["salvage", path(&self.dir), path(&new)]);
        assert!(
            files(self.dir.path()) == damaged,
            "the damaged data dir was changed"
        );
        assert!(ran.code == 0 || ran.code == 65, "{ran:?}");
        assert_eq!(ran.code == 65, ran.out.contains("\nlost: "), "{ran:?}");
        let check = ekokv(&["check", path(&new)]);
        assert_eq!(check.code, 0, "{check:?}");
        let saved = dump(&new);

        let mut process = Process::start(new.path(), &[]);
        let mut session = Session::new(&process);
        for key in saved.keys() {
            session.call("GET", &format!("/api/kv/get/{key}"), "");
        }
        session.set("z:new", "1");
        session.compact();
        drop(session);
        process.signal("TERM");
        assert_eq!(process.wait().code(), Some(0));
        let mut after = dump(&new);
        let line: serde_json::Value =
            serde_json::from_str(&after.remove("z:new").unwrap()).unwrap();
        let versions = saved.values().chain(self.dump.values()).map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["version"].as_u64().unwrap()
        });
        assert!(
            versions.max() < line["version"].as_u64(),
            "a version is given twice"
        );
        assert_eq!(after, saved, "what was served is not what was saved");
        Salvaged {
            ran,
            dump: saved,
            new,
        }
    }

    fn snapshots(&self) -> [String; 2] {
        names(&self.whole, ".snap").try_into().unwrap()
    }

    fn newest_segment(&self) -> String {
        names(&self.whole, ".wal").pop().unwrap()
    }

    /// Segment, offset and sequence of the last batch that sets a key.
    fn batch_of(&self, key: &str) -> (String, usize, u64) {
        let put = self.wal.rfind(&format!(" put {key:?}")).unwrap();
        let sequence = self.wal[..put].rsplit(' ').next().unwrap().parse().unwrap();
        let head = self.wal[..put].rfind("wal/").unwrap();
        let mut words = self.wal[head..].split(' ');
        let segment = words.next().unwrap().to_owned();
        (segment, words.next().unwrap().parse().unwrap(), sequence)
    }
}

/// Zeroes the batch of a key, which lies in one block, and `more` behind it.
fn zero_batches(files: &mut Files, segment: &str, offset: usize, more: usize) {
    files.get_mut(segment).unwrap()[offset..offset + (1 + more) * 4096].fill(0);
}

/// Offsets and lengths of a snapshot's blocks.
fn blocks(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut blocks = Vec::new();
    let mut at = 128;
    while at < bytes.len() - 128 {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        blocks.push((at, length));
        at += 12 + length;
    }
    blocks
}

/// The keys between which all are lost, of each such line of the report.
fn lost_between(report: &str) -> Vec<(String, String)> {
    let lines = report.lines().filter(|line| line.starts_with("lost: "));
    lines
        .filter_map(|line| line.split_once("keys between "))
        .map(|(_, keys)| {
            let quoted: Vec<&str> = keys.split('"').collect();
            (quoted[1].to_owned(), quoted[3].to_owned())
        })
        .collect()
}

#[test]
fn a_whole_store_is_copied_without_a_loss() {
    let subject = Subject::new();
    let saved = subject.salvage(false, |_| {});
    assert_eq!(saved.ran.code, 0, "{:?}", saved.ran);
    assert_eq!(saved.dump, subject.dump);
    assert!(
        saved.ran.out.contains("nothing was lost"),
        "{}",
        saved.ran.out
    );
    assert!(
        saved.ran.out.contains("API keys: as they were"),
        "{}",
        saved.ran.out
    );
}

#[test]
fn batches_behind_a_gap_are_saved_and_those_in_it_listed() {
    let subject = Subject::new();
    let (segment, offset, sequence) = subject.batch_of("c:005");
    let saved = subject.salvage(true, |files| zero_batches(files, &segment, offset, 2));
    assert_eq!(saved.ran.code, 65);
    let lost: BTreeSet<&str> = ["c:005", "c:006", "c:007"].into();
    let mut expected = subject.dump.clone();
    expected.retain(|key, _| !lost.contains(key.as_str()));
    assert_eq!(saved.dump, expected);
    let line = format!("{segment} offset {offset}: ");
    let sequences = format!("sequences {sequence} to {}", sequence + 2);
    for part in [line.as_str(), sequences.as_str()] {
        assert!(saved.ran.out.contains(part), "{part}: {}", saved.ran.out);
    }
}

#[test]
fn the_end_of_the_log_is_lost_with_its_file_and_nothing_else() {
    let subject = Subject::new();
    let newest = subject.newest_segment();
    let saved = subject.salvage(true, |files| drop(files.remove(&newest)));
    assert_eq!(saved.ran.code, 65);
    let mut expected = subject.dump.clone();
    expected.retain(|key, _| !key.starts_with("c:"));
    let mut found = saved.dump;
    // The delete of this key was in the lost file.
    assert!(found.remove("a:002").is_some());
    assert_eq!(found, expected);
    assert!(saved.ran.out.contains("it is missing"), "{}", saved.ran.out);

    // Cut in the middle, what lies before is there.
    let (_, offset, _) = subject.batch_of("c:010");
    let saved = subject.salvage(true, |files| {
        files.get_mut(&newest).unwrap().truncate(offset)
    });
    assert_eq!(saved.ran.code, 65);
    assert!(saved.dump.contains_key("c:009") && !saved.dump.contains_key("c:010"));
}

#[test]
fn a_torn_end_behind_other_damage_is_told_of_as_well() {
    let base = Subject::new();
    let mut process = Process::start(base.dir.path(), &["--durability", "os"]);
    let mut session = Session::new(&process);
    for index in 0..6 {
        session.set(&format!("d:{index}"), "1");
    }
    drop(session);
    process.kill();
    let subject = Subject {
        whole: files(base.dir.path()),
        dump: dump(&base.dir),
        wal: ekokv(&["wal", path(&base.dir)]).out,
        ..base
    };
    let (newest, offset, _) = subject.batch_of("d:3");
    let (sealed, _, _) = subject.batch_of("c:005");
    assert!(sealed != newest);
    // The salt of the one before is known from the newest one, so that its header costs nothing.
    let saved = subject.salvage(true, |files| {
        zero_batches(files, &newest, offset, 0);
        files.get_mut(&sealed).unwrap()[..4096].fill(0);
    });
    let out = &saved.ran.out;
    assert_eq!(saved.ran.code, 0, "{out}");
    for part in [
        format!("may have been acknowledged: {newest} offset {offset}, "),
        "nothing was lost that is known to be synced".to_owned(),
    ] {
        assert!(out.contains(&part), "{part}: {out}");
    }
    let mut expected = subject.dump.clone();
    expected.retain(|key, _| !["d:3", "d:4", "d:5"].contains(&key.as_str()));
    assert!(saved.dump == expected, "{out}");
}

/// Lines of a report that tell of losses.
fn losses(report: &str) -> Vec<&str> {
    report
        .lines()
        .filter(|line| line.starts_with("lost: "))
        .collect()
}

#[test]
fn a_whole_segment_in_the_place_of_another_is_none_of_it() {
    // Two runs that go on from one store: the segments have the same number and not the same salt.
    let base = Subject::new();
    let run_on = |key: &str| {
        put_back(base.dir.path(), &base.whole);
        let mut process = Process::start(base.dir.path(), &[]);
        Session::new(&process).set(key, "1");
        process.signal("TERM");
        assert_eq!(process.wait().code(), Some(0));
        files(base.dir.path())
    };
    let twin = run_on("d:twin");
    let other = Subject::new().whole;
    let whole = run_on("d:mine");
    let subject = Subject {
        dump: dump(&base.dir),
        whole,
        ..base
    };
    let segments = names(&subject.whole, ".wal");
    let newest = segments.last().unwrap();
    let before = segments.iter().rev().nth(1).unwrap();
    assert!(twin[newest] != subject.whole[newest]);
    // The newest one, whose end nobody names, and the one before it, which no snapshot covers.
    let strangers = [
        ("an older one", newest, &subject.whole[before]),
        ("of a twin", newest, &twin[newest]),
        ("of another store", newest, &other[before]),
        ("a newer one", before, &subject.whole[newest]),
        ("an older one", before, &subject.whole[&segments[0]]),
        ("of another store", before, &other[before]),
    ];
    let mut cases = 0;
    for (name, place, stranger) in strangers {
        let gone = subject.salvage(true, |files| drop(files.remove(place)));
        let saved = subject.salvage(true, |files| {
            files.insert(place.clone(), stranger.clone());
        });
        let report = &saved.ran.out;
        assert_eq!(saved.ran.code, 65, "{name} as {place}: {report}");
        assert_eq!(
            losses(report).len(),
            losses(&gone.ran.out).len(),
            "{report}"
        );
        assert!(
            report.contains("not the segment that the log leads to"),
            "{report}"
        );
        assert!(saved.dump == gone.dump, "{name} as {place}: {report}");
        let lost = |key: &str| subject.dump.contains_key(key) && !saved.dump.contains_key(key);
        assert_eq!(lost("d:mine"), place == newest, "{name} as {place}");
        assert_eq!(lost("c:005"), place == before, "{name} as {place}");
        assert!(!saved.dump.contains_key("d:twin"));

        // A check says one thing of it.
        let check = ekokv(&["check", path(&subject.dir)]).out;
        let mut lines = check
            .lines()
            .filter(|line| line.starts_with(place.as_str()));
        let line = lines.next().unwrap();
        assert!(line.contains(": FOREIGN: "), "{line}");
        assert_eq!(lines.next(), None, "{check}");
        // And the file of the newest one is that, whatever copy of it lies elsewhere.
        let newest = format!("{newest}: whole, newest");
        assert_eq!(check.contains(&newest), place == before, "{check}");
        cases += 1;
    }
    println!("{cases} strangers in the place of a segment, each as if that one were missing");
}

#[test]
fn a_segment_of_another_run_above_the_newest_one_costs_nothing_of_this_run() {
    let base = Subject::new();
    let run = |key: &str| {
        let mut process = Process::start(base.dir.path(), &[]);
        Session::new(&process).set(key, "1");
        process.signal("TERM");
        assert_eq!(process.wait().code(), Some(0));
    };
    run("d:other");
    run("d:later");
    let other = files(base.dir.path());
    put_back(base.dir.path(), &base.whole);
    run("d:mine");
    let subject = Subject {
        whole: files(base.dir.path()),
        dump: dump(&base.dir),
        ..base
    };
    let above = names(&other, ".wal").pop().unwrap();
    assert!(above > subject.newest_segment());
    let saved = subject.salvage(true, |files| {
        files.insert(above.clone(), other[&above].clone());
    });
    assert!(saved.dump == subject.dump, "{}", saved.ran.out);
    assert_eq!(losses(&saved.ran.out).len(), 1, "{}", saved.ran.out);
    let line = format!("lost: {above}: it holds batches of its own");
    assert!(saved.ran.out.contains(&line), "{}", saved.ran.out);

    // With a `CURRENT` of an earlier time what is above it counts.
    let saved = subject.salvage(true, |files| {
        files.insert("CURRENT".to_owned(), base.whole["CURRENT"].clone());
    });
    assert!(saved.dump == subject.dump, "{}", saved.ran.out);
    assert!(losses(&saved.ran.out).is_empty(), "{}", saved.ran.out);
}

#[test]
fn a_current_of_another_time_does_not_hide_that_the_end_is_gone() {
    let base = Subject::new();
    let mut process = Process::start(base.dir.path(), &[]);
    let mut session = Session::new(&process);
    session.compact();
    session.set("d:last", "1");
    drop(session);
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
    let subject = Subject {
        whole: files(base.dir.path()),
        dump: dump(&base.dir),
        ..base
    };
    let newest = subject.newest_segment();
    // It names a segment that the newest snapshot covers, and behind that one there is none.
    let saved = subject.salvage(true, |files| {
        files.remove(&newest);
        files.insert("CURRENT".to_owned(), base.whole["CURRENT"].clone());
    });
    assert_eq!(saved.ran.code, 65);
    assert!(
        saved
            .ran
            .out
            .contains("lost: wal: there is no segment behind"),
        "{}",
        saved.ran.out
    );
    let mut expected = subject.dump.clone();
    assert!(expected.remove("d:last").is_some());
    assert!(saved.dump == expected, "{}", saved.ran.out);
}

#[test]
fn a_lost_header_or_current_costs_no_change() {
    let subject = Subject::new();
    let newest = subject.newest_segment();
    // The salt is known from CURRENT.
    let saved = subject.salvage(true, |files| {
        files.get_mut(&newest).unwrap()[..4096].fill(0);
    });
    assert_eq!(saved.dump, subject.dump);
    assert_eq!(saved.ran.code, 0, "{:?}", saved.ran);
    // From the segment behind it, once the snapshot that covers it is gone.
    let sealed = names(&subject.whole, ".wal")
        .into_iter()
        .rev()
        .nth(1)
        .unwrap();
    let [_, snapshot] = subject.snapshots();
    let saved = subject.salvage(true, |files| {
        files.get_mut(&sealed).unwrap()[..4096].fill(0);
        drop(files.remove(&snapshot));
    });
    assert_eq!(saved.dump, subject.dump);
    assert_eq!(saved.ran.code, 0, "{:?}", saved.ran);
    // Without CURRENT all is there, and that there was no more cannot be known.
    for lost in [true, false] {
        let saved = subject.salvage(true, |files| {
            if lost {
                files.remove("CURRENT");
            } else {
                files.get_mut("CURRENT").unwrap().fill(0);
            }
        });
        assert_eq!(saved.dump, subject.dump);
        assert_eq!(saved.ran.code, 65, "{:?}", saved.ran);
        assert!(saved.ran.out.contains("lost: CURRENT"), "{}", saved.ran.out);
    }
}

#[test]
fn a_hole_in_the_log_costs_nothing_that_a_snapshot_has() {
    let subject = Subject::new();
    let [_, snapshot] = subject.snapshots();
    let (segment, offset, _) = subject.batch_of("b:010");
    assert_ne!(segment, subject.newest_segment());
    // A flip in the newest snapshot alone would be made good by the older one and the log between.
    let bytes = &subject.whole[&snapshot];
    let all = blocks(bytes);
    assert!(all.len() > 4, "{all:?}");
    let mut cases = 0;
    for (at, length) in &all[1..] {
        let saved = subject.salvage(true, |files| {
            files.get_mut(&snapshot).unwrap()[at + 12 + length / 2] ^= 4;
            zero_batches(files, &segment, offset, 1);
        });
        assert_eq!(saved.ran.code, 65);
        // The snapshot's other blocks have them, unless it was theirs.
        let hit = ["b:010", "b:011"].map(|key| saved.dump.contains_key(key));
        assert_eq!(hit[0], hit[1]);
        let mut expected = subject.dump.clone();
        if !hit[0] {
            expected.remove("b:010");
            expected.remove("b:011");
        }
        // All else is the older snapshot's, or in the log on both sides of the hole.
        assert_eq!(saved.dump, expected, "block at {at}");
        cases += 1;
    }
    println!("{cases} blocks, each lost together with a hole in the log");
}

#[test]
fn an_older_change_in_the_log_never_hides_what_a_snapshot_knows_better() {
    let subject = Subject::new();
    let [_, snapshot] = subject.snapshots();
    // The second set of the key is lost in the log; the snapshot has it, in a block that is whole.
    let (segment, offset, _) = subject.batch_of("b:twice");
    let (at, length) = blocks(&subject.whole[&snapshot])[2];
    let saved = subject.salvage(true, |files| {
        files.get_mut(&snapshot).unwrap()[at + 12 + length / 2] ^= 4;
        zero_batches(files, &segment, offset, 0);
    });
    assert_eq!(saved.ran.code, 65);
    assert_eq!(saved.dump, subject.dump);
    assert!(saved.dump["b:twice"].contains("new"));
}

#[test]
fn blocks_of_both_snapshots_that_are_lost_cost_their_keys_and_no_others() {
    let subject = Subject::new();
    let [older, newer] = subject.snapshots();
    let all = blocks(&subject.whole[&newer]);
    let older_all = blocks(&subject.whole[&older]);
    let mut cases = 0;
    // A length, a count, a CRC, entries; a block or two of the newer snapshot, all of the older one's.
    for (name, damaged, from) in [
        ("entries", 200..201, 2..3),
        ("length", 0..4, 2..3),
        ("count", 4..5, 1..2),
        ("crc", 9..10, 3..4),
        ("a sector", 0..512, 1..2),
        ("two blocks", 300..301, 1..3),
    ] {
        let saved = subject.salvage(true, |files| {
            for (at, _) in &older_all {
                files.get_mut(&older).unwrap()[at + 100] ^= 1;
            }
            for (at, _) in &all[from.clone()] {
                for byte in
                    &mut files.get_mut(&newer).unwrap()[at + damaged.start..at + damaged.end]
                {
                    *byte ^= 0x5A;
                }
            }
        });
        assert_eq!(saved.ran.code, 65, "{name}");
        let lost = lost_between(&saved.ran.out);
        assert!(!lost.is_empty(), "{name}: {}", saved.ran.out);
        let is_lost = |key: &str| {
            lost.iter()
                .any(|(after, before)| after.as_str() < key && key < before.as_str())
        };
        let mut expected = subject.dump.clone();
        let in_log = |key: &str| subject.wal.contains(&format!(" put {key:?}"));
        expected.retain(|key, _| !is_lost(key) || in_log(key));
        assert!(
            expected.len() < subject.dump.len(),
            "{name}: nothing was lost"
        );
        assert!(
            expected.len() > 60,
            "{name}: {} keys are left",
            expected.len()
        );
        assert_eq!(saved.dump, expected, "{name}");
        cases += 1;
    }
    println!("{cases} kinds of damage to a block, each costs the keys of that block alone");
}

#[test]
fn a_snapshot_without_its_header_or_footer_is_read_all_the_same() {
    let subject = Subject::new();
    let [older, newer] = subject.snapshots();
    let length = subject.whole[&newer].len();
    // The end of the file is told by the footer alone, so that one is missed.
    for (name, at, code) in [
        ("header", 20, 0),
        ("its CRC", 125, 0),
        ("footer", length - 60, 65),
    ] {
        let saved = subject.salvage(true, |files| {
            files.remove(&older);
            files.get_mut(&newer).unwrap()[at] ^= 1;
        });
        assert_eq!(saved.ran.code, code, "{name}: {}", saved.ran.out);
        assert!(saved.dump == subject.dump, "{name}: {}", saved.ran.out);
    }
    // A sector takes the beginning of the first block along, with its length and the API keys.
    let saved = subject.salvage(true, |files| {
        files.remove(&older);
        files.get_mut(&newer).unwrap()[..512].fill(0);
    });
    assert_eq!(saved.ran.code, 65);
    assert!(
        saved.ran.out.contains("a new one is in the file admin-key"),
        "{}",
        saved.ran.out
    );
    let line = saved
        .ran
        .out
        .lines()
        .find(|line| line.contains("keys before "))
        .unwrap();
    let first = line.split('"').nth(1).unwrap();
    let mut expected = subject.dump.clone();
    expected
        .retain(|key, _| key.as_str() >= first || subject.wal.contains(&format!(" put {key:?}")));
    assert!(expected.len() < subject.dump.len() && expected.len() > 100);
    assert!(saved.dump == expected, "{}", saved.ran.out);
}

#[test]
fn without_snapshots_the_log_gives_what_it_has_and_a_new_admin_key_is_made() {
    let subject = Subject::new();
    let snapshots = subject.snapshots();
    let saved = subject.salvage(true, |files| {
        for snapshot in &snapshots {
            files.remove(snapshot);
        }
    });
    assert_eq!(saved.ran.code, 65);
    let mut expected = subject.dump.clone();
    expected.retain(|key, _| subject.wal.contains(&format!(" put {key:?}")));
    // A link to a key whose value is lost is lost with it.
    assert_eq!(saved.dump, expected);
    assert!(
        saved.ran.out.contains("a new one is in the file admin-key"),
        "{}",
        saved.ran.out
    );
    // The start behind it was given a key, which replaced that one.
    assert!(!saved.new.path().join("admin-key").exists());

    let new = DataDir::new();
    assert_eq!(ekokv(&["salvage", path(&subject.dir), path(&new)]).code, 65);
    for name in ["admin-key", "jwt-secret"] {
        let mode = fs::metadata(new.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Damages one of the files that hold data somewhere in what is used of it, and says how.
fn damage_somewhere(files: &mut Files, draw: &mut Draw) -> String {
    let held =
        |name: &&String| name.ends_with(".wal") || name.ends_with(".snap") || *name == "CURRENT";
    let all: Vec<String> = files.keys().filter(held).cloned().collect();
    let name = &all[draw.below(all.len())];
    let bytes = files.get_mut(name).unwrap();
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    let at = draw.below(used);
    let kind = draw.below(8);
    match kind {
        0..3 => bytes[at..used.min(at + 2 * 4096)].fill(0),
        3 => bytes[at..used.min(at + 64)].fill(0xFF),
        4 => bytes[at] ^= 1 << draw.below(8),
        5 => bytes.truncate(at),
        6 => {
            // A piece of the file in another place.
            let from = draw.below(used) / 512 * 512;
            let piece = bytes[from..used.min(from + 4096)].to_vec();
            let to = at / 512 * 512;
            let end = used.min(to + piece.len());
            bytes[to..end].copy_from_slice(&piece[..end - to]);
        }
        _ => drop(files.remove(name)),
    }
    format!("{name} at {at} of {used}: kind {kind}")
}

#[test]
fn whatever_the_damage_nothing_is_saved_that_was_never_written() {
    const CASES: u64 = 40;
    let subject = Subject::new();
    // Each key with every value that it ever had.
    let written = |key: &str, value: &str| match key.split_once(':').unwrap() {
        ("a", index) => {
            let index: usize = index.parse().unwrap();
            value == "\"changed\"" || value == common::tool::long_value(&format!("a{index}"))
        }
        ("b", "twice") => value == "\"old\"" || value == "\"new\"",
        ("b", index) => value == index.parse::<usize>().unwrap().to_string(),
        (_, index) => value == format!("[{}]", index.parse::<usize>().unwrap()),
    };
    let newest = subject.newest_segment();
    let used = subject.whole[&newest]
        .iter()
        .rposition(|byte| *byte != 0)
        .unwrap();
    let seal = used / 4096 * 4096;
    let (mut whole, mut less, mut end_gone, mut keys) = (0, 0, 0, 0);
    for seed in 0..CASES {
        let mut draw = Draw(seed);
        let mut damaged = subject.whole.clone();
        let how: Vec<String> = (0..1 + draw.below(4))
            .map(|_| damage_somewhere(&mut damaged, &mut draw))
            .collect();
        put_back(subject.dir.path(), &damaged);
        let new = DataDir::new();
        let ran = ekokv(&["salvage", path(&subject.dir), path(&new)]);
        assert!(
            files(subject.dir.path()) == damaged,
            "seed {seed}: it was changed"
        );
        assert!(ran.code == 0 || ran.code == 65, "seed {seed}: {ran:?}");
        let saved = dump(&new);
        for (key, line) in &saved {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(
                written(key, &line["value"].to_string()),
                "seed {seed}: {line}"
            );
        }
        keys += saved.len();
        if ran.code != 0 {
            less += 1;
        } else if saved == subject.dump {
            whole += 1;
        } else {
            // The last batch and the seal behind it, both gone without a trace, were never written for all
            // that anybody can tell. Of no other loss nothing is said.
            let behind = damaged.get(&newest).and_then(|bytes| bytes.get(seal..));
            let is_zero = behind.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
            assert!(
                is_zero,
                "seed {seed}: a loss is not listed: {how:?}: {}",
                ran.out
            );
            end_gone += 1;
        }
    }
    println!(
        "{CASES} cases of one to four damages: {whole} saved whole, {less} with losses listed, \
         {end_gone} whose end is gone with the seal behind it; of {} keys {keys} were saved, each with a value that it had",
        CASES as usize * subject.dump.len()
    );
    assert!(whole > 5 && less > 5);
}

#[test]
fn salvage_refuses_places_that_it_must_not_use() {
    let subject = Subject::new();
    let new = DataDir::new();
    fs::create_dir_all(new.path()).unwrap();
    fs::write(new.path().join("mine"), "1").unwrap();
    let ran = ekokv(&["salvage", path(&subject.dir), path(&new)]);
    assert_eq!(ran.code, 78, "{ran:?}");
    assert_eq!(files(new.path()).len(), 1);
    let within = subject.dir.path().join("new");
    let ran = ekokv(&["salvage", path(&subject.dir), within.to_str().unwrap()]);
    assert_eq!(ran.code, 78, "{ran:?}");
    assert!(files(subject.dir.path()) == subject.whole);

    let missing = DataDir::new();
    let ran = ekokv(&["salvage", path(&missing), path(&DataDir::new())]);
    assert_eq!(ran.code, 78, "{ran:?}");
    let process = Process::start(subject.dir.path(), &[]);
    let ran = ekokv(&["salvage", path(&subject.dir), path(&missing)]);
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(
        ran.log.contains(&format!("process {}", process.id())),
        "{ran:?}"
    );
    assert!(!missing.path().exists());
}

#[test]
fn a_salvage_that_was_not_finished_is_refused_by_a_start() {
    let subject = Subject::new();
    let new = DataDir::new();
    assert_eq!(ekokv(&["salvage", path(&subject.dir), path(&new)]).code, 0);
    let done = files(new.path());
    // `CURRENT` comes last: without it, whatever else is there or not, nothing starts.
    let mut cases = 0;
    for without in [
        &[][..],
        &[".wal"],
        &[".wal", ".snap"],
        &[".wal", ".snap", "/"],
    ] {
        let mut part = done.clone();
        part.remove("CURRENT");
        part.retain(|name, _| !without.iter().any(|suffix| name.ends_with(suffix)));
        put_back(new.path(), &part);
        match Process::try_start(new.path(), &[]) {
            Ok(process) => panic!("it started: {:?}", process.log),
            Err((status, log)) => assert_eq!(status.code(), Some(65), "{log:?}"),
        }
        cases += 1;
    }
    println!("{cases} unfinished data dirs, all refused");
}
