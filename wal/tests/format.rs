//! The bytes of the format, pinned: a change here is a change of a promise, and needs a new version
//! and a migration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fmt::Write as _;

use common::{append, create, options, read_all};
use ekokv_wal::{CELL_BYTES, Mode, SimDisk, segment_path};

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

const SEGMENT: &str = include_str!("golden/segment.hex");
const CURRENT: &str = include_str!("golden/current.hex");

#[test]
fn what_is_written_is_byte_for_byte_what_version_1_wrote() {
    let disk = written();
    assert_eq!(dump(&disk.content(&segment_path(1)).unwrap()), SEGMENT);
    assert_eq!(dump(&disk.content("CURRENT").unwrap()), CURRENT);
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
}
