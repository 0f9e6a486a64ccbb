//! The bytes of the format, pinned: a change here is a change of a promise, and needs a new version
//! and a migration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fmt::Write as _;

use std::sync::Arc;

use common::{append, create, options, payloads, read_all};
use ekokv_wal::{CELL_BYTES, Log, Mode, SimDisk, segment_path};

/// The cells of a file that are not all zeros, as offset and hexadecimal digits, 32 bytes a line.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, cell) in bytes.chunks(CELL_BYTES).enumerate() {
        if cell.iter().all(|byte| *byte == 0) {
            continue;
        }
        writeln!(text, "offset {}", index * CELL_BYTES).unwrap();
        for line in cell.chunks(32) {
            for byte in line {
                write!(text, "{byte:02x}").unwrap();
            }
            text.push('\n');
        }
    }
    text
}

fn undump(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    for line in text.lines() {
        if let Some(offset) = line.strip_prefix("offset ") {
            at = offset.parse().unwrap();
            continue;
        }
        for pair in line.as_bytes().chunks(2) {
            bytes[at] = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            at += 1;
        }
    }
    bytes
}

/// CRC-32 of a segment with a batch of three parity groups.
const MULTI_GROUP_CRC: u32 = 2_018_324_274;

/// Two batches, an interval run's header and an orderly end.
fn written() -> SimDisk {
    let disk = SimDisk::new();
    let mut log = create(
        &disk,
        &options(32 * 1024, Mode::Interval),
        &[b"first".to_vec(), b"second".to_vec()],
    );
    append(&mut log, &[vec![0xC3; 600]]);
    log.sync().unwrap();
    log.stop(3_000).unwrap();
    disk
}

/// The same, killed with a batch that was not synced, and started again: a second segment with a
/// predecessor, a batch written again, and a skip.
fn killed() -> SimDisk {
    let disk = SimDisk::new();
    let options = options(32 * 1024, Mode::Os);
    let mut log = create(&disk, &options, &[b"first".to_vec()]);
    append(&mut log, &[b"proven".to_vec()]);
    log.sync().unwrap();
    append(&mut log, &[b"doubtful".to_vec()]);
    drop(log);
    let (recovered, _) = read_all(&disk).unwrap();
    let log = Log::start(Arc::new(disk.clone()), *recovered.unwrap(), options, 7_000);
    drop(log.unwrap());
    disk
}

const SEGMENT: &str = include_str!("golden/segment.hex");
const AFTER_KILL: &str = include_str!("golden/segment-after-kill.hex");
const CURRENT: &str = include_str!("golden/current.hex");

#[test]
fn what_is_written_is_byte_for_byte_what_version_1_wrote() {
    let disk = written();
    assert_eq!(dump(&disk.content(&segment_path(1)).unwrap()), SEGMENT);
    assert_eq!(dump(&disk.content("CURRENT").unwrap()), CURRENT);
    let disk = killed();
    assert_eq!(dump(&disk.content(&segment_path(2)).unwrap()), AFTER_KILL);
}

#[test]
fn a_batch_of_several_parity_groups_is_byte_for_byte_the_same() {
    let disk = SimDisk::new();
    let mut log = create(
        &disk,
        &options(256 * 1024, Mode::Always),
        &[b"first".to_vec()],
    );
    // 130 000 bytes: a hexadecimal dump would say no more than this sum.
    append(&mut log, &payloads(3, 13, 10_000));
    log.sync().unwrap();
    let segment = disk.content(&segment_path(1)).unwrap();
    assert_eq!(crc32fast::hash(&segment), MULTI_GROUP_CRC);
}

#[test]
fn what_version_1_wrote_is_read() {
    let disk = SimDisk::new();
    disk.set_content(&segment_path(1), undump(SEGMENT, 32 * 1024));
    disk.set_content("CURRENT", undump(CURRENT, 8192));
    let (recovered, content) = read_all(&disk).unwrap();
    let recovered = recovered.unwrap();
    let expected = [
        (1, b"first".to_vec()),
        (2, b"second".to_vec()),
        (3, vec![0xC3; 600]),
    ];
    assert_eq!(content.records, expected);
    assert!(recovered.stopped && recovered.repairs.is_empty());
    assert_eq!((recovered.mode, recovered.time), (Mode::Interval, 3_000));
}

/// Writes the golden files anew: for a deliberate new version only.
#[test]
fn golden_files_are_complete() {
    if std::env::var_os("EKOKV_WRITE_GOLDEN").is_some() {
        let disk = written();
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        std::fs::write(
            dir.join("segment.hex"),
            dump(&disk.content(&segment_path(1)).unwrap()),
        )
        .unwrap();
        let after_kill = killed().content(&segment_path(2)).unwrap();
        std::fs::write(dir.join("segment-after-kill.hex"), dump(&after_kill)).unwrap();
        std::fs::write(
            dir.join("current.hex"),
            dump(&disk.content("CURRENT").unwrap()),
        )
        .unwrap();
    }
    assert_eq!(
        SEGMENT.matches("offset ").count(),
        9,
        "2 header cells, batches of 2, 3 and 2"
    );
    assert_eq!(CURRENT.matches("offset ").count(), 2);
    assert_eq!(
        AFTER_KILL.matches("offset ").count(),
        6,
        "2 header cells, 2 batches of 2"
    );
}
