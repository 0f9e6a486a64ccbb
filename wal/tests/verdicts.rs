//! The verdict table, one test per row, in its order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use common::{append, create, options, payloads, read_all};
use ekokv_wal::{
    BLOCK_BYTES, CELL_BYTES, Damage, Disk, Error, Log, Mode, SegmentHeader, SimDisk, SimFault,
    rewrite_checksums, scan_segment, segment_path,
};

const SEGMENT_BYTES: u64 = 64 * 1024;

/// A log of one segment with a first batch of two records and then `batches` of one record each,
/// synced, and not stopped.
fn log_of(mode: Mode, batches: u64) -> (SimDisk, Log) {
    let disk = SimDisk::new();
    let mut log = create(&disk, &options(SEGMENT_BYTES, mode), &payloads(1, 2, 40));
    for tag in 0..batches {
        append(&mut log, &payloads(10 + tag, 1, 60));
        log.sync().unwrap();
    }
    (disk, log)
}

/// Offsets of the batches in the newest segment, and where they end.
fn offsets(disk: &SimDisk, number: u64) -> (Vec<usize>, usize) {
    let mut offsets = Vec::new();
    let bytes = disk.content(&segment_path(number)).unwrap();
    let (_, end, _) = scan_segment(&bytes, |offset, _| offsets.push(offset as usize)).unwrap();
    (offsets, end as usize)
}

fn change(disk: &SimDisk, number: u64, damage: impl FnOnce(&mut Vec<u8>)) {
    let path = segment_path(number);
    let mut bytes = disk.content(&path).unwrap();
    damage(&mut bytes);
    disk.set_content(&path, bytes);
}

fn refused(disk: &SimDisk) -> Damage {
    match read_all(disk) {
        Err(Error::Damaged(damage)) => damage,
        other => panic!("not refused: {:?}", other.map(|(found, _)| found)),
    }
}

fn restart(disk: &SimDisk, mode: Mode) -> Log {
    let (recovered, _) = read_all(disk).unwrap();
    let options = options(SEGMENT_BYTES, mode);
    Log::start(Arc::new(disk.clone()), *recovered.unwrap(), options, 9_000).unwrap()
}

#[test]
fn row_1_behind_the_end_that_the_successor_names_nothing_is_read() {
    let (disk, mut log) = log_of(Mode::Always, 3);
    // Written and never synced: doubtful, so the next segment repeats it and names an end before it.
    append(&mut log, &payloads(50, 1, 60));
    drop(log);
    drop(restart(&disk, Mode::Always));
    let before = read_all(&disk).unwrap().1;
    assert_eq!(before.records.len(), 6);
    let (offsets, _) = offsets(&disk, 1);
    change(&disk, 1, |bytes| bytes[offsets[4]..].fill(0xA5));
    let (recovered, after) = read_all(&disk).unwrap();
    assert_eq!(after, before);
    assert!(recovered.unwrap().repairs.is_empty());
}

#[test]
fn row_3_one_bad_cell_of_a_group_is_repaired_in_memory_and_the_file_stays() {
    let (disk, log) = log_of(Mode::Always, 3);
    drop(log);
    let whole = read_all(&disk).unwrap().1;
    let (offsets, _) = offsets(&disk, 1);
    change(&disk, 1, |bytes| bytes[offsets[2] + 100] ^= 0x10);
    let damaged = disk.content(&segment_path(1)).unwrap();
    let (recovered, content) = read_all(&disk).unwrap();
    let recovered = recovered.unwrap();
    assert_eq!(content, whole);
    assert_eq!(recovered.repairs.len(), 1);
    let repair = &recovered.repairs[0];
    assert_eq!(
        (repair.offset, repair.batch, repair.cells),
        (offsets[2] as u64, 3, 1)
    );
    assert_eq!(
        disk.content(&segment_path(1)).unwrap(),
        damaged,
        "reading changes nothing"
    );
}

#[test]
fn row_3_holds_for_every_cell_of_a_batch_of_several_groups() {
    let disk = SimDisk::new();
    let mut log = create(
        &disk,
        &options(512 * 1024, Mode::Always),
        &payloads(1, 1, 40),
    );
    // 140 000 bytes: three groups of up to 127 data cells and a parity cell each.
    append(&mut log, &payloads(2, 7, 20_000));
    log.sync().unwrap();
    append(&mut log, &payloads(3, 1, 10));
    log.sync().unwrap();
    drop(log);
    let whole = read_all(&disk).unwrap().1;
    let (offsets, _) = offsets(&disk, 1);
    let cells = (offsets[2] - offsets[1]) / CELL_BYTES;
    assert!(cells > 2 * 128);
    for cell in 0..cells {
        let at = offsets[1] + cell * CELL_BYTES;
        let image = disk.kill();
        change(&image, 1, |bytes| bytes[at..at + CELL_BYTES].fill(0));
        assert_eq!(read_all(&image).unwrap().1, whole, "cell {cell}");
    }
    // One in each group at once, too.
    let image = disk.kill();
    for group in 0..3 {
        let at = offsets[1] + (group * 128 + group) * CELL_BYTES;
        change(&image, 1, |bytes| bytes[at..at + CELL_BYTES].fill(0));
    }
    let (recovered, content) = read_all(&image).unwrap();
    assert_eq!(content, whole);
    assert_eq!(recovered.unwrap().repairs[0].cells, 3);
}

#[test]
fn row_4_when_all_later_cells_are_unwritten_the_log_ends_there() {
    let (disk, log) = log_of(Mode::Always, 2);
    drop(log);
    let (_, end) = offsets(&disk, 1);
    // Flips in what was never written, and a write that did not reach the end of its sector.
    change(&disk, 1, |bytes| {
        bytes[end + 5] ^= 1;
        bytes[end + CELL_BYTES - 1] ^= 1;
        bytes[end + 3 * BLOCK_BYTES..][..300].fill(0x77);
    });
    let (recovered, content) = read_all(&disk).unwrap();
    assert_eq!(content.records.len(), 4);
    assert_eq!(recovered.unwrap().torn, None);
}

#[test]
fn row_5_a_batch_in_part_that_nothing_proves_is_torn_and_dropped() {
    let (disk, mut log) = log_of(Mode::Always, 2);
    append(&mut log, &payloads(60, 1, 3_000));
    drop(log);
    let (offsets, _) = offsets(&disk, 1);
    // Two of its cells did not get there, more than parity could make up for.
    change(&disk, 1, |bytes| {
        bytes[offsets[3]..offsets[3] + CELL_BYTES].fill(0);
        bytes[offsets[3] + 2 * CELL_BYTES..][..CELL_BYTES].fill(0);
    });
    let (recovered, content) = read_all(&disk).unwrap();
    let torn = recovered.unwrap().torn.unwrap();
    assert_eq!((torn.batch, torn.offset), (4, offsets[3] as u64));
    assert_eq!(content.records.len(), 4);
}

#[test]
fn row_5_later_batches_go_with_a_missing_one_if_none_was_written_after_a_sync() {
    let (disk, mut log) = log_of(Mode::Os, 1);
    for tag in 70..73 {
        append(&mut log, &payloads(tag, 1, 60));
    }
    drop(log);
    let (offsets, end) = offsets(&disk, 1);
    assert_eq!(offsets.len(), 5);
    change(&disk, 1, |bytes| bytes[offsets[3]..offsets[4]].fill(0));
    let (recovered, content) = read_all(&disk).unwrap();
    assert_eq!(content.records.len(), 4, "up to batch 3");
    assert_eq!(recovered.unwrap().torn.unwrap().batch, 4);
    // The batch that was written first after a sync proves the one before it.
    change(&disk, 1, |bytes| {
        bytes[offsets[1]..offsets[2]].fill(0);
        assert_eq!(end % BLOCK_BYTES, 0);
    });
    assert_eq!(refused(&disk).batch, Some(2));
}

#[test]
fn row_6_two_damaged_cells_of_the_last_acknowledged_batch_refuse() {
    let (disk, log) = log_of(Mode::Always, 2);
    drop(log);
    let (offsets, _) = offsets(&disk, 1);
    change(&disk, 1, |bytes| {
        bytes[offsets[2] + 3] ^= 1;
        bytes[offsets[2] + CELL_BYTES + 3] ^= 1;
    });
    let damage = refused(&disk);
    assert_eq!(
        (damage.file, damage.offset),
        (segment_path(1), offsets[2] as u64)
    );
    assert_eq!((damage.batch, damage.last_sequence), (Some(3), Some(3)));
}

#[test]
fn row_6_a_later_batch_that_proves_the_missing_one_refuses() {
    let (disk, log) = log_of(Mode::Always, 3);
    drop(log);
    let (offsets, _) = offsets(&disk, 1);
    change(&disk, 1, |bytes| bytes[offsets[2]..offsets[3]].fill(0));
    let damage = refused(&disk);
    assert_eq!((damage.offset, damage.batch), (offsets[2] as u64, Some(3)));
    assert!(damage.reason.contains("proves"), "{}", damage.reason);
}

#[test]
fn row_6_content_that_its_chain_value_does_not_cover_refuses() {
    let (disk, log) = log_of(Mode::Always, 3);
    drop(log);
    let (offsets, _) = offsets(&disk, 1);
    // A bit of a record flips in memory before the cell is made: CRCs and parity agree with it.
    change(&disk, 1, |bytes| {
        let (header, _, _) = scan_segment(bytes, |_, _| {}).unwrap();
        for cell in [0, 1] {
            bytes[offsets[2] + cell * CELL_BYTES + 100] ^= 1;
        }
        rewrite_checksums(bytes, 2, b"ekokv segment header", &header.salt);
    });
    assert!(refused(&disk).reason.contains("chain value"));
}

#[test]
fn row_6_a_segment_above_current_with_batches_of_its_own_refuses() {
    let (disk, log) = log_of(Mode::Always, 1);
    drop(log);
    let old_current = disk.content("CURRENT").unwrap();
    let mut log = restart(&disk, Mode::Always);
    append(&mut log, &payloads(80, 1, 10));
    log.sync().unwrap();
    drop(log);
    disk.set_content("CURRENT", old_current);
    assert_eq!(refused(&disk).file, segment_path(2));
}

#[test]
fn a_segment_above_current_that_only_repeats_is_nobodys_successor() {
    let (disk, mut log) = log_of(Mode::Always, 1);
    append(&mut log, &payloads(81, 1, 10));
    drop(log);
    let whole = read_all(&disk).unwrap().1;
    let (old_current, old_segment) = (
        disk.content("CURRENT").unwrap(),
        disk.content(&segment_path(1)).unwrap(),
    );
    drop(restart(&disk, Mode::Always));
    disk.set_content("CURRENT", old_current);
    disk.set_content(&segment_path(1), old_segment);
    assert_eq!(read_all(&disk).unwrap().1, whole);
    // The next start takes a number above it and removes it.
    let log = restart(&disk, Mode::Always);
    assert_eq!(log.segment().number, 3);
    assert!(
        !disk.paths().contains(&segment_path(2)),
        "{:?}",
        disk.paths()
    );
}

#[test]
fn row_6_a_header_that_cannot_be_rebuilt_refuses() {
    let (disk, log) = log_of(Mode::Always, 1);
    drop(log);
    change(&disk, 1, |bytes| bytes[..BLOCK_BYTES].fill(0));
    let damage = refused(&disk);
    assert_eq!((damage.file, damage.offset), (segment_path(1), 0));
}

#[test]
fn row_7_a_read_error_is_never_an_end_of_file() {
    let (disk, log) = log_of(Mode::Always, 3);
    drop(log);
    let whole = read_all(&disk).unwrap().1;
    let (offsets, _) = offsets(&disk, 1);
    let bad_cells = |count: usize| {
        let image = disk.kill();
        let bad = offsets[2] as u64..(offsets[2] + count * CELL_BYTES) as u64;
        image.inject(move |call, path, offset| {
            // A whole megabyte fails if one of its sectors does.
            let hit = bad.contains(&offset) || (offset == 0 && path == segment_path(1));
            (call == "read" && path.ends_with(".wal") && hit).then_some(std::io::ErrorKind::Other)
        });
        image
    };
    // The header's first copy lies at offset 0 and is unreadable as well: the second one serves.
    let (recovered, content) = read_all(&bad_cells(1)).unwrap();
    assert_eq!(content, whole, "one unreadable cell is rebuilt");
    assert!(!recovered.unwrap().repairs.is_empty());
    match read_all(&bad_cells(2)) {
        Err(Error::Unreadable { file, offset, .. }) => {
            assert_eq!((file, offset), (segment_path(1), offsets[2] as u64));
        }
        other => panic!("{:?}", other.map(|(found, _)| found)),
    }
}

#[test]
fn a_directory_without_current_is_refused_if_it_holds_anything_of_a_store() {
    let (disk, log) = log_of(Mode::Always, 1);
    drop(log);
    disk.remove("CURRENT").unwrap();
    assert_eq!(refused(&disk).file, "CURRENT");
    disk.remove(&segment_path(1)).unwrap();
    assert!(
        refused(&disk).reason.contains("jwt-secret"),
        "a secret alone is part of a store"
    );
    disk.remove("jwt-secret").unwrap();
    disk.set_content("wal/next.tmp", vec![1; 100]);
    disk.set_content("lock", b"process 1".to_vec());
    disk.set_content("notes.txt", b"not ours".to_vec());
    assert!(
        read_all(&disk).unwrap().0.is_none(),
        "lock, .tmp and foreign files are no store"
    );
}

#[test]
fn current_with_both_copies_bad_is_refused_and_with_one_it_is_reported() {
    let (disk, log) = log_of(Mode::Always, 1);
    drop(log);
    let current = disk.content("CURRENT").unwrap();
    let mut one = current.clone();
    one[20] ^= 1;
    disk.set_content("CURRENT", one.clone());
    assert_eq!(
        read_all(&disk).unwrap().0.unwrap().repairs[0].file,
        "CURRENT"
    );
    one[BLOCK_BYTES + 20] ^= 1;
    disk.set_content("CURRENT", one);
    assert_eq!(refused(&disk).file, "CURRENT");
}

#[test]
fn a_newer_format_is_refused_with_the_version_that_is_needed() {
    let (disk, log) = log_of(Mode::Always, 1);
    drop(log);
    change(&disk, 1, |bytes| {
        for copy in [0, CELL_BYTES] {
            bytes[copy + 8] = 2;
        }
        rewrite_checksums(bytes, 2, b"ekokv segment header", b"");
    });
    assert!(refused(&disk).reason.contains("format version 2"));
}

#[test]
fn a_failed_sync_latches_the_log() {
    let (disk, mut log) = log_of(Mode::Always, 1);
    append(&mut log, &payloads(90, 1, 10));
    disk.inject(|call, _, _| (call == "sync").then_some(std::io::ErrorKind::Other));
    assert!(matches!(
        log.sync(),
        Err(Error::Io {
            operation: "sync",
            ..
        })
    ));
    disk.inject(|_, _, _| None);
    // The disk would say yes now, and would be lying about what it lost.
    assert!(matches!(log.sync(), Err(Error::Latched)));
    let records = common::records_of(&payloads(91, 1, 10));
    let draft = ekokv_wal::Draft {
        count: 1,
        time: 0,
        records: &records,
    };
    assert!(matches!(log.append(draft), Err(Error::Latched)));
    assert!(matches!(log.stop(0), Err(Error::Latched)));
}

#[test]
fn after_an_unclean_run_that_answers_before_it_syncs_no_sequence_is_given_twice() {
    for mode in [Mode::Interval, Mode::Os] {
        let (disk, mut log) = log_of(mode, 2);
        let stopped_at = log.position().sequence;
        append(&mut log, &payloads(95, 3, 10));
        drop(log);
        // The power cut takes what was answered and not synced.
        let disk = disk.power_cut(|_, _| 0, 0);
        let log = restart(&disk, mode);
        assert_eq!(log.position().sequence, stopped_at + (1 << 32));
        log.stop(9_500).unwrap();
        let log = restart(&disk, mode);
        assert_eq!(
            log.position().sequence,
            stopped_at + (1 << 32),
            "no skip after a clean stop"
        );
    }
}

#[test]
fn the_end_that_a_new_segment_names_is_on_the_disk_in_every_mode() {
    for mode in [Mode::Always, Mode::Interval, Mode::Os] {
        let (disk, mut log) = log_of(mode, 1);
        let mut tag = 200;
        // No sync but those of the log itself.
        while log.segment().number == 1 {
            append(&mut log, &payloads(tag, 1, 3_000));
            tag += 1;
        }
        let named = log.segment().predecessor.unwrap();
        drop(log);
        let (recovered, content) = read_all(&disk.power_cut(|_, _| 0, 0)).unwrap();
        let last = content.records.last().unwrap().0;
        assert_eq!(last, named.position.sequence, "{mode:?}");
        assert_eq!(recovered.unwrap().repairs, []);
    }
}

#[test]
fn a_seal_of_a_quiet_moment_is_no_end_of_the_run() {
    for mode in [Mode::Interval, Mode::Os] {
        let (disk, mut log) = log_of(mode, 2);
        log.seal(2_500).unwrap();
        let sealed_at = log.position().sequence;
        append(&mut log, &payloads(96, 2, 10));
        drop(log);
        // What was answered behind the seal and not synced goes, and its sequences with it.
        let disk = disk.power_cut(|_, _| 0, 0);
        assert!(!read_all(&disk).unwrap().0.unwrap().stopped);
        let log = restart(&disk, mode);
        assert_eq!(log.position().sequence, sealed_at + (1 << 32));
    }
}

#[test]
fn row_39_a_short_write_goes_on_at_the_same_offset() {
    let (disk, mut log) = log_of(Mode::Always, 1);
    let mut writes = 0;
    disk.interfere(move |call, _, _| {
        writes += u32::from(call == "write");
        (call == "write" && writes <= 3).then_some(SimFault::Short)
    });
    append(&mut log, &payloads(112, 3, 900));
    log.sync().unwrap();
    let whole = read_all(&disk.power_cut(|_, _| 0, 0)).unwrap().1;
    assert_eq!(whole.records.len(), 6);
}

#[test]
fn idle_restarts_leave_one_segment_behind_the_last_that_holds_data() {
    let (disk, log) = log_of(Mode::Always, 2);
    log.stop(3_000).unwrap();
    for _ in 0..5 {
        let log = restart(&disk, Mode::Always);
        log.stop(4_000).unwrap();
    }
    let segments: Vec<String> = disk
        .paths()
        .into_iter()
        .filter(|path| path.ends_with(".wal"))
        .collect();
    assert_eq!(segments, [segment_path(1), segment_path(6)]);
    let header: SegmentHeader = scan_segment(&disk.content(&segment_path(6)).unwrap(), |_, _| {})
        .unwrap()
        .0;
    assert_eq!(header.predecessor.unwrap().number, 1);
}

#[test]
fn row_6_a_durable_mark_proves_what_no_flag_does() {
    let (disk, mut log) = log_of(Mode::Os, 1);
    // Batch 2 is synced; 3 says after-sync; 4 says only that 2 was durable when it was written.
    append(&mut log, &payloads(100, 1, 60));
    append(&mut log, &payloads(101, 1, 60));
    drop(log);
    let (offsets, _) = offsets(&disk, 1);
    assert_eq!(offsets.len(), 4);
    change(&disk, 1, |bytes| bytes[offsets[1]..offsets[3]].fill(0));
    assert_eq!(refused(&disk).batch, Some(2));
    // Without 2 and 3 proven, 4 alone is a torn tail.
    change(&disk, 1, |bytes| {
        bytes[offsets[3]..offsets[3] + BLOCK_BYTES].fill(0)
    });
    assert_eq!(read_all(&disk).unwrap().1.records.len(), 2);
}

#[test]
fn a_segment_of_another_store_or_another_time_is_refused() {
    let (disk, log) = log_of(Mode::Always, 2);
    log.stop(3_000).unwrap();
    drop(restart(&disk, Mode::Always));
    // The same numbers, lengths and content, from a store of its own.
    let foreign = SimDisk::new();
    let other = ekokv_wal::Options {
        random: Arc::new(|| Ok([0x5A; 16])),
        ..options(SEGMENT_BYTES, Mode::Always)
    };
    let mut log = create(&foreign, &other, &payloads(1, 2, 40));
    for tag in 0..2 {
        append(&mut log, &payloads(10 + tag, 1, 60));
        log.sync().unwrap();
    }
    log.stop(3_000).unwrap();
    let image = disk.kill();
    image.set_content(&segment_path(1), foreign.content(&segment_path(1)).unwrap());
    assert!(
        refused(&image).reason.contains("another store"),
        "{}",
        refused(&image)
    );
    // Its header made to name this store: it is still not the segment that the newest one names.
    let mut forged = foreign.content(&segment_path(1)).unwrap();
    let store_id = disk.content(&segment_path(1)).unwrap()[16..32].to_vec();
    for copy in [0, CELL_BYTES] {
        forged[copy + 16..copy + 32].copy_from_slice(&store_id);
    }
    rewrite_checksums(&mut forged, 2, b"ekokv segment header", &[0x5A; 16]);
    image.set_content(&segment_path(1), forged);
    assert!(
        refused(&image).reason.contains("names"),
        "{}",
        refused(&image)
    );
}

#[test]
fn a_length_is_believed_only_below_the_cap_and_if_both_agree() {
    let (disk, log) = log_of(Mode::Always, 1);
    drop(log);
    change(&disk, 1, |bytes| bytes.push(0));
    assert!(refused(&disk).reason.contains("bytes long"));
    // A length within a batch that does not fit into its segment is not allocated.
    let (disk, log) = log_of(Mode::Always, 1);
    drop(log);
    let (offsets, _) = offsets(&disk, 1);
    change(&disk, 1, |bytes| {
        let (header, _, _) = scan_segment(bytes, |_, _| {}).unwrap();
        bytes[offsets[1] + 20..offsets[1] + 24].fill(0xFF);
        rewrite_checksums(bytes, 2, b"ekokv segment header", &header.salt);
    });
    assert!(
        refused(&disk).reason.contains("does not fit"),
        "{}",
        refused(&disk)
    );
}

#[test]
fn an_interrupted_write_goes_on_and_an_interrupted_sync_latches() {
    let (disk, mut log) = log_of(Mode::Always, 1);
    let mut interrupted = false;
    disk.inject(move |call, _, _| {
        let first = call == "write" && !std::mem::replace(&mut interrupted, true);
        first.then_some(std::io::ErrorKind::Interrupted)
    });
    append(&mut log, &payloads(110, 1, 60));
    log.sync().unwrap();
    let whole = read_all(&disk.power_cut(|_, _| 0, 0)).unwrap().1;
    assert_eq!(whole.records.len(), 4);
    append(&mut log, &payloads(111, 1, 60));
    disk.inject(|call, _, _| (call == "sync").then_some(std::io::ErrorKind::Interrupted));
    assert!(log.sync().is_err());
    disk.inject(|_, _, _| None);
    assert!(matches!(log.sync(), Err(Error::Latched)));
}

#[test]
fn what_is_published_is_there_after_a_power_cut_whole() {
    let disk = SimDisk::new();
    ekokv_wal::publish(&disk, "secret", b"first").unwrap();
    ekokv_wal::publish(&disk, "secret", b"second").unwrap();
    let cut = disk.power_cut(|_, _| 0, 0);
    assert_eq!(cut.content("secret").unwrap(), b"second");
    assert_eq!(cut.paths(), ["secret"]);
}

#[test]
fn idle_crashes_do_not_pile_up_and_leave_room_for_the_largest_batch() {
    let disk = SimDisk::new();
    let largest = payloads(120, 1, 40_000);
    let needed = ekokv_wal::segment_bytes_needed(common::records_of(&largest).len() as u64);
    assert!(needed <= SEGMENT_BYTES);
    drop(create(
        &disk,
        &options(SEGMENT_BYTES, Mode::Os),
        &payloads(1, 2, 40),
    ));
    for _ in 0..40 {
        let log = restart(&disk, Mode::Os);
        assert_eq!(log.segment().length, SEGMENT_BYTES);
        drop(log);
    }
    let mut log = restart(&disk, Mode::Os);
    append(&mut log, &largest);
    log.sync().unwrap();
    let count = read_all(&disk).unwrap().1.records.len();
    assert_eq!(count, 3);
}

#[test]
fn a_first_start_touches_nothing_that_is_not_its_own() {
    let disk = SimDisk::new();
    disk.set_content("wal/00000001", b"somebody else's log".to_vec());
    disk.set_content("wal/invoice.txt", b"42".to_vec());
    drop(create(
        &disk,
        &options(SEGMENT_BYTES, Mode::Always),
        &payloads(1, 2, 40),
    ));
    assert_eq!(
        disk.content("wal/00000001").unwrap(),
        b"somebody else's log"
    );
    assert_eq!(disk.content("wal/invoice.txt").unwrap(), b"42");
}

#[test]
fn the_shared_room_is_that_of_the_present_segment() {
    let (_disk, mut log) = log_of(Mode::Always, 1);
    let room = log.shared_room();
    for tag in 130..160 {
        append(&mut log, &payloads(tag, 1, 4_000));
        log.sync().unwrap();
        assert_eq!(
            room.load(std::sync::atomic::Ordering::SeqCst),
            log.room(),
            "batch {tag}"
        );
    }
    assert!(log.segment().number > 2);
}

#[test]
fn a_spare_is_made_by_one_at_a_time() {
    let dir = std::env::temp_dir().join(format!("ekokv-wal-spare-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let disk = Arc::new(ekokv_wal::RealDisk::create_root(&dir).unwrap());
    let records = common::records_of(&payloads(1, 1, 3_000));
    let draft = ekokv_wal::Draft {
        count: 1,
        time: 1,
        records: &records,
    };
    let options = options(SEGMENT_BYTES, Mode::Always);
    let mut log = Log::create(disk.clone(), options, |_| Ok(()), draft).unwrap();
    let spares = log.spares();
    // The maker of spares stands still in the midst of one while the log needs it.
    let (reached, stands) = std::sync::mpsc::channel();
    let (go, goes_on) = std::sync::mpsc::channel::<()>();
    let maker = std::thread::spawn(move || {
        spares.prepare(&mut || {
            reached.send(()).unwrap();
            // Until the other side has begun to wait, or has gone past without waiting.
            let _ = goes_on.recv_timeout(std::time::Duration::from_millis(200));
            true
        })
    });
    stands.recv().unwrap();
    for _ in 0..40 {
        log.append(draft).unwrap();
        log.sync().unwrap();
    }
    drop(go);
    maker.join().unwrap().unwrap();
    drop(log);
    let found = read_all(disk.as_ref()).unwrap().1;
    assert_eq!(
        found.records.len(),
        41,
        "nothing that was synced is overwritten by zeros"
    );
    std::fs::remove_dir_all(&dir).unwrap();
}
