//! Starts where something is in the way: no room on the disk, a `CURRENT` that does not belong there; and a
//! `CURRENT` that cannot be written anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;

use common::{append, create, options, payloads, read_all};
use ekokv_wal::{Disk, Draft, Error, Log, Mode, Options, SimDisk, segment_path};

const SEGMENT_BYTES: u64 = 128 * 1024;
const CURRENT: &str = "CURRENT";

fn short_first() -> Options {
    Options {
        first_segment_bytes: SEGMENT_BYTES / 2,
        ..options(SEGMENT_BYTES, Mode::Always)
    }
}

/// A log whose last batch was not synced, nor is known not to have been: a start repeats it.
fn killed() -> SimDisk {
    let disk = SimDisk::new();
    let mut log = create(
        &disk,
        &options(SEGMENT_BYTES, Mode::Always),
        &payloads(1, 2, 40),
    );
    for tag in 0..4 {
        append(&mut log, &payloads(10 + tag, 1, 60));
        log.sync().unwrap();
    }
    append(&mut log, &payloads(50, 1, 5_000));
    disk.kill()
}

fn start(disk: &SimDisk) -> Result<Log, Error> {
    let (recovered, _) = read_all(disk).unwrap();
    Log::start(
        Arc::new(disk.clone()),
        *recovered.unwrap(),
        short_first(),
        9_000,
    )
}

/// Leaves so many bytes free.
fn fill_up(disk: &SimDisk, free: u64) {
    disk.set_capacity(Some(1 << 30));
    let taken = (1 << 30) - disk.free_bytes().unwrap();
    disk.set_capacity(Some(taken + free));
}

#[test]
fn a_start_on_a_full_disk_makes_room_of_the_zeros_behind_the_last_batch() {
    let disk = killed();
    let before = read_all(&disk).unwrap().1;
    assert_eq!(before.records.len(), 7);
    let old = disk.content(&segment_path(1)).unwrap();
    fill_up(&disk, 16 << 10);
    let mut log = start(&disk).unwrap();
    assert!(disk.content(&segment_path(1)).unwrap() == old);
    assert_eq!(read_all(&disk).unwrap().1, before);
    append(&mut log, &payloads(60, 1, 60));
    log.sync().unwrap();
    assert_eq!(read_all(&disk).unwrap().1.records.len(), 8);
}

#[test]
fn a_start_that_finds_no_room_says_so_and_leaves_none_of_it_taken() {
    let disk = killed();
    // Full up to the last block: there are no zeros to give back.
    let mut segment = disk.content(&segment_path(1)).unwrap();
    *segment.last_mut().unwrap() = 1;
    disk.set_content(&segment_path(1), segment);
    fill_up(&disk, 16 << 10);
    let free = disk.free_bytes().unwrap();
    assert!(start(&disk).is_err_and(|error| error.is_for_room()));
    assert_eq!(disk.free_bytes().unwrap(), free);
    assert_eq!(disk.content("wal/next.tmp"), None);
    // Nothing has happened: with room it starts.
    disk.set_capacity(None);
    start(&disk).unwrap();
}

#[test]
fn current_that_cannot_be_written_anew_for_want_of_room_leaves_the_log_open() {
    let disk = SimDisk::new();
    let mut log = create(
        &disk,
        &options(SEGMENT_BYTES, Mode::Always),
        &payloads(1, 2, 40),
    );
    disk.set_content(CURRENT, vec![0; 8192]);
    fill_up(&disk, 0);
    assert!(log.renew_current().is_err_and(|error| error.is_for_room()));
    assert!(!log.is_latched());
    append(&mut log, &payloads(2, 1, 60));
    log.sync().unwrap();
    disk.set_capacity(None);
    log.renew_current().unwrap();
    assert_eq!(read_all(&disk).unwrap().1.records.len(), 3);

    // All else ends the log: what a failed sync has done is unknown, and so is a name.
    disk.inject(|call, _, _| (call == "sync").then_some(ErrorKind::Other));
    assert!(log.renew_current().is_err());
    assert!(log.is_latched());
}

/// `CURRENT` as a first start leaves it that does not end.
fn creating() -> Vec<u8> {
    let disk = SimDisk::new();
    disk.inject(|call, path, _| {
        (call == "create" && path == "wal/next.tmp").then_some(ErrorKind::StorageFull)
    });
    let options = options(SEGMENT_BYTES, Mode::Always);
    let first = Draft {
        count: 0,
        time: 1,
        records: &[],
    };
    assert!(Log::create(Arc::new(disk.clone()), options, |_| Ok(()), first).is_err());
    disk.content(CURRENT).unwrap()
}

#[test]
fn row_31_a_store_beside_the_current_of_a_first_start_is_refused_and_kept() {
    let refusal = |disk: &SimDisk| match read_all(disk) {
        Err(Error::Damaged(damage)) => damage.to_string(),
        other => panic!("not refused: {:?}", other.map(|(found, _)| found)),
    };
    // Its own first segment, with the one batch it begins with, is no other store.
    let begun = SimDisk::new();
    drop(create(
        &begun,
        &options(SEGMENT_BYTES, Mode::Always),
        &payloads(1, 2, 40),
    ));
    begun.set_content(CURRENT, creating());
    assert!(read_all(&begun).unwrap().0.is_none());

    let used = killed();
    used.set_content(CURRENT, creating());
    assert!(refusal(&used).contains(&segment_path(1)));

    let rotated = killed();
    drop(start(&rotated).unwrap());
    rotated.remove(&segment_path(1)).unwrap();
    rotated.set_content(CURRENT, creating());
    assert!(refusal(&rotated).contains(&segment_path(2)));

    begun.create_dir("snapshots").unwrap();
    begun.set_content("snapshots/00000000000000000009.snap", vec![1]);
    assert!(refusal(&begun).contains("snapshots/00000000000000000009.snap"));
}
